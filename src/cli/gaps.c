// SPDX-License-Identifier: Apache-2.0

#include "cli/gaps.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/event.h"
#include "core/text.h"

/** One stretch of time in which a kind was not watched, or lost events. */
struct gap {
    size_t kind; /* index in events[] */
    uint64_t from_ns, to_ns;
    uint64_t lost; /* 0: it was not watched */
    char *why;     /* owned */
};

struct gaps {
    struct gap *items;
    size_t n;
    bool *known, *watched; /* by kind: said anything of; as of the last record */
};

#define FOREVER UINT64_MAX

int gaps_new(struct gaps **ret)
{
    struct gaps *g = calloc(1, sizeof(*g));

    if (g) {
        g->known = calloc(n_events + 1, sizeof(*g->known));
        g->watched = calloc(n_events + 1, sizeof(*g->watched));
    }
    if (!g || !g->known || !g->watched) {
        gaps_free(g);
        return -ENOMEM;
    }
    *ret = g;
    return 0;
}

struct gaps *gaps_free(struct gaps *g)
{
    if (!g)
        return NULL;
    for (size_t i = 0; i < g->n; i++)
        free(g->items[i].why);
    free(g->items);
    free(g->known);
    free(g->watched);
    free(g);
    return NULL;
}

static int add(struct gaps *g, struct gap gap, const char *why)
{
    struct gap *items = reallocarray(g->items, g->n + 1, sizeof(*items));

    if (!items)
        return -ENOMEM;
    g->items = items;
    gap.why = strdup(why);
    if (!gap.why)
        return -ENOMEM;
    items[g->n++] = gap;
    return 0;
}

/** The gap of this kind that has not ended, or NULL. */
static struct gap *open_gap(struct gaps *g, size_t kind)
{
    for (size_t i = g->n; i-- > 0;)
        if (g->items[i].kind == kind && g->items[i].to_ns == FOREVER)
            return &g->items[i];
    return NULL;
}

static int begin_gap(struct gaps *g, size_t kind, uint64_t from_ns, const char *why)
{
    struct gap gap = {.kind = kind, .from_ns = from_ns, .to_ns = FOREVER};

    g->watched[kind] = false;
    /* One that goes on: the agent was started again, and could not watch it again. */
    return open_gap(g, kind) ? 0 : add(g, gap, why);
}

static int note(struct gaps *g, size_t kind, uint64_t when_ns, const json_t *data)
{
    const char *change = json_string_value(json_object_get(data, "change"));
    const char *why = json_string_value(json_object_get(data, "reason"));
    const char *since = json_string_value(json_object_get(data, "since"));
    bool first = !g->known[kind];
    struct gap *open;

    if (!change)
        return 0;
    if (!why)
        why = "";
    g->known[kind] = true;
    if (strcmp(change, "lost") == 0) {
        json_int_t n_lost = json_integer_value(json_object_get(data, "lost"));
        struct gap lost = {
            .kind = kind,
            .from_ns = when_ns,
            .to_ns = when_ns,
            .lost = n_lost > 0 ? (uint64_t)n_lost : 0,
        };

        if (since)
            clock_parse(since, when_ns, &lost.from_ns);
        return lost.lost ? add(g, lost, why) : 0;
    }
    if (strcmp(change, "end") == 0 || strcmp(change, "failed") == 0)
        return begin_gap(g, kind, when_ns, why);
    g->watched[kind] = true;
    if (first && strcmp(change, "begin") == 0)
        return add(g, (struct gap){.kind = kind, .to_ns = when_ns},
                   "no agent ran, as far as is known");
    open = open_gap(g, kind);
    if (open)
        open->to_ns = when_ns;
    return 0;
}

int gaps_note(struct gaps *g, const struct store_row *row)
{
    json_auto_t *record = NULL;
    const json_t *data;
    const char *name;

    if (strcmp(row->tracer_name, COVERAGE_NAME) != 0)
        return 0;
    record = json_loadb(row->json, row->len, 0, NULL);
    data = json_object_get(record, "tracer_data");
    name = json_string_value(json_object_get(data, "event"));
    for (size_t i = 0; name && i < n_events; i++)
        if (strcmp(events[i]->name, name) == 0)
            return note(g, i, row->realtime_ns, data);
    return 0;
}

int gaps_end(struct gaps *g, uint64_t realtime_ns)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < n_events; i++)
        if (g->watched[i])
            r = begin_gap(g, i, realtime_ns, "the agent was killed, or the machine went down");
    return r;
}

static bool is_wanted(const char *const *tracer_names, const char *name)
{
    for (; tracer_names && *tracer_names; tracer_names++)
        if (strcmp(*tracer_names, name) == 0)
            return true;
    return false;
}

static int print_gap(const struct gap *gap, uint64_t until_ns, FILE *out)
{
    _cleanup_(text_done) struct text line = {};
    char from[CLOCK_TEXT_MAX], to[CLOCK_TEXT_MAX];

    clock_format_ms(gap->from_ns, from);
    clock_format_ms(MIN(gap->to_ns, until_ns), to);
    if (gap->lost)
        text_addf(&line, "-- %s: %llu events were lost from %s to %s", events[gap->kind]->name,
                  (unsigned long long)gap->lost, from, to);
    else
        text_addf(&line, "-- %s: not watched from %s %s%s", events[gap->kind]->name,
                  gap->from_ns ? from : "the beginning", gap->to_ns == FOREVER ? "on" : "to ",
                  gap->to_ns == FOREVER ? "" : to);
    text_adds(&line, *gap->why ? ": " : "");
    text_add_printable(&line, gap->why, SIZE_MAX);
    text_adds(&line, "\n");
    if (line.failed)
        return -ENOMEM;
    return fwrite(line.data, 1, line.len, out) == line.len ? 0 : -errno;
}

int gaps_print(const struct gaps *g, const char *const *tracer_names, uint64_t since_ns,
               uint64_t until_ns, FILE *out)
{
    int n = 0;

    for (size_t i = 0; i < g->n; i++) {
        const struct gap *gap = &g->items[i];
        int r;

        if (tracer_names && !is_wanted(tracer_names, events[gap->kind]->tracer_name))
            continue;
        if (gap->to_ns < since_ns || gap->from_ns > until_ns || (!gap->from_ns && !since_ns))
            continue;
        r = print_gap(gap, until_ns, out);
        if (r < 0)
            return r;
        n++;
    }
    return n;
}
