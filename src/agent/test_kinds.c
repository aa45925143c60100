// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/kinds.h"

/* --- a store that says what a test wants it to */

struct store {
    struct store_counts counts;
    struct store_state state;
    struct store_target target;
};

void store_get_counts(const struct store *s, unsigned event, struct store_counts *ret)
{
    assert_int_equal(event, 0);
    *ret = s->counts;
}

void store_get_state(const struct store *s, struct store_state *ret)
{
    *ret = s->state;
}

int store_get_target(const struct store *s, const char *name, struct store_target *ret)
{
    if (strcmp(name, s->target.name) != 0)
        return -ENOENT;
    *ret = s->target;
    return 0;
}

/* --- a kind, with files in memory for its maps */

#define N_CPUS 3

static const char *rule_name(const void *options, unsigned index)
{
    static const char *const names[] = {"own", "", "noise"};

    assert_non_null(options);
    return index < ARRAY_SIZE(names) ? names[index] : NULL;
}

static const char *const no_programs[] = {NULL};
static const struct hook two_hooks[] = {
    {.name = "first", .watches = "one", .ways = {{"way1", no_programs}, {"way2", no_programs}}},
    {.name = "second", .watches = "two", .ways = {{"way3", no_programs}}},
    {},
};
static const struct event test_event = {
    .name = "testing",
    .tracer_name = "testing",
    .hooks = two_hooks,
    .settings_size = 4096,
    .rule_name = rule_name,
};
static const struct event without_settings = {
    .name = "plain",
    .tracer_name = "plain",
    .hooks = two_hooks,
};

struct fixture {
    struct event_options options;
    struct agent_kind kind;
    struct wire_counters *counters; /* the kernel's side of them */
    int fds[CHANNEL_FDS_MAX];
    struct channel_message message;
    unsigned n_open;
};

