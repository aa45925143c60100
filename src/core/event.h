// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * One kind of anomaly. A folder under src/events/ defines exactly one `const struct event`, and
 * src/events/meson.build names it in one line; everything else comes from here.
 */

#include "core/option.h"
#include "core/record.h"
#include "core/wire.h"

struct kernel;
struct symbols;
struct btf; /* of libbpf */
struct hook_source;

/** One way to get at the same fact; the first that loads and attaches is used. */
struct hook_way {
    const char *name;            /* as shown: "tp_btf/kfree_skb" */
    const char *const *programs; /* names of its BPF programs, ends with NULL; may be none */
    /** NULL, or why a kernel of this BTF cannot have it: what loading would not show. Optional. */
    const char *(*check)(const struct btf *kernel);
    /** NULL, or a symbol of data without whose address (struct wire_symbol) it is of no use. */
    const char *symbol;
    /** NULL: an ordinary way. Its first program is attached nowhere: it takes what the source has
     * found (SEC("?raw_tp"), event_found() in bpf/event.bpf.h); its others are the source's to
     * attach. Linux 5.10, as for struct hook.tends. */
    const struct hook_source *source;
};

#define HOOK_WAYS_MAX 6

/** What a source may use of the root part, which runs it. */
struct source_host {
    const void *options; /* the kind's option struct, as it is in effect */
    /** Descriptors out of the kind's BPF object, which own nothing: of a map, of one of the way's
     * programs. -ENOENT: there is none. For open(). */
    int (*map)(const struct source_host *h, const char *name);
    int (*program)(const struct source_host *h, const char *name);
    /**
     * An event was found. `raw` begins with a struct wire_head, in which the source says who did it
     * and when (0: nobody that is known; now); what of the kind's wire_size is not given is zeros.
     * `rule`: the filter rule that takes it out, 0: none does. It is counted, and recorded unless
     * it is a repeat: all of that is the kernel's part, as for every event.
     */
    void (*emit)(const struct source_host *h, const struct wire_key *key, unsigned rule,
                 const void *raw, size_t size);
};

/**
 * What finds events that no program in the kernel can notice: in netlink messages, in files of
 * /proc. It runs in the root part, on its only thread: it must not wait, it takes nobody's word for
 * the length of anything, and is to do little. What it finds it hands to emit(); its state is its
 * own, and outlives the BPF object if another takes over on a reload.
 */
struct hook_source {
    uint64_t
        period_ns; /* run() is called that often, too; 0: only when there is something to read */
    /** `way` is the name of the hook's way. -errno: it cannot be had, and the next way is tried.
     * `note` may be given a sentence about what is attached, for `huatuo status`. */
    int (*open)(const struct source_host *h, const char *way, char *note, size_t note_size,
                void **ret);
    /** To wait for; -1: none. NULL: there never is one. At most one of a kind's sources has one. */
    int (*fd)(const void *state);
    /** The first time: from now on its events are recorded. */
    void (*run)(void *state, const struct source_host *h);
    void (*close)(void *state); /* NULL is fine */
};

/** A software event of perf_event_open(2), PERF_TYPE_SOFTWARE. */
struct hook_perf {
    uint64_t config; /* PERF_COUNT_SW_... */
    uint64_t period; /* sample_period: ns of PERF_COUNT_SW_CPU_CLOCK */
};

/** A fact that the kind watches, and its ways in order of preference. Its own failure domain. */
struct hook {
    const char *name;    /* "kfree_skb" */
    const char *watches; /* for `doctor` and the start-up lines: "packets the stack drops" */
    bool optional;       /* without it the kind is watched all the same, if less well */
    /** Its programs are one iterator (SEC("iter/...")): it makes no events, but is read by
     * collect() through struct collect.snapshot. At most one of a kind's hooks, and optional. */
    bool snapshot;
    /** Its program is one iterator, too, which the root part reads to its end every poll_ns(): it
     * looks at all there is, and makes events of what it finds; what it writes is thrown away. At
     * most one of a kind's hooks. */
    bool polled;
    /** NULL, or the name of a map whose keys are __u32: the hook's program (SEC("?raw_tp"), one a
     * way) is attached nowhere, but run by the root part, in process context, with { key, last } as
     * its arguments: for each key in the map once a second, and with `last` set once more when the
     * other hooks have been taken away. For what is to be noticed although nothing happens. It may
     * delete the key that it is run for. At most one of a kind's hooks. Linux 5.10, 1b4d60ec162f.
     */
    const char *tends;
    /** Its program (SEC("perf_event")) runs on a CPU when collect() asks for it (struct
     * collect.run), and makes no events either: it is on such an event of every CPU, which is off
     * until then and costs nothing. NULL: an ordinary hook. Optional. */
    const struct hook_perf *perf;
    struct hook_way ways[HOOK_WAYS_MAX]; /* ends with a row whose name is NULL, if shorter */
};

