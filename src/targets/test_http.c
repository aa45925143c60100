// SPDX-License-Identifier: Apache-2.0
#include "targets/http.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "core/clock.h"
#include "core/test_folder.h"
#include "targets/test_server.h"

struct strukt {
    struct http_options http;
};
static const struct option table[] = {
    HTTP_OPTIONS(struct strukt), {HTTP_OPTION(struct strukt, path_file, OPTION_STRING, "")}, {}};

static void set(struct strukt *s, const char *key, const char *value)
{
    char error[512] = "";

    if (option_parse(option_find(table, key), value, s, error, sizeof(error)) < 0)
        fail_msg("%s: %s", key, error);
}

/* ---- a server that remembers what it was asked */

struct scene {
    struct test_server server;
    struct strukt options;
    char folder[64], url[64];
    char head[4096], body[4096];
    const char *status, *headers, *text; /* its answer */
    bool released;                       /* atomic; hang() may answer */
};

static void remember(void *arg, const struct test_request *request, struct text *out)
{
    struct scene *scene = arg;

    snprintf(scene->head, sizeof(scene->head), "%s", request->head);
    snprintf(scene->body, sizeof(scene->body), "%s", request->body);
    if (scene->status)
        test_answer(out, scene->status, scene->headers ? scene->headers : "", scene->text);
}

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));

    scene->server.answer = remember;
    scene->server.arg = scene;
    scene->status = "200 OK";
    scene->text = "fine";
    snprintf(scene->folder, sizeof(scene->folder), "/tmp/test_http.XXXXXX");
    assert_non_null(mkdtemp(scene->folder));
    assert_true(test_server_start(&scene->server));
    assert_int_equal(option_defaults(table, &scene->options), 0);
    snprintf(scene->url, sizeof(scene->url), "http://127.0.0.1:%u", scene->server.port);
    set(&scene->options, "url", scene->url);
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;

    test_server_stop(&scene->server);
    option_done(table, &scene->options);
    test_remove_folder(scene->folder);
    free(scene);
    return 0;
}

static struct http *open_http(struct scene *scene)
{
    struct http *h = NULL;

    char error[256] = "";

    if (http_new("elasticsearch", &scene->options.http, NULL, error, sizeof(error), &h) < 0)
        fail_msg("%s", error);
    return h;
}

static const struct http_request post = {
    .method = "POST",
    .path = "/_bulk?x=y",
    .content_type = "application/x-ndjson",
    .body = "body\n",
    .len = 5,
};

static void set_file(struct scene *scene, const char *key, const char *name, const char *text)
{
    char path[128];

    assert_true(test_put_file(scene->folder, name, text, strlen(text)));
    snprintf(path, sizeof(path), "%s%s", scene->folder, name);
    set(&scene->options, key, path);
}

static int ask(struct http *h)
{
    struct http_answer answer;
    int r = http_do(h, &post, &answer);
    int status = (int)answer.status;

    http_answer_done(&answer);
    return r < 0 ? r : status;
}

/* ---- tests */

static void test_request(void **state)
{
    struct scene *scene = *state;
    struct http *h = open_http(scene);
    struct http_answer answer;

    assert_null(http_problem(h));
    assert_int_equal(http_do(h, &post, &answer), 0);
    assert_int_equal(answer.status, 200);
    assert_string_equal(answer.body.data, "fine");
    assert_int_equal(answer.retry_after_ns, 0);
    http_answer_done(&answer);
    assert_memory_equal(scene->head, "POST /_bulk?x=y HTTP/1.1\r\n", 26);
    assert_string_equal(scene->body, "body\n");
    assert_non_null(strstr(scene->head, "Content-Type: application/x-ndjson\r\n"));
    assert_null(strcasestr(scene->head, "authorization"));
    assert_null(strcasestr(scene->head, "expect"));

    /* A path behind the host stays. */
    http_free(h);
    snprintf(scene->url + strlen(scene->url), 8, "/es/");
    set(&scene->options, "url", scene->url);
    h = open_http(scene);
    assert_int_equal(ask(h), 200);
    assert_memory_equal(scene->head, "POST /es/_bulk?x=y HTTP/1.1\r\n", 29);
    /* The connection is kept. */
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(ask(h), 200);
    assert_int_equal(scene->server.connections, 2);
    http_free(h);
}

