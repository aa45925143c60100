// SPDX-License-Identifier: Apache-2.0

#include "core/text.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define FFFD "\xef\xbf\xbd"

/* One input, and what becomes of it in a JSON string (as its reader sees it) and on a terminal. */
struct sample {
    const char *what, *bytes, *json, *printable;
};

static const struct sample samples[] = {
    {"nothing", "", "", ""},
    {"ASCII", "java -Xmx4g", "java -Xmx4g", "java -Xmx4g"},
    {"quote and backslash", "a\"b\\c/", "a\"b\\c/", "a\"b\\c/"},
    {"C0 with a short form", "\b\f\n\r\t", "\b\f\n\r\t", "\\x08\\x0c\\x0a\\x0d\\x09"},
    {"other C0", "\x01\x1b[31m\x1f", "\x01\x1b[31m\x1f", "\\x01\\x1b[31m\\x1f"},
    {"DEL", "\x7f", "\x7f", "\\x7f"},
    {"two bytes", "caf\xc3\xa9", "caf\xc3\xa9", "caf\xc3\xa9"},
    {"three bytes", "\xe5\x8d\x8e\xe4\xbd\x97", "\xe5\x8d\x8e\xe4\xbd\x97",
     "\xe5\x8d\x8e\xe4\xbd\x97"},
    {"four bytes", "\xf0\x9f\x90\xa7", "\xf0\x9f\x90\xa7", "\xf0\x9f\x90\xa7"},
    {"first of two, three, four", "\xc2\xa0|\xe0\xa0\x80|\xf0\x90\x80\x80",
     "\xc2\xa0|\xe0\xa0\x80|\xf0\x90\x80\x80", "\xc2\xa0|\xe0\xa0\x80|\xf0\x90\x80\x80"},
    {"last character", "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
    {"beyond the last", "\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD, "\\xf4\\x90\\x80\\x80"},
    {"lead byte that never is", "\xf5\x80\x80\x80\xff\xfe", FFFD FFFD FFFD FFFD FFFD FFFD,
     "\\xf5\\x80\\x80\\x80\\xff\\xfe"},
    {"overlong slash, two", "\xc0\xaf", FFFD FFFD, "\\xc0\\xaf"},
    {"overlong slash, three", "\xe0\x80\xaf", FFFD FFFD FFFD, "\\xe0\\x80\\xaf"},
    {"overlong slash, four", "\xf0\x80\x80\xaf", FFFD FFFD FFFD FFFD, "\\xf0\\x80\\x80\\xaf"},
    {"overlong NUL", "\xc0\x80", FFFD FFFD, "\\xc0\\x80"},
    {"longest overlong", "\xe0\x9f\xbf|\xf0\x8f\xbf\xbf", FFFD FFFD FFFD "|" FFFD FFFD FFFD FFFD,
     "\\xe0\\x9f\\xbf|\\xf0\\x8f\\xbf\\xbf"},
    {"first and last surrogate", "\xed\xa0\x80\xed\xbf\xbf", FFFD FFFD FFFD FFFD FFFD FFFD,
     "\\xed\\xa0\\x80\\xed\\xbf\\xbf"},
    {"beside the surrogates", "\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80",
     "\xed\x9f\xbf\xee\x80\x80"},
    {"stray continuation", "a\x80z\xbf", "a" FFFD "z" FFFD, "a\\x80z\\xbf"},
    {"cut off at the end", "a\xf0\x9f\x90", "a" FFFD FFFD FFFD, "a\\xf0\\x9f\\x90"},
    {"cut off by ASCII", "\xe5\x8d!", FFFD FFFD "!", "\\xe5\\x8d!"},
    {"cut off by a lead byte", "\xe5\xc3\xa9", FFFD "\xc3\xa9", "\\xe5\xc3\xa9"},
    {"C1",
     "\xc2\x80\xc2\x9b"
     "31m\xc2\x9f",
     "\xc2\x80\xc2\x9b"
     "31m\xc2\x9f",
     "\\u{0080}\\u{009b}31m\\u{009f}"},
    {"bidi override",
     "a\xe2\x80\xae"
     "exe",
     "a\xe2\x80\xae"
     "exe",
     "a\\u{202e}exe"},
    {"isolates", "\xe2\x81\xa6\xe2\x81\xa9", "\xe2\x81\xa6\xe2\x81\xa9", "\\u{2066}\\u{2069}"},
    {"marks", "\xe2\x80\x8e\xe2\x80\x8f\xd8\x9c", "\xe2\x80\x8e\xe2\x80\x8f\xd8\x9c",
     "\\u{200e}\\u{200f}\\u{061c}"},
    {"zero width", "a\xe2\x80\x8b\xef\xbb\xbfz", "a\xe2\x80\x8b\xef\xbb\xbfz",
     "a\\u{200b}\\u{feff}z"},
    {"beside the hidden", "\xe2\x80\x8a\xe2\x80\x90\xe2\x80\xaf",
     "\xe2\x80\x8a\xe2\x80\x90\xe2\x80\xaf", "\xe2\x80\x8a\xe2\x80\x90\xe2\x80\xaf"},
    {"line separator", "\xe2\x80\xa8", "\xe2\x80\xa8", "\\u{2028}"},
    {"tag", "\xf3\xa0\x81\x81", "\xf3\xa0\x81\x81", "\\u{e0041}"},
};

static bool is_printable(const struct text *t)
{
    _cleanup_(text_done) struct text printable = {};

    text_add_printable(&printable, t->data, t->len);
    return strcmp(printable.data, t->data) == 0;
}

static void assert_json(const char *what, const char *bytes, size_t max, const char *expected)
{
    _cleanup_(text_done) struct text t = {};
    json_error_t error;
    json_t *array;

    text_adds(&t, "[\"");
    text_add_json(&t, bytes, max);
    text_adds(&t, "\"]");
    assert_false(t.failed);
    if (!is_printable(&t))
        fail_msg("%s: the JSON text could act on a terminal: %s", what, t.data);
    array = json_loadb(t.data, t.len, 0, &error);
    if (!array)
        fail_msg("%s: no JSON: %s: %s", what, error.text, t.data);
    if (strcmp(json_string_value(json_array_get(array, 0)), expected) != 0)
        fail_msg("%s: wrong: %s", what, t.data);
    json_decref(array);
}

static void test_json(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(samples); i++)
        assert_json(samples[i].what, samples[i].bytes, SIZE_MAX, samples[i].json);
}

static void test_printable(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
        _cleanup_(text_done) struct text once = {}, twice = {};

        text_add_printable(&once, samples[i].bytes, SIZE_MAX);
        if (strcmp(once.data ? once.data : "", samples[i].printable) != 0)
            fail_msg("%s: %s", samples[i].what, once.data);
        /* What is printable stays as it is. */
        text_add_printable(&twice, samples[i].printable, SIZE_MAX);
        assert_string_equal(twice.data ? twice.data : "", samples[i].printable);
    }
}

