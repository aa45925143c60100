// SPDX-License-Identifier: Apache-2.0

#include "agent/collect.h"

#include <assert.h>
#include <pthread.h>
#include <stdalign.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "core/read.h"
#include "enrich/lookups.h"
#include "kernel/symbols.h"

#define WORKERS_MAX      4
#define SNAPSHOT_WAIT_NS (1 * NS_PER_SEC)
#define STOP_WAIT_S      1

enum job_state { JOB_WAITS, JOB_RUNS, JOB_DONE };

struct job {
    struct job *next;
    uint64_t ticket;
    const struct event *event;
    unsigned index;
    enum job_state state;
    bool cancelled;
    bool asked;   /* for a snapshot, and no answer has come */
    int snapshot; /* the answer, until it is read; -1: none */
    struct on_demand *on_demand;
    int result;
    struct record *part; /* owned; of a job that is done */
    alignas(8) char note[EVENT_NOTE_BYTES];
    alignas(8) char raw[];
};

/* Shared with workers, one of which may hang for ever: the last one frees it. */
struct collector {
    struct collector_options options;
    char *root_prefix; /* owned */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* CLOCK_MONOTONIC; work, snapshots, the end, workers that have ended */
    struct job *first, **end;
    size_t n;
    uint64_t tickets;
    unsigned n_workers, n_idle;
    int done; /* eventfd */
    bool stopped, abandoned;
};

/** What collect() gets; it sees the first member. */
struct running {
    struct collect collect;
    struct collector *collector;
    struct job *job;
};

static void job_free(struct job *job)
{
    fd_close(job->snapshot);
    on_demand_free(job->on_demand);
    record_free(job->part);
    free(job);
}

/** Out of the list; the lock is held. */
static void remove_job(struct collector *c, struct job *job)
{
    struct job **link = &c->first;

    while (*link != job)
        link = &(*link)->next;
    *link = job->next;
    if (c->end == &job->next)
        c->end = link;
    c->n--;
    job_free(job);
}

static struct job *find_ticket(struct collector *c, uint64_t ticket)
{
    for (struct job *job = c->first; job; job = job->next)
        if (job->ticket == ticket && !job->cancelled)
            return job;
    return NULL;
}

static void destroy(struct collector *c)
{
    while (c->first)
        remove_job(c, c->first);
    symbols_free(c->options.symbols);
    fd_close(c->done);
    free(c->root_prefix);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* --- on the workers */

static struct timespec monotonic_in(uint64_t ns)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    ns += (uint64_t)t.tv_nsec;
    t.tv_sec += (time_t)(ns / NS_PER_SEC);
    t.tv_nsec = (long)(ns % NS_PER_SEC);
    return t;
}

static int snapshot(const struct collect *collect, void **ret, size_t *ret_size)
{
    const struct running *running = (const struct running *)collect;
    struct collector *c = running->collector;
    const struct timespec until = monotonic_in(SNAPSHOT_WAIT_NS);
    _close_fd_ int fd = -1;
    char *bytes;
    int r = 0;

    pthread_mutex_lock(&c->lock);
    while (running->job->asked && !c->stopped && r == 0)
        r = pthread_cond_timedwait(&c->changed, &c->lock, &until);
    fd = TAKE_FD(running->job->snapshot);
    r = running->job->asked ? -ETIME : -ENODATA;
    pthread_mutex_unlock(&c->lock);
    if (fd >= 0)
        r = read_whole(fd, COLLECT_SNAPSHOT_MAX, &bytes, ret_size);
    if (r == 0)
        *ret = bytes;
    return r;
}

static int run_on_demand(const struct collect *collect, unsigned hook, unsigned cpu, unsigned times)
{
    const struct running *running = (const struct running *)collect;

    return on_demand_run(running->job->on_demand, hook, cpu, times);
}

static int ask_sysrq(const struct collect *collect)
{
    const struct collector *c = ((const struct running *)collect)->collector;

    return c->options.sysrq ? c->options.sysrq(c->options.arg) : -EPERM;
}

static void run(struct collector *c, struct job *job)
{
    const struct running running = {
        .collect =
            {
                .root_prefix = c->root_prefix,
                .symbols = c->options.symbols,
                .note = job->note,
                .snapshot = snapshot,
                .run = run_on_demand,
                .sysrq = ask_sysrq,
                .n_cpus = on_demand_cpus(job->on_demand),
                .samples = on_demand_samples(job->on_demand),
            },
        .collector = c,
        .job = job,
    };
    _cleanup_(record_freep) struct record *part = NULL;
    uint64_t one = 1;
    int r;

    pthread_mutex_unlock(&c->lock);
    r = record_new(c->options.origin, job->event, job->index, 0, &part);
    if (r == 0)
        r = job->event->collect(&running.collect, job->raw, part);
    pthread_mutex_lock(&c->lock);
    job->state = JOB_DONE;
    if (job->cancelled) {
        remove_job(c, job);
        return;
    }
    job->result = r < 0 ? r : 0;
    job->part = TAKE_PTR(part);
    if (write(c->done, &one, sizeof(one)) < 0)
        return; /* it is readable already */
}

static struct job *next_job(struct collector *c)
{
    for (struct job *job = c->first; job; job = job->next)
        if (job->state == JOB_WAITS)
            return job;
    return NULL;
}

