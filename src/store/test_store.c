// SPDX-License-Identifier: Apache-2.0
#include "store/store.h"

#include "core/clock.h"
#include "core/test_folder.h"
#include "core/text.h"
#include "store/jsontext.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define PATH_LEN  400
#define N_KINDS   3
#define TIME_0_NS (UINT64_C(1749628486) * NS_PER_SEC) /* 2025-06-11 07:54:46 UTC */
#define LONG_NS   (20 * NS_PER_SEC)                   /* far more than anything here takes */

static const char stack[] = "vfs_write/ffffffffa4982520 [kernel]\\n"
                            "ksys_write/ffffffffa4982a30 [kernel]\\n"
                            "do_syscall_64/ffffffffa5a1b2c0 [kernel]\\n";

/* ---- a directory of its own for each test */

struct dir {
    char path[64];
    struct store_options options;
};

static int setup(void **state)
{
    struct dir *dir = calloc(1, sizeof(*dir));

    snprintf(dir->path, sizeof(dir->path), "/tmp/test_store.XXXXXX");
    assert_non_null(mkdtemp(dir->path));
    dir->options = (struct store_options){
        .path = dir->path,
        .max_size = UINT64_C(1) << 30,
        .record_files = true,
        .record_file_size = UINT64_C(64) << 20,
        .record_file_count = 4,
    };
    *state = dir;
    return 0;
}

static int teardown(void **state)
{
    struct dir *dir = *state;

    umount2(dir->path, MNT_DETACH); /* test_disk_full's, also if it failed */
    test_remove_folder(dir->path);
    free(dir);
    return 0;
}

static void path_of(const struct dir *dir, const char *name, char ret[PATH_LEN])
{
    snprintf(ret, PATH_LEN, "%s/%s", dir->path, name);
}

/* ---- records */

static uint64_t deadline(void)
{
    return clock_now_ns(CLOCK_MONOTONIC) + LONG_NS;
}

static void id_of(uint64_t n, char ret[DOC_ID_LEN + 1])
{
    snprintf(ret, DOC_ID_LEN + 1, "%016" PRIx64 "%012" PRIx64, TIME_0_NS + n * NS_PER_SEC,
             n * UINT64_C(2654435761) & UINT64_C(0xffffffffffff));
}

struct what {
    uint64_t n; /* gives the id, and the time in seconds */
    const char *tracer_name, *container_id, *stack, *comm;
    uint32_t pid;
    unsigned event;
    bool uncounted;
};

static struct doc *make_doc(struct what what)
{
    struct text json = {};
    struct doc *doc;
    char id[DOC_ID_LEN + 1];
    const char *name = what.tracer_name ? what.tracer_name : "dropwatch";
    size_t stack_at = 0;

    id_of(what.n, id);
    text_adds(&json, "{\"hostname\":\"node-1\",\"region\":\"\"");
    if (what.container_id)
        text_addf(&json, ",\"container_id\":\"%s\",\"container_hostname\":\"web-0\"",
                  what.container_id);
    text_addf(&json,
              ",\"tracer_name\":\"%s\",\"tracer_id\":\"%s\",\"tracer_data\":{\"n\":%" PRIu64
              ",\"comm\":\"%s\",\"stack\":\"",
              name, id, what.n, what.comm ? what.comm : "nginx");
    if (what.stack) {
        stack_at = json.len;
        text_adds(&json, what.stack);
    }
    text_adds(&json, "\",\"empty\":{}}}");
    assert_false(json.failed);

    doc = calloc(1, sizeof(*doc) + json.len + 1);
    doc->refs = 1;
    doc->event = what.event;
    doc->counted = !what.uncounted;
    doc->tracer_name = name;
    doc->realtime_ns = TIME_0_NS + what.n * NS_PER_SEC;
    doc->pid = what.pid;
    memcpy(doc->id, id, sizeof(id));
    if (what.container_id)
        snprintf(doc->container_id, sizeof(doc->container_id), "%s", what.container_id);
    if (what.stack) {
        doc->n_stacks = 1;
        doc->stacks[0] = (struct doc_span){(uint32_t)stack_at, (uint32_t)strlen(what.stack)};
    }
    doc->len = json.len;
    memcpy(doc->json, json.data, json.len + 1);
    text_done(&json);
    return doc;
}

static int put(struct store *s, struct what what)
{
    struct doc *doc = make_doc(what);
    int r = store_put(s, doc);

    doc_unref(doc);
    return r;
}

static struct store *open_store(const struct dir *dir)
{
    struct store *s = NULL;
    char error[512] = "";
    int r = store_open(&dir->options, N_KINDS, error, sizeof(error), &s);

    if (r < 0)
        fail_msg("store_open: %d: %s", r, error);
    return s;
}

static void close_store(struct store *s)
{
    assert_null(store_close(s, deadline()));
}

static uint64_t recorded(struct store *s)
{
    struct store_counts counts;
    uint64_t sum = 0;

    for (unsigned i = 0; i < N_KINDS; i++) {
        store_get_counts(s, i, &counts);
        sum += counts.recorded;
    }
    return sum;
}

