// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base.h"
#include "core/cgroup.h"

static struct wire_cgroup make(const char *const *names, unsigned n)
{
    struct wire_cgroup c = {.css = 1, .n_names = n};

    for (unsigned i = 0; i < n; i++)
        snprintf(c.names[i], sizeof(c.names[i]), "%s", names[i]);
    return c;
}

static void test_path(void **state)
{
    static const char *const names[] = {"leaf", "middle", "top"};
    struct wire_cgroup c = make(names, 3);
    char path[CGROUP_PATH_MAX];

    (void)state;
    assert_int_equal(cgroup_path(&c, 0, path), 0);
    assert_string_equal(path, "/top/middle/leaf");
    assert_int_equal(cgroup_path(&c, 1, path), 0);
    assert_string_equal(path, "/top/middle");
    assert_int_equal(cgroup_path(&c, 3, path), 0);
    assert_string_equal(path, "/");
    assert_int_equal(cgroup_path(&c, 99, path), 0);
    assert_string_equal(path, "/");
    c.cut = 1;
    assert_int_equal(cgroup_path(&c, 0, path), 0);
    assert_string_equal(path, "/.../top/middle/leaf");
    c.css = 0;
    assert_int_equal(cgroup_path(&c, 0, path), 0);
    assert_string_equal(path, "");
}

static void test_longest(void **state)
{
    struct wire_cgroup c = {.css = 1, .n_names = CGROUP_NAMES_MAX, .cut = 1};
    char path[CGROUP_PATH_MAX];

    (void)state;
    for (unsigned i = 0; i < CGROUP_NAMES_MAX; i++)
        memset(c.names[i], 'a', CGROUP_NAME_LEN - 1);
    assert_int_equal(cgroup_path(&c, 0, path), 0);
    assert_int_equal(strlen(path), 4 + CGROUP_NAMES_MAX * CGROUP_NAME_LEN);
}

static void test_no_names(void **state)
{
    static const char *const bad[] = {"", ".", "..", "a/b", "/"};
    struct wire_cgroup c;
    char path[CGROUP_PATH_MAX];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        c = make(&bad[i], 1);
        assert_int_equal(cgroup_path(&c, 0, path), -EBADMSG);
        assert_string_equal(path, "");
    }
    c = make((const char *const[]){"fine"}, 1);
    c.n_names = CGROUP_NAMES_MAX + 1;
    assert_int_equal(cgroup_path(&c, 0, path), -EBADMSG);
    c.n_names = 1;
    memset(c.names[0], 'a', CGROUP_NAME_LEN); /* no NUL */
    assert_int_equal(cgroup_path(&c, 0, path), -EBADMSG);
}

/** As iterators write them, with something behind; and cut anywhere. */
static void test_parse_names(void **state)
{
    static const char bytes[] = "leaf\0top\0\0more";
    const size_t size = sizeof("leaf\0top\0") /* with its own NUL */;
    char path[CGROUP_PATH_MAX], long_one[CGROUP_NAME_LEN + 2] = {}, many[2 * CGROUP_NAMES_MAX + 3];
    struct wire_cgroup c;

    (void)state;
    assert_int_equal(cgroup_parse_names(bytes, sizeof(bytes), &c), size);
    assert_int_equal(cgroup_path(&c, 0, path), 0);
    assert_string_equal(path, "/top/leaf");
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(cgroup_parse_names(bytes, cut, &c), 0);
    assert_int_equal(cgroup_parse_names("", 1, &c), 1);
    assert_int_equal(c.n_names, 0);

    memset(long_one, 'a', CGROUP_NAME_LEN);
    assert_int_equal(cgroup_parse_names(long_one, sizeof(long_one), &c), 0);
    for (size_t i = 0; i < sizeof(many); i++)
        many[i] = i % 2 ? '\0' : 'a';
    many[sizeof(many) - 1] = '\0';
    assert_int_equal(cgroup_parse_names(many, sizeof(many), &c), 0);
    assert_int_equal(cgroup_parse_names(many + 2, sizeof(many) - 2, &c), sizeof(many) - 2);
    assert_int_equal(c.n_names, CGROUP_NAMES_MAX);
}

