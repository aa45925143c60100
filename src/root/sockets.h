// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The iterator that tells who has which socket open (core/sockets.h). */

#include "core/base.h"

struct sockets;

/** -errno: this kernel or these rights do not allow it; records then go without owners. */
int sockets_new(struct sockets **ret);
struct sockets *sockets_free(struct sockets *s);
/** A descriptor from which all open sockets can be read once. */
int sockets_open_iterator(const struct sockets *s);
