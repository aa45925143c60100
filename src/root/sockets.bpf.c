// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** Who has which socket open: read through an iterator, asked for when a record needs it. */

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
/* libbpf's headers want the types above first. */
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "bpf/kernel.h"
#include "core/sockets.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define S_IFMT   0170000
#define S_IFSOCK 0140000

SEC("iter/task_file")
int socket_owners(struct bpf_iter__task_file *ctx)
{
    struct socket_owner owner = {};
    struct task_struct *task = ctx->task;
    struct file *file = ctx->file;
    struct inode *inode;

    if (!task || !file)
        return 0;
    inode = file->f_inode;
    if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFSOCK)
        return 0;
    owner.inode = BPF_CORE_READ(inode, i_ino);
    owner.started_ns = BPF_CORE_READ(task, group_leader, start_boottime);
    owner.pid = task->tgid;
    bpf_core_read(owner.comm, sizeof(owner.comm), &task->group_leader->comm);
    bpf_seq_write(ctx->meta->seq, &owner, sizeof(owner));
    return 0;
}
