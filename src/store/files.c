// SPDX-License-Identifier: Apache-2.0
#include "store/files.h"

#include "core/clock.h"
#include "store/jsontext.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define BUFFER_MAX      (1024 * 1024)
#define TAIL_WINDOW     (64 * 1024)
#define TAIL_WINDOW_MAX (64 * 1024 * 1024)

/* Only the end of a record can look so: inside, a brace is indented and newlines are escaped. */
static const char record_end[] = "\n}\n\n";
static const char id_key[] = "\n  \"tracer_id\": \"";

_printf_(3, 4) static int fail(struct record_files *f, int r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(f->problem, sizeof(f->problem), format, args);
    va_end(args);
    return r;
}

/* ---- one record as text */

static void add_title(struct text *out, const struct store_row *row, const char *title,
                      const char *name, struct text *scratch)
{
    const char *inside;
    size_t len;

    text_adds(out, title);
    if (!jsontext_string(row->json, row->len, name, &inside, &len))
        return;
    scratch->len = 0;
    jsontext_unescape(scratch, inside, len);
    if (scratch->len)
        text_add_printable(out, scratch->data, scratch->len);
}

void files_format(struct text *out, const struct store_row *row, struct text *scratch)
{
    char when[CLOCK_TEXT_MAX];

    clock_format_s(row->realtime_ns, when);
    text_adds(out, when);
    add_title(out, row, " Host=", "hostname", scratch);
    add_title(out, row, " Region=", "region", scratch);
    if (row->container_id && *row->container_id) {
        add_title(out, row, " ContainerHost=", "container_hostname", scratch);
        add_title(out, row, " ContainerID=", "container_id", scratch);
        add_title(out, row, " ContainerType=", "container_type", scratch);
        add_title(out, row, " ContainerLevel=", "container_level", scratch);
    }
    text_add(out, "\n", 1);
    jsontext_indent(out, row->json, row->len);
    text_adds(out, "\n\n");
}

/* ---- the end of a file */

/** One past the last occurrence that ends at or before `end`; 0: none. */
static size_t last_end(const char *data, size_t end)
{
    const size_t len = sizeof(record_end) - 1;

    for (; end >= len; end--) {
        if (memcmp(data + end - len, record_end, len) == 0)
            return end;
    }
    return 0;
}

static void find_id(const char *record, size_t len, char id[DOC_ID_LEN + 1])
{
    const char *found = memmem(record, len, id_key, sizeof(id_key) - 1);
    const char *begin = found ? found + sizeof(id_key) - 1 : NULL;
    const char *end = begin ? memchr(begin, '"', len - (size_t)(begin - record)) : NULL;

    id[0] = '\0';
    if (end && end - begin <= DOC_ID_LEN) {
        memcpy(id, begin, (size_t)(end - begin));
        id[end - begin] = '\0';
    }
}

/** Or is too short to tell. What somebody else wrote must not be cut. */
static bool begins_as_ours(int fd)
{
    static const char pattern[] = "0000-00-00 00:00:00 Host=";
    char begin[sizeof(pattern)];
    ssize_t n = pread(fd, begin, sizeof(pattern) - 1, 0);

    for (ssize_t i = 0; i < n; i++) {
        if (pattern[i] == '0' ? begin[i] < '0' || begin[i] > '9' : begin[i] != pattern[i])
            return false;
    }
    return n >= 0;
}

/** How far whole records reach, and the id of the last; "" if there is none. */
static int read_tail(int fd, uint64_t size, uint64_t *ret_end, char ret_id[DOC_ID_LEN + 1])
{
    for (uint64_t window = TAIL_WINDOW;; window *= 4) {
        uint64_t from = size > window ? size - window : 0;
        _free_ char *data = malloc(size - from + 1);
        ssize_t n;
        size_t end, before;

        if (!data)
            return -ENOMEM;
        n = pread(fd, data, size - from, (off_t)from);
        if (n < 0)
            return -errno;
        end = last_end(data, (size_t)n);
        before = end ? last_end(data, end - 1) : 0;
        if (from && !before) {
            if (window >= TAIL_WINDOW_MAX)
                return -EBADMSG;
            continue;
        }
        find_id(data + before, end - before, ret_id);
        *ret_end = end ? from + end : 0;
        return 0;
    }
}

