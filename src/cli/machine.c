// SPDX-License-Identifier: Apache-2.0

#include "cli/machine.h"

#include <cap-ng.h>
#include <ctype.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <time.h>
#include <zlib.h>

#define SMALL_MAX      (64 * 1024) /* files of a few lines */
#define CONFIG_MAX     (4 * 1024 * 1024)
#define MEMLOCK_ENOUGH (64 * 1024 * 1024) /* ring, windows and programs of several kinds */
/* No machine that runs this has a right clock that says less: 2024-01-01. */
#define TIME_PLAUSIBLE 1704067200

/* ------------------------------------------------------------------ the rows */

static char *printable(const char *bytes)
{
    struct text t = {};

    text_add_printable(&t, bytes, SIZE_MAX);
    return t.data ? t.data : strdup("");
}

static char *printable_format(const char *format, va_list args)
{
    _free_ char *raw = NULL;

    if (vasprintf(&raw, format, args) < 0) {
        raw = NULL;
        return NULL;
    }
    return printable(raw);
}

void checks_add(struct checks *c, const char *name, enum check_state state, const char *advice,
                const char *format, ...)
{
    struct check row = {.name = name, .state = state};
    va_list args;

    va_start(args, format);
    row.found = printable_format(format, args);
    va_end(args);
    row.advice = printable(advice ? advice : "");
    if (c->n == c->cap) {
        size_t cap = 2 * c->cap + 16;
        struct check *rows = reallocarray(c->rows, cap, sizeof(*rows));

        if (rows) {
            c->rows = rows;
            c->cap = cap;
        }
    }
    if (!row.found || !row.advice || c->n == c->cap) {
        free(row.found);
        free(row.advice);
        c->failed = true;
        return;
    }
    c->rows[c->n++] = row;
}

void checks_advise(struct checks *c, const char *format, ...)
{
    char *advice;
    va_list args;

    if (!c->n)
        return;
    va_start(args, format);
    advice = printable_format(format, args);
    va_end(args);
    if (!advice) {
        c->failed = true;
        return;
    }
    free(c->rows[c->n - 1].advice);
    c->rows[c->n - 1].advice = advice;
}

void checks_done(struct checks *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->rows[i].found);
        free(c->rows[i].advice);
    }
    free(c->rows);
    *c = (struct checks){};
}

/* ------------------------------------------------------------------ reading */

/** Heap, without white space at the end; -errno. */
static int read_small(const struct machine *m, const char *path, char **ret)
{
    int r = tree_read(&m->tree, path, SMALL_MAX, ret, NULL);

    for (size_t len = r < 0 ? 0 : strlen(*ret); len > 0 && isspace((unsigned char)(*ret)[len - 1]);)
        (*ret)[--len] = '\0';
    return r;
}

static void add_unreadable(struct checks *c, const char *name, const char *path, int r)
{
    checks_add(c, name, CHECK_UNKNOWN, NULL, "%s cannot be read: %s", path, strerror(-r));
}

static void add_senseless(struct checks *c, const char *name, const char *path, const char *text)
{
    char quoted[TEXT_QUOTED_MAX];

    checks_add(c, name, CHECK_UNKNOWN, NULL, "%s holds %s, which makes no sense", path,
               text_quote(text, quoted));
}

/** The rest of the line that begins with `key`, or NULL. */
static const char *line_of(const char *text, const char *key)
{
    const size_t len = strlen(key);

    for (const char *at = text; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, key, len) == 0)
            return at + len;
    }
    return NULL;
}

static bool parse_number(const char *text, long *ret)
{
    char *end;
    long number;

    errno = 0;
    number = strtol(text, &end, 10);
    if (errno || end == text || *end)
        return false;
    *ret = number;
    return true;
}

/** A file that holds one number. False: `c` has got a row that says why not. */
static bool read_number(const struct machine *m, struct checks *c, const char *name,
                        const char *path, long *ret)
{
    _free_ char *text = NULL;
    int r = read_small(m, path, &text);

    if (r < 0)
        add_unreadable(c, name, path, r);
    else if (!parse_number(text, ret))
        add_senseless(c, name, path, text);
    else
        return true;
    return false;
}

