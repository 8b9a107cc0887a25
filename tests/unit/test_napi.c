/* SPDX-License-Identifier: BSD-3-Clause */
/* Polling NICs' queues before sleep: what the kernel is told, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>
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

static struct params told, told_set;
static int epoll_of_reactor;
static unsigned ntold;
static int refusal;

int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
    if (request != (unsigned long)_IOW(TYPE, 1, struct params) || refusal) {
        errno = refusal ? refusal : ENOTTY;
        ntold++;
        return -1;
    }
    *(fd == epoll_of_reactor ? &told : &told_set) = *(const struct params *)arg;
    ntold += fd == epoll_of_reactor;
    return 0;
}

/* ---- looks at the set of sockets alone ---- */

static int set = -1, found; /* by each look */
static unsigned nlooks;
static int64_t waited_ns;

int __wrap_epoll_pwait2(int fd, struct epoll_event *events, int n, const struct timespec *timeout,
                        const sigset_t *sigs);
int __real_epoll_pwait2(int fd, struct epoll_event *events, int n, const struct timespec *timeout,
                        const sigset_t *sigs);

int __wrap_epoll_pwait2(int fd, struct epoll_event *events, int n, const struct timespec *timeout, const sigset_t *sigs)
{
    if (fd != set)
        return __real_epoll_pwait2(fd, events, n, timeout, sigs);
    nlooks++;
    waited_ns = timeout->tv_sec * (int64_t)PLX_NS_PER_S + timeout->tv_nsec;
    if (found < 0)
        errno = -found;
    return found < 0 ? -1 : found;
}

/* ---- queues, each of which can leave its interrupts off, but for one ---- */

enum { QUEUE = 7, OTHER, ONE_THAT_CANNOT };

static atomic_uint nasked;
static atomic_bool kept_waiting;

bool __wrap_plx_napi_ask(unsigned id);
bool __wrap_plx_napi_ask(unsigned id)
{
    nasked++;
    while (kept_waiting)
        sched_yield();
    return id != ONE_THAT_CANNOT;
}

static struct plx_reactor *make(enum plx_poll_mode mode, uint32_t nic_us)
{
    const struct plx_reactor_opts opts = {.core = -1, .mode = mode, .nic_us = nic_us};
    struct plx_reactor *r;
    assert_int_equal(plx_reactor_create(&r, &opts), 0);
    epoll_of_reactor = plx_reactor_fd(r);
    ntold = 0;
    refusal = 0;
    told.us = 0;
    set = -1;
    nasked = 0;
    kept_waiting = false;
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

static struct plx_napi_socket one, two;

static bool add(struct plx_reactor *r, struct plx_napi_socket *s, int fd, unsigned queue)
{
    plx_napi_add(r, s, fd, queue);
    return s->added;
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
    assert_true(add(r, &one, socket_of(pair), QUEUE));
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
    plx_napi_remove(r, &one);
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
    assert_true(add(r, &one, socket_of(pair), QUEUE));
    assert_int_equal(told.us, 20);
    plx_timer_set(r, &s.timer, PLX_NS_PER_MS);
    plx_reactor_run(r);
    assert_int_equal(told.us, 0);
    plx_napi_remove(r, &one);
    close_both(pair);
    plx_reactor_destroy(r);
}

static void what_comes_wakes_a_reactor_once(void **state)
{
    (void)state;
    int pair[2];
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 0);
    struct epoll_event ev;
    assert_true(add(r, &one, socket_of(pair), QUEUE));
    assert_int_equal(write(pair[1], "x", 1), 1);
    assert_int_equal(epoll_wait(plx_reactor_fd(r), &ev, 1, 0), 1);
    assert_null(ev.data.ptr); /* which the reactor passes over */
    assert_int_equal(epoll_wait(plx_reactor_fd(r), &ev, 1, 0), 0);
    plx_napi_remove(r, &one);
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
        assert_false(add(r, &one, socket_of(pair), QUEUE));
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
        assert_false(add(r, &one, socket_of(pair), QUEUE));
        assert_int_equal(reported(r), 0);
        assert_false(plx_napi_polls(r));
        assert_false(add(r, &one, pair[0], QUEUE));
        assert_int_equal(ntold, 1);
        close_both(pair);
        plx_reactor_destroy(r);
    }
}

/* ---- interrupts ---- */

/* The queue is asked about before the first sleep; until the answer is there. */
static void ask(struct plx_reactor *r)
{
    plx_napi_sleep(r);
    while (r->napi.asking)
        plx_reactor_poll(r);
    set = r->napi.set;
}

static bool suspends(const struct plx_reactor *r, uint64_t *times)
{
    struct plx_reactor_stats s;
    plx_reactor_get_stats(r, &s);
    *times = s.nic_suspensions;
    return s.nic_suspends;
}

