/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_SOFTIRQ_WATCH_H
#define HUATUO_SOFTIRQ_WATCH_H

/**
 * What is known of a CPU from tick to tick, and what follows from it; shared, so that it can be
 * tested without a kernel. Times are CLOCK_MONOTONIC, ns.
 *
 * A CPU gives a sign of life when a tick ends and when it ends to be idle. A gap between two signs
 * that is longer than the threshold is a time with interrupts off, less what the hypervisor took.
 * Ticks account for that before they end, and most often the CPU is lost as they do: so what was
 * found waits for the next tick, which knows how much was taken until the one before had ended.
 */

#include "events/softirq/softirq.h"

#define WATCH_INLINE         static inline __attribute__((always_inline))

#define WATCH_NS_PER_MS      1000000ULL
#define WATCH_NS_PER_SEC     1000000000ULL
#define WATCH_QUIET_NS       (50 * WATCH_NS_PER_MS) /* between two signs; remembered from there on */
#define WATCH_SLACK_NS       (20 * WATCH_NS_PER_MS) /* CPUs have their ticks at different times */
#define WATCH_CONFIRM_NS     WATCH_NS_PER_SEC
#define WATCH_LATE_NS        (WATCH_NS_PER_MS / 4) /* a tick that is later counts as late */
#define WATCH_PHASES         64
#define WATCH_EPOCH_TICKS    512
/* Without a sign of life of any CPU for so long, it was the machine that stood still: the agent
 * alone has timers that run every second. */
#define WATCH_STOOD_STILL_NS WATCH_NS_PER_SEC

struct watch_waiting {
    __u64 longest_ns;
    __u32 vectors; /* bit per vector */
    __u32 vector;  /* the one that waited longest */
};

/* When ticks are due: at start_ns + n * settings.tick_ns. */
struct watch_phase {
    __u64 start_ns;
    __u32 known;
    __u32 n, best, most;
    __u32 seen[WATCH_PHASES]; /* interrupts in this epoch, by where in the period they came */
};

struct watch_cpu {
    void *rq;            /* its run queue; of the kernel */
    __u64 sign_ns;       /* the last sign of life; 0: none yet */
    __u64 quiet_from_ns; /* the last long time without one */
    __u64 quiet_to_ns;
    __u64 boot_offset_ns; /* CLOCK_BOOTTIME - CLOCK_MONOTONIC then */
    __u64 steal_ns;       /* what the hypervisor had taken until then */
    __u64 stolen_ns;      /* the sum of what it took while the CPU was not idle */
    __u64 excused_ns;     /* the same and all the time that interrupts were off for too long */
    __u64 since_ns[SOFTIRQ_VECTORS]; /* the first tick that a vector waited at; 0: none yet */
    __u64 stolen_then_ns[SOFTIRQ_VECTORS];
    __u64 excused_then_ns[SOFTIRQ_VECTORS];
    __u32 runs[SOFTIRQ_VECTORS]; /* how often it had run at the last tick */
    __u8 raised[16]; /* a byte each: interrupts set them while others are being cleared */
    __u32 idle;
    __u32 off_waits; /* `off` is not confirmed yet */
    __u32 late;      /* 1 + the vector that `late_one` is about; 0: none */
    __u32 told;      /* `late_one` was told as ongoing, in the window of `told_key` */
    struct watch_phase phase;
    struct watch_waiting waiting; /* found at this tick */
    struct softirq_wire off, late_one;
    struct wire_key told_key;
};

struct watch_tick {
    __u64 before_ns; /* the sign of life before this one; 0: it is not known */
    __u64 now_ns;
    __u64 stolen_ns; /* by the hypervisor between the two, as far as it is accounted for */
};

/* --- signs of life */

WATCH_INLINE void watch_sign(struct watch_cpu *cpu, __u64 now)
{
    if (cpu->sign_ns && now - cpu->sign_ns > WATCH_QUIET_NS) {
        cpu->quiet_from_ns = cpu->sign_ns;
        cpu->quiet_to_ns = now;
    }
    cpu->sign_ns = now;
}

/** It was idle and had no ticks. */
WATCH_INLINE void watch_wakes(struct watch_cpu *cpu, __u64 now)
{
    cpu->idle = 0;
    watch_sign(cpu, now);
}

/* 0 or 1, without branches: the verifier would follow each with each of the CPUs. */
WATCH_INLINE __u64 watch_is_before(__u64 a, __u64 b)
{
    return (a - b) >> 63;
}

