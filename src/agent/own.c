// SPDX-License-Identifier: Apache-2.0

#include "agent/own.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/clock.h"
#include "core/log.h"

#define LINGER_NS (5 * NS_PER_SEC)

struct entry {
    int fd; /* -1: closed */
    uint64_t closed_ns;
    struct wire_own_socket wire;
};

struct own_sockets {
    pthread_mutex_t lock;
    struct entry entries[WIRE_OWN_MAX];
    unsigned n;
    uint32_t netns;
    struct agent_kind *kinds;
    size_t n_kinds;
};

int own_sockets_new(struct own_sockets **ret)
{
    struct own_sockets *own = calloc(1, sizeof(*own));
    struct stat netns;

    if (!own)
        return -ENOMEM;
    pthread_mutex_init(&own->lock, NULL);
    if (stat("/proc/self/ns/net", &netns) == 0)
        own->netns = (uint32_t)netns.st_ino;
    *ret = own;
    return 0;
}

struct own_sockets *own_sockets_free(struct own_sockets *own)
{
    if (own)
        pthread_mutex_destroy(&own->lock);
    free(own);
    return NULL;
}

/** Entries before the count, so that a program never looks at one that is not there yet. */
static void publish(struct own_sockets *own)
{
    for (size_t k = 0; k < own->n_kinds; k++) {
        volatile struct wire_common *common = own->kinds[k].common;

        if (!common)
            continue;
        common->own_netns = own->netns;
        for (unsigned i = 0; i < own->n; i++)
            common->own[i] = own->entries[i].wire;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        common->own_count = own->n;
    }
}

void own_sockets_watch(struct own_sockets *own, struct agent_kind *kinds, size_t n_kinds)
{
    pthread_mutex_lock(&own->lock);
    own->kinds = kinds;
    own->n_kinds = n_kinds;
    publish(own);
    pthread_mutex_unlock(&own->lock);
}

static int local_port(int fd, uint16_t *ret_port, uint8_t *ret_protocol)
{
    struct sockaddr_storage addr = {};
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&addr;
    socklen_t len = sizeof(addr);
    int type;

    if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
        return -errno;
    if (addr.ss_family != AF_INET && addr.ss_family != AF_INET6)
        return -EAFNOSUPPORT;
    if (in6->sin6_port == 0) { /* the port is at the same place for both families */
        if (bind(fd, (struct sockaddr *)&addr, len) < 0 ||
            getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
            return -errno;
    }
    len = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
        return -errno;
    *ret_port = ntohs(in6->sin6_port);
    *ret_protocol = type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
    return 0;
}

static void drop_entry(struct own_sockets *own, unsigned i)
{
    own->entries[i] = own->entries[--own->n];
}

static void note_open(struct own_sockets *own, int fd)
{
    struct entry entry = {.fd = fd};
    unsigned oldest = 0;

    if (local_port(fd, &entry.wire.port, &entry.wire.protocol) < 0)
        return;
    if (own->n == WIRE_OWN_MAX) {
        for (unsigned i = 1; i < own->n; i++)
            if (own->entries[i].fd < 0 &&
                (own->entries[oldest].fd >= 0 ||
                 own->entries[i].closed_ns < own->entries[oldest].closed_ns))
                oldest = i;
        drop_entry(own, oldest);
    }
    own->entries[own->n++] = entry;
}

void own_sockets_note(void *sockets, int fd, bool open)
{
    struct own_sockets *own = sockets;

    pthread_mutex_lock(&own->lock);
    for (unsigned i = 0; i < own->n; i++)
        if (own->entries[i].fd == fd) {
            own->entries[i].fd = -1;
            own->entries[i].closed_ns = clock_now_ns(CLOCK_MONOTONIC);
        }
    if (open)
        note_open(own, fd);
    publish(own);
    pthread_mutex_unlock(&own->lock);
}

void own_sockets_tick(struct own_sockets *own, uint64_t now_ns)
{
    bool changed = false;

    pthread_mutex_lock(&own->lock);
    for (unsigned i = 0; i < own->n;)
        if (own->entries[i].fd < 0 && now_ns - own->entries[i].closed_ns > LINGER_NS) {
            drop_entry(own, i);
            changed = true;
        } else {
            i++;
        }
    if (changed)
        publish(own);
    pthread_mutex_unlock(&own->lock);
}
