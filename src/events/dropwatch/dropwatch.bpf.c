// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** Packets that the network stack drops, and those that a listener has no room for. */

#include "events/dropwatch/dropwatch.h"
#include "bpf/event.bpf.h"
#include "bpf/packet.bpf.h"

#include <linux/ptrace.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct request_sock_queue {
    atomic_t qlen; /* SYNs that have been answered and wait for the final ACK */
};

struct inet_connection_sock {
    struct request_sock_queue icsk_accept_queue;
};

struct device_driver {
    const char *name;
};

struct device {
    struct device *parent;
    struct device_driver *driver;
};

struct net_device___device {
    struct device dev;
};

/* include/net/devlink.h */
enum devlink_trap_type { DEVLINK_TRAP_TYPE_DROP };

struct devlink_trap_metadata {
    const char *trap_name;
    struct net_device *input_dev;
    enum devlink_trap_type trap_type;
};

#pragma clang attribute pop

#define TCP_FLAG_SYN 2

volatile struct dropwatch_settings settings SEC(".data.settings") = {};

/* A global function is verified once, not once for every path that leads to a call. */
__noinline __u64 place_bit(__u64 address)
{
    __u64 bits = 0;

    for (__u32 i = 0; i < DROPWATCH_RANGES_MAX; i++) {
        if (i >= settings.n_ranges)
            break;
        if (address - settings.ranges[i].start < settings.ranges[i].size)
            bits |= 1ULL << i;
    }
    return bits;
}

static __noinline __u64 caller_bits(void *ctx)
{
    __u64 frames[DROPWATCH_CALLERS] = {};
    __u64 bits = 0;

    if (bpf_get_stack(ctx, frames, sizeof(frames), 0) < 0)
        return 0;
    for (__u32 i = 0; i < DROPWATCH_CALLERS; i++)
        bits |= place_bit(frames[i]);
    return bits;
}

/** Index of the first row that matches, or -1. */
static __noinline int first_match(const __u64 *facts)
{
    for (__u32 i = 0; i < DROPWATCH_ROWS_MAX; i++) {
        __u64 differs = 0;

        if (i >= settings.n_rows)
            break;
#pragma unroll
        for (__u32 word = 0; word < FACT_NR; word++)
            differs |= (facts[word] ^ settings.rows[i].value[word]) & settings.rows[i].mask[word];
        if (!differs)
            return settings.rows[i].rule;
    }
    return -1;
}

/* A connection that has ended, as a packet from its peer would name it. */
struct ended_key {
    __u8 saddr[16];
    __u8 daddr[16];
    __u16 sport;
    __u16 dport;
    __u32 netns;
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct ended_key);
    __type(value, __u32); /* what it expected next (tcp_sock.rcv_nxt) */
} ended SEC(".maps");

static __always_inline int on_state(struct sock *sk, int old_state, int new_state)
{
    struct ended_key key = {};
    struct packet p = {};
    __u32 next;

    if (!event_watched() || !settings.want_received || new_state != TCP_CLOSE ||
        old_state == TCP_LISTEN || old_state == TCP_SYN_SENT)
        return 0;
    if (BPF_CORE_READ(sk, sk_protocol) != PROTO_TCP || !packet_read_socket(&p, sk, false))
        return 0;
    __builtin_memcpy(key.saddr, p.daddr, 16);
    __builtin_memcpy(key.daddr, p.saddr, 16);
    key.sport = p.dport;
    key.dport = p.sport;
    key.netns = p.netns;
    next = BPF_CORE_READ((struct tcp_sock *)sk, rcv_nxt);
    bpf_map_update_elem(&ended, &key, &next, BPF_ANY);
    return 0;
}

/** Whether these bytes had all come before the connection ended: it was sent twice. */
static __always_inline bool received_before(const struct packet *p)
{
    struct ended_key key = {};
    __u32 *next;

    __builtin_memcpy(key.saddr, p->saddr, 16);
    __builtin_memcpy(key.daddr, p->daddr, 16);
    key.sport = p->sport;
    key.dport = p->dport;
    key.netns = p->netns;
    next = bpf_map_lookup_elem(&ended, &key);
    /* A FIN takes up a number. */
    return next && (__s32)(p->seq + p->payload_len + (p->tcp_flags & 1) - *next) <= 0;
}

/** What is known of a loss besides the packet. */
struct loss {
    __u64 place;
    __u32 reason;
    enum dropwatch_type type;
    enum dropwatch_counter counter;
    struct sock *listener; /* unless it is a common one */
};

