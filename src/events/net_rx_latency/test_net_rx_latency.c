// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "core/doc.h"
#include "core/event.h"
#include "events/net_rx_latency/rules.h"
#include "events/net_rx_latency/stamp.h"
#include "kernel/kernel.h"

static const struct record_origin origin = {.hostname = "h", .region = "", .kernel_release = "k"};

static const struct event *kind(void)
{
    const struct event *event = event_find("net_rx_latency");

    assert_non_null(event);
    return event;
}

static struct kernel kernel;

static int set_up_kernel(void **state)
{
    int fd = memfd_create("kallsyms", MFD_CLOEXEC);

    (void)state;
    dprintf(fd, "ffffffff81000000 t handle_softirqs\nffffffff81001000 t __release_sock\n"
                "ffffffff81002000 t other\nffffffff81003000 T _etext\n");
    return symbols_new(fd, &kernel.symbols);
}

static int take_down_kernel(void **state)
{
    (void)state;
    symbols_free(kernel.symbols);
    return 0;
}

/* --- how old a stamp is */

#define S(n)  ((n)*1000000000LL)
#define MS(n) ((n)*1000000LL)

/** Clocks that were set; the machine is up since 0. */
static struct wire_clock clock_of(unsigned n, const struct wire_clock_step *steps)
{
    struct wire_clock clock = {.n = n};

    for (unsigned i = 0; i < n; i++)
        clock.steps[i % WIRE_CLOCK_STEPS] = steps[i];
    clock.offset_ns = steps[n - 1].offset_ns;
    return clock;
}

static __u64 age(const struct wire_clock *clock, __s64 now, __s64 stamp)
{
    return stamp_age(clock, (__u64)now, (__u64)stamp, 0, 0);
}

static void test_age(void **state)
{
    const struct wire_clock_step steps[] = {{.since_ns = S(100), .offset_ns = S(1000)}};
    const struct wire_clock clock = clock_of(1, steps), none = {};

    (void)state;
    assert_int_equal(age(&clock, S(200), S(1200)), 0);
    assert_int_equal(age(&clock, S(200), S(1200) - MS(7)), MS(7));
    assert_int_equal(age(&clock, S(200), S(1105)), S(95));
    /* the clock may be slewed a little since it was looked at last */
    assert_int_equal(age(&clock, S(200), S(1200) + MS(1)), 0);
    assert_int_equal(age(&clock, S(200), S(1200) + MS(11)), STAMP_UNKNOWN);
    /* of before the start nobody knows what the clock was */
    assert_int_equal(age(&clock, S(200), S(1000)), STAMP_UNKNOWN);
    assert_int_equal(age(&clock, S(200), 1), STAMP_UNKNOWN);
    assert_int_equal(age(&clock, S(200), INT64_MAX), STAMP_UNKNOWN);
    assert_int_equal(age(&clock, S(200), -1), STAMP_UNKNOWN);
    assert_int_equal(age(&none, S(200), S(1200)), STAMP_UNKNOWN);
}

/** What is just now is not looked at a second time, on whichever side of now it lies. */
static void test_first_look(void **state)
{
    const __s64 offset = S(1000);

    (void)state;
    assert_false(stamp_may_be_late(S(1200), offset, S(200), MS(5)));
    assert_false(stamp_may_be_late(S(1200) - MS(4), offset, S(200), MS(5)));
    assert_true(stamp_may_be_late(S(1200) - MS(5), offset, S(200), MS(5)));
    assert_false(stamp_may_be_late(S(1200) + MS(1), offset, S(200), MS(5)));
    assert_false(stamp_may_be_late(S(1200) + MS(9), offset, S(200), MS(5)));
    /* somebody has set the clock forwards */
    assert_true(stamp_may_be_late(S(1200) + MS(11), offset, S(200), MS(5)));
    assert_true(stamp_may_be_late(S(1260), offset, S(200), MS(5)));
    /* or back */
    assert_true(stamp_may_be_late(S(1140), offset, S(200), MS(5)));
}

