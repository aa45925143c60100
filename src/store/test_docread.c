// SPDX-License-Identifier: Apache-2.0
#include "store/docread.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/record.h"
#include "core/text.h"

#define ID   "1847ee694ad42f00a1b2c3d4e5f6"
#define TIME "2025-06-11 08:05:16.251 +0000"
#define FRAMES                                                                                     \
    "vfs_write/ffffffff [kernel]\\nksys_write/ffffffff [kernel]\\ndo_syscall_64/ff [kernel]"

/** A record with other values: "NAME":VALUE instead of the one that is there. */
static char *record(const char *name, const char *value)
{
    static const char *const fields[][2] = {
        {"hostname", "\"a\""},
        {"time", "\"" TIME "\""},
        {"tracer_name", "\"oom\""},
        {"tracer_id", "\"" ID "\""},
        {"schema", "1"},
        {"container_id", "\"0123abcd\""},
        {"process", "{\"pid\":7,\"comm\":\"ba sh\"}"},
        {"tracer_data", "{\"pid\":9,\"stack\":\"" FRAMES "\",\"text\":\"\\u009b \xc3\xa4\"}"},
    };
    struct text text = {};

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        const char *of = strcmp(fields[i][0], name) == 0 ? value : fields[i][1];

        if (of)
            text_addf(&text, "%s\"%s\":%s", i ? "," : "{", fields[i][0], of);
    }
    text_adds(&text, "}");
    return text.data;
}

static struct doc *take(const char *json)
{
    struct doc *doc = NULL;
    char error[256];

    if (doc_read(json, strlen(json), &doc, error, sizeof(error)) < 0)
        fail_msg("%s: %s", error, json);
    return doc;
}

static void assert_refused(const char *json, size_t len, const char *why)
{
    struct doc *doc = NULL;
    char error[256];

    assert_true(doc_read(json, len, &doc, error, sizeof(error)) < 0);
    assert_null(doc);
    if (!strstr(error, why))
        fail_msg("%s, but not: %s", error, why);
}

static void test_whole(void **state)
{
    _free_ char *json = record("", "");
    struct doc *doc = take(json);
    const struct doc_span *span = doc->stacks;
    uint64_t time_ns;

    (void)state;
    assert_string_equal(doc->json, json); /* to the byte */
    assert_int_equal(doc->len, strlen(json));
    assert_string_equal(doc->id, ID);
    assert_string_equal(doc->tracer_name, "oom");
    assert_string_equal(doc->container_id, "0123abcd");
    assert_int_equal(doc->pid, 9); /* the one of tracer_data, which `list --pid` is to find */
    assert_false(doc->counted);
    assert_int_equal(clock_parse(TIME, 0, &time_ns), 0);
    assert_int_equal(doc->realtime_ns / NS_PER_MS, time_ns / NS_PER_MS);
    assert_int_equal(doc->n_stacks, 1);
    assert_memory_equal(doc->json + span->at, FRAMES, strlen(FRAMES));
    assert_int_equal(span->len, strlen(FRAMES));
    doc_unref(doc);
}

static void test_coverage(void **state)
{
    _free_ char *json = record("tracer_name", "\"coverage\"");
    struct doc *doc = take(json);

    (void)state;
    assert_string_equal(doc->tracer_name, "coverage");
    doc_unref(doc);
}

