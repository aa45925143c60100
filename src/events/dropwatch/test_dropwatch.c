// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <bpf/btf.h>
#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core/event.h"
#include "core/test_folder.h"
#include "core/text.h"
#include "events/dropwatch/device.h"
#include "events/dropwatch/listen.h"
#include "events/dropwatch/rules.h"
#include "kernel/kernel.h"

/* --- a kernel of our own: functions of 4 KiB one after the other, and numbers that none has */

#define TEXT_START    UINT64_C(0xffffffff81000000)
#define FUNCTION_SIZE UINT64_C(0x1000)
#define N_MANY        70 /* functions many_0 ...: more than there are ranges */

static const char *const functions[] = {
    "other",
    "tcp_v4_rcv",
    "tcp_v6_rcv",
    "tcp_rcv_state_process",
    "tcp_validate_incoming",
    "tcp_fin",
    "tcp_disconnect",
    "sk_stream_kill_queues",
    "inet_child_forget",
    "inet_sock_destruct",
    "skb_rbtree_purge",
    "skb_queue_purge",
    "skb_queue_purge_reason",
    "neigh_invalidate",
    "arp_error_report",
    "ndisc_error_report",
    "net_tx_action",
    "__dev_kfree_skb_any",
    "dev_kfree_skb_any_reason",
    "__napi_poll",
    "bnxt_tx_int",
    "__bnxt_tx_int",
    "split",
    "split.isra.0",
    "split.part.1",
    "split.cold",
    "split_not",
    "handle_softirqs",
    "__do_softirq",
    "ip_rcv",
    "do_syscall_64",
    "packet_release",
    "packet_rcv",
    "tpacket_rcv",
    "__release_sock",
};

static const char *const reasons[] = {
    "NOT_SPECIFIED", "NO_SOCKET",    "QUEUE_PURGE",         "TCP_OLD_DATA",
    "TCP_OFOMERGE",  "TCP_OFO_DROP", "TCP_OLD_SEQUENCE",    "NETFILTER_DROP",
    "TCP_CSUM",      "TCP_CLOSE",    "TCP_LISTEN_OVERFLOW", "UNHANDLED_PROTO",
};
#define FIRST_REASON 1000

static char btf_root[] = "/tmp/test_dropwatch.XXXXXX";

/** One that says why it drops, one that does not (before 5.17), and one that hides its symbols. */
static struct kernel recent, old, hidden;
static const struct event *dropwatch;

/** An address in the middle of a function. */
static uint64_t inside(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(functions); i++)
        if (strcmp(functions[i], name) == 0)
            return TEXT_START + i * FUNCTION_SIZE + 0x20;
    fail_msg("the test's kernel has no function %s", name);
    return 0;
}

static uint32_t reason_number(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
        if (strcmp(reasons[i], name) == 0)
            return (uint32_t)(FIRST_REASON + i);
    fail_msg("the test's kernel has no reason %s", name);
    return 0;
}

static struct symbols *make_symbols(bool shown)
{
    int fd = memfd_create("kallsyms", MFD_CLOEXEC);
    uint64_t at = shown ? TEXT_START : 0, step = shown ? FUNCTION_SIZE : 0;
    struct symbols *symbols = NULL;

    assert_true(fd >= 0);
    for (size_t i = 0; i < ARRAY_SIZE(functions); i++, at += step)
        dprintf(fd, "%016llx t %s\n", (unsigned long long)at, functions[i]);
    for (size_t i = 0; i < N_MANY; i++, at += step)
        dprintf(fd, "%016llx t many_%zu\n", (unsigned long long)at, i);
    dprintf(fd, "%016llx T _etext\n", (unsigned long long)at);
    assert_int_equal(symbols_new(fd, &symbols), 0);
    assert_int_equal(symbols_state(symbols), shown ? SYMBOLS_OK : SYMBOLS_HIDDEN);
    return symbols;
}

static struct enums *make_enums(bool with_reasons)
{
    struct btf *btf = btf__new_empty();
    struct enums *enums = NULL;
    const void *data;
    char name[64];
    uint32_t size;

    assert_non_null(btf);
    assert_true(btf__add_int(btf, "int", 4, BTF_INT_SIGNED) > 0);
    assert_true(btf__add_enum(btf, "oom_constraint", 4) > 0);
    assert_int_equal(btf__add_enum_value(btf, "CONSTRAINT_NONE", 0), 0);
    if (with_reasons)
        assert_true(btf__add_enum(btf, "skb_drop_reason", 4) > 0);
    for (size_t i = 0; with_reasons && i < ARRAY_SIZE(reasons); i++) {
        snprintf(name, sizeof(name), "SKB_DROP_REASON_%s", reasons[i]);
        assert_int_equal(btf__add_enum_value(btf, name, (int64_t)(FIRST_REASON + i)), 0);
    }
    assert_true(btf__add_enum(btf, NULL, 4) > 0);
    assert_int_equal(btf__add_enum_value(btf, "LINUX_MIB_NUM", 0), 0);
    assert_int_equal(btf__add_enum_value(btf, "LINUX_MIB_LISTENOVERFLOWS", 20), 0);
    assert_int_equal(btf__add_enum_value(btf, "LINUX_MIB_TCPREQQFULLDROP", 80), 0);
    data = btf__raw_data(btf, &size);
    assert_true(test_put_file(btf_root, "/sys/kernel/btf/vmlinux", data, size));
    btf__free(btf);
    assert_int_equal(enums_new(btf_root, &enums), 0);
    return enums;
}

static int make_kernels(void **state)
{
    (void)state;
    dropwatch = event_find("dropwatch");
    if (!dropwatch || !mkdtemp(btf_root))
        return -1;
    recent = (struct kernel){.symbols = make_symbols(true), .enums = make_enums(true)};
    old = (struct kernel){.symbols = make_symbols(true), .enums = make_enums(false)};
    hidden = (struct kernel){.symbols = make_symbols(false), .enums = make_enums(true)};
    return test_remove_folder(btf_root);
}

static int free_kernels(void **state)
{
    struct kernel *const kernels[] = {&recent, &old, &hidden};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(kernels); i++) {
        symbols_free(kernels[i]->symbols);
        enums_free(kernels[i]->enums);
    }
    return 0;
}

/* --- a drop, and what dropwatch.bpf.c makes of it */

struct drop {
    const char *place, *caller; /* functions */
    uint32_t reason;
    bool received; /* its bytes had come before the connection ended */
    enum dropwatch_type type;
    struct packet packet;
};

static void set_addr(__u8 addr[16], const char *text)
{
    memset(addr, 0, 16);
    if (inet_pton(AF_INET6, text, addr) == 1)
        return;
    addr[10] = addr[11] = 0xff;
    assert_int_equal(inet_pton(AF_INET, text, addr + 12), 1);
}

static unsigned flags_value(const char *names)
{
    unsigned flags = 0;
    char name[8];

    for (size_t len; *names; names += len + (names[len] == '|')) {
        len = strcspn(names, "|");
        snprintf(name, sizeof(name), "%.*s", (int)len, names);
        flags |= (unsigned)packet_flag_value(name);
    }
    return flags;
}

/** A segment of an established connection on its way in. */
static struct drop some_drop(void)
{
    struct drop drop = {
        .place = "other",
        .caller = "other",
        .reason = reason_number("NETFILTER_DROP"),
        .packet =
            {
                .device = "eth0",
                .sport = 40000,
                .dport = 80,
                .protocol = IPPROTO_TCP,
                .family = AF_INET,
                .state = 1,
                .tcp_flags = 0x10,
                .iif = 2,
                .netns = 4026531840,
            },
    };

    set_addr(drop.packet.saddr, "10.0.0.1");
    set_addr(drop.packet.daddr, "10.0.0.2");
    return drop;
}

static uint64_t place_bit(const struct dropwatch_settings *s, uint64_t address)
{
    uint64_t bits = 0;

    for (unsigned i = 0; i < s->n_ranges; i++)
        if (address - s->ranges[i].start < s->ranges[i].size)
            bits |= UINT64_C(1) << i;
    return bits;
}

/** filter_rule() of dropwatch.bpf.c: the next row from `i` on that takes the drop out, or -1. */
static int next_match(const struct dropwatch_settings *s, const struct drop *drop, unsigned i)
{
    const struct packet *p = &drop->packet;
    __u64 facts[FACT_NR] = {};

    packet_facts(p, facts);
    facts[PACKET_FACT_BITS] |= FACT_TYPE(drop->type);
    facts[PACKET_FACT_PORTS] |= (uint64_t)drop->reason << FACT_REASON_SHIFT;
    facts[FACT_BITS] = FACT_BITS_STATE(p->state & 15) |
                       (uint64_t)p->tcp_flags << FACT_BITS_FLAGS_SHIFT |
                       (p->payload_len ? FACT_BITS_PAYLOAD : FACT_BITS_NO_PAYLOAD) |
                       (p->iif ? FACT_BITS_RX : FACT_BITS_TX);
    facts[FACT_PLACES] = place_bit(s, inside(drop->place));
    if (s->want_received && (p->state == 0 || p->state == packet_state_value("CLOSE")) &&
        p->protocol == IPPROTO_TCP && drop->received)
        facts[FACT_BITS] |= FACT_BITS_RECEIVED;
    if (facts[FACT_PLACES] & s->ranges_with_caller)
        facts[FACT_CALLERS] = facts[FACT_PLACES] | place_bit(s, inside(drop->caller));
    memcpy(&facts[FACT_DEVICE_HI], p->device, 16);
    for (; i < s->n_rows; i++) {
        uint64_t differs = 0;

        for (unsigned word = 0; word < FACT_NR; word++)
            differs |= (facts[word] ^ s->rows[i].value[word]) & s->rows[i].mask[word];
        if (!differs)
            return (int)i;
    }
    return -1;
}

/** The rule, or -1. */
static int first_match(const struct dropwatch_settings *s, const struct drop *drop)
{
    int row = next_match(s, drop, 0);

    return row < 0 ? -1 : (int)s->rows[row].rule;
}

static unsigned n_rows(const struct kernel *kernel, const char *conditions)
{
    struct dropwatch_settings s = {};

    assert_int_equal(dropwatch_rule_compile(kernel, conditions, 5, &s), 0);
    return s.n_rows;
}

static bool matches_on(const struct kernel *kernel, const char *conditions, const struct drop *drop)
{
    struct dropwatch_settings s = {};
    int rule;

    assert_int_equal(dropwatch_rule_compile(kernel, conditions, 5, &s), 0);
    rule = first_match(&s, drop);
    assert_true(rule == 5 || rule == -1);
    return rule == 5;
}

static bool matches(const char *conditions, const struct drop *drop)
{
    return matches_on(&recent, conditions, drop);
}

/* --- the text of rules */

