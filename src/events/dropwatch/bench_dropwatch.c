// SPDX-License-Identifier: Apache-2.0

#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <string.h>
#include <sys/socket.h>

#include "core/bench.h"

#define CLOSED_PORT 9
#define FIRST_PORT  20000
#define N_PORTS     4096

static const struct sockaddr_in closed = {
    .sin_family = AF_INET,
    .sin_port = CLOSED_PORT << 8, /* network order; htons() is no constant */
    .sin_addr.s_addr = 0x0100007f,
};

static int fd = -1;

static int open_socket(int type, int protocol)
{
    fd = socket(AF_INET, type | SOCK_CLOEXEC, protocol);
    return fd < 0 ? -errno : 0;
}

/* --- UDP: another protocol than the default's */

static int begin_udp(void)
{
    return open_socket(SOCK_DGRAM, 0);
}

/* The socket is not connected, so the ICMP error that comes back is nobody's. */
static int turn_udp(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (sendto(fd, "", 1, 0, (const struct sockaddr *)&closed, sizeof(closed)) < 0)
            return -errno;
    return 0;
}

/* --- TCP segments of no connection; nobody answers a reset, nor a segment with a wrong checksum */

static struct segment {
    struct iphdr ip;
    struct tcphdr tcp;
} segment;

static uint16_t checksum(void)
{
    const struct {
        uint32_t saddr, daddr;
        uint16_t protocol, len;
        struct tcphdr tcp;
    } pseudo = {
        .saddr = segment.ip.saddr,
        .daddr = segment.ip.daddr,
        .protocol = htons(IPPROTO_TCP),
        .len = htons(sizeof(struct tcphdr)),
        .tcp = segment.tcp,
    };
    uint16_t words[sizeof(pseudo) / 2];
    uint32_t sum = 0;

    memcpy(words, &pseudo, sizeof(pseudo));
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        sum += words[i];
    sum = (sum >> 16) + (sum & 0xffff);
    sum += sum >> 16;
    return (uint16_t)~sum;
}

static int begin_segment(bool reset)
{
    segment = (struct segment){
        .ip = {.version = 4,
               .ihl = 5,
               .tot_len = htons(sizeof(segment)),
               .ttl = 64,
               .protocol = IPPROTO_TCP,
               .saddr = closed.sin_addr.s_addr,
               .daddr = closed.sin_addr.s_addr},
        .tcp = {.source = htons(FIRST_PORT - 1),
                .dest = closed.sin_port,
                .doff = sizeof(segment.tcp) / 4,
                .rst = reset,
                .syn = !reset},
    };
    segment.tcp.check = reset ? checksum() : (uint16_t)~checksum();
    return open_socket(SOCK_RAW, IPPROTO_RAW);
}

static int begin_reset(void)
{
    return begin_segment(true);
}

static int begin_broken(void)
{
    return begin_segment(false);
}

static int turn_segment(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (sendto(fd, &segment, sizeof(segment), 0, (const struct sockaddr *)&closed,
                   sizeof(closed)) < 0)
            return -errno;
    return 0;
}

/* Both ports, as the lower one is part of the key; the checksum stays wrong. */
static int turn_new_key(unsigned n)
{
    static unsigned nth;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < n; i++) {
        segment.tcp.source = segment.tcp.dest = htons((uint16_t)(FIRST_PORT + nth++ % N_PORTS));
        segment.tcp.check = 0;
        r = turn_segment(1);
    }
    return r;
}

/* --- states of sockets, without a packet: under TCP_REPAIR connect() makes the connection at once
 */

static int begin_stream(void)
{
    return open_socket(SOCK_STREAM, 0);
}

static int disconnect(void)
{
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};

    return connect(fd, &nobody, sizeof(nobody)) < 0 ? -errno : 0;
}

/* CLOSE, LISTEN, CLOSE */
static int turn_listen(unsigned n)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < n; i++)
        r = listen(fd, 1) < 0 ? -errno : disconnect();
    return r;
}

/* CLOSE, SYN_SENT, ESTABLISHED, CLOSE */
static int turn_connection(unsigned n)
{
    const int on = TCP_REPAIR_ON;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < n; i++) {
        if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0 ||
            connect(fd, (const struct sockaddr *)&closed, sizeof(closed)) < 0)
            return -errno;
        r = disconnect();
    }
    return r;
}

static const struct bench_case cases[] = {
    {
        .hook = "kfree_skb",
        .target = "kfree_skb",
        .name = "other_protocol",
        .provoked = "UDP to a port where nobody listens",
        .outcome = BENCH_IGNORED,
        .hits = 1,
        .own_netns = true,
        .begin = begin_udp,
        .turn = turn_udp,
    },
    {
        .hook = "kfree_skb",
        .target = "kfree_skb",
        .name = "filtered",
        .provoked = "a reset to a port where nobody listens: the last of the noise rules",
        .outcome = BENCH_FILTERED,
        .hits = 1,
        .events = 1,
        .own_netns = true,
        .begin = begin_reset,
        .turn = turn_segment,
    },
    {
        .hook = "kfree_skb",
        .target = "kfree_skb",
        .name = "repeat",
        .provoked = "a SYN with a wrong checksum, again and again",
        .outcome = BENCH_SUPPRESSED,
        .hits = 1,
        .events = 1,
        .own_netns = true,
        .begin = begin_broken,
        .turn = turn_segment,
    },
    {
        .hook = "kfree_skb",
        .target = "kfree_skb",
        .name = "recorded",
        .provoked = "a SYN with a wrong checksum, again and again",
        .outcome = BENCH_RECORDED,
        .hits = 1,
        .events = 1,
        .own_netns = true,
        .begin = begin_broken,
        .turn = turn_segment,
    },
    {
        .hook = "kfree_skb",
        .target = "kfree_skb",
        .name = "recorded_new_key",
        .provoked = "SYNs with wrong checksums, each to another port: each opens a window",
        .outcome = BENCH_RECORDED,
        .hits = 1,
        .events = 1,
        .own_netns = true,
        .begin = begin_broken,
        .turn = turn_new_key,
    },
    {
        .hook = "inet_sock_set_state",
        .target = "inet_sock_set_state",
        .name = "listen",
        .provoked = "a socket that listens and stops to",
        .outcome = BENCH_IGNORED,
        .hits = 2,
        .own_netns = true,
        .begin = begin_stream,
        .turn = turn_listen,
    },
    {
        .hook = "inet_sock_set_state",
        .target = "inet_sock_set_state",
        .name = "connection",
        .provoked = "a connection made and ended; one hit of three is kept in a map",
        .outcome = BENCH_IGNORED,
        .hits = 3,
        .own_netns = true,
        .begin = begin_stream,
        .turn = turn_connection,
    },
    {},
};

#define OF_A_HANDSHAKE "it is hit once by a SYN, or by the ACK that ends a handshake"
#define RARE           "it is hit when a device loses something"

static const struct bench_omission omissions[] = {
    {"tcp_conn_request", OF_A_HANDSHAKE},
    {"tcp_v4_syn_recv_sock", OF_A_HANDSHAKE},
    {"tcp_v6_syn_recv_sock", OF_A_HANDSHAKE},
    {"net_dev_xmit_timeout", RARE},
    {"devlink_trap_report", RARE},
    {"?raw_tp", "it is run by the agent, for what it has found"},
    {"raw_tp", "it is run by the agent, for what it has found"},
    {},
};

const struct bench bench_dropwatch = {.cases = cases, .omissions = omissions};
