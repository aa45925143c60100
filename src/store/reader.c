// SPDX-License-Identifier: Apache-2.0
#include "store/busfault.h"
#include "store/jsontext.h"
#include "store/schema.h"
#include "store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define BUSY_MS    2000
#define CHUNK_ROWS 1024 /* numbers that are looked up at once when the whole store is walked */
#define CACHE_KIB  4096

struct store_reader {
    char path[4096];
    sqlite3 *db;
    dev_t dev; /* of the file that is open */
    ino_t ino;
    uint64_t generation; /* how often it was opened again */
    sqlite3_stmt *row, *stack_text, *version;
    struct text json, scratch;

    /* What SQL's holds() looks for, and what it would look like in JSON. */
    struct text needle, escaped;
    struct text held;
};

/* What reading makes of SQLite's results. */
static int error_of(int code)
{
    switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -EBADMSG;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return -EACCES;
    default:
        return -EIO;
    }
}

static int compose(struct store_reader *r, sqlite3_stmt *row, int json_column, int stacks_column,
                   struct text *out)
{
    const char *cut = (const char *)sqlite3_column_text(row, json_column);
    size_t len = (size_t)sqlite3_column_bytes(row, json_column);

    out->len = 0;
    return schema_compose(r->stack_text, cut ? cut : "", len,
                          (const char *)sqlite3_column_text(row, stacks_column), out);
}

static bool contains(const struct text *text, const char *bytes, size_t len)
{
    return text->len && memmem(text->data, text->len, bytes, len);
}

/** Most records are ruled out by a look at the text as it stands: where nothing is escaped that
 * need not be, the needle looks as we would write it. */
static bool may_hold(const struct store_reader *r)
{
    return contains(&r->held, r->escaped.data, r->escaped.len) ||
           contains(&r->held, r->needle.data, r->needle.len) || contains(&r->held, "\\u", 2) ||
           contains(&r->held, "\\/", 2);
}

/** holds(json, stacks): whether a value of the record contains the needle. */
static void sql_holds(sqlite3_context *context, int n, sqlite3_value **values)
{
    struct store_reader *r = sqlite3_user_data(context);
    const char *cut = (const char *)sqlite3_value_text(values[0]);
    int code;

    (void)n;
    r->held.len = 0;
    code = schema_compose(r->stack_text, cut ? cut : "", (size_t)sqlite3_value_bytes(values[0]),
                          (const char *)sqlite3_value_text(values[1]), &r->held);
    if (code != SQLITE_OK) {
        sqlite3_result_error_code(context, code);
        return;
    }
    sqlite3_result_int(context,
                       may_hold(r) && jsontext_holds(r->held.data, r->held.len, r->needle.data,
                                                     r->needle.len, &r->scratch));
}

static void close_database(struct store_reader *r)
{
    sqlite3_finalize(r->row);
    sqlite3_finalize(r->stack_text);
    sqlite3_finalize(r->version);
    r->row = r->stack_text = r->version = NULL;
    sqlite3_close(r->db);
    r->db = NULL;
}

static int prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret)
{
    return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);
}

static int read_schema_version(sqlite3 *db, int64_t *ret)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &statement, NULL);

    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *ret = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return code == SQLITE_ROW ? SQLITE_OK : code;
}

