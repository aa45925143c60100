// SPDX-License-Identifier: Apache-2.0

/**
 * OTLP/HTTP, logs, as JSON: an OpenTelemetry collector, or whoever else understands it.
 * https://opentelemetry.io/docs/specs/otlp/#otlphttp; the messages are those of
 * opentelemetry-proto, opentelemetry/proto/collector/logs/v1/logs_service.proto and what that
 * includes.
 */

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/event.h"
#include "targets/target.h"

#define NAME_MAX_LEN  512 /* of an attribute */
#define DEPTH_MAX     16  /* no record nests as deep */

/* opentelemetry/proto/logs/v1/logs.proto, SeverityNumber */
#define SEVERITY_INFO 9
#define SEVERITY_WARN 13

struct otlp_options {
    struct http_options http;
};

extern const struct target target_otlp;

static const struct option option_table[] = {HTTP_OPTIONS(struct otlp_options), {}};

static void path(const void *options, struct text *out)
{
    (void)options;
    text_adds(out, "/v1/logs");
}

/* ---- a record as a LogRecord */

static void add_string(struct text *out, const char *text)
{
    text_adds(out, "{\"stringValue\":\"");
    text_add_json(out, text, strlen(text));
    text_adds(out, "\"}");
}

static void begin_pair(struct text *out, bool first, const char *key)
{
    text_adds(out, first ? "{\"key\":\"" : ",{\"key\":\"");
    text_add_json(out, key, strlen(key));
    text_adds(out, "\",\"value\":");
}

static void add_value(struct text *out, const json_t *value, unsigned depth);

static void add_list(struct text *out, const json_t *array, unsigned depth)
{
    const json_t *value;
    size_t i;

    text_adds(out, "{\"arrayValue\":{\"values\":[");
    json_array_foreach(array, i, value)
    {
        if (i)
            text_adds(out, ",");
        add_value(out, value, depth);
    }
    text_adds(out, "]}}");
}

static void add_object(struct text *out, const json_t *object, unsigned depth)
{
    bool first = true;
    const char *key;
    json_t *value;

    text_adds(out, "{\"kvlistValue\":{\"values\":[");
    json_object_foreach((json_t *)object, key, value)
    {
        begin_pair(out, first, key);
        add_value(out, value, depth);
        text_adds(out, "}");
        first = false;
    }
    text_adds(out, "]}}");
}

/** An AnyValue, never deeper than DEPTH_MAX. Numbers of 64 bits are strings in the JSON of
 * protobuf.
 */
static void add_value(struct text *out, const json_t *value, unsigned depth)
{
    if (depth >= DEPTH_MAX)
        add_string(out, "...");
    else if (json_is_string(value))
        add_string(out, json_string_value(value));
    else if (json_is_integer(value))
        text_addf(out, "{\"intValue\":\"%lld\"}", (long long)json_integer_value(value));
    else if (json_is_real(value))
        text_addf(out, "{\"doubleValue\":%.17g}", json_real_value(value));
    else if (json_is_boolean(value))
        text_addf(out, "{\"boolValue\":%s}", json_is_true(value) ? "true" : "false");
    else if (json_is_array(value))
        add_list(out, value, depth + 1);
    else if (json_is_object(value))
        add_object(out, value, depth + 1);
    else
        text_adds(out, "{}"); /* null: an AnyValue without a value */
}

/** What has a place of its own in a LogRecord or its resource. */
static bool is_elsewhere(const char *key)
{
    static const char *const keys[] = {"hostname", "region",      "summary",
                                       "time",     "tracer_time", "uploaded_time"};

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

/** Members of objects become attributes of their own, named as `tracer_data.saddr`. */
static void add_attributes(struct text *out, const char *prefix, const json_t *object,
                           unsigned depth)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)object, key, value)
    {
        char name[NAME_MAX_LEN];

        if (depth == 0 && is_elsewhere(key))
            continue;
        snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key);
        if (!*name)
            continue; /* an attribute has to have one */
        if (json_object_size(value) && depth < DEPTH_MAX) {
            add_attributes(out, name, value, depth + 1);
            continue;
        }
        begin_pair(out, false, name);
        add_value(out, value, depth);
        text_adds(out, "}");
    }
}

static const char *string_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static void add_resource(struct text *out, const json_t *json)
{
    const char *hostname = string_of(json, "hostname"), *region = string_of(json, "region");

    text_adds(out, "{\"resource\":{\"attributes\":[");
    begin_pair(out, true, "service.name");
    text_adds(out, "{\"stringValue\":\"huatuo\"}}");
    if (*hostname) {
        begin_pair(out, false, "host.name");
        add_string(out, hostname);
        text_adds(out, "}");
    }
    if (*region) {
        begin_pair(out, false, "region");
        add_string(out, region);
        text_adds(out, "}");
    }
    text_adds(out, "]}");
}

