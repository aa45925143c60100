// SPDX-License-Identifier: Apache-2.0

#include "events/softirq/layout.h"

#include <bpf/btf.h>
#include <string.h>

#define ANONYMOUS_MAX 4 /* structs in structs */

/** A variable, or a member of one that is a struct. */
struct place {
    const char *variable, *member;
};

/** Its offset in the type, also if it stands in an anonymous struct or union there; bytes. */
static int find_member(const struct btf *btf, uint32_t type_id, const char *name, unsigned depth,
                       int64_t *ret)
{
    const struct btf_type *type = btf__type_by_id(btf, (uint32_t)btf__resolve_type(btf, type_id));

    if (!type || !btf_is_composite(type) || depth > ANONYMOUS_MAX)
        return -ENOENT;
    for (unsigned i = 0; i < btf_vlen(type); i++) {
        const struct btf_member *m = btf_members(type) + i;
        const char *member = btf__name_by_offset(btf, m->name_off);
        int64_t inner = 0;

        if (member && *member && strcmp(member, name) != 0)
            continue;
        if ((!member || !*member) && find_member(btf, m->type, name, depth + 1, &inner) < 0)
            continue;
        *ret = btf_member_bit_offset(type, i) / 8 + inner;
        return 0;
    }
    return -ENOENT;
}

static int find_place(const struct btf *btf, const struct btf_type *section, struct place what,
                      int64_t *ret)
{
    for (unsigned i = 0; i < btf_vlen(section); i++) {
        const struct btf_var_secinfo *at = btf_var_secinfos(section) + i;
        const struct btf_type *var = btf__type_by_id(btf, at->type);
        const char *name = var ? btf__name_by_offset(btf, var->name_off) : NULL;
        int64_t inner = 0;
        int r = 0;

        if (!name || strcmp(name, what.variable) != 0)
            continue;
        if (what.member)
            r = find_member(btf, var->type, what.member, 0, &inner);
        *ret = at->offset + inner;
        return r;
    }
    return -ENOENT;
}

static int find_first(const struct btf *btf, const struct btf_type *section,
                      const struct place *places, size_t n, int64_t *ret)
{
    int r = -ENOENT;

    for (size_t i = 0; i < n && r < 0; i++)
        r = find_place(btf, section, places[i], ret);
    return r;
}

/** Whether a task leads to the run queue of its CPU; without CONFIG_FAIR_GROUP_SCHED it does not.
 */
static bool has_queue(const struct btf *btf)
{
    static const struct place way[] = {{"sched_entity", "cfs_rq"}, {"cfs_rq", "rq"}};
    int64_t offset;

    for (size_t i = 0; i < ARRAY_SIZE(way); i++) {
        int id = btf__find_by_name_kind(btf, way[i].variable, BTF_KIND_STRUCT);

        if (id < 0 || find_member(btf, (uint32_t)id, way[i].member, 0, &offset) < 0)
            return false;
    }
    return true;
}

int layout_read(const struct btf *kernel, struct softirq_layout *ret)
{
    static const struct place pending[] = {
        {"__softirq_pending", NULL},       /* x86: 6.15+ */
        {"pcpu_hot", "softirq_pending"},   /* x86: 6.2+ */
        {"irq_stat", "__softirq_pending"}, /* before, and elsewhere */
    };
    static const struct place preempt[] = {
        {"__preempt_count", NULL}, /* x86: before 6.2, and from 6.15 on */
        {"pcpu_hot", "preempt_count"},
    };
    const struct place queue = {"runqueues", NULL}, runs = {"kstat", "softirqs"};
    int id = btf__find_by_name_kind(kernel, ".data..percpu", BTF_KIND_DATASEC);
    const struct btf_type *section = id < 0 ? NULL : btf__type_by_id(kernel, (uint32_t)id);
    int64_t base, at_pending, at_runs, at_preempt;

    if (!section || !has_queue(kernel) || find_place(kernel, section, queue, &base) < 0 ||
        find_place(kernel, section, runs, &at_runs) < 0 ||
        find_first(kernel, section, pending, ARRAY_SIZE(pending), &at_pending) < 0)
        return -ENOENT;
    *ret = (struct softirq_layout){
        .known = 1,
        .pending = at_pending - base,
        .runs = at_runs - base,
    };
    if (find_first(kernel, section, preempt, ARRAY_SIZE(preempt), &at_preempt) == 0) {
        ret->preempt_known = 1;
        ret->preempt = at_preempt - base;
    }
    return 0;
}
