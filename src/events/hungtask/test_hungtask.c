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
#include <sys/mman.h>

#include "core/test_folder.h"
#include "events/hungtask/list.h"
#include "kernel/kernel.h"

/* --- a kernel of our own: functions of 4 KiB one after the other */

#define TEXT_START    UINT64_C(0xffffffff81000000)
#define FUNCTION_SIZE UINT64_C(0x1000)

static const char *const functions[] = {"__schedule", "io_schedule_timeout", "jbd2_log_wait_commit",
                                        "do_fsync"};
enum function { SCHEDULE, IO_SCHEDULE, WAIT_COMMIT, FSYNC };

static char root[] = "/tmp/test_hungtask.XXXXXX";
static struct kernel kernel;
static const struct event *hungtask;

static const struct record_origin origin = {
    .hostname = "h", .region = "", .kernel_release = "k", .boot_id = ""};

static uint64_t inside(enum function f)
{
    return TEXT_START + f * FUNCTION_SIZE + 0x20;
}

#define WAIT_TEXT  "jbd2_log_wait_commit/ffffffff81002000 [kernel]\n"
#define FSYNC_TEXT "do_fsync/ffffffff81003000 [kernel]"
#define STACK_TEXT                                                                                 \
    "__schedule/ffffffff81000000 [kernel]\n"                                                       \
    "io_schedule_timeout/ffffffff81001000 [kernel]\n" WAIT_TEXT FSYNC_TEXT

/** No CPU is online, unless a test says so. */
static void put_cpus(const char *lines)
{
    assert_true(test_put_file(root, "/proc/stat", lines, strlen(lines)));
}

static int set_up(void **state)
{
    int fd = memfd_create("kallsyms", MFD_CLOEXEC);

    (void)state;
    hungtask = event_find("hungtask");
    if (!hungtask || fd < 0 || !mkdtemp(root))
        return -1;
    for (size_t i = 0; i <= ARRAY_SIZE(functions); i++)
        dprintf(fd, "%016llx t %s\n", (unsigned long long)(TEXT_START + i * FUNCTION_SIZE),
                i < ARRAY_SIZE(functions) ? functions[i] : "_etext");
    put_cpus("cpu  1 1\n");
    return symbols_new(fd, &kernel.symbols);
}

static int tear_down(void **state)
{
    (void)state;
    symbols_free(kernel.symbols);
    return test_remove_folder(root);
}

/* --- a task that hangs */

#define CONTAINER "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void container_id(const char *cgroup_path, char ret[DOC_CONTAINER_LEN + 1])
{
    *ret = '\0';
    if (strstr(cgroup_path, CONTAINER))
        memcpy(ret, CONTAINER, sizeof(CONTAINER));
}

static size_t put_stack(uint64_t *stack)
{
    const enum function frames[] = {SCHEDULE, IO_SCHEDULE, WAIT_COMMIT, FSYNC};

    for (size_t i = 0; i < ARRAY_SIZE(frames); i++)
        stack[i] = inside(frames[i]);
    return ARRAY_SIZE(frames) * 8;
}

static struct hungtask_wire sample(void)
{
    struct hungtask_wire w = {
        .head = {.time_ns = 100 * NS_PER_SEC,
                 .task_start_ns = 5 * NS_PER_SEC,
                 .pid = 42,
                 .tid = 43,
                 .ppid = 1,
                 .uid = 7,
                 .comm = "writer"},
        .cgroup = {.css = 1,
                   .n_names = 2,
                   .unified = 1,
                   .names = {"docker-" CONTAINER ".scope", "system.slice"}},
        .process_name = "database",
        .blocked_ns = 12345 * NS_PER_MS,
        .threshold_ns = 10 * NS_PER_SEC,
        .found_by = HUNGTASK_BY_WATCH,
        .lists = 1,
        .listed_ns = 100 * NS_PER_SEC,
        .listed_pid = 42,
    };

    w.head.stack_bytes = (int32_t)put_stack((uint64_t *)w.head.stack);
    return w;
}

static int decode_into(const struct hungtask_wire *raw, struct record *r)
{
    const struct decode d = {.kernel = &kernel, .container_id = container_id};

    return hungtask->decode(&d, raw, r);
}

