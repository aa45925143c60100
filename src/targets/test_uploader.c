// SPDX-License-Identifier: Apache-2.0
#include "targets/uploader.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <inttypes.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/test_folder.h"
#include "targets/test_server.h"

#define LONG_NS   (20 * NS_PER_SEC)
#define TIME_0_NS (UINT64_C(1749628486) * NS_PER_SEC)
#define N_MAX     4096

/* ---- a target that sends numbers, and a server that says a letter to each */

struct options {
    struct http_options http;
};
static const struct option table[] = {HTTP_OPTIONS(struct options), {}};

static void path(const void *options, struct text *out)
{
    (void)options;
    text_adds(out, "/in");
}

static void add(const void *options, const struct target_record *record, uint64_t sent_ns,
                struct text *body)
{
    const char *n = memmem(record->json, record->len, "\"n\":", 4);

    (void)options;
    assert_non_null(n);
    assert_true(sent_ns > TIME_0_NS);
    text_addf(body, "%lu %.60s\n", strtoul(n + 4, NULL, 10), record->json);
}

static int read_letters(const void *options, const char *answer, size_t len,
                        struct target_answer *ret, size_t n)
{
    (void)options;
    if (len != n)
        return -EBADMSG;
    for (size_t i = 0; i < n; i++) {
        ret[i].verdict = answer[i] == 's'   ? TARGET_STORED
                         : answer[i] == 'a' ? TARGET_AGAIN
                                            : TARGET_REFUSED;
        if (answer[i] != 's')
            ret[i].reason = strdup(answer[i] == 'a' ? "busy \x1b[31m" : "bad");
    }
    return 0;
}

static void explain(const char *answer, size_t len, char *ret, size_t size)
{
    snprintf(ret, size, "%.*s", (int)len, answer);
}

static const struct target target = {
    .name = "testing",
    .summary = "A test.",
    .options = table,
    .options_size = sizeof(struct options),
    .content_type = "text/plain",
    .path = path,
    .add = add,
    .read = read_letters,
    .explain = explain,
};

/** Records stand in a frame, and a status of 400 is for one of them. */
static const struct target framed = {
    .name = "testing",
    .summary = "A test.",
    .options = table,
    .options_size = sizeof(struct options),
    .content_type = "text/plain",
    .head = "<\n",
    .separator = "-\n",
    .tail = ">\n",
    .bad_is_final = true,
    .path = path,
    .add = add,
    .read = read_letters,
    .explain = explain,
};

/* ---- one that makes a message of many records: their sum, at once, in a second, or in an hour */

struct sum {
    uint64_t n, sum, due_ns;
};
#define IN_A_SECOND 500U
#define URGENT      1000U /* and more */

static void sum_look(void *memory, const struct target_record *record)
{
    const char *at = memmem(record->json, record->len, "\"n\":", 4);
    unsigned long n = strtoul(at + 4, NULL, 10);
    uint64_t now_ns = clock_now_ns(CLOCK_MONOTONIC);
    struct sum *s = memory;

    s->n++;
    s->sum += n;
    if (n == 0)
        return; /* of this one nothing is said */
    if (n >= URGENT)
        s->due_ns = 1;
    else if (!s->due_ns)
        s->due_ns = now_ns + (n == IN_A_SECOND ? 1 : 3600) * NS_PER_SEC;
}

static uint64_t sum_due_ns(const void *options, const void *memory)
{
    const struct sum *s = memory;

    (void)options;
    return s->due_ns ? s->due_ns : UINT64_MAX;
}

static void sum_compose(const void *options, void *memory, uint64_t realtime_ns, struct text *body)
{
    const struct sum *s = memory;

    (void)options;
    assert_true(realtime_ns > TIME_0_NS);
    text_addf(body, "%" PRIu64 " of %" PRIu64 "\n", s->sum, s->n);
}

static void sum_sent(void *memory, uint64_t monotonic_ns)
{
    assert_true(monotonic_ns > 0 && monotonic_ns <= clock_now_ns(CLOCK_MONOTONIC));
    *(struct sum *)memory = (struct sum){};
}

static int read_thanks(const void *options, const char *answer, size_t len,
                       struct target_answer *ret, size_t n)
{
    (void)options;
    (void)ret;
    assert_int_equal(n, 0);
    return len == 6 && memcmp(answer, "thanks", 6) == 0 ? 0 : -EBADMSG;
}

