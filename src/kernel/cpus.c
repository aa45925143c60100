// SPDX-License-Identifier: Apache-2.0

#include "kernel/cpus.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/text.h"
#include "core/tree.h"
#include "kernel/symbols.h"

#define STAT_BYTES_MAX (4 * 1024 * 1024) /* some 100 bytes a CPU, and counts of interrupts */
#define TEXT_BYTES_MAX (128 * 1024)      /* a record holds 1 MiB, and this is not all of it */
#define POLL_NS        (5 * NS_PER_MS)
#define ALIVE_BOUND_NS (300 * NS_PER_MS) /* in which a CPU has to take an interrupt */
#define ANSWER_NS      (150 * NS_PER_MS) /* in which its sample has to come, once it was asked */

enum cpu_state {
    CPU_ABSENT, /* not online */
    CPU_SILENT, /* nothing has changed since we look: it takes no interrupts */
    CPU_ASKED,
    CPU_SAMPLED,
    CPU_KNOWN,
    CPU_REFUSED, /* could not be asked */
};

struct cpu {
    enum cpu_state state;
    uint64_t spent; /* sum of what /proc/stat says */
    int error;      /* of CPU_REFUSED */
    struct wire_sample sample;
};

struct look {
    const struct collect *collect;
    const struct cpus_known *known;
    unsigned hook;
    uint64_t began_ns; /* CLOCK_BOOTTIME: samples before are of an earlier event */
    unsigned n;
    struct cpu *cpus; /* owned */
};

static void nap(uint64_t ns)
{
    const struct timespec t = {.tv_nsec = (long)ns};

    nanosleep(&t, NULL);
}

/* --- who is alive */

/** Adds up the numbers of a line `cpu7 1 2 3 ...`; returns where it ends. */
static const char *add_up(const char *s, uint64_t *ret)
{
    uint64_t sum = 0;
    char *end;

    while (*s == ' ') {
        sum += strtoull(s, &end, 10);
        if (end == s)
            break;
        s = end;
    }
    *ret = sum;
    return s;
}

/**
 * The times of a CPU change when it takes a tick; of an idle one, which takes none, the kernel
 * computes them when they are read (fs/proc/stat.c, get_idle_time()). Only CPUs that are online
 * have a line.
 */
static int read_times(struct look *l, bool first)
{
    _free_ char *text = NULL;
    struct tree tree;
    int r = tree_open(l->collect->root_prefix, &tree);

    if (r < 0)
        return r;
    r = tree_read(&tree, "/proc/stat", STAT_BYTES_MAX, &text, NULL);
    tree_close(&tree);
    if (r < 0)
        return r;
    for (const char *s = text; s && *s; s = strchr(s, '\n') ? strchr(s, '\n') + 1 : NULL) {
        unsigned long number;
        struct cpu *cpu;
        uint64_t spent;
        char *end;

        if (strncmp(s, "cpu", 3) != 0 || !isdigit((unsigned char)s[3]))
            continue;
        number = strtoul(s + 3, &end, 10);
        if (number >= l->n)
            continue;
        add_up(end, &spent);
        cpu = &l->cpus[number];
        if (first) {
            cpu->state = CPU_SILENT;
            cpu->spent = spent;
        } else if (cpu->state == CPU_SILENT && spent != cpu->spent) {
            r = l->collect->run(l->collect, l->hook, (unsigned)number, 1);
            cpu->state = r < 0 ? CPU_REFUSED : CPU_ASKED;
            cpu->error = r;
        }
    }
    return 0;
}

/* --- what they say */

static void take_sample(struct look *l, unsigned number)
{
    const volatile struct wire_sample *all = l->collect->samples;
    struct cpu *cpu = &l->cpus[number];
    uint64_t time_ns;

    if (!all || number >= l->collect->n_cpus)
        return;
    time_ns = all[number].time_ns;
    if (time_ns < l->began_ns)
        return;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    memcpy(&cpu->sample, (const void *)&all[number], sizeof(cpu->sample));
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (all[number].time_ns == time_ns) /* nobody has asked it again meanwhile */
        cpu->state = CPU_SAMPLED;
}

static unsigned count(const struct look *l, enum cpu_state state)
{
    unsigned n = 0;

    for (unsigned i = 0; i < l->n; i++)
        n += l->cpus[i].state == state;
    return n;
}