static json_t *finish(struct record *r)
{
    struct doc *doc = NULL;
    json_t *json;

    assert_int_equal(record_finish(r, NS_PER_SEC, &doc), 0);
    json = json_loadb(doc->json, doc->len, 0, NULL);
    doc_unref(doc);
    assert_non_null(json);
    return json;
}

static json_t *decode(const struct hungtask_wire *raw)
{
    _cleanup_(record_freep) struct record *r = NULL;

    assert_int_equal(record_new(&origin, hungtask, 0, NS_PER_SEC, &r), 0);
    assert_int_equal(decode_into(raw, r), 0);
    return finish(r);
}

static const json_t *data_of(const json_t *record)
{
    return json_object_get(record, "tracer_data");
}

static const char *string(const json_t *object, const char *name)
{
    const char *s = json_string_value(json_object_get(object, name));

    if (!s)
        fail_msg("there is no string %s", name);
    return s;
}

static void is_number(const json_t *object, const char *name, json_int_t value)
{
    const json_t *number = json_object_get(object, name);

    if (!json_is_integer(number) || json_integer_value(number) != value)
        fail_msg("%s is %lld, not %lld", name, (long long)json_integer_value(number),
                 (long long)value);
}

static void is_string(const json_t *object, const char *name, const char *value)
{
    assert_string_equal(string(object, name), value);
}

static void is_none(const json_t *object, const char *name)
{
    if (json_object_get(object, name))
        fail_msg("%s is there", name);
}

/* --- decode */

static void test_fields(void **state)
{
    const struct hungtask_wire raw = sample();
    json_auto_t *record = decode(&raw);
    const json_t *data = data_of(record), *process = json_object_get(record, "process");

    (void)state;
    is_number(data, "pid", 42);
    is_string(data, "comm", "writer");
    is_number(data, "tid", 43);
    is_string(data, "process_name", "database");
    is_string(data, "found_by", "watch");
    is_number(data, "duration_ms", 12345);
    is_number(data, "threshold_ms", 10000);
    is_string(data, "where", "jbd2_log_wait_commit");
    is_string(data, "stack", STACK_TEXT);
    /* These come with the list. */
    is_none(data, "blocked_count");
    is_none(data, "blocked_processes_stack");
    is_none(data, "cpus_stack");
    is_none(data, "listed_by_pid");
    is_none(data, "listed_before_ms");
    is_string(record, "tracer_name", "hungtask");
    is_string(record, "summary",
              "writer[42] (thread 43 of database) has been blocked (D state) for 12.3 s in "
              "jbd2_log_wait_commit");
    is_string(record, "cgroup", "/system.slice/docker-" CONTAINER ".scope");
    is_string(record, "container_id", CONTAINER);
    is_number(process, "pid", 42);
    is_number(process, "tid", 43);
    is_number(process, "ppid", 1);
    is_number(process, "uid", 7);
    is_string(process, "comm", "writer");
    assert_true(hungtask->collects(&raw));
}

static void test_found_by_the_kernel(void **state)
{
    struct hungtask_wire raw = sample();
    json_auto_t *record = NULL;

    (void)state;
    raw.found_by = HUNGTASK_BY_KERNEL;
    raw.threshold_ns = raw.blocked_ns = 120 * NS_PER_SEC;
    raw.head.tid = 42;
    record = decode(&raw);
    is_string(data_of(record), "found_by", "kernel");
    is_number(data_of(record), "threshold_ms", 120000);
    is_string(record, "summary",
              "writer[42] has been blocked (D state) for at least 120.0 s in "
              "jbd2_log_wait_commit, as the kernel's own detector says");
}

/** Another record has the list: this one has its own task, and says which. */
static void test_listed_elsewhere(void **state)
{
    struct hungtask_wire raw = sample();
    json_auto_t *record = NULL, *odd = NULL;

    (void)state;
    raw.lists = 0;
    raw.listed_ns = 98500 * NS_PER_MS;
    raw.listed_pid = 99;
    record = decode(&raw);
    is_number(data_of(record), "listed_by_pid", 99);
    is_number(data_of(record), "listed_before_ms", 1500);
    is_string(data_of(record), "blocked_processes_stack",
              "writer[42] tid 43: D for 12.3 s, cgroup /system.slice/docker-" CONTAINER
              ".scope\n" STACK_TEXT);
    assert_false(hungtask->collects(&raw));
    raw.listed_ns = UINT64_MAX;
    odd = decode(&raw);
    is_number(data_of(odd), "listed_before_ms", 0);
}

