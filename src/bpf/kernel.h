/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HUATUO_BPF_KERNEL_H
#define HUATUO_BPF_KERNEL_H

/**
 * The kernel's types as far as we read them. The offsets are the running kernel's: libbpf relocates
 * every access (CO-RE). A field that some kernels lack is read behind bpf_core_field_exists(); a
 * type whose shape differs has a flavour `type___what`, which libbpf matches by the part before
 * `___`.
 */

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
    __u32 val;
} kuid_t;

typedef struct {
    int counter;
} atomic_t;

typedef struct {
    long counter;
} atomic_long_t;

struct percpu_counter {
    __s64 count;
    __s32 *counters; /* a part for each CPU */
};

struct mm_struct {
    unsigned long total_vm;       /* pages */
    atomic_long_t pgtables_bytes; /* 4.15+ */
    unsigned long arg_start;
    unsigned long arg_end;
    struct percpu_counter rss_stat[4]; /* 6.2+, f1a7941243c1 */
};

struct mm_rss_stat {
    atomic_long_t count[4];
};

struct mm_struct___before_6_2 {
    struct mm_rss_stat rss_stat;
};

struct cred {
    kuid_t uid;
};

struct signal_struct {
    short oom_score_adj;
    struct mm_struct *oom_mm; /* set once the process has been chosen by the OOM killer */
};

struct cgroup;

struct cgroup_subsys_state {
    struct cgroup *cgroup;
    struct cgroup_subsys_state *parent;
};

struct css_set {
    struct cgroup *dfl_cgrp; /* of the v2 hierarchy; its root where that is not used */
    struct cgroup_subsys_state *subsys[1]; /* as many as there are controllers */
};

struct task_struct {
    unsigned int __state; /* 5.14+, 2f064a59a11f */
    unsigned int flags;   /* PF_* */
    char comm[16];
    int pid;
    int tgid;
    struct task_struct *real_parent;
    struct task_struct *group_leader;
    __u64 start_boottime; /* 5.5+ */
    unsigned long nvcsw;  /* how often it left a CPU, by itself and not */
    unsigned long nivcsw;
    struct mm_struct *mm;
    struct signal_struct *signal;
    const struct cred *cred;
    struct css_set *cgroups;
};

struct task_struct___before_5_14 {
    long state;
};

struct ns_common {
    unsigned int inum;
};

struct linux_mib {
    unsigned long mibs[1]; /* by LINUX_MIB_*; as many as there are */
};

struct netns_mib {
    struct linux_mib *net_statistics; /* of each CPU */
};

struct netns_ipv4 {
    __u8 sysctl_tcp_syncookies; /* an int before 5.13, whose first byte this is; 0, 1 or 2 */
    int sysctl_max_syn_backlog;
};

struct net {
    struct ns_common ns;
    struct netns_mib mib;
    struct netns_ipv4 ipv4;
};

typedef struct {
    struct net *net;
} possible_net_t;

struct net_device {
    char name[16];
    int ifindex;
    possible_net_t nd_net;
};

struct kernfs_node {
    __u64 id;
    const char *name;
    struct kernfs_node *__parent; /* 6.15+, 633488947ef6 */
};

struct kernfs_node___before_6_15 {
    struct kernfs_node *parent;
};

struct cgroup_root {
    int hierarchy_id; /* 0: the v2 hierarchy */
};

struct cgroup {
    struct kernfs_node *kn;
    struct cgroup_root *root;
};

/* The numbers are the running kernel's (bpf_core_enum_value). */
enum cgroup_subsys_id { memory_cgrp_id = 4 };

struct sock_cgroup_data {
    struct cgroup *cgroup; /* 5.15+ */
};

struct sock_cgroup_data___before_5_15 {
    __u64 val; /* the pointer, or flags if the lowest bit is set; removed by 8520e224f547 */
};

struct in6_addr {
    __u8 s6_addr[16]; /* not the kernel's shape; only the address of the member is used */
};

struct sock_common {
    __be32 skc_daddr;
    __be32 skc_rcv_saddr;
    __be16 skc_dport;
    unsigned short skc_family;
    volatile unsigned char skc_state;
    possible_net_t skc_net;
    struct in6_addr skc_v6_daddr;
    struct in6_addr skc_v6_rcv_saddr;
};

struct socket {
    short type;
};

struct inode {
    unsigned short i_mode;
    unsigned long i_ino;
};

struct file {
    struct inode *f_inode;
};

struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
    __u64 seq_num; /* of the object, from 0 */
};

struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
};

struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
    __u32 fd;
    struct file *file;
};

struct socket_alloc {
    struct socket socket;
    struct inode vfs_inode;
};

struct sk_buff;

struct sk_buff_head {
    struct sk_buff *next; /* the head itself: it is empty */
};

struct sock {
    struct sock_common __sk_common;
    struct sk_buff_head sk_receive_queue;
    struct socket *sk_socket;
    kuid_t sk_uid;
    __u32 sk_ack_backlog; /* of a listener: connections that wait for accept() */
    __u32 sk_max_ack_backlog;
    __u16 sk_protocol; /* a bit field before 5.6 */
    struct sock_cgroup_data sk_cgrp_data;
};

struct inet_sock {
    __be16 inet_sport; /* unlike skc_num it stays when the port is given back */
};

struct tcp_sock {
    __u32 rcv_nxt;
    __u32 copied_seq; /* what is read next */
};

struct sock___before_5_15 {
    struct sock_cgroup_data___before_5_15 sk_cgrp_data;
};

struct dst_entry {
    struct net_device *dev;
};

struct sk_buff {
    __s64 tstamp;              /* ns; 0: none. Of which clock: below */
    unsigned long _skb_refdst; /* of a struct dst_entry; the lowest bit is a flag (SKB_DST_NOREF) */
    struct net_device *dev;
    struct sock *sk;
    char cb[48]; /* of whoever has the packet, in TCP a struct tcp_skb_cb */
    unsigned int len;
    unsigned int truesize;
    __u16 queue_mapping;
    int skb_iif;
    __be16 protocol;
    __u16 transport_header;
    __u16 network_header;
    unsigned char *head;
    unsigned char *data;
};

struct sk_buff___mono_delivery_time { /* 5.18 to 6.10, a1ac9c8acec1 */
    __u8 mono_delivery_time : 1;      /* tstamp: CLOCK_MONOTONIC, else CLOCK_REALTIME */
};

struct sk_buff___tstamp_type { /* 6.11+, 4d25ca2d6801 */
    __u8 tstamp_type : 2;      /* tstamp: enum skb_tstamp_type */
};

struct tcp_skb_cb {
    __u32 seq;
    __u32 end_seq;
};

/* include/trace/events/skb.h */
enum skb_drop_reason { SKB_NOT_DROPPED_YET = 0 };

struct trace_event_raw_kfree_skb {
    void *skbaddr;
    void *location;
};

struct trace_event_raw_kfree_skb___reason { /* 5.17+, c504e5c2f964 */
    /* An enum here, or the field does not match the kernel's. */
    enum skb_drop_reason reason;
};

struct trace_event_raw_kfree_skb___rx_sk { /* 6.11+, c53795d48ee8 */
    void *rx_sk;
};

#pragma clang attribute pop

#define AF_INET          2
#define AF_INET6         10

#define TCP_ESTABLISHED  1
#define TCP_SYN_SENT     2
#define TCP_TIME_WAIT    6
#define TCP_CLOSE        7
#define TCP_LISTEN       10
#define TCP_NEW_SYN_RECV 12

#endif
