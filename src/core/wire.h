/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_WIRE_H
#define HUATUO_WIRE_H

/**
 * What BPF programs and the agent say to each other: the head of every raw event, the counters, the
 * repeat windows and the settings. Included by both sides; fixed sizes, no holes.
 *
 * The counters and the settings lie in maps that the agent has mapped into its memory, because an
 * agent without capabilities may not call bpf(2) before Linux 5.19 (kernel/bpf/syscall.c,
 * sysctl_unprivileged_bpf_disabled), while a mapping made earlier goes on working everywhere.
 */

#ifdef __bpf__
#include <linux/types.h>
#define WIRE_ASSERT(expr, text) _Static_assert(expr, text)
#else
#include <assert.h>
#include <linux/types.h>
#define WIRE_ASSERT(expr, text) static_assert(expr, text)
#endif

#define WIRE_COMM_LEN  16
#define WIRE_STACK_MAX 64 /* frames; of deeper stacks the outermost are cut off */

/** First member of every raw event. All ids are those of the initial pid namespace. */
struct wire_head {
    __u64 time_ns;       /* when the hook ran. ns, CLOCK_BOOTTIME (bpf_ktime_get_boot_ns) */
    __u64 window_id;     /* repeat window this event was counted in (struct wire_window.id) */
    __u64 cgroup_id;     /* current task's cgroup v2 id (inode number); 1 on a pure v1 host */
    __u64 task_start_ns; /* start of the current task's process. ns, CLOCK_BOOTTIME
                          * task_struct.start_boottime (real_start_time before 5.5) */
    __u32 nth;           /* how many-th full record of its window this is, from 1 */
    __u32 cpu;
    __u32 pid;                /* process of the current task (tgid) */
    __u32 tid;                /* thread (task_struct.pid) */
    __u32 ppid;               /* tgid of task_struct.real_parent */
    __u32 uid;                /* of the task's credentials */
    char comm[WIRE_COMM_LEN]; /* raw bytes, NUL padded; anything a process cares to call itself */
    __s32 stack_bytes;        /* valid bytes of stack[], or a negative errno of bpf_get_stack() */
    __u32 pad;
    __u64 stack[WIRE_STACK_MAX]; /* kernel return addresses, innermost first */
};
WIRE_ASSERT(sizeof(struct wire_head) == 32 + 24 + 16 + 8 + 8 * WIRE_STACK_MAX,
            "wire_head has holes");

/** Why the kernel side could not hand an event over. */
enum wire_lost {
    WIRE_LOST_RING_FULL, /* no room in the ring */
    WIRE_LOST_KEYS_FULL, /* no room for another repeat window */
    WIRE_LOST_NR = 6,
};

#define WIRE_RULES_MAX 64 /* filter rules of one event kind */
#define WIRE_MEASURES  7  /* what a kind counts besides events */

/** One per possible CPU; the sums over CPUs are the kernel's part of the accounting. */
struct wire_counters {
    __u64 seen;       /* met the event's definition; counted before anything else */
    __u64 sent;       /* put into the ring */
    __u64 suppressed; /* repeats, counted in their window */
    __u64 lost[WIRE_LOST_NR];
    __u64 filtered[WIRE_RULES_MAX]; /* by the rule of that index */
    __u64 measures[WIRE_MEASURES];  /* outside the accounting; see struct event.measures */
};
WIRE_ASSERT(sizeof(struct wire_counters) % 64 == 0, "counters of two CPUs share a cache line");

/**
 * What makes two events of one kind the same. `words` belong to the event kind; unused ones are 0.
 * `generation` lets a new window of the same key begin while the old one waits to be swept, so that
 * nobody writes into a window that is being read.
 */
struct wire_key {
    __u32 generation;
    __u32 what;
    __u64 words[7];
};