/* Waits until it is so; fails if it never is. */
#define wait_until(condition)                                                                      \
    do {                                                                                           \
        uint64_t until_ = deadline();                                                              \
        while (!(condition)) {                                                                     \
            if (clock_now_ns(CLOCK_MONOTONIC) > until_)                                            \
                fail_msg("never came true: %s", #condition);                                       \
            usleep(2000);                                                                          \
        }                                                                                          \
    } while (0)

static struct store_state state_of(struct store *s)
{
    struct store_state state;

    store_get_state(s, &state);
    return state;
}

/* ---- reading */

struct rows {
    unsigned n;
    uint64_t seqs[30000];
    char ids[30000][DOC_ID_LEN + 1];
    char *last_json; /* owned */
};

static int add_row(void *arg, const struct store_row *row)
{
    struct rows *rows = arg;

    assert_true(rows->n < ARRAY_SIZE(rows->seqs));
    if (rows->n)
        assert_true(row->seq > rows->seqs[rows->n - 1]);
    assert_int_equal(strlen(row->json), row->len);
    rows->seqs[rows->n] = row->seq;
    snprintf(rows->ids[rows->n++], DOC_ID_LEN + 1, "%s", row->id);
    free(rows->last_json);
    rows->last_json = strdup(row->json);
    return 0;
}

static struct rows *rows_free(struct rows *rows)
{
    free(rows->last_json);
    free(rows);
    return NULL;
}
DEFINE_CLEANUP(struct rows *, rows_free)

static struct store_reader *open_reader(const struct dir *dir)
{
    struct store_reader *r = NULL;
    char error[512] = "";
    int e = store_reader_open(dir->path, error, sizeof(error), &r);

    if (e < 0)
        fail_msg("store_reader_open: %d: %s", e, error);
    return r;
}

static struct rows *read_rows(const struct dir *dir, struct store_query query)
{
    _cleanup_(store_reader_closep) struct store_reader *r = open_reader(dir);
    struct rows *rows = calloc(1, sizeof(*rows));

    assert_int_equal(store_reader_each(r, &query, add_row, rows), 0);
    return rows;
}

static int64_t sql_number(const struct dir *dir, const char *sql)
{
    sqlite3_stmt *statement;
    sqlite3 *db;
    char path[PATH_LEN];
    int64_t number;

    path_of(dir, "huatuo.db", path);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

static char *read_file(const struct dir *dir, const char *name)
{
    struct text text = {.max = 256 << 20};
    char path[PATH_LEN], bytes[4096];
    ssize_t n;

    path_of(dir, name, path);
    _close_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    while ((n = read(fd, bytes, sizeof(bytes))) > 0)
        text_add(&text, bytes, (size_t)n);
    return text.data ? text.data : strdup("");
}

/* One past the brace that ends the record. Line by line: a sanitizer's strstr() looks at all the
 * rest. */
static const char *record_end(const char *text)
{
    const char *end;

    while ((end = strchr(text, '\n'))) {
        if (end == text + 1 && *text == '}' && end[1] == '\n')
            return end;
        text = end + 1;
    }
    return NULL;
}

/* Every record of a file in order: whole, valid, and none twice. Returns how many; `ids` may be
 * NULL. */
static unsigned check_record_file(const char *text, char (*ids)[DOC_ID_LEN + 1], unsigned max)
{
    unsigned n = 0;

    while (*text) {
        const char *title_end = strchr(text, '\n');
        const char *end = record_end(text);
        json_error_t error;
        json_t *object;

        assert_non_null(title_end);
        assert_non_null(end);
        assert_memory_equal(text + strlen("2025-06-11 15:54:46"), " Host=node-1 Region=", 20);
        object = json_loadb(title_end + 1, (size_t)(end - title_end - 1), 0, &error);
        if (!object)
            fail_msg("record %u of the file: %s", n, error.text);
        if (ids) {
            assert_true(n < max);
            snprintf(ids[n], DOC_ID_LEN + 1, "%s",
                     json_string_value(json_object_get(object, "tracer_id")));
        }
        json_decref(object);
        text = end + 2;
        n++;
    }
    return n;
}

static bool find_damaged(const struct dir *dir, char ret[PATH_LEN])
{
    DIR *entries = opendir(dir->path);
    bool found = false;

    for (struct dirent *entry; (entry = readdir(entries));) {
        if (strncmp(entry->d_name, "huatuo.db.damaged-", 18) == 0 &&
            !strstr(entry->d_name, "-wal") && !strstr(entry->d_name, "-shm")) {
            path_of(dir, entry->d_name, ret);
            found = true;
        }
    }
    closedir(entries);
    return found;
}

/* ---- JSON */

static void test_json(void **state)
{
    static const struct {
        const char *json, *indented;
    } rows[] = {
        {"{}", "{}"},
        {"{\"a\":[],\"b\":{}}", "{\n  \"a\": [],\n  \"b\": {}\n}"},
        {" { \"a\" : 1 , \"b\":[true,null,-1.5e3,\"x\"] } ",
         "{\n  \"a\": 1,\n  \"b\": [\n    true,\n    null,\n    -1.5e3,\n    \"x\"\n  ]\n}"},
        {"{\"a\":\"}{,:\\\"\\\\\",\"c\":[{\"d\":\"\"}]}",
         "{\n  \"a\": \"}{,:\\\"\\\\\",\n  \"c\": [\n    {\n      \"d\": \"\"\n    }\n  ]\n}"},
    };
    static const char json[] = "{\"k\":\"a\\nb\\u00e9\\ud83d\\ude00\\\\x\",\"o\":{\"in\":\"deep\"},"
                               "\"num\":443,\"in\":\"\"}";
    struct text out = {}, scratch = {};
    const char *inside;
    size_t len;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        out.len = 0;
        jsontext_indent(&out, rows[i].json, strlen(rows[i].json));
        assert_string_equal(out.data, rows[i].indented);
    }

    assert_true(jsontext_string(json, strlen(json), "k", &inside, &len));
    out.len = 0;
    jsontext_unescape(&out, inside, len);
    assert_string_equal(out.data, "a\nb\xc3\xa9\xf0\x9f\x98\x80\\x");
    assert_true(jsontext_string(json, strlen(json), "in", &inside, &len));
    assert_int_equal(len, 0); /* not the one inside of "o" */
    assert_false(jsontext_string(json, strlen(json), "num", &inside, &len));
    assert_false(jsontext_string(json, strlen(json), "deep", &inside, &len));

    assert_true(jsontext_holds(json, strlen(json), "\nb", 2, &scratch));
    assert_true(jsontext_holds(json, strlen(json), "eep", 3, &scratch));
    assert_true(jsontext_holds(json, strlen(json), "443", 3, &scratch));
    assert_false(jsontext_holds(json, strlen(json), "nb", 2, &scratch));  /* \n is no n */
    assert_false(jsontext_holds(json, strlen(json), "num", 3, &scratch)); /* a key */
    text_done(&out);
    text_done(&scratch);
}

/* ---- what goes in comes out */

static void test_exact(void **state)
{
    static const char json[] =
        "{\"a\":\"S\\nTACK\",\"b\":\"S\\nTACK\",\"c\":\"\",\"d\":\"\xc3\xa9\"}";
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    struct doc *doc = calloc(1, sizeof(*doc) + sizeof(json));
    struct pollfd pollfd = {.fd = store_fd(s), .events = POLLIN};
    char *first;

    *doc = (struct doc){.refs = 1,
                        .counted = true,
                        .event = 1,
                        .tracer_name = "softirq",
                        .realtime_ns = TIME_0_NS,
                        .id = "0123456789abcdef0123456789ab",
                        .n_stacks = 4,
                        .stacks = {{6, 7}, {20, 7}, {34, 0}, {42, 2}},
                        .len = sizeof(json) - 1};
    memcpy(doc->json, json, sizeof(json));
    assert_int_equal(store_put(s, doc), 0);
    assert_int_equal(poll(&pollfd, 1, 10000), 1);
    assert_int_equal(recorded(s), 1);
    {
        _cleanup_(rows_freep) struct rows *rows = read_rows(dir, (struct store_query){});
        assert_int_equal(rows->n, 1);
        assert_string_equal(rows->last_json, json);
    }
    assert_int_equal(sql_number(dir, "SELECT count(*) FROM stacks"), 2);
    assert_int_equal(sql_number(dir, "SELECT sum(uses) FROM stacks"), 3);
    assert_int_equal(sql_number(dir, "SELECT instr(json, 'TACK') FROM records"), 0);

    /* The same record once more, as after a commit that only seemed to fail, is still one. */
    assert_int_equal(store_put(s, doc), 0);
    doc_unref(doc);
    wait_until(recorded(s) == 2);
    assert_int_equal(sql_number(dir, "SELECT count(*) FROM records"), 1);
    assert_int_equal(sql_number(dir, "SELECT sum(uses) FROM stacks"), 3);

    assert_int_equal(store_put_meta(s, "status", "{\"a\":1}"), 0);
    assert_int_equal(store_put_meta(s, "status", "{\"a\":2}"), 0);
    close_store(s);
    {
        _cleanup_(store_reader_closep) struct store_reader *r = open_reader(dir);
        assert_int_equal(store_reader_meta(r, "status", &first), 0);
        assert_string_equal(first, "{\"a\":2}");
        free(first);
        assert_int_equal(store_reader_meta(r, "other", &first), -ENOENT);
    }
}

static void test_stacks_once(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);

    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(put(s, (struct what){.n = i, .stack = i % 4 ? stack : "other"}), 0);
    close_store(s);
    s = open_store(dir); /* also over restarts */
    for (uint64_t i = 1000; i < 1010; i++)
        assert_int_equal(put(s, (struct what){.n = i, .stack = stack}), 0);
    close_store(s);

    assert_int_equal(sql_number(dir, "SELECT count(*) FROM stacks"), 2);
    assert_int_equal(sql_number(dir, "SELECT uses FROM stacks WHERE text LIKE 'vfs%'"), 760);
    _cleanup_(rows_freep) struct rows *rows = read_rows(dir, (struct store_query){});
    assert_int_equal(rows->n, 1010);
    struct doc *doc = make_doc((struct what){.n = 1009, .stack = stack});
    assert_string_equal(rows->last_json, doc->json);
    doc_unref(doc);
}

/* ---- queries */

#define CONTAINER_A "aaaa11112222333344445555666677778888999900001111222233334444aaaa"
#define CONTAINER_B "aabb11112222333344445555666677778888999900001111222233334444bbbb"

#define ROWS(...)   ((const int[]){__VA_ARGS__, -1})
#define NO_ROWS     ((const int[]){-1})

/* Checks that a query gives just the records of these numbers. */
static void expect(const struct dir *dir, struct store_query query, const int *numbers)
{
    _cleanup_(rows_freep) struct rows *rows = read_rows(dir, query);
    char id[DOC_ID_LEN + 1];
    unsigned n = 0;

    for (; numbers[n] >= 0; n++) {
        assert_true(n < rows->n);
        id_of((uint64_t)numbers[n], id);
        assert_string_equal(rows->ids[n], id);
    }
    assert_int_equal(rows->n, n);
}

static int stop_at_second(void *arg, const struct store_row *row)
{
    unsigned *calls = arg;

    (void)row;
    return ++*calls == 2 ? 77 : 0;
}

