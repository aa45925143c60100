// SPDX-License-Identifier: Apache-2.0

#include "events/lacp/lacp.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/event.h"
#include "core/text.h"
#include "events/lacp/bonding.h"
#include "events/lacp/find.h"
#include "lacp.skel.h"

static const struct option option_table[] = {
    EVENT_OPTIONS(struct lacp_options, "512KiB", "1024"),
    {
        .key = "exclude",
        .type = OPTION_LIST,
        .offset = offsetof(struct lacp_options, exclude),
        .fallback = "",
        .help = "Bonds with such names are not recorded; `*`, `?` and `[...]` stand for any "
                "characters, one, and one of these.",
    },
    {
        .key = "other_namespaces",
        .type = OPTION_BOOL,
        .offset = offsetof(struct lacp_options, other_namespaces),
        .fallback = "true",
        .help = "Also watch bonds in the network namespaces of other processes.",
    },
    {},
};

static const struct hook hooks[] = {
    {
        .name = "bonds",
        .watches = "what is negotiated for bonds in mode 802.3ad",
        .ways =
            {
                {.name = LACP_WAY_NETLINK,
                 .programs = (const char *const[]){"take_found", NULL},
                 .source = &lacp_source},
                {.name = LACP_WAY_PROC,
                 .programs = (const char *const[]){"take_found", NULL},
                 .source = &lacp_source},
            },
    },
    {},
};

static const char *lacp_rule_name(const void *options, unsigned index)
{
    const struct lacp_options *o = options;

    if (index >= LACP_RULE_NR)
        return NULL;
    return index == LACP_RULE_EXCLUDE && o->exclude.n ? "exclude" : "";
}

/* --- what has changed */

static const char *const bit_names[] = {
    "LACP_ACTIVITY", "TIMEOUT",      "AGGREGATION", "SYNCHRONIZATION",
    "COLLECTING",    "DISTRIBUTING", "DEFAULTED",   "EXPIRED",
};
static const char *const mii_names[] = {"unknown", "up", "going down", "down", "going back"};
static const char *const churn_names[] = {"unknown", "none", "monitoring", "churned"};

static const char *one_of(const char *const *names, size_t n, uint8_t value)
{
    return names[value < n ? value : 0];
}
#define NAME_OF(names, value) one_of(names, ARRAY_SIZE(names), value)

static bool is_sane_bond(const struct lacp_bond *b)
{
    if (b->n_slaves > LACP_SLAVES_MAX || !*b->name || b->name[LACP_NAME_LEN - 1])
        return false;
    for (uint32_t i = 0; i < b->n_slaves; i++)
        if (b->slaves[i].name[LACP_NAME_LEN - 1])
            return false;
    return true;
}

static bool is_sane(const struct lacp_wire *w)
{
    return w->start <= 1 && w->gone <= 1 && w->elsewhere <= 1 && w->cut <= 1 &&
           !(w->start && w->gone) && w->content_bytes <= LACP_CONTENT_MAX &&
           is_sane_bond(&w->before) && is_sane_bond(&w->now);
}

/** An element of `differences`, still open. `slave` NULL: of the bond itself. */
static void open_change(struct record *r, const char *slave, const char *what)
{
    record_open(r, NULL);
    if (slave)
        record_str(r, "slave", slave, LACP_NAME_LEN);
    record_str(r, "what", what, SIZE_MAX);
}

static void text_change(struct record *r, const char *slave, const char *what, const char *before,
                        const char *now)
{
    open_change(r, slave, what);
    record_str(r, "before", before, SIZE_MAX);
    record_str(r, "now", now, SIZE_MAX);
    record_close(r);
}

static void number_change(struct record *r, const char *slave, const char *what, uint32_t before,
                          uint32_t now)
{
    if (before == now)
        return;
    open_change(r, slave, what);
    record_strf(r, "before", "%u", before);
    record_strf(r, "now", "%u", now);
    record_close(r);
}

static void name_change(struct record *r, const char *slave, const char *what, const char *before,
                        const char *now)
{
    if (before != now)
        text_change(r, slave, what, before, now);
}

static void write_bits(struct record *r, uint8_t bits)
{
    for (size_t i = 0; i < ARRAY_SIZE(bit_names); i++)
        if (bits & 1U << i)
            record_str(r, NULL, bit_names[i], SIZE_MAX);
}

