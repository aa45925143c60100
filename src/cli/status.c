// SPDX-License-Identifier: Apache-2.0

#include <stdio.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/ask.h"
#include "cli/cli.h"
#include "core/text.h"

static const char *string_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static long long number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static void print_counts(const char *title, const json_t *counts)
{
    const char *name;
    json_t *value;
    bool any = false;

    json_object_foreach((json_t *)counts, name, value)
    {
        if (json_integer_value(value) == 0)
            continue;
        printf("%s%s %lld", any ? ", " : title, name, (long long)json_integer_value(value));
        any = true;
    }
    if (any)
        putchar('\n');
}

/** Sums over the CPUs; `--json` has them one by one. */
static void print_measures(const json_t *measures)
{
    _cleanup_(text_done) struct text line = {};
    const char *name;
    json_t *list, *value;
    size_t i;

    json_object_foreach((json_t *)measures, name, list)
    {
        json_int_t sum = 0;

        json_array_foreach(list, i, value) sum += json_integer_value(value);
        text_addf(&line, "%s%s %lld", line.len ? ", " : "    measured: ", name, (long long)sum);
    }
    if (line.len)
        puts(line.data);
}

static void print_event(const char *name, const json_t *event)
{
    _cleanup_(text_done) struct text line = {};
    size_t i;
    json_t *hook;

    printf("%-12s %-9s %s\n", name, string_of(event, "state"), string_of(event, "hook"));
    if (strcmp(string_of(event, "state"), "off") == 0)
        return;
    printf("    seen %lld = recorded %lld + suppressed %lld + filtered %lld + lost %lld",
           number_of(event, "seen"), number_of(event, "recorded"), number_of(event, "suppressed"),
           number_of(event, "filtered"), number_of(event, "lost"));
    if (number_of(event, "unaccounted"))
        printf(" + on the way %lld", number_of(event, "unaccounted"));
    putchar('\n');
    print_counts("    filtered by: ", json_object_get(event, "filtered_by"));
    print_counts("    lost by: ", json_object_get(event, "lost_by"));
    print_measures(json_object_get(event, "measures"));
    json_array_foreach(json_object_get(event, "hooks"), i, hook) if (*string_of(hook, "reason"))
        text_addf(&line, "    %s%s: %s\n", string_of(hook, "way"),
                  strcmp(string_of(hook, "state"), "refused") == 0 ? " was refused" : "",
                  string_of(hook, "reason"));
    if (*string_of(event, "reason"))
        text_addf(&line, "    %s\n", string_of(event, "reason"));
    fputs(line.data ? line.data : "", stdout);
}

static void print_target(const char *name, const json_t *target)
{
    printf("%s: %s, uploaded %lld", name, string_of(target, "state"),
           number_of(target, "uploaded"));
    if (number_of(target, "rejected"))
        printf(", rejected %lld (huatuo list --rejected)", number_of(target, "rejected"));
    if (number_of(target, "deleted"))
        printf(", deleted before they were uploaded %lld", number_of(target, "deleted"));
    if (number_of(target, "retried"))
        printf(", sent again %lld", number_of(target, "retried"));
    if (number_of(target, "oldest_not_uploaded_s"))
        printf(", the oldest waits for %lld s", number_of(target, "oldest_not_uploaded_s"));
    putchar('\n');
    if (*string_of(target, "problem"))
        printf("    %s: %s\n", string_of(target, "url"), string_of(target, "problem"));
    if (*string_of(target, "warning"))
        printf("    %s: %s\n", string_of(target, "url"), string_of(target, "warning"));
}

static void print_text(const json_t *status)
{
    const json_t *store = json_object_get(status, "store");
    const char *name;
    json_t *event, *target;

    printf("%s, version %s, user %s, started %s\n",
           json_is_true(json_object_get(status, "running"))
               ? json_is_true(json_object_get(status, "ready")) ? "running" : "running, not ready"
               : "not running",
           string_of(status, "version"), string_of(status, "user"), string_of(status, "started"));
    if (strcmp(string_of(status, "symbols"), "ok") != 0)
        printf("symbols: %s\n", string_of(status, "symbols"));
    if (store)
        printf("store: %lld records, %lld bytes%s%s\n", number_of(store, "records"),
               number_of(store, "size_bytes"), *string_of(store, "problem") ? "; " : "",
               string_of(store, "problem"));
    json_object_foreach(json_object_get(status, "targets"), name, target)
        print_target(name, target);
    json_object_foreach(json_object_get(status, "events"), name, event) print_event(name, event);
}

static int run(int argc, char **argv)
{
    const char *store = CLI_DEFAULT_STORE;
    bool json = false;
    const struct argument table[] = {
        {"--store", .value = &store},
        {"--json", .flag = &json},
        {},
    };
    char error[512];
    json_t *status;
    int r = arguments_parse(&cli_status, table, argc, argv);

    if (r != CLI_OK)
        return r;
    if (ask_agent(store, &status) < 0 && ask_last_known(store, error, sizeof(error), &status) < 0) {
        fprintf(stderr, "huatuo status: %s\n", error);
        return CLI_FAILED;
    }
    if (json) {
        json_dumpf(status, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        print_text(status);
    }
    json_decref(status);
    if (fflush(stdout) == EOF || ferror(stdout)) {
        fprintf(stderr, "huatuo status: writing to standard output failed: %s\n", strerror(errno));
        return CLI_FAILED;
    }
    return CLI_OK;
}

const struct cli_command cli_status = {
    .name = "status",
    .arguments = "[--store DIR] [--json]",
    .summary = "What is watched, through which hooks, and what became of every event.",
    .help =
        "  --store DIR     the agent's store (default: " CLI_DEFAULT_STORE ")\n"
        "  --json          one object\n"
        "\n"
        "Of the running agent; if there is none, the last known state with \"running\": false.\n",
    .run = run,
};
