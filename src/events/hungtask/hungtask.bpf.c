// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/**
 * Tasks that stay in uninterruptible sleep (D state): found by the kernel's own detector
 * (khungtaskd), and by a look at all tasks every second or so.
 */

#include "events/hungtask/hungtask.h"
#include "bpf/cgroup.bpf.h"
#include "bpf/event.bpf.h"
#include "bpf/sample.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* include/linux/sched.h; the same from 5.10 to 7.2 */
#define TASK_UNINTERRUPTIBLE 0x2
#define TASK_WAKEKILL        0x100
#define TASK_NOLOAD          0x400
#define PF_FROZEN            0x10000

#define SLEEPS_MAX           16384
#define HANGS_MAX            4096

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct vmacache {
};

/* Removed by 7964cf8caa4d, in the same release in which f5d39b020809 made being frozen a state of
 * its own; later on the bit of PF_FROZEN means something else. */
struct task_struct___before_6_1 {
    struct vmacache vmacache;
};

#pragma clang attribute pop

volatile struct hungtask_settings settings SEC(".data.settings") = {};

struct sleep_key {
    __u64 start_ns; /* of the thread: task_struct.start_boottime */
    __u32 tid;
    __u32 pad;
};

/**
 * A task that was met in D state. It is in the same sleep still if it has not given up the CPU
 * since: whoever sleeps has given it up as the last thing.
 */
struct sleep {
    __u64 switches; /* nvcsw + nivcsw */
    __u64 since_ns; /* when it was first met. CLOCK_MONOTONIC: a suspended machine is not waited for
                     */
    __u64 told;     /* it was recorded in full */
};

/* Those that are over fall out by themselves: nobody looks them up any more. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, SLEEPS_MAX);
    __type(key, struct sleep_key);
    __type(value, struct sleep);
} sleeps SEC(".maps");

/** A process whose threads hang: one episode, until none of them does. */
struct hang {
    struct wire_key key;
    __u64 last_ns; /* when one of them was last found to. CLOCK_BOOTTIME */
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, HANGS_MAX);
    __type(key, __u32); /* pid */
    __type(value, struct hang);
} hangs SEC(".maps");

/* Looks of the watch: when the last one began, and the last that has met all tasks. CLOCK_BOOTTIME;
 * 0: there was none */
static volatile struct {
    __u64 begin_ns;
    __u64 whole_ns;
} looks;

/* The last record that lists all tasks. */
static volatile struct {
    __u64 time_ns; /* CLOCK_BOOTTIME */
    __u32 pid;
} listed;

/* --- tasks */

static __always_inline __u64 switches_of(struct task_struct *task)
{
    return BPF_CORE_READ(task, nvcsw) + BPF_CORE_READ(task, nivcsw);
}

static __always_inline struct sleep_key key_of(struct task_struct *task)
{
    struct sleep_key key = {};

    key.start_ns = BPF_CORE_READ(task, start_boottime);
    key.tid = BPF_CORE_READ(task, pid);
    return key;
}

/** The sleep that the task is in, if it was met before. */
static __always_inline struct sleep *known_sleep(struct task_struct *task)
{
    struct sleep_key key = key_of(task);
    struct sleep *s = bpf_map_lookup_elem(&sleeps, &key);

    return s && s->switches == switches_of(task) ? s : NULL;
}

/** The sleep that the task is in; one that was not met before is taken to have begun at `since`. */
static __always_inline struct sleep *sleep_of(struct task_struct *task, __u64 since)
{
    struct sleep_key key = key_of(task);
    struct sleep *s = known_sleep(task);
    struct sleep fresh = {};

    if (s)
        return s;
    fresh.switches = switches_of(task);
    fresh.since_ns = since;
    if (bpf_map_update_elem(&sleeps, &key, &fresh, BPF_ANY) < 0)
        return NULL;
    return bpf_map_lookup_elem(&sleeps, &key);
}

