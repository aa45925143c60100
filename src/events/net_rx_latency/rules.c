// SPDX-License-Identifier: Apache-2.0

#include "events/net_rx_latency/rules.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define WORD_MAX 96

const char *const rx_where_names[RX_WHERE_NR] = {"TO_NETIF_RCV", "TO_TCPV4_RCV", "TO_USER_COPY"};
const char *const rx_since_names[RX_SINCE_NR] = {"received", "sent", "last_segment"};

/** One alternative of a rule. */
struct rule {
    struct rx_row row;
    /* addr= and port=, which may hold for either end: a row each. */
    bool either_addr, either_port;
    uint8_t addr[16], addr_mask[16];
    uint16_t port;
};

static const char contradiction[] =
    "this condition and an earlier one cannot both hold; either of them is another alternative "
    "behind ;";

static bool narrow(struct rx_row *row, unsigned fact, uint64_t value, uint64_t mask)
{
    if ((row->value[fact] ^ value) & row->mask[fact] & mask)
        return false;
    row->value[fact] |= value;
    row->mask[fact] |= mask;
    return true;
}

static bool set_addr(struct rx_row *row, const uint8_t addr[16], const uint8_t mask[16],
                     bool source)
{
    unsigned fact = source ? RX_FACT_SADDR_HI : RX_FACT_DADDR_HI;
    uint64_t values[2], masks[2];

    memcpy(values, addr, sizeof(values));
    memcpy(masks, mask, sizeof(masks));
    return narrow(row, fact, values[0], masks[0]) && narrow(row, fact + 1, values[1], masks[1]);
}

static bool set_port(struct rx_row *row, uint16_t port, bool source)
{
    unsigned shift = source ? 0 : 16;

    return narrow(row, RX_FACT_PORTS, (uint64_t)port << shift, UINT64_C(0xffff) << shift);
}

static const char *set_bits(struct rule *rule, uint64_t value, uint64_t mask)
{
    return narrow(&rule->row, RX_FACT_BITS, value, mask) ? NULL : contradiction;
}

static const char *set_word(struct rule *rule, const char *text, const char *const *words,
                            unsigned n, unsigned shift, const char *error)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(words[i], text) == 0)
            return set_bits(rule, (uint64_t)i << shift, UINT64_C(3) << shift);
    return error;
}

static bool parse_number(const char *text, unsigned long max, unsigned long *ret)
{
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *ret = strtoul(text, &end, 10);
    return !*end && !errno && *ret <= max;
}

static const char *parse_addr(struct rule *rule, const char *key, const char *text)
{
    static const uint8_t mapped[12] = {[10] = 0xff, 0xff};
    uint8_t addr[16], mask[16];

    if (!packet_network_value(text, addr, mask))
        return "an address is written as 10.1.2.3, 10.0.0.0/8, 2001:db8::1 or 2001:db8::/32";
    /* A short IPv6 prefix such as ::/0 would cover the mapped IPv4 addresses too. */
    if (memcmp(addr, mapped, sizeof(mapped)) != 0 && set_bits(rule, RX_BITS_IPV6, RX_BITS_IPV6))
        return contradiction;
    if (*key != 'a')
        return set_addr(&rule->row, addr, mask, *key == 's') ? NULL : contradiction;
    if (rule->either_addr)
        return "addr= may stand once; two ends are written as saddr= and daddr=";
    rule->either_addr = true;
    memcpy(rule->addr, addr, sizeof(addr));
    memcpy(rule->addr_mask, mask, sizeof(mask));
    return NULL;
}

static const char *parse_port(struct rule *rule, const char *key, const char *text)
{
    unsigned long port;

    if (!parse_number(text, UINT16_MAX, &port))
        return "a port is a number from 0 to 65535";
    if (*key != 'p')
        return set_port(&rule->row, (uint16_t)port, *key == 's') ? NULL : contradiction;
    if (rule->either_port)
        return "port= may stand once; two ends are written as sport= and dport=";
    rule->either_port = true;
    rule->port = (uint16_t)port;
    return NULL;
}