static void test_check(void **state)
{
    static const char *const good[] = {
        "a: place=f",
        "my_rule_2: state=NONE",
        "a:state=ESTABLISHED|CLOSE_WAIT",
        "a:\tflag=ACK  flag=!SYN\n",
        "a: received=before",
        "a: payload=none direction=rx family=ipv6 protocol=tcp",
        "a: payload=some direction=tx family=ipv4 protocol=132",
        "a: place=f|g caller=h reason=NO_SOCKET|TCP_CSUM?",
        "a: saddr=10.0.0.1 daddr=2001:db8::/32",
        "a: addr=0.0.0.0/0 port=65535",
        "a: addr=10.0.0.1 saddr=10.0.0.0/8",
        "a: addr=::/0; addr=::1/128",
        "a: sport=0 dport=443 device=veth* netns=4026531840",
        "a: device=fifteen_bytes_x",
        "a: place=f; reason=NO_SOCKET ;flag=RST",
        "exactly_sixty_three_characters_________________________________: port=1",
    };
    static const struct {
        const char *text, *error;
    } bad[] = {
        {"", "`name: condition condition ...`"},
        {"place=f", "`name: condition condition ...`"},
        {": place=f", "`name: condition condition ...`"},
        {"Upper: place=f", "lower-case letters"},
        {"with space: place=f", "lower-case letters"},
        {"sixty_four_characters___________________________________________: port=1", "at most 63"},
        {"own: place=f", "the agent's own sockets"},
        {"probe: place=f", "built-in rule of that name"},
        {"a:", "without conditions"},
        {"a: ;", "without conditions"},
        {"a: place=f;", "without conditions"},
        {"a: place", "key=value"},
        {"a: place=", "key=value"},
        {"a: =f", "conditions are type= place= caller="},
        {"a: plaice=f", "conditions are type= place= caller="},
        {"a: place=f; nonsense=1", "conditions are type= place= caller="},
        {"a: caller=f", "caller= needs place="},
        {"a: place=f; caller=g", "caller= needs place="},
        {"a: place=f place=g", "may each stand once"},
        {"a: reason=A reason=B", "may each stand once"},
        {"a: state=established", "TCP states as in `ss`"},
        {"a: state=CLOSE||LISTEN", "a name is missing"},
        {"a: state=CLOSE|", "a name is missing"},
        {"a: place=f|g|", "a name is missing"},
        {"a: place=|f", "a name is missing"},
        {"a: place=f caller=g||h", "a name is missing"},
        {"a: reason=A|", "a name is missing"},
        {"a: place=|", "a name is missing"},
        {"a: flag=NAK", "FIN, SYN, RST"},
        {"a: flag=!", "FIN, SYN, RST"},
        {"a: payload=1", "none or some"},
        {"a: direction=in", "rx or tx"},
        {"a: received=after", "received= takes before"},
        {"a: family=4", "ipv4 or ipv6"},
        {"a: protocol=tcpp", "or a number"},
        {"a: protocol=256", "or a number"},
        {"a: addr=10.0.0", "an address is written as"},
        {"a: addr=10.0.0.0/33", "an address is written as"},
        {"a: addr=10.0.0.0/", "an address is written as"},
        {"a: addr=10.0.0.0/-1", "an address is written as"},
        {"a: addr=10.0.0.0/8x", "an address is written as"},
        {"a: saddr=2001:db8::/129", "an address is written as"},
        {"a: daddr=localhost", "an address is written as"},
        {"a: port=65536", "from 0 to 65535"},
        {"a: sport=-1", "from 0 to 65535"},
        {"a: dport=http", "from 0 to 65535"},
        {"a: port=99999999999999999999999", "from 0 to 65535"},
        {"a: device=sixteen_bytes_xy", "at most 15 characters"},
        {"a: netns=4294967296", "lsns"},
        {"a: netns=x", "lsns"},
        /* Together they could never hold, or would silently be only one of them. */
        {"a: flag=ACK flag=!ACK", "cannot both hold"},
        {"a: direction=rx direction=tx", "cannot both hold"},
        {"a: protocol=tcp protocol=udp", "cannot both hold"},
        {"a: state=CLOSE state=LISTEN", "cannot both hold"},
        {"a: sport=80 sport=81", "cannot both hold"},
        {"a: dport=1 dport=2", "cannot both hold"},
        {"a: saddr=10.0.0.1 saddr=10.0.0.2", "cannot both hold"},
        {"a: daddr=2001:db8::/32 daddr=2001:db9::1", "cannot both hold"},
        {"a: family=ipv4 daddr=2001:db8::1", "cannot both hold"},
        {"a: device=eth0 device=eth1", "cannot both hold"},
        {"a: netns=1 netns=2", "cannot both hold"},
        {"a: addr=10.0.0.1 addr=10.0.0.2", "may stand once"},
        {"a: port=1 port=2", "may stand once"},
    };
    char longest[256];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        if (dropwatch_rule_check(good[i]))
            fail_msg("%s: %s", good[i], dropwatch_rule_check(good[i]));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        const char *error = dropwatch_rule_check(bad[i].text);

        if (!error || !strstr(error, bad[i].error))
            fail_msg("%s: \"%s\" instead of \"...%s...\"", bad[i].text, error ? error : "no error",
                     bad[i].error);
    }
    snprintf(longest, sizeof(longest), "a: place=%0185d", 1);
    assert_null(dropwatch_rule_check(longest));
    snprintf(longest, sizeof(longest), "a: place=%0186d", 1);
    assert_string_equal(dropwatch_rule_check(longest), "a condition has at most 191 characters");
}

/* --- conditions, one by one */

static void test_places(void **state)
{
    static const char *const parts[] = {"split", "split.isra.0", "split.part.1", "split.cold"};
    struct dropwatch_settings s = {};
    struct drop drop = some_drop();

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        drop.place = parts[i];
        assert_true(matches("place=split", &drop));
    }
    drop.place = "split_not";
    assert_false(matches("place=split", &drop));
    assert_true(matches("place=ip_rcv|split_not", &drop));

    assert_int_equal(n_rows(&recent, "place=no_such_function"), 0);
    assert_int_equal(n_rows(&recent, "place=split_not caller=no_such_function"), 0);
    assert_int_equal(n_rows(&recent, "place=no_such_function|split_not"), 1);
    assert_int_equal(n_rows(&recent, "place=no_such_function; port=80 direction=rx"), 2);
    /* Nobody can say where it was: the rule is not in force, and must not match everything. */
    assert_int_equal(n_rows(&hidden, "place=split_not"), 0);

    /* Functions that several rules name take up one range. */
    assert_int_equal(dropwatch_rule_compile(&recent, "place=split_not caller=ip_rcv", 0, &s), 0);
    assert_int_equal(dropwatch_rule_compile(&recent, "place=split_not|ip_rcv", 1, &s), 0);
    assert_int_equal(s.n_ranges, 2);
    assert_int_equal(s.ranges_with_caller, 1);
    drop.caller = "ip_rcv";
    assert_int_equal(first_match(&s, &drop), 0);
    drop.caller = "other";
    assert_int_equal(first_match(&s, &drop), 1);
    drop.place = "ip_rcv"; /* its callers are not looked at */
    assert_int_equal(first_match(&s, &drop), 1);
    drop.place = "other";
    assert_int_equal(first_match(&s, &drop), -1);
}

static void test_reasons(void **state)
{
    struct drop drop = some_drop();

    (void)state;
    drop.reason = reason_number("NO_SOCKET");
    assert_true(matches("reason=NO_SOCKET", &drop));
    assert_true(matches("reason=NO_SOCKET?", &drop));
    assert_true(matches("reason=QUEUE_PURGE|NO_SOCKET", &drop));
    assert_false(matches("reason=QUEUE_PURGE|NOT_SPECIFIED?", &drop));
    assert_true(matches("reason=NO_SOCKET netns=4026531840", &drop));
    assert_false(matches("reason=NO_SOCKET netns=4026531841", &drop));
    assert_false(matches("reason=QUEUE_PURGE netns=4026531840", &drop));

    /* One that this kernel does not have: not asked for only where there are none at all. */
    assert_int_equal(n_rows(&recent, "reason=UNHEARD_OF"), 0);
    assert_int_equal(n_rows(&recent, "reason=UNHEARD_OF?"), 0);
    assert_int_equal(n_rows(&recent, "reason=UNHEARD_OF|NO_SOCKET?"), 1);

    drop.reason = 0;
    assert_int_equal(n_rows(&old, "reason=NO_SOCKET direction=rx"), 0);
    assert_true(matches_on(&old, "reason=NO_SOCKET? direction=rx", &drop));
    assert_true(matches_on(&old, "reason=QUEUE_PURGE|NO_SOCKET? direction=rx", &drop));
    assert_false(matches_on(&old, "reason=NO_SOCKET? direction=tx", &drop));
    assert_int_equal(n_rows(&old, "reason=QUEUE_PURGE|NO_SOCKET? direction=rx"), 1);
}

static void test_bits(void **state)
{
    struct drop drop = some_drop();

    (void)state;
    for (unsigned socket_state = 0; socket_state <= 12; socket_state++) {
        drop.packet.state = (__u8)socket_state;
        assert_int_equal(matches("state=ESTABLISHED", &drop), socket_state == 1);
        assert_int_equal(matches("state=NONE|NEW_SYN_RECV", &drop),
                         socket_state == 0 || socket_state == 12);
        assert_int_equal(matches("state=CLOSE|LISTEN state=LISTEN|CLOSING", &drop),
                         socket_state == 10);
    }
    for (unsigned flags = 0; flags < 256; flags++) {
        drop.packet.tcp_flags = (__u8)flags;
        assert_int_equal(matches("flag=ACK flag=!SYN flag=CWR", &drop), (flags & 0x92) == 0x90);
    }
    drop = some_drop();
    for (unsigned type = 0; type < DROPWATCH_TYPES; type++) {
        drop.type = type;
        assert_int_equal(matches("type=syn_flood", &drop), type == DROPWATCH_SYN_FLOOD);
        assert_int_equal(matches("type=common_drop|listen_overflow_handshake3|syn_flood "
                                 "type=listen_overflow_handshake1|listen_overflow_handshake3",
                                 &drop),
                         type == DROPWATCH_HANDSHAKE3);
        assert_true(matches("payload=none", &drop));
    }
    drop = some_drop();
    assert_true(matches("payload=none", &drop));
    assert_false(matches("payload=some", &drop));
    drop.packet.payload_len = 1;
    assert_false(matches("payload=none", &drop));
    assert_true(matches("payload=some", &drop));
    assert_true(matches("direction=rx", &drop));
    assert_false(matches("direction=tx", &drop));
    drop.packet.iif = 0;
    assert_false(matches("direction=rx", &drop));
    assert_true(matches("direction=tx", &drop));
    assert_true(matches("family=ipv4", &drop));
    assert_false(matches("family=ipv6", &drop));
    drop.packet.family = AF_INET6;
    assert_false(matches("family=ipv4", &drop));
    assert_true(matches("family=ipv6", &drop));
    for (unsigned protocol = 0; protocol < 256; protocol++) {
        drop.packet.protocol = (__u8)protocol;
        assert_int_equal(matches("protocol=udp", &drop), protocol == IPPROTO_UDP);
        assert_int_equal(matches("protocol=132", &drop), protocol == IPPROTO_SCTP);
    }
}

static void flip_bit(__u8 *bytes, unsigned bit)
{
    bytes[bit / 8] ^= (__u8)(0x80 >> bit % 8);
}

/** All prefix lengths: the last bit inside decides, the first one outside does not. */
static void check_networks(const char *addr, unsigned first_bit)
{
    for (unsigned len = 0; len <= 128 - first_bit; len++) {
        static const char *const keys[] = {"saddr", "daddr", "addr"};

        for (size_t key = 0; key < ARRAY_SIZE(keys); key++) {
            struct drop drop = some_drop();
            __u8 *end = key == 0 ? drop.packet.saddr : drop.packet.daddr;
            char rule[128];

            drop.packet.family = first_bit ? AF_INET : AF_INET6;
            snprintf(rule, sizeof(rule), "%s=%s/%u", keys[key], addr, len);
            set_addr(drop.packet.saddr, first_bit ? "127.0.0.1" : "::1");
            set_addr(drop.packet.daddr, first_bit ? "127.0.0.1" : "::1");
            set_addr(end, addr);
            assert_true(matches(rule, &drop));
            if (first_bit + len < 128) {
                flip_bit(end, first_bit + len);
                assert_true(matches(rule, &drop));
                flip_bit(end, first_bit + len);
            }
            if (len > 0) {
                flip_bit(end, first_bit + len - 1);
                assert_false(matches(rule, &drop));
            }
        }
    }
}

