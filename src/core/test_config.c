// SPDX-License-Identifier: Apache-2.0

#include "core/config.h"
#include "core/text.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)

struct store_values {
    uint64_t retain, max_size, mode;
    char *path;
};

struct drop_values {
    bool enabled;
    uint64_t ring_size, limit, any, window;
    struct string_list protocols, rules;
};

static const char *must_be_absolute(const char *text)
{
    return *text == '/' ? NULL : "must begin with a slash";
}

static const char *const modes[] = {"daily", "datastream", NULL};
static const char *const protocols[] = {"tcp", "udp", "icmp", NULL};

static const struct option store_table[] = {
    {
        .key = "path",
        .type = OPTION_STRING,
        .offset = offsetof(struct store_values, path),
        .fallback = "/var/lib/huatuo",
        .check = must_be_absolute,
        .help = "Where | what.",
    },
    {
        .key = "retain",
        .type = OPTION_DURATION,
        .offset = offsetof(struct store_values, retain),
        .fallback = "7d",
        .min = 100 * NS_PER_MS,
        .max = 30 * 24 * 3600 * NS_PER_SEC,
        .help = "How long.",
    },
    {
        .key = "max_size",
        .type = OPTION_SIZE,
        .offset = offsetof(struct store_values, max_size),
        .fallback = "1GiB",
        .min = MIB,
        .help = "How much.",
    },
    {
        .key = "mode",
        .type = OPTION_ENUM,
        .offset = offsetof(struct store_values, mode),
        .fallback = "daily",
        .words = modes,
        .help = "Which.",
    },
    {},
};

static const struct option drop_table[] = {
    {
        .key = "enabled",
        .type = OPTION_BOOL,
        .offset = offsetof(struct drop_values, enabled),
        .fallback = "true",
        .help = "Watch.",
    },
    {
        .key = "ring_size",
        .type = OPTION_SIZE,
        .offset = offsetof(struct drop_values, ring_size),
        .fallback = "8MiB",
        .min = 4096,
        .max = 1024 * MIB,
        .help = "Memory.",
    },
    {
        .key = "limit",
        .type = OPTION_U64,
        .offset = offsetof(struct drop_values, limit),
        .fallback = "10",
        .min = 1,
        .max = 1000,
        .help = "How many.",
    },
    {
        .key = "any",
        .type = OPTION_U64,
        .offset = offsetof(struct drop_values, any),
        .fallback = "0",
        .help = "Unbounded.",
    },
    {
        .key = "window",
        .type = OPTION_DURATION,
        .offset = offsetof(struct drop_values, window),
        .fallback = "1m",
        .help = "Length.",
    },
    {
        .key = "protocols",
        .type = OPTION_LIST,
        .offset = offsetof(struct drop_values, protocols),
        .fallback = "tcp,udp",
        .words = protocols,
        .help = "Which.",
    },
    {
        .key = "rules",
        .type = OPTION_LIST,
        .offset = offsetof(struct drop_values, rules),
        .fallback = "",
        .help = "What to leave out.",
    },
    {},
};

static const struct option_section store_part = {.name = "store",
                                                 .help = "The store.",
                                                 .options = store_table,
                                                 .size = sizeof(struct store_values)};
static const struct option_section drop_part = {.name = "dropwatch",
                                                .help = "Drops.",
                                                .options = drop_table,
                                                .size = sizeof(struct drop_values)};
static const struct option_section *const parts[] = {&store_part, &drop_part};

static struct config *fresh(void)
{
    struct config *config = NULL;

    assert_int_equal(config_new(parts, ARRAY_SIZE(parts), &config), 0);
    return config;
}

static struct store_values *store_of(const struct config *config)
{
    return config_section(config, "store");
}

static struct drop_values *drop_of(const struct config *config)
{
    return config_section(config, "dropwatch");
}

static char directory[] = "/tmp/test_config.XXXXXX";

/* In the test's own directory, which is the current one: messages name the file as it was given. */
static void write_file(const char *name, const char *bytes, size_t len)
{
    _close_fd_ int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
}

static int read_bytes(struct config *config, const char *yaml, size_t len, char **ret_errors)
{
    write_file("c.yaml", yaml, len);
    return config_read_file(config, "c.yaml", ret_errors);
}

static void read_well(struct config *config, const char *yaml)
{
    _free_ char *errors = NULL;

    if (read_bytes(config, yaml, strlen(yaml), &errors) != 0)
        fail_msg("refused: %s\n%s", yaml, errors);
    assert_null(errors);
}

struct number {
    const char *text;
    int result;
    uint64_t value;
    const char *shortest; /* NULL: not to be formatted */
};

static void check_numbers(const struct number *numbers, size_t n,
                          int (*parse)(const char *text, uint64_t *ret), char *(*format)(uint64_t))
{
    for (size_t i = 0; i < n; i++) {
        const struct number *c = &numbers[i];
        _free_ char *text = NULL;
        uint64_t value = 4711;
        int r = parse(c->text, &value);

        if (r != c->result || value != (r == 0 ? c->value : 4711))
            fail_msg("\"%s\": %d, %ju", c->text, r, (uintmax_t)value);
        if (c->shortest) {
            text = format(value);
            assert_string_equal(text, c->shortest);
        }
    }
}

