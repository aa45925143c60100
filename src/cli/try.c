// SPDX-License-Identifier: Apache-2.0

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/ask.h"
#include "cli/cli.h"
#include "core/clock.h"
#include "core/event.h"
#include "core/text.h"
#include "root/provoke.h"
#include "store/store.h"

#define PROVOKE_NS     (30 * NS_PER_SEC) /* some have to fill memory or to wait for a watchdog */
#define READY_NS       (10 * NS_PER_SEC)
#define RECORD_NS      (10 * NS_PER_SEC)
#define POLL_US        50000
/* How far the agent's idea of the wall clock may be from the truth: what it takes for slewing. */
#define CLOCK_SLACK_NS (2 * NS_PER_MS)

struct attempt {
    const struct event *event;
    struct provoked provoked;
    uint64_t after_seq, since_ns; /* of the store before it began; CLOCK_REALTIME */
    char id[DOC_ID_LEN + 1];
    char *summary; /* owned; of the record */
};

enum outcome { RECORDED, NOT_RECORDED, NOT_PROVOKED, NOT_WATCHED, NO_PROVOCATION };

static const char *const outcome_names[] = {"recorded", "not recorded", "not provoked",
                                            "not watched", "cannot be provoked"};

/* ------------------------------------------------------------------ what the agent says */

static const json_t *kind_of(const json_t *status, const char *name)
{
    return json_object_get(json_object_get(status, "events"), name);
}

static const char *string_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

/** By how much a counter has grown. */
static json_int_t grown(const json_t *before, const json_t *after, const char *name)
{
    return json_integer_value(json_object_get(after, name)) -
           json_integer_value(json_object_get(before, name));
}

static void add_grown(struct text *t, const char *what, const json_t *before, const json_t *after)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)after, name, value)
    {
        json_int_t by = grown(before, after, name);

        if (by > 0)
            text_addf(t, "%s%s %" JSON_INTEGER_FORMAT " by %s", t->len ? ", " : "", what, by, name);
    }
}

/** What was counted while we waited; others' events are among it. */
static void explain(struct text *t, const char *name, const json_t *before, const json_t *after)
{
    const json_t *old = kind_of(before, name), *new = kind_of(after, name);
    json_int_t suppressed = grown(old, new, "suppressed");

    if (!new) {
        text_adds(t, "the agent no longer answers");
        return;
    }
    add_grown(t, "filtered", json_object_get(old, "filtered_by"),
              json_object_get(new, "filtered_by"));
    add_grown(t, "lost", json_object_get(old, "lost_by"), json_object_get(new, "lost_by"));
    if (suppressed > 0)
        text_addf(t,
                  "%ssuppressed %" JSON_INTEGER_FORMAT
                  " as repeats: of the same event there were enough (repeat_limit); try again when "
                  "the window is over (repeat_window)",
                  t->len ? ", " : "", suppressed);
    if (grown(old, new, "recorded") > 0)
        text_addf(t, "%srecorded %" JSON_INTEGER_FORMAT " others", t->len ? ", " : "",
                  grown(old, new, "recorded"));
    if (!t->len)
        text_addf(t, "%s",
                  grown(old, new, "seen") > 0
                      ? "it was seen and is still on its way"
                      : "the agent has seen nothing: its hook did not fire");
}

/** 0: it is ready. -EAGAIN: it does not become so in time; other errors as of ask_agent(). */
static int wait_ready(const char *store)
{
    const uint64_t deadline_ns = clock_now_ns(CLOCK_MONOTONIC) + READY_NS;

    for (;;) {
        json_auto_t *status = NULL;
        int r = ask_agent(store, &status);

        if (r < 0)
            return r;
        if (json_is_true(json_object_get(status, "ready")))
            return 0;
        if (clock_now_ns(CLOCK_MONOTONIC) >= deadline_ns)
            return -EAGAIN;
        usleep(POLL_US);
    }
}

static int say_no_agent(const char *store, int r)
{
    static const struct {
        int error;
        const char *what, *advice;
    } table[] = {
        {EAGAIN, "the agent does not get ready", "see `huatuo status`"},
        {EBADMSG, "the agent does not answer", "try again; if it stays so, restart it"},
        {EACCES, "the agent may not be asked", "ask as root"},
        {0, "no agent runs", "start it with `huatuo run`, or name its store with --store"},
    };
    char quoted[TEXT_QUOTED_MAX];
    size_t i = 0;

    while (table[i].error && table[i].error != -r)
        i++;
    fprintf(stderr, "huatuo try: %s on %s: %s; %s\n", table[i].what, text_quote(store, quoted),
            strerror(-r), table[i].advice);
    return CLI_FAILED;
}

