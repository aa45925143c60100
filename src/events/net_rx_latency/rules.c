// SPDX-License-Identifier: Apache-2.0

#include "events/net_rx_latency/rules.h"

#include <string.h>

#include "core/rule.h"

const char *const rx_where_names[RX_WHERE_NR] = {"TO_NETIF_RCV", "TO_TCPV4_RCV", "TO_USER_COPY"};
const char *const rx_since_names[RX_SINCE_NR] = {"received", "sent", "last_segment"};

/** One alternative of a rule. */
struct rule {
    struct rx_row row;
    struct rule_ends ends;
};

static struct rule_row words(struct rx_row *row)
{
    return (struct rule_row){.value = row->value, .mask = row->mask};
}

static const char *set_word(struct rule *rule, const char *text, const char *const *names,
                            unsigned n, unsigned shift, const char *error)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(names[i], text) == 0)
            return rule_narrow(words(&rule->row), PACKET_FACT_BITS, (uint64_t)i << shift,
                               UINT64_C(3) << shift)
                       ? NULL
                       : rule_contradiction;
    return error;
}

static const char *parse_condition(void *arg, const char *key, const char *value)
{
    struct rule *rule = arg;
    const char *error;
    bool known;

    if (strcmp(key, "where") == 0)
        return set_word(rule, value, rx_where_names, RX_WHERE_NR, RX_BITS_WHERE_SHIFT,
                        "where= takes TO_NETIF_RCV, TO_TCPV4_RCV or TO_USER_COPY");
    if (strcmp(key, "since") == 0)
        return set_word(rule, value, rx_since_names, RX_SINCE_NR, RX_BITS_SINCE_SHIFT,
                        "since= takes received, sent or last_segment");
    if (strcmp(key, "protocol") == 0 && strcmp(value, "tcp") != 0 && strcmp(value, "udp") != 0)
        return "protocol= takes tcp or udp";
    error = rule_packet(words(&rule->row), &rule->ends, key, value, &known);
    if (known)
        return error;
    return "conditions are where= since= protocol= family= saddr= daddr= addr= sport= dport= port= "
           "netns=";
}

static const char *parse_alternative(const char *text, size_t len, struct rule *ret)
{
    *ret = (struct rule){};
    return rule_conditions(text, len, parse_condition, ret);
}

const char *rx_rule_check(const char *text)
{
    const char *rest, *error = rule_after_name(text, &rest);
    struct rule rule;
    size_t len;

    if (error)
        return error;
    while (!error && rule_next(&rest, &text, &len))
        error = parse_alternative(text, len, &rule);
    return error;
}

/** Either end's address and port: up to four rows. */
static int add_rows(struct net_rx_latency_settings *settings, const struct rule *rule,
                    unsigned index)
{
    for (unsigned n = 0; n < RULE_ENDS_MAX; n++) {
        struct rx_row row = rule->row;

        row.rule = index;
        if (!rule_end(words(&row), &rule->ends, n))
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
    struct rule rule;
    const char *text;
    size_t len;
    int r = 0;

    while (r == 0 && rule_next(&conditions, &text, &len))
        r = parse_alternative(text, len, &rule) ? -EINVAL : add_rows(settings, &rule, index);
    return r;
}
