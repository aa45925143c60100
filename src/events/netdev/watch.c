// SPDX-License-Identifier: Apache-2.0

#include "events/netdev/watch.h"

#include <bpf/libbpf.h>
#include <fnmatch.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "core/ask.h"
#include "core/clock.h"
#include "core/log.h"
#include "events/netdev/link.h"

#define LINKS_MAX 65536
#define YOUNG_NS  (5 * NS_PER_SEC)
#define DUMPS_MAX 8 /* in a row, if something changes all the time */
#define ANSWER_NS (500 * NS_PER_MS)
#define BATCH     256 /* messages at a time, so that nobody else has to wait */

struct known {
    struct netdev_link link;
    uint64_t grown_ns;      /* CLOCK_MONOTONIC; it is not an event yet that it exists. 0: it is */
    struct netdev_who *who; /* owned: who made it, while it is young; NULL: nobody that is known */
};

/** In the order of their indices. */
struct table {
    struct known *rows; /* owned */
    size_t n, cap;
};

struct watch {
    int fd; /* multicast */
    struct ask ask;
    struct ring_buffer *heard;       /* NULL: without who it was */
    const volatile uint64_t *missed; /* mapped; of `heard` */
    uint64_t missed_before;
    bool begun, reread, complained;
    struct table links;
    unsigned n_young;
    /* While messages are read: */
    const struct source_host *host;
    bool ignoring;
    unsigned n_ignored;
    uint8_t *buffer; /* owned */
    struct netdev_wire wire;
};

#define BUFFER_BYTES 65536

/* ------------------------------------------------------------------ what is known */

static size_t place_of(const struct table *t, uint32_t index)
{
    size_t low = 0, high = t->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (t->rows[middle].link.index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct known *find(const struct table *t, uint32_t index)
{
    size_t place = place_of(t, index);

    return place < t->n && t->rows[place].link.index == index ? &t->rows[place] : NULL;
}

/** NULL: there are too many, or there is no memory; it will not be watched. */
static struct known *add(struct table *t, const struct netdev_link *link)
{
    size_t place = place_of(t, link->index);

    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        struct known *rows = cap > LINKS_MAX ? NULL : realloc(t->rows, cap * sizeof(*rows));

        if (!rows)
            return NULL;
        t->rows = rows;
        t->cap = cap;
    }
    memmove(&t->rows[place + 1], &t->rows[place], (t->n - place) * sizeof(*t->rows));
    t->n++;
    t->rows[place] = (struct known){.link = *link};
    return &t->rows[place];
}

static void forget(struct watch *w, struct known *known)
{
    size_t place = (size_t)(known - w->links.rows);

    w->n_young -= known->grown_ns != 0;
    free(known->who);
    memmove(known, known + 1, (w->links.n - place - 1) * sizeof(*known));
    w->links.n--;
}

static void table_done(struct table *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->rows[i].who);
    free(t->rows);
    *t = (struct table){};
}

/* ------------------------------------------------------------------ speed */

static bool has_speed(const struct netdev_link *l)
{
    return link_is_physical(l) || link_is_kind(l, "bond") || link_is_kind(l, "team") ||
           link_is_kind(l, "tun");
}

static void tell_speed(int out, const void *arg)
{
    const struct netdev_link *l = arg;
    struct ethtool_cmd command = {.cmd = ETHTOOL_GSET};
    struct ifreq request = {.ifr_data = (void *)&command};
    int any = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    uint32_t speed = 0;

    memcpy(request.ifr_name, l->name, sizeof(request.ifr_name));
    request.ifr_name[sizeof(request.ifr_name) - 1] = '\0';
    if (any >= 0 && ioctl(any, SIOCETHTOOL, &request) == 0)
        speed = (uint32_t)command.speed_hi << 16 | command.speed;
    send(out, &speed, sizeof(speed), 0);
}

/** 0: it is not known. */
static uint32_t read_speed(struct watch *w, const struct netdev_link *l)
{
    uint64_t until_ns = clock_now_ns(CLOCK_MONOTONIC) + ANSWER_NS;
    ssize_t n = ask_begin(&w->ask, tell_speed, l);
    uint32_t speed = 0;

    if (n == 0)
        n = ask_next(&w->ask, &speed, sizeof(speed), until_ns);
    ask_end(&w->ask, until_ns);
    return n != sizeof(speed) || speed == (uint32_t)SPEED_UNKNOWN ? 0 : speed;
}

