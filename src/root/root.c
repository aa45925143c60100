// SPDX-License-Identifier: Apache-2.0

#include "root/root.h"

#include <linux/magic.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "core/channel.h"
#include "core/clock.h"
#include "core/log.h"
#include "root/kind.h"
#include "root/sockets.h"

#define KINDS_MAX    32
#define TICK_NS      (1 * NS_PER_SEC)
#define END_BOUND_NS (10 * NS_PER_SEC)

struct root {
    const struct config *config;
    const struct root_options *options;
    struct kind kinds[KINDS_MAX];
    struct sockets *sockets; /* NULL: this kernel does not allow it */
    int channel, signals;
    pid_t agent, demo;
    int agent_status; /* as of waitpid(); valid once agent is 0 */
    bool channel_open, ending, watching;
    uint64_t end_ns, kill_ns, tick_ns; /* CLOCK_MONOTONIC; 0: not set */
};

static const struct event_options *kind_options(const struct root *root, size_t i)
{
    return config_section(root->config, events[i]->name);
}

static int tell(struct root *root, const struct channel_message *m, const int *fds, size_t n_fds)
{
    int r = root->channel_open ? channel_send(root->channel, m, fds, n_fds) : -EPIPE;

    if (r < 0)
        root->channel_open = false;
    return r;
}

static int tell_hooks(struct root *root, size_t i)
{
    const struct kind *kind = &root->kinds[i];

    for (unsigned h = 0; h < kind->n_hooks; h++)
        for (unsigned way = 0; way < HOOK_WAYS_MAX && events[i]->hooks[h].ways[way].name; way++) {
            struct channel_message m = {
                .type = CHANNEL_HOOK,
                .event = (uint32_t)i,
                .hook = {.hook = h, .way = way, .state = kind->hooks[h].ways[way].state},
            };
            int r;

            snprintf(m.text, sizeof(m.text), "%s", kind->hooks[h].ways[way].reason);
            r = tell(root, &m, NULL, 0);
            if (r < 0)
                return r;
        }
    return 0;
}

static int tell_kind(struct root *root, size_t i)
{
    const struct kind *kind = &root->kinds[i];
    struct channel_message m = {
        .type = CHANNEL_KIND,
        .event = (uint32_t)i,
        .kind = {.n_cpus = kind->n_cpus},
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
    return tell(root, &m, fds, n_fds);
}

static int load_kinds(struct root *root)
{
    struct channel_message loaded = {.type = CHANNEL_LOADED};

    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++) {
        int r;

        if (!kind_options(root, i)->enabled)
            continue;
        kind_open(&root->kinds[i], events[i], kind_options(root, i));
        r = tell_hooks(root, i);
        if (r == 0)
            r = tell_kind(root, i);
        if (r < 0)
            return r;
    }
    if (sockets_new(&root->sockets) < 0)
        log_warning("this kernel does not tell who has which socket open; records of received "
                    "packets go without the owner");
    /* Loading needs megabytes of type information, running needs none of it. */
    malloc_trim(0);
    return tell(root, &loaded, NULL, 0);
}

struct sweep {
    struct root *root;
    uint32_t event;
};

static void tell_window(void *arg, const struct wire_key *key, const struct wire_window *window)
{
    struct sweep *sweep = arg;
    struct channel_message m = {
        .type = CHANNEL_WINDOW,
        .event = sweep->event,
        .window = {.key = *key, .window = *window},
    };

    tell(sweep->root, &m, NULL, 0);
}

static void sweep_kinds(struct root *root, bool all)
{
    uint64_t now = clock_now_ns(CLOCK_BOOTTIME);

    for (size_t i = 0; i < n_events && i < KINDS_MAX; i++) {
        struct sweep sweep = {.root = root, .event = (uint32_t)i};
        struct channel_message m = {.type = CHANNEL_MISSED, .event = (uint32_t)i};

        if (!root->kinds[i].object)
            continue;
        kind_sweep(&root->kinds[i], kind_options(root, i), now, all, tell_window, &sweep);
        m.missed.missed = kind_missed(&root->kinds[i]);
        if (m.missed.missed != root->kinds[i].missed) {
            root->kinds[i].missed = m.missed.missed;
            tell(root, &m, NULL, 0);
        }
    }
}

/** Detaches everything and lets the agent finish what it has. */
static void begin_end(struct root *root)
{
    struct channel_message end = {.type = CHANNEL_END};

    if (root->ending)
        return;
    root->ending = true;
    root->kill_ns = clock_now_ns(CLOCK_MONOTONIC) + END_BOUND_NS;
    for (size_t i = 0; i < KINDS_MAX; i++)
        kind_detach(&root->kinds[i]);
    sweep_kinds(root, true);
    tell(root, &end, NULL, 0);
}

static void start_demo(struct root *root)
{
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
    for (size_t i = 0; i < n_events; i++) {
        struct provoked provoked;
        int r = 0;

        if (events[i]->provoke && kind_options(root, i)->enabled)
            r = events[i]->provoke(&provoked);
        if (r < 0)
            log_warning("--demo: cannot provoke a %s event: %s", events[i]->name, strerror(-r));
    }
    _exit(0);
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
    tell(root, &m, NULL, 0);
}

