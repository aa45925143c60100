// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Arguments of a subcommand as a table. (getopt_long() is not used because its `struct option` has
 * the name of ours.)
 */

#include "cli/cli.h"

/** One of `flag`, `value`, `values`. */
struct argument {
    const char *name;    /* "--since", "-f"; "": the words that are no options */
    bool *flag;          /* becomes true */
    const char **value;  /* becomes what stands behind: `--since 10m`, `--since=10m`; last one wins,
                          * but of words there can only be one */
    const char **values; /* all that were given, then NULL: room for argc */
};

/** `table` ends with {}. CLI_OK, or what cli_usage() returned. */
int arguments_parse(const struct cli_command *command, const struct argument *table, int argc,
                    char **argv);
