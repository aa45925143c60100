// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/clock.h"
#include "core/text.h"
#include "kernel/symbols.h"

/* As the kernel writes it: two functions with padding, marks, data, a module, programs. */
static const char sample[] = "ffffffff81000000 T _stext\n"
                             "ffffffff81000000 T startup_64\n"
                             "ffffffff81000000 t startup_alias\n"
                             "ffffffff81001000 t __pfx_vfs_write\n"
                             "ffffffff81001010 T vfs_write\n"
                             "ffffffff81001100 T panic\n"
                             "ffffffff81001200 t do_it.isra.0\n"
                             "ffffffff81001300 t do_it.part.3\n"
                             "ffffffff81001400 t do_it\n"
                             "ffffffff81001500 t do_it_not\n"
                             "ffffffff81001600 T kfree_skb\n"
                             "ffffffff81001700 T __traceiter_kfree_skb\n"
                             "ffffffff81001800 T __bpf_trace_kfree_skb\n"
                             "ffffffff81001900 T bpf_trace_run3\n"
                             "ffffffff81001a00 T asm_sysvec_apic_timer_interrupt\n"
                             "ffffffff81001b00 T bpf_prog_put\n"
                             "ffffffff81001c00 t weak_one\n"
                             "ffffffff81001c00 W weak_other\n"
                             "ffffffff81001d00 t do_it.cold\n"
                             "ffffffff81001e00 T last_of_text\n"
                             "ffffffff81002000 T _etext\n"
                             "ffffffff81400000 D some_data\n"
                             "ffffffff81500000 b more_data\n"
                             "ffffffffc0f3bed0 t xfs_file_buffered_aio_write\t[xfs]\n"
                             "ffffffffc0f3c000 d xfs_table\t[xfs]\n"
                             "ffffffffc0f40000 t xfs_last\t[xfs]\n"
                             "ffffffffc1000000 t other_first\t[other]\n"
                             "ffffffffc2000000 t bpf_prog_6deef7357e7b4530_dropwatch\t[bpf]\n"
                             "ffffffffc2000100 t bpf_prog_1111111111111111_theirs\t[bpf]\n"
                             "ffffffffc2001000 t bpf_trampoline_6442483847\t[bpf]\n";

static int table_fd(const char *content)
{
    int fd = memfd_create("kallsyms", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
    return fd;
}

static void rewrite(int fd, const char *content)
{
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, content, strlen(content), 0), strlen(content));
}

static struct symbols *read_table(const char *content)
{
    struct symbols *s;

    assert_int_equal(symbols_new(table_fd(content), &s), 0);
    return s;
}

static void assert_found(const struct symbols *s, uint64_t addr, const char *name, uint64_t start,
                         const char *module)
{
    struct symbol symbol;

    assert_int_equal(symbols_find(s, addr, &symbol), 0);
    assert_string_equal(symbol.name, name);
    assert_int_equal(symbol.start, start);
    assert_string_equal(symbol.module, module);
    assert_true(addr - symbol.start < symbol.size);
}

static void assert_not_found(const struct symbols *s, uint64_t addr)
{
    struct symbol symbol;

    assert_int_equal(symbols_find(s, addr, &symbol), -ENOENT);
}

static void assert_stack(struct symbols *s, const uint64_t *addrs, size_t n, const char *expected)
{
    _free_ char *text = symbols_stack_text(s, addrs, n);

    assert_non_null(text);
    assert_string_equal(text, expected);
}

static void test_find(void **state)
{
    _cleanup_(symbols_freep) struct symbols *s = read_table(sample);
    struct symbol symbol;

    (void)state;
    assert_int_equal(symbols_state(s), SYMBOLS_OK);
    assert_string_equal(symbols_reason(s), "");
    assert_int_equal(symbols_count(s), 24);

    assert_found(s, 0xffffffff81001010, "vfs_write", 0xffffffff81001010, "kernel");
    assert_found(s, 0xffffffff810010ff, "vfs_write", 0xffffffff81001010, "kernel");
    assert_found(s, 0xffffffff81001100, "panic", 0xffffffff81001100, "kernel");
    assert_found(s, 0xffffffffc0f3bed5, "xfs_file_buffered_aio_write", 0xffffffffc0f3bed0, "xfs");
    assert_found(s, 0xffffffffc2000010, "bpf_prog_6deef7357e7b4530_dropwatch", 0xffffffffc2000000,
                 "bpf");

    /* Of two names the first; marks of the linker are no functions. */
    assert_found(s, 0xffffffff81000000, "startup_64", 0xffffffff81000000, "kernel");
    assert_found(s, 0xffffffff81001c08, "weak_one", 0xffffffff81001c00, "kernel");

    assert_int_equal(symbols_find(s, 0xffffffff81001010, &symbol), 0);
    assert_int_equal(symbol.size, 0xf0);
}

