// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * What the store's thread does: transactions, retention, the record files, and finding its way back
 * after failures. Belongs to that thread. Codes are SQLite's; SQLITE_OK is 0.
 */

#include "store/files.h"
#include "store/schema.h"
#include "store/stacks.h"

#define WRITER_BATCH_MAX 2500 /* rows of one commit */

struct writer_meta {
    char *name, *text; /* owned */
};

/** What a target has done since it last said so; struct store_advance, with its own memory. */
struct writer_advance {
    char name[STORE_TARGET_NAME_MAX];
    uint64_t seq, uploaded, retried;
    struct writer_rejection {
        uint64_t seq;
        char *reason; /* owned */
    } * rejections;   /* owned */
    size_t n_rejections;
};

struct writer {
    const struct store_options *options;
    char path[4096]; /* of the database */
    struct schema schema;
    struct stacks stacks;
    struct text cut, column;         /* the record that is being written */
    uint64_t seqs[WRITER_BATCH_MAX]; /* of the last commit's records; 0: it was there already */
    bool refused[WRITER_BATCH_MAX];  /* the database will never take it */
    uint64_t next_seq;  /* greatest ever seen, of whatever database; 0: none was open yet */
    uint64_t first_seq; /* of the last commit */
    int os_error;       /* behind the last failure, if known */
    bool full;          /* the last failure was a full disk */
    bool clean;         /* the next commit is the last one */

    uint64_t max_wal_bytes;
    uint64_t size_bytes, wal_bytes; /* as of the last commit; all, and the WAL's part */
    uint64_t deleted;
    uint64_t cutoff_ns; /* CLOCK_REALTIME; what is older goes */
    bool shrinking;     /* over max_size, and not yet well under it */
    bool deleting;      /* there is more to delete */

    struct store_target targets[STORE_TARGETS_MAX]; /* as of the last commit */
    unsigned n_targets;
    uint64_t unsent; /* records deleted that a target in use had not got, since start */

    struct record_files files;
    bool files_ready;
    uint64_t flushed_seq, synced_seq; /* up to here all is in the files; and on the disk */
    char files_problem[384];          /* "": none */

    /* CLOCK_MONOTONIC; when it was last done, or tried */
    uint64_t committed_ns, retained_ns, synced_ns, files_tried_ns, looked_ns, checkpointed_ns;
};

void writer_init(struct writer *w, const struct store_options *options);
/** Closes in order if `in_order`, else as fast as can be. */
void writer_done(struct writer *w, bool in_order);

/** Opens the database; SCHEMA_NEWER and SCHEMA_FOREIGN are final. */
int writer_open(struct writer *w);
/** Looks for damage, if there is reason to or it is quickly done. */
int writer_check(struct writer *w, const _Atomic bool *stop);
/** Moves a damaged database aside, says so, and begins a new one. */
int writer_replace(struct writer *w, int code);

/** What goes into one transaction. */
struct writer_batch {
    struct doc *const *docs;
    unsigned n;
    const struct writer_meta *metas;
    unsigned n_metas;
    const struct writer_advance *advances;
    unsigned n_advances;
};
/** One transaction: all of this, or nothing. Opens the database if it is not open. */
int writer_commit(struct writer *w, const struct writer_batch *batch);
/** Brings the record files up to the database; the last commit's records are given. */
int writer_files(struct writer *w, struct doc *const *docs, unsigned n);
/** Retention, checkpoints and all else that falls due; `idle`: nobody waits. */
int writer_tidy(struct writer *w, bool idle);
/** Records are in the database that are not yet in the files, and could be. */
bool writer_files_behind(const struct writer *w);

/** A write to mapped memory was refused (busfault.h): what was done since is in no file. */
int writer_faulted(struct writer *w);

/** What failed, on what, why, and what to do. */
void writer_describe(const struct writer *w, int code, char *ret, size_t ret_size);
