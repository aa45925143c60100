// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "agent/pending.h"
#include "core/event.h"

/* --- those that are asked: instead of enrich's, so that answers come when a test wants them to */

#define N_ANSWERS 16
#define OWNER_PID 15 /* of all sockets */

/** By the last byte of the address, the pid, the socket: 1 known, 0 not yet, negative never. */
struct names {
    int known[N_ANSWERS];
    unsigned asked[N_ANSWERS];
};

struct processes {
    int known[N_ANSWERS];
    unsigned asked[N_ANSWERS];
    const char *cgroup;
};

struct owners {
    int known[N_ANSWERS];
    unsigned asked[N_ANSWERS];
};

int names_lookup(struct names *n, const uint8_t addr[16], char ret[256])
{
    unsigned i = addr[15];

    assert_in_range(i, 1, N_ANSWERS - 1);
    n->asked[i]++;
    if (n->known[i] > 0)
        snprintf(ret, 256, "host%u", i);
    return n->known[i];
}

int processes_lookup(struct processes *p, uint32_t pid, uint64_t start_boot_ns,
                     struct process_info *ret)
{
    assert_in_range(pid, 1, N_ANSWERS - 1);
    /* of a socket's owner only the pid is known */
    assert_int_equal(start_boot_ns, pid == OWNER_PID ? 0 : pid * 1000);
    p->asked[pid]++;
    if (p->known[pid] > 0) {
        *ret = (struct process_info){.cmdline = "cmd\0arg", .cmdline_len = 8, .unit = "x.service"};
        snprintf(ret->cgroup, sizeof(ret->cgroup), "%s", p->cgroup ? p->cgroup : "/x");
    }
    return p->known[pid];
}

int owners_lookup(struct owners *o, uint64_t inode, uint64_t now_ns, struct socket_owner *ret)
{
    assert_in_range(inode, 1, N_ANSWERS - 1);
    assert_true(now_ns > 0);
    o->asked[inode]++;
    if (o->known[inode] > 0)
        *ret = (struct socket_owner){.inode = inode, .pid = OWNER_PID, .comm = "owner"};
    return o->known[inode];
}

/** By the ticket. */
struct collector {
    int known[N_ANSWERS];
    unsigned cancelled[N_ANSWERS];
    bool too_large;
};

int collector_lookup(struct collector *c, uint64_t ticket, struct record **ret)
{
    static const struct event event = {.name = "test", .tracer_name = "test"};
    static const struct record_origin origin = {
        .hostname = "", .region = "", .kernel_release = "", .boot_id = ""};

    assert_in_range(ticket, 1, N_ANSWERS - 1);
    if (c->known[ticket] > 0) {
        assert_int_equal(record_new(&origin, &event, 0, 1, ret), 0);
        record_u64(*ret, "collected", ticket);
        if (c->too_large)
            record_close(*ret);
    }
    return c->known[ticket];
}

void collector_cancel(struct collector *c, uint64_t ticket)
{
    assert_in_range(ticket, 1, N_ANSWERS - 1);
    c->cancelled[ticket]++;
}

/* --- records and where they end up */

#define BOUND_NS         100
#define NEVER            (-ENOENT)
#define COLLECT_BOUND_NS 1000

struct fixture {
    struct collector collector;
    unsigned n_incomplete;
    int incomplete; /* why the last one was */
    struct names names;
    struct processes processes;
    struct owners owners;
    struct pending *pending;
    unsigned n_done;
    int done[32];     /* their numbers, in the order of coming */
    json_t *json[32]; /* by number */
};

static void on_done(void *arg, struct record *r)
{
    struct fixture *f = arg;
    struct doc *doc;
    int i = (int)record_event(r);

    assert_true(f->n_done < ARRAY_SIZE(f->done));
    assert_null(f->json[i]); /* once */
    f->done[f->n_done++] = i;
    assert_int_equal(record_finish(r, 1, &doc), 0);
    f->json[i] = json_loadb(doc->json, doc->len, 0, NULL);
    assert_non_null(f->json[i]);
    doc_unref(doc);
    record_free(r);
}

