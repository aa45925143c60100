// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** CPUs that the kernel's watchdog finds stuck, by what it writes into the log or by its taint. */

#include "events/softlockup/softlockup.h"
#include "bpf/event.bpf.h"
#include "bpf/sample.bpf.h"

#include <linux/ptrace.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define TAINT_SOFTLOCKUP 14 /* include/linux/panic.h (kernel.h before 5.18) */
#define CLAIM_NS         10000000000ULL

volatile struct softlockup_settings settings SEC(".data.settings") = {};

/* What was said of a CPU, and not (yet) by itself. */
struct claim {
    __u64 time_ns; /* 0: nothing, or it was recorded */
    __u32 seconds;
    __u32 pad;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, SAID_CPUS_MAX);
    __type(key, __u32);
    __type(value, struct claim);
} claims SEC(".maps");

/* Too large for a program's stack. */
struct scratch {
    char text[SAID_TEXT_MAX];
    __u64 stack[WIRE_STACK_MAX];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct scratch);
} scratches SEC(".maps");

/* The lockup of each CPU that was reported and is not known to be over. */
struct locked {
    struct wire_key key;
    __u64 task;
    __u64 switches; /* how often it had left the CPU */
    __u64 seen_ns;  /* when it was last seen there */
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, struct locked);
} locks SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&scratches, &zero);
}

/* --- who says it */

enum proof { PROOF_NONE, PROOF_STACK, PROOF_NO_SYMBOLS };

/* A global function is verified once, not once for every path that leads to a call. */
__noinline int in_watchdog(__u64 frames)
{
    struct scratch *s = scratch();
    __u32 found = 0;

    if (!s)
        return 0;
    for (__u32 i = 0; i < WIRE_STACK_MAX; i++) {
        if (i >= frames)
            break;
#pragma unroll
        for (__u32 piece = 0; piece < SOFTLOCKUP_PIECES_MAX; piece++)
            /* A return address may lie just behind the last call. */
            found |=
                s->stack[i] - settings.watchdog[piece].start - 1 < settings.watchdog[piece].size;
    }
    return found;
}

/**
 * Whether this runs in the watchdog's timer interrupt. Text alone proves nothing: whoever may write
 * to /dev/kmsg writes the same, but not from there.
 */
static __always_inline enum proof prove(void *ctx, struct scratch *s)
{
    long bytes;

    if (!settings.watchdog[0].size)
        return PROOF_NO_SYMBOLS;
    bytes = bpf_get_stack(ctx, s->stack, sizeof(s->stack), 0);
    return bytes > 0 && in_watchdog(bytes / sizeof(s->stack[0])) ? PROOF_STACK : PROOF_NONE;
}

/* --- reports */

static __always_inline __u64 switches_of(struct task_struct *task)
{
    return BPF_CORE_READ(task, nvcsw) + BPF_CORE_READ(task, nivcsw);
}

/* Memory of the ring holds what was in it before. */
static __always_inline void take_text(struct softlockup_wire *w, const struct scratch *s)
{
    if (s)
        __builtin_memcpy(w->text, s->text, sizeof(w->text));
    else
        __builtin_memset(w->text, 0, sizeof(w->text));
}

/** On the stuck CPU, in the task that it is stuck in. `s` holds the text; NULL: there is none. */
static __always_inline int report(void *ctx, __u32 seconds, enum proof proof,
                                  const struct scratch *s)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    __u64 now, window_id, lasts_ns = (__u64)seconds << 30;
    struct locked locked = {};
    struct softlockup_wire *w;
    struct wire_counters *c = event_counters();
    __u32 nth, cpu = bpf_get_smp_processor_id();

    if (!c || !event_is_ours(task))
        return 0;
    COUNT(c->seen);
    if (lasts_ns < settings.min_ns) {
        event_filtered(c, SOFTLOCKUP_RULE_SHORT);
        return 0;
    }
    now = bpf_ktime_get_boot_ns();
    locked.key.what = cpu;
    locked.key.words[0] = (__u32)bpf_get_current_pid_tgid();
    locked.key.words[1] = BPF_CORE_READ(task, start_boottime);
    if (!event_episode(c, &locked.key, now, now - lasts_ns, false, &window_id, &nth))
        return 0;
    locked.task = (__u64)task;
    locked.switches = switches_of(task);
    locked.seen_ns = now;
    bpf_map_update_elem(&locks, &cpu, &locked, BPF_ANY);

    w = bpf_ringbuf_reserve(&ring, sizeof(*w), 0);
    if (!w) {
        event_lost(c, WIRE_LOST_RING_FULL);
        return 0;
    }
    w->seconds = seconds;
    w->verified = proof == PROOF_STACK;
    take_text(w, s);
    event_head(ctx, &w->head, now, window_id, nth);
    COUNT(c->sent);
    bpf_ringbuf_submit(w, 0);
    return 0;
}

static __always_inline void refuse(void)
{
    struct wire_counters *c = event_counters();

    if (!c || !event_is_ours((void *)bpf_get_current_task()))
        return;
    COUNT(c->seen);
    event_filtered(c, SOFTLOCKUP_RULE_NOT_WATCHDOG);
}