/* ------------------------------------------------------------------ one kind */

static int compare(void *arg, const struct store_row *row)
{
    struct attempt *a = arg;
    json_auto_t *record = json_loadb(row->json, row->len, 0, NULL);
    const json_t *data = json_object_get(record, "tracer_data");
    const json_t *value = json_object_get(data, a->provoked.field);

    if (!json_is_integer(value) || (uint64_t)json_integer_value(value) != a->provoked.value)
        return 0;
    snprintf(a->id, sizeof(a->id), "%s", row->id);
    a->summary = strdup(string_of(record, "summary"));
    return 1;
}

static int wait_record(const char *store, struct attempt *a, char *error, size_t error_size)
{
    const uint64_t deadline_ns =
        clock_now_ns(CLOCK_MONOTONIC) + MAX(RECORD_NS, a->provoked.within_ns);
    const char *const names[] = {a->event->tracer_name, NULL};
    const struct store_query query = {
        .tracer_names = names,
        .after_seq = a->after_seq,
        .since_ns = a->since_ns,
    };
    _cleanup_(store_reader_closep) struct store_reader *reader = NULL;
    int r;

    /* An agent is ready before its store need be: the disk may be full, or slow. */
    while ((r = store_reader_open(store, error, error_size, &reader)) == -ENOENT &&
           clock_now_ns(CLOCK_MONOTONIC) < deadline_ns)
        usleep(POLL_US);
    while (r == 0) {
        r = store_reader_each(reader, &query, compare, a);
        if (r == 0 && clock_now_ns(CLOCK_MONOTONIC) >= deadline_ns)
            return 0;
        if (r == 0)
            usleep(POLL_US);
        else if (r < 0)
            snprintf(error, error_size, "reading the store failed: %s", strerror(-r));
    }
    return r;
}

static int last_seq(const char *store, uint64_t *ret, char *error, size_t error_size)
{
    _cleanup_(store_reader_closep) struct store_reader *reader = NULL;
    int r = store_reader_open(store, error, error_size, &reader);

    if (r == 0) {
        r = store_reader_last(reader, ret);
        if (r < 0)
            snprintf(error, error_size, "reading the store failed: %s", strerror(-r));
    }
    return r;
}

static const char *plain_errno(int error)
{
    switch (error) {
    case EPERM:
    case EACCES:
        return "the rights for it are missing here (CAP_SYS_ADMIN, CAP_NET_ADMIN)";
    case ETIMEDOUT:
        return "it took too long";
    case EINTR:
        return "the process that was to do it was killed";
    default:
        return strerror(error);
    }
}

/** Looks for the record of what has been provoked. */
static enum outcome find(const char *store, struct attempt *a, const json_t *before,
                         struct text *why)
{
    json_auto_t *after = NULL;
    char error[512] = "";
    int r = wait_record(store, a, error, sizeof(error));

    if (r > 0)
        return RECORDED;
    if (r < 0) {
        text_adds(why, error);
    } else {
        ask_agent(store, &after);
        explain(why, a->event->name, before, after);
    }
    return NOT_RECORDED;
}

static enum outcome attempt(const char *store, struct attempt *a, struct text *why)
{
    const char *name = a->event->name;
    struct provocation provocation;
    enum outcome outcome = NOT_PROVOKED;
    json_auto_t *before = NULL;
    char error[512] = "";
    const char *state;
    int r;

    if (!a->event->provoke) {
        text_adds(why, "there is no harmless way to make it happen");
        return NO_PROVOCATION;
    }
    if (ask_agent(store, &before) < 0) {
        text_adds(why, "the agent no longer answers");
        return NOT_WATCHED;
    }
    state = string_of(kind_of(before, name), "state");
    if (strcmp(state, "watching") != 0 && strcmp(state, "partly") != 0) {
        const char *reason = string_of(kind_of(before, name), "reason");

        text_addf(why, "its state is %s%s%s", *state ? state : "unknown to the agent",
                  *reason ? ": " : "", reason);
        return NOT_WATCHED;
    }
    r = last_seq(store, &a->after_seq, error, sizeof(error));
    if (r < 0) {
        text_adds(why, error);
        return NOT_RECORDED;
    }
    /* An earlier event may be on its way still, with a number that has been given again since. */
    a->since_ns = clock_now_ns(CLOCK_REALTIME) - CLOCK_SLACK_NS;
    r = provoke_begin(a->event, PROVOKE_NS, &a->provoked, &provocation);
    if (r < 0)
        text_adds(why, plain_errno(-r));
    else
        outcome = find(store, a, before, why);
    provoke_end(&provocation);
    return outcome;
}

