// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <seccomp.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/privilege.h"

#define CHILD_FAILED 200

static const struct {
    const char *name;
    int number;
} forbidden[] = {
#define CALL(name)                                                                                 \
    {                                                                                              \
#name, SCMP_SYS(name)                                                                      \
    }
    CALL(execve),
    CALL(execveat),
    CALL(fork),
    CALL(vfork),
    CALL(process_vm_readv),
    CALL(process_vm_writev),
    CALL(mount),
    CALL(umount2),
    CALL(pivot_root),
    CALL(chroot),
    CALL(setns),
    CALL(unshare),
    CALL(init_module),
    CALL(finit_module),
    CALL(delete_module),
    CALL(kexec_load),
    CALL(kexec_file_load),
    CALL(reboot),
    CALL(bpf),
    CALL(perf_event_open),
    CALL(userfaultfd),
    CALL(keyctl),
    CALL(add_key),
    CALL(request_key),
    CALL(swapon),
    CALL(swapoff),
    CALL(io_uring_setup),
    CALL(settimeofday),
    CALL(clock_settime),
    CALL(sethostname),
#ifndef __SANITIZE_ADDRESS__
    CALL(ptrace),
#endif
#undef CALL
};

/**
 * Lets nobody do any of these: without a tracer they fail with ENOSYS. So each can be tried without
 * its doing anything, and EPERM, which goes before this, is the filter's and not for want of a
 * capability.
 */
static bool disarm(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int r = filter ? 0 : -ENOMEM;

    for (size_t i = 0; i < ARRAY_SIZE(forbidden) && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_TRACE(0), forbidden[i].number, 0);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r == 0;
}

/** In a child that has given up privilege; fails with what it returns, if that is not 0. */
static int in_child(int (*function)(void))
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        struct privilege_user user;

        if (!disarm() || privilege_find_user("nobody", &user) < 0 || privilege_drop(&user) < 0)
            _exit(CHILD_FAILED);
        _exit(function());
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_not_equal(WEXITSTATUS(status), CHILD_FAILED);
    return WEXITSTATUS(status);
}

static void only_as_root(void)
{
    if (geteuid() != 0) {
        print_message("skipped: only root has privilege to give up\n");
        skip();
    }
}

/* Which of them is not refused, counted from 1. */
static int try_forbidden(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(forbidden); i++) {
        /* Others than this machine's have no number here. */
        if (forbidden[i].number >= 0 &&
            (syscall(forbidden[i].number, 0, 0, 0, 0, 0, 0) != -1 || errno != EPERM))
            return (int)i + 1;
    }
    return 0;
}

static void test_forbidden_calls(void **state)
{
    int first;

    (void)state;
    only_as_root();
    first = in_child(try_forbidden);
    if (first)
        fail_msg("%s is not forbidden", forbidden[first - 1].name);
}

static void *nothing(void *arg)
{
    return arg;
}

/* What the agent does all the time. */
static int try_allowed(void)
{
    pthread_t thread;
    int fds[2];

    if (pthread_create(&thread, NULL, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0)
        return 1;
    return pipe2(fds, O_CLOEXEC) == 0 && write(fds[1], "x", 1) == 1 ? 0 : 2;
}

static void test_allowed_calls(void **state)
{
    (void)state;
    only_as_root();
    assert_int_equal(in_child(try_allowed), 0);
}

static int try_to_come_back(void)
{
    return setuid(0) == 0 || setgid(0) == 0 || getuid() == 0 || getgid() == 0;
}

static void test_no_way_back(void **state)
{
    (void)state;
    only_as_root();
    assert_int_equal(in_child(try_to_come_back), 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forbidden_calls),
        cmocka_unit_test(test_allowed_calls),
        cmocka_unit_test(test_no_way_back),
    };

    return cmocka_run_group_tests_name("privilege", tests, NULL, NULL);
}
