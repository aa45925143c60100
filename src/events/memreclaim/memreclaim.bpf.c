// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/**
 * Processes that have to reclaim memory themselves before they get any: how long, in a sliding
 * time, all threads and calls of a process together. Once that has reached a threshold an episode
 * has begun, which ends when hardly anything is reclaimed any more.
 */

#include "events/memreclaim/memreclaim.h"
#include "bpf/cgroup.bpf.h"
#include "bpf/event.bpf.h"
#include "events/memreclaim/window.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PROCESSES_MAX 2048
#define INSIDE_MAX    16384
#define SHARES_MAX    8192
#define EPISODES_MAX  512

/* An episode is over when nobody has been in reclaim for so long, or when in the sliding time there
 * is less than this part of the threshold. */
#define OVER_NS       1000000000ULL
#define OVER_PART     10

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct page_counter {
    atomic_long_t usage;
    unsigned long high; /* 5.8+, 4b82ab4f28f9 */
    unsigned long max;
};

struct mem_cgroup {
    struct cgroup_subsys_state css;
    struct page_counter memory;
};

#pragma clang attribute pop

volatile struct memreclaim_settings settings SEC(".data.settings") = {};

/** A process that reclaims, or did a moment ago. */
struct process {
    struct window window;
    __u64 leader;     /* task_struct of its first thread, which stays while others are there */
    __u64 streak_ns;  /* begin of the first call after a sliding time without any */
    __u64 end_ns;     /* of the last call */
    __u64 worst_ns;   /* of the thread that was in reclaim longest, lately or in the episode */
    __u64 worst_at;   /* when that was found */
    __u64 episode_ns; /* when it began; 0: there is none */
    __u64 ongoing_ns; /* when it is to be told that it goes on */
    struct window_mark from; /* what is not of the episode */
    __u32 worst_tid;
    __u32 last_tid; /* the thread that began last */
    __u32 told;     /* records of the episode */
    __u32 has_current;
    char worst_comm[WIRE_COMM_LEN];
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PROCESSES_MAX);
    __type(key, __u32); /* pid */
    __type(value, struct process);
} processes SEC(".maps");

/** A thread that is in reclaim: there are as many as there are calls at this moment. */
struct inside {
    __u64 begin_ns;
    __u64 token;   /* window_token() */
    __u64 process; /* its base_ns: whether it is still the same */
    __u64 task;
    __u64 scanned;
    __u32 pid;
    __u32 global;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, INSIDE_MAX);
    __type(key, __u32); /* thread id */
    __type(value, struct inside);
} inside SEC(".maps");

/** What a thread has spent, to name the worst. */
struct share {
    __u64 process;  /* base_ns of the process's window */
    __u64 since_ns; /* when `now_ns` began to be added up */
    __u64 now_ns;
    __u64 before_ns; /* in the sliding time before that */
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, SHARES_MAX);
    __type(key, __u32); /* thread id */
    __type(value, struct share);
} shares SEC(".maps");

/* What will be told of an episode, as far as it is known when it begins. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, EPISODES_MAX);
    __type(key, __u32); /* pid */
    __type(value, struct memreclaim_wire);
} episodes SEC(".maps");

/* Never written: what new entries begin with. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct process);
} no_process SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct memreclaim_wire);
} no_episode SEC(".maps");

/* A bucket of a hash map that is in use on this CPU by whoever was interrupted is "busy" (5.11+,
 * 20b6cc34ea74), for some ten instructions. */
#define TRIES 4
#define E2BIG 7

static __always_inline long insert(void *map, const __u32 *key, const void *value, __u64 flags)
{
    long r = -1;

    for (int i = 0; i < TRIES && r < 0 && r != -EEXIST && r != -E2BIG; i++)
        r = bpf_map_update_elem(map, key, value, flags);
    return r;
}

static __always_inline __u64 within_ns(const struct process *p)
{
    return WINDOW_SLICES * p->window.slice_ns;
}

/* --- a process has reached the threshold */

