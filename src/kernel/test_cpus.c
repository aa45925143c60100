// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "core/clock.h"
#include "core/test_folder.h"
#include "kernel/cpus.h"
#include "kernel/symbols.h"

#define TEXT_START    UINT64_C(0xffffffff81000000)
#define FUNCTION_SIZE UINT64_C(0x1000)
#define N_CPUS        6

static const char *const functions[] = {"do_idle", "vfs_read", "native_safe_halt"};

static char root[] = "/tmp/test_cpus.XXXXXX";
static struct symbols *symbols;
static struct wire_sample samples[N_CPUS];
static unsigned asked[N_CPUS];
static int answer[N_CPUS]; /* 1: a sample, 0: none, or an errno */
static unsigned n_reads;
static bool all_tick;

static uint64_t inside(unsigned function)
{
    return TEXT_START + function * FUNCTION_SIZE + 0x20;
}

/** Of CPU 5 there is no line: it is offline. CPU 2 takes no ticks. */
static void write_stat(void)
{
    char text[1024], from[64], to[64];
    int len = snprintf(text, sizeof(text), "cpu  9 9 9 9\n");

    n_reads++;
    for (unsigned i = 0; i < 5; i++)
        len += snprintf(text + len, sizeof(text) - (size_t)len, "cpu%u 10 0 %u 5000\n", i,
                        i == 2 && !all_tick ? 7 : n_reads);
    snprintf(text + len, sizeof(text) - (size_t)len,
             "cpu99 1 1\ncpux\ncpu4294967297 3\nintr 1 2 3");
    /* Never half written: a number that is cut has changed. */
    snprintf(from, sizeof(from), "%s/proc/stat.new", root);
    snprintf(to, sizeof(to), "%s/proc/stat", root);
    assert_true(test_put_file(root, "/proc/stat.new", text, strlen(text)));
    assert_int_equal(rename(from, to), 0);
}

/** As if the CPU's program ran at once. Another line of /proc/stat with each call. */
static int run(const struct collect *c, unsigned hook, unsigned cpu, unsigned times)
{
    (void)c;
    assert_int_equal(hook, 3);
    assert_int_equal(times, 1);
    assert_true(cpu < N_CPUS);
    asked[cpu]++;
    if (answer[cpu] > 0)
        samples[cpu].time_ns = clock_now_ns(CLOCK_BOOTTIME);
    return answer[cpu] < 0 ? answer[cpu] : 0;
}

static unsigned n_sysrq;
static int sysrq_answer;

static int sysrq(const struct collect *c)
{
    (void)c;
    n_sysrq++;
    return sysrq_answer;
}

static struct collect collect;

static int set_up(void **state)
{
    int fd = memfd_create("kallsyms", MFD_CLOEXEC);

    (void)state;
    if (fd < 0 || !mkdtemp(root))
        return -1;
    for (size_t i = 0; i <= ARRAY_SIZE(functions); i++)
        dprintf(fd, "%016llx t %s\n", (unsigned long long)(TEXT_START + i * FUNCTION_SIZE),
                i < ARRAY_SIZE(functions) ? functions[i] : "_etext");
    return symbols_new(fd, &symbols);
}

static int tear_down(void **state)
{
    (void)state;
    symbols_free(symbols);
    return test_remove_folder(root);
}

static int begin(void **state)
{
    (void)state;
    memset(samples, 0, sizeof(samples));
    memset(asked, 0, sizeof(asked));
    n_sysrq = 0;
    sysrq_answer = -EPERM;
    for (unsigned i = 0; i < N_CPUS; i++)
        answer[i] = 1;
    collect = (struct collect){
        .root_prefix = root,
        .symbols = symbols,
        .run = run,
        .sysrq = sysrq,
        .n_cpus = N_CPUS,
        .samples = samples,
    };
    return 0;
}

static void set_sample(unsigned cpu, const char *comm, uint32_t pid, unsigned n, ...)
{
    va_list functions_of;

    memcpy(samples[cpu].comm, comm, strnlen(comm, WIRE_COMM_LEN));
    samples[cpu].pid = pid;
    samples[cpu].stack_bytes = (int32_t)n * 8;
    va_start(functions_of, n);
    for (unsigned i = 0; i < n; i++)
        samples[cpu].stack[i] = inside(va_arg(functions_of, unsigned));
    va_end(functions_of);
}

/** Instead of libc's: while cpus_record() waits, ticks go on. */
/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): libc's are reserved. */
int nanosleep(const struct timespec *wanted, struct timespec *left)
{
    (void)wanted;
    (void)left;
    write_stat();
    return 0;
}

static json_t *record_of(const struct cpus_known *known, int expected)
{
    static const struct record_origin origin = {
        .hostname = "h", .region = "r", .kernel_release = "k"};
    static const struct event event = {.name = "testing", .tracer_name = "testing"};
    struct record *r = NULL;
    struct doc *doc = NULL;
    json_t *json, *data;

    write_stat();
    assert_int_equal(record_new(&origin, &event, 0, 1, &r), 0);
    assert_int_equal(cpus_record(&collect, 3, known, r), expected);
    assert_int_equal(record_finish(r, 1, &doc), 0);
    record_free(r);
    json = json_loadb(doc->json, doc->len, 0, NULL);
    doc_unref(doc);
    assert_non_null(json);
    data = json_incref(json_object_get(json, "tracer_data"));
    json_decref(json);
    return data;
}

static const char *text_of(const json_t *data)
{
    return json_string_value(json_object_get(data, "cpus_stack"));
}

