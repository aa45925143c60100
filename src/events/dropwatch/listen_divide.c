// SPDX-License-Identifier: Apache-2.0

#include "events/dropwatch/listen.h"

#include <string.h>

void listen_parse(const char *text, uint64_t ret[DROPWATCH_COUNTERS])
{
    static const char *const names[DROPWATCH_COUNTERS] = {
        [DROPWATCH_OVERFLOWS] = "ListenOverflows",
        [DROPWATCH_FULL_DROP] = "TCPReqQFullDrop",
        [DROPWATCH_FULL_COOKIES] = "TCPReqQFullDoCookies",
        [DROPWATCH_LISTEN_DROPS] = "ListenDrops",
    };
    const char *name = strstr(text, "TcpExt: "), *value;

    if (!name || !(value = strstr(name + 1, "\nTcpExt: ")))
        return;
    value++;
    while (*name && *name != '\n' && *value && *value != '\n') {
        size_t len = strcspn(name, " \n");

        for (unsigned i = 1; i < DROPWATCH_COUNTERS; i++)
            if (strlen(names[i]) == len && strncmp(names[i], name, len) == 0)
                ret[i] = strtoull(value, NULL, 10);
        name += len;
        name += *name == ' ';
        value += strcspn(value, " \n");
        value += *value == ' ';
    }
}

/** Whether the queue to which the counter belongs is full now. */
static bool is_full(const struct listener *l, enum dropwatch_counter counter)
{
    return counter == DROPWATCH_OVERFLOWS ? l->ack_backlog > l->max_ack_backlog
                                          : l->requests && l->requests >= l->max_ack_backlog;
}

struct division {
    struct listen_growth *growth;
    struct listener *listeners;
    size_t n;
    void (*tell)(void *arg, struct listener *l, enum dropwatch_counter counter, uint64_t count);
    void *arg;
};

/** To those that have dropped something of which nobody has been told; the full ones first. */
static void divide_drops(const struct division *d, enum dropwatch_counter counter, bool full)
{
    int64_t *left = &d->growth->refused[counter];

    for (size_t i = 0; *left > 0 && i < d->n; i++) {
        struct listener *l = &d->listeners[i];
        uint64_t count;

        if (l->drops <= l->told || (full && !is_full(l, counter)))
            continue;
        count = MIN(l->drops - l->told, (uint64_t)*left);
        l->told += count;
        *left -= (int64_t)count;
        d->tell(d->arg, l, counter, count);
    }
}

/** A SYN that is answered with a cookie is no drop: if one queue alone is full, it was that. */
static void divide_cookies(const struct division *d)
{
    int64_t *left = &d->growth->refused[DROPWATCH_FULL_COOKIES];
    struct listener *only = NULL;
    size_t n_full = 0;

    for (size_t i = 0; i < d->n; i++)
        if (is_full(&d->listeners[i], DROPWATCH_FULL_COOKIES)) {
            only = &d->listeners[i];
            n_full++;
        }
    if (*left <= 0 || n_full != 1)
        return;
    d->tell(d->arg, only, DROPWATCH_FULL_COOKIES, (uint64_t)*left);
    *left = 0;
}

void listen_divide(struct listen_growth *growth, struct listener *listeners, size_t n,
                   void (*tell)(void *arg, struct listener *listener,
                                enum dropwatch_counter counter, uint64_t count),
                   void *arg)
{
    const struct division d = {growth, listeners, n, tell, arg};
    static const enum dropwatch_counter order[] = {DROPWATCH_OVERFLOWS, DROPWATCH_FULL_DROP};

    for (unsigned full = 2; full-- > 0;)
        for (size_t i = 0; i < ARRAY_SIZE(order); i++)
            divide_drops(&d, order[i], full);
    divide_cookies(&d);
    for (unsigned i = 1; i < DROPWATCH_COUNTERS; i++) {
        int64_t waited = MIN(growth->left[i], growth->refused[i]);

        if (waited > 0) {
            tell(arg, NULL, i, (uint64_t)waited);
            growth->refused[i] -= waited;
        }
        growth->left[i] = MAX(growth->refused[i], INT64_C(0));
    }
    /* Other drops than those that are counted: not to be taken for them for ever. */
    for (size_t i = 0; i < n; i++) {
        struct listener *l = &listeners[i];

        if (l->left_before)
            l->told = l->drops;
        l->left_before = l->drops > l->told;
    }
}
