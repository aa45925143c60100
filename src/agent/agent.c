// SPDX-License-Identifier: Apache-2.0

#include "agent/agent.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <jansson.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdalign.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "agent/coverage.h"
#include "agent/directory.h"
#include "agent/handover.h"
#include "agent/kinds.h"
#include "agent/output.h"
#include "agent/own.h"
#include "agent/pending.h"
#include "agent/privilege.h"
#include "agent/settings.h"
#include "agent/status_socket.h"
#include "agent/windows.h"
#include "core/log.h"
#include "core/loop.h"
#include "enrich/container.h"
#include "kernel/kernel.h"

#define TICK_NS           (1 * NS_PER_SEC)
#define EXPIRE_NS         (20 * NS_PER_MS)
#define PENDING_MAX       4096
#define WINDOWS_MAX       16384
#define NAMES_CACHE_MAX   4096
#define NAMES_TTL_NS      (300 * NS_PER_SEC)
#define PROCESS_CACHE_MAX 1024
#define OWNERS_MAX        100000
#define EXE_TTL_NS        (5 * NS_PER_SEC) /* a process may become another program */
#define EXE_PENDING_MAX   128
#define COLLECT_BOUND_NS  (2 * NS_PER_SEC)
#define COLLECT_MAX       256
#define UPLOAD_BOUND_NS   (1500 * NS_PER_MS)
#define UPLOAD_END_NS     (6 * NS_PER_SEC) /* after the end has begun nothing is uploaded any more */
#define STORE_BOUND_NS    (7 * NS_PER_SEC) /* with the other, less than the root part's patience */
#define CLOSE_BOUND_NS    (1 * NS_PER_SEC)
#define OUTPUT_BOUND_NS   (1 * NS_PER_SEC)
#define END_WAIT_NS       (300 * NS_PER_MS)
#define LOST_GAP_NS       (60 * NS_PER_SEC) /* between two records of losses */

/** What tells that answers have come, and whose. */
struct answers {
    struct agent *agent;
    int fd;
};
#define N_ASKED 5

struct agent {
    const struct agent_setup *setup;
    const struct config *before; /* of the agent whose place is taken, or NULL */
    const struct config *config;
    const struct agent_options *options;
    const struct store_options *store_options;
    struct privilege_user user;

    struct agent_kind kinds[AGENT_KINDS_MAX];
    size_t n_kinds;
    struct ring_buffer *rings;
    struct kernel kernel;
    int sysrq;    /* eventfd of the root part; -1: it is not allowed */
    int kallsyms; /* opened with privilege, -1 once the symbols have it */

    struct loop *loop;
    struct watch *watches[12];
    size_t n_watches;
    struct answers answers[N_ASKED];
    struct watch *expiry; /* only while records wait */
    struct watch *channel_watch;
    int channel, status_socket;
    int state_fd; /* what is handed over to the next agent, or was by the one before */
    int clock_fd; /* tells when the clock is set */

    struct wall_clock clock;
    struct wall_clock monotonic; /* the same against CLOCK_MONOTONIC, for the kernel's programs */
    struct record_origin origin;
    char hostname[256];
    struct utsname uname;
    uint64_t started_ns;
    uint64_t ticked_ns; /* CLOCK_REALTIME: when losses were last looked for */

    struct names *names;
    struct processes *processes;
    struct owners *owners;
    struct lookups *exes;
    struct own_sockets *own;
    struct collector *collector;
    struct pending *pending;
    struct windows *windows;
    struct store *store;
    struct output *output;
    struct uploader *uploaders[STORE_TARGETS_MAX];
    size_t n_uploaders;
    struct uploader_state uploads[STORE_TARGETS_MAX]; /* as was last asked */

    uint64_t status_sum; /* of what was saved last: nothing is written while nothing happens */
    bool ready, ready_once, ending;
    bool handing_over;              /* ending, and another agent goes on */
    char end_why[CHANNEL_TEXT_MAX]; /* once `ending` */
    uint64_t end_ns;                /* CLOCK_MONOTONIC: no record waits longer once `ending` */
    int exit_status;
};

/* ------------------------------------------------------------------ from the ring to the store */

static void put(void *arg, struct record *r)
{
    struct agent *a = arg;
    struct doc *doc;
    int e = record_finish(r, clock_now_ns(CLOCK_REALTIME), &doc);

    if (e < 0) {
        if (record_is_counted(r))
            a->kinds[record_event(r)].lost[e == -ENOMEM ? AGENT_LOST_MEMORY : AGENT_LOST_DECODE]++;
        log_debug("a record could not be put together: %s", strerror(-e));
    } else {
        store_put(a->store, doc); /* counts what it cannot take */
        doc_unref(doc);
    }
    record_free(r);
}

/** The next of its kind may only be counted. */
static void remember_last(struct agent *a, uint64_t window_id, const struct record *r)
{
    struct window_last last = {.summary = strdup(record_get_summary(r)), .brief = record_brief(r)};

    memcpy(last.tracer_id, record_id(r), sizeof(last.tracer_id));
    windows_set(a->windows, window_id, &last);
}

static void device_name(uint32_t netns, int ifindex, char ret[16])
{
    static uint32_t own; /* the agent never changes its namespace */
    char name[IF_NAMESIZE];
    struct stat st;

    if (!own && stat("/proc/self/ns/net", &st) == 0)
        own = (uint32_t)st.st_ino;
    *ret = '\0';
    if (netns == own && if_indextoname((unsigned)ifindex, name))
        snprintf(ret, 16, "%.15s", name);
}

static void container_id(const char *cgroup_path, char ret[DOC_CONTAINER_LEN + 1])
{
    if (!container_from_cgroup(cgroup_path, ret))
        *ret = '\0';
}

static void on_incomplete(void *arg, const struct record *r, int why)
{
    struct agent *a = arg;

    a->kinds[record_event(r)].incomplete[why == -ETIME   ? AGENT_INCOMPLETE_LATE
                                         : why == -EBUSY ? AGENT_INCOMPLETE_BUSY
                                                         : AGENT_INCOMPLETE_FAILED]++;
}