static void test_networks(void **state)
{
    struct drop drop = some_drop();

    (void)state;
    check_networks("192.168.213.77", 96);
    check_networks("a5c3:96db:8f13:7ea1:53c7:1b2e:f0d9:4c68", 0);

    assert_true(matches("saddr=10.0.0.1", &drop));
    assert_false(matches("saddr=10.0.0.2", &drop));
    assert_true(matches("saddr=::ffff:10.0.0.1", &drop));
    /* Each family's whole network is not the other's. */
    assert_true(matches("saddr=0.0.0.0/0", &drop));
    assert_false(matches("saddr=::/0", &drop));
    assert_false(matches("addr=::/64", &drop));
    drop.packet.family = AF_INET6;
    set_addr(drop.packet.saddr, "2001:db8::1");
    assert_false(matches("saddr=0.0.0.0/0", &drop));
    assert_true(matches("saddr=::/0", &drop));
}

static void test_either_end(void **state)
{
    struct drop there = some_drop(), back = there, crossed = there;

    (void)state;
    back.packet.sport = there.packet.dport;
    back.packet.dport = there.packet.sport;
    memcpy(back.packet.saddr, there.packet.daddr, 16);
    memcpy(back.packet.daddr, there.packet.saddr, 16);
    crossed.packet.sport = there.packet.dport;
    crossed.packet.dport = there.packet.sport;

    assert_int_equal(n_rows(&recent, "addr=10.0.0.1"), 2);
    assert_int_equal(n_rows(&recent, "port=80"), 2);
    assert_int_equal(n_rows(&recent, "addr=10.0.0.1 port=80"), 4);
    assert_true(matches("addr=10.0.0.1 port=80", &there));
    assert_true(matches("addr=10.0.0.1 port=80", &back));
    assert_true(matches("addr=10.0.0.1 port=80", &crossed));
    assert_false(matches("addr=10.0.0.3 port=80", &there));
    assert_false(matches("addr=10.0.0.1 port=81", &there));
    assert_true(matches("saddr=10.0.0.1 dport=80", &there));
    assert_false(matches("saddr=10.0.0.1 dport=80", &back));
    assert_false(matches("saddr=10.0.0.1 dport=80", &crossed));
    assert_true(matches("sport=40000 dport=80", &there));
    assert_false(matches("sport=40000 dport=81", &there));
    assert_false(matches("sport=80 dport=40000", &there));

    /* The one end is given, so that the other condition can only be about the other end. */
    for (int order = 0; order < 2; order++) {
        const char *addr = order ? "saddr=10.0.0.1 addr=10.0.0.2" : "addr=10.0.0.2 saddr=10.0.0.1";
        const char *port = order ? "dport=80 port=40000" : "port=40000 dport=80";
        struct drop wrong = there;

        assert_true(matches(addr, &there));
        assert_false(matches(addr, &back));
        set_addr(wrong.packet.daddr, "10.0.0.3");
        assert_false(matches(addr, &wrong));
        set_addr(wrong.packet.saddr, "10.0.0.2");
        assert_false(matches(addr, &wrong));

        wrong = there;
        assert_true(matches(port, &there));
        assert_false(matches(port, &back));
        wrong.packet.sport = 40001;
        assert_false(matches(port, &wrong));
        wrong.packet.dport = 40000;
        assert_false(matches(port, &wrong));
    }
    assert_true(matches("saddr=10.0.0.0/8 addr=10.0.0.1", &there));
}

static void set_device(struct drop *drop, const char *name)
{
    strncpy(drop->packet.device, name, sizeof(drop->packet.device));
}

static void test_devices(void **state)
{
    struct drop drop = some_drop();

    (void)state;
    assert_true(matches("device=eth0", &drop));
    assert_false(matches("device=eth", &drop));
    assert_false(matches("device=eth01", &drop));
    assert_true(matches("device=eth*", &drop));
    assert_true(matches("device=eth0*", &drop));
    assert_true(matches("device=*", &drop));
    assert_false(matches("device=eth1*", &drop));
    memcpy(drop.packet.device, "eth0\0er_name", 12); /* renamed */
    assert_true(matches("device=eth0", &drop));
    set_device(&drop, "eth01");
    assert_false(matches("device=eth0", &drop));
    set_device(&drop, "fifteen_bytes_x");
    assert_true(matches("device=fifteen_bytes_x", &drop));
    assert_true(matches("device=fifteen_bytes_x*", &drop));
    assert_true(matches("device=fifteen_b*", &drop));
    assert_false(matches("device=fifteen_bytes_y*", &drop));
    set_device(&drop, "");
    assert_false(matches("device=e*", &drop));
}

static void test_alternatives(void **state)
{
    const char *rule = "port=80 direction=tx; place=split_not caller=ip_rcv ; reason=NO_SOCKET";
    struct drop drop = some_drop();

    (void)state;
    assert_false(matches(rule, &drop));
    drop.packet.iif = 0;
    assert_true(matches(rule, &drop));
    drop = some_drop();
    drop.place = "split_not";
    assert_false(matches(rule, &drop));
    drop.caller = "ip_rcv";
    assert_true(matches(rule, &drop));
    drop = some_drop();
    drop.reason = reason_number("NO_SOCKET");
    assert_true(matches(rule, &drop));
}

static void test_too_much(void **state)
{
    struct dropwatch_settings s = {};
    char places[16 * 12] = "place=";
    unsigned i;
    int r = 0;

    (void)state;
    for (i = 0; i < DROPWATCH_ROWS_MAX / 4; i++)
        assert_int_equal(dropwatch_rule_compile(&recent, "addr=10.0.0.1 port=1", i, &s), 0);
    assert_int_equal(s.n_rows, DROPWATCH_ROWS_MAX);
    assert_int_equal(dropwatch_rule_compile(&recent, "flag=ACK", i, &s), -E2BIG);
    assert_int_equal(s.n_rows, DROPWATCH_ROWS_MAX);
    assert_int_equal(dropwatch_rule_compile(&recent, "place=no_such_function", i, &s), 0);

    s = (struct dropwatch_settings){};
    for (i = 0; r == 0; i++) {
        snprintf(places, sizeof(places), "place=many_%u", i);
        r = dropwatch_rule_compile(&recent, places, i, &s);
    }
    assert_int_equal(r, -E2BIG);
    assert_int_equal(i, DROPWATCH_RANGES_MAX + 1);
    assert_int_equal(s.n_ranges, DROPWATCH_RANGES_MAX);
    assert_int_equal(dropwatch_rule_compile(&recent, "place=many_0 caller=many_63", i, &s), 0);
    assert_int_equal(dropwatch_rule_compile(&recent, "place=many_0 caller=many_64", i, &s), -E2BIG);
    assert_int_equal(dropwatch_rule_compile(&recent, "nonsense", i, &s), -EINVAL);
}

/* --- the built-in rules */

struct noise_case {
    const char *rule;
    const char *places, *callers, *reasons, *states; /* a|b: each; NULL: any */
    const char *flags, *protocol;                    /* NULL: none, TCP */
    bool payload, transmit, received;
    bool without_reasons; /* also in force on a kernel that gives none */
    const char *decides;  /* each of these, were it otherwise, makes it a loss */
};

static const struct noise_case noise_cases[] = {
    {
        .rule = "fin_consumed",
        .places = "sk_stream_kill_queues",
        .reasons = "QUEUE_PURGE|NOT_SPECIFIED",
        .states = "CLOSE",
        .flags = "FIN|ACK",
        .without_reasons = true,
        .decides = "place reason state FIN SYN RST payload direction",
    },
    {
        .rule = "fin_consumed",
        .places = "skb_queue_purge|skb_queue_purge_reason",
        .callers = "sk_stream_kill_queues",
        .reasons = "QUEUE_PURGE|NOT_SPECIFIED",
        .states = "CLOSE",
        .flags = "FIN|ACK",
        .without_reasons = true,
        .decides = "place caller reason state FIN SYN RST payload direction",
    },
    {
        .rule = "time_wait_ack",
        .places = "tcp_v4_rcv|tcp_v6_rcv",
        .reasons = "NOT_SPECIFIED",
        .states = "TIME_WAIT",
        .flags = "ACK",
        .decides = "place reason state SYN payload direction",
    },
    {
        .rule = "time_wait_ack",
        .places = "tcp_v4_rcv|tcp_v6_rcv",
        .reasons = "NOT_SPECIFIED",
        .states = "NONE",
        .flags = "FIN|ACK",
        .decides = "place reason state FIN SYN payload direction",
    },
    {
        .rule = "half_closed_ack",
        .places = "tcp_rcv_state_process",
        .reasons = "NOT_SPECIFIED",
        .states = "CLOSE_WAIT|CLOSING|LAST_ACK|NONE",
        .flags = "ACK",
        .decides = "place reason state ACK FIN SYN RST URG payload direction",
    },
    {
        .rule = "half_closed_ack",
        .places = "tcp_rcv_state_process",
        .reasons = "TCP_CLOSE",
        .states = "CLOSE|NONE",
        .flags = "ACK",
        .decides = "place reason state SYN RST payload direction",
    },
    {
        .rule = "probe",
        .places = "tcp_validate_incoming",
        .reasons = "TCP_OLD_SEQUENCE",
        .flags = "ACK",
        .decides = "place reason ACK FIN SYN RST URG payload direction",
    },
    {
        .rule = "duplicate",
        .reasons = "TCP_OLD_DATA|TCP_OFOMERGE|TCP_OFO_DROP",
        .flags = "PSH|ACK",
        .payload = true,
        .decides = "reason SYN RST direction",
    },
    {
        .rule = "duplicate",
        .reasons = "TCP_OLD_SEQUENCE",
        .flags = "PSH|ACK",
        .payload = true,
        .decides = "reason SYN RST payload direction",
    },
    {
        .rule = "late_duplicate",
        .reasons = "NO_SOCKET|TCP_CLOSE",
        .states = "NONE|CLOSE",
        .flags = "PSH|ACK",
        .payload = true,
        .received = true,
        .decides = "reason received state protocol payload SYN RST direction",
    },
    {
        .rule = "late_duplicate",
        .reasons = "NO_SOCKET",
        .states = "NONE",
        .flags = "FIN|ACK",
        .received = true,
        .decides = "reason received state protocol FIN SYN RST direction",
    },
    {
        .rule = "late_ack",
        .reasons = "NO_SOCKET",
        .states = "NONE",
        .flags = "ACK",
        .received = true,
        .decides = "reason received state protocol payload ACK FIN SYN RST direction",
    },
    {
        .rule = "unaccepted_child",
        .places = "tcp_disconnect|sk_stream_kill_queues|skb_rbtree_purge|skb_queue_purge|"
                  "skb_queue_purge_reason",
        .callers = "inet_child_forget",
        .flags = "PSH|ACK",
        .payload = true,
        .without_reasons = true,
        .decides = "place caller direction",
    },
    {
        /* It is a caller of itself. */
        .rule = "unaccepted_child",
        .places = "inet_child_forget",
        .flags = "PSH|ACK",
        .payload = true,
        .without_reasons = true,
        .decides = "place direction",
    },
    {
        .rule = "fin_ofo_purge",
        .places = "skb_rbtree_purge",
        .callers = "tcp_fin",
        .states = "CLOSE_WAIT",
        .flags = "PSH|ACK",
        .payload = true,
        .without_reasons = true,
        .decides = "place caller state direction",
    },
    {
        .rule = "error_queue",
        .places = "skb_queue_purge|skb_queue_purge_reason",
        .callers = "sk_stream_kill_queues|inet_sock_destruct",
        .states = "CLOSE",
        .flags = "ACK",
        .transmit = true,
        .without_reasons = true,
        .decides = "place caller state direction",
    },
    {
        .rule = "error_queue",
        .places = "skb_queue_purge|skb_queue_purge_reason",
        .callers = "sk_stream_kill_queues|inet_sock_destruct",
        .states = "CLOSE",
        .protocol = "icmp",
        .without_reasons = true,
        .decides = "place caller state protocol",
    },
    {
        .rule = "error_queue",
        .places = "skb_queue_purge|skb_queue_purge_reason",
        .callers = "sk_stream_kill_queues|inet_sock_destruct",
        .states = "CLOSE",
        .protocol = "icmpv6",
        .without_reasons = true,
        .decides = "place caller state protocol",
    },
    {
        .rule = "sniffer_copy",
        .places = "skb_queue_purge|skb_queue_purge_reason",
        .callers = "packet_release",
        .flags = "PSH|ACK",
        .payload = true,
        .without_reasons = true,
        .decides = "place caller",
    },
    {
        .rule = "sniffer_copy",
        .places = "packet_rcv|tpacket_rcv",
        .flags = "PSH|ACK",
        .payload = true,
        .without_reasons = true,
        .decides = "place",
    },
    {
        .rule = "neigh_teardown",
        .places = "neigh_invalidate|arp_error_report|ndisc_error_report",
        .flags = "FIN|ACK",
        .transmit = true,
        .without_reasons = true,
        .decides = "place FIN SYN payload direction",
    },
    {
        .rule = "neigh_teardown",
        .places = "neigh_invalidate|arp_error_report|ndisc_error_report",
        .flags = "RST",
        .transmit = true,
        .without_reasons = true,
        .decides = "place RST SYN payload direction",
    },
    {
        .rule = "nic_tx_done",
        .places = "net_tx_action|__dev_kfree_skb_any|dev_kfree_skb_any_reason",
        .callers = "__napi_poll|bnxt_tx_int|__bnxt_tx_int",
        .reasons = "NOT_SPECIFIED",
        .flags = "PSH|ACK",
        .payload = true,
        .transmit = true,
        .without_reasons = true,
        .decides = "place caller reason direction",
    },
    {
        .rule = "reset_to_nobody",
        .places = "tcp_v4_rcv|tcp_v6_rcv",
        .reasons = "NO_SOCKET",
        .states = "NONE",
        .flags = "RST",
        .decides = "place reason RST SYN payload direction",
    },
};

