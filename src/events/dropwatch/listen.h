// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Connections for which a listener has no room: the types syn_flood and listen_overflow_*. */

#include "core/event.h"
#include "events/dropwatch/dropwatch.h"

struct kernel;

/** The name in the record. Static. */
const char *listen_type_name(unsigned type);
/** The opposite, or -1. */
int listen_type_value(const char *name);

/** For struct hook_way.check: whether the functions are those that the programs know. */
const char *listen_check(const struct btf *kernel);
void listen_configure(const struct kernel *kernel, struct dropwatch_settings *settings);

/** Whether what is not of the packet makes sense. */
bool listen_is_sane(const struct dropwatch_wire *e);
/** The function that has refused it. Static. */
const char *listen_place(const struct dropwatch_wire *e);
/** What the record of a refused packet has besides. */
void listen_record(const struct dropwatch_wire *e, struct record *r);
void listen_summary(const struct dropwatch_wire *e, struct record *r);
/** The whole record where nobody saw the packets. */
int listen_record_count(const struct decode *d, const struct dropwatch_wire *e, struct record *r);

/** Counts them where no program can be had. */
extern const struct hook_source listen_source;

/* --- what the source makes of what it reads; pure */

struct listener {
    uint8_t address[16]; /* IPv4 mapped */
    uint16_t port;
    uint8_t family;
    bool left_before;  /* some of its drops were left over last time */
    uint32_t requests; /* SYNs that wait for the final ACK */
    uint32_t ack_backlog, max_ack_backlog;
    uint32_t uid;
    uint64_t inode;
    uint64_t cookie;                 /* of the socket: its alone while the machine is up */
    uint64_t drops;                  /* sk_drops: what it has refused, and some more */
    uint64_t told;                   /* of these: recorded, or from before the watching */
    uint64_t total[DROPWATCH_TYPES]; /* recorded, by type */
};

/** What a namespace has counted and nobody has been told. */
struct listen_growth {
    int64_t refused[DROPWATCH_COUNTERS]; /* may be below 0: told already, and counted soon */
    int64_t left[DROPWATCH_COUNTERS];    /* of these: since before the last look */
};

/**
 * Divides what has grown among the listeners, by their drops and by how full they are. What none
 * explains is left for the next look, as the two are not read at the same moment; what was left
 * then already is given to nobody (`listener` NULL).
 */
void listen_divide(struct listen_growth *growth, struct listener *listeners, size_t n,
                   void (*tell)(void *arg, struct listener *listener,
                                enum dropwatch_counter counter, uint64_t count),
                   void *arg);
/** The counters out of /proc/net/netstat; those that it does not have are 0. */
void listen_parse(const char *text, uint64_t ret[DROPWATCH_COUNTERS]);
