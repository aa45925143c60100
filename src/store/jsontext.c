// SPDX-License-Identifier: Apache-2.0
#include "store/jsontext.h"

#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static size_t skip_space(const char *json, size_t len, size_t at)
{
    while (at < len && is_space(json[at]))
        at++;
    return at;
}

/** One past the closing quote of the string that opens at `at`. */
static size_t string_end(const char *json, size_t len, size_t at)
{
    for (at++; at < len && json[at] != '"'; at++)
        at += json[at] == '\\';
    return MIN(at + 1, len);
}

/** One past the number or word that begins at `at`. */
static size_t scalar_end(const char *json, size_t len, size_t at)
{
    while (at < len && !is_space(json[at]) && !strchr(",:]}", json[at]))
        at++;
    return at;
}

bool jsontext_next(struct jsontext_walk *walk, struct jsontext_token *ret)
{
    while (walk->at < walk->len) {
        size_t begin = walk->at;
        char c = walk->json[begin];

        if (c == '"') {
            size_t end = string_end(walk->json, walk->len, begin);
            size_t next = skip_space(walk->json, walk->len, end);
            bool key = next < walk->len && walk->json[next] == ':';

            walk->at = next;
            *ret = (struct jsontext_token){
                .kind = key ? JSONTEXT_KEY : JSONTEXT_STRING,
                .text = walk->json + begin + 1,
                .len = end - begin >= 2 ? end - begin - 2 : 0,
                .depth = walk->depth,
            };
            return true;
        }
        if (is_space(c) || c == ',' || c == ':') {
            walk->at++;
        } else if (c == '{' || c == '[') {
            walk->depth++;
            walk->at++;
        } else if (c == '}' || c == ']') {
            walk->depth -= walk->depth > 0;
            walk->at++;
        } else {
            walk->at = MAX(scalar_end(walk->json, walk->len, begin), begin + 1);
            *ret = (struct jsontext_token){
                .kind = JSONTEXT_SCALAR,
                .text = walk->json + begin,
                .len = walk->at - begin,
                .depth = walk->depth,
            };
            return true;
        }
    }
    return false;
}

bool jsontext_string(const char *json, size_t len, const char *name, const char **ret,
                     size_t *ret_len)
{
    struct jsontext_walk walk = {.json = json, .len = len};
    struct jsontext_token token;
    size_t name_len = strlen(name);

    while (jsontext_next(&walk, &token)) {
        if (token.kind != JSONTEXT_KEY || token.depth != 1 || token.len != name_len ||
            memcmp(token.text, name, name_len) != 0)
            continue;
        if (!jsontext_next(&walk, &token) || token.kind != JSONTEXT_STRING || token.depth != 1)
            return false;
        *ret = token.text;
        *ret_len = token.len;
        return true;
    }
    return false;
}

/** Four hexadecimal digits, or -1. */
static int32_t hex4(const char *digits, size_t len)
{
    int32_t value = 0;

    if (len < 4)
        return -1;
    for (unsigned i = 0; i < 4; i++) {
        static const char all[] = "0123456789abcdefABCDEF";
        const char *found = digits[i] ? strchr(all, digits[i]) : NULL;

        if (!found)
            return -1;
        value = value * 16 + (int32_t)(found - all < 16 ? found - all : found - all - 6);
    }
    return value;
}

static void add_utf8(struct text *out, uint32_t code)
{
    char bytes[4];
    size_t n = 0;

    if (code < 0x80) {
        bytes[n++] = (char)code;
    } else if (code < 0x800) {
        bytes[n++] = (char)(0xc0 | code >> 6);
        bytes[n++] = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        bytes[n++] = (char)(0xe0 | code >> 12);
        bytes[n++] = (char)(0x80 | (code >> 6 & 0x3f));
        bytes[n++] = (char)(0x80 | (code & 0x3f));
    } else {
        bytes[n++] = (char)(0xf0 | code >> 18);
        bytes[n++] = (char)(0x80 | (code >> 12 & 0x3f));
        bytes[n++] = (char)(0x80 | (code >> 6 & 0x3f));
        bytes[n++] = (char)(0x80 | (code & 0x3f));
    }
    text_add(out, bytes, n);
}

