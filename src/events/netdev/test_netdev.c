// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/ask.h"
#include "core/clock.h"
#include "core/event.h"
#include "core/test_record.h"
#include "events/netdev/link.h"
#include "events/netdev/netdev.h"
#include "events/netdev/watch.h"
#include "kernel/kernel.h"

#define UP      (IFF_UP | IFF_RUNNING | IFF_LOWER_UP)
#define BACKUP  1
#define MII_OUT 2

static const struct event *netdev;

static int set_up(void **state)
{
    (void)state;
    netdev = event_find("netdev");
    return netdev ? 0 : -1;
}

/** xorshift: the same bytes each time. */
static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* --- messages */

struct message {
    _Alignas(8) uint8_t bytes[2048];
    size_t size;
};

static struct rtattr *put(struct message *m, unsigned short type, const void *data, size_t size)
{
    struct rtattr *attr = (void *)&m->bytes[m->size];

    attr->rta_type = type;
    attr->rta_len = (unsigned short)RTA_LENGTH(size);
    if (size)
        memcpy(RTA_DATA(attr), data, size);
    m->size += RTA_SPACE(size);
    ((struct nlmsghdr *)m->bytes)->nlmsg_len = (uint32_t)m->size;
    return attr;
}

static void put_u32(struct message *m, unsigned short type, uint32_t value)
{
    put(m, type, &value, sizeof(value));
}

static void put_u8(struct message *m, unsigned short type, uint8_t value)
{
    put(m, type, &value, sizeof(value));
}

/** What follows until closed() is inside. */
static struct rtattr *opened(struct message *m, unsigned short type)
{
    return put(m, type | NLA_F_NESTED, NULL, 0);
}

static void closed(struct message *m, struct rtattr *attr)
{
    attr->rta_len = (unsigned short)(&m->bytes[m->size] - (uint8_t *)attr);
}

static void head(struct message *m, uint16_t type, int index, uint32_t flags)
{
    struct nlmsghdr *header = (void *)m->bytes;
    struct ifinfomsg *info = NLMSG_DATA(header);

    memset(m, 0, sizeof(*m));
    header->nlmsg_type = type;
    header->nlmsg_len = NLMSG_LENGTH(sizeof(*info));
    info->ifi_type = ARPHRD_ETHER;
    info->ifi_index = index;
    info->ifi_flags = flags;
    m->size = NLMSG_SPACE(sizeof(*info));
}

/** A slave of a bond. */
static void some_message(struct message *m)
{
    static const uint8_t mac[] = {0x5c, 0x6f, 0x69, 0x34, 0xdc, 0x72};
    struct rtattr *info, *data;

    head(m, RTM_NEWLINK, 3, UP);
    put(m, IFLA_IFNAME, "eth1", 5);
    put(m, IFLA_ADDRESS, mac, sizeof(mac));
    put_u32(m, IFLA_MTU, 1400);
    put_u32(m, IFLA_MASTER, 7);
    put_u8(m, IFLA_OPERSTATE, 6);
    put_u32(m, IFLA_CARRIER_UP_COUNT, 5);
    put_u32(m, IFLA_CARRIER_DOWN_COUNT, 4);
    info = opened(m, IFLA_LINKINFO);
    put(m, IFLA_INFO_SLAVE_KIND, "bond", 4); /* not always with a NUL */
    data = opened(m, IFLA_INFO_SLAVE_DATA);
    put_u8(m, IFLA_BOND_SLAVE_STATE, BACKUP);
    put_u8(m, IFLA_BOND_SLAVE_MII_STATUS, MII_OUT);
    put_u32(m, IFLA_BOND_SLAVE_LINK_FAILURE_COUNT, 17);
    closed(m, data);
    closed(m, info);
}

static void test_parse(void **state)
{
    struct message m;
    struct link_message got;
    const struct netdev_link *l = &got.link;

    (void)state;
    some_message(&m);
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    assert_int_equal(got.type, LINK_NEW);
    assert_int_equal(l->index, 3);
    assert_int_equal(l->flags, UP);
    assert_string_equal(l->name, "eth1");
    assert_int_equal(l->mtu, 1400);
    assert_int_equal(l->master, 7);
    assert_int_equal(l->operstate, 6);
    assert_int_equal(l->carrier_up_count, 5);
    assert_int_equal(l->carrier_down_count, 4);
    assert_int_equal(l->mac_len, 6);
    assert_int_equal(l->mac[5], 0x72);
    assert_true(l->is_bond_slave);
    assert_int_equal(l->slave_state, BACKUP);
    assert_int_equal(l->slave_mii, MII_OUT);
    assert_int_equal(l->slave_failures, 17);
    assert_false(l->peer_elsewhere);
    assert_true(link_is_physical(l));
}

