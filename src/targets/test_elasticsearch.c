// SPDX-License-Identifier: Apache-2.0
#include "targets/elasticsearch.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/event.h"

#define TIME_NS UINT64_C(1749629116268123456)
#define RECORD                                                                                     \
    "{\"hostname\":\"a "                                                                           \
    "\\\"time\\\":\\\"1999-01-01\",\"uploaded_time\":\"2025-06-12T00:05:16+08:00\","               \
    "\"time\":\"2025-06-11 16:05:16.251 +0800\",\"tracer_id\":\"18\",\"tracer_data\":{\"time\":"   \
    "\"2024-02-02\"}}"

static char *add(struct elasticsearch_options options, const char *tracer_name, const char *json)
{
    const struct target_record record = {
        .realtime_ns = TIME_NS,
        .id = "18eb41721c8ab2d8f3d5b0a1c2e4",
        .tracer_name = tracer_name,
        .json = json,
        .len = strlen(json),
    };
    struct text body = {};

    options.index = options.index ? options.index : (char *)"huatuo";
    target_elasticsearch.add(&options, &record, UINT64_C(1749629116999) * NS_PER_MS, &body);
    assert_false(body.failed);
    return body.data;
}

/** The two lines of an item, which have to be JSON. */
static void split(char *text, json_t **ret_action, json_t **ret_document)
{
    char *second = strchr(text, '\n');

    assert_non_null(second);
    *second++ = '\0';
    assert_string_equal(strchr(second, '\n'), "\n");
    *ret_action = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    *ret_document = json_loads(second, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(*ret_action);
    assert_non_null(*ret_document);
}

static void assert_index(const char *tracer_name, uint64_t mode, const char *expected)
{
    _free_ char *text = add((struct elasticsearch_options){.mode = mode}, tracer_name, RECORD);
    json_t *action, *document, *create;

    split(text, &action, &document);
    create = json_object_get(action, "create");
    assert_string_equal(json_string_value(json_object_get(create, "_index")), expected);
    assert_string_equal(json_string_value(json_object_get(create, "_id")),
                        "18eb41721c8ab2d8f3d5b0a1c2e4");
    json_decref(action);
    json_decref(document);
}

static void test_index(void **state)
{
    static const char *const plain[] = {"softirq",    "dropwatch",      "hungtask",
                                        "softlockup", "net_rx_latency", "coverage"};
    static const char *const cases[] = {"oom", "directreclaim", "netdev_event", "lacp"};

    (void)state;
    /* The day is that of `time`, as it stands there: not of another field, nor of UTC. */
    for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
        assert_index(plain[i], ELASTICSEARCH_DAILY, "huatuo_2025-06-11");
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_index(cases[i], ELASTICSEARCH_DAILY, "huatuo_cases_2025-06-11");
    assert_index("softirq", ELASTICSEARCH_DATASTREAM, "huatuo");
    assert_index("oom", ELASTICSEARCH_DATASTREAM, "huatuo_cases");
}

/** Each kind is in the index that the spec shows it in. */
static void test_cases(void **state)
{
    static const char *const cases[] = {"oom", "memreclaim", "netdev", "lacp"};

    (void)state;
    for (size_t i = 0; i < n_events; i++) {
        bool expected = false;

        for (size_t j = 0; j < ARRAY_SIZE(cases); j++)
            expected |= strcmp(events[i]->name, cases[j]) == 0;
        if (events[i]->is_case != expected)
            fail_msg("%s", events[i]->name);
    }
}

static void test_document(void **state)
{
    _free_ char *daily = add((struct elasticsearch_options){}, "oom", RECORD);
    _free_ char *stream =
        add((struct elasticsearch_options){.mode = ELASTICSEARCH_DATASTREAM}, "oom", RECORD);
    json_t *action, *document, *record = json_loads(RECORD, 0, NULL);
    const char *timestamp;

    (void)state;
    split(daily, &action, &document);
    assert_int_equal(json_integer_value(json_object_get(document, "es_index_time")), 1749629116999);
    assert_null(json_object_get(document, "@timestamp"));
    json_object_del(document, "es_index_time");
    assert_true(json_equal(document, record));
    json_decref(action);
    json_decref(document);

    split(stream, &action, &document);
    timestamp = json_string_value(json_object_get(document, "@timestamp"));
    assert_non_null(timestamp);
    assert_non_null(strstr(timestamp, ":16.268123456"));
    json_object_del(document, "es_index_time");
    json_object_del(document, "@timestamp");
    assert_true(json_equal(document, record));
    json_decref(action);
    json_decref(document);
    json_decref(record);
}

/** What has no day gets that of the kernel. */
static void test_no_time(void **state)
{
    static const char *const odd[] = {"{\"a\":1}", "{\"time\":\"now\"}", "{\"time\":\"2025-06-1\"}",
                                      "{\"time\":\"2025/06/11 16\"}", "{\"time\":\""};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
        _free_ char *text = add((struct elasticsearch_options){}, "softirq", odd[i]);

        assert_non_null(strstr(text, "\"_index\":\"huatuo_2025-06-1"));
    }
}

