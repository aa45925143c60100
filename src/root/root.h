// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The privileged part. It starts the agent proper, loads and attaches the hooks, hands their maps
 * over, closes repeat windows, answers two questions that only the privileged may ask of /proc and
 * BPF, and ends the agent when it is told to end. It parses nothing that others wrote but the
 * operator's configuration, and listens to nobody but its partner.
 */

#include "core/config.h"

struct root_options {
    uint64_t duration_ns; /* 0: until a signal */
    bool demo;            /* provoke one real event of each kind that can, once watching */
    /** The agent proper, run in the child; `channel` speaks core/channel.h. Returns an exit status.
     */
    int (*agent)(int channel, void *arg);
    void *arg;
};

/** Runs until a signal, the duration's end, or the agent's. Returns an exit status. */
int root_run(const struct config *config, const struct root_options *options);
