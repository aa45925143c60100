// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "enrich/lookups.h"

struct key {
    uint64_t id, zero;
};

static struct key key_of(uint64_t id)
{
    return (struct key){.id = id};
}

static int get(struct lookups *l, uint64_t id, uint64_t now_ns, char ret[16])
{
    struct key key = key_of(id);
    size_t size = 0;
    int r = lookups_get(l, &key, now_ns, ret, 15, &size);

    ret[size] = '\0';
    return r;
}

static void assert_known(struct lookups *l, uint64_t id, uint64_t now_ns, const char *expected)
{
    char answer[16];

    assert_int_equal(get(l, id, now_ns, answer), 1);
    assert_string_equal(answer, expected);
}

static void assert_asked(struct lookups *l, uint64_t id, uint64_t now_ns)
{
    char answer[16];

    assert_int_equal(get(l, id, now_ns, answer), 0);
}

static void assert_next(struct lookups *l, uint64_t id)
{
    struct key key;

    assert_true(lookups_next(l, &key));
    assert_int_equal(key.id, id);
}

static void assert_nothing_asked(struct lookups *l)
{
    struct key key;

    assert_false(lookups_next(l, &key));
}

static void answer(struct lookups *l, uint64_t id, const char *text, uint64_t expires_ns)
{
    struct key key = key_of(id);

    lookups_answer(l, &key, text, strlen(text), expires_ns);
}

static bool readable(struct lookups *l)
{
    struct pollfd poll_fd = {.fd = lookups_fd(l), .events = POLLIN};
    eventfd_t n;

    if (poll(&poll_fd, 1, 0) == 0)
        return false;
    assert_int_equal(eventfd_read(lookups_fd(l), &n), 0);
    return true;
}

static void test_ask_and_answer(void **state)
{
    _cleanup_(lookups_freep) struct lookups *l = NULL;

    (void)state;
    assert_int_equal(lookups_new(4, 4, &l), 0);
    assert_nothing_asked(l);
    assert_asked(l, 1, 100);
    assert_asked(l, 2, 100);
    assert_asked(l, 1, 100); /* not asked twice */
    assert_next(l, 1);
    assert_asked(l, 1, 100);
    assert_next(l, 2);
    assert_nothing_asked(l);
    assert_false(readable(l));

    answer(l, 1, "one", 200);
    assert_true(readable(l));
    assert_known(l, 1, 199, "one");
    assert_asked(l, 2, 199);
    answer(l, 2, "", 200);
    assert_known(l, 2, 199, "");

    /* What nobody asked for is not taken. */
    answer(l, 3, "three", 1000);
    answer(l, 1, "another", 1000);
    assert_known(l, 1, 199, "one");
    assert_nothing_asked(l);

    /* It expires. */
    assert_asked(l, 1, 200);
    assert_next(l, 1);
    answer(l, 1, "uno", 400);
    assert_known(l, 1, 399, "uno");
}

static void test_bounds(void **state)
{
    _cleanup_(lookups_freep) struct lookups *l = NULL;
    char ret[16];

    (void)state;
    assert_int_equal(lookups_new(0, 1, &l), -EINVAL);
    assert_int_equal(lookups_new(1, 0, &l), -EINVAL);
    assert_int_equal(lookups_new(SIZE_MAX, 1, &l), -EINVAL);
    assert_null(lookups_free(NULL));

    assert_int_equal(lookups_new(4, 3, &l), 0);
    for (uint64_t id = 1; id <= 3; id++)
        assert_asked(l, id, 0);
    assert_int_equal(get(l, 4, 0, ret), -EBUSY);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_next(l, id);
        answer(l, id, "x", 1000);
    }

    /* The oldest answer makes room: of five keys in four places the first is gone. */
    for (uint64_t id = 4; id <= 5; id++) {
        assert_asked(l, id, 0);
        assert_next(l, id);
        answer(l, id, "y", 1000);
    }
    for (uint64_t id = 2; id <= 3; id++)
        assert_known(l, id, 0, "x");
    for (uint64_t id = 4; id <= 5; id++)
        assert_known(l, id, 0, "y");
    assert_asked(l, 1, 0);
}

static void test_all_pending(void **state)
{
    _cleanup_(lookups_freep) struct lookups *l = NULL;
    char ret[16];

    (void)state;
    assert_int_equal(lookups_new(2, 1000, &l), 0);
    assert_asked(l, 1, 0);
    assert_asked(l, 2, 0);
    assert_int_equal(get(l, 3, 0, ret), -EBUSY);
}

static void test_slow(void **state)
{
    _cleanup_(lookups_freep) struct lookups *l = NULL;
    struct key key = key_of(1);

    (void)state;
    assert_int_equal(lookups_new(4, 4, &l), 0);

    /* Never answered before, and nothing known yet: however long it takes, there is no answer. */
    assert_asked(l, 1, 0);
    assert_next(l, 1);
    assert_asked(l, 1, 100 * LOOKUPS_PATIENCE_NS);
    lookups_draft(l, &key, "half", 4);
    assert_asked(l, 1, LOOKUPS_PATIENCE_NS - 1);
    assert_known(l, 1, LOOKUPS_PATIENCE_NS, "half");
    answer(l, 1, "whole", 1000 * NS_PER_SEC);
    assert_known(l, 1, LOOKUPS_PATIENCE_NS, "whole");

    /* The old one goes on to hold while the new one is late, and if there is none. */
    assert_asked(l, 1, 1000 * NS_PER_SEC);
    assert_known(l, 1, 1000 * NS_PER_SEC + LOOKUPS_PATIENCE_NS, "whole");
    assert_next(l, 1);
    lookups_draft(l, &key, "half", 4);
    assert_known(l, 1, 1000 * NS_PER_SEC + LOOKUPS_PATIENCE_NS, "whole");
    lookups_keep(l, &key, 2000 * NS_PER_SEC);
    assert_known(l, 1, 1999 * NS_PER_SEC, "whole");

    assert_asked(l, 2, 0);
    assert_next(l, 2);
    key = key_of(2);
    lookups_keep(l, &key, 1000);
    assert_known(l, 2, 0, "");
}

static void *wait_for_one(void *arg)
{
    struct lookups *l = arg;
    struct key key;

    while (lookups_wait(l, &key))
        lookups_answer(l, &key, "thread", 6, UINT64_MAX);
    return NULL;
}

static void test_threads(void **state)
{
    _cleanup_(lookups_freep) struct lookups *l = NULL;
    pthread_t threads[3];
    char ret[16];

    (void)state;
    assert_int_equal(lookups_new(1000, 1000, &l), 0);
    assert_false(lookups_unserved(l));
    (void)get(l, 0, 0, ret);
    assert_true(lookups_unserved(l));
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(lookups_start_thread("test", wait_for_one, l, &threads[i]), 0);
    for (uint64_t id = 0; id < 1000; id++)
        (void)get(l, id, 0, ret);
    for (uint64_t id = 0; id < 1000; id++) {
        while (get(l, id, 0, ret) == 0)
            (void)poll(&(struct pollfd){.fd = lookups_fd(l), .events = POLLIN}, 1, 10);
        assert_string_equal(ret, "thread");
    }
    lookups_stop(l);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        pthread_join(threads[i], NULL);
    assert_true(lookups_stopped(l));
    assert_false(lookups_unserved(l));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ask_and_answer), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_all_pending),    cmocka_unit_test(test_slow),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests_name("lookups", tests, NULL, NULL);
}
