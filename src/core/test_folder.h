// SPDX-License-Identifier: Apache-2.0
#pragma once

/** For the unit tests: folders that pretend to be a machine's files. */

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base.h"

static inline int test_remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

/** With all that is in it; links are not followed. 0, or what nftw(3) says. */
static inline int test_remove_folder(const char *folder)
{
    return nftw(folder, test_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/** Makes the file `name`, which begins with "/", and the folders on the way to it. */
static inline bool test_put_file(const char *folder, const char *name, const void *bytes,
                                 size_t len)
{
    char path[512];
    int fd;
    bool whole;

    for (const char *slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(path, sizeof(path), "%s%.*s", folder, (int)(slash - name), name);
        mkdir(path, 0755);
    }
    snprintf(path, sizeof(path), "%s%s", folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    whole = write(fd, bytes, len) == (ssize_t)len;
    return close(fd) == 0 && whole;
}
