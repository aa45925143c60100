// SPDX-License-Identifier: Apache-2.0
#include "store/docread.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/event.h"
#include "core/record.h"
#include "store/jsontext.h"

#define SCHEMA          1  /* the latest that we know */
#define STACK_LEN_MIN   64 /* shorter ones are not worth a row of their own */
#define TIME_LEN_DIGITS 16 /* of an id */

/** What was added to a document on its way to a server. */
static const char *const of_servers[] = {"es_index_time", "@timestamp"};

static _printf_(3, 4) int refuse(char *error, size_t error_size, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(error, error_size, format, args);
    va_end(args);
    return -EBADMSG;
}

static const char *find_tracer(const char *name)
{
    for (size_t i = 0; i < n_events; i++)
        if (strcmp(events[i]->tracer_name, name) == 0)
            return events[i]->tracer_name;
    return strcmp(name, COVERAGE_NAME) == 0 ? COVERAGE_NAME : NULL;
}

static bool is_hex(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isdigit((unsigned char)text[i]) && (text[i] < 'a' || text[i] > 'f'))
            return false;
    return true;
}

/** The moment stands in the id, to the nanosecond, and in `time`, to the millisecond. */
static int read_time(const json_t *json, struct doc *doc, char *error, size_t error_size)
{
    const char *id = json_string_value(json_object_get(json, "tracer_id"));
    const char *time = json_string_value(json_object_get(json, "time"));
    char digits[TIME_LEN_DIGITS + 1] = "";
    uint64_t time_ns;

    if (!id || strlen(id) != DOC_ID_LEN || !is_hex(id, DOC_ID_LEN))
        return refuse(error, error_size, "it has no tracer_id of %d hexadecimal digits",
                      DOC_ID_LEN);
    memcpy(doc->id, id, DOC_ID_LEN + 1);
    memcpy(digits, id, TIME_LEN_DIGITS);
    doc->realtime_ns = strtoull(digits, NULL, 16);
    if (!time || clock_parse(time, 0, &time_ns) < 0)
        return refuse(error, error_size, "it has no time");
    if (doc->realtime_ns > INT64_MAX || doc->realtime_ns / NS_PER_MS != time_ns / NS_PER_MS)
        return refuse(error, error_size, "its tracer_id and its time tell different moments");
    return 0;
}

static uint32_t pid_of(const json_t *json)
{
    const json_t *own = json_object_get(json_object_get(json, "tracer_data"), "pid");
    const json_t *process = json_object_get(json_object_get(json, "process"), "pid");
    json_int_t pid = json_integer_value(json_is_integer(own) ? own : process);

    return pid > 0 && pid <= UINT32_MAX ? (uint32_t)pid : 0;
}

static int read_fields(const json_t *json, struct doc *doc, char *error, size_t error_size)
{
    const char *name = json_string_value(json_object_get(json, "tracer_name"));
    const char *container = json_string_value(json_object_get(json, "container_id"));
    json_int_t schema = json_integer_value(json_object_get(json, "schema"));

    if (!json_is_object(json))
        return refuse(error, error_size, "it is no JSON object");
    if (schema > SCHEMA)
        return refuse(error, error_size,
                      "it was written by a later version (schema %lld); read it with that version",
                      (long long)schema);
    if (!name)
        return refuse(error, error_size, "it has no tracer_name");
    doc->tracer_name = find_tracer(name);
    if (!doc->tracer_name)
        return refuse(error, error_size, "its tracer_name %.40s is none that this version knows",
                      name);
    if (!json_is_object(json_object_get(json, "tracer_data")))
        return refuse(error, error_size, "it has no object tracer_data");
    doc->pid = pid_of(json);
    if (container && strlen(container) <= DOC_CONTAINER_LEN && is_hex(container, strlen(container)))
        snprintf(doc->container_id, sizeof(doc->container_id), "%s", container);
    return read_time(json, doc, error, error_size);
}

/** Whether there is nothing between values, and nothing in them that acts on a terminal. */
static bool is_as_written(const char *json, size_t len)
{
    _cleanup_(text_done) struct text shown = {.max = 8 * RECORD_MAX_BYTES};
    bool inside = false, plain = true;

    for (size_t i = 0; i < len; i++) {
        if (inside && json[i] == '\\')
            i++;
        else if (json[i] == '"')
            inside = !inside;
        else if (!inside && isspace((unsigned char)json[i]))
            return false;
        if (i < len && (unsigned char)json[i] >= 0x7f)
            plain = false;
    }
    if (plain)
        return true;
    text_add_printable(&shown, json, len);
    return !shown.failed && shown.len == len;
}

/** Jansson leaves DEL as it is. */
static void add_ascii(struct text *out, const char *json)
{
    for (const char *rest; (rest = strchr(json, 0x7f)); json = rest + 1) {
        text_add(out, json, (size_t)(rest - json));
        text_adds(out, "\\u007f");
    }
    text_adds(out, json);
}

static int take_text(json_t *json, const char *text, size_t len, struct text *out)
{
    char *written = NULL;
    bool changed = false;

    for (size_t i = 0; i < ARRAY_SIZE(of_servers); i++)
        changed |= json_object_del(json, of_servers[i]) == 0;
    out->max = RECORD_MAX_BYTES;
    if (!changed && is_as_written(text, len)) {
        text_add(out, text, len);
    } else {
        written = json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII);
        if (!written)
            return -ENOMEM;
        add_ascii(out, written);
        free(written);
    }
    return out->failed ? -E2BIG : 0;
}

/** Long texts that many records share. */
static void find_stacks(struct doc *doc)
{
    struct jsontext_walk walk = {.json = doc->json, .len = doc->len};
    struct jsontext_token token;
    bool is_stack = false;

    while (doc->n_stacks < DOC_STACKS_MAX && jsontext_next(&walk, &token)) {
        if (token.kind == JSONTEXT_KEY)
            is_stack = memmem(token.text, token.len, "stack", 5) != NULL;
        else if (token.kind == JSONTEXT_STRING && is_stack && token.len >= STACK_LEN_MIN)
            doc->stacks[doc->n_stacks++] =
                (struct doc_span){(uint32_t)(token.text - doc->json), (uint32_t)token.len};
    }
}

int doc_read(const char *json, size_t len, struct doc **ret, char *error, size_t error_size)
{
    _cleanup_(text_done) struct text text = {};
    struct doc head = {.refs = 1};
    json_error_t why;
    struct doc *doc;
    json_t *read;
    int r;

    *error = '\0';
    while (len && isspace((unsigned char)*json))
        json++, len--;
    while (len && isspace((unsigned char)json[len - 1]))
        len--;
    if (len > RECORD_MAX_BYTES) {
        snprintf(error, error_size, "it is longer than a record may be (%d bytes)",
                 RECORD_MAX_BYTES);
        return -E2BIG;
    }
    read = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why);
    if (!read)
        return refuse(error, error_size, "it is no JSON: %s, at byte %d", why.text, why.position);
    r = read_fields(read, &head, error, error_size);
    if (r == 0)
        r = take_text(read, json, len, &text);
    json_decref(read);
    if (r == -E2BIG)
        snprintf(error, error_size, "as we write it, it is longer than a record may be (%d bytes)",
                 RECORD_MAX_BYTES);
    if (r < 0)
        return r;
    doc = malloc(sizeof(*doc) + text.len + 1);
    if (!doc)
        return -ENOMEM;
    *doc = head;
    doc->len = text.len;
    memcpy(doc->json, text.data, text.len + 1);
    find_stacks(doc);
    *ret = doc;
    return 0;
}
