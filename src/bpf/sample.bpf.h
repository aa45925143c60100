/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HUATUO_BPF_SAMPLE_H
#define HUATUO_BPF_SAMPLE_H

/**
 * What each CPU is doing, looked at from a timer interrupt that kernel/cpus.h asks for. For kinds
 * that include this, and have a hook with `perf` (PERF_COUNT_SW_CPU_CLOCK) whose program it is.
 */

#include "bpf/event.bpf.h"

/* The agent sizes it: one a CPU. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct wire_sample);
} samples SEC(".maps");

SEC("?perf_event")
int sample_cpu(void *ctx)
{
    __u32 cpu = bpf_get_smp_processor_id();
    struct wire_sample *s = bpf_map_lookup_elem(&samples, &cpu);
    __u64 ids = bpf_get_current_pid_tgid();

    if (!s)
        return 1;
    s->time_ns = 0;
    barrier();
    s->pid = ids >> 32;
    s->tid = (__u32)ids;
    bpf_get_current_comm(s->comm, sizeof(s->comm));
    s->stack_bytes = bpf_get_stack(ctx, s->stack, sizeof(s->stack), 0);
    barrier();
    s->time_ns = bpf_ktime_get_boot_ns();
    return 1; /* else kernels from 6.10 on do not count it, and would call it for ever */
}

#endif
