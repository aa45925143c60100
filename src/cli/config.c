// SPDX-License-Identifier: Apache-2.0

#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

#include "agent/settings.h"
#include "cli/arguments.h"

static int say_failed(const char *what, int r, const char *errors)
{
    /* Without memory there is no text either. */
    if (errors)
        fprintf(stderr, "%s\n", errors);
    else
        fprintf(stderr, "huatuo config: %s failed: %s\n", what, strerror(-r));
    return CLI_FAILED;
}

static int print(const char *text)
{
    if (!text)
        return say_failed("putting the text together", -ENOMEM, NULL);
    /* What did not arrive, as on a full disk, must not look like success. */
    if (fputs(text, stdout) < 0 || fflush(stdout) != 0)
        return say_failed("writing to standard output", -errno, NULL);
    return CLI_OK;
}

static int run_check(int argc, char **argv)
{
    _cleanup_(config_freep) struct config *config = NULL;
    _free_ char *errors = NULL;
    const char *file = NULL;
    const struct argument table[] = {{"", .value = &file}, {}};
    int r = arguments_parse(&cli_config, table, argc, argv);

    if (r != CLI_OK)
        return r;
    if (!file)
        return cli_usage(&cli_config, "which file is to be checked?");
    r = settings_new(&config);
    if (r >= 0)
        r = config_read_file(config, file, &errors);
    return r < 0 ? say_failed("checking the file", r, errors) : CLI_OK;
}

static int run_show(int argc, char **argv)
{
    _free_ const char **sets = calloc((size_t)argc + 1, sizeof(*sets));
    _cleanup_(config_freep) struct config *config = NULL;
    _free_ char *errors = NULL, *text = NULL;
    const char *file = NULL;
    const struct argument table[] = {
        {"--config", .value = &file},
        {"--set", .values = sets},
        {},
    };
    int r, status;

    if (!sets)
        return say_failed("showing the configuration", -ENOMEM, NULL);
    status = arguments_parse(&cli_config, table, argc, argv);
    if (status != CLI_OK)
        return status;

    /* All problems of the file and of the command line are said at once. */
    r = settings_new(&config);
    if (r >= 0 && file)
        r = config_read_file(config, file, &errors);
    if (r < 0)
        status = say_failed("reading the configuration", r, errors);
    for (const char **set = sets; *set && config; set++) {
        _free_ char *wrong = NULL;

        r = config_set(config, *set, &wrong);
        if (r < 0)
            status = say_failed("setting a value", r, wrong);
    }
    if (status != CLI_OK)
        return status;
    text = config_text(config);
    return print(text);
}

static int run_docs(int argc, char **argv)
{
    size_t n;
    const struct option_section *const *sections = settings_sections(&n);
    const struct argument table[] = {{}};
    int r = arguments_parse(&cli_config, table, argc, argv);
    _free_ char *text = NULL;

    if (r != CLI_OK)
        return r;
    text = config_markdown(sections, n);
    return print(text);
}

static int run(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } verbs[] = {{"check", run_check}, {"show", run_show}, {"docs", run_docs}};

    for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(verbs); i++) {
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    }
    return cli_usage(&cli_config, "say what to do: check, show or docs");
}

const struct cli_command cli_config = {
    .name = "config",
    .arguments = "check FILE | show [--config FILE] [--set section.key=value]... | docs",
    .summary = "Check a configuration file, show what is in effect, or document every key.",
    .help = "  check FILE       say everything that is wrong with FILE, with lines; exit 1 if "
            "anything is\n"
            "  show             print the configuration in effect as YAML\n"
            "    --config FILE  with the values of FILE instead of the defaults\n"
            "    --set S.K=V    and with this value; may be repeated\n"
            "  docs             print docs/configuration.md\n",
    .run = run,
};
