// SPDX-License-Identifier: Apache-2.0

#include "events/softlockup/softlockup.h"

#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>

#include "core/event.h"
#include "kernel/cpus.h"
#include "kernel/kernel.h"
#include "softlockup.skel.h"

/* For how long the end of a lockup is looked for: it is seen to the length of a period. */
#define END_PERIOD_NS (100 * NS_PER_MS)
#define END_LOOKS     6000 /* ten minutes */

struct softlockup_options {
    struct event_options common;
    bool cpu_stacks;
    uint64_t min_duration; /* ns */
};

/* The watchdog reports a lockup anew every 2 × kernel.watchdog_thresh, which is at most 60 s, plus
 * the time between its looks: that has to fit into the window. */
static const struct option softlockup_option_table[] = {
    EVENT_OPTIONS_REPEAT(struct softlockup_options, "256KiB", "1024", "1", "3m"),
    {
        .key = "cpu_stacks",
        .type = OPTION_BOOL,
        .offset = offsetof(struct softlockup_options, cpu_stacks),
        .fallback = "true",
        .help = "Take the kernel stacks of all CPUs when one is locked up.",
    },
    {
        .key = "min_duration",
        .type = OPTION_DURATION,
        .offset = offsetof(struct softlockup_options, min_duration),
        .fallback = "0",
        .max = 24 * 3600 * NS_PER_SEC,
        .help = "Reports of shorter lockups are filtered. When the kernel reports one is set by "
                "its own kernel.watchdog_thresh.",
    },
    {},
};

enum softlockup_hook { HOOK_REPORT, HOOK_CPUS, HOOK_END };

static const struct hook hooks[] = {
    [HOOK_REPORT] =
        {
            .name = "report",
            .watches = "CPUs that the kernel's watchdog finds locked up",
            .ways =
                {
                    {.name = "tp_btf/console",
                     .programs = (const char *const[]){"typed_console", NULL}},
                    {.name = "raw_tp/console",
                     .programs = (const char *const[]){"raw_console", NULL}},
                    {.name = "fentry/add_taint",
                     .programs =
                         (const char *const[]){"fentry_add_taint", "raw_console_seconds", NULL}},
                    {.name = "kprobe/add_taint",
                     .programs =
                         (const char *const[]){"kprobe_add_taint", "raw_console_seconds", NULL}},
                },
        },
    [HOOK_CPUS] =
        {
            .name = "cpus",
            .watches = "what all CPUs are doing when one is locked up",
            .optional = true,
            .perf =
                &(const struct hook_perf){
                    .config = PERF_COUNT_SW_CPU_CLOCK,
                    .period = NS_PER_MS,
                },
            .ways =
                {
                    {.name = "perf_event/cpus",
                     .programs = (const char *const[]){"sample_cpu", NULL}},
                },
        },
    [HOOK_END] =
        {
            .name = "end",
            .watches = "when a lockup is over",
            .optional = true,
            .perf =
                &(const struct hook_perf){
                    .config = PERF_COUNT_SW_CPU_CLOCK,
                    .period = END_PERIOD_NS,
                },
            .ways =
                {
                    {.name = "perf_event/end",
                     .programs = (const char *const[]){"look_for_end", NULL}},
                },
        },
    {},
};

static const char *softlockup_rule_name(const void *options, unsigned index)
{
    static const char *const names[SOFTLOCKUP_RULE_NR] = {"", "not_watchdog", "min_duration"};
    const struct softlockup_options *o = options;

    if (index == SOFTLOCKUP_RULE_SHORT && !o->min_duration)
        return "";
    return index < SOFTLOCKUP_RULE_NR ? names[index] : NULL;
}

static int softlockup_configure(const struct decode *d, void *settings, char *error,
                                size_t error_size)
{
    const struct softlockup_options *o = d->options;
    struct softlockup_settings *s = settings;
    struct symbol found[SOFTLOCKUP_PIECES_MAX];
    size_t n = d->kernel->symbols ? symbols_by_name(d->kernel->symbols, "watchdog_timer_fn", found,
                                                    ARRAY_SIZE(found))
                                  : 0;

    s->min_ns = o->min_duration;
    /* The first one last: where it is 0, nothing can be compared. */
    for (size_t i = ARRAY_SIZE(found); i-- > 0;) {
        s->watchdog[i].start = i < n ? found[i].start : 0;
        s->watchdog[i].size = i < n ? found[i].size : 0;
    }
    if (n > 0)
        return 0;
    snprintf(error, error_size,
             "where the kernel's watchdog_timer_fn() lies is not known, so a line about a soft "
             "lockup that somebody else writes into the kernel's log cannot be told from a real "
             "one; records have \"verified\": false");
    return -ENODATA;
}

/* --- decode */

/** For collect(), which has no options. */
struct note {
    bool cpu_stacks;
};
static_assert(sizeof(struct note) <= EVENT_NOTE_BYTES, "the note is too large");

