// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * A record as a person reads it in a terminal. Nothing that stands in a record can act on the
 * terminal. All return -EBADMSG if `json` is no record, or the errno of writing.
 */

#include <stdio.h>

#include "core/base.h"

/** Whether to colour: a terminal, and NO_COLOR unset. */
bool render_colour(FILE *out);
/**
 * One line: time (with the date, if that is not today), event, who, what happened (the summary);
 * below it, if `with_stack`, the stacks, indented.
 */
int render_line(FILE *out, const char *json, size_t len, bool colour, bool with_stack);
/** Every field, indented; texts of several lines as such. For `show`. */
int render_whole(FILE *out, const char *json, size_t len, bool colour);
