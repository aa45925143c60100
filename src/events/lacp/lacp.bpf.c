// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/** Changes of bonds that the source has found. */

#include "events/lacp/lacp.h"
#include "bpf/event.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

FOUND_MAP(struct lacp_wire);

SEC("?raw_tp")
int take_found(void *ctx)
{
    __u32 zero = 0;
    struct found *f = bpf_map_lookup_elem(&found, &zero);

    return f ? event_found(&f->found, &f->wire.head, sizeof(f->wire)) : 0;
}
