// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "core/clock.h"
#include "root/provoke.h"

/* Of a process that a provocation has left behind; memory that all of them have. */
static volatile pid_t *left;

static int fine(struct provoked *ret)
{
    *ret = (struct provoked){.field = "netns", .value = UINT64_C(1) << 40};
    return 0;
}

static int refused(struct provoked *ret)
{
    *ret = (struct provoked){.field = "netns", .value = 7};
    return -EPERM;
}

static int killed(struct provoked *ret)
{
    *ret = (struct provoked){.field = "pid", .value = 9};
    kill(getpid(), SIGKILL);
    return 0;
}

/* Two that go on: one a child, one that has left group and session and lost its parent. */
static void leave_behind(void)
{
    if (fork() == 0) {
        left[0] = getpid();
        pause();
        _exit(0);
    }
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            signal(SIGTERM, SIG_IGN);
            left[1] = getpid();
            pause();
        }
        _exit(0);
    }
    while (!left[0] || !left[1])
        usleep(100);
}

static int leaves_processes(struct provoked *ret)
{
    leave_behind();
    return fine(ret);
}

static int hangs(struct provoked *ret)
{
    fine(ret);
    leave_behind();
    pause();
    return 0;
}

static int asks_signals(struct provoked *ret)
{
    sigset_t blocked;

    sigprocmask(SIG_SETMASK, NULL, &blocked);
    *ret = (struct provoked){.field = "x", .value = sigismember(&blocked, SIGTERM) == 1};
    return 0;
}

static int run(int (*provoke)(struct provoked *), uint64_t timeout_ns, struct provoked *ret)
{
    const struct event event = {.name = "fake", .provoke = provoke};
    struct provocation provocation;
    int r;

    left[0] = left[1] = 0;
    r = provoke_begin(&event, timeout_ns, ret, &provocation);
    provoke_end(&provocation);
    assert_int_equal(provocation.pid, 0);
    provoke_end(&provocation); /* nothing is left to do */
    return r;
}

static void assert_nobody_is_left(void)
{
    for (int i = 0; i < 2; i++) {
        assert_true(left[i] > 0);
        assert_int_equal(kill(left[i], 0), -1);
        assert_int_equal(errno, ESRCH);
    }
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

static void test_results(void **state)
{
    struct provoked provoked = {};

    (void)state;
    assert_int_equal(run(fine, 5 * NS_PER_SEC, &provoked), 0);
    assert_string_equal(provoked.field, "netns");
    assert_int_equal(provoked.value, UINT64_C(1) << 40);
    assert_int_equal(run(refused, 5 * NS_PER_SEC, &provoked), -EPERM);
    assert_int_equal(run(NULL, 5 * NS_PER_SEC, &provoked), -EOPNOTSUPP);
    /* Killed before it could say so: what to look for is known all the same. */
    assert_int_equal(run(killed, 5 * NS_PER_SEC, &provoked), -EINTR);
    assert_string_equal(provoked.field, "pid");
    assert_int_equal(provoked.value, 9);
}

static void test_nothing_is_left(void **state)
{
    struct provoked provoked = {};
    uint64_t begin;

    (void)state;
    assert_int_equal(run(leaves_processes, 5 * NS_PER_SEC, &provoked), 0);
    assert_nobody_is_left();
    begin = clock_now_ns(CLOCK_MONOTONIC);
    assert_int_equal(run(hangs, NS_PER_SEC / 2, &provoked), -ETIMEDOUT);
    assert_true(clock_now_ns(CLOCK_MONOTONIC) - begin < 4 * NS_PER_SEC);
    assert_string_equal(provoked.field, "netns");
    assert_nobody_is_left();
}

static void test_stays_until_the_end(void **state)
{
    const struct event event = {.name = "fake", .provoke = leaves_processes};
    struct provocation provocation;
    struct provoked provoked = {};

    (void)state;
    left[0] = left[1] = 0;
    assert_int_equal(provoke_begin(&event, 5 * NS_PER_SEC, &provoked, &provocation), 0);
    usleep(50000);
    assert_int_equal(kill(provocation.pid, 0), 0);
    assert_int_equal(kill(left[1], 0), 0);
    provoke_end(&provocation);
    assert_nobody_is_left();
}

static void test_signals_are_as_usual(void **state)
{
    struct provoked provoked = {};
    sigset_t blocked, before;

    (void)state;
    /* The root part blocks them, as it reads them from a descriptor. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    assert_int_equal(run(asks_signals, 5 * NS_PER_SEC, &provoked), 0);
    assert_int_equal(provoked.value, 0);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_nothing_is_left),
        cmocka_unit_test(test_stays_until_the_end),
        cmocka_unit_test(test_signals_are_as_usual),
    };

    left = mmap(NULL, 2 * sizeof(*left), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return left == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
