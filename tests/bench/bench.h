// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string.h>

#include "core/bench.h"
#include "core/config.h"
#include "kernel/kernel.h"
#include "root/kind.h"

/** What a kind has brought, or NULL. Generated. */
const struct bench *bench_of(const char *kind);

/* ---- trial.c: a case on one way of its hook, in this process */

enum variant {
    NOTHING,     /* attached */
    EMPTY,       /* a program of the same type that does nothing */
    OURS,        /* as the agent has it; its ring is emptied after each batch */
    OURS_READ,   /* the same, and the ring is emptied at once: each event has to wake a reader */
    EMPTY_AGAIN, /* as EMPTY: what differs is noise */
    VARIANT_NR
};

extern const char *const variant_names[VARIANT_NR];

#define ROUNDS_MAX    1000
#define TRIAL_BATCHES 12 /* of a round: in a row, each time something was attached */

/** Of the batches of one round. ns a hit. */
struct sample {
    double min, median;
};

struct trial {
    const struct event *event;
    const struct bench_case *what;
    const char *way;
    const char *section; /* of the program that is measured: "tp_btf/kfree_skb" */
    const struct kernel *kernel;

    struct config *config;
    const struct event_options *options; /* in the config */
    struct kind kind;
    struct blank_bpf *blank;
    struct bpf_program *empty, *count;
    struct bpf_link *links[KIND_PROGRAMS_MAX];
    size_t n_links;
    struct ring_buffer *ring;
    volatile unsigned long *consumer;
    const volatile unsigned long *producer;
    const volatile struct wire_counters *counters;

    /* What comes out. */
    unsigned turns; /* of a batch */
    unsigned n_rounds;
    struct sample samples[VARIANT_NR][ROUNDS_MAX];
    uint64_t claimed, counted;   /* hits of one batch, by the provoker and by a BPF program */
    uint64_t provoked;           /* events while ours was attached, as the provoker claims */
    struct wire_counters became; /* what our program has counted meanwhile, over all CPUs */
    void *raw;                   /* events out of the ring, one behind the other; owned */
    size_t n_raw, raw_room;      /* events */
};

/**
 * Loads everything, and makes the calling process fit for the case; it is not fit for another one
 * then. -errno: `error` says what of.
 */
int trial_begin(struct trial *t, char *error, size_t error_size);
/** Whether what the provoker claims is what a BPF program counts; stays on one CPU from here on. */
int trial_count(struct trial *t, char *error, size_t error_size);
/** After trial_count(): measures for about that long. */
int trial_measure(struct trial *t, double seconds, char *error, size_t error_size);
/** Makes `n` events and keeps them as raw bytes. */
int trial_capture(struct trial *t, size_t n, char *error, size_t error_size);
void trial_end(struct trial *t);

/* ---- records.c */

/** ns to make a record of one raw event: the fastest of many batches. */
int records_decode_ns(const struct trial *t, double *ret_ns, double *ret_bytes);
struct stored {
    double per_second;       /* records, from decode to commit */
    double cpu_ns;           /* of all threads, a record */
    uint64_t database_bytes; /* of all of them */
};

/** Makes `n` records and puts them into a new store in that folder. */
int records_store(const struct trial *t, const char *folder, unsigned n, struct stored *ret);
