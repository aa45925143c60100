// SPDX-License-Identifier: Apache-2.0

#include "core/ask.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "core/clock.h"

static _Noreturn void run_child(int out, void (*child)(int out, const void *arg), const void *arg)
{
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "huatuo-ask");
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* If it hangs when we end, it must keep none of our hooks. */
    close_range(STDERR_FILENO + 1, (unsigned)out - 1, 0);
    close_range((unsigned)out + 1, ~0U, 0);
    child(out, arg);
    _exit(0);
}

int ask_begin(struct ask *a, void (*child)(int out, const void *arg), const void *arg)
{
    int pair[2], r = 0;
    pid_t pid;

    ask_end(a, 0);
    if (a->fd >= 0)
        return -EBUSY;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    pid = fork();
    if (pid == 0)
        run_child(pair[1], child, arg);
    if (pid < 0)
        r = -errno;
    close(pair[1]);
    if (r < 0)
        close(pair[0]);
    else
        a->fd = pair[0];
    return r;
}

ssize_t ask_next(struct ask *a, void *ret, size_t size, uint64_t until_ns)
{
    for (;;) {
        uint64_t now = clock_now_ns(CLOCK_MONOTONIC);
        struct pollfd polled = {.fd = a->fd, .events = POLLIN};
        ssize_t n = recv(a->fd, ret, size, MSG_DONTWAIT);

        if (n >= 0)
            return n;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        if (now >= until_ns)
            return -ETIMEDOUT;
        poll(&polled, 1, (int)((until_ns - now) / NS_PER_MS + 1));
    }
}

void ask_end(struct ask *a, uint64_t until_ns)
{
    ssize_t n = a->fd < 0 ? -EBADF : 1;

    while (n > 0)
        n = ask_next(a, &(char){0}, 1, until_ns);
    if (n != -ETIMEDOUT)
        a->fd = fd_close(a->fd);
}
