// SPDX-License-Identifier: Apache-2.0
#include "store/store.h"

#include "core/clock.h"
#include "core/log.h"
#include "store/busfault.h"
#include "store/writer.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#define QUEUE_MAX_DOCS  20000
#define QUEUE_MAX_BYTES (UINT64_C(64) * 1024 * 1024)
#define BATCH_MAX_BYTES (UINT64_C(16) * 1024 * 1024)
#define COMMIT_GAP_NS   (100 * NS_PER_MS) /* an fsync may cost the disk much */
#define TICK_NS         NS_PER_SEC
#define RETRY_NS        NS_PER_SEC
#define DAMAGE_GAP_NS   (60 * NS_PER_SEC)
#define CLOSE_GRACE_NS  NS_PER_SEC
#define ALIVE_NS        (10 * NS_PER_SEC)
#define OPEN_TRIES      25
#define OPEN_NAP_NS     (20 * NS_PER_MS)
#define METAS_MAX       64
#define META_TEXT_MAX   (1024 * 1024)
#define UNSENT_GAP_NS   (60 * NS_PER_SEC)

struct meta_list {
    struct writer_meta items[METAS_MAX];
    unsigned n;
};

struct advance_list {
    struct writer_advance items[STORE_TARGETS_MAX];
    unsigned n;
};

struct store {
    struct store_options options; /* path owned */
    size_t n_kinds;
    int lock_fd, event_fd;
    uint64_t alive_before_ns; /* CLOCK_REALTIME */
    pthread_t thread;
    atomic_bool stopping;

    pthread_mutex_t mutex; /* never held while anything may wait; over all of these: */
    pthread_cond_t changed;
    struct doc *queue[QUEUE_MAX_DOCS]; /* a ring; records stay in it until they are committed */
    unsigned first, n;
    uint64_t bytes;
    struct meta_list metas;
    struct advance_list advances;
    struct store_target targets[STORE_TARGETS_MAX]; /* as of the last commit */
    unsigned n_targets;
    struct store_counts *counts; /* of n_kinds */
    struct store_state state;
    uint64_t deadline_ns; /* once stopping */
    bool stopped;

    /* The thread's own: */
    struct writer writer;
    struct doc *batch[WRITER_BATCH_MAX];
    struct meta_list taken;             /* metas that the next commit writes */
    struct advance_list taken_advances; /* the mutex over these as well */
    bool failing;                       /* the last commit failed */
    bool tried_last;     /* at the end one more time, however short ago the last was */
    uint64_t started_ns; /* when the last commit began */
    uint64_t ticked_ns, retry_ns, replaced_ns, alive_ns;
    uint64_t unsent_said_ns; /* when it was last said that records went which nobody had got */
    uint64_t unsent_said;    /* how many that were by then */
};

static uint64_t now_ns(void)
{
    return clock_now_ns(CLOCK_MONOTONIC);
}

/* ---- options */

#define OPTION(field) offsetof(struct store_options, field)

static const struct option store_options[] = {
    {.key = "path",
     .type = OPTION_STRING,
     .offset = OPTION(path),
     .fallback = "/var/lib/huatuo",
     .help = "Directory of the database and the record files; it must belong to the agent's user."},
    {.key = "retain",
     .type = OPTION_DURATION,
     .offset = OPTION(retain_ns),
     .fallback = "30d",
     .min = 60 * NS_PER_SEC,
     .max = UINT64_C(36500) * 24 * 3600 * NS_PER_SEC,
     .help = "How long records are kept in the database; older ones are deleted."},
    {.key = "max_size",
     .type = OPTION_SIZE,
     .offset = OPTION(max_size),
     .fallback = "1GiB",
     .min = UINT64_C(1) << 20,
     .max = UINT64_C(1) << 50,
     .help = "Size in bytes of the database at which the oldest records are deleted."},
    {.key = "record_files",
     .type = OPTION_BOOL,
     .offset = OPTION(record_files),
     .fallback = "true",
     .help = "Also write every record as indented text to a file of its kind in PATH/records."},
    {.key = "record_file_size",
     .type = OPTION_SIZE,
     .offset = OPTION(record_file_size),
     .fallback = "64MiB",
     .min = 4096,
     .max = UINT64_C(1) << 40,
     .help = "Size in bytes at which a record file is rotated."},
    {.key = "record_file_count",
     .type = OPTION_U64,
     .offset = OPTION(record_file_count),
     .fallback = "4",
     .min = 1,
     .max = 1000,
     .help = "How many files of a kind there are at most, with the one that is written to."},
    {},
};

