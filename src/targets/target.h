// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Somebody to whom records are sent. A file of src/targets/ defines exactly one `const struct
 * target`, and src/targets/meson.build names it in one line; everything else comes from here. What
 * all have in common (following the store, batches, trying again) is targets/uploader.h's.
 */

#include "core/option.h"
#include "core/text.h"
#include "targets/http.h"

/** One record, as it goes into a request. */
struct target_record {
    uint64_t realtime_ns; /* when the kernel saw it */
    const char *id, *tracer_name;
    const char *json; /* one object, from its brace to its brace, without line breaks */
    size_t len;
};

enum target_verdict {
    TARGET_STORED,  /* also: it was there already */
    TARGET_AGAIN,   /* not now */
    TARGET_REFUSED, /* never: something is wrong with this record */
};

/** What the server said of one record. */
struct target_answer {
    enum target_verdict verdict;
    char *reason; /* owned; why not; NULL if it was stored, or without memory. Any bytes */
};

/**
 * Makes messages about records instead of sending each. Its memory is a sum of all that was looked
 * at since the last message; the store's cursor follows when that message was taken, or when there
 * is nothing to be said.
 */
struct target_composer {
    size_t size; /* of its memory, one for each uploader, at first all zero; owns nothing */
    void (*look)(void *memory, const struct target_record *record);
    /** When the next message is due, CLOCK_MONOTONIC. UINT64_MAX: there is nothing to be said. */
    uint64_t (*due_ns)(const void *options, const void *memory);
    /** Appends a message about all of it. It is composed anew for each try. */
    void (*compose)(const void *options, void *memory, uint64_t realtime_ns, struct text *body);
    /** The server has what was composed last. */
    void (*sent)(void *memory, uint64_t monotonic_ns);
};

struct target {
    const char *name;             /* section of the configuration, key in `targets` of the status */
    const char *summary;          /* one sentence, of the section */
    const struct option *options; /* HTTP_OPTIONS(), or some of them, and its own; ends with {} */
    size_t options_size;          /* the struct begins with struct http_options http */
    const char *content_type;
    /** What stands in a body before the first record, between two, and after the last. NULL:
     * nothing. */
    const char *head, *separator, *tail;
    /** By a status of 400 the server says that it will never take one of the records: which, is
     * found by sending fewer at a time. Else it is a trouble that an operator can mend. */
    bool bad_is_final;

    /** Appends the path of a request, with its query. NULL: there is none but `path_file`'s. */
    void (*path)(const void *options, struct text *out);
    /** NULL: records are sent as they are, by add(). */
    const struct target_composer *composer;
    /** Appends a record to a request's body; several stand behind each other. `sent_ns`:
     * CLOCK_REALTIME. */
    void (*add)(const void *options, const struct target_record *record, uint64_t sent_ns,
                struct text *body);
    /**
     * What the answer (status 200 to 299) says of each of the `n` records, in their order; of a
     * message there are none. Pure, and fed with whatever a server or a proxy may say. -EBADMSG: it
     * is no answer to that; nothing is known then. `ret` is all zero.
     */
    int (*read)(const void *options, const char *answer, size_t len, struct target_answer *ret,
                size_t n);
    /** What is amiss in a status of 400 and more, in a few words, out of the answer; "": nothing to
     * be read. Any bytes. */
    void (*explain)(const char *answer, size_t len, char *ret, size_t size);
    /** Asks the server, when it has answered for the first time, whether it is set up as it should
     * be; `ret` is "" and becomes what the operator should do. Changes nothing, stops nothing.
     * Optional. */
    void (*check)(const void *options, struct http *h, char *ret, size_t size);
};

/** The registry, generated from src/targets/meson.build. */
extern const struct target *const targets[];
extern const size_t n_targets;

const struct target *target_find(const char *name);
