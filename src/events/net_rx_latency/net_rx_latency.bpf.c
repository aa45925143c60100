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

/* Of the last tenth of a second, in RX_SHARE: kernel/sched/pelt.c halves what is 32 ms old. */
struct sched_avg {
    unsigned long runnable_avg; /* 5.7+: it ran or waited for a CPU */
    unsigned long util_avg;     /* it ran */
};

struct sched_entity {
    struct sched_avg avg;
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
    __u32 ports;    /* tell a socket from one that was at the same address before */
};

/* Of TCP sockets that were read late, or by something else than recvmsg(). */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64); /* address of the socket */
    __type(value, struct reading);
} readings SEC(".maps");

/** Of late packets and sockets only the address is handed on, as a number. */
struct finding {
    __u64 skb;      /* 0: there is only the socket */
    __u64 sk;       /* 0: not known */
    __u64 stamp_ns; /* as it is in the packet */
    __u64 latency_ns;
    __u32 where;
    __u32 since;
};

/** An argument of the hook as a number, which the verifier does not take for a pointer. */
static __always_inline __u64 address(__u64 *ctx, __u32 argument)
{
    __u64 value = 0;

    bpf_probe_read_kernel(&value, sizeof(value), &ctx[argument]);
    return value;
}

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

/** The whole truth about a stamp of CLOCK_REALTIME that looks old. A global function is verified
 * once, not once for every path that leads to a call. */
__noinline __u64 realtime_age(__u64 stamp, __u64 now)
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

static __always_inline bool may_be_late(__u64 stamp, __u64 now, __u64 limit)
{
    return stamp_may_be_late(stamp, common.clock.offset_ns, now, limit);
}

/** Of a stage that is one. Before 5.12 the verifier forgets that if it was looked at earlier. */
static __always_inline __u64 threshold_of(__u64 where)
{
    asm volatile("%0 &= 3" : "+r"(where));
    return settings.threshold_ns[where];
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
        for (__u32 word = 0; word < PACKET_FACTS; word++)
            differs |= (facts[word] ^ settings.rows[i].value[word]) & settings.rows[i].mask[word];
        if (!differs)
            return settings.rows[i].rule;
    }
    return -1;
}

static __always_inline int filter_rule(const struct packet *p, const struct finding *f)
{
    __u64 facts[PACKET_FACTS];

    if (!settings.keep_own && packet_is_own(p))
        return common.own_rule;
    if (!settings.n_rows)
        return -1;
    packet_facts(p, facts);
    facts[PACKET_FACT_BITS] |= (__u64)f->where << RX_BITS_WHERE_SHIFT | (__u64)f->since
                                                                            << RX_BITS_SINCE_SHIFT;
    event_any(facts, sizeof(facts));
    return first_match(facts);
}

/** What the scheduler knows of the current task. It keeps none of it for real-time tasks. */
static __always_inline void read_reader(struct net_rx_latency_wire *e)
{
    struct task_struct___reader *task = (void *)bpf_get_current_task();
    __u64 sum, before;

    if (!bpf_core_field_exists(struct sched_entity, prev_sum_exec_runtime) ||
        !bpf_core_field_exists(struct sched_avg, runnable_avg) ||
        BPF_CORE_READ(task, prio) < RT_PRIO_MAX)
        return;
    sum = BPF_CORE_READ(task, se.sum_exec_runtime);
    before = BPF_CORE_READ(task, se.prev_sum_exec_runtime);
    e->ran_ns = sum > before ? sum - before : 0;
    e->ran_share = BPF_CORE_READ(task, se.avg.util_avg);
    e->runnable_share = BPF_CORE_READ(task, se.avg.runnable_avg);
    e->reader_known = 1;
}

/** What is received is told from a packet's view, also where only the socket is left. */
static __always_inline void read_socket_only(struct packet *p, struct sock *sk)
{
    __u64 *saddr = (__u64 *)p->saddr, *daddr = (__u64 *)p->daddr, own_hi, own_lo;
    __u16 own_port;

    if (!packet_read_socket(p, sk, false))
        return;
    own_hi = saddr[0];
    own_lo = saddr[1];
    own_port = p->sport;
    saddr[0] = daddr[0];
    saddr[1] = daddr[1];
    p->sport = p->dport;
    daddr[0] = own_hi;
    daddr[1] = own_lo;
    p->dport = own_port;
    p->protocol = BPF_CORE_READ(sk, sk_protocol);
    p->socket = PACKET_SOCKET_READ;
    if (p->protocol == PROTO_TCP)
        p->seq = BPF_CORE_READ((struct tcp_sock *)sk, copied_seq);
}

