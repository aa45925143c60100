// SPDX-License-Identifier: Apache-2.0

#include "bench.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/settings.h"
#include "blank.skel.h"
#include "core/clock.h"
#include "core/text.h"

/* Short, so that some run without being interrupted. */
#define BATCH_NS      (300 * NS_PER_US)
#define BATCHES       TRIAL_BATCHES
#define ROUNDS_MIN    5
#define COUNT_BATCHES 15
#define COUNT_TURNS   100

const char *const variant_names[VARIANT_NR] = {"nothing", "empty", "ours", "ours_read",
                                               "empty_again"};

static int say(int r, const char *what, char *error, size_t error_size)
{
    snprintf(error, error_size, "%s: %s", what, strerror(-r));
    return r;
}

/* --- the process */

static int enter_netns(void)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    _close_fd_ int fd = -1;

    if (unshare(CLONE_NEWNET) < 0)
        return -errno;
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0 ? -errno : 0;
}

/** To the last CPU that we may use: being moved costs more than what is measured. */
static int stay(void)
{
    cpu_set_t all, one;
    int last = -1;

    if (sched_getaffinity(0, sizeof(all), &all) < 0)
        return -errno;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all))
            last = cpu;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    return sched_setaffinity(0, sizeof(one), &one) < 0 ? -errno : 0;
}

/* --- our programs, as an agent has them */

static int set(struct trial *t, const char *key, const char *value)
{
    _free_ char *assignment = NULL, *errors = NULL;

    if (asprintf(&assignment, "%s.%s=%s", t->event->name, key, value) < 0)
        return -ENOMEM;
    return config_set(t->config, assignment, &errors);
}

/** Of all hooks this way only. */
static int set_hooks_off(struct trial *t)
{
    _cleanup_(text_done) struct text off = {};

    for (const struct hook *hook = t->event->hooks; hook->name; hook++)
        for (int way = 0; way < HOOK_WAYS_MAX && hook->ways[way].name; way++)
            if (strcmp(hook->ways[way].name, t->way) != 0)
                text_addf(&off, "%s%s", off.len ? "," : "", hook->ways[way].name);
    return off.len ? set(t, "hooks_off", off.data) : 0;
}

static int configure_options(struct trial *t)
{
    int r = settings_new(&t->config);

    if (r < 0)
        return r;
    r = set_hooks_off(t);
    if (r == 0)
        r = set(t, "repeat_limit", t->what->outcome == BENCH_SUPPRESSED ? "1" : "4294967295");
    if (r == 0) /* nobody sweeps while it is measured */
        r = set(t, "repeat_window", "1h");
    t->options = config_section(t->config, t->event->name);
    return r;
}

static int configure_settings(struct trial *t)
{
    const struct decode decode = {.kernel = t->kernel, .options = t->options};
    size_t size = t->event->settings_size;
    char error[512];
    void *settings;
    int r;

    if (!t->event->configure)
        return 0;
    settings = size ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
                           kind_map_fd(&t->kind, ".data.settings"), 0)
                    : NULL;
    if (settings == MAP_FAILED)
        return -errno;
    r = t->event->configure(&decode, settings, error, sizeof(error));
    if (settings)
        munmap(settings, size);
    return r;
}

static int on_sample(void *arg, void *data, size_t size)
{
    struct trial *t = arg;
    size_t wire_size = t->event->wire_size;
    size_t least = t->event->wire_least ? t->event->wire_least : wire_size;

    if (size >= least && size <= wire_size && t->n_raw < t->raw_room)
        memcpy((char *)t->raw + t->n_raw++ * wire_size, data, size);
    return 0;
}

static int map_ring(struct trial *t)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = t->kind.n_cpus * sizeof(*t->counters);
    int fd = kind_map_fd(&t->kind, "ring");
    void *consumer = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *producer = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, (off_t)page);
    void *counters = mmap(NULL, size, PROT_READ, MAP_SHARED, kind_map_fd(&t->kind, "counters"), 0);

    if (consumer == MAP_FAILED || producer == MAP_FAILED || counters == MAP_FAILED)
        return -errno;
    t->consumer = consumer;
    t->producer = producer;
    t->counters = counters;
    t->ring = ring_buffer__new(fd, on_sample, t, NULL);
    return t->ring ? 0 : -errno;
}

