// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <jansson.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "core/base.h"
#include "core/event.h"
#include "core/packet.h"
#include "core/record.h"

static void set_addr(__u8 addr[16], const char *text)
{
    memset(addr, 0, 16);
    if (inet_pton(AF_INET6, text, addr) == 1)
        return;
    addr[10] = addr[11] = 0xff;
    assert_int_equal(inet_pton(AF_INET, text, addr + 12), 1);
}

static void test_states(void **state)
{
    /* As ss(8) and the kernel number them. */
    static const char *const names[] = {
        "NONE",  "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",    "TIME_WAIT",
        "CLOSE", "CLOSE_WAIT",  "LAST_ACK", "LISTEN",   "CLOSING",   "NEW_SYN_RECV",
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        assert_string_equal(packet_state_name(i), names[i]);
        assert_int_equal(packet_state_value(names[i]), i);
    }
    assert_string_equal(packet_state_name(ARRAY_SIZE(names)), "UNKNOWN");
    assert_string_equal(packet_state_name(UINT32_MAX), "UNKNOWN");
    assert_int_equal(packet_state_value("UNKNOWN"), -1);
    assert_int_equal(packet_state_value("established"), -1);
    assert_int_equal(packet_state_value(""), -1);
    assert_int_equal(packet_state_value("LISTE"), -1);
}

static void test_protocols(void **state)
{
    char number[8];

    (void)state;
    assert_string_equal(packet_protocol_name(IPPROTO_TCP), "tcp");
    assert_string_equal(packet_protocol_name(IPPROTO_UDP), "udp");
    assert_string_equal(packet_protocol_name(IPPROTO_ICMP), "icmp");
    assert_string_equal(packet_protocol_name(IPPROTO_ICMPV6), "icmpv6");
    for (unsigned protocol = 0; protocol < 256; protocol++) {
        const char *name = packet_protocol_name(protocol);

        snprintf(number, sizeof(number), "%u", protocol);
        assert_int_equal(packet_protocol_value(number), protocol);
        if (name)
            assert_int_equal(packet_protocol_value(name), protocol);
    }
    assert_null(packet_protocol_name(253));
    assert_null(packet_protocol_name(256 + IPPROTO_TCP));
    assert_int_equal(packet_protocol_value("256"), -1);
    assert_int_equal(packet_protocol_value("262"), -1); /* 6 in eight bits */
    assert_int_equal(packet_protocol_value("18446744073709551622"), -1);
    assert_int_equal(packet_protocol_value("-6"), -1);
    assert_int_equal(packet_protocol_value(" 6"), -1);
    assert_int_equal(packet_protocol_value("6x"), -1);
    assert_int_equal(packet_protocol_value("TCP"), -1);
    assert_int_equal(packet_protocol_value(""), -1);
}

static void test_flags(void **state)
{
    static const char *const names[] = {"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"};
    char text[PACKET_TEXT_MAX];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        packet_flags_text(1U << i, text);
        assert_string_equal(text, names[i]);
        assert_int_equal(packet_flag_value(names[i]), 1 << i);
    }
    packet_flags_text(0, text);
    assert_string_equal(text, "");
    packet_flags_text(0x12, text);
    assert_string_equal(text, "SYN|ACK");
    packet_flags_text(0xff, text);
    assert_string_equal(text, "FIN|SYN|RST|PSH|ACK|URG|ECE|CWR");
    packet_flags_text(0xffffff00, text);
    assert_string_equal(text, "");
    assert_int_equal(packet_flag_value("ack"), -1);
    assert_int_equal(packet_flag_value(""), -1);
    assert_int_equal(packet_flag_value("SYN|ACK"), -1);
}

static void test_addresses(void **state)
{
    static const struct {
        const char *addr, *with_port; /* with_port: of TCP and UDP */
    } rows[] = {
        {"10.0.0.1", "10.0.0.1:80"},
        {"0.0.0.0", "0.0.0.0:80"},
        {"255.255.255.255", "255.255.255.255:80"},
        {"::", "[::]:80"},
        {"::1", "[::1]:80"},
        {"2001:db8::1", "[2001:db8::1]:80"},
        {"fe80:1111:2222:3333:4444:5555:6666:7777", "[fe80:1111:2222:3333:4444:5555:6666:7777]:80"},
    };
    char text[PACKET_TEXT_MAX];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct packet p = {.sport = 80, .dport = 65535, .protocol = IPPROTO_TCP};

        set_addr(p.saddr, rows[i].addr);
        packet_addr_text(p.saddr, text);
        assert_string_equal(text, rows[i].addr);
        packet_endpoint_text(&p, true, text);
        assert_string_equal(text, rows[i].with_port);
        p.protocol = IPPROTO_UDP;
        packet_endpoint_text(&p, true, text);
        assert_string_equal(text, rows[i].with_port);
        p.protocol = IPPROTO_ICMP;
        packet_endpoint_text(&p, true, text);
        assert_string_equal(text, rows[i].addr);

        memcpy(p.daddr, p.saddr, sizeof(p.daddr));
        set_addr(p.saddr, "192.0.2.1");
        p.protocol = IPPROTO_TCP;
        packet_endpoint_text(&p, false, text);
        assert_non_null(strstr(text, rows[i].addr));
        assert_string_equal(text + strlen(text) - 6, ":65535");
    }
}

