// SPDX-License-Identifier: Apache-2.0

#include "core/loop.h"

#include <sys/signalfd.h>
#include <systemd/sd-event.h>
#include <time.h>

/* sd-event may let a timer come later by this, so as to wake up less often; 0 would mean 250 ms. */
#define ACCURACY_US UINT64_C(1000)

struct loop {
    sd_event *event;
};

struct watch {
    sd_event_source *source;
    union {
        int (*fd)(void *arg, uint32_t epoll_events);
        int (*time)(void *arg);
        int (*signal)(void *arg, int signal_number);
    } fn;
    void *arg;
    uint64_t every_us; /* 0: once */
};
DEFINE_CLEANUP(struct watch *, watch_free)

int loop_new(struct loop **ret)
{
    _free_ struct loop *loop = calloc(1, sizeof(*loop));
    int r;

    if (!loop)
        return -ENOMEM;
    r = sd_event_new(&loop->event);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(loop);
    return 0;
}

struct loop *loop_free(struct loop *loop)
{
    if (loop)
        sd_event_unref(loop->event);
    free(loop);
    return NULL;
}

struct watch *watch_free(struct watch *w)
{
    if (!w)
        return NULL;
    /* Unreferencing alone would leave it armed while it is being dispatched. */
    if (w->source)
        sd_event_source_set_enabled(w->source, SD_EVENT_OFF);
    sd_event_source_unref(w->source);
    free(w);
    return NULL;
}

/* After a callback its watch may be gone, and the source has forgotten its loop: so ask before. */
static int finish(sd_event *event, int result)
{
    /* sd-event itself would only switch the source off. */
    if (result < 0)
        sd_event_exit(event, result);
    return 0;
}

static int on_fd(sd_event_source *source, int fd, uint32_t epoll_events, void *userdata)
{
    sd_event *event = sd_event_source_get_event(source);
    struct watch *w = userdata;

    (void)fd;
    return finish(event, w->fn.fd(w->arg, epoll_events));
}

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int on_time(sd_event_source *source, uint64_t due_us, void *userdata)
{
    sd_event *event = sd_event_source_get_event(source);
    struct watch *w = userdata;
    int r;

    if (w->every_us) {
        uint64_t now = now_us(), next_us = due_us + w->every_us;

        /* From when it was due, not from now, so that it does not drift; but what was missed while
         * the loop was busy is not made up for. */
        if (next_us <= now)
            next_us = now + w->every_us;
        r = sd_event_source_set_time(source, next_us);
        if (r >= 0)
            r = sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        if (r < 0)
            return finish(event, r);
    }
    return finish(event, w->fn.time(w->arg));
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
    sd_event *event = sd_event_source_get_event(source);
    struct watch *w = userdata;

    return finish(event, w->fn.signal(w->arg, (int)info->ssi_signo));
}

static struct watch *watch_new(void *arg)
{
    struct watch *w = calloc(1, sizeof(*w));

    if (w)
        w->arg = arg;
    return w;
}

int loop_watch_fd(struct loop *loop, int fd, uint32_t epoll_events,
                  int (*fn)(void *arg, uint32_t epoll_events), void *arg, struct watch **ret)
{
    _cleanup_(watch_freep) struct watch *w = watch_new(arg);
    int r;

    if (!w)
        return -ENOMEM;
    w->fn.fd = fn;
    r = sd_event_add_io(loop->event, &w->source, fd, epoll_events, on_fd, w);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(w);
    return 0;
}

/* A wait that is not a whole number of microseconds is rather a little long than too short. */
static uint64_t ns_to_us(uint64_t ns)
{
    return ns / NS_PER_US + (ns % NS_PER_US != 0);
}

int loop_watch_time(struct loop *loop, uint64_t after_ns, uint64_t every_ns, int (*fn)(void *arg),
                    void *arg, struct watch **ret)
{
    _cleanup_(watch_freep) struct watch *w = watch_new(arg);
    int r;

    if (!w)
        return -ENOMEM;
    w->fn.time = fn;
    w->every_us = ns_to_us(every_ns);
    r = sd_event_add_time(loop->event, &w->source, CLOCK_MONOTONIC, now_us() + ns_to_us(after_ns),
                          ACCURACY_US, on_time, w);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(w);
    return 0;
}

int loop_watch_signal(struct loop *loop, int signal_number, int (*fn)(void *arg, int signal_number),
                      void *arg, struct watch **ret)
{
    _cleanup_(watch_freep) struct watch *w = watch_new(arg);
    int r;

    if (!w)
        return -ENOMEM;
    w->fn.signal = fn;
    r = sd_event_add_signal(loop->event, &w->source, signal_number, on_signal, w);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(w);
    return 0;
}

int loop_run(struct loop *loop)
{
    return sd_event_loop(loop->event);
}

void loop_exit(struct loop *loop, int code)
{
    sd_event_exit(loop->event, code);
}
