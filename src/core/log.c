// SPDX-License-Identifier: Apache-2.0

#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/text.h"

#define MESSAGE_MAX 8192

static enum log_level max_level = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    __atomic_store_n(&max_level, level, __ATOMIC_RELAXED);
}

/* The variable alone proves nothing: it is inherited by children whose stderr goes elsewhere. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    char own[64];
    struct stat st;

    if (!stream || fstat(STDERR_FILENO, &st) < 0)
        return false;
    snprintf(own, sizeof(own), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return strcmp(stream, own) == 0;
}

static void write_all(const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, bytes, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* there is nobody left to tell */
        bytes += n;
        len -= (size_t)n;
    }
}

void log_line(enum log_level level, const char *format, ...)
{
    static const char *const words[] = {
        [LOG_LEVEL_ERROR] = "error: ",
        [LOG_LEVEL_WARNING] = "warning: ",
        [LOG_LEVEL_INFO] = "",
        [LOG_LEVEL_DEBUG] = "debug: ",
    };
    static const char *const colours[] = {
        [LOG_LEVEL_ERROR] = "\x1b[1;31m",
        [LOG_LEVEL_WARNING] = "\x1b[33m",
        [LOG_LEVEL_INFO] = "",
        [LOG_LEVEL_DEBUG] = "\x1b[2m",
    };
    _cleanup_(text_done) struct text out = {};
    const char *no_colour = getenv("NO_COLOR"), *colour = "", *word = words[level];
    char message[MESSAGE_MAX], priority[8] = "";
    int saved = errno, len;
    va_list args;

    if (level > __atomic_load_n(&max_level, __ATOMIC_RELAXED))
        return;

    va_start(args, format);
    len = vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    if (len < 0)
        snprintf(message, sizeof(message), "(a message that could not be formatted: %s)", format);
    else if ((size_t)len >= sizeof(message))
        snprintf(message + sizeof(message) - 4, 4, "...");

    if (stderr_is_journal())
        snprintf(priority, sizeof(priority), "<%d>", (int)level);
    else if (isatty(STDERR_FILENO) && !(no_colour && *no_colour))
        colour = colours[level];

    /* All in one write, so that lines of several threads do not mix. */
    for (char *line = message, *rest; line; line = rest, word = "    ") {
        rest = strchr(line, '\n');
        if (rest)
            *rest++ = '\0';
        if (*line || line == message)
            text_addf(&out, "%s%s%s%s%s\n", priority, colour, word, line, *colour ? "\x1b[0m" : "");
    }
    if (out.failed) {
        write_all(message, strlen(message));
        write_all("\n", 1);
    } else {
        write_all(out.data, out.len);
    }
    errno = saved;
}
