// SPDX-License-Identifier: Apache-2.0

#include "agent/handover.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static json_t *numbers(const uint64_t *values, unsigned n)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < n; i++)
        json_array_append_new(list, status_u64(values[i]));
    return list;
}

/** The counters as the kernel has them: the next agent sees them go on from there. */
static json_t *kernel_json(const struct agent_kind *kind)
{
    struct wire_counters c;

    kind_get_kernel(kind, &c);
    for (unsigned i = 0; i < WIRE_RULES_MAX; i++)
        c.filtered[i] += kind->past.kernel.filtered[i];
    for (unsigned i = 0; i < WIRE_LOST_NR; i++)
        c.lost[i] += kind->past.kernel.lost[i];
    return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "instance", (json_int_t)kind->instance,
                     "seen", status_u64(c.seen + kind->past.kernel.seen), "sent",
                     status_u64(c.sent + kind->past.kernel.sent), "suppressed",
                     status_u64(c.suppressed + kind->past.kernel.suppressed), "lost",
                     numbers((const uint64_t *)c.lost, WIRE_LOST_NR), "filtered",
                     numbers((const uint64_t *)c.filtered, WIRE_RULES_MAX));
}

static void add_window(void *arg, uint64_t window_id, const struct window_last *last)
{
    json_array_append_new(arg, json_pack("{s:o, s:s, s:o, s:s}", "window", status_u64(window_id),
                                         "id", last->tracer_id, "summary",
                                         status_text(last->summary ? last->summary : ""), "brief",
                                         last->brief ? last->brief : ""));
}

static int write_json(const json_t *json)
{
    _close_fd_ int fd = memfd_create("huatuo-handover", MFD_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (json_dumpfd(json, fd, JSON_COMPACT) < 0)
        return -ENOMEM;
    return TAKE_FD(fd);
}

/** A copy of the counters; heap. */
static struct wire_counters *freeze(const struct agent_kind *kind)
{
    struct wire_counters *copy = kind->counters ? malloc(kind->counters_size) : NULL;

    for (unsigned cpu = 0; copy && cpu < kind->n_cpus; cpu++)
        copy[cpu] = kind->counters[cpu];
    return copy;
}

int handover_write(const struct status_input *in, const struct windows *windows)
{
    json_t *kinds = json_object(), *list = json_array(), *all;
    int r;

    for (size_t i = 0; i < in->n_kinds; i++) {
        struct agent_kind frozen = in->kinds[i];

        /* Events go on being counted, and what the account holds has to be what is said of it. */
        frozen.counters = freeze(&in->kinds[i]);
        if (in->kinds[i].counters && !frozen.counters)
            continue;
        json_object_set_new(kinds, frozen.event->name,
                            json_pack("{s:o, s:o, s:s}", "kernel", kernel_json(&frozen), "account",
                                      status_event(&frozen, in), "covered", frozen.covered));
        free((void *)frozen.counters);
    }
    windows_each(windows, add_window, list);
    all = json_pack("{s:I, s:o, s:o}", "started", (json_int_t)in->started_ns, "kinds", kinds,
                    "windows", list);
    r = all ? write_json(all) : -ENOMEM;
    json_decref(all);
    return r;
}

static uint64_t get(const json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));

    return value > 0 ? (uint64_t)value : 0;
}

static void get_list(const json_t *object, const char *name, uint64_t *ret, unsigned n)
{
    const json_t *list = json_object_get(object, name);

    for (unsigned i = 0; i < n; i++)
        ret[i] = (uint64_t)json_integer_value(json_array_get(list, i));
}

static void take_kind(struct agent_kind *kind, const json_t *from)
{
    const json_t *account = json_object_get(from, "account");
    const json_t *kernel = json_object_get(from, "kernel");
    const char *covered = json_string_value(json_object_get(from, "covered"));

    kind->past.seen = get(account, "seen");
    kind->past.recorded = get(account, "recorded");
    kind->past.suppressed = get(account, "suppressed");
    kind->past.filtered_by = json_incref(json_object_get(account, "filtered_by"));
    kind->past.lost_by = json_incref(json_object_get(account, "lost_by"));
    kind->noted.lost_by = json_incref(kind->past.lost_by);
    kind->noted.lost = get(account, "lost");
    snprintf(kind->covered, sizeof(kind->covered), "%s", covered ? covered : "");
    if (!kind->loaded || get(kernel, "instance") != kind->instance)
        return; /* loaded anew: it counts from 0 */
    kind->past.kernel.seen = get(kernel, "seen");
    kind->past.kernel.sent = get(kernel, "sent");
    kind->past.kernel.suppressed = get(kernel, "suppressed");
    get_list(kernel, "lost", (uint64_t *)kind->past.kernel.lost, WIRE_LOST_NR);
    get_list(kernel, "filtered", (uint64_t *)kind->past.kernel.filtered, WIRE_RULES_MAX);
}

static void take_window(struct windows *windows, const json_t *from)
{
    const char *id = json_string_value(json_object_get(from, "id"));
    const char *summary = json_string_value(json_object_get(from, "summary"));
    const char *brief = json_string_value(json_object_get(from, "brief"));
    struct window_last last = {};

    if (!id || strlen(id) != DOC_ID_LEN || !summary || !brief)
        return;
    snprintf(last.tracer_id, sizeof(last.tracer_id), "%s", id);
    last.summary = strdup(summary);
    last.brief = strdup(brief);
    windows_set(windows, get(from, "window"), &last);
}

int handover_read(int fd, struct agent_kind *kinds, size_t n_kinds, struct windows *windows,
                  uint64_t *ret_started_ns)
{
    json_t *all = NULL, *window;
    size_t i;

    if (lseek(fd, 0, SEEK_SET) == 0)
        all = json_loadfd(fd, 0, NULL);
    if (!json_is_object(all)) {
        json_decref(all);
        return -EBADMSG;
    }
    for (size_t k = 0; k < n_kinds; k++)
        take_kind(&kinds[k], json_object_get(json_object_get(all, "kinds"), kinds[k].event->name));
    json_array_foreach(json_object_get(all, "windows"), i, window) take_window(windows, window);
    *ret_started_ns = get(all, "started");
    json_decref(all);
    return 0;
}