static int load_ours(struct trial *t, uint32_t netns)
{
    struct wall_clock clock = {.base = CLOCK_MONOTONIC};
    int r = kind_open(&t->kind, t->event, t->options, NULL);

    if (r < 0)
        return r;
    kind_detach(&t->kind);
    r = map_ring(t);
    if (r == 0)
        r = configure_settings(t);
    clock_update(&clock);
    clock_tell(&clock, &t->kind.common->clock);
    t->kind.common->own_netns = netns;
    t->kind.common->watching = 1;
    return r;
}

/* --- the others */

static const char *target_of(const char *section)
{
    const char *slash = strchr(section, '/');

    return slash ? slash + 1 : "";
}

static int load_blank(struct trial *t)
{
    size_t len = strcspn(t->section, "/");
    char name[64];
    int r = 0;

    t->blank = blank_bpf__open();
    if (!t->blank)
        return -errno;
    snprintf(name, sizeof(name), "empty_%.*s", (int)len, t->section);
    t->empty = bpf_object__find_program_by_name(t->blank->obj, name);
    snprintf(name, sizeof(name), "count_%.*s", (int)len, t->section);
    t->count = bpf_object__find_program_by_name(t->blank->obj, name);
    if (!t->empty || !t->count)
        return -EOPNOTSUPP;
    bpf_program__set_autoload(t->empty, true);
    bpf_program__set_autoload(t->count, true);
    if (strncmp(t->section, "tp_btf/", 7) == 0 || strncmp(t->section, "fentry/", 7) == 0) {
        r = bpf_program__set_attach_target(t->empty, 0, target_of(t->section));
        if (r == 0)
            r = bpf_program__set_attach_target(t->count, 0, target_of(t->section));
    }
    return r < 0 ? r : blank_bpf__load(t->blank);
}

static struct bpf_link *attach_blank(const struct trial *t, const struct bpf_program *program)
{
    const char *target = target_of(t->section), *slash = strchr(target, '/');
    char category[64];

    if (strncmp(t->section, "raw_tp/", 7) == 0)
        return bpf_program__attach_raw_tracepoint(program, target);
    if (strncmp(t->section, "kprobe/", 7) == 0)
        return bpf_program__attach_kprobe(program, false, target);
    if (strncmp(t->section, "tp/", 3) == 0) {
        snprintf(category, sizeof(category), "%.*s", slash ? (int)(slash - target) : 0, target);
        return bpf_program__attach_tracepoint(program, category, slash ? slash + 1 : "");
    }
    return bpf_program__attach(program);
}

/* --- attaching */

static int keep_link(struct trial *t, struct bpf_link *link)
{
    if (!link)
        return -errno;
    t->links[t->n_links++] = link;
    return 0;
}

/** All programs of the way, as they do their work together. */
static int attach_ours(struct trial *t)
{
    struct bpf_program *program;
    int r = 0;

    bpf_object__for_each_program(program, t->kind.object)
    {
        if (r == 0 && bpf_program__autoload(program) && t->n_links < KIND_PROGRAMS_MAX)
            r = keep_link(t, bpf_program__attach(program));
    }
    return r;
}

static int attach(struct trial *t, enum variant variant)
{
    switch (variant) {
    case EMPTY:
    case EMPTY_AGAIN:
        return keep_link(t, attach_blank(t, t->empty));
    case OURS:
    case OURS_READ:
        return attach_ours(t);
    default:
        return 0;
    }
}

static void detach(struct trial *t)
{
    while (t->n_links)
        bpf_link__destroy(t->links[--t->n_links]);
}

/* --- measuring */

static bool is_ours(enum variant variant)
{
    return variant == OURS || variant == OURS_READ;
}

static int no_window(void *arg, const struct wire_key *key, const struct wire_window *window)
{
    (void)arg;
    (void)key;
    (void)window;
    return 0;
}

/** What the agent and the root part do meanwhile, not measured here. */
static void empty_out(struct trial *t)
{
    ring_buffer__consume(t->ring);
    if (t->what->outcome == BENCH_RECORDED)
        kind_sweep(&t->kind, t->options, clock_now_ns(CLOCK_BOOTTIME), true, no_window, NULL);
}

