/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_LACP_H
#define HUATUO_LACP_H

/** What the source of lacp in the root part and the agent say to each other. */

#include "core/wire.h"

#define LACP_NAME_LEN    16 /* IFNAMSIZ */
#define LACP_SLAVES_MAX  32
#define LACP_CONTENT_MAX 32768

/** Of a port's state (IEEE 802.1AX, 6.4.2.3; LACP_STATE_* in the kernel's bond_3ad.h). */
enum lacp_bit {
    LACP_ACTIVITY = 1 << 0,
    LACP_TIMEOUT = 1 << 1,
    LACP_AGGREGATION = 1 << 2,
    LACP_SYNCHRONIZATION = 1 << 3,
    LACP_COLLECTING = 1 << 4,
    LACP_DISTRIBUTING = 1 << 5,
    LACP_DEFAULTED = 1 << 6,
    LACP_EXPIRED = 1 << 7,
};

enum lacp_churn { LACP_CHURN_UNKNOWN, LACP_CHURN_NONE, LACP_CHURN_MONITORING, LACP_CHURNED };
enum lacp_mii {
    LACP_MII_UNKNOWN,
    LACP_MII_UP,
    LACP_MII_GOING_DOWN,
    LACP_MII_DOWN,
    LACP_MII_GOING_BACK
};

struct lacp_slave {
    char name[LACP_NAME_LEN];             /* any bytes but '/' and white space, NUL-padded */
    __u32 failures;                       /* how often its link was lost */
    __u32 aggregator;                     /* 0: not known */
    __u32 actor_churned, partner_churned; /* how often */
    __u8 mii;                             /* enum lacp_mii */
    __u8 actor_churn, partner_churn;      /* enum lacp_churn */
    __u8 actor, partner;                  /* enum lacp_bit */
    __u8 has_states; /* 0: actor and partner are not known, as root has not been told */
    __u8 pad[2];
};

/** What /proc/net/bonding/NAME says, as far as it matters. */
struct lacp_bond {
    char name[LACP_NAME_LEN];
    __u32 is_lacp;    /* its mode is 802.3ad */
    __u32 aggregator; /* the active one's id; 0: there is none */
    __u32 ports;      /* of the active aggregator */
    __u32 n_slaves;
    __u8 partner_mac[6]; /* of the active aggregator */
    __u8 mii;
    __u8 pad;
    struct lacp_slave slaves[LACP_SLAVES_MAX]; /* others are left out */
};
WIRE_ASSERT(sizeof(struct lacp_slave) == 40, "lacp_slave has holes");
WIRE_ASSERT(sizeof(struct lacp_bond) == 40 + 40 * LACP_SLAVES_MAX, "lacp_bond has holes");

/** One event; as many bytes of it as there are. The head is about nobody. */
struct lacp_wire {
    struct wire_head head;
    __u64 netns;             /* inode number */
    __u32 start;             /* it is so when the watching begins */
    __u32 elsewhere;         /* not in the agent's network namespace */
    struct lacp_bond before; /* the bond that it is about; of a start: as `now` */
    struct lacp_bond now;    /* only its name, if it is gone */
    __u32 gone;
    __u32 pad;
    __u32 cut; /* there was more text */
    __u32 content_bytes;
    char content[LACP_CONTENT_MAX]; /* of all bonds in that namespace, each behind its path */
};
#define LACP_WIRE_LEAST offsetof(struct lacp_wire, content)

#endif
