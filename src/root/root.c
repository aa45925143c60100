// SPDX-License-Identifier: Apache-2.0

#include "root/root.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>

#include "core/channel.h"
#include "core/clock.h"
#include "core/log.h"
#include "root/kind.h"
#include "root/provoke.h"
#include "root/sockets.h"

#define KINDS_MAX          32
#define TICK_NS            (1 * NS_PER_SEC)
#define POLL_PART          50 /* of the time, as there may be any number of things to look at */
#define END_BOUND_NS       (10 * NS_PER_SEC)
#define PREPARE_BOUND_NS   (30 * NS_PER_SEC)
#define PROVOKE_BOUND_NS   (10 * NS_PER_SEC) /* of one kind */
#define SYSRQ_GAP_NS       (60 * NS_PER_SEC)
#define DESCRIPTORS_WANTED 16384

/** An agent proper and the channel to it. */
struct partner {
    pid_t pid; /* 0: there is none */
    int channel;
    bool open;
};

/** Reading the configuration again: another agent is prepared beside the one that runs. */
struct reload {
    struct config *config; /* owned; NULL: nothing of this is going on */
    struct partner next;
    struct kind kinds[KINDS_MAX]; /* those that have to be loaded anew */
    bool anew[KINDS_MAX];         /* take kinds[], which may hold nothing, for the one in use */
    bool handing_over;            /* the one that runs is to end, and ... */
    bool told;                    /* ... knows */
    char why_elsewhere[CHANNEL_TEXT_MAX];
    bool again;                 /* it was asked for once more meanwhile */
    int state[CHANNEL_FDS_MAX]; /* what the one before has left; owned */
    size_t n_state;
    uint64_t until_ns; /* CLOCK_MONOTONIC */
};

struct root {
    struct config *config; /* owned */
    const struct root_options *options;
    struct kind kinds[KINDS_MAX];
    struct {
        uint64_t next_ns; /* CLOCK_MONOTONIC */
        bool failed;      /* the last time */
    } polls[KINDS_MAX];   /* of kinds with a hook that is polled */
    uint32_t n_instances;
    struct sockets *sockets; /* NULL: this kernel does not allow it */
    int sysrq;         /* eventfd: an agent that may wants it; -1: none has ever been allowed */
    uint64_t sysrq_ns; /* when it was done last; CLOCK_MONOTONIC, 0: never */
    int signals;
    struct partner agent;
    pid_t demo;
    int agent_status; /* as of waitpid(); valid once agent.pid is 0 */
    bool ending, watching;
    bool end_told; /* the agent knows that it is ending */
    bool unswept;  /* there is more to tell than the agent has room for */
    char end_why[128];
    struct reload reload;
    uint64_t end_ns, kill_ns, tick_ns, alive_ns; /* CLOCK_MONOTONIC; 0: not set */
    uint64_t watchdog_ns; /* how often the service manager wants to hear of us */
};

static const struct event_options *kind_options(const struct config *config, size_t i)
{
    return config_section(config, events[i]->name);
}

static int tell(struct partner *partner, const struct channel_message *m, const int *fds,
                size_t n_fds)
{
    int r = partner->open ? channel_send(partner->channel, m, fds, n_fds) : -EPIPE;

    if (r < 0 && r != -EAGAIN)
        partner->open = false;
    return r;
}

/** Whether a message fits: the agent reads what it was sent. */
static bool is_writable(const struct partner *partner)
{
    struct pollfd polled = {.fd = partner->channel, .events = POLLOUT};

    return poll(&polled, 1, 0) > 0;
}

static void begin_reload(struct root *root);

static int tell_hooks(struct partner *partner, size_t i, const struct kind *kind)
{

    for (unsigned h = 0; h < kind->n_hooks; h++)
        for (unsigned way = 0; way < HOOK_WAYS_MAX && events[i]->hooks[h].ways[way].name; way++) {
            struct channel_message m = {
                .type = CHANNEL_HOOK,
                .event = (uint32_t)i,
                .hook = {.hook = h, .way = way, .state = kind->hooks[h].ways[way].state},
            };
            int r;

            snprintf(m.text, sizeof(m.text), "%s", kind->hooks[h].ways[way].reason);
            r = tell(partner, &m, NULL, 0);
            if (r < 0)
                return r;
        }
    return 0;
}