/* --- by what it says: from 5.19 on in the task that writes it (printk_sprint()), before by whoever
 * has the console (console_unlock()), which is mostly the same */

/** false: that text is no such line. */
static __always_inline bool read_text(struct scratch *s, const char *text, __u64 len,
                                      struct said *ret)
{
    asm volatile("" : "+r"(len));
    if (len > sizeof(s->text) - 1)
        len = sizeof(s->text) - 1;
    __builtin_memset(s->text, 0, sizeof(s->text));
    bpf_probe_read_kernel(s->text, len, text);
    return said_parse(s->text, ret);
}

static __always_inline struct claim *claim_of(__u32 cpu)
{
    return bpf_map_lookup_elem(&claims, &cpu);
}

static __always_inline struct claim *make_claim(const struct said *said)
{
    struct claim *claim = claim_of(said->cpu);

    if (claim) {
        claim->seconds = said->seconds;
        claim->time_ns = bpf_ktime_get_boot_ns();
    }
    return claim;
}

/** Seconds, if something was said of this CPU a moment ago. */
static __always_inline bool take_claim(struct claim *claim, __u32 *ret_seconds)
{
    if (!claim || !claim->time_ns || bpf_ktime_get_boot_ns() - claim->time_ns > CLAIM_NS)
        return false;
    *ret_seconds = claim->seconds;
    return true;
}

static __always_inline int on_console(void *ctx, const char *text, __u64 len)
{
    __u32 seconds, cpu = bpf_get_smp_processor_id();
    struct said said = {};
    struct claim *claim;
    struct scratch *s;
    enum proof proof;

    if (!event_watched())
        return 0;
    s = scratch();
    if (!s)
        return 0;
    if (read_text(s, text, len, &said)) {
        claim = make_claim(&said);
        proof = said.cpu == cpu ? prove(ctx, s) : PROOF_NONE;
        if (proof == PROOF_NONE) {
            /* If another CPU had the console, then the stuck one will write one of the lines that
             * follow by itself. */
            refuse();
            return 0;
        }
        if (claim)
            claim->time_ns = 0;
        return report(ctx, said.seconds, proof, s);
    }
    claim = claim_of(cpu);
    if (!take_claim(claim, &seconds) || prove(ctx, s) != PROOF_STACK)
        return 0;
    claim->time_ns = 0;
    return report(ctx, seconds, PROOF_STACK, NULL);
}

SEC("?tp_btf/console")
int typed_console(__u64 *ctx)
{
    return on_console(ctx, (const char *)ctx[0], ctx[1]);
}

SEC("?raw_tp/console")
int raw_console(__u64 *ctx)
{
    return on_console(ctx, (const char *)ctx[0], ctx[1]);
}

/* --- by its taint, behind the text: add_taint(unsigned flag, enum lockdep_ok) */

/** For the number of seconds only. */
SEC("?raw_tp/console")
int raw_console_seconds(__u64 *ctx)
{
    struct scratch *s = event_watched() ? scratch() : NULL;
    struct said said = {};

    if (s && read_text(s, (const char *)ctx[0], ctx[1], &said))
        make_claim(&said);
    return 0;
}

static __always_inline int on_taint(void *ctx, unsigned flag)
{
    struct claim *claim = claim_of(bpf_get_smp_processor_id());
    struct scratch *s = scratch();
    __u32 seconds = 0;
    enum proof proof;

    if (!event_watched() || flag != TAINT_SOFTLOCKUP || !s)
        return 0;
    proof = prove(ctx, s);
    if (proof == PROOF_NONE) { /* root may set it in /proc/sys/kernel/tainted */
        refuse();
        return 0;
    }
    if (take_claim(claim, &seconds))
        claim->time_ns = 0;
    return report(ctx, seconds, proof, NULL);
}

SEC("?fentry/add_taint")
int BPF_PROG(fentry_add_taint, unsigned flag)
{
    return on_taint(ctx, flag);
}

SEC("?kprobe/add_taint")
int BPF_KPROBE(kprobe_add_taint, unsigned flag)
{
    return on_taint(ctx, flag);
}

/* --- when it is over: a timer looks at the stuck CPU (hook `end`) */

/* Who looks again after so long does not know when it was over: then it has lasted for as long as
 * it was seen. On a machine without time of its own, or where the timer does not run on an idle
 * CPU. */
#define LOOKS_MISSED_NS 1000000000ULL

SEC("?perf_event")
int look_for_end(void *ctx)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    __u32 cpu = bpf_get_smp_processor_id();
    struct locked *locked = bpf_map_lookup_elem(&locks, &cpu);
    __u64 now;

    if (!locked)
        return 1;
    now = bpf_ktime_get_boot_ns();
    if (locked->task == (__u64)task && locked->switches == switches_of(task)) {
        locked->seen_ns = now;
        return 1;
    }
    event_episode_over(&locked->key,
                       now - locked->seen_ns < LOOKS_MISSED_NS ? now : locked->seen_ns);
    bpf_map_delete_elem(&locks, &cpu);
    return 1;
}
