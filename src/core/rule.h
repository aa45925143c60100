// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The text of filter rules, as far as kinds of events have it in common: a name and conditions that
 * must all hold, or several such sets with `;` between them.
 *
 *     backup: daddr=10.0.9.0/24 dport=9000; family=ipv6 port=9000
 *
 *     family=ipv4            or ipv6
 *     protocol=tcp
 *     saddr= daddr= addr=    an address or a network (10.0.0.0/8); addr: either of both
 *     sport= dport= port=
 *     netns=N                inode number of the network namespace
 */

#include "core/base.h"
#include "core/packet.h"

#define RULE_NAME_MAX 64
#define RULE_WORD_MAX 192 /* of a condition */

/** A row's words: value[fact] and mask[fact], see enum packet_fact. */
struct rule_row {
    __u64 *value, *mask;
};

/** addr= and port=, which may hold for either end. */
struct rule_ends {
    bool either_addr, either_port;
    uint8_t addr[16], addr_mask[16];
    uint16_t port;
};
#define RULE_ENDS_MAX 4 /* rows that it takes */

/** What functions below that return a text say of two conditions that exclude each other. */
extern const char rule_contradiction[];

/** One more condition on a fact; false, and nothing done, if it contradicts those that are there.
 */
bool rule_narrow(struct rule_row row, unsigned fact, uint64_t value, uint64_t mask);
/** The same for a fact of 16 bytes: two words. */
bool rule_narrow_bytes(struct rule_row row, unsigned fact, const void *value, const void *mask);

/** A decimal number of no more than `max`. */
bool rule_number(const char *text, unsigned long max, unsigned long *ret);

/** A condition on what all packets have: those above. NULL, or what is wrong with it; `*ret_known`
 * is false if it is none of them, and then the text is their list. Static memory. */
const char *rule_packet(struct rule_row row, struct rule_ends *ends, const char *key,
                        const char *value, bool *ret_known);

/** `row` with what the n-th combination of ends asks for; false: there is none that can hold. */
bool rule_end(struct rule_row row, const struct rule_ends *ends, unsigned n);

/** The next alternative; *rest is behind it, at first at the conditions, NULL behind the last one.
 */
bool rule_next(const char **rest, const char **ret, size_t *ret_len);

/**
 * Cuts one alternative into conditions. NULL, or the first complaint of fn() or of the text itself.
 */
const char *rule_conditions(const char *text, size_t text_len,
                            const char *(*fn)(void *arg, const char *key, const char *value),
                            void *arg);

/** Checks the name of `name: conditions`; *ret is behind it. NULL, or what is wrong. */
const char *rule_after_name(const char *text, const char **ret);
