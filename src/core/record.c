// SPDX-License-Identifier: Apache-2.0

#include "core/record.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "core/event.h"
#include "core/text.h"

#define SCHEMA      1
#define NESTING_MAX 16
#define CMDLINE_MAX 1024 /* bytes of it that are written */

/* A place in tracer_data, where something comes in later. */
struct hole {
    uint8_t addr[16];
    uint64_t socket_inode; /* not 0: the owner of this socket, else the name of the address */
    size_t at;             /* in `data` */
    struct text content;   /* JSON */
};

/* Texts of the envelope that may or may not come. */
enum known {
    KNOWN_SUMMARY,
    KNOWN_CONTAINER_ID,
    KNOWN_CONTAINER_HOSTNAME,
    KNOWN_CONTAINER_HOST_NAMESPACE,
    KNOWN_CONTAINER_TYPE,
    KNOWN_CONTAINER_LEVEL,
    KNOWN_CONTAINER_FOUND_BY,
    KNOWN_CGROUP,
    KNOWN_EXE,
    KNOWN_CMDLINE,
    KNOWN_UNIT,
    KNOWN_NR
};

struct record {
    const struct record_origin *origin;
    const struct event *event;
    unsigned event_index;
    uint64_t realtime_ns;
    char id[DOC_ID_LEN + 1];
    int error; /* the first one */
    bool uncounted, has_process;
    uint32_t pid; /* of tracer_data */
    struct record_process process;
    char *known[KNOWN_NR]; /* owned; NULL: not known */
    struct text data;      /* tracer_data as JSON, without its braces */
    unsigned depth;        /* of objects and lists opened in it */
    char closing[NESTING_MAX];
    size_t brief_len; /* of `data` before the first stack; 0: there is none yet */
    unsigned n_holes, n_stacks;
    struct hole holes[RECORD_HOLES_MAX];
    struct doc_span stacks[DOC_STACKS_MAX]; /* in `data` */
};

static int make_id(uint64_t realtime_ns, char ret[DOC_ID_LEN + 1])
{
    uint8_t random[6];
    ssize_t n = getrandom(random, sizeof(random), GRND_INSECURE);

    /* before 5.6 there was only the kind that may wait, early at boot */
    if (n < 0 && errno == EINVAL)
        n = getrandom(random, sizeof(random), 0);
    if (n != sizeof(random))
        return n < 0 ? -errno : -EIO;
    snprintf(ret, DOC_ID_LEN + 1, "%016jx%02x%02x%02x%02x%02x%02x", (uintmax_t)realtime_ns,
             random[0], random[1], random[2], random[3], random[4], random[5]);
    return 0;
}

int record_new(const struct record_origin *origin, const struct event *event, unsigned event_index,
               uint64_t realtime_ns, struct record **ret)
{
    char id[DOC_ID_LEN + 1];
    struct record *r;
    int err = make_id(realtime_ns, id);

    if (err < 0)
        return err;
    r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->origin = origin;
    r->event = event;
    r->event_index = event_index;
    r->realtime_ns = realtime_ns;
    memcpy(r->id, id, sizeof(r->id));
    *ret = r;
    return 0;
}

struct record *record_free(struct record *r)
{
    if (!r)
        return NULL;
    for (unsigned i = 0; i < KNOWN_NR; i++)
        free(r->known[i]);
    for (unsigned i = 0; i < r->n_holes; i++)
        text_done(&r->holes[i].content);
    text_done(&r->data);
    free(r);
    return NULL;
}

static void fail(struct record *r, int error)
{
    if (r->error == 0)
        r->error = error;
}

/* ---- JSON text */

static void add_key(struct text *t, const char *name)
{
    if (t->len > 0 && t->data[t->len - 1] != '{' && t->data[t->len - 1] != '[')
        text_add(t, ",", 1);
    if (!name) /* of an element in a list */
        return;
    text_add(t, "\"", 1);
    text_adds(t, name);
    text_add(t, "\":", 2);
}

