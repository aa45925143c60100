// SPDX-License-Identifier: Apache-2.0

#include "core/option.h"

#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/text.h"

#define ERROR_MAX       512
#define MANTISSA_MAX    ((unsigned __int128)UINT64_C(1000000000000000000) * 100000)
#define FRACTION_DIGITS 18

/** A kind of number with units. */
struct quantity {
    const char *name;      /* "a duration" */
    const char *base;      /* "nanoseconds" */
    const char *example;   /* how to write one */
    const char *likely[2]; /* units to propose where there is none */
    struct unit {
        const char *name;
        uint64_t factor;
    } units[12]; /* largest first; ends with {} */
};

static const struct quantity duration = {
    .name = "a duration",
    .base = "nanoseconds",
    .example = "write a number and one of ns us ms s m h d, as 100ms or 1h",
    .likely = {"s", "ms"},
    .units =
        {
            {"d", 24 * 3600 * NS_PER_SEC},
            {"h", 3600 * NS_PER_SEC},
            {"m", 60 * NS_PER_SEC},
            {"s", NS_PER_SEC},
            {"ms", NS_PER_MS},
            {"us", NS_PER_US},
            {"ns", 1},
            {},
        },
};

static const struct quantity size = {
    .name = "a size",
    .base = "bytes",
    .example = "write a number and one of B KiB MiB GiB TiB KB MB GB TB, as 64MiB",
    .likely = {"MiB", "B"},
    .units =
        {
            {"TiB", UINT64_C(1) << 40},
            {"TB", UINT64_C(1000000000000)},
            {"GiB", UINT64_C(1) << 30},
            {"GB", UINT64_C(1000000000)},
            {"MiB", UINT64_C(1) << 20},
            {"MB", UINT64_C(1000000)},
            {"KiB", UINT64_C(1) << 10},
            {"KB", UINT64_C(1000)},
            {"B", 1},
            {},
        },
};

/* No units: a plain number. */
static const struct quantity number = {
    .name = "a whole number",
    .example = "write it in digits, as 10",
    .units = {{"", 1}, {}},
};

static const struct quantity *const quantities[] = {
    [OPTION_U64] = &number,
    [OPTION_DURATION] = &duration,
    [OPTION_SIZE] = &size,
};

static const size_t field_sizes[] = {
    [OPTION_BOOL] = sizeof(bool),
    [OPTION_U64] = sizeof(uint64_t),
    [OPTION_DURATION] = sizeof(uint64_t),
    [OPTION_SIZE] = sizeof(uint64_t),
    [OPTION_STRING] = sizeof(char *),
    [OPTION_ENUM] = sizeof(uint64_t),
    [OPTION_LIST] = sizeof(struct string_list),
};

/** Where the words go that say what is wrong. */
struct complaint {
    char *text;
    size_t size;
};

static _printf_(3, 4) int complain(struct complaint c, int result, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (c.size > 0)
        vsnprintf(c.text, c.size, format, args);
    va_end(args);
    return result;
}

static int parse_quantity(const struct quantity *q, const char *text, uint64_t *ret,
                          struct complaint c)
{
    unsigned __int128 mantissa = 0, product, divisor = 1;
    char shown[TEXT_QUOTED_MAX];
    const char *p = text;
    unsigned decimals = 0;
    const struct unit *u;

    text_quote(text, shown);
    if (*p == '-' && isdigit((unsigned char)p[1]))
        return complain(c, -EINVAL, "%s is negative: %s must not be", shown, q->name);
    for (; isdigit((unsigned char)*p); p++) {
        mantissa = mantissa * 10 + (unsigned)(*p - '0');
        if (mantissa > MANTISSA_MAX)
            return complain(c, -ERANGE, "%s is too large", shown);
    }
    if (p == text)
        return complain(c, -EINVAL, "%s is not %s: %s", shown, q->name, q->example);
    if (*p == '.' && q->base && isdigit((unsigned char)p[1])) {
        for (p++; isdigit((unsigned char)*p); p++) {
            mantissa = mantissa * 10 + (unsigned)(*p - '0');
            if (++decimals > FRACTION_DIGITS || mantissa > MANTISSA_MAX)
                return complain(c, -EINVAL, "%s has too many digits", shown);
            divisor *= 10;
        }
    }

