// SPDX-License-Identifier: Apache-2.0
#include "store/writer.h"

#include "core/clock.h"
#include "core/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#define WAL_PAGES          20000 /* a checkpoint costs the more often it is made */
#define WAL_PAGES_MIN      64
#define WAL_SHARE          8 /* of max_size, at most this part */
#define PAGE_SIZE_ASSUMED  4096
#define IDLE_WAL_PAGES     1000
#define IDLE_NS            (2 * NS_PER_SEC)
#define IDLE_CHECKPOINT_NS (60 * NS_PER_SEC)
#define RETAIN_NS          (10 * NS_PER_SEC)
#define FILES_SYNC_NS      (5 * NS_PER_SEC)
#define FILES_RETRY_NS     NS_PER_SEC
#define LOOK_NS            (10 * NS_PER_SEC)
#define DELETE_ROWS        2000 /* a transaction, and as many as it adds */
#define DELETE_STEP        50
#define CATCH_UP_ROWS      500
#define VACUUM_PAGES       1000
#define CHECK_ALWAYS_BYTES (64 * 1024 * 1024)

static uint64_t now_ns(void)
{
    return clock_now_ns(CLOCK_MONOTONIC);
}

static int seq_of_id(void *arg, const char *id, uint64_t *ret)
{
    struct writer *w = arg;
    sqlite3_stmt *statement;
    int r = schema_statement(&w->schema, STATEMENT_SEQ_OF_ID, &statement);

    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_text(statement, 1, id, -1, SQLITE_STATIC);
    r = sqlite3_step(statement);
    *ret = r == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(statement, 0) : 0;
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return r == SQLITE_ROW || r == SQLITE_DONE ? SQLITE_OK : r;
}

void writer_init(struct writer *w, const struct store_options *options)
{
    uint64_t wal_pages = options->max_size / WAL_SHARE / PAGE_SIZE_ASSUMED;

    if (wal_pages == 0 || wal_pages > WAL_PAGES)
        wal_pages = WAL_PAGES;
    *w = (struct writer){
        .options = options,
        .max_wal_bytes = MAX(wal_pages, (uint64_t)WAL_PAGES_MIN) * PAGE_SIZE_ASSUMED,
        .files = {.options = options, .seq_of_id = seq_of_id, .arg = w, .dir_fd = -1},
    };
    /* SQLite takes `file:...` for a URI. */
    snprintf(w->path, sizeof(w->path), "%s%s/huatuo.db", *options->path == '/' ? "" : "./",
             options->path);
}

static void close_files(struct writer *w)
{
    if (w->files_ready)
        files_close(&w->files);
    w->files_ready = false;
}

static void close_database(struct writer *w, bool checkpoint)
{
    w->next_seq = MAX(w->next_seq, w->schema.next_seq);
    stacks_reset(&w->stacks);
    schema_close(&w->schema, checkpoint);
}

int writer_faulted(struct writer *w)
{
    struct statvfs disk;

    close_database(w, false);
    w->os_error = statvfs(w->path, &disk) == 0 && disk.f_bavail == 0 ? ENOSPC : EROFS;
    return SQLITE_IOERR;
}

/* ---- opening, and what went wrong */

/**
 * Numbers of a database that is gone must not be given out again, and what they were may have gone
 * with it. Nobody records a million a second: the time in microseconds is always ahead of them.
 */
static uint64_t first_seq_of_new(const struct writer *w)
{
    return w->next_seq ? MAX(w->next_seq, clock_now_ns(CLOCK_REALTIME) / NS_PER_US) : 1;
}

static struct store_target *find_target(struct writer *w, const char *name)
{
    struct store_target *target;

    for (unsigned i = 0; i < w->n_targets; i++)
        if (strcmp(w->targets[i].name, name) == 0)
            return &w->targets[i];
    if (w->n_targets == STORE_TARGETS_MAX)
        return NULL;
    target = &w->targets[w->n_targets++];
    *target = (struct store_target){};
    snprintf(target->name, sizeof(target->name), "%s", name);
    return target;
}