static void add_number(struct text *t, uint64_t magnitude, bool negative)
{
    char digits[21], *p = digits + sizeof(digits);

    do
        *--p = (char)('0' + magnitude % 10);
    while (magnitude /= 10);
    if (negative)
        *--p = '-';
    text_add(t, p, (size_t)(digits + sizeof(digits) - p));
}

static void add_number_field(struct text *t, const char *name, uint64_t value)
{
    add_key(t, name);
    add_number(t, MIN(value, (uint64_t)INT64_MAX), false);
}

static void add_string_field(struct text *t, const char *name, const char *bytes, size_t max)
{
    add_key(t, name);
    text_add(t, "\"", 1);
    text_add_json(t, bytes, max);
    text_add(t, "\"", 1);
}

/* ---- tracer_data */

/* Asked before and after each field, so that a record that has failed takes up no more memory. */
static bool writable(const struct record *r)
{
    return r->error == 0;
}

static void check(struct record *r)
{
    if (r->data.failed)
        fail(r, -ENOMEM);
    else if (r->data.len > RECORD_MAX_BYTES)
        fail(r, -E2BIG);
}

void record_u64(struct record *r, const char *name, uint64_t value)
{
    if (!writable(r))
        return;
    if (r->depth == 0 && name && strcmp(name, "pid") == 0)
        r->pid = (uint32_t)value; /* what a reader sees is what `list --pid` finds */
    add_number_field(&r->data, name, value);
    check(r);
}

void record_i64(struct record *r, const char *name, int64_t value)
{
    if (!writable(r))
        return;
    add_key(&r->data, name);
    add_number(&r->data, value < 0 ? -(uint64_t)value : (uint64_t)value, value < 0);
    check(r);
}

void record_bool(struct record *r, const char *name, bool value)
{
    if (!writable(r))
        return;
    add_key(&r->data, name);
    text_adds(&r->data, value ? "true" : "false");
    check(r);
}

/* Says where in `data` the inside of the string is. */
static struct doc_span add_string(struct record *r, const char *name, const char *bytes, size_t max)
{
    struct doc_span span = {};
    size_t at;

    if (!writable(r))
        return span;
    add_key(&r->data, name);
    text_add(&r->data, "\"", 1);
    at = r->data.len;
    /* more than this can't come to anything, and need not be escaped to find out */
    text_add_json(&r->data, bytes, MIN(max, (size_t)RECORD_MAX_BYTES + 1));
    span = (struct doc_span){.at = (uint32_t)at, .len = (uint32_t)(r->data.len - at)};
    text_add(&r->data, "\"", 1);
    check(r);
    return span;
}

void record_str(struct record *r, const char *name, const char *bytes, size_t max)
{
    add_string(r, name, bytes, max);
}

void record_strf(struct record *r, const char *name, const char *format, ...)
{
    _free_ char *s = NULL;
    va_list args;
    int n;

    if (!writable(r))
        return;
    va_start(args, format);
    n = vasprintf(&s, format, args);
    va_end(args);
    if (n < 0) {
        s = NULL;
        fail(r, -ENOMEM);
        return;
    }
    add_string(r, name, s, SIZE_MAX);
}

void record_stack(struct record *r, const char *name, const char *text)
{
    struct doc_span span;

    if (!r->brief_len)
        r->brief_len = r->data.len;
    span = add_string(r, name, text, SIZE_MAX);
    if (writable(r) && span.len > 0 && r->n_stacks < DOC_STACKS_MAX)
        r->stacks[r->n_stacks++] = span;
}

char *record_brief(const struct record *r)
{
    size_t len = r->brief_len ? r->brief_len : r->data.len;

    return strndup(r->data.data ? r->data.data : "", len);
}

void record_add_brief(struct record *r, const char *brief)
{
    if (!writable(r) || !*brief)
        return;
    if (r->data.len > 0)
        text_add(&r->data, ",", 1);
    text_adds(&r->data, brief);
    check(r);
}