/** No message tells the speed; it is another one only after the carrier was away. */
static void add_speed(struct watch *w, const struct netdev_link *before, struct netdev_link *now)
{
    uint32_t read = 0;

    now->speed_mbps = before ? before->speed_mbps : 0;
    if (!has_speed(now) || !(now->flags & IFF_LOWER_UP))
        return;
    if (!before || link_is_kind(now, "bond") ||
        link_compare(before, now) & (NETDEV_CARRIER | NETDEV_FLAP))
        read = read_speed(w, now);
    if (read)
        now->speed_mbps = read;
}

/* ------------------------------------------------------------------ events */

static bool matches(const struct string_list *patterns, const struct netdev_link *l)
{
    char name[NETDEV_NAME_LEN + 1] = "";

    memcpy(name, l->name, sizeof(l->name));
    for (size_t i = 0; i < patterns->n; i++)
        if (fnmatch(patterns->items[i], name, 0) == 0)
            return true;
    return false;
}

static enum netdev_rule rule_for(const struct netdev_options *o, const struct netdev_link *l)
{
    if (matches(&o->exclude, l))
        return NETDEV_RULE_EXCLUDE;
    if (o->include.n && !matches(&o->include, l))
        return NETDEV_RULE_INCLUDE;
    if (!o->container_veths && l->peer_elsewhere && link_is_kind(l, "veth"))
        return NETDEV_RULE_PEER_ELSEWHERE;
    return NETDEV_RULE_OWN; /* none */
}

static void name_of(const struct watch *w, uint32_t index, char ret[NETDEV_NAME_LEN])
{
    const struct known *known = index ? find(&w->links, index) : NULL;

    if (known)
        memcpy(ret, known->link.name, NETDEV_NAME_LEN);
    else
        memset(ret, 0, NETDEV_NAME_LEN);
}

static void put_who(struct netdev_wire *wire, const struct netdev_who *who)
{
    struct wire_head *head = &wire->head;

    head->task_start_ns = who->task_start_ns;
    head->cgroup_id = who->cgroup_id;
    head->pid = who->pid;
    head->tid = who->tid;
    head->ppid = who->ppid;
    head->uid = who->uid;
    memcpy(head->comm, who->comm, sizeof(head->comm));
    wire->cmdline_bytes = who->cmdline_bytes;
    memcpy(wire->cmdline, who->cmdline, sizeof(wire->cmdline));
    wire->cgroup = who->cgroup;
}

/** What is to be said besides is in w->wire already. */
static void emit(struct watch *w, const struct netdev_link *before, const struct netdev_link *now,
                 uint32_t changes, const struct netdev_who *who)
{
    struct netdev_wire *wire = &w->wire;
    /* The device by its name: one that comes and goes gets another index each time. */
    struct wire_key key = {.what = changes | (uint32_t)wire->start << 31};

    memcpy(key.words, now->name, sizeof(now->name));
    wire->changes = changes;
    wire->before = *before;
    wire->now = *now;
    name_of(w, before->master, wire->master_before);
    name_of(w, now->master, wire->master_now);
    name_of(w, before->active_slave, wire->active_before);
    name_of(w, now->active_slave, wire->active_now);
    if (who)
        wire->head.time_ns = who->time_ns;
    /* When the carrier comes or goes, whoever runs has nothing to do with it: a worker of the
     * kernel, or somebody who just reads /sys/class/net/NAME/carrier. */
    if (who && changes & NETDEV_BY_SOMEBODY)
        put_who(wire, who);
    w->host->emit(w->host, &key, rule_for(w->host->options, now), wire, sizeof(*wire));
    memset(wire, 0, sizeof(*wire));
}

/* ------------------------------------------------------------------ messages */

/** Software makes interfaces half done, and moves them to other namespaces: what they are like five
 * seconds later is the event. */
