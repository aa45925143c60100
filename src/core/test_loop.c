// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "core/clock.h"
#include "core/loop.h"

/** What a callback did and saw. */
struct seen {
    struct loop *loop;
    struct watch *watch;
    unsigned n, end_after; /* calls until it ends the loop */
    int result;            /* what the last call returns */
    int number;            /* of the signal; epoll's events */
};

static int count(struct seen *s)
{
    s->n++;
    if (s->n < s->end_after)
        return 0;
    if (s->result == 0)
        loop_exit(s->loop, 7);
    return s->result;
}

static int on_time(void *arg)
{
    return count(arg);
}

static int on_fd(void *arg, uint32_t epoll_events)
{
    ((struct seen *)arg)->number = (int)epoll_events;
    return count(arg);
}

static int on_signal(void *arg, int signal_number)
{
    ((struct seen *)arg)->number = signal_number;
    return count(arg);
}

static int new_loop(void **state)
{
    static struct seen s;

    s = (struct seen){.end_after = 1};
    *state = &s;
    return loop_new(&s.loop);
}

static int free_loop(void **state)
{
    struct seen *s = *state;

    watch_free(s->watch);
    loop_free(s->loop);
    return 0;
}

static void test_fd(void **state)
{
    struct seen *s = *state;
    _close_fd_ int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

    /* It stays readable, so it is told again and again. */
    s->end_after = 3;
    assert_int_equal(loop_watch_fd(s->loop, fd, EPOLLIN, on_fd, s, &s->watch), 0);
    assert_int_equal(loop_run(s->loop), 7);
    assert_int_equal(s->n, 3);
    assert_int_equal(s->number, EPOLLIN);
    s->watch = watch_free(s->watch);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC); /* is still the caller's */
}

static void test_bad_fd(void **state)
{
    struct seen *s = *state;

    assert_int_equal(loop_watch_fd(s->loop, -1, EPOLLIN, on_fd, s, &s->watch), -EBADF);
    assert_null(s->watch);
}

static void test_time(void **state)
{
    struct seen *s = *state;
    uint64_t begin_ns = clock_now_ns(CLOCK_MONOTONIC), took_ns;

    s->end_after = 4;
    assert_int_equal(
        loop_watch_time(s->loop, 20 * NS_PER_MS, 10 * NS_PER_MS, on_time, s, &s->watch), 0);
    assert_int_equal(loop_run(s->loop), 7);
    took_ns = clock_now_ns(CLOCK_MONOTONIC) - begin_ns;
    assert_int_equal(s->n, 4);
    assert_in_range(took_ns, 50 * NS_PER_MS, 5 * NS_PER_SEC);
}

static void test_time_once(void **state)
{
    struct seen *s = *state;
    struct seen once = {.loop = s->loop, .end_after = UINT32_MAX};

    assert_int_equal(loop_watch_time(s->loop, 0, 0, on_time, &once, &once.watch), 0);
    assert_int_equal(loop_watch_time(s->loop, 30 * NS_PER_MS, 0, on_time, s, &s->watch), 0);
    assert_int_equal(loop_run(s->loop), 7);
    assert_int_equal(once.n, 1);
    watch_free(once.watch);
}

/** What was missed while the loop was busy is not made up for. */
static int on_time_slowly(void *arg)
{
    const struct timespec nap = {.tv_nsec = (long)(30 * NS_PER_MS)};

    if (((struct seen *)arg)->n == 0)
        nanosleep(&nap, NULL);
    return count(arg);
}

static void test_time_missed(void **state)
{
    struct seen *s = *state, slow = {.loop = s->loop, .end_after = UINT32_MAX};

    assert_int_equal(
        loop_watch_time(s->loop, 0, 10 * NS_PER_MS, on_time_slowly, &slow, &slow.watch), 0);
    assert_int_equal(loop_watch_time(s->loop, 35 * NS_PER_MS, 0, on_time, s, &s->watch), 0);
    assert_int_equal(loop_run(s->loop), 7);
    assert_in_range(slow.n, 1, 3);
    watch_free(slow.watch);
}

static void test_signal(void **state)
{
    struct seen *s = *state;
    sigset_t set, old;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    assert_int_equal(sigprocmask(SIG_BLOCK, &set, &old), 0);
    assert_int_equal(loop_watch_signal(s->loop, SIGUSR2, on_signal, s, &s->watch), 0);
    assert_int_equal(kill(getpid(), SIGUSR2), 0);
    assert_int_equal(loop_run(s->loop), 7);
    assert_int_equal(s->n, 1);
    assert_int_equal(s->number, SIGUSR2);
    s->watch = watch_free(s->watch);
    sigprocmask(SIG_SETMASK, &old, NULL);
}

static void test_failure_ends_it(void **state)
{
    struct seen *s = *state;

    s->result = -EXDEV;
    s->end_after = 2;
    assert_int_equal(loop_watch_time(s->loop, 0, NS_PER_MS, on_time, s, &s->watch), 0);
    assert_int_equal(loop_run(s->loop), -EXDEV);
    assert_int_equal(s->n, 2);
}

static int on_time_free(void *arg)
{
    struct seen *s = arg;

    s->watch = watch_free(s->watch);
    s->n++;
    return 0;
}

static void test_free_within(void **state)
{
    struct seen *s = *state, gone = {.loop = s->loop};

    assert_int_equal(loop_watch_time(s->loop, 0, NS_PER_MS, on_time_free, &gone, &gone.watch), 0);
    assert_int_equal(loop_watch_time(s->loop, 20 * NS_PER_MS, 0, on_time, s, &s->watch), 0);
    assert_int_equal(loop_run(s->loop), 7);
    assert_int_equal(gone.n, 1);
    assert_null(gone.watch);
}

static void test_freed_is_silent(void **state)
{
    struct seen *s = *state, never = {.loop = s->loop, .end_after = 1};
    _close_fd_ int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

    assert_int_equal(loop_watch_fd(s->loop, fd, EPOLLIN, on_fd, &never, &never.watch), 0);
    watch_free(never.watch);
    assert_int_equal(loop_watch_time(s->loop, NS_PER_MS, 0, on_time, s, &s->watch), 0);
    assert_int_equal(loop_run(s->loop), 7);
    assert_int_equal(never.n, 0);
    assert_null(watch_free(NULL));
    assert_null(loop_free(NULL));
}

int main(void)
{
#define WITH_LOOP(test) cmocka_unit_test_setup_teardown(test, new_loop, free_loop)
    const struct CMUnitTest tests[] = {
        WITH_LOOP(test_fd),
        WITH_LOOP(test_bad_fd),
        WITH_LOOP(test_time),
        WITH_LOOP(test_time_once),
        WITH_LOOP(test_time_missed),
        WITH_LOOP(test_signal),
        WITH_LOOP(test_failure_ends_it),
        WITH_LOOP(test_free_within),
        WITH_LOOP(test_freed_is_silent),
    };

    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