static int tell_kind(struct partner *partner, size_t i, const struct kind *kind, bool fresh)
{
    struct channel_message m = {
        .type = CHANNEL_KIND,
        .event = (uint32_t)i,
        .kind = {.n_cpus = kind->n_cpus, .instance = kind->instance, .fresh = fresh},
    };
    int fds[CHANNEL_FDS_MAX];
    size_t n_fds = 0;

    snprintf(m.text, sizeof(m.text), "%s", kind->reason);
    if (kind->object) {
        static const char *const maps[] = {"ring", "counters", ".data.common", ".data.settings"};

        for (size_t map = 0; map < ARRAY_SIZE(maps); map++) {
            int fd = kind_map_fd(kind, maps[map]);

            if (fd >= 0)
                fds[n_fds++] = fd;
        }
    }
    return tell(partner, &m, fds, n_fds);
}

/** What runs on demand: where it leaves what it finds, and by what it is asked to. */
static int tell_on_demand(struct partner *partner, size_t i, const struct kind *kind)
{
    struct channel_message m = {.type = CHANNEL_SAMPLES, .event = (uint32_t)i};
    int samples = kind->object && events[i]->sample_size ? kind_map_fd(kind, "samples") : -1;
    int r = samples >= 0 ? tell(partner, &m, &samples, 1) : 0;

    m.type = CHANNEL_PERF;
    for (unsigned h = 0; h < kind->n_hooks; h++)
        for (unsigned cpu = 0; r == 0 && kind->perf[h] && cpu < kind->n_cpus; cpu++) {
            if (kind->perf[h][cpu] < 0)
                continue;
            m.perf.hook = h;
            m.perf.cpu = cpu;
            r = tell(partner, &m, &kind->perf[h][cpu], 1);
        }
    return r;
}

static int tell_all_of(struct partner *partner, size_t i, const struct kind *kind, bool fresh)
{
    int r = tell_hooks(partner, i, kind);

    if (r == 0)
        r = tell_kind(partner, i, kind, fresh);
    return r < 0 ? r : tell_on_demand(partner, i, kind);
}

static bool may_sysrq(const struct root *root, const struct config *config)
{
    return root->options->may_sysrq && root->options->may_sysrq(config);
}

/** An agent that is not allowed has nothing to ask with. */
static int tell_sysrq(struct root *root, struct partner *partner, const struct config *config)
{
    const struct channel_message m = {.type = CHANNEL_SYSRQ};

    if (!may_sysrq(root, config))
        return 0;
    if (root->sysrq < 0)
        root->sysrq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return root->sysrq < 0 ? 0 : tell(partner, &m, &root->sysrq, 1);
}

/** In a process of its own: the kernel waits there for CPUs that may not answer. */
static void on_sysrq(struct root *root)
{
    uint64_t count, now = clock_now_ns(CLOCK_MONOTONIC);
    pid_t pid;

    if (read(root->sysrq, &count, sizeof(count)) < 0 || !may_sysrq(root, root->config) ||
        (root->sysrq_ns && now - root->sysrq_ns < SYSRQ_GAP_NS))
        return;
    root->sysrq_ns = now;
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

        if (fd < 0 || write(fd, "l", 1) < 0)
            log_warning("writing to /proc/sysrq-trigger failed: %s; records are as good otherwise",
                        strerror(errno));
        _exit(0);
    }
    if (pid > 0)
        log_info("the kernel writes the stacks of all CPUs into its log (sysrq l), as agent.sysrq "
                 "allows: a record has to go without some");
}

static int load_kind(struct root *root, size_t i, const struct config *config,
                     const struct kind *before, struct kind *ret)
{
    int r = kind_open(ret, events[i], kind_options(config, i), before);

    ret->instance = ++root->n_instances;
    return r;
}

