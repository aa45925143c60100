// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/base.h"

#define CONTAINER_ID_LEN 64

/**
 * The container id in a cgroup path, as Docker, containerd, CRI-O and Podman write it: the last
 * component that holds 64 hexadecimal digits (`/docker/ID`,
 * `/kubepods.slice/.../cri-containerd-ID.scope`). False if there is none.
 */
bool container_from_cgroup(const char *path, char ret[CONTAINER_ID_LEN + 1]);

/**
 * The systemd unit that a cgroup's path names: the innermost service or scope, else the innermost
 * slice; "" if there is none.
 */
void unit_from_cgroup(const char *cgroup_path, char *ret, size_t size);
