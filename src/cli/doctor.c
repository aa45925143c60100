// SPDX-License-Identifier: Apache-2.0

#include <fcntl.h>
#include <jansson.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "agent/directory.h"
#include "agent/settings.h"
#include "cli/arguments.h"
#include "cli/ask.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/render.h"
#include "core/event.h"
#include "core/text.h"
#include "root/kind.h"
#include "store/store.h"

#define WIDTH_MIN     80
#define WIDTH_MAX     120
#define WIDTH_DEFAULT 100

#define RED           "\033[31m"
#define GREEN         "\033[32m"
#define YELLOW        "\033[33m"
#define BOLD          "\033[1m"
#define DIM           "\033[2m"
#define PLAIN         "\033[0m"

struct doctor {
    const char *root, *config_path, *store; /* as given; config_path, store: NULL if not */
    bool json;
    struct config *config;
    struct machine machine;
    struct checks checks;
    json_t *agent; /* what the running one says; NULL: none runs there, or it cannot be asked */
    const char *store_path;
};

enum way_state { WAY_ATTACHED, WAY_WOULD, WAY_SHOULD, WAY_REFUSED, WAY_UNKNOWN, WAY_OFF };

/** How a state is shown; tables are in the order of the enums. */
struct style {
    const char *name, *colour;
};

static const struct style way_styles[] = {
    {"attached", GREEN}, {"would attach", GREEN}, {"should attach", GREEN},
    {"refused", RED},    {"unknown", YELLOW},     {"off", DIM},
};

static const struct style check_styles[] = {
    {"ok", GREEN},
    {"warn", YELLOW},
    {"fail", RED},
    {"unknown", DIM},
};

/** The worse, the later. */
enum verdict { VERDICT_WATCHED, VERDICT_SHOULD, VERDICT_UNKNOWN, VERDICT_REFUSED, VERDICT_OFF };

static const struct style verdict_styles[] = {
    {"can be watched", GREEN},
    {"should be watchable", YELLOW},
    {"unknown", YELLOW},
    {"cannot be watched", RED},
    {"off", DIM},
};

struct way_report {
    enum way_state state;
    char *reason, *advice; /* owned; NULL: none */
};

struct hook_report {
    struct way_report ways[HOOK_WAYS_MAX];
    unsigned n_ways;
    enum verdict verdict;
};

struct event_report {
    const struct event *event;
    struct hook_report hooks[KIND_HOOKS_MAX];
    unsigned n_hooks;
    enum verdict verdict;
};

/* ------------------------------------------------------------------ configuration */

static int set(struct config *config, const char *assignment)
{
    _free_ char *errors = NULL;
    int r = config_set(config, assignment, &errors);

    if (r < 0)
        fprintf(stderr, "huatuo doctor: %s\n", errors ? errors : strerror(-r));
    return r;
}

static void check_configuration(struct doctor *d)
{
    static const char *const name = "configuration";
    _free_ char *usual = NULL, *errors = NULL;
    const char *path = d->config_path;
    char *rest, *line;
    int r;

    if (!path) {
        r = tree_open_file(&d->machine.tree, CLI_DEFAULT_CONFIG);
        if (r == -ENOENT) {
            checks_add(&d->checks, name, CHECK_OK, NULL, "there is no %s: the defaults hold",
                       CLI_DEFAULT_CONFIG);
            return;
        }
        if (r < 0) {
            checks_add(&d->checks, name, CHECK_FAIL, "make it a plain file that may be read",
                       "%s cannot be read: %s", CLI_DEFAULT_CONFIG, strerror(-r));
            return;
        }
        fd_close(r);
        if (asprintf(&usual, "%s%s", d->machine.tree.foreign ? d->root : "", CLI_DEFAULT_CONFIG) <
            0) {
            usual = NULL;
            return;
        }
        path = usual;
    }
    r = config_read_file(d->config, path, &errors);
    if (r == 0) {
        checks_add(&d->checks, name, CHECK_OK, NULL, "%s", path);
        return;
    }
    if (!errors)
        checks_add(&d->checks, name, CHECK_FAIL, NULL, "%s: %s", path, strerror(-r));
    for (rest = errors; (line = strsep(&rest, "\n"));)
        checks_add(&d->checks, name, CHECK_FAIL, "correct it; until then the agent does not start",
                   "%s", line);
}

/* ------------------------------------------------------------------ store and agent */

