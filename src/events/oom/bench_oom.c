// SPDX-License-Identifier: Apache-2.0

#include <signal.h>

#include "core/bench.h"

/* Ignored by default, and so not delivered. */
static int turn_signal(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (kill(getpid(), SIGURG) < 0)
            return -errno;
    return 0;
}

static const struct bench_case cases[] = {
    {
        .hook = "mark_victim",
        .target = "signal_generate",
        .name = "signal",
        .provoked = "a signal that is no SIGKILL of the kernel's, and is ignored",
        .outcome = BENCH_IGNORED,
        .hits = 1,
        .turn = turn_signal,
    },
    {},
};

static const struct bench_omission omissions[] = {
    {"mark_victim", "it is hit once for each process that is killed"},
    {"oom_kill_process", "it is hit once for each OOM kill"},
    {"console", "each hit would be a line in the machine's kernel log"},
    {"task", "it is read once for each process that is killed"},
    {},
};

const struct bench bench_oom = {.cases = cases, .omissions = omissions};
