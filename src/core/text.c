// SPDX-License-Identifier: Apache-2.0

#include "core/text.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MAX_DEFAULT (16 * 1024 * 1024)
#define ESCAPE_MAX       16
#define QUOTED_BYTES     40
#define WORD_MAX         64 /* bytes of a word that are compared */

/* Set on what utf8_decode() returns for a byte that does not belong to a character. */
#define INVALID          UINT32_C(0x80000000)

void text_done(struct text *t)
{
    free(t->data);
    *t = (struct text){.max = t->max};
}

/* Room for `len` more bytes and the NUL. */
static bool reserve(struct text *t, size_t len)
{
    size_t max = t->max ? t->max : TEXT_MAX_DEFAULT, cap;
    char *data;

    if (t->failed)
        return false;
    if (len > max || t->len > max - len)
        goto fail;
    if (t->len + len < t->cap)
        return true;

    cap = MAX(t->len + len + 1, 2 * t->cap + 64);
    cap = MIN(cap, max + 1);
    data = realloc(t->data, cap);
    if (!data)
        goto fail;
    t->data = data;
    t->cap = cap;
    return true;

fail:
    t->failed = true;
    return false;
}

void text_add(struct text *t, const char *bytes, size_t len)
{
    if (len == 0 || !reserve(t, len))
        return;
    memcpy(t->data + t->len, bytes, len);
    t->len += len;
    t->data[t->len] = '\0';
}

void text_adds(struct text *t, const char *s)
{
    text_add(t, s, strlen(s));
}

void text_addf(struct text *t, const char *format, ...)
{
    va_list args;
    int len;

    va_start(args, format);
    len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (len < 0) {
        t->failed = true;
        return;
    }
    if (len == 0 || !reserve(t, (size_t)len))
        return;

    va_start(args, format);
    vsnprintf(t->data + t->len, (size_t)len + 1, format, args);
    va_end(args);
    t->len += (size_t)len;
}

/* The character at the beginning of `bytes`, shortest form only (RFC 3629); `len` is not 0. */
static uint32_t utf8_decode(const char *bytes, size_t len, size_t *ret_len)
{
    const unsigned char *s = (const unsigned char *)bytes;
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    uint32_t c = n < 2 ? s[0] : s[0] & (0x7fU >> n);

    *ret_len = 1;
    if (n == 0 || n > len || s[0] > 0xf4)
        return INVALID | s[0];
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return INVALID | s[0];
        c = c << 6 | (s[i] & 0x3f);
    }
    if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000) || c > 0x10ffff ||
        (c >= 0xd800 && c <= 0xdfff))
        return INVALID | s[0];
    *ret_len = n;
    return c;
}

/* Copies bytes in runs; `escape` says which characters must not pass, and what stands for them. */
static void add_escaped(struct text *t, const char *bytes, size_t max,
                        bool (*escape)(uint32_t c, char ret[ESCAPE_MAX]))
{
    size_t len = strnlen(bytes, max), run = 0, n;

    for (size_t i = 0; i < len; i += n) {
        uint32_t c = utf8_decode(bytes + i, len - i, &n);
        char escaped[ESCAPE_MAX];

        if (!escape(c, escaped))
            continue;
        text_add(t, bytes + run, i - run);
        text_adds(t, escaped);
        run = i + n;
    }
    text_add(t, bytes + run, len - run);
}

/** Beyond ASCII: what acts on a terminal, reorders what is around it, or cannot be seen. */
static bool is_hidden(uint32_t c)
{
    static const struct {
        uint32_t first, last;
    } hidden[] = {
        {0x80, 0x9f},       /* C1 controls */
        {0xad, 0xad},       /* soft hyphen */
        {0x61c, 0x61c},     /* Arabic letter mark */
        {0x180e, 0x180e},   /* Mongolian vowel separator */
        {0x200b, 0x200f},   /* zero width, direction marks */
        {0x2028, 0x202e},   /* line and paragraph separators, embeddings and overrides */
        {0x2060, 0x206f},   /* word joiner, invisible operators, isolates */
        {0xfeff, 0xfeff},   /* zero width no-break space */
        {0xfff9, 0xfffb},   /* interlinear annotations */
        {0xfffe, 0xffff},   /* no characters */
        {0xe0000, 0xe007f}, /* tags */
    };

    for (size_t i = 0; i < ARRAY_SIZE(hidden) && c >= hidden[i].first; i++) {
        if (c <= hidden[i].last)
            return true;
    }
    return false;
}

