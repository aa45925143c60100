// SPDX-License-Identifier: Apache-2.0

#include <arpa/inet.h>
#include <linux/net_tstamp.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>

#include "core/bench.h"

/* What every packet pays: none of these is late. */

static int one = -1, other = -1;

/* As the agent has it, for all that is compared: packets have stamps. What those cost is not in it.
 */
static int have_stamps(void)
{
    const int wanted = SOF_TIMESTAMPING_RX_SOFTWARE;
    const struct timespec soon = {.tv_nsec = 100 * (long)NS_PER_MS};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* open until the process ends */

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &wanted, sizeof(wanted)) < 0)
        return -errno;
    nanosleep(&soon, NULL);
    return 0;
}

static int open_pair(int type, struct sockaddr_in *to)
{
    socklen_t size = sizeof(*to);

    *to = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    one = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    other = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (one < 0 || other < 0 || bind(other, (struct sockaddr *)to, size) < 0 ||
        getsockname(other, (struct sockaddr *)to, &size) < 0)
        return -errno;
    return have_stamps();
}

static int begin_datagram(void)
{
    struct sockaddr_in to;
    int r = open_pair(SOCK_DGRAM, &to);

    if (r < 0)
        return r;
    return connect(one, (struct sockaddr *)&to, sizeof(to)) < 0 ? -errno : 0;
}

static int turn_datagram(unsigned n)
{
    char byte = 0;

    for (unsigned i = 0; i < n; i++)
        if (send(one, &byte, 1, 0) < 0 || recv(other, &byte, 1, 0) < 0)
            return -errno;
    return 0;
}

/* To and fro: what comes back acknowledges what went, so there is no other segment. */
static int turn_segments(unsigned n)
{
    char byte = 0;

    for (unsigned i = 0; i < n; i++)
        if (send(one, &byte, 1, 0) < 0 || recv(other, &byte, 1, 0) < 0 ||
            send(other, &byte, 1, 0) < 0 || recv(one, &byte, 1, 0) < 0)
            return -errno;
    return 0;
}

static int begin_segments(void)
{
    const int on = 1;
    struct sockaddr_in to;
    int r = open_pair(SOCK_STREAM, &to), listener = other;

    if (r < 0)
        return r;
    if (listen(listener, 1) < 0 || connect(one, (struct sockaddr *)&to, sizeof(to)) < 0)
        return -errno;
    other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (other < 0 || setsockopt(one, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
        setsockopt(other, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
        return -errno;
    return turn_segments(100); /* at first each segment is acknowledged at once */
}

#define DATAGRAM(hook_name, hook_target)                                                           \
    {                                                                                              \
        .hook = hook_name, .target = hook_target, .name = "datagram_" hook_target,                 \
        .provoked = "a datagram to and from a socket on loopback", .outcome = BENCH_IGNORED,       \
        .hits = 1, .own_netns = true, .begin = begin_datagram, .turn = turn_datagram,              \
    }

#define SEGMENTS(hook_name)                                                                        \
    {                                                                                              \
        .hook = hook_name, .target = hook_name, .name = "segment_" hook_name,                      \
        .provoked = "a byte to and fro on a connection on loopback", .outcome = BENCH_IGNORED,     \
        .hits = 2, .own_netns = true, .begin = begin_segments, .turn = turn_segments,              \
    }

static const struct bench_case cases[] = {
    DATAGRAM("netif_receive_skb", "netif_receive_skb"),
    SEGMENTS("netif_receive_skb"),
    SEGMENTS("tcp_probe"),
    SEGMENTS("tcp_rcv_space_adjust"),
    DATAGRAM("udp_recvmsg", "skb_consume_udp"),
    DATAGRAM("udp_recvmsg", "consume_skb"),
    DATAGRAM("udp_recvmsg", "sk_data_ready"),
    DATAGRAM("udp_recvmsg", "sock_recv_length"),
    {},
};

const struct bench bench_net_rx_latency = {.cases = cases};
