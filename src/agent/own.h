// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The agent's own sockets, told to the BPF programs so that its traffic is no event. */

#include "agent/kinds.h"

struct own_sockets;

/** Kinds are told from own_sockets_watch() on; they must outlive it. */
int own_sockets_new(struct own_sockets **ret);
struct own_sockets *own_sockets_free(struct own_sockets *own);
void own_sockets_watch(struct own_sockets *own, struct agent_kind *kinds, size_t n_kinds);
/**
 * Before a socket is used and after it is closed; any thread. A socket without a local port is
 * given one, as the first packet must be known already. Fits names_options.own_socket.
 */
void own_sockets_note(void *sockets, int fd, bool open);
/** Forgets the ports of sockets that were closed a while ago: late answers have come by then. */
void own_sockets_tick(struct own_sockets *own, uint64_t now_ns);
