// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/event.h"
#include "core/test_folder.h"
#include "core/test_record.h"
#include "events/softlockup/softlockup.h"
#include "kernel/kernel.h"

/* --- a kernel of our own: functions of 4 KiB one after the other */

#define TEXT_START    UINT64_C(0xffffffff81000000)
#define FUNCTION_SIZE UINT64_C(0x1000)

static const char *const functions[] = {
    "printk_sprint", "watchdog_timer_fn", "__hrtimer_run_queues", "asm_sysvec_apic_timer_interrupt",
    "xfs_loop",      "__do_softirq",      "do_syscall_64",        "watchdog_timer_fn.cold",
};
enum function { PRINTK, WATCHDOG, HRTIMER, INTERRUPT, LOOP, SOFTIRQ, SYSCALL, COLD };

static struct kernel kernel, hidden;
static const struct event *softlockup;
static char root[] = "/tmp/test_softlockup.XXXXXX";

static uint64_t start_of(enum function f)
{
    return TEXT_START + f * FUNCTION_SIZE;
}

static struct symbols *make_symbols(bool shown)
{
    int fd = memfd_create("kallsyms", MFD_CLOEXEC);
    struct symbols *symbols = NULL;

    assert_true(fd >= 0);
    for (size_t i = 0; i <= ARRAY_SIZE(functions); i++)
        dprintf(fd, "%016llx t %s\n",
                shown ? (unsigned long long)(TEXT_START + i * FUNCTION_SIZE) : 0,
                i < ARRAY_SIZE(functions) ? functions[i] : "_etext");
    assert_int_equal(symbols_new(fd, &symbols), 0);
    return symbols;
}

static int set_up(void **state)
{
    (void)state;
    softlockup = event_find("softlockup");
    if (!softlockup || !mkdtemp(root))
        return -1;
    kernel.symbols = make_symbols(true);
    hidden.symbols = make_symbols(false);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    symbols_free(kernel.symbols);
    symbols_free(hidden.symbols);
    return test_remove_folder(root);
}

/** Its option struct as the defaults make it; only what decode() and configure() read is here. */
struct options {
    struct event_options common;
    bool cpu_stacks;
    uint64_t min_duration;
};

/** xorshift: the same bytes each time. */
static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* --- the kernel's line */

static int parse(const char *line, struct said *ret)
{
    char text[SAID_TEXT_MAX] = {};

    memcpy(text, line, MIN(strlen(line), sizeof(text) - 1));
    memset(ret, 0xff, sizeof(*ret));
    return said_parse(text, ret);
}

static void test_said(void **state)
{
    static const struct {
        const char *line;
        uint32_t cpu, seconds, begin;
    } rows[] = {
        /* 5.19 and later: as it is. */
        {"watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [burn:146]", 1, 22, 0},
        {"watchdog: BUG: soft lockup - CPU#4095 stuck for 100000000s! [a b:1]", 4095, 100000000, 0},
        {"watchdog: BUG: soft lockup - CPU#0 stuck for 0s! []]s! [:0]\n", 0, 0, 0},
        /* Before: with the time, or who called, or both, or neither (printk.time=0). */
        {"[  209.681234] watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [kworker/3:1:57]\n", 3,
         23, 15},
        {"[12345678.681234][ T1234] watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [x:57]", 3,
         23, 26},
        {"[   C17] watchdog: BUG: soft lockup - CPU#17 stuck for 23s! [x:57]", 17, 23, 9},
    };
    static const char *const others[] = {
        "",
        "w",
        "watchdog: BUG: soft lockup - CPU#",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22s",
        "watchdog: BUG: soft lockup - CPU# stuck for 22s! [a:1]",
        "watchdog: BUG: soft lockup - CPU#1 stuck for s! [a:1]",
        "watchdog: BUG: soft lockup - CPU#-1 stuck for 22s! [a:1]",
        "watchdog: BUG: soft lockup - CPU#4096 stuck for 22s! [a:1]",
        "watchdog: BUG: soft lockup - CPU#4294967297 stuck for 22s! [a:1]",
        "watchdog: BUG: soft lockup - CPU#99999999999999999999 stuck for 22s! [a:1]",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 99999999999s! [a:1]",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 100000001s! [a:1]",
        "watchdog: BUG: soft lockup - CPU#1 stuck  for 22s! [a:1]",
        "BUG: soft lockup - CPU#1 stuck for 22s! [a:1]",
        "watchdog: Watchdog detected hard LOCKUP on cpu 1",
        "watchdog: BUG: Soft lockup - CPU#1 stuck for 22s! [a:1]",
        /* A process of such a name is killed, or a device is called so. */
        "Killed process 1 (watchdog: BUG: ) watchdog: BUG: soft lockup - CPU#1 stuck for 22s! "
        "[a:1]",
        "xwatchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:1]",
        " watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:1]",
        "[                                                 ] "
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:1]",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct said said;

        if (parse(rows[i].line, &said) != 1)
            fail_msg("not understood: %s", rows[i].line);
        assert_int_equal(said.cpu, rows[i].cpu);
        assert_int_equal(said.seconds, rows[i].seconds);
        assert_int_equal(said.begin, rows[i].begin);
    }
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        struct said said;

        if (parse(others[i], &said) != 0)
            fail_msg("taken for a lockup: %s", others[i]);
    }
}

