// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Questions to the kernel that may have to wait for its lock of the network configuration (RTNL),
 * which some driver may hold for minutes: a child asks, and nobody waits for it for long. One at a
 * time; a child that hangs is left alone, and as long as it does no other is made.
 */

#include "core/base.h"

struct ask {
    int fd; /* to the child; -1: there is none */
};

/** `child` runs in the child and sends its answers as packets to `out`. -EBUSY: one still hangs. */
int ask_begin(struct ask *a, void (*child)(int out, const void *arg), const void *arg);
/** The next packet. 0: that was all; -ETIMEDOUT: none came before then (CLOCK_MONOTONIC). */
ssize_t ask_next(struct ask *a, void *ret, size_t size, uint64_t until_ns);
/** No more is to be told; until then the child's end is waited for. */
void ask_end(struct ask *a, uint64_t until_ns);