/** The clock was set at 150 s, as the agent knows. */
static void test_age_after_step(void **state)
{
    static const __s64 by[] = {S(3600), -S(3600), S(10), -S(10), S(400000000), -S(900)};

    (void)state;
    for (size_t i = 0; i < sizeof(by) / sizeof(*by); i++) {
        const struct wire_clock_step steps[] = {
            {.since_ns = S(100), .offset_ns = S(1000)},
            {.since_ns = S(150), .offset_ns = S(1000) + by[i]},
        };
        const struct wire_clock clock = clock_of(2, steps);

        /* stamped after it */
        assert_int_equal(age(&clock, S(155), S(1155) + by[i]), 0);
        assert_int_equal(age(&clock, S(155), S(1155) + by[i] - MS(20)), MS(20));
        /* stamped before, read after: what waits is neither older nor younger for it */
        assert_int_equal(age(&clock, S(152), S(1149)), S(3));
        assert_int_equal(age(&clock, S(155), S(1130)), S(25));
    }
}

/** Nobody has told of the step yet: it was just now. */
static void test_age_during_step(void **state)
{
    static const __s64 by[] = {S(3600), -S(3600), MS(50), -MS(50), -S(1), S(1)};
    const struct wire_clock_step steps[] = {{.since_ns = S(100), .offset_ns = S(1000)}};
    const struct wire_clock clock = clock_of(1, steps);

    (void)state;
    for (size_t i = 0; i < sizeof(by) / sizeof(*by); i++) {
        const __s64 now = S(200), live = S(1000) + by[i];

        /* stamped by the new clock, just now: no age is invented */
        assert_int_equal(stamp_age(&clock, (__u64)now, (__u64)(now + live), 1, live), 0);
        /* stamped by the old clock, just now */
        assert_int_equal(stamp_age(&clock, (__u64)now, (__u64)(now + S(1000)), 1, live), 0);
        /* late by an old stamp, or by a new one: never more than it is */
        assert_true(stamp_age(&clock, (__u64)now, (__u64)(now + S(999)), 1, live) <= S(1));
        assert_true(stamp_age(&clock, (__u64)now, (__u64)(now + live - S(1)), 1, live) <= S(1));
    }
    /* without the live distance, what was set back looks old: this is what it is for */
    assert_int_equal(age(&clock, S(200), S(1200) - S(30)), S(30));
    assert_int_equal(stamp_age(&clock, S(200), S(1200) - S(30), 1, S(970)), 0);
}

/** More steps than are remembered: what is older than those is not believed. */
static void test_age_many_steps(void **state)
{
    struct wire_clock_step steps[12];
    struct wire_clock clock;

    (void)state;
    for (int i = 0; i < 12; i++)
        steps[i] = (struct wire_clock_step){.since_ns = (__u64)S(100 + 10 * i),
                                            .offset_ns = S(1000) * (i + 1)};
    clock = clock_of(12, steps);
    for (int i = 12 - WIRE_CLOCK_STEPS; i < 12; i++)
        assert_int_equal(age(&clock, S(230), S(105 + 10 * i) + S(1000) * (i + 1)), S(125 - 10 * i));
    assert_int_equal(age(&clock, S(230), S(105) + S(1000)), STAMP_UNKNOWN);
}

/* --- records */

static void set_v4(__u8 *addr, const char *last_four)
{
    memset(addr, 0, 16);
    addr[10] = addr[11] = 0xff;
    memcpy(addr + 12, last_four, 4);
}

