// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/event.h"
#include "core/test_record.h"
#include "events/lacp/bonding.h"
#include "events/lacp/find.h"
#include "events/lacp/lacp.h"
#include "kernel/kernel.h"

static const struct event *lacp;

static int set_up(void **state)
{
    (void)state;
    lacp = event_find("lacp");
    return lacp ? 0 : -1;
}

/** xorshift: the same bytes each time. */
static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* --- the text: the sample of the record format, eth1's link has flapped */

static const char sample[] = "Ethernet Channel Bonding Driver: v4.18.0 (Apr 7, 2025)\n"
                             "\n"
                             "Bonding Mode: IEEE 802.3ad Dynamic link aggregation\n"
                             "Transmit Hash Policy: layer3+4 (1)\n"
                             "MII Status: up\n"
                             "MII Polling Interval (ms): 100\n"
                             "Up Delay (ms): 0\n"
                             "Down Delay (ms): 0\n"
                             "Peer Notification Delay (ms): 1000\n"
                             "\n"
                             "802.3ad info\n"
                             "LACP rate: fast\n"
                             "Min links: 0\n"
                             "Aggregator selection policy (ad_select): stable\n"
                             "System priority: 65535\n"
                             "System MAC address: 5c:6f:69:34:dc:72\n"
                             "Active Aggregator Info:\n"
                             "\tAggregator ID: 1\n"
                             "\tNumber of ports: 2\n"
                             "\tActor Key: 21\n"
                             "\tPartner Key: 50013\n"
                             "\tPartner Mac Address: 00:00:5e:00:01:01\n"
                             "\n"
                             "Slave Interface: eth0\n"
                             "MII Status: up\n"
                             "Speed: 25000 Mbps\n"
                             "Duplex: full\n"
                             "Link Failure Count: 0\n"
                             "Permanent HW addr: 5c:6f:69:34:dc:72\n"
                             "Slave queue ID: 0\n"
                             "Slave active: 1\n"
                             "Slave sm_vars: 0x172\n"
                             "Aggregator ID: 1\n"
                             "Aggregator active: 1\n"
                             "Actor Churn State: none\n"
                             "Partner Churn State: none\n"
                             "Actor Churned Count: 0\n"
                             "Partner Churned Count: 0\n"
                             "details actor lacp pdu:\n"
                             "    system priority: 65535\n"
                             "    system mac address: 5c:6f:69:34:dc:72\n"
                             "    port key: 21\n"
                             "    port priority: 255\n"
                             "    port number: 1\n"
                             "    port state: 63\n"
                             "details partner lacp pdu:\n"
                             "    system priority: 200\n"
                             "    system mac address: 00:00:5e:00:01:01\n"
                             "    oper key: 50013\n"
                             "    port priority: 32768\n"
                             "    port number: 16397\n"
                             "    port state: 63\n"
                             "\n"
                             "Slave Interface: eth1\n"
                             "MII Status: up\n"
                             "Speed: 25000 Mbps\n"
                             "Duplex: full\n"
                             "Link Failure Count: 17\n"
                             "Permanent HW addr: 5c:6f:69:34:dc:73\n"
                             "Slave queue ID: 0\n"
                             "Slave active: 0\n"
                             "Slave sm_vars: 0x172\n"
                             "Aggregator ID: 1\n"
                             "Aggregator active: 1\n"
                             "Actor Churn State: monitoring\n"
                             "Partner Churn State: monitoring\n"
                             "Actor Churned Count: 2\n"
                             "Partner Churned Count: 2\n"
                             "details actor lacp pdu:\n"
                             "    system priority: 65535\n"
                             "    system mac address: 5c:6f:69:34:dc:72\n"
                             "    port key: 21\n"
                             "    port priority: 255\n"
                             "    port number: 2\n"
                             "    port state: 15\n"
                             "details partner lacp pdu:\n"
                             "    system priority: 200\n"
                             "    system mac address: 00:00:5e:00:01:01\n"
                             "    oper key: 50013\n"
                             "    port priority: 32768\n"
                             "    port number: 32781\n"
                             "    port state: 31\n";

static void parse(const char *text, struct lacp_bond *ret)
{
    bonding_parse("bond4", text, strlen(text), ret);
}

