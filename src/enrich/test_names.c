// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

#include "core/clock.h"
#include "enrich/names.h"

#define PACKET_BYTES 1024
#define NEVER_NS     (60 * NS_PER_SEC)

/* --- a name server; the second byte of an address 10.x.y.z says how to behave */

enum behaviour { ANSWER = 9, SILENCE = 66, NO_NAME = 77, HOSTILE = 88, FAILURE = 99 };

struct server {
    int fd, stop_fd;
    pthread_t thread;
    char address[32]; /* as names_options want it */
    atomic_uint n_questions;
    atomic_uint n_strangers; /* questions from a port that nobody announced */
};

/* Ports that own_socket has announced. */
static atomic_bool announced[65536];

static const char *const hostile_names[] = {
    "\x1b[2Jevil\"<b>", /* label by label, '.' separates */
    "line\nbreak.test", "a/b.test", "\xff\xfe\x80.test", "blank blank.test", "ok-name_1.test",
};

struct packet {
    uint8_t bytes[PACKET_BYTES];
    size_t len;
};

static void put(struct packet *p, const void *bytes, size_t len)
{
    assert_true(p->len + len <= sizeof(p->bytes));
    memcpy(p->bytes + p->len, bytes, len);
    p->len += len;
}

static void put_16(struct packet *p, unsigned value)
{
    put(p, (uint8_t[]){(uint8_t)(value >> 8), (uint8_t)value}, 2);
}

static void put_name(struct packet *p, const char *name)
{
    while (*name != '\0') {
        size_t len = strcspn(name, ".");

        put(p, (uint8_t[]){(uint8_t)len}, 1);
        put(p, name, len);
        name += len + (name[len] == '.');
    }
    put(p, "", 1);
}

static void put_answer(struct packet *p, const char *name)
{
    struct packet rdata = {0};

    put_name(&rdata, name);
    put_16(p, 0xc00c); /* the name in question */
    put_16(p, 12);     /* PTR */
    put_16(p, 1);      /* IN */
    put_16(p, 0);
    put_16(p, 60); /* TTL, s */
    put_16(p, (unsigned)rdata.len);
    put(p, rdata.bytes, rdata.len);
}

/* Reads "4.3.2.1.in-addr.arpa"; returns the length of the question. */
static size_t parse_question(const uint8_t *bytes, size_t len, unsigned ret_numbers[4],
                             bool *ret_v6)
{
    size_t at = 12, n = 0;

    *ret_v6 = false;
    while (at < len && bytes[at] != 0) {
        char label[64] = "";

        memcpy(label, bytes + at + 1, bytes[at] & 63);
        if (n < 4)
            ret_numbers[3 - n] = (unsigned)strtoul(label, NULL, 10);
        *ret_v6 |= strcmp(label, "ip6") == 0;
        n++;
        at += 1U + bytes[at];
    }
    return at + 5 - 12;
}