static void check_agent(struct doctor *d)
{
    static const char *const name = "agent";
    int r = ask_agent(d->store_path, &d->agent);

    if (r == 0 && json_is_true(json_object_get(d->agent, "ready")))
        checks_add(&d->checks, name, CHECK_OK, NULL, "runs on %s", d->store_path);
    else if (r == 0)
        checks_add(&d->checks, name, CHECK_OK, NULL, "runs on %s, not ready yet", d->store_path);
    else if (r == -ENOENT || r == -ECONNREFUSED || r == -ENOTDIR)
        checks_add(&d->checks, name, CHECK_OK, NULL, "none runs on %s", d->store_path);
    else if (r == -EACCES)
        checks_add(&d->checks, name, CHECK_UNKNOWN, NULL,
                   "whether one runs on %s may not be asked by this user", d->store_path);
    else
        checks_add(&d->checks, name, CHECK_WARN, "ask again; if it stays so, restart the agent",
                   "one runs on %s, and does not answer: %s", d->store_path, strerror(-r));
}

/** The first directory above `path` that the user may not pass through; "" if there is none. */
static void find_barrier(const char *path, const struct privilege_user *user, char *ret,
                         size_t size)
{
    const char *slash = *path ? strchr(path + 1, '/') : NULL;

    for (; slash; slash = strchr(slash + 1, '/')) {
        struct stat st;

        snprintf(ret, size, "%.*s", (int)(slash - path), path);
        if (stat(ret, &st) < 0)
            break;
        if (!(st.st_mode & (st.st_uid == user->uid   ? S_IXUSR
                            : st.st_gid == user->gid ? S_IXGRP
                                                     : S_IXOTH)))
            return;
    }
    *ret = '\0';
}

/** The nearest directory at or above `path` that is there. */
static void find_existing(const char *path, char *ret, size_t size)
{
    struct stat st;
    char *slash;

    snprintf(ret, size, "%s", path);
    while (stat(ret, &st) < 0 && (slash = strrchr(ret, '/')))
        ret[slash == ret ? 1 : slash - ret] = '\0';
    if (stat(ret, &st) < 0)
        snprintf(ret, size, ".");
}

/** Sizes have no fractions, and nobody wants to read all digits of many bytes. */
static uint64_t without_rest(uint64_t bytes)
{
    unsigned shift = bytes >> 44 ? 40 : bytes >> 34 ? 30 : 20;

    return bytes >> shift << shift;
}

/** What the store may still grow by, against what is free. */
static void check_space(struct doctor *d, const char *directory, const struct statvfs *fs)
{
    const struct store_options *options = config_section(d->config, "store");
    const uint64_t free_bytes = (uint64_t)fs->f_bavail * fs->f_frsize;
    uint64_t wanted = options->max_size, used = 0;
    _free_ char *database = NULL, *free_text = NULL, *wanted_text = NULL;
    struct stat st;

    if (options->record_files)
        wanted += n_events * options->record_file_count * options->record_file_size;
    if (asprintf(&database, "%s/huatuo.db", d->store_path) < 0)
        database = NULL;
    if (database && stat(database, &st) == 0)
        used = (uint64_t)st.st_blocks * 512;
    free_text = format_size(without_rest(free_bytes));
    wanted_text = format_size(without_rest(wanted));
    if (!free_text || !wanted_text)
        return;
    if (free_bytes + used >= wanted)
        checks_add(&d->checks, "space", CHECK_OK, NULL, "%s are free in %s; it takes at most %s",
                   free_text, directory, wanted_text);
    else
        checks_add(&d->checks, "space", CHECK_WARN,
                   "make room, lower store.max_size, or choose another store.path",
                   "%s are free in %s, but the store may take %s", free_text, directory,
                   wanted_text);
}

