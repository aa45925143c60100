// SPDX-License-Identifier: Apache-2.0

#include "enrich/lookups.h"

#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>

#define KEYS_MAX 1000000

enum lookup_state {
    LOOKUP_FREE,
    LOOKUP_WAITING, /* nobody has taken it yet */
    LOOKUP_ASKED,   /* a thread is at it */
    LOOKUP_KNOWN,
};

struct lookup {
    TAILQ_ENTRY(lookup) in_order;
    LIST_ENTRY(lookup) in_bucket; /* unless it is free */
    enum lookup_state state;
    uint8_t key[LOOKUP_KEY_BYTES];
    void *answer; /* owned; NULL: none, or not known yet */
    size_t size;
    bool answered;       /* ever */
    uint64_t since_ns;   /* when it was asked */
    uint64_t expires_ns; /* KNOWN */
};

TAILQ_HEAD(lookup_list, lookup);
LIST_HEAD(lookup_bucket, lookup);

struct lookups {
    pthread_mutex_t lock; /* never held while waiting, nor over a system call but eventfd's write */
    pthread_cond_t asked;
    int fd; /* owned */
    bool stopping;
    size_t n_idle; /* threads in lookups_wait() */
    size_t n_waiting, n_pending, pending_max;

    struct lookup *all; /* owned */
    size_t max;
    struct lookup_bucket *buckets; /* owned */
    size_t n_buckets;              /* a power of two */
    struct lookup_list settled;    /* free ones, then known ones, the oldest answer first */
    struct lookup_list waiting;    /* the oldest question first */
    struct lookup_list taken;
};

int lookups_new(size_t max, size_t pending_max, struct lookups **ret)
{
    struct lookups *l;

    if (max == 0 || max > KEYS_MAX || pending_max == 0)
        return -EINVAL;
    l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->asked, NULL);
    l->pending_max = MIN(pending_max, max);
    TAILQ_INIT(&l->settled);
    TAILQ_INIT(&l->waiting);
    TAILQ_INIT(&l->taken);
    for (l->n_buckets = 16; l->n_buckets < max;)
        l->n_buckets *= 2;
    l->max = max;
    l->all = calloc(max, sizeof(*l->all));
    l->buckets = calloc(l->n_buckets, sizeof(*l->buckets));
    l->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!l->all || !l->buckets || l->fd < 0) {
        int r = l->fd < 0 ? -errno : -ENOMEM;

        lookups_free(l);
        return r;
    }
    for (size_t i = 0; i < max; i++)
        TAILQ_INSERT_TAIL(&l->settled, &l->all[i], in_order);
    *ret = l;
    return 0;
}

struct lookups *lookups_free(struct lookups *l)
{
    if (!l)
        return NULL;
    for (size_t i = 0; l->all && i < l->max; i++)
        free(l->all[i].answer);
    free(l->all);
    free(l->buckets);
    fd_close(l->fd);
    pthread_cond_destroy(&l->asked);
    pthread_mutex_destroy(&l->lock);
    free(l);
    return NULL;
}

int lookups_fd(const struct lookups *l)
{
    return l->fd;
}

static struct lookup_bucket *bucket_of(struct lookups *l, const void *key)
{
    const uint8_t *bytes = key;
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

    for (size_t i = 0; i < LOOKUP_KEY_BYTES; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return &l->buckets[(hash ^ hash >> 32) & (l->n_buckets - 1)];
}

static struct lookup *find(struct lookups *l, const void *key)
{
    struct lookup *u;

