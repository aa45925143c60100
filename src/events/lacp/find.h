// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The bonds of all network namespaces that some process is in; in the root part. */

#include "core/event.h"

struct lacp_options {
    struct event_options common;
    struct string_list exclude; /* patterns of bonds' names, fnmatch(3) */
    bool other_namespaces;
};

/** Rules of `filtered_by`. 0 is the agent's own traffic, of which there is none here. */
enum lacp_rule { LACP_RULE_OWN, LACP_RULE_EXCLUDE, LACP_RULE_NR };

extern const struct hook_source lacp_source;

#define LACP_WAY_NETLINK "netlink+proc" /* looks at once when the kernel tells of an interface */
#define LACP_WAY_PROC    "proc"         /* looks once a second */
