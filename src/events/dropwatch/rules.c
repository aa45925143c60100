// SPDX-License-Identifier: Apache-2.0

#include "events/dropwatch/rules.h"

#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "events/dropwatch/listen.h"
#include "kernel/kernel.h"

#define WORD_MAX  192
#define PARTS_MAX 16 /* functions, or parts that the compiler has split them into */

/** What is right for one alternative of a rule. */
struct rule {
    char place[WORD_MAX], caller[WORD_MAX], reason[WORD_MAX]; /* a|b|c; "": any */
    struct dropwatch_row row;                                 /* what needs no symbols */
    /* addr= and port=, which may hold for either end: one row each. */
    bool either_addr, either_port;
    uint8_t addr[16], addr_mask[16];
    uint16_t port;
};

static const char empty_word[] = "a name is missing before or behind |; either of two is F|G";
static const char contradiction[] =
    "this condition and an earlier one cannot both hold; either of them is written with |, or as "
    "another alternative behind ;";

/** Cuts the next word off a list such as a|b|c; false at its end. */
static bool next_word(const char **list, char separator, char ret[WORD_MAX])
{
    const char *end;

    if (!**list)
        return false;
    end = strchrnul(*list, separator);
    snprintf(ret, WORD_MAX, "%.*s", (int)(end - *list), *list);
    *list = *end ? end + 1 : end;
    return true;
}

/** Which is most likely a slip, and in place= would be one name less than it looks. */
static bool has_empty_word(const char *list)
{
    size_t len = strlen(list);

    return *list == '|' || strstr(list, "||") || (len && list[len - 1] == '|');
}

/** One more condition on a fact; false, and nothing done, if it contradicts those that are there.
 */
static bool narrow(struct dropwatch_row *row, unsigned fact, uint64_t value, uint64_t mask)
{
    if ((row->value[fact] ^ value) & row->mask[fact] & mask)
        return false;
    row->value[fact] |= value;
    row->mask[fact] |= mask;
    return true;
}

/** The same for a fact of 16 bytes: two words. */
static bool narrow_bytes(struct dropwatch_row *row, unsigned fact, const void *value,
                         const void *mask)
{
    uint64_t values[2], masks[2];

    memcpy(values, value, sizeof(values));
    memcpy(masks, mask, sizeof(masks));
    return narrow(row, fact, values[0], masks[0]) && narrow(row, fact + 1, values[1], masks[1]);
}

static const char *set_bits(struct rule *rule, uint64_t value, uint64_t mask)
{
    return narrow(&rule->row, FACT_BITS, value, mask) ? NULL : contradiction;
}

static const char *parse_states(struct rule *rule, const char *text)
{
    uint64_t allowed = 0;
    char name[WORD_MAX];

    if (has_empty_word(text))
        return empty_word;
    while (next_word(&text, '|', name)) {
        int state = packet_state_value(name);

        if (state < 0)
            return "state= takes TCP states as in `ss`, e.g. ESTABLISHED|CLOSE_WAIT, or NONE";
        allowed |= FACT_BITS_STATE(state);
    }
    if (!allowed)
        return "state= needs a TCP state";
    narrow(&rule->row, FACT_BITS, 0, FACT_BITS_STATES & ~allowed);
    return ~rule->row.mask[FACT_BITS] & FACT_BITS_STATES ? NULL : contradiction;
}

static const char *parse_flag(struct rule *rule, const char *text)
{
    bool set = *text != '!';
    int flag = packet_flag_value(text + !set);
    uint64_t bit = (uint64_t)flag << FACT_BITS_FLAGS_SHIFT;

    if (flag < 0)
        return "flag= takes FIN, SYN, RST, PSH, ACK, URG, ECE or CWR, with ! before it for not set";
    return set_bits(rule, set ? bit : 0, bit);
}

/** One of two words, each a bit. */
static const char *parse_choice(struct rule *rule, const char *text, const char *a, uint64_t bit_a,
                                const char *b, uint64_t bit_b, const char *error)
{
    if (strcmp(text, a) == 0)
        return set_bits(rule, bit_a, bit_a | bit_b);
    if (strcmp(text, b) == 0)
        return set_bits(rule, bit_b, bit_a | bit_b);
    return error;
}