/** Of the memory cgroups with a limit, the one with the least room left. */
static __noinline void read_limit(struct memreclaim_wire *e, struct cgroup_subsys_state *css)
{
    __s64 least = 0;

    for (__u32 i = 0; i < CGROUP_NAMES_MAX; i++) {
        struct cgroup_subsys_state *parent = css ? BPF_CORE_READ(css, parent) : NULL;
        struct mem_cgroup *memcg;
        __u64 usage, max, high;
        __s64 room;

        if (!parent) /* the root has no limit */
            break;
        memcg = (void *)((__u64)css - bpf_core_field_offset(struct mem_cgroup, css));
        usage = BPF_CORE_READ(memcg, memory.usage.counter);
        max = BPF_CORE_READ(memcg, memory.max);
        high = BPF_CORE_READ(memcg, memory.high);
        room = (max < high ? max : high) - usage;
        if ((max < MEMRECLAIM_UNLIMITED || high < MEMRECLAIM_UNLIMITED) &&
            (!e->limit_css || room < least)) {
            least = room;
            e->limit_css = (__u64)css;
            e->limit_level = i;
            e->usage = usage;
            e->max = max;
            e->high = high;
        }
        css = parent;
    }
}

static __noinline int begin_episode(struct process *p, __u32 pid, __u32 tid,
                                    struct window_peak *peak)
{
    struct task_struct *leader = (struct task_struct *)p->leader;
    struct wire_counters *c = event_counters();
    __u64 now = bpf_ktime_get_boot_ns();
    struct cgroup_subsys_state *css;
    struct memreclaim_wire *e;
    __u32 zero = 0;
    long r;

    e = bpf_map_lookup_elem(&no_episode, &zero);
    if (!c || !e)
        return 0;
    if (!event_is_ours(leader)) {
        p->episode_ns = now; /* it is the other object's, which has it in its own map */
        return 0;
    }
    r = insert(&episodes, &pid, e, BPF_NOEXIST);
    if (r < 0 && r != -E2BIG) /* another thread does it right now, or it comes again */
        return 0;
    COUNT(c->seen);
    e = r == 0 ? bpf_map_lookup_elem(&episodes, &pid) : NULL;
    if (!e) {
        event_lost(c, WIRE_LOST_KEYS_FULL);
        p->episode_ns = now;
        return 0;
    }
    e->head.pid = pid;
    e->head.tid = tid ? tid : pid;
    e->head.cpu = bpf_get_smp_processor_id();
    e->head.task_start_ns = BPF_CORE_READ(leader, start_boottime);
    e->head.ppid = BPF_CORE_READ(leader, real_parent, tgid);
    e->head.uid = BPF_CORE_READ(leader, cred, uid.val);
    BPF_CORE_READ_INTO(&e->head.comm, leader, comm);
    css = cgroup_memory_css(leader);
    cgroup_read(&e->cgroup, css);
    if (bpf_core_field_exists(struct mem_cgroup, memory))
        read_limit(e, css);
    /* Before the first call there was nothing. */
    e->entry_ns = peak->from_ns > p->streak_ns ? peak->from_ns : p->streak_ns;
    e->threshold_ns = settings.threshold_ns;
    e->within_ns = settings.within_ns;
    p->from = peak->from;
    p->told = 0;
    p->has_current = 0;
    p->ongoing_ns = e->entry_ns + settings.ongoing_ns;
    if (now - p->worst_at > within_ns(p))
        p->worst_ns = 0;
    p->episode_ns = now;
    return 0;
}

/** `higher` is the highest sum so far, or emptied. */
static __always_inline bool is_reached(const struct process *p, __u64 now,
                                       struct window_peak *higher)
{
    struct window_peak until_now;

    window_now(&p->window, now, &until_now);
    if (until_now.busy_ns > higher->busy_ns)
        *higher = until_now;
    return higher->busy_ns >= settings.threshold_ns;
}

/** What can be had only by a thread of the process; by the time of the record it may have ended. */
static __always_inline void read_current(void *ctx, struct memreclaim_wire *e)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    struct mm_struct *mm = BPF_CORE_READ(task, mm);
    unsigned long start, end, len;

    e->head.stack_bytes = bpf_get_stack(ctx, e->head.stack, sizeof(e->head.stack), 0);
    if (!mm)
        return;
    start = BPF_CORE_READ(mm, arg_start);
    end = BPF_CORE_READ(mm, arg_end);
    len = end > start ? end - start : 0;
    if (len > MEMRECLAIM_CMDLINE_MAX)
        len = MEMRECLAIM_CMDLINE_MAX;
    if (len && bpf_probe_read_user(e->cmdline, len, (void *)start) == 0)
        e->cmdline_bytes = len;
}

/** By a thread of the process that is in reclaim, or that leaves it. */
static __always_inline void look(void *ctx, struct process *p, __u32 pid, __u64 now,
                                 struct window_peak *peak)
{
    struct memreclaim_wire *e;

