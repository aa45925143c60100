// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** Changes of network devices that the source has found, and who made them. */

#include "events/netdev/netdev.h"
#include "bpf/cgroup.bpf.h"
#include "bpf/event.bpf.h"

#include <linux/rtnetlink.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

FOUND_MAP(struct netdev_wire);

SEC("?raw_tp")
int take_found(void *ctx)
{
    __u32 zero = 0;
    struct found *f = bpf_map_lookup_elem(&found, &zero);

    return f ? event_found(&f->found, &f->wire.head, sizeof(f->wire)) : 0;
}

/* --- who it was: a filter of the source's socket runs when the kernel tells of a change, while
 * whoever made it waits for the kernel to be done */

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1024 * 1024);
} heard SEC(".maps");

volatile __u64 missed SEC(".data.missed") = 0; /* messages that did not fit */

const struct netdev_who nobody = {};

static __always_inline void read_cmdline(struct task_struct *task, struct netdev_who *who)
{
    struct mm_struct *mm = BPF_CORE_READ(task, mm);
    unsigned long start, end, len;

    if (!mm)
        return;
    start = BPF_CORE_READ(mm, arg_start);
    end = BPF_CORE_READ(mm, arg_end);
    len = end > start ? end - start : 0;
    if (len > NETDEV_CMDLINE_MAX)
        len = NETDEV_CMDLINE_MAX;
    if (len && bpf_probe_read_user(who->cmdline, len, (void *)start) == 0)
        who->cmdline_bytes = len;
}

/** The helpers that tell of the current task are not for socket filters, but for this one. */
static __always_inline void read_who(struct netdev_who *who)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();

    bpf_probe_read_kernel(who, sizeof(*who), &nobody); /* too large for memset() */
    who->time_ns = bpf_ktime_get_boot_ns();
    if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
        return;
    who->pid = BPF_CORE_READ(task, tgid);
    who->tid = BPF_CORE_READ(task, pid);
    who->ppid = BPF_CORE_READ(task, real_parent, tgid);
    who->uid = BPF_CORE_READ(task, cred, uid.val);
    who->task_start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
    who->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
    BPF_CORE_READ_STR_INTO(&who->comm, task, comm);
    read_cmdline(task, who);
    cgroup_read(&who->cgroup, cgroup_memory_css(task));
}

/** How many bytes; 0: it cannot be had. One bound after the other, right before they are needed:
 * older verifiers forget them, and the compiler would make one comparison of both. */
static __always_inline __u32 read_message(const struct __sk_buff *skb, __u8 *ret)
{
    __u32 size = skb->len;

    if (size > NETDEV_MESSAGE_MAX)
        return 0;
    asm volatile("" : "+r"(size));
    if (size < sizeof(struct nlmsghdr) + sizeof(struct ifinfomsg))
        return 0;
    return bpf_skb_load_bytes(skb, 0, ret, size) == 0 ? size : 0;
}

SEC("?socket")
int hear_link(struct __sk_buff *skb)
{
    struct netdev_heard *h = bpf_ringbuf_reserve(&heard, sizeof(*h), 0);

    if (!h) {
        __sync_fetch_and_add(&missed, 1);
        return skb->len;
    }
    read_who(&h->who);
    h->size = read_message(skb, h->message);
    if (!h->size)
        __sync_fetch_and_add(&missed, 1);
    bpf_ringbuf_submit(h, 0);
    return skb->len;
}
