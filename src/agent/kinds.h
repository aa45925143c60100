// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The agent's side of an event kind: its ring and counters in memory, its hooks, its accounting.
 */

#include <jansson.h>

#include "agent/on_demand.h"
#include "core/channel.h"
#include "store/store.h"
#include "targets/uploader.h"

#define AGENT_KINDS_MAX 32
#define AGENT_HOOKS_MAX 8

/** Why the agent proper could not keep an event that it had got from the ring. */
enum agent_lost { AGENT_LOST_DECODE, AGENT_LOST_MEMORY, AGENT_LOST_CRASH, AGENT_LOST_NR };

/** Why a record was written without what is collected for its kind. Not lost: it was recorded. */
enum agent_incomplete {
    AGENT_INCOMPLETE_LATE,   /* it did not come in time */
    AGENT_INCOMPLETE_BUSY,   /* too many were under way */
    AGENT_INCOMPLETE_FAILED, /* it could not be read, or did not fit */
    AGENT_INCOMPLETE_NR
};

struct agent_hook_way {
    enum hook_state state;
    char reason[CHANNEL_TEXT_MAX];
};

/** What agents before this one have counted since the root part began. */
struct kind_past {
    uint64_t seen, recorded, suppressed;
    json_t *filtered_by, *lost_by; /* owned: numbers by name; NULL: none */
    struct wire_counters kernel;   /* of the counters in the kernel, what the above holds already */
};

struct agent_kind {
    const struct event *event;
    unsigned index; /* in events[] */
    const struct event_options *options;
    bool enabled, loaded;
    char reason[CHANNEL_TEXT_MAX]; /* why it is not loaded */
    struct agent_hook_way hooks[AGENT_HOOKS_MAX][HOOK_WAYS_MAX];

    int ring_fd; /* owned; -1 once it is in the ring manager */
    unsigned n_cpus;
    uint32_t instance;                             /* of the object in the kernel */
    bool fresh;                                    /* it has not watched yet */
    const volatile struct wire_counters *counters; /* mapped; one per CPU */
    size_t counters_size;
    volatile struct wire_common *common; /* mapped */
    void *settings;                      /* mapped; NULL: none */
    size_t settings_size;
    struct on_demand *on_demand; /* NULL: nothing of it runs on demand */

    struct kind_past past;
    struct {
        uint64_t lost,
            time_ns;     /* as of the last coverage record of losses; CLOCK_REALTIME, 0: none */
        json_t *lost_by; /* owned */
    } noted;
    char covered[512]; /* the ways that the last coverage record of this kind named; "": not watched
                        */
    uint64_t lost[AGENT_LOST_NR];
    uint64_t incomplete[AGENT_INCOMPLETE_NR];
    char complaint[CHANNEL_TEXT_MAX]; /* what its configuration was last told to be wrong with */
    uint64_t missed;                  /* times the kernel left our program out */
};

/** Sums of what was said of a kind so far. */
struct kind_account {
    uint64_t seen, recorded, suppressed, filtered, lost;
    uint64_t sent; /* into the ring: what is not yet in the rest is on its way from there */
    int64_t unaccounted;
};

void kind_init(struct agent_kind *kind, unsigned index, const struct event_options *options);
/** Takes the descriptors of a CHANNEL_KIND message over. */
int kind_take(struct agent_kind *kind, const struct channel_message *m, const int *fds,
              size_t n_fds);
void kind_take_hook(struct agent_kind *kind, const struct channel_message *m);
/** Of a CHANNEL_SAMPLES or CHANNEL_PERF message, of a kind that is loaded; takes `fd` over. */
int kind_take_on_demand(struct agent_kind *kind, const struct channel_message *m, int fd);
void kind_done(struct agent_kind *kind);
/** The hook's way that is in use, or NULL. */
const struct hook_way *kind_way(const struct agent_kind *kind, unsigned hook);

/** The ways in use, as one text. */
void kind_ways(const struct agent_kind *kind, char *ret, size_t size);
/** Whether any hook is in use that makes events. */
bool kind_watched(const struct agent_kind *kind);

/** What the kernel has counted, over all CPUs and without the past. */
void kind_get_kernel(const struct agent_kind *kind, struct wire_counters *ret);
void kind_get_account(const struct agent_kind *kind, const struct store *store,
                      struct kind_account *ret);

/** `{"running": ..., "events": {...}, ...}`, as in the contract; heap. `store` may be NULL. */
struct status_input {
    const struct agent_kind *kinds;
    size_t n_kinds;
    const struct store *store;
    const struct uploader_state *uploads; /* of n_uploads targets */
    size_t n_uploads;
    bool running, ready;
    uint64_t started_ns;           /* CLOCK_REALTIME */
    const char *version, *symbols; /* symbols: "" or why there are none */
    const char *user;
    const char *end; /* why it ended, if it is not running */
    uint32_t pid;
};
char *status_json(const struct status_input *in);
/** What was lost, by cause; the caller's to json_decref(). `store` may be NULL. */
json_t *status_lost_by(const struct agent_kind *kind, const struct store *store);
/** Of what others wrote (libbpf, users); bytes that are no UTF-8 would cost the whole document. */
json_t *status_text(const char *bytes);
json_t *status_u64(uint64_t value);
/** Its part about one kind, `seen` and so on; the caller's to json_decref(). */
json_t *status_event(const struct agent_kind *kind, const struct status_input *in);
/** What Ctrl-C prints: a row a kind; heap. */
char *status_table(const struct status_input *in);