static __always_inline int filter_rule(void *ctx, const struct packet *p, const struct loss *l)
{
    const __u64 *device = (const __u64 *)p->device;
    __u64 facts[FACT_NR];

    if (!settings.n_rows)
        return -1;
    packet_facts(p, facts);
    facts[PACKET_FACT_BITS] |= FACT_TYPE(l->type & 7);
    facts[PACKET_FACT_PORTS] |= (__u64)l->reason << FACT_REASON_SHIFT;
    facts[FACT_BITS] = FACT_BITS_STATE(p->state & 15) |
                       (__u64)p->tcp_flags << FACT_BITS_FLAGS_SHIFT |
                       (p->payload_len ? FACT_BITS_PAYLOAD : FACT_BITS_NO_PAYLOAD) |
                       (p->iif ? FACT_BITS_RX : FACT_BITS_TX);
    if (settings.want_received && (p->state == 0 || p->state == TCP_CLOSE) &&
        p->protocol == PROTO_TCP && received_before(p))
        facts[FACT_BITS] |= FACT_BITS_RECEIVED;
    facts[FACT_PLACES] = l->place ? place_bit(l->place) : 0;
    facts[FACT_CALLERS] = facts[FACT_PLACES] & settings.ranges_with_caller ? caller_bits(ctx) : 0;
    facts[FACT_DEVICE_HI] = device[0];
    facts[FACT_DEVICE_LO] = device[1];
    event_any(facts, sizeof(facts));
    return first_match(facts);
}

/** Whoever knocks, it is the same listener that has no room. */
static __always_inline void listener_key(struct wire_key *key, const struct packet *p,
                                         const struct loss *l)
{
    struct sock *sk = l->listener;
    __u8 address[16] = {};

    if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6)
        bpf_core_read(address, 16, &sk->__sk_common.skc_v6_rcv_saddr);
    else
        packet_map_v4(address, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
    key->what = l->type;
    key->words[0] = 0; /* no place: this is the key of no common one */
    key->words[1] = *(__u64 *)address;
    key->words[2] = *(__u64 *)(address + 8);
    key->words[3] = p->dport | (__u64)p->netns << 32;
}

/** One more, whichever way it was noticed. */
static __always_inline int on_loss(void *ctx, struct sk_buff *skb, const struct packet *p,
                                   const struct loss *l)
{
    struct dropwatch_wire *e;
    struct wire_counters *c;
    struct sock *listener = l->listener;
    struct wire_key key = {};
    __u64 now, window_id;
    __u32 nth;
    int rule;

    c = event_counters();
    if (!c || !event_is_ours(skb))
        return 0;
    COUNT(c->seen);

    if (!settings.keep_own && packet_is_own(p)) {
        event_filtered(c, common.own_rule);
        return 0;
    }
    rule = filter_rule(ctx, p, l);
    if (rule >= 0) {
        event_filtered(c, rule);
        return 0;
    }

    if (l->type == DROPWATCH_COMMON) {
        key.what = l->reason;
        key.words[0] = l->place;
        packet_key(p, &key.words[1]);
    } else {
        listener_key(&key, p, l);
    }
    now = bpf_ktime_get_boot_ns();
    if (!event_window(c, &key, now, &window_id, &nth))
        return 0;

    e = bpf_ringbuf_reserve(&ring, DROPWATCH_WIRE_LEAST, 0);
    if (!e) {
        event_lost(c, WIRE_LOST_RING_FULL);
        return 0;
    }
    e->packet = *p;
    e->place = l->place;
    e->reason = l->reason;
    e->has_reason = bpf_core_field_exists(struct trace_event_raw_kfree_skb___reason, reason);
    e->type = l->type;
    e->counter = l->counter;
    e->count_only = 0;
    e->ack_backlog = 0;
    e->request_queue = 0;
    if (listener) {
        e->ack_backlog = BPF_CORE_READ(listener, sk_ack_backlog);
        e->request_queue =
            BPF_CORE_READ((struct inet_connection_sock *)listener, icsk_accept_queue.qlen.counter);
    }
    e->count = 1;
    e->total = 0;
    e->interval_ns = 0;
    event_head(ctx, &e->head, now, window_id, nth);
    COUNT(c->sent);
    bpf_ringbuf_submit(e, 0);
    return 0;
}

