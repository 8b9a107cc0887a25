/* SPDX-License-Identifier: BSD-3-Clause */
/* The reactor: messages, timers, sources, watches, sleeping, and being driven by an outer loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pollux/reactor.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "reactor/clock.h"
#include "reactor/owner.h"

static struct plx_reactor *make(enum plx_poll_mode mode)
{
    struct plx_reactor_opts opts = {.core = -1, .mode = mode};
    struct plx_reactor *r;
    assert_int_equal(plx_reactor_create(&r, &opts), 0);
    return r;
}

static void nap_ms(unsigned ms)
{
    nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

static void *run(void *arg)
{
    plx_reactor_run(arg);
    return NULL;
}

/* ---- what the thread gets of its core ---- */

struct slice {
    struct plx_msg msg;
    struct plx_reactor *r;
    uint64_t runtime;
};

/* 0 before Linux 6.12. */
static uint64_t slice_now(void)
{
    uint64_t attr[6] = {sizeof attr};
    return syscall(SYS_sched_getattr, 0, attr, sizeof attr, 0) ? 0 : attr[3];
}

static void note_slice(struct plx_msg *msg)
{
    struct slice *s = plx_container_of(msg, struct slice, msg);
    s->runtime = slice_now();
    plx_reactor_stop(s->r);
}

/* What a thread gets that runs a reactor of that core. */
static uint64_t slice_on(int core)
{
    struct plx_reactor_opts opts = {.core = core, .mode = PLX_POLL_SLEEP};
    struct slice s = {.msg.fn = note_slice};
    assert_int_equal(plx_reactor_create(&s.r, &opts), 0);
    plx_reactor_send(s.r, &s.msg);
    plx_reactor_run(s.r);
    plx_reactor_destroy(s.r);
    return s.runtime;
}

static void test_a_reactor_takes_its_core_in_small_pieces(void **state)
{
    const uint64_t before = slice_now();
    (void)state;
    assert_int_equal(slice_on(sched_getcpu()), before ? 100000 : 0);
    assert_int_equal(slice_now(), before); /* the thread is the caller's again */
}

static void test_a_reactor_that_has_no_core_waits_for_those_that_have(void **state)
{
    (void)state;
    assert_int_equal(slice_on(-1), slice_now());
}

/* ---- messages ---- */

enum { SENDERS = 3, EACH = 20000 };

struct note {
    struct plx_msg msg;
    struct board *board;
    int sender, number;
};

struct board {
    struct plx_reactor *r;
    int last[SENDERS];
    int total, disorder;
};

static void read_note(struct plx_msg *msg)
{
    struct note *n = plx_container_of(msg, struct note, msg);
    struct board *b = n->board;
    b->disorder += n->number != b->last[n->sender] + 1;
    b->last[n->sender] = n->number;
    if (++b->total == SENDERS * EACH)
        plx_reactor_stop(b->r);
    free(n);
}

struct sender {
    struct board *board;
    int number;
};

static void *send_notes(void *arg)
{
    struct sender *s = arg;
    for (int i = 1; i <= EACH; i++) {
        struct note *n = malloc(sizeof *n);
        *n = (struct note){.msg.fn = read_note, .board = s->board, .sender = s->number, .number = i};
        plx_reactor_send(s->board->r, &n->msg);
        if (i % 4000 == 0)
            nap_ms(1); /* lets the reactor fall asleep now and then */
    }
    return NULL;
}

static void messages_of_each_thread_arrive_once_and_in_order(void **state)
{
    enum plx_poll_mode *mode = *state;
    struct board b = {.r = make(*mode)};
    struct sender senders[SENDERS];
    pthread_t reactor, threads[SENDERS];
    pthread_create(&reactor, NULL, run, b.r);
    for (int i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){&b, i};
        pthread_create(&threads[i], NULL, send_notes, &senders[i]);
    }
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    pthread_join(reactor, NULL);
    assert_int_equal(b.total, SENDERS * EACH);
    assert_int_equal(b.disorder, 0);
    plx_reactor_destroy(b.r);
}

struct ping {
    struct plx_msg msg;
    struct plx_reactor *to, *from;
    struct ping *partner;
    int left;
};

static void pong(struct plx_msg *msg)
{
    struct ping *p = plx_container_of(msg, struct ping, msg);
    if (p->left-- > 0) {
        struct plx_reactor *back = p->from;
        p->from = p->to;
        p->to = back;
        plx_reactor_send(p->to, &p->msg);
        return;
    }
    plx_reactor_stop(p->to);
    plx_reactor_stop(p->from);
}

