// SPDX-License-Identifier: Apache-2.0

#include "core/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "core/base.h"
#include "core/numbers.h"

#define MOUNTINFO_MAX (1024 * 1024)
#define LIMITED       "huatuo-try-" /* and the pid of its maker */

int cgroup_path(const struct wire_cgroup *cgroup, unsigned inner, char ret[CGROUP_PATH_MAX])
{
    char path[CGROUP_PATH_MAX];
    size_t len = 0;

    *ret = '\0';
    if (!cgroup->css)
        return 0;
    if (cgroup->n_names > CGROUP_NAMES_MAX || cgroup->unified > 1 || cgroup->cut > 1)
        return -EBADMSG;
    if (cgroup->cut)
        len += (size_t)snprintf(path, sizeof(path), "/...");
    for (unsigned i = cgroup->n_names; i > inner; i--) {
        const char *name = cgroup->names[i - 1];
        size_t n = strnlen(name, CGROUP_NAME_LEN);

        /* What the path leads to is opened: nobody may lead it elsewhere. */
        if (n == 0 || n == CGROUP_NAME_LEN || memchr(name, '/', n) || strcmp(name, ".") == 0 ||
            strcmp(name, "..") == 0)
            return -EBADMSG;
        path[len++] = '/';
        memcpy(path + len, name, n);
        len += n;
    }
    if (len == 0)
        path[len++] = '/';
    memcpy(ret, path, len);
    ret[len] = '\0';
    return 0;
}

size_t cgroup_parse_names(const char *bytes, size_t size, struct wire_cgroup *ret)
{
    size_t at = 0;

    *ret = (struct wire_cgroup){.css = 1};
    for (;;) {
        size_t len = strnlen(bytes + at, size - at);

        if (at + len == size)
            return 0;
        if (len == 0)
            return at + 1;
        if (ret->n_names == CGROUP_NAMES_MAX || len >= CGROUP_NAME_LEN)
            return 0;
        memcpy(ret->names[ret->n_names++], bytes + at, len);
        at += len + 1;
    }
}

