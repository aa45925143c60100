/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HUATUO_BPF_EVENT_H
#define HUATUO_BPF_EVENT_H

/**
 * What every event kind's programs share: settings, counters, repeat windows, the ring.
 *
 * The order in a program is always: is anyone watching (event_watched); does it meet the
 * definition, and is it not for the object that takes over (event_is_ours); is it filtered
 * (event_filtered); is it a repeat (event_window); only then the costly part (event_reserve takes
 * the stack), and event_send.
 *
 * Kernels from 5.10 on: no atomic operation with a result (5.12), no spin lock in tracing programs.
 */

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
/* libbpf's headers want the types above first. */
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "bpf/kernel.h"
#include "core/wire.h"

#define EEXIST 17

/* The agent sizes the maps when it loads them. An array named `cpus` of a kind's own gets an
 * element for each possible CPU. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct wire_counters);
} counters SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16);
    __type(key, struct wire_key);
    __type(value, struct wire_window);
} windows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096);
} ring SEC(".maps");

struct meeting {
    __u64 time_ns;
    __u32 retires; /* who has met it */
    __u32 ours;    /* and counts it */
};

/* Two objects of a kind that take over from each other have this one in common. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 256);
    __type(key, __u64);            /* what an event is about */
    __type(value, struct meeting); /* of the first of the two */
} met SEC(".maps");

/* And this: whether it has been done. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} taken_over SEC(".maps");

volatile struct wire_common common SEC(".data.common") = {};

/**
 * To the verifier this memory may hold anything from here on. It goes through what follows once for
 * each state that it is reached in, so where many paths meet, many hundred times; those that differ
 * in nothing else are one now.
 */
static __always_inline void event_any(void *memory, __u32 size)
{
    bpf_probe_read_kernel(memory, size, memory);
}

static __always_inline bool event_watched(void)
{
    return common.watching;
}

/**
 * Whether the event is this object's to count. While another one takes over both meet it, one after
 * the other, and the moment of the change may lie between: whoever comes first decides for both.
 * `about` is an address that tells the event from others that happen at the same time.
 */
static __always_inline bool event_is_ours(const void *about)
{
    struct meeting now = {}, *other;
    __u64 what = (__u64)about, *done;
    __u32 zero = 0;

    if (!common.exchanging)
        return true;
    now.time_ns = bpf_ktime_get_boot_ns();
    now.retires = common.retires;
    other = bpf_map_lookup_elem(&met, &what);
    if (other && other->retires != now.retires &&
        now.time_ns - other->time_ns < WIRE_SAME_EVENT_NS) {
        now.ours = !other->ours;
        bpf_map_delete_elem(&met, &what);
    } else {
        done = bpf_map_lookup_elem(&taken_over, &zero);
        now.ours = (done && *done) != now.retires;
        bpf_map_update_elem(&met, &what, &now, BPF_ANY);
    }
    return now.ours;
}

static __always_inline struct wire_counters *event_counters(void)
{
    __u32 cpu = bpf_get_smp_processor_id();

    return bpf_map_lookup_elem(&counters, &cpu);
}

/* An interrupt may run the same program on this CPU in the middle of an addition. */
#define COUNT(field) __sync_fetch_and_add(&(field), 1)

static __always_inline void event_lost(struct wire_counters *c, enum wire_lost why)
{
    COUNT(c->lost[why]);
}

static __always_inline void event_filtered(struct wire_counters *c, __u32 rule)
{
    COUNT(c->filtered[rule & (WIRE_RULES_MAX - 1)]);
}

/**
 * Finds or opens the key's window and counts the event in it. Returns true if it is to be recorded
 * in full, as the `*ret_nth` of the window `*ret_id`; else it has been counted.
 *
 * Two CPUs that meet the same key within the same hundred nanoseconds may both take the last full
 * place: a window may hold a few more full records than the limit, never fewer.
 */
static __always_inline bool event_in_window(struct wire_counters *c, struct wire_key *key,
                                            __u64 now, __u64 started_ns, bool again, __u64 *ret_id,
                                            __u32 *ret_nth)
{
    struct wire_window fresh = {};
    struct wire_window *w = NULL;
    __u64 length = common.window_ns;
    __u64 count;
    int vacant = -1, where = 0;
    long r;

#pragma unroll
    for (int generation = 1; generation >= 0; generation--) {
        struct wire_window *found;

        key->generation = generation;
        found = bpf_map_lookup_elem(&windows, key);
        if (!found)
            vacant = generation;
        else if (WIRE_WINDOW_OPEN(found, now, length)) {
            w = found;
            where = generation;
        }
    }
    key->generation = where;
    if (!w) {
        if (vacant < 0) { /* both wait to be swept */
            event_lost(c, WIRE_LOST_KEYS_FULL);
            return false;
        }
        key->generation = vacant;
        fresh.begin_ns = now;
        fresh.started_ns = started_ns;
        fresh.last_ns = now;
        fresh.id = now ^ ((__u64)bpf_get_smp_processor_id() << 54);
        r = bpf_map_update_elem(&windows, key, &fresh, BPF_NOEXIST);
        w = r == 0 || r == -EEXIST ? bpf_map_lookup_elem(&windows, key) : NULL;
        if (!w) {
            event_lost(c, WIRE_LOST_KEYS_FULL);
            return false;
        }
    }

    if (started_ns)
        w->last_ns = now;
    count = w->count;
    if (!again || count == 0) {
        COUNT(w->count);
        if (count < common.window_limit) {
            *ret_id = w->id;
            *ret_nth = count + 1;
            return true;
        }
    }
    COUNT(w->suppressed);
    if (!w->first_repeat_ns)
        w->first_repeat_ns = now;
    w->last_repeat_ns = now;
    COUNT(c->suppressed);
    return false;
}

