// SPDX-License-Identifier: Apache-2.0

#include "events/oom/collect.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/numbers.h"

struct note {
    int8_t level, group; /* as in struct oom_cause */
};
static_assert(sizeof(struct note) <= EVENT_NOTE_BYTES, "the note is too large");

void oom_note(const struct oom_wire *w, const struct oom_cause *cause, void *note)
{
    const struct note n = {.level = (int8_t)cause->level, .group = (int8_t)cause->group};

    (void)w;
    memcpy(note, &n, sizeof(n));
}

/* --- files */

static void collect_cgroup(const struct collect *c, bool unified, const char *cgroup,
                           struct record *r)
{
    char folder[PATH_MAX], path[PATH_MAX + 32];

    /* A cgroup that has gone already has left its counters in the event itself. */
    if (cgroup_directory(c->root_prefix, unified, cgroup, folder, sizeof(folder)) < 0)
        return;
    snprintf(path, sizeof(path), "%s/memory.stat", folder);
    record_numbers(r, "memory_stat", c->root_prefix, path);
    snprintf(path, sizeof(path), "%s/%s", folder, unified ? "memory.events" : "memory.oom_control");
    record_numbers(r, "memory_events", c->root_prefix, path);
}

/* --- processes */

struct process {
    struct oom_task task;
    char cgroup[CGROUP_PATH_MAX];
};

struct processes {
    const struct oom_wire *event;
    const char *below; /* only those in or below this cgroup are listed; "": all */
    const char *group; /* of those in or below it that were chosen, the pids; "": none */
    unsigned n, n_killed;
    struct process largest[OOM_LARGEST_MAX + 1]; /* descending; the last is room for one more */
    uint32_t killed[OOM_KILLED_WITH_MAX];
};

#define GROUP_NS (1 * NS_PER_SEC) /* within which a group is killed */

static uint64_t size_of(const struct oom_task *t)
{
    return t->anon + t->file + t->shmem + t->swap;
}

static void add_killed(struct processes *p, uint32_t pid)
{
    for (unsigned i = 0; i < p->n_killed; i++)
        if (p->killed[i] == pid)
            return;
    if (p->n_killed < OOM_KILLED_WITH_MAX)
        p->killed[p->n_killed++] = pid;
}

/** A group is killed by one trigger, in one go. */
static void add_mark(struct processes *p, const struct oom_task *mark)
{
    int64_t apart = (int64_t)(mark->marked_ns - p->event->head.time_ns);

    if (*p->group && mark->marked_by == p->event->head.tid && apart > -(int64_t)GROUP_NS &&
        apart < (int64_t)GROUP_NS)
        add_killed(p, mark->pid);
}

static void add_process(struct processes *p, const struct oom_task *task, const char *cgroup)
{
    unsigned at = p->n;

    if (*p->group && task->chosen && cgroup_is_below(cgroup, p->group))
        add_killed(p, task->pid);
    if (*p->below && !cgroup_is_below(cgroup, p->below))
        return;
    /* Others that were chosen and have given all back. */
    if (size_of(task) == 0 && task->pid != p->event->victim_pid)
        return;
    /* Threads of a process whose leader has ended, and the victim, which is there already. */
    for (unsigned i = 0; i < p->n; i++)
        if (p->largest[i].task.pid == task->pid)
            return;
    while (at > 0 && size_of(&p->largest[at - 1].task) < size_of(task)) {
        p->largest[at] = p->largest[at - 1];
        at--;
    }
    if (at == OOM_LARGEST_MAX)
        return;
    p->largest[at].task = *task;
    snprintf(p->largest[at].cgroup, sizeof(p->largest[at].cgroup), "%s", cgroup);
    p->n = MIN(p->n + 1, (unsigned)OOM_LARGEST_MAX);
}