static void test_durations(void **state)
{
    static const struct number numbers[] = {
        {"0", 0, 0, NULL},
        {"0s", 0, 0, "0s"},
        {"1ns", 0, 1, "1ns"},
        {"100ms", 0, 100 * NS_PER_MS, "100ms"},
        {"5s", 0, 5 * NS_PER_SEC, "5s"},
        {"60s", 0, 60 * NS_PER_SEC, "1m"},
        {"90s", 0, 90 * NS_PER_SEC, "90s"},
        {"24h", 0, 86400 * NS_PER_SEC, "1d"},
        {"1.5s", 0, 1500 * NS_PER_MS, "1500ms"},
        {"0.000000001s", 0, 1, "1ns"},
        {"1.50ms", 0, 1500 * NS_PER_US, "1500us"},
        {"18446744073709551615ns", 0, UINT64_MAX, "18446744073709551615ns"},
        {"18446744073.709551615s", 0, UINT64_MAX, NULL},
        {"000000000000000000000000000001s", 0, NS_PER_SEC, NULL},
        {"18446744073709551616ns", -ERANGE},
        {"18446744073709551615s", -ERANGE},
        {"213503d", 0, UINT64_C(213503) * 86400 * NS_PER_SEC, "213503d"},
        {"213504d", -ERANGE},
        {"99999999999999999999999999999999999999999d", -ERANGE},
        {"340282366920938463463374607431768211457ns", -ERANGE}, /* 1 in 128 bits */
        {"1.5ns", -EINVAL},
        {"0.0000000001s", -EINVAL},
        {"0.00000000000000000000000000000000000000001s", -EINVAL},
        {"5", -EINVAL},
        {"-5s", -EINVAL},
        {"+5s", -EINVAL},
        {" 5s", -EINVAL},
        {"5 s", -EINVAL},
        {"5s ", -EINVAL},
        {"5S", -EINVAL},
        {"5sec", -EINVAL},
        {"5MiB", -EINVAL},
        {"1h30m", -EINVAL},
        {"1.s", -EINVAL},
        {".5s", -EINVAL},
        {"1.2.3s", -EINVAL},
        {"1e3s", -EINVAL},
        {"0x10s", -EINVAL},
        {"s", -EINVAL},
        {"", -EINVAL},
        {"inf", -EINVAL},
        {"nan", -EINVAL},
    };

    (void)state;
    check_numbers(numbers, ARRAY_SIZE(numbers), parse_duration, format_duration);
}

static void test_sizes(void **state)
{
    static const struct number numbers[] = {
        {"0", 0, 0, NULL},
        {"0B", 0, 0, "0B"},
        {"64MiB", 0, 64 * MIB, "64MiB"},
        {"1024KiB", 0, MIB, "1MiB"},
        {"1000KB", 0, 1000000, "1MB"},
        {"1.5KiB", 0, 1536, "1536B"},
        {"1TiB", 0, UINT64_C(1) << 40, "1TiB"},
        {"1TB", 0, UINT64_C(1000000000000), "1TB"},
        {"4097B", 0, 4097, "4097B"},
        {"16777215TiB", 0, UINT64_C(16777215) << 40, "16777215TiB"},
        {"16777216TiB", -ERANGE},
        {"64", -EINVAL},
        {"64M", -EINVAL},
        {"64mib", -EINVAL},
        {"1.0001KiB", -EINVAL},
        {"-1B", -EINVAL},
        {"", -EINVAL},
    };

    (void)state;
    check_numbers(numbers, ARRAY_SIZE(numbers), parse_size, format_size);
}

/* What is formatted is parsed back, whatever it is. */
static void test_numbers_round_trip(void **state)
{
    uint64_t value = 88172645463325252;

    (void)state;
    for (unsigned i = 0; i < 2000; i++) {
        uint64_t back = 0, rough;
        _free_ char *duration = NULL, *size = NULL;

        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        rough = value >> i % 64;
        rough -= rough % (i % 3 ? 1000 : 1024);
        duration = format_duration(rough);
        size = format_size(rough);
        assert_int_equal(parse_duration(duration, &back), 0);
        assert_true(back == rough);
        back = 0;
        assert_int_equal(parse_size(size, &back), 0);
        assert_true(back == rough);
    }
}

static void test_defaults(void **state)
{
    _cleanup_(config_freep) struct config *config = fresh();

    (void)state;
    assert_string_equal(store_of(config)->path, "/var/lib/huatuo");
    assert_true(store_of(config)->retain == 7 * 86400 * NS_PER_SEC);
    assert_true(store_of(config)->max_size == 1024 * MIB);
    assert_int_equal(store_of(config)->mode, 0);
    assert_true(drop_of(config)->enabled);
    assert_int_equal(drop_of(config)->limit, 10);
    assert_int_equal(drop_of(config)->protocols.n, 2);
    assert_string_equal(drop_of(config)->protocols.items[1], "udp");
    assert_int_equal(drop_of(config)->rules.n, 0);
    assert_null(config_section(config, "nothing"));
}