static bool parse_number(const char *text, unsigned long max, unsigned long *ret)
{
    unsigned long value;
    char *end;

    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    value = strtoul(text, &end, 10);
    if (*end || errno || value > max)
        return false;
    *ret = value;
    return true;
}

static bool set_addr(struct dropwatch_row *row, const uint8_t addr[16], const uint8_t mask[16],
                     bool source)
{
    return narrow_bytes(row, source ? FACT_SADDR_HI : FACT_DADDR_HI, addr, mask);
}

static bool set_port(struct dropwatch_row *row, uint16_t port, bool source)
{
    unsigned shift = source ? 0 : 16;

    return narrow(row, FACT_PORTS, (uint64_t)port << shift, UINT64_C(0xffff) << shift);
}

static const char *parse_addr(struct rule *rule, const char *key, const char *text)
{
    static const uint8_t mapped[12] = {[10] = 0xff, 0xff};
    uint8_t addr[16], mask[16];

    if (!packet_network_value(text, addr, mask))
        return "an address is written as 10.1.2.3, 10.0.0.0/8, 2001:db8::1 or 2001:db8::/32";
    /* A short IPv6 prefix such as ::/0 would cover the mapped IPv4 addresses too. */
    if (memcmp(addr, mapped, sizeof(mapped)) != 0 &&
        set_bits(rule, FACT_BITS_IPV6, FACT_BITS_IPV4 | FACT_BITS_IPV6))
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

static const char *parse_device(struct rule *rule, const char *text)
{
    char name[16] = {}, mask[16] = {};
    size_t len = strlen(text);
    bool prefix = text[len - 1] == '*';

    len -= prefix;
    if (len >= sizeof(name))
        return "a device's name has at most 15 characters";
    memcpy(name, text, len);
    /* Behind the NUL there may be the rest of a longer name that the device had before. */
    memset(mask, 0xff, prefix ? len : len + 1);
    return narrow_bytes(&rule->row, FACT_DEVICE_HI, name, mask) ? NULL : contradiction;
}

static const char *parse_type(struct rule *rule, const char *text)
{
    uint64_t allowed = 0;
    char name[WORD_MAX];

    if (has_empty_word(text))
        return empty_word;
    while (next_word(&text, '|', name)) {
        int type = listen_type_value(name);

        if (type < 0)
            return "type= takes the types of records, e.g. common_drop|syn_flood";
        allowed |= FACT_BITS_TYPE(type);
    }
    if (!allowed)
        return "type= needs a type";
    narrow(&rule->row, FACT_BITS, 0, FACT_BITS_TYPES & ~allowed);
    return ~rule->row.mask[FACT_BITS] & FACT_BITS_TYPES ? NULL : contradiction;
}

static const char *parse_protocol(struct rule *rule, const char *text)
{
    int protocol = packet_protocol_value(text);

    if (protocol < 0)
        return "protocol= takes tcp, udp, icmp, icmpv6 or a number";
    return set_bits(rule, (uint64_t)protocol << FACT_BITS_PROTOCOL_SHIFT,
                    UINT64_C(0xff) << FACT_BITS_PROTOCOL_SHIFT);
}

static const char *parse_netns(struct rule *rule, const char *text)
{
    unsigned long netns;

    if (!parse_number(text, UINT32_MAX, &netns))
        return "netns= takes the inode number that `lsns -t net` shows";
    return narrow(&rule->row, FACT_REASON_NETNS, (uint64_t)netns << 32, UINT64_C(0xffffffff) << 32)
               ? NULL
               : contradiction;
}

static const char *take_names(char names[WORD_MAX], const char *text)
{
    if (has_empty_word(text))
        return empty_word;
    if (*names)
        return "place=, caller= and reason= may each stand once; either of two is written as F|G";
    snprintf(names, WORD_MAX, "%s", text);
    return NULL;
}

static const char *parse_condition(struct rule *rule, const char *key, const char *value)
{
    if (strcmp(key, "place") == 0)
        return take_names(rule->place, value);
    if (strcmp(key, "caller") == 0)
        return take_names(rule->caller, value);
    if (strcmp(key, "reason") == 0)
        return take_names(rule->reason, value);
    if (strcmp(key, "type") == 0)
        return parse_type(rule, value);
    if (strcmp(key, "state") == 0)
        return parse_states(rule, value);
    if (strcmp(key, "flag") == 0)
        return parse_flag(rule, value);
    if (strcmp(key, "payload") == 0)
        return parse_choice(rule, value, "none", FACT_BITS_NO_PAYLOAD, "some", FACT_BITS_PAYLOAD,
                            "payload= takes none or some");
    if (strcmp(key, "direction") == 0)
        return parse_choice(rule, value, "rx", FACT_BITS_RX, "tx", FACT_BITS_TX,
                            "direction= takes rx or tx");
    if (strcmp(key, "received") == 0)
        return parse_choice(rule, value, "before", FACT_BITS_RECEIVED, "", 0,
                            "received= takes before");
    if (strcmp(key, "family") == 0)
        return parse_choice(rule, value, "ipv4", FACT_BITS_IPV4, "ipv6", FACT_BITS_IPV6,
                            "family= takes ipv4 or ipv6");
    if (strcmp(key, "protocol") == 0)
        return parse_protocol(rule, value);
    if (strcmp(key, "saddr") == 0 || strcmp(key, "daddr") == 0 || strcmp(key, "addr") == 0)
        return parse_addr(rule, key, value);
    if (strcmp(key, "sport") == 0 || strcmp(key, "dport") == 0 || strcmp(key, "port") == 0)
        return parse_port(rule, key, value);
    if (strcmp(key, "device") == 0)
        return parse_device(rule, value);
    if (strcmp(key, "netns") == 0)
        return parse_netns(rule, value);
    return "conditions are type= place= caller= reason= state= flag= payload= direction= received= "
           "family= protocol= saddr= daddr= addr= sport= dport= port= device= netns=";
}

/** One alternative. */
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
            return "a condition has at most 191 characters";
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
    if (*rule.caller && !*rule.place)
        return "caller= needs place=, as callers are costly to look at";
    *ret = rule;
    return NULL;
}