static void wait_for_answers(struct agent *a, struct agent_kind *kind, const void *raw,
                             const void *note, struct record *r)
{
    uint64_t ticket = 0, now = clock_now_ns(CLOCK_MONOTONIC);
    int e;

    if (!kind->event->collect || (kind->event->collects && !kind->event->collects(raw))) {
        pending_add(a->pending, r, now);
        return;
    }
    e = collector_start(a->collector, kind->event, kind->index, kind->on_demand, raw, note,
                        &ticket);
    pending_add_collected(a->pending, r, ticket, e, now);
}

static void on_event(struct agent *a, struct agent_kind *kind, const void *raw)
{
    alignas(8) char note[EVENT_NOTE_BYTES] = {};
    const struct decode decode = {
        .kernel = &a->kernel,
        .options = kind->options,
        .device_name = device_name,
        .container_id = container_id,
        .note = note,
    };
    const struct wire_head *head = raw;
    struct record *r;
    int e;

    e = record_new(&a->origin, kind->event, kind->index, clock_realtime(&a->clock, head->time_ns),
                   &r);
    if (e < 0) {
        kind->lost[AGENT_LOST_MEMORY]++;
        return;
    }
    e = kind->event->decode(&decode, raw, r);
    if (e < 0) {
        kind->lost[e == -ENOMEM ? AGENT_LOST_MEMORY : AGENT_LOST_DECODE]++;
        record_free(r);
        return;
    }
    if (head->nth >= kind->options->repeat_limit || kind->event->episodes)
        remember_last(a, head->window_id, r);
    wait_for_answers(a, kind, raw, note, r);
}

static int on_expire(void *arg)
{
    struct agent *a = arg;

    uint64_t now = clock_now_ns(CLOCK_MONOTONIC);

    pending_expire(a->pending, a->ending && now >= a->end_ns ? UINT64_MAX : now);
    if (pending_count(a->pending) > 0)
        return 0;
    a->expiry = watch_free(a->expiry);
    if (a->ending)
        loop_exit(a->loop, a->exit_status);
    return 0;
}

struct ring_context {
    struct agent *agent;
    struct agent_kind *kind;
};

/**
 * Passes on what records want to know of processes. The descriptor of /proc/PID stays with the
 * process whose start was checked, whatever its pid comes to mean meanwhile.
 */
static void ask_exes(struct agent *a)
{
    struct channel_message m = {.type = CHANNEL_ASK_EXE};
    struct exe_key key;

    while (lookups_next(a->exes, &key)) {
        int fd = process_open("", key.pid, key.start_boot_ns);

        m.exe.pid = key.pid;
        m.exe.start_boot_ns = key.start_boot_ns;
        if (fd < 0 || channel_send(a->channel, &m, &fd, 1) < 0)
            lookups_answer(a->exes, &key, NULL, 0, clock_now_ns(CLOCK_MONOTONIC) + NS_PER_SEC);
        fd_close(fd);
    }
}

static void take_exe(struct agent *a, const struct channel_message *m)
{
    const struct exe_key key = {.pid = m->exe.pid, .start_boot_ns = m->exe.start_boot_ns};

    lookups_answer(a->exes, &key, m->text, strlen(m->text),
                   clock_now_ns(CLOCK_MONOTONIC) + EXE_TTL_NS);
}

static int on_sample(void *arg, void *data, size_t size)
{
    struct ring_context *c = arg;
    const struct event *event = c->kind->event;
    _free_ void *whole = NULL;

    if (size > event->wire_size ||
        size < (event->wire_least ? event->wire_least : event->wire_size)) {
        c->kind->lost[AGENT_LOST_DECODE]++;
        return 0;
    }
    if (size < event->wire_size) {
        whole = calloc(1, event->wire_size);
        if (!whole) {
            c->kind->lost[AGENT_LOST_MEMORY]++;
            return 0;
        }
        data = memcpy(whole, data, size);
    }
    on_event(c->agent, c->kind, data);
    return 0;
}

static void tell_clock(struct agent *a)
{
    for (size_t i = 0; i < a->n_kinds; i++)
        if (a->kinds[i].loaded)
            clock_tell(&a->monotonic, &a->kinds[i].common->clock);
}

static void look_at_clock(struct agent *a)
{
    if (clock_was_set(a->clock_fd)) {
        clock_stepped(&a->clock);
        clock_stepped(&a->monotonic);
    } else {
        clock_update(&a->clock);
        clock_update(&a->monotonic);
    }
    tell_clock(a);
}

static int on_clock_set(void *arg, uint32_t revents)
{
    (void)revents;
    look_at_clock(arg);
    return 0;
}

static void consume(struct agent *a)
{
    look_at_clock(a);
    if (a->rings)
        ring_buffer__consume(a->rings);
    ask_exes(a);
    if (pending_count(a->pending) > 0 && !a->expiry &&
        loop_watch_time(a->loop, EXPIRE_NS, EXPIRE_NS, on_expire, a, &a->expiry) < 0)
        pending_expire(a->pending, UINT64_MAX); /* without a timer nobody waits */
}

static int on_rings(void *arg, uint32_t revents)
{
    (void)revents;
    consume(arg);
    return 0;
}

static void write_repeat(struct agent *a, const struct wire_window *w, const struct window_last *of,
                         const char *last, struct record *r)
{
    char first[CLOCK_TEXT_MAX];

    clock_format_ms(clock_realtime(&a->clock, w->first_repeat_ns), first);
    record_open(r, "repeat");
    record_str(r, "of", of->tracer_id, sizeof(of->tracer_id));
    record_u64(r, "count", w->suppressed);
    if (w->suppressed) {
        record_str(r, "first_time", first, sizeof(first));
        record_str(r, "last_time", last, CLOCK_TEXT_MAX);
    }
    record_close(r);
}

/** How long all of it lasted, as far as it is known. */
static void write_episode(const struct wire_window *w, const char *summary, struct record *r)
{
    uint64_t end_ns = w->ended_ns ? w->ended_ns : w->last_ns;
    uint64_t ms = end_ns > w->started_ns ? (end_ns - w->started_ns) / NS_PER_MS : 0;

    record_u64(r, "duration_ms", ms);
    record_bool(r, "ended", w->ended_ns != 0);
    record_summary(r, "%s %llu.%llu s, with %llu more reports: %s",
                   w->ended_ns ? "over after" : "not reported any more after at least",
                   (unsigned long long)ms / 1000, (unsigned long long)ms / 100 % 10,
                   (unsigned long long)w->suppressed, summary);
}

