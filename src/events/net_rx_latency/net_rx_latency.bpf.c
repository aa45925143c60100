// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/**
 * Packets that come late: to the network stack, to TCP, to the process that reads them.
 *
 * All of it hangs on the time stamp that the kernel gives a packet when it receives it, which it
 * does as long as somebody wants it (net_rx_latency.c). The first comparison is made with the
 * distance of the clocks as it is now; what a step of the clock may have made look late is looked
 * at only then.
 */

#include "events/net_rx_latency/net_rx_latency.h"
#include "bpf/event.bpf.h"
#include "bpf/packet.bpf.h"
#include "events/net_rx_latency/stamp.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define RT_PRIO_MAX      100 /* MAX_RT_PRIO, include/linux/sched/prio.h */
#define MSG_PEEK         2
#define UDP_IS_STATELESS 0x80000000U /* UDP_SKB_IS_STATELESS, net/ipv4/udp.c */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct udp_sock {
    struct sk_buff_head reader_queue;
};

struct timekeeper {
    __s64 offs_real; /* ns: CLOCK_REALTIME - CLOCK_MONOTONIC */
};

struct inet_connection_sock {
    struct {
        __u32 lrcvtime; /* jiffies: when data was received last */
    } icsk_ack;
};

struct nsproxy {
    struct net *net_ns;
};

struct sched_entity {
    __u64 sum_exec_runtime;      /* ns, as of the last tick or switch */
    __u64 prev_sum_exec_runtime; /* ns, as of when it was put on a CPU last */
};

struct task_struct___reader {
    int prio;
    struct nsproxy *nsproxy;
    struct sched_entity se;
};

#pragma clang attribute pop

volatile struct net_rx_latency_settings settings SEC(".data.settings") = {};

/* Before 6.1 no helper tells CLOCK_TAI, and where the kernel names its data this does. */
const volatile struct wire_symbol tk_core SEC(".rodata.symbols") = {.name = "tk_core"};

/* Packets that were delivered late: after how long, by their stamp, which hardly two have in
 * common, and which stays when the packet is merged with others. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64);
    __type(value, __u64);
} delivered SEC(".maps");

struct reading {
    __u32 told;     /* sequence number of the segment that was told last ... */
    __u32 any_told; /* ... if one was */
    __u32 copied;   /* tcp_sock.copied_seq, as it was seen last */
    __u32 pad;
};

/* Of TCP sockets that were read late, or by something else than recvmsg(). */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64); /* address of the socket */
    __type(value, struct reading);
} readings SEC(".maps");

struct finding {
    __u64 stamp_ns; /* as it is in the packet */
    __u64 latency_ns;
    __u32 where;
    __u32 since;
};

/* --- clocks */

enum stamp_clock { STAMP_REALTIME, STAMP_MONOTONIC };

/** enum stamp_clock; more: a clock that is not for us. */
static __always_inline __u32 stamp_clock(struct sk_buff *skb, bool typed)
{
    if (bpf_core_field_exists(struct sk_buff___tstamp_type, tstamp_type)) {
        struct sk_buff___tstamp_type *s = (void *)skb;

        return typed ? BPF_CORE_READ_BITFIELD(s, tstamp_type)
                     : BPF_CORE_READ_BITFIELD_PROBED(s, tstamp_type);
    }
    if (bpf_core_field_exists(struct sk_buff___mono_delivery_time, mono_delivery_time)) {
        struct sk_buff___mono_delivery_time *s = (void *)skb;

        return typed ? BPF_CORE_READ_BITFIELD(s, mono_delivery_time)
                     : BPF_CORE_READ_BITFIELD_PROBED(s, mono_delivery_time);
    }
    return STAMP_REALTIME;
}

/** CLOCK_REALTIME - CLOCK_MONOTONIC as the kernel has it at this moment; false: it cannot be had.
 */