/** Paragraph by paragraph: the known one is not asked, the silent one is left alone. */
static void test_all(void **state)
{
    static const char comm[WIRE_COMM_LEN] = "culprit";
    const struct cpus_known known = {
        .cpu = 1, .pid = 77, .comm = comm, .stack = "vfs_read/ffffffff81001000 [kernel]"};
    const json_t *missing, *row;
    json_t *data;

    (void)state;
    set_sample(0, "swapper/0", 0, 2, 2U, 0U);
    set_sample(3, "a\nCPU 9: fake", 12, 0);
    set_sample(4, "bash", 5, 1, 1U);
    answer[4] = -ENOENT;
    data = record_of(&known, 0);
    assert_string_equal(text_of(data), "CPU 0: swapper/0[0]\n"
                                       "native_safe_halt/ffffffff81002000 [kernel]\n"
                                       "do_idle/ffffffff81000000 [kernel]\n"
                                       "\n"
                                       "CPU 1: culprit[77]\n"
                                       "vfs_read/ffffffff81001000 [kernel]\n"
                                       "\n"
                                       "CPU 3: a\\x0aCPU 9: fake[12] in user mode");
    assert_int_equal(asked[0], 1);
    assert_int_equal(asked[1], 0);
    assert_int_equal(asked[2], 0);
    assert_int_equal(asked[5], 0);
    missing = json_object_get(data, "cpus_missing");
    assert_int_equal(json_array_size(missing), 2);
    row = json_array_get(missing, 0);
    assert_int_equal(json_integer_value(json_object_get(row, "cpu")), 2);
    assert_string_equal(json_string_value(json_object_get(row, "why")), "it takes no interrupts");
    row = json_array_get(missing, 1);
    assert_int_equal(json_integer_value(json_object_get(row, "cpu")), 4);
    assert_string_equal(json_string_value(json_object_get(row, "why")), "nothing can be run on it");
    assert_int_equal(n_sysrq, 1);
    assert_null(json_object_get(data, "sysrq")); /* it was not allowed */
    json_decref(data);

    sysrq_answer = 0;
    data = record_of(&known, 0);
    assert_true(json_is_true(json_object_get(data, "sysrq")));
    json_decref(data);
    all_tick = true; /* nobody is silent */
    data = record_of(&known, 0);
    assert_int_equal(n_sysrq, 2);
    assert_null(json_object_get(data, "sysrq"));
    all_tick = false;
    json_decref(data);
}

/** What an earlier event has left there is not taken for an answer. */
static void test_late(void **state)
{
    const json_t *row;
    json_t *data;

    (void)state;
    for (unsigned i = 0; i < N_CPUS; i++)
        set_sample(i, "old", 1, 1, 0U);
    samples[0].time_ns = 1;
    answer[0] = 0;
    data = record_of(NULL, 0);
    assert_null(strstr(text_of(data), "CPU 0:"));
    assert_non_null(strstr(text_of(data), "CPU 1: old[1]\n"));
    row = json_array_get(json_object_get(data, "cpus_missing"), 0);
    assert_int_equal(json_integer_value(json_object_get(row, "cpu")), 0);
    assert_string_equal(json_string_value(json_object_get(row, "why")),
                        "it did not answer in time");
    json_decref(data);
}

/** Bytes of the kernel's side that make no sense. */
static void test_bounds(void **state)
{
    json_t *data;

    (void)state;
    for (unsigned i = 0; i < N_CPUS; i++)
        set_sample(i, "wild", 1, 1, 0U);
    samples[0].stack_bytes = INT32_MAX;
    samples[1].stack_bytes = -14;
    data = record_of(NULL, 0);
    assert_non_null(strstr(text_of(data), "CPU 1: wild[1] (its stack could not be taken)\n"));
    json_decref(data);
}

/** No program could be had, and no sample memory: what is known is written all the same. */
static void test_nothing(void **state)
{
    static const char comm[WIRE_COMM_LEN] = "culprit";
    const struct cpus_known known = {.cpu = 0, .pid = 77, .comm = comm, .stack = "f"};
    json_t *data;

    (void)state;
    for (unsigned i = 0; i < N_CPUS; i++)
        answer[i] = -ENOENT;
    collect.samples = NULL;
    collect.n_cpus = 0;
    data = record_of(&known, 0);
    assert_int_equal(strncmp(text_of(data), "CPU 0: culprit[77]\nf", 20), 0);
    json_decref(data);
    collect.root_prefix = "/nonexistent";
    data = record_of(&known, -ENOENT);
    assert_null(text_of(data));
    json_decref(data);
}

/** A machine with very many CPUs, and deep stacks on all of them. */
static void test_many(void **state)
{
    static const char comm[WIRE_COMM_LEN] = "culprit";
    static char stack[128 * 1024 + 1];
    const struct cpus_known known = {.cpu = 1, .pid = 77, .comm = comm, .stack = stack};
    json_t *data;

    (void)state;
    memset(stack, 'f', sizeof(stack) - 1);
    all_tick = true;
    data = record_of(&known, 0);
    all_tick = false;
    assert_non_null(strstr(text_of(data), "CPU 0: "));
    assert_non_null(strstr(text_of(data), "CPU 1: culprit[77]\nfff"));
    assert_non_null(strstr(text_of(data), "f\n\n(from CPU 2 on they are left out)"));
    assert_null(strstr(text_of(data), "CPU 2: "));
    json_decref(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_all, begin),    cmocka_unit_test_setup(test_late, begin),
        cmocka_unit_test_setup(test_bounds, begin), cmocka_unit_test_setup(test_nothing, begin),
        cmocka_unit_test_setup(test_many, begin),
    };

    return cmocka_run_group_tests_name("cpus", tests, set_up, tear_down);
}
