// SPDX-License-Identifier: Apache-2.0

#include "enrich/names.h"

#include <ares.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#include "core/clock.h"
#include "enrich/lookups.h"

#define RESOLV_CONF     "/etc/resolv.conf"
#define RESOLV_CHECK_NS (10 * NS_PER_SEC)
#define FAILED_TTL_NS   (30 * NS_PER_SEC) /* a server that did not answer is asked again */
#define TRIES           2                 /* the second waits twice as long: c-ares */
#define TRIES_TIMEOUTS  3
#define BATCH           32 /* questions sent before answers are looked for: they need room too */
#define NAME_BYTES      256

struct names {
    struct lookups *lookups; /* owned */
    int wake_fd;             /* owned; eventfd: there are questions, or it ends */
    pthread_t thread;
    bool started;

    /* From here on only the thread's, once it runs. */
    ares_channel channel; /* owned; NULL: could not be opened */
    char *servers;        /* owned */
    uint64_t timeout_ns, ttl_ns;
    void (*own_socket)(void *arg, int fd, bool open);
    void *arg;
    size_t n_asked; /* of the channel, not yet answered */
    uint64_t resolv_checked_ns;
    struct stat resolv;
};

struct query {
    struct names *names;
    uint8_t addr[LOOKUP_KEY_BYTES];
};

/* --- sockets: c-ares tells when it opens and closes them only to those who do it for c-ares */

static ares_socket_t socket_open(int domain, int type, int protocol, void *arg)
{
    (void)arg;
    /* A TCP connection would say SYN before anybody could know its port. See ARES_FLAG_IGNTC. */
    if (type != SOCK_DGRAM) {
        errno = EPROTONOSUPPORT;
        return ARES_SOCKET_BAD;
    }
    return socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
}

static int socket_close(ares_socket_t fd, void *arg)
{
    struct names *n = arg;

    if (n->own_socket)
        n->own_socket(n->arg, fd, false);
    return close(fd);
}

/* Sends nothing, but gives the socket its address. */
static int socket_connect(ares_socket_t fd, const struct sockaddr *addr, ares_socklen_t len,
                          void *arg)
{
    struct names *n = arg;

    if (connect(fd, addr, len) < 0)
        return -1;
    if (n->own_socket)
        n->own_socket(n->arg, fd, true);
    return 0;
}

static ares_ssize_t socket_receive(ares_socket_t fd, void *bytes, size_t size, int flags,
                                   struct sockaddr *from, ares_socklen_t *from_len, void *arg)
{
    (void)arg;
    return recvfrom(fd, bytes, size, flags, from, from_len);
}

static ares_ssize_t socket_send(ares_socket_t fd, const struct iovec *parts, int n, void *arg)
{
    (void)arg;
    return writev(fd, parts, n);
}

/* --- the channel */

static int ares_errno(int status)
{
    return status == ARES_SUCCESS ? 0 : status == ARES_ENOMEM ? -ENOMEM : -EINVAL;
}

static int channel_open(struct names *n)
{
    static const struct ares_socket_functions functions = {
        .asocket = socket_open,
        .aclose = socket_close,
        .aconnect = socket_connect,
        .arecvfrom = socket_receive,
        .asendv = socket_send,
    };
    static char lookups[] = "f"; /* of ares_gethostbyaddr(): only /etc/hosts. See ask() */
    uint64_t timeout_ms = n->timeout_ns / NS_PER_MS / TRIES_TIMEOUTS;
    struct ares_options options = {
        /*
         * The socket stays, because an answer that comes too late to a closed one would be a
         * dropped packet, and that is an event.
         */
        .flags = ARES_FLAG_IGNTC | ARES_FLAG_STAYOPEN,
        .timeout = (int)MIN(MAX(timeout_ms, (uint64_t)1), (uint64_t)600000),
        .tries = TRIES,
        .lookups = lookups,
    };
    int r = ares_errno(
        ares_init_options(&n->channel, &options,
                          ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS));

    if (r < 0) {
        n->channel = NULL;
        return r;
    }
    if (n->servers[0] != '\0')
        r = ares_errno(ares_set_servers_ports_csv(n->channel, n->servers));
    if (r < 0) {
        ares_destroy(n->channel);
        n->channel = NULL;
        return r;
    }
    ares_set_socket_functions(n->channel, &functions, n);
    return 0;
}

static bool resolv_changed(struct names *n)
{
    struct stat now = {0};
    bool changed;

    if (stat(RESOLV_CONF, &now) < 0)
        now = (struct stat){0};
    changed = now.st_ino != n->resolv.st_ino || now.st_dev != n->resolv.st_dev ||
              now.st_size != n->resolv.st_size || now.st_mtim.tv_sec != n->resolv.st_mtim.tv_sec ||
              now.st_mtim.tv_nsec != n->resolv.st_mtim.tv_nsec;
    n->resolv = now;
    return changed;
}

