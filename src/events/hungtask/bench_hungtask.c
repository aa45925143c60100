// SPDX-License-Identifier: Apache-2.0

#include "core/bench.h"

static const struct bench_case cases[] = {{}};

static const struct bench_omission omissions[] = {
    {"sched_process_hang", "it is hit when the kernel's own detector finds a task that hangs"},
    {"task", "it is run by the agent; docs/events/hungtask.md says what a look at all tasks costs"},
    {"?raw_tp", "it is run by the agent, for each process that hangs"},
    {"raw_tp", "it is run by the agent, for each process that hangs"},
    {"?perf_event", "it is run by the agent, once on each CPU for a list"},
    {"perf_event", "it is run by the agent, once on each CPU for a list"},
    {},
};

const struct bench bench_hungtask = {.cases = cases, .omissions = omissions};
