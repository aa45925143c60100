// SPDX-License-Identifier: Apache-2.0

/**
 * Holds a CPU in the kernel for a time, with a BPF program that burns it:
 *
 *     burn MODE MS CPU [NAME [COUNT]]
 *
 *     softirq   in a softirq: bottom halves and preemption are off (a socket filter on loopback)
 *     bh        bottom halves are off, in a process that sends a packet (in a network namespace of
 *               its own)
 *     irq       hard interrupts are off, in an interrupt (a timer event)
 *     syscall   hard interrupts are off, in a system call (a signal to itself), COUNT times
 *
 * NAME is what the process calls itself meanwhile (any bytes). Prints the process's id, and then
 * for how many milliseconds the CPU was held, each time if there are several: fewer on a machine on
 * which what is burnt takes less. Over twice /proc/sys/kernel/watchdog_thresh with bottom halves
 * off, the kernel reports a soft lockup.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/if_packet.h>
#include <linux/perf_event.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "burn.skel.h"

#define MS_MAX            60000
/* Little, so that the clock is looked at often; but all copies together have to take that long on
 * the fastest machine. */
#define COPY_BYTES_PER_MS 512
/* Long enough for the tick, which is off while the CPU is idle, to go on. */
#define AWAKE_NS          50000000

struct job {
    struct burn_bpf *bpf;
    uint64_t ns;
    unsigned long count;
};

static bool complain(const char *what)
{
    fprintf(stderr, "burn: %s: %s\n", what, strerror(errno));
    return false;
}

static void be_busy(uint64_t ns)
{
    struct timespec now, begin;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((uint64_t)((now.tv_sec - begin.tv_sec) * 1000000000 + now.tv_nsec - begin.tv_nsec) < ns);
}

static void arm(const struct job *job)
{
    be_busy(AWAKE_NS);
    job->bpf->bss->limit_ns = job->ns;
}

static void say(const struct job *job)
{
    printf("%" PRIu64 "\n", (uint64_t)job->bpf->bss->burnt_ns / 1000000);
}

/** The filter runs in the softirq that delivers the packet: at once, on this CPU. */
static bool burn_softirq(const struct job *job)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int program = bpf_program__fd(job->bpf->progs.burn_softirq);
    socklen_t len = sizeof(to);

    if (fd < 0 || bind(fd, (struct sockaddr *)&to, len) < 0 ||
        getsockname(fd, (struct sockaddr *)&to, &len) < 0)
        return complain("a socket on 127.0.0.1");
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)) < 0)
        return complain("SO_ATTACH_BPF");
    arm(job);
    if (sendto(fd, "", 1, 0, (struct sockaddr *)&to, len) < 0)
        return complain("sendto");
    close(fd);
    say(job);
    return true;
}

static bool burn_bh(const struct job *job)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    struct sockaddr_in to = {
        .sin_family = AF_INET,
        .sin_port = htons(9),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int program = bpf_program__fd(job->bpf->progs.burn_bh), tap, fd;

    if (unshare(CLONE_NEWNET) < 0)
        return complain("unshare");
    tap = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (tap < 0 || fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
        return complain("sockets in a network namespace");
    if (setsockopt(tap, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)) < 0)
        return complain("SO_ATTACH_BPF");
    arm(job);
    if (sendto(fd, "", 1, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
        return complain("sendto");
    say(job);
    return true;
}

static bool burn_syscall(const struct job *job)
{
    struct bpf_link *link = bpf_program__attach(job->bpf->progs.burn_syscall);

    if (!link)
        return complain("attaching to signal_generate");
    arm(job);
    for (unsigned long i = 0; i < job->count; i++) {
        if (i >
            0) /* ticks, at which others get the CPU, are not to come always at the same point */
            be_busy((uint64_t)random() % job->ns);
        job->bpf->bss->limit_ns = job->ns;
        kill(getpid(), SIGWINCH); /* which nobody waits for */
        say(job);
    }
    bpf_link__destroy(link);
    return true;
}

static bool burn_irq(const struct job *job)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof(attr),
        .config = PERF_COUNT_SW_CPU_CLOCK,
        .sample_period = 10 * 1000 * 1000, /* ns */
    };
    /* Of this process, so that it is what is interrupted. */
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);

    if (fd < 0)
        return complain("perf_event_open");
    if (ioctl(fd, PERF_EVENT_IOC_SET_BPF, bpf_program__fd(job->bpf->progs.burn_irq)) < 0)
        return complain("PERF_EVENT_IOC_SET_BPF");
    arm(job);
    while (!*(volatile __u64 *)&job->bpf->bss->burnt_ns) /* busy, so that it interrupts us */
        ;
    close(fd);
    say(job);
    return true;
}

static bool settle_on(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof(set), &set) == 0 || complain("sched_setaffinity");
}

static const struct mode {
    const char *name;
    bool (*run)(const struct job *job);
} modes[] = {
    {"softirq", burn_softirq},
    {"bh", burn_bh},
    {"irq", burn_irq},
    {"syscall", burn_syscall},
};

static const struct mode *find_mode(const char *name)
{
    for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++)
        if (strcmp(modes[i].name, name) == 0)
            return &modes[i];
    return NULL;
}

/** The others are not loaded: each takes a slow machine's verifier seconds. */
static void only_program(struct bpf_object *object, const char *mode)
{
    struct bpf_program *program;
    char name[32];

    snprintf(name, sizeof(name), "burn_%s", mode);
    bpf_object__for_each_program(program, object)
        bpf_program__set_autoload(program, strcmp(bpf_program__name(program), name) == 0);
}

int main(int argc, char **argv)
{
    const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    const struct mode *mode = argc > 1 ? find_mode(argv[1]) : NULL;
    unsigned long ms = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    struct job job = {.ns = ms * 1000000, .count = argc > 5 ? strtoul(argv[5], NULL, 10) : 1};
    bool done;

    if (argc < 4 || argc > 6 || !mode || !ms || ms > MS_MAX) {
        fprintf(stderr, "usage: burn softirq|bh|irq|syscall MS CPU [NAME [COUNT]], MS up to %d\n",
                MS_MAX);
        return 2;
    }
    setrlimit(RLIMIT_MEMLOCK, &unlimited); /* before 5.11 */
    if (!settle_on((int)strtol(argv[3], NULL, 10)))
        return 1;
    job.bpf = burn_bpf__open();
    if (job.bpf) {
        job.bpf->rodata->pid = (uint32_t)getpid();
        if (ms * COPY_BYTES_PER_MS < job.bpf->rodata->copy_bytes)
            job.bpf->rodata->copy_bytes = (uint32_t)ms * COPY_BYTES_PER_MS;
        only_program(job.bpf->obj, mode->name);
    }
    if (!job.bpf || burn_bpf__load(job.bpf) < 0) {
        complain("loading the program");
        return 1;
    }
    if (argc > 4)
        prctl(PR_SET_NAME, argv[4]);
    printf("%d\n", getpid());
    fflush(stdout);
    done = mode->run(&job);
    burn_bpf__destroy(job.bpf);
    return done ? 0 : 1;
}