static void test_ends(void **state)
{
    _cleanup_(symbols_freep) struct symbols *s = read_table(sample);

    (void)state;
    assert_not_found(s, 0);
    assert_not_found(s, 0xffffffff80ffffff);
    assert_not_found(s, 0xffffffff81001008); /* padding */
    assert_found(s, 0xffffffff81001fff, "last_of_text", 0xffffffff81001e00, "kernel");
    assert_not_found(s, 0xffffffff81002000); /* behind the text */
    assert_not_found(s, 0xffffffff81400010); /* data */
    assert_not_found(s, 0xffffffffc0f3c000); /* a module's data ends its function */
    assert_found(s, 0xffffffffc0f40100, "xfs_last", 0xffffffffc0f40000, "xfs");
    assert_not_found(s, 0xffffffffc0f60000); /* far behind a module's last function */
    assert_not_found(s, 0xffffffffc0ffffff);
    assert_found(s, 0xffffffffc2001010, "bpf_trampoline_6442483847", 0xffffffffc2001000, "bpf");
    assert_not_found(s, 0xffffffffc3000000); /* far behind the last one */
    assert_not_found(s, UINT64_MAX);
}

static void test_by_name(void **state)
{
    _cleanup_(symbols_freep) struct symbols *s = read_table(sample);
    struct symbol found[8];

    (void)state;
    assert_int_equal(symbols_by_name(s, "do_it", found, 8), 4);
    assert_string_equal(found[0].name, "do_it.isra.0");
    assert_string_equal(found[1].name, "do_it.part.3");
    assert_string_equal(found[2].name, "do_it");
    assert_string_equal(found[3].name, "do_it.cold");
    assert_int_equal(found[3].start, 0xffffffff81001d00);

    found[2].name = "untouched";
    assert_int_equal(symbols_by_name(s, "do_it", found, 2), 4);
    assert_string_equal(found[2].name, "untouched");
    assert_int_equal(symbols_by_name(s, "weak_other", found, 8), 1);
    assert_int_equal(symbols_by_name(s, "do_i", found, 8), 0);
    assert_int_equal(symbols_by_name(s, "some_data", found, 8), 0);
    assert_int_equal(symbols_by_name(s, "", found, 8), 0);
}

static void test_address(void **state)
{
    _close_fd_ int fd = table_fd(sample), hidden = table_fd("0000000000000000 D some_data\n");
    uint64_t address = 0;
    char path[64];

    (void)state;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    assert_int_equal(symbols_address(path, "some_data", &address), 0);
    assert_int_equal(address, 0xffffffff81400000);
    assert_int_equal(symbols_address(path, "vfs_write", &address), 0);
    assert_int_equal(address, 0xffffffff81001010);
    assert_int_equal(symbols_address(path, "_stext", &address), 0);
    /* Only what is called that, and by the kernel itself. */
    assert_int_equal(symbols_address(path, "some_dat", &address), -ENOENT);
    assert_int_equal(symbols_address(path, "data", &address), -ENOENT);
    assert_int_equal(symbols_address(path, "xfs_table", &address), -ENOENT);
    assert_int_equal(symbols_address(path, "", &address), -ENOENT);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", hidden);
    assert_int_equal(symbols_address(path, "some_data", &address), -ENOENT);
    assert_int_equal(symbols_address("/nowhere", "some_data", &address), -ENOENT);
}

