// SPDX-License-Identifier: Apache-2.0

#include "cli/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/event.h"
#include "core/text.h"

static const struct cli_command *const commands[] = {
    &cli_run, &cli_list,   &cli_show,   &cli_status,        &cli_doctor,
    &cli_try, &cli_export, &cli_import, &cli_elasticsearch, &cli_config,
};

static void print_commands(FILE *out)
{
    fprintf(out,
            "huatuo %s: keeps the moment when the Linux kernel misbehaved.\n\n"
            "usage: huatuo SUBCOMMAND [--help]\n\n",
            HUATUO_VERSION);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        fprintf(out, "  %-13s %s\n", commands[i]->name, commands[i]->summary);
}

static void print_help(const struct cli_command *command)
{
    printf("usage: huatuo %s %s\n\n%s\n", command->name, command->arguments, command->summary);
    if (command->help)
        printf("\n%s", command->help);
}

int cli_usage(const struct cli_command *command, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "huatuo %s: ", command->name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nusage: huatuo %s %s\n`huatuo %s --help` says more\n", command->name,
            command->arguments, command->name);
    return CLI_USAGE;
}

int cli_usage_event(const struct cli_command *command, const char *option, const char *name)
{
    _cleanup_(text_done) struct text kinds = {};
    struct nearest nearest = {.typed = name};
    char quoted[TEXT_QUOTED_MAX];

    for (size_t i = 0; i < n_events; i++) {
        text_addf(&kinds, "%s%s", i > 0 ? ", " : "", events[i]->name);
        nearest_offer(&nearest, events[i]->name);
    }
    return cli_usage(command, "%s %s: there is no such kind of event%s%s; there are: %s", option,
                     text_quote(name, quoted), nearest.found ? ", perhaps you mean " : "",
                     nearest.found ? nearest.found : "", kinds.data ? kinds.data : "none");
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static int usage_command(const char *name)
{
    struct nearest nearest = {.typed = name};
    char quoted[TEXT_QUOTED_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        nearest_offer(&nearest, commands[i]->name);
    fprintf(stderr, "huatuo: there is no subcommand %s%s%s\n\n", text_quote(name, quoted),
            nearest.found ? ", perhaps you mean " : "", nearest.found ? nearest.found : "");
    print_commands(stderr);
    return CLI_USAGE;
}

int cli_main(int argc, char **argv)
{
    if (argc < 2) {
        print_commands(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_commands(stdout);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("huatuo %s\n", HUATUO_VERSION);
        return CLI_OK;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(argv[1], commands[i]->name) != 0)
            continue;
        if (asks_for_help(argc - 2, argv + 2)) {
            print_help(commands[i]);
            return CLI_OK;
        }
        return commands[i]->run(argc - 1, argv + 1);
    }
    return usage_command(argv[1]);
}
