// SPDX-License-Identifier: Apache-2.0

#include "events/net_rx_latency/net_rx_latency.h"

#include <bpf/btf.h>
#include <linux/net_tstamp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "core/event.h"
#include "core/rule.h"
#include "events/net_rx_latency/rules.h"
#include "kernel/kernel.h"
#include "net_rx_latency.skel.h"

struct net_rx_latency_options {
    struct event_options common;
    uint64_t threshold_ns[RX_WHERE_NR];
    struct string_list ignore;
    bool keep_own;
};

enum { RULE_OWN = 0, RULE_FIRST = 1 };

static int check_ignore(const struct string_list *list, char *error, size_t error_size)
{
    if (list->n > WIRE_RULES_MAX - RULE_FIRST) {
        snprintf(error, error_size,
                 "has %zu rules, and there is room for %d; remove some, or put several into one "
                 "with ; between them",
                 list->n, WIRE_RULES_MAX - RULE_FIRST);
        return -EINVAL;
    }
    for (size_t i = 0; i < list->n; i++) {
        size_t len = strcspn(list->items[i], ":") + 1;

        for (size_t k = 0; k < i; k++)
            if (strncmp(list->items[i], list->items[k], len) == 0) {
                snprintf(error, error_size,
                         "item %zu: there is a rule of the name `%.*s` already, item %zu; choose "
                         "another name, or put both into one with ; between them",
                         i + 1, (int)len - 1, list->items[i], k + 1);
                return -EINVAL;
            }
    }
    return 0;
}

#define THRESHOLD(name, where, text, what)                                                         \
    {                                                                                              \
        .key = name, .type = OPTION_DURATION,                                                      \
        .offset = offsetof(struct net_rx_latency_options, threshold_ns[where]), .fallback = text,  \
        .min = NS_PER_MS, .max = 24 * 3600 * NS_PER_SEC,                                           \
        .help = "How late a packet may come " what " before it is an event, counted from its "     \
                "time stamp.",                                                                     \
    }

static const struct option option_table[] = {
    EVENT_OPTIONS(struct net_rx_latency_options, "1MiB", "8192"),
    THRESHOLD("netif_threshold", RX_TO_NETIF_RCV, "5ms",
              "from the device's driver to the network stack"),
    THRESHOLD("tcp_threshold", RX_TO_TCPV4_RCV, "10ms", "to its TCP connection"),
    THRESHOLD("user_copy_threshold", RX_TO_USER_COPY, "115ms", "to the process that reads it"),
    {
        .key = "ignore",
        .type = OPTION_LIST,
        .offset = offsetof(struct net_rx_latency_options, ignore),
        .fallback = "",
        .check = rx_rule_check,
        .check_list = check_ignore,
        .help = "Filter rules, each `name: condition condition ...`, as `batch: dport=9000`; see "
                "docs/events/net_rx_latency.md.",
    },
    {
        .key = "keep_own",
        .type = OPTION_BOOL,
        .offset = offsetof(struct net_rx_latency_options, keep_own),
        .fallback = "false",
        .help = "Do not take out the agent's own traffic.",
    },
    {},
};

/** From 6.18 on (6471658dc66c) they are freed elsewhere and later, or without a word; the same
 * kernels have this. */
static const char *check_consumed(const struct btf *kernel)
{
    return btf__find_by_name_kind(kernel, "udp_prod_queue", BTF_KIND_STRUCT) < 0
               ? NULL
               : "this kernel does not consume datagrams where they are read (6.18)";
}

#define PROGRAMS(name) ((const char *const[]){name, NULL})