static int load_kinds(struct root *root)
{
    struct channel_message loaded = {.type = CHANNEL_LOADED};

    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++) {
        int r;

        if (!kind_options(root->config, i)->enabled)
            continue;
        load_kind(root, i, root->config, NULL, &root->kinds[i]);
        r = tell_all_of(&root->agent, i, &root->kinds[i], true);
        if (r < 0)
            return r;
    }
    if (sockets_new(&root->sockets) < 0)
        log_warning("this kernel does not tell who has which socket open; records of received "
                    "packets go without the owner");
    /* Loading needs megabytes of type information, running needs none of it. */
    malloc_trim(0);
    if (tell_sysrq(root, &root->agent, root->config) == -EAGAIN)
        return -EAGAIN;
    return tell(&root->agent, &loaded, NULL, 0);
}

/** The child runs options->agent. */
static int start_agent(struct root *root, struct partner *ret, const struct config *config,
                       const struct config *before)
{
    const struct timeval patience = {.tv_sec = END_BOUND_NS / NS_PER_SEC};
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    fflush(NULL);
    ret->pid = fork();
    if (ret->pid < 0) {
        int r = -errno;

        ret->pid = 0;
        close(pair[0]);
        close(pair[1]);
        return r;
    }
    if (ret->pid == 0) {
        /* Of the hooks, and of an agent before this one, nothing but the channel's end is its. */
        close_range(STDERR_FILENO + 1, (unsigned)pair[1] - 1, 0);
        close_range((unsigned)pair[1] + 1, ~0U, 0);
        exit(root->options->agent(pair[1], config, before, root->options->agent_arg));
    }
    close(pair[1]);
    setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    ret->channel = pair[0];
    ret->open = true;
    return 0;
}

static void partner_close(struct partner *partner)
{
    partner->channel = fd_close(partner->channel);
    partner->open = false;
}

struct sweep {
    struct root *root;
    uint32_t event;
};

static int tell_window(void *arg, const struct wire_key *key, const struct wire_window *window)
{
    struct sweep *sweep = arg;
    struct channel_message m = {
        .type = CHANNEL_WINDOW,
        .event = sweep->event,
        .window = {.key = *key, .window = *window},
    };

    return tell(&sweep->root->agent, &m, NULL, 0);
}

/** -EAGAIN: the agent does not read, and the rest has to wait. */
static int sweep_kind(struct root *root, size_t i, bool all)
{
    struct sweep sweep = {.root = root, .event = (uint32_t)i};
    struct channel_message m = {.type = CHANNEL_MISSED, .event = (uint32_t)i};
    struct kind *kind = &root->kinds[i];
    int r;

    if (!kind->object)
        return 0;
    if (!all)
        kind_tend(kind, false);
    r = kind_sweep(kind, kind_options(root->config, i), clock_now_ns(CLOCK_BOOTTIME), all,
                   tell_window, &sweep);
    m.missed.missed = kind_missed(kind);
    if (r == 0 && m.missed.missed != kind->missed) {
        r = tell(&root->agent, &m, NULL, 0);
        if (r == 0)
            kind->missed = m.missed.missed;
    }
    return r;
}

static int sweep_kinds(struct root *root, bool all)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < n_events && i < KINDS_MAX; i++)
        r = sweep_kind(root, i, all);
    root->unswept = r == -EAGAIN;
    return r;
}

/** Lets the agent finish what it has; again, if it has no room for all of this now. */
static void tell_end(struct root *root)
{
    struct channel_message end = {.type = CHANNEL_END};
    int r;

    snprintf(end.text, sizeof(end.text), "%s", root->end_why);
    r = sweep_kinds(root, true);
    if (r == 0)
        r = tell(&root->agent, &end, NULL, 0);
    root->end_told = r != -EAGAIN;
}

static void detach(struct root *root)
{
    for (size_t i = 0; i < KINDS_MAX; i++) {
        kind_detach(&root->kinds[i]);
    }
    kind_let_pass();
    for (size_t i = 0; i < KINDS_MAX; i++)
        kind_tend(&root->kinds[i], true);
}

/** Those that have something to read, or whose time has come. */
static void run_sources(struct root *root, const struct pollfd polled[KINDS_MAX])
{
    uint64_t now = clock_now_ns(CLOCK_MONOTONIC);

    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++)
        if (polled[i].revents || now >= kind_source_due(&root->kinds[i]))
            kind_source_run(&root->kinds[i], kind_options(root->config, i), polled[i].revents);
}

