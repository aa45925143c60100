/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HUATUO_BPF_PACKET_H
#define HUATUO_BPF_PACKET_H

/** Reads a packet out of an sk_buff, wherever in the stack it is met. */

#include <bpf/bpf_endian.h>

#include "bpf/event.bpf.h"
#include "core/packet.h"

#define ETH_P_IP                     0x0800
#define ETH_P_IPV6                   0x86DD

#define PROTO_HOPOPTS                0
#define PROTO_TCP                    6
#define PROTO_UDP                    17
#define PROTO_ROUTING                43
#define PROTO_FRAGMENT               44
#define PROTO_DSTOPTS                60

#define IPV6_EXTENSIONS_MAX          4

/* The first inode number of a namespace (include/uapi/linux/nsfs.h, include/linux/proc_ns.h). */
#define NETNS_FIRST_INODE            0xEFFFFF00U

/* `typed` is a constant: pointers out of a BTF-typed context are followed directly (cheaper). */
#define SKB_FIELD(skb, typed, field) ((typed) ? (skb)->field : BPF_CORE_READ(skb, field))

struct packet_ipv4 {
    __u8 version_ihl, tos;
    __be16 total_len, id, frag_off;
    __u8 ttl, protocol;
    __be16 check;
    __be32 saddr, daddr;
};

struct packet_ipv6 {
    __u8 version, flow[3];
    __be16 payload_len;
    __u8 next, hops;
    __u8 saddr[16], daddr[16];
};

struct packet_tcp {
    __be16 source, dest;
    __be32 seq, ack;
    __u8 offset, flags;
};

/** Whether it can be IP at all; before ip_output a packet may have no protocol yet, but a socket.
 */
static __always_inline bool packet_is_ip(struct sk_buff *skb, bool typed)
{
    __be16 protocol = SKB_FIELD(skb, typed, protocol);

    if (protocol == bpf_htons(ETH_P_IP) || protocol == bpf_htons(ETH_P_IPV6))
        return true;
    return protocol == 0 && SKB_FIELD(skb, typed, sk);
}

static __always_inline void packet_map_v4(__u8 *addr, __be32 v4)
{
    *(__u64 *)addr = 0;
    *(__u32 *)(addr + 8) = bpf_htonl(0xffff);
    *(__u32 *)(addr + 12) = v4;
}

/** Ports, sequence numbers, flags; `at` is the transport header, `bytes` what follows the IP one.
 */
static __always_inline void packet_read_transport(struct packet *p, unsigned char *at, __u32 bytes)
{
    struct packet_tcp h = {};
    __u32 header = 0;

    if (p->protocol == PROTO_TCP) {
        if (bpf_probe_read_kernel(&h, sizeof(h), at))
            return;
        header = (h.offset >> 4) * 4;
        p->seq = bpf_ntohl(h.seq);
        p->ack_seq = bpf_ntohl(h.ack);
        p->tcp_flags = h.flags;
    } else if (p->protocol == PROTO_UDP) {
        if (bpf_probe_read_kernel(&h, 8, at))
            return;
        header = 8;
    } else {
        p->payload_len = bytes;
        return;
    }
    p->sport = bpf_ntohs(h.source);
    p->dport = bpf_ntohs(h.dest);
    p->payload_len = bytes > header ? bytes - header : 0;
}