static const struct target_composer summing_composer = {
    .size = sizeof(struct sum),
    .look = sum_look,
    .due_ns = sum_due_ns,
    .compose = sum_compose,
    .sent = sum_sent,
};

static const struct target summing = {
    .name = "testing",
    .summary = "A test.",
    .options = table,
    .options_size = sizeof(struct options),
    .content_type = "text/plain",
    .composer = &summing_composer,
    .path = path,
    .read = read_thanks,
    .explain = explain,
};

struct scene {
    char folder[64];
    struct store_options store_options;
    struct store *store;
    struct options options;
    struct test_server server;
    const struct target *target;
    struct uploader *uploader;
    struct uploader_state last; /* once it has ended */

    /* The server's, over which the mutex is: */
    pthread_mutex_t mutex;
    unsigned stored[N_MAX]; /* how often each has arrived */
    unsigned largest, n_stored;
    size_t max_body;              /* larger ones are 413; 0: none are */
    char letter[N_MAX];           /* what is said of each the first times; 0: s */
    unsigned letters[N_MAX];      /* how many times */
    const char *status, *headers; /* said instead, `n_status` times */
    unsigned n_status, n_cut, n_lies;
    bool bad[N_MAX];  /* a request that it is in is 400 */
    char message[64]; /* the last one that was taken, of `summing` */
    unsigned n_messages;
};

/** The records' lines alone; false: it holds a bad one. */
static bool unframe(const struct scene *scene, const char *body, struct text *ret)
{
    bool good = true;

    assert_memory_equal(body, "<\n", 2);
    while (*body != '>') {
        const char *line = body + 2, *end = strchr(line, '\n');

        assert_true(body[0] == (ret->len ? '-' : '<') && body[1] == '\n');
        good &= !scene->bad[strtoul(line, NULL, 10)];
        body = end + 1;
        text_add(ret, line, (size_t)(body - line));
    }
    assert_string_equal(body, ">\n");
    return good;
}

static unsigned take_lines(struct scene *scene, const char *body, struct text *letters)
{
    unsigned lines = 0;

    for (const char *line = body; *line; line = strchr(line, '\n') + 1, lines++) {
        unsigned long n = strtoul(line, NULL, 10);

        assert_true(n < N_MAX);
        if (scene->letters[n]) {
            scene->letters[n]--;
            text_add(letters, &scene->letter[n], 1);
        } else {
            scene->n_stored += scene->stored[n]++ == 0;
            text_adds(letters, "s");
        }
    }
    return lines;
}

static void serve(void *arg, const struct test_request *request, struct text *out)
{
    struct text letters = {}, unframed = {};
    const char *body = request->body;
    struct scene *scene = arg;
    bool good = true;

    pthread_mutex_lock(&scene->mutex);
    assert_memory_equal(request->head, "POST /in HTTP/1.1", 17);
    if (scene->target == &framed) {
        good = unframe(scene, body, &unframed);
        body = unframed.data;
    }
    if (!good) {
        test_answer(out, "400 Bad Request", "", "a bad one");
    } else if (scene->max_body && strlen(body) > scene->max_body) {
        test_answer(out, "413 Too Large", "", "");
    } else if (scene->n_status) {
        scene->n_status--;
        test_answer(out, scene->status, scene->headers ? scene->headers : "", "because");
    } else if (scene->n_lies) {
        scene->n_lies--;
        test_answer(out, "200 OK", "", "<html>welcome</html>");
    } else if (scene->target == &summing) {
        snprintf(scene->message, sizeof(scene->message), "%s", body);
        scene->n_messages++;
        if (scene->n_cut)
            scene->n_cut--;
        else
            test_answer(out, "200 OK", "", "thanks");
    } else {
        unsigned lines = take_lines(scene, body, &letters);

        scene->largest = MAX(scene->largest, lines);
        if (scene->n_cut)
            scene->n_cut--;
        else
            test_answer(out, "200 OK", "", letters.data);
    }
    pthread_mutex_unlock(&scene->mutex);
    text_done(&letters);
    text_done(&unframed);
}

