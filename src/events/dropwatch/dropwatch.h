/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_DROPWATCH_H
#define HUATUO_DROPWATCH_H

/** What the dropwatch programs and the agent say to each other. */

#include "core/packet.h"

enum dropwatch_type {
    DROPWATCH_COMMON,
    DROPWATCH_SYN_FLOOD,  /* a listener's queue of requests is full */
    DROPWATCH_HANDSHAKE1, /* a SYN is refused, as the queue of those that wait for accept() is */
    DROPWATCH_HANDSHAKE3, /* likewise the ACK that completes the handshake */
    DROPWATCH_DEVICE,     /* a network card has counted losses */
    DROPWATCH_TX_TIMEOUT, /* a card's queue has stood still for too long */
    DROPWATCH_TRAP,       /* a switch's hardware has dropped it, and tells (devlink-trap(8)) */
    DROPWATCH_TYPES,
};

/** What cards count of packets that the stack never sees (struct rtnl_link_stats64). */
enum device_counter {
    DEVICE_RX_MISSED,
    DEVICE_RX_DROPPED, /* without what the stack drops and counts there, too */
    DEVICE_RX_FIFO,
    DEVICE_RX_OVER,
    DEVICE_RX_CRC,
    DEVICE_RX_FRAME,
    DEVICE_RX_LENGTH,
    DEVICE_TX_FIFO,
    DEVICE_TX_CARRIER,
    DEVICE_TX_ABORTED,
    DEVICE_TX_WINDOW,
    DEVICE_COUNTERS,
};
#define DEVICE_TEXT_MAX 48

/** By which of its counters (LINUX_MIB_*, TcpExt in nstat) the kernel says what it has done. */
enum dropwatch_counter {
    DROPWATCH_NO_COUNTER,
    DROPWATCH_OVERFLOWS,    /* ListenOverflows */
    DROPWATCH_FULL_DROP,    /* TCPReqQFullDrop */
    DROPWATCH_FULL_COOKIES, /* TCPReqQFullDoCookies */
    DROPWATCH_LISTEN_DROPS, /* ListenDrops */
    DROPWATCH_COUNTERS,
};

struct dropwatch_wire {
    struct wire_head head;
    struct packet packet;
    __u64 place;         /* address behind the call that dropped it */
    __u32 reason;        /* enum skb_drop_reason of the running kernel */
    __u8 has_reason;     /* 0: this kernel does not say why (before 5.17) */
    __u8 type;           /* enum dropwatch_type */
    __u8 counter;        /* enum dropwatch_counter */
    __u8 count_only;     /* no packet was seen, only that `count` of them were counted */
    __u32 ack_backlog;   /* of the listener: connections that wait for accept() */
    __u32 request_queue; /* likewise: SYNs that wait for the final ACK */
    __u64 count, total;  /* since the last look; since the watching began */
    __u64 interval_ns;   /* since the last look */
    /* From here on it is of devices; the others end before. */
    char driver[DEVICE_TEXT_MAX]; /* raw bytes, NUL padded, as the next */
    char trap[DEVICE_TEXT_MAX];
    __u64 grown[DEVICE_COUNTERS]; /* since the last look */
};
#define DROPWATCH_WIRE_LEAST (sizeof(struct wire_head) + sizeof(struct packet) + 48)
WIRE_ASSERT(sizeof(struct dropwatch_wire) ==
                DROPWATCH_WIRE_LEAST + 2 * DEVICE_TEXT_MAX + 8 * DEVICE_COUNTERS,
            "dropwatch_wire has holes");

/** A device, for what the stack drops and counts in its rx_dropped. */
struct dropwatch_device {
    __u32 netns;
    __s32 ifindex;
};

#define CORE_REASONS_MAX 4

/** What else filter rules know of a loss (enum packet_fact). */
enum dropwatch_fact {
    FACT_BITS = PACKET_FACTS, /* see below */
    FACT_PLACES,              /* bit per place range that the drop lies in */
    FACT_CALLERS,             /* bit per place range that one of the nearest callers lies in */
    FACT_DEVICE_HI,
    FACT_DEVICE_LO,
    FACT_NR,
};

#define FACT_REASON_SHIFT 32 /* in PACKET_FACT_PORTS */
/* In PACKET_FACT_BITS. */
#define FACT_TYPE(type)   (1ULL << (type))
#define FACT_TYPES        ((1ULL << DROPWATCH_TYPES) - 1)
WIRE_ASSERT(DROPWATCH_TYPES <= 8, "they have 8 bits");
/* In FACT_BITS. */
#define FACT_BITS_STATE(state) (1ULL << (state)) /* bits 0 to 15; 0: no socket */
#define FACT_BITS_STATES       0xffffULL
#define FACT_BITS_FLAGS_SHIFT  16 /* 8 bits of TCP flags */
#define FACT_BITS_NO_PAYLOAD   (1ULL << 24)
#define FACT_BITS_PAYLOAD      (1ULL << 25)
#define FACT_BITS_RX           (1ULL << 26)
#define FACT_BITS_TX           (1ULL << 27)
#define FACT_BITS_RECEIVED     (1ULL << 28) /* its bytes had come before the connection ended */

struct dropwatch_row {
    __u64 value[FACT_NR];
    __u64 mask[FACT_NR];
    __u32 rule; /* index in the accounting */
    __u32 pad;
};

struct dropwatch_range {
    __u64 start, size;
};

#define DROPWATCH_ROWS_MAX   96
#define DROPWATCH_RANGES_MAX 64
#define DROPWATCH_CALLERS    8 /* frames above the drop that `caller` looks at */

struct dropwatch_settings {
    __u64 protocols[4]; /* bit per IPPROTO_* */
    __u32 n_rows;
    __u32 n_ranges;
    __u32 keep_own;                       /* the agent's own traffic is as good as any */
    __u32 want_received;                  /* a row asks for FACT_BITS_RECEIVED */
    __u64 ranges_with_caller;             /* places for which the callers have to be looked at */
    __u32 counters[DROPWATCH_COUNTERS];   /* LINUX_MIB_* of this kernel; 0: it has none */
    __u32 core_reasons[CORE_REASONS_MAX]; /* those that it counts in rx_dropped; 0: no more */
    __u32 refused_reason; /* that of a final ACK for which there is no room; 0: it has none */
    struct dropwatch_range ranges[DROPWATCH_RANGES_MAX];
    struct dropwatch_row rows[DROPWATCH_ROWS_MAX];
};

#endif