/** NULL, or what is wrong: no kind has a hook's way of that name. Fits option.check. */
const char *event_check_way(const char *name);

/** First member of every kind's option struct; its rows are EVENT_OPTIONS(). */
struct event_options {
    bool enabled;
    uint64_t ring_size;     /* bytes */
    uint64_t repeat_limit;  /* full records per key and window */
    uint64_t repeat_window; /* ns */
    uint64_t repeat_keys;   /* keys that can be told apart at the same time */
    struct string_list hooks_off;
};

#define EVENT_OPTIONS_REPEAT(strukt, ring, keys, limit, window)                                    \
    {                                                                                              \
        .key = "enabled",                                                                          \
        .type = OPTION_BOOL,                                                                       \
        .offset = offsetof(strukt, common.enabled),                                                \
        .fallback = "true",                                                                        \
        .help = "Watch this kind of event.",                                                       \
    },                                                                                             \
        {                                                                                          \
            .key = "ring_size",                                                                    \
            .type = OPTION_SIZE,                                                                   \
            .offset = offsetof(strukt, common.ring_size),                                          \
            .fallback = ring,                                                                      \
            .min = 4096,                                                                           \
            .max = 1024 * 1024 * 1024,                                                             \
            .help =                                                                                \
                "Memory between kernel and agent; rounded up to a power of two. What does not "    \
                "fit is counted as lost (ring_full).",                                             \
        },                                                                                         \
        {                                                                                          \
            .key = "repeat_limit",                                                                 \
            .type = OPTION_U64,                                                                    \
            .offset = offsetof(strukt, common.repeat_limit),                                       \
            .fallback = limit,                                                                     \
            .min = 1,                                                                              \
            .max = UINT32_MAX,                                                                     \
            .help = "How many events with the same key are recorded in full in one window; the "   \
                    "others are counted.",                                                         \
        },                                                                                         \
        {                                                                                          \
            .key = "repeat_window",                                                                \
            .type = OPTION_DURATION,                                                               \
            .offset = offsetof(strukt, common.repeat_window),                                      \
            .fallback = window,                                                                    \
            .min = 100 * NS_PER_MS,                                                                \
            .max = 24 * 3600 * NS_PER_SEC,                                                         \
            .help = "Length of a key's window, from its first event; of what goes on for long, "   \
                    "from the last report of it.",                                                 \
        },                                                                                         \
        {                                                                                          \
            .key = "repeat_keys",                                                                  \
            .type = OPTION_U64,                                                                    \
            .offset = offsetof(strukt, common.repeat_keys),                                        \
            .fallback = keys,                                                                      \
            .min = 16,                                                                             \
            .max = 1024 * 1024,                                                                    \
            .help =                                                                                \
                "How many different keys are told apart at a time; events beyond are counted as "  \
                "lost (keys_full).",                                                               \
        },                                                                                         \
    {                                                                                              \
        .key = "hooks_off", .type = OPTION_LIST, .offset = offsetof(strukt, common.hooks_off),     \
        .fallback = "", .check = event_check_way,                                                  \
        .help = "Hooks not to use, by the names that `huatuo status` shows; the next alternative " \
                "is taken.",                                                                       \
    }

/** A kind that does not say otherwise. */
#define EVENT_OPTIONS(strukt, ring, keys) EVENT_OPTIONS_REPEAT(strukt, ring, keys, "10", "1m")

/** What decode() may use besides the bytes. */
struct decode {
    const struct kernel *kernel;
    const void *options; /* the kind's option struct */
    /** The name of a device where it can be known (the agent's own network namespace), else "". */
    void (*device_name)(uint32_t netns, int ifindex, char ret[16]);
    /** The container in a cgroup's path; "" if there is none. */
    void (*container_id)(const char *cgroup_path, char ret[DOC_CONTAINER_LEN + 1]);
    /** EVENT_NOTE_BYTES, zeroed, that collect() of the same event gets; NULL: nobody collects. */
    void *note;
};

/** tracer_name of the records about the watching itself, of whatever kind. */
#define COVERAGE_NAME    "coverage"

#define EVENT_NOTE_BYTES 64

