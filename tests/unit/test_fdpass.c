/* SPDX-License-Identifier: BSD-3-Clause */
/* Descriptors that go with the bytes of local sockets: what is received is the receiver's, and nothing is left open. */
#include "net/fdpass.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static int ends[2];

static int open_pair(void **state)
{
    (void)state;
    return socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
}

static int close_pair(void **state)
{
    (void)state;
    close(ends[0]);
    close(ends[1]);
    return 0;
}

static unsigned open_fds(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void send_with(const int *fds, unsigned n)
{
    struct iovec iov = {"hello", 5};
    assert_int_equal(plx_fds_send(ends[0], &iov, 1, fds, n), 5);
}

static ssize_t receive(int *fds, unsigned *n)
{
    char text[16];
    struct iovec iov = {text, sizeof text};
    ssize_t got = plx_fds_recv(ends[1], &iov, 1, fds, n);
    if (got > 0)
        assert_memory_equal(text, "hello", 5);
    return got;
}

static void test_descriptors_arrive_with_their_bytes(void **state)
{
    int sent[2] = {eventfd(7, 0), eventfd(8, 0)}, fds[4];
    unsigned n = 4;
    uint64_t value;
    (void)state;
    send_with(sent, 2);
    assert_int_equal(receive(fds, &n), 5);
    assert_int_equal(n, 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(read(fds[i], &value, sizeof value), sizeof value);
        assert_int_equal(value, 7 + i);
        assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
        close(fds[i]);
        close(sent[i]);
    }
}

static void test_more_than_there_is_room_for_are_closed(void **state)
{
    int sent[PLX_FDS_MAX], fds[2];
    unsigned n = 2, before = open_fds();
    (void)state;
    for (unsigned i = 0; i < PLX_FDS_MAX; i++)
        sent[i] = 0;
    send_with(sent, PLX_FDS_MAX);
    assert_int_equal(receive(fds, &n), -EMSGSIZE);
    assert_int_equal(n, 2);
    close(fds[0]);
    close(fds[1]);
    assert_int_equal(open_fds(), before);
}

static void test_nothing_there_and_the_end_are_told_apart(void **state)
{
    int fds[1];
    unsigned n = 1;
    (void)state;
    assert_int_equal(receive(fds, &n), -EAGAIN);
    assert_int_equal(n, 0);
    shutdown(ends[0], SHUT_WR);
    n = 1;
    assert_int_equal(receive(fds, &n), 0);
}

static void test_a_peer_that_is_gone_is_no_signal(void **state)
{
    struct iovec iov = {"hello", 5};
    (void)state;
    shutdown(ends[1], SHUT_RD);
    assert_int_equal(plx_fds_send(ends[0], &iov, 1, NULL, 0), -EPIPE);
}

static void test_paths_that_lead_nowhere_are_told_of(void **state)
{
    struct plx_error err;
    char path[200];
    (void)state;
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = 0;
    assert_int_equal(plx_fds_connect(path, &err), -ENAMETOOLONG);
    assert_int_equal(plx_fds_connect("/nonexistent/socket", &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/socket"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_descriptors_arrive_with_their_bytes, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(test_more_than_there_is_room_for_are_closed, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(test_nothing_there_and_the_end_are_told_apart, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(test_a_peer_that_is_gone_is_no_signal, open_pair, close_pair),
        cmocka_unit_test(test_paths_that_lead_nowhere_are_told_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
