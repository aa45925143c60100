// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The store's directory, made for the user that will write to it. The last thing done with
 * privilege. */

#include "agent/privilege.h"

/**
 * Makes the directory and the ones above it. One that is there already is given to the user only if
 * it is empty or a store: whatever else somebody names by mistake stays whose it is. Of a store of
 * an earlier user, the files change hands too. On failure `error` says what and what to do.
 */
int directory_make(const char *path, const struct privilege_user *user, char *error,
                   size_t error_size);
/**
 * What directory_make() would find, as root, without making or changing anything. 0: the user's
 * already; 1: it would be given to the user; -ENOTEMPTY: it would be refused, `error` says why;
 * other -errno, with `error` "".
 */
int directory_look(const char *path, const struct privilege_user *user, char *error,
                   size_t error_size);