static unsigned n_open(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static int map_file(size_t size)
{
    int fd = memfd_create("map", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static void init(struct fixture *f, const struct event *event, bool enabled)
{
    f->options = (struct event_options){.enabled = enabled, .repeat_limit = 10};
    kind_init(&f->kind, 0, &f->options);
    assert_ptr_equal(f->kind.event, events[0]);
    assert_int_equal(f->kind.enabled, enabled);
    f->kind.event = event;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    *state = f;
    f->n_open = n_open();
    init(f, &test_event, true);
    f->fds[0] = map_file(4096);
    f->fds[1] = map_file(N_CPUS * sizeof(struct wire_counters));
    f->fds[2] = map_file(sizeof(struct wire_common));
    f->fds[3] = map_file(test_event.settings_size);
    f->counters = mmap(NULL, N_CPUS * sizeof(struct wire_counters), PROT_READ | PROT_WRITE,
                       MAP_SHARED, f->fds[1], 0);
    assert_ptr_not_equal(f->counters, MAP_FAILED);
    f->message = (struct channel_message){.type = CHANNEL_KIND, .kind.n_cpus = N_CPUS};
    return 0;
}

/** Whatever became of the message, nothing of it may be left. */
static int tear_down(void **state)
{
    struct fixture *f = *state;
    unsigned expected = f->n_open;

    kind_done(&f->kind);
    kind_done(&f->kind); /* twice is fine */
    munmap(f->counters, N_CPUS * sizeof(struct wire_counters));
    free(f);
    return n_open() == expected ? 0 : -1;
}

static void take(struct fixture *f)
{
    assert_int_equal(kind_take(&f->kind, &f->message, f->fds, 4), 0);
    assert_true(f->kind.loaded);
}

static void close_fds(struct fixture *f, size_t first)
{
    for (size_t i = first; i < ARRAY_SIZE(f->fds); i++)
        close(f->fds[i]);
}

static void take_hook(struct agent_kind *kind, uint32_t hook, uint32_t way, uint32_t hook_state,
                      const char *reason)
{
    struct channel_message m = {.type = CHANNEL_HOOK, .hook = {hook, way, hook_state}};

    snprintf(m.text, sizeof(m.text), "%s", reason);
    kind_take_hook(kind, &m);
}

/* --- tests */

static void test_take(void **state)
{
    struct fixture *f = *state;

    take(f);
    assert_int_equal(f->kind.ring_fd, f->fds[0]);
    assert_int_equal(n_open(), f->n_open + 1); /* mapped and closed, but the ring */
    assert_int_equal(f->kind.n_cpus, N_CPUS);
    f->counters[2].seen = 5; /* both see the same */
    assert_int_equal(f->kind.counters[2].seen, 5);
    f->kind.common->watching = 1;
    ((char *)f->kind.settings)[f->kind.settings_size - 1] = 'x';
    assert_int_equal(f->kind.settings_size, test_event.settings_size);
}

static void test_take_without_settings(void **state)
{
    struct fixture *f = *state;

    f->kind.event = &without_settings;
    assert_int_equal(kind_take(&f->kind, &f->message, f->fds, 3), 0);
    assert_true(f->kind.loaded);
    assert_null(f->kind.settings);
    close_fds(f, 3);
}

static void test_not_loaded(void **state)
{
    struct fixture *f = *state;

    snprintf(f->message.text, sizeof(f->message.text), "load: no BTF");
    assert_int_equal(kind_take(&f->kind, &f->message, NULL, 0), 0);
    assert_false(f->kind.loaded);
    assert_string_equal(f->kind.reason, "load: no BTF");
    take_hook(&f->kind, 0, 0, HOOK_ATTACHED, "");
    assert_null(kind_way(&f->kind, 0));
    close_fds(f, 0);
}

static void test_bad_messages(void **state)
{
    static const struct {
        size_t n_fds;
        uint32_t n_cpus;
    } bad[] = {{1, N_CPUS}, {2, N_CPUS}, {3, N_CPUS}, {4, 0}, {4, 65537}, {4, UINT32_MAX}};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        int copies[CHANNEL_FDS_MAX];

        for (size_t j = 0; j < bad[i].n_fds; j++)
            copies[j] = fcntl(f->fds[j], F_DUPFD_CLOEXEC, 0);
        f->message.kind.n_cpus = bad[i].n_cpus;
        assert_int_equal(kind_take(&f->kind, &f->message, copies, bad[i].n_fds), -EBADMSG);
        assert_false(f->kind.loaded);
        assert_int_equal(n_open(), f->n_open + 4); /* all were closed */
    }
    f->message.kind.n_cpus = N_CPUS;
    take(f);
    /* A second time would leak what the first has brought. */
    f->fds[0] = map_file(4096);
    f->fds[1] = map_file(4096);
    f->fds[2] = map_file(4096);
    f->fds[3] = map_file(4096);
    assert_int_equal(kind_take(&f->kind, &f->message, f->fds, 4), -EBADMSG);
    assert_int_equal(n_open(), f->n_open + 1);
}

static void test_cannot_be_mapped(void **state)
{
    for (unsigned which = 1; which < 4; which++) {
        struct fixture *f = *state;
        int pipes[2], fds[CHANNEL_FDS_MAX];

        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
            fds[i] = fcntl(f->fds[i], F_DUPFD_CLOEXEC, 0);
        assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
        close(fds[which]);
        fds[which] = pipes[0];
        close(pipes[1]);
        assert_true(kind_take(&f->kind, &f->message, fds, 4) < 0);
        assert_false(f->kind.loaded);
        kind_done(&f->kind);
        assert_int_equal(n_open(), f->n_open + 4);
        init(f, &test_event, true);
    }
    close_fds(*state, 0);
}

static void test_hooks(void **state)
{
    struct fixture *f = *state;

    take(f);
    assert_null(kind_way(&f->kind, 0)); /* nothing was said of it yet */
    take_hook(&f->kind, 0, 0, HOOK_REFUSED, "attach: no");
    assert_null(kind_way(&f->kind, 0));
    take_hook(&f->kind, 0, 1, HOOK_ATTACHED, "");
    assert_string_equal(kind_way(&f->kind, 0)->name, "way2");
    assert_string_equal(f->kind.hooks[0][0].reason, "attach: no");
    assert_null(kind_way(&f->kind, 1));

    /* Nothing that is out of bounds is taken. */
    take_hook(&f->kind, AGENT_HOOKS_MAX, 0, HOOK_ATTACHED, "bad");
    take_hook(&f->kind, UINT32_MAX, 0, HOOK_ATTACHED, "bad");
    take_hook(&f->kind, 1, HOOK_WAYS_MAX, HOOK_ATTACHED, "bad");
    take_hook(&f->kind, 1, UINT32_MAX, HOOK_ATTACHED, "bad");
    take_hook(&f->kind, 1, 0, HOOK_OFF + 1, "bad");
    take_hook(&f->kind, 1, 0, UINT32_MAX, "bad");
    for (unsigned hook = 0; hook < AGENT_HOOKS_MAX; hook++)
        for (unsigned way = 0; way < HOOK_WAYS_MAX; way++) {
            assert_in_range(f->kind.hooks[hook][way].state, 0, HOOK_OFF);
            assert_string_not_equal(f->kind.hooks[hook][way].reason, "bad");
        }
    assert_null(kind_way(&f->kind, 1));
    /* a way that the hook does not have */
    take_hook(&f->kind, 1, 3, HOOK_ATTACHED, "");
    assert_null(kind_way(&f->kind, 1));
}

/** Each counter on each CPU has a digit of its own. */
static void fill_counters(struct fixture *f)
{
    for (unsigned cpu = 0; cpu < N_CPUS; cpu++) {
        struct wire_counters *c = &f->counters[cpu];
        uint64_t unit = cpu == 0 ? 1 : cpu == 1 ? 10 : 100;

        c->sent = 4 * unit;
        c->suppressed = 2 * unit;
        c->filtered[0] = unit;
        c->filtered[2] = 2 * unit;
        c->lost[WIRE_LOST_RING_FULL] = unit;
        c->lost[WIRE_LOST_KEYS_FULL] = unit;
        c->seen = c->sent + 2 * unit + 3 * unit + 2 * unit;
    }
}

static void test_account(void **state)
{
    struct fixture *f = *state;
    struct store store = {.counts = {.recorded = 440}};
    struct kind_account a;

    kind_get_account(&f->kind, NULL, &a); /* nothing is mapped yet */
    assert_int_equal(a.seen | a.recorded | a.suppressed | a.filtered | a.lost | a.sent, 0);

    fill_counters(f);
    take(f);
    kind_get_account(&f->kind, &store, &a);
    assert_int_equal(a.seen, 1221);
    assert_int_equal(a.sent, 444);
    assert_int_equal(a.recorded, 440);
    assert_int_equal(a.suppressed, 222);
    assert_int_equal(a.filtered, 333);
    assert_int_equal(a.lost, 222);
    assert_int_equal(a.unaccounted, 4); /* sent, and not recorded yet */

    /* Each way in which those four may be lost. */
    f->kind.lost[AGENT_LOST_DECODE] = 1;
    f->kind.lost[AGENT_LOST_MEMORY] = 1;
    store.counts.lost[STORE_LOST_QUEUE_FULL] = 1;
    store.counts.lost[STORE_LOST_WRITE] = 1;
    kind_get_account(&f->kind, &store, &a);
    assert_int_equal(a.lost, 226);
    assert_int_equal(a.unaccounted, 0);

    /* What the last run had seen before it was killed was not seen by these counters. */
    f->kind.lost[AGENT_LOST_CRASH] = 1000;
    kind_get_account(&f->kind, &store, &a);
    assert_int_equal(a.seen, 2221);
    assert_int_equal(a.lost, 1226);
    assert_int_equal(a.unaccounted, 0);

    /* Recorded twice, or never seen: shown as such, not as a large number. */
    store.counts.recorded = 445;
    kind_get_account(&f->kind, &store, &a);
    assert_int_equal(a.unaccounted, -5);

    kind_get_account(&f->kind, NULL, &a);
    assert_int_equal(a.recorded, 0);
}

static void test_account_all_rules_and_losses(void **state)
{
    struct fixture *f = *state;
    struct kind_account a;

    take(f);
    for (unsigned i = 0; i < WIRE_RULES_MAX; i++)
        f->counters[i % N_CPUS].filtered[i] = 1;
    for (unsigned i = 0; i < WIRE_LOST_NR; i++)
        f->counters[i % N_CPUS].lost[i] = 1;
    f->counters[0].seen = WIRE_RULES_MAX + WIRE_LOST_NR;
    kind_get_account(&f->kind, NULL, &a);
    assert_int_equal(a.filtered, WIRE_RULES_MAX);
    assert_int_equal(a.lost, WIRE_LOST_NR);
    assert_int_equal(a.unaccounted, 0);
}

static struct status_input input_of(const struct fixture *f, const struct store *store)
{
    return (struct status_input){
        .kinds = &f->kind,
        .n_kinds = 1,
        .store = store,
        .running = true,
        .ready = true,
        .started_ns = UINT64_C(1749629116) * NS_PER_SEC,
        .version = "0.1.0",
        .symbols = "",
        .user = "huatuo",
        .pid = 4711,
    };
}

static json_t *status(const struct status_input *in)
{
    _free_ char *text = status_json(in);
    json_error_t error;
    json_t *json;

    assert_non_null(text);
    assert_null(strchr(text, '\n'));
    json = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!json)
        fail_msg("%s: %s", error.text, text);
    return json;
}

/** Compares an object's text; times of day depend on the zone and are left out. */
static void assert_json(json_t *object, const char *expected)
{
    _free_ char *text = json_dumps(object, JSON_COMPACT);

    assert_non_null(text);
    assert_string_equal(text, expected);
}

static void test_status(void **state)
{
    struct fixture *f = *state;
    struct store store = {
        .counts = {.recorded = 443, .lost = {[STORE_LOST_WRITE] = 1}},
        .state = {.writing = true,
                  .queued = 1,
                  .records = 2,
                  .size_bytes = 3,
                  .deleted = 4,
                  .next_seq = 5},
    };
    struct status_input in = input_of(f, &store);
    json_t *json;

    fill_counters(f);
    take(f);
    f->kind.missed = 6;
    take_hook(&f->kind, 0, 0, HOOK_REFUSED, "attach: no");
    take_hook(&f->kind, 0, 1, HOOK_ATTACHED, "");
    take_hook(&f->kind, 1, 0, HOOK_ATTACHED, "");
    json = status(&in);
    assert_non_null(strstr(json_string_value(json_object_get(json, "started")), "2025-06-1"));
    json_object_del(json, "started");
    assert_json(
        json,
        "{\"running\":true,\"ready\":true,\"version\":\"0.1.0\",\"pid\":4711,\"user\":\"huatuo\","
        "\"symbols\":\"ok\",\"events\":{\"testing\":{\"hook\":\"way2, "
        "way3\",\"state\":\"watching\","
        "\"seen\":1221,\"recorded\":443,\"suppressed\":222,\"filtered\":333,"
        "\"filtered_by\":{\"own\":111,\"noise\":222},\"lost\":223,"
        "\"lost_by\":{\"ring_full\":111,\"keys_full\":111,\"store\":1},\"unaccounted\":0,"
        "\"missed\":6,\"hooks\":["
        "{\"hook\":\"first\",\"way\":\"way1\",\"state\":\"refused\",\"reason\":\"attach: no\"},"
        "{\"hook\":\"first\",\"way\":\"way2\",\"state\":\"attached\"},"
        "{\"hook\":\"second\",\"way\":\"way3\",\"state\":\"attached\"}]}},"
        "\"targets\":{},\"store\":{\"writing\":true,\"problem\":\"\",\"queued\":1,\"records\":2,"
        "\"size_bytes\":3,\"deleted\":4,\"next_seq\":5}}");
    json_decref(json);
}

static void test_uploads(void **state)
{
    struct store store = {
        .target =
            {.name = "one", .seq = 9, .uploaded = 5, .retried = 6, .rejected = 3, .deleted = 1},
    };
    struct uploader_state uploads[] = {
        {.target = "one", .url = "https://a:9200", .warning = "do it"},
        {.target = "two", .url = "http://b", .problem = "no \xff"},
    };
    struct status_input in = input_of(*state, &store);
    json_t *json, *all;

    take(*state);
    uploads[1].oldest_ns = clock_now_ns(CLOCK_REALTIME) - 90 * NS_PER_SEC;
    in.uploads = uploads;
    in.n_uploads = 2;
    json = status(&in);
    all = json_object_get(json, "targets");
    assert_json(json_object_get(all, "one"),
                "{\"state\":\"ok\",\"problem\":\"\",\"warning\":\"do "
                "it\",\"url\":\"https://a:9200\",\"uploaded\":5,"
                "\"retried\":6,\"rejected\":3,\"deleted\":1,\"oldest_not_uploaded_s\":0}");
    assert_json(
        json_object_get(all, "two"),
        "{\"state\":\"failing\",\"problem\":\"no \\\\xff\",\"warning\":\"\",\"url\":\"http://b\","
        "\"uploaded\":0,\"retried\":0,\"rejected\":0,\"deleted\":0,"
        "\"oldest_not_uploaded_s\":90}");
    json_decref(json);
}

static void test_measures(void **state)
{
    static const char *const names[] = {"ticks", "late", NULL};
    struct fixture *f = *state;
    struct event measuring = test_event;
    struct status_input in = input_of(f, NULL);
    json_t *json, *kind;

    measuring.measures = names;
    f->kind.event = &measuring;
    take(f);
    f->counters[0].measures[0] = 11;
    f->counters[1].measures[0] = 12;
    f->counters[0].measures[1] = 3;
    f->counters[1].measures[2] = 4; /* has no name */
    json = status(&in);
    kind = json_object_get(json_object_get(json, "events"), "testing");
    assert_json(json_object_get(kind, "measures"), "{\"ticks\":[11,12],\"late\":[3]}");
    assert_int_equal(json_integer_value(json_object_get(kind, "seen")), 0);
    json_decref(json);
    f->kind.event = &test_event;
}

static void assert_state(const struct fixture *f, bool running, const char *expected)
{
    struct status_input in = input_of(f, NULL);
    json_t *json, *kind;

    in.running = running;
    json = status(&in);
    kind = json_object_get(json_object_get(json, "events"), "testing");
    assert_string_equal(json_string_value(json_object_get(kind, "state")), expected);
    assert_null(json_object_get(json, "store"));
    json_decref(json);
}

static void test_states(void **state)
{
    struct fixture *f = *state;

    assert_state(f, true, "failed"); /* not loaded */
    take(f);
    assert_state(f, true, "failed");
    take_hook(&f->kind, 0, 1, HOOK_ATTACHED, "");
    assert_state(f, true, "partly");
    take_hook(&f->kind, 1, 0, HOOK_ATTACHED, "");
    assert_state(f, true, "watching");
    assert_state(f, false, "stopped");
}

static void test_switched_off(void **state)
{
    struct fixture *f = *state;
    struct status_input in;
    json_t *json, *kind;

    /* The root part says nothing of a kind that it has not loaded. */
    init(f, &test_event, false);
    in = input_of(f, NULL);
    assert_state(f, true, "off");
    json = status(&in);
    kind = json_object_get(json_object_get(json, "events"), "testing");
    assert_json(kind, "{\"hook\":\"\",\"state\":\"off\",\"seen\":0,\"recorded\":0,"
                      "\"suppressed\":0,\"filtered\":0,\"filtered_by\":{\"own\":0,\"noise\":0},"
                      "\"lost\":0,\"lost_by\":{},\"unaccounted\":0,\"missed\":0,\"hooks\":["
                      "{\"hook\":\"first\",\"way\":\"way1\",\"state\":\"off\"},"
                      "{\"hook\":\"first\",\"way\":\"way2\",\"state\":\"off\"},"
                      "{\"hook\":\"second\",\"way\":\"way3\",\"state\":\"off\"}]}");
    json_decref(json);
    close_fds(f, 0);
}

static int collect(const struct collect *c, const void *raw, struct record *part)
{
    return c && raw && part ? 0 : -EINVAL;
}

/** Records that went without what is collected for their kind are recorded, and counted beside. */
static void test_incomplete(void **state)
{
    struct event collecting = test_event;
    struct fixture *f = *state;
    struct status_input in;
    json_t *json, *kind;

    collecting.collect = collect;
    init(f, &collecting, true);
    f->kind.incomplete[AGENT_INCOMPLETE_LATE] = 2;
    f->kind.incomplete[AGENT_INCOMPLETE_FAILED] = 3;
    in = input_of(f, NULL);
    json = status(&in);
    kind = json_object_get(json_object_get(json, "events"), "testing");
    assert_int_equal(json_integer_value(json_object_get(kind, "incomplete")), 5);
    assert_json(json_object_get(kind, "incomplete_by"), "{\"late\":2,\"failed\":3}");
    assert_int_equal(json_integer_value(json_object_get(kind, "unaccounted")), 0);
    json_decref(json);
    close_fds(f, 0);
}

/** Of all losses there is a name; what is added later must get one too. */
static void test_lost_by(void **state)
{
    struct fixture *f = *state;
    struct store store = {.counts = {.lost = {1000, 2000}}};
    struct status_input in = input_of(f, &store);
    struct kind_account a;
    json_t *json, *kind, *value;
    json_int_t sum = 0;
    const char *name;

    take(f);
    for (unsigned i = 0; i < WIRE_LOST_NR; i++)
        f->counters[0].lost[i] = 1 + i;
    for (unsigned i = 0; i < AGENT_LOST_NR; i++)
        f->kind.lost[i] = 100 + i;
    kind_get_account(&f->kind, &store, &a);
    json = status(&in);
    kind = json_object_get(json_object_get(json, "events"), "testing");
    json_object_foreach(json_object_get(kind, "lost_by"), name, value)
    {
        assert_true(*name);
        sum += json_integer_value(value);
    }
    assert_int_equal(sum, a.lost);
    assert_int_equal(json_integer_value(json_object_get(kind, "lost")), a.lost);
    json_decref(json);
}

/** Texts of others must not cost the document. */
static void test_hostile_texts(void **state)
{
    static const char hostile[] = "\xff\"\n\\\x1b[31m \xe2\x80\xae cut off: \xc3";
    struct fixture *f = *state;
    struct store store = {};
    struct status_input in = input_of(f, &store);
    _free_ char *text = NULL;
    json_t *json, *kind;

    snprintf(store.state.problem, sizeof(store.state.problem), "%s", hostile);
    snprintf(f->message.text, sizeof(f->message.text), "%s", hostile);
    take(f);
    take_hook(&f->kind, 0, 0, HOOK_REFUSED, hostile);
    in.user = hostile;
    in.symbols = "hidden";
    json = status(&in);
    kind = json_object_get(json_object_get(json, "events"), "testing");
    assert_non_null(strstr(json_string_value(json_object_get(kind, "reason")), "cut off"));
    assert_non_null(strstr(
        json_string_value(json_object_get(json_object_get(json, "store"), "problem")), "cut off"));
    assert_non_null(strstr(json_string_value(json_object_get(json, "user")), "cut off"));
    assert_string_equal(json_string_value(json_object_get(json, "symbols")), "hidden");
    json_decref(json);
    text = status_json(&in);
    assert_null(strchr(text, '\x1b'));
}

static void test_table(void **state)
{
    struct fixture *f = *state;
    struct store store = {.counts = {.recorded = 444}};
    struct status_input in = input_of(f, &store);
    struct agent_kind kinds[2];
    _free_ char *text = NULL;

    fill_counters(f);
    take(f);
    kinds[0] = kinds[1] = f->kind;
    kinds[1].enabled = false; /* has no row */
    in.kinds = kinds;
    in.n_kinds = 2;
    text = status_table(&in);
    assert_string_equal(
        text,
        "event                    seen     recorded   suppressed     filtered         lost\n"
        "testing                  1221          444          222          333          222\n");
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_take),
        TEST(test_take_without_settings),
        TEST(test_not_loaded),
        TEST(test_bad_messages),
        TEST(test_cannot_be_mapped),
        TEST(test_hooks),
        TEST(test_account),
        TEST(test_account_all_rules_and_losses),
        TEST(test_status),
        TEST(test_states),
        TEST(test_switched_off),
        TEST(test_measures),
        TEST(test_uploads),
        TEST(test_incomplete),
        TEST(test_lost_by),
        TEST(test_hostile_texts),
        TEST(test_table),
    };

    return cmocka_run_group_tests_name("kinds", tests, NULL, NULL);
}
