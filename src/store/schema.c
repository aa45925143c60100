// SPDX-License-Identifier: Apache-2.0
#include "store/schema.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define DAMAGED_PREFIX "huatuo.db.damaged-"
#define DAMAGED_KEEP   3 /* a disk that goes on failing must not fill itself with copies */
#define BUSY_MS        1000
#define CACHE_KIB      8192
#define CHECK_STEPS    100000 /* virtual machine steps between two looks at `stop` */

/*
 * Every index costs each record some microseconds, so there are few, and all grow at one end.
 * A container's id is NULL rather than empty where there is none, so that the index leaves it out.
 * `stacks` is "id:offset,…", offsets into the text that is left when they are cut out.
 */
static const char tables[] =
    "CREATE TABLE records(seq INTEGER PRIMARY KEY, id TEXT NOT NULL, time INTEGER NOT NULL,"
    " tracer_name TEXT NOT NULL, pid INTEGER, container_id TEXT, stacks TEXT, json TEXT NOT NULL);"
    "CREATE UNIQUE INDEX records_id ON records(id);"
    "CREATE INDEX records_time ON records(time);"
    "CREATE INDEX records_tracer ON records(tracer_name, time);"
    "CREATE INDEX records_container ON records(container_id, time)"
    " WHERE container_id IS NOT NULL;"
    "CREATE TABLE stacks(id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, uses INTEGER NOT NULL,"
    " text TEXT NOT NULL);"
    "CREATE INDEX stacks_hash ON stacks(hash);"
    "CREATE TABLE meta(name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE state(one INTEGER PRIMARY KEY CHECK(one = 1), next_seq INTEGER NOT NULL,"
    " n_records INTEGER NOT NULL, files_seq INTEGER NOT NULL, clean INTEGER NOT NULL);";

/*
 * How far each target has got with the records, and what it refused for good. Added to databases
 * that have been there before; an earlier version does not know them and does them no harm.
 */
static const char target_tables[] =
    "CREATE TABLE IF NOT EXISTS targets(name TEXT PRIMARY KEY, seq INTEGER NOT NULL,"
    " uploaded INTEGER NOT NULL, retried INTEGER NOT NULL, rejected INTEGER NOT NULL,"
    " deleted INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS rejected(seq INTEGER NOT NULL, target TEXT NOT NULL,"
    " time INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY(seq, target)) WITHOUT ROWID;";

static const char *const statement_texts[STATEMENT_NR] = {
    [STATEMENT_BEGIN] = "BEGIN IMMEDIATE",
    [STATEMENT_COMMIT] = "COMMIT",
    [STATEMENT_ADD_RECORD] = "INSERT INTO records(seq, id, time, tracer_name, pid, container_id,"
                             " stacks, json) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [STATEMENT_DELETE_RECORD] = "DELETE FROM records WHERE seq = ?1 RETURNING stacks",
    [STATEMENT_OLDEST] = "SELECT seq FROM records WHERE time < ?1 ORDER BY time LIMIT ?2",
    [STATEMENT_FOLLOWING] = "SELECT seq, time, id, tracer_name, container_id, json, stacks"
                            " FROM records WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    [STATEMENT_SEQ_OF_ID] = "SELECT seq FROM records WHERE id = ?1",
    [STATEMENT_FIND_STACK] = "SELECT id FROM stacks WHERE hash = ?1 AND text = ?2",
    [STATEMENT_ADD_STACK] = "INSERT INTO stacks(hash, uses, text) VALUES(?1, 0, ?2)",
    [STATEMENT_COUNT_STACK] = "UPDATE stacks SET uses = uses + ?2 WHERE id = ?1",
    [STATEMENT_DROP_STACK] = "DELETE FROM stacks WHERE id = ?1 AND uses <= 0",
    [STATEMENT_STACK_TEXT] = "SELECT text FROM stacks WHERE id = ?1",
    [STATEMENT_SAVE_META] = "INSERT INTO meta(name, text) VALUES(?1, ?2)"
                            " ON CONFLICT(name) DO UPDATE SET text = excluded.text",
    [STATEMENT_SAVE_STATE] = "UPDATE state SET next_seq = ?1, n_records = ?2, files_seq = ?3,"
                             " clean = ?4 WHERE one = 1",
    [STATEMENT_PAGES] = "PRAGMA page_count",
    [STATEMENT_FREE_PAGES] = "PRAGMA freelist_count",
    [STATEMENT_TARGETS] = "SELECT name, seq, uploaded, retried, rejected, deleted FROM targets",
    [STATEMENT_SAVE_TARGET] = "INSERT OR REPLACE INTO targets(name, seq, uploaded, retried,"
                              " rejected, deleted) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    /* The record may have gone meanwhile. */
    [STATEMENT_REJECT] =
        "INSERT OR REPLACE INTO rejected(seq, target, time, reason)"
        " SELECT ?1, ?2, ?3, ?4 WHERE EXISTS(SELECT 1 FROM records WHERE seq = ?1)",
    [STATEMENT_DROP_REJECTED] = "DELETE FROM rejected WHERE seq = ?1",
    [STATEMENT_COUNT] = "SELECT count(*) FROM records WHERE seq > ?1 AND seq <= ?2",
};

