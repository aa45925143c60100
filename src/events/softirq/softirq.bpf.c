// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/**
 * CPUs that cannot be interrupted, and softirqs that are raised and do not run.
 *
 * All is looked at when a local timer interrupt ends, which is a few hundred times in a second: of
 * softirqs what the kernel itself has noted, if its BTF tells where. Else what happens at each of
 * them (raised, run) sets and clears a mark, without a look at the clock. Since when one waits is
 * known to a tick.
 */

#include "events/softirq/softirq.h"
#include "bpf/event.bpf.h"
#include "events/softirq/watch.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define OTHERS_MAX 512   /* CPUs that are looked at */
#define IDLE_EXIT  (~0U) /* PWR_EVENT_EXIT, include/trace/events/power.h */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct rq {
    __u64 prev_steal_time;    /* CONFIG_PARAVIRT. ns; as of the last tick */
    __u64 prev_steal_time_rq; /* CONFIG_PARAVIRT_TIME_ACCOUNTING. ns; as of the last switch, ... */
};

struct cfs_rq {
    struct rq *rq; /* CONFIG_FAIR_GROUP_SCHED */
};

struct sched_entity {
    struct cfs_rq *cfs_rq; /* likewise */
};

struct task_struct___sched {
    struct sched_entity se;
};

#pragma clang attribute pop

volatile struct softirq_settings settings SEC(".data.settings") = {};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct watch_cpu);
} cpus SEC(".maps");

static __always_inline struct watch_cpu *this_cpu(void)
{
    __u32 key = bpf_get_smp_processor_id();

    return bpf_map_lookup_elem(&cpus, &key);
}

/* --- what the hypervisor takes */

#define STEAL_IS_FRESH bpf_core_field_exists(struct rq, prev_steal_time_rq)

static __always_inline __u64 read_steal(struct watch_cpu *cpu)
{
    struct task_struct___sched *task = (void *)bpf_get_current_task();
    __u64 steal = 0, fresh = 0;
    struct rq *rq;

    if (!bpf_core_field_exists(struct sched_entity, cfs_rq) ||
        !bpf_core_field_exists(struct cfs_rq, rq))
        return 0;
    if (!cpu->rq)
        cpu->rq = BPF_CORE_READ(task, se.cfs_rq, rq);
    rq = cpu->rq;
    /* Both are what the steal clock showed when it was looked at last. */
    if (bpf_core_field_exists(struct rq, prev_steal_time))
        steal = BPF_CORE_READ(rq, prev_steal_time);
    if (STEAL_IS_FRESH)
        fresh = BPF_CORE_READ(rq, prev_steal_time_rq);
    return fresh > steal ? fresh : steal;
}

/* --- telling */

/** Counts one; true: it is to be put into the ring. `key` is of its window then. */
static __always_inline bool count(struct wire_counters *c, struct softirq_wire *w,
                                  struct wire_key *key)
{
    __u64 lasts = w->end_ns - w->begin_ns, now = bpf_ktime_get_boot_ns(), window_id;
    __u32 nth;

    COUNT(c->seen);
    if (w->others == SOFTIRQ_OTHERS_SILENT && lasts > WATCH_STOOD_STILL_NS) {
        event_filtered(c, SOFTIRQ_RULE_STOOD_STILL);
        return false;
    }
    key->what = w->what;
    key->words[0] = w->head.pid;
    key->words[1] = w->head.task_start_ns;
    if (w->ongoing) { /* an episode, and no other's */
        key->words[2] = w->begin_ns;
        if (!event_episode(c, key, now, now - lasts, false, &window_id, &nth))
            return false;
    } else if (!event_window(c, key, w->head.time_ns, &window_id, &nth)) {
        return false;
    }
    w->head.window_id = window_id;
    w->head.nth = nth;
    return true;
}

static __noinline int tell(struct softirq_wire *w, struct wire_key *ret_key)
{
    struct wire_counters *c;
    struct wire_key key = {};

    if (!w)
        return 0;
    c = event_counters();
    if (!c || !event_is_ours((void *)((__u64)(w->what + 1) << 32 | w->head.cpu)))
        return 0;
    if (!count(c, w, &key))
        return 0;
    if (ret_key)
        *ret_key = key;
    if (bpf_ringbuf_output(&ring, w, sizeof(*w), 0) < 0) {
        event_lost(c, WIRE_LOST_RING_FULL);
        return 0;
    }
    COUNT(c->sent);
    return 0;
}

/** The head of one that was found just now. */
static __always_inline void begin(void *ctx, struct softirq_wire *w, enum softirq_what what)
{
    event_head(ctx, &w->head, bpf_ktime_get_boot_ns(), 0, 0);
    w->what = what;
    w->threshold_ns = settings.threshold_ns;
    w->vector = w->vectors = w->others = w->ongoing = w->bh = w->pad = 0;
    w->irq_off_ns = 0;
}

/* --- interrupts off */