/* The exact bytes, where a JSON reader would not see a difference. */
static void test_json_form(void **state)
{
    _cleanup_(text_done) struct text t = {};

    (void)state;
    text_add_json(&t, "\"\\/\n\x01\x7f", SIZE_MAX);
    assert_string_equal(t.data, "\\\"\\\\/\\n\\u0001\\u007f");
    text_done(&t);
    text_add_json(&t, "\xc2\x80\xc2\x9b\xc2\x9f\xc2\xa0", SIZE_MAX);
    assert_string_equal(t.data, "\\u0080\\u009b\\u009f\xc2\xa0");
    text_done(&t);
    text_add_json(&t, "\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa\xe2\x80\xae\xe2\x81\xa6\xe2\x81\xa9",
                  SIZE_MAX);
    assert_string_equal(t.data, "\\u2028\\u2029\\u202a\\u202e\\u2066\\u2069");
    text_done(&t);
    text_add_json(&t, "\xf3\xa0\x80\x80\xf3\xa0\x81\xbf\xf0\x9f\x90\xa7", SIZE_MAX);
    assert_string_equal(t.data, "\\udb40\\udc00\\udb40\\udc7f\xf0\x9f\x90\xa7");
}

/* Nothing behind the end is read: the heap is exactly as large as the bytes (seen by ASan). */
static void test_max(void **state)
{
    static const char penguin[] = {'a', '\xf0', '\x9f', '\x90', '\xa7'};

    (void)state;
    for (size_t n = 0; n <= sizeof(penguin); n++) {
        _cleanup_(text_done) struct text t = {};
        static const char *const expected[] = {
            "", "a", "a\\xf0", "a\\xf0\\x9f", "a\\xf0\\x9f\\x90", "a\xf0\x9f\x90\xa7",
        };
        _free_ char *exact = malloc(n ? n : 1);

        assert_non_null(exact);
        memcpy(exact, penguin, n);
        text_add_printable(&t, exact, n);
        assert_string_equal(t.data ? t.data : "", expected[n]);
    }
}

static void test_nul(void **state)
{
    _cleanup_(text_done) struct text t = {};

    (void)state;
    text_add_printable(&t, "ab\0cd", 5);
    text_add_json(&t, "ef\0gh", 5);
    text_add_json(&t, "\xe5\x8d\0", 3);
    assert_string_equal(t.data, "abef" FFFD FFFD);
    assert_int_equal(t.len, 10);
}

