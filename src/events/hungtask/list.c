// SPDX-License-Identifier: Apache-2.0

#include "events/hungtask/list.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "kernel/symbols.h"

/* --- texts */

void hungtask_seconds(uint64_t ns, char ret[HUNGTASK_SECONDS_MAX])
{
    snprintf(ret, HUNGTASK_SECONDS_MAX, "%" PRIu64 ".%" PRIu64 " s", ns / NS_PER_SEC,
             ns / (NS_PER_SEC / 10) % 10);
}

static bool is_scheduler(const char *name, size_t len)
{
    static const char *const prefixes[] = {"__schedule", "schedule", "io_schedule",
                                           "preempt_schedule", "__switch_to"};

    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
        if (len >= strlen(prefixes[i]) && strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

void hungtask_place(const char *stack, char *ret, size_t size)
{
    *ret = '\0';
    for (const char *line = stack; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        size_t len = strcspn(line, "/\n");

        /* Bare addresses have no name. */
        if (line[len] != '/')
            return;
        if (is_scheduler(line, len))
            continue;
        snprintf(ret, size, "%.*s", (int)MIN(len, size - 1), line);
        return;
    }
}

/** A name that a task gives itself must not look like another line. */
static int add_paragraph(struct text *t, struct symbols *symbols, const struct hungtask_row *row,
                         const struct wire_cgroup *cgroup)
{
    size_t n = row->stack_bytes > 0 ? (size_t)row->stack_bytes / sizeof(row->stack[0]) : 0;
    _free_ char *stack = symbols_stack_text(symbols, (const uint64_t *)row->stack, n);
    char path[CGROUP_PATH_MAX], blocked[HUNGTASK_SECONDS_MAX];

    if (!stack)
        return -ENOMEM;
    if (t->len)
        text_adds(t, "\n\n");
    text_add_printable(t, row->comm, sizeof(row->comm));
    text_addf(t, "[%u]", row->pid);
    if (row->tid != row->pid)
        text_addf(t, " tid %u", row->tid);
    text_addf(t, ": D%s", row->killable ? " (killable)" : "");
    hungtask_seconds(row->blocked_ns, blocked);
    if (row->blocked_ns)
        text_addf(t, " for %s", blocked);
    if (cgroup_path(cgroup, 0, path) == 0 && *path) {
        text_adds(t, ", cgroup ");
        text_add_printable(t, path, SIZE_MAX);
    }
    if (*stack)
        text_addf(t, "\n%s", stack);
    return t->failed ? -ENOMEM : 0;
}

int hungtask_list_own(const struct hungtask_wire *w, struct symbols *symbols, struct record *r)
{
    struct hungtask_row row = {
        .blocked_ns = w->blocked_ns,
        .pid = w->head.pid,
        .tid = w->head.tid,
        .stack_bytes = w->head.stack_bytes,
    };
    _cleanup_(text_done) struct text t = {};
    int e;

    memcpy(row.comm, w->head.comm, sizeof(row.comm));
    memcpy(row.stack, w->head.stack, sizeof(row.stack));
    e = add_paragraph(&t, symbols, &row, &w->cgroup);
    if (e == 0)
        record_stack(r, "blocked_processes_stack", t.data);
    return e;
}

/* --- all of them */

/** Where a task lies in the snapshot. */
struct place {
    const char *row, *names;
    size_t names_size;
    uint64_t blocked_ns;
};

struct list {
    struct place *tasks; /* owned */
    size_t n, room;
};

#define ROW_HEAD offsetof(struct hungtask_row, stack)

static int add_task(struct list *l, const struct place *task)
{
    if (l->n == l->room) {
        size_t room = l->room ? 2 * l->room : 256;
        struct place *larger = reallocarray(l->tasks, room, sizeof(*larger));

        if (!larger)
            return -ENOMEM;
        l->tasks = larger;
        l->room = room;
    }
    l->tasks[l->n++] = *task;
    return 0;
}

/** What makes no sense ends it: it can only be the end of what was cut. */
static int parse(struct list *l, const char *bytes, size_t size)
{
    while (size >= ROW_HEAD) {
        struct place task = {.row = bytes};
        struct wire_cgroup names;
        struct hungtask_row row;
        size_t stack;
        int e;

        memcpy(&row, bytes, ROW_HEAD);
        stack = row.stack_bytes > 0 ? (size_t)row.stack_bytes : 0;
        if (stack > sizeof(row.stack) || stack > size - ROW_HEAD)
            return 0;
        task.names = bytes + ROW_HEAD + stack;
        task.names_size = cgroup_parse_names(task.names, size - ROW_HEAD - stack, &names);
        if (task.names_size == 0)
            return 0;
        task.blocked_ns = row.blocked_ns;
        e = add_task(l, &task);
        if (e < 0)
            return e;
        bytes = task.names + task.names_size;
        size -= ROW_HEAD + stack + task.names_size;
    }
    return 0;
}

static int by_time(const void *one, const void *other)
{
    const struct place *a = one, *b = other;

    if (a->blocked_ns != b->blocked_ns)
        return a->blocked_ns < b->blocked_ns ? 1 : -1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static int add_place(struct text *t, struct symbols *symbols, const struct place *task)
{
    struct wire_cgroup cgroup;
    struct hungtask_row row;

    memcpy(&row, task->row, ROW_HEAD);
    memcpy(row.stack, task->row + ROW_HEAD, (size_t)MAX(row.stack_bytes, 0));
    cgroup_parse_names(task->names, task->names_size, &cgroup);
    return add_paragraph(t, symbols, &row, &cgroup);
}

static int write_list(const struct list *l, struct symbols *symbols, struct record *r)
{
    _cleanup_(text_done) struct text t = {};
    size_t shown = 0;

    for (; shown < l->n && t.len < HUNGTASK_TASKS_BYTES; shown++) {
        int e = add_place(&t, symbols, &l->tasks[shown]);

        if (e < 0)
            return e;
    }
    if (shown < l->n)
        text_addf(&t, "\n\n(%zu more, which are blocked no longer than these)", l->n - shown);
    if (t.failed)
        return -ENOMEM;
    record_u64(r, "blocked_count", l->n);
    record_stack(r, "blocked_processes_stack", t.data ? t.data : "");
    return 0;
}

int hungtask_list(const struct collect *c, const struct hungtask_wire *w, struct record *r)
{
    _free_ char *snapshot = NULL;
    struct list list = {};
    size_t size = 0;
    int e = c->snapshot(c, (void **)&snapshot, &size);

    if (e == -ENODATA)
        return hungtask_list_own(w, c->symbols, r);
    if (e == 0)
        e = parse(&list, snapshot, size);
    if (e == 0 && list.n > 0)
        qsort(list.tasks, list.n, sizeof(*list.tasks), by_time);
    if (e == 0)
        e = write_list(&list, c->symbols, r);
    free(list.tasks);
    return e;
}
