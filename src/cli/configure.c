// SPDX-License-Identifier: Apache-2.0
#include "cli/configure.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/settings.h"

int cli_configure(const char *path, const char **sets, struct config **ret)
{
    _cleanup_(config_freep) struct config *config = NULL;
    _free_ char *errors = NULL;
    int r = settings_new(&config);

    if (r == 0 && (path || access(CLI_DEFAULT_CONFIG, F_OK) == 0))
        r = config_read_file(config, path ? path : CLI_DEFAULT_CONFIG, &errors);
    for (const char **set = sets; r == 0 && *set; set++)
        r = config_set(config, *set, &errors);
    if (r < 0) {
        fprintf(stderr, "%s\n", errors ? errors : strerror(-r));
        return CLI_FAILED;
    }
    *ret = TAKE_PTR(config);
    return CLI_OK;
}