static struct hole *add_hole(struct record *r, size_t at)
{
    if (!writable(r) || r->n_holes == RECORD_HOLES_MAX)
        return NULL;
    r->holes[r->n_holes].at = at;
    return &r->holes[r->n_holes++];
}

void record_host(struct record *r, const char *name, const uint8_t addr[16])
{
    struct doc_span span = add_string(r, name, "", 0);
    struct hole *hole = add_hole(r, span.at);

    if (hole)
        memcpy(hole->addr, addr, sizeof(hole->addr));
}

void record_owner(struct record *r, uint64_t socket_inode)
{
    struct hole *hole = add_hole(r, r->data.len);

    if (hole)
        hole->socket_inode = socket_inode;
}

static void open_nested(struct record *r, const char *name, const char *open, char close)
{
    if (!writable(r))
        return;
    if (r->depth == NESTING_MAX) {
        fail(r, -EINVAL);
        return;
    }
    add_key(&r->data, name);
    text_adds(&r->data, open);
    r->closing[r->depth++] = close;
    check(r);
}

void record_open(struct record *r, const char *name)
{
    open_nested(r, name, "{", '}');
}

void record_list(struct record *r, const char *name)
{
    open_nested(r, name, "[", ']');
}

void record_close(struct record *r)
{
    if (!writable(r))
        return;
    if (r->depth == 0) {
        fail(r, -EINVAL);
        return;
    }
    text_add(&r->data, &r->closing[--r->depth], 1);
    check(r);
}

int record_named_u64(struct record *r, const char *name, size_t name_len, uint64_t value)
{
    char copy[RECORD_NAME_MAX + 1];

    if (name_len == 0 || name_len > RECORD_NAME_MAX)
        return -EINVAL;
    for (size_t i = 0; i < name_len; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_()", name[i]) ||
            !name[i])
            return -EINVAL;
    memcpy(copy, name, name_len);
    copy[name_len] = '\0';
    if (writable(r)) {
        add_number_field(&r->data, copy, value);
        check(r);
    }
    return 0;
}

/* ---- what goes into the envelope */

/* A second value replaces the first; NULL and "" say nothing. */
static void know(struct record *r, enum known what, const char *text, size_t max)
{
    char *copy;
    size_t len;

    if (!text || (len = strnlen(text, MIN(max, (size_t)RECORD_MAX_BYTES + 1))) == 0)
        return;
    if (len > RECORD_MAX_BYTES) {
        fail(r, -E2BIG);
        return;
    }
    copy = strndup(text, len);
    if (!copy) {
        fail(r, -ENOMEM);
        return;
    }
    free(r->known[what]);
    r->known[what] = copy;
}

int record_append(struct record *r, const struct record *part)
{
    size_t shift;

    if (r->error < 0 || part->error < 0)
        return r->error < 0 ? r->error : part->error;
    if (r->depth > 0 || part->depth > 0 || part->n_holes > 0)
        return -EINVAL;
    /* Some room for the envelope; what comes into holes later is small. */
    if (r->data.len + part->data.len > RECORD_MAX_BYTES - RECORD_MAX_BYTES / 8)
        return -E2BIG;
    for (unsigned i = 0; i < KNOWN_NR; i++)
        if (!r->known[i] && i != KNOWN_SUMMARY)
            know(r, (enum known)i, part->known[i], SIZE_MAX);
    if (part->data.len == 0)
        return 0;
    if (r->data.len > 0)
        text_add(&r->data, ",", 1);
    shift = r->data.len;
    if (part->n_stacks && !r->brief_len)
        r->brief_len = shift;
    text_add(&r->data, part->data.data, part->data.len);
    for (unsigned i = 0; i < part->n_stacks && r->n_stacks < DOC_STACKS_MAX; i++)
        r->stacks[r->n_stacks++] = (struct doc_span){
            .at = (uint32_t)(part->stacks[i].at + shift),
            .len = part->stacks[i].len,
        };
    check(r);
    return r->error;
}

