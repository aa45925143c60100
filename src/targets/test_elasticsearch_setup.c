// SPDX-License-Identifier: Apache-2.0
#include "targets/elasticsearch_setup.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static struct elasticsearch_options options = {
    .index = (char *)"fleet",
    .retain = UINT64_C(7) * 86400 * NS_PER_SEC,
};

/** The body of one of the objects, and its path. */
static json_t *object(enum elasticsearch_flavour flavour, uint64_t mode, bool with_policy,
                      unsigned which, const char *path)
{
    struct elasticsearch_object objects[ELASTICSEARCH_OBJECTS];
    json_t *json;

    options.mode = mode;
    assert_int_equal(elasticsearch_objects(&options, flavour, with_policy, objects), 0);
    assert_string_equal(objects[which].path, path);
    json = json_loads(objects[which].body, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json);
    elasticsearch_objects_done(objects);
    return json;
}

/** What stands at `path`, its steps separated by spaces, as JSON. */
static void assert_at(const json_t *json, const char *path, const char *expected)
{
    char steps[256], *rest = steps, *step;
    _free_ char *text = NULL;

    snprintf(steps, sizeof(steps), "%s", path);
    while (json && (step = strsep(&rest, " ")))
        json = json_is_array(json) ? json_array_get(json, strtoul(step, NULL, 10))
                                   : json_object_get(json, step);
    text = json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS) : NULL;
    if (!text || strcmp(text, expected) != 0)
        fail_msg("%s: %s", path, text ? text : "there is nothing");
}

static void assert_nothing_at(const json_t *json, const char *path)
{
    char steps[256], *rest = steps, *step;

    snprintf(steps, sizeof(steps), "%s", path);
    while (json && (step = strsep(&rest, " ")))
        json = json_object_get(json, step);
    assert_null(json);
}

static void test_template(void **state)
{
    json_t *t =
        object(FLAVOUR_ELASTICSEARCH, ELASTICSEARCH_DAILY, true, 1, "/_index_template/fleet");

    (void)state;
    assert_at(t, "index_patterns", "[\"fleet_2*\",\"fleet_cases_2*\"]");
    assert_nothing_at(t, "data_stream");
    assert_at(t, "template settings index.lifecycle.name", "\"fleet\"");
    assert_at(t, "template settings index.mapping.ignore_malformed", "true");
    assert_at(
        t, "template mappings properties time",
        "{\"format\":\"yyyy-MM-dd HH:mm:ss.SSS Z||strict_date_optional_time\",\"type\":\"date\"}");
    assert_at(t, "template mappings properties tracer_data properties saddr", "{\"type\":\"ip\"}");
    assert_at(t, "template mappings properties tracer_data properties stack",
              "{\"type\":\"text\"}");
    assert_at(t, "template mappings properties process properties cmdline", "{\"type\":\"text\"}");
    /* As the other texts, which are longer than Lucene takes if somebody wants it so. */
    assert_at(t, "template mappings properties tracer_data properties place",
              "{\"ignore_above\":8191,\"type\":\"keyword\"}");
    assert_at(t, "template mappings properties tracer_data properties offtime",
              "{\"type\":\"long\"}");
    assert_nothing_at(t, "template mappings properties @timestamp");
    assert_at(t, "template mappings dynamic_templates 0 stacks mapping", "{\"type\":\"text\"}");
    assert_at(t, "template mappings dynamic_templates 1 texts mapping",
              "{\"ignore_above\":8191,\"type\":\"keyword\"}");
    assert_at(t, "template mappings date_detection", "false");
    json_decref(t);

    t = object(FLAVOUR_OPENSEARCH, ELASTICSEARCH_DATASTREAM, true, 1, "/_index_template/fleet");
    assert_at(t, "index_patterns", "[\"fleet\",\"fleet_cases\"]");
    assert_at(t, "data_stream", "{}");
    assert_at(t, "template mappings properties @timestamp", "{\"type\":\"date_nanos\"}");
    assert_nothing_at(t, "template settings index.lifecycle.name");
    json_decref(t);

    t = object(FLAVOUR_ELASTICSEARCH, ELASTICSEARCH_DAILY, false, 1, "/_index_template/fleet");
    assert_nothing_at(t, "template settings index.lifecycle.name");
    json_decref(t);
}

static void test_policy(void **state)
{
    json_t *p = object(FLAVOUR_ELASTICSEARCH, ELASTICSEARCH_DAILY, true, 0, "/_ilm/policy/fleet");

    (void)state;
    assert_at(
        p, "policy phases",
        "{\"delete\":{\"actions\":{\"delete\":{}},\"min_age\":\"7d\"},\"hot\":{\"actions\":{}}}");
    json_decref(p);
    p = object(FLAVOUR_ELASTICSEARCH, ELASTICSEARCH_DATASTREAM, true, 0, "/_ilm/policy/fleet");
    assert_at(p, "policy phases hot actions rollover",
              "{\"max_age\":\"1d\",\"max_size\":\"25gb\"}");
    json_decref(p);

    p = object(FLAVOUR_OPENSEARCH, ELASTICSEARCH_DAILY, true, 0, "/_plugins/_ism/policies/fleet");
    assert_at(p, "policy default_state", "\"kept\"");
    assert_at(
        p, "policy states 0",
        "{\"actions\":[],\"name\":\"kept\",\"transitions\":[{\"conditions\":{\"min_index_age\":"
        "\"7d\"},\"state_name\":\"gone\"}]}");
    assert_at(p, "policy states 1",
              "{\"actions\":[{\"delete\":{}}],\"name\":\"gone\",\"transitions\":[]}");
    assert_at(p, "policy ism_template 0 index_patterns", "[\"fleet_2*\",\"fleet_cases_2*\"]");
    json_decref(p);
    p = object(FLAVOUR_OPENSEARCH, ELASTICSEARCH_DATASTREAM, true, 0,
               "/_plugins/_ism/policies/fleet");
    assert_at(p, "policy states 0 actions 0 rollover",
              "{\"min_index_age\":\"1d\",\"min_size\":\"25gb\"}");
    json_decref(p);
}

static void test_check(void **state)
{
    static const struct {
        long status;
        const char *answer, *says; /* NULL: nothing */
    } cases[] = {
        {404, "{}", "there is no index template fleet"},
        {200, "{\"index_templates\":[{\"index_template\":{\"version\":0}}]}", "earlier version"},
        {200, "{\"index_templates\":[{\"index_template\":{}}]}", "earlier version"},
        {200, "{\"index_templates\":[{\"index_template\":{\"version\":1}}]}", "earlier version"},
        {200, "{\"index_templates\":[{\"index_template\":{\"version\":2}}]}", NULL},
        {200, "{\"index_templates\":[{\"index_template\":{\"version\":99}}]}", NULL},
        {200, "{\"index_templates\":[]}", NULL},
        {200, "<html>", NULL},
        {200, "", NULL},
        {403, "{}", NULL},
        {500, "", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[256] = "x";

        elasticsearch_check_template(&options, cases[i].status, cases[i].answer,
                                     strlen(cases[i].answer), text, sizeof(text));
        if (cases[i].says ? !strstr(text, cases[i].says) : *text)
            fail_msg("%ld %s: %s", cases[i].status, cases[i].answer, text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template),
        cmocka_unit_test(test_policy),
        cmocka_unit_test(test_check),
    };

    return cmocka_run_group_tests_name("elasticsearch_setup", tests, NULL, NULL);
}
