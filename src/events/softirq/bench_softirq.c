// SPDX-License-Identifier: Apache-2.0

#include <arpa/inet.h>
#include <sys/socket.h>

#include "core/bench.h"

static int sender = -1, receiver = -1;

static int begin_datagram(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(to);

    receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (receiver < 0 || sender < 0 || bind(receiver, (struct sockaddr *)&to, size) < 0 ||
        getsockname(receiver, (struct sockaddr *)&to, &size) < 0 ||
        connect(sender, (struct sockaddr *)&to, size) < 0)
        return -errno;
    return 0;
}

/* On its way it raises NET_RX, which runs before the call returns. */
static int turn_datagram(unsigned n)
{
    char byte = 0;

    for (unsigned i = 0; i < n; i++)
        if (send(sender, &byte, 1, 0) < 0 || recv(receiver, &byte, 1, 0) < 0)
            return -errno;
    return 0;
}

#define DATAGRAM(hook_target, case_name)                                                           \
    {                                                                                              \
        .hook = "softirq", .target = hook_target, .name = case_name,                               \
        .provoked = "a datagram to and from a socket on loopback", .outcome = BENCH_IGNORED,       \
        .hits = 1, .own_netns = true, .begin = begin_datagram, .turn = turn_datagram,              \
    }

static const struct bench_case cases[] = {
    DATAGRAM("softirq_raise", "raised"),
    DATAGRAM("softirq_entry", "run"),
    {},
};

static const struct bench_omission omissions[] = {
    {"local_timer_exit", "it is hit by the machine's ticks, whatever a program does"},
    {"hrtimer_expire_exit", "it is hit by the machine's ticks, whatever a program does"},
    {"cpu_idle", "it is hit by CPUs that have nothing to do"},
    {"cpuhp_enter", "it is hit when a CPU is put on line"},
    {},
};

const struct bench bench_softirq = {.cases = cases, .omissions = omissions};
