// SPDX-License-Identifier: Apache-2.0
#pragma once

/** For the unit tests: a server on loopback that answers each request as a function says. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <zlib.h>

#include "core/text.h"

struct test_request {
    const char *head; /* the request line and the headers */
    const char *body; /* uncompressed */
};

struct test_server {
    int fd;
    uint16_t port;
    pthread_t thread;
    /** Appends a whole answer, head and body; with nothing appended the connection is cut. */
    void (*answer)(void *arg, const struct test_request *request, struct text *out);
    void *arg;
    unsigned connections, requests; /* atomic */
};

static inline void test_inflate(const char *bytes, size_t len, struct text *out)
{
    z_stream z = {.next_in = (Bytef *)bytes, .avail_in = (uInt)len};
    char piece[65536];
    int r = inflateInit2(&z, 15 + 16);

    while (r == Z_OK) {
        z.next_out = (Bytef *)piece;
        z.avail_out = sizeof(piece);
        r = inflate(&z, Z_NO_FLUSH);
        text_add(out, piece, sizeof(piece) - z.avail_out);
    }
    inflateEnd(&z);
    if (r != Z_STREAM_END)
        text_adds(out, "(this is no gzip)");
}

/** One request; false: the client has gone, or the connection is to be cut. */
static inline bool test_serve_one(struct test_server *s, int fd)
{
    struct text in = {.max = 256 << 20}, body = {.max = 256 << 20}, out = {};
    const char *end = NULL, *length;
    size_t head_len = 0, body_len = 0;
    char bytes[65536];
    bool good = false;
    ssize_t n;

    while (!end || in.len < head_len + body_len) {
        n = read(fd, bytes, sizeof(bytes));
        if (n <= 0)
            goto done;
        text_add(&in, bytes, (size_t)n);
        end = end ? end : strstr(in.data, "\r\n\r\n");
        if (end && !head_len) {
            head_len = (size_t)(end - in.data) + 4;
            length = strcasestr(in.data, "content-length:");
            body_len = length && length < end ? strtoul(length + 15, NULL, 10) : 0;
        }
    }
    end = in.data + head_len;
    if (strcasestr(in.data, "content-encoding: gzip") && body_len)
        test_inflate(end, body_len, &body);
    else
        text_add(&body, end, body_len);
    in.data[head_len - 1] = '\0';
    __atomic_add_fetch(&s->requests, 1, __ATOMIC_SEQ_CST);
    s->answer(s->arg, &(struct test_request){in.data, body.data ? body.data : ""}, &out);
    good = out.len && write(fd, out.data, out.len) == (ssize_t)out.len;
done:
    text_done(&in);
    text_done(&body);
    text_done(&out);
    return good;
}

static inline void *test_serve(void *arg)
{
    struct test_server *s = arg;
    int fd;

    while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
        __atomic_add_fetch(&s->connections, 1, __ATOMIC_SEQ_CST);
        while (test_serve_one(s, fd))
            ;
        close(fd);
    }
    return NULL;
}

static inline bool test_server_start(struct test_server *s)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);

    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(s->fd, (struct sockaddr *)&at, len) < 0 || listen(s->fd, 16) < 0 ||
        getsockname(s->fd, (struct sockaddr *)&at, &len) < 0)
        return false;
    s->port = ntohs(at.sin_port);
    return pthread_create(&s->thread, NULL, test_serve, s) == 0;
}

/** The clients must have closed their connections. */
static inline void test_server_stop(struct test_server *s)
{
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
}

static inline void test_answer(struct text *out, const char *status, const char *headers,
                               const char *body)
{
    text_addf(out, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n%s\r\n%s", status, strlen(body), headers,
              body);
}