/* Packets have come, with interrupts off from then on. */
static struct plx_reactor *make_suspended(int pair[2])
{
    uint64_t times;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 0);
    found = 0;
    assert_true(add(r, &one, socket_of(pair), QUEUE));
    assert_false(suspends(r, &times)); /* not known yet */
    ask(r);
    assert_true(suspends(r, &times));
    assert_int_equal(times, 0);
    assert_int_equal(told_set.prefer, 1);
    assert_int_equal(told_set.us, 1);
    assert_in_range(told_set.budget, 1, WEIGHT);
    assert_int_equal(told.prefer, 0); /* what is ready in the reactor's own set may be anything */
    assert_int_equal(told.us, 50);
    found = 1;
    assert_true(plx_napi_look(r, false));
    assert_int_equal(waited_ns, 0);
    assert_true(suspends(r, &times));
    assert_int_equal(times, 1);
    nlooks = 0;
    return r;
}

static void destroy_with(struct plx_reactor *r, const int pair[2])
{
    uint64_t times;
    plx_napi_remove(r, &one);
    assert_false(suspends(r, &times));
    assert_int_equal(r->napi.set, -1); /* whose end turns interrupts on */
    assert_false(r->napi.suspended);
    set = -1;
    close_both(pair);
    plx_reactor_destroy(r);
}

static void a_nic_that_does_not_interrupt_is_looked_at_in_every_round_without_work(void **state)
{
    (void)state;
    uint64_t times;
    int pair[2];
    struct plx_reactor *r = make_suspended(pair);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(plx_reactor_poll(r), 1); /* packets are work */
        assert_in_range(nlooks, i, 2 * i);        /* every millisecond there is one more, as without */
        suspends(r, &times);
        assert_in_range(times, 1 + i, 1 + 2 * i);
    }
    nlooks = 0;
    assert_int_equal(plx_reactor_arm(r), 1); /* no time to sleep */
    assert_int_equal(nlooks, 1);
    assert_int_equal(waited_ns, 1); /* with none at all, the kernel does not look at the NIC */
    found = 0;                      /* from now on it interrupts */
    assert_int_equal(plx_reactor_poll(r), 0);
    assert_false(r->napi.suspended);
    waited_ns = 0;
    assert_int_equal(plx_reactor_poll(r), 0);
    assert_int_equal(plx_reactor_arm(r), 0);
    assert_int_equal(waited_ns, 0); /* it has not been looked at since */
    plx_reactor_poll(r);            /* disarms */
    destroy_with(r, pair);
}

static int poll_busy(struct plx_source *s)
{
    (void)s;
    return 1;
}

static void it_is_looked_at_while_others_keep_the_reactor_busy(void **state)
{
    (void)state;
    static const struct plx_source_ops ops = {.poll = poll_busy};
    struct plx_source busy = {.ops = &ops, .fd = -1};
    int pair[2];
    struct plx_reactor *r = make_suspended(pair);
    assert_int_equal(plx_source_add(r, &busy), 0);
    waited_ns = 0;
    r->napi.looked = plx_clock_ns() - 20000;
    plx_reactor_poll(r);
    assert_true(nlooks > 0 && r->napi.suspended);
    found = 0;
    r->napi.looked = plx_clock_ns() - 20000;
    plx_reactor_poll(r);
    assert_false(r->napi.suspended);
    waited_ns = 0;
    r->napi.looked = plx_clock_ns() - 20000; /* it interrupts */
    plx_reactor_poll(r);
    assert_int_equal(waited_ns, 0);
    plx_source_remove(r, &busy);
    destroy_with(r, pair);
}

/* What is ready there for other reasons has nothing to do with a NIC. */
static void the_reactors_own_set_says_nothing_of_packets(void **state)
{
    (void)state;
    uint64_t times;
    int pair[2];
    struct plx_reactor *r = make_suspended(pair);
    found = 0;
    plx_reactor_poll(r);
    assert_false(r->napi.suspended);
    suspends(r, &times);
    const uint64_t before = times;
    struct epoll_event ev = {.events = EPOLLIN}, got;
    assert_int_equal(write(pair[0], "x", 1), 1);
    assert_int_equal(epoll_ctl(plx_reactor_fd(r), EPOLL_CTL_ADD, pair[1], &ev), 0);
    assert_int_equal(epoll_wait(plx_reactor_fd(r), &got, 1, 0), 1);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(plx_reactor_arm(r), 0);
        plx_reactor_poll(r); /* woken by it */
    }
    assert_false(r->napi.suspended);
    suspends(r, &times);
    assert_int_equal(times, before);
    destroy_with(r, pair);
}

static void one_of_several_queues_has_to_interrupt(void **state)
{
    (void)state;
    uint64_t times;
    int pair[2], other[2];
    struct plx_reactor *r = make_suspended(pair);
    assert_true(add(r, &two, socket_of(other), OTHER));
    assert_false(suspends(r, &times));
    assert_int_equal(r->napi.set, -1);
    assert_false(r->napi.suspended);
    set = -1;
    plx_napi_sleep(r);
    assert_int_equal(told.us, 50);
    plx_napi_remove(r, &two);
    close_both(other);
    ask(r);
    assert_int_equal(nasked, 1); /* which is that of the first */
    assert_false(suspends(r, &times));
    destroy_with(r, pair);
}