/* Not static, as some others here: the verifier looks at it once, not once on each way to it. */
__noinline __u32 look_at_others(__u32 self, __u64 from, __u64 to)
{
    __u64 known = 0, silent = 0;

    for (__u32 i = 0; i < OTHERS_MAX; i++) {
        __u32 key = i;
        struct watch_cpu *other = bpf_map_lookup_elem(&cpus, &key);
        __u64 counts;

        if (!other)
            break;
        counts = (watch_is_before(i ^ self, 1) | watch_is_before(other->sign_ns, 1)) ^ 1;
        known += counts;
        silent += counts & watch_is_silent(other, from, to);
    }
    if (!known)
        return SOFTIRQ_OTHERS_NONE;
    return silent == known ? SOFTIRQ_OTHERS_SILENT : SOFTIRQ_OTHERS_ALIVE;
}

/* --- softirqs that wait */

static __always_inline void *beside_queue(struct watch_cpu *cpu, __s64 distance)
{
    return cpu->rq ? (void *)cpu->rq + distance : NULL;
}

/** Sets and clears the marks from what the kernel has noted. One that it is about to run it does
 * not note as pending any more, so a mark stays until it has run. */
__noinline int read_vectors(__u32 cpu_number)
{
    struct watch_cpu *cpu = bpf_map_lookup_elem(&cpus, &cpu_number);
    __u32 runs[SOFTIRQ_VECTORS] = {};
    __u16 pending = 0;

    if (!cpu || !settings.layout.known)
        return 0;
    bpf_probe_read_kernel(&pending, sizeof(pending), beside_queue(cpu, settings.layout.pending));
    if (bpf_probe_read_kernel(runs, sizeof(runs), beside_queue(cpu, settings.layout.runs)) < 0)
        return 0;
    for (__u32 v = 0; v < SOFTIRQ_VECTORS; v++) {
        if (runs[v] != cpu->runs[v]) {
            cpu->runs[v] = runs[v];
            watch_ran(cpu, v);
        }
        if (pending >> v & 1)
            cpu->raised[v] = 1;
    }
    return 0;
}

static __always_inline __u32 read_bh(struct watch_cpu *cpu)
{
    __u32 count = 0;

    if (!settings.layout.preempt_known ||
        bpf_probe_read_kernel(&count, sizeof(count), beside_queue(cpu, settings.layout.preempt)) <
            0)
        return SOFTIRQ_BH_UNKNOWN;
    count = count >> 8 & 0xff; /* SOFTIRQ_MASK, include/linux/preempt.h */
    if (!count)
        return SOFTIRQ_BH_ENABLED;
    return count & 1 ? SOFTIRQ_BH_SERVING : SOFTIRQ_BH_DISABLED;
}

/* A function of its own: see look_at_others(). */
__noinline int find_waiting(__u32 cpu_number, __u64 before, __u64 now)
{
    struct watch_cpu *cpu = bpf_map_lookup_elem(&cpus, &cpu_number);

    if (cpu)
        watch_find_waiting(cpu, &settings, before, now);
    return 0;
}

/** It has run, between now and the tick `before`. */
static __always_inline void end(struct watch_cpu *cpu, __u32 v, __u64 before)
{
    if (cpu->told) {
        event_episode_over(&cpu->told_key, before + cpu->boot_offset_ns);
    } else {
        watch_finish(cpu, v, before);
        tell(&cpu->late_one, NULL);
    }
    /* Those that waited with it run next, and are not to be found once more. */
    for (__u32 other = 0; other < SOFTIRQ_VECTORS; other++)
        if (cpu->late_one.vectors & 1U << other)
            cpu->since_ns[other] = 0;
    *(volatile __u32 *)&cpu->late = 0;
}

static __always_inline void look_for_end(struct watch_cpu *cpu, __u64 before)
{
    __u32 v = cpu->late - 1;

    read_vectors(bpf_get_smp_processor_id());
    if (settings.layout.known && v < SOFTIRQ_VECTORS && cpu->since_ns[v] != cpu->late_one.begin_ns)
        end(cpu, v, before);
}

static __always_inline void look_at_vectors(void *ctx, struct watch_cpu *cpu, __u64 before,
                                            __u64 now)
{
    struct softirq_wire *w = &cpu->late_one;
    __u32 vector;

    look_for_end(cpu, before);
    find_waiting(bpf_get_smp_processor_id(), before, now);
    if (cpu->late) {
        w->vectors |= cpu->waiting.vectors;
        vector = cpu->late - 1;
        if (!cpu->told && vector < SOFTIRQ_VECTORS && cpu->raised[vector] &&
            now - w->begin_ns > settings.ongoing_ns) {
            cpu->told = 1;
            w->ongoing = 1;
            watch_finish(cpu, vector, now);
            tell(w, &cpu->told_key);
        }
        return;
    }
    vector = cpu->waiting.vector;
    if (cpu->waiting.vectors && vector < SOFTIRQ_VECTORS) {
        begin(ctx, w, SOFTIRQ_LATE);
        w->begin_ns = cpu->since_ns[vector];
        w->vector = vector;
        w->vectors = cpu->waiting.vectors;
        w->off_ns = cpu->waiting.longest_ns;
        w->bh = read_bh(cpu);
        cpu->told = 0;
        cpu->late = vector + 1;
    }
}