/** Returns false if there is no sound IP header. */
static __always_inline bool packet_read_network(struct packet *p, unsigned char *at)
{
    struct packet_ipv4 v4;
    struct packet_ipv6 v6;
    __u32 header, bytes;
    __u8 next;

    if (bpf_probe_read_kernel(&v4, sizeof(v4), at))
        return false;
    if (v4.version_ihl >> 4 == 4 && (v4.version_ihl & 15) >= 5) {
        header = (v4.version_ihl & 15) * 4;
        bytes = bpf_ntohs(v4.total_len);
        p->family = AF_INET;
        p->protocol = v4.protocol;
        packet_map_v4(p->saddr, v4.saddr);
        packet_map_v4(p->daddr, v4.daddr);
        if (v4.frag_off & bpf_htons(0x1fff))
            return true; /* a later fragment: no transport header */
        /* total_len is 0 for packets over 64 KiB that the device cuts (BIG TCP). */
        bytes = bytes ? bytes : p->pkt_len;
        packet_read_transport(p, at + header, bytes > header ? bytes - header : 0);
        return true;
    }
    if (v4.version_ihl >> 4 != 6 || bpf_probe_read_kernel(&v6, sizeof(v6), at))
        return false;
    p->family = AF_INET6;
    __builtin_memcpy(p->saddr, v6.saddr, 16);
    __builtin_memcpy(p->daddr, v6.daddr, 16);
    next = v6.next;
    header = sizeof(v6);
    bytes = bpf_ntohs(v6.payload_len);
    bytes = (bytes ? bytes : p->pkt_len) + sizeof(v6);
#pragma unroll
    for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
        __u8 extension[4];

        if (next != PROTO_HOPOPTS && next != PROTO_ROUTING && next != PROTO_DSTOPTS &&
            next != PROTO_FRAGMENT)
            break;
        if (bpf_probe_read_kernel(extension, sizeof(extension), at + header))
            break;
        if (next == PROTO_FRAGMENT) {
            p->protocol = extension[0];
            if (extension[2] || extension[3] & 0xf8)
                return true; /* a later fragment */
            header += 8;
        } else {
            header += (extension[1] + 1) * 8;
        }
        next = extension[0];
    }
    p->protocol = next;
    packet_read_transport(p, at + header, bytes > header ? bytes - header : 0);
    return true;
}

/**
 * Returns false if it is no socket: in a fragment that waits for the others, the place of
 * sk_buff.sk holds something else (ip_defrag_offset, include/linux/skbuff.h).
 */
static __always_inline bool packet_read_socket(struct packet *p, struct sock *sk, bool have_header)
{
    __u32 netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
    __u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
    struct socket *socket;

    if (netns < NETNS_FIRST_INODE)
        return false;
    p->state = state;
    p->netns = netns;
    if (!have_header) {
        p->family = BPF_CORE_READ(sk, __sk_common.skc_family);
        p->sport = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
        p->dport = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
        if (p->family == AF_INET6) {
            bpf_core_read(p->saddr, 16, &sk->__sk_common.skc_v6_rcv_saddr);
            bpf_core_read(p->daddr, 16, &sk->__sk_common.skc_v6_daddr);
            /* IPv4 through an IPv6 socket */
            if (!*(__u64 *)p->daddr && *(__u32 *)(p->daddr + 8) == bpf_htonl(0xffff))
                p->family = AF_INET;
        } else {
            packet_map_v4(p->saddr, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
            packet_map_v4(p->daddr, BPF_CORE_READ(sk, __sk_common.skc_daddr));
        }
    }
    /* These are not whole sockets: only what is in sock_common may be read. */
    if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
        return true;
    p->max_ack_backlog = BPF_CORE_READ(sk, sk_max_ack_backlog);
    p->socket_uid = BPF_CORE_READ(sk, sk_uid.val);
    if (bpf_core_field_exists(struct sock_cgroup_data, cgroup)) {
        p->socket_cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);
    } else {
        __u64 cgroup = BPF_CORE_READ((struct sock___before_5_15 *)sk, sk_cgrp_data.val);

        if (!(cgroup & 1))
            p->socket_cgroup = BPF_CORE_READ((struct cgroup *)cgroup, kn, id);
    }
    socket = BPF_CORE_READ(sk, sk_socket);
    if (socket) /* SOCK_INODE(), include/net/sock.h */
        p->socket_inode = BPF_CORE_READ((struct socket_alloc *)socket, vfs_inode.i_ino);
    return true;
}

/**
 * sk_buff.dev shares its place with the node of the queue that the packet is in
 * (include/linux/skbuff.h), so what it points to is believed only if it looks like a device.
 */
