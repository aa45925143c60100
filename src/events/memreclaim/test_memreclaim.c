// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/clock.h"
#include "core/event.h"
#include "core/test_record.h"
#include "events/memreclaim/memreclaim.h"
#include "events/memreclaim/window.h"
#include "kernel/kernel.h"

static const struct event *memreclaim;

/* ------------------------------------------------------------------ the sliding time */

#define SLICE_NS              (NS_PER_SEC / WINDOW_SLICES)
#define WITHIN_NS             (SLICE_NS * WINDOW_SLICES)
/* Inside of a slice the sum is taken for a straight line: a quarter of one for each thread is the
 * worst. Begin and end of calls are known to 1024 ns. */
#define TOLERANCE_NS(threads) ((threads) * (SLICE_NS / 4 + 20 * NS_PER_US))
#define START_NS              (1000 * NS_PER_SEC + 123456789)
#define CALLS_MAX             4096

struct call {
    uint64_t begin, end; /* from START_NS */
};

/** What the BPF programs do, one call after the other. */
struct run {
    struct window window;
    struct window_peak highest; /* of all times */
    struct call calls[CALLS_MAX];
    unsigned n;
};

static struct run *new_run(void)
{
    struct run *run = calloc(1, sizeof(*run));

    assert_non_null(run);
    window_init(&run->window, START_NS, SLICE_NS);
    return run;
}

static void take(struct run *run, const struct window_peak *peak)
{
    if (peak->busy_ns > run->highest.busy_ns)
        run->highest = *peak;
}

static void at(struct run *run, uint64_t when)
{
    struct window_peak peak = {}, until_now;

    window_advance(&run->window, START_NS + when, &peak);
    take(run, &peak);
    window_now(&run->window, START_NS + when, &until_now);
    take(run, &until_now);
}

static uint64_t enter(struct run *run, uint64_t when)
{
    uint64_t token;

    at(run, when);
    token = window_token(&run->window, START_NS + when);
    window_enter(&run->window, token);
    return token;
}

static void leave(struct run *run, uint64_t token, uint64_t begin, uint64_t when)
{
    struct window_peak peak = {};

    window_advance(&run->window, START_NS + when, &peak);
    take(run, &peak);
    window_leave(&run->window, token, when - begin);
    run->calls[run->n++] = (struct call){begin, when};
    at(run, when);
}

static uint64_t sliding(const struct run *run, uint64_t when)
{
    struct window_peak now;

    window_now(&run->window, START_NS + when, &now);
    return now.busy_ns;
}

/** The same, call by call. */
static uint64_t exact(const struct run *run, uint64_t from, uint64_t to)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < run->n; i++) {
        uint64_t begin = MAX(run->calls[i].begin, from), end = MIN(run->calls[i].end, to);

        sum += end > begin ? end - begin : 0;
    }
    return sum;
}

static void expect_about(uint64_t found, uint64_t expected, uint64_t tolerance)
{
    if (found + tolerance < expected || found > expected + tolerance)
        fail_msg("%llu ns, not %llu (give or take %llu)", (unsigned long long)found,
                 (unsigned long long)expected, (unsigned long long)tolerance);
}

#define MS(n) ((uint64_t)(n)*NS_PER_MS)

static void test_one_call(void **state)
{
    _free_ struct run *run = new_run();
    uint64_t token = enter(run, MS(500));

    (void)state;
    /* In the middle of it, though nothing has happened since it began. */
    at(run, MS(1399));
    expect_about(sliding(run, MS(1399)), MS(899), 2000);
    assert_true(run->highest.busy_ns < MS(900));
    at(run, MS(1401));
    expect_about(run->highest.busy_ns, MS(901), 2000);
    assert_int_equal(run->highest.from.busy_ns, 0);
    leave(run, token, MS(500), MS(1450));
    expect_about(window_busy(&run->window, START_NS + MS(1450)), MS(950), 0);
    assert_int_equal(window_count_inside(&run->window), 0);
    /* It slides out again, and is forgotten. */
    at(run, MS(2000));
    expect_about(sliding(run, MS(2000)), MS(450), TOLERANCE_NS(1));
    at(run, MS(2500));
    assert_int_equal(sliding(run, MS(2500)), 0);
    expect_about(run->highest.busy_ns, MS(950), 2000);
}