static __always_inline bool live_offset(__s64 *ret)
{
    if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ktime_get_tai_ns)) {
        *ret = bpf_ktime_get_tai_ns() - common.clock.tai_ns - bpf_ktime_get_ns();
        return true;
    }
    if (tk_core.address) {
        /* Behind a seqcount: static struct tk_core, kernel/time/timekeeping.c. */
        struct timekeeper *timekeeper = (void *)(tk_core.address + 8);

        return bpf_core_read(ret, sizeof(*ret), &timekeeper->offs_real) == 0;
    }
    return false;
}

/** The whole truth about a stamp of CLOCK_REALTIME that looks old. */
static __always_inline __u64 realtime_age(__u64 stamp, __u64 now)
{
    __s64 offset = 0;
    bool live = live_offset(&offset);
    __u64 age = stamp_age(&common.clock, now, stamp, live, offset);
    struct wire_counters *c;

    if (age == STAMP_UNKNOWN) {
        c = event_counters();
        if (c)
            c->measures[RX_STAMPS_UNKNOWN]++;
        return 0;
    }
    return age;
}

/** The first look: whether it can be that old, or somebody has set the clock. */
static __always_inline bool may_be_late(__u64 stamp, __u64 now, __u64 limit)
{
    return now + common.clock.offset_ns - stamp + STAMP_EARLY_NS >= limit + STAMP_EARLY_NS;
}

/* --- telling */

/** Index of the first row's rule that matches, or -1. */
static __noinline int first_match(const __u64 *facts)
{
    for (__u32 i = 0; i < RX_ROWS_MAX; i++) {
        __u64 differs = 0;

        if (i >= settings.n_rows)
            break;
#pragma unroll
        for (__u32 word = 0; word < RX_FACT_NR; word++)
            differs |= (facts[word] ^ settings.rows[i].value[word]) & settings.rows[i].mask[word];
        if (!differs)
            return settings.rows[i].rule;
    }
    return -1;
}

static __always_inline int filter_rule(const struct packet *p, const struct finding *f)
{
    const __u64 *saddr = (const __u64 *)p->saddr, *daddr = (const __u64 *)p->daddr;
    __u64 facts[RX_FACT_NR];

    if (!settings.keep_own && packet_is_own(p))
        return common.own_rule;
    if (!settings.n_rows)
        return -1;
    facts[RX_FACT_BITS] =
        (__u64)f->where << RX_BITS_WHERE_SHIFT | (__u64)f->since << RX_BITS_SINCE_SHIFT |
        (p->family == AF_INET6 ? RX_BITS_IPV6 : 0) | (__u64)p->protocol << RX_BITS_PROTOCOL_SHIFT |
        (__u64)p->netns << RX_BITS_NETNS_SHIFT;
    facts[RX_FACT_SADDR_HI] = saddr[0];
    facts[RX_FACT_SADDR_LO] = saddr[1];
    facts[RX_FACT_DADDR_HI] = daddr[0];
    facts[RX_FACT_DADDR_LO] = daddr[1];
    facts[RX_FACT_PORTS] = p->sport | (__u64)p->dport << 16;
    return first_match(facts);
}

/** For how long the current task has been running since it was put on this CPU; false: not known.
 */
static __always_inline bool read_ran(__u64 *ret)
{
    struct task_struct___reader *task = (void *)bpf_get_current_task();
    __u64 sum, before;

    if (!bpf_core_field_exists(struct sched_entity, prev_sum_exec_runtime) ||
        BPF_CORE_READ(task, prio) < RT_PRIO_MAX) /* not kept for them */
        return false;
    sum = BPF_CORE_READ(task, se.sum_exec_runtime);
    before = BPF_CORE_READ(task, se.prev_sum_exec_runtime);
    *ret = sum > before ? sum - before : 0;
    return true;
}