static void test_good_file(void **state)
{
    _cleanup_(config_freep) struct config *config = fresh();
    struct drop_values *drop = drop_of(config);

    (void)state;
    read_well(config, "# a comment\n"
                      "---\n"
                      "store: {path: /srv, retain: 12h}\n"
                      "dropwatch:\n"
                      "  enabled: Off\n"
                      "  ring_size: \"1MiB\"\n"
                      "  limit: 0010 # in digits, never octal\n"
                      "  protocols:\n"
                      "  - icmp\n"
                      "  rules: [ 'a,b', \"c\\\\d\", ' e ' ]\n");
    assert_string_equal(store_of(config)->path, "/srv");
    assert_true(store_of(config)->retain == 12 * 3600 * NS_PER_SEC);
    assert_true(store_of(config)->max_size == 1024 * MIB); /* not named: as before */
    assert_ptr_equal(drop, drop_of(config));
    assert_false(drop->enabled);
    assert_true(drop->ring_size == MIB);
    assert_int_equal(drop->limit, 10);
    assert_int_equal(drop->protocols.n, 1);
    assert_string_equal(drop->protocols.items[0], "icmp");
    assert_int_equal(drop->rules.n, 3);
    assert_string_equal(drop->rules.items[0], "a,b");
    assert_string_equal(drop->rules.items[1], "c\\d");
    assert_string_equal(drop->rules.items[2], " e ");

    /* Over what there is. */
    read_well(config, "dropwatch:\n  limit: 7\n  protocols: []\n  rules: one, t\\,wo\n");
    assert_int_equal(drop->limit, 7);
    assert_false(drop->enabled);
    assert_int_equal(drop->protocols.n, 0);
    assert_int_equal(drop->rules.n, 2);
    assert_string_equal(drop->rules.items[1], "t,wo");
}

static void test_empty_files(void **state)
{
    static const char *const files[] = {
        "",
        "\n\n",
        "# only a comment\n",
        "---\n",
        "---\n...\n",
        "{}\n",
        "store:\n",
        "store: {}\ndropwatch:\n#  enabled: no\n",
        "\xef\xbb\xbfstore:\n",
        "%YAML 1.1\n---\nstore:\n",
    };
    _cleanup_(config_freep) struct config *config = fresh();
    _free_ char *before = config_text(config), *after = NULL;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(files); i++)
        read_well(config, files[i]);
    after = config_text(config);
    assert_string_equal(before, after);
}