/** Fills a zeroed packet. False: it is of no protocol that is watched. */
static __always_inline bool read_flow(struct packet *p, const struct finding *f)
{
    struct sk_buff *skb = (void *)f->skb;
    struct sock *sk = (void *)f->sk;
    struct task_struct___reader *task;
    __u64 network;

    if (!skb) {
        read_socket_only(p, sk);
    } else {
        /* On arrival nobody has told yet where the header is: it is next. */
        network = f->where == RX_TO_NETIF_RCV
                      ? (__u64)(BPF_CORE_READ(skb, data) - BPF_CORE_READ(skb, head))
                      : BPF_CORE_READ(skb, network_header);
        packet_read_at(p, skb, false, sk, network);
        if (f->where == RX_TO_NETIF_RCV && !p->iif)
            p->iif = p->ifindex;
    }
    if (!p->netns && f->where == RX_TO_USER_COPY) { /* UDP lets go of device and route */
        task = (void *)bpf_get_current_task();
        p->netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
    }
    event_any(p, sizeof(*p));
    return p->protocol == PROTO_TCP || p->protocol == PROTO_UDP;
}

static __noinline int tell(void *ctx, const struct finding *f)
{
    struct net_rx_latency_wire *e;
    struct wire_counters *c;
    struct wire_key key = {};
    struct packet p = {};
    __u64 now, window_id, *noted;
    __u32 nth, where = f->where;
    int rule;

    if (where >= RX_WHERE_NR || !read_flow(&p, f))
        return 0;
    c = event_counters();
    /* A packet may come to all of the stages within the time of one event. */
    if (!c || !event_is_ours((void *)((f->skb ? f->skb : f->sk) + where)))
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
    e->threshold_ns = threshold_of(where);
    e->delivered_ns = e->ran_ns = 0;
    e->ran_share = e->runnable_share = 0;
    e->where = where;
    e->since = f->since;
    e->reader_known = 0;
    e->pad = 0;
    if (where == RX_TO_USER_COPY) {
        noted = bpf_map_lookup_elem(&delivered, &f->stamp_ns);
        if (noted)
            e->delivered_ns = *noted;
        read_reader(e);
    }
    event_head(ctx, &e->head, now, window_id, nth);
    COUNT(c->sent);
    bpf_ringbuf_submit(e, 0);
    return 0;
}

/* --- packets on their way up */

/** 0: it is not late, or not for us. */
__noinline __u64 arrival_latency(__u64 skb_address, __u32 where)
{
    struct sk_buff *skb = (void *)skb_address;
    __u64 now = bpf_ktime_get_ns(), stamp, latency;
    __u32 clock = stamp_clock(skb, false);
    __be16 protocol;

    if (where >= RX_WHERE_NR || clock > STAMP_MONOTONIC)
        return 0;
    stamp = BPF_CORE_READ(skb, tstamp);
    if (clock == STAMP_MONOTONIC) {
        latency = now - stamp;
    } else {
        latency = realtime_age(stamp, now);
        if (latency >= RX_NOTE_NS)
            bpf_map_update_elem(&delivered, &stamp, &latency, BPF_ANY);
    }
    protocol = BPF_CORE_READ(skb, protocol);
    if (latency < threshold_of(where) ||
        (protocol != bpf_htons(ETH_P_IP) && protocol != bpf_htons(ETH_P_IPV6)))
        return 0;
    return latency;
}

