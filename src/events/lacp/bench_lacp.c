// SPDX-License-Identifier: Apache-2.0

#include "core/bench.h"

static const struct bench_case cases[] = {{}};

#define ONE_A_CHANGE "it runs once for each change of a bond"

static const struct bench_omission omissions[] = {
    {"?raw_tp", ONE_A_CHANGE},
    {"raw_tp", ONE_A_CHANGE},
    {},
};

const struct bench bench_lacp = {.cases = cases, .omissions = omissions};