/* ---- answers */

#define N 5

static int read_answer(const char *answer, struct target_answer ret[N])
{
    memset(ret, 0, N * sizeof(*ret));
    return target_elasticsearch.read(NULL, answer, strlen(answer), ret, N);
}

static void done(struct target_answer answers[N])
{
    for (unsigned i = 0; i < N; i++)
        free(answers[i].reason);
}

static void test_answers(void **state)
{
    struct target_answer a[N];

    (void)state;
    assert_int_equal(
        read_answer("{\"errors\":true,\"items\":[{\"create\":{\"status\":201}},"
                    "{\"create\":{\"status\":409,\"error\":{\"type\":"
                    "\"version_conflict_engine_exception\",\"reason\":\"it exists\"}}},"
                    "{\"create\":{\"status\":429,\"error\":{\"type\":\"es_rejected_execution_"
                    "exception\",\"reason\":\"full\"}}},"
                    "{\"create\":{\"status\":400,\"error\":{\"type\":\"mapper_parsing_exception\","
                    "\"reason\":\"failed to parse\",\"caused_by\":{\"reason\":\"not a number\"}}}},"
                    "{\"create\":{\"status\":503,\"error\":\"no shard\"}}]}",
                    a),
        0);
    assert_int_equal(a[0].verdict, TARGET_STORED);
    assert_int_equal(a[1].verdict, TARGET_STORED);
    assert_int_equal(a[2].verdict, TARGET_AGAIN);
    assert_int_equal(a[3].verdict, TARGET_REFUSED);
    assert_int_equal(a[4].verdict, TARGET_AGAIN);
    assert_null(a[0].reason);
    assert_string_equal(a[2].reason, "429 es_rejected_execution_exception: full");
    assert_string_equal(a[3].reason,
                        "400 mapper_parsing_exception: failed to parse (not a number)");
    assert_string_equal(a[4].reason, "503: no shard");
    done(a);
}

/** What an operator can mend is no reason to give a record up. */
static void test_whose_fault(void **state)
{
    static const struct {
        int status;
        const char *type, *reason;
        enum target_verdict verdict;
    } cases[] = {
        {400, "mapper_parsing_exception", "x", TARGET_REFUSED},
        {400, "document_parsing_exception", "x", TARGET_REFUSED},
        {400, "strict_dynamic_mapping_exception", "x", TARGET_REFUSED},
        {400, "illegal_argument_exception", "Limit of total fields [1000] exceeded",
         TARGET_REFUSED},
        {400, "something_new_exception", "x", TARGET_REFUSED},
        {413, "x", "x", TARGET_REFUSED},
        {400, "index_closed_exception", "closed", TARGET_AGAIN},
        {400, "validation_exception", "this would add [2] shards", TARGET_AGAIN},
        {400, "illegal_argument_exception", "no write index is defined for alias [x]",
         TARGET_AGAIN},
        {400, "illegal_argument_exception", "... [1000]/[1000] maximum shards open;", TARGET_AGAIN},
        {400, "invalid_index_name_exception", "x", TARGET_AGAIN},
        {401, "security_exception", "x", TARGET_AGAIN},
        {403, "cluster_block_exception", "read-only", TARGET_AGAIN},
        {404, "index_not_found_exception", "no such index", TARGET_AGAIN},
        {429, "cluster_block_exception", "disk usage exceeded", TARGET_AGAIN},
        {500, "x", "x", TARGET_AGAIN},
        {507, "x", "x", TARGET_AGAIN},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct target_answer one = {};
        char text[512];

        snprintf(text, sizeof(text),
                 "{\"items\":[{\"create\":{\"status\":%d,\"error\":{\"type\":\"%s\",\"reason\":\"%"
                 "s\"}}}]}",
                 cases[i].status, cases[i].type, cases[i].reason);
        assert_int_equal(target_elasticsearch.read(NULL, text, strlen(text), &one, 1), 0);
        if (one.verdict != cases[i].verdict)
            fail_msg("%d %s %s", cases[i].status, cases[i].type, cases[i].reason);
        free(one.reason);
    }
}

