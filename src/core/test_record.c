// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/event.h"
#include "core/record.h"

#define TIME_NS    (UINT64_C(1749629116) * NS_PER_SEC + 251152703) /* 2025-06-11 16:05:16 +0800 */
#define WRITTEN_NS (TIME_NS + 300 * NS_PER_MS)
#define BOOT_ID    "01234567-89ab-cdef-0123-456789abcdef"

static const struct event event = {.name = "netdev", .tracer_name = "netdev_event"};
static const struct record_origin origin = {
    .hostname = "web1",
    .region = "north",
    .kernel_release = "6.1.0-18-amd64",
    .boot_id = BOOT_ID,
};
static const struct record_process java = {
    .pid = 4711, .tid = 4712, .ppid = 1, .uid = 1000, .start_boot_ns = 5, .comm = "java"};
static const uint8_t address_a[16] = {[10] = 0xff, 0xff, 10, 0, 0, 1};
static const uint8_t address_b[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1};

static struct record *begin_with(const struct record_origin *o)
{
    struct record *r = NULL;

    assert_int_equal(record_new(o, &event, 7, TIME_NS, &r), 0);
    assert_non_null(r);
    return r;
}

static struct record *begin(void)
{
    return begin_with(&origin);
}

static json_t *parse(const struct doc *doc)
{
    json_error_t error;
    json_t *json = json_loadb(doc->json, doc->len, JSON_REJECT_DUPLICATES, &error);

    if (!json)
        print_message("# %s at %d: %.300s\n", error.text, error.position, doc->json);
    assert_non_null(json);
    assert_true(json_is_object(json));
    assert_int_equal(strlen(doc->json), doc->len);
    assert_null(strchr(doc->json, '\n'));
    return json;
}

/* Finishes and parses; the caller has both to free. */
static json_t *finish(struct record *r, struct doc **ret)
{
    assert_int_equal(record_finish(r, WRITTEN_NS, ret), 0);
    assert_non_null(*ret);
    return parse(*ret);
}

static void assert_keys(json_t *object, const char *const *keys)
{
    const char *key;
    json_t *value;
    size_t n = 0;

    json_object_foreach(object, key, value)
    {
        assert_non_null(keys[n]);
        assert_string_equal(key, keys[n]);
        n++;
    }
    assert_null(keys[n]);
}

static const char *string_at(json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    if (!s)
        print_message("# no text %s\n", key);
    assert_non_null(s);
    return s;
}

static void assert_string(json_t *object, const char *key, const char *expected)
{
    assert_string_equal(string_at(object, key), expected);
}

static void assert_integer(json_t *object, const char *key, json_int_t expected)
{
    json_t *value = json_object_get(object, key);

    assert_true(json_is_integer(value));
    assert_true(json_integer_value(value) == expected);
}

