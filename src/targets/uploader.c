// SPDX-License-Identifier: Apache-2.0
#include "targets/uploader.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <zlib.h>

#include "core/clock.h"
#include "core/log.h"

#define DELAY_FIRST_NS (250 * NS_PER_MS)
#define DELAY_MAX_NS   (10 * NS_PER_SEC)
#define SAY_GAP_NS     (60 * NS_PER_SEC)
#define REGROW_NS      (600 * NS_PER_SEC) /* after a request was too large for the server */
#define LATER_NS       (100 * NS_PER_MS)
#define GRACE_NS       (200 * NS_PER_MS)
#define GZIP_LEVEL     1
#define NICE           10 /* of the thread: Linux has a nice value for each */

/** One request. */
struct batch {
    uint64_t seqs[UPLOADER_BATCH_MAX];
    unsigned n;
    size_t bytes;     /* before compression */
    bool full;        /* there was more than fits */
    uint64_t reached; /* all before this number are in it, or gone; UINT64_MAX: to the end */
    uint64_t last;    /* the last one that was looked at */
    uint64_t oldest_ns;
    struct text record; /* the one that is being added */
    struct text body;
    z_stream gzip;
    int failed; /* negative errno */
};

/**
 * What the cursor is going over: it moves on when each of these is dealt with. They are remembered
 * by number and read anew for each request, so that a server that is down holds nothing in memory.
 */
struct window {
    uint64_t seqs[UPLOADER_BATCH_MAX]; /* that are still to be sent, ascending */
    unsigned n;
    uint64_t end; /* the last one that it had; 0: there is no window */
    uint64_t uploaded, retried;
    struct store_rejection rejections[UPLOADER_BATCH_MAX]; /* reasons owned */
    size_t n_rejections;
};

enum round { ROUND_IDLE, ROUND_DONE, ROUND_MORE, ROUND_FAILED, ROUND_STOPPED };

struct uploader {
    const struct target *target;
    const void *options;
    const struct http_options *http_options;
    struct http *http;
    char *path; /* owned */
    pthread_t thread;
    bool started;

    pthread_mutex_t mutex; /* never held while anything may wait; over all of these: */
    pthread_cond_t changed;
    struct store *store; /* NULL: it was given up, and must not be touched */
    bool woken, ending, ended;
    uint64_t end_ns;
    struct uploader_state state;

    /* The thread's own: */
    struct store_reader *reader;
    uint64_t cursor;
    bool cursor_known;
    struct batch batch;
    struct window window;
    size_t limit; /* bytes of a batch */
    uint64_t limited_ns;
    unsigned most;     /* records of a batch: fewer while a bad one is looked for */
    unsigned failures; /* in a row */
    uint64_t failing_ns, said_ns, retry_after_ns;
    char said[768];
    bool checked;      /* how the server is set up */
    bool store_failed; /* the last failure was not the server's */

    /* Of a target with a composer: */
    void *memory;            /* the composer's; owned */
    uint64_t held;           /* records up to `cursor` that the store's cursor has not passed */
    uint64_t held_oldest_ns; /* CLOCK_REALTIME */
    uint64_t due_ns;         /* when there is a message to be sent; UINT64_MAX: there is none */

    /* Instead of following the store; NULL: it is followed. */
    const struct store_query *query;
    struct uploader_resent *resent;
};

static uint64_t now_ns(void)
{
    return clock_now_ns(CLOCK_MONOTONIC);
}

/* ---- waiting */

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};
}

/** Until then, or until it is to end. */
static void wait_until(struct uploader *u, uint64_t until_ns)
{
    const struct timespec until = timespec_of(until_ns);

    pthread_mutex_lock(&u->mutex);
    while (!u->ending && now_ns() < until_ns)
        pthread_cond_timedwait(&u->changed, &u->mutex, &until);
    pthread_mutex_unlock(&u->mutex);
}

/** Or until a message is due. */
static void wait_for_records(struct uploader *u)
{
    const struct timespec until = timespec_of(u->due_ns);

    pthread_mutex_lock(&u->mutex);
    while (!u->woken && !u->ending && now_ns() < u->due_ns)
        pthread_cond_timedwait(&u->changed, &u->mutex, &until);
    u->woken = false;
    pthread_mutex_unlock(&u->mutex);
}