SEC("?tp_btf/softirq_raise")
int typed_softirq_raise(__u64 *ctx)
{
    __u32 v = (__u32)ctx[0];
    struct watch_cpu *cpu;

    if (!event_watched() || v >= SOFTIRQ_VECTORS)
        return 0;
    cpu = this_cpu();
    if (cpu)
        cpu->raised[v] = 1;
    return 0;
}

SEC("?tp_btf/softirq_entry")
int typed_softirq_entry(__u64 *ctx)
{
    __u32 v = (__u32)ctx[0];
    struct watch_cpu *cpu;

    if (!event_watched() || v >= SOFTIRQ_VECTORS)
        return 0;
    cpu = this_cpu();
    if (!cpu)
        return 0;
    watch_ran(cpu, v);
    if (cpu->late == v + 1)
        end(cpu, v, bpf_ktime_get_ns());
    return 0;
}

/* --- ticks */

__noinline int find_phase(__u32 cpu_number)
{
    struct watch_cpu *cpu = bpf_map_lookup_elem(&cpus, &cpu_number);

    if (cpu)
        watch_find_phase(cpu, &settings);
    return 0;
}

static __always_inline void measure(struct watch_cpu *cpu, const struct watch_tick *tick)
{
    struct wire_counters *c = event_counters();
    enum watch_measure found;
    bool epoch;

    if (!c)
        return;
    found = watch_measure(cpu, &settings, tick, &epoch);
    if (epoch)
        find_phase(bpf_get_smp_processor_id());
    if (found != WATCH_NO_TICK)
        c->measures[SOFTIRQ_TICKS]++;
    if (found == WATCH_LATE)
        c->measures[SOFTIRQ_TICKS_LATE]++;
}

static __always_inline int on_tick(void *ctx)
{
    __u32 number = bpf_get_smp_processor_id();
    struct watch_tick tick;
    struct watch_cpu *cpu;
    __u64 now;

    if (!event_watched() || !settings.tick_ns)
        return 0;
    cpu = this_cpu();
    if (!cpu)
        return 0;
    now = bpf_ktime_get_ns();
    if (watch_tick(cpu, &settings, now, bpf_ktime_get_boot_ns() - now, read_steal(cpu), &tick))
        tell(&cpu->off, NULL);
    if (!tick.before_ns || cpu->idle)
        return 0;
    if (watch_gap(cpu, &settings, number, &tick)) {
        begin(ctx, &cpu->off, SOFTIRQ_IRQ_OFF);
        cpu->off.others = look_at_others(number, tick.before_ns, now);
    }
    if (!tick.stolen_ns)
        measure(cpu, &tick);
    look_at_vectors(ctx, cpu, tick.before_ns, now);
    return 0;
}

SEC("?tp_btf/local_timer_exit")
int typed_local_timer_exit(__u64 *ctx)
{
    return on_tick(ctx);
}

/* Where there is none (it is x86's): a tick is a timer like others, and where one of them runs
 * interrupts are on. At its end, as the tick has then accounted for what was taken. */
SEC("?tp_btf/hrtimer_expire_exit")
int typed_hrtimer_expire_exit(__u64 *ctx)
{
    return on_tick(ctx);
}

/* --- what is no reason to worry: being idle, being taken away and put back */

SEC("?tp_btf/cpu_idle")
int typed_cpu_idle(__u64 *ctx)
{
    struct watch_cpu *cpu;
    __u64 now;

    if (!event_watched())
        return 0;
    cpu = this_cpu();
    if (!cpu)
        return 0;
    if ((__u32)ctx[0] == IDLE_EXIT) {
        now = bpf_ktime_get_ns();
        /* What was taken meanwhile was not taken from what comes. */
        if (STEAL_IS_FRESH && now - cpu->sign_ns > 2 * settings.tick_ns)
            cpu->steal_ns = read_steal(cpu);
        watch_wakes(cpu, now);
        return 0;
    }
    cpu->idle = 1;
    if (cpu->off_waits && STEAL_IS_FRESH &&
        watch_confirm(cpu, &settings, watch_stolen(cpu, read_steal(cpu))))
        tell(&cpu->off, NULL);
    if (cpu->late) /* or it would be told when the CPU is busy again */
        look_for_end(cpu, cpu->sign_ns);
    return 0;
}

/* On the CPU itself as it comes: before it takes interrupts. What waited there waits elsewhere. */
SEC("?tp_btf/cpuhp_enter")
int typed_cpuhp_enter(__u64 *ctx)
{
    struct watch_cpu *cpu;

    if (!event_watched() || (__u32)ctx[0] != bpf_get_smp_processor_id())
        return 0;
    cpu = this_cpu();
    if (!cpu)
        return 0;
    cpu->sign_ns = 0;
    cpu->off_waits = 0;
    cpu->late = 0;
    for (__u32 v = 0; v < SOFTIRQ_VECTORS; v++)
        watch_ran(cpu, v);
    return 0;
}
