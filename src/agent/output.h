// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Shows records as they come, by following the store: what was printed is durable. A thread of its
 * own, as a terminal that has been stopped must not stop the agent.
 */

#include <stdio.h>

#include "core/base.h"

struct output;

/** `print` writes one record (core/doc.h's json); called on the output thread only. */
int output_new(const char *store_path, int (*print)(FILE *out, const char *json, size_t len),
               struct output **ret);
/** There is something new. Never waits. */
void output_wake(struct output *o);
/**
 * Prints what is left and frees it. False if that takes longer than `bound_ns`, as nobody reads:
 * then the thread still holds standard output and goes with the process.
 */
bool output_end(struct output *o, uint64_t bound_ns);