static void test_get(void **state)
{
    struct scene *scene = *state;
    struct http *h = open_http(scene);
    struct http_answer answer;

    assert_int_equal(http_do(h, &(struct http_request){.method = "GET", .path = "/"}, &answer), 0);
    http_answer_done(&answer);
    assert_memory_equal(scene->head, "GET / HTTP/1.1\r\n", 16);
    http_free(h);
}

static void test_statuses(void **state)
{
    struct scene *scene = *state;
    struct http *h = open_http(scene);
    struct http_answer answer;

    scene->status = "429 Too Many Requests";
    scene->headers = "Retry-After: 7\r\n";
    scene->text = "";
    assert_int_equal(http_do(h, &post, &answer), 0);
    assert_int_equal(answer.status, 429);
    assert_true(answer.retry_after_ns == 7 * NS_PER_SEC);
    http_answer_done(&answer);
    /* Nobody sends us away for a year. */
    scene->headers = "Retry-After: 31536000\r\n";
    assert_int_equal(http_do(h, &post, &answer), 0);
    assert_true(answer.retry_after_ns == 300 * NS_PER_SEC);
    http_answer_done(&answer);
    /* Not followed: the secret would go there. */
    scene->status = "302 Found";
    scene->headers = "Location: http://127.0.0.1:1/\r\n";
    assert_int_equal(ask(h), 302);
    http_free(h);
}

static void test_failures(void **state)
{
    struct scene *scene = *state;
    struct http *h = open_http(scene);
    struct http_answer answer;

    scene->status = NULL; /* it takes the request and hangs up */
    assert_int_equal(http_do(h, &post, &answer), -EIO);
    assert_true(*answer.error);
    http_answer_done(&answer);
    http_free(h);

    set(&scene->options, "url", "http://127.0.0.1:1,http://127.0.0.1:2");
    h = open_http(scene);
    assert_int_equal(http_do(h, &post, &answer), -EIO);
    assert_non_null(strstr(answer.error, "does the server run"));
    http_answer_done(&answer);
    assert_string_equal(http_url(h), "http://127.0.0.1:1");
    assert_false(http_next(h));
    assert_string_equal(http_url(h), "http://127.0.0.1:2");
    assert_true(http_next(h));
    http_free(h);
}

static void *stop_soon(void *arg)
{
    usleep(100 * 1000);
    http_stop_at(arg, clock_now_ns(CLOCK_MONOTONIC) + 100 * NS_PER_MS);
    return NULL;
}

static void hang(void *arg, const struct test_request *request, struct text *out)
{
    const struct scene *scene = arg;

    while (!__atomic_load_n(&scene->released, __ATOMIC_ACQUIRE))
        usleep(5000);
    remember(arg, request, out);
}

static void test_stop(void **state)
{
    struct scene *scene = *state;
    struct http *h = open_http(scene);
    uint64_t began = clock_now_ns(CLOCK_MONOTONIC);
    pthread_t thread;

    scene->server.answer = hang;
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, h), 0);
    assert_int_equal(ask(h), -ECANCELED); /* without an answer, and long before `timeout` */
    assert_in_range(clock_now_ns(CLOCK_MONOTONIC) - began, 190 * NS_PER_MS, 15 * NS_PER_SEC);
    __atomic_store_n(&scene->released, true, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    assert_int_equal(ask(h), -ECANCELED); /* and none after it */
    http_free(h);
}