static uint64_t observed_ns(const json_t *json, const struct target_record *record)
{
    uint64_t ns;

    return clock_parse(string_of(json, "uploaded_time"), record->realtime_ns, &ns) == 0
               ? ns
               : record->realtime_ns;
}

/** What tells of the agent itself is nothing to worry about. */
static void add_severity(struct text *out, const struct target_record *record)
{
    bool event = event_of_tracer(record->tracer_name) != NULL;

    text_addf(out, "\"severityNumber\":%d,\"severityText\":\"%s\",\"eventName\":\"huatuo.",
              event ? SEVERITY_WARN : SEVERITY_INFO, event ? "WARN" : "INFO");
    text_add_json(out, record->tracer_name, strlen(record->tracer_name));
    text_adds(out, "\",");
}

/**
 * A ResourceLogs of its own, as a store may hold records of several hosts (`huatuo import`), and
 * after a host was renamed; compressed, that it says the same each time is next to nothing.
 */
static void add(const void *options, const struct target_record *record, uint64_t sent_ns,
                struct text *body)
{
    json_t *json = json_loadb(record->json, record->len, 0, NULL);

    (void)options;
    (void)sent_ns;
    add_resource(body, json);
    text_addf(body,
              ",\"scopeLogs\":[{\"scope\":{\"name\":\"huatuo\",\"version\":\"" HUATUO_VERSION
              "\"},\"logRecords\":[{\"timeUnixNano\":\"%llu\",\"observedTimeUnixNano\":\"%llu\",",
              (unsigned long long)record->realtime_ns,
              (unsigned long long)observed_ns(json, record));
    add_severity(body, record);
    text_adds(body, "\"body\":{\"stringValue\":\"");
    if (json)
        text_add_json(body, string_of(json, "summary"), SIZE_MAX);
    else /* damaged, or beyond jansson: as it is */
        text_add_json(body, record->json, record->len);
    /* By this one that comes twice is known:
     * https://opentelemetry.io/docs/specs/semconv/registry/attributes/log/ */
    text_adds(body, "\"},\"attributes\":[");
    begin_pair(body, true, "log.record.uid");
    add_string(body, record->id);
    text_adds(body, "}");
    add_attributes(body, "", json, 0);
    text_adds(body, "]}]}]}");
    json_decref(json);
}

/* ---- what the server says */

/** An int64, which is a string in the JSON of protobuf; a number is taken, too. */
static int read_count(const json_t *value, long long *ret)
{
    const char *text = json_string_value(value);
    char *end;

    *ret = json_integer_value(value);
    if (!value || json_is_integer(value))
        return 0;
    if (!text || !*text)
        return -EBADMSG;
    *ret = strtoll(text, &end, 10);
    return *end ? -EBADMSG : 0;
}

static char *refusal(long long rejected, size_t n, const char *message)
{
    struct text reason = {};

    if ((unsigned long long)rejected < n)
        text_addf(&reason, "%lld of the %zu records of a request were refused, and not said which",
                  rejected, n);
    else
        text_adds(&reason, "refused");
    if (*message)
        text_addf(&reason, ": %.600s", message);
    return reason.data;
}

/**
 * Empty, or an ExportLogsServiceResponse. Of records that were refused only the number is said, and
 * none of the request may be sent again. That each is counted as refused claims least.
 */
static int read_answer(const void *options, const char *answer, size_t len,
                       struct target_answer *ret, size_t n)
{
    json_t *json = len ? json_loadb(answer, len, 0, NULL) : json_object();
    const json_t *partial = json_object_get(json, "partialSuccess");
    long long rejected = 0;
    int r = -EBADMSG;

    (void)options;
    /* A server of another sort would say something else. */
    if (json_is_object(json) && (json_object_size(json) == 0 || partial) &&
        (!partial || json_is_null(partial) || json_is_object(partial)))
        r = read_count(json_object_get(partial, "rejectedLogRecords"), &rejected);
    if (r == 0 && (rejected < 0 || (unsigned long long)rejected > n))
        r = -EBADMSG;
    for (size_t i = 0; r == 0 && rejected && i < n; i++) {
        ret[i].verdict = TARGET_REFUSED;
        ret[i].reason = refusal(rejected, n, string_of(partial, "errorMessage"));
    }
    json_decref(json);
    return r;
}

/** A google.rpc.Status. */
static void explain(const char *answer, size_t len, char *ret, size_t size)
{
    json_t *json = len ? json_loadb(answer, len, 0, NULL) : NULL;

    snprintf(ret, size, "%.200s", string_of(json, "message"));
    json_decref(json);
}

const struct target target_otlp = {
    .name = "otlp",
    .summary = "Records are uploaded as logs of OpenTelemetry: OTLP/HTTP, JSON.",
    .options = option_table,
    .options_size = sizeof(struct otlp_options),
    .content_type = "application/json",
    .head = "{\"resourceLogs\":[",
    .separator = ",",
    .tail = "]}",
    .bad_is_final = true,
    .path = path,
    .add = add,
    .read = read_answer,
    .explain = explain,
};
