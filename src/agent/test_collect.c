// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "agent/collect.h"

#define JOBS_MAX 8

/** What collect() is to do, in the raw event itself; descriptors are of pipes. */
struct raw {
    unsigned number;
    int hang; /* reads from this until it is closed; -1: not */
    bool snapshot;
    int result;
};

static const struct record_origin origin = {
    .hostname = "", .region = "", .kernel_release = "", .boot_id = ""};

static int collect(const struct collect *c, const void *bytes, struct record *part)
{
    const struct raw *raw = bytes;
    char byte;

    assert_string_equal(c->root_prefix, "/root");
    if (raw->hang >= 0 && read(raw->hang, &byte, 1) < 0)
        return -errno;
    record_u64(part, "number", raw->number);
    record_u64(part, "noted", *(const unsigned char *)c->note);
    if (raw->snapshot) {
        _free_ char *data = NULL;
        size_t size = 0;
        int r = c->snapshot(c, (void **)&data, &size);

        if (r < 0)
            record_i64(part, "error", r);
        else
            record_str(part, "snapshot", data, size);
    }
    return raw->result;
}

static const struct hook hooks[] = {
    {.name = "event", .ways = {{.name = "way", .programs = (const char *const[]){NULL}}}},
    {.name = "tasks", .optional = true, .snapshot = true},
    {},
};
static const struct event event = {
    .name = "test",
    .tracer_name = "test",
    .hooks = hooks,
    .wire_size = sizeof(struct raw),
    .collect = collect,
};
static const struct event without_snapshot = {
    .name = "test",
    .tracer_name = "test",
    .hooks = &hooks[2],
    .wire_size = sizeof(struct raw),
    .collect = collect,
};

struct fixture {
    struct collector *collector;
    unsigned asked;
    int ask_result;
};

static int ask(void *arg, unsigned index)
{
    struct fixture *f = arg;

    assert_int_equal(index, 3);
    f->asked++;
    return f->ask_result;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    const struct collector_options options = {
        .root_prefix = "/root", .origin = &origin, .max = JOBS_MAX, .ask = ask, .arg = f};

    *state = f;
    return f ? collector_new(&options, &f->collector) : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    collector_free(f->collector);
    free(f);
    return 0;
}

static uint64_t start(struct fixture *f, const struct raw *raw)
{
    static const unsigned char note[EVENT_NOTE_BYTES] = {42};
    uint64_t ticket = 0;

    assert_int_equal(collector_start(f->collector, &event, 3, NULL, raw, note, &ticket), 0);
    assert_true(ticket != 0);
    return ticket;
}

/** Waits for an answer; a failure if there is none within some seconds. */
static int wait_for(struct fixture *f, uint64_t ticket, struct record **ret)
{
    struct pollfd polled = {.fd = collector_fd(f->collector), .events = POLLIN};
    uint64_t count;
    int r;

    while ((r = collector_lookup(f->collector, ticket, ret)) == 0) {
        assert_int_equal(poll(&polled, 1, 5000), 1);
        assert_int_equal(read(polled.fd, &count, sizeof(count)), sizeof(count));
    }
    return r;
}

static json_t *part_of(struct fixture *f, uint64_t ticket)
{
    struct record *part = NULL;
    struct doc *doc = NULL;
    json_t *json, *data;

    assert_int_equal(wait_for(f, ticket, &part), 1);
    assert_int_equal(record_finish(part, 1, &doc), 0);
    record_free(part);
    json = json_loadb(doc->json, doc->len, 0, NULL);
    doc_unref(doc);
    data = json_incref(json_object_get(json, "tracer_data"));
    json_decref(json);
    assert_non_null(data);
    return data;
}

static json_int_t number(const json_t *data, const char *name)
{
    return json_integer_value(json_object_get(data, name));
}

static void nap_ms(unsigned ms)
{
    const struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

    nanosleep(&nap, NULL);
}

static void test_collects(void **state)
{
    struct fixture *f = *state;
    uint64_t ticket = start(f, &(struct raw){.number = 7, .hang = -1});
    struct record *part = NULL;
    json_t *data = part_of(f, ticket);

    assert_int_equal(number(data, "number"), 7);
    assert_int_equal(number(data, "noted"), 42);
    json_decref(data);
    /* used up */
    assert_int_equal(collector_lookup(f->collector, ticket, &part), -ENOENT);
    assert_null(part);
}

static void test_fails(void **state)
{
    struct fixture *f = *state;
    struct record *part = NULL;

    assert_int_equal(wait_for(f, start(f, &(struct raw){.hang = -1, .result = -EIO}), &part), -EIO);
    assert_null(part);
    assert_int_equal(collector_lookup(f->collector, 12345, &part), -ENOENT);
}

/** One that hangs stops neither who asks nor the others, and what it says at last is thrown away.
 */
