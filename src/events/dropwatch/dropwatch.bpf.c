// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** Packets that the network stack drops: kfree_skb, as opposed to consume_skb. */

#include "events/dropwatch/dropwatch.h"
#include "bpf/event.bpf.h"
#include "bpf/packet.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

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

static __always_inline int filter_rule(void *ctx, const struct packet *p, __u64 place, __u32 reason)
{
    const __u64 *saddr = (const __u64 *)p->saddr, *daddr = (const __u64 *)p->daddr;
    const __u64 *device = (const __u64 *)p->device;
    __u64 facts[FACT_NR];

    if (!settings.n_rows)
        return -1;
    facts[FACT_REASON_NETNS] = reason | (__u64)p->netns << 32;
    facts[FACT_BITS] = FACT_BITS_STATE(p->state & 15) |
                       (__u64)p->tcp_flags << FACT_BITS_FLAGS_SHIFT |
                       (p->payload_len ? FACT_BITS_PAYLOAD : FACT_BITS_NO_PAYLOAD) |
                       (p->iif ? FACT_BITS_RX : FACT_BITS_TX) |
                       (p->family == AF_INET6 ? FACT_BITS_IPV6 : FACT_BITS_IPV4) |
                       (__u64)p->protocol << FACT_BITS_PROTOCOL_SHIFT;
    if (settings.want_received && (p->state == 0 || p->state == TCP_CLOSE) &&
        p->protocol == PROTO_TCP && received_before(p))
        facts[FACT_BITS] |= FACT_BITS_RECEIVED;
    facts[FACT_PLACES] = place_bit(place);
    facts[FACT_CALLERS] = facts[FACT_PLACES] & settings.ranges_with_caller ? caller_bits(ctx) : 0;
    facts[FACT_SADDR_HI] = saddr[0];
    facts[FACT_SADDR_LO] = saddr[1];
    facts[FACT_DADDR_HI] = daddr[0];
    facts[FACT_DADDR_LO] = daddr[1];
    facts[FACT_PORTS] = p->sport | (__u64)p->dport << 16;
    facts[FACT_DEVICE_HI] = device[0];
    facts[FACT_DEVICE_LO] = device[1];
    return first_match(facts);
}

/** The same fact by whichever way it comes; `typed` pointers may be followed without a helper. */
static __always_inline int on_drop(void *ctx, struct sk_buff *skb, bool typed, __u64 place,
                                   __u32 reason, struct sock *rx_sk)
{
    struct dropwatch_wire *e;
    struct wire_counters *c;
    struct wire_key key = {};
    struct packet p = {};
    __u64 now, window_id;
    __u32 nth;
    int rule;

    if (!event_watched() || !packet_is_ip(skb, typed))
        return 0;
    packet_read(&p, skb, typed, rx_sk);
    if (!(settings.protocols[p.protocol >> 6] & 1ULL << (p.protocol & 63)))
        return 0;
    c = event_counters();
    if (!c || !event_is_ours(skb))
        return 0;
    COUNT(c->seen);

    if (!settings.keep_own && packet_is_own(&p)) {
        event_filtered(c, common.own_rule);
        return 0;
    }
    rule = filter_rule(ctx, &p, place, reason);
    if (rule >= 0) {
        event_filtered(c, rule);
        return 0;
    }

    key.what = reason;
    key.words[0] = place;
    packet_key(&p, &key.words[1]);
    now = bpf_ktime_get_boot_ns();
    if (!event_window(c, &key, now, &window_id, &nth))
        return 0;

    e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
    if (!e) {
        event_lost(c, WIRE_LOST_RING_FULL);
        return 0;
    }
    e->packet = p;
    e->place = place;
    e->reason = reason;
    e->has_reason = bpf_core_field_exists(struct trace_event_raw_kfree_skb___reason, reason);
    __builtin_memset(e->pad, 0, sizeof(e->pad));
    event_head(ctx, &e->head, now, window_id, nth);
    COUNT(c->sent);
    bpf_ringbuf_submit(e, 0);
    return 0;
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