static void two_reactors_wake_each_other(void **state)
{
    enum plx_poll_mode *mode = *state;
    struct plx_reactor *a = make(*mode), *b = make(*mode);
    pthread_t ta, tb;
    pthread_create(&ta, NULL, run, a);
    pthread_create(&tb, NULL, run, b);
    struct ping p = {.msg.fn = pong, .to = a, .from = b, .left = 2000};
    plx_reactor_send(a, &p.msg);
    pthread_join(ta, NULL);
    pthread_join(tb, NULL);
    plx_reactor_destroy(a);
    plx_reactor_destroy(b);
}

static void bump(struct plx_msg *msg)
{
    struct note *n = plx_container_of(msg, struct note, msg);
    n->number++;
}

struct last_word {
    struct plx_msg msg;
    struct plx_reactor *to;
};

static void end_it(struct plx_msg *msg)
{
    plx_reactor_stop(plx_container_of(msg, struct last_word, msg)->to);
}

/* Nobody else stops it: without the message it sleeps for ever. */
static void a_message_wakes_a_sleeping_reactor(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_SLEEP);
    struct plx_reactor_stats s;
    pthread_t t;
    pthread_create(&t, NULL, run, r);
    do { /* until it sleeps */
        nap_ms(1);
        plx_reactor_get_stats(r, &s);
    } while (!s.sleeps);
    struct last_word word = {.msg.fn = end_it, .to = r};
    plx_reactor_send(r, &word.msg);
    pthread_join(t, NULL);
    plx_reactor_destroy(r);
}

static void messages_left_at_the_end_are_run(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    struct note n = {.msg.fn = bump};
    plx_reactor_send(r, &n.msg);
    plx_reactor_destroy(r);
    assert_int_equal(n.number, 1);
}

static void a_message_may_send_itself_again(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    struct ping p = {.msg.fn = pong, .to = r, .from = r, .left = 3};
    plx_reactor_send(r, &p.msg);
    for (int i = 0; i < 4; i++)
        assert_true(plx_reactor_poll(r) > 0);
    assert_int_equal(p.left, -1);
    plx_reactor_destroy(r);
}

/* ---- sleeping and spinning ---- */

static void idle_modes(enum plx_poll_mode mode, bool sleeps)
{
    struct plx_reactor *r = make(mode);
    struct plx_reactor_stats s;
    pthread_t t;
    pthread_create(&t, NULL, run, r);
    do { /* until it has done what it should, on however busy a machine */
        nap_ms(30);
        plx_reactor_get_stats(r, &s);
    } while (!s.rounds || (sleeps && !s.sleeps));
    plx_reactor_stop(r);
    pthread_join(t, NULL);
    plx_reactor_get_stats(r, &s);
    assert_true((s.sleeps > 0) == sleeps);
    assert_true(s.sleeps < 50); /* it stayed asleep, too */
    assert_true(s.rounds > 0);
    plx_reactor_destroy(r);
}

static void an_idle_reactor_sleeps_as_its_mode_says(void **state)
{
    (void)state;
    idle_modes(PLX_POLL_ADAPTIVE, true);
    idle_modes(PLX_POLL_SLEEP, true);
    idle_modes(PLX_POLL_BUSY, false);
}

static struct plx_reactor *signalled;

static void stop_from_signal(int sig)
{
    (void)sig;
    plx_reactor_stop(signalled);
}

static void a_signal_handler_may_stop_it(void **state)
{
    (void)state;
    struct sigaction act = {.sa_handler = stop_from_signal}, old;
    signalled = make(PLX_POLL_SLEEP);
    sigaction(SIGUSR1, &act, &old);
    pthread_t t;
    pthread_create(&t, NULL, run, signalled);
    nap_ms(5);
    pthread_kill(t, SIGUSR1);
    pthread_join(t, NULL);
    sigaction(SIGUSR1, &old, NULL);
    plx_reactor_destroy(signalled);
}

static void it_runs_again_after_a_stop(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    for (int i = 0; i < 3; i++) {
        plx_reactor_stop(r); /* before it runs: it returns at once */
        plx_reactor_run(r);
    }
    plx_reactor_destroy(r);
}