/** What was done for a database that is gone goes on being counted: those that we know stay. */
static int load_targets(struct writer *w)
{
    unsigned known = w->n_targets;
    sqlite3_stmt *rows;
    int r = schema_statement(&w->schema, STATEMENT_TARGETS, &rows);

    if (r != SQLITE_OK)
        return r;
    while ((r = sqlite3_step(rows)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(rows, 0);
        struct store_target *target = name ? find_target(w, name) : NULL;

        if (!target || target < w->targets + known)
            continue;
        target->seq = (uint64_t)sqlite3_column_int64(rows, 1);
        target->uploaded = (uint64_t)sqlite3_column_int64(rows, 2);
        target->retried = (uint64_t)sqlite3_column_int64(rows, 3);
        target->rejected = (uint64_t)sqlite3_column_int64(rows, 4);
        target->deleted = (uint64_t)sqlite3_column_int64(rows, 5);
    }
    sqlite3_reset(rows);
    return r == SQLITE_DONE ? SQLITE_OK : r;
}

int writer_open(struct writer *w)
{
    int r = schema_open(&w->schema, w->path, first_seq_of_new(w), w->max_wal_bytes);

    if (r != SQLITE_OK) {
        w->os_error = w->schema.os_error;
        return r;
    }
    r = load_targets(w);
    if (r != SQLITE_OK) {
        close_database(w, !schema_is_damage(r));
        return r;
    }
    w->next_seq = MAX(w->next_seq, w->schema.next_seq);
    w->flushed_seq = w->synced_seq = w->schema.files_seq;
    w->shrinking = w->deleting = false;
    w->retained_ns = 0;
    w->looked_ns = now_ns();
    return SQLITE_OK;
}

int writer_check(struct writer *w, const _Atomic bool *stop)
{
    uint64_t pages;
    int r;

    if (!w->schema.db)
        return SQLITE_OK;
    r = schema_number(&w->schema, STATEMENT_PAGES, &pages);
    if (r != SQLITE_OK || (w->schema.clean && pages * w->schema.page_size > CHECK_ALWAYS_BYTES))
        return r;
    r = schema_check(&w->schema, stop);
    return (r & 0xff) == SQLITE_INTERRUPT ? SQLITE_OK : r;
}

int writer_replace(struct writer *w, int code)
{
    char aside[sizeof(w->path) + 64];
    int r;

    close_database(w, false);
    /* Whatever was last given out cannot be asked any more. */
    w->next_seq = MAX(w->next_seq, (uint64_t)2);
    r = schema_move_aside(w->options->path, aside, sizeof(aside));
    if (r < 0) {
        w->os_error = -r;
        return SQLITE_IOERR;
    }
    log_error(
        "The store's database %s is damaged (%s). It was moved to %s, and a new one is begun; "
        "what it still holds can be taken out with `sqlite3 %s .recover`. Check the disk and "
        "its file system.",
        w->path, sqlite3_errstr(code), aside, aside);
    return writer_open(w);
}

static bool is_full(const struct writer *w, int code)
{
    return (code & 0xff) == SQLITE_FULL ||
           (((code & 0xff) == SQLITE_IOERR || (code & 0xff) == SQLITE_CANTOPEN) &&
            (w->os_error == ENOSPC || w->os_error == EDQUOT));
}

void writer_describe(const struct writer *w, int code, char *ret, size_t ret_size)
{
    static const struct {
        int code;
        const char *why, *what_to_do;
    } known[] = {
        {SQLITE_READONLY, "it is read-only",
         "mount it writable, and let the directory and its files belong to the agent's user"},
        {SQLITE_CANTOPEN, "its files cannot be opened or made",
         "let the directory and its files belong to the agent's user, on a writable file system"},
        {SQLITE_PERM, "permission denied",
         "let the directory and its files belong to the agent's user"},
        {SQLITE_IOERR, "reading or writing failed", "check the disk and its file system"},
        {SQLITE_BUSY, "another program has locked it",
         "end that program; only the agent writes here"},
        {SQLITE_LOCKED, "another program has locked it",
         "end that program; only the agent writes here"},
        {SQLITE_NOMEM, "there is no memory", "give the agent more memory"},
        {SCHEMA_NEWER, "it was made by a later version", "install that version, or move it away"},
        {SCHEMA_FOREIGN, "it is not a database of this program", "move it away"},
    };
    const char *why = sqlite3_errstr(code), *what_to_do = "check the disk and its file system";
    char os[128] = "", text[96];

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if ((code & 0xff) == known[i].code) {
            why = known[i].why;
            what_to_do = known[i].what_to_do;
        }
    }
    if (is_full(w, code)) {
        why = "the disk is full";
        what_to_do = "free space on its file system, or lower store.max_size";
    } else if (w->os_error) {
        snprintf(os, sizeof(os), " (%s)", strerror_r(w->os_error, text, sizeof(text)));
    }
    snprintf(ret, ret_size, "cannot write to the store %.200s: %s%s; %s", w->path, why, os,
             what_to_do);
}

