// SPDX-License-Identifier: Apache-2.0

#include "core/rule.h"

#include <ctype.h>
#include <string.h>

const char rule_contradiction[] =
    "this condition and an earlier one cannot both hold; either of them is written with |, where "
    "a condition takes several, or as another alternative behind ;";

bool rule_narrow(struct rule_row row, unsigned fact, uint64_t value, uint64_t mask)
{
    if ((row.value[fact] ^ value) & row.mask[fact] & mask)
        return false;
    row.value[fact] |= value;
    row.mask[fact] |= mask;
    return true;
}

bool rule_narrow_bytes(struct rule_row row, unsigned fact, const void *value, const void *mask)
{
    uint64_t values[2], masks[2];

    memcpy(values, value, sizeof(values));
    memcpy(masks, mask, sizeof(masks));
    return rule_narrow(row, fact, values[0], masks[0]) &&
           rule_narrow(row, fact + 1, values[1], masks[1]);
}

bool rule_number(const char *text, unsigned long max, unsigned long *ret)
{
    char *end;

    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    *ret = strtoul(text, &end, 10);
    return !*end && !errno && *ret <= max;
}

static bool set_bits(struct rule_row row, uint64_t value, uint64_t mask)
{
    return rule_narrow(row, PACKET_FACT_BITS, value, mask);
}

static bool set_family(struct rule_row row, uint64_t bit)
{
    return set_bits(row, bit, PACKET_BITS_IPV4 | PACKET_BITS_IPV6);
}

static bool set_addr(struct rule_row row, const uint8_t addr[16], const uint8_t mask[16],
                     bool source)
{
    return rule_narrow_bytes(row, source ? PACKET_FACT_SADDR_HI : PACKET_FACT_DADDR_HI, addr, mask);
}

static bool set_port(struct rule_row row, uint16_t port, bool source)
{
    unsigned shift = source ? 0 : 16;

    return rule_narrow(row, PACKET_FACT_PORTS, (uint64_t)port << shift, UINT64_C(0xffff) << shift);
}

static const char *or_contradiction(bool fine)
{
    return fine ? NULL : rule_contradiction;
}

static const char *parse_addr(struct rule_row row, struct rule_ends *ends, const char *key,
                              const char *text)
{
    static const uint8_t mapped[12] = {[10] = 0xff, 0xff};
    uint8_t addr[16], mask[16];

    if (!packet_network_value(text, addr, mask))
        return "an address is written as 10.1.2.3, 10.0.0.0/8, 2001:db8::1 or 2001:db8::/32";
    /* A short IPv6 prefix such as ::/0 would cover the mapped IPv4 addresses too. */
    if (memcmp(addr, mapped, sizeof(mapped)) != 0 && !set_family(row, PACKET_BITS_IPV6))
        return rule_contradiction;
    if (*key != 'a')
        return or_contradiction(set_addr(row, addr, mask, *key == 's'));
    if (ends->either_addr)
        return "addr= may stand once; two ends are written as saddr= and daddr=";
    ends->either_addr = true;
    memcpy(ends->addr, addr, sizeof(addr));
    memcpy(ends->addr_mask, mask, sizeof(mask));
    return NULL;
}

static const char *parse_port(struct rule_row row, struct rule_ends *ends, const char *key,
                              const char *text)
{
    unsigned long port;

    if (!rule_number(text, UINT16_MAX, &port))
        return "a port is a number from 0 to 65535";
    if (*key != 'p')
        return or_contradiction(set_port(row, (uint16_t)port, *key == 's'));
    if (ends->either_port)
        return "port= may stand once; two ends are written as sport= and dport=";
    ends->either_port = true;
    ends->port = (uint16_t)port;
    return NULL;
}

static const char *parse_family(struct rule_row row, const char *text)
{
    if (strcmp(text, "ipv4") == 0)
        return or_contradiction(set_family(row, PACKET_BITS_IPV4));
    if (strcmp(text, "ipv6") == 0)
        return or_contradiction(set_family(row, PACKET_BITS_IPV6));
    return "family= takes ipv4 or ipv6";
}

