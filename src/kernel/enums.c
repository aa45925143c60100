// SPDX-License-Identifier: Apache-2.0

#include "kernel/enums.h"

#include <assert.h>
#include <bpf/btf.h>
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define TABLES_MAX       64
#define VALUES_MAX       4096
#define SUBSYSTEMS_MAX   64
#define SUBSYSTEM_SHIFT  16 /* SKB_DROP_REASON_SUBSYS_SHIFT, include/net/dropreason.h */
#define REASONS          "skb_drop_reason"
#define SUBSYSTEMS       "skb_drop_reason_subsys"
#define REASON_PREFIX    "SKB_DROP_REASON_"
#define SUBSYSTEM_PREFIX "SKB_DROP_REASON_SUBSYS_"
#define REASONS_SUFFIX   "_drop_reason"

/* What is kept of the kernel's thousands of enums, besides all that end in _drop_reason. */
static const char *const kept_enums[] = {
    SUBSYSTEMS, "oom_constraint",
    "LINUX_MIB_NUM", /* what the kernel counts in TcpExt, include/uapi/linux/snmp.h */
};

struct value {
    int64_t value;
    char *name; /* owned */
};

struct table {
    char *name;           /* owned */
    struct value *values; /* owned */
    size_t n;
    bool narrow; /* 32 bits: pahole before 1.24 does not say whether they are signed */
};

struct enums {
    char *root_prefix; /* owned */
    struct table tables[TABLES_MAX];
    size_t n;
    uint64_t subsystems_tried; /* bit: the module of that subsystem was looked for */
};

static_assert(SUBSYSTEMS_MAX <= 64, "subsystems_tried is one word");

static bool ends_with(const char *s, const char *suffix)
{
    size_t len = strlen(s), suffix_len = strlen(suffix);

    return len >= suffix_len && strcmp(s + len - suffix_len, suffix) == 0;
}

static bool is_kept(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(kept_enums); i++)
        if (strcmp(name, kept_enums[i]) == 0)
            return true;
    return ends_with(name, REASONS_SUFFIX);
}

/* --- reading */

static void table_done(struct table *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->values[i].name);
    free(t->values);
    free(t->name);
    *t = (struct table){0};
}

static struct value value_at(const struct btf *btf, const struct btf_type *type, unsigned i)
{
    struct value v;
    const char *name;

    if (btf_is_enum64(type)) {
        const struct btf_enum64 *e = btf_enum64(type) + i;

        v.value = (int64_t)btf_enum64_value(e);
        name = btf__name_by_offset(btf, e->name_off);
    } else {
        const struct btf_enum *e = btf_enum(type) + i;

        v.value = btf_kflag(type) ? e->val : (int64_t)(uint32_t)e->val;
        name = btf__name_by_offset(btf, e->name_off);
    }
    v.name = strdup(name ? name : "");
    return v;
}

/* Offset of its name. */
static uint32_t first_value(const struct btf_type *type)
{
    return btf_is_enum64(type) ? btf_enum64(type)->name_off : btf_enum(type)->name_off;
}

/* What it has filled when it fails is table_done()'s. */
static int table_read(const struct btf *btf, const struct btf_type *type, const char *name,
                      struct table *t)
{
    unsigned n = MIN((unsigned)btf_vlen(type), (unsigned)VALUES_MAX);

    t->narrow = !btf_is_enum64(type);
    t->name = strdup(name);
    t->values = calloc(n, sizeof(*t->values));
    if (!t->name || !t->values)
        return -ENOMEM;
    for (; t->n < n; t->n++) {
        t->values[t->n] = value_at(btf, type, (unsigned)t->n);
        if (!t->values[t->n].name)
            return -ENOMEM;
    }
    return 0;
}