static void test_stack_text(void **state)
{
    _cleanup_(symbols_freep) struct symbols *s = read_table(sample);
    static const uint64_t stack[] = {
        0xffffffff81001080, 0xffffffff81001680, 0xffffffffc0f3bee0, 0xffffffffc1800000, 0x1234,
    };
    /* panic() is called by the last instruction of vfs_write, so it returns to panic's start. */
    static const uint64_t no_return[] = {0xffffffff81001150, 0xffffffff81001100};
    /* vfs_write was interrupted at its first instruction, panic at its own. */
    static const uint64_t interrupted[] = {0xffffffff81001a10, 0xffffffff81001100,
                                           0xffffffff81001010};

    (void)state;
    assert_stack(s, stack, ARRAY_SIZE(stack),
                 "vfs_write/ffffffff81001010 [kernel]\n"
                 "kfree_skb/ffffffff81001600 [kernel]\n"
                 "xfs_file_buffered_aio_write/ffffffffc0f3bed0 [xfs]\n"
                 "ffffffffc1800000\n"
                 "0000000000001234");
    assert_stack(s, no_return, 2,
                 "panic/ffffffff81001100 [kernel]\n"
                 "vfs_write/ffffffff81001010 [kernel]");
    assert_stack(s, interrupted, 3,
                 "asm_sysvec_apic_timer_interrupt/ffffffff81001a00 [kernel]\n"
                 "panic/ffffffff81001100 [kernel]\n"
                 "vfs_write/ffffffff81001010 [kernel]");
    assert_stack(s, &no_return[1], 1, "panic/ffffffff81001100 [kernel]");
    assert_stack(s, NULL, 0, "");
}

static void test_machinery(void **state)
{
    _cleanup_(symbols_freep) struct symbols *s = read_table(sample);
    static const uint64_t tracepoint[] = {
        0xffffffffc2000010, 0xffffffff81001910, 0xffffffff81001810, 0xffffffff81001710,
        0xffffffff81001610, 0xffffffffc2000110, 0xffffffff81001910, 0xffffffff81001020,
    };
    static const uint64_t fentry[] = {0xffffffffc2000010, 0xffffffffc2001010, 0xffffffff81001610};
    static const uint64_t unread[] = {0xffffffffc3000010, 0xffffffff81001910, 0xffffffff81001610};
    static const uint64_t culprit[] = {0xffffffffc2000110, 0xffffffff81001610};
    static const uint64_t unknown[] = {0xffffffffc3000010, 0xffffffff81001610};
    static const uint64_t similar[] = {0xffffffff81001b10, 0xffffffff81001610};

    (void)state;
    /* Deeper down it is somebody else's. */
    assert_stack(s, tracepoint, ARRAY_SIZE(tracepoint),
                 "kfree_skb/ffffffff81001600 [kernel]\n"
                 "bpf_prog_1111111111111111_theirs/ffffffffc2000100 [bpf]\n"
                 "bpf_trace_run3/ffffffff81001900 [kernel]\n"
                 "vfs_write/ffffffff81001010 [kernel]");
    assert_stack(s, fentry, 3, "kfree_skb/ffffffff81001600 [kernel]");
    assert_stack(s, unread, 3, "kfree_skb/ffffffff81001600 [kernel]");
    /* An interrupted program that our machinery did not call. */
    assert_stack(s, culprit, 2,
                 "bpf_prog_1111111111111111_theirs/ffffffffc2000100 [bpf]\n"
                 "kfree_skb/ffffffff81001600 [kernel]");
    assert_stack(s, unknown, 2, "ffffffffc3000010\nkfree_skb/ffffffff81001600 [kernel]");
    assert_stack(s, similar, 2,
                 "bpf_prog_put/ffffffff81001b00 [kernel]\n"
                 "kfree_skb/ffffffff81001600 [kernel]");
    assert_stack(s, tracepoint, 4, "");
}

static void test_place_and_has(void **state)
{
    _cleanup_(symbols_freep) struct symbols *s = read_table(sample);
    static const uint64_t stack[] = {0xffffffff81001080, 0xffffffff81001210, 0xffffffffc1800000};
    _free_ char *known = symbols_place_text(s, 0xffffffff81001012);
    _free_ char *start = symbols_place_text(s, 0xffffffff81001100);
    _free_ char *unknown = symbols_place_text(s, 0xffffffffc1800000);

    (void)state;
    assert_string_equal(known, "vfs_write+0x2");
    assert_string_equal(start, "panic+0x0");
    assert_string_equal(unknown, "0xffffffffc1800000");

    assert_true(symbols_stack_has(s, stack, 3, "vfs_write"));
    assert_true(symbols_stack_has(s, stack, 3, "do_it"));
    assert_true(symbols_stack_has(s, stack, 3, "do_it.isra.0"));
    assert_false(symbols_stack_has(s, stack, 3, "do_it.part.3"));
    assert_false(symbols_stack_has(s, stack, 3, "vfs_writ"));
    assert_false(symbols_stack_has(s, stack, 3, "panic"));
    assert_false(symbols_stack_has(s, stack, 0, "vfs_write"));
}

