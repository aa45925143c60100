// SPDX-License-Identifier: Apache-2.0

#include <stdio.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/cli.h"
#include "cli/render.h"
#include "core/text.h"
#include "store/jsontext.h"
#include "store/store.h"

static int print_json(void *arg, const struct store_row *row)
{
    _cleanup_(text_done) struct text t = {};

    (void)arg;
    jsontext_indent(&t, row->json, row->len);
    if (t.failed)
        return -ENOMEM;
    return fwrite(t.data, 1, t.len, stdout) == t.len && putchar('\n') != EOF ? 0 : -errno;
}

static int print_whole(void *arg, const struct store_row *row)
{
    (void)arg;
    return render_whole(stdout, row->json, row->len, render_colour(stdout));
}

static int show(const char *store, const char *id, bool json)
{
    _cleanup_(store_reader_closep) struct store_reader *reader = NULL;
    char error[512], quoted[TEXT_QUOTED_MAX];
    int r;

    r = store_reader_open(store, error, sizeof(error), &reader);
    if (r < 0) {
        fprintf(stderr, "huatuo show: %s\n", error);
        return CLI_FAILED;
    }
    r = store_reader_get(reader, id, json ? print_json : print_whole, NULL);
    if (r == 0 && fflush(stdout) == EOF)
        r = -errno;
    if (r == 0)
        return CLI_OK;

    text_quote(id, quoted);
    if (r == -ENOENT)
        fprintf(stderr,
                "huatuo show: there is no record %s in %s; `huatuo list --json` shows ids\n",
                quoted, store);
    else if (r == -EEXIST)
        fprintf(stderr, "huatuo show: there are several records %s in %s; give more of the id\n",
                quoted, store);
    else if (r == -EBADMSG)
        fprintf(stderr, "huatuo show: record %s in %s is damaged\n", quoted, store);
    else
        fprintf(stderr, "huatuo show: cannot %s: %s\n",
                ferror(stdout) ? "write to standard output" : "read the store", strerror(-r));
    return CLI_FAILED;
}

static int run(int argc, char **argv)
{
    const char *store = CLI_DEFAULT_STORE, *id = NULL;
    bool json = false;
    const struct argument table[] = {
        {"", .value = &id},
        {"--json", .flag = &json},
        {"--store", .value = &store},
        {},
    };
    int status = arguments_parse(&cli_show, table, argc, argv);

    if (status != CLI_OK)
        return status;
    if (!id || !*id)
        return cli_usage(&cli_show, "the id of a record is needed; `huatuo list --json` shows ids");
    return show(store, id, json);
}

const struct cli_command cli_show = {
    .name = "show",
    .arguments = "ID [--json] [--store DIR]",
    .summary = "Show one record, whole.",
    .help = "  ID                its tracer_id, or as much of its beginning or end as is unique\n"
            "  --json            as an indented JSON object\n"
            "  --store DIR       where the records are (" CLI_DEFAULT_STORE ")\n",
    .run = run,
};