/** The closing record of a key's minute, or of an episode. */
static void on_window(struct agent *a, const struct channel_message *m)
{
    const struct wire_window *w = &m->window.window;
    const struct agent_kind *kind = &a->kinds[m->event];
    _cleanup_(window_last_done) struct window_last of = {};
    uint64_t last_ns = w->ended_ns ? w->ended_ns : w->last_repeat_ns;
    char last[CLOCK_TEXT_MAX];
    const char *summary;
    struct record *r;

    consume(a); /* the window's full records come first */
    windows_take(a->windows, w->id, &of);
    if (record_new(&a->origin, kind->event, kind->index, clock_realtime(&a->clock, last_ns), &r) <
        0)
        return;
    clock_format_ms(clock_realtime(&a->clock, w->last_repeat_ns), last);
    summary = of.summary ? of.summary : kind->event->summary;
    record_uncounted(r);
    record_add_brief(r, of.brief ? of.brief : "");
    write_repeat(a, w, &of, last, r);
    if (w->started_ns)
        write_episode(w, summary, r);
    else
        record_summary(r, "%llu more of the same until %s: %s", w->suppressed, last, summary);
    put(a, r);
}

/* ------------------------------------------------------------------ coverage */

static void put_coverage(struct agent *a, const struct agent_kind *kind,
                         const struct coverage_note *note)
{
    struct record *r;
    int e = coverage_record(&a->origin, kind, note, &r);

    if (e < 0)
        log_warning("%s: a record about when it was watched is missing: %s", kind->event->name,
                    strerror(-e));
    else
        put(a, r);
}

/** What differs from what was last recorded of each kind: at the start, and when another agent's
 * place is taken. */
static void record_coverage(struct agent *a)
{
    static const char failed[] = "failed"; /* in place of the ways */

    for (size_t i = 0; i < a->n_kinds; i++) {
        struct agent_kind *kind = &a->kinds[i];
        bool was = *kind->covered && strcmp(kind->covered, failed) != 0;
        bool is = kind_watched(kind);
        struct coverage_note note = {
            .change = is    ? was ? COVERAGE_HOOK : COVERAGE_BEGIN
                      : was ? COVERAGE_END
                            : COVERAGE_FAILED,
            .realtime_ns = clock_now_ns(CLOCK_REALTIME),
            .reason = a->before ? "the configuration has changed" : "",
        };
        char now[sizeof(kind->covered)] = "";

        if (is)
            kind_ways(kind, now, sizeof(now));
        else if (kind->enabled)
            snprintf(now, sizeof(now), "%s", failed);
        if (!is && kind->enabled)
            note.reason = kind->reason;
        if (strcmp(now, kind->covered) != 0 && (is || was || kind->enabled))
            put_coverage(a, kind, &note);
        snprintf(kind->covered, sizeof(kind->covered), "%s", now);
    }
}

static void record_end(struct agent *a)
{
    for (size_t i = 0; i < a->n_kinds; i++)
        if (kind_watched(&a->kinds[i]))
            put_coverage(a, &a->kinds[i],
                         &(struct coverage_note){
                             .change = COVERAGE_END,
                             .realtime_ns = clock_now_ns(CLOCK_REALTIME),
                             .reason = a->end_why,
                         });
}

/** By cause, what was lost since it was last noted. */
static void lost_text(const json_t *before, const json_t *now, char *ret, size_t size)
{
    const char *name;
    json_t *value;
    size_t len = 0;

    *ret = '\0';
    json_object_foreach((json_t *)now, name, value)
    {
        json_int_t more =
            json_integer_value(value) - json_integer_value(json_object_get(before, name));

        if (more > 0 && len < size)
            len += (size_t)snprintf(ret + len, size - len, "%s%s %lld", len ? ", " : "", name,
                                    (long long)more);
    }
}

/** Losses are noted at once, then once a minute as long as there are more. */
static void record_losses(struct agent *a, bool last)
{
    uint64_t now = clock_now_ns(CLOCK_REALTIME);

    for (size_t i = 0; i < a->n_kinds; i++) {
        struct agent_kind *kind = &a->kinds[i];
        struct coverage_note note = {.change = COVERAGE_LOST, .realtime_ns = now};
        struct kind_account account;
        char reason[CHANNEL_TEXT_MAX];
        json_t *causes;

        kind_get_account(kind, a->store, &account);
        if (account.lost <= kind->noted.lost) {
            if (now - kind->noted.time_ns >= LOST_GAP_NS)
                kind->noted.time_ns = 0;
            continue;
        }
        if (!last && kind->noted.time_ns && now - kind->noted.time_ns < LOST_GAP_NS)
            continue;
        causes = status_lost_by(kind, a->store);
        lost_text(kind->noted.lost_by, causes, reason, sizeof(reason));
        note.reason = reason;
        note.lost = account.lost - kind->noted.lost;
        note.since_ns =
            kind->noted.time_ns ? kind->noted.time_ns : MAX(a->started_ns, a->ticked_ns);
        log_warning("%s: %llu events were lost: %s; docs/troubleshooting.md says what helps",
                    kind->event->name, (unsigned long long)note.lost, reason);
        put_coverage(a, kind, &note);
        json_decref(kind->noted.lost_by);
        kind->noted.lost_by = causes;
        kind->noted.lost = account.lost;
        kind->noted.time_ns = now;
    }
    a->ticked_ns = now;
}

/* ------------------------------------------------------------------ status */

static const char root_gone[] = "its root part was killed";

static struct status_input status_input(struct agent *a, bool running)
{
    for (size_t i = 0; i < a->n_uploaders; i++)
        if (a->uploaders[i])
            uploader_get_state(a->uploaders[i], &a->uploads[i]);
    return (struct status_input){
        .kinds = a->kinds,
        .n_kinds = a->n_kinds,
        .store = a->store,
        .uploads = a->uploads,
        .n_uploads = a->n_uploaders,
        .running = running,
        .ready = running && a->ready,
        .started_ns = a->started_ns,
        .version = HUATUO_VERSION,
        .symbols = a->kernel.symbols ? symbols_reason(a->kernel.symbols) : "not read yet",
        .user = a->user.name,
        .end = a->end_why,
        .pid = (uint32_t)getppid(),
    };
}

