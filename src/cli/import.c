// SPDX-License-Identifier: Apache-2.0

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/arguments.h"
#include "cli/cli.h"
#include "core/clock.h"
#include "core/record.h"
#include "core/text.h"
#include "store/docread.h"
#include "store/store.h"

#define LINE_MAX_BYTES (RECORD_MAX_BYTES + 4096) /* with blanks, and what a server was sent */
#define SHOWN_MAX      20                        /* lines that are complained of */
#define WAIT_US        5000
#define PATIENCE_NS    (10 * NS_PER_SEC) /* for a store that cannot be written to */
#define CLOSE_NS       (30 * NS_PER_SEC)

struct import {
    const char *file;
    struct store *store;
    uint64_t first_seq;
    uint64_t lines, refused, handed_over;
};

static _printf_(1, 2) int fail(const char *format, ...)
{
    _cleanup_(text_done) struct text shown = {};
    char line[2048];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    text_add_printable(&shown, line, sizeof(line));
    fprintf(stderr, "huatuo import: %s\n", shown.data ? shown.data : "out of memory");
    return CLI_FAILED;
}

/** One line without its end. False: there is none any more. `ret_len` is more than `size` if it did
 * not fit; the rest was skipped. */
static bool read_line(FILE *in, char *line, size_t size, size_t *ret_len)
{
    size_t len = 0;
    int c;

    while ((c = getc_unlocked(in)) != EOF && c != '\n') {
        if (len < size)
            line[len] = (char)c;
        len++;
    }
    *ret_len = len;
    return c != EOF || len;
}

static void complain(struct import *i, const char *why)
{
    if (i->refused++ < SHOWN_MAX)
        fail("%s: line %llu: %s", i->file, (unsigned long long)i->lines, why);
}

/** Until there is room, and at the end until all is on the disk. */
static int wait_for_store(const struct import *i, uint64_t queued_max)
{
    uint64_t failing_ns = 0;
    struct store_state state;

    for (;;) {
        uint64_t now_ns = clock_now_ns(CLOCK_MONOTONIC);

        store_get_state(i->store, &state);
        if (state.queued <= queued_max && state.writing)
            return 0;
        failing_ns = state.writing ? 0 : failing_ns ? failing_ns : now_ns;
        if (failing_ns && now_ns >= failing_ns + PATIENCE_NS)
            return fail("%s", state.problem);
        usleep(WAIT_US);
    }
}

static int take_line(struct import *i, const char *line, size_t len)
{
    _cleanup_(doc_unrefp) struct doc *doc = NULL;
    char error[256];
    int r;

    if (len > LINE_MAX_BYTES) {
        complain(i, "it is longer than any record");
        return CLI_OK;
    }
    if (strspn(line, " \t\r") >= len)
        return CLI_OK;
    r = doc_read(line, len, &doc, error, sizeof(error));
    if (r == -ENOMEM)
        return fail("out of memory");
    if (r < 0) {
        complain(i, error);
        return CLI_OK;
    }
    while (store_put(i->store, doc) == -ENOBUFS)
        if (wait_for_store(i, 1000) != CLI_OK)
            return CLI_FAILED;
    i->handed_over++;
    return CLI_OK;
}

static int take_lines(struct import *i, FILE *in)
{
    _free_ char *line = malloc(LINE_MAX_BYTES + 1);
    int status = CLI_OK;
    size_t len;

    if (!line)
        return fail("out of memory");
    while (status == CLI_OK && read_line(in, line, LINE_MAX_BYTES, &len)) {
        line[MIN(len, (size_t)LINE_MAX_BYTES)] = '\0';
        i->lines++;
        status = take_line(i, line, len);
    }
    if (status == CLI_OK && ferror(in))
        status = fail("reading %s failed: %s", i->file, strerror(errno));
    return status;
}

