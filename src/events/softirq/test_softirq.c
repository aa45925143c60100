// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <bpf/btf.h>
#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "core/doc.h"
#include "core/event.h"
#include "events/softirq/cpu_list.h"
#include "events/softirq/layout.h"
#include "events/softirq/softirq.h"
#include "events/softirq/stack.h"
#include "events/softirq/watch.h"
#include "kernel/kernel.h"

/* --- a kernel of our own: functions of 4 KiB one after the other */

#define TEXT_START    UINT64_C(0xffffffff81000000)
#define FUNCTION_SIZE UINT64_C(0x1000)

static const char *const functions[] = {
    "asm_sysvec_apic_timer_interrupt",
    "__sysvec_apic_timer_interrupt",
    "el1h_64_irq",
    "el1h_64_irq_handler",
    "el0t_64_irq",
    "handle_softirqs",
    "__do_softirq",
    "net_rx_action",
    "run_timer_softirq.isra.0",
    "copy_page",
    "vfs_write",
    "entry_SYSCALL_64_after_hwframe",
};
enum function {
    ASM_TIMER,
    TIMER,
    EL1,
    EL1_HANDLER,
    EL0,
    HANDLE,
    DO_SOFTIRQ,
    NET_RX,
    RUN_TIMER,
    COPY,
    WRITE,
    SYSCALL
};

static struct kernel kernel, hidden;

/** A return address into a function. */
static uint64_t in(enum function f)
{
    return TEXT_START + f * FUNCTION_SIZE + 0x20;
}

/** The first instruction of a function, as it can only be interrupted. */
static uint64_t start(enum function f)
{
    return TEXT_START + f * FUNCTION_SIZE;
}

static struct symbols *make_symbols(bool shown)
{
    int fd = memfd_create("kallsyms", MFD_CLOEXEC);
    struct symbols *symbols = NULL;

    assert_true(fd >= 0);
    for (size_t i = 0; i <= ARRAY_SIZE(functions); i++)
        dprintf(fd, "%016llx t %s\n",
                shown ? (unsigned long long)(TEXT_START + i * FUNCTION_SIZE) : 0,
                i < ARRAY_SIZE(functions) ? functions[i] : "_etext");
    assert_int_equal(symbols_new(fd, &symbols), 0);
    return symbols;
}

static int set_up_kernel(void **state)
{
    (void)state;
    kernel.symbols = make_symbols(true);
    hidden.symbols = make_symbols(false);
    return 0;
}

static int tear_down_kernel(void **state)
{
    (void)state;
    symbols_free(kernel.symbols);
    symbols_free(hidden.symbols);
    return 0;
}

/* --- what a stack says */

static struct stack_place place_in(const struct kernel *of, const uint64_t *frames, size_t n)
{
    _free_ char *text = symbols_stack_text(of->symbols, frames, n);
    struct stack_place place;

    assert_non_null(text);
    stack_find_place(text, &place);
    return place;
}

#define PLACE(...)                                                                                 \
    ({                                                                                             \
        const uint64_t frames_[] = {__VA_ARGS__};                                                  \
        place_in(&kernel, frames_, ARRAY_SIZE(frames_));                                           \
    })

static void assert_place(struct stack_place place, enum stack_ran ran, const char *function,
                         const char *caller, const char *handler)
{
    assert_int_equal(place.ran, ran);
    assert_string_equal(place.function, function);
    assert_string_equal(place.caller, caller);
    assert_string_equal(place.handler, handler);
}

static void test_place(void **state)
{
    (void)state;
    assert_place(PLACE(in(TIMER), in(ASM_TIMER)), STACK_USER, "", "", "");
    assert_place(PLACE(in(TIMER), in(ASM_TIMER), in(COPY), in(WRITE), in(SYSCALL)), STACK_KERNEL,
                 "copy_page", "vfs_write", "");
    assert_place(PLACE(in(ASM_TIMER), start(COPY)), STACK_KERNEL, "copy_page", "", "");
    /* a softirq's handler, on top of a process */
    assert_place(PLACE(in(TIMER), in(ASM_TIMER), in(COPY), in(NET_RX), in(HANDLE), in(WRITE)),
                 STACK_HANDLER, "copy_page", "net_rx_action", "net_rx_action");
    assert_place(PLACE(in(ASM_TIMER), in(RUN_TIMER), in(DO_SOFTIRQ)), STACK_HANDLER,
                 "run_timer_softirq", "__do_softirq", "run_timer_softirq");
    /* none has begun: what was before was an interrupt's */
    assert_place(PLACE(in(ASM_TIMER), in(HANDLE), in(WRITE)), STACK_KERNEL, "handle_softirqs",
                 "vfs_write", "");
    /* an interrupt on top of a handler: it is the interrupt that runs */
    assert_place(PLACE(in(ASM_TIMER), in(COPY), in(ASM_TIMER), in(NET_RX), in(HANDLE)),
                 STACK_KERNEL, "copy_page", "asm_sysvec_apic_timer_interrupt", "");
}