/** Nobody looked while it lasted: the sum is that of its last second, not all of it. */
static void test_a_call_longer_than_the_time(void **state)
{
    _free_ struct run *run = new_run();
    uint64_t token = enter(run, MS(10));

    (void)state;
    leave(run, token, MS(10), MS(5010));
    expect_about(sliding(run, MS(5010)), WITHIN_NS, SLICE_NS / 1000);
    expect_about(run->highest.busy_ns, WITHIN_NS, SLICE_NS / 1000);
    expect_about(window_busy(&run->window, START_NS + MS(5010)), MS(5000), 0);
    /* And what was before a long silence has nothing to do with what is after it. */
    token = enter(run, MS(60000));
    run->highest = (struct window_peak){};
    leave(run, token, MS(60000), MS(60300));
    expect_about(run->highest.busy_ns, MS(300), 2000);
}

/** 850 ms in each second, for ever, is below 900; and single calls of 1.4 s apart are above. */
static void test_a_part_of_the_time(void **state)
{
    _free_ struct run *below = new_run(), *above = new_run();

    (void)state;
    for (uint64_t t = 0; t < MS(20000); t += MS(20)) {
        uint64_t token = enter(below, t);

        leave(below, token, t, t + MS(17));
        token = enter(above, t);
        leave(above, token, t, t + MS(19));
    }
    expect_about(below->highest.busy_ns, MS(850), MS(17) / 4 + MS(2));
    assert_true(below->highest.busy_ns < MS(900));
    expect_about(above->highest.busy_ns, MS(950), MS(17) / 4 + MS(2));
    assert_true(above->highest.busy_ns > MS(900));
}

/** 600 ms, a pause of 500, and 600 again are 1200 ms in 1700, but never 900 in a second. */
static void test_it_slides(void **state)
{
    _free_ struct run *run = new_run();
    uint64_t token = enter(run, MS(0));

    (void)state;
    leave(run, token, MS(0), MS(600));
    token = enter(run, MS(1100));
    leave(run, token, MS(1100), MS(1700));
    expect_about(run->highest.busy_ns, MS(600), TOLERANCE_NS(1));
    /* With a pause of 100 they are, whatever the seconds of the clock. */
    token = enter(run, MS(3000));
    leave(run, token, MS(3000), MS(3600));
    token = enter(run, MS(3700));
    leave(run, token, MS(3700), MS(4300));
    expect_about(run->highest.busy_ns, MS(900), TOLERANCE_NS(1));
}

/** What has been told of is not told of again. */
static void test_forgotten(void **state)
{
    _free_ struct run *run = new_run();
    uint64_t token = enter(run, MS(0)), other;

    (void)state;
    leave(run, token, MS(0), MS(500));
    other = enter(run, MS(550));
    at(run, MS(600));
    window_forget(&run->window, START_NS + MS(600));
    run->highest = (struct window_peak){};
    assert_int_equal(sliding(run, MS(600)), 0);
    /* Who is inside goes on to be, from now on. */
    leave(run, other, MS(550), MS(700));
    expect_about(run->highest.busy_ns, MS(100), 2000);
    expect_about(window_busy(&run->window, START_NS + MS(700)), MS(650), 2000);
}

static void test_threads_are_added(void **state)
{
    _free_ struct run *run = new_run();
    uint64_t tokens[9];

    (void)state;
    for (unsigned i = 0; i < 9; i++)
        tokens[i] = enter(run, i);
    assert_int_equal(window_count_inside(&run->window), 9);
    for (unsigned i = 0; i < 9; i++)
        leave(run, tokens[i], i, MS(100) + i);
    expect_about(run->highest.busy_ns, MS(900), 10000);
    assert_int_equal(window_count_inside(&run->window), 0);
    assert_int_equal(run->window.inside, 0);
}