/** The number that stands at `*at`, behind blanks; moves on behind it. */
static bool take_number(const char **at, int base, uint64_t *ret)
{
    const char *begin = *at + strspn(*at, " \t");
    char *end;
    unsigned long long number;

    if (!isxdigit((unsigned char)*begin)) /* strtoull() would take signs, and what they lead to */
        return false;
    errno = 0;
    number = strtoull(begin, &end, base);
    if (errno || end == begin)
        return false;
    *at = end;
    *ret = number;
    return true;
}

unsigned machine_parse_release(const char *release)
{
    uint64_t major, minor;

    if (*release == ' ' || !take_number(&release, 10, &major) || *release++ != '.' ||
        *release == ' ' || !take_number(&release, 10, &minor) || major > 999 || minor > 999)
        return 0;
    return (unsigned)(major * 1000 + minor);
}

static void read_rights(struct machine *m)
{
    _free_ char *status = NULL, *map = NULL, *last = NULL;
    const char *effective, *uids, *ids;
    uint64_t effective_rights, real_uid, uid, inside, outside, count;
    long last_right;

    if (read_small(m, "/proc/self/status", &status) < 0)
        return;
    effective = line_of(status, "CapEff:");
    uids = line_of(status, "Uid:");
    if (!effective || !take_number(&effective, 16, &effective_rights) ||
        (*effective && *effective != '\n') || !uids || !take_number(&uids, 10, &real_uid) ||
        !take_number(&uids, 10, &uid) || uid > UINT32_MAX)
        return;
    m->uid = (uint32_t)uid;
    m->rights = effective_rights;
    m->rights_known = true;
    if (read_small(m, "/proc/sys/kernel/cap_last_cap", &last) < 0 ||
        !parse_number(last, &last_right) || last_right < 0 || last_right > 63)
        last_right = CAP_LAST_CAP;
    m->all_rights = UINT64_MAX >> (63 - last_right);
    if (read_small(m, "/proc/self/uid_map", &map) < 0)
        return;
    ids = map;
    m->user_namespace = take_number(&ids, 10, &inside) && take_number(&ids, 10, &outside) &&
                        take_number(&ids, 10, &count) &&
                        !(inside == 0 && outside == 0 && count == UINT32_MAX);
}

static void read_release(struct machine *m)
{
    _free_ char *release = NULL, *version = NULL;

    if (read_small(m, "/proc/sys/kernel/osrelease", &release) == 0)
        snprintf(m->release, sizeof(m->release), "%s", release);
    /* Linux version 5.10.0-28-amd64 (debian-kernel@... */
    else if (read_small(m, "/proc/version", &version) == 0)
        (void)sscanf(version, "Linux version %127s", m->release);
    m->version = machine_parse_release(m->release);
}

int machine_open(const char *root, struct machine *ret)
{
    int r;

    *ret = (struct machine){};
    r = tree_open(root, &ret->tree);
    if (r < 0)
        return r;
    probe_read(&ret->tree, &ret->facts);
    read_release(ret);
    read_rights(ret);
    return 0;
}

void machine_done(struct machine *m)
{
    probe_done(&m->facts);
    tree_close(&m->tree);
}

bool machine_has(const struct machine *m, unsigned capability)
{
    return m->rights >> capability & 1;
}

bool machine_may_load(const struct machine *m)
{
    return m->rights_known && !m->user_namespace &&
           (machine_has(m, CAP_SYS_ADMIN) ||
            (machine_has(m, CAP_BPF) && machine_has(m, CAP_PERFMON)));
}

/* ------------------------------------------------------------------ the kernel */

static void check_kernel(const struct machine *m, struct checks *c)
{
    _free_ char *architecture = NULL;
    struct utsname here;
    const char *arch = ""; /* not known */
    enum check_state state = CHECK_OK;
    const char *advice = NULL;

    if (!m->version) {
        if (*m->release)
            add_senseless(c, "kernel", "/proc/sys/kernel/osrelease", m->release);
        else
            checks_add(c, "kernel", CHECK_UNKNOWN, NULL,
                       "neither /proc/sys/kernel/osrelease nor /proc/version tells its release");
        return;
    }
    if (read_small(m, "/proc/sys/kernel/arch", &architecture) == 0)
        arch = architecture;
    else if (!m->tree.foreign && uname(&here) == 0)
        arch = here.machine;
    if (m->version < 5008) {
        state = CHECK_FAIL;
        advice = "it takes Linux 5.10 or later: this one has no ring buffer for BPF";
    } else if (m->version < 5010) {
        state = CHECK_WARN;
        advice = "Linux 5.10 and later are the aim; nobody has tried this one";
    } else if (*arch && strcmp(arch, "x86_64") != 0) {
        state = CHECK_WARN;
        advice = "x86-64 is the aim; nobody has tried this architecture";
    }
    checks_add(c, "kernel", state, advice, "Linux %s%s%s", m->release, *arch ? ", " : "", arch);
}