/** What is there, whatever came in between. */
static int sum_up(const struct import *i, int status)
{
    struct store_state state;
    uint64_t added;

    if (status == CLI_OK)
        status = wait_for_store(i, 0);
    store_get_state(i->store, &state);
    added = state.next_seq - MIN(i->first_seq, state.next_seq);
    if (i->refused > SHOWN_MAX)
        fail("%s: %llu more lines are no records", i->file,
             (unsigned long long)(i->refused - SHOWN_MAX));
    printf("imported %llu", (unsigned long long)added);
    if (i->handed_over - state.queued > added)
        printf(", were there already %llu",
               (unsigned long long)(i->handed_over - state.queued - added));
    if (i->refused)
        printf(", no records %llu", (unsigned long long)i->refused);
    putchar('\n');
    if (fflush(stdout) != 0)
        return fail("writing to standard output failed: %s", strerror(errno));
    return i->refused ? CLI_FAILED : status;
}

/** The lock's time tells the next agent when the one before was last alive, which was not us. */
static void restore_alive(const char *path, uint64_t alive_ns)
{
    const struct timespec when = {(time_t)(alive_ns / NS_PER_SEC), (long)(alive_ns % NS_PER_SEC)};
    const struct timespec times[] = {when, when};
    _free_ char *lock = NULL;

    if (alive_ns && asprintf(&lock, "%s/lock", path) >= 0)
        utimensat(AT_FDCWD, lock, times, 0);
}

static int import(const char *path, FILE *in, struct import *i)
{
    /* Nothing goes for want of room or for its age: that is the agent's to decide. */
    const struct store_options options = {.path = (char *)path};
    struct store_state state;
    uint64_t alive_ns;
    char error[512];
    int r, status;

    if (mkdir(path, 0750) < 0 && errno != EEXIST)
        return fail("making the directory %s failed: %s", path, strerror(errno));
    r = store_open(&options, 0, error, sizeof(error), &i->store);
    if (r == -EBUSY)
        return fail("%s; a store has one writer: stop that agent, or import into another store "
                    "with --store DIR, which list and show read as well",
                    error);
    if (r < 0)
        return fail("%s", error);
    alive_ns = store_alive_before(i->store);
    status = wait_for_store(i, 0);
    store_get_state(i->store, &state);
    i->first_seq = state.next_seq;
    if (status == CLI_OK)
        status = sum_up(i, take_lines(i, in));
    i->store = store_close(i->store, clock_now_ns(CLOCK_MONOTONIC) +
                                         (status == CLI_OK ? CLOSE_NS : NS_PER_SEC));
    restore_alive(path, alive_ns);
    return status;
}

static int run(int argc, char **argv)
{
    const char *store = CLI_DEFAULT_STORE;
    struct import i = {};
    const struct argument table[] = {{"", .value = &i.file}, {"--store", .value = &store}, {}};
    int status = arguments_parse(&cli_import, table, argc, argv);
    FILE *in = stdin;

    if (status != CLI_OK)
        return status;
    if (!i.file)
        return cli_usage(&cli_import, "which file is to be imported? `-` is standard input");
    if (strcmp(i.file, "-") != 0)
        in = fopen(i.file, "re");
    if (!in)
        return fail("%s cannot be opened: %s", i.file, strerror(errno));
    status = import(store, in, &i);
    if (in != stdin)
        fclose(in);
    return status;
}

const struct cli_command cli_import = {
    .name = "import",
    .arguments = "FILE [--store DIR]",
    .summary = "Read records back that `export` or `list --json` wrote.",
    .help =
        "  FILE          a record a line (NDJSON); - is standard input\n"
        "  --store DIR   where they are put (" CLI_DEFAULT_STORE "); made if it is not there. No\n"
        "                agent may run on it\n"
        "\n"
        "What is there already stays as it is. Lines that are no records are said, and do not "
        "keep\n"
        "the others from being imported; the exit status is 1 then.\n",
    .run = run,
};
