// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/machine.h"
#include "core/test_folder.h"

struct fixture {
    char folder[64];
    struct machine machine;
    struct checks checks;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    snprintf(f->folder, sizeof(f->folder), "/tmp/huatuo-test-machine-XXXXXX");
    f->machine.tree.fd = -1;
    *state = f;
    return mkdtemp(f->folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    checks_done(&f->checks);
    machine_done(&f->machine);
    test_remove_folder(f->folder);
    free(f);
    return 0;
}

static void put(const struct fixture *f, const char *name, const char *text)
{
    assert_true(test_put_file(f->folder, name, text, strlen(text)));
}

static void look(struct fixture *f)
{
    checks_done(&f->checks);
    machine_done(&f->machine);
    assert_int_equal(machine_open(f->folder, &f->machine), 0);
    machine_check(&f->machine, &f->checks);
    assert_false(f->checks.failed);
}

/** There is a row of that name, in that state, in which the text stands. */
static void expect(const struct fixture *f, const char *name, enum check_state state,
                   const char *found)
{
    for (size_t i = 0; i < f->checks.n; i++) {
        const struct check *row = &f->checks.rows[i];

        if (strcmp(row->name, name) == 0 && row->state == state && strstr(row->found, found)) {
            /* What is wrong comes with what to do about it. */
            assert_true((state == CHECK_WARN || state == CHECK_FAIL) == (*row->advice != '\0'));
            return;
        }
    }
    for (size_t i = 0; i < f->checks.n; i++)
        print_message("# %s %d: %s\n", f->checks.rows[i].name, f->checks.rows[i].state,
                      f->checks.rows[i].found);
    fail_msg("no row %s in state %d with: %s", name, state, found);
}

static void expect_none(const struct fixture *f, const char *name, const char *found)
{
    for (size_t i = 0; i < f->checks.n; i++)
        assert_false(strcmp(f->checks.rows[i].name, name) == 0 &&
                     strstr(f->checks.rows[i].found, found));
}

static void test_release(void **state)
{
    static const struct {
        const char *release;
        unsigned version;
    } rows[] = {
        {"6.18.44", 6018},
        {"5.10.0-28-amd64", 5010},
        {"4.19", 4019},
        {"10.0-rc1", 10000},
        {"", 0},
        {"6", 0},
        {"6.", 0},
        {"x.y", 0},
        {"-5.10", 0},
        {" 5.10", 0},
        {"5.1000", 0},
        {"99999999999.1", 0},
        {"\xff\xfe\x01", 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(machine_parse_release(rows[i].release), rows[i].version);
}

static void test_rows(void **state)
{
    struct checks c = {};

    (void)state;
    checks_advise(&c, "of none");
    checks_add(&c, "a", CHECK_WARN, NULL, "%s", "evil \033[2J\n\xff");
    checks_advise(&c, "do %s", "that\t");
    for (int i = 0; i < 100; i++)
        checks_add(&c, "b", CHECK_OK, "x", "%d", i);
    assert_false(c.failed);
    assert_int_equal(c.n, 101);
    assert_string_equal(c.rows[0].found, "evil \\x1b[2J\\x0a\\xff");
    assert_string_equal(c.rows[0].advice, "do that\\x09");
    assert_string_equal(c.rows[100].found, "99");
    checks_done(&c);
}

static void test_kernel(void **state)
{
    static const struct {
        const char *file, *text;
        enum check_state state;
        const char *found;
    } rows[] = {
        {"/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n", CHECK_OK, "6.1.0-18-amd64"},
        {"/proc/sys/kernel/osrelease", "5.9.1\n", CHECK_WARN, "5.9.1"},
        {"/proc/sys/kernel/osrelease", "4.19.0\n", CHECK_FAIL, "4.19.0"},
        {"/proc/sys/kernel/osrelease", "\033]0;x\a", CHECK_UNKNOWN, "makes no sense"},
        {"/proc/sys/kernel/osrelease", "", CHECK_UNKNOWN, "tells its release"},
        {"/proc/version", "Linux version 5.10.0-28-amd64 (a@b) (gcc)", CHECK_OK, "5.10.0-28-amd64"},
        {"/proc/version", "junk", CHECK_UNKNOWN, "tells its release"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        put(f, rows[i].file, rows[i].text);
        if (strcmp(rows[i].file, "/proc/version") == 0) {
            char path[256];

            snprintf(path, sizeof(path), "%s/proc/sys/kernel/osrelease", f->folder);
            unlink(path);
        }
        look(f);
        expect(f, "kernel", rows[i].state, rows[i].found);
    }
    put(f, "/proc/sys/kernel/osrelease", "6.1.0");
    put(f, "/proc/sys/kernel/arch", "aarch64\n");
    look(f);
    expect(f, "kernel", CHECK_WARN, "aarch64");
}

static void put_rights(const struct fixture *f, unsigned uid, uint64_t rights)
{
    char text[128];

    snprintf(text, sizeof(text), "Name:\tx\nUid:\t1\t%u\t1\t1\nCapEff:\t%016llx\nCapBnd:\tx\n", uid,
             (unsigned long long)rights);
    put(f, "/proc/self/status", text);
}

#define ALL        ((UINT64_C(1) << 41) - 1)
#define WITHOUT(n) (ALL & ~(UINT64_C(1) << (n)))

static void test_privileges(void **state)
{
    static const struct {
        const char *release;
        unsigned uid;
        uint64_t rights;
        enum check_state state;
        const char *found;
        bool may_load;
    } rows[] = {
        {"6.1.0", 0, ALL, CHECK_OK, "all capabilities", true},
        {"6.1.0", 0, WITHOUT(CAP_SYS_RESOURCE), CHECK_OK, "but CAP_SYS_RESOURCE", true},
        {"6.1.0", 0, WITHOUT(CAP_SETUID), CHECK_FAIL, "without CAP_SETUID", true},
        {"6.1.0", 0, WITHOUT(CAP_SETGID), CHECK_FAIL, "without CAP_SETGID", true},
        {"6.1.0", 0, WITHOUT(CAP_CHOWN), CHECK_WARN, "without CAP_CHOWN", true},
        {"6.1.0", 0, WITHOUT(CAP_KILL), CHECK_WARN, "without CAP_KILL", true},
        {"6.1.0", 0, WITHOUT(CAP_SYS_PTRACE), CHECK_WARN, "without CAP_SYS_PTRACE", true},
        {"6.1.0", 0, WITHOUT(CAP_NET_ADMIN), CHECK_OK, "without CAP_NET_ADMIN", true},
        /* CAP_SYS_ADMIN does as well. */
        {"6.1.0", 0, WITHOUT(CAP_BPF), CHECK_OK, "but CAP_BPF", true},
        {"6.1.0", 0, WITHOUT(CAP_SYS_ADMIN), CHECK_OK, "but CAP_SYS_ADMIN", true},
        {"6.1.0", 0, WITHOUT(CAP_BPF) & WITHOUT(CAP_SYS_ADMIN), CHECK_FAIL, "without CAP_BPF",
         false},
        {"6.1.0", 0, WITHOUT(CAP_PERFMON) & WITHOUT(CAP_SYS_ADMIN), CHECK_FAIL,
         "without CAP_PERFMON", false},
        {"5.4.0", 0, WITHOUT(CAP_SYS_ADMIN), CHECK_FAIL, "without CAP_SYS_ADMIN", true},
        {"5.10.0", 0, WITHOUT(CAP_SYS_RESOURCE), CHECK_WARN, "without CAP_SYS_RESOURCE", true},
        {"6.1.0", 1000, 0, CHECK_FAIL, "user 1000, no capabilities", false},
        {"6.1.0", 1000, UINT64_C(3) << CAP_PERFMON, CHECK_OK,
         "user 1000, capabilities CAP_PERFMON CAP_BPF", true},
    };
    struct fixture *f = *state;

    put(f, "/proc/sys/kernel/cap_last_cap", "40\n");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        put(f, "/proc/sys/kernel/osrelease", rows[i].release);
        put_rights(f, rows[i].uid, rows[i].rights);
        look(f);
        expect(f, "privileges", rows[i].state, rows[i].found);
        assert_int_equal(machine_may_load(&f->machine), rows[i].may_load);
    }
    /* Who is not root from the start need not give root up. */
    expect_none(f, "privileges", "CAP_SETUID");
    put_rights(f, 0, ALL);
    put(f, "/proc/self/uid_map", "         0     100000      65536\n");
    look(f);
    expect(f, "privileges", CHECK_FAIL, "user namespace");
    assert_false(machine_may_load(&f->machine));
    put(f, "/proc/self/uid_map", "         0          0 4294967295\n");
    look(f);
    expect(f, "privileges", CHECK_OK, "all capabilities");
}

static void test_no_privileges_known(void **state)
{
    static const char *const junk[] = {"",
                                       "CapEff:",
                                       "CapEff:\tzz\nUid:\t0\t0\n",
                                       "CapEff:\t1",
                                       "Uid:\t0\t0\nCapEff:\t1zz\n",
                                       "Uid:\t0\t0\nCapEff:\tffffffffffffffffff\n"};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(junk); i++) {
        put(f, "/proc/self/status", junk[i]);
        look(f);
        expect(f, "privileges", CHECK_UNKNOWN, "makes no sense");
        assert_false(machine_may_load(&f->machine));
    }
}

static void test_lockdown(void **state)
{
    static const struct {
        const char *text;
        enum check_state state;
        const char *found;
    } rows[] = {
        {"[none] integrity confidentiality\n", CHECK_OK, "none: nothing"},
        {"none [integrity] confidentiality\n", CHECK_OK, "integrity: takes away"},
        {"none integrity [confidentiality]\n", CHECK_FAIL, "reading kernel memory"},
        {"none integrity confidentiality\n", CHECK_UNKNOWN, "makes no sense"},
        {"[", CHECK_UNKNOWN, "makes no sense"},
        {"[integrit]", CHECK_UNKNOWN, "makes no sense"},
        {"", CHECK_UNKNOWN, "makes no sense"},
    };
    struct fixture *f = *state;

    look(f);
    expect(f, "lockdown", CHECK_OK, "a kernel without it");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        put(f, "/sys/kernel/security/lockdown", rows[i].text);
        look(f);
        expect(f, "lockdown", rows[i].state, rows[i].found);
    }
}

static void test_symbols(void **state)
{
    static const struct {
        const char *restricted, *symbols;
        enum check_state state;
        const char *found;
    } rows[] = {
        {"0", NULL, CHECK_UNKNOWN, "no /proc/kallsyms in this tree"},
        {"2", NULL, CHECK_WARN, "bare addresses"},
        {"0", "0000000000000000 A a\nffffffff81000000 T b\n", CHECK_OK, "shows addresses"},
        {"1", "0000000000000000 A a\n0000000000000000 T b\n", CHECK_WARN, "to this user"},
        {"2", "0000000000000000 A a\n", CHECK_WARN, "kptr_restrict is 2"},
        {"1", "\n\n", CHECK_WARN, "to this user"},
        {"much", "", CHECK_UNKNOWN, "makes no sense"},
        {"99999999999999999999", "", CHECK_UNKNOWN, "makes no sense"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        put(f, "/proc/sys/kernel/kptr_restrict", rows[i].restricted);
        if (rows[i].symbols)
            put(f, "/proc/kallsyms", rows[i].symbols);
        look(f);
        expect(f, "symbols", rows[i].state, rows[i].found);
    }
}

static void test_memlock(void **state)
{
    static const struct {
        const char *release, *limit;
        bool may_raise;
        enum check_state state;
        const char *found;
    } rows[] = {
        {"6.1.0", "65536  65536  bytes", false, CHECK_OK, "does not count"},
        {"5.10.0", "65536  65536  bytes", false, CHECK_FAIL, "too few"},
        {"5.10.0", "65536  65536  bytes", true, CHECK_OK, "to raise it"},
        {"5.10.0", "unlimited unlimited bytes", false, CHECK_OK, "unlimited"},
        {"5.10.0", "1073741824 1073741824 bytes", false, CHECK_OK, "1073741824"},
        {"", "65536  65536  bytes", false, CHECK_UNKNOWN, "depends on the kernel"},
        {"5.10.0", "some", false, CHECK_UNKNOWN, "makes no sense"},
        {"5.10.0", "", false, CHECK_UNKNOWN, "makes no sense"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char text[256];

        snprintf(text, sizeof(text),
                 "Limit                     Soft Limit           Hard Limit           Units\n"
                 "Max locked memory         %s\n",
                 rows[i].limit);
        put(f, "/proc/self/limits", text);
        put(f, "/proc/sys/kernel/osrelease", rows[i].release);
        put_rights(f, 0, rows[i].may_raise ? ALL : WITHOUT(CAP_SYS_RESOURCE));
        look(f);
        expect(f, "memlock", rows[i].state, rows[i].found);
    }
    put(f, "/proc/self/limits", "\n\n\nMax");
    look(f);
    expect(f, "memlock", CHECK_UNKNOWN, "makes no sense");
}

static void test_cgroups(void **state)
{
    static const char v2[] = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
    static const char v1[] = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n"
                             "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
    struct fixture *f = *state;
    char text[512];

    look(f);
    expect(f, "cgroups", CHECK_UNKNOWN, "cannot be read");
    put(f, "/proc/self/mounts", "proc /proc proc rw 0 0\n\njunk\nmemory x cgroup");
    look(f);
    expect(f, "cgroups", CHECK_WARN, "no cgroups");
    put(f, "/proc/self/mounts", v2);
    look(f);
    expect(f, "cgroups", CHECK_WARN, "v2; there is no memory controller");
    put(f, "/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
    look(f);
    expect(f, "cgroups", CHECK_OK, "v2; the memory controller is in /sys/fs/cgroup");
    put(f, "/proc/self/mounts", v1);
    look(f);
    expect(f, "cgroups", CHECK_OK, "v1; the memory controller is in /sys/fs/cgroup/memory");
    snprintf(text, sizeof(text), "%scgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n", v1);
    put(f, "/proc/self/mounts", text);
    look(f);
    expect(f, "cgroups", CHECK_OK, "hybrid; the memory controller is in /sys/fs/cgroup/memory");
    put(f, "/proc/self/mounts", "cgroup /sys/fs/cgroup/x cgroup rw,name=memory,xmemory 0 0\n");
    look(f);
    expect(f, "cgroups", CHECK_WARN, "v1; there is no memory controller");
}

#define ESSENTIAL "CONFIG_BPF_SYSCALL=y\nCONFIG_DEBUG_INFO_BTF=y\n"
#define OTHERS                                                                                     \
    "CONFIG_KALLSYMS=y\nCONFIG_EVENT_TRACING=y\nCONFIG_KPROBES=y\nCONFIG_BPF_JIT=y\n"              \
    "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y\nCONFIG_CGROUPS=y\nCONFIG_MEMCG=y\n"

static void test_config(void **state)
{
    struct fixture *f = *state;

    put(f, "/proc/sys/kernel/osrelease", "5.10.0-28-amd64");
    look(f);
    expect(f, "kernel_config", CHECK_UNKNOWN, "/boot/config-5.10.0-28-amd64");
    put(f, "/boot/config-5.10.0-28-amd64", ESSENTIAL "CONFIG_BPF_EVENTS=y\n" OTHERS);
    look(f);
    expect(f, "kernel_config", CHECK_OK, "/boot/config-5.10.0-28-amd64 has all");
    put(f, "/boot/config-5.10.0-28-amd64",
        ESSENTIAL "CONFIG_BPF_EVENTS=y\n# CONFIG_KALLSYMS is not set\nCONFIG_MEMCG=y\n");
    look(f);
    expect(f, "kernel_config", CHECK_WARN, "CONFIG_KALLSYMS");
    put(f, "/boot/config-5.10.0-28-amd64", ESSENTIAL "# CONFIG_BPF_EVENTS is not set\n" OTHERS);
    look(f);
    expect(f, "kernel_config", CHECK_FAIL, "is without CONFIG_BPF_EVENTS");
    put(f, "/boot/config-5.10.0-28-amd64", "\x1f\x8b\x08 broken");
    look(f);
    expect(f, "kernel_config", CHECK_UNKNOWN, "neither");
    /* A release that leads somewhere else. */
    put(f, "/proc/sys/kernel/osrelease", "5.10/../../etc/passwd");
    look(f);
    expect(f, "kernel_config", CHECK_UNKNOWN, "neither");
}

static void test_btf_and_tracefs(void **state)
{
    struct fixture *f = *state;

    look(f);
    expect(f, "btf", CHECK_FAIL, "there is no /sys/kernel/btf/vmlinux");
    expect(f, "tracefs", CHECK_WARN, "not mounted");
    expect(f, "clock", CHECK_UNKNOWN, "no file tells");
    put(f, "/sys/kernel/btf/vmlinux", "junk");
    put(f, "/sys/kernel/debug/tracing/events/skb/kfree_skb/id", "1");
    look(f);
    expect(f, "btf", CHECK_UNKNOWN, "makes no sense");
    expect(f, "tracefs", CHECK_OK, "/sys/kernel/debug/tracing/events");
}

/** Every file that is looked at, one kind of junk after another. */
static void test_junk_everywhere(void **state)
{
    static const char *const files[] = {
        "/proc/self/status",
        "/proc/self/limits",
        "/proc/self/mounts",
        "/proc/self/uid_map",
        "/proc/version",
        "/proc/kallsyms",
        "/proc/config.gz",
        "/proc/sys/kernel/osrelease",
        "/proc/sys/kernel/arch",
        "/proc/sys/kernel/cap_last_cap",
        "/proc/sys/kernel/kptr_restrict",
        "/proc/sys/kernel/unprivileged_bpf_disabled",
        "/proc/sys/kernel/perf_event_paranoid",
        "/sys/kernel/security/lockdown",
        "/sys/kernel/btf/vmlinux",
    };
    static const char *const junk[] = {
        "",
        "\n",
        "\n\n\n",
        "-1",
        " ",
        "\xff\xfe\xfd",
        "\033[31m",
        "[",
        "CapEff: Uid:",
        "CONFIG_",
        "cgroup2 cgroup2 cgroup2",
        "0",
        "99999999999999999999999999",
    };
    struct fixture *f = *state;
    char path[256];

    for (size_t j = 0; j < ARRAY_SIZE(junk); j++) {
        for (size_t i = 0; i < ARRAY_SIZE(files); i++)
            put(f, files[i], junk[j]);
        look(f);
        for (size_t i = 0; i < f->checks.n; i++)
            assert_null(strpbrk(f->checks.rows[i].found, "\033\n\xff"));
    }
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        snprintf(path, sizeof(path), "%s%s", f->folder, files[i]);
        unlink(path);
        assert_int_equal(mkfifo(path, 0644), 0);
    }
    look(f); /* does not hang */
    for (size_t i = 0; i < f->checks.n; i++)
        assert_true(f->checks.rows[i].state == CHECK_UNKNOWN ||
                    strcmp(f->checks.rows[i].name, "tracefs") == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_release),
        cmocka_unit_test(test_rows),
        cmocka_unit_test_setup_teardown(test_kernel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_privileges, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_privileges_known, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lockdown, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_symbols, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memlock, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cgroups, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_config, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_btf_and_tracefs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_junk_everywhere, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
