// SPDX-License-Identifier: Apache-2.0

#include "enrich/owners.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
/* after the four above */
#include <cmocka.h>

#define AT_FIRST (100 * NS_PER_SEC)

struct asked {
    unsigned times;
    int answer;
};

static int ask(void *arg)
{
    struct asked *asked = arg;

    asked->times++;
    return asked->answer;
}

static struct owners *open_owners(struct asked *asked, size_t max)
{
    const struct owners_options options = {.ask = ask, .arg = asked, .max = max};
    struct owners *o;

    assert_int_equal(owners_new(&options, &o), 0);
    return o;
}

/** Gives it a snapshot and waits until it has been read. */
static void give(struct owners *o, const struct socket_owner *table, size_t n)
{
    struct pollfd polled = {.fd = owners_fd(o), .events = POLLIN};
    uint64_t count;
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(write(ends[1], table, n * sizeof(*table)), (ssize_t)(n * sizeof(*table)));
    close(ends[1]);
    owners_take(o, ends[0]);
    assert_int_equal(poll(&polled, 1, 5000), 1);
    assert_int_equal(read(owners_fd(o), &count, sizeof(count)), sizeof(count));
}

static const struct socket_owner snapshot[] = {
    {.inode = 30, .pid = 300, .comm = "thirty"},
    {.inode = 10, .started_ns = 8, .pid = 9, .comm = "child"},
    {.inode = 10, .started_ns = 7, .pid = 101, .comm = "parent"},
    {.inode = 20, .pid = 200, .comm = "twenty"},
};

static void finds_the_oldest_of_several(void **state)
{
    struct asked asked = {};
    _cleanup_(owners_freep) struct owners *o = open_owners(&asked, 100);
    struct socket_owner owner;

    (void)state;
    assert_int_equal(owners_lookup(o, 10, AT_FIRST, &owner), 0);
    assert_int_equal(owners_lookup(o, 20, AT_FIRST, &owner), 0);
    assert_int_equal(asked.times, 1); /* one question for both */
    give(o, snapshot, ARRAY_SIZE(snapshot));
    assert_int_equal(owners_lookup(o, 10, AT_FIRST, &owner), 1);
    assert_int_equal(owner.pid, 101);
    assert_string_equal(owner.comm, "parent");
    assert_int_equal(owners_lookup(o, 20, AT_FIRST, &owner), 1);
    assert_int_equal(owner.pid, 200);
    assert_int_equal(owners_lookup(o, 30, AT_FIRST, &owner), 1);
}

static void asks_once_a_second(void **state)
{
    struct asked asked = {};
    _cleanup_(owners_freep) struct owners *o = open_owners(&asked, 100);
    struct socket_owner owner;

    (void)state;
    assert_int_equal(owners_lookup(o, 99, AT_FIRST, &owner), 0);
    give(o, snapshot, ARRAY_SIZE(snapshot));
    assert_int_equal(owners_lookup(o, 99, AT_FIRST + NS_PER_MS, &owner), -ENOENT);
    assert_int_equal(owners_lookup(o, 15, AT_FIRST + NS_PER_MS, &owner), -ENOENT);
    assert_int_equal(asked.times, 1);
    assert_int_equal(owners_lookup(o, 99, AT_FIRST + 2 * NS_PER_SEC, &owner), 0);
    assert_int_equal(asked.times, 2);
    give(o, snapshot, 0);
    assert_int_equal(owners_lookup(o, 10, AT_FIRST + 2 * NS_PER_SEC, &owner), -ENOENT);
}

static void goes_without(void **state)
{
    struct asked asked = {.answer = -EPIPE};
    _cleanup_(owners_freep) struct owners *o = open_owners(&asked, 100);
    struct socket_owner owner;

    (void)state;
    assert_int_equal(owners_lookup(o, 10, AT_FIRST, &owner), -ENOENT);
    asked.answer = 0;
    assert_int_equal(owners_lookup(o, 10, AT_FIRST + 2 * NS_PER_SEC, &owner), 0);
    owners_take(o, -1); /* the root part has none to give */
    assert_int_equal(owners_lookup(o, 10, AT_FIRST + 2 * NS_PER_SEC, &owner), -ENOENT);
}

static void keeps_its_bound(void **state)
{
    struct socket_owner many[1000] = {};
    struct asked asked = {};
    _cleanup_(owners_freep) struct owners *o = open_owners(&asked, 600);
    struct socket_owner owner;
    unsigned known = 0;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
        many[i] = (struct socket_owner){.inode = i + 1, .pid = i + 1};
    assert_int_equal(owners_lookup(o, 1, AT_FIRST, &owner), 0);
    give(o, many, ARRAY_SIZE(many));
    for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
        known += owners_lookup(o, i + 1, AT_FIRST, &owner) == 1 && owner.pid == i + 1;
    assert_int_equal(known, 600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_oldest_of_several),
        cmocka_unit_test(asks_once_a_second),
        cmocka_unit_test(goes_without),
        cmocka_unit_test(keeps_its_bound),
    };

    return cmocka_run_group_tests_name("owners", tests, NULL, NULL);
}
