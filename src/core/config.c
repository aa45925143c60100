// SPDX-License-Identifier: Apache-2.0

#include "core/config.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

#include "core/read.h"
#include "core/text.h"

#define FILE_MAX     ((size_t)1024 * 1024)
#define PROBLEMS_MAX 100
#define DEPTH_MAX    16   /* of what is skipped because it does not belong there */
#define ERROR_MAX    8192 /* a line for each wrong item of a list */

struct config {
    const struct option_section *const *sections;
    size_t n;
    void **values; /* of each section */
};

/* What the file says about one section, until all of it is known to be good. */
struct draft {
    size_t n;      /* options */
    void *values;  /* only those with a line are set */
    size_t *lines; /* where an option was set; 0: nowhere */
    size_t line;   /* where the section begins */
};

struct reader {
    const struct config *config;
    const char *path;
    char *input; /* owned */
    size_t len;
    struct draft *drafts; /* one a section */

    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    int error;          /* not 0: there is no point in reading on */

    struct text problems;
    unsigned n_problems;
};

/* --- the values */

int config_new(const struct option_section *const *sections, size_t n_sections, struct config **ret)
{
    _cleanup_(config_freep) struct config *config = calloc(1, sizeof(*config));

    if (!config)
        return -ENOMEM;
    config->sections = sections;
    config->values = calloc(n_sections, sizeof(*config->values));
    if (!config->values)
        return -ENOMEM;
    for (; config->n < n_sections; config->n++) {
        const struct option_section *section = sections[config->n];
        _free_ void *values = calloc(1, section->size);
        int r = values ? option_defaults(section->options, values) : -ENOMEM;

        if (r < 0)
            return r;
        config->values[config->n] = TAKE_PTR(values);
    }
    *ret = TAKE_PTR(config);
    return 0;
}

struct config *config_free(struct config *config)
{
    if (!config)
        return NULL;
    for (size_t i = 0; i < config->n; i++) {
        option_done(config->sections[i]->options, config->values[i]);
        free(config->values[i]);
    }
    free(config->values);
    free(config);
    return NULL;
}

void *config_section(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->n; i++) {
        if (strcmp(config->sections[i]->name, name) == 0)
            return config->values[i];
    }
    return NULL;
}

static void say_unknown(const char *what, const struct nearest *meant, char error[ERROR_MAX])
{
    snprintf(error, ERROR_MAX, "unknown %s%s%s%s", what, meant->found ? "; did you mean \"" : "",
             meant->found ? meant->found : "", meant->found ? "\"?" : "");
}

static int find_section(const struct config *config, const char *name, size_t *ret_index,
                        char error[ERROR_MAX])
{
    struct nearest meant = {.typed = name};
    size_t len = strcspn(name, ".");

    for (size_t i = 0; i < config->n; i++) {
        const char *known = config->sections[i]->name;

        if (strcmp(known, name) == 0) {
            *ret_index = i;
            return 0;
        }
        if (name[len] && strlen(known) == len && strncmp(known, name, len) == 0) {
            snprintf(error, ERROR_MAX, "in a file, write \"%s:\" and the key, indented, below it",
                     known);
            return -EINVAL;
        }
        nearest_offer(&meant, known);
    }
    say_unknown("section", &meant, error);
    return -EINVAL;
}

static int find_option(const struct option_section *section, const char *key,
                       const struct option **ret, char error[ERROR_MAX])
{
    const struct option *option = option_find(section->options, key);
    struct nearest meant = {.typed = key};

    if (option) {
        *ret = option;
        return 0;
    }
    for (option = section->options; option->key; option++)
        nearest_offer(&meant, option->key);
    say_unknown("key", &meant, error);
    return -EINVAL;
}

/* --- a file */

