// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * What all CPUs are doing now, for collect(): each is looked at from a timer interrupt of its own
 * (bpf/sample.bpf.h), without sysrq, NMI or a word in the kernel's log.
 */

#include "core/event.h"

/** A CPU of which it is known already; it is not looked at. */
struct cpus_known {
    unsigned cpu;
    uint32_t pid;
    const char *comm;  /* WIRE_COMM_LEN bytes */
    const char *stack; /* symbols_stack_text() */
};

/**
 * Writes `cpus_stack`, a text with a paragraph for each CPU (`CPU 1: bash[4242]` and its frames, a
 * line each; of many hundred busy CPUs the last are left out), and, if there are any, the list
 * `cpus_missing` of those that could not be looked at and why; `sysrq` says that the kernel writes
 * those into its log, as the operator allows. A CPU that takes no interrupts is left alone: it
 * would block who asks. Takes some tens of milliseconds, at most half a second. `hook` is the index
 * of the hook whose program samples. -ENOMEM, or an errno of reading /proc/stat.
 */
int cpus_record(const struct collect *c, unsigned hook, const struct cpus_known *known,
                struct record *r);