static void on_incomplete(void *arg, const struct record *r, int why)
{
    struct fixture *f = arg;

    assert_non_null(r);
    f->n_incomplete++;
    f->incomplete = why;
}

static struct pending_options options_of(struct fixture *f, size_t max)
{
    return (struct pending_options){
        .names = &f->names,
        .processes = &f->processes,
        .owners = &f->owners,
        .collector = &f->collector,
        .bound_ns = BOUND_NS,
        .collect_bound_ns = COLLECT_BOUND_NS,
        .incomplete = on_incomplete,
        .max = max,
        .done = on_done,
        .arg = f,
    };
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct pending_options options;

    if (!f)
        return -1;
    *state = f;
    options = options_of(f, 1000);
    return pending_new(&options, &f->pending);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    pending_free(f->pending);
    for (size_t i = 0; i < ARRAY_SIZE(f->json); i++)
        json_decref(f->json[i]);
    free(f);
    return 0;
}

/** Record `number`, which asks for the names of addresses `a` and `b`; 0: not. */
static struct record *make(unsigned number, uint8_t a, uint8_t b)
{
    static const struct event event = {.name = "test", .tracer_name = "test"};
    static const struct record_origin origin = {
        .hostname = "", .region = "", .kernel_release = "", .boot_id = ""};
    uint8_t addr[16] = {};
    struct record *r = NULL;

    assert_int_equal(record_new(&origin, &event, number, 1, &r), 0);
    record_u64(r, "number", number);
    addr[15] = a;
    if (a)
        record_host(r, "src", addr);
    addr[15] = b;
    if (b)
        record_host(r, "dest", addr);
    return r;
}

static void add(struct fixture *f, unsigned number, uint8_t a, uint8_t b, uint64_t now_ns)
{
    pending_add(f->pending, make(number, a, b), now_ns);
}

static void add_process(struct fixture *f, unsigned number, uint32_t pid, uint64_t now_ns)
{
    const struct record_process process = {.pid = pid, .start_boot_ns = pid * 1000};
    struct record *r = make(number, 0, 0);

    record_process(r, &process);
    pending_add(f->pending, r, now_ns);
}

static void add_owner(struct fixture *f, unsigned number, uint64_t inode)
{
    struct record *r = make(number, 0, 0);

    record_owner(r, inode);
    pending_add(f->pending, r, 0);
}

