// SPDX-License-Identifier: Apache-2.0
#pragma once

/** What is listed when a task was found to hang: all tasks in D state. */

#include "core/event.h"
#include "events/hungtask/hungtask.h"

/* Of the text; what is beyond is said to be missing. A record holds 1 MiB, where a newline is two
 * bytes. */
#define HUNGTASK_TASKS_BYTES (512 * 1024)

/** `12.3 s` */
#define HUNGTASK_SECONDS_MAX 32
void hungtask_seconds(uint64_t ns, char ret[HUNGTASK_SECONDS_MAX]);

/** The function that it waits in: the first one that is not the scheduler's; "" if there is none.
 */
void hungtask_place(const char *stack, char *ret, size_t size);

/** Writes `blocked_processes_stack` of this task alone, where there is no list of all. */
int hungtask_list_own(const struct hungtask_wire *w, struct symbols *symbols, struct record *r);
/** Writes it of all, and `blocked_count`. */
int hungtask_list(const struct collect *c, const struct hungtask_wire *w, struct record *r);
