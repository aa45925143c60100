/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HUATUO_BPF_MEMORY_H
#define HUATUO_BPF_MEMORY_H

/** A process's memory. */

#include "bpf/event.bpf.h"

/* include/linux/mm_types_task.h: the enum has no name to be looked up by; unchanged since 4.5. */
enum mm_counter { MM_FILE, MM_ANON, MM_SWAP, MM_SHMEM };

#define MM_CPUS_MAX 1024

/* Data symbols are in kallsyms only with CONFIG_KALLSYMS_ALL. Not a __ksym: libbpf would read all
 * of kallsyms whenever the object is loaded. */
const volatile struct wire_symbol per_cpu_offset SEC(".rodata.symbols") = {
    .name = "__per_cpu_offset",
};

/** Whether mm_pages() is exact; else it misses what each CPU has not handed in yet. */
static __always_inline bool mm_is_exact(void)
{
    return !bpf_core_field_exists(((struct mm_struct *)0)->rss_stat[0].counters) ||
           per_cpu_offset.address != 0;
}

/**
 * Pages of that kind. Since 6.2 each CPU keeps a part, up to its batch (32 pages, or twice the
 * number of CPUs if that is more), which are added where the kernel shows where they lie.
 */
static __always_inline __u64 mm_pages(struct mm_struct *mm, enum mm_counter which, __u32 n_cpus)
{
    struct percpu_counter *counter;
    __s64 sum = 0;
    __u64 at;

    if (!bpf_core_field_exists(((struct mm_struct *)0)->rss_stat[0].counters)) {
        at = (__u64)mm + bpf_core_field_offset(struct mm_struct___before_6_2, rss_stat.count) +
             which * sizeof(long);
        bpf_probe_read_kernel(&sum, sizeof(sum), (void *)at);
        return sum > 0 ? sum : 0;
    }
    counter = (void *)((__u64)mm + bpf_core_field_offset(struct mm_struct, rss_stat) +
                       which * bpf_core_type_size(struct percpu_counter));
    sum = BPF_CORE_READ(counter, count);
    if (per_cpu_offset.address != 0) {
        __u64 parts = (__u64)BPF_CORE_READ(counter, counters);

        for (__u32 cpu = 0; cpu < MM_CPUS_MAX && cpu < n_cpus; cpu++) {
            __u64 offset = 0;
            __s32 part = 0;

            bpf_probe_read_kernel(&offset, sizeof(offset),
                                  (const void *)(per_cpu_offset.address + cpu * sizeof(offset)));
            bpf_probe_read_kernel(&part, sizeof(part), (void *)(parts + offset));
            sum += part;
        }
    }
    return sum > 0 ? sum : 0;
}

#endif
