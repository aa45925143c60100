// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** Processes that the OOM killer chooses, by mark_oom_victim() and what it tells before. */

#include "events/oom/oom.h"
#include "bpf/cgroup.bpf.h"
#include "bpf/event.bpf.h"
#include "bpf/memory.bpf.h"

#include <linux/ptrace.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SIGKILL       9
#define SEND_SIG_PRIV 1 /* include/linux/sched/signal.h: the kernel itself sends it */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct page_counter {
    atomic_long_t usage;
    unsigned long failcnt;
    unsigned long max;
};

struct mem_cgroup {
    struct cgroup_subsys_state css;
    struct page_counter memory;
    struct page_counter swap;  /* v2 */
    struct page_counter memsw; /* v1 */
    bool oom_group;
    atomic_long_t memory_events[1]; /* as many as there are events */
};

/* The numbers are the running kernel's. */
enum memcg_memory_event {
    MEMCG_MAX = 2,
    MEMCG_OOM = 3,
    MEMCG_OOM_KILL = 4,
    MEMCG_OOM_GROUP_KILL = 5, /* 5.17+, b6bf9abb0aa4 */
};

enum oom_constraint { CONSTRAINT_NONE = 0 };

struct oom_control {
    struct mem_cgroup *memcg;
    unsigned int gfp_mask;
    int order;
    unsigned long totalpages;
    struct task_struct *chosen;
    long chosen_points;
    enum oom_constraint constraint;
};

struct trace_event_raw_mark_victim {
    int pid;
};

/* 72ba14deb40a, also in later releases of 6.1: the tracepoint's argument is the task. */
struct trace_event_raw_mark_victim___task {
    unsigned long total_vm;
};

#pragma clang attribute pop

volatile struct oom_settings settings SEC(".data.settings") = {};

/* What was told in a task, by its thread id. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, struct oom_before);
} before SEC(".maps");

/* Never written: it is what empties the others. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct oom_before);
} empty SEC(".maps");

/* Who was sent SIGKILL last by a task, by its thread id; for kernels whose tracepoint only tells a
 * pid. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, __u64);
} killed SEC(".maps");

struct marked_key {
    __u64 start_ns;
    __u32 pid;
    __u32 pad;
};

/* A process may be marked once for each of its threads that wants memory while it dies. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct marked_key);
    __type(value, __u32);
} marked SEC(".maps");

/* The last marks, by their number: who dies as one of a group may be gone before the snapshot. */
struct mark {
    __u64 time_ns;
    __u32 pid;
    __u32 by; /* thread id of the trigger */
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, OOM_MARKS_MAX);
    __type(key, __u32);
    __type(value, struct mark);
} marks SEC(".maps");

static volatile __u32 n_marks;

static __always_inline __u32 current_tid(void)
{
    return (__u32)bpf_get_current_pid_tgid();
}

/** What this task told; emptied if `fresh`. */
static __always_inline struct oom_before *told(__u32 tid, bool fresh)
{
    struct oom_before *found = bpf_map_lookup_elem(&before, &tid);
    struct oom_before *nothing;
    __u32 zero = 0;

    if (found && !fresh)
        return found;
    nothing = bpf_map_lookup_elem(&empty, &zero);
    if (!nothing || bpf_map_update_elem(&before, &tid, nothing, BPF_ANY) < 0)
        return NULL;
    return bpf_map_lookup_elem(&before, &tid);
}

/* --- oom_kill_process(struct oom_control *oc, const char *message) */

static __always_inline int on_kill(struct oom_control *oc)
{
    struct task_struct *chosen;
    struct mem_cgroup *memcg;
    struct oom_before *b;

    if (!event_watched())
        return 0;
    b = told(current_tid(), true);
    if (!b)
        return 0;
    b->way = OOM_WAY_CONTROL;
    b->time_ns = bpf_ktime_get_boot_ns();
    memcg = BPF_CORE_READ(oc, memcg);
    if (memcg)
        b->memcg_css = (__u64)memcg + bpf_core_field_offset(struct mem_cgroup, css);
    b->gfp_mask = BPF_CORE_READ(oc, gfp_mask);
    b->order = BPF_CORE_READ(oc, order);
    b->constraint = BPF_CORE_READ(oc, constraint);
    b->chosen_points = BPF_CORE_READ(oc, chosen_points);
    b->total_pages = BPF_CORE_READ(oc, totalpages);
    chosen = BPF_CORE_READ(oc, chosen);
    b->chosen_pid = BPF_CORE_READ(chosen, pid);
    return 0;
}