bool schema_is_damage(int code)
{
    return (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB;
}

int schema_statement(struct schema *s, enum schema_statement which, sqlite3_stmt **ret)
{
    sqlite3_stmt **statement = &s->statements[which];

    if (!*statement) {
        int r = sqlite3_prepare_v3(s->db, statement_texts[which], -1, SQLITE_PREPARE_PERSISTENT,
                                   statement, NULL);

        if (r != SQLITE_OK)
            return r;
    }
    sqlite3_reset(*statement);
    *ret = *statement;
    return SQLITE_OK;
}

int schema_run(struct schema *s, enum schema_statement which)
{
    sqlite3_stmt *statement;
    int r = schema_statement(s, which, &statement);

    if (r != SQLITE_OK)
        return r;
    r = sqlite3_step(statement);
    sqlite3_reset(statement);
    return r == SQLITE_DONE ? SQLITE_OK : r;
}

void schema_rollback(struct schema *s)
{
    if (!s->db)
        return;
    for (unsigned i = 0; i < STATEMENT_NR; i++)
        sqlite3_reset(s->statements[i]);
    if (!sqlite3_get_autocommit(s->db))
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
}

int schema_number(struct schema *s, enum schema_statement which, uint64_t *ret)
{
    sqlite3_stmt *statement;
    int r = schema_statement(s, which, &statement);

    if (r != SQLITE_OK)
        return r;
    r = sqlite3_step(statement);
    if (r == SQLITE_ROW) {
        *ret = (uint64_t)sqlite3_column_int64(statement, 0);
        r = SQLITE_OK;
    } else if (r == SQLITE_DONE) {
        r = SQLITE_CORRUPT;
    }
    sqlite3_reset(statement);
    return r;
}

static int exec(sqlite3 *db, const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

static int one_number(sqlite3 *db, const char *sql, int64_t *ret)
{
    sqlite3_stmt *statement;
    int r = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);

    if (r != SQLITE_OK)
        return r;
    r = sqlite3_step(statement);
    if (r == SQLITE_ROW)
        *ret = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return r == SQLITE_ROW ? SQLITE_OK : r == SQLITE_DONE ? SQLITE_CORRUPT : r;
}

/** What is committed survives a power cut; checkpoints are made when we see fit. */
static int configure(sqlite3 *db, uint64_t max_wal_bytes)
{
    char sql[512];

    snprintf(sql, sizeof(sql),
             "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;"
             "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;"
             "PRAGMA journal_size_limit = %" PRIu64 "; PRAGMA temp_store = MEMORY;"
             "PRAGMA cache_size = -%d; PRAGMA trusted_schema = OFF;",
             max_wal_bytes, CACHE_KIB);
    return exec(db, sql);
}

static int make_tables(sqlite3 *db, uint64_t first_seq)
{
    char sql[256];
    int r = exec(db, "BEGIN IMMEDIATE");

    if (r != SQLITE_OK)
        return r;
    r = exec(db, tables);
    snprintf(sql, sizeof(sql),
             "INSERT INTO state VALUES(1, %" PRIu64 ", 0, %" PRIu64
             ", 1); PRAGMA user_version = %d; COMMIT",
             first_seq, first_seq - 1, SCHEMA_VERSION);
    if (r == SQLITE_OK)
        r = exec(db, sql);
    if (r != SQLITE_OK)
        exec(db, "ROLLBACK");
    return r;
}

static int load_state(struct schema *s)
{
    sqlite3_stmt *statement;
    int r = sqlite3_prepare_v2(
        s->db, "SELECT next_seq, n_records, files_seq, clean FROM state WHERE one = 1", -1,
        &statement, NULL);

    if (r != SQLITE_OK)
        return r;
    r = sqlite3_step(statement);
    if (r == SQLITE_ROW) {
        s->next_seq = (uint64_t)sqlite3_column_int64(statement, 0);
        s->n_records = (uint64_t)sqlite3_column_int64(statement, 1);
        s->files_seq = (uint64_t)sqlite3_column_int64(statement, 2);
        s->clean = sqlite3_column_int(statement, 3);
    }
    sqlite3_finalize(statement);
    return r == SQLITE_ROW ? SQLITE_OK : r == SQLITE_DONE ? SQLITE_CORRUPT : r;
}

static int on_wal(void *arg, sqlite3 *db, const char *name, int pages)
{
    struct schema *s = arg;

    (void)db;
    (void)name;
    s->wal_pages = pages;
    return SQLITE_OK;
}

static int open_file(struct schema *s, const char *path)
{
    struct stat st;
    int persist = 1, r;

    /* SQLite would make it readable for all, and gives WAL and index the mode of the database.
     * One that exists is not touched: closing a descriptor of it drops this process's locks. */
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd >= 0) {
        fd_close(fd);
    } else if (errno != EEXIST) {
        s->os_error = errno;
        return SQLITE_CANTOPEN;
    }

    r = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (r != SQLITE_OK)
        return r;
    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_timeout(s->db, BUSY_MS);
    /* Readers who may not write into the directory need WAL and index also while nobody writes. */
    sqlite3_file_control(s->db, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
    if (stat(path, &st) < 0)
        return SQLITE_CANTOPEN;
    s->dev = st.st_dev;
    s->ino = st.st_ino;
    return SQLITE_OK;
}

static int open_tables(struct schema *s, uint64_t first_seq, uint64_t max_wal_bytes)
{
    int64_t version = 0, n_tables = 0, page_size = 0;
    int r = one_number(s->db, "PRAGMA user_version", &version);

    if (r != SQLITE_OK)
        return r;
    if (version > SCHEMA_VERSION)
        return SCHEMA_NEWER;
    if (version < SCHEMA_VERSION) {
        r = one_number(s->db, "SELECT count(*) FROM sqlite_schema", &n_tables);
        if (r != SQLITE_OK)
            return r;
        if (version != 0 || n_tables != 0)
            return SCHEMA_FOREIGN;
    }
    r = configure(s->db, max_wal_bytes);
    /* Not before: `PRAGMA wal_autocheckpoint` is a WAL hook itself and takes another's place. */
    sqlite3_wal_hook(s->db, on_wal, s);
    if (r == SQLITE_OK && version == 0)
        r = make_tables(s->db, first_seq);
    if (r == SQLITE_OK)
        r = exec(s->db, target_tables);
    if (r == SQLITE_OK)
        r = load_state(s);
    if (r == SQLITE_OK)
        r = one_number(s->db, "PRAGMA page_size", &page_size);
    s->page_size = (uint64_t)page_size;
    /* What was promised to be there and is not: the file was cut or overwritten. */
    return (r & 0xff) == SQLITE_ERROR ? SQLITE_CORRUPT : r;
}

int schema_open(struct schema *s, const char *path, uint64_t first_seq, uint64_t max_wal_bytes)
{
    int r;

    *s = (struct schema){0};
    r = open_file(s, path);
    if (r == SQLITE_OK)
        r = open_tables(s, first_seq, max_wal_bytes);
    if (r != SQLITE_OK) {
        if (s->db && !s->os_error)
            s->os_error = sqlite3_system_errno(s->db);
        schema_close(s, !schema_is_damage(r));
    }
    return r;
}

void schema_close(struct schema *s, bool checkpoint)
{
    if (s->db && !checkpoint)
        sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    for (unsigned i = 0; i < STATEMENT_NR; i++) {
        sqlite3_finalize(s->statements[i]);
        s->statements[i] = NULL;
    }
    sqlite3_close(s->db);
    s->db = NULL;
}

static int on_progress(void *arg)
{
    return atomic_load((const _Atomic bool *)arg);
}

int schema_check(struct schema *s, const _Atomic bool *stop)
{
    sqlite3_stmt *statement = NULL;
    int r;

    sqlite3_progress_handler(s->db, CHECK_STEPS, on_progress, (void *)stop);
    r = sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &statement, NULL);
    if (r == SQLITE_OK) {
        r = sqlite3_step(statement);
        if (r == SQLITE_ROW) {
            const char *text = (const char *)sqlite3_column_text(statement, 0);

            r = text && strcmp(text, "ok") == 0 ? SQLITE_OK : SQLITE_CORRUPT;
        }
    }
    sqlite3_finalize(statement);
    sqlite3_progress_handler(s->db, 0, NULL, NULL);
    return r;
}

