// SPDX-License-Identifier: Apache-2.0

#include "events/lacp/find.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/read.h"
#include "events/lacp/bonding.h"

#define LOOK_NS        (1 * NS_PER_SEC)
#define SEARCH_NS      (10 * NS_PER_SEC) /* for other namespaces */
#define SOON_NS        (50 * NS_PER_MS)  /* messages that come in a row are one look */
#define BONDS_MAX      1024
#define NAMESPACES_MAX 4096
#define PROCESSES_MAX  262144
#define MESSAGES_MAX   256

struct known {
    uint64_t netns;
    struct lacp_bond bond;
    bool seen; /* in this look */
};

/** A network namespace with bonds, and a process that is in it. */
struct namespace
{
    uint64_t netns;
    char pid[16];
};

struct finder {
    int fd;       /* of messages about the interfaces of this namespace; -1: none */
    uint64_t own; /* this namespace */
    uint64_t looked_ns, searched_ns; /* CLOCK_MONOTONIC; 0: never */
    bool begun, told, loaded;
    struct known *bonds; /* owned */
    size_t n_bonds, cap_bonds;
    struct namespace others[NAMESPACES_MAX];
    size_t n_others;
    struct lacp_wire wire; /* its content is of the namespace that is looked at */
};

/* ------------------------------------------------------------------ reading */

/** `where`: a folder of bonds, as a process sees it. */
static void bonds_path(const char *pid, char ret[64])
{
    snprintf(ret, 64, "/proc/%s/net/bonding", pid);
}

static uint64_t netns_of(const char *pid)
{
    char path[64];
    struct stat s;

    snprintf(path, sizeof(path), "/proc/%s/ns/net", pid);
    return stat(path, &s) < 0 ? 0 : s.st_ino;
}

/** Appends to the content; what does not fit is cut after a line. */
static void add_content(struct lacp_wire *w, const char *bytes, size_t len)
{
    size_t room = sizeof(w->content) - w->content_bytes;

    if (w->cut)
        return;
    if (len > room) {
        w->cut = 1;
        for (len = room; len > 0 && bytes[len - 1] != '\n'; len--)
            ;
    }
    memcpy(w->content + w->content_bytes, bytes, len);
    w->content_bytes += (uint32_t)len;
}

/** Files come in the order of their names. */
static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static size_t read_names(DIR *dir, char **ret, size_t max)
{
    const struct dirent *entry;
    size_t n = 0;

    while (n < max && (entry = readdir(dir)))
        if (entry->d_name[0] != '.' && strlen(entry->d_name) < LACP_NAME_LEN) {
            ret[n] = strdup(entry->d_name);
            n += ret[n] != NULL;
        }
    qsort(ret, n, sizeof(*ret), compare_names);
    return n;
}

/* ------------------------------------------------------------------ what is known */

static struct known *find_known(struct finder *f, uint64_t netns, const char *name)
{
    for (size_t i = 0; i < f->n_bonds; i++)
        if (f->bonds[i].netns == netns && strncmp(f->bonds[i].bond.name, name, LACP_NAME_LEN) == 0)
            return &f->bonds[i];
    return NULL;
}

static void add_known(struct finder *f, uint64_t netns, const struct lacp_bond *bond)
{
    if (f->n_bonds == f->cap_bonds) {
        size_t cap = f->cap_bonds ? f->cap_bonds * 2 : 8;
        struct known *bonds = cap > BONDS_MAX ? NULL : realloc(f->bonds, cap * sizeof(*bonds));

        if (!bonds)
            return;
        f->bonds = bonds;
        f->cap_bonds = cap;
    }
    f->bonds[f->n_bonds++] = (struct known){.netns = netns, .bond = *bond, .seen = true};
}

static bool matches(const struct string_list *patterns, const char *name)
{
    for (size_t i = 0; i < patterns->n; i++)
        if (fnmatch(patterns->items[i], name, 0) == 0)
            return true;
    return false;
}

/** The content is all there already. */
static void emit(struct finder *f, const struct source_host *h, uint64_t netns, bool start,
                 const struct lacp_bond *before, const struct lacp_bond *now)
{
    const struct lacp_options *o = h->options;
    unsigned carried = bonding_n_carrying(before), carries = now ? bonding_n_carrying(now) : 0;
    struct wire_key key = {.what = start ? 3 : carries < carried ? 1 : carries > carried ? 2 : 0};

    key.words[0] = netns;
    memcpy(&key.words[1], before->name, sizeof(before->name));
    memset(&f->wire.head, 0, sizeof(f->wire.head));
    f->wire.netns = netns;
    f->wire.start = start;
    f->wire.elsewhere = netns != f->own;
    f->wire.before = *before;
    f->wire.gone = now == NULL;
    if (now)
        f->wire.now = *now;
    else
        memset(&f->wire.now, 0, sizeof(f->wire.now));
    memcpy(f->wire.now.name, before->name, sizeof(before->name));
    h->emit(h, &key, matches(&o->exclude, before->name) ? LACP_RULE_EXCLUDE : LACP_RULE_OWN,
            &f->wire, LACP_WIRE_LEAST + f->wire.content_bytes);
}

