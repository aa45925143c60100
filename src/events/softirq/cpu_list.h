// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Lists of CPUs as the kernel writes them: `0-3,8`. */

#include "core/base.h"

/** A bit per CPU, of `max` (a multiple of 64); what is beyond, or makes no sense, is left out. */
void cpu_list_parse(const char *text, uint64_t *ret, unsigned max);
/** The same of a file; without one there are none. */
void cpu_list_read(const char *path, uint64_t *ret, unsigned max);