static void test_place_of_arm64(void **state)
{
    (void)state;
    assert_place(PLACE(in(EL1_HANDLER), in(EL1), in(COPY)), STACK_KERNEL, "copy_page", "", "");
    assert_place(PLACE(in(EL1_HANDLER), in(EL0)), STACK_USER, "", "", "");
}

static void test_place_unknown(void **state)
{
    const uint64_t frames[] = {in(TIMER), in(ASM_TIMER), in(COPY)};

    (void)state;
    assert_place(place_in(&kernel, frames, 0), STACK_UNKNOWN, "", "", "");
    assert_place(PLACE(in(COPY), in(WRITE)), STACK_UNKNOWN, "", "", "");
    assert_place(PLACE(0, 1, UINT64_MAX), STACK_UNKNOWN, "", "", "");
    assert_place(PLACE(in(ASM_TIMER), UINT64_MAX, 0), STACK_KERNEL, "ffffffffffffffff",
                 "0000000000000000", "");
    assert_place(place_in(&hidden, frames, ARRAY_SIZE(frames)), STACK_UNKNOWN, "", "", "");
}

/* --- lists of CPUs */

static void test_cpus(void **state)
{
    uint64_t bits[2];

    (void)state;
    cpu_list_parse("0-2,5,63-64,127\n", bits, 128);
    assert_int_equal(bits[0], 0x27 | UINT64_C(1) << 63);
    assert_int_equal(bits[1], 1 | UINT64_C(1) << 63);
    cpu_list_parse("126-4000000000", bits, 128);
    assert_int_equal(bits[0], 0);
    assert_int_equal(bits[1], UINT64_C(3) << 62);
    static const char *const nothing[] = {"", "\n", " (null)\n", "x", "-3", "5-2", "999", "128"};

    for (size_t i = 0; i < ARRAY_SIZE(nothing); i++) {
        memset(bits, 0xff, sizeof(bits));
        cpu_list_parse(nothing[i], bits, 128);
        assert_int_equal(bits[0] | bits[1], 0);
    }
    bits[0] = 1;
    cpu_list_read("/nowhere/at/all", bits, 128);
    assert_int_equal(bits[0], 0);
}

/* --- per-CPU variables */

struct variable {
    const char *name;
    int type;
    uint32_t offset, size;
};

static struct btf *make_btf(int *ret_int, int *ret_stat)
{
    struct btf *btf = btf__new_empty();
    int array;

    *ret_int = btf__add_int(btf, "unsigned int", 4, 0);
    array = btf__add_array(btf, *ret_int, *ret_int, SOFTIRQ_VECTORS);
    *ret_stat = btf__add_struct(btf, "kernel_stat", 48);
    assert_int_equal(btf__add_field(btf, "irqs_sum", *ret_int, 0, 0), 0);
    assert_int_equal(btf__add_field(btf, "softirqs", array, 64, 0), 0);
    assert_true(btf__add_struct(btf, "sched_entity", 8) > 0);
    assert_int_equal(btf__add_field(btf, "cfs_rq", *ret_int, 0, 0), 0);
    return btf;
}

/** Of a kernel with CONFIG_FAIR_GROUP_SCHED. */
static void add_queue(struct btf *btf, int type)
{
    assert_true(btf__add_struct(btf, "cfs_rq", 8) > 0);
    assert_int_equal(btf__add_field(btf, "rq", type, 0, 0), 0);
}