static const char *parse_condition(struct rule *rule, const char *key, const char *value)
{
    unsigned long number;

    if (strcmp(key, "where") == 0)
        return set_word(rule, value, rx_where_names, RX_WHERE_NR, RX_BITS_WHERE_SHIFT,
                        "where= takes TO_NETIF_RCV, TO_TCPV4_RCV or TO_USER_COPY");
    if (strcmp(key, "since") == 0)
        return set_word(rule, value, rx_since_names, RX_SINCE_NR, RX_BITS_SINCE_SHIFT,
                        "since= takes received, sent or last_segment");
    if (strcmp(key, "family") == 0) {
        if (strcmp(value, "ipv4") != 0 && strcmp(value, "ipv6") != 0)
            return "family= takes ipv4 or ipv6";
        return set_bits(rule, strcmp(value, "ipv6") == 0 ? RX_BITS_IPV6 : 0, RX_BITS_IPV6);
    }
    if (strcmp(key, "protocol") == 0) {
        if (strcmp(value, "tcp") != 0 && strcmp(value, "udp") != 0)
            return "protocol= takes tcp or udp";
        return set_bits(rule, (uint64_t)packet_protocol_value(value) << RX_BITS_PROTOCOL_SHIFT,
                        UINT64_C(0xff) << RX_BITS_PROTOCOL_SHIFT);
    }
    if (strcmp(key, "saddr") == 0 || strcmp(key, "daddr") == 0 || strcmp(key, "addr") == 0)
        return parse_addr(rule, key, value);
    if (strcmp(key, "sport") == 0 || strcmp(key, "dport") == 0 || strcmp(key, "port") == 0)
        return parse_port(rule, key, value);
    if (strcmp(key, "netns") == 0) {
        if (!parse_number(value, UINT32_MAX, &number))
            return "netns= takes the inode number that `lsns -t net` shows";
        return set_bits(rule, (uint64_t)number << RX_BITS_NETNS_SHIFT,
                        UINT64_C(0xffffffff) << RX_BITS_NETNS_SHIFT);
    }
    return "conditions are where= since= protocol= family= saddr= daddr= addr= sport= dport= port= "
           "netns=";
}

static const char *parse_conditions(const char *text, size_t text_len, struct rule *ret)
{
    const char *end = text + text_len;
    struct rule rule = {};
    bool any = false;

    for (;;) {
        char word[WORD_MAX], *equals;
        const char *error;
        size_t len;

        while (text < end && strchr(" \t\n", *text))
            text++;
        for (len = 0; text + len < end && !strchr(" \t\n", text[len]);)
            len++;
        if (!len)
            break;
        if (len >= sizeof(word))
            return "a condition has at most 95 characters";
        memcpy(word, text, len);
        word[len] = '\0';
        equals = strchr(word, '=');
        if (!equals || !equals[1])
            return "a condition is written as key=value";
        *equals = '\0';
        error = parse_condition(&rule, word, equals + 1);
        if (error)
            return error;
        any = true;
        text += len;
    }
    if (!any)
        return "a rule without conditions would take out everything";
    *ret = rule;
    return NULL;
}

const char *rx_rule_check(const char *text)
{
    size_t name = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
    const char *error = NULL;
    struct rule rule;

    if (!name || name >= RX_RULE_NAME_MAX || text[name] != ':')
        return "a rule is written as `name: condition condition ...`, the name of at most 63 "
               "lower-case letters, digits and _";
    if (strncmp(text, "own:", 4) == 0)
        return "`own` is the name of the rule for the agent's own sockets";
    for (text += name + 1; !error;) {
        size_t len = strcspn(text, ";");

        error = parse_conditions(text, len, &rule);
        if (!text[len])
            break;
        text += len + 1;
    }
    return error;
}

/** Either end's address and port: up to four rows. */
static int add_rows(struct net_rx_latency_settings *settings, const struct rule *rule,
                    unsigned index)
{
    for (int addr = 0; addr < (rule->either_addr ? 2 : 1); addr++)
        for (int port = 0; port < (rule->either_port ? 2 : 1); port++) {
            struct rx_row row = rule->row;

            row.rule = index;
            if (rule->either_addr && !set_addr(&row, rule->addr, rule->addr_mask, addr == 0))
                continue;
            if (rule->either_port && !set_port(&row, rule->port, port == 0))
                continue;
            if (settings->n_rows >= RX_ROWS_MAX)
                return -E2BIG;
            settings->rows[settings->n_rows++] = row;
        }
    return 0;
}

int rx_rule_compile(const char *conditions, unsigned index,
                    struct net_rx_latency_settings *settings)
{
    for (;;) {
        size_t len = strcspn(conditions, ";");
        struct rule rule;
        int r;

        if (parse_conditions(conditions, len, &rule))
            return -EINVAL;
        r = add_rows(settings, &rule, index);
        if (r < 0 || !conditions[len])
            return r;
        conditions += len + 1;
    }
}
