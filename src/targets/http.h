// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * One server, or several that stand in for each other, spoken to over HTTP(S) with libcurl: one
 * request at a time over connections that are kept. Belongs to one thread, but for http_wake().
 */

#include "core/option.h"
#include "core/text.h"

enum http_verify { HTTP_VERIFY_FULL, HTTP_VERIFY_NONE };

/** First member of every such target's option struct; its rows are HTTP_OPTIONS(), or some. */
struct http_options {
    struct string_list url;
    char *username, *password_file, *api_key_file, *bearer_token_file;
    char *path_file; /* what follows `url` as a secret; NULL: the target has no such option */
    char *ca_file, *cert_file, *key_file;
    uint64_t tls_verify;     /* enum http_verify */
    uint64_t timeout;        /* ns, of a whole request */
    uint64_t batch_size;     /* bytes, before compression */
    uint64_t flush_interval; /* ns */
    bool compress;
};

/** Fit option.check and option.check_list. */
const char *http_check_url(const char *text);
int http_check_urls(const struct string_list *list, char *error, size_t error_size);
/** The same of a target with a path_file: what follows the host is refused, and not repeated. */
const char *http_check_host(const char *text);
int http_check_hosts(const struct string_list *list, char *error, size_t error_size);

extern const char *const http_verify_words[];

#define HTTP_OPTION(strukt, name, kind, value)                                                     \
    .key = #name, .type = kind, .offset = offsetof(strukt, http.name), .fallback = value

/** Who we are to the server, and who it is. */
#define HTTP_SERVER_OPTIONS(strukt)                                                                \
    {HTTP_OPTION(strukt, username, OPTION_STRING, ""),                                             \
     .help = "Who logs in, with the password of `password_file`."},                                \
        {HTTP_OPTION(strukt, password_file, OPTION_STRING, ""),                                    \
         .help = "File with the password; read at the start by root. Secrets may also come from "  \
                 "the environment: HUATUO_SECTION_PASSWORD, _API_KEY, _BEARER_TOKEN."},            \
        {HTTP_OPTION(strukt, api_key_file, OPTION_STRING, ""),                                     \
         .help = "File with an API key in its encoded form (base64)."},                            \
        {HTTP_OPTION(strukt, bearer_token_file, OPTION_STRING, ""),                                \
         .help = "File with a token. When it is refused, the file is read again, if the agent's "  \
                 "user may."},                                                                     \
        {HTTP_OPTION(strukt, ca_file, OPTION_STRING, ""),                                          \
         .help = "Certificates (PEM) that the server's has to come from; empty: the system's."},   \
        {HTTP_OPTION(strukt, cert_file, OPTION_STRING, ""),                                        \
         .help = "The client's certificate (PEM), if the server wants one."},                      \
        {HTTP_OPTION(strukt, key_file, OPTION_STRING, ""),                                         \
         .help = "Its private key (PEM, without a passphrase)."},                                  \
        {HTTP_OPTION(strukt, tls_verify, OPTION_ENUM, "full"), .words = http_verify_words,         \
         .help = "`none`: talk to whoever answers, whatever certificate it shows."},               \
    {                                                                                              \
        HTTP_OPTION(strukt, timeout, OPTION_DURATION, "30s"),                                      \
            .min = NS_PER_SEC, .max = 600 * NS_PER_SEC,                                            \
            .help = "How long a request may take before it counts as failed."                      \
    }

/** Of a target to which records go as they are. */
#define HTTP_OPTIONS(strukt)                                                                       \
    {HTTP_OPTION(strukt, url, OPTION_LIST, ""), .check = http_check_url,                           \
     .check_list = http_check_urls,                                                                \
     .help =                                                                                       \
         "Where the server is, as `https://host:port`; empty: nothing is uploaded. With several, " \
         "the next is asked when one does not answer."},                                           \
        HTTP_SERVER_OPTIONS(strukt),                                                               \
        {HTTP_OPTION(strukt, batch_size, OPTION_SIZE, "4MiB"), .min = 1024,                        \
         .max = 64 * 1024 * 1024,                                                                  \
         .help = "Size in bytes of a request at most, before compression; a request holds at "     \
                 "most 1000 records."},                                                            \
        {HTTP_OPTION(strukt, flush_interval, OPTION_DURATION, "1s"), .min = NS_PER_MS,             \
         .max = 3600 * NS_PER_SEC,                                                                 \
         .help = "How long a record waits for others to go with it in one request."},              \
    {                                                                                              \
        HTTP_OPTION(strukt, compress, OPTION_BOOL, "true"), .help = "Compress requests with gzip." \
    }

struct http;

/** Told of a socket before its first packet and after its end; any thread. */
struct http_sockets {
    void (*note)(void *arg, int fd, bool open);
    void *arg;
};

/**
 * Reads the files that the options name, so it wants the rights for that; starts nothing. `section`
 * (static) is how messages and environment variables name it. What cannot be read is no failure
 * here: http_problem() tells, and it is tried again before each request. `options` outlives it.
 * -ELIBACC: there is no libcurl, `error` says so.
 */
int http_new(const char *section, const struct http_options *options,
             const struct http_sockets *sockets, char *error, size_t error_size, struct http **ret);
struct http *http_free(struct http *h);
DEFINE_CLEANUP(struct http *, http_free)

/** Why no request can be made: a file that cannot be read. NULL: there is no reason. */
const char *http_problem(const struct http *h);
/** The server that is asked now. */
const char *http_url(const struct http *h);
/** From now on the next server; true: that is the first one again, all have been tried. */
bool http_next(struct http *h);
/** Secrets would go over the network for all to read. */
bool http_exposes_secret(const struct http *h);

struct http_request {
    const char *method, *path; /* path begins with a slash and may have a query, or is "" */
    const char *content_type;  /* NULL: there is no body */
    const char *body;
    size_t len;
    bool compressed; /* the body is */
};

#define HTTP_ANSWER_MAX (8 * 1024 * 1024)

struct http_answer {
    long status;
    struct text body; /* what came beyond HTTP_ANSWER_MAX is an error */
    uint64_t retry_after_ns;
    char error[512]; /* why there is no status; what to do about it, if that is known */
};
void http_answer_done(struct http_answer *answer);

/**
 * Makes one request and waits for its end. 0: `ret` holds an answer, of whatever status. -EIO:
 * there was none, `ret->error` says why. -ECANCELED: http_stop(). `ret` is to be done with in any
 * case.
 */
int http_do(struct http *h, const struct http_request *request, struct http_answer *ret);
/** Ends the request that is being made, and all later ones, at this time; any thread. */
void http_stop_at(struct http *h, uint64_t monotonic_ns);
