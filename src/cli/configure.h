// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The configuration for subcommands that do a part of what the agent does. */

#include "cli/cli.h"
#include "core/config.h"

/** As `run` would have it; `path` may be NULL, `sets` ends with NULL. CLI_FAILED: it was said why.
 */
int cli_configure(const char *path, const char **sets, struct config **ret);