void record_summary(struct record *r, const char *format, ...)
{
    _free_ char *s = NULL;
    va_list args;
    int n;

    va_start(args, format);
    n = vasprintf(&s, format, args);
    va_end(args);
    if (n < 0) {
        s = NULL;
        fail(r, -ENOMEM);
        return;
    }
    know(r, KNOWN_SUMMARY, s, SIZE_MAX);
}

void record_cgroup(struct record *r, const char *path)
{
    know(r, KNOWN_CGROUP, path, SIZE_MAX);
}

const char *record_get_cgroup(const struct record *r)
{
    return r->known[KNOWN_CGROUP] ? r->known[KNOWN_CGROUP] : "";
}

void record_container(struct record *r, const char *id, const char *hostname,
                      const char *host_namespace, const char *type, const char *level,
                      const char *found_by)
{
    know(r, KNOWN_CONTAINER_ID, id, DOC_CONTAINER_LEN);
    know(r, KNOWN_CONTAINER_HOSTNAME, hostname, SIZE_MAX);
    know(r, KNOWN_CONTAINER_HOST_NAMESPACE, host_namespace, SIZE_MAX);
    know(r, KNOWN_CONTAINER_TYPE, type, SIZE_MAX);
    know(r, KNOWN_CONTAINER_LEVEL, level, SIZE_MAX);
    know(r, KNOWN_CONTAINER_FOUND_BY, found_by, SIZE_MAX);
}

void record_uncounted(struct record *r)
{
    r->uncounted = true;
}

void record_process(struct record *r, const struct record_process *process)
{
    r->process = *process;
    r->has_process = true;
}

void record_task(struct record *r, const struct wire_head *head)
{
    struct record_process process = {
        .pid = head->pid,
        .tid = head->tid,
        .ppid = head->ppid,
        .uid = head->uid,
        .start_boot_ns = head->task_start_ns,
    };

    memcpy(process.comm, head->comm, sizeof(process.comm));
    record_process(r, &process);
}

const struct record_process *record_get_process(const struct record *r)
{
    return r->has_process ? &r->process : NULL;
}

unsigned record_n_holes(const struct record *r)
{
    return r->n_holes;
}

const uint8_t *record_hole_addr(const struct record *r, unsigned i)
{
    return i < r->n_holes && !r->holes[i].socket_inode ? r->holes[i].addr : NULL;
}

uint64_t record_hole_socket(const struct record *r, unsigned i)
{
    return i < r->n_holes ? r->holes[i].socket_inode : 0;
}

void record_host_fill(struct record *r, unsigned i, const char *name)
{
    struct text *t;

    if (i >= r->n_holes || !name)
        return;
    t = &r->holes[i].content;
    text_done(t);
    text_add_json(t, name, RECORD_MAX_BYTES + 1);
    if (t->failed)
        fail(r, -ENOMEM);
}

void record_owner_fill(struct record *r, unsigned i, uint32_t pid, const char *comm)
{
    struct text *t;

    if (i >= r->n_holes)
        return;
    t = &r->holes[i].content;
    text_done(t);
    text_adds(t, ",\"owner_pid\":");
    add_number(t, pid, false);
    text_adds(t, ",\"owner_comm\":\"");
    text_add_json(t, comm, WIRE_COMM_LEN);
    text_adds(t, "\"");
    if (t->failed)
        fail(r, -ENOMEM);
}

/* As a shell would take it: what is pasted from a record must not do more than it did. */
static void add_argument(struct text *t, const char *arg, size_t len)
{
    static const char special[] = " \t\n\v\f\r'\"\\`$&|;<>(){}[]*?!~#";
    bool quote = len == 0;

    for (size_t i = 0; i < len && !quote; i++)
        quote = strchr(special, arg[i]);
    if (!quote) {
        text_add(t, arg, len);
        return;
    }
    text_add(t, "'", 1);
    for (size_t i = 0; i < len; i++)
        if (arg[i] == '\'')
            text_adds(t, "'\\''");
        else
            text_add(t, &arg[i], 1);
    text_add(t, "'", 1);
}

