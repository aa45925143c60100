// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Every section of the configuration that this build knows, and the agent's own. */

#include "core/config.h"

struct agent_options {
    char *region;
    char *hostname; /* "": the host's */
    char *user;     /* whom the unprivileged part runs as; "": huatuo, or nobody without it */
    bool resolve_names;
    uint64_t resolve_timeout; /* ns a record waits for names */
    struct string_list dns_servers;
    bool mask_cmdline;
    bool sysrq;
};

/** agent, store, then one for each target, then one for each event kind. Static memory. */
const struct option_section *const *settings_sections(size_t *ret_n);
/** A config of all sections with its defaults. */
int settings_new(struct config **ret);
