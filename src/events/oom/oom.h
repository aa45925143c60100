/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_OOM_H
#define HUATUO_OOM_H

/** What the OOM killer's BPF programs and the agent say to each other. */

#include "core/cgroup.h"

/** Rules of `filtered_by`. 0 is the agent's own traffic, of which there is none here. */
enum oom_rule { OOM_RULE_OWN, OOM_RULE_MARKED_AGAIN, OOM_RULE_NR };

struct oom_settings {
    __u32 n_cpus; /* possible ones */
    __u32 pad;
};

/** A memory cgroup that the victim is in, as it stood when the victim was chosen. In pages. */
struct oom_level {
    __u64 css;        /* address of its cgroup_subsys_state, which is that of its mem_cgroup */
    __u64 usage;      /* mem_cgroup.memory.usage */
    __u64 max;        /* mem_cgroup.memory.max; OOM_UNLIMITED or more: none */
    __u64 swap_usage; /* v2: mem_cgroup.swap; v1: mem_cgroup.memsw, memory and swap together */
    __u64 swap_max;
    __u64 failcnt; /* charges that met the limit; page_counter.failcnt */
    __u64 swap_failcnt;
    __u64 n_max; /* mem_cgroup.memory_events, as in memory.events: times the limit was met */
    __u64 n_oom;
    __u64 n_oom_kill;
    __u64 n_oom_group_kill; /* 5.17+ */
    __u8 oom_group;         /* memory.oom.group */
    __u8 pad[7];
};

#define OOM_UNLIMITED (1ULL << 50) /* PAGE_COUNTER_MAX is LONG_MAX / PAGE_SIZE */

enum oom_way { OOM_WAY_NONE, OOM_WAY_CONTROL, OOM_WAY_CONSOLE };

/** What the kernel told in the same task before it chose a victim: by oom_kill_process()'s
 * arguments, or by what it wrote into its log. */
struct oom_before {
    __u64 time_ns; /* CLOCK_BOOTTIME */
    __u32 way;     /* enum oom_way */
    __u32 n_marks; /* processes that were marked since: the first is the one that was chosen */
    /* OOM_WAY_CONTROL: struct oom_control */
    __u64 memcg_css; /* whose limit it is; 0: the host's */
    __u32 gfp_mask;
    __s32 order;
    __u32 constraint;    /* enum oom_constraint */
    __u32 chosen_pid;    /* thread id */
    __s64 chosen_points; /* what oom_badness() said, in pages */
    __u64 total_pages;
    /* OOM_WAY_CONSOLE: pieces of the kernel's lines, cut, NUL-padded */
    __u32 stage; /* enum oom_stage; of the BPF program */
    __u32 pad;
    char invoked[192]; /* `COMM invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, ...` */
    char cause[256];   /* `oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null)` */
    char path[1024];   /* of the cgroup whose limit it is */
    char task[64];     /* `,task=COMM,pid=1,uid=0` */
};

enum oom_stage { OOM_STAGE_INVOKED, OOM_STAGE_CAUSE, OOM_STAGE_PATH, OOM_STAGE_TASK };

#define OOM_CMDLINE_MAX 1032 /* more than is shown, so that it is seen that it was cut */
#define OOM_LEVELS_MAX  CGROUP_NAMES_MAX

/** The head is about the current task: it is the one that wanted memory (the trigger). */
struct oom_wire {
    struct wire_head head;
    struct wire_cgroup trigger_cgroup, victim_cgroup;
    char trigger_name[WIRE_COMM_LEN]; /* its process's: that of the group leader */
    char victim_name[WIRE_COMM_LEN];
    char victim_comm[WIRE_COMM_LEN]; /* the thread's that was marked */
    __u64 victim_start_ns;           /* CLOCK_BOOTTIME; task_struct.start_boottime of the leader */
    __u32 victim_pid;                /* tgid */
    __u32 victim_tid;
    __u32 victim_ppid;
    __u32 victim_uid;
    __s32 oom_score_adj;    /* signal_struct.oom_score_adj */
    __u32 has_memory;       /* what follows was read; else the task had let its memory go */
    __u64 total_vm;         /* pages; mm_struct.total_vm */
    __u64 anon;             /* pages; mm_struct.rss_stat, likewise the next */
    __u64 file;             /* pages */
    __u64 shmem;            /* pages */
    __u64 swap;             /* pages */
    __u64 page_table_bytes; /* mm_struct.pgtables_bytes */
    __u32 exact;            /* rss_stat with the parts that are kept for each CPU */
    __u32 n_levels;
    struct oom_level levels[OOM_LEVELS_MAX]; /* the victim's own first, then outwards; no root */
    struct oom_before before;
    __s32 cmdline_bytes; /* of cmdline[]; 0: not read, as the victim is not the current task */
    __u32 pad;
    char cmdline[OOM_CMDLINE_MAX]; /* NUL-separated */
};
WIRE_ASSERT(sizeof(struct oom_level) == 12 * 8, "oom_level has holes");
WIRE_ASSERT(sizeof(struct oom_before) == 64 + 192 + 256 + 1024 + 64, "oom_before has holes");
WIRE_ASSERT(sizeof(struct oom_wire) == sizeof(struct wire_head) + 2 * sizeof(struct wire_cgroup) +
                                           48 + 8 + 24 + 48 + 8 + OOM_LEVELS_MAX * 96 +
                                           sizeof(struct oom_before) + 8 + OOM_CMDLINE_MAX,
            "oom_wire has holes");

/**
 * What the snapshot says of a process; behind each follow the names of its memory cgroup
 * (cgroup_write_names()). At the end come those that were marked last, which may have ended: only
 * their pid and the last two are set, and they have no names.
 */
struct oom_task {
    __u32 pid; /* tgid */
    __s32 oom_score_adj;
    __u64 anon; /* pages, as above; without the parts of each CPU */
    __u64 file;
    __u64 shmem;
    __u64 swap;
    __u32 uid;
    __u32 chosen; /* the OOM killer has marked it */
    char comm[WIRE_COMM_LEN];
    __u64 marked_ns; /* CLOCK_BOOTTIME; 0: this is about a process that is there */
    __u32 marked_by; /* thread id of the trigger */
    __u32 pad;
};
WIRE_ASSERT(sizeof(struct oom_task) == 8 + 32 + 8 + WIRE_COMM_LEN + 16, "oom_task has holes");

#define OOM_MARKS_MAX 64

#endif