/* c-ares reads resolv.conf once, but an agent is often started before the network is set up. */
static void channel_renew(struct names *n)
{
    uint64_t now_ns = clock_now_ns(CLOCK_MONOTONIC);

    if (n->n_asked > 0 || now_ns - n->resolv_checked_ns < RESOLV_CHECK_NS)
        return;
    n->resolv_checked_ns = now_ns;
    if (n->channel && (n->servers[0] != '\0' || !resolv_changed(n)))
        return;
    if (n->channel)
        ares_destroy(n->channel);
    (void)channel_open(n); /* without one there are no names: tried again at the next check */
}

/* --- questions */

/* Whoever owns an address decides what its name says: what cannot be in one must not pass. */
static size_t clean_name(const char *name, char ret[NAME_BYTES])
{
    static const char others[] = "-._";
    size_t len = 0;

    for (; name[len] != '\0' && len < NAME_BYTES - 1; len++) {
        char c = name[len];
        bool fine = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                    strchr(others, c);

        if (!fine)
            c = '?';
        ret[len] = c;
    }
    ret[len] = '\0';
    return len + 1;
}

/* `status` is one of c-ares, of asking or of understanding the answer. */
static void settle(struct query *q, int status, const struct hostent *host)
{
    struct names *n = q->names;
    uint64_t now_ns = clock_now_ns(CLOCK_MONOTONIC);
    char name[NAME_BYTES];

    switch (status) {
    case ARES_SUCCESS:
        lookups_answer(n->lookups, q->addr, name,
                       clean_name(host->h_name ? host->h_name : "", name), now_ns + n->ttl_ns);
        break;
    case ARES_ENOTFOUND:
    case ARES_ENODATA:
    case ARES_EBADNAME: /* c-ares refuses most names that cannot be one */
        lookups_answer(n->lookups, q->addr, NULL, 0, now_ns + n->ttl_ns);
        break;
    default:
        lookups_keep(n->lookups, q->addr, now_ns + MIN(n->ttl_ns, FAILED_TTL_NS));
    }
    n->n_asked--;
    free(q);
}

static bool is_v4(const uint8_t addr[LOOKUP_KEY_BYTES])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

    return memcmp(addr, mapped, sizeof(mapped)) == 0;
}

static void server_answered(void *arg, int status, int timeouts, unsigned char *bytes, int len)
{
    struct query *q = arg;
    bool v4 = is_v4(q->addr);
    struct hostent *host = NULL;

    (void)timeouts;
    if (status == ARES_SUCCESS)
        status = ares_parse_ptr_reply(bytes, len, v4 ? q->addr + 12 : q->addr, v4 ? 4 : 16,
                                      v4 ? AF_INET : AF_INET6, &host);
    settle(q, status, host);
    if (host)
        ares_free_hostent(host);
}

static void ask_server(struct query *q)
{
    static const char nibbles[] = "0123456789abcdef";
    const uint8_t *addr = q->addr;
    char name[64 + sizeof("ip6.arpa")];
    size_t len = 0;

    if (is_v4(addr)) {
        snprintf(name, sizeof(name), "%u.%u.%u.%u.in-addr.arpa", addr[15], addr[14], addr[13],
                 addr[12]);
    } else {
        for (size_t i = LOOKUP_KEY_BYTES; i-- > 0;) {
            name[len++] = nibbles[addr[i] & 15];
            name[len++] = '.';
            name[len++] = nibbles[addr[i] >> 4];
            name[len++] = '.';
        }
        snprintf(name + len, sizeof(name) - len, "ip6.arpa");
    }
    ares_query(q->names->channel, name, C_IN, T_PTR, server_answered, q);
}

static void file_answered(void *arg, int status, int timeouts, struct hostent *host)
{
    struct query *q = arg;

    (void)timeouts;
    if (status == ARES_SUCCESS)
        settle(q, status, host);
    else
        ask_server(q);
}

/*
 * In two steps because ares_gethostbyaddr() says "not found" too when no server could be reached,
 * and that must not be believed as long, nor take away what was known. Looking into /etc/hosts is
 * done before it returns.
 */
static void ask(struct names *n, const uint8_t addr[LOOKUP_KEY_BYTES])
{
    struct query *q = n->channel ? malloc(sizeof(*q)) : NULL;
    bool v4 = is_v4(addr);

    if (!q) {
        lookups_keep(n->lookups, addr, clock_now_ns(CLOCK_MONOTONIC) + NS_PER_SEC);
        return;
    }
    q->names = n;
    memcpy(q->addr, addr, sizeof(q->addr));
    n->n_asked++;
    ares_gethostbyaddr(n->channel, v4 ? addr + 12 : addr, v4 ? 4 : 16, v4 ? AF_INET : AF_INET6,
                       file_answered, q);
}

