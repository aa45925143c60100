#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command whose mounts nobody else sees: own-mounts.sh COMMAND [ARGUMENT…]
# unshare(1) can do that by itself only where the root is a mount point, which it is not after chroot(8).

[ "$HUATUO_OWN_MOUNTS" = 1 ] || HUATUO_OWN_MOUNTS=1 exec unshare -m --propagation unchanged "$0" "$@"
unset HUATUO_OWN_MOUNTS
while read -r _ _ _ _ place _; do
    mount --make-private "$place" 2>/dev/null
done </proc/self/mountinfo
exec "$@"
