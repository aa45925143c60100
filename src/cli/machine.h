// SPDX-License-Identifier: Apache-2.0
#pragma once

/** What `huatuo doctor` looks at besides the hooks: the kernel and what it allows. */

#include "core/text.h"
#include "core/tree.h"
#include "root/probe.h"

enum check_state {
    CHECK_OK,
    CHECK_WARN,    /* watching works, with less in the records or less comfort */
    CHECK_FAIL,    /* something that is switched on cannot be watched or kept */
    CHECK_UNKNOWN, /* cannot be read, or makes no sense */
};

/** One row of the report. Both texts are fit to be shown, whatever was read. */
struct check {
    const char *name; /* static */
    enum check_state state;
    char *found, *advice; /* owned; never NULL; advice "": nothing is to be done */
};

struct checks {
    struct check *rows; /* owned */
    size_t n, cap;
    bool failed; /* out of memory: rows are missing */
};

/** Adds a row; texts are made printable. `advice` may be NULL. */
void checks_add(struct checks *c, const char *name, enum check_state state, const char *advice,
                const char *format, ...) _printf_(5, 6);
/** The same with advice that has to be put together: of the last row that was added. */
void checks_advise(struct checks *c, const char *format, ...) _printf_(2, 3);
void checks_done(struct checks *c);

struct machine {
    struct tree tree;
    struct probe_facts facts;
    char release[128];   /* "": not known */
    unsigned version;    /* major * 1000 + minor; 0: not known */
    bool rights_known;   /* the next three */
    uint64_t rights;     /* effective capabilities, bit by number */
    uint64_t all_rights; /* those that this kernel has */
    uint32_t uid;        /* effective */
    bool user_namespace; /* these capabilities hold inside one only */
};

/** -errno: there is no directory `root`; "" is this machine. */
int machine_open(const char *root, struct machine *ret);
void machine_done(struct machine *m);

/** Whether BPF programs may be loaded and attached, as far as capabilities say. */
bool machine_may_load(const struct machine *m);
bool machine_has(const struct machine *m, unsigned capability);

/** Adds all rows about the machine. */
void machine_check(const struct machine *m, struct checks *ret);

/** `6.18.44-amd64` to 6018; 0: no kernel's release. */
unsigned machine_parse_release(const char *release);
