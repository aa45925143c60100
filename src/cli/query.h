// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The words with which several subcommands choose records. */

#include "cli/arguments.h"
#include "store/store.h"

struct cli_query {
    const char **tracer_names; /* room for argc + 1; --event */
    const char *since, *until, *pid;
};

/** For a subcommand's table of arguments; `query` is a struct cli_query *, `ret` a struct
 * store_query *. */
#define CLI_QUERY_ARGUMENTS(query, ret)                                                            \
    {"--event", .values = (query)->tracer_names}, {"--since", .value = &(query)->since},           \
        {"--until", .value = &(query)->until}, {"--container", .value = &(ret)->container},        \
        {"--pid", .value = &(query)->pid},                                                         \
    {                                                                                              \
        "--match", .value = &(ret)->match                                                          \
    }

#define CLI_QUERY_USAGE                                                                            \
    "[--event KIND]... [--since TIME] [--until TIME] [--container ID] [--pid N] [--match TEXT]"

#define CLI_QUERY_HELP                                                                             \
    "  --event KIND      only this kind of event, or coverage (when what was watched); may\n"      \
    "                    be given several times\n"                                                 \
    "  --since TIME      only from then on: 10m (ago), 16:05 (today), 2025-06-11,\n"               \
    "                    \"2025-06-11 16:05:16\", or RFC 3339\n"                                   \
    "  --until TIME      only until then\n"                                                        \
    "  --container ID    only of the container whose id begins like this\n"                        \
    "  --pid N           only of this process\n"                                                   \
    "  --match TEXT      only records in which this text stands\n"

/** CLI_OK, or what is to be returned for a wrong call. Changes the names in place. */
int cli_query_parse(const struct cli_command *command, const struct cli_query *query,
                    struct store_query *ret);
/** A number from 1 to `max`. */
int cli_parse_number(const struct cli_command *command, const char *option, const char *text,
                     uint64_t max, uint64_t *ret);