const struct option_section store_section = {
    .name = "store",
    .help = "Where records are kept on this machine, and for how long.",
    .options = store_options,
    .size = sizeof(struct store_options),
};

/* ---- metas */

static void metas_done(struct meta_list *list)
{
    for (unsigned i = 0; i < list->n; i++) {
        free(list->items[i].name);
        free(list->items[i].text);
    }
    list->n = 0;
}

/** Takes over both strings if it succeeds. */
static int metas_set(struct meta_list *list, char *name, char *text)
{
    for (unsigned i = 0; i < list->n; i++) {
        if (strcmp(list->items[i].name, name) == 0) {
            free(list->items[i].text);
            free(name);
            list->items[i].text = text;
            return 0;
        }
    }
    if (list->n == METAS_MAX)
        return -ENOBUFS;
    list->items[list->n++] = (struct writer_meta){name, text};
    return 0;
}

/** Moves as many as fit; newer texts win. */
static void metas_move(struct meta_list *from, struct meta_list *to)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < from->n; i++) {
        if (metas_set(to, from->items[i].name, from->items[i].text) < 0)
            from->items[kept++] = from->items[i];
    }
    from->n = kept;
}

int store_put_meta(struct store *s, const char *name, const char *text)
{
    _free_ char *own_name = strdup(name), *own_text = strdup(text);
    int r;

    if (!own_name || !own_text)
        return -ENOMEM;
    if (strlen(text) > META_TEXT_MAX)
        return -E2BIG;

    pthread_mutex_lock(&s->mutex);
    r = metas_set(&s->metas, own_name, own_text);
    pthread_mutex_unlock(&s->mutex);
    if (r == 0) {
        TAKE_PTR(own_name);
        TAKE_PTR(own_text);
    }
    return r;
}

/* ---- targets */

static void advance_done(struct writer_advance *advance)
{
    for (size_t i = 0; i < advance->n_rejections; i++)
        free(advance->rejections[i].reason);
    free(advance->rejections);
    *advance = (struct writer_advance){};
}

static void advances_done(struct advance_list *list)
{
    for (unsigned i = 0; i < list->n; i++)
        advance_done(&list->items[i]);
    list->n = 0;
}

static struct writer_advance *advances_find(struct advance_list *list, const char *name)
{
    struct writer_advance *advance;

    for (unsigned i = 0; i < list->n; i++)
        if (strcmp(list->items[i].name, name) == 0)
            return &list->items[i];
    if (list->n == STORE_TARGETS_MAX)
        return NULL;
    advance = &list->items[list->n++];
    *advance = (struct writer_advance){};
    snprintf(advance->name, sizeof(advance->name), "%s", name);
    return advance;
}

/** Takes the rejections over if it succeeds. */
static int advance_add(struct writer_advance *to, struct writer_advance *more)
{
    if (more->n_rejections) {
        size_t n = to->n_rejections + more->n_rejections;
        struct writer_rejection *all;

        if (n > STORE_REJECTIONS_MAX && to->n_rejections)
            return -ENOBUFS;
        all = reallocarray(to->rejections, n, sizeof(*all));
        if (!all)
            return -ENOMEM;
        memcpy(all + to->n_rejections, more->rejections, more->n_rejections * sizeof(*all));
        to->rejections = all;
        to->n_rejections = n;
    }
    to->seq = MAX(to->seq, more->seq);
    to->uploaded += more->uploaded;
    to->retried += more->retried;
    free(more->rejections);
    *more = (struct writer_advance){};
    return 0;
}

