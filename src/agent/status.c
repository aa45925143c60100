// SPDX-License-Identifier: Apache-2.0

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "agent/kinds.h"
#include "core/clock.h"
#include "core/text.h"

static const char *const state_names[] = {"attached", "refused", "unused", "off"};
static const char *const kernel_lost_names[WIRE_LOST_NR] = {"ring_full", "keys_full"};
static const char *const agent_lost_names[AGENT_LOST_NR] = {"decode", "memory", "crash"};
static const char *const incomplete_names[AGENT_INCOMPLETE_NR] = {"late", "busy", "failed"};
static const char *const store_lost_names[STORE_LOST_NR] = {"queue_full", "store"};

json_t *status_u64(uint64_t value)
{
    return json_integer((json_int_t)value);
}

json_t *status_text(const char *bytes)
{
    struct text safe = {};
    json_t *string;

    text_add_printable(&safe, bytes, SIZE_MAX);
    string = json_string(safe.data ? safe.data : "");
    text_done(&safe);
    return string;
}

/** Adds to what is there; leaves out what is zero. */
static void add_count(json_t *object, const char *name, uint64_t value)
{
    if (value)
        json_object_set_new(
            object, name,
            status_u64(value + (uint64_t)json_integer_value(json_object_get(object, name))));
}

/** A copy of the counts of agents before this one, to be added to. */
static json_t *past_counts(const json_t *past)
{
    return past ? json_deep_copy(past) : json_object();
}

json_t *status_lost_by(const struct agent_kind *kind, const struct store *store)
{
    json_t *object = past_counts(kind->past.lost_by);
    struct wire_counters kernel;

    kind_get_kernel(kind, &kernel);
    for (unsigned i = 0; i < WIRE_LOST_NR; i++)
        add_count(object, kernel_lost_names[i] ? kernel_lost_names[i] : "kernel", kernel.lost[i]);
    for (unsigned i = 0; i < AGENT_LOST_NR; i++)
        add_count(object, agent_lost_names[i], kind->lost[i]);
    if (store) {
        struct store_counts counts;

        store_get_counts(store, kind->index, &counts);
        for (unsigned i = 0; i < STORE_LOST_NR; i++)
            add_count(object, store_lost_names[i], counts.lost[i]);
    }
    return object;
}

static json_t *incomplete_by(const struct agent_kind *kind, uint64_t *ret_sum)
{
    json_t *object = json_object();

    *ret_sum = 0;
    for (unsigned i = 0; i < AGENT_INCOMPLETE_NR; i++) {
        add_count(object, incomplete_names[i], kind->incomplete[i]);
        *ret_sum += kind->incomplete[i];
    }
    return object;
}

/** All rules that are on, also those that have taken nothing out yet: this is where an operator
 * finds them. */
static json_t *filtered_by(const struct agent_kind *kind)
{
    json_t *object = past_counts(kind->past.filtered_by);
    struct wire_counters kernel;

    kind_get_kernel(kind, &kernel);
    for (unsigned i = 0; i < WIRE_RULES_MAX && kind->event->rule_name; i++) {
        const char *name = kind->event->rule_name(kind->options, i);
        uint64_t sum = kernel.filtered[i];

        /* A rule may still have taken out some between being switched off and being gone. */
        if (!name || !*name) {
            add_count(object, "former", sum);
            continue;
        }
        /* Several rules may have one name. */
        sum += (uint64_t)json_integer_value(json_object_get(object, name));
        json_object_set_new(object, name, status_u64(sum));
    }
    return object;
}

static json_t *hooks(const struct agent_kind *kind)
{
    json_t *list = json_array();

    for (unsigned h = 0; kind->event->hooks[h].name; h++) {
        const struct hook *hook = &kind->event->hooks[h];

        for (unsigned w = 0; w < HOOK_WAYS_MAX && hook->ways[w].name; w++) {
            const struct agent_hook_way *way = &kind->hooks[h][w];
            json_t *row = json_pack("{s:s, s:s, s:s}", "hook", hook->name, "way",
                                    hook->ways[w].name, "state", state_names[way->state]);

            if (*way->reason)
                json_object_set_new(row, "reason", status_text(way->reason));
            json_array_append_new(list, row);
        }
    }
    return list;
}

static const char *state(const struct agent_kind *kind, bool running)
{
    unsigned used = 0, needed = 0;

    if (!kind->enabled)
        return "off";
    for (unsigned h = 0; kind->event->hooks[h].name; h++) {
        if (kind->event->hooks[h].optional)
            continue;
        needed++;
        used += kind_way(kind, h) != NULL;
    }
    if (!used)
        return "failed";
    if (!running)
        return "stopped";
    return used < needed ? "partly" : "watching";
}

/** Up to the last CPU that has counted anything: more are possible than there are. */
static json_t *measure(const struct agent_kind *kind, unsigned which)
{
    json_t *list = json_array();
    unsigned n = kind->counters ? kind->n_cpus : 0;

    while (n && !kind->counters[n - 1].measures[which])
        n--;
    for (unsigned cpu = 0; cpu < n; cpu++)
        json_array_append_new(list, status_u64(kind->counters[cpu].measures[which]));
    return list;
}

static json_t *measures(const struct agent_kind *kind)
{
    json_t *object = json_object();

    for (unsigned i = 0; i < WIRE_MEASURES && kind->event->measures[i]; i++)
        json_object_set_new(object, kind->event->measures[i], measure(kind, i));
    return object;
}