/* Every sequence of two bytes, and random ones: always JSON, always printable. */
static void test_any_bytes(void **state)
{
    uint32_t random = 12345;
    char bytes[24];

    (void)state;
    for (unsigned i = 0; i < 0x10000 + 20000; i++) {
        size_t n = i < 0x10000 ? 2 : sizeof(bytes);
        _cleanup_(text_done) struct text json = {}, plain = {};
        json_t *value;

        bytes[0] = (char)(i >> 8);
        bytes[1] = (char)i;
        for (size_t k = 0; n > 2 && k < n; k++) {
            random = random * 1664525 + 1013904223;
            /* Mostly from where the difficult ones are. */
            bytes[k] = (char)(random >> 30 ? 0x80 | random >> 24 : random >> 24);
        }
        text_adds(&json, "\"");
        text_add_json(&json, bytes, n);
        text_adds(&json, "\"");
        value = json_loadb(json.data, json.len, JSON_DECODE_ANY, NULL);
        if (!value)
            fail_msg("no JSON: %s", json.data);
        json_decref(value);
        assert_true(is_printable(&json));

        text_add_printable(&plain, bytes, n);
        for (size_t k = 0; k < plain.len; k++)
            assert_true((unsigned char)plain.data[k] >= 0x20 && plain.data[k] != 0x7f);
    }
}

static void test_grows(void **state)
{
    _cleanup_(text_done) struct text t = {};

    (void)state;
    assert_null(t.data);
    text_add(&t, "", 0);
    text_addf(&t, "%s", "");
    assert_null(t.data);
    for (unsigned i = 0; i < 5000; i++) {
        text_addf(&t, "%04u", i);
        assert_int_equal(strlen(t.data), t.len);
    }
    assert_false(t.failed);
    assert_int_equal(t.len, 20000);
    assert_memory_equal(t.data + 4 * 4711, "4711", 4);
}

static void test_limit(void **state)
{
    _cleanup_(text_done) struct text t = {.max = 10}, exact = {.max = 10}, whole = {};
    _free_ char *large = calloc(1, 16 * 1024 * 1024);

    (void)state;
    text_adds(&exact, "0123456789");
    assert_false(exact.failed);
    assert_string_equal(exact.data, "0123456789");

    text_adds(&t, "01234");
    text_adds(&t, "567890");
    assert_true(t.failed);
    assert_string_equal(t.data, "01234");
    /* It sticks, even for what would fit: a text with a hole would be worse than none. */
    text_adds(&t, "5");
    text_addf(&t, "%d", 5);
    text_add_json(&t, "5", 1);
    assert_string_equal(t.data, "01234");

    assert_non_null(large);
    text_add(&whole, large, 16 * 1024 * 1024);
    assert_false(whole.failed);
    text_adds(&whole, "x");
    assert_true(whole.failed);

    text_done(&t);
    text_adds(&t, "again");
    assert_false(t.failed);
    assert_string_equal(t.data, "again");
}

static void test_quote(void **state)
{
    char q[TEXT_QUOTED_MAX], worst[200];

    (void)state;
    assert_string_equal(text_quote("", q), "\"\"");
    assert_string_equal(text_quote("a\x1b[0m", q), "\"a\\x1b[0m\"");
    assert_string_equal(text_quote("0123456789012345678901234567890123456789", q),
                        "\"0123456789012345678901234567890123456789\"");
    assert_string_equal(text_quote("01234567890123456789012345678901234567890", q),
                        "\"0123456789012345678901234567890123456789...\"");
    /* Not cut inside the character at 38. */
    assert_string_equal(text_quote("01234567890123456789012345678901234567\xe5\x8d\x8e", q),
                        "\"01234567890123456789012345678901234567...\"");
    memset(worst, '\x01', sizeof(worst) - 1);
    worst[sizeof(worst) - 1] = '\0';
    text_quote(worst, q);
    assert_int_equal(strlen(q), 2 + 40 * 4 + 3);
    assert_string_equal(q + strlen(q) - 4, "...\"");
}

static void test_nearest(void **state)
{
    static const char *const words[] = {"protocols",    "enabled",       "ring_size",
                                        "repeat_limit", "repeat_window", "on"};
    static const struct {
        const char *typed, *meant;
    } cases[] = {
        {"protcols", "protocols"},
        {"portocols", "protocols"},
        {"Enabled", "enabled"},
        {"enable", "enabled"},
        {"repeat_limt", "repeat_limit"},
        {"repeat-window", "repeat_window"},
        {"onn", "on"},
        {"password", NULL},
        {"x", NULL},
        {"", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct nearest n = {.typed = cases[i].typed};

        for (size_t k = 0; k < ARRAY_SIZE(words); k++)
            nearest_offer(&n, words[k]);
        if (!cases[i].meant) {
            if (n.found)
                fail_msg("\"%s\" is not \"%s\"", n.typed, n.found);
        } else if (!n.found || strcmp(n.found, cases[i].meant) != 0) {
            fail_msg("\"%s\": %s", n.typed, n.found ? n.found : "nothing");
        }
    }
}

static void test_nearest_is_bounded(void **state)
{
    _free_ char *longest = malloc(100001);
    struct nearest n = {.typed = longest};

    (void)state;
    assert_non_null(longest);
    memset(longest, 'a', 100000);
    longest[100000] = '\0';
    nearest_offer(&n, "protocols");
    assert_null(n.found);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_printable),
        cmocka_unit_test(test_json_form),
        cmocka_unit_test(test_max),
        cmocka_unit_test(test_nul),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_grows),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_quote),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_nearest_is_bounded),
    };

    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
