/* SPDX-License-Identifier: BSD-3-Clause */
/* Polling NICs' queues before sleep: what the kernel is told, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "reactor/napi.h"
#include "reactor/reactor.h"

/* As ioctl_eventpoll(2) has it. */
struct params {
    uint32_t us;
    uint16_t budget;
    uint8_t prefer, pad;
};
enum { TYPE = 0x8a, WEIGHT = 64 };

static struct params told;
static unsigned ntold;
static int refusal;

int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
    (void)fd;
    if (request != (unsigned long)_IOW(TYPE, 1, struct params) || refusal) {
        errno = refusal ? refusal : ENOTTY;
        ntold++;
        return -1;
    }
    told = *(const struct params *)arg;
    ntold++;
    return 0;
}

static struct plx_reactor *make(enum plx_poll_mode mode, uint32_t nic_us)
{
    const struct plx_reactor_opts opts = {.core = -1, .mode = mode, .nic_us = nic_us};
    struct plx_reactor *r;
    assert_int_equal(plx_reactor_create(&r, &opts), 0);
    ntold = 0;
    refusal = 0;
    told.us = 0;
    return r;
}

static uint32_t reported(const struct plx_reactor *r)
{
    struct plx_reactor_stats s;
    plx_reactor_get_stats(r, &s);
    return s.nic_us;
}

static int socket_of(int pair[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    return pair[0];
}

static void close_both(const int pair[2])
{
    close(pair[0]);
    close(pair[1]);
}

static void a_queue_is_polled_while_loads_come_thick_and_no_longer(void **state)
{
    (void)state;
    int pair[2];
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 0);
    assert_true(plx_napi_add(r, socket_of(pair)));
    assert_int_equal(told.us, 50);
    assert_in_range(told.budget, 1, WEIGHT); /* more takes CAP_NET_ADMIN */
    assert_int_equal(told.prefer, 0);
    assert_int_equal(told.pad, 0);
    assert_int_equal(reported(r), 50);
    r->spin.window = r->spin.max / 4; /* it spins in vain */
    plx_napi_sleep(r);
    assert_int_equal(told.us, 0);
    assert_int_equal(reported(r), 0);
    const unsigned before = ntold;
    plx_napi_sleep(r);
    assert_int_equal(ntold, before);
    r->spin.window = r->spin.max;
    plx_napi_sleep(r);
    assert_int_equal(told.us, 50);
    plx_napi_remove(r, pair[0]);
    assert_int_equal(told.us, 0);
    close_both(pair);
    plx_reactor_destroy(r);
}

struct stopper {
    struct plx_timer timer;
    struct plx_reactor *r;
    unsigned left;
};

static void next_or_stop(struct plx_timer *t)
{
    struct stopper *s = plx_container_of(t, struct stopper, timer);
    if (s->left--)
        plx_timer_set(s->r, t, PLX_NS_PER_MS);
    else
        plx_reactor_stop(s->r);
}

static void an_idle_reactor_has_nothing_polled(void **state)
{
    (void)state;
    int pair[2];
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 20);
    struct stopper s = {.timer.fn = next_or_stop, .r = r, .left = 20};
    assert_true(plx_napi_add(r, socket_of(pair)));
    assert_int_equal(told.us, 20);
    plx_timer_set(r, &s.timer, PLX_NS_PER_MS);
    plx_reactor_run(r);
    assert_int_equal(told.us, 0);
    plx_napi_remove(r, pair[0]);
    close_both(pair);
    plx_reactor_destroy(r);
}

static void what_comes_wakes_a_reactor_once(void **state)
{
    (void)state;
    int pair[2];
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 0);
    struct epoll_event ev;
    assert_true(plx_napi_add(r, socket_of(pair)));
    assert_int_equal(write(pair[1], "x", 1), 1);
    assert_int_equal(epoll_wait(plx_reactor_fd(r), &ev, 1, 0), 1);
    assert_null(ev.data.ptr); /* which the reactor passes over */
    assert_int_equal(epoll_wait(plx_reactor_fd(r), &ev, 1, 0), 0);
    plx_napi_remove(r, pair[0]);
    close_both(pair);
    plx_reactor_destroy(r);
}

static void nothing_is_polled_where_it_is_off_or_never_slept_or_always(void **state)
{
    (void)state;
    static const struct {
        enum plx_poll_mode mode;
        uint32_t us;
    } cases[] = {{PLX_POLL_ADAPTIVE, PLX_NIC_NOT_POLLED}, {PLX_POLL_SLEEP, 0}, {PLX_POLL_BUSY, 0}};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(cases); i++) {
        int pair[2];
        struct plx_reactor *r = make(cases[i].mode, cases[i].us);
        assert_false(plx_napi_polls(r));
        assert_false(plx_napi_add(r, socket_of(pair)));
        assert_int_equal(ntold, 0);
        close_both(pair);
        plx_reactor_destroy(r);
    }
}

static void a_kernel_that_cannot_is_asked_once(void **state)
{
    (void)state;
    static const int refusals[] = {ENOTTY, EINVAL, EPERM};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(refusals); i++) {
        int pair[2];
        struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 0);
        refusal = refusals[i];
        assert_false(plx_napi_add(r, socket_of(pair)));
        assert_int_equal(reported(r), 0);
        assert_false(plx_napi_polls(r));
        assert_false(plx_napi_add(r, pair[0]));
        assert_int_equal(ntold, 1);
        close_both(pair);
        plx_reactor_destroy(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_queue_is_polled_while_loads_come_thick_and_no_longer),
        cmocka_unit_test(an_idle_reactor_has_nothing_polled),
        cmocka_unit_test(what_comes_wakes_a_reactor_once),
        cmocka_unit_test(nothing_is_polled_where_it_is_off_or_never_slept_or_always),
        cmocka_unit_test(a_kernel_that_cannot_is_asked_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