    for (u = LIST_FIRST(bucket_of(l, key)); u; u = LIST_NEXT(u, in_bucket))
        if (memcmp(u->key, key, LOOKUP_KEY_BYTES) == 0)
            break;
    return u;
}

static void forget(struct lookups *l, struct lookup *u)
{
    TAILQ_REMOVE(&l->settled, u, in_order);
    if (u->state != LOOKUP_FREE)
        LIST_REMOVE(u, in_bucket);
    free(u->answer);
    *u = (struct lookup){.state = LOOKUP_FREE};
    TAILQ_INSERT_HEAD(&l->settled, u, in_order);
}

static void ask(struct lookups *l, struct lookup *u, uint64_t now_ns)
{
    TAILQ_REMOVE(&l->settled, u, in_order);
    TAILQ_INSERT_TAIL(&l->waiting, u, in_order);
    u->state = LOOKUP_WAITING;
    u->since_ns = now_ns;
    l->n_waiting++;
    l->n_pending++;
    pthread_cond_signal(&l->asked);
}

static int copy_out(const struct lookup *u, void *ret, size_t size, size_t *ret_size)
{
    *ret_size = MIN(u->size, size);
    if (*ret_size > 0)
        memcpy(ret, u->answer, *ret_size);
    return 1;
}

static int get_locked(struct lookups *l, const void *key, uint64_t now_ns, void *ret, size_t size,
                      size_t *ret_size)
{
    struct lookup *u = find(l, key);
    bool slow = u && (u->state == LOOKUP_WAITING || u->state == LOOKUP_ASKED) &&
                now_ns > u->since_ns && now_ns - u->since_ns >= LOOKUPS_PATIENCE_NS;

    if (u && (u->state == LOOKUP_KNOWN ? now_ns < u->expires_ns : slow && u->answered))
        return copy_out(u, ret, size, ret_size);
    if (u && u->state != LOOKUP_KNOWN)
        return 0;
    if (l->n_pending == l->pending_max)
        return -EBUSY;
    if (!u) {
        /* There is one: all others are pending, and these are fewer. */
        u = TAILQ_FIRST(&l->settled);
        forget(l, u);
        memcpy(u->key, key, LOOKUP_KEY_BYTES);
        LIST_INSERT_HEAD(bucket_of(l, key), u, in_bucket);
    }
    ask(l, u, now_ns);
    return 0;
}

int lookups_get(struct lookups *l, const void *key, uint64_t now_ns, void *ret, size_t size,
                size_t *ret_size)
{
    int r;

    pthread_mutex_lock(&l->lock);
    r = get_locked(l, key, now_ns, ret, size, ret_size);
    pthread_mutex_unlock(&l->lock);
    return r;
}

/* --- the threads' side */

static bool take(struct lookups *l, void *ret_key)
{
    struct lookup *u = TAILQ_FIRST(&l->waiting);

    if (l->stopping || !u)
        return false;
    TAILQ_REMOVE(&l->waiting, u, in_order);
    TAILQ_INSERT_TAIL(&l->taken, u, in_order);
    u->state = LOOKUP_ASKED;
    l->n_waiting--;
    memcpy(ret_key, u->key, LOOKUP_KEY_BYTES);
    return true;
}

bool lookups_next(struct lookups *l, void *ret_key)
{
    bool taken;

    pthread_mutex_lock(&l->lock);
    taken = take(l, ret_key);
    pthread_mutex_unlock(&l->lock);
    return taken;
}

bool lookups_wait(struct lookups *l, void *ret_key)
{
    bool taken;

    pthread_mutex_lock(&l->lock);
    l->n_idle++;
    while (!(taken = take(l, ret_key)) && !l->stopping)
        pthread_cond_wait(&l->asked, &l->lock);
    l->n_idle--;
    pthread_mutex_unlock(&l->lock);
    return taken;
}

void lookups_stop(struct lookups *l)
{
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_cond_broadcast(&l->asked);
    pthread_mutex_unlock(&l->lock);
}

bool lookups_stopped(struct lookups *l)
{
    bool stopping;

    pthread_mutex_lock(&l->lock);
    stopping = l->stopping;
    pthread_mutex_unlock(&l->lock);
    return stopping;
}

bool lookups_unserved(struct lookups *l)
{
    bool unserved;

    pthread_mutex_lock(&l->lock);
    unserved = l->n_waiting > l->n_idle;
    pthread_mutex_unlock(&l->lock);
    return unserved;
}

/* False: there is no memory for it. */
static bool set_answer(struct lookup *u, const void *answer, size_t size)
{
    void *copy = NULL;

    if (size > 0) {
        copy = malloc(size);
        if (!copy)
            return false;
        memcpy(copy, answer, size);
    }
    free(u->answer);
    u->answer = copy;
    u->size = size;
    u->answered = true;
    return true;
}

static void settle(struct lookups *l, struct lookup *u, uint64_t expires_ns)
{
    TAILQ_REMOVE(&l->taken, u, in_order);
    TAILQ_INSERT_TAIL(&l->settled, u, in_order);
    l->n_pending--;
    u->state = LOOKUP_KNOWN;
    u->expires_ns = expires_ns;
    eventfd_write(l->fd, 1);
}

void lookups_answer(struct lookups *l, const void *key, const void *answer, size_t size,
                    uint64_t expires_ns)
{
    struct lookup *u;

    pthread_mutex_lock(&l->lock);
    u = find(l, key);
    if (u && u->state == LOOKUP_ASKED) {
        bool kept = set_answer(u, answer, size);

        settle(l, u, expires_ns);
        if (!kept)
            forget(l, u); /* to be asked again, when there is memory */
    }
    pthread_mutex_unlock(&l->lock);
}

void lookups_draft(struct lookups *l, const void *key, const void *answer, size_t size)
{
    struct lookup *u;

    pthread_mutex_lock(&l->lock);
    u = find(l, key);
    if (u && u->state == LOOKUP_ASKED && !u->answered)
        (void)set_answer(u, answer, size);
    pthread_mutex_unlock(&l->lock);
}

void lookups_keep(struct lookups *l, const void *key, uint64_t expires_ns)
{
    struct lookup *u;

    pthread_mutex_lock(&l->lock);
    u = find(l, key);
    if (u && u->state == LOOKUP_ASKED)
        settle(l, u, expires_ns);
    pthread_mutex_unlock(&l->lock);
}

int lookups_start_thread(const char *name, void *(*fn)(void *arg), void *arg, pthread_t *ret)
{
    sigset_t all, before;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(ret, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0)
        pthread_setname_np(*ret, name);
    return -r;
}
