/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) OR Apache-2.0 */
#ifndef HUATUO_SOCKETS_H
#define HUATUO_SOCKETS_H

/** What the iterator over open sockets writes, one after the other; shared with its BPF program. */

#include "core/wire.h"

struct socket_owner {
    __u64 inode;      /* of the socket's file */
    __u64 started_ns; /* the process; CLOCK_BOOTTIME */
    __u32 pid;        /* process that has it open; others may have it open too */
    __u32 pad;
    char comm[WIRE_COMM_LEN];
};

#endif
