// SPDX-License-Identifier: Apache-2.0
#pragma once

/** An event kind in the kernel: its BPF object loaded, one way of each of its hooks attached. */

#include "core/channel.h"

struct bpf_object;
struct bpf_link;

#define KIND_HOOKS_MAX    8
#define KIND_PROGRAMS_MAX 32

/** What became of each way of a hook. */
struct kind_hook {
    int chosen; /* index of the way in use; -1: none could be had */
    struct {
        enum hook_state state;
        char reason[CHANNEL_TEXT_MAX]; /* why it was refused; of one attached a note */
    } ways[HOOK_WAYS_MAX];
};

/** What finds the events of a hook, if the way in use has a source. */
struct kind_source {
    const struct hook_source *source; /* NULL: none */
    const struct bpf_program *taker;  /* takes what it has found */
    void *state;                      /* owned; NULL: it is that of the one before, for now */
    uint64_t next_ns;                 /* when it is to run next; CLOCK_MONOTONIC */
};

struct kind {
    const struct event *event;
    struct bpf_object *object; /* owned; NULL: nothing of it could be loaded */
    struct bpf_link *links[KIND_PROGRAMS_MAX];
    size_t n_links;
    struct wire_common *common;       /* what the programs read; set while there is an object */
    const struct kind *before;        /* the one that it is to take over from; NULL: none */
    const struct bpf_link *iterator;  /* one of them: the hook that is a snapshot; NULL: none */
    const struct bpf_link *polled;    /* likewise: the hook that is polled */
    const char *tended;               /* the map that a hook tends; NULL: none */
    const struct bpf_program *tender; /* its program */
    struct kind_source sources[KIND_HOOKS_MAX]; /* of the hook of the same index */
    void *found;                                /* owned: one value of the map `found` */
    bool holds;                                 /* `held` is open: what event.hold() has opened */
    int held;
    int *perf[KIND_HOOKS_MAX]; /* owned: of a hook with `perf`, an event a CPU; -1: none */
    struct kind_hook hooks[KIND_HOOKS_MAX];
    unsigned n_hooks;
    unsigned n_cpus;
    char reason[CHANNEL_TEXT_MAX]; /* why there is no object although hooks were accepted */
    uint64_t missed;               /* last reported */
    uint32_t instance;             /* tells objects of the same kind apart */
};

/**
 * Loads and attaches, for each hook the first way that this kernel accepts; the programs do nothing
 * until the agent sets `watching`. Returns 0 if at least one hook is attached, -EOPNOTSUPP if none
 * is (see `hooks`); in both cases kind_close() is needed. `before` is the one in use from which it
 * is to take over, or NULL.
 */
int kind_open(struct kind *kind, const struct event *event, const struct event_options *options,
              const struct kind *before);
/** Whether another object is needed for these options; the others take effect while it runs. */
bool kind_needs_reopening(const struct event_options *before, const struct event_options *now);
/**
 * `now` takes over from `before`, which is detached, and its source, if it has one: each event is
 * counted by one of them, whoever does not get a CPU meanwhile. Either may hold no object. Takes
 * some 30 ms.
 */
void kind_exchange(struct kind *before, struct kind *now);
/**
 * Whether one way of one hook loads and attaches by itself; it is taken away at once, and nothing
 * has been watched. -errno: `ret_reason` is what was refused, without advice; else what is to be
 * said of it all the same, or empty.
 */
int kind_try(const struct event *event, const struct event_options *options, unsigned hook,
             unsigned way, char ret_reason[CHANNEL_TEXT_MAX]);
/** The hooks only: the ring stays readable, and programs that run already come to their end. */
void kind_detach(struct kind *kind);
/**
 * Waits until the programs that run now have ended, and those of the same event after them.
 * MEMBARRIER_CMD_GLOBAL waits for RCU (kernel/sched/membarrier.c), under which programs run; where
 * an event's programs run one after the other without it in between, or the call is refused
 * (nohz_full), there is time to end.
 */
void kind_let_pass(void);
void kind_close(struct kind *kind);

/**
 * Runs the program that tends a map for each of its keys (struct hook.tends). `last`: the hooks are
 * detached, their programs have ended, and it is never done again: what goes on would seem to go on
 * for ever. Keys that come meanwhile may be left to the next time.
 */
void kind_tend(struct kind *kind, bool last);

/** Lets the hook that is polled, if there is one, look at everything; returns when it has. */
int kind_poll(const struct kind *kind);

/** What its sources wait for while it is watched; -1: nothing. */
int kind_source_fd(const struct kind *kind);
/** When one of them is to run in any case: CLOCK_MONOTONIC; UINT64_MAX: never. */
uint64_t kind_source_due(const struct kind *kind);
/** Runs those whose time has come. `readable`: and the one that has the descriptor. */
void kind_source_run(struct kind *kind, const struct event_options *options, bool readable);

int kind_map_fd(const struct kind *kind, const char *name); /* -ENOENT */

/** A descriptor from which the kind's snapshot can be read once. -ENOENT: it has none. */
int kind_open_iterator(const struct kind *kind);

/** How often the kernel did not run our programs because they were running already. */
uint64_t kind_missed(const struct kind *kind);

/**
 * Takes windows that have closed out of the kernel; those with repeats, and episodes whose end is
 * known, are given to `fn`. `all`: also those that are still open (at the end). A negative result
 * of `fn` is passed on at once: that window, and those that come after it, stay for the next time.
 */
int kind_sweep(const struct kind *kind, const struct event_options *options, uint64_t now_boot_ns,
               bool all,
               int (*fn)(void *arg, const struct wire_key *key, const struct wire_window *window),
               void *arg);
