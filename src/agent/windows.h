// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The last full record of each repeat window that has taken its limit: what a closing record is
 * of. */

#include "core/doc.h"

struct windows;

/** What a closing record repeats of the last full one. The texts are owned by whoever holds this.
 */
struct window_last {
    char tracer_id[DOC_ID_LEN + 1];
    char *summary; /* may be NULL */
    char *brief;   /* record_brief(); may be NULL */
};
void window_last_done(struct window_last *last);

int windows_new(size_t max, struct windows **ret);
struct windows *windows_free(struct windows *w);
DEFINE_CLEANUP(struct windows *, windows_free)

/**
 * Takes `last` over; a window that is known already is updated. When full, the one that came first
 * is forgotten: a window that closes without repeats is never taken out.
 */
void windows_set(struct windows *w, uint64_t window_id, struct window_last *last);
/** Calls `fn` for each, in the order of coming. */
void windows_each(const struct windows *w,
                  void (*fn)(void *arg, uint64_t window_id, const struct window_last *last),
                  void *arg);
/** Takes it out: false, and `ret` empty, if it is not known. */
bool windows_take(struct windows *w, uint64_t window_id, struct window_last *ret);
