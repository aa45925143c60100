// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The interfaces of a network namespace, watched through rtnetlink; in the root part. */

#include "core/event.h"

struct netdev_options {
    struct event_options common;
    struct string_list include, exclude; /* patterns of names, fnmatch(3) */
    bool container_veths;
    bool start;
};

extern const struct hook_source netdev_source;

#define NETDEV_WAY_FILTER "netlink+filter" /* with who it was */
#define NETDEV_WAY_PLAIN  "netlink"