static void appeared(struct watch *w, const struct netdev_link *link, const struct netdev_who *who)
{
    static const struct netdev_link nothing;
    struct known *known = add(&w->links, link);

    if (!known)
        return;
    if (link_is_physical(link)) {
        add_speed(w, NULL, &known->link);
        emit(w, &nothing, &known->link, NETDEV_APPEARED, who);
        return;
    }
    known->grown_ns = clock_now_ns(CLOCK_MONOTONIC) + YOUNG_NS;
    w->n_young++;
    known->who = who && who->pid ? malloc(sizeof(*known->who)) : NULL;
    if (known->who)
        *known->who = *who;
}

static void changed(struct watch *w, struct known *known, struct netdev_link *now,
                    const struct netdev_who *who)
{
    struct netdev_link before = known->link;
    uint32_t changes;

    add_speed(w, &before, now);
    if (!now->has_peer) /* it goes, and so will this one */
        now->peer_elsewhere = before.peer_elsewhere;
    known->link = *now;
    changes = link_compare(&before, now);
    if (changes && !known->grown_ns)
        emit(w, &before, now, changes, who);
}

static void removed(struct watch *w, struct known *known, bool moved, const struct netdev_who *who)
{
    struct netdev_link last = known->link;
    bool young = known->grown_ns != 0;

    forget(w, known);
    if (young)
        return;
    w->wire.moved = moved;
    emit(w, &last, &last, NETDEV_REMOVED, who);
}

static void on_message(struct watch *w, const void *bytes, size_t size,
                       const struct netdev_who *who)
{
    struct link_message m;
    struct known *known;

    if (w->ignoring) {
        w->n_ignored++;
        return;
    }
    if (link_parse(bytes, size, &m) < 0 || m.type == LINK_OTHER)
        return;
    known = find(&w->links, m.link.index);
    if (m.type == LINK_NEW && known)
        changed(w, known, &m.link, who);
    else if (m.type == LINK_NEW)
        appeared(w, &m.link, who);
    else if (known)
        removed(w, known, m.moved, who);
}

static int on_heard(void *arg, void *data, size_t size)
{
    const struct netdev_heard *heard = data;

    if (size >= sizeof(*heard) && heard->size <= sizeof(heard->message))
        on_message(arg, heard->message, heard->size, &heard->who);
    return 0;
}

/** One message of the kernel, as far as it fits. 0: there is none; -errno. */
static ssize_t receive(int fd, void *ret, size_t size)
{
    struct sockaddr_nl from = {};
    struct iovec iov = {.iov_base = ret, .iov_len = size};
    struct msghdr m = {
        .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    do {
        n = recvmsg(fd, &m, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
    } while (n < 0 || from.nl_pid != 0); /* of the kernel, or of somebody who plays it */
    return n;
}

/** Without filter: each message is of the socket. True if some were lost. */
static bool read_socket(struct watch *w)
{
    for (unsigned i = 0; i < BATCH; i++) {
        ssize_t n = receive(w->fd, w->buffer, BUFFER_BYTES);

        if (n == -ENOBUFS)
            return true;
        if (n <= 0)
            return false;
        on_message(w, w->buffer, (size_t)n, NULL);
    }
    return false;
}

/** With it: the same messages are in a ring, and who caused each of them. */
static bool read_heard(struct watch *w)
{
    uint64_t missed;

    /* First the socket, which only wakes us: what comes meanwhile is read now and wakes us again.
     */
    for (unsigned i = 0; i < BATCH && recv(w->fd, NULL, 0, MSG_DONTWAIT | MSG_TRUNC) >= 0; i++)
        ;
    ring_buffer__consume(w->heard);
    missed = *w->missed;
    if (missed == w->missed_before)
        return false;
    w->missed_before = missed;
    return true;
}

static bool read_messages(struct watch *w)
{
    return w->heard ? read_heard(w) : read_socket(w);
}

/* ------------------------------------------------------------------ all of them at once */

/** `index` 0: for all. */
static int ask_kernel(int fd, uint32_t index)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
        struct rtattr attr;
        uint32_t mask;
    } request = {
        .header = {.nlmsg_len = sizeof(request),
                   .nlmsg_type = RTM_GETLINK,
                   .nlmsg_flags = index ? NLM_F_REQUEST : NLM_F_REQUEST | NLM_F_DUMP},
        .info = {.ifi_index = (int)index},
        .attr = {.rta_len = RTA_LENGTH(sizeof(uint32_t)), .rta_type = IFLA_EXT_MASK},
        .mask = RTEXT_FILTER_SKIP_STATS,
    };

    return send(fd, &request, sizeof(request), 0) < 0 ? -errno : 0;
}