/** Moves what fits; a commit that fails again and again must not gather ever more. */
static void advances_move(struct advance_list *from, struct advance_list *to)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < from->n; i++) {
        struct writer_advance *into = advances_find(to, from->items[i].name);

        if (!into || advance_add(into, &from->items[i]) < 0)
            from->items[kept++] = from->items[i];
    }
    from->n = kept;
}

static int copy_rejections(const struct store_advance *advance, struct writer_advance *ret)
{
    ret->rejections = calloc(MAX(advance->n_rejections, (size_t)1), sizeof(*ret->rejections));
    if (!ret->rejections)
        return -ENOMEM;
    for (size_t i = 0; i < advance->n_rejections; i++) {
        const char *reason = advance->rejections[i].reason;
        struct writer_rejection *copy = &ret->rejections[ret->n_rejections];

        copy->seq = advance->rejections[i].seq;
        copy->reason = strndup(reason, STORE_REASON_MAX);
        if (!copy->reason)
            return -ENOMEM;
        ret->n_rejections++;
    }
    return 0;
}

int store_target_advance(struct store *s, const char *name, const struct store_advance *advance)
{
    _cleanup_(advance_done) struct writer_advance more = {
        .seq = advance->seq,
        .uploaded = advance->uploaded,
        .retried = advance->retried,
    };
    struct writer_advance *into;
    int r = copy_rejections(advance, &more);

    if (r < 0)
        return r;
    pthread_mutex_lock(&s->mutex);
    into = advances_find(&s->advances, name);
    r = into ? advance_add(into, &more) : -ENOBUFS;
    pthread_mutex_unlock(&s->mutex);
    return r;
}

static int target_locked(const struct store *s, const char *name, struct store_target *ret)
{
    const struct advance_list *const waiting[] = {&s->taken_advances, &s->advances};
    int r = -ENOENT;

    *ret = (struct store_target){};
    for (unsigned i = 0; i < s->n_targets; i++) {
        if (strcmp(s->targets[i].name, name) != 0)
            continue;
        *ret = s->targets[i];
        r = 0;
    }
    for (size_t i = 0; i < 2 * STORE_TARGETS_MAX; i++) {
        const struct advance_list *list = waiting[i / STORE_TARGETS_MAX];
        const struct writer_advance *advance = &list->items[i % STORE_TARGETS_MAX];

        if (i % STORE_TARGETS_MAX >= list->n || strcmp(advance->name, name) != 0)
            continue;
        ret->active = true;
        ret->seq = MAX(ret->seq, advance->seq);
        ret->uploaded += advance->uploaded;
        ret->retried += advance->retried;
        ret->rejected += advance->n_rejections;
        r = 0;
    }
    snprintf(ret->name, sizeof(ret->name), "%s", name);
    return r;
}

int store_get_target(const struct store *s, const char *name, struct store_target *ret)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)&s->mutex;
    struct store_target target;
    int r;

    pthread_mutex_lock(mutex);
    r = target_locked(s, name, &target);
    pthread_mutex_unlock(mutex);
    if (r == 0)
        *ret = target;
    return r;
}

/** Once a minute at most: it may go on for as long as the server is down. */
static void say_unsent(struct store *s)
{
    uint64_t now = now_ns(), n = s->writer.unsent - s->unsent_said;

    if (n == 0 || (s->unsent_said_ns && now < s->unsent_said_ns + UNSENT_GAP_NS))
        return;
    log_warning(
        "%llu records had to be deleted, as store.retain or store.max_size says, before "
        "they were uploaded; `huatuo status` says for which target and what is wrong with it",
        (unsigned long long)n);
    s->unsent_said_ns = now;
    s->unsent_said = s->writer.unsent;
}

/* ---- the queue */

static struct store_counts *counts_of(const struct store *s, const struct doc *doc)
{
    return doc->counted && doc->event < s->n_kinds ? &s->counts[doc->event] : NULL;
}

