// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * What a kind of event brings so that its hooks' cost can be measured: src/events/KIND/bench_KIND.c
 * defines one `const struct bench bench_KIND`. It is no part of the agent; `./dev bench` finds it
 * by its name. docs/benchmarks.md says how it is measured.
 */

#include "core/base.h"

/** What becomes of the events that a turn makes; the bench checks that it is so. */
enum bench_outcome {
    BENCH_IGNORED,    /* no event: the hook is hit, the definition is not met */
    BENCH_FILTERED,   /* taken out by a rule */
    BENCH_SUPPRESSED, /* a repeat, counted only */
    BENCH_RECORDED,   /* sent in full */
};

/** One way to make a hook fire, and what comes of it. */
struct bench_case {
    const char *hook;     /* struct hook.name: all of its ways that fire at `target` are measured */
    const char *target;   /* what fires, the last part of a program's section: "kfree_skb" */
    const char *name;     /* unique within the kind: "repeat" */
    const char *provoked; /* by what, in a few words */
    enum bench_outcome outcome;
    unsigned hits;   /* of the target, by one turn */
    unsigned events; /* with that outcome, by one turn; 0 if BENCH_IGNORED */
    bool own_netns;  /* run in a network namespace of its own whose lo is up */
    /** Optional. Makes what turn() needs; the process that called it ends with the case. */
    int (*begin)(void);
    /** Provokes `n` times, exactly; nothing of it may come later. */
    int (*turn)(unsigned n);
};

/** A target that is not measured, and why. */
struct bench_omission {
    const char *target, *why;
};

struct bench {
    const struct bench_case *cases;         /* ends with a row whose name is NULL */
    const struct bench_omission *omissions; /* ends with a row whose target is NULL; or NULL */
};
