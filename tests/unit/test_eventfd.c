/* SPDX-License-Identifier: BSD-3-Clause */
/* Eventfds that another process has too, which may fill them, empty them, and have them wait. */
#include "reactor/eventfd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LIMIT = 60 }; /* seconds; for hung runs only */

static const uint64_t FULL = UINT64_MAX - 1; /* writing to one that holds this much waits */
static struct plx_reactor *r;

/* What a kernel without aio(7), or one whose contexts are used up, says; or one that does not take a request now. */
static int refused_call, refused_by;
static unsigned setups;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
    const unsigned n = number == SYS_io_submit ? 3 : number == SYS_io_setup ? 2 : 1; /* of the calls that there are */
    long arg[3] = {0};
    va_list list;
    va_start(list, number);
    for (unsigned i = 0; i < n; i++)
        arg[i] = va_arg(list, long);
    va_end(list);
    setups += number == SYS_io_setup;
    if (number != refused_call)
        return __real_syscall(number, arg[0], arg[1], arg[2]);
    errno = refused_by;
    return -1;
}

static int begin(void **state)
{
    (void)state;
    alarm(LIMIT);
    refused_call = -1;
    return plx_reactor_create(&r, &(struct plx_reactor_opts){.core = -1, .buffer_bytes = 1 << 20});
}

static int end(void **state)
{
    (void)state;
    plx_reactor_destroy(r);
    return 0;
}

static int event_of(uint64_t value, int flags)
{
    int fd = eventfd(0, EFD_CLOEXEC | flags);
    assert_true(fd >= 0);
    if (value)
        assert_int_equal(write(fd, &value, sizeof value), sizeof value);
    return fd;
}

/* @return what it held; 0 when nothing */
static uint64_t held(int fd)
{
    uint64_t value = 0;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return read(fd, &value, sizeof value) == sizeof value ? value : 0;
}

static void each_adds_one(void **state)
{
    int fd = event_of(3, 0);
    (void)state;
    for (unsigned i = 0; i < 10000; i++)
        plx_eventfd_tell(r, fd);
    assert_int_equal(held(fd), 10003);
    close(fd);
}

/* Emulators of other machines (qemu-user) have neither. */
static bool has_aio(void)
{
    unsigned long context = 0;
    return syscall(SYS_io_setup, 1, &context) == 0 && syscall(SYS_io_destroy, context) == 0;
}

static bool has_nowait(void)
{
    uint64_t value;
    const struct iovec iov = {&value, sizeof value};
    int fd = event_of(1, 0);
    const bool has = preadv2(fd, &iov, 1, -1, RWF_NOWAIT) == sizeof value;
    close(fd);
    return has;
}

static void one_that_is_full_is_not_waited_for(void **state)
{
    if (!has_aio())
        skip(); /* nothing could be done about it */
    int fd = event_of(FULL, 0), other = event_of(0, 0);
    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        plx_eventfd_tell(r, fd);
    assert_true(held(fd) >= FULL);
    plx_eventfd_tell(r, other);
    assert_int_equal(held(other), 1);
    close(fd);
    close(other);
}

static void one_that_is_empty_is_not_waited_for(void **state)
{
    if (!has_nowait())
        skip(); /* the same */
    int fd = event_of(7, 0);
    (void)state;
    assert_int_equal(plx_eventfd_hear(fd), 7);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(plx_eventfd_hear(fd), 0);
    assert_int_equal(held(fd), 0);
    close(fd);
}

/* Some others have no type of file either, and a way of reading that waits. */
static void what_is_no_eventfd_is_left_alone(void **state)
{
    if (!has_aio() || !has_nowait())
        skip(); /* the same */
    int fd = inotify_init1(IN_CLOEXEC), other = event_of(0, 0);
    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(plx_eventfd_hear(fd), 0);
    plx_eventfd_tell(r, fd);
    plx_eventfd_tell(r, -1);
    plx_eventfd_tell(r, other);
    assert_int_equal(held(other), 1);
    close(fd);
    close(other);
}

/* Then it is a write, which does not wait where nobody has changed that. */
static void told_without_aio(void **state)
{
    int fd = event_of(0, EFD_NONBLOCK), full = event_of(FULL, EFD_NONBLOCK);
    (void)state;
    refused_call = SYS_io_setup;
    refused_by = ENOSYS;
    for (unsigned i = 0; i < 3; i++)
        plx_eventfd_tell(r, fd);
    plx_eventfd_tell(r, full);
    assert_int_equal(held(fd), 3);
    close(fd);
    close(full);
}

static void told_when_aio_takes_nothing_now(void **state)
{
    int fd = event_of(0, EFD_NONBLOCK);
    (void)state;
    plx_eventfd_tell(r, fd);
    refused_call = SYS_io_submit;
    refused_by = EAGAIN;
    plx_eventfd_tell(r, fd);
    refused_call = -1;
    plx_eventfd_tell(r, fd);
    assert_int_equal(held(fd), 3);
    close(fd);
}

/* Linux before 5.8 has nothing that could be read of an eventfd in this way. */
static void told_where_aio_does_not_know_eventfds(void **state)
{
    int fd = event_of(0, EFD_NONBLOCK);
    (void)state;
    refused_call = SYS_io_submit;
    refused_by = EINVAL;
    plx_eventfd_tell(r, fd);
    assert_int_equal(held(fd), 1);
    close(fd);
}

/* It was given back by a reactor that has ended. */
static void the_next_reactor_needs_no_other_context(void **state)
{
    if (!has_aio())
        skip();
    int fd = event_of(0, EFD_NONBLOCK);
    (void)state;
    plx_eventfd_tell(r, fd);
    plx_reactor_destroy(r);
    assert_int_equal(plx_reactor_create(&r, &(struct plx_reactor_opts){.core = -1, .buffer_bytes = 1 << 20}), 0);
    setups = 0;
    for (unsigned i = 0; i < 1000; i++)
        plx_eventfd_tell(r, fd);
    assert_int_equal(setups, 0);
    assert_int_equal(held(fd), 1001);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(told_without_aio, begin,
                                        end), /* first: a context that there is would be used */
        cmocka_unit_test_setup_teardown(told_where_aio_does_not_know_eventfds, begin, end),
        cmocka_unit_test_setup_teardown(each_adds_one, begin, end),
        cmocka_unit_test_setup_teardown(one_that_is_full_is_not_waited_for, begin, end),
        cmocka_unit_test_setup_teardown(one_that_is_empty_is_not_waited_for, begin, end),
        cmocka_unit_test_setup_teardown(what_is_no_eventfd_is_left_alone, begin, end),
        cmocka_unit_test_setup_teardown(the_next_reactor_needs_no_other_context, begin, end),
        cmocka_unit_test_setup_teardown(told_when_aio_takes_nothing_now, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
