// SPDX-License-Identifier: Apache-2.0

#include "events/softirq/softirq.h"

#include <bpf/btf.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/event.h"
#include "core/text.h"
#include "events/softirq/cpu_list.h"
#include "events/softirq/layout.h"
#include "events/softirq/stack.h"
#include "kernel/kernel.h"
#include "softirq.skel.h"

#define PERCPU_WAY "percpu/softirq_pending"

struct softirq_options {
    struct event_options common;
    uint64_t threshold; /* ns */
    uint64_t ongoing;   /* ns */
};

static const struct option option_table[] = {
    EVENT_OPTIONS(struct softirq_options, "256KiB", "4096"),
    {
        .key = "threshold",
        .type = OPTION_DURATION,
        .offset = offsetof(struct softirq_options, threshold),
        .fallback = "100ms",
        .min = 10 * NS_PER_MS,
        .max = 3600 * NS_PER_SEC,
        .help = "How long interrupts may be off, or a raised softirq may wait, before it is an "
                "event. On virtual machines without a steal clock, more than the hypervisor takes "
                "at a time.",
    },
    {
        .key = "ongoing",
        .type = OPTION_DURATION,
        .offset = offsetof(struct softirq_options, ongoing),
        .fallback = "2s",
        .min = 10 * NS_PER_MS,
        .max = 3600 * NS_PER_SEC,
        .help = "A softirq that still waits after this time is recorded then, and not when it "
                "runs at last.",
    },
    {},
};

static const char *check_layout(const struct btf *kernel)
{
    struct softirq_layout layout;

    return layout_read(kernel, &layout) == 0
               ? NULL
               : "this kernel's BTF does not tell where its per-CPU variables lie";
}

/** As long as an object is loaded it stays as it is. */
static void read_layout(const struct softirq_options *o, struct softirq_layout *live)
{
    struct softirq_layout layout;
    struct btf *btf;

    if (live->known || string_list_has(&o->common.hooks_off, PERCPU_WAY))
        return;
    btf = btf__load_vmlinux_btf();
    if (btf && layout_read(btf, &layout) == 0)
        *live = layout;
    btf__free(btf);
}

static const struct hook hooks[] = {
    {
        .name = "tick",
        .watches = "CPUs on which interrupts are off for too long",
        .ways =
            {
                {.name = "tp_btf/local_timer_exit",
                 .programs = (const char *const[]){"typed_local_timer_exit", "typed_cpu_idle",
                                                   "typed_cpuhp_enter", NULL}},
                {.name = "tp_btf/hrtimer_expire_exit",
                 .programs = (const char *const[]){"typed_hrtimer_expire_exit", "typed_cpu_idle",
                                                   "typed_cpuhp_enter", NULL}},
            },
    },
    {
        .name = "softirq",
        .watches = "softirqs that are raised and do not run",
        .optional = true,
        .ways =
            {
                {.name = PERCPU_WAY,
                 .programs = (const char *const[]){NULL}, /* those of the tick */
                 .check = check_layout},
                {.name = "tp_btf/softirq_raise",
                 .programs =
                     (const char *const[]){"typed_softirq_raise", "typed_softirq_entry", NULL}},
            },
    },
    {},
};

static const char *const measures[] = {
    [SOFTIRQ_TICKS] = "ticks",
    [SOFTIRQ_TICKS_LATE] = "ticks_late",
    NULL,
};

static const char *softirq_rule_name(const void *options, unsigned index)
{
    static const char *const names[SOFTIRQ_RULE_NR] = {"", "stood_still"};

    (void)options;
    return index < SOFTIRQ_RULE_NR ? names[index] : NULL;
}

static int softirq_configure(const struct decode *d, void *settings, char *error, size_t error_size)
{
    const struct softirq_options *o = d->options;
    struct softirq_settings *s = settings;
    uint64_t tickless[SOFTIRQ_CPUS_MAX / 64];
    struct timespec tick = {.tv_nsec = 10 * (long)NS_PER_MS};

    (void)error;
    (void)error_size;
    /* The resolution of the clocks that only ticks set: kernel/time/posix-timers.c,
     * posix_get_coarse_res(). It cannot fail. */
    clock_getres(CLOCK_MONOTONIC_COARSE, &tick);
    cpu_list_read("/sys/devices/system/cpu/nohz_full", tickless, SOFTIRQ_CPUS_MAX);
    memcpy(s->tickless, tickless, sizeof(s->tickless)); /* at once: the programs are reading */
    read_layout(o, &s->layout);
    s->threshold_ns = o->threshold;
    s->ongoing_ns = o->ongoing;
    s->tick_ns = (uint64_t)tick.tv_sec * NS_PER_SEC + (uint64_t)tick.tv_nsec;
    return 0;
}