/* ---- one transaction */

/** Cuts the stacks out; `column` says where they were. */
static int cut_stacks(struct writer *w, const struct doc *doc)
{
    size_t done = 0;

    w->cut.len = w->column.len = 0;
    for (unsigned i = 0; i < doc->n_stacks; i++) {
        const struct doc_span *span = &doc->stacks[i];
        int64_t id;
        int r;

        assert(span->at >= done && span->at + (size_t)span->len <= doc->len);
        if (span->len == 0)
            continue;
        r = stacks_id(&w->stacks, &w->schema, doc->json + span->at, span->len, &id);
        if (r != SQLITE_OK)
            return r;
        text_add(&w->cut, doc->json + done, span->at - done);
        text_addf(&w->column, "%s%" PRId64 ":%zu", w->column.len ? "," : "", id, w->cut.len);
        done = span->at + (size_t)span->len;
    }
    if (done)
        text_add(&w->cut, doc->json + done, doc->len - done);
    if (!w->cut.failed && !w->column.failed)
        return SQLITE_OK;
    text_done(&w->cut);
    text_done(&w->column);
    return SQLITE_NOMEM;
}

static int add_record(struct writer *w, const struct doc *doc, uint64_t seq)
{
    sqlite3_stmt *add;
    bool cut;
    int r = stacks_make_room(&w->stacks, &w->schema);

    if (r == SQLITE_OK)
        r = cut_stacks(w, doc);
    if (r == SQLITE_OK)
        r = schema_statement(&w->schema, STATEMENT_ADD_RECORD, &add);
    if (r != SQLITE_OK)
        return r;

    cut = w->column.len > 0;
    sqlite3_bind_int64(add, 1, (int64_t)seq);
    sqlite3_bind_text(add, 2, doc->id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(add, 3, (int64_t)doc->realtime_ns);
    sqlite3_bind_text(add, 4, doc->tracer_name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(add, 5, doc->pid);
    sqlite3_bind_text(add, 6, *doc->container_id ? doc->container_id : NULL, -1, SQLITE_STATIC);
    sqlite3_bind_text(add, 7, cut ? w->column.data : NULL, -1, SQLITE_STATIC);
    sqlite3_bind_text64(add, 8, cut ? w->cut.data : doc->json, cut ? w->cut.len : doc->len,
                        SQLITE_STATIC, SQLITE_UTF8);
    r = schema_run(&w->schema, STATEMENT_ADD_RECORD);
    sqlite3_clear_bindings(add);
    if (cut) {
        /* A text that was added for a record that was not would stay for ever. */
        int counted = stacks_use(&w->stacks, w->column.data, r == SQLITE_OK);

        if (r == SQLITE_OK || counted != SQLITE_OK)
            return counted;
    }
    return r;
}

static int add_records(struct writer *w, struct doc *const *docs, unsigned n, uint64_t *next_seq)
{
    for (unsigned i = 0; i < n; i++) {
        int r = add_record(w, docs[i], *next_seq);

        w->refused[i] = false;
        w->seqs[i] = 0;
        if (r == SQLITE_OK)
            w->seqs[i] = (*next_seq)++;
        else if (r == SQLITE_CONSTRAINT_ROWID || r == SQLITE_CONSTRAINT_PRIMARYKEY)
            return SQLITE_CORRUPT; /* there are records beyond what the state says */
        else if ((r & 0xff) == SQLITE_TOOBIG ||
                 ((r & 0xff) == SQLITE_CONSTRAINT && r != SQLITE_CONSTRAINT_UNIQUE))
            w->refused[i] = true;
        else if (r != SQLITE_CONSTRAINT_UNIQUE) /* the id: a commit that failed only to tell us */
            return r;
    }
    return SQLITE_OK;
}

/** Bytes that count: those in use, and the WAL's as far as they are not a reader's fault. */
static int measure(struct writer *w, uint64_t *ret_counted)
{
    char path[sizeof(w->path) + 8];
    uint64_t pages, unused, used;
    struct stat st;
    int r = schema_number(&w->schema, STATEMENT_PAGES, &pages);

    if (r == SQLITE_OK)
        r = schema_number(&w->schema, STATEMENT_FREE_PAGES, &unused);
    if (r != SQLITE_OK)
        return r;
    snprintf(path, sizeof(path), "%s-wal", w->path);
    used = (pages - MIN(unused, pages)) * w->schema.page_size;
    w->wal_bytes = stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
    w->size_bytes = used + w->wal_bytes;
    *ret_counted = used + MIN(w->wal_bytes, w->max_wal_bytes);
    return SQLITE_OK;
}

static int drop_rejected(struct writer *w, int64_t seq)
{
    sqlite3_stmt *statement;
    int r = schema_statement(&w->schema, STATEMENT_DROP_REJECTED, &statement);

    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_int64(statement, 1, seq);
    return schema_run(&w->schema, STATEMENT_DROP_REJECTED);
}

static int delete_record(struct writer *w, int64_t seq)
{
    sqlite3_stmt *statement;
    int r = stacks_make_room(&w->stacks, &w->schema);

    if (r == SQLITE_OK)
        r = drop_rejected(w, seq);
    for (unsigned i = 0; i < w->n_targets; i++)
        w->targets[i].deleted += (uint64_t)seq > w->targets[i].seq;
    if (r == SQLITE_OK)
        r = schema_statement(&w->schema, STATEMENT_DELETE_RECORD, &statement);
    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_int64(statement, 1, seq);
    r = sqlite3_step(statement);
    if (r == SQLITE_ROW) {
        r = stacks_use(&w->stacks, (const char *)sqlite3_column_text(statement, 0), -1);
        if (r == SQLITE_OK)
            r = sqlite3_step(statement);
    } else if (r == SQLITE_DONE) {
        r = SQLITE_CORRUPT; /* the index had it */
    }
    sqlite3_reset(statement);
    return r == SQLITE_DONE ? SQLITE_OK : r;
}

/** Deletes the oldest few that lie before a time. */
static int delete_step(struct writer *w, uint64_t before_ns, uint64_t *ret_n)
{
    int64_t seqs[DELETE_STEP];
    sqlite3_stmt *statement;
    uint64_t n = 0;
    int r = schema_statement(&w->schema, STATEMENT_OLDEST, &statement);

    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_int64(statement, 1, (int64_t)MIN(before_ns, (uint64_t)INT64_MAX));
    sqlite3_bind_int64(statement, 2, DELETE_STEP);
    while ((r = sqlite3_step(statement)) == SQLITE_ROW && n < DELETE_STEP)
        seqs[n++] = sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    for (uint64_t i = 0; r == SQLITE_DONE && i < n; i++) {
        int deleted = delete_record(w, seqs[i]);

        r = deleted == SQLITE_OK ? SQLITE_DONE : deleted;
    }
    *ret_n = n;
    return r == SQLITE_DONE ? SQLITE_OK : r;
}

static int delete_oldest(struct writer *w, uint64_t max, uint64_t *ret_n)
{
    uint64_t max_size = w->options->max_size;
    uint64_t counted, n;
    int r;

    /* The cursor has to be past what goes: at the next start nobody can tell where it was. */
    if (w->files_ready && w->flushed_seq > w->synced_seq && files_sync(&w->files) == 0)
        w->synced_seq = w->flushed_seq;

    for (*ret_n = 0; *ret_n < max; *ret_n += n) {
        r = stacks_flush(&w->stacks, &w->schema);
        if (r == SQLITE_OK)
            r = measure(w, &counted);
        if (r != SQLITE_OK)
            return r;
        /* Well below, so that it is not done again for every record. */
        if (max_size && (counted > max_size || (w->shrinking && counted > max_size / 20 * 19)))
            w->shrinking = true;
        else
            w->shrinking = false;
        r = delete_step(w, w->shrinking ? UINT64_MAX : w->cutoff_ns, &n);
        if (r != SQLITE_OK)
            return r;
        if (n == 0) {
            w->deleting = w->shrinking = false;
            break;
        }
    }
    return SQLITE_OK;
}

static int save_metas(struct writer *w, const struct writer_meta *metas, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        sqlite3_stmt *statement;
        int r = schema_statement(&w->schema, STATEMENT_SAVE_META, &statement);

        if (r != SQLITE_OK)
            return r;
        sqlite3_bind_text(statement, 1, metas[i].name, -1, SQLITE_STATIC);
        sqlite3_bind_text(statement, 2, metas[i].text, -1, SQLITE_STATIC);
        r = schema_run(&w->schema, STATEMENT_SAVE_META);
        sqlite3_clear_bindings(statement);
        if (r != SQLITE_OK)
            return r;
    }
    return SQLITE_OK;
}

static int reject(struct writer *w, const char *target, const struct writer_rejection *rejection)
{
    sqlite3_stmt *statement;
    int r = schema_statement(&w->schema, STATEMENT_REJECT, &statement);

    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_int64(statement, 1, (int64_t)rejection->seq);
    sqlite3_bind_text(statement, 2, target, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 3, (int64_t)clock_now_ns(CLOCK_REALTIME));
    sqlite3_bind_text(statement, 4, rejection->reason, -1, SQLITE_STATIC);
    r = schema_run(&w->schema, STATEMENT_REJECT);
    sqlite3_clear_bindings(statement);
    return r;
}

/**
 * What was on its way to a server when retention deleted it was counted as deleted, and has
 * arrived: more is dealt with than there still is up to the new cursor.
 */
static int correct_deleted(struct writer *w, struct store_target *target,
                           const struct writer_advance *advance)
{
    uint64_t dealt_with = advance->uploaded + advance->n_rejections, left;
    sqlite3_stmt *statement;
    int r;

    if (dealt_with == 0 || target->deleted == 0 || advance->seq <= target->seq)
        return SQLITE_OK;
    r = schema_statement(&w->schema, STATEMENT_COUNT, &statement);
    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_int64(statement, 1, (int64_t)target->seq);
    sqlite3_bind_int64(statement, 2, (int64_t)advance->seq);
    r = sqlite3_step(statement);
    if (r == SQLITE_ROW) {
        left = (uint64_t)sqlite3_column_int64(statement, 0);
        if (dealt_with > left)
            target->deleted -= MIN(dealt_with - left, target->deleted);
        r = SQLITE_OK;
    }
    sqlite3_reset(statement);
    return r;
}

/** Before anything is deleted, so that what was uploaded is not taken for what was not. */
static int advance_targets(struct writer *w, const struct writer_batch *batch)
{
    int r = SQLITE_OK;

    for (unsigned i = 0; i < batch->n_advances; i++) {
        const struct writer_advance *advance = &batch->advances[i];
        struct store_target *target = find_target(w, advance->name);

        if (!target) /* as many as there may be are in the table already, from other times */
            continue;
        target->active = true;
        r = r == SQLITE_OK ? correct_deleted(w, target, advance) : r;
        target->seq = MAX(target->seq, advance->seq);
        target->uploaded += advance->uploaded;
        target->retried += advance->retried;
        target->rejected += advance->n_rejections;
        for (size_t j = 0; r == SQLITE_OK && j < advance->n_rejections; j++)
            r = reject(w, advance->name, &advance->rejections[j]);
    }
    return r;
}

static int save_targets(struct writer *w)
{
    int r = SQLITE_OK;

    for (unsigned i = 0; r == SQLITE_OK && i < w->n_targets; i++) {
        const struct store_target *target = &w->targets[i];
        sqlite3_stmt *statement;

        r = schema_statement(&w->schema, STATEMENT_SAVE_TARGET, &statement);
        if (r != SQLITE_OK)
            return r;
        sqlite3_bind_text(statement, 1, target->name, -1, SQLITE_STATIC);
        sqlite3_bind_int64(statement, 2, (int64_t)target->seq);
        sqlite3_bind_int64(statement, 3, (int64_t)target->uploaded);
        sqlite3_bind_int64(statement, 4, (int64_t)target->retried);
        sqlite3_bind_int64(statement, 5, (int64_t)target->rejected);
        sqlite3_bind_int64(statement, 6, (int64_t)target->deleted);
        r = schema_run(&w->schema, STATEMENT_SAVE_TARGET);
        sqlite3_clear_bindings(statement);
    }
    return r;
}

static int save_state(struct writer *w, uint64_t next_seq, uint64_t n_records, uint64_t files_seq)
{
    sqlite3_stmt *statement;
    int r = schema_statement(&w->schema, STATEMENT_SAVE_STATE, &statement);

    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_int64(statement, 1, (int64_t)next_seq);
    sqlite3_bind_int64(statement, 2, (int64_t)n_records);
    sqlite3_bind_int64(statement, 3, (int64_t)files_seq);
    sqlite3_bind_int(statement, 4, w->clean);
    return schema_run(&w->schema, STATEMENT_SAVE_STATE);
}

static int transact(struct writer *w, const struct writer_batch *batch)
{
    struct schema *s = &w->schema;
    uint64_t next_seq = s->next_seq, deleted = 0, n_records, files_seq;
    int r = schema_run(s, STATEMENT_BEGIN);

    if (r == SQLITE_OK)
        r = add_records(w, batch->docs, batch->n, &next_seq);
    if (r == SQLITE_OK)
        r = advance_targets(w, batch);
    if (r == SQLITE_OK && w->deleting)
        r = delete_oldest(w, batch->n + DELETE_ROWS, &deleted);
    if (r == SQLITE_OK)
        r = save_targets(w);
    if (r == SQLITE_OK)
        r = save_metas(w, batch->metas, batch->n_metas);
    if (r == SQLITE_OK)
        r = stacks_flush(&w->stacks, s);
    n_records = s->n_records + (next_seq - s->next_seq);
    n_records -= MIN(deleted, n_records);
    files_seq = w->options->record_files ? w->synced_seq : next_seq - 1;
    if (r == SQLITE_OK)
        r = save_state(w, next_seq, n_records, files_seq);
    if (r == SQLITE_OK)
        r = schema_run(s, STATEMENT_COMMIT);
    if (r != SQLITE_OK)
        return r;

    w->first_seq = s->next_seq;
    s->next_seq = w->next_seq = next_seq;
    s->n_records = n_records;
    s->files_seq = files_seq;
    s->clean = w->clean;
    w->deleted += deleted;
    w->committed_ns = now_ns();
    return SQLITE_OK;
}

/** As far as readers allow, without waiting for them. */
static int checkpoint(struct writer *w, int mode)
{
    int pages = 0, done = 0, r;

    sqlite3_busy_timeout(w->schema.db, 0);
    r = sqlite3_wal_checkpoint_v2(w->schema.db, "main", mode, &pages, &done);
    sqlite3_busy_timeout(w->schema.db, 1000);
    w->checkpointed_ns = now_ns();
    if (r == SQLITE_OK && pages == done)
        w->schema.wal_pages = 0;
    return (r & 0xff) == SQLITE_BUSY || (r & 0xff) == SQLITE_LOCKED ? SQLITE_OK : r;
}

/** What stands after a commit: is it too large, is the WAL too long. */
static int measure_committed(struct writer *w)
{
    uint64_t max_size = w->options->max_size, counted;
    int r = measure(w, &counted);

    if (r != SQLITE_OK)
        return r;
    if (max_size && counted > max_size)
        w->deleting = true;
    if (max_size && w->size_bytes > max_size && w->wal_bytes > 0 &&
        now_ns() >= w->checkpointed_ns + NS_PER_SEC)
        r = checkpoint(w, SQLITE_CHECKPOINT_TRUNCATE);
    else if ((uint64_t)w->schema.wal_pages * w->schema.page_size >= w->max_wal_bytes)
        r = checkpoint(w, SQLITE_CHECKPOINT_PASSIVE);
    /* Without room to copy the WAL back, the next commit still may find room in the WAL. */
    return schema_is_damage(r) ? r : SQLITE_OK;
}

int writer_commit(struct writer *w, const struct writer_batch *batch)
{
    struct store_target targets[STORE_TARGETS_MAX];
    unsigned n_targets;
    int r = w->schema.db ? SQLITE_OK : writer_open(w);

    if (r != SQLITE_OK)
        return r;
    memcpy(targets, w->targets, sizeof(targets));
    n_targets = w->n_targets;
    /* Emptying the WAL may make the room that is wanting. */
    if (w->full)
        checkpoint(w, SQLITE_CHECKPOINT_TRUNCATE);
    r = transact(w, batch);
    if (r == SQLITE_OK) {
        w->full = false;
        w->os_error = 0;
        for (unsigned i = 0; i < w->n_targets; i++)
            if (w->targets[i].active && w->targets[i].deleted > targets[i].deleted)
                w->unsent += w->targets[i].deleted - targets[i].deleted;
        return SQLITE_OK;
    }

    memcpy(w->targets, targets, sizeof(targets));
    w->n_targets = n_targets;
    w->os_error = (r & 0xff) == SQLITE_IOERR || (r & 0xff) == SQLITE_CANTOPEN
                      ? sqlite3_system_errno(w->schema.db)
                      : 0;
    w->full = is_full(w, r);
    schema_rollback(&w->schema);
    stacks_reset(&w->stacks);
    /* After other failures than these a connection may hold on to what no longer is. */
    if (!w->full && (r & 0xff) != SQLITE_BUSY)
        close_database(w, !schema_is_damage(r));
    return r;
}

/* ---- the record files */

static void files_failed(struct writer *w, int r)
{
    char problem[sizeof(w->files_problem)], text[96];

    snprintf(problem, sizeof(problem),
             "%s: %s; the database goes on, the files are completed when it is mended",
             w->files.problem, strerror_r(-r, text, sizeof(text)));
    if (!*w->files_problem)
        log_error("%s", problem);
    memcpy(w->files_problem, problem, sizeof(problem));
    close_files(w);
}

/** Appends what the database has and the files have not. */
static int catch_up(struct writer *w, int *ret_files)
{
    _cleanup_(text_done) struct text json = {};
    sqlite3_stmt *following, *stack_text;
    uint64_t reached = w->flushed_seq;
    unsigned n = 0;
    int r = schema_statement(&w->schema, STATEMENT_FOLLOWING, &following);

    if (r == SQLITE_OK)
        r = schema_statement(&w->schema, STATEMENT_STACK_TEXT, &stack_text);
    if (r != SQLITE_OK)
        return r;

    sqlite3_bind_int64(following, 1, (int64_t)w->flushed_seq);
    sqlite3_bind_int64(following, 2, CATCH_UP_ROWS);
    while (*ret_files == 0 && (r = sqlite3_step(following)) == SQLITE_ROW) {
        const char *container_id = (const char *)sqlite3_column_text(following, 4);
        const char *cut = (const char *)sqlite3_column_text(following, 5);
        const char *stacks = (const char *)sqlite3_column_text(following, 6);

        json.len = 0;
        r = schema_compose(stack_text, cut, (size_t)sqlite3_column_bytes(following, 5), stacks,
                           &json);
        if (r != SQLITE_OK)
            break;
        *ret_files =
            files_add(&w->files, &(struct store_row){
                                     .seq = (uint64_t)sqlite3_column_int64(following, 0),
                                     .realtime_ns = (uint64_t)sqlite3_column_int64(following, 1),
                                     .id = (const char *)sqlite3_column_text(following, 2),
                                     .tracer_name = (const char *)sqlite3_column_text(following, 3),
                                     .container_id = container_id ? container_id : "",
                                     .json = json.data,
                                     .len = json.len,
                                 });
        reached = (uint64_t)sqlite3_column_int64(following, 0);
        n++;
    }
    sqlite3_reset(following);
    if (*ret_files == 0)
        *ret_files = files_flush(&w->files);
    if (*ret_files == 0 && (r == SQLITE_DONE || r == SQLITE_ROW))
        w->flushed_seq = n < CATCH_UP_ROWS ? w->schema.next_seq - 1 : reached;
    return r == SQLITE_DONE || r == SQLITE_ROW ? SQLITE_OK : r;
}

static int add_to_files(struct writer *w, struct doc *const *docs, unsigned n)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < n; i++) {
        if (!w->seqs[i])
            continue;
        r = files_add(&w->files, &(struct store_row){
                                     .seq = w->seqs[i],
                                     .realtime_ns = docs[i]->realtime_ns,
                                     .id = docs[i]->id,
                                     .tracer_name = docs[i]->tracer_name,
                                     .container_id = docs[i]->container_id,
                                     .json = docs[i]->json,
                                     .len = docs[i]->len,
                                 });
    }
    if (r == 0)
        r = files_flush(&w->files);
    if (r == 0)
        w->flushed_seq = w->schema.next_seq - 1;
    return r;
}

