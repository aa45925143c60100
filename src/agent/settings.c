// SPDX-License-Identifier: Apache-2.0

#include "agent/settings.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "core/event.h"
#include "store/store.h"
#include "targets/target.h"

#define KINDS_MAX 32

/** `address`, `address:port`, `[address]:port`. */
static const char *check_server(const char *text)
{
    unsigned char addr[sizeof(struct in6_addr)];
    char host[INET6_ADDRSTRLEN + 3];
    const char *port = NULL;
    size_t len = strlen(text);

    if (*text == '[' && strchr(text, ']')) {
        port = strchr(text++, ']') + 1;
        len = (size_t)(port - text) - 1;
    } else if (strchr(text, ':') && strchr(text, ':') == strrchr(text, ':')) {
        port = strchr(text, ':');
        len = (size_t)(port - text);
    }
    snprintf(host, sizeof(host), "%.*s", (int)MIN(len, sizeof(host) - 1), text);
    if ((inet_pton(AF_INET, host, addr) == 1 || inet_pton(AF_INET6, host, addr) == 1) &&
        (!port || !*port ||
         (*port == ':' && port[1] && strspn(port + 1, "0123456789") == strlen(port + 1) &&
          strtoul(port + 1, NULL, 10) <= UINT16_MAX)))
        return NULL;
    return "not the address of a name server; write 192.0.2.1, 192.0.2.1:53 or [2001:db8::1]:53";
}

static const struct option agent_options_table[] = {
    {
        .key = "region",
        .type = OPTION_STRING,
        .offset = offsetof(struct agent_options, region),
        .fallback = "",
        .help = "Written into every record as `region`.",
    },
    {
        .key = "hostname",
        .type = OPTION_STRING,
        .offset = offsetof(struct agent_options, hostname),
        .fallback = "",
        .help = "Written into every record as `hostname`; empty: the host's own name.",
    },
    {
        .key = "user",
        .type = OPTION_STRING,
        .offset = offsetof(struct agent_options, user),
        .fallback = "",
        .help =
            "The user as whom everything but the small root part runs; empty: `huatuo` if there "
            "is such a user, else `nobody`.",
    },
    {
        .key = "resolve_names",
        .type = OPTION_BOOL,
        .offset = offsetof(struct agent_options, resolve_names),
        .fallback = "true",
        .help = "Ask DNS for the host names of addresses in records.",
    },
    {
        .key = "resolve_timeout",
        .type = OPTION_DURATION,
        .offset = offsetof(struct agent_options, resolve_timeout),
        .fallback = "300ms",
        .min = NS_PER_MS,
        .max = 10 * NS_PER_SEC,
        .help = "How long a record waits for its host names and process details; what has not come "
                "by then is left empty. Other records do not wait.",
    },
    {
        .key = "dns_servers",
        .type = OPTION_LIST,
        .offset = offsetof(struct agent_options, dns_servers),
        .fallback = "",
        .check = check_server,
        .help = "Name servers to ask, as `address` or `address:port` (IPv6: `[address]:port`); "
                "empty: those of /etc/resolv.conf.",
    },
    {
        .key = "mask_cmdline",
        .type = OPTION_BOOL,
        .offset = offsetof(struct agent_options, mask_cmdline),
        .fallback = "false",
        .help = "Keep only the first word of command lines, as arguments may hold secrets.",
    },
    {
        .key = "sysrq",
        .type = OPTION_BOOL,
        .offset = offsetof(struct agent_options, sysrq),
        .fallback = "false",
        .help = "Let the kernel write the stacks of all CPUs into its log (sysrq l) when a record "
                "has to go without that of a CPU which takes no interrupts; at most once a minute. "
                "It is hundreds of lines, and an NMI to each CPU.",
    },
    {},
};

static const struct option_section agent_section = {
    .name = "agent",
    .help = "The agent itself.",
    .options = agent_options_table,
    .size = sizeof(struct agent_options),
};

const struct option_section *const *settings_sections(size_t *ret_n)
{
    static struct option_section kinds[KINDS_MAX], servers[STORE_TARGETS_MAX];
    static const struct option_section *all[2 + STORE_TARGETS_MAX + KINDS_MAX];
    size_t n = 0;

    all[n++] = &agent_section;
    all[n++] = &store_section;
    for (size_t i = 0; i < n_targets && i < STORE_TARGETS_MAX; i++) {
        servers[i] = (struct option_section){
            .name = targets[i]->name,
            .help = targets[i]->summary,
            .options = targets[i]->options,
            .size = targets[i]->options_size,
        };
        all[n++] = &servers[i];
    }
    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++) {
        kinds[i] = (struct option_section){
            .name = events[i]->name,
            .help = events[i]->summary,
            .options = events[i]->options,
            .size = events[i]->options_size,
        };
        all[n++] = &kinds[i];
    }
    *ret_n = n;
    return all;
}

int settings_new(struct config **ret)
{
    size_t n;
    const struct option_section *const *sections = settings_sections(&n);

    return config_new(sections, n, ret);
}