int store_put(struct store *s, struct doc *doc)
{
    struct store_counts *counts;
    int r = 0;

    pthread_mutex_lock(&s->mutex);
    if (s->n == QUEUE_MAX_DOCS || s->bytes + doc->len > QUEUE_MAX_BYTES) {
        counts = counts_of(s, doc);
        if (counts)
            counts->lost[STORE_LOST_QUEUE_FULL]++;
        r = -ENOBUFS;
    } else {
        s->queue[(s->first + s->n) % QUEUE_MAX_DOCS] = doc_ref(doc);
        s->n++;
        s->bytes += doc->len;
        /* In between it would only wake to find that it is too early. */
        if (s->n == 1 || s->n == WRITER_BATCH_MAX || s->bytes >= BATCH_MAX_BYTES)
            pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->mutex);
    return r;
}

uint64_t store_alive_before(const struct store *s)
{
    return s->alive_before_ns;
}

int store_fd(const struct store *s)
{
    return s->event_fd;
}

void store_get_counts(const struct store *s, unsigned event, struct store_counts *ret)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)&s->mutex;

    assert(event < s->n_kinds);
    pthread_mutex_lock(mutex);
    *ret = s->counts[event];
    pthread_mutex_unlock(mutex);
}

void store_get_state(const struct store *s, struct store_state *ret)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)&s->mutex;

    pthread_mutex_lock(mutex);
    *ret = s->state;
    ret->queued = s->n;
    pthread_mutex_unlock(mutex);
}

/* ---- the thread; `_locked`: the mutex is held */

/** When the thread has something to do next. */
static uint64_t due_ns_locked(const struct store *s)
{
    if (s->failing)
        return s->retry_ns;
    if (s->stopping || s->n >= WRITER_BATCH_MAX || s->bytes >= BATCH_MAX_BYTES)
        return 0;
    if (s->n || s->writer.deleting)
        return s->started_ns + COMMIT_GAP_NS;
    if (writer_files_behind(&s->writer))
        return 0;
    return s->ticked_ns + TICK_NS;
}

static void wait_locked(struct store *s)
{
    for (;;) {
        uint64_t now = now_ns(), due = due_ns_locked(s);

        if (s->stopping)
            due = s->tried_last ? MIN(due, s->deadline_ns) : 0;
        if (due <= now)
            return;
        struct timespec until = {(time_t)(due / NS_PER_SEC), (long)(due % NS_PER_SEC)};
        pthread_cond_timedwait(&s->changed, &s->mutex, &until);
    }
}

/** What the next commit writes. It stays in the queue, where only the thread takes from. */
static unsigned take_locked(struct store *s)
{
    uint64_t bytes = 0;
    unsigned n = 0;

    metas_move(&s->metas, &s->taken);
    advances_move(&s->advances, &s->taken_advances);
    while (n < s->n && n < WRITER_BATCH_MAX && (n == 0 || bytes < BATCH_MAX_BYTES)) {
        s->batch[n] = s->queue[(s->first + n) % QUEUE_MAX_DOCS];
        bytes += s->batch[n++]->len;
    }
    return n;
}

static void show_locked(struct store *s, const char *problem)
{
    s->state.writing = !s->failing;
    snprintf(s->state.problem, sizeof(s->state.problem), "%s", problem);
    if (s->writer.schema.db) /* what was last known is more than nothing */
        s->state.records = s->writer.schema.n_records;
    if (s->writer.schema.db)
        s->state.next_seq = s->writer.schema.next_seq;
    s->state.size_bytes = s->writer.size_bytes;
    s->state.deleted = s->writer.deleted;
    memcpy(s->targets, s->writer.targets, sizeof(s->targets));
    s->n_targets = s->writer.n_targets;
}

static void committed(struct store *s, unsigned n)
{
    uint64_t one = 1;

    metas_done(&s->taken);
    say_unsent(s);
    pthread_mutex_lock(&s->mutex);
    advances_done(&s->taken_advances);
    memcpy(s->targets, s->writer.targets, sizeof(s->targets));
    s->n_targets = s->writer.n_targets;
    for (unsigned i = 0; i < n; i++) {
        struct store_counts *counts = counts_of(s, s->batch[i]);

        s->bytes -= s->batch[i]->len;
        if (counts && s->writer.refused[i])
            counts->lost[STORE_LOST_WRITE]++;
        else if (counts)
            counts->recorded++;
    }
    s->first = (s->first + n) % QUEUE_MAX_DOCS;
    s->n -= n;
    s->state.records = s->writer.schema.n_records;
    s->state.next_seq = s->writer.schema.next_seq;
    pthread_mutex_unlock(&s->mutex);
    if (n && write(s->event_fd, &one, sizeof(one)) < 0)
        assert(errno == EAGAIN); /* it is readable already */
}

