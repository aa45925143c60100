// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Records that wait for what others have to tell: host names, the process's details, what is
 * collected for them. None waits longer than its bound, and none waits for another.
 */

#include "agent/collect.h"
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
    struct collector *collector; /* NULL: likewise */
    uint64_t bound_ns;
    uint64_t collect_bound_ns; /* of records for which something is collected */
    size_t max;                /* more than these wait no longer: the oldest goes as it is */
    /** Gets each record when it is as complete as it will be; takes it over. */
    void (*done)(void *arg, struct record *r);
    /** What was collected did not come (-ETIME: in time), or could not be used: it goes without,
     * and says so in the field `incomplete`. NULL: nobody counts. */
    void (*incomplete)(void *arg, const struct record *r, int why);
    void *arg;
};

int pending_new(const struct pending_options *options, struct pending **ret);
/** Hands on what still waits. */
struct pending *pending_free(struct pending *p);

/** Takes the record over; `done` may be called before this returns. */
void pending_add(struct pending *p, struct record *r, uint64_t now_ns);
/** The same for a record of whose kind something is collected, by the collector's ticket, which is
 * given over, too; or `why` there is none (negative errno). */
void pending_add_collected(struct pending *p, struct record *r, uint64_t ticket, int why,
                           uint64_t now_ns);
/** Something has become known: looks at all that wait. */
void pending_retry(struct pending *p);
/** Hands on what has waited long enough (CLOCK_MONOTONIC). */
void pending_expire(struct pending *p, uint64_t now_ns);
size_t pending_count(const struct pending *p);
