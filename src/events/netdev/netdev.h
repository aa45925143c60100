/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_NETDEV_H
#define HUATUO_NETDEV_H

/** What the BPF programs of netdev, its source in the root part and the agent say to each other. */

#include "core/cgroup.h"
#include "core/wire.h"

/** Rules of `filtered_by`. 0 is the agent's own traffic, of which there is none here. */
enum netdev_rule {
    NETDEV_RULE_OWN,
    NETDEV_RULE_PEER_ELSEWHERE, /* a veth whose other end is in another network namespace */
    NETDEV_RULE_EXCLUDE,        /* netdev.exclude */
    NETDEV_RULE_INCLUDE,        /* not in netdev.include */
    NETDEV_RULE_NR
};

/** What has changed, as bits. */
enum netdev_change {
    NETDEV_ADMIN = 1 << 0,   /* IFF_UP */
    NETDEV_CARRIER = 1 << 1, /* IFF_LOWER_UP */
    NETDEV_FLAP = 1 << 2,    /* the carrier was another one in between, and is the same again */
    NETDEV_MTU = 1 << 3,
    NETDEV_SPEED = 1 << 4,
    NETDEV_MASTER = 1 << 5,
    NETDEV_NAME = 1 << 6,
    NETDEV_MAC = 1 << 7,
    NETDEV_APPEARED = 1 << 8,
    NETDEV_REMOVED = 1 << 9,
    NETDEV_SLAVE_MII = 1 << 10,    /* of a bond's slave: what the bond's monitor says of its link */
    NETDEV_SLAVE_STATE = 1 << 11,  /* likewise: active or backup */
    NETDEV_ACTIVE_SLAVE = 1 << 12, /* of a bond */
    NETDEV_CHANGES = (1 << 13) - 1,
};

/** What a process, and nothing else, does to an interface, in its own context. */
#define NETDEV_BY_SOMEBODY                                                                         \
    (NETDEV_ADMIN | NETDEV_MTU | NETDEV_MASTER | NETDEV_NAME | NETDEV_MAC | NETDEV_APPEARED |      \
     NETDEV_REMOVED)

#define NETDEV_NAME_LEN    16 /* IFNAMSIZ */
#define NETDEV_MAC_MAX     32 /* MAX_ADDR_LEN */
#define NETDEV_CMDLINE_MAX 256

/** An interface, as a message of rtnetlink describes it (linux/if_link.h). */
struct netdev_link {
    __u32 index;
    __u32 flags;              /* IFF_*, linux/if.h */
    __u32 mtu;                /* bytes */
    __u32 master;             /* index; 0: none */
    __u32 speed_mbps;         /* ethtool; the last one that was known. 0: none */
    __u32 carrier_up_count;   /* since it exists */
    __u32 carrier_down_count; /* likewise */
    __u32 active_slave;       /* of a bond in a mode with one: its index; 0: none */
    __u32 slave_failures;     /* of a bond's slave: how often its link was lost */
    __u8 operstate;           /* IF_OPER_* (RFC 2863) */
    __u8 is_bond_slave;
    __u8 slave_mii;      /* BOND_LINK_* (include/net/bonding.h): 0 up, 1 failing, 2 down, 3 back */
    __u8 slave_state;    /* 0 active, 1 backup */
    __u8 peer_elsewhere; /* what it is linked to is in another network namespace */
    __u8 has_peer;
    __u8 loopback;
    __u8 mac_len;
    __u8 pad[4];
    char name[NETDEV_NAME_LEN]; /* any bytes but '/' and white space, NUL-padded, as the next */
    char kind[16];              /* IFLA_INFO_KIND: "veth", "bond"; empty: no software made it */
    __u8 mac[NETDEV_MAC_MAX];
};
WIRE_ASSERT(sizeof(struct netdev_link) == 48 + 32 + NETDEV_MAC_MAX, "netdev_link has holes");

/** The process in whose context the kernel has told of a change; of a kernel thread only the time.
 */
struct netdev_who {
    __u64 time_ns;       /* CLOCK_BOOTTIME */
    __u64 task_start_ns; /* as in wire_head, as the next ones */
    __u64 cgroup_id;
    __u32 pid; /* 0: nobody */
    __u32 tid;
    __u32 ppid;
    __u32 uid;
    char comm[WIRE_COMM_LEN];
    __s32 cmdline_bytes;
    __u32 pad;
    char cmdline[NETDEV_CMDLINE_MAX]; /* arguments, separated by NULs */
    struct wire_cgroup cgroup;
};
WIRE_ASSERT(sizeof(struct netdev_who) == 64 + NETDEV_CMDLINE_MAX + sizeof(struct wire_cgroup),
            "netdev_who has holes");

/* With attributes of all sorts these have some 1500 bytes. */
#define NETDEV_MESSAGE_MAX 3072

/** A message of rtnetlink on its way to the source's socket. */
struct netdev_heard {
    struct netdev_who who;
    __u32 size;
    __u32 pad;
    __u8 message[NETDEV_MESSAGE_MAX];
};

/** One event. Of the head, the task is who did it, pid 0: nobody that is known. */
struct netdev_wire {
    struct wire_head head;
    __u32 changes; /* enum netdev_change; of a start: 0 */
    __u8 start;    /* found when the watching begins */
    __u8 reread;   /* messages were lost: it is what has changed between two looks */
    __u8 moved;    /* removed: to another network namespace */
    __u8 pad;
    struct netdev_link before, now; /* `before` of what has appeared is zeros; of what was removed
                                     * both are what was known */
    char master_before[NETDEV_NAME_LEN], master_now[NETDEV_NAME_LEN];
    char active_before[NETDEV_NAME_LEN], active_now[NETDEV_NAME_LEN];
    __s32 cmdline_bytes;
    __u32 pad2;
    char cmdline[NETDEV_CMDLINE_MAX];
    struct wire_cgroup cgroup;
};
WIRE_ASSERT(sizeof(struct netdev_wire) == sizeof(struct wire_head) + 8 +
                                              2 * sizeof(struct netdev_link) + 4 * NETDEV_NAME_LEN +
                                              8 + NETDEV_CMDLINE_MAX + sizeof(struct wire_cgroup),
            "netdev_wire has holes");

#endif
