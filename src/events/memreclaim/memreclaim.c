// SPDX-License-Identifier: Apache-2.0

#include "events/memreclaim/memreclaim.h"

#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "core/clock.h"
#include "core/event.h"
#include "core/numbers.h"
#include "events/memreclaim/window.h"
#include "kernel/kernel.h"
#include "memreclaim.skel.h"

struct memreclaim_options {
    struct event_options common;
    uint64_t threshold, within, ongoing_after; /* ns */
    bool requested;
};

static const struct option option_table[] = {
    EVENT_OPTIONS(struct memreclaim_options, "512KiB", "1024"),
    {
        .key = "threshold",
        .type = OPTION_DURATION,
        .offset = offsetof(struct memreclaim_options, threshold),
        .fallback = "900ms",
        .min = NS_PER_MS,
        .max = 60 * NS_PER_SEC,
        .help = "How long a process must have been in reclaim within the sliding time, all of its "
                "threads together, to be an event.",
    },
    {
        .key = "within",
        .type = OPTION_DURATION,
        .offset = offsetof(struct memreclaim_options, within),
        .fallback = "1s",
        .min = 100 * NS_PER_MS,
        .max = 10 * NS_PER_SEC,
        .help = "Length of that sliding time.",
    },
    {
        .key = "ongoing_after",
        .type = OPTION_DURATION,
        .offset = offsetof(struct memreclaim_options, ongoing_after),
        .fallback = "10s",
        .min = NS_PER_SEC,
        .max = 3600 * NS_PER_SEC,
        .help = "An episode that is still going on then is recorded as `ongoing`, and again each "
                "time it has lasted twice as long.",
    },
    {
        .key = "requested",
        .type = OPTION_BOOL,
        .offset = offsetof(struct memreclaim_options, requested),
        .fallback = "false",
        .help = "Also record reclaim that a process asks for by writing to a cgroup's files "
                "(memory.reclaim, a smaller limit).",
    },
    {},
};

#define PROGRAMS(...)                                                                              \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

static const struct hook hooks[] = {
    {
        .name = "memcg_reclaim",
        .watches = "processes that reclaim for the limit of their memory cgroup",
        .ways =
            {
                {.name = "tp_btf/mm_vmscan_memcg_reclaim_begin",
                 .programs = PROGRAMS("typed_memcg_begin", "typed_memcg_end")},
                {.name = "raw_tp/mm_vmscan_memcg_reclaim_begin",
                 .programs = PROGRAMS("raw_memcg_begin", "raw_memcg_end")},
            },
    },
    {
        .name = "direct_reclaim",
        .watches = "processes that reclaim because the host is short of memory",
        .ways =
            {
                {.name = "tp_btf/mm_vmscan_direct_reclaim_begin",
                 .programs = PROGRAMS("typed_direct_begin", "typed_direct_end")},
                {.name = "raw_tp/mm_vmscan_direct_reclaim_begin",
                 .programs = PROGRAMS("raw_direct_begin", "raw_direct_end")},
            },
    },
    {
        .name = "clock",
        .watches = "when reclaim ends or goes on, once a second",
        .tends = "processes",
        .ways = {{.name = "raw_tp", .programs = PROGRAMS("tend_process")}},
    },
    {
        .name = "shrink_inactive",
        .watches = "pages scanned, and long calls of reclaim before they are over",
        .optional = true,
        .ways =
            {
                {.name = "tp_btf/mm_vmscan_lru_shrink_inactive",
                 .programs = PROGRAMS("typed_shrink")},
                {.name = "raw_tp/mm_vmscan_lru_shrink_inactive",
                 .programs = PROGRAMS("raw_shrink")},
            },
    },
    {
        .name = "process_exit",
        .watches = "threads that end in the middle of reclaim",
        .optional = true,
        .ways =
            {
                {.name = "tp_btf/sched_process_exit", .programs = PROGRAMS("typed_exit")},
                {.name = "raw_tp/sched_process_exit", .programs = PROGRAMS("raw_exit")},
            },
    },
    {},
};

