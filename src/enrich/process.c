// SPDX-License-Identifier: Apache-2.0

#include "enrich/process.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/read.h"
#include "enrich/container.h"
#include "enrich/lookups.h"

#define WORKERS_MAX  4
#define PENDING_MAX  256
#define TTL_NS       (5 * NS_PER_SEC) /* a process may become another program at any time */
#define GONE_TTL_NS  (60 * NS_PER_SEC)
#define STAT_BYTES   1024
#define CGROUP_BYTES (16 * 1024)
#define STOP_WAIT_S  1
#define STARTTIME    22 /* which field of /proc/PID/stat it is, from 1: proc(5) */
#define AFTER_COMM   3

/*
 * A worker that hangs in somebody's mmap lock can be neither stopped nor waited for. There are
 * several, so that the others go on, and all share this, so that the last one may free it.
 */
struct processes {
    struct lookups *lookups; /* owned */
    char *root_prefix;       /* owned */
    pthread_mutex_t lock;
    pthread_cond_t ended;
    unsigned n_workers;
    bool abandoned; /* by processes_free() */
};

struct process_key {
    uint32_t pid;
    uint32_t zero;
    uint64_t start_boot_ns;
};
static_assert(sizeof(struct process_key) == LOOKUP_KEY_BYTES, "a process is one key");

/* --- reading one process; `dir` stays with it even if its pid comes to mean another */

/* Up to `size` bytes; returns how many. */
static ssize_t read_file(int dir, const char *name, char *ret, size_t size)
{
    _close_fd_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    return fd < 0 ? -errno : read_up_to(fd, ret, size);
}

/* comm may hold anything, blanks and parentheses too: what follows begins behind the last ')'. */
static int parse_starttime(const char *stat, size_t len, uint64_t *ret)
{
    const char *s = memrchr(stat, ')', len), *end = stat + len;
    uint64_t value = 0;

    if (!s)
        return -EINVAL;
    s++;
    for (unsigned field = AFTER_COMM; field <= STARTTIME; field++) {
        if (s == end || *s++ != ' ')
            return -EINVAL;
        if (field == STARTTIME)
            break;
        while (s < end && *s != ' ')
            s++;
    }
    if (s == end || *s < '0' || *s > '9')
        return -EINVAL;
    for (; s < end && *s >= '0' && *s <= '9'; s++)
        value = value * 10 + (uint64_t)(*s - '0');
    *ret = value;
    return 0;
}