static bool is_ending(struct uploader *u)
{
    bool ending;

    pthread_mutex_lock(&u->mutex);
    ending = u->ending;
    pthread_mutex_unlock(&u->mutex);
    return ending;
}

static bool is_time_up(struct uploader *u)
{
    bool up;

    pthread_mutex_lock(&u->mutex);
    up = u->ending && now_ns() >= u->end_ns;
    pthread_mutex_unlock(&u->mutex);
    return up;
}

/** Each time longer, and not all machines at the same moment. */
static uint64_t delay_ns(unsigned failures, uint64_t retry_after_ns)
{
    uint64_t delay = DELAY_FIRST_NS << MIN(failures, 10U), random = 0;

    delay = MIN(delay, DELAY_MAX_NS);
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
        random = now_ns();
    return MAX(delay / 2 + random % (delay / 2), retry_after_ns + random % (delay / 2));
}

/* ---- what is said */

static void show_oldest(struct uploader *u, uint64_t oldest_ns)
{
    pthread_mutex_lock(&u->mutex);
    u->state.oldest_ns = oldest_ns;
    pthread_mutex_unlock(&u->mutex);
}

static void show(struct uploader *u, const char *problem)
{
    pthread_mutex_lock(&u->mutex);
    snprintf(u->state.url, sizeof(u->state.url), "%s", http_url(u->http));
    snprintf(u->state.problem, sizeof(u->state.problem), "%s", problem);
    pthread_mutex_unlock(&u->mutex);
}

/** Of one trouble once; if it turns into another, once a minute. */
static _printf_(2, 3) void fail(struct uploader *u, const char *format, ...)
{
    _cleanup_(text_done) struct text shown = {};
    char problem[sizeof(u->said)];
    uint64_t now = now_ns();
    va_list args;

    va_start(args, format);
    vsnprintf(problem, sizeof(problem), format, args);
    va_end(args);
    text_add_printable(&shown, problem, sizeof(problem));
    snprintf(problem, sizeof(problem), "%s", shown.data ? shown.data : "");
    show(u, problem);
    if (u->failures++ == 0)
        u->failing_ns = now;
    if (strcmp(problem, u->said) == 0 || (*u->said && now < u->said_ns + SAY_GAP_NS))
        return;
    u->said_ns = now;
    snprintf(u->said, sizeof(u->said), "%s", problem);
    log_warning(
        "uploading to %s at %s failed: %s (records are kept in the store and sent later; it is "
        "tried again at least every 10 s)",
        u->target->name, http_url(u->http), problem);
}

static void succeed(struct uploader *u)
{
    if (u->failures == 0)
        return;
    if (*u->said)
        log_info("uploading to %s at %s works again, after %llu s", u->target->name,
                 http_url(u->http), (unsigned long long)((now_ns() - u->failing_ns) / NS_PER_SEC));
    *u->said = '\0';
    u->failures = 0;
    u->retry_after_ns = 0;
    show(u, "");
}

/* ---- a batch */

static void batch_done(struct batch *b)
{
    text_done(&b->record);
    text_done(&b->body);
    deflateEnd(&b->gzip);
}