static const char *memreclaim_rule_name(const void *options, unsigned index)
{
    const struct memreclaim_options *o = options;

    if (index >= MEMRECLAIM_RULE_NR)
        return NULL;
    return index == MEMRECLAIM_RULE_REQUESTED && !o->requested ? "requested" : "";
}

/** Below these a process reclaims because it asked for it: by writing to a file of a cgroup or of a
 * memory node. What one kernel lacks, another has. */
static const char *const requesting[] = {
    "memory_reclaim",        "user_proactive_reclaim", "memory_high_write", "memory_max_write",
    "mem_cgroup_resize_max", "mem_cgroup_force_empty", "mem_cgroup_write",
};

static int memreclaim_configure(const struct decode *d, void *settings, char *error,
                                size_t error_size)
{
    const struct memreclaim_options *o = d->options;
    struct memreclaim_settings *s = settings;
    size_t n = 0;

    (void)error;
    (void)error_size;
    for (size_t i = 0; i < ARRAY_SIZE(requesting) && !o->requested; i++) {
        struct symbol found[4];
        size_t n_found =
            symbols_by_name(d->kernel->symbols, requesting[i], found, ARRAY_SIZE(found));

        for (size_t f = 0; f < MIN(n_found, ARRAY_SIZE(found)) && n < MEMRECLAIM_RANGES_MAX; f++) {
            s->requested[n].start = found[f].start;
            s->requested[n++].size = found[f].size;
        }
    }
    if (n < MEMRECLAIM_RANGES_MAX)
        s->requested[n].size = 0;
    s->threshold_ns = o->threshold;
    s->ongoing_ns = o->ongoing_after;
    s->within_ns = o->within;
    s->slice_ns = o->within / WINDOW_SLICES;
    return 0;
}

/* --- decode */

static uint64_t page_bytes(uint64_t pages)
{
    uint64_t bytes;

    return __builtin_mul_overflow(pages, (uint64_t)sysconf(_SC_PAGESIZE), &bytes) ? UINT64_MAX
                                                                                  : bytes;
}

static const char *scope_of(const struct memreclaim_wire *w)
{
    /* A first call that is not over is of neither yet. */
    if (!w->memcg_calls && !w->global_calls)
        return "unknown";
    if (!w->global_calls)
        return "memcg";
    return w->memcg_calls ? "both" : "global";
}

/** The limit that it has run into: high is the lower one, or it would not be met. */
static bool is_high(const struct memreclaim_wire *w)
{
    return w->high < w->max;
}

static const char *limit_name(const struct memreclaim_wire *w)
{
    if (!w->cgroup.unified)
        return "memory.limit_in_bytes";
    return is_high(w) ? "memory.high" : "memory.max";
}

static bool has_limit(const struct memreclaim_wire *w)
{
    return w->limit_css && w->memcg_calls;
}

static void write_limit(const struct memreclaim_wire *w, const char *limit, struct record *r)
{
    record_strf(r, "memcg_css", "0x%" PRIx64, (uint64_t)w->cgroup.css);
    if (!has_limit(w))
        return;
    record_str(r, "limit_cgroup", limit, SIZE_MAX);
    record_strf(r, "limit_memcg_css", "0x%" PRIx64, (uint64_t)w->limit_css);
    record_str(r, "limit_of", limit_name(w), SIZE_MAX);
    record_u64(r, "limit_bytes", page_bytes(is_high(w) ? w->high : w->max));
    record_u64(r, "usage_bytes", page_bytes(w->usage));
}

#define TEXT_MAX 32

/** With the digits that matter: 950 ms, 1.41 s. */
static const char *time_text(uint64_t ns, char ret[TEXT_MAX])
{
    if (ns < NS_PER_SEC)
        snprintf(ret, TEXT_MAX, "%" PRIu64 " ms", ns / NS_PER_MS);
    else
        snprintf(ret, TEXT_MAX, "%.2f s", (double)ns / (double)NS_PER_SEC);
    return ret;
}

