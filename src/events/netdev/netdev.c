// SPDX-License-Identifier: Apache-2.0

#include "events/netdev/netdev.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "core/event.h"
#include "core/text.h"
#include "events/netdev/link.h"
#include "events/netdev/watch.h"
#include "netdev.skel.h"

static const struct option option_table[] = {
    EVENT_OPTIONS(struct netdev_options, "1MiB", "4096"),
    {
        .key = "include",
        .type = OPTION_LIST,
        .offset = offsetof(struct netdev_options, include),
        .fallback = "",
        .help = "Only interfaces with such names are recorded; `*`, `?` and `[...]` stand for any "
                "characters, one, and one of these. Empty: all.",
    },
    {
        .key = "exclude",
        .type = OPTION_LIST,
        .offset = offsetof(struct netdev_options, exclude),
        .fallback = "",
        .help = "Interfaces with such names are not recorded.",
    },
    {
        .key = "container_veths",
        .type = OPTION_BOOL,
        .offset = offsetof(struct netdev_options, container_veths),
        .fallback = "false",
        .help = "Also record veths whose other end is in another network namespace: those of "
                "containers.",
    },
    {
        .key = "start",
        .type = OPTION_BOOL,
        .offset = offsetof(struct netdev_options, start),
        .fallback = "true",
        .help = "Record the state in which network cards, bonds and teams are when the watching "
                "begins.",
    },
    {},
};

static const struct hook hooks[] = {
    {
        .name = "links",
        .watches = "network interfaces that change, come or go",
        .ways =
            {
                {.name = NETDEV_WAY_FILTER,
                 .programs = (const char *const[]){"take_found", "hear_link", NULL},
                 .source = &netdev_source},
                {.name = NETDEV_WAY_PLAIN,
                 .programs = (const char *const[]){"take_found", NULL},
                 .source = &netdev_source},
            },
    },
    {},
};

static const char *netdev_rule_name(const void *options, unsigned index)
{
    const struct netdev_options *o = options;

    switch (index) {
    case NETDEV_RULE_OWN:
        return "";
    case NETDEV_RULE_PEER_ELSEWHERE:
        return o->container_veths ? "" : "peer_elsewhere";
    case NETDEV_RULE_EXCLUDE:
        return o->exclude.n ? "exclude" : "";
    case NETDEV_RULE_INCLUDE:
        return o->include.n ? "include" : "";
    default:
        return NULL;
    }
}

/* --- decode */

static const char *const change_names[] = {
    "admin", "carrier",  "carrier_flap", "mtu",       "speed",       "master",       "name",
    "mac",   "appeared", "removed",      "slave_mii", "slave_state", "active_slave",
};
static_assert(1 << ARRAY_SIZE(change_names) == NETDEV_CHANGES + 1, "a change has no name");

/* RFC 2863; linux/if.h */
static const char *const operstates[] = {"unknown", "notpresent", "down", "lowerlayerdown",
                                         "testing", "dormant",    "up"};
/* include/net/bonding.h, as /proc/net/bonding says it */
static const char *const mii_states[] = {"up", "going down", "down", "going back"};
static const char *const slave_states[] = {"active", "backup"};

static const char *one_of(const char *const *names, size_t n, uint8_t value)
{
    return value < n ? names[value] : "unknown";
}
#define NAME_OF(names, value) one_of(names, ARRAY_SIZE(names), value)

static bool is_sane(const struct netdev_wire *w)
{
    return !(w->changes & ~NETDEV_CHANGES) && w->start <= 1 && w->reread <= 1 && w->moved <= 1 &&
           (w->start ? !w->changes : w->changes) && w->before.mac_len <= NETDEV_MAC_MAX &&
           w->now.mac_len <= NETDEV_MAC_MAX && w->cmdline_bytes >= 0 &&
           w->cmdline_bytes <= NETDEV_CMDLINE_MAX;
}

/** Which of them have changed; of a start, or of one that has come, all that there is. */
static void status_text(const struct netdev_wire *w, struct text *t)
{
    bool all = w->start || w->changes & NETDEV_APPEARED;
    bool up = w->now.flags & IFF_UP, carrier = w->now.flags & IFF_LOWER_UP;
    const struct {
        bool said;
        const char *name;
    } rows[] = {
        {all || w->changes & NETDEV_ADMIN, up ? "linkStatusAdminUp" : "linkStatusAdminDown"},
        {w->changes & NETDEV_FLAP, carrier ? "linkStatusCarrierDown" : "linkStatusCarrierUp"},
        {all || w->changes & (NETDEV_CARRIER | NETDEV_FLAP),
         carrier ? "linkStatusCarrierUp" : "linkStatusCarrierDown"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].said)
            text_addf(t, "%s%s", t->len ? ", " : "", rows[i].name);
}

#define MAC_TEXT_MAX (3 * NETDEV_MAC_MAX + 1)

static const char *mac_text(const struct netdev_link *l, char ret[MAC_TEXT_MAX])
{
    *ret = '\0';
    for (unsigned i = 0; i < l->mac_len; i++)
        snprintf(ret + strlen(ret), MAC_TEXT_MAX - strlen(ret), "%s%02x", i ? ":" : "", l->mac[i]);
    return ret;
}

