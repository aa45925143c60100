// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** For each type of program one that does nothing, and one that counts the hits of one process. */

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

volatile __u32 process; /* whose hits count: its tgid */
volatile __u64 hits;    /* made by it, or by what interrupts it */

static __always_inline int count(void)
{
    if (bpf_get_current_pid_tgid() >> 32 == process)
        __sync_fetch_and_add(&hits, 1);
    return 0;
}

#define PROGRAMS(type)                                                                             \
    SEC("?" #type) int empty_##type(void *ctx)                                                     \
    {                                                                                              \
        return 0;                                                                                  \
    }                                                                                              \
    SEC("?" #type) int count_##type(void *ctx)                                                     \
    {                                                                                              \
        return count();                                                                            \
    }

PROGRAMS(tp_btf)
PROGRAMS(raw_tp)
PROGRAMS(tp)
PROGRAMS(fentry)
PROGRAMS(kprobe)
