// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * SQLite's index of the WAL (huatuo.db-shm) is mapped into memory, by the writer and by readers.
 * When the file system turns read-only after an error (errors=remount-ro), or the disk is full, a
 * write to such a page is answered with SIGBUS, which would end the agent and with it all that
 * waits for the disk. In a guarded thread the page becomes private memory instead, so that the
 * write goes through; what SQLite does with it afterwards reaches no file, and its connection has
 * to be closed.
 */

#include "core/base.h"

/** From here on this thread's faults are mended. Installs the handler if need be. */
void busfault_guard(void);
/** Whether there was one in this thread since the last call. */
bool busfault_happened(void);