/* A bad file, and all that is said of it; `says` is the whole text unless it ends in "*". */
static const struct bad {
    const char *yaml, *says;
} bad_files[] = {
    /* names */
    {"store:\n  retain: 5s\n\n  protcols: tcp\n", "c.yaml:4: store.protcols: unknown key"},
    {"dropwatch:\n  protcols: tcp\n",
     "c.yaml:2: dropwatch.protcols: unknown key; did you mean \"protocols\"?"},
    {"dropwach:\n  enabled: yes\n",
     "c.yaml:1: dropwach: unknown section; did you mean \"dropwatch\"?"},
    {"nonsense: 1\n", "c.yaml:1: nonsense: unknown section"},
    {"dropwatch.enabled: no\n",
     "c.yaml:1: dropwatch.enabled: in a file, write \"dropwatch:\" and the "
     "key, indented, below it"},
    {"1: {}\n", "c.yaml:1: 1: unknown section"},
    {"\"a\\eb\": {}\n", "c.yaml:1: a\\x1bb: unknown section"},
    {"\"store\\0\": {}\n", "c.yaml:1: a NUL byte is not allowed here: remove it"},
    {"? [store]\n: {}\n", "c.yaml:1: a name must be a single word, followed by a colon"},
    {"store:\n  ? {a: b}\n  : 1\n", "c.yaml:2: a name must be a single word, followed by a colon"},

    /* twice */
    {"store:\n  retain: 1s\n  max_size: 1GiB\n  retain: 2s\n",
     "c.yaml:4: store.retain: set twice, first on line 2: remove one"},
    {"store:\n  retain: 1s\ndropwatch:\nstore:\n  mode: daily\n",
     "c.yaml:4: store: this section stands twice, first on line 1: put them together"},
    {"store: {}\n---\nstore: {}\n",
     "c.yaml:2: a second document begins here: only one is allowed in a file"},

    /* shapes */
    {"just words\n",
     "c.yaml:1: a configuration is made of sections: write \"section:\" and its keys, "
     "indented, below it"},
    {"- store\n- dropwatch\n", "c.yaml:1: a configuration is made of sections: *"},
    {"store: yes\n", "c.yaml:1: store: is a section: write its keys, indented, below it"},
    {"store: [retain]\n", "c.yaml:1: store: is a section: *"},
    {"store:\n  retain:\n    days: 3\n", "c.yaml:3: store.retain: takes one value, not a mapping"},
    {"store:\n  retain: [1s]\n", "c.yaml:2: store.retain: takes one value, not a list"},
    {"dropwatch:\n  rules: {a: b}\n",
     "c.yaml:2: dropwatch.rules: takes a list or one value, not a mapping"},
    {"dropwatch:\n  rules:\n  - a\n  - b: c\n  - [d]\n",
     "c.yaml:4: dropwatch.rules: an item of the list must be a single value\n"
     "c.yaml:5: dropwatch.rules: an item of the list must be a single value"},
    {"store:\n  path:\n  mode: daily\n",
     "c.yaml:2: store.path: has no value: leave the key out for its default, or write \"\""},
    {"store:\n  retain: ~\n",
     "c.yaml:2: store.retain: has no value: leave the key out for its default"},
    {"dropwatch:\n  rules: null\n",
     "c.yaml:2: dropwatch.rules: has no value: leave the key out for its "
     "default, or write [] for none"},
    {"store: {path: /a, retain: {b: {c: {d: [e, {f: g}]}}}, mode: x}\n",
     "c.yaml:1: store.retain: takes one value, not a mapping\n"
     "c.yaml:1: store.mode: \"x\" must be one of daily, datastream"},

    /* anchors, aliases, tags */
    {"store: &a\n  retain: 1s\n",
     "c.yaml:1: anchors (&name) and aliases (*name) are not supported*"},
    {"store:\n  retain: &a 1s\n  path: *a\n", "c.yaml:2: anchors (&name) and aliases (*name) are "
                                              "not supported: write the value out, or put one "
                                              "that begins so in quotes\n"
                                              "c.yaml:3: anchors (&name) and aliases (*name) are "
                                              "not supported: write the value out, or put one "
                                              "that begins so in quotes"},
    {"dropwatch:\n  rules: [*b]\n", "c.yaml:2: anchors *"},
    {"store:\n  <<: *defaults\n", "c.yaml:2: anchors *"},
    {"*a : 1\n", "c.yaml:1: anchors *"},
    {"*a\n", "c.yaml:1: anchors *"},
    {"store:\n  retain: !!str 1s\n", "c.yaml:2: tags (!name) are not supported: *"},
    {"!x\nstore: {}\n", "c.yaml:1: tags (!name) are not supported: *"},
    {"dropwatch:\n  rules: !set [a]\n", "c.yaml:2: tags *"},

    /* values */
    {"dropwatch:\n  enabled: maybe\n", "c.yaml:2: dropwatch.enabled: \"maybe\" is neither true nor "
                                       "false (yes, no, on and off will do)"},
    {"dropwatch:\n  enabled: 1\n", "c.yaml:2: dropwatch.enabled: \"1\" is neither *"},
    {"dropwatch:\n  limit: ten\n",
     "c.yaml:2: dropwatch.limit: \"ten\" is not a whole number: write it in digits, as 10"},
    {"dropwatch:\n  limit: 1.0\n", "c.yaml:2: dropwatch.limit: \"1.0\" is not a whole number: *"},
    {"dropwatch:\n  limit: 0x10\n", "c.yaml:2: dropwatch.limit: \"0x10\" is not a whole number: *"},
    {"dropwatch:\n  limit: 5s\n", "c.yaml:2: dropwatch.limit: \"5s\" is not a whole number: *"},
    {"dropwatch:\n  limit: ''\n", "c.yaml:2: dropwatch.limit: \"\" is not a whole number: *"},
    {"dropwatch:\n  limit: -1\n",
     "c.yaml:2: dropwatch.limit: \"-1\" is negative: a whole number must not be"},
    {"dropwatch:\n  any: 18446744073709551616\n",
     "c.yaml:2: dropwatch.any: \"18446744073709551616\" is too large"},
    {"dropwatch:\n  limit: 0\n",
     "c.yaml:2: dropwatch.limit: \"0\" is out of range: must be between 1 and 1000"},
    {"dropwatch:\n  limit: 1001\n",
     "c.yaml:2: dropwatch.limit: \"1001\" is out of range: must be between 1 and 1000"},
    {"store:\n  retain: 5\n", "c.yaml:2: store.retain: \"5\" has no unit: write 5s or 5ms"},
    {"store:\n  retain: 99ms\n",
     "c.yaml:2: store.retain: \"99ms\" is out of range: must be between 100ms and 30d"},
    {"store:\n  retain: 31d\n",
     "c.yaml:2: store.retain: \"31d\" is out of range: must be between 100ms and 30d"},
    {"store:\n  retain: -5s\n",
     "c.yaml:2: store.retain: \"-5s\" is negative: a duration must not be"},
    {"store:\n  retain: 1.5ns\n",
     "c.yaml:2: store.retain: \"1.5ns\" is not a whole number of nanoseconds"},
    {"store:\n  retain: forever\n",
     "c.yaml:2: store.retain: \"forever\" is not a duration: write a number "
     "and one of ns us ms s m h d, as 100ms or 1h"},
    {"store:\n  max_size: 64\n",
     "c.yaml:2: store.max_size: \"64\" has no unit: write 64MiB or 64B"},
    {"store:\n  max_size: 1KiB\n",
     "c.yaml:2: store.max_size: \"1KiB\" is out of range: must be at least 1MiB"},
    {"store:\n  mode: dayly\n",
     "c.yaml:2: store.mode: \"dayly\" must be one of daily, datastream; did you "
     "mean \"daily\"?"},
    {"store:\n  path: tmp\n", "c.yaml:2: store.path: \"tmp\": must begin with a slash"},
    {"store:\n  path: |\n    /tmp\n",
     "c.yaml:2: store.path: \"/tmp\\x0a\" contains control characters or is "
     "not UTF-8: remove them"},
    {"store:\n  path: \"/\\e[31m\"\n", "c.yaml:2: store.path: \"/\\x1b[31m\" contains control *"},
    {"store:\n  path: \"/a\\0b\"\n", "c.yaml:2: a NUL byte is not allowed here: remove it"},
    {"dropwatch:\n  protocols: [tcp, upd]\n",
     "c.yaml:2: dropwatch.protocols: item 2: \"upd\" must be one of "
     "tcp, udp, icmp; did you mean \"udp\"?"},
    {"dropwatch:\n  protocols: [upd, tcp, sctp]\n  rules: [a, '', b, '']\n",
     "c.yaml:2: dropwatch.protocols: item 1: \"upd\" must be one of "
     "tcp, udp, icmp; did you mean \"udp\"?\n"
     "c.yaml:2: dropwatch.protocols: item 3: \"sctp\" must be one of tcp, udp, icmp; did you mean "
     "\"tcp\"?\n"
     "c.yaml:3: dropwatch.rules: item 2: is empty\n"
     "c.yaml:3: dropwatch.rules: item 4: is empty"},
    {"dropwatch:\n  protocols: sctp\n",
     "c.yaml:2: dropwatch.protocols: item 1: \"sctp\" must be one of *"},
    {"dropwatch:\n  rules: a,,b\n", "c.yaml:2: dropwatch.rules: item 2: is empty"},
    {"dropwatch:\n  rules: [a, '']\n", "c.yaml:2: dropwatch.rules: item 2: is empty"},
    {"dropwatch:\n  rules: [a, \"b\\0\"]\n", "c.yaml:2: a NUL byte *"},

    /* all of them */
    {"dropwatch:\n  limit: 0\n  nope: 1\n  window: 5\nstor:\n  a: b\nstore:\n  mode: x\n",
     "c.yaml:2: dropwatch.limit: \"0\" is out of range: must be between 1 and 1000\n"
     "c.yaml:3: dropwatch.nope: unknown key\n"
     "c.yaml:4: dropwatch.window: \"5\" has no unit: write 5s or 5ms\n"
     "c.yaml:5: stor: unknown section; did you mean \"store\"?\n"
     "c.yaml:8: store.mode: \"x\" must be one of daily, datastream"},

    /* no YAML */
    {"dropwatch:\n  limit: 0\n  any: [1\n",
     "c.yaml:2: dropwatch.limit: \"0\" is out of range: must be "
     "between 1 and 1000\nc.yaml:3: dropwatch.any: takes one "
     "value, not a list\nc.yaml:4: not valid YAML: *"},
    {"store:\n\tretain: 1s\n",
     "c.yaml:2: not valid YAML: while scanning for the next token: found "
     "character that cannot start any token; indent with spaces, not tabs"},
    {"store:\n  retain: 1s\n path: /\n", "c.yaml:3: not valid YAML: *"},
    {"store:\n  path: \"/\n", "c.yaml:3: not valid YAML: *"},
    {"store:\n  path: /\xff\n", "c.yaml:2: not valid YAML: *"},
    {"store:\n  path: /\xc0\xaf\n", "c.yaml:2: not valid YAML: *"},
    {"a: b: c\n", "c.yaml:1: a: unknown section\nc.yaml:1: not valid YAML: *"},
    {"%YAML 3.0\n---\nstore:\n", "c.yaml:1: not valid YAML: *"},
};