static int add_enums(struct enums *e, const struct btf *btf, unsigned first_id)
{
    for (unsigned id = first_id; id < btf__type_cnt(btf) && e->n < TABLES_MAX; id++) {
        const struct btf_type *type = btf__type_by_id(btf, id);
        const char *name;
        int r;

        if (!btf_is_any_enum(type) || btf_vlen(type) == 0)
            continue;
        name = btf__name_by_offset(btf, type->name_off ? type->name_off : first_value(type));
        if (!name || !is_kept(name))
            continue;
        r = table_read(btf, type, name, &e->tables[e->n]);
        if (r < 0) {
            table_done(&e->tables[e->n]);
            return r;
        }
        e->n++;
    }
    return 0;
}

static void btf_freep(struct btf **btf)
{
    btf__free(*btf);
}

/* `base` NULL: the kernel itself. */
static int btf_open(const struct enums *e, const char *name, struct btf *base, struct btf **ret)
{
    char path[PATH_MAX];
    struct btf *btf;
    int len = snprintf(path, sizeof(path), "%s/sys/kernel/btf/%s", e->root_prefix, name);

    if (len < 0 || (size_t)len >= sizeof(path))
        return -ENAMETOOLONG;
    /* libbpf would complain on stderr about the many modules that are not loaded. */
    if (access(path, R_OK) < 0)
        return -errno;
    errno = 0;
    btf = base ? btf__parse_raw_split(path, base) : btf__parse_raw(path);
    if (!btf)
        return errno ? -errno : -EINVAL;
    *ret = btf;
    return 0;
}

int enums_new(const char *root_prefix, struct enums **ret)
{
    _cleanup_(enums_freep) struct enums *e = calloc(1, sizeof(*e));
    _cleanup_(btf_freep) struct btf *btf = NULL;
    int r;

    if (!e)
        return -ENOMEM;
    e->root_prefix = strdup(root_prefix ? root_prefix : "");
    if (!e->root_prefix)
        return -ENOMEM;
    r = btf_open(e, "vmlinux", NULL, &btf);
    if (r < 0)
        return r;
    r = add_enums(e, btf, 1);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(e);
    return 0;
}

struct enums *enums_free(struct enums *e)
{
    if (!e)
        return NULL;
    for (size_t i = 0; i < e->n; i++)
        table_done(&e->tables[i]);
    free(e->root_prefix);
    free(e);
    return NULL;
}

/* --- plain enums */

static bool same_value(const struct table *t, int64_t a, int64_t b)
{
    bool fits = b >= INT32_MIN && b <= (int64_t)UINT32_MAX;

    return a == b || (t->narrow && fits && (uint32_t)a == (uint32_t)b);
}

const char *enums_name(struct enums *e, const char *enum_name, int64_t value)
{
    for (size_t i = 0; e && i < e->n; i++) {
        const struct table *t = &e->tables[i];

        if (strcmp(t->name, enum_name) != 0)
            continue;
        for (size_t j = 0; j < t->n; j++)
            if (same_value(t, t->values[j].value, value))
                return t->values[j].name;
    }
    return NULL;
}

int enums_value(struct enums *e, const char *enum_name, const char *value_name, int64_t *ret)
{
    for (size_t i = 0; e && i < e->n; i++) {
        const struct table *t = &e->tables[i];

        if (strcmp(t->name, enum_name) != 0)
            continue;
        for (size_t j = 0; j < t->n; j++)
            if (strcmp(t->values[j].name, value_name) == 0) {
                *ret = t->values[j].value;
                return 0;
            }
    }
    return -ENOENT;
}

/* --- drop reasons */

/* Counts, masks and the first values of ranges stand among the reasons. */
static bool is_reason(const char *name)
{
    return name[0] != '\0' && name[0] != '_' && !ends_with(name, "_DROP_MAX") &&
           !ends_with(name, "_REASON_MAX") && !ends_with(name, "_SUBSYS_MASK");
}

/*
 * Reads the enums of the module that gives reasons of this subsystem: SUBSYS_OPENVSWITCH is
 * `openvswitch`, SUBSYS_MAC80211_UNUSABLE is `mac80211`. A module's BTF continues the kernel's,
 * which has to be read again for it: tens of milliseconds, once for a subsystem.
 */
