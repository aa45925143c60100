// SPDX-License-Identifier: Apache-2.0

#include "agent/kinds.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

void kind_init(struct agent_kind *kind, unsigned index, const struct event_options *options)
{
    *kind = (struct agent_kind){
        .event = events[index],
        .index = index,
        .options = options,
        .enabled = options->enabled,
        .ring_fd = -1,
    };
    /* Of a kind that is switched off nobody tells more. */
    for (unsigned hook = 0; hook < AGENT_HOOKS_MAX; hook++)
        for (unsigned way = 0; way < HOOK_WAYS_MAX; way++)
            kind->hooks[hook][way].state = options->enabled ? HOOK_UNUSED : HOOK_OFF;
}

/* Map values are 8-byte aligned and the whole is page aligned (kernel/bpf/arraymap.c). */
static void *map_array(int fd, size_t size, int protection)
{
    void *memory = mmap(NULL, size, protection, MAP_SHARED, fd, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

int kind_take(struct agent_kind *kind, const struct channel_message *m, const int *fds,
              size_t n_fds)
{
    size_t wanted = kind->event->settings_size ? 4 : 3;
    int r = 0;

    snprintf(kind->reason, sizeof(kind->reason), "%s", m->text);
    if (n_fds == 0)
        return 0;
    if (kind->loaded || n_fds != wanted || m->kind.n_cpus == 0 || m->kind.n_cpus > 65536) {
        for (size_t i = 0; i < n_fds; i++)
            close(fds[i]);
        return -EBADMSG;
    }
    kind->n_cpus = m->kind.n_cpus;
    kind->instance = m->kind.instance;
    kind->fresh = m->kind.fresh;
    kind->counters_size = kind->n_cpus * sizeof(struct wire_counters);
    kind->settings_size = kind->event->settings_size;
    kind->ring_fd = fds[0];
    kind->counters = map_array(fds[1], kind->counters_size, PROT_READ);
    kind->common = map_array(fds[2], sizeof(struct wire_common), PROT_READ | PROT_WRITE);
    if (wanted == 4)
        kind->settings = map_array(fds[3], kind->settings_size, PROT_READ | PROT_WRITE);
    if (!kind->counters || !kind->common || (wanted == 4 && !kind->settings))
        r = -errno;
    for (size_t i = 1; i < n_fds; i++)
        close(fds[i]);
    kind->loaded = r == 0;
    return r;
}

int kind_take_on_demand(struct agent_kind *kind, const struct channel_message *m, int fd)
{
    bool samples = m->type == CHANNEL_SAMPLES;
    _close_fd_ int owned = fd;
    int r = 0;

    if (!kind->loaded || fd < 0 || (samples && (kind->on_demand || !kind->event->sample_size)))
        return -EBADMSG;
    if (!kind->on_demand)
        r = on_demand_new(AGENT_HOOKS_MAX, kind->n_cpus, samples ? fd : -1,
                          kind->event->sample_size, &kind->on_demand);
    if (r < 0 || samples)
        return r;
    return on_demand_add(kind->on_demand, m->perf.hook, m->perf.cpu, TAKE_FD(owned));
}

void kind_take_hook(struct agent_kind *kind, const struct channel_message *m)
{
    struct agent_hook_way *way;

    if (m->hook.hook >= AGENT_HOOKS_MAX || m->hook.way >= HOOK_WAYS_MAX || m->hook.state > HOOK_OFF)
        return;
    way = &kind->hooks[m->hook.hook][m->hook.way];
    way->state = m->hook.state;
    snprintf(way->reason, sizeof(way->reason), "%s", m->text);
}

void kind_done(struct agent_kind *kind)
{
    kind->ring_fd = fd_close(kind->ring_fd);
    if (kind->counters)
        munmap((void *)kind->counters, kind->counters_size);
    if (kind->common)
        munmap((void *)kind->common, sizeof(*kind->common));
    if (kind->settings)
        munmap(kind->settings, kind->settings_size);
    kind->on_demand = on_demand_free(kind->on_demand);
    json_decref(kind->past.filtered_by);
    json_decref(kind->past.lost_by);
    json_decref(kind->noted.lost_by);
    kind->noted.lost_by = NULL;
    kind->past = (struct kind_past){};
    kind->counters = NULL;
    kind->common = NULL;
    kind->settings = NULL;
}

const struct hook_way *kind_way(const struct agent_kind *kind, unsigned hook)
{
    if (!kind->loaded || hook >= AGENT_HOOKS_MAX)
        return NULL;
    for (unsigned way = 0; way < HOOK_WAYS_MAX && kind->event->hooks[hook].ways[way].name; way++)
        if (kind->hooks[hook][way].state == HOOK_ATTACHED)
            return &kind->event->hooks[hook].ways[way];
    return NULL;
}

void kind_ways(const struct agent_kind *kind, char *ret, size_t size)
{
    size_t len = 0;

    *ret = '\0';
    for (unsigned h = 0; kind->event->hooks[h].name; h++) {
        const struct hook_way *way = kind_way(kind, h);

        if (way && len < size)
            len += (size_t)snprintf(ret + len, size - len, "%s%s", len ? ", " : "", way->name);
    }
}

bool kind_watched(const struct agent_kind *kind)
{
    for (unsigned h = 0; kind->enabled && kind->event->hooks[h].name; h++)
        if (!kind->event->hooks[h].optional && kind_way(kind, h))
            return true;
    return false;
}

/* Of counters that lie one behind the other. */
static void add_counters(uint64_t *sums, const volatile uint64_t *values, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        sums[i] += values[i];
}

void kind_get_kernel(const struct agent_kind *kind, struct wire_counters *ret)
{
    const struct wire_counters *past = &kind->past.kernel;
    struct wire_counters sum = {};

    for (unsigned cpu = 0; kind->counters && cpu < kind->n_cpus; cpu++) {
        const volatile struct wire_counters *c = &kind->counters[cpu];

        sum.sent += c->sent;
        sum.suppressed += c->suppressed;
        add_counters((uint64_t *)sum.filtered, (const volatile uint64_t *)c->filtered,
                     WIRE_RULES_MAX);
        add_counters((uint64_t *)sum.lost, (const volatile uint64_t *)c->lost, WIRE_LOST_NR);
        /* Last what is counted first: what happens meanwhile is on its way, never more than all. */
        sum.seen += c->seen;
    }
    sum.seen -= past->seen;
    sum.sent -= past->sent;
    sum.suppressed -= past->suppressed;
    for (unsigned i = 0; i < WIRE_RULES_MAX; i++)
        sum.filtered[i] -= past->filtered[i];
    for (unsigned i = 0; i < WIRE_LOST_NR; i++)
        sum.lost[i] -= past->lost[i];
    *ret = sum;
}

static uint64_t sum_of(const json_t *counts)
{
    uint64_t sum = 0;
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)counts, name, value) sum += (uint64_t)json_integer_value(value);
    return sum;
}