static void test_said_any_bytes(void **state)
{
    uint64_t seed = 7;
    static const char line[] = "[  1.5] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:1]";

    (void)state;
    for (unsigned n = 0; n < 100000; n++) {
        _free_ char *text = calloc(1, SAID_TEXT_MAX); /* by itself: what is read beyond is found */
        struct said said = {};

        memcpy(text, line, sizeof(line));
        for (unsigned changes = next_random(&seed) % 4 + 1; changes > 0; changes--)
            text[next_random(&seed) % SAID_TEXT_MAX] = (char)next_random(&seed);
        if (n % 3 == 0)
            memset(text, (int)(next_random(&seed) & 0xff), SAID_TEXT_MAX);
        if (said_parse(text, &said)) {
            assert_true(said.cpu < SAID_CPUS_MAX);
            assert_true(said.seconds <= SAID_SECONDS_MAX);
            assert_true(said.begin < SAID_BEFORE_MAX);
        }
    }
}

/* --- decode */

static void set_stack(struct softlockup_wire *w, unsigned n, ...)
{
    va_list frames;

    va_start(frames, n);
    for (unsigned i = 0; i < n; i++)
        w->head.stack[i] = start_of(va_arg(frames, enum function)) + 0x20;
    va_end(frames);
    w->head.stack_bytes = (int32_t)(n * sizeof(w->head.stack[0]));
}

static struct softlockup_wire *some_wire(void)
{
    struct softlockup_wire *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    w->head = (struct wire_head){
        .time_ns = 100 * NS_PER_SEC,
        .cpu = 3,
        .pid = 100,
        .tid = 101,
        .ppid = 1,
        .uid = 33,
        .comm = "rsync",
    };
    set_stack(w, 6, PRINTK, WATCHDOG, HRTIMER, INTERRUPT, LOOP, SYSCALL);
    w->seconds = 22;
    w->verified = 1;
    strcpy(w->text, "[  209.68] watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [rsync:101]\n");
    return w;
}

/** NULL: it was refused with `*ret`. */
static json_t *decode(const struct kernel *k, const struct softlockup_wire *w, int *ret)
{
    const struct options options = {.cpu_stacks = true};
    _Alignas(8) char note[EVENT_NOTE_BYTES] = {};
    const struct decode d = {.kernel = k, .options = &options, .note = note};

    return decode_json(softlockup, &d, w, 1, ret);
}

static json_t *decode_fine(const struct softlockup_wire *w)
{
    int r;
    json_t *json = decode(&kernel, w, &r);

    assert_int_equal(r, 0);
    return json;
}

static void test_decode(void **state)
{
    _free_ struct softlockup_wire *w = some_wire();
    json_t *json = decode_fine(w), *data = json_object_get(json, "tracer_data");
    const json_t *process = json_object_get(json, "process");

    (void)state;
    expect_text(json, "tracer_name", "softlockup");
    expect_number(data, "cpu", 3);
    expect_number(data, "pid", 100);
    expect_text(data, "comm", "rsync");
    expect_number(data, "tid", 101);
    expect_text(data, "context", "task");
    expect_text(data, "stack", /* without the interrupt in which the watchdog looked */
                "xfs_loop/ffffffff81004000 [kernel]\ndo_syscall_64/ffffffff81006000 [kernel]");
    expect_number(data, "duration_ms", 23622); /* the watchdog's seconds are longer */
    expect_text(data, "message", "watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [rsync:101]");
    assert_true(json_is_true(json_object_get(data, "verified")));
    assert_int_equal(json_object_size(data), 9);
    expect_text(
        json, "summary",
        "CPU 3 has been locked up for 23 s in xfs_loop by rsync[100]: it schedules nothing else");
    expect_number(process, "pid", 100);
    expect_number(process, "tid", 101);
    expect_number(process, "ppid", 1);
    expect_number(process, "uid", 33);
    expect_text(process, "comm", "rsync");
    json_decref(json);
}

