// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/arguments.h"

static const struct cli_command command = {
    .name = "cook", .arguments = "[WORD] [--salt GRAMS]", .summary = "For this test."};

struct parsed {
    bool hot, quick;
    const char *salt, *word, *spices[8];
};

static int parse(struct parsed *ret, char **argv)
{
    const struct argument table[] = {
        {"--hot", .flag = &ret->hot},    {"-q", .flag = &ret->quick},
        {"--salt", .value = &ret->salt}, {"--spice", .values = ret->spices},
        {"", .value = &ret->word},       {},
    };
    int argc = 0;

    *ret = (struct parsed){.salt = "0"};
    while (argv[argc])
        argc++;
    return arguments_parse(&command, table, argc, argv);
}

#define PARSE(ret, ...) parse(ret, (char *[]){(char *)"cook", __VA_ARGS__, NULL})
#define A(literal)      ((char *)(literal))

static void test_right(void **state)
{
    struct parsed p;

    (void)state;
    assert_int_equal(parse(&p, (char *[]){A("cook"), NULL}), CLI_OK);
    assert_string_equal(p.salt, "0");
    assert_null(p.word);
    assert_false(p.hot || p.quick);
    assert_null(p.spices[0]);

    assert_int_equal(PARSE(&p, A("--salt"), A("5"), A("soup"), A("--hot"), A("--spice=a=b"),
                           A("-q"), A("--spice"), A("--hot"), A("--spice=")),
                     CLI_OK);
    assert_string_equal(p.salt, "5");
    assert_string_equal(p.word, "soup");
    assert_true(p.hot && p.quick);
    assert_string_equal(p.spices[0], "a=b");
    assert_string_equal(p.spices[1], "--hot");
    assert_string_equal(p.spices[2], "");
    assert_null(p.spices[3]);

    assert_int_equal(PARSE(&p, A("--salt=1"), A("--salt=2")), CLI_OK);
    assert_string_equal(p.salt, "2");
}

static void test_wrong(void **state)
{
    struct parsed p;

    (void)state;
    assert_int_equal(PARSE(&p, A("--sal"), A("5")), CLI_USAGE);
    assert_int_equal(PARSE(&p, A("--salty=5")), CLI_USAGE);
    assert_int_equal(PARSE(&p, A("--salt")), CLI_USAGE);
    assert_int_equal(PARSE(&p, A("--hot=yes")), CLI_USAGE);
    assert_int_equal(PARSE(&p, A("-qq")), CLI_USAGE);
    assert_int_equal(PARSE(&p, A("soup"), A("bread")), CLI_USAGE);
    assert_int_equal(PARSE(&p, A("\x1b[2J")), CLI_OK);
    assert_int_equal(PARSE(&p, A("=5")), CLI_OK); /* a word */
    assert_string_equal(p.word, "=5");
    assert_int_equal(PARSE(&p, A("-")), CLI_OK);
    assert_string_equal(p.word, "-");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right),
        cmocka_unit_test(test_wrong),
    };

    return cmocka_run_group_tests_name("arguments", tests, NULL, NULL);
}