/* ------------------------------------------------------------------ reading the configuration
 * again */

static void drop_state(struct reload *reload)
{
    while (reload->n_state)
        close(reload->state[--reload->n_state]);
}

/** Nothing of the reload is left; what was asked for meanwhile begins. */
static void end_reload(struct root *root)
{
    struct reload *reload = &root->reload;
    bool again = reload->again && !root->ending;

    partner_close(&reload->next);
    for (size_t i = 0; i < KINDS_MAX; i++) {
        if (reload->kinds[i].event)
            kind_close(&reload->kinds[i]);
        reload->kinds[i] = (struct kind){};
    }
    drop_state(reload);
    reload->config = config_free(reload->config);
    reload->again = reload->handing_over = false;
    if (!root->ending)
        sd_notify(0, "READY=1");
    if (again)
        begin_reload(root);
}

/** The agent that runs goes on as it is. */
static void cancel_reload(struct root *root)
{
    struct partner *next = &root->reload.next;

    if (next->pid) {
        kill(next->pid, SIGKILL); /* it has done nothing yet that would be lost */
        waitpid(next->pid, NULL, 0);
        next->pid = 0;
    }
    root->reload.again = false;
    if (root->reload.config)
        end_reload(root);
}

/**
 * Loads what has to be loaded anew, beside what is in use. A kind that is watched and would not be
 * any more is a reason to leave everything as it is.
 */
static int reload_kinds(struct root *root)
{
    struct reload *reload = &root->reload;

    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++) {
        const struct event_options *now = kind_options(reload->config, i);
        int r;

        reload->anew[i] = kind_needs_reopening(kind_options(root->config, i), now);
        if (!reload->anew[i] || !now->enabled)
            continue;
        r = load_kind(root, i, reload->config, &root->kinds[i], &reload->kinds[i]);
        if (r < 0 && root->kinds[i].object) {
            log_error("%s could not be watched with the new configuration: %s", events[i]->name,
                      reload->kinds[i].reason);
            return r;
        }
    }
    return 0;
}

static int prepare_next(struct root *root)
{
    struct channel_message loaded = {.type = CHANNEL_LOADED};
    struct reload *reload = &root->reload;
    int r = reload_kinds(root);

    if (r == 0)
        r = start_agent(root, &reload->next, reload->config, root->config);
    for (size_t i = 0; r == 0 && i < n_events && i < KINDS_MAX; i++) {
        const struct kind *kind = reload->anew[i] ? &reload->kinds[i] : &root->kinds[i];

        if (!kind_options(reload->config, i)->enabled)
            continue;
        r = tell_all_of(&reload->next, i, kind, reload->anew[i]);
    }
    malloc_trim(0);
    if (r == 0)
        r = tell_sysrq(root, &reload->next, reload->config);
    return r < 0 ? r : tell(&reload->next, &loaded, NULL, 0);
}

/** SIGHUP. */
static void begin_reload(struct root *root)
{
    struct reload *reload = &root->reload;
    char state[64];
    int r;

    if (root->ending)
        return;
    if (reload->config || !root->watching) {
        reload->again = true;
        return;
    }
    reload->again = false;
    snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%llu",
             (unsigned long long)(clock_now_ns(CLOCK_MONOTONIC) / NS_PER_US));
    sd_notify(0, state);
    if (!root->options->reload ||
        root->options->reload(root->options->reload_arg, &reload->config) < 0) {
        log_error("the configuration was not read again, for the reason above; the one in effect "
                  "stays");
        sd_notify(0, "READY=1");
        return;
    }
    reload->until_ns = clock_now_ns(CLOCK_MONOTONIC) + PREPARE_BOUND_NS;
    r = prepare_next(root);
    if (r < 0) {
        log_error("preparing an agent with the new configuration failed: %s; the one that runs "
                  "goes on with the configuration it has",
                  strerror(-r));
        cancel_reload(root);
    }
}

