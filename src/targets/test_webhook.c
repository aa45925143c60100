// SPDX-License-Identifier: Apache-2.0
#include "targets/target.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define REAL_NS (UINT64_C(1749629116) * NS_PER_SEC) /* 2025-06-11 08:05:16 UTC */
#define MONO_NS (UINT64_C(1000) * NS_PER_SEC)
#define MINUTE  (UINT64_C(60) * NS_PER_SEC)

extern const struct target target_webhook;
#define composer (target_webhook.composer)

struct scene {
    void *options, *memory;
    uint64_t passed_ns; /* both clocks go on by it */
};

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));

    scene->options = calloc(1, target_webhook.options_size);
    scene->memory = calloc(1, composer->size);
    assert_int_equal(option_defaults(target_webhook.options, scene->options), 0);
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;

    option_done(target_webhook.options, scene->options);
    free(scene->options);
    free(scene->memory);
    free(scene);
    return 0;
}

static void set(struct scene *scene, const char *key, const char *value)
{
    const struct option *option = option_find(target_webhook.options, key);
    char error[512] = "";

    if (option_parse(option, value, scene->options, error, sizeof(error)) < 0)
        fail_msg("%s", error);
}

static void look_at(struct scene *scene, const char *kind, const char *json)
{
    const struct target_record record = {
        .realtime_ns = REAL_NS + scene->passed_ns,
        .id = "18",
        .tracer_name = kind,
        .json = json,
        .len = strlen(json),
    };

    composer->look(scene->memory, &record);
}

/** It happens now. `more`: members of the record, each with a comma before it. */
static void happen(struct scene *scene, const char *kind, const char *summary, const char *more)
{
    struct text json = {};

    text_adds(&json, "{\"hostname\":\"node-7\",\"region\":\"eu\",\"summary\":\"");
    text_add_json(&json, summary, strlen(summary));
    text_addf(&json, "\"%s}", more);
    look_at(scene, kind, json.data);
    text_done(&json);
}

/** In how many seconds a message is due; -1: none is. */
static long long due_s(const struct scene *scene)
{
    uint64_t due_ns = composer->due_ns(scene->options, scene->memory);
    uint64_t now_ns = MONO_NS + scene->passed_ns;

    if (due_ns == UINT64_MAX)
        return -1;
    return due_ns <= now_ns ? 0 : (long long)((due_ns - now_ns) / NS_PER_SEC);
}

static json_t *composed(const struct scene *scene)
{
    struct text body = {};
    json_t *json;

    composer->compose(scene->options, scene->memory, REAL_NS + scene->passed_ns, &body);
    assert_false(body.failed);
    json = json_loads(body.data, JSON_REJECT_DUPLICATES, NULL);
    if (!json)
        fail_msg("%s", body.data);
    text_done(&body);
    return json;
}

/** The message, which is due and is taken. */
static json_t *take(struct scene *scene)
{
    json_t *json;

    assert_int_equal(due_s(scene), 0);
    json = composed(scene);
    composer->sent(scene->memory, MONO_NS + scene->passed_ns);
    return json;
}

static void assert_string(const json_t *object, const char *key, const char *expected)
{
    assert_string_equal(json_string_value(json_object_get(object, key)), expected);
}

static void assert_taken(struct scene *scene, const char *expected)
{
    json_t *json = take(scene);

    assert_string(json, "text", expected);
    json_decref(json);
}