/** Of what is no answer nothing is believed. */
static void test_odd_answers(void **state)
{
    static const char item[] = "{\"create\":{\"status\":201}}";
    static const char *const odd[] = {
        "",
        "{",
        "null",
        "[]",
        "{}",
        "<html>login</html>",
        "{\"errors\":false}",
        "{\"items\":{}}",
        "{\"items\":[]}",
        "{\"items\":[{\"create\":{\"status\":201}}]}",
        "{\"items\":[1,2,3,4,5]}",
        "{\"items\":[{},{},{},{},{}]}",
        "{\"items\":[{\"index\":{\"status\":201}},{},{},{},{}]}",
        "{\"items\":[{\"create\":{\"status\":\"201\"}},0,0,0,0]}",
        "{\"items\":[{\"create\":{\"status\":-1}},0,0,0,0]}",
    };
    struct target_answer a[N];
    char text[512];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
        if (read_answer(odd[i], a) != -EBADMSG)
            fail_msg("%s", odd[i]);
        done(a);
    }
    /* Cut off anywhere. */
    snprintf(text, sizeof(text), "{\"errors\":false,\"items\":[%s,%s,%s,%s,%s]}", item, item, item,
             item, item);
    assert_int_equal(read_answer(text, a), 0);
    done(a);
    for (size_t len = strlen(text) - 1; len > 0; len--) {
        text[len] = '\0';
        assert_int_equal(read_answer(text, a), -EBADMSG);
        done(a);
    }
}

static void test_explain(void **state)
{
    static const struct {
        const char *answer, *expected;
    } cases[] = {
        {"{\"error\":{\"type\":\"security_exception\",\"reason\":\"unable to authenticate\"}}",
         "unable to authenticate"},
        {"{\"error\":\"Incorrect HTTP method\"}", "Incorrect HTTP method"},
        {"Unauthorized", ""},
        {"{\"error\":{}}", ""},
        {"", ""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char why[256] = "x";

        target_elasticsearch.explain(cases[i].answer, strlen(cases[i].answer), why, sizeof(why));
        assert_string_equal(why, cases[i].expected);
    }
}

static void test_options(void **state)
{
    static const char *const bad[] = {"",   "Huatuo", "a/b", "-a", "_a",
                                      "+a", ".a",     "a b", "a*", "a:b"};
    const struct option *index = option_find(target_elasticsearch.options, "index");
    struct elasticsearch_options options;
    char error[512];

    (void)state;
    assert_int_equal(option_defaults(target_elasticsearch.options, &options), 0);
    assert_int_equal(options.http.url.n, 0); /* nothing is uploaded unless it is asked for */
    assert_string_equal(options.index, "huatuo");
    assert_int_equal(options.mode, ELASTICSEARCH_DAILY);
    assert_int_equal(options.http.tls_verify, HTTP_VERIFY_FULL);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(option_parse(index, bad[i], &options, error, sizeof(error)), -EINVAL);
    assert_int_equal(option_parse(index, "my-team_2", &options, error, sizeof(error)), 0);
    option_done(target_elasticsearch.options, &options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index),       cmocka_unit_test(test_cases),
        cmocka_unit_test(test_document),    cmocka_unit_test(test_no_time),
        cmocka_unit_test(test_answers),     cmocka_unit_test(test_whose_fault),
        cmocka_unit_test(test_odd_answers), cmocka_unit_test(test_explain),
        cmocka_unit_test(test_options),
    };

    return cmocka_run_group_tests_name("elasticsearch", tests, NULL, NULL);
}
