// SPDX-License-Identifier: Apache-2.0

#include "events/oom/cause.h"

#include <stdio.h>
#include <string.h>

#include "kernel/kernel.h"

#define BEFORE_MAX_NS (1 * NS_PER_SEC) /* what was told longer ago was about something else */
#define CHARGE_BATCH  64               /* pages that each CPU may hold back: MEMCG_CHARGE_BATCH */
#define NEAR_SHARE    64               /* of the limit: who is nearer to it than that has met it */

/* --- what the kernel wrote into its log */

/** Digits from `s` on, at most up to `end`; returns where they stop, NULL if there are none. */
static const char *parse_number(const char *s, const char *end, unsigned base, uint64_t *ret)
{
    const char *begin = s;
    uint64_t value = 0;

    for (; s < end; s++) {
        unsigned digit = *s >= '0' && *s <= '9'                 ? (unsigned)(*s - '0')
                         : base == 16 && *s >= 'a' && *s <= 'f' ? (unsigned)(*s - 'a' + 10)
                                                                : base;

        if (digit >= base)
            break;
        if (__builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return NULL;
    }
    *ret = value;
    return s == begin ? NULL : s;
}

static const char *skip(const char *s, const char *end, const char *word)
{
    size_t len = strlen(word);

    return s && (size_t)(end - s) >= len && memcmp(s, word, len) == 0 ? s + len : NULL;
}

bool oom_parse_invoked(const char *text, size_t size, struct oom_cause *ret)
{
    static const char invoked[] = " invoked oom-killer: gfp_mask=0x";
    const char *end = text + strnlen(text, size),
               *s = memmem(text, (size_t)(end - text), invoked, strlen(invoked));
    const char *flags, *flags_end;
    uint64_t mask, order;
    bool negative;

    if (!s)
        return false;
    s = parse_number(s + strlen(invoked), end, 16, &mask);
    flags = skip(s, end, "(");
    flags_end = flags ? memchr(flags, ')', (size_t)(end - flags)) : NULL;
    s = flags_end ? skip(flags_end, end, "), order=") : NULL;
    if (!s || mask > UINT32_MAX)
        return false;
    negative = s < end && *s == '-'; /* -1: by sysrq */
    s = parse_number(s + negative, end, 10, &order);
    if (!s || order > INT32_MAX)
        return false;
    ret->has_request = true;
    ret->gfp_mask = (uint32_t)mask;
    ret->order = negative ? -(int64_t)order : (int64_t)order;
    snprintf(ret->gfp_flags, sizeof(ret->gfp_flags), "%.*s", (int)(flags_end - flags), flags);
    return true;
}

uint32_t oom_parse_task(const char *text, size_t size)
{
    static const char before[] = ",pid=";
    const char *end = text + strnlen(text, size), *found = NULL;
    uint64_t pid;

    /* The last one: what stands before is a name that may hold anything. */
    for (const char *s = text; (s = memmem(s, (size_t)(end - s), before, strlen(before))); s++)
        found = s;
    if (!found || !parse_number(found + strlen(before), end, 10, &pid) || pid > UINT32_MAX)
        return 0;
    return (uint32_t)pid;
}

/* --- what the memory was wanted for */

void oom_gfp_text(uint32_t mask, char ret[OOM_GFP_TEXT_MAX])
{
    /* include/linux/gfp_types.h; the bits have been where they are since 5.1. */
    static const struct {
        uint32_t bits;
        const char *name;
    } flags[] = {
        {0x100cca, "GFP_HIGHUSER_MOVABLE"},
        {0x100cc2, "GFP_HIGHUSER"},
        {0x100cc0, "GFP_USER"},
        {0x400cc0, "GFP_KERNEL_ACCOUNT"},
        {0xcc0, "GFP_KERNEL"},
        {0xc40, "GFP_NOFS"},
        {0xc00, "GFP_NOIO"},
        {0x1, "__GFP_DMA"},
        {0x2, "__GFP_HIGHMEM"},
        {0x4, "__GFP_DMA32"},
        {0x8, "__GFP_MOVABLE"},
        {0x10, "__GFP_RECLAIMABLE"},
        {0x20, "__GFP_HIGH"},
        {0x40, "__GFP_IO"},
        {0x80, "__GFP_FS"},
        {0x100, "__GFP_ZERO"},
        {0x400, "__GFP_DIRECT_RECLAIM"},
        {0x800, "__GFP_KSWAPD_RECLAIM"},
        {0x1000, "__GFP_WRITE"},
        {0x2000, "__GFP_NOWARN"},
        {0x4000, "__GFP_RETRY_MAYFAIL"},
        {0x8000, "__GFP_NOFAIL"},
        {0x10000, "__GFP_NORETRY"},
        {0x20000, "__GFP_MEMALLOC"},
        {0x40000, "__GFP_COMP"},
        {0x80000, "__GFP_NOMEMALLOC"},
        {0x100000, "__GFP_HARDWALL"},
        {0x200000, "__GFP_THISNODE"},
        {0x400000, "__GFP_ACCOUNT"},
    };
    size_t len = 0;

    *ret = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        if (!mask || (mask & flags[i].bits) != flags[i].bits)
            continue;
        mask &= ~flags[i].bits;
        len += (size_t)snprintf(ret + len, OOM_GFP_TEXT_MAX - len, "%s%s", len ? "|" : "",
                                flags[i].name);
        if (len >= OOM_GFP_TEXT_MAX)
            return;
    }
    if (mask)
        snprintf(ret + len, OOM_GFP_TEXT_MAX - len, "%s0x%x", len ? "|" : "", mask);
}

