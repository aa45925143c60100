// SPDX-License-Identifier: Apache-2.0

/**
 * What measures, and prints one JSON object a line; tests/bench/run.py asks for it:
 *
 *     bench list                       the cases, and what is not measured
 *     bench hook KIND CASE WAY SECONDS one of them; 0 seconds: only whether it counts right
 *     bench records KIND CASE FOLDER N its records made, and put into a new store in FOLDER
 */

#include "bench.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>

#include "agent/settings.h"
#include "core/log.h"

#define RAW_EVENTS 200

static void print(json_t *object)
{
    json_dumpf(object, stdout, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    puts("");
    fflush(stdout);
    json_decref(object);
}

static const char *const outcome_names[] = {
    [BENCH_IGNORED] = "ignored",
    [BENCH_FILTERED] = "filtered",
    [BENCH_SUPPRESSED] = "suppressed",
    [BENCH_RECORDED] = "recorded",
};

/** "skb/kfree_skb" -> "kfree_skb" */
static const char *last_part(const char *section)
{
    const char *slash = strrchr(section, '/');

    return slash ? slash + 1 : section;
}

/** The way's program that fires there, or NULL. */
static const struct bpf_program *program_at(struct bpf_object *object, const struct hook_way *way,
                                            const char *target)
{
    for (const char *const *name = way->programs; *name; name++) {
        const struct bpf_program *program = bpf_object__find_program_by_name(object, *name);

        if (program && strcmp(last_part(bpf_program__section_name(program)), target) == 0)
            return program;
    }
    return NULL;
}

static const struct hook *hook_of(const struct event *event, const char *name)
{
    for (const struct hook *hook = event->hooks; hook->name; hook++)
        if (strcmp(hook->name, name) == 0)
            return hook;
    return NULL;
}

static struct bpf_object *open_object(const struct event *event)
{
    LIBBPF_OPTS(bpf_object_open_opts, open, .object_name = event->name);
    size_t size;
    const void *bytes = event->object(&size);

    return bpf_object__open_mem(bytes, size, &open);
}

/* --- list */

/** For each hook, which of its ways this kernel takes; the first is the agent's. */
static void try_ways(const struct event *event, const struct event_options *options, unsigned h,
                     bool ret[HOOK_WAYS_MAX])
{
    char reason[CHANNEL_TEXT_MAX];

    for (unsigned way = 0; way < HOOK_WAYS_MAX; way++)
        ret[way] = event->hooks[h].ways[way].name && kind_try(event, options, h, way, reason) == 0;
}

static void list_cases(const struct event *event, const struct bench *bench,
                       struct bpf_object *object, unsigned h, const bool works[HOOK_WAYS_MAX])
{
    const struct hook *hook = &event->hooks[h];

    for (const struct bench_case *what = bench->cases; what->name; what++) {
        bool used = true, first = true;

        if (strcmp(what->hook, hook->name) != 0)
            continue;
        for (unsigned way = 0; way < HOOK_WAYS_MAX; way++) {
            const struct bpf_program *program;

            if (!works[way])
                continue;
            program = program_at(object, &hook->ways[way], what->target);
            if (program)
                print(json_pack("{ss ss ss ss ss ss sb sb}", "kind", event->name, "case",
                                what->name, "hook", hook->name, "way", hook->ways[way].name,
                                "section", bpf_program__section_name(program), "provoked",
                                what->provoked, "used", used, "first", first));
            first = first && !program;
            used = false;
        }
    }
}

static const char *why_not(const struct bench *bench, const char *target)
{
    if (!bench)
        return "it has no bench_KIND.c";
    for (const struct bench_case *what = bench->cases; what->name; what++)
        if (strcmp(what->target, target) == 0)
            return NULL;
    for (const struct bench_omission *o = bench->omissions; o && o->target; o++)
        if (strcmp(o->target, target) == 0)
            return o->why;
    return "no case provokes it";
}

/** The programs that an agent runs here and that nobody provokes. */
static void list_omissions(const struct event *event, const struct bench *bench,
                           struct bpf_object *object, unsigned h, const bool works[HOOK_WAYS_MAX])
{
    unsigned way = 0;

    while (way < HOOK_WAYS_MAX && !works[way])
        way++;
    if (way == HOOK_WAYS_MAX)
        return;
    for (const char *const *name = event->hooks[h].ways[way].programs; *name; name++) {
        const struct bpf_program *program = bpf_object__find_program_by_name(object, *name);
        const char *section = program ? bpf_program__section_name(program) : *name;
        const char *why = why_not(bench, last_part(section));

        if (why)
            print(json_pack("{ss ss ss ss}", "kind", event->name, "hook", event->hooks[h].name,
                            "section", section, "not_measured", why));
    }
}

static int list(const struct config *config)
{
    for (size_t i = 0; i < n_events; i++) {
        const struct bench *bench = bench_of(events[i]->name);
        struct bpf_object *object = open_object(events[i]);

        if (!object) {
            fprintf(stderr, "bench: %s: opening its BPF object: %s\n", events[i]->name,
                    strerror(errno));
            return EXIT_FAILURE;
        }
        for (unsigned h = 0; events[i]->hooks[h].name; h++) {
            bool works[HOOK_WAYS_MAX];

            try_ways(events[i], config_section(config, events[i]->name), h, works);
            if (bench)
                list_cases(events[i], bench, object, h, works);
            list_omissions(events[i], bench, object, h, works);
        }
        bpf_object__close(object);
    }
    return EXIT_SUCCESS;
}

/* --- hook, records */

static int read_kernel(struct kernel *ret)
{
    int r = symbols_new(open("/proc/kallsyms", O_RDONLY | O_CLOEXEC), &ret->symbols);

    return r < 0 ? r : enums_new("", &ret->enums);
}

static const struct bench_case *case_of(const struct event *event, const char *name)
{
    const struct bench *bench = event ? bench_of(event->name) : NULL;

    for (const struct bench_case *what = bench ? bench->cases : NULL; what && what->name; what++)
        if (strcmp(what->name, name) == 0)
            return what;
    return NULL;
}

/** NULL as the way: the first that has a program there. */
static int choose(struct trial *t, struct bpf_object *object, const char *way)
{
    const struct hook *hook = hook_of(t->event, t->what->hook);

    for (unsigned i = 0; hook && i < HOOK_WAYS_MAX && hook->ways[i].name; i++) {
        const struct bpf_program *program = program_at(object, &hook->ways[i], t->what->target);

        if (!program || (way && strcmp(hook->ways[i].name, way) != 0))
            continue;
        t->way = hook->ways[i].name;
        t->section = bpf_program__section_name(program);
        return 0;
    }
    return -ENOENT;
}

static json_t *samples_json(const struct trial *t, enum variant variant)
{
    json_t *min = json_array(), *medians = json_array();

    for (unsigned i = 0; i < t->n_rounds; i++) {
        json_array_append_new(min, json_real(t->samples[variant][i].min));
        json_array_append_new(medians, json_real(t->samples[variant][i].median));
    }
    return json_pack("{so so}", "min_ns", min, "median_ns", medians);
}

static int hook(struct trial *t, double seconds, char *error, size_t error_size)
{
    json_t *samples;
    int r = trial_count(t, error, error_size);

    if (r == 0 && seconds > 0)
        r = trial_measure(t, seconds, error, error_size);
    if (r < 0)
        return r;
    samples = json_object();
    for (unsigned v = 0; seconds > 0 && v < VARIANT_NR; v++)
        if (v != OURS_READ || t->what->outcome == BENCH_RECORDED)
            json_object_set_new(samples, variant_names[v], samples_json(t, v));
    print(json_pack("{ss si sI sI si si si so}", "outcome", outcome_names[t->what->outcome], "hits",
                    (int)t->what->hits, "claimed", (json_int_t)t->claimed, "counted",
                    (json_int_t)t->counted, "turns", (int)t->turns, "rounds", (int)t->n_rounds,
                    "batches", TRIAL_BATCHES, "samples", samples));
    return 0;
}

static int records(struct trial *t, const char *folder, unsigned n, char *error, size_t error_size)
{
    double ns = 0, bytes = 0;
    struct stored stored = {};
    int r = trial_capture(t, RAW_EVENTS, error, error_size);

    if (r < 0)
        return r;
    r = records_decode_ns(t, &ns, &bytes);
    if (r == 0)
        r = records_store(t, folder, n, &stored);
    if (r < 0) {
        snprintf(error, error_size, "making and storing records in %s: %s", folder, strerror(-r));
        return r;
    }
    print(json_pack("{sf sf sf sf sI sI}", "decode_ns", ns, "record_bytes", bytes, "per_second",
                    stored.per_second, "cpu_ns", stored.cpu_ns, "records", (json_int_t)n,
                    "database_bytes", (json_int_t)stored.database_bytes));
    return 0;
}

static int usage(void)
{
    fprintf(stderr,
            "usage: bench list | hook KIND CASE WAY SECONDS | records KIND CASE FOLDER N\n");
    return 2;
}

static int run_trial(char **argv)
{
    bool is_hook = strcmp(argv[1], "hook") == 0;
    _free_ struct trial *t = calloc(1, sizeof(*t));
    struct bpf_object *object;
    struct kernel kernel = {};
    char error[1024] = "";
    int r;

    if (!t)
        return EXIT_FAILURE;
    t->event = event_find(argv[2]);
    t->what = case_of(t->event, argv[3]);
    if (!t->what) {
        fprintf(stderr, "bench: %s has no case %s; `bench list` tells them\n", argv[2], argv[3]);
        return 2;
    }
    object = open_object(t->event);
    if (!object || choose(t, object, is_hook ? argv[4] : NULL) < 0) {
        fprintf(stderr, "bench: %s: %s is no way to %s\n", argv[2], argv[4], t->what->target);
        return 2;
    }
    r = read_kernel(&kernel);
    t->kernel = &kernel;
    if (r == 0)
        r = trial_begin(t, error, sizeof(error));
    if (r == 0 && is_hook)
        r = hook(t, strtod(argv[5], NULL), error, sizeof(error));
    else if (r == 0)
        r = records(t, argv[4], (unsigned)strtoul(argv[5], NULL, 10), error, sizeof(error));
    if (r < 0)
        fprintf(stderr, "bench: %s %s: %s\n", argv[2], argv[3], *error ? error : strerror(-r));
    trial_end(t);
    bpf_object__close(object);
    symbols_free(kernel.symbols);
    enums_free(kernel.enums);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    _cleanup_(config_freep) struct config *config = NULL;

    log_set_level(LOG_LEVEL_WARNING);
    if (argc == 6 && (strcmp(argv[1], "hook") == 0 || strcmp(argv[1], "records") == 0))
        return run_trial(argv);
    if (argc != 2 || strcmp(argv[1], "list") != 0)
        return usage();
    return settings_new(&config) < 0 ? EXIT_FAILURE : list(config);
}
