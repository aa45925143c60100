// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/tree.h"

static char folder[] = "/tmp/huatuo-test-tree-XXXXXX";

static const char *below(const char *name)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void put(const char *name, const char *bytes, size_t len)
{
    _close_fd_ int fd = open(below(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_int_equal(write(fd, bytes, len), len);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    static const char *const names[] = {"file", "link", "out", "up", "pipe",
                                        "huge", "d/x",  "d",   ""};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        remove(below(names[i]));
    return 0;
}

static void test_reads_below(void **state)
{
    _free_ char *bytes = NULL, *cut = NULL;
    struct tree t;
    size_t len;

    (void)state;
    put("file", "a\0b", 3);
    assert_int_equal(tree_open(folder, &t), 0);
    assert_true(t.foreign);
    assert_int_equal(tree_read(&t, "/file", 100, &bytes, &len), 0);
    assert_int_equal(len, 3);
    assert_memory_equal(bytes, "a\0b", 4);
    assert_int_equal(tree_read(&t, "file", 1, &cut, &len), 0);
    assert_int_equal(len, 1);
    assert_string_equal(cut, "a");
    assert_int_equal(tree_look(&t, "/file"), 0);
    assert_int_equal(tree_look(&t, "/gone"), -ENOENT);
    tree_close(&t);
}

static void test_links_stay_inside(void **state)
{
    _free_ char *bytes = NULL;
    struct tree t;

    (void)state;
    put("file", "inside", 6);
    assert_int_equal(symlink("/file", below("link")), 0);
    assert_int_equal(symlink("/etc/passwd", below("out")), 0);
    assert_int_equal(symlink("../../../../../etc/passwd", below("up")), 0);
    assert_int_equal(tree_open(folder, &t), 0);
    assert_int_equal(tree_read(&t, "/link", 100, &bytes, NULL), 0);
    assert_string_equal(bytes, "inside");
    assert_int_equal(tree_open_file(&t, "/out"), -ENOENT);
    assert_int_equal(tree_open_file(&t, "/up"), -ENOENT);
    assert_int_equal(tree_open_file(&t, "/../../../../etc/passwd"), -ENOENT);
    tree_close(&t);
}

static void test_what_is_no_file(void **state)
{
    _free_ char *bytes = NULL;
    struct tree t;

    (void)state;
    assert_int_equal(mkfifo(below("pipe"), 0644), 0);
    assert_int_equal(mkdir(below("d"), 0755), 0);
    assert_int_equal(tree_open(folder, &t), 0);
    /* Nobody writes into it: it must not be waited for. */
    assert_int_equal(tree_open_file(&t, "/pipe"), -ENOTSUP);
    assert_int_equal(tree_open_file(&t, "/d"), -ENOTSUP);
    assert_int_equal(tree_read(&t, "/d", 10, &bytes, NULL), -ENOTSUP);
    assert_null(bytes);
    tree_close(&t);
    assert_int_equal(t.fd, -1);
    assert_int_equal(tree_open(below("pipe"), &t), -ENOTDIR);
}

static void test_huge(void **state)
{
    _free_ char *bytes = NULL;
    struct tree t;
    size_t len;

    (void)state;
    put("huge", "x", 1);
    assert_int_equal(truncate(below("huge"), INT64_C(1) << 40), 0);
    assert_int_equal(tree_open(folder, &t), 0);
    assert_int_equal(tree_read(&t, "/huge", 100000, &bytes, &len), 0);
    assert_int_equal(len, 100000);
    assert_int_equal(bytes[0], 'x');
    tree_close(&t);
}

static void test_this_machine(void **state)
{
    static const char *const roots[] = {"", "/", "//"};
    struct tree t;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(roots); i++) {
        _free_ char *bytes = NULL;
        size_t len;

        assert_int_equal(tree_open(roots[i], &t), 0);
        assert_false(t.foreign);
        assert_int_equal(tree_read(&t, "/proc/self/status", 100000, &bytes, &len), 0);
        assert_non_null(strstr(bytes, "\nCapEff:"));
        assert_int_equal(tree_open_file(&t, "/dev/null"), -ENOTSUP);
        tree_close(&t);
    }
    assert_int_equal(tree_open("/no/such/folder", &t), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_below),     cmocka_unit_test(test_links_stay_inside),
        cmocka_unit_test(test_what_is_no_file), cmocka_unit_test(test_huge),
        cmocka_unit_test(test_this_machine),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