/**
 * The highest sum may lie between two calls, and be past when the next comes: three that were
 * inside together slide out faster than the one that is inside comes in.
 */
static void test_the_highest_was_before(void **state)
{
    _free_ struct run *run = new_run();
    uint64_t a, others[3];

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        others[i] = enter(run, MS(100));
    for (unsigned i = 0; i < 3; i++)
        leave(run, others[i], MS(100), MS(250));
    a = enter(run, MS(600));
    leave(run, a, MS(600), MS(1300));
    expect_about(exact(run, MS(1300) - WITHIN_NS, MS(1300)), MS(700), NS_PER_MS);
    expect_about(sliding(run, MS(1300)), MS(700), TOLERANCE_NS(3));
    /* At 1100 ms it was 500 + 450. */
    expect_about(run->highest.busy_ns, MS(950), TOLERANCE_NS(3));
    expect_about(run->highest.from_ns, START_NS + MS(100), 2 * SLICE_NS);
}

/** Any schedule: never more than there was in any second, and not much less. */
static void test_against_the_sum_of_calls(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 24; seed++) {
        _free_ struct run *run = new_run();
        struct {
            uint64_t token, begin;
            bool inside;
        } threads[6] = {};
        unsigned n = 1 + seed % 6, random = seed;
        uint64_t t = 0, best = 0, end;

        while (run->n < 300) {
            unsigned who = (unsigned)rand_r(&random) % n;
            uint64_t pause = (uint64_t)rand_r(&random) % MS(seed % 3 ? 60 : 4);

            t += rand_r(&random) % 50 == 0 ? 30 * pause : pause; /* now and then a long one */
            if (!threads[who].inside) {
                threads[who].begin = t;
                threads[who].token = enter(run, t);
            } else {
                leave(run, threads[who].token, threads[who].begin, t);
            }
            threads[who].inside = !threads[who].inside;
        }
        for (unsigned who = 0; who < n; who++)
            if (threads[who].inside)
                leave(run, threads[who].token, threads[who].begin, t);
        end = t;
        for (uint64_t to = 0; to <= end + NS_PER_MS; to += NS_PER_MS)
            best = MAX(best, exact(run, to > WITHIN_NS ? to - WITHIN_NS : 0, to));
        if (run->highest.busy_ns > best + TOLERANCE_NS(n) ||
            run->highest.busy_ns + TOLERANCE_NS(n) + n * SLICE_NS / 2 < best)
            fail_msg("seed %u: %llu ns, not %llu", seed, (unsigned long long)run->highest.busy_ns,
                     (unsigned long long)best);
        assert_int_equal(run->window.inside, 0);
        assert_int_equal(run->window.done.busy_ns, exact(run, 0, end));
    }
}

/** On several CPUs at the same time: nothing is left inside, and nothing is lost. */
static struct window shared;
#define SHARED_THREADS 4
#define SHARED_CALLS   20000

static void *reclaim(void *sum)
{
    for (unsigned i = 0; i < SHARED_CALLS; i++) {
        uint64_t begin = clock_now_ns(CLOCK_BOOTTIME), now;
        uint64_t token = window_token(&shared, begin);
        struct window_peak peak = {};

        window_advance(&shared, begin, &peak);
        window_enter(&shared, token);
        now = clock_now_ns(CLOCK_BOOTTIME);
        window_advance(&shared, now, &peak);
        window_leave(&shared, token, now - begin);
        *(uint64_t *)sum += now - begin;
        assert_true(peak.busy_ns <= SHARED_THREADS * 11 * WITHIN_NS / 10);
    }
    return NULL;
}

