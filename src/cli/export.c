// SPDX-License-Identifier: Apache-2.0

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/configure.h"
#include "cli/query.h"
#include "core/clock.h"
#include "core/text.h"
#include "targets/uploader.h"

#define NDJSON      "ndjson"
#define PATIENCE_NS (60 * NS_PER_SEC) /* for a server that takes nothing */

static _printf_(1, 2) int fail(const char *format, ...)
{
    _cleanup_(text_done) struct text shown = {};
    char line[2048];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    text_add_printable(&shown, line, sizeof(line));
    fprintf(stderr, "huatuo export: %s\n", shown.data ? shown.data : "out of memory");
    return CLI_FAILED;
}

static int print_row(void *arg, const struct store_row *row)
{
    (void)arg;
    return fwrite(row->json, 1, row->len, stdout) == row->len && putchar('\n') != EOF ? 0 : -errno;
}

static int print(const char *store, const struct store_query *query)
{
    _cleanup_(store_reader_closep) struct store_reader *reader = NULL;
    char error[512];
    int r = store_reader_open(store, error, sizeof(error), &reader);

    if (r < 0)
        return fail("%s", error);
    r = store_reader_each(reader, query, print_row, NULL);
    if (r == 0 && fflush(stdout) == EOF)
        r = -errno;
    if (r == -EPIPE)
        return CLI_OK;
    if (r < 0)
        return fail("cannot %s: %s", ferror(stdout) ? "write to standard output" : "read the store",
                    strerror(-r));
    return CLI_OK;
}

static void say_refused(void *arg, const char *id, const char *reason)
{
    (void)arg;
    fail("record %s was refused: %s", id, reason);
}

static int send_again(const char *store, const struct store_query *query,
                      const struct target *target, const char *config_path, const char **sets)
{
    _cleanup_(config_freep) struct config *config = NULL;
    const struct http_options *options;
    struct uploader_resent resent = {.refused = say_refused, .patience_ns = PATIENCE_NS};
    char error[1024];
    int status = cli_configure(config_path, sets, &config), r;

    if (status != CLI_OK)
        return status;
    options = config_section(config, target->name);
    if (!options->url.n)
        return fail("%s.url is not set; write it into the configuration, or give it with --set "
                    "%s.url=https://…",
                    target->name, target->name);
    r = uploader_resend(target, options, store, query, &resent, error, sizeof(error));
    printf("%s has %llu", target->name, (unsigned long long)resent.uploaded);
    if (resent.rejected)
        printf(", refused %llu", (unsigned long long)resent.rejected);
    if (resent.retried)
        printf(", sent again %llu", (unsigned long long)resent.retried);
    putchar('\n');
    if (r < 0)
        return fail("%s; what it has stays there, and is not doubled by another try", error);
    return resent.rejected ? CLI_FAILED : CLI_OK;
}

static int usage_to(const char *to)
{
    _cleanup_(text_done) struct text names = {};
    char quoted[TEXT_QUOTED_MAX];

    for (size_t i = 0; i < n_targets; i++)
        if (!targets[i]->composer)
            text_addf(&names, ", %s", targets[i]->name);
    if (!to)
        return cli_usage(&cli_export, "say where to: --to " NDJSON "%s",
                         names.data ? names.data : "");
    return cli_usage(&cli_export, "--to %s: there is no such target; there are: " NDJSON "%s",
                     text_quote(to, quoted), names.data ? names.data : "");
}

static int run(int argc, char **argv)
{
    _free_ const char **tracer_names = calloc((size_t)argc + 1, sizeof(*tracer_names));
    _free_ const char **sets = calloc((size_t)argc + 1, sizeof(*sets));
    const char *store = CLI_DEFAULT_STORE, *to = NULL, *config = NULL;
    struct cli_query words = {.tracer_names = tracer_names};
    struct store_query query = {};
    const struct argument table[] = {
        CLI_QUERY_ARGUMENTS(&words, &query), {"--to", .value = &to},
        {"--config", .value = &config},      {"--set", .values = sets},
        {"--store", .value = &store},        {},
    };
    const struct target *target;
    int status;

    if (!tracer_names || !sets)
        return fail("out of memory");
    status = arguments_parse(&cli_export, table, argc, argv);
    if (status == CLI_OK)
        status = cli_query_parse(&cli_export, &words, &query);
    if (status != CLI_OK)
        return status;
    target = to ? target_find(to) : NULL;
    if (target && target->composer)
        target = NULL; /* it sends messages, not records */
    if (!to || (!target && strcmp(to, NDJSON) != 0))
        return usage_to(to);
    signal(SIGPIPE, SIG_IGN);
    /* An agent may go on recording, and this has to end. */
    query.until_ns = query.until_ns ? query.until_ns : clock_now_ns(CLOCK_REALTIME);
    return target ? send_again(store, &query, target, config, sets) : print(store, &query);
}

const struct cli_command cli_export = {
    .name = "export",
    .arguments = "--to ndjson|TARGET " CLI_QUERY_USAGE
                 " [--config FILE] [--set SECTION.KEY=VALUE]... [--store DIR]",
    .summary = "Write records out, or send them to a server once more.",
    .help =
        "  --to WHERE        ndjson: the whole records, one a line, to standard output; or a\n"
        "                    target, as elasticsearch or otlp: they are sent again, whether they\n"
        "                    were sent before or not, and whether or not an agent "
        "runs\n" CLI_QUERY_HELP
        "  --config FILE     configuration, where the server is (default: " CLI_DEFAULT_CONFIG ",\n"
        "                    if it is there)\n"
        "  --set S.K=V       set a configuration key\n"
        "  --store DIR       where the records are (" CLI_DEFAULT_STORE ")\n",
    .run = run,
};
