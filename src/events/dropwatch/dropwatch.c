// SPDX-License-Identifier: Apache-2.0

#include "events/dropwatch/dropwatch.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/event.h"
#include "core/rule.h"
#include "dropwatch.skel.h"
#include "events/dropwatch/device.h"
#include "events/dropwatch/listen.h"
#include "events/dropwatch/rules.h"
#include "kernel/kernel.h"

struct dropwatch_options {
    struct event_options common;
    struct string_list protocols;
    struct string_list noise_rules_off;
    struct string_list ignore;
};

static const char *check_protocol(const char *text)
{
    if (strcmp(text, "all") == 0 || packet_protocol_value(text) >= 0)
        return NULL;
    return "not a protocol; write tcp, udp, icmp, icmpv6, another protocol's number, or all";
}

/** Rule 0 is the agent's own traffic; then the built-in ones, then the operator's. */
enum { RULE_OWN = 0, RULE_BUILT_IN = 1 };

static unsigned n_built_in(void)
{
    unsigned n = 0;

    while (noise_rules[n].name)
        n++;
    return n;
}

static int check_ignore(const struct string_list *list, char *error, size_t error_size)
{
    size_t room = WIRE_RULES_MAX - RULE_BUILT_IN - n_built_in();

    if (list->n > room) {
        snprintf(error, error_size,
                 "has %zu rules, and there is room for %zu: with `own` and the built-in ones there "
                 "can be %d; remove some, or put several into one with ; between them",
                 list->n, room, WIRE_RULES_MAX);
        return -EINVAL;
    }
    for (size_t i = 0; i < list->n; i++) {
        size_t len = strcspn(list->items[i], ":") + 1;

        for (size_t k = 0; k < i; k++) {
            if (strncmp(list->items[i], list->items[k], len) != 0)
                continue;
            snprintf(
                error, error_size,
                "item %zu: there is a rule of the name `%.*s` already, item %zu; choose another "
                "name, or put both into one with ; between them",
                i + 1, (int)len - 1, list->items[i], k + 1);
            return -EINVAL;
        }
    }
    return 0;
}

static const char *check_noise_rule(const char *text)
{
    for (const struct noise_rule *rule = noise_rules; rule->name; rule++)
        if (strcmp(rule->name, text) == 0)
            return NULL;
    return strcmp(text, "own") == 0 ? NULL
                                    : "not a built-in rule; `huatuo status` and "
                                      "docs/events/dropwatch.md list them";
}

static const struct option dropwatch_option_table[] = {
    EVENT_OPTIONS(struct dropwatch_options, "2MiB", "16384"),
    {
        .key = "protocols",
        .type = OPTION_LIST,
        .offset = offsetof(struct dropwatch_options, protocols),
        .fallback = "tcp",
        .check = check_protocol,
        .help = "Protocols whose drops are events, over IPv4 and IPv6: `tcp`, `udp`, `icmp`, "
                "`icmpv6`, a protocol's number, or `all`.",
    },
    {
        .key = "noise_rules_off",
        .type = OPTION_LIST,
        .offset = offsetof(struct dropwatch_options, noise_rules_off),
        .fallback = "",
        .check = check_noise_rule,
        .help =
            "Built-in filter rules to switch off, by name; `own` is the one for the agent's own "
            "sockets.",
    },
    {
        .key = "ignore",
        .type = OPTION_LIST,
        .offset = offsetof(struct dropwatch_options, ignore),
        .fallback = "",
        .check = dropwatch_rule_check,
        .check_list = check_ignore,
        .help = "Filter rules of your own, each `name: condition condition ...`; see "
                "docs/events/dropwatch.md.",
    },
    {},
};

static const char *const listen_fentry[] = {"enter_request",
                                            "leave_request",
                                            "enter_child_v4",
                                            "leave_child_v4",
                                            "enter_child_v6",
                                            "leave_child_v6",
                                            NULL};
static const char *const listen_kprobe[] = {"probe_request",
                                            "return_request",
                                            "probe_child_v4",
                                            "return_child_v4",
                                            "probe_child_v6",
                                            "return_child_v6",
                                            NULL};

