// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Records about the watching itself: when a kind of event begins to be watched, stops, changes its
 * hook, or has lost events, so that silence is proof of health. They stand outside the accounting.
 */

#include "agent/kinds.h"

/** `change` in the record. */
enum coverage_change {
    COVERAGE_BEGIN,  /* it is watched from then on */
    COVERAGE_END,    /* it is not watched any more */
    COVERAGE_HOOK,   /* through another hook */
    COVERAGE_FAILED, /* it should be watched and cannot be */
    COVERAGE_LOST,   /* events were lost */
};

struct coverage_note {
    enum coverage_change change;
    uint64_t realtime_ns; /* when */
    const char *reason;   /* why; "": there is nothing to say */
    uint64_t lost;        /* COVERAGE_LOST: how many events since ... */
    uint64_t since_ns;    /* ... then, CLOCK_REALTIME */
};

/** As record_new(), complete. */
int coverage_record(const struct record_origin *origin, const struct agent_kind *kind,
                    const struct coverage_note *note, struct record **ret);
