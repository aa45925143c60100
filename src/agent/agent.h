// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The agent proper: takes the rings over from the root part, gives up privilege, then decodes,
 * completes, stores, shows and answers. It runs in a process of its own.
 */

#include <stdio.h>

#include "core/config.h"

struct agent_setup {
    /** Shows one record; NULL: none are shown. */
    int (*print)(FILE *out, const char *json, size_t len);
    bool table; /* at the end, the table of what was seen and what became of it */
};

/**
 * `arg` is a struct agent_setup. `before`: the configuration of the agent that runs and whose place
 * this one takes as soon as the root part says so; NULL: there is none. Returns an exit status;
 * fits root_options.agent.
 */
int agent_run(int channel, const struct config *config, const struct config *before, void *arg);
