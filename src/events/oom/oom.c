// SPDX-License-Identifier: Apache-2.0

#include "events/oom/oom.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "core/event.h"
#include "core/numbers.h"
#include "events/oom/cause.h"
#include "events/oom/collect.h"
#include "kernel/kernel.h"
#include "oom.skel.h"

struct oom_options {
    struct event_options common;
};

static const struct option oom_option_table[] = {
    EVENT_OPTIONS(struct oom_options, "2MiB", "4096"),
    {},
};

static const struct hook hooks[] = {
    {
        .name = "mark_victim",
        .watches = "processes that the OOM killer kills",
        .ways =
            {
                {.name = "tp_btf/mark_victim",
                 .programs = (const char *const[]){"typed_mark_victim", NULL}},
                {.name = "raw_tp/mark_victim",
                 .programs = (const char *const[]){"raw_mark_victim", "raw_signal_generate", NULL}},
                {.name = "tp/oom/mark_victim",
                 .programs =
                     (const char *const[]){"classic_mark_victim", "raw_signal_generate", NULL}},
            },
    },
    {
        .name = "oom_kill_process",
        .watches = "whose limit was hit, and for what memory",
        .optional = true,
        .ways =
            {
                {.name = "fentry/oom_kill_process",
                 .programs = (const char *const[]){"fentry_oom_kill_process", NULL}},
                {.name = "kprobe/oom_kill_process",
                 .programs = (const char *const[]){"kprobe_oom_kill_process", NULL}},
                {.name = "tp_btf/console",
                 .programs = (const char *const[]){"typed_console", NULL}},
            },
    },
    {
        .name = "tasks",
        .watches = "the memory of all processes, when one was killed",
        .optional = true,
        .snapshot = true,
        .ways =
            {
                {.name = "iter/task", .programs = (const char *const[]){"snapshot_tasks", NULL}},
            },
    },
    {},
};

static const char *oom_rule_name(const void *options, unsigned index)
{
    static const char *const names[OOM_RULE_NR] = {"", "marked_again"};

    (void)options;
    return index < OOM_RULE_NR ? names[index] : NULL;
}

static int oom_configure(const struct decode *d, void *settings, char *error, size_t error_size)
{
    struct oom_settings *s = settings;
    long n = sysconf(_SC_NPROCESSORS_CONF);

    (void)d;
    (void)error;
    (void)error_size;
    s->n_cpus = n > 0 ? (uint32_t)n : 1;
    return 0;
}

static uint64_t page_bytes(uint64_t pages)
{
    uint64_t bytes;

    return __builtin_mul_overflow(pages, (uint64_t)sysconf(_SC_PAGESIZE), &bytes) ? UINT64_MAX
                                                                                  : bytes;
}

/* --- decode */

struct paths {
    char trigger[CGROUP_PATH_MAX], victim[CGROUP_PATH_MAX], limit[CGROUP_PATH_MAX];
    char group[CGROUP_PATH_MAX];
};

static int find_paths(const struct oom_wire *w, const struct oom_cause *cause, struct paths *ret)
{
    int r = cgroup_path(&w->trigger_cgroup, 0, ret->trigger);

    if (r == 0)
        r = cgroup_path(&w->victim_cgroup, 0, ret->victim);
    if (r == 0 && cause->level >= 0)
        r = cgroup_path(&w->victim_cgroup, (unsigned)cause->level, ret->limit);
    if (r == 0 && cause->group >= 0)
        r = cgroup_path(&w->victim_cgroup, (unsigned)cause->group, ret->group);
    return r;
}

static void write_parties(const struct decode *d, const struct oom_wire *w,
                          const struct paths *paths, struct record *r)
{
    char container[DOC_CONTAINER_LEN + 1];

    d->container_id(paths->trigger, container);
    record_strf(r, "trigger_memcg_css", "0x%" PRIx64, (uint64_t)w->trigger_cgroup.css);
    record_u64(r, "trigger_pid", w->head.pid);
    record_str(r, "trigger_process_name", w->trigger_name, sizeof(w->trigger_name));
    record_str(r, "trigger_container_id", container, sizeof(container));
    record_str(r, "trigger_container_hostname", "", 0);

    d->container_id(paths->victim, container);
    record_strf(r, "victim_memcg_css", "0x%" PRIx64, (uint64_t)w->victim_cgroup.css);
    record_u64(r, "victim_pid", w->victim_pid);
    record_str(r, "victim_process_name", w->victim_name, sizeof(w->victim_name));
    record_str(r, "victim_container_id", container, sizeof(container));
    record_str(r, "victim_container_hostname", "", 0);
    if (*container)
        record_container(r, container, NULL, NULL, NULL, NULL, "cgroup");
}

