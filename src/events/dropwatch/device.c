// SPDX-License-Identifier: Apache-2.0

#include "events/dropwatch/device.h"

#include <bpf/btf.h>
#include <ctype.h>
#include <inttypes.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "events/dropwatch/listen.h"
#include "kernel/kernel.h"

/* As in /sys/class/net/NAME/statistics. */
static const struct {
    const char *name;
    size_t offset; /* in struct rtnl_link_stats64 */
} counters[DEVICE_COUNTERS] = {
    [DEVICE_RX_MISSED] = {"rx_missed_errors", offsetof(struct rtnl_link_stats64, rx_missed_errors)},
    [DEVICE_RX_DROPPED] = {"rx_dropped", offsetof(struct rtnl_link_stats64, rx_dropped)},
    [DEVICE_RX_FIFO] = {"rx_fifo_errors", offsetof(struct rtnl_link_stats64, rx_fifo_errors)},
    [DEVICE_RX_OVER] = {"rx_over_errors", offsetof(struct rtnl_link_stats64, rx_over_errors)},
    [DEVICE_RX_CRC] = {"rx_crc_errors", offsetof(struct rtnl_link_stats64, rx_crc_errors)},
    [DEVICE_RX_FRAME] = {"rx_frame_errors", offsetof(struct rtnl_link_stats64, rx_frame_errors)},
    [DEVICE_RX_LENGTH] = {"rx_length_errors", offsetof(struct rtnl_link_stats64, rx_length_errors)},
    [DEVICE_TX_FIFO] = {"tx_fifo_errors", offsetof(struct rtnl_link_stats64, tx_fifo_errors)},
    [DEVICE_TX_CARRIER] = {"tx_carrier_errors",
                           offsetof(struct rtnl_link_stats64, tx_carrier_errors)},
    [DEVICE_TX_ABORTED] = {"tx_aborted_errors",
                           offsetof(struct rtnl_link_stats64, tx_aborted_errors)},
    [DEVICE_TX_WINDOW] = {"tx_window_errors", offsetof(struct rtnl_link_stats64, tx_window_errors)},
};

const char *device_check_traps(const struct btf *kernel)
{
    return btf__find_by_name_kind(kernel, "btf_trace_devlink_trap_report", BTF_KIND_TYPEDEF) > 0
               ? NULL
               : "this kernel has no devlink, so there is no hardware that would tell";
}

/** For what the stack drops with these reasons it also counts rx_dropped of the device
 * (dev_core_stats_rx_dropped_inc() in net/core/dev.c). */
void device_configure(const struct kernel *kernel, struct dropwatch_settings *settings)
{
    static const char *const reasons[] = {"UNHANDLED_PROTO", "CPU_BACKLOG", "PFMEMALLOC"};
    unsigned n = 0;

    static_assert(ARRAY_SIZE(reasons) <= CORE_REASONS_MAX, "too many reasons");
    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
        n += enums_drop_reason_value(kernel->enums, reasons[i], &settings->core_reasons[n]) == 0;
}

/* --- the record */

/** The one that has grown most: a packet may be in several. */
static unsigned most_grown(const struct dropwatch_wire *e)
{
    unsigned most = 0;

    for (unsigned i = 1; i < DEVICE_COUNTERS; i++)
        if (e->grown[i] > e->grown[most])
            most = i;
    return most;
}

static void write_growth(const struct dropwatch_wire *e, struct record *r)
{
    record_str(r, "counter", counters[most_grown(e)].name, SIZE_MAX);
    record_u64(r, "count", e->grown[most_grown(e)]);
    record_u64(r, "interval_ms", e->interval_ns / NS_PER_MS);
    record_open(r, "counters");
    for (unsigned i = 0; i < DEVICE_COUNTERS; i++)
        if (e->grown[i])
            record_u64(r, counters[i].name, e->grown[i]);
    record_close(r);
}

static void write_summary(const struct dropwatch_wire *e, struct record *r)
{
    const struct packet *p = &e->packet;
    char from[PACKET_TEXT_MAX], to[PACKET_TEXT_MAX];

    if (e->type == DROPWATCH_TX_TIMEOUT) {
        record_summary(
            r,
            "%.16s (%.*s): transmit queue %u has stood still for too long; the driver is "
            "told to set the card going again",
            p->device, DEVICE_TEXT_MAX, *e->driver ? e->driver : "no driver known",
            p->queue_mapping);
    } else if (e->type == DROPWATCH_TRAP) {
        packet_endpoint_text(p, true, from);
        packet_endpoint_text(p, false, to);
        record_summary(r, "%.16s: the hardware has dropped a packet%s%s%s%s: %.*s", p->device,
                       p->family ? " from " : "", p->family ? from : "", p->family ? " to " : "",
                       p->family ? to : "", DEVICE_TEXT_MAX, e->trap);
    } else {
        record_summary(r, "%.16s (%.*s): %s has grown by %" PRIu64 " within %" PRIu64 " ms",
                       p->device, DEVICE_TEXT_MAX, *e->driver ? e->driver : "no driver known",
                       counters[most_grown(e)].name, (uint64_t)e->grown[most_grown(e)],
                       (uint64_t)e->interval_ns / NS_PER_MS);
    }
}