/** What collect() may use besides the bytes. */
struct collect {
    const char *root_prefix; /* stands before /proc and /sys */
    struct symbols *symbols; /* kernel/symbols.h; only what may be called from any thread */
    const void *note;        /* EVENT_NOTE_BYTES, as decode() has left them */
    /**
     * What the kind's iterator says now, whole, but not more than COLLECT_SNAPSHOT_MAX; heap, to be
     * freed by the caller. -ENODATA: there is none; -ETIME: it did not come in time. Once an event.
     */
    int (*snapshot)(const struct collect *c, void **ret, size_t *ret_size);
    /**
     * Lets the program of a hook with `perf`, by its index in the kind's hooks, run the next
     * `times` times that its event happens on a CPU. Waits until that CPU has taken an interrupt,
     * and keeps the CPU on which it waits from all others: not to be called for one that takes
     * none (kernel/cpus.h). -ENOENT: there is no such program on that CPU.
     */
    int (*run)(const struct collect *c, unsigned hook, unsigned cpu, unsigned times);
    /** Has the stacks of all CPUs written into the kernel's log (sysrq l), soon and not more than
     * once a minute. -EPERM: the operator has not allowed it (agent.sysrq). */
    int (*sysrq)(const struct collect *c);
    unsigned n_cpus;              /* possible ones */
    const volatile void *samples; /* event.sample_size bytes a CPU; live. NULL: there are none */
};

#define COLLECT_SNAPSHOT_MAX (32 * 1024 * 1024)

/** By what a provoked event's record is known: this field of tracer_data has this value. */
struct provoked {
    char field[32];
    uint64_t value;
    uint64_t within_ns; /* when it is recorded at the latest, if it takes longer than 10 s */
};

struct event {
    const char *name;             /* config section, --event, metric label: "dropwatch" */
    const char *tracer_name;      /* in the record: "netdev_event" */
    const char *summary;          /* one line: what it notices */
    const struct option *options; /* begins with EVENT_OPTIONS(); ends with {} */
    size_t options_size;

    /** The BPF object, compiled in. */
    const void *(*object)(size_t *ret_size);
    const struct hook *hooks; /* ends with a row whose name is NULL */
    /** Bytes of one raw event; begins with struct wire_head. Others are counted as lost (decode).
     */
    size_t wire_size;
    /** Not 0: an event may be shorter, down to this; decode() and collect() see zeros instead. */
    size_t wire_least;
    /** What a program leaves for each CPU in the map `samples` of the BPF object; 0: it has none.
     */
    size_t sample_size;
    /** Rare, and worth a look each: Elasticsearch keeps them in an index of their own. */
    bool is_case;
    /** Its events are reports of what goes on (event_episode() in bpf/event.bpf.h). */
    bool episodes;
    /** Size of the kind's own settings in the section .data.settings; 0: it has none. */
    size_t settings_size;
    /**
     * Fills the settings that the BPF programs read (mapped memory, live). Called before the kind
     * is watched, and again when symbols have appeared or the configuration changed. On a negative
     * errno as much as possible has been applied, and `error` says what was not.
     */
    int (*configure)(const struct decode *d, void *settings, char *error, size_t error_size);
    /** How often the hook that is `polled` looks, at most (it takes no more than a fiftieth of a
     * CPU's time). ns. NULL: there is none. */
    uint64_t (*poll_ns)(const void *options);
    /**
     * Opens what has to be open while the hooks are attached, such as a socket for whose sake the
     * kernel does more. Returns a descriptor, which the root part closes with the hooks, or a
     * negative errno: the kind is watched all the same. NULL: nothing.
     */
    int (*hold)(void);
    /** The name of a filter rule, as in `filtered_by`; "" if it is switched off, NULL if there is
     * none of that index. Rule 0 is always "own" (the agent's own traffic). */
    const char *(*rule_name)(const void *options, unsigned index);

    /** What its programs count besides events, by the index in struct wire_counters.measures; ends
     * with NULL. Shown for each CPU, since the hooks were attached. NULL: nothing. */
    const char *const *measures;

    /**
     * Turns raw bytes into fields. No I/O, no globals: it is fuzzed. Anything may be in the bytes.
     * -EBADMSG: they make no sense (counted as lost: decode).
     */
    int (*decode)(const struct decode *d, const void *raw, struct record *r);
    /**
     * Reads what has to be read at the moment: files, a snapshot of tasks. NULL: nothing. Called
     * right after decode(), on a thread of its own, so it may wait; what it appends to `part` is
     * put behind the record's own fields, if it comes within COLLECT_BOUND_NS; else the record goes
     * without. No globals. A negative errno: nothing of the part is used.
     */
    int (*collect)(const struct collect *c, const void *raw, struct record *part);
    /** Whether anything is collected for this event; NULL: for every one. Pure, as decode(). */
    bool (*collects)(const void *raw);
    /** Makes the kernel do it for real, harmlessly, in a namespace or cgroup of its own. Run in a
     * forked process with root's rights, which may be left in any state. */
    int (*provoke)(struct provoked *ret);
};

/** The registry, generated from src/events/meson.build. */
extern const struct event *const events[];
extern const size_t n_events;

const struct event *event_find(const char *name);
/** The kind that a record is of; NULL: it is none's, but the agent's own (coverage). */
const struct event *event_of_tracer(const char *tracer_name);
