// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core/clock.h"
#include "core/netns.h"

static uint64_t here(void)
{
    struct stat s;

    assert_int_equal(stat("/proc/self/ns/net", &s), 0);
    return s.st_ino;
}

struct visits {
    uint64_t wanted;
    unsigned n, n_wanted;
    uint64_t first;
};

static void on_visit(void *arg, uint64_t inode)
{
    struct visits *v = arg;

    assert_true(here() == inode); /* it is really there */
    if (v->n++ == 0)
        v->first = inode;
    v->n_wanted += inode == v->wanted;
}

static struct visits visit(struct netns_view *view, uint64_t wanted)
{
    struct visits v = {.wanted = wanted};
    uint64_t own = here();

    netns_visit(view, on_visit, &v);
    assert_true(here() == own);
    assert_true(v.first == own);
    return v;
}

/** A process in a namespace of its own; 0: that cannot be had here. */
static pid_t start_elsewhere(uint64_t *ret)
{
    uint64_t inode = 0;
    int pipes[2];
    pid_t pid;

    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWNET) == 0)
            inode = here();
        (void)!write(pipes[1], &inode, sizeof(inode));
        pause();
        _exit(0);
    }
    assert_int_equal(read(pipes[0], &inode, sizeof(inode)), sizeof(inode));
    close(pipes[0]);
    close(pipes[1]);
    *ret = inode;
    if (inode)
        return pid;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}

static void test_process(void **state)
{
    struct netns_view *view = NULL;
    uint64_t elsewhere;
    pid_t pid = start_elsewhere(&elsewhere);

    (void)state;
    if (!pid)
        skip();
    assert_int_equal(netns_view_new(&view), 0);
    assert_int_equal(visit(view, elsewhere).n, 1); /* it has not searched */
    netns_search(view);
    assert_int_equal(visit(view, elsewhere).n_wanted, 1);
    assert_int_equal(visit(view, here()).n_wanted, 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(visit(view, elsewhere).n_wanted, 0); /* gone, and nothing else fails */
    netns_search(view);
    assert_int_equal(visit(view, elsewhere).n_wanted, 0);
    netns_view_free(view);
}

/** One without any process. */
static void test_mounted(void **state)
{
    char path[] = "/tmp/test_netns.XXXXXX", source[64];
    struct netns_view *view = NULL;
    uint64_t elsewhere;
    pid_t pid = start_elsewhere(&elsewhere);
    int fd;

    (void)state;
    if (!pid)
        skip();
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        skip();
    }
    fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(source, sizeof(source), "/proc/%d/ns/net", (int)pid);
    assert_int_equal(mount(source, path, NULL, MS_BIND, NULL), 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(netns_view_new(&view), 0);
    netns_search(view);
    assert_int_equal(visit(view, elsewhere).n_wanted, 1);
    assert_int_equal(umount2(path, MNT_DETACH), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(visit(view, elsewhere).n_wanted, 0);
    netns_view_free(view);
}

/** The next look comes when this one has been paid for. */
static void test_pace(void **state)
{
    struct netns_view *view = NULL;
    uint64_t busy_ns;

    (void)state;
    assert_int_equal(netns_view_new(&view), 0);
    assert_true(netns_due(view));
    assert_true(netns_due(view)); /* nobody has looked yet */
    busy_ns = clock_now_ns(CLOCK_THREAD_CPUTIME_ID) + 50 * NS_PER_MS;
    while (clock_now_ns(CLOCK_THREAD_CPUTIME_ID) < busy_ns)
        ;
    netns_looked(view);
    assert_false(netns_due(view)); /* for ten seconds */
    netns_view_free(view);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_process),
        cmocka_unit_test(test_mounted),
        cmocka_unit_test(test_pace),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
