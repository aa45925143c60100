// SPDX-License-Identifier: Apache-2.0

#include "agent/output.h"

#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "core/log.h"
#include "store/store.h"

struct output {
    pthread_t thread;
    struct store_reader *reader; /* owned */
    int (*print)(FILE *out, const char *json, size_t len);
    uint64_t seq; /* the last one printed */
    int wake;     /* eventfd */
    int failed;
    bool end; /* atomic */
};

static int print_row(void *arg, const struct store_row *row)
{
    struct output *o = arg;
    int r = o->print(stdout, row->json, row->len);

    o->seq = row->seq;
    if (ferror(stdout))
        return -EPIPE;
    return r == -EBADMSG ? 0 : r;
}

static void *follow(void *arg)
{
    struct output *o = arg;
    bool end = false;

    do {
        struct store_query query = {.after_seq = o->seq};
        uint64_t count;

        if (read(o->wake, &count, sizeof(count)) < 0)
            continue;
        end = __atomic_load_n(&o->end, __ATOMIC_ACQUIRE);
        query.after_seq = o->seq;
        if (!o->failed)
            o->failed = store_reader_each(o->reader, &query, print_row, o);
        fflush(stdout);
    } while (!end);
    return NULL;
}

int output_new(const char *store_path, int (*print)(FILE *out, const char *json, size_t len),
               struct output **ret)
{
    struct output *o = calloc(1, sizeof(*o));
    char error[512];
    int r;

    if (!o)
        return -ENOMEM;
    o->print = print;
    o->wake = eventfd(0, EFD_CLOEXEC);
    r = o->wake < 0 ? -errno : store_reader_open(store_path, error, sizeof(error), &o->reader);
    if (r == 0)
        r = store_reader_last(o->reader, &o->seq);
    if (r == 0)
        r = -pthread_create(&o->thread, NULL, follow, o);
    if (r < 0) {
        store_reader_close(o->reader);
        fd_close(o->wake);
        free(o);
        return r;
    }
    *ret = o;
    return 0;
}

void output_wake(struct output *o)
{
    uint64_t one = 1;

    if (o && write(o->wake, &one, sizeof(one)) < 0)
        log_debug("waking the output failed: %s", strerror(errno));
}

bool output_end(struct output *o, uint64_t bound_ns)
{
    struct timespec until;

    if (!o)
        return true;
    __atomic_store_n(&o->end, true, __ATOMIC_RELEASE);
    output_wake(o);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)(bound_ns / NS_PER_SEC);
    if (pthread_timedjoin_np(o->thread, NULL, &until) != 0)
        return false;
    store_reader_close(o->reader);
    fd_close(o->wake);
    free(o);
    return true;
}
