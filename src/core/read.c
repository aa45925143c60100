// SPDX-License-Identifier: Apache-2.0

#include "core/read.h"

#define FIRST_BYTES 4096 /* most files in /proc are shorter */

ssize_t read_up_to(int fd, void *ret, size_t size)
{
    size_t len = 0;

    while (len < size) {
        ssize_t n = read(fd, (char *)ret + len, size - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

int read_whole(int fd, size_t max, char **ret, size_t *ret_len)
{
    size_t len = 0, room = MIN(max, (size_t)FIRST_BYTES);
    _free_ char *bytes = malloc(room + 1);

    while (bytes) {
        ssize_t n = read_up_to(fd, bytes + len, room - len);
        char *more;

        if (n < 0)
            return (int)n;
        len += (size_t)n;
        if (len < room || room == max)
            break;
        room = MIN(max, 2 * room);
        more = realloc(bytes, room + 1);
        if (!more)
            return -ENOMEM;
        bytes = more;
    }
    if (!bytes)
        return -ENOMEM;
    bytes[len] = '\0';
    if (ret_len)
        *ret_len = len;
    *ret = TAKE_PTR(bytes);
    return 0;
}