static void a_pinned_thread_gets_its_cores_back(void **state)
{
    (void)state;
    cpu_set_t before, after;
    pthread_getaffinity_np(pthread_self(), sizeof before, &before);
    int core = 0;
    while (!CPU_ISSET(core, &before))
        core++;
    struct plx_reactor_opts opts = {.core = core};
    struct plx_reactor *r;
    assert_int_equal(plx_reactor_create(&r, &opts), 0);
    assert_int_equal(plx_reactor_core(r), core);
    plx_reactor_stop(r);
    plx_reactor_run(r);
    pthread_getaffinity_np(pthread_self(), sizeof after, &after);
    assert_true(CPU_EQUAL(&before, &after));
    plx_reactor_destroy(r);
}

/* ---- timers ---- */

enum { TIMERS = 200 };

struct alarm_clock {
    struct plx_timer timer;
    struct plx_reactor *r;
    int *order, number, fired;
    uint64_t due, delay;
    struct alarm_clock *other;
};

static int rung;
static struct alarm_clock *last_rung;

static void ring(struct plx_timer *t)
{
    struct alarm_clock *a = plx_container_of(t, struct alarm_clock, timer);
    assert_true(plx_reactor_now(a->r) >= t->due);
    assert_true(!last_rung || last_rung->due <= a->due);
    a->fired++;
    rung++;
    last_rung = a;
}

static void run_timers(struct plx_reactor *r)
{
    while (plx_reactor_timeout(r) >= 0)
        if (!plx_reactor_poll(r))
            nap_ms(1);
}

static void timers_fire_in_order_and_cancelled_ones_never(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    struct alarm_clock a[TIMERS];
    unsigned seed = 1;
    memset(a, 0, sizeof a);
    rung = 0;
    last_rung = NULL;
    for (int i = 0; i < TIMERS; i++) {
        seed = seed * 1103515245 + 12345;
        a[i].timer.fn = ring;
        a[i].r = r;
        plx_timer_set(r, &a[i].timer, seed / 65536 % 20000 * 1000); /* up to 20 ms */
        a[i].due = a[i].timer.due;
    }
    for (int i = 0; i < TIMERS; i += 3)
        plx_timer_cancel(r, &a[i].timer);
    plx_timer_cancel(r, &a[0].timer);     /* harmless */
    for (int i = 1; i < TIMERS; i += 3) { /* moved */
        plx_timer_set(r, &a[i].timer, (uint64_t)i * 50000);
        a[i].due = a[i].timer.due;
    }
    run_timers(r);
    for (int i = 0; i < TIMERS; i++)
        assert_int_equal(a[i].fired, i % 3 != 0);
    assert_int_equal(plx_reactor_timeout(r), -1);
    plx_reactor_destroy(r);
}

static void ring_again(struct plx_timer *t)
{
    struct alarm_clock *a = plx_container_of(t, struct alarm_clock, timer);
    if (a->other)
        plx_timer_cancel(a->r, &a->other->timer);
    if (++a->fired < 5)
        plx_timer_set(a->r, t, a->delay);
}

static void a_timer_may_set_itself_and_cancel_others_when_it_fires(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    struct alarm_clock never = {.timer.fn = ring_again, .r = r};
    struct alarm_clock again = {.timer.fn = ring_again, .r = r, .other = &never, .delay = 100000};
    struct alarm_clock at_once = {.timer.fn = ring_again, .r = r};
    plx_timer_set(r, &again.timer, 1000);
    plx_timer_set(r, &never.timer, 2 * PLX_NS_PER_MS);
    plx_timer_set(r, &at_once.timer, 0);
    run_timers(r);
    assert_int_equal(again.fired, 5);
    assert_int_equal(at_once.fired, 5);
    assert_int_equal(never.fired, 0);
    plx_reactor_destroy(r);
}

static void a_timer_counts_from_when_it_is_set(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    struct alarm_clock a = {.timer.fn = ring, .r = r};
    last_rung = NULL;
    uint64_t made = plx_reactor_now(r);
    nap_ms(30); /* the reactor's own clock stands still between rounds */
    plx_timer_set(r, &a.timer, 10 * PLX_NS_PER_MS);
    assert_true(a.timer.due >= made + 40 * PLX_NS_PER_MS);
    run_timers(r);
    plx_reactor_destroy(r);
}

static void stop_at(struct plx_timer *t)
{
    struct alarm_clock *a = plx_container_of(t, struct alarm_clock, timer);
    assert_true(plx_reactor_now(a->r) >= t->due);
    a->fired++;
    plx_reactor_stop(a->r);
}

