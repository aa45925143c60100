// SPDX-License-Identifier: Apache-2.0

#include "agent/coverage.h"

#include <inttypes.h>
#include <stdio.h>

/** Not a kind of event: it lends its name to the records. */
static const struct event coverage = {.name = COVERAGE_NAME, .tracer_name = COVERAGE_NAME};

static const char *const change_names[] = {
    [COVERAGE_BEGIN] = "begin",   [COVERAGE_END] = "end",   [COVERAGE_HOOK] = "hook",
    [COVERAGE_FAILED] = "failed", [COVERAGE_LOST] = "lost",
};

static void summarize(struct record *r, const struct agent_kind *kind,
                      const struct coverage_note *note, const char *ways)
{
    const char *name = kind->event->name, *reason = note->reason, *colon = *reason ? ": " : "";

    switch (note->change) {
    case COVERAGE_BEGIN:
        record_summary(r, "%s is watched from now on, through %s%s%s", name, ways, colon, reason);
        break;
    case COVERAGE_HOOK:
        record_summary(r, "%s is watched through %s from now on%s%s", name, ways, colon, reason);
        break;
    case COVERAGE_END:
        record_summary(r, "%s is not watched any more%s%s", name, colon, reason);
        break;
    case COVERAGE_FAILED:
        record_summary(r, "%s cannot be watched on this machine%s%s", name, colon, reason);
        break;
    case COVERAGE_LOST:
        record_summary(r, "%" PRIu64 " %s event%s were lost%s%s", note->lost, name,
                       note->lost == 1 ? "" : "s", colon, reason);
        break;
    }
}

int coverage_record(const struct record_origin *origin, const struct agent_kind *kind,
                    const struct coverage_note *note, struct record **ret)
{
    char ways[512], since[CLOCK_TEXT_MAX];
    struct record *r;
    int e = record_new(origin, &coverage, kind->index, note->realtime_ns, &r);

    if (e < 0)
        return e;
    kind_ways(kind, ways, sizeof(ways));
    record_uncounted(r);
    record_str(r, "event", kind->event->name, SIZE_MAX);
    record_str(r, "change", change_names[note->change], SIZE_MAX);
    record_str(r, "hook", ways, sizeof(ways));
    record_str(r, "reason", note->reason, SIZE_MAX);
    if (note->change == COVERAGE_LOST) {
        clock_format_ms(note->since_ns, since);
        record_u64(r, "lost", note->lost);
        record_str(r, "since", since, sizeof(since));
    }
    summarize(r, kind, note, ways);
    *ret = r;
    return 0;
}
