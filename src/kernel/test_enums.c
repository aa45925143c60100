// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/test_folder.h"
#include "kernel/enums.h"

static char root[] = "/tmp/test_enums.XXXXXX";

static void path_of(const char *name, char ret[PATH_MAX])
{
    snprintf(ret, PATH_MAX, "%s/sys/kernel/btf/%s", root, name);
}

static void write_btf(const char *name, const struct btf *btf)
{
    char path[64];
    uint32_t size;
    const void *data = btf__raw_data(btf, &size);

    snprintf(path, sizeof(path), "/sys/kernel/btf/%s", name);
    assert_non_null(data);
    assert_true(test_put_file(root, path, data, size));
}

static void remove_btf(const char *name)
{
    char path[PATH_MAX];

    path_of(name, path);
    assert_int_equal(unlink(path), 0);
}

struct pair {
    const char *name;
    int64_t value;
};

static void add_enum(struct btf *btf, const char *name, const struct pair *pairs, size_t n)
{
    assert_true(btf__add_enum(btf, name, 4) > 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(btf__add_enum_value(btf, pairs[i].name, pairs[i].value), 0);
}

/* Numbers that no kernel has, so that nothing can come from anywhere else. */
static struct btf *kernel_btf(void)
{
    static const struct pair reasons[] = {
        {"SKB_NOT_DROPPED_YET", 0},         {"SKB_CONSUMED", 1},
        {"SKB_DROP_REASON_NO_SOCKET", 777}, {"SKB_DROP_REASON_TCP_CSUM", 778},
        {"SKB_DROP_REASON_MAX", 779},       {"SKB_DROP_REASON_SUBSYS_MASK", 0xffff0000},
    };
    static const struct pair subsystems[] = {
        {"SKB_DROP_REASON_SUBSYS_CORE", 0},        {"SKB_DROP_REASON_SUBSYS_MAC80211_UNUSABLE", 5},
        {"SKB_DROP_REASON_SUBSYS_OPENVSWITCH", 6}, {"SKB_DROP_REASON_SUBSYS_QDISC", 7},
        {"SKB_DROP_REASON_SUBSYS_../vmlinux", 8},  {"SKB_DROP_REASON_SUBSYS_NUM", 9},
    };
    static const struct pair qdisc[] = {
        {"QDISC_DROP_UNSPEC", 0},
        {"__QDISC_DROP_REASON", 0x70000},
        {"QDISC_DROP_GENERIC", 0x70001},
        {"QDISC_DROP_MAX", 0x70002},
    };
    static const struct pair constraints[] = {{"CONSTRAINT_NONE", -3}, {"CONSTRAINT_MEMCG", 9}};
    static const struct pair other[] = {{"OTHER_ONE", 1}};
    static const struct pair mib[] = {{"LINUX_MIB_NUM", 0}, {"LINUX_MIB_LISTENDROPS", 21}};
    struct btf *btf = btf__new_empty();

    assert_non_null(btf);
    assert_true(btf__add_int(btf, "int", 4, BTF_INT_SIGNED) > 0);
    add_enum(btf, "not_kept", other, 1);
    add_enum(btf, NULL, other, 1);
    add_enum(btf, NULL, mib, ARRAY_SIZE(mib));
    add_enum(btf, "skb_drop_reason", reasons, ARRAY_SIZE(reasons));
    add_enum(btf, "skb_drop_reason_subsys", subsystems, ARRAY_SIZE(subsystems));
    add_enum(btf, "qdisc_drop_reason", qdisc, ARRAY_SIZE(qdisc));
    add_enum(btf, "oom_constraint", constraints, ARRAY_SIZE(constraints));
    assert_true(btf__add_enum64(btf, "wide_drop_reason", 8, false) > 0);
    assert_int_equal(btf__add_enum64_value(btf, "WIDE_DROP_HUGE", 0xf00000000f000f), 0);
    return btf;
}

static void write_module(const char *name, const char *enum_name, const struct pair *pairs,
                         size_t n)
{
    struct btf *base = kernel_btf(), *split = btf__new_empty_split(base);

    assert_non_null(split);
    add_enum(split, enum_name, pairs, n);
    write_btf(name, split);
    btf__free(split);
    btf__free(base);
}

static void assert_reason(struct enums *e, uint32_t reason, const char *expected)
{
    char buf[64];

    assert_string_equal(enums_drop_reason(e, reason, buf, sizeof(buf)), expected);
}

static void assert_reason_value(struct enums *e, const char *name, uint32_t expected)
{
    uint32_t value;

    assert_int_equal(enums_drop_reason_value(e, name, &value), 0);
    assert_int_equal(value, expected);
}

static void assert_no_reason(struct enums *e, const char *name)
{
    uint32_t value = 4711;

    assert_int_equal(enums_drop_reason_value(e, name, &value), -ENOENT);
    assert_int_equal(value, 4711);
}

static void test_plain(void **state)
{
    _cleanup_(enums_freep) struct enums *e = NULL;
    int64_t value = 4711;

    (void)state;
    assert_int_equal(enums_new(root, &e), 0);
    assert_string_equal(enums_name(e, "oom_constraint", 9), "CONSTRAINT_MEMCG");
    assert_string_equal(enums_name(e, "oom_constraint", -3), "CONSTRAINT_NONE");
    assert_string_equal(enums_name(e, "oom_constraint", (uint32_t)-3), "CONSTRAINT_NONE");
    assert_null(enums_name(e, "oom_constraint", 9 + (INT64_C(1) << 32)));
    assert_null(enums_name(e, "oom_constraint", 10));
    assert_null(enums_name(e, "not_kept", 1));
    assert_string_equal(enums_name(e, "wide_drop_reason", 0xf00000000f000f), "WIDE_DROP_HUGE");
    assert_null(enums_name(e, "wide_drop_reason", 0x0f000f));

    assert_int_equal(enums_value(e, "skb_drop_reason", "NO_SOCKET", &value), -ENOENT);
    assert_int_equal(enums_value(e, "no_such_enum", "SKB_CONSUMED", &value), -ENOENT);
    assert_int_equal(value, 4711);
    assert_int_equal(enums_value(e, "skb_drop_reason", "SKB_DROP_REASON_NO_SOCKET", &value), 0);
    assert_int_equal(value, 777);
    /* One without a name goes by its first value's. */
    assert_int_equal(enums_value(e, "LINUX_MIB_NUM", "LINUX_MIB_LISTENDROPS", &value), 0);
    assert_int_equal(value, 21);
    assert_int_equal(enums_value(e, "OTHER_ONE", "OTHER_ONE", &value), -ENOENT);
    assert_int_equal(enums_value(e, "oom_constraint", "CONSTRAINT_NONE", &value), 0);
    assert_int_equal(value, -3);
}

static void test_core_reasons(void **state)
{
    _cleanup_(enums_freep) struct enums *e = NULL;
    char tiny[4];

    (void)state;
    assert_int_equal(enums_new(root, &e), 0);
    assert_reason(e, 777, "NO_SOCKET");
    assert_reason(e, 1, "CONSUMED");
    assert_reason(e, 0, "NOT_DROPPED_YET");
    assert_reason(e, 779, "0x30b"); /* the number of reasons is none */
    assert_reason(e, 2, "0x2");
    assert_reason(e, 0xffff0000, "0xffff0000");
    assert_string_equal(enums_drop_reason(e, 777, tiny, sizeof(tiny)), "NO_");

    assert_reason_value(e, "TCP_CSUM", 778);
    assert_reason_value(e, "SKB_DROP_REASON_TCP_CSUM", 778);
    assert_reason_value(e, "CONSUMED", 1);
    assert_no_reason(e, "MAX");
    assert_no_reason(e, "SUBSYS_MASK");
    assert_no_reason(e, "TCP_CSU");
    assert_no_reason(e, "");
}

static void test_subsystems(void **state)
{
    static const struct pair ovs[] = {
        {"__OVS_DROP_REASON", 0x60000}, {"OVS_DROP_METER", 0x60001}, {"OVS_DROP_MAX", 0x60002}};
    static const struct pair mac80211[] = {
        {"RX_CONTINUE", 1}, {"RX_QUEUED", 0}, {"RX_DROP_U_REPLAY", 0x50002}};
    _cleanup_(enums_freep) struct enums *e = NULL, *by_name = NULL;

    (void)state;
    write_module("openvswitch", "ovs_drop_reason", ovs, ARRAY_SIZE(ovs));
    write_module("mac80211", "mac80211_drop_reason", mac80211, ARRAY_SIZE(mac80211));

    assert_int_equal(enums_new(root, &e), 0);
    assert_reason(e, 0x70001, "QDISC_DROP_GENERIC"); /* built in */
    assert_reason(e, 0x60001, "OVS_DROP_METER");
    assert_reason(e, 0x60000, "0x60000");
    assert_reason(e, 0x60002, "0x60002");
    assert_reason(e, 0x50002, "RX_DROP_U_REPLAY");
    assert_reason(e, 0x50003, "0x50003");
    assert_reason(e, 0x80001, "0x80001"); /* its name would lead out of the directory */
    assert_reason(e, 0x90001, "0x90001");
    assert_reason(e, 0x12340001, "0x12340001");
    assert_reason(e, 0, "NOT_DROPPED_YET"); /* not RX_QUEUED */
    assert_no_reason(e, "RX_QUEUED");

    /* Rules may name them before one was met. */
    assert_int_equal(enums_new(root, &by_name), 0);
    assert_reason_value(by_name, "OVS_DROP_METER", 0x60001);
    assert_reason_value(by_name, "RX_DROP_U_REPLAY", 0x50002);
    assert_no_reason(by_name, "OVS_DROP_MAX");

    /* What was read stays, and is not read again. */
    remove_btf("openvswitch");
    remove_btf("mac80211");
    assert_reason(e, 0x60001, "OVS_DROP_METER");
    assert_reason(e, 0x50002, "RX_DROP_U_REPLAY");
}

static void test_subsystem_not_there(void **state)
{
    static const struct pair ovs[] = {{"OVS_DROP_METER", 0x60001}};
    _cleanup_(enums_freep) struct enums *e = NULL;
    char path[PATH_MAX];
    int fd;

    (void)state;
    assert_int_equal(enums_new(root, &e), 0);
    assert_reason(e, 0x60001, "0x60001");

    /* That it was not there is remembered: a storm of drops must not become a storm of reads. */
    write_module("openvswitch", "ovs_drop_reason", ovs, ARRAY_SIZE(ovs));
    assert_reason(e, 0x60001, "0x60001");
    remove_btf("openvswitch");

    /* Garbage instead of BTF. */
    path_of("mac80211", path);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "\x9f\xeb\x01garbage", 10), 10);
    close(fd);
    assert_reason(e, 0x50002, "0x50002");
    remove_btf("mac80211");
}

