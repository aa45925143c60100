/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_CGROUP_H
#define HUATUO_CGROUP_H

/** A cgroup as BPF programs read it (bpf/cgroup.bpf.h) and as the agent shows it; shared. */

#include "core/wire.h"

#define CGROUP_NAMES_MAX 16
#define CGROUP_NAME_LEN  128

struct wire_cgroup {
    __u64 css;     /* address of its cgroup_subsys_state (memory controller); 0: not known */
    __u32 n_names; /* components of its path; 0: the root */
    __u8 unified;  /* it is of the v2 hierarchy */
    __u8 cut;      /* it lies deeper: the outermost components are missing */
    __u16 pad;
    char names[CGROUP_NAMES_MAX][CGROUP_NAME_LEN]; /* innermost first; longer ones are cut */
};
WIRE_ASSERT(sizeof(struct wire_cgroup) == 16 + CGROUP_NAMES_MAX * CGROUP_NAME_LEN,
            "wire_cgroup has holes");

#ifndef __bpf__
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CGROUP_PATH_MAX (CGROUP_NAMES_MAX * CGROUP_NAME_LEN + 8)

/**
 * The path, `/a/b`, without its `inner` innermost components; of one that lies too deep it begins
 * with `/.../`; "" if the cgroup is not known. -EBADMSG: these are not names of cgroups.
 */
int cgroup_path(const struct wire_cgroup *cgroup, unsigned inner, char ret[CGROUP_PATH_MAX]);
/** What iterators write of a cgroup (cgroup_write_names() in bpf/cgroup.bpf.h), as cgroup_path()
 * takes it; returns how many bytes it is, 0 if these are no names. */
size_t cgroup_parse_names(const char *bytes, size_t size, struct wire_cgroup *ret);
/** Whether `path` is `ancestor` or below it. */
bool cgroup_is_below(const char *path, const char *ancestor);
/**
 * Where the hierarchy that has the memory controller is mounted: the v2 hierarchy (`unified`) or
 * that of v1, as `root_prefix`/proc/self/mountinfo says. `ret` is a path without the prefix,
 * `ret_root` the cgroup that is its root ("/" outside of containers). -ENOENT: nowhere.
 */
int cgroup_find_mount(const char *root_prefix, bool unified, char *ret, size_t size, char *ret_root,
                      size_t root_size);
/**
 * The directory of a cgroup, without the prefix. -ENOENT: its hierarchy is not mounted, or it lies
 * outside of what is; -ENAMETOOLONG.
 */
int cgroup_directory(const char *root_prefix, bool unified, const char *path, char *ret,
                     size_t size);

/**
 * Makes a memory cgroup of this process's own, to provoke events in, with a limit in bytes on
 * memory (and on swap, where that is accounted); `ret` is its directory. cgroup_remove() is needed.
 */
int cgroup_make_limited(const char *limit, char *ret, size_t size);
/** Moves this process there. */
int cgroup_enter(const char *directory);
/** Whoever was in it has ended; waits a moment for the kernel to have noticed. */
void cgroup_remove(const char *directory);
/**
 * All of that for a child, which is given the directory and has not to return; waits until it has
 * ended. `ret_pid` is set as soon as there is one, `ret_status` is wait(2)'s.
 */
int cgroup_run_limited(const char *limit, void (*child)(const char *directory), uint64_t *ret_pid,
                       int *ret_status);
/** Removes those whose makers were killed before they could. */
void cgroup_remove_abandoned(void);
#endif

#endif