static const struct hook hooks[] = {
    {
        .name = "netif_receive_skb",
        .watches = "packets that come late to the network stack",
        .ways = {{.name = "tp_btf/netif_receive_skb",
                  .programs = PROGRAMS("typed_netif_receive_skb")},
                 {.name = "raw_tp/netif_receive_skb",
                  .programs = PROGRAMS("raw_netif_receive_skb")}},
    },
    {
        .name = "tcp_probe",
        .watches = "segments that come late to their TCP connection",
        .ways = {{.name = "tp_btf/tcp_probe", .programs = PROGRAMS("typed_tcp_probe")},
                 {.name = "raw_tp/tcp_probe", .programs = PROGRAMS("raw_tcp_probe")}},
    },
    {
        .name = "tcp_rcv_space_adjust",
        .watches = "what is read late from TCP connections",
        .ways = {{.name = "tp_btf/tcp_rcv_space_adjust",
                  .programs = PROGRAMS("typed_tcp_rcv_space_adjust")},
                 {.name = "raw_tp/tcp_rcv_space_adjust",
                  .programs = PROGRAMS("raw_tcp_rcv_space_adjust")}},
    },
    {
        .name = "udp_recvmsg",
        .watches = "UDP datagrams that are read late",
        .ways = {{.name = "fentry/skb_consume_udp", .programs = PROGRAMS("udp_skb_consume_udp")},
                 {.name = "tp_btf/consume_skb",
                  .programs = PROGRAMS("typed_consume_skb"),
                  .check = check_consumed},
                 {.name = "raw_tp/consume_skb",
                  .programs = PROGRAMS("raw_consume_skb"),
                  .check = check_consumed},
                 {.name = "tp_btf/sock_recv_length",
                  .programs = (const char *const[]){"typed_sk_data_ready", "typed_sock_recv_length",
                                                    NULL}}},
    },
    {},
};

static const char *const measures[] = {[RX_STAMPS_UNKNOWN] = "stamps_unknown", NULL};

/**
 * The kernel stamps what it receives, on all devices and in all network namespaces, as long as any
 * socket wants it: netstamp_needed_key, net/core/dev.c; sock_needs_netstamp(), net/core/sock.c.
 */
static int hold_timestamps(void)
{
    const int wanted = SOF_TIMESTAMPING_RX_SOFTWARE;
    _close_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &wanted, sizeof(wanted)) < 0)
        return -errno;
    return TAKE_FD(fd);
}

static const char *rule_name(const void *options, unsigned index)
{
    const struct net_rx_latency_options *o = options;
    static _Thread_local char name[RULE_NAME_MAX];

    if (index == RULE_OWN)
        return o->keep_own ? "" : "own";
    index -= RULE_FIRST;
    if (index >= o->ignore.n)
        return NULL;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(o->ignore.items[index], ":"),
             o->ignore.items[index]);
    return name;
}

static int configure(const struct decode *d, void *settings, char *error, size_t error_size)
{
    const struct net_rx_latency_options *o = d->options;
    volatile struct net_rx_latency_settings *live = settings;
    _free_ struct net_rx_latency_settings *fresh = calloc(1, sizeof(*fresh));
    struct timespec tick = {.tv_nsec = 10 * (long)NS_PER_MS};
    int r = 0;

    if (!fresh)
        return -ENOMEM;
    /* See kernel/time/posix-timers.c, posix_get_coarse_res(). It cannot fail. */
    clock_getres(CLOCK_MONOTONIC_COARSE, &tick);
    fresh->tick_ns = (uint64_t)tick.tv_sec * NS_PER_SEC + (uint64_t)tick.tv_nsec;
    fresh->keep_own = o->keep_own;
    for (unsigned where = 0; where < RX_WHERE_NR; where++) {
        fresh->threshold_ns[where] = o->threshold_ns[where];
        fresh->look_ns[where] = MIN(o->threshold_ns[where], (uint64_t)RX_NOTE_NS);
    }
    for (unsigned i = 0; i < o->ignore.n; i++)
        if (rx_rule_compile(strchr(o->ignore.items[i], ':') + 1, RULE_FIRST + i, fresh) < 0)
            r = -E2BIG;
    if (r < 0)
        snprintf(error, error_size,
                 "net_rx_latency.ignore has more alternatives than there is room for (%d; addr= "
                 "and port= make two each); those that did not fit take nothing out, so more is "
                 "recorded; remove some",
                 RX_ROWS_MAX);
    if (memcmp(fresh, settings, sizeof(*fresh)) == 0)
        return r;
    /* The programs are reading: a rule that is half written is to take nothing out. */
    live->n_rows = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    memcpy((void *)live->rows, fresh->rows, sizeof(fresh->rows));
    for (unsigned where = 0; where < RX_WHERE_NR; where++) {
        live->threshold_ns[where] = fresh->threshold_ns[where];
        live->look_ns[where] = fresh->look_ns[where];
    }
    live->tick_ns = fresh->tick_ns;
    live->keep_own = fresh->keep_own;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    live->n_rows = fresh->n_rows;
    return r;
}

/* --- decode */

/** Where most of the time was lost that passed until somebody read it. */
enum part { PART_STACK, PART_ASLEEP, PART_CPU, PART_READER, PART_SOCKET };