static void test_bad_files(void **state)
{
    _cleanup_(config_freep) struct config *config = fresh();
    _free_ char *before = config_text(config);

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad_files); i++) {
        const struct bad *bad = &bad_files[i];
        size_t len = strlen(bad->says), n = bad->says[len - 1] == '*' ? len - 1 : len + 1;
        _free_ char *errors = NULL, *after = NULL;
        int r = read_bytes(config, bad->yaml, strlen(bad->yaml), &errors);

        if (r != -EINVAL || !errors || strncmp(errors, bad->says, n) != 0)
            fail_msg("%s\n%d, expected:\n%s\nbut it says:\n%s", bad->yaml, r, bad->says,
                     errors ? errors : "(nothing)");
        after = config_text(config);
        assert_string_equal(before, after);
    }
}

/* Good values in a bad file are not taken over either, of whatever type and before or after. */
static void test_all_or_nothing(void **state)
{
    static const char yaml[] = "store:\n  path: /other\n  retain: 3s\n"
                               "dropwatch:\n  rules: [a, b]\n  limit: bad\n  enabled: no\n";
    _cleanup_(config_freep) struct config *config = fresh();
    _free_ char *errors = NULL, *before = NULL, *after = NULL;

    (void)state;
    read_well(config, "dropwatch: {rules: [kept]}\nstore: {path: /kept}\n");
    before = config_text(config);
    assert_int_equal(read_bytes(config, yaml, strlen(yaml), &errors), -EINVAL);
    after = config_text(config);
    assert_string_equal(before, after);
}

/* As many as there may be: each is named or counted. */
static void test_many_bad_items(void **state)
{
    _cleanup_(config_freep) struct config *config = fresh();
    _cleanup_(text_done) struct text set = {};
    _free_ char *errors = NULL;
    size_t named = 0, more = 0;

    (void)state;
    text_adds(&set, "dropwatch.protocols=tcp");
    for (unsigned i = 0; i < OPTION_LIST_MAX - 1; i++)
        text_addf(&set, ",wrong-%u", i);
    assert_int_equal(config_set(config, set.data, &errors), -EINVAL);
    for (const char *at = errors; (at = strstr(at, ": item ")); at++)
        named++;
    more = strtoul(strrchr(errors, ':') + 2, NULL, 10);
    assert_true(named > 10);
    assert_int_equal(named + more, OPTION_LIST_MAX - 1);
    assert_non_null(strstr(errors, " more items are wrong"));
}

/* Nobody writes into it, and it does not wait for that. */
static void test_no_regular_file(void **state)
{
    _cleanup_(config_freep) struct config *config = fresh();
    char dir[] = "/tmp/test_config.XXXXXX", path[64];
    _free_ char *errors = NULL;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/fifo", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20);
    assert_int_equal(config_read_file(config, path, &errors), -EINVAL);
    alarm(0);
    unlink(path);
    rmdir(dir);
    assert_non_null(strstr(errors, "is no regular file"));
}