/** Of a task that an iterator has met: read without calls, as this is done for every task. */
static __always_inline __u64 state_of(struct task_struct *task)
{
    if (bpf_core_field_exists(task->__state))
        return task->__state;
    return ((struct task_struct___before_5_14 *)task)->state;
}

static __always_inline bool is_frozen(struct task_struct *task)
{
    return bpf_core_field_exists(((struct task_struct___before_6_1 *)task)->vmacache) &&
           task->flags & PF_FROZEN;
}

/** In D state: not a kernel thread that waits for work (TASK_NOLOAD), nor who was frozen with its
 * cgroup or the machine. Other flags say nothing (TASK_FREEZABLE). */
static __always_inline bool is_blocked(struct task_struct *task, __u64 state)
{
    return state & TASK_UNINTERRUPTIBLE && !(state & TASK_NOLOAD) && !is_frozen(task);
}

/* --- events */

/** `typed` is the task where the verifier knows that it is one, else NULL: then there is no stack.
 * `s` is its sleep, if there was room to remember it. */
static __always_inline int on_hung(struct task_struct *task, struct task_struct *typed,
                                   struct sleep *s, __u32 by, __u64 lasted_ns)
{
    struct wire_counters *c = event_counters();
    __u64 now = bpf_ktime_get_boot_ns(), window_id;
    struct hungtask_wire *w;
    struct hang hang = {};
    __u32 pid, nth;
    bool full;

    if (!c || !event_is_ours(task))
        return 0;
    COUNT(c->seen);
    pid = BPF_CORE_READ(task, tgid);
    hang.key.what = pid;
    hang.key.words[0] = BPF_CORE_READ(task, group_leader, start_boottime);
    hang.last_ns = now;
    full = event_episode(c, &hang.key, now, now - lasted_ns, s && s->told, &window_id, &nth);
    bpf_map_update_elem(&hangs, &pid, &hang, BPF_ANY);
    if (!full)
        return 0;

    w = bpf_ringbuf_reserve(&ring, sizeof(*w), 0);
    if (!w) { /* if it goes on it is met again */
        event_lost(c, WIRE_LOST_RING_FULL);
        return 0;
    }
    if (s)
        s->told = 1;
    event_zero(w, sizeof(*w));
    event_head_of(task, &w->head, now, window_id, nth);
    BPF_CORE_READ_INTO(&w->process_name, task, group_leader, comm);
    cgroup_read_path(&w->cgroup, cgroup_of(task));
    w->found_by = by;
    w->blocked_ns = lasted_ns;
    w->threshold_ns = by == HUNGTASK_BY_KERNEL ? settings.kernel_ns : settings.threshold_ns;
    w->lists = !listed.time_ns || now - listed.time_ns >= settings.list_interval_ns;
    if (w->lists) {
        listed.time_ns = now;
        listed.pid = pid;
    }
    w->listed_ns = listed.time_ns;
    w->listed_pid = listed.pid;
    if (typed)
        w->head.stack_bytes = bpf_get_task_stack(typed, w->head.stack, sizeof(w->head.stack), 0);
    COUNT(c->sent);
    bpf_ringbuf_submit(w, 0);
    return 0;
}

/* --- the kernel's detector, which runs in khungtaskd */

static __always_inline int on_detected(struct task_struct *task, struct task_struct *typed)
{
    __u64 now = bpf_ktime_get_ns(), since = now - settings.kernel_ns;
    struct sleep *s;

    if (!event_watched())
        return 0;
    s = sleep_of(task, since);
    if (s && s->since_ns > since)
        s->since_ns = since; /* the watch did not see it begin */
    return on_hung(task, typed, s, HUNGTASK_BY_KERNEL, now - (s ? s->since_ns : since));
}

SEC("?tp_btf/sched_process_hang")
int typed_sched_process_hang(__u64 *ctx)
{
    struct task_struct *task = (struct task_struct *)ctx[0];

    return on_detected(task, task);
}