static struct net_rx_latency_wire sample(unsigned where)
{
    struct net_rx_latency_wire w = {
        .head = {.pid = 2921092, .tid = 2921093, .cpu = 3, .comm = "nginx"},
        .packet = {.sport = 9213,
                   .dport = 49000,
                   .protocol = IPPROTO_TCP,
                   .family = AF_INET,
                   .state = 1,
                   .seq = 1009085774,
                   .ack_seq = 689410995,
                   .pkt_len = 26064,
                   .payload_len = 26012,
                   .netns = 4026531840,
                   .ifindex = 2,
                   .iif = 2,
                   .device = "eth0",
                   .tcp_flags = 16},
        .latency_ns = (__u64)MS(95973) + 5,
        .threshold_ns = (__u64)MS(115),
        .where = (__u8)where,
        .since = RX_SINCE_RECEIVED,
    };

    set_v4(w.packet.saddr, "\x0a\x9c\xf8\x4c");
    set_v4(w.packet.daddr, "\x0a\x86\x48\x04");
    return w;
}

/** The whole record; the caller's. */
static json_t *decode(const struct net_rx_latency_wire *raw)
{
    const struct decode d = {.kernel = &kernel};
    _cleanup_(record_freep) struct record *r = NULL;
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    json_t *json;

    assert_int_equal(record_new(&origin, kind(), 0, NS_PER_SEC, &r), 0);
    assert_int_equal(kind()->decode(&d, raw, r), 0);
    assert_int_equal(record_finish(r, NS_PER_SEC, &doc), 0);
    json = json_loads(doc->json, 0, NULL);
    assert_non_null(json);
    return json;
}

static void expect(json_t *json, const char *fields)
{
    json_t *expected = json_loads(fields, 0, NULL), *data = json_object_get(json, "tracer_data");
    const char *name;
    json_t *value;

    assert_non_null(expected);
    json_object_foreach(expected, name, value)
    {
        if (!json_equal(value, json_object_get(data, name)))
            fail_msg("%s is %s", name, json_dumps(json_object_get(data, name), JSON_ENCODE_ANY));
    }
    json_decref(expected);
}

static void expect_summary(json_t *json, const char *summary)
{
    assert_string_equal(json_string_value(json_object_get(json, "summary")), summary);
}

/** As in the spec's sample; and ours. */
static void test_record(void **state)
{
    static const char *const order[] = {"comm",  "pid",   "where",   "latency_ms",
                                        "state", "saddr", "daddr",   "sport",
                                        "dport", "seq",   "ack_seq", "pkt_len"};
    struct net_rx_latency_wire w = sample(RX_TO_USER_COPY);
    json_t *json;
    size_t i = 0;
    const char *name;
    json_t *value;

    (void)state;
    w.reader_known = 1;
    w.ran_ns = (__u64)MS(1);
    w.ran_share = 11;
    w.runnable_share = 52;
    json = decode(&w);
    json_object_foreach(json_object_get(json, "tracer_data"), name, value)
    {
        if (i < ARRAY_SIZE(order))
            assert_string_equal(name, order[i++]);
    }
    expect(json,
           "{\"comm\": \"nginx\", \"pid\": 2921092, \"where\": \"TO_USER_COPY\", \"latency_ms\": "
           "95973, \"state\": \"ESTABLISHED\", \"saddr\": \"10.156.248.76\", \"daddr\": "
           "\"10.134.72.4\", \"sport\": 9213, \"dport\": 49000, \"seq\": 1009085774, \"ack_seq\": "
           "689410995, \"pkt_len\": 26064, \"latency_ns\": 95973000005, \"threshold_ns\": "
           "115000000, \"since\": \"received\", \"before_woken_ns\": 0, \"before_ran_ns\": "
           "95972000005, \"reader_ran_percent\": 1, \"reader_waited_percent\": 4, \"most_in\": "
           "\"reader_asleep\", \"direction\": \"rx\", \"device\": \"eth0\", "
           "\"netns\": 4026531840, \"family\": \"ipv4\", \"protocol\": \"tcp\", \"payload_len\": "
           "26012, \"tid\": 2921093, \"cpu\": 3, \"process_role\": \"reader\"}");
    expect_summary(json, "nginx[2921092] read tcp data from 10.156.248.76:9213 to "
                         "10.134.72.4:49000 95973.0 ms after it was received by this host, most of "
                         "it in the socket's queue, while the reader slept or was stopped");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "process"), "pid")),
                     2921092);
    json_decref(json);
}