static void test_whole(void **state)
{
    static const char *const envelope[] = {"hostname",
                                           "region",
                                           "container_id",
                                           "container_hostname",
                                           "container_host_namespace",
                                           "container_type",
                                           "container_level",
                                           "uploaded_time",
                                           "time",
                                           "tracer_time",
                                           "tracer_name",
                                           "tracer_type",
                                           "tracer_id",
                                           "schema",
                                           "summary",
                                           "kernel",
                                           "boot_id",
                                           "container_found_by",
                                           "cgroup",
                                           "process",
                                           "tracer_data",
                                           NULL};
    static const char *const process[] = {"pid", "tid",     "ppid",         "uid", "comm",
                                          "exe", "cmdline", "systemd_unit", NULL};
    static const char *const data[] = {"comm", "pid", "big", "most", "least", "minus", "zero",
                                       "yes",  "no",  "hex", "cut",  "inner", "last",  NULL};
    static const char *const inner[] = {"a", "deep", "b", NULL};
    static const char cmdline[] = "/usr/bin/java\0-jar\0app.jar";
    _cleanup_(record_freep) struct record *r = begin();
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    json_t *json, *t, *p;

    (void)state;
    record_process(r, &java);
    record_str(r, "comm", java.comm, sizeof(java.comm));
    record_u64(r, "pid", java.pid);
    record_u64(r, "big", UINT64_C(5532940660025295));
    record_u64(r, "most", UINT64_MAX);
    record_i64(r, "least", INT64_MIN);
    record_i64(r, "minus", -42);
    record_i64(r, "zero", 0);
    record_bool(r, "yes", true);
    record_bool(r, "no", false);
    record_strf(r, "hex", "0x%llx", 0xff4b000000000000ULL);
    record_str(r, "cut", "abcdef", 3);
    record_open(r, "inner");
    record_u64(r, "a", 1);
    record_open(r, "deep");
    record_close(r);
    record_str(r, "b", "{", 1);
    record_close(r);
    record_u64(r, "last", 9);
    record_summary(r, "first thought");
    record_summary(r, "eth%d lost its carrier", 0);
    record_cgroup(r, "/kubepods/pod1");
    record_container(r, "c0ffee", "pod-1", "default", "Normal", "burstable", "cgroup");
    record_process_fill(r, "/usr/bin/java", cmdline, sizeof(cmdline), "docker.service");
    assert_string_equal(record_get_process(r)->comm, "java");
    assert_int_equal(record_realtime(r), TIME_NS);

    json = finish(r, &doc);
    assert_keys(json, envelope);
    assert_string(json, "hostname", "web1");
    assert_string(json, "region", "north");
    assert_string(json, "container_id", "c0ffee");
    assert_string(json, "container_hostname", "pod-1");
    assert_string(json, "container_host_namespace", "default");
    assert_string(json, "container_type", "Normal");
    assert_string(json, "container_level", "burstable");
    assert_string(json, "uploaded_time", "2025-06-11T16:05:16.551152703+08:00");
    assert_string(json, "time", "2025-06-11 16:05:16.251 +0800");
    assert_string(json, "tracer_time", "2025-06-11 16:05:16.251 +0800");
    assert_string(json, "tracer_name", "netdev_event");
    assert_string(json, "tracer_type", "auto");
    assert_string(json, "tracer_id", record_id(r));
    assert_integer(json, "schema", 1);
    assert_string(json, "summary", "eth0 lost its carrier");
    assert_string(json, "kernel", "6.1.0-18-amd64");
    assert_string(json, "boot_id", BOOT_ID);
    assert_string(json, "container_found_by", "cgroup");
    assert_string(json, "cgroup", "/kubepods/pod1");

    p = json_object_get(json, "process");
    assert_keys(p, process);
    assert_integer(p, "pid", 4711);
    assert_integer(p, "tid", 4712);
    assert_integer(p, "ppid", 1);
    assert_integer(p, "uid", 1000);
    assert_string(p, "comm", "java");
    assert_string(p, "exe", "/usr/bin/java");
    assert_string(p, "cmdline", "/usr/bin/java -jar app.jar");
    assert_string(p, "systemd_unit", "docker.service");

    t = json_object_get(json, "tracer_data");
    assert_keys(t, data);
    assert_string(t, "comm", "java");
    assert_integer(t, "pid", 4711);
    assert_integer(t, "big", 5532940660025295);
    assert_integer(t, "most", INT64_MAX);
    assert_integer(t, "least", INT64_MIN);
    assert_integer(t, "minus", -42);
    assert_integer(t, "zero", 0);
    assert_true(json_is_true(json_object_get(t, "yes")));
    assert_true(json_is_false(json_object_get(t, "no")));
    assert_string(t, "hex", "0xff4b000000000000");
    assert_string(t, "cut", "abc");
    assert_integer(t, "last", 9);
    t = json_object_get(t, "inner");
    assert_keys(t, inner);
    assert_int_equal(json_object_size(json_object_get(t, "deep")), 0);
    assert_string(t, "b", "{");

    assert_int_equal(doc->refs, 1);
    assert_int_equal(doc->event, 7);
    assert_true(doc->counted);
    assert_string_equal(doc->tracer_name, "netdev_event");
    assert_int_equal(doc->realtime_ns, TIME_NS);
    assert_int_equal(doc->pid, 4711);
    assert_string_equal(doc->id, record_id(r));
    assert_string_equal(doc->container_id, "c0ffee");
    assert_int_equal(doc->n_stacks, 0);
    json_decref(json);
}

