// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Losses outside the stack: the types device_drop, tx_timeout and devlink_trap. */

#include "core/event.h"
#include "events/dropwatch/dropwatch.h"

struct kernel;

/** For struct hook_way.check: without devlink there is nothing to be loaded. */
const char *device_check_traps(const struct btf *kernel);
void device_configure(const struct kernel *kernel, struct dropwatch_settings *settings);
/** The whole record. */
int device_record(const struct decode *d, const struct dropwatch_wire *e, struct record *r);

/** Reads once a second what devices count. */
extern const struct hook_source device_source;

/* --- pure */

/** Columns of /proc/net/dev that hold losses; several counters are added up in some. */
#define DEVICE_COLUMNS 7

struct device_line {
    char name[16];
    uint64_t losses[DEVICE_COLUMNS];
};

/** The next device out of /proc/net/dev; `*text` moves on. False: there is none. */
bool device_parse(const char **text, struct device_line *ret);

/** A network card as rtnetlink tells it. */
struct device_answer {
    char name[16];
    int32_t ifindex;
    uint32_t pad;
    char driver[DEVICE_TEXT_MAX]; /* "": not known */
    uint64_t counters[DEVICE_COUNTERS];
};

/** What a message of rtnetlink says of a card; false: it is of no card, but made by software. */
bool device_read_link(const void *message, size_t size, struct device_answer *ret);