/* Answers and timeouts; waits for them and for questions, unless there are `more` of these. */
static void wait_and_process(struct names *n, bool more)
{
    ares_socket_t fds[ARES_GETSOCK_MAXNUM];
    struct pollfd polls[ARES_GETSOCK_MAXNUM + 1] = {{.fd = n->wake_fd, .events = POLLIN}};
    struct timeval left, *timeout = NULL;
    nfds_t n_polls = 1;
    int wait_ms = -1;
    eventfd_t woken;

    if (n->channel) {
        unsigned wanted = (unsigned)ares_getsock(n->channel, fds, ARES_GETSOCK_MAXNUM);

        for (unsigned i = 0; i < ARES_GETSOCK_MAXNUM; i++) {
            /* ARES_GETSOCK_WRITABLE() shifts into the sign. */
            short events = (short)((wanted >> i & 1 ? POLLIN : 0) |
                                   (wanted >> (i + ARES_GETSOCK_MAXNUM) & 1 ? POLLOUT : 0));

            if (events)
                polls[n_polls++] = (struct pollfd){.fd = fds[i], .events = events};
        }
        timeout = ares_timeout(n->channel, NULL, &left);
    }
    if (timeout)
        wait_ms = (int)(MIN(timeout->tv_sec, (time_t)600) * 1000 + timeout->tv_usec / 1000 + 1);

    if (poll(polls, n_polls, more ? 0 : wait_ms) < 0)
        return;
    for (nfds_t i = 1; i < n_polls; i++)
        if (polls[i].revents)
            ares_process_fd(n->channel, polls[i].revents & ~POLLOUT ? polls[i].fd : ARES_SOCKET_BAD,
                            polls[i].revents & POLLOUT ? polls[i].fd : ARES_SOCKET_BAD);
    if (timeout)
        ares_process_fd(n->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD); /* timeouts */
    if (polls[0].revents)
        (void)eventfd_read(n->wake_fd, &woken);
}

static void *names_thread(void *arg)
{
    struct names *n = arg;
    uint8_t addr[LOOKUP_KEY_BYTES];

    while (!lookups_stopped(n->lookups)) {
        unsigned batch = 0;

        channel_renew(n);
        while (batch < BATCH && lookups_next(n->lookups, addr)) {
            ask(n, addr);
            batch++;
        }
        wait_and_process(n, batch == BATCH);
    }
    if (n->channel)
        ares_destroy(n->channel);
    n->channel = NULL;
    return NULL;
}

/* --- the asking side */

int names_new(const struct names_options *options, struct names **ret)
{
    _cleanup_(names_freep) struct names *n = NULL;
    int r;

    r = ares_errno(ares_library_init(ARES_LIB_INIT_ALL));
    if (r < 0)
        return r;
    n = calloc(1, sizeof(*n));
    if (!n) {
        ares_library_cleanup();
        return -ENOMEM;
    }
    n->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (n->wake_fd < 0)
        return -errno;
    n->servers = strdup(options->servers);
    if (!n->servers)
        return -ENOMEM;
    n->timeout_ns = options->timeout_ns;
    n->ttl_ns = options->ttl_ns;
    n->own_socket = options->own_socket;
    n->arg = options->arg;
    r = lookups_new(options->cache_max, options->pending_max, &n->lookups);
    if (r < 0)
        return r;
    (void)resolv_changed(n);
    n->resolv_checked_ns = clock_now_ns(CLOCK_MONOTONIC);
    r = channel_open(n);
    if (r < 0)
        return r;
    r = lookups_start_thread("names", names_thread, n, &n->thread);
    if (r < 0)
        return r;
    n->started = true;
    *ret = TAKE_PTR(n);
    return 0;
}

struct names *names_free(struct names *n)
{
    if (!n)
        return NULL;
    if (n->started) {
        lookups_stop(n->lookups);
        eventfd_write(n->wake_fd, 1);
        pthread_join(n->thread, NULL);
    }
    if (n->channel)
        ares_destroy(n->channel);
    lookups_free(n->lookups);
    fd_close(n->wake_fd);
    free(n->servers);
    free(n);
    ares_library_cleanup();
    return NULL;
}

int names_lookup(struct names *n, const uint8_t addr[16], char ret[256])
{
    size_t len = 0;
    int r = lookups_get(n->lookups, addr, clock_now_ns(CLOCK_MONOTONIC), ret, NAME_BYTES, &len);

    if (r == 0)
        eventfd_write(n->wake_fd, 1);
    else if (r == -EBUSY || len == 0)
        ret[0] = '\0';
    return r == -EBUSY ? 1 : r;
}

int names_fd(const struct names *n)
{
    return lookups_fd(n->lookups);
}
