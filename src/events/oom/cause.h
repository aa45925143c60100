// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Why a process was killed: whose limit was hit, and for what memory. */

#include "core/base.h"
#include "events/oom/oom.h"

struct kernel;

#define OOM_GFP_TEXT_MAX 192

struct oom_cause {
    const char *constraint; /* "memcg", "cpuset", "mempolicy", "host" */
    const char *known_by;   /* "oom_control", "console", "stack", "usage" */
    int level;              /* in oom_wire.levels whose limit it is; -1: none, or not known */
    bool of_swap;           /* it is the limit of memory and swap together (cgroup v1) */
    int group;              /* level that has memory.oom.group and dies as one; -1: none */
    bool has_request;       /* the next three */
    uint32_t gfp_mask;
    char gfp_flags[OOM_GFP_TEXT_MAX]; /* as the kernel writes them; any bytes */
    int64_t order;
    bool has_points; /* the next two, in pages */
    int64_t points;
    uint64_t total_pages;
};

/** Any bytes but the paths have been checked (cgroup_path()), and n_levels. */
void oom_find_cause(const struct kernel *kernel, const struct oom_wire *w, struct oom_cause *ret);

/* For tests. */

/** `COMM invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, ...`. False: it is not. */
bool oom_parse_invoked(const char *text, size_t size, struct oom_cause *ret);
/** `,task=COMM,pid=1,uid=0`: the pid, or 0. */
uint32_t oom_parse_task(const char *text, size_t size);
/** The flags of a mask by name, as the kernel would write them. */
void oom_gfp_text(uint32_t mask, char ret[OOM_GFP_TEXT_MAX]);