static void name_device(uint32_t netns, int ifindex, char ret[16])
{
    snprintf(ret, 16, "%x-%d", netns, ifindex);
}

/** The fields of a packet as a JSON object. */
static json_t *fields(const struct packet *p)
{
    static const struct event event = {.name = "test", .tracer_name = "test"};
    static const struct record_origin origin = {
        .hostname = "", .region = "", .kernel_release = "", .boot_id = ""};
    _cleanup_(record_freep) struct record *r = NULL;
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    const struct decode decode = {.device_name = name_device};
    json_t *json, *data;

    assert_int_equal(record_new(&origin, &event, 0, 1, &r), 0);
    packet_record_addresses(r, p);
    packet_record_context(r, p, &decode);
    assert_int_equal(record_finish(r, 1, &doc), 0);
    json = json_loadb(doc->json, doc->len, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json);
    data = json_incref(json_object_get(json, "tracer_data"));
    json_decref(json);
    return data;
}

static void assert_fields(const struct packet *p, const char *expected)
{
    json_t *object = fields(p);
    _free_ char *text = json_dumps(object, JSON_COMPACT);

    assert_string_equal(text, expected);
    json_decref(object);
}

static void test_record(void **state)
{
    struct packet p = {
        .device = "eth0",
        .sport = 65535,
        .dport = 1,
        .protocol = IPPROTO_TCP,
        .family = AF_INET,
        .tcp_flags = 0x02,
        .payload_len = 4294967295,
        .socket_uid = 1000,
        .netns = 4026531840,
        .ifindex = 2,
        .iif = 3,
        .socket = PACKET_SOCKET_SKB,
        .socket_inode = 18446744073709551615ULL,
    };

    (void)state;
    set_addr(p.saddr, "10.0.0.1");
    set_addr(p.daddr, "10.0.0.2");
    assert_fields(&p, "{\"saddr\":\"10.0.0.1\",\"daddr\":\"10.0.0.2\",\"sport\":65535,\"dport\":1,"
                      "\"direction\":\"rx\",\"device\":\"eth0\",\"ifindex\":2,\"netns\":4026531840,"
                      "\"family\":\"ipv4\",\"protocol\":\"tcp\",\"tcp_flags\":\"SYN\","
                      "\"payload_len\":4294967295,\"socket\":\"skb\",\"socket_uid\":1000,"
                      "\"socket_inode\":9223372036854775807}");

    /* No socket's numbers without a socket, or for one that nobody has open; a name without end. */
    p.family = AF_INET6;
    set_addr(p.saddr, "2001:db8::1");
    set_addr(p.daddr, "::");
    memset(p.device, 'x', sizeof(p.device));
    p.protocol = 253;
    p.tcp_flags = 0;
    p.iif = 0;
    p.socket = PACKET_SOCKET_NONE;
    assert_fields(&p, "{\"saddr\":\"2001:db8::1\",\"daddr\":\"::\",\"sport\":65535,\"dport\":1,"
                      "\"direction\":\"tx\",\"device\":\"xxxxxxxxxxxxxxxx\",\"ifindex\":2,"
                      "\"netns\":4026531840,\"family\":\"ipv6\",\"protocol\":\"253\","
                      "\"tcp_flags\":\"\",\"payload_len\":4294967295,\"socket\":\"none\"}");

    p = (struct packet){.iif = 7, .socket = 200};
    assert_fields(&p, "{\"saddr\":\"::\",\"daddr\":\"::\",\"sport\":0,\"dport\":0,"
                      "\"direction\":\"rx\",\"device\":\"0-7\",\"ifindex\":7,\"netns\":0,"
                      "\"family\":\"ipv4\",\"protocol\":\"0\",\"tcp_flags\":\"\","
                      "\"payload_len\":0,\"socket\":\"read\"}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states), cmocka_unit_test(test_protocols),
        cmocka_unit_test(test_flags),  cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_record),
    };

    return cmocka_run_group_tests_name("packet", tests, NULL, NULL);
}
