// SPDX-License-Identifier: Apache-2.0

#include "enrich/container.h"

#include <string.h>

bool container_from_cgroup(const char *path, char ret[CONTAINER_ID_LEN + 1])
{
    bool found = false;

    while (*path) {
        size_t len = strspn(path, "0123456789abcdef");

        if (len == CONTAINER_ID_LEN) {
            memcpy(ret, path, len);
            ret[len] = '\0';
            found = true;
        }
        path += len ? len : 1;
    }
    return found;
}