/* --- listeners. What the kernel has decided is what it has counted meanwhile: SYNs and final ACKs
 * are dealt with in soft interrupts, one at a time on a CPU, and each CPU counts for itself. The
 * queues themselves would not tell: other CPUs fill and empty them all the time, and kernels differ
 * in what they call full. */

/* Not a __ksym: see bpf/memory.bpf.h. */
const volatile struct wire_symbol per_cpu_offset SEC(".rodata.symbols") = {
    .name = "__per_cpu_offset",
};

struct listen_cpu {
    __u64 sk, skb; /* what is being dealt with; 0: nothing */
    __u64 before[DROPWATCH_COUNTERS];
    __u64 asked;   /* the last packet for which there was to be a connection, and ... */
    __u64 refused; /* ... whether there was no room for it */
    __u32 type, counter;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct listen_cpu);
} cpus SEC(".maps");

static __always_inline struct listen_cpu *listen_cpu(void)
{
    __u32 cpu = bpf_get_smp_processor_id();

    return bpf_map_lookup_elem(&cpus, &cpu);
}

static __always_inline void read_counters(struct sock *sk, __u64 *ret)
{
    __u64 at = (__u64)BPF_CORE_READ(sk, __sk_common.skc_net.net, mib.net_statistics);
    __u64 cpu = bpf_get_smp_processor_id(), offset = 0;

    bpf_probe_read_kernel(&offset, sizeof(offset),
                          (const void *)(per_cpu_offset.address + cpu * sizeof(offset)));
    at += offset + bpf_core_field_offset(struct linux_mib, mibs);
#pragma unroll
    for (__u32 i = 1; i < DROPWATCH_COUNTERS; i++)
        bpf_probe_read_kernel(&ret[i], sizeof(ret[i]),
                              (const void *)(at + settings.counters[i] * sizeof(long)));
}

/* Also while nobody watches: of two objects that take over from each other, both know. */
static __always_inline int on_enter(struct sock *sk, struct sk_buff *skb, bool syn)
{
    struct listen_cpu *here = listen_cpu();

    if (!here)
        return 0;
    here->sk = (__u64)sk;
    here->skb = (__u64)skb;
    read_counters(sk, here->before);
    if (!syn) {
        here->asked = (__u64)skb;
        here->refused = 0;
    }
    return 0;
}

/** Without cookies the last quarter of the host's limit is for peers that are known. */
static __always_inline bool in_last_quarter(struct sock *sk, struct net *net)
{
    __s32 max = BPF_CORE_READ(net, ipv4.sysctl_max_syn_backlog);
    __s32 len = BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_accept_queue.qlen.counter);

    return max - len < max >> 2;
}

/** tcp_conn_request() in net/ipv4/tcp_input.c */
static __always_inline void judge_syn(struct sock *sk, const __u64 *before, const __u64 *after,
                                      struct loss *ret)
{
    struct net *net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
    __u8 cookies = BPF_CORE_READ(net, ipv4.sysctl_tcp_syncookies);

    if (after[DROPWATCH_OVERFLOWS] != before[DROPWATCH_OVERFLOWS]) {
        ret->type = DROPWATCH_HANDSHAKE1;
        ret->counter = DROPWATCH_OVERFLOWS;
    } else if (after[DROPWATCH_FULL_DROP] != before[DROPWATCH_FULL_DROP]) {
        ret->type = DROPWATCH_SYN_FLOOD;
        ret->counter = DROPWATCH_FULL_DROP;
    } else if (after[DROPWATCH_FULL_COOKIES] != before[DROPWATCH_FULL_COOKIES]) {
        /* 2: it sends them always, whatever the queue. */
        ret->type = cookies == 2 ? DROPWATCH_COMMON : DROPWATCH_SYN_FLOOD;
        ret->counter = DROPWATCH_FULL_COOKIES;
    } else if (after[DROPWATCH_LISTEN_DROPS] != before[DROPWATCH_LISTEN_DROPS] && !cookies &&
               in_last_quarter(sk, net)) {
        ret->type = DROPWATCH_SYN_FLOOD;
        ret->counter = DROPWATCH_LISTEN_DROPS;
    }
}