/** Who is interrupted by a softirq need not have done anything. */
static void test_softirq(void **state)
{
    _free_ struct softlockup_wire *w = some_wire();
    json_t *json, *data;

    (void)state;
    set_stack(w, 7, PRINTK, WATCHDOG, HRTIMER, INTERRUPT, LOOP, SOFTIRQ, SYSCALL);
    json = decode_fine(w);
    data = json_object_get(json, "tracer_data");
    expect_text(data, "context", "softirq");
    expect_text(json, "summary",
                "CPU 3 has been locked up for 23 s in xfs_loop, in a softirq that interrupts "
                "rsync[100]: it schedules nothing else");
    json_decref(json);
}

/** By its taint, without symbols, without a stack: what is not known is not there. */
static void test_little_known(void **state)
{
    _free_ struct softlockup_wire *w = some_wire();
    json_t *json, *data;
    int r;

    (void)state;
    w->seconds = 0;
    w->verified = 0;
    memset(w->text, 0, sizeof(w->text));
    w->head.stack_bytes = -14;
    json = decode(&hidden, w, &r);
    assert_int_equal(r, 0);
    data = json_object_get(json, "tracer_data");
    expect_text(data, "stack", "");
    assert_null(json_object_get(data, "duration_ms"));
    assert_null(json_object_get(data, "message"));
    assert_true(json_is_false(json_object_get(data, "verified")));
    expect_text(json, "summary",
                "CPU 3 has been locked up by rsync[100]: it schedules nothing else");
    json_decref(json);
}

static void test_hostile_names(void **state)
{
    _free_ struct softlockup_wire *w = some_wire();
    json_t *json, *data;

    (void)state;
    memcpy(w->head.comm, "\"\n\x1b[2J\xff\xfe</s>%s%n", sizeof(w->head.comm));
    memset(w->text + 40, 0xff, sizeof(w->text) - 40);
    json = decode_fine(w);
    data = json_object_get(json, "tracer_data");
    assert_non_null(json_string_value(json_object_get(data, "comm")));
    json_decref(json);

    /* A process that calls itself like the line, in the line. */
    memset(w->text, 0, sizeof(w->text));
    strcpy(w->text, "watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [BUG: soft locku:101]");
    json = decode_fine(w);
    data = json_object_get(json, "tracer_data");
    expect_number(data, "cpu", 3);
    expect_text(data, "message",
                "watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [BUG: soft locku:101]");
    json_decref(json);
}

static void test_nonsense(void **state)
{
    _free_ struct softlockup_wire *w = some_wire();
    const struct softlockup_wire good = *w;
    uint64_t seed = 11;
    int r;

    (void)state;
    w->head.stack_bytes = sizeof(w->head.stack) + 8;
    assert_null(decode(&kernel, w, &r));
    assert_int_equal(r, -EBADMSG);
    *w = good;
    w->seconds = SAID_SECONDS_MAX + 1;
    assert_null(decode(&kernel, w, &r));
    assert_int_equal(r, -EBADMSG);
    *w = good;
    w->head.cpu = SAID_CPUS_MAX;
    assert_null(decode(&kernel, w, &r));
    assert_int_equal(r, -EBADMSG);
    *w = good;
    w->verified = 2;
    assert_null(decode(&kernel, w, &r));
    assert_int_equal(r, -EBADMSG);

    for (unsigned n = 0; n < 3000; n++) {
        unsigned char *bytes = (unsigned char *)w;
        json_t *json;

        *w = good;
        if (n % 2)
            for (size_t i = 0; i < sizeof(*w); i++)
                bytes[i] = (unsigned char)next_random(&seed);
        else
            for (unsigned i = 0; i < 20; i++)
                bytes[next_random(&seed) % sizeof(*w)] = (unsigned char)next_random(&seed);
        json = decode(&kernel, w, &r);
        assert_true(json || r == -EBADMSG);
        json_decref(json);
    }
}

/* --- configuring */

static int configure(const struct kernel *k, const struct options *options,
                     struct softlockup_settings *ret, char error[512])
{
    const struct decode d = {.kernel = k, .options = options};

    *error = '\0';
    return softlockup->configure(&d, ret, error, 512);
}

