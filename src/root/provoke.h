// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Makes the kernel do for real what a kind of event notices. */

#include "core/event.h"

/**
 * Calls event->provoke() in a process of its own and waits for it, at most `timeout_ns`; of what it
 * has started nothing is left afterwards. Waits for children of the caller that it did not start,
 * too, so the caller should have none. `ret` is filled as far as provoke() came, also on failure.
 * -EOPNOTSUPP: the kind cannot be provoked; -ETIMEDOUT; -EINTR: the process was killed before it
 * was done; other -errno: what provoke() says, or starting the process.
 */
int provoke_run(const struct event *event, uint64_t timeout_ns, struct provoked *ret);
