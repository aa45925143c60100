// SPDX-License-Identifier: Apache-2.0

/**
 * Messages to people: a webhook of a chat, or of anything that takes JSON. A message sums up all
 * that happened since the one before. New things are told at once, what repeats one that was told
 * waits for a while, and neither faster than people can read.
 * Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
 * Teams (Workflows): https://learn.microsoft.com/connectors/teams/#microsoft-teams-webhook
 */

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/event.h"
#include "targets/target.h"

#define THINGS_MAX    256 /* that can be told apart at the same time */
#define LINES_MAX     10  /* of a message: things that are told one by one */
#define SUMMARY_BYTES 500
#define KINDS_MAX     64
#define ID_DIGITS_MIN 12 /* of a hexadecimal id in a summary */

enum template { GENERIC, SLACK, TEAMS };

struct webhook_options {
    struct http_options http;
    uint64_t template;     /* enum template */
    uint64_t repeat_after; /* ns */
    uint64_t min_gap;      /* ns */
    uint64_t max_age;      /* ns */
};

extern const struct target target_webhook;

static const char *const templates[] = {
    [GENERIC] = "generic",
    [SLACK] = "slack",
    [TEAMS] = "teams",
    NULL,
};

static const struct option option_table[] = {
    {
        HTTP_OPTION(struct webhook_options, url, OPTION_LIST, ""),
        .check = http_check_host,
        .check_list = http_check_hosts,
        .help = "Where the server is, as `https://host:port`, without a path; empty: nobody is "
                "told. With several, the next is asked when one does not answer.",
    },
    {
        HTTP_OPTION(struct webhook_options, path_file, OPTION_STRING, ""),
        .help = "File with what follows the host, as `/services/T0/B0/XYZ`; read at the start by "
                "root. Or HUATUO_WEBHOOK_PATH in the environment.",
    },
    {
        .key = "template",
        .type = OPTION_ENUM,
        .offset = offsetof(struct webhook_options, template),
        .fallback = "generic",
        .words = templates,
        .help = "`generic`: a text and its events; `slack`: an incoming webhook of Slack; "
                "`teams`: a workflow of Microsoft Teams.",
    },
    {
        .key = "repeat_after",
        .type = OPTION_DURATION,
        .offset = offsetof(struct webhook_options, repeat_after),
        .fallback = "1h",
        .max = UINT64_C(365) * 24 * 3600 * NS_PER_SEC,
        .help = "How long what repeats something that was told is no reason for a message: it is "
                "counted, and told with the next one.",
    },
    {
        .key = "min_gap",
        .type = OPTION_DURATION,
        .offset = offsetof(struct webhook_options, min_gap),
        .fallback = "30s",
        .max = UINT64_C(24) * 3600 * NS_PER_SEC,
        .help = "How long it is quiet after a message. What happens meanwhile is in the next one.",
    },
    {
        .key = "max_age",
        .type = OPTION_DURATION,
        .offset = offsetof(struct webhook_options, max_age),
        .fallback = "1h",
        .min = NS_PER_SEC,
        .max = UINT64_C(365) * 24 * 3600 * NS_PER_SEC,
        .help = "What happened longer ago, as when the server was down, is told as a sum only.",
    },
    {
        HTTP_OPTION(struct webhook_options, flush_interval, OPTION_DURATION, "1s"),
        .min = NS_PER_MS,
        .max = 3600 * NS_PER_SEC,
        .help = "How long an event waits for others to go with it in one message.",
    },
    HTTP_SERVER_OPTIONS(struct webhook_options),
    {},
};

/** Events since the last message that are taken for the same, and that they were told. */
struct thing {
    uint64_t key;     /* 0: it is free */
    uint64_t told_ns; /* CLOCK_MONOTONIC; 0: never */
    uint64_t count;   /* 0: nothing is to be told; then what follows is of no meaning */
    uint64_t first_ns, last_ns;
    bool line; /* it has one in the message that was composed last */
    size_t kind;
    char id[32], hostname[256], region[64]; /* of the first one */
    char summary[SUMMARY_BYTES + 1];
};