static void check_btf(const struct machine *m, struct checks *c)
{
    static const char *const name = "btf", *const path = "/sys/kernel/btf/vmlinux";

    if (m->facts.btf)
        checks_add(c, name, CHECK_OK, NULL, "%s", path);
    else if (m->facts.btf_error == -ENOENT)
        checks_add(c, name, CHECK_FAIL,
                   "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as those of Debian 11, RHEL 8.2, "
                   "Ubuntu 20.10 and later are; in a container mount /sys",
                   "there is no %s, by which BPF programs adapt to the kernel", path);
    else if (m->facts.btf_error == -EBADMSG)
        checks_add(c, name, CHECK_UNKNOWN, NULL, "%s makes no sense", path);
    else
        add_unreadable(c, name, path, m->facts.btf_error);
}

static void check_lockdown(const struct machine *m, struct checks *c)
{
    static const char *const name = "lockdown", *const path = "/sys/kernel/security/lockdown";
    static const struct {
        const char *level;
        enum check_state state;
        const char *takes, *advice;
    } levels[] = {
        {"none", CHECK_OK, "nothing is locked", NULL},
        /* include/linux/security.h, enum lockdown_reason */
        {"integrity", CHECK_OK, "debugfs, writing to user memory from BPF: nothing that is needed",
         NULL},
        {"confidentiality", CHECK_FAIL,
         "reading kernel memory from BPF, kprobes, tracefs, and with them every hook",
         "boot without lockdown=confidentiality; lockdown=integrity takes nothing away"},
    };
    _free_ char *text = NULL;
    int r = read_small(m, path, &text);
    const char *open = r < 0 ? NULL : strchr(text, '[');

    if (r == -ENOENT) {
        checks_add(c, name, CHECK_OK, NULL,
                   "there is no %s: a kernel without it, or securityfs is not mounted", path);
        return;
    }
    if (r < 0) {
        add_unreadable(c, name, path, r);
        return;
    }
    for (size_t i = 0; open && i < ARRAY_SIZE(levels); i++) {
        const size_t len = strlen(levels[i].level);

        if (strncmp(open + 1, levels[i].level, len) == 0 && open[1 + len] == ']') {
            checks_add(c, name, levels[i].state, levels[i].advice, "%s%s%s", levels[i].level,
                       i > 0 ? ": takes away " : ": ", levels[i].takes);
            return;
        }
    }
    add_senseless(c, name, path, text);
}

/** Whether an address is shown other than zero. The first ones may be: offsets of per-CPU data. */
static bool shows_addresses(const char *symbols)
{
    for (const char *at = symbols; at && *at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strspn(at, "0") < strspn(at, "0123456789abcdef"))
            return true;
    }
    return false;
}

static void check_symbols(const struct machine *m, struct checks *c)
{
    static const char *const name = "symbols", *const sysctl = "/proc/sys/kernel/kptr_restrict";
    const char *symbols = m->facts.symbols;
    long restricted;

    if (!read_number(m, c, name, sysctl, &restricted))
        return;
    if (symbols && shows_addresses(symbols))
        checks_add(c, name, CHECK_OK, NULL,
                   "/proc/kallsyms shows addresses, kernel.kptr_restrict is %ld", restricted);
    else if (restricted >= 2)
        checks_add(c, name, CHECK_WARN, "sysctl -w kernel.kptr_restrict=1",
                   "kernel.kptr_restrict is %ld: stacks are recorded as bare addresses",
                   restricted);
    else if (!symbols && m->facts.symbols_error == -ENOENT && m->tree.foreign)
        checks_add(c, name, CHECK_UNKNOWN, NULL,
                   "kernel.kptr_restrict is %ld, there is no /proc/kallsyms in this tree",
                   restricted);
    else if (!symbols)
        checks_add(c, name, CHECK_WARN,
                   "boot a kernel with CONFIG_KALLSYMS=y; in a container mount /proc",
                   "/proc/kallsyms cannot be read (%s): stacks are recorded as bare addresses",
                   strerror(-m->facts.symbols_error));
    else
        checks_add(c, name, CHECK_WARN, "run huatuo as root, or with CAP_SYSLOG",
                   "/proc/kallsyms shows no addresses to this user, kernel.kptr_restrict is %ld: "
                   "stacks are recorded as bare addresses",
                   restricted);
}

