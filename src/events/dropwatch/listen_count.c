// SPDX-License-Identifier: Apache-2.0

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "core/ask.h"
#include "core/clock.h"
#include "core/netns.h"
#include "core/read.h"
#include "events/dropwatch/listen.h"

/**
 * Where no program may be attached to the functions that decide: each network namespace's counters
 * are read once a second, and where they have grown its listeners are looked at. Which kernel
 * counts what is said with the programs that see it happen, in dropwatch.bpf.c.
 */

#define LOOK_NS       (1 * NS_PER_SEC)
#define ANSWER_NS     (500 * NS_PER_MS)
#define LISTENERS_MAX 4096 /* of a namespace */
#define NETSTAT_MAX   65536
#define PATIENCE      10  /* looks without an answer */
#define BATCH         128 /* listeners in a packet */

struct space {
    uint64_t netns;
    bool seen;          /* in this look */
    bool known;         /* its counters were read before */
    uint64_t looked_ns; /* CLOCK_MONOTONIC */
    uint64_t before[DROPWATCH_COUNTERS];
    uint64_t refused_acks;
    unsigned unanswered; /* looks at listeners, one after the other */
    struct listen_growth growth;
    struct listener *listeners; /* owned */
    size_t n;
    uint64_t total[DROPWATCH_TYPES]; /* of no listener that is known */
};

struct counting {
    struct netns_view *view;
    struct space *spaces; /* owned */
    size_t n, cap;
    struct ask ask;
    const struct source_host *host;
    uint64_t now_ns;
    struct space *telling;
    uint64_t interval_ns;
};

/* ------------------------------------------------------------------ asking for listeners */

static void count_request(struct listener *listeners, size_t n, const struct listener *request)
{
    static const uint8_t any[16], mapped_any[16] = {[10] = 0xff, [11] = 0xff};

    for (size_t i = 0; i < n; i++) {
        struct listener *l = &listeners[i];

        if (l->port != request->port)
            continue;
        if (memcmp(l->address, request->address, 16) != 0 && memcmp(l->address, any, 16) != 0 &&
            memcmp(l->address, mapped_any, 16) != 0)
            continue;
        l->requests++;
        return; /* of several with the same port (SO_REUSEPORT) the kernel does not tell which */
    }
}

static struct listener parse_socket(const struct inet_diag_msg *m, size_t size)
{
    struct listener l = {
        .family = m->idiag_family,
        .port = ntohs(m->id.idiag_sport),
        .ack_backlog = m->idiag_rqueue,
        .max_ack_backlog = m->idiag_wqueue,
        .uid = m->idiag_uid,
        .inode = m->idiag_inode,
        .cookie = m->id.idiag_cookie[0] | (uint64_t)m->id.idiag_cookie[1] << 32,
    };
    int left = (int)(size - sizeof(*m));

    if (l.family == AF_INET6) {
        memcpy(l.address, m->id.idiag_src, 16);
    } else {
        l.address[10] = l.address[11] = 0xff;
        memcpy(l.address + 12, m->id.idiag_src, 4);
    }
    for (const struct rtattr *a = (const void *)(m + 1); RTA_OK(a, left); a = RTA_NEXT(a, left))
        if (a->rta_type == INET_DIAG_SKMEMINFO &&
            RTA_PAYLOAD(a) > (int)(SK_MEMINFO_DROPS * sizeof(uint32_t)))
            l.drops = ((const uint32_t *)RTA_DATA(a))[SK_MEMINFO_DROPS];
    return l;
}

/** False: that was all, or all that there will be. */
static bool take_sockets(const void *bytes, size_t size, struct listener *ret, size_t *ret_n)
{
    int left = (int)size;

    for (const struct nlmsghdr *h = bytes; NLMSG_OK(h, (unsigned)left); h = NLMSG_NEXT(h, left)) {
        struct listener l;

        if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY)
            return false;
        if (h->nlmsg_len < NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
            continue;
        l = parse_socket(NLMSG_DATA(h), h->nlmsg_len - NLMSG_LENGTH(0));
        if (((const struct inet_diag_msg *)NLMSG_DATA(h))->idiag_state != TCP_LISTEN)
            count_request(ret, *ret_n, &l);
        else if (*ret_n < LISTENERS_MAX)
            ret[(*ret_n)++] = l;
    }
    return true;
}

/** sock_diag(7). Listeners come before those in the handshake (net/ipv4/inet_diag.c). */
static void ask_family(int fd, uint8_t family, struct listener *ret, size_t *ret_n)
{
    static _Alignas(8) uint8_t buffer[65536];
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 diag;
    } request = {
        .header = {.nlmsg_len = sizeof(request),
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .diag = {.sdiag_family = family,
                 .sdiag_protocol = IPPROTO_TCP,
                 .idiag_ext = 1 << (INET_DIAG_SKMEMINFO - 1),
                 .idiag_states = 1 << TCP_LISTEN | 1 << TCP_SYN_RECV},
    };
    ssize_t n = send(fd, &request, sizeof(request), 0);

    while (n > 0) {
        n = recv(fd, buffer, sizeof(buffer), 0);
        if (n > 0 && !take_sockets(buffer, (size_t)n, ret, ret_n))
            break;
    }
}

