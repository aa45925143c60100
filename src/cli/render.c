// SPDX-License-Identifier: Apache-2.0

#include "cli/render.h"

#include <jansson.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/text.h"

#define EVENT_WIDTH   14 /* of the longest tracer_name */
#define KEY_WIDTH_MAX 24
#define STACK_INDENT  4

#define BOLD          "\033[1m"
#define DIM           "\033[2m"
#define CYAN          "\033[36m"
#define PLAIN         "\033[0m"

bool render_colour(FILE *out)
{
    const char *no_color = getenv("NO_COLOR");

    return isatty(fileno(out)) && (!no_color || !*no_color);
}

static json_t *parse(const char *json, size_t len)
{
    json_auto_t *record = json_loadb(json, len, 0, NULL);

    return json_is_string(json_object_get(record, "tracer_name")) ? TAKE_PTR(record) : NULL;
}

static int put(FILE *out, const struct text *t)
{
    if (t->failed)
        return -ENOMEM;
    return fwrite(t->data, 1, t->len, out) == t->len ? 0 : -errno;
}

static void add_indent(struct text *t, unsigned indent)
{
    text_addf(t, "%*s", (int)indent, "");
}

static void add_styled(struct text *t, bool colour, const char *style, const char *bytes)
{
    if (colour)
        text_adds(t, style);
    text_add_printable(t, bytes, SIZE_MAX);
    if (colour)
        text_adds(t, PLAIN);
}

static void add_lines(struct text *t, unsigned indent, const char *s)
{
    while (*s) {
        size_t len = strcspn(s, "\n");

        add_indent(t, indent);
        text_add_printable(t, s, len);
        text_add(t, "\n", 1);
        s += s[len] ? len + 1 : len;
    }
}

/* ---- one line */

/* In the reader's time zone, as short as it can be understood. */
static void add_time(struct text *t, bool colour, const char *time)
{
    enum {
        DATE = sizeof("2025-06-11 ") - 1,
        WITHOUT_OFFSET = sizeof("2025-06-11 16:05:16.251") - 1
    };
    char shown[CLOCK_TEXT_MAX], today[CLOCK_TEXT_MAX];
    uint64_t now_ns = clock_now_ns(CLOCK_REALTIME), ns;

    if (clock_parse(time, now_ns, &ns) < 0) {
        add_styled(t, colour, DIM, time);
        return;
    }
    clock_format_ms(ns, shown);
    clock_format_s(now_ns, today);
    shown[WITHOUT_OFFSET] = '\0';
    add_styled(t, colour, DIM, strncmp(shown, today, DATE) == 0 ? shown + DATE : shown);
}

static void add_who(struct text *t, bool colour, json_t *record)
{
    json_t *who = json_object_get(record, "process");
    const char *comm;
    json_t *pid;

    if (!who)
        who = json_object_get(record, "tracer_data");
    comm = json_string_value(json_object_get(who, "comm"));
    pid = json_object_get(who, "pid");
    add_styled(t, colour, CYAN, comm ? comm : "-");
    if (json_is_integer(pid))
        text_addf(t, "[%" JSON_INTEGER_FORMAT "]", json_integer_value(pid));
}

static bool is_stack(const char *key)
{
    size_t len = strlen(key);

    return len >= strlen("stack") && strcmp(key + len - strlen("stack"), "stack") == 0;
}

static void add_stacks(struct text *t, bool colour, json_t *record)
{
    const char *key;
    json_t *value;

    if (colour)
        text_adds(t, DIM);
    json_object_foreach(json_object_get(record, "tracer_data"), key, value)
    {
        unsigned indent = STACK_INDENT;

        if (!json_is_string(value) || !is_stack(key))
            continue;
        if (strcmp(key, "stack") != 0) {
            add_lines(t, indent, key);
            indent += 2;
        }
        add_lines(t, indent, json_string_value(value));
    }
    if (colour)
        text_adds(t, PLAIN);
}

int render_line(FILE *out, const char *json, size_t len, bool colour, bool with_stack)
{
    json_auto_t *record = parse(json, len);
    _cleanup_(text_done) struct text t = {};
    const char *time, *event, *summary;
    size_t event_len;

    if (!record)
        return -EBADMSG;
    time = json_string_value(json_object_get(record, "time"));
    event = json_string_value(json_object_get(record, "tracer_name"));
    summary = json_string_value(json_object_get(record, "summary"));
    event_len = strlen(event);

    add_time(&t, colour, time ? time : "-");
    text_add(&t, " ", 1);
    add_styled(&t, colour, BOLD, event);
    add_indent(&t, 2 + (event_len < EVENT_WIDTH ? EVENT_WIDTH - (unsigned)event_len : 0));
    add_who(&t, colour, record);
    text_add(&t, "  ", 2);
    text_add_printable(&t, summary ? summary : "", SIZE_MAX);
    text_add(&t, "\n", 1);
    if (with_stack)
        add_stacks(&t, colour, record);
    return put(out, &t);
}

/* ---- all of it */

static void add_value(struct text *t, unsigned indent, unsigned gap, bool colour, json_t *value);

static void add_object(struct text *t, unsigned indent, bool colour, json_t *object)
{
    size_t width = 0;
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value) width =
        MAX(width, MIN(strlen(key), (size_t)KEY_WIDTH_MAX));
    json_object_foreach(object, key, value)
    {
        size_t len = strlen(key);

        add_indent(t, indent);
        add_styled(t, colour, DIM, key);
        add_value(t, indent, 2 + (unsigned)(len < width ? width - len : 0), colour, value);
    }
}

/* What stands behind a key, with the newline: behind a gap or, if it needs several, on lines of its
 * own. */
static void add_value(struct text *t, unsigned indent, unsigned gap, bool colour, json_t *value)
{
    const char *s = json_string_value(value);
    json_t *item;
    size_t i;

    if (json_object_size(value) > 0) {
        text_add(t, "\n", 1);
        add_object(t, indent + 2, colour, value);
        return;
    }
    if (json_array_size(value) > 0) {
        text_add(t, "\n", 1);
        json_array_foreach(value, i, item)
        {
            add_indent(t, indent + 2);
            text_add(t, "-", 1);
            add_value(t, indent + 2, 1, colour, item);
        }
        return;
    }
    if (s && strchr(s, '\n')) {
        text_add(t, "\n", 1);
        add_lines(t, indent + 2, s);
        return;
    }

    add_indent(t, gap);
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        text_adds(t, "{}");
        break;
    case JSON_ARRAY:
        text_adds(t, "[]");
        break;
    case JSON_STRING:
        text_add_printable(t, s && *s ? s : "\"\"", SIZE_MAX);
        break;
    case JSON_INTEGER:
        text_addf(t, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        text_addf(t, "%.17g", json_real_value(value));
        break;
    case JSON_TRUE:
        text_adds(t, "true");
        break;
    case JSON_FALSE:
        text_adds(t, "false");
        break;
    case JSON_NULL:
        text_adds(t, "null");
        break;
    }
    text_add(t, "\n", 1);
}

int render_whole(FILE *out, const char *json, size_t len, bool colour)
{
    json_auto_t *record = parse(json, len);
    _cleanup_(text_done) struct text t = {};

    if (!record)
        return -EBADMSG;
    add_object(&t, 0, colour, record);
    return put(out, &t);
}
