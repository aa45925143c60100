// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Configuration keys as tables: from one row come parsing, errors, `config show`, `--set` and
 * docs/configuration.md. A section (`store`, `dropwatch`, ...) is a table and the struct that it
 * fills.
 */

#include "core/base.h"

enum option_type {
    OPTION_BOOL,     /* bool: true, false, yes, no, on, off */
    OPTION_U64,      /* uint64_t */
    OPTION_DURATION, /* uint64_t, ns: 100ms, 5s, 1h, 7d; units ns us ms s m h d */
    OPTION_SIZE,     /* uint64_t, bytes: 64MiB; units B KiB MiB GiB TiB (1024), KB MB GB TB */
    OPTION_STRING,   /* char *, owned, never NULL; valid UTF-8 without control characters */
    OPTION_ENUM,     /* uint64_t, index into `words` */
    OPTION_LIST,     /* struct string_list, owned; in YAML a sequence or a scalar, in --set a,b,c
                      * (inside an item a comma is written \, and a backslash \\) */
};

#define OPTION_LIST_MAX 1024 /* items */

struct string_list {
    char **items; /* owned */
    size_t n;
};

struct option {
    const char *key; /* without the section: "retain" */
    enum option_type type;
    size_t offset;        /* of the field in the section's struct */
    const char *fallback; /* default as a user would write it; parsed by the same code; list: a,b */
    uint64_t min, max;    /* inclusive, in the type's unit; both 0: unbounded; max 0: only min */
    const char *const
        *words; /* OPTION_ENUM, or the allowed items of an OPTION_LIST; ends with NULL */
    /** Optional: more to check. Returns NULL or what is wrong with `text` (one item of a list). */
    const char *(*check)(const char *text);
    /** Optional, of an OPTION_LIST: what can be wrong only with all of it. Returns 0, or -EINVAL
     * and what is wrong in `error`. Its items are good. */
    int (*check_list)(const struct string_list *list, char *error, size_t error_size);
    const char *help; /* one sentence: the effect and the unit */
};

/** A section of the configuration. */
struct option_section {
    const char *name;
    const char *help;             /* one sentence */
    const struct option *options; /* ends with a row whose key is NULL */
    size_t size;                  /* of the struct */
};

/** Fills the struct with the fallbacks; what was in it is not looked at. */
int option_defaults(const struct option *options, void *values);
void option_done(const struct option *options, void *values);

/**
 * Parses one value; a failure leaves the old one. On -EINVAL/-ERANGE `error` says what is wrong and
 * what would be right, without naming the key, and fit to be shown. For lists: `text` is split at
 * commas; there is a line for every item that is wrong.
 */
int option_parse(const struct option *option, const char *text, void *values, char *error,
                 size_t error_size);
/** Sets a list from items (YAML sequences). */
int option_parse_list(const struct option *option, const char *const *items, size_t n, void *values,
                      char *error, size_t error_size);
/** The value as a user would write it; heap. */
char *option_text(const struct option *option, const void *values);

/** Exchanges the values of one option between two structs; cannot fail. */
void option_swap(const struct option *option, void *a, void *b);

const struct option *option_find(const struct option *options, const char *key);

/** `5s` to ns, `64MiB` to bytes: -EINVAL if it is not one, -ERANGE if it does not fit. `1.5s` is
 * fine where it is exact; only 0 may stand without a unit. */
int parse_duration(const char *text, uint64_t *ret_ns);
int parse_size(const char *text, uint64_t *ret_bytes);
/** Shortest text without a fraction that parses back to the value; heap. */
char *format_duration(uint64_t ns);
char *format_size(uint64_t bytes);

void string_list_done(struct string_list *list);
bool string_list_has(const struct string_list *list, const char *text);