/** Whether the agent, run like this, could write there. */
static void check_directory(struct doctor *d)
{
    static const char *const name = "store";
    const struct agent_options *agent = config_section(d->config, "agent");
    const bool root = geteuid() == 0;
    struct privilege_user user;
    char place[4096], error[1024];
    struct statvfs fs;
    int r;

    if (privilege_find_user(agent->user, &user) < 0) {
        checks_add(&d->checks, name, CHECK_FAIL, "add that user, or name another",
                   "agent.user: there is no user %s", agent->user);
        return;
    }
    find_existing(d->store_path, place, sizeof(place));
    if (statvfs(place, &fs) == 0) {
        if (fs.f_flag & ST_RDONLY) {
            checks_add(&d->checks, name, CHECK_FAIL, "choose another with store.path or --store",
                       "%s is on a file system that is mounted read-only", place);
            return;
        }
        check_space(d, place, &fs);
    }
    if (root) {
        find_barrier(d->store_path, &user, place, sizeof(place));
        if (*place) {
            checks_add(&d->checks, name, CHECK_FAIL, NULL,
                       "the agent's user %s may not pass through %s", user.name, place);
            checks_advise(&d->checks, "chmod o+x %s, or choose another store.path", place);
            return;
        }
        r = directory_look(d->store_path, &user, error, sizeof(error));
    } else {
        r = access(d->store_path, W_OK | X_OK) < 0 ? -errno : 0;
        if (r == -ENOENT) {
            find_existing(d->store_path, place, sizeof(place));
            r = access(place, W_OK | X_OK) < 0 ? -errno : -ENOENT;
        }
    }
    if (r == -ENOENT)
        checks_add(&d->checks, name, CHECK_OK, NULL, "%s will be made", d->store_path);
    else if (r == -ENOTEMPTY)
        checks_add(&d->checks, name, CHECK_FAIL, "choose another with store.path or --store", "%s",
                   error);
    else if (r < 0)
        checks_add(&d->checks, name, root ? CHECK_FAIL : CHECK_UNKNOWN,
                   root ? "choose another with store.path or --store" : NULL,
                   "%s cannot be written to%s: %s", d->store_path, root ? "" : " by this user",
                   strerror(-r));
    else if (r > 0 && !machine_has(&d->machine, CAP_CHOWN))
        checks_add(&d->checks, name, CHECK_FAIL, "run huatuo with CAP_CHOWN once, or chown it",
                   "%s cannot be given to the agent's user %s without CAP_CHOWN", d->store_path,
                   user.name);
    else
        checks_add(&d->checks, name, CHECK_OK, NULL, "%s%s%s", d->store_path,
                   r > 0  ? " will be given to "
                   : root ? ", of "
                          : "",
                   r > 0 || root ? user.name : "");
}

static void check_database(struct doctor *d)
{
    static const char *const name = "database";
    const json_t *store = json_object_get(d->agent, "store");
    const char *problem = json_string_value(json_object_get(store, "problem"));
    char error[1024] = "";
    int r;

    if (store) {
        /* The one who writes it knows best. */
        if (problem && *problem)
            checks_add(&d->checks, name,
                       json_is_true(json_object_get(store, "writing")) ? CHECK_WARN : CHECK_FAIL,
                       "see what is said here, and `huatuo status`", "%s", problem);
        else
            checks_add(&d->checks, name, CHECK_OK, NULL, "%lld records, being written",
                       (long long)json_integer_value(json_object_get(store, "records")));
        return;
    }
    r = store_look(d->store_path, error, sizeof(error));
    if (r == 0)
        checks_add(&d->checks, name, CHECK_OK, NULL, "%s/huatuo.db can be read", d->store_path);
    else if ((r == -ENOENT || r == -ENOTDIR) && !*error)
        checks_add(&d->checks, name, CHECK_OK, NULL, "none yet in %s", d->store_path);
    else if (r == -EACCES)
        checks_add(&d->checks, name, CHECK_UNKNOWN, NULL,
                   "%s/huatuo.db may not be read by this user", d->store_path);
    else if (r == -EPROTONOSUPPORT || r == -ENOENT)
        checks_add(&d->checks, name, CHECK_FAIL, "choose another store.path, or move the file away",
                   "%s", error);
    else
        /* The agent moves a damaged one aside. */
        checks_add(&d->checks, name, CHECK_WARN, "look after the disk; the agent begins a new one",
                   "%s: %s", d->store_path, *error ? error : strerror(-r));
}

static void check_store(struct doctor *d)
{
    const struct store_options *options = config_section(d->config, "store");

    d->store_path = d->store ? d->store : options->path;
    if (d->machine.tree.foreign && !d->store) {
        checks_add(&d->checks, "store", CHECK_UNKNOWN, NULL,
                   "not looked at, as --root names another machine's files; name one with --store");
        return;
    }
    check_agent(d);
    check_directory(d);
    check_database(d);
}