static void test_parse(void **state)
{
    struct lacp_bond b;
    const struct lacp_slave *s = &b.slaves[1];
    static const uint8_t mac[] = {0, 0, 0x5e, 0, 1, 1};

    (void)state;
    parse(sample, &b);
    assert_string_equal(b.name, "bond4");
    assert_true(b.is_lacp);
    assert_int_equal(b.mii, LACP_MII_UP);
    assert_int_equal(b.aggregator, 1);
    assert_int_equal(b.ports, 2);
    assert_memory_equal(b.partner_mac, mac, 6);
    assert_int_equal(b.n_slaves, 2);
    assert_string_equal(b.slaves[0].name, "eth0");
    assert_int_equal(b.slaves[0].actor, 63);
    assert_int_equal(b.slaves[0].partner, 63);
    assert_int_equal(b.slaves[0].actor_churn, LACP_CHURN_NONE);
    assert_string_equal(s->name, "eth1");
    assert_int_equal(s->mii, LACP_MII_UP);
    assert_int_equal(s->failures, 17);
    assert_int_equal(s->aggregator, 1);
    assert_int_equal(s->actor, 15);
    assert_int_equal(s->partner, 31);
    assert_int_equal(s->actor_churn, LACP_CHURN_MONITORING);
    assert_int_equal(s->partner_churned, 2);
    assert_true(s->has_states);
    assert_int_equal(bonding_n_carrying(&b), 1);
    assert_true(bonding_carries(&b, &b.slaves[0]));
}

static void test_parse_others(void **state)
{
    struct lacp_bond b;
    struct text {
        char bytes[65536];
    } *many = calloc(1, sizeof(*many));

    (void)state;
    assert_non_null(many);
    parse("Bonding Mode: load balancing (round-robin)\nMII Status: down\n", &b);
    assert_false(b.is_lacp);
    assert_int_equal(b.mii, LACP_MII_DOWN);
    parse("", &b);
    assert_int_equal(b.n_slaves, 0);
    parse("Slave Interface: a\nAggregator ID: N/A\nLink Failure Count: 99999999999999999999\nMII "
          "Status: what\nSlave Interface: 01234567890123456789\n",
          &b);
    assert_int_equal(b.n_slaves, 2);
    assert_int_equal(b.slaves[0].aggregator, 0);
    assert_int_equal(b.slaves[0].failures, 0);
    assert_int_equal(b.slaves[0].mii, LACP_MII_UNKNOWN);
    assert_string_equal(b.slaves[1].name, "012345678901234");
    /* What the kernel shows to those who may not know all. */
    parse("Bonding Mode: IEEE 802.3ad Dynamic link aggregation\nSlave Interface: a\nMII Status: "
          "up\nAggregator ID: 3\n",
          &b);
    assert_false(b.slaves[0].has_states);
    assert_int_equal(bonding_n_carrying(&b), 1);
    /* More than fit: those that do, and nothing is written behind them. */
    for (unsigned i = 0; i < 2 * LACP_SLAVES_MAX; i++) {
        char line[64];

        snprintf(line, sizeof(line), "Slave Interface: e%u\n    port state: 63\n", i);
        strcat(many->bytes, line);
    }
    parse(many->bytes, &b);
    assert_int_equal(b.n_slaves, LACP_SLAVES_MAX);
    assert_string_equal(b.slaves[LACP_SLAVES_MAX - 1].name, "e31");
    free(many);
}

static void test_parse_any_bytes(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (unsigned n = 0; n < 20000; n++) {
        size_t size = next_random(&seed) % sizeof(sample);
        _free_ char *text = malloc(MAX(size, (size_t)1)); /* what is read beyond is found */
        struct lacp_bond b;

        assert_non_null(text);
        memcpy(text, sample, size);
        for (unsigned changes = next_random(&seed) % 30; size && changes > 0; changes--)
            text[next_random(&seed) % size] = (char)next_random(&seed);
        bonding_parse("bond0", text, size, &b);
        assert_true(b.n_slaves <= LACP_SLAVES_MAX);
        for (uint32_t i = 0; i < b.n_slaves; i++)
            assert_int_equal(b.slaves[i].name[LACP_NAME_LEN - 1], 0);
    }
}

