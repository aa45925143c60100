// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Filter rules: which drops are no loss. A rule is a name and conditions that must all hold, or
 * several such sets with `;` between them. F|G means either.
 *
 *     healthy_teardown: place=skb_rbtree_purge state=CLOSE_WAIT|LAST_ACK
 *
 *     type=T        of this type, as in the record
 *     place=F       dropped in the function F (F.isra.0, F.part.1 and F.cold count as F)
 *     caller=F      one of the nearest 8 callers is F (only together with place)
 *     reason=R      the kernel's reason, e.g. NO_SOCKET; R?: not asked for on a kernel that
 *                   gives no reasons (before 5.17), where a rule with plain R never matches
 *     state=S|T     TCP state of the socket; NONE: no socket
 *     flag=ACK      this TCP flag is set; flag=!SYN: it is not; may be repeated
 *     payload=none|some
 *     direction=rx|tx
 *     received=before   the connection has ended, and its bytes had come before that
 *     device=eth0 or device=veth*
 *     family= protocol= saddr= daddr= addr= sport= dport= port= netns=   see core/rule.h
 */

#include "core/event.h"
#include "events/dropwatch/dropwatch.h"

/** The rules that are built in: the known noise of healthy connections. */
struct noise_rule {
    const char *name;
    const char *conditions;
    const char *why; /* why this is no loss, and what is not taken out */
};
extern const struct noise_rule noise_rules[]; /* ends with a row whose name is NULL */

/** NULL, or what is wrong with the rule's text (`name: conditions`). Static memory. */
const char *dropwatch_rule_check(const char *text);

/**
 * Turns a rule's conditions into rows for the kernel side. A function or reason that this kernel
 * does not have makes no row. -E2BIG: no room left.
 */
int dropwatch_rule_compile(const struct kernel *kernel, const char *conditions, unsigned index,
                           struct dropwatch_settings *settings);
