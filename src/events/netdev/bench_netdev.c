// SPDX-License-Identifier: Apache-2.0

#include "core/bench.h"

static const struct bench_case cases[] = {{}};

/* What a change costs is said in docs/events/netdev.md. */
#define ONE_A_CHANGE "it runs once for each change of an interface"

static const struct bench_omission omissions[] = {
    {"?raw_tp", ONE_A_CHANGE},
    {"raw_tp", ONE_A_CHANGE},
    {"?socket", ONE_A_CHANGE},
    {"socket", ONE_A_CHANGE},
    {},
};

const struct bench bench_netdev = {.cases = cases, .omissions = omissions};