static const char *const facts[] = {
    "place",  "caller",   "reason", "state",  "FIN",      "SYN",     "RST",
    "PSH",    "ACK",      "URG",    "ECE",    "received", "payload", "direction",
    "family", "protocol", "ends",   "device", "netns",
};

/** Makes one of the facts another than it is. */
static void change(struct drop *drop, const char *fact)
{
    struct packet *p = &drop->packet;
    int flag = packet_flag_value(fact);

    if (flag >= 0) {
        p->tcp_flags ^= (__u8)flag;
    } else if (strcmp(fact, "place") == 0) {
        drop->place = "split_not";
    } else if (strcmp(fact, "caller") == 0) {
        drop->caller = "split_not";
    } else if (strcmp(fact, "reason") == 0) {
        drop->reason = reason_number("TCP_CSUM");
    } else if (strcmp(fact, "state") == 0) {
        p->state = (__u8)packet_state_value("ESTABLISHED");
    } else if (strcmp(fact, "received") == 0) {
        drop->received = !drop->received;
    } else if (strcmp(fact, "payload") == 0) {
        p->payload_len = !p->payload_len;
    } else if (strcmp(fact, "direction") == 0) {
        p->iif = !p->iif;
    } else if (strcmp(fact, "family") == 0) {
        p->family = AF_INET6;
        set_addr(p->saddr, "2001:db8::1");
        set_addr(p->daddr, "2001:db8::2");
    } else if (strcmp(fact, "protocol") == 0) {
        p->protocol = IPPROTO_SCTP;
    } else if (strcmp(fact, "ends") == 0) {
        set_addr(p->saddr, "192.0.2.77");
        p->dport = 9;
    } else if (strcmp(fact, "device") == 0) {
        set_device(drop, "");
    } else {
        assert_string_equal(fact, "netns");
        p->netns = 0;
    }
}

static bool has_word(const char *words, const char *word)
{
    for (size_t len; *words; words += len + (words[len] == ' ')) {
        len = strcspn(words, " ");
        if (len == strlen(word) && strncmp(words, word, len) == 0)
            return true;
    }
    return false;
}

/** The i-th of a|b|c; NULL behind the last, or once if there is no list. */
static const char *nth_name(const char *names, unsigned i, char ret[64])
{
    while (names && i-- > 0) {
        names = strchr(names, '|');
        names = names ? names + 1 : NULL;
    }
    if (!names)
        return NULL;
    snprintf(ret, 64, "%.*s", (int)strcspn(names, "|"), names);
    return ret;
}

static const struct noise_rule *noise_rule(const char *name)
{
    for (const struct noise_rule *rule = noise_rules; rule->name; rule++)
        if (strcmp(rule->name, name) == 0)
            return rule;
    fail_msg("there is no built-in rule %s", name);
    return NULL;
}

/** `all`: all rules on the recent kernel. Notes the rows that have been of use. */
static void check_noise_drop(const struct noise_case *c, const struct drop *noise,
                             const struct dropwatch_settings *all, bool used[DROPWATCH_ROWS_MAX])
{
    const struct noise_rule *rule = noise_rule(c->rule);
    struct drop drop = *noise;
    int index = first_match(all, noise);

    for (int row = -1; (row = next_match(all, noise, (unsigned)row + 1)) >= 0;)
        used[row] = true;
    if (index != rule - noise_rules)
        fail_msg("%s in %s is taken out by %s", c->rule, noise->place,
                 index < 0 ? "nothing" : noise_rules[index].name);

    for (size_t i = 0; i < ARRAY_SIZE(facts); i++) {
        bool decides = has_word(c->decides, facts[i]);

        drop = *noise;
        change(&drop, facts[i]);
        if (matches(rule->conditions, &drop) == decides)
            fail_msg("%s in %s: %s %s", c->rule, noise->place, facts[i],
                     decides ? "does not matter, but should" : "matters, but should not");
    }

    drop = *noise;
    drop.reason = 0;
    if (matches_on(&old, rule->conditions, &drop) != c->without_reasons)
        fail_msg("%s in %s: on a kernel without reasons it is%s taken out", c->rule, noise->place,
                 c->without_reasons ? " not" : "");
}

static void compile_noise(const struct kernel *kernel, struct dropwatch_settings *ret)
{
    for (unsigned i = 0; noise_rules[i].name; i++)
        assert_int_equal(dropwatch_rule_compile(kernel, noise_rules[i].conditions, i, ret), 0);
}

static struct drop noise_drop(const struct noise_case *c, const char *reason, const char *socket)
{
    struct drop drop = some_drop();

    drop.packet.tcp_flags = (__u8)(c->flags ? flags_value(c->flags) : 0);
    if (c->protocol)
        drop.packet.protocol = (__u8)packet_protocol_value(c->protocol);
    drop.packet.payload_len = c->payload ? 100 : 0;
    drop.received = c->received;
    drop.packet.iif = c->transmit ? 0 : 3;
    drop.packet.state = (__u8)packet_state_value(socket ? socket : "ESTABLISHED");
    if (reason)
        drop.reason = reason_number(reason);
    return drop;
}

static void test_noise(void **state)
{
    struct dropwatch_settings all = {};
    bool used[DROPWATCH_ROWS_MAX] = {};

    (void)state;
    compile_noise(&recent, &all);
    for (size_t i = 0; i < ARRAY_SIZE(noise_cases); i++) {
        const struct noise_case *c = &noise_cases[i];
        char place[64], caller[64], reason[64], socket[64];
        unsigned p = 0, a = 0, r = 0, s = 0;

        /* Every combination of what is listed. */
        for (;;) {
            struct drop drop =
                noise_drop(c, nth_name(c->reasons, r, reason), nth_name(c->states, s, socket));

            if (nth_name(c->places, p, place))
                drop.place = place;
            if (nth_name(c->callers, a, caller))
                drop.caller = caller;
            check_noise_drop(c, &drop, &all, used);
            if (nth_name(c->places, ++p, place))
                continue;
            p = 0;
            if (nth_name(c->callers, ++a, caller))
                continue;
            a = 0;
            if (nth_name(c->reasons, ++r, reason))
                continue;
            r = 0;
            if (!nth_name(c->states, ++s, socket))
                break;
        }
    }

    /* Nothing that is built in goes without a case: no row, no alternative that has none here. */
    for (unsigned row = 0; row < all.n_rows; row++)
        if (!used[row])
            fail_msg("no case for row %u, of %s", row, noise_rules[all.rows[row].rule].name);
    for (const struct noise_rule *rule = noise_rules; rule->name; rule++) {
        assert_true(strlen(rule->why) > 20);
        for (const char *at = rule->conditions; at; at = strchr(at, ';')) {
            _free_ char *alternative = NULL;

            at += *at == ';';
            alternative = strndup(at, strcspn(at, ";"));
            if (n_rows(&recent, alternative) == 0)
                fail_msg("%s: the test's kernel has not all that is named in%s", rule->name,
                         alternative);
        }
    }
}

/** What is lost in the same places must never look like noise. */
static void test_losses(void **state)
{
    static const struct {
        const char *place, *caller, *reason, *socket, *flags;
        bool payload, transmit;
    } losses[] = {
        {"tcp_v4_rcv", "ip_rcv", "NO_SOCKET", "NONE", "SYN", false, false},
        {"tcp_v4_rcv", "ip_rcv", "NO_SOCKET", "NONE", "ACK", false, false},
        {"tcp_v4_rcv", "ip_rcv", "TCP_CSUM", "NONE", "FIN|ACK", false, false},
        /* the last ACK of a handshake that the full accept queue refuses */
        {"tcp_v4_rcv", "ip_rcv", "NOT_SPECIFIED", "NONE", "ACK", false, false},
        {"tcp_v4_rcv", "ip_rcv", "NOT_SPECIFIED", "TIME_WAIT", "SYN", false, false},
        {"tcp_v4_rcv", "ip_rcv", "NOT_SPECIFIED", "TIME_WAIT", "PSH|ACK", true, false},
        {"tcp_rcv_state_process", "ip_rcv", "NOT_SPECIFIED", "CLOSE_WAIT", "ACK", true, false},
        {"tcp_rcv_state_process", "ip_rcv", "NOT_SPECIFIED", "LISTEN", "SYN", false, false},
        {"tcp_disconnect", "do_syscall_64", "QUEUE_PURGE", "CLOSE", "PSH|ACK", true, false},
        {"skb_rbtree_purge", "ip_rcv", "NOT_SPECIFIED", "CLOSE", "PSH|ACK", true, false},
        {"sk_stream_kill_queues", "tcp_fin", "QUEUE_PURGE", "CLOSE", "FIN|PSH|ACK", true, false},
        {"neigh_invalidate", "other", "NOT_SPECIFIED", "SYN_SENT", "SYN", false, true},
        {"neigh_invalidate", "other", "NOT_SPECIFIED", "ESTABLISHED", "PSH|ACK", true, true},
        {"net_tx_action", "other", "NOT_SPECIFIED", "ESTABLISHED", "PSH|ACK", true, true},
        {"other", "other", "NETFILTER_DROP", "FIN_WAIT1", "FIN|ACK", false, true},
        {"other", "other", "TCP_CSUM", "ESTABLISHED", "PSH|ACK", true, false},
    };
    const struct kernel *const kernels[] = {&recent, &old};

    (void)state;
    for (size_t k = 0; k < ARRAY_SIZE(kernels); k++) {
        struct dropwatch_settings all = {};

        compile_noise(kernels[k], &all);
        for (size_t i = 0; i < ARRAY_SIZE(losses); i++) {
            struct drop drop = some_drop();
            int rule;

            drop.place = losses[i].place;
            drop.caller = losses[i].caller;
            drop.reason = kernels[k] == &old ? 0 : reason_number(losses[i].reason);
            drop.packet.state = (__u8)packet_state_value(losses[i].socket);
            drop.packet.tcp_flags = (__u8)flags_value(losses[i].flags);
            drop.packet.payload_len = losses[i].payload;
            drop.packet.iif = !losses[i].transmit;
            rule = first_match(&all, &drop);
            if (rule >= 0)
                fail_msg("loss %zu (%s) is taken out by %s", i, drop.place, noise_rules[rule].name);
        }
    }
}