static void open_store(struct scene *scene)
{
    char error[512] = "";

    if (store_open(&scene->store_options, 1, error, sizeof(error), &scene->store) < 0)
        fail_msg("%s", error);
}

static uint64_t soon(void)
{
    return clock_now_ns(CLOCK_MONOTONIC) + LONG_NS;
}

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    char url[64], error[512];

    pthread_mutex_init(&scene->mutex, NULL);
    snprintf(scene->folder, sizeof(scene->folder), "/tmp/test_uploader.XXXXXX");
    assert_non_null(mkdtemp(scene->folder));
    scene->store_options = (struct store_options){.path = scene->folder, .max_size = 1 << 30};
    open_store(scene);
    scene->target = &target;
    scene->server.answer = serve;
    scene->server.arg = scene;
    assert_true(test_server_start(&scene->server));
    assert_int_equal(option_defaults(table, &scene->options), 0);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", scene->server.port);
    assert_int_equal(
        option_parse(option_find(table, "url"), url, &scene->options, error, sizeof(error)), 0);
    scene->options.http.flush_interval = 5 * NS_PER_MS;
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;

    uploader_end(scene->uploader, clock_now_ns(CLOCK_MONOTONIC), &scene->last);
    store_close(scene->store, soon());
    test_server_stop(&scene->server);
    option_done(table, &scene->options);
    test_remove_folder(scene->folder);
    pthread_mutex_destroy(&scene->mutex);
    free(scene);
    return 0;
}

static void begin(struct scene *scene)
{
    char error[256] = "";

    if (uploader_new(scene->target, &scene->options, NULL, error, sizeof(error), &scene->uploader) <
        0)
        fail_msg("%s", error);
    assert_int_equal(uploader_start(scene->uploader, scene->store, scene->folder), 0);
}

static bool end(struct scene *scene, uint64_t deadline_ns)
{
    struct uploader *uploader = TAKE_PTR(scene->uploader);

    return uploader_end(uploader, deadline_ns, &scene->last);
}

static void put(struct scene *scene, unsigned first, unsigned n)
{
    for (unsigned i = first; i < first + n; i++) {
        char json[200];
        int len = snprintf(json, sizeof(json), "{\"n\":%u,\"text\":\"%0100u\"}", i, i);
        struct doc *doc = calloc(1, sizeof(*doc) + (size_t)len + 1);

        doc->refs = 1;
        doc->counted = true;
        doc->tracer_name = "softirq";
        doc->realtime_ns = TIME_0_NS + i * NS_PER_SEC;
        snprintf(doc->id, sizeof(doc->id), "%028u", i);
        doc->len = (size_t)len;
        memcpy(doc->json, json, (size_t)len + 1);
        assert_int_equal(store_put(scene->store, doc), 0);
        doc_unref(doc);
    }
}

static uint64_t recorded(const struct scene *scene)
{
    struct store_counts counts;

    store_get_counts(scene->store, 0, &counts);
    return counts.recorded;
}

static struct store_target counts_of(const struct scene *scene)
{
    struct store_target counts = {};

    store_get_target(scene->store, "testing", &counts);
    return counts;
}

