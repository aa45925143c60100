// SPDX-License-Identifier: Apache-2.0

#include "root/kind.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/membarrier.h>
#include <linux/perf_event.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "core/clock.h"
#include "core/log.h"
#include "kernel/symbols.h"

#define SWEEP_BATCH    256
#define SYMBOLS_MAX    8
/* A program that has just found its window open may still be adding to it. */
#define SWEEP_GRACE_NS (100 * NS_PER_MS)

/** The last thing libbpf complained of: the best there is to tell why a load failed. */
static char complaint[CHANNEL_TEXT_MAX];

static int on_libbpf_print(enum libbpf_print_level level, const char *format, va_list args)
{
    char line[CHANNEL_TEXT_MAX];
    size_t len;

    if (level == LIBBPF_DEBUG)
        return 0;
    vsnprintf(line, sizeof(line), format, args);
    len = strcspn(line, "\n");
    line[len] = '\0';
    log_debug("%s", line);
    /* The first one is about the cause, what follows about its consequences; the verifier's log is
     * many lines, and not for an operator. */
    if (!*complaint && strncmp(line, "libbpf: ", 8) == 0 && !strstr(line, "BPF program load log") &&
        !strstr(line, "failed to load object") && !strstr(line, "RLIMIT_MEMLOCK"))
        snprintf(complaint, sizeof(complaint), "%s", line + 8);
    return 0;
}

static void describe(const char *what, int r, const char *advice, char ret[CHANNEL_TEXT_MAX])
{
    snprintf(ret, CHANNEL_TEXT_MAX, "%s: %s%s%.250s%s", what, strerror(-r), *complaint ? ": " : "",
             complaint, advice);
}

static const char *advice_on(int r)
{
    return r == -EPERM || r == -EACCES
               ? "; run huatuo as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
               : "";
}

static void refuse(struct kind_hook *hook, int way, const char *what, int r)
{
    hook->ways[way].state = HOOK_REFUSED;
    describe(what, r, advice_on(r), hook->ways[way].reason);
}

/** Why none of the ways could be had: the last one's refusal, as the others were preferred to it.
 */
static void give_up(struct kind *kind, unsigned h)
{
    bool all_off = true;

    for (int way = 0; way < HOOK_WAYS_MAX && kind->event->hooks[h].ways[way].name; way++) {
        if (kind->hooks[h].ways[way].state == HOOK_REFUSED)
            snprintf(kind->reason, sizeof(kind->reason), "%s", kind->hooks[h].ways[way].reason);
        all_off &= kind->hooks[h].ways[way].state == HOOK_OFF;
    }
    if (all_off)
        snprintf(kind->reason, sizeof(kind->reason),
                 "all ways to watch it are switched off in %s.hooks_off", kind->event->name);
}

/** The next way that may be tried, or -1. */
static int next_way(const struct kind *kind, unsigned h, int way)
{
    const struct hook *hook = &kind->event->hooks[h];

    while (++way < HOOK_WAYS_MAX && hook->ways[way].name)
        if (kind->hooks[h].ways[way].state == HOOK_UNUSED)
            return way;
    return -1;
}

static uint32_t ring_bytes(uint64_t wanted)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), bytes = page;

    while (bytes < wanted && bytes < UINT64_C(1) << 30)
        bytes *= 2;
    return (uint32_t)bytes;
}

static int set_common(struct bpf_object *object, const struct event_options *options)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, ".data.common");
    size_t size;
    const void *initial = map ? bpf_map__initial_value(map, &size) : NULL;
    struct wire_common common;

    if (!initial || size != sizeof(common))
        return -EINVAL;
    memcpy(&common, initial, sizeof(common));
    common.window_limit = (uint32_t)options->repeat_limit;
    common.window_ns = options->repeat_window;
    return bpf_map__set_initial_value(map, &common, sizeof(common));
}

/** Reading all symbols takes longer than loading the object, so it is done once for each name. */
static void find_symbol(struct wire_symbol *symbol)
{
    static struct wire_symbol known[SYMBOLS_MAX];
    static size_t n;
    uint64_t address = 0;

    for (size_t i = 0; i < n; i++)
        if (strncmp(known[i].name, symbol->name, sizeof(symbol->name)) == 0) {
            *symbol = known[i];
            return;
        }
    symbols_address("/proc/kallsyms", symbol->name, &address);
    symbol->address = address;
    if (n < SYMBOLS_MAX)
        known[n++] = *symbol;
}