/* ---- files */

static void number_name(const char *name, uint64_t number, char *ret, size_t ret_size)
{
    if (number)
        snprintf(ret, ret_size, "%s.%llu", name, (unsigned long long)number);
    else
        snprintf(ret, ret_size, "%s", name);
}

/** Where nothing whole is in the newest file, the one before it says how far we got. */
static int read_rotated_tail(struct record_files *f, const char *name, char id[DOC_ID_LEN + 1])
{
    char rotated[FILES_NAME_MAX + 24];
    uint64_t end;
    struct stat st;

    number_name(name, 1, rotated, sizeof(rotated));
    _close_fd_ int fd = openat(f->dir_fd, rotated, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    if (fstat(fd, &st) < 0)
        return -errno;
    return read_tail(fd, (uint64_t)st.st_size, &end, id);
}

/** Opens the newest file of that name; a torn end is cut off. `id`: of its last record. */
static int file_open(struct record_files *f, struct record_file *file, char id[DOC_ID_LEN + 1])
{
    struct stat st;
    int r;

    file->fd = openat(f->dir_fd, file->name,
                      O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0640);
    if (file->fd < 0 || fstat(file->fd, &st) < 0)
        return fail(f, -errno, "cannot open the record file %s/%s", f->path, file->name);

    r = S_ISREG(st.st_mode) && begins_as_ours(file->fd) ? 0 : -EBADMSG;
    if (r == 0)
        r = read_tail(file->fd, (uint64_t)st.st_size, &file->size, id);
    if (r == -EBADMSG)
        return fail(f, r, "%s/%s is not a record file; move it away", f->path, file->name);
    if (r < 0)
        return fail(f, r, "cannot read the record file %s/%s", f->path, file->name);
    if (file->size < (uint64_t)st.st_size && ftruncate(file->fd, (off_t)file->size) < 0)
        return fail(f, -errno, "cannot cut a half record off %s/%s", f->path, file->name);
    file->ino = st.st_ino;
    return 0;
}

static int file_find(struct record_files *f, const char *name, struct record_file **ret)
{
    char id[DOC_ID_LEN + 1] = "";
    struct record_file *file;
    int r;

    for (unsigned i = 0; i < f->n; i++) {
        if (strcmp(f->files[i].name, name) == 0) {
            *ret = &f->files[i];
            return 0;
        }
    }
    if (f->n == FILES_MAX || strlen(name) >= FILES_NAME_MAX || !*name || *name == '.' ||
        strchr(name, '/'))
        return fail(f, -EINVAL, "no record file in %s can be named \"%s\"", f->path, name);

    file = &f->files[f->n];
    *file = (struct record_file){.fd = -1};
    snprintf(file->name, sizeof(file->name), "%s", name);
    r = file_open(f, file, id);
    if (r == 0 && file->size == 0) {
        r = read_rotated_tail(f, name, id);
        if (r < 0)
            fail(f, r, "cannot read the record file %s/%s.1", f->path, name);
    }
    if (r == 0 && *id && f->seq_of_id(f->arg, id, &file->last_seq) != 0)
        r = fail(f, -EIO, "cannot look up in the database where %s/%s ends", f->path, name);
    if (r < 0) {
        file->fd = fd_close(file->fd);
        return r;
    }
    f->n++;
    *ret = file;
    return 0;
}

int files_open(struct record_files *f)
{
    DIR *dir;
    int r = 0, fd;

    f->n = 0;
    snprintf(f->path, sizeof(f->path), "%s/records", f->options->path);
    if (mkdir(f->path, 0750) < 0 && errno != EEXIST)
        return fail(f, -errno, "cannot make the directory %s for record files", f->path);
    f->dir_fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fd = f->dir_fd < 0 ? -1 : fcntl(f->dir_fd, F_DUPFD_CLOEXEC, 0);
    dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        r = fail(f, -errno, "cannot open the directory %s for record files", f->path);
        fd_close(fd);
        return r;
    }

    for (struct dirent *entry; r == 0 && (entry = readdir(dir));) {
        struct record_file *file;
        struct stat st;

        /* Rotated ones have a number after a dot; what else lies there is left alone. */
        if (strchr(entry->d_name, '.') ||
            fstatat(f->dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
            continue;
        r = file_find(f, entry->d_name, &file);
        if (r == -EBADMSG)
            r = 0;
    }
    closedir(dir);
    return r;
}

void files_close(struct record_files *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        f->files[i].fd = fd_close(f->files[i].fd);
        text_done(&f->files[i].buffer);
    }
    f->n = 0;
    f->dir_fd = fd_close(f->dir_fd);
    text_done(&f->scratch);
}

static int rotate(struct record_files *f, struct record_file *file)
{
    char from[FILES_NAME_MAX + 24], to[FILES_NAME_MAX + 24];
    char id[DOC_ID_LEN + 1];

    if (file->dirty && fdatasync(file->fd) < 0)
        return fail(f, -errno, "cannot write the record file %s/%s", f->path, file->name);
    file->fd = fd_close(file->fd);
    file->dirty = false;
    for (uint64_t i = f->options->record_file_count; i-- > 0;) {
        number_name(file->name, i, from, sizeof(from));
        number_name(file->name, i + 1, to, sizeof(to));
        int r = i + 1 < f->options->record_file_count ? renameat(f->dir_fd, from, f->dir_fd, to)
                                                      : unlinkat(f->dir_fd, from, 0);
        if (r < 0 && errno != ENOENT)
            return fail(f, -errno, "cannot rotate the record file %s/%s", f->path, from);
    }
    return file_open(f, file, id);
}

/** Somebody may have renamed, removed or emptied it. */
static int check_place(struct record_files *f, struct record_file *file)
{
    char id[DOC_ID_LEN + 1];
    struct stat st;

    if (fstatat(f->dir_fd, file->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == file->ino) {
        file->size = (uint64_t)st.st_size;
        return 0;
    }
    file->fd = fd_close(file->fd);
    return file_open(f, file, id);
}

/** Writes the first bytes of the buffer: all of them or, as far as can be, none. */
static int write_buffer(struct record_files *f, struct record_file *file, size_t len)
{
    size_t done = 0;
    int r;

    if (len == 0)
        return 0;
    r = check_place(f, file);
    if (r < 0)
        return r;
    while (done < len) {
        ssize_t n = write(file->fd, file->buffer.data + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            r = fail(f, -errno, "cannot write the record file %s/%s", f->path, file->name);
            /* If this fails too, the next opening cuts it. */
            if (ftruncate(file->fd, (off_t)file->size) < 0)
                file->fd = fd_close(file->fd);
            return r;
        }
        done += (size_t)n;
    }
    file->size += len;
    file->dirty = true;
    file->buffer.len -= len;
    memmove(file->buffer.data, file->buffer.data + len, file->buffer.len);
    return 0;
}

int files_add(struct record_files *f, const struct store_row *row)
{
    struct record_file *file = NULL;
    size_t before;
    int r = file_find(f, row->tracer_name, &file);

    if (!file || row->seq <= file->last_seq)
        return r;

    before = file->buffer.len;
    files_format(&file->buffer, row, &f->scratch);
    if (file->buffer.failed)
        return fail(f, -ENOMEM, "no memory to write the record file %s/%s", f->path, file->name);
    if (f->options->record_file_size && file->size + before > 0 &&
        file->size + file->buffer.len > f->options->record_file_size) {
        r = write_buffer(f, file, before);
        if (r == 0)
            r = rotate(f, file);
        if (r < 0)
            return r;
    }
    file->last_seq = row->seq;
    return file->buffer.len >= BUFFER_MAX ? write_buffer(f, file, file->buffer.len) : 0;
}

int files_flush(struct record_files *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        int r = write_buffer(f, &f->files[i], f->files[i].buffer.len);

        if (r < 0)
            return r;
    }
    return 0;
}

int files_sync(struct record_files *f)
{
    int r = files_flush(f);

    for (unsigned i = 0; r == 0 && i < f->n; i++) {
        struct record_file *file = &f->files[i];

        if (!file->dirty)
            continue;
        if (fdatasync(file->fd) < 0)
            return fail(f, -errno, "cannot write the record file %s/%s", f->path, file->name);
        file->dirty = false;
    }
    return r;
}