static void test_differs(void **state)
{
    struct lacp_bond before, now;

    (void)state;
    parse(sample, &before);
#define EXPECT(expected, ...)                                                                      \
    do {                                                                                           \
        now = before;                                                                              \
        __VA_ARGS__;                                                                               \
        assert_int_equal(bonding_differs(&before, &now), expected);                                \
        assert_int_equal(bonding_differs(&now, &before), expected);                                \
    } while (0)
    EXPECT(false, (void)now);
    EXPECT(true, now.mii = LACP_MII_DOWN);
    EXPECT(true, now.aggregator = 2);
    EXPECT(true, now.ports = 1);
    EXPECT(true, now.partner_mac[5] = 9);
    EXPECT(true, now.n_slaves = 1);
    EXPECT(true, strcpy(now.slaves[1].name, "eth7"));
    EXPECT(true, now.slaves[1].mii = LACP_MII_DOWN);
    EXPECT(true, now.slaves[1].failures++);
    EXPECT(true, now.slaves[1].aggregator++);
    EXPECT(true, now.slaves[1].actor ^= LACP_EXPIRED);
    EXPECT(true, now.slaves[1].partner ^= LACP_SYNCHRONIZATION);
    EXPECT(true, now.slaves[1].actor_churn = LACP_CHURNED);
    EXPECT(true, now.slaves[1].partner_churn = LACP_CHURNED);
    EXPECT(true, now.slaves[1].actor_churned++);
    /* The machine that looks for churn begins and ends its watch after each change. */
    EXPECT(false, now.slaves[1].actor_churn = LACP_CHURN_NONE);
    EXPECT(false, now.slaves[1].partner_churn = LACP_CHURN_NONE);
    /* Another order of the same slaves. */
    EXPECT(false, now.slaves[0] = before.slaves[1], now.slaves[1] = before.slaves[0]);
#undef EXPECT
}

static void test_carries(void **state)
{
    struct lacp_bond b;
    struct lacp_slave *s = &b.slaves[0];

    (void)state;
#define REFUSED(...)                                                                               \
    parse(sample, &b);                                                                             \
    assert_true(bonding_carries(&b, s));                                                           \
    __VA_ARGS__;                                                                                   \
    assert_false(bonding_carries(&b, s))
    REFUSED(s->mii = LACP_MII_DOWN);
    REFUSED(s->mii = LACP_MII_GOING_BACK);
    REFUSED(s->aggregator = 2);
    REFUSED(s->aggregator = 0);
    REFUSED(s->actor = 15);
    REFUSED(s->partner = 15);
    REFUSED(s->partner = 31);
    REFUSED(s->actor = 63 | LACP_EXPIRED);
    REFUSED(s->actor = 63 | LACP_DEFAULTED);
#undef REFUSED
}

/* --- decode */

/** NULL: it was refused with `*ret`. */
static json_t *decode(const struct lacp_wire *w, int *ret)
{
    const struct kernel kernel = {};
    const struct decode d = {.kernel = &kernel};

    return decode_json(lacp, &d, w, 1, ret);
}

static json_t *decode_fine(const struct lacp_wire *w)
{
    int r;
    json_t *json = decode(w, &r);

    assert_int_equal(r, 0);
    return json;
}

static void expect_changes(const json_t *data, const char *expected)
{
    char *text = json_dumps(json_object_get(data, "differences"), JSON_COMPACT);

    assert_string_equal(text, expected);
    free(text);
}

/** Both carry, and then eth1 is as in the sample. */
static struct lacp_wire *some_wire(void)
{
    struct lacp_wire *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    parse(sample, &w->now);
    w->before = w->now;
    w->before.slaves[1].actor = w->before.slaves[1].partner = 63;
    w->before.slaves[1].failures = 16;
    w->netns = 4026531840;
    w->content_bytes =
        (uint32_t)snprintf(w->content, sizeof(w->content), "/proc/net/bonding/bond4\n%s", sample);
    return w;
}

static void test_decode(void **state)
{
    _free_ struct lacp_wire *w = some_wire();
    json_t *json = decode_fine(w), *data = json_object_get(json, "tracer_data");

    (void)state;
    expect_text(json, "tracer_name", "lacp");
    expect_text(data, "content", w->content);
    expect_text(data, "bond", "bond4");
    expect_text(data, "direction", "bad");
    assert_true(json_is_false(json_object_get(data, "start")));
    assert_true(json_is_false(json_object_get(data, "other_namespace")));
    expect_changes(
        data,
        "[{\"slave\":\"eth1\",\"what\":\"actor_state\",\"before\":\"63\",\"now\":\"15\","
        "\"lost\":[\"COLLECTING\",\"DISTRIBUTING\"],\"gained\":[]},"
        "{\"slave\":\"eth1\",\"what\":\"partner_state\",\"before\":\"63\",\"now\":\"31\","
        "\"lost\":[\"DISTRIBUTING\"],\"gained\":[]},"
        "{\"slave\":\"eth1\",\"what\":\"link_failure_count\",\"before\":\"16\",\"now\":\"17\"}]");
    expect_number(data, "slaves", 2);
    expect_number(data, "slaves_carrying", 1);
    expect_number(data, "slaves_carrying_before", 2);
    expect_number(data, "aggregator", 1);
    expect_text(data, "partner_mac", "00:00:5e:00:01:01");
    expect_number(data, "netns", 4026531840);
    assert_int_equal(json_object_size(data), 12);
    assert_null(json_object_get(json, "process"));
    expect_text(json, "summary",
                "bond4: eth1 carries nothing any more: it is being negotiated; 1 of 2 slaves carry "
                "traffic");
    json_decref(json);
}