static void test_below(void **state)
{
    (void)state;
    assert_true(cgroup_is_below("/a/b", "/a"));
    assert_true(cgroup_is_below("/a", "/a"));
    assert_true(cgroup_is_below("/a", "/"));
    assert_false(cgroup_is_below("/ab", "/a"));
    assert_false(cgroup_is_below("/", "/a"));
    assert_false(cgroup_is_below("", "/"));
}

/* --- the mount table */

struct machine {
    char root[64];
};

static void write_mounts(const struct machine *m, const char *text)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/proc/self/mountinfo", m->root);
    f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int set_up(void **state)
{
    static struct machine m;
    char path[128];

    snprintf(m.root, sizeof(m.root), "/tmp/test_cgroup.XXXXXX");
    if (!mkdtemp(m.root))
        return -1;
    snprintf(path, sizeof(path), "%s/proc", m.root);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/proc/self", m.root);
    *state = &m;
    return mkdir(path, 0700);
}

static int tear_down(void **state)
{
    const struct machine *m = *state;
    char path[128];

    snprintf(path, sizeof(path), "%s/proc/self/mountinfo", m->root);
    unlink(path);
    snprintf(path, sizeof(path), "%s/proc/self", m->root);
    rmdir(path);
    snprintf(path, sizeof(path), "%s/proc", m->root);
    rmdir(path);
    return rmdir(m->root);
}

static void test_mounts(void **state)
{
    const struct machine *m = *state;
    char dir[256];

    assert_int_equal(cgroup_directory(m->root, false, "/a", dir, sizeof(dir)), -ENOENT);
    write_mounts(m,
                 "24 1 8:1 / / rw - ext4 /dev/sda rw\n"
                 "30 24 0:28 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,memoryless\n"
                 "35 24 0:32 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
                 "41 24 0:38 / /sys/fs/cgroup/uni\\040fied rw master:1 - cgroup2 cgroup2 rw\n");
    assert_int_equal(cgroup_directory(m->root, false, "/a/b", dir, sizeof(dir)), 0);
    assert_string_equal(dir, "/sys/fs/cgroup/memory/a/b");
    assert_int_equal(cgroup_directory(m->root, true, "/", dir, sizeof(dir)), 0);
    assert_string_equal(dir, "/sys/fs/cgroup/uni fied");
    assert_int_equal(cgroup_directory(m->root, true, "/a", dir, 8), -ENAMETOOLONG);
}

/** As in a container without a cgroup namespace: what is mounted begins at its own cgroup. */
static void test_mount_of_a_part(void **state)
{
    const struct machine *m = *state;
    char dir[256];

    write_mounts(m, "35 24 0:32 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw\n");
    assert_int_equal(cgroup_directory(m->root, true, "/docker/1/x", dir, sizeof(dir)), 0);
    assert_string_equal(dir, "/sys/fs/cgroup/x");
    assert_int_equal(cgroup_directory(m->root, true, "/docker/1", dir, sizeof(dir)), 0);
    assert_string_equal(dir, "/sys/fs/cgroup");
    assert_int_equal(cgroup_directory(m->root, true, "/docker/12", dir, sizeof(dir)), -ENOENT);
}

static void test_damaged_mounts(void **state)
{
    static const char *const texts[] = {
        "",
        "\n\n",
        "35 24 0:32",
        " - cgroup2 cgroup rw\n",
        "35 24 - cgroup2 cgroup rw\n",
        "35 24 0:32 / /x rw - cgroup2\n",
        "35 24 0:32 / /x rw - \n",
    };
    const struct machine *m = *state;
    char dir[256];

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        write_mounts(m, texts[i]);
        assert_int_equal(cgroup_directory(m->root, true, "/a", dir, sizeof(dir)), -ENOENT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_path),
        cmocka_unit_test(test_longest),
        cmocka_unit_test(test_no_names),
        cmocka_unit_test(test_parse_names),
        cmocka_unit_test(test_below),
        cmocka_unit_test_setup_teardown(test_mounts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mount_of_a_part, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged_mounts, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("cgroup", tests, NULL, NULL);
}