static void check_sockets(struct doctor *d)
{
    static const char *const name = "socket_owners";
    static const char *const less =
        "records of received packets go without the process that has the socket open";
    const bool try = !d->machine.tree.foreign && machine_may_load(&d->machine);
    struct probe probe = {};
    int r = try ? probe_try_sockets() : 0;

    if (!try)
        probe_judge_section(&d->machine.facts, "iter/task_file", &probe);
    if (r < 0)
        checks_add(&d->checks, name, CHECK_WARN, "nothing has to be done: all else works without",
                   "the iterator over open files is refused: %s: %s", strerror(-r), less);
    else if (try)
        checks_add(&d->checks, name, CHECK_OK, NULL, "the iterator over open files would attach");
    else if (probe.state == PROBE_REFUSED)
        checks_add(&d->checks, name, CHECK_WARN, probe.advice, "%s: %s", probe.reason, less);
    else
        checks_add(&d->checks, name, probe.state == PROBE_SHOULD ? CHECK_OK : CHECK_UNKNOWN, NULL,
                   "%s",
                   probe.state == PROBE_SHOULD ? "the iterator over open files should attach"
                                               : probe.reason);
}

/** An agent that runs has had what it needs, whoever asks now. */
static void forgive_privileges(struct doctor *d)
{
    if (!json_is_true(json_object_get(d->agent, "ready")))
        return;
    for (size_t i = 0; i < d->checks.n; i++)
        if (strcmp(d->checks.rows[i].name, "privileges") == 0 &&
            d->checks.rows[i].state == CHECK_FAIL)
            d->checks.rows[i].state = CHECK_WARN;
}

/* ------------------------------------------------------------------ hooks */

static const json_t *agent_event(const struct doctor *d, const char *event)
{
    return json_object_get(json_object_get(d->agent, "events"), event);
}

static const char *agent_state(const struct doctor *d, const char *event)
{
    return json_string_value(json_object_get(agent_event(d, event), "state"));
}

/** NULL, or that row of the running agent's hooks. */
static const json_t *agent_uses(const struct doctor *d, const char *event, const char *way)
{
    size_t i;
    json_t *row;

    json_array_foreach(json_object_get(agent_event(d, event), "hooks"), i, row)
    {
        const char *name = json_string_value(json_object_get(row, "way"));
        const char *state = json_string_value(json_object_get(row, "state"));

        if (name && state && strcmp(name, way) == 0)
            return strcmp(state, "attached") == 0 ? row : NULL;
    }
    return NULL;
}

static char *printable(const char *bytes)
{
    struct text t = {};

    text_add_printable(&t, bytes, SIZE_MAX);
    return t.data;
}

static void look_at_way(const struct doctor *d, const struct event *event, unsigned hook,
                        unsigned way, struct way_report *ret)
{
    static const enum way_state states[] = {
        [PROBE_ATTACHES] = WAY_WOULD,
        [PROBE_SHOULD] = WAY_SHOULD,
        [PROBE_REFUSED] = WAY_REFUSED,
        [PROBE_UNKNOWN] = WAY_UNKNOWN,
    };
    const struct event_options *options = config_section(d->config, event->name);
    const char *name = event->hooks[hook].ways[way].name;
    const json_t *used = agent_uses(d, event->name, name);
    struct probe probe;

    if (!options->enabled || string_list_has(&options->hooks_off, name)) {
        ret->state = WAY_OFF;
        return;
    }
    if (used) {
        const char *note = json_string_value(json_object_get(used, "reason"));

        ret->state = WAY_ATTACHED;
        ret->reason = note && *note ? printable(note) : NULL;
        return;
    }
    if (!d->machine.tree.foreign && machine_may_load(&d->machine))
        probe_try(event, options, hook, way, &probe);
    else
        probe_judge(&d->machine.facts, event, hook, way, &probe);
    ret->state = states[probe.state];
    ret->reason = *probe.reason ? printable(probe.reason) : NULL;
    ret->advice = *probe.advice ? strdup(probe.advice) : NULL;
}

/** The best way there is, of equals the first, which the agent would take; -1: none. */
static int usable_way(const struct hook_report *hook)
{
    int best = -1;

    for (unsigned w = 0; w < hook->n_ways; w++)
        if (hook->ways[w].state <= WAY_SHOULD &&
            (best < 0 || hook->ways[w].state < hook->ways[best].state))
            best = (int)w;
    return best;
}

static void look_at_hook(const struct doctor *d, const struct event *event, unsigned h,
                         struct hook_report *ret)
{
    bool unknown = false, all_off = true;
    int usable;