static void failed(struct store *s, int code)
{
    uint64_t now = now_ns();
    char problem[sizeof(s->state.problem)];

    s->retry_ns = now + RETRY_NS;
    if (schema_is_damage(code) && (!s->replaced_ns || now >= s->replaced_ns + DAMAGE_GAP_NS)) {
        s->replaced_ns = now;
        code = writer_replace(&s->writer, code);
        if (code == SQLITE_OK) {
            s->retry_ns = now;
            s->failing = true; /* until a commit succeeds */
            return;
        }
    }
    writer_describe(&s->writer, code, problem, sizeof(problem));
    if (!s->state.problem[0] || !s->failing)
        log_error("The agent %s. Until then up to %u records wait, more are counted as lost; it is "
                  "tried again every second.",
                  problem, QUEUE_MAX_DOCS);
    s->failing = true;
    pthread_mutex_lock(&s->mutex);
    show_locked(s, problem);
    pthread_mutex_unlock(&s->mutex);
}

static void succeeded(struct store *s)
{
    bool writing;

    pthread_mutex_lock(&s->mutex);
    writing = s->state.writing;
    s->failing = false;
    show_locked(s, s->writer.files_problem);
    pthread_mutex_unlock(&s->mutex);
    if (!writing)
        log_info("The store %s is written again.", s->writer.path);
}

static int step(struct store *s, unsigned n)
{
    bool work = n || s->taken.n || s->taken_advances.n || s->failing || s->writer.deleting;
    int r = SQLITE_OK;

    if (work) {
        s->started_ns = now_ns();
        r = writer_commit(&s->writer, &(struct writer_batch){
                                          .docs = s->batch,
                                          .n = n,
                                          .metas = s->taken.items,
                                          .n_metas = s->taken.n,
                                          .advances = s->taken_advances.items,
                                          .n_advances = s->taken_advances.n,
                                      });
        if (busfault_happened())
            r = writer_faulted(&s->writer);
        if (r == SQLITE_OK)
            committed(s, n);
        else
            return r;
    }
    r = writer_files(&s->writer, s->batch, n);
    for (unsigned i = 0; i < n; i++)
        doc_unref(s->batch[i]);
    if (r == SQLITE_OK)
        r = writer_tidy(&s->writer, !work);
    return busfault_happened() ? writer_faulted(&s->writer) : r;
}

/**
 * The lock's time of modification tells the next agent until when this one lived, should it not get
 * round to saying so. It changes nothing but an inode in memory, which the kernel writes some time.
 */
static void show_alive(struct store *s)
{
    if (s->ticked_ns - s->alive_ns < ALIVE_NS)
        return;
    s->alive_ns = s->ticked_ns;
    if (futimens(s->lock_fd, NULL) < 0)
        log_debug("touching the store's lock failed: %s", strerror(errno));
}

/** Whether the thread should end: all is written, or time is up. */
static bool is_over_locked(const struct store *s)
{
    if (!s->stopping)
        return false;
    return now_ns() >= s->deadline_ns ||
           (s->n == 0 && s->metas.n == 0 && s->taken.n == 0 && s->advances.n == 0 &&
            s->taken_advances.n == 0 && !writer_files_behind(&s->writer));
}

static void lose_rest(struct store *s)
{
    unsigned n;

    pthread_mutex_lock(&s->mutex);
    n = s->n;
    for (; s->n; s->n--) {
        struct store_counts *counts = counts_of(s, s->queue[s->first]);

        if (counts)
            counts->lost[STORE_LOST_WRITE]++;
        doc_unref(s->queue[s->first]);
        s->first = (s->first + 1) % QUEUE_MAX_DOCS;
    }
    pthread_mutex_unlock(&s->mutex);
    if (n)
        log_error("%u records could not be written to the store %s before the agent's end and are "
                  "lost%s%s.",
                  n, s->writer.path, s->state.problem[0] ? ": it " : "", s->state.problem);
}