static void test_matches_of_what_is_escaped(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);

    put(s, (struct what){.n = 1, .comm = "a\\u009bz"});
    put(s, (struct what){.n = 2, .comm = "a\\u009Bz"});
    put(s, (struct what){.n = 3, .comm = "a\xc2\x9bz"}); /* JSON does not forbid it */
    put(s, (struct what){.n = 4, .comm = "a\\udb40\\udc41z"});
    put(s, (struct what){.n = 5, .comm = "az"});
    wait_until(recorded(s) == 5);
    expect(dir, (struct store_query){.match = "\xc2\x9b"}, ROWS(1, 2, 3));
    expect(dir, (struct store_query){.match = "a\xc2\x9bz"}, ROWS(1, 2, 3));
    expect(dir, (struct store_query){.match = "\xf3\xa0\x81\x81z"}, ROWS(4));
    expect(dir, (struct store_query){.match = "u009b"}, NO_ROWS);
    close_store(s);
}

static void test_queries(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    static const char *const oom[] = {"oom", NULL}, *const both[] = {"oom", "softirq", NULL},
                             *const none[] = {"lacp", NULL};
    const uint64_t at_3 = TIME_0_NS + 3 * NS_PER_SEC;
    unsigned calls = 0;

    put(s, (struct what){.n = 1, .tracer_name = "oom", .container_id = CONTAINER_A, .pid = 10});
    put(s, (struct what){.n = 2, .tracer_name = "softirq", .pid = 11, .comm = "ja\\u00e9\\nva"});
    put(s, (struct what){.n = 3, .tracer_name = "oom", .container_id = CONTAINER_B, .pid = 10});
    put(s, (struct what){.n = 5, .tracer_name = "dropwatch", .stack = stack});
    put(s, (struct what){.n = 4, .tracer_name = "dropwatch", .container_id = CONTAINER_A});
    wait_until(recorded(s) == 5);

    expect(dir, (struct store_query){}, ROWS(1, 2, 3, 5, 4));
    expect(dir, (struct store_query){.tracer_names = oom}, ROWS(1, 3));
    expect(dir, (struct store_query){.tracer_names = both}, ROWS(1, 2, 3));
    expect(dir, (struct store_query){.tracer_names = none}, NO_ROWS);
    expect(dir, (struct store_query){.since_ns = at_3}, ROWS(3, 5, 4));
    expect(dir, (struct store_query){.until_ns = at_3}, ROWS(1, 2, 3));
    expect(dir, (struct store_query){.since_ns = at_3, .until_ns = at_3}, ROWS(3));
    expect(dir, (struct store_query){.since_ns = UINT64_MAX}, NO_ROWS);
    expect(dir, (struct store_query){.container = CONTAINER_A}, ROWS(1, 4));
    expect(dir, (struct store_query){.container = "aa"}, ROWS(1, 3, 4));
    expect(dir, (struct store_query){.container = "aabb"}, ROWS(3));
    expect(dir, (struct store_query){.container = "b"}, NO_ROWS);
    expect(dir, (struct store_query){.container = ""}, ROWS(1, 2, 3, 5, 4));
    expect(dir, (struct store_query){.pid = 10}, ROWS(1, 3));
    expect(dir, (struct store_query){.pid = 10, .container = "aaaa"}, ROWS(1));
    expect(dir, (struct store_query){.match = "ksys_write"}, ROWS(5)); /* cut out, and found */
    /* Whoever wrote it may have escaped what need not be. */
    expect(dir, (struct store_query){.match = "ja\xc3\xa9"}, ROWS(2));
    expect(dir, (struct store_query){.match = "\nva"}, ROWS(2));
    expect(dir, (struct store_query){.match = "hostname"}, NO_ROWS); /* a key */
    expect(dir, (struct store_query){.match = "node-1", .tracer_names = oom}, ROWS(1, 3));
    expect(dir, (struct store_query){.match = ""}, ROWS(1, 2, 3, 5, 4));

    /* The newest by time, in the order of the commits. */
    expect(dir, (struct store_query){.limit = 1}, ROWS(5));
    expect(dir, (struct store_query){.limit = 2}, ROWS(5, 4));
    expect(dir, (struct store_query){.limit = 3}, ROWS(3, 5, 4));
    expect(dir, (struct store_query){.limit = 99}, ROWS(1, 2, 3, 5, 4));
    expect(dir, (struct store_query){.limit = 1, .tracer_names = both}, ROWS(3));
    expect(dir, (struct store_query){.limit = 1, .container = "aaaa"}, ROWS(4));
    expect(dir, (struct store_query){.limit = 2, .match = "node-1", .until_ns = at_3}, ROWS(2, 3));

    expect(dir, (struct store_query){.after_seq = 3}, ROWS(5, 4));
    expect(dir, (struct store_query){.after_seq = 3, .limit = 1}, ROWS(4));
    expect(dir, (struct store_query){.after_seq = 1, .tracer_names = oom}, ROWS(3));
    expect(dir, (struct store_query){.after_seq = 1, .container = "aaaa", .since_ns = at_3},
           ROWS(4));
    expect(dir, (struct store_query){.after_seq = 5}, NO_ROWS);

    _cleanup_(store_reader_closep) struct store_reader *r = open_reader(dir);
    assert_int_equal(store_reader_each(r, &(struct store_query){}, stop_at_second, &calls), 77);
    assert_int_equal(calls, 2);
    close_store(s);
}

static void test_chunks(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    struct rows *rows;

    for (uint64_t i = 0; i < 2048; i++) /* two whole chunks and nothing behind them */
        put(s, (struct what){.n = i});
    wait_until(recorded(s) == 2048);
    rows = read_rows(dir, (struct store_query){});
    assert_int_equal(rows->n, 2048);
    rows_free(rows);
    put(s, (struct what){.n = 2048});
    close_store(s);
    rows = read_rows(dir, (struct store_query){.after_seq = 1});
    assert_int_equal(rows->n, 2048);
    rows_free(rows);
}

static int copy_id(void *arg, const struct store_row *row)
{
    snprintf(arg, DOC_ID_LEN + 1, "%s", row->id);
    return 0;
}

static void test_get(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    char id[DOC_ID_LEN + 1], found[DOC_ID_LEN + 1] = "";
    uint64_t last, version, later;

    for (uint64_t i = 0; i < 300; i++)
        put(s, (struct what){.n = i});
    wait_until(recorded(s) == 300);

    _cleanup_(store_reader_closep) struct store_reader *r = open_reader(dir);
    id_of(42, id);
    assert_int_equal(store_reader_get(r, id, copy_id, found), 0);
    assert_string_equal(found, id);
    found[0] = '\0';
    assert_int_equal(store_reader_get(r, id + DOC_ID_LEN - 8, copy_id, found), 0); /* its end */
    assert_string_equal(found, id);
    id[16] = '\0'; /* its beginning */
    assert_int_equal(store_reader_get(r, id, copy_id, found), 0);
    assert_memory_equal(found, id, 16);
    id[4] = '\0';
    assert_int_equal(store_reader_get(r, id, copy_id, found), -EEXIST);
    assert_int_equal(store_reader_get(r, "x", copy_id, found), -ENOENT);
    assert_int_equal(store_reader_get(r, "", copy_id, found), -ENOENT);
    assert_int_equal(store_reader_get(r, "%", copy_id, found), -ENOENT);

    assert_int_equal(store_reader_last(r, &last), 0);
    assert_int_equal(last, 300);
    assert_int_equal(store_reader_version(r, &version), 0);
    assert_int_equal(store_reader_version(r, &later), 0);
    assert_true(version == later);
    put(s, (struct what){.n = 300});
    wait_until(recorded(s) == 301);
    assert_int_equal(store_reader_version(r, &later), 0);
    assert_true(version != later);
    close_store(s);
}

static void test_not_there(void **state)
{
    struct dir *dir = *state;
    struct store_options options = dir->options;
    struct store_reader *r = NULL;
    struct store *s = NULL;
    char error[512], missing[128];

    assert_int_equal(store_reader_open(dir->path, error, sizeof(error), &r), -ENOENT);
    assert_non_null(strstr(error, "--store"));
    snprintf(missing, sizeof(missing), "%s/missing", dir->path);
    options.path = missing;
    assert_int_equal(store_open(&options, N_KINDS, error, sizeof(error), &s), -ENOENT);
    assert_non_null(strstr(error, missing));
    assert_null(s);
}