static void add_cmdline(struct text *t, const char *cmdline, size_t len, bool mask)
{
    bool cut = len > CMDLINE_MAX;

    if (cut)
        /* not in the middle of a character */
        for (len = CMDLINE_MAX; len > 0 && (cmdline[len] & 0xc0) == 0x80; len--)
            ;
    /* Processes that write their title over their arguments leave NULs behind it. */
    while (len > 0 && cmdline[len - 1] == '\0')
        len--;
    if (mask) {
        size_t word = 0;

        /* Such a title is one argument with all its words. */
        while (word < len && !strchr(" \t\n", cmdline[word]))
            word++;
        add_argument(t, cmdline, word);
        return;
    }
    for (size_t at = 0; at < len;) {
        size_t arg = strnlen(cmdline + at, len - at);

        if (at > 0)
            text_add(t, " ", 1);
        add_argument(t, cmdline + at, arg);
        at += arg + 1;
    }
    if (cut)
        text_adds(t, " ...");
}

void record_process_fill(struct record *r, const char *exe, const char *cmdline, size_t cmdline_len,
                         const char *systemd_unit)
{
    _cleanup_(text_done) struct text line = {};

    know(r, KNOWN_EXE, exe, SIZE_MAX);
    know(r, KNOWN_UNIT, systemd_unit, SIZE_MAX);
    if (!cmdline)
        return;
    add_cmdline(&line, cmdline, cmdline_len, r->origin->mask_cmdline);
    if (line.failed)
        fail(r, -ENOMEM);
    else
        know(r, KNOWN_CMDLINE, line.data, line.len);
}

const char *record_id(const struct record *r)
{
    return r->id;
}

const char *record_get_summary(const struct record *r)
{
    return r->known[KNOWN_SUMMARY] ? r->known[KNOWN_SUMMARY] : "";
}

unsigned record_event(const struct record *r)
{
    return r->event_index;
}

bool record_is_counted(const struct record *r)
{
    return !r->uncounted;
}

uint64_t record_realtime(const struct record *r)
{
    return r->realtime_ns;
}

/* ---- the whole */

static void add_known(struct text *t, const char *name, const struct record *r, enum known what)
{
    if (r->known[what])
        add_string_field(t, name, r->known[what], SIZE_MAX);
}

static void add_envelope(struct text *t, const struct record *r, uint64_t written_ns)
{
    const struct record_origin *origin = r->origin;
    char written[CLOCK_TEXT_MAX], seen[CLOCK_TEXT_MAX];

    clock_format_rfc3339(written_ns, written);
    clock_format_ms(r->realtime_ns, seen);

    text_add(t, "{", 1);
    add_string_field(t, "hostname", origin->hostname, SIZE_MAX);
    add_string_field(t, "region", origin->region, SIZE_MAX);
    add_known(t, "container_id", r, KNOWN_CONTAINER_ID);
    add_known(t, "container_hostname", r, KNOWN_CONTAINER_HOSTNAME);
    add_known(t, "container_host_namespace", r, KNOWN_CONTAINER_HOST_NAMESPACE);
    add_known(t, "container_type", r, KNOWN_CONTAINER_TYPE);
    add_known(t, "container_level", r, KNOWN_CONTAINER_LEVEL);
    add_string_field(t, "uploaded_time", written, SIZE_MAX);
    add_string_field(t, "time", seen, SIZE_MAX);
    add_string_field(t, "tracer_time", seen, SIZE_MAX);
    add_string_field(t, "tracer_name", r->event->tracer_name, SIZE_MAX);
    add_string_field(t, "tracer_type", "auto", SIZE_MAX);
    add_string_field(t, "tracer_id", r->id, SIZE_MAX);
    add_number_field(t, "schema", SCHEMA);
    add_string_field(t, "summary", r->known[KNOWN_SUMMARY] ? r->known[KNOWN_SUMMARY] : "",
                     SIZE_MAX);
    add_string_field(t, "kernel", origin->kernel_release, SIZE_MAX);
    add_string_field(t, "boot_id", origin->boot_id, sizeof(origin->boot_id));
    add_known(t, "container_found_by", r, KNOWN_CONTAINER_FOUND_BY);
    add_known(t, "cgroup", r, KNOWN_CGROUP);
    if (r->has_process) {
        add_key(t, "process");
        text_add(t, "{", 1);
        add_number_field(t, "pid", r->process.pid);
        add_number_field(t, "tid", r->process.tid);
        add_number_field(t, "ppid", r->process.ppid);
        add_number_field(t, "uid", r->process.uid);
        add_string_field(t, "comm", r->process.comm, sizeof(r->process.comm));
        add_known(t, "exe", r, KNOWN_EXE);
        add_known(t, "cmdline", r, KNOWN_CMDLINE);
        add_known(t, "systemd_unit", r, KNOWN_UNIT);
        text_add(t, "}", 1);
    }
    add_key(t, "tracer_data");
    text_add(t, "{", 1);
}