/** 1: it gave no sign between the two; both have room for ticks that come at different times. */
WATCH_INLINE __u64 watch_is_silent(const struct watch_cpu *other, __u64 from, __u64 to)
{
    from += WATCH_SLACK_NS;
    to -= WATCH_SLACK_NS;
    return watch_is_before(other->sign_ns, from) |
           (watch_is_before(other->quiet_from_ns, from) & watch_is_before(to, other->quiet_to_ns));
}

/* --- interrupts off */

/** How long they were off, of a time that began and ended with a sign of life; 0: not for too
 * long. At least: the next tick was due at some time in it. */
WATCH_INLINE __u64 watch_off(const volatile struct softirq_settings *s, __u64 all, __u64 stolen)
{
    return all > stolen + s->tick_ns + s->threshold_ns ? all - stolen - s->tick_ns : 0;
}

/** Since the last tick; `steal` is all that the hypervisor has ever taken, as the kernel has it. */
WATCH_INLINE __u64 watch_stolen(const struct watch_cpu *cpu, __u64 steal)
{
    return steal > cpu->steal_ns ? steal - cpu->steal_ns : 0;
}

/** What was found at an earlier tick, now that all that was taken is known. True: to be told. */
WATCH_INLINE bool watch_confirm(struct watch_cpu *cpu, const volatile struct softirq_settings *s,
                                __u64 stolen)
{
    struct softirq_wire *w = &cpu->off;

    cpu->off_waits = 0;
    w->steal_ns += stolen;
    w->off_ns = watch_off(s, w->end_ns - w->begin_ns, w->steal_ns);
    w->steal_known = cpu->steal_ns != 0;
    return w->off_ns != 0;
}

/** At the end of a tick. True: what was found before is to be told, at once. */
WATCH_INLINE bool watch_tick(struct watch_cpu *cpu, const volatile struct softirq_settings *s,
                             __u64 now, __u64 boot_offset, __u64 steal, struct watch_tick *ret)
{
    __u64 passed = now - cpu->off.end_ns, stolen;

    ret->now_ns = now;
    ret->before_ns = cpu->sign_ns;
    /* The machine was suspended meanwhile (or the CPU was lost between the two clocks). */
    if (boot_offset - cpu->boot_offset_ns + WATCH_NS_PER_MS > 2 * WATCH_NS_PER_MS)
        ret->before_ns = 0;
    stolen = ret->before_ns ? watch_stolen(cpu, steal) : 0;
    ret->stolen_ns = stolen;
    cpu->boot_offset_ns = boot_offset;
    cpu->steal_ns = steal;
    watch_sign(cpu, now);

    if (!cpu->off_waits)
        return false;
    if (passed > WATCH_CONFIRM_NS) /* it was idle: most of this was taken later */
        return watch_confirm(cpu, s, stolen > passed ? stolen - passed : 0);
    if (!cpu->idle && passed > s->tick_ns / 2)
        return watch_confirm(cpu, s, stolen);
    cpu->off.steal_ns += stolen;
    return false;
}

WATCH_INLINE bool watch_is_tickless(const volatile struct softirq_settings *s, __u32 cpu)
{
    return cpu < SOFTIRQ_CPUS_MAX && s->tickless[cpu / 64] >> (cpu & 63) & 1;
}

/** The CPU was not idle since the sign before. True: interrupts were off for too long, as far as is
 * known now; that is in `off`, and its head is to be filled. */
WATCH_INLINE bool watch_gap(struct watch_cpu *cpu, const volatile struct softirq_settings *s,
                            __u32 number, const struct watch_tick *tick)
{
    __u64 gap = tick->now_ns - tick->before_ns, stolen = tick->stolen_ns;

    cpu->stolen_ns += stolen;
    if (!watch_off(s, gap, stolen) || watch_is_tickless(s, number)) {
        cpu->excused_ns += stolen;
        return false;
    }
    cpu->excused_ns += gap;
    if (cpu->off_waits)
        return false; /* of two at once the first */
    cpu->off_waits = 1;
    cpu->off.begin_ns = tick->before_ns;
    cpu->off.end_ns = tick->now_ns;
    cpu->off.steal_ns = stolen;
    return true;
}

/* --- softirqs that wait */

/** It runs. A tick may come in between: what is found there must not be what was before. */
WATCH_INLINE void watch_ran(struct watch_cpu *cpu, __u32 v)
{
    *(volatile __u8 *)&cpu->raised[v] = 0;
    *(volatile __u64 *)&cpu->since_ns[v] = 0;
}