static int set_symbols(struct bpf_object *object)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata.symbols");
    struct wire_symbol symbols[SYMBOLS_MAX];
    size_t size;
    const void *initial = map ? bpf_map__initial_value(map, &size) : NULL;

    if (!initial)
        return 0; /* it needs none */
    if (size > sizeof(symbols) || size % sizeof(*symbols) != 0)
        return -EINVAL;
    memcpy(symbols, initial, size);
    for (size_t i = 0; i < size / sizeof(*symbols); i++)
        find_symbol(&symbols[i]);
    return bpf_map__set_initial_value(map, symbols, size);
}

static int size_map(struct bpf_object *object, const char *name, uint32_t entries)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, name);

    return map ? bpf_map__set_max_entries(map, entries) : -ENOENT;
}

/** What a kind keeps of each CPU. A per-CPU map would not show one CPU what is of another. */
static int size_cpus(struct bpf_object *object, unsigned n_cpus)
{
    int r = size_map(object, "cpus", n_cpus);

    return r == -ENOENT ? 0 : r;
}

/** What an object and the one that takes over from it have in common. */
static int share_map(struct bpf_object *object, const struct kind *before, const char *name)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, name);

    if (!before || !before->object)
        return 0;
    return map ? bpf_map__reuse_fd(map, kind_map_fd(before, name)) : -ENOENT;
}

/** An object with the chosen ways' programs, not loaded yet. */
static int prepare(const struct kind *kind, const struct event_options *options,
                   struct bpf_object **ret)
{
    LIBBPF_OPTS(bpf_object_open_opts, open, .object_name = kind->event->name);
    struct bpf_object *object;
    struct bpf_program *program;
    const void *bytes;
    size_t size;
    int r;

    *complaint = '\0';
    bytes = kind->event->object(&size);
    object = bpf_object__open_mem(bytes, size, &open);
    if (!object)
        return -errno;
    bpf_object__for_each_program(program, object) bpf_program__set_autoload(program, false);
    for (unsigned h = 0; h < kind->n_hooks; h++) {
        int way = kind->hooks[h].chosen;
        const char *const *name = way < 0 ? NULL : kind->event->hooks[h].ways[way].programs;

        for (; name && *name; name++) {
            program = bpf_object__find_program_by_name(object, *name);
            if (program)
                bpf_program__set_autoload(program, true);
        }
    }
    r = set_common(object, options);
    if (r == 0)
        r = set_symbols(object);
    if (r == 0)
        r = size_map(object, "counters", kind->n_cpus);
    if (r == 0)
        r = size_cpus(object, kind->n_cpus);
    if (r == 0)
        r = size_map(object, "windows", (uint32_t)options->repeat_keys);
    if (r == 0)
        r = size_map(object, "ring", ring_bytes(options->ring_size));
    if (r == 0 && kind->event->sample_size)
        r = size_map(object, "samples", kind->n_cpus);
    if (r == 0)
        r = share_map(object, kind->before, "met");
    if (r == 0)
        r = share_map(object, kind->before, "taken_over");
    if (r < 0) {
        bpf_object__close(object);
        return r;
    }
    *ret = object;
    return 0;
}

static void unload(struct kind *kind)
{
    kind_detach(kind);
    if (kind->common)
        munmap(kind->common, sizeof(*kind->common));
    kind->common = NULL;
    kind->tended = NULL;
    kind->tender = NULL;
    memset(kind->sources, 0, sizeof(kind->sources));
    free(kind->found);
    kind->found = NULL;
    bpf_object__close(kind->object);
    kind->object = NULL;
}

static int map_common(struct kind *kind)
{
    void *memory = mmap(NULL, sizeof(*kind->common), PROT_READ | PROT_WRITE, MAP_SHARED,
                        kind_map_fd(kind, ".data.common"), 0);

    if (memory == MAP_FAILED)
        return -errno;
    kind->common = memory;
    return 0;
}

/** In this process's context; the program is attached nowhere. */
static int run_program(const struct bpf_program *program, uint32_t key, bool last)
{
    uint64_t arguments[] = {key, last};
    LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = arguments, .ctx_size_in = sizeof(arguments));

    return bpf_prog_test_run_opts(bpf_program__fd(program), &opts);
}

