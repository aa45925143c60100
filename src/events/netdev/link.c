// SPDX-License-Identifier: Apache-2.0

#include "events/netdev/link.h"

#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <string.h>

/** Those of a level; the last one of a type counts. */
static void split(const void *data, size_t size, const struct rtattr **ret, unsigned max)
{
    const struct rtattr *attr = data;
    int left = (int)MIN(size, (size_t)UINT16_MAX);

    for (unsigned type = 0; type <= max; type++)
        ret[type] = NULL;
    for (; RTA_OK(attr, left); attr = RTA_NEXT(attr, left)) {
        unsigned type = attr->rta_type & NLA_TYPE_MASK;

        if (type <= max)
            ret[type] = attr;
    }
}

static void split_nested(const struct rtattr *outer, const struct rtattr **ret, unsigned max)
{
    split(outer ? RTA_DATA(outer) : NULL, outer ? RTA_PAYLOAD(outer) : 0, ret, max);
}

static uint32_t u32_of(const struct rtattr *attr)
{
    uint32_t value = 0;

    if (attr && RTA_PAYLOAD(attr) >= sizeof(value))
        memcpy(&value, RTA_DATA(attr), sizeof(value));
    return value;
}

static uint8_t u8_of(const struct rtattr *attr)
{
    return attr && RTA_PAYLOAD(attr) >= 1 ? *(const uint8_t *)RTA_DATA(attr) : 0;
}

/** At most `size` bytes, and always a NUL. */
static void text_of(const struct rtattr *attr, char *ret, size_t size)
{
    size_t len = attr ? MIN(RTA_PAYLOAD(attr), size - 1) : 0;

    if (len)
        memcpy(ret, RTA_DATA(attr), len);
    memset(ret + len, 0, size - len);
    len = strnlen(ret, size);
    memset(ret + len, 0, size - len);
}

static bool is_bond(const struct rtattr *kind)
{
    char text[16];

    text_of(kind, text, sizeof(text));
    return strcmp(text, "bond") == 0;
}

static void parse_info(const struct rtattr *info, struct netdev_link *l)
{
    const struct rtattr *attrs[IFLA_INFO_SLAVE_DATA + 1];
    const struct rtattr *bond[IFLA_BOND_ACTIVE_SLAVE + 1], *slave[IFLA_BOND_SLAVE_MAX + 1];

    split_nested(info, attrs, IFLA_INFO_SLAVE_DATA);
    text_of(attrs[IFLA_INFO_KIND], l->kind, sizeof(l->kind));
    if (is_bond(attrs[IFLA_INFO_KIND])) {
        split_nested(attrs[IFLA_INFO_DATA], bond, IFLA_BOND_ACTIVE_SLAVE);
        l->active_slave = u32_of(bond[IFLA_BOND_ACTIVE_SLAVE]);
    }
    if (is_bond(attrs[IFLA_INFO_SLAVE_KIND])) {
        split_nested(attrs[IFLA_INFO_SLAVE_DATA], slave, IFLA_BOND_SLAVE_MAX);
        l->is_bond_slave = 1;
        l->slave_state = u8_of(slave[IFLA_BOND_SLAVE_STATE]);
        l->slave_mii = u8_of(slave[IFLA_BOND_SLAVE_MII_STATUS]);
        l->slave_failures = u32_of(slave[IFLA_BOND_SLAVE_LINK_FAILURE_COUNT]);
    }
}

