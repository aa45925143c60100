// SPDX-License-Identifier: Apache-2.0

#include "events/softirq/cpu_list.h"

#include <fcntl.h>
#include <string.h>

#include "core/read.h"

#define FILE_MAX 65536

void cpu_list_parse(const char *text, uint64_t *ret, unsigned max)
{
    memset(ret, 0, max / 8);
    while (*text >= '0' && *text <= '9') {
        char *end;
        unsigned long from = strtoul(text, &end, 10), to = from;

        if (*end == '-')
            to = strtoul(end + 1, &end, 10);
        for (; from <= to && from < max; from++)
            ret[from / 64] |= UINT64_C(1) << from % 64;
        text = *end == ',' ? end + 1 : "";
    }
}

void cpu_list_read(const char *path, uint64_t *ret, unsigned max)
{
    _close_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    _free_ char *text = NULL;

    if (fd < 0 || read_whole(fd, FILE_MAX, &text, NULL) < 0)
        cpu_list_parse("", ret, max);
    else
        cpu_list_parse(text, ret, max);
}