static void write_limit(const struct oom_wire *w, const struct oom_cause *cause,
                        const struct paths *paths, struct record *r)
{
    const struct oom_level *level = cause->level >= 0 ? &w->levels[cause->level] : NULL;

    record_str(r, "constraint", cause->constraint, SIZE_MAX);
    record_str(r, "limit_known_by", cause->known_by, SIZE_MAX);
    record_str(r, "limit_cgroup", paths->limit, sizeof(paths->limit));
    if (!level)
        return;
    record_strf(r, "limit_memcg_css", "0x%" PRIx64, (uint64_t)level->css);
    record_str(r, "limit_of", cause->of_swap ? "memory+swap" : "memory", SIZE_MAX);
    if (level->max < OOM_UNLIMITED)
        record_u64(r, "limit_bytes", page_bytes(level->max));
    record_u64(r, "usage_bytes", page_bytes(level->usage));
    record_u64(r, "failcnt", level->failcnt);
    if (w->victim_cgroup.unified) {
        if (level->swap_max < OOM_UNLIMITED)
            record_u64(r, "swap_limit_bytes", page_bytes(level->swap_max));
        record_u64(r, "swap_usage_bytes", page_bytes(level->swap_usage));
    } else {
        if (level->swap_max < OOM_UNLIMITED)
            record_u64(r, "memsw_limit_bytes", page_bytes(level->swap_max));
        record_u64(r, "memsw_usage_bytes", page_bytes(level->swap_usage));
        record_u64(r, "memsw_failcnt", level->swap_failcnt);
    }
    record_open(r, "limit_events");
    record_u64(r, "max", level->n_max);
    record_u64(r, "oom", level->n_oom);
    record_u64(r, "oom_kill", level->n_oom_kill);
    record_u64(r, "oom_group_kill", level->n_oom_group_kill);
    record_close(r);
}

static void write_request(const struct oom_cause *cause, struct record *r)
{
    if (cause->has_request) {
        record_strf(r, "gfp_mask", "0x%x", cause->gfp_mask);
        record_str(r, "gfp_flags", cause->gfp_flags, sizeof(cause->gfp_flags));
        record_i64(r, "order", cause->order);
    }
}

static void write_victim(const struct oom_wire *w, const struct oom_cause *cause,
                         const struct paths *paths, struct record *r)
{
    if (w->has_memory) {
        record_u64(r, "victim_rss_bytes", page_bytes(w->anon + w->file + w->shmem));
        record_u64(r, "victim_anon_bytes", page_bytes(w->anon));
        record_u64(r, "victim_file_bytes", page_bytes(w->file));
        record_u64(r, "victim_shmem_bytes", page_bytes(w->shmem));
        record_u64(r, "victim_swap_bytes", page_bytes(w->swap));
        record_u64(r, "victim_page_table_bytes", w->page_table_bytes);
        record_u64(r, "victim_total_vm_bytes", page_bytes(w->total_vm));
        record_bool(r, "victim_rss_exact", w->exact);
    }
    record_i64(r, "victim_oom_score_adj", w->oom_score_adj);
    if (cause->has_points) {
        record_i64(r, "victim_badness_pages", cause->points);
        record_u64(r, "badness_total_pages", cause->total_pages);
    }
    record_u64(r, "victim_tid", w->victim_tid);
    record_u64(r, "victim_uid", w->victim_uid);
    record_str(r, "victim_cgroup", paths->victim, sizeof(paths->victim));
    record_u64(r, "trigger_tid", w->head.tid);
    record_u64(r, "trigger_uid", w->head.uid);
    record_str(r, "trigger_cgroup", paths->trigger, sizeof(paths->trigger));
    if (cause->group >= 0)
        record_str(r, "oom_group", paths->group, sizeof(paths->group));
}

#define SIZE_TEXT_MAX 32

