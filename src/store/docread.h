// SPDX-License-Identifier: Apache-2.0
#pragma once

/** A record out of its text, as `huatuo list --json` and `export` write it. */

#include "core/doc.h"

/**
 * Takes whatever bytes there are. What the text of a record says is kept as it stands; only text
 * that is not as a record is written (blanks between values, controls that act on a terminal) is
 * written anew, and what a server was sent beside the record (`es_index_time`, `@timestamp`) is
 * left out. It stands outside the accounting. -EBADMSG: it is no record, `error` says why (may hold
 * any bytes); -E2BIG; -ENOMEM.
 */
int doc_read(const char *json, size_t len, struct doc **ret, char *error, size_t error_size);
