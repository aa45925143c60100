/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_PACKET_H
#define HUATUO_PACKET_H

/** A packet as its headers, its device and its socket say; shared with BPF programs. */

#include "core/wire.h"

enum packet_socket {
    PACKET_SOCKET_NONE,
    PACKET_SOCKET_SKB,   /* sk_buff.sk */
    PACKET_SOCKET_GIVEN, /* the kernel names it beside the packet */
    PACKET_SOCKET_READ,  /* there is no packet any more: somebody has read it from this socket */
};

/**
 * Addresses are 16 bytes, IPv4 mapped (::ffff:a.b.c.d); ports and sequence numbers in host order; 0
 * where there is none.
 */
struct packet {
    __u8 saddr[16];
    __u8 daddr[16];
    char device[16]; /* sk_buff.dev's name; raw bytes, "" if none */
    __u16 sport;
    __u16 dport;
    __u8 protocol;  /* IPPROTO_* */
    __u8 family;    /* AF_INET, AF_INET6 */
    __u8 state;     /* socket's TCP state (include/net/tcp_states.h); 0: no socket */
    __u8 tcp_flags; /* 14th byte of the TCP header: FIN 1 SYN 2 RST 4 PSH 8 ACK 16 URG 32 */
    __u32 seq;
    __u32 ack_seq;
    __u32 pkt_len;         /* sk_buff.len, bytes, with the headers that are in it at that place */
    __u32 payload_len;     /* bytes behind the transport header */
    __u32 max_ack_backlog; /* of the socket; 0: no full socket */
    __u32 socket_uid;
    __u32 netns;   /* inode number of the network namespace; 0: not known */
    __s32 ifindex; /* of sk_buff.dev; 0: none */
    __s32 iif;     /* device it came in by (sk_buff.skb_iif); 0: it was made on this host */
    __u16 queue_mapping;
    __u8 socket; /* enum packet_socket */
    __u8 pad;
    __u64 socket_inode;  /* of the socket's file; 0: none, or nobody has it open */
    __u64 socket_cgroup; /* cgroup v2 id; 0: not known */
};
WIRE_ASSERT(sizeof(struct packet) == 48 + 8 + 9 * 4 + 4 + 16, "packet has holes");

/**
 * What filter rules know of a packet. A rule is a row of masked words: it matches when for every
 * word
 * `((fact ^ value) & mask) == 0`. These words come first; a kind may add its own behind them.
 */
enum packet_fact {
    PACKET_FACT_BITS, /* see below */
    PACKET_FACT_SADDR_HI,
    PACKET_FACT_SADDR_LO,
    PACKET_FACT_DADDR_HI,
    PACKET_FACT_DADDR_LO,
    PACKET_FACT_PORTS, /* sport | dport << 16; the other half is the kind's */
    PACKET_FACTS,
};
/* The lowest 8 bits are the kind's. What a fact may be one of is one bit each, so that "one of
 * these" is: none of the others. */
#define PACKET_BITS_IPV4           (1ULL << 8)
#define PACKET_BITS_IPV6           (1ULL << 9)
#define PACKET_BITS_PROTOCOL_SHIFT 16 /* 8 bits */
#define PACKET_BITS_NETNS_SHIFT    32 /* 32 bits */

/** Those that come first. */
static inline __attribute__((always_inline)) void packet_facts(const struct packet *p, __u64 *ret)
{
    ret[PACKET_FACT_BITS] = (p->family == 10 /* AF_INET6 */ ? PACKET_BITS_IPV6 : PACKET_BITS_IPV4) |
                            (__u64)p->protocol << PACKET_BITS_PROTOCOL_SHIFT |
                            (__u64)p->netns << PACKET_BITS_NETNS_SHIFT;
    __builtin_memcpy(&ret[PACKET_FACT_SADDR_HI], p->saddr, 16);
    __builtin_memcpy(&ret[PACKET_FACT_DADDR_HI], p->daddr, 16);
    ret[PACKET_FACT_PORTS] = p->sport | (__u64)p->dport << 16;
}

#ifndef __bpf__
#include <stdbool.h>

struct record;

/** saddr, daddr, sport, dport: what the spec's samples of packets have in common, in its order. */
void packet_record_addresses(struct record *r, const struct packet *p);
struct decode;
/** What we add: direction, device, family, protocol, tcp_flags, namespace, socket. */
void packet_record_context(struct record *r, const struct packet *p, const struct decode *d);

/** `SYN_SENT`; `NONE` without a socket. Static. */
const char *packet_state_name(unsigned state);
/** The state of that name, or -1. */
int packet_state_value(const char *name);
/** `tcp`; NULL: has no name here. */
const char *packet_protocol_name(unsigned protocol);
/** The protocol of that name or number, or -1. */
int packet_protocol_value(const char *name);
#define PACKET_TEXT_MAX 64
/** `SYN|ACK`. */
void packet_flags_text(unsigned tcp_flags, char ret[PACKET_TEXT_MAX]);
/** An address or a network as an operator writes it (10.1.2.3, 10.0.0.0/8, 2001:db8::/32), in 16
 * bytes, IPv4 mapped; what is outside the mask is 0. */
bool packet_network_value(const char *text, __u8 addr[16], __u8 mask[16]);
/** The bit of a flag's name, or -1. */
int packet_flag_value(const char *name);
/** `10.0.0.1`, `2001:db8::1`. */
void packet_addr_text(const __u8 addr[16], char ret[PACKET_TEXT_MAX]);
/** `10.0.0.1:80`, `[2001:db8::1]:80`, or the address alone if the protocol has no ports. */
void packet_endpoint_text(const struct packet *p, bool source, char ret[PACKET_TEXT_MAX]);
#endif

#endif