static void save_status(struct agent *a, bool running)
{
    const struct status_input in = status_input(a, running);
    _free_ char *text = status_json(&in);

    if (text)
        store_put_meta(a->store, "status", text);
}

static int on_status_connection(void *arg, uint32_t revents)
{
    struct agent *a = arg;
    const struct status_input in = status_input(a, true);
    _free_ char *text = NULL;
    _close_fd_ int fd = accept4(a->status_socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)revents;
    if (fd < 0)
        return 0;
    text = status_json(&in);
    /* What does not fit into the socket's buffer is cut off: the reader sees that it is no JSON. */
    if (text && send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        log_debug("sending the status failed: %s", strerror(errno));
    return 0;
}

/** Until then it was watched, and nobody was left to say so. */
static void record_crash(struct agent *a, const json_t *kinds)
{
    for (size_t i = 0; i < a->n_kinds; i++) {
        const json_t *kind = json_object_get(kinds, a->kinds[i].event->name);
        const char *state = json_string_value(json_object_get(kind, "state"));

        if (state && (strcmp(state, "watching") == 0 || strcmp(state, "partly") == 0))
            put_coverage(a, &a->kinds[i],
                         &(struct coverage_note){
                             .change = COVERAGE_END,
                             .realtime_ns = store_alive_before(a->store),
                             .reason = "the agent was killed, or the machine went down",
                         });
    }
}

static int count_row(void *arg, const struct store_row *row)
{
    static const char repeat[] = "\"tracer_data\":{\"repeat\":";
    uint64_t *n = arg;

    /* Closing records were never events. They begin with what they repeat, or with `repeat`. */
    *n += !memmem(row->json, row->len, repeat, strlen(repeat)) &&
          !memmem(row->json, row->len, ",\"repeat\":{\"of\":", strlen(",\"repeat\":{\"of\":"));
    return 0;
}

/** Events of a kind that were committed after the note was made. */
static uint64_t committed_since(struct store_reader *reader, const struct event *event,
                                const json_t *status)
{
    const char *const names[] = {event->tracer_name, NULL};
    json_int_t next =
        json_integer_value(json_object_get(json_object_get(status, "store"), "next_seq"));
    const struct store_query query = {
        .tracer_names = names,
        .after_seq = next > 0 ? (uint64_t)next - 1 : UINT64_MAX >> 1,
    };
    uint64_t n = 0;

    store_reader_each(reader, &query, count_row, &n);
    return n;
}

/**
 * What the last run had seen and not written when it was killed, as far as its last note and the
 * records tell, is counted as lost now.
 */
static void count_crash(struct agent *a)
{
    char alive[CLOCK_TEXT_MAX];
    const char *why;

    struct store_reader *reader;
    _free_ char *text = NULL;
    char error[512];
    json_t *status, *kinds;

    if (store_reader_open(a->store_options->path, error, sizeof(error), &reader) < 0)
        return;
    if (store_reader_meta(reader, "status", &text) < 0)
        text = NULL;
    status = text ? json_loads(text, 0, NULL) : NULL;
    if (json_is_true(json_object_get(status, "running"))) {
        clock_format_ms(store_alive_before(a->store), alive);
        log_warning("the agent that wrote to %s before was killed at about %s, or the machine went "
                    "down; what it had in memory is lost",
                    a->store_options->path, alive);
        kinds = json_object_get(status, "events");
        record_crash(a, kinds);
        for (size_t i = 0; i < a->n_kinds; i++) {
            json_int_t n = json_integer_value(
                json_object_get(json_object_get(kinds, a->kinds[i].event->name), "unaccounted"));

            if (n > 0)
                n -= (json_int_t)committed_since(reader, a->kinds[i].event, status);
            a->kinds[i].lost[AGENT_LOST_CRASH] = n > 0 ? (uint64_t)n : 0;
        }
    }
    if (json_is_true(json_object_get(status, "running")))
        save_status(a, false); /* with the records, so that this is said once */
    why = json_string_value(json_object_get(status, "end"));
    if (why && strcmp(why, root_gone) == 0)
        log_warning("the last run on %s ended because %s; what it had seen was written",
                    a->store_options->path, root_gone);
    json_decref(status);
    store_reader_close(reader);
}

/* ------------------------------------------------------------------ the loop */

/** `fresh`: only those through which nobody watches yet. */
static void configure_kinds(struct agent *a, bool fresh)
{
    for (size_t i = 0; i < a->n_kinds; i++) {
        struct agent_kind *kind = &a->kinds[i];
        const struct decode decode = {.kernel = &a->kernel, .options = kind->options};
        char error[CHANNEL_TEXT_MAX] = "out of memory";

        if (!kind->loaded || !kind->event->configure || (fresh && !kind->fresh))
            continue;
        if (kind->event->configure(&decode, kind->settings, error, sizeof(error)) == 0)
            *error = '\0';
        if (*error &&
            strcmp(error, kind->complaint) != 0) /* once, not at every change of symbols */
            log_error("configuring %s failed in part: %s", kind->event->name, error);
        snprintf(kind->complaint, sizeof(kind->complaint), "%s", error);
    }
}

static int on_tick(void *arg)
{
    const struct channel_message alive = {.type = CHANNEL_ALIVE};
    struct agent *a = arg;
    uint64_t sum = 0;

    look_at_clock(a);
    if (a->own)
        own_sockets_tick(a->own, clock_now_ns(CLOCK_MONOTONIC));
    if (symbols_refresh(a->kernel.symbols, clock_now_ns(CLOCK_BOOTTIME)) > 0)
        configure_kinds(a, false);
    channel_send(a->channel, &alive, NULL, 0); /* full: the root part does not look at it anyway */
    if (!a->ending)
        record_losses(a, false);
    for (size_t i = 0; i < a->n_kinds; i++) {
        struct kind_account account;

        kind_get_account(&a->kinds[i], a->store, &account);
        sum += account.seen + account.recorded + account.lost;
    }
    for (size_t i = 0; i < a->n_uploaders; i++) {
        struct store_target target = {};

        store_get_target(a->store, a->uploads[i].target, &target);
        sum += target.uploaded + target.rejected + target.deleted;
    }
    if (sum != a->status_sum) {
        a->status_sum = sum;
        save_status(a, true);
    }
    return 0;
}

static void read_empty(int fd)
{
    uint64_t count;

    while (read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
        ;
}

/** One of those who are asked has answers: somebody may be waiting for them. */
static int on_answers(void *arg, uint32_t revents)
{
    const struct answers *answers = arg;

    (void)revents;
    read_empty(answers->fd);
    pending_retry(answers->agent->pending);
    return 0;
}

static int on_stored(void *arg, uint32_t revents)
{
    struct agent *a = arg;

    (void)revents;
    read_empty(store_fd(a->store));
    output_wake(a->output);
    for (size_t i = 0; i < a->n_uploaders; i++)
        uploader_wake(a->uploaders[i]);
    return 0;
}

static int on_channel(void *arg, uint32_t revents)
{
    struct agent *a = arg;
    struct channel_message m;
    int fds[CHANNEL_FDS_MAX];
    size_t n_fds;
    int r;

    (void)revents;
    r = channel_receive(a->channel, &m, fds, &n_fds);
    if (r == -EAGAIN)
        return 0;
    if (r > 0 && m.type == CHANNEL_ITERATOR && m.event == CHANNEL_SOCKETS)
        owners_take(a->owners, n_fds ? fds[--n_fds] : -1);
    else if (r > 0 && m.type == CHANNEL_ITERATOR)
        collector_take(a->collector, m.event, n_fds ? fds[--n_fds] : -1);
    for (size_t i = 0; r > 0 && i < n_fds; i++)
        close(fds[i]);
    if (r <= 0 && !a->ending) {
        log_error("the root part has gone; writing what there is and ending");
        a->exit_status = EXIT_FAILURE;
    }
    if (r <= 0 || m.type == CHANNEL_END || m.type == CHANNEL_HAND_OVER) {
        consume(a);
        if (!a->ending) {
            snprintf(a->end_why, sizeof(a->end_why), "%s", r <= 0 ? root_gone : m.text);
            a->handing_over = r > 0 && m.type == CHANNEL_HAND_OVER;
        }
        a->ending = true;
        a->end_ns = clock_now_ns(CLOCK_MONOTONIC) + END_WAIT_NS;
        a->ready = false;
        if (r <= 0) { /* or it would be readable for ever */
            a->channel_watch = watch_free(a->channel_watch);
            a->channel = fd_close(a->channel);
        }
        return on_expire(a);
    }
    if (m.event >= a->n_kinds)
        return 0;
    if (m.type == CHANNEL_WINDOW)
        on_window(a, &m);
    else if (m.type == CHANNEL_MISSED)
        a->kinds[m.event].missed = m.missed.missed;
    else if (m.type == CHANNEL_EXE)
        take_exe(a, &m);
    return 0;
}

/* ------------------------------------------------------------------ beginning */

/** Everything that the root part has loaded. Descriptors only; nothing is watched yet. */
static int receive_kinds(struct agent *a)
{
    for (;;) {
        struct channel_message m;
        int fds[CHANNEL_FDS_MAX];
        size_t n_fds;
        int r = channel_receive(a->channel, &m, fds, &n_fds);

        if (r < 0)
            return r;
        if (r == 0)
            return -EPIPE;
        if (m.type == CHANNEL_LOADED)
            return 0;
        if (m.type == CHANNEL_SYSRQ && n_fds == 1) {
            fd_close(a->sysrq);
            a->sysrq = fds[0];
            continue;
        }
        if (m.event >= a->n_kinds)
            return -EBADMSG;
        if (m.type == CHANNEL_HOOK)
            kind_take_hook(&a->kinds[m.event], &m);
        else if (m.type == CHANNEL_KIND)
            r = kind_take(&a->kinds[m.event], &m, fds, n_fds);
        else if ((m.type == CHANNEL_SAMPLES || m.type == CHANNEL_PERF) && n_fds == 1)
            r = kind_take_on_demand(&a->kinds[m.event], &m, fds[0]);
        if (r < 0)
            return r;
    }
}

static int open_rings(struct agent *a)
{
    static struct ring_context contexts[AGENT_KINDS_MAX];

    for (size_t i = 0; i < a->n_kinds; i++) {
        struct agent_kind *kind = &a->kinds[i];
        int r = 0;

        if (!kind->loaded)
            continue;
        contexts[i] = (struct ring_context){.agent = a, .kind = kind};
        if (!a->rings)
            a->rings = ring_buffer__new(kind->ring_fd, on_sample, &contexts[i], NULL);
        else
            r = ring_buffer__add(a->rings, kind->ring_fd, on_sample, &contexts[i]);
        if (!a->rings || r < 0)
            return r < 0 ? r : -errno;
    }
    return 0;
}

static void read_boot_id(char ret[37])
{
    _close_fd_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, ret, 36) != 36)
        ret[0] = '\0';
}

