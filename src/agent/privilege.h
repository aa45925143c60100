// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Giving up privilege, for ever: user, groups, capabilities, and the system calls it never needs.
 */

#include <sys/types.h>

#include "core/base.h"

struct privilege_user {
    char name[64];
    uid_t uid;
    gid_t gid;
};

/**
 * `wanted`, or if that is empty `huatuo`, or without such a user `nobody`. -ENOENT: there is no
 * user of the name that was asked for.
 */
int privilege_find_user(const char *wanted, struct privilege_user *ret);

/**
 * Must be called before any thread is started. Without root's user id only capabilities and system
 * calls are given up.
 */
int privilege_drop(const struct privilege_user *user);