static bool escape_json(uint32_t c, char ret[ESCAPE_MAX])
{
    static const char names[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *name;

    if (c & INVALID) {
        snprintf(ret, ESCAPE_MAX, "\xef\xbf\xbd");
        return true;
    }
    if (c < 0x80 ? c >= 0x20 && c != '"' && c != '\\' && c != 0x7f : !is_hidden(c))
        return false;
    name = c < 0x80 ? strchr(names, (int)c) : NULL;
    if (name)
        snprintf(ret, ESCAPE_MAX, "\\%c", letters[name - names]);
    else if (c < 0x10000)
        snprintf(ret, ESCAPE_MAX, "\\u%04x", (unsigned)c);
    else /* as UTF-16 */
        snprintf(ret, ESCAPE_MAX, "\\u%04x\\u%04x", 0xd800 + (unsigned)((c - 0x10000) >> 10),
                 0xdc00 + (unsigned)(c & 0x3ff));
    return true;
}

static bool escape_printable(uint32_t c, char ret[ESCAPE_MAX])
{
    if (c & INVALID || c < 0x20 || c == 0x7f) {
        snprintf(ret, ESCAPE_MAX, "\\x%02x", (unsigned)(c & 0xff));
        return true;
    }
    if (c < 0x80 || !is_hidden(c))
        return false;
    snprintf(ret, ESCAPE_MAX, "\\u{%04x}", (unsigned)c);
    return true;
}

void text_add_json(struct text *t, const char *bytes, size_t max)
{
    add_escaped(t, bytes, max, escape_json);
}

void text_add_printable(struct text *t, const char *bytes, size_t max)
{
    add_escaped(t, bytes, max, escape_printable);
}

const char *text_quote(const char *bytes, char ret[TEXT_QUOTED_MAX])
{
    _cleanup_(text_done) struct text t = {};
    size_t len = strnlen(bytes, QUOTED_BYTES + 1);
    bool cut = len > QUOTED_BYTES;

    if (cut) {
        /* Not in the middle of a character. */
        for (len = QUOTED_BYTES; len > QUOTED_BYTES - 3 && (bytes[len] & 0xc0) == 0x80; len--)
            ;
    }
    text_add_printable(&t, bytes, len);
    snprintf(ret, TEXT_QUOTED_MAX, "\"%s%s\"", t.data ? t.data : "", cut ? "..." : "");
    return ret;
}

/* Insertions, deletions, changes and swaps of neighbours; case does not count. */
static unsigned edit_distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    unsigned rows[3][WORD_MAX + 1];
    unsigned *before = rows[0], *last = rows[1], *now = rows[2];

    for (size_t j = 0; j <= b_len; j++)
        last[j] = (unsigned)j;
    for (size_t i = 1; i <= a_len; i++) {
        unsigned *free_row = before;

        now[0] = (unsigned)i;
        for (size_t j = 1; j <= b_len; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            unsigned one_longer = MIN(last[j], now[j - 1]) + 1;

            now[j] = MIN(one_longer, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
                y == tolower((unsigned char)a[i - 2]))
                now[j] = MIN(now[j], before[j - 2] + 1);
        }
        before = last;
        last = now;
        now = free_row;
    }
    return last[b_len];
}

void nearest_offer(struct nearest *n, const char *word)
{
    size_t typed_len = strnlen(n->typed, WORD_MAX), word_len = strnlen(word, WORD_MAX);
    unsigned limit = n->found ? n->distance : MIN(2 + (unsigned)typed_len / 4, 4U), distance;

    distance = edit_distance(n->typed, typed_len, word, word_len);
    /* A word of which nothing is left is not near. */
    if (distance < limit && distance < MIN(typed_len, word_len)) {
        n->found = word;
        n->distance = distance;
    }
}