static const char *const part_names[] = {"stack", "reader_asleep", "reader_waits_for_cpu",
                                         "reader_runs", "socket"};

struct split {
    uint64_t woken_ns;    /* until it was in the socket's queue, where it wakes who waits for it */
    uint64_t ran_ns;      /* until its reader was put on a CPU for the last time before it read */
    unsigned ran, waited; /* percent of the time just before it was read */
    enum part most;
};

static unsigned percent(unsigned share)
{
    return MIN(share * 100U / RX_SHARE, 100U);
}

static enum part part_of_reader(const struct split *s)
{
    unsigned asleep = 100 - s->ran - s->waited;

    if (s->ran >= s->waited && s->ran >= asleep)
        return PART_READER;
    return s->waited >= asleep ? PART_CPU : PART_ASLEEP;
}

static void split_time(const struct net_rx_latency_wire *w, struct split *ret)
{
    uint64_t stack = MIN(w->delivered_ns, w->latency_ns);
    uint64_t ran = w->latency_ns - MIN(w->ran_ns, w->latency_ns);

    ret->woken_ns = stack;
    ret->ran_ns = MAX(ran, stack);
    ret->ran = percent(w->ran_share);
    ret->waited = percent(w->runnable_share) - MIN(ret->ran, percent(w->runnable_share));
    if (stack >= w->latency_ns - stack)
        ret->most = PART_STACK;
    else
        ret->most = w->reader_known ? part_of_reader(ret) : PART_SOCKET;
}

static double ms(uint64_t ns)
{
    return (double)ns / (double)NS_PER_MS;
}

static const char *const since_texts[RX_SINCE_NR] = {
    "it was received by this host",
    "this host had sent it to itself",
    "the connection's last segment had come",
};

static void write_read_summary(const struct net_rx_latency_wire *w, const struct split *s,
                               const char *from, const char *to, struct record *r)
{
    static const char *const texts[] = {
        [PART_STACK] = "most of it before it was in the socket's queue: not the reader's part",
        [PART_ASLEEP] = "most of it in the socket's queue, while the reader slept or was stopped",
        [PART_CPU] = "most of it in the socket's queue, while the reader waited for a CPU",
        [PART_READER] = "most of it in the socket's queue, while the reader ran and did not read",
        [PART_SOCKET] = "most of it in the socket's queue",
    };

    record_summary(r, "%.16s[%u] read %s data from %s to %s %.1f ms after %s, %s", w->head.comm,
                   w->head.pid, packet_protocol_name(w->packet.protocol), from, to,
                   ms(w->latency_ns), since_texts[w->since], texts[s->most]);
}

static void write_summary(const struct net_rx_latency_wire *w, const struct split *s,
                          struct record *r)
{
    const struct packet *p = &w->packet;
    char from[PACKET_TEXT_MAX], to[PACKET_TEXT_MAX];

    packet_endpoint_text(p, true, from);
    packet_endpoint_text(p, false, to);
    if (w->where == RX_TO_USER_COPY)
        write_read_summary(w, s, from, to, r);
    else
        record_summary(r, "%s packet from %s to %s came to %s %.1f ms after %s%s%.16s",
                       packet_protocol_name(p->protocol), from, to,
                       w->where == RX_TO_NETIF_RCV ? "the network stack" : "its TCP connection",
                       ms(w->latency_ns), since_texts[w->since], *p->device ? ", device " : "",
                       p->device);
}

/** What runs in softirqs runs on top of whatever task is current. */
static const char *role_name(const struct decode *d, const struct net_rx_latency_wire *w, size_t n)
{
    struct symbols *symbols = d->kernel->symbols;
    const uint64_t *frames = (const uint64_t *)w->head.stack;

    if (w->where == RX_TO_USER_COPY)
        return "reader";
    if (!symbols || symbols_state(symbols) != SYMBOLS_OK || n == 0)
        return "unknown";
    if (symbols_stack_has(symbols, frames, n, "__do_softirq") ||
        symbols_stack_has(symbols, frames, n, "handle_softirqs"))
        return "interrupted";
    /* What came while the socket was in use is dealt with by its user. */
    return symbols_stack_has(symbols, frames, n, "__release_sock") ? "user_of_socket" : "unknown";
}