static void test_unreadable(void **state)
{
    static char large[1024 * 1024 + 1];
    _cleanup_(config_freep) struct config *config = fresh();
    _free_ char *missing = NULL, *folder = NULL, *too_large = NULL, *none = NULL;

    (void)state;
    assert_int_equal(config_read_file(config, "no\n.yaml", &missing), -ENOENT);
    assert_string_equal(missing, "no\\x0a.yaml: the configuration cannot be read: No such file or "
                                 "directory; check the path and who may read it");
    assert_int_equal(config_read_file(config, ".", &folder), -EISDIR);
    assert_non_null(strstr(folder, "Is a directory"));

    memset(large, '#', sizeof(large));
    assert_int_equal(read_bytes(config, large, sizeof(large), &too_large), -EFBIG);
    assert_non_null(strstr(too_large, "larger than 1 MiB"));
    assert_int_equal(read_bytes(config, large, sizeof(large) - 1, &none), 0);
}

static void test_many_problems(void **state)
{
    _cleanup_(config_freep) struct config *config = fresh();
    _free_ char *yaml = calloc(5001, 8), *errors = NULL;
    unsigned lines = 0;

    (void)state;
    assert_non_null(yaml);
    for (unsigned i = 0; i < 5000; i++)
        memcpy(yaml + (size_t)i * 8, "zzz: {}\n", 8);
    assert_int_equal(read_bytes(config, yaml, strlen(yaml), &errors), -EINVAL);
    for (const char *p = errors; *p; p++)
        lines += *p == '\n';
    assert_int_equal(lines, 100);
    assert_non_null(strstr(errors,
                           "c.yaml:100: zzz: unknown section\n"
                           "c.yaml:100: too many problems; what follows was not looked at"));
}

static void test_long_lists(void **state)
{
    static const size_t counts[] = {OPTION_LIST_MAX, OPTION_LIST_MAX + 1, OPTION_LIST_MAX + 2,
                                    2 * OPTION_LIST_MAX};
    static char yaml[4 * OPTION_LIST_MAX + 64], set[4 * OPTION_LIST_MAX + 64];

    (void)state;
    for (size_t k = 0; k < ARRAY_SIZE(counts); k++) {
        size_t n = counts[k];
        _cleanup_(config_freep) struct config *config = NULL;
        _free_ char *errors = NULL, *set_errors = NULL;
        int y, s;

        y = snprintf(yaml, sizeof(yaml), "dropwatch: {rules: [");
        s = snprintf(set, sizeof(set), "dropwatch.rules=");
        for (size_t i = 0; i < n; i++) {
            y += snprintf(yaml + y, sizeof(yaml) - (size_t)y, "%sx", i > 0 ? "," : "");
            s += snprintf(set + s, sizeof(set) - (size_t)s, "%sx", i > 0 ? "," : "");
        }
        y += snprintf(yaml + y, sizeof(yaml) - (size_t)y, "]}\n");

        config = fresh();
        if (n <= OPTION_LIST_MAX) {
            read_well(config, yaml);
            assert_int_equal(drop_of(config)->rules.n, n);
            assert_int_equal(config_set(config, "dropwatch.rules=", &set_errors), 0);
            assert_int_equal(drop_of(config)->rules.n, 0);
            assert_int_equal(config_set(config, set, &set_errors), 0);
            assert_int_equal(drop_of(config)->rules.n, n);
            continue;
        }
        assert_int_equal(read_bytes(config, yaml, (size_t)y, &errors), -EINVAL);
        assert_string_equal(errors, "c.yaml:1: dropwatch.rules: has more than 1024 items");
        assert_int_equal(config_set(config, set, &set_errors), -ERANGE);
        assert_string_equal(set_errors, "--set dropwatch.rules: has more than 1024 items");
        assert_int_equal(drop_of(config)->rules.n, 0);
    }
}

/* What makes naive readers slow or deep. */
static void test_nesting_bombs(void **state)
{
    static const char *const units[] = {"[", "{", "- ", "? ", "{a: ", "[[", "&a [", "!!a "};
    _cleanup_(config_freep) struct config *config = fresh();
    static char yaml[256 * 1024];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(units) * 2; i++) {
        const char *unit = units[i / 2];
        const char *head = i % 2 ? "dropwatch:\n  rules: " : "";
        _free_ char *errors = NULL;
        size_t len = strlen(head);

        memcpy(yaml, head, len);
        while (len + strlen(unit) <= sizeof(yaml)) {
            memcpy(yaml + len, unit, strlen(unit));
            len += strlen(unit);
        }
        assert_int_equal(read_bytes(config, yaml, len, &errors), -EINVAL);
        assert_non_null(errors);
    }
}

