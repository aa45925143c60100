// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "cli/gaps.h"
#include "core/event.h"

#define SECOND    NS_PER_SEC
#define T(second) (UINT64_C(1750000000) * SECOND + (second)*SECOND)

struct fixture {
    struct gaps *gaps;
    char *text; /* what was printed last */
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    setenv("TZ", "UTC", 1);
    *state = f;
    return f ? gaps_new(&f->gaps) : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    gaps_free(f->gaps);
    free(f->text);
    free(f);
    return 0;
}

static void note(struct fixture *f, uint64_t when_ns, const char *data)
{
    char json[512];
    struct store_row row = {.realtime_ns = when_ns, .tracer_name = COVERAGE_NAME, .json = json};

    row.len = (size_t)snprintf(json, sizeof(json), "{\"tracer_data\":%s}", data);
    assert_int_equal(gaps_note(f->gaps, &row), 0);
}

static void change(struct fixture *f, uint64_t when_ns, const char *change, const char *reason)
{
    char data[256];

    snprintf(data, sizeof(data), "{\"event\":\"dropwatch\",\"change\":\"%s\",\"reason\":\"%s\"}",
             change, reason);
    note(f, when_ns, data);
}

static void assert_gaps(struct fixture *f, uint64_t since_ns, uint64_t until_ns, int n,
                        const char *text)
{
    size_t size;
    FILE *out;

    free(f->text);
    f->text = NULL;
    out = open_memstream(&f->text, &size);
    assert_non_null(out);
    assert_int_equal(gaps_print(f->gaps, NULL, since_ns, until_ns, out), n);
    fclose(out);
    assert_string_equal(f->text, text);
}

static void test_none(void **state)
{
    struct fixture *f = *state;

    assert_gaps(f, 0, T(100), 0, "");
    change(f, T(0), "begin", "");
    assert_gaps(f, 0, T(100), 0, "");
    assert_gaps(f, T(1), T(100), 0, "");
    change(f, T(10), "hook", "");
    assert_gaps(f, T(1), T(100), 0, "");
}

static void test_before_the_first(void **state)
{
    struct fixture *f = *state;

    change(f, T(0), "begin", "");
    assert_gaps(f, T(0) - 60 * SECOND, T(100), 1,
                "-- dropwatch: not watched from the beginning to 2025-06-15 15:06:40.000 +0000: no "
                "agent ran, as far as is known\n");
}

static void test_between(void **state)
{
    struct fixture *f = *state;
    static const char gap[] =
        "-- dropwatch: not watched from 2025-06-15 15:06:50.000 +0000 to 2025-06-15 15:07:00.000 "
        "+0000: stopped\n";

    change(f, T(0), "begin", "");
    change(f, T(10), "end", "stopped");
    change(f, T(20), "begin", "");
    assert_gaps(f, 0, T(100), 1, gap);
    assert_gaps(f, T(5), T(100), 1, gap);
    assert_gaps(f, T(15), T(16), 1,
                "-- dropwatch: not watched from 2025-06-15 15:06:50.000 +0000 to 2025-06-15 "
                "15:06:56.000 +0000: stopped\n");
    assert_gaps(f, T(21), T(100), 0, "");
    assert_gaps(f, T(1), T(9), 0, "");
}

/** An agent that cannot watch is started again and again: that is one gap. */
static void test_goes_on(void **state)
{
    struct fixture *f = *state;

    change(f, T(0), "begin", "");
    change(f, T(10), "end", "stopped");
    change(f, T(20), "failed", "no BTF");
    change(f, T(30), "failed", "no BTF");
    assert_gaps(f, T(1), T(100), 1,
                "-- dropwatch: not watched from 2025-06-15 15:06:50.000 +0000 on: stopped\n");
    change(f, T(40), "begin", "");
    assert_gaps(f, T(1), T(100), 1,
                "-- dropwatch: not watched from 2025-06-15 15:06:50.000 +0000 to 2025-06-15 "
                "15:07:20.000 +0000: stopped\n");
}

static void test_killed(void **state)
{
    struct fixture *f = *state;

    change(f, T(0), "begin", "");
    assert_int_equal(gaps_end(f->gaps, T(10)), 0);
    assert_gaps(f, T(1), T(100), 1,
                "-- dropwatch: not watched from 2025-06-15 15:06:50.000 +0000 on: the agent was "
                "killed, or the machine went down\n");
    /* It says nothing of what had ended in order. */
    assert_int_equal(gaps_end(f->gaps, T(50)), 0);
    assert_gaps(f, T(60), T(100), 1, f->text ? strdupa(f->text) : "");
}

static void test_lost(void **state)
{
    struct fixture *f = *state;

    change(f, T(0), "begin", "");
    note(f, T(10),
         "{\"event\":\"dropwatch\",\"change\":\"lost\",\"reason\":\"ring_full 7\",\"lost\":7,"
         "\"since\":\"2025-06-15 15:06:45.000 +0000\"}");
    assert_gaps(f, T(1), T(100), 1,
                "-- dropwatch: 7 events were lost from 2025-06-15 15:06:45.000 +0000 to 2025-06-15 "
                "15:06:50.000 +0000: ring_full 7\n");
    assert_gaps(f, T(11), T(100), 0, "");
}

static void test_kinds(void **state)
{
    struct fixture *f = *state;
    const char *const wanted[] = {"dropwatch", NULL}, *const other[] = {"other", NULL};

    change(f, T(0), "begin", "");
    change(f, T(10), "end", "");
    assert_int_equal(gaps_print(f->gaps, wanted, T(1), T(100), stderr), 1);
    assert_int_equal(gaps_print(f->gaps, other, T(1), T(100), stderr), 0);
}

/** Whatever stands in the store: nothing is made up of it, and nothing acts on the terminal. */
static void test_hostile(void **state)
{
    struct fixture *f = *state;
    struct store_row row = {.tracer_name = COVERAGE_NAME, .json = "{", .len = 1};

    assert_int_equal(gaps_note(f->gaps, &row), 0);
    row.tracer_name = "dropwatch";
    assert_int_equal(gaps_note(f->gaps, &row), 0);
    note(f, T(0), "[]");
    note(f, T(0), "{\"event\":\"no such kind\",\"change\":\"end\"}");
    note(f, T(0), "{\"event\":7,\"change\":\"end\"}");
    note(f, T(0), "{\"event\":\"dropwatch\",\"change\":7}");
    note(f, T(0), "{\"event\":\"dropwatch\",\"change\":\"lost\",\"lost\":-1}");
    assert_gaps(f, T(0), T(100), 0, "");
    change(f, T(10), "end", "\\u001b[2J\\n");
    assert_gaps(f, T(5), T(100), 1,
                "-- dropwatch: not watched from 2025-06-15 15:06:50.000 +0000 on: \\x1b[2J\\x0a\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_before_the_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_between, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_goes_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_kinds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hostile, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("gaps", tests, NULL, NULL);
}