static void a_timer_wakes_a_sleeping_reactor(void **state)
{
    enum plx_poll_mode *mode = *state;
    struct plx_reactor *r = make(*mode);
    struct alarm_clock a = {.timer.fn = stop_at, .r = r};
    plx_timer_set(r, &a.timer, 20 * PLX_NS_PER_MS);
    plx_reactor_run(r);
    assert_int_equal(a.fired, 1);
    plx_reactor_destroy(r);
}

/* ---- sources ---- */

struct tap {
    struct plx_source source;
    struct plx_reactor *r;
    struct tap *remove, *add;
    int polled, armed, disarmed;
    int work;    /* what poll says it did, once */
    int slipped; /* what arm says, once */
    bool stop;   /* the reactor when its descriptor is ready */
    bool removed;
};

static int tap_poll(struct plx_source *s)
{
    struct tap *t = plx_container_of(s, struct tap, source);
    uint64_t value;
    assert_false(t->removed);
    t->polled++;
    if (t->remove && !t->remove->removed) {
        t->remove->removed = true;
        plx_source_remove(t->r, &t->remove->source);
    }
    if (t->add) {
        assert_int_equal(plx_source_add(t->r, &t->add->source), 0);
        t->add = NULL;
    }
    if (t->stop && read(s->fd, &value, sizeof value) > 0)
        plx_reactor_stop(t->r);
    int work = t->work;
    t->work = 0;
    return work;
}

static int tap_arm(struct plx_source *s)
{
    struct tap *t = plx_container_of(s, struct tap, source);
    t->armed++;
    int slipped = t->slipped;
    t->slipped = 0;
    return slipped;
}

static void tap_disarm(struct plx_source *s)
{
    plx_container_of(s, struct tap, source)->disarmed++;
}

static const struct plx_source_ops tap_ops = {.poll = tap_poll, .arm = tap_arm, .disarm = tap_disarm};

static void tap_init(struct tap *t, struct plx_reactor *r)
{
    memset(t, 0, sizeof *t);
    t->source.ops = &tap_ops;
    t->source.fd = -1;
    t->r = r;
}

static void sources_may_be_removed_and_added_while_polled(void **state)
{
    (void)state;
    /* Every source of four removes every one of the four, itself included, and adds another. */
    for (int who = 0; who < 4; who++)
        for (int whom = 0; whom < 4; whom++) {
            struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
            struct tap taps[5];
            for (int i = 0; i < 5; i++)
                tap_init(&taps[i], r);
            for (int i = 0; i < 4; i++)
                assert_int_equal(plx_source_add(r, &taps[i].source), 0);
            taps[who].remove = &taps[whom];
            taps[who].add = &taps[4];
            plx_reactor_poll(r);
            plx_reactor_poll(r);
            for (int i = 0; i < 4; i++) {
                if (i != whom)
                    assert_int_equal(taps[i].polled, 2);
                else
                    assert_true(taps[i].polled <= 1);
            }
            assert_true(taps[4].polled == 1 || taps[4].polled == 2);
            for (int i = 0; i < 5; i++)
                plx_source_remove(r, &taps[i].source);
            plx_reactor_destroy(r);
        }
}

static void a_sources_descriptor_wakes_the_reactor(void **state)
{
    enum plx_poll_mode *mode = *state;
    struct plx_reactor *r = make(*mode);
    struct tap t;
    tap_init(&t, r);
    t.source.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    t.stop = true;
    assert_int_equal(plx_source_add(r, &t.source), 0);
    pthread_t thread;
    pthread_create(&thread, NULL, run, r);
    nap_ms(10);
    uint64_t one = 1;
    assert_int_equal(write(t.source.fd, &one, sizeof one), sizeof one);
    pthread_join(thread, NULL);
    assert_int_equal(t.armed, t.disarmed); /* whatever was armed is disarmed before it is polled */
    plx_source_remove(r, &t.source);
    close(t.source.fd);
    plx_reactor_destroy(r);
}

static void work_that_slips_in_while_arming_prevents_sleep(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_SLEEP);
    struct tap t;
    tap_init(&t, r);
    assert_int_equal(plx_source_add(r, &t.source), 0);
    t.slipped = 1;
    assert_int_equal(plx_reactor_arm(r), 1);
    assert_int_equal(t.disarmed, 1);
    assert_int_equal(plx_reactor_arm(r), 0);
    plx_reactor_poll(r);
    assert_int_equal(t.disarmed, 2);
    struct note n = {.msg.fn = bump};
    plx_reactor_send(r, &n.msg);
    assert_int_equal(plx_reactor_arm(r), 1);
    plx_source_remove(r, &t.source);
    plx_reactor_destroy(r);
}

