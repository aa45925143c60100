// SPDX-License-Identifier: Apache-2.0
#pragma once

/** What the running kernel calls things: its symbols and the names of its enum values. */

#include "core/base.h"
#include "kernel/enums.h"
#include "kernel/symbols.h"

struct kernel {
    struct symbols *symbols; /* owned */
    struct enums *enums;     /* owned; NULL: no BTF */
};