/** As tell_end(), but another goes on: only the windows of what is exchanged are closed. */
static void tell_hand_over(struct root *root)
{
    struct channel_message hand_over = {.type = CHANNEL_HAND_OVER};
    struct reload *reload = &root->reload;
    int r = 0;

    snprintf(hand_over.text, sizeof(hand_over.text), "%s", reload->why_elsewhere);
    for (size_t i = 0; r == 0 && i < n_events && i < KINDS_MAX; i++)
        if (reload->anew[i])
            r = sweep_kind(root, i, true);
    if (r == 0)
        r = tell(&root->agent, &hand_over, NULL, 0);
    reload->told = r != -EAGAIN;
}

/**
 * The next agent is ready. Kinds that were loaded anew are exchanged; then the one in use is told
 * to write what it has and to end. What the others have in their rings meanwhile is read by the
 * next.
 */
static void switch_over(struct root *root, const char *why_elsewhere)
{
    struct reload *reload = &root->reload;

    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++)
        if (reload->anew[i])
            kind_exchange(&root->kinds[i], &reload->kinds[i]);
    snprintf(reload->why_elsewhere, sizeof(reload->why_elsewhere), "%s", why_elsewhere);
    reload->handing_over = true;
    reload->until_ns = clock_now_ns(CLOCK_MONOTONIC) + END_BOUND_NS;
    tell_hand_over(root);
}

static void begin_end(struct root *root, const char *why)
{
    if (root->ending)
        return;
    root->ending = true;
    snprintf(root->end_why, sizeof(root->end_why), "%s", why);
    sd_notify(0, "STOPPING=1");
    root->kill_ns = clock_now_ns(CLOCK_MONOTONIC) + END_BOUND_NS;
    if (root->reload.handing_over)
        return; /* the next one is told as soon as it is in charge */
    cancel_reload(root);
    detach(root);
    tell_end(root);
}

/** Each kind by itself, as some take long; what it has started ends with it. */
static _Noreturn void demo(const struct event *event)
{
    struct provocation provocation;
    struct provoked provoked;
    int r;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    r = provoke_begin(event, PROVOKE_BOUND_NS, &provoked, &provocation);
    if (r == 0) {
        const struct timespec last = {.tv_sec = (time_t)(provoked.within_ns / NS_PER_SEC)};

        nanosleep(&last, NULL);
    }
    provoke_end(&provocation);
    if (r < 0)
        log_warning("--demo: cannot provoke a %s event: %s", event->name, strerror(-r));
    _exit(0);
}