/** Events that are told as a number. */
struct others {
    uint64_t counts[KINDS_MAX], total;
    uint64_t first_ns, last_ns;
    char hostname[256];
};

struct webhook {
    struct thing things[THINGS_MAX];
    struct others others; /* for which there was no room in `things` */
    uint64_t sent_ns;     /* CLOCK_MONOTONIC, of the last message; 0: there was none */
};

/* ---- what is the same */

static uint64_t hash(uint64_t h, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
    return (h ^ 0xff) * UINT64_C(0x100000001b3); /* no byte of UTF-8: the end of a part */
}

static bool is_of_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '.' || c == ':' || c == '-';
}

/** A number, an address, an id: what differs between two events that say the same to people. Not
 * `eth0`, nor `web-1`. */
static bool is_value(const char *word, size_t len)
{
    size_t colons = 0, digits = 0, first = 0;

    while (first < len && ispunct((unsigned char)word[first]))
        first++;
    for (size_t i = 0; i < len; i++) {
        colons += word[i] == ':';
        digits += isxdigit((unsigned char)word[i]) != 0;
    }
    return isdigit((unsigned char)word[MIN(first, len - 1)]) || colons >= 2 ||
           (digits == len && len >= ID_DIGITS_MIN);
}

static uint64_t hash_summary(uint64_t h, const char *summary)
{
    while (*summary) {
        size_t len = 0;

        while (is_of_word(summary[len]))
            len++;
        if (len && is_value(summary, len))
            h = hash(h, "", 0);
        else
            h = hash(h, summary, MAX(len, (size_t)1));
        summary += MAX(len, (size_t)1);
    }
    return h;
}

static const char *string_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static uint64_t key_of(const json_t *json, size_t kind, const char *summary)
{
    const char *hostname = string_of(json, "hostname"),
               *container = string_of(json, "container_id");
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    h = hash(h, events[kind]->name, strlen(events[kind]->name));
    h = hash(h, hostname, strlen(hostname));
    h = hash(h, container, strlen(container));
    h = hash_summary(h, summary);
    return h ? h : 1;
}

/* ---- what happened */

static void add_others(struct others *o, const char *hostname, size_t kind, uint64_t count,
                       uint64_t first_ns, uint64_t last_ns)
{
    o->first_ns = o->total ? MIN(o->first_ns, first_ns) : first_ns;
    o->last_ns = MAX(o->last_ns, last_ns);
    o->total += count;
    o->counts[MIN(kind, (size_t)KINDS_MAX - 1)] += count;
    snprintf(o->hostname, sizeof(o->hostname), "%s", hostname);
}

/** That of this key; else what is free, or was told longest ago. NULL: all have to be told yet. */
static struct thing *thing_for(struct webhook *w, uint64_t key)
{
    struct thing *best = NULL;

    for (size_t i = 0; i < THINGS_MAX; i++) {
        struct thing *thing = &w->things[i];

        if (thing->key == key)
            return thing;
        if (thing->count == 0 && (!best || thing->told_ns < best->told_ns))
            best = thing;
    }
    if (best)
        *best = (struct thing){.key = key};
    return best;
}

static size_t kind_of(const struct event *event)
{
    size_t kind = 0;

    while (events[kind] != event)
        kind++;
    return kind;
}

/** How many events it stands for; `summary` becomes that of the first of them. */
static uint64_t count_of(const json_t *json, const char **summary)
{
    const json_t *data = json_object_get(json, "tracer_data");
    const json_t *repeat = json_object_get(data, "repeat");
    json_int_t count = json_integer_value(json_object_get(repeat, "count"));
    const char *of;

    if (json_is_true(json_object_get(data, "start")))
        return 0; /* what there was when the watching began */
    if (!repeat)
        return 1;
    of = strstr(*summary, ": "); /* "5 more of the same until ...: ..." */
    *summary = of ? of + 2 : *summary;
    return count > 0 ? (uint64_t)count : 0;
}