/* ------------------------------------------------------------------ privileges */

/** What the agent uses capabilities for. */
static const struct right {
    unsigned number;
    unsigned since, before; /* kernels that want it; 0: all */
    bool of_root;           /* another user than root does not use it */
    bool not_beside_admin;  /* CAP_SYS_ADMIN does as well */
    enum check_state without;
    const char *use; /* what does not work without it */
} rights[] = {
    {CAP_SYS_ADMIN, .before = 5008, .without = CHECK_FAIL,
     .use = "no BPF program can be loaded before Linux 5.8"},
    {CAP_BPF, .since = 5008, .not_beside_admin = true, .without = CHECK_FAIL,
     .use = "no BPF program can be loaded"},
    {CAP_PERFMON, .since = 5008, .not_beside_admin = true, .without = CHECK_FAIL,
     .use = "no BPF program can look into the kernel"},
    {CAP_SETUID, .of_root = true, .without = CHECK_FAIL,
     .use = "the agent cannot give up root, and refuses to run with it"},
    {CAP_SETGID, .of_root = true, .without = CHECK_FAIL,
     .use = "the agent cannot give up root's groups, and refuses to run with them"},
    {CAP_CHOWN, .of_root = true, .without = CHECK_WARN,
     .use = "a new store cannot be given to the agent's user"},
    {CAP_KILL, .of_root = true, .without = CHECK_WARN,
     .use = "an agent that hangs while it ends cannot be killed"},
    {CAP_SYS_PTRACE, .without = CHECK_WARN,
     .use = "records go without `exe`, the program of other users' processes"},
    {CAP_SYS_RESOURCE, .before = 5011, .without = CHECK_WARN,
     .use = "the limit of locked memory, which BPF counts against before Linux 5.11, cannot be "
            "raised"},
    {CAP_NET_ADMIN, .without = CHECK_OK, .use = "only `huatuo try` and `run --demo` use it"},
};

static void add_right_name(struct text *t, unsigned number)
{
    const char *name = capng_capability_to_name(number);

    text_adds(t, t->len ? " CAP_" : "CAP_");
    if (!name)
        text_addf(t, "%u", number);
    for (; name && *name; name++)
        text_addf(t, "%c", toupper((unsigned char)*name));
}

static void add_right_names(struct text *t, uint64_t set)
{
    for (unsigned number = 0; number < 64; number++)
        if (set >> number & 1)
            add_right_name(t, number);
}

static void check_privileges(const struct machine *m, struct checks *c)
{
    static const char *const name = "privileges";
    _cleanup_(text_done) struct text names = {};
    const uint64_t missing = m->all_rights & ~m->rights;
    const bool most = __builtin_popcountll(missing) < __builtin_popcountll(m->rights);

    if (!m->rights_known) {
        checks_add(c, name, CHECK_UNKNOWN, NULL,
                   "/proc/self/status cannot be read or makes no sense");
        return;
    }
    if (m->user_namespace) {
        checks_add(c, name, CHECK_FAIL,
                   "run huatuo in the initial user namespace: not in a rootless container",
                   "user %" PRIu32 " of a user namespace, whose capabilities do not count for BPF",
                   m->uid);
        return;
    }
    add_right_names(&names, most ? missing : m->rights);
    checks_add(c, name, machine_may_load(m) ? CHECK_OK : CHECK_FAIL,
               machine_may_load(m) ? NULL : "run huatuo as root", "user %" PRIu32 ", %s%s", m->uid,
               !missing    ? "all capabilities"
               : most      ? "all capabilities but "
               : m->rights ? "capabilities "
                           : "no capabilities",
               names.data ? names.data : "");
    for (size_t i = 0; i < ARRAY_SIZE(rights); i++) {
        const struct right *row = &rights[i];
        _cleanup_(text_done) struct text right = {};

        if (machine_has(m, row->number) || (row->of_root && m->uid != 0) ||
            (row->since && m->version && m->version < row->since) ||
            (row->before && (!m->version || m->version >= row->before)) ||
            (row->not_beside_admin && machine_has(m, CAP_SYS_ADMIN)))
            continue;
        add_right_name(&right, row->number);
        checks_add(c, name, row->without, NULL, "without %s: %s", right.data ? right.data : "",
                   row->use);
        if (row->without != CHECK_OK)
            checks_advise(c, "run huatuo as root, or with %s", right.data ? right.data : "");
    }
}