int writer_files(struct writer *w, struct doc *const *docs, unsigned n)
{
    uint64_t now = now_ns();
    int r = SQLITE_OK, files = 0;

    if (!w->options->record_files || !w->schema.db)
        return SQLITE_OK;
    if (!w->files_ready) {
        if (w->files_tried_ns && now < w->files_tried_ns + FILES_RETRY_NS)
            return SQLITE_OK;
        w->files_tried_ns = now;
        files = files_open(&w->files);
        w->files_ready = true;
    }
    if (files == 0 && w->flushed_seq + 1 < w->schema.next_seq) {
        if (n && w->flushed_seq + 1 == w->first_seq)
            files = add_to_files(w, docs, n);
        else
            r = catch_up(w, &files);
    }

    if (files < 0) {
        files_failed(w, files);
    } else if (*w->files_problem) {
        log_info("The record files in %s are written again.", w->files.path);
        w->files_problem[0] = '\0';
    }
    return r;
}

bool writer_files_behind(const struct writer *w)
{
    return w->files_ready && w->flushed_seq + 1 < w->schema.next_seq;
}

/* ---- what falls due by itself */

/** Somebody may have taken the files away; what we wrote then would be nowhere. */
static int look_after_file(struct writer *w)
{
    struct stat st;

    if (stat(w->path, &st) == 0 && st.st_ino == w->schema.ino && st.st_dev == w->schema.dev)
        return SQLITE_OK;
    log_error(
        "The store's database %s was removed or replaced while it was in use. What it held is "
        "lost to the agent; a new one is begun where there is none.",
        w->path);
    close_database(w, false);
    return writer_open(w);
}

