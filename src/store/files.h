// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The record files: what a person reads with less and grep. One for each tracer name, appended to
 * and rotated. They follow the database: the last whole record in a file says how far it has got.
 */

#include "core/text.h"
#include "store/store.h"

#include <sys/types.h>

#define FILES_MAX      64 /* tracer names */
#define FILES_NAME_MAX 64

struct record_file {
    char name[FILES_NAME_MAX];
    int fd;
    ino_t ino;
    uint64_t size;     /* bytes that are in the file; all of them whole records */
    uint64_t last_seq; /* of the newest record that is in it or in the buffer */
    bool dirty;        /* written since the last fdatasync */
    struct text buffer;
};

struct record_files {
    const struct store_options *options;
    /** The number of the record of that id, 0 if it is not known; other than 0: failed. */
    int (*seq_of_id)(void *arg, const char *id, uint64_t *ret);
    void *arg;
    char path[4096];
    int dir_fd; /* -1: not open */
    struct record_file files[FILES_MAX];
    unsigned n;
    struct text scratch;
    char problem[256]; /* what the last failure was; begins with what was tried */
};

/** Opens DIR/records, makes it if need be, and cuts what is not a whole record off its files. */
int files_open(struct record_files *f);
/** What is in buffers is forgotten. Fine on one that is not open. */
void files_close(struct record_files *f);
/** Appends a record, unless the file has it already. In order of `seq`. */
int files_add(struct record_files *f, const struct store_row *row);
/** Hands everything to the kernel. */
int files_flush(struct record_files *f);
/** ... and to the disk. */
int files_sync(struct record_files *f);

/** Appends a record as it stands in a file: title, indented JSON, empty line. */
void files_format(struct text *out, const struct store_row *row, struct text *scratch);