static int turn(struct trial *t, enum variant variant, unsigned n)
{
    int r = 0;

    if (variant != OURS_READ)
        return t->what->turn(n);
    for (unsigned i = 0; r == 0 && i < n; i++) {
        r = t->what->turn(1);
        __atomic_store_n(t->consumer, __atomic_load_n(t->producer, __ATOMIC_ACQUIRE),
                         __ATOMIC_RELEASE);
    }
    return r;
}

static int one_batch(struct trial *t, enum variant variant, unsigned n, double *ret_ns)
{
    uint64_t begin = clock_now_ns(CLOCK_MONOTONIC), end;
    int r = turn(t, variant, n);

    end = clock_now_ns(CLOCK_MONOTONIC);
    if (r < 0)
        return r;
    *ret_ns = (double)(end - begin) / (double)n / t->what->hits;
    if (is_ours(variant)) {
        t->provoked += (uint64_t)n * t->what->events;
        empty_out(t);
    }
    return 0;
}

static int compare(const void *a, const void *b)
{
    double one = *(const double *)a, other = *(const double *)b;

    return (one > other) - (one < other);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static int one_round(struct trial *t, enum variant variant, struct sample *ret)
{
    double ns[BATCHES];
    int r = attach(t, variant);

    if (r == 0) /* what is used for the first time is not in the caches yet */
        r = one_batch(t, variant, t->turns / 4 + 1, ns);
    for (unsigned i = 0; r == 0 && i < BATCHES; i++)
        r = one_batch(t, variant, t->turns, &ns[i]);
    detach(t);
    if (r == 0) {
        ret->median = median(ns, BATCHES);
        ret->min = ns[0]; /* they are sorted */
    }
    return r;
}

/** As many turns as take a batch's time, or, if they are to be recorded, as many as have room. */
static int choose_turns(struct trial *t)
{
    uint64_t room = t->options->ring_size / (t->event->wire_size + 8) / 2;
    double ns = 0, fastest = 0;

    for (unsigned i = 0; i < BATCHES; i++) {
        int r = one_batch(t, NOTHING, 20, &ns);

        if (r < 0)
            return r;
        if (i == 0 || ns < fastest)
            fastest = ns;
    }
    t->turns = (unsigned)MAX(BATCH_NS / (fastest * t->what->hits), 1.0);
    if (t->what->outcome == BENCH_RECORDED)
        t->turns = MIN(t->turns, (unsigned)MAX(room / t->what->events, UINT64_C(1)));
    return 0;
}

static void read_counters(const struct trial *t, struct wire_counters *ret)
{
    *ret = (struct wire_counters){};
    for (unsigned cpu = 0; cpu < t->kind.n_cpus; cpu++) {
        const volatile struct wire_counters *c = &t->counters[cpu];

        ret->seen += c->seen;
        ret->sent += c->sent;
        ret->suppressed += c->suppressed;
        for (unsigned i = 0; i < WIRE_LOST_NR; i++)
            ret->lost[i] += c->lost[i];
        for (unsigned i = 0; i < WIRE_RULES_MAX; i++)
            ret->filtered[i] += c->filtered[i];
    }
}

static uint64_t sum(const __u64 *values, size_t n)
{
    uint64_t all = 0;

    for (size_t i = 0; i < n; i++)
        all += values[i];
    return all;
}

/**
 * Others' events are among what was counted, so it may be more than we have made; one in a hundred
 * may be missing, as the first of a window is recorded also where repeats are measured.
 */
static int check_outcome(const struct trial *t, char *error, size_t error_size)
{
    const struct wire_counters *c = &t->became;
    uint64_t filtered = sum(c->filtered, WIRE_RULES_MAX), lost = sum(c->lost, WIRE_LOST_NR);
    uint64_t least = t->provoked - t->provoked / 100;
    uint64_t turns = (uint64_t)t->n_rounds * BATCHES * t->turns;
    bool good = true;

    switch (t->what->outcome) {
    case BENCH_IGNORED:
        good = c->seen < turns / 2;
        break;
    case BENCH_FILTERED:
        good = filtered >= least;
        break;
    case BENCH_SUPPRESSED:
        good = c->suppressed >= least;
        break;
    case BENCH_RECORDED:
        good = c->sent >= least;
        break;
    }
    if (good)
        return 0;
    snprintf(error, error_size,
             "it is not what it is said to be: of %llu events that were provoked %llu were seen, "
             "%llu filtered, %llu suppressed, %llu sent and %llu lost",
             (unsigned long long)t->provoked, (unsigned long long)c->seen,
             (unsigned long long)filtered, (unsigned long long)c->suppressed,
             (unsigned long long)c->sent, (unsigned long long)lost);
    return -EBADE;
}

int trial_count(struct trial *t, char *error, size_t error_size)
{
    double counts[COUNT_BATCHES];
    int r = stay();

    if (r < 0)
        return say(r, "staying on one CPU", error, error_size);
    r = keep_link(t, attach_blank(t, t->count));
    t->claimed = (uint64_t)COUNT_TURNS * t->what->hits;
    t->blank->bss->process = (uint32_t)getpid();
    for (unsigned i = 0; r == 0 && i < COUNT_BATCHES; i++) {
        uint64_t before = t->blank->bss->hits;

        r = t->what->turn(COUNT_TURNS);
        counts[i] = (double)(t->blank->bss->hits - before);
    }
    detach(t);
    if (r < 0)
        return say(r, "counting the hits", error, error_size);
    /* Others' packets may be dealt with on top of us, or ours on top of others: now and then. */
    t->counted = (uint64_t)median(counts, COUNT_BATCHES);
    if (t->counted == t->claimed)
        return 0;
    snprintf(error, error_size, "%llu hits are claimed, and a BPF program counts %llu",
             (unsigned long long)t->claimed, (unsigned long long)t->counted);
    return -EBADE;
}

int trial_measure(struct trial *t, double seconds, char *error, size_t error_size)
{
    uint64_t end = clock_now_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * NS_PER_SEC);
    bool recorded = t->what->outcome == BENCH_RECORDED;
    int r = choose_turns(t);

    t->provoked = 0;
    for (; r == 0 && t->n_rounds < ROUNDS_MAX; t->n_rounds++) {
        if (t->n_rounds >= ROUNDS_MIN && clock_now_ns(CLOCK_MONOTONIC) > end)
            break;
        /* Another begins each time, so that none always follows the same. */
        for (unsigned i = 0; r == 0 && i < VARIANT_NR; i++) {
            enum variant variant = (i + t->n_rounds) % VARIANT_NR;

            if (variant != OURS_READ || recorded)
                r = one_round(t, variant, &t->samples[variant][t->n_rounds]);
        }
    }
    if (r < 0)
        return say(r, "measuring", error, error_size);
    read_counters(t, &t->became);
    return check_outcome(t, error, error_size);
}