static void start_demo(struct root *root)
{
    pid_t parent = getpid(), pid;
    sigset_t signals;
    int signal;

    fflush(NULL);
    root->demo = fork();
    if (root->demo < 0) {
        log_warning(
            "--demo: cannot start a process that provokes an event: %s; nothing is provoked",
            strerror(errno));
        root->demo = 0;
    }
    if (root->demo != 0)
        return;
    /* A hook stays attached as long as anybody holds its descriptor. */
    close_range(STDERR_FILENO + 1, ~0U, 0);
    /* Told to end it takes along and away what it has made; all of these are blocked. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGCHLD);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (size_t i = 0; i < n_events && getppid() == parent; i++)
        if (events[i]->provoke && kind_options(root->config, i)->enabled && fork() == 0)
            demo(events[i]);
    do {
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
    } while (pid == 0 && sigwait(&signals, &signal) == 0 && signal == SIGCHLD);
    provoke_end_all();
    _exit(0);
}

static void end_demo(struct root *root)
{
    if (root->demo <= 0)
        return;
    kill(root->demo, SIGTERM);
    waitpid(root->demo, NULL, 0);
    root->demo = 0;
}

/** `process` is a /proc/PID that the agent has opened: only in procfs is `exe` what it seems. */
static void answer_exe(struct root *root, const struct channel_message *question, int process)
{
    struct channel_message m = {.type = CHANNEL_EXE, .exe = question->exe};
    struct statfs fs;
    ssize_t len = -1;

    if (fstatfs(process, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC)
        len = readlinkat(process, "exe", m.text, sizeof(m.text) - 1);
    m.text[MAX(len, (ssize_t)0)] = '\0';
    tell(&root->agent, &m, NULL, 0);
}

/** Whoever asks gets an answer, if only that there is none. */
static void answer_iterator(struct root *root, uint32_t event)
{
    const struct channel_message m = {.type = CHANNEL_ITERATOR, .event = event};
    _close_fd_ int fd = -1;

    if (event == CHANNEL_SOCKETS)
        fd = root->sockets ? sockets_open_iterator(root->sockets) : -1;
    else if (event < n_events && event < KINDS_MAX)
        fd = kind_open_iterator(&root->kinds[event]);
    tell(&root->agent, &m, &fd, fd >= 0);
}

static void on_watching(struct root *root)
{
    bool first = !root->watching;

    root->watching = true;
    root->alive_ns = clock_now_ns(CLOCK_MONOTONIC);
    /* From here on nobody waits for the other side. */
    fcntl(root->agent.channel, F_SETFL, fcntl(root->agent.channel, F_GETFL) | O_NONBLOCK);
    sd_notify(0, "READY=1");
    if (!first) {
        log_info("the configuration was read again and is in effect");
        return;
    }
    if (root->options->duration_ns)
        root->end_ns = clock_now_ns(CLOCK_MONOTONIC) + root->options->duration_ns;
    if (root->options->demo)
        start_demo(root);
    if (root->reload.again)
        begin_reload(root);
}

static void on_message(struct root *root, struct partner *partner)
{
    struct channel_message m;
    int fds[CHANNEL_FDS_MAX];
    size_t n_fds;
    int r = channel_receive(partner->channel, &m, fds, &n_fds);

    if (r <= 0) {
        partner->open = false;
        return;
    }
    switch (m.type) {
    case CHANNEL_WATCHING:
        on_watching(root);
        break;
    case CHANNEL_ALIVE:
        root->alive_ns = clock_now_ns(CLOCK_MONOTONIC);
        break;
    case CHANNEL_PREPARED:
        if (partner == &root->reload.next && !root->reload.handing_over)
            switch_over(root, m.text);
        break;
    case CHANNEL_STATE:
        drop_state(&root->reload);
        while (root->reload.handing_over && root->reload.n_state < n_fds) {
            root->reload.state[root->reload.n_state] = fds[root->reload.n_state];
            root->reload.n_state++;
        }
        if (root->reload.n_state)
            n_fds = 0; /* taken over */
        break;
    case CHANNEL_ASK_EXE:
        answer_exe(root, &m, n_fds ? fds[0] : -1);
        break;
    case CHANNEL_ASK_ITERATOR:
        answer_iterator(root, m.event);
        break;
    default:
        break;
    }
    for (size_t i = 0; i < n_fds; i++)
        close(fds[i]);
}

/** What a process that has ended said last. */
static void read_rest(struct root *root, struct partner *partner)
{
    struct pollfd polled = {.fd = partner->channel, .events = POLLIN};

    while (partner->open && poll(&polled, 1, 0) > 0)
        on_message(root, partner);
}

/** The one in use has ended after it was told to hand over: the next one goes on. */
static void promote(struct root *root)
{
    struct reload *reload = &root->reload;
    struct channel_message go = {.type = CHANNEL_GO};

    partner_close(&root->agent);
    root->agent = reload->next;
    reload->next = (struct partner){.channel = -1};
    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++) {
        if (!reload->anew[i])
            continue;
        kind_close(&root->kinds[i]);
        root->kinds[i] = reload->kinds[i];
        reload->kinds[i] = (struct kind){};
    }
    config_free(root->config);
    root->config = TAKE_PTR(reload->config);
    tell(&root->agent, &go, reload->state, reload->n_state);
    drop_state(reload);
    reload->handing_over = false;
    if (root->ending) {
        detach(root);
        tell_end(root);
    } else if (reload->again)
        begin_reload(root);
}

static void on_child(struct root *root, pid_t pid, int status)
{
    struct reload *reload = &root->reload;

    if (pid == root->demo) {
        root->demo = 0;
    } else if (pid == reload->next.pid) {
        reload->next.pid = 0;
        if (reload->handing_over)
            return; /* the one in use is ending already; nobody goes on after it */
        log_error("the agent with the new configuration could not start; the one that runs goes on "
                  "with the configuration it has");
        end_reload(root);
    } else if (pid == root->agent.pid) {
        root->agent.pid = 0;
        root->agent_status = status;
        read_rest(root, &root->agent);
        if (reload->handing_over && WIFEXITED(status) && reload->next.pid)
            promote(root);
    }
}

static const char *signal_text(const struct signalfd_siginfo *info, char *ret, size_t size)
{
    snprintf(ret, size, "the agent was stopped (%s)", strsignal((int)info->ssi_signo));
    return ret;
}

static void on_signals(struct root *root)
{
    struct signalfd_siginfo info;
    char text[128];

    while (read(root->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        int status;
        pid_t pid;

        if (info.ssi_signo == SIGHUP) {
            begin_reload(root);
        } else if (info.ssi_signo != SIGCHLD) {
            if (root->ending) /* asked twice: do not wait any longer */
                root->kill_ns = clock_now_ns(CLOCK_MONOTONIC);
            begin_end(root, signal_text(&info, text, sizeof(text)));
        }
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            on_child(root, pid, status);
    }
}

static bool is_polled(const struct root *root, size_t i)
{
    return root->watching && !root->ending && root->kinds[i].polled;
}

/** Milliseconds until the next thing to do. */
static int poll_timeout(const struct root *root, uint64_t now)
{
    uint64_t next = root->tick_ns;

    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++)
        if (is_polled(root, i))
            next = MIN(next, root->polls[i].next_ns);
    if (root->end_ns && !root->ending)
        next = MIN(next, root->end_ns);
    if (root->ending)
        next = MIN(next, root->kill_ns);
    if (root->reload.config)
        next = MIN(next, root->reload.until_ns);
    for (size_t i = 0; i < KINDS_MAX; i++)
        next = MIN(next, kind_source_due(&root->kinds[i]));
    return next <= now ? 0 : (int)((next - now) / NS_PER_MS + 1);
}

static void kill_agent(struct root *root, const char *doing)
{
    log_error("%s: the agent has not written everything within %llu s (a hung disk?); "
              "it is killed, and what it had not written is lost",
              doing, (unsigned long long)(END_BOUND_NS / NS_PER_SEC));
    kill(root->agent.pid, SIGKILL);
}

/** The preparing, or then the handing over, takes too long. */
static void reload_too_long(struct root *root)
{
    root->reload.until_ns = UINT64_MAX;
    if (root->reload.handing_over) {
        kill_agent(root, "reading the configuration again");
        return;
    }
    log_error("reading the configuration again: the agent with the new one was not ready within "
              "%llu s; the one that runs goes on with the configuration it has",
              (unsigned long long)(PREPARE_BOUND_NS / NS_PER_SEC));
    cancel_reload(root);
}

static void poll_kind(struct root *root, size_t i)
{
    const struct event *event = events[i];
    uint64_t spent_ns = clock_now_ns(CLOCK_THREAD_CPUTIME_ID);
    int r = kind_poll(&root->kinds[i]);

    spent_ns = clock_now_ns(CLOCK_THREAD_CPUTIME_ID) - spent_ns;
    if (r < 0 && !root->polls[i].failed)
        log_warning("%s: looking at everything there is failed: %s; it is tried again and again, "
                    "and what happens meanwhile is not seen",
                    event->name, strerror(-r));
    root->polls[i].failed = r < 0;
    root->polls[i].next_ns =
        clock_now_ns(CLOCK_MONOTONIC) +
        MAX(event->poll_ns(kind_options(root->config, i)), POLL_PART * spent_ns);
}

static void on_tick(struct root *root, uint64_t now)
{
    root->tick_ns = now + TICK_NS;
    if (!root->ending && !root->reload.handing_over)
        sweep_kinds(root, false);
    /* The service manager is to start us again if the loop of the agent hangs, not just ours. */
    if (root->watchdog_ns && root->watching && now - root->alive_ns < root->watchdog_ns / 2)
        sd_notify(0, "WATCHDOG=1");
}

static void on_time(struct root *root)
{
    uint64_t now = clock_now_ns(CLOCK_MONOTONIC);

    if (root->end_ns && now >= root->end_ns)
        begin_end(root, "the time that was set is over");
    if (root->ending && now >= root->kill_ns && root->agent.pid) {
        kill_agent(root, "ending");
        root->kill_ns = UINT64_MAX;
    }
    if (root->reload.config && now >= root->reload.until_ns)
        reload_too_long(root);
    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++)
        if (is_polled(root, i) && now >= root->polls[i].next_ns)
            poll_kind(root, i);
    if (now >= root->tick_ns)
        on_tick(root, now);
}