static void add_variables(struct btf *btf, const struct variable *variables, size_t n)
{
    int ids[8];

    for (size_t i = 0; i < n; i++)
        ids[i] = btf__add_var(btf, variables[i].name, BTF_VAR_GLOBAL_ALLOCATED, variables[i].type);
    assert_true(btf__add_datasec(btf, ".data..percpu", 8192) > 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(
            btf__add_datasec_var_info(btf, ids[i], variables[i].offset, variables[i].size), 0);
}

/** As in 6.15 and later: each a variable of its own. */
static void test_layout_variables(void **state)
{
    int number, stat;
    struct btf *btf = make_btf(&number, &stat);
    const struct variable variables[] = {
        {"__preempt_count", number, 100, 4},
        {"__softirq_pending", number, 108, 2},
        {"kstat", stat, 4000, 48},
        {"runqueues", number, 5000, 4},
    };
    struct softirq_layout layout;

    (void)state;
    add_variables(btf, variables, ARRAY_SIZE(variables));
    assert_int_equal(layout_read(btf, &layout), -ENOENT); /* not from a task */
    add_queue(btf, number);
    assert_int_equal(layout_read(btf, &layout), 0);
    assert_int_equal(layout.known, 1);
    assert_int_equal(layout.pending, 108 - 5000);
    assert_int_equal(layout.runs, 4000 + 8 - 5000);
    assert_int_equal(layout.preempt_known, 1);
    assert_int_equal(layout.preempt, 100 - 5000);
    btf__free(btf);
}

/** As in 6.2 to 6.14: in an anonymous struct in an anonymous union. */
static void test_layout_hot(void **state)
{
    int number, stat, inner, outer, hot;
    struct btf *btf = make_btf(&number, &stat);
    struct softirq_layout layout;

    (void)state;
    inner = btf__add_struct(btf, NULL, 16);
    btf__add_field(btf, "preempt_count", number, 64, 0);
    btf__add_field(btf, "softirq_pending", number, 96, 0);
    outer = btf__add_union(btf, NULL, 16);
    btf__add_field(btf, NULL, inner, 0, 0);
    hot = btf__add_struct(btf, "pcpu_hot", 64);
    btf__add_field(btf, NULL, outer, 32, 0);
    const struct variable variables[] = {
        {"runqueues", number, 64, 4},
        {"irq_stat", stat, 128, 48}, /* without what it had before */
        {"kstat", stat, 256, 48},
        {"pcpu_hot", hot, 512, 64},
    };

    add_queue(btf, number);
    add_variables(btf, variables, ARRAY_SIZE(variables));
    assert_int_equal(layout_read(btf, &layout), 0);
    assert_int_equal(layout.pending, 512 + 4 + 12 - 64);
    assert_int_equal(layout.preempt, 512 + 4 + 8 - 64);
    btf__free(btf);
}

/** Before, and on other machines: in irq_stat; arm64 has preempt_count elsewhere. */
static void test_layout_irq_stat(void **state)
{
    int number, stat, irq_stat;
    struct btf *btf = make_btf(&number, &stat);
    struct softirq_layout layout;

    (void)state;
    irq_stat = btf__add_struct(btf, "irq_cpustat", 64);
    btf__add_field(btf, "__softirq_pending", number, 32, 0);
    const struct variable variables[] = {
        {"irq_stat", irq_stat, 128, 64},
        {"kstat", stat, 256, 48},
        {"runqueues", number, 512, 4},
    };

    add_queue(btf, number);
    add_variables(btf, variables, ARRAY_SIZE(variables));
    assert_int_equal(layout_read(btf, &layout), 0);
    assert_int_equal(layout.pending, 128 + 4 - 512);
    assert_int_equal(layout.preempt_known, 0);
    btf__free(btf);
}

static void test_layout_unknown(void **state)
{
    int number, stat;
    struct btf *btf = make_btf(&number, &stat);
    const struct variable variables[] = {
        {"__softirq_pending", number, 108, 2},
        {"kstat", number, 4000, 4}, /* no such member */
        {"runqueues", number, 5000, 4},
    };
    struct softirq_layout layout = {.known = 7};

    (void)state;
    add_queue(btf, number);
    assert_int_equal(layout_read(btf, &layout), -ENOENT);
    add_variables(btf, variables, ARRAY_SIZE(variables));
    assert_int_equal(layout_read(btf, &layout), -ENOENT);
    assert_int_equal(layout.known, 7);
    btf__free(btf);
}

/* --- from tick to tick */

#define MS NS_PER_MS

/** A CPU with a tick every 4 ms, and a machine in which time is what we say. */
struct machine {
    struct softirq_settings settings;
    struct watch_cpu cpu;
    uint64_t now, steal, boot_offset;
    unsigned told; /* how often interrupts were off */
};

/** As on_tick() does. */
static void tick(struct machine *m)
{
    struct watch_tick t;

    if (watch_tick(&m->cpu, &m->settings, m->now, m->boot_offset, m->steal, &t))
        m->told++;
    if (!t.before_ns || m->cpu.idle)
        return;
    watch_gap(&m->cpu, &m->settings, 1, &t);
    watch_find_waiting(&m->cpu, &m->settings, t.before_ns, m->now);
}

/** Time passes, of which some is the hypervisor's, and then there is a tick. */
static void pass(struct machine *m, uint64_t ms, uint64_t stolen_ms)
{
    m->now += ms * MS;
    m->steal += stolen_ms * MS;
    tick(m);
}

static struct machine machine(void)
{
    struct machine m = {
        .settings = {.threshold_ns = 100 * MS, .ongoing_ns = 2000 * MS, .tick_ns = 4 * MS},
        .now = 1000000 * MS,
        .steal = 5000 * MS,
    };

    for (unsigned i = 0; i < 3; i++)
        pass(&m, 4, 0);
    return m;
}

static void test_watch_irq_off(void **state)
{
    struct machine m = machine();

    (void)state;
    pass(&m, 104, 0); /* at least: the next tick was due at most 4 ms after the last one */
    pass(&m, 4, 0);
    assert_int_equal(m.told, 0);
    pass(&m, 105, 0);
    assert_int_equal(m.told, 0); /* not before it is known what was taken */
    pass(&m, 4, 0);
    assert_int_equal(m.told, 1);
    assert_int_equal(m.cpu.off.off_ns, 101 * MS);
    assert_int_equal(m.cpu.off.end_ns - m.cpu.off.begin_ns, 105 * MS);
    assert_int_equal(m.cpu.off.steal_ns, 0);
    assert_int_equal(m.cpu.off.steal_known, 1);
    pass(&m, 4, 0);
    assert_int_equal(m.told, 1);
}

/** What the hypervisor takes is no time with interrupts off, whenever it is accounted for. */
static void test_watch_steal(void **state)
{
    struct machine m = machine();

    (void)state;
    pass(&m, 300, 298); /* at the tick itself */
    pass(&m, 4, 0);
    pass(&m, 300, 0); /* at the next one */
    pass(&m, 4, 298);
    pass(&m, 300, 100); /* some and some */
    pass(&m, 4, 100);
    assert_int_equal(m.told, 0);
    pass(&m, 300, 100);
    pass(&m, 4, 50); /* interrupts were off for the rest */
    assert_int_equal(m.told, 1);
    assert_int_equal(m.cpu.off.off_ns, 146 * MS);
    assert_int_equal(m.cpu.off.steal_ns, 150 * MS);

    /* other timers come at once: what was taken as the tick ended is accounted for at a tick */
    m = machine();
    pass(&m, 300, 0);
    pass(&m, 1, 0);
    pass(&m, 1, 298);
    pass(&m, 4, 0);
    assert_int_equal(m.told, 0);

    /* a clock of it that nobody has ever seen move */
    m = machine();
    m.steal = m.cpu.steal_ns = 0;
    pass(&m, 300, 0);
    pass(&m, 4, 0);
    assert_int_equal(m.told, 1);
    assert_int_equal(m.cpu.off.steal_known, 0);
}

static void test_watch_idle(void **state)
{
    struct machine m = machine();

    (void)state;
    /* no ticks while it sleeps, or some */
    m.cpu.idle = 1;
    pass(&m, 1000, 0);
    m.now += 5000 * MS;
    watch_wakes(&m.cpu, m.now);
    pass(&m, 4, 0);
    pass(&m, 4, 0);
    assert_int_equal(m.told, 0);
    /* off as soon as it is awake */
    m.cpu.idle = 1;
    m.now += 5000 * MS;
    watch_wakes(&m.cpu, m.now);
    pass(&m, 150, 0);
    pass(&m, 4, 0);
    assert_int_equal(m.told, 1);
    assert_int_equal(m.cpu.off.off_ns, 146 * MS);
    /* it sleeps right after: what is taken later was not taken from it */
    pass(&m, 150, 0);
    m.cpu.idle = 1;
    pass(&m, 5000, 4900);
    assert_int_equal(m.told, 2);
    assert_int_equal(m.cpu.off.steal_ns, 0);
    /* but it may have been just before */
    watch_wakes(&m.cpu, m.now);
    pass(&m, 150, 0);
    m.cpu.idle = 1;
    pass(&m, 5000, 5100);
    assert_int_equal(m.told, 2);
}

static void test_watch_suspend(void **state)
{
    struct machine m = machine();

    (void)state;
    m.boot_offset += 3600 * NS_PER_SEC;
    pass(&m, 300, 0);
    pass(&m, 4, 0);
    assert_int_equal(m.told, 0);
    pass(&m, 300, 0);
    pass(&m, 4, 0);
    assert_int_equal(m.told, 1);
}

static void test_watch_tickless(void **state)
{
    struct machine m = machine();

    (void)state;
    m.settings.tickless[0] = 2;
    pass(&m, 1000, 0);
    pass(&m, 4, 0);
    assert_int_equal(m.told, 0);
}

static void test_watch_silent(void **state)
{
    struct watch_cpu other = {};

    (void)state;
    watch_sign(&other, 1000 * MS);
    watch_sign(&other, 1004 * MS);
    assert_true(watch_is_silent(&other, 1010 * MS, 3000 * MS)); /* still */
    watch_sign(&other, 3002 * MS);
    assert_true(watch_is_silent(&other, 1000 * MS, 3010 * MS));  /* they stood still together */
    assert_false(watch_is_silent(&other, 1000 * MS, 3100 * MS)); /* it was back before */
    assert_false(watch_is_silent(&other, 900 * MS, 3000 * MS));  /* it was there at first */
    watch_sign(&other, 3006 * MS);
    assert_true(watch_is_silent(&other, 1000 * MS, 3010 * MS));
    for (unsigned i = 0; i < 600; i++)
        watch_sign(&other, (3006 + i * 4) * MS);
    assert_false(watch_is_silent(&other, 3010 * MS, 5400 * MS));
}

/* --- softirqs that wait, from tick to tick */

static void test_watch_waiting(void **state)
{
    struct machine m = machine();
    const struct watch_waiting *w = &m.cpu.waiting;

    (void)state;
    m.cpu.raised[9] = 1;
    pass(&m, 4, 0);
    m.cpu.raised[1] = 1;
    for (unsigned i = 0; i < 26; i++)
        pass(&m, 4, 0);
    assert_int_equal(w->vectors, 0); /* 100 ms up to the tick before: not longer */
    pass(&m, 4, 0);
    assert_int_equal(w->vectors, 1 << 9);
    assert_int_equal(w->vector, 9);
    assert_int_equal(w->longest_ns, 104 * MS);
    pass(&m, 4, 0);
    assert_int_equal(w->vectors, 1 << 9 | 1 << 1);
    assert_int_equal(w->vector, 9);
    watch_ran(&m.cpu, 9);
    pass(&m, 4, 0);
    assert_int_equal(w->vectors, 1 << 1);
    assert_int_equal(w->vector, 1);
    watch_ran(&m.cpu, 1);
    pass(&m, 4, 0);
    assert_int_equal(w->vectors, 0);
}

/** Neither what was taken nor what is told as interrupts off. */
static void test_watch_waiting_excused(void **state)
{
    struct machine m = machine();

    (void)state;
    m.cpu.raised[3] = 1;
    pass(&m, 4, 0);
    for (unsigned i = 0; i < 20; i++)
        pass(&m, 4, 0);
    pass(&m, 80, 78);
    pass(&m, 500, 0);
    pass(&m, 4, 0);
    assert_int_equal(m.cpu.waiting.vectors, 0);
    for (unsigned i = 0; i < 5; i++)
        pass(&m, 4, 0);
    assert_int_equal(m.cpu.waiting.vectors, 1 << 3);
    /* until it has run: at the tick before */
    m.cpu.late_one.begin_ns = m.cpu.since_ns[3];
    m.cpu.late_one.off_ns = 1;
    watch_finish(&m.cpu, 3, m.now);
    assert_int_equal(m.cpu.late_one.end_ns, m.now);
    assert_int_equal(m.cpu.late_one.steal_ns, 78 * MS);
    assert_int_equal(m.cpu.late_one.irq_off_ns, 500 * MS);
    assert_int_equal(m.cpu.late_one.off_ns, (20 * 4 + 2 + 4 + 5 * 4) * MS);
}

/* --- short sections */

/** How many of 1000 ticks count, and how many as late. */
static void measure(struct machine *m, uint64_t late_ns, unsigned each, unsigned *ret_n,
                    unsigned *ret_late)
{
    *ret_n = *ret_late = 0;
    for (unsigned i = 0; i < 1000; i++) {
        struct watch_tick t = {.before_ns = m->cpu.sign_ns};
        enum watch_measure found;
        bool epoch;

        m->now += m->settings.tick_ns;
        t.now_ns = m->now + 1234567 + (i % each ? 0 : late_ns);
        found = watch_measure(&m->cpu, &m->settings, &t, &epoch);
        watch_sign(&m->cpu, t.now_ns);
        if (epoch)
            watch_find_phase(&m->cpu, &m->settings);
        *ret_n += found != WATCH_NO_TICK;
        *ret_late += found == WATCH_LATE;
    }
}

static void test_watch_measure(void **state)
{
    struct machine m = machine();
    unsigned n, late;

    (void)state;
    measure(&m, 0, 1, &n, &late); /* it finds out when they are due */
    assert_in_range(n, 400, 500);
    assert_int_equal(late, 0);
    measure(&m, MS, 4, &n, &late);
    assert_int_equal(n, 1000);
    assert_int_equal(late, 250);
    measure(&m, 100000, 4, &n, &late);
    assert_int_equal(n, 1000);
    assert_int_equal(late, 0);
}

/* --- records */

static const struct record_origin origin = {.hostname = "h", .region = "", .kernel_release = "k"};

static int try_decode(const struct kernel *of, const struct softirq_wire *raw, struct doc **ret)
{
    const struct event *event = event_find("softirq");
    const struct decode d = {.kernel = of};
    _cleanup_(record_freep) struct record *r = NULL;
    int e;

    assert_non_null(event);
    assert_int_equal(record_new(&origin, event, 0, NS_PER_SEC, &r), 0);
    e = event->decode(&d, raw, r);
    return e < 0 ? e : record_finish(r, NS_PER_SEC, ret);
}

static json_t *decode(const struct kernel *of, const struct softirq_wire *raw)
{
    struct doc *doc = NULL;
    json_t *json;

    assert_int_equal(try_decode(of, raw, &doc), 0);
    json = json_loads(doc->json, 0, NULL);
    assert_non_null(json);
    doc_unref(doc);
    return json;
}

static void assert_data(json_t *record, const char *expected)
{
    _free_ char *text = json_dumps(json_object_get(record, "tracer_data"), JSON_COMPACT);

    assert_string_equal(text, expected);
}

static void assert_summary(json_t *record, const char *expected)
{
    assert_string_equal(json_string_value(json_object_get(record, "summary")), expected);
}

static void set_stack(struct softirq_wire *w, const uint64_t *frames, size_t n)
{
    memcpy(w->head.stack, frames, n * sizeof(*frames));
    w->head.stack_bytes = (int32_t)(n * sizeof(*frames));
}

static struct softirq_wire irq_off(void)
{
    const uint64_t frames[] = {in(TIMER), in(ASM_TIMER), in(COPY), in(WRITE)};
    struct softirq_wire w = {
        .head = {.pid = 688073, .tid = 688074, .cpu = 1, .comm = "observe-agent"},
        .begin_ns = UINT64_C(5532940400000000),
        .end_ns = UINT64_C(5532940660025295),
        .off_ns = 237328905,
        .steal_ns = 1000000,
        .threshold_ns = 100000000,
        .what = SOFTIRQ_IRQ_OFF,
        .others = SOFTIRQ_OTHERS_ALIVE,
        .steal_known = 1,
    };

    set_stack(&w, frames, ARRAY_SIZE(frames));
    return w;
}

static struct softirq_wire late(void)
{
    const uint64_t frames[] = {in(TIMER), in(ASM_TIMER), in(COPY), in(NET_RX), in(HANDLE)};
    struct softirq_wire w = irq_off();

    w.what = SOFTIRQ_LATE;
    w.vector = 1;
    w.vectors = 1 << 1 | 1 << 3 | 1 << 9;
    w.irq_off_ns = 7;
    set_stack(&w, frames, ARRAY_SIZE(frames));
    return w;
}

#define STACK_TOP                                                                                  \
    "\"stack\":\"stack:\\n__sysvec_apic_timer_interrupt/ffffffff81001000 [kernel]\\n"              \
    "asm_sysvec_apic_timer_interrupt/ffffffff81000000 [kernel]"

static void test_irq_off(void **state)
{
    struct softirq_wire w = irq_off();
    json_t *record = decode(&kernel, &w);

    (void)state;
    assert_data(record,
                "{\"offtime\":237328905,\"threshold\":100000000,\"comm\":\"observe-agent\","
                "\"pid\":688073,\"cpu\":1,\"now\":5532940660025295,\"what\":\"irq_off\","
                "\"begin\":5532940400000000,\"steal_ns\":1000000,\"steal_known\":true,"
                "\"other_cpus\":\"alive\",\"interrupted\":\"kernel\",\"place\":\"copy_page\","
                "\"tid\":688074," STACK_TOP "\\ncopy_page/ffffffff81009000 [kernel]\\n"
                "vfs_write/ffffffff8100a000 [kernel]\"}");
    assert_summary(record, "CPU 1 could not be interrupted for 237.3 ms or more; when it could be "
                           "again, observe-agent[688073] was in copy_page, called from vfs_write");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(record, "process"), "tid")),
                     688074);
    json_decref(record);
}