static void answer_sockets(struct root *root)
{
    const struct channel_message m = {.type = CHANNEL_SOCKETS};
    _close_fd_ int fd = root->sockets ? sockets_open_iterator(root->sockets) : -1;

    tell(root, &m, &fd, fd >= 0);
}

static void on_message(struct root *root)
{
    struct channel_message m;
    int fds[CHANNEL_FDS_MAX];
    size_t n_fds;
    int r = channel_receive(root->channel, &m, fds, &n_fds);

    if (r <= 0) {
        root->channel_open = false;
        return;
    }
    switch (m.type) {
    case CHANNEL_WATCHING:
        root->watching = true;
        if (root->options->duration_ns)
            root->end_ns = clock_now_ns(CLOCK_MONOTONIC) + root->options->duration_ns;
        if (root->options->demo)
            start_demo(root);
        break;
    case CHANNEL_ASK_EXE:
        answer_exe(root, &m, n_fds ? fds[0] : -1);
        break;
    case CHANNEL_ASK_SOCKETS:
        answer_sockets(root);
        break;
    default:
        break;
    }
    for (size_t i = 0; i < n_fds; i++)
        close(fds[i]);
}

static void on_signals(struct root *root)
{
    struct signalfd_siginfo info;

    while (read(root->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        int status;
        pid_t pid;

        if (info.ssi_signo != SIGCHLD) {
            if (root->ending) /* asked twice: do not wait any longer */
                root->kill_ns = clock_now_ns(CLOCK_MONOTONIC);
            begin_end(root);
            continue;
        }
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
            if (pid == root->agent) {
                root->agent = 0;
                root->agent_status = status;
            } else if (pid == root->demo) {
                root->demo = 0;
            }
        }
    }
}

/** Milliseconds until the next thing to do. */
static int poll_timeout(const struct root *root, uint64_t now)
{
    uint64_t next = root->tick_ns;

    if (root->end_ns && !root->ending)
        next = MIN(next, root->end_ns);
    if (root->ending)
        next = MIN(next, root->kill_ns);
    return next <= now ? 0 : (int)((next - now) / NS_PER_MS + 1);
}

static void on_time(struct root *root)
{
    uint64_t now = clock_now_ns(CLOCK_MONOTONIC);

    if (root->end_ns && now >= root->end_ns)
        begin_end(root);
    if (root->ending && now >= root->kill_ns && root->agent) {
        log_error("ending: the agent has not written everything within %llu s (a hung disk?); "
                  "it is killed, and what it had not written is lost",
                  (unsigned long long)(END_BOUND_NS / NS_PER_SEC));
        kill(root->agent, SIGKILL);
        root->kill_ns = UINT64_MAX;
    }
    if (now >= root->tick_ns) {
        if (!root->ending)
            sweep_kinds(root, false);
        root->tick_ns = now + TICK_NS;
    }
}

static void run(struct root *root)
{
    root->tick_ns = clock_now_ns(CLOCK_MONOTONIC) + TICK_NS;
    while (root->agent) {
        struct pollfd polled[] = {
            {.fd = root->signals, .events = POLLIN},
            {.fd = root->channel_open ? root->channel : -1, .events = POLLIN},
        };

        if (poll(polled, ARRAY_SIZE(polled), poll_timeout(root, clock_now_ns(CLOCK_MONOTONIC))) <
                0 &&
            errno != EINTR) {
            log_error("waiting for signals failed: %s; ending", strerror(errno));
            begin_end(root);
        }
        if (polled[1].revents)
            on_message(root);
        if (polled[0].revents)
            on_signals(root);
        on_time(root);
    }
}

static int exit_status(const struct root *root)
{
    if (WIFEXITED(root->agent_status))
        return WEXITSTATUS(root->agent_status);
    if (!root->ending)
        log_error("the agent was killed by signal %d (%s); ending, nothing is watched any more",
                  WTERMSIG(root->agent_status), strsignal(WTERMSIG(root->agent_status)));
    return EXIT_FAILURE;
}

static int start_agent(struct root *root)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    fflush(NULL);
    root->agent = fork();
    if (root->agent < 0) {
        int r = -errno;

        close(pair[0]);
        close(pair[1]);
        return r;
    }
    if (root->agent == 0) {
        close(pair[0]);
        close(root->signals);
        exit(root->options->agent(pair[1], root->options->arg));
    }
    close(pair[1]);
    root->channel = pair[0];
    root->channel_open = true;
    return 0;
}

int root_run(const struct config *config, const struct root_options *options)
{
    struct root root = {.config = config, .options = options, .channel = -1};
    sigset_t signals;
    int r;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    root.signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    r = root.signals < 0 ? -errno : start_agent(&root);
    if (r < 0) {
        log_error("starting the agent failed: %s", strerror(-r));
        fd_close(root.signals);
        return EXIT_FAILURE;
    }

    load_kinds(&root);
    run(&root);

    for (size_t i = 0; i < KINDS_MAX; i++)
        kind_close(&root.kinds[i]);
    sockets_free(root.sockets);
    fd_close(root.channel);
    fd_close(root.signals);
    return exit_status(&root);
}