static void *run(void *arg)
{
    struct store *s = arg;
    int r;

    busfault_guard();
    r = writer_check(&s->writer, &s->stopping);
    if (r == SQLITE_OK)
        r = writer_files(&s->writer, NULL, 0);
    if (r != SQLITE_OK)
        failed(s, r);
    pthread_mutex_lock(&s->mutex);
    for (;;) {
        unsigned n;

        wait_locked(s);
        if (is_over_locked(s))
            break;
        n = take_locked(s);
        s->tried_last = s->stopping;
        pthread_mutex_unlock(&s->mutex);

        s->ticked_ns = now_ns();
        show_alive(s);
        r = step(s, n);
        if (r == SQLITE_OK)
            succeeded(s);
        else
            failed(s, r);
        pthread_mutex_lock(&s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);

    lose_rest(s);
    writer_done(&s->writer, !s->failing && now_ns() < s->deadline_ns);
    metas_done(&s->taken);
    advances_done(&s->taken_advances);
    pthread_mutex_lock(&s->mutex);
    s->stopped = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* ---- opening and closing */

static int take_lock(const char *dir, char *error, size_t error_size, int *ret,
                     uint64_t *ret_alive_ns)
{
    char path[4096], pid[32] = "";
    struct stat st;
    bool existed;
    int r;

    if (stat(dir, &st) < 0 || !S_ISDIR(st.st_mode)) {
        r = stat(dir, &st) < 0 ? -errno : -ENOTDIR;
        snprintf(
            error, error_size,
            "cannot open the store %s: %s; make the directory and let it belong to the agent's "
            "user, or set store.path to another",
            dir, strerror(-r));
        return r;
    }
    snprintf(path, sizeof(path), "%s/lock", dir);
    existed = access(path, F_OK) == 0;
    _close_fd_ int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0) {
        r = -errno;
        snprintf(error, error_size,
                 "cannot open the store's lock %s: %s; the directory has to be writable for the "
                 "agent's user (uid %u)",
                 path, strerror(-r), (unsigned)geteuid());
        return r;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        r = errno == EWOULDBLOCK ? -EBUSY : -errno;
        if (pread(fd, pid, sizeof(pid) - 1, 0) < 0)
            pid[0] = '\0';
        pid[strcspn(pid, "\n")] = '\0';
        if (r == -EBUSY)
            snprintf(error, error_size,
                     "the store %s is in use by process %s; stop that agent, or give this one "
                     "another store.path",
                     dir, *pid ? pid : "(unknown)");
        else
            snprintf(error, error_size, "cannot lock %s: %s", path, strerror(-r));
        return r;
    }
    if (existed && fstat(fd, &st) == 0)
        *ret_alive_ns = (uint64_t)st.st_mtim.tv_sec * NS_PER_SEC + (uint64_t)st.st_mtim.tv_nsec;
    /* Who it is is only told to others; on a full disk it does without. */
    snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, strlen(pid), 0) < 0)
        log_warning("Cannot write the agent's pid to %s: %s.", path, strerror(errno));
    *ret = TAKE_FD(fd);
    return 0;
}

static int open_once(struct store *s)
{
    int r = writer_open(&s->writer);

    return busfault_happened() ? writer_faulted(&s->writer) : r;
}

/** They cannot be opened, or can be read only. */
static bool files_are_not_ours(int code)
{
    return (code & 0xff) == SQLITE_CANTOPEN || (code & 0xff) == SQLITE_READONLY;
}

/**
 * A reader that is root's may just be making the files beside the database: for a moment they are
 * not ours (SQLite gives them to the database's owner only then).
 */