/* --- decode */

/* /proc/softirqs; include/linux/interrupt.h */
static const char *const vector_names[SOFTIRQ_VECTORS] = {
    "HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU",
};

static const char *const what_names[SOFTIRQ_WHAT_NR] = {"irq_off", "softirq_late"};
static const char *const others_names[SOFTIRQ_OTHERS_NR] = {"none", "silent", "alive"};
static const char *const interrupted_names[] = {
    [STACK_UNKNOWN] = "unknown",
    [STACK_USER] = "user",
    [STACK_KERNEL] = "kernel",
    [STACK_HANDLER] = "handler",
};

#define VECTORS_TEXT_MAX 128

static void vectors_text(uint32_t vectors, char ret[VECTORS_TEXT_MAX])
{
    size_t len = 0;

    *ret = '\0';
    for (unsigned v = 0; v < SOFTIRQ_VECTORS; v++)
        if (vectors >> v & 1)
            len += (size_t)snprintf(ret + len, VECTORS_TEXT_MAX - len, "%s%s", len ? "," : "",
                                    vector_names[v]);
}

/** Where it was, in words: "in A, called from B". */
static void where_text(const struct stack_place *place, char *ret, size_t size)
{
    if (place->ran == STACK_USER)
        snprintf(ret, size, "in user mode");
    else if (*place->function && *place->caller)
        snprintf(ret, size, "in %s, called from %s", place->function, place->caller);
    else if (*place->function)
        snprintf(ret, size, "in %s", place->function);
    else
        snprintf(ret, size, "in the kernel");
}

static double ms(uint64_t ns)
{
    return (double)ns / (double)NS_PER_MS;
}

static void write_irq_off_summary(const struct softirq_wire *w, enum stack_ran ran,
                                  const char *where, struct record *r)
{
    static const char *const doubts[SOFTIRQ_OTHERS_NR] = {
        [SOFTIRQ_OTHERS_NONE] = "; it is the only CPU, so this may have been the whole machine",
        [SOFTIRQ_OTHERS_SILENT] =
            "; the other CPUs gave no sign either, so this may have been the whole machine",
        [SOFTIRQ_OTHERS_ALIVE] = "",
    };

    record_summary(r,
                   "CPU %u could not be interrupted for %.1f ms or more; when it could be again, "
                   "%.16s[%u] was %s%s%s",
                   w->head.cpu, ms(w->off_ns), w->head.comm, w->head.pid, where,
                   ran == STACK_USER ? ", back from an interrupt or a system call" : "",
                   doubts[w->others]);
}

/** Why a softirq did not run. */
enum cause { CAUSE_UNKNOWN, CAUSE_HANDLER, CAUSE_BH_DISABLED, CAUSE_KSOFTIRQD };

static const char *const cause_names[] = {"unknown", "handler", "bh_disabled", "ksoftirqd"};

static enum cause find_cause(const struct softirq_wire *w, enum stack_ran ran)
{
    if (w->bh == SOFTIRQ_BH_SERVING || ran == STACK_HANDLER)
        return CAUSE_HANDLER;
    if (w->bh == SOFTIRQ_BH_DISABLED)
        return CAUSE_BH_DISABLED;
    /* They are not disabled in user mode, so whoever was to run them did not come to it. */
    if (w->bh == SOFTIRQ_BH_ENABLED || ran == STACK_USER)
        return CAUSE_KSOFTIRQD;
    return CAUSE_UNKNOWN;
}

static void write_late_summary(const struct softirq_wire *w, const struct stack_place *place,
                               enum cause cause, const char *where, struct record *r)
{
    static const char *const reasons[] = {
        [CAUSE_UNKNOWN] = ", with bottom halves disabled or ksoftirqd kept from running",
        [CAUSE_HANDLER] = "",
        [CAUSE_BH_DISABLED] = ", with bottom halves disabled",
        [CAUSE_KSOFTIRQD] = ", and ksoftirqd did not get the CPU",
    };
    char handler[128] = "";