static void test_record_stages(void **state)
{
    struct net_rx_latency_wire w = sample(RX_TO_NETIF_RCV);
    json_t *json;

    (void)state;
    w.since = RX_SINCE_SENT;
    json = decode(&w);
    expect(json, "{\"where\": \"TO_NETIF_RCV\", \"since\": \"sent\", \"process_role\": "
                 "\"unknown\"}");
    expect_summary(json, "tcp packet from 10.156.248.76:9213 to 10.134.72.4:49000 came to the "
                         "network stack 95973.0 ms after this host had sent it to itself, device "
                         "eth0");
    /* whoever was interrupted has no part in it */
    assert_null(json_object_get(json, "process"));
    assert_null(json_object_get(json_object_get(json, "tracer_data"), "most_in"));
    json_decref(json);

    w.where = RX_TO_TCPV4_RCV;
    w.since = RX_SINCE_RECEIVED;
    w.packet.family = AF_INET6; /* of TCP over IPv6 it is the same name */
    *w.packet.device = '\0';
    json = decode(&w);
    expect(json, "{\"where\": \"TO_TCPV4_RCV\", \"family\": \"ipv6\"}");
    expect_summary(json, "tcp packet from 10.156.248.76:9213 to 10.134.72.4:49000 came to its TCP "
                         "connection 95973.0 ms after it was received by this host");
    json_decref(json);

    w.where = RX_TO_USER_COPY;
    w.since = RX_SINCE_SEGMENT;
    w.packet.iif = w.packet.ifindex = 0;
    w.packet.socket = PACKET_SOCKET_READ;
    json = decode(&w);
    expect(json, "{\"since\": \"last_segment\", \"direction\": \"rx\", \"socket\": \"read\", "
                 "\"most_in\": \"socket\"}");
    assert_null(json_object_get(json_object_get(json, "tracer_data"), "before_ran_ns"));
    json_decref(json);
}