/** Nothing is attached; it is run once, to see whether it can be. Its map is empty still. */
static int begin_tending(struct kind *kind, unsigned h, const struct bpf_program *program)
{
    int r = kind_map_fd(kind, kind->event->hooks[h].tends);

    if (r >= 0)
        r = run_program(program, 0, false);
    if (r < 0)
        return r;
    kind->tended = kind->event->hooks[h].tends;
    kind->tender = program;
    return 0;
}

static int open_perf(const struct hook_perf *perf, unsigned cpu, int program)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof(attr),
        .config = perf->config,
        .sample_period = perf->period,
        .disabled = 1,
    };
    int fd = (int)syscall(SYS_perf_event_open, &attr, -1, (int)cpu, -1, PERF_FLAG_FD_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (ioctl(fd, PERF_EVENT_IOC_SET_BPF, program) < 0) {
        int r = -errno;

        close(fd);
        return r;
    }
    return fd;
}

/** CPUs that are not there, and those for which there is no descriptor left, go without. */
static int attach_perf(struct kind *kind, unsigned h, int program)
{
    int *fds = malloc(kind->n_cpus * sizeof(*fds));
    int r = -ENODEV;
    bool any = false;

    if (!fds)
        return -ENOMEM;
    kind->perf[h] = fds;
    for (unsigned cpu = 0; cpu < kind->n_cpus; cpu++) {
        fds[cpu] = open_perf(kind->event->hooks[h].perf, cpu, program);
        if (fds[cpu] >= 0)
            any = true;
        else
            r = fds[cpu];
    }
    return any ? 0 : r;
}

static int attach_program(struct kind *kind, unsigned h, struct bpf_program *program)
{
    const struct hook *hook = &kind->event->hooks[h];
    struct bpf_link *link;

    if (hook->tends)
        return begin_tending(kind, h, program);
    if (hook->perf)
        return attach_perf(kind, h, bpf_program__fd(program));
    if (kind->n_links >= KIND_PROGRAMS_MAX)
        return -E2BIG;
    link = bpf_program__attach(program);
    if (!link)
        return -errno;
    kind->links[kind->n_links++] = link;
    if (hook->snapshot)
        kind->iterator = link;
    if (hook->polled)
        kind->polled = link;
    return 0;
}

struct host {
    struct source_host host;
    const struct kind *kind;
    const struct bpf_program *taker;
};

static int host_map(const struct source_host *h, const char *name)
{
    return kind_map_fd(((const struct host *)h)->kind, name);
}

static int host_program(const struct source_host *h, const char *name)
{
    const struct kind *kind = ((const struct host *)h)->kind;
    const struct bpf_program *program = bpf_object__find_program_by_name(kind->object, name);

    return program ? bpf_program__fd(program) : -ENOENT;
}

static void host_emit(const struct source_host *h, const struct wire_key *key, unsigned rule,
                      const void *raw, size_t size)
{
    const struct host *host = (const struct host *)h;
    const struct kind *kind = host->kind;
    struct wire_found *found = kind->found;
    int r;

    if (size > kind->event->wire_size || size < sizeof(struct wire_head))
        return;
    *found = (struct wire_found){.key = *key, .rule = rule};
    found->size = (uint32_t)(kind->event->wire_least ? size : kind->event->wire_size);
    memcpy(found + 1, raw, size);
    memset((char *)(found + 1) + size, 0, kind->event->wire_size - size);
    r = bpf_map_update_elem(kind_map_fd(kind, "found"), &(uint32_t){0}, found, BPF_ANY);
    if (r == 0)
        r = run_program(host->taker, 0, false);
    if (r < 0)
        log_error("an event of %s that was found could not be handed to the kernel's part: %s; it "
                  "is lost, and not counted",
                  kind->event->name, strerror(-r));
}

static struct host host_of(const struct kind *kind, unsigned h, const void *options)
{
    return (struct host){
        .host = {.options = options, .map = host_map, .program = host_program, .emit = host_emit},
        .kind = kind,
        .taker = kind->sources[h].taker,
    };
}

/** Whether the source of the one before can go on for this one. */
static bool same_source(const struct kind *before, const struct kind *now, unsigned h)
{
    return before && before->sources[h].state && now->sources[h].source &&
           before->hooks[h].chosen == now->hooks[h].chosen;
}

