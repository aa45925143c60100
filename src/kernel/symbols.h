// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * Kernel addresses to names, from /proc/kallsyms: kernel, modules, BPF programs. The descriptor is
 * opened with privilege and kept: the kernel decides at open whether addresses are shown
 * (kernel/kallsyms.c, kallsyms_show_value), so it can be read again after privilege is given up.
 *
 * What returns text may be called from any thread, the rest from the one that refreshes.
 */

#include "core/base.h"

struct symbols;

enum symbols_state {
    SYMBOLS_OK,
    SYMBOLS_HIDDEN,  /* all addresses are zero: kptr_restrict or lockdown */
    SYMBOLS_MISSING, /* the file cannot be read */
};

struct symbol {
    uint64_t start;
    uint64_t size;      /* up to whatever begins next, at most 1 MiB */
    const char *name;   /* owned by the table, valid until it is read again */
    const char *module; /* "kernel", "xfs", "bpf" */
};

/** Takes over the descriptor, reads the table. Fails only for want of memory: symbols_state(). */
int symbols_new(int fd, struct symbols **ret);
/** One more owner: each calls symbols_free(). */
struct symbols *symbols_ref(struct symbols *s);
struct symbols *symbols_free(struct symbols *s);
DEFINE_CLEANUP(struct symbols *, symbols_free)

enum symbols_state symbols_state(const struct symbols *s);
/** What hides them and what to do about it; "" when all are there. Owned by the table. */
const char *symbols_reason(const struct symbols *s);
size_t symbols_count(const struct symbols *s);

/** -ENOENT: no symbol covers the address. */
int symbols_find(const struct symbols *s, uint64_t addr, struct symbol *ret);

/**
 * All functions of a name, also those that the compiler has split or renamed: `f` matches `f`,
 * `f.isra.0`, `f.part.3`, `f.cold`. Writes up to `max`, returns how many there are.
 */
size_t symbols_by_name(const struct symbols *s, const char *name, struct symbol *ret, size_t max);

/**
 * Where the kernel itself (no module) has a symbol of exactly this name, data too: found by reading
 * the file (/proc/kallsyms) once, without a table. -ENOENT: nowhere, or addresses are not shown.
 */
int symbols_address(const char *path, const char *name, uint64_t *ret);

/**
 * To be called now and then with the current CLOCK_BOOTTIME: reads the table again if an address
 * was met that no symbol covered, or if one lay in a module or BPF program and the table is older
 * than 30 s; at most once in 5 s, and less and less often, down to once a minute, if that does not
 * help. "Met" is what the functions below were asked for. Returns 1 if it was read again, 0 if not.
 */
int symbols_refresh(struct symbols *s, uint64_t now_ns);

/**
 * Renders a stack, a frame a line, newest first: `symbol/address [module]`, the address being where
 * the symbol starts; an address without symbol as hexadecimal alone. Frames of the hook's own
 * machinery at the top (our BPF program, trampolines, __traceiter_*, bpf_trace_run*) are left out.
 * Takes raw return addresses: of all but the innermost frame, the byte before is looked up.
 * The result is heap; NULL only for want of memory.
 */
char *symbols_stack_text(struct symbols *s, const uint64_t *addrs, size_t n);
/** Of such a text the part below the innermost interrupt: what was interrupted; empty if that was
 * in user mode. All of it, if there was no interrupt. */
const char *symbols_text_interrupted(const char *text);
/** `symbol+0x12` or `0xffff...`, of exactly this address; heap. */
char *symbols_place_text(struct symbols *s, uint64_t addr);
/** Whether one of the frames lies in a function of that name (as symbols_by_name). */
bool symbols_stack_has(struct symbols *s, const uint64_t *addrs, size_t n, const char *name);
