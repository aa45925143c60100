// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Builds one record: fields are appended in order to `tracer_data`, the envelope is put around them
 * at the end. Errors (memory, size, nesting) stick and come out of record_finish().
 *
 * What is not known yet (host names, the process's command line) is asked for while building and
 * filled in before record_finish(); what stays unknown leaves an empty string or no field.
 */

#include "core/clock.h"
#include "core/doc.h"
#include "core/wire.h"

struct record;
struct kernel; /* kernel/kernel.h: symbols and enum names of the running kernel */
struct event;  /* core/event.h */

#define RECORD_MAX_BYTES (1024 * 1024) /* a record over this is refused with -E2BIG */
#define RECORD_HOLES_MAX 6

/** What every record of this agent says of itself; owned by the agent, outlives its records. */
struct record_origin {
    const char *hostname, *region; /* as configured; any bytes */
    const char *kernel_release;    /* uname -r */
    char boot_id[37];              /* /proc/sys/kernel/random/boot_id */
    bool mask_cmdline;             /* write only the first word of command lines */
};

int record_new(const struct record_origin *origin, const struct event *event, unsigned event_index,
               uint64_t realtime_ns, struct record **ret);
struct record *record_free(struct record *r);
DEFINE_CLEANUP(struct record *, record_free)

/**
 * Fields of tracer_data. Names are literals of ours; strings are any bytes, cut at `max` or NUL.
 * Numbers over INT64_MAX are written as that: readers of JSON (jansson, Elasticsearch's long)
 * refuse the whole document otherwise.
 */
void record_u64(struct record *r, const char *name, uint64_t value);
void record_i64(struct record *r, const char *name, int64_t value);
void record_bool(struct record *r, const char *name, bool value);
void record_str(struct record *r, const char *name, const char *bytes, size_t max);
void record_strf(struct record *r, const char *name, const char *format, ...) _printf_(3, 4);
void record_open(struct record *r, const char *name); /* a nested object */
/**
 * A list: what is written until record_close() are its elements, which have no names (NULL); such
 * an element may be an object or a list again.
 */
void record_list(struct record *r, const char *name);
void record_close(struct record *r); /* the innermost object or list */
/**
 * A number whose name stands in one of the kernel's files. Names of 1 to RECORD_NAME_MAX letters,
 * digits, `_`, `(` and `)` are taken as they are; of others nothing is written (-EINVAL).
 */
#define RECORD_NAME_MAX 63
int record_named_u64(struct record *r, const char *name, size_t name_len, uint64_t value);
/** A text that is long and often the same, stored once: `text` is taken as record_str() does. */
void record_stack(struct record *r, const char *name, const char *text);
/**
 * A field that will hold the host name of an address (16 bytes, IPv4 mapped); "" if it never comes,
 * and for those beyond RECORD_HOLES_MAX.
 */
void record_host(struct record *r, const char *name, const uint8_t addr[16]);

/**
 * The fields so far, up to the first stack, as they can be put into another record's tracer_data
 * with record_add_brief(). Heap; NULL for want of memory.
 */
char *record_brief(const struct record *r);
void record_add_brief(struct record *r, const char *brief);

/**
 * Puts the fields of `part` behind those of `r`, and what it knows of the process where `r` does
 * not. `part` was built by another thread, is balanced and has neither hosts nor owners. Without
 * effect if it has failed (its errno), or if both together would be too large (-E2BIG): `r` is
 * worth more than the part.
 */
int record_append(struct record *r, const struct record *part);

/** The one sentence; replaces an earlier one. Any bytes. */
void record_summary(struct record *r, const char *format, ...) _printf_(2, 3);
/** The container it belongs to; -: the cgroup path is written as it is. NULL or "": not known. */
void record_cgroup(struct record *r, const char *path);
const char *record_get_cgroup(const struct record *r); /* "" if not known; owned by the record */
void record_container(struct record *r, const char *id, const char *hostname,
                      const char *host_namespace, const char *type, const char *level,
                      const char *found_by);
/** Stands outside the accounting. */
void record_uncounted(struct record *r);
bool record_is_counted(const struct record *r);

/** The process that the record is about, as the hook saw it. Once; pid 0 is a process too (idle).
 */
struct record_process {
    uint32_t pid, tid, ppid, uid;
    uint64_t start_boot_ns;
    char comm[WIRE_COMM_LEN];
};
void record_process(struct record *r, const struct record_process *process);
/** The same out of what every raw event begins with. */
void record_task(struct record *r, const struct wire_head *head);
/**
 * Fields `owner_pid` and `owner_comm` at this place, not the first of their object: who has the
 * socket open whose file has this inode number. Nothing is written if it never comes.
 */
void record_owner(struct record *r, uint64_t socket_inode);

/* --- what is still to be asked for, and its answers */
const struct record_process *record_get_process(const struct record *r); /* NULL: none */
unsigned record_n_holes(const struct record *r);
/** The address whose name is wanted, or NULL; the socket whose owner is wanted, or 0. */
const uint8_t *record_hole_addr(const struct record *r, unsigned i);
uint64_t record_hole_socket(const struct record *r, unsigned i);
void record_host_fill(struct record *r, unsigned i, const char *name);
void record_owner_fill(struct record *r, unsigned i, uint32_t pid, const char *comm);
/** Any may be NULL. cmdline: arguments separated by NULs as in /proc/PID/cmdline. */
void record_process_fill(struct record *r, const char *exe, const char *cmdline, size_t cmdline_len,
                         const char *systemd_unit);

const char *record_id(const struct record *r);
/** "" if there is none yet; owned by the record. */
const char *record_get_summary(const struct record *r);
unsigned record_event(const struct record *r); /* index in events[] */
uint64_t record_realtime(const struct record *r);

/**
 * Puts everything together; `written_ns` (CLOCK_REALTIME) becomes `uploaded_time`. The builder is
 * used up, and still has to be freed. -E2BIG, -ENOMEM, -EINVAL (unbalanced nesting).
 */
int record_finish(struct record *r, uint64_t written_ns, struct doc **ret);
