/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A target whose control path has a reactor of its own: hosts and disks are not there. All reactors are polled by this
 * thread; test_nvmf_storm.c has such a target on threads.
 */
#include "nvmf/nvmf.h"
#include "test_disk.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define NQN "nqn.2024-01.com.example:apart"

enum { MAX_REACTORS = 3, CONNECTIONS = 4 };

static struct rig {
    struct plx_reactor *reactors[MAX_REACTORS]; /* the first is the control reactor */
    unsigned n;
    struct plx_nvmf_target *t;
    struct plx_nvmf_subsystem *s;
    struct plx_nvmf_listener *l;
    bool done;
    int result;
} rig;

static void over(void *arg, int result)
{
    (void)arg;
    rig.done = true;
    rig.result = result;
}

static int poll_all(void)
{
    int work = 0;
    for (unsigned i = 0; i < rig.n; i++)
        work += plx_reactor_poll(rig.reactors[i]);
    return work;
}

static int outcome(void)
{
    while (!rig.done)
        poll_all();
    rig.done = false;
    return rig.result;
}

static int start(unsigned reactors, struct plx_bdev *disk)
{
    const struct plx_nvmf_opts opts = {.control_apart = true};
    const struct plx_nvmf_subsystem_opts sopts = {.nqn = NQN, .allow_any_host = true};
    memset(&rig, 0, sizeof rig);
    for (; rig.n < reactors; rig.n++)
        assert_int_equal(plx_reactor_create(&rig.reactors[rig.n], NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&rig.t, rig.reactors, rig.n, &opts, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_create(rig.t, &sopts, &rig.s, NULL), 0);
    assert_int_equal(plx_nvmf_listen(rig.t, "127.0.0.1", 0, &rig.l, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, disk, NULL, NULL), 1);
    plx_nvmf_target_start(rig.t, over, NULL);
    return outcome();
}

static int apply(void)
{
    plx_nvmf_target_apply(rig.t, over, NULL);
    return outcome();
}

static void destroy(void)
{
    plx_nvmf_target_destroy(rig.t);
    for (unsigned i = 0; i < rig.n; i++)
        plx_reactor_destroy(rig.reactors[i]);
}

static int stop(void)
{
    plx_nvmf_target_stop(rig.t, 100, over, NULL);
    return outcome();
}

static int connect_to_it(void)
{
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons(plx_nvmf_listener_port(rig.l)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static unsigned connections_of(const struct nvmf_group *g)
{
    unsigned n = 0;
    plx_list_for_each(it, &g->qpairs) {
        n++;
    }
    return n;
}

static unsigned all_connections(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < rig.t->nreactors; i++)
        n += connections_of(&rig.t->groups[i]);
    return n;
}

static void the_control_path_alone_serves_no_hosts(void **state)
{
    (void)state;
    struct plx_error err;
    struct plx_reactor *r;
    struct plx_nvmf_target *t;
    const struct plx_nvmf_opts opts = {.control_apart = true};
    assert_int_equal(plx_reactor_create(&r, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&t, &r, 1, &opts, &err), -EINVAL);
    assert_string_equal(err.text, "a control path apart needs a second reactor, for hosts");
    plx_reactor_destroy(r);
}

static void connections_are_dealt_to_the_other_reactors(void **state)
{
    (void)state;
    for (unsigned data = 1; data < MAX_REACTORS; data++) {
        struct plx_bdev *ram;
        int fds[CONNECTIONS];
        assert_int_equal(plx_bdev_open("ram:1M", &ram, NULL), 0);
        assert_int_equal(start(1 + data, ram), 0);
        assert_int_equal(rig.t->nreactors, data);
        for (unsigned i = 0; i < CONNECTIONS; i++)
            fds[i] = connect_to_it();
        while (all_connections() < CONNECTIONS)
            poll_all();
        for (unsigned i = 0; i < data; i++) {
            assert_ptr_equal(rig.t->groups[i].reactor, rig.reactors[1 + i]);
            assert_int_equal(connections_of(&rig.t->groups[i]), CONNECTIONS / data);
        }
        assert_int_equal(stop(), 0);
        for (unsigned i = 0; i < CONNECTIONS; i++)
            close(fds[i]);
        destroy();
        assert_int_equal(plx_bdev_close(ram), 0);
    }
}

/* A RAM disk that two reactors share takes locks and does not lend. */
static void a_disk_of_one_reactor_is_lent_whatever_comes_and_goes(void **state)
{
    (void)state;
    struct plx_bdev *ram, *more;
    assert_int_equal(plx_bdev_open("ram:1M", &ram, NULL), 0);
    assert_int_equal(plx_bdev_open("ram:1M", &more, NULL), 0);
    assert_int_equal(start(2, ram), 0);
    const struct nvmf_nsref *ref = &rig.s->ns[0]->refs[0];
    assert_ptr_equal(ref->group->reactor, rig.reactors[1]);
    assert_true(rig.t->groups[0].in_place);
    assert_non_null(plx_bdev_map(ref->ch, 0, 8));
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, more, NULL, NULL), 2);
    assert_int_equal(apply(), 0);
    const struct nvmf_nsref *added = &rig.s->ns[1]->refs[0];
    assert_non_null(plx_bdev_map(added->ch, 0, 8));
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 2, NULL), 0);
    assert_int_equal(apply(), 0);
    assert_int_equal(plx_bdev_close(more), 0);
    assert_non_null(plx_bdev_map(ref->ch, 0, 8));
    assert_int_equal(stop(), 0);
    destroy();
    assert_int_equal(plx_bdev_close(ram), 0);
}

