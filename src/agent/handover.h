// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * What one agent proper leaves to the next when the configuration is read again: what it has
 * counted, so that the accounts go on, and the last full record of each repeat window. It travels
 * as JSON in a file in memory, from a process that has ended in order; the reader checks it all the
 * same.
 */

#include "agent/kinds.h"
#include "agent/windows.h"

/** A descriptor of the file (memfd_create(2)), or a negative errno. */
int handover_write(const struct status_input *in, const struct windows *windows);
/** Into kinds that have counted nothing yet, by name; leaves out what it does not know. -EBADMSG.
 */
int handover_read(int fd, struct agent_kind *kinds, size_t n_kinds, struct windows *windows,
                  uint64_t *ret_started_ns);
