/* SPDX-License-Identifier: BSD-3-Clause */
/* Streams and their group: whose turn it is, and what closing, lingering and blocking do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "memnet.h"
#include "reactor/clock.h"

enum { BYTES = 300000 };

static struct plx_reactor *reactor;
static struct plx_stream_group *group;
static uint64_t now_ns;

static uint64_t simulated(void)
{
    return now_ns;
}

/* One end of a conversation: sends what it has, and keeps what comes. */
struct end {
    struct plx_stream s;
    const uint8_t *out;
    size_t left, got;
    uint8_t *in;
    unsigned ins, outs; /* calls */
    int started, start_result;
    bool over;
    struct plx_stream *victim; /* closed at the next call */
};

static struct end *end_of(struct plx_stream *s)
{
    return plx_container_of(s, struct end, s);
}

static int end_in(struct plx_stream *s)
{
    struct end *e = end_of(s);
    e->ins++;
    if (e->victim)
        plx_stream_close(e->victim);
    e->victim = NULL;
    if (s->state == PLX_STREAM_CLOSED)
        return 1;
    const struct iovec iov = {plx_stream_group_rx(s->group), PLX_STREAM_RX_BYTES};
    ssize_t n = plx_stream_recv(s, &iov, 1);
    if (n == -EAGAIN)
        return 0;
    if (n <= 0) {
        e->over = true;
        plx_stream_close(s);
        return 1;
    }
    assert_true(e->got + (size_t)n <= BYTES);
    memcpy(e->in + e->got, iov.iov_base, (size_t)n);
    e->got += (size_t)n;
    return 1;
}

static int end_out(struct plx_stream *s)
{
    struct end *e = end_of(s);
    e->outs++;
    const struct iovec iov[2] = {{(void *)(uintptr_t)e->out, e->left / 3},
                                 {(void *)(uintptr_t)(e->out + e->left / 3), e->left - e->left / 3}};
    ssize_t n = plx_stream_send(s, iov, 2);
    if (n > 0) {
        e->out += n;
        e->left -= (size_t)n;
    }
    s->blocked = e->left > 0;
    return n > 0;
}

static void end_started(struct plx_stream *s, int ret)
{
    end_of(s)->started++;
    end_of(s)->start_result = ret;
    if (ret)
        plx_stream_close(s);
}

static const struct plx_stream_user plain = {.started = end_started, .in = end_in, .out = end_out};
static const struct plx_stream_user one = {.started = end_started, .in = end_in, .out = end_out, .one_a_round = true};

static void end_init(struct end *e, const struct plx_stream_user *user)
{
    memset(e, 0, sizeof *e);
    plx_stream_init(&e->s, user);
    e->in = malloc(BYTES);
    assert_non_null(e->in);
}

static void end_free(struct end *e)
{
    plx_stream_close(&e->s);
    free(e->in);
}

static void sockets(struct end *a, int *peer)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    plx_stream_socket(&a->s, fds[0]);
    *peer = fds[1];
    assert_int_equal(plx_stream_add(group, &a->s), 0);
}

static int set_up(void **state)
{
    (void)state;
    now_ns = PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    assert_int_equal(plx_reactor_create(&reactor, NULL), 0);
    group = plx_stream_group_get(reactor);
    assert_non_null(group);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    plx_stream_group_put(group);
    plx_reactor_destroy(reactor);
    plx_clock_simulate(NULL);
    return 0;
}

static void poll_rounds(unsigned n)
{
    while (n--)
        plx_reactor_poll(reactor);
}

