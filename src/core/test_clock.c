// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <time.h>

#include "core/clock.h"

#define BERLIN     "CET-1CEST,M3.5.0,M10.5.0/3"
#define SEC(n)     ((uint64_t)(n)*NS_PER_SEC)
#define EPOCH_2025 UINT64_C(1749629116) /* 2025-06-11 08:05:16 UTC */

static void set_zone(const char *zone)
{
    assert_int_equal(setenv("TZ", zone, 1), 0);
    tzset();
}

static void test_formats(void **state)
{
    static const struct {
        const char *zone;
        uint64_t ns;
        const char *ms, *rfc3339, *s;
    } rows[] = {
        {"CST-8", SEC(EPOCH_2025) + 251152703, "2025-06-11 16:05:16.251 +0800",
         "2025-06-11T16:05:16.251152703+08:00", "2025-06-11 16:05:16"},
        {"UTC0", SEC(EPOCH_2025) + 999999999, "2025-06-11 08:05:16.999 +0000",
         "2025-06-11T08:05:16.999999999+00:00", "2025-06-11 08:05:16"},
        {"NST3:30", SEC(EPOCH_2025) + 1, "2025-06-11 04:35:16.000 -0330",
         "2025-06-11T04:35:16.000000001-03:30", "2025-06-11 04:35:16"},
        {"NPT-5:45", SEC(EPOCH_2025), "2025-06-11 13:50:16.000 +0545",
         "2025-06-11T13:50:16.000000000+05:45", "2025-06-11 13:50:16"},
        /* less than an hour west; both sides of both changes of a year */
        {"XXX0:30", SEC(0), "1969-12-31 23:30:00.000 -0030", "1969-12-31T23:30:00.000000000-00:30",
         "1969-12-31 23:30:00"},
        {BERLIN, SEC(1743296399) + 999000000, "2025-03-30 01:59:59.999 +0100",
         "2025-03-30T01:59:59.999000000+01:00", "2025-03-30 01:59:59"},
        {BERLIN, SEC(1743296400), "2025-03-30 03:00:00.000 +0200",
         "2025-03-30T03:00:00.000000000+02:00", "2025-03-30 03:00:00"},
        {BERLIN, SEC(1761436800), "2025-10-26 02:00:00.000 +0200",
         "2025-10-26T02:00:00.000000000+02:00", "2025-10-26 02:00:00"},
        {BERLIN, SEC(1761440400), "2025-10-26 02:00:00.000 +0100",
         "2025-10-26T02:00:00.000000000+01:00", "2025-10-26 02:00:00"},
    };
    char text[CLOCK_TEXT_MAX];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        set_zone(rows[i].zone);
        clock_format_ms(rows[i].ns, text);
        assert_string_equal(text, rows[i].ms);
        clock_format_rfc3339(rows[i].ns, text);
        assert_string_equal(text, rows[i].rfc3339);
        clock_format_s(rows[i].ns, text);
        assert_string_equal(text, rows[i].s);
    }
    clock_format_rfc3339(UINT64_MAX, text);
    assert_string_equal(text, "2554-07-22T01:34:33.709551615+02:00");
}

