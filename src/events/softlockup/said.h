/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_SOFTLOCKUP_SAID_H
#define HUATUO_SOFTLOCKUP_SAID_H

/**
 * The line that the kernel's watchdog writes (kernel/watchdog.c, watchdog_timer_fn(); the same in
 * 5.10 and 7.2):
 *
 *     watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [comm:pid]
 *
 * Where the tracepoint is behind the log (before 5.19) it begins with time and caller:
 * `[  209.681234][    T1] `. Read on both sides: by the BPF program to know the CPU, by tests.
 */

#include <linux/types.h>

#ifdef __bpf__
#define SAID_INLINE       static __always_inline
/* The compiler must not know what a number can be: it would make an index that the verifier does
 * not find bounded, or a branch, each of which doubles what the verifier has to follow. */
#define SAID_HIDE(number) asm volatile("" : "+r"(number))
#define SAID_UNROLL       _Pragma("unroll")
#else
#define SAID_INLINE static inline
#define SAID_HIDE(number)
#define SAID_UNROLL
#endif

#define SAID_TEXT_MAX    128 /* bytes that are looked at, NUL-padded; a power of two */
#define SAID_BEFORE_MAX  48  /* of these at most before the line itself */
#define SAID_PREFIX      "watchdog: BUG: soft lockup - CPU#"
#define SAID_PREFIX_LEN  33
#define SAID_STUCK       " stuck for "
#define SAID_STUCK_LEN   11
#define SAID_CPUS_MAX    4096
#define SAID_SECONDS_MAX 100000000
#define SAID_DIGITS_MAX  9 /* of a number; with one more it is too large */

struct said {
    __u32 cpu;
    __u32 seconds; /* of 2^30 ns, as the watchdog counts (get_timestamp()) */
    __u32 begin;   /* where the line begins in the text */
};

SAID_INLINE __u32 said_at(const char *text, __u32 at)
{
    SAID_HIDE(at);
    return (__u8)text[at & (SAID_TEXT_MAX - 1)];
}

/** 1 if these bytes are the same, else 0; without a branch. */
SAID_INLINE __u32 said_same(__u32 a, __u32 b)
{
    return 1 - (((a ^ b) + 255) >> 8);
}

/** A number of up to SAID_DIGITS_MAX digits at `at`; returns how many they are, which may be 0, or
 * more: then there is no such number. */
SAID_INLINE __u32 said_number(const char *text, __u32 at, __u32 *ret)
{
    __u32 value = 0, n = 0, goes_on = 1;

    SAID_UNROLL
    for (__u32 i = 0; i <= SAID_DIGITS_MAX; i++) {
        __u32 digit = (said_at(text, at + i) - (__u32)'0') & 0xff;

        goes_on &= (digit - 10) >> 31;
        SAID_HIDE(goes_on);
        value += (9 * value + digit) * goes_on;
        n += goes_on;
    }
    *ret = value;
    return n;
}

/** 1: `text` (SAID_TEXT_MAX bytes) is such a line, whoever wrote it; 0: it is not. */
SAID_INLINE int said_parse(const char *text, struct said *ret)
{
    const char prefix[] = SAID_PREFIX, stuck[] = SAID_STUCK;
    __u32 same = 1, before = 1, at = 0, n_cpu, n_seconds;

    /* Time and caller have no `w`. */
    SAID_UNROLL
    for (__u32 i = 0; i < SAID_BEFORE_MAX; i++) {
        before &= 1 - said_same(said_at(text, i), 'w');
        SAID_HIDE(before);
        at += before;
    }
    SAID_UNROLL
    for (__u32 i = 0; i < SAID_PREFIX_LEN; i++)
        same &= said_same(said_at(text, at + i), (__u8)prefix[i]);
    ret->begin = at;
    n_cpu = said_number(text, at + SAID_PREFIX_LEN, &ret->cpu);
    at += SAID_PREFIX_LEN + n_cpu;
    SAID_UNROLL
    for (__u32 i = 0; i < SAID_STUCK_LEN; i++)
        same &= said_same(said_at(text, at + i), (__u8)stuck[i]);
    n_seconds = said_number(text, at + SAID_STUCK_LEN, &ret->seconds);
    at += SAID_STUCK_LEN + n_seconds;
    same &= said_same(said_at(text, at), 's') & said_same(said_at(text, at + 1), '!');
    return same && (ret->begin == 0 || text[0] == '[') && n_cpu - 1 < SAID_DIGITS_MAX &&
           n_seconds - 1 < SAID_DIGITS_MAX && ret->cpu < SAID_CPUS_MAX &&
           ret->seconds <= SAID_SECONDS_MAX;
}

#endif
