// SPDX-License-Identifier: Apache-2.0

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "core/ask.h"
#include "core/clock.h"
#include "core/netns.h"
#include "core/read.h"
#include "events/dropwatch/device.h"

/**
 * Once a second /proc/net/dev of each network namespace is read, which waits for nobody. Only where
 * losses have grown somebody is asked who may have to wait, for rtnetlink tells the counters apart
 * and which devices are cards.
 */

#define LOOK_NS     (1 * NS_PER_SEC)
#define ANSWER_NS   (500 * NS_PER_MS)
#define TEXT_MAX    (1024 * 1024) /* of /proc/net/dev: some 7000 devices */
#define CARDS_MAX   256           /* of a namespace */
#define DEVICES_MAX 16384

struct device_state {
    uint64_t netns;
    struct device_line line;
    bool seen, is_new;
    bool software; /* the stack itself drops what is counted there, and kfree_skb sees it */
    bool changed;
    uint64_t counted_ns;
    int64_t owed;  /* rx_dropped that the stack has counted, and its drops were seen already */
    uint64_t core; /* the stack's part of rx_dropped, as the programs have counted it */
    uint64_t counters[DEVICE_COUNTERS];
};

struct watch {
    struct netns_view *view;
    struct device_state *devices; /* owned */
    size_t n, cap, next;          /* `next`: where the next one is if nothing has changed */
    bool tells_core;              /* the stack's part of rx_dropped can be told */
    uint64_t now_ns;              /* CLOCK_MONOTONIC */
    struct ask ask;
    struct device_answer answers[CARDS_MAX];
    const struct source_host *host;
};

/* ------------------------------------------------------------------ asking */

static void read_driver(int any, struct device_answer *a)
{
    struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq request = {.ifr_data = (void *)&info};

    memcpy(request.ifr_name, a->name, sizeof(request.ifr_name) - 1);
    if (ioctl(any, SIOCETHTOOL, &request) == 0)
        snprintf(a->driver, sizeof(a->driver), "%.31s", info.driver);
}

/** False: that was all. */
static bool tell_part(int out, int any, const void *bytes, size_t size, unsigned *n)
{
    int left = (int)size;

    for (const struct nlmsghdr *h = bytes; NLMSG_OK(h, (unsigned)left); h = NLMSG_NEXT(h, left)) {
        struct device_answer a;

        if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
            return false;
        if (*n >= CARDS_MAX || !device_read_link(h, h->nlmsg_len, &a))
            continue;
        read_driver(any, &a);
        ++*n;
        if (send(out, &a, sizeof(a), 0) < 0)
            return false;
    }
    return true;
}

/** In a child, which is in the namespace. */
static void tell_cards(int out, const void *arg)
{
    static _Alignas(8) uint8_t buffer[65536];
    const struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
    } request = {
        .header = {.nlmsg_len = sizeof(request),
                   .nlmsg_type = RTM_GETLINK,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
    };
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    int any = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ssize_t n = fd < 0 ? -1 : send(fd, &request, sizeof(request), 0);
    unsigned told = 0;

    (void)arg;
    while (n > 0) {
        n = recv(fd, buffer, sizeof(buffer), 0);
        if (n > 0 && !tell_part(out, any, buffer, (size_t)n, &told))
            break;
    }
}

/** All cards of the namespace in which this process is. -errno. */
static ssize_t ask_cards(struct watch *w)
{
    uint64_t until_ns = clock_now_ns(CLOCK_MONOTONIC) + ANSWER_NS;
    ssize_t r = ask_begin(&w->ask, tell_cards, NULL);
    size_t n = 0;

    for (r = r < 0 ? r : 1; r > 0 && n < CARDS_MAX;) {
        r = ask_next(&w->ask, &w->answers[n], sizeof(w->answers[n]), until_ns);
        n += r == sizeof(w->answers[n]);
    }
    ask_end(&w->ask, until_ns);
    return r < 0 ? r : (ssize_t)n;
}

/* ------------------------------------------------------------------ what has grown */

/** What the stack has dropped itself, and told as drops, by the programs' own count. */
static uint64_t core_of(const struct watch *w, uint64_t netns, int32_t ifindex)
{
    const struct dropwatch_device key = {.netns = (uint32_t)netns, .ifindex = ifindex};
    int map = w->host->map(w->host, "core_drops");
    uint64_t n = 0;

    return map >= 0 && bpf_map_lookup_elem(map, &key, &n) == 0 ? n : 0;
}

static void tell(struct watch *w, struct device_state *s, const struct device_answer *a,
                 const uint64_t grown[DEVICE_COUNTERS])
{
    struct dropwatch_wire wire = {
        .type = DROPWATCH_DEVICE,
        .interval_ns = w->now_ns - s->counted_ns,
        .packet = {.netns = (__u32)s->netns, .ifindex = a->ifindex, .iif = -1},
    };
    struct wire_key key = {.what = DROPWATCH_DEVICE};

    memcpy(wire.packet.device, a->name, sizeof(wire.packet.device));
    memcpy(wire.driver, a->driver, sizeof(wire.driver));
    memcpy(wire.grown, grown, sizeof(wire.grown));
    memcpy(&key.words[1], a->name, sizeof(a->name));
    key.words[3] = s->netns << 32;
    w->host->emit(w->host, &key, 0, &wire, sizeof(wire));
}