    while (ret->n_ways < HOOK_WAYS_MAX && event->hooks[h].ways[ret->n_ways].name) {
        struct way_report *way = &ret->ways[ret->n_ways];

        look_at_way(d, event, h, ret->n_ways++, way);
        unknown |= way->state == WAY_UNKNOWN;
        all_off &= way->state == WAY_OFF;
    }
    usable = usable_way(ret);
    if (usable >= 0)
        ret->verdict = ret->ways[usable].state == WAY_SHOULD ? VERDICT_SHOULD : VERDICT_WATCHED;
    else if (unknown)
        ret->verdict = VERDICT_UNKNOWN;
    else
        ret->verdict = all_off ? VERDICT_OFF : VERDICT_REFUSED;
    for (unsigned w = 0; usable >= 0 && w < ret->n_ways; w++) {
        struct way_report *way = &ret->ways[w];

        if (way->state != WAY_REFUSED)
            continue;
        free(way->advice);
        if (asprintf(&way->advice, "nothing has to be done: %s does as well",
                     event->hooks[h].ways[usable].name) < 0)
            way->advice = NULL;
    }
}

static void look_at_event(const struct doctor *d, const struct event *event,
                          struct event_report *ret)
{
    const struct event_options *options = config_section(d->config, event->name);

    *ret = (struct event_report){.event = event, .verdict = VERDICT_WATCHED};
    for (; event->hooks[ret->n_hooks].name && ret->n_hooks < ARRAY_SIZE(ret->hooks);
         ret->n_hooks++) {
        struct hook_report *hook = &ret->hooks[ret->n_hooks];

        look_at_hook(d, event, ret->n_hooks, hook);
        /* A hook whose ways are all switched off takes the kind away as much as one refused. */
        if (!event->hooks[ret->n_hooks].optional && hook->verdict > ret->verdict)
            ret->verdict = hook->verdict == VERDICT_OFF ? VERDICT_REFUSED : hook->verdict;
    }
    if (!options->enabled)
        ret->verdict = VERDICT_OFF;
}

static void event_report_done(struct event_report *r)
{
    for (unsigned h = 0; h < r->n_hooks; h++)
        for (unsigned w = 0; w < r->hooks[h].n_ways; w++) {
            free(r->hooks[h].ways[w].reason);
            free(r->hooks[h].ways[w].advice);
        }
}

/* ------------------------------------------------------------------ the report */

static unsigned width_of(FILE *out)
{
    struct winsize size;

    if (ioctl(fileno(out), TIOCGWINSZ, &size) < 0 || !size.ws_col)
        return WIDTH_DEFAULT;
    return MAX(MIN(size.ws_col, WIDTH_MAX), WIDTH_MIN);
}

struct page {
    struct text text;
    unsigned width;
    bool colour;
};

static void add_styled(struct page *p, const char *style, const char *format, ...) _printf_(3, 4);
static void add_styled(struct page *p, const char *style, const char *format, ...)
{
    char words[128];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof(words), format, args);
    va_end(args);
    text_addf(&p->text, "%s%s%s", p->colour ? style : "", words, p->colour ? PLAIN : "");
}

/** Words from column `indent` on, broken at blanks; the first line is begun already. */
static void add_wrapped(struct page *p, unsigned indent, const char *words)
{
    size_t room = p->width - indent;

    while (strlen(words) > room) {
        size_t len = room;

        while (len > 0 && words[len] != ' ')
            len--;
        if (len == 0) /* one long word: a path */
            len = strcspn(words, " ");
        text_add(&p->text, words, len);
        words += len + (words[len] == ' ');
        if (*words)
            text_addf(&p->text, "\n%*s", (int)indent, "");
    }
    text_adds(&p->text, words);
    text_adds(&p->text, "\n");
}

static void add_advice(struct page *p, unsigned indent, const char *advice)
{
    if (!advice || !*advice)
        return;
    text_addf(&p->text, "%*s", (int)indent, "");
    add_styled(p, BOLD, "-> ");
    add_wrapped(p, indent + 3, advice);
}

static void add_check(struct page *p, const struct check *row)
{
    const struct style *style = &check_styles[row->state];

    text_adds(&p->text, "  ");
    add_styled(p, style->colour, "%-8s", style->name);
    text_addf(&p->text, "%-17s ", row->name);
    add_wrapped(p, 28, row->found);
    add_advice(p, 28, row->advice);
}