/** The hook could take none: the rest is said all the same. */
static void test_no_stack(void **state)
{
    struct hungtask_wire raw = sample();
    json_auto_t *record = NULL;

    (void)state;
    raw.lists = 0;
    raw.head.stack_bytes = -14;
    record = decode(&raw);
    is_string(data_of(record), "stack", "");
    is_string(data_of(record), "where", "");
    is_string(data_of(record), "blocked_processes_stack",
              "writer[42] tid 43: D for 12.3 s, cgroup /system.slice/docker-" CONTAINER ".scope");
    assert_null(strstr(string(record, "summary"), " in "));
}

static void test_hostile_names(void **state)
{
    struct hungtask_wire raw = sample();
    json_auto_t *record = NULL;
    const char *text;

    (void)state;
    raw.lists = 0;
    memcpy(raw.head.comm, "\x1b[31m\n\xff\"\\x[1]: D", WIRE_COMM_LEN); /* without a NUL */
    memset(raw.process_name, '\n', sizeof(raw.process_name));
    record = decode(&raw);
    /* One paragraph, however many lines its task would like to have. */
    text = string(data_of(record), "blocked_processes_stack");
    assert_int_equal(strncmp(text, "\\x1b[31m\\x0a\\xff\"\\x[1]: D[42] tid 43: D for 12.3 s", 50),
                     0);
    assert_ptr_equal(strstr(text, "\n"), strstr(text, "\n" STACK_TEXT));
}

static void refuse(const struct hungtask_wire *raw)
{
    _cleanup_(record_freep) struct record *r = NULL;

    assert_int_equal(record_new(&origin, hungtask, 0, NS_PER_SEC, &r), 0);
    assert_int_equal(decode_into(raw, r), -EBADMSG);
}

static void test_makes_no_sense(void **state)
{
    struct hungtask_wire raw = sample();

    (void)state;
    raw.head.stack_bytes = 8 * WIRE_STACK_MAX + 8;
    refuse(&raw);
    raw = sample();
    raw.found_by = HUNGTASK_BY_NR;
    refuse(&raw);
    raw.found_by = UINT32_MAX;
    refuse(&raw);
    raw = sample();
    raw.cgroup.n_names = CGROUP_NAMES_MAX + 1;
    refuse(&raw);
    raw = sample();
    strcpy(raw.cgroup.names[0], "..");
    refuse(&raw);
    raw = sample();
    memset(raw.cgroup.names[1], 'x', CGROUP_NAME_LEN);
    refuse(&raw);
}

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void test_fuzz(void **state)
{
    uint64_t x = 88172645463325252ULL;
    unsigned fine = 0;

    (void)state;
    for (unsigned i = 0; i < 3000; i++) {
        _cleanup_(record_freep) struct record *r = NULL;
        struct hungtask_wire raw = sample();
        unsigned n = (unsigned)(next_random(&x) % 20) + 1;
        int e;

        for (unsigned k = 0; k < n; k++) {
            size_t at = next_random(&x) % sizeof(raw);

            ((unsigned char *)&raw)[at] = (unsigned char)next_random(&x);
        }
        assert_int_equal(record_new(&origin, hungtask, 0, NS_PER_SEC, &r), 0);
        e = decode_into(&raw, r);
        assert_true(e == 0 || e == -EBADMSG);
        if (e == 0) {
            json_decref(finish(r));
            fine++;
        }
    }
    assert_in_range(fine, 100, 2999);
}

/* --- where it waits */

static void is_place(const char *stack, const char *place)
{
    char found[32];

    hungtask_place(stack, found, sizeof(found));
    assert_string_equal(found, place);
}

static void test_place(void **state)
{
    (void)state;
    is_place("", "");
    is_place(STACK_TEXT, "jbd2_log_wait_commit");
    is_place("down_write/ffffffff81000000 [kernel]", "down_write");
    is_place("__schedule/ffffffff81000000 [kernel]", "");
    is_place("ffffffff81000000\ndown/ffffffff81000000 [kernel]", "");
    is_place("schedule_timeout/1 [kernel]\n\nx/1 [kernel]", "");
    is_place("a_function_with_a_name_that_is_rather_long/1 [k]", "a_function_with_a_name_that_is_");
}

/* --- the list */