void kind_get_account(const struct agent_kind *kind, const struct store *store,
                      struct kind_account *ret)
{
    const struct kind_past *past = &kind->past;
    struct kind_account a = {
        .seen = past->seen + kind->lost[AGENT_LOST_CRASH],
        .recorded = past->recorded,
        .suppressed = past->suppressed,
        .filtered = sum_of(past->filtered_by),
        .lost = sum_of(past->lost_by),
    };
    struct wire_counters kernel;

    /* In the opposite order of counting: what happens meanwhile is `unaccounted` for a moment, as
     * it is on its way, and never less than nothing. */
    if (store) {
        struct store_counts counts;

        store_get_counts(store, kind->index, &counts);
        a.recorded += counts.recorded;
        for (unsigned i = 0; i < STORE_LOST_NR; i++)
            a.lost += counts.lost[i];
    }
    for (unsigned i = 0; i < AGENT_LOST_NR; i++)
        a.lost += kind->lost[i];
    kind_get_kernel(kind, &kernel);
    a.sent = kernel.sent;
    a.suppressed += kernel.suppressed;
    for (unsigned i = 0; i < WIRE_RULES_MAX; i++)
        a.filtered += kernel.filtered[i];
    for (unsigned i = 0; i < WIRE_LOST_NR; i++)
        a.lost += kernel.lost[i];
    a.seen += kernel.seen;
    a.unaccounted = (int64_t)(a.seen - a.recorded - a.suppressed - a.filtered - a.lost);
    *ret = a;
}