/** In a child, which is in the namespace: the first time the kernel loads a module for it. */
static void tell_listeners(int out, const void *arg)
{
    static struct listener listeners[LISTENERS_MAX];
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    size_t n = 0;

    (void)arg;
    if (fd < 0)
        return;
    ask_family(fd, AF_INET6, listeners, &n);
    ask_family(fd, AF_INET, listeners, &n);
    for (size_t at = 0; at < n; at += BATCH)
        if (send(out, &listeners[at], MIN(n - at, (size_t)BATCH) * sizeof(*listeners), 0) < 0)
            return;
}

static const struct listener *find(const struct listener *listeners, size_t n, uint64_t cookie)
{
    for (size_t i = 0; i < n; i++)
        if (listeners[i].cookie == cookie)
            return &listeners[i];
    return NULL;
}

/** The first `n`, in no more memory than they take. */
static struct listener *less_of(struct listener *many, size_t n)
{
    struct listener *few = malloc(MAX(n, (size_t)1) * sizeof(*few));

    if (!few)
        return many;
    memcpy(few, many, n * sizeof(*few));
    free(many);
    return few;
}

/** What has been told of one stays with it. `all_told`: and of all that are there now. False: they
 * could not be had this time, and those of before are still what is known. */
static bool look_at_listeners(struct counting *c, struct space *s, bool all_told)
{
    uint64_t until_ns = clock_now_ns(CLOCK_MONOTONIC) + ANSWER_NS;
    struct listener *now = calloc(LISTENERS_MAX, sizeof(*now));
    ssize_t r = now ? ask_begin(&c->ask, tell_listeners, NULL) : -ENOMEM;
    size_t n = 0;

    for (r = r < 0 ? r : 1; r > 0 && n + BATCH <= LISTENERS_MAX;) {
        r = ask_next(&c->ask, &now[n], BATCH * sizeof(*now), until_ns);
        if (r > 0)
            n += (size_t)r / sizeof(*now);
    }
    ask_end(&c->ask, until_ns);
    if (r < 0) {
        free(now);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const struct listener *before = find(s->listeners, s->n, now[i].cookie);

        if (before) {
            now[i].told = before->told;
            now[i].left_before = before->left_before;
            memcpy(now[i].total, before->total, sizeof(now[i].total));
        } else if (all_told) {
            now[i].told = now[i].drops;
        }
    }
    free(s->listeners);
    s->listeners = less_of(now, n);
    s->n = n;
    return true;
}

/* ------------------------------------------------------------------ telling */

static enum dropwatch_type type_of(enum dropwatch_counter counter)
{
    return counter == DROPWATCH_OVERFLOWS ? DROPWATCH_HANDSHAKE1 : DROPWATCH_SYN_FLOOD;
}

static void tell(void *arg, struct listener *l, enum dropwatch_counter counter, uint64_t count)
{
    struct counting *c = arg;
    struct dropwatch_wire wire = {
        .type = (__u8)type_of(counter),
        .counter = (__u8)counter,
        .count_only = 1,
        .count = count,
        .interval_ns = c->interval_ns,
        /* As rules see it: a SYN on its way in. */
        .packet = {.netns = (__u32)c->telling->netns,
                   .protocol = IPPROTO_TCP,
                   .tcp_flags = TH_SYN,
                   .iif = -1},
    };
    struct wire_key key = {.what = wire.type};
    uint64_t *total = l ? &l->total[wire.type] : &c->telling->total[wire.type];

    wire.total = *total += count;
    if (l) {
        memcpy(wire.packet.daddr, l->address, 16);
        wire.packet.dport = l->port;
        wire.packet.family = l->family;
        wire.packet.state = TCP_LISTEN;
        wire.packet.max_ack_backlog = l->max_ack_backlog;
        wire.packet.socket = PACKET_SOCKET_GIVEN;
        wire.packet.socket_inode = l->inode;
        wire.packet.socket_uid = l->uid;
        wire.ack_backlog = l->ack_backlog;
        wire.request_queue = l->requests;
        memcpy(&key.words[1], l->address, 16);
    }
    key.words[3] = wire.packet.dport | (uint64_t)wire.packet.netns << 32;
    c->host->emit(c->host, &key, 0, &wire, DROPWATCH_WIRE_LEAST);
}

/* ------------------------------------------------------------------ looking */

static struct space *space_of(struct counting *c, uint64_t netns)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->spaces[i].netns == netns)
            return &c->spaces[i];
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 16;
        struct space *spaces = realloc(c->spaces, cap * sizeof(*spaces));

        if (!spaces)
            return NULL;
        c->spaces = spaces;
        c->cap = cap;
    }
    c->spaces[c->n] = (struct space){.netns = netns};
    return &c->spaces[c->n++];
}