static void write_changes(const struct netdev_wire *w, struct record *r)
{
    record_list(r, "changes");
    for (size_t i = 0; i < ARRAY_SIZE(change_names); i++)
        if (w->changes & 1U << i)
            record_str(r, NULL, change_names[i], SIZE_MAX);
    record_close(r);
}

/** What it is like now, and what it was like before if that is what has changed. */
static void write_state(const struct netdev_wire *w, struct record *r)
{
    const struct netdev_link *before = &w->before, *now = &w->now;
    char mac[MAC_TEXT_MAX];

    if (w->changes & NETDEV_NAME)
        record_str(r, "ifname_before", before->name, sizeof(before->name));
    if (w->changes & NETDEV_MAC)
        record_str(r, "mac_before", mac_text(before, mac), sizeof(mac));
    record_str(r, "kind", link_is_physical(now) ? "physical" : now->kind, sizeof(now->kind));
    record_str(r, "operstate", NAME_OF(operstates, now->operstate), SIZE_MAX);
    record_u64(r, "mtu", now->mtu);
    if (w->changes & NETDEV_MTU)
        record_u64(r, "mtu_before", before->mtu);
    if (now->speed_mbps)
        record_u64(r, "speed_mbps", now->speed_mbps);
    if (w->changes & NETDEV_SPEED)
        record_u64(r, "speed_mbps_before", before->speed_mbps);
    if (now->master)
        record_str(r, "master", w->master_now, sizeof(w->master_now));
    if (w->changes & NETDEV_MASTER && before->master)
        record_str(r, "master_before", w->master_before, sizeof(w->master_before));
    record_u64(r, "carrier_down_count", now->carrier_down_count);
    if (w->changes & NETDEV_REMOVED)
        record_bool(r, "moved", w->moved);
}

static void write_bond(const struct netdev_wire *w, struct record *r)
{
    const struct netdev_link *before = &w->before, *now = &w->now;

    if (now->is_bond_slave) {
        record_str(r, "slave_mii_status", NAME_OF(mii_states, now->slave_mii), SIZE_MAX);
        if (w->changes & NETDEV_SLAVE_MII)
            record_str(r, "slave_mii_status_before", NAME_OF(mii_states, before->slave_mii),
                       SIZE_MAX);
        record_str(r, "slave_state", NAME_OF(slave_states, now->slave_state), SIZE_MAX);
        if (w->changes & NETDEV_SLAVE_STATE)
            record_str(r, "slave_state_before", NAME_OF(slave_states, before->slave_state),
                       SIZE_MAX);
        record_u64(r, "link_failure_count", now->slave_failures);
    }
    if (now->active_slave)
        record_str(r, "active_slave", w->active_now, sizeof(w->active_now));
    if (w->changes & NETDEV_ACTIVE_SLAVE && before->active_slave)
        record_str(r, "active_slave_before", w->active_before, sizeof(w->active_before));
}

/* --- the sentence */

static void phrase(struct text *t, const char *format, ...) _printf_(2, 3);

static void phrase(struct text *t, const char *format, ...)
{
    char words[128];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof(words), format, args);
    va_end(args);
    text_addf(t, "%s%s", t->len ? ", " : "", words);
}

static const char *name_or(const char name[NETDEV_NAME_LEN], uint32_t index,
                           char ret[NETDEV_NAME_LEN + 1])
{
    snprintf(ret, NETDEV_NAME_LEN + 1, "%.*s", NETDEV_NAME_LEN,
             *name   ? name
             : index ? "another"
                     : "none");
    return ret;
}

/** What a process does. */
static void say_done(const struct netdev_wire *w, struct text *t)
{
    char one[NETDEV_NAME_LEN + 1], other[NETDEV_NAME_LEN + 1], mac[MAC_TEXT_MAX];

    if (w->changes & NETDEV_APPEARED)
        phrase(t, w->head.pid ? "was made" : "has appeared");
    if (w->changes & NETDEV_REMOVED)
        phrase(t, "%s", w->moved ? "was moved to another network namespace" : "was removed");
    if (w->changes & NETDEV_ADMIN)
        phrase(t, "was set %s", w->now.flags & IFF_UP ? "up" : "down");
    if (w->changes & NETDEV_NAME)
        phrase(t, "was %.*s before", NETDEV_NAME_LEN, w->before.name);
    if (w->changes & NETDEV_MTU)
        phrase(t, "has an MTU of %u instead of %u", w->now.mtu, w->before.mtu);
    if (w->changes & NETDEV_MASTER)
        phrase(t, "has %s as master instead of %s", name_or(w->master_now, w->now.master, one),
               name_or(w->master_before, w->before.master, other));
    if (w->changes & NETDEV_MAC)
        phrase(t, "has the address %s", mac_text(&w->now, mac));
    if (t->len && w->head.pid)
        text_addf(t, " by %.16s[%u]", w->head.comm, w->head.pid);
}