SEC("?raw_tp/sched_process_hang")
int raw_sched_process_hang(__u64 *ctx)
{
    return on_detected((struct task_struct *)ctx[0], NULL);
}

/* --- the watch: one look at every task */

SEC("?iter/task")
int watch_tasks(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    __u64 state, now;
    struct sleep *s;

    if (!event_watched())
        return 0;
    if (!task) { /* that was the last one */
        looks.whole_ns = looks.begin_ns;
        return 0;
    }
    if (ctx->meta->seq_num == 0)
        looks.begin_ns = bpf_ktime_get_boot_ns();
    state = state_of(task);
    if (!is_blocked(task, state))
        return 0;
    now = bpf_ktime_get_ns();
    s = sleep_of(task, now);
    /* Whoever can be killed is not stuck; a parent in vfork() is one of them. */
    if (!s || state & TASK_WAKEKILL || (now - s->since_ns < settings.threshold_ns && !s->told))
        return 0;
    return on_hung(task, task, s, HUNGTASK_BY_WATCH, now - s->since_ns);
}

/* --- behind it, for each process that hung: whether it still does */

SEC("?raw_tp")
int tend_hang(__u64 *ctx)
{
    __u32 pid = ctx[0];
    struct hang *hang = bpf_map_lookup_elem(&hangs, &pid);
    __u64 whole_ns = looks.whole_ns;

    if (!hang || (whole_ns && hang->last_ns >= whole_ns))
        return 0;
    if (whole_ns) /* else nobody looks, and it is not known */
        event_episode_over(&hang->key, whole_ns);
    bpf_map_delete_elem(&hangs, &pid);
    return 0;
}

/* --- all of them, for a record that lists them */

/* Where a row is put together, by the reader's thread id: two may read at a time. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 64);
    __type(key, __u32);
    __type(value, struct hungtask_row);
} rows SEC(".maps");

/* Never written: what a new one is made from. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hungtask_row);
} empty SEC(".maps");

static __always_inline struct hungtask_row *row_of_reader(void)
{
    __u32 tid = (__u32)bpf_get_current_pid_tgid(), zero = 0;
    struct hungtask_row *row = bpf_map_lookup_elem(&rows, &tid), *nothing;

    if (row)
        return row;
    nothing = bpf_map_lookup_elem(&empty, &zero);
    if (!nothing || bpf_map_update_elem(&rows, &tid, nothing, BPF_ANY) < 0)
        return NULL;
    return bpf_map_lookup_elem(&rows, &tid);
}

#define ROW_HEAD_BYTES offsetof(struct hungtask_row, stack)

static __always_inline void write_row(struct seq_file *seq, struct hungtask_row *row)
{
    __u64 n = ROW_HEAD_BYTES + (row->stack_bytes > 0 ? row->stack_bytes : 0);

    /* The compiler must not know better than the verifier (5.10's above all) where it ends. */
    asm volatile("" : "+r"(n));
    bpf_seq_write(seq, row, n > sizeof(*row) ? sizeof(*row) : n);
}

SEC("?iter/task")
int snapshot_tasks(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    struct hungtask_row *row;
    struct sleep *s;
    __u64 state;

    if (!task)
        return 0;
    state = state_of(task);
    if (!is_blocked(task, state))
        return 0;
    row = row_of_reader();
    if (!row)
        return 0;
    s = known_sleep(task);
    row->blocked_ns = s ? bpf_ktime_get_ns() - s->since_ns : 0;
    row->pid = BPF_CORE_READ(task, tgid);
    row->tid = BPF_CORE_READ(task, pid);
    row->killable = (state & TASK_WAKEKILL) != 0;
    BPF_CORE_READ_INTO(&row->comm, task, comm);
    row->stack_bytes = bpf_get_task_stack(task, row->stack, sizeof(row->stack), 0);
    write_row(ctx->meta->seq, row);
    cgroup_write_names(ctx->meta->seq, cgroup_of(task));
    return 0;
}