int device_record(const struct decode *d, const struct dropwatch_wire *e, struct record *r)
{
    const struct packet *p = &e->packet;
    size_t n_stack = e->head.stack_bytes > 0 ? (size_t)e->head.stack_bytes / 8 : 0;
    bool known = p->family == AF_INET || p->family == AF_INET6;
    char from[PACKET_TEXT_MAX] = "", to[PACKET_TEXT_MAX] = "";
    _free_ char *stack = NULL;

    if (n_stack > WIRE_STACK_MAX)
        return -EBADMSG;
    stack = symbols_stack_text(d->kernel->symbols, (const uint64_t *)e->head.stack, n_stack);
    if (!stack)
        return -ENOMEM;
    if (known) {
        packet_addr_text(p->saddr, from);
        packet_addr_text(p->daddr, to);
    }
    record_str(r, "type", listen_type_name(e->type), SIZE_MAX);
    record_str(r, "comm", e->head.comm, sizeof(e->head.comm));
    record_u64(r, "pid", e->head.pid);
    record_str(r, "saddr", from, sizeof(from));
    record_str(r, "daddr", to, sizeof(to));
    record_u64(r, "sport", p->sport);
    record_u64(r, "dport", p->dport);
    record_str(r, "src_hostname", "", SIZE_MAX);
    record_str(r, "dest_hostname", "", SIZE_MAX);
    record_u64(r, "max_ack_backlog", 0);
    record_u64(r, "seq", p->seq);
    record_u64(r, "ack_seq", p->ack_seq);
    record_u64(r, "queue_mapping", p->queue_mapping);
    record_u64(r, "pkt_len", p->pkt_len);
    record_str(r, "state", "NONE", SIZE_MAX);

    record_str(r, "device", p->device, sizeof(p->device));
    record_str(r, "driver", e->driver, sizeof(e->driver));
    record_i64(r, "ifindex", p->ifindex);
    record_u64(r, "netns", p->netns);
    if (e->type == DROPWATCH_DEVICE)
        write_growth(e, r);
    if (e->type == DROPWATCH_TRAP)
        record_str(r, "trap", e->trap, sizeof(e->trap));
    record_str(r, "stack", stack, SIZE_MAX);
    write_summary(e, r);
    return 0;
}

/* --- reading */

bool device_parse(const char **text, struct device_line *ret)
{
    /* Behind the name: rx bytes packets errs drop fifo frame compressed multicast, tx bytes packets
     * errs drop fifo colls carrier compressed (net/core/net-procfs.c). What is dropped on transmit
     * is dropped by kfree_skb. */
    static const unsigned columns[DEVICE_COLUMNS] = {2, 3, 4, 5, 10, 12, 14};

    for (;;) {
        size_t line = strcspn(*text, "\n"), blank = strspn(*text, " "), len;
        const char *at = *text + blank, *end = *text + line;
        const char *colon = memrchr(*text, ':', line);
        unsigned found = 0;

        if (!**text)
            return false;
        *text = *end ? end + 1 : end;
        len = colon && colon > at ? (size_t)(colon - at) : 0;
        if (!len || len >= sizeof(ret->name))
            continue; /* a heading */
        memset(ret, 0, sizeof(*ret));
        memcpy(ret->name, at, len);
        at = colon + 1;
        for (unsigned column = 0; found < DEVICE_COLUMNS && at < end; column++) {
            uint64_t value;
            char *behind;

            while (at < end && *at == ' ')
                at++;
            if (!isdigit((unsigned char)*at))
                break;
            value = strtoull(at, &behind, 10);
            if (column == columns[found])
                ret->losses[found++] = value;
            at = behind;
        }
        if (found == DEVICE_COLUMNS)
            return true;
    }
}

static bool has_kind(const struct rtattr *info)
{
    int left = (int)RTA_PAYLOAD(info);

    for (const struct rtattr *a = RTA_DATA(info); RTA_OK(a, left); a = RTA_NEXT(a, left))
        if (a->rta_type == IFLA_INFO_KIND)
            return true;
    return false;
}

bool device_read_link(const void *message, size_t size, struct device_answer *ret)
{
    const struct nlmsghdr *h = message;
    const struct ifinfomsg *info = NLMSG_DATA(h);
    int left = (int)size - (int)NLMSG_LENGTH(sizeof(*info));
    bool counted = false;

    if (left < 0 || h->nlmsg_type != RTM_NEWLINK || info->ifi_flags & IFF_LOOPBACK)
        return false;
    memset(ret, 0, sizeof(*ret));
    ret->ifindex = info->ifi_index;
    for (const struct rtattr *a = IFLA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        size_t len = RTA_PAYLOAD(a);

        if (a->rta_type == IFLA_IFNAME)
            memcpy(ret->name, RTA_DATA(a), MIN(len, sizeof(ret->name) - 1));
        if (a->rta_type == IFLA_LINKINFO && has_kind(a))
            return false;
        if (a->rta_type != IFLA_STATS64)
            continue;
        for (unsigned i = 0; i < DEVICE_COUNTERS; i++)
            if (counters[i].offset + sizeof(uint64_t) <= len)
                memcpy(&ret->counters[i], (const char *)RTA_DATA(a) + counters[i].offset,
                       sizeof(uint64_t));
        counted = true;
    }
    return counted && *ret->name;
}
