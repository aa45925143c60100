// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "core/clock.h"
#include "core/test_folder.h"
#include "enrich/process.h"

#define TICK_NS (NS_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK))

static char root[] = "/tmp/test_process.XXXXXX";

/* Waits as the loop does; what processes_lookup() says in the end. */
static int wait_for(struct processes *p, uint32_t pid, uint64_t start_ns, struct process_info *ret)
{
    uint64_t begin = clock_now_ns(CLOCK_MONOTONIC);
    int r;

    memset(ret, 'x', sizeof(*ret));
    while ((r = processes_lookup(p, pid, start_ns, ret)) == 0) {
        struct pollfd poll_fd = {.fd = processes_fd(p), .events = POLLIN};
        eventfd_t n;

        assert_true(clock_now_ns(CLOCK_MONOTONIC) - begin < 10 * NS_PER_SEC);
        if (poll(&poll_fd, 1, 1000) == 1)
            (void)eventfd_read(processes_fd(p), &n);
    }
    return r;
}

/* --- on the real /proc */

/* A child with an odd name, started before this returns; ends when killed. */
static pid_t start_child(const char *comm)
{
    int ready[2];
    pid_t pid;
    char byte;

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_NAME, comm);
        (void)!write(ready[1], "x", 1);
        for (;;)
            pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* When it started, counted from the other end than the code under test does. */
static uint64_t start_of(pid_t pid)
{
    char path[64], text[1024], *rest = text;
    const char *field = NULL;
    uint64_t ticks;
    FILE *file;
    size_t n;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    assert_non_null(file);
    n = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[n] = '\0';

    /* From behind: starttime is the 31st of 52 fields (proc(5)) from the end. */
    for (unsigned i = 0; i < 31; i++) {
        char *blank = strrchr(rest, ' ');

        assert_non_null(blank);
        *blank = '\0';
        field = blank + 1;
    }
    ticks = strtoull(field, NULL, 10);
    assert_true(ticks > 0);
    return ticks * TICK_NS;
}

static void test_myself(void **state)
{
    _cleanup_(processes_freep) struct processes *p = NULL;
    struct process_info info;
    char exe[sizeof(info.exe)] = "", cmdline[sizeof(info.cmdline)];
    uint64_t start = start_of(getpid());
    ssize_t n;
    int fd;

    (void)state;
    assert_int_equal(processes_new("", 16, &p), 0);
    assert_int_equal(processes_lookup(p, (uint32_t)getpid(), start, &info), 0);
    assert_int_equal(wait_for(p, (uint32_t)getpid(), start, &info), 1);

    assert_true(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
    assert_string_equal(info.exe, exe);
    fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    n = read(fd, cmdline, sizeof(cmdline));
    close(fd);
    assert_true(n > 0);
    assert_int_equal(info.cmdline_len, n);
    assert_memory_equal(info.cmdline, cmdline, (size_t)n);
    assert_int_equal(info.cgroup[0], '/');

    /* Known now, whatever else; and the kernel's nanoseconds are between two ticks. */
    assert_int_equal(processes_lookup(p, (uint32_t)getpid(), start, &info), 1);
    assert_int_equal(wait_for(p, (uint32_t)getpid(), start + TICK_NS - 1, &info), 1);
    assert_int_equal(wait_for(p, (uint32_t)getpid(), 0, &info), 1);

    assert_int_equal(processes_lookup(p, 0, 0, &info), -ESRCH);
    assert_int_equal(wait_for(p, 0x7ffffff0, 0, &info), -ESRCH);
    assert_int_equal(wait_for(p, UINT32_MAX, 12345, &info), -ESRCH);
}

static void test_odd_names(void **state)
{
    static const char *const names[] = {
        ") R 1 1 1 1 1", "(((", "a\nb) S 2 (c", "   ", "\xff\xfe\x01\x1b[2J", "",
    };
    _cleanup_(processes_freep) struct processes *p = NULL;
    struct process_info info;

    (void)state;
    assert_int_equal(processes_new("", 16, &p), 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        pid_t pid = start_child(names[i]);
        uint64_t start = start_of(pid);

        assert_int_equal(wait_for(p, (uint32_t)pid, start, &info), 1);
        assert_true(info.exe[0] == '/');
        /* The same pid, but another process: one that started a second earlier or later. */
        assert_int_equal(wait_for(p, (uint32_t)pid, start + NS_PER_SEC, &info), -ESRCH);
        assert_int_equal(wait_for(p, (uint32_t)pid, start - NS_PER_SEC, &info), -ESRCH);
        end_child(pid);
    }
}

static void test_odd_arguments(void **state)
{
    char *const arguments[] = {(char[]){"odd \x1b[31m\n\"name\""}, (char[]){"-"}, (char[]){""},
                               (char[]){"\xff\xfe"}, NULL};
    static const char expected[] = "odd \x1b[31m\n\"name\"\0-\0\0\xff\xfe";
    _cleanup_(processes_freep) struct processes *p = NULL;
    struct process_info info;
    int in[2];
    pid_t pid;

    (void)state;
    /* cat waits at the pipe, under a name of our choice. */
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(in[0], 0);
        execv("/bin/cat", arguments);
        _exit(127);
    }
    /* Within execve() the program is another one for a moment before its arguments are. */
    for (unsigned i = 0; i < 1000; i++) {
        char path[64], exe[PATH_MAX] = "", byte;
        _close_fd_ int cmdline = -1;

        snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
        cmdline = open(path, O_RDONLY | O_CLOEXEC);
        snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
        if (readlink(path, exe, sizeof(exe) - 1) > 0 && strstr(exe, "/cat") &&
            read(cmdline, &byte, 1) == 1)
            break;
        usleep(1000);
    }

    assert_int_equal(processes_new("", 16, &p), 0);
    assert_int_equal(wait_for(p, (uint32_t)pid, start_of(pid), &info), 1);
    assert_non_null(strstr(info.exe, "/cat"));
    assert_int_equal(info.cmdline_len, sizeof(expected));
    assert_memory_equal(info.cmdline, expected, sizeof(expected));
    end_child(pid);
    close(in[0]);
    close(in[1]);
}