SEC("?fentry/oom_kill_process")
int BPF_PROG(fentry_oom_kill_process, struct oom_control *oc)
{
    return on_kill(oc);
}

SEC("?kprobe/oom_kill_process")
int BPF_KPROBE(kprobe_oom_kill_process, struct oom_control *oc)
{
    return on_kill(oc);
}

/* --- what it writes into its log: a piece a call, at once and in the task that writes it
 * (printk_sprint(), in 6.1 at the latest; in 5.10 these are whole lines, by whoever has the
 * console) */

/* Without branches: each would double what the verifier has to follow. Returns 0 or 1. */
static __always_inline __u32 begins(const char *text, const char *with, __u32 n)
{
    __u32 differs = 0;

#pragma unroll
    for (__u32 i = 0; i < n; i++)
        differs |= (__u8)(text[i] ^ with[i]);
    return (differs - 1) >> 31;
}

/* Behind the name of a process, which cannot hold as much itself. */
static __always_inline bool is_invoked(const char *text)
{
    __u32 found = 0;

#pragma unroll
    for (__u32 at = 0; at < WIRE_COMM_LEN; at++)
        found += begins(text + at, " invoked oom-killer", 19);
    return found;
}

/* `to` is empty. The compiler must not know better than the verifier what the bound is. */
static __always_inline void copy(char *to, __u64 size, const char *from, __u64 len)
{
    asm volatile("" : "+r"(len));
    if (len > size - 1)
        len = size - 1;
    bpf_probe_read_kernel(to, len, from);
}

static __always_inline int on_console(const char *text, __u64 len)
{
    char head[64] = {};
    struct oom_before *b;
    __u32 tid;

    if (!event_watched())
        return 0;
    copy(head, sizeof(head), text, len);
    tid = current_tid();
    if (is_invoked(head)) {
        b = told(tid, true);
        if (!b)
            return 0;
        b->way = OOM_WAY_CONSOLE;
        b->stage = OOM_STAGE_INVOKED;
        b->time_ns = bpf_ktime_get_boot_ns();
        copy(b->invoked, sizeof(b->invoked), text, len);
        return 0;
    }
    b = bpf_map_lookup_elem(&before, &tid);
    if (!b || b->way != OOM_WAY_CONSOLE)
        return 0;
    if (b->stage == OOM_STAGE_PATH) {
        copy(b->path, sizeof(b->path), text, len);
        b->stage = OOM_STAGE_CAUSE;
    } else if (begins(head, "oom-kill:constraint=", 20)) {
        copy(b->cause, sizeof(b->cause), text, len);
        b->stage = OOM_STAGE_CAUSE;
    } else if (b->stage == OOM_STAGE_CAUSE && begins(head, ",oom_memcg=", 12)) {
        b->stage = OOM_STAGE_PATH; /* with the NUL behind it: that was all of this piece */
    } else if (b->stage == OOM_STAGE_CAUSE && begins(head, ",task=", 6)) {
        copy(b->task, sizeof(b->task), text, len);
        b->stage = OOM_STAGE_TASK;
        b->time_ns = bpf_ktime_get_boot_ns();
    }
    return 0;
}

SEC("?tp_btf/console")
int typed_console(__u64 *ctx)
{
    return on_console((const char *)ctx[0], ctx[1]);
}

/* --- who was chosen */

static __always_inline void read_page_counter(struct page_counter *counter, __u64 *ret_usage,
                                              __u64 *ret_max, __u64 *ret_failcnt)
{
    *ret_usage = BPF_CORE_READ(counter, usage.counter);
    *ret_max = BPF_CORE_READ(counter, max);
    *ret_failcnt = BPF_CORE_READ(counter, failcnt);
}