int trial_capture(struct trial *t, size_t n, char *error, size_t error_size)
{
    int r = attach(t, OURS);

    t->raw = calloc(n, t->event->wire_size);
    t->raw_room = n;
    if (!t->raw)
        r = r < 0 ? r : -ENOMEM;
    for (size_t i = 0; r == 0 && i < n; i++) {
        r = t->what->turn(1);
        ring_buffer__consume(t->ring);
    }
    detach(t);
    if (r == 0 && t->n_raw < n)
        r = -ENODATA;
    return r < 0 ? say(r, "getting events out of the ring", error, error_size) : 0;
}

/* --- */

int trial_begin(struct trial *t, char *error, size_t error_size)
{
    struct stat netns = {};
    int r;

    stat("/proc/self/ns/net", &netns); /* the agent's: the provoker has another */
    r = configure_options(t);
    if (r < 0)
        return say(r, "configuring", error, error_size);
    r = load_ours(t, (uint32_t)netns.st_ino);
    if (r < 0)
        return say(r, *t->kind.reason ? t->kind.reason : "loading", error, error_size);
    r = load_blank(t);
    if (r < 0)
        return say(r, "loading an empty program", error, error_size);
    if (t->what->own_netns)
        r = enter_netns();
    if (r == 0 && t->what->begin)
        r = t->what->begin();
    return r < 0 ? say(r, "preparing to provoke", error, error_size) : 0;
}

void trial_end(struct trial *t)
{
    detach(t);
    ring_buffer__free(t->ring);
    if (t->blank)
        blank_bpf__destroy(t->blank);
    kind_close(&t->kind);
    config_free(t->config);
    free(t->raw);
}