static void test_bare(void **state)
{
    static const char *const envelope[] = {
        "hostname",    "region",      "uploaded_time", "time",   "tracer_time",
        "tracer_name", "tracer_type", "tracer_id",     "schema", "summary",
        "kernel",      "boot_id",     "tracer_data",   NULL};
    _cleanup_(record_freep) struct record *r = begin();
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    json_t *json;

    (void)state;
    record_uncounted(r);
    record_cgroup(r, NULL);
    record_cgroup(r, "");
    record_container(r, NULL, "", NULL, "", NULL, "");
    json = finish(r, &doc);
    assert_keys(json, envelope);
    assert_string(json, "summary", "");
    assert_int_equal(json_object_size(json_object_get(json, "tracer_data")), 0);
    assert_false(doc->counted);
    assert_int_equal(doc->pid, 0);
    assert_string_equal(doc->container_id, "");
    assert_null(record_get_process(r));
    assert_int_equal(record_n_holes(r), 0);
    json_decref(json);
}

static void test_known_parts_only(void **state)
{
    static const struct record_process idle = {.comm = "swapper/0"};
    char id[100];
    _cleanup_(record_freep) struct record *r = begin();
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    json_t *json, *p;

    (void)state;
    memset(id, 'a', sizeof(id));
    id[sizeof(id) - 1] = '\0';
    record_process(r, &idle);
    record_process_fill(r, NULL, NULL, 0, NULL);
    record_process_fill(r, "", "", 1, "");
    record_container(r, id, NULL, NULL, NULL, NULL, NULL);
    json = finish(r, &doc);
    p = json_object_get(json, "process");
    assert_int_equal(json_object_size(p), 5);
    assert_integer(p, "pid", 0);
    assert_string(p, "comm", "swapper/0");
    assert_null(json_object_get(json, "container_hostname"));
    assert_null(json_object_get(json, "container_found_by"));
    assert_int_equal(strlen(string_at(json, "container_id")), DOC_CONTAINER_LEN);
    assert_string_equal(doc->container_id, string_at(json, "container_id"));
    json_decref(json);
}

static void test_cmdline(void **state)
{
    static const struct {
        const char *raw;
        size_t len;
        const char *shown, *masked;
    } rows[] = {
#define ROW(raw, shown, masked) {raw, sizeof(raw) - 1, shown, masked}
        ROW("sh\0-c\0echo hi", "sh -c 'echo hi'", "sh"),
        ROW("a\0it's", "a 'it'\\''s'", "a"),
        ROW("a\0say \"x\"\0\0z", "a 'say \"x\"' '' z", "a"),
        ROW("a\0$(reboot)\0b;c\0*\0~", "a '$(reboot)' 'b;c' '*' '~'", "a"),
        ROW("mysqld\0--password=geheim\0-D", "mysqld --password=geheim -D", "mysqld"),
        ROW("nginx: worker of x\0\0\0\0", "'nginx: worker of x'", "nginx:"),
        ROW("a\0line\nbreak", "a 'line\nbreak'", "a"),
        ROW("gr\xc3\xbc\xc3\x9f"
            "e\0\xff",
            "gr\xc3\xbc\xc3\x9f"
            "e \xef\xbf\xbd",
            "gr\xc3\xbc\xc3\x9f"
            "e"),
        ROW("/opt/x", "/opt/x", "/opt/x"),
#undef ROW
    };
    struct record_origin masking = origin;

    (void)state;
    masking.mask_cmdline = true;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        for (unsigned mask = 0; mask < 2; mask++) {
            _cleanup_(record_freep) struct record *r = begin_with(mask ? &masking : &origin);
            _cleanup_(doc_unrefp) struct doc *doc = NULL;
            /* a copy of exactly that length, so that a read beyond it is found */
            _free_ char *raw = malloc(rows[i].len);
            json_t *json;

            assert_non_null(raw);
            memcpy(raw, rows[i].raw, rows[i].len);
            record_process(r, &java);
            record_process_fill(r, NULL, raw, rows[i].len, NULL);
            json = finish(r, &doc);
            assert_string(json_object_get(json, "process"), "cmdline",
                          mask ? rows[i].masked : rows[i].shown);
            json_decref(json);
        }
    }
}