static void test_parse_kinds(void **state)
{
    struct rtattr *info, *data;
    struct link_message got;
    struct message m;

    (void)state;
    head(&m, RTM_NEWLINK, 8, UP);
    put(&m, IFLA_IFNAME, "veth0", 6);
    put_u32(&m, IFLA_LINK, 5);
    put_u32(&m, IFLA_LINK_NETNSID, 0); /* 0 is a namespace, too */
    info = opened(&m, IFLA_LINKINFO);
    put(&m, IFLA_INFO_KIND, "veth", 5);
    closed(&m, info);
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    assert_true(got.link.peer_elsewhere && got.link.has_peer);
    assert_true(link_is_kind(&got.link, "veth") && !link_is_physical(&got.link));

    head(&m, RTM_NEWLINK, 7, UP);
    put(&m, IFLA_IFNAME, "bond0", 6);
    info = opened(&m, IFLA_LINKINFO);
    put(&m, IFLA_INFO_KIND, "bond", 5);
    data = opened(&m, IFLA_INFO_DATA);
    put_u32(&m, IFLA_BOND_ACTIVE_SLAVE, 3);
    closed(&m, data);
    closed(&m, info);
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    assert_int_equal(got.link.active_slave, 3);
    assert_false(got.link.is_bond_slave);

    head(&m, RTM_NEWLINK, 1, UP);
    ((struct ifinfomsg *)NLMSG_DATA((struct nlmsghdr *)m.bytes))->ifi_type = ARPHRD_LOOPBACK;
    put(&m, IFLA_IFNAME, "lo", 3);
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    assert_false(link_is_physical(&got.link));

    head(&m, RTM_DELLINK, 8, 0);
    put(&m, IFLA_IFNAME, "veth0", 6);
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    assert_true(got.type == LINK_DELETED && !got.moved);
    put_u32(&m, IFLA_NEW_NETNSID, 0);
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    assert_true(got.type == LINK_DELETED && got.moved);
}

/** Of other families, of other sorts, cut off. */
static void test_parse_others(void **state)
{
    struct message m;
    struct link_message got;
    struct nlmsghdr *header = (void *)m.bytes;

    (void)state;
    some_message(&m);
    ((struct ifinfomsg *)NLMSG_DATA(header))->ifi_family = AF_BRIDGE;
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    assert_int_equal(got.type, LINK_OTHER);
    some_message(&m);
    ((struct ifinfomsg *)NLMSG_DATA(header))->ifi_index = -1;
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    assert_int_equal(got.type, LINK_OTHER);
    some_message(&m);
    header->nlmsg_type = RTM_NEWADDR;
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    assert_int_equal(got.type, LINK_OTHER);
    some_message(&m);
    assert_int_equal(link_parse(m.bytes, m.size - 1, &got), -EBADMSG);
    assert_int_equal(link_parse(m.bytes, 3, &got), -EBADMSG);
    assert_int_equal(link_parse(m.bytes, 0, &got), -EBADMSG);
    head(&m, RTM_NEWLINK, 3, UP); /* no name */
    assert_int_equal(link_parse(m.bytes, m.size, &got), -EBADMSG);
}

static bool is_padded(const char *bytes, size_t size)
{
    size_t len = strnlen(bytes, size);

    for (size_t i = len; i < size; i++)
        if (bytes[i])
            return false;
    return len < size;
}

static void test_parse_any_bytes(void **state)
{
    uint64_t seed = 11;
    struct message m;

    (void)state;
    some_message(&m);
    for (unsigned n = 0; n < 200000; n++) {
        size_t size = n % 5 ? m.size : next_random(&seed) % (m.size + 1);
        _free_ uint8_t *bytes = malloc(size + 1); /* by itself: what is read beyond is found */
        struct link_message got;

        memcpy(bytes, m.bytes, size);
        for (unsigned changes = next_random(&seed) % 8; size && changes > 0; changes--)
            bytes[next_random(&seed) % size] = (uint8_t)next_random(&seed);
        if (size >= 4 && n % 5 == 0) /* else it would be refused for its length alone */
            memcpy(bytes, &(uint32_t){(uint32_t)size}, 4);
        if (n % 7 == 0)
            for (size_t i = 16; i < size; i++)
                bytes[i] = (uint8_t)next_random(&seed);
        if (link_parse(bytes, size, &got) == 0 && got.type != LINK_OTHER) {
            assert_true(is_padded(got.link.name, sizeof(got.link.name)));
            assert_true(is_padded(got.link.kind, sizeof(got.link.kind)));
            assert_true(got.link.mac_len <= NETDEV_MAC_MAX);
        }
    }
}