static int find_old(struct writer *w)
{
    uint64_t now = clock_now_ns(CLOCK_REALTIME), retain_ns = w->options->retain_ns;
    sqlite3_stmt *statement;
    int r = schema_statement(&w->schema, STATEMENT_OLDEST, &statement);

    if (r != SQLITE_OK)
        return r;
    w->cutoff_ns = retain_ns && retain_ns < now ? now - retain_ns : 0;
    sqlite3_bind_int64(statement, 1, (int64_t)w->cutoff_ns);
    sqlite3_bind_int64(statement, 2, 1);
    r = sqlite3_step(statement);
    sqlite3_reset(statement);
    if (r == SQLITE_ROW)
        w->deleting = true;
    return r == SQLITE_ROW || r == SQLITE_DONE ? SQLITE_OK : r;
}

/** Gives space back to the file system, where it is much and nobody waits. */
static int give_back(struct writer *w)
{
    uint64_t pages, unused;
    char sql[64];
    int r = schema_number(&w->schema, STATEMENT_PAGES, &pages);

    if (r == SQLITE_OK)
        r = schema_number(&w->schema, STATEMENT_FREE_PAGES, &unused);
    if (r != SQLITE_OK || unused <= pages / 10 || unused < VACUUM_PAGES / 10)
        return r;
    snprintf(sql, sizeof(sql), "PRAGMA incremental_vacuum(%d)", VACUUM_PAGES);
    return sqlite3_exec(w->schema.db, sql, NULL, NULL, NULL);
}