/** `expected` begins with a -1 that does not count. */
static void assert_done(const struct fixture *f, const int *expected, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        assert_true(i <= f->n_done);
        assert_int_equal(f->done[i - 1], expected[i]);
    }
    assert_int_equal(f->n_done, n - 1);
}
#define ASSERT_DONE(f, ...)                                                                        \
    assert_done(f, (const int[]){-1, ##__VA_ARGS__}, ARRAY_SIZE(((const int[]){-1, ##__VA_ARGS__})))

static const char *text(const struct fixture *f, unsigned number, const char *object,
                        const char *key)
{
    const json_t *inner = object ? json_object_get(f->json[number], object) : f->json[number];

    return json_string_value(json_object_get(inner, key));
}

static void assert_hosts(const struct fixture *f, unsigned number, const char *src,
                         const char *dest)
{
    assert_string_equal(text(f, number, "tracer_data", "src"), src);
    if (dest)
        assert_string_equal(text(f, number, "tracer_data", "dest"), dest);
}

/* --- tests */

static void test_nothing_to_wait_for(void **state)
{
    struct fixture *f = *state;

    f->names.known[1] = 1;
    f->names.known[2] = NEVER;
    f->processes.known[3] = NEVER;
    add(f, 0, 0, 0, 0);
    add(f, 1, 1, 2, 0);
    add_process(f, 2, 3, 0);
    add_process(f, 3, 0, 0); /* idle has nothing in /proc */
    assert_int_equal(pending_count(f->pending), 0);
    ASSERT_DONE(f, 0, 1, 2, 3);
    assert_hosts(f, 1, "host1", "");
    assert_null(text(f, 2, "process", "cmdline"));
}

static void test_nobody_to_ask(void **state)
{
    struct fixture *f = *state;
    struct pending_options options = options_of(f, 1000);

    options.names = NULL;
    options.processes = NULL;
    options.owners = NULL;
    pending_free(f->pending);
    assert_int_equal(pending_new(&options, &f->pending), 0);
    add(f, 0, 1, 2, 0);
    add_process(f, 1, 1, 0);
    add_owner(f, 2, 1);
    assert_int_equal(pending_count(f->pending), 0);
    ASSERT_DONE(f, 0, 1, 2);
    assert_hosts(f, 0, "", "");
}

static void test_none_waits_for_another(void **state)
{
    struct fixture *f = *state;

    f->names.known[9] = 1;
    for (unsigned i = 1; i <= 4; i++)
        add(f, i, (uint8_t)i, 0, i);
    add(f, 5, 9, 0, 5); /* known: passes all that wait */
    assert_int_equal(pending_count(f->pending), 4);
    ASSERT_DONE(f, 5);

    pending_retry(f->pending);
    ASSERT_DONE(f, 5);
    f->names.known[2] = 1; /* in the middle */
    pending_retry(f->pending);
    ASSERT_DONE(f, 5, 2);
    f->names.known[4] = NEVER; /* the last */
    pending_retry(f->pending);
    ASSERT_DONE(f, 5, 2, 4);
    add(f, 6, 6, 0, 6); /* comes behind those that are left */
    assert_int_equal(pending_count(f->pending), 3);
    f->names.known[1] = f->names.known[3] = f->names.known[6] = 1;
    pending_retry(f->pending);
    ASSERT_DONE(f, 5, 2, 4, 1, 3, 6);
    assert_int_equal(pending_count(f->pending), 0);
    assert_hosts(f, 2, "host2", NULL);
    assert_hosts(f, 4, "", NULL);
    assert_hosts(f, 6, "host6", NULL);
    add(f, 7, 7, 0, 7); /* empty, and used again */
    f->names.known[7] = 1;
    pending_retry(f->pending);
    ASSERT_DONE(f, 5, 2, 4, 1, 3, 6, 7);
}

static void test_all_are_asked(void **state)
{
    struct fixture *f = *state;
    const struct record_process process = {.pid = 3, .start_boot_ns = 3000};
    struct record *r = make(0, 1, 2);

    record_process(r, &process);
    record_owner(r, 4);
    pending_add(f->pending, r, 0);
    assert_int_equal(f->names.asked[1], 1);
    assert_int_equal(f->names.asked[2], 1);
    assert_int_equal(f->processes.asked[3], 1);
    assert_int_equal(f->owners.asked[4], 1);

    /* It is complete with the last answer, whichever that is. */
    f->names.known[2] = 1;
    pending_retry(f->pending);
    f->processes.known[3] = 1;
    pending_retry(f->pending);
    f->owners.known[4] = 1;
    pending_retry(f->pending);
    ASSERT_DONE(f);
    f->names.known[1] = 1;
    pending_retry(f->pending);
    ASSERT_DONE(f, 0);
    assert_hosts(f, 0, "host1", "host2");
    assert_string_equal(text(f, 0, "tracer_data", "owner_comm"), "owner");
    assert_string_equal(text(f, 0, "process", "cmdline"), "cmd arg");
    assert_string_equal(text(f, 0, "process", "systemd_unit"), "x.service");
    assert_string_equal(text(f, 0, NULL, "cgroup"), "/x");
    assert_null(text(f, 0, NULL, "container_id"));
}

static const char id[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/** Where the record is about no process, its container is that of the socket's owner. */
static void test_container_of_owner(void **state)
{
    const struct record_process process = {.pid = 1, .start_boot_ns = 1000};
    struct fixture *f = *state;
    struct record *r = make(1, 0, 0);
    char cgroup[128];

    snprintf(cgroup, sizeof(cgroup), "/docker/%s", id);
    f->processes.cgroup = cgroup;
    f->owners.known[1] = 1;
    add_owner(f, 0, 1);
    ASSERT_DONE(f); /* the owner is known, its cgroup is not */
    f->processes.known[OWNER_PID] = 1;
    pending_retry(f->pending);
    ASSERT_DONE(f, 0);
    assert_string_equal(text(f, 0, "tracer_data", "owner_comm"), "owner");
    assert_string_equal(text(f, 0, NULL, "container_id"), id);
    assert_string_equal(text(f, 0, NULL, "container_found_by"), "socket");
    assert_null(json_object_get(f->json[0], "process"));

    /* It is about a process: the owner's is not asked for. */
    f->processes.asked[OWNER_PID] = 0;
    f->processes.known[1] = NEVER;
    record_process(r, &process);
    record_owner(r, 1);
    pending_add(f->pending, r, 0);
    ASSERT_DONE(f, 0, 1);
    assert_int_equal(f->processes.asked[OWNER_PID], 0);
    assert_null(text(f, 1, NULL, "container_id"));

    f->processes.known[OWNER_PID] = NEVER; /* has gone meanwhile */
    add_owner(f, 2, 1);
    ASSERT_DONE(f, 0, 1, 2);
    assert_null(text(f, 2, NULL, "container_id"));
}

static void test_container(void **state)
{
    struct fixture *f = *state;
    char cgroup[128];

    snprintf(cgroup, sizeof(cgroup), "/system.slice/docker-%s.scope", id);
    f->processes.cgroup = cgroup;
    f->processes.known[1] = 1;
    add_process(f, 0, 1, 0);
    ASSERT_DONE(f, 0);
    assert_string_equal(text(f, 0, NULL, "container_id"), id);
    assert_string_equal(text(f, 0, NULL, "container_found_by"), "cgroup");
    assert_string_equal(text(f, 0, NULL, "cgroup"), cgroup);
}

static void test_owner_that_nobody_has(void **state)
{
    struct fixture *f = *state;

    f->owners.known[1] = NEVER;
    add_owner(f, 0, 1);
    ASSERT_DONE(f, 0);
    assert_null(json_object_get(json_object_get(f->json[0], "tracer_data"), "owner_pid"));
}

static void test_expiry(void **state)
{
    struct fixture *f = *state;

    add(f, 1, 1, 2, 1000);
    add(f, 2, 3, 0, 1050);
    add(f, 3, 4, 0, 1050);
    pending_expire(f->pending, 1000 + BOUND_NS - 1);
    ASSERT_DONE(f);
    f->names.known[2] = 1; /* half of what it waits for has come, and nobody has said so */
    pending_expire(f->pending, 1000 + BOUND_NS);
    ASSERT_DONE(f, 1);
    assert_hosts(f, 1, "", "host2");
    assert_int_equal(pending_count(f->pending), 2);
    pending_expire(f->pending, 1050 + BOUND_NS - 1);
    ASSERT_DONE(f, 1);
    pending_expire(f->pending, UINT64_MAX);
    ASSERT_DONE(f, 1, 2, 3);
    assert_int_equal(pending_count(f->pending), 0);
    pending_expire(f->pending, UINT64_MAX);
    pending_retry(f->pending);
    ASSERT_DONE(f, 1, 2, 3);
}

/** Retrying does not lengthen the wait. */
static void test_expiry_after_retry(void **state)
{
    struct fixture *f = *state;

    add(f, 1, 1, 2, 0);
    f->names.known[1] = 1;
    for (unsigned i = 0; i < 5; i++)
        pending_retry(f->pending);
    pending_expire(f->pending, BOUND_NS - 1);
    ASSERT_DONE(f);
    pending_expire(f->pending, BOUND_NS);
    ASSERT_DONE(f, 1);
    assert_hosts(f, 1, "host1", "");
}

static void test_max(void **state)
{
    struct fixture *f = *state;
    struct pending_options options = options_of(f, 3);

    pending_free(f->pending);
    assert_int_equal(pending_new(&options, &f->pending), 0);
    for (unsigned i = 1; i <= 5; i++) {
        add(f, i, (uint8_t)i, 0, i);
        assert_int_equal(pending_count(f->pending), MIN(i, 3U));
    }
    ASSERT_DONE(f, 1, 2); /* the oldest, as they were */
    assert_hosts(f, 1, "", NULL);
    f->names.known[8] = 1;
    add(f, 8, 8, 0, 8); /* need not wait, so nobody has to make room */
    ASSERT_DONE(f, 1, 2, 8);
    f->names.known[3] = f->names.known[4] = f->names.known[5] = 1;
    pending_retry(f->pending);
    ASSERT_DONE(f, 1, 2, 8, 3, 4, 5);

    pending_free(f->pending);
    f->pending = NULL;
    options.max = 1;
    assert_int_equal(pending_new(&options, &f->pending), 0);
    add(f, 10, 10, 0, 0);
    add(f, 11, 11, 0, 0);
    assert_int_equal(pending_count(f->pending), 1);
    ASSERT_DONE(f, 1, 2, 8, 3, 4, 5, 10);
}

static void test_end(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 1; i <= 3; i++)
        add(f, i, (uint8_t)i, 0, 0);
    f->names.known[2] = 1;
    f->pending = pending_free(f->pending);
    assert_null(f->pending);
    ASSERT_DONE(f, 1, 2, 3);
    assert_hosts(f, 1, "", NULL);
    assert_hosts(f, 2, "host2", NULL); /* what has come by then is taken along */
    assert_null(pending_free(NULL));
}

/** What a process runs comes from elsewhere than the rest, and each comes without the other. */
static void test_exe(void **state)
{
    struct fixture *f = *state;
    struct pending_options options = options_of(f, 1000);
    struct exe_key first, second, none;

    pending_free(f->pending);
    assert_int_equal(lookups_new(8, 8, &options.exes), 0);
    assert_int_equal(pending_new(&options, &f->pending), 0);
    f->processes.known[1] = 1;
    add_process(f, 1, 1, 0);
    add_process(f, 2, 2, 0);
    add_process(f, 3, 0, 0);
    ASSERT_DONE(f, 3);
    assert_true(lookups_next(options.exes, &first));
    assert_true(lookups_next(options.exes, &second));
    assert_false(lookups_next(options.exes, &none));
    assert_int_equal(first.pid, 1);
    assert_int_equal(first.start_boot_ns, 1000);
    assert_int_equal(second.pid, 2);

    lookups_answer(options.exes, &first, "/bin/one", 8, UINT64_MAX);
    pending_retry(f->pending);
    ASSERT_DONE(f, 3, 1);
    assert_string_equal(text(f, 1, "process", "exe"), "/bin/one");
    assert_string_equal(text(f, 1, "process", "cmdline"), "cmd arg");

    lookups_answer(options.exes, &second, NULL, 0, UINT64_MAX); /* may not be read */
    pending_retry(f->pending);
    ASSERT_DONE(f, 3, 1);
    f->processes.known[2] = 1;
    pending_retry(f->pending);
    ASSERT_DONE(f, 3, 1, 2);
    assert_null(text(f, 2, "process", "exe"));
    assert_string_equal(text(f, 2, "process", "cmdline"), "cmd arg");
    f->pending = pending_free(f->pending);
    lookups_free(options.exes);
}

static json_int_t collected(const struct fixture *f, unsigned number)
{
    return json_integer_value(
        json_object_get(json_object_get(f->json[number], "tracer_data"), "collected"));
}

/** It comes while others go by, and in its own time. */
static void test_collected(void **state)
{
    struct fixture *f = *state;

    pending_add_collected(f->pending, make(1, 0, 0), 1, 0, 0);
    pending_add_collected(f->pending, make(2, 0, 0), 2, 0, 0);
    add(f, 3, 0, 0, 0);
    ASSERT_DONE(f, 3);
    add(f, 4, 4, 0, 10);
    f->collector.known[2] = 1;
    pending_retry(f->pending);
    ASSERT_DONE(f, 3, 2);
    assert_int_equal(collected(f, 2), 2);
    pending_expire(f->pending, 10 + BOUND_NS); /* not for the one that came first */
    ASSERT_DONE(f, 3, 2, 4);
    f->collector.known[1] = 1;
    pending_expire(f->pending, COLLECT_BOUND_NS); /* in the last moment */
    ASSERT_DONE(f, 3, 2, 4, 1);
    assert_int_equal(collected(f, 1), 1);
    assert_null(text(f, 1, "tracer_data", "incomplete"));
    assert_int_equal(f->n_incomplete, 0);
    assert_int_equal(f->collector.cancelled[1] + f->collector.cancelled[2], 0);
}

/** A record is never lost for want of what is collected; it says that it is not whole. */
static void test_not_collected(void **state)
{
    struct fixture *f = *state;

    pending_add_collected(f->pending, make(1, 0, 0), 1, 0, 0);
    pending_expire(f->pending, COLLECT_BOUND_NS - 1);
    ASSERT_DONE(f);
    pending_expire(f->pending, COLLECT_BOUND_NS);
    ASSERT_DONE(f, 1);
    assert_string_equal(text(f, 1, "tracer_data", "incomplete"), "late");
    assert_int_equal(f->collector.cancelled[1], 1);
    assert_int_equal(f->incomplete, -ETIME);

    pending_add_collected(f->pending, make(2, 0, 0), 0, -EBUSY, 0);
    ASSERT_DONE(f, 1, 2);
    assert_string_equal(text(f, 2, "tracer_data", "incomplete"), "busy");
    assert_int_equal(f->incomplete, -EBUSY);

    f->collector.known[3] = -EIO;
    pending_add_collected(f->pending, make(3, 0, 0), 3, 0, 0);
    pending_retry(f->pending);
    ASSERT_DONE(f, 1, 2, 3);
    assert_string_equal(text(f, 3, "tracer_data", "incomplete"), "failed");

    f->collector.known[4] = 1;
    f->collector.too_large = true; /* or anything else for which it cannot be used */
    pending_add_collected(f->pending, make(4, 0, 0), 4, 0, 0);
    pending_retry(f->pending);
    ASSERT_DONE(f, 1, 2, 3, 4);
    assert_string_equal(text(f, 4, "tracer_data", "incomplete"), "failed");
    assert_int_equal(f->n_incomplete, 4);
}

/** At the end nobody waits, and nothing is left behind. */
static void test_end_while_collecting(void **state)
{
    struct fixture *f = *state;

    f->collector.known[2] = 1;
    pending_add_collected(f->pending, make(1, 0, 0), 1, 0, 0);
    pending_add_collected(f->pending, make(2, 0, 0), 2, 0, 0);
    f->pending = pending_free(f->pending);
    ASSERT_DONE(f, 1, 2);
    assert_string_equal(text(f, 1, "tracer_data", "incomplete"), "late");
    assert_int_equal(f->collector.cancelled[1], 1);
    assert_int_equal(collected(f, 2), 2);
}

/** What the kernel said at the event of the cgroup is not replaced, and names the unit of the dead.
 */
static void test_cgroup_of_the_kernel(void **state)
{
    struct fixture *f = *state;
    struct record *r = make(1, 0, 0);
    const struct record_process process = {.pid = 5, .start_boot_ns = 5000};

    f->processes.known[5] = 1;
    record_process(r, &process);
    record_cgroup(r, "/a.slice/b.service");
    pending_add(f->pending, r, 0);
    ASSERT_DONE(f, 1);
    assert_string_equal(text(f, 1, NULL, "cgroup"), "/a.slice/b.service");
    assert_string_equal(text(f, 1, "process", "systemd_unit"), "x.service");

    f->processes.known[6] = NEVER;
    r = make(2, 0, 0);
    record_process(r, &(struct record_process){.pid = 6, .start_boot_ns = 6000});
    record_cgroup(r, "/a.slice/b.service");
    pending_add(f->pending, r, 0);
    ASSERT_DONE(f, 1, 2);
    assert_string_equal(text(f, 2, "process", "systemd_unit"), "b.service");
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_to_wait_for),
        TEST(test_nobody_to_ask),
        TEST(test_none_waits_for_another),
        TEST(test_all_are_asked),
        TEST(test_container),
        TEST(test_container_of_owner),
        TEST(test_owner_that_nobody_has),
        TEST(test_expiry),
        TEST(test_expiry_after_retry),
        TEST(test_max),
        TEST(test_end),
        TEST(test_exe),
        TEST(test_collected),
        TEST(test_not_collected),
        TEST(test_end_while_collecting),
        TEST(test_cgroup_of_the_kernel),
    };

    return cmocka_run_group_tests_name("pending", tests, NULL, NULL);
}