static void a_descriptor_that_cannot_be_waited_for_is_an_error(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_SLEEP);
    struct tap t;
    tap_init(&t, r);
    t.source.fd = 9999;
    assert_true(plx_source_add(r, &t.source) < 0);
    struct plx_watch w = {.fd = 9999};
    assert_true(plx_watch_add(r, &w) < 0);
    assert_int_equal(plx_reactor_poll(r), 0);
    assert_int_equal(t.polled, 0);
    plx_reactor_destroy(r);
}

/* ---- watches, and outer loops ---- */

struct sight {
    struct plx_watch watch;
    struct plx_reactor *r;
    struct sight *other; /* removed when this is ready */
    int seen;
};

static void see(struct plx_watch *w)
{
    struct sight *s = plx_container_of(w, struct sight, watch);
    uint64_t value;
    s->seen++;
    assert_int_equal(read(w->fd, &value, sizeof value), sizeof value);
    if (s->other)
        plx_watch_remove(s->r, &s->other->watch);
}

static void sight_init(struct sight *s, struct plx_reactor *r, uint64_t ready)
{
    *s = (struct sight){.watch = {.fd = eventfd((unsigned)ready, EFD_NONBLOCK | EFD_CLOEXEC), .ready = see}, .r = r};
    assert_int_equal(plx_watch_add(r, &s->watch), 0);
}

static void a_watch_is_seen_even_while_the_reactor_is_busy(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_BUSY);
    struct sight s;
    sight_init(&s, r, 1);
    uint64_t end = plx_reactor_now(r) + 2 * PLX_NS_PER_S;
    while (!s.seen && plx_reactor_now(r) < end)
        plx_reactor_poll(r);
    assert_int_equal(s.seen, 1);
    plx_watch_remove(r, &s.watch);
    close(s.watch.fd);
    plx_reactor_destroy(r);
}

static void a_removed_watch_is_not_called_even_if_it_was_ready(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    struct sight a, b;
    sight_init(&a, r, 1);
    sight_init(&b, r, 1);
    a.other = &b;
    b.other = &a;
    assert_int_equal(plx_reactor_arm(r), 0);
    plx_reactor_poll(r);
    assert_int_equal(a.seen + b.seen, 1);
    plx_watch_remove(r, &a.watch);
    plx_watch_remove(r, &b.watch);
    close(a.watch.fd);
    close(b.watch.fd);
    plx_reactor_destroy(r);
}

static int readable(const struct plx_reactor *r)
{
    struct pollfd p = {.fd = plx_reactor_fd(r), .events = POLLIN};
    return poll(&p, 1, 0);
}

static void an_outer_loop_waits_quietly_and_wakes_for_everything(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    struct sight s;
    struct note n = {.msg.fn = bump};
    sight_init(&s, r, 0);
    for (int i = 1; i <= 3; i++) {
        while (plx_reactor_poll(r))
            ;
        assert_int_equal(plx_reactor_arm(r), 0);
        assert_int_equal(readable(r), 0); /* the last wake-up is not seen twice */

        plx_reactor_send(r, &n.msg);
        assert_int_equal(readable(r), 1);
        assert_true(plx_reactor_poll(r) > 0);
        assert_int_equal(n.number, i);
        assert_int_equal(plx_reactor_poll(r), 0);
        assert_int_equal(plx_reactor_arm(r), 0);
        assert_int_equal(readable(r), 0);

        uint64_t one = 1;
        assert_int_equal(write(s.watch.fd, &one, sizeof one), sizeof one);
        assert_int_equal(readable(r), 1);
        assert_true(plx_reactor_poll(r) > 0); /* at once, not only when it is time to look at descriptors */
        assert_int_equal(s.seen, i);
    }
    plx_watch_remove(r, &s.watch);
    close(s.watch.fd);
    plx_reactor_destroy(r);
}