/** All built-in rules must leave the operator some room on the kernel that this runs on. */
static void test_noise_fits_here(void **state)
{
    struct dropwatch_settings all = {};
    int fd = open("/proc/kallsyms", O_RDONLY | O_CLOEXEC);
    struct kernel here = {};

    (void)state;
    if (fd < 0 || symbols_new(fd, &here.symbols) < 0)
        skip();
    if (symbols_state(here.symbols) != SYMBOLS_OK || enums_new("", &here.enums) < 0) {
        symbols_free(here.symbols);
        skip();
    }
    for (unsigned i = 0; noise_rules[i].name; i++) {
        unsigned before = all.n_rows;

        assert_int_equal(dropwatch_rule_compile(&here, noise_rules[i].conditions, i, &all), 0);
        print_message("# %s: %u rows\n", noise_rules[i].name, all.n_rows - before);
    }
    print_message("# %u of %u rows, %u of %u ranges\n", all.n_rows, DROPWATCH_ROWS_MAX,
                  all.n_ranges, DROPWATCH_RANGES_MAX);
    assert_true(all.n_rows > 0);
    assert_true(all.n_rows <= DROPWATCH_ROWS_MAX * 3 / 4);
    assert_true(all.n_ranges <= DROPWATCH_RANGES_MAX * 3 / 4);
    symbols_free(here.symbols);
    enums_free(here.enums);
}

/* --- options to settings */

static void *default_options(void)
{
    void *options = calloc(1, dropwatch->options_size);

    assert_non_null(options);
    assert_int_equal(option_defaults(dropwatch->options, options), 0);
    return options;
}

static void free_options(void *options)
{
    option_done(dropwatch->options, options);
    free(options);
}

static int set_option(void *options, const char *key, const char *const *items, size_t n)
{
    char error[512];

    return option_parse_list(option_find(dropwatch->options, key), items, n, options, error,
                             sizeof(error));
}

static int configure(const void *options, struct dropwatch_settings *settings, char error[512])
{
    const struct decode decode = {.kernel = &recent, .options = options};

    error[0] = '\0';
    return dropwatch->configure(&decode, settings, error, 512);
}

static void test_configure(void **state)
{
    static const char *const two[] = {"tcp", "132"}, *const all[] = {"all"};
    static const char *const off[] = {"probe", "duplicate", "own"};
    static const char *const ignore[] = {"mine: port=80 direction=rx", "other: place=no_such"};
    const struct dropwatch_settings none = {};
    struct dropwatch_settings s = {}, before;
    unsigned n_built_in = 0, mine, default_rows;
    struct drop drop = some_drop();
    void *options = default_options();
    char error[512];

    (void)state;
    assert_int_equal(dropwatch->settings_size, sizeof(s));
    assert_int_equal(dropwatch->wire_size, sizeof(struct dropwatch_wire));
    while (noise_rules[n_built_in].name)
        n_built_in++;
    mine = 1 + n_built_in;

    assert_int_equal(configure(options, &s, error), 0);
    assert_int_equal(s.protocols[0], 1ULL << IPPROTO_TCP);
    assert_int_equal(s.protocols[1] | s.protocols[2] | s.protocols[3], 0);
    assert_false(s.keep_own);
    /* What this kernel calls things. */
    assert_int_equal(s.refused_reason, reason_number("TCP_LISTEN_OVERFLOW"));
    assert_int_equal(s.core_reasons[0], reason_number("UNHANDLED_PROTO"));
    assert_int_equal(s.core_reasons[1], 0);
    assert_int_equal(s.counters[DROPWATCH_OVERFLOWS], 20);
    assert_int_equal(s.counters[DROPWATCH_FULL_DROP], 80);
    assert_int_equal(s.counters[DROPWATCH_FULL_COOKIES], 0);
    default_rows = s.n_rows;
    for (unsigned i = 0; i < s.n_rows; i++)
        assert_in_range(s.rows[i].rule, 1, n_built_in);
    assert_string_equal(dropwatch->rule_name(options, 0), "own");
    for (unsigned i = 0; i < n_built_in; i++)
        assert_string_equal(dropwatch->rule_name(options, 1 + i), noise_rules[i].name);
    assert_null(dropwatch->rule_name(options, mine));

    assert_int_equal(set_option(options, "protocols", two, 2), 0);
    assert_int_equal(set_option(options, "noise_rules_off", off, 3), 0);
    assert_int_equal(set_option(options, "ignore", ignore, 2), 0);
    assert_int_equal(configure(options, &s, error), -ENOENT); /* and all the rest is in force */
    assert_non_null(strstr(error, "other: place=no_such"));
    assert_int_equal(s.protocols[0], 1ULL << IPPROTO_TCP);
    assert_int_equal(s.protocols[2], 1ULL << (IPPROTO_SCTP - 128));
    assert_int_equal(first_match(&s, &drop), mine);
    drop.packet.dport = 81;
    assert_int_equal(first_match(&s, &drop), -1);
    for (unsigned i = 0; i < s.n_rows; i++) {
        const char *name = dropwatch->rule_name(options, s.rows[i].rule);

        assert_string_not_equal(name, "probe");
        assert_string_not_equal(name, "duplicate");
        assert_string_not_equal(name, "");
    }
    assert_true(s.n_rows < default_rows + 2);
    assert_true(s.keep_own);
    assert_string_equal(dropwatch->rule_name(options, 0), "");
    assert_string_equal(dropwatch->rule_name(options, mine), "mine");
    assert_string_equal(dropwatch->rule_name(options, mine + 1), "other");
    assert_null(dropwatch->rule_name(options, mine + 2));
    assert_null(dropwatch->rule_name(options, UINT32_MAX));

    before = s;
    assert_int_equal(configure(options, &s, error), -ENOENT);
    assert_memory_equal(&before, &s, sizeof(s));

    /* Rules that need ranges are in force too, and only those that are on. */
    drop.place = "tcp_rcv_state_process";
    drop.reason = reason_number("NOT_SPECIFIED");
    drop.packet.state = (__u8)packet_state_value("LAST_ACK");
    assert_string_equal(dropwatch->rule_name(options, (unsigned)first_match(&s, &drop)),
                        "half_closed_ack");
    drop.place = "tcp_validate_incoming";
    drop.reason = reason_number("TCP_OLD_SEQUENCE");
    assert_int_equal(first_match(&s, &drop), -1);

    /* Nothing is left of what was configured before. */
    assert_int_equal(set_option(options, "protocols", all, 1), 0);
    assert_int_equal(set_option(options, "ignore", NULL, 0), 0);
    assert_int_equal(set_option(options, "noise_rules_off", NULL, 0), 0);
    assert_int_equal(configure(options, &s, error), 0);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(s.protocols[i], UINT64_MAX);
    assert_int_equal(s.n_rows, default_rows);
    assert_memory_not_equal(&none, &s, sizeof(s));
    free_options(options);
}

static void test_configure_refuses(void **state)
{
    static const char *const bad_protocol[] = {"tpc"}, *const bad_off[] = {"prode"};
    static const char *const bad_rule[] = {"mine: port=80", "theirs: prot=80"};
    static const char *const many_rows[] = {
        "r1: addr=10.0.0.1 port=1; addr=10.0.0.1 port=2; addr=10.0.0.1 port=3",
        "r2: addr=10.0.0.1 port=1; addr=10.0.0.1 port=2; addr=10.0.0.1 port=3",
        "r3: addr=10.0.0.1 port=1; addr=10.0.0.1 port=2; addr=10.0.0.1 port=3",
        "r4: addr=10.0.0.1 port=1; addr=10.0.0.1 port=2; addr=10.0.0.1 port=3",
        "r5: addr=10.0.0.1 port=1; addr=10.0.0.1 port=2; addr=10.0.0.1 port=3",
        "r6: addr=10.0.0.1 port=1; addr=10.0.0.1 port=2; addr=10.0.0.1 port=3",
        "r7: addr=10.0.0.1 port=1; addr=10.0.0.1 port=2; addr=10.0.0.1 port=3",
        "r8: addr=10.0.0.1 port=1; addr=10.0.0.1 port=2; addr=10.0.0.1 port=3",
    };
    static const char *const same_name[] = {"a: port=80", "ab: port=80", "a: port=81"};
    char texts[WIRE_RULES_MAX][32], error[512];
    const char *many_rules[WIRE_RULES_MAX];
    size_t room = 1;
    struct dropwatch_settings s = {}, before;
    struct drop drop = some_drop();
    void *options = default_options();

    (void)state;
    assert_int_equal(set_option(options, "protocols", bad_protocol, 1), -EINVAL);
    assert_int_equal(set_option(options, "noise_rules_off", bad_off, 1), -EINVAL);
    assert_int_equal(set_option(options, "ignore", bad_rule, 2), -EINVAL);
    assert_int_equal(set_option(options, "ignore", same_name, 2), 0);
    assert_int_equal(set_option(options, "ignore", same_name, 3), -EINVAL);
    assert_int_equal(set_option(options, "ignore", NULL, 0), 0);

    assert_int_equal(configure(options, &s, error), 0);
    before = s;
    assert_int_equal(set_option(options, "ignore", many_rows, ARRAY_SIZE(many_rows)), 0);
    assert_int_equal(configure(options, &s, error), -E2BIG);
    assert_non_null(strstr(error, "more rules than there is room for"));
    /* What fits is in force. */
    assert_memory_equal(&before.rows, &s.rows, before.n_rows * sizeof(s.rows[0]));
    assert_true(s.n_rows > before.n_rows);
    drop.packet.dport = 1;
    assert_string_equal(dropwatch->rule_name(options, (unsigned)first_match(&s, &drop)), "r1");

    for (size_t i = 0; i < WIRE_RULES_MAX; i++) {
        snprintf(texts[i], sizeof(texts[i]), "r%zu: dport=%zu", i, i);
        many_rules[i] = texts[i];
    }
    /* With `own` and the built-in ones; there are no more counters. */
    for (room = WIRE_RULES_MAX - 1; noise_rules[WIRE_RULES_MAX - 1 - room].name;)
        room--;
    assert_int_equal(set_option(options, "ignore", many_rules, room + 1), -EINVAL);
    assert_int_equal(set_option(options, "ignore", many_rules, room), 0);
    configure(options, &s, error);
    assert_memory_equal(&before.rows, &s.rows, before.n_rows * sizeof(s.rows[0]));
    assert_string_equal(dropwatch->rule_name(options, (unsigned)first_match(&s, &drop)), "r1");
    for (unsigned i = 0; i < s.n_rows; i++)
        assert_in_range(s.rows[i].rule, 1, WIRE_RULES_MAX - 1); /* there are no more counters */
    free_options(options);
}

/* --- from bytes to fields */

#define TIME_NS (UINT64_C(1749629116) * NS_PER_SEC)

static const struct record_origin origin = {
    .hostname = "web1", .region = "", .kernel_release = "6.1.0", .boot_id = "boot"};

struct field {
    const char *key, *json;
};

static void assert_fields(json_t *object, const struct field *expected)
{
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value)
    {
        _free_ char *json = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

        if (!expected->key)
            fail_msg("the field %s is one too many", key);
        assert_string_equal(key, expected->key);
        if (strcmp(json, expected->json) != 0)
            fail_msg("%s is %s instead of %s", key, json, expected->json);
        expected++;
    }
    if (expected->key)
        fail_msg("the field %s is missing", expected->key);
}

/** The kernel's bytes through to the document; NULL and `*ret_error` if they are refused. */
static json_t *decode(const struct kernel *kernel, const struct dropwatch_wire *wire,
                      int *ret_error)
{
    const struct decode d = {.kernel = kernel};
    _cleanup_(record_freep) struct record *r = NULL;
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    json_error_t error;
    json_t *json;

    assert_int_equal(record_new(&origin, dropwatch, 0, TIME_NS, &r), 0);
    *ret_error = dropwatch->decode(&d, wire, r);
    if (*ret_error < 0)
        return NULL;
    assert_int_equal(record_finish(r, TIME_NS, &doc), 0);
    json = json_loadb(doc->json, doc->len, JSON_REJECT_DUPLICATES, &error);
    if (!json)
        fail_msg("%s at %d: %s", error.text, error.position, doc->json);
    return json;
}

