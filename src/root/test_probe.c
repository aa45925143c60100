// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <bpf/btf.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/test_folder.h"
#include "root/probe.h"

struct fixture {
    char folder[64];
    struct tree tree;
    struct probe_facts facts;
};

static void put(const struct fixture *f, const char *name, const void *bytes, size_t len)
{
    assert_true(test_put_file(f->folder, name, bytes, len));
}

/* The types of a small kernel: a tracepoint, a function, an iterator. */
static void put_btf(const struct fixture *f)
{
    struct btf *btf = btf__new_empty();
    int proto = btf__add_func_proto(btf, 0);
    const void *bytes;
    uint32_t size;

    assert_true(btf__add_typedef(btf, "btf_trace_kfree_skb", btf__add_ptr(btf, proto)) > 0);
    assert_true(btf__add_func(btf, "oom_kill_process", BTF_FUNC_STATIC, proto) > 0);
    assert_true(btf__add_func(btf, "bpf_iter_task_file", BTF_FUNC_STATIC, proto) > 0);
    assert_true(btf__add_func(btf, "bpf_prog_test_run_raw_tp", BTF_FUNC_STATIC, proto) > 0);
    bytes = btf__raw_data(btf, &size);
    put(f, "/sys/kernel/btf/vmlinux", bytes, size);
    btf__free(btf);
}

static void read_facts(struct fixture *f)
{
    assert_int_equal(tree_open(f->folder, &f->tree), 0);
    probe_read(&f->tree, &f->facts);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    snprintf(f->folder, sizeof(f->folder), "/tmp/huatuo-test-probe-XXXXXX");
    f->tree.fd = -1;
    *state = f;
    return mkdtemp(f->folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    probe_done(&f->facts);
    tree_close(&f->tree);
    test_remove_folder(f->folder);
    free(f);
    return 0;
}

static void expect(const struct fixture *f, const char *section, enum probe_state state,
                   const char *reason)
{
    struct probe probe;

    probe_judge_section(&f->facts, section, &probe);
    if (probe.state != state || !strstr(probe.reason, reason))
        fail_msg("%s: state %d, not %d: %s", section, probe.state, state, probe.reason);
    assert_non_null(probe.advice);
    assert_true(state != PROBE_REFUSED || *probe.advice);
    assert_true((state == PROBE_SHOULD) == !*probe.reason);
}

static void test_judged(void **state)
{
    static const char symbols[] = "0000000000000000 T tcp_conn_request\n"
                                  "0000000000000000 t bond_main\t[bonding]\n"
                                  "0000000000000000 T last";
    struct fixture *f = *state;

    put_btf(f);
    put(f, "/proc/kallsyms", symbols, sizeof(symbols) - 1);
    read_facts(f);
    expect(f, "tp_btf/kfree_skb", PROBE_SHOULD, "");
    expect(f, "?tp_btf/kfree_skb", PROBE_SHOULD, "");
    expect(f, "raw_tp/kfree_skb", PROBE_SHOULD, "");
    expect(f, "?raw_tp", PROBE_SHOULD, "");
    expect(f, "tp_btf/mark_victim", PROBE_REFUSED, "no tracepoint mark_victim");
    expect(f, "fentry/oom_kill_process", PROBE_SHOULD, "");
    expect(f, "fentry/kfree_skb", PROBE_REFUSED, "no function");
    expect(f, "iter/task_file", PROBE_SHOULD, "");
    expect(f, "iter/task", PROBE_REFUSED, "no iterator");
    expect(f, "kprobe/tcp_conn_request", PROBE_SHOULD, "");
    expect(f, "kprobe/bond_main", PROBE_SHOULD, "");
    expect(f, "kprobe/conn_request", PROBE_REFUSED, "no function");
    expect(f, "kprobe/tcp_conn", PROBE_REFUSED, "no function");
    expect(f, "kretprobe/last", PROBE_REFUSED, "no function"); /* cut off: might be last_one */
    expect(f, "?perf_event", PROBE_SHOULD, "");
    expect(f, "lsm/file_open", PROBE_UNKNOWN, "only trying");
    expect(f, "", PROBE_UNKNOWN, "only trying");
    expect(f, "tp/skb/kfree_skb", PROBE_REFUSED, "tracefs is not mounted");
}

static void test_tracefs(void **state)
{
    struct fixture *f = *state;

    put_btf(f);
    put(f, "/sys/kernel/debug/tracing/events/skb/kfree_skb/id", "1\n", 2);
    read_facts(f);
    expect(f, "tp/skb/kfree_skb", PROBE_SHOULD, "");
    expect(f, "tp/skb/consume_skb", PROBE_REFUSED, "no tracepoint");
    expect(f, "kprobe/x", PROBE_UNKNOWN, "kallsyms");
}

static void test_no_btf(void **state)
{
    struct fixture *f = *state;

    read_facts(f);
    assert_int_equal(f->facts.btf_error, -ENOENT);
    expect(f, "tp_btf/kfree_skb", PROBE_REFUSED, "no BTF");
    expect(f, "perf_event", PROBE_REFUSED, "no BTF");
}

static void test_junk(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } junk[] = {
        {"", 0},
        {"x", 1},
        {"\x9f\xeb\x01\x00", 4}, /* a head that is cut off */
        {"\x9f\xeb\x01\0\x18\0\0\0\0\0\0\0\xff\xff\xff\x7f\0\0\0\0\x01\0\0\0",
         24}, /* and one that lies */
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(junk); i++) {
        probe_done(&f->facts);
        tree_close(&f->tree);
        put(f, "/sys/kernel/btf/vmlinux", junk[i].bytes, junk[i].len);
        read_facts(f);
        assert_int_equal(f->facts.btf_error, -EBADMSG);
        expect(f, "tp_btf/kfree_skb", PROBE_UNKNOWN, "cannot be made use of");
    }
}

/** Every way of every kind is known to the judge, whatever it says. */
static void test_every_way(void **state)
{
    struct fixture *f = *state;

    put_btf(f);
    read_facts(f);
    for (size_t i = 0; i < n_events; i++)
        for (unsigned h = 0; events[i]->hooks[h].name; h++)
            for (unsigned w = 0; w < HOOK_WAYS_MAX && events[i]->hooks[h].ways[w].name; w++) {
                struct probe probe;

                probe_judge(&f->facts, events[i], h, w, &probe);
                assert_true((probe.state == PROBE_SHOULD) == !*probe.reason);
                assert_null(strstr(probe.reason, "the BPF object"));
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_judged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tracefs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_btf, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_junk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_every_way, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