static __always_inline __u64 read_event(struct mem_cgroup *memcg, __u64 which)
{
    __u64 at = (__u64)memcg + bpf_core_field_offset(struct mem_cgroup, memory_events) +
               which * sizeof(long);
    __u64 value = 0;

    bpf_probe_read_kernel(&value, sizeof(value), (void *)at);
    return value;
}

/* A function of its own, or clang moves the number out of the loop, to before the question whether
 * it exists, and kernels without it refuse to load the program. */
static __noinline __u64 read_group_kills(struct mem_cgroup *memcg)
{
    return read_event(memcg, bpf_core_enum_value(enum memcg_memory_event, MEMCG_OOM_GROUP_KILL));
}

static __always_inline void read_level(struct oom_level *ret, struct cgroup_subsys_state *css,
                                       bool unified)
{
    struct mem_cgroup *memcg = (void *)((__u64)css - bpf_core_field_offset(struct mem_cgroup, css));

    ret->css = (__u64)css;
    read_page_counter(&memcg->memory, &ret->usage, &ret->max, &ret->failcnt);
    if (unified)
        read_page_counter(&memcg->swap, &ret->swap_usage, &ret->swap_max, &ret->swap_failcnt);
    else
        read_page_counter(&memcg->memsw, &ret->swap_usage, &ret->swap_max, &ret->swap_failcnt);
    ret->oom_group = BPF_CORE_READ(memcg, oom_group);
    ret->n_max = read_event(memcg, bpf_core_enum_value(enum memcg_memory_event, MEMCG_MAX));
    ret->n_oom = read_event(memcg, bpf_core_enum_value(enum memcg_memory_event, MEMCG_OOM));
    ret->n_oom_kill =
        read_event(memcg, bpf_core_enum_value(enum memcg_memory_event, MEMCG_OOM_KILL));
    if (bpf_core_enum_value_exists(enum memcg_memory_event, MEMCG_OOM_GROUP_KILL))
        ret->n_oom_group_kill = read_group_kills(memcg);
}

static __always_inline void read_levels(struct oom_wire *w, struct cgroup_subsys_state *css)
{
    if (!bpf_core_field_exists(struct mem_cgroup, memory))
        return;
    for (__u32 i = 0; i < OOM_LEVELS_MAX; i++) {
        struct cgroup_subsys_state *parent = css ? BPF_CORE_READ(css, parent) : NULL;

        if (!parent) /* the root has no limit */
            break;
        read_level(&w->levels[i], css, w->victim_cgroup.unified);
        w->n_levels = i + 1;
        css = parent;
    }
}

static __always_inline void read_memory(struct oom_wire *w, struct task_struct *victim)
{
    struct mm_struct *mm = BPF_CORE_READ(victim, mm);
    unsigned long start, end, len;

    if (!mm)
        return;
    w->has_memory = 1;
    w->total_vm = BPF_CORE_READ(mm, total_vm);
    w->page_table_bytes = BPF_CORE_READ(mm, pgtables_bytes.counter);
    w->exact = mm_is_exact();
    w->anon = mm_pages(mm, MM_ANON, settings.n_cpus);
    w->file = mm_pages(mm, MM_FILE, settings.n_cpus);
    w->shmem = mm_pages(mm, MM_SHMEM, settings.n_cpus);
    w->swap = mm_pages(mm, MM_SWAP, settings.n_cpus);

    /* Of another process's memory nothing can be read here. */
    if (w->victim_pid != w->head.pid)
        return;
    start = BPF_CORE_READ(mm, arg_start);
    end = BPF_CORE_READ(mm, arg_end);
    len = end > start ? end - start : 0;
    if (len > OOM_CMDLINE_MAX)
        len = OOM_CMDLINE_MAX;
    if (len && bpf_probe_read_user(w->cmdline, len, (void *)start) == 0)
        w->cmdline_bytes = len;
}

