// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Kernel time to wall-clock time. Hooks take CLOCK_BOOTTIME; the distance to CLOCK_REALTIME moves
 * whenever somebody sets the clock, so it is remembered with the moment from which it held: an
 * event from before a step keeps the wall-clock time that was right when it happened.
 */

#include <time.h>

#include "core/base.h"
#include "core/wire.h"

#define CLOCK_STEPS_MAX 16

struct clock_offset {
    uint64_t since_boot_ns; /* from this CLOCK_BOOTTIME (wall_clock.base) on ... */
    int64_t offset_ns;      /* ... CLOCK_REALTIME - CLOCK_BOOTTIME was this */
};

struct wall_clock {
    struct clock_offset steps[CLOCK_STEPS_MAX]; /* oldest first */
    unsigned n_steps;
    uint64_t checked_boot_ns; /* the last offset was still true then */
    clockid_t base; /* 0: CLOCK_BOOTTIME. CLOCK_MONOTONIC: that instead, wherever it says `boot`;
                     * a suspend is a step then, as are changes of the clock */
};

/** Samples the clocks; a step of more than 1 ms opens a new entry, less is slewing and is followed.
 * Call it before converting and at least once a second. */
void clock_update(struct wall_clock *clock);
/** The kernel has just said that the clock was set (clock_watch_fd): what was, held until now. */
void clock_stepped(struct wall_clock *clock);
/** The same as clock_update() with given readings, for tests. */
void clock_update_with(struct wall_clock *clock, uint64_t boot_ns, int64_t offset_ns);
/** Tells the kernel's programs (live memory) what a clock with the base CLOCK_MONOTONIC knows. What
 * another agent has told them before stays. */
void clock_tell(const struct wall_clock *clock, volatile struct wire_clock *live);
/** CLOCK_BOOTTIME ns of an event to CLOCK_REALTIME ns. */
uint64_t clock_realtime(const struct wall_clock *clock, uint64_t boot_ns);

uint64_t clock_now_ns(int clockid);

/**
 * A descriptor that becomes readable when somebody sets the clock (timerfd_create(2),
 * TFD_TIMER_CANCEL_ON_SET). Negative errno: steps are noticed by clock_update() alone.
 */
int clock_watch_fd(void);
/** Whether the clock was set since the last call. */
bool clock_was_set(int fd);

/** `2025-06-11 16:05:16.251 +0800`, local. */
#define CLOCK_TEXT_MAX 48
void clock_format_ms(uint64_t realtime_ns, char ret[CLOCK_TEXT_MAX]);
/** `2025-06-11T16:05:16.251152703+08:00`, local. */
void clock_format_rfc3339(uint64_t realtime_ns, char ret[CLOCK_TEXT_MAX]);
/** `2025-06-11 16:05:16`, local. */
void clock_format_s(uint64_t realtime_ns, char ret[CLOCK_TEXT_MAX]);
/**
 * A point in time as a user writes it: `10m` (that long ago; units of option durations), RFC 3339,
 * `2025-06-11 16:05:16[.251][ +0800]`, `16:05[:16]` (today), `2025-06-11`, `now`.
 * -EINVAL if it is none of these.
 */
int clock_parse(const char *text, uint64_t now_realtime_ns, uint64_t *ret_realtime_ns);