static _printf_(3, 4) void problem(struct reader *r, size_t line, const char *format, ...)
{
    _cleanup_(text_done) struct text where = {};
    _free_ char *what = NULL;
    va_list args;
    int len;

    if (r->error)
        return;
    va_start(args, format);
    len = vasprintf(&what, format, args);
    va_end(args);
    if (len < 0) {
        what = NULL;
        r->error = -ENOMEM;
        return;
    }
    if (r->n_problems > 0)
        text_adds(&r->problems, "\n");
    text_add_printable(&where, r->path, SIZE_MAX);
    if (line > 0)
        text_addf(&where, ":%zu", line);
    text_addf(&r->problems, "%s: %s", where.data ? where.data : "", what);
    if (++r->n_problems == PROBLEMS_MAX) {
        text_addf(&r->problems, "\n%s: too many problems; what follows was not looked at",
                  where.data ? where.data : "");
        r->error = -EINVAL;
    }
}

/* What is wrong with a value: lines of which each is a problem. */
static void problems(struct reader *r, size_t line, const char *path, const char *error)
{
    while (*error) {
        size_t len = strcspn(error, "\n");

        problem(r, line, "%s: %.*s", path, (int)len, error);
        error += len + (error[len] == '\n');
    }
}

static size_t event_line(const struct reader *r)
{
    return r->event.start_mark.line + 1;
}

/* Tabs look like blanks, and the parser's own words for this do not help. */
static bool indented_by_tab(const struct reader *r, size_t line)
{
    const char *p = r->input, *end = r->input + r->len;

    while (--line > 0 && p) {
        p = memchr(p, '\n', (size_t)(end - p));
        p = p ? p + 1 : NULL;
    }
    while (p && p < end && *p == ' ')
        p++;
    return p && p < end && *p == '\t';
}

static void say_syntax(struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    size_t line = p->problem_mark.line + 1;

    if (p->error == YAML_MEMORY_ERROR) {
        r->error = -ENOMEM;
        return;
    }
    if (p->error == YAML_READER_ERROR) {
        /* Bytes that are no text: the parser gives their place only. */
        line = 1;
        for (size_t i = 0; i < p->problem_offset && i < r->len; i++)
            line += r->input[i] == '\n';
    }
    problem(r, line, "not valid YAML: %s%s%s%s", p->context ? p->context : "",
            p->context ? ": " : "", p->problem ? p->problem : "it cannot be read",
            indented_by_tab(r, line) ? "; indent with spaces, not tabs" : "");
    if (!r->error)
        r->error = -EINVAL;
}

/* The next event becomes the current one; false: there is none to be had. */
static bool next(struct reader *r)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;

    if (r->error)
        return false;
    yaml_event_delete(&r->event);
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        say_syntax(r);
        return false;
    }

    switch (r->event.type) {
    case YAML_ALIAS_EVENT:
        anchor = r->event.data.alias.anchor;
        break;
    case YAML_SCALAR_EVENT:
        anchor = r->event.data.scalar.anchor;
        tag = r->event.data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = r->event.data.sequence_start.anchor;
        tag = r->event.data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = r->event.data.mapping_start.anchor;
        tag = r->event.data.mapping_start.tag;
        break;
    default:
        break;
    }
    if (anchor)
        problem(r, event_line(r),
                "anchors (&name) and aliases (*name) are not supported: write "
                "the value out, or put one that begins so in quotes");
    if (tag)
        problem(r, event_line(r),
                "tags (!name) are not supported: leave the tag out, or put a "
                "value that begins so in quotes");
    return r->error == 0;
}

/* To the end of the node that the current event begins. */
static void skip(struct reader *r)
{
    unsigned depth = 0;

    do {
        yaml_event_type_t type = r->event.type;

        if (type == YAML_MAPPING_START_EVENT || type == YAML_SEQUENCE_START_EVENT)
            depth++;
        else if (type == YAML_MAPPING_END_EVENT || type == YAML_SEQUENCE_END_EVENT)
            depth--;
        if (depth > DEPTH_MAX) {
            problem(r, event_line(r), "nested too deeply; what follows was not looked at");
            r->error = r->error ? r->error : -EINVAL;
        }
    } while (depth > 0 && next(r));
}

/* A scalar's text for us to keep; NULL with the problem said. */
static char *take_scalar(struct reader *r)
{
    const char *value = (const char *)r->event.data.scalar.value;
    char *copy;

    if (strlen(value) != r->event.data.scalar.length) {
        problem(r, event_line(r), "a NUL byte is not allowed here: remove it");
        return NULL;
    }
    copy = strdup(value);
    if (!copy)
        r->error = -ENOMEM;
    return copy;
}

