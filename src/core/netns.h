// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The network namespaces that can be seen: those of processes, and those that are mounted somewhere
 * (ip-netns(8), container runtimes). For what the kernel tells only those who are in a namespace.
 */

#include "core/base.h"

struct netns_view;

/** -errno: not even the own one can be opened. */
int netns_view_new(struct netns_view **ret);
struct netns_view *netns_view_free(struct netns_view *v);

/**
 * For those who look again and again: whether it is time. Not before the last look has been paid
 * for: looking takes one 200th of a CPU's time at most. Searches, if that was ten seconds ago.
 */
bool netns_due(struct netns_view *v);
/** The look that was due is over. */
void netns_looked(struct netns_view *v);

/** Looks for all of them: one look at each process. */
void netns_search(struct netns_view *v);
/**
 * Calls fn() in each, the own one first, and returns to it. Those that are gone are left out, and
 * without the right to enter others (CAP_SYS_ADMIN) all but the own one. Not for a process with
 * more than one thread. `inode` is the namespace's number, as in `lsns -t net`.
 */
void netns_visit(struct netns_view *v, void (*fn)(void *arg, uint64_t inode), void *arg);