/** On whose behalf it was met, as the stack says. */
static void test_role(void **state)
{
    static const struct {
        __u64 frame;
        const char *role;
    } rows[] = {
        {0xffffffff81000010, "interrupted"},
        {0xffffffff81001010, "user_of_socket"},
        {0xffffffff81002010, "unknown"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct net_rx_latency_wire w = sample(RX_TO_TCPV4_RCV);
        char fields[64];
        json_t *json;

        w.head.stack[0] = 0xffffffff81002020;
        w.head.stack[1] = rows[i].frame;
        w.head.stack_bytes = 16;
        json = decode(&w);
        snprintf(fields, sizeof(fields), "{\"process_role\": \"%s\"}", rows[i].role);
        expect(json, fields);
        json_decref(json);
    }
}

/** Whose part is the largest; what makes no sense is cut to what does. */
static void test_split(void **state)
{
    static const struct {
        __u64 latency_ms, delivered_ms, ran_ms;
        unsigned ran, runnable;
        const char *most_in;
        __u64 woken_ms, before_ran_ms;
        unsigned ran_percent, waited_percent;
    } rows[] = {
        {200, 0, 0, 0, 0, "reader_asleep", 0, 200, 0, 0},
        {200, 150, 1, 1024, 1024, "stack", 150, 199, 100, 0},
        {200, 20, 170, 1024, 1024, "reader_runs", 20, 30, 100, 0},
        {200, 20, 30, 512, 1024, "reader_runs", 20, 170, 50, 50},
        {200, 20, 30, 102, 1024, "reader_waits_for_cpu", 20, 170, 9, 91},
        {200, 20, 30, 410, 410, "reader_asleep", 20, 170, 40, 0},
        {200, 0, 9000, 2000, 100, "reader_runs", 0, 0, 100, 0},
        {200, 900, 0, 0, 65535, "stack", 200, 200, 0, 100},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct net_rx_latency_wire w = sample(RX_TO_USER_COPY);
        char fields[256];
        json_t *json;

        w.latency_ns = rows[i].latency_ms * NS_PER_MS;
        w.delivered_ns = rows[i].delivered_ms * NS_PER_MS;
        w.ran_ns = rows[i].ran_ms * NS_PER_MS;
        w.ran_share = (__u16)rows[i].ran;
        w.runnable_share = (__u16)rows[i].runnable;
        w.reader_known = 1;
        json = decode(&w);
        snprintf(fields, sizeof(fields),
                 "{\"most_in\": \"%s\", \"before_woken_ns\": %llu, \"before_ran_ns\": %llu, "
                 "\"reader_ran_percent\": %u, \"reader_waited_percent\": %u}",
                 rows[i].most_in, rows[i].woken_ms * NS_PER_MS, rows[i].before_ran_ms * NS_PER_MS,
                 rows[i].ran_percent, rows[i].waited_percent);
        expect(json, fields);
        json_decref(json);
    }
}

static void test_nonsense(void **state)
{
    const struct decode d = {.kernel = &kernel};

    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        struct net_rx_latency_wire w = sample(RX_TO_USER_COPY);
        _cleanup_(record_freep) struct record *r = NULL;

        switch (i) {
        case 0:
            w.where = RX_WHERE_NR;
            break;
        case 1:
            w.since = RX_SINCE_NR;
            break;
        case 2:
            w.packet.protocol = IPPROTO_ICMP;
            break;
        case 3:
            w.packet.family = AF_UNIX;
            break;
        case 4:
            w.head.stack_bytes = (int)sizeof(w.head.stack) + 8;
            break;
        default:
            memset(&w, 0xff, sizeof(w));
        }
        assert_int_equal(record_new(&origin, kind(), 0, NS_PER_SEC, &r), 0);
        assert_int_equal(kind()->decode(&d, &w, r), -EBADMSG);
    }
}

/** Any bytes: no crash, and a record or a refusal. */
static void test_any_bytes(void **state)
{
    const struct decode d = {.kernel = &kernel};
    unsigned accepted = 0;

    (void)state;
    srandom(1);
    for (unsigned i = 0; i < 20000; i++) {
        struct net_rx_latency_wire w;
        _cleanup_(record_freep) struct record *r = NULL;
        _cleanup_(doc_unrefp) struct doc *doc = NULL;
        int e;

        for (size_t k = 0; k < sizeof(w); k++)
            ((unsigned char *)&w)[k] = (unsigned char)random();
        if (i % 2) {
            w.where %= RX_WHERE_NR;
            w.since %= RX_SINCE_NR;
            w.packet.protocol = IPPROTO_UDP;
            w.packet.family = AF_INET6;
            w.head.stack_bytes %= (int)sizeof(w.head.stack);
        }
        assert_int_equal(record_new(&origin, kind(), 0, NS_PER_SEC, &r), 0);
        e = kind()->decode(&d, &w, r);
        assert_true(e == 0 || e == -EBADMSG);
        if (e == 0) {
            assert_int_equal(record_finish(r, NS_PER_SEC, &doc), 0);
            accepted++;
        }
    }
    assert_true(accepted >= 10000);
}

/* --- rules */

