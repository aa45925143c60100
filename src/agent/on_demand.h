// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The programs of a kind that run when they are asked to (struct hook.perf): a software event on
 * each CPU, opened by the root part, and the memory in which the programs leave what they find.
 * Used by collect() on threads that may hang in the kernel, hence the owners.
 */

#include "core/base.h"

struct on_demand;

/** Maps `samples_fd` (which stays the caller's): n_cpus × sample_size bytes; -1: there is none. */
int on_demand_new(unsigned n_hooks, unsigned n_cpus, int samples_fd, size_t sample_size,
                  struct on_demand **ret);
/** One more owner: each calls on_demand_free(). NULL is fine. */
struct on_demand *on_demand_ref(struct on_demand *o);
struct on_demand *on_demand_free(struct on_demand *o);
DEFINE_CLEANUP(struct on_demand *, on_demand_free)

/** Takes the event's descriptor over. -EBADMSG: there is no such place, or it is taken. */
int on_demand_add(struct on_demand *o, unsigned hook, unsigned cpu, int fd);

/**
 * Lets the hook's program run the next `times` times that its event happens on the CPU, and no
 * more. Waits for the CPU to take an interrupt, without sleeping: nobody else may use the waiting
 * CPU then. -ENOENT: there is no such event (the hook was refused, the CPU was not there).
 */
int on_demand_run(struct on_demand *o, unsigned hook, unsigned cpu, unsigned times);

const volatile void *on_demand_samples(const struct on_demand *o); /* NULL: there are none */
unsigned on_demand_cpus(const struct on_demand *o);
