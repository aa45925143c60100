/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_HUNGTASK_H
#define HUATUO_HUNGTASK_H

/** What the programs about hung tasks and the agent say to each other. */

#include "core/cgroup.h"

/** Who says that a sleep is too long. */
enum hungtask_found_by {
    HUNGTASK_BY_WATCH,  /* we: one look at all tasks after another */
    HUNGTASK_BY_KERNEL, /* khungtaskd */
    HUNGTASK_BY_NR,
};

struct hungtask_settings {
    __u64 threshold_ns;     /* of the watch */
    __u64 list_interval_ns; /* between two records that list every task in D state */
    __u64 kernel_ns;        /* hung_task_timeout_secs; 0: the kernel's detector is off */
};

/** The head, but for its time and cpu, is about the task that hangs. */
struct hungtask_wire {
    struct wire_head head;
    struct wire_cgroup cgroup;
    char process_name[WIRE_COMM_LEN]; /* of the group leader */
    /* In this sleep, since it was first seen there, or as the kernel says: at least. ns of
     * CLOCK_MONOTONIC, which stands still while the machine is suspended. */
    __u64 blocked_ns;
    __u64 threshold_ns; /* what that is more than */
    __u32 found_by;     /* enum hungtask_found_by */
    __u32 lists;        /* this one lists all tasks; else another did: */
    __u64 listed_ns;    /* when. CLOCK_BOOTTIME */
    __u32 listed_pid;   /* which process's record */
    __u32 pad;
};
WIRE_ASSERT(sizeof(struct hungtask_wire) ==
                sizeof(struct wire_head) + sizeof(struct wire_cgroup) + WIRE_COMM_LEN + 16 + 8 + 16,
            "hungtask_wire has holes");

/**
 * What the snapshot says of a task in D state: this, of the stack only `stack_bytes`, and the names
 * of its cgroup (cgroup_write_names()).
 */
struct hungtask_row {
    __u64 blocked_ns; /* as above; 0: not known, or less than the time between two looks */
    __u32 pid;        /* tgid */
    __u32 tid;
    __u32 killable;    /* SIGKILL ends it: TASK_WAKEKILL */
    __s32 stack_bytes; /* or a negative errno of bpf_get_task_stack() */
    char comm[WIRE_COMM_LEN];
    __u64 stack[WIRE_STACK_MAX]; /* kernel return addresses, innermost first */
};
WIRE_ASSERT(sizeof(struct hungtask_row) == 24 + WIRE_COMM_LEN + 8 * WIRE_STACK_MAX,
            "hungtask_row has holes");

#endif