static void test_long_cmdline_is_cut(void **state)
{
    char raw[3000];
    _cleanup_(record_freep) struct record *r = begin();
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    const char *shown;
    json_t *json;

    (void)state;
    /* an odd start, so that the limit falls into a two-byte character */
    raw[0] = 'x';
    for (size_t i = 1; i + 1 < sizeof(raw); i += 2) {
        raw[i] = '\xc3';
        raw[i + 1] = '\xbc';
    }
    record_process(r, &java);
    record_process_fill(r, NULL, raw, sizeof(raw) - 1, NULL);
    json = finish(r, &doc);
    shown = string_at(json_object_get(json, "process"), "cmdline");
    assert_int_equal(strlen(shown), 1023 + strlen(" ..."));
    assert_string_equal(shown + 1023, " ...");
    assert_null(strstr(shown, "\xef\xbf\xbd"));
    json_decref(json);
}

/* What a span covers has to be the inside of the string, as it stands in the JSON. */
static void assert_span(const struct doc *doc, unsigned i, const char *escaped)
{
    struct doc_span span = doc->stacks[i];

    assert_int_equal(span.len, strlen(escaped));
    assert_memory_equal(doc->json + span.at, escaped, span.len);
    assert_int_equal(doc->json[span.at - 1], '"');
    assert_int_equal(doc->json[span.at + span.len], '"');
}

static void test_stacks_and_holes(void **state)
{
    /* every combination of names that come and don't, around the stacks */
    for (unsigned names = 0; names < 8; names++) {
        _cleanup_(record_freep) struct record *r = begin();
        _cleanup_(doc_unrefp) struct doc *doc = NULL;
        const char *first = names & 1 ? "a.example\"\n" : "", *second = names & 2 ? "bb" : "",
                   *third = names & 4 ? "ccc.example" : "";
        json_t *json, *t;

        record_host(r, "first", address_a);
        record_stack(r, "stack", "a/1 [kernel]\nb/2 [\"x\"]");
        record_stack(r, "empty", "");
        record_host(r, "second", address_b);
        record_host(r, "third", address_a);
        record_open(r, "inner");
        record_stack(r, "cpus_stack", "c\xff");
        record_close(r);
        record_u64(r, "end", 1);

        assert_int_equal(record_n_holes(r), 3);
        assert_memory_equal(record_hole_addr(r, 0), address_a, 16);
        assert_memory_equal(record_hole_addr(r, 1), address_b, 16);
        assert_null(record_hole_addr(r, 3));
        if (names & 1) {
            record_host_fill(r, 0, "a wrong one");
            record_host_fill(r, 0, first);
        }
        if (names & 4)
            record_host_fill(r, 2, third);
        if (names & 2)
            record_host_fill(r, 1, second);
        record_host_fill(r, 3, "nowhere");
        record_host_fill(r, 1, NULL);

        json = finish(r, &doc);
        t = json_object_get(json, "tracer_data");
        assert_string(t, "first", first);
        assert_string(t, "second", second);
        assert_string(t, "third", third);
        assert_string(t, "stack", "a/1 [kernel]\nb/2 [\"x\"]");
        assert_string(t, "empty", "");
        assert_string(json_object_get(t, "inner"), "cpus_stack", "c\xef\xbf\xbd");
        assert_integer(t, "end", 1);
        assert_int_equal(doc->n_stacks, 2);
        assert_span(doc, 0, "a/1 [kernel]\\nb/2 [\\\"x\\\"]");
        assert_span(doc, 1, "c\xef\xbf\xbd");
        json_decref(json);
    }
    (void)state;
}

