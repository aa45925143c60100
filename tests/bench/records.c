// SPDX-License-Identifier: Apache-2.0

/** From raw bytes to the disk, with the agent's own code and without its waiting for answers. */

#include "bench.h"

#include <stdalign.h>
#include <stdio.h>
#include <sys/stat.h>

#include "core/clock.h"
#include "core/record.h"
#include "store/store.h"

#define DECODE_BATCH   100
#define DECODE_BATCHES 50
#define STORE_BOUND_NS (60 * NS_PER_SEC) /* for the last ones */

static void no_device(uint32_t netns, int ifindex, char ret[16])
{
    (void)netns;
    (void)ifindex;
    *ret = '\0';
}

static void no_container(const char *cgroup_path, char ret[DOC_CONTAINER_LEN + 1])
{
    (void)cgroup_path;
    *ret = '\0';
}

static unsigned index_of(const struct event *event)
{
    unsigned i = 0;

    while (events[i] != event)
        i++;
    return i;
}

/** The `nth` of the raw events, again from the first when there are no more. */
static int make_doc(const struct trial *t, unsigned nth, struct doc **ret)
{
    static const struct record_origin origin = {
        .hostname = "bench",
        .region = "",
        .kernel_release = "",
        .boot_id = "00000000-0000-0000-0000-000000000000",
    };
    alignas(8) char note[EVENT_NOTE_BYTES] = {};
    const struct decode decode = {
        .kernel = t->kernel,
        .options = t->options,
        .device_name = no_device,
        .container_id = no_container,
        .note = note,
    };
    const char *raw = (const char *)t->raw + nth % t->n_raw * t->event->wire_size;
    _cleanup_(record_freep) struct record *r = NULL;
    int e = record_new(&origin, t->event, index_of(t->event), clock_now_ns(CLOCK_REALTIME), &r);

    if (e == 0)
        e = t->event->decode(&decode, raw, r);
    return e < 0 ? e : record_finish(r, clock_now_ns(CLOCK_REALTIME), ret);
}

int records_decode_ns(const struct trial *t, double *ret_ns, double *ret_bytes)
{
    uint64_t fastest = UINT64_MAX, bytes = 0;

    for (unsigned batch = 0; batch < DECODE_BATCHES; batch++) {
        uint64_t begin = clock_now_ns(CLOCK_MONOTONIC);

        for (unsigned i = 0; i < DECODE_BATCH; i++) {
            _cleanup_(doc_unrefp) struct doc *doc = NULL;
            int r = make_doc(t, i, &doc);

            if (r < 0)
                return r;
            bytes += doc->len;
        }
        fastest = MIN(fastest, clock_now_ns(CLOCK_MONOTONIC) - begin);
    }
    *ret_ns = (double)fastest / DECODE_BATCH;
    *ret_bytes = (double)bytes / DECODE_BATCH / DECODE_BATCHES;
    return 0;
}

/** When the queue is full we wait; an agent would count the record as lost. */
static int put(struct store *store, struct doc *doc)
{
    const struct timespec nap = {.tv_nsec = 200000};
    int r;

    while ((r = store_put(store, doc)) == -ENOBUFS)
        nanosleep(&nap, NULL);
    return r;
}

/** Makes and puts `n` records, waits until all are committed. */
static int store_all(const struct trial *t, struct store *store, unsigned n)
{
    const struct timespec nap = {.tv_nsec = 1000000};
    unsigned event = index_of(t->event);
    struct store_counts counts = {};
    uint64_t end;

    for (unsigned i = 0; i < n; i++) {
        _cleanup_(doc_unrefp) struct doc *doc = NULL;
        int r = make_doc(t, i, &doc);

        if (r == 0)
            r = put(store, doc);
        if (r < 0)
            return r;
    }
    end = clock_now_ns(CLOCK_MONOTONIC) + STORE_BOUND_NS;
    while (counts.recorded < n) {
        if (counts.lost[STORE_LOST_WRITE] || clock_now_ns(CLOCK_MONOTONIC) > end)
            return -EIO;
        nanosleep(&nap, NULL);
        store_get_counts(store, event, &counts);
    }
    return 0;
}

static int open_store(const char *folder, struct store **ret)
{
    struct store_options options;
    char error[512];
    int r = option_defaults(store_section.options, &options);

    if (r < 0)
        return r;
    free(options.path);
    options.path = strdup(folder);
    options.max_size = 0; /* nothing is deleted for want of room */
    r = options.path ? store_open(&options, n_events, error, sizeof(error), ret) : -ENOMEM;
    option_done(store_section.options, &options);
    return r;
}

int records_store(const struct trial *t, const char *folder, unsigned n, struct stored *ret)
{
    struct store *store = NULL;
    uint64_t took, cpu;
    char path[4096];
    struct stat st;
    int r = open_store(folder, &store);

    if (r < 0)
        return r;
    took = clock_now_ns(CLOCK_MONOTONIC);
    cpu = clock_now_ns(CLOCK_PROCESS_CPUTIME_ID);
    r = store_all(t, store, n);
    took = clock_now_ns(CLOCK_MONOTONIC) - took;
    cpu = clock_now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    store_close(store, clock_now_ns(CLOCK_MONOTONIC) + 10 * NS_PER_SEC);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/huatuo.db", folder);
    if (stat(path, &st) < 0)
        return -errno;
    *ret = (struct stored){
        .per_second = n / ((double)took / NS_PER_SEC),
        .cpu_ns = (double)cpu / n,
        .database_bytes = (uint64_t)st.st_size,
    };
    return 0;
}
