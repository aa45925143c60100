// SPDX-License-Identifier: Apache-2.0

#include "agent/privilege.h"

#include <cap-ng.h>
#include <grp.h>
#include <pwd.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

static int find(const char *name, struct privilege_user *ret)
{
    const struct passwd *user;

    errno = 0;
    user = getpwnam(name);
    if (!user)
        return errno && errno != ENOENT ? -errno : -ENOENT;
    snprintf(ret->name, sizeof(ret->name), "%s", user->pw_name);
    ret->uid = user->pw_uid;
    ret->gid = user->pw_gid;
    return 0;
}

int privilege_find_user(const char *wanted, struct privilege_user *ret)
{
    if (wanted && *wanted)
        return find(wanted, ret);
    if (find("huatuo", ret) == 0 || find("nobody", ret) == 0)
        return 0;
    /* A minimal image may have no user database; the kernel's overflow user is the same number. */
    *ret = (struct privilege_user){.name = "nobody", .uid = 65534, .gid = 65534};
    return 0;
}

/**
 * What an agent that reads, decodes and writes never does. A list of what it may do would break
 * with the next version of a library; this one stops what turns a bug into a break-in.
 */
static int forbid_calls(void)
{
    static const int calls[] = {
        SCMP_SYS(execve),
        SCMP_SYS(execveat),
        SCMP_SYS(fork),
        SCMP_SYS(vfork),
        SCMP_SYS(process_vm_readv),
        SCMP_SYS(process_vm_writev),
        SCMP_SYS(mount),
        SCMP_SYS(umount2),
        SCMP_SYS(pivot_root),
        SCMP_SYS(chroot),
        SCMP_SYS(setns),
        SCMP_SYS(unshare),
        SCMP_SYS(init_module),
        SCMP_SYS(finit_module),
        SCMP_SYS(delete_module),
        SCMP_SYS(kexec_load),
        SCMP_SYS(kexec_file_load),
        SCMP_SYS(reboot),
        SCMP_SYS(bpf),
        SCMP_SYS(perf_event_open),
        SCMP_SYS(userfaultfd),
        SCMP_SYS(keyctl),
        SCMP_SYS(add_key),
        SCMP_SYS(request_key),
        SCMP_SYS(swapon),
        SCMP_SYS(swapoff),
        SCMP_SYS(io_uring_setup),
        SCMP_SYS(settimeofday),
        SCMP_SYS(clock_settime),
        SCMP_SYS(sethostname),
#ifndef __SANITIZE_ADDRESS__ /* its leak checker looks at its own threads with ptrace */
        SCMP_SYS(ptrace),
#endif
    };
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int r = filter ? 0 : -ENOMEM;

    for (size_t i = 0; i < ARRAY_SIZE(calls) && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), calls[i], 0);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r;
}

static int become(const struct privilege_user *user)
{
    if (setgroups(0, NULL) < 0 || setresgid(user->gid, user->gid, user->gid) < 0 ||
        setresuid(user->uid, user->uid, user->uid) < 0)
        return -errno;
    return 0;
}

int privilege_drop(const struct privilege_user *user)
{
    int r = 0;

    /* The bounding set first: shrinking it needs a capability itself. */
    capng_clear(CAPNG_SELECT_BOUNDS);
    capng_apply(CAPNG_SELECT_BOUNDS);
    if (geteuid() == 0)
        r = become(user);
    if (r < 0)
        return r;
    capng_clear(CAPNG_SELECT_CAPS);
    if (capng_apply(CAPNG_SELECT_CAPS) < 0)
        return -EPERM;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    if (geteuid() != 0 && setuid(0) == 0)
        return -EPERM; /* it can be had back */
#ifdef __SANITIZE_ADDRESS__
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
#endif
    r = forbid_calls();
    /* A kernel without seccomp: the rest stands. */
    return r == -EINVAL || r == -ENOSYS || r == -EOPNOTSUPP ? 0 : r;
}