static void test_more_stacks_and_hosts_than_places(void **state)
{
    _cleanup_(record_freep) struct record *r = begin();
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    json_t *json, *t;
    char name[16], text[16];

    (void)state;
    for (unsigned i = 0; i < DOC_STACKS_MAX + 2; i++) {
        snprintf(name, sizeof(name), "stack%u", i);
        snprintf(text, sizeof(text), "frame%u", i);
        record_stack(r, name, text);
        snprintf(name, sizeof(name), "host%u", i);
        record_host(r, name, address_a);
    }
    assert_int_equal(record_n_holes(r), RECORD_HOLES_MAX);
    for (unsigned i = 0; i < record_n_holes(r); i++)
        record_host_fill(r, i, "name");
    json = finish(r, &doc);
    t = json_object_get(json, "tracer_data");
    assert_int_equal(doc->n_stacks, DOC_STACKS_MAX);
    for (unsigned i = 0; i < DOC_STACKS_MAX + 2; i++) {
        snprintf(name, sizeof(name), "stack%u", i);
        snprintf(text, sizeof(text), "frame%u", i);
        assert_string(t, name, text);
        if (i < DOC_STACKS_MAX)
            assert_span(doc, i, text);
        snprintf(name, sizeof(name), "host%u", i);
        assert_string(t, name, i < RECORD_HOLES_MAX ? "name" : "");
    }
    json_decref(json);
}

static void test_nesting(void **state)
{
    struct doc *untouched = (struct doc *)1, *doc = untouched;
    struct record *r = begin();

    (void)state;
    record_open(r, "never_closed");
    assert_int_equal(record_finish(r, WRITTEN_NS, &doc), -EINVAL);
    record_free(r);

    r = begin();
    record_close(r);
    record_u64(r, "after", 1);
    assert_int_equal(record_finish(r, WRITTEN_NS, &doc), -EINVAL);
    record_free(r);

    r = begin();
    for (unsigned i = 0; i < 100; i++)
        record_open(r, "deeper");
    for (unsigned i = 0; i < 100; i++)
        record_close(r);
    assert_int_equal(record_finish(r, WRITTEN_NS, &doc), -EINVAL);
    record_free(r);
    assert_ptr_equal(doc, untouched);
}

static void test_lists(void **state)
{
    struct record *r = begin();
    struct doc *doc = NULL;
    json_t *json, *data, *list;

    (void)state;
    record_list(r, "numbers");
    record_u64(r, NULL, 1);
    record_i64(r, NULL, -2);
    record_str(r, NULL, "three\"", SIZE_MAX);
    record_close(r);
    record_list(r, "objects");
    for (unsigned i = 0; i < 2; i++) {
        record_open(r, NULL);
        record_u64(r, "pid", i);
        record_list(r, "inner");
        record_close(r);
        record_close(r);
    }
    record_close(r);
    record_u64(r, "after", 9);
    json = finish(r, &doc);
    data = json_object_get(json, "tracer_data");
    list = json_object_get(data, "numbers");
    assert_int_equal(json_array_size(list), 3);
    assert_int_equal(json_integer_value(json_array_get(list, 1)), -2);
    assert_string_equal(json_string_value(json_array_get(list, 2)), "three\"");
    list = json_object_get(data, "objects");
    assert_int_equal(json_array_size(list), 2);
    assert_integer(json_array_get(list, 1), "pid", 1);
    assert_int_equal(json_array_size(json_object_get(json_array_get(list, 0), "inner")), 0);
    assert_integer(data, "after", 9);
    assert_int_equal(doc->pid, 0); /* those of elements are not the record's */
    doc_unref(doc);
    record_free(r);
    json_decref(json);
}