static void describe_origin(struct agent *a)
{
    uname(&a->uname);
    gethostname(a->hostname, sizeof(a->hostname) - 1);
    a->origin = (struct record_origin){
        .hostname = *a->options->hostname ? a->options->hostname : a->hostname,
        .region = a->options->region,
        .kernel_release = a->uname.release,
        .mask_cmdline = a->options->mask_cmdline,
    };
    read_boot_id(a->origin.boot_id);
}

static void note_socket(void *arg, int fd, bool open)
{
    const struct agent *a = arg;

    own_sockets_note(a->own, fd, open);
}

/** Their secrets may be readable by root only. One that cannot be had shows in the status. */
static void open_uploaders(struct agent *a)
{
    const struct http_sockets sockets = {.note = note_socket, .arg = a};

    for (size_t i = 0; i < n_targets && a->n_uploaders < STORE_TARGETS_MAX; i++) {
        const struct http_options *http = config_section(a->config, targets[i]->name);
        struct uploader_state *state = &a->uploads[a->n_uploaders];
        struct uploader **uploader = &a->uploaders[a->n_uploaders];

        if (!http->url.n)
            continue;
        *state = (struct uploader_state){.target = targets[i]->name};
        if (uploader_new(targets[i], http, &sockets, state->problem, sizeof(state->problem),
                         uploader) < 0)
            log_error("uploading to %s is not possible: %s (records are kept in the store)",
                      state->target, state->problem);
        a->n_uploaders++;
    }
}

