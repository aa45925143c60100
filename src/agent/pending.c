// SPDX-License-Identifier: Apache-2.0

#include "agent/pending.h"

#include <assert.h>

#include "enrich/container.h"

/** In the order of coming. */
struct waiting {
    struct waiting *next;
    struct record *record;
    uint64_t ticket; /* of what is collected for it; 0: nothing, or it has come */
    uint64_t until_ns;
};

struct pending {
    struct pending_options options;
    struct waiting *first, **end;
    size_t n;
};

int pending_new(const struct pending_options *options, struct pending **ret)
{
    struct pending *p = calloc(1, sizeof(*p));

    assert(options->max > 0);
    if (!p)
        return -ENOMEM;
    p->options = *options;
    p->end = &p->first;
    *ret = p;
    return 0;
}

static bool fill_host(struct pending *p, struct record *r, unsigned i)
{
    char name[256];
    int known = names_lookup(p->options.names, record_hole_addr(r, i), name);

    if (known > 0)
        record_host_fill(r, i, name);
    return known != 0;
}

/** Where the kernel said at the event where it belonged, that holds: it may have moved or ended. */
static void write_cgroup(struct record *r, const char *path, const char *found_by)
{
    char container[CONTAINER_ID_LEN + 1];

    if (*record_get_cgroup(r))
        return;
    record_cgroup(r, path);
    if (container_from_cgroup(path, container))
        record_container(r, container, NULL, NULL, NULL, NULL, found_by);
}

/** What a packet's record is about, if it is no process, is the container of the socket's owner. */
static bool fill_owner_cgroup(struct pending *p, struct record *r, uint32_t pid)
{
    struct process_info info;
    int known;

    if (record_get_process(r) || !p->options.processes)
        return true;
    known = processes_lookup(p->options.processes, pid, 0, &info);
    if (known > 0)
        write_cgroup(r, info.cgroup, "socket");
    return known != 0;
}

static bool fill_owner(struct pending *p, struct record *r, unsigned i)
{
    struct socket_owner owner;
    int known = owners_lookup(p->options.owners, record_hole_socket(r, i),
                              clock_now_ns(CLOCK_MONOTONIC), &owner);

    if (known <= 0)
        return known < 0;
    record_owner_fill(r, i, owner.pid, owner.comm);
    return fill_owner_cgroup(p, r, owner.pid);
}

/** Whether everything that can be known is. All are asked, even if the first has no answer yet. */
static bool fill_holes(struct pending *p, struct record *r)
{
    bool complete = true;

    for (unsigned i = 0; i < record_n_holes(r); i++) {
        if (record_hole_addr(r, i) && p->options.names)
            complete &= fill_host(p, r, i);
        else if (record_hole_socket(r, i) && p->options.owners)
            complete &= fill_owner(p, r, i);
    }
    return complete;
}

static bool fill_exe(struct pending *p, struct record *r, const struct record_process *process)
{
    const struct exe_key key = {.pid = process->pid, .start_boot_ns = process->start_boot_ns};
    char path[256] = "";
    size_t len = 0;
    int known = lookups_get(p->options.exes, &key, clock_now_ns(CLOCK_MONOTONIC), path,
                            sizeof(path) - 1, &len);

    if (known > 0)
        record_process_fill(r, path, NULL, 0, NULL);
    return known != 0;
}

/** The cgroup that the kernel told at the event names the unit, when the process can't any more. */
static bool fill_unit(struct record *r)
{
    char unit[128];

    unit_from_cgroup(record_get_cgroup(r), unit, sizeof(unit));
    record_process_fill(r, NULL, NULL, 0, unit);
    return true;
}

static bool fill_details(struct pending *p, struct record *r, const struct record_process *process)
{
    struct process_info info;
    int known = processes_lookup(p->options.processes, process->pid, process->start_boot_ns, &info);

    if (known <= 0)
        return known < 0 && fill_unit(r);
    record_process_fill(r, NULL, info.cmdline, info.cmdline_len, info.unit);
    write_cgroup(r, info.cgroup, "cgroup");
    return *info.unit || fill_unit(r);
}