static void what_is_sent_arrives_in_order_however_it_is_cut(void **state)
{
    (void)state;
    static uint8_t there[BYTES], back[BYTES];
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct end a, b;
        const struct memnet_opts net = {.seed = seed,
                                        .window = 1 + seed * 977 % 70000,
                                        .busy = seed * 1500 % 40000,
                                        .cut = seed * 3000 % 65536,
                                        .late = 20000,
                                        .late_ns = 1000000,
                                        .time = &now_ns};
        memnet_begin(&net);
        for (size_t i = 0; i < BYTES; i++) {
            there[i] = (uint8_t)memnet_random(256);
            back[i] = (uint8_t)(there[i] ^ i);
        }
        end_init(&a, &plain);
        end_init(&b, seed % 2 ? &one : &plain);
        memnet_pair(&a.s, &b.s);
        assert_int_equal(plx_stream_add(group, &a.s), 0);
        assert_int_equal(plx_stream_add(group, &b.s), 0);
        a.out = there, a.left = BYTES;
        b.out = back, b.left = BYTES;
        plx_stream_dirty(&a.s);
        plx_stream_dirty(&b.s);
        for (unsigned rounds = 0; a.got < BYTES || b.got < BYTES; rounds++) {
            assert_true(rounds < 10000000);
            plx_reactor_poll(reactor);
            now_ns += 1000;
        }
        assert_memory_equal(b.in, there, BYTES);
        assert_memory_equal(a.in, back, BYTES);
        end_free(&a);
        end_free(&b);
        memnet_over();
    }
}

static void the_end_of_a_stream_comes_after_its_last_bytes(void **state)
{
    (void)state;
    struct end a, b;
    const struct memnet_opts net = {.seed = 7, .window = 4096, .busy = 30000, .cut = 30000};
    memnet_begin(&net);
    end_init(&a, &plain);
    end_init(&b, &plain);
    memnet_pair(&a.s, &b.s);
    assert_int_equal(plx_stream_add(group, &a.s), 0);
    assert_int_equal(plx_stream_add(group, &b.s), 0);
    a.out = (const uint8_t *)"goodbye", a.left = 7;
    plx_stream_dirty(&a.s);
    while (a.left)
        plx_reactor_poll(reactor);
    plx_stream_linger(&a.s);
    while (!b.over)
        plx_reactor_poll(reactor);
    assert_int_equal(b.got, 7);
    end_free(&b);
    end_free(&a);
    memnet_over();
}

static void a_stream_that_is_one_a_round_ends_it(void **state)
{
    (void)state;
    struct end e[3];
    int peers[3];
    for (int i = 0; i < 3; i++) {
        end_init(&e[i], &one);
        sockets(&e[i], &peers[i]);
        assert_int_equal(write(peers[i], "x", 1), 1);
    }
    for (size_t round = 1; round <= 3; round++) {
        poll_rounds(1);
        assert_int_equal(e[0].got + e[1].got + e[2].got, round); /* and each in its turn */
        assert_true(e[0].got <= 1 && e[1].got <= 1 && e[2].got <= 1);
    }
    for (int i = 0; i < 3; i++) {
        end_free(&e[i]);
        close(peers[i]);
    }
}

static void all_others_have_their_turn_in_a_round(void **state)
{
    (void)state;
    struct end e[3];
    int peers[3];
    for (int i = 0; i < 3; i++) {
        end_init(&e[i], &plain);
        sockets(&e[i], &peers[i]);
        assert_int_equal(write(peers[i], "x", 1), 1);
    }
    poll_rounds(1);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(e[i].got, 1);
        end_free(&e[i]);
        close(peers[i]);
    }
}

static void a_quiet_stream_is_tried_now_and_then(void **state)
{
    (void)state;
    struct end e;
    int peer;
    end_init(&e, &plain);
    sockets(&e, &peer);
    e.s.quiet = true;
    poll_rounds(64);
    assert_int_equal(e.ins, 4);
    assert_int_equal(write(peer, "x", 1), 1);
    poll_rounds(16);
    assert_int_equal(e.got, 1);
    end_free(&e);
    close(peer);
}