static __always_inline int on_leave(void *ctx, bool syn)
{
    struct listen_cpu *here = listen_cpu();
    __u64 after[DROPWATCH_COUNTERS] = {};
    struct packet p = {};
    struct loss l = {};
    struct sk_buff *skb;
    struct sock *sk;

    if (!here || !here->sk)
        return 0;
    sk = (struct sock *)here->sk;
    skb = (struct sk_buff *)here->skb;
    here->sk = 0; /* tcp_v6_syn_recv_sock() calls the other one for IPv4: that has told it all */
    read_counters(sk, after);
    if (syn) {
        judge_syn(sk, here->before, after, &l);
    } else if (after[DROPWATCH_OVERFLOWS] != here->before[DROPWATCH_OVERFLOWS]) {
        l.type = DROPWATCH_HANDSHAKE3;
        l.counter = DROPWATCH_OVERFLOWS;
        here->refused = 1;
    }
    if (l.type == DROPWATCH_COMMON || !event_watched())
        return 0;
    if (!(settings.protocols[0] & 1ULL << PROTO_TCP))
        return 0;
    /* As event_any() would do, for which there is no room on the stack. */
    here->type = l.type;
    here->counter = l.counter;
    l.type = *(volatile __u32 *)&here->type;
    l.counter = *(volatile __u32 *)&here->counter;
    l.listener = sk;
    packet_read(&p, skb, false, sk);
    /* With TCP Fast Open a SYN makes a connection; if there is no room it goes the ordinary way. */
    if (!syn && p.tcp_flags & TCP_FLAG_SYN) {
        here->refused = 0;
        return 0;
    }
    return on_loss(ctx, skb, &p, &l);
}

/* How many of these there were in a network namespace, for the source, which counts others. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u32); /* inode number */
    __type(value, __u64);
} refused_acks SEC(".maps");

static __always_inline void count_refused_ack(__u32 netns)
{
    __u64 one = 1, *n = bpf_map_lookup_elem(&refused_acks, &netns);

    if (n)
        COUNT(*n);
    else
        bpf_map_update_elem(&refused_acks, &netns, &one, BPF_ANY);
}

/**
 * An ACK that is refused is dropped, too: whoever has told it as the former says here that it is no
 * other event. Where nobody could, the kernel's reason tells it (6.15+).
 */
static __always_inline bool is_refused_ack(struct sk_buff *skb, const struct packet *p,
                                           struct sock *rx_sk, struct loss *l)
{
    struct listen_cpu *here = listen_cpu();

    if (here && here->asked == (__u64)skb) {
        bool told = here->refused;

        here->asked = here->refused = 0;
        return told;
    }
    if (settings.refused_reason && l->reason == settings.refused_reason && rx_sk &&
        p->state == TCP_LISTEN) {
        l->type = DROPWATCH_HANDSHAKE3;
        l->listener = rx_sk;
        count_refused_ack(p->netns);
    }
    return false;
}

SEC("?fentry/tcp_conn_request")
int enter_request(__u64 *ctx)
{
    return on_enter((struct sock *)ctx[2], (struct sk_buff *)ctx[3], true);
}

SEC("?fexit/tcp_conn_request")
int leave_request(__u64 *ctx)
{
    return on_leave(ctx, true);
}

SEC("?fentry/tcp_v4_syn_recv_sock")
int enter_child_v4(__u64 *ctx)
{
    return on_enter((struct sock *)ctx[0], (struct sk_buff *)ctx[1], false);
}

SEC("?fexit/tcp_v4_syn_recv_sock")
int leave_child_v4(__u64 *ctx)
{
    return on_leave(ctx, false);
}

SEC("?fentry/tcp_v6_syn_recv_sock")
int enter_child_v6(__u64 *ctx)
{
    return on_enter((struct sock *)ctx[0], (struct sk_buff *)ctx[1], false);
}

SEC("?fexit/tcp_v6_syn_recv_sock")
int leave_child_v6(__u64 *ctx)
{
    return on_leave(ctx, false);
}

SEC("?kprobe/tcp_conn_request")
int BPF_KPROBE(probe_request, void *ops, void *af_ops, struct sock *sk, struct sk_buff *skb)
{
    return on_enter(sk, skb, true);
}

SEC("?kretprobe/tcp_conn_request")
int return_request(struct pt_regs *ctx)
{
    return on_leave(ctx, true);
}

SEC("?kprobe/tcp_v4_syn_recv_sock")
int BPF_KPROBE(probe_child_v4, struct sock *sk, struct sk_buff *skb)
{
    return on_enter(sk, skb, false);
}

SEC("?kretprobe/tcp_v4_syn_recv_sock")
int return_child_v4(struct pt_regs *ctx)
{
    return on_leave(ctx, false);
}