    for (u = q->units; u->name && strcmp(u->name, p) != 0; u++)
        ;
    if (!u->name && *p == '\0' && mantissa == 0)
        u--; /* nothing is nothing in every unit */
    else if (!u->name && *p == '\0')
        return complain(c, -EINVAL, "%s has no unit: write %.20s%s or %.20s%s", shown, text,
                        q->likely[0], text, q->likely[1]);
    else if (!u->name)
        return complain(c, -EINVAL, "%s is not %s: %s", shown, q->name, q->example);

    product = mantissa * u->factor;
    if (product % divisor != 0)
        return complain(c, -EINVAL, "%s is not a whole number of %s", shown, q->base);
    product /= divisor;
    if (product > UINT64_MAX)
        return complain(c, -ERANGE, "%s is too large", shown);
    *ret = (uint64_t)product;
    return 0;
}

static char *format_quantity(const struct quantity *q, uint64_t value)
{
    const struct unit *u = q->units;
    char *text;

    if (value == 0) {
        const char *unit = q == &duration ? "s" : q == &size ? "B" : "";

        return asprintf(&text, "0%s", unit) < 0 ? NULL : text;
    }
    while (value % u->factor != 0)
        u++;
    return asprintf(&text, "%ju%s", (uintmax_t)(value / u->factor), u->name) < 0 ? NULL : text;
}

int parse_duration(const char *text, uint64_t *ret_ns)
{
    return parse_quantity(&duration, text, ret_ns, (struct complaint){});
}

int parse_size(const char *text, uint64_t *ret_bytes)
{
    return parse_quantity(&size, text, ret_bytes, (struct complaint){});
}

char *format_duration(uint64_t ns)
{
    return format_quantity(&duration, ns);
}

char *format_size(uint64_t bytes)
{
    return format_quantity(&size, bytes);
}

void string_list_done(struct string_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct string_list){};
}

static int string_list_add(struct string_list *list, const char *item, size_t len)
{
    char **items = reallocarray(list->items, list->n + 1, sizeof(*items));

    if (!items)
        return -ENOMEM;
    list->items = items;
    items[list->n] = strndup(item, len);
    if (!items[list->n])
        return -ENOMEM;
    list->n++;
    return 0;
}

static void *field_of(const struct option *option, const void *values)
{
    return (char *)values + option->offset;
}

static int parse_bool(const char *text, bool *ret, struct complaint c)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    char shown[TEXT_QUOTED_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *ret = i % 2;
            return 0;
        }
    }
    return complain(c, -EINVAL, "%s is neither true nor false (yes, no, on and off will do)",
                    text_quote(text, shown));
}

static int parse_word(const char *const *words, const char *text, uint64_t *ret, struct complaint c)
{
    _cleanup_(text_done) struct text all = {};
    struct nearest meant = {.typed = text};
    char shown[TEXT_QUOTED_MAX];

    for (size_t i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret = i;
            return 0;
        }
        text_addf(&all, "%s%s", i > 0 ? ", " : "", words[i]);
        nearest_offer(&meant, words[i]);
    }
    return complain(c, -EINVAL, "%s must be one of %s%s%s%s", text_quote(text, shown),
                    all.data ? all.data : "(nothing)", meant.found ? "; did you mean \"" : "",
                    meant.found ? meant.found : "", meant.found ? "\"?" : "");
}

static int check_bounds(const struct option *option, const char *text, uint64_t value,
                        struct complaint c)
{
    const struct quantity *q = quantities[option->type];
    uint64_t max = option->max ? option->max : UINT64_MAX;
    _free_ char *low = NULL, *high = NULL;
    char shown[TEXT_QUOTED_MAX];

    if (value >= option->min && value <= max)
        return 0;
    low = format_quantity(q, option->min);
    high = format_quantity(q, max);
    if (!low || !high)
        return complain(c, -ENOMEM, "out of memory");
    text_quote(text, shown);
    if (!option->max)
        return complain(c, -ERANGE, "%s is out of range: must be at least %s", shown, low);
    return complain(c, -ERANGE, "%s is out of range: must be between %s and %s", shown, low, high);
}