/* --- whose limit it is */

/** Whether what was told in the same task before was about this victim. */
static bool was_about(const struct oom_wire *w)
{
    const struct oom_before *b = &w->before;
    uint32_t pid;

    if (b->way == OOM_WAY_NONE || w->head.time_ns - b->time_ns > BEFORE_MAX_NS ||
        (b->way == OOM_WAY_CONSOLE && b->stage != OOM_STAGE_TASK))
        return false;
    pid = b->way == OOM_WAY_CONTROL ? b->chosen_pid : oom_parse_task(b->task, sizeof(b->task));
    if (pid && (pid == w->victim_tid || pid == w->victim_pid))
        return true;
    /* Behind the chosen one follow those of its group. */
    if (!b->n_marks)
        return false;
    for (unsigned i = 0; i < w->n_levels; i++)
        if (w->levels[i].oom_group)
            return true;
    return false;
}

static const char *constraint_name(const char *kernels)
{
    static const struct {
        const char *kernels, *ours;
    } names[] = {
        {"CONSTRAINT_MEMCG", "memcg"},
        {"CONSTRAINT_CPUSET", "cpuset"},
        {"CONSTRAINT_MEMORY_POLICY", "mempolicy"},
        {"CONSTRAINT_NONE", "host"},
    };

    for (size_t i = 0; kernels && i < ARRAY_SIZE(names); i++)
        if (strcmp(names[i].kernels, kernels) == 0)
            return names[i].ours;
    return "host";
}

/** Out of `oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=...`. */
static const char *constraint_of_text(const char *text, size_t size)
{
    const char *end = text + strnlen(text, size), *s = skip(text, end, "oom-kill:constraint=");
    char name[32];
    size_t len = 0;

    if (!s)
        return "host";
    while (s + len < end && s[len] != ',' && len < sizeof(name) - 1)
        len++;
    memcpy(name, s, len);
    name[len] = '\0';
    return constraint_name(name);
}

static uint64_t headroom_of(uint64_t usage, uint64_t max)
{
    if (max >= OOM_UNLIMITED)
        return UINT64_MAX;
    return usage < max ? max - usage : 0;
}

static uint64_t headroom(const struct oom_wire *w, unsigned i)
{
    const struct oom_level *level = &w->levels[i];
    uint64_t memory = headroom_of(level->usage, level->max);
    uint64_t both =
        w->victim_cgroup.unified ? UINT64_MAX : headroom_of(level->swap_usage, level->swap_max);

    return MIN(memory, both);
}

/**
 * The level that has met its limit: of those that the trigger is in, too (it is its charge that
 * failed), the one with the least room. With `any`, even if none has quite met it.
 */
static int fullest_level(const struct oom_wire *w, bool any)
{
    char trigger[CGROUP_PATH_MAX], path[CGROUP_PATH_MAX];
    uint64_t least = UINT64_MAX;
    bool least_shared = false;
    int found = -1;

    if (cgroup_path(&w->trigger_cgroup, 0, trigger) < 0)
        *trigger = '\0';
    for (unsigned i = 0; i < w->n_levels; i++) {
        uint64_t room = headroom(w, i), max = MIN(w->levels[i].max, w->levels[i].swap_max);
        bool shared;

        if (room == UINT64_MAX || cgroup_path(&w->victim_cgroup, i, path) < 0)
            continue;
        if (!any && room > CHARGE_BATCH && room > max / NEAR_SHARE)
            continue;
        shared = cgroup_is_below(trigger, path);
        if (found >= 0 && (least_shared > shared || (least_shared == shared && room >= least)))
            continue;
        found = (int)i;
        least = room;
        least_shared = shared;
    }
    return found;
}