/** What is received is told from a packet's view, also where only the socket is left. */
static __always_inline bool read_socket_only(struct packet *p, struct sock *sk)
{
    struct packet own = {};

    if (!packet_read_socket(&own, sk, false))
        return false;
    *p = own;
    __builtin_memcpy(p->saddr, own.daddr, 16);
    __builtin_memcpy(p->daddr, own.saddr, 16);
    p->sport = own.dport;
    p->dport = own.sport;
    p->protocol = BPF_CORE_READ(sk, sk_protocol);
    p->socket = PACKET_SOCKET_READ;
    if (p->protocol == PROTO_TCP)
        p->seq = BPF_CORE_READ((struct tcp_sock *)sk, copied_seq);
    return true;
}

static __always_inline bool read_flow(struct packet *p, struct sk_buff *skb, struct sock *sk,
                                      const struct finding *f)
{
    struct task_struct___reader *task;

    if (!skb)
        return sk && read_socket_only(p, sk);
    if (f->where == RX_TO_NETIF_RCV) {
        /* Nobody has told yet where the header is: it is next. */
        packet_read_at(p, skb, false, NULL, BPF_CORE_READ(skb, data) - BPF_CORE_READ(skb, head));
        p->iif = p->iif ? p->iif : p->ifindex;
    } else {
        packet_read(p, skb, false, sk);
    }
    if (!p->netns && f->where == RX_TO_USER_COPY) { /* UDP lets go of device and route */
        task = (void *)bpf_get_current_task();
        p->netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
    }
    return p->protocol == PROTO_TCP || p->protocol == PROTO_UDP;
}

static __noinline int tell(void *ctx, struct sk_buff *skb, struct sock *sk, struct finding *f)
{
    struct net_rx_latency_wire *e;
    struct wire_counters *c;
    struct wire_key key = {};
    struct packet p = {};
    __u64 now, window_id, *noted;
    __u32 nth, where = f->where;
    int rule;

    if (where >= RX_WHERE_NR || !read_flow(&p, skb, sk, f))
        return 0;
    c = event_counters();
    /* A packet may come to all of the stages within the time of one event. */
    if (!c || !event_is_ours((void *)((__u64)(skb ? (void *)skb : (void *)sk) + where)))
        return 0;
    COUNT(c->seen);
    rule = filter_rule(&p, f);
    if (rule >= 0) {
        event_filtered(c, rule);
        return 0;
    }

    key.what = where;
    packet_key(&p, key.words);
    now = bpf_ktime_get_boot_ns();
    if (!event_window(c, &key, now, &window_id, &nth))
        return 0;

    e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
    if (!e) {
        event_lost(c, WIRE_LOST_RING_FULL);
        return 0;
    }
    e->packet = p;
    e->latency_ns = f->latency_ns;
    e->threshold_ns = settings.threshold_ns[where];
    e->delivered_ns = e->ran_ns = 0;
    e->where = where;
    e->since = f->since;
    e->ran_known = 0;
    __builtin_memset(e->pad, 0, sizeof(e->pad));
    if (where == RX_TO_USER_COPY) {
        noted = bpf_map_lookup_elem(&delivered, &f->stamp_ns);
        if (noted)
            e->delivered_ns = *noted;
        e->ran_known = read_ran(&e->ran_ns);
    }
    event_head(ctx, &e->head, now, window_id, nth);
    COUNT(c->sent);
    bpf_ringbuf_submit(e, 0);
    return 0;
}

/* --- packets on their way up */

static __noinline int arrived_late(void *ctx, struct sk_buff *skb, struct sock *sk, __u32 where)
{
    __u64 now = bpf_ktime_get_ns(), latency;
    struct finding f = {.where = where};
    __u32 clock = stamp_clock(skb, false);
    __be16 protocol;

    if (where >= RX_WHERE_NR)
        return 0;
    f.stamp_ns = BPF_CORE_READ(skb, tstamp);
    if (clock == STAMP_MONOTONIC) {
        latency = now - f.stamp_ns;
        f.since = RX_SINCE_SENT;
    } else if (clock == STAMP_REALTIME) {
        latency = realtime_age(f.stamp_ns, now);
        f.since = RX_SINCE_RECEIVED;
        if (latency >= RX_NOTE_NS)
            bpf_map_update_elem(&delivered, &f.stamp_ns, &latency, BPF_ANY);
    } else {
        return 0;
    }
    protocol = BPF_CORE_READ(skb, protocol);
    if (latency < settings.threshold_ns[where] ||
        (protocol != bpf_htons(ETH_P_IP) && protocol != bpf_htons(ETH_P_IPV6)))
        return 0;
    f.latency_ns = latency;
    return tell(ctx, skb, sk, &f);
}

