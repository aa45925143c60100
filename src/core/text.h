// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Bytes that others wrote, made safe to show; and a string that grows. */

#include "core/base.h"

/** A growing, always NUL-terminated string. Errors stick (`failed`) and are asked once, at the end.
 */
struct text {
    char *data; /* owned; NULL while empty */
    size_t len, cap;
    size_t max;  /* 0: 16 MiB */
    bool failed; /* out of memory or over max: content is incomplete */
};

void text_done(struct text *t);
void text_add(struct text *t, const char *bytes, size_t len);
void text_adds(struct text *t, const char *s);
void text_addf(struct text *t, const char *format, ...) _printf_(2, 3);

/**
 * Appends bytes as the inside of a JSON string: quotes, backslashes and whatever
 * text_add_printable() escapes are escaped, each byte that is not valid UTF-8 becomes U+FFFD. Stops
 * at the first NUL, or after `max` bytes.
 */
void text_add_json(struct text *t, const char *bytes, size_t max);

/**
 * Appends bytes so that they cannot act on a terminal: C0, DEL, C1, bidirectional and zero-width
 * controls and invalid UTF-8 are shown as \xNN or \u{NNNN}. Newlines are escaped too.
 * Stops at the first NUL, or after `max` bytes.
 */
void text_add_printable(struct text *t, const char *bytes, size_t max);

/** A short piece of foreign text for a message: in quotes, printable, cut after some 40 bytes. */
#define TEXT_QUOTED_MAX 192
const char *text_quote(const char *bytes, char ret[TEXT_QUOTED_MAX]);

/** Finds what was probably meant: set `typed`, offer the words there are, look at `found`. */
struct nearest {
    const char *typed;
    const char *found; /* NULL: nothing is near enough to be worth proposing */
    unsigned distance; /* of `found`, in edits */
};
void nearest_offer(struct nearest *n, const char *word);