static const char *parse_protocol(struct rule_row row, const char *text)
{
    int protocol = packet_protocol_value(text);

    if (protocol < 0)
        return "protocol= takes tcp, udp, icmp, icmpv6 or a number";
    return or_contradiction(set_bits(row, (uint64_t)protocol << PACKET_BITS_PROTOCOL_SHIFT,
                                     UINT64_C(0xff) << PACKET_BITS_PROTOCOL_SHIFT));
}

static const char *parse_netns(struct rule_row row, const char *text)
{
    unsigned long netns;

    if (!rule_number(text, UINT32_MAX, &netns))
        return "netns= takes the inode number that `lsns -t net` shows";
    return or_contradiction(set_bits(row, (uint64_t)netns << PACKET_BITS_NETNS_SHIFT,
                                     UINT64_C(0xffffffff) << PACKET_BITS_NETNS_SHIFT));
}

const char *rule_packet(struct rule_row row, struct rule_ends *ends, const char *key,
                        const char *value, bool *ret_known)
{
    *ret_known = true;
    if (strcmp(key, "saddr") == 0 || strcmp(key, "daddr") == 0 || strcmp(key, "addr") == 0)
        return parse_addr(row, ends, key, value);
    if (strcmp(key, "sport") == 0 || strcmp(key, "dport") == 0 || strcmp(key, "port") == 0)
        return parse_port(row, ends, key, value);
    if (strcmp(key, "family") == 0)
        return parse_family(row, value);
    if (strcmp(key, "protocol") == 0)
        return parse_protocol(row, value);
    if (strcmp(key, "netns") == 0)
        return parse_netns(row, value);
    *ret_known = false;
    return NULL;
}

bool rule_end(struct rule_row row, const struct rule_ends *ends, unsigned n)
{
    bool source_addr = n & 1, source_port = n & 2;

    if ((source_addr && !ends->either_addr) || (source_port && !ends->either_port))
        return false;
    if (ends->either_addr && !set_addr(row, ends->addr, ends->addr_mask, source_addr))
        return false;
    return !ends->either_port || set_port(row, ends->port, source_port);
}

bool rule_next(const char **rest, const char **ret, size_t *ret_len)
{
    if (!*rest)
        return false;
    *ret = *rest;
    *ret_len = strcspn(*rest, ";");
    *rest = (*ret)[*ret_len] ? *ret + *ret_len + 1 : NULL;
    return true;
}

const char *rule_conditions(const char *text, size_t text_len,
                            const char *(*fn)(void *arg, const char *key, const char *value),
                            void *arg)
{
    const char *end = text + text_len;
    bool any = false;

    for (;;) {
        char word[RULE_WORD_MAX], *equals;
        const char *error;
        size_t len;

        while (text < end && strchr(" \t\n", *text))
            text++;
        for (len = 0; text + len < end && !strchr(" \t\n", text[len]);)
            len++;
        if (!len)
            break;
        if (len >= sizeof(word))
            return "a condition has at most 191 characters";
        memcpy(word, text, len);
        word[len] = '\0';
        equals = strchr(word, '=');
        if (!equals || !equals[1])
            return "a condition is written as key=value";
        *equals = '\0';
        error = fn(arg, word, equals + 1);
        if (error)
            return error;
        any = true;
        text += len;
    }
    return any ? NULL : "a rule without conditions would take out everything";
}

const char *rule_after_name(const char *text, const char **ret)
{
    size_t name = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");

    if (!name || name >= RULE_NAME_MAX || text[name] != ':')
        return "a rule is written as `name: condition condition ...`, the name of at most 63 "
               "lower-case letters, digits and _";
    if (strncmp(text, "own:", 4) == 0)
        return "`own` is the name of the rule for the agent's own sockets";
    *ret = text + name + 1;
    return NULL;
}