static void test_irq_off_doubts(void **state)
{
    struct softirq_wire w = irq_off();
    json_t *record;

    (void)state;
    w.others = SOFTIRQ_OTHERS_SILENT;
    w.head.stack_bytes = 16;
    record = decode(&kernel, &w);
    assert_summary(record,
                   "CPU 1 could not be interrupted for 237.3 ms or more; when it could be again, "
                   "observe-agent[688073] was in user mode, back from an interrupt or a system "
                   "call; the other CPUs gave no sign either, so this may have been the whole "
                   "machine");
    json_decref(record);
    w.others = SOFTIRQ_OTHERS_NONE;
    record = decode(&hidden, &w);
    assert_summary(record,
                   "CPU 1 could not be interrupted for 237.3 ms or more; when it could be again, "
                   "observe-agent[688073] was in the kernel; it is the only CPU, so this may have "
                   "been the whole machine");
    json_decref(record);
}

static void test_late(void **state)
{
    struct softirq_wire w = late();
    json_t *record = decode(&kernel, &w);

    (void)state;
    assert_data(record,
                "{\"offtime\":237328905,\"threshold\":100000000,\"comm\":\"observe-agent\","
                "\"pid\":688073,\"cpu\":1,\"now\":5532940660025295,\"what\":\"softirq_late\","
                "\"begin\":5532940400000000,\"steal_ns\":1000000,\"steal_known\":true,"
                "\"vector\":\"TIMER\",\"vectors\":\"TIMER,NET_RX,RCU\",\"irq_off_ns\":7,"
                "\"ongoing\":false,\"cause\":\"handler\",\"interrupted\":\"handler\",\"handler\":"
                "\"net_rx_action\","
                "\"place\":\"copy_page\",\"tid\":688074," STACK_TOP
                "\\ncopy_page/ffffffff81009000 [kernel]\\nnet_rx_action/ffffffff81007000 [kernel]"
                "\\nhandle_softirqs/ffffffff81005000 [kernel]\"}");
    assert_summary(record, "softirq TIMER on CPU 1 was raised and did not run for 237.3 ms or "
                           "more; meanwhile the softirq handler net_rx_action ran on top of "
                           "observe-agent[688073], in copy_page, called from net_rx_action");
    /* whoever it ran on top of has no part in it */
    assert_null(json_object_get(record, "process"));
    json_decref(record);
}