static const struct hook hooks[] = {
    {
        .name = "kfree_skb",
        .watches = "packets that the network stack drops",
        .ways =
            {
                {.name = "tp_btf/kfree_skb",
                 .programs = (const char *const[]){"typed_kfree_skb", NULL}},
                {.name = "raw_tp/kfree_skb",
                 .programs = (const char *const[]){"raw_kfree_skb", NULL}},
                {.name = "tp/skb/kfree_skb",
                 .programs = (const char *const[]){"classic_kfree_skb", NULL}},
            },
    },
    {
        .name = "inet_sock_set_state",
        .watches = "connections that end, to know what is sent twice from what is lost",
        .optional = true,
        .ways =
            {
                {.name = "tp_btf/inet_sock_set_state",
                 .programs = (const char *const[]){"typed_set_state", NULL}},
                {.name = "raw_tp/inet_sock_set_state",
                 .programs = (const char *const[]){"raw_set_state", NULL}},
            },
    },
    {
        .name = "listen",
        .watches = "connections for which a listener has no room",
        .optional = true,
        .ways =
            {
                {
                    .name = "fentry/tcp_conn_request",
                    .programs = listen_fentry,
                    .check = listen_check,
                    .symbol = "__per_cpu_offset",
                },
                {
                    .name = "kprobe/tcp_conn_request",
                    .programs = listen_kprobe,
                    .check = listen_check,
                    .symbol = "__per_cpu_offset",
                },
                {
                    .name = "sock_diag",
                    .programs = (const char *const[]){"take_found", NULL},
                    .source = &listen_source,
                },
            },
    },
    {
        .name = "net_dev_xmit_timeout",
        .watches = "transmit queues that stand still",
        .optional = true,
        .ways =
            {
                {
                    .name = "tp_btf/net_dev_xmit_timeout",
                    .programs = (const char *const[]){"typed_xmit_timeout", NULL},
                },
                {
                    .name = "raw_tp/net_dev_xmit_timeout",
                    .programs = (const char *const[]){"raw_xmit_timeout", NULL},
                },
            },
    },
    {
        .name = "devices",
        .watches = "losses that network cards count",
        .optional = true,
        .ways =
            {
                {
                    .name = "proc_net_dev",
                    .programs = (const char *const[]){"take_found", NULL},
                    .source = &device_source,
                },
            },
    },
    {
        .name = "devlink_trap_report",
        .watches = "packets that the hardware of a switch drops",
        .optional = true,
        .ways =
            {
                {
                    .name = "tp_btf/devlink_trap_report",
                    .programs = (const char *const[]){"typed_trap", NULL},
                    .check = device_check_traps,
                },
                {
                    .name = "raw_tp/devlink_trap_report",
                    .programs = (const char *const[]){"raw_trap", NULL},
                    .check = device_check_traps,
                },
            },
    },
    {},
};

static const char *dropwatch_rule_name(const void *options, unsigned index)
{
    const struct dropwatch_options *o = options;
    static _Thread_local char name[RULE_NAME_MAX];
    const char *built_in;

    if (index < RULE_BUILT_IN + n_built_in()) {
        built_in = index == RULE_OWN ? "own" : noise_rules[index - RULE_BUILT_IN].name;
        return string_list_has(&o->noise_rules_off, built_in) ? "" : built_in;
    }
    index -= RULE_BUILT_IN + n_built_in();
    if (index >= o->ignore.n)
        return NULL;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(o->ignore.items[index], ":"),
             o->ignore.items[index]);
    return name;
}

static void set_protocols(const struct string_list *names, struct dropwatch_settings *settings)
{
    for (size_t i = 0; i < names->n; i++) {
        int protocol = packet_protocol_value(names->items[i]);

        if (strcmp(names->items[i], "all") == 0)
            memset(settings->protocols, 0xff, sizeof(settings->protocols));
        else if (protocol >= 0)
            settings->protocols[protocol / 64] |= UINT64_C(1) << protocol % 64;
    }
}

