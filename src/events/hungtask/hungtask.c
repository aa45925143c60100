// SPDX-License-Identifier: Apache-2.0

#include "events/hungtask/hungtask.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "core/clock.h"
#include "core/event.h"
#include "core/numbers.h"
#include "events/hungtask/list.h"
#include "hungtask.skel.h"
#include "kernel/cpus.h"
#include "kernel/kernel.h"

struct hungtask_options {
    struct event_options common;
    uint64_t threshold, interval, list_interval; /* ns */
};

/* The kernel's detector reports a task anew every kernel.hung_task_timeout_secs, 120 s unless set
 * otherwise: that has to fit into the window. */
static const struct option option_table[] = {
    EVENT_OPTIONS_REPEAT(struct hungtask_options, "2MiB", "8192", "10", "5m"),
    {
        .key = "threshold",
        .type = OPTION_DURATION,
        .offset = offsetof(struct hungtask_options, threshold),
        .fallback = "10s",
        .min = 100 * NS_PER_MS,
        .max = 24 * 3600 * NS_PER_SEC,
        .help = "How long a task has to be in the same uninterruptible sleep (D state). What the "
                "kernel's own detector reports (kernel.hung_task_timeout_secs) is recorded in any "
                "case.",
    },
    {
        .key = "interval",
        .type = OPTION_DURATION,
        .offset = offsetof(struct hungtask_options, interval),
        .fallback = "1s",
        .min = 100 * NS_PER_MS,
        .max = 60 * NS_PER_SEC,
        .help = "How often all tasks are looked at, at most: looking takes no more than 2 % of a "
                "CPU. A task is found up to so much later.",
    },
    {
        .key = "list_interval",
        .type = OPTION_DURATION,
        .offset = offsetof(struct hungtask_options, list_interval),
        .fallback = "10s",
        .max = 24 * 3600 * NS_PER_SEC,
        .help = "How long after a record that lists all tasks in D state and what the CPUs do "
                "others go without, and say which one has the list.",
    },
    {},
};

enum hungtask_hook { HOOK_KERNEL, HOOK_WATCH, HOOK_END, HOOK_TASKS, HOOK_CPUS };

static const struct hook hooks[] =
    {
        [HOOK_KERNEL] =
            {
                .name = "sched_process_hang",
                .watches = "tasks that the kernel's own detector reports",
                .ways =
                    {
                        {.name = "tp_btf/sched_process_hang",
                         .programs = (const char *const[]){"typed_sched_process_hang", NULL}},
                        {.name = "raw_tp/sched_process_hang",
                         .programs = (const char *const[]){"raw_sched_process_hang", NULL}},
                    },
            },
        [HOOK_WATCH] =
            {
                .name = "watch",
                .watches = "tasks that stay in uninterruptible sleep",
                .polled = true,
                .ways =
                    {
                        {.name = "iter/task:watch",
                         .programs = (const char *const[]){"watch_tasks", NULL}},
                    },
            },
        [HOOK_END] =
            {
                .name = "end",
                .watches = "when they go on",
                .optional = true,
                .tends = "hangs",
                .ways =
                    {
                        {.name = "raw_tp", .programs = (const char *const[]){"tend_hang", NULL}},
                    },
            },
        [HOOK_TASKS] =
            {
                .name = "tasks",
                .watches = "the stacks of all tasks in D state, when one hangs",
                .optional = true,
                .snapshot = true,
                .ways =
                    {
                        {.name = "iter/task:stacks",
                         .programs = (const char *const[]){"snapshot_tasks", NULL}},
                    },
            },
        [HOOK_CPUS] =
            {
                .name = "cpus",
                .watches = "what all CPUs are doing when a task hangs",
                .optional = true,
                .perf =
                    &(const struct hook_perf){
                        .config = PERF_COUNT_SW_CPU_CLOCK,
                        .period = NS_PER_MS,
                    },
                .ways =
                    {
                        {.name = "perf_event/cpus",
                         .programs = (const char *const[]){"sample_cpu", NULL}},
                    },
            },
        {},
};

static const char *hungtask_rule_name(const void *options, unsigned index)
{
    (void)options;
    return index == 0 ? "" : NULL; /* the agent has no traffic here */
}

static uint64_t hungtask_poll_ns(const void *options)
{
    const struct hungtask_options *o = options;

    return o->interval;
}

/** Of the kernel's detector; 0: it is off, or not there. */
static uint64_t kernel_timeout(void)
{
    uint64_t seconds;

    if (file_read_u64("", "/proc/sys/kernel/hung_task_timeout_secs", &seconds) < 0 ||
        seconds > UINT32_MAX)
        return 0;
    return seconds * NS_PER_SEC;
}

static int hungtask_configure(const struct decode *d, void *settings, char *error,
                              size_t error_size)
{
    const struct hungtask_options *o = d->options;

    (void)error;
    (void)error_size;
    *(struct hungtask_settings *)settings = (struct hungtask_settings){
        .threshold_ns = o->threshold,
        .list_interval_ns = o->list_interval,
        .kernel_ns = kernel_timeout(),
    };
    return 0;
}

/* --- decode */

static const char *const found_by_names[HUNGTASK_BY_NR] = {
    [HUNGTASK_BY_WATCH] = "watch",
    [HUNGTASK_BY_KERNEL] = "kernel",
};

static void write_summary(const struct hungtask_wire *w, const char *where, struct record *r)
{
    char seconds[HUNGTASK_SECONDS_MAX], thread[64] = "";

    hungtask_seconds(w->blocked_ns, seconds);
    if (w->head.tid != w->head.pid)
        snprintf(thread, sizeof(thread), " (thread %u of %.16s)", w->head.tid, w->process_name);
    record_summary(r, "%.16s[%u]%s has been blocked (D state) for %s%s%s%s%s", w->head.comm,
                   w->head.pid, thread, w->found_by == HUNGTASK_BY_KERNEL ? "at least " : "",
                   seconds, *where ? " in " : "", where,
                   w->found_by == HUNGTASK_BY_KERNEL ? ", as the kernel's own detector says" : "");
}