SEC("?kprobe/tcp_v6_syn_recv_sock")
int BPF_KPROBE(probe_child_v6, struct sock *sk, struct sk_buff *skb)
{
    return on_enter(sk, skb, false);
}

SEC("?kretprobe/tcp_v6_syn_recv_sock")
int return_child_v6(struct pt_regs *ctx)
{
    return on_leave(ctx, false);
}

/* --- packets that are dropped */

/* What the stack itself has dropped and counted as rx_dropped of a device, for the source that
 * reads these. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct dropwatch_device);
    __type(value, __u64);
} core_drops SEC(".maps");

static __always_inline void count_core_drop(struct sk_buff *skb, bool typed, __u32 reason)
{
    struct dropwatch_device key = {};
    struct net_device *dev;
    __u64 one = 1, *n;
    bool known = false;

    for (__u32 i = 0; i < CORE_REASONS_MAX; i++)
        known |= reason && settings.core_reasons[i] == reason;
    dev = known ? SKB_FIELD(skb, typed, dev) : NULL;
    if (!dev)
        return;
    key.ifindex = BPF_CORE_READ(dev, ifindex);
    key.netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
    n = bpf_map_lookup_elem(&core_drops, &key);
    if (n)
        COUNT(*n);
    else
        bpf_map_update_elem(&core_drops, &key, &one, BPF_ANY);
}

/** The same fact by whichever way it comes; `typed` pointers may be followed without a helper. */
static __always_inline int on_drop(void *ctx, struct sk_buff *skb, bool typed, __u64 place,
                                   __u32 reason, struct sock *rx_sk)
{
    struct loss l = {.place = place, .reason = reason};
    struct packet p = {};

    count_core_drop(skb, typed, reason);
    if (!event_watched() || !packet_is_ip(skb, typed))
        return 0;
    packet_read(&p, skb, typed, rx_sk);
    if (!(settings.protocols[p.protocol >> 6] & 1ULL << (p.protocol & 63)))
        return 0;
    if (p.protocol == PROTO_TCP && is_refused_ack(skb, &p, rx_sk, &l))
        return 0;
    event_any(&l, sizeof(l));
    return on_loss(ctx, skb, &p, &l);
}

/* The arguments that later kernels added; reading one that is not there is refused at load. */
#define REASON(ctx)                                                                                \
    (bpf_core_field_exists(struct trace_event_raw_kfree_skb___reason, reason) ? (__u32)(ctx)[2] : 0)
#define RX_SK(ctx)                                                                                 \
    (bpf_core_field_exists(struct trace_event_raw_kfree_skb___rx_sk, rx_sk)                        \
         ? (struct sock *)(ctx)[3]                                                                 \
         : NULL)

SEC("?tp_btf/kfree_skb")
int typed_kfree_skb(__u64 *ctx)
{
    return on_drop(ctx, (struct sk_buff *)ctx[0], true, ctx[1], REASON(ctx), RX_SK(ctx));
}

SEC("?raw_tp/kfree_skb")
int raw_kfree_skb(__u64 *ctx)
{
    return on_drop(ctx, (struct sk_buff *)ctx[0], false, ctx[1], REASON(ctx), RX_SK(ctx));
}

SEC("?tp/skb/kfree_skb")
int classic_kfree_skb(struct trace_event_raw_kfree_skb *ctx)
{
    __u32 reason = 0;
    struct sock *rx_sk = NULL;

    if (bpf_core_field_exists(struct trace_event_raw_kfree_skb___reason, reason))
        reason = ((struct trace_event_raw_kfree_skb___reason *)ctx)->reason;
    if (bpf_core_field_exists(struct trace_event_raw_kfree_skb___rx_sk, rx_sk))
        rx_sk = ((struct trace_event_raw_kfree_skb___rx_sk *)ctx)->rx_sk;
    return on_drop(ctx, ctx->skbaddr, false, (__u64)ctx->location, reason, rx_sk);
}

SEC("?tp_btf/inet_sock_set_state")
int typed_set_state(__u64 *ctx)
{
    return on_state((struct sock *)ctx[0], (int)ctx[1], (int)ctx[2]);
}

SEC("?raw_tp/inet_sock_set_state")
int raw_set_state(__u64 *ctx)
{
    return on_state((struct sock *)ctx[0], (int)ctx[1], (int)ctx[2]);
}

/* --- losses outside the stack */