/** As the BPF program goes through the rows. */
static bool rule_takes(const char *conditions, const struct net_rx_latency_wire *w)
{
    struct net_rx_latency_settings *settings = calloc(1, sizeof(*settings));
    __u64 facts[PACKET_FACTS];
    bool found = false;

    assert_int_equal(rx_rule_compile(conditions, 7, settings), 0);
    packet_facts(&w->packet, facts);
    facts[PACKET_FACT_BITS] |= (__u64)w->where << RX_BITS_WHERE_SHIFT | (__u64)w->since
                                                                            << RX_BITS_SINCE_SHIFT;
    for (unsigned i = 0; i < settings->n_rows; i++) {
        __u64 differs = 0;

        assert_int_equal(settings->rows[i].rule, 7);
        for (unsigned word = 0; word < PACKET_FACTS; word++)
            differs |= (facts[word] ^ settings->rows[i].value[word]) & settings->rows[i].mask[word];
        found |= !differs;
    }
    free(settings);
    return found;
}

static void test_rules(void **state)
{
    static const char *const taken[] = {
        "where=TO_USER_COPY",
        "since=received",
        "protocol=tcp",
        "family=ipv4",
        "sport=9213",
        "dport=49000",
        "port=49000",
        "port=9213",
        "saddr=10.0.0.0/8",
        "daddr=10.134.72.4",
        "addr=10.134.0.0/16",
        "addr=10.156.248.76",
        "netns=4026531840",
        "addr=10.134.72.4 port=9213 protocol=tcp",
        "where=TO_NETIF_RCV; dport=49000",
        "saddr=0.0.0.0/0",
    };
    static const char *const left[] = {
        "where=TO_NETIF_RCV",
        "where=TO_TCPV4_RCV",
        "since=sent",
        "since=last_segment",
        "protocol=udp",
        "family=ipv6",
        "sport=49000",
        "port=80",
        "saddr=10.134.0.0/16",
        "addr=192.168.0.0/16",
        "netns=1",
        "saddr=::/0",
        "port=9213 where=TO_NETIF_RCV",
        "dport=80; sport=80",
    };
    const struct net_rx_latency_wire w = sample(RX_TO_USER_COPY);

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
        if (!rule_takes(taken[i], &w))
            fail_msg("%s takes nothing out", taken[i]);
    for (size_t i = 0; i < ARRAY_SIZE(left); i++)
        if (rule_takes(left[i], &w))
            fail_msg("%s takes it out", left[i]);
}

static void test_rule_errors(void **state)
{
    static const struct {
        const char *rule, *error;
    } rows[] = {
        {"x", "a rule is written as"},
        {"Name: port=1", "a rule is written as"},
        {"own: port=1", "`own` is the name"},
        {"x:", "would take out everything"},
        {"x: port=1;", "would take out everything"},
        {"x: port", "key=value"},
        {"x: port=", "key=value"},
        {"x: port=65536", "a port is a number"},
        {"x: port=-1", "a port is a number"},
        {"x: port=1 port=2", "may stand once"},
        {"x: sport=1 sport=2", "cannot both hold"},
        {"x: addr=10.0.0.0/33", "an address is written"},
        {"x: addr=10.0.0.0/-1", "an address is written"},
        {"x: addr=host", "an address is written"},
        {"x: addr=10.0.0.1 addr=10.0.0.2", "may stand once"},
        {"x: family=ipv4 saddr=fd00::/8", "cannot both hold"},
        {"x: family=ip", "family= takes"},
        {"x: where=USER", "where= takes"},
        {"x: since=now", "since= takes"},
        {"x: protocol=icmp", "protocol= takes"},
        {"x: netns=me", "netns= takes"},
        {"x: color=red", "conditions are"},
    };

    (void)state;
    assert_null(rx_rule_check("good_1: port=1 family=ipv6 addr=fd00::/8; netns=5"));
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const char *error = rx_rule_check(rows[i].rule);

        if (!error || !strstr(error, rows[i].error))
            fail_msg("%s: %s", rows[i].rule, error ? error : "is accepted");
    }
}

/* --- options */