static void test_at_the_same_time(void **state)
{
    pthread_t threads[SHARED_THREADS];
    uint64_t sums[SHARED_THREADS] = {}, sum = 0;

    (void)state;
    shared = (struct window){};
    window_init(&shared, clock_now_ns(CLOCK_BOOTTIME), NS_PER_MS);
    for (unsigned i = 0; i < SHARED_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reclaim, &sums[i]), 0);
    for (unsigned i = 0; i < SHARED_THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum += sums[i];
    }
    assert_int_equal(shared.inside, 0);
    assert_int_equal(shared.done.busy_ns, sum);
}

/* ------------------------------------------------------------------ a kernel of our own */

#define TEXT_START    UINT64_C(0xffffffff81000000)
#define FUNCTION_SIZE UINT64_C(0x1000)

static const char *const functions[] = {"try_to_free_mem_cgroup_pages", "try_charge_memcg",
                                        "memory_max_write", "memory_high_write"};
enum function { FREE_PAGES, TRY_CHARGE, MAX_WRITE, HIGH_WRITE };

static char root[] = "/tmp/test_memreclaim.XXXXXX";
static struct kernel kernel;

static uint64_t inside_of(enum function f)
{
    return TEXT_START + f * FUNCTION_SIZE + 0x20;
}

