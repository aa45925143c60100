// SPDX-License-Identifier: Apache-2.0
#include "targets/http.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/clock.h"
#include "core/read.h"
#include "targets/curl.h"

#define FILE_MAX        ((size_t)1024 * 1024)
#define CONNECT_MS      5000
#define POLL_MS         1000
#define RETRY_AFTER_MAX (300 * NS_PER_SEC) /* nobody may send us away for a day */

/* Up to PATH they are single lines. */
enum secret { PASSWORD, API_KEY, BEARER_TOKEN, PATH, CA, CERT, KEY, N_SECRETS };

/** A file that the configuration names, or a variable of the environment, as it was read. */
struct secret_text {
    char *bytes; /* owned; NULL: there is none, or it could not be read */
    size_t len;
};

struct http {
    const char *section;
    const struct http_options *options;
    struct http_sockets sockets;
    struct secret_text secrets[N_SECRETS];
    char problem[512];

    struct curl curl;
    CURLM *multi;
    CURL *easy;
    size_t server;    /* index in options->url */
    uint64_t stop_ns; /* atomic; 0: not to be stopped */
};

const char *const http_verify_words[] = {
    [HTTP_VERIFY_FULL] = "full",
    [HTTP_VERIFY_NONE] = "none",
    NULL,
};

/* ---- options */

static const char *after_scheme(const char *url)
{
    if (strncasecmp(url, "http://", 7) == 0)
        return url + 7;
    return strncasecmp(url, "https://", 8) == 0 ? url + 8 : NULL;
}

static bool has_user(const char *url)
{
    const char *host = after_scheme(url), *at = host ? strchr(host, '@') : NULL;

    return at && at < host + strcspn(host, "/?#");
}

const char *http_check_url(const char *text)
{
    const char *host = after_scheme(text);

    if (has_user(text))
        return NULL; /* http_check_urls() refuses it without repeating it */
    if (!host || !*host || strchr("/:?#", *host) || strpbrk(host, " ?#"))
        return "not the address of a server; write it as https://host:port";
    return NULL;
}

int http_check_urls(const struct string_list *list, char *error, size_t error_size)
{
    for (size_t i = 0; i < list->n; i++) {
        if (!has_user(list->items[i]))
            continue;
        snprintf(
            error, error_size,
            "item %zu: there must be no user and password in it, as it is shown in places; use "
            "username and password_file",
            i + 1);
        return -EINVAL;
    }
    return 0;
}

static bool has_path(const char *url)
{
    const char *host = after_scheme(url), *path = host ? host + strcspn(host, "/?#") : "";

    return *path && strcmp(path, "/") != 0;
}

const char *http_check_host(const char *text)
{
    return has_path(text) ? NULL : http_check_url(text);
}

int http_check_hosts(const struct string_list *list, char *error, size_t error_size)
{
    for (size_t i = 0; i < list->n; i++) {
        if (!has_path(list->items[i]))
            continue;
        snprintf(error, error_size,
                 "item %zu: there must be nothing behind the host and its port, as it is shown in "
                 "places and may be a secret; write that into a file, and its name into path_file",
                 i + 1);
        return -EINVAL;
    }
    return http_check_urls(list, error, error_size);
}

/* ---- files and secrets */

static const char *file_of(const struct http_options *o, enum secret which)
{
    const char *const files[N_SECRETS] = {
        [PASSWORD] = o->password_file,
        [API_KEY] = o->api_key_file,
        [BEARER_TOKEN] = o->bearer_token_file,
        [PATH] = o->path_file,
        [CA] = o->ca_file,
        [CERT] = o->cert_file,
        [KEY] = o->key_file,
    };

    return files[which];
}

static const char *const names[N_SECRETS] = {"password", "api_key", "bearer_token", "path",
                                             "ca",       "cert",    "key"};