#define wait_until(condition)                                                                      \
    do {                                                                                           \
        uint64_t until_ = soon();                                                                  \
        while (!(condition)) {                                                                     \
            if (clock_now_ns(CLOCK_MONOTONIC) > until_)                                            \
                fail_msg("never came true: %s", #condition);                                       \
            usleep(2000);                                                                          \
        }                                                                                          \
    } while (0)

/** Stores records as one commit would, and tells. */
static void put_stored(struct scene *scene, unsigned first, unsigned n)
{
    uint64_t before = recorded(scene);

    put(scene, first, n);
    wait_until(recorded(scene) == before + n);
    if (scene->uploader)
        uploader_wake(scene->uploader);
}

static void assert_each_once(struct scene *scene, unsigned n)
{
    pthread_mutex_lock(&scene->mutex);
    for (unsigned i = 0; i < N_MAX; i++)
        assert_int_equal(scene->stored[i], i < n);
    pthread_mutex_unlock(&scene->mutex);
}

static struct uploader_state state_of(const struct scene *scene)
{
    struct uploader_state state;

    uploader_get_state(scene->uploader, &state);
    return state;
}

static void set_trouble(struct scene *scene, unsigned *times, unsigned n)
{
    pthread_mutex_lock(&scene->mutex);
    *times = n;
    pthread_mutex_unlock(&scene->mutex);
}

/* ---- tests */

static void test_all_arrive(void **state)
{
    struct scene *scene = *state;

    put_stored(scene, 0, 2345); /* before anybody uploads */
    begin(scene);
    wait_until(counts_of(scene).uploaded == 2345);
    assert_int_equal(scene->largest, UPLOADER_BATCH_MAX);
    for (unsigned i = 0; i < 10; i++)
        put_stored(scene, 2345 + i, 1);
    wait_until(counts_of(scene).uploaded == 2355);
    assert_each_once(scene, 2355);
    assert_int_equal(counts_of(scene).seq, 2355);
    assert_int_equal(counts_of(scene).retried, 0);
    assert_int_equal(counts_of(scene).rejected, 0);
    assert_int_equal(scene->server.connections, 1);
    assert_string_equal(state_of(scene).problem, "");
    wait_until(state_of(scene).oldest_ns == 0);

    /* Another agent goes on where this one was. */
    assert_true(end(scene, soon()));
    put_stored(scene, 2355, 5);
    begin(scene);
    wait_until(counts_of(scene).uploaded == 2360);
    assert_each_once(scene, 2360);
}

static void test_uncompressed(void **state)
{
    struct scene *scene = *state;

    scene->options.http.compress = false;
    put_stored(scene, 0, 20);
    begin(scene);
    wait_until(counts_of(scene).uploaded == 20);
    assert_each_once(scene, 20);
}

static void test_batch_size(void **state)
{
    struct scene *scene = *state;

    scene->options.http.batch_size = 1024; /* records have some 65 bytes here */
    put_stored(scene, 0, 200);
    begin(scene);
    wait_until(counts_of(scene).uploaded == 200);
    assert_each_once(scene, 200);
    assert_in_range(scene->largest, 10, 16);
}

static void test_verdicts(void **state)
{
    struct scene *scene = *state;

    scene->letter[3] = 'r';
    scene->letters[3] = 1;
    for (unsigned i = 5; i < 8; i++) {
        scene->letter[i] = 'a';
        scene->letters[i] = i - 4; /* once, twice, three times */
    }
    scene->letters[7] = UINT_MAX; /* that is, until it was seen */
    put_stored(scene, 0, 100);
    begin(scene);
    wait_until(
        strcmp(state_of(scene).problem, "1 of 1 records were not taken now: busy \\x1b[31m") == 0);
    wait_until(state_of(scene).oldest_ns == TIME_0_NS + 7 * NS_PER_SEC);
    assert_int_equal(counts_of(scene).seq, 0); /* the cursor stays before the first that waits */
    set_trouble(scene, &scene->letters[7], 0);
    wait_until(counts_of(scene).seq == 100);
    assert_int_equal(counts_of(scene).uploaded, 99);
    assert_int_equal(counts_of(scene).rejected, 1);
    assert_true(counts_of(scene).retried >= 3 + 2 + 1); /* 5, 6 and 7; 6 and 7; 7 */
    wait_until(!*state_of(scene).problem);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(scene->stored[i], i != 3);
}

/** The answer was lost: it is sent again, and the server sees by the id that it has it. */
static void test_cut(void **state)
{
    struct scene *scene = *state;

    scene->n_cut = 2;
    put_stored(scene, 0, 10);
    begin(scene);
    wait_until(counts_of(scene).uploaded == 10);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(scene->stored[i], 3);
    assert_int_equal(counts_of(scene).retried, 20);
}

static void test_statuses(void **state)
{
    static const struct {
        const char *status, *problem;
    } cases[] = {
        {"401 Unauthorized",
         "the server answered with status 401: because; the user, the password, "
         "the API key or the token is wrong or missing"},
        {"503 Unavailable", "the server answered with status 503: because; it is not ready"},
        {"418 Teapot", "the server answered with status 418: because"},
    };
    struct scene *scene = *state;

    begin(scene);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        pthread_mutex_lock(&scene->mutex);
        scene->status = cases[i].status;
        scene->n_status = UINT_MAX; /* until it was seen: who looks may be late */
        pthread_mutex_unlock(&scene->mutex);
        put_stored(scene, i, 1);
        wait_until(*state_of(scene).problem);
        assert_string_equal(state_of(scene).problem, cases[i].problem);
        set_trouble(scene, &scene->n_status, 0);
        wait_until(counts_of(scene).uploaded == i + 1);
        wait_until(!*state_of(scene).problem);
    }
    assert_each_once(scene, 3);
}

