// SPDX-License-Identifier: Apache-2.0

#include "agent/status_socket.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define NAME "agent.sock"

static int open_directory(const char *store, struct sockaddr_un *ret)
{
    int fd = open(store, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/" NAME, fd);
    return fd;
}

int status_socket_listen(const char *store)
{
    struct sockaddr_un addr;
    _close_fd_ int directory = open_directory(store, &addr);
    _close_fd_ int fd = -1;

    if (directory < 0)
        return directory;
    unlinkat(directory, NAME, 0);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 8) < 0)
        return -errno;
    return TAKE_FD(fd);
}

int status_socket_connect(const char *store, unsigned timeout_s)
{
    const struct timeval patience = {.tv_sec = timeout_s};
    struct sockaddr_un addr;
    _close_fd_ int directory = open_directory(store, &addr);
    _close_fd_ int fd = -1;

    if (directory < 0)
        return directory;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return -errno;
    return TAKE_FD(fd);
}
