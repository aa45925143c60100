// SPDX-License-Identifier: Apache-2.0
#pragma once

/** When which kind of event was not watched, or lost events, out of the coverage records of a
 * store. */

#include <stdio.h>

#include "store/store.h"

struct gaps;

int gaps_new(struct gaps **ret);
struct gaps *gaps_free(struct gaps *g);
DEFINE_CLEANUP(struct gaps *, gaps_free)

/** Takes a coverage record in; in the order of commits. Others, and what is no record, are passed
 * over. -ENOMEM. */
int gaps_note(struct gaps *g, const struct store_row *row);
/** Nobody was watching from then on: whoever wrote the last of these was killed. CLOCK_REALTIME */
int gaps_end(struct gaps *g, uint64_t realtime_ns);
/**
 * A line for each gap of these kinds (tracer names; ends with NULL; NULL: all) between two times
 * (CLOCK_REALTIME). Of the time before a kind was watched first nothing is said where `since_ns` is
 * 0. Returns how many, or the errno of writing.
 */
int gaps_print(const struct gaps *g, const char *const *tracer_names, uint64_t since_ns,
               uint64_t until_ns, FILE *out);