    if (cause == CAUSE_HANDLER)
        snprintf(handler, sizeof(handler), "the softirq handler %.64s ran on top of ",
                 *place->handler ? place->handler : "(unknown)");
    record_summary(r,
                   "softirq %s on CPU %u was raised and did not run for %.1f ms or more%s; "
                   "meanwhile %s%.16s[%u]%s%s%s",
                   vector_names[w->vector], w->head.cpu, ms(w->off_ns),
                   w->ongoing ? ", and still does not" : "", handler, w->head.comm, w->head.pid,
                   *handler ? ", " : " was ", where, reasons[cause]);
}

static bool makes_sense(const struct softirq_wire *w)
{
    return w->what < SOFTIRQ_WHAT_NR && w->others < SOFTIRQ_OTHERS_NR &&
           w->vector < SOFTIRQ_VECTORS && w->vectors >> SOFTIRQ_VECTORS == 0 &&
           w->bh < SOFTIRQ_BH_NR && w->head.stack_bytes <= (int)sizeof(w->head.stack);
}

static int softirq_decode(const struct decode *d, const void *raw, struct record *r)
{
    const struct softirq_wire *w = raw;
    const uint64_t *frames = (const uint64_t *)w->head.stack;
    size_t n = w->head.stack_bytes > 0 ? (size_t)w->head.stack_bytes / 8 : 0;
    char vectors[VECTORS_TEXT_MAX], where[320];
    _cleanup_(text_done) struct text headed = {};
    _free_ char *stack = NULL;
    struct stack_place place;
    enum cause cause;

    if (!makes_sense(w))
        return -EBADMSG;
    stack = symbols_stack_text(d->kernel->symbols, frames, n);
    text_addf(&headed, "stack:\n%s", stack ? stack : "");
    if (!stack || headed.failed)
        return -ENOMEM;
    stack_find_place(stack, &place);
    where_text(&place, where, sizeof(where));
    cause = find_cause(w, place.ran);
    vectors_text(w->vectors, vectors);

    record_u64(r, "offtime", w->off_ns);
    record_u64(r, "threshold", w->threshold_ns);
    record_str(r, "comm", w->head.comm, sizeof(w->head.comm));
    record_u64(r, "pid", w->head.pid);
    record_u64(r, "cpu", w->head.cpu);
    record_u64(r, "now", w->end_ns);

    record_str(r, "what", what_names[w->what], SIZE_MAX);
    record_u64(r, "begin", w->begin_ns);
    record_u64(r, "steal_ns", w->steal_ns);
    record_bool(r, "steal_known", w->steal_known != 0);
    if (w->what == SOFTIRQ_LATE) {
        record_str(r, "vector", vector_names[w->vector], SIZE_MAX);
        record_str(r, "vectors", vectors, SIZE_MAX);
        record_u64(r, "irq_off_ns", w->irq_off_ns);
        record_bool(r, "ongoing", w->ongoing != 0);
        record_str(r, "cause", cause_names[cause], SIZE_MAX);
        write_late_summary(w, &place, cause, where, r);
    } else {
        record_str(r, "other_cpus", others_names[w->others], SIZE_MAX);
        write_irq_off_summary(w, place.ran, where, r);
    }
    record_str(r, "interrupted", interrupted_names[place.ran], SIZE_MAX);
    if (*place.handler)
        record_str(r, "handler", place.handler, sizeof(place.handler));
    record_str(r, "place", place.function, sizeof(place.function));
    record_u64(r, "tid", w->head.tid);
    record_stack(r, "stack", headed.data);

    /* Handlers run on top of whatever task is current. */
    if (place.ran != STACK_HANDLER && (w->what == SOFTIRQ_IRQ_OFF || cause != CAUSE_HANDLER))
        record_task(r, &w->head);
    return 0;
}

const struct event event_softirq = {
    .name = "softirq",
    .tracer_name = "softirq",
    .summary = "Interrupts are off, or softirqs do not run, for too long.",
    .options = option_table,
    .options_size = sizeof(struct softirq_options),
    .object = softirq_bpf__elf_bytes,
    .hooks = hooks,
    .wire_size = sizeof(struct softirq_wire),
    .episodes = true,
    .settings_size = sizeof(struct softirq_settings),
    .configure = softirq_configure,
    .rule_name = softirq_rule_name,
    .measures = measures,
    .decode = softirq_decode,
    /* No provoke(): who holds a CPU for longer than the threshold holds up all that is to run
     * there, the packets of others too. */
};