/** SQLite's result, SCHEMA_NEWER, or SCHEMA_FOREIGN if there are no tables (yet). */
static int open_database(struct store_reader *r)
{
    char sql[128];
    int64_t version = 0;
    struct stat st;
    int code;

    if (stat(r->path, &st) < 0)
        return SQLITE_CANTOPEN;
    code = sqlite3_open_v2(r->path, &r->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    if (code != SQLITE_OK)
        return code;
    sqlite3_extended_result_codes(r->db, 1);
    sqlite3_busy_timeout(r->db, BUSY_MS);
    snprintf(sql, sizeof(sql),
             "PRAGMA temp_store = MEMORY; PRAGMA cache_size = -%d; PRAGMA trusted_schema = OFF",
             CACHE_KIB);
    code = sqlite3_exec(r->db, sql, NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = read_schema_version(r->db, &version);
    if (code != SQLITE_OK)
        return code;
    if (version > SCHEMA_VERSION)
        return SCHEMA_NEWER;
    if (version < SCHEMA_VERSION)
        return SCHEMA_FOREIGN;

    r->dev = st.st_dev;
    r->ino = st.st_ino;
    code = prepare(r->db,
                   "SELECT time, id, tracer_name, container_id, json, stacks FROM records"
                   " WHERE seq = ?1",
                   &r->row);
    if (code == SQLITE_OK)
        code = prepare(r->db, "SELECT text FROM stacks WHERE id = ?1", &r->stack_text);
    if (code == SQLITE_OK)
        code = prepare(r->db, "PRAGMA data_version", &r->version);
    if (code == SQLITE_OK)
        code = sqlite3_create_function_v2(r->db, "holds", 2,
                                          SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY, r,
                                          sql_holds, NULL, NULL, NULL);
    return code;
}

static int open_error(const struct store_reader *r, const char *dir, int code, char *error,
                      size_t error_size)
{
    int os = access(r->path, R_OK) < 0 ? errno : 0;

    if (os == ENOENT || os == ENOTDIR || (os == 0 && code == SCHEMA_FOREIGN)) {
        snprintf(error, error_size,
                 "there is no store in %s; start the agent (huatuo run), or give the directory of "
                 "its store with --store DIR",
                 dir);
        return -ENOENT;
    }
    if (os == EACCES || os == EPERM) {
        snprintf(error, error_size,
                 "may not read the store %s: %s; ask as root, or as a user who may read it",
                 r->path, strerror(os));
        return -EACCES;
    }
    if (code == SCHEMA_NEWER) {
        snprintf(error, error_size,
                 "the store %s was made by a later version of huatuo; read it with that version",
                 r->path);
        return -EPROTONOSUPPORT;
    }
    if (error_of(code) == -EBADMSG)
        snprintf(
            error, error_size,
            "the store %s is damaged: %s; restart the agent, which moves it aside and begins a "
            "new one",
            r->path, sqlite3_errstr(code));
    else
        snprintf(error, error_size, "cannot read the store %s: %s%s", r->path, sqlite3_errstr(code),
                 (code & 0xff) == SQLITE_CANTOPEN
                     ? "; if the agent does not run, ask as the user it runs as, or as root"
                     : "");
    return error_of(code);
}

int store_reader_open(const char *path, char *error, size_t error_size, struct store_reader **ret)
{
    _cleanup_(store_reader_closep) struct store_reader *r = calloc(1, sizeof(*r));
    int code;

    if (!r || snprintf(r->path, sizeof(r->path), "%s%s/huatuo.db", *path == '/' ? "" : "./",
                       path) >= (int)sizeof(r->path)) {
        snprintf(error, error_size, "cannot open the store %.100s: %s", path,
                 r ? "the path is too long" : "no memory");
        return r ? -ENAMETOOLONG : -ENOMEM;
    }
    busfault_guard();
    code = open_database(r);
    if (code != SQLITE_OK) {
        _cleanup_(text_done) struct text shown = {};

        code = open_error(r, path, code, error, error_size);
        text_add_printable(&shown, error, error_size); /* the path may be anything */
        snprintf(error, error_size, "%s", shown.data ? shown.data : "");
        return code;
    }
    *ret = TAKE_PTR(r);
    return 0;
}

/** `file:` and the path, in which a few letters mean something else to SQLite. */
static void add_uri(struct text *t, const char *path)
{
    text_adds(t, "file:");
    for (; *path; path++)
        text_addf(t, strchr("?#%", *path) ? "%%%02x" : "%c", (unsigned char)*path);
    text_adds(t, "?immutable=1");
}

int store_look(const char *path, char *error, size_t error_size)
{
    _cleanup_(store_reader_closep) struct store_reader *r = calloc(1, sizeof(*r));
    _cleanup_(text_done) struct text uri = {}, shown = {}, wal = {};
    int64_t version = 0;
    struct stat st;
    int code;

    if (!r || snprintf(r->path, sizeof(r->path), "%s%s/huatuo.db", *path == '/' ? "" : "./",
                       path) >= (int)sizeof(r->path))
        return r ? -ENAMETOOLONG : -ENOMEM;
    if (lstat(r->path, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode)) {
        snprintf(error, error_size, "huatuo.db is no plain file");
        return -EBADMSG;
    }
    busfault_guard();
    add_uri(&uri, r->path);
    text_addf(&wal, "%s-wal", r->path);
    if (uri.failed || wal.failed)
        return -ENOMEM;
    code = sqlite3_open_v2(uri.data, &r->db,
                           SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL);
    if (code == SQLITE_OK)
        code = read_schema_version(r->db, &version);
    if (code == SQLITE_OK && version > SCHEMA_VERSION)
        code = SCHEMA_NEWER;
    /* All of a young one may still be in the log, which is not looked into. */
    if (code == SQLITE_OK && version < SCHEMA_VERSION &&
        (stat(wal.data, &st) < 0 || st.st_size == 0))
        code = SCHEMA_FOREIGN;
    if (code == SQLITE_OK)
        return 0;
    if (code == SCHEMA_FOREIGN) {
        snprintf(error, error_size, "huatuo.db is empty, or a database of somebody else");
        return -ENOENT;
    }
    code = open_error(r, path, code, error, error_size);
    text_add_printable(&shown, error, error_size);
    snprintf(error, error_size, "%s", shown.data ? shown.data : "");
    return code;
}

struct store_reader *store_reader_close(struct store_reader *r)
{
    if (!r)
        return NULL;
    close_database(r);
    text_done(&r->json);
    text_done(&r->scratch);
    text_done(&r->needle);
    text_done(&r->escaped);
    text_done(&r->held);
    free(r);
    return NULL;
}

/** The writer puts a damaged database aside and begins a new one: follow it there. */
static int refresh(struct store_reader *r)
{
    struct stat st;

    if (stat(r->path, &st) < 0)
        return r->db ? 0 : -errno; /* for the moment the old one is all there is */
    busfault_guard();
    if (!busfault_happened() && r->db && st.st_ino == r->ino && st.st_dev == r->dev)
        return 0;
    close_database(r);
    r->generation++;
    int code = open_database(r);
    if (code == SQLITE_OK)
        return 0;
    close_database(r);
    return code == SCHEMA_NEWER || code == SCHEMA_FOREIGN ? -EPROTONOSUPPORT : error_of(code);
}

/* ---- one row */

/**
 * Nothing stays locked while `fn` runs: however slow whoever reads us is, the writer's WAL can be
 * emptied.
 */
static bool has_table(struct store_reader *r, const char *name)
{
    sqlite3_stmt *statement = NULL;
    bool there = false;

    if (sqlite3_prepare_v2(r->db, "SELECT 1 FROM sqlite_schema WHERE name = ?1", -1, &statement,
                           NULL) == SQLITE_OK) {
        sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
        there = sqlite3_step(statement) == SQLITE_ROW;
    }
    sqlite3_finalize(statement);
    return there;
}

/** Once for each target that refused it. Nothing is locked while `fn` runs, here neither. */
static int pass_rejected(struct store_reader *r, struct store_row *row,
                         int (*fn)(void *arg, const struct store_row *row), void *arg)
{
    struct {
        char target[STORE_TARGET_NAME_MAX], reason[STORE_REASON_MAX + 1];
        uint64_t time_ns;
    } by[STORE_TARGETS_MAX] = {};
    sqlite3_stmt *statement = NULL;
    size_t n = 0;
    int e = 0,
        code = sqlite3_prepare_v2(r->db, "SELECT target, reason, time FROM rejected WHERE seq = ?1",
                                  -1, &statement, NULL);

    if (code == SQLITE_OK)
        sqlite3_bind_int64(statement, 1, (int64_t)row->seq);
    while (code == SQLITE_OK && n < ARRAY_SIZE(by) &&
           (code = sqlite3_step(statement)) == SQLITE_ROW) {
        snprintf(by[n].target, sizeof(by[n].target), "%s",
                 (const char *)sqlite3_column_text(statement, 0));
        snprintf(by[n].reason, sizeof(by[n].reason), "%s",
                 (const char *)sqlite3_column_text(statement, 1));
        by[n++].time_ns = (uint64_t)sqlite3_column_int64(statement, 2);
        code = SQLITE_OK;
    }
    sqlite3_finalize(statement);
    if (error_of(code) < 0)
        return error_of(code);
    for (size_t i = 0; e == 0 && i < n; i++) {
        row->rejected_by = by[i].target;
        row->reason = by[i].reason;
        row->rejected_ns = by[i].time_ns;
        e = fn(arg, row);
    }
    return e;
}

static int pass_row(struct store_reader *r, uint64_t seq, bool rejected,
                    int (*fn)(void *arg, const struct store_row *row), void *arg)
{
    char id[64], tracer_name[64], container_id[128];
    struct store_row row = {.seq = seq};
    int code;

    sqlite3_reset(r->row);
    sqlite3_bind_int64(r->row, 1, (int64_t)seq);
    code = sqlite3_step(r->row);
    if (code == SQLITE_ROW) {
        const char *container = (const char *)sqlite3_column_text(r->row, 3);

        row.realtime_ns = (uint64_t)sqlite3_column_int64(r->row, 0);
        snprintf(id, sizeof(id), "%s", (const char *)sqlite3_column_text(r->row, 1));
        snprintf(tracer_name, sizeof(tracer_name), "%s",
                 (const char *)sqlite3_column_text(r->row, 2));
        snprintf(container_id, sizeof(container_id), "%s", container ? container : "");
        code = compose(r, r->row, 4, 5, &r->json);
    } else if (code == SQLITE_DONE) {
        sqlite3_reset(r->row);
        return 0; /* deleted since we found it */
    }
    sqlite3_reset(r->row);
    if (code != SQLITE_OK)
        return error_of(code);

    row.id = id;
    row.tracer_name = tracer_name;
    row.container_id = container_id;
    row.json = r->json.data ? r->json.data : "";
    row.len = r->json.len;
    return rejected ? pass_rejected(r, &row, fn, arg) : fn(arg, &row);
}

/* ---- many rows */

struct seq_list {
    uint64_t *items; /* owned */
    size_t n, size;
};

static void seq_list_done(struct seq_list *list)
{
    free(list->items);
}

static int seq_list_add(struct seq_list *list, uint64_t seq)
{
    if (list->n == list->size) {
        size_t size = MAX(2 * list->size, (size_t)256);
        uint64_t *items = reallocarray(list->items, size, sizeof(*items));

        if (!items)
            return -ENOMEM;
        list->items = items;
        list->size = size;
    }
    list->items[list->n++] = seq;
    return 0;
}

static int compare_seqs(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/** Steps through a statement and frees it. */
static int collect(sqlite3_stmt *statement, struct seq_list *ret)
{
    int code, e = 0;

    while ((code = sqlite3_step(statement)) == SQLITE_ROW && e == 0)
        e = seq_list_add(ret, (uint64_t)sqlite3_column_int64(statement, 0));
    sqlite3_finalize(statement);
    if (e < 0)
        return e;
    if (code != SQLITE_DONE)
        return error_of(code);
    if (ret->n)
        qsort(ret->items, ret->n, sizeof(*ret->items), compare_seqs);
    return 0;
}

/**
 * How a query is answered. `walk`: in the order of numbers, a chunk at a time, without indexes; for
 * cursors and for all there is. Else by index, all at once: then it is the matching records whose
 * numbers are held in memory.
 */
static bool is_walk(const struct store_query *q)
{
    return q->after_seq > 0 ||
           (!q->tracer_names && !q->container && !q->since_ns && !q->until_ns && !q->limit);
}

static void query_text(const struct store_query *q, struct text *sql)
{
    /* A plus keeps a term from choosing the index. */
    const char *plus = is_walk(q) ? "+" : "";

    text_addf(sql, "SELECT seq FROM records WHERE %sseq > ?", is_walk(q) ? "" : "+");
    if (q->tracer_names) {
        text_addf(sql, " AND %stracer_name IN (", plus);
        for (size_t i = 0; q->tracer_names[i]; i++)
            text_adds(sql, i ? ", ?" : "?");
        text_adds(sql, ")");
    }
    if (q->since_ns)
        text_addf(sql, " AND %stime >= ?", plus);
    if (q->until_ns)
        text_addf(sql, " AND %stime <= ?", plus);
    if (q->container && strlen(q->container) == DOC_CONTAINER_LEN)
        text_addf(sql, " AND %scontainer_id = ?", plus);
    else if (q->container)
        text_addf(sql, " AND %scontainer_id >= ? AND %scontainer_id < ?", plus, plus);
    if (q->pid)
        text_adds(sql, " AND pid = ?");
    if (q->rejected)
        text_adds(sql, " AND seq IN (SELECT seq FROM rejected)");
    if (q->match)
        text_adds(sql, " AND holds(json, stacks)");
    if (q->limit)
        text_adds(sql, is_walk(q) ? " ORDER BY seq DESC" : " ORDER BY time DESC, seq DESC");
    else if (is_walk(q))
        text_adds(sql, " ORDER BY seq");
    text_adds(sql, " LIMIT ?");
}

static int bind_prefix_end(sqlite3_stmt *statement, int at, const char *prefix)
{
    _cleanup_(text_done) struct text end = {};

    text_addf(&end, "%s\x7f", prefix);
    if (end.failed)
        return SQLITE_NOMEM;
    return sqlite3_bind_text(statement, at, end.data, -1, SQLITE_TRANSIENT);
}

static int query_bind(const struct store_query *q, uint64_t after_seq, int64_t limit,
                      sqlite3_stmt *statement)
{
    int at = 1, code = SQLITE_OK;

    sqlite3_bind_int64(statement, at++, (int64_t)MIN(after_seq, (uint64_t)INT64_MAX));
    for (size_t i = 0; q->tracer_names && q->tracer_names[i] && code == SQLITE_OK; i++)
        code = sqlite3_bind_text(statement, at++, q->tracer_names[i], -1, SQLITE_STATIC);
    if (q->since_ns)
        sqlite3_bind_int64(statement, at++, (int64_t)MIN(q->since_ns, (uint64_t)INT64_MAX));
    if (q->until_ns)
        sqlite3_bind_int64(statement, at++, (int64_t)MIN(q->until_ns, (uint64_t)INT64_MAX));
    if (q->container) {
        sqlite3_bind_text(statement, at++, q->container, -1, SQLITE_STATIC);
        if (strlen(q->container) != DOC_CONTAINER_LEN && code == SQLITE_OK)
            code = bind_prefix_end(statement, at++, q->container);
    }
    if (q->pid)
        sqlite3_bind_int64(statement, at++, q->pid);
    sqlite3_bind_int64(statement, at, limit);
    return code;
}

static int select_seqs(struct store_reader *r, const struct store_query *q, uint64_t after_seq,
                       int64_t limit, struct seq_list *ret)
{
    _cleanup_(text_done) struct text sql = {};
    sqlite3_stmt *statement;
    int code;

    query_text(q, &sql);
    if (sql.failed)
        return -ENOMEM;
    code = sqlite3_prepare_v2(r->db, sql.data, -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = query_bind(q, after_seq, limit, statement);
    if (code != SQLITE_OK) {
        sqlite3_finalize(statement);
        return error_of(code);
    }
    ret->n = 0;
    return collect(statement, ret);
}

/** The needle in the form in which records hold it: as text, and as JSON. */
static int set_needle(struct store_reader *r, const char *match)
{
    r->escaped.len = r->needle.len = 0;
    text_add_json(&r->escaped, match, strlen(match));
    if (r->escaped.len)
        jsontext_unescape(&r->needle, r->escaped.data, r->escaped.len);
    return r->escaped.failed || r->needle.failed ? -ENOMEM : 0;
}

int store_reader_each(struct store_reader *r, const struct store_query *query,
                      int (*fn)(void *arg, const struct store_row *row), void *arg)
{
    _cleanup_(seq_list_done) struct seq_list seqs = {};
    struct store_query q = *query;
    uint64_t after_seq = q.after_seq;
    bool chunks = is_walk(&q) && !q.limit;
    int64_t limit = chunks ? CHUNK_ROWS : q.limit ? (int64_t)MIN(q.limit, (uint64_t)INT64_MAX) : -1;
    int e = refresh(r);

    if (q.match && !*q.match)
        q.match = NULL;
    if (q.container && !*q.container)
        q.container = NULL;
    if (e == 0 && q.match)
        e = set_needle(r, q.match);
    if (e < 0)
        return e;
    if (q.rejected && !has_table(r, "rejected"))
        return 0; /* no agent that uploads has had this store */

    do {
        e = select_seqs(r, &q, after_seq, limit, &seqs);
        for (size_t i = 0; e == 0 && i < seqs.n; i++)
            e = pass_row(r, seqs.items[i], q.rejected, fn, arg);
        if (seqs.n)
            after_seq = seqs.items[seqs.n - 1];
    } while (e == 0 && chunks && seqs.n == CHUNK_ROWS);
    return e;
}

/* ---- single things */

static int find_seqs(struct store_reader *r, const char *sql, const char *id, struct seq_list *ret)
{
    sqlite3_stmt *statement;
    int code = sqlite3_prepare_v2(r->db, sql, -1, &statement, NULL);

    if (code == SQLITE_OK)
        code = sqlite3_bind_text(statement, 1, id, -1, SQLITE_STATIC);
    if (code == SQLITE_OK && sqlite3_bind_parameter_count(statement) > 1)
        code = bind_prefix_end(statement, 2, id);
    if (code != SQLITE_OK) {
        sqlite3_finalize(statement);
        return error_of(code);
    }
    return collect(statement, ret);
}

int store_reader_get(struct store_reader *r, const char *id,
                     int (*fn)(void *arg, const struct store_row *row), void *arg)
{
    _cleanup_(seq_list_done) struct seq_list seqs = {};
    int e = refresh(r);

    if (e < 0)
        return e;
    if (!*id)
        return -ENOENT;
    e = find_seqs(r, "SELECT seq FROM records WHERE id = ?1", id, &seqs);
    if (e == 0 && seqs.n == 0)
        e = find_seqs(r,
                      "SELECT seq FROM records WHERE id >= ?1 AND id < ?2 UNION"
                      " SELECT seq FROM records WHERE substr(id, -length(?1)) = ?1 LIMIT 2",
                      id, &seqs);
    if (e < 0)
        return e;
    if (seqs.n != 1)
        return seqs.n ? -EEXIST : -ENOENT;
    return pass_row(r, seqs.items[0], false, fn, arg);
}

int store_reader_meta(struct store_reader *r, const char *name, char **ret)
{
    sqlite3_stmt *statement;
    char *text = NULL;
    int e = refresh(r), code;

    if (e < 0)
        return e;
    code = sqlite3_prepare_v2(r->db, "SELECT text FROM meta WHERE name = ?1", -1, &statement, NULL);
    if (code != SQLITE_OK)
        return error_of(code);
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        const char *found = (const char *)sqlite3_column_text(statement, 0);

        text = strdup(found ? found : "");
        e = text ? 0 : -ENOMEM;
    } else {
        e = code == SQLITE_DONE ? -ENOENT : error_of(code);
    }
    sqlite3_finalize(statement);
    if (e == 0)
        *ret = text;
    return e;
}

int store_reader_target(struct store_reader *r, const char *name, struct store_target *ret)
{
    struct store_target target = {};
    sqlite3_stmt *statement = NULL;
    int e = refresh(r), code;

    if (e < 0)
        return e;
    if (!has_table(r, "targets"))
        return -ENOENT;
    code = sqlite3_prepare_v2(r->db,
                              "SELECT seq, uploaded, retried, rejected, deleted FROM targets"
                              " WHERE name = ?1",
                              -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        snprintf(target.name, sizeof(target.name), "%s", name);
        target.seq = (uint64_t)sqlite3_column_int64(statement, 0);
        target.uploaded = (uint64_t)sqlite3_column_int64(statement, 1);
        target.retried = (uint64_t)sqlite3_column_int64(statement, 2);
        target.rejected = (uint64_t)sqlite3_column_int64(statement, 3);
        target.deleted = (uint64_t)sqlite3_column_int64(statement, 4);
    }
    sqlite3_finalize(statement);
    if (code != SQLITE_ROW)
        return code == SQLITE_DONE ? -ENOENT : error_of(code);
    *ret = target;
    return 0;
}

int store_reader_last(struct store_reader *r, uint64_t *ret_seq)
{
    sqlite3_stmt *statement;
    int e = refresh(r), code;

    if (e < 0)
        return e;
    code = sqlite3_prepare_v2(r->db, "SELECT max(seq) FROM records", -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *ret_seq = (uint64_t)sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return error_of(code);
}

int store_reader_version(struct store_reader *r, uint64_t *ret)
{
    int e = refresh(r), code;

    if (e < 0)
        return e;
    sqlite3_reset(r->version);
    code = sqlite3_step(r->version);
    if (code == SQLITE_ROW)
        *ret = r->generation << 32 | (uint32_t)sqlite3_column_int64(r->version, 0);
    sqlite3_reset(r->version);
    return error_of(code);
}