static void test_hidden(void **state)
{
    _cleanup_(symbols_freep) struct symbols *s = read_table("0000000000000000 T _stext\n"
                                                            "0000000000000000 T vfs_write\n"
                                                            "0000000000000000 t f\t[xfs]\n");
    static const uint64_t stack[] = {0xffffffff81001080, 0xffffffffc0f3bee0};

    (void)state;
    assert_int_equal(symbols_state(s), SYMBOLS_HIDDEN);
    assert_non_null(strstr(symbols_reason(s), "/proc/sys/kernel/kptr_restrict"));
    assert_non_null(strstr(symbols_reason(s), "agent's own program"));
    assert_non_null(strstr(symbols_reason(s), "(place=) take nothing out"));
    assert_non_null(strstr(symbols_reason(s), "[confidentiality]")); /* not cut off */
    assert_non_null(strstr(symbols_reason(s), "lockdown"));
    assert_int_equal(symbols_count(s), 0);
    assert_stack(s, stack, 2, "ffffffff81001080\nffffffffc0f3bee0");
    assert_int_equal(symbols_refresh(s, UINT64_MAX), 0);
}

static void test_missing(void **state)
{
    _cleanup_(symbols_freep) struct symbols *none = NULL, *empty = read_table("");
    _cleanup_(symbols_freep) struct symbols *directory = NULL;
    struct symbol symbol;

    (void)state;
    assert_int_equal(symbols_new(-1, &none), 0);
    assert_int_equal(symbols_state(none), SYMBOLS_MISSING);
    assert_non_null(strstr(symbols_reason(none), "Bad file descriptor"));
    assert_int_equal(symbols_find(none, 1, &symbol), -ENOENT);
    assert_int_equal(symbols_refresh(none, UINT64_MAX), 0);

    assert_int_equal(symbols_state(empty), SYMBOLS_MISSING);
    assert_non_null(strstr(symbols_reason(empty), "CONFIG_KALLSYMS"));

    assert_int_equal(symbols_new(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), &directory), 0);
    assert_int_equal(symbols_state(directory), SYMBOLS_MISSING);
    assert_null(symbols_free(NULL));
}

static void test_garbled(void **state)
{
    static const char lines[] = "\n"
                                " \n"
                                "ffffffff81000000\n"
                                "ffffffff81000000 T\n"
                                "ffffffff81000000 T \n"
                                "gfffffff81000000 T not_hex\n"
                                "-1 T negative\n"
                                "1ffffffff81000000 T too_long\n"
                                "ffffffff81000000  T two_blanks\n"
                                "ffffffff81000000 TT two_types\n"
                                "ffffffff81000000 T esc\033[2J\n"
                                "ffffffff81000000 T module_open\t[xfs\n"
                                "ffffffff81000000 T module_empty\t[]\n"
                                "ffffffff81000000 T module_none\tx\n"
                                "ffffffff81000300 T good\t[xfs]\n"
                                "ffffffff81000200 T early\n" /* out of order */
                                "ffffffff81000300 T good\t[xfs]\n"
                                "FFFFFFFF81000000 T upper_case\n"
                                "ffffffff81000400 T no_newline_at_end";
    _cleanup_(text_done) struct text content = {0};
    _cleanup_(symbols_freep) struct symbols *s = NULL;
    struct symbol found[4];

    (void)state;
    /* A line longer than any buffer, one over the limit of names, and one that must be found. */
    text_addf(&content, "ffffffff81000500 T %0200000d\n", 0);
    text_addf(&content, "ffffffff81000600 T %0512d\n", 0);
    text_addf(&content, "ffffffff81000100 T behind\n%s", lines);
    assert_false(content.failed);

    s = read_table(content.data);
    assert_int_equal(symbols_state(s), SYMBOLS_OK);
    assert_int_equal(symbols_count(s), 3);
    assert_found(s, 0xffffffff81000110, "behind", 0xffffffff81000100, "kernel");
    assert_found(s, 0xffffffff81000210, "early", 0xffffffff81000200, "kernel");
    assert_found(s, 0xffffffff81000310, "good", 0xffffffff81000300, "xfs");
    assert_int_equal(symbols_by_name(s, "good", found, 4), 1);

    /* Nothing that could be read at all. */
    symbols_free(s);
    s = read_table("\x7f"
                   "ELF\x02\x01\x01");
    assert_int_equal(symbols_state(s), SYMBOLS_MISSING);
}

