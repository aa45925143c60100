// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <bpf/btf.h>
#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core/test_folder.h"
#include "core/test_record.h"
#include "events/oom/collect.h"
#include "kernel/kernel.h"

/* --- a kernel of our own: functions of 4 KiB one after the other */

#define TEXT_START    UINT64_C(0xffffffff81000000)
#define FUNCTION_SIZE UINT64_C(0x1000)

static const char *const functions[] = {"mark_oom_victim", "out_of_memory",
                                        "mem_cgroup_out_of_memory", "__alloc_pages_may_oom"};
enum function { MARK, OUT_OF_MEMORY, MEMCG_OUT_OF_MEMORY, ALLOC };

static char root[] = "/tmp/test_oom.XXXXXX";
static struct kernel kernel, hidden;
static const struct event *oom;
static uint64_t page;

static uint64_t inside(enum function f)
{
    return TEXT_START + f * FUNCTION_SIZE + 0x20;
}

static struct symbols *make_symbols(bool shown)
{
    int fd = memfd_create("kallsyms", MFD_CLOEXEC);
    struct symbols *symbols = NULL;

    assert_true(fd >= 0);
    for (size_t i = 0; i <= ARRAY_SIZE(functions); i++)
        dprintf(fd, "%016llx t %s\n",
                shown ? (unsigned long long)(TEXT_START + i * FUNCTION_SIZE) : 0,
                i < ARRAY_SIZE(functions) ? functions[i] : "_etext");
    assert_int_equal(symbols_new(fd, &symbols), 0);
    return symbols;
}

static void make_file(const char *path, const char *text)
{
    assert_true(test_put_file(root, path, text, strlen(text)));
}

static struct enums *make_enums(void)
{
    static const char *const names[] = {"CONSTRAINT_NONE", "CONSTRAINT_CPUSET",
                                        "CONSTRAINT_MEMORY_POLICY", "CONSTRAINT_MEMCG"};
    struct btf *btf = btf__new_empty();
    struct enums *enums = NULL;
    const void *data;
    uint32_t size;

    assert_non_null(btf);
    assert_true(btf__add_int(btf, "int", 4, BTF_INT_SIGNED) > 0);
    assert_true(btf__add_enum(btf, "oom_constraint", 4) > 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) /* other numbers than the kernel's */
        assert_int_equal(btf__add_enum_value(btf, names[i], 10 + (int64_t)i), 0);
    data = btf__raw_data(btf, &size);
    assert_true(test_put_file(root, "/sys/kernel/btf/vmlinux", data, size));
    btf__free(btf);
    assert_int_equal(enums_new(root, &enums), 0);
    return enums;
}

static int set_up_kernel(void **state)
{
    (void)state;
    oom = event_find("oom");
    page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (!oom || !mkdtemp(root))
        return -1;
    kernel = (struct kernel){.symbols = make_symbols(true), .enums = make_enums()};
    hidden = (struct kernel){.symbols = make_symbols(false)};
    return 0;
}

static int tear_down_kernel(void **state)
{
    (void)state;
    symbols_free(kernel.symbols);
    enums_free(kernel.enums);
    symbols_free(hidden.symbols);
    return test_remove_folder(root);
}

/* --- a kill */

#define CONTAINER "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define MIB_PAGES (1024 * 1024 / 4096)

/** Names outermost first, as one reads them. */
static void set_cgroup(struct wire_cgroup *c, uint64_t css, const char *path)
{
    const char *names[CGROUP_NAMES_MAX] = {};
    size_t lengths[CGROUP_NAMES_MAX] = {};
    unsigned n = 0;

    *c = (struct wire_cgroup){.css = css};
    for (const char *s = path; *s == '/' && s[1]; n++) {
        names[n] = s + 1;
        lengths[n] = strcspn(s + 1, "/");
        s += 1 + lengths[n];
    }
    c->n_names = n;
    for (unsigned i = 0; i < n; i++)
        memcpy(c->names[n - 1 - i], names[i], lengths[i]);
}

static void set_level(struct oom_wire *w, unsigned i, uint64_t usage_mib, uint64_t max_mib)
{
    w->levels[i] = (struct oom_level){
        .css = w->victim_cgroup.css + 0x1000 * i,
        .usage = usage_mib * MIB_PAGES,
        .max = max_mib ? max_mib * MIB_PAGES : OOM_UNLIMITED,
        .swap_usage = usage_mib * MIB_PAGES,
        .swap_max = OOM_UNLIMITED,
        .failcnt = 5,
        .n_max = 6,
        .n_oom = 7,
        .n_oom_kill = 8,
    };
    w->n_levels = MAX(w->n_levels, i + 1);
}