/** 0: that was all; 1: there may be more; -EINTR: something has changed meanwhile. */
static int take_part(const void *bytes, size_t size, struct table *ret)
{
    int left = (int)size;

    for (const struct nlmsghdr *h = bytes; NLMSG_OK(h, (unsigned)left); h = NLMSG_NEXT(h, left)) {
        struct link_message m;

        if (h->nlmsg_type == NLMSG_DONE)
            return 0;
        if (h->nlmsg_type == NLMSG_ERROR)
            return -EIO;
        if (h->nlmsg_flags & NLM_F_DUMP_INTR)
            return -EINTR;
        if (link_parse(h, h->nlmsg_len, &m) == 0 && m.type == LINK_NEW && !find(ret, m.link.index))
            add(ret, &m.link);
    }
    return 1;
}

/** Whether this is the last part of an answer. */
static bool is_last(const void *bytes, size_t size)
{
    const struct nlmsghdr *h = bytes;
    int left = (int)size;

    for (; NLMSG_OK(h, (unsigned)left); h = NLMSG_NEXT(h, left))
        if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
            return true;
    return false;
}

static void tell_links(int out, const void *arg)
{
    static _Alignas(8) uint8_t buffer[BUFFER_BYTES];
    uint32_t index = *(const uint32_t *)arg;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    ssize_t n = fd < 0 ? -1 : ask_kernel(fd, index);

    do {
        if (n >= 0)
            n = receive(fd, buffer, sizeof(buffer));
        if (n > 0)
            n = send(out, buffer, (size_t)n, 0);
    } while (n > 0 && !index && !is_last(buffer, (size_t)n)); /* of one there is one message */
}

static int dump(struct watch *w, uint32_t index, struct table *ret)
{
    int r = ask_begin(&w->ask, tell_links, &index);

    for (r = r < 0 ? r : 1; r > 0;) {
        ssize_t n =
            ask_next(&w->ask, w->buffer, BUFFER_BYTES, clock_now_ns(CLOCK_MONOTONIC) + ANSWER_NS);

        r = n <= 0 ? (n < 0 ? (int)n : -EIO) : take_part(w->buffer, (size_t)n, ret);
        if (r > 0 && index)
            r = 0;
    }
    ask_end(&w->ask, clock_now_ns(CLOCK_MONOTONIC) + ANSWER_NS);
    return r;
}

/**
 * A dump is what is known afterwards, and messages from before it would be taken for changes that
 * came after it: so it is repeated until there was none meanwhile.
 */
static int dump_alone(struct watch *w, struct table *ret)
{
    int r = 0;

    w->ignoring = true;
    read_messages(w);
    for (unsigned i = 0; i < DUMPS_MAX; i++) {
        table_done(ret);
        r = dump(w, 0, ret);
        w->n_ignored = 0;
        if (!read_messages(w) && r == 0 && w->n_ignored == 0)
            break;
    }
    w->ignoring = false;
    if (r < 0 && !w->complained)
        log_warning("reading the state of all network interfaces failed: %s; it is tried again "
                    "each second, and netdev records nothing until then",
                    strerror(-r));
    w->complained = r < 0;
    return r;
}

/** What is there when the watching begins; of software's interfaces only what cards are tied
 * together by, as there may be thousands of others. */
static void begin(struct watch *w)
{
    const struct netdev_options *o = w->host->options;

    if (dump_alone(w, &w->links) < 0)
        return; /* and again, next time */
    w->begun = true;
    for (size_t i = 0; i < w->links.n; i++) {
        struct netdev_link *l = &w->links.rows[i].link;

        if (!link_is_physical(l) && !link_is_kind(l, "bond") && !link_is_kind(l, "team"))
            continue;
        add_speed(w, NULL, l);
        if (!o->start)
            continue;
        w->wire.start = 1;
        emit(w, l, l, 0, NULL);
    }
}