static void server_answer(struct server *s, const uint8_t *bytes, size_t len,
                          const struct sockaddr_in *from)
{
    struct packet p = {0};
    unsigned numbers[4] = {0}, code = 0;
    char name[600] = "";
    bool v6;
    size_t question = parse_question(bytes, len, numbers, &v6);

    atomic_fetch_add(&s->n_questions, 1);
    if (!atomic_load(&announced[ntohs(from->sin_port)]))
        atomic_fetch_add(&s->n_strangers, 1);

    if (v6)
        snprintf(name, sizeof(name), "six.test");
    else if (numbers[1] == ANSWER)
        snprintf(name, sizeof(name), "host-%u-%u.test", numbers[2], numbers[3]);
    else if (numbers[1] == SILENCE)
        return;
    else if (numbers[1] == NO_NAME)
        code = 3;
    else if (numbers[1] == FAILURE)
        code = 2;
    else if (numbers[3] < ARRAY_SIZE(hostile_names))
        snprintf(name, sizeof(name), "%s", hostile_names[numbers[3]]);
    else if (numbers[3] == 100) /* longer than a name may be */
        for (int i = 0; i < 8; i++)
            snprintf(name + strlen(name), sizeof(name) - strlen(name), "%.60s.",
                     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");

    put(&p, bytes, 2);
    put_16(&p, 0x8180 | code);
    put_16(&p, 1);
    put_16(&p, name[0] != '\0');
    put_16(&p, 0);
    put_16(&p, 0);
    put(&p, bytes + 12, question);
    if (numbers[1] == HOSTILE && numbers[3] == 101)
        p.len = 13; /* cut */
    else if (numbers[1] == HOSTILE && numbers[3] == 102) {
        p.bytes[7] = 1;
        put_16(&p, 0xc000 | (unsigned)p.len); /* a name that points to itself */
        put_16(&p, 12);
        put_16(&p, 1);
    } else if (name[0] != '\0')
        put_answer(&p, name);
    (void)sendto(s->fd, p.bytes, p.len, 0, (const struct sockaddr *)from, sizeof(*from));
}

static void *server_thread(void *arg)
{
    struct server *s = arg;

    for (;;) {
        struct pollfd polls[] = {{.fd = s->fd, .events = POLLIN},
                                 {.fd = s->stop_fd, .events = POLLIN}};
        uint8_t bytes[PACKET_BYTES];
        struct sockaddr_in from;
        socklen_t from_len = sizeof(from);
        ssize_t n;

        poll(polls, 2, -1);
        if (polls[1].revents)
            return NULL;
        n = recvfrom(s->fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &from_len);
        if (n > 12)
            server_answer(s, bytes, (size_t)n, &from);
    }
}

static void server_start(struct server *s)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int receive_bytes = 4 << 20;

    memset(s, 0, sizeof(*s));
    s->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(s->fd >= 0);
    setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
    setsockopt(s->fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_bytes, sizeof(receive_bytes));
    assert_int_equal(bind(s->fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&address, &len), 0);
    snprintf(s->address, sizeof(s->address), "127.0.0.1:%u", ntohs(address.sin_port));
    s->stop_fd = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(pthread_create(&s->thread, NULL, server_thread, s), 0);
}

static void server_stop(struct server *s)
{
    eventfd_write(s->stop_fd, 1);
    pthread_join(s->thread, NULL);
    close(s->fd);
    close(s->stop_fd);
}

/* --- asking */

struct own {
    atomic_uint n_opened, n_closed, n_wrong;
};

static void own_socket(void *arg, int fd, bool open)
{
    struct own *own = arg;
    struct sockaddr_in address = {0}, peer;
    socklen_t len = sizeof(address), peer_len = sizeof(peer);

    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0 || address.sin_port == 0 ||
        address.sin_addr.s_addr != htonl(INADDR_LOOPBACK) ||
        getpeername(fd, (struct sockaddr *)&peer, &peer_len) < 0)
        atomic_fetch_add(&own->n_wrong, 1);
    atomic_fetch_add(open ? &own->n_opened : &own->n_closed, 1);
    atomic_store(&announced[ntohs(address.sin_port)], open);
}

static struct names *names_of(const struct server *s, uint64_t timeout_ns, uint64_t ttl_ns,
                              size_t pending_max, struct own *own)
{
    struct names_options options = {
        .servers = s->address,
        .timeout_ns = timeout_ns,
        .cache_max = 2000,
        .ttl_ns = ttl_ns,
        .pending_max = pending_max,
        .own_socket = own ? own_socket : NULL,
        .arg = own,
    };
    struct names *n;

    assert_int_equal(names_new(&options, &n), 0);
    return n;
}

struct address {
    uint8_t bytes[16];
};

static struct address v4(uint8_t behaviour, unsigned number)
{
    return (struct address){{[10] = 0xff,
                             [11] = 0xff,
                             [12] = 10,
                             [13] = behaviour,
                             [14] = (uint8_t)(number >> 8),
                             [15] = (uint8_t)number}};
}

/* Waits as the loop does: on the descriptor. Returns how long it took. */
static uint64_t wait_for(struct names *n, struct address address, char ret[256])
{
    uint64_t begin = clock_now_ns(CLOCK_MONOTONIC);
    int r;

    while ((r = names_lookup(n, address.bytes, ret)) == 0) {
        struct pollfd poll_fd = {.fd = names_fd(n), .events = POLLIN};
        eventfd_t count;

        assert_true(clock_now_ns(CLOCK_MONOTONIC) - begin < 20 * NS_PER_SEC);
        if (poll(&poll_fd, 1, 20000) == 1)
            (void)eventfd_read(names_fd(n), &count);
    }
    assert_int_equal(r, 1);
    return clock_now_ns(CLOCK_MONOTONIC) - begin;
}

