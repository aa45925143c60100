// SPDX-License-Identifier: Apache-2.0

#include "events/dropwatch/listen.h"

#include <bpf/btf.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "kernel/kernel.h"

static const char *const type_names[DROPWATCH_TYPES] = {
    [DROPWATCH_COMMON] = "common_drop",
    [DROPWATCH_SYN_FLOOD] = "syn_flood",
    [DROPWATCH_HANDSHAKE1] = "listen_overflow_handshake1",
    [DROPWATCH_HANDSHAKE3] = "listen_overflow_handshake3",
    [DROPWATCH_DEVICE] = "device_drop",
    [DROPWATCH_TX_TIMEOUT] = "tx_timeout",
    [DROPWATCH_TRAP] = "devlink_trap",
};

/* As in nstat and /proc/net/netstat, and in the kernel's source (include/uapi/linux/snmp.h). */
static const struct {
    const char *shown, *value;
} counters[DROPWATCH_COUNTERS] = {
    [DROPWATCH_NO_COUNTER] = {"", ""},
    [DROPWATCH_OVERFLOWS] = {"ListenOverflows", "LINUX_MIB_LISTENOVERFLOWS"},
    [DROPWATCH_FULL_DROP] = {"TCPReqQFullDrop", "LINUX_MIB_TCPREQQFULLDROP"},
    [DROPWATCH_FULL_COOKIES] = {"TCPReqQFullDoCookies", "LINUX_MIB_TCPREQQFULLDOCOOKIES"},
    [DROPWATCH_LISTEN_DROPS] = {"ListenDrops", "LINUX_MIB_LISTENDROPS"},
};

const char *listen_type_name(unsigned type)
{
    return type < DROPWATCH_TYPES ? type_names[type] : "";
}

int listen_type_value(const char *name)
{
    for (int i = 0; i < DROPWATCH_TYPES; i++)
        if (strcmp(type_names[i], name) == 0)
            return i;
    return -1;
}

/* --- the kernel */

static bool takes(const struct btf *btf, const struct btf_type *proto, unsigned nth,
                  const char *what)
{
    const struct btf_type *type;

    if (btf_vlen(proto) <= nth)
        return false;
    type = btf__type_by_id(btf, btf_params(proto)[nth].type);
    while (type && (btf_is_ptr(type) || btf_is_mod(type)))
        type = btf__type_by_id(btf, type->type);
    return type && btf_is_struct(type) &&
           strcmp(btf__name_by_offset(btf, type->name_off), what) == 0;
}

const char *listen_check(const struct btf *kernel)
{
    static const struct {
        const char *name;
        unsigned sock;
    } functions[] = {
        {"tcp_conn_request", 2}, {"tcp_v4_syn_recv_sock", 0}, {"tcp_v6_syn_recv_sock", 0}};

    for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
        int id = btf__find_by_name_kind(kernel, functions[i].name, BTF_KIND_FUNC);
        const struct btf_type *proto =
            id < 0 ? NULL : btf__type_by_id(kernel, btf__type_by_id(kernel, (__u32)id)->type);

        if (!proto)
            return "this kernel has not all of tcp_conn_request(), tcp_v4_syn_recv_sock() and "
                   "tcp_v6_syn_recv_sock(), or they were compiled into others";
        if (!takes(kernel, proto, functions[i].sock, "sock") ||
            !takes(kernel, proto, functions[i].sock + 1, "sk_buff"))
            return "this kernel's tcp_conn_request() or tcp_v*_syn_recv_sock() take other "
                   "arguments than those that are known";
    }
    return NULL;
}

void listen_configure(const struct kernel *kernel, struct dropwatch_settings *settings)
{
    for (unsigned i = 1; i < DROPWATCH_COUNTERS; i++) {
        int64_t index;

        if (enums_value(kernel->enums, "LINUX_MIB_NUM", counters[i].value, &index) == 0)
            settings->counters[i] = (__u32)index;
    }
    (void)enums_drop_reason_value(kernel->enums, "TCP_LISTEN_OVERFLOW", &settings->refused_reason);
}

/* --- the record */

bool listen_is_sane(const struct dropwatch_wire *e)
{
    const struct packet *p = &e->packet;

    if (e->type >= DROPWATCH_TYPES || e->counter >= DROPWATCH_COUNTERS || e->count_only > 1)
        return false;
    if (!e->count_only)
        return true;
    return e->type != DROPWATCH_COMMON && e->type < DROPWATCH_DEVICE &&
           e->counter != DROPWATCH_NO_COUNTER &&
           (p->family == 0 || p->family == AF_INET || p->family == AF_INET6);
}

const char *listen_place(const struct dropwatch_wire *e)
{
    if (e->type == DROPWATCH_SYN_FLOOD || e->type == DROPWATCH_HANDSHAKE1)
        return "tcp_conn_request";
    if (e->type == DROPWATCH_HANDSHAKE3)
        return e->packet.family == AF_INET6 ? "tcp_v6_syn_recv_sock" : "tcp_v4_syn_recv_sock";
    return "";
}

