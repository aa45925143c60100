// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/render.h"
#include "core/clock.h"

static char *line(const char *json, bool colour, bool with_stack)
{
    char *shown = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&shown, &len);

    assert_non_null(out);
    assert_int_equal(render_line(out, json, strlen(json), colour, with_stack), 0);
    fclose(out);
    return shown;
}

static char *whole(const char *json, bool colour)
{
    char *shown = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&shown, &len);

    assert_non_null(out);
    assert_int_equal(render_whole(out, json, strlen(json), colour), 0);
    fclose(out);
    return shown;
}

#define OLD "\"time\":\"2025-06-11 16:05:16.251 +0800\""

static void test_line(void **state)
{
    static const struct {
        const char *json, *shown;
    } rows[] = {
        {"{" OLD ",\"tracer_name\":\"dropwatch\",\"summary\":\"a packet was dropped\","
         "\"process\":{\"pid\":17,\"comm\":\"kubelet\"},\"tracer_data\":{\"comm\":\"x\",\"pid\":1}"
         "}",
         "2025-06-11 16:05:16.251 dropwatch       kubelet[17]  a packet was dropped\n"},
        /* another time zone's record; only tracer_data knows who */
        {"{\"time\":\"2025-06-11 08:05:16.251 +0000\",\"tracer_name\":\"oom\",\"summary\":\"s\","
         "\"tracer_data\":{\"comm\":\"x\",\"pid\":0}}",
         "2025-06-11 16:05:16.251 oom             x[0]  s\n"},
        {"{\"tracer_name\":\"a_name_longer_than_all\"}", "- a_name_longer_than_all  -  \n"},
        {"{\"time\":\"when?\",\"tracer_name\":\"lacp\",\"summary\":7,\"process\":[],"
         "\"tracer_data\":3}",
         "when? lacp            -  \n"},
        /* everything that anybody could have written somewhere */
        {"{\"time\":\"\\u001b[2J\",\"tracer_name\":\"\\u0007\",\"summary\":\"a\\nb\\u202e\\u009b\","
         "\"process\":{\"pid\":\"\\u001b\",\"comm\":\"\\u001b]0;x\\u0007\"}}",
         "\\x1b[2J \\x07               \\x1b]0;x\\x07  a\\x0ab\\u{202e}\\u{009b}\n"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _free_ char *shown = line(rows[i].json, false, false);

        assert_string_equal(shown, rows[i].shown);
    }
}

static void test_todays_line_has_no_date(void **state)
{
    uint64_t now_ns = clock_now_ns(CLOCK_REALTIME);
    char json[256], now[CLOCK_TEXT_MAX], after[CLOCK_TEXT_MAX], expected[256];
    _free_ char *shown = NULL, *dated = NULL;

    (void)state;
    clock_format_ms(now_ns, now);
    snprintf(json, sizeof(json), "{\"time\":\"%s\",\"tracer_name\":\"softirq\",\"summary\":\"s\"}",
             now);
    shown = line(json, false, false);
    clock_format_s(clock_now_ns(CLOCK_REALTIME), after);
    if (strncmp(now, after, strlen("2025-06-11")) != 0)
        skip(); /* midnight */
    snprintf(expected, sizeof(expected), "%.12s softirq         -  s\n",
             now + strlen("2025-06-11 "));
    assert_string_equal(shown, expected);

    clock_format_ms(now_ns - 24 * 3600 * NS_PER_SEC, now);
    snprintf(json, sizeof(json), "{\"time\":\"%s\",\"tracer_name\":\"softirq\",\"summary\":\"s\"}",
             now);
    dated = line(json, false, false);
    snprintf(expected, sizeof(expected), "%.23s softirq         -  s\n", now);
    assert_string_equal(dated, expected);
}

static void test_colour(void **state)
{
    _free_ char *shown =
        line("{" OLD ",\"tracer_name\":\"oom\",\"summary\":\"s\",\"process\":{\"pid\":1,"
             "\"comm\":\"c\"},\"tracer_data\":{\"stack\":\"f\"}}",
             true, true);

    (void)state;
    assert_string_equal(shown, "\033[2m2025-06-11 16:05:16.251\033[0m \033[1moom\033[0m"
                               "             \033[36mc\033[0m[1]  s\n"
                               "\033[2m    f\n\033[0m");
}

static void test_stacks(void **state)
{
    static const char json[] = "{\"tracer_name\":\"softlockup\",\"tracer_data\":{\"stack\":\"a/1 "
                               "[kernel]\\nb\\u001b/2\\n\","
                               "\"other\":\"x\\ny\",\"cpus_stack\":\"cpu "
                               "0:\\n\\nc\",\"stack_bytes\":5,\"empty_stack\":7}}";
    _free_ char *with = line(json, false, true), *without = line(json, false, false);

    (void)state;
    assert_string_equal(without, "- softlockup      -  \n");
    assert_string_equal(with, "- softlockup      -  \n"
                              "    a/1 [kernel]\n"
                              "    b\\x1b/2\n"
                              "    cpus_stack\n"
                              "      cpu 0:\n"
                              "      \n"
                              "      c\n");
}

static void test_whole(void **state)
{
    static const char json[] =
        "{\"tracer_name\":\"oom\",\"region\":\"\",\"z\":18,\"a\":-9223372036854775808,\"t\":true,"
        "\"f\":false,\"n\":null,\"r\":0.5,\"\\u001b\":\"\\u001b[1m\",\"process\":{\"pid\":1,"
        "\"comm\":\"c\"},\"none\":{},\"list\":[1,\"two\",{\"k\":3},[]],\"tracer_data\":{\"stack\":"
        "\"one\\ntwo\\u0007\",\"long_key\":{\"deep\":9223372036854775807}}}";
    _free_ char *plain = whole(json, false), *coloured = whole("{\"tracer_name\":\"x\"}", true);

    (void)state;
    assert_string_equal(plain, "tracer_name  oom\n"
                               "region       \"\"\n"
                               "z            18\n"
                               "a            -9223372036854775808\n"
                               "t            true\n"
                               "f            false\n"
                               "n            null\n"
                               "r            0.5\n"
                               "\\x1b            \\x1b[1m\n"
                               "process\n"
                               "  pid   1\n"
                               "  comm  c\n"
                               "none         {}\n"
                               "list\n"
                               "  - 1\n"
                               "  - two\n"
                               "  -\n"
                               "    k  3\n"
                               "  - []\n"
                               "tracer_data\n"
                               "  stack\n"
                               "    one\n"
                               "    two\\x07\n"
                               "  long_key\n"
                               "    deep  9223372036854775807\n");
    assert_string_equal(coloured, "\033[2mtracer_name\033[0m  x\n");
}

static void test_no_records(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "7",
        "[]",
        "null",
        "{}",
        "{\"tracer_name\":5}",
        "{\"tracer_name\":\"x\"} more",
        "{\"tracer_name\":\"\xff\"}",
    };
    _free_ char *shown = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&shown, &len);

    (void)state;
    assert_non_null(out);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(render_line(out, bad[i], strlen(bad[i]), false, true), -EBADMSG);
        assert_int_equal(render_whole(out, bad[i], strlen(bad[i]), false), -EBADMSG);
    }
    fclose(out);
    assert_int_equal(len, 0);
}

static void test_errors_of_writing(void **state)
{
    static const char json[] = "{\"tracer_name\":\"x\"}";
    FILE *full = fopen("/dev/full", "we");

    (void)state;
    assert_non_null(full);
    setbuf(full, NULL);
    assert_int_equal(render_line(full, json, strlen(json), false, false), -ENOSPC);
    assert_int_equal(render_whole(full, json, strlen(json), false), -ENOSPC);
    assert_false(render_colour(full));
    fclose(full);
}

static int set_zone(void **state)
{
    (void)state;
    if (setenv("TZ", "CST-8", 1) < 0)
        return -1;
    tzset();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_todays_line_has_no_date),
        cmocka_unit_test(test_colour),
        cmocka_unit_test(test_stacks),
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_no_records),
        cmocka_unit_test(test_errors_of_writing),
    };

    return cmocka_run_group_tests_name("render", tests, set_zone, NULL);
}