static __always_inline bool event_window(struct wire_counters *c, struct wire_key *key, __u64 now,
                                         __u64 *ret_id, __u32 *ret_nth)
{
    return event_in_window(c, key, now, 0, false, ret_id, ret_nth);
}

/**
 * The same for a report of something that goes on since `started_ns`. Its window is open until
 * nothing has been reported for the length of a window, or event_episode_over() is called. `again`:
 * where an episode is made of several (the threads of a process), one that was recorded is reported
 * again, which takes no place from the others. For kinds that have `episodes`.
 */
static __always_inline bool event_episode(struct wire_counters *c, struct wire_key *key, __u64 now,
                                          __u64 started_ns, bool again, __u64 *ret_id,
                                          __u32 *ret_nth)
{
    return event_in_window(c, key, now, started_ns ? started_ns : 1, again, ret_id, ret_nth);
}

/** `key` is as event_episode() has left it. */
static __always_inline void event_episode_over(const struct wire_key *key, __u64 now)
{
    struct wire_window *w = bpf_map_lookup_elem(&windows, key);

    if (w && !w->ended_ns)
        w->ended_ns = now;
}

/* Memory of the ring holds what was in it before; memset() of that much is no instruction. */
static __always_inline void event_zero(void *memory, __u32 size)
{
    volatile __u64 *words = memory;

    for (__u32 i = 0; i < size / sizeof(*words); i++)
        words[i] = 0;
}

/** The map `found` of a kind that has a source. */
#define FOUND_MAP(wire_type)                                                                       \
    struct found {                                                                                 \
        struct wire_found found;                                                                   \
        wire_type wire;                                                                            \
    };                                                                                             \
    struct {                                                                                       \
        __uint(type, BPF_MAP_TYPE_ARRAY);                                                          \
        __uint(max_entries, 1);                                                                    \
        __type(key, __u32);                                                                        \
        __type(value, struct found);                                                               \
    } found SEC(".maps")

/**
 * What a source has found, in the map `found`: the value is a struct wire_found and behind it an
 * event, of `max` bytes at most, whose head says who did it. Its time is when it was found, if the
 * source does not know better.
 */
static __always_inline int event_found(struct wire_found *found, struct wire_head *head, __u32 max)
{
    struct wire_counters *c = event_counters();
    __u64 now, size = found->size;

    if (!event_watched() || !c)
        return 0;
    COUNT(c->seen);
    if (found->rule) {
        event_filtered(c, found->rule);
        return 0;
    }
    now = bpf_ktime_get_boot_ns();
    if (!event_window(c, &found->key, now, &head->window_id, &head->nth))
        return 0;
    if (!head->time_ns)
        head->time_ns = now;
    asm volatile("" : "+r"(size)); /* or the bound is checked on a copy */
    if (size > max || bpf_ringbuf_output(&ring, head, size, 0) != 0)
        event_lost(c, WIRE_LOST_RING_FULL);
    else
        COUNT(c->sent);
    return 0;
}

/** Fills all of the head; the stack last. `head` is in the ring. */
static __always_inline void event_head(void *ctx, struct wire_head *head, __u64 now,
                                       __u64 window_id, __u32 nth)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    __u64 ids = bpf_get_current_pid_tgid();

    head->time_ns = now;
    head->window_id = window_id;
    head->cgroup_id = bpf_get_current_cgroup_id();
    head->task_start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
    head->nth = nth;
    head->cpu = bpf_get_smp_processor_id();
    head->pid = ids >> 32;
    head->tid = (__u32)ids;
    head->ppid = BPF_CORE_READ(task, real_parent, tgid);
    head->uid = (__u32)bpf_get_current_uid_gid();
    head->pad = 0;
    bpf_get_current_comm(head->comm, sizeof(head->comm));
    head->stack_bytes = bpf_get_stack(ctx, head->stack, sizeof(head->stack), 0);
}

/** The same of another task than the current one, without its stack, into what is zeroed. */
static __always_inline void event_head_of(struct task_struct *task, struct wire_head *head,
                                          __u64 now, __u64 window_id, __u32 nth)
{
    head->time_ns = now;
    head->window_id = window_id;
    head->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
    head->task_start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
    head->nth = nth;
    head->cpu = bpf_get_smp_processor_id();
    head->pid = BPF_CORE_READ(task, tgid);
    head->tid = BPF_CORE_READ(task, pid);
    head->ppid = BPF_CORE_READ(task, real_parent, tgid);
    head->uid = BPF_CORE_READ(task, cred, uid.val);
    BPF_CORE_READ_INTO(&head->comm, task, comm);
}

#endif
