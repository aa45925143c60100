// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** Burns time where it is run; see burn.c. Runs on kernels from 5.10 on: no bpf_loop(). */

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define BLOCK_BYTES (4 * 1024 * 1024)
/* What the verifier follows of a loop whose end it does not know is bounded
 * (BPF_COMPLEXITY_LIMIT_JMP_SEQ). */
#define ROUNDS      8000

/* Between two looks at the clock: some milliseconds; all rounds together are many seconds anywhere.
 */
#define COPIES      16

struct block {
    char bytes[BLOCK_BYTES];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, struct block);
} blocks SEC(".maps");

__u64 limit_ns = 0; /* set by burn.c; taken back by the one who has burnt */
__u64 burnt_ns = 0;

static __always_inline int burn(void)
{
    __u64 begin = bpf_ktime_get_ns(), limit = limit_ns, spent = 0;
    __u32 zero = 0, one = 1;
    struct block *to = bpf_map_lookup_elem(&blocks, &zero);
    struct block *from = bpf_map_lookup_elem(&blocks, &one);

    if (!limit || !to || !from)
        return 0;
    limit_ns = 0;
    for (int i = 0; i < ROUNDS; i++) {
#pragma unroll
        for (int copy = 0; copy < COPIES; copy++)
            bpf_probe_read_kernel(to, sizeof(*to), from);
        spent = bpf_ktime_get_ns() - begin;
        if (spent >= limit)
            break;
    }
    burnt_ns = spent;
    return 0;
}

/* Of a UDP socket: in a softirq, bottom halves and preemption are off. */
SEC("socket")
int burn_softirq(struct __sk_buff *skb)
{
    burn();
    return 0; /* the packet goes */
}

/* Of a timer event: hard interrupts are off. */
SEC("perf_event")
int burn_irq(void *ctx)
{
    burn();
    return 0;
}