int link_parse(const void *message, size_t size, struct link_message *ret)
{
    const struct nlmsghdr *header = message;
    const struct ifinfomsg *info = NLMSG_DATA(header);
    const struct rtattr *attrs[IFLA_MAX + 1];
    struct netdev_link *l = &ret->link;

    *ret = (struct link_message){};
    if (size < sizeof(*header) || header->nlmsg_len > size)
        return -EBADMSG;
    if (header->nlmsg_type != RTM_NEWLINK && header->nlmsg_type != RTM_DELLINK)
        return 0;
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof(*info)))
        return -EBADMSG;
    /* Others are about a bridge's port, in the same group. */
    if (info->ifi_family != AF_UNSPEC || info->ifi_index <= 0)
        return 0;
    split((const char *)info + NLMSG_ALIGN(sizeof(*info)),
          header->nlmsg_len - NLMSG_LENGTH(sizeof(*info)), attrs, IFLA_MAX);
    if (!attrs[IFLA_IFNAME])
        return -EBADMSG;
    l->index = (uint32_t)info->ifi_index;
    l->flags = info->ifi_flags;
    l->loopback = info->ifi_type == ARPHRD_LOOPBACK;
    text_of(attrs[IFLA_IFNAME], l->name, sizeof(l->name));
    l->mtu = u32_of(attrs[IFLA_MTU]);
    l->master = u32_of(attrs[IFLA_MASTER]);
    l->carrier_up_count = u32_of(attrs[IFLA_CARRIER_UP_COUNT]);
    l->carrier_down_count = u32_of(attrs[IFLA_CARRIER_DOWN_COUNT]);
    l->operstate = u8_of(attrs[IFLA_OPERSTATE]);
    l->has_peer = u32_of(attrs[IFLA_LINK]) != 0;
    l->peer_elsewhere = attrs[IFLA_LINK_NETNSID] != NULL;
    if (attrs[IFLA_ADDRESS]) {
        l->mac_len = (uint8_t)MIN(RTA_PAYLOAD(attrs[IFLA_ADDRESS]), sizeof(l->mac));
        memcpy(l->mac, RTA_DATA(attrs[IFLA_ADDRESS]), l->mac_len);
    }
    parse_info(attrs[IFLA_LINKINFO], l);
    ret->moved = attrs[IFLA_NEW_NETNSID] != NULL;
    ret->type = header->nlmsg_type == RTM_NEWLINK ? LINK_NEW : LINK_DELETED;
    return 0;
}

/** The carrier is as it was, but not all the time: the kernel tells at most once a second, and
 * counts. Setting an interface up or down counts, too. */
static bool has_flapped(const struct netdev_link *before, const struct netdev_link *now)
{
    if (!(before->flags & now->flags & IFF_UP) || (before->flags ^ now->flags) & IFF_LOWER_UP)
        return false;
    return now->flags & IFF_LOWER_UP ? before->carrier_down_count != now->carrier_down_count
                                     : before->carrier_up_count != now->carrier_up_count;
}

uint32_t link_compare(const struct netdev_link *before, const struct netdev_link *now)
{
    uint32_t flags = before->flags ^ now->flags;
    bool both_slaves = before->is_bond_slave && now->is_bond_slave;
    const struct {
        bool differs;
        enum netdev_change change;
    } rows[] = {
        {flags & IFF_UP, NETDEV_ADMIN},
        {flags & IFF_LOWER_UP, NETDEV_CARRIER},
        {has_flapped(before, now), NETDEV_FLAP},
        {before->mtu != now->mtu, NETDEV_MTU},
        {before->speed_mbps && now->speed_mbps && before->speed_mbps != now->speed_mbps,
         NETDEV_SPEED},
        {before->master != now->master, NETDEV_MASTER},
        {strncmp(before->name, now->name, sizeof(now->name)) != 0, NETDEV_NAME},
        {before->mac_len != now->mac_len || memcmp(before->mac, now->mac, now->mac_len) != 0,
         NETDEV_MAC},
        {both_slaves && before->slave_mii != now->slave_mii, NETDEV_SLAVE_MII},
        {both_slaves && before->slave_state != now->slave_state, NETDEV_SLAVE_STATE},
        {before->active_slave != now->active_slave, NETDEV_ACTIVE_SLAVE},
    };
    uint32_t changes = 0;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].differs)
            changes |= rows[i].change;
    return changes;
}

bool link_is_physical(const struct netdev_link *link)
{
    return !*link->kind && !link->loopback;
}

bool link_is_kind(const struct netdev_link *link, const char *kind)
{
    return strncmp(link->kind, kind, sizeof(link->kind)) == 0;
}
