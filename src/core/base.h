// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The few words every file uses: cleanup of locals, visible handing over of ownership, sizes.
 *
 * Conventions: an `int` result is 0 or a negative errno; results come last in the argument list as
 * `ret` and are untouched on failure; `x_free(NULL)` is fine.
 */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define NS_PER_US     UINT64_C(1000)
#define NS_PER_MS     UINT64_C(1000000)
#define NS_PER_SEC    UINT64_C(1000000000)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)                                                                                  \
    ({                                                                                             \
        typeof(a) min_a_ = (a);                                                                    \
        typeof(b) min_b_ = (b);                                                                    \
        min_a_ < min_b_ ? min_a_ : min_b_;                                                         \
    })
#define MAX(a, b)                                                                                  \
    ({                                                                                             \
        typeof(a) max_a_ = (a);                                                                    \
        typeof(b) max_b_ = (b);                                                                    \
        max_a_ > max_b_ ? max_a_ : max_b_;                                                         \
    })

/** Owned by this scope: `_cleanup_(store_freep) struct store *store = NULL;` */
#define _cleanup_(f)        __attribute__((cleanup(f)))
#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))

/** Gives a pointer or descriptor away: the local no longer owns it. */
#define TAKE_PTR(p)                                                                                \
    ({                                                                                             \
        typeof(p) taken_ = (p);                                                                    \
        (p) = NULL;                                                                                \
        taken_;                                                                                    \
    })
#define TAKE_FD(fd)                                                                                \
    ({                                                                                             \
        int taken_ = (fd);                                                                         \
        (fd) = -1;                                                                                 \
        taken_;                                                                                    \
    })

/** Makes `funcp(type *)`, type being a pointer, for _cleanup_() out of `func`: NULL in, NULL out.
 */
#define DEFINE_CLEANUP(type, func)                                                                 \
    static inline void func##p(type *p)                                                            \
    {                                                                                              \
        *p = func(*p);                                                                             \
    }

static inline void freep(void *p)
{
    free(*(void **)p);
}

/** Closes a descriptor if there is one; errno is kept. */
static inline int fd_close(int fd)
{
    if (fd >= 0) {
        int saved = errno;

        close(fd);
        errno = saved;
    }
    return -1;
}

static inline void fd_closep(int *fd)
{
    *fd = fd_close(*fd);
}

#define _free_     _cleanup_(freep)
#define _close_fd_ _cleanup_(fd_closep)
