// SPDX-License-Identifier: Apache-2.0

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "agent/status_socket.h"
#include "cli/arguments.h"
#include "cli/cli.h"
#include "cli/gaps.h"
#include "cli/query.h"
#include "cli/render.h"
#include "core/clock.h"
#include "core/event.h"
#include "core/text.h"
#include "store/store.h"

#define POLL_MS          100
#define AGENT_PATIENCE_S 1

struct list {
    const char *store;
    struct store_query query;
    bool json, follow;

    bool colour;
    sigset_t ends; /* signals that end following */
    uint64_t printed;
    uint64_t last_seq; /* the greatest that has been seen */
};

/* CLI_OK, or what is to be returned for a wrong call. `tracer_names` has room for argc. */
static int parse_arguments(struct list *l, const char **tracer_names, int argc, char **argv)
{
    struct cli_query words = {.tracer_names = tracer_names};
    const char *limit = NULL;
    const struct argument table[] = {
        CLI_QUERY_ARGUMENTS(&words, &l->query),
        {"--limit", .value = &limit},
        {"--rejected", .flag = &l->query.rejected},
        {"-f", .flag = &l->follow},
        {"--json", .flag = &l->json},
        {"--store", .value = &l->store},
        {},
    };
    int status = arguments_parse(&cli_list, table, argc, argv);

    if (status == CLI_OK)
        status = cli_query_parse(&cli_list, &words, &l->query);
    if (status == CLI_OK && limit)
        status = cli_parse_number(&cli_list, "--limit", limit, INT64_MAX, &l->query.limit);
    if (status == CLI_OK && words.until && l->follow)
        return cli_usage(&cli_list, "-f goes on for ever and --until ends: take one of them");
    return status;
}

/* Whoever reads our output has gone; waits for that. */
static bool output_closed(int timeout_ms)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = 0};

    return poll(&out, 1, timeout_ms) > 0;
}

/* With who refused it and why, around the record as it is. */
static int print_rejected_json(const struct store_row *row)
{
    _cleanup_(text_done) struct text line = {};
    char when[CLOCK_TEXT_MAX];

    clock_format_rfc3339(row->rejected_ns, when);
    text_addf(&line, "{\"target\":\"%s\",\"rejected_time\":\"%s\",\"reason\":\"", row->rejected_by,
              when);
    text_add_json(&line, row->reason, SIZE_MAX);
    text_adds(&line, "\",\"record\":");
    text_add(&line, row->json, row->len);
    text_adds(&line, "}\n");
    if (line.failed)
        return -ENOMEM;
    return fwrite(line.data, 1, line.len, stdout) == line.len ? 0 : -errno;
}

static int print_reason(const struct store_row *row)
{
    _cleanup_(text_done) struct text line = {};
    char when[CLOCK_TEXT_MAX];

    clock_format_s(row->rejected_ns, when);
    text_addf(&line, "    refused by %s, %s: ", row->rejected_by, when);
    text_add_printable(&line, row->reason, SIZE_MAX);
    if (line.failed)
        return -ENOMEM;
    return puts(line.data) == EOF ? -errno : 0;
}

static int print(struct list *l, const struct store_row *row)
{
    char quoted[TEXT_QUOTED_MAX];
    int r;

    if (l->json && row->rejected_by)
        return print_rejected_json(row);
    if (l->json)
        return fwrite(row->json, 1, row->len, stdout) == row->len && putchar('\n') != EOF ? 0
                                                                                          : -errno;
    r = render_line(stdout, row->json, row->len, l->colour, false);
    if (r == 0 && row->rejected_by)
        return print_reason(row);
    if (r != -EBADMSG)
        return r;
    fprintf(stderr, "huatuo list: record %s in %s is damaged and was left out\n",
            text_quote(row->id, quoted), l->store);
    return 0;
}

static int print_row(void *arg, const struct store_row *row)
{
    struct list *l = arg;
    int r;

    l->printed++;
    l->last_seq = MAX(l->last_seq, row->seq);
    if (!l->follow)
        return print(l, row);
    /* A signal ends us between two records, not in the middle of one. */
    sigprocmask(SIG_BLOCK, &l->ends, NULL);
    r = print(l, row);
    if (r == 0 && fflush(stdout) == EOF)
        r = -errno;
    sigprocmask(SIG_UNBLOCK, &l->ends, NULL);
    return r;
}

static int print_rows(struct list *l, struct store_reader *reader)
{
    int r = store_reader_each(reader, &l->query, print_row, l);

    if (r == 0 && fflush(stdout) == EOF)
        return -errno;
    return r;
}

static int note_gap(void *arg, const struct store_row *row)
{
    return gaps_note(arg, row);
}

