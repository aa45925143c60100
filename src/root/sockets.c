// SPDX-License-Identifier: Apache-2.0

#include "root/sockets.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "sockets.skel.h"

struct sockets {
    struct sockets_bpf *bpf;
};

int sockets_new(struct sockets **ret)
{
    struct sockets *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->bpf = sockets_bpf__open_and_load();
    r = s->bpf ? sockets_bpf__attach(s->bpf) : -errno;
    if (r < 0) {
        sockets_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

struct sockets *sockets_free(struct sockets *s)
{
    if (s)
        sockets_bpf__destroy(s->bpf);
    free(s);
    return NULL;
}

int sockets_open_iterator(const struct sockets *s)
{
    int fd = bpf_iter_create(bpf_link__fd(s->bpf->links.socket_owners));

    return fd < 0 ? -errno : fd;
}
