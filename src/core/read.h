// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Reading a descriptor to its end. */

#include "core/base.h"

/** Up to `size` bytes, fewer only at the end. Returns how many, or what read(2) says. */
ssize_t read_up_to(int fd, void *ret, size_t size);

/**
 * Up to `max` bytes, NUL-terminated; heap. Length `max` means that there may be more. `ret_len` may
 * be NULL. -ENOMEM, or what read(2) says.
 */
int read_whole(int fd, size_t max, char **ret, size_t *ret_len);
