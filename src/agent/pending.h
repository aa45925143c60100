// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Records that wait for what others have to tell: host names, the process's details. None waits
 * longer than its bound, and none waits for another.
 */

#include "core/record.h"
#include "enrich/lookups.h"
#include "enrich/names.h"
#include "enrich/owners.h"
#include "enrich/process.h"

struct pending;

/** What it runs may only be read by the privileged; the owner of `exes` sees to the answers. */
struct exe_key {
    uint32_t pid;
    uint32_t zero;
    uint64_t start_boot_ns;
};

struct pending_options {
    struct names *names;         /* NULL: none are asked for */
    struct processes *processes; /* NULL: likewise */
    struct owners *owners;       /* NULL: likewise */
    struct lookups *exes;        /* struct exe_key to the path of what it runs; NULL: likewise */
    uint64_t bound_ns;
    size_t max; /* more than these wait no longer: the oldest goes as it is */
    /** Gets each record when it is as complete as it will be; takes it over. */
    void (*done)(void *arg, struct record *r);
    void *arg;
};

int pending_new(const struct pending_options *options, struct pending **ret);
/** Hands on what still waits. */
struct pending *pending_free(struct pending *p);

/** Takes the record over; `done` may be called before this returns. */
void pending_add(struct pending *p, struct record *r, uint64_t now_ns);
/** Something has become known: looks at all that wait. */
void pending_retry(struct pending *p);
/** Hands on what has waited long enough (CLOCK_MONOTONIC). */
void pending_expire(struct pending *p, uint64_t now_ns);
size_t pending_count(const struct pending *p);