static void test_no_btf(void **state)
{
    struct enums *e = NULL;
    char path[PATH_MAX];

    (void)state;
    assert_int_equal(enums_new("/nonexistent", &e), -ENOENT);
    assert_null(e);
    assert_null(enums_free(NULL));

    snprintf(path, sizeof(path), "%s/sys/kernel/btf/vmlinux", root);
    assert_int_equal(truncate(path, 20), 0);
    assert_true(enums_new(root, &e) < 0);
    assert_null(e);
}

static void test_real(void **state)
{
    _cleanup_(enums_freep) struct enums *e = NULL;
    uint32_t value;
    char buf[64];
    int64_t plain;
    int r = enums_new("", &e);

    (void)state;
    if (r == -ENOENT)
        skip(); /* a kernel without BTF */
    assert_int_equal(r, 0);
    assert_int_equal(enums_value(e, "oom_constraint", "CONSTRAINT_MEMCG", &plain), 0);
    assert_int_equal(plain, 3); /* since 2.6 */
    if (!enums_name(e, "skb_drop_reason", 0)) {
        print_message("this kernel has no drop reasons\n");
        return;
    }

    /* Two numbers that have stood since 6.2 (2 and 3), and one that moves. */
    assert_int_equal(enums_drop_reason_value(e, "NO_SOCKET", &value), 0);
    assert_true(value == 2 || value == 3);
    assert_string_equal(enums_drop_reason(e, value, buf, sizeof(buf)), "NO_SOCKET");
    assert_string_equal(enums_drop_reason(e, value - 1, buf, sizeof(buf)), "NOT_SPECIFIED");
    assert_int_equal(enums_drop_reason_value(e, "NETFILTER_DROP", &value), 0);
    assert_in_range(value, 7, 20);
    print_message("NETFILTER_DROP is %u\n", value);
    assert_no_reason(e, "MAX");
    assert_reason(e, 0xfff, "0xfff");
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
    (void)level;
    (void)format;
    (void)args;
    return 0;
}

static int make_root(void **state)
{
    struct btf *btf;

    (void)state;
    libbpf_set_print(quiet);
    if (!mkdtemp(root))
        return -1;
    btf = kernel_btf();
    write_btf("vmlinux", btf);
    btf__free(btf);
    return 0;
}

static int remove_root(void **state)
{
    (void)state;
    return test_remove_folder(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),      cmocka_unit_test(test_core_reasons),
        cmocka_unit_test(test_subsystems), cmocka_unit_test(test_subsystem_not_there),
        cmocka_unit_test(test_no_btf), /* spoils the kernel's file */
        cmocka_unit_test(test_real),
    };

    return cmocka_run_group_tests_name("enums", tests, make_root, remove_root);
}
