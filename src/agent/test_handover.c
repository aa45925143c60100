// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/handover.h"

/* --- a store that says what a test wants it to */

struct store {
    struct store_counts counts;
    struct store_state state;
};

void store_get_counts(const struct store *s, unsigned event, struct store_counts *ret)
{
    (void)event;
    *ret = s->counts;
}

void store_get_state(const struct store *s, struct store_state *ret)
{
    *ret = s->state;
}

int store_get_target(const struct store *s, const char *name, struct store_target *ret)
{
    (void)s;
    (void)name;
    (void)ret;
    return -ENOENT;
}

/* --- a kind whose counters lie in plain memory */

#define N_CPUS 2

/** In the next agent the operator has put a rule in front. */
static const char *rule_name(const void *options, unsigned index)
{
    static const char *const before[] = {"own", "mine"}, *const after[] = {"own", "new", "mine"};
    const struct event_options *o = options;

    if (o->repeat_limit == 1)
        return index < ARRAY_SIZE(before) ? before[index] : NULL;
    return index < ARRAY_SIZE(after) ? after[index] : NULL;
}

static const char *const no_programs[] = {NULL};
static const struct hook hooks[] = {
    {.name = "hook", .watches = "it", .ways = {{"way", no_programs}}},
    {},
};
static const struct event test_event = {
    .name = "testing",
    .tracer_name = "testing",
    .hooks = hooks,
    .rule_name = rule_name,
};
static const struct event_options before = {.enabled = true, .repeat_limit = 1};
static const struct event_options after = {.enabled = true, .repeat_limit = 2};

static struct wire_counters counters[N_CPUS];
static struct store old_store, new_store;

static void kind_make(struct agent_kind *kind, const struct event_options *options)
{
    *kind = (struct agent_kind){
        .event = &test_event,
        .options = options,
        .enabled = true,
        .loaded = true,
        .instance = 7,
        .n_cpus = N_CPUS,
        .counters = counters,
        .counters_size = sizeof(counters),
        .ring_fd = -1,
    };
}

/** Its counters are not mapped. */
static void kind_drop(struct agent_kind *kind)
{
    kind->counters = NULL;
    kind_done(kind);
}

static int set_up(void **state)
{
    (void)state;
    memset(counters, 0, sizeof(counters));
    old_store = new_store = (struct store){};
    return 0;
}

static struct windows *windows_make(void)
{
    struct windows *w = NULL;

    assert_int_equal(windows_new(100, &w), 0);
    return w;
}

/** From one kind to the next; `windows` may be NULL. */
static void hand_over(const struct agent_kind *from, const struct store *store,
                      const struct windows *left, struct agent_kind *to, struct windows *taken)
{
    const struct status_input in = {
        .kinds = from,
        .n_kinds = 1,
        .store = store,
        .started_ns = 12345,
        .version = "1",
        .symbols = "",
        .user = "",
    };
    _cleanup_(windows_freep) struct windows *none = windows_make();
    uint64_t started_ns = 0;
    int fd = handover_write(&in, left ? left : none);

    assert_true(fd >= 0);
    assert_int_equal(handover_read(fd, to, 1, taken ? taken : none, &started_ns), 0);
    assert_int_equal(started_ns, 12345);
    close(fd);
}

static void count(unsigned cpu, uint64_t unit)
{
    struct wire_counters *c = &counters[cpu];

    c->seen += 100 * unit;
    c->sent += 10 * unit;
    c->suppressed += 20 * unit;
    c->filtered[0] += unit;
    c->filtered[1] += 5 * unit;
    c->lost[WIRE_LOST_RING_FULL] += 3 * unit;
}

static void assert_account(const struct agent_kind *kind, const struct store *store, uint64_t seen,
                           uint64_t recorded, uint64_t suppressed, uint64_t filtered, uint64_t lost)
{
    struct kind_account a;

    kind_get_account(kind, store, &a);
    assert_int_equal(a.seen, seen);
    assert_int_equal(a.recorded, recorded);
    assert_int_equal(a.suppressed, suppressed);
    assert_int_equal(a.filtered, filtered);
    assert_int_equal(a.lost, lost);
    assert_int_equal(a.unaccounted, (int64_t)(seen - recorded - suppressed - filtered - lost));
}

static int64_t status_number(const struct agent_kind *kind, const struct store *store,
                             const char *object, const char *name)
{
    const struct status_input in = {.kinds = kind, .n_kinds = 1, .store = store, .version = ""};
    json_auto_t *status = status_event(kind, &in);
    const json_t *value = json_object_get(json_object_get(status, object), name);

    return value ? json_integer_value(value) : -1;
}

/* --- tests */

/** The counters in the kernel go on, and each of their events is counted once. */
static void test_goes_on(void **state)
{
    struct agent_kind one, two;

    (void)state;
    kind_make(&one, &before);
    kind_make(&two, &after);
    count(0, 1);
    count(1, 1);
    old_store.counts.recorded = 15;
    old_store.counts.lost[STORE_LOST_QUEUE_FULL] = 4;
    one.lost[AGENT_LOST_DECODE] = 1;
    assert_account(&one, &old_store, 200, 15, 40, 12, 11);
    snprintf(one.covered, sizeof(one.covered), "way");

    hand_over(&one, &old_store, NULL, &two, NULL);
    assert_account(&two, &new_store, 200, 15, 40, 12, 11);
    assert_string_equal(two.covered, "way");
    assert_int_equal(two.noted.lost, 11);
    assert_int_equal(status_number(&two, &new_store, "filtered_by", "own"), 2);
    /* By name, not by place. */
    assert_int_equal(status_number(&two, &new_store, "filtered_by", "mine"), 10);
    assert_int_equal(status_number(&two, &new_store, "filtered_by", "new"), 0);
    assert_int_equal(status_number(&two, &new_store, "lost_by", "ring_full"), 6);
    assert_int_equal(status_number(&two, &new_store, "lost_by", "decode"), 1);
    assert_int_equal(status_number(&two, &new_store, "lost_by", "queue_full"), 4);

    count(0, 1);
    new_store.counts.recorded = 10;
    assert_account(&two, &new_store, 300, 25, 60, 18, 14);
    assert_int_equal(status_number(&two, &new_store, "filtered_by", "new"), 5);
    assert_int_equal(status_number(&two, &new_store, "filtered_by", "mine"), 10);
    assert_int_equal(status_number(&two, &new_store, "lost_by", "ring_full"), 9);
    kind_drop(&one);
    kind_drop(&two);
}