static __always_inline int on_arrival(void *ctx, struct sk_buff *skb, struct sock *sk, bool typed,
                                      enum rx_where where)
{
    __u64 stamp, now;

    if (!event_watched())
        return 0;
    stamp = SKB_FIELD(skb, typed, tstamp);
    if (!stamp)
        return 0;
    now = bpf_ktime_get_ns();
    if (stamp_clock(skb, typed) != STAMP_REALTIME) {
        /* One that is to be sent later lies in the future. */
        if ((__s64)(now - stamp) < (__s64)settings.threshold_ns[where])
            return 0;
    } else if (!may_be_late(stamp, now, settings.look_ns[where])) {
        return 0;
    }
    return arrived_late(ctx, skb, sk, where);
}

SEC("?tp_btf/netif_receive_skb")
int typed_netif_receive_skb(__u64 *ctx)
{
    return on_arrival(ctx, (struct sk_buff *)ctx[0], NULL, true, RX_TO_NETIF_RCV);
}

SEC("?raw_tp/netif_receive_skb")
int raw_netif_receive_skb(__u64 *ctx)
{
    return on_arrival(ctx, (struct sk_buff *)ctx[0], NULL, false, RX_TO_NETIF_RCV);
}

SEC("?tp_btf/tcp_probe")
int typed_tcp_probe(__u64 *ctx)
{
    return on_arrival(ctx, (struct sk_buff *)ctx[1], (struct sock *)ctx[0], true, RX_TO_TCPV4_RCV);
}

SEC("?raw_tp/tcp_probe")
int raw_tcp_probe(__u64 *ctx)
{
    return on_arrival(ctx, (struct sk_buff *)ctx[1], (struct sock *)ctx[0], false, RX_TO_TCPV4_RCV);
}

/* --- what is read from TCP sockets */

/** Something was read that began to wait long ago: of the segment at the head of the queue, or, if
 * `skb` is NULL, of the last that came. */
static __always_inline int tell_read(void *ctx, struct sk_buff *skb, struct sock *sk, __u64 stamp,
                                     __u64 latency)
{
    struct finding f = {
        .stamp_ns = stamp,
        .latency_ns = latency,
        .where = RX_TO_USER_COPY,
        .since = skb ? RX_SINCE_RECEIVED : RX_SINCE_SEGMENT,
    };

    return tell(ctx, skb, sk, &f);
}

static __noinline int tcp_read_late(void *ctx, struct sk_buff *skb, struct sock *sk)
{
    __u64 stamp = BPF_CORE_READ(skb, tstamp), latency, id = (__u64)sk;
    struct tcp_skb_cb *cb =
        (struct tcp_skb_cb *)((void *)skb + bpf_core_field_offset(struct sk_buff, cb));
    struct reading fresh = {}, *reading;
    __u32 seq = BPF_CORE_READ(cb, seq), copied;
    bool is_read, more;

    if (stamp_clock(skb, false) != STAMP_REALTIME)
        return 0;
    latency = realtime_age(stamp, bpf_ktime_get_ns());
    if (latency < settings.threshold_ns[RX_TO_USER_COPY])
        return 0;
    copied = BPF_CORE_READ((struct tcp_sock *)sk, copied_seq);
    is_read = (__s32)(copied - seq) > 0;
    reading = bpf_map_lookup_elem(&readings, &id);
    /* splice() has eaten what was before the head when it comes here; who peeks has not. */
    more = reading && reading->copied != copied;
    if (reading) {
        reading->copied = copied;
        if (reading->any_told && reading->told == seq)
            return 0; /* the next part of it */
    }
    fresh.copied = copied;
    if (is_read || more) {
        fresh.told = seq;
        fresh.any_told = 1;
    }
    bpf_map_update_elem(&readings, &id, &fresh, BPF_ANY);
    return fresh.any_told ? tell_read(ctx, skb, sk, stamp, latency) : 0;
}

