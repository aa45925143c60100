// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Filter rules: what is known to be late and is nobody's concern. A rule is a name and conditions
 * that must all hold, or several such sets with `;` between them.
 *
 *     batch: where=TO_USER_COPY dport=9000
 *
 *     where=TO_NETIF_RCV     the stage
 *     since=received         also `sent`, `last_segment`: what the time is counted from
 *     family= protocol= saddr= daddr= addr= sport= dport= port= netns=   see core/rule.h
 */

#include "core/event.h"
#include "events/net_rx_latency/net_rx_latency.h"

extern const char *const rx_where_names[RX_WHERE_NR];
extern const char *const rx_since_names[RX_SINCE_NR];

/** NULL, or what is wrong with the rule's text (`name: conditions`). Static memory. */
const char *rx_rule_check(const char *text);

/** Turns a rule's conditions into rows for the kernel side. -E2BIG: no room left. */
int rx_rule_compile(const char *conditions, unsigned index,
                    struct net_rx_latency_settings *settings);
