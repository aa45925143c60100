// SPDX-License-Identifier: Apache-2.0
#pragma once

/** What a message of rtnetlink(7) says of an interface, and what is different from before. */

#include "core/base.h"
#include "events/netdev/netdev.h"

struct link_message {
    enum { LINK_OTHER, LINK_NEW, LINK_DELETED } type; /* LINK_OTHER: it is not about an interface */
    bool moved; /* LINK_DELETED: it went to another network namespace */
    struct netdev_link link;
};

/**
 * The message of `size` bytes, whatever is in them, at an address that is a multiple of 4. Its
 * speed is not in it. -EBADMSG: it is cut off, or not of rtnetlink.
 */
int link_parse(const void *message, size_t size, struct link_message *ret);

/** NETDEV_..., of two descriptions of the same interface. What appears or goes is not among it. */
uint32_t link_compare(const struct netdev_link *before, const struct netdev_link *now);

/** No software made it: a network card. */
bool link_is_physical(const struct netdev_link *link);
bool link_is_kind(const struct netdev_link *link, const char *kind);