static void test_retry_after(void **state)
{
    struct scene *scene = *state;
    uint64_t began;

    scene->status = "429 Too Many";
    scene->headers = "Retry-After: 2\r\n";
    scene->n_status = 1;
    put_stored(scene, 0, 1);
    began = clock_now_ns(CLOCK_MONOTONIC);
    begin(scene);
    wait_until(counts_of(scene).uploaded == 1);
    /* Without being told it would be tried after a quarter of a second. */
    assert_true(clock_now_ns(CLOCK_MONOTONIC) - began >= 2 * NS_PER_SEC);
}

/** A portal, a proxy: it says that all is well and is not who we think. */
static void test_lies(void **state)
{
    struct scene *scene = *state;

    scene->n_lies = UINT_MAX;
    put_stored(scene, 0, 3);
    begin(scene);
    wait_until(*state_of(scene).problem);
    assert_non_null(strstr(state_of(scene).problem, "is not that of testing"));
    assert_int_equal(counts_of(scene).uploaded, 0);
    set_trouble(scene, &scene->n_lies, 0);
    wait_until(counts_of(scene).uploaded == 3);
    assert_each_once(scene, 3);
}

static void test_too_large(void **state)
{
    struct scene *scene = *state;

    scene->max_body = 700;
    put_stored(scene, 0, 300);
    begin(scene);
    wait_until(counts_of(scene).uploaded == 300);
    assert_each_once(scene, 300);
    assert_in_range(scene->largest, 2, 10);
    assert_int_equal(counts_of(scene).rejected, 0);

    /* One that is too large alone is given up; the others are not. */
    pthread_mutex_lock(&scene->mutex);
    scene->max_body = 65; /* from 1000 on they have one byte more */
    pthread_mutex_unlock(&scene->mutex);
    put_stored(scene, 999, 3);
    wait_until(counts_of(scene).seq == 303);
    assert_int_equal(counts_of(scene).uploaded, 301);
    assert_int_equal(counts_of(scene).rejected, 2);
}

/** One is bad, and the server does not say which: it is found, and the others arrive. */
static void test_bad_request(void **state)
{
    struct scene *scene = *state;

    scene->target = &framed;
    scene->bad[0] = scene->bad[617] = scene->bad[618] = scene->bad[1999] = true;
    put_stored(scene, 0, 2100);
    begin(scene);
    wait_until(counts_of(scene).seq == 2100);
    assert_int_equal(counts_of(scene).uploaded, 2096);
    assert_int_equal(counts_of(scene).rejected, 4);
    for (unsigned i = 0; i < 2100; i++)
        assert_int_equal(scene->stored[i], !scene->bad[i]);
    assert_true(scene->server.requests < 100);
    assert_string_equal(state_of(scene).problem, "");

    /* The next batch is as large as ever. */
    scene->largest = 0;
    put_stored(scene, 2100, 700);
    wait_until(counts_of(scene).uploaded == 2796);
    assert_true(scene->largest > 100);
}

/** Elsewhere a status of 400 may be mended. */
static void test_bad_request_is_kept(void **state)
{
    struct scene *scene = *state;

    scene->status = "400 Bad Request";
    scene->n_status = 2;
    put_stored(scene, 0, 30);
    begin(scene);
    wait_until(counts_of(scene).uploaded == 30);
    assert_int_equal(counts_of(scene).rejected, 0);
    assert_each_once(scene, 30);
}

static void test_failover(void **state)
{
    struct scene *scene = *state;
    char urls[128], error[512];

    snprintf(urls, sizeof(urls), "http://127.0.0.1:1,http://127.0.0.1:%u", scene->server.port);
    assert_int_equal(
        option_parse(option_find(table, "url"), urls, &scene->options, error, sizeof(error)), 0);
    begin(scene);
    put_stored(scene, 0, 1);
    wait_until(counts_of(scene).uploaded == 1);
    assert_int_equal(counts_of(scene).retried, 1);
    put_stored(scene, 1, 1);
    wait_until(counts_of(scene).uploaded == 2);
    assert_int_equal(counts_of(scene).retried, 1); /* it stays with the one that answers */
    assert_each_once(scene, 2);
}