static void make_file(const char *path, const char *text)
{
    char whole[512];
    FILE *f;

    for (const char *s = path + 1; (s = strchr(s, '/')); s++) {
        snprintf(whole, sizeof(whole), "%s%.*s", root, (int)(s - path), path);
        mkdir(whole, 0700);
    }
    snprintf(whole, sizeof(whole), "%s%s", root, path);
    f = fopen(whole, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int set_up_kernel(void **state)
{
    int fd = memfd_create("kallsyms", MFD_CLOEXEC);

    (void)state;
    memreclaim = event_find("memreclaim");
    if (!memreclaim || fd < 0 || !mkdtemp(root))
        return -1;
    for (size_t i = 0; i <= ARRAY_SIZE(functions); i++)
        dprintf(fd, "%016llx t %s\n", (unsigned long long)(TEXT_START + i * FUNCTION_SIZE),
                i < ARRAY_SIZE(functions) ? functions[i] : "_etext");
    return symbols_new(fd, &kernel.symbols);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static int tear_down_kernel(void **state)
{
    (void)state;
    symbols_free(kernel.symbols);
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ------------------------------------------------------------------ decode */

#define CONTAINER "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define DATA      "tracer_data"

static struct memreclaim_wire *some_wire(void)
{
    struct memreclaim_wire *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    *w = (struct memreclaim_wire){
        .head =
            {
                .time_ns = 100 * NS_PER_SEC,
                .pid = 4711,
                .tid = 4715,
                .ppid = 4700,
                .uid = 1000,
                .comm = "java",
                .stack_bytes = 16,
                .stack = {inside_of(FREE_PAGES), inside_of(TRY_CHARGE)},
            },
        .cgroup = {.css = 0xffff888000002000, .n_names = 2, .unified = 1},
        .entry_ns = 98 * NS_PER_SEC,
        .until_ns = 100 * NS_PER_SEC,
        .reclaim_ns = 1412702917,
        .reclaimed = 1000,
        .scanned = 1500,
        .memcg_calls = 31,
        .threshold_ns = MS(900),
        .within_ns = NS_PER_SEC,
        .worst_ns = MS(800),
        .worst_tid = 4716,
        .worst_comm = "GC Thread#0",
        .limit_css = 0xffff888000001000,
        .usage = 8190,
        .max = 8192,
        .high = MEMRECLAIM_UNLIMITED,
        .limit_level = 1,
    };
    memcpy(w->cmdline, "java\0-jar\0a b", 14);
    w->cmdline_bytes = 14;
    strcpy(w->cgroup.names[0], CONTAINER);
    strcpy(w->cgroup.names[1], "pod");
    return w;
}

static void container_id(const char *path, char ret[DOC_CONTAINER_LEN + 1])
{
    snprintf(ret, DOC_CONTAINER_LEN + 1, "%s", strstr(path, CONTAINER) ? CONTAINER : "");
}

#define REALTIME_NS (UINT64_C(1700000000) * NS_PER_SEC)

/** NULL: it was refused with `*ret`. */
static json_t *decode(const struct memreclaim_wire *w, int *ret)
{
    const struct decode d = {.kernel = &kernel, .container_id = container_id};

    return decode_json(memreclaim, &d, w, REALTIME_NS, ret);
}

static json_t *decode_fine(const struct memreclaim_wire *w)
{
    int r;
    json_t *json = decode(w, &r);

    assert_int_equal(r, 0);
    return json;
}

static json_t *get(json_t *json, const char *object, const char *key)
{
    return json_object_get(object ? json_object_get(json, object) : json, key);
}

static void expect_summary(const struct memreclaim_wire *w, const char *expected)
{
    json_t *json = decode_fine(w);

    expect_text(json, "summary", expected);
    json_decref(json);
}

static void test_decode(void **state)
{
    static const char *const spec[] = {"comm", "pid", "deltatime"};
    _free_ struct memreclaim_wire *w = some_wire();
    const json_int_t page = sysconf(_SC_PAGESIZE);
    char entry[CLOCK_TEXT_MAX];
    size_t i = 0;
    const char *key;
    json_t *json = decode_fine(w), *value;

    (void)state;
    json_object_foreach(data_of(json), key, value)
    {
        if (i < ARRAY_SIZE(spec))
            assert_string_equal(key, spec[i++]);
    }
    expect_text(json, "tracer_name", "directreclaim");
    expect_text(data_of(json), "comm", "java");
    expect_number(data_of(json), "pid", 4711);
    expect_number(data_of(json), "deltatime", 1412702917);
    clock_format_ms(REALTIME_NS - 2 * NS_PER_SEC, entry);
    expect_text(data_of(json), "entry_time", entry);
    expect_number(data_of(json), "duration_ns", 2 * NS_PER_SEC);
    assert_true(json_is_false(get(json, DATA, "ongoing")));
    expect_number(data_of(json), "threshold_ns", MS(900));
    expect_number(data_of(json), "within_ns", NS_PER_SEC);
    expect_text(data_of(json), "scope", "memcg");
    expect_number(data_of(json), "memcg_calls", 31);
    expect_number(data_of(json), "global_calls", 0);
    expect_number(data_of(json), "pages_reclaimed", 1000);
    expect_number(data_of(json), "pages_scanned", 1500);
    expect_number(data_of(json), "worst_tid", 4716);
    expect_text(data_of(json), "worst_comm", "GC Thread#0");
    expect_number(data_of(json), "worst_ns", MS(800));
    expect_text(data_of(json), "memcg_css", "0xffff888000002000");
    expect_text(data_of(json), "limit_cgroup", "/pod");
    expect_text(data_of(json), "limit_memcg_css", "0xffff888000001000");
    expect_text(data_of(json), "limit_of", "memory.max");
    expect_number(data_of(json), "limit_bytes", 8192 * page);
    expect_number(data_of(json), "usage_bytes", 8190 * page);
    expect_text(data_of(json), "stack",
                "try_to_free_mem_cgroup_pages/ffffffff81000000 [kernel]\n"
                "try_charge_memcg/ffffffff81001000 [kernel]");

    expect_text(json, "container_id", CONTAINER);
    expect_text(json, "container_found_by", "cgroup");
    expect_text(json, "cgroup", "/pod/" CONTAINER);
    expect_number(json_object_get(json, "process"), "pid", 4711);
    expect_number(json_object_get(json, "process"), "tid", 4715);
    expect_number(json_object_get(json, "process"), "ppid", 4700);
    expect_number(json_object_get(json, "process"), "uid", 1000);
    expect_text(json_object_get(json, "process"), "comm", "java");
    expect_text(json_object_get(json, "process"), "cmdline", "java -jar 'a b'");
    if (page == 4096)
        expect_text(json, "summary",
                    "java[4711] was in direct reclaim for 1.41 s within 2.00 s, freeing memory for "
                    "the limit of cgroup /pod (memory.max 32.0 MiB); 800 ms of it in its thread "
                    "GC Thread#0[4716]");
    json_decref(json);
}

static void test_whose_limit(void **state)
{
    _free_ struct memreclaim_wire *w = some_wire();
    const json_int_t page = sysconf(_SC_PAGESIZE);
    json_t *json;

    (void)state;
    w->high = 4096;
    w->limit_level = 0;
    json = decode_fine(w);
    expect_text(data_of(json), "limit_of", "memory.high");
    expect_number(data_of(json), "limit_bytes", 4096 * page);
    expect_text(data_of(json), "limit_cgroup", "/pod/" CONTAINER);
    json_decref(json);

    w->cgroup.unified = 0;
    w->high = MEMRECLAIM_UNLIMITED;
    json = decode_fine(w);
    expect_text(data_of(json), "limit_of", "memory.limit_in_bytes");
    expect_number(data_of(json), "limit_bytes", 8192 * page);
    json_decref(json);

    w->limit_css = 0;
    json = decode_fine(w);
    assert_null(get(json, DATA, "limit_of"));
    assert_null(get(json, DATA, "limit_bytes"));
    expect_text(data_of(json), "scope", "memcg");
    json_decref(json);
}

static void test_scopes_and_summaries(void **state)
{
    _free_ struct memreclaim_wire *w = some_wire();
    json_t *json;

    (void)state;
    w->worst_tid = 4711;
    w->memcg_calls = 0;
    w->global_calls = 2;
    w->reclaim_ns = MS(950);
    w->entry_ns = w->until_ns - MS(999);
    w->scanned = 0; /* while pages were reclaimed: nobody counted */
    json = decode_fine(w);
    expect_text(data_of(json), "scope", "global");
    assert_null(get(json, DATA, "limit_of")); /* near it or not, that was not why */
    assert_null(get(json, DATA, "pages_scanned"));
    json_decref(json);
    expect_summary(w, "java[4711] was in direct reclaim for 950 ms within 999 ms, freeing memory "
                      "because the host is short of memory");

    w->memcg_calls = 1;
    w->limit_css = 0;
    json = decode_fine(w);
    expect_text(data_of(json), "scope", "both");
    json_decref(json);

    w->memcg_calls = w->global_calls = 0;
    w->ongoing = 1;
    json = decode_fine(w);
    assert_true(json_is_true(get(json, DATA, "ongoing")));
    expect_text(data_of(json), "scope", "unknown");
    json_decref(json);
    expect_summary(w, "java[4711] was in direct reclaim for 950 ms within 999 ms and still is, "
                      "freeing memory before it could go on");
}

static void test_nothing_known(void **state)
{
    _free_ struct memreclaim_wire *w = calloc(1, sizeof(*w));
    json_t *json;

    (void)state;
    assert_non_null(w);
    w->head.stack_bytes = -14;
    json = decode_fine(w);
    expect_text(data_of(json), "memcg_css", "0x0");
    expect_text(data_of(json), "stack", "");
    json_decref(json);
}

static void test_bad_bytes(void **state)
{
    _free_ struct memreclaim_wire *w = some_wire();
    int r;

    (void)state;
#define REFUSES(change)                                                                            \
    do {                                                                                           \
        const struct memreclaim_wire saved = *w;                                                   \
        change;                                                                                    \
        assert_null(decode(w, &r));                                                                \
        assert_int_equal(r, -EBADMSG);                                                             \
        *w = saved;                                                                                \
    } while (0)
    REFUSES(w->head.stack_bytes = 8 * WIRE_STACK_MAX + 8);
    REFUSES(w->entry_ns = w->until_ns + 1);
    REFUSES(w->ongoing = 2);
    REFUSES(w->limit_level = CGROUP_NAMES_MAX);
    REFUSES(w->cmdline_bytes = -1);
    REFUSES(w->cmdline_bytes = MEMRECLAIM_CMDLINE_MAX + 1);
    REFUSES(w->cgroup.n_names = CGROUP_NAMES_MAX + 1);
    REFUSES(w->cgroup.unified = 2);
    REFUSES(strcpy(w->cgroup.names[0], ".."));
    REFUSES(strcpy(w->cgroup.names[1], "a/b"));
}

static void test_hostile_names(void **state)
{
    _free_ struct memreclaim_wire *w = some_wire();
    json_t *json;

    (void)state;
    memcpy(w->head.comm, "\xff\"\\\n\x1b[31m\x07</x>aa", WIRE_COMM_LEN);
    memcpy(w->worst_comm, "\x80%s%n\r\t\"',:{}[]", WIRE_COMM_LEN);
    memcpy(w->cgroup.names[1], "\x1b]0;\n\"%n", 9);
    json = decode_fine(w);
    assert_non_null(strstr(json_string_value(get(json, NULL, "summary")), "%s%n"));
    json_decref(json);
}

/** Any bytes: refused, or a record. */
static void test_any_bytes(void **state)
{
    _free_ struct memreclaim_wire *w = some_wire(), *base = some_wire();
    unsigned random = 1, n_fine = 0;

    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        unsigned n = 1 + (unsigned)rand_r(&random) % 8;
        json_t *json;
        int r;

        *w = *base;
        for (unsigned i = 0; i < n; i++)
            ((uint8_t *)w)[(unsigned)rand_r(&random) % sizeof(*w)] = (uint8_t)rand_r(&random);
        if (round % 16 == 0)
            for (size_t i = 0; i < sizeof(*w); i++)
                ((uint8_t *)w)[i] = (uint8_t)rand_r(&random);
        json = decode(w, &r);
        assert_true(json || r == -EBADMSG);
        n_fine += json != NULL;
        json_decref(json);
    }
    assert_true(n_fine > 10000 && n_fine < 20000);
}

/* ------------------------------------------------------------------ settings, rules, files */

static void configure(const char *key, const char *text, struct memreclaim_settings *ret,
                      char rule[32])
{
    _free_ void *options = calloc(1, memreclaim->options_size);
    const struct decode d = {.kernel = &kernel, .options = options};
    char error[256] = "";

    assert_non_null(options);
    assert_int_equal(option_defaults(memreclaim->options, options), 0);
    if (key)
        assert_int_equal(option_parse(option_find(memreclaim->options, key), text, options, error,
                                      sizeof(error)),
                         0);
    assert_int_equal(memreclaim->configure(&d, ret, error, sizeof(error)), 0);
    assert_string_equal(error, "");
    assert_string_equal(memreclaim->rule_name(options, MEMRECLAIM_RULE_OWN), "");
    assert_null(memreclaim->rule_name(options, MEMRECLAIM_RULE_NR));
    snprintf(rule, 32, "%s", memreclaim->rule_name(options, MEMRECLAIM_RULE_REQUESTED));
    option_done(memreclaim->options, options);
}

static bool is_requested(const struct memreclaim_settings *s, uint64_t address)
{
    for (size_t i = 0; i < MEMRECLAIM_RANGES_MAX && s->requested[i].size; i++)
        if (address - s->requested[i].start < s->requested[i].size)
            return true;
    return false;
}

static void test_settings(void **state)
{
    struct memreclaim_settings s = {};
    char rule[32];

    (void)state;
    configure(NULL, NULL, &s, rule);
    assert_int_equal(s.threshold_ns, MS(900));
    assert_int_equal(s.slice_ns, NS_PER_SEC / WINDOW_SLICES);
    assert_int_equal(s.ongoing_ns, 10 * NS_PER_SEC);
    assert_string_equal(rule, "requested");
    assert_true(is_requested(&s, inside_of(MAX_WRITE)));
    assert_true(is_requested(&s, inside_of(HIGH_WRITE)));
    assert_false(is_requested(&s, inside_of(TRY_CHARGE)));
    assert_false(is_requested(&s, inside_of(FREE_PAGES)));
    assert_false(is_requested(&s, 0));
    configure("requested", "true", &s, rule);
    assert_string_equal(rule, "");
    assert_false(is_requested(&s, inside_of(MAX_WRITE)));
    configure("threshold", "50ms", &s, rule);
    assert_int_equal(s.threshold_ns, MS(50));
    configure("within", "2s", &s, rule);
    assert_int_equal(s.within_ns, 2 * NS_PER_SEC);
    assert_int_equal(s.slice_ns, 2 * NS_PER_SEC / WINDOW_SLICES);
    configure("ongoing_after", "1s", &s, rule);
    assert_int_equal(s.ongoing_ns, NS_PER_SEC);
}

static void test_bounds(void **state)
{
    static const char *const bad[][2] = {
        {"threshold", "0"}, {"threshold", "61s"},      {"within", "99ms"},
        {"within", "11s"},  {"ongoing_after", "10ms"}, {"ongoing_after", "2h"},
    };
    _free_ void *options = calloc(1, memreclaim->options_size);
    char error[256];

    (void)state;
    assert_non_null(options);
    assert_int_equal(option_defaults(memreclaim->options, options), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_true(option_parse(option_find(memreclaim->options, bad[i][0]), bad[i][1], options,
                                 error, sizeof(error)) < 0);
    option_done(memreclaim->options, options);
}

static json_t *collect(const struct memreclaim_wire *w, int *ret)
{
    const struct collect c = {.root_prefix = root};
    _cleanup_(record_freep) struct record *part = NULL;
    json_t *json = NULL;

    assert_int_equal(record_new(&test_origin, memreclaim, 0, 1, &part), 0);
    *ret = memreclaim->collect(&c, w, part);
    if (*ret == 0)
        json = finish_json(part);
    return json;
}

static void test_collect(void **state)
{
    _free_ struct memreclaim_wire *w = some_wire();
    json_t *json, *data;
    int r;

    (void)state;
    make_file("/proc/self/mountinfo",
              "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
    make_file("/proc/meminfo", "MemTotal: 100 kB\n");
    make_file("/sys/fs/cgroup/pod/memory.stat", "anon 1\nfile 2\n");
    make_file("/sys/fs/cgroup/pod/memory.events", "high 3\nmax 4\n");
    json = collect(w, &r);
    data = data_of(json);
    expect_number(json_object_get(data, "memory_stat"), "file",
                  2); /* of the cgroup whose limit it is */
    expect_number(json_object_get(data, "memory_events"), "max", 4);
    assert_null(json_object_get(data, "meminfo"));
    json_decref(json);

    w->global_calls = 1;
    w->memcg_calls = 0;
    json = collect(w, &r);
    data = data_of(json);
    expect_number(json_object_get(data, "meminfo"), "MemTotal", 102400);
    assert_null(json_object_get(data, "memory_stat"));
    json_decref(json);

    w->memcg_calls = 1; /* a cgroup that has gone is no failure */
    strcpy(w->cgroup.names[1], "gone");
    json = collect(w, &r);
    assert_int_equal(r, 0);
    expect_number(json_object_get(data_of(json), "meminfo"), "MemTotal", 102400);
    json_decref(json);

    strcpy(w->cgroup.names[1], "..");
    assert_null(collect(w, &r));
    assert_int_equal(r, -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_call),
        cmocka_unit_test(test_a_call_longer_than_the_time),
        cmocka_unit_test(test_a_part_of_the_time),
        cmocka_unit_test(test_it_slides),
        cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_threads_are_added),
        cmocka_unit_test(test_the_highest_was_before),
        cmocka_unit_test(test_against_the_sum_of_calls),
        cmocka_unit_test(test_at_the_same_time),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_whose_limit),
        cmocka_unit_test(test_scopes_and_summaries),
        cmocka_unit_test(test_nothing_known),
        cmocka_unit_test(test_bad_bytes),
        cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_collect),
    };

    return cmocka_run_group_tests_name("memreclaim", tests, set_up_kernel, tear_down_kernel);
}