/** `agent`: the state of the kind in the running agent, or NULL. */
static void add_event(struct page *p, const struct event_report *r, const char *agent)
{
    text_adds(&p->text, "\n");
    add_styled(p, BOLD, "%s", r->event->name);
    text_adds(&p->text, ": ");
    add_styled(p, verdict_styles[r->verdict].colour, "%s", verdict_styles[r->verdict].name);
    if (agent) {
        text_adds(&p->text, "; in the running agent: ");
        text_add_printable(&p->text, agent, 32);
    }
    text_adds(&p->text, "\n");
    if (agent && strcmp(agent, "watching") != 0 && r->verdict < VERDICT_UNKNOWN)
        add_advice(p, 2, "see `huatuo status`, and restart the agent with this configuration");
    for (unsigned h = 0; h < r->n_hooks; h++) {
        const struct hook *hook = &r->event->hooks[h];

        text_adds(&p->text, "  ");
        add_wrapped(p, 2, hook->watches);
        if (r->verdict != VERDICT_OFF && r->hooks[h].verdict >= VERDICT_UNKNOWN) {
            text_adds(&p->text, "  ");
            add_styled(p, hook->optional ? YELLOW : RED, "%s%s",
                       r->hooks[h].verdict == VERDICT_UNKNOWN ? "whether there is a way is unknown"
                                                              : "there is no way to it",
                       hook->optional ? "; the kind is watched without" : "");
            text_adds(&p->text, "\n");
        }
        for (unsigned w = 0; w < r->hooks[h].n_ways; w++) {
            const struct way_report *way = &r->hooks[h].ways[w];

            text_adds(&p->text, "    ");
            add_styled(p, way_styles[way->state].colour, "%-14s", way_styles[way->state].name);
            text_addf(&p->text, "%s\n", hook->ways[w].name);
            if (way->reason) {
                text_addf(&p->text, "%*s", 18, "");
                add_wrapped(p, 18, way->reason);
            }
            add_advice(p, 18, way->advice);
        }
    }
}

static char *report_text(const struct doctor *d, const struct event_report *reports, bool fine)
{
    static const enum check_state order[] = {CHECK_FAIL, CHECK_WARN, CHECK_UNKNOWN, CHECK_OK};
    struct page p = {.width = width_of(stdout), .colour = render_colour(stdout)};

    for (size_t state = 0; state < ARRAY_SIZE(order); state++)
        for (size_t i = 0; i < d->checks.n; i++)
            if (d->checks.rows[i].state == order[state])
                add_check(&p, &d->checks.rows[i]);
    for (size_t i = 0; i < n_events; i++)
        add_event(&p, &reports[i], agent_state(d, events[i]->name));
    text_adds(&p.text, "\n");
    add_styled(&p, fine ? GREEN : RED, "%s",
               fine ? "Everything that is enabled can be watched."
                    : "Not everything that is enabled can be watched and kept, see above.");
    text_adds(&p.text, "\n");
    if (p.text.failed)
        text_done(&p.text);
    return p.text.data;
}

static json_t *event_json(const struct doctor *d, const struct event_report *r)
{
    json_t *object = json_pack("{s:s, s:s?}", "state", verdict_styles[r->verdict].name, "agent",
                               agent_state(d, r->event->name));
    json_t *hooks = json_array();

    for (unsigned h = 0; h < r->n_hooks; h++) {
        const struct hook *hook = &r->event->hooks[h];

        for (unsigned w = 0; w < r->hooks[h].n_ways; w++) {
            const struct way_report *way = &r->hooks[h].ways[w];

            json_array_append_new(hooks, json_pack("{s:s, s:s, s:b, s:s, s:s, s:s*, s:s*}", "hook",
                                                   hook->name, "watches", hook->watches, "optional",
                                                   (int)hook->optional, "way", hook->ways[w].name,
                                                   "state", way_styles[way->state].name, "reason",
                                                   way->reason, "advice", way->advice));
        }
    }
    json_object_set_new(object, "hooks", hooks);
    return object;
}

