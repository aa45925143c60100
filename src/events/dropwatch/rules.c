// SPDX-License-Identifier: Apache-2.0

#include "events/dropwatch/rules.h"

#include <stdio.h>
#include <string.h>

#include "core/rule.h"
#include "events/dropwatch/listen.h"
#include "kernel/kernel.h"

#define PARTS_MAX 16 /* functions, or parts that the compiler has split them into */

/** What is right for one alternative of a rule. */
struct rule {
    char place[RULE_WORD_MAX], caller[RULE_WORD_MAX], reason[RULE_WORD_MAX]; /* a|b|c; "": any */
    struct dropwatch_row row; /* what needs no symbols */
    struct rule_ends ends;
};

static const char empty_word[] = "a name is missing before or behind |; either of two is F|G";

/** Cuts the next word off a list such as a|b|c; false at its end. */
static bool next_word(const char **list, char separator, char ret[RULE_WORD_MAX])
{
    const char *end;

    if (!**list)
        return false;
    end = strchrnul(*list, separator);
    snprintf(ret, RULE_WORD_MAX, "%.*s", (int)(end - *list), *list);
    *list = *end ? end + 1 : end;
    return true;
}

/** Which is most likely a slip, and in place= would be one name less than it looks. */
static bool has_empty_word(const char *list)
{
    size_t len = strlen(list);

    return *list == '|' || strstr(list, "||") || (len && list[len - 1] == '|');
}

static struct rule_row words(struct dropwatch_row *row)
{
    return (struct rule_row){.value = row->value, .mask = row->mask};
}

static const char *narrow(struct rule *rule, unsigned fact, uint64_t value, uint64_t mask)
{
    return rule_narrow(words(&rule->row), fact, value, mask) ? NULL : rule_contradiction;
}

/** Of the bits `all`, one of which is set, it is one of those `allowed`. */
static const char *narrow_to(struct rule *rule, unsigned fact, uint64_t all, uint64_t allowed)
{
    narrow(rule, fact, 0, all & ~allowed);
    return ~rule->row.mask[fact] & all ? NULL : rule_contradiction;
}

static const char *parse_states(struct rule *rule, const char *text)
{
    uint64_t allowed = 0;
    char name[RULE_WORD_MAX];

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
    return narrow_to(rule, FACT_BITS, FACT_BITS_STATES, allowed);
}

static const char *parse_flag(struct rule *rule, const char *text)
{
    bool set = *text != '!';
    int flag = packet_flag_value(text + !set);
    uint64_t bit = (uint64_t)flag << FACT_BITS_FLAGS_SHIFT;

    if (flag < 0)
        return "flag= takes FIN, SYN, RST, PSH, ACK, URG, ECE or CWR, with ! before it for not set";
    return narrow(rule, FACT_BITS, set ? bit : 0, bit);
}

/** One of two words, each a bit. */
static const char *parse_choice(struct rule *rule, const char *text, const char *a, uint64_t bit_a,
                                const char *b, uint64_t bit_b, const char *error)
{
    if (strcmp(text, a) == 0)
        return narrow(rule, FACT_BITS, bit_a, bit_a | bit_b);
    if (strcmp(text, b) == 0)
        return narrow(rule, FACT_BITS, bit_b, bit_a | bit_b);
    return error;
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
    return rule_narrow_bytes(words(&rule->row), FACT_DEVICE_HI, name, mask) ? NULL
                                                                            : rule_contradiction;
}

static const char *parse_type(struct rule *rule, const char *text)
{
    uint64_t allowed = 0;
    char name[RULE_WORD_MAX];

    if (has_empty_word(text))
        return empty_word;
    while (next_word(&text, '|', name)) {
        int type = listen_type_value(name);

        if (type < 0)
            return "type= takes the types of records, e.g. common_drop|syn_flood";
        allowed |= FACT_TYPE(type);
    }
    if (!allowed)
        return "type= needs a type";
    return narrow_to(rule, PACKET_FACT_BITS, FACT_TYPES, allowed);
}

static const char *take_names(char names[RULE_WORD_MAX], const char *text)
{
    if (has_empty_word(text))
        return empty_word;
    if (*names)
        return "place=, caller= and reason= may each stand once; either of two is written as F|G";
    snprintf(names, RULE_WORD_MAX, "%s", text);
    return NULL;
}

static const char *parse_condition(void *arg, const char *key, const char *value)
{
    struct rule *rule = arg;
    const char *error;
    bool known;

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
    if (strcmp(key, "device") == 0)
        return parse_device(rule, value);
    error = rule_packet(words(&rule->row), &rule->ends, key, value, &known);
    if (known)
        return error;
    return "conditions are type= place= caller= reason= state= flag= payload= direction= received= "
           "family= protocol= saddr= daddr= addr= sport= dport= port= device= netns=";
}

/** One alternative. */
static const char *parse_alternative(const char *text, size_t len, struct rule *ret)
{
    const char *error;

    *ret = (struct rule){};
    error = rule_conditions(text, len, parse_condition, ret);
    if (!error && *ret->caller && !*ret->place)
        error = "caller= needs place=, as callers are costly to look at";
    return error;
}

const char *dropwatch_rule_check(const char *text)
{
    const char *rest, *error = rule_after_name(text, &rest);
    struct rule rule;
    size_t len;

    if (error)
        return error;
    for (const struct noise_rule *built_in = noise_rules; built_in->name; built_in++) {
        len = strlen(built_in->name);
        if (strncmp(built_in->name, text, len) == 0 && text[len] == ':')
            return "there is a built-in rule of that name; choose another";
    }
    while (!error && rule_next(&rest, &text, &len))
        error = parse_alternative(text, len, &rule);
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
    char name[RULE_WORD_MAX];
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
    char name[RULE_WORD_MAX];
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

    for (unsigned n = 0; n < RULE_ENDS_MAX && r == 0; n++) {
        struct dropwatch_row row = *base;

        if (rule_end(words(&row), &rule->ends, n))
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

        row.value[PACKET_FACT_PORTS] |= (uint64_t)reasons[i] << FACT_REASON_SHIFT;
        row.mask[PACKET_FACT_PORTS] |= UINT64_C(0xffffffff) << FACT_REASON_SHIFT;
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

int dropwatch_rule_compile(const struct kernel *kernel, const char *conditions, unsigned index,
                           struct dropwatch_settings *settings)
{
    struct rule rule;
    const char *text;
    size_t len;
    int r = 0;

    while (r == 0 && rule_next(&conditions, &text, &len))
        r = parse_alternative(text, len, &rule)
                ? -EINVAL
                : compile_alternative(kernel, &rule, index, settings);
    return r;
}