/** Rules that fit and make sense here are in force whatever becomes of the others. */
static int compile_rules(const struct decode *d, struct dropwatch_settings *settings, char *error,
                         size_t error_size)
{
    const struct dropwatch_options *o = d->options;
    unsigned first = RULE_BUILT_IN + n_built_in();
    int r = 0;

    for (unsigned i = 0; i < n_built_in(); i++)
        if (!string_list_has(&o->noise_rules_off, noise_rules[i].name) &&
            dropwatch_rule_compile(d->kernel, noise_rules[i].conditions, RULE_BUILT_IN + i,
                                   settings) < 0)
            r = -E2BIG;
    for (unsigned i = 0; i < o->ignore.n; i++) {
        const char *rule = o->ignore.items[i];
        uint32_t n_rows = settings->n_rows;

        if (first + i >= WIRE_RULES_MAX ||
            dropwatch_rule_compile(d->kernel, strchr(rule, ':') + 1, first + i, settings) < 0) {
            r = -E2BIG;
        } else if (settings->n_rows == n_rows && r == 0) {
            snprintf(error, error_size,
                     "the rule %.200s of dropwatch.ignore takes nothing out, as this kernel has no "
                     "such function or reason; look at the names in a record",
                     rule);
            r = -ENOENT;
        }
    }
    if (r == -E2BIG)
        snprintf(error, error_size,
                 "dropwatch.ignore has more rules than there is room for (%d rules, %d rows and %d "
                 "functions with the built-in ones); those that did not fit take nothing out, so "
                 "more is recorded; remove some, or switch built-in ones off",
                 WIRE_RULES_MAX, DROPWATCH_ROWS_MAX, DROPWATCH_RANGES_MAX);
    return r;
}

static int dropwatch_configure(const struct decode *d, void *settings, char *error,
                               size_t error_size)
{
    const struct dropwatch_options *o = d->options;
    volatile struct dropwatch_settings *live = settings;
    _free_ struct dropwatch_settings *fresh = calloc(1, sizeof(*fresh));
    int r;

    if (!fresh)
        return -ENOMEM;
    set_protocols(&o->protocols, fresh);
    fresh->keep_own = string_list_has(&o->noise_rules_off, "own");
    listen_configure(d->kernel, fresh);
    device_configure(d->kernel, fresh);
    r = compile_rules(d, fresh, error, error_size);
    if (memcmp(fresh, settings, sizeof(*fresh)) == 0)
        return r;
    /* The programs are reading. While there are no rows nothing is filtered, so that a half-written
     * rule takes out nothing that it should not. */
    live->n_rows = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    memcpy((void *)live->protocols, fresh->protocols, sizeof(fresh->protocols));
    memcpy((void *)live->ranges, fresh->ranges, sizeof(fresh->ranges));
    memcpy((void *)live->rows, fresh->rows, sizeof(fresh->rows));
    memcpy((void *)live->counters, fresh->counters, sizeof(fresh->counters));
    memcpy((void *)live->core_reasons, fresh->core_reasons, sizeof(fresh->core_reasons));
    live->refused_reason = fresh->refused_reason;
    live->ranges_with_caller = fresh->ranges_with_caller;
    live->n_ranges = fresh->n_ranges;
    live->keep_own = fresh->keep_own;
    live->want_received = fresh->want_received;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    live->n_rows = fresh->n_rows;
    return r;
}