static char *report_json(const struct doctor *d, const struct event_report *reports, bool fine)
{
    json_t *checks = json_array(), *object = json_object();
    json_auto_t *report =
        json_pack("{s:b, s:o, s:o}", "watchable", (int)fine, "checks", checks, "events", object);
    _free_ char *json = NULL;
    char *line;

    for (size_t i = 0; i < d->checks.n; i++) {
        const struct check *row = &d->checks.rows[i];

        json_array_append_new(checks, json_pack("{s:s, s:s, s:s, s:s}", "check", row->name, "state",
                                                check_styles[row->state].name, "found", row->found,
                                                "advice", row->advice));
    }
    for (size_t i = 0; i < n_events; i++)
        json_object_set_new(object, reports[i].event->name, event_json(d, &reports[i]));
    json = report ? json_dumps(report, JSON_COMPACT) : NULL;
    return json && asprintf(&line, "%s\n", json) > 0 ? line : NULL;
}

static int print(char *report)
{
    int r = 0;

    if (!report)
        r = -ENOMEM;
    else if (fputs(report, stdout) < 0 || fflush(stdout) != 0)
        r = -errno;
    free(report);
    if (r < 0)
        fprintf(stderr, "huatuo doctor: writing to standard output failed: %s\n", strerror(-r));
    return r;
}

static int examine(struct doctor *d)
{
    _free_ struct event_report *reports = calloc(n_events, sizeof(*reports));
    bool fine = reports != NULL;
    int r;

    check_store(d);
    machine_check(&d->machine, &d->checks);
    check_sockets(d);
    forgive_privileges(d);
    for (size_t i = 0; reports && i < n_events; i++) {
        look_at_event(d, events[i], &reports[i]);
        fine &= reports[i].verdict <= VERDICT_SHOULD || reports[i].verdict == VERDICT_OFF;
    }
    for (size_t i = 0; i < d->checks.n; i++)
        fine &= d->checks.rows[i].state != CHECK_FAIL;
    r = print(!reports || d->checks.failed ? NULL
              : d->json                    ? report_json(d, reports, fine)
                                           : report_text(d, reports, fine));
    for (size_t i = 0; reports && i < n_events; i++)
        event_report_done(&reports[i]);
    return r == 0 && fine ? CLI_OK : CLI_FAILED;
}

static int run(int argc, char **argv)
{
    _free_ const char **sets = calloc((size_t)argc + 1, sizeof(*sets));
    struct doctor d = {.root = ""};
    const struct argument table[] = {
        {"--config", .value = &d.config_path}, {"--set", .values = sets},
        {"--store", .value = &d.store},        {"--root", .value = &d.root},
        {"--json", .flag = &d.json},           {},
    };
    int r, status;

    if (!sets)
        return CLI_FAILED;
    status = arguments_parse(&cli_doctor, table, argc, argv);
    if (status != CLI_OK)
        return status;
    r = settings_new(&d.config);
    if (r == 0)
        r = machine_open(d.root, &d.machine);
    if (r < 0) {
        char quoted[TEXT_QUOTED_MAX];

        fprintf(stderr, "huatuo doctor: cannot look at %s: %s\n", text_quote(d.root, quoted),
                strerror(-r));
        config_free(d.config);
        return r == -ENOMEM ? CLI_FAILED : CLI_USAGE;
    }
    status = CLI_OK;
    check_configuration(&d);
    for (const char **assignment = sets; *assignment; assignment++)
        if (set(d.config, *assignment) < 0)
            status = CLI_USAGE;
    if (status == CLI_OK)
        status = examine(&d);
    checks_done(&d.checks);
    json_decref(d.agent);
    machine_done(&d.machine);
    config_free(d.config);
    return status;
}

const struct cli_command cli_doctor = {
    .name = "doctor",
    .arguments = "[--config FILE] [--set SECTION.KEY=VALUE]... [--store DIR] [--root DIR] [--json]",
    .summary = "Whether this machine can be watched, and if not, why and what to do.",
    .help =
        "  --config FILE   configuration (default: " CLI_DEFAULT_CONFIG ", if it is there)\n"
        "  --set S.K=V     set a configuration key; after the file, may be repeated\n"
        "  --store DIR     the agent's store (default: " CLI_DEFAULT_STORE ")\n"
        "  --root DIR      look at /proc, /sys, /boot and /etc below DIR: another machine's files\n"
        "  --json          one object\n"
        "\n"
        "Changes nothing. Each hook is loaded and attached for a moment, switched off; without\n"
        "the privilege, or with --root, it is judged by what can be read. Exit status 0:\n"
        "everything that is enabled can be watched; 1: something cannot.\n",
    .run = run,
};