static void state_change(struct record *r, const char *slave, const char *what, uint8_t before,
                         uint8_t now)
{
    if (before == now)
        return;
    open_change(r, slave, what);
    record_strf(r, "before", "%u", before);
    record_strf(r, "now", "%u", now);
    record_list(r, "lost");
    write_bits(r, before & (uint8_t)~now);
    record_close(r);
    record_list(r, "gained");
    write_bits(r, now & (uint8_t)~before);
    record_close(r);
    record_close(r);
}

static void slave_changes(struct record *r, const struct lacp_slave *before,
                          const struct lacp_slave *now)
{
    name_change(r, now->name, "mii_status", NAME_OF(mii_names, before->mii),
                NAME_OF(mii_names, now->mii));
    state_change(r, now->name, "actor_state", before->actor, now->actor);
    state_change(r, now->name, "partner_state", before->partner, now->partner);
    number_change(r, now->name, "aggregator", before->aggregator, now->aggregator);
    name_change(r, now->name, "actor_churn_state", NAME_OF(churn_names, before->actor_churn),
                NAME_OF(churn_names, now->actor_churn));
    name_change(r, now->name, "partner_churn_state", NAME_OF(churn_names, before->partner_churn),
                NAME_OF(churn_names, now->partner_churn));
    number_change(r, now->name, "actor_churned_count", before->actor_churned, now->actor_churned);
    number_change(r, now->name, "partner_churned_count", before->partner_churned,
                  now->partner_churned);
    number_change(r, now->name, "link_failure_count", before->failures, now->failures);
}

#define MAC_TEXT_MAX 18

static const char *mac_text(const uint8_t m[6], char ret[MAC_TEXT_MAX])
{
    snprintf(ret, MAC_TEXT_MAX, "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4],
             m[5]);
    return ret;
}

static void bond_changes(struct record *r, const struct lacp_bond *before,
                         const struct lacp_bond *now)
{
    char one[MAC_TEXT_MAX], other[MAC_TEXT_MAX];

    name_change(r, NULL, "mii_status", NAME_OF(mii_names, before->mii),
                NAME_OF(mii_names, now->mii));
    number_change(r, NULL, "aggregator", before->aggregator, now->aggregator);
    number_change(r, NULL, "ports", before->ports, now->ports);
    if (memcmp(before->partner_mac, now->partner_mac, sizeof(now->partner_mac)) != 0)
        text_change(r, NULL, "partner_mac", mac_text(before->partner_mac, one),
                    mac_text(now->partner_mac, other));
}

static void write_changes(const struct lacp_wire *w, struct record *r)
{
    const struct lacp_bond *before = &w->before, *now = &w->now;

    record_list(r, "differences");
    if (w->gone) {
        open_change(r, NULL, "removed");
        record_close(r);
    } else {
        bond_changes(r, before, now);
    }
    for (uint32_t i = 0; i < before->n_slaves && !w->gone; i++)
        if (!bonding_slave(now, before->slaves[i].name)) {
            open_change(r, before->slaves[i].name, "removed");
            record_close(r);
        }
    for (uint32_t i = 0; i < now->n_slaves && !w->gone; i++) {
        const struct lacp_slave *slave = bonding_slave(before, now->slaves[i].name);

        if (slave) {
            slave_changes(r, slave, &now->slaves[i]);
            continue;
        }
        open_change(r, now->slaves[i].name, "added");
        record_close(r);
    }
    record_close(r);
}

/* --- the sentence */

/** Why it carries nothing, as far as its state tells. */
static const char *why_not(const struct lacp_bond *b, const struct lacp_slave *s)
{
    if (s->mii != LACP_MII_UP)
        return "its link is not up";
    if (s->actor & LACP_DEFAULTED)
        return "its partner says nothing (DEFAULTED)";
    if (s->actor & LACP_EXPIRED)
        return "its partner was not heard in time (EXPIRED)";
    if (b->aggregator && s->aggregator != b->aggregator)
        return "it is in another aggregator than the active one";
    if (!(s->partner & LACP_SYNCHRONIZATION))
        return "its partner does not take it into the aggregate";
    return "it is being negotiated";
}

