// SPDX-License-Identifier: Apache-2.0

#include "core/packet.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "core/base.h"
#include "core/event.h"

/* include/net/tcp_states.h */
static const char *const state_names[] = {
    "NONE",  "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",    "TIME_WAIT",
    "CLOSE", "CLOSE_WAIT",  "LAST_ACK", "LISTEN",   "CLOSING",   "NEW_SYN_RECV",
};

static const char *const flag_names[8] = {"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"};

static const struct {
    uint8_t value;
    const char *name;
} protocols[] = {
    {IPPROTO_ICMP, "icmp"}, {IPPROTO_IGMP, "igmp"},     {IPPROTO_TCP, "tcp"},
    {IPPROTO_UDP, "udp"},   {IPPROTO_ICMPV6, "icmpv6"}, {IPPROTO_GRE, "gre"},
    {IPPROTO_ESP, "esp"},   {IPPROTO_SCTP, "sctp"},
};

const char *packet_state_name(unsigned state)
{
    return state < ARRAY_SIZE(state_names) ? state_names[state] : "UNKNOWN";
}

int packet_state_value(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(state_names); i++)
        if (strcmp(state_names[i], name) == 0)
            return (int)i;
    return -1;
}

const char *packet_protocol_name(unsigned protocol)
{
    for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
        if (protocols[i].value == protocol)
            return protocols[i].name;
    return NULL;
}

int packet_protocol_value(const char *name)
{
    char *end;
    unsigned long number;

    for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
        if (strcmp(protocols[i].name, name) == 0)
            return protocols[i].value;
    if (name[0] < '0' || name[0] > '9')
        return -1;
    number = strtoul(name, &end, 10);
    return *end == '\0' && number < 256 ? (int)number : -1;
}

void packet_flags_text(unsigned tcp_flags, char ret[PACKET_TEXT_MAX])
{
    size_t len = 0;

    ret[0] = '\0';
    for (unsigned i = 0; i < 8; i++)
        if (tcp_flags & 1U << i)
            len += (size_t)snprintf(ret + len, PACKET_TEXT_MAX - len, "%s%s", len ? "|" : "",
                                    flag_names[i]);
}

int packet_flag_value(const char *name)
{
    for (int i = 0; i < 8; i++)
        if (strcmp(flag_names[i], name) == 0)
            return 1 << i;
    return -1;
}

static bool prefix_bits(const char *text, unsigned long max, unsigned long *ret)
{
    unsigned long bits;
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    bits = strtoul(text, &end, 10);
    if (*end || bits > max)
        return false;
    *ret = bits;
    return true;
}

bool packet_network_value(const char *text, __u8 addr[16], __u8 mask[16])
{
    char host[INET6_ADDRSTRLEN + 1];
    const char *slash = strchr(text, '/');
    unsigned long bits, max;

    snprintf(host, sizeof(host), "%.*s", slash ? (int)(slash - text) : (int)strlen(text), text);
    memset(addr, 0, 16);
    if (inet_pton(AF_INET, host, addr + 12) == 1) {
        addr[10] = addr[11] = 0xff;
        max = 32;
    } else if (inet_pton(AF_INET6, host, addr) == 1) {
        max = 128;
    } else {
        return false;
    }
    bits = max;
    if (slash && !prefix_bits(slash + 1, max, &bits))
        return false;
    bits += 128 - max;
    for (unsigned i = 0; i < 16; i++) {
        unsigned here = bits > i * 8 ? (unsigned)MIN(bits - i * 8, 8UL) : 0;

        mask[i] = (__u8)(0xff00 >> here);
        addr[i] &= mask[i];
    }
    return true;
}

void packet_addr_text(const __u8 addr[16], char ret[PACKET_TEXT_MAX])
{
    struct in6_addr v6;

    memcpy(&v6, addr, sizeof(v6));
    if (IN6_IS_ADDR_V4MAPPED(&v6))
        inet_ntop(AF_INET, addr + 12, ret, PACKET_TEXT_MAX);
    else
        inet_ntop(AF_INET6, addr, ret, PACKET_TEXT_MAX);
}

void packet_endpoint_text(const struct packet *p, bool source, char ret[PACKET_TEXT_MAX])
{
    char addr[PACKET_TEXT_MAX];
    unsigned port = source ? p->sport : p->dport;

    packet_addr_text(source ? p->saddr : p->daddr, addr);
    if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
        snprintf(ret, PACKET_TEXT_MAX, "%.46s", addr);
    else
        snprintf(ret, PACKET_TEXT_MAX, strchr(addr, ':') ? "[%.46s]:%u" : "%.46s:%u", addr, port);
}

void packet_record_addresses(struct record *r, const struct packet *p)
{
    char text[PACKET_TEXT_MAX];

    packet_addr_text(p->saddr, text);
    record_str(r, "saddr", text, sizeof(text));
    packet_addr_text(p->daddr, text);
    record_str(r, "daddr", text, sizeof(text));
    record_u64(r, "sport", p->sport);
    record_u64(r, "dport", p->dport);
}

void packet_record_context(struct record *r, const struct packet *p, const struct decode *d)
{
    static const char *const sockets[] = {"none", "skb", "given", "read"};
    const char *protocol = packet_protocol_name(p->protocol);
    int ifindex = p->ifindex ? p->ifindex : p->iif;
    char flags[PACKET_TEXT_MAX], device[sizeof(p->device)];

    memcpy(device, p->device, sizeof(device));
    if (!*device && ifindex && d->device_name) /* TCP forgets it once it has found the socket */
        d->device_name(p->netns, ifindex, device);
    record_str(r, "direction", p->iif || p->socket == PACKET_SOCKET_READ ? "rx" : "tx", SIZE_MAX);
    record_str(r, "device", device, sizeof(device));
    record_i64(r, "ifindex", ifindex);
    record_u64(r, "netns", p->netns);
    record_str(r, "family", p->family == AF_INET6 ? "ipv6" : "ipv4", SIZE_MAX);
    if (protocol)
        record_str(r, "protocol", protocol, SIZE_MAX);
    else
        record_strf(r, "protocol", "%u", p->protocol);
    packet_flags_text(p->tcp_flags, flags);
    record_str(r, "tcp_flags", flags, sizeof(flags));
    record_u64(r, "payload_len", p->payload_len);
    record_str(r, "socket", sockets[MIN(p->socket, (__u8)PACKET_SOCKET_READ)], SIZE_MAX);
    if (p->socket != PACKET_SOCKET_NONE && p->socket_inode) {
        record_u64(r, "socket_uid", p->socket_uid);
        record_u64(r, "socket_inode", p->socket_inode);
    }
}