static void test_long_answer(void **state)
{
    struct scene *scene = *state;
    struct http *h = open_http(scene);
    struct http_answer answer;
    char *text = malloc(HTTP_ANSWER_MAX + 2);

    memset(text, 'x', HTTP_ANSWER_MAX + 1);
    text[HTTP_ANSWER_MAX + 1] = '\0';
    scene->text = text;
    assert_int_equal(http_do(h, &post, &answer), -EIO);
    assert_non_null(strstr(answer.error, "longer than any"));
    http_answer_done(&answer);
    free(text);
    http_free(h);
}

static void test_secrets(void **state)
{
    struct scene *scene = *state;
    struct http *h;

    set(&scene->options, "username", "user");
    set_file(scene, "password_file", "/password", "pass word\n");
    h = open_http(scene);
    assert_int_equal(ask(h), 200);
    assert_non_null(strstr(scene->head, "Authorization: Basic dXNlcjpwYXNzIHdvcmQ=\r\n"));
    http_free(h);

    set_file(scene, "bearer_token_file", "/token", "abc");
    h = open_http(scene);
    assert_int_equal(ask(h), 200);
    assert_non_null(strstr(scene->head, "Authorization: Bearer abc\r\n"));
    /* A new one is read when the old one is refused. */
    assert_true(test_put_file(scene->folder, "/token", "new", 3));
    assert_int_equal(ask(h), 200);
    assert_non_null(strstr(scene->head, "Authorization: Bearer abc\r\n"));
    scene->status = "401 Unauthorized";
    assert_int_equal(ask(h), 401);
    scene->status = "200 OK";
    assert_int_equal(ask(h), 200);
    assert_non_null(strstr(scene->head, "Authorization: Bearer new\r\n"));
    http_free(h);

    setenv("HUATUO_ELASTICSEARCH_API_KEY", "from-the-environment", 1);
    h = open_http(scene);
    unsetenv("HUATUO_ELASTICSEARCH_API_KEY");
    assert_int_equal(ask(h), 200);
    assert_non_null(strstr(scene->head, "Authorization: ApiKey from-the-environment\r\n"));
    http_free(h);
}

static void assert_request_line(const struct scene *scene, const char *expected)
{
    assert_int_equal(strncmp(scene->head, expected, strlen(expected)), 0);
}

/** What follows the host is a secret, as where a webhook of a chat is. */
static void test_secret_path(void **state)
{
    const struct http_request bare = {.method = "POST", .path = "", .content_type = "a/b"};
    struct scene *scene = *state;
    struct http_answer answer;
    struct http *h;
    int r;

    set_file(scene, "path_file", "/path", "/services/T0/geheim?sig=a%20b\n");
    h = open_http(scene);
    r = http_do(h, &bare, &answer);
    http_answer_done(&answer);
    assert_null(strstr(http_url(h), "geheim"));
    http_free(h);
    assert_int_equal(r, 0);
    assert_request_line(scene, "POST /services/T0/geheim?sig=a%20b HTTP/1.1\r\n");

    set_file(scene, "path_file", "/path", "geheim");
    h = open_http(scene);
    r = ask(h);
    http_free(h);
    assert_int_equal(r, 200);
    assert_request_line(scene, "POST /geheim/_bulk?x=y HTTP/1.1\r\n");

    /* It is not asked without it. */
    set(&scene->options, "path_file", "/nonexistent/path");
    h = open_http(scene);
    assert_non_null(strstr(http_problem(h), "reading elasticsearch.path_file /nonexistent/path"));
    r = ask(h);
    http_free(h);
    assert_int_equal(r, -EIO);
    assert_int_equal(scene->server.requests, 2);
}

