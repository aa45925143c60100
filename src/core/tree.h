// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Files below a directory that stands for `/`: those of this machine, or a tree that was dumped
 * from another. Whatever lies there, looking at it neither hangs nor takes memory without end.
 */

#include "core/base.h"

struct tree {
    int fd;       /* the directory; owned */
    bool foreign; /* not this machine's: what no file tells is not known */
};

/** `root` "" or "/": this machine. -errno: there is no such directory. */
int tree_open(const char *root, struct tree *ret);
void tree_close(struct tree *t);

/**
 * A descriptor to read the plain file at `path` ("/proc/version"); links stay inside the tree.
 * -ENOTSUP: it is something else, such as a pipe; other -errno.
 */
int tree_open_file(const struct tree *t, const char *path);
/**
 * The file's bytes, heap, with a NUL behind them; what is beyond `max` bytes is left out.
 * `ret_len` may be NULL.
 */
int tree_read(const struct tree *t, const char *path, size_t max, char **ret, size_t *ret_len);
/** 0: there is something of that name, and it could be opened by whoever asks; -errno. */
int tree_look(const struct tree *t, const char *path);
