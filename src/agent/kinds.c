// SPDX-License-Identifier: Apache-2.0

#include "agent/kinds.h"

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

void kind_get_account(const struct agent_kind *kind, const struct store *store,
                      struct kind_account *ret)
{
    struct kind_account a = {.seen = kind->lost[AGENT_LOST_CRASH]};

    /* In the opposite order of counting: what happens meanwhile is `unaccounted` for a moment, as
     * it is on its way, and never less than nothing. */
    if (store) {
        struct store_counts counts;

        store_get_counts(store, kind->index, &counts);
        a.recorded = counts.recorded;
        for (unsigned i = 0; i < STORE_LOST_NR; i++)
            a.lost += counts.lost[i];
    }
    for (unsigned i = 0; i < AGENT_LOST_NR; i++)
        a.lost += kind->lost[i];
    for (unsigned cpu = 0; kind->counters && cpu < kind->n_cpus; cpu++) {
        const volatile struct wire_counters *c = &kind->counters[cpu];

        a.sent += c->sent;
        a.suppressed += c->suppressed;
        for (unsigned i = 0; i < WIRE_RULES_MAX; i++)
            a.filtered += c->filtered[i];
        for (unsigned i = 0; i < WIRE_LOST_NR; i++)
            a.lost += c->lost[i];
        a.seen += c->seen;
    }
    a.unaccounted = (int64_t)(a.seen - a.recorded - a.suppressed - a.filtered - a.lost);
    *ret = a;
}