static void write_summary(const struct memreclaim_wire *w, const char *limit, struct record *r)
{
    char spent[TEXT_MAX], lasted[TEXT_MAX], worst[128] = "", why[CGROUP_PATH_MAX + 128];

    time_text(w->reclaim_ns, spent);
    time_text(w->until_ns - w->entry_ns, lasted);
    if (has_limit(w))
        snprintf(why, sizeof(why), "for the limit of cgroup %s (%s %.1f MiB)%s", limit,
                 limit_name(w),
                 (double)page_bytes(is_high(w) ? w->high : w->max) / (1024.0 * 1024.0),
                 w->global_calls ? ", and for the host" : "");
    else
        snprintf(why, sizeof(why), "%s",
                 w->memcg_calls    ? "for the limit of a memory cgroup"
                 : w->global_calls ? "because the host is short of memory"
                                   : "before it could go on");
    if (w->worst_tid && w->worst_tid != w->head.pid) {
        char text[TEXT_MAX];

        snprintf(worst, sizeof(worst), "; %s of it in its thread %.16s[%u]",
                 time_text(w->worst_ns, text), w->worst_comm, w->worst_tid);
    }
    record_summary(r, "%.16s[%u] was in direct reclaim for %s within %s%s, freeing memory %s%s",
                   w->head.comm, w->head.pid, spent, lasted, w->ongoing ? " and still is" : "", why,
                   worst);
}

static int memreclaim_decode(const struct decode *d, const void *raw, struct record *r)
{
    const struct memreclaim_wire *w = raw;
    size_t n_stack = w->head.stack_bytes > 0 ? (size_t)w->head.stack_bytes / 8 : 0;
    char path[CGROUP_PATH_MAX], limit[CGROUP_PATH_MAX] = "", entry[CLOCK_TEXT_MAX];
    char container[DOC_CONTAINER_LEN + 1];
    _free_ char *stack = NULL;
    int e;

    if (n_stack > WIRE_STACK_MAX || w->entry_ns > w->until_ns || w->ongoing > 1 ||
        w->limit_level >= CGROUP_NAMES_MAX || w->cmdline_bytes < 0 ||
        w->cmdline_bytes > MEMRECLAIM_CMDLINE_MAX)
        return -EBADMSG;
    e = cgroup_path(&w->cgroup, 0, path);
    if (e == 0 && has_limit(w))
        e = cgroup_path(&w->cgroup, w->limit_level, limit);
    if (e < 0)
        return e;
    stack = symbols_stack_text(d->kernel->symbols, (const uint64_t *)w->head.stack, n_stack);
    if (!stack)
        return -ENOMEM;
    clock_format_ms(record_realtime(r) - (w->until_ns - w->entry_ns), entry);
    d->container_id(path, container);

    record_str(r, "comm", w->head.comm, sizeof(w->head.comm));
    record_u64(r, "pid", w->head.pid);
    record_u64(r, "deltatime", w->reclaim_ns);
    record_str(r, "entry_time", entry, sizeof(entry));
    record_u64(r, "duration_ns", w->until_ns - w->entry_ns);
    record_bool(r, "ongoing", w->ongoing);
    record_u64(r, "threshold_ns", w->threshold_ns);
    record_u64(r, "within_ns", w->within_ns);
    record_str(r, "scope", scope_of(w), SIZE_MAX);
    record_u64(r, "memcg_calls", w->memcg_calls);
    record_u64(r, "global_calls", w->global_calls);
    record_u64(r, "pages_reclaimed", w->reclaimed);
    if (w->scanned || !w->reclaimed)
        record_u64(r, "pages_scanned", w->scanned);
    record_u64(r, "worst_tid", w->worst_tid);
    record_str(r, "worst_comm", w->worst_comm, sizeof(w->worst_comm));
    record_u64(r, "worst_ns", w->worst_ns);
    write_limit(w, limit, r);
    record_stack(r, "stack", stack);

    write_summary(w, limit, r);
    record_task(r, &w->head);
    if (w->cmdline_bytes)
        record_process_fill(r, NULL, w->cmdline, (size_t)w->cmdline_bytes, NULL);
    record_cgroup(r, path);
    if (*container)
        record_container(r, container, NULL, NULL, NULL, NULL, "cgroup");
    return 0;
}