static void test_one(void **state)
{
    struct scene *scene = *state;
    const json_t *event;
    json_t *json;

    assert_int_equal(due_s(scene), -1);
    happen(scene, "directreclaim", "sh[17] was in direct reclaim", "");
    scene->passed_ns += 2 * NS_PER_SEC;
    json = take(scene);
    assert_string(json, "text",
                  "node-7, eu: 2025-06-11 08:05:16 memreclaim: sh[17] was in direct reclaim");
    assert_int_equal(json_object_size(json_object_get(json, "others")), 0);
    assert_int_equal(json_array_size(json_object_get(json, "events")), 1);
    event = json_array_get(json_object_get(json, "events"), 0);
    assert_string(event, "kind", "memreclaim"); /* as `huatuo list --event` has it */
    assert_string(event, "hostname", "node-7");
    assert_string(event, "region", "eu");
    assert_string(event, "summary", "sh[17] was in direct reclaim");
    assert_string(event, "tracer_id", "18");
    assert_string(event, "first_time", "2025-06-11T08:05:16.000000000+00:00");
    assert_string(event, "last_time", "2025-06-11T08:05:16.000000000+00:00");
    assert_int_equal(json_integer_value(json_object_get(event, "count")), 1);
    assert_int_equal(json_object_size(event), 8);
    json_decref(json);
    assert_int_equal(due_s(scene), -1);
}

static void test_not_taken(void **state)
{
    struct scene *scene = *state;

    happen(scene, "oom", "a[1] was killed", "");
    for (unsigned i = 0; i < 3; i++) {
        json_t *json = composed(scene);

        assert_string(json, "text", "node-7, eu: 2025-06-11 08:05:16 oom: a[1] was killed");
        json_decref(json);
        assert_int_equal(due_s(scene), 0);
    }
    happen(scene, "oom", "a[2] was killed", "");
    assert_taken(scene, "node-7, eu: 2025-06-11 08:05:16 oom: a[1] was killed (2 times until "
                        "2025-06-11 08:05:16)");
}

/** Told once, then counted; what is counted is told when its time is over, or with what is new. */
static void test_repeats(void **state)
{
    struct scene *scene = *state;

    happen(scene, "oom", "a[17] was killed", "");
    assert_taken(scene, "node-7, eu: 2025-06-11 08:05:16 oom: a[17] was killed");
    scene->passed_ns += MINUTE;
    for (unsigned i = 0; i < 5; i++) {
        happen(scene, "oom", "a[2345] was killed", "");
        assert_int_equal(due_s(scene), 59 * 60);
    }
    scene->passed_ns += 59 * MINUTE;
    assert_taken(scene, "node-7, eu: 2025-06-11 08:06:16 oom: a[2345] was killed (5 times until "
                        "2025-06-11 08:06:16)");
    scene->passed_ns += MINUTE;
    happen(scene, "oom", "a[3] was killed", "");
    assert_int_equal(due_s(scene), 59 * 60);
    scene->passed_ns += MINUTE;
    happen(scene, "oom", "b[3] was killed", "");
    assert_taken(scene, "node-7, eu: 2025-06-11 09:07:16 oom: b[3] was killed\n"
                        "node-7, eu: 2025-06-11 09:06:16 oom: a[3] was killed");
    assert_int_equal(due_s(scene), -1);
    /* From then on it is an hour again. */
    scene->passed_ns += 59 * MINUTE;
    happen(scene, "oom", "a[3] was killed", "");
    assert_int_equal(due_s(scene), 60);
    set(scene, "repeat_after", "0s");
    assert_int_equal(due_s(scene), 0);
}

/** Having to wait for an hour makes nothing older than `max_age`, which is no more. */
static void test_repeat_is_not_old(void **state)
{
    struct scene *scene = *state;

    happen(scene, "oom", "a[17] was killed", "");
    json_decref(take(scene));
    happen(scene, "oom", "a[18] was killed", "");
    scene->passed_ns += 65 * MINUTE;
    assert_taken(scene, "node-7, eu: 2025-06-11 08:05:16 oom: a[18] was killed");
    happen(scene, "oom", "a[19] was killed", "");
    scene->passed_ns += 121 * MINUTE;
    assert_taken(scene, "node-7: not told one by one: 1 oom, from 2025-06-11 09:10:16 to "
                        "2025-06-11 09:10:16; on that host: huatuo list --since \"2025-06-11 "
                        "09:10:16\"");
}

