// SPDX-License-Identifier: Apache-2.0
#pragma once

/** What the store needs to know of JSON. All of it takes text that is valid JSON and trusts that.
 */

#include "core/text.h"

enum jsontext_kind { JSONTEXT_KEY, JSONTEXT_STRING, JSONTEXT_SCALAR };

/** A walk over keys and values; begin with `{.json = …, .len = …}`. */
struct jsontext_walk {
    const char *json;
    size_t len, at;
    unsigned depth;
};

struct jsontext_token {
    enum jsontext_kind kind;
    const char *text; /* of strings and keys the inside, still escaped */
    size_t len;
    unsigned depth; /* 1: belongs to the outermost object */
};

bool jsontext_next(struct jsontext_walk *walk, struct jsontext_token *ret);

/** The string of that name in the outermost object, still escaped; false if there is none. */
bool jsontext_string(const char *json, size_t len, const char *name, const char **ret,
                     size_t *ret_len);

/** Appends the inside of a JSON string as the bytes that it stands for. */
void jsontext_unescape(struct text *out, const char *inside, size_t len);

/** Appends it indented by two spaces; keys stay in their order. No newline at the end. */
void jsontext_indent(struct text *out, const char *json, size_t len);

/** Whether one of the values (not the keys) contains these bytes. `scratch` is overwritten. */
bool jsontext_holds(const char *json, size_t len, const char *needle, size_t needle_len,
                    struct text *scratch);
