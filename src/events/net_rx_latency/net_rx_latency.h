/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_NET_RX_LATENCY_H
#define HUATUO_NET_RX_LATENCY_H

/** What the net_rx_latency programs and the agent say to each other. */

#include "core/packet.h"

/** The stages of the way of a packet at which it is looked how late it is. */
enum rx_where { RX_TO_NETIF_RCV, RX_TO_TCPV4_RCV, RX_TO_USER_COPY, RX_WHERE_NR };

/** What the packet was stamped at. */
enum rx_since {
    RX_SINCE_RECEIVED, /* this host received it: CLOCK_REALTIME */
    RX_SINCE_SENT,     /* this host sent it, to itself: CLOCK_MONOTONIC (5.18+) */
    RX_SINCE_SEGMENT,  /* no stamp: the connection's last segment came */
    RX_SINCE_NR
};

struct net_rx_latency_wire {
    struct wire_head head;
    struct packet packet;
    __u64 latency_ns;   /* since then */
    __u64 delivered_ns; /* to_user_copy: of these, until it was delivered to the socket; 0: less
                         * than is noted */
    __u64 ran_ns;       /* to_user_copy: for how long its reader has been running without a break */
    __u64 threshold_ns;
    __u16 ran_share;      /* of RX_SHARE: how much of the last tenth of a second the reader ran */
    __u16 runnable_share; /* or waited for a CPU */
    __u8 where;           /* enum rx_where */
    __u8 since;           /* enum rx_since */
    __u8 reader_known;    /* whether the above of the reader is */
    __u8 pad;
};
#define RX_SHARE 1024
WIRE_ASSERT(sizeof(struct net_rx_latency_wire) ==
                sizeof(struct wire_head) + sizeof(struct packet) + 40,
            "net_rx_latency_wire has holes");

/* What else filter rules know of it (enum packet_fact), in PACKET_FACT_BITS. */
#define RX_BITS_WHERE_SHIFT 0 /* 2 bits: enum rx_where */
#define RX_BITS_SINCE_SHIFT 2 /* 2 bits: enum rx_since */

struct rx_row {
    __u64 value[PACKET_FACTS];
    __u64 mask[PACKET_FACTS];
    __u32 rule; /* index in the accounting */
    __u32 pad;
};

#define RX_ROWS_MAX 96

/** Latencies over this are noted when a packet is delivered, to be told if its reader is late. */
#define RX_NOTE_NS  1000000

struct net_rx_latency_settings {
    __u64 threshold_ns[RX_WHERE_NR];
    __u64 look_ns[RX_WHERE_NR]; /* the same, or RX_NOTE_NS if that is less and is noted there */
    __u64 tick_ns;              /* a jiffy */
    __u32 n_rows;
    __u32 keep_own; /* the agent's own traffic is as good as any */
    struct rx_row rows[RX_ROWS_MAX];
};

/** Counted besides events, on each CPU. */
enum rx_measure {
    RX_STAMPS_UNKNOWN, /* stamps that no clock that was seen since the start can have shown */
};

#endif
