// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Command line, unit and cgroup of a process, read from /proc on threads of their own: reading
 * /proc/PID/cmdline takes the process's mmap lock (fs/proc/base.c, get_mm_cmdline) and may hang as
 * long as the process does. Then the others go on, and whoever asks again after 200 ms gets what
 * does not hang. With a cache, keyed by pid and start time.
 */

#include "core/base.h"

struct processes;

struct process_info {
    char exe[256];      /* /proc/PID/exe, "" where it may not be read */
    char cmdline[1024]; /* NUL-separated as in /proc */
    size_t cmdline_len;
    char cgroup[512]; /* path in the memory (v1) or unified (v2) hierarchy */
    char unit[128];   /* systemd unit out of the cgroup path, or "" */
};

/** `root_prefix` stands before /proc. */
int processes_new(const char *root_prefix, size_t cache_max, struct processes **ret);
/** Waits at most a second for threads that hang; they clean up behind themselves. */
struct processes *processes_free(struct processes *p);
DEFINE_CLEANUP(struct processes *, processes_free)

/**
 * 1: known, `ret` filled; 0: asked, processes_fd() becomes readable when it is known; -ESRCH: the
 * process is gone (known); other negative errno: not asked (-EBUSY: too many wait). What was read
 * while it lived is kept when it is gone, if its start is known. start_boot_ns (0: not known)
 * guards against a pid that has come to mean another process; it is compared to /proc/PID/stat's
 * starttime with the clock tick's resolution.
 */
int processes_lookup(struct processes *p, uint32_t pid, uint64_t start_boot_ns,
                     struct process_info *ret);
int processes_fd(const struct processes *p);

/**
 * A descriptor of /proc/PID that stays with this process, whatever its pid comes to mean;
 * start_boot_ns as above. -ESRCH, -ENOENT: it is gone.
 */
int process_open(const char *root_prefix, uint32_t pid, uint64_t start_boot_ns);