static void sockets_of_its_queue_come_and_go(void **state)
{
    (void)state;
    uint64_t times;
    int pair[2], other[2];
    struct plx_reactor *r = make_suspended(pair);
    struct epoll_event ev;
    assert_true(add(r, &two, socket_of(other), QUEUE));
    assert_true(suspends(r, &times));
    assert_int_equal(write(other[1], "x", 1), 1);
    assert_int_equal(epoll_wait(r->napi.set, &ev, 1, 0), 1);
    assert_int_equal(write(pair[1], "x", 1), 1);
    assert_int_equal(epoll_wait(r->napi.set, &ev, 1, 0), 1);
    assert_int_equal(write(other[1], "x", 1), 1);
    plx_napi_remove(r, &two);
    assert_int_equal(epoll_wait(r->napi.set, &ev, 1, 0), 0);
    close_both(other);
    assert_true(suspends(r, &times));
    ask(r);
    assert_int_equal(nasked, 1);
    destroy_with(r, pair);
}

static void a_queue_that_cannot_is_polled_as_others_were(void **state)
{
    (void)state;
    uint64_t times;
    int pair[2];
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 0);
    assert_true(add(r, &one, socket_of(pair), ONE_THAT_CANNOT));
    ask(r);
    ask(r);
    assert_int_equal(nasked, 1);
    assert_false(suspends(r, &times));
    assert_int_equal(told.us, 50);
    destroy_with(r, pair);
}

static void an_answer_is_for_the_queue_that_was_asked_about(void **state)
{
    (void)state;
    uint64_t times;
    int pair[2];
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 0);
    kept_waiting = true;
    assert_true(add(r, &one, socket_of(pair), QUEUE));
    plx_napi_sleep(r);
    plx_napi_remove(r, &one);
    assert_true(add(r, &one, pair[0], ONE_THAT_CANNOT));
    plx_napi_sleep(r);
    kept_waiting = false;
    ask(r); /* of the first */
    assert_false(suspends(r, &times));
    ask(r);
    assert_int_equal(nasked, 2);
    assert_false(suspends(r, &times));
    destroy_with(r, pair);
}

static void a_wait_that_cannot_be_so_short_is_the_end_of_it(void **state)
{
    (void)state;
    uint64_t times;
    int pair[2];
    struct plx_reactor *r = make_suspended(pair);
    found = -EPERM;
    plx_reactor_poll(r);
    assert_false(suspends(r, &times));
    assert_int_equal(r->napi.set, -1);
    destroy_with(r, pair);
}

/* A program that drives it by itself waits for its descriptor, by which no NIC is looked at. */
static void nothing_is_asked_of_a_reactor_that_does_not_sleep_by_itself(void **state)
{
    (void)state;
    int pair[2];
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 0);
    assert_true(add(r, &one, socket_of(pair), QUEUE));
    for (unsigned i = 0; i < 3; i++) {
        plx_reactor_poll(r);
        plx_reactor_arm(r);
    }
    assert_int_equal(nasked, 0);
    assert_false(r->napi.asking);
    destroy_with(r, pair);
}

static void a_reactor_ends_while_its_question_is_open(void **state)
{
    (void)state;
    int pair[2];
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE, 0);
    assert_true(add(r, &one, socket_of(pair), QUEUE));
    plx_napi_sleep(r);
    destroy_with(r, pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_queue_is_polled_while_loads_come_thick_and_no_longer),
        cmocka_unit_test(an_idle_reactor_has_nothing_polled),
        cmocka_unit_test(what_comes_wakes_a_reactor_once),
        cmocka_unit_test(nothing_is_polled_where_it_is_off_or_never_slept_or_always),
        cmocka_unit_test(a_kernel_that_cannot_is_asked_once),
        cmocka_unit_test(a_nic_that_does_not_interrupt_is_looked_at_in_every_round_without_work),
        cmocka_unit_test(it_is_looked_at_while_others_keep_the_reactor_busy),
        cmocka_unit_test(the_reactors_own_set_says_nothing_of_packets),
        cmocka_unit_test(one_of_several_queues_has_to_interrupt),
        cmocka_unit_test(sockets_of_its_queue_come_and_go),
        cmocka_unit_test(a_queue_that_cannot_is_polled_as_others_were),
        cmocka_unit_test(an_answer_is_for_the_queue_that_was_asked_about),
        cmocka_unit_test(a_wait_that_cannot_be_so_short_is_the_end_of_it),
        cmocka_unit_test(nothing_is_asked_of_a_reactor_that_does_not_sleep_by_itself),
        cmocka_unit_test(a_reactor_ends_while_its_question_is_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