static int tidy_idle(struct writer *w, uint64_t now)
{
    uint64_t idle_ns = now - w->committed_ns;
    int r = SQLITE_OK;

    if (idle_ns >= FILES_SYNC_NS && w->synced_seq != w->schema.files_seq &&
        w->options->record_files)
        r = writer_commit(w, &(struct writer_batch){});
    if (r == SQLITE_OK && idle_ns >= IDLE_NS)
        r = give_back(w);
    if (r == SQLITE_OK && ((w->schema.wal_pages >= IDLE_WAL_PAGES && idle_ns >= IDLE_NS) ||
                           (w->schema.wal_pages > 0 && idle_ns >= IDLE_CHECKPOINT_NS)))
        r = checkpoint(w, SQLITE_CHECKPOINT_TRUNCATE);
    return r;
}

int writer_tidy(struct writer *w, bool idle)
{
    uint64_t now = now_ns();
    int r, files;

    if (!w->schema.db)
        return SQLITE_OK;
    r = measure_committed(w);
    if (r == SQLITE_OK && now >= w->looked_ns + LOOK_NS) {
        w->looked_ns = now;
        r = look_after_file(w);
    }
    if (r == SQLITE_OK && (!w->retained_ns || now >= w->retained_ns + RETAIN_NS)) {
        w->retained_ns = now;
        r = find_old(w);
    }
    if (w->files_ready && w->flushed_seq > w->synced_seq && now >= w->synced_ns + FILES_SYNC_NS) {
        w->synced_ns = now;
        files = files_sync(&w->files);
        if (files < 0)
            files_failed(w, files);
        else
            w->synced_seq = w->flushed_seq;
    }
    if (r == SQLITE_OK && idle)
        r = tidy_idle(w, now);
    return r;
}

void writer_done(struct writer *w, bool in_order)
{
    if (w->schema.db && in_order) {
        if (w->files_ready && files_sync(&w->files) == 0)
            w->synced_seq = w->flushed_seq;
        w->clean = true;
        w->deleting = false;
        writer_commit(w, &(struct writer_batch){});
    }
    close_files(w);
    close_database(w, in_order);
    text_done(&w->cut);
    text_done(&w->column);
}