/** The vectors that have waited for too long, and which for longest. Only until the tick before
 * this one: all that was taken until then has been accounted for. */
WATCH_INLINE void watch_find_waiting(struct watch_cpu *cpu,
                                     const volatile struct softirq_settings *s, __u64 before,
                                     __u64 now)
{
    /* In memory of which the verifier tracks nothing, or it would follow each of the combinations.
     */
    volatile struct watch_waiting *found = &cpu->waiting;

    found->vectors = 0;
    found->longest_ns = 0;
    for (__u32 v = 0; v < SOFTIRQ_VECTORS; v++) {
        __u64 spent;

        if (!cpu->raised[v])
            continue;
        if (!cpu->since_ns[v]) {
            cpu->since_ns[v] = now;
            cpu->stolen_then_ns[v] = cpu->stolen_ns;
            cpu->excused_then_ns[v] = cpu->excused_ns;
            continue;
        }
        spent = cpu->since_ns[v] + cpu->excused_ns - cpu->excused_then_ns[v];
        if (before <= spent || before - spent <= s->threshold_ns)
            continue;
        found->vectors |= 1U << v;
        if (before - spent > found->longest_ns) {
            found->longest_ns = before - spent;
            found->vector = v;
        }
    }
}

/** How long the vector of `late_one` has waited until then. */
WATCH_INLINE void watch_finish(struct watch_cpu *cpu, __u32 v, __u64 now)
{
    struct softirq_wire *w = &cpu->late_one;
    __u64 all = now - w->begin_ns, stolen = cpu->stolen_ns - cpu->stolen_then_ns[v];
    __u64 excused = cpu->excused_ns - cpu->excused_then_ns[v];

    w->end_ns = now;
    w->steal_ns = stolen;
    w->irq_off_ns = excused - stolen;
    w->steal_known = cpu->steal_ns != 0;
    /* What it was when it was found it stays. */
    if (all > excused && all - excused > w->off_ns)
        w->off_ns = all - excused;
}

/* --- sections that are too short to be events */

/** Where in their period most of the interrupts of this epoch came. */
WATCH_INLINE void watch_find_phase(struct watch_cpu *cpu, const volatile struct softirq_settings *s)
{
    volatile struct watch_phase *p = &cpu->phase; /* in memory: see watch_find_waiting() */
    __u32 most = 0;

    p->best = 0;
    for (__u32 i = 0; i < WATCH_PHASES; i++) {
        __u32 n = p->seen[i] + p->seen[(i + 1) % WATCH_PHASES];

        p->most = most;
        if (n > p->most) {
            p->most = n;
            p->best = i;
        }
        most = p->most;
    }
    for (__u32 i = 0; i < WATCH_PHASES; i++)
        p->seen[i] = 0;
    p->start_ns = p->best * s->tick_ns / WATCH_PHASES;
    p->known = 1;
    p->n = 0;
}

enum watch_measure { WATCH_NO_TICK, WATCH_IN_TIME, WATCH_LATE };

/**
 * Whether this was a tick, and whether it came late as interrupts were off when it was due: the
 * share of these is the share of the time that they are off, for whatever time at once. Ticks are
 * due once in each period; when, has to be found out. `*ret_epoch`: watch_find_phase() has to.
 */
WATCH_INLINE enum watch_measure watch_measure(struct watch_cpu *cpu,
                                              const volatile struct softirq_settings *s,
                                              const struct watch_tick *tick, bool *ret_epoch)
{
    __u64 period = s->tick_ns, late_ns = WATCH_LATE_NS, now = tick->now_ns, late, phase;

    phase = now % period * WATCH_PHASES / period;
    if (phase < WATCH_PHASES)
        cpu->phase.seen[phase]++;
    *ret_epoch = ++cpu->phase.n >= WATCH_EPOCH_TICKS;
    if (!cpu->phase.known)
        return WATCH_NO_TICK;
    if (late_ns > period / 8)
        late_ns = period / 8;
    late = (now - cpu->phase.start_ns) % period;
    /* Some other timer's, if it comes a little before, or if there was one since it was due. */
    if (late > period - late_ns / 2 || tick->before_ns > now - late)
        return WATCH_NO_TICK;
    return late > late_ns || now - tick->before_ns > 2 * period ? WATCH_LATE : WATCH_IN_TIME;
}

#endif