static bool fill_process(struct pending *p, struct record *r)
{
    const struct record_process *process = record_get_process(r);
    bool complete = true;

    if (!process || process->pid == 0)
        return true;
    if (p->options.exes)
        complete &= fill_exe(p, r, process);
    if (p->options.processes)
        complete &= fill_details(p, r, process);
    return complete;
}

static bool fill(struct pending *p, struct record *r)
{
    bool holes = fill_holes(p, r), process = fill_process(p, r);

    return holes && process;
}

static void give_up_collected(struct pending *p, struct record *r, int why)
{
    record_str(r, "incomplete",
               why == -ETIME   ? "late"
               : why == -EBUSY ? "busy"
                               : "failed",
               SIZE_MAX);
    if (p->options.incomplete)
        p->options.incomplete(p->options.arg, r, why);
}

static bool fill_collected(struct pending *p, struct waiting *w)
{
    _cleanup_(record_freep) struct record *part = NULL;
    int r;

    if (!w->ticket)
        return true;
    r = collector_lookup(p->options.collector, w->ticket, &part);
    if (r == 0)
        return false;
    w->ticket = 0;
    if (r > 0)
        r = record_append(w->record, part);
    if (r < 0)
        give_up_collected(p, w->record, r);
    return true;
}

static bool fill_waiting(struct pending *p, struct waiting *w)
{
    bool collected = fill_collected(p, w);

    return fill(p, w->record) && collected;
}

static void hand_on(struct pending *p, struct waiting **link)
{
    struct waiting *w = *link;

    *link = w->next;
    if (p->end == &w->next)
        p->end = link;
    p->n--;
    if (w->ticket) {
        collector_cancel(p->options.collector, w->ticket);
        give_up_collected(p, w->record, -ETIME);
    }
    p->options.done(p->options.arg, w->record);
    free(w);
}

struct pending *pending_free(struct pending *p)
{
    if (!p)
        return NULL;
    while (p->first) {
        fill_waiting(p, p->first);
        hand_on(p, &p->first);
    }
    free(p);
    return NULL;
}

static void add(struct pending *p, struct record *r, uint64_t ticket, uint64_t bound_ns,
                uint64_t now_ns)
{
    struct waiting *w = fill(p, r) && !ticket ? NULL : malloc(sizeof(*w));

    if (!w) {
        if (ticket) {
            collector_cancel(p->options.collector, ticket);
            give_up_collected(p, r, -ENOMEM);
        }
        p->options.done(p->options.arg, r);
        return;
    }
    if (p->n >= p->options.max)
        hand_on(p, &p->first);
    *w = (struct waiting){.record = r, .ticket = ticket, .until_ns = now_ns + bound_ns};
    *p->end = w;
    p->end = &w->next;
    p->n++;
}

void pending_add(struct pending *p, struct record *r, uint64_t now_ns)
{
    add(p, r, 0, p->options.bound_ns, now_ns);
}

void pending_add_collected(struct pending *p, struct record *r, uint64_t ticket, int why,
                           uint64_t now_ns)
{
    if (!ticket)
        give_up_collected(p, r, why);
    add(p, r, ticket,
        ticket ? MAX(p->options.bound_ns, p->options.collect_bound_ns) : p->options.bound_ns,
        now_ns);
}

void pending_retry(struct pending *p)
{
    for (struct waiting **link = &p->first; *link;)
        if (fill_waiting(p, *link))
            hand_on(p, link);
        else
            link = &(*link)->next;
}

void pending_expire(struct pending *p, uint64_t now_ns)
{
    for (struct waiting **link = &p->first; *link;)
        if ((*link)->until_ns <= now_ns) {
            fill_waiting(p, *link); /* a part of an answer may have come */
            hand_on(p, link);
        } else {
            link = &(*link)->next;
        }
}

size_t pending_count(const struct pending *p)
{
    return p->n;
}