/** What retention has deleted before the server was back is counted, and nothing twice. */
static void test_deleted_meanwhile(void **state)
{
    struct scene *scene = *state;

    scene->status = "503 Down";
    scene->n_status = UINT_MAX;
    put_stored(scene, 0, 50);
    begin(scene);
    wait_until(*state_of(scene).problem);
    assert_true(state_of(scene).oldest_ns == TIME_0_NS);
    assert_true(end(scene, soon())); /* it does not wait for a server that is down */
    assert_non_null(strstr(scene->last.problem, "503"));
    assert_true(scene->last.oldest_ns == TIME_0_NS);
    store_close(scene->store, soon());
    scene->store_options.retain_ns = NS_PER_SEC;
    open_store(scene);
    begin(scene);
    wait_until(counts_of(scene).deleted == 50);
    set_trouble(scene, &scene->n_status, 0);
    put_stored(scene, 50, 1); /* which may be too late, too */
    wait_until(counts_of(scene).uploaded + counts_of(scene).deleted == 51);
    wait_until(state_of(scene).oldest_ns == 0);
    assert_true(end(scene, soon()));
    /* All would have been sent if they had been read before they were deleted. */
    assert_int_equal(scene->n_stored, counts_of(scene).uploaded);
    assert_int_equal(counts_of(scene).uploaded + counts_of(scene).deleted, 51);
}