static __always_inline int on_arrival(__u64 *ctx, struct sk_buff *skb, bool typed,
                                      enum rx_where where)
{
    struct finding f = {.where = where};
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
        f.since = RX_SINCE_SENT;
    } else if (!may_be_late(stamp, now, settings.look_ns[where])) {
        return 0;
    }
    f.skb = address(ctx, where == RX_TO_NETIF_RCV ? 0 : 1);
    f.sk = where == RX_TO_NETIF_RCV ? 0 : address(ctx, 0);
    f.stamp_ns = stamp;
    f.latency_ns = arrival_latency(f.skb, where);
    return f.latency_ns ? tell(ctx, &f) : 0;
}

SEC("?tp_btf/netif_receive_skb")
int typed_netif_receive_skb(__u64 *ctx)
{
    return on_arrival(ctx, (struct sk_buff *)ctx[0], true, RX_TO_NETIF_RCV);
}

SEC("?raw_tp/netif_receive_skb")
int raw_netif_receive_skb(__u64 *ctx)
{
    return on_arrival(ctx, (struct sk_buff *)ctx[0], false, RX_TO_NETIF_RCV);
}

SEC("?tp_btf/tcp_probe")
int typed_tcp_probe(__u64 *ctx)
{
    return on_arrival(ctx, (struct sk_buff *)ctx[1], true, RX_TO_TCPV4_RCV);
}

SEC("?raw_tp/tcp_probe")
int raw_tcp_probe(__u64 *ctx)
{
    return on_arrival(ctx, (struct sk_buff *)ctx[1], false, RX_TO_TCPV4_RCV);
}

/* --- what is read from TCP sockets */

static __always_inline __u32 ports_of(__u64 sk_address)
{
    struct sock *sk = (void *)sk_address;

    return BPF_CORE_READ(sk, __sk_common.skc_dport) |
           (__u32)BPF_CORE_READ((struct inet_sock *)sk, inet_sport) << 16;
}

static __always_inline struct reading *find_reading(__u64 sk_address, __u32 ports)
{
    struct reading *reading = bpf_map_lookup_elem(&readings, &sk_address);

    return reading && reading->ports == ports ? reading : NULL;
}

/** Of the segment at the head of the queue, if it is read and has not been told. 0: no. */
__noinline __u64 segment_latency(__u64 skb_address, __u64 sk_address)
{
    struct sk_buff *skb = (void *)skb_address;
    struct tcp_skb_cb *cb = (void *)(skb_address + bpf_core_field_offset(struct sk_buff, cb));
    struct reading fresh = {}, *reading;
    __u32 seq = BPF_CORE_READ(cb, seq), copied;
    __u64 latency;
    bool more;

    fresh.ports = ports_of(sk_address);
    if (stamp_clock(skb, false) != STAMP_REALTIME)
        return 0;
    latency = realtime_age(BPF_CORE_READ(skb, tstamp), bpf_ktime_get_ns());
    if (latency < settings.threshold_ns[RX_TO_USER_COPY])
        return 0;
    copied = BPF_CORE_READ((struct tcp_sock *)sk_address, copied_seq);
    reading = find_reading(sk_address, fresh.ports);
    /* splice() has eaten what was before the head when it comes here; who peeks has not. */
    more = reading && reading->copied != copied;
    if (reading) {
        reading->copied = copied;
        if (reading->any_told && reading->told == seq)
            return 0; /* the next part of it */
    }
    fresh.copied = copied;
    if ((__s32)(copied - seq) > 0 || more) {
        fresh.told = seq;
        fresh.any_told = 1;
    }
    bpf_map_update_elem(&readings, &sk_address, &fresh, BPF_ANY);
    return fresh.any_told ? latency : 0;
}

/** The reader is none that goes by recvmsg(), which has its segment in the queue still. Nobody
 * tells whether it has read anything; if it has read all, it was all of the last segment. */
__noinline __u64 last_segment_latency(__u64 sk_address)
{
    __u32 copied = BPF_CORE_READ((struct tcp_sock *)sk_address, copied_seq), age;
    struct reading fresh = {.copied = copied, .ports = ports_of(sk_address)}, *reading;
    __u64 latency;

    if (!bpf_core_field_exists(struct inet_connection_sock, icsk_ack.lrcvtime))
        return 0;
    reading = find_reading(sk_address, fresh.ports);
    if (!reading) {
        bpf_map_update_elem(&readings, &sk_address, &fresh, BPF_ANY);
        return 0;
    }
    if (reading->copied == copied)
        return 0;
    reading->copied = copied;
    age = (__u32)bpf_jiffies64() -
          BPF_CORE_READ((struct inet_connection_sock *)sk_address, icsk_ack.lrcvtime);
    latency = age * settings.tick_ns;
    return latency < settings.threshold_ns[RX_TO_USER_COPY] || (__s32)age < 0 ? 0 : latency;
}