const char *rule_check(const char *text)
{
    size_t name = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
    const char *error = NULL;
    struct rule rule;

    if (!name || name >= RULE_NAME_MAX || text[name] != ':')
        return "a rule is written as `name: condition condition ...`, the name of at most 63 "
               "lower-case letters, digits and _";
    if (strncmp(text, "own:", 4) == 0)
        return "`own` is the name of the rule for the agent's own sockets";
    for (const struct noise_rule *built_in = noise_rules; built_in->name; built_in++)
        if (strlen(built_in->name) == name && strncmp(built_in->name, text, name) == 0)
            return "there is a built-in rule of that name; choose another";
    for (text += name + 1; !error;) {
        size_t len = strcspn(text, ";");

        error = parse_conditions(text, len, &rule);
        if (!text[len])
            break;
        text += len + 1;
    }
    return error;
}

/** The bit of the range, which may be there already; -1: no room. */
static int range_bit(struct dropwatch_settings *settings, const struct symbol *symbol)
{
    for (unsigned i = 0; i < settings->n_ranges; i++)
        if (settings->ranges[i].start == symbol->start)
            return (int)i;
    if (settings->n_ranges >= DROPWATCH_RANGES_MAX)
        return -1;
    settings->ranges[settings->n_ranges] = (struct dropwatch_range){
        .start = symbol->start,
        .size = MAX(symbol->size, UINT64_C(1)),
    };
    return (int)settings->n_ranges++;
}

/** Bits of all parts of all functions named; -E2BIG: no room. Returns how many. */
static int function_bits(const struct kernel *kernel, const char *names,
                         struct dropwatch_settings *settings, uint64_t ret[PARTS_MAX])
{
    struct symbol symbols[PARTS_MAX];
    char name[WORD_MAX];
    size_t n = 0;

    while (kernel->symbols && next_word(&names, '|', name)) {
        size_t parts = symbols_by_name(kernel->symbols, name, symbols, PARTS_MAX);

        for (size_t i = 0; i < MIN(parts, (size_t)PARTS_MAX) && n < PARTS_MAX; i++) {
            int bit = range_bit(settings, &symbols[i]);

            if (bit < 0)
                return -E2BIG;
            ret[n++] = UINT64_C(1) << bit;
        }
    }
    return (int)n;
}