static void *worker(void *arg)
{
    struct collector *c = arg;
    bool last;

    pthread_mutex_lock(&c->lock);
    while (!c->stopped) {
        struct job *job = next_job(c);

        if (job) {
            job->state = JOB_RUNS;
            run(c, job);
            continue;
        }
        c->n_idle++;
        pthread_cond_wait(&c->changed, &c->lock);
        c->n_idle--;
    }
    c->n_workers--;
    last = c->abandoned && c->n_workers == 0;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (last)
        destroy(c);
    return NULL;
}

/* --- on the thread that asks */

int collector_new(const struct collector_options *options, struct collector **ret)
{
    struct collector *c = calloc(1, sizeof(*c));
    pthread_condattr_t attributes;

    if (!c)
        return -ENOMEM;
    assert(options->max > 0);
    c->options = *options;
    if (c->options.symbols)
        symbols_ref(c->options.symbols);
    c->end = &c->first;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    c->root_prefix = strdup(options->root_prefix);
    c->done = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!c->root_prefix || c->done < 0) {
        int r = c->root_prefix ? -errno : -ENOMEM;

        destroy(c);
        return r;
    }
    *ret = c;
    return 0;
}

struct collector *collector_free(struct collector *c)
{
    const struct timespec until = monotonic_in(STOP_WAIT_S * NS_PER_SEC);
    bool last;
    int r = 0;

    if (!c)
        return NULL;
    pthread_mutex_lock(&c->lock);
    c->stopped = true;
    pthread_cond_broadcast(&c->changed);
    while (c->n_workers > 0 && r == 0)
        r = pthread_cond_timedwait(&c->changed, &c->lock, &until);
    c->abandoned = true;
    last = c->n_workers == 0;
    pthread_mutex_unlock(&c->lock);
    if (last)
        destroy(c);
    return NULL;
}

static bool has_snapshot(const struct event *event)
{
    for (const struct hook *hook = event->hooks; hook && hook->name; hook++)
        if (hook->snapshot)
            return true;
    return false;
}

/** One more worker, if the others have enough to do; the lock is held. */
static int serve(struct collector *c)
{
    unsigned n_waiting = 0;
    pthread_t thread;
    int r;

    pthread_cond_broadcast(&c->changed);
    /* One that is idle has perhaps been woken for a job already. */
    for (struct job *job = c->first; job; job = job->next)
        n_waiting += job->state == JOB_WAITS;
    if (n_waiting <= c->n_idle || c->n_workers >= WORKERS_MAX)
        return 0;
    r = lookups_start_thread("collect", worker, c, &thread);
    if (r < 0)
        return c->n_workers > 0 ? 0 : r; /* later, then */
    pthread_detach(thread);
    c->n_workers++;
    return 0;
}

int collector_start(struct collector *c, const struct event *event, unsigned index,
                    struct on_demand *on_demand, const void *raw, const void *note,
                    uint64_t *ret_ticket)
{
    struct job *job = calloc(1, sizeof(*job) + event->wire_size);
    int r;

    if (!job)
        return -ENOMEM;
    job->event = event;
    job->index = index;
    job->snapshot = -1;
    job->on_demand = on_demand_ref(on_demand);
    memcpy(job->note, note, sizeof(job->note));
    memcpy(job->raw, raw, event->wire_size);

    pthread_mutex_lock(&c->lock);
    r = c->n >= c->options.max ? -EBUSY : 0;
    if (r == 0) {
        job->asked =
            has_snapshot(event) && c->options.ask && c->options.ask(c->options.arg, index) == 0;
        job->ticket = ++c->tickets;
        *c->end = job;
        c->end = &job->next;
        c->n++;
        r = serve(c);
        if (r < 0)
            remove_job(c, job);
        else
            *ret_ticket = job->ticket;
    } else {
        job_free(job);
    }
    pthread_mutex_unlock(&c->lock);
    return r;
}

int collector_lookup(struct collector *c, uint64_t ticket, struct record **ret)
{
    struct job *job;
    int r;

    pthread_mutex_lock(&c->lock);
    job = find_ticket(c, ticket);
    if (!job) {
        r = -ENOENT;
    } else if (job->state != JOB_DONE) {
        r = 0;
    } else {
        r = job->result < 0 ? job->result : 1;
        if (r == 1)
            *ret = TAKE_PTR(job->part);
        remove_job(c, job);
    }
    pthread_mutex_unlock(&c->lock);
    return r;
}

void collector_cancel(struct collector *c, uint64_t ticket)
{
    struct job *job;

    pthread_mutex_lock(&c->lock);
    job = find_ticket(c, ticket);
    if (job && job->state == JOB_RUNS)
        job->cancelled = true; /* its worker removes it */
    else if (job)
        remove_job(c, job);
    pthread_mutex_unlock(&c->lock);
}

void collector_take(struct collector *c, unsigned event, int fd)
{
    struct job *job;

    pthread_mutex_lock(&c->lock);
    /* Answers come in the order of questions; which iterator of a kind is whose makes no
     * difference, as nothing is read before read(). */
    for (job = c->first; job && !(job->asked && job->index == event); job = job->next)
        ;
    if (job) {
        job->asked = false;
        job->snapshot = TAKE_FD(fd);
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    fd_close(fd);
}

int collector_fd(const struct collector *c)
{
    return c->done;
}
