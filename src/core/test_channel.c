// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/channel.h"

static unsigned n_open(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

struct fixture {
    int a, b;
    unsigned n_open; /* while nothing is under way */
};

static int make_pair(void **state)
{
    static struct fixture f;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -1;
    f = (struct fixture){.a = pair[0], .b = pair[1]};
    f.n_open = n_open();
    *state = &f;
    return 0;
}

/** Whatever a test does, no descriptor but the pair's may be left. */
static int close_pair(void **state)
{
    struct fixture *f = *state;
    unsigned expected = f->n_open - 2;

    f->a = fd_close(f->a);
    f->b = fd_close(f->b);
    return n_open() == expected ? 0 : -1;
}

/** Bytes as they come, beside any number of descriptors. */
static void send_raw(int fd, const void *bytes, size_t len, const int *fds, size_t n_fds)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * 16)];
        struct cmsghdr align;
    } control = {};
    struct iovec data = {.iov_base = (void *)bytes, .iov_len = len};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};

    if (n_fds) {
        struct cmsghdr *c;

        header.msg_control = control.bytes;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    assert_int_equal(sendmsg(fd, &header, MSG_NOSIGNAL), len);
}

static int receive(int fd, size_t *ret_n_fds)
{
    struct channel_message m;
    int fds[CHANNEL_FDS_MAX];

    *ret_n_fds = 4711;
    return channel_receive(fd, &m, fds, ret_n_fds);
}

static void test_messages(void **state)
{
    const struct fixture *f = *state;
    const struct channel_message sent[] = {
        {.type = CHANNEL_HOOK, .event = 3, .hook = {1, 2, HOOK_REFUSED}, .text = "load: no"},
        {.type = CHANNEL_WINDOW, .window.window = {.id = UINT64_MAX, .suppressed = 7}},
        {.type = CHANNEL_END},
    };
    struct channel_message got;
    int fds[CHANNEL_FDS_MAX];
    size_t n_fds;

    assert_int_equal(receive(f->b, &n_fds), -EAGAIN);
    assert_int_equal(n_fds, 0);
    for (size_t i = 0; i < ARRAY_SIZE(sent); i++)
        assert_int_equal(channel_send(f->a, &sent[i], NULL, 0), 0);
    for (size_t i = 0; i < ARRAY_SIZE(sent); i++) {
        n_fds = 4711;
        assert_int_equal(channel_receive(f->b, &got, fds, &n_fds), 1);
        assert_int_equal(n_fds, 0);
        assert_memory_equal(&got, &sent[i], sizeof(got));
    }
    assert_int_equal(receive(f->b, &n_fds), -EAGAIN);
    /* both ways */
    assert_int_equal(channel_send(f->b, &sent[0], NULL, 0), 0);
    assert_int_equal(channel_receive(f->a, &got, fds, &n_fds), 1);
    assert_memory_equal(&got, &sent[0], sizeof(got));
}

static void test_descriptors(void **state)
{
    const struct fixture *f = *state;
    const struct channel_message m = {.type = CHANNEL_KIND, .text = "with descriptors"};
    const int of[CHANNEL_FDS_MAX] = {f->a, f->b, f->b, f->a};
    struct channel_message got;

    for (size_t n = 0; n <= CHANNEL_FDS_MAX; n++) {
        int fds[CHANNEL_FDS_MAX];
        size_t n_fds = 4711;

        assert_int_equal(channel_send(f->a, &m, of, n), 0);
        assert_int_equal(channel_receive(f->b, &got, fds, &n_fds), 1);
        assert_int_equal(n_fds, n);
        assert_int_equal(n_open(), f->n_open + n);
        assert_string_equal(got.text, m.text);
        for (size_t i = 0; i < n; i++) {
            struct stat mine, theirs;

            /* the same file, in the same order, not for programs that are executed */
            assert_int_equal(fstat(of[i], &mine), 0);
            assert_int_equal(fstat(fds[i], &theirs), 0);
            assert_int_equal(mine.st_ino, theirs.st_ino);
            assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
            close(fds[i]);
        }
    }
    assert_int_equal(channel_send(f->a, &m, of, CHANNEL_FDS_MAX + 1), -E2BIG);
    assert_int_equal(channel_send(f->a, &m, (const int[]){-1}, 1), -EBADF);
    assert_int_equal(n_open(), f->n_open);
}