/** Messages were lost. What they have said is in the difference. */
static void read_again(struct watch *w)
{
    struct table now = {};

    if (dump_alone(w, &now) < 0) {
        table_done(&now);
        return;
    }
    w->reread = false;
    for (size_t i = w->links.n; i-- > 0;)
        if (!find(&now, w->links.rows[i].link.index)) {
            w->wire.reread = 1;
            removed(w, &w->links.rows[i], false, NULL);
        }
    for (size_t i = 0; i < now.n; i++) {
        struct known *known = find(&w->links, now.rows[i].link.index);

        w->wire.reread = 1;
        if (known)
            changed(w, known, &now.rows[i].link, NULL);
        else
            appeared(w, &now.rows[i].link, NULL);
    }
    w->wire.reread = 0;
    table_done(&now);
}

/** Of its peer's move no message tells. */
static void look_for_peer(struct watch *w, struct netdev_link *veth)
{
    struct table now = {};

    if (dump(w, veth->index, &now) == 0 && now.n == 1 && now.rows[0].link.has_peer)
        veth->peer_elsewhere = now.rows[0].link.peer_elsewhere;
    table_done(&now);
}

static void look_at_young(struct watch *w, uint64_t now_ns)
{
    static const struct netdev_link nothing;

    for (size_t i = 0; w->n_young && i < w->links.n; i++) {
        struct known *known = &w->links.rows[i];

        if (!known->grown_ns || now_ns < known->grown_ns)
            continue;
        known->grown_ns = 0;
        w->n_young--;
        add_speed(w, NULL, &known->link);
        if (link_is_kind(&known->link, "veth"))
            look_for_peer(w, &known->link);
        emit(w, &nothing, &known->link, NETDEV_APPEARED, known->who);
        free(known->who);
        known->who = NULL;
    }
}

static void watch_run(void *state, const struct source_host *h)
{
    struct watch *w = state;

    w->host = h;
    if (!w->begun)
        begin(w);
    else if (read_messages(w))
        w->reread = true;
    if (w->reread)
        read_again(w);
    look_at_young(w, clock_now_ns(CLOCK_MONOTONIC));
    w->host = NULL;
}

/* ------------------------------------------------------------------ opening */

static void watch_close(void *state)
{
    struct watch *w = state;

    if (!w)
        return;
    fd_close(w->fd);
    fd_close(w->ask.fd);
    ring_buffer__free(w->heard);
    if (w->missed)
        munmap((void *)w->missed, sizeof(*w->missed));
    table_done(&w->links);
    free(w->buffer);
    free(w);
}

static int attach_filter(struct watch *w, const struct source_host *h)
{
    int program = h->program(h, "hear_link"), one = 1;
    void *missed =
        mmap(NULL, sizeof(*w->missed), PROT_READ, MAP_SHARED, h->map(h, ".data.missed"), 0);

    if (missed == MAP_FAILED)
        return -errno;
    w->missed = missed;
    w->heard = ring_buffer__new(h->map(h, "heard"), on_heard, w, NULL);
    if (!w->heard)
        return -errno;
    if (setsockopt(w->fd, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)) < 0)
        return -errno;
    /* What does not fit into the socket is in the ring. */
    setsockopt(w->fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof(one));
    return 0;
}

static int watch_open(const struct source_host *h, const char *way, char *note, size_t note_size,
                      void **ret)
{
    const struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    struct watch *w = calloc(1, sizeof(*w));
    int r = 0;

    (void)note;
    (void)note_size;
    if (!w)
        return -ENOMEM;
    w->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    w->ask.fd = -1;
    w->buffer = malloc(BUFFER_BYTES);
    if (w->fd < 0)
        r = -errno;
    else if (!w->buffer)
        r = -ENOMEM;
    /* Before it hears anything: whatever is in the socket is in the ring. */
    if (r == 0 && strcmp(way, NETDEV_WAY_FILTER) == 0)
        r = attach_filter(w, h);
    if (r == 0 && bind(w->fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        r = -errno;
    if (r < 0) {
        watch_close(w);
        return r;
    }
    *ret = w;
    return 0;
}

static int watch_fd(const void *state)
{
    return ((const struct watch *)state)->fd;
}

const struct hook_source netdev_source = {
    .period_ns = NS_PER_SEC,
    .open = watch_open,
    .fd = watch_fd,
    .run = watch_run,
    .close = watch_close,
};