static int is_damaged_copy(const struct dirent *entry)
{
    size_t len = strlen(entry->d_name);

    return strncmp(entry->d_name, DAMAGED_PREFIX, strlen(DAMAGED_PREFIX)) == 0 &&
           (len < 4 || (strcmp(entry->d_name + len - 4, "-wal") != 0 &&
                        strcmp(entry->d_name + len - 4, "-shm") != 0));
}

static const char *const companions[] = {"-wal", "-shm", ""};

static void drop_old_copies(const char *dir)
{
    struct dirent **entries;
    char path[4096];
    int n = scandir(dir, &entries, is_damaged_copy, alphasort);

    if (n < 0)
        return;
    for (int i = 0; i < n; i++) {
        for (size_t j = 0; i < n - DAMAGED_KEEP && j < ARRAY_SIZE(companions); j++) {
            snprintf(path, sizeof(path), "%s/%s%s", dir, entries[i]->d_name, companions[j]);
            unlink(path);
        }
        free(entries[i]);
    }
    free(entries);
}

int schema_move_aside(const char *dir, char *ret, size_t ret_size)
{
    char from[4096], to[4096], stamp[32];
    time_t now = time(NULL);
    struct tm tm;

    localtime_r(&now, &tm);
    strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &tm);
    snprintf(to, sizeof(to), "%s/" DAMAGED_PREFIX "%s", dir, stamp);
    for (unsigned i = 2; access(to, F_OK) == 0 && i < 1000; i++)
        snprintf(to, sizeof(to), "%s/" DAMAGED_PREFIX "%s.%u", dir, stamp, i);
    if (snprintf(ret, ret_size, "%s", to) >= (int)ret_size)
        return -ENAMETOOLONG;

    /* The WAL goes first: were it to stay, SQLite would play it into the new database. */
    for (size_t i = 0; i < ARRAY_SIZE(companions); i++) {
        snprintf(from, sizeof(from), "%s/huatuo.db%s", dir, companions[i]);
        snprintf(to, sizeof(to), "%s%s", ret, companions[i]);
        if (rename(from, to) < 0 && errno != ENOENT)
            return -errno;
    }
    drop_old_copies(dir);
    return 0;
}