static void assert_cause(json_t *record, const char *cause, const char *summary)
{
    const json_t *data = json_object_get(record, "tracer_data");

    assert_string_equal(json_string_value(json_object_get(data, "cause")), cause);
    assert_summary(record, summary);
}

static void test_late_by_process(void **state)
{
    const uint64_t frames[] = {in(TIMER), in(ASM_TIMER), in(COPY), in(WRITE)};
    struct softirq_wire w = late();
    json_t *record;

    (void)state;
    set_stack(&w, frames, ARRAY_SIZE(frames));
    w.ongoing = 1;
    record = decode(&kernel, &w);
    assert_summary(record, "softirq TIMER on CPU 1 was raised and did not run for 237.3 ms or "
                           "more, and still does not; meanwhile observe-agent[688073] was in "
                           "copy_page, called from vfs_write, with bottom halves disabled or "
                           "ksoftirqd kept from running");
    assert_non_null(json_object_get(record, "process"));
    json_decref(record);
    w.ongoing = 0;
    w.bh = SOFTIRQ_BH_DISABLED;
    record = decode(&kernel, &w);
    assert_cause(
        record, "bh_disabled",
        "softirq TIMER on CPU 1 was raised and did not run for 237.3 ms or more; meanwhile "
        "observe-agent[688073] was in copy_page, called from vfs_write, with bottom halves "
        "disabled");
    json_decref(record);
    w.bh = SOFTIRQ_BH_ENABLED;
    record = decode(&kernel, &w);
    assert_cause(
        record, "ksoftirqd",
        "softirq TIMER on CPU 1 was raised and did not run for 237.3 ms or more; meanwhile "
        "observe-agent[688073] was in copy_page, called from vfs_write, and ksoftirqd did "
        "not get the CPU");
    json_decref(record);
    w.bh = SOFTIRQ_BH_UNKNOWN;
    w.head.stack_bytes = 16;
    record = decode(&kernel, &w);
    assert_cause(
        record, "ksoftirqd",
        "softirq TIMER on CPU 1 was raised and did not run for 237.3 ms or more; meanwhile "
        "observe-agent[688073] was in user mode, and ksoftirqd did not get the CPU");
    json_decref(record);
    /* without symbols the count says it */
    w.bh = SOFTIRQ_BH_SERVING;
    record = decode(&hidden, &w);
    assert_cause(
        record, "handler",
        "softirq TIMER on CPU 1 was raised and did not run for 237.3 ms or more; meanwhile "
        "the softirq handler (unknown) ran on top of observe-agent[688073], in the kernel");
    assert_null(json_object_get(record, "process"));
    json_decref(record);
}

