// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/event.h"
#include "core/numbers.h"

static char folder[64];

static void write_file(const char *text, size_t len)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/file", folder);
    f = fopen(path, "we");
    assert_non_null(f);
    fwrite(text, 1, len, f);
    fclose(f);
}

/** What record_numbers() makes of it; NULL: nothing. */
static json_t *numbers(const char *text, size_t len, int *ret)
{
    static const struct event event = {.name = "test", .tracer_name = "test"};
    static const struct record_origin origin = {
        .hostname = "", .region = "", .kernel_release = "", .boot_id = ""};
    struct record *r = NULL;
    struct doc *doc = NULL;
    json_t *whole, *object;

    write_file(text, len);
    assert_int_equal(record_new(&origin, &event, 0, 1, &r), 0);
    *ret = record_numbers(r, "n", folder, "/file");
    assert_int_equal(record_finish(r, 1, &doc), 0);
    record_free(r);
    whole = json_loadb(doc->json, doc->len, 0, NULL);
    doc_unref(doc);
    assert_non_null(whole);
    object = json_incref(json_object_get(json_object_get(whole, "tracer_data"), "n"));
    json_decref(whole);
    return object;
}

static void test_numbers(void **state)
{
    static const char text[] = "MemTotal:       24684788 kB\n"
                               "Active(anon):          0 kB\n"
                               "HugePages_Total:       7\n"
                               "anon 35651584\n"
                               "hierarchical_memory_limit 9223372036854771712\n";
    json_t *object;
    int r;

    (void)state;
    object = numbers(text, strlen(text), &r);
    assert_int_equal(r, 0);
    assert_int_equal(json_object_size(object), 5);
    assert_int_equal(json_integer_value(json_object_get(object, "MemTotal")),
                     INT64_C(24684788) * 1024);
    assert_int_equal(json_integer_value(json_object_get(object, "HugePages_Total")), 7);
    assert_int_equal(json_integer_value(json_object_get(object, "anon")), 35651584);
    assert_true(json_is_integer(json_object_get(object, "Active(anon)")));
    json_decref(object);
}

static void test_other_lines(void **state)
{
    static const char text[] =
        "full avg10=0.00 avg60=0.00 total=0\n"
        "negative -1\n"
        "text max\n"
        "\n"
        "quote\"d 1\n"
        "two 1 2\n"
        "overflow 99999999999999999999\n"
        "overflow2: 18446744073709551615 kB\n"
        "pages 3 pages\n"
        "a_name_of_more_than_sixty_three_characters_is_not_one_of_the_kernels 1\n"
        "good 1";
    json_t *object;
    int r;

    (void)state;
    object = numbers(text, strlen(text), &r);
    assert_int_equal(json_object_size(object), 1);
    assert_int_equal(json_integer_value(json_object_get(object, "good")), 1);
    json_decref(object);

    object = numbers("", 0, &r);
    assert_int_equal(r, 0);
    assert_int_equal(json_object_size(object), 0);
    json_decref(object);
}

static void test_bounds(void **state)
{
    _free_ char *text = calloc(1, 300 * 1024);
    size_t len = 0;
    json_t *object;
    int r;

    (void)state;
    assert_non_null(text);
    for (unsigned i = 0; i < 1000; i++)
        len += (size_t)snprintf(text + len, 64, "line%u %u\n", i, i);
    object = numbers(text, len, &r);
    assert_int_equal(json_object_size(object), NUMBERS_MAX);
    json_decref(object);
    memset(text, 'x', 300 * 1024);
    object = numbers(text, 300 * 1024, &r);
    assert_int_equal(r, -EFBIG);
    assert_null(object);
}

static void test_one_number(void **state)
{
    static const struct {
        const char *text;
        int r;
        uint64_t value;
    } rows[] = {
        {"0\n", 0, 0},
        {"12345", 0, 12345},
        {"max\n", 0, UINT64_MAX},
        {"", -EBADMSG, 0},
        {"1 2\n", -EBADMSG, 0},
        {"-1\n", -EBADMSG, 0},
        {"maximum\n", -EBADMSG, 0},
    };
    uint64_t value;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        write_file(rows[i].text, strlen(rows[i].text));
        value = 0;
        assert_int_equal(file_read_u64(folder, "/file", &value), rows[i].r);
        assert_true(value == rows[i].value);
    }
    assert_int_equal(file_read_u64(folder, "/none", &value), -ENOENT);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/test_numbers.XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    char path[128];

    (void)state;
    snprintf(path, sizeof(path), "%s/file", folder);
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_other_lines),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_one_number),
    };

    return cmocka_run_group_tests_name("numbers", tests, set_up, tear_down);
}
