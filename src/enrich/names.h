// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Addresses to host names, by reverse DNS (c-ares) on a thread of its own, with a cache. Asking
 * never waits. A private or public name server may be slow or gone: the caller has its own
 * deadline.
 */

#include "core/base.h"

struct names;

struct names_options {
    const char *servers; /* "127.0.0.1:5353,[::1]:53"; "" takes the system's resolv.conf */
    uint64_t timeout_ns; /* of one query, both its tries together; for each server */
    size_t cache_max;    /* addresses remembered, with and without a name */
    uint64_t ttl_ns;     /* how long an answer is believed; that a server failed: at most 30 s */
    size_t pending_max;  /* queries under way at a time; beyond: answered with "" at once */
    /**
     * Called on the names thread when a socket has its address and before anything is sent (true),
     * and right before it is closed (false): the agent's own traffic is not an event. All are UDP.
     * May be NULL.
     */
    void (*own_socket)(void *arg, int fd, bool open);
    void *arg;
};

int names_new(const struct names_options *options, struct names **ret);
struct names *names_free(struct names *n);
DEFINE_CLEANUP(struct names *, names_free)

/**
 * 1: known, `ret` (max 256 bytes with NUL, "" if the address has no name) is filled: letters,
 * digits, `-._`, and `?` for whatever else its owner put into it; 0: asked, the
 * answer will be in the cache later, and names_fd() becomes readable; negative errno: not asked.
 */
int names_lookup(struct names *n, const uint8_t addr[16], char ret[256]);
/** An eventfd that becomes readable when answers have come; the owner reads it empty. */
int names_fd(const struct names *n);
