// SPDX-License-Identifier: Apache-2.0
#include "targets/target.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define TIME_NS UINT64_C(1749629116268123456)
#define RECORD                                                                                     \
    "{\"hostname\":\"node-7\",\"region\":\"eu\",\"uploaded_time\":\"2025-06-11T08:05:17.5+00:"     \
    "00\","                                                                                        \
    "\"time\":\"2025-06-11 16:05:16.268 "                                                          \
    "+0800\",\"tracer_time\":\"x\",\"tracer_name\":\"softirq\","                                   \
    "\"tracer_id\":\"18\",\"schema\":1,\"summary\":\"a \\\"soft\\\" irq \\u009b\","                \
    "\"process\":{\"pid\":42,\"comm\":\"sh\"},"                                                    \
    "\"tracer_data\":{\"big\":9223372036854775807,\"low\":-5,\"half\":0.5,\"yes\":true,"           \
    "\"none\":null,\"empty\":{},\"deep\":{\"a\":{\"b\":\"c\"}},"                                   \
    "\"list\":[1,\"two\",{\"x\":{\"y\":3}},[]]}}"

extern const struct target target_otlp;

static json_t *body_of(const char *tracer_name, const char *const *records, unsigned n)
{
    const struct target *t = &target_otlp;
    struct text body = {};
    json_t *json = NULL;

    text_adds(&body, t->head);
    for (unsigned i = 0; i < n; i++) {
        const struct target_record record = {
            .realtime_ns = TIME_NS,
            .id = "18eb41721c8ab2d8f3d5b0a1c2e4",
            .tracer_name = tracer_name,
            .json = records[i],
            .len = strlen(records[i]),
        };

        if (i)
            text_adds(&body, t->separator);
        t->add(NULL, &record, TIME_NS, &body);
    }
    text_adds(&body, t->tail);
    assert_false(body.failed);
    json = json_loads(body.data, JSON_REJECT_DUPLICATES, NULL);
    if (!json)
        fail_msg("%s", body.data);
    text_done(&body);
    return json;
}

static const json_t *first_of(const json_t *object, const char *key)
{
    return json_array_get(json_object_get(object, key), 0);
}

static const json_t *find(const json_t *attributes, const char *key)
{
    const json_t *pair, *found = NULL;
    size_t i;

    json_array_foreach(attributes, i, pair)
    {
        if (strcmp(json_string_value(json_object_get(pair, "key")), key) != 0)
            continue;
        assert_null(found);
        found = json_object_get(pair, "value");
    }
    return found;
}

/** The attribute's value is, as JSON, this; NULL: it is not there. */
static void assert_attribute(const json_t *attributes, const char *key, const char *expected)
{
    const json_t *found = find(attributes, key);
    json_t *value = expected ? json_loads(expected, 0, NULL) : NULL;

    if (!expected != !found || (expected && !json_equal((json_t *)found, value))) {
        _free_ char *text = found ? json_dumps(found, 0) : NULL;

        fail_msg("%s: %s instead of %s", key, text ? text : "nothing", expected);
    }
    json_decref(value);
}

static void assert_string(const json_t *object, const char *key, const char *expected)
{
    assert_string_equal(json_string_value(json_object_get(object, key)), expected);
}

