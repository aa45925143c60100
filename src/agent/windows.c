// SPDX-License-Identifier: Apache-2.0

#include "agent/windows.h"

#include <assert.h>
#include <search.h>
#include <sys/queue.h>

struct remembered {
    uint64_t window_id; /* first: what is searched for is a pointer to it */
    struct window_last last;
    TAILQ_ENTRY(remembered) order;
};

TAILQ_HEAD(remembered_list, remembered);

struct windows {
    void *tree;                      /* tsearch(3) */
    struct remembered_list in_order; /* the same, as they came */
    size_t n, max;
};

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void forget(struct windows *w, struct remembered *entry)
{
    tdelete(&entry->window_id, &w->tree, compare);
    TAILQ_REMOVE(&w->in_order, entry, order);
    w->n--;
    window_last_done(&entry->last);
    free(entry);
}

void window_last_done(struct window_last *last)
{
    free(last->summary);
    free(last->brief);
    *last = (struct window_last){};
}

int windows_new(size_t max, struct windows **ret)
{
    struct windows *w = calloc(1, sizeof(*w));

    assert(max > 0);
    if (!w)
        return -ENOMEM;
    w->max = max;
    TAILQ_INIT(&w->in_order);
    *ret = w;
    return 0;
}

struct windows *windows_free(struct windows *w)
{
    if (!w)
        return NULL;
    while (!TAILQ_EMPTY(&w->in_order))
        forget(w, TAILQ_FIRST(&w->in_order));
    free(w);
    return NULL;
}

/** The entry of a window, made if there is room. */
static struct remembered *get(struct windows *w, uint64_t window_id)
{
    struct remembered **found = tfind(&window_id, &w->tree, compare);
    struct remembered *entry;

    if (found)
        return *found;
    if (w->n >= w->max)
        forget(w, TAILQ_FIRST(&w->in_order));
    entry = calloc(1, sizeof(*entry));
    if (!entry)
        return NULL;
    entry->window_id = window_id;
    if (!tsearch(entry, &w->tree, compare)) {
        free(entry);
        return NULL;
    }
    TAILQ_INSERT_TAIL(&w->in_order, entry, order);
    w->n++;
    return entry;
}

void windows_set(struct windows *w, uint64_t window_id, struct window_last *last)
{
    struct remembered *entry = get(w, window_id);

    if (entry) {
        window_last_done(&entry->last);
        entry->last = *last;
        *last = (struct window_last){};
    }
    window_last_done(last);
}

bool windows_take(struct windows *w, uint64_t window_id, struct window_last *ret)
{
    struct remembered **found = tfind(&window_id, &w->tree, compare), *entry;

    *ret = (struct window_last){};
    if (!found)
        return false;
    entry = *found;
    *ret = entry->last;
    entry->last = (struct window_last){};
    forget(w, entry);
    return true;
}

void windows_each(const struct windows *w,
                  void (*fn)(void *arg, uint64_t window_id, const struct window_last *last),
                  void *arg)
{
    for (const struct remembered *entry = TAILQ_FIRST(&w->in_order); entry;
         entry = TAILQ_NEXT(entry, order))
        fn(arg, entry->window_id, &entry->last);
}
