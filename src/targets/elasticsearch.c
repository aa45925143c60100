// SPDX-License-Identifier: Apache-2.0
#include "targets/elasticsearch.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/event.h"
#include "targets/elasticsearch_setup.h"

#define DATE_LEN   10 /* 2025-06-11 */
#define PREFIX_MAX 200
#define WORDS_MAX  600 /* of a server's reason */

/* ---- options */

/** https://www.elastic.co/guide/en/elasticsearch/reference/8.17/indices-create-index.html */
static const char *check_index(const char *text)
{
    if (!*text || strlen(text) > PREFIX_MAX || strchr("-_+.", *text) ||
        strpbrk(text, "\\/*?\"<>| ,#:"))
        return "not the beginning of an index's name; write small letters and digits, as huatuo";
    for (; *text; text++)
        if (isupper((unsigned char)*text))
            return "an index's name has no capital letters";
    return NULL;
}

static const char *const modes[] = {
    [ELASTICSEARCH_DAILY] = "daily",
    [ELASTICSEARCH_DATASTREAM] = "datastream",
    NULL,
};

static const struct option option_table[] = {
    HTTP_OPTIONS(struct elasticsearch_options),
    {
        .key = "index",
        .type = OPTION_STRING,
        .offset = offsetof(struct elasticsearch_options, index),
        .fallback = "huatuo",
        .check = check_index,
        .help = "What names of indices begin with: INDEX_2025-06-11 and INDEX_cases_2025-06-11.",
    },
    {
        .key = "mode",
        .type = OPTION_ENUM,
        .offset = offsetof(struct elasticsearch_options, mode),
        .fallback = "daily",
        .words = modes,
        .help = "`daily`: an index for each day; `datastream`: the data streams INDEX and "
                "INDEX_cases.",
    },
    {
        .key = "retain",
        .type = OPTION_DURATION,
        .offset = offsetof(struct elasticsearch_options, retain),
        .fallback = "30d",
        .min = 3600 * NS_PER_SEC,
        .max = UINT64_C(36500) * 24 * 3600 * NS_PER_SEC,
        .help =
            "How long the server keeps an index, if `huatuo elasticsearch setup` has told it so.",
    },
    {},
};

/* ---- a record as a document */

static bool is_date(const char *text)
{
    static const char form[] = "dddd-dd-dd";

    for (size_t i = 0; i < DATE_LEN; i++)
        if (form[i] == 'd' ? !isdigit((unsigned char)text[i]) : text[i] != '-')
            return false;
    return true;
}

/** The record's own day, as it stands in it: a quote inside of a value would be escaped. */
static void date_of(const struct target_record *record, char ret[DATE_LEN + 1])
{
    static const char key[] = "\"time\":\"";
    const char *time = memmem(record->json, record->len, key, strlen(key));
    char text[CLOCK_TEXT_MAX];

    if (time)
        time += strlen(key);
    if (!time || record->json + record->len - time < DATE_LEN || !is_date(time)) {
        clock_format_s(record->realtime_ns, text);
        time = text;
    }
    memcpy(ret, time, DATE_LEN);
    ret[DATE_LEN] = '\0';
}

static void add(const void *options, const struct target_record *record, uint64_t sent_ns,
                struct text *body)
{
    const struct elasticsearch_options *o = options;
    const struct event *event = event_of_tracer(record->tracer_name);
    const char *cases = event && event->is_case ? "_cases" : "";
    char date[DATE_LEN + 1], timestamp[CLOCK_TEXT_MAX];

    text_addf(body, "{\"create\":{\"_index\":\"%s%s", o->index, cases);
    if (o->mode == ELASTICSEARCH_DAILY) {
        date_of(record, date);
        text_addf(body, "_%s", date);
    }
    text_addf(body, "\",\"_id\":\"%s\"}}\n", record->id);
    text_add(body, record->json, record->len - 1);
    text_addf(body, ",\"es_index_time\":%llu", (unsigned long long)(sent_ns / NS_PER_MS));
    if (o->mode == ELASTICSEARCH_DATASTREAM) {
        clock_format_rfc3339(record->realtime_ns, timestamp);
        text_addf(body, ",\"@timestamp\":\"%s\"", timestamp);
    }
    text_adds(body, "}\n");
}

