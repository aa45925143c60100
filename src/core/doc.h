// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * A finished record: immutable, reference-counted (atomically: it crosses threads). What it
 * consists of is said in docs/records.md.
 */

#include "core/base.h"

#define DOC_ID_LEN        28 /* 16 hex digits of CLOCK_REALTIME ns, 12 random ones: sorts by time */
#define DOC_CONTAINER_LEN 64
#define DOC_STACKS_MAX    4

struct doc_span {
    uint32_t at, len; /* bytes of json */
};

struct doc {
    unsigned refs;
    unsigned event;          /* index in events[] */
    bool counted;            /* false: stands outside the accounting (closing records, coverage) */
    const char *tracer_name; /* static */
    uint64_t realtime_ns;    /* when the kernel saw it */
    uint32_t pid;            /* 0: none */
    char id[DOC_ID_LEN + 1];
    char container_id[DOC_CONTAINER_LEN + 1]; /* hex, or "" */
    unsigned n_stacks;
    struct doc_span stacks[DOC_STACKS_MAX]; /* insides of JSON strings, ascending: stored once */
    size_t len;
    char json[]; /* one object, UTF-8, no newline, NUL-terminated */
};

struct doc *doc_ref(struct doc *doc);
struct doc *doc_unref(struct doc *doc);
DEFINE_CLEANUP(struct doc *, doc_unref)