    if (!p->episode_ns && is_reached(p, now, peak))
        begin_episode(p, pid, (__u32)bpf_get_current_pid_tgid(), peak);
    if (!p->episode_ns || p->has_current)
        return;
    p->has_current = 1;
    e = bpf_map_lookup_elem(&episodes, &pid);
    if (e)
        read_current(ctx, e);
}

/* --- a thread begins */

static __noinline struct process *new_process(__u32 pid, __u64 now)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    __u32 zero = 0;
    struct process *p = bpf_map_lookup_elem(&no_process, &zero);
    __u64 slice_ns = settings.slice_ns;

    long r;

    if (!p || !slice_ns)
        return NULL;
    r = insert(&processes, &pid, p, BPF_NOEXIST);
    p = bpf_map_lookup_elem(&processes, &pid);
    if (r < 0 || !p)
        return p; /* another thread makes it right now */
    p->streak_ns = now;
    p->leader = (__u64)BPF_CORE_READ(task, group_leader);
    window_init(&p->window, now, slice_ns);
    return p;
}

static __always_inline int on_begin(void *ctx, __u32 global)
{
    __u64 ids = bpf_get_current_pid_tgid(), now;
    struct window_peak peak = {};
    __u32 pid = ids >> 32, tid = (__u32)ids;
    struct inside t = {};
    struct process *p;

    if (!event_watched())
        return 0;
    now = bpf_ktime_get_boot_ns();
    p = bpf_map_lookup_elem(&processes, &pid);
    if (!p)
        p = new_process(pid, now);
    if (!p || !window_is_ready(&p->window))
        return 0;
    window_advance(&p->window, now, &peak);
    look(ctx, p, pid, now, &peak);
    if (!window_count_inside(&p->window) && now - p->end_ns > within_ns(p))
        p->streak_ns = now;
    p->last_tid = tid;
    /* From here on: what was done here until now is not the process's reclaim. */
    t.begin_ns = bpf_ktime_get_boot_ns();
    t.token = window_token(&p->window, t.begin_ns);
    t.process = p->window.base_ns;
    t.task = bpf_get_current_task();
    t.pid = pid;
    t.global = global;
    if (insert(&inside, &tid, &t, BPF_ANY) < 0)
        return 0;
    window_enter(&p->window, t.token);
    /* Has it been taken out meanwhile? Then what it lies in may soon be another's. */
    if (bpf_map_lookup_elem(&processes, &pid) != p) {
        window_leave(&p->window, t.token, 0);
        bpf_map_delete_elem(&inside, &tid);
    }
    return 0;
}

/* --- a thread goes on, or ends */

static __noinline int add_share(struct process *p, __u32 tid, __u64 now, __u64 spent_ns)
{
    struct share *s = bpf_map_lookup_elem(&shares, &tid);
    struct share fresh = {};
    __u64 within = within_ns(p), sum = spent_ns;

    if (!s || s->process != p->window.base_ns) {
        fresh.process = p->window.base_ns;
        fresh.since_ns = now - spent_ns;
        fresh.now_ns = spent_ns;
        bpf_map_update_elem(&shares, &tid, &fresh, BPF_ANY);
    } else {
        if (!p->episode_ns && now - s->since_ns > within) {
            s->before_ns = now - s->since_ns > 2 * within ? 0 : s->now_ns;
            s->since_ns = now;
            s->now_ns = 0;
        }
        s->now_ns += spent_ns;
        sum = s->before_ns + s->now_ns;
    }
    if (sum > p->worst_ns || (!p->episode_ns && now - p->worst_at > within)) {
        p->worst_ns = sum;
        p->worst_at = now;
        p->worst_tid = tid;
        bpf_get_current_comm(p->worst_comm, sizeof(p->worst_comm));
    }
    return 0;
}

static __always_inline int on_shrink(void *ctx, __u64 scanned)
{
    __u32 tid = (__u32)bpf_get_current_pid_tgid(), pid;
    struct inside *t = bpf_map_lookup_elem(&inside, &tid);
    struct window_peak peak = {};
    struct process *p;
    __u64 now;

    if (!t)
        return 0;
    t->scanned += scanned;
    now = bpf_ktime_get_boot_ns();
    if (now - t->begin_ns < settings.slice_ns)
        return 0;
    /* A long call: caught in the act, it has the better stack. */
    pid = t->pid;
    p = bpf_map_lookup_elem(&processes, &pid);
    if (!p || p->window.base_ns != t->process)
        return 0;
    window_advance(&p->window, now, &peak);
    look(ctx, p, pid, now, &peak);
    return 0;
}