/** It is not run yet: nobody watches. */
static int open_source(struct kind *kind, unsigned h, const void *options)
{
    int chosen = kind->hooks[h].chosen;
    const struct hook_way *way = &kind->event->hooks[h].ways[chosen];
    struct kind_source *s = &kind->sources[h];
    struct bpf_map *map = bpf_object__find_map_by_name(kind->object, "found");
    size_t size = sizeof(struct wire_found) + kind->event->wire_size;
    struct host host;

    s->taker = bpf_object__find_program_by_name(kind->object, way->programs[0]);
    if (!map || !s->taker)
        return -ENOENT;
    if (bpf_map__value_size(map) != size)
        return -EINVAL;
    if (!kind->found)
        kind->found = calloc(1, size);
    if (!kind->found)
        return -ENOMEM;
    s->source = way->source;
    if (same_source(kind->before, kind, h))
        return 0;
    host = host_of(kind, h, options);
    return s->source->open(&host.host, way->name, kind->hooks[h].ways[chosen].reason,
                           sizeof(kind->hooks[h].ways[chosen].reason), &s->state);
}

static int attach_way(struct kind *kind, unsigned h, const struct event_options *options)
{
    const struct hook_way *way = &kind->event->hooks[h].ways[kind->hooks[h].chosen];

    if (way->source)
        return open_source(kind, h, options);
    for (const char *const *name = way->programs; *name; name++) {
        struct bpf_program *program = bpf_object__find_program_by_name(kind->object, *name);
        int r = program ? attach_program(kind, h, program) : -ENOENT;

        if (r < 0)
            return r;
    }
    return 0;
}

/**
 * Loads and attaches all chosen ways. On failure nothing is left, and `*ret_failed` is the hook
 * that would not attach, or -1 if the load failed, which does not tell which program was to blame.
 */
static int load_chosen(struct kind *kind, const struct event_options *options, int *ret_failed)
{
    int r = prepare(kind, options, &kind->object);

    *ret_failed = -1;
    if (r < 0)
        return r;
    r = bpf_object__load(kind->object);
    if (r == 0)
        r = map_common(kind);
    for (unsigned h = 0; r == 0 && h < kind->n_hooks; h++) {
        if (kind->hooks[h].chosen < 0)
            continue;
        *complaint = '\0';
        r = attach_way(kind, h, options);
        if (r < 0)
            *ret_failed = (int)h;
    }
    if (r < 0)
        unload(kind);
    return r;
}

/** Loads and attaches one way of one hook without the others, and takes it away again. */
static int try_alone(const struct kind *kind, const struct event_options *options, unsigned h,
                     int way, int *ret_failed, char ret_note[CHANNEL_TEXT_MAX])
{
    struct kind alone = *kind;
    int r;

    for (unsigned other = 0; other < kind->n_hooks; other++)
        alone.hooks[other].chosen = other == h ? way : -1;
    r = load_chosen(&alone, options, ret_failed);
    if (r < 0)
        return r;
    memcpy(ret_note, alone.hooks[h].ways[way].reason, CHANNEL_TEXT_MAX);
    unload(&alone);
    return 0;
}

/** NULL, or why the way is out of the question on this kernel. */
static const char *check_way(const struct event *event, unsigned h, int way)
{
    const struct hook_way *w = &event->hooks[h].ways[way];
    struct wire_symbol symbol = {};
    const char *why = NULL;
    struct btf *btf;

    if (w->symbol) {
        snprintf(symbol.name, sizeof(symbol.name), "%s", w->symbol);
        find_symbol(&symbol);
        if (!symbol.address)
            return "the kernel does not show where its data is (CAP_SYSLOG is missing, "
                   "kernel.kptr_restrict is 2, or CONFIG_KALLSYMS_ALL is not set)";
    }
    if (!w->check)
        return NULL;
    btf = btf__load_vmlinux_btf();
    why = btf ? w->check(btf) : "the kernel's BTF cannot be read";
    btf__free(btf);
    return why;
}

/** The first way from `way` on that is not out of the question, or -1. */
static int check_ways(struct kind *kind, unsigned h, int way)
{
    const char *why;

    while (way >= 0 && (why = check_way(kind->event, h, way))) {
        kind->hooks[h].ways[way].state = HOOK_REFUSED;
        snprintf(kind->hooks[h].ways[way].reason, CHANNEL_TEXT_MAX, "%s", why);
        way = next_way(kind, h, way);
    }
    return way;
}

