// SPDX-License-Identifier: Apache-2.0

#include "events/lacp/bonding.h"

#include <string.h>

struct line {
    const char *at;
    size_t len;
};

/** The next one; false: there is none. */
static bool next_line(const char **at, const char *end, struct line *ret)
{
    const char *newline;

    if (*at >= end)
        return false;
    newline = memchr(*at, '\n', (size_t)(end - *at));
    ret->at = *at;
    ret->len = (size_t)((newline ? newline : end) - *at);
    *at = newline ? newline + 1 : end;
    return true;
}

/** Whether it begins so; `ret` is what follows. */
static bool begins(const struct line *line, const char *with, struct line *ret)
{
    size_t len = strlen(with);

    if (line->len < len || memcmp(line->at, with, len) != 0)
        return false;
    ret->at = line->at + len;
    ret->len = line->len - len;
    return true;
}

static bool is(const struct line *value, const char *word)
{
    return value->len == strlen(word) && memcmp(value->at, word, value->len) == 0;
}

/** 0 if it is none ("N/A"). */
static uint32_t number(const struct line *value)
{
    uint64_t n = 0;

    for (size_t i = 0; i < value->len; i++) {
        if (value->at[i] < '0' || value->at[i] > '9' || n > UINT32_MAX / 10)
            return 0;
        n = n * 10 + (uint64_t)(value->at[i] - '0');
    }
    return (uint32_t)n;
}

static uint8_t word_of(const struct line *value, const char *const *words, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (is(value, words[i]))
            return (uint8_t)i;
    return 0;
}

static uint8_t mii(const struct line *value)
{
    static const char *const words[] = {"", "up", "going down", "down", "going back"};

    return word_of(value, words, ARRAY_SIZE(words));
}

static uint8_t churn(const struct line *value)
{
    static const char *const words[] = {"", "none", "monitoring", "churned"};

    return word_of(value, words, ARRAY_SIZE(words));
}

static void set_name(char ret[LACP_NAME_LEN], const char *bytes, size_t len)
{
    memset(ret, 0, LACP_NAME_LEN);
    memcpy(ret, bytes, MIN(len, (size_t)LACP_NAME_LEN - 1));
}

static uint8_t digit(char c)
{
    if (c >= '0' && c <= '9')
        return (uint8_t)(c - '0');
    return c >= 'a' && c <= 'f' ? (uint8_t)(c - 'a' + 10) : 0;
}

static void mac(const struct line *value, uint8_t ret[6])
{
    for (size_t i = 0; value->len == 17 && i < 6; i++)
        ret[i] = (uint8_t)(digit(value->at[3 * i]) << 4 | digit(value->at[3 * i + 1]));
}

static void take_bond_line(const struct line *line, struct lacp_bond *b)
{
    struct line value;

    if (begins(line, "Bonding Mode: ", &value))
        b->is_lacp = begins(&value, "IEEE 802.3ad", &value);
    else if (begins(line, "MII Status: ", &value))
        b->mii = mii(&value);
    else if (begins(line, "\tAggregator ID: ", &value))
        b->aggregator = number(&value);
    else if (begins(line, "\tNumber of ports: ", &value))
        b->ports = number(&value);
    else if (begins(line, "\tPartner Mac Address: ", &value))
        mac(&value, b->partner_mac);
}

static void take_slave_line(const struct line *line, bool *of_partner, struct lacp_slave *s)
{
    struct line value;

    if (begins(line, "MII Status: ", &value))
        s->mii = mii(&value);
    else if (begins(line, "Link Failure Count: ", &value))
        s->failures = number(&value);
    else if (begins(line, "Aggregator ID: ", &value))
        s->aggregator = number(&value);
    else if (begins(line, "Actor Churn State: ", &value))
        s->actor_churn = churn(&value);
    else if (begins(line, "Partner Churn State: ", &value))
        s->partner_churn = churn(&value);
    else if (begins(line, "Actor Churned Count: ", &value))
        s->actor_churned = number(&value);
    else if (begins(line, "Partner Churned Count: ", &value))
        s->partner_churned = number(&value);
    else if (begins(line, "details actor lacp pdu:", &value))
        *of_partner = false;
    else if (begins(line, "details partner lacp pdu:", &value))
        *of_partner = true;
    else if (begins(line, "    port state: ", &value)) {
        *(*of_partner ? &s->partner : &s->actor) = (uint8_t)number(&value);
        s->has_states = 1;
    }
}

void bonding_parse(const char *name, const char *text, size_t size, struct lacp_bond *ret)
{
    const char *at = text, *end = text + size;
    struct lacp_slave *slave = NULL;
    struct lacp_slave left_out = {};
    bool of_partner = false;
    struct line line, value;

    memset(ret, 0, sizeof(*ret));
    set_name(ret->name, name, strlen(name));
    while (next_line(&at, end, &line)) {
        if (begins(&line, "Slave Interface: ", &value)) {
            slave = ret->n_slaves < LACP_SLAVES_MAX ? &ret->slaves[ret->n_slaves++] : &left_out;
            of_partner = false;
            set_name(slave->name, value.at, value.len);
        } else if (slave) {
            take_slave_line(&line, &of_partner, slave);
        } else {
            take_bond_line(&line, ret);
        }
    }
}

const struct lacp_slave *bonding_slave(const struct lacp_bond *bond, const char *name)
{
    for (uint32_t i = 0; i < MIN(bond->n_slaves, (uint32_t)LACP_SLAVES_MAX); i++)
        if (strncmp(bond->slaves[i].name, name, LACP_NAME_LEN) == 0)
            return &bond->slaves[i];
    return NULL;
}

bool bonding_slave_differs(const struct lacp_slave *before, const struct lacp_slave *now)
{
    return before->mii != now->mii || before->failures != now->failures ||
           before->aggregator != now->aggregator || before->actor != now->actor ||
           before->partner != now->partner || before->actor_churned != now->actor_churned ||
           before->partner_churned != now->partner_churned ||
           (before->actor_churn == LACP_CHURNED) != (now->actor_churn == LACP_CHURNED) ||
           (before->partner_churn == LACP_CHURNED) != (now->partner_churn == LACP_CHURNED);
}

bool bonding_differs(const struct lacp_bond *before, const struct lacp_bond *now)
{
    if (before->mii != now->mii || before->aggregator != now->aggregator ||
        before->ports != now->ports || before->n_slaves != now->n_slaves ||
        memcmp(before->partner_mac, now->partner_mac, sizeof(now->partner_mac)) != 0)
        return true;
    for (uint32_t i = 0; i < now->n_slaves; i++) {
        const struct lacp_slave *slave = bonding_slave(before, now->slaves[i].name);

        if (!slave || bonding_slave_differs(slave, &now->slaves[i]))
            return true;
    }
    return false;
}

bool bonding_carries(const struct lacp_bond *bond, const struct lacp_slave *slave)
{
    const uint8_t needed = LACP_SYNCHRONIZATION | LACP_COLLECTING | LACP_DISTRIBUTING;

    if (slave->mii != LACP_MII_UP || !slave->aggregator)
        return false;
    if (bond->aggregator && slave->aggregator != bond->aggregator)
        return false;
    return !slave->has_states ||
           ((slave->actor & needed) == needed && (slave->partner & needed) == needed &&
            !((slave->actor | slave->partner) & (LACP_EXPIRED | LACP_DEFAULTED)));
}

unsigned bonding_n_carrying(const struct lacp_bond *bond)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < MIN(bond->n_slaves, (uint32_t)LACP_SLAVES_MAX); i++)
        n += bonding_carries(bond, &bond->slaves[i]);
    return n;
}