static void change_store(const struct scene *scene, const char *sql)
{
    char path_db[128];
    sqlite3 *db;

    snprintf(path_db, sizeof(path_db), "%s/huatuo.db", scene->folder);
    assert_int_equal(sqlite3_open(path_db, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/** What the cursor is waiting for may be gone when it is tried again. */
static void test_deleted_between_tries(void **state)
{
    struct scene *scene = *state;
    unsigned before;

    scene->status = "503 Down";
    scene->n_status = UINT_MAX;
    put_stored(scene, 0, 50);
    begin(scene);
    wait_until(*state_of(scene).problem);
    change_store(scene, "DELETE FROM records WHERE seq <= 10 OR seq = 50");
    /* One request may have been on its way; the next one was made afterwards. */
    before = __atomic_load_n(&scene->server.requests, __ATOMIC_SEQ_CST);
    wait_until(__atomic_load_n(&scene->server.requests, __ATOMIC_SEQ_CST) >= before + 2);
    assert_true(state_of(scene).oldest_ns == TIME_0_NS + 10 * NS_PER_SEC);
    set_trouble(scene, &scene->n_status, 0);
    wait_until(counts_of(scene).seq == 50);
    assert_int_equal(counts_of(scene).uploaded, 39);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(scene->stored[i], i >= 10 && i < 49);
}

/** What a disk has made of a record must not spoil the others. */
static void test_damaged_record(void **state)
{
    struct scene *scene = *state;

    put_stored(scene, 0, 5);
    store_close(scene->store, soon());
    change_store(scene, "UPDATE records SET json = replace(json, ',', char(10)) WHERE seq = 2;"
                        "UPDATE records SET json = '' WHERE seq = 5");
    open_store(scene);
    begin(scene);
    wait_until(counts_of(scene).seq == 5);
    assert_int_equal(counts_of(scene).uploaded, 3);
    assert_int_equal(counts_of(scene).rejected, 2);
}

static void test_ends_at_once(void **state)
{
    struct scene *scene = *state;
    uint64_t began;

    put_stored(scene, 0, 3);
    scene->options.http.flush_interval = 3600 * NS_PER_SEC;
    begin(scene);
    usleep(50 * 1000);
    assert_int_equal(counts_of(scene).uploaded, 0);
    began = clock_now_ns(CLOCK_MONOTONIC);
    assert_true(end(scene, began + 10 * NS_PER_SEC)); /* and sends what it was still gathering */
    assert_true(clock_now_ns(CLOCK_MONOTONIC) - began < 5 * NS_PER_SEC);
    assert_int_equal(counts_of(scene).uploaded, 3);
}

/* ---- messages */

static void assert_message(struct scene *scene, unsigned n, const char *expected)
{
    wait_until(__atomic_load_n(&scene->n_messages, __ATOMIC_ACQUIRE) == n);
    pthread_mutex_lock(&scene->mutex);
    assert_string_equal(scene->message, expected);
    pthread_mutex_unlock(&scene->mutex);
}

static void begin_summing(struct scene *scene)
{
    scene->target = &summing;
    scene->options.http.compress = false;
    begin(scene);
}

/** One of all that there is, however many batches that would be. */
static void test_message(void **state)
{
    struct scene *scene = *state;

    put_stored(scene, 0, 3000);
    begin_summing(scene);
    assert_message(scene, 1, "4498500 of 3000\n");
    wait_until(counts_of(scene).seq == 3000);
    assert_int_equal(counts_of(scene).uploaded, 3000);
    wait_until(state_of(scene).oldest_ns == 0);
}

/** What is not due is held: in the store, as a crash would lose what is in memory. */
static void test_message_is_held(void **state)
{
    struct scene *scene = *state;

    put_stored(scene, 0, 1); /* of which there is nothing to be said */
    begin_summing(scene);
    wait_until(counts_of(scene).seq == 1);
    put_stored(scene, 1, 20);
    wait_until(state_of(scene).oldest_ns == TIME_0_NS + NS_PER_SEC);
    usleep(50 * 1000);
    assert_int_equal(counts_of(scene).seq, 1);
    assert_int_equal(scene->n_messages, 0);
    assert_true(end(scene, soon())); /* that it ends is no reason either */
    assert_int_equal(scene->n_messages, 0);
    assert_int_equal(counts_of(scene).uploaded, 1);

    begin_summing(scene);
    wait_until(state_of(scene).oldest_ns != 0);
    put_stored(scene, 1001, 1);
    assert_message(scene, 1, "1211 of 21\n");
    wait_until(counts_of(scene).uploaded == 22);
    assert_int_equal(counts_of(scene).retried, 0);
}

/** Without anything new it is sent when it is due. */
static void test_message_comes_in_time(void **state)
{
    struct scene *scene = *state;
    uint64_t began = clock_now_ns(CLOCK_MONOTONIC);

    put_stored(scene, IN_A_SECOND, 2);
    begin_summing(scene);
    assert_message(scene, 1, "1001 of 2\n");
    assert_true(clock_now_ns(CLOCK_MONOTONIC) - began >= NS_PER_SEC);
    wait_until(counts_of(scene).uploaded == 2);
}

/** What comes while it is not taken is in it when it is. */
static void test_message_not_taken(void **state)
{
    struct scene *scene = *state;

    scene->status = "503 Not Now";
    scene->n_status = UINT_MAX;
    put_stored(scene, 1001, 1);
    begin_summing(scene);
    wait_until(*state_of(scene).problem);
    assert_non_null(strstr(state_of(scene).problem, "status 503: because"));
    put_stored(scene, 1, 1);
    pthread_mutex_lock(&scene->mutex);
    scene->status = "413 Too Large"; /* there is no half of it */
    pthread_mutex_unlock(&scene->mutex);
    wait_until(strstr(state_of(scene).problem, "status 413"));
    assert_int_equal(counts_of(scene).seq, 0);
    pthread_mutex_lock(&scene->mutex);
    scene->n_status = 0;
    scene->n_cut = 1;
    pthread_mutex_unlock(&scene->mutex);
    assert_message(scene, 2, "1002 of 2\n"); /* not known to have arrived: twice */
    wait_until(counts_of(scene).uploaded == 2);
    assert_int_equal(counts_of(scene).rejected, 0);
    assert_true(counts_of(scene).retried >= 2);
    assert_string_equal(state_of(scene).problem, "");
}

static void test_message_lies(void **state)
{
    struct scene *scene = *state;

    scene->n_lies = UINT_MAX;
    put_stored(scene, 1001, 1);
    begin_summing(scene);
    wait_until(strstr(state_of(scene).problem, "is not that of testing"));
    assert_int_equal(counts_of(scene).uploaded, 0);
    set_trouble(scene, &scene->n_lies, 0);
    wait_until(counts_of(scene).uploaded == 1);
}

/** The next server may take it. */
static void test_message_failover(void **state)
{
    struct scene *scene = *state;
    char urls[128], error[256];

    snprintf(urls, sizeof(urls), "http://127.0.0.1:1,%s", scene->options.http.url.items[0]);
    assert_int_equal(
        option_parse(option_find(table, "url"), urls, &scene->options, error, sizeof(error)), 0);
    put_stored(scene, 1001, 1);
    begin_summing(scene);
    assert_message(scene, 1, "1001 of 1\n");
    wait_until(counts_of(scene).uploaded == 1);
}

/* ---- a range once more */

struct refused {
    unsigned n;
    char id[64], reason[64];
};

static void note_refused(void *arg, const char *id, const char *reason)
{
    struct refused *refused = arg;

    refused->n++;
    snprintf(refused->id, sizeof(refused->id), "%s", id);
    snprintf(refused->reason, sizeof(refused->reason), "%s", reason);
}

static int resend(const struct scene *scene, const struct store_query *query,
                  struct uploader_resent *resent, char *error, size_t error_size)
{
    return uploader_resend(&target, &scene->options, scene->folder, query, resent, error,
                           error_size);
}

static void test_resend(void **state)
{
    const struct store_query range = {.since_ns = TIME_0_NS + 100 * NS_PER_SEC,
                                      .until_ns = TIME_0_NS + 1399 * NS_PER_SEC};
    struct scene *scene = *state;
    struct refused refused = {};
    struct uploader_resent resent = {
        .refused = note_refused, .arg = &refused, .patience_ns = LONG_NS};
    char error[512];

    scene->letter[150] = 'r';
    scene->letters[150] = 1;
    scene->letter[1200] = 'a';
    scene->letters[1200] = 1;
    put_stored(scene, 0, 2000);
    assert_int_equal(resend(scene, &range, &resent, error, sizeof(error)), 0);
    for (unsigned i = 0; i < 2000; i++)
        assert_int_equal(scene->stored[i], i >= 100 && i < 1400 && i != 150);
    assert_int_equal(resent.uploaded, 1299);
    assert_int_equal(resent.rejected, 1);
    assert_int_equal(resent.retried, 1);
    assert_int_equal(refused.n, 1);
    assert_string_equal(refused.id, "0000000000000000000000000150");
    assert_string_equal(refused.reason, "bad");
    /* No cursor has moved, and nothing is in the store of what was refused. */
    assert_int_equal(store_get_target(scene->store, "testing", &(struct store_target){}), -ENOENT);
    resent = (struct uploader_resent){.patience_ns = LONG_NS};
    assert_int_equal(
        resend(scene, &(struct store_query){.until_ns = 1}, &resent, error, sizeof(error)), 0);
    assert_int_equal(resent.uploaded, 0);
}

static void test_resend_patience(void **state)
{
    const struct store_query all = {.until_ns = UINT64_MAX};
    struct uploader_resent resent = {.patience_ns = NS_PER_SEC};
    struct scene *scene = *state;
    char error[512];

    scene->status = "503 Down";
    scene->n_status = UINT_MAX;
    put_stored(scene, 0, 3);
    assert_int_equal(resend(scene, &all, &resent, error, sizeof(error)), -ETIMEDOUT);
    assert_non_null(strstr(error, "takes nothing for 1 s: the server answered with status 503"));
    assert_int_equal(resent.uploaded, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_all_arrive),
        TEST(test_uncompressed),
        TEST(test_batch_size),
        TEST(test_verdicts),
        TEST(test_cut),
        TEST(test_statuses),
        TEST(test_retry_after),
        TEST(test_lies),
        TEST(test_too_large),
        TEST(test_bad_request),
        TEST(test_bad_request_is_kept),
        TEST(test_failover),
        TEST(test_deleted_meanwhile),
        TEST(test_deleted_between_tries),
        TEST(test_damaged_record),
        TEST(test_ends_at_once),
        TEST(test_message),
        TEST(test_message_is_held),
        TEST(test_message_comes_in_time),
        TEST(test_message_not_taken),
        TEST(test_message_lies),
        TEST(test_message_failover),
        TEST(test_resend),
        TEST(test_resend_patience),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("uploader", tests, NULL, NULL);
}
