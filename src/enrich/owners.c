// SPDX-License-Identifier: Apache-2.0

#include "enrich/owners.h"

#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#define ASK_EVERY_NS (1 * NS_PER_SEC)
#define READ_SOCKETS 512

struct owners {
    struct owners_options options;
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_t thread;
    int snapshot;               /* waits to be read; -1: none */
    bool end, asked;            /* asked: and no answer has come yet */
    uint64_t asked_ns;          /* CLOCK_MONOTONIC, as given by the caller */
    int known;                  /* eventfd */
    struct socket_owner *table; /* owned; ascending by inode */
    size_t n;
};

static int compare(const void *a, const void *b)
{
    const struct socket_owner *x = a, *y = b;

    if (x->inode != y->inode)
        return x->inode < y->inode ? -1 : 1;
    /* Of several the oldest: it is mostly the parent that has opened it. Numbers begin anew. */
    if (x->started_ns != y->started_ns)
        return x->started_ns < y->started_ns ? -1 : 1;
    return (x->pid > y->pid) - (x->pid < y->pid);
}

static struct socket_owner *read_snapshot(int fd, size_t max, size_t *ret_n)
{
    struct socket_owner *table = NULL;
    size_t n = 0, room = 0;

    while (n < max) {
        ssize_t got;

        if (room - n < READ_SOCKETS) {
            struct socket_owner *larger = reallocarray(table, room + READ_SOCKETS, sizeof(*table));

            if (!larger)
                break;
            table = larger;
            room += READ_SOCKETS;
        }
        got = read(fd, table + n, READ_SOCKETS * sizeof(*table));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        n += (size_t)got / sizeof(*table);
    }
    n = MIN(n, max);
    if (n)
        qsort(table, n, sizeof(*table), compare);
    *ret_n = n;
    return table;
}

static void *work(void *arg)
{
    struct owners *o = arg;

    pthread_mutex_lock(&o->lock);
    while (!o->end) {
        struct socket_owner *table;
        uint64_t one = 1;
        size_t n = 0;
        int fd;

        if (o->snapshot < 0) {
            pthread_cond_wait(&o->work, &o->lock);
            continue;
        }
        fd = TAKE_FD(o->snapshot);
        pthread_mutex_unlock(&o->lock);
        table = read_snapshot(fd, o->options.max, &n);
        close(fd);
        pthread_mutex_lock(&o->lock);
        free(o->table);
        o->table = table;
        o->n = n;
        o->asked = false;
        if (write(o->known, &one, sizeof(one)) < 0)
            continue; /* it is readable already */
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

int owners_new(const struct owners_options *options, struct owners **ret)
{
    struct owners *o = calloc(1, sizeof(*o));
    int r;

    if (!o)
        return -ENOMEM;
    o->options = *options;
    o->snapshot = -1;
    o->known = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (o->known < 0) {
        r = -errno;
        free(o);
        return r;
    }
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->work, NULL);
    r = -pthread_create(&o->thread, NULL, work, o);
    if (r < 0) {
        close(o->known);
        free(o);
        return r;
    }
    *ret = o;
    return 0;
}

struct owners *owners_free(struct owners *o)
{
    if (!o)
        return NULL;
    pthread_mutex_lock(&o->lock);
    o->end = true;
    pthread_cond_signal(&o->work);
    pthread_mutex_unlock(&o->lock);
    pthread_join(o->thread, NULL);
    fd_close(o->snapshot);
    close(o->known);
    free(o->table);
    pthread_cond_destroy(&o->work);
    pthread_mutex_destroy(&o->lock);
    free(o);
    return NULL;
}

void owners_take(struct owners *o, int fd)
{
    pthread_mutex_lock(&o->lock);
    fd_close(o->snapshot);
    o->snapshot = fd;
    if (fd < 0)
        o->asked = false;
    pthread_cond_signal(&o->work);
    pthread_mutex_unlock(&o->lock);
}

/** The first of the inode, or NULL. */
static const struct socket_owner *find(const struct owners *o, uint64_t inode)
{
    size_t low = 0, high = o->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (o->table[middle].inode < inode)
            low = middle + 1;
        else
            high = middle;
    }
    return low < o->n && o->table[low].inode == inode ? &o->table[low] : NULL;
}

int owners_lookup(struct owners *o, uint64_t inode, uint64_t now_ns, struct socket_owner *ret)
{
    const struct socket_owner *found;
    int r = 0;

    pthread_mutex_lock(&o->lock);
    found = find(o, inode);
    if (found) {
        *ret = *found;
        r = 1;
    } else if (o->asked) {
        r = 0;
    } else if (o->asked_ns && now_ns - o->asked_ns < ASK_EVERY_NS) {
        r = -ENOENT; /* it was not in a snapshot that is hardly older */
    } else {
        o->asked_ns = now_ns;
        o->asked = o->options.ask(o->options.arg) == 0;
        r = o->asked ? 0 : -ENOENT;
    }
    pthread_mutex_unlock(&o->lock);
    return r;
}

int owners_fd(const struct owners *o)
{
    return o->known;
}