static void test_gone(void **state)
{
    _cleanup_(processes_freep) struct processes *p = NULL;
    pid_t pid = start_child("short"), unseen = start_child("shorter");
    uint64_t start = start_of(pid), unseen_start = start_of(unseen);
    struct process_info info;

    (void)state;
    assert_int_equal(processes_new("", 16, &p), 0);
    assert_int_equal(wait_for(p, (uint32_t)pid, start, &info), 1);
    end_child(pid);
    end_child(unseen);

    /* What was read in time is known; the other is known to be gone. */
    assert_int_equal(processes_lookup(p, (uint32_t)pid, start, &info), 1);
    assert_true(info.exe[0] == '/');
    assert_int_equal(wait_for(p, (uint32_t)unseen, unseen_start, &info), -ESRCH);
    assert_int_equal(processes_lookup(p, (uint32_t)unseen, unseen_start, &info), -ESRCH);
}

/* Processes that come and go while they are read: nothing but an answer is asked for. */
static void test_storm(void **state)
{
    _cleanup_(processes_freep) struct processes *p = NULL;
    struct process_info info;

    (void)state;
    assert_int_equal(processes_new("", 8, &p), 0);
    for (unsigned i = 0; i < 100; i++) {
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0)
            _exit(0);
        (void)processes_lookup(p, (uint32_t)pid, 0, &info);
        (void)processes_lookup(p, (uint32_t)pid, NS_PER_SEC, &info);
        waitpid(pid, NULL, 0);
    }
    assert_int_equal(wait_for(p, (uint32_t)getpid(), 0, &info), 1);
}

/* --- on trees from elsewhere */

static void write_file(unsigned pid, const char *name, const void *bytes, size_t len)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%u/%s", pid, name);
    assert_true(test_put_file(root, path, bytes, len));
}