void listen_record(const struct dropwatch_wire *e, struct record *r)
{
    record_u64(r, "ack_backlog", e->ack_backlog);
    record_u64(r, "request_queue", e->request_queue);
    record_str(r, "counter", counters[e->counter].shown, SIZE_MAX);
}

#define WHY_MAX 192

/** What was full, and what became of it. */
static void say_why(const struct dropwatch_wire *e, bool known, char ret[WHY_MAX])
{
    char full[96] = "";

    if (e->type == DROPWATCH_SYN_FLOOD) {
        if (known)
            snprintf(full, sizeof(full),
                     " (%" PRIu32 " wait for their final ACK; its backlog is %" PRIu32 ")",
                     e->request_queue, e->packet.max_ack_backlog);
        snprintf(ret, WHY_MAX, "the listener's request queue is full%s, %s", full,
                 e->counter == DROPWATCH_FULL_COOKIES ? "a SYN cookie was sent instead"
                                                      : "it was dropped");
    } else {
        if (known)
            snprintf(full, sizeof(full),
                     " (%" PRIu32 " wait for accept(); its backlog is %" PRIu32 ")", e->ack_backlog,
                     e->packet.max_ack_backlog);
        snprintf(ret, WHY_MAX, "the listener's accept queue is full%s", full);
    }
}

void listen_summary(const struct dropwatch_wire *e, struct record *r)
{
    char from[PACKET_TEXT_MAX], to[PACKET_TEXT_MAX], why[WHY_MAX];

    packet_endpoint_text(&e->packet, true, from);
    packet_endpoint_text(&e->packet, false, to);
    say_why(e, true, why);
    record_summary(r, "tcp %s from %s to %s %s: %s",
                   e->type == DROPWATCH_HANDSHAKE3 ? "final ACK of a handshake" : "SYN", from, to,
                   e->type == DROPWATCH_SYN_FLOOD ? "found no room" : "was refused", why);
}

/** `mixed`: this kernel does not tell the two apart. */
static void write_count_summary(const struct dropwatch_wire *e, bool known, bool mixed,
                                struct record *r)
{
    char to[PACKET_TEXT_MAX], why[WHY_MAX];

    packet_endpoint_text(&e->packet, false, to);
    say_why(e, known, why);
    record_summary(r, "%" PRIu64 " tcp SYNs%s to %s found no room within %" PRIu64 " ms: %s",
                   (uint64_t)e->count, mixed ? " or final ACKs" : "",
                   known ? to : "a listener that is not known",
                   (uint64_t)e->interval_ns / NS_PER_MS, why);
}

int listen_record_count(const struct decode *d, const struct dropwatch_wire *e, struct record *r)
{
    const struct packet *p = &e->packet;
    bool known = p->family != 0;
    char address[PACKET_TEXT_MAX] = "";
    uint32_t reason;

    if (known)
        packet_addr_text(p->daddr, address);
    record_str(r, "type", listen_type_name(e->type), SIZE_MAX);
    record_str(r, "comm", e->head.comm, sizeof(e->head.comm));
    record_u64(r, "pid", e->head.pid);
    record_str(r, "saddr", "", SIZE_MAX);
    record_str(r, "daddr", address, sizeof(address));
    record_u64(r, "sport", 0);
    record_u64(r, "dport", p->dport);
    record_str(r, "src_hostname", "", SIZE_MAX);
    record_str(r, "dest_hostname", "", SIZE_MAX);
    record_u64(r, "max_ack_backlog", p->max_ack_backlog);
    record_u64(r, "seq", 0);
    record_u64(r, "ack_seq", 0);
    record_u64(r, "queue_mapping", 0);
    record_u64(r, "pkt_len", 0);
    record_str(r, "state", known ? "LISTEN" : "NONE", SIZE_MAX);

    listen_record(e, r);
    record_bool(r, "count_only", true);
    record_u64(r, "count", e->count);
    record_u64(r, "total", e->total);
    record_u64(r, "interval_ms", e->interval_ns / NS_PER_MS);
    record_str(r, "direction", "rx", SIZE_MAX);
    record_u64(r, "netns", p->netns);
    record_str(r, "family", !known ? "" : p->family == AF_INET6 ? "ipv6" : "ipv4", SIZE_MAX);
    record_str(r, "protocol", "tcp", SIZE_MAX);
    if (p->socket_inode) {
        record_u64(r, "socket_uid", p->socket_uid);
        record_u64(r, "socket_inode", p->socket_inode);
        record_owner(r, p->socket_inode);
    }
    record_str(r, "stack", "", SIZE_MAX);
    write_count_summary(
        e, known,
        e->type == DROPWATCH_HANDSHAKE1 &&
            enums_drop_reason_value(d->kernel->enums, "TCP_LISTEN_OVERFLOW", &reason) < 0,
        r);
    return 0;
}
