// SPDX-License-Identifier: Apache-2.0

#include "core/netns.h"

#include <dirent.h>
#include <fcntl.h>
#include <mntent.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/clock.h"
#include "core/log.h"

#define NAMESPACES_MAX 4096
#define PROCESSES_MAX  262144
#define SEARCH_NS      (10 * NS_PER_SEC)
#define SHARE          200 /* looking takes no more of a CPU's time than one part of so many */

struct place {
    uint64_t inode;
    char *path; /* owned; by which it can be entered */
};

struct netns_view {
    int own; /* descriptor */
    uint64_t own_inode;
    struct place *others; /* owned; by inode */
    size_t n, cap;
    uint64_t due_ns, search_ns, begin_ns; /* CLOCK_MONOTONIC */
    uint64_t begin_cpu_ns;                /* CLOCK_THREAD_CPUTIME_ID */
};

static uint64_t inode_of(int fd)
{
    struct stat s;

    return fstat(fd, &s) < 0 ? 0 : s.st_ino;
}

static size_t position(const struct netns_view *v, uint64_t inode)
{
    size_t low = 0, high = v->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (v->others[middle].inode < inode)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/** Of several ways in the first one is as good as any. */
static void add(struct netns_view *v, uint64_t inode, const char *path)
{
    size_t at = position(v, inode);
    char *copy;

    if (inode == v->own_inode || (at < v->n && v->others[at].inode == inode))
        return;
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 16;
        struct place *others =
            cap > NAMESPACES_MAX ? NULL : realloc(v->others, cap * sizeof(*others));

        if (!others)
            return;
        v->others = others;
        v->cap = cap;
    }
    copy = strdup(path);
    if (!copy)
        return;
    memmove(&v->others[at + 1], &v->others[at], (v->n - at) * sizeof(*v->others));
    v->others[at] = (struct place){.inode = inode, .path = copy};
    v->n++;
}

static void forget_all(struct netns_view *v)
{
    while (v->n)
        free(v->others[--v->n].path);
}

static void search_processes(struct netns_view *v)
{
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    uint64_t last = 0;

    for (size_t n = 0; proc && n < PROCESSES_MAX && (entry = readdir(proc));) {
        char path[64];
        struct stat s;

        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' || strlen(entry->d_name) > 12)
            continue;
        n++;
        snprintf(path, sizeof(path), "/proc/%.12s/ns/net", entry->d_name);
        /* Processes of a container often follow one another. */
        if (stat(path, &s) < 0 || s.st_ino == last)
            continue;
        last = s.st_ino;
        add(v, s.st_ino, path);
    }
    if (proc)
        closedir(proc);
}

/** proc_pid_mountinfo(5): what is mounted is named net:[4026532178], its type is nsfs. */
static void search_mounts(struct netns_view *v)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    struct mntent *m;

    while (mounts && (m = getmntent(mounts))) { // NOLINT(concurrency-mt-unsafe): the only thread
        struct stat s;

        if (strcmp(m->mnt_type, "nsfs") == 0 && stat(m->mnt_dir, &s) == 0)
            add(v, s.st_ino, m->mnt_dir);
    }
    if (mounts)
        endmntent(mounts);
}

void netns_search(struct netns_view *v)
{
    forget_all(v);
    search_processes(v);
    search_mounts(v);
}

bool netns_due(struct netns_view *v)
{
    uint64_t cpu_ns = clock_now_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t now_ns = clock_now_ns(CLOCK_MONOTONIC);

    if (now_ns < v->due_ns)
        return false;
    v->begin_ns = now_ns;
    v->begin_cpu_ns = cpu_ns;
    if (now_ns >= v->search_ns) {
        netns_search(v);
        v->search_ns = now_ns + SEARCH_NS;
    }
    return true;
}

void netns_looked(struct netns_view *v)
{
    v->due_ns = v->begin_ns + (clock_now_ns(CLOCK_THREAD_CPUTIME_ID) - v->begin_cpu_ns) * SHARE;
}

void netns_visit(struct netns_view *v, void (*fn)(void *arg, uint64_t inode), void *arg)
{
    bool away = false;

    fn(arg, v->own_inode);
    for (size_t i = 0; i < v->n; i++) {
        _close_fd_ int fd = open(v->others[i].path, O_RDONLY | O_CLOEXEC);

        /* Another process may have got its number; namespaces of other sorts are mounted, too. */
        if (fd < 0 || inode_of(fd) != v->others[i].inode || setns(fd, CLONE_NEWNET) < 0)
            continue;
        away = true;
        fn(arg, v->others[i].inode);
    }
    if (away && setns(v->own, CLONE_NEWNET) < 0)
        log_error("returning to the own network namespace failed: %s; what is read there next is "
                  "of another one",
                  strerror(errno));
}

struct netns_view *netns_view_free(struct netns_view *v)
{
    if (!v)
        return NULL;
    forget_all(v);
    free(v->others);
    fd_close(v->own);
    free(v);
    return NULL;
}

int netns_view_new(struct netns_view **ret)
{
    struct netns_view *v = calloc(1, sizeof(*v));
    int r;

    if (!v)
        return -ENOMEM;
    v->own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (v->own < 0) {
        r = -errno;
        netns_view_free(v);
        return r;
    }
    v->own_inode = inode_of(v->own);
    *ret = v;
    return 0;
}