/* -ESRCH: the process that started at `start_boot_ns` is no more. */
static int check_start(int dir, uint64_t start_boot_ns)
{
    uint64_t ticks, expected = start_boot_ns / (NS_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
    char stat[STAT_BYTES];
    ssize_t len;

    if (start_boot_ns == 0)
        return 0;
    len = read_file(dir, "stat", stat, sizeof(stat));
    if (len < 0)
        return (int)len;
    if (parse_starttime(stat, (size_t)len, &ticks) < 0)
        return -EINVAL;
    /* Rounding may differ by one. */
    return ticks + 1 < expected || ticks > expected + 1 ? -ESRCH : 0;
}

static void copy_path(char *ret, size_t size, const char *path, size_t len)
{
    static const char deleted[] = " (deleted)"; /* cgroup v2, as long as something keeps it */
    size_t deleted_len = strlen(deleted);

    if (len > deleted_len && memcmp(path + len - deleted_len, deleted, deleted_len) == 0)
        len -= deleted_len;
    len = MIN(len, size - 1);
    memcpy(ret, path, len);
    ret[len] = '\0';
}

static bool has_word(const char *list, size_t len, const char *word)
{
    const char *end = list + len;

    while (list < end) {
        const char *comma = memchr(list, ',', (size_t)(end - list));
        size_t word_len = (size_t)((comma ? comma : end) - list);

        if (word_len == strlen(word) && memcmp(list, word, word_len) == 0)
            return true;
        list += word_len + 1;
    }
    return false;
}

/*
 * Lines `ID:CONTROLLERS:PATH`. The unified hierarchy has no controllers; where it is not used (v1,
 * and hybrid with everything in its root) the memory controller's path says where a process
 * belongs.
 */
static void parse_cgroup(const char *text, size_t len, struct process_info *info)
{
    char unified[sizeof(info->cgroup)] = "", memory[sizeof(info->cgroup)] = "";
    char systemd[sizeof(info->cgroup)] = "";
    const char *end = text + len;

    for (const char *line = text, *line_end; line < end; line = line_end + 1) {
        const char *controllers, *path;
        size_t n;

        line_end = memchr(line, '\n', (size_t)(end - line));
        if (!line_end)
            break; /* cut: half a path would be a wrong one */
        controllers = memchr(line, ':', (size_t)(line_end - line));
        if (!controllers++)
            continue;
        path = memchr(controllers, ':', (size_t)(line_end - controllers));
        if (!path || path + 1 == line_end || path[1] != '/')
            continue;
        n = (size_t)(path - controllers);
        path++;
        if (n == 0)
            copy_path(unified, sizeof(unified), path, (size_t)(line_end - path));
        else if (has_word(controllers, n, "memory"))
            copy_path(memory, sizeof(memory), path, (size_t)(line_end - path));
        else if (has_word(controllers, n, "name=systemd"))
            copy_path(systemd, sizeof(systemd), path, (size_t)(line_end - path));
    }

    if (memory[0] != '\0' && (unified[0] == '\0' || strcmp(unified, "/") == 0))
        memcpy(info->cgroup, memory, sizeof(memory));
    else
        memcpy(info->cgroup, unified, sizeof(unified));
    unit_from_cgroup(info->cgroup, info->unit, sizeof(info->unit));
    if (info->unit[0] == '\0')
        unit_from_cgroup(systemd, info->unit, sizeof(info->unit));
}

/* All but the command line: nothing of it waits for the process. */
static int read_quick(int dir, struct process_info *info)
{
    char text[CGROUP_BYTES];
    ssize_t len;

    len = readlinkat(dir, "exe", info->exe, sizeof(info->exe) - 1);
    info->exe[MAX(len, (ssize_t)0)] = '\0';
    len = read_file(dir, "cgroup", text, sizeof(text));
    if (len > 0)
        parse_cgroup(text, (size_t)len, info);
    /* Kernel threads have no exe, but only what has ended has neither. */
    return len < 0 && info->exe[0] == '\0' ? (int)len : 0;
}

int process_open(const char *root_prefix, uint32_t pid, uint64_t start_boot_ns)
{
    char path[PATH_MAX];
    int len = snprintf(path, sizeof(path), "%s/proc/%u", root_prefix, pid);
    _close_fd_ int dir = -1;
    int r;

    if (len < 0 || (size_t)len >= sizeof(path))
        return -ENAMETOOLONG;
    dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r = dir < 0 ? -errno : check_start(dir, start_boot_ns);
    return r < 0 ? r : TAKE_FD(dir);
}

static void answer(struct processes *p, const struct process_key *key)
{
    struct process_info info = {0};
    _close_fd_ int dir = process_open(p->root_prefix, key->pid, key->start_boot_ns);
    int r = dir < 0 ? dir : read_quick(dir, &info);
    ssize_t cmdline_len;

    if (r == -ENOENT || r == -ESRCH) {
        uint64_t now_ns = clock_now_ns(CLOCK_MONOTONIC);

        /* What was read while it lived holds on, if the pid cannot have meant another since. */
        if (key->start_boot_ns != 0)
            lookups_keep(p->lookups, key, now_ns + GONE_TTL_NS);
        else
            lookups_answer(p->lookups, key, NULL, 0, now_ns + TTL_NS);
        return;
    }
    lookups_draft(p->lookups, key, &info, sizeof(info));
    if (r < 0) {
        lookups_keep(p->lookups, key, clock_now_ns(CLOCK_MONOTONIC) + TTL_NS);
        return;
    }

    cmdline_len = read_file(dir, "cmdline", info.cmdline, sizeof(info.cmdline));
    info.cmdline_len = cmdline_len > 0 ? (size_t)cmdline_len : 0;
    lookups_answer(p->lookups, key, &info, sizeof(info), clock_now_ns(CLOCK_MONOTONIC) + TTL_NS);
}

/* --- workers */

static void processes_destroy(struct processes *p)
{
    lookups_free(p->lookups);
    free(p->root_prefix);
    pthread_cond_destroy(&p->ended);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static void *worker(void *arg)
{
    struct processes *p = arg;
    struct process_key key;
    bool last;

    while (lookups_wait(p->lookups, &key))
        answer(p, &key);

    pthread_mutex_lock(&p->lock);
    p->n_workers--;
    last = p->abandoned && p->n_workers == 0;
    pthread_cond_signal(&p->ended);
    pthread_mutex_unlock(&p->lock);
    if (last)
        processes_destroy(p);
    return NULL;
}

/* One more, if the others have enough to do. */
static int add_worker(struct processes *p)
{
    pthread_t thread;
    int r = 0;

    pthread_mutex_lock(&p->lock);
    if (p->n_workers < WORKERS_MAX && lookups_unserved(p->lookups)) {
        r = lookups_start_thread("process", worker, p, &thread);
        if (r == 0) {
            pthread_detach(thread);
            p->n_workers++;
        } else if (p->n_workers > 0) {
            r = 0; /* later, then */
        }
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}

int processes_new(const char *root_prefix, size_t cache_max, struct processes **ret)
{
    struct processes *p = calloc(1, sizeof(*p));
    pthread_condattr_t attributes;
    int r;

    if (!p)
        return -ENOMEM;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&p->ended, &attributes);
    pthread_condattr_destroy(&attributes);
    p->root_prefix = strdup(root_prefix ? root_prefix : "");
    r = p->root_prefix ? lookups_new(cache_max, PENDING_MAX, &p->lookups) : -ENOMEM;
    if (r < 0) {
        processes_destroy(p);
        return r;
    }
    *ret = p;
    return 0;
}

struct processes *processes_free(struct processes *p)
{
    struct timespec until;
    bool last;
    int r = 0;

    if (!p)
        return NULL;
    lookups_stop(p->lookups);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += STOP_WAIT_S;

    pthread_mutex_lock(&p->lock);
    while (p->n_workers > 0 && r == 0)
        r = pthread_cond_timedwait(&p->ended, &p->lock, &until);
    p->abandoned = true;
    last = p->n_workers == 0;
    pthread_mutex_unlock(&p->lock);
    if (last)
        processes_destroy(p);
    return NULL;
}

int processes_lookup(struct processes *p, uint32_t pid, uint64_t start_boot_ns,
                     struct process_info *ret)
{
    struct process_key key = {.pid = pid, .start_boot_ns = start_boot_ns};
    size_t size;
    int r;

    if (pid == 0)
        return -ESRCH; /* idle is no process */
    r = lookups_get(p->lookups, &key, clock_now_ns(CLOCK_MONOTONIC), ret, sizeof(*ret), &size);
    if (r == 0)
        r = add_worker(p);
    if (r == 1 && size == 0)
        return -ESRCH;
    return r;
}

int processes_fd(const struct processes *p)
{
    return lookups_fd(p->lookups);
}