static void test_record(void **state)
{
    static const char *const record[] = {RECORD};
    json_t *json = body_of("softirq", record, 1);
    const json_t *resource = first_of(json, "resourceLogs"), *scope, *log, *attributes;

    (void)state;
    attributes = json_object_get(json_object_get(resource, "resource"), "attributes");
    assert_int_equal(json_array_size(attributes), 3);
    assert_attribute(attributes, "service.name", "{\"stringValue\":\"huatuo\"}");
    assert_attribute(attributes, "host.name", "{\"stringValue\":\"node-7\"}");
    assert_attribute(attributes, "region", "{\"stringValue\":\"eu\"}");
    scope = first_of(resource, "scopeLogs");
    assert_string(json_object_get(scope, "scope"), "name", "huatuo");
    log = first_of(scope, "logRecords");
    assert_string(log, "timeUnixNano", "1749629116268123456");
    assert_string(log, "observedTimeUnixNano", "1749629117500000000");
    assert_int_equal(json_integer_value(json_object_get(log, "severityNumber")), 13);
    assert_string(log, "severityText", "WARN");
    assert_string(log, "eventName", "huatuo.softirq");
    assert_string(json_object_get(log, "body"), "stringValue", "a \"soft\" irq \xc2\x9b");

    attributes = json_object_get(log, "attributes");
    assert_attribute(attributes, "log.record.uid",
                     "{\"stringValue\":\"18eb41721c8ab2d8f3d5b0a1c2e4\"}");
    assert_attribute(attributes, "tracer_name", "{\"stringValue\":\"softirq\"}");
    assert_attribute(attributes, "tracer_id", "{\"stringValue\":\"18\"}");
    assert_attribute(attributes, "schema", "{\"intValue\":\"1\"}");
    assert_attribute(attributes, "process.pid", "{\"intValue\":\"42\"}");
    assert_attribute(attributes, "tracer_data.big", "{\"intValue\":\"9223372036854775807\"}");
    assert_attribute(attributes, "tracer_data.low", "{\"intValue\":\"-5\"}");
    assert_attribute(attributes, "tracer_data.half", "{\"doubleValue\":0.5}");
    assert_attribute(attributes, "tracer_data.yes", "{\"boolValue\":true}");
    assert_attribute(attributes, "tracer_data.none", "{}");
    assert_attribute(attributes, "tracer_data.empty", "{\"kvlistValue\":{\"values\":[]}}");
    assert_attribute(attributes, "tracer_data.deep.a.b", "{\"stringValue\":\"c\"}");
    assert_attribute(attributes, "tracer_data.list",
                     "{\"arrayValue\":{\"values\":[{\"intValue\":\"1\"},{\"stringValue\":\"two\"},"
                     "{\"kvlistValue\":{\"values\":[{\"key\":\"x\",\"value\":{\"kvlistValue\":{"
                     "\"values\":[{\"key\":\"y\",\"value\":{\"intValue\":\"3\"}}]}}}]}},"
                     "{\"arrayValue\":{\"values\":[]}}]}}");
    /* What is elsewhere is not here, too. */
    for (unsigned i = 0; i < 6; i++)
        assert_attribute(attributes,
                         (const char *const[]){"hostname", "region", "summary", "time",
                                               "tracer_time", "uploaded_time"}[i],
                         NULL);
    json_decref(json);
}

static void test_several(void **state)
{
    static const char *const records[] = {"{\"hostname\":\"a\"}", "{\"hostname\":\"b\"}", "{}"};
    json_t *json = body_of("coverage", records, ARRAY_SIZE(records));
    const json_t *all = json_object_get(json, "resourceLogs"), *one, *log;

    (void)state;
    assert_int_equal(json_array_size(all), 3);
    for (size_t i = 0; i < 3; i++) {
        one = json_array_get(all, i);
        log = first_of(first_of(one, "scopeLogs"), "logRecords");
        assert_attribute(json_object_get(json_object_get(one, "resource"), "attributes"),
                         "host.name",
                         i == 0   ? "{\"stringValue\":\"a\"}"
                         : i == 1 ? "{\"stringValue\":\"b\"}"
                                  : NULL);
        /* Of the agent itself; and what does not say when it was put together. */
        assert_string(log, "severityText", "INFO");
        assert_string(log, "observedTimeUnixNano", "1749629116268123456");
    }
    json_decref(json);
}

/** Whatever is in the store arrives, and as JSON. */
static void test_odd_records(void **state)
{
    static const char *const odd[] = {"{nonsense \"}", "{\"a\":99999999999999999999}",
                                      "{\"a\":1e999}", "{\"summary\":\"a\\u0000b\"}"};
    char deep[4096] = "", name[2048];
    const char *text = deep, *long_name = name;
    json_t *json;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
        json = body_of("softirq", &odd[i], 1);
        assert_string(
            json_object_get(
                first_of(first_of(first_of(json, "resourceLogs"), "scopeLogs"), "logRecords"),
                "body"),
            "stringValue", odd[i]);
        json_decref(json);
    }
    for (unsigned i = 0; i < 200; i++)
        strcat(deep, i % 40 < 20 ? "{\"\":" : "{\"a\":[");
    strcat(deep, "1");
    for (unsigned i = 200; i-- > 0;)
        strcat(deep, i % 40 < 20 ? "}" : "]}");
    json_decref(body_of("softirq", &text, 1));
    snprintf(name, sizeof(name), "{\"%01900d\":1}", 0);
    json_decref(body_of("softirq", &long_name, 1));
}