static void test_same(void **state)
{
    static const struct {
        const char *one, *other;
        bool same;
    } cases[] = {
        {"a[1] was killed", "a[22] was killed", true},
        {"from 10.0.0.1:80 to 10.0.0.2:9", "from 10.0.0.3:8 to 1.2.3.4:56", true},
        {"from [fe80::1]:80", "from [2001:db8::7:1]:443", true},
        {"for 1.5 s", "for 20.25 s", true},
        {"cgroup /docker/0123456789abcdef", "cgroup /docker/abcdef0123456789", true},
        {"eth0: down", "eth1: down", false},
        {"/pod/web-1", "/pod/web-2", false},
        {"dropped in tcp_v4_rcv", "dropped in tcp_v6_rcv", false},
        {"a[1] b", "a[1]b", false},
        {"a[1]", "a", false},
        {"cafe[1]", "deed[1]", false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct scene *scene;
        json_t *json;

        setup((void **)&scene);
        happen(scene, "oom", cases[i].one, "");
        happen(scene, "oom", cases[i].other, "");
        json = take(scene);
        if ((json_array_size(json_object_get(json, "events")) == 1) != cases[i].same)
            fail_msg("%s, %s", cases[i].one, cases[i].other);
        json_decref(json);
        teardown((void **)&scene);
    }
    (void)state;
}

/** Another kind, container or host: another thing. */
static void test_place(void **state)
{
    struct scene *scene = *state;
    json_t *json;

    happen(scene, "oom", "a", "");
    happen(scene, "softirq", "a", "");
    happen(scene, "oom", "a", ",\"container_id\":\"11\"");
    happen(scene, "oom", "a", ",\"container_id\":\"12\"");
    happen(scene, "oom", "a", ",\"container_id\":\"12\"");
    look_at(scene, "oom", "{\"hostname\":\"node-8\",\"summary\":\"a\"}");
    json = take(scene);
    assert_int_equal(json_array_size(json_object_get(json, "events")), 5);
    assert_non_null(strstr(json_string_value(json_object_get(json, "text")),
                           "\nnode-8: 2025-06-11 08:05:16 oom: a"));
    json_decref(json);
}

/** Closing records say how many; they are of what they repeat. */
static void test_closing(void **state)
{
    struct scene *scene = *state;

    happen(scene, "oom", "a[1]: killed", "");
    happen(scene, "oom", "5 more of the same until 2026-11-22 22:40:32.773 +0000: a[1]: killed",
           ",\"tracer_data\":{\"repeat\":{\"of\":\"18\",\"count\":5}}");
    happen(scene, "oom", "over after 3.0 s, with 0 more reports: a[1]: killed",
           ",\"tracer_data\":{\"repeat\":{\"of\":\"18\",\"count\":0},\"ended\":true}");
    assert_taken(scene, "node-7, eu: 2025-06-11 08:05:16 oom: a[1]: killed (6 times until "
                        "2025-06-11 08:05:16)");
}

static void test_no_news(void **state)
{
    struct scene *scene = *state;

    happen(scene, "coverage", "oom is watched from now on", "");
    happen(scene, "netdev_event", "eth0: up, as the watching begins",
           ",\"tracer_data\":{\"start\":true}");
    assert_int_equal(due_s(scene), -1);
    happen(scene, "netdev_event", "eth0: down", ",\"tracer_data\":{\"start\":false}");
    assert_int_equal(due_s(scene), 0);
}

static void test_gap(void **state)
{
    struct scene *scene = *state;

    happen(scene, "oom", "a", "");
    json_decref(take(scene));
    scene->passed_ns += 10 * NS_PER_SEC;
    happen(scene, "oom", "b", "");
    happen(scene, "oom", "c", "");
    assert_int_equal(due_s(scene), 20);
    scene->passed_ns += 20 * NS_PER_SEC;
    assert_taken(scene, "node-7, eu: 2025-06-11 08:05:26 oom: b\n"
                        "node-7, eu: 2025-06-11 08:05:26 oom: c");
}

static void test_many(void **state)
{
    struct scene *scene = *state;
    char summary[] = "a was killed";
    const char *text;
    json_t *json;

    for (int c = 'a'; c <= 'z'; c++) {
        summary[0] = (char)c;
        happen(scene, c == 'y' ? "softirq" : "oom", summary, "");
        scene->passed_ns += NS_PER_SEC;
    }
    happen(scene, "oom", summary, "");
    json = take(scene);
    text = json_string_value(json_object_get(json, "text"));
    assert_non_null(strstr(text, "08:05:25 oom: j was killed\nnode-7: and 1 softirq, 16 oom, from "
                                 "2025-06-11 08:05:26 to 2025-06-11 08:05:42; on that host: "
                                 "huatuo list --since \"2025-06-11 08:05:26\""));
    assert_int_equal(json_array_size(json_object_get(json, "events")), 10);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "others"), "oom")),
                     16);
    json_decref(json);
    /* What was only counted is news if it happens again. */
    happen(scene, "oom", "z was killed", "");
    assert_int_equal(due_s(scene), 30);
    scene->passed_ns += MINUTE;
    assert_taken(scene, "node-7, eu: 2025-06-11 08:05:42 oom: z was killed");
}