/** The reader is none that goes by recvmsg(), which has its segment in the queue still. Nobody
 * tells whether it has read anything; if it has read all, it was all of the last segment. */
static __noinline int tcp_read_all(void *ctx, struct sock *sk)
{
    __u32 copied = BPF_CORE_READ((struct tcp_sock *)sk, copied_seq), age;
    struct reading fresh = {.copied = copied}, *reading;
    __u64 latency, id = (__u64)sk;

    if (!bpf_core_field_exists(struct inet_connection_sock, icsk_ack.lrcvtime))
        return 0;
    reading = bpf_map_lookup_elem(&readings, &id);
    if (!reading) {
        bpf_map_update_elem(&readings, &id, &fresh, BPF_ANY);
        return 0;
    }
    if (reading->copied == copied)
        return 0;
    reading->copied = copied;
    age = (__u32)bpf_jiffies64() -
          BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_ack.lrcvtime);
    latency = age * settings.tick_ns;
    if (latency < settings.threshold_ns[RX_TO_USER_COPY] || (__s32)age < 0)
        return 0;
    return tell_read(ctx, NULL, sk, 0, latency);
}

#define SOCK_FIELD(sk, typed, field) ((typed) ? (sk)->field : BPF_CORE_READ(sk, field))

static __always_inline int on_tcp_read(void *ctx, struct sock *sk, bool typed)
{
    struct sk_buff *skb;
    __u64 stamp;

    if (!event_watched())
        return 0;
    skb = SOCK_FIELD(sk, typed, sk_receive_queue.next);
    if ((void *)skb == (void *)&sk->sk_receive_queue)
        return tcp_read_all(ctx, sk);
    stamp = SKB_FIELD(skb, typed, tstamp);
    if (!stamp || !may_be_late(stamp, bpf_ktime_get_ns(), settings.threshold_ns[RX_TO_USER_COPY]))
        return 0;
    return tcp_read_late(ctx, skb, sk);
}

SEC("?tp_btf/tcp_rcv_space_adjust")
int typed_tcp_rcv_space_adjust(__u64 *ctx)
{
    return on_tcp_read(ctx, (struct sock *)ctx[0], true);
}

SEC("?raw_tp/tcp_rcv_space_adjust")
int raw_tcp_rcv_space_adjust(__u64 *ctx)
{
    return on_tcp_read(ctx, (struct sock *)ctx[0], false);
}

/* --- datagrams that were read: the kernel has one place where it lets go of them */

static __always_inline int datagram_read(void *ctx, struct sk_buff *skb, struct sock *sk,
                                         __u64 stamp)
{
    struct finding f = {
        .where = RX_TO_USER_COPY,
        .since = RX_SINCE_RECEIVED,
        .stamp_ns = stamp,
        .latency_ns = realtime_age(stamp, bpf_ktime_get_ns()),
    };

    if (f.latency_ns < settings.threshold_ns[RX_TO_USER_COPY])
        return 0;
    return tell(ctx, skb, sk, &f);
}

static __always_inline bool may_be_read_late(__u64 stamp)
{
    return stamp && may_be_late(stamp, bpf_ktime_get_ns(), settings.threshold_ns[RX_TO_USER_COPY]);
}