bool cgroup_is_below(const char *path, const char *ancestor)
{
    size_t len = strlen(ancestor);

    if (strcmp(ancestor, "/") == 0)
        return *path == '/';
    return strncmp(path, ancestor, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

/** The mount table writes blanks, tabs, newlines and backslashes as \ooo. */
static void unescape(char *s)
{
    char *to = s;

    for (; *s; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
            s[3] >= '0' && s[3] <= '7') {
            *to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

static bool has_option(const char *options, const char *word)
{
    size_t len = strlen(word);

    for (const char *s = options; s; s = strchr(s, ',') ? strchr(s, ',') + 1 : NULL)
        if (strncmp(s, word, len) == 0 && (s[len] == ',' || s[len] == '\0'))
            return true;
    return false;
}

/** proc(5): `36 35 98:0 ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS` */
static bool is_mount_of(char *line, bool unified, char **ret_root, char **ret_point)
{
    char *separator = strstr(line, " - "), *fields[5], *type, *super, *rest;

    if (!separator)
        return false;
    *separator = '\0';
    type = strtok_r(separator + 3, " ", &rest);
    strtok_r(NULL, " ", &rest);
    super = strtok_r(NULL, " ", &rest);
    if (!type || !super || strcmp(type, unified ? "cgroup2" : "cgroup") != 0 ||
        (!unified && !has_option(super, "memory")))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        fields[i] = strtok_r(i ? NULL : line, " ", &rest);
        if (!fields[i])
            return false;
    }
    *ret_root = fields[3];
    *ret_point = fields[4];
    return true;
}

int cgroup_find_mount(const char *root_prefix, bool unified, char *ret, size_t size, char *ret_root,
                      size_t root_size)
{
    _free_ char *text = NULL;
    char *rest;
    int r = file_read(root_prefix, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, NULL);

    if (r < 0)
        return r;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *root, *point;

        if (!is_mount_of(line, unified, &root, &point))
            continue;
        unescape(root);
        unescape(point);
        if (strlen(root) >= root_size || strlen(point) >= size)
            return -ENAMETOOLONG;
        memcpy(ret, point, strlen(point) + 1);
        memcpy(ret_root, root, strlen(root) + 1);
        return 0;
    }
    return -ENOENT;
}

int cgroup_directory(const char *root_prefix, bool unified, const char *path, char *ret,
                     size_t size)
{
    char point[PATH_MAX], root[PATH_MAX];
    int n, r = cgroup_find_mount(root_prefix, unified, point, sizeof(point), root, sizeof(root));

    if (r < 0)
        return r;
    if (!cgroup_is_below(path, root))
        return -ENOENT;
    if (strcmp(root, "/") != 0)
        path += strlen(root);
    n = snprintf(ret, size, "%s%s", strcmp(point, "/") == 0 ? "" : point,
                 strcmp(path, "/") == 0 ? "" : path);
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int write_file(const char *folder, const char *name, const char *text)
{
    char path[PATH_MAX];
    _close_fd_ int fd = -1;

    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        return -errno;
    return 0;
}

static int make_limited(bool unified, const char *limit, char *ret, size_t size)
{
    char name[64];
    int r;

    snprintf(name, sizeof(name), "/" LIMITED "%d", getpid());
    r = cgroup_directory("", unified, name, ret, size);
    if (r < 0)
        return r;
    if (mkdir(ret, 0755) < 0)
        return -errno;
    r = write_file(ret, unified ? "memory.max" : "memory.limit_in_bytes", limit);
    /* Where there is swap it would take what the limit keeps out. */
    if (r == 0 && unified)
        write_file(ret, "memory.swap.max", "0");
    else if (r == 0)
        write_file(ret, "memory.memsw.limit_in_bytes", limit);
    if (r < 0)
        rmdir(ret);
    return r;
}

/** Whether it is the name of one whose maker is gone. */
static bool is_abandoned(const char *name)
{
    char *end;
    long pid;

    if (strncmp(name, LIMITED, strlen(LIMITED)) != 0)
        return false;
    pid = strtol(name + strlen(LIMITED), &end, 10);
    return !*end && pid > 0 && pid <= INT_MAX && kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

void cgroup_remove_abandoned(void)
{
    for (int unified = 0; unified <= 1; unified++) {
        char folder[PATH_MAX], path[PATH_MAX];
        const struct dirent *entry;
        DIR *dir;

        if (cgroup_directory("", unified, "/", folder, sizeof(folder)) < 0)
            continue;
        dir = opendir(folder);
        while (dir && (entry = readdir(dir)))
            if (is_abandoned(entry->d_name) &&
                snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name) < (int)sizeof(path))
                cgroup_remove(path);
        if (dir)
            closedir(dir);
    }
}

int cgroup_make_limited(const char *limit, char *ret, size_t size)
{
    int r = make_limited(false, limit, ret, size);

    return r < 0 ? make_limited(true, limit, ret, size) : r;
}

int cgroup_enter(const char *directory)
{
    return write_file(directory, "cgroup.procs", "0");
}

void cgroup_remove(const char *directory)
{
    for (unsigned i = 0; i < 100 && rmdir(directory) < 0 && errno == EBUSY; i++) {
        const struct timespec nap = {.tv_nsec = (long)(10 * NS_PER_MS)};

        nanosleep(&nap, NULL);
    }
}

int cgroup_run_limited(const char *limit, void (*child)(const char *directory), uint64_t *ret_pid,
                       int *ret_status)
{
    char directory[PATH_MAX];
    int r = cgroup_make_limited(limit, directory, sizeof(directory));
    pid_t pid;

    if (r < 0)
        return r;
    pid = fork();
    if (pid == 0)
        child(directory);
    if (pid < 0) {
        r = -errno;
    } else {
        *ret_pid = (uint64_t)pid;
        while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
            ;
    }
    cgroup_remove(directory);
    return r;
}