static void test_unreadable(void **state)
{
    struct dir *dir = *state;
    int status;
    pid_t pid;

    if (geteuid() != 0) {
        print_message("skipped: only root can become somebody who may not read\n");
        skip();
    }
    close_store(open_store(dir));
    pid = fork();
    if (pid == 0) {
        struct store_reader *r;
        char error[512];

        if (setgid(65534) < 0 || setuid(65534) < 0)
            _exit(2);
        _exit(store_reader_open(dir->path, error, sizeof(error), &r) == -EACCES &&
                      strstr(error, "root")
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* A stopped store, and a reader who may read but not write in its directory. */
static void test_reader_without_write(void **state)
{
    struct dir *dir = *state;
    struct store *s;
    char path[PATH_LEN];
    int status;
    pid_t pid;

    if (geteuid() != 0) {
        print_message("skipped: only root can become another user\n");
        skip();
    }
    s = open_store(dir);
    put(s, (struct what){.n = 1});
    close_store(s);
    assert_int_equal(chmod(dir->path, 0755), 0);
    for (unsigned i = 0; i < 3; i++) {
        path_of(dir, (const char *const[]){"huatuo.db", "huatuo.db-wal", "huatuo.db-shm"}[i], path);
        assert_int_equal(chmod(path, 0644), 0);
    }
    pid = fork();
    if (pid == 0) {
        struct store_reader *r;
        char error[512];
        uint64_t last = 0;

        if (setgid(65534) < 0 || setuid(65534) < 0)
            _exit(2);
        _exit(store_reader_open(dir->path, error, sizeof(error), &r) == 0 &&
                      store_reader_last(r, &last) == 0 && last == 1
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* ---- opening */

/** As the agent's user: 0 if a store that has no tables yet can be opened. */
static int open_as_somebody(const struct dir *dir)
{
    char error[512], problem[sizeof(((struct store_state *)0)->problem)];
    struct store *s = NULL;

    if (setgid(65534) < 0 || setuid(65534) < 0 ||
        store_open(&dir->options, N_KINDS, error, sizeof(error), &s) < 0)
        return 2;
    snprintf(problem, sizeof(problem), "%s", state_of(s).problem);
    store_close(s, deadline());
    if (problem[0])
        print_message("%s\n", problem);
    return problem[0] ? 1 : 0;
}

/* A reader that is root's makes one of them and gives it to the database's owner a moment later. */
static void test_reader_makes_a_file(void **state)
{
    static const struct {
        const char *name;
        mode_t mode;
    } made[] = {
        {"huatuo.db-wal", 0600},
        {"huatuo.db-wal", 0644},
        {"huatuo.db-shm", 0600},
        {"huatuo.db-shm", 0644},
    };
    const struct timespec moment = {.tv_nsec = 30 * (long)NS_PER_MS};
    struct dir *dir = *state;

    if (geteuid() != 0) {
        print_message("skipped: only root can become another user\n");
        skip();
    }
    for (unsigned i = 0; i < ARRAY_SIZE(made); i++) {
        char database[PATH_LEN], path[PATH_LEN];
        sqlite3 *db;
        int fd, status;
        pid_t pid;

        test_remove_folder(dir->path);
        assert_int_equal(mkdir(dir->path, 0755), 0);
        path_of(dir, "huatuo.db", database);
        assert_int_equal(sqlite3_open(database, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL),
                         SQLITE_OK);
        sqlite3_close(db);
        path_of(dir, made[i].name, path);
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, made[i].mode);
        assert_true(fd >= 0);
        close(fd);
        assert_int_equal(chown(dir->path, 65534, 65534), 0);
        assert_int_equal(chown(database, 65534, 65534), 0);
        pid = fork();
        if (pid == 0)
            _exit(open_as_somebody(dir));
        nanosleep(&moment, NULL);
        assert_int_equal(chown(path, 65534, 65534), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
}

static void test_lock(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir), *second = NULL;
    char error[512], pid[32];

    assert_int_equal(store_open(&dir->options, N_KINDS, error, sizeof(error), &second), -EBUSY);
    snprintf(pid, sizeof(pid), "process %d;", (int)getpid());
    assert_non_null(strstr(error, pid));
    assert_null(second);
    close_store(s);
    close_store(open_store(dir));
}

static void test_modes(void **state)
{
    static const char *const names[] = {"huatuo.db", "huatuo.db-wal", "huatuo.db-shm", "lock",
                                        "records/dropwatch"};
    struct dir *dir = *state;
    mode_t mask = umask(022);
    struct store *s = open_store(dir);
    struct stat st;
    char path[PATH_LEN];

    put(s, (struct what){.n = 1});
    path_of(dir, "records/dropwatch", path);
    wait_until(stat(path, &st) == 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        path_of(dir, names[i], path);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0640);
    }
    close_store(s);
    umask(mask);
}

static void test_newer_schema(void **state)
{
    struct dir *dir = *state;
    struct store_reader *r = NULL;
    struct store *s = NULL;
    char error[512], path[PATH_LEN];
    sqlite3 *db;

    close_store(open_store(dir));
    path_of(dir, "huatuo.db", path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);

    assert_int_equal(store_open(&dir->options, N_KINDS, error, sizeof(error), &s),
                     -EPROTONOSUPPORT);
    assert_non_null(strstr(error, "later version"));
    assert_int_equal(store_reader_open(dir->path, error, sizeof(error), &r), -EPROTONOSUPPORT);
    assert_false(find_damaged(dir, path));
    assert_int_equal(sql_number(dir, "PRAGMA user_version"), 99);
}

static void test_foreign(void **state)
{
    struct dir *dir = *state;
    struct store *s = NULL;
    char error[512], path[PATH_LEN];
    sqlite3 *db;

    path_of(dir, "huatuo.db", path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE t(x)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(store_open(&dir->options, N_KINDS, error, sizeof(error), &s),
                     -EPROTONOSUPPORT);
    assert_int_equal(sql_number(dir, "SELECT count(*) FROM t"), 0);
}

/* ---- the queue */

/* Somebody holds the database: nothing can be committed. The store's thread may be at its first
 * commit just now, and is waited for. */
static sqlite3 *hold_database(const struct dir *dir)
{
    char path[PATH_LEN];
    sqlite3 *other;

    path_of(dir, "huatuo.db", path);
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    sqlite3_busy_timeout(other, (int)(LONG_NS / NS_PER_MS));
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    return other;
}

static void test_queue_bound(void **state)
{
    struct dir *dir = *state;
    struct store_counts counts;
    struct store *s;
    sqlite3 *other;
    unsigned refused = 0;

    dir->options.record_files = false;
    s = open_store(dir);
    put(s, (struct what){.n = 0});
    wait_until(recorded(s) == 1);
    other = hold_database(dir);
    for (uint64_t i = 1; i < 20003; i++) {
        int r = put(s, (struct what){.n = i, .event = 1});

        assert_true(r == 0 || r == -ENOBUFS);
        refused += r != 0;
    }
    put(s, (struct what){.n = 99999, .event = 1, .uncounted = true});
    assert_int_equal(refused, 2);
    assert_int_equal(state_of(s).queued, 20000);
    wait_until(!state_of(s).writing);
    assert_non_null(strstr(state_of(s).problem, "locked"));

    sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL);
    wait_until(state_of(s).queued == 0);
    store_get_counts(s, 1, &counts);
    assert_int_equal(counts.recorded, 20000);
    assert_int_equal(counts.lost[STORE_LOST_QUEUE_FULL], 2);
    assert_int_equal(counts.lost[STORE_LOST_WRITE], 0);
    wait_until(state_of(s).writing);
    assert_string_equal(state_of(s).problem, "");
    assert_int_equal(state_of(s).records, 20001);
    sqlite3_close(other);
    close_store(s);
}

static void test_queue_bytes(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    const size_t len = 33 << 20;
    struct doc *doc = calloc(1, sizeof(*doc) + len + 1);
    sqlite3 *other = hold_database(dir);

    doc->refs = 1;
    doc->counted = true;
    doc->tracer_name = "oom";
    doc->len = len;
    memset(doc->json, ' ', len);
    assert_int_equal(store_put(s, doc), 0);
    assert_int_equal(store_put(s, doc), -ENOBUFS);
    doc_unref(doc);
    sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_close(other);
    wait_until(state_of(s).queued == 0); /* that much takes its time on a busy machine */
    close_store(s);
}

/* ---- retention */

static void test_retain_age(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    const uint64_t retain_s = 3600;
    uint64_t now_n = (clock_now_ns(CLOCK_REALTIME) - TIME_0_NS) / NS_PER_SEC;

    for (uint64_t i = 0; i < 3000; i++)
        put(s, (struct what){.n = i, .stack = i % 2 ? stack : "only old ones have this one"});
    put(s, (struct what){.n = now_n - retain_s * 11 / 10, .stack = stack});
    put(s, (struct what){.n = now_n - retain_s * 9 / 10, .stack = stack});
    for (uint64_t i = 0; i < 20; i++)
        put(s, (struct what){.n = now_n - i, .stack = stack});
    wait_until(recorded(s) == 3022);
    assert_int_equal(state_of(s).deleted, 0);
    close_store(s);

    dir->options.retain_ns = retain_s * NS_PER_SEC;
    s = open_store(dir);
    wait_until(state_of(s).deleted == 3001);
    assert_int_equal(state_of(s).records, 21);
    assert_int_equal(sql_number(dir, "SELECT count(*) FROM records"), 21);
    assert_int_equal(sql_number(dir, "SELECT count(*) FROM stacks"), 1);
    assert_int_equal(sql_number(dir, "SELECT uses FROM stacks"), 21);

    /* A text that went comes back, and numbers do not. */
    put(s, (struct what){.n = now_n + 1, .stack = "only old ones have this one"});
    wait_until(recorded(s) == 1);
    assert_int_equal(sql_number(dir, "SELECT max(seq) FROM records"), 3023);
    close_store(s);
}

static void test_seq_after_all_deleted(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);

    for (uint64_t i = 0; i < 10; i++)
        put(s, (struct what){.n = i});
    close_store(s);
    dir->options.retain_ns = NS_PER_SEC;
    s = open_store(dir);
    wait_until(state_of(s).deleted == 10);
    close_store(s);
    dir->options.retain_ns = 0;
    s = open_store(dir);
    put(s, (struct what){.n = 10});
    close_store(s);
    assert_int_equal(sql_number(dir, "SELECT min(seq) FROM records"), 11);
}

static void test_retain_size(void **state)
{
    struct dir *dir = *state;
    struct store *s;
    char text[1200];

    dir->options.max_size = 1 << 20;
    s = open_store(dir);
    for (uint64_t i = 0; i < 4000; i++) {
        memset(text, 'a' + (int)(i % 26), sizeof(text) - 1);
        snprintf(text, 32, "%" PRIu64 " ", i);
        text[strlen(text)] = '-';
        text[sizeof(text) - 1] = '\0';
        put(s, (struct what){.n = i, .stack = text});
        if (i % 500 == 499)
            wait_until(recorded(s) == i + 1);
    }
    wait_until(state_of(s).queued == 0 && state_of(s).deleted > 2000);
    wait_until(state_of(s).size_bytes <= 1 << 20);
    uint64_t left, deleted;
    do { /* until it does not shrink any more */
        deleted = state_of(s).deleted;
        usleep(500 * 1000);
    } while (state_of(s).deleted != deleted);
    left = (uint64_t)sql_number(dir, "SELECT count(*) FROM records");
    /* Enough of the newest is left; of stacks just theirs. */
    assert_in_range(left, 300, 1000);
    assert_int_equal(sql_number(dir, "SELECT max(time) FROM records"),
                     TIME_0_NS + 3999 * NS_PER_SEC);
    assert_int_equal(sql_number(dir, "SELECT max(time) - min(time) FROM records"),
                     (left - 1) * NS_PER_SEC);
    assert_int_equal(sql_number(dir, "SELECT count(*) FROM stacks"), left);
    assert_int_equal(state_of(s).deleted, 4000 - left);
    assert_int_equal(state_of(s).records, left);
    assert_true(state_of(s).writing);
    close_store(s);
    assert_int_equal(sql_number(dir, "SELECT count(*) FROM pragma_integrity_check WHERE "
                                     "integrity_check = 'ok'"),
                     1);
}

/* ---- faults */

static void test_disk_full(void **state)
{
    struct dir *dir = *state;
    _cleanup_(rows_freep) struct rows *rows = NULL;
    static char block[4096];
    char filler[PATH_LEN];
    struct store *s;
    uint64_t n = 0;
    int fd;

    if (mount("tmpfs", dir->path, "tmpfs", 0, "size=3m") < 0) {
        print_message("skipped: cannot mount a small tmpfs to fill: %s\n", strerror(errno));
        skip();
    }
    s = open_store(dir);
    for (; n < 50; n++)
        put(s, (struct what){.n = n, .stack = stack});
    wait_until(recorded(s) == 50);

    path_of(dir, "filler", filler);
    fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, block, sizeof(block)) > 0)
        ;
    while (state_of(s).writing && n < 15000) {
        put(s, (struct what){.n = n, .stack = stack});
        n++;
        usleep(n % 64 ? 0 : 1000);
    }
    wait_until(!state_of(s).writing);
    assert_non_null(strstr(state_of(s).problem, "the disk is full"));
    assert_non_null(strstr(state_of(s).problem, dir->path));
    for (unsigned i = 0; i < 100; i++, n++)
        put(s, (struct what){.n = n, .stack = stack});
    usleep(1200 * 1000); /* a retry that fails */
    assert_false(state_of(s).writing);
    /* What is counted is there, and can be read though the disk is full. */
    {
        uint64_t counted = recorded(s);

        rows = read_rows(dir, (struct store_query){});
        assert_int_equal(rows->n, counted);
        rows_free(rows);
    }

    close(fd);
    unlink(filler);
    wait_until(state_of(s).writing && recorded(s) == n && !*state_of(s).problem);
    close_store(s);
    rows = read_rows(dir, (struct store_query){});
    assert_int_equal(rows->n, n);
    _free_ char *text = read_file(dir, "records/dropwatch");
    assert_int_equal(check_record_file(text, NULL, 0), n);
}

/* Overwrites part of the database from another process: closing a descriptor of it in this one
 * would drop the locks that SQLite holds. */
static void scribble(const char *path, off_t at, size_t len)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        char *bytes = malloc(len);

        memset(bytes, 0x5a, len);
        _exit(pwrite(fd, bytes, len, at) == (ssize_t)len ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void check_begun_anew(const struct dir *dir, uint64_t old_seq)
{
    struct store *s = open_store(dir);
    char aside[PATH_LEN], wal[PATH_LEN + 8];
    struct stat st;

    put(s, (struct what){.n = 5000});
    put(s, (struct what){.n = 5001});
    wait_until(recorded(s) == 2);
    assert_true(state_of(s).writing);
    assert_true(find_damaged(dir, aside));
    snprintf(wal, sizeof(wal), "%s-wal", aside);
    assert_int_equal(stat(wal, &st), 0);
    assert_true((uint64_t)sql_number(dir, "SELECT min(seq) FROM records") > old_seq);
    assert_int_equal(sql_number(dir, "SELECT count(*) FROM records"), 2);
    close_store(s);

    /* The files go on where they were. */
    close_store(open_store(dir));
    _free_ char *text = read_file(dir, "records/dropwatch");
    assert_int_equal(check_record_file(text, NULL, 0), 502);
}

static void make_500(const struct dir *dir)
{
    struct store *s = open_store(dir);

    for (uint64_t i = 0; i < 500; i++)
        put(s, (struct what){.n = i, .stack = stack});
    close_store(s);
}

static void test_damaged_header(void **state)
{
    struct dir *dir = *state;
    char path[PATH_LEN];

    make_500(dir);
    path_of(dir, "huatuo.db", path);
    scribble(path, 0, 100);
    check_begun_anew(dir, 500);
}

static void test_damaged_page(void **state)
{
    struct dir *dir = *state;
    char path[PATH_LEN];
    struct stat st;

    make_500(dir);
    path_of(dir, "huatuo.db", path);
    assert_int_equal(stat(path, &st), 0);
    scribble(path, st.st_size / 2 / 4096 * 4096, 4096);
    check_begun_anew(dir, 500);
}

static void test_cut_short(void **state)
{
    struct dir *dir = *state;
    char path[PATH_LEN];
    struct stat st;

    make_500(dir);
    path_of(dir, "huatuo.db", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size / 2), 0);
    check_begun_anew(dir, 500);
}

static void test_damaged_later(void **state)
{
    struct dir *dir = *state;
    _cleanup_(store_reader_closep) struct store_reader *r = NULL;
    _cleanup_(rows_freep) struct rows *rows = calloc(1, sizeof(*rows));
    char path[PATH_LEN], aside[PATH_LEN];
    struct store *s = open_store(dir);
    uint64_t before, after;
    struct stat st;
    sqlite3 *db;

    for (uint64_t i = 0; i < 500; i++)
        put(s, (struct what){.n = i, .stack = stack});
    wait_until(recorded(s) == 500);
    r = open_reader(dir);
    assert_int_equal(store_reader_version(r, &before), 0);
    path_of(dir, "huatuo.db", path);
    /* All into the file, everything but the first page broken, and the writer's cache outdated. */
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    /* Before its first look a connection does not know that there is a WAL. */
    assert_int_equal(sqlite3_exec(db, "SELECT count(*) FROM records", NULL, NULL, NULL), SQLITE_OK);
    wait_until(sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) ==
               SQLITE_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 10 * 4096);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 1", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    scribble(path, 4096, (size_t)st.st_size - 4096);

    for (uint64_t i = 500; i < 600; i++)
        put(s, (struct what){.n = i, .stack = stack});
    wait_until(recorded(s) == 600);
    assert_true(find_damaged(dir, aside));
    assert_true(state_of(s).writing);

    /* A reader that was open goes over to the new one. */
    assert_int_equal(store_reader_version(r, &after), 0);
    assert_true(before != after);
    assert_int_equal(store_reader_each(r, &(struct store_query){.after_seq = 500}, add_row, rows),
                     0);
    assert_int_equal(rows->n, 100);
    close_store(s);
}

/* ---- killed */

#define KILLS 20

static void write_until_killed(const struct dir *dir, uint64_t begin, int report_fd)
{
    struct store *s;
    char error[512];

    if (store_open(&dir->options, N_KINDS, error, sizeof(error), &s) < 0)
        _exit(1);
    for (uint64_t i = begin;; i++) {
        uint64_t total;

        put(s, (struct what){.n = i, .stack = i % 3 ? stack : "another"});
        if (i % 7 == 0)
            usleep(200);
        total = recorded(s);
        if (write(report_fd, &total, sizeof(total)) < 0)
            _exit(1);
    }
}

static uint64_t last_report(int fd)
{
    uint64_t reports[512], last = 0;
    ssize_t n;

    while ((n = read(fd, reports, sizeof(reports))) >= (ssize_t)sizeof(*reports))
        last = reports[n / sizeof(*reports) - 1];
    return last;
}

static void test_killed(void **state)
{
    struct dir *dir = *state;
    static char ids[30000][DOC_ID_LEN + 1];
    uint64_t before = 0, next = 0;
    unsigned seed = 1;

    for (unsigned i = 0; i < KILLS; i++) {
        int pipe_fds[2], status;
        uint64_t reported;
        struct store *s;
        pid_t pid;

        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        pid = fork();
        if (pid == 0)
            write_until_killed(dir, next, pipe_fds[1]);
        close(pipe_fds[1]);
        int fd = pipe_fds[0];
        /* The pipe holds 64 KiB, so the child is paced by our reading; kill it in the middle. */
        seed = seed * 1103515245 + 12345;
        reported = 0;
        if (i % 2) /* not while it still opens the store, which may take long on a busy machine */
            assert_int_equal(read(fd, &reported, sizeof(reported)), sizeof(reported));
        uint64_t until = clock_now_ns(CLOCK_MONOTONIC) + (20 + seed / 65536 % 150) * NS_PER_MS;
        while (clock_now_ns(CLOCK_MONOTONIC) < until) {
            uint64_t one;

            assert_int_equal(read(fd, &one, sizeof(one)), sizeof(one));
            reported = one;
        }
        kill(pid, SIGKILL);
        reported = MAX(last_report(fd), reported);
        close(fd);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

        s = open_store(dir); /* mends the files */
        close_store(s);
        _cleanup_(rows_freep) struct rows *rows = read_rows(dir, (struct store_query){});
        assert_true(rows->n >= before + reported);
        for (unsigned j = 0; j < rows->n; j++) {
            assert_int_equal(rows->seqs[j], j + 1);
            if (j)
                assert_true(strcmp(rows->ids[j - 1], rows->ids[j]) < 0);
        }
        _free_ char *text = read_file(dir, "records/dropwatch");
        assert_true(text || rows->n == 0);
        assert_int_equal(check_record_file(text ? text : "", ids, ARRAY_SIZE(ids)), rows->n);
        assert_memory_equal(ids, rows->ids, rows->n * sizeof(*ids));
        before = rows->n;
        next += 10000; /* beyond whatever was lost with the process */
    }
    assert_true(before > 100);
}

/* ---- record files */

static void test_file_format(void **state)
{
    static const char json[] =
        "{\"hostname\":\"node\\n2\",\"region\":\"eu \\u001b[31m\",\"container_id\":\"abc\","
        "\"container_hostname\":\"web\",\"container_type\":\"normal\",\"container_level\":\"1\","
        "\"tracer_name\":\"oom\",\"tracer_id\":\"0123456789abcdef0123456789ab\","
        "\"tracer_data\":{\"a\":[1,{}],\"s\":\"x\\ny\"}}";
    static const char expected[] =
        "2025-06-11 15:54:46 Host=node\\x0a2 Region=eu \\x1b[31m ContainerHost=web "
        "ContainerID=abc ContainerType=normal ContainerLevel=1\n"
        "{\n"
        "  \"hostname\": \"node\\n2\",\n"
        "  \"region\": \"eu \\u001b[31m\",\n"
        "  \"container_id\": \"abc\",\n"
        "  \"container_hostname\": \"web\",\n"
        "  \"container_type\": \"normal\",\n"
        "  \"container_level\": \"1\",\n"
        "  \"tracer_name\": \"oom\",\n"
        "  \"tracer_id\": \"0123456789abcdef0123456789ab\",\n"
        "  \"tracer_data\": {\n"
        "    \"a\": [\n"
        "      1,\n"
        "      {}\n"
        "    ],\n"
        "    \"s\": \"x\\ny\"\n"
        "  }\n"
        "}\n"
        "\n"
        "2025-06-11 15:54:47 Host=node-1 Region=\n"
        "{\n"
        "  \"hostname\": \"node-1\",\n";
    struct dir *dir = *state;
    struct doc *doc = calloc(1, sizeof(*doc) + sizeof(json));
    struct store *s;

    setenv("TZ", "CST-8", 1);
    tzset();
    s = open_store(dir);
    *doc = (struct doc){.refs = 1,
                        .tracer_name = "oom",
                        .realtime_ns = TIME_0_NS,
                        .id = "0123456789abcdef0123456789ab",
                        .container_id = "abc",
                        .len = sizeof(json) - 1};
    memcpy(doc->json, json, sizeof(json));
    assert_int_equal(store_put(s, doc), 0);
    doc_unref(doc);
    put(s, (struct what){.n = 1, .tracer_name = "oom"});
    close_store(s);
    unsetenv("TZ");
    tzset();

    _free_ char *text = read_file(dir, "records/oom");
    assert_non_null(text);
    text[MIN(strlen(text), sizeof(expected) - 1)] = '\0';
    assert_string_equal(text, expected);
}

static void test_rotation(void **state)
{
    static char ids[30000][DOC_ID_LEN + 1];
    struct dir *dir = *state;
    struct store *s;
    char name[64], id[DOC_ID_LEN + 1];
    uint64_t expected = 999;

    dir->options.record_file_size = 8192;
    dir->options.record_file_count = 3;
    s = open_store(dir);
    for (uint64_t i = 0; i < 1000; i++) {
        put(s, (struct what){.n = i, .stack = stack});
        if (i == 500)
            wait_until(recorded(s) == 501);
    }
    close_store(s);

    for (unsigned i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), i ? "records/dropwatch.%u" : "records/dropwatch", i);
        _free_ char *text = read_file(dir, name);
        assert_non_null(text);
        assert_true(strlen(text) <= 8192);
        unsigned n = check_record_file(text, ids, ARRAY_SIZE(ids));
        if (i)
            assert_true(n > 8192 / 600 / 2);
        for (; n > 0; n--) {
            id_of(expected--, id);
            assert_string_equal(ids[n - 1], id);
        }
    }
    assert_null(read_file(dir, "records/dropwatch.3"));
}