static void load_subsystem(struct enums *e, uint32_t subsystem)
{
    const char *subsystem_name = enums_name(e, SUBSYSTEMS, subsystem);
    _cleanup_(btf_freep) struct btf *base = NULL;
    char module[64];
    size_t len = 0;

    if (subsystem == 0 || subsystem >= SUBSYSTEMS_MAX || !subsystem_name ||
        strncmp(subsystem_name, SUBSYSTEM_PREFIX, strlen(SUBSYSTEM_PREFIX)) != 0 ||
        e->subsystems_tried & UINT64_C(1) << subsystem)
        return;
    e->subsystems_tried |= UINT64_C(1) << subsystem;

    subsystem_name += strlen(SUBSYSTEM_PREFIX);
    for (; len < sizeof(module) - 1 && subsystem_name[len]; len++) {
        if (!isalnum((unsigned char)subsystem_name[len]) && subsystem_name[len] != '_')
            return;
        module[len] = (char)tolower((unsigned char)subsystem_name[len]);
    }
    module[len] = '\0';

    while (module[0] != '\0') {
        _cleanup_(btf_freep) struct btf *split = NULL;
        char *underscore;

        if (!base && btf_open(e, "vmlinux", NULL, &base) < 0)
            return;
        if (btf_open(e, module, base, &split) == 0) {
            /* For want of memory the reasons stay numbers. */
            (void)add_enums(e, split, btf__type_cnt(base));
            return;
        }
        underscore = strrchr(module, '_');
        if (!underscore)
            return;
        *underscore = '\0';
    }
}

static const char *reason_name(const struct enums *e, uint32_t reason)
{
    bool core = reason >> SUBSYSTEM_SHIFT == 0;

    for (size_t i = 0; i < e->n; i++) {
        const struct table *t = &e->tables[i];

        if (!ends_with(t->name, REASONS_SUFFIX) || core != (strcmp(t->name, REASONS) == 0))
            continue;
        for (size_t j = 0; j < t->n; j++)
            if (same_value(t, t->values[j].value, reason) && is_reason(t->values[j].name))
                return t->values[j].name;
    }
    return NULL;
}

static const char *without_prefix(const char *name)
{
    /* SKB_CONSUMED and SKB_NOT_DROPPED_YET have only half of it. */
    static const char *const prefixes[] = {REASON_PREFIX, "SKB_"};

    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return name + strlen(prefixes[i]);
    return name;
}

const char *enums_drop_reason(struct enums *e, uint32_t reason, char *buf, size_t size)
{
    const char *name = e ? reason_name(e, reason) : NULL;

    if (e && !name && reason >> SUBSYSTEM_SHIFT) {
        load_subsystem(e, reason >> SUBSYSTEM_SHIFT);
        name = reason_name(e, reason);
    }
    if (name)
        snprintf(buf, size, "%s", without_prefix(name));
    else
        snprintf(buf, size, "0x%x", reason);
    return buf;
}

static int reason_value(const struct enums *e, const char *name, uint32_t *ret)
{
    for (size_t i = 0; i < e->n; i++) {
        const struct table *t = &e->tables[i];

        if (!ends_with(t->name, REASONS_SUFFIX))
            continue;
        for (size_t j = 0; j < t->n; j++) {
            const char *candidate = t->values[j].name;
            uint32_t value = (uint32_t)t->values[j].value;

            /* The other enums repeat some values of the kernel's own (RX_QUEUED). */
            if (is_reason(candidate) &&
                (strcmp(t->name, REASONS) == 0) == (value >> SUBSYSTEM_SHIFT == 0) &&
                (strcmp(candidate, name) == 0 || strcmp(without_prefix(candidate), name) == 0)) {
                *ret = value;
                return 0;
            }
        }
    }
    return -ENOENT;
}

int enums_drop_reason_value(struct enums *e, const char *name, uint32_t *ret)
{
    int r = e ? reason_value(e, name, ret) : -ENOENT;

    for (uint32_t subsystem = 1; e && r < 0 && subsystem < SUBSYSTEMS_MAX; subsystem++) {
        load_subsystem(e, subsystem);
        r = reason_value(e, name, ret);
    }
    return r;
}