static void test_configure(void **state)
{
    const struct options options = {.min_duration = 5 * NS_PER_SEC};
    struct softlockup_settings s;
    char error[512];
    bool cold = false, hot = false;

    (void)state;
    memset(&s, 0xff, sizeof(s));
    assert_int_equal(configure(&kernel, &options, &s, error), 0);
    assert_int_equal(s.min_ns, 5 * NS_PER_SEC);
    for (unsigned i = 0; i < 2; i++) {
        hot |= s.watchdog[i].start == start_of(WATCHDOG);
        cold |= s.watchdog[i].start == start_of(COLD);
        assert_int_equal(s.watchdog[i].size, FUNCTION_SIZE);
    }
    assert_true(hot && cold);
    assert_int_equal(s.watchdog[2].size, 0);
    assert_int_equal(s.watchdog[3].size, 0);

    assert_true(configure(&hidden, &options, &s, error) < 0);
    assert_non_null(strstr(error, "watchdog_timer_fn"));
    assert_int_equal(s.watchdog[0].size, 0); /* what was known does not stay */
}

static void test_rules(void **state)
{
    const struct options on = {.min_duration = 1}, off = {};

    (void)state;
    assert_string_equal(softlockup->rule_name(&on, SOFTLOCKUP_RULE_OWN), "");
    assert_string_equal(softlockup->rule_name(&on, SOFTLOCKUP_RULE_NOT_WATCHDOG), "not_watchdog");
    assert_string_equal(softlockup->rule_name(&on, SOFTLOCKUP_RULE_SHORT), "min_duration");
    assert_string_equal(softlockup->rule_name(&off, SOFTLOCKUP_RULE_SHORT), "");
    assert_null(softlockup->rule_name(&on, SOFTLOCKUP_RULE_NR));
}

/* --- what is collected */

static unsigned n_runs, n_end_runs;
static struct wire_sample samples[4];

static int run(const struct collect *c, unsigned hook, unsigned cpu, unsigned times)
{
    (void)c;
    if (strcmp(softlockup->hooks[hook].name, "end") == 0) {
        assert_int_equal(cpu, 3);
        assert_true(times > 1000);
        n_end_runs++;
    } else {
        assert_string_equal(softlockup->hooks[hook].name, "cpus");
        n_runs++;
    }
    return -ENOENT;
}

static int no_sysrq(const struct collect *c)
{
    (void)c;
    return -EPERM;
}

static json_t *collect(const struct softlockup_wire *w, bool cpu_stacks)
{
    const struct options options = {.cpu_stacks = cpu_stacks};
    _Alignas(8) char note[EVENT_NOTE_BYTES] = {};
    const struct decode d = {.kernel = &kernel, .options = &options, .note = note};
    const struct collect c = {
        .root_prefix = root,
        .symbols = kernel.symbols,
        .note = note,
        .run = run,
        .sysrq = no_sysrq,
        .n_cpus = 4,
        .samples = samples,
    };
    struct record *r = NULL;
    struct doc *doc = NULL;
    json_t *json, *data;

    assert_true(test_put_file(root, "/proc/stat", "cpu3 1 2\ncpu0 5\n", 16));
    n_runs = n_end_runs = 0;
    assert_int_equal(record_new(&test_origin, softlockup, 0, 1, &r), 0);
    assert_int_equal(softlockup->decode(&d, w, r), 0);
    record_free(r);
    assert_int_equal(record_new(&test_origin, softlockup, 0, 1, &r), 0);
    assert_int_equal(softlockup->collect(&c, w, r), 0);
    assert_int_equal(record_finish(r, 1, &doc), 0);
    record_free(r);
    json = json_loadb(doc->json, doc->len, 0, NULL);
    doc_unref(doc);
    data = json_incref(json_object_get(json, "tracer_data"));
    json_decref(json);
    return data;
}

static void test_collect(void **state)
{
    _free_ struct softlockup_wire *w = some_wire();
    json_t *data = collect(w, true);
    const json_t *missing = json_object_get(data, "cpus_missing");

    (void)state;
    assert_int_equal(n_end_runs, 1);
    assert_int_equal(n_runs, 0); /* CPU 0 takes no ticks here, the stuck one is known */
    expect_text(data, "cpus_stack",
                "CPU 3: rsync[100]\nxfs_loop/ffffffff81004000 [kernel]\n"
                "do_syscall_64/ffffffff81006000 [kernel]");
    assert_int_equal(json_array_size(missing), 1);
    expect_number(json_array_get(missing, 0), "cpu", 0);
    json_decref(data);

    data = collect(w, false);
    assert_int_equal(n_end_runs, 1);
    assert_int_equal(json_object_size(data), 0);
    json_decref(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_said),         cmocka_unit_test(test_said_any_bytes),
        cmocka_unit_test(test_decode),       cmocka_unit_test(test_softirq),
        cmocka_unit_test(test_little_known), cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_nonsense),     cmocka_unit_test(test_configure),
        cmocka_unit_test(test_rules),        cmocka_unit_test(test_collect),
    };

    return cmocka_run_group_tests_name("softlockup", tests, set_up, tear_down);
}