static __always_inline int on_end(void *ctx, __u64 reclaimed)
{
    __u32 tid = (__u32)bpf_get_current_pid_tgid(), pid;
    struct inside *t = bpf_map_lookup_elem(&inside, &tid);
    struct window_peak peak = {};
    struct process *p;
    __u64 now;

    if (!t)
        return 0;
    now = bpf_ktime_get_boot_ns();
    pid = t->pid;
    p = bpf_map_lookup_elem(&processes, &pid);
    if (p && p->window.base_ns == t->process) {
        window_advance(&p->window, now, &peak);
        p->end_ns = now;
        window_add(&p->window.done.reclaimed, reclaimed);
        window_add(&p->window.done.scanned, t->scanned);
        if (t->global)
            COUNT(p->window.done.global_calls);
        else
            COUNT(p->window.done.memcg_calls);
        window_leave(&p->window, t->token, now - t->begin_ns);
        add_share(p, tid, now, now - t->begin_ns);
        look(ctx, p, pid, now, &peak);
    }
    t->process = 0; /* should it stay for want of luck, it is nothing any more */
    bpf_map_delete_elem(&inside, &tid);
    return 0;
}

/* --- once a second, for each process: what is to be noticed although nothing happens */

static __noinline __u64 is_requested(struct memreclaim_wire *e)
{
    __u64 found = 0;

    for (__u32 r = 0; r < MEMRECLAIM_RANGES_MAX; r++) {
        __u64 start = settings.requested[r].start, size = settings.requested[r].size;

        if (!size)
            break;
        /* Without branches: each would double what the verifier has to follow. */
        for (__u32 i = 0; i < WIRE_STACK_MAX; i++) {
            __u64 into = e->head.stack[i] - start;

            found |= (into - size) >> 63 & ~(into >> 63);
        }
    }
    return found & 1;
}

/** The worst thread may be in the middle of a call. */
static __noinline int read_worst(struct memreclaim_wire *w, struct process *p, __u64 now)
{
    __u32 tid = p->last_tid;
    struct inside *t = bpf_map_lookup_elem(&inside, &tid);
    struct share *s = bpf_map_lookup_elem(&shares, &tid);
    struct task_struct *task;
    __u64 sum;

    w->worst_ns = p->worst_ns;
    w->worst_tid = p->worst_tid;
    __builtin_memcpy(w->worst_comm, p->worst_comm, sizeof(w->worst_comm));
    if (t && t->process == p->window.base_ns) {
        task = (struct task_struct *)t->task;
        sum = now - t->begin_ns;
        if (s && s->process == p->window.base_ns)
            sum += s->before_ns + s->now_ns;
        if (sum > w->worst_ns) {
            w->worst_ns = sum;
            w->worst_tid = tid;
            BPF_CORE_READ_INTO(&w->worst_comm, task, comm);
        }
    }
    if (w->worst_ns > w->reclaim_ns)
        w->worst_ns = w->reclaim_ns;
    return 0;
}

static __always_inline void tell(struct process *p, struct memreclaim_wire *e, __u64 now,
                                 bool ongoing)
{
    struct wire_counters *c = event_counters();
    __u64 busy_ns = window_busy(&p->window, now), window_id;
    struct wire_key key = {};
    struct memreclaim_wire *w;
    __u32 nth;

    if (!c)
        return;
    if (p->told) /* the first was counted when the threshold was reached */
        COUNT(c->seen);
    p->told++;
    if (is_requested(e)) {
        event_filtered(c, MEMRECLAIM_RULE_REQUESTED);
        return;
    }
    key.what = e->head.pid;
    key.words[0] = e->head.task_start_ns;
    if (!event_window(c, &key, now, &window_id, &nth))
        return;
    w = bpf_ringbuf_reserve(&ring, sizeof(*w), 0);
    if (!w) {
        event_lost(c, WIRE_LOST_RING_FULL);
        return;
    }
    bpf_probe_read_kernel(w, sizeof(*w), e);
    w->head.window_id = window_id;
    w->head.nth = nth;
    w->ongoing = ongoing;
    w->until_ns = window_count_inside(&p->window) ? now : p->end_ns;
    w->head.time_ns = w->until_ns;
    w->reclaim_ns = busy_ns - p->from.busy_ns;
    w->reclaimed = p->window.done.reclaimed - p->from.reclaimed;
    w->scanned = p->window.done.scanned - p->from.scanned;
    w->memcg_calls = p->window.done.memcg_calls - p->from.memcg_calls;
    w->global_calls = p->window.done.global_calls - p->from.global_calls;
    read_worst(w, p, now);
    COUNT(c->sent);
    bpf_ringbuf_submit(w, 0);
}

