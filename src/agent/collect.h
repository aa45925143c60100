// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Runs event.collect(): reading what must be read right after an event, on threads of their own, as
 * a file of /proc or of a cgroup may hang. There are several, so that one that hangs stops no
 * other; who asked does not wait, and gives up an answer by its ticket.
 */

#include "agent/on_demand.h"
#include "core/event.h"

struct collector;

struct collector_options {
    const char *root_prefix;
    const struct record_origin *origin; /* of the parts; outlives the collector */
    struct symbols *symbols;            /* one more reference is taken; may be NULL */
    size_t max;                         /* events that wait or are being collected */
    /** Asks for a descriptor of a kind's iterator; it, or that there is none, is given to
     * collector_take(). Negative errno: it cannot. Called on the thread of collector_start(). */
    int (*ask)(void *arg, unsigned event);
    /** As in struct collect; called on any thread. NULL: it is not allowed. */
    int (*sysrq)(void *arg);
    void *arg;
};

int collector_new(const struct collector_options *options, struct collector **ret);
/** Waits at most a second for threads that hang; they clean up behind themselves. */
struct collector *collector_free(struct collector *c);
DEFINE_CLEANUP(struct collector *, collector_free)

/**
 * Begins; raw (event->wire_size bytes) and note (EVENT_NOTE_BYTES) are copied. `index` is that in
 * events[]; `on_demand` may be NULL. -EBUSY: too many are under way; -ENOMEM, -EAGAIN: no memory,
 * no thread.
 */
int collector_start(struct collector *c, const struct event *event, unsigned index,
                    struct on_demand *on_demand, const void *raw, const void *note,
                    uint64_t *ret_ticket);
/**
 * 1: the part is there, and the caller's; the ticket is used up. 0: not yet; collector_fd() becomes
 * readable. Negative errno: there will be none, and the ticket is used up.
 */
int collector_lookup(struct collector *c, uint64_t ticket, struct record **ret);
/** Nobody waits any more: what still comes is thrown away. */
void collector_cancel(struct collector *c, uint64_t ticket);
/** Takes over a descriptor from which a kind's iterator is read; -1: there is none. */
void collector_take(struct collector *c, unsigned event, int fd);
/** An eventfd; the owner reads it empty. */
int collector_fd(const struct collector *c);
