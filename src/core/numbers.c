// SPDX-License-Identifier: Apache-2.0

#include "core/numbers.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/read.h"

#define FILE_MAX (256 * 1024)

int file_read(const char *root_prefix, const char *path, size_t max, char **ret, size_t *ret_len)
{
    _free_ char *data = NULL;
    _close_fd_ int fd = -1;
    char whole[PATH_MAX];
    size_t len;
    int r, n = snprintf(whole, sizeof(whole), "%s%s", root_prefix, path);

    if (n < 0 || (size_t)n >= sizeof(whole))
        return -ENAMETOOLONG;
    fd = open(whole, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    r = read_whole(fd, max + 1, &data, &len);
    if (r < 0)
        return r;
    if (len > max)
        return -EFBIG;
    if (ret_len)
        *ret_len = len;
    *ret = TAKE_PTR(data);
    return 0;
}

/** Decimal digits up to `end`; returns where they stop, NULL if there are none. */
static const char *parse_u64(const char *s, uint64_t *ret)
{
    uint64_t value = 0;
    const char *begin = s;

    for (; *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*s - '0'), &value))
            return NULL;
    *ret = value;
    return s == begin ? NULL : s;
}

int file_read_u64(const char *root_prefix, const char *path, uint64_t *ret)
{
    _free_ char *text = NULL;
    const char *end;
    uint64_t value;
    int r = file_read(root_prefix, path, 64, &text, NULL);

    if (!text)
        return r;
    if (strcmp(text, "max\n") == 0 || strcmp(text, "max") == 0) {
        *ret = UINT64_MAX;
        return 0;
    }
    end = parse_u64(text, &value);
    if (!end || (*end && strcmp(end, "\n") != 0))
        return -EBADMSG;
    *ret = value;
    return 0;
}

static void write_line(struct record *r, const char *line)
{
    size_t len = strcspn(line, ": \t");
    const char *s = line + len;
    uint64_t value;

    s += *s == ':';
    s += strspn(s, " \t");
    s = parse_u64(s, &value);
    if (!s || (*s && strcmp(s, " kB") != 0))
        return;
    if (*s && __builtin_mul_overflow(value, 1024, &value))
        return;
    record_named_u64(r, line, len, value);
}

int record_numbers(struct record *r, const char *name, const char *root_prefix, const char *path)
{
    _free_ char *text = NULL;
    unsigned n = 0;
    char *rest;
    int e = file_read(root_prefix, path, FILE_MAX, &text, NULL);

    if (e < 0)
        return e;
    record_open(r, name);
    for (char *line = strtok_r(text, "\n", &rest); line && n < NUMBERS_MAX; n++) {
        write_line(r, line);
        line = strtok_r(NULL, "\n", &rest);
    }
    record_close(r);
    return 0;
}
