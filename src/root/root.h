// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The privileged part. It starts the agent proper, loads and attaches the hooks, hands their maps
 * over, starts another agent when the configuration is to be read again, closes repeat windows,
 * answers two questions that only the privileged may ask of /proc and BPF, and ends the agent when
 * it is told to end. It parses nothing that others wrote but the operator's configuration and what
 * the kernel tells a kind's source (core/event.h), and listens to nobody but its partner.
 */

#include "core/config.h"

struct root_options {
    uint64_t duration_ns; /* 0: until a signal */
    bool demo;            /* provoke one real event of each kind that can, once watching */
    /**
     * The agent proper, run in the child; `channel` speaks core/channel.h. `before`: the
     * configuration of the one whose place it takes, or NULL. Returns an exit status.
     */
    int (*agent)(int channel, const struct config *config, const struct config *before, void *arg);
    void *agent_arg;
    /** Reads the configuration anew (SIGHUP); a negative errno if it is not fit, having said why.
     */
    int (*reload)(void *arg, struct config **ret);
    void *reload_arg;
    /** Whether the agent may have sysrq l pressed. NULL: never. */
    bool (*may_sysrq)(const struct config *config);
};

/**
 * Runs until a signal, the duration's end, or the agent's. Takes the configuration over. Returns an
 * exit status.
 */
int root_run(struct config *config, const struct root_options *options);