static void secret_done(struct secret_text *secret)
{
    if (secret->bytes)
        explicit_bzero(secret->bytes, secret->len);
    free(secret->bytes);
    *secret = (struct secret_text){};
}

static const char *from_environment(const struct http *h, enum secret which)
{
    char variable[128];
    size_t len;

    if (which > PATH)
        return NULL;
    len = (size_t)snprintf(variable, sizeof(variable), "HUATUO_%s_%s", h->section, names[which]);
    for (size_t i = 0; i < MIN(len, sizeof(variable) - 1); i++)
        variable[i] = (char)toupper((unsigned char)variable[i]);
    return getenv(variable);
}

/** Written by editors, they end with a newline; one inside would begin another header. */
static int trim(struct secret_text *secret)
{
    while (secret->len && strchr("\r\n", secret->bytes[secret->len - 1]))
        secret->bytes[--secret->len] = '\0';
    if (secret->len == 0)
        return -ENODATA;
    return strlen(secret->bytes) != secret->len || strpbrk(secret->bytes, "\r\n") ? -EBADMSG : 0;
}

static int read_secret(const char *path, struct secret_text *ret)
{
    _close_fd_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int r = fd < 0 ? -errno : read_whole(fd, FILE_MAX, &ret->bytes, &ret->len);

    if (r == 0 && ret->len == FILE_MAX)
        r = -EFBIG;
    return r;
}

static int load(struct http *h, enum secret which)
{
    const char *path = file_of(h->options, which), *value = from_environment(h, which);
    _cleanup_(secret_done) struct secret_text secret = {};
    int r = 0;

    if (!path)
        return 0;
    if (*path) {
        r = read_secret(path, &secret);
    } else if (value) {
        secret.bytes = strdup(value);
        secret.len = strlen(value);
        r = secret.bytes ? 0 : -ENOMEM;
    } else {
        return 0;
    }
    if (r == 0 && which <= PATH)
        r = trim(&secret);
    if (r < 0) {
        const char *why = r == -ENODATA   ? "it is empty"
                          : r == -EBADMSG ? "it holds more than one line"
                                          : strerror(-r);

        snprintf(h->problem, sizeof(h->problem), "reading %s.%s_file%s%.200s failed: %s",
                 h->section, names[which], *path ? " " : "", path, why);
        return r;
    }
    secret_done(&h->secrets[which]);
    h->secrets[which] = secret;
    secret = (struct secret_text){};
    return 0;
}

/** What was wanting may be there now, and readable for whom we are now. */
static int load_missing(struct http *h)
{
    int r = 0;

    *h->problem = '\0';
    for (unsigned i = 0; r == 0 && i < N_SECRETS; i++)
        if (!h->secrets[i].bytes)
            r = load(h, (enum secret)i);
    return r;
}

/** A token that is renewed every few minutes is a new file each time. */
static void reload_refused(struct http *h)
{
    char problem[sizeof(h->problem)];

    memcpy(problem, h->problem, sizeof(problem));
    for (unsigned i = PASSWORD; i <= PATH; i++)
        if (h->secrets[i].bytes)
            load(h, (enum secret)i);
    memcpy(h->problem, problem, sizeof(problem)); /* the one that we have goes on being used */
}

/* ---- beginning and ending */

