// SPDX-License-Identifier: Apache-2.0

#include "agent/on_demand.h"

#include <linux/perf_event.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

struct on_demand {
    unsigned n_ref; /* atomic */
    unsigned n_hooks, n_cpus;
    void *samples; /* mapped; NULL: none */
    size_t samples_size;
    int fds[]; /* owned; by hook, then by CPU; -1: none */
};

int on_demand_new(unsigned n_hooks, unsigned n_cpus, int samples_fd, size_t sample_size,
                  struct on_demand **ret)
{
    size_t n = (size_t)n_hooks * n_cpus;
    _cleanup_(on_demand_freep) struct on_demand *o = calloc(1, sizeof(*o) + n * sizeof(o->fds[0]));

    if (!o)
        return -ENOMEM;
    o->n_ref = 1;
    o->n_hooks = n_hooks;
    o->n_cpus = n_cpus;
    memset(o->fds, 0xff, n * sizeof(o->fds[0]));
    if (samples_fd >= 0) {
        o->samples_size = n_cpus * sample_size;
        o->samples = mmap(NULL, o->samples_size, PROT_READ, MAP_SHARED, samples_fd, 0);
        if (o->samples == MAP_FAILED) {
            o->samples = NULL;
            return -errno;
        }
    }
    *ret = TAKE_PTR(o);
    return 0;
}

struct on_demand *on_demand_ref(struct on_demand *o)
{
    if (o)
        __atomic_add_fetch(&o->n_ref, 1, __ATOMIC_RELAXED);
    return o;
}

struct on_demand *on_demand_free(struct on_demand *o)
{
    if (!o || __atomic_sub_fetch(&o->n_ref, 1, __ATOMIC_ACQ_REL) > 0)
        return NULL;
    for (size_t i = 0; i < (size_t)o->n_hooks * o->n_cpus; i++)
        fd_close(o->fds[i]);
    if (o->samples)
        munmap(o->samples, o->samples_size);
    free(o);
    return NULL;
}

static int *find(struct on_demand *o, unsigned hook, unsigned cpu)
{
    if (!o || hook >= o->n_hooks || cpu >= o->n_cpus)
        return NULL;
    return &o->fds[(size_t)hook * o->n_cpus + cpu];
}

int on_demand_add(struct on_demand *o, unsigned hook, unsigned cpu, int fd)
{
    int *place = find(o, hook, cpu);

    if (!place || *place >= 0) {
        fd_close(fd);
        return -EBADMSG;
    }
    *place = fd;
    return 0;
}

int on_demand_run(struct on_demand *o, unsigned hook, unsigned cpu, unsigned times)
{
    const int *place = find(o, hook, cpu);

    if (!place || *place < 0)
        return -ENOENT;
    /* It switches itself off again, so nobody has to interrupt the CPU a second time. */
    return ioctl(*place, PERF_EVENT_IOC_REFRESH, times) < 0 ? -errno : 0;
}

const volatile void *on_demand_samples(const struct on_demand *o)
{
    return o ? o->samples : NULL;
}

unsigned on_demand_cpus(const struct on_demand *o)
{
    return o ? o->n_cpus : 0;
}