static void test_cgroups(void **state)
{
    static const struct {
        const char *what, *text, *cgroup, *unit;
    } rows[] = {
        {"v2", "0::/system.slice/nginx.service\n", "/system.slice/nginx.service", "nginx.service"},
        {"v2 with a cgroup of its own", "0::/system.slice/docker.service/a/b\n",
         "/system.slice/docker.service/a/b", "docker.service"},
        {"v2 in a session",
         "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n",
         "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope", "app-x.scope"},
        {"v2, user's slice", "0::/user.slice/user-1000.slice/user@1000.service/background.slice\n",
         "/user.slice/user-1000.slice/user@1000.service/background.slice", "user@1000.service"},
        {"v2, only slices", "0::/kubepods.slice/kubepods-pod1.slice\n",
         "/kubepods.slice/kubepods-pod1.slice", "kubepods-pod1.slice"},
        {"v2 root", "0::/\n", "/", ""},
        {"v2 removed", "0::/system.slice/old.service (deleted)\n", "/system.slice/old.service",
         "old.service"},
        {"v2 out of its namespace", "0::/../../a.scope\n", "/../../a.scope", "a.scope"},
        {"v1",
         "11:memory:/docker/0123456789abcdef\n4:cpu,cpuacct:/other\n"
         "1:name=systemd:/system.slice/docker.service\n",
         "/docker/0123456789abcdef", "docker.service"},
        {"v1, memory with others", "3:cpuset,memory,pids:/a/b.service\n2:memoryx:/no\n",
         "/a/b.service", "b.service"},
        {"hybrid, unified unused",
         "9:name=systemd:/x.scope\n4:memory:/kubepods/burstable/pod1\n"
         "0::/\n",
         "/kubepods/burstable/pod1", "x.scope"},
        {"hybrid, unified used", "4:memory:/system.slice\n0::/system.slice/sshd.service\n",
         "/system.slice/sshd.service", "sshd.service"},
        {"colons in a path", "0::/a:b:c.service\n", "/a:b:c.service", "a:b:c.service"},
        {"nothing", "", "", ""},
        {"garbage", "\n:\n::\n0:\n0::\n0::relative\n:::::/x\nmemory\n\xff\xfe\n", "", ""},
        {"cut", "0::/system.slice/nginx.ser", "", ""},
        {"only a suffix", "0::/.service/.slice\n", "/.service/.slice", ""},
        {"hostile", "0::/\x1b[2J\"<b>.service\n", "/\x1b[2J\"<b>.service", "\x1b[2J\"<b>.service"},
    };
    _cleanup_(processes_freep) struct processes *p = NULL;
    struct process_info info;

    (void)state;
    assert_int_equal(processes_new(root, 64, &p), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        write_file(100 + i, "cmdline", "x", 2);
        write_file(100 + i, "cgroup", rows[i].text, strlen(rows[i].text));
        assert_int_equal(wait_for(p, 100 + i, 0, &info), 1);
        if (strcmp(info.cgroup, rows[i].cgroup) != 0 || strcmp(info.unit, rows[i].unit) != 0)
            fail_msg("%s: '%s', '%s'", rows[i].what, info.cgroup, info.unit);
    }
}

static void test_hostile_files(void **state)
{
    static const struct {
        const char *text;
        int expected; /* for a process that started with tick 1234 */
    } stats[] = {
        {"1 (a) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 1234 99 88\n", 1},
        {"1 (a) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 1234", 1},
        {"1 () 1 (x) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 1234 9\n", 1},
        {"1 (a) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 9999 1234\n", -ESRCH},
        {"1 (a) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 99999999999999999999999999 9\n", -ESRCH},
    };
    static const char *const broken[] = {
        "",
        "1",
        ")",
        "1 (a",
        "1 (a) S",
        "1 (a) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 ",
        "1 (a) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 x",
        "1 (a)S 1 1 1 0 1 2 3 4 5 6 7 8 9",
    };
    _cleanup_(processes_freep) struct processes *p = NULL;
    struct process_info info;
    char big[64 * 1024];

    (void)state;
    assert_int_equal(processes_new(root, 64, &p), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(stats); i++) {
        write_file(200 + i, "stat", stats[i].text, strlen(stats[i].text));
        write_file(200 + i, "cgroup", "0::/a\n", 6);
        assert_int_equal(wait_for(p, 200 + i, 1234 * TICK_NS + 5, &info), stats[i].expected);
    }
    /* Neither said to be gone nor believed to be the one: nothing is told of it. */
    for (unsigned i = 0; i < ARRAY_SIZE(broken); i++) {
        write_file(300 + i, "stat", broken[i], strlen(broken[i]));
        write_file(300 + i, "cgroup", "0::/a\n", 6);
        assert_int_equal(wait_for(p, 300 + i, 1234 * TICK_NS, &info), 1);
        assert_string_equal(info.cgroup, "");
        assert_int_equal(info.cmdline_len, 0);
    }

    /* More than there is room for. */
    memset(big, 'a', sizeof(big));
    memcpy(big, "0::/", 4);
    write_file(400, "cgroup", big, sizeof(big));
    write_file(400, "cmdline", big, sizeof(big));
    assert_int_equal(wait_for(p, 400, 0, &info), 1);
    assert_string_equal(info.cgroup, "");
    assert_int_equal(info.cmdline_len, sizeof(info.cmdline));
    big[2000] = '\n';
    memcpy(big + 1990, ".service", 8);
    write_file(401, "cgroup", big, sizeof(big));
    write_file(401, "cmdline", "", 0);
    assert_int_equal(wait_for(p, 401, 0, &info), 1);
    assert_int_equal(strlen(info.cgroup), sizeof(info.cgroup) - 1);
    assert_string_equal(info.unit, "");
    assert_int_equal(info.cmdline_len, 0);

    /* A process that ended between being listed and being read leaves an empty folder. */
    write_file(402, "x", "", 0);
    assert_int_equal(wait_for(p, 402, 0, &info), -ESRCH);
}