/** What a silent partner looks like, step by step, and the way back. */
static void test_decode_steps(void **state)
{
    static const struct {
        uint8_t mii, actor, partner;
        uint32_t aggregator;
        const char *direction, *summary;
    } rows[] = {
        {LACP_MII_UP, 63, 63, 1, "changed", "2 of 2"},
        {LACP_MII_UP, 0x8f, 0x37, 1, "bad",
         "eth1 carries nothing any more: its partner was not heard in time (EXPIRED); 1 of 2"},
        {LACP_MII_UP, 71, 1, 2, "still bad",
         "eth1 still carries nothing: its partner says nothing (DEFAULTED); 1 of 2"},
        {LACP_MII_DOWN, 69, 1, 2, "still bad", "eth1 still carries nothing: its link is not up"},
        {LACP_MII_UP, 15, 7, 1, "still bad",
         "eth1 still carries nothing: its partner does not take it into the aggregate"},
        {LACP_MII_UP, 15, 63, 2, "still bad",
         "eth1 still carries nothing: it is in another aggregator than the active one"},
        {LACP_MII_UP, 63, 63, 1, "recovered", "eth1 carries again; 2 of 2"},
        {LACP_MII_UP, 61, 63, 1, "changed", "eth1 carries as before; 2 of 2"},
    };
    _free_ struct lacp_wire *w = some_wire();

    (void)state;
    w->now = w->before;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct lacp_slave *s = &w->now.slaves[1];
        json_t *json;

        w->before = w->now;
        s->mii = rows[i].mii;
        s->actor = rows[i].actor;
        s->partner = rows[i].partner;
        s->aggregator = rows[i].aggregator;
        json = decode_fine(w);
        expect_text(json_object_get(json, "tracer_data"), "direction", rows[i].direction);
        if (!strstr(json_string_value(json_object_get(json, "summary")), rows[i].summary))
            fail_msg("%s, not %s", json_string_value(json_object_get(json, "summary")),
                     rows[i].summary);
        json_decref(json);
    }
}

static void test_decode_slaves(void **state)
{
    _free_ struct lacp_wire *w = some_wire();
    json_t *json;

    (void)state;
    w->now = w->before;
    w->now.n_slaves = 1;
    w->now.ports = 1;
    json = decode_fine(w);
    expect_text(json_object_get(json, "tracer_data"), "direction", "bad");
    expect_changes(json_object_get(json, "tracer_data"),
                   "[{\"what\":\"ports\",\"before\":\"2\",\"now\":\"1\"},{\"slave\":\"eth1\","
                   "\"what\":\"removed\"}]");
    expect_text(json, "summary", "bond4: eth1 was taken out; 1 of 1 slaves carry traffic");
    json_decref(json);

    w->now.n_slaves = 2;
    w->before.n_slaves = 1;
    w->now.ports = 2;
    w->before.ports = 2;
    json = decode_fine(w);
    expect_text(json_object_get(json, "tracer_data"), "direction", "recovered");
    expect_changes(json_object_get(json, "tracer_data"),
                   "[{\"slave\":\"eth1\",\"what\":\"added\"}]");
    expect_text(json, "summary",
                "bond4: eth1 was put in, and carries; 2 of 2 slaves carry traffic");
    json_decref(json);

    memset(&w->now.slaves, 0, sizeof(w->now.slaves));
    w->now.n_slaves = 0;
    w->gone = 1;
    json = decode_fine(w);
    expect_text(json_object_get(json, "tracer_data"), "direction", "removed");
    expect_changes(json_object_get(json, "tracer_data"), "[{\"what\":\"removed\"}]");
    expect_text(json, "summary", "bond4: the bond was removed");
    json_decref(json);
}

