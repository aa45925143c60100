// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "agent/windows.h"
#include "core/wire.h"

static struct window_last last_of(unsigned i)
{
    struct window_last last = {};

    snprintf(last.tracer_id, sizeof(last.tracer_id), "%028u", i);
    assert_true(asprintf(&last.summary, "summary %u", i) > 0);
    assert_true(asprintf(&last.brief, "\"n\":%u", i) > 0);
    return last;
}

static void set(struct windows *w, uint64_t window_id, unsigned i)
{
    struct window_last last = last_of(i);

    windows_set(w, window_id, &last);
    assert_null(last.summary); /* taken over */
    assert_null(last.brief);
}

static void assert_taken(struct windows *w, uint64_t window_id, unsigned i)
{
    _cleanup_(window_last_done) struct window_last expected = last_of(i), got = {};

    assert_true(windows_take(w, window_id, &got));
    assert_string_equal(got.tracer_id, expected.tracer_id);
    assert_string_equal(got.summary, expected.summary);
    assert_string_equal(got.brief, expected.brief);
}

static void assert_unknown(struct windows *w, uint64_t window_id)
{
    struct window_last got;

    memset(&got, 'x', sizeof(got));
    assert_false(windows_take(w, window_id, &got));
    assert_string_equal(got.tracer_id, "");
    assert_null(got.summary);
    assert_null(got.brief);
}

static struct windows *make(size_t max)
{
    struct windows *w = NULL;

    assert_int_equal(windows_new(max, &w), 0);
    return w;
}

static void test_set_and_take(void **state)
{
    struct windows *w = make(10);

    (void)state;
    assert_unknown(w, 1);
    set(w, 1, 1);
    set(w, UINT64_MAX, 2);
    set(w, 0, 3);
    /* that differ only above the 32nd bit */
    set(w, UINT64_C(1) << 32 | 1, 4);
    set(w, UINT64_C(1) << 63 | 1, 5);
    assert_unknown(w, 2);
    assert_taken(w, UINT64_C(1) << 32 | 1, 4);
    assert_taken(w, 1, 1);
    assert_unknown(w, 1); /* only once */
    assert_taken(w, UINT64_C(1) << 63 | 1, 5);
    assert_taken(w, 0, 3);
    assert_taken(w, UINT64_MAX, 2);
    set(w, 1, 6);
    assert_taken(w, 1, 6);
    set(w, 7, 7);
    assert_null(windows_free(w)); /* with what nobody has asked for */
    assert_null(windows_free(NULL));
}

static void test_update(void **state)
{
    struct windows *w = make(2);

    (void)state;
    set(w, 1, 1);
    set(w, 2, 2);
    set(w, 1, 3); /* is no third */
    assert_taken(w, 2, 2);
    assert_taken(w, 1, 3);
    assert_unknown(w, 1);
    windows_free(w);
}

static void test_empty_texts(void **state)
{
    struct windows *w = make(2);
    struct window_last last = {.tracer_id = "id"}, got;

    (void)state;
    windows_set(w, 1, &last);
    assert_true(windows_take(w, 1, &got));
    assert_string_equal(got.tracer_id, "id");
    assert_null(got.summary);
    assert_null(got.brief);
    windows_free(w);
}

/** Most windows close without repeats and are never taken out: they must not keep others out. */
static void test_oldest_goes(void **state)
{
    struct windows *w = make(3);

    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        set(w, 5000 - i, i);
    assert_unknown(w, 5000);
    assert_unknown(w, 5000 - 996);
    assert_taken(w, 5000 - 998, 998); /* makes room in the middle */
    set(w, 1, 1);
    assert_taken(w, 5000 - 997, 997);
    assert_taken(w, 5000 - 999, 999);
    assert_taken(w, 1, 1);

    windows_free(w);
    w = make(1);
    set(w, 1, 1);
    set(w, 2, 2);
    assert_unknown(w, 1);
    assert_taken(w, 2, 2);
    windows_free(w);
}

/** Against a plain array that does the same. */
static void test_many(void **state)
{
    enum { IDS = 64, MAX = 20 };
    struct {
        unsigned i, came; /* came 0: not known */
    } model[IDS] = {};
    struct windows *w = make(MAX);
    unsigned random = 1, n = 0, evicted = 0;

    (void)state;
    for (unsigned step = 1; step < 20000; step++) {
        unsigned id;

        random = random * 1103515245 + 12345;
        id = random >> 16 & (IDS - 1);
        if (random >> 28 & 3) {
            if (!model[id].came && n == MAX) {
                unsigned oldest = 0;

                for (unsigned j = 0; j < IDS; j++)
                    if (model[j].came &&
                        (!model[oldest].came || model[j].came < model[oldest].came))
                        oldest = j;
                model[oldest].came = 0;
                n--;
                evicted++;
            }
            if (!model[id].came) {
                model[id].came = step;
                n++;
            }
            model[id].i = step;
            set(w, id, step);
        } else if (model[id].came) {
            assert_taken(w, id, model[id].i);
            model[id].came = 0;
            n--;
        } else {
            assert_unknown(w, id);
        }
    }
    assert_true(evicted > 100);
    windows_free(w);
}

/** Which events belong to a window: both the programs and the root part go by this. */
static void test_open(void **state)
{
    struct wire_window w = {.begin_ns = 1000, .last_ns = 1500};

    (void)state;
    assert_true(WIRE_WINDOW_OPEN(&w, 1999, 1000)); /* from its first event */
    assert_false(WIRE_WINDOW_OPEN(&w, 2000, 1000));
    assert_true(WIRE_WINDOW_OPEN(&w, 900, 1000)); /* another CPU was faster */

    w.started_ns = 1; /* an episode: from its last report */
    assert_true(WIRE_WINDOW_OPEN(&w, 2499, 1000));
    assert_false(WIRE_WINDOW_OPEN(&w, 2500, 1000));
    assert_true(WIRE_WINDOW_OPEN(&w, 1400, 1000));
    w.ended_ns = 1600;
    assert_false(WIRE_WINDOW_OPEN(&w, 1600, 1000));
    assert_false(WIRE_WINDOW_OPEN(&w, 1400, 1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),        cmocka_unit_test(test_set_and_take),
        cmocka_unit_test(test_update),      cmocka_unit_test(test_empty_texts),
        cmocka_unit_test(test_oldest_goes), cmocka_unit_test(test_many),
    };

    return cmocka_run_group_tests_name("windows", tests, NULL, NULL);
}