static void look(void *memory, const struct target_record *record)
{
    const struct event *event = event_of_tracer(record->tracer_name);
    json_t *json = event ? json_loadb(record->json, record->len, 0, NULL) : NULL;
    const char *summary = json ? string_of(json, "summary") : "its record is damaged";
    uint64_t count = event ? count_of(json, &summary) : 0;
    struct webhook *w = memory;
    struct thing *thing;
    size_t kind;

    if (count == 0) {
        json_decref(json);
        return;
    }
    kind = kind_of(event);
    thing = thing_for(w, key_of(json, kind, summary));
    if (!thing) {
        add_others(&w->others, string_of(json, "hostname"), kind, count, record->realtime_ns,
                   record->realtime_ns);
    } else {
        if (thing->count == 0) {
            thing->first_ns = thing->last_ns = record->realtime_ns;
            thing->kind = kind;
            snprintf(thing->id, sizeof(thing->id), "%s", record->id);
            snprintf(thing->hostname, sizeof(thing->hostname), "%s", string_of(json, "hostname"));
            snprintf(thing->region, sizeof(thing->region), "%s", string_of(json, "region"));
            snprintf(thing->summary, sizeof(thing->summary), "%s", summary);
        }
        thing->count += count;
        thing->last_ns = MAX(thing->last_ns, record->realtime_ns);
    }
    json_decref(json);
}

static uint64_t due_ns(const void *options, const void *memory)
{
    const struct webhook_options *o = options;
    const struct webhook *w = memory;
    uint64_t due = w->others.total ? 0 : UINT64_MAX;

    for (size_t i = 0; i < THINGS_MAX; i++) {
        const struct thing *thing = &w->things[i];

        if (thing->count)
            due = MIN(due, thing->told_ns ? thing->told_ns + o->repeat_after : 0);
    }
    return due != UINT64_MAX && w->sent_ns ? MAX(due, w->sent_ns + o->min_gap) : due;
}

static void sent(void *memory, uint64_t monotonic_ns)
{
    struct webhook *w = memory;

    for (size_t i = 0; i < THINGS_MAX; i++) {
        struct thing *thing = &w->things[i];

        if (thing->count && thing->line)
            thing->told_ns = monotonic_ns;
        else if (!thing->told_ns)
            thing->key = 0; /* it was only counted: when it happens again it is news */
        thing->count = 0;
        thing->line = false;
    }
    w->others = (struct others){};
    w->sent_ns = monotonic_ns;
}

/* ---- the message */

struct message {
    const struct thing *lines[LINES_MAX];
    size_t n;
    struct others others;
};

/** A repeat is not old because it had to wait. */
static bool is_old(const struct webhook_options *o, const struct thing *thing, uint64_t realtime_ns)
{
    return thing->last_ns + o->max_age + (thing->told_ns ? o->repeat_after : 0) < realtime_ns;
}

/** What is new comes first; then in the order of time. */
static bool is_before(const struct thing *a, const struct thing *b)
{
    return !a->told_ns != !b->told_ns ? !a->told_ns : a->first_ns < b->first_ns;
}

/** What gets the next line; NULL: all that should have one has it. */
static struct thing *next_line(const struct webhook_options *o, struct webhook *w,
                               uint64_t realtime_ns)
{
    struct thing *first = NULL;

    for (size_t i = 0; i < THINGS_MAX; i++) {
        struct thing *thing = &w->things[i];

        if (thing->count && !thing->line && !is_old(o, thing, realtime_ns) &&
            (!first || is_before(thing, first)))
            first = thing;
    }
    return first;
}

static void gather(const struct webhook_options *o, struct webhook *w, uint64_t realtime_ns,
                   struct message *ret)
{
    struct thing *thing;

    *ret = (struct message){.others = w->others};
    for (size_t i = 0; i < THINGS_MAX; i++)
        w->things[i].line = false; /* there may have been a try before */
    while (ret->n < LINES_MAX && (thing = next_line(o, w, realtime_ns))) {
        thing->line = true;
        ret->lines[ret->n++] = thing;
    }
    for (size_t i = 0; i < THINGS_MAX; i++) {
        thing = &w->things[i];
        if (thing->count && !thing->line)
            add_others(&ret->others, thing->hostname, thing->kind, thing->count, thing->first_ns,
                       thing->last_ns);
    }
}

