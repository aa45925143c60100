// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Subcommands: one file each, one row in the table of cli.c. */

#include "core/base.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli_command {
    const char *name;
    const char *arguments; /* as in the usage line */
    const char *summary;   /* one line */
    const char *help;      /* the options, a line each; may be NULL */
    /** argv[0] is the subcommand. Returns an exit status. `--help` is dealt with before. */
    int (*run)(int argc, char **argv);
};

extern const struct cli_command cli_config, cli_doctor, cli_elasticsearch, cli_export, cli_import,
    cli_list, cli_run, cli_show, cli_status, cli_try;

#define CLI_DEFAULT_STORE  "/var/lib/huatuo"
#define CLI_DEFAULT_CONFIG "/etc/huatuo/huatuo.yaml"

/** Finds and runs the subcommand. */
int cli_main(int argc, char **argv);
/** Says on standard error what is wrong with the call and how to get help; returns CLI_USAGE. */
int cli_usage(const struct cli_command *command, const char *format, ...) _printf_(2, 3);
/** The same for an option's word that is no event kind: proposes the nearest. */
int cli_usage_event(const struct cli_command *command, const char *option, const char *name);