static void timeouts_tell_an_outer_loop_how_long_to_wait(void **state)
{
    (void)state;
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    struct alarm_clock a = {.timer.fn = ring, .r = r};
    last_rung = NULL;
    assert_int_equal(plx_reactor_timeout(r), -1);
    plx_timer_set(r, &a.timer, 5 * PLX_NS_PER_MS);
    int64_t wait = plx_reactor_timeout(r);
    assert_true(wait > 0 && wait <= (int64_t)(5 * PLX_NS_PER_MS));
    nap_ms(6);
    assert_int_equal(plx_reactor_timeout(r), 0);
    assert_int_equal(plx_reactor_poll(r), 1);
    assert_int_equal(plx_reactor_timeout(r), -1);
    plx_reactor_destroy(r);
}

/* ---- what a reactor leaves behind ---- */

struct keepsake {
    struct plx_source source;
    struct plx_reactor *r;
    int destroyed;
};

static int keepsake_poll(struct plx_source *s)
{
    (void)s;
    return 0;
}

static void keepsake_destroy(struct plx_source *s)
{
    struct keepsake *k = plx_container_of(s, struct keepsake, source);
    assert_null(plx_source_find(k->r, s->ops)); /* removed already */
    k->destroyed++;
}

static void sources_that_are_left_are_destroyed_with_the_reactor(void **state)
{
    (void)state;
    static const struct plx_source_ops kept = {.poll = keepsake_poll, .destroy = keepsake_destroy};
    static const struct plx_source_ops plain = {.poll = keepsake_poll};
    struct plx_reactor *r = make(PLX_POLL_ADAPTIVE);
    struct keepsake k = {.source = {.ops = &kept, .fd = -1}, .r = r};
    struct keepsake removed = {.source = {.ops = &kept, .fd = -1}, .r = r};
    struct keepsake other = {.source = {.ops = &plain, .fd = -1}, .r = r};
    assert_int_equal(plx_source_add(r, &removed.source), 0);
    assert_int_equal(plx_source_add(r, &k.source), 0);
    assert_int_equal(plx_source_add(r, &other.source), 0);
    plx_source_remove(r, &removed.source);
    plx_reactor_destroy(r);
    assert_int_equal(k.destroyed, 1);
    assert_int_equal(removed.destroyed, 0);
    assert_int_equal(other.destroyed, 0);
}

/* ---- simulated time ---- */

static uint64_t simulated_ns;

static uint64_t simulated_clock(void)
{
    return simulated_ns;
}

static void in_simulated_time_a_day_passes_at_once(void **state)
{
    (void)state;
    const uint64_t day = 86400 * PLX_NS_PER_S;
    simulated_ns = 1000;
    plx_clock_simulate(simulated_clock);
    struct plx_reactor *r = make(PLX_POLL_SLEEP);
    struct alarm_clock a = {.timer.fn = ring, .r = r};
    struct sight s;
    last_rung = NULL;
    plx_timer_set(r, &a.timer, day);
    assert_int_equal(a.timer.due, 1000 + day);
    assert_int_equal(plx_reactor_timeout(r), day);
    simulated_ns += day - 1;
    assert_int_equal(plx_reactor_poll(r), 0);
    sight_init(&s, r, 1); /* time stands still, and yet it is seen */
    assert_int_equal(plx_reactor_poll(r), 1);
    assert_int_equal(s.seen, 1);
    assert_null(last_rung);
    simulated_ns += 1;
    plx_reactor_poll(r);
    assert_ptr_equal(last_rung, &a);
    plx_watch_remove(r, &s.watch);
    close(s.watch.fd);
    plx_reactor_destroy(r);
    plx_clock_simulate(NULL);
    assert_true(plx_reactor_clock(NULL) > 1000);
}

struct ticker {
    struct plx_source source;
    int rounds;
    struct plx_timer timer;
    struct plx_reactor *r;
};

/* Moves time on after rounds in which the reactor would have slept. */
static int tick(struct plx_source *s)
{
    struct ticker *t = plx_container_of(s, struct ticker, source);
    if (++t->rounds < 10)
        return 0;
    int64_t left = plx_reactor_timeout(t->r);
    simulated_ns += left > 0 ? (uint64_t)left : 0;
    return 0;
}

static void tick_over(struct plx_timer *timer)
{
    plx_reactor_stop(plx_container_of(timer, struct ticker, timer)->r);
}