static bool is_plain(const struct reader *r, const char *word)
{
    return r->event.type == YAML_SCALAR_EVENT &&
           r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           strcasecmp((const char *)r->event.data.scalar.value, word) == 0;
}

/* The current event is a key: gives its text and moves on to the value. NULL: skipped, both. */
static char *read_name(struct reader *r, size_t *ret_line)
{
    _free_ char *name = NULL;
    size_t line = event_line(r);

    if (r->event.type == YAML_SCALAR_EVENT) {
        name = take_scalar(r);
    } else {
        if (r->event.type != YAML_ALIAS_EVENT)
            problem(r, line, "a name must be a single word, followed by a colon");
        skip(r);
    }
    if (!next(r))
        return NULL;
    if (!name) {
        skip(r);
        return NULL;
    }
    *ret_line = line;
    return TAKE_PTR(name);
}

static int read_list(struct reader *r, const char *path, const struct option *option, void *values,
                     char error[ERROR_MAX])
{
    _cleanup_(string_list_done) struct string_list list = {};
    bool good = true;

    /* One more than is allowed, so that option_parse_list() has something to refuse. */
    list.items = calloc(OPTION_LIST_MAX + 1, sizeof(*list.items));
    if (!list.items)
        return -ENOMEM;
    while (next(r) && r->event.type != YAML_SEQUENCE_END_EVENT) {
        char *item = NULL;

        if (r->event.type == YAML_SCALAR_EVENT) {
            item = list.n <= OPTION_LIST_MAX ? take_scalar(r) : NULL;
        } else if (r->event.type != YAML_ALIAS_EVENT) {
            problem(r, event_line(r), "%s: an item of the list must be a single value", path);
            skip(r);
        }
        if (item)
            list.items[list.n++] = item;
        else if (list.n <= OPTION_LIST_MAX)
            good = false;
    }
    if (!good || r->error)
        return -ECANCELED; /* it has been said what is wrong */
    return option_parse_list(option, (const char *const *)list.items, list.n, values, error,
                             ERROR_MAX);
}

static int read_value(struct reader *r, const char *path, const struct option *option, void *values,
                      char error[ERROR_MAX])
{
    _free_ char *text = NULL;
    bool list = option->type == OPTION_LIST;

    if (r->event.type == YAML_SEQUENCE_START_EVENT && list)
        return read_list(r, path, option, values, error);
    if (r->event.type != YAML_SCALAR_EVENT) {
        if (r->event.type != YAML_ALIAS_EVENT)
            problem(r, event_line(r), "%s: takes %s, not a %s", path,
                    list ? "a list or one value" : "one value",
                    r->event.type == YAML_MAPPING_START_EVENT ? "mapping" : "list");
        skip(r);
        return -ECANCELED;
    }
    if (is_plain(r, "") || is_plain(r, "~") || is_plain(r, "null")) {
        snprintf(error, ERROR_MAX, "has no value: leave the key out for its default%s",
                 list                            ? ", or write [] for none"
                 : option->type == OPTION_STRING ? ", or write \"\""
                                                 : "");
        return -EINVAL;
    }
    text = take_scalar(r);
    return text ? option_parse(option, text, values, error, ERROR_MAX) : -ECANCELED;
}

static void read_key(struct reader *r, size_t section)
{
    const struct option_section *s = r->config->sections[section];
    struct draft *draft = &r->drafts[section];
    _cleanup_(text_done) struct text path = {};
    size_t line, value_line, *seen;
    const struct option *option;
    char error[ERROR_MAX] = "";
    _free_ char *key = read_name(r, &line);
    int result;

    if (!key)
        return;
    text_addf(&path, "%s.", s->name);
    text_add_printable(&path, key, strlen(key));
    if (path.failed) {
        r->error = -ENOMEM;
        return;
    }
    if (find_option(s, key, &option, error) < 0) {
        problem(r, line, "%s: %s", path.data, error);
        skip(r);
        return;
    }

    seen = &draft->lines[option - s->options];
    if (*seen)
        problem(r, line, "%s: set twice, first on line %zu: remove one", path.data, *seen);
    else
        *seen = line;
    value_line = event_line(r);
    result = read_value(r, path.data, option, draft->values, error);
    if (result == -ENOMEM)
        r->error = -ENOMEM;
    else if (result < 0 && result != -ECANCELED)
        problems(r, is_plain(r, "") ? line : value_line, path.data, error);
}

