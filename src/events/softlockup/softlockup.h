/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_SOFTLOCKUP_H
#define HUATUO_SOFTLOCKUP_H

/** What the soft lockup's BPF programs and the agent say to each other. */

#include "core/wire.h"
#include "events/softlockup/said.h"

/** Rules of `filtered_by`. 0 is the agent's own traffic, of which there is none here. */
enum softlockup_rule {
    SOFTLOCKUP_RULE_OWN,
    SOFTLOCKUP_RULE_NOT_WATCHDOG, /* it is said, and not by the kernel's watchdog on that CPU */
    SOFTLOCKUP_RULE_SHORT,        /* softlockup.min_duration */
    SOFTLOCKUP_RULE_NR
};

#define SOFTLOCKUP_PIECES_MAX 4

struct softlockup_settings {
    __u64 min_ns; /* reports of shorter lockups are filtered */
    /* Where watchdog_timer_fn() lies, in as many pieces as the compiler made of it; none: symbols
     * are hidden */
    struct {
        __u64 start;
        __u64 size; /* bytes */
    } watchdog[SOFTLOCKUP_PIECES_MAX];
};

/** One report. The head is about the task that the CPU is stuck in; its stack has the interrupt of
 * the watchdog above. */
struct softlockup_wire {
    struct wire_head head;
    __u32 seconds;  /* as in struct said; 0: not known */
    __u32 verified; /* the watchdog's function is on the stack: it is no text of somebody else's */
    char text[SAID_TEXT_MAX]; /* what the kernel wrote, NUL-padded; empty: not known */
};
WIRE_ASSERT(sizeof(struct softlockup_wire) == sizeof(struct wire_head) + 8 + SAID_TEXT_MAX,
            "softlockup_wire has holes");

#endif
