// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Makes the kernel do for real what a kind of event notices. */

#include <sys/types.h>

#include "core/event.h"

struct provocation {
    pid_t pid; /* 0: there is nothing to end */
};

/**
 * Calls event->provoke() in a process of its own and waits until that is done, at most
 * `timeout_ns`. The process then stays as it is, with its namespaces, until provoke_end(), so that
 * nobody else gets the numbers by which its record is known. Children of the caller that it did not
 * start are waited for and ended, too, so the caller should have none. `ret` is filled as far as
 * provoke() came, also on failure.
 * -EOPNOTSUPP: the kind cannot be provoked; -ETIMEDOUT; -EINTR: the process was killed before it
 * was done; other -errno: what provoke() says, or starting the process. provoke_end() is fine, and
 * needed, after all of them.
 */
int provoke_begin(const struct event *event, uint64_t timeout_ns, struct provoked *ret,
                  struct provocation *ret_provocation);
/** Ends the process and all that it has started, and removes what they have made. */
void provoke_end(struct provocation *p);
/** The same of all children of the caller, which has to be a subreaper (prctl(2)). */
void provoke_end_all(void);