json_t *status_event(const struct agent_kind *kind, const struct status_input *in)
{
    struct kind_account a;
    char ways[512];
    json_t *object = json_object();
    uint64_t n_incomplete;

    kind_get_account(kind, in->store, &a);
    kind_ways(kind, ways, sizeof(ways));
    json_object_set_new(object, "hook", json_string(ways));
    json_object_set_new(object, "state", json_string(state(kind, in->running)));
    if (*kind->reason)
        json_object_set_new(object, "reason", status_text(kind->reason));
    json_object_set_new(object, "seen", status_u64(a.seen));
    json_object_set_new(object, "recorded", status_u64(a.recorded));
    json_object_set_new(object, "suppressed", status_u64(a.suppressed));
    json_object_set_new(object, "filtered", status_u64(a.filtered));
    json_object_set_new(object, "filtered_by", filtered_by(kind));
    json_object_set_new(object, "lost", status_u64(a.lost));
    json_object_set_new(object, "lost_by", status_lost_by(kind, in->store));
    json_object_set_new(object, "unaccounted", json_integer(a.unaccounted));
    json_object_set_new(object, "missed", status_u64(kind->missed));
    if (kind->event->collect) {
        json_t *by = incomplete_by(kind, &n_incomplete);

        json_object_set_new(object, "incomplete", status_u64(n_incomplete));
        json_object_set_new(object, "incomplete_by", by);
    }
    if (kind->event->measures)
        json_object_set_new(object, "measures", measures(kind));
    json_object_set_new(object, "hooks", hooks(kind));
    return object;
}

static json_t *store_json(const struct store_state *s)
{
    return json_pack("{s:b, s:o, s:I, s:I, s:I, s:I, s:I}", "writing", (int)s->writing, "problem",
                     status_text(s->problem), "queued", (json_int_t)s->queued, "records",
                     (json_int_t)s->records, "size_bytes", (json_int_t)s->size_bytes, "deleted",
                     (json_int_t)s->deleted, "next_seq", (json_int_t)s->next_seq);
}

/** Counts are for ever, not since the start: they belong to the cursor, which the store keeps. */
static json_t *upload_json(const struct uploader_state *u, const struct store *store)
{
    struct store_target target = {};
    uint64_t now = clock_now_ns(CLOCK_REALTIME);
    uint64_t oldest_ns = u->oldest_ns && now > u->oldest_ns ? now - u->oldest_ns : 0;

    if (store)
        store_get_target(store, u->target, &target);
    return json_pack("{s:s, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I}", "state",
                     *u->problem ? "failing" : "ok", "problem", status_text(u->problem), "warning",
                     status_text(u->warning), "url", status_text(u->url), "uploaded",
                     (json_int_t)target.uploaded, "retried", (json_int_t)target.retried, "rejected",
                     (json_int_t)target.rejected, "deleted", (json_int_t)target.deleted,
                     "oldest_not_uploaded_s", (json_int_t)(oldest_ns / NS_PER_SEC));
}

char *status_json(const struct status_input *in)
{
    char started[CLOCK_TEXT_MAX], *text;
    json_t *root = json_object(), *events_object = json_object(), *uploads = json_object();
    struct store_state state = {};

    /* Before the counts: after a crash, what is committed from `next_seq` on is not lost. */
    if (in->store)
        store_get_state(in->store, &state);
    clock_format_rfc3339(in->started_ns, started);
    json_object_set_new(root, "running", json_boolean(in->running));
    json_object_set_new(root, "ready", json_boolean(in->ready));
    json_object_set_new(root, "version", json_string(in->version));
    json_object_set_new(root, "pid", status_u64(in->pid));
    json_object_set_new(root, "user", status_text(in->user));
    json_object_set_new(root, "started", json_string(started));
    if (!in->running && in->end)
        json_object_set_new(root, "end", json_string(in->end));
    json_object_set_new(root, "symbols", json_string(*in->symbols ? in->symbols : "ok"));
    for (size_t i = 0; i < in->n_kinds; i++)
        json_object_set_new(events_object, in->kinds[i].event->name,
                            status_event(&in->kinds[i], in));
    json_object_set_new(root, "events", events_object);
    for (size_t i = 0; i < in->n_uploads; i++)
        json_object_set_new(uploads, in->uploads[i].target,
                            upload_json(&in->uploads[i], in->store));
    json_object_set_new(root, "targets", uploads);
    if (in->store)
        json_object_set_new(root, "store", store_json(&state));
    text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

char *status_table(const struct status_input *in)
{
    struct text t = {};

    text_addf(&t, "%-16s %12s %12s %12s %12s %12s\n", "event", "seen", "recorded", "suppressed",
              "filtered", "lost");
    for (size_t i = 0; i < in->n_kinds; i++) {
        struct kind_account a;

        if (!in->kinds[i].enabled)
            continue;
        kind_get_account(&in->kinds[i], in->store, &a);
        text_addf(&t,
                  "%-16s %12" PRIu64 " %12" PRIu64 " %12" PRIu64 " %12" PRIu64 " %12" PRIu64 "\n",
                  in->kinds[i].event->name, a.seen, a.recorded, a.suppressed, a.filtered, a.lost);
    }
    return t.data;
}