/* Lines across the borders of what is read at a time: every one must be there. */
static void test_many(void **state)
{
    enum { N = 30000 };
    _cleanup_(text_done) struct text content = {0};
    _cleanup_(symbols_freep) struct symbols *s = NULL;

    (void)state;
    for (unsigned i = 0; i < N; i++)
        text_addf(&content, "%016llx t f%u%s\n", 0xffff800000000000ULL + i * 16, i * 7919,
                  i % 3 ? "" : "\t[m]");
    assert_false(content.failed);
    s = read_table(content.data);
    assert_int_equal(symbols_count(s), N);
    for (unsigned i = 0; i < N; i++) {
        char name[32];

        snprintf(name, sizeof(name), "f%u", i * 7919);
        assert_found(s, 0xffff800000000000 + i * 16 + 15, name, 0xffff800000000000 + i * 16,
                     i % 3 ? "kernel" : "m");
    }
}

static void test_refresh(void **state)
{
    static const uint64_t new_module = 0xffffffffc5000010;
    int fd = table_fd(sample);
    _cleanup_(symbols_freep) struct symbols *s = NULL;
    uint64_t now = clock_now_ns(CLOCK_BOOTTIME);

    (void)state;
    assert_int_equal(symbols_new(fd, &s), 0);
    now += 100 * NS_PER_SEC;
    assert_int_equal(symbols_refresh(s, now), 0); /* nothing asks for it */

    /* A module comes. */
    assert_stack(s, &new_module, 1, "ffffffffc5000010");
    rewrite(fd, "ffffffff81001000 T vfs_write\nffffffffc5000000 t fresh\t[new]\n");
    assert_int_equal(symbols_refresh(s, now), 1);
    assert_stack(s, &new_module, 1, "fresh/ffffffffc5000000 [new]");

    /* Its address comes to mean another, which is seen at most 30 s later. */
    rewrite(fd, "ffffffff81001000 T vfs_write\nffffffffc5000000 t reused\t[newer]\n");
    assert_int_equal(symbols_refresh(s, now + 29 * NS_PER_SEC), 0);
    now += 31 * NS_PER_SEC;
    assert_int_equal(symbols_refresh(s, now), 1);
    assert_stack(s, &new_module, 1, "reused/ffffffffc5000000 [newer]");

    /* What cannot be read keeps what there was. */
    rewrite(fd, "");
    now += 31 * NS_PER_SEC;
    assert_int_equal(symbols_refresh(s, now), 0);
    assert_stack(s, &new_module, 1, "reused/ffffffffc5000000 [newer]");
}

static void test_refresh_backs_off(void **state)
{
    _cleanup_(symbols_freep) struct symbols *s = read_table(sample);
    static const uint64_t nowhere = 0x1234;
    uint64_t begin = clock_now_ns(CLOCK_BOOTTIME);
    unsigned n = 0;

    (void)state;
    /* An address that is never found, met all the time. */
    for (unsigned second = 1; second <= 600; second++) {
        assert_stack(s, &nowhere, 1, "0000000000001234");
        n += (unsigned)symbols_refresh(s, begin + second * NS_PER_SEC);
        if (second == 4)
            assert_int_equal(n, 0);
        if (second == 6)
            assert_int_equal(n, 1);
    }
    assert_in_range(n, 9, 15);
}

struct reader {
    struct symbols *s;
    bool stop; /* atomically */
    unsigned n;
};

static void *read_stacks(void *arg)
{
    static const uint64_t frames[] = {0xffffffff81001020, 0xffffffffc0f3bed8, 0x1234};
    struct reader *r = arg;

    while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
        _free_ char *text = symbols_stack_text(r->s, frames, ARRAY_SIZE(frames));

        assert_non_null(text);
        assert_memory_equal(text, "vfs_write/", strlen("vfs_write/"));
        __atomic_add_fetch(&r->n, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/** Other threads render stacks while the table is exchanged, also after its first owner has gone.
 */
static void test_threads(void **state)
{
    struct symbols *s = read_table(sample);
    struct reader reader = {.s = symbols_ref(s)};
    uint64_t now = clock_now_ns(CLOCK_BOOTTIME), again;
    const uint64_t until = clock_now_ns(CLOCK_MONOTONIC) + 60 * NS_PER_SEC;
    pthread_t threads[2];
    unsigned n = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_stacks, &reader), 0);
    while (n < 50 && clock_now_ns(CLOCK_MONOTONIC) < until) {
        now += 61 * NS_PER_SEC;
        n += (unsigned)symbols_refresh(s, now);
        sched_yield();
    }
    assert_int_equal(n, 50);
    assert_null(symbols_free(s));
    again = __atomic_load_n(&reader.n, __ATOMIC_RELAXED);
    while (__atomic_load_n(&reader.n, __ATOMIC_RELAXED) < again + 10)
        sched_yield();
    __atomic_store_n(&reader.stop, true, __ATOMIC_RELEASE);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    symbols_free(reader.s);
}

