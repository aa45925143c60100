// SPDX-License-Identifier: Apache-2.0
#pragma once

/** What /proc/net/bonding/NAME says (drivers/net/bonding/bond_procfs.c), and what is different. */

#include "core/base.h"
#include "events/lacp/lacp.h"

/** Whatever is in the `size` bytes; what is not understood is left out. `name` as its file. */
void bonding_parse(const char *name, const char *text, size_t size, struct lacp_bond *ret);

/** Whether what is negotiated or what it depends on is different. A churn machine that begins or
 * ends to look, as it does after each change, is no difference. */
bool bonding_differs(const struct lacp_bond *before, const struct lacp_bond *now);
bool bonding_slave_differs(const struct lacp_slave *before, const struct lacp_slave *now);

/** NULL: it has none of that name. */
const struct lacp_slave *bonding_slave(const struct lacp_bond *bond, const char *name);

/** Whether the slave carries what is sent through the bond, and whatever comes back is taken. */
bool bonding_carries(const struct lacp_bond *bond, const struct lacp_slave *slave);
unsigned bonding_n_carrying(const struct lacp_bond *bond);