static void test_set(void **state)
{
    static const struct {
        const char *assignment, *says; /* NULL: it is good */
    } cases[] = {
        {"dropwatch.limit=7", NULL},
        {"dropwatch.enabled=off", NULL},
        {"dropwatch.protocols=icmp", NULL},
        {"dropwatch.rules=a\\,b, c=d ,e\\\\", NULL},
        {"store.path=/a=b.c", NULL},
        {"store.mode=datastream", NULL},
        {"dropwatch.limt=7", "--set dropwatch.limt: unknown key; did you mean \"limit\"?"},
        {"dropwach.limit=7", "--set dropwach.limit: unknown section; did you mean \"dropwatch\"?"},
        {"dropwatch.limit=0",
         "--set dropwatch.limit: \"0\" is out of range: must be between 1 and 1000"},
        {"store.retain=5", "--set store.retain: \"5\" has no unit: write 5s or 5ms"},
        {"dropwatch.protocols=tcp,x",
         "--set dropwatch.protocols: item 2: \"x\" must be one of tcp, "
         "udp, icmp"},
        {"store.path=/\xff", "--set store.path: \"/\\xff\" contains control characters or is not "
                             "UTF-8: remove them"},
        {"store.path=/\xc2\x85",
         "--set store.path: \"/\\u{0085}\" contains control characters or is "
         "not UTF-8: remove them"},
        {"dropwatch.rules=a,,b,", "--set dropwatch.rules: item 2: is empty\n"
                                  "--set dropwatch.rules: item 4: is empty"},
        {"dropwatch.rules=,", "--set dropwatch.rules: item 1: is empty\n"
                              "--set dropwatch.rules: item 2: is empty"},
        {"dropwatch.limit", "--set dropwatch.limit: write it as section.key=value"},
        {"dropwatch=1", "--set dropwatch: write it as section.key=value"},
        {"=1", "--set : write it as section.key=value"},
        {".limit=1", "--set .limit: write it as section.key=value"},
        {"dropwatch.=1", "--set dropwatch.: write it as section.key=value"},
        {"a\x1b.b=1", "--set a\\x1b.b: unknown section"},
        {"", "--set : write it as section.key=value"},
    };
    _cleanup_(config_freep) struct config *config = fresh();
    const struct string_list *rules = &drop_of(config)->rules;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _free_ char *before = config_text(config), *after = NULL, *errors = NULL;
        int r = config_set(config, cases[i].assignment, &errors);

        if (!cases[i].says) {
            assert_int_equal(r, 0);
            assert_null(errors);
            continue;
        }
        assert_true(r == -EINVAL || r == -ERANGE);
        assert_string_equal(errors, cases[i].says);
        after = config_text(config);
        assert_string_equal(before, after);
    }
    assert_int_equal(drop_of(config)->limit, 7);
    assert_false(drop_of(config)->enabled);
    assert_int_equal(drop_of(config)->protocols.n, 1);
    assert_string_equal(store_of(config)->path, "/a=b.c");
    assert_int_equal(store_of(config)->mode, 1);
    assert_int_equal(rules->n, 3);
    assert_string_equal(rules->items[0], "a,b");
    assert_string_equal(rules->items[1], "c=d");
    assert_string_equal(rules->items[2], "e\\");
}

static void test_option_text(void **state)
{
    static const struct {
        const char *key, *text, *back;
    } cases[] = {
        {"enabled", "No", "false"},
        {"limit", "0042", "42"},
        {"window", "0.5s", "500ms"},
        {"ring_size", "2048KiB", "2MiB"},
        {"rules", "a, b\\,c ,d\\\\e\\f", "a,b\\,c,d\\\\e\\\\f"},
        {"rules", "", ""},
    };
    struct drop_values values;

    (void)state;
    assert_int_equal(option_defaults(drop_table, &values), 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct option *option = option_find(drop_table, cases[i].key);
        _free_ char *text = NULL, *again = NULL;
        char error[100];

        assert_non_null(option);
        assert_int_equal(option_parse(option, cases[i].text, &values, error, sizeof(error)), 0);
        text = option_text(option, &values);
        assert_string_equal(text, cases[i].back);
        assert_int_equal(option_parse(option, text, &values, error, sizeof(error)), 0);
        again = option_text(option, &values);
        assert_string_equal(again, text);
    }
    option_done(drop_table, &values);
    assert_null(option_find(drop_table, "nothing"));
}

/* A short buffer for the error is filled, not overrun. */
static void test_short_error(void **state)
{
    struct drop_values values = {};
    char error[8] = "1234567";

    (void)state;
    assert_int_equal(option_parse(&drop_table[0], "maybe", &values, error, 6), -EINVAL);
    assert_string_equal(error, "\"mayb");
    assert_int_equal(error[6], '7');
    assert_int_equal(option_parse(&drop_table[0], "maybe", &values, NULL, 0), -EINVAL);
}

static void test_round_trip(void **state)
{
    static const char *const assignments[] = {
        "store.path=/a \"b\" 'c' \\d: # \xe5\x8d\x8e\xf0\x9f\x90\xa7",
        "store.retain=90s",
        "store.max_size=2000000B",
        "store.mode=datastream",
        "dropwatch.enabled=no",
        "dropwatch.any=18446744073709551615",
        "dropwatch.window=1ns",
        "dropwatch.protocols=icmp,tcp",
        "dropwatch.rules=*a,&b,!c,- d,null,~,{e},[f\\,g],%h,\\\\",
    };
    _cleanup_(config_freep) struct config *config = fresh(), *other = fresh();
    _free_ char *defaults = config_text(config), *text = NULL, *back = NULL;

    (void)state;
    read_well(other, defaults);
    back = config_text(other);
    assert_string_equal(defaults, back);
    free(TAKE_PTR(back));

    for (size_t i = 0; i < ARRAY_SIZE(assignments); i++) {
        _free_ char *errors = NULL;

        assert_int_equal(config_set(config, assignments[i], &errors), 0);
    }
    text = config_text(config);
    assert_string_not_equal(text, defaults);
    read_well(other, text);
    back = config_text(other);
    assert_string_equal(text, back);
    assert_string_equal(store_of(other)->path, assignments[0] + strlen("store.path="));
    assert_int_equal(drop_of(other)->rules.n, 10);
    assert_string_equal(drop_of(other)->rules.items[7], "[f,g]");
}

static void test_text(void **state)
{
    _cleanup_(config_freep) struct config *config = fresh();
    _free_ char *text = config_text(config);

    (void)state;
    assert_string_equal(text, "store:\n"
                              "  path: \"/var/lib/huatuo\"\n"
                              "  retain: 7d\n"
                              "  max_size: 1GiB\n"
                              "  mode: \"daily\"\n"
                              "\n"
                              "dropwatch:\n"
                              "  enabled: true\n"
                              "  ring_size: 8MiB\n"
                              "  limit: 10\n"
                              "  any: 0\n"
                              "  window: 1m\n"
                              "  protocols: [\"tcp\", \"udp\"]\n"
                              "  rules: []\n");
}