static int hungtask_decode(const struct decode *d, const void *raw, struct record *r)
{
    const struct hungtask_wire *w = raw;
    size_t n_stack = w->head.stack_bytes > 0 ? (size_t)w->head.stack_bytes / 8 : 0;
    char cgroup[CGROUP_PATH_MAX], container[DOC_CONTAINER_LEN + 1], where[128];
    _free_ char *stack = NULL;
    int e;

    if (n_stack > WIRE_STACK_MAX || w->found_by >= HUNGTASK_BY_NR)
        return -EBADMSG;
    e = cgroup_path(&w->cgroup, 0, cgroup);
    if (e < 0)
        return e;
    stack = symbols_stack_text(d->kernel->symbols, (const uint64_t *)w->head.stack, n_stack);
    if (!stack)
        return -ENOMEM;
    hungtask_place(stack, where, sizeof(where));

    record_u64(r, "pid", w->head.pid);
    record_str(r, "comm", w->head.comm, sizeof(w->head.comm));
    record_u64(r, "tid", w->head.tid);
    record_str(r, "process_name", w->process_name, sizeof(w->process_name));
    record_str(r, "found_by", found_by_names[w->found_by], SIZE_MAX);
    record_u64(r, "threshold_ms", w->threshold_ns / NS_PER_MS);
    record_str(r, "where", where, sizeof(where));
    record_stack(r, "stack", stack);
    record_u64(r, "duration_ms", w->blocked_ns / NS_PER_MS);
    if (!w->lists) {
        record_u64(r, "listed_by_pid", w->listed_pid);
        record_u64(r, "listed_before_ms",
                   w->head.time_ns > w->listed_ns ? (w->head.time_ns - w->listed_ns) / NS_PER_MS
                                                  : 0);
        e = hungtask_list_own(w, d->kernel->symbols, r);
        if (e < 0)
            return e;
    }
    write_summary(w, where, r);
    record_task(r, &w->head);
    record_cgroup(r, cgroup);
    d->container_id(cgroup, container);
    if (*container)
        record_container(r, container, NULL, NULL, NULL, NULL, "cgroup");
    return 0;
}

/* --- what is read right after */

static bool hungtask_collects(const void *raw)
{
    const struct hungtask_wire *w = raw;

    return w->lists;
}

static int hungtask_collect(const struct collect *c, const void *raw, struct record *r)
{
    int e = cpus_record(c, HOOK_CPUS, NULL, r);

    return e < 0 ? e : hungtask_list(c, raw, r);
}

/* --- provoking */

#define PROVOKE_WITHIN_NS (15 * NS_PER_SEC) /* the threshold's default, and some more */

/** A page that nobody will ever fill; -errno. */
static int make_hole(void **ret, size_t size)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    void *page;

    if (fd < 0)
        return -errno;
    page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    range.range.start = (uintptr_t)page;
    range.range.len = size;
    if (page == MAP_FAILED || ioctl(fd, UFFDIO_API, &api) < 0 ||
        ioctl(fd, UFFDIO_REGISTER, &range) < 0) {
        int r = -errno;

        close(fd);
        return r;
    }
    *ret = page;
    return 0; /* the descriptor stays open as long as the process lives */
}

/** Holds the lock of a file in memory: it writes what it waits for itself. It can be killed. */
static _Noreturn void hold(int file)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = NULL;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (make_hole(&page, size) < 0)
        _exit(1);
    if (pwrite(file, page, size, 0) < 0)
        _exit(2);
    _exit(3);
}

/** Wants to write to the same file, and cannot be killed until the other is. */
static _Noreturn void block(int file)
{
    const struct timespec nap = {.tv_nsec = (long)(10 * NS_PER_MS)};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "huatuo-try-hung");
    while (pwrite(file, "x", 1, 0) == 1)
        nanosleep(&nap, NULL);
    _exit(1);
}

/** Two processes and a file that nobody else knows of; whoever calls this ends them. */
static int hungtask_provoke(struct provoked *ret)
{
    void *page;
    int r = make_hole(&page, (size_t)sysconf(_SC_PAGESIZE)); /* may we? */
    int file = memfd_create("huatuo-try-hung", MFD_CLOEXEC);
    pid_t holder, blocked;

    if (r < 0 || file < 0)
        return r < 0 ? r : -errno;
    blocked = fork();
    if (blocked == 0)
        block(file);
    holder = fork();
    if (holder == 0)
        hold(file);
    if (blocked < 0 || holder < 0)
        return -errno;
    *ret = (struct provoked){
        .field = "pid", .value = (uint64_t)blocked, .within_ns = PROVOKE_WITHIN_NS};
    return 0;
}

const struct event event_hungtask = {
    .name = "hungtask",
    .tracer_name = "hungtask",
    .summary = "A task is stuck in uninterruptible sleep (D state).",
    .options = option_table,
    .options_size = sizeof(struct hungtask_options),
    .object = hungtask_bpf__elf_bytes,
    .hooks = hooks,
    .wire_size = sizeof(struct hungtask_wire),
    .sample_size = sizeof(struct wire_sample),
    .episodes = true,
    .settings_size = sizeof(struct hungtask_settings),
    .configure = hungtask_configure,
    .poll_ns = hungtask_poll_ns,
    .rule_name = hungtask_rule_name,
    .decode = hungtask_decode,
    .collect = hungtask_collect,
    .collects = hungtask_collects,
    .provoke = hungtask_provoke,
};