/* What cannot be read on a screen has no business in a configuration, and would not survive being
 * written as YAML. */
static int check_readable(const char *text, struct complaint c)
{
    _cleanup_(text_done) struct text t = {};
    char shown[TEXT_QUOTED_MAX];

    text_add_printable(&t, text, SIZE_MAX);
    if (t.failed)
        return complain(c, -ENOMEM, "out of memory");
    if (strcmp(t.data ? t.data : "", text) == 0)
        return 0;
    return complain(c, -EINVAL, "%s contains control characters or is not UTF-8: remove them",
                    text_quote(text, shown));
}

static int check_own(const struct option *option, const char *text, struct complaint c)
{
    const char *wrong = option->check ? option->check(text) : NULL;
    char shown[TEXT_QUOTED_MAX];

    return wrong ? complain(c, -EINVAL, "%s: %s", text_quote(text, shown), wrong) : 0;
}

static int check_item(const struct option *option, const char *item, struct complaint c)
{
    uint64_t index;
    int r = *item ? check_readable(item, c) : complain(c, -EINVAL, "is empty");

    if (r >= 0 && option->words)
        r = parse_word(option->words, item, &index, c);
    return r < 0 ? r : check_own(option, item, c);
}

/* A line for each that is wrong; those for which there is no room are counted. */
static int check_items(const struct option *option, const struct string_list *list,
                       struct complaint c)
{
    enum { REST_MAX = 64 };
    char error[ERROR_MAX] = "";
    size_t used = 0, more = 0;
    int first = 0;

    for (size_t i = 0; i < list->n; i++) {
        int r = check_item(option, list->items[i], (struct complaint){error, sizeof(error)});
        struct complaint rest = {c.text + used, c.size - used};
        size_t len;

        if (r >= 0)
            continue;
        if (r == -ENOMEM)
            return complain(c, r, "out of memory");
        first = first ? first : r;
        len = strlen(error) + sizeof("\nitem 1024: ");
        if (used > 0 && used + len + REST_MAX > c.size) {
            more++;
            continue;
        }
        complain(rest, r, "%sitem %zu: %s", used ? "\n" : "", i + 1, error);
        used = c.size ? strlen(c.text) : 0;
    }
    if (more)
        complain((struct complaint){c.text + used, c.size - used}, first,
                 "\n%zu more items are wrong", more);
    return first;
}

/* The list takes its place among the values, or is freed. */
static int set_list(const struct option *option, struct string_list *list, void *values,
                    struct complaint c)
{
    struct string_list *field = field_of(option, values);
    int r;

    if (list->n > OPTION_LIST_MAX)
        return complain(c, -ERANGE, "has more than %d items", OPTION_LIST_MAX);
    r = check_items(option, list, c);
    if (r >= 0 && option->check_list)
        r = option->check_list(list, c.text, c.size);
    if (r < 0)
        return r;
    string_list_done(field);
    *field = *list;
    *list = (struct string_list){};
    return 0;
}

/* At commas, without the blanks around an item. */
static int split(const char *text, struct string_list *ret)
{
    _free_ char *item = malloc(strlen(text) + 1);
    const char *p = text + strspn(text, " ");
    bool more = *p;
    int r;

    if (!item)
        return -ENOMEM;
    while (more) {
        size_t len = 0, keep = 0; /* up to `keep` no blank is cut off */

        for (p += strspn(p, " "); *p && *p != ','; p++) {
            bool escaped = *p == '\\' && (p[1] == ',' || p[1] == '\\');

            p += escaped;
            item[len++] = *p;
            if (*p != ' ')
                keep = len;
        }
        r = string_list_add(ret, item, keep);
        if (r < 0)
            return r;
        more = *p++ == ',' && ret->n <= OPTION_LIST_MAX;
    }
    return 0;
}

static int parse_scalar(const struct option *option, const char *text, void *values,
                        struct complaint c)
{
    void *field = field_of(option, values);
    _free_ char *copy = NULL;
    uint64_t value = 0;
    bool yes = false;
    int r;

