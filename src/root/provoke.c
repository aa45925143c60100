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

#include "core/cgroup.h"
#include "core/clock.h"

#define POLL_US      2000
#define END_BOUND_NS (5 * NS_PER_SEC)

/** What the process tells, in memory that both have: it may be killed at any moment (oom). */
struct shared {
    bool done; /* written last, read first: atomically */
    int result;
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
        __atomic_store_n(&shared->done, true, __ATOMIC_RELEASE);
        for (;;)
            pause();
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

static int wait_done(const struct shared *shared, pid_t pid, uint64_t deadline_ns)
{
    for (;;) {
        siginfo_t info = {};
        int r;

        if (__atomic_load_n(&shared->done, __ATOMIC_ACQUIRE))
            return shared->result;
        if (clock_now_ns(CLOCK_MONOTONIC) >= deadline_ns)
            return -ETIMEDOUT;
        /* It stays a zombie, and its number ours, until provoke_end(). */
        r = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
        if (r < 0 || info.si_pid == pid)
            return __atomic_load_n(&shared->done, __ATOMIC_ACQUIRE) ? shared->result : -EINTR;
        usleep(POLL_US);
    }
}

void provoke_end_all(void)
{
    /* A killed process may take its time, in an uninterruptible sleep above all: not for ever. */
    const uint64_t deadline_ns = clock_now_ns(CLOCK_MONOTONIC) + END_BOUND_NS;
    pid_t ended = 0;

    while (ended >= 0 && clock_now_ns(CLOCK_MONOTONIC) < deadline_ns) {
        kill_children();
        while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (ended == 0)
            usleep(POLL_US);
    }
    cgroup_remove_abandoned();
}

void provoke_end(struct provocation *p)
{
    if (p->pid <= 0)
        return;
    kill(-p->pid, SIGKILL);
    provoke_end_all();
    p->pid = 0;
}

int provoke_begin(const struct event *event, uint64_t timeout_ns, struct provoked *ret,
                  struct provocation *ret_provocation)
{
    struct shared *shared;
    pid_t parent = getpid(), pid;
    int r;

    *ret_provocation = (struct provocation){};
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
        r = wait_done(shared, pid, clock_now_ns(CLOCK_MONOTONIC) + timeout_ns);
        ret_provocation->pid = pid;
    }
    *ret = shared->provoked;
    ret->field[sizeof(ret->field) - 1] = '\0';
    munmap(shared, sizeof(*shared));
    return r;
}