static int print_outcome(const struct attempt *a, enum outcome outcome, const char *why, bool json)
{
    _cleanup_(text_done) struct text shown = {};

    if (json) {
        json_auto_t *line =
            json_pack("{s:s, s:s, s:s*, s:s*, s:s*}", "event", a->event->name, "outcome",
                      outcome_names[outcome], "id", *a->id ? a->id : NULL, "summary", a->summary,
                      "reason", outcome == RECORDED ? NULL : why);
        _free_ char *dumped = line ? json_dumps(line, JSON_COMPACT) : NULL;

        if (!dumped)
            return -ENOMEM;
        puts(dumped);
    } else if (outcome == RECORDED) {
        text_add_printable(&shown, a->summary ? a->summary : "", SIZE_MAX);
        printf("%-14s recorded: %s\n%-14s %s\n", a->event->name, a->id, "",
               shown.data ? shown.data : "");
    } else {
        printf("%-14s %s: %s\n", a->event->name, outcome_names[outcome], why);
    }
    return fflush(stdout) == EOF ? -errno : 0;
}

/** False: it was not recorded. */
static bool try_kind(const char *store, const struct event *event, bool json, int *ret_error)
{
    struct attempt a = {.event = event};
    _cleanup_(text_done) struct text why = {}, shown = {};
    enum outcome outcome = attempt(store, &a, &why);

    text_add_printable(&shown, why.data ? why.data : "", SIZE_MAX);
    *ret_error = print_outcome(&a, outcome, shown.data ? shown.data : "", json);
    free(a.summary);
    return outcome == RECORDED;
}

/* ------------------------------------------------------------------ the command */

static bool was_named(const char *const *names, const char *name)
{
    while (*names)
        if (strcmp(*names++, name) == 0)
            return true;
    return false;
}

static int try_all(const char *store, const char *const *names, bool json)
{
    bool fine = true;
    int r = wait_ready(store);

    if (r < 0)
        return say_no_agent(store, r);
    for (size_t i = 0; i < n_events; i++) {
        int error;

        if (*names && !was_named(names, events[i]->name))
            continue;
        /* Of those that nobody named, only what can be provoked counts. */
        if (!try_kind(store, events[i], json, &error) && (*names || events[i]->provoke))
            fine = false;
        if (error < 0) {
            fprintf(stderr, "huatuo try: writing to standard output failed: %s\n",
                    strerror(-error));
            return CLI_FAILED;
        }
    }
    return fine ? CLI_OK : CLI_FAILED;
}

static int run(int argc, char **argv)
{
    _free_ const char **names = calloc((size_t)argc + 1, sizeof(*names));
    const char *store = CLI_DEFAULT_STORE;
    bool json = false;
    const struct argument table[] = {
        {"", .values = names},
        {"--store", .value = &store},
        {"--json", .flag = &json},
        {},
    };
    int status;

    if (!names)
        return CLI_FAILED;
    status = arguments_parse(&cli_try, table, argc, argv);
    if (status != CLI_OK)
        return status;
    for (const char **name = names; *name; name++)
        if (!event_find(*name))
            return cli_usage_event(&cli_try, "try", *name);
    if (geteuid() != 0) {
        fprintf(stderr, "huatuo try: only root can make the kernel do these things; run it as "
                        "root\n");
        return CLI_FAILED;
    }
    return try_all(store, names, json);
}

const struct cli_command cli_try = {
    .name = "try",
    .arguments = "[KIND]... [--store DIR] [--json]",
    .summary = "Make harmless real events happen, and see whether the running agent records them.",
    .help =
        "  KIND            a kind of event, such as dropwatch (default: all that can be made to\n"
        "                  happen)\n"
        "  --store DIR     the agent's store (default: " CLI_DEFAULT_STORE ")\n"
        "  --json          an object a line, one for each kind\n"
        "\n"
        "Each happens in a process of its own, which sees to it that nobody else is hurt. Needs\n"
        "root. Exit status 0: each one was recorded.\n",
    .run = run,
};
