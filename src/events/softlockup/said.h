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
#define SAID_INLINE static __always_inline
/* The compiler must not know better than the verifier where an index ends. */
#define SAID_AT(text, i)                                                                           \
    ({                                                                                             \
        __u32 at_ = (i);                                                                           \
        asm volatile("" : "+r"(at_));                                                              \
        (text)[at_ & (SAID_TEXT_MAX - 1)];                                                         \
    })
#else
#define SAID_INLINE      static inline
#define SAID_AT(text, i) ((text)[(i) & (SAID_TEXT_MAX - 1)])
#endif

#define SAID_TEXT_MAX    128 /* bytes that are looked at, NUL-padded; a power of two */
#define SAID_BEFORE_MAX  48  /* of these at most before the line itself */
#define SAID_PREFIX      "watchdog: BUG: soft lockup - CPU#"
#define SAID_PREFIX_LEN  33
#define SAID_STUCK       " stuck for "
#define SAID_STUCK_LEN   11
#define SAID_CPUS_MAX    4096
#define SAID_SECONDS_MAX 100000000

struct said {
    __u32 cpu;
    __u32 seconds; /* of 2^30 ns, as the watchdog counts (get_timestamp()) */
    __u32 begin;   /* where the line begins in the text */
};

/** A number at `at`; returns where it ends. No digits, or too many: `*ret` is over `max`. */
SAID_INLINE __u32 said_number(const char *text, __u32 at, __u32 max, __u32 *ret)
{
    __u32 value = 0, i;

    for (i = 0; i < 10; i++) {
        __u32 digit = (__u8)SAID_AT(text, at + i) - (__u32)'0';

        if (digit > 9)
            break;
        value = value > max ? value : value * 10 + digit;
    }
    *ret = i == 0 || i == 10 ? max + 1 : value;
    return at + i;
}

/** 1: `text` (SAID_TEXT_MAX bytes) is such a line, whoever wrote it; 0: it is not. */
SAID_INLINE int said_parse(const char *text, struct said *ret)
{
    const char prefix[] = SAID_PREFIX, stuck[] = SAID_STUCK;
    __u32 differs = 0, at = 0;

    /* Time and caller have no `w`. */
    for (; at < SAID_BEFORE_MAX && SAID_AT(text, at) != 'w'; at++)
        ;
    if (at > 0 && text[0] != '[')
        return 0;
    for (__u32 i = 0; i < SAID_PREFIX_LEN; i++)
        differs |= (__u8)(SAID_AT(text, at + i) ^ prefix[i]);
    if (differs)
        return 0;
    ret->begin = at;
    at = said_number(text, at + SAID_PREFIX_LEN, SAID_CPUS_MAX - 1, &ret->cpu);
    for (__u32 i = 0; i < SAID_STUCK_LEN; i++)
        differs |= (__u8)(SAID_AT(text, at + i) ^ stuck[i]);
    at = said_number(text, at + SAID_STUCK_LEN, SAID_SECONDS_MAX, &ret->seconds);
    if (SAID_AT(text, at) != 's' || SAID_AT(text, at + 1) != '!')
        differs = 1;
    return !differs && ret->cpu < SAID_CPUS_MAX && ret->seconds <= SAID_SECONDS_MAX;
}

#endif
