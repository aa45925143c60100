// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Texts that many records share, each stored once and kept as long as a record uses it. How often a
 * text is used is counted here and written once a transaction. Results are SQLite codes.
 */

#include "store/schema.h"

#define STACKS_CACHED  256  /* texts whose id is remembered */
#define STACKS_COUNTED 4096 /* ids whose count changes in one go */

struct stacks {
    struct {
        uint64_t hash;
        int64_t id; /* 0: free */
        char *text; /* owned */
        size_t len;
    } cached[STACKS_CACHED];
    struct {
        int64_t id; /* 0: free */
        int64_t delta;
    } counted[STACKS_COUNTED];
    unsigned n_counted;
};

/** Before a record is added or deleted: between finding its texts and counting them none may go. */
int stacks_make_room(struct stacks *stacks, struct schema *s);
/** Finds or adds a text. It is not counted yet. */
int stacks_id(struct stacks *stacks, struct schema *s, const char *text, size_t len, int64_t *ret);
/** The record column "id:offset,…" gained (+1) or lost (-1) a user, or failed to (0). */
int stacks_use(struct stacks *stacks, const char *column, int delta);
/** Writes the counts and removes texts that nothing uses. Before every commit. */
int stacks_flush(struct stacks *stacks, struct schema *s);
/** Forgets everything: after a rollback, and when another database is opened. */
void stacks_reset(struct stacks *stacks);
