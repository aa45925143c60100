// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The durable home of records: SQLite in WAL mode, written by one thread that nobody waits for, and
 * the record files beside it. store_put() hands a record over; once `recorded` counts it, it
 * survives kill -9 and a power cut.
 *
 * DIR/huatuo.db  DIR/lock  DIR/records/TRACER_NAME[.N]
 */

#include "core/doc.h"
#include "core/option.h"

struct store_options {
    char *path;
    uint64_t retain_ns; /* 0: for ever */
    uint64_t max_size;  /* bytes of the database; 0: no limit */
    bool record_files;
    uint64_t record_file_size; /* bytes, of one */
    uint64_t record_file_count;
};
extern const struct option_section store_section;

struct store;

enum store_lost { STORE_LOST_QUEUE_FULL, STORE_LOST_WRITE, STORE_LOST_NR };

struct store_counts {
    uint64_t recorded; /* committed */
    uint64_t lost[STORE_LOST_NR];
};

struct store_state {
    bool writing;      /* false: the last commit failed; `problem` says why and what to do */
    char problem[512]; /* may also tell of the record files, while the database is written */
    uint64_t queued;   /* records that wait for a commit */
    uint64_t records;  /* in the database, about */
    uint64_t size_bytes;
    uint64_t deleted; /* by retention, since start */
    uint64_t
        next_seq; /* records that are committed from now on have this number, or a greater one */
};

/**
 * Takes the lock (-EBUSY: another agent has it; `error` names its pid), opens or makes the database
 * (a damaged one is moved aside to huatuo.db.damaged-TIME, said aloud), starts the thread. The
 * directory must exist. -EPROTONOSUPPORT: the database was made by a later version, or is not ours.
 * Any other trouble with the database, a full disk say, does not keep the agent from running: the
 * state tells.
 */
int store_open(const struct store_options *options, size_t n_event_kinds, char *error,
               size_t error_size, struct store **ret);
/**
 * Writes what is queued, at most until `deadline_ns` (CLOCK_MONOTONIC); the rest is lost, and said
 * to be. Comes back a second after the deadline even if the disk hangs.
 */
struct store *store_close(struct store *s, uint64_t deadline_ns);

/** Never waits; takes its own reference. -ENOBUFS: the queue is full (counted under the doc's kind
 * if doc->counted). */
int store_put(struct store *s, struct doc *doc);
/** When the agent before this one was last alive, to about ten seconds (CLOCK_REALTIME); 0: there
 * was none. */
uint64_t store_alive_before(const struct store *s);
/** An eventfd that becomes readable when records were committed; the owner reads it empty. */
int store_fd(const struct store *s);
void store_get_counts(const struct store *s, unsigned event, struct store_counts *ret);
void store_get_state(const struct store *s, struct store_state *ret);
/**
 * Keeps a text under a name (`status`), in the next commit or within a second. Never waits. A later
 * text replaces it. -E2BIG: over 1 MiB; -ENOBUFS: 64 names wait already.
 */
int store_put_meta(struct store *s, const char *name, const char *text);

/* ---- targets: who takes records on, to a server */

#define STORE_TARGETS_MAX     8
#define STORE_TARGET_NAME_MAX 32 /* with the NUL */
#define STORE_REASON_MAX      1024
#define STORE_REJECTIONS_MAX  10000 /* that wait for a commit */

/** How far a target has got, and what became of the records until there. Counts are for ever. */
struct store_target {
    char name[STORE_TARGET_NAME_MAX];
    bool active;  /* somebody works for it: store_target_advance() was called */
    uint64_t seq; /* all up to this one are dealt with; 0: none */
    uint64_t uploaded, rejected;
    uint64_t retried; /* times that a record was sent again */
    uint64_t deleted; /* by retention, when the target had not got to them */
};

struct store_rejection {
    uint64_t seq;
    const char *reason; /* as the server gave it: any bytes; cut at STORE_REASON_MAX */
};

/** What has become of records since the last call. All zero: says only that the target is in use.
 */
struct store_advance {
    uint64_t seq;
    uint64_t uploaded, retried;
    const struct store_rejection *rejections;
    size_t n_rejections;
};

/**
 * Goes into the next commit, all of it or nothing, within a second. Never waits. -ENOBUFS: too much
 * waits already, ask again later.
 */
int store_target_advance(struct store *s, const char *name, const struct store_advance *advance);
/** With what waits for the next commit. -ENOENT: it is not known. */
int store_get_target(const struct store *s, const char *name, struct store_target *ret);

/* ---- reading: any process, any number, never in the way of the writer */

struct store_reader;

/** `path` is the store's directory. -ENOENT: there is no store; `error` says what to do. */
int store_reader_open(const char *path, char *error, size_t error_size, struct store_reader **ret);
struct store_reader *store_reader_close(struct store_reader *r);
DEFINE_CLEANUP(struct store_reader *, store_reader_close)

/**
 * Whether the database of a store that no agent has open could be read, without touching anything:
 * not even the files that SQLite makes beside it. -ENOENT: there is none; other -errno: `error`
 * says why, "" if the errno says it all.
 */
int store_look(const char *path, char *error, size_t error_size);

struct store_query {
    const char *const *tracer_names; /* ends with NULL; NULL: all */
    uint64_t since_ns, until_ns;     /* CLOCK_REALTIME, inclusive; until 0: open */
    const char *container;           /* beginning of an id */
    uint32_t pid;                    /* 0: any */
    const char *match;  /* bytes that must occur somewhere in the record's text values */
    uint64_t after_seq; /* only later ones: the cursor of `list -f` and of uploads */
    uint64_t limit;     /* the newest so many (by their time); 0: all */
    bool rejected;      /* only those that a target refused; once for each that did */
};

struct store_row {
    uint64_t seq; /* strictly increasing in the order of commits, never used again */
    uint64_t realtime_ns;
    const char *id, *tracer_name, *container_id;
    const char *json; /* whole, exactly as written */
    size_t len;
    /* Of a query for those only; else NULL and 0: who refused it, when, why. */
    const char *rejected_by, *reason;
    uint64_t rejected_ns; /* CLOCK_REALTIME */
};

/**
 * Calls `fn` for each record in the order of `seq`, which is that of the commits, until it returns
 * other than 0, which is passed on. Nothing is locked meanwhile: `fn` may take its time, but may
 * not use the same reader. -EBADMSG: the database is damaged.
 */
int store_reader_each(struct store_reader *r, const struct store_query *query,
                      int (*fn)(void *arg, const struct store_row *row), void *arg);
/** By id or its unambiguous beginning or end. -ENOENT; -EEXIST: several. */
int store_reader_get(struct store_reader *r, const char *id,
                     int (*fn)(void *arg, const struct store_row *row), void *arg);
/** How far a target has got, as of the last commit. -ENOENT: nothing is known of it. */
int store_reader_target(struct store_reader *r, const char *name, struct store_target *ret);
/** Heap; -ENOENT. */
int store_reader_meta(struct store_reader *r, const char *name, char **ret);
/** Greatest seq there is; 0: none. */
int store_reader_last(struct store_reader *r, uint64_t *ret_seq);
/** Changes whenever something was committed; cheap to ask. */
int store_reader_version(struct store_reader *r, uint64_t *ret);
