// SPDX-License-Identifier: Apache-2.0

#include "store/busfault.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES_MAX 65536 /* a pipe holds this (pipe(7)) */

static struct {
    int pipe[2]; /* to read a page that may not be there: write(2) answers EFAULT where we would die
                  */
    size_t page_bytes;
    bool ready;
} bus;

static _Thread_local volatile sig_atomic_t guarded, happened;

/** Only what signal-safety(7) allows, and mmap(2), which is a plain system call. */
static void on_bus(int signal_number, siginfo_t *info, void *context)
{
    char *at = info->si_addr, *page = at - ((uintptr_t)at & (bus.page_bytes - 1));
    int saved = errno;
    ssize_t kept;

    (void)context;
    if (!guarded || info->si_code != BUS_ADRERR) {
        signal(signal_number, SIG_DFL); /* not ours: it happens again, and ends the process */
        return;
    }
    kept = write(bus.pipe[1], page, bus.page_bytes);
    if (mmap(page, bus.page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
             -1, 0) == MAP_FAILED) {
        signal(signal_number, SIG_DFL);
        return;
    }
    if (kept > 0 && read(bus.pipe[0], page, (size_t)kept) < 0)
        memset(page, 0, bus.page_bytes);
    happened = 1;
    errno = saved;
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};

    bus.page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    if (bus.page_bytes > PAGE_BYTES_MAX || pipe2(bus.pipe, O_CLOEXEC | O_NONBLOCK) < 0)
        return;
    bus.ready = sigaction(SIGBUS, &action, NULL) == 0;
}

void busfault_guard(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t mine;

    pthread_once(&once, install);
    /* Of a thread that has it blocked the kernel makes an end at once. */
    sigemptyset(&mine);
    sigaddset(&mine, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &mine, NULL);
    guarded = bus.ready;
}

bool busfault_happened(void)
{
    bool answer = happened;

    happened = 0;
    return answer;
}