static void append(const struct dir *dir, const char *name, const char *text)
{
    char path[PATH_LEN];

    path_of(dir, name, path);
    _close_fd_ int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void test_torn_file(void **state)
{
    struct dir *dir = *state;
    char path[PATH_LEN];
    struct stat st;

    make_500(dir);
    path_of(dir, "records/dropwatch", path);
    append(dir, "records/dropwatch", "2025-06-11 15:54:46 Host=node-1 Region=\n{\n  \"host");
    append(dir, "records/oom", "2025-06-1");               /* nothing whole in it */
    append(dir, "records/notes", "what somebody wrote\n"); /* not ours */
    close_store(open_store(dir));
    _free_ char *text = read_file(dir, "records/dropwatch");
    assert_int_equal(check_record_file(text, NULL, 0), 500);
    path_of(dir, "records/oom", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 0);
    _free_ char *notes = read_file(dir, "records/notes");
    assert_string_equal(notes, "what somebody wrote\n");
}

/* What cannot be written to the files is completed later, while the database goes on. */
static void test_files_fail(void **state)
{
    static char ids[30000][DOC_ID_LEN + 1];
    struct dir *dir = *state;
    char path[PATH_LEN];
    struct store *s;
    unsigned n;

    path_of(dir, "records", path);
    assert_int_equal(mkdir(path, 0750), 0);
    path_of(dir, "records/dropwatch", path);
    assert_int_equal(mkdir(path, 0750), 0); /* in the way */
    s = open_store(dir);
    for (uint64_t i = 0; i < 1200; i++)
        put(s, (struct what){.n = i, .tracer_name = i % 2 ? "oom" : "dropwatch"});
    wait_until(recorded(s) == 1200 && *state_of(s).problem);
    assert_true(state_of(s).writing);
    assert_non_null(strstr(state_of(s).problem, path));

    assert_int_equal(rmdir(path), 0);
    wait_until(!*state_of(s).problem);
    put(s, (struct what){.n = 1200});
    close_store(s);
    _free_ char *text = read_file(dir, "records/dropwatch");
    n = check_record_file(text, ids, ARRAY_SIZE(ids));
    assert_int_equal(n, 601);
    _free_ char *oom = read_file(dir, "records/oom");
    n = check_record_file(oom, ids, ARRAY_SIZE(ids));
    assert_int_equal(n, 600);
}

/* Somebody else's logrotate: what is renamed or emptied is begun anew, nothing comes twice. */
static void test_file_taken_away(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    char path[PATH_LEN], other[PATH_LEN];
    struct stat st;

    path_of(dir, "records/dropwatch", path);
    path_of(dir, "records/elsewhere.old", other);
    put(s, (struct what){.n = 1});
    wait_until(stat(path, &st) == 0 && st.st_size > 0);
    assert_int_equal(rename(path, other), 0);
    put(s, (struct what){.n = 2});
    wait_until(stat(path, &st) == 0 && st.st_size > 0);
    assert_int_equal(truncate(path, 0), 0);
    put(s, (struct what){.n = 3});
    close_store(s);
    _free_ char *old = read_file(dir, "records/elsewhere.old");
    assert_int_equal(check_record_file(old, NULL, 0), 1);
    _free_ char *text = read_file(dir, "records/dropwatch");
    assert_int_equal(check_record_file(text, NULL, 0), 1);

    /* And nothing of all that is written again at the next start. */
    assert_int_equal(unlink(path), 0);
    close_store(open_store(dir));
    assert_int_equal(stat(path, &st), -1);
}

/* ---- all at once */

struct reading {
    const struct dir *dir;
    bool stop;
    unsigned rounds;
};

static int count_row(void *arg, const struct store_row *row)
{
    unsigned *n = arg;

    assert_true(row->json[0] == '{' && row->json[row->len - 1] == '}');
    if (++*n == 50)
        usleep(3000); /* a slow one */
    return 0;
}

static void *keep_reading(void *arg)
{
    struct reading *reading = arg;
    struct store_reader *r = open_reader(reading->dir);

    while (!__atomic_load_n(&reading->stop, __ATOMIC_RELAXED)) {
        unsigned n = 0;

        assert_int_equal(store_reader_each(r, &(struct store_query){}, count_row, &n), 0);
        reading->rounds++;
    }
    store_reader_close(r);
    return NULL;
}

/* Readers, the writer and retention: nobody waits for anybody, nobody sees half a record. */
static void test_concurrent(void **state)
{
    struct dir *dir = *state;
    struct reading reading[2] = {{.dir = dir}, {.dir = dir}};
    pthread_t threads[2];
    struct store *s;
    uint64_t n = 0;

    dir->options.max_size = 1 << 20;
    s = open_store(dir);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, keep_reading, &reading[i]), 0);
    for (; n < 12000; n++) {
        put(s, (struct what){.n = n, .stack = stack});
        if (n % 200 == 0)
            usleep(10000);
    }
    wait_until(recorded(s) == n);
    wait_until(state_of(s).deleted > 0);
    assert_true(state_of(s).writing);
    for (unsigned i = 0; i < 2; i++) {
        __atomic_store_n(&reading[i].stop, true, __ATOMIC_RELAXED);
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_true(reading[i].rounds > 0);
    }
    close_store(s);
}

