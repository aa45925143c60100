// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/on_demand.h"

static int some_fd(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void test_places(void **state)
{
    struct on_demand *o = NULL, *other;
    int fd = some_fd(), second = some_fd();

    (void)state;
    assert_int_equal(on_demand_new(2, 3, -1, 0, &o), 0);
    assert_null(on_demand_samples(o));
    assert_int_equal(on_demand_cpus(o), 3);
    assert_int_equal(on_demand_add(o, 1, 2, fd), 0);
    assert_int_equal(on_demand_run(o, 1, 1, 1), -ENOENT);
    assert_int_equal(on_demand_run(o, 2, 0, 1), -ENOENT);
    assert_int_equal(on_demand_run(o, 0, 3, 1), -ENOENT);
    assert_int_equal(on_demand_run(o, 1, 2, 1), -ENOTTY); /* it is asked, and is no event */

    assert_int_equal(on_demand_add(o, 1, 2, second), -EBADMSG); /* taken */
    assert_false(is_open(second));
    second = some_fd();
    assert_int_equal(on_demand_add(o, 2, 0, second), -EBADMSG);
    assert_false(is_open(second));

    other = on_demand_ref(o);
    on_demand_free(o);
    assert_true(is_open(fd)); /* somebody still uses it */
    on_demand_free(other);
    assert_false(is_open(fd));
}

static void test_samples(void **state)
{
    int fd = memfd_create("samples", MFD_CLOEXEC);
    struct on_demand *o = NULL;
    const char *samples;

    (void)state;
    assert_int_equal(ftruncate(fd, 4096), 0);
    assert_int_equal(pwrite(fd, "second", 6, 16), 6);
    assert_int_equal(on_demand_new(1, 2, fd, 16, &o), 0);
    samples = (const char *)on_demand_samples(o);
    assert_memory_equal(samples + 16, "second", 6);
    assert_true(is_open(fd)); /* stays the caller's */
    close(fd);
    on_demand_free(o);

    o = NULL;
    assert_int_equal(on_demand_new(1, 2, some_fd(), 16, &o), -ENODEV); /* cannot be mapped */
    assert_null(o);
}

static void test_none(void **state)
{
    (void)state;
    assert_null(on_demand_ref(NULL));
    assert_null(on_demand_free(NULL));
    assert_null(on_demand_samples(NULL));
    assert_int_equal(on_demand_cpus(NULL), 0);
    assert_int_equal(on_demand_run(NULL, 0, 0, 1), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_none),
    };

    return cmocka_run_group_tests_name("on_demand", tests, NULL, NULL);
}