static void check_unprivileged_bpf(const struct machine *m, struct checks *c)
{
    static const char *const name = "unprivileged_bpf";
    long value;

    if (read_number(m, c, name, "/proc/sys/kernel/unprivileged_bpf_disabled", &value))
        checks_add(c, name, CHECK_OK, NULL,
                   "kernel.unprivileged_bpf_disabled is %ld: the agent works with any value",
                   value);
}

static void check_perf(const struct machine *m, struct checks *c)
{
    static const char *const name = "perf_events";
    const bool above = machine_has(m, CAP_PERFMON) || machine_has(m, CAP_SYS_ADMIN);
    long value;

    if (read_number(m, c, name, "/proc/sys/kernel/perf_event_paranoid", &value))
        checks_add(c, name, CHECK_OK, NULL, "kernel.perf_event_paranoid is %ld, which %s", value,
                   above ? "does not count with CAP_PERFMON or CAP_SYS_ADMIN"
                         : "counts only for want of CAP_PERFMON");
}

/* ------------------------------------------------------------------ what else it takes */

static void check_tracefs(const struct machine *m, struct checks *c)
{
    static const char *const mounts[] = {"/sys/kernel/tracing/events",
                                         "/sys/kernel/debug/tracing/events"};

    for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
        int r = tree_look(&m->tree, mounts[i]);

        if (r == 0) {
            checks_add(c, "tracefs", CHECK_OK, NULL, "%s", mounts[i]);
            return;
        }
        if (r != -ENOENT) {
            add_unreadable(c, "tracefs", mounts[i], r);
            return;
        }
    }
    checks_add(c, "tracefs", CHECK_WARN,
               "mount -t tracefs tracefs /sys/kernel/tracing (systemd does it at boot)",
               "not mounted: the ways whose names begin with tp/ or kprobe/ need it");
}

static void check_memlock(const struct machine *m, struct checks *c)
{
    static const char *const name = "memlock", *const path = "/proc/self/limits";
    _free_ char *text = NULL;
    int r = read_small(m, path, &text);
    const char *line = r < 0 ? NULL : line_of(text, "Max locked memory");
    char word[32] = "";
    const char *number = word;
    uint64_t bytes = 0;

    if (r < 0) {
        add_unreadable(c, name, path, r);
        return;
    }
    if (!line || sscanf(line, "%31s", word) != 1 ||
        (strcmp(word, "unlimited") != 0 && !take_number(&number, 10, &bytes))) {
        add_senseless(c, name, path, line ? line : text);
        return;
    }
    if (!m->version)
        checks_add(c, name, CHECK_UNKNOWN, NULL, "%s; whether it counts depends on the kernel",
                   word);
    else if (m->version >= 5011)
        /* d5299b67dd59, 5.11: memory is charged to the memory cgroup. */
        checks_add(c, name, CHECK_OK, NULL, "%s, which does not count for BPF since Linux 5.11",
                   word);
    else if (strcmp(word, "unlimited") != 0 && bytes < MEMLOCK_ENOUGH && !m->rights_known)
        checks_add(c, name, CHECK_UNKNOWN, NULL, "%s bytes; whether it can be raised is not known",
                   word);
    else if (strcmp(word, "unlimited") == 0 || bytes >= MEMLOCK_ENOUGH ||
             machine_has(m, CAP_SYS_RESOURCE))
        checks_add(c, name, CHECK_OK, NULL, "%s%s", word,
                   machine_has(m, CAP_SYS_RESOURCE) ? ", and CAP_SYS_RESOURCE to raise it" : "");
    else
        checks_add(
            c, name, CHECK_FAIL,
            "run huatuo with CAP_SYS_RESOURCE or `ulimit -l unlimited` (LimitMEMLOCK=infinity)",
            "%s bytes, too few for the maps, which count before Linux 5.11", word);
}