/**
 * The numbers of the reasons that this kernel has. A `?` behind the last one: where the kernel
 * gives no reasons at all (before 5.17), the condition is dropped, and `*ret_any` set.
 */
static size_t reason_values(const struct kernel *kernel, const char *names, uint32_t ret[PARTS_MAX],
                            bool *ret_any)
{
    char name[WORD_MAX];
    uint32_t value;
    size_t n = 0;
    bool optional = false;

    while (next_word(&names, '|', name) && n < PARTS_MAX) {
        size_t len = strlen(name);

        if (len && name[len - 1] == '?') {
            optional = true;
            name[len - 1] = '\0';
        }
        if (enums_drop_reason_value(kernel->enums, name, &value) == 0)
            ret[n++] = value;
    }
    *ret_any = optional && enums_drop_reason_value(kernel->enums, "NOT_SPECIFIED", &value) < 0;
    return n;
}

static int add_row(struct dropwatch_settings *settings, const struct dropwatch_row *row)
{
    if (settings->n_rows >= DROPWATCH_ROWS_MAX)
        return -E2BIG;
    settings->want_received |= (row->mask[FACT_BITS] & FACT_BITS_RECEIVED) != 0;
    settings->rows[settings->n_rows++] = *row;
    return 0;
}

/** Either end's address and port: up to four rows. */
static int add_ends(struct dropwatch_settings *settings, const struct rule *rule,
                    const struct dropwatch_row *base)
{
    int r = 0;

    for (int addr = 0; addr <= rule->either_addr; addr++)
        for (int port = 0; port <= rule->either_port && r == 0; port++) {
            struct dropwatch_row row = *base;

            if (rule->either_addr && !set_addr(&row, rule->addr, rule->addr_mask, addr == 0))
                continue;
            if (rule->either_port && !set_port(&row, rule->port, port == 0))
                continue;
            r = add_row(settings, &row);
        }
    return r;
}

static int add_reasons(const struct kernel *kernel, struct dropwatch_settings *settings,
                       const struct rule *rule, const struct dropwatch_row *base)
{
    uint32_t reasons[PARTS_MAX];
    bool any;
    size_t n;
    int r = 0;

    if (!*rule->reason)
        return add_ends(settings, rule, base);
    n = reason_values(kernel, rule->reason, reasons, &any);
    if (any)
        return add_ends(settings, rule, base);
    for (size_t i = 0; i < n && r == 0; i++) {
        struct dropwatch_row row = *base;

        row.value[FACT_REASON_NETNS] |= reasons[i];
        row.mask[FACT_REASON_NETNS] |= UINT32_MAX;
        r = add_ends(settings, rule, &row);
    }
    return r;
}

static int compile_alternative(const struct kernel *kernel, const struct rule *rule, unsigned index,
                               struct dropwatch_settings *settings)
{
    uint64_t places[PARTS_MAX] = {}, callers[PARTS_MAX] = {};
    int n_places = function_bits(kernel, rule->place, settings, places);
    int n_callers = function_bits(kernel, rule->caller, settings, callers);
    int r = 0;

    if (n_places < 0 || n_callers < 0)
        return -E2BIG;
    if ((*rule->place && !n_places) || (*rule->caller && !n_callers))
        return 0; /* this kernel has no such function */
    for (int p = 0; p < MAX(n_places, 1); p++)
        for (int c = 0; c < MAX(n_callers, 1) && r == 0; c++) {
            struct dropwatch_row row = rule->row;

            row.rule = index;
            if (n_places)
                row.value[FACT_PLACES] = row.mask[FACT_PLACES] = places[p];
            if (n_callers) {
                row.value[FACT_CALLERS] = row.mask[FACT_CALLERS] = callers[c];
                settings->ranges_with_caller |= places[p];
            }
            r = add_reasons(kernel, settings, rule, &row);
        }
    return r;
}

int rule_compile(const struct kernel *kernel, const char *conditions, unsigned index,
                 struct dropwatch_settings *settings)
{
    for (;;) {
        size_t len = strcspn(conditions, ";");
        struct rule rule;
        int r;

        if (parse_conditions(conditions, len, &rule))
            return -EINVAL;
        r = compile_alternative(kernel, &rule, index, settings);
        if (r < 0 || !conditions[len])
            return r;
        conditions += len + 1;
    }
}