#define SOCK_FIELD(sk, typed, field) ((typed) ? (sk)->field : BPF_CORE_READ(sk, field))

static __always_inline int on_tcp_read(__u64 *ctx, struct sock *sk, bool typed)
{
    struct finding f = {.where = RX_TO_USER_COPY};
    struct sk_buff *skb;
    struct sock *late;

    if (!event_watched())
        return 0;
    skb = SOCK_FIELD(sk, typed, sk_receive_queue.next);
    if ((void *)skb == (void *)&sk->sk_receive_queue) {
        f.since = RX_SINCE_SEGMENT;
        f.sk = address(ctx, 0);
        f.latency_ns = last_segment_latency(f.sk);
    } else {
        f.stamp_ns = SKB_FIELD(skb, typed, tstamp);
        if (!f.stamp_ns ||
            !may_be_late(f.stamp_ns, bpf_ktime_get_ns(), settings.threshold_ns[RX_TO_USER_COPY]))
            return 0;
        late = (void *)address(ctx, 0);
        f.sk = (__u64)late;
        f.skb = (__u64)BPF_CORE_READ(late, sk_receive_queue.next);
        f.latency_ns = segment_latency(f.skb, f.sk);
    }
    return f.latency_ns ? tell(ctx, &f) : 0;
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

static __always_inline bool may_be_read_late(__u64 stamp)
{
    return stamp && may_be_late(stamp, bpf_ktime_get_ns(), settings.threshold_ns[RX_TO_USER_COPY]);
}

static __always_inline int datagram_read(void *ctx, __u64 skb, __u64 sk, __u64 stamp)
{
    struct finding f = {.where = RX_TO_USER_COPY, .skb = skb, .sk = sk, .stamp_ns = stamp};

    f.latency_ns = realtime_age(stamp, bpf_ktime_get_ns());
    return f.latency_ns >= settings.threshold_ns[RX_TO_USER_COPY] ? tell(ctx, &f) : 0;
}

SEC("?fentry/skb_consume_udp")
int udp_skb_consume_udp(__u64 *ctx)
{
    struct sk_buff *skb = (struct sk_buff *)ctx[1];
    __u64 stamp;

    /* Less than 0: it was only peeked at. */
    if (!event_watched() || (int)ctx[2] < 0)
        return 0;
    stamp = skb->tstamp;
    return may_be_read_late(stamp) ? datagram_read(ctx, address(ctx, 1), address(ctx, 0), stamp)
                                   : 0;
}

/* --- the same before 6.18, by what is consumed of any kind */

/** In the queue of a UDP socket there is something else in place of the device: struct
 * udp_dev_scratch, net/ipv4/udp.c. */
static __always_inline bool was_in_udp_queue(struct sk_buff *skb)
{
    __u64 scratch = (__u64)BPF_CORE_READ(skb, dev);

    return ((__u32)scratch & ~UDP_IS_STATELESS) == BPF_CORE_READ(skb, truesize) &&
           (__u16)(scratch >> 32) == (__u16)BPF_CORE_READ(skb, len);
}

static __always_inline int on_consumed(__u64 *ctx, struct sk_buff *skb, bool typed)
{
    __u64 stamp, at;

    if (!event_watched())
        return 0;
    stamp = SKB_FIELD(skb, typed, tstamp);
    /* Most that have a stamp have been sent, and belong to a socket. */
    if (!stamp || SKB_FIELD(skb, typed, sk) || stamp_clock(skb, typed) != STAMP_REALTIME ||
        !may_be_read_late(stamp))
        return 0;
    at = address(ctx, 0);
    return was_in_udp_queue((void *)at) ? datagram_read(ctx, at, 0, stamp) : 0;
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
    return may_be_read_late(read) ? datagram_read(ctx, 0, address(ctx, 0), read) : 0;
}