/* ---- answers */

#define N 3

static int read_answer(const char *answer, struct target_answer ret[N])
{
    memset(ret, 0, N * sizeof(*ret));
    return target_otlp.read(NULL, answer, strlen(answer), ret, N);
}

static void done(struct target_answer answers[N])
{
    for (unsigned i = 0; i < N; i++)
        free(answers[i].reason);
}

static void test_taken(void **state)
{
    static const char *const taken[] = {
        "",
        "{}",
        "{\"partialSuccess\":{}}",
        "{\"partialSuccess\":null}",
        "{\"partialSuccess\":{\"rejectedLogRecords\":\"0\",\"errorMessage\":\"old client\"}}",
        "{\"partialSuccess\":{\"rejectedLogRecords\":0},\"later\":1}",
    };
    struct target_answer a[N];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(taken); i++) {
        if (read_answer(taken[i], a) != 0)
            fail_msg("%s", taken[i]);
        for (unsigned j = 0; j < N; j++)
            assert_int_equal(a[j].verdict, TARGET_STORED);
        done(a);
    }
}

static void test_partial(void **state)
{
    struct target_answer a[N];

    (void)state;
    assert_int_equal(read_answer("{\"partialSuccess\":{\"rejectedLogRecords\":\"2\","
                                 "\"errorMessage\":\"too old\"}}",
                                 a),
                     0);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(a[i].verdict, TARGET_REFUSED);
        assert_string_equal(
            a[i].reason,
            "2 of the 3 records of a request were refused, and not said which: too old");
    }
    done(a);
    assert_int_equal(read_answer("{\"partialSuccess\":{\"rejectedLogRecords\":3}}", a), 0);
    assert_string_equal(a[2].reason, "refused");
    done(a);
}

static void test_odd_answers(void **state)
{
    static const char *const odd[] = {
        "{",
        "null",
        "[]",
        "1",
        "<html>login</html>",
        "OK",
        "{\"status\":\"ok\"}",
        "{\"partialSuccess\":1}",
        "{\"partialSuccess\":[]}",
        "{\"partialSuccess\":{\"rejectedLogRecords\":\"4\"}}",
        "{\"partialSuccess\":{\"rejectedLogRecords\":-1}}",
        "{\"partialSuccess\":{\"rejectedLogRecords\":\"99999999999999999999\"}}",
        "{\"partialSuccess\":{\"rejectedLogRecords\":\"\"}}",
        "{\"partialSuccess\":{\"rejectedLogRecords\":\"2x\"}}",
        "{\"partialSuccess\":{\"rejectedLogRecords\":{}}}",
    };
    struct target_answer a[N];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
        if (read_answer(odd[i], a) != -EBADMSG)
            fail_msg("%s", odd[i]);
        done(a);
    }
}

static void test_explain(void **state)
{
    static const struct {
        const char *answer, *expected;
    } cases[] = {
        {"{\"code\":3,\"message\":\"no such field\",\"details\":[]}", "no such field"},
        {"{\"message\":7}", ""},
        {"Bad Request", ""},
        {"", ""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char why[256] = "x";

        target_otlp.explain(cases[i].answer, strlen(cases[i].answer), why, sizeof(why));
        assert_string_equal(why, cases[i].expected);
    }
}

static void test_path(void **state)
{
    struct text path = {};

    (void)state;
    target_otlp.path(NULL, &path);
    assert_string_equal(path.data, "/v1/logs");
    text_done(&path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record),      cmocka_unit_test(test_several),
        cmocka_unit_test(test_odd_records), cmocka_unit_test(test_taken),
        cmocka_unit_test(test_partial),     cmocka_unit_test(test_odd_answers),
        cmocka_unit_test(test_explain),     cmocka_unit_test(test_path),
    };

    return cmocka_run_group_tests_name("otlp", tests, NULL, NULL);
}
