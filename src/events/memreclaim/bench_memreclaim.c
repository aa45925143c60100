// SPDX-License-Identifier: Apache-2.0

#include <pthread.h>

#include "core/bench.h"

static void *end_at_once(void *arg)
{
    return arg;
}

static int turn_thread(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        pthread_t thread;
        int r = pthread_create(&thread, NULL, end_at_once, NULL);

        if (r == 0)
            r = pthread_join(thread, NULL);
        if (r != 0)
            return -r;
    }
    return 0;
}

static const struct bench_case cases[] = {
    {
        .hook = "process_exit",
        .target = "sched_process_exit",
        .name = "thread",
        .provoked = "a thread that ends, and was not in reclaim",
        .outcome = BENCH_IGNORED,
        .hits = 1,
        .turn = turn_thread,
    },
    {},
};

/* What it costs is said in docs/events/memreclaim.md, as the kernel's own statistics have it. */
#define OF_THE_KERNEL "how often memory is reclaimed for what is wanted is up to the kernel"

static const struct bench_omission omissions[] = {
    {"mm_vmscan_memcg_reclaim_begin", OF_THE_KERNEL},
    {"mm_vmscan_memcg_reclaim_end", OF_THE_KERNEL},
    {"mm_vmscan_direct_reclaim_begin", OF_THE_KERNEL},
    {"mm_vmscan_direct_reclaim_end", OF_THE_KERNEL},
    {"mm_vmscan_lru_shrink_inactive", OF_THE_KERNEL},
    {"?raw_tp", "it is run once a second for each process that reclaims"},
    {"raw_tp", "it is run once a second for each process that reclaims"},
    {},
};

const struct bench bench_memreclaim = {.cases = cases, .omissions = omissions};
