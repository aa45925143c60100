// SPDX-License-Identifier: Apache-2.0
#pragma once

/** What an agent says about itself: the object of `huatuo status --json`. */

#include <jansson.h>

#include "core/base.h"

/**
 * Of the running agent. -ENOENT, -ECONNREFUSED: none runs on that store; -EBADMSG: it does not
 * answer, or not in JSON; -EACCES: this user may not ask; other -errno.
 */
int ask_agent(const char *store, json_t **ret);
/** What the store last heard of its agent, which is not running. `error` says what is wrong. */
int ask_last_known(const char *store, char *error, size_t error_size, json_t **ret);