static __always_inline void read_victim(struct oom_wire *w, struct task_struct *victim)
{
    struct cgroup_subsys_state *css = cgroup_memory_css(victim);

    cgroup_read(&w->victim_cgroup, css);
    w->victim_start_ns = BPF_CORE_READ(victim, group_leader, start_boottime);
    w->victim_pid = BPF_CORE_READ(victim, tgid);
    w->victim_tid = BPF_CORE_READ(victim, pid);
    w->victim_ppid = BPF_CORE_READ(victim, real_parent, tgid);
    w->victim_uid = BPF_CORE_READ(victim, cred, uid.val);
    w->oom_score_adj = BPF_CORE_READ(victim, signal, oom_score_adj);
    BPF_CORE_READ_INTO(&w->victim_name, victim, group_leader, comm);
    BPF_CORE_READ_INTO(&w->victim_comm, victim, comm);
    read_memory(w, victim);
    read_levels(w, css);
}

static __always_inline void remember_mark(__u64 now, __u32 pid)
{
    /* Two CPUs at the same time may take the same place; then one is missing in a list. */
    __u32 place = n_marks % OOM_MARKS_MAX;
    struct mark *m = bpf_map_lookup_elem(&marks, &place);

    COUNT(n_marks);
    if (!m)
        return;
    m->time_ns = now;
    m->pid = pid;
    m->by = current_tid();
}

/** `victim` may be NULL, if all that is known is a pid. */
static __always_inline int on_victim(void *ctx, struct task_struct *victim, __u32 tid)
{
    struct task_struct *trigger = (struct task_struct *)bpf_get_current_task();
    struct marked_key once = {};
    struct wire_counters *c;
    struct wire_key key = {};
    struct oom_before *b;
    struct oom_wire *w;
    __u64 now, window_id;
    __u32 nth, current = current_tid(), one = 1;

    if (!event_watched())
        return 0;
    c = event_counters();
    if (!c || !event_is_ours(victim ? (void *)victim : (void *)(__u64)tid))
        return 0;
    COUNT(c->seen);

    once.pid = victim ? BPF_CORE_READ(victim, tgid) : tid;
    once.start_ns = victim ? BPF_CORE_READ(victim, group_leader, start_boottime) : 0;
    if (bpf_map_update_elem(&marked, &once, &one, BPF_NOEXIST) == -EEXIST) {
        event_filtered(c, OOM_RULE_MARKED_AGAIN);
        return 0;
    }
    key.what = once.pid;
    key.words[0] = once.start_ns;
    now = bpf_ktime_get_boot_ns();
    remember_mark(now, once.pid);
    if (!event_window(c, &key, now, &window_id, &nth))
        return 0;

    w = bpf_ringbuf_reserve(&ring, sizeof(*w), 0);
    if (!w) {
        event_lost(c, WIRE_LOST_RING_FULL);
        return 0;
    }
    event_zero(w, sizeof(*w));
    event_head(ctx, &w->head, now, window_id, nth);
    cgroup_read(&w->trigger_cgroup, cgroup_memory_css(trigger));
    BPF_CORE_READ_INTO(&w->trigger_name, trigger, group_leader, comm);
    w->victim_pid = w->victim_tid = tid;
    if (victim)
        read_victim(w, victim);
    b = bpf_map_lookup_elem(&before, &current);
    if (b) {
        bpf_probe_read_kernel(&w->before, sizeof(w->before), b);
        COUNT(b->n_marks);
    }
    COUNT(c->sent);
    bpf_ringbuf_submit(w, 0);
    return 0;
}

#define ARGUMENT_IS_TASK bpf_core_field_exists(struct trace_event_raw_mark_victim___task, total_vm)

SEC("?tp_btf/mark_victim")
int typed_mark_victim(__u64 *ctx)
{
    struct task_struct *victim = (struct task_struct *)ctx[0];

    /* Never 0. But where the argument is a pid there is no such field, the relocation fails and the
     * kernel refuses to load this: the next way brings its own means to find the task. */
    if (bpf_core_field_offset(struct trace_event_raw_mark_victim___task, total_vm) == 0)
        return 0;
    return on_victim(ctx, victim, BPF_CORE_READ(victim, pid));
}

