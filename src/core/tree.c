// SPDX-License-Identifier: Apache-2.0

#include "core/tree.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "core/read.h"

int tree_open(const char *root, struct tree *ret)
{
    const bool foreign = strspn(root, "/") != strlen(root);
    int fd = open(foreign ? root : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    *ret = (struct tree){.fd = fd, .foreign = foreign};
    return 0;
}

void tree_close(struct tree *t)
{
    t->fd = fd_close(t->fd);
}

static int open_below(const struct tree *t, const char *path, int flags)
{
    struct open_how how = {.flags = (unsigned)flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
    int fd = -1;

    path += strspn(path, "/");
    errno = ENOSYS;
    if (t->foreign)
        fd = (int)syscall(SYS_openat2, t->fd, path, &how, sizeof(how));
    /* openat2: fddb5d430ad9, 5.6. Without it a dumped tree's absolute links lead out of it. */
    if (fd < 0 && errno == ENOSYS)
        fd = openat(t->fd, path, (int)how.flags);
    return fd < 0 ? -errno : fd;
}

int tree_open_file(const struct tree *t, const char *path)
{
    /* Without waiting: opening a pipe would else last until somebody writes into it. */
    _close_fd_ int fd = open_below(t, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return -errno;
    return S_ISREG(st.st_mode) ? TAKE_FD(fd) : -ENOTSUP;
}

int tree_read(const struct tree *t, const char *path, size_t max, char **ret, size_t *ret_len)
{
    _close_fd_ int fd = tree_open_file(t, path);

    return fd < 0 ? fd : read_whole(fd, max, ret, ret_len);
}

int tree_look(const struct tree *t, const char *path)
{
    int fd = open_below(t, path, O_PATH);

    if (fd < 0)
        return fd;
    fd_close(fd);
    return 0;
}