static void start_uploaders(struct agent *a)
{
    for (size_t i = 0; i < a->n_uploaders; i++) {
        int r = 0;

        if (a->uploaders[i])
            r = uploader_start(a->uploaders[i], a->store, a->store_options->path);
        else /* what is deleted meanwhile is counted all the same */
            store_target_advance(a->store, a->uploads[i].target, &(struct store_advance){});
        if (r < 0)
            log_error("uploading to %s is not possible: %s (records are kept in the store)",
                      a->uploads[i].target, strerror(-r));
    }
}

static int with_privilege(struct agent *a)
{
    int r = privilege_find_user(a->options->user, &a->user);
    char error[1024];

    if (r < 0) {
        log_error("agent.user: there is no user %s; add it or name another", a->options->user);
        return r;
    }
    a->kallsyms = open("/proc/kallsyms", O_RDONLY | O_CLOEXEC);
    r = directory_make(a->store_options->path, &a->user, error, sizeof(error));
    if (r < 0) {
        log_error("%s", error);
        return r;
    }
    r = receive_kinds(a);
    if (r == 0)
        r = open_rings(a);
    open_uploaders(a);
    if (r < 0) {
        log_error("taking the hooks over from the root part failed: %s", strerror(-r));
        return r;
    }
    r = privilege_drop(&a->user);
    if (r < 0)
        log_error("giving up privilege failed: %s; refusing to go on with it", strerror(-r));
    return r;
}

static char *join(const struct string_list *list)
{
    size_t len = 1;
    char *text;

    for (size_t i = 0; i < list->n; i++)
        len += strlen(list->items[i]) + 1;
    text = calloc(1, len);
    for (size_t i = 0; text && i < list->n; i++)
        snprintf(text + strlen(text), len - strlen(text), "%s%s", i ? "," : "", list->items[i]);
    return text;
}

static int open_names(struct agent *a)
{
    _free_ char *servers = join(&a->options->dns_servers);
    struct names_options options = {
        .servers = servers,
        .timeout_ns = a->options->resolve_timeout,
        .cache_max = NAMES_CACHE_MAX,
        .ttl_ns = NAMES_TTL_NS,
        .pending_max = 256,
        .own_socket = own_sockets_note,
        .arg = a->own,
    };
    int r;

    if (!a->options->resolve_names)
        return 0;
    if (!servers)
        return -ENOMEM;
    r = names_new(&options, &a->names);
    if (r < 0)
        log_warning("asking for host names is not possible: %s; records go without", strerror(-r));
    return 0;
}

static int open_kernel(struct agent *a)
{
    int r = symbols_new(TAKE_FD(a->kallsyms), &a->kernel.symbols);

    int e;

    if (r < 0)
        return r;
    if (symbols_state(a->kernel.symbols) != SYMBOLS_OK)
        log_warning("the kernel's symbols cannot be read: %s", symbols_reason(a->kernel.symbols));
    e = enums_new("", &a->kernel.enums);
    if (e < 0)
        log_warning("drop reasons will be numbers: reading the kernel's types from "
                    "/sys/kernel/btf/vmlinux failed: %s",
                    strerror(-e));
    return 0;
}

static int open_store(struct agent *a)
{
    char error[1024] = "";
    int r = store_open(a->store_options, a->n_kinds, error, sizeof(error), &a->store);

    if (r < 0) {
        log_error("%s", error);
        return r;
    }
    if (a->status_socket < 0)
        a->status_socket = status_socket_listen(a->store_options->path);
    if (a->status_socket < 0)
        log_warning("`huatuo status` will only see what was last written: making a socket in %s "
                    "failed: %s",
                    a->store_options->path, strerror(-a->status_socket));
    if (!a->before)
        count_crash(a);
    if (!a->setup->print)
        return 0;
    r = output_new(a->store_options->path, a->setup->print, &a->output);
    if (r < 0)
        log_error("showing records is not possible: %s; they are recorded all the same",
                  strerror(-r));
    return 0;
}

static int ask_iterator(void *arg, unsigned event)
{
    const struct agent *a = arg;
    const struct channel_message m = {.type = CHANNEL_ASK_ITERATOR, .event = event};

    return a->channel < 0 ? -EPIPE : channel_send(a->channel, &m, NULL, 0);
}

/** On any thread. */
static int ask_sysrq(void *arg)
{
    const struct agent *a = arg;
    const uint64_t one = 1;

    if (a->sysrq < 0)
        return -EPERM;
    return write(a->sysrq, &one, sizeof(one)) < 0 ? -errno : 0;
}

static int ask_sockets(void *arg)
{
    return ask_iterator(arg, CHANNEL_SOCKETS);
}

static int open_parts(struct agent *a)
{
    const struct owners_options owners = {.ask = ask_sockets, .arg = a, .max = OWNERS_MAX};
    struct pending_options pending = {
        .bound_ns = a->options->resolve_timeout,
        .collect_bound_ns = COLLECT_BOUND_NS,
        .max = PENDING_MAX,
        .done = put,
        .incomplete = on_incomplete,
        .arg = a,
    };
    struct collector_options collect = {
        .root_prefix = "",
        .origin = &a->origin,
        .max = COLLECT_MAX,
        .ask = ask_iterator,
        .arg = a,
        .sysrq = ask_sysrq,
    };
    int r = open_kernel(a);

    if (r == 0)
        r = windows_new(WINDOWS_MAX, &a->windows);
    if (r == 0)
        r = own_sockets_new(&a->own);
    if (r == 0)
        r = open_names(a);
    if (r == 0)
        r = processes_new("", PROCESS_CACHE_MAX, &a->processes);
    if (r == 0)
        r = owners_new(&owners, &a->owners);
    pending.names = a->names;
    pending.owners = a->owners;
    if (r == 0)
        r = lookups_new(PROCESS_CACHE_MAX, EXE_PENDING_MAX, &a->exes);
    pending.exes = a->exes;
    pending.processes = a->processes;
    collect.symbols = a->kernel.symbols;
    if (r == 0)
        r = collector_new(&collect, &a->collector);
    pending.collector = a->collector;
    if (r == 0)
        r = pending_new(&pending, &a->pending);
    return r;
}

static int watch_fd(struct agent *a, int fd, int (*fn)(void *arg, uint32_t events))
{
    return fd < 0 ? 0 : loop_watch_fd(a->loop, fd, EPOLLIN, fn, a, &a->watches[a->n_watches++]);
}

