// SPDX-License-Identifier: Apache-2.0

#include "cli/arguments.h"

#include <stdio.h>
#include <string.h>

#include "core/text.h"

static int usage_unknown(const struct cli_command *command, const struct argument *table,
                         const char *word)
{
    char name[64], quoted[TEXT_QUOTED_MAX];
    struct nearest nearest = {.typed = name};

    if (*word != '-')
        return cli_usage(command, "%s is one word too many", text_quote(word, quoted));
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(word, "="), word);
    for (; table->name; table++)
        nearest_offer(&nearest, table->name);
    return cli_usage(command, "there is no option %s%s%s%s", text_quote(word, quoted),
                     nearest.found ? " (perhaps " : "", nearest.found ? nearest.found : "",
                     nearest.found ? " is meant)" : "");
}

int arguments_parse(const struct cli_command *command, const struct argument *table, int argc,
                    char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value = NULL;
        const struct argument *row = table;
        size_t name_len = 0;

        if (*word == '-' && word[1]) { /* `-` alone is a word: standard input */
            name_len = strcspn(word, "=");
            if (word[name_len] == '=')
                value = word + name_len + 1;
        }
        while (row->name &&
               (strlen(row->name) != name_len || strncmp(row->name, word, name_len) != 0))
            row++;
        if (!row->name || (name_len == 0 && row->value && *row->value))
            return usage_unknown(command, table, word);

        if (row->flag) {
            if (value)
                return cli_usage(command, "%s takes no value", row->name);
            *row->flag = true;
            continue;
        }
        if (name_len == 0)
            value = word;
        else if (!value)
            value = argv[++i]; /* the last one is NULL */
        if (!value)
            return cli_usage(command, "%s needs a value", row->name);
        if (row->value) {
            *row->value = value;
        } else {
            const char **end = row->values;

            while (*end)
                end++;
            end[0] = value;
            end[1] = NULL;
        }
    }
    return CLI_OK;
}