static void in_simulated_time_a_running_reactor_does_not_sleep(void **state)
{
    (void)state;
    static const struct plx_source_ops ops = {.poll = tick};
    struct plx_reactor_stats stats;
    plx_clock_simulate(simulated_clock);
    struct ticker t = {.source = {.ops = &ops, .fd = -1}, .timer.fn = tick_over, .r = make(PLX_POLL_SLEEP)};
    assert_int_equal(plx_source_add(t.r, &t.source), 0);
    plx_timer_set(t.r, &t.timer, 1000 * 86400 * PLX_NS_PER_S);
    plx_reactor_run(t.r);
    plx_reactor_get_stats(t.r, &stats);
    assert_int_equal(stats.sleeps, 0);
    plx_source_remove(t.r, &t.source);
    plx_reactor_destroy(t.r);
    plx_clock_simulate(NULL);
}

/* ---- who owns what ---- */

#ifdef PLX_CHECK_OWNER
struct arrival {
    struct plx_msg msg;
    _Atomic bool here;
};

static void arrive(struct plx_msg *msg)
{
    plx_container_of(msg, struct arrival, msg)->here = true;
}
#endif

static void only_the_thread_that_runs_it_touches_a_reactor(void **state)
{
    (void)state;
#ifndef PLX_CHECK_OWNER
    print_message("built without PLX_CHECK_OWNER\n");
    skip();
#else
    struct plx_reactor *r = make(PLX_POLL_SLEEP);
    struct arrival a = {.msg.fn = arrive};
    pthread_t thread;
    assert_true(plx_reactor_is_here(r)); /* nobody's yet */
    pthread_create(&thread, NULL, run, r);
    plx_reactor_send(r, &a.msg);
    while (!a.here)
        nap_ms(1);
    assert_false(plx_reactor_is_here(r));
    plx_reactor_stop(r);
    pthread_join(thread, NULL);
    assert_true(plx_reactor_is_here(r));
    plx_reactor_destroy(r);
#endif
}

int main(void)
{
    static enum plx_poll_mode modes[] = {PLX_POLL_ADAPTIVE, PLX_POLL_BUSY, PLX_POLL_SLEEP};
#define EACH_MODE(f)                                                                                                   \
    {#f " (adaptive)", f, NULL, NULL, &modes[0]}, {#f " (busy)", f, NULL, NULL, &modes[1]},                            \
    {                                                                                                                  \
#f " (sleep)", f, NULL, NULL, &modes[2]                                                                        \
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_reactor_takes_its_core_in_small_pieces),
        cmocka_unit_test(test_a_reactor_that_has_no_core_waits_for_those_that_have),
        EACH_MODE(messages_of_each_thread_arrive_once_and_in_order),
        EACH_MODE(two_reactors_wake_each_other),
        cmocka_unit_test(a_message_wakes_a_sleeping_reactor),
        cmocka_unit_test(messages_left_at_the_end_are_run),
        cmocka_unit_test(a_message_may_send_itself_again),
        cmocka_unit_test(an_idle_reactor_sleeps_as_its_mode_says),
        cmocka_unit_test(a_signal_handler_may_stop_it),
        cmocka_unit_test(it_runs_again_after_a_stop),
        cmocka_unit_test(a_pinned_thread_gets_its_cores_back),
        cmocka_unit_test(timers_fire_in_order_and_cancelled_ones_never),
        cmocka_unit_test(a_timer_may_set_itself_and_cancel_others_when_it_fires),
        cmocka_unit_test(a_timer_counts_from_when_it_is_set),
        EACH_MODE(a_timer_wakes_a_sleeping_reactor),
        cmocka_unit_test(sources_may_be_removed_and_added_while_polled),
        EACH_MODE(a_sources_descriptor_wakes_the_reactor),
        cmocka_unit_test(work_that_slips_in_while_arming_prevents_sleep),
        cmocka_unit_test(a_descriptor_that_cannot_be_waited_for_is_an_error),
        cmocka_unit_test(a_watch_is_seen_even_while_the_reactor_is_busy),
        cmocka_unit_test(a_removed_watch_is_not_called_even_if_it_was_ready),
        cmocka_unit_test(an_outer_loop_waits_quietly_and_wakes_for_everything),
        cmocka_unit_test(timeouts_tell_an_outer_loop_how_long_to_wait),
        cmocka_unit_test(sources_that_are_left_are_destroyed_with_the_reactor),
        cmocka_unit_test(in_simulated_time_a_day_passes_at_once),
        cmocka_unit_test(in_simulated_time_a_running_reactor_does_not_sleep),
        cmocka_unit_test(only_the_thread_that_runs_it_touches_a_reactor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