SEC("?fentry/skb_consume_udp")
int udp_skb_consume_udp(__u64 *ctx)
{
    struct sk_buff *skb = (struct sk_buff *)ctx[1];

    /* Less than 0: it was only peeked at. */
    if (!event_watched() || (int)ctx[2] < 0 || !may_be_read_late(skb->tstamp))
        return 0;
    return datagram_read(ctx, skb, (struct sock *)ctx[0], skb->tstamp);
}

/* --- the same before 6.18, by what is consumed of any kind */

static __noinline int datagram_consumed(void *ctx, struct sk_buff *skb)
{
    __u64 scratch = (__u64)BPF_CORE_READ(skb, dev);

    /* In the queue of a UDP socket there is something else in place of the device: struct
     * udp_dev_scratch, net/ipv4/udp.c. */
    if (((__u32)scratch & ~UDP_IS_STATELESS) != BPF_CORE_READ(skb, truesize) ||
        (__u16)(scratch >> 32) != (__u16)BPF_CORE_READ(skb, len))
        return 0;
    return datagram_read(ctx, skb, NULL, BPF_CORE_READ(skb, tstamp));
}

static __always_inline int on_consumed(void *ctx, struct sk_buff *skb, bool typed)
{
    __u64 stamp;

    if (!event_watched())
        return 0;
    stamp = SKB_FIELD(skb, typed, tstamp);
    /* Most that have a stamp have been sent, and belong to a socket. */
    if (!stamp || SKB_FIELD(skb, typed, sk) || stamp_clock(skb, typed) != STAMP_REALTIME ||
        !may_be_read_late(stamp))
        return 0;
    return datagram_consumed(ctx, skb);
}

SEC("?tp_btf/consume_skb")
int typed_consume_skb(__u64 *ctx)
{
    return on_consumed(ctx, (struct sk_buff *)ctx[0], true);
}

SEC("?raw_tp/consume_skb")
int raw_consume_skb(__u64 *ctx)
{
    return on_consumed(ctx, (struct sk_buff *)ctx[0], false);
}

/* --- and where neither is to be had: the socket alone, when it gets something and when it is read
 */

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, __u64); /* stamp of the datagram that is read next; 0: none */
} next_stamps SEC(".maps");

static __always_inline __u64 next_stamp(struct sock *sk)
{
    struct udp_sock *udp = (struct udp_sock *)sk;
    /* What the reader has put aside is older. */
    struct sk_buff *skb = BPF_CORE_READ(udp, reader_queue.next);

    if ((void *)skb == (void *)&udp->reader_queue)
        skb = sk->sk_receive_queue.next;
    return (void *)skb == (void *)&sk->sk_receive_queue ? 0 : BPF_CORE_READ(skb, tstamp);
}

static __always_inline bool is_udp(struct sock *sk)
{
    __u16 family = sk->__sk_common.skc_family;

    return sk->sk_protocol == PROTO_UDP && (family == AF_INET || family == AF_INET6);
}

SEC("?tp_btf/sk_data_ready")
int typed_sk_data_ready(__u64 *ctx)
{
    struct sock *sk = (struct sock *)ctx[0];
    __u64 *stamp;

    if (!event_watched() || !is_udp(sk))
        return 0;
    stamp = bpf_sk_storage_get(&next_stamps, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
    if (stamp)
        *stamp = next_stamp(sk);
    return 0;
}

static __noinline int socket_read(void *ctx, struct sock *sk, __u64 stamp)
{
    return datagram_read(ctx, NULL, sk, stamp);
}

SEC("?tp_btf/sock_recv_length")
int typed_sock_recv_length(__u64 *ctx)
{
    struct sock *sk = (struct sock *)ctx[0];
    __u64 *stamp, read;

    if (!event_watched() || (int)ctx[1] <= 0 || (int)ctx[2] & MSG_PEEK || !is_udp(sk))
        return 0;
    stamp = bpf_sk_storage_get(&next_stamps, sk, NULL, 0);
    if (!stamp)
        return 0;
    read = *stamp;
    *stamp = next_stamp(sk);
    return may_be_read_late(read) ? socket_read(ctx, sk, read) : 0;
}