/** A key's minute. */
struct wire_window {
    __u64 id;              /* unique while the machine is up */
    __u64 begin_ns;        /* CLOCK_BOOTTIME, as all times here */
    __u64 count;           /* events in the window, without those that came again */
    __u64 suppressed;      /* of these: counted only */
    __u64 first_repeat_ns; /* first suppressed one */
    __u64 last_repeat_ns;  /* last suppressed one */
    /* Of an episode: something that goes on, of which the events are reports. */
    __u64 started_ns; /* when it began; 0: this is no episode */
    __u64 last_ns;    /* the last report, full or not */
    __u64 ended_ns;   /* when it was over; 0: not known (yet) */
};

/** Whether an event at that time still belongs to the window: in its length, or, if it is an
 * episode, within that length of the last report and before the end. Else it is to be swept. */
#define WIRE_WINDOW_OPEN(w, now_ns, length_ns)                                                     \
    (!(w)->ended_ns &&                                                                             \
     (__s64)((now_ns) - ((w)->started_ns ? (w)->last_ns : (w)->begin_ns)) < (__s64)(length_ns))

/** What a source hands over (struct hook_source, core/event.h): in the map `found`, before the
 * event. */
struct wire_found {
    struct wire_key key;
    __u32 rule; /* the filter rule that takes it out; 0: none does */
    __u32 size; /* bytes of the event that follows */
};
WIRE_ASSERT(sizeof(struct wire_found) == sizeof(struct wire_key) + 8, "wire_found has holes");

/** What a CPU was doing when bpf/sample.bpf.h looked; in the map `samples`. */
struct wire_sample {
    __u64 time_ns; /* CLOCK_BOOTTIME; written last. 0: nobody has looked yet */
    __u32 pid;     /* process of the task that was running there; 0: idle */
    __u32 tid;
    char comm[WIRE_COMM_LEN];
    __s32 stack_bytes; /* as in wire_head; 0: it ran in user mode */
    __u32 pad;
    __u64 stack[WIRE_STACK_MAX];
};
WIRE_ASSERT(sizeof(struct wire_sample) == 40 + 8 * WIRE_STACK_MAX, "wire_sample has holes");

#define WIRE_OWN_MAX 64

/** A socket of the agent itself: its local port, host order. */
struct wire_own_socket {
    __u16 port;
    __u8 protocol; /* IPPROTO_TCP, IPPROTO_UDP; 0: the entry is free */
    __u8 pad;
};

/** A symbol of the kernel whose address the programs need; in the section .rodata.symbols. */
struct wire_symbol {
    char name[56];
    __u64 address; /* filled in before the object is loaded; 0: it is not known */
};

#define WIRE_CLOCK_STEPS 8

/**
 * CLOCK_REALTIME, of which the kernel's programs can read no clock: how it lay to CLOCK_MONOTONIC,
 * before and after each step that was seen. The agent keeps it; it only ever writes the newest
 * entry and then `n`, so that the others can be read at any time.
 */
struct wire_clock {
    __s64 offset_ns; /* CLOCK_REALTIME - CLOCK_MONOTONIC now: that of the newest entry */
    __s64 tai_ns;    /* CLOCK_TAI - CLOCK_REALTIME now */
    __u32 n;         /* entries so far; entry i is steps[i % WIRE_CLOCK_STEPS]. 0: not known yet */
    __u32 pad;
    struct wire_clock_step {
        __u64 since_ns;  /* CLOCK_MONOTONIC: from then on, and ... */
        __s64 offset_ns; /* ... until the next entry, the distance was this */
    } steps[WIRE_CLOCK_STEPS];
};

/* One event is met by the programs of two objects within this time; the same address within this
 * time is the same event. */
#define WIRE_SAME_EVENT_NS 10000000

/** Settings that every kind has; in the section .data.common of each BPF object. */
struct wire_common {
    __u32 watching;     /* 0: the programs return at once */
    __u32 window_limit; /* records in full per key and window */
    __u64 window_ns;
    __u32 own_netns;  /* inode number of the agent's network namespace */
    __u32 own_rule;   /* index of the rule that takes out the agent's own sockets, or ~0 */
    __u32 own_count;  /* how many entries of own[] to look at */
    __u32 exchanging; /* one object takes over from another */
    __u32 retires;    /* this is the one that ends then */
    __u32 pad;
    struct wire_own_socket own[WIRE_OWN_MAX];
    struct wire_clock clock;
};

#endif