/** Which of the hooks' chosen ways do not load when they are alone; each moves on to its next. */
static bool blame(struct kind *kind, const struct event_options *options)
{
    char note[CHANNEL_TEXT_MAX]; /* it is said when it is attached to stay */
    bool moved = false;

    for (unsigned h = 0; h < kind->n_hooks; h++) {
        int failed, r;

        if (kind->hooks[h].chosen < 0)
            continue;
        r = try_alone(kind, options, h, kind->hooks[h].chosen, &failed, note);
        if (r == 0)
            continue;
        refuse(&kind->hooks[h], kind->hooks[h].chosen, failed < 0 ? "load" : "attach", r);
        kind->hooks[h].chosen = check_ways(kind, h, next_way(kind, h, kind->hooks[h].chosen));
        moved = true;
    }
    return moved;
}

static bool any_chosen(const struct kind *kind)
{
    for (unsigned h = 0; h < kind->n_hooks; h++)
        if (kind->hooks[h].chosen >= 0)
            return true;
    return false;
}

/** Nothing is chosen yet. */
static void begin(struct kind *kind, const struct event *event)
{
    int n_cpus = libbpf_num_possible_cpus();

    *kind = (struct kind){.event = event, .n_cpus = n_cpus > 0 ? (unsigned)n_cpus : 1};
    libbpf_set_print(on_libbpf_print);
    while (event->hooks[kind->n_hooks].name)
        kind->hooks[kind->n_hooks++].chosen = -1;
}

int kind_try(const struct event *event, const struct event_options *options, unsigned hook,
             unsigned way, char ret_reason[CHANNEL_TEXT_MAX])
{
    struct kind kind;
    int failed, r;

    const char *why = check_way(event, hook, (int)way);

    if (why) {
        snprintf(ret_reason, CHANNEL_TEXT_MAX, "%s", why);
        return -EOPNOTSUPP;
    }
    begin(&kind, event);
    r = try_alone(&kind, options, hook, (int)way, &failed, ret_reason);
    if (r < 0)
        describe(failed < 0 ? "load" : "attach", r, "", ret_reason);
    return r;
}

/** Not while a way is only tried: it is for those who watch. */
static void hold(struct kind *kind)
{
    int fd = kind->event->hold ? kind->event->hold() : -ENODATA;

    if (fd == -ENODATA)
        return;
    if (fd < 0) {
        log_warning("%s: opening what it needs beside its hooks failed: %s; it sees less without",
                    kind->event->name, strerror(-fd));
        return;
    }
    kind->held = fd;
    kind->holds = true;
}

int kind_open(struct kind *kind, const struct event *event, const struct event_options *options,
              const struct kind *before)
{
    int failed, r;

    begin(kind, event);
    kind->before = before;
    for (unsigned h = 0; h < kind->n_hooks; h++) {
        const struct hook *hook = &event->hooks[h];

        for (int way = 0; way < HOOK_WAYS_MAX && hook->ways[way].name; way++)
            kind->hooks[h].ways[way].state =
                string_list_has(&options->hooks_off, hook->ways[way].name) ? HOOK_OFF : HOOK_UNUSED;
        kind->hooks[h].chosen = check_ways(kind, h, next_way(kind, h, -1));
    }

    while (any_chosen(kind)) {
        r = load_chosen(kind, options, &failed);
        if (r == 0) {
            for (unsigned h = 0; h < kind->n_hooks; h++)
                if (kind->hooks[h].chosen >= 0)
                    kind->hooks[h].ways[kind->hooks[h].chosen].state = HOOK_ATTACHED;
            break;
        }
        if (failed >= 0) {
            refuse(&kind->hooks[failed], kind->hooks[failed].chosen, "attach", r);
            kind->hooks[failed].chosen =
                check_ways(kind, (unsigned)failed,
                           next_way(kind, (unsigned)failed, kind->hooks[failed].chosen));
        } else if (!blame(kind, options)) {
            describe("load", r, advice_on(r), kind->reason);
            return -EOPNOTSUPP;
        }
    }
    for (unsigned h = kind->n_hooks; h-- > 0;)
        if (kind->hooks[h].chosen < 0 && !event->hooks[h].optional)
            give_up(kind, h);
    kind->before = NULL;
    if (!kind->object)
        return -EOPNOTSUPP;
    hold(kind);
    return 0;
}