static void read_section(struct reader *r)
{
    _cleanup_(text_done) struct text shown = {};
    char error[ERROR_MAX] = "";
    size_t line, section;
    _free_ char *name = read_name(r, &line);
    struct draft *draft;

    if (!name)
        return;
    text_add_printable(&shown, name, strlen(name));
    if (shown.failed) {
        r->error = -ENOMEM;
        return;
    }
    if (find_section(r->config, name, &section, error) < 0) {
        problem(r, line, "%s: %s", shown.data ? shown.data : "\"\"", error);
        skip(r);
        return;
    }

    draft = &r->drafts[section];
    if (draft->line)
        problem(r, line, "%s: this section stands twice, first on line %zu: put them together",
                name, draft->line);
    else
        draft->line = line;
    if (r->event.type == YAML_MAPPING_START_EVENT) {
        while (next(r) && r->event.type != YAML_MAPPING_END_EVENT)
            read_key(r, section);
    } else if (!is_plain(r, "")) { /* all its keys may be commented out */
        if (r->event.type != YAML_ALIAS_EVENT)
            problem(r, event_line(r), "%s: is a section: write its keys, indented, below it", name);
        skip(r);
    }
}

static void read_stream(struct reader *r)
{
    if (!next(r) || !next(r) || r->event.type == YAML_STREAM_END_EVENT || !next(r))
        return;
    if (r->event.type == YAML_MAPPING_START_EVENT) {
        while (next(r) && r->event.type != YAML_MAPPING_END_EVENT)
            read_section(r);
    } else if (!is_plain(r, "")) {
        if (r->event.type != YAML_ALIAS_EVENT)
            problem(r, event_line(r),
                    "a configuration is made of sections: write \"section:\" and "
                    "its keys, indented, below it");
        skip(r);
    }
    if (next(r) && next(r) && r->event.type != YAML_STREAM_END_EVENT)
        problem(r, event_line(r), "a second document begins here: only one is allowed in a file");
}

static int read_input(struct reader *r)
{
    /* A FIFO must not keep it waiting. */
    _close_fd_ int fd = open(r->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat st = {};
    int error = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;

    if (!error && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
        problem(r, 0,
                "is no regular file but a pipe or a device, which is not read; check the path");
        return -EINVAL;
    }
    if (!error)
        error = read_whole(fd, FILE_MAX + 1, &r->input, &r->len);
    if (error) {
        problem(r, 0, "the configuration cannot be read: %s; check the path and who may read it",
                strerror(-error));
        return error;
    }
    if (r->len > FILE_MAX) {
        problem(r, 0, "is larger than 1 MiB, so it is no configuration; check the path");
        return -EFBIG;
    }
    return 0;
}

static int read_drafts(struct reader *r)
{
    int result = read_input(r);

    if (result < 0)
        return result;
    for (size_t i = 0; i < r->config->n; i++) {
        const struct option_section *section = r->config->sections[i];
        struct draft *draft = &r->drafts[i];

        while (section->options[draft->n].key)
            draft->n++;
        draft->values = calloc(1, section->size);
        draft->lines = calloc(draft->n + 1, sizeof(*draft->lines));
        if (!draft->values || !draft->lines)
            return -ENOMEM;
    }
    if (!yaml_parser_initialize(&r->parser))
        return -ENOMEM;
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)r->input, r->len);
    read_stream(r);
    if (r->error)
        return r->error;
    if (r->problems.failed)
        return -ENOMEM;
    return r->n_problems > 0 ? -EINVAL : 0;
}

static void reader_done(struct reader *r)
{
    for (size_t i = 0; r->drafts && i < r->config->n; i++) {
        if (r->drafts[i].values)
            option_done(r->config->sections[i]->options, r->drafts[i].values);
        free(r->drafts[i].values);
        free(r->drafts[i].lines);
    }
    free(r->drafts);
    yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
    free(r->input);
    text_done(&r->problems);
}

