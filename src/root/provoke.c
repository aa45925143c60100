// SPDX-License-Identifier: Apache-2.0

#include "root/provoke.h"

#include <ctype.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/clock.h"

#define POLL_US 2000

/** What the process tells, in memory that both have: it may be killed at any moment (oom). */
struct shared {
    volatile bool done;
    volatile int result;
    struct provoked provoked;
};

static void child(const struct event *event, pid_t parent, struct shared *shared)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* A group of its own: Ctrl-C ends whoever waits for it, which takes it along. */
    setpgid(0, 0);
    if (getppid() == parent) {
        shared->result = event->provoke(&shared->provoked);
        shared->done = true;
    }
    _exit(0);
}

/** Every child there is, which with PR_SET_CHILD_SUBREAPER are all descendants, one after another.
 */
static void kill_children(void)
{
    char pids[4096], *at = pids, *end;
    int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, pids, sizeof(pids) - 1);
    long pid;

    fd_close(fd);
    pids[MAX(n, (ssize_t)0)] = '\0';
    /* What was cut off at the end comes again with the next call. */
    while ((pid = strtol(at, &end, 10)) > 0 && end != at && isspace((unsigned char)*end)) {
        kill((pid_t)pid, SIGKILL);
        at = end;
    }
}

/** True once the process has ended. */
static bool wait_for(pid_t pid, uint64_t deadline_ns)
{
    while (clock_now_ns(CLOCK_MONOTONIC) < deadline_ns) {
        pid_t ended = waitpid(-1, NULL, WNOHANG);

        if (ended == pid || (ended < 0 && errno == ECHILD))
            return true;
        if (ended <= 0)
            usleep(POLL_US);
    }
    return false;
}

/** A killed process may take its time, in an uninterruptible sleep above all: not for ever. */
static void reap(pid_t group)
{
    const uint64_t deadline_ns = clock_now_ns(CLOCK_MONOTONIC) + 5 * NS_PER_SEC;
    pid_t ended;

    do {
        kill(-group, SIGKILL);
        kill_children();
        while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (ended < 0)
            return;
        usleep(POLL_US);
    } while (clock_now_ns(CLOCK_MONOTONIC) < deadline_ns);
}

int provoke_run(const struct event *event, uint64_t timeout_ns, struct provoked *ret)
{
    struct shared *shared;
    pid_t parent = getpid(), pid;
    bool ended;
    int r;

    if (!event->provoke)
        return -EOPNOTSUPP;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return -errno;
    /* So that what it leaves behind becomes ours to end. */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        child(event, parent, shared);
    if (pid < 0) {
        r = -errno;
    } else {
        setpgid(pid, pid); /* whoever comes first */
        ended = wait_for(pid, clock_now_ns(CLOCK_MONOTONIC) + timeout_ns);
        reap(pid);
        if (shared->done)
            r = shared->result;
        else
            r = ended ? -EINTR : -ETIMEDOUT;
    }
    *ret = shared->provoked;
    ret->field[sizeof(ret->field) - 1] = '\0';
    munmap(shared, sizeof(*shared));
    return r;
}