static void assert_name(struct names *n, struct address address, const char *expected)
{
    char name[256];

    memset(name, 'x', sizeof(name));
    (void)wait_for(n, address, name);
    assert_string_equal(name, expected);
}

static void test_answers(void **state)
{
    struct server s;
    struct own own = {0};
    _cleanup_(names_freep) struct names *n = NULL;
    struct address six = {{0x20, 0x01, 0x0d, 0xb8, [15] = 1}};
    char name[256];

    (void)state;
    server_start(&s);
    n = names_of(&s, 5 * NS_PER_SEC, NEVER_NS, 16, &own);
    assert_int_equal(names_lookup(n, v4(ANSWER, 258).bytes, name), 0);
    assert_name(n, v4(ANSWER, 258), "host-1-2.test");
    assert_name(n, six, "six.test");
    assert_name(n, v4(NO_NAME, 1), "");
    assert_name(n, v4(FAILURE, 1), "");

    /* The server is gone: what is known stays known, failures and absences too. */
    server_stop(&s);
    assert_int_equal(names_lookup(n, v4(ANSWER, 258).bytes, name), 1);
    assert_string_equal(name, "host-1-2.test");
    assert_int_equal(names_lookup(n, v4(NO_NAME, 1).bytes, name), 1);
    assert_string_equal(name, "");
    assert_int_equal(names_lookup(n, v4(FAILURE, 1).bytes, name), 1);
    assert_name(n, v4(ANSWER, 3), ""); /* refused */

    n = names_free(n);
    assert_int_equal(s.n_strangers, 0);
    assert_true(own.n_opened >= 1);
    assert_int_equal(own.n_opened, own.n_closed);
    assert_int_equal(own.n_wrong, 0);
}

static void test_hostile(void **state)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._?";
    struct server s;
    _cleanup_(names_freep) struct names *n = NULL;
    char name[256];

    (void)state;
    server_start(&s);
    n = names_of(&s, 300 * NS_PER_MS, NEVER_NS, 64, NULL);
    for (unsigned i = 0; i < 103; i++) {
        (void)wait_for(n, v4(HOSTILE, i), name);
        assert_true(strlen(name) < 256);
        assert_int_equal(strspn(name, allowed), strlen(name));
        if (i == ARRAY_SIZE(hostile_names))
            i = 99;
    }
    assert_name(n, v4(HOSTILE, 2), "a?b.test");
    assert_name(n, v4(HOSTILE, 5), "ok-name_1.test");
    assert_name(n, v4(HOSTILE, 100), "");
    assert_name(n, v4(HOSTILE, 101), "");
    assert_name(n, v4(HOSTILE, 102), "");
    assert_name(n, v4(ANSWER, 1), "host-0-1.test"); /* and it goes on */
    server_stop(&s);
}

static void test_silence(void **state)
{
    struct server s;
    _cleanup_(names_freep) struct names *n = NULL;
    uint64_t begin = clock_now_ns(CLOCK_MONOTONIC), took;
    char name[256];

    (void)state;
    server_start(&s);
    n = names_of(&s, 3 * NS_PER_SEC, NEVER_NS, 16, NULL);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(names_lookup(n, v4(SILENCE, 1).bytes, name), 0);

    /* One who never answers does not hold up the others. */
    took = wait_for(n, v4(ANSWER, 1), name);
    assert_string_equal(name, "host-0-1.test");
    print_message("an answer beside a silence: %llu us\n", (unsigned long long)took / 1000);
    assert_true(took < 900 * NS_PER_MS);
    assert_int_equal(s.n_questions, 2); /* fifty times the same is one question */

    /* It ends in time, and is not asked for again at once. */
    (void)wait_for(n, v4(SILENCE, 1), name);
    assert_string_equal(name, "");
    took = clock_now_ns(CLOCK_MONOTONIC) - begin;
    print_message("a silence: %llu ms\n", (unsigned long long)(took / NS_PER_MS));
    assert_in_range(took, 2 * NS_PER_SEC, 6 * NS_PER_SEC);
    assert_int_equal(s.n_questions, 3); /* it was tried twice */
    assert_int_equal(names_lookup(n, v4(SILENCE, 1).bytes, name), 1);
    server_stop(&s);
}