int http_new(const char *section, const struct http_options *options,
             const struct http_sockets *sockets, char *error, size_t error_size, struct http **ret)
{
    _cleanup_(http_freep) struct http *h = calloc(1, sizeof(*h));
    int r = h ? curl_load(&h->curl, error, error_size) : -ENOMEM;

    if (r < 0)
        return r;
    h->section = section;
    h->options = options;
    if (sockets)
        h->sockets = *sockets;
    load_missing(h);
    if (h->curl.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return -ENOMEM;
    h->multi = h->curl.multi_init();
    h->easy = h->curl.easy_init();
    if (!h->multi || !h->easy)
        return -ENOMEM;
    *ret = TAKE_PTR(h);
    return 0;
}

struct http *http_free(struct http *h)
{
    if (!h)
        return NULL;
    if (h->easy)
        h->curl.easy_cleanup(h->easy);
    if (h->multi)
        h->curl.multi_cleanup(h->multi);
    for (unsigned i = 0; i < N_SECRETS; i++)
        secret_done(&h->secrets[i]);
    free(h);
    return NULL;
}

const char *http_problem(const struct http *h)
{
    return *h->problem ? h->problem : NULL;
}

const char *http_url(const struct http *h)
{
    return h->options->url.items[h->server];
}

bool http_next(struct http *h)
{
    h->server = (h->server + 1) % h->options->url.n;
    return h->server == 0;
}

bool http_exposes_secret(const struct http *h)
{
    bool secret = false;

    for (unsigned i = PASSWORD; i <= PATH; i++)
        secret |= h->secrets[i].bytes != NULL;
    for (size_t i = 0; secret && i < h->options->url.n; i++) {
        const char *url = h->options->url.items[i], *host = after_scheme(url);

        if (strncasecmp(url, "http://", 7) == 0 && strncmp(host, "127.", 4) != 0 &&
            strncmp(host, "[::1]", 5) != 0 && strncmp(host, "localhost", 9) != 0)
            return true;
    }
    return false;
}

void http_stop_at(struct http *h, uint64_t monotonic_ns)
{
    __atomic_store_n(&h->stop_ns, monotonic_ns, __ATOMIC_RELEASE);
    h->curl.multi_wakeup(h->multi);
}

/* ---- one request */

static int on_socket(void *arg, curl_socket_t fd, curlsocktype purpose)
{
    const struct http *h = arg;

    (void)purpose;
    if (h->sockets.note)
        h->sockets.note(h->sockets.arg, fd, true);
    return CURL_SOCKOPT_OK;
}

static int on_close_socket(void *arg, curl_socket_t fd)
{
    const struct http *h = arg;

    if (h->sockets.note)
        h->sockets.note(h->sockets.arg, fd, false);
    return close(fd);
}

static size_t on_body(char *bytes, size_t size, size_t n, void *arg)
{
    struct http_answer *answer = arg;

    text_add(&answer->body, bytes, size * n);
    return answer->body.failed ? 0 : size * n;
}

static void set_blob(struct http *h, CURLoption option, enum secret which)
{
    struct curl_blob blob = {h->secrets[which].bytes, h->secrets[which].len, CURL_BLOB_NOCOPY};

    if (blob.data)
        h->curl.easy_setopt(h->easy, option, &blob);
}

static void set_tls(struct http *h)
{
    const bool full = h->options->tls_verify == HTTP_VERIFY_FULL;

    h->curl.easy_setopt(h->easy, CURLOPT_SSL_VERIFYPEER, full ? 1L : 0L);
    h->curl.easy_setopt(h->easy, CURLOPT_SSL_VERIFYHOST, full ? 2L : 0L);
    h->curl.easy_setopt(h->easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    set_blob(h, CURLOPT_CAINFO_BLOB, CA);
    set_blob(h, CURLOPT_SSLCERT_BLOB, CERT);
    set_blob(h, CURLOPT_SSLKEY_BLOB, KEY);
}

static struct curl_slist *add_header(struct http *h, struct curl_slist *list, const char *name,
                                     const char *value)
{
    _cleanup_(text_done) struct text line = {};
    struct curl_slist *more;

    text_addf(&line, "%s %s", name, value);
    more = line.failed ? NULL : h->curl.slist_append(list, line.data);
    if (line.data)
        explicit_bzero(line.data, line.len);
    return more ? more : list;
}

static struct curl_slist *set_headers(struct http *h, const struct http_request *request)
{
    struct curl_slist *list =
        add_header(h, NULL, "Expect:", ""); /* no waiting for a 100 Continue */

    if (request->content_type)
        list = add_header(h, list, "Content-Type:", request->content_type);
    if (request->compressed)
        list = add_header(h, list, "Content-Encoding:", "gzip");
    if (h->secrets[API_KEY].bytes) {
        list = add_header(h, list, "Authorization: ApiKey", h->secrets[API_KEY].bytes);
    } else if (h->secrets[BEARER_TOKEN].bytes) {
        list = add_header(h, list, "Authorization: Bearer", h->secrets[BEARER_TOKEN].bytes);
    } else if (*h->options->username) {
        h->curl.easy_setopt(h->easy, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
        h->curl.easy_setopt(h->easy, CURLOPT_USERNAME, h->options->username);
        h->curl.easy_setopt(h->easy, CURLOPT_PASSWORD,
                            h->secrets[PASSWORD].bytes ? h->secrets[PASSWORD].bytes : "");
    }
    h->curl.easy_setopt(h->easy, CURLOPT_HTTPHEADER, list);
    return list;
}

static void set_url(struct http *h, const char *path)
{
    const char *url = http_url(h);
    _cleanup_(text_done) struct text whole = {};
    size_t len = strlen(url);

    while (len && url[len - 1] == '/')
        len--;
    text_add(&whole, url, len);
    if (h->secrets[PATH].bytes) {
        text_adds(&whole, *h->secrets[PATH].bytes == '/' ? "" : "/");
        text_adds(&whole, h->secrets[PATH].bytes);
    }
    text_adds(&whole, path);
    if (!whole.failed)
        h->curl.easy_setopt(h->easy, CURLOPT_URL, whole.data);
    if (whole.data)
        explicit_bzero(whole.data, whole.len);
}

static void set_up(struct http *h, const struct http_request *request, struct http_answer *answer,
                   char why[CURL_ERROR_SIZE])
{
    h->curl.easy_reset(h->easy); /* connections are kept */
    set_url(h, request->path);
    h->curl.easy_setopt(h->easy, CURLOPT_ERRORBUFFER, why);
    h->curl.easy_setopt(h->easy, CURLOPT_NOSIGNAL, 1L);
    /* Nobody waits for a thread that waits for a name server. */
    h->curl.easy_setopt(h->easy, CURLOPT_QUICK_EXIT, 1L);
    h->curl.easy_setopt(h->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    h->curl.easy_setopt(h->easy, CURLOPT_USERAGENT, "huatuo/" HUATUO_VERSION);
    h->curl.easy_setopt(h->easy, CURLOPT_CUSTOMREQUEST, request->method);
    h->curl.easy_setopt(h->easy, CURLOPT_CONNECTTIMEOUT_MS,
                        MIN((long)CONNECT_MS, (long)(h->options->timeout / NS_PER_MS)));
    h->curl.easy_setopt(h->easy, CURLOPT_TIMEOUT_MS, (long)(h->options->timeout / NS_PER_MS));
    h->curl.easy_setopt(h->easy, CURLOPT_WRITEFUNCTION, on_body);
    h->curl.easy_setopt(h->easy, CURLOPT_WRITEDATA, answer);
    h->curl.easy_setopt(h->easy, CURLOPT_SOCKOPTFUNCTION, on_socket);
    h->curl.easy_setopt(h->easy, CURLOPT_SOCKOPTDATA, h);
    h->curl.easy_setopt(h->easy, CURLOPT_CLOSESOCKETFUNCTION, on_close_socket);
    h->curl.easy_setopt(h->easy, CURLOPT_CLOSESOCKETDATA, h);
    if (request->content_type) {
        h->curl.easy_setopt(h->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->len);
        h->curl.easy_setopt(h->easy, CURLOPT_POSTFIELDS, request->body);
    }
    set_tls(h);
}

/** What only an operator can mend is said so that he knows what. */
static void explain(const struct http *h, CURLcode code, const char *why, struct http_answer *ret)
{
    static const struct {
        CURLcode code;
        const char *what_to_do;
    } known[] = {
        {CURLE_PEER_FAILED_VERIFICATION,
         "; the certificate must be valid and come from a CA of ca_file, or of the system"},
        {CURLE_SSL_CACERT_BADFILE, "; ca_file must hold certificates as PEM"},
        {CURLE_SSL_CERTPROBLEM, "; cert_file and key_file must hold PEM and belong together"},
        {CURLE_COULDNT_RESOLVE_HOST, "; is the name right, do the name servers answer?"},
        {CURLE_COULDNT_CONNECT, "; does the server run, does a firewall stand between?"},
        {CURLE_WRITE_ERROR, "; the answer is longer than any that it should give"},
    };
    const char *what_to_do = "";
    _cleanup_(text_done) struct text shown = {};

    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (known[i].code == code)
            what_to_do = known[i].what_to_do;
    text_add_printable(&shown, *why ? why : h->curl.easy_strerror(code), 300);
    snprintf(ret->error, sizeof(ret->error), "%s%s", shown.data ? shown.data : "", what_to_do);
}

static bool is_over(const struct http *h)
{
    uint64_t stop_ns = __atomic_load_n(&h->stop_ns, __ATOMIC_ACQUIRE);

    return stop_ns && clock_now_ns(CLOCK_MONOTONIC) >= stop_ns;
}

/** Until it has ended; false if it had to be broken off. */
static bool perform(struct http *h, CURLcode *ret)
{
    int running = 1, left;
    const CURLMsg *message;

    *ret = CURLE_FAILED_INIT;
    if (h->curl.multi_add_handle(h->multi, h->easy) != CURLM_OK)
        return true;
    while (h->curl.multi_perform(h->multi, &running) == CURLM_OK && running) {
        uint64_t stop_ns = __atomic_load_n(&h->stop_ns, __ATOMIC_ACQUIRE);
        int wait_ms = POLL_MS;

        if (is_over(h))
            break;
        if (stop_ns)
            wait_ms = 10;
        h->curl.multi_poll(h->multi, NULL, 0, wait_ms, NULL);
    }
    while ((message = h->curl.multi_info_read(h->multi, &left)))
        if (message->msg == CURLMSG_DONE)
            *ret = message->data.result;
    h->curl.multi_remove_handle(h->multi, h->easy);
    return !running;
}

int http_do(struct http *h, const struct http_request *request, struct http_answer *ret)
{
    char why[CURL_ERROR_SIZE] = "";
    curl_off_t retry_after_s = 0;
    struct curl_slist *headers;
    CURLcode code;
    bool ended;

    *ret = (struct http_answer){.body = {.max = HTTP_ANSWER_MAX}};
    if (is_over(h))
        return -ECANCELED;
    if (load_missing(h) < 0) {
        snprintf(ret->error, sizeof(ret->error), "%s", h->problem);
        return -EIO;
    }
    set_up(h, request, ret, why);
    headers = set_headers(h, request);
    ended = perform(h, &code);
    if (ended && code == CURLE_OK) {
        h->curl.easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &ret->status);
        h->curl.easy_getinfo(h->easy, CURLINFO_RETRY_AFTER, &retry_after_s);
        if (retry_after_s > 0)
            ret->retry_after_ns =
                MIN((uint64_t)retry_after_s, RETRY_AFTER_MAX / NS_PER_SEC) * NS_PER_SEC;
    } else if (ended) {
        explain(h, code, why, ret);
    }
    h->curl.easy_reset(h->easy); /* of all that was lent to it */
    h->curl.slist_free_all(headers);
    if (!ended)
        return -ECANCELED;
    if (ret->status == 401)
        reload_refused(h);
    return code == CURLE_OK ? 0 : -EIO;
}

void http_answer_done(struct http_answer *answer)
{
    text_done(&answer->body);
}