static void run(struct root *root)
{
    root->tick_ns = clock_now_ns(CLOCK_MONOTONIC) + TICK_NS;
    while (root->agent.pid) {
        struct partner *agent = &root->agent, *next = &root->reload.next;
        /* It is not listened to while there is no room for an answer. */
        bool heard = agent->open && is_writable(agent);
        struct pollfd polled[4 + KINDS_MAX] = {
            {.fd = root->signals, .events = POLLIN},
            {.fd = agent->open ? agent->channel : -1, .events = heard ? POLLIN : POLLOUT},
            {.fd = next->open ? next->channel : -1, .events = POLLIN},
            {.fd = root->sysrq, .events = POLLIN},
        };

        for (size_t i = 0; i < KINDS_MAX; i++) {
            polled[4 + i].fd = kind_source_fd(&root->kinds[i]);
            polled[4 + i].events = POLLIN;
        }
        if (poll(polled, ARRAY_SIZE(polled), poll_timeout(root, clock_now_ns(CLOCK_MONOTONIC))) <
                0 &&
            errno != EINTR) {
            log_error("waiting for signals failed: %s; ending", strerror(errno));
            begin_end(root, "the root part could not go on");
        }
        run_sources(root, &polled[4]);
        if (polled[1].revents & ~POLLOUT)
            on_message(root, agent);
        if (root->ending && !root->end_told && !root->reload.handing_over)
            tell_end(root);
        if (root->unswept && heard && !root->ending && !root->reload.handing_over)
            sweep_kinds(root, false);
        if (root->reload.handing_over && !root->reload.told)
            tell_hand_over(root);
        if (polled[2].revents)
            on_message(root, next);
        if (polled[3].revents)
            on_sysrq(root);
        if (polled[0].revents)
            on_signals(root);
        on_time(root);
    }
}

