// SPDX-License-Identifier: Apache-2.0

#include "core/channel.h"

#include <string.h>
#include <sys/socket.h>

union control {
    char bytes[CMSG_SPACE(sizeof(int) * CHANNEL_FDS_MAX)];
    struct cmsghdr align;
};

int channel_send(int fd, const struct channel_message *m, const int *fds, size_t n_fds)
{
    union control control = {};
    struct iovec data = {.iov_base = (void *)m, .iov_len = sizeof(*m)};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
    ssize_t sent;

    if (n_fds > CHANNEL_FDS_MAX)
        return -E2BIG;
    if (n_fds) {
        struct cmsghdr *c;

        header.msg_control = control.bytes;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    do
        sent = sendmsg(fd, &header, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return errno == ECONNRESET ? -EPIPE : -errno;
    return 0;
}

int channel_receive(int fd, struct channel_message *ret, int *fds, size_t *ret_n_fds)
{
    union control control = {};
    struct iovec data = {.iov_base = ret, .iov_len = sizeof(*ret)};
    struct msghdr header = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    ssize_t got;

    *ret_n_fds = 0;
    do
        got = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == ECONNRESET ? 0 : -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        *ret_n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(c), *ret_n_fds * sizeof(int));
    }
    if ((size_t)got != sizeof(*ret) || header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        for (size_t i = 0; i < *ret_n_fds; i++)
            close(fds[i]);
        *ret_n_fds = 0;
        return got ? -EBADMSG : 0;
    }
    ret->text[CHANNEL_TEXT_MAX - 1] = '\0';
    return 1;
}