/** Nothing that is not exactly a message comes through, and what came with it is closed. */
static void test_bad_messages(void **state)
{
    const struct fixture *f = *state;
    const int of[] = {f->a, f->a, f->a, f->a, f->a, f->a};
    char bytes[sizeof(struct channel_message) + 1] = {};
    const size_t lengths[] = {1, 4, sizeof(struct channel_message) - 1, sizeof(bytes)};
    size_t n_fds;

    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++)
        for (size_t n = 0; n <= CHANNEL_FDS_MAX; n += 2) {
            send_raw(f->a, bytes, lengths[i], of, n);
            assert_int_equal(receive(f->b, &n_fds), -EBADMSG);
            assert_int_equal(n_fds, 0);
            assert_int_equal(n_open(), f->n_open);
        }
    /* more descriptors than there is room for */
    send_raw(f->a, bytes, sizeof(struct channel_message), of, ARRAY_SIZE(of));
    assert_int_equal(receive(f->b, &n_fds), -EBADMSG);
    assert_int_equal(n_fds, 0);
    assert_int_equal(n_open(), f->n_open);
    /* An empty packet looks like the end, and must not leave anything behind either. */
    send_raw(f->a, bytes, 0, of, 2);
    assert_int_equal(receive(f->b, &n_fds), 0);
    assert_int_equal(n_fds, 0);
    assert_int_equal(n_open(), f->n_open);
    /* The next one is fine again. */
    send_raw(f->a, bytes, sizeof(struct channel_message), NULL, 0);
    assert_int_equal(receive(f->b, &n_fds), 1);
}

static void test_text_is_ended(void **state)
{
    const struct fixture *f = *state;
    struct channel_message m = {.type = CHANNEL_EXE}, got;
    int fds[CHANNEL_FDS_MAX];
    size_t n_fds;

    memset(m.text, 'x', sizeof(m.text));
    assert_int_equal(channel_send(f->a, &m, NULL, 0), 0);
    assert_int_equal(channel_receive(f->b, &got, fds, &n_fds), 1);
    assert_int_equal(strlen(got.text), CHANNEL_TEXT_MAX - 1);
}

static void test_other_side_gone(void **state)
{
    struct fixture *f = *state;
    const struct channel_message m = {.type = CHANNEL_WATCHING};
    size_t n_fds;

    /* What was sent before it went still arrives; SIGPIPE does not. */
    assert_int_equal(channel_send(f->a, &m, NULL, 0), 0);
    f->a = fd_close(f->a);
    assert_int_equal(receive(f->b, &n_fds), 1);
    assert_int_equal(receive(f->b, &n_fds), 0);
    assert_int_equal(n_fds, 0);
    assert_int_equal(channel_send(f->b, &m, NULL, 0), -EPIPE);
    assert_int_equal(receive(f->b, &n_fds), 0);
}

/** Goes while there is something from us that it has not read: the socket is reset. */
static void test_other_side_gone_unread(void **state)
{
    struct fixture *f = *state;
    const struct channel_message m = {.type = CHANNEL_WATCHING};
    size_t n_fds;

    assert_int_equal(channel_send(f->b, &m, NULL, 0), 0);
    f->a = fd_close(f->a);
    assert_int_equal(receive(f->b, &n_fds), 0);
    assert_int_equal(channel_send(f->b, &m, NULL, 0), -EPIPE);
}

static void test_full(void **state)
{
    const struct fixture *f = *state;
    const struct channel_message m = {.type = CHANNEL_WINDOW};
    unsigned sent = 0, got = 0;
    size_t n_fds;
    int r;

    while ((r = channel_send(f->a, &m, &f->a, 1)) == 0)
        assert_in_range(++sent, 1, 100000);
    assert_int_equal(r, -EAGAIN);
    assert_true(sent > 1);
    for (;;) {
        struct channel_message received;
        int fds[CHANNEL_FDS_MAX];

        r = channel_receive(f->b, &received, fds, &n_fds);
        if (r <= 0)
            break;
        assert_int_equal(n_fds, 1);
        close(fds[0]);
        got++;
    }
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(got, sent);
    assert_int_equal(n_open(), f->n_open);
}

static void test_no_socket(void **state)
{
    const struct fixture *f = *state;
    const struct channel_message m = {.type = CHANNEL_WINDOW};
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    size_t n_fds;

    (void)f;
    assert_int_equal(channel_send(fd, &m, NULL, 0), -ENOTSOCK);
    assert_int_equal(receive(fd, &n_fds), -ENOTSOCK);
    assert_int_equal(receive(-1, &n_fds), -EBADF);
    close(fd);
}

int main(void)
{
#define WITH_PAIR(test) cmocka_unit_test_setup_teardown(test, make_pair, close_pair)
    const struct CMUnitTest tests[] = {
        WITH_PAIR(test_messages),
        WITH_PAIR(test_descriptors),
        WITH_PAIR(test_bad_messages),
        WITH_PAIR(test_text_is_ended),
        WITH_PAIR(test_other_side_gone),
        WITH_PAIR(test_other_side_gone_unread),
        WITH_PAIR(test_full),
        WITH_PAIR(test_no_socket),
    };

    return cmocka_run_group_tests_name("channel", tests, NULL, NULL);
}
