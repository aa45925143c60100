// SPDX-License-Identifier: Apache-2.0
#pragma once

/** One thread, one loop: descriptors, timers, signals. Freeing a watch ends it. */

#include "core/base.h"

struct loop;
struct watch;

int loop_new(struct loop **ret);
struct loop *loop_free(struct loop *loop);
DEFINE_CLEANUP(struct loop *, loop_free)
struct watch *watch_free(struct watch *w);

/** `fn`'s negative result ends the loop with it. */
int loop_watch_fd(struct loop *loop, int fd, uint32_t epoll_events,
                  int (*fn)(void *arg, uint32_t epoll_events), void *arg, struct watch **ret);
/** First after `after_ns`, then every `every_ns` (0: once). CLOCK_MONOTONIC. */
int loop_watch_time(struct loop *loop, uint64_t after_ns, uint64_t every_ns, int (*fn)(void *arg),
                    void *arg, struct watch **ret);
/** The signal must be blocked. */
int loop_watch_signal(struct loop *loop, int signal_number, int (*fn)(void *arg, int signal_number),
                      void *arg, struct watch **ret);
/** Returns loop_exit()'s code, or the negative errno that ended it. */
int loop_run(struct loop *loop);
void loop_exit(struct loop *loop, int code);
