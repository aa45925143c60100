// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * What the root part and the agent proper say to each other: fixed-size messages over a
 * SOCK_SEQPACKET pair, descriptors beside them (SCM_RIGHTS, unix(7)). Each trusts the other's bytes
 * no further than their bounds.
 */

#include "core/event.h"

enum channel_type {
    /* root part to agent */
    CHANNEL_KIND = 1,  /* a kind is loaded; descriptors: ring, counters, common[, settings] */
    CHANNEL_HOOK,      /* what became of one way of one hook */
    CHANNEL_SAMPLES,   /* follows its CHANNEL_KIND; descriptor: the map `samples` */
    CHANNEL_PERF,      /* follows that; descriptor: the event of one hook on one CPU */
    CHANNEL_SYSRQ,     /* it is allowed; descriptor: an eventfd, to be written to for sysrq l */
    CHANNEL_LOADED,    /* that was all: give up privilege and begin to watch */
    CHANNEL_WINDOW,    /* a repeat window has closed with repeats */
    CHANNEL_MISSED,    /* how often the kernel left our programs out */
    CHANNEL_EXE,       /* answer */
    CHANNEL_END,       /* the hooks are detached; nothing more will come; `text`: why */
    CHANNEL_HAND_OVER, /* another agent goes on: to be answered with CHANNEL_STATE. `text`: why its
                        * records will not be in the same store; "": they will */
    CHANNEL_GO, /* to one that is CHANNEL_PREPARED: the one before has ended; descriptors as of
                 * its CHANNEL_STATE, if there was one */
    /* agent to root part */
    CHANNEL_WATCHING, /* the store is open, records are being written */
    CHANNEL_ALIVE,    /* the loop goes round: once a second */
    CHANNEL_PREPARED, /* ready to go on where the one before it ends; `text`: for CHANNEL_HAND_OVER
                       */
    CHANNEL_STATE,    /* the last words of one that was told to hand over; descriptors: what it had
                       * counted (agent/handover.h), its status socket if there is one */
    CHANNEL_ASK_EXE,  /* what a process runs, readable by the privileged only; descriptor: /proc/PID
                       */
    CHANNEL_ASK_ITERATOR, /* a snapshot of the kind `event`, or CHANNEL_SOCKETS: is answered with */
    CHANNEL_ITERATOR,     /* root part to agent; descriptor: an iterator to read, if there is one */
};

/** Instead of a kind: the owners of open sockets (core/sockets.h), which are of no kind. */
#define CHANNEL_SOCKETS UINT32_MAX

enum hook_state {
    HOOK_ATTACHED, /* in use */
    HOOK_REFUSED,  /* tried; `text` says why it failed */
    HOOK_UNUSED,   /* not tried, as a better one is in use */
    HOOK_OFF,      /* switched off in the configuration */
};

#define CHANNEL_FDS_MAX  4
#define CHANNEL_TEXT_MAX 512

struct channel_message {
    uint32_t type;  /* enum channel_type */
    uint32_t event; /* index in events[] */
    union {
        struct {
            uint32_t n_cpus;
            uint32_t instance; /* other if the kind was loaded anew: its counters began at 0 */
            uint32_t fresh;    /* nobody watches through it yet */
        } kind;
        struct {
            uint32_t hook, way, state; /* enum hook_state */
        } hook;
        struct {
            uint32_t hook, cpu;
        } perf;
        struct {
            struct wire_key key;
            struct wire_window window;
        } window;
        struct {
            uint64_t missed;
        } missed;
        struct {
            uint32_t pid;
            uint64_t start_boot_ns;
        } exe;
    };
    char text[CHANNEL_TEXT_MAX]; /* NUL-terminated */
};

/** -EPIPE when the other side is gone; -EAGAIN when the socket is non-blocking and full. */
int channel_send(int fd, const struct channel_message *m, const int *fds, size_t n_fds);
/**
 * 1: a message, the caller owns the descriptors; 0: the other side has closed; -EAGAIN, -EBADMSG
 * and other errors. `fds` has room for CHANNEL_FDS_MAX.
 */
int channel_receive(int fd, struct channel_message *ret, int *fds, size_t *ret_n_fds);
