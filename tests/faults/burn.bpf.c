// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** Burns time where it is run; see burn.c. Runs on kernels from 5.10 on: no bpf_loop(). */

#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SIGWINCH    28
#define BLOCK_BYTES (4 * 1024 * 1024)
/* What the verifier follows of a loop whose end it does not know is bounded, at 8192
 * (BPF_COMPLEXITY_LIMIT_JMP_SEQ), and takes its time. */
#define ROUNDS      4000

#define COPIES      16 /* between two looks at the clock */

struct block {
    char bytes[BLOCK_BYTES];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, struct block);
} blocks SEC(".maps");

const volatile __u32 copy_bytes = BLOCK_BYTES; /* what burns: copied at a time */
const volatile __u32 pid = 0;                  /* whose signals count */

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
            bpf_probe_read_kernel(to, copy_bytes, from);
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

/* Of a packet socket, as a packet goes out: bottom halves are off, in the process that sends it. */
SEC("socket")
int burn_bh(struct __sk_buff *skb)
{
    if (skb->pkt_type == PACKET_OUTGOING)
        burn();
    return 0;
}

/* The lock of the own signals is held: hard interrupts are off, in a system call. */
SEC("raw_tp/signal_generate")
int burn_syscall(struct bpf_raw_tracepoint_args *ctx)
{
    if (bpf_get_current_pid_tgid() >> 32 == pid && ctx->args[0] == SIGWINCH)
        burn();
    return 0;
}

/* Of a timer event: hard interrupts are off. */
SEC("perf_event")
int burn_irq(void *ctx)
{
    burn();
    return 0;
}