struct fake {
    struct collect collect; /* first */
    char *bytes;            /* owned */
    size_t size;
    int result;
};

static int give_snapshot(const struct collect *c, void **ret, size_t *ret_size)
{
    const struct fake *f = (const struct fake *)c;

    if (f->result < 0)
        return f->result;
    *ret = malloc(f->size + 1);
    assert_non_null(*ret);
    memcpy(*ret, f->bytes, f->size);
    *ret_size = f->size;
    return 0;
}

static int no_sysrq(const struct collect *c)
{
    (void)c;
    return -EPERM;
}

static struct fake nothing(void)
{
    return (struct fake){.collect = {.root_prefix = root,
                                     .symbols = kernel.symbols,
                                     .snapshot = give_snapshot,
                                     .sysrq = no_sysrq,
                                     .n_cpus = 2}};
}

static void add(struct fake *f, const void *bytes, size_t size)
{
    f->bytes = realloc(f->bytes, f->size + size);
    assert_non_null(f->bytes);
    memcpy(f->bytes + f->size, bytes, size);
    f->size += size;
}

static void add_task(struct fake *f, uint32_t pid, uint32_t tid, const char *comm,
                     uint64_t blocked_ns, bool killable, const char *inner, const char *outer)
{
    struct hungtask_row row = {
        .blocked_ns = blocked_ns, .pid = pid, .tid = tid, .killable = killable};

    memcpy(row.comm, comm, strnlen(comm, sizeof(row.comm)));
    row.stack_bytes = (int32_t)put_stack((uint64_t *)row.stack);
    add(f, &row, offsetof(struct hungtask_row, stack) + (size_t)row.stack_bytes);
    if (*inner)
        add(f, inner, strlen(inner) + 1);
    if (*outer)
        add(f, outer, strlen(outer) + 1);
    add(f, "", 1);
}

/** The part that is collected for `raw`; `f` is used up. */
static json_t *collect(struct fake *f, const struct hungtask_wire *raw)
{
    _cleanup_(record_freep) struct record *part = NULL;
    json_t *record, *data;

    assert_int_equal(record_new(&origin, hungtask, 0, NS_PER_SEC, &part), 0);
    assert_int_equal(hungtask->collect(&f->collect, raw, part), 0);
    free(f->bytes);
    record = finish(part);
    data = json_incref(json_object_get(record, "tracer_data"));
    json_decref(record);
    assert_non_null(data);
    return data;
}

static void test_list(void **state)
{
    const struct hungtask_wire raw = sample();
    struct fake f = nothing();
    json_auto_t *data = NULL;
    const json_t *missing;

    (void)state;
    add_task(&f, 1, 1, "short", 0, false, "", "");
    add_task(&f, 42, 43, "writer", 12345 * NS_PER_MS, false, "db.service", "system.slice");
    add_task(&f, 7, 7, "parent", 61 * NS_PER_SEC, true, "x", "");
    put_cpus("cpu1 5 5\n"); /* whose times stand still */
    data = collect(&f, &raw);
    put_cpus("cpu  1 1\n");
    is_number(data, "blocked_count", 3);
    is_string(data, "blocked_processes_stack",
              "parent[7]: D (killable) for 61.0 s, cgroup /x\n" STACK_TEXT
              "\n\nwriter[42] tid 43: D for 12.3 s, cgroup /system.slice/db.service\n" STACK_TEXT
              "\n\nshort[1]: D, cgroup /\n" STACK_TEXT);
    is_string(data, "cpus_stack", "");
    missing = json_object_get(data, "cpus_missing");
    assert_int_equal(json_array_size(missing), 1);
    is_number(json_array_get(missing, 0), "cpu", 1);
    is_none(data, "stack"); /* it is in the record itself */
}

/** Of a task that has no stack, or of which none could be taken. */
static void test_list_without_stacks(void **state)
{
    struct hungtask_row row = {.pid = 5, .tid = 5, .comm = "bare", .stack_bytes = -14};
    const struct hungtask_wire raw = sample();
    struct fake f = nothing();
    json_auto_t *data = NULL;

    (void)state;
    add(&f, &row, offsetof(struct hungtask_row, stack));
    add(&f, "", 1);
    row.stack_bytes = 0;
    add(&f, &row, offsetof(struct hungtask_row, stack));
    add(&f, "", 1);
    data = collect(&f, &raw);
    is_string(data, "blocked_processes_stack", "bare[5]: D, cgroup /\n\nbare[5]: D, cgroup /");
}