/** As another program may write it: what it says stays, in our form. */
static void test_other_form(void **state)
{
    static const struct {
        const char *value, *expected;
    } cases[] = {
        {"{\"a\" : 1,\t\"b\": [ ] }", "\"tracer_data\":{\"a\":1,\"b\":[]}}"},
        {"{\"a\":\" x : y \"}", "\"tracer_data\":{\"a\":\" x : y \"}}"},
        {"{\"a\":\"\xc2\x9b\"}", "\"tracer_data\":{\"a\":\"\\u009B\"}}"},
        {"{\"a\":\"\xe2\x80\xae\"}", "\"tracer_data\":{\"a\":\"\\u202E\"}}"},
        {"{\"a\":\"\x7f\"}", "\"tracer_data\":{\"a\":\"\\u007f\"}}"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _free_ char *json = record("tracer_data", cases[i].value);
        struct doc *doc = take(json);

        if (!strstr(doc->json, cases[i].expected))
            fail_msg("%s", doc->json);
        doc_unref(doc);
    }
}

/** A document that a server gave back is the record again. */
static void test_document(void **state)
{
    _free_ char *json = record("", "");
    struct text document = {};
    struct doc *doc;

    (void)state;
    text_addf(&document, " %.*s,\"es_index_time\":1,\"@timestamp\":\"2025\"}\r\n",
              (int)strlen(json) - 1, json);
    doc = take(document.data);
    assert_null(strstr(doc->json, "es_index_time"));
    assert_null(strstr(doc->json, "@timestamp"));
    assert_non_null(strstr(doc->json, "\"pid\":9"));
    doc_unref(doc);
    text_done(&document);
}

static void test_refused(void **state)
{
    static const struct {
        const char *name, *value, *why;
    } cases[] = {
        {"tracer_id", NULL, "tracer_id of 28"},
        {"tracer_id", "\"123\"", "tracer_id of 28"},
        {"tracer_id", "\"1847EE694AD42F00A1B2C3D4E5F6\"", "tracer_id of 28"},
        {"tracer_id", "\"../../../../../../etc/passwd\"", "tracer_id of 28"},
        {"tracer_id", "1", "tracer_id of 28"},
        {"tracer_id", "\"ffffffffffffffffa1b2c3d4e5f6\"", "different moments"},
        {"time", "\"2025-06-11 08:05:17.251 +0000\"", "different moments"},
        {"time", "\"yesterday\"", "no time"},
        {"time", NULL, "no time"},
        {"tracer_name", NULL, "no tracer_name"},
        {"tracer_name", "\"../oom\"", "none that this version knows"},
        {"tracer_name", "\"nosuch\"", "none that this version knows"},
        {"schema", "2", "later version (schema 2)"},
        {"tracer_data", NULL, "no object tracer_data"},
        {"tracer_data", "[]", "no object tracer_data"},
        {"tracer_data", "{\"a\":1,\"a\":2}", "duplicate"},
        {"tracer_data", "{\"a\":18446744073709551615}", "no JSON"},
        {"tracer_data", "{\"a\":\"\\u0000\"}", "no JSON"},
        {"tracer_data", "{\"a\":\"\xff\"}", "no JSON"},
    };
    static const char *const texts[] = {"", "{", "null", "[]", "1", "\"x\"", "{}{}", "{} x"};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _free_ char *json = record(cases[i].name, cases[i].value);

        assert_refused(json, strlen(json), cases[i].why);
    }
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        assert_refused(texts[i], strlen(texts[i]), "it ");
    assert_refused("{\"a\0\":1}", 8, "no JSON");
}

/** Cut off anywhere, with a byte changed anywhere: no record, or one that is whole. */
static void test_damaged(void **state)
{
    _free_ char *json = record("", "");
    size_t len = strlen(json);
    char error[256];
    struct doc *doc;

    (void)state;
    for (size_t i = 0; i < len; i++)
        assert_refused(json, i, "it is no JSON");
    for (size_t i = 0; i < len; i++) {
        char was = json[i];

        for (unsigned byte = 0; byte < 256; byte += 5) {
            json[i] = (char)byte;
            doc = NULL;
            if (doc_read(json, len, &doc, error, sizeof(error)) == 0)
                assert_true(doc->json[0] == '{' && !memchr(doc->json, '\n', doc->len));
            doc_unref(doc);
        }
        json[i] = was;
    }
}

static void test_long(void **state)
{
    struct text value = {};
    _free_ char *json = NULL;

    (void)state;
    text_adds(&value, "{\"a\":\"");
    for (size_t i = 0; i < RECORD_MAX_BYTES / 8; i++)
        text_adds(&value, "12345678");
    text_adds(&value, "\"}");
    json = record("tracer_data", value.data);
    assert_refused(json, strlen(json), "longer than a record may be");
    text_done(&value);
    /* Deep nesting must not use up the stack. */
    for (size_t i = 0; i < 100000; i++)
        text_adds(&value, "[");
    assert_refused(value.data, value.len, "no JSON");
    text_done(&value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),      cmocka_unit_test(test_coverage),
        cmocka_unit_test(test_other_form), cmocka_unit_test(test_document),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_long),
    };

    return cmocka_run_group_tests_name("docread", tests, NULL, NULL);
}