static void of_many_streams_only_those_that_are_ready_are_served(void **state)
{
    (void)state;
    enum { MANY = 60 };
    static struct end e[MANY];
    int peers[MANY];
    unsigned before = 0, after = 0;
    for (int i = 0; i < MANY; i++) {
        end_init(&e[i], &plain);
        sockets(&e[i], &peers[i]);
    }
    for (int i = 0; i < MANY; i++)
        before += e[i].ins;
    assert_int_equal(write(peers[17], "x", 1), 1);
    assert_int_equal(write(peers[42], "x", 1), 1);
    poll_rounds(3);
    for (int i = 0; i < MANY; i++)
        after += e[i].ins;
    assert_int_equal(e[17].got + e[42].got, 2);
    assert_int_equal(after - before, 2);
    for (int i = 0; i < MANY; i++) {
        end_free(&e[i]);
        close(peers[i]);
    }
}

static void streams_that_are_tried_in_vain_are_asked_for(void **state)
{
    (void)state;
    enum { SOME = 20 };
    static struct end e[SOME];
    int peers[SOME];
    unsigned ins = 0;
    for (int i = 0; i < SOME; i++) {
        end_init(&e[i], &plain);
        sockets(&e[i], &peers[i]);
    }
    poll_rounds(200);
    for (int i = 0; i < SOME; i++)
        ins += e[i].ins;
    assert_true(ins < 20 * SOME); /* and not 200 times each */
    assert_int_equal(write(peers[3], "x", 1), 1);
    poll_rounds(1);
    assert_int_equal(e[3].got, 1);
    for (int i = 0; i < SOME; i++) {
        end_free(&e[i]);
        close(peers[i]);
    }
}

static void a_stream_that_is_closed_by_another_is_not_called_any_more(void **state)
{
    (void)state;
    enum { MANY = 40 }; /* so that they are taken out of one answer of the kernel's */
    static struct end e[MANY];
    int peers[MANY];
    for (int i = 0; i < MANY; i++) {
        end_init(&e[i], &plain);
        sockets(&e[i], &peers[i]);
        assert_int_equal(write(peers[i], "x", 1), 1);
    }
    for (int i = 0; i < MANY; i++)
        e[i].victim = &e[(i + 1) % MANY].s;
    poll_rounds(3);
    int served = 0;
    for (int i = 0; i < MANY; i++) {
        assert_true(e[i].ins <= 1 || e[i].s.state != PLX_STREAM_CLOSED);
        served += e[i].ins > 0;
    }
    assert_int_equal(served, MANY / 2);
    for (int i = 0; i < MANY; i++) {
        end_free(&e[i]);
        close(peers[i]);
    }
}

static void a_blocked_stream_goes_on_when_there_is_room(void **state)
{
    (void)state;
    static uint8_t bytes[BYTES], got[BYTES];
    struct end e;
    int peer;
    size_t n = 0;
    end_init(&e, &plain);
    sockets(&e, &peer);
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)(i * 7);
    e.out = bytes, e.left = BYTES;
    plx_stream_dirty(&e.s);
    poll_rounds(10);
    assert_true(e.left && e.s.blocked);
    for (ssize_t k; n < BYTES; n += (size_t)k) {
        k = read(peer, got + n, BYTES - n);
        assert_true(k > 0);
        poll_rounds(16); /* it is not tried in each */
    }
    assert_memory_equal(got, bytes, BYTES);
    end_free(&e);
    close(peer);
}

/* Fills what a socket takes. */
static void block(struct end *e, int *peer)
{
    static uint8_t bytes[BYTES];
    end_init(e, &plain);
    sockets(e, peer);
    e->out = bytes, e->left = BYTES;
    plx_stream_dirty(&e->s);
}

static void read_all(struct end *e, int peer)
{
    static uint8_t sink[BYTES];
    for (size_t n = 0; n < BYTES;) {
        ssize_t k = read(peer, sink, BYTES);
        assert_true(k > 0);
        n += (size_t)k;
        poll_rounds(16);
    }
    assert_int_equal(e->left, 0);
    assert_false(e->s.blocked);
}