static void test_bad_secrets(void **state)
{
    static const char *const bad[] = {"", "\n", "two\nlines", "a\r\nX-Other: b"};
    struct scene *scene = *state;
    struct http *h;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        set_file(scene, "api_key_file", "/key", bad[i]);
        h = open_http(scene);
        assert_non_null(strstr(http_problem(h), "reading elasticsearch.api_key_file /tmp/"));
        assert_int_equal(ask(h), -EIO); /* nothing is sent without it */
        assert_int_equal(scene->server.requests, 0);
        http_free(h);
    }
    set(&scene->options, "api_key_file", "/nonexistent/key");
    h = open_http(scene);
    assert_non_null(strstr(http_problem(h), "No such file"));
    http_free(h);

    /* When it is there, it goes on. */
    set_file(scene, "api_key_file", "/key", "");
    h = open_http(scene);
    assert_non_null(http_problem(h));
    set_file(scene, "api_key_file", "/key", "good");
    assert_int_equal(ask(h), 200);
    assert_null(http_problem(h));
    http_free(h);
}

static void test_urls(void **state)
{
    static const char *const good[] = {"http://a", "https://a:9200", "HTTPS://[::1]:9200/es",
                                       "http://1.2.3.4:1/a/b"};
    static const char *const bad[] = {"a:9200",     "ftp://a",      "http://",
                                      "http:///x",  "http://:9200", "http://a b",
                                      "http://a?x", "http://a#b",   "file:///etc/passwd"};
    struct strukt s;
    char error[512];

    (void)state;
    assert_int_equal(option_defaults(table, &s), 0);
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        set(&s, "url", good[i]);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (option_parse(option_find(table, "url"), bad[i], &s, error, sizeof(error)) != -EINVAL)
            fail_msg("%s", bad[i]);
    /* What may be a password is not repeated. */
    assert_int_equal(option_parse(option_find(table, "url"), "http://a,https://u:geheim@b/x", &s,
                                  error, sizeof(error)),
                     -EINVAL);
    assert_non_null(strstr(error, "item 2: "));
    assert_null(strstr(error, "geheim"));
    set(&s, "url", "http://a/x@y"); /* that is a path */
    option_done(table, &s);
}

/** Where what follows the host may be a secret, it is refused and not repeated. */
static void test_hosts(void **state)
{
    static const struct option hosts[] = {{HTTP_OPTION(struct strukt, url, OPTION_LIST, ""),
                                           .check = http_check_host,
                                           .check_list = http_check_hosts},
                                          {}};
    static const char *const good[] = {"https://a", "https://a:1/", "http://[::1]:1"};
    static const char *const bad[] = {"https://a/geheim",
                                      "https://a?geheim",
                                      "https://a#geheim",
                                      "https://a:1//geheim",
                                      "https://u:geheim@a",
                                      "https://u:geheim@a/geheim",
                                      "http://b,http://a/x y?geheim"};
    char error[512];
    struct strukt s;

    (void)state;
    assert_int_equal(option_defaults(hosts, &s), 0);
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_int_equal(option_parse(hosts, good[i], &s, error, sizeof(error)), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (option_parse(hosts, bad[i], &s, error, sizeof(error)) != -EINVAL ||
            strstr(error, "geheim") || !strstr(error, "_file"))
            fail_msg("%s: %s", bad[i], error);
    }
    assert_int_equal(option_parse(hosts, "a:1", &s, error, sizeof(error)), -EINVAL);
    option_done(hosts, &s);
}

static void test_exposed(void **state)
{
    static const struct {
        const char *url;
        bool exposed;
    } cases[] = {
        {"https://a", false},        {"http://127.0.0.1:9200", false},
        {"http://localhost", false}, {"http://[::1]:9200", false},
        {"http://a:9200", true},     {"https://a,http://b", true},
    };
    struct scene *scene = *state;

    for (unsigned with = 0; with < 2; with++) {
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
            struct http *h;

            set(&scene->options, "url", cases[i].url);
            h = open_http(scene);
            assert_int_equal(http_exposes_secret(h), with && cases[i].exposed);
            http_free(h);
        }
        set_file(scene, "api_key_file", "/key", "x");
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_request),
        TEST(test_get),
        TEST(test_statuses),
        TEST(test_failures),
        TEST(test_stop),
        TEST(test_long_answer),
        TEST(test_secrets),
        TEST(test_bad_secrets),
        TEST(test_exposed),
        TEST(test_secret_path),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_hosts),
    };

    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