static void test_compare(void **state)
{
    struct link_message got;
    struct message m;
    struct netdev_link before, now;

    (void)state;
    some_message(&m);
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    before = now = got.link;
    now.operstate = 2; /* follows from others */
    now.slave_failures++;
    assert_int_equal(link_compare(&before, &now), 0);

#define EXPECT(expected, ...)                                                                      \
    now = before;                                                                                  \
    __VA_ARGS__;                                                                                   \
    assert_int_equal(link_compare(&before, &now), expected);                                       \
    assert_int_equal(link_compare(&now, &before), expected)

    EXPECT(NETDEV_ADMIN | NETDEV_CARRIER, now.flags = 0);
    EXPECT(NETDEV_ADMIN | NETDEV_CARRIER, now.flags = 0, now.carrier_down_count++);
    EXPECT(NETDEV_CARRIER, now.flags = IFF_UP, now.carrier_down_count++);
    EXPECT(0, now.flags = UP | IFF_PROMISC);
    EXPECT(NETDEV_FLAP, now.carrier_down_count++, now.carrier_up_count++);
    EXPECT(0, now.carrier_up_count++);
    EXPECT(NETDEV_MTU, now.mtu = 9000);
    EXPECT(NETDEV_MASTER, now.master = 0);
    EXPECT(NETDEV_NAME, strcpy(now.name, "eth2"));
    EXPECT(NETDEV_MAC, now.mac[0]++);
    EXPECT(NETDEV_MAC, now.mac_len = 0);
    EXPECT(NETDEV_SLAVE_MII, now.slave_mii = 0);
    EXPECT(NETDEV_SLAVE_STATE, now.slave_state = 0);
    EXPECT(NETDEV_MASTER, now.is_bond_slave = 0, now.slave_state = now.slave_mii = 0,
           now.master = 0);
    EXPECT(NETDEV_ACTIVE_SLAVE, now.active_slave = 3);
    EXPECT(0, now.speed_mbps = 1000); /* it was not known */
    before.speed_mbps = 25000;
    EXPECT(NETDEV_SPEED, now.speed_mbps = 1000);
    /* Without carrier all the time: it came and went. */
    before.flags = IFF_UP;
    EXPECT(NETDEV_FLAP, now.carrier_down_count++, now.carrier_up_count++);
    /* Down: counts are of no meaning. */
    before.flags = 0;
    EXPECT(0, now.carrier_down_count++, now.carrier_up_count++);
#undef EXPECT
}

/* --- questions that the kernel may not answer for long */

static void answer(int out, const void *arg)
{
    assert_ptr_equal(arg, &netdev);
    send(out, "one", 3, 0);
    send(out, "three", 5, 0);
}

static void hang(int out, const void *arg)
{
    (void)arg;
    send(out, "one", 3, 0);
    usleep(1500000);
}

static uint64_t soon(void)
{
    return clock_now_ns(CLOCK_MONOTONIC) + 200 * NS_PER_MS;
}

static void test_ask(void **state)
{
    struct ask a = {.fd = -1};
    char buffer[8];

    (void)state;
    for (unsigned times = 0; times < 2; times++) {
        assert_int_equal(ask_begin(&a, answer, &netdev), 0);
        assert_int_equal(ask_next(&a, buffer, sizeof(buffer), soon() + 9 * NS_PER_SEC), 3);
        assert_int_equal(ask_next(&a, buffer, sizeof(buffer), soon() + 9 * NS_PER_SEC), 5);
        assert_memory_equal(buffer, "three", 5);
        if (times)
            assert_int_equal(ask_next(&a, buffer, sizeof(buffer), soon() + 9 * NS_PER_SEC), 0);
        ask_end(&a, soon() + 9 * NS_PER_SEC);
        assert_int_equal(a.fd, -1);
        assert_true(waitpid(-1, NULL, 0) > 0);
    }
}