/** Of a thousand items only what is looked at; where it is not understood, all comes. */
static void path(const void *options, struct text *out)
{
    (void)options;
    text_adds(out, "/_bulk?filter_path=errors,items.*.status,items.*.error.type,"
                   "items.*.error.reason,items.*.error.caused_by.reason");
}

/* ---- what the server says */

static const char *string_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static void describe(long long status, const json_t *error, struct text *out)
{
    const char *type = string_of(error, "type"), *reason = string_of(error, "reason");
    const char *cause = string_of(json_object_get(error, "caused_by"), "reason");

    if (json_is_string(error))
        reason = json_string_value(error);
    text_addf(out, "%lld", status);
    if (*type)
        text_addf(out, " %.100s", type);
    if (*reason)
        text_addf(out, ": %.*s", WORDS_MAX, reason);
    if (*cause)
        text_addf(out, " (%.*s)", WORDS_MAX / 2, cause);
}

/**
 * Whether it lies with the record, so that it would be refused for ever. Of an index that is
 * closed, full or not allowed, of a name or an alias that is wrong, an operator can do something,
 * and then the record is taken.
 */
static bool is_records_fault(long long status, const json_t *error)
{
    static const char *const of_the_index[] = {
        "index_closed_exception",
        "cluster_block_exception",
        "invalid_index_name_exception",
        "index_not_found_exception",
        "validation_exception", /* no room for more shards */
        "security_exception",
        "invalid_alias_name_exception",
        "invalid_index_template_exception",
    };
    const char *type = string_of(error, "type"), *reason = string_of(error, "reason");

    if (status == 413)
        return true;
    if (status != 400)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(of_the_index); i++)
        if (strcmp(type, of_the_index[i]) == 0)
            return false;
    return strncmp(reason, "no write index", 14) != 0 && !strstr(reason, "maximum shards open") &&
           !strstr(reason, "data stream");
}

static int read_item(const json_t *item, struct target_answer *ret)
{
    /* {"create": {"status": …, "error": {…}}} */
    const json_t *result = json_object_get(item, "create");
    const json_t *error = json_object_get(result, "error");
    long long status = json_integer_value(json_object_get(result, "status"));
    struct text reason = {};

    if (status < 100 || status > 999)
        return -EBADMSG;
    /* 409: a try before this one was not answered, but it had arrived. */
    if ((status >= 200 && status < 300) || status == 409) {
        ret->verdict = TARGET_STORED;
        return 0;
    }
    ret->verdict = is_records_fault(status, error) ? TARGET_REFUSED : TARGET_AGAIN;
    describe(status, error, &reason);
    ret->reason = reason.data;
    return 0;
}

static int read_answer(const void *options, const char *answer, size_t len,
                       struct target_answer *ret, size_t n)
{
    json_t *json = len ? json_loadb(answer, len, 0, NULL) : NULL, *item;
    const json_t *items = json_object_get(json, "items");
    int r = json_array_size(items) == n ? 0 : -EBADMSG;
    size_t i;

    (void)options;
    json_array_foreach(items, i, item)
    {
        if (r == 0)
            r = read_item(item, &ret[i]);
    }
    json_decref(json);
    return r;
}

static void explain(const char *answer, size_t len, char *ret, size_t size)
{
    json_t *json = len ? json_loadb(answer, len, 0, NULL) : NULL;
    const json_t *error = json_object_get(json, "error");
    const char *reason =
        json_is_string(error) ? json_string_value(error) : string_of(error, "reason");

    snprintf(ret, size, "%.200s", reason);
    json_decref(json);
}

static void check(const void *options, struct http *h, char *ret, size_t size)
{
    char path_of_it[256 + 64];
    struct http_answer answer;

    elasticsearch_template_path(options, path_of_it, sizeof(path_of_it));
    /* Who may write need not be allowed to look: then nothing is known. */
    if (http_do(h, &(struct http_request){.method = "GET", .path = path_of_it}, &answer) == 0)
        elasticsearch_check_template(options, answer.status,
                                     answer.body.len ? answer.body.data : "", answer.body.len, ret,
                                     size);
    http_answer_done(&answer);
}

const struct target target_elasticsearch = {
    .name = "elasticsearch",
    .summary = "Records are uploaded to Elasticsearch or OpenSearch.",
    .options = option_table,
    .options_size = sizeof(struct elasticsearch_options),
    .content_type = "application/x-ndjson",
    .path = path,
    .add = add,
    .read = read_answer,
    .explain = explain,
    .check = check,
};