/* ---- targets */

static struct store_target target_of(struct store *s, const char *name)
{
    struct store_target target = {};

    store_get_target(s, name, &target);
    return target;
}

static void advance(struct store *s, const char *name, struct store_advance what)
{
    assert_int_equal(store_target_advance(s, name, &what), 0);
}

static void test_target_cursor(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    struct store_target target;

    assert_int_equal(store_get_target(s, "one", &target), -ENOENT);
    for (uint64_t i = 0; i < 10; i++)
        put(s, (struct what){.n = i});
    advance(s, "one", (struct store_advance){});
    wait_until(target_of(s, "one").active);
    advance(s, "one", (struct store_advance){.seq = 3, .uploaded = 3, .retried = 1});
    advance(s, "one", (struct store_advance){.seq = 5, .uploaded = 2});
    advance(s, "two", (struct store_advance){.seq = 7, .uploaded = 7});
    /* A cursor never goes back. */
    advance(s, "two", (struct store_advance){.seq = 2, .uploaded = 1});
    close_store(s); /* with what waits */

    _cleanup_(store_reader_closep) struct store_reader *reader = open_reader(dir);
    assert_int_equal(store_reader_target(reader, "one", &target), 0);
    assert_int_equal(target.seq, 5);
    assert_int_equal(target.uploaded, 5);
    assert_int_equal(target.retried, 1);
    assert_int_equal(store_reader_target(reader, "two", &target), 0);
    assert_int_equal(target.seq, 7);
    assert_int_equal(target.uploaded, 8);
    assert_int_equal(store_reader_target(reader, "three", &target), -ENOENT);

    s = open_store(dir);
    advance(s, "one", (struct store_advance){.seq = 6, .uploaded = 1});
    wait_until(target_of(s, "one").seq == 6);
    assert_int_equal(target_of(s, "one").uploaded, 6);
    assert_int_equal(target_of(s, "two").seq, 7);
    assert_false(target_of(s, "two").active);
    close_store(s);
}