/** What one of them says now. */
static void compare(struct finder *f, const struct source_host *h, uint64_t netns,
                    const struct lacp_bond *now, bool start)
{
    struct known *known = find_known(f, netns, now->name);
    struct lacp_bond before;

    if (!known) {
        add_known(f, netns, now);
        /* That all is well is nothing to report. */
        if (start && now->is_lacp && bonding_n_carrying(now) < now->n_slaves)
            emit(f, h, netns, true, now, now);
        return;
    }
    known->seen = true;
    before = known->bond;
    known->bond = *now;
    if (before.is_lacp && now->is_lacp && bonding_differs(&before, now))
        emit(f, h, netns, false, &before, now);
}

#define BONDS_A_NAMESPACE 64

/**
 * Compares all bonds of a namespace with what is known. False: it cannot be read, as the process is
 * gone. `start`: whatever is new was there before the watching.
 */
static bool look_at(struct finder *f, const struct source_host *h, const char *pid, uint64_t netns,
                    bool start)
{
    char folder[64], path[128], *names[BONDS_A_NAMESPACE];
    static struct lacp_bond now[BONDS_A_NAMESPACE];
    size_t n_names, n = 0;
    DIR *dir;

    bonds_path(pid, folder);
    dir = opendir(folder);
    if (!dir)
        return false;
    n_names = read_names(dir, names, ARRAY_SIZE(names));
    f->wire.content_bytes = f->wire.cut = 0;
    for (size_t i = 0; i < n_names; i++) {
        _close_fd_ int fd = openat(dirfd(dir), names[i], O_RDONLY | O_CLOEXEC);
        _free_ char *text = NULL;
        size_t len;

        if (fd >= 0 && read_whole(fd, LACP_CONTENT_MAX, &text, &len) == 0) {
            int path_len = snprintf(path, sizeof(path), "/proc/net/bonding/%s\n", names[i]);

            add_content(&f->wire, path, (size_t)path_len);
            add_content(&f->wire, text, len);
            bonding_parse(names[i], text, len, &now[n++]);
        }
        free(names[i]);
    }
    closedir(dir);
    /* Another process may have got its number, in another namespace. */
    if (netns_of(pid) != netns)
        return false;
    for (size_t i = 0; i < n; i++)
        compare(f, h, netns, &now[i], start);
    for (size_t i = f->n_bonds; i-- > 0;) {
        struct known gone = f->bonds[i];

        if (gone.netns != netns)
            continue;
        f->bonds[i].seen = false;
        if (gone.seen)
            continue;
        f->bonds[i] = f->bonds[--f->n_bonds];
        if (gone.bond.is_lacp)
            emit(f, h, netns, false, &gone.bond, NULL);
    }
    return true;
}

/* ------------------------------------------------------------------ other namespaces */

static void forget_namespace(struct finder *f, size_t at)
{
    uint64_t netns = f->others[at].netns;

    f->others[at] = f->others[--f->n_others];
    for (size_t i = f->n_bonds; i-- > 0;)
        if (f->bonds[i].netns == netns)
            f->bonds[i] = f->bonds[--f->n_bonds];
}

static bool has_bonds(const char *pid)
{
    char path[64];
    const struct dirent *entry = NULL;
    DIR *dir;

    bonds_path(pid, path);
    dir = opendir(path);
    if (!dir)
        return false;
    while ((entry = readdir(dir)) && entry->d_name[0] == '.')
        ;
    closedir(dir);
    return entry;
}

/** Whether a namespace was met in this search. */
static bool is_new(uint64_t *met, size_t *n, uint64_t netns)
{
    for (size_t i = *n; i-- > 0;) /* processes of a container often follow one another */
        if (met[i] == netns)
            return false;
    if (*n >= NAMESPACES_MAX)
        return false;
    met[(*n)++] = netns;
    return true;
}

/** A process of each namespace that has bonds; of those that are known, the same namespace again,
 * through whichever process. */
