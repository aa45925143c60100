// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Where a running agent tells its status: a socket in the store's directory. Connect and read. */

#include "core/base.h"

/**
 * A socket that listens there / that is connected to it. However long the directory's path is: it
 * is reached through /proc/self/fd, as a socket's own path has room for 107 bytes only (unix(7)).
 */
int status_socket_listen(const char *store);
int status_socket_connect(const char *store, unsigned timeout_s);