int config_read_file(struct config *config, const char *path, char **ret_errors)
{
    _cleanup_(reader_done) struct reader r = {.config = config, .path = path};
    int result;

    r.drafts = calloc(config->n, sizeof(*r.drafts));
    result = r.drafts ? read_drafts(&r) : -ENOMEM;
    if (result < 0) {
        *ret_errors = result == -ENOMEM ? NULL : TAKE_PTR(r.problems.data);
        return result;
    }
    for (size_t i = 0; i < config->n; i++) {
        for (size_t j = 0; j < r.drafts[i].n; j++) {
            if (r.drafts[i].lines[j])
                option_swap(&config->sections[i]->options[j], config->values[i],
                            r.drafts[i].values);
        }
    }
    return 0;
}

/* --- one assignment */

static int set_one(struct config *config, char *name, const char *value, char error[ERROR_MAX])
{
    const struct option *option;
    char *key = strchr(name, '.');
    size_t section;
    int r;

    if (!value || !key || key == name || !key[1]) {
        snprintf(error, ERROR_MAX, "write it as section.key=value");
        return -EINVAL;
    }
    *key = '\0';
    r = find_section(config, name, &section, error);
    if (r >= 0)
        r = find_option(config->sections[section], key + 1, &option, error);
    if (r >= 0)
        r = option_parse(option, value, config->values[section], error, ERROR_MAX);
    *key = '.';
    return r;
}

int config_set(struct config *config, const char *assignment, char **ret_errors)
{
    _cleanup_(text_done) struct text t = {};
    size_t len = strcspn(assignment, "=");
    _free_ char *name = strndup(assignment, len);
    char error[ERROR_MAX] = "";
    int r;

    r = name ? set_one(config, name, assignment[len] ? assignment + len + 1 : NULL, error)
             : -ENOMEM;
    for (const char *line = error; r < 0 && r != -ENOMEM && *line;) {
        size_t line_len = strcspn(line, "\n");

        text_adds(&t, t.len ? "\n--set " : "--set ");
        text_add_printable(&t, name, len);
        text_addf(&t, ": %.*s", (int)line_len, line);
        line += line_len + (line[line_len] == '\n');
        r = t.failed ? -ENOMEM : r;
    }
    if (r < 0)
        *ret_errors = r == -ENOMEM ? NULL : TAKE_PTR(t.data);
    return r;
}

/* --- as text */

static void add_quoted(struct text *t, const char *value)
{
    /* JSON strings are YAML's too. */
    text_adds(t, "\"");
    text_add_json(t, value, SIZE_MAX);
    text_adds(t, "\"");
}

static void add_value(struct text *t, const struct option *option, const void *values)
{
    _free_ char *value = NULL;

    if (option->type == OPTION_LIST) {
        const struct string_list *list =
            (const struct string_list *)((const char *)values + option->offset);

        text_adds(t, "[");
        for (size_t i = 0; i < list->n; i++) {
            text_adds(t, i > 0 ? ", " : "");
            add_quoted(t, list->items[i]);
        }
        text_adds(t, "]");
        return;
    }
    value = option_text(option, values);
    if (!value)
        t->failed = true;
    else if (option->type == OPTION_STRING || option->type == OPTION_ENUM)
        add_quoted(t, value);
    else
        text_adds(t, value);
}

static char *take_text(struct text *t)
{
    if (t->failed)
        return NULL;
    return t->data ? TAKE_PTR(t->data) : strdup("");
}

char *config_text(const struct config *config)
{
    _cleanup_(text_done) struct text t = {};

    for (size_t i = 0; i < config->n; i++) {
        const struct option_section *section = config->sections[i];

        text_addf(&t, "%s%s:\n", i > 0 ? "\n" : "", section->name);
        for (const struct option *o = section->options; o->key; o++) {
            text_addf(&t, "  %s: ", o->key);
            add_value(&t, o, config->values[i]);
            text_adds(&t, "\n");
        }
    }
    return take_text(&t);
}

/* --- as documentation */

