/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_MEMRECLAIM_WINDOW_H
#define HUATUO_MEMRECLAIM_WINDOW_H

/**
 * How long the threads of a process were in reclaim within a sliding time; shared, so that it can
 * be tested without a kernel.
 *
 * Between two calls (a thread begins, a thread ends) the sum grows as a straight line: what is
 * over, and for each thread inside the time since it began. So it can be told for any moment since
 * the last call, and calls that are not over yet count as far as they have got. The sliding time
 * has WINDOW_SLICES slices, and a mark says what the sum was when a slice began.
 *
 * Several CPUs use it at the same time and nothing is locked (tracing programs may not, in 5.10).
 * So who is inside is one word that changes at once, and marks are set before the call that is the
 * reason to set them is added: whoever sees that they are not set yet sees the sum from before.
 */

#include "core/wire.h"

#define WINDOW_SLICES 31
#define WINDOW_MARKS  32 /* one more, as each slice has a beginning and the last an end */

/** All of these only grow. */
struct window_mark {
    __u64 busy_ns;   /* in reclaim, all threads */
    __u64 reclaimed; /* pages */
    __u64 scanned;   /* pages */
    __u32 memcg_calls, global_calls;
};

struct window {
    __u64 base_ns; /* when it was made */
    __u64 slice_ns;
    __u64 inside;            /* window_token() of all threads that are inside, added up */
    struct window_mark done; /* calls that are over */
    __u64 marked;            /* the last slice whose beginning has a mark; since boot */
    struct window_mark marks[WINDOW_MARKS];
};

/** The sliding time with the highest sum, up to a moment. */
struct window_peak {
    __u64 busy_ns; /* the sum */
    __u64 from_ns; /* when it began */
    struct window_mark from;
};

#define WINDOW_READ(x)    (*(volatile __typeof__(x) *)&(x))

/* The lower 48 bits of `inside` hold when threads began, added up, the upper ones how many they
 * are. In units of 1024 ns since base_ns: 64 threads that are inside together have room for 50
 * days. */
#define WINDOW_UNIT_BITS  10
#define WINDOW_COUNT_BITS 48
#define WINDOW_SUM        ((1ULL << WINDOW_COUNT_BITS) - 1)

/**
 * All ones if a < b, else 0; the two are less than 2^63 apart. For choosing without branches: each
 * would double what the verifier has to follow, and there is a loop around.
 */
static inline __attribute__((always_inline)) __u64 window_less(__u64 a, __u64 b)
{
    __u64 mask = (__u64)((__s64)(a - b) >> 63);

    __asm__ volatile("" : "+r"(mask)); /* or the compiler makes branches of it */
    return mask;
}

static inline __attribute__((always_inline)) __u64 window_choose(__u64 mask, __u64 yes, __u64 no)
{
    return (yes & mask) | (no & ~mask);
}

static inline __attribute__((always_inline)) void window_init(struct window *w, __u64 now,
                                                              __u64 slice_ns)
{
    w->base_ns = now;
    w->marked = now / slice_ns;
    WINDOW_READ(w->slice_ns) = slice_ns; /* others may use it from here on */
}

static inline __attribute__((always_inline)) int window_is_ready(const struct window *w)
{
    return WINDOW_READ(w->slice_ns) != 0;
}

static inline __attribute__((always_inline)) __u64 window_token(const struct window *w,
                                                                __u64 begin_ns)
{
    __u64 since = begin_ns > w->base_ns ? begin_ns - w->base_ns : 0;

    return (1ULL << WINDOW_COUNT_BITS) + (since >> WINDOW_UNIT_BITS);
}

static inline __attribute__((always_inline)) __u64 window_count_inside(const struct window *w)
{
    return WINDOW_READ(w->inside) >> WINDOW_COUNT_BITS;
}

static inline __attribute__((always_inline)) __u64 window_sum(const struct window *w, __u64 done_ns,
                                                              __u64 inside, __u64 at_ns)
{
    __u64 n = inside >> WINDOW_COUNT_BITS, began = inside & WINDOW_SUM;
    __u64 passed = n * ((at_ns - w->base_ns) >> WINDOW_UNIT_BITS);

    return done_ns + (((passed - began) & ~window_less(passed, began)) << WINDOW_UNIT_BITS);
}

/** The sum up to now, or any moment since the last call. */
static inline __attribute__((always_inline)) __u64 window_busy(const struct window *w, __u64 at_ns)
{
    __u64 done_ns = WINDOW_READ(w->done.busy_ns); /* first, or a call could count twice */

    return window_sum(w, done_ns, WINDOW_READ(w->inside), at_ns);
}