/** Of the namespace in which this process is. */
static bool read_counters(uint64_t ret[DROPWATCH_COUNTERS])
{
    _close_fd_ int fd = open("/proc/self/net/netstat", O_RDONLY | O_CLOEXEC);
    _free_ char *text = NULL;

    if (fd < 0 || read_whole(fd, NETSTAT_MAX, &text, NULL) < 0)
        return false;
    listen_parse(text, ret);
    return true;
}

/** With 2 the kernel counts every SYN as if the queue were full. */
static bool cookies_always(void)
{
    _close_fd_ int fd = open("/proc/sys/net/ipv4/tcp_syncookies", O_RDONLY | O_CLOEXEC);
    char digit = 0;

    return fd >= 0 && read(fd, &digit, 1) == 1 && digit == '2';
}

/** Final ACKs that have been recorded one by one: the kernel gives the reason. */
static uint64_t refused_acks(const struct counting *c, uint64_t netns)
{
    int map = c->host->map(c->host, "refused_acks");
    uint32_t key = (uint32_t)netns;
    uint64_t n = 0;

    return map >= 0 && bpf_map_lookup_elem(map, &key, &n) == 0 ? n : 0;
}

static void grow(struct counting *c, struct space *s, const uint64_t now[DROPWATCH_COUNTERS])
{
    uint64_t acks = refused_acks(c, s->netns);

    for (unsigned i = 1; i < DROPWATCH_LISTEN_DROPS; i++)
        s->growth.refused[i] += (int64_t)(now[i] - s->before[i]);
    /* Another object may have taken over, which has begun with 0. */
    s->growth.refused[DROPWATCH_OVERFLOWS] -=
        (int64_t)(acks < s->refused_acks ? acks : acks - s->refused_acks);
    s->refused_acks = acks;
    if (s->growth.refused[DROPWATCH_FULL_COOKIES] && cookies_always())
        s->growth.refused[DROPWATCH_FULL_COOKIES] = 0;
    memcpy(s->before, now, sizeof(s->before));
}

static void look_at(void *arg, uint64_t netns)
{
    struct counting *c = arg;
    struct space *s = space_of(c, netns);
    uint64_t now[DROPWATCH_COUNTERS] = {};
    bool any = false;

    if (!s || !read_counters(now))
        return;
    s->seen = true;
    if (!s->known) {
        s->known = true;
        s->refused_acks = refused_acks(c, netns);
        memcpy(s->before, now, sizeof(now));
        if (now[DROPWATCH_LISTEN_DROPS])
            (void)look_at_listeners(c, s, true);
    }
    grow(c, s, now);
    for (unsigned i = 1; i < DROPWATCH_LISTEN_DROPS; i++)
        any |= s->growth.refused[i] > 0;
    if (any) {
        /* The first time the kernel loads a module for it, which may take a while. */
        if (!look_at_listeners(c, s, false) && ++s->unanswered < PATIENCE)
            return;
        s->unanswered = 0;
        c->telling = s;
        c->interval_ns = c->now_ns - s->looked_ns;
        listen_divide(&s->growth, s->listeners, s->n, tell, c);
    }
    s->looked_ns = c->now_ns;
}

static void look(struct counting *c)
{
    for (size_t i = 0; i < c->n; i++)
        c->spaces[i].seen = false;
    netns_visit(c->view, look_at, c);
    for (size_t i = c->n; i-- > 0;)
        if (!c->spaces[i].seen) {
            free(c->spaces[i].listeners);
            c->spaces[i] = c->spaces[--c->n];
        }
}

static void counting_run(void *state, const struct source_host *h)
{
    struct counting *c = state;

    c->host = h;
    c->now_ns = clock_now_ns(CLOCK_MONOTONIC);
    if (!netns_due(c->view))
        return;
    look(c);
    netns_looked(c->view);
}

static void counting_close(void *state)
{
    struct counting *c = state;

    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++)
        free(c->spaces[i].listeners);
    free(c->spaces);
    netns_view_free(c->view);
    fd_close(c->ask.fd);
    free(c);
}

static int counting_open(const struct source_host *h, const char *way, char *note, size_t note_size,
                         void **ret)
{
    struct counting *c = calloc(1, sizeof(*c));
    int r;

    (void)h;
    (void)way;
    if (!c)
        return -ENOMEM;
    c->ask.fd = -1;
    r = netns_view_new(&c->view);
    if (r < 0) {
        counting_close(c);
        return r;
    }
    snprintf(note, note_size,
             "counts only: once a second, without the packets; SYNs only where the kernel gives "
             "final ACKs a reason of their own");
    *ret = c;
    return 0;
}

const struct hook_source listen_source = {
    .period_ns = LOOK_NS,
    .open = counting_open,
    .run = counting_run,
    .close = counting_close,
};
