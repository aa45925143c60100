// SPDX-License-Identifier: Apache-2.0
#pragma once

/** What is read right after the kill: the limiting cgroup's files, the host's, all processes. */

#include "core/event.h"
#include "events/oom/cause.h"

#define OOM_LARGEST_MAX     10
#define OOM_KILLED_WITH_MAX 128

/** Leaves for collect() what decode() has found out; `note` is struct decode.note. */
void oom_note(const struct oom_wire *w, const struct oom_cause *cause, void *note);
/** Fits event.collect. */
int oom_collect(const struct collect *c, const void *raw, struct record *r);
