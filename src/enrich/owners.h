// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Sockets to the processes that have them open, from a snapshot of all open sockets that the root
 * part makes readable. A snapshot is asked for when an unknown socket is met, at most once a
 * second; it is read on a thread of its own.
 */

#include "core/sockets.h"

#include "core/base.h"

struct owners;

struct owners_options {
    /** Asks for a snapshot; what comes of it is given to owners_take(). Negative errno: it cannot.
     */
    int (*ask)(void *arg);
    void *arg;
    size_t max; /* sockets remembered; of a larger snapshot the rest is unknown */
};

int owners_new(const struct owners_options *options, struct owners **ret);
struct owners *owners_free(struct owners *o);
DEFINE_CLEANUP(struct owners *, owners_free)

/** Takes over a descriptor from which snapshots of struct socket_owner are read; -1: there is none.
 */
void owners_take(struct owners *o, int fd);
/**
 * 1: known, `ret` filled; 0: asked, owners_fd() becomes readable when it is known; -ENOENT: nobody
 * has it open.
 */
int owners_lookup(struct owners *o, uint64_t inode, uint64_t now_ns, struct socket_owner *ret);
int owners_fd(const struct owners *o);