static void test_parse(void **state)
{
    static const struct {
        const char *zone, *text;
        uint64_t ns;
    } rows[] = {
        {"CST-8", "now", SEC(EPOCH_2025)},
        {"CST-8", "10m", SEC(EPOCH_2025 - 600)},
        {"CST-8", "100ms", SEC(EPOCH_2025) - 100 * NS_PER_MS},
        {"CST-8", "7d", SEC(EPOCH_2025 - 7 * 86400)},
        {"CST-8", "200000d", 0},
        {"CST-8", "2025-06-11T16:05:16.251152703+08:00", SEC(EPOCH_2025) + 251152703},
        {"CST-8", "2025-06-11T08:05:16Z", SEC(EPOCH_2025)},
        {"CST-8", "2025-06-11T03:05:16.5-05:00", SEC(EPOCH_2025) + 500000000},
        {"CST-8", "2025-06-11T16:05:16.2511527039999+08:00", SEC(EPOCH_2025) + 251152703},
        {"CST-8", "2025-06-11 16:05:16.251 +0800", SEC(EPOCH_2025) + 251000000},
        {"CST-8", "2025-06-11 16:05:16 +0800", SEC(EPOCH_2025)},
        {"CST-8", "2025-06-11 16:05:16.251", SEC(EPOCH_2025) + 251000000},
        {"CST-8", "2025-06-11 16:05:16", SEC(EPOCH_2025)},
        {"CST-8", "2025-06-11 16:05", SEC(EPOCH_2025 - 16)},
        {"CST-8", "2025-06-11", SEC(EPOCH_2025 - 57916)},
        {"CST-8", "16:05:16", SEC(EPOCH_2025)},
        {"CST-8", "16:05", SEC(EPOCH_2025 - 16)},
        {"CST-8", "00:00", SEC(EPOCH_2025 - 57916)},
        {"CST-8", "2024-02-29 00:00:00 +0000", SEC(1709164800)},
        {BERLIN, "2025-03-30 01:59:59", SEC(1743296399)},
        {BERLIN, "2025-03-30 03:00:00", SEC(1743296400)},
        {BERLIN, "2025-10-26 02:00:00 +0200", SEC(1761436800)},
        {BERLIN, "2025-10-26 02:00:00 +0100", SEC(1761440400)},
    };
    static const char *const bad[] = {
        "",
        " ",
        "yesterday",
        "10",
        "10 parsecs",
        "-10m",
        "2025",
        "2025-06",
        "2025-06-11T",
        "2025-06-11 ",
        "2025-06-11X16:05",
        "2025-13-01",
        "2025-00-01",
        "2025-06-31",
        "2025-02-29",
        "2100-02-29",
        "2025-16:05",
        "1900-01-01",
        "9999-01-01",
        "1970-01-01T00:00:00+08:00",
        "24:00",
        "16:60",
        "16:5",
        "16:05:",
        "16:05:61",
        "16:05:16.",
        "16:05:16 +0800",
        "16:05 pm",
        "2025-06-11 16:05:16 +08",
        "2025-06-11 16:05:16 +0860",
        "2025-06-11 16:05:16 +0800 ",
        "2025-06-11 16:05:16  +0800",
        "2025-06-11 16:05:16 CET",
        "2025-06-11T08:05:16Zulu",
        "now!",
    };
    uint64_t ns;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        set_zone(rows[i].zone);
        print_message("# %s\n", rows[i].text);
        assert_int_equal(clock_parse(rows[i].text, SEC(EPOCH_2025), &ns), 0);
        assert_int_equal(ns, rows[i].ns);
    }
    set_zone("CST-8");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        ns = 42;
        print_message("# '%s'\n", bad[i]);
        assert_int_equal(clock_parse(bad[i], SEC(EPOCH_2025), &ns), -EINVAL);
        assert_int_equal(ns, 42);
    }
}

static void test_parse_reads_what_is_formatted(void **state)
{
    static const char *const zones[] = {"CST-8", "UTC0", "NST3:30", "NPT-5:45", BERLIN};
    char text[CLOCK_TEXT_MAX];
    uint64_t ns;

    (void)state;
    for (size_t z = 0; z < ARRAY_SIZE(zones); z++) {
        set_zone(zones[z]);
        /* a prime number of seconds, so that every hour of the day and both changes are met */
        for (uint64_t t = SEC(1735689600) + 123456789; t < SEC(1767225600); t += SEC(5003)) {
            clock_format_rfc3339(t, text);
            assert_int_equal(clock_parse(text, 0, &ns), 0);
            assert_int_equal(ns, t);
            clock_format_ms(t, text);
            assert_int_equal(clock_parse(text, 0, &ns), 0);
            assert_int_equal(ns, t - t % NS_PER_MS);
        }
    }
}