bool kind_needs_reopening(const struct event_options *before, const struct event_options *now)
{
    if (before->enabled != now->enabled)
        return true;
    if (!now->enabled)
        return false;
    if (before->ring_size != now->ring_size || before->repeat_keys != now->repeat_keys ||
        before->hooks_off.n != now->hooks_off.n)
        return true;
    for (size_t i = 0; i < now->hooks_off.n; i++)
        if (!string_list_has(&before->hooks_off, now->hooks_off.items[i]))
            return true;
    return false;
}

void kind_let_pass(void)
{
    const struct timespec nap = {.tv_nsec = WIRE_SAME_EVENT_NS};

    (void)syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
    nanosleep(&nap, NULL);
}

static void set_taken_over(const struct kind *kind, uint64_t value)
{
    const uint32_t zero = 0;

    /* An array's element can always be set. */
    (void)bpf_map_update_elem(kind_map_fd(kind, "taken_over"), &zero, &value, BPF_ANY);
}

static void set(__u32 *where, __u32 value)
{
    __atomic_store_n(where, value, __ATOMIC_SEQ_CST);
}

/** From now on a source, with all that it knows and has not read yet, works for `now`, if that
 * finds its events the same way. */
static void hand_over_sources(struct kind *before, struct kind *now)
{
    for (unsigned h = 0; h < now->n_hooks; h++) {
        struct kind_source *from = &before->sources[h], *to = &now->sources[h];

        if (to->state || !same_source(before, now, h))
            continue;
        to->state = TAKE_PTR(from->state);
        to->next_ns = from->next_ns;
    }
}

void kind_exchange(struct kind *before, struct kind *now)
{
    const bool both = before->common && now->common;

    if (both) {
        now->common->clock = before->common->clock;
        set_taken_over(now, 0);
        set(&before->common->retires, 1);
        set(&before->common->exchanging, 1);
        kind_let_pass();
        set(&now->common->exchanging, 1);
    }
    if (now->common)
        set(&now->common->watching, 1);
    if (both) {
        kind_let_pass(); /* from here on both meet every event */
        set_taken_over(now, 1);
        kind_let_pass(); /* from here on all are the new one's */
        set(&now->common->exchanging, 0);
    }
    hand_over_sources(before, now); /* nobody has run them meanwhile */
    kind_detach(before);
    kind_let_pass();
    kind_tend(before, true);
}

void kind_detach(struct kind *kind)
{
    for (unsigned h = 0; h < KIND_HOOKS_MAX; h++) {
        struct kind_source *s = &kind->sources[h];

        if (s->state)
            s->source->close(s->state);
        s->state = NULL;
    }
    kind->iterator = kind->polled = NULL;
    if (kind->holds)
        close(kind->held);
    kind->holds = false;
    while (kind->n_links)
        bpf_link__destroy(kind->links[--kind->n_links]);
    for (unsigned h = 0; h < KIND_HOOKS_MAX; h++) {
        for (unsigned cpu = 0; kind->perf[h] && cpu < kind->n_cpus; cpu++)
            fd_close(kind->perf[h][cpu]);
        free(kind->perf[h]);
        kind->perf[h] = NULL;
    }
}

void kind_close(struct kind *kind)
{
    unload(kind);
}

void kind_tend(struct kind *kind, bool last)
{
    const struct bpf_program *tender = kind->tender;
    int fd = tender ? kind_map_fd(kind, kind->tended) : -1;
    _free_ uint32_t *keys = NULL;
    uint32_t max, n = 0;

    if (last)
        kind->tender = NULL;
    /* The usual case: nothing is there, and this is all that it costs. */
    if (fd < 0 || bpf_map_get_next_key(fd, NULL, &(uint32_t){0}) < 0)
        return;
    max = bpf_map__max_entries(bpf_object__find_map_by_name(kind->object, kind->tended));
    keys = calloc(max, sizeof(*keys));
    /* All of them first: from a key that has been deleted it would begin at the beginning again. */
    while (keys && n < max && bpf_map_get_next_key(fd, n ? &keys[n - 1] : NULL, &keys[n]) == 0)
        n++;
    for (uint32_t i = 0; i < n; i++)
        run_program(tender, keys[i], last);
}

static bool source_runs(const struct kind *kind, unsigned h)
{
    return kind->sources[h].state && __atomic_load_n(&kind->common->watching, __ATOMIC_SEQ_CST);
}