static bool makes_sense(const struct net_rx_latency_wire *w)
{
    const struct packet *p = &w->packet;

    return w->where < RX_WHERE_NR && w->since < RX_SINCE_NR &&
           w->head.stack_bytes <= (int)sizeof(w->head.stack) &&
           (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) &&
           (p->family == AF_INET || p->family == AF_INET6);
}

static int decode(const struct decode *d, const void *raw, struct record *r)
{
    const struct net_rx_latency_wire *w = raw;
    size_t n = w->head.stack_bytes > 0 ? (size_t)w->head.stack_bytes / 8 : 0;
    const struct packet *p = &w->packet;
    _free_ char *stack = NULL;
    struct split split;

    if (!makes_sense(w))
        return -EBADMSG;
    stack = symbols_stack_text(d->kernel->symbols, (const uint64_t *)w->head.stack, n);
    if (!stack)
        return -ENOMEM;
    split_time(w, &split);

    record_str(r, "comm", w->head.comm, sizeof(w->head.comm));
    record_u64(r, "pid", w->head.pid);
    record_str(r, "where", rx_where_names[w->where], SIZE_MAX);
    record_u64(r, "latency_ms", w->latency_ns / NS_PER_MS);
    record_str(r, "state", packet_state_name(p->state), SIZE_MAX);
    packet_record_addresses(r, p);
    record_u64(r, "seq", p->seq);
    record_u64(r, "ack_seq", p->ack_seq);
    record_u64(r, "pkt_len", p->pkt_len);

    record_u64(r, "latency_ns", w->latency_ns);
    record_u64(r, "threshold_ns", w->threshold_ns);
    record_str(r, "since", rx_since_names[w->since], SIZE_MAX);
    if (w->where == RX_TO_USER_COPY) {
        record_u64(r, "before_woken_ns", split.woken_ns);
        if (w->reader_known) {
            record_u64(r, "before_ran_ns", split.ran_ns);
            record_u64(r, "reader_ran_percent", split.ran);
            record_u64(r, "reader_waited_percent", split.waited);
        }
        record_str(r, "most_in", part_names[split.most], SIZE_MAX);
    }
    packet_record_context(r, p, d);
    if (p->socket_inode)
        record_owner(r, p->socket_inode);
    record_u64(r, "tid", w->head.tid);
    record_u64(r, "cpu", w->head.cpu);
    record_str(r, "process_role", role_name(d, w, n), SIZE_MAX);
    record_stack(r, "stack", stack);

    write_summary(w, &split, r);
    if (w->where == RX_TO_USER_COPY)
        record_task(r, &w->head);
    return 0;
}

/* --- provoke */

/** A connection on a loopback device of its own, and somebody who takes his time to read from it.
 */
static int provoke(struct provoked *ret)
{
    const struct timespec lazy = {.tv_nsec = 300 * (long)NS_PER_MS};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    _close_fd_ int listener = -1, sender = -1, reader = -1;
    socklen_t len = sizeof(to);
    struct stat netns;
    char byte;

    if (unshare(CLONE_NEWNET) < 0 || stat("/proc/self/ns/net", &netns) < 0)
        return -errno;
    *ret = (struct provoked){.field = "netns", .value = netns.st_ino};
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sender = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || sender < 0 || ioctl(listener, SIOCSIFFLAGS, &lo) < 0 ||
        bind(listener, (struct sockaddr *)&to, len) < 0 ||
        getsockname(listener, (struct sockaddr *)&to, &len) < 0 || listen(listener, 1) < 0 ||
        connect(sender, (struct sockaddr *)&to, len) < 0 || send(sender, "", 1, 0) < 0)
        return -errno;
    reader = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    nanosleep(&lazy, NULL);
    return reader < 0 || recv(reader, &byte, 1, 0) < 0 ? -errno : 0;
}

const struct event event_net_rx_latency = {
    .name = "net_rx_latency",
    .tracer_name = "net_rx_latency",
    .summary = "A received packet takes too long to the network stack, to TCP, or to its reader.",
    .options = option_table,
    .options_size = sizeof(struct net_rx_latency_options),
    .object = net_rx_latency_bpf__elf_bytes,
    .hooks = hooks,
    .wire_size = sizeof(struct net_rx_latency_wire),
    .settings_size = sizeof(struct net_rx_latency_settings),
    .configure = configure,
    .hold = hold_timestamps,
    .rule_name = rule_name,
    .measures = measures,
    .decode = decode,
    .provoke = provoke,
};