/** No one has told: a charge that fails calls another function than an allocation that does. */
static void guess(const struct kernel *kernel, const struct oom_wire *w, struct oom_cause *ret)
{
    const uint64_t *frames = (const uint64_t *)w->head.stack;
    size_t n = w->head.stack_bytes > 0 ? (size_t)w->head.stack_bytes / 8 : 0;
    bool has_stack = n > 0 && kernel->symbols && symbols_state(kernel->symbols) == SYMBOLS_OK;
    bool charged =
        has_stack && symbols_stack_has(kernel->symbols, frames, n, "mem_cgroup_out_of_memory");

    ret->known_by = has_stack && !charged ? "stack" : "usage";
    if (has_stack && !charged)
        return;
    ret->level = fullest_level(w, charged);
    if (ret->level >= 0 || charged)
        ret->constraint = "memcg";
}

static int level_of_css(const struct oom_wire *w, uint64_t css)
{
    for (unsigned i = 0; i < w->n_levels; i++)
        if (w->levels[i].css == css)
            return (int)i;
    return -1;
}

static int level_of_path(const struct oom_wire *w)
{
    const char *wanted = w->before.path;
    char path[CGROUP_PATH_MAX];

    if (strnlen(wanted, sizeof(w->before.path)) == sizeof(w->before.path))
        return -1;
    for (unsigned i = 0; i < w->n_levels; i++)
        if (cgroup_path(&w->victim_cgroup, i, path) == 0 && strcmp(path, wanted) == 0)
            return (int)i;
    return -1;
}

static void take_control(const struct kernel *kernel, const struct oom_wire *w,
                         struct oom_cause *ret)
{
    const struct oom_before *b = &w->before;

    ret->known_by = "oom_control";
    ret->constraint = constraint_name(enums_name(kernel->enums, "oom_constraint", b->constraint));
    if (b->memcg_css) {
        ret->constraint = "memcg"; /* whatever the number is called */
        ret->level = level_of_css(w, b->memcg_css);
    }
    ret->has_request = true;
    ret->gfp_mask = b->gfp_mask;
    ret->order = b->order;
    oom_gfp_text(b->gfp_mask, ret->gfp_flags);
    /* Of the chosen one, not of those that die with it. */
    ret->has_points = b->chosen_pid == w->victim_tid || b->chosen_pid == w->victim_pid;
    ret->points = b->chosen_points;
    ret->total_pages = b->total_pages;
}

static void take_console(const struct oom_wire *w, struct oom_cause *ret)
{
    const struct oom_before *b = &w->before;

    ret->known_by = "console";
    ret->constraint = constraint_of_text(b->cause, sizeof(b->cause));
    if (strcmp(ret->constraint, "memcg") == 0) {
        ret->level = level_of_path(w);
        if (ret->level < 0) { /* its path is longer than what is kept of it */
            ret->level = fullest_level(w, true);
            ret->known_by = "usage";
        }
    }
    oom_parse_invoked(b->invoked, sizeof(b->invoked), ret);
}

void oom_find_cause(const struct kernel *kernel, const struct oom_wire *w, struct oom_cause *ret)
{
    *ret = (struct oom_cause){.constraint = "host", .level = -1, .group = -1};
    if (!was_about(w))
        guess(kernel, w, ret);
    else if (w->before.way == OOM_WAY_CONTROL)
        take_control(kernel, w, ret);
    else
        take_console(w, ret);

    if (ret->level >= 0) {
        const struct oom_level *level = &w->levels[ret->level];

        ret->of_swap =
            !w->victim_cgroup.unified &&
            headroom_of(level->swap_usage, level->swap_max) < headroom_of(level->usage, level->max);
    }
    /* The outermost, up to the one whose limit it is (mem_cgroup_get_oom_group()). */
    for (unsigned i = 0; i < w->n_levels && (ret->level < 0 || i <= (unsigned)ret->level); i++)
        if (w->levels[i].oom_group)
            ret->group = (int)i;
}
