// SPDX-License-Identifier: Apache-2.0

/**
 * Holds a CPU in the kernel for a time, with a BPF program that burns it:
 *
 *     burn softirq MS CPU [NAME]   bottom halves and preemption are off: a socket filter on
 * loopback burn irq MS CPU [NAME]       hard interrupts are off: a timer event
 *
 * NAME is what the process calls itself meanwhile (any bytes). Prints the process's id, and then
 * for how many milliseconds the CPU was held: fewer on a machine on which what is burnt takes less.
 * Over twice /proc/sys/kernel/watchdog_thresh in a softirq, the kernel reports a soft lockup.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/perf_event.h>
#include <sched.h>
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

#define MS_MAX 60000

static bool complain(const char *what)
{
    fprintf(stderr, "burn: %s: %s\n", what, strerror(errno));
    return false;
}

/** The filter runs in the softirq that delivers the packet: at once, on this CPU. */
static bool burn_softirq(const struct burn_bpf *bpf)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int program = bpf_program__fd(bpf->progs.burn_softirq);
    socklen_t len = sizeof(to);

    if (fd < 0 || bind(fd, (struct sockaddr *)&to, len) < 0 ||
        getsockname(fd, (struct sockaddr *)&to, &len) < 0)
        return complain("a socket on 127.0.0.1");
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)) < 0)
        return complain("SO_ATTACH_BPF");
    if (sendto(fd, "", 1, 0, (struct sockaddr *)&to, len) < 0)
        return complain("sendto");
    close(fd);
    return true;
}

static bool burn_irq(const struct burn_bpf *bpf, int cpu)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof(attr),
        .config = PERF_COUNT_SW_CPU_CLOCK,
        .sample_period = 10 * 1000 * 1000, /* ns */
    };
    int fd = (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);

    if (fd < 0)
        return complain("perf_event_open");
    if (ioctl(fd, PERF_EVENT_IOC_SET_BPF, bpf_program__fd(bpf->progs.burn_irq)) < 0)
        return complain("PERF_EVENT_IOC_SET_BPF");
    while (!*(volatile __u64 *)&bpf->bss->burnt_ns) /* busy, so that it interrupts us */
        ;
    close(fd);
    return true;
}

static bool settle_on(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof(set), &set) == 0 || complain("sched_setaffinity");
}

int main(int argc, char **argv)
{
    const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    bool irq = argc > 1 && strcmp(argv[1], "irq") == 0, done;
    unsigned long ms = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    struct burn_bpf *bpf;
    int cpu;

    if (argc < 4 || argc > 5 || (!irq && strcmp(argv[1], "softirq") != 0) || !ms || ms > MS_MAX) {
        fprintf(stderr, "usage: burn softirq|irq MS CPU [NAME], MS up to %d\n", MS_MAX);
        return 2;
    }
    cpu = (int)strtoul(argv[3], NULL, 10);
    setrlimit(RLIMIT_MEMLOCK, &unlimited); /* before 5.11 */
    if (!settle_on(cpu))
        return 1;
    bpf = burn_bpf__open_and_load();
    if (!bpf) {
        complain("loading the program");
        return 1;
    }
    if (argc == 5)
        prctl(PR_SET_NAME, argv[4]);
    printf("%d\n", getpid());
    fflush(stdout);
    bpf->bss->limit_ns = ms * 1000000;
    done = irq ? burn_irq(bpf, cpu) : burn_softirq(bpf);
    if (done)
        printf("%" PRIu64 "\n", (uint64_t)bpf->bss->burnt_ns / 1000000);
    burn_bpf__destroy(bpf);
    return done ? 0 : 1;
}