static void add_line(struct text *out, const struct thing *thing)
{
    char first[CLOCK_TEXT_MAX], last[CLOCK_TEXT_MAX];

    clock_format_s(thing->first_ns, first);
    clock_format_s(thing->last_ns, last);
    text_add_printable(out, thing->hostname, SIZE_MAX);
    text_adds(out, *thing->region ? ", " : "");
    text_add_printable(out, thing->region, SIZE_MAX);
    text_addf(out, ": %s %s: ", first, events[thing->kind]->name);
    text_add_printable(out, thing->summary, SIZE_MAX);
    if (thing->count > 1)
        text_addf(out, " (%llu times until %s)", (unsigned long long)thing->count, last);
}

static void add_others_line(struct text *out, const struct message *m)
{
    char first[CLOCK_TEXT_MAX], last[CLOCK_TEXT_MAX];
    const char *between = " ";

    clock_format_s(m->others.first_ns, first);
    clock_format_s(m->others.last_ns, last);
    text_add_printable(out, m->others.hostname, SIZE_MAX);
    text_adds(out, m->n ? ": and" : ": not told one by one:");
    for (size_t i = 0; i < MIN(n_events, (size_t)KINDS_MAX); i++) {
        if (!m->others.counts[i])
            continue;
        text_addf(out, "%s%llu %s", between, (unsigned long long)m->others.counts[i],
                  events[i]->name);
        between = ", ";
    }
    text_addf(out, ", from %s to %s; on that host: huatuo list --since \"%s\"", first, last, first);
}

/** The lines one by one; the text of each is for the callee to read. */
static void each_line(const struct message *m, struct text *out,
                      void (*add)(struct text *out, const struct text *line, bool first))
{
    for (size_t i = 0; i < m->n + (m->others.total != 0); i++) {
        _cleanup_(text_done) struct text line = {};

        if (i < m->n)
            add_line(&line, m->lines[i]);
        else
            add_others_line(&line, m);
        out->failed |= line.failed;
        if (!line.failed)
            add(out, &line, i == 0);
    }
}

static void add_plain(struct text *out, const struct text *line, bool first)
{
    text_adds(out, first ? "" : "\\n");
    text_add_json(out, line->data, line->len);
}

static void add_pair(struct text *out, const char *key, const char *value)
{
    text_addf(out, "\"%s\":\"", key);
    text_add_json(out, value, SIZE_MAX);
    text_adds(out, "\",");
}

static void add_event(struct text *out, const struct thing *thing)
{
    char first[CLOCK_TEXT_MAX], last[CLOCK_TEXT_MAX];

    clock_format_rfc3339(thing->first_ns, first);
    clock_format_rfc3339(thing->last_ns, last);
    text_adds(out, "{");
    add_pair(out, "kind", events[thing->kind]->name);
    add_pair(out, "hostname", thing->hostname);
    add_pair(out, "region", thing->region);
    add_pair(out, "summary", thing->summary);
    add_pair(out, "tracer_id", thing->id);
    add_pair(out, "first_time", first);
    add_pair(out, "last_time", last);
    text_addf(out, "\"count\":%llu}", (unsigned long long)thing->count);
}

static void compose_generic(const struct message *m, struct text *body)
{
    const char *between = "";

    text_adds(body, "{\"text\":\"");
    each_line(m, body, add_plain);
    text_adds(body, "\",\"events\":[");
    for (size_t i = 0; i < m->n; i++) {
        text_adds(body, i ? "," : "");
        add_event(body, m->lines[i]);
    }
    text_adds(body, "],\"others\":{");
    for (size_t i = 0; i < MIN(n_events, (size_t)KINDS_MAX); i++) {
        if (!m->others.counts[i])
            continue;
        text_addf(body, "%s\"%s\":%llu", between, events[i]->name,
                  (unsigned long long)m->others.counts[i]);
        between = ",";
    }
    text_adds(body, "}}");
}