/** What a reason means to somebody who does not know the kernel's source. */
static const char *plain_reason(const char *reason)
{
    static const struct {
        const char *reason, *plain;
    } table[] = {
        {"NO_SOCKET", "nobody listens on that port"},
        {"TCP_CSUM", "its TCP checksum is wrong"},
        {"UDP_CSUM", "its UDP checksum is wrong"},
        {"IP_CSUM", "its IP header checksum is wrong"},
        {"SOCKET_FILTER", "a filter on the socket refused it"},
        {"SOCKET_RCVBUFF", "the socket's receive buffer is full"},
        {"SOCKET_BACKLOG", "the socket's backlog is full"},
        {"PROTO_MEM", "the protocol's memory limit is reached"},
        {"NETFILTER_DROP", "a firewall rule dropped it"},
        {"IP_OUTNOROUTES", "there is no route to the destination"},
        {"IP_INNOROUTES", "there is no route for it"},
        {"IP_RPFILTER", "the reverse path filter refused its source"},
        {"QDISC_DROP", "the queueing discipline of the device dropped it"},
        {"TC_INGRESS", "a tc filter on receive dropped it"},
        {"TC_EGRESS", "a tc filter on transmit dropped it"},
        {"XDP", "an XDP program dropped it"},
        {"CPU_BACKLOG", "the CPU's receive backlog is full"},
        {"NEIGH_FAILED", "the next hop does not answer ARP or neighbour discovery"},
        {"NEIGH_QUEUEFULL", "too many packets wait for the next hop's link address"},
        {"TCP_LISTEN_OVERFLOW", "the listener's accept queue is full"},
        {"TCP_OVERWINDOW", "it lies outside the receive window"},
        {"TCP_ZEROWINDOW", "the receive window is closed"},
        {"TCP_RFC7323_PAWS", "its timestamp is too old"},
        {"TCP_INVALID_SEQUENCE", "its sequence number is invalid"},
        {"TCP_MD5NOTFOUND", "the MD5 signature that the peer must send is missing"},
        {"DEV_READY", "the device is not up"},
        {"NOMEM", "there was no memory for it"},
        {"PKT_TOO_BIG", "it is larger than the path's MTU"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (strcmp(table[i].reason, reason) == 0)
            return table[i].plain;
    return NULL;
}

/** Whose `comm` and `pid` these are. */
enum role { ROLE_UNKNOWN, ROLE_SENDER, ROLE_READER, ROLE_INTERRUPTED };

static const char *const role_names[] = {"unknown", "sender", "reader", "interrupted"};

/** Soft interrupts run on top of whatever task is current, which need not know of the packet. */
static enum role task_role(const struct decode *d, const uint64_t *stack, size_t n_stack,
                           bool received)
{
    struct symbols *symbols = d->kernel->symbols;

    if (!symbols || symbols_state(symbols) != SYMBOLS_OK || n_stack == 0)
        return ROLE_UNKNOWN;
    if (symbols_stack_has(symbols, stack, n_stack, "__do_softirq") ||
        symbols_stack_has(symbols, stack, n_stack, "handle_softirqs"))
        return ROLE_INTERRUPTED;
    /* Received in process context: what came while the socket was in use is dealt with by its user
     * (release_sock); otherwise somebody injects packets, as through a tun device. */
    return received && symbols_stack_has(symbols, stack, n_stack, "__release_sock") ? ROLE_READER
                                                                                    : ROLE_SENDER;
}

static const char *context_name(enum role role)
{
    if (role == ROLE_UNKNOWN)
        return "unknown";
    return role == ROLE_INTERRUPTED ? "softirq" : "process";
}

static void write_summary(const struct dropwatch_wire *e, const char *reason, const char *place,
                          enum role role, struct record *r)
{
    const struct packet *p = &e->packet;
    char from[PACKET_TEXT_MAX], to[PACKET_TEXT_MAX], flags[PACKET_TEXT_MAX] = "";
    const char *protocol = packet_protocol_name(p->protocol);
    const char *plain = plain_reason(reason);
    char bystander[64] = "";

    if (role == ROLE_INTERRUPTED)
        snprintf(bystander, sizeof(bystander), " (in softirq, on top of %.16s[%u])", e->head.comm,
                 e->head.pid);
    packet_endpoint_text(p, true, from);
    packet_endpoint_text(p, false, to);
    if (p->protocol == IPPROTO_TCP)
        packet_flags_text(p->tcp_flags, flags);
    record_summary(r, "%s%s%s packet from %s to %s was dropped on %s in %.*s%s%.16s%s%s%s%s%s",
                   protocol ? protocol : "IP", *flags ? " " : "", flags, from, to,
                   p->iif ? "receive" : "transmit", (int)strcspn(place, "+"), place,
                   *p->device ? ", device " : "", p->device, *reason ? ": " : "", reason,
                   plain ? " - " : "", plain ? plain : "", bystander);
}

static int dropwatch_decode(const struct decode *d, const void *raw, struct record *r)
{
    const struct dropwatch_wire *e = raw;
    const struct packet *p = &e->packet;
    size_t n_stack = e->head.stack_bytes > 0 ? (size_t)e->head.stack_bytes / 8 : 0;
    const uint64_t *frames = (const uint64_t *)e->head.stack;
    struct symbols *symbols = d->kernel->symbols;
    _free_ char *stack = NULL, *place = NULL;
    char reason[64] = "";
    enum role role;

    if (!listen_is_sane(e))
        return -EBADMSG;
    if (e->count_only)
        return listen_record_count(d, e, r);
    if (e->type >= DROPWATCH_DEVICE)
        return device_record(d, e, r);
    if (n_stack > WIRE_STACK_MAX || (p->family != AF_INET && p->family != AF_INET6))
        return -EBADMSG;
    role = task_role(d, frames, n_stack, p->iif != 0);
    stack = symbols_stack_text(symbols, frames, n_stack);
    place = e->place ? symbols_place_text(symbols, e->place) : strdup(listen_place(e));
    if (!stack || !place)
        return -ENOMEM;
    if (e->has_reason && e->reason)
        enums_drop_reason(d->kernel->enums, e->reason, reason, sizeof(reason));

    record_str(r, "type", listen_type_name(e->type), SIZE_MAX);
    record_str(r, "comm", e->head.comm, sizeof(e->head.comm));
    record_u64(r, "pid", e->head.pid);
    packet_record_addresses(r, p);
    record_host(r, "src_hostname", p->saddr);
    record_host(r, "dest_hostname", p->daddr);
    record_u64(r, "max_ack_backlog", p->max_ack_backlog);
    record_u64(r, "seq", p->seq);
    record_u64(r, "ack_seq", p->ack_seq);
    record_u64(r, "queue_mapping", p->queue_mapping);
    record_u64(r, "pkt_len", p->pkt_len);
    record_str(r, "state", packet_state_name(p->state), SIZE_MAX);

    record_str(r, "reason", reason, sizeof(reason));
    record_str(r, "place", place, SIZE_MAX);
    if (e->type != DROPWATCH_COMMON)
        listen_record(e, r);
    packet_record_context(r, p, d);
    if (p->socket_inode)
        record_owner(r, p->socket_inode);
    record_u64(r, "tid", e->head.tid);
    record_u64(r, "cpu", e->head.cpu);
    record_str(r, "context", context_name(role), SIZE_MAX);
    record_str(r, "process_role", role_names[role], SIZE_MAX);
    record_stack(r, "stack", stack);

    if (e->type != DROPWATCH_COMMON)
        listen_summary(e, r);
    else
        write_summary(e, reason, place, role, r);
    if (role == ROLE_SENDER || role == ROLE_READER)
        record_task(r, &e->head);
    return 0;
}

/** A connection to a port of its own loopback device on which nobody listens. */
static int dropwatch_provoke(struct provoked *ret)
{
    struct sockaddr_in nobody = {
        .sin_family = AF_INET,
        .sin_port = htons(9),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    _close_fd_ int fd = -1;
    struct stat netns;

    if (unshare(CLONE_NEWNET) < 0 || stat("/proc/self/ns/net", &netns) < 0)
        return -errno;
    *ret = (struct provoked){.field = "netns", .value = netns.st_ino};
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&nobody, sizeof(nobody)) == 0)
        return -EISCONN;
    return errno == ECONNREFUSED ? 0 : -errno;
}

const struct event event_dropwatch = {
    .name = "dropwatch",
    .tracer_name = "dropwatch",
    .summary = "The network stack drops a packet.",
    .options = dropwatch_option_table,
    .options_size = sizeof(struct dropwatch_options),
    .object = dropwatch_bpf__elf_bytes,
    .hooks = hooks,
    .wire_size = sizeof(struct dropwatch_wire),
    .wire_least = DROPWATCH_WIRE_LEAST,
    .settings_size = sizeof(struct dropwatch_settings),
    .configure = dropwatch_configure,
    .rule_name = dropwatch_rule_name,
    .decode = dropwatch_decode,
    .provoke = dropwatch_provoke,
};