/** Twice, and on the way: what the first counted is not counted again by the third. */
static void test_twice(void **state)
{
    struct agent_kind one, two, three;

    (void)state;
    kind_make(&one, &before);
    kind_make(&two, &before);
    kind_make(&three, &before);
    count(0, 1);
    hand_over(&one, &old_store, NULL, &two, NULL);
    count(1, 2);
    hand_over(&two, &new_store, NULL, &three, NULL);
    count(0, 4);
    assert_account(&three, &new_store, 700, 0, 140, 42, 21);
    assert_int_equal(status_number(&three, &new_store, "filtered_by", "mine"), 35);
    kind_drop(&one);
    kind_drop(&two);
    kind_drop(&three);
}

/** Loaded anew, its counters begin at 0; what was counted before stays. */
static void test_other_instance(void **state)
{
    struct agent_kind one, two;

    (void)state;
    kind_make(&one, &before);
    kind_make(&two, &before);
    two.instance = 8;
    count(0, 1);
    hand_over(&one, &old_store, NULL, &two, NULL);
    memset(counters, 0, sizeof(counters));
    assert_account(&two, &new_store, 100, 0, 20, 6, 3);
    count(0, 1);
    assert_account(&two, &new_store, 200, 0, 40, 12, 6);
    kind_drop(&one);
    kind_drop(&two);
}

/** Switched off: what it has counted is still shown. */
static void test_switched_off(void **state)
{
    struct agent_kind one, two;

    (void)state;
    kind_make(&one, &before);
    kind_make(&two, &before);
    count(0, 1);
    two.enabled = two.loaded = false;
    two.counters = NULL;
    hand_over(&one, &old_store, NULL, &two, NULL);
    assert_account(&two, &new_store, 100, 0, 20, 6, 3);
    kind_drop(&one);
    kind_drop(&two);
}

static void test_windows(void **state)
{
    _cleanup_(windows_freep) struct windows *left = windows_make(), *taken = windows_make();
    _cleanup_(window_last_done) struct window_last got = {};
    struct window_last last = {.tracer_id = "0000000000000000000000000001"};
    struct agent_kind one, two;

    (void)state;
    last.summary = strdup("of \xff\"evil\"\n\x1b[2J");
    last.brief = strdup("\"n\":1");
    windows_set(left, UINT64_C(1) << 62, &last);
    last = (struct window_last){.tracer_id = "0000000000000000000000000002"};
    windows_set(left, 2, &last); /* without texts, for want of memory */
    kind_make(&one, &before);
    kind_make(&two, &before);
    hand_over(&one, &old_store, left, &two, taken);

    assert_true(windows_take(taken, UINT64_C(1) << 62, &got));
    assert_string_equal(got.tracer_id, "0000000000000000000000000001");
    assert_non_null(strstr(got.summary, "\"evil\""));
    assert_string_equal(got.brief, "\"n\":1");
    window_last_done(&got);
    assert_true(windows_take(taken, 2, &got));
    assert_string_equal(got.summary, "");
    kind_drop(&one);
    kind_drop(&two);
}

/** Whatever comes instead, nothing is made up of it. */
static void test_nonsense(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "7",
        "{}",
        "{\"kinds\":[],\"windows\":{}}",
        "{\"kinds\":{\"testing\":7},\"windows\":[7,{},{\"id\":\"x\"}]}",
        "{\"kinds\":{\"testing\":{\"account\":[],\"kernel\":\"x\",\"covered\":7}}}",
        ("{\"kinds\":{\"testing\":{\"account\":{\"seen\":-1,\"recorded\":\"x\"},"
         "\"kernel\":{\"instance\":7,\"seen\":-5,\"lost\":7,\"filtered\":[]}}}}"),
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        _cleanup_(windows_freep) struct windows *taken = windows_make();
        _close_fd_ int fd = memfd_create("text", MFD_CLOEXEC);
        struct agent_kind kind;
        uint64_t started_ns = 0;
        int r;

        kind_make(&kind, &before);
        assert_int_equal(write(fd, texts[i], strlen(texts[i])), (ssize_t)strlen(texts[i]));
        r = handover_read(fd, &kind, 1, taken, &started_ns);
        assert_true(r == 0 || r == -EBADMSG);
        assert_int_equal(r, i < 4 ? -EBADMSG : 0);
        assert_account(&kind, &new_store, 0, 0, 0, 0, 0);
        kind_drop(&kind);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_goes_on, set_up),
        cmocka_unit_test_setup(test_twice, set_up),
        cmocka_unit_test_setup(test_other_instance, set_up),
        cmocka_unit_test_setup(test_switched_off, set_up),
        cmocka_unit_test_setup(test_windows, set_up),
        cmocka_unit_test_setup(test_nonsense, set_up),
    };

    return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