/* --- bytes that make no sense */

static void assert_refused(const struct softirq_wire *w)
{
    struct doc *doc = NULL;

    assert_int_equal(try_decode(&kernel, w, &doc), -EBADMSG);
}

static void test_hostile(void **state)
{
    struct softirq_wire w;

    (void)state;
    w = late(), w.what = SOFTIRQ_WHAT_NR, assert_refused(&w);
    w = late(), w.what = UINT32_MAX, assert_refused(&w);
    w = late(), w.vector = SOFTIRQ_VECTORS, assert_refused(&w);
    w = late(), w.vectors = 1 << SOFTIRQ_VECTORS, assert_refused(&w);
    w = late(), w.bh = SOFTIRQ_BH_NR, assert_refused(&w);
    w = irq_off(), w.others = SOFTIRQ_OTHERS_NR, assert_refused(&w);
    w = irq_off(), w.head.stack_bytes = sizeof(w.head.stack) + 8, assert_refused(&w);
    w = irq_off(), w.head.stack_bytes = INT32_MAX, assert_refused(&w);
}

static void test_no_stack(void **state)
{
    struct softirq_wire w = irq_off();
    json_t *record, *data;

    (void)state;
    w.head.stack_bytes = -EFAULT;
    w.off_ns = w.steal_ns = w.begin_ns = UINT64_MAX;
    memset(w.head.comm, 0xff, sizeof(w.head.comm));
    record = decode(&kernel, &w);
    data = json_object_get(record, "tracer_data");
    assert_string_equal(json_string_value(json_object_get(data, "stack")), "stack:\n");
    assert_string_equal(json_string_value(json_object_get(data, "interrupted")), "unknown");
    assert_int_equal(json_integer_value(json_object_get(data, "offtime")), INT64_MAX);
    json_decref(record);
}

