// SPDX-License-Identifier: Apache-2.0

/**
 * Sends TCP segments that belong to no connection, as fast as the kernel takes them or at a rate:
 *
 *     flood SADDR DADDR SPORT DPORT COUNT KEYS PER_SECOND
 *
 * KEYS different destination ports take turns, from DPORT on; with PER_SECOND 0 there is no pause.
 * Prints how many were sent and how many nanoseconds that took. Needs CAP_NET_RAW.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 256

struct segment {
    union {
        struct {
            struct ip ip;
            struct tcphdr tcp;
        } v4;
        struct {
            struct ip6_hdr ip;
            struct tcphdr tcp;
        } v6;
    };
};

struct target {
    bool v6;
    struct in6_addr saddr, daddr; /* IPv4: the first four bytes */
    unsigned long sport, dport, count, keys, per_second;
};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void fill_tcp(struct tcphdr *tcp, const struct target *t, unsigned long nth)
{
    /* Nobody looks at the checksum: the segments are dropped before they arrive. */
    *tcp = (struct tcphdr){
        .th_sport = htons((uint16_t)t->sport),
        .th_dport = htons((uint16_t)(t->dport + nth % t->keys)),
        .th_seq = htonl((uint32_t)nth),
        .th_off = sizeof(*tcp) / 4,
        .th_flags = TH_SYN,
        .th_win = htons(1024),
    };
}

static size_t fill(struct segment *s, const struct target *t, unsigned long nth)
{
    if (t->v6) {
        s->v6.ip = (struct ip6_hdr){
            .ip6_flow = htonl(6U << 28),
            .ip6_plen = htons(sizeof(s->v6.tcp)),
            .ip6_nxt = IPPROTO_TCP,
            .ip6_hlim = 64,
            .ip6_src = t->saddr,
            .ip6_dst = t->daddr,
        };
        fill_tcp(&s->v6.tcp, t, nth);
        return sizeof(s->v6);
    }
    s->v4.ip = (struct ip){
        .ip_v = 4,
        .ip_hl = sizeof(s->v4.ip) / 4,
        .ip_len = htons(sizeof(s->v4)),
        .ip_ttl = 64,
        .ip_p = IPPROTO_TCP,
    };
    memcpy(&s->v4.ip.ip_src, &t->saddr, 4);
    memcpy(&s->v4.ip.ip_dst, &t->daddr, 4);
    fill_tcp(&s->v4.tcp, t, nth);
    return sizeof(s->v4);
}

/** Sends the batch whole; a queueing discipline that drops may say ENOBUFS, which is a drop too. */
static int send_all(int fd, struct mmsghdr *messages, unsigned n)
{
    for (unsigned done = 0; done < n;) {
        int r = sendmmsg(fd, messages + done, n - done, 0);

        if (r < 0 && errno != ENOBUFS && errno != EINTR)
            return -errno;
        done += r > 0 ? (unsigned)r : errno == ENOBUFS;
    }
    return 0;
}

static int flood(int fd, const struct target *t)
{
    static struct segment segments[BATCH];
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_addr = t->daddr};
    struct sockaddr_in to4 = {.sin_family = AF_INET};
    uint64_t begin = now_ns();

    memcpy(&to4.sin_addr, &t->daddr, 4);
    for (unsigned long sent = 0; sent < t->count;) {
        unsigned n = t->per_second ? 1 : BATCH;

        if (n > t->count - sent)
            n = (unsigned)(t->count - sent);
        for (unsigned i = 0; i < n; i++) {
            parts[i].iov_base = &segments[i];
            parts[i].iov_len = fill(&segments[i], t, sent + i);
            messages[i].msg_hdr = (struct msghdr){
                .msg_name = t->v6 ? (void *)&to6 : &to4,
                .msg_namelen = t->v6 ? sizeof(to6) : sizeof(to4),
                .msg_iov = &parts[i],
                .msg_iovlen = 1,
            };
        }
        int r = send_all(fd, messages, n);
        if (r < 0)
            return r;
        sent += n;
        if (t->per_second) {
            uint64_t next = begin + sent * 1000000000 / t->per_second;
            struct timespec until = {.tv_sec = (time_t)(next / 1000000000),
                                     .tv_nsec = (long)(next % 1000000000)};

            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        }
    }
    printf("%lu %" PRIu64 "\n", t->count, now_ns() - begin);
    return 0;
}

static bool parse_number(const char *text, unsigned long max, unsigned long *ret)
{
    char *end;

    errno = 0;
    *ret = strtoul(text, &end, 10);
    return end != text && !*end && !errno && *ret <= max;
}

static bool parse(char **argv, struct target *ret)
{
    struct target t = {.v6 = strchr(argv[1], ':') != NULL};
    int family = t.v6 ? AF_INET6 : AF_INET;

    if (inet_pton(family, argv[1], &t.saddr) != 1 || inet_pton(family, argv[2], &t.daddr) != 1)
        return false;
    if (!parse_number(argv[3], 65535, &t.sport) || !parse_number(argv[4], 65535, &t.dport))
        return false;
    if (!parse_number(argv[5], 100000000, &t.count) || !parse_number(argv[6], 65535, &t.keys))
        return false;
    if (!parse_number(argv[7], 1000000, &t.per_second) || !t.keys || t.dport + t.keys > 65536)
        return false;
    *ret = t;
    return true;
}

int main(int argc, char **argv)
{
    struct target t;
    int fd, r;

    if (argc != 8 || !parse(argv, &t)) {
        fprintf(stderr, "usage: flood SADDR DADDR SPORT DPORT COUNT KEYS PER_SECOND\n");
        return 2;
    }
    fd = socket(t.v6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    if (fd < 0) {
        fprintf(stderr, "flood: opening a raw socket: %s; it needs CAP_NET_RAW\n", strerror(errno));
        return 1;
    }
    r = flood(fd, &t);
    if (r < 0)
        fprintf(stderr, "flood: sending to %s: %s\n", argv[2], strerror(-r));
    return r < 0;
}