static int add_stack(sqlite3_stmt *stack_text, int64_t id, struct text *out)
{
    int r;

    sqlite3_bind_int64(stack_text, 1, id);
    r = sqlite3_step(stack_text);
    if (r == SQLITE_ROW)
        text_add(out, (const char *)sqlite3_column_text(stack_text, 0),
                 (size_t)sqlite3_column_bytes(stack_text, 0));
    sqlite3_reset(stack_text);
    return r == SQLITE_ROW ? SQLITE_OK : r == SQLITE_DONE ? SQLITE_CORRUPT : r;
}

int schema_compose(sqlite3_stmt *stack_text, const char *cut, size_t len, const char *stacks,
                   struct text *out)
{
    size_t done = 0;

    while (stacks && *stacks) {
        char *end;
        int64_t id = strtoll(stacks, &end, 10);
        uint64_t at;
        int r;

        if (*end != ':')
            return SQLITE_CORRUPT;
        at = strtoull(end + 1, &end, 10);
        if ((*end && *end != ',') || at < done || at > len)
            return SQLITE_CORRUPT;
        stacks = *end ? end + 1 : end;

        text_add(out, cut + done, at - done);
        done = at;
        r = add_stack(stack_text, id, out);
        if (r != SQLITE_OK)
            return r;
    }
    text_add(out, cut + done, len - done);
    return out->failed ? SQLITE_NOMEM : SQLITE_OK;
}
