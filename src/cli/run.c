// SPDX-License-Identifier: Apache-2.0

#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/settings.h"
#include "cli/arguments.h"
#include "cli/cli.h"
#include "cli/render.h"
#include "core/event.h"
#include "core/log.h"
#include "core/text.h"
#include "root/root.h"

#define DEFAULT_CONFIG CLI_DEFAULT_CONFIG
#define KINDS_MAX      32

static int print_text(FILE *out, const char *json, size_t len)
{
    return render_line(out, json, len, render_colour(out), true);
}

static int print_json(FILE *out, const char *json, size_t len)
{
    return fwrite(json, 1, len, out) == len && fputc('\n', out) != EOF ? 0 : -EIO;
}

static const struct output_mode {
    const char *name;
    int (*print)(FILE *out, const char *json, size_t len);
    bool table;
} outputs[] = {
    {"text", print_text, true},
    {"json", print_json, false},
    {"none", NULL, false},
};

static const struct output_mode *find_output(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(outputs); i++)
        if (strcmp(outputs[i].name, name) == 0)
            return &outputs[i];
    return NULL;
}

static int set(struct config *config, const char *assignment)
{
    _free_ char *errors = NULL;
    int r = config_set(config, assignment, &errors);

    if (r < 0)
        fprintf(stderr, "huatuo run: %s\n", errors ? errors : strerror(-r));
    return r;
}

/** --events a,b: these are watched, the others are not. */
static int choose_events(struct config *config, const char *list)
{
    bool wanted[KINDS_MAX] = {};
    _free_ char *copy = strdup(list);
    char *rest = copy, *name;

    while ((name = strsep(&rest, ","))) {
        size_t i = 0;

        while (i < n_events && strcmp(events[i]->name, name) != 0)
            i++;
        if (i == n_events || i == KINDS_MAX)
            return cli_usage_event(&cli_run, "--events", name);
        wanted[i] = true;
    }
    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++) {
        struct event_options *options = config_section(config, events[i]->name);

        options->enabled = wanted[i];
    }
    return copy ? CLI_OK : CLI_FAILED;
}

/** The file that was named, or the usual one if it is there. */
static int read_file(struct config *config, const char *path)
{
    _free_ char *errors = NULL;
    int r;

    if (!path && access(DEFAULT_CONFIG, F_OK) < 0)
        return 0;
    r = config_read_file(config, path ? path : DEFAULT_CONFIG, &errors);
    if (r < 0)
        fprintf(stderr, "%s\n", errors ? errors : strerror(-r));
    return r;
}

static int set_store(struct config *config, const char *path)
{
    _free_ char *assignment = NULL;

    if (!path)
        return 0;
    if (asprintf(&assignment, "store.path=%s", path) < 0)
        return -ENOMEM;
    return set(config, assignment);
}

/** Where the configuration comes from; the same when it is read again. */
struct source {
    const char *path;   /* NULL: the usual one */
    const char **sets;  /* ends with NULL */
    const char *store;  /* NULL: as configured */
    const char *chosen; /* kinds of event; NULL: as configured */
};

/** Returns an exit status; what is wrong has been said. */
static int configure(const struct source *source, struct config **ret)
{
    _cleanup_(config_freep) struct config *config = NULL;
    int status = CLI_OK;

    if (settings_new(&config) < 0) {
        log_error("reading the configuration failed: out of memory");
        return CLI_FAILED;
    }
    if (read_file(config, source->path) < 0)
        return CLI_FAILED;
    for (const char **assignment = source->sets; *assignment; assignment++)
        if (set(config, *assignment) < 0)
            return CLI_USAGE;
    if (set_store(config, source->store) < 0)
        return CLI_USAGE;
    if (source->chosen)
        status = choose_events(config, source->chosen);
    if (status == CLI_OK)
        *ret = TAKE_PTR(config);
    return status;
}

static int reload(void *arg, struct config **ret)
{
    return configure(arg, ret) == CLI_OK ? 0 : -EINVAL;
}

static bool may_sysrq(const struct config *config)
{
    const struct agent_options *agent = config_section(config, "agent");

    return agent->sysrq;
}

static int run(int argc, char **argv)
{
    const char *duration = NULL, *output = "text";
    _free_ const char **sets = calloc((size_t)argc + 1, sizeof(*sets));
    struct source source = {.sets = sets};
    struct agent_setup setup = {};
    struct root_options root = {
        .agent = agent_run,
        .agent_arg = &setup,
        .reload = reload,
        .reload_arg = &source,
        .may_sysrq = may_sysrq,
    };
    const struct argument table[] = {
        {"--config", .value = &source.path},   {"--set", .values = sets},
        {"--events", .value = &source.chosen}, {"--duration", .value = &duration},
        {"--output", .value = &output},        {"--store", .value = &source.store},
        {"--demo", .flag = &root.demo},        {},
    };
    const struct output_mode *mode;
    struct config *config;
    int status;

    if (!sets) {
        log_error("starting failed: out of memory");
        return CLI_FAILED;
    }
    status = arguments_parse(&cli_run, table, argc, argv);
    if (status != CLI_OK)
        return status;
    mode = find_output(output);
    if (!mode)
        return cli_usage(&cli_run, "--output takes text, json or none");
    if (duration && parse_duration(duration, &root.duration_ns) < 0)
        return cli_usage(&cli_run, "--duration takes a time such as 10s or 5m");
    if (duration && root.duration_ns == 0)
        return cli_usage(&cli_run, "--duration must be more than 0; without it there is no end");
    status = configure(&source, &config);
    if (status != CLI_OK)
        return status;
    setup = (struct agent_setup){.print = mode->print, .table = mode->table};
    return root_run(config, &root);
}

const struct cli_command cli_run = {
    .name = "run",
    .arguments = "[--config FILE] [--set SECTION.KEY=VALUE]... [--events A,B] [--duration TIME] "
                 "[--output text|json|none] [--store DIR] [--demo]",
    .summary = "Watch this machine, record what happens, in the foreground.",
    .help = "  --config FILE   configuration (default: " DEFAULT_CONFIG ", if it is there)\n"
            "  --set S.K=V     set a configuration key; after the file, may be repeated\n"
            "  --events A,B    watch these kinds of event only\n"
            "  --duration T    end after this time, e.g. 10s\n"
            "  --output WHAT   what to show of each event: a line and its stack (text), the\n"
            "                  record as JSON (json), nothing (none)\n"
            "  --store DIR     where records are kept (default: " CLI_DEFAULT_STORE ")\n"
            "  --demo          make one harmless real event of each kind happen\n"
            "\n"
            "SIGINT and SIGTERM end it cleanly; SIGHUP reads the configuration again.\n",
    .run = run,
};