static void *options_of(const char *ignore)
{
    void *options = calloc(1, kind()->options_size);
    char error[512];

    assert_int_equal(option_defaults(kind()->options, options), 0);
    if (ignore)
        assert_int_equal(option_parse(option_find(kind()->options, "ignore"), ignore, options,
                                      error, sizeof(error)),
                         0);
    return options;
}

static void test_configure(void **state)
{
    void *options = options_of("one: port=1,two: port=2");
    struct net_rx_latency_settings *settings = calloc(1, sizeof(*settings));
    const struct decode d = {.options = options};
    char error[512] = "";

    (void)state;
    assert_int_equal(kind()->configure(&d, settings, error, sizeof(error)), 0);
    assert_int_equal(settings->threshold_ns[RX_TO_NETIF_RCV], MS(5));
    assert_int_equal(settings->threshold_ns[RX_TO_TCPV4_RCV], MS(10));
    assert_int_equal(settings->threshold_ns[RX_TO_USER_COPY], MS(115));
    assert_int_equal(settings->look_ns[RX_TO_TCPV4_RCV], MS(1));
    assert_true(settings->tick_ns >= NS_PER_MS / 2 && settings->tick_ns <= 10 * NS_PER_MS);
    assert_int_equal(settings->n_rows, 4); /* either end */
    assert_int_equal(settings->rows[0].rule, 1);
    assert_int_equal(settings->rows[2].rule, 2);
    assert_string_equal(kind()->rule_name(options, 0), "own");
    assert_string_equal(kind()->rule_name(options, 1), "one");
    assert_string_equal(kind()->rule_name(options, 2), "two");
    assert_null(kind()->rule_name(options, 3));
    option_done(kind()->options, options);
    free(options);
    free(settings);
}

/** More rows than there is room for: as many as fit are in force, and it is said. */
static void test_too_many_rows(void **state)
{
    char rule[4096] = "many: addr=10.0.0.1 port=1", error[512] = "";
    struct net_rx_latency_settings *settings = calloc(1, sizeof(*settings));
    struct decode d = {};
    void *options;

    (void)state;
    for (unsigned i = 0; i < RX_ROWS_MAX / 4; i++)
        strcat(rule, "; addr=10.0.0.1 port=1");
    options = options_of(rule);
    d.options = options;
    assert_int_equal(kind()->configure(&d, settings, error, sizeof(error)), -E2BIG);
    assert_non_null(strstr(error, "more is recorded"));
    assert_int_equal(settings->n_rows, RX_ROWS_MAX);
    option_done(kind()->options, options);
    free(options);
    free(settings);
}

static void test_same_name_twice(void **state)
{
    void *options = options_of(NULL);
    char error[512] = "";

    (void)state;
    assert_int_equal(option_parse(option_find(kind()->options, "ignore"), "one: port=1,one: port=2",
                                  options, error, sizeof(error)),
                     -EINVAL);
    assert_non_null(strstr(error, "there is a rule of the name `one` already"));
    option_done(kind()->options, options);
    free(options);
}

/** The socket for whose sake the kernel stamps packets. */
static void test_hold(void **state)
{
    int fd = kind()->hold(), value = 0;
    socklen_t len = sizeof(value);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &value, &len), 0);
    assert_int_equal(value, 1 << 3); /* SOF_TIMESTAMPING_RX_SOFTWARE */
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_age),
        cmocka_unit_test(test_first_look),
        cmocka_unit_test(test_age_after_step),
        cmocka_unit_test(test_age_during_step),
        cmocka_unit_test(test_age_many_steps),
        cmocka_unit_test(test_record),
        cmocka_unit_test(test_record_stages),
        cmocka_unit_test(test_role),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_rule_errors),
        cmocka_unit_test(test_configure),
        cmocka_unit_test(test_too_many_rows),
        cmocka_unit_test(test_same_name_twice),
        cmocka_unit_test(test_hold),
    };

    return cmocka_run_group_tests_name("net_rx_latency", tests, set_up_kernel, take_down_kernel);
}
