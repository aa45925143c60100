// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Questions to a thread, and its answers: a bounded cache between one who asks and never waits, and
 * threads that may have to. Every question is a key; a key that is being asked for is not asked for
 * again. All functions may be called from any thread.
 */

#include <pthread.h>

#include "core/base.h"

#define LOOKUP_KEY_BYTES    16

/** A question that takes longer is answered, until then, with what was known before. */
#define LOOKUPS_PATIENCE_NS (200 * NS_PER_MS)

struct lookups;

/** `max` keys are remembered; of these `pending_max` (at most `max`) wait for their answers. */
int lookups_new(size_t max, size_t pending_max, struct lookups **ret);
struct lookups *lookups_free(struct lookups *l);
DEFINE_CLEANUP(struct lookups *, lookups_free)

/** An eventfd that becomes readable when answers have come; whoever waits for them reads it. */
int lookups_fd(const struct lookups *l);

/**
 * 1: known, up to `size` bytes of the answer are in `ret`, its length (0: the answer is that there
 * is none) in `ret_size`; 0: asked, now or before; -EBUSY: too many questions are waiting. Times
 * are CLOCK_MONOTONIC.
 */
int lookups_get(struct lookups *l, const void *key, uint64_t now_ns, void *ret, size_t size,
                size_t *ret_size);

/** For threads: takes the oldest question. False: there is none, or lookups_stop() was called. */
bool lookups_next(struct lookups *l, void *ret_key);
/** The same, but waits for one. False: lookups_stop() was called. */
bool lookups_wait(struct lookups *l, void *ret_key);
void lookups_stop(struct lookups *l);
bool lookups_stopped(struct lookups *l);
/** Whether there are more questions to take than threads in lookups_wait(). */
bool lookups_unserved(struct lookups *l);

/** Answers a question; `size` 0: there is no answer. It holds until `expires_ns`. */
void lookups_answer(struct lookups *l, const void *key, const void *answer, size_t size,
                    uint64_t expires_ns);
/** What is known so far, while the rest may take long. The question stays open. */
void lookups_draft(struct lookups *l, const void *key, const void *answer, size_t size);
/** There is no new answer: what was known before goes on to hold, or else that there is none. */
void lookups_keep(struct lookups *l, const void *key, uint64_t expires_ns);

/** Starts a thread that takes no signals, so that they all go to the loop. */
int lookups_start_thread(const char *name, void *(*fn)(void *arg), void *arg, pthread_t *ret);