/** What happens to it. */
static void say_happened(const struct netdev_wire *w, struct text *t)
{
    bool carrier = w->now.flags & IFF_LOWER_UP;
    char one[NETDEV_NAME_LEN + 1], other[NETDEV_NAME_LEN + 1];

    if (w->start || w->changes & NETDEV_APPEARED)
        phrase(t, "is %s, %s carrier%s", w->now.flags & IFF_UP ? "up" : "down",
               carrier ? "with" : "without", w->start ? ", as the watching begins" : "");
    if (w->changes & NETDEV_CARRIER)
        phrase(t, "carrier %s", carrier ? "is there" : "is gone");
    if (w->changes & NETDEV_FLAP)
        phrase(t, carrier ? "carrier was gone for a moment" : "carrier was there for a moment");
    if (w->changes & NETDEV_SPEED)
        phrase(t, "runs at %u Mbit/s instead of %u", w->now.speed_mbps, w->before.speed_mbps);
    if (w->changes & NETDEV_SLAVE_MII)
        phrase(t, "its link is %s for its bond", NAME_OF(mii_states, w->now.slave_mii));
    if (w->changes & NETDEV_SLAVE_STATE)
        phrase(t, "is %s in its bond", NAME_OF(slave_states, w->now.slave_state));
    if (w->changes & NETDEV_ACTIVE_SLAVE)
        phrase(t, "its active slave is %s instead of %s",
               name_or(w->active_now, w->now.active_slave, one),
               name_or(w->active_before, w->before.active_slave, other));
    if (w->reread)
        phrase(t, "as a second look shows: the kernel's messages came too fast");
}

static int write_summary(const struct netdev_wire *w, struct record *r)
{
    struct text done = {}, happened = {};
    bool failed;

    say_done(w, &done);
    say_happened(w, &happened);
    failed = done.failed || happened.failed;
    if (!failed)
        record_summary(r, "%.*s: %s%s%s", NETDEV_NAME_LEN, w->now.name, done.len ? done.data : "",
                       done.len && happened.len ? "; " : "", happened.len ? happened.data : "");
    text_done(&done);
    text_done(&happened);
    return failed ? -ENOMEM : 0;
}

static void write_process(const struct decode *d, const struct netdev_wire *w, const char *cgroup,
                          struct record *r)
{
    char container[DOC_CONTAINER_LEN + 1];

    d->container_id(cgroup, container);
    record_task(r, &w->head);
    if (w->cmdline_bytes)
        record_process_fill(r, NULL, w->cmdline, (size_t)w->cmdline_bytes, NULL);
    record_cgroup(r, cgroup);
    if (*container)
        record_container(r, container, NULL, NULL, NULL, NULL, "cgroup");
}

static int netdev_decode(const struct decode *d, const void *raw, struct record *r)
{
    const struct netdev_wire *w = raw;
    char mac[MAC_TEXT_MAX], cgroup[CGROUP_PATH_MAX];
    struct text status = {};
    int e = is_sane(w) ? cgroup_path(&w->cgroup, 0, cgroup) : -EBADMSG;

    if (e < 0)
        return e;
    status_text(w, &status);
    record_str(r, "ifname", w->now.name, sizeof(w->now.name));
    record_bool(r, "start", w->start);
    record_u64(r, "index", w->now.index);
    record_str(r, "linkstatus", status.len ? status.data : "", SIZE_MAX);
    record_str(r, "mac", mac_text(&w->now, mac), sizeof(mac));
    e = status.failed ? -ENOMEM : 0;
    text_done(&status);
    write_changes(w, r);
    write_state(w, r);
    write_bond(w, r);
    if (w->reread)
        record_bool(r, "reread", true);
    if (w->head.pid) {
        record_str(r, "comm", w->head.comm, sizeof(w->head.comm));
        record_u64(r, "pid", w->head.pid);
        write_process(d, w, cgroup, r);
    }
    return e < 0 ? e : write_summary(w, r);
}

/* --- provoking */

/** A tap, which goes with the process, whatever ends it. Nobody sends anything through it, as it
 * stays down; it has to live for long enough to be taken for an interface that stays. */
static int netdev_provoke(struct provoked *ret)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    _close_fd_ int ask = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};

    snprintf(request.ifr_name, sizeof(request.ifr_name), "huatuo-try%%d");
    if (fd < 0 || ask < 0 || ioctl(fd, TUNSETIFF, &request) < 0 ||
        ioctl(ask, SIOCGIFINDEX, &request) < 0) {
        int r = -errno;

        fd_close(fd);
        return r;
    }
    *ret = (struct provoked){.field = "index", .value = (uint64_t)request.ifr_ifindex};
    return 0; /* fd stays open until the process is ended */
}

const struct event event_netdev = {
    .name = "netdev",
    .tracer_name = "netdev_event",
    .is_case = true,
    .summary = "A network interface goes up or down, changes, comes or goes.",
    .options = option_table,
    .options_size = sizeof(struct netdev_options),
    .object = netdev_bpf__elf_bytes,
    .hooks = hooks,
    .wire_size = sizeof(struct netdev_wire),
    .rule_name = netdev_rule_name,
    .decode = netdev_decode,
    .provoke = netdev_provoke,
};