static void size_text(uint64_t bytes, char ret[SIZE_TEXT_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;

    for (; value >= 1024 && unit + 1 < ARRAY_SIZE(units); unit++)
        value /= 1024;
    snprintf(ret, SIZE_TEXT_MAX, "%.*f %s", unit ? 1 : 0, value, units[unit]);
}

static void why_text(const struct oom_wire *w, const struct oom_cause *cause,
                     const struct paths *paths, char *ret, size_t size)
{
    const struct oom_level *level = cause->level >= 0 ? &w->levels[cause->level] : NULL;
    char limit[SIZE_TEXT_MAX], usage[SIZE_TEXT_MAX];

    if (level) {
        size_text(page_bytes(cause->of_swap ? level->swap_max : level->max), limit);
        size_text(page_bytes(cause->of_swap ? level->swap_usage : level->usage), usage);
        snprintf(ret, size, "the cgroup %s has reached its %s limit of %s (usage %s)", paths->limit,
                 cause->of_swap ? "memory and swap" : "memory", limit, usage);
    } else if (strcmp(cause->constraint, "memcg") == 0) {
        snprintf(ret, size, "a memory cgroup has reached its limit");
    } else if (strcmp(cause->constraint, "cpuset") == 0) {
        snprintf(ret, size, "the memory nodes of its cpuset are full");
    } else if (strcmp(cause->constraint, "mempolicy") == 0) {
        snprintf(ret, size, "the memory nodes of its memory policy are full");
    } else {
        snprintf(ret, size, "the host has run out of memory");
    }
}

static void write_summary(const struct oom_wire *w, const struct oom_cause *cause,
                          const struct paths *paths, struct record *r)
{
    char rss[SIZE_TEXT_MAX], size[64] = "", why[CGROUP_PATH_MAX + 128], trigger[64];

    size_text(page_bytes(w->anon + w->file + w->shmem), rss);
    if (w->has_memory)
        snprintf(size, sizeof(size), " (%s resident, oom_score_adj %d)", rss, w->oom_score_adj);
    why_text(w, cause, paths, why, sizeof(why));
    if (w->head.pid == w->victim_pid)
        snprintf(trigger, sizeof(trigger), "itself");
    else
        snprintf(trigger, sizeof(trigger), "%.16s[%u]", w->trigger_name, w->head.pid);
    record_summary(
        r, "%.16s[%u]%s was killed%s because %s; triggered by %s", w->victim_name, w->victim_pid,
        size, cause->group >= 0 ? " together with its group (memory.oom.group)" : "", why, trigger);
}

static int oom_decode(const struct decode *d, const void *raw, struct record *r)
{
    const struct oom_wire *w = raw;
    size_t n_stack = w->head.stack_bytes > 0 ? (size_t)w->head.stack_bytes / 8 : 0;
    _free_ struct paths *paths = calloc(1, sizeof(*paths));
    struct record_process victim = {
        .pid = w->victim_pid,
        .tid = w->victim_tid,
        .ppid = w->victim_ppid,
        .uid = w->victim_uid,
        .start_boot_ns = w->victim_start_ns,
    };
    _free_ char *stack = NULL;
    struct oom_cause cause;
    int e;

    if (!paths)
        return -ENOMEM;
    if (n_stack > WIRE_STACK_MAX || w->n_levels > OOM_LEVELS_MAX || w->cmdline_bytes < 0 ||
        w->cmdline_bytes > OOM_CMDLINE_MAX)
        return -EBADMSG;
    oom_find_cause(d->kernel, w, &cause);
    e = find_paths(w, &cause, paths);
    if (e < 0)
        return e;
    stack = symbols_stack_text(d->kernel->symbols, (const uint64_t *)w->head.stack, n_stack);
    if (!stack)
        return -ENOMEM;

    write_parties(d, w, paths, r);
    write_limit(w, &cause, paths, r);
    write_request(&cause, r);
    write_victim(w, &cause, paths, r);
    record_u64(r, "cpu", w->head.cpu);
    record_stack(r, "stack", stack);

    write_summary(w, &cause, paths, r);
    memcpy(victim.comm, w->victim_comm, sizeof(victim.comm));
    record_process(r, &victim);
    record_cgroup(r, paths->victim);
    if (w->cmdline_bytes)
        record_process_fill(r, NULL, w->cmdline, (size_t)w->cmdline_bytes, NULL);
    if (d->note)
        oom_note(w, &cause, d->note);
    return 0;
}

/* --- provoking */

#define PROVOKE_LIMIT "16777216"
#define PROVOKE_BYTES (64 * 1024 * 1024) /* of which the limit lets in a quarter */

static _Noreturn void hog(const char *folder)
{
    char *memory;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "huatuo-try-oom");
    if (cgroup_enter(folder) < 0)
        _exit(1);
    memory = mmap(NULL, PROVOKE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t at = 0; memory != MAP_FAILED && at < PROVOKE_BYTES; at += 4096)
        memory[at] = 1;
    _exit(2);
}

/** A child that wants four times what its own memory cgroup allows. */
static int oom_provoke(struct provoked *ret)
{
    int status = 0, r;

    *ret = (struct provoked){.field = "victim_pid"};
    r = cgroup_run_limited(PROVOKE_LIMIT, hog, &ret->value, &status);
    if (r < 0)
        return r;
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : -ECHILD;
}

const struct event event_oom = {
    .name = "oom",
    .tracer_name = "oom",
    .is_case = true,
    .summary = "The kernel runs out of memory and kills a process.",
    .options = oom_option_table,
    .options_size = sizeof(struct oom_options),
    .object = oom_bpf__elf_bytes,
    .hooks = hooks,
    .wire_size = sizeof(struct oom_wire),
    .settings_size = sizeof(struct oom_settings),
    .configure = oom_configure,
    .rule_name = oom_rule_name,
    .decode = oom_decode,
    .collect = oom_collect,
    .provoke = oom_provoke,
};