static int exit_status(const struct root *root)
{
    if (WIFEXITED(root->agent_status) && !root->reload.handing_over)
        return WEXITSTATUS(root->agent_status);
    if (root->reload.handing_over)
        log_error("the agent has ended and the one with the new configuration does not go on; "
                  "ending, nothing is watched any more");
    else if (!root->ending)
        log_error("the agent was killed by signal %d (%s); ending, nothing is watched any more",
                  WTERMSIG(root->agent_status), strsignal(WTERMSIG(root->agent_status)));
    return EXIT_FAILURE;
}

/** One for each CPU and each hook that runs on demand, here and in the agent. */
static void allow_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= DESCRIPTORS_WANTED)
        return;
    limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)DESCRIPTORS_WANTED);
    setrlimit(RLIMIT_NOFILE, &limit); /* if not, some CPUs go without */
}

int root_run(struct config *config, const struct root_options *options)
{
    struct root *root = calloc(1, sizeof(*root));
    sigset_t signals;
    int r;

    if (!root) {
        log_error("starting the agent failed: out of memory");
        config_free(config);
        return EXIT_FAILURE;
    }
    allow_descriptors();
    root->config = config;
    root->options = options;
    root->sysrq = -1;
    root->agent.channel = root->reload.next.channel = -1;
    if (sd_watchdog_enabled(0, &root->watchdog_ns) <= 0)
        root->watchdog_ns = 0;
    root->watchdog_ns *= NS_PER_US;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    root->signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    r = root->signals < 0 ? -errno : start_agent(root, &root->agent, root->config, NULL);
    if (r < 0) {
        log_error("starting the agent failed: %s", strerror(-r));
    } else {
        if (load_kinds(root) == -EAGAIN)
            begin_end(root, "it did not listen");
        run(root);
        r = exit_status(root);
        cancel_reload(root);
        end_demo(root);
    }

    for (size_t i = 0; i < KINDS_MAX; i++)
        kind_close(&root->kinds[i]);
    sockets_free(root->sockets);
    partner_close(&root->agent);
    fd_close(root->signals);
    fd_close(root->sysrq);
    config_free(root->config);
    free(root);
    return r < 0 ? EXIT_FAILURE : r;
}