static json_t *decode_fine(const struct kernel *kernel, const struct dropwatch_wire *wire)
{
    int r;
    json_t *json = decode(kernel, wire, &r);

    assert_int_equal(r, 0);
    return json;
}

static const char *get_string(json_t *json, const char *object, const char *key)
{
    const char *text =
        json_string_value(json_object_get(object ? json_object_get(json, object) : json, key));

    assert_non_null(text);
    return text;
}

static void set_stack(struct dropwatch_wire *w, const char *const *names)
{
    size_t n = 0;

    for (; names[n]; n++)
        w->head.stack[n] = inside(names[n]);
    w->head.stack_bytes = (__s32)(n * 8);
}

static struct dropwatch_wire some_wire(void)
{
    static const char *const stack[] = {"tcp_v4_rcv", "__release_sock", "do_syscall_64", NULL};
    struct dropwatch_wire w = {
        .head =
            {
                .task_start_ns = 5,
                .nth = 1,
                .cpu = 3,
                .pid = 4711,
                .tid = 4712,
                .ppid = 1,
                .uid = 1000,
                .comm = "java",
            },
        .packet =
            {
                .device = "eth0",
                .sport = 15402,
                .dport = 2052,
                .protocol = IPPROTO_TCP,
                .family = AF_INET,
                .state = 10,
                .tcp_flags = 0x12,
                .seq = 4294967295,
                .ack_seq = 7,
                .pkt_len = 74,
                .payload_len = 20,
                .max_ack_backlog = 128,
                .socket_uid = 33,
                .netns = 4026531840,
                .ifindex = 2,
                .iif = 2,
                .queue_mapping = 11,
                .socket = PACKET_SOCKET_GIVEN,
                .socket_inode = 77,
            },
        .place = inside("tcp_v4_rcv"),
        .reason = reason_number("NO_SOCKET"),
        .has_reason = 1,
    };

    set_addr(w.packet.saddr, "10.79.68.62");
    set_addr(w.packet.daddr, "10.179.142.26");
    set_stack(&w, stack);
    return w;
}

static void test_decode(void **state)
{
    /* First what the spec has, in its order, then what we add; the stack stays last. */
    static const struct field expected[] = {
        {"type", "\"common_drop\""},
        {"comm", "\"java\""},
        {"pid", "4711"},
        {"saddr", "\"10.79.68.62\""},
        {"daddr", "\"10.179.142.26\""},
        {"sport", "15402"},
        {"dport", "2052"},
        {"src_hostname", "\"\""},
        {"dest_hostname", "\"\""},
        {"max_ack_backlog", "128"},
        {"seq", "4294967295"},
        {"ack_seq", "7"},
        {"queue_mapping", "11"},
        {"pkt_len", "74"},
        {"state", "\"LISTEN\""},
        {"reason", "\"NO_SOCKET\""},
        {"place", "\"tcp_v4_rcv+0x20\""},
        {"direction", "\"rx\""},
        {"device", "\"eth0\""},
        {"ifindex", "2"},
        {"netns", "4026531840"},
        {"family", "\"ipv4\""},
        {"protocol", "\"tcp\""},
        {"tcp_flags", "\"SYN|ACK\""},
        {"payload_len", "20"},
        {"socket", "\"given\""},
        {"socket_uid", "33"},
        {"socket_inode", "77"},
        {"tid", "4712"},
        {"cpu", "3"},
        {"context", "\"process\""},
        {"process_role", "\"reader\""},
        {"stack",
         "\"tcp_v4_rcv/ffffffff81001000 [kernel]\\n__release_sock/ffffffff81022000 [kernel]\\n"
         "do_syscall_64/ffffffff8101e000 [kernel]\""},
        {},
    };
    static const struct field process[] = {
        {"pid", "4711"}, {"tid", "4712"}, {"ppid", "1"}, {"uid", "1000"}, {"comm", "\"java\""}, {},
    };
    const struct dropwatch_wire w = some_wire();
    json_t *json = decode_fine(&recent, &w);

    (void)state;
    assert_fields(json_object_get(json, "tracer_data"), expected);
    assert_fields(json_object_get(json, "process"), process);
    assert_string_equal(get_string(json, NULL, "tracer_name"), "dropwatch");
    assert_string_equal(get_string(json, NULL, "summary"),
                        "tcp SYN|ACK packet from 10.79.68.62:15402 to 10.179.142.26:2052 was "
                        "dropped on receive in tcp_v4_rcv, device eth0: NO_SOCKET - nobody listens "
                        "on that port");
    json_decref(json);
}

/** What is asked for later, and where the answers stand. */
static void test_holes(void **state)
{
    const struct dropwatch_wire w = some_wire();
    const struct decode d = {.kernel = &recent};
    _cleanup_(record_freep) struct record *r = NULL;
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    unsigned owners = 0;
    json_t *json;

    (void)state;
    assert_int_equal(record_new(&origin, dropwatch, 0, TIME_NS, &r), 0);
    assert_int_equal(dropwatch->decode(&d, &w, r), 0);
    assert_int_equal(record_n_holes(r), 3);
    for (unsigned i = 0; i < record_n_holes(r); i++) {
        if (record_hole_socket(r, i)) {
            assert_int_equal(record_hole_socket(r, i), 77);
            record_owner_fill(r, i, 99, "nginx");
            owners++;
        } else if (memcmp(record_hole_addr(r, i), w.packet.saddr, 16) == 0) {
            record_host_fill(r, i, "from.example");
        } else {
            assert_memory_equal(record_hole_addr(r, i), w.packet.daddr, 16);
            record_host_fill(r, i, "to.example");
        }
    }
    assert_int_equal(owners, 1);
    assert_int_equal(record_get_process(r)->start_boot_ns, 5);
    assert_int_equal(record_finish(r, TIME_NS, &doc), 0);
    assert_int_equal(doc->n_stacks, 1);
    assert_int_equal(doc->pid, 4711);
    json = json_loadb(doc->json, doc->len, JSON_REJECT_DUPLICATES, NULL);
    assert_string_equal(get_string(json, "tracer_data", "src_hostname"), "from.example");
    assert_string_equal(get_string(json, "tracer_data", "dest_hostname"), "to.example");
    assert_string_equal(get_string(json, "tracer_data", "owner_comm"), "nginx");
    json_decref(json);
}

static void test_decode_others(void **state)
{
    struct dropwatch_wire w = some_wire();
    json_t *json, *data;

    (void)state;
    /* IPv6, on its way out, without socket, device and reason */
    w.packet.family = AF_INET6;
    set_addr(w.packet.saddr, "2001:db8::1");
    set_addr(w.packet.daddr, "fe80::2");
    w.packet.iif = w.packet.ifindex = 0;
    w.packet.device[0] = '\0';
    w.packet.socket = PACKET_SOCKET_NONE;
    w.packet.socket_inode = 0;
    w.packet.state = 0;
    w.has_reason = 0;
    json = decode_fine(&old, &w);
    data = json_object_get(json, "tracer_data");
    assert_string_equal(get_string(json, "tracer_data", "saddr"), "2001:db8::1");
    assert_string_equal(get_string(json, "tracer_data", "family"), "ipv6");
    assert_string_equal(get_string(json, "tracer_data", "direction"), "tx");
    assert_string_equal(get_string(json, "tracer_data", "process_role"), "sender");
    assert_string_equal(get_string(json, "tracer_data", "state"), "NONE");
    assert_string_equal(get_string(json, "tracer_data", "reason"), "");
    assert_string_equal(get_string(json, "tracer_data", "socket"), "none");
    assert_null(json_object_get(data, "socket_inode"));
    assert_string_equal(get_string(json, NULL, "summary"),
                        "tcp SYN|ACK packet from [2001:db8::1]:15402 to [fe80::2]:2052 was dropped "
                        "on transmit in tcp_v4_rcv");
    json_decref(json);

    /* UDP: no flags, and a reason that nobody knows */
    w = some_wire();
    w.packet.protocol = IPPROTO_UDP;
    w.packet.tcp_flags = 0;
    w.packet.ifindex = 0; /* the socket has taken the packet off its device */
    w.packet.iif = 9;
    w.reason = 3;
    json = decode_fine(&recent, &w);
    data = json_object_get(json, "tracer_data");
    assert_string_equal(get_string(json, "tracer_data", "protocol"), "udp");
    assert_string_equal(get_string(json, "tracer_data", "reason"), "0x3");
    assert_string_equal(get_string(json, "tracer_data", "tcp_flags"), "");
    assert_int_equal(json_integer_value(json_object_get(data, "ifindex")), 9);
    assert_string_equal(get_string(json, NULL, "summary"),
                        "udp packet from 10.79.68.62:15402 to 10.179.142.26:2052 was dropped on "
                        "receive in tcp_v4_rcv, device eth0: 0x3");
    json_decref(json);

    /* a protocol without a name, a place without a symbol */
    w = some_wire();
    w.packet.protocol = 253;
    w.place = 0x1234;
    json = decode_fine(&recent, &w);
    assert_string_equal(get_string(json, "tracer_data", "protocol"), "253");
    assert_string_equal(get_string(json, "tracer_data", "place"), "0x1234");
    assert_string_equal(get_string(json, NULL, "summary"),
                        "IP packet from 10.79.68.62 to 10.179.142.26 was dropped on receive in "
                        "0x1234, device eth0: NO_SOCKET - nobody listens on that port");
    json_decref(json);
}

static void test_roles(void **state)
{
    static const struct {
        const char *stack[5];
        bool received;
        const char *context, *role;
    } rows[] = {
        {{"tcp_v4_rcv", "ip_rcv", "handle_softirqs"}, true, "softirq", "interrupted"},
        {{"tcp_v4_rcv", "ip_rcv", "__do_softirq", "do_syscall_64"}, true, "softirq", "interrupted"},
        {{"neigh_invalidate", "handle_softirqs"}, false, "softirq", "interrupted"},
        {{"tcp_fin", "__release_sock", "do_syscall_64"}, true, "process", "reader"},
        /* received, but not by who reads: written to a tun device, say */
        {{"ip_rcv", "do_syscall_64"}, true, "process", "sender"},
        {{"ip_rcv", "do_syscall_64"}, false, "process", "sender"},
        {{NULL}, true, "unknown", "unknown"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct dropwatch_wire w = some_wire();
        bool about_process = rows[i].role[0] == 'r' || rows[i].role[0] == 's';
        const char *summary;
        json_t *json;

        set_stack(&w, rows[i].stack);
        w.packet.iif = rows[i].received;
        json = decode_fine(&recent, &w);
        summary = get_string(json, NULL, "summary");
        assert_string_equal(get_string(json, "tracer_data", "context"), rows[i].context);
        assert_string_equal(get_string(json, "tracer_data", "process_role"), rows[i].role);
        assert_string_equal(get_string(json, "tracer_data", "comm"), "java");
        /* A bystander is not whom the record is about. */
        assert_int_equal(json_object_get(json, "process") != NULL, about_process);
        assert_int_equal(strstr(summary, " (in softirq, on top of java[4711])") != NULL,
                         rows[i].role[0] == 'i');
        json_decref(json);
    }
}

static void test_hidden_symbols(void **state)
{
    const struct dropwatch_wire w = some_wire();
    json_t *json = decode_fine(&hidden, &w);

    (void)state;
    assert_string_equal(get_string(json, "tracer_data", "place"), "0xffffffff81001020");
    assert_string_equal(get_string(json, "tracer_data", "stack"),
                        "ffffffff81001020\nffffffff81022020\nffffffff8101e020");
    assert_string_equal(get_string(json, "tracer_data", "process_role"), "unknown");
    assert_string_equal(get_string(json, "tracer_data", "context"), "unknown");
    assert_string_equal(get_string(json, "tracer_data", "reason"), "NO_SOCKET");
    assert_null(json_object_get(json, "process"));
    json_decref(json);
}

static void test_hostile_names(void **state)
{
    static const char comm[] = "\xff\"\n\\\x1b[31m\x7f</sc\xc3";
    static const char device[] = "%n%s\t\xe2\x80\xae"
                                 "12345678";
    struct dropwatch_wire w = some_wire();
    json_t *json;

    (void)state;
    /* No NUL anywhere: what lies behind must not come along. */
    assert_int_equal(strlen(comm), sizeof(w.head.comm) - 1);
    memcpy(w.head.comm, comm, sizeof(w.head.comm) - 1);
    w.head.comm[sizeof(w.head.comm) - 1] = 'X';
    assert_int_equal(strlen(device), sizeof(w.packet.device));
    memcpy(w.packet.device, device, sizeof(w.packet.device));
    json = decode_fine(&recent, &w);
    assert_string_equal(get_string(json, "tracer_data", "comm"),
                        "\xef\xbf\xbd\"\n\\\x1b[31m\x7f</sc\xef\xbf\xbdX");
    assert_string_equal(get_string(json, "tracer_data", "device"), device);
    assert_non_null(strstr(get_string(json, NULL, "summary"), device));
    json_decref(json);
}

static void test_refused(void **state)
{
    static const __u8 families[] = {0, AF_UNIX, 11, 255};
    struct dropwatch_wire w = some_wire();
    json_t *json;
    int r;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
        w.packet.family = families[i];
        assert_null(decode(&recent, &w, &r));
        assert_int_equal(r, -EBADMSG);
    }
    w = some_wire();
    w.head.stack_bytes = (WIRE_STACK_MAX + 1) * 8;
    assert_null(decode(&recent, &w, &r));
    assert_int_equal(r, -EBADMSG);

    /* No stack: bpf_get_stack() has failed. */
    w.head.stack_bytes = -EFAULT;
    json = decode_fine(&recent, &w);
    assert_string_equal(get_string(json, "tracer_data", "stack"), "");
    json_decref(json);
    w.head.stack_bytes = WIRE_STACK_MAX * 8;
    json_decref(decode_fine(&recent, &w));
}