/** Of very many the longest are shown, and the record is no larger than it may be. */
static void test_list_of_many(void **state)
{
    const struct hungtask_wire raw = sample();
    struct fake f = nothing();
    json_auto_t *data = NULL;
    const char *text, *rest;
    unsigned shown = 0;

    (void)state;
    for (uint32_t i = 1; i <= 6000; i++)
        add_task(&f, i, i, "many", i * NS_PER_MS, false, "", "");
    data = collect(&f, &raw);
    is_number(data, "blocked_count", 6000);
    text = string(data, "blocked_processes_stack");
    assert_in_range(strlen(text), HUNGTASK_TASKS_BYTES, HUNGTASK_TASKS_BYTES + 4096);
    assert_memory_equal(text, "many[6000]: ", 12);
    for (const char *at = text; (at = strstr(at, "many[")); at++)
        shown++;
    rest = strstr(text, "\n\n(");
    assert_non_null(rest);
    assert_int_equal(shown + strtoul(rest + 3, NULL, 10), 6000);
}

/** As what is cut at every byte, and as junk. */
static void test_cut_list(void **state)
{
    const struct hungtask_wire raw = sample();
    struct fake f = nothing();
    uint64_t x = 88172645463325252ULL;

    (void)state;
    add_task(&f, 42, 43, "writer", NS_PER_SEC, false, "db.service", "system.slice");
    add_task(&f, 44, 44, "other", NS_PER_SEC, false, "x", "");
    for (size_t size = 0; size <= f.size; size++) {
        struct fake cut = nothing();
        json_auto_t *data = NULL;

        add(&cut, f.bytes, size);
        data = collect(&cut, &raw);
        assert_in_range(json_integer_value(json_object_get(data, "blocked_count")), 0, 2);
    }
    for (unsigned i = 0; i < 3000; i++) {
        struct fake junk = nothing();

        add(&junk, f.bytes, f.size);
        for (unsigned k = 0; k < 5; k++) {
            size_t at = next_random(&x) % junk.size;

            junk.bytes[at] = (char)next_random(&x);
        }
        json_decref(collect(&junk, &raw));
    }
    free(f.bytes);
}

/** A stack that is longer than any, and all of it there. */
static void test_stack_too_long(void **state)
{
    static const char bytes[4096];
    const struct hungtask_wire raw = sample();
    struct hungtask_row row = {.pid = 1, .tid = 1, .stack_bytes = sizeof(row.stack) + 8};
    struct fake f = nothing();
    json_auto_t *data = NULL;

    (void)state;
    add(&f, &row, offsetof(struct hungtask_row, stack));
    add(&f, bytes, sizeof(bytes));
    data = collect(&f, &raw);
    is_number(data, "blocked_count", 0);
}

/** Then it is the task itself, or, if there should be one, nothing. */
static void test_no_list(void **state)
{
    const struct hungtask_wire raw = sample();
    struct fake f = nothing();
    _cleanup_(record_freep) struct record *part = NULL;
    json_auto_t *data = NULL;

    (void)state;
    f.result = -ENODATA;
    data = collect(&f, &raw);
    is_none(data, "blocked_count");
    is_string(data, "blocked_processes_stack",
              "writer[42] tid 43: D for 12.3 s, cgroup /system.slice/docker-" CONTAINER
              ".scope\n" STACK_TEXT);
    is_string(data, "cpus_stack", "");
    f = nothing();
    f.result = -ETIME;
    assert_int_equal(record_new(&origin, hungtask, 0, NS_PER_SEC, &part), 0);
    assert_int_equal(hungtask->collect(&f.collect, &raw, part), -ETIME);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_found_by_the_kernel),
        cmocka_unit_test(test_listed_elsewhere),
        cmocka_unit_test(test_no_stack),
        cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_makes_no_sense),
        cmocka_unit_test(test_fuzz),
        cmocka_unit_test(test_place),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_list_without_stacks),
        cmocka_unit_test(test_list_of_many),
        cmocka_unit_test(test_cut_list),
        cmocka_unit_test(test_stack_too_long),
        cmocka_unit_test(test_no_list),
    };

    return cmocka_run_group_tests_name("hungtask", tests, set_up, tear_down);
}