static int watch_all(struct agent *a)
{
    const int asked[N_ASKED] = {
        a->names ? names_fd(a->names) : -1,
        processes_fd(a->processes),
        owners_fd(a->owners),
        lookups_fd(a->exes),
        collector_fd(a->collector),
    };
    int r = loop_new(&a->loop);

    a->clock_fd = clock_watch_fd();
    if (r == 0)
        r = loop_watch_fd(a->loop, a->channel, EPOLLIN, on_channel, a, &a->channel_watch);
    if (r == 0 && a->rings)
        r = watch_fd(a, ring_buffer__epoll_fd(a->rings), on_rings);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(asked); i++) {
        a->answers[i] = (struct answers){.agent = a, .fd = asked[i]};
        if (asked[i] >= 0)
            r = loop_watch_fd(a->loop, asked[i], EPOLLIN, on_answers, &a->answers[i],
                              &a->watches[a->n_watches++]);
    }
    if (r == 0)
        r = watch_fd(a, store_fd(a->store), on_stored);
    if (r == 0)
        r = watch_fd(a, a->status_socket, on_status_connection);
    if (r == 0)
        r = watch_fd(a, a->clock_fd, on_clock_set);
    if (r == 0)
        r = loop_watch_time(a->loop, TICK_NS, TICK_NS, on_tick, a, &a->watches[a->n_watches++]);
    return r;
}

static void say_hooks(const struct agent_kind *kind)
{
    for (unsigned h = 0; kind->event->hooks[h].name; h++) {
        const struct hook *hook = &kind->event->hooks[h];
        const struct hook_way *used = kind_way(kind, h);

        for (unsigned w = 0; w < HOOK_WAYS_MAX && hook->ways[w].name; w++)
            if (kind->hooks[h][w].state == HOOK_REFUSED)
                log_warning("%s: the hook %s was refused (%s); %s", kind->event->name,
                            hook->ways[w].name, kind->hooks[h][w].reason,
                            used ? "an alternative is used" : "there is no other");
        if (used)
            log_info("watching %s: %s, through %s", kind->event->name, hook->watches, used->name);
        else if (hook->optional)
            log_warning("%s: %s cannot be watched on this machine; it goes on without",
                        kind->event->name, hook->watches);
        else
            log_error("%s: %s cannot be watched on this machine%s%s", kind->event->name,
                      hook->watches, *kind->reason ? ": " : "", kind->reason);
    }
}

/** An agent that watches nothing must not look as if all were well. */
static int check_watched(const struct agent *a)
{
    bool wanted = false;

    for (size_t i = 0; i < a->n_kinds; i++) {
        if (kind_watched(&a->kinds[i]))
            return 0;
        wanted |= a->kinds[i].enabled;
    }
    if (!wanted) {
        log_warning("no kind of event is switched on: nothing is watched");
        return 0;
    }
    log_error("none of the kinds of event that are switched on can be watched on this machine; "
              "`huatuo doctor` says why and what to do");
    return -EOPNOTSUPP;
}

static int begin(struct agent *a)
{
    struct channel_message m = {.type = CHANNEL_WATCHING};
    int r;

    if (!a->started_ns)
        a->started_ns = clock_now_ns(CLOCK_REALTIME);
    clock_update(&a->clock);
    clock_update(&a->monotonic);
    tell_clock(a);
    configure_kinds(a, false);
    own_sockets_watch(a->own, a->kinds, a->n_kinds);
    for (size_t i = 0; i < a->n_kinds; i++) {
        struct agent_kind *kind = &a->kinds[i];

        if (kind->loaded) {
            kind->common->window_limit = (uint32_t)kind->options->repeat_limit;
            kind->common->window_ns = kind->options->repeat_window;
            kind->common->watching = 1;
        }
        if (kind->enabled)
            say_hooks(kind);
    }
    /* The two are committed together: a crash after the one is noticed by the other. */
    r = check_watched(a);
    a->ready = a->ready_once = r == 0;
    start_uploaders(a);
    save_status(a, true);
    record_coverage(a);
    /* From here on nobody waits for the other side. */
    fcntl(a->channel, F_SETFL, fcntl(a->channel, F_GETFL) | O_NONBLOCK);
    if (r < 0)
        return r;
    r = channel_send(a->channel, &m, NULL, 0);
    if (r < 0)
        snprintf(a->end_why, sizeof(a->end_why), "%s", root_gone);
    return r;
}

/* ------------------------------------------------------------------ ending */

static void wait_for_store(struct agent *a)
{
    uint64_t until = clock_now_ns(CLOCK_MONOTONIC) + STORE_BOUND_NS;
    struct store_state state;

    do {
        const struct timespec nap = {.tv_nsec = (long)(5 * NS_PER_MS)};

        store_get_state(a->store, &state);
        /* A disk that does not take anything is given its last chance by store_close(). */
        if (!state.queued || !state.writing || clock_now_ns(CLOCK_MONOTONIC) > until)
            return;
        nanosleep(&nap, NULL);
    } while (true);
}

/** Standard output may be a pipe that nobody reads. */
static void print(const char *text)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};

    if (text && poll(&out, 1, (int)(OUTPUT_BOUND_NS / NS_PER_MS)) == 1)
        dprintf(STDOUT_FILENO, "%s", text);
}

/** The store is closed: the next agent may have it. */
static void send_state(struct agent *a)
{
    const struct channel_message m = {.type = CHANNEL_STATE};
    const int fds[] = {a->state_fd, a->status_socket};
    int r = a->state_fd < 0 ? a->state_fd : 0;

    fcntl(a->channel, F_SETFL, fcntl(a->channel, F_GETFL) & ~O_NONBLOCK);
    if (r == 0)
        r = channel_send(a->channel, &m, fds, a->status_socket < 0 ? 1 : 2);
    if (r < 0)
        log_error("handing the counts over to the next agent failed: %s; it begins at 0",
                  strerror(-r));
    a->state_fd = fd_close(a->state_fd);
}

/** What has just been written is sent yet, if that takes no time; the rest is at the next start.
 * All have the same time, so that one whose server hangs takes none from the others. Returns false
 * if a thread hangs. */