/* --- listeners */

static struct dropwatch_wire refused_syn(enum dropwatch_type type, enum dropwatch_counter counter)
{
    struct dropwatch_wire w = some_wire();

    w.type = (__u8)type;
    w.counter = (__u8)counter;
    w.place = w.reason = 0;
    w.ack_backlog = 129;
    w.request_queue = 7;
    w.packet.tcp_flags = 2;
    return w;
}

static void test_listen(void **state)
{
    static const struct {
        enum dropwatch_type type;
        enum dropwatch_counter counter;
        const char *name, *place, *shown, *summary;
    } rows[] = {
        {DROPWATCH_HANDSHAKE1, DROPWATCH_OVERFLOWS, "listen_overflow_handshake1",
         "tcp_conn_request", "ListenOverflows",
         "tcp SYN from 10.79.68.62:15402 to 10.179.142.26:2052 was refused: the listener's accept "
         "queue is full (129 wait for accept(); its backlog is 128)"},
        {DROPWATCH_HANDSHAKE3, DROPWATCH_OVERFLOWS, "listen_overflow_handshake3",
         "tcp_v4_syn_recv_sock", "ListenOverflows",
         "tcp final ACK of a handshake from 10.79.68.62:15402 to 10.179.142.26:2052 was refused: "
         "the listener's accept queue is full (129 wait for accept(); its backlog is 128)"},
        {DROPWATCH_SYN_FLOOD, DROPWATCH_FULL_COOKIES, "syn_flood", "tcp_conn_request",
         "TCPReqQFullDoCookies",
         "tcp SYN from 10.79.68.62:15402 to 10.179.142.26:2052 found no room: the listener's "
         "request queue is full (7 wait for their final ACK; its backlog is 128), a SYN cookie "
         "was sent instead"},
        {DROPWATCH_SYN_FLOOD, DROPWATCH_FULL_DROP, "syn_flood", "tcp_conn_request",
         "TCPReqQFullDrop",
         "tcp SYN from 10.79.68.62:15402 to 10.179.142.26:2052 found no room: the listener's "
         "request queue is full (7 wait for their final ACK; its backlog is 128), it was dropped"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct dropwatch_wire w = refused_syn(rows[i].type, rows[i].counter);
        json_t *json = decode_fine(&recent, &w), *data = json_object_get(json, "tracer_data");

        assert_string_equal(get_string(json, "tracer_data", "type"), rows[i].name);
        assert_int_equal(listen_type_value(rows[i].name), rows[i].type);
        assert_string_equal(get_string(json, "tracer_data", "place"), rows[i].place);
        assert_string_equal(get_string(json, "tracer_data", "counter"), rows[i].shown);
        assert_string_equal(get_string(json, "tracer_data", "reason"), "");
        assert_string_equal(get_string(json, "tracer_data", "tcp_flags"), "SYN");
        assert_int_equal(json_integer_value(json_object_get(data, "max_ack_backlog")), 128);
        assert_int_equal(json_integer_value(json_object_get(data, "ack_backlog")), 129);
        assert_int_equal(json_integer_value(json_object_get(data, "request_queue")), 7);
        assert_null(json_object_get(data, "count_only"));
        assert_string_equal(get_string(json, NULL, "summary"), rows[i].summary);
        json_decref(json);
    }
    assert_int_equal(listen_type_value("common"), -1);
    assert_string_equal(listen_type_name(DROPWATCH_TYPES), "");
}

static void test_listen_count(void **state)
{
    struct dropwatch_wire w = {
        .type = DROPWATCH_HANDSHAKE1,
        .counter = DROPWATCH_OVERFLOWS,
        .count_only = 1,
        .count = 17,
        .total = 40,
        .interval_ns = 1003 * NS_PER_MS,
        .ack_backlog = 5,
        .packet = {.family = AF_INET6,
                   .dport = 443,
                   .protocol = IPPROTO_TCP,
                   .state = 10,
                   .netns = 4026531840,
                   .max_ack_backlog = 4,
                   .socket_inode = 77,
                   .socket_uid = 33},
    };
    json_t *json;
    int r;

    (void)state;
    set_addr(w.packet.daddr, "2001:db8::1");
    json = decode_fine(&recent, &w);
    assert_string_equal(get_string(json, "tracer_data", "saddr"), "");
    assert_string_equal(get_string(json, "tracer_data", "daddr"), "2001:db8::1");
    assert_string_equal(get_string(json, "tracer_data", "state"), "LISTEN");
    assert_true(json_is_true(json_object_get(json_object_get(json, "tracer_data"), "count_only")));
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(json, "tracer_data"), "count")), 17);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(json, "tracer_data"), "total")), 40);
    assert_string_equal(get_string(json, NULL, "summary"),
                        "17 tcp SYNs to [2001:db8::1]:443 found no room within 1003 ms: the "
                        "listener's accept queue is full (5 wait for accept(); its backlog is 4)");
    json_decref(json);
    json = decode_fine(&old, &w);
    assert_non_null(strstr(get_string(json, NULL, "summary"), "17 tcp SYNs or final ACKs to "));
    json_decref(json);

    w.packet.family = 0;
    w.type = DROPWATCH_SYN_FLOOD;
    w.counter = DROPWATCH_FULL_COOKIES;
    json = decode_fine(&recent, &w);
    assert_string_equal(get_string(json, "tracer_data", "daddr"), "");
    assert_string_equal(get_string(json, "tracer_data", "state"), "NONE");
    assert_string_equal(get_string(json, NULL, "summary"),
                        "17 tcp SYNs to a listener that is not known found no room within 1003 ms: "
                        "the listener's request queue is full, a SYN cookie was sent instead");
    json_decref(json);

    w.type = DROPWATCH_COMMON;
    assert_null(decode(&recent, &w, &r));
    assert_int_equal(r, -EBADMSG);
    w.type = DROPWATCH_TYPES;
    assert_null(decode(&recent, &w, &r));
    assert_int_equal(r, -EBADMSG);
}

static void test_listen_parse(void **state)
{
    static const char text[] = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPReqQFullDrop "
                               "TCPReqQFullDropNot Last\n"
                               "TcpExt: 1 22 333 4444 55555 6\nIpExt: InNoRoutes\nIpExt: 7\n";
    static const char *const strange[] = {"", "TcpExt: ", "TcpExt: ListenDrops",
                                          "TcpExt: ListenDrops\nTcpExt: ", "\nTcpExt: 5"};
    uint64_t n[DROPWATCH_COUNTERS] = {};

    (void)state;
    listen_parse(text, n);
    assert_int_equal(n[DROPWATCH_OVERFLOWS], 22);
    assert_int_equal(n[DROPWATCH_LISTEN_DROPS], 333);
    assert_int_equal(n[DROPWATCH_FULL_DROP], 4444);
    assert_int_equal(n[DROPWATCH_FULL_COOKIES], 0);
    for (size_t i = 0; i < ARRAY_SIZE(strange); i++) {
        memset(n, 0, sizeof(n));
        listen_parse(strange[i], n);
        assert_int_equal(n[DROPWATCH_LISTEN_DROPS], 0);
    }
}

/** What was told: to the listener of that port, 0: to none. */
struct told {
    unsigned port;
    enum dropwatch_counter counter;
    uint64_t count;
};

struct tale {
    struct told told[8];
    size_t n;
};

static void on_tell(void *arg, struct listener *l, enum dropwatch_counter counter, uint64_t count)
{
    struct tale *t = arg;

    assert_true(t->n < ARRAY_SIZE(t->told));
    t->told[t->n++] = (struct told){l ? l->port : 0, counter, count};
}

static void assert_divided(struct listen_growth *g, struct listener *l, size_t n,
                           const struct told *expected)
{
    struct tale t = {};

    listen_divide(g, l, n, on_tell, &t);
    for (size_t i = 0; i < t.n || expected[i].count; i++) {
        assert_int_equal(t.told[i].count, expected[i].count);
        assert_int_equal(t.told[i].port, expected[i].port);
        assert_int_equal(t.told[i].counter, expected[i].counter);
    }
}

static void test_listen_divide(void **state)
{
    struct listener l[] = {
        {.port = 80, .ack_backlog = 3, .max_ack_backlog = 4, .drops = 5, .told = 5},
        {.port = 81, .ack_backlog = 5, .max_ack_backlog = 4, .drops = 9, .told = 2},
        {.port = 82, .requests = 4, .max_ack_backlog = 4, .drops = 3},
    };
    struct listen_growth g = {.refused = {[DROPWATCH_OVERFLOWS] = 7, [DROPWATCH_FULL_DROP] = 3}};

    (void)state;
    /* Who has dropped nothing new is not named; who is full is, for what fills that queue. */
    assert_divided(
        &g, l, 3,
        (const struct told[]){{81, DROPWATCH_OVERFLOWS, 7}, {82, DROPWATCH_FULL_DROP, 3}, {}});
    assert_divided(&g, l, 3, (const struct told[]){{}});

    /* Counted before the drop was seen: it waits for a look, and is nobody's then. */
    g.refused[DROPWATCH_OVERFLOWS] = 4;
    l[0].drops += 1;
    assert_divided(&g, l, 3, (const struct told[]){{80, DROPWATCH_OVERFLOWS, 1}, {}});
    assert_int_equal(g.refused[DROPWATCH_OVERFLOWS], 3);
    l[1].drops += 2;
    assert_divided(
        &g, l, 3,
        (const struct told[]){{81, DROPWATCH_OVERFLOWS, 2}, {0, DROPWATCH_OVERFLOWS, 1}, {}});
    assert_divided(&g, l, 3, (const struct told[]){{}});

    /* Dropped before it was counted. */
    l[1].drops += 2;
    g.refused[DROPWATCH_OVERFLOWS] = 1;
    assert_divided(&g, l, 3, (const struct told[]){{81, DROPWATCH_OVERFLOWS, 1}, {}});
    g.refused[DROPWATCH_OVERFLOWS] = 1;
    assert_divided(&g, l, 3, (const struct told[]){{81, DROPWATCH_OVERFLOWS, 1}, {}});
    /* But what nobody counts for two looks was dropped for another reason. */
    l[1].drops += 2;
    assert_divided(&g, l, 3, (const struct told[]){{}});
    assert_divided(&g, l, 3, (const struct told[]){{}});
    g.refused[DROPWATCH_OVERFLOWS] = 1;
    assert_divided(&g, l, 3, (const struct told[]){{}});
    assert_divided(&g, l, 3, (const struct told[]){{0, DROPWATCH_OVERFLOWS, 1}, {}});

    /* Cookies are no drops. */
    g.refused[DROPWATCH_FULL_COOKIES] = 6;
    assert_divided(&g, l, 3, (const struct told[]){{82, DROPWATCH_FULL_COOKIES, 6}, {}});
    l[0].requests = 4;
    g.refused[DROPWATCH_FULL_COOKIES] = 6;
    assert_divided(&g, l, 3, (const struct told[]){{}});
    assert_divided(&g, l, 3, (const struct told[]){{0, DROPWATCH_FULL_COOKIES, 6}, {}});

    /* More was told one by one than has been counted yet. */
    g.refused[DROPWATCH_OVERFLOWS] = -2;
    assert_divided(&g, l, 3, (const struct told[]){{}});
    assert_int_equal(g.refused[DROPWATCH_OVERFLOWS], -2);
}