static void test_decode_others(void **state)
{
    _free_ struct lacp_wire *w = some_wire();
    json_t *json, *data;

    (void)state;
    w->start = w->elsewhere = w->cut = 1;
    w->before = w->now;
    json = decode_fine(w);
    data = json_object_get(json, "tracer_data");
    expect_text(data, "direction", "bad");
    expect_changes(data, "[]");
    assert_true(json_is_true(json_object_get(data, "content_cut")));
    assert_true(json_is_true(json_object_get(data, "other_namespace")));
    expect_text(json, "summary",
                "bond4: eth1 carries nothing: it is being negotiated; 1 of 2 slaves carry traffic, "
                "as the watching begins");
    json_decref(json);

    w->start = 0;
    w->before.slaves[1].actor_churn = w->before.slaves[1].partner_churn = LACP_CHURNED;
    w->before.slaves[1].mii = LACP_MII_DOWN;
    w->before.slaves[1].actor_churned = 1;
    w->before.aggregator = 3;
    w->before.partner_mac[0] = 2;
    json = decode_fine(w);
    expect_changes(
        json_object_get(json, "tracer_data"),
        "[{\"what\":\"aggregator\",\"before\":\"3\",\"now\":\"1\"},{\"what\":\"partner_mac\","
        "\"before\":\"02:00:5e:00:01:01\",\"now\":\"00:00:5e:00:01:01\"},"
        "{\"slave\":\"eth1\",\"what\":\"mii_status\",\"before\":\"down\",\"now\":\"up\"},"
        "{\"slave\":\"eth1\",\"what\":\"actor_churn_state\",\"before\":\"churned\",\"now\":"
        "\"monitoring\"},"
        "{\"slave\":\"eth1\",\"what\":\"partner_churn_state\",\"before\":\"churned\",\"now\":"
        "\"monitoring\"},"
        "{\"slave\":\"eth1\",\"what\":\"actor_churned_count\",\"before\":\"1\",\"now\":\"2\"}]");
    json_decref(json);
}

static void test_decode_nonsense(void **state)
{
    int r;

    (void)state;
#define REFUSED(...)                                                                               \
    do {                                                                                           \
        _free_ struct lacp_wire *w = some_wire();                                                  \
        __VA_ARGS__;                                                                               \
        assert_null(decode(w, &r));                                                                \
        assert_int_equal(r, -EBADMSG);                                                             \
    } while (0)
    REFUSED(w->start = 2);
    REFUSED(w->gone = 2);
    REFUSED(w->elsewhere = 2);
    REFUSED(w->cut = 2);
    REFUSED(w->start = w->gone = 1);
    REFUSED(w->content_bytes = LACP_CONTENT_MAX + 1);
    REFUSED(w->now.n_slaves = LACP_SLAVES_MAX + 1);
    REFUSED(w->before.n_slaves = LACP_SLAVES_MAX + 1);
    REFUSED(w->now.name[0] = 0);
    REFUSED(memset(w->now.slaves[0].name, 'x', LACP_NAME_LEN));
#undef REFUSED
}

static void test_decode_any_bytes(void **state)
{
    uint64_t seed = 9;

    (void)state;
    for (unsigned n = 0; n < 3000; n++) {
        _free_ struct lacp_wire *w = some_wire();
        uint8_t *bytes = (void *)w;
        json_t *json;
        int r;

        for (unsigned changes = 40; changes > 0; changes--)
            bytes[next_random(&seed) % (LACP_WIRE_LEAST + 2000)] = (uint8_t)next_random(&seed);
        json = decode(w, &r); /* it is JSON, or refused */
        json_decref(json);
    }
}

static void test_rules(void **state)
{
    struct lacp_options o = {};

    (void)state;
    assert_string_equal(lacp->rule_name(&o, LACP_RULE_OWN), "");
    assert_string_equal(lacp->rule_name(&o, LACP_RULE_EXCLUDE), "");
    o.exclude.n = 1;
    assert_string_equal(lacp->rule_name(&o, LACP_RULE_EXCLUDE), "exclude");
    assert_null(lacp->rule_name(&o, LACP_RULE_NR));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_parse_others),
        cmocka_unit_test(test_parse_any_bytes),
        cmocka_unit_test(test_differs),
        cmocka_unit_test(test_carries),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_decode_steps),
        cmocka_unit_test(test_decode_slaves),
        cmocka_unit_test(test_decode_others),
        cmocka_unit_test(test_decode_nonsense),
        cmocka_unit_test(test_decode_any_bytes),
        cmocka_unit_test(test_rules),
    };

    return cmocka_run_group_tests_name("lacp", tests, set_up, NULL);
}