static void a_stream_that_takes_nothing_is_tried_ever_more_rarely(void **state)
{
    (void)state;
    struct end e;
    int peer;
    block(&e, &peer);
    poll_rounds(160);
    assert_true(e.s.blocked);
    assert_in_range(e.outs, 10, 16);
    read_all(&e, peer);
    end_free(&e);
    close(peer);
}

static void a_blocked_stream_that_closes_itself_is_not_tried_any_more(void **state)
{
    (void)state;
    for (unsigned rounds = 1; rounds <= 16; rounds++) {
        struct end e;
        int peer;
        block(&e, &peer);
        poll_rounds(rounds);
        unsigned outs = e.outs;
        e.victim = &e.s;
        poll_rounds(1);
        assert_null(e.victim);
        assert_int_equal(e.outs, outs);
        end_free(&e);
        close(peer);
    }
}

static bool some_are_listed(void)
{
    return !plx_list_empty(&((struct plx_stream_dirty_list *)group)->list);
}

static void of_many_blocked_streams_none_is_looked_at_until_there_is_room(void **state)
{
    (void)state;
    enum { MANY = 60 };
    static struct end e[MANY];
    int peers[MANY];
    for (int i = 0; i < MANY; i++)
        block(&e[i], &peers[i]);
    poll_rounds(5);
    assert_false(some_are_listed());
    for (int i = 0; i < MANY; i++)
        assert_true(e[i].s.blocked && e[i].outs <= 3);
    plx_stream_dirty(&e[7].s); /* there is more to send, but it takes nothing even so */
    poll_rounds(5);
    assert_false(some_are_listed());
    for (int i = 0; i < MANY; i++) {
        read_all(&e[i], peers[i]);
        end_free(&e[i]);
        close(peers[i]);
    }
}

static void a_lingering_socket_closes_after_the_peer_or_after_a_while(void **state)
{
    (void)state;
    struct end e[2];
    int peers[2];
    char c;
    for (int i = 0; i < 2; i++) {
        end_init(&e[i], &plain);
        sockets(&e[i], &peers[i]);
        plx_stream_linger(&e[i].s);
        assert_int_equal(write(peers[i], "unread", 6), 6);
        assert_int_equal(read(peers[i], &c, 1), 0); /* it sees the end */
    }
    int first = e[0].s.fd, second = e[1].s.fd;
    close(peers[0]);
    for (int i = 0; i < 3; i++) {
        now_ns += 100 * PLX_NS_PER_MS;
        poll_rounds(1);
    }
    assert_true(first >= 0 && e[0].s.fd < 0);
    assert_int_equal(e[1].s.fd, second);
    now_ns += PLX_NS_PER_S;
    poll_rounds(2);
    assert_true(e[1].s.fd < 0);
    assert_int_equal(e[0].ins + e[1].ins, 0);
    close(peers[1]);
    end_free(&e[0]);
    end_free(&e[1]);
}

static unsigned released;

static void count_release(struct plx_stream *s)
{
    (void)s;
    released++;
}

static void memory_is_released_when_lingering_is_over(void **state)
{
    (void)state;
    struct end e;
    int peer;
    end_init(&e, &plain);
    sockets(&e, &peer);
    released = 0;
    plx_stream_linger(&e.s);
    plx_stream_free(&e.s, count_release);
    poll_rounds(2);
    assert_int_equal(released, 0);
    close(peer);
    now_ns += 200 * PLX_NS_PER_MS;
    poll_rounds(2);
    assert_int_equal(released, 1);
    free(e.in);
}

static bool stall_all;

static int stalled_in(struct plx_stream *s)
{
    plx_stream_stall(s, stall_all);
    if (!s->stalled)
        return end_in(s);
    end_of(s)->over |= s->gone;
    return 0;
}

