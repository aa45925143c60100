// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Whether a way to a hook works on this kernel: tried, or judged by what can be read about it. */

#include "core/channel.h"
#include "core/tree.h"

struct btf;

enum probe_state {
    PROBE_ATTACHES, /* tried: loaded, attached and taken away */
    PROBE_SHOULD,   /* not tried; what can be read speaks for it */
    PROBE_REFUSED,
    PROBE_UNKNOWN, /* not tried, and nothing can be read that would tell */
};

struct probe {
    enum probe_state state;
    char reason[CHANNEL_TEXT_MAX]; /* PROBE_REFUSED, PROBE_UNKNOWN: why, in plain words;
                                    * PROBE_ATTACHES: what is to be said all the same, or "" */
    const char *advice;            /* what to do about it; static; "" if there is nothing */
};

/** What is read once to judge all ways by. */
struct probe_facts {
    const struct tree *tree;
    struct btf *btf; /* the kernel's types; owned; NULL: see btf_error */
    int btf_error;   /* -ENOENT: the kernel has none; -EBADMSG: they make no sense; other -errno */
    char *symbols;   /* /proc/kallsyms, owned; NULL: see symbols_error */
    int symbols_error;
};

/** `tree` must outlive the facts. */
void probe_read(const struct tree *tree, struct probe_facts *ret);
void probe_done(struct probe_facts *facts);
/** Whether /proc/kallsyms has a function of that name. */
bool probe_has_symbol(const struct probe_facts *facts, const char *name);

/** Loads and attaches that way for a moment, for those who have the capabilities to. Nothing is
 * watched by it. */
void probe_try(const struct event *event, const struct event_options *options, unsigned hook,
               unsigned way, struct probe *ret);
/** Judges without loading anything, for machines that are not this one and users who may not. */
void probe_judge(const struct probe_facts *facts, const struct event *event, unsigned hook,
                 unsigned way, struct probe *ret);
/** The same for one section name of a BPF program: "tp_btf/kfree_skb". */
void probe_judge_section(const struct probe_facts *facts, const char *section, struct probe *ret);

/** 0: the iterator over open sockets (root/sockets.h) loads; -errno. */
int probe_try_sockets(void);
