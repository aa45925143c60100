// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Log lines go to standard error, one line each, with systemd's <N> prefix when standard error is a
 * journal (JOURNAL_STREAM), coloured when it is a terminal. Text that did not come from us is made
 * printable by the caller (text_add_printable, text_quote). A newline in a message begins a
 * continuation, indented so that it cannot pass for a message of its own; a last one is dropped.
 *
 * A function either logs or returns its error; who gives up, or goes on without, logs once and says
 * what was tried, on what, why it failed and what happens next.
 */

#include "core/base.h"

enum log_level {
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARNING = 4,
    LOG_LEVEL_INFO = 6,
    LOG_LEVEL_DEBUG = 7
};

/** The one mutable global. */
void log_set_level(enum log_level level);
void log_line(enum log_level level, const char *format, ...) _printf_(2, 3);

#define log_error(...)   log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