/** The task that this one has just sent SIGKILL to, if it is the one of that pid; or itself. */
static __always_inline struct task_struct *task_of(__u32 tid)
{
    __u32 current = current_tid();
    __u64 *found = bpf_map_lookup_elem(&killed, &current);
    struct task_struct *task = found ? (struct task_struct *)*found : NULL;

    if (task && (__u32)BPF_CORE_READ(task, pid) == tid)
        return task;
    return tid == current ? (struct task_struct *)bpf_get_current_task() : NULL;
}

SEC("?raw_tp/mark_victim")
int raw_mark_victim(__u64 *ctx)
{
    struct task_struct *victim;
    __u32 tid;

    if (ARGUMENT_IS_TASK) {
        victim = (struct task_struct *)ctx[0];
        return on_victim(ctx, victim, BPF_CORE_READ(victim, pid));
    }
    tid = (__u32)ctx[0];
    return on_victim(ctx, task_of(tid), tid);
}

SEC("?tp/oom/mark_victim")
int classic_mark_victim(struct trace_event_raw_mark_victim *ctx)
{
    __u32 tid = ctx->pid;

    return on_victim(ctx, task_of(tid), tid);
}

/** It precedes the mark by microseconds, in the same task. */
SEC("?raw_tp/signal_generate")
int raw_signal_generate(__u64 *ctx)
{
    __u32 current;
    __u64 task;

    if (!event_watched() || (int)ctx[0] != SIGKILL || ctx[1] != SEND_SIG_PRIV)
        return 0;
    current = current_tid();
    task = ctx[2];
    bpf_map_update_elem(&killed, &current, &task, BPF_ANY);
    return 0;
}

/* --- all processes, right after */

static __always_inline void write_marks(struct seq_file *seq)
{
    for (__u32 i = 0; i < OOM_MARKS_MAX; i++) {
        struct oom_task t = {};
        struct mark *m;
        __u32 place = i;

        m = bpf_map_lookup_elem(&marks, &place);
        if (!m || !m->time_ns)
            break;
        t.pid = m->pid;
        t.marked_ns = m->time_ns;
        t.marked_by = m->by;
        bpf_seq_write(seq, &t, sizeof(t));
        cgroup_write_names(seq, NULL);
    }
}

SEC("?iter/task")
int snapshot_tasks(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    struct cgroup_subsys_state *css;
    struct oom_task t = {};
    struct mm_struct *mm;

    if (!task) { /* that was the last one */
        write_marks(ctx->meta->seq);
        return 0;
    }
    mm = BPF_CORE_READ(task, mm);
    /* One of each process: its leader, or, if that has ended, whoever is left (the agent takes the
     * first). Kernel threads have no memory, nor have the dead; but those that were chosen are
     * wanted even so. */
    t.chosen = BPF_CORE_READ(task, signal, oom_mm) != NULL;
    if (task->pid != task->tgid && BPF_CORE_READ(task, group_leader, mm))
        return 0;
    if (!mm && !(t.chosen && task->pid == task->tgid))
        return 0;
    t.pid = task->tgid;
    t.oom_score_adj = BPF_CORE_READ(task, signal, oom_score_adj);
    t.uid = BPF_CORE_READ(task, cred, uid.val);
    if (mm) {
        t.anon = mm_pages(mm, MM_ANON, 0);
        t.file = mm_pages(mm, MM_FILE, 0);
        t.shmem = mm_pages(mm, MM_SHMEM, 0);
        t.swap = mm_pages(mm, MM_SWAP, 0);
    }
    BPF_CORE_READ_INTO(&t.comm, task, group_leader, comm);
    bpf_seq_write(ctx->meta->seq, &t, sizeof(t));
    css = cgroup_memory_css(task);
    cgroup_write_names(ctx->meta->seq, css ? BPF_CORE_READ(css, cgroup) : NULL);
    return 0;
}