static void test_too_many(void **state)
{
    struct server s;
    _cleanup_(names_freep) struct names *n = NULL;
    char name[256] = "x";
    uint64_t begin;

    (void)state;
    server_start(&s);
    n = names_of(&s, 60 * NS_PER_SEC, NEVER_NS, 2, NULL);
    assert_int_equal(names_lookup(n, v4(SILENCE, 1).bytes, name), 0);
    assert_int_equal(names_lookup(n, v4(SILENCE, 2).bytes, name), 0);
    assert_int_equal(names_lookup(n, v4(ANSWER, 1).bytes, name), 1);
    assert_string_equal(name, "");

    /* Ending does not wait for them. */
    begin = clock_now_ns(CLOCK_MONOTONIC);
    n = names_free(n);
    assert_true(clock_now_ns(CLOCK_MONOTONIC) - begin < 5 * NS_PER_SEC);
    server_stop(&s);
}

static void test_expiry(void **state)
{
    struct server s;
    _cleanup_(names_freep) struct names *n = NULL;
    char name[256];

    (void)state;
    server_start(&s);
    n = names_of(&s, 3 * NS_PER_SEC, 100 * NS_PER_MS, 16, NULL);
    assert_name(n, v4(ANSWER, 1), "host-0-1.test");
    usleep(150 * 1000);
    assert_int_equal(names_lookup(n, v4(ANSWER, 1).bytes, name), 0);
    assert_name(n, v4(ANSWER, 1), "host-0-1.test");
    assert_int_equal(s.n_questions, 2);

    /* A server that fails later does not take away what it said before. */
    server_stop(&s);
    usleep(150 * 1000);
    assert_name(n, v4(ANSWER, 1), "host-0-1.test");
}

static void test_thousand(void **state)
{
    struct server s;
    struct own own = {0};
    _cleanup_(names_freep) struct names *n = NULL;
    char name[256], expected[64];
    uint64_t begin = clock_now_ns(CLOCK_MONOTONIC), asked_ns;

    (void)state;
    server_start(&s);
    n = names_of(&s, 3 * NS_PER_SEC, NEVER_NS, 1000, &own);
    for (unsigned i = 0; i < 1000; i++) {
        (void)names_lookup(n, v4(ANSWER, i).bytes, name);
        if (i % 100 == 99) { /* or, on a busy machine, the server's socket overflows */
            snprintf(expected, sizeof(expected), "host-%u-%u.test", i >> 8, i & 255);
            assert_name(n, v4(ANSWER, i), expected);
        }
    }
    asked_ns = clock_now_ns(CLOCK_MONOTONIC) - begin;
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(expected, sizeof(expected), "host-%u-%u.test", i >> 8, i & 255);
        assert_name(n, v4(ANSWER, i), expected);
    }
    print_message("# 1000 names: asked in %llu us, known after %llu ms\n",
                  (unsigned long long)asked_ns / 1000,
                  (unsigned long long)((clock_now_ns(CLOCK_MONOTONIC) - begin) / NS_PER_MS));
    n = names_free(n);
    assert_int_equal(s.n_strangers, 0);
    assert_int_equal(own.n_wrong, 0);
    server_stop(&s);
}

static void test_wrong_options(void **state)
{
    struct names_options options = {.servers = "no server",
                                    .timeout_ns = NS_PER_SEC,
                                    .cache_max = 16,
                                    .pending_max = 16,
                                    .ttl_ns = NS_PER_SEC};
    struct names *n = NULL;

    (void)state;
    assert_int_equal(names_new(&options, &n), -EINVAL);
    options.servers = "";
    options.cache_max = 0;
    assert_int_equal(names_new(&options, &n), -EINVAL);
    assert_null(n);
    assert_null(names_free(NULL));

    options.cache_max = 16;
    assert_int_equal(names_new(&options, &n), 0); /* resolv.conf */
    names_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),       cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_silence),       cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_expiry),        cmocka_unit_test(test_thousand),
        cmocka_unit_test(test_wrong_options),
    };

    return cmocka_run_group_tests_name("names", tests, NULL, NULL);
}