/* Whether an agent uses the store; else when one was last alive there. */
static bool is_watched(const char *store, uint64_t *ret_alive_ns)
{
    _close_fd_ int fd = status_socket_connect(store, AGENT_PATIENCE_S);
    _free_ char *lock = NULL;
    struct stat st = {};

    if (fd >= 0)
        return true;
    if (asprintf(&lock, "%s/lock", store) >= 0 && stat(lock, &st) == 0)
        *ret_alive_ns = (uint64_t)st.st_mtim.tv_sec * NS_PER_SEC + (uint64_t)st.st_mtim.tv_nsec;
    return false;
}

/* Silence is no proof of health where nobody was listening. */
static int print_gaps(const struct list *l, struct store_reader *reader)
{
    static const char *const coverage[] = {COVERAGE_NAME, NULL};
    const struct store_query query = {.tracer_names = coverage};
    uint64_t now_ns = clock_now_ns(CLOCK_REALTIME), alive_ns = now_ns;
    _cleanup_(gaps_freep) struct gaps *gaps = NULL;
    int r = gaps_new(&gaps);

    if (r == 0)
        r = store_reader_each(reader, &query, note_gap, gaps);
    if (r == 0 && !is_watched(l->store, &alive_ns))
        r = gaps_end(gaps, alive_ns);
    if (r == 0)
        r = gaps_print(gaps, l->query.tracer_names, l->query.since_ns,
                       l->query.until_ns ? l->query.until_ns : now_ns, stdout);
    return r < 0 ? r : 0;
}

/* Returns only if it can't go on: -EPIPE when nobody reads any more. */
static int follow(struct list *l, struct store_reader *reader)
{
    uint64_t printed_version = 0, version;
    int r;

    /* With --limit older records are left out, which must not come later. */
    r = store_reader_last(reader, &l->last_seq);
    for (bool first = true; r == 0; first = false) {
        /* Asked before the query: what comes in between is found in the next round. */
        r = store_reader_version(reader, &version);
        if (r == 0 && (first || version != printed_version))
            r = print_rows(l, reader);
        if (r == 0 && output_closed(POLL_MS))
            r = -EPIPE;
        printed_version = version;
        l->query.after_seq = l->last_seq;
        l->query.limit = 0;
    }
    return r;
}

static int list(struct list *l)
{
    _cleanup_(store_reader_closep) struct store_reader *reader = NULL;
    char error[512];
    int r;

    r = store_reader_open(l->store, error, sizeof(error), &reader);
    if (r < 0) {
        fprintf(stderr, "huatuo list: %s\n", error);
        return CLI_FAILED;
    }
    r = l->follow ? follow(l, reader) : print_rows(l, reader);
    if (r == 0 && !l->json && !l->query.rejected)
        r = print_gaps(l, reader);
    if (r == 0 && fflush(stdout) == EOF)
        r = -errno;
    if (r == -EPIPE)
        return CLI_OK;
    if (r < 0) {
        fprintf(stderr, "huatuo list: cannot %s: %s\n",
                ferror(stdout) ? "write to standard output" : "read the store", strerror(-r));
        return CLI_FAILED;
    }
    if (l->printed == 0 && !l->json && !l->follow)
        fprintf(stderr, "huatuo list: no such record in %s\n", l->store);
    return CLI_OK;
}

/* At once, even out of a long search that finds nothing. */
static void end(int signal_number)
{
    (void)signal_number;
    _exit(CLI_OK);
}

/* Ctrl-C is how following ends, and no failure. */
static void catch_signals(struct list *l)
{
    sigemptyset(&l->ends);
    sigaddset(&l->ends, SIGINT);
    sigaddset(&l->ends, SIGTERM);
    signal(SIGINT, end);
    signal(SIGTERM, end);
}

static int run(int argc, char **argv)
{
    _free_ const char **tracer_names = calloc((size_t)argc + 1, sizeof(*tracer_names));
    struct list l = {.store = CLI_DEFAULT_STORE, .colour = render_colour(stdout)};
    int status;

    if (!tracer_names) {
        fprintf(stderr, "huatuo list: out of memory\n");
        return CLI_FAILED;
    }
    status = parse_arguments(&l, tracer_names, argc, argv);
    if (status != CLI_OK)
        return status;
    /* `| head` ends us by an error of writing, so that the store is closed. */
    signal(SIGPIPE, SIG_IGN);
    if (l.follow)
        catch_signals(&l);
    return list(&l);
}

const struct cli_command cli_list = {
    .name = "list",
    .arguments = CLI_QUERY_USAGE " [--limit N] [--rejected] [-f] [--json] [--store DIR]",
    .summary = "Show what was recorded, newest last.",
    .help = CLI_QUERY_HELP
    "  --limit N         only the newest N\n"
    "  --rejected        only records that a server refused for good, with its reason; they\n"
    "                    are not sent again\n"
    "  -f                go on with what comes, until interrupted\n"
    "  --json            the whole records, one a line\n"
    "  --store DIR       where the records are (" CLI_DEFAULT_STORE ")\n"
    "\n"
    "Without --json and -f, lines that begin with -- say when in that time a kind of event\n"
    "was not watched, or lost events.\n",
    .run = run,
};