static const struct plx_stream_user stalls = {.started = end_started, .in = stalled_in, .out = end_out};

static bool wakes(void)
{
    struct pollfd p = {.fd = plx_reactor_fd(reactor), .events = POLLIN};
    bool woken = plx_reactor_arm(reactor) || poll(&p, 1, 0) > 0;
    poll_rounds(20);
    return woken;
}

static void a_stalled_stream_wakes_nobody_but_by_its_end(void **state)
{
    (void)state;
    struct end e;
    int peer;
    plx_clock_simulate(NULL); /* descriptors are slept on */
    end_init(&e, &stalls);
    sockets(&e, &peer);
    poll_rounds(2);
    assert_false(wakes());
    stall_all = true;
    assert_int_equal(write(peer, "x", 1), 1);
    assert_true(wakes()); /* it has not said yet that it takes nothing */
    assert_false(wakes());
    assert_false(wakes());
    shutdown(peer, SHUT_WR);
    assert_true(wakes());
    assert_true(wakes());
    assert_true(e.over);
    stall_all = false;
    poll_rounds(20);
    assert_int_equal(e.got, 1);
    end_free(&e);
    close(peer);
}

static void room_in_a_blocked_stream_wakes_the_reactor(void **state)
{
    (void)state;
    plx_clock_simulate(NULL); /* descriptors are slept on */
    for (int i = 0; i < 6; i++) {
        struct end e;
        int peer;
        uint8_t sink[BYTES];
        block(&e, &peer);
        e.s.user = &stalls;
        stall_all = i % 2; /* then what comes is to wake nobody */
        poll_rounds(20);
        assert_true(e.s.blocked && e.s.stalled == stall_all);
        for (int sleeps = 0; sleeps < i / 2; sleeps++)
            assert_false(wakes());
        size_t left = e.left;
        assert_true(read(peer, sink, sizeof sink) > 0);
        assert_true(wakes());
        assert_true(e.left < left);
        stall_all = false;
        end_free(&e);
        close(peer);
    }
}

static void a_connection_that_cannot_be_made_is_told_of(void **state)
{
    (void)state;
    struct end e;
    const struct sockaddr_storage to = {.ss_family = AF_INET};
    const struct memnet_opts net = {.seed = 1, .window = 64, .time = &now_ns};
    memnet_begin(&net);
    end_init(&e, &one);
    assert_int_equal(plx_net->connect(&e.s, &to), 0);
    assert_int_equal(plx_stream_add(group, &e.s), 0);
    poll_rounds(20);
    assert_int_equal(e.started, 0); /* nobody has accepted it */
    memnet_break_all();
    poll_rounds(20);
    assert_int_equal(e.started, 1);
    assert_int_equal(e.start_result, -ECONNREFUSED);
    assert_int_equal(e.ins, 0);
    end_free(&e);
    memnet_over();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_sent_arrives_in_order_however_it_is_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_end_of_a_stream_comes_after_its_last_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_that_is_one_a_round_ends_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_others_have_their_turn_in_a_round, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_quiet_stream_is_tried_now_and_then, set_up, tear_down),
        cmocka_unit_test_setup_teardown(of_many_streams_only_those_that_are_ready_are_served, set_up, tear_down),
        cmocka_unit_test_setup_teardown(streams_that_are_tried_in_vain_are_asked_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_that_is_closed_by_another_is_not_called_any_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_blocked_stream_goes_on_when_there_is_room, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_that_takes_nothing_is_tried_ever_more_rarely, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_blocked_stream_that_closes_itself_is_not_tried_any_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(of_many_blocked_streams_none_is_looked_at_until_there_is_room, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(room_in_a_blocked_stream_wakes_the_reactor, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_lingering_socket_closes_after_the_peer_or_after_a_while, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_is_released_when_lingering_is_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stalled_stream_wakes_nobody_but_by_its_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_connection_that_cannot_be_made_is_told_of, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