static void test_markdown(void **state)
{
    static const char *const rows[] = {
        "# Configuration\n",
        "--set section.key=value",
        ("\n## store\n\nThe store.\n\n| key | type | default | allowed | meaning |\n"
         "|---|---|---|---|---|\n"),
        "\n| `path` | string | `/var/lib/huatuo` |  | Where \\| what. |\n",
        "\n| `retain` | duration | `7d` | `100ms` to `30d` | How long. |\n",
        "\n| `max_size` | size | `1GiB` | at least `1MiB` | How much. |\n",
        "\n| `mode` | word | `daily` | `daily`, `datastream` | Which. |\n",
        "\n| `enabled` | bool | `true` |  | Watch. |\n",
        "\n| `limit` | number | `10` | `1` to `1000` | How many. |\n",
        "\n| `any` | number | `0` |  | Unbounded. |\n",
        "\n| `protocols` | list | `tcp,udp` | `tcp`, `udp`, `icmp` | Which. |\n",
        "\n| `rules` | list | (empty) |  | What to leave out. |\n",
    };
    _free_ char *text = config_markdown(parts, ARRAY_SIZE(parts));
    const char *p = text;

    (void)state;
    assert_non_null(text);
    assert_memory_equal(text, rows[0], strlen(rows[0]));
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const char *found = strstr(p, rows[i]); /* in this order */

        if (!found)
            fail_msg("missing, or in the wrong place: %s", rows[i]);
        else
            p = found;
    }
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/*
 * Files with bytes changed, removed, doubled, and pieces of YAML put in: each is either taken, and
 * then what it makes can be read again, or refused with words that can be shown, and then changes
 * nothing.
 */
static void test_any_bytes(void **state)
{
    static const char seed[] = "store:\n  path: \"/srv\"\n  retain: 1.5h\n  max_size: 2GiB\n"
                               "  mode: daily # a comment, in which much may happen\ndropwatch:\n  "
                               "enabled: yes\n  limit: 12\n"
                               "  protocols: [tcp, 'udp']\n  rules:\n  - one\n  - \"t\\x41wo\"\n";
    static const char *const pieces[] = {
        "&a ",  "*a", "!!str ", "- ", "? ",  ": ", "\n---\n", "{",  "}",    "[", "]",         "|\n",
        ">-\n", "\t", "\"",     "'",  "\\0", "#",  "\xff",    "\n", "\n  ", "~", "%YAML 9\n", ","};
    uint32_t random = 2463534242;
    unsigned taken = 0, refused = 0;

    (void)state;
    for (unsigned i = 0; i < 2000; i++) {
        _cleanup_(config_freep) struct config *config = fresh();
        _free_ char *before = config_text(config), *after = NULL, *errors = NULL;
        unsigned changes = i % 4 ? 1 : 2 + next_random(&random) % 4;
        size_t len = sizeof(seed) - 1;
        char yaml[512];
        int r;

        memcpy(yaml, seed, len);
        for (unsigned k = 0; k < changes; k++) {
            const char *piece = pieces[next_random(&random) % ARRAY_SIZE(pieces)];
            size_t at = next_random(&random) % len, cut = 1 + next_random(&random) % 8;

            switch (next_random(&random) % 4) {
            case 0:
                yaml[at] = (char)next_random(&random);
                break;
            case 1:
                cut = MIN(cut, len - at);
                memmove(yaml + at, yaml + at + cut, len - at - cut);
                len -= cut;
                break;
            case 2:
                memmove(yaml + at + strlen(piece), yaml + at, len - at);
                memcpy(yaml + at, piece, strlen(piece));
                len += strlen(piece);
                break;
            default:
                cut = MIN(cut, len - at);
                memmove(yaml + at + cut, yaml + at, len - at);
                len += cut;
                break;
            }
            if (len == 0)
                yaml[len++] = '\n';
        }

        r = read_bytes(config, yaml, len, &errors);
        after = config_text(config);
        assert_non_null(after);
        if (r == 0) {
            _cleanup_(config_freep) struct config *other = fresh();
            _free_ char *again = NULL;

            taken++;
            assert_null(errors);
            read_well(other, after);
            again = config_text(other);
            assert_string_equal(again, after);
        } else {
            refused++;
            assert_int_equal(r, -EINVAL);
            assert_string_equal(after, before);
            assert_non_null(errors);
            assert_true(strncmp(errors, "c.yaml:", 7) == 0);
            for (const char *p = errors; *p; p++)
                assert_true(*p == '\n' || ((unsigned char)*p >= 0x20 && *p != 0x7f));
        }
    }
    assert_true(taken > 200 && refused > 1000); /* else it would prove little */
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    unlink("c.yaml");
    return chdir("/") < 0 || rmdir(directory) < 0 ? -1 : 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_numbers_round_trip),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_empty_files),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_all_or_nothing),
        cmocka_unit_test(test_many_bad_items),
        cmocka_unit_test(test_no_regular_file),
        cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_many_problems),
        cmocka_unit_test(test_long_lists),
        cmocka_unit_test(test_nesting_bombs),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_option_text),
        cmocka_unit_test(test_short_error),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_markdown),
        cmocka_unit_test(test_any_bytes),
    };

    return cmocka_run_group_tests_name("config", tests, set_up, tear_down);
}