/** nginx in /pod/a wants memory, java in /pod/b/ID is killed for it; the limit is that of /pod. */
static struct oom_wire *some_wire(void)
{
    struct oom_wire *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    w->head = (struct wire_head){
        .time_ns = 10 * NS_PER_SEC,
        .cpu = 3,
        .pid = 100,
        .tid = 101,
        .ppid = 1,
        .uid = 33,
        .comm = "nginx-worker",
        .stack_bytes = 24,
        .stack = {inside(MARK), inside(OUT_OF_MEMORY), inside(MEMCG_OUT_OF_MEMORY)},
    };
    strcpy(w->trigger_name, "nginx");
    strcpy(w->victim_name, "java");
    strcpy(w->victim_comm, "GC Thread#0");
    set_cgroup(&w->trigger_cgroup, 0xffff888000001000, "/pod/a");
    set_cgroup(&w->victim_cgroup, 0xffff888000002000, "/pod/b/" CONTAINER);
    w->victim_start_ns = 5 * NS_PER_SEC;
    w->victim_pid = 4711;
    w->victim_tid = 4712;
    w->victim_ppid = 4700;
    w->victim_uid = 1000;
    w->oom_score_adj = -5;
    w->has_memory = 1;
    w->total_vm = 1000;
    w->anon = 20;
    w->file = 4;
    w->shmem = 1;
    w->swap = 2;
    w->page_table_bytes = 12345;
    w->exact = 1;
    set_level(w, 0, 3, 0);
    set_level(w, 1, 20, 100);
    set_level(w, 2, 32, 32);
    return w;
}

static void set_console(struct oom_wire *w, const char *path, uint32_t pid)
{
    struct oom_before *b = &w->before;

    *b = (struct oom_before){
        .way = OOM_WAY_CONSOLE, .time_ns = w->head.time_ns - 1000, .stage = OOM_STAGE_TASK};
    strcpy(b->invoked, "nginx invoked oom-killer: gfp_mask=0x400dc0(GFP_KERNEL_ACCOUNT|__GFP_ZERO),"
                       " order=2, oom_score_adj=0");
    snprintf(b->cause, sizeof(b->cause), "oom-kill:constraint=%s,nodemask=(null)",
             path ? "CONSTRAINT_MEMCG" : "CONSTRAINT_NONE");
    snprintf(b->path, sizeof(b->path), "%s", path ? path : "");
    snprintf(b->task, sizeof(b->task), ",task=a,pid=7,pid=%u,uid=0", pid);
}

static void container_id(const char *path, char ret[DOC_CONTAINER_LEN + 1])
{
    const char *found = strstr(path, CONTAINER);

    snprintf(ret, DOC_CONTAINER_LEN + 1, "%s", found ? CONTAINER : "");
}

/** NULL: it was refused with `*ret`. */
static json_t *decode(const struct kernel *k, const struct oom_wire *w, void *note, int *ret)
{
    const struct decode d = {.kernel = k, .container_id = container_id, .note = note};

    return decode_json(oom, &d, w, 1, ret);
}

static json_t *decode_fine(const struct oom_wire *w)
{
    int r;
    json_t *json = decode(&kernel, w, NULL, &r);

    assert_int_equal(r, 0);
    return json;
}

static json_t *at(json_t *json, const char *object, const char *key)
{
    return json_object_get(object ? json_object_get(json, object) : json, key);
}

#define DATA "tracer_data"

static void test_decode(void **state)
{
    static const char *const spec[] = {
        "trigger_memcg_css",
        "trigger_pid",
        "trigger_process_name",
        "trigger_container_id",
        "trigger_container_hostname",
        "victim_memcg_css",
        "victim_pid",
        "victim_process_name",
        "victim_container_id",
        "victim_container_hostname",
    };
    _free_ struct oom_wire *w = some_wire();
    size_t i = 0;
    const char *key;
    json_t *json, *data, *value;

    (void)state;
    set_console(w, "/pod", 4711);
    memcpy(w->cmdline, "java\0-jar\0a b", 14);
    w->cmdline_bytes = 14;
    json = decode_fine(w);
    data = data_of(json);
    json_object_foreach(data, key, value)
    {
        if (i < ARRAY_SIZE(spec))
            assert_string_equal(key, spec[i++]);
    }
    expect_text(data_of(json), "trigger_memcg_css", "0xffff888000001000");
    expect_number(data_of(json), "trigger_pid", 100);
    expect_text(data_of(json), "trigger_process_name", "nginx");
    expect_text(data_of(json), "trigger_container_id", "");
    expect_text(data_of(json), "trigger_container_hostname", "");
    expect_text(data_of(json), "victim_memcg_css", "0xffff888000002000");
    expect_number(data_of(json), "victim_pid", 4711);
    expect_text(data_of(json), "victim_process_name", "java");
    expect_text(data_of(json), "victim_container_id", CONTAINER);
    expect_text(data_of(json), "victim_container_hostname", "");

    expect_text(data_of(json), "constraint", "memcg");
    expect_text(data_of(json), "limit_known_by", "console");
    expect_text(data_of(json), "limit_cgroup", "/pod");
    expect_text(data_of(json), "limit_memcg_css", "0xffff888000004000");
    expect_text(data_of(json), "limit_of", "memory");
    expect_number(data_of(json), "limit_bytes", 32 * MIB_PAGES * (json_int_t)page);
    expect_number(data_of(json), "usage_bytes", 32 * MIB_PAGES * (json_int_t)page);
    expect_number(data_of(json), "failcnt", 5);
    assert_null(at(json, DATA, "memsw_limit_bytes")); /* there is none */
    expect_number(data_of(json), "memsw_usage_bytes", 32 * MIB_PAGES * (json_int_t)page);
    expect_number(json_object_get(data, "limit_events"), "max", 6);
    expect_number(json_object_get(data, "limit_events"), "oom", 7);
    expect_number(json_object_get(data, "limit_events"), "oom_kill", 8);
    expect_number(json_object_get(data, "limit_events"), "oom_group_kill", 0);
    expect_text(data_of(json), "gfp_mask", "0x400dc0");
    expect_text(data_of(json), "gfp_flags", "GFP_KERNEL_ACCOUNT|__GFP_ZERO");
    expect_number(data_of(json), "order", 2);
    expect_number(data_of(json), "victim_rss_bytes", 25 * (json_int_t)page);
    expect_number(data_of(json), "victim_anon_bytes", 20 * (json_int_t)page);
    expect_number(data_of(json), "victim_file_bytes", 4 * (json_int_t)page);
    expect_number(data_of(json), "victim_shmem_bytes", 1 * (json_int_t)page);
    expect_number(data_of(json), "victim_swap_bytes", 2 * (json_int_t)page);
    expect_number(data_of(json), "victim_page_table_bytes", 12345);
    expect_number(data_of(json), "victim_total_vm_bytes", 1000 * (json_int_t)page);
    assert_true(json_is_true(at(json, DATA, "victim_rss_exact")));
    expect_number(data_of(json), "victim_oom_score_adj", -5);
    assert_null(at(json, DATA, "victim_badness_pages"));
    expect_number(data_of(json), "victim_tid", 4712);
    expect_number(data_of(json), "victim_uid", 1000);
    expect_text(data_of(json), "victim_cgroup", "/pod/b/" CONTAINER);
    expect_number(data_of(json), "trigger_tid", 101);
    expect_number(data_of(json), "trigger_uid", 33);
    expect_text(data_of(json), "trigger_cgroup", "/pod/a");
    expect_number(data_of(json), "cpu", 3);
    expect_text(data_of(json), "stack",
                "mark_oom_victim/ffffffff81000000 [kernel]\n"
                "out_of_memory/ffffffff81001000 [kernel]\n"
                "mem_cgroup_out_of_memory/ffffffff81002000 [kernel]");

    /* The envelope is the victim's. */
    expect_text(json, "container_id", CONTAINER);
    expect_text(json, "container_found_by", "cgroup");
    expect_text(json, "cgroup", "/pod/b/" CONTAINER);
    expect_number(json_object_get(json, "process"), "pid", 4711);
    expect_number(json_object_get(json, "process"), "tid", 4712);
    expect_number(json_object_get(json, "process"), "ppid", 4700);
    expect_number(json_object_get(json, "process"), "uid", 1000);
    expect_text(json_object_get(json, "process"), "comm", "GC Thread#0");
    expect_text(json_object_get(json, "process"), "cmdline", "java -jar 'a b'");
    if (page == 4096)
        expect_text(json, "summary",
                    "java[4711] (100.0 KiB resident, oom_score_adj -5) was killed because the "
                    "cgroup /pod has reached its memory limit of 32.0 MiB (usage 32.0 MiB); "
                    "triggered by nginx[100]");
    json_decref(json);
}