static void test_real(void **state)
{
    _cleanup_(symbols_freep) struct symbols *s = NULL;
    struct symbol symbol, again;
    uint64_t begin = clock_now_ns(CLOCK_MONOTONIC), expected = 0;
    FILE *file;
    char line[1024];

    (void)state;
    assert_int_equal(symbols_new(open("/proc/kallsyms", O_RDONLY | O_CLOEXEC), &s), 0);
    if (symbols_state(s) != SYMBOLS_OK) {
        print_message("left out: %s\n", symbols_reason(s));
        s = symbols_free(s); /* skip() does not come back */
        skip();
    }
    print_message("%zu functions in %llu us\n", symbols_count(s),
                  (unsigned long long)(clock_now_ns(CLOCK_MONOTONIC) - begin) / 1000);

    file = fopen("/proc/kallsyms", "re");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file))
        if (strstr(line, " T vfs_read\n"))
            expected = strtoull(line, NULL, 16);
    fclose(file);

    assert_true(expected != 0);
    assert_int_equal(symbols_by_name(s, "vfs_read", &symbol, 1), 1);
    assert_int_equal(symbol.start, expected);
    assert_in_range(symbol.size, 16, 4096);
    assert_string_equal(symbol.module, "kernel");
    assert_int_equal(symbols_find(s, expected + symbol.size / 2, &again), 0);
    assert_string_equal(again.name, "vfs_read");
    assert_true(symbols_by_name(s, "schedule", &symbol, 1) >= 1);
    assert_true(symbols_by_name(s, "kfree_skbmem", &symbol, 1) >= 1);
}

/** What lies below the innermost interrupt. */
static void test_interrupted(void **state)
{
    static const char with[] = "printk/1 [kernel]\nwatchdog_timer_fn/2 [kernel]\n"
                               "asm_call_sysvec_on_stack/3 [kernel]\n" /* changes the stack only */
                               "asm_sysvec_apic_timer_interrupt/4 [kernel]\n"
                               "loop/5 [xfs]\nasm_exc_page_fault/6 [kernel]\nuser/7 [kernel]";
    static const char arm[] =
        "a/1 [kernel]\nel1_interrupt/2 [kernel]\nel1h_64_irq_handler/3 [kernel]\n"
        "el1h_64_irq/4 [kernel]\nb/5 [kernel]\nx_handler/6 [kernel]";
    static const char *const user[] = {"a/1 [kernel]\nasm_exc_page_fault/2 [kernel]",
                                       "el0t_64_irq_handler/1 [kernel]\nel0t_64_irq/2 [kernel]"};
    static const char *const without[] = {"", "a/1 [kernel]", "a/1 [kernel]\nb/2 [kernel]",
                                          "a_asm_b/1 [kernel]\nb/2 [kernel]"};

    (void)state;
    assert_string_equal(symbols_text_interrupted(with),
                        "loop/5 [xfs]\nasm_exc_page_fault/6 [kernel]\nuser/7 [kernel]");
    assert_string_equal(symbols_text_interrupted(arm), "b/5 [kernel]\nx_handler/6 [kernel]");
    for (size_t i = 0; i < ARRAY_SIZE(user); i++)
        assert_string_equal(symbols_text_interrupted(user[i]), "");
    for (size_t i = 0; i < ARRAY_SIZE(without); i++)
        assert_ptr_equal(symbols_text_interrupted(without[i]), without[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interrupted),   cmocka_unit_test(test_find),
        cmocka_unit_test(test_ends),          cmocka_unit_test(test_by_name),
        cmocka_unit_test(test_stack_text),    cmocka_unit_test(test_machinery),
        cmocka_unit_test(test_place_and_has), cmocka_unit_test(test_hidden),
        cmocka_unit_test(test_missing),       cmocka_unit_test(test_garbled),
        cmocka_unit_test(test_many),          cmocka_unit_test(test_threads),
        cmocka_unit_test(test_refresh),       cmocka_unit_test(test_refresh_backs_off),
        cmocka_unit_test(test_real),          cmocka_unit_test(test_address),
    };

    return cmocka_run_group_tests_name("symbols", tests, NULL, NULL);
}
