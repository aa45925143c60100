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

static bool ends_with(const char *s, size_t len, const char *suffix)
{
    size_t suffix_len = strlen(suffix);

    return len > suffix_len && memcmp(s + len - suffix_len, suffix, suffix_len) == 0;
}

/* What lies below a unit is the unit's own business, and slices only hold units. */
void unit_from_cgroup(const char *path, char *ret, size_t size)
{
    const char *unit = NULL, *slice = NULL;
    size_t unit_len = 0, slice_len = 0;

    *ret = '\0';
    for (const char *s = path; *s != '\0';) {
        size_t len = strcspn(s, "/");

        if (ends_with(s, len, ".service") || ends_with(s, len, ".scope")) {
            unit = s;
            unit_len = len;
        } else if (ends_with(s, len, ".slice")) {
            slice = s;
            slice_len = len;
        }
        s += len + (s[len] == '/');
    }
    if (!unit) {
        unit = slice;
        unit_len = slice_len;
    }
    if (unit && unit_len < size) {
        memcpy(ret, unit, unit_len);
        ret[unit_len] = '\0';
    }
}
