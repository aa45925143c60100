// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The kernel's small files below a root prefix: read whole, and those of numbers into records. */

#include "core/record.h"

/**
 * Up to `max` bytes, NUL-terminated; heap. `ret_len` may be NULL. -EFBIG: there are more; else what
 * open(2) and read(2) say. `path` begins with "/". May wait as long as the file lets it.
 */
int file_read(const char *root_prefix, const char *path, size_t max, char **ret, size_t *ret_len);
/** A file that holds one number; `max` is UINT64_MAX. -EBADMSG: it holds something else. */
int file_read_u64(const char *root_prefix, const char *path, uint64_t *ret);

#define NUMBERS_MAX 256 /* lines that are taken from one file */

/**
 * A file of lines `name value` or `Name: value kB` becomes an object of numbers, with the file's
 * names, in bytes where it says kB. Lines that are not of this form are left out. Nothing is
 * written if the file cannot be read (negative errno).
 */
int record_numbers(struct record *r, const char *name, const char *root_prefix, const char *path);