static __always_inline void packet_read_device(struct packet *p, struct net_device *dev)
{
    __s32 ifindex = BPF_CORE_READ(dev, ifindex);
    __u32 netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);

    if (ifindex <= 0 || netns < NETNS_FIRST_INODE)
        return;
    bpf_core_read_str(p->device, sizeof(p->device), &dev->name);
    p->ifindex = ifindex;
    if (!p->netns)
        p->netns = netns;
}

/**
 * TCP takes the device from a segment that it has found the socket for (tcp_v4_rcv), and
 * before 6.11 nobody says which socket that was. Its route still belongs to a network namespace.
 * Other queues keep their pointers where it was (include/linux/skbuff.h), so it is not believed
 * blindly either.
 */
static __always_inline void packet_read_route(struct packet *p, unsigned long refdst)
{
    struct dst_entry *dst = (struct dst_entry *)(refdst & ~1UL);
    __u32 netns = BPF_CORE_READ(dst, dev, nd_net.net, ns.inum);

    if (netns >= NETNS_FIRST_INODE)
        p->netns = netns;
}

/** Fills a zeroed packet; `network` is where its IP header begins, behind sk_buff.head. */
static __always_inline void packet_read_at(struct packet *p, struct sk_buff *skb, bool typed,
                                           struct sock *given, __u64 network)
{
    unsigned char *head = SKB_FIELD(skb, typed, head);
    struct net_device *dev = SKB_FIELD(skb, typed, dev);
    struct sock *sk = SKB_FIELD(skb, typed, sk);
    __u16 transport = SKB_FIELD(skb, typed, transport_header);
    bool have_header;

    p->pkt_len = SKB_FIELD(skb, typed, len);
    p->queue_mapping = SKB_FIELD(skb, typed, queue_mapping);
    p->iif = SKB_FIELD(skb, typed, skb_iif);
    /* A packet that was never given an IP header has its network header at 0, where only headroom
     * can be (__alloc_skb). */
    have_header =
        SKB_FIELD(skb, typed, protocol) && network && packet_read_network(p, head + network);

    p->socket = sk ? PACKET_SOCKET_SKB : PACKET_SOCKET_GIVEN;
    if (!sk)
        sk = given;
    if (!sk || !packet_read_socket(p, sk, have_header))
        p->socket = PACKET_SOCKET_NONE;
    if (!have_header && p->socket && (p->family == AF_INET || p->family == AF_INET6)) {
        __u16 sport = p->sport, dport = p->dport;

        p->protocol = BPF_CORE_READ(sk, sk_protocol);
        if (transport != 0xffff)
            packet_read_transport(p, head + transport, p->pkt_len);
        p->sport = sport; /* what the header does not say yet */
        p->dport = dport;
    }
    if (dev)
        packet_read_device(p, dev);
    if (!p->netns)
        packet_read_route(p, SKB_FIELD(skb, typed, _skb_refdst));
    event_any(p, sizeof(*p));
}

static __always_inline void packet_read(struct packet *p, struct sk_buff *skb, bool typed,
                                        struct sock *given)
{
    packet_read_at(p, skb, typed, given, SKB_FIELD(skb, typed, network_header));
}

/** Whether it is the agent's own traffic. */
static __always_inline bool packet_is_own(const struct packet *p)
{
    if (!common.own_count || p->netns != common.own_netns)
        return false;
    for (__u32 i = 0; i < WIRE_OWN_MAX; i++) {
        __u16 port;

        if (i >= common.own_count)
            break;
        port = common.own[i].port;
        if (common.own[i].protocol == p->protocol && (port == p->sport || port == p->dport))
            return true;
    }
    return false;
}

/** Both addresses, the lower port and the container (its network namespace and cgroup): 6 words. */
static __always_inline void packet_key(const struct packet *p, __u64 *words)
{
    const __u64 *saddr = (const __u64 *)p->saddr, *daddr = (const __u64 *)p->daddr;

    words[0] = saddr[0];
    words[1] = saddr[1];
    words[2] = daddr[0];
    words[3] = daddr[1];
    words[4] = p->socket_cgroup ^ (__u64)p->netns << 32;
    words[5] = (p->sport < p->dport ? p->sport : p->dport) | (__u32)p->protocol << 16;
}

#endif