static void test_ask_hangs(void **state)
{
    struct ask a = {.fd = -1};
    char buffer[8];
    uint64_t begin = clock_now_ns(CLOCK_MONOTONIC);

    (void)state;
    assert_int_equal(ask_begin(&a, hang, NULL), 0);
    assert_int_equal(ask_next(&a, buffer, sizeof(buffer), soon() + 9 * NS_PER_SEC), 3);
    assert_int_equal(ask_next(&a, buffer, sizeof(buffer), soon()), -ETIMEDOUT);
    assert_true(clock_now_ns(CLOCK_MONOTONIC) - begin < 9 * NS_PER_SEC);
    ask_end(&a, soon());
    assert_int_equal(ask_begin(&a, answer, &netdev), -EBUSY); /* no child beside it */
    assert_int_equal(waitpid(-1, NULL, WNOHANG), 0);
    assert_true(waitpid(-1, NULL, 0) > 0);
    assert_int_equal(ask_begin(&a, answer, &netdev), 0);
    assert_int_equal(ask_next(&a, buffer, sizeof(buffer), soon() + 9 * NS_PER_SEC), 3);
    ask_end(&a, soon() + 9 * NS_PER_SEC);
    assert_int_equal(a.fd, -1);
    assert_true(waitpid(-1, NULL, 0) > 0);
}

/* --- decode */

static void no_device(uint32_t netns, int ifindex, char ret[16])
{
    (void)netns, (void)ifindex;
    *ret = '\0';
}

static void some_container(const char *path, char ret[DOC_CONTAINER_LEN + 1])
{
    strcpy(ret, strcmp(path, "/docker/abc") == 0 ? "abc" : "");
}

/** NULL: it was refused with `*ret`. */
static json_t *decode(const struct netdev_wire *w, int *ret)
{
    const struct kernel kernel = {};
    const struct decode d = {
        .kernel = &kernel, .device_name = no_device, .container_id = some_container};

    return decode_json(netdev, &d, w, 1, ret);
}

static json_t *decode_fine(const struct netdev_wire *w)
{
    int r;
    json_t *json = decode(w, &r);

    assert_int_equal(r, 0);
    return json;
}

static void expect_changes(const json_t *data, const char *expected)
{
    char *text = json_dumps(json_object_get(data, "changes"), JSON_COMPACT);

    assert_string_equal(text, expected);
    free(text);
}

/** The sample of the record format: eth1 is set down. */
static struct netdev_wire *some_wire(void)
{
    struct netdev_wire *w = calloc(1, sizeof(*w));
    struct link_message got;
    struct message m;

    assert_non_null(w);
    some_message(&m);
    assert_int_equal(link_parse(m.bytes, m.size, &got), 0);
    w->changes = NETDEV_ADMIN | NETDEV_CARRIER;
    w->before = w->now = got.link;
    w->now.flags = 0;
    w->now.operstate = 2;
    strcpy(w->master_before, "bond0");
    strcpy(w->master_now, "bond0");
    w->head = (struct wire_head){.time_ns = 1, .pid = 70, .tid = 71, .ppid = 2, .uid = 3};
    strcpy(w->head.comm, "ip");
    memcpy(w->cmdline, "ip\0link", 7);
    w->cmdline_bytes = 7;
    w->cgroup.css = 1;
    w->cgroup.n_names = 2;
    strcpy(w->cgroup.names[0], "abc");
    strcpy(w->cgroup.names[1], "docker");
    return w;
}

static void test_decode(void **state)
{
    _free_ struct netdev_wire *w = some_wire();
    json_t *json = decode_fine(w), *data = json_object_get(json, "tracer_data");
    const json_t *process = json_object_get(json, "process");

    (void)state;
    expect_text(json, "tracer_name", "netdev_event");
    expect_text(data, "ifname", "eth1");
    expect_number(data, "index", 3);
    expect_text(data, "linkstatus", "linkStatusAdminDown, linkStatusCarrierDown");
    expect_text(data, "mac", "5c:6f:69:34:dc:72");
    assert_true(json_is_false(json_object_get(data, "start")));
    expect_changes(data, "[\"admin\",\"carrier\"]");
    expect_text(data, "kind", "physical");
    expect_text(data, "operstate", "down");
    expect_number(data, "mtu", 1400);
    expect_text(data, "master", "bond0");
    expect_number(data, "carrier_down_count", 4);
    expect_text(data, "slave_mii_status", "down");
    expect_text(data, "slave_state", "backup");
    expect_number(data, "link_failure_count", 17);
    expect_text(data, "comm", "ip");
    expect_number(data, "pid", 70);
    assert_int_equal(json_object_size(data), 16);
    expect_text(json, "summary", "eth1: was set down by ip[70]; carrier is gone");
    expect_number(process, "tid", 71);
    expect_number(process, "ppid", 2);
    expect_number(process, "uid", 3);
    expect_text(process, "cmdline", "ip link");
    expect_text(json, "cgroup", "/docker/abc");
    expect_text(json, "container_id", "abc");
    json_decref(json);
}

