/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_NET_RX_LATENCY_STAMP_H
#define HUATUO_NET_RX_LATENCY_STAMP_H

/**
 * How old a time stamp of CLOCK_REALTIME is, although somebody may have set the clock between it
 * and now; shared with the unit tests.
 */

#include "core/wire.h"

/* A stamp taken just now may lie that far in the future: the distance of the clocks is looked at
 * once a second, and is slewed by at most 500 ppm. */
#define STAMP_EARLY_NS 10000000ULL
/* A step is noticed up to that much later, and may be told as if it had been that much earlier:
 * around it stamps are taken for either clock's. */
#define STAMP_EDGE_NS  1000000000ULL

#define STAMP_UNKNOWN  (~0ULL)

/** The first look, which all packets pay for: whether a stamp can be that old, or somebody has set
 * the clock. One of just now is neither, though it may lie a little in the future. */
static inline int stamp_may_be_late(__u64 stamp_ns, __s64 offset_ns, __u64 now_ns, __u64 limit_ns)
{
    return now_ns + offset_ns - stamp_ns + STAMP_EARLY_NS >= limit_ns + STAMP_EARLY_NS;
}

/** When it was taken by CLOCK_MONOTONIC if the distance was `offset_ns`; its age, or STAMP_UNKNOWN
 * if that lies outside the time in which it was. */
static inline __u64 stamp_age_by(__u64 stamp_ns, __s64 offset_ns, __u64 since_ns, __u64 until_ns,
                                 __u64 now_ns)
{
    __u64 at = stamp_ns - offset_ns;

    if ((__s64)(at - since_ns) < 0 || (__s64)(until_ns - at) < 0)
        return STAMP_UNKNOWN;
    return (__s64)(now_ns - at) > 0 ? now_ns - at : 0;
}

/**
 * The age of a stamp: of the clocks that can have shown it the one by which it is youngest, so that
 * it is never overrated. `live_offset_ns`: the distance as the kernel has it at this moment, if
 * `live`: the agent may not have noticed the last step yet. STAMP_UNKNOWN: it is older than all
 * that is known, or makes no sense.
 */
static inline __u64 stamp_age(const volatile struct wire_clock *clock, __u64 now_ns, __u64 stamp_ns,
                              int live, __s64 live_offset_ns)
{
    const __u64 last = now_ns + STAMP_EARLY_NS;
    __u64 until = last, best = STAMP_UNKNOWN, age, since;
    __u32 n = clock->n;

    for (__u32 i = 0; i < WIRE_CLOCK_STEPS; i++) {
        const volatile struct wire_clock_step *step;

        if (i >= n)
            break;
        step = &clock->steps[(n - 1 - i) % WIRE_CLOCK_STEPS];
        since = step->since_ns;
        since = since > STAMP_EDGE_NS ? since - STAMP_EDGE_NS : 0;
        age = stamp_age_by(stamp_ns, step->offset_ns, since, until, now_ns);
        best = age < best ? age : best;
        if (i == 0 && live) {
            age = stamp_age_by(stamp_ns, live_offset_ns, since, until, now_ns);
            best = age < best ? age : best;
        }
        until = since + 2 * STAMP_EDGE_NS;
        until = (__s64)(until - last) > 0 ? last : until;
    }
    return best;
}

#endif