static int batch_begin(struct uploader *u)
{
    struct batch *b = &u->batch;

    b->n = 0;
    b->bytes = 0;
    b->full = false;
    b->reached = UINT64_MAX;
    b->last = 0;
    b->oldest_ns = 0;
    b->failed = 0;
    b->body.max = 2 * u->http_options->batch_size + 4 * 1024 * 1024;
    b->body.len = 0;
    if (!u->http_options->compress)
        return 0;
    if (b->gzip.state)
        return deflateReset(&b->gzip) == Z_OK ? 0 : -ENOMEM;
    /* 16: with gzip's head. */
    return deflateInit2(&b->gzip, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK
               ? 0
               : -ENOMEM;
}

static void compress_into(struct batch *b, const char *bytes, size_t len, int flush)
{
    char out[16384];
    int r;

    b->gzip.next_in = (Bytef *)bytes;
    b->gzip.avail_in = (uInt)len;
    do {
        b->gzip.next_out = (Bytef *)out;
        b->gzip.avail_out = sizeof(out);
        r = deflate(&b->gzip, flush);
        text_add(&b->body, out, sizeof(out) - b->gzip.avail_out);
    } while (r == Z_OK && b->gzip.avail_out == 0);
}

static void put(struct uploader *u, const char *bytes, size_t len)
{
    u->batch.bytes += len;
    if (u->http_options->compress)
        compress_into(&u->batch, bytes, len, Z_NO_FLUSH);
    else
        text_add(&u->batch.body, bytes, len);
}

static void put_frame(struct uploader *u, const char *text)
{
    if (text)
        put(u, text, strlen(text));
}

static int compare_seqs(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void reject(struct window *w, uint64_t seq, const char *reason)
{
    char *copy = strdup(reason ? reason : "no reason was given");

    w->rejections[w->n_rejections++] =
        (struct store_rejection){.seq = seq, .reason = copy ? copy : ""};
}

/** A line break in it would make two lines of the request of it, and spoil that. */
static bool is_damaged(const struct store_row *row)
{
    return row->len < 2 || row->json[0] != '{' || row->json[row->len - 1] != '}' ||
           memchr(row->json, '\n', row->len);
}

static struct target_record record_of(const struct store_row *row)
{
    return (struct target_record){
        .realtime_ns = row->realtime_ns,
        .id = row->id,
        .tracer_name = row->tracer_name,
        .json = row->json,
        .len = row->len,
    };
}

static int add_row(void *arg, const struct store_row *row)
{
    const struct target_record record = record_of(row);
    struct uploader *u = arg;
    struct batch *b = &u->batch;
    struct window *w = &u->window;

    if (w->end) {
        if (row->seq > w->end)
            return 1;
        if (!bsearch(&row->seq, w->seqs, w->n, sizeof(*w->seqs), compare_seqs))
            return 0;
    }
    if (b->n + w->n_rejections >= UPLOADER_BATCH_MAX && !w->end) {
        b->full = true;
        b->reached = row->seq;
        return 1;
    }
    if (is_damaged(row)) {
        reject(w, row->seq, "it is damaged in the store");
        b->last = row->seq;
        return 0;
    }
    b->record.len = 0;
    u->target->add(u->options, &record, clock_now_ns(CLOCK_REALTIME), &b->record);
    if (b->record.failed) {
        text_done(&b->record);
        b->record.failed = false;
        b->failed = -ENOMEM;
        return 1;
    }
    if (b->n && (b->n >= u->most || b->bytes + b->record.len > u->limit)) {
        b->full = true;
        b->reached = row->seq;
        return 1;
    }
    if (b->n == 0)
        b->oldest_ns = row->realtime_ns;
    b->seqs[b->n++] = b->last = row->seq;
    put_frame(u, b->n == 1 ? u->target->head : u->target->separator);
    put(u, b->record.data, b->record.len);
    return 0;
}

/** Those of the window that retention has taken meanwhile are dealt with, too. */
static void forget_deleted(struct uploader *u)
{
    const struct batch *b = &u->batch;
    struct window *w = &u->window;
    unsigned kept = 0;

    for (unsigned i = 0; i < w->n; i++)
        if (w->seqs[i] >= b->reached ||
            bsearch(&w->seqs[i], b->seqs, b->n, sizeof(*b->seqs), compare_seqs))
            w->seqs[kept++] = w->seqs[i];
    w->n = kept;
}

/** What is left of the window, or without one what comes next. */
static int batch_build(struct uploader *u)
{
    struct store_query query = u->query ? *u->query : (struct store_query){};
    struct batch *b = &u->batch;
    struct window *w = &u->window;
    int r = batch_begin(u);

    query.after_seq = u->window.n ? u->window.seqs[0] - 1 : u->cursor;
    if (r == 0)
        r = store_reader_each(u->reader, &query, add_row, u);
    if (r < 0 || b->failed)
        return r < 0 ? r : b->failed;
    if (b->n)
        put_frame(u, u->target->tail);
    if (u->http_options->compress)
        compress_into(b, NULL, 0, Z_FINISH);
    if (b->body.failed) {
        text_done(&b->body);
        b->body.failed = false;
        return -ENOMEM;
    }
    if (w->end) {
        forget_deleted(u);
    } else {
        memcpy(w->seqs, b->seqs, b->n * sizeof(*b->seqs));
        w->n = b->n;
        w->end = b->last;
    }
    return 0;
}

/* ---- what became of it */

static void window_clear(struct window *w)
{
    for (size_t i = 0; i < w->n_rejections; i++)
        if (*w->rejections[i].reason)
            free((char *)w->rejections[i].reason);
    w->n = 0;
    w->n_rejections = 0;
    w->end = w->uploaded = w->retried = 0;
}

static int tell_refused(void *arg, const struct store_row *row)
{
    const struct uploader *u = arg;

    for (size_t i = 0; i < u->window.n_rejections; i++)
        if (u->window.rejections[i].seq == row->seq)
            u->resent->refused(u->resent->arg, row->id, u->window.rejections[i].reason);
    return row->seq >= u->window.end;
}

/** What would have been written to the store. */
static int note_resent(struct uploader *u, const struct store_advance *what)
{
    struct store_query query = *u->query;

    u->resent->uploaded += what->uploaded;
    u->resent->retried += what->retried;
    u->resent->rejected += what->n_rejections;
    query.after_seq = u->cursor;
    if (!what->n_rejections || !u->resent->refused)
        return 0;
    return store_reader_each(u->reader, &query, tell_refused, u) < 0 ? -EIO : 0;
}

/** -ENOBUFS: later. -ECANCELED: nobody is interested any more. */
static int advance(struct uploader *u, const struct store_advance *what)
{
    int r = -ECANCELED;

    if (u->resent)
        return note_resent(u, what);
    pthread_mutex_lock(&u->mutex);
    if (u->store)
        r = store_target_advance(u->store, u->target->name, what);
    pthread_mutex_unlock(&u->mutex);
    return r;
}

/** All of the window is dealt with: the cursor goes on. */
static enum round window_finish(struct uploader *u)
{
    struct window *w = &u->window;
    const struct store_advance what = {
        .seq = w->end,
        .uploaded = w->uploaded,
        .retried = w->retried,
        .rejections = w->rejections,
        .n_rejections = w->n_rejections,
    };
    int r;

    while ((r = advance(u, &what)) == -ENOBUFS || r == -ENOMEM) {
        if (is_time_up(u))
            return ROUND_STOPPED;
        nanosleep(&(struct timespec){.tv_nsec = (long)LATER_NS}, NULL);
    }
    if (r < 0)
        return ROUND_STOPPED;
    u->cursor = w->end;
    u->most = UPLOADER_BATCH_MAX;
    window_clear(w);
    return ROUND_DONE;
}

static void keep_only_again(struct window *w, const struct batch *b,
                            const struct target_answer *answers)
{
    unsigned kept = 0, at = 0;

    for (unsigned i = 0; i < w->n; i++) {
        if (at < b->n && w->seqs[i] == b->seqs[at]) {
            if (answers[at++].verdict != TARGET_AGAIN)
                continue;
        }
        w->seqs[kept++] = w->seqs[i];
    }
    w->n = kept;
}

static enum round take_answers(struct uploader *u, const struct target_answer *answers)
{
    const struct batch *b = &u->batch;
    struct window *w = &u->window;
    const char *reason = NULL;
    unsigned n_again = 0;

    for (unsigned i = 0; i < b->n; i++) {
        if (answers[i].verdict == TARGET_STORED) {
            w->uploaded++;
        } else if (answers[i].verdict == TARGET_REFUSED) {
            reject(w, b->seqs[i], answers[i].reason);
        } else {
            n_again++;
            reason = reason ? reason : answers[i].reason;
        }
    }
    keep_only_again(w, b, answers);
    if (n_again == 0) {
        u->most = MIN(2 * u->most, (unsigned)UPLOADER_BATCH_MAX);
        succeed(u);
        return ROUND_MORE;
    }
    fail(u, "%u of %u records were not taken now: %s", n_again, b->n, reason ? reason : "");
    return ROUND_FAILED;
}

static enum round read_answers(struct uploader *u, const struct http_answer *answer)
{
    struct target_answer *answers = calloc(MAX(u->batch.n, 1U), sizeof(*answers));
    enum round round = ROUND_FAILED;
    int r = -ENOMEM;

    if (answers)
        r = u->target->read(u->options, answer->body.len ? answer->body.data : "", answer->body.len,
                            answers, u->batch.n);
    if (r == 0)
        round = take_answers(u, answers);
    else if (r == -ENOMEM)
        fail(u, "out of memory");
    else
        fail(u,
             "the answer (status %ld) is not that of %s; is it somebody else who answers there, or "
             "a proxy?",
             answer->status, u->target->name);
    for (unsigned i = 0; answers && i < u->batch.n; i++)
        free(answers[i].reason);
    free(answers);
    return round;
}

/** Half of it may be taken; of one that is too large alone there is no half. */
static enum round too_large(struct uploader *u)
{
    struct batch *b = &u->batch;
    struct target_answer answer = {.verdict = TARGET_REFUSED};
    char reason[160];

    u->limited_ns = now_ns();
    if (b->n > 1) {
        u->limit = MAX(MIN(b->bytes, u->limit) / 2, (size_t)1);
        return ROUND_MORE;
    }
    snprintf(reason, sizeof(reason), "413: the server takes no request of %zu bytes", b->bytes);
    answer.reason = reason;
    return take_answers(u, &answer);
}

/** One of them it does not take; the others it does. */
static enum round bad_request(struct uploader *u, const char *why)
{
    struct target_answer answer = {.verdict = TARGET_REFUSED};
    char reason[320];

    if (u->batch.n > 1) {
        u->most = u->batch.n / 2;
        return ROUND_MORE;
    }
    snprintf(reason, sizeof(reason), "400%s%s", *why ? ": " : "", why);
    answer.reason = reason;
    return take_answers(u, &answer);
}

static const char *what_to_do(long status)
{
    static const struct {
        long status;
        const char *what_to_do;
    } known[] = {
        {401, "; the user, the password, the API key or the token is wrong or missing"},
        {403, "; the user may not write there: look at its role"},
        {404, "; is it the right server, and the right path?"},
        {429, "; it has too much to do"},
        {503, "; it is not ready"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (known[i].status == status)
            return known[i].what_to_do;
    return status >= 300 && status < 400
               ? "; it sends us elsewhere, which is not followed: name that server"
               : "";
}

static enum round take_status(struct uploader *u, const struct http_answer *answer)
{
    char why[256] = "";

    if (answer->status >= 200 && answer->status < 300)
        return read_answers(u, answer);
    if (answer->status == 413 && !u->memory)
        return too_large(u);
    if (answer->body.len)
        u->target->explain(answer->body.data, answer->body.len, why, sizeof(why));
    if (answer->status == 400 && u->target->bad_is_final)
        return bad_request(u, why);
    u->retry_after_ns = answer->retry_after_ns;
    fail(u, "the server answered with status %ld%s%s%s", answer->status, *why ? ": " : "", why,
         what_to_do(answer->status));
    /* Another one may do better. After the last one we wait. */
    if (!http_next(u->http))
        return ROUND_MORE;
    return ROUND_FAILED;
}

static enum round send_batch(struct uploader *u)
{
    _cleanup_(text_done) struct text path = {};
    struct http_answer answer;
    struct http_request request = {
        .method = "POST",
        .content_type = u->target->content_type,
        .body = u->batch.body.data,
        .len = u->batch.body.len,
        .compressed = u->http_options->compress,
    };
    enum round round = ROUND_FAILED;
    int r = -ENOMEM;

    u->retry_after_ns = 0;
    if (u->target->path)
        u->target->path(u->options, &path);
    request.path = path.data ? path.data : "";
    if (path.failed)
        fail(u, "out of memory");
    else
        r = http_do(u->http, &request, &answer);
    if (r == 0) {
        round = take_status(u, &answer);
    } else if (r == -ECANCELED) {
        round = ROUND_STOPPED;
    } else if (r == -EIO) {
        fail(u, "%s", answer.error);
        round = http_next(u->http) ? ROUND_FAILED : ROUND_MORE;
    }
    if (!path.failed)
        http_answer_done(&answer);
    return round;
}

static void check_server(struct uploader *u)
{
    char warning[sizeof(u->state.warning)] = "";
    _cleanup_(text_done) struct text shown = {};

    u->checked = true;
    if (!u->target->check)
        return;
    u->target->check(u->options, u->http, warning, sizeof(warning));
    if (!*warning)
        return;
    text_add_printable(&shown, warning, sizeof(warning));
    log_warning("%s at %s: %s", u->target->name, http_url(u->http), shown.data ? shown.data : "");
    pthread_mutex_lock(&u->mutex);
    snprintf(u->state.warning, sizeof(u->state.warning), "%s", shown.data ? shown.data : "");
    pthread_mutex_unlock(&u->mutex);
}

/* ---- the thread */

static int open_reader(struct uploader *u, char *error, size_t error_size)
{
    struct store_target target;
    int r = 0;

    if (!u->reader)
        r = store_reader_open(u->path, error, error_size, &u->reader);
    if (r < 0 || u->cursor_known)
        return r;
    r = store_reader_target(u->reader, u->target->name, &target);
    if (r == -ENOENT)
        r = 0;
    else if (r == 0)
        u->cursor = target.seq;
    else
        snprintf(error, error_size, "reading the store failed: %s", strerror(-r));
    u->cursor_known = r == 0;
    return r;
}

static enum round fail_to_read(struct uploader *u, int r)
{
    u->store_failed = true;
    fail(u, "reading the store failed: %s", strerror(-r));
    return ROUND_FAILED;
}

static void store_works(struct uploader *u)
{
    if (u->store_failed)
        succeed(u);
    u->store_failed = false;
}

static enum round batch_round(struct uploader *u)
{
    bool again = u->window.end != 0;
    enum round round;
    int r;

    if (u->limit < u->http_options->batch_size && now_ns() >= u->limited_ns + REGROW_NS) {
        u->limit = MIN(2 * u->limit, u->http_options->batch_size);
        u->limited_ns = now_ns();
    }
    r = batch_build(u);
    if (r < 0) {
        if (!again)
            window_clear(&u->window);
        return fail_to_read(u, r);
    }
    store_works(u);
    if (u->window.end == 0)
        return ROUND_IDLE;
    show_oldest(u, u->batch.oldest_ns);
    if (u->batch.n) {
        if (again)
            u->window.retried += u->batch.n;
        round = send_batch(u);
        if (round != ROUND_MORE || u->window.n)
            return round;
    }
    round = window_finish(u);
    if (!u->checked && round == ROUND_DONE)
        check_server(u);
    return round == ROUND_DONE && (again || u->batch.full) ? ROUND_MORE : round;
}

/* ---- messages: a composer's */

static int look_at(void *arg, const struct store_row *row)
{
    const struct target_record record = record_of(row);
    struct uploader *u = arg;

    if (u->batch.n == UPLOADER_BATCH_MAX)
        return 1;
    u->batch.n++;
    u->target->composer->look(u->memory, &record);
    if (u->held++ == 0)
        u->held_oldest_ns = row->realtime_ns;
    u->cursor = row->seq;
    return 0;
}

/** What is held is in memory only as the composer's sum of it: the store's cursor stays before it,
 * so that it is read again after a crash. */
static enum round message_finish(struct uploader *u)
{
    enum round round;

    u->window.end = u->cursor;
    u->window.uploaded = u->held;
    round = window_finish(u);
    if (round == ROUND_DONE)
        u->held = 0;
    return round;
}

static enum round message_send(struct uploader *u)
{
    const struct target_composer *composer = u->target->composer;
    enum round round;

    if (batch_begin(u) < 0) {
        fail(u, "out of memory");
        return ROUND_FAILED;
    }
    composer->compose(u->options, u->memory, clock_now_ns(CLOCK_REALTIME), &u->batch.body);
    if (u->batch.body.failed) {
        text_done(&u->batch.body);
        u->batch.body.failed = false;
        fail(u, "out of memory");
        return ROUND_FAILED;
    }
    if (u->failures)
        u->window.retried += u->held;
    round = send_batch(u);
    if (round != ROUND_MORE || u->failures) /* the next server */
        return round;
    composer->sent(u->memory, now_ns());
    u->due_ns = UINT64_MAX;
    return message_finish(u);
}

static enum round message_round(struct uploader *u)
{
    const struct store_query query = {.after_seq = u->cursor};
    int r;

    u->batch.n = 0;
    r = store_reader_each(u->reader, &query, look_at, u);
    if (r < 0)
        return fail_to_read(u, r);
    store_works(u);
    show_oldest(u, u->held ? u->held_oldest_ns : 0);
    if (r > 0)
        return ROUND_MORE; /* one message of all that there is */
    u->due_ns = u->target->composer->due_ns(u->options, u->memory);
    if (u->due_ns == UINT64_MAX)
        return u->held ? message_finish(u) : ROUND_IDLE;
    return now_ns() < u->due_ns ? ROUND_IDLE : message_send(u);
}

static enum round round_of(struct uploader *u)
{
    char error[512] = "";

    if (open_reader(u, error, sizeof(error)) < 0) {
        u->store_failed = true;
        fail(u, "%s", error);
        return ROUND_FAILED;
    }
    return u->memory ? message_round(u) : batch_round(u);
}

static void *run(void *arg)
{
    struct uploader *u = arg;
    bool more = false;

    /* Catching up takes what CPU time is left, and none from those who keep the records. */
    if (setpriority(PRIO_PROCESS, (id_t)gettid(), NICE) < 0)
        log_debug("making the upload thread nice failed: %s", strerror(errno));
    for (;;) {
        enum round round;

        if (!more) {
            text_done(&u->batch.body);
            show_oldest(u, u->held ? u->held_oldest_ns : 0);
            wait_for_records(u);
            wait_until(u, now_ns() + u->http_options->flush_interval);
        }
        if (is_time_up(u) || (u->failures && is_ending(u)))
            break;
        round = round_of(u);
        if (round == ROUND_STOPPED || (round == ROUND_IDLE && is_ending(u)))
            break;
        if (round == ROUND_FAILED)
            wait_until(u, now_ns() + delay_ns(u->failures, u->retry_after_ns));
        more = round == ROUND_MORE || round == ROUND_FAILED;
    }
    store_reader_close(u->reader);
    u->reader = NULL;
    pthread_mutex_lock(&u->mutex);
    u->ended = true;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->mutex);
    return NULL;
}

/* ---- beginning and ending */

static struct uploader *uploader_free(struct uploader *u)
{
    if (!u)
        return NULL;
    batch_done(&u->batch);
    window_clear(&u->window);
    http_free(u->http);
    free(u->memory);
    pthread_cond_destroy(&u->changed);
    pthread_mutex_destroy(&u->mutex);
    free(u->path);
    free(u);
    return NULL;
}
DEFINE_CLEANUP(struct uploader *, uploader_free)

int uploader_new(const struct target *target, const void *options,
                 const struct http_sockets *sockets, char *error, size_t error_size,
                 struct uploader **ret)
{
    _cleanup_(uploader_freep) struct uploader *u = calloc(1, sizeof(*u));
    pthread_condattr_t attributes;
    int r;

    snprintf(error, error_size, "there is no memory for it");
    if (!u)
        return -ENOMEM;
    pthread_mutex_init(&u->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&u->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    u->target = target;
    u->options = options;
    u->http_options = options;
    u->limit = u->http_options->batch_size;
    u->most = UPLOADER_BATCH_MAX;
    u->state.target = target->name;
    u->woken = true; /* the store may hold something already */
    u->due_ns = UINT64_MAX;
    if (target->composer) {
        u->memory = calloc(1, target->composer->size);
        if (!u->memory)
            return -ENOMEM;
    }
    r = http_new(target->name, u->http_options, sockets, error, error_size, &u->http);
    if (r < 0)
        return r;
    snprintf(u->state.url, sizeof(u->state.url), "%s", http_url(u->http));
    if (http_exposes_secret(u->http))
        log_warning(
            "%s.url is no https: the password, key or token goes over the network for all to "
            "read",
            target->name);
    *ret = TAKE_PTR(u);
    return 0;
}

int uploader_start(struct uploader *u, struct store *store, const char *path)
{
    sigset_t all, before;
    int r;

    u->path = strdup(path);
    if (!u->path)
        return -ENOMEM;
    u->store = store;
    /* From now on what is deleted and was not uploaded is counted. */
    store_target_advance(store, u->target->name, &(struct store_advance){});
    sigfillset(&all); /* signals are the loop's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = -pthread_create(&u->thread, NULL, run, u);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    u->started = r == 0;
    if (u->started)
        pthread_setname_np(u->thread, "upload");
    return r;
}

int uploader_resend(const struct target *target, const void *options, const char *path,
                    const struct store_query *query, struct uploader_resent *resent, char *error,
                    size_t error_size)
{
    _cleanup_(uploader_freep) struct uploader *u = NULL;
    enum round round = ROUND_MORE;
    int r = uploader_new(target, options, NULL, error, error_size, &u);

    if (r < 0)
        return r;
    u->query = query;
    u->resent = resent;
    u->cursor_known = true; /* the beginning */
    u->path = strdup(path);
    r = u->path ? store_reader_open(path, error, error_size, &u->reader) : -ENOMEM;
    while (r == 0 && round != ROUND_IDLE) {
        round = round_of(u);
        if (round == ROUND_FAILED && now_ns() >= u->failing_ns + resent->patience_ns)
            r = -ETIMEDOUT;
        else if (round == ROUND_FAILED)
            wait_until(u, now_ns() + delay_ns(u->failures, u->retry_after_ns));
        else if (round == ROUND_STOPPED)
            r = -EIO;
    }
    if (r == -ETIMEDOUT)
        snprintf(error, error_size, "%s takes nothing for %llu s: %s", http_url(u->http),
                 (unsigned long long)(resent->patience_ns / NS_PER_SEC), u->state.problem);
    else if (r == -EIO)
        snprintf(error, error_size, "reading the store failed");
    u->reader = store_reader_close(u->reader);
    return r;
}

void uploader_wake(struct uploader *u)
{
    if (!u)
        return;
    pthread_mutex_lock(&u->mutex);
    if (!u->woken) {
        u->woken = true;
        pthread_cond_broadcast(&u->changed);
    }
    pthread_mutex_unlock(&u->mutex);
}

void uploader_end_at(struct uploader *u, uint64_t deadline_ns)
{
    if (!u || !u->started)
        return;
    http_stop_at(u->http, MAX(deadline_ns, UINT64_C(1)));
    pthread_mutex_lock(&u->mutex);
    u->woken = u->ending = true;
    u->end_ns = deadline_ns;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->mutex);
}

bool uploader_end(struct uploader *u, uint64_t deadline_ns, struct uploader_state *ret)
{
    uint64_t until_ns = MAX(deadline_ns, now_ns()) + GRACE_NS;
    struct timespec until = timespec_of(until_ns);
    bool ended;

    if (!u)
        return true;
    if (!u->started) {
        *ret = u->state;
        uploader_free(u);
        return true;
    }
    uploader_end_at(u, deadline_ns);
    pthread_mutex_lock(&u->mutex);
    while (!u->ended)
        if (pthread_cond_timedwait(&u->changed, &u->mutex, &until) == ETIMEDOUT)
            break;
    ended = u->ended;
    *ret = u->state;
    u->store = NULL;
    pthread_mutex_unlock(&u->mutex);
    if (!ended) {
        pthread_detach(u->thread);
        return false;
    }
    pthread_join(u->thread, NULL);
    uploader_free(u);
    return true;
}

void uploader_get_state(struct uploader *u, struct uploader_state *ret)
{
    pthread_mutex_lock(&u->mutex);
    *ret = u->state;
    pthread_mutex_unlock(&u->mutex);
}