/* A command line that hangs as it does when somebody holds the mmap lock. */
static void test_hanging(void **state)
{
    enum { HANGING = 3 };
    struct processes *p = NULL;
    struct process_info info;
    char path[PATH_MAX];
    uint64_t begin;
    int r = 0, fds[HANGING];

    (void)state;
    for (unsigned i = 0; i < HANGING; i++) {
        write_file(500 + i, "cgroup", "0::/hung.service\n", 17);
        snprintf(path, sizeof(path), "%s/proc/%u/cmdline", root, 500 + i);
        assert_int_equal(mkfifo(path, 0600), 0);
    }
    write_file(510, "cgroup", "0::/fine.service\n", 17);
    write_file(510, "cmdline", "fine", 5);

    assert_int_equal(processes_new(root, 64, &p), 0);
    for (unsigned i = 0; i < HANGING; i++)
        assert_int_equal(processes_lookup(p, 500 + i, 0, &info), 0);

    /* The others are answered meanwhile, and of the hanging ones what does not hang. */
    assert_int_equal(wait_for(p, 510, 0, &info), 1);
    assert_string_equal(info.unit, "fine.service");
    assert_int_equal(info.cmdline_len, 5);
    begin = clock_now_ns(CLOCK_MONOTONIC);
    while ((r = processes_lookup(p, 500, 0, &info)) == 0 &&
           clock_now_ns(CLOCK_MONOTONIC) - begin < 5 * NS_PER_SEC)
        usleep(10000);
    assert_int_equal(r, 1);
    assert_string_equal(info.unit, "hung.service");
    assert_int_equal(info.cmdline_len, 0);

    /* Nor does ending wait for them. */
    begin = clock_now_ns(CLOCK_MONOTONIC);
    p = processes_free(p);
    assert_true(clock_now_ns(CLOCK_MONOTONIC) - begin < 5 * NS_PER_SEC);

    /* They let go at last, and clean up behind themselves. */
    for (unsigned i = 0; i < HANGING; i++) {
        snprintf(path, sizeof(path), "%s/proc/%u/cmdline", root, 500 + i);
        fds[i] = open(path, O_WRONLY | O_CLOEXEC);
        assert_true(fds[i] >= 0);
        close(fds[i]);
    }
    usleep(200 * 1000);
}

static void test_bounds(void **state)
{
    _cleanup_(processes_freep) struct processes *p = NULL;

    (void)state;
    assert_int_equal(processes_new(root, 0, &p), -EINVAL);
    assert_null(p);
    assert_null(processes_free(NULL));
}

static int make_root(void **state)
{
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    return test_remove_folder(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_myself),        cmocka_unit_test(test_odd_names),
        cmocka_unit_test(test_odd_arguments), cmocka_unit_test(test_gone),
        cmocka_unit_test(test_storm),         cmocka_unit_test(test_cgroups),
        cmocka_unit_test(test_hostile_files), cmocka_unit_test(test_hanging),
        cmocka_unit_test(test_bounds),
    };

    return cmocka_run_group_tests_name("process", tests, make_root, remove_root);
}