static int look_at_all(struct look *l)
{
    uint64_t now = clock_now_ns(CLOCK_MONOTONIC), until = now + ALIVE_BOUND_NS;
    int r = read_times(l, true);

    if (l->known && l->known->cpu < l->n)
        l->cpus[l->known->cpu].state = CPU_KNOWN;
    while (r == 0 && (count(l, CPU_SILENT) || count(l, CPU_ASKED)) && now < until) {
        unsigned silent = count(l, CPU_SILENT);

        nap(POLL_NS);
        now = clock_now_ns(CLOCK_MONOTONIC);
        if (silent)
            r = read_times(l, false);
        if (count(l, CPU_SILENT) != silent)
            until = MAX(until, clock_now_ns(CLOCK_MONOTONIC) + ANSWER_NS);
        for (unsigned i = 0; i < l->n; i++)
            if (l->cpus[i].state == CPU_ASKED)
                take_sample(l, i);
    }
    return r;
}

/* --- the text */

/** A name that a process gives itself must not look like another line. */
static void add_title(struct text *t, unsigned cpu, const char comm[WIRE_COMM_LEN], uint32_t pid,
                      const char *what)
{
    text_addf(t, "%sCPU %u: ", t->len ? "\n\n" : "", cpu);
    text_add_printable(t, comm, WIRE_COMM_LEN);
    text_addf(t, "[%u]%s", pid, what);
}

static int add_frames(struct text *t, struct symbols *symbols, const uint64_t *stack, int32_t bytes)
{
    size_t n = bytes > 0 ? MIN((size_t)bytes / 8, (size_t)WIRE_STACK_MAX) : 0;
    _free_ char *frames = n ? symbols_stack_text(symbols, stack, n) : NULL;

    if (n && !frames)
        return -ENOMEM;
    if (frames && *frames)
        text_addf(t, "\n%s", frames);
    return 0;
}

static int add_cpu(struct text *t, const struct look *l, unsigned number)
{
    const struct cpu *cpu = &l->cpus[number];
    struct symbols *symbols = l->collect->symbols;
    const struct wire_sample *s = &cpu->sample;

    if (cpu->state == CPU_KNOWN) {
        add_title(t, number, l->known->comm, l->known->pid, "");
        text_addf(t, "\n%s", l->known->stack);
        return 0;
    }
    if (cpu->state != CPU_SAMPLED)
        return 0;
    add_title(t, number, s->comm, s->pid,
              s->stack_bytes == 0  ? " in user mode"
              : s->stack_bytes < 0 ? " (its stack could not be taken)"
                                   : "");
    return add_frames(t, symbols, (const uint64_t *)s->stack, s->stack_bytes);
}

static const char *why_missing(const struct cpu *cpu)
{
    switch (cpu->state) {
    case CPU_SILENT:
        return "it takes no interrupts";
    case CPU_ASKED:
        return "it did not answer in time";
    case CPU_REFUSED:
        return cpu->error == -ENOENT ? "nothing can be run on it" : strerror(-cpu->error);
    default:
        return NULL;
    }
}

static void write_missing(const struct look *l, struct record *r)
{
    bool any = false;

    for (unsigned i = 0; i < l->n; i++) {
        const char *why = why_missing(&l->cpus[i]);

        if (!why)
            continue;
        if (!any)
            record_list(r, "cpus_missing");
        any = true;
        record_open(r, NULL);
        record_u64(r, "cpu", i);
        record_str(r, "why", why, SIZE_MAX);
        record_close(r);
    }
    if (any)
        record_close(r);
    /* The only thing that reaches a CPU with interrupts off is an NMI. */
    if (count(l, CPU_SILENT) && l->collect->sysrq(l->collect) == 0)
        record_bool(r, "sysrq", true);
}

int cpus_record(const struct collect *c, unsigned hook, const struct cpus_known *known,
                struct record *r)
{
    long configured = sysconf(_SC_NPROCESSORS_CONF);
    unsigned n = c->n_cpus ? c->n_cpus : configured > 0 ? (unsigned)configured : 1;
    _free_ struct cpu *cpus = calloc(n, sizeof(*cpus));
    struct look l = {
        .collect = c,
        .known = known,
        .hook = hook,
        .began_ns = clock_now_ns(CLOCK_BOOTTIME),
        .n = n,
        .cpus = cpus,
    };
    struct text text = {};
    int e = cpus ? 0 : -ENOMEM;

    if (e == 0)
        e = look_at_all(&l);
    for (unsigned i = 0; e == 0 && i < l.n; i++) {
        if (text.len > TEXT_BYTES_MAX) {
            text_addf(&text, "\n\n(from CPU %u on they are left out)", i);
            break;
        }
        e = add_cpu(&text, &l, i);
    }
    if (e == 0 && text.failed)
        e = -ENOMEM;
    if (e == 0) {
        record_stack(r, "cpus_stack", text.data ? text.data : "");
        write_missing(&l, r);
    }
    text_done(&text);
    return e;
}