/** No calls for attention and no links: a name may hold `<!channel>`.
 * https://docs.slack.dev/messaging/formatting-message-text */
static void add_escaped(struct text *out, const struct text *line, bool first)
{
    _cleanup_(text_done) struct text escaped = {};

    for (size_t i = 0; i < line->len; i++) {
        const char c = line->data[i];

        if (c == '&' || c == '<' || c == '>')
            text_adds(&escaped, c == '&' ? "&amp;" : c == '<' ? "&lt;" : "&gt;");
        else
            text_add(&escaped, &c, 1);
    }
    out->failed |= escaped.failed;
    if (!escaped.failed)
        add_plain(out, &escaped, first);
}

static void compose_slack(const struct message *m, struct text *body)
{
    text_adds(body, "{\"mrkdwn\":false,\"text\":\"");
    each_line(m, body, add_escaped);
    text_adds(body, "\"}");
}

/** Unlike a TextBlock it has no markup. https://adaptivecards.io/explorer/RichTextBlock.html */
static void add_block(struct text *out, const struct text *line, bool first)
{
    text_adds(out, first ? "" : ",");
    text_adds(out, "{\"type\":\"RichTextBlock\",\"inlines\":[{\"type\":\"TextRun\",\"text\":\"");
    text_add_json(out, line->data, line->len);
    text_adds(out, "\"}]}");
}

/** An adaptive card. */
static void compose_teams(const struct message *m, struct text *body)
{
    text_adds(body, "{\"type\":\"message\",\"attachments\":[{\"contentType\":"
                    "\"application/vnd.microsoft.card.adaptive\",\"contentUrl\":null,\"content\":{"
                    "\"$schema\":\"http://adaptivecards.io/schemas/adaptive-card.json\","
                    "\"type\":\"AdaptiveCard\",\"version\":\"1.4\",\"body\":[");
    each_line(m, body, add_block);
    text_adds(body, "]}}]}");
}

static void compose(const void *options, void *memory, uint64_t realtime_ns, struct text *body)
{
    static void (*const composers[])(const struct message *m, struct text *body) = {
        [GENERIC] = compose_generic,
        [SLACK] = compose_slack,
        [TEAMS] = compose_teams,
    };
    const struct webhook_options *o = options;
    struct message message;

    gather(o, memory, realtime_ns, &message);
    composers[o->template](&message, body);
}

/* ---- what the server says */

/** They say "ok", nothing, or something in JSON; a page is for people, from a proxy say. */
static int read_answer(const void *options, const char *answer, size_t len,
                       struct target_answer *ret, size_t n)
{
    (void)options;
    (void)ret;
    (void)n;
    while (len && isspace((unsigned char)*answer)) {
        answer++;
        len--;
    }
    return len && *answer == '<' ? -EBADMSG : 0;
}

/**
 * Words, as `invalid_payload`, or of JSON its `message`. Not what has a slash in it, such as
 * "Cannot POST /services/T0/B0/XYZ": that path is a secret.
 */
static void explain(const char *answer, size_t len, char *ret, size_t size)
{
    json_t *json = json_loadb(answer, len, 0, NULL);
    const json_t *error = json_object_get(json, "error");

    if (json)
        snprintf(ret, size, "%.200s", string_of(json_is_object(error) ? error : json, "message"));
    else
        snprintf(ret, size, "%.*s", (int)MIN(len, (size_t)200), answer);
    if (strpbrk(ret, "/%<"))
        *ret = '\0';
    json_decref(json);
}

static const struct target_composer composer = {
    .size = sizeof(struct webhook),
    .look = look,
    .due_ns = due_ns,
    .compose = compose,
    .sent = sent,
};

const struct target target_webhook = {
    .name = "webhook",
    .summary = "People are told of events: a message to a chat, or to anything that takes JSON.",
    .options = option_table,
    .options_size = sizeof(struct webhook_options),
    .content_type = "application/json",
    .composer = &composer,
    .read = read_answer,
    .explain = explain,
};