static void test_steps_keep_the_past(void **state)
{
    const int64_t offset = (int64_t)SEC(1700000000), hour = (int64_t)SEC(3600);
    struct wall_clock clock = {};

    (void)state;
    clock_update_with(&clock, SEC(100), offset);
    assert_int_equal(clock.n_steps, 1);
    clock_update_with(&clock, SEC(101), offset);
    clock_update_with(&clock, SEC(102), offset + hour); /* forwards */
    clock_update_with(&clock, SEC(103), offset + hour);
    clock_update_with(&clock, SEC(104), offset - hour); /* backwards, beyond the start */
    assert_int_equal(clock.n_steps, 3);

    assert_int_equal(clock_realtime(&clock, SEC(1)), SEC(1) + (uint64_t)offset);
    assert_int_equal(clock_realtime(&clock, SEC(101)), SEC(101) + (uint64_t)offset);
    /* between two looks: after the step */
    assert_int_equal(clock_realtime(&clock, SEC(101) + 1),
                     SEC(101) + 1 + (uint64_t)(offset + hour));
    assert_int_equal(clock_realtime(&clock, SEC(103)), SEC(103) + (uint64_t)(offset + hour));
    assert_int_equal(clock_realtime(&clock, SEC(104)), SEC(104) + (uint64_t)(offset - hour));
    assert_int_equal(clock_realtime(&clock, SEC(999)), SEC(999) + (uint64_t)(offset - hour));

    /* a clock that was set to before the machine's start */
    clock_update_with(&clock, SEC(2000), -(int64_t)SEC(1500));
    assert_int_equal(clock_realtime(&clock, SEC(2000)), SEC(500));
}

static void test_slewing_is_followed(void **state)
{
    const int64_t offset = (int64_t)SEC(1700000000);
    struct wall_clock clock = {};
    int64_t now = offset;

    (void)state;
    /* 500 ppm, the most that adjtimex does, for an hour */
    for (unsigned s = 0; s < 3600; s++, now += 500 * (int64_t)NS_PER_US)
        clock_update_with(&clock, SEC(s), now);
    assert_int_equal(clock.n_steps, 1);
    assert_int_equal(clock_realtime(&clock, SEC(3599)),
                     SEC(3599) + (uint64_t)(now - 500 * (int64_t)NS_PER_US));

    /* exactly 1 ms is slewing still, more is a step */
    now = clock.steps[0].offset_ns;
    clock_update_with(&clock, SEC(3600), now - (int64_t)NS_PER_MS);
    assert_int_equal(clock.n_steps, 1);
    clock_update_with(&clock, SEC(3601), now + 1);
    assert_int_equal(clock.n_steps, 2);
    /* a reading that comes late changes nothing */
    clock_update_with(&clock, SEC(3600), 0);
    assert_int_equal(clock.n_steps, 2);
    assert_int_equal(clock.checked_boot_ns, SEC(3601));
}

static void test_many_steps_forget_the_oldest(void **state)
{
    const int64_t offset = (int64_t)SEC(1700000000);
    struct wall_clock clock = {};

    (void)state;
    for (unsigned i = 0; i < 3 * CLOCK_STEPS_MAX; i++) {
        clock_update_with(&clock, SEC(10 * i), offset + (int64_t)SEC(i));
        clock_update_with(&clock, SEC(10 * i + 9), offset + (int64_t)SEC(i));
    }
    assert_int_equal(clock.n_steps, CLOCK_STEPS_MAX);
    for (unsigned i = 0; i < 3 * CLOCK_STEPS_MAX; i++) {
        unsigned held = i < 2 * CLOCK_STEPS_MAX ? 2 * CLOCK_STEPS_MAX : i;

        assert_int_equal(clock_realtime(&clock, SEC(10 * i + 5)),
                         SEC(10 * i + 5) + (uint64_t)offset + SEC(held));
    }
}

static void test_update_reads_the_clocks(void **state)
{
    struct wall_clock clock = {};

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        uint64_t before = clock_now_ns(CLOCK_REALTIME), boot, converted;

        clock_update(&clock);
        boot = clock_now_ns(CLOCK_BOOTTIME);
        converted = clock_realtime(&clock, boot);
        /* as exact as one sample of the two clocks is */
        assert_in_range(converted, before - NS_PER_MS, clock_now_ns(CLOCK_REALTIME) + NS_PER_MS);
    }
    assert_int_equal(clock.n_steps, 1);
}

/** Told at once: what happened before the step keeps the offset that held then. */
static void test_told_of_a_step(void **state)
{
    const int64_t wrong = 12345 * (int64_t)NS_PER_SEC;
    uint64_t now = clock_now_ns(CLOCK_BOOTTIME);
    struct wall_clock clock = {};
    int64_t right;

    (void)state;
    clock_update_with(&clock, now - 2 * NS_PER_SEC, wrong); /* the last look was a while ago */
    clock_stepped(&clock);
    right = (int64_t)(clock_now_ns(CLOCK_REALTIME) - clock_now_ns(CLOCK_BOOTTIME));
    assert_int_equal(clock_realtime(&clock, now), now + (uint64_t)wrong);
    assert_in_range(clock_realtime(&clock, now + NS_PER_SEC),
                    now + NS_PER_SEC + (uint64_t)right - 10 * NS_PER_MS,
                    now + NS_PER_SEC + (uint64_t)right + 10 * NS_PER_MS);
}