static void test_names_from_files(void **state)
{
    static const char *const bad[] = {
        "",    "a.b",
        "a b", "a\"b",
        "a\\", "\xc3\xa4",
        "a-b", "a_name_of_more_than_sixty_three_characters_is_none_of_the_kernels_"};
    struct record *r = begin();
    struct doc *doc = NULL;
    json_t *json, *data;

    (void)state;
    assert_int_equal(record_named_u64(r, "Active(anon): 5", 12, 5), 0);
    assert_int_equal(record_named_u64(r, "huge", 4, UINT64_MAX), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(record_named_u64(r, bad[i], strlen(bad[i]), 1), -EINVAL);
    assert_int_equal(record_named_u64(r, "a\0b", 3, 1), -EINVAL);
    json = finish(r, &doc);
    data = json_object_get(json, "tracer_data");
    assert_int_equal(json_object_size(data), 2);
    assert_integer(data, "Active(anon)", 5);
    assert_integer(data, "huge", INT64_MAX);
    doc_unref(doc);
    record_free(r);
    json_decref(json);
}

static void test_append(void **state)
{
    static const char cmdline[] = "late";
    struct record *r = begin(), *part = begin();
    struct doc *doc = NULL;
    json_t *json, *data;

    (void)state;
    record_process(r, &java);
    record_summary(r, "ours");
    record_host(r, "host", address_a);
    record_stack(r, "stack", "frame1");
    record_summary(part, "theirs");
    record_u64(part, "collected", 2);
    record_stack(part, "stacks", "frame2");
    record_process_fill(part, NULL, cmdline, sizeof(cmdline), NULL);
    assert_int_equal(record_append(r, part), 0);
    record_free(part);
    record_host_fill(r, 0, "a.example");
    json = finish(r, &doc);
    data = json_object_get(json, "tracer_data");
    assert_string(json, "summary", "ours");
    assert_string(json_object_get(json, "process"), "cmdline", "late");
    assert_string(data, "host", "a.example");
    assert_string(data, "stack", "frame1");
    assert_integer(data, "collected", 2);
    assert_string(data, "stacks", "frame2");
    assert_int_equal(doc->n_stacks, 2);
    assert_span(doc, 0, "frame1");
    assert_span(doc, 1, "frame2");
    doc_unref(doc);
    record_free(r);
    json_decref(json);
}

/** The record stays as it is, whatever is wrong with the part. */
static void test_append_refuses(void **state)
{
    _free_ char *large = malloc(RECORD_MAX_BYTES);
    struct record *r = begin(), *part;
    struct doc *doc = NULL;
    json_t *json;

    (void)state;
    assert_non_null(large);
    memset(large, 'x', RECORD_MAX_BYTES);
    record_u64(r, "mine", 1);

    part = begin();
    record_open(part, "never_closed");
    assert_int_equal(record_append(r, part), -EINVAL);
    record_free(part);
    part = begin();
    record_host(part, "host", address_a);
    assert_int_equal(record_append(r, part), -EINVAL);
    record_free(part);
    part = begin();
    record_str(part, "large", large, RECORD_MAX_BYTES - 100);
    assert_int_equal(record_append(r, part), -E2BIG);
    record_free(part);
    part = begin();
    record_close(part);
    assert_int_equal(record_append(r, part), -EINVAL);
    record_free(part);
    part = begin();
    assert_int_equal(record_append(r, part), 0); /* nothing in it */
    record_free(part);

    json = finish(r, &doc);
    assert_int_equal(json_object_size(json_object_get(json, "tracer_data")), 1);
    doc_unref(doc);
    record_free(r);
    json_decref(json);
}

static void test_finish_only_once(void **state)
{
    _cleanup_(record_freep) struct record *r = begin();
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    struct doc *again = NULL;

    (void)state;
    assert_int_equal(record_finish(r, WRITTEN_NS, &doc), 0);
    assert_int_equal(record_finish(r, WRITTEN_NS, &again), -EINVAL);
    assert_null(again);
    assert_null(record_free(NULL));
}

static char *filled(size_t len, char c)
{
    char *s = malloc(len + 1);

    assert_non_null(s);
    memset(s, c, len);
    s[len] = '\0';
    return s;
}

static void test_size_limit(void **state)
{
    _free_ char *huge = filled(3 * RECORD_MAX_BYTES, '\x01'), *filling = NULL;
    struct doc *doc = NULL;
    size_t without;
    struct record *r = begin();

    (void)state;
    record_str(r, "s", "", 0);
    assert_int_equal(record_finish(r, WRITTEN_NS, &doc), 0);
    without = doc->len;
    doc = doc_unref(doc);
    record_free(r);

    /* exactly as much as goes, and one more */
    filling = filled(RECORD_MAX_BYTES - without + 1, 'x');
    r = begin();
    record_str(r, "s", filling, RECORD_MAX_BYTES - without);
    assert_int_equal(record_finish(r, WRITTEN_NS, &doc), 0);
    assert_int_equal(doc->len, RECORD_MAX_BYTES);
    doc = doc_unref(doc);
    record_free(r);
    r = begin();
    record_str(r, "s", filling, SIZE_MAX);
    assert_int_equal(record_finish(r, WRITTEN_NS, &doc), -E2BIG);
    record_free(r);

    /* each way in; what comes after doesn't heal it */
    for (unsigned way = 0; way < 9; way++) {
        r = begin();
        record_host(r, "host", address_a);
        switch (way) {
        case 0:
            record_str(r, "s", huge, SIZE_MAX);
            break;
        case 1:
            record_strf(r, "s", "%s", huge);
            break;
        case 2:
            record_stack(r, "s", huge);
            break;
        case 3:
            record_summary(r, "%s", huge);
            break;
        case 4:
            record_cgroup(r, huge);
            break;
        case 5:
            record_container(r, "1", huge, NULL, NULL, NULL, NULL);
            break;
        case 6:
            record_host_fill(r, 0, huge);
            break;
        case 7:
            for (unsigned i = 0; i < 300000; i++)
                record_u64(r, "field", i);
            break;
        default:
            /* each fits, all together are beyond what a text takes */
            huge[RECORD_MAX_BYTES] = '\0';
            record_summary(r, "%s", huge);
            record_cgroup(r, huge);
            record_container(r, "1", huge, huge, huge, huge, huge);
            break;
        }
        record_str(r, "after", "fine", 4);
        assert_int_equal(record_finish(r, WRITTEN_NS, &doc), -E2BIG);
        assert_null(doc);
        record_free(r);
    }
}

static void test_ids_sort_by_time(void **state)
{
    char last[DOC_ID_LEN + 1] = "", same[1000][DOC_ID_LEN + 1];
    struct record *r;

    (void)state;
    for (uint64_t ns = 1; ns < UINT64_MAX / 3; ns *= 3) {
        assert_int_equal(record_new(&origin, &event, 0, ns, &r), 0);
        assert_int_equal(strlen(record_id(r)), DOC_ID_LEN);
        assert_int_equal(strspn(record_id(r), "0123456789abcdef"), DOC_ID_LEN);
        assert_true(strcmp(record_id(r), last) > 0);
        assert_int_equal(strncmp(record_id(r), last, 16) > 0, 1);
        memcpy(last, record_id(r), sizeof(last));
        record_free(r);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(same); i++) {
        r = begin();
        memcpy(same[i], record_id(r), sizeof(same[i]));
        record_free(r);
        assert_memory_equal(same[i], "184", 3);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(same[i], same[j]);
    }
}

/* xorshift64: the same on every machine */
static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static char *hostile(uint64_t *seed, char *buffer, size_t size)
{
    static const char *const nasty[] = {"\"",
                                        "\\",
                                        "\n",
                                        "\x1b[2J",
                                        "\xff",
                                        "\xc3",
                                        "\xe2\x80",
                                        "\xed\xa0\x80",
                                        "\xf4\x90\x80\x80",
                                        "\xc0\x80",
                                        "{",
                                        "}",
                                        "\",\"x\":\"",
                                        "\x7f",
                                        "\xf0\x9f\x92\xa9",
                                        "'",
                                        "\x01"};
    size_t at = 0, len = next_random(seed) % size;

    while (at < len) {
        const char *piece = nasty[next_random(seed) % ARRAY_SIZE(nasty)];
        char byte[2] = {(char)next_random(seed), '\0'};

        if (next_random(seed) % 2)
            piece = byte;
        for (; *piece && at < len; piece++)
            buffer[at++] = *piece;
        if (!*byte && next_random(seed) % 16 == 0)
            break;
    }
    buffer[at] = '\0';
    return buffer;
}

static void test_hostile_bytes(void **state)
{
    uint64_t seed = 88172645463325252;
    char a[300], b[300], c[300], d[300];

    (void)state;
    for (unsigned i = 0; i < 3000; i++) {
        struct record_origin evil = origin;
        struct record_process process = java;
        _cleanup_(record_freep) struct record *r = NULL;
        _cleanup_(doc_unrefp) struct doc *doc = NULL;
        unsigned depth = 0, fields = 0;
        char name[16];
        json_t *json;

        evil.hostname = hostile(&seed, a, sizeof(a));
        evil.region = hostile(&seed, b, sizeof(b));
        evil.kernel_release = evil.hostname;
        evil.mask_cmdline = i % 2;
        memcpy(evil.boot_id, hostile(&seed, c, sizeof(evil.boot_id)), sizeof(evil.boot_id));
        memset(process.comm, 0xc3, sizeof(process.comm)); /* no NUL */
        memcpy(process.comm, hostile(&seed, c, 8), 8);
        r = begin_with(&evil);
        record_process(r, &process);
        record_summary(r, "%s", hostile(&seed, c, sizeof(c)));
        record_cgroup(r, hostile(&seed, c, sizeof(c)));
        record_container(r, hostile(&seed, c, 80), hostile(&seed, d, sizeof(d)), c, d, c, d);
        record_process_fill(r, hostile(&seed, c, sizeof(c)), hostile(&seed, d, sizeof(d)),
                            next_random(&seed) % sizeof(d), c);
        for (; fields < 20; fields++) {
            snprintf(name, sizeof(name), "f%u", fields);
            hostile(&seed, c, sizeof(c));
            switch (next_random(&seed) % 7) {
            case 0:
                record_stack(r, name, c);
                break;
            case 1:
                record_host(r, name, address_b);
                break;
            case 2:
                record_open(r, name);
                depth++;
                break;
            case 3:
                record_i64(r, name, (int64_t)next_random(&seed));
                break;
            case 4:
                if (depth > 0) {
                    record_close(r);
                    depth--;
                }
                break;
            case 5:
                record_strf(r, name, "<%s>", c);
                break;
            default:
                record_str(r, name, c, next_random(&seed) % (2 * sizeof(c)));
                break;
            }
        }
        while (depth-- > 0)
            record_close(r);
        for (unsigned h = 0; h < record_n_holes(r); h++)
            if (next_random(&seed) % 2)
                record_host_fill(r, h, hostile(&seed, d, sizeof(d)));
        if (record_finish(r, WRITTEN_NS, &doc) < 0) {
            /* deeper than allowed, and nothing else */
            assert_null(doc);
            continue;
        }
        json = parse(doc);
        for (unsigned s = 0; s < doc->n_stacks; s++) {
            struct doc_span span = doc->stacks[s];

            assert_true(s == 0 || span.at > doc->stacks[s - 1].at + doc->stacks[s - 1].len);
            assert_true(span.len > 0 && span.at + span.len < doc->len);
            assert_int_equal(doc->json[span.at - 1], '"');
            assert_int_equal(doc->json[span.at + span.len], '"');
        }
        json_decref(json);
    }
}

static int set_zone(void **state)
{
    (void)state;
    if (setenv("TZ", "CST-8", 1) < 0)
        return -1;
    tzset();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_bare),
        cmocka_unit_test(test_known_parts_only),
        cmocka_unit_test(test_cmdline),
        cmocka_unit_test(test_long_cmdline_is_cut),
        cmocka_unit_test(test_stacks_and_holes),
        cmocka_unit_test(test_more_stacks_and_hosts_than_places),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_names_from_files),
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_append_refuses),
        cmocka_unit_test(test_finish_only_once),
        cmocka_unit_test(test_size_limit),
        cmocka_unit_test(test_ids_sort_by_time),
        cmocka_unit_test(test_hostile_bytes),
    };

    return cmocka_run_group_tests_name("record", tests, set_zone, NULL);
}
