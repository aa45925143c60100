// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Where the kernel keeps what is to be known of a CPU's softirqs: out of its BTF. */

#include "core/base.h"
#include "events/softirq/softirq.h"

struct btf;

/** -ENOENT: it does not tell (before pahole 1.18, or Linux 5.10 of Debian). */
int layout_read(const struct btf *kernel, struct softirq_layout *ret);