static void search(struct finder *f)
{
    static uint64_t met[NAMESPACES_MAX];
    static struct namespace found[NAMESPACES_MAX];
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    size_t n_met = 0, n = 0, processes = 0;

    while (proc && processes < PROCESSES_MAX && (entry = readdir(proc))) {
        uint64_t netns;

        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' || strlen(entry->d_name) > 12)
            continue;
        processes++;
        netns = netns_of(entry->d_name);
        if (!netns || netns == f->own || !is_new(met, &n_met, netns) || !has_bonds(entry->d_name))
            continue;
        found[n].netns = netns;
        snprintf(found[n].pid, sizeof(found[n].pid), "%.15s", entry->d_name);
        n++;
    }
    if (!proc)
        return;
    closedir(proc);
    for (size_t i = f->n_others; i-- > 0;) {
        size_t again = 0;

        while (again < n && found[again].netns != f->others[i].netns)
            again++;
        if (again == n)
            forget_namespace(f, i);
    }
    memcpy(f->others, found, n * sizeof(*found));
    f->n_others = n;
}

static void look_at_others(struct finder *f, const struct source_host *h, uint64_t now_ns)
{
    bool again = false;

    for (unsigned times = 0; times < 2; times++) {
        if (!f->searched_ns || now_ns - f->searched_ns >= SEARCH_NS || again) {
            search(f);
            f->searched_ns = now_ns;
        }
        again = false;
        for (size_t i = 0; i < f->n_others; i++)
            again |= !look_at(f, h, f->others[i].pid, f->others[i].netns, !f->begun);
        if (!again)
            break; /* or another process of the namespace is looked for */
    }
}

/* ------------------------------------------------------------------ the source */

/** Nothing is known of what the messages say but that something has happened. */
static bool drain(const struct finder *f)
{
    bool any = false;

    for (unsigned i = 0; i < MESSAGES_MAX; i++) {
        if (recv(f->fd, NULL, 0, MSG_DONTWAIT | MSG_TRUNC) < 0 && errno != ENOBUFS)
            break;
        any = true;
    }
    return any;
}

/** The driver makes a folder in every namespace. Without it this is all that a look costs. */
static bool is_loaded(struct finder *f)
{
    f->loaded = access("/proc/self/net/bonding", F_OK) == 0;
    if (!f->loaded && !f->told)
        log_info("no bonding driver is loaded, so there is no LACP to watch; it is looked for once "
                 "a second");
    f->told = true;
    return f->loaded;
}

/** The driver is not there, or not any more. */
static void all_gone(struct finder *f, const struct source_host *h)
{
    f->wire.content_bytes = f->wire.cut = 0;
    for (size_t i = 0; i < f->n_bonds; i++)
        if (f->bonds[i].bond.is_lacp)
            emit(f, h, f->bonds[i].netns, false, &f->bonds[i].bond, NULL);
    f->n_bonds = f->n_others = 0;
    f->begun = true;
}

static void finder_run(void *state, const struct source_host *h)
{
    const struct lacp_options *o = h->options;
    uint64_t now_ns = clock_now_ns(CLOCK_MONOTONIC);
    struct finder *f = state;
    bool due = now_ns - f->looked_ns >= LOOK_NS - SOON_NS;

    if (f->fd >= 0 && drain(f) && now_ns - f->looked_ns >= SOON_NS)
        due = true;
    if (!due)
        return;
    f->looked_ns = now_ns;
    if (!is_loaded(f)) {
        all_gone(f, h);
        return;
    }
    look_at(f, h, "self", f->own, !f->begun);
    if (o->other_namespaces)
        look_at_others(f, h, now_ns);
    f->begun = true;
}

static int open_socket(void)
{
    const struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

    if (fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        int r = -errno;

        close(fd);
        return r;
    }
    return fd < 0 ? -errno : fd;
}

static void finder_close(void *state)
{
    struct finder *f = state;

    if (!f)
        return;
    fd_close(f->fd);
    free(f->bonds);
    free(f);
}

static int finder_open(const struct source_host *h, const char *way, char *note, size_t note_size,
                       void **ret)
{
    struct finder *f = calloc(1, sizeof(*f));
    int r = 0;

    (void)h;
    if (!f)
        return -ENOMEM;
    f->fd = -1;
    f->own = netns_of("self");
    if (!f->own)
        r = -errno;
    else if (strcmp(way, LACP_WAY_NETLINK) == 0)
        r = f->fd = open_socket();
    if (r < 0) {
        finder_close(f);
        return r;
    }
    if (access("/proc/self/net/bonding", F_OK) < 0)
        snprintf(note, note_size,
                 "no bonding driver was loaded when this began, so there was nothing to watch; it "
                 "is looked for once a second");
    *ret = f;
    return 0;
}

static int finder_fd(const void *state)
{
    const struct finder *f = state;

    return f->loaded ? f->fd : -1; /* without bonds nobody has to be woken */
}

const struct hook_source lacp_source = {
    .period_ns = LOOK_NS,
    .open = finder_open,
    .fd = finder_fd,
    .run = finder_run,
    .close = finder_close,
};