static int source_fd(const struct kind *kind, unsigned h)
{
    const struct kind_source *s = &kind->sources[h];

    return source_runs(kind, h) && s->source->fd ? s->source->fd(s->state) : -1;
}

int kind_source_fd(const struct kind *kind)
{
    int fd = -1;

    for (unsigned h = 0; fd < 0 && h < kind->n_hooks; h++)
        fd = source_fd(kind, h);
    return fd;
}

uint64_t kind_source_due(const struct kind *kind)
{
    uint64_t due_ns = UINT64_MAX;

    for (unsigned h = 0; h < kind->n_hooks; h++)
        if (source_runs(kind, h))
            due_ns = MIN(due_ns, kind->sources[h].next_ns);
    return due_ns;
}

static void run_source(struct kind *kind, unsigned h, const struct event_options *options,
                       bool readable)
{
    struct kind_source *s = &kind->sources[h];
    uint64_t now_ns = clock_now_ns(CLOCK_MONOTONIC);
    struct host host = host_of(kind, h, options);

    if (now_ns >= s->next_ns)
        s->next_ns = s->source->period_ns ? now_ns + s->source->period_ns : UINT64_MAX;
    else if (!readable || source_fd(kind, h) < 0)
        return;
    s->source->run(s->state, &host.host);
}

void kind_source_run(struct kind *kind, const struct event_options *options, bool readable)
{
    for (unsigned h = 0; h < kind->n_hooks; h++)
        if (source_runs(kind, h))
            run_source(kind, h, options, readable);
}

int kind_map_fd(const struct kind *kind, const char *name)
{
    struct bpf_map *map = bpf_object__find_map_by_name(kind->object, name);

    return map ? bpf_map__fd(map) : -ENOENT;
}

static int open_iterator(const struct bpf_link *link)
{
    int fd = link ? bpf_iter_create(bpf_link__fd(link)) : -ENOENT;

    return fd < 0 && link ? -errno : fd;
}

int kind_open_iterator(const struct kind *kind)
{
    return open_iterator(kind->iterator);
}

int kind_poll(const struct kind *kind)
{
    _close_fd_ int fd = open_iterator(kind->polled);
    char thrown_away[256];
    ssize_t n;

    if (fd < 0)
        return kind->polled ? fd : 0;
    do {
        n = read(fd, thrown_away, sizeof(thrown_away));
        /* EAGAIN: it has met a million and written nothing (MAX_ITER_OBJECTS in
         * kernel/bpf/bpf_iter.c), and goes on where it was. */
    } while (n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN)));
    return n < 0 ? -errno : 0;
}

uint64_t kind_missed(const struct kind *kind)
{
    struct bpf_program *program;
    uint64_t missed = 0;

    bpf_object__for_each_program(program, kind->object)
    {
        struct bpf_prog_info info = {};
        uint32_t size = sizeof(info);

        /* recursion_misses: 9ed9e9ba2337, 5.12 */
        if (bpf_program__fd(program) >= 0 &&
            bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) == 0)
            missed += info.recursion_misses;
    }
    return missed;
}

int kind_sweep(const struct kind *kind, const struct event_options *options, uint64_t now_boot_ns,
               bool all,
               int (*fn)(void *arg, const struct wire_key *key, const struct wire_window *window),
               void *arg)
{
    static struct wire_key keys[SWEEP_BATCH];
    static struct wire_window found[SWEEP_BATCH];
    int fd = kind_map_fd(kind, "windows");
    uint32_t position = 0;
    bool first = true;
    int r;

    do {
        uint32_t n = SWEEP_BATCH;

        r = bpf_map_lookup_batch(fd, first ? NULL : &position, &position, keys, found, &n, NULL);
        if (r < 0 && r != -ENOENT)
            break;
        first = false;
        for (uint32_t i = 0; i < n; i++) {
            int told = 0;

            if (!all &&
                WIRE_WINDOW_OPEN(&found[i], now_boot_ns, options->repeat_window + SWEEP_GRACE_NS))
                continue;
            if (!all && found[i].ended_ns && now_boot_ns - found[i].ended_ns < SWEEP_GRACE_NS)
                continue;
            /* Nobody writes into a closed window: its key's next event opened another generation.
             */
            if (found[i].suppressed || found[i].ended_ns)
                told = fn(arg, &keys[i], &found[i]);
            if (told < 0)
                return told;
            bpf_map_delete_elem(fd, &keys[i]);
        }
    } while (r == 0);
    return 0;
}