static void test_itself_and_nothing_known(void **state)
{
    _free_ struct oom_wire *w = calloc(1, sizeof(*w));
    json_t *json;

    (void)state;
    /* Not even the task: only its pid (5.10, a process that was dying already). */
    assert_non_null(w);
    w->head.pid = w->victim_pid = 7;
    json = decode_fine(w);
    expect_text(data_of(json), "constraint", "host");
    expect_text(data_of(json), "victim_cgroup", "");
    expect_text(data_of(json), "victim_memcg_css", "0x0");
    assert_null(at(json, DATA, "victim_rss_bytes"));
    expect_text(json, "summary",
                "[7] was killed because the host has run out of memory; triggered by itself");
    json_decref(json);
}

/* --- whose limit it is */

static struct oom_cause cause_on(const struct kernel *k, const struct oom_wire *w)
{
    struct oom_cause cause;

    oom_find_cause(k, w, &cause);
    return cause;
}

static void expect_cause(const struct kernel *k, const struct oom_wire *w, const char *constraint,
                         int level, const char *known_by)
{
    struct oom_cause cause = cause_on(k, w);

    assert_string_equal(cause.constraint, constraint);
    assert_string_equal(cause.known_by, known_by);
    assert_int_equal(cause.level, level);
}

static void test_control(void **state)
{
    _free_ struct oom_wire *w = some_wire();
    struct oom_cause cause;

    (void)state;
    w->before = (struct oom_before){
        .way = OOM_WAY_CONTROL,
        .time_ns = w->head.time_ns,
        .memcg_css = w->levels[1].css,
        .gfp_mask = 0x100cca,
        .order = 1,
        .constraint = 13,
        .chosen_pid = w->victim_pid,
        .chosen_points = 777,
        .total_pages = 8888,
    };
    expect_cause(&kernel, w, "memcg", 1, "oom_control");
    cause = cause_on(&kernel, w);
    assert_true(cause.has_request && cause.has_points);
    assert_string_equal(cause.gfp_flags, "GFP_HIGHUSER_MOVABLE");
    assert_int_equal(cause.order, 1);
    assert_int_equal(cause.points, 777);
    assert_int_equal(cause.total_pages, 8888);

    /* Of one that dies with the chosen one no score is known. */
    w->before.chosen_pid = 999;
    w->before.n_marks = 1;
    w->levels[0].oom_group = 1;
    expect_cause(&kernel, w, "memcg", 1, "oom_control");
    assert_false(cause_on(&kernel, w).has_points);
    w->before.chosen_pid = w->victim_tid;
    w->levels[0].oom_group = 0;

    /* The cgroup is enough, whatever its number is called. */
    expect_cause(&hidden, w, "memcg", 1, "oom_control");
    w->before.memcg_css = 0x123;
    expect_cause(&kernel, w, "memcg", -1, "oom_control");
    w->before.memcg_css = 0;
    w->before.constraint = 10;
    expect_cause(&kernel, w, "host", -1, "oom_control");
    w->before.constraint = 11;
    expect_cause(&kernel, w, "cpuset", -1, "oom_control");
    w->before.constraint = 12;
    expect_cause(&kernel, w, "mempolicy", -1, "oom_control");
}

