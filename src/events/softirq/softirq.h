/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_SOFTIRQ_H
#define HUATUO_SOFTIRQ_H

/** What the softirq programs and the agent say to each other. */

#include "core/wire.h"

#define SOFTIRQ_VECTORS 10 /* NR_SOFTIRQS, include/linux/interrupt.h */

enum softirq_what {
    SOFTIRQ_IRQ_OFF, /* the CPU could not be interrupted */
    SOFTIRQ_LATE,    /* a softirq was raised and did not run */
    SOFTIRQ_WHAT_NR
};

/** What the other CPUs did while this one could not be interrupted. */
enum softirq_others {
    SOFTIRQ_OTHERS_NONE,   /* there are none */
    SOFTIRQ_OTHERS_SILENT, /* none of them was interrupted or ended to be idle */
    SOFTIRQ_OTHERS_ALIVE,
    SOFTIRQ_OTHERS_NR
};

/** Whether softirqs could run where the tick found one waiting: of its preempt_count. */
enum softirq_bh {
    SOFTIRQ_BH_UNKNOWN,
    SOFTIRQ_BH_ENABLED,
    SOFTIRQ_BH_DISABLED,
    SOFTIRQ_BH_SERVING, /* a handler ran */
    SOFTIRQ_BH_NR
};

struct softirq_wire {
    /* `time_ns`, the task and the stack: irq_off: of the first tick after it; softirq_late: of the
     * tick that found it, while it went on */
    struct wire_head head;
    __u64 begin_ns;     /* CLOCK_MONOTONIC (bpf_ktime_get_ns), likewise the next */
    __u64 end_ns;       /* when it was over, or `ongoing` was told */
    __u64 off_ns;       /* for how long at least; without the next two */
    __u64 steal_ns;     /* between the two, or just before and after: struct rq.prev_steal_time */
    __u64 irq_off_ns;   /* softirq_late: of the time between the two; told as irq_off */
    __u64 threshold_ns; /* as it was then */
    __u32 what;         /* enum softirq_what */
    __u32 vector;       /* softirq_late: the one that waited longest */
    __u32 vectors;      /* bit per vector that waited for longer than the threshold */
    __u32 others;       /* irq_off: enum softirq_others */
    __u32 steal_known;  /* this CPU has had steal before: there is a clock of it */
    __u32 ongoing;      /* softirq_late: it goes on */
    __u32 bh;           /* softirq_late: enum softirq_bh */
    __u32 pad;
};
WIRE_ASSERT(sizeof(struct softirq_wire) == sizeof(struct wire_head) + 80, "softirq_wire has holes");

enum softirq_rule {
    SOFTIRQ_RULE_OWN, /* has no meaning here */
    SOFTIRQ_RULE_STOOD_STILL,
    SOFTIRQ_RULE_NR
};

/** Counted besides events, on each CPU. */
enum softirq_measure {
    SOFTIRQ_TICKS,      /* timer ticks while it was not idle and nothing was stolen */
    SOFTIRQ_TICKS_LATE, /* of these: interrupts were off when they were due */
};

#define SOFTIRQ_CPUS_MAX 4096

/** Distances from the run queue of a CPU (`runqueues`) to other per-CPU variables; bytes. */
struct softirq_layout {
    __s64 pending; /* a bit per vector that is raised; 16 bits of it are looked at */
    __s64 runs;    /* struct kernel_stat.softirqs: 32 bits per vector */
    __s64 preempt; /* preempt_count, 32 bits */
    __u32 known;   /* 0: marks have to be set when softirqs are raised and run */
    __u32 preempt_known;
};

struct softirq_settings {
    struct softirq_layout layout;
    __u64 threshold_ns;
    __u64 ongoing_ns; /* a softirq that waits for longer is told while it does */
    __u64 tick_ns;    /* between two timer ticks; 0: not known yet */
    __u64 tickless[SOFTIRQ_CPUS_MAX / 64]; /* bit per CPU: may go without ticks while it is busy */
};

#endif
