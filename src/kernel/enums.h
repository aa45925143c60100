// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Names of the running kernel's enum values, from its BTF: the numbers differ between kernels. */

#include "core/base.h"

struct enums;

/** Reads the kernel's BTF (`root_prefix`/sys/kernel/btf/vmlinux), keeps the few enums we need. */
int enums_new(const char *root_prefix, struct enums **ret);
struct enums *enums_free(struct enums *e);
DEFINE_CLEANUP(struct enums *, enums_free)

/* All of these take NULL for enums of which nothing is known. */

/** NULL: unknown. `enum_name` such as "skb_drop_reason"; the name is as in the kernel's source. An
 * enum without a name goes by that of its first value. */
const char *enums_name(struct enums *e, const char *enum_name, int64_t value);
/** -ENOENT: unknown. */
int enums_value(struct enums *e, const char *enum_name, const char *value_name, int64_t *ret);

/**
 * A drop reason by the name that `perf trace` and the tracepoint print: without its prefix, e.g.
 * NO_SOCKET. Subsystem reasons (high 16 bits, include/net/dropreason.h, since 6.4) are looked up in
 * the BTF of the module that defines them. Unknown ones come as `0x30001`. `buf` holds the result.
 */
const char *enums_drop_reason(struct enums *e, uint32_t reason, char *buf, size_t size);
/** The opposite, for rules; -ENOENT: this kernel has no such reason. */
int enums_drop_reason_value(struct enums *e, const char *name, uint32_t *ret);