static __always_inline bool is_over(const struct process *p, __u64 now)
{
    __u64 within = within_ns(p), silence = within < OVER_NS ? within : OVER_NS;
    struct window_peak until_now;

    if (!window_count_inside(&p->window) && now - p->end_ns > silence)
        return true;
    window_now(&p->window, now, &until_now);
    return until_now.busy_ns * OVER_PART < settings.threshold_ns;
}

SEC("?raw_tp")
int tend_process(__u64 *ctx)
{
    __u32 pid = ctx[0];
    bool last = ctx[1], over;
    struct process *p = bpf_map_lookup_elem(&processes, &pid);
    struct window_peak peak = {};
    struct memreclaim_wire *e;
    __u64 now;

    if (!p || !window_is_ready(&p->window))
        return 0;
    now = bpf_ktime_get_boot_ns();
    window_advance(&p->window, now, &peak);
    if (!p->episode_ns) {
        if (!last && is_reached(p, now, &peak))
            begin_episode(p, pid, p->last_tid, &peak);
        else if (!window_count_inside(&p->window) && now - p->end_ns > 2 * within_ns(p))
            bpf_map_delete_elem(&processes, &pid);
        if (!p->episode_ns)
            return 0;
    }
    over = is_over(p, now);
    if (!over && !last && now < p->ongoing_ns)
        return 0;
    e = bpf_map_lookup_elem(&episodes, &pid);
    if (e)
        tell(p, e, now, !over);
    if (over) { /* what was told is not to be counted again */
        window_forget(&p->window, now);
        p->streak_ns = now;
        p->episode_ns = 0;
        bpf_map_delete_elem(&episodes, &pid);
    } else if (e) {
        p->ongoing_ns = now + (now - e->entry_ns); /* again when it has lasted twice as long */
    }
    return 0;
}

/* --- the hooks */

SEC("?tp_btf/mm_vmscan_memcg_reclaim_begin")
int typed_memcg_begin(__u64 *ctx)
{
    return on_begin(ctx, 0);
}

SEC("?tp_btf/mm_vmscan_memcg_reclaim_end")
int typed_memcg_end(__u64 *ctx)
{
    return on_end(ctx, ctx[0]);
}

SEC("?tp_btf/mm_vmscan_direct_reclaim_begin")
int typed_direct_begin(__u64 *ctx)
{
    return on_begin(ctx, 1);
}

SEC("?tp_btf/mm_vmscan_direct_reclaim_end")
int typed_direct_end(__u64 *ctx)
{
    return on_end(ctx, ctx[0]);
}

SEC("?tp_btf/mm_vmscan_lru_shrink_inactive")
int typed_shrink(__u64 *ctx)
{
    return on_shrink(ctx, ctx[1]);
}

SEC("?tp_btf/sched_process_exit")
int typed_exit(__u64 *ctx)
{
    return on_end(ctx, 0);
}

SEC("?raw_tp/mm_vmscan_memcg_reclaim_begin")
int raw_memcg_begin(__u64 *ctx)
{
    return on_begin(ctx, 0);
}

SEC("?raw_tp/mm_vmscan_memcg_reclaim_end")
int raw_memcg_end(__u64 *ctx)
{
    return on_end(ctx, ctx[0]);
}

SEC("?raw_tp/mm_vmscan_direct_reclaim_begin")
int raw_direct_begin(__u64 *ctx)
{
    return on_begin(ctx, 1);
}

SEC("?raw_tp/mm_vmscan_direct_reclaim_end")
int raw_direct_end(__u64 *ctx)
{
    return on_end(ctx, ctx[0]);
}

SEC("?raw_tp/mm_vmscan_lru_shrink_inactive")
int raw_shrink(__u64 *ctx)
{
    return on_shrink(ctx, ctx[1]);
}

SEC("?raw_tp/sched_process_exit")
int raw_exit(__u64 *ctx)
{
    return on_end(ctx, 0);
}