/**
 * Sets the marks up to now; comes before everything else. `peak` becomes the highest sum of those
 * sliding times that have ended at one of them, if that is higher than what it holds.
 */
static inline __attribute__((always_inline)) void window_advance(struct window *w, __u64 now,
                                                                 struct window_peak *peak)
{
    __u64 done_ns = WINDOW_READ(w->done.busy_ns), inside = WINDOW_READ(w->inside);
    __u64 last = WINDOW_READ(w->marked), slice_ns = w->slice_ns, to = now / slice_ns;
    __u64 at = last, best_ns = peak->busy_ns, best_at = 0, best_from_ns = 0;

    if (to <= last)
        return;
    if (to - at > WINDOW_MARKS)
        at = to - WINDOW_MARKS;
    for (__u32 i = 0; i < WINDOW_MARKS; i++) {
        struct window_mark *mark;
        __u64 busy_ns, from_ns, line_ns, higher;

        if (at >= to)
            break;
        at++;
        mark = &w->marks[at % WINDOW_MARKS];
        busy_ns = window_sum(w, done_ns, inside, at * slice_ns);
        /* Of the slice that began WINDOW_SLICES before there is a mark, or it is on the line. */
        from_ns = w->marks[(at + 1) % WINDOW_MARKS].busy_ns;
        line_ns = window_sum(w, done_ns, inside, (at - WINDOW_SLICES) * slice_ns);
        from_ns = window_choose(window_less(last + WINDOW_SLICES, at), line_ns, from_ns);
        higher = window_less(best_ns, busy_ns - from_ns);
        best_ns = window_choose(higher, busy_ns - from_ns, best_ns);
        best_at = window_choose(higher, at, best_at);
        best_from_ns = window_choose(higher, from_ns, best_from_ns);
        *mark = w->done;
        mark->busy_ns = busy_ns;
    }
    if (best_at) {
        /* Pages and calls are those at the oldest mark that is left, at most one time later. */
        peak->from = w->marks[(to + 1) % WINDOW_MARKS];
        peak->from.busy_ns = best_from_ns;
        peak->from_ns = (best_at - WINDOW_SLICES) * slice_ns;
        peak->busy_ns = best_ns;
    }
    w->marked = to;
}

/** The sliding time that ends now. The marks are set up to now. */
static inline __attribute__((always_inline)) void window_now(const struct window *w, __u64 now,
                                                             struct window_peak *ret)
{
    __u64 slice_ns = w->slice_ns, from_ns = now - WINDOW_SLICES * slice_ns;
    __u64 slice = now / slice_ns - WINDOW_SLICES;
    const struct window_mark *a = &w->marks[slice % WINDOW_MARKS];
    const struct window_mark *b = &w->marks[(slice + 1) % WINDOW_MARKS];
    __u64 part = ((from_ns - slice * slice_ns) << WINDOW_UNIT_BITS) / slice_ns;
    __u64 busy_ns = window_busy(w, now);

    ret->from = *a;
    ret->from.busy_ns += (b->busy_ns - a->busy_ns) * part >> WINDOW_UNIT_BITS;
    ret->from_ns = from_ns;
    ret->busy_ns = busy_ns > ret->from.busy_ns ? busy_ns - ret->from.busy_ns : 0;
}

/** What was until now will not be in any sliding time. */
static inline __attribute__((always_inline)) void window_forget(struct window *w, __u64 now)
{
    __u64 busy_ns = window_busy(w, now);

    for (__u32 i = 0; i < WINDOW_MARKS; i++) {
        w->marks[i] = w->done;
        w->marks[i].busy_ns = busy_ns;
    }
}

/** An addition, whatever the compiler knows of `n`: 5.10 knows no other atomic operation. */
static inline __attribute__((always_inline)) void window_add(__u64 *to, __u64 n)
{
    __asm__ volatile("" : "+r"(n));
    __sync_fetch_and_add(to, n);
}

/** A thread is inside from now on; the token is needed to leave. */
static inline __attribute__((always_inline)) void window_enter(struct window *w, __u64 token)
{
    window_add(&w->inside, token);
}

static inline __attribute__((always_inline)) void window_leave(struct window *w, __u64 token,
                                                               __u64 spent_ns)
{
    /* In this order, or the call could count twice for somebody who looks in between. */
    window_add(&w->inside, -token);
    window_add(&w->done.busy_ns, spent_ns);
}

#endif