static void say(struct text *t, const char *slave, const char *what, const char *why)
{
    text_addf(t, "%s%.*s %s%s%s", t->len ? "; " : "", LACP_NAME_LEN, slave, what, why ? ": " : "",
              why ? why : "");
}

/** Slaves that carry no more, that carry again, that still do not; the others are fine. */
static void say_slaves(const struct lacp_wire *w, struct text *t)
{
    for (uint32_t i = 0; i < w->before.n_slaves; i++)
        if (!bonding_slave(&w->now, w->before.slaves[i].name))
            say(t, w->before.slaves[i].name, "was taken out", NULL);
    for (uint32_t i = 0; i < w->now.n_slaves; i++) {
        const struct lacp_slave *now = &w->now.slaves[i];
        const struct lacp_slave *before = w->start ? NULL : bonding_slave(&w->before, now->name);
        bool carried = before && bonding_carries(&w->before, before);
        bool carries = bonding_carries(&w->now, now);

        if (carried && !carries)
            say(t, now->name, "carries nothing any more", why_not(&w->now, now));
        else if (!carried && carries && !w->start)
            say(t, now->name, before ? "carries again" : "was put in, and carries", NULL);
        else if (!carries)
            say(t, now->name, before ? "still carries nothing" : "carries nothing",
                why_not(&w->now, now));
        else if (before && bonding_slave_differs(before, now))
            say(t, now->name, "carries as before", NULL);
    }
}

static const char *direction_of(const struct lacp_wire *w)
{
    unsigned carried = bonding_n_carrying(&w->before), carries = bonding_n_carrying(&w->now);

    if (w->gone)
        return "removed";
    if (w->start || carries < carried)
        return "bad";
    if (carries > carried)
        return "recovered";
    return carries < w->now.n_slaves ? "still bad" : "changed";
}

static int write_summary(const struct lacp_wire *w, struct record *r)
{
    struct text t = {};
    bool failed;

    if (w->gone) {
        record_summary(r, "%s: the bond was removed", w->before.name);
        return 0;
    }
    say_slaves(w, &t);
    failed = t.failed;
    if (!failed)
        record_summary(r, "%s: %s%s%u of %u slaves carry traffic%s", w->now.name,
                       t.len ? t.data : "", t.len ? "; " : "", bonding_n_carrying(&w->now),
                       w->now.n_slaves, w->start ? ", as the watching begins" : "");
    text_done(&t);
    return failed ? -ENOMEM : 0;
}

static int lacp_decode(const struct decode *d, const void *raw, struct record *r)
{
    const struct lacp_wire *w = raw;
    char mac[MAC_TEXT_MAX];

    (void)d;
    if (!is_sane(w))
        return -EBADMSG;
    record_str(r, "content", w->content, w->content_bytes);
    record_str(r, "bond", w->now.name, sizeof(w->now.name));
    record_str(r, "direction", direction_of(w), SIZE_MAX);
    record_bool(r, "start", w->start);
    write_changes(w, r);
    record_u64(r, "slaves", w->now.n_slaves);
    record_u64(r, "slaves_carrying", bonding_n_carrying(&w->now));
    record_u64(r, "slaves_carrying_before", bonding_n_carrying(&w->before));
    if (w->now.aggregator) {
        record_u64(r, "aggregator", w->now.aggregator);
        record_str(r, "partner_mac", mac_text(w->now.partner_mac, mac), sizeof(mac));
    }
    record_u64(r, "netns", w->netns);
    record_bool(r, "other_namespace", w->elsewhere);
    if (w->cut)
        record_bool(r, "content_cut", true);
    return write_summary(w, r);
}

const struct event event_lacp = {
    .name = "lacp",
    .tracer_name = "lacp",
    .is_case = true,
    .summary = "What is negotiated for a bond in mode 802.3ad goes bad, or recovers.",
    .options = option_table,
    .options_size = sizeof(struct lacp_options),
    .object = lacp_bpf__elf_bytes,
    .hooks = hooks,
    .wire_size = sizeof(struct lacp_wire),
    .wire_least = LACP_WIRE_LEAST,
    .rule_name = lacp_rule_name,
    .decode = lacp_decode,
    /* Nothing provokes one harmlessly: it takes a bond, and loads a driver where there is none. */
};