static void what_becomes_of_a_disk_is_told_to_the_control_reactor(void **state)
{
    (void)state;
    struct plx_bdev *null;
    assert_int_equal(plx_bdev_open("null:8M", &null, NULL), 0);
    assert_int_equal(start(2, null), 0);
    const uint64_t before = rig.t->snap->generation;
    assert_int_equal(plx_bdev_resize(null, 4096, NULL), 0);
    assert_true(plx_reactor_poll(rig.reactors[0]) > 0);
    assert_int_equal(rig.t->snap->generation, before + 1);
    while (poll_all())
        ;
    assert_int_equal(rig.t->groups[0].snap->generation, before + 1);
    assert_int_equal(rig.t->groups[0].snap->images[rig.s->index]->ns[0].blocks, 4096);
    assert_int_equal(stop(), 0);
    destroy();
    assert_int_equal(plx_bdev_close(null), 0);
}

static void the_last_flush_is_that_of_a_reactor_with_a_channel(void **state)
{
    (void)state;
    const uint16_t statuses[] = {PLX_SC_SUCCESS, PLX_SC_WRITE_FAULT};
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(statuses); i++) {
        struct test_disk *disk = test_disk_new();
        assert_int_equal(start(3, &disk->bdev), 0);
        assert_int_equal(disk->channels, 2);
        plx_nvmf_target_stop(rig.t, 60000, over, NULL);
        while (!disk->first)
            poll_all();
        assert_int_equal(disk->first->op, PLX_BDEV_FLUSH);
        assert_ptr_equal(disk->first->ch->reactor, rig.reactors[1]);
        assert_false(rig.done);
        assert_true(test_disk_end(disk, statuses[i]));
        assert_int_equal(outcome(), statuses[i] ? -EIO : 0);
        assert_int_equal(disk->channels, 0);
        destroy();
        assert_int_equal(plx_bdev_close(&disk->bdev), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_control_path_alone_serves_no_hosts),
        cmocka_unit_test(connections_are_dealt_to_the_other_reactors),
        cmocka_unit_test(a_disk_of_one_reactor_is_lent_whatever_comes_and_goes),
        cmocka_unit_test(what_becomes_of_a_disk_is_told_to_the_control_reactor),
        cmocka_unit_test(the_last_flush_is_that_of_a_reactor_with_a_channel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