/** Whether one of the words that commas or blanks separate is `word`. */
static bool has_word(const char *list, const char *word)
{
    const size_t n = strlen(word), len = strlen(list);

    for (size_t i = 0; i + n <= len; i++)
        if (memcmp(list + i, word, n) == 0 && (i == 0 || strchr(", \n", list[i - 1])) &&
            (i + n == len || strchr(", \n", list[i + n])))
            return true;
    return false;
}

static void check_cgroups(const struct machine *m, struct checks *c)
{
    static const char *const name = "cgroups", *const path = "/proc/self/mounts";
    _free_ char *text = NULL;
    char v1_memory[256] = "", v2[256] = "";
    bool v1 = false, v2_memory = false;
    int r = read_small(m, path, &text);

    if (r < 0) {
        add_unreadable(c, name, path, r);
        return;
    }
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
        char where[256], type[32];
        int options = 0;

        if (sscanf(line, "%*s %255s %31s %n", where, type, &options) != 2 || !line[options])
            continue;
        if (strcmp(type, "cgroup2") == 0 && !*v2) {
            snprintf(v2, sizeof(v2), "%s", where);
        } else if (strcmp(type, "cgroup") == 0) {
            v1 = true;
            if (!*v1_memory && has_word(line + options, "memory"))
                snprintf(v1_memory, sizeof(v1_memory), "%s", where);
        }
    }
    if (*v2) {
        _free_ char *controllers = NULL;
        char file[300];

        snprintf(file, sizeof(file), "%s/cgroup.controllers", v2);
        v2_memory = read_small(m, file, &controllers) == 0 && has_word(controllers, "memory");
    }
    if (!v1 && !*v2)
        checks_add(c, name, CHECK_WARN,
                   "mount -t cgroup2 none /sys/fs/cgroup (systemd does it at boot); in a container "
                   "mount /sys/fs/cgroup",
                   "no cgroups are mounted: records tell no cgroup and no container");
    else if (!v2_memory && !*v1_memory)
        checks_add(c, name, CHECK_WARN, "boot with cgroup_enable=memory",
                   "%s; there is no memory controller", v1 ? *v2 ? "hybrid" : "v1" : "v2");
    else
        checks_add(c, name, CHECK_OK, NULL, "%s; the memory controller is in %s",
                   v1 ? *v2 ? "hybrid" : "v1" : "v2", v2_memory ? v2 : v1_memory);
}

static void check_clock(const struct machine *m, struct checks *c)
{
    static const char *const name = "clock";
    struct timespec now;
    struct timex state = {.modes = 0}; /* asks, sets nothing */
    char text[32] = "";
    struct tm utc;

    if (m->tree.foreign) {
        checks_add(c, name, CHECK_UNKNOWN, NULL, "no file tells about it");
        return;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &utc))
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &utc);
    if (now.tv_sec < TIME_PLAUSIBLE)
        checks_add(c, name, CHECK_WARN,
                   "set it, and keep it right with chrony or systemd-timesyncd",
                   "%s, which is long ago: records would bear that time", text);
    else if (adjtimex(&state) < 0)
        checks_add(c, name, CHECK_UNKNOWN, NULL, "%s; whether anything keeps it right: %s", text,
                   strerror(errno));
    else if (state.status & STA_UNSYNC)
        checks_add(
            c, name, CHECK_WARN,
            "run chrony or systemd-timesyncd, unless the host of this machine keeps it right",
            "%s; nothing keeps it right, as far as the kernel knows", text);
    else
        checks_add(c, name, CHECK_OK, NULL, "%s, synchronised", text);
}

/* ------------------------------------------------------------------ kernel configuration */