static void test_hangs(void **state)
{
    struct fixture *f = *state;
    struct record *part = NULL;
    uint64_t hanging;
    json_t *data;
    int pipes[2];

    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    /* There is a worker, and it is idle: it takes the first of two that come at once. */
    json_decref(part_of(f, start(f, &(struct raw){.number = 0, .hang = -1})));
    nap_ms(20);
    hanging = start(f, &(struct raw){.number = 1, .hang = pipes[0]});
    data = part_of(f, start(f, &(struct raw){.number = 2, .hang = -1}));
    assert_int_equal(number(data, "number"), 2);
    json_decref(data);
    assert_int_equal(collector_lookup(f->collector, hanging, &part), 0);
    collector_cancel(f->collector, hanging);
    assert_int_equal(collector_lookup(f->collector, hanging, &part), -ENOENT);
    close(pipes[1]);
    nap_ms(50);
    assert_int_equal(collector_lookup(f->collector, hanging, &part), -ENOENT);
    assert_null(part);
    close(pipes[0]);
}

static void test_too_many(void **state)
{
    static const unsigned char note[EVENT_NOTE_BYTES];
    struct fixture *f = *state;
    uint64_t tickets[JOBS_MAX], none = 0;
    struct raw raw = {};
    int pipes[2];
    json_t *data;

    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    raw.hang = pipes[0];
    for (unsigned i = 0; i < JOBS_MAX; i++) {
        raw.number = i;
        tickets[i] = start(f, &raw);
    }
    assert_int_equal(collector_start(f->collector, &event, 3, NULL, &raw, note, &none), -EBUSY);
    assert_true(none == 0);
    collector_cancel(f->collector, tickets[JOBS_MAX - 1]); /* it still waits for its turn */
    raw.number = 99;
    tickets[JOBS_MAX - 1] = start(f, &raw);
    close(pipes[1]);
    for (unsigned i = 0; i < JOBS_MAX; i++) {
        data = part_of(f, tickets[i]);
        assert_int_equal(number(data, "number"), i == JOBS_MAX - 1 ? 99 : i);
        json_decref(data);
    }
    close(pipes[0]);
}

/** A descriptor that says `text` and ends. */
static int saying(const char *text)
{
    int pipes[2];

    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    assert_int_equal(write(pipes[1], text, strlen(text)), strlen(text));
    close(pipes[1]);
    return pipes[0];
}

static void test_snapshots(void **state)
{
    struct fixture *f = *state;
    uint64_t first = start(f, &(struct raw){.number = 1, .hang = -1, .snapshot = true});
    uint64_t second = start(f, &(struct raw){.number = 2, .hang = -1, .snapshot = true});
    int late;
    json_t *data;

    assert_int_equal(f->asked, 2);
    collector_take(f->collector, 4, saying("of another kind"));
    collector_take(f->collector, 3, saying("first"));
    collector_take(f->collector, 3, -1);
    data = part_of(f, first);
    assert_string_equal(json_string_value(json_object_get(data, "snapshot")), "first");
    json_decref(data);
    data = part_of(f, second);
    assert_int_equal(number(data, "error"), -ENODATA);
    json_decref(data);
    /* nobody waits for it: it is closed */
    late = saying("late");
    collector_take(f->collector, 3, late);
    assert_int_equal(fcntl(late, F_GETFD), -1);
}

/** It cannot be asked for, or no answer ever comes: the rest is collected all the same. */
static void test_no_snapshot(void **state)
{
    static const unsigned char note[EVENT_NOTE_BYTES];
    const struct raw raw = {.number = 1, .hang = -1, .snapshot = true};
    struct fixture *f = *state;
    uint64_t ticket;
    json_t *data;

    data = part_of(f, start(f, &raw));
    assert_int_equal(number(data, "error"), -ETIME);
    assert_int_equal(number(data, "number"), 1);
    json_decref(data);
    f->ask_result = -EPIPE;
    data = part_of(f, start(f, &raw));
    assert_int_equal(number(data, "error"), -ENODATA);
    json_decref(data);
    assert_int_equal(f->asked, 2);
    assert_int_equal(collector_start(f->collector, &without_snapshot, 3, NULL, &raw, note, &ticket),
                     0);
    data = part_of(f, ticket);
    assert_int_equal(number(data, "error"), -ENODATA);
    json_decref(data);
    assert_int_equal(f->asked, 2);
}

static void test_free_while_one_hangs(void **state)
{
    struct fixture *f = *state;
    int pipes[2];

    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    start(f, &(struct raw){.hang = pipes[0]});
    start(f, &(struct raw){.hang = -1, .snapshot = true});
    nap_ms(20);
    f->collector = collector_free(f->collector);
    assert_null(f->collector);
    close(pipes[1]); /* it goes on, alone, and cleans up */
    nap_ms(100);
    close(pipes[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_collects, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hangs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_too_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_snapshots, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_snapshot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_free_while_one_hangs, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("collect", tests, NULL, NULL);
}