/** Anything may be in the bytes: it is a record, or refused. */
static void test_noise(void **state)
{
    uint64_t seed = 88172645463325252;

    (void)state;
    for (unsigned round = 0; round < 2000; round++) {
        union {
            struct softirq_wire w;
            uint8_t bytes[sizeof(struct softirq_wire)];
        } raw;
        struct doc *doc = NULL;
        int r;

        raw.w = round % 2 ? late() : irq_off();
        for (unsigned i = 0; i < round % 64; i++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            raw.bytes[seed % sizeof(raw)] = (uint8_t)(seed >> 32);
        }
        r = try_decode(&kernel, &raw.w, &doc);
        assert_true(r == 0 || r == -EBADMSG);
        doc_unref(doc);
    }
}

/* --- what an operator sets */

static void test_rules(void **state)
{
    const struct event *event = event_find("softirq");

    (void)state;
    assert_string_equal(event->rule_name(NULL, 0), "");
    assert_string_equal(event->rule_name(NULL, SOFTIRQ_RULE_STOOD_STILL), "stood_still");
    assert_null(event->rule_name(NULL, SOFTIRQ_RULE_NR));
}

static void test_configure(void **state)
{
    const struct event *event = event_find("softirq");
    const struct option *threshold = option_find(event->options, "threshold");
    _free_ void *options = calloc(1, event->options_size);
    struct softirq_settings settings;
    const struct decode d = {.kernel = &kernel, .options = options};
    char error[256] = "";

    (void)state;
    memset(&settings, 0xff, sizeof(settings));
    assert_int_equal(option_defaults(event->options, options), 0);
    assert_int_equal(event->configure(&d, &settings, error, sizeof(error)), 0);
    assert_int_equal(settings.threshold_ns, 100 * NS_PER_MS);
    assert_int_equal(settings.ongoing_ns, 2 * NS_PER_SEC);
    /* CONFIG_HZ is 100 to 1000 where Debian decides, and has been 24 to 1200 elsewhere */
    assert_in_range(settings.tick_ns, NS_PER_SEC / 1200, NS_PER_SEC / 24);
    assert_int_equal(option_parse(threshold, "250ms", options, error, sizeof(error)), 0);
    assert_int_equal(event->configure(&d, &settings, error, sizeof(error)), 0);
    assert_int_equal(settings.threshold_ns, 250 * NS_PER_MS);
    assert_int_equal(option_parse(threshold, "9ms", options, error, sizeof(error)), -ERANGE);
    option_done(event->options, options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place),
        cmocka_unit_test(test_place_of_arm64),
        cmocka_unit_test(test_place_unknown),
        cmocka_unit_test(test_cpus),
        cmocka_unit_test(test_layout_variables),
        cmocka_unit_test(test_layout_hot),
        cmocka_unit_test(test_layout_irq_stat),
        cmocka_unit_test(test_layout_unknown),
        cmocka_unit_test(test_watch_irq_off),
        cmocka_unit_test(test_watch_steal),
        cmocka_unit_test(test_watch_idle),
        cmocka_unit_test(test_watch_suspend),
        cmocka_unit_test(test_watch_tickless),
        cmocka_unit_test(test_watch_silent),
        cmocka_unit_test(test_watch_waiting),
        cmocka_unit_test(test_watch_waiting_excused),
        cmocka_unit_test(test_watch_measure),
        cmocka_unit_test(test_irq_off),
        cmocka_unit_test(test_irq_off_doubts),
        cmocka_unit_test(test_late),
        cmocka_unit_test(test_late_by_process),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_no_stack),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_configure),
    };

    return cmocka_run_group_tests_name("softirq", tests, set_up_kernel, tear_down_kernel);
}
