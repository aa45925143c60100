// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The database as the writer sees it: its tables, its statements, its own state. For the store's
 * thread alone. Unless said otherwise an `int` here is an SQLite result code, because what is to be
 * done about a failure depends on it.
 */

#include "core/text.h"

#include <sqlite3.h>
#include <sys/types.h>

#define SCHEMA_VERSION 1

/* Results of schema_open() beside SQLite's own, whose primary codes end at 101. */
#define SCHEMA_NEWER   200 /* made by a later version of ours: not to be touched */
#define SCHEMA_FOREIGN 201 /* a database, but not one of ours: not to be touched */

enum schema_statement {
    STATEMENT_BEGIN,
    STATEMENT_COMMIT,
    STATEMENT_ADD_RECORD,
    STATEMENT_DELETE_RECORD,
    STATEMENT_OLDEST,
    STATEMENT_FOLLOWING,
    STATEMENT_SEQ_OF_ID,
    STATEMENT_FIND_STACK,
    STATEMENT_ADD_STACK,
    STATEMENT_COUNT_STACK,
    STATEMENT_DROP_STACK,
    STATEMENT_STACK_TEXT,
    STATEMENT_SAVE_META,
    STATEMENT_SAVE_STATE,
    STATEMENT_PAGES,
    STATEMENT_FREE_PAGES,
    STATEMENT_TARGETS,
    STATEMENT_SAVE_TARGET,
    STATEMENT_REJECT,
    STATEMENT_DROP_REJECTED,
    STATEMENT_COUNT,
    STATEMENT_NR,
};

struct schema {
    sqlite3 *db; /* NULL: not open */
    sqlite3_stmt *statements[STATEMENT_NR];
    dev_t dev; /* of the file that is open, which may no longer be the one at the path */
    ino_t ino;
    uint64_t page_size;
    int wal_pages; /* that were not yet copied into the database, or only partly */
    int os_error;  /* errno behind the last failure to open; 0: not known */

    /* Saved with every commit; as of the last one. */
    uint64_t next_seq; /* never goes back, also when the newest records are deleted */
    uint64_t n_records;
    uint64_t files_seq; /* up to here everything is in the record files, and on the disk */
    bool clean;         /* closed in order; nothing was committed since */
};

/**
 * Opens or makes the database. A new one gives out numbers from `first_seq` on. `max_wal_bytes` is
 * what the WAL file may keep when it is empty. On failure nothing stays open.
 */
int schema_open(struct schema *s, const char *path, uint64_t first_seq, uint64_t max_wal_bytes);
/** `checkpoint`: copies the WAL back, which may take a while and is not for damaged ones. */
void schema_close(struct schema *s, bool checkpoint);

/** A prepared statement, reset; its owner resets it when done so that no lock is kept. */
int schema_statement(struct schema *s, enum schema_statement which, sqlite3_stmt **ret);
/** Runs a statement that has no more parameters to bind and no rows. */
int schema_run(struct schema *s, enum schema_statement which);
/** Ends a transaction that failed, if there is one. */
void schema_rollback(struct schema *s);
/** The one number that a statement without parameters gives. */
int schema_number(struct schema *s, enum schema_statement which, uint64_t *ret);
/** Reads it all and looks for damage. SQLITE_CORRUPT, or SQLITE_INTERRUPT if `*stop` became true.
 */
int schema_check(struct schema *s, const _Atomic bool *stop);

/** The file itself is damaged and will not get better by trying again. */
bool schema_is_damage(int code);
/** Moves the database out of the way, with WAL and index. Negative errno; `ret`: where it went. */
int schema_move_aside(const char *dir, char *ret, size_t ret_size);

/**
 * Appends a record as it was written: `cut` is the text without its stacks, `stacks` names them and
 * where they stood. SQLITE_CORRUPT if they do not fit. `stack_text` selects a text by its id.
 */
int schema_compose(sqlite3_stmt *stack_text, const char *cut, size_t len, const char *stacks,
                   struct text *out);