static void compare(struct watch *w, struct device_state *s, const struct device_answer *a)
{
    uint64_t grown[DEVICE_COUNTERS] = {}, core = core_of(w, s->netns, a->ifindex);
    bool any = false;

    for (unsigned i = 0; i < DEVICE_COUNTERS; i++)
        /* Drivers begin anew when a card is set up again. */
        grown[i] = a->counters[i] > s->counters[i] ? a->counters[i] - s->counters[i] : 0;
    s->owed += (int64_t)(core < s->core ? core : core - s->core);
    s->core = core;
    if (!w->tells_core) {
        grown[DEVICE_RX_DROPPED] = 0;
    } else {
        uint64_t paid = MIN(grown[DEVICE_RX_DROPPED], (uint64_t)s->owed);

        grown[DEVICE_RX_DROPPED] -= paid;
        s->owed -= (int64_t)paid;
    }
    memcpy(s->counters, a->counters, sizeof(s->counters));
    for (unsigned i = 0; i < DEVICE_COUNTERS; i++)
        any |= grown[i] != 0;
    if (any && !s->is_new)
        tell(w, s, a, grown);
    s->counted_ns = w->now_ns;
}

/* ------------------------------------------------------------------ looking */

static struct device_state *state_of(struct watch *w, uint64_t netns, const char name[16])
{
    for (size_t k = 0; k < w->n; k++) {
        size_t i = (w->next + k) % w->n;

        if (w->devices[i].netns != netns ||
            strncmp(w->devices[i].line.name, name, sizeof(w->devices[i].line.name)) != 0)
            continue;
        w->next = i + 1;
        return &w->devices[i];
    }
    if (w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 32;
        struct device_state *devices =
            cap > DEVICES_MAX ? NULL : realloc(w->devices, cap * sizeof(*devices));

        if (!devices)
            return NULL;
        w->devices = devices;
        w->cap = cap;
    }
    w->devices[w->n] =
        (struct device_state){.netns = netns, .is_new = true, .counted_ns = w->now_ns};
    memcpy(w->devices[w->n].line.name, name, sizeof(w->devices[w->n].line.name));
    return &w->devices[w->n++];
}

/** Whether somebody has to be asked: cards or devices of which it is not known have lost something.
 */
static bool read_lines(struct watch *w, uint64_t netns, const char *text)
{
    struct device_line line;
    bool any = false;

    while (device_parse(&text, &line)) {
        struct device_state *s = state_of(w, netns, line.name);

        if (!s)
            continue;
        s->seen = true;
        s->changed |= memcmp(&s->line, &line, sizeof(line)) != 0;
        s->line = line;
        if (!s->changed) { /* with nothing lost nothing has been counted */
            s->is_new = false;
            s->counted_ns = w->now_ns;
        }
        any |= s->changed && !s->software;
    }
    return any;
}

static void look_at(void *arg, uint64_t netns)
{
    struct watch *w = arg;
    _close_fd_ int fd = open("/proc/self/net/dev", O_RDONLY | O_CLOEXEC);
    _free_ char *text = NULL;
    ssize_t n;

    if (fd < 0 || read_whole(fd, TEXT_MAX, &text, NULL) < 0 || !read_lines(w, netns, text))
        return;
    n = ask_cards(w);
    if (n < 0)
        return; /* and again, next time */
    for (size_t i = 0; i < w->n; i++) {
        struct device_state *s = &w->devices[i];
        const struct device_answer *a = NULL;

        if (s->netns != netns || !s->changed)
            continue;
        for (ssize_t k = 0; k < n; k++)
            if (strncmp(w->answers[k].name, s->line.name, sizeof(s->line.name)) == 0)
                a = &w->answers[k];
        s->software = !a;
        if (a)
            compare(w, s, a);
        s->changed = s->is_new = false;
    }
}

static void watch_run(void *state, const struct source_host *h)
{
    struct watch *w = state;

    w->host = h;
    w->now_ns = clock_now_ns(CLOCK_MONOTONIC);
    if (!netns_due(w->view))
        return;
    for (size_t i = 0; i < w->n; i++)
        w->devices[i].seen = false;
    netns_visit(w->view, look_at, w);
    for (size_t i = w->n; i-- > 0;)
        if (!w->devices[i].seen)
            w->devices[i] = w->devices[--w->n];
    netns_looked(w->view);
}

static void watch_close(void *state)
{
    struct watch *w = state;

    if (!w)
        return;
    free(w->devices);
    netns_view_free(w->view);
    fd_close(w->ask.fd);
    free(w);
}

/** 5.19+: most of what the stack counts as rx_dropped. */
static bool has_reason(const struct btf *btf, const char *name)
{
    int id = btf__find_by_name_kind(btf, "skb_drop_reason", BTF_KIND_ENUM);
    const struct btf_type *type = id < 0 ? NULL : btf__type_by_id(btf, (__u32)id);

    for (unsigned i = 0; type && i < btf_vlen(type); i++)
        if (strcmp(btf__name_by_offset(btf, btf_enum(type)[i].name_off), name) == 0)
            return true;
    return false;
}

static int watch_open(const struct source_host *h, const char *way, char *note, size_t note_size,
                      void **ret)
{
    struct watch *w = calloc(1, sizeof(*w));
    struct btf *btf;
    int r;

    (void)h;
    (void)way;
    (void)note;
    (void)note_size;
    if (!w)
        return -ENOMEM;
    w->ask.fd = -1;
    r = netns_view_new(&w->view);
    if (r < 0) {
        watch_close(w);
        return r;
    }
    btf = btf__load_vmlinux_btf();
    w->tells_core = btf && has_reason(btf, "SKB_DROP_REASON_UNHANDLED_PROTO");
    btf__free(btf);
    *ret = w;
    return 0;
}

const struct hook_source device_source = {
    .period_ns = LOOK_NS,
    .open = watch_open,
    .run = watch_run,
    .close = watch_close,
};
