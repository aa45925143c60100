// SPDX-License-Identifier: Apache-2.0
#include "cli/query.h"

#include <string.h>

#include "core/clock.h"
#include "core/event.h"
#include "core/text.h"

static bool parse_number(const char *text, uint64_t max, uint64_t *ret)
{
    unsigned long long value;
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || *end || value == 0 || value > max)
        return false;
    *ret = value;
    return true;
}

int cli_parse_number(const struct cli_command *command, const char *option, const char *text,
                     uint64_t max, uint64_t *ret)
{
    char quoted[TEXT_QUOTED_MAX];

    if (parse_number(text, max, ret))
        return CLI_OK;
    return cli_usage(command, "%s %s: this is not a number from 1 to %ju", option,
                     text_quote(text, quoted), (uintmax_t)max);
}

static int parse_time(const struct cli_command *command, const char *option, const char *text,
                      uint64_t now_ns, uint64_t *ret)
{
    char quoted[TEXT_QUOTED_MAX];

    if (!text || clock_parse(text, now_ns, ret) == 0)
        return CLI_OK;
    return cli_usage(command,
                     "%s %s: this is no time; write how long ago (10m), or when (16:05, "
                     "2025-06-11, \"2025-06-11 16:05:16\")",
                     option, text_quote(text, quoted));
}

int cli_query_parse(const struct cli_command *command, const struct cli_query *query,
                    struct store_query *ret)
{
    uint64_t now_ns = clock_now_ns(CLOCK_REALTIME), pid = 0;
    int status;

    for (const char **name = query->tracer_names; *name; name++) {
        const struct event *event = event_find(*name);

        if (!event && strcmp(*name, COVERAGE_NAME) == 0)
            continue;
        if (!event)
            return cli_usage_event(command, "--event", *name);
        *name = event->tracer_name;
    }
    if (*query->tracer_names)
        ret->tracer_names = query->tracer_names;
    status = parse_time(command, "--since", query->since, now_ns, &ret->since_ns);
    if (status == CLI_OK)
        status = parse_time(command, "--until", query->until, now_ns, &ret->until_ns);
    if (status == CLI_OK && query->pid)
        status = cli_parse_number(command, "--pid", query->pid, UINT32_MAX, &pid);
    ret->pid = (uint32_t)pid;
    if (status == CLI_OK && query->until && ret->since_ns > ret->until_ns)
        return cli_usage(command, "--since is later than --until");
    return status;
}