static void parse_snapshot(const char *bytes, size_t size, struct processes *p)
{
    char cgroup[CGROUP_PATH_MAX];
    struct wire_cgroup names;
    struct oom_task task;

    while (size >= sizeof(task)) {
        size_t n;

        memcpy(&task, bytes, sizeof(task));
        bytes += sizeof(task);
        size -= sizeof(task);
        n = cgroup_parse_names(bytes, size, &names);
        if (n == 0)
            return;
        bytes += n;
        size -= n;
        if (task.marked_ns)
            add_mark(p, &task);
        else if (cgroup_path(&names, 0, cgroup) == 0)
            add_process(p, &task, cgroup);
    }
}

/** By now it has given its memory back: it is listed with what it had when it was chosen. */
static void add_victim(struct processes *p, const struct oom_wire *w, const char *cgroup)
{
    struct oom_task task = {
        .pid = w->victim_pid,
        .oom_score_adj = w->oom_score_adj,
        .anon = w->anon,
        .file = w->file,
        .shmem = w->shmem,
        .swap = w->swap,
        .uid = w->victim_uid,
        .chosen = 1,
    };

    memcpy(task.comm, w->victim_name, sizeof(task.comm));
    add_process(p, &task, cgroup);
}

static uint64_t page_bytes(uint64_t pages)
{
    uint64_t bytes;

    return __builtin_mul_overflow(pages, (uint64_t)sysconf(_SC_PAGESIZE), &bytes) ? UINT64_MAX
                                                                                  : bytes;
}

static void write_processes(const struct processes *p, struct record *r)
{
    record_list(r, "largest");
    for (unsigned i = 0; i < p->n; i++) {
        const struct oom_task *t = &p->largest[i].task;

        record_open(r, NULL);
        record_u64(r, "pid", t->pid);
        record_str(r, "comm", t->comm, sizeof(t->comm));
        record_u64(r, "uid", t->uid);
        record_u64(r, "rss_bytes", page_bytes(t->anon + t->file + t->shmem));
        record_u64(r, "swap_bytes", page_bytes(t->swap));
        record_i64(r, "oom_score_adj", t->oom_score_adj);
        record_str(r, "cgroup", p->largest[i].cgroup, SIZE_MAX);
        record_bool(r, "chosen", t->chosen);
        record_close(r);
    }
    record_close(r);
    if (*p->group) {
        record_list(r, "killed_with");
        for (unsigned i = 0; i < p->n_killed; i++)
            record_u64(r, NULL, p->killed[i]);
        record_close(r);
    }
}

static int collect_processes(const struct collect *c, const struct oom_wire *w, const char *below,
                             const char *group, struct record *r)
{
    _free_ struct processes *p = calloc(1, sizeof(*p));
    _free_ char *snapshot = NULL;
    char victim[CGROUP_PATH_MAX];
    size_t size = 0;
    int e;

    if (!p)
        return -ENOMEM;
    e = cgroup_path(&w->victim_cgroup, 0, victim);
    if (e < 0)
        return e;
    p->event = w;
    p->below = below;
    p->group = group;
    if (c->snapshot(c, (void **)&snapshot, &size) < 0)
        return 0; /* without one there is no list */
    add_victim(p, w, victim);
    parse_snapshot(snapshot, size, p);
    write_processes(p, r);
    return 0;
}

int oom_collect(const struct collect *c, const void *raw, struct record *r)
{
    char limit[CGROUP_PATH_MAX] = "", group[CGROUP_PATH_MAX] = "";
    const struct oom_wire *w = raw;
    struct note note;
    int e;

    memcpy(&note, c->note, sizeof(note));
    if (note.level >= 0) {
        e = cgroup_path(&w->victim_cgroup, (unsigned)note.level, limit);
        if (e < 0)
            return e;
        collect_cgroup(c, w->victim_cgroup.unified, limit, r);
    }
    if (note.group >= 0) {
        e = cgroup_path(&w->victim_cgroup, (unsigned)note.group, group);
        if (e < 0)
            return e;
    }
    record_numbers(r, "meminfo", c->root_prefix, "/proc/meminfo");
    return collect_processes(c, w, limit, group, r);
}