/* --- what its cgroup says of itself, when the record is written */

static int memreclaim_collect(const struct collect *c, const void *raw, struct record *r)
{
    const struct memreclaim_wire *w = raw;
    char cgroup[CGROUP_PATH_MAX], folder[PATH_MAX], path[PATH_MAX + 32];
    int e = cgroup_path(&w->cgroup, has_limit(w) ? w->limit_level : 0, cgroup);

    if (e < 0)
        return e;
    if (!w->global_calls || w->memcg_calls) {
        if (cgroup_directory(c->root_prefix, w->cgroup.unified, cgroup, folder, sizeof(folder)) < 0)
            return 0;
        snprintf(path, sizeof(path), "%s/memory.stat", folder);
        record_numbers(r, "memory_stat", c->root_prefix, path);
        snprintf(path, sizeof(path), "%s/memory.events", folder);
        record_numbers(r, "memory_events", c->root_prefix, path);
    }
    if (w->global_calls)
        record_numbers(r, "meminfo", c->root_prefix, "/proc/meminfo");
    return 0;
}

/* --- provoking */

#define PROVOKE_LIMIT   "16777216"
#define PROVOKE_THREADS 16
#define PROVOKE_BYTES   (16UL * 1024 * 1024) /* of each thread */
#define PROVOKE_CHUNK   (256UL * 1024)
#define PROVOKE_NS      (5 * NS_PER_SEC) /* long enough on a slow machine */
#define PROVOKE_TRIES   3

/** Wants memory all the time and needs none of it: what it has had may be taken (MADV_FREE), which
 * takes neither swap nor a disk. */
static void *waste(void *until_ns)
{
    char *memory =
        mmap(NULL, PROVOKE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (size_t at = 0; memory != MAP_FAILED; at = (at + PROVOKE_CHUNK) % PROVOKE_BYTES) {
        for (size_t page = 0; page < PROVOKE_CHUNK; page += 4096)
            memory[at + page] = 1;
        madvise(memory + at, PROVOKE_CHUNK, MADV_FREE);
        if (clock_now_ns(CLOCK_MONOTONIC) > *(const uint64_t *)until_ns)
            break;
    }
    return NULL;
}

static _Noreturn void waste_memory(const char *folder)
{
    uint64_t until_ns = clock_now_ns(CLOCK_MONOTONIC) + PROVOKE_NS;
    pthread_t threads[PROVOKE_THREADS];
    size_t n = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "huatuo-try-mem");
    if (cgroup_enter(folder) < 0)
        _exit(1);
    while (n < PROVOKE_THREADS && pthread_create(&threads[n], NULL, waste, &until_ns) == 0)
        n++;
    while (n)
        pthread_join(threads[--n], NULL);
    _exit(0);
}

/**
 * A child whose threads want, together, more than its own memory cgroup allows. Where they get in
 * each other's way so much that nothing is freed, the kernel may kill it before it has spent its
 * time.
 */
static int memreclaim_provoke(struct provoked *ret)
{
    int status, r;

    *ret = (struct provoked){.field = "pid"};
    for (unsigned tries = 0; tries < PROVOKE_TRIES; tries++) {
        status = 0;
        r = cgroup_run_limited(PROVOKE_LIMIT, waste_memory, &ret->value, &status);
        if (r < 0)
            return r;
        if (WIFEXITED(status))
            return WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
    }
    return -ECHILD;
}

const struct event event_memreclaim = {
    .name = "memreclaim",
    .tracer_name = "directreclaim",
    .is_case = true,
    .summary = "A process spends its time freeing memory before it gets any.",
    .options = option_table,
    .options_size = sizeof(struct memreclaim_options),
    .object = memreclaim_bpf__elf_bytes,
    .hooks = hooks,
    .wire_size = sizeof(struct memreclaim_wire),
    .settings_size = sizeof(struct memreclaim_settings),
    .configure = memreclaim_configure,
    .rule_name = memreclaim_rule_name,
    .decode = memreclaim_decode,
    .collect = memreclaim_collect,
    .provoke = memreclaim_provoke,
};