static int open_patiently(struct store *s)
{
    const struct timespec nap = {.tv_nsec = (long)OPEN_NAP_NS};
    int r = open_once(s);

    for (int tries = 1; files_are_not_ours(r) && tries < OPEN_TRIES; tries++) {
        nanosleep(&nap, NULL);
        r = open_once(s);
    }
    return r;
}

static int open_database(struct store *s, char *error, size_t error_size)
{
    int r;

    /* What an agent that was killed has left may be more than there is room for now. */
    busfault_guard();
    r = open_patiently(s);
    if (r == SCHEMA_NEWER || r == SCHEMA_FOREIGN) {
        writer_describe(&s->writer, r, error, error_size);
        return -EPROTONOSUPPORT;
    }
    s->state.writing = true;
    if (r != SQLITE_OK)
        failed(s, r);
    else
        show_locked(s, "");
    return 0;
}

static int start_thread(struct store *s)
{
    sigset_t all, before;
    int r;

    /* Signals are the loop's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = -pthread_create(&s->thread, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0)
        pthread_setname_np(s->thread, "store");
    return r;
}

static struct store *store_free(struct store *s)
{
    if (!s)
        return NULL;
    metas_done(&s->metas);
    advances_done(&s->advances);
    fd_close(s->event_fd);
    fd_close(s->lock_fd);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
    free(s->counts);
    free(s->options.path);
    free(s);
    return NULL;
}
DEFINE_CLEANUP(struct store *, store_free)

int store_open(const struct store_options *options, size_t n_event_kinds, char *error,
               size_t error_size, struct store **ret)
{
    _cleanup_(store_freep) struct store *s = calloc(1, sizeof(*s));
    pthread_condattr_t attributes;
    int r;

    if (!s) {
        snprintf(error, error_size, "no memory for the store");
        return -ENOMEM;
    }
    s->lock_fd = s->event_fd = -1;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attributes);
    pthread_condattr_destroy(&attributes);

    s->options = *options;
    s->options.path = strdup(options->path);
    s->options.record_file_count = MAX(options->record_file_count, UINT64_C(1));
    s->n_kinds = n_event_kinds;
    s->counts = calloc(MAX(n_event_kinds, (size_t)1), sizeof(*s->counts));
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!s->options.path || !s->counts || s->event_fd < 0) {
        r = s->event_fd < 0 ? -errno : -ENOMEM;
        snprintf(error, error_size, "cannot set up the store: %s", strerror(-r));
        return r;
    }

    r = take_lock(s->options.path, error, error_size, &s->lock_fd, &s->alive_before_ns);
    if (r < 0)
        return r;
    writer_init(&s->writer, &s->options);
    r = open_database(s, error, error_size);
    if (r < 0)
        return r;
    r = start_thread(s);
    if (r < 0) {
        writer_done(&s->writer, false);
        snprintf(error, error_size, "cannot start the store's thread: %s", strerror(-r));
        return r;
    }
    *ret = TAKE_PTR(s);
    return 0;
}

struct store *store_close(struct store *s, uint64_t deadline_ns)
{
    uint64_t until_ns = MAX(deadline_ns, now_ns()) + CLOSE_GRACE_NS;
    struct timespec until = {(time_t)(until_ns / NS_PER_SEC), (long)(until_ns % NS_PER_SEC)};
    unsigned waiting;
    bool stopped;

    if (!s)
        return NULL;
    pthread_mutex_lock(&s->mutex);
    s->deadline_ns = deadline_ns;
    s->stopping = true;
    pthread_cond_broadcast(&s->changed);
    while (!s->stopped) {
        if (pthread_cond_timedwait(&s->changed, &s->mutex, &until) == ETIMEDOUT)
            break;
    }
    stopped = s->stopped;
    waiting = s->n;
    pthread_mutex_unlock(&s->mutex);

    if (!stopped) {
        /* The disk hangs, and with it the thread. It ends with the process; until then it may go
         * on using what is its. */
        log_error("The store %s does not answer: the disk hangs. Giving up on it; %u records that "
                  "wait are lost.",
                  s->options.path, waiting);
        pthread_detach(s->thread);
        return NULL;
    }
    pthread_join(s->thread, NULL);
    return store_free(s);
}