struct refused {
    unsigned n;
    uint64_t seq;
    char by[64], reason[2 * STORE_REASON_MAX];
};

static int note_refused(void *arg, const struct store_row *row)
{
    struct refused *refused = arg;

    refused->n++;
    refused->seq = row->seq;
    snprintf(refused->by + strlen(refused->by), sizeof(refused->by) - strlen(refused->by), "%s ",
             row->rejected_by);
    snprintf(refused->reason, sizeof(refused->reason), "%s", row->reason);
    assert_true(row->rejected_ns > TIME_0_NS);
    return 0;
}

static struct refused read_refused(const struct dir *dir, struct store_query query)
{
    _cleanup_(store_reader_closep) struct store_reader *r = open_reader(dir);
    struct refused refused = {};

    query.rejected = true;
    assert_int_equal(store_reader_each(r, &query, note_refused, &refused), 0);
    return refused;
}

static void test_target_rejected(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    char reason[2 * STORE_REASON_MAX] = "";
    struct refused refused;

    memset(reason, 'x', sizeof(reason) - 1);
    for (uint64_t i = 0; i < 4; i++)
        put(s, (struct what){.n = i, .stack = stack, .pid = (uint32_t)i});
    wait_until(recorded(s) == 4);
    assert_int_equal(read_refused(dir, (struct store_query){}).n, 0);
    const struct store_rejection first[] = {{.seq = 2, .reason = "mapper \x1b[31m \xff"},
                                            {.seq = 3, .reason = reason},
                                            {.seq = 99, .reason = "there is no such record"}};
    const struct store_rejection other = {.seq = 3, .reason = "no"};
    advance(
        s, "one",
        (struct store_advance){.seq = 4, .uploaded = 2, .rejections = first, .n_rejections = 3});
    advance(
        s, "two",
        (struct store_advance){.seq = 4, .uploaded = 3, .rejections = &other, .n_rejections = 1});
    assert_int_equal(target_of(s, "two").seq, 4);
    assert_int_equal(target_of(s, "one").rejected, 3);
    wait_until(read_refused(dir, (struct store_query){}).n == 3);
    assert_int_equal(target_of(s, "one").rejected, 3);

    refused = read_refused(dir, (struct store_query){});
    assert_int_equal(refused.n, 3);
    assert_string_equal(refused.by, "one one two ");
    refused = read_refused(dir, (struct store_query){.pid = 1});
    assert_int_equal(refused.n, 1);
    assert_int_equal(refused.seq, 2);
    assert_string_equal(refused.reason, "mapper \x1b[31m \xff");
    refused = read_refused(dir, (struct store_query){.after_seq = 2, .limit = 1});
    assert_string_equal(refused.by, "one two ");
    /* Other queries are as they were. */
    _cleanup_(rows_freep) struct rows *rows = read_rows(dir, (struct store_query){});
    assert_int_equal(rows->n, 4);
    close_store(s);
    assert_int_equal(sql_number(dir, "SELECT max(length(reason)) FROM rejected"), STORE_REASON_MAX);

    /* They go with their records. */
    dir->options.retain_ns = NS_PER_SEC;
    s = open_store(dir);
    wait_until(state_of(s).deleted == 4);
    close_store(s);
    assert_int_equal(sql_number(dir, "SELECT count(*) FROM rejected"), 0);
}

