// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Takes the store's records to one target, on a thread of its own for which nobody waits: follows a
 * cursor in the store, sends batches, tries again what was not taken, and keeps the cursor in the
 * store. Records are in memory only while a request is being made. A record is sent again if it is
 * not known whether it has arrived; the server knows by its id that it has it.
 */

#include "store/store.h"
#include "targets/target.h"

#define UPLOADER_BATCH_MAX 1000 /* records of one request */

struct uploader;

struct uploader_state {
    const char *target; /* its name */
    char url[256];      /* the server that is asked now */
    char problem[768];  /* printable; "": there is none */
    char warning[256];  /* what should be done, though it works; printable; "": nothing */
    uint64_t oldest_ns; /* CLOCK_REALTIME of the oldest that is to be sent; 0: there is none */
};

/**
 * Reads the secrets that the options name, so it wants the rights for that. `options` is the
 * target's struct and outlives it; `sockets` may be NULL. On failure `error` says why.
 */
int uploader_new(const struct target *target, const void *options,
                 const struct http_sockets *sockets, char *error, size_t error_size,
                 struct uploader **ret);
/** Begins. `path` is the directory of `store`, which outlives it. */
int uploader_start(struct uploader *u, struct store *store, const char *path);
/** There is something new. Never waits. `u` may be NULL. */
void uploader_wake(struct uploader *u);
/** From now on only what is left is sent, if the server takes it at once, at most until
 * `deadline_ns` (CLOCK_MONOTONIC). Does not wait: several end side by side. `u` may be NULL. */
void uploader_end_at(struct uploader *u, uint64_t deadline_ns);
/**
 * uploader_end_at(), waits for that, and frees it. False if the thread hangs (a name server, a
 * disk): then it goes with the process, and does not touch the store any more. `ret` is its last
 * state.
 */
bool uploader_end(struct uploader *u, uint64_t deadline_ns, struct uploader_state *ret);
void uploader_get_state(struct uploader *u, struct uploader_state *ret);

/** A range that is sent once more. */
struct uploader_resent {
    /** Told of each record that the server refused for good. May be NULL. */
    void (*refused)(void *arg, const char *id, const char *reason);
    void *arg;
    uint64_t patience_ns;                 /* how long a server may take nothing */
    uint64_t uploaded, retried, rejected; /* what became of them */
};

/**
 * Sends what a query finds in the store at `path`, whether it was sent before or not, on the
 * caller's thread, and comes back when all of it is dealt with. No cursor moves. `query` has an
 * `until_ns`, or an agent that records keeps it going. -ETIMEDOUT: the server took nothing for
 * that long; other -errno: it cannot be done. `error` says why, and `resent` what was done until
 * then.
 */
int uploader_resend(const struct target *target, const void *options, const char *path,
                    const struct store_query *query, struct uploader_resent *resent, char *error,
                    size_t error_size);