static void test_decode_changes(void **state)
{
    static const struct {
        uint32_t changes, flags_now;
        const char *status, *summary;
    } rows[] = {
        {NETDEV_CARRIER, IFF_UP, "linkStatusCarrierDown", "eth1: carrier is gone"},
        {NETDEV_CARRIER, UP, "linkStatusCarrierUp", "eth1: carrier is there"},
        {NETDEV_ADMIN, IFF_UP, "linkStatusAdminUp", "eth1: was set up"},
        {NETDEV_ADMIN | NETDEV_CARRIER, UP, "linkStatusAdminUp, linkStatusCarrierUp",
         "eth1: was set up; carrier is there"},
        {NETDEV_FLAP, UP, "linkStatusCarrierDown, linkStatusCarrierUp",
         "eth1: carrier was gone for a moment"},
        {NETDEV_FLAP, IFF_UP, "linkStatusCarrierUp, linkStatusCarrierDown",
         "eth1: carrier was there for a moment"},
        {NETDEV_APPEARED, UP, "linkStatusAdminUp, linkStatusCarrierUp",
         "eth1: has appeared; is up, with carrier"},
        {NETDEV_APPEARED, 0, "linkStatusAdminDown, linkStatusCarrierDown",
         "eth1: has appeared; is down, without carrier"},
        {NETDEV_REMOVED, 0, "", "eth1: was removed"},
        {NETDEV_MTU, UP, "", "eth1: has an MTU of 1400 instead of 9000"},
        {NETDEV_SPEED, UP, "", "eth1: runs at 1000 Mbit/s instead of 25000"},
        {NETDEV_MASTER, UP, "", "eth1: has bond0 as master instead of br0"},
        {NETDEV_NAME, UP, "", "eth1: was eth0 before"},
        {NETDEV_MAC, UP, "", "eth1: has the address 5c:6f:69:34:dc:72"},
        {NETDEV_SLAVE_MII, UP, "", "eth1: its link is down for its bond"},
        {NETDEV_SLAVE_STATE, UP, "", "eth1: is backup in its bond"},
        {NETDEV_ACTIVE_SLAVE, UP, "", "eth1: its active slave is eth8 instead of none"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _free_ struct netdev_wire *w = some_wire();
        json_t *json;

        memset(&w->head, 0, sizeof(w->head)); /* nobody */
        w->changes = rows[i].changes;
        w->now.flags = rows[i].flags_now;
        w->before.mtu = 9000;
        w->before.speed_mbps = 25000;
        w->now.speed_mbps = 1000;
        strcpy(w->before.name, "eth0");
        strcpy(w->master_before, "br0");
        strcpy(w->active_now, "eth8");
        json = decode_fine(w);
        expect_text(json_object_get(json, "tracer_data"), "linkstatus", rows[i].status);
        expect_text(json, "summary", rows[i].summary);
        assert_null(json_object_get(json, "process"));
        assert_null(json_object_get(json_object_get(json, "tracer_data"), "pid"));
        json_decref(json);
    }
}

static void test_decode_before(void **state)
{
    _free_ struct netdev_wire *w = some_wire();
    json_t *json, *data;

    (void)state;
    w->changes = NETDEV_CHANGES;
    w->reread = w->moved = 1;
    strcpy(w->before.name, "eth0");
    w->before.mac[0] = 1;
    w->before.mtu = 9000;
    w->before.speed_mbps = 25000;
    w->now.speed_mbps = 1000;
    w->before.slave_mii = w->before.slave_state = 0;
    w->before.active_slave = 5;
    strcpy(w->active_before, "eth9");
    strcpy(w->master_before, "br0");
    json = decode_fine(w);
    data = json_object_get(json, "tracer_data");
    expect_text(data, "ifname_before", "eth0");
    expect_text(data, "mac_before", "01:6f:69:34:dc:72");
    expect_number(data, "mtu_before", 9000);
    expect_number(data, "speed_mbps", 1000);
    expect_number(data, "speed_mbps_before", 25000);
    expect_text(data, "master_before", "br0");
    expect_text(data, "slave_mii_status_before", "up");
    expect_text(data, "slave_state_before", "active");
    expect_text(data, "active_slave_before", "eth9");
    assert_true(json_is_true(json_object_get(data, "reread")));
    assert_true(json_is_true(json_object_get(data, "moved")));
    json_decref(json);

    w->changes = 0;
    w->reread = 0;
    w->start = 1;
    w->now.flags = UP;
    memset(&w->head, 0, sizeof(w->head));
    json = decode_fine(w);
    data = json_object_get(json, "tracer_data");
    assert_true(json_is_true(json_object_get(data, "start")));
    expect_text(data, "linkstatus", "linkStatusAdminUp, linkStatusCarrierUp");
    expect_changes(data, "[]");
    expect_text(json, "summary", "eth1: is up, with carrier, as the watching begins");
    json_decref(json);
}

static void test_decode_nonsense(void **state)
{
    int r;

    (void)state;
#define REFUSED(...)                                                                               \
    do {                                                                                           \
        _free_ struct netdev_wire *w = some_wire();                                                \
        __VA_ARGS__;                                                                               \
        assert_null(decode(w, &r));                                                                \
        assert_int_equal(r, -EBADMSG);                                                             \
    } while (0)
    REFUSED(w->changes = 0);
    REFUSED(w->changes = NETDEV_CHANGES + 1);
    REFUSED(w->start = 1);
    REFUSED(w->reread = 2);
    REFUSED(w->moved = 2);
    REFUSED(w->now.mac_len = NETDEV_MAC_MAX + 1);
    REFUSED(w->before.mac_len = 255);
    REFUSED(w->cmdline_bytes = -1);
    REFUSED(w->cmdline_bytes = NETDEV_CMDLINE_MAX + 1);
    REFUSED(w->cgroup.n_names = CGROUP_NAMES_MAX + 1);
#undef REFUSED
}

static void test_decode_any_bytes(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (unsigned n = 0; n < 3000; n++) {
        _free_ struct netdev_wire *w = some_wire();
        uint8_t *bytes = (void *)w;
        json_t *json;
        int r;

        for (unsigned changes = 20; changes > 0; changes--)
            bytes[next_random(&seed) % sizeof(*w)] = (uint8_t)next_random(&seed);
        if (n % 2)
            for (size_t i = offsetof(struct netdev_wire, before); i < sizeof(*w); i++)
                bytes[i] = (uint8_t)next_random(&seed);
        json = decode(w, &r); /* it is JSON, or refused */
        json_decref(json);
    }
}

static void test_rules(void **state)
{
    struct netdev_options o = {};

    (void)state;
    assert_string_equal(netdev->rule_name(&o, NETDEV_RULE_PEER_ELSEWHERE), "peer_elsewhere");
    assert_string_equal(netdev->rule_name(&o, NETDEV_RULE_EXCLUDE), "");
    assert_string_equal(netdev->rule_name(&o, NETDEV_RULE_INCLUDE), "");
    assert_null(netdev->rule_name(&o, NETDEV_RULE_NR));
    o.container_veths = true;
    o.include.n = o.exclude.n = 1;
    assert_string_equal(netdev->rule_name(&o, NETDEV_RULE_PEER_ELSEWHERE), "");
    assert_string_equal(netdev->rule_name(&o, NETDEV_RULE_EXCLUDE), "exclude");
    assert_string_equal(netdev->rule_name(&o, NETDEV_RULE_INCLUDE), "include");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),           cmocka_unit_test(test_parse_kinds),
        cmocka_unit_test(test_parse_others),    cmocka_unit_test(test_parse_any_bytes),
        cmocka_unit_test(test_compare),         cmocka_unit_test(test_ask),
        cmocka_unit_test(test_ask_hangs),       cmocka_unit_test(test_decode),
        cmocka_unit_test(test_decode_changes),  cmocka_unit_test(test_decode_before),
        cmocka_unit_test(test_decode_nonsense), cmocka_unit_test(test_decode_any_bytes),
        cmocka_unit_test(test_rules),
    };

    return cmocka_run_group_tests_name("netdev", tests, set_up, NULL);
}