/* --- devices */

static void test_device(void **state)
{
    struct dropwatch_wire w = {
        .type = DROPWATCH_DEVICE,
        .driver = "virtio_net",
        .interval_ns = 2 * NS_PER_SEC,
        .grown = {[DEVICE_RX_MISSED] = 5, [DEVICE_RX_FIFO] = 7},
        .packet = {.device = "eth0", .ifindex = 2, .netns = 4026531840},
    };
    json_t *json = decode_fine(&recent, &w), *data = json_object_get(json, "tracer_data");
    _free_ char *counters = json_dumps(json_object_get(data, "counters"), JSON_COMPACT);
    int r;

    (void)state;
    /* A packet may be in several counters: the sum would be more than was lost. */
    assert_string_equal(get_string(json, "tracer_data", "type"), "device_drop");
    assert_string_equal(get_string(json, "tracer_data", "counter"), "rx_fifo_errors");
    assert_int_equal(json_integer_value(json_object_get(data, "count")), 7);
    assert_int_equal(json_integer_value(json_object_get(data, "interval_ms")), 2000);
    assert_string_equal(counters, "{\"rx_missed_errors\":5,\"rx_fifo_errors\":7}");
    assert_string_equal(get_string(json, "tracer_data", "device"), "eth0");
    assert_string_equal(get_string(json, "tracer_data", "driver"), "virtio_net");
    assert_string_equal(get_string(json, "tracer_data", "saddr"), "");
    assert_string_equal(get_string(json, NULL, "summary"),
                        "eth0 (virtio_net): rx_fifo_errors has grown by 7 within 2000 ms");
    json_decref(json);

    w.type = DROPWATCH_TX_TIMEOUT;
    w.packet.queue_mapping = 3;
    json = decode_fine(&recent, &w);
    assert_string_equal(get_string(json, "tracer_data", "type"), "tx_timeout");
    assert_null(json_object_get(json_object_get(json, "tracer_data"), "counters"));
    assert_string_equal(get_string(json, NULL, "summary"),
                        "eth0 (virtio_net): transmit queue 3 has stood still for too long; the "
                        "driver is told to set the card going again");
    json_decref(json);

    w.type = DROPWATCH_TRAP;
    snprintf(w.trap, sizeof(w.trap), "source_mac_is_multicast");
    json = decode_fine(&recent, &w);
    assert_string_equal(get_string(json, "tracer_data", "trap"), "source_mac_is_multicast");
    assert_string_equal(get_string(json, NULL, "summary"),
                        "eth0: the hardware has dropped a packet: source_mac_is_multicast");
    json_decref(json);
    w.packet.family = AF_INET;
    w.packet.protocol = IPPROTO_UDP;
    w.packet.sport = 53;
    w.packet.dport = 5353;
    set_addr(w.packet.saddr, "10.0.0.1");
    set_addr(w.packet.daddr, "10.0.0.2");
    json = decode_fine(&recent, &w);
    assert_string_equal(get_string(json, "tracer_data", "saddr"), "10.0.0.1");
    assert_string_equal(get_string(json, NULL, "summary"),
                        "eth0: the hardware has dropped a packet from 10.0.0.1:53 to "
                        "10.0.0.2:5353: source_mac_is_multicast");
    json_decref(json);
    w.head.stack_bytes = (WIRE_STACK_MAX + 1) * 8;
    assert_null(decode(&recent, &w, &r));
    assert_int_equal(r, -EBADMSG);
}

static void test_device_parse(void **state)
{
    static const char text[] =
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs "
        "drop fifo colls carrier compressed\n"
        "    lo:  1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n"
        "eth0:1: 10 20 30 40 50 60 70 80 90 100 110 120 130 140 150 160\n"
        "  bad: 1 2 3\n"
        "      : 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
        "a_name_too_long_for_a_device: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
        " last: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
    static const uint64_t some[DEVICE_COLUMNS] = {30, 40, 50, 60, 110, 130, 150};
    const char *at = text;
    struct device_line line;

    (void)state;
    assert_true(device_parse(&at, &line));
    assert_string_equal(line.name, "lo");
    for (unsigned i = 0; i < DEVICE_COLUMNS; i++)
        assert_int_equal(line.losses[i], 0);
    assert_true(device_parse(&at, &line));
    assert_string_equal(line.name, "eth0:1");
    assert_memory_equal(line.losses, some, sizeof(some));
    assert_true(device_parse(&at, &line));
    assert_string_equal(line.name, "last");
    assert_false(device_parse(&at, &line));
    at = "";
    assert_false(device_parse(&at, &line));
}

static size_t put_attr(char *bytes, size_t at, unsigned type, const void *data, size_t len)
{
    struct rtattr a = {.rta_type = (unsigned short)type,
                       .rta_len = (unsigned short)RTA_LENGTH(len)};

    memcpy(bytes + at, &a, sizeof(a));
    memcpy(bytes + at + RTA_LENGTH(0), data, len);
    return at + RTA_SPACE(len);
}

static void test_device_link(void **state)
{
    static const struct rtnl_link_stats64 stats = {
        .rx_missed_errors = 11, .rx_dropped = 12, .tx_dropped = 13, .tx_window_errors = 14};
    _Alignas(8) char bytes[1024] = {}, kind[64] = {};
    struct nlmsghdr *h = (void *)bytes;
    struct ifinfomsg *info = NLMSG_DATA(h);
    size_t n = NLMSG_SPACE(sizeof(*info)), n_kind;
    struct device_answer a;

    (void)state;
    h->nlmsg_type = RTM_NEWLINK;
    info->ifi_index = 7;
    n = put_attr(bytes, n, IFLA_IFNAME, "eth0", 5);
    assert_false(device_read_link(bytes, n, &a)); /* it says nothing of losses */
    n = put_attr(bytes, n, IFLA_STATS64, &stats, sizeof(stats));
    assert_true(device_read_link(bytes, n, &a));
    assert_string_equal(a.name, "eth0");
    assert_int_equal(a.ifindex, 7);
    assert_int_equal(a.counters[DEVICE_RX_MISSED], 11);
    assert_int_equal(a.counters[DEVICE_RX_DROPPED], 12);
    assert_int_equal(a.counters[DEVICE_TX_WINDOW], 14);
    assert_int_equal(a.counters[DEVICE_TX_FIFO], 0);
    for (size_t size = 0; size < n; size++) /* cut anywhere */
        (void)device_read_link(bytes, size, &a);
    info->ifi_flags = IFF_LOOPBACK;
    assert_false(device_read_link(bytes, n, &a));
    info->ifi_flags = 0;
    n_kind = put_attr(kind, 0, IFLA_INFO_KIND, "veth", 5);
    n = put_attr(bytes, n, IFLA_LINKINFO, kind, n_kind);
    assert_false(device_read_link(bytes, n, &a)); /* software */
}

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/** Any bytes: refused, or a sound document. The heap has ASan's fences around them. */
static void test_fuzz(void **state)
{
    struct dropwatch_wire *w = malloc(dropwatch->wire_size);
    const struct kernel *const kernels[] = {&recent, &old, &hidden};
    unsigned fine = 0, refused = 0;
    uint64_t seed = UINT64_C(0x9e3779b97f4a7c15);

    (void)state;
    assert_non_null(w);
    for (unsigned i = 0; i < 6000; i++) {
        json_t *json, *data;
        int r;

        for (size_t at = 0; at < dropwatch->wire_size; at += sizeof(seed)) {
            next_random(&seed);
            memcpy((char *)w + at, &seed, MIN(sizeof(seed), dropwatch->wire_size - at));
        }
        /* Pure noise seldom comes far. */
        if (i % 4) {
            w->packet.family = i % 8 < 4 ? AF_INET : AF_INET6;
            w->type %= DROPWATCH_TYPES + 1;
            w->counter %= DROPWATCH_COUNTERS + 1;
            w->count_only %= 3;
            w->head.stack_bytes %= 2 * WIRE_STACK_MAX * 8;
        }
        if (i % 16 == 1)
            for (size_t frame = 0; frame < WIRE_STACK_MAX; frame++)
                w->head.stack[frame] = TEXT_START + w->head.stack[frame] % (40 * FUNCTION_SIZE);
        json = decode(kernels[i % ARRAY_SIZE(kernels)], w, &r);
        if (!json) {
            assert_true(r == -EBADMSG || r == -ENOMEM);
            refused++;
            continue;
        }
        data = json_object_get(json, "tracer_data");
        assert_true(json_is_string(json_object_get(data, "comm")));
        assert_true(json_is_string(json_object_get(data, "stack")));
        assert_int_equal(json_integer_value(json_object_get(data, "pid")), w->head.pid);
        json_decref(json);
        fine++;
    }
    free(w);
    print_message("# %u decoded, %u refused\n", fine, refused);
    assert_true(fine > 1000);
    assert_true(refused > 1000);
}

static void test_provoke(void **state)
{
    int status = 0;
    pid_t pid = fork();

    (void)state;
    assert_true(pid >= 0);
    if (pid == 0) {
        struct provoked provoked = {};
        int r = dropwatch->provoke(&provoked);

        _exit(r < 0 ? -r : strcmp(provoked.field, "netns") == 0 && provoked.value ? 0 : EBADMSG);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == EPERM)
        skip(); /* no network namespace of one's own without privilege */
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),          cmocka_unit_test(test_places),
        cmocka_unit_test(test_reasons),        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_networks),       cmocka_unit_test(test_either_end),
        cmocka_unit_test(test_devices),        cmocka_unit_test(test_alternatives),
        cmocka_unit_test(test_too_much),       cmocka_unit_test(test_noise),
        cmocka_unit_test(test_losses),         cmocka_unit_test(test_noise_fits_here),
        cmocka_unit_test(test_configure),      cmocka_unit_test(test_configure_refuses),
        cmocka_unit_test(test_decode),         cmocka_unit_test(test_holes),
        cmocka_unit_test(test_decode_others),  cmocka_unit_test(test_roles),
        cmocka_unit_test(test_hidden_symbols), cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_refused),        cmocka_unit_test(test_fuzz),
        cmocka_unit_test(test_provoke),        cmocka_unit_test(test_listen),
        cmocka_unit_test(test_listen_count),   cmocka_unit_test(test_listen_parse),
        cmocka_unit_test(test_listen_divide),  cmocka_unit_test(test_device),
        cmocka_unit_test(test_device_parse),   cmocka_unit_test(test_device_link),
    };

    return cmocka_run_group_tests_name("dropwatch", tests, make_kernels, free_kernels);
}