/* Copies tracer_data behind the envelope, names put into their holes, and finds the stacks again.
 */
static void put_data(const struct record *r, struct doc *doc)
{
    unsigned h = 0, s = 0;
    size_t from = 0;

    while (from < r->data.len) {
        size_t until = h < r->n_holes ? r->holes[h].at : r->data.len;

        for (; s < r->n_stacks && r->stacks[s].at < until; s++)
            doc->stacks[doc->n_stacks++] = (struct doc_span){
                .at = (uint32_t)(r->stacks[s].at + doc->len - from),
                .len = r->stacks[s].len,
            };
        memcpy(doc->json + doc->len, r->data.data + from, until - from);
        doc->len += until - from;
        if (h < r->n_holes && r->holes[h].content.len > 0) {
            memcpy(doc->json + doc->len, r->holes[h].content.data, r->holes[h].content.len);
            doc->len += r->holes[h].content.len;
        }
        h++;
        from = until;
    }
}

int record_finish(struct record *r, uint64_t written_ns, struct doc **ret)
{
    static const char end[] = "}}";
    _cleanup_(text_done) struct text envelope = {};
    size_t len;
    struct doc *doc;

    if (r->depth > 0)
        fail(r, -EINVAL);
    if (r->error < 0)
        return r->error;

    add_envelope(&envelope, r, written_ns);
    if (envelope.failed)
        return envelope.len > RECORD_MAX_BYTES ? -E2BIG : -ENOMEM;
    len = envelope.len + r->data.len + strlen(end);
    for (unsigned i = 0; i < r->n_holes; i++)
        len += r->holes[i].content.len;
    if (len > RECORD_MAX_BYTES)
        return -E2BIG;
    doc = calloc(1, sizeof(*doc) + len + 1);
    if (!doc)
        return -ENOMEM;

    doc->refs = 1;
    doc->event = r->event_index;
    doc->counted = !r->uncounted;
    doc->tracer_name = r->event->tracer_name;
    doc->realtime_ns = r->realtime_ns;
    doc->pid = r->pid ? r->pid : r->process.pid;
    memcpy(doc->id, r->id, sizeof(doc->id));
    if (r->known[KNOWN_CONTAINER_ID])
        snprintf(doc->container_id, sizeof(doc->container_id), "%s", r->known[KNOWN_CONTAINER_ID]);
    memcpy(doc->json, envelope.data, envelope.len);
    doc->len = envelope.len;
    put_data(r, doc);
    memcpy(doc->json + doc->len, end, sizeof(end));
    doc->len += strlen(end);

    r->error = -EINVAL; /* used up */
    *ret = doc;
    return 0;
}
