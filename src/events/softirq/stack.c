// SPDX-License-Identifier: Apache-2.0

#include "events/softirq/stack.h"

#include <stdio.h>
#include <string.h>

/** Where an interrupt begins: what is below is what another one interrupted. */
static bool is_interrupt(const char *name)
{
    return strncmp(name, "asm_sysvec_", 11) == 0 || strcmp(name, "asm_common_interrupt") == 0 ||
           strcmp(name, "el1h_64_irq") == 0 || strcmp(name, "el1_irq") == 0;
}

/** Runs what was raised; the frame before it is the handler. */
static bool is_dispatch(const char *name)
{
    return strcmp(name, "handle_softirqs" /* 6.9+ */) == 0 || strcmp(name, "__do_softirq") == 0;
}

/** Takes the name off a line, without what compilers append (`.isra.0`, `.cold`); returns the rest.
 */
static const char *take_name(const char *line, char ret[STACK_NAME_MAX])
{
    const char *next = strchr(line, '\n');

    snprintf(ret, STACK_NAME_MAX, "%.*s", (int)strcspn(line, "./\n"), line);
    return next ? next + 1 : "";
}

void stack_find_place(const char *text, struct stack_place *ret)
{
    const char *at = symbols_text_interrupted(text);
    char name[STACK_NAME_MAX], inner[STACK_NAME_MAX] = "";

    *ret = (struct stack_place){.ran = at == text ? STACK_UNKNOWN : STACK_USER};
    if (at == text || !*at)
        return;
    ret->ran = STACK_KERNEL;
    take_name(take_name(at, ret->function), ret->caller);
    while (*at) {
        at = take_name(at, name);
        if (is_interrupt(name))
            return;
        if (is_dispatch(name) && *inner) {
            ret->ran = STACK_HANDLER;
            memcpy(ret->handler, inner, sizeof(inner));
            return;
        }
        memcpy(inner, name, sizeof(name));
    }
}
