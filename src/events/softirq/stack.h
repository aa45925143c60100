// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Reads a kernel stack taken in a timer interrupt: what was it that was interrupted? */

#include "kernel/symbols.h"

#define STACK_NAME_MAX 128

enum stack_ran {
    STACK_UNKNOWN, /* no symbols, or nothing that looks like an interrupt */
    STACK_USER,    /* nothing of the kernel */
    STACK_KERNEL,  /* a process in the kernel, or an interrupt */
    STACK_HANDLER, /* the handler of a softirq */
};

struct stack_place {
    enum stack_ran ran;
    char function[STACK_NAME_MAX]; /* that was interrupted; "": none, or not known */
    char caller[STACK_NAME_MAX];   /* its caller */
    char handler[STACK_NAME_MAX];  /* e.g. net_rx_action */
};

/** `text`: symbols_stack_text(). */
void stack_find_place(const char *text, struct stack_place *ret);