static const char introduction[] =
    "# Configuration\n"
    "\n"
    "<!-- Written by `huatuo config docs` out of the tables in the code: change them, not this. "
    "-->\n"
    "\n"
    "Every value has a default. The file given with `--config FILE` overrides the defaults, and "
    "each\n"
    "`--set section.key=value` on the command line overrides the file, in the order in which they\n"
    "are given. `huatuo config check FILE` says what is wrong with a file, every problem with its "
    "line;\n"
    "`huatuo config show` prints what is in effect.\n"
    "\n"
    "The file is YAML of two levels, sections and keys; anything unknown in it is an error:\n"
    "\n"
    "```yaml\n"
    "section:\n"
    "  key: value\n"
    "  list: [one, two]\n"
    "```\n"
    "\n"
    "| type | how to write it |\n"
    "|---|---|\n"
    "| bool | `true` or `false`; also `yes`, `no`, `on`, `off` |\n"
    "| number | digits: `10` |\n"
    "| duration | a number and a unit of `ns` `us` `ms` `s` `m` `h` `d`: `100ms`, `1.5s`, `7d` |\n"
    "| size | a number and a unit of `B` `KiB` `MiB` `GiB` `TiB` (1024) or `KB` `MB` `GB` `TB` "
    "(1000): `64MiB` |\n"
    "| string | text without control characters |\n"
    "| word | one of those listed |\n"
    "| list | in the file a sequence, or a single value; with `--set` `a,b`. A comma inside an "
    "item of "
    "the short form is written `\\,`, a backslash `\\\\` |\n"
    "\n"
    "Only 0 can do without a unit.\n";

/* Text for the cell of a table. */
static void add_cell(struct text *t, const char *s)
{
    for (; *s; s++)
        text_addf(t, "%s%c", *s == '|' ? "\\" : "", *s == '\n' ? ' ' : *s);
}

static void add_limits(struct text *t, const struct option *option)
{
    char *(*format)(uint64_t) = option->type == OPTION_DURATION ? format_duration
                                : option->type == OPTION_SIZE   ? format_size
                                                                : NULL;
    const uint64_t limits[] = {option->min, option->max};

    if (option->words) {
        for (size_t i = 0; option->words[i]; i++) {
            text_adds(t, i > 0 ? ", `" : "`");
            add_cell(t, option->words[i]);
            text_adds(t, "`");
        }
        return;
    }
    if ((!format && option->type != OPTION_U64) || (!option->min && !option->max))
        return;
    for (size_t i = 0; i < ARRAY_SIZE(limits) && (i == 0 || limits[i]); i++) {
        _free_ char *limit = format ? format(limits[i]) : NULL;

        text_adds(t, i == 0 ? (option->max ? "" : "at least ") : " to ");
        if (limit)
            text_addf(t, "`%s`", limit);
        else if (!format)
            text_addf(t, "`%ju`", (uintmax_t)limits[i]);
        else
            t->failed = true;
    }
}

static void add_row(struct text *t, const struct option *option)
{
    static const char *const types[] = {
        [OPTION_BOOL] = "bool", [OPTION_U64] = "number",    [OPTION_DURATION] = "duration",
        [OPTION_SIZE] = "size", [OPTION_STRING] = "string", [OPTION_ENUM] = "word",
        [OPTION_LIST] = "list",
    };

    text_addf(t, "| `%s` | %s | ", option->key, types[option->type]);
    if (*option->fallback) {
        text_adds(t, "`");
        add_cell(t, option->fallback);
        text_adds(t, "`");
    } else {
        text_adds(t, "(empty)");
    }
    text_adds(t, " | ");
    add_limits(t, option);
    text_adds(t, " | ");
    add_cell(t, option->help);
    text_adds(t, " |\n");
}

char *config_markdown(const struct option_section *const *sections, size_t n_sections)
{
    _cleanup_(text_done) struct text t = {};

    text_adds(&t, introduction);
    for (size_t i = 0; i < n_sections; i++) {
        text_addf(&t, "\n## %s\n\n%s\n\n", sections[i]->name, sections[i]->help);
        text_adds(&t, "| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n");
        for (const struct option *o = sections[i]->options; o->key; o++)
            add_row(&t, o);
    }
    return take_text(&t);
}