static void test_nobody_sets_the_clock(void **state)
{
    _close_fd_ int fd = clock_watch_fd();

    (void)state;
    assert_true(fd >= 0);
    assert_false(clock_was_set(fd));
    assert_false(clock_was_set(-1));
}

static void test_tell(void **state)
{
    struct wall_clock clock = {.base = CLOCK_MONOTONIC}, next = {.base = CLOCK_MONOTONIC};
    struct wire_clock live = {};

    (void)state;
    clock_update_with(&clock, 100, (int64_t)SEC(1000));
    clock_tell(&clock, &live);
    assert_int_equal(live.n, 1);
    assert_int_equal(live.steps[0].since_ns, 100);
    assert_int_equal(live.offset_ns, SEC(1000));

    /* slewing is followed */
    clock_update_with(&clock, 200, (int64_t)SEC(1000) + 500);
    clock_tell(&clock, &live);
    assert_int_equal(live.n, 1);
    assert_int_equal(live.steps[0].offset_ns, SEC(1000) + 500);
    assert_int_equal(live.offset_ns, SEC(1000) + 500);

    /* a step, from the last look on; what was before stays */
    clock_update_with(&clock, 300, (int64_t)SEC(400));
    clock_tell(&clock, &live);
    assert_int_equal(live.n, 2);
    assert_int_equal(live.steps[0].since_ns, 100);
    assert_int_equal(live.steps[0].offset_ns, SEC(1000) + 500);
    assert_int_equal(live.steps[1].since_ns, 201);
    assert_int_equal(live.steps[1].offset_ns, SEC(400));
    assert_int_equal(live.offset_ns, SEC(400));

    /* another agent that goes on knows only the present */
    clock_update_with(&next, 400, (int64_t)SEC(400));
    clock_tell(&next, &live);
    assert_int_equal(live.n, 2);
    assert_int_equal(live.steps[1].since_ns, 201);

    /* of more than there is room for, the newest */
    for (unsigned i = 0; i < WIRE_CLOCK_STEPS; i++) {
        clock_update_with(&next, 500 + i, (int64_t)SEC(i));
        clock_tell(&next, &live);
    }
    assert_int_equal(live.n, 2 + WIRE_CLOCK_STEPS);
    assert_int_equal(live.steps[(live.n - 1) % WIRE_CLOCK_STEPS].offset_ns,
                     SEC(WIRE_CLOCK_STEPS - 1));
    assert_int_equal(live.steps[(live.n - WIRE_CLOCK_STEPS) % WIRE_CLOCK_STEPS].offset_ns, 0);
}

/** The real clocks, as the agent looks at them. */
static void test_tell_now(void **state)
{
    struct wall_clock clock = {.base = CLOCK_MONOTONIC};
    struct wire_clock live = {};
    int64_t distance;

    (void)state;
    clock_update(&clock);
    clock_tell(&clock, &live);
    distance = (int64_t)(clock_now_ns(CLOCK_REALTIME) - clock_now_ns(CLOCK_MONOTONIC));
    assert_true(llabs(live.offset_ns - distance) < (int64_t)NS_PER_SEC);
    distance = (int64_t)(clock_now_ns(CLOCK_TAI) - clock_now_ns(CLOCK_REALTIME));
    assert_true(llabs(live.tai_ns - distance) < (int64_t)NS_PER_SEC / 2);
    assert_int_equal(live.tai_ns % (int64_t)NS_PER_SEC, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tell),
        cmocka_unit_test(test_tell_now),
        cmocka_unit_test(test_told_of_a_step),
        cmocka_unit_test(test_nobody_sets_the_clock),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_parse_reads_what_is_formatted),
        cmocka_unit_test(test_steps_keep_the_past),
        cmocka_unit_test(test_slewing_is_followed),
        cmocka_unit_test(test_many_steps_forget_the_oldest),
        cmocka_unit_test(test_update_reads_the_clocks),
    };

    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