static void test_target_deleted(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);

    for (uint64_t i = 0; i < 20; i++)
        put(s, (struct what){.n = i});
    advance(s, "one", (struct store_advance){.seq = 15, .uploaded = 15});
    advance(s, "gone", (struct store_advance){.seq = 1, .uploaded = 1});
    close_store(s);

    dir->options.retain_ns = NS_PER_SEC;
    s = open_store(dir);
    /* What is on its way to the database in the same commit was uploaded. */
    advance(s, "one", (struct store_advance){.seq = 17, .uploaded = 2});
    wait_until(state_of(s).deleted == 20);
    wait_until(target_of(s, "one").deleted == 3);
    assert_int_equal(target_of(s, "one").uploaded, 17);
    /* Should it be in use again, that is what it will have missed. */
    assert_int_equal(target_of(s, "gone").deleted, 19);
    close_store(s);

    s = open_store(dir);
    wait_until(target_of(s, "one").deleted == 3); /* it is remembered */
    /* Two of those had been read before, and were on their way. */
    advance(s, "one", (struct store_advance){.seq = 20, .uploaded = 2});
    wait_until(target_of(s, "one").deleted == 1);
    assert_int_equal(target_of(s, "one").uploaded, 19);
    close_store(s);
}

/** Of the version before: it is read as it is, and completed by the next agent. */
static void test_target_old_store(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    struct store_target target;
    char path[PATH_LEN];
    sqlite3 *db;

    put(s, (struct what){.n = 0});
    close_store(s);
    path_of(dir, "huatuo.db", path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "DROP TABLE targets; DROP TABLE rejected", NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);

    assert_int_equal(read_refused(dir, (struct store_query){}).n, 0);
    _cleanup_(store_reader_closep) struct store_reader *reader = open_reader(dir);
    assert_int_equal(store_reader_target(reader, "one", &target), -ENOENT);
    s = open_store(dir);
    advance(s, "one", (struct store_advance){.seq = 1, .uploaded = 1});
    close_store(s);
    assert_int_equal(store_reader_target(reader, "one", &target), 0);
    assert_int_equal(target.uploaded, 1);
}

/** What targets have done is not forgotten when the database is, and numbers go on. */
static void test_target_new_database(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    char path[PATH_LEN];

    put(s, (struct what){.n = 0});
    advance(s, "one", (struct store_advance){.seq = 1, .uploaded = 1});
    wait_until(sql_number(dir, "SELECT count(*) FROM targets") == 1);
    path_of(dir, "huatuo.db", path);
    assert_int_equal(unlink(path), 0);
    wait_until(access(path, F_OK) == 0); /* it notices within ten seconds, and makes a new one */
    advance(s, "one", (struct store_advance){.uploaded = 1});
    close_store(s);
    assert_int_equal(sql_number(dir, "SELECT uploaded FROM targets"), 2);
}

/** More than there is room for is refused at once, and nothing of it is done. */
static void test_target_bounds(void **state)
{
    struct dir *dir = *state;
    struct store *s = open_store(dir);
    struct store_rejection *many = calloc(STORE_REJECTIONS_MAX, sizeof(*many));
    struct store_advance all = {.uploaded = 1, .rejections = many};
    bool refused = false;
    char name[16];

    all.n_rejections = STORE_REJECTIONS_MAX;
    for (size_t i = 0; i < STORE_REJECTIONS_MAX; i++)
        many[i] = (struct store_rejection){.seq = i, .reason = "why"};
    for (unsigned i = 0; i < 3; i++)
        refused |= store_target_advance(s, "one", &all) == -ENOBUFS;
    assert_true(refused);
    for (unsigned i = 0; i < 2 * STORE_TARGETS_MAX; i++) {
        snprintf(name, sizeof(name), "more%u", i);
        store_target_advance(s, name, &(struct store_advance){.uploaded = 1});
    }
    close_store(s);
    assert_in_range(sql_number(dir, "SELECT count(*) FROM targets"), 1, STORE_TARGETS_MAX);
    free(many);
}

static void test_defaults(void **state)
{
    struct store_options options = {};

    (void)state;
    assert_int_equal(option_defaults(store_section.options, &options), 0);
    assert_string_equal(options.path, "/var/lib/huatuo");
    assert_true(options.retain_ns == UINT64_C(30) * 86400 * NS_PER_SEC);
    assert_true(options.max_size == UINT64_C(1) << 30);
    assert_true(options.record_files);
    assert_int_equal(options.record_file_size, 64 << 20);
    assert_int_equal(options.record_file_count, 4);
    option_done(store_section.options, &options);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_json),
        TEST(test_defaults),
        TEST(test_exact),
        TEST(test_stacks_once),
        TEST(test_queries),
        TEST(test_matches_of_what_is_escaped),
        TEST(test_chunks),
        TEST(test_get),
        TEST(test_not_there),
        TEST(test_unreadable),
        TEST(test_reader_without_write),
        TEST(test_reader_makes_a_file),
        TEST(test_lock),
        TEST(test_modes),
        TEST(test_newer_schema),
        TEST(test_foreign),
        TEST(test_queue_bound),
        TEST(test_queue_bytes),
        TEST(test_retain_age),
        TEST(test_seq_after_all_deleted),
        TEST(test_retain_size),
        TEST(test_disk_full),
        TEST(test_damaged_header),
        TEST(test_damaged_page),
        TEST(test_cut_short),
        TEST(test_damaged_later),
        TEST(test_killed),
        TEST(test_file_format),
        TEST(test_rotation),
        TEST(test_torn_file),
        TEST(test_files_fail),
        TEST(test_file_taken_away),
        TEST(test_concurrent),
        TEST(test_target_cursor),
        TEST(test_target_rejected),
        TEST(test_target_deleted),
        TEST(test_target_old_store),
        TEST(test_target_new_database),
        TEST(test_target_bounds),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
