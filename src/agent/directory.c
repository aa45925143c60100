// SPDX-License-Identifier: Apache-2.0

#include "agent/directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define STORE_FILE "huatuo.db"

static int make_parents(const char *path)
{
    char parent[4096];

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
        if (mkdir(parent, 0755) < 0 && errno != EEXIST)
            return -errno;
    }
    return 0;
}

static DIR *open_entries(int fd)
{
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);

    if (!dir)
        fd_close(copy);
    return dir;
}

/** What a new directory, or a new file system, holds of itself. */
static bool is_nothing(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "lost+found") == 0;
}

static bool is_empty(int fd)
{
    DIR *dir = open_entries(fd);
    const struct dirent *entry;
    bool empty = dir != NULL;

    while (empty && (entry = readdir(dir)))
        empty = is_nothing(entry->d_name);
    if (dir)
        closedir(dir);
    return empty;
}

/**
 * Plain files of the user that the directory belonged to. Others, and files with a second name, are
 * left: that user may have put there what it wants to be given.
 */
static void give_files(int fd, uid_t from, const struct privilege_user *user)
{
    DIR *dir = open_entries(fd);
    const struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        _close_fd_ int file = openat(fd, entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;

        if (file < 0 || fstat(file, &st) < 0 || st.st_uid != from)
            continue;
        if (S_ISREG(st.st_mode) && st.st_nlink == 1)
            fchownat(file, "", user->uid, user->gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
    }
    if (dir)
        closedir(dir);
}

static int give(int fd, const struct stat *st, const struct privilege_user *user)
{
    _close_fd_ int records = openat(fd, "records", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    give_files(fd, st->st_uid, user);
    if (records >= 0) {
        give_files(records, st->st_uid, user);
        if (fchown(records, user->uid, user->gid) < 0)
            return -errno;
    }
    return fchown(fd, user->uid, user->gid) < 0 ? -errno : 0;
}

/** 1: it would have to change hands to be the user's. */
static int may_take(int fd, const struct stat *st, const char *path,
                    const struct privilege_user *user, char *error, size_t error_size)
{
    if (st->st_uid == user->uid)
        return 0;
    if (is_empty(fd) || faccessat(fd, STORE_FILE, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 1;
    snprintf(error, error_size,
             "the store's directory %s holds other files and does not belong to %s; name an empty "
             "or new directory, or let it belong to that user",
             path, user->name);
    return -ENOTEMPTY;
}

int directory_look(const char *path, const struct privilege_user *user, char *error,
                   size_t error_size)
{
    _close_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    *error = '\0';
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    return may_take(fd, &st, path, user, error, error_size);
}

int directory_make(const char *path, const struct privilege_user *user, char *error,
                   size_t error_size)
{
    _close_fd_ int fd = -1;
    struct stat st = {};
    int r = make_parents(path);

    if (r == 0 && mkdir(path, 0750) < 0 && errno != EEXIST)
        r = -errno;
    if (r == 0) {
        fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        r = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;
    }
    if (r == 0 && geteuid() != 0)
        return 0;
    if (r == 0) {
        r = may_take(fd, &st, path, user, error, error_size);
        if (r == 0 || r == -ENOTEMPTY)
            return r;
    }
    if (r > 0)
        r = give(fd, &st, user);
    if (r == -EROFS)
        return 0; /* the store will say so */
    if (r == -ENOTDIR && lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
        snprintf(error, error_size,
                 "the store's directory %s is a symbolic link, which is not followed; name the "
                 "directory that it leads to",
                 path);
        return -ELOOP;
    }
    if (r < 0)
        snprintf(error, error_size,
                 "making the store's directory %s failed: %s; choose another with --store", path,
                 strerror(-r));
    return r;
}