/** What `\u` introduces, `at` its first digit; returns one past it. */
static size_t unescape_unicode(struct text *out, const char *inside, size_t len, size_t at)
{
    int32_t code = hex4(inside + at, len - at);

    if (code < 0)
        return at;
    at += 4;
    if (code >= 0xd800 && code < 0xdc00 && len - at >= 6 && inside[at] == '\\' &&
        inside[at + 1] == 'u') {
        int32_t low = hex4(inside + at + 2, len - at - 2);

        if (low >= 0xdc00 && low < 0xe000) {
            add_utf8(out, 0x10000 + ((uint32_t)(code - 0xd800) << 10) + (uint32_t)(low - 0xdc00));
            return at + 6;
        }
    }
    add_utf8(out, code >= 0xd800 && code < 0xe000 ? 0xfffd : (uint32_t)code);
    return at;
}

void jsontext_unescape(struct text *out, const char *inside, size_t len)
{
    static const char names[] = "bfnrt", bytes[] = "\b\f\n\r\t";
    size_t at = 0;

    while (at < len) {
        const char *escape = memchr(inside + at, '\\', len - at);
        size_t plain = escape ? (size_t)(escape - inside) - at : len - at;

        text_add(out, inside + at, plain);
        at += plain + 1;
        if (at >= len)
            break;

        char c = inside[at++];
        const char *named = c ? strchr(names, c) : NULL;

        if (c == 'u')
            at = unescape_unicode(out, inside, len, at);
        else
            text_add(out, named ? &bytes[named - names] : &c, 1);
    }
}

static void new_line(struct text *out, unsigned depth)
{
    static const char line[] = "\n                                                                ";

    text_add(out, line, 1 + MIN((size_t)depth * 2, sizeof(line) - 2));
    for (size_t done = sizeof(line) - 2; done < (size_t)depth * 2; done += 2)
        text_add(out, "  ", 2);
}

void jsontext_indent(struct text *out, const char *json, size_t len)
{
    unsigned depth = 0;
    size_t at = 0;

    while (at < len) {
        size_t begin = at;
        char c = json[at];

        if (c == '"') {
            at = string_end(json, len, begin);
            text_add(out, json + begin, at - begin);
        } else if (c == '{' || c == '[') {
            at = skip_space(json, len, at + 1);
            text_add(out, &c, 1);
            if (at < len && (json[at] == '}' || json[at] == ']'))
                text_add(out, &json[at++], 1);
            else
                new_line(out, ++depth);
        } else if (c == '}' || c == ']') {
            depth -= depth > 0;
            new_line(out, depth);
            text_add(out, &c, 1);
            at++;
        } else if (c == ',') {
            text_add(out, ",", 1);
            new_line(out, depth);
            at++;
        } else if (c == ':') {
            text_add(out, ": ", 2);
            at++;
        } else if (is_space(c)) {
            at++;
        } else {
            at = MAX(scalar_end(json, len, begin), begin + 1);
            text_add(out, json + begin, at - begin);
        }
    }
}

bool jsontext_holds(const char *json, size_t len, const char *needle, size_t needle_len,
                    struct text *scratch)
{
    struct jsontext_walk walk = {.json = json, .len = len};
    struct jsontext_token token;

    while (jsontext_next(&walk, &token)) {
        const char *bytes = token.text;
        size_t n = token.len;

        if (token.kind == JSONTEXT_KEY)
            continue;
        if (token.kind == JSONTEXT_STRING && memchr(bytes, '\\', n)) {
            scratch->len = 0;
            jsontext_unescape(scratch, bytes, n);
            bytes = scratch->data;
            n = scratch->len;
        }
        if (needle_len == 0 || (n >= needle_len && memmem(bytes, n, needle, needle_len)))
            return true;
    }
    return false;
}