static bool is_sane(const struct softlockup_wire *w)
{
    return w->head.stack_bytes <= (int)sizeof(w->head.stack) && w->seconds <= SAID_SECONDS_MAX &&
           w->verified <= 1 && w->head.cpu < SAID_CPUS_MAX;
}

static size_t n_frames(const struct softlockup_wire *w)
{
    return w->head.stack_bytes > 0 ? (size_t)w->head.stack_bytes / sizeof(w->head.stack[0]) : 0;
}

static bool is_in_softirq(const struct decode *d, const struct softlockup_wire *w)
{
    static const char *const names[] = {"__do_softirq",
                                        "handle_softirqs"}; /* before and since 6.10 */

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (symbols_stack_has(d->kernel->symbols, (const uint64_t *)w->head.stack, n_frames(w),
                              names[i]))
            return true;
    return false;
}

/** What the kernel has written, without the time that older ones put before it. */
static void write_message(const struct softlockup_wire *w, struct record *r)
{
    struct said said;
    size_t len = 0;

    if (!said_parse(w->text, &said))
        return;
    while (said.begin + len < sizeof(w->text) && w->text[said.begin + len] != '\n')
        len++;
    record_str(r, "message", w->text + said.begin, len);
}

static void write_summary(const struct softlockup_wire *w, const char *stack, bool softirq,
                          struct record *r)
{
    char how_long[32] = "", where[96] = "";
    size_t len = strcspn(stack, "/\n");

    if (w->seconds)
        snprintf(how_long, sizeof(how_long), " for %u s",
                 (unsigned)(((uint64_t)w->seconds << 30) / NS_PER_SEC));
    if (len > 0)
        snprintf(where, sizeof(where), " in %.*s", (int)MIN(len, (size_t)80), stack);
    record_summary(r, "CPU %u has been locked up%s%s%s %.16s[%u]: it schedules nothing else",
                   w->head.cpu, how_long, where, softirq ? ", in a softirq that interrupts" : " by",
                   w->head.comm, w->head.pid);
}

static int softlockup_decode(const struct decode *d, const void *raw, struct record *r)
{
    const struct softlockup_options *o = d->options;
    const struct softlockup_wire *w = raw;
    _free_ char *text = NULL;
    const char *stack;
    bool softirq;

    if (!is_sane(w))
        return -EBADMSG;
    text = symbols_stack_text(d->kernel->symbols, (const uint64_t *)w->head.stack, n_frames(w));
    if (!text)
        return -ENOMEM;
    stack = symbols_text_interrupted(text);
    softirq = is_in_softirq(d, w);

    record_u64(r, "cpu", w->head.cpu);
    record_u64(r, "pid", w->head.pid);
    record_str(r, "comm", w->head.comm, sizeof(w->head.comm));
    record_u64(r, "tid", w->head.tid);
    record_str(r, "context", softirq ? "softirq" : "task", SIZE_MAX);
    record_stack(r, "stack", stack);
    if (w->seconds)
        record_u64(r, "duration_ms", ((uint64_t)w->seconds << 30) / NS_PER_MS);
    write_message(w, r);
    record_bool(r, "verified", w->verified);

    write_summary(w, stack, softirq, r);
    record_task(r, &w->head);
    if (d->note) {
        const struct note note = {.cpu_stacks = o->cpu_stacks};

        memcpy(d->note, &note, sizeof(note));
    }
    return 0;
}

/* --- what is read right after */

static int softlockup_collect(const struct collect *c, const void *raw, struct record *r)
{
    const struct softlockup_wire *w = raw;
    _free_ char *text = NULL;
    struct cpus_known known = {.cpu = w->head.cpu, .pid = w->head.pid, .comm = w->head.comm};
    struct note note;

    memcpy(&note, c->note, sizeof(note));
    /* It takes interrupts: one has just found it. Without its end a lockup is as long as the last
     * report says. */
    c->run(c, HOOK_END, w->head.cpu, END_LOOKS);
    if (!note.cpu_stacks)
        return 0;
    text = symbols_stack_text(c->symbols, (const uint64_t *)w->head.stack, n_frames(w));
    if (!text)
        return -ENOMEM;
    known.stack = symbols_text_interrupted(text);
    return cpus_record(c, HOOK_CPUS, &known, r);
}

const struct event event_softlockup = {
    .name = "softlockup",
    .tracer_name = "softlockup",
    .summary = "A CPU is stuck in the kernel and schedules nothing.",
    .options = softlockup_option_table,
    .options_size = sizeof(struct softlockup_options),
    .object = softlockup_bpf__elf_bytes,
    .hooks = hooks,
    .wire_size = sizeof(struct softlockup_wire),
    .sample_size = sizeof(struct wire_sample),
    .episodes = true,
    .settings_size = sizeof(struct softlockup_settings),
    .configure = softlockup_configure,
    .rule_name = softlockup_rule_name,
    .decode = softlockup_decode,
    .collect = softlockup_collect,
    /* Nothing provokes one harmlessly: it holds a CPU for more than twice watchdog_thresh. */
};