static void test_console(void **state)
{
    _free_ struct oom_wire *w = some_wire();

    (void)state;
    set_console(w, "/pod/b", 4711);
    expect_cause(&kernel, w, "memcg", 1, "console");
    set_console(w, NULL, 4711);
    expect_cause(&kernel, w, "host", -1, "console");
    strcpy(w->before.cause, "oom-kill:constraint=CONSTRAINT_CPUSET");
    expect_cause(&kernel, w, "cpuset", -1, "console");
    strcpy(w->before.cause, "oom-kill:constraint=CONSTRAINT_MEMORY_POLICY,nodemask=0");
    expect_cause(&kernel, w, "mempolicy", -1, "console");
    /* A path that is none of the victim's, or too long to be kept. */
    set_console(w, "/pod/c", 4711);
    expect_cause(&kernel, w, "memcg", 2, "usage");
    memset(w->before.path, 'a', sizeof(w->before.path));
    expect_cause(&kernel, w, "memcg", 2, "usage");
    assert_true(cause_on(&kernel, w).has_request);
}

/** What was told was about another kill: the kernel writes ten in five seconds and then nothing. */
static void test_told_about_another(void **state)
{
    _free_ struct oom_wire *w = some_wire();

    (void)state;
    set_console(w, "/pod/b", 999);
    expect_cause(&kernel, w, "memcg", 2, "usage");
    set_console(w, "/pod/b", 4711);
    w->before.time_ns = w->head.time_ns - 2 * NS_PER_SEC;
    expect_cause(&kernel, w, "memcg", 2, "usage");
    set_console(w, "/pod/b", 4711);
    w->before.stage = OOM_STAGE_CAUSE;
    expect_cause(&kernel, w, "memcg", 2, "usage");
    assert_false(cause_on(&kernel, w).has_request);

    /* But of a group the others follow the one that was chosen. */
    set_console(w, "/pod/b", 999);
    w->before.n_marks = 1;
    expect_cause(&kernel, w, "memcg", 2, "usage");
    w->levels[0].oom_group = 1;
    expect_cause(&kernel, w, "memcg", 1, "console");
}

static void test_guess(void **state)
{
    _free_ struct oom_wire *w = some_wire();

    (void)state;
    expect_cause(&kernel, w, "memcg", 2, "usage");
    /* Nobody's charge failed: the host's memory is full, and a cgroup full of cache no cause. */
    w->head.stack[2] = inside(ALLOC);
    expect_cause(&kernel, w, "host", -1, "stack");
    /* Without names of functions the counters must do. */
    expect_cause(&hidden, w, "memcg", 2, "usage");
    w->levels[2].usage /= 2;
    expect_cause(&hidden, w, "host", -1, "usage");
    /* A charge failed, and meanwhile others have given memory back: the fullest. */
    w->head.stack[2] = inside(MEMCG_OUT_OF_MEMORY);
    expect_cause(&kernel, w, "memcg", 2, "usage");
    w->levels[2].max = w->levels[1].max = OOM_UNLIMITED;
    expect_cause(&kernel, w, "memcg", -1, "usage");
}

/** Two that are full: it is the one in which the trigger is, too. */
static void test_guess_prefers_the_common(void **state)
{
    _free_ struct oom_wire *w = some_wire();

    (void)state;
    set_level(w, 1, 20, 20);
    expect_cause(&kernel, w, "memcg", 2, "usage");
    set_cgroup(&w->trigger_cgroup, 1, "/pod/b/other");
    expect_cause(&kernel, w, "memcg", 1, "usage"); /* the inner one is met first */
    set_cgroup(&w->trigger_cgroup, 1, "/elsewhere");
    expect_cause(&kernel, w, "memcg", 1, "usage");
}

static void test_memory_and_swap(void **state)
{
    _free_ struct oom_wire *w = some_wire();
    json_t *json;

    (void)state;
    set_level(w, 2, 30, 32);
    w->levels[2].swap_usage = w->levels[2].swap_max = 40 * MIB_PAGES;
    assert_true(cause_on(&kernel, w).of_swap);
    json = decode_fine(w);
    expect_text(data_of(json), "limit_of", "memory+swap");
    expect_number(data_of(json), "memsw_limit_bytes", 40 * MIB_PAGES * (json_int_t)page);
    json_decref(json);
    /* In v2 swap has a limit of its own, which kills nobody. */
    w->victim_cgroup.unified = 1;
    set_level(w, 2, 32, 32);
    w->levels[2].swap_usage = w->levels[2].swap_max = 0;
    assert_false(cause_on(&kernel, w).of_swap);
    json = decode_fine(w);
    expect_text(data_of(json), "limit_of", "memory");
    expect_number(data_of(json), "swap_limit_bytes", 0);
    assert_null(at(json, DATA, "memsw_usage_bytes"));
    json_decref(json);
}