/** After a night without the server: no list of what nobody can mend any more. */
static void test_backlog(void **state)
{
    struct scene *scene = *state;

    for (unsigned i = 0; i < 1000; i++) {
        happen(scene, "dropwatch", i % 2 ? "dropped in a" : "dropped in b", "");
        happen(scene, "oom", "a[1] was killed", "");
        scene->passed_ns += MINUTE;
    }
    scene->passed_ns += 61 * MINUTE;
    happen(scene, "oom", "c[1] was killed", "");
    assert_taken(scene, "node-7, eu: 2025-06-12 01:46:16 oom: c[1] was killed\n"
                        "node-7: and 1000 dropwatch, 1000 oom, from 2025-06-11 08:05:16 to "
                        "2025-06-12 00:44:16; on that host: huatuo list --since \"2025-06-11 "
                        "08:05:16\"");
    happen(scene, "dropwatch", "dropped in a", "");
    scene->passed_ns += 90 * MINUTE;
    assert_taken(scene, "node-7: not told one by one: 1 dropwatch, from 2025-06-12 01:46:16 to "
                        "2025-06-12 01:46:16; on that host: huatuo list --since \"2025-06-12 "
                        "01:46:16\"");
}

/** More things than can be remembered: none is lost, and the oldest is news again. */
static void test_bound(void **state)
{
    struct scene *scene = *state;
    char summary[] = "aa";
    json_t *json;

    for (unsigned i = 0; i < 300; i++) {
        summary[0] = (char)('a' + i / 26);
        summary[1] = (char)('a' + i % 26);
        happen(scene, "oom", summary, "");
    }
    json = take(scene);
    assert_int_equal(json_array_size(json_object_get(json, "events")), 10);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "others"), "oom")),
                     290);
    json_decref(json);

    set(scene, "min_gap", "0s");
    for (unsigned i = 0; i < 257; i++) {
        scene->passed_ns += NS_PER_SEC;
        summary[0] = (char)('A' + i / 26);
        summary[1] = (char)('A' + i % 26);
        happen(scene, "oom", summary, "");
        json_decref(take(scene));
    }
    happen(scene, "oom", summary, "");
    assert_int_equal(due_s(scene), 3600);
    happen(scene, "oom", "AA", "");
    assert_int_equal(due_s(scene), 0);
}

static void test_odd_records(void **state)
{
    struct scene *scene = *state;
    struct text summary = {};
    json_t *json;

    look_at(scene, "oom", "{nonsense \"}");
    look_at(scene, "oom", "{\"summary\":7,\"hostname\":[],\"tracer_data\":{\"repeat\":1}}");
    look_at(scene, "oom", "{\"summary\":\"a\",\"tracer_data\":{\"repeat\":{\"count\":-3}}}");
    for (unsigned i = 0; i < 400; i++)
        text_adds(&summary, "\xe2\x82\xac"); /* cut within a character */
    happen(scene, "oom", summary.data, "");
    happen(scene, "oom", "line\nbreak \x1b[31m", "");
    json = take(scene);
    assert_int_equal(json_array_size(json_object_get(json, "events")), 3);
    assert_non_null(
        strstr(json_string_value(json_object_get(json, "text")), "oom: its record is damaged"));
    assert_non_null(
        strstr(json_string_value(json_object_get(json, "text")), "oom: line\\x0abreak \\x1b[31m"));
    json_decref(json);
    text_done(&summary);
}