/** `about` tells it from others at the same time. The packet is what is known of one. */
static __always_inline int on_device(void *ctx, const void *about, struct packet *p,
                                     struct net_device *dev, enum dropwatch_type type,
                                     const char *trap)
{
    const __u64 *name = (const __u64 *)p->device;
    struct loss l = {.type = type};
    struct dropwatch_wire *e;
    struct wire_counters *c;
    struct wire_key key = {};
    __u64 now, window_id;
    const char *driver;
    __u32 nth;
    int rule;

    event_any(p, sizeof(*p));
    c = event_counters();
    if (!c || !event_is_ours(about))
        return 0;
    COUNT(c->seen);
    rule = filter_rule(ctx, p, &l);
    if (rule >= 0) {
        event_filtered(c, rule);
        return 0;
    }
    key.what = type;
    key.words[1] = name[0];
    key.words[2] = name[1];
    key.words[3] = (__u64)p->netns << 32 | p->queue_mapping;
    if (trap)
        bpf_probe_read_kernel_str(&key.words[4], 24, trap);
    now = bpf_ktime_get_boot_ns();
    if (!event_window(c, &key, now, &window_id, &nth))
        return 0;
    e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
    if (!e) {
        event_lost(c, WIRE_LOST_RING_FULL);
        return 0;
    }
    event_zero(e, sizeof(*e));
    e->packet = *p;
    e->type = type;
    e->count = 1;
    driver = BPF_CORE_READ((struct net_device___device *)dev, dev.parent, driver, name);
    if (driver)
        bpf_probe_read_kernel_str(e->driver, sizeof(e->driver), driver);
    if (trap)
        bpf_probe_read_kernel_str(e->trap, sizeof(e->trap), trap);
    event_head(ctx, &e->head, now, window_id, nth);
    COUNT(c->sent);
    bpf_ringbuf_submit(e, 0);
    return 0;
}

/** dev_watchdog() in net/sched/sch_generic.c */
static __always_inline int on_timeout(void *ctx, struct net_device *dev, int queue)
{
    struct packet p = {};

    if (!event_watched())
        return 0;
    packet_read_device(&p, dev);
    p.queue_mapping = queue;
    return on_device(ctx, dev, &p, dev, DROPWATCH_TX_TIMEOUT, NULL);
}

SEC("?tp_btf/net_dev_xmit_timeout")
int typed_xmit_timeout(__u64 *ctx)
{
    return on_timeout(ctx, (struct net_device *)ctx[0], ctx[1]);
}

SEC("?raw_tp/net_dev_xmit_timeout")
int raw_xmit_timeout(__u64 *ctx)
{
    return on_timeout(ctx, (struct net_device *)ctx[0], ctx[1]);
}

/** Traps of other sorts are for packets that the stack gets. */
static __always_inline int on_trap(void *ctx, struct sk_buff *skb,
                                   struct devlink_trap_metadata *metadata)
{
    struct net_device *dev = BPF_CORE_READ(metadata, input_dev);
    struct packet p = {};

    if (!event_watched() || BPF_CORE_READ(metadata, trap_type) != DEVLINK_TRAP_TYPE_DROP)
        return 0;
    if (packet_is_ip(skb, false))
        packet_read(&p, skb, false, NULL);
    if (dev)
        packet_read_device(&p, dev);
    return on_device(ctx, skb, &p, dev, DROPWATCH_TRAP, BPF_CORE_READ(metadata, trap_name));
}

SEC("?tp_btf/devlink_trap_report")
int typed_trap(__u64 *ctx)
{
    return on_trap(ctx, (struct sk_buff *)ctx[1], (struct devlink_trap_metadata *)ctx[2]);
}

SEC("?raw_tp/devlink_trap_report")
int raw_trap(__u64 *ctx)
{
    return on_trap(ctx, (struct sk_buff *)ctx[1], (struct devlink_trap_metadata *)ctx[2]);
}

/* --- what the sources have found */

FOUND_MAP(struct dropwatch_wire);

SEC("?raw_tp")
int take_found(void *ctx)
{
    __u32 zero = 0;
    struct found *f = bpf_map_lookup_elem(&found, &zero);
    struct loss l = {};
    int rule;

    if (!f)
        return 0;
    l.type = f->wire.type;
    if (l.type != DROPWATCH_DEVICE && !(settings.protocols[0] & 1ULL << PROTO_TCP))
        return 0;
    rule = filter_rule(ctx, &f->wire.packet, &l);
    if (rule > 0)
        f->found.rule = rule;
    return event_found(&f->found, &f->wire.head, sizeof(f->wire));
}
