// SPDX-License-Identifier: Apache-2.0
#pragma once

/** For the unit tests of kinds: what decode() has made of a wire, as JSON. Comes behind <cmocka.h>.
 */

#include <jansson.h>
#include <string.h>

#include "core/event.h"

static const struct record_origin test_origin = {
    .hostname = "h", .region = "", .kernel_release = "6", .boot_id = ""};

/** The whole record; the caller's. */
static inline json_t *finish_json(struct record *r)
{
    struct doc *doc = NULL;
    json_error_t error;
    json_t *json;

    assert_int_equal(record_finish(r, 1, &doc), 0);
    json = json_loadb(doc->json, doc->len, JSON_REJECT_DUPLICATES, &error);
    if (!json)
        fail_msg("this is no JSON: %s: %.500s", error.text, doc->json);
    doc_unref(doc);
    return json;
}

/** NULL: it was refused with `*ret`. `realtime_ns` is that of the boot. */
static inline json_t *decode_json(const struct event *event, const struct decode *d,
                                  const void *wire, uint64_t realtime_ns, int *ret)
{
    _cleanup_(record_freep) struct record *r = NULL;

    assert_int_equal(record_new(&test_origin, event, 0, realtime_ns, &r), 0);
    *ret = event->decode(d, wire, r);
    return *ret < 0 ? NULL : finish_json(r);
}

static inline json_t *data_of(const json_t *record)
{
    return json_object_get(record, "tracer_data");
}

static inline void expect_text(const json_t *object, const char *key, const char *expected)
{
    const char *s = json_string_value(json_object_get(object, key));

    if (!s || strcmp(s, expected) != 0)
        fail_msg("%s is \"%s\", not \"%s\"", key, s ? s : "(none)", expected);
}

static inline void expect_number(const json_t *object, const char *key, json_int_t expected)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) != expected)
        fail_msg("%s is %lld, not %lld", key, (long long)json_integer_value(value),
                 (long long)expected);
}