/** A name cannot call everybody, nor be a link. */
static void test_slack(void **state)
{
    struct scene *scene = *state;
    json_t *json;

    set(scene, "template", "slack");
    happen(scene, "oom", "killed <!channel> & *x*", "");
    happen(scene, "oom", "killed \"b\"", "");
    json = take(scene);
    assert_string(json, "text",
                  "node-7, eu: 2025-06-11 08:05:16 oom: killed &lt;!channel&gt; &amp; *x*\n"
                  "node-7, eu: 2025-06-11 08:05:16 oom: killed \"b\"");
    assert_true(json_is_false(json_object_get(json, "mrkdwn")));
    assert_int_equal(json_object_size(json), 2);
    json_decref(json);
}

static void test_teams(void **state)
{
    struct scene *scene = *state;
    const json_t *card, *blocks, *run;
    char summary[] = "a killed [x](http://y)";
    json_t *json;

    set(scene, "template", "teams");
    for (int c = 'a'; c <= 'k'; c++) {
        summary[0] = (char)c;
        happen(scene, "oom", summary, "");
    }
    json = take(scene);
    assert_string(json, "type", "message");
    card = json_array_get(json_object_get(json, "attachments"), 0);
    assert_string(card, "contentType", "application/vnd.microsoft.card.adaptive");
    blocks = json_object_get(json_object_get(card, "content"), "body");
    assert_int_equal(json_array_size(blocks), 11);
    run = json_array_get(json_object_get(json_array_get(blocks, 0), "inlines"), 0);
    assert_string(run, "type", "TextRun");
    assert_string(run, "text", "node-7, eu: 2025-06-11 08:05:16 oom: a killed [x](http://y)");
    run = json_array_get(json_object_get(json_array_get(blocks, 10), "inlines"), 0);
    assert_non_null(strstr(json_string_value(json_object_get(run, "text")), "node-7: and 1 oom,"));
    json_decref(json);
}

static void test_answers(void **state)
{
    static const struct {
        const char *answer;
        int expected;
    } cases[] = {
        {"", 0},
        {"ok", 0},
        {"{\"ok\":true}", 0},
        {"1", 0},
        {"<html>log in</html>", -EBADMSG},
        {"\r\n <!DOCTYPE html>", -EBADMSG},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(
            target_webhook.read(NULL, cases[i].answer, strlen(cases[i].answer), NULL, 0),
            cases[i].expected);
}

static void test_explain(void **state)
{
    static const struct {
        const char *answer, *expected;
    } cases[] = {
        {"invalid_payload", "invalid_payload"},
        {"{\"message\":\"Unknown Webhook\",\"code\":10015}", "Unknown Webhook"},
        {"{\"error\":{\"code\":\"X\",\"message\":\"is not enabled\"}}", "is not enabled"},
        {"{\"error\":\"x\"}", ""},
        {"7", "7"},
        /* That path is a secret. */
        {"Cannot POST /services/T0/B0/geheim", ""},
        {"{\"message\":\"no %2Fservices%2Fgeheim\"}", ""},
        {"<html>", ""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char why[256] = "x";

        target_webhook.explain(cases[i].answer, strlen(cases[i].answer), why, sizeof(why));
        assert_string_equal(why, cases[i].expected);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_one),
        TEST(test_not_taken),
        TEST(test_repeats),
        TEST(test_repeat_is_not_old),
        cmocka_unit_test(test_same),
        TEST(test_place),
        TEST(test_closing),
        TEST(test_no_news),
        TEST(test_gap),
        TEST(test_many),
        TEST(test_backlog),
        TEST(test_bound),
        TEST(test_odd_records),
        TEST(test_slack),
        TEST(test_teams),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_explain),
    };

    setenv("TZ", "UTC", 1);
    tzset();
    return cmocka_run_group_tests_name("webhook", tests, NULL, NULL);
}