static const struct setting {
    const char *name;
    const char *way; /* counts only if some way's name begins like that; NULL: always */
    enum check_state without;
} settings[] = {
    {"CONFIG_BPF_SYSCALL", NULL, CHECK_FAIL},
    {"CONFIG_BPF_EVENTS", NULL, CHECK_FAIL},
    {"CONFIG_DEBUG_INFO_BTF", NULL, CHECK_FAIL},
    {"CONFIG_KALLSYMS", NULL, CHECK_WARN},
    {"CONFIG_EVENT_TRACING", "tp/", CHECK_WARN},
    {"CONFIG_KPROBES", "kprobe/", CHECK_WARN},
    {"CONFIG_KPROBES", "kretprobe/", CHECK_WARN},
    {"CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS", "fentry/", CHECK_WARN},
    {"CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS", "fexit/", CHECK_WARN},
    {"CONFIG_BPF_JIT", "fentry/", CHECK_WARN},
    {"CONFIG_CGROUPS", NULL, CHECK_WARN},
    {"CONFIG_MEMCG", NULL, CHECK_WARN},
};

static bool any_way_begins(const char *prefix)
{
    for (size_t i = 0; i < n_events; i++)
        for (const struct hook *hook = events[i]->hooks; hook->name; hook++)
            for (size_t w = 0; w < HOOK_WAYS_MAX && hook->ways[w].name; w++)
                if (strncmp(hook->ways[w].name, prefix, strlen(prefix)) == 0)
                    return true;
    return false;
}

/** Plain or compressed. NULL: not there, or none. */
static char *read_config(const struct machine *m, const char *path)
{
    int fd = tree_open_file(&m->tree, path);
    gzFile file = fd < 0 ? NULL : gzdopen(fd, "rb");
    _free_ char *text = malloc(CONFIG_MAX + 1);
    int n = -1;

    if (!file)
        fd_close(fd);
    if (file && text)
        n = gzread(file, text, CONFIG_MAX);
    if (file)
        gzclose(file);
    if (n <= 0)
        return NULL;
    text[n] = '\0';
    return strstr(text, "CONFIG_") ? TAKE_PTR(text) : NULL;
}

static void check_config(const struct machine *m, struct checks *c)
{
    static const char *const name = "kernel_config";
    static const char *const places[] = {"/proc/config.gz", "/boot/config-%s",
                                         "/lib/modules/%s/config"};
    _cleanup_(text_done) struct text missing = {};
    _free_ char *config = NULL;
    char path[256] = "";
    enum check_state state = CHECK_OK;

    for (size_t i = 0; !config && i < ARRAY_SIZE(places); i++) {
        const char *blank = strchr(places[i], '%');

        /* Who dumped the release may have put anything into it. */
        if (blank && (!m->version || strchr(m->release, '/')))
            continue;
        snprintf(path, sizeof(path), "%.*s%s%s",
                 (int)(blank ? blank - places[i] : (ptrdiff_t)strlen(places[i])), places[i],
                 blank ? m->release : "", blank ? blank + 2 : "");
        config = read_config(m, path);
    }
    if (!config) {
        checks_add(c, name, CHECK_UNKNOWN, NULL,
                   "neither /proc/config.gz nor /boot/config-%s is there",
                   *m->release ? m->release : "RELEASE");
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        char wanted[64];
        const char *value;

        if (settings[i].way && !any_way_begins(settings[i].way))
            continue;
        snprintf(wanted, sizeof(wanted), "%s=", settings[i].name);
        value = line_of(config, wanted);
        if ((value && *value == 'y') || (missing.data && has_word(missing.data, settings[i].name)))
            continue;
        text_addf(&missing, "%s%s", missing.len ? ", " : "", settings[i].name);
        state = MAX(state, settings[i].without);
    }
    if (missing.len)
        checks_add(c, name, state, "boot a kernel that has them", "%s is without %s", path,
                   missing.data);
    else
        checks_add(c, name, CHECK_OK, NULL, "%s has all that is used", path);
}

void machine_check(const struct machine *m, struct checks *ret)
{
    static void (*const checks[])(const struct machine *m, struct checks *c) = {
        check_kernel,           check_btf,     check_privileges,
        check_lockdown,         check_symbols, check_memlock,
        check_unprivileged_bpf, check_perf,    check_tracefs,
        check_cgroups,          check_clock,   check_config,
    };

    for (size_t i = 0; i < ARRAY_SIZE(checks); i++)
        checks[i](m, ret);
}
