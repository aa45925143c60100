/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HUATUO_BPF_CGROUP_H
#define HUATUO_BPF_CGROUP_H

/**
 * The cgroup of a task and its path, read in the kernel: when the agent comes to look, the task may
 * have ended and its cgroup been removed.
 */

#include "bpf/event.bpf.h"
#include "core/cgroup.h"

/** The memory controller's state of the task's cgroup; NULL: this kernel has no such controller. */
static __always_inline struct cgroup_subsys_state *cgroup_memory_css(struct task_struct *task)
{
    struct cgroup_subsys_state *css = NULL;
    struct css_set *set;
    __u64 at;

    if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
        return NULL;
    set = BPF_CORE_READ(task, cgroups);
    at = (__u64)set + bpf_core_field_offset(struct css_set, subsys) +
         bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id) * sizeof(void *);
    bpf_probe_read_kernel(&css, sizeof(css), (void *)at);
    return css;
}

static __always_inline struct kernfs_node *cgroup_parent_node(struct kernfs_node *kn)
{
    if (bpf_core_field_exists(kn->__parent))
        return BPF_CORE_READ(kn, __parent);
    return BPF_CORE_READ((struct kernfs_node___before_6_15 *)kn, parent);
}

/** Where a task belongs: its v2 cgroup or, where everything is in the root of that hierarchy, its
 * memory cgroup (as enrich/process.c has it). */
static __always_inline struct cgroup *cgroup_of(struct task_struct *task)
{
    struct cgroup *unified = BPF_CORE_READ(task, cgroups, dfl_cgrp);
    struct cgroup_subsys_state *css;

    if (cgroup_parent_node(BPF_CORE_READ(unified, kn)))
        return unified;
    css = cgroup_memory_css(task);
    return css ? BPF_CORE_READ(css, cgroup) : unified;
}

/** `ret` is zeroed; css is that of the cgroup itself. The names are those of its directories. */
static __always_inline void cgroup_read_path(struct wire_cgroup *ret, struct cgroup *cgroup)
{
    struct kernfs_node *kn, *parent;
    __u32 n = 0;

    ret->css = (__u64)cgroup; /* struct cgroup begins with it */
    if (!cgroup)
        return;
    ret->unified = BPF_CORE_READ(cgroup, root, hierarchy_id) == 0;
    kn = BPF_CORE_READ(cgroup, kn);
    for (__u32 i = 0; i < CGROUP_NAMES_MAX; i++) {
        parent = kn ? cgroup_parent_node(kn) : NULL;
        if (!parent) /* the root has no name */
            break;
        bpf_probe_read_kernel_str(ret->names[i], CGROUP_NAME_LEN, BPF_CORE_READ(kn, name));
        n = i + 1;
        kn = parent;
    }
    ret->n_names = n;
    ret->cut = kn && cgroup_parent_node(kn) != NULL;
}

/** The same of a controller's state. */
static __always_inline void cgroup_read(struct wire_cgroup *ret, struct cgroup_subsys_state *css)
{
    if (!css)
        return;
    cgroup_read_path(ret, BPF_CORE_READ(css, cgroup));
    ret->css = (__u64)css;
}

/**
 * For iterators, which have little memory and much to write: the names as strings one behind the
 * other, innermost first, and an empty one.
 */
static __always_inline void cgroup_write_names(struct seq_file *seq, struct cgroup *cgroup)
{
    struct kernfs_node *kn = cgroup ? BPF_CORE_READ(cgroup, kn) : NULL, *parent;
    char name[CGROUP_NAME_LEN];
    long n;

    for (__u32 i = 0; i < CGROUP_NAMES_MAX; i++) {
        parent = kn ? cgroup_parent_node(kn) : NULL;
        if (!parent)
            break;
        n = bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(kn, name));
        if (n <= 1 || n > (long)sizeof(name))
            break;
        bpf_seq_write(seq, name, n);
        kn = parent;
    }
    name[0] = '\0';
    bpf_seq_write(seq, name, 1);
}

#endif