    switch (option->type) {
    case OPTION_BOOL:
        r = parse_bool(text, &yes, c);
        break;
    case OPTION_ENUM:
        r = parse_word(option->words, text, &value, c);
        break;
    case OPTION_STRING:
        r = check_readable(text, c);
        break;
    default:
        r = parse_quantity(quantities[option->type], text, &value, c);
        if (r >= 0)
            r = check_bounds(option, text, value, c);
        break;
    }
    if (r >= 0)
        r = check_own(option, text, c);
    if (r < 0)
        return r;

    if (option->type == OPTION_STRING) {
        copy = strdup(text);
        if (!copy)
            return complain(c, -ENOMEM, "out of memory");
        free(*(char **)field);
        *(char **)field = TAKE_PTR(copy);
    } else if (option->type == OPTION_BOOL) {
        *(bool *)field = yes;
    } else {
        *(uint64_t *)field = value;
    }
    return 0;
}

int option_parse(const struct option *option, const char *text, void *values, char *error,
                 size_t error_size)
{
    _cleanup_(string_list_done) struct string_list list = {};
    struct complaint c = {error, error_size};

    if (option->type != OPTION_LIST)
        return parse_scalar(option, text, values, c);
    if (split(text, &list) < 0)
        return complain(c, -ENOMEM, "out of memory");
    return set_list(option, &list, values, c);
}

int option_parse_list(const struct option *option, const char *const *items, size_t n, void *values,
                      char *error, size_t error_size)
{
    _cleanup_(string_list_done) struct string_list list = {};
    struct complaint c = {error, error_size};

    assert(option->type == OPTION_LIST);
    for (size_t i = 0; i < n; i++) {
        if (string_list_add(&list, items[i], strlen(items[i])) < 0)
            return complain(c, -ENOMEM, "out of memory");
    }
    return set_list(option, &list, values, c);
}

int option_defaults(const struct option *options, void *values)
{
    char error[ERROR_MAX];

    for (const struct option *o = options; o->key; o++)
        memset(field_of(o, values), 0, field_sizes[o->type]);
    for (const struct option *o = options; o->key; o++) {
        int r = option_parse(o, o->fallback, values, error, sizeof(error));

        assert(r == 0 || r == -ENOMEM); /* else the table contradicts itself */
        if (r < 0) {
            option_done(options, values);
            return r;
        }
    }
    return 0;
}

void option_done(const struct option *options, void *values)
{
    for (const struct option *o = options; o->key; o++) {
        void *field = field_of(o, values);

        if (o->type == OPTION_STRING) {
            free(*(char **)field);
            *(char **)field = NULL;
        } else if (o->type == OPTION_LIST) {
            string_list_done(field);
        }
    }
}

void option_swap(const struct option *option, void *a, void *b)
{
    char kept[sizeof(struct string_list)];
    size_t n = field_sizes[option->type];

    memcpy(kept, field_of(option, a), n);
    memcpy(field_of(option, a), field_of(option, b), n);
    memcpy(field_of(option, b), kept, n);
}

static char *list_text(const struct string_list *list)
{
    _cleanup_(text_done) struct text t = {};

    for (size_t i = 0; i < list->n; i++) {
        if (i > 0)
            text_adds(&t, ",");
        for (const char *p = list->items[i]; *p; p++)
            text_addf(&t, "%s%c", *p == ',' || *p == '\\' ? "\\" : "", *p);
    }
    if (t.failed)
        return NULL;
    return t.data ? TAKE_PTR(t.data) : strdup("");
}

char *option_text(const struct option *option, const void *values)
{
    const void *field = field_of(option, values);

    switch (option->type) {
    case OPTION_BOOL:
        return strdup(*(const bool *)field ? "true" : "false");
    case OPTION_STRING:
        return strdup(*(char *const *)field);
    case OPTION_ENUM:
        return strdup(option->words[*(const uint64_t *)field]);
    case OPTION_LIST:
        return list_text(field);
    default:
        return format_quantity(quantities[option->type], *(const uint64_t *)field);
    }
}

const struct option *option_find(const struct option *options, const char *key)
{
    for (const struct option *o = options; o->key; o++) {
        if (strcmp(o->key, key) == 0)
            return o;
    }
    return NULL;
}

bool string_list_has(const struct string_list *list, const char *text)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i], text) == 0)
            return true;
    return false;
}
