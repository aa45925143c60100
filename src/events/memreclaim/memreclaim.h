/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_MEMRECLAIM_H
#define HUATUO_MEMRECLAIM_H

/** What the programs that watch reclaim and the agent say to each other. */

#include "core/cgroup.h"

/** Rules of `filtered_by`. 0 is the agent's own traffic, of which there is none here. */
enum memreclaim_rule { MEMRECLAIM_RULE_OWN, MEMRECLAIM_RULE_REQUESTED, MEMRECLAIM_RULE_NR };

#define MEMRECLAIM_RANGES_MAX 16

struct memreclaim_settings {
    __u64 threshold_ns;
    __u64 within_ns; /* the sliding time */
    __u64 slice_ns;  /* a WINDOW_SLICES-th of it */
    __u64 ongoing_ns;
    /* Functions below which reclaim is what was asked for; size 0: none. */
    struct {
        __u64 start, size;
    } requested[MEMRECLAIM_RANGES_MAX];
};

#define MEMRECLAIM_CMDLINE_MAX 1032 /* more than is shown, so that it is seen that it was cut */
#define MEMRECLAIM_UNLIMITED   (1ULL << 50) /* pages; PAGE_COUNTER_MAX is LONG_MAX / PAGE_SIZE */

/**
 * The head is about the process: comm, uid, ppid and start are those of its first thread, tid is
 * the thread that reached the threshold, or pid if nobody knows, and cgroup_id is 0. Its time is
 * that of `until_ns`.
 */
struct memreclaim_wire {
    struct wire_head head;
    struct wire_cgroup cgroup; /* memory cgroup of the first thread */
    __u64 entry_ns;   /* beginning of the sliding time in which the threshold was reached, or of the
                       * first call, if that was later. CLOCK_BOOTTIME, likewise the next */
    __u64 until_ns;   /* end of the last call; now, if a thread is inside */
    __u64 reclaim_ns; /* from entry_ns to until_ns, all threads */
    __u64 reclaimed;  /* pages; likewise the next four. tracepoints mm_vmscan_*_reclaim_end */
    __u64 scanned;    /* pages; tracepoint mm_vmscan_lru_shrink_inactive */
    __u32 memcg_calls;
    __u32 global_calls;
    __u64 threshold_ns; /* as it was when it was reached */
    __u64 within_ns;
    __u64 worst_ns; /* of the thread that was in reclaim longest */
    __u32 worst_tid;
    __u32 ongoing; /* it goes on */
    char worst_comm[WIRE_COMM_LEN];
    /* When the threshold was reached: of the memory cgroups that it is in, the one with the least
     * room left. Pages */
    __u64 limit_css;     /* address of its cgroup_subsys_state; 0: none has a limit */
    __u64 usage;         /* mem_cgroup.memory.usage */
    __u64 max;           /* mem_cgroup.memory.max; MEMRECLAIM_UNLIMITED or more: none */
    __u64 high;          /* mem_cgroup.memory.high, likewise; v2 */
    __u32 limit_level;   /* how many levels above the cgroup of the process */
    __s32 cmdline_bytes; /* of cmdline[]; 0: not read */
    char cmdline[MEMRECLAIM_CMDLINE_MAX]; /* NUL-separated */
};
WIRE_ASSERT(sizeof(struct memreclaim_wire) ==
                sizeof(struct wire_head) + sizeof(struct wire_cgroup) + 5 * 8 + 8 + 3 * 8 + 8 +
                    WIRE_COMM_LEN + 5 * 8 + MEMRECLAIM_CMDLINE_MAX,
            "memreclaim_wire has holes");

#endif