static bool end_uploaders(struct agent *a, uint64_t latest_ns)
{
    uint64_t now = clock_now_ns(CLOCK_MONOTONIC);
    uint64_t deadline_ns = a->handing_over ? now : MIN(now + UPLOAD_BOUND_NS, latest_ns);
    bool ended = true;

    for (size_t i = 0; i < a->n_uploaders; i++)
        uploader_end_at(a->uploaders[i], deadline_ns);
    for (size_t i = 0; i < a->n_uploaders; i++) {
        ended &= uploader_end(a->uploaders[i], deadline_ns, &a->uploads[i]);
        a->uploaders[i] = NULL;
    }
    return ended;
}

/** Returns false if a thread hangs that shows or uploads: then nothing may touch standard output
 * any more, nor wait for that thread. */
static bool end_store(struct agent *a)
{
    const uint64_t began_ns = clock_now_ns(CLOCK_MONOTONIC);
    struct status_input in;
    _free_ char *table = NULL;
    bool printed, uploaded;

    if (a->ready_once) {
        record_losses(a, true);
        if (!a->handing_over || *a->end_why) /* not where another goes on in the same place */
            record_end(a);
    }
    wait_for_store(a);
    printed = output_end(a->output, OUTPUT_BOUND_NS);
    uploaded = end_uploaders(a, began_ns + UPLOAD_END_NS);
    save_status(a, false);
    in = status_input(a, false);
    if (a->handing_over)
        a->state_fd = handover_write(&in, a->windows);
    else if (a->setup->table && a->ready_once)
        table = status_table(&in);
    a->store = store_close(a->store, clock_now_ns(CLOCK_MONOTONIC) + CLOSE_BOUND_NS);
    if (printed)
        print(table);
    if (a->handing_over)
        send_state(a);
    return printed && uploaded;
}

static void end(struct agent *a)
{
    a->pending = pending_free(a->pending);
    if (a->store && !end_store(a))
        _exit(a->exit_status); /* exit() would wait for what the thread has locked */
    for (size_t i = 0; !a->store && i < a->n_uploaders; i++)
        if (a->uploaders[i])
            uploader_end(a->uploaders[i], 0, &a->uploads[i]); /* that were never started */
    watch_free(a->expiry);
    watch_free(a->channel_watch);
    for (size_t i = 0; i < a->n_watches; i++)
        watch_free(a->watches[i]);
    a->loop = loop_free(a->loop);
    a->names = names_free(a->names);
    a->processes = processes_free(a->processes);
    a->owners = owners_free(a->owners);
    a->exes = lookups_free(a->exes);
    a->collector = collector_free(a->collector);
    a->own = own_sockets_free(a->own);
    a->windows = windows_free(a->windows);
    ring_buffer__free(a->rings);
    for (size_t i = 0; i < a->n_kinds; i++)
        kind_done(&a->kinds[i]);
    symbols_free(a->kernel.symbols);
    enums_free(a->kernel.enums);
    fd_close(a->status_socket);
    fd_close(a->clock_fd);
    fd_close(a->sysrq);
    fd_close(a->kallsyms);
    fd_close(a->state_fd);
    fd_close(a->channel);
}

/** All that can be done before the agent that runs is told to end: what fails here leaves it be. */
static int prepare(struct agent *a)
{
    const struct store_options *before = config_section(a->before, "store");
    struct channel_message prepared = {.type = CHANNEL_PREPARED};
    struct channel_message m = {};
    int fds[CHANNEL_FDS_MAX], r = 0;
    size_t n_fds = 0;

    r = check_watched(a);
    if (r < 0)
        return r;
    configure_kinds(a, true);
    if (strcmp(before->path, a->store_options->path) != 0) {
        r = open_store(a);
        snprintf(prepared.text, sizeof(prepared.text), "records go to %.400s from now on",
                 a->store_options->path);
    }
    if (r == 0)
        r = channel_send(a->channel, &prepared, NULL, 0);
    if (r < 0)
        return r;
    r = channel_receive(a->channel, &m, fds, &n_fds);
    if (r <= 0 || m.type != CHANNEL_GO)
        return r < 0 ? r : -EPIPE; /* the root part has changed its mind, and said so */
    if (n_fds > 0)
        a->state_fd = fds[0];
    if (n_fds > 1 && a->store)
        fd_close(fds[1]); /* that of another directory */
    else if (n_fds > 1)
        a->status_socket = fds[1];
    return 0;
}

/** Goes on where the agent before has ended. */
static void take_over(struct agent *a)
{
    int r = a->state_fd < 0 ? -ENODATA : 0;

    if (r == 0)
        r = handover_read(a->state_fd, a->kinds, a->n_kinds, a->windows, &a->started_ns);
    if (r < 0)
        log_warning("the agent before has left no counts (%s): they begin at 0", strerror(-r));
    a->state_fd = fd_close(a->state_fd);
    for (size_t i = 0; a->store && i < a->n_kinds; i++)
        *a->kinds[i].covered = '\0'; /* this store has not heard of it */
}

int agent_run(int channel, const struct config *config, const struct config *before, void *arg)
{
    static struct agent agent;
    struct agent *a = &agent;
    int r;

    *a = (struct agent){
        .setup = arg,
        .before = before,
        .channel = channel,
        .status_socket = -1,
        .state_fd = -1,
        .clock_fd = -1,
        .sysrq = -1,
        .kallsyms = -1,
        .monotonic.base = CLOCK_MONOTONIC,
    };
    a->config = config;
    a->options = config_section(config, "agent");
    a->store_options = config_section(config, "store");
    prctl(PR_SET_NAME, "huatuo-agent");
    for (size_t i = 0; i < n_events && i < AGENT_KINDS_MAX; i++)
        kind_init(&a->kinds[a->n_kinds++], (unsigned)i, config_section(config, events[i]->name));
    describe_origin(a);

    r = with_privilege(a);
    if (r == 0)
        r = open_parts(a);
    if (r == 0 && before)
        r = prepare(a);
    if (r == 0 && before)
        take_over(a);
    if (r == 0 && !a->store)
        r = open_store(a);
    if (r == 0)
        r = watch_all(a);
    if (r == 0)
        r = begin(a);
    if (r == 0)
        r = loop_run(a->loop);
    end(a);
    return r < 0 ? EXIT_FAILURE : r;
}