static void test_group(void **state)
{
    _free_ struct oom_wire *w = some_wire();
    json_t *json;

    (void)state;
    assert_int_equal(cause_on(&kernel, w).group, -1);
    w->levels[0].oom_group = w->levels[1].oom_group = 1;
    assert_int_equal(cause_on(&kernel, w).group, 1); /* the outermost */
    set_console(w, "/pod/b/" CONTAINER, 4711);
    assert_int_equal(cause_on(&kernel, w).group, 0); /* but not beyond the limit */
    w->levels[2].oom_group = 1;
    set_console(w, NULL, 4711);
    assert_int_equal(cause_on(&kernel, w).group, 2); /* of the host's: no bound */
    json = decode_fine(w);
    expect_text(data_of(json), "oom_group", "/pod");
    assert_non_null(strstr(json_string_value(at(json, NULL, "summary")),
                           "was killed together with its group (memory.oom.group) because"));
    json_decref(json);
}

/* --- the kernel's own lines */

static void test_invoked(void **state)
{
    static const struct {
        const char *text;
        bool fine;
        uint32_t mask;
        const char *flags;
        int order;
    } rows[] = {
        {"hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0", true,
         0xcc0, "GFP_KERNEL", 0},
        {"a b=( invoked oom-killer: gfp_mask=0x0(), order=-1, oom_score_adj=-1000", true, 0, "",
         -1},
        {"x invoked oom-killer: gfp_mask=0x100cca(GFP_HIGHUSER_MOVABLE), order=3", true, 0x100cca,
         "GFP_HIGHUSER_MOVABLE", 3},
        {"x invoked oom-killer: gfp_mask=0x1cca(GFP_HI", false, 0, "", 0},
        {"x invoked oom-killer: gfp_mask=0x1cca(GFP), order=", false, 0, "", 0},
        {"x invoked oom-killer: gfp_mask=0x1cca, order=1", false, 0, "", 0},
        {"x invoked oom-killer: gfp_mask=0x(A), order=1", false, 0, "", 0},
        {"x invoked oom-killer: gfp_mask=0x123456789(A), order=1", false, 0, "", 0},
        {"x invoked oom-killer: gfp_mask=0x1(A), order=99999999999999999999", false, 0, "", 0},
        {"x invoked oom-killer:", false, 0, "", 0},
        {"", false, 0, "", 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct oom_cause cause = {};

        if (oom_parse_invoked(rows[i].text, strlen(rows[i].text), &cause) != rows[i].fine)
            fail_msg("%s", rows[i].text);
        assert_int_equal(cause.has_request, rows[i].fine);
        if (!rows[i].fine)
            continue;
        assert_int_equal(cause.gfp_mask, rows[i].mask);
        assert_string_equal(cause.gfp_flags, rows[i].flags);
        assert_int_equal(cause.order, rows[i].order);
    }
}

static void test_task(void **state)
{
    static const struct {
        const char *text;
        uint32_t pid;
    } rows[] = {
        {",task=hog,pid=123,uid=0", 123},
        {",task=a,pid=7,uid=0,pid=123,uid=0", 123}, /* a name that would be another */
        {",task=hog,pid=", 0},
        {",task=hog,pid=x", 0},
        {",task=hog,pid=99999999999", 0},
        {",task=hog", 0},
        {"", 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(oom_parse_task(rows[i].text, strlen(rows[i].text)), rows[i].pid);
}

static void test_gfp(void **state)
{
    static const struct {
        uint32_t mask;
        const char *text;
    } rows[] = {
        {0, ""},
        {0xcc0, "GFP_KERNEL"},
        {0x400dc0, "GFP_KERNEL_ACCOUNT|__GFP_ZERO"},
        {0x100cca, "GFP_HIGHUSER_MOVABLE"},
        {0x140cca, "GFP_HIGHUSER_MOVABLE|__GFP_COMP"},
        {0x800, "__GFP_KSWAPD_RECLAIM"},
        {0x80000200, "0x80000200"},
    };
    char text[OOM_GFP_TEXT_MAX];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        oom_gfp_text(rows[i].mask, text);
        assert_string_equal(text, rows[i].text);
    }
    oom_gfp_text(UINT32_MAX, text); /* fits */
    assert_true(strlen(text) < sizeof(text));
}

/* --- bytes of others */

static void test_hostile_names(void **state)
{
    static const char comm[] = "\xff\"\n\\\x1b[31m\x7f</sc\xc3";
    static const char shown[] = "\xef\xbf\xbd\"\n\\\x1b[31m\x7f</sc\xef\xbf\xbdX";
    _free_ struct oom_wire *w = some_wire();
    json_t *json;

    (void)state;
    assert_int_equal(strlen(comm), WIRE_COMM_LEN - 1);
    memcpy(w->victim_name, comm, WIRE_COMM_LEN - 1); /* no NUL anywhere */
    w->victim_name[WIRE_COMM_LEN - 1] = 'X';
    memcpy(w->victim_comm, w->victim_name, WIRE_COMM_LEN);
    memcpy(w->trigger_name, w->victim_name, WIRE_COMM_LEN);
    strcpy(w->victim_cgroup.names[1], "\"\xff\x1b[2J");
    json = decode_fine(w);
    expect_text(data_of(json), "victim_process_name", shown);
    expect_text(data_of(json), "trigger_process_name", shown);
    expect_text(json_object_get(json, "process"), "comm", shown);
    expect_text(data_of(json), "victim_cgroup", "/pod/\"\xef\xbf\xbd\x1b[2J/" CONTAINER);
    json_decref(json);
}

static void test_refused(void **state)
{
    _free_ struct oom_wire *w = some_wire();
    int r;

    (void)state;
    w->head.stack_bytes = (WIRE_STACK_MAX + 1) * 8;
    assert_null(decode(&kernel, w, NULL, &r));
    assert_int_equal(r, -EBADMSG);
    w->head.stack_bytes = -EFAULT; /* it has none */
    json_decref(decode_fine(w));
    w->n_levels = OOM_LEVELS_MAX + 1;
    assert_null(decode(&kernel, w, NULL, &r));
    assert_int_equal(r, -EBADMSG);
    w->n_levels = 1;
    w->cmdline_bytes = OOM_CMDLINE_MAX + 1;
    assert_null(decode(&kernel, w, NULL, &r));
    assert_int_equal(r, -EBADMSG);
    w->cmdline_bytes = -1;
    assert_null(decode(&kernel, w, NULL, &r));
    w->cmdline_bytes = 0;
    strcpy(w->victim_cgroup.names[0], "..");
    assert_null(decode(&kernel, w, NULL, &r));
    assert_int_equal(r, -EBADMSG);
}

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static struct record *collect(const struct oom_wire *w, const void *note, const void *snapshot,
                              size_t size);

/** Any bytes: refused, or a sound document; and what is noted is fit to be collected for. */
static void test_fuzz(void **state)
{
    const struct kernel *const kernels[] = {&kernel, &hidden};
    struct oom_wire *w = malloc(oom->wire_size); /* ASan has fences around it */
    unsigned fine = 0, refused = 0;
    uint64_t seed = UINT64_C(0x9e3779b97f4a7c15);

    (void)state;
    assert_non_null(w);
    for (unsigned i = 0; i < 3000; i++) {
        char note[EVENT_NOTE_BYTES] = {};
        json_t *json;
        int r;

        for (size_t n = 0; n + sizeof(seed) <= oom->wire_size; n += sizeof(seed)) {
            next_random(&seed);
            memcpy((char *)w + n, &seed, sizeof(seed));
        }
        /* Pure noise seldom comes far. */
        if (i % 4) {
            struct wire_cgroup *const cgroups[] = {&w->trigger_cgroup, &w->victim_cgroup};

            w->head.stack_bytes %= 2 * WIRE_STACK_MAX * 8;
            w->n_levels %= OOM_LEVELS_MAX + 1;
            w->cmdline_bytes = (__s32)((unsigned)w->cmdline_bytes % (OOM_CMDLINE_MAX + 2));
            w->before.way %= 3;
            w->before.stage = OOM_STAGE_TASK;
            w->before.time_ns = w->head.time_ns - i;
            w->before.chosen_pid = w->victim_pid;
            for (size_t c = 0; c < ARRAY_SIZE(cgroups); c++) {
                cgroups[c]->n_names %= CGROUP_NAMES_MAX + 1;
                cgroups[c]->unified %= 2;
                cgroups[c]->cut %= 2;
                for (unsigned n = 0; n < CGROUP_NAMES_MAX; n++) {
                    for (unsigned b = 0; b < CGROUP_NAME_LEN; b++)
                        if (strchr("/", cgroups[c]->names[n][b]))
                            cgroups[c]->names[n][b] = 'x';
                    cgroups[c]->names[n][1 + i % (CGROUP_NAME_LEN - 1)] = '\0';
                }
            }
            for (unsigned n = 0; n < OOM_LEVELS_MAX; n++)
                w->levels[n].oom_group = w->levels[n].oom_group % 2;
            snprintf(w->before.task, sizeof(w->before.task), ",pid=%u", w->victim_tid);
        }
        json = decode(kernels[i % 2], w, note, &r);
        if (!json) {
            assert_true(r == -EBADMSG || r == -ENOMEM);
            refused++;
            continue;
        }
        assert_true(json_is_string(at(json, DATA, "constraint")));
        assert_int_equal(json_integer_value(at(json, DATA, "victim_pid")), w->victim_pid);
        json_decref(json);
        record_free(collect(w, note, w, oom->wire_size));
        fine++;
    }
    free(w);
    print_message("# %u decoded, %u refused\n", fine, refused);
    assert_true(fine > 500);
    assert_true(refused > 500);
}

/* --- what is collected */

struct given {
    struct collect collect;
    const void *bytes;
    size_t size;
};

static int give_snapshot(const struct collect *c, void **ret, size_t *ret_size)
{
    const struct given *g = (const struct given *)c;
    void *copy;

    if (!g->bytes)
        return -ENODATA;
    copy = malloc(g->size + 1);
    assert_non_null(copy);
    memcpy(copy, g->bytes, g->size);
    *ret = copy;
    *ret_size = g->size;
    return 0;
}

/** NULL: it failed. */
static struct record *collect(const struct oom_wire *w, const void *note, const void *snapshot,
                              size_t size)
{
    const struct given given = {
        .collect = {.root_prefix = root, .note = note, .snapshot = give_snapshot},
        .bytes = snapshot,
        .size = size,
    };
    struct record *r = NULL;

    assert_int_equal(record_new(&test_origin, oom, 0, 1, &r), 0);
    return oom->collect(&given.collect, w, r) < 0 ? record_free(r) : r;
}

static json_t *collect_fine(const struct oom_wire *w, const void *snapshot, size_t size)
{
    char note[EVENT_NOTE_BYTES] = {};
    struct record *part;
    json_t *json;
    int r;

    json_decref(decode(&kernel, w, note, &r));
    assert_int_equal(r, 0);
    part = collect(w, note, snapshot, size);
    assert_non_null(part);
    json = finish_json(part);
    record_free(part);
    return json;
}

struct snapshot {
    size_t len;
    char bytes[64 * 1024];
};

static void snap(struct snapshot *s, uint32_t pid, uint64_t anon, bool chosen, const char *path)
{
    struct oom_task task = {.pid = pid, .anon = anon, .file = 1, .swap = 2, .chosen = chosen};
    struct wire_cgroup names;

    snprintf(task.comm, sizeof(task.comm), "task%u", pid);
    memcpy(s->bytes + s->len, &task, sizeof(task));
    s->len += sizeof(task);
    set_cgroup(&names, 1, path);
    for (unsigned i = 0; i < names.n_names; i++) {
        strcpy(s->bytes + s->len, names.names[i]);
        s->len += strlen(names.names[i]) + 1;
    }
    s->bytes[s->len++] = '\0';
}

static void snap_mark(struct snapshot *s, uint32_t pid, uint32_t by, uint64_t at_ns)
{
    const struct oom_task task = {.pid = pid, .marked_by = by, .marked_ns = at_ns};

    memcpy(s->bytes + s->len, &task, sizeof(task));
    s->len += sizeof(task);
    s->bytes[s->len++] = '\0';
}

static void make_tree(bool unified)
{
    make_file("/proc/meminfo", "MemTotal:       1000 kB\nMemFree:         10 kB\n");
    if (unified) {
        make_file("/proc/self/mountinfo", "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        make_file("/sys/fs/cgroup/pod/memory.stat", "anon 1\nfile 2\n");
        make_file("/sys/fs/cgroup/pod/memory.events", "low 0\noom 3\noom_kill 4\n");
    } else {
        make_file("/proc/self/mountinfo",
                  "1 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
        make_file("/sys/fs/cgroup/memory/pod/memory.stat", "cache 5\nrss 6\n");
        make_file("/sys/fs/cgroup/memory/pod/memory.oom_control",
                  "oom_kill_disable 0\nunder_oom 1\noom_kill 7\n");
    }
}

static void test_collect_v1(void **state)
{
    _free_ struct oom_wire *w = some_wire();
    json_t *json, *data;

    (void)state;
    make_tree(false);
    json = collect_fine(w, "", 0);
    data = data_of(json);
    expect_number(json_object_get(data, "memory_stat"), "cache", 5);
    expect_number(json_object_get(data, "memory_events"), "oom_kill", 7);
    expect_number(json_object_get(data, "meminfo"), "MemFree", 10240);
    json_decref(json);
}

static void test_collect_v2(void **state)
{
    _free_ struct oom_wire *w = some_wire();
    json_t *json, *data;

    (void)state;
    make_tree(true);
    w->victim_cgroup.unified = w->trigger_cgroup.unified = 1;
    json = collect_fine(w, "", 0);
    data = data_of(json);
    expect_number(json_object_get(data, "memory_stat"), "file", 2);
    expect_number(json_object_get(data, "memory_events"), "oom", 3);
    json_decref(json);

    /* The cgroup has gone already, and there is no snapshot: the rest comes. */
    w->n_levels = 2;
    set_level(w, 1, 8, 8);
    json = collect_fine(w, NULL, 0);
    data = data_of(json);
    assert_null(json_object_get(data, "memory_stat"));
    assert_null(json_object_get(data, "largest"));
    expect_number(json_object_get(data, "meminfo"), "MemTotal", 1024000);
    json_decref(json);
}

static json_int_t pid_at(json_t *list, size_t i)
{
    return json_integer_value(json_object_get(json_array_get(list, i), "pid"));
}

static void test_largest(void **state)
{
    _free_ struct snapshot *s = calloc(1, sizeof(*s));
    _free_ struct oom_wire *w = some_wire();
    json_t *json, *list, *victim;

    (void)state;
    assert_non_null(s);
    make_tree(false);
    for (unsigned i = 1; i <= 30; i++)
        snap(s, i, i, false, i % 2 ? "/pod/a" : "/elsewhere");
    snap(s, 4711, 0, true, "/pod/b/" CONTAINER); /* it has given its memory back */
    snap(s, 29, 29, false, "/pod/a");            /* another thread of the same */
    snap(s, 1000, 1000, false, "/podium");
    snap(s, 1001, 1000, false, "/");

    json = collect_fine(w, s->bytes, s->len);
    list = at(json, DATA, "largest");
    assert_int_equal(json_array_size(list), OOM_LARGEST_MAX);
    assert_int_equal(pid_at(list, 0), 29);
    assert_int_equal(pid_at(list, 1), 27);
    assert_int_equal(pid_at(list, 2), 25);
    assert_int_equal(pid_at(list, 3), 4711); /* 25 resident, 2 swapped out, as when it was chosen */
    assert_int_equal(pid_at(list, 4), 23);
    assert_int_equal(pid_at(list, 9), 13);
    victim = json_array_get(list, 3);
    expect_text(victim, "comm", "java");
    expect_number(victim, "rss_bytes", 25 * (json_int_t)page);
    expect_number(victim, "swap_bytes", 2 * (json_int_t)page);
    expect_number(victim, "oom_score_adj", -5);
    expect_text(victim, "cgroup", "/pod/b/" CONTAINER);
    assert_true(json_is_true(json_object_get(victim, "chosen")));
    assert_null(at(json, DATA, "killed_with"));
    json_decref(json);

    /* Of the host's memory: everybody's. */
    w->head.stack[2] = inside(ALLOC);
    json = collect_fine(w, s->bytes, s->len);
    list = at(json, DATA, "largest");
    assert_int_equal(pid_at(list, 0), 1000);
    assert_int_equal(pid_at(list, 1), 1001);
    assert_int_equal(pid_at(list, 2), 30);
    assert_null(at(json, DATA, "memory_stat"));
    json_decref(json);
}

static void test_killed_with(void **state)
{
    _free_ struct snapshot *s = calloc(1, sizeof(*s));
    _free_ struct oom_wire *w = some_wire();
    json_t *json, *list;

    (void)state;
    assert_non_null(s);
    make_tree(false);
    w->levels[1].oom_group = 1;
    snap(s, 1, 1, true, "/pod/b/x");
    snap(s, 2, 1, false, "/pod/b/x");
    snap(s, 1, 1, true, "/pod/b/x");
    snap(s, 3, 1, true, "/pod/a");
    /* Some have ended before the snapshot: those of the same trigger at the same time. */
    snap_mark(s, 4711, 101, w->head.time_ns);
    snap_mark(s, 5, 101, w->head.time_ns + NS_PER_MS);
    snap_mark(s, 6, 101, w->head.time_ns - NS_PER_MS);
    snap_mark(s, 7, 101, w->head.time_ns - 2 * NS_PER_SEC);
    snap_mark(s, 8, 101, w->head.time_ns + 2 * NS_PER_SEC);
    snap_mark(s, 9, 999, w->head.time_ns);
    json = collect_fine(w, s->bytes, s->len);
    list = at(json, DATA, "killed_with");
    assert_int_equal(json_array_size(list), 4);
    assert_int_equal(json_integer_value(json_array_get(list, 0)), 4711);
    assert_int_equal(json_integer_value(json_array_get(list, 1)), 1);
    assert_int_equal(json_integer_value(json_array_get(list, 2)), 5);
    assert_int_equal(json_integer_value(json_array_get(list, 3)), 6);
    assert_int_equal(json_array_size(at(json, DATA, "largest")), 4); /* they are not in it */
    json_decref(json);

    /* Nor is who has given all back, even if it is still there. */
    s->len = 0;
    snap(s, 5, 0, true, "/pod/b/x");
    memset(s->bytes + offsetof(struct oom_task, anon), 0, 4 * sizeof(uint64_t));
    json = collect_fine(w, s->bytes, s->len);
    assert_int_equal(json_array_size(at(json, DATA, "largest")), 1);
    assert_int_equal(json_array_size(at(json, DATA, "killed_with")), 2);
    json_decref(json);
}

/** Cut anywhere: what came before is used, and nothing behind is read. */
static void test_cut_snapshot(void **state)
{
    _free_ struct snapshot *s = calloc(1, sizeof(*s));
    _free_ struct oom_wire *w = some_wire();
    size_t last = 0;

    (void)state;
    assert_non_null(s);
    make_tree(false);
    snap(s, 1, 1, false, "/pod/a");
    snap(s, 2, 1, false, "/pod");
    for (size_t len = 0; len <= s->len; len++) {
        _free_ char *exact = malloc(len + 1);
        json_t *json;
        size_t n;

        assert_non_null(exact);
        memcpy(exact, s->bytes, len);
        json = collect_fine(w, exact, len);
        n = json_array_size(at(json, DATA, "largest"));
        assert_true(n >= last && n <= 3);
        last = n;
        json_decref(json);
    }
    assert_int_equal(last, 3); /* with the victim */
}

static void test_rules(void **state)
{
    const struct event_options options = {};

    (void)state;
    assert_string_equal(oom->rule_name(&options, OOM_RULE_OWN), "");
    assert_string_equal(oom->rule_name(&options, OOM_RULE_MARKED_AGAIN), "marked_again");
    assert_null(oom->rule_name(&options, OOM_RULE_NR));
}

static void test_provoke(void **state)
{
    int status = 0;
    pid_t pid = fork();

    (void)state;
    assert_true(pid >= 0);
    if (pid == 0) {
        struct provoked provoked = {};
        int r = oom->provoke(&provoked);

        _exit(r < 0 ? -r : strcmp(provoked.field, "victim_pid") == 0 && provoked.value ? 0 : 255);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    switch (WEXITSTATUS(status)) {
    case EPERM:
    case EACCES:
    case EROFS:
    case ENOENT:
        skip(); /* no memory cgroup of one's own: no privilege, or none is mounted */
    default:
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_itself_and_nothing_known),
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_console),
        cmocka_unit_test(test_told_about_another),
        cmocka_unit_test(test_guess),
        cmocka_unit_test(test_guess_prefers_the_common),
        cmocka_unit_test(test_memory_and_swap),
        cmocka_unit_test(test_group),
        cmocka_unit_test(test_invoked),
        cmocka_unit_test(test_task),
        cmocka_unit_test(test_gfp),
        cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_fuzz),
        cmocka_unit_test(test_collect_v1),
        cmocka_unit_test(test_collect_v2),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_killed_with),
        cmocka_unit_test(test_cut_snapshot),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_provoke),
    };

    return cmocka_run_group_tests_name("oom", tests, set_up_kernel, tear_down_kernel);
}
