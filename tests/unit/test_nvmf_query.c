/* SPDX-License-Identifier: BSD-3-Clause */
/* What a target says of what is going on: where commands are, over TCP; and the rest over function calls. */
#include "calls.h"
#include "failalloc.h"
#include "nvmf_util.h"
#include "reactor/clock.h"
#include "test_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define HOST "nqn.2024-01.com.example:host"

static uint64_t now_ns;

static uint64_t simulated(void)
{
    return now_ns;
}

static void pass(uint64_t ms)
{
    now_ns += ms * PLX_NS_PER_MS;
}

/* ---- answers, of which a test has one at a time ---- */

enum { ANSWER_ITEMS = PLX_NVMF_INFLIGHT_MAX };

static bool here, without_memory;
static unsigned count;
static uint64_t left_out;
static struct plx_nvmf_command_info commands[ANSWER_ITEMS];
static struct plx_nvmf_controller_info controllers[8];
static struct plx_nvmf_qpair_info qpairs[8][4];
static struct plx_nvmf_reactor_info reactors[4];

static void answered(const void *what, unsigned n)
{
    here = true;
    without_memory = !what;
    count = n;
}

static void told_commands(void *arg, const struct plx_nvmf_command_info *c, unsigned n, uint64_t more)
{
    (void)arg;
    answered(c, n);
    left_out = more;
    assert_true(n <= ANSWER_ITEMS);
    if (n)
        memcpy(commands, c, n * sizeof *c);
}

static void told_controllers(void *arg, const struct plx_nvmf_controller_info *c, unsigned n)
{
    (void)arg;
    answered(c, n);
    for (unsigned i = 0; i < n; i++) {
        controllers[i] = c[i];
        memcpy(qpairs[i], c[i].qpairs, (1 + c[i].nio) * sizeof qpairs[0][0]);
    }
}

static void told_reactors(void *arg, const struct plx_nvmf_reactor_info *r, unsigned n)
{
    (void)arg;
    answered(r, n);
    if (n)
        memcpy(reactors, r, n * sizeof *r);
}

/* ---- where commands are, over TCP ---- */

enum { LEN = 256 << 10, DISK = 2 };

struct peers {
    struct rig rig;
    struct test_disk *disk;
    int admin, io;
};

static void over(void *arg, int result)
{
    assert_int_equal(result, 0);
    *(bool *)arg = true;
}

static void open_peers(struct peers *p)
{
    bool done = false;
    const uint8_t uuid[16] = {1};
    const struct plx_nvmf_ns_opts opts = {.nsid = DISK, .uuid = uuid};
    now_ns = PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    assert_int_equal(rig_start_small(&p->rig, "ram:1M", 4 << 20), 0);
    p->disk = test_disk_new();
    p->disk->bdev.info.write_cache = false;
    struct plx_nvmf_subsystem *s = plx_list_entry(p->rig.target->subsystems.prev, struct plx_nvmf_subsystem, link);
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, &p->disk->bdev, &opts, NULL), DISK);
    plx_nvmf_target_apply(p->rig.target, over, &done);
    rig_settle(&p->rig);
    assert_true(done);
    assert_true(rig_host(&p->rig, &p->admin, &p->io));
}

static void close_peers(struct peers *p)
{
    close(p->io);
    close(p->admin);
    rig_settle(&p->rig);
    while (test_disk_end(p->disk, PLX_SC_SUCCESS))
        rig_settle(&p->rig);
    rig_stop(&p->rig);
    plx_bdev_close(&p->disk->bdev);
    plx_clock_simulate(NULL);
}

/* A command on an I/O queue, with as much data in its capsule, of which `sent` bytes are sent. */
static void send_command(struct peers *p, uint8_t opcode, uint8_t fuse, uint16_t cid, uint32_t nsid, uint32_t len,
                         uint32_t capsule, uint32_t sent)
{
    static const uint8_t data[8192];
    struct nvme_tcp_cmd pdu = {
        .hdr = {.type = NVME_TCP_CMD, .hlen = 72, .pdo = capsule ? 72 : 0, .plen = plx_put32(72 + capsule)},
        .cmd = {
            .opcode = opcode,
            .flags = NVME_PSDT_SGL | fuse,
            .cid = plx_put16(cid),
            .nsid = plx_put32(nsid),
            .sgl = {.length = plx_put32(len), .type = capsule ? NVME_SGL_DATA_BLOCK_OFFSET : NVME_SGL_TRANSPORT_DATA},
            .cdw10 = plx_put32(8),
            .cdw12 = plx_put32(len / 512 - 1)}};
    pass(10);
    assert_true(rig_send(&p->rig, p->io, &pdu, sizeof pdu));
    if (sent)
        assert_true(rig_send(&p->rig, p->io, data, sent));
}

/* All commands in flight, but for one that waits for an event. */
static void ask(struct peers *p)
{
    here = false;
    assert_int_equal(plx_nvmf_query_inflight(p->rig.target, told_commands, NULL), 0);
    rig_settle(&p->rig);
    assert_true(here && !without_memory);
}

static const struct plx_nvmf_command_info *find(uint16_t cid)
{
    for (unsigned i = 0; i < count; i++)
        if (commands[i].qid == 1 && commands[i].cid == cid)
            return &commands[i];
    return NULL;
}

static int stage(uint16_t cid)
{
    return find(cid) ? (int)find(cid)->stage : -1;
}

static void a_command_at_a_disk_that_hangs_is_told_of_whole(void **state)
{
    (void)state;
    struct peers p;
    open_peers(&p);
    ask(&p);
    assert_int_equal(count, 0);
    send_command(&p, NVME_IO_WRITE, 0, 7, DISK, 4096, 4096, 4096);
    pass(50);
    send_command(&p, NVME_IO_FLUSH, 0, 8, DISK, 0, 0, 0);
    pass(1);
    ask(&p);
    assert_int_equal(count, 2);
    assert_int_equal(left_out, 0);
    const struct plx_nvmf_command_info *c = &commands[0];
    assert_int_equal(c->cid, 7);
    assert_int_equal(c->age_ns, 61 * PLX_NS_PER_MS);
    assert_int_equal(c->stage, PLX_NVMF_STAGE_DISK);
    assert_string_equal(plx_nvmf_stage_text(c->stage), "at the disk");
    assert_string_equal(c->hostnqn, RIG_HOST);
    assert_string_equal(c->subnqn, RIG_NQN);
    assert_string_equal(c->disk, plx_bdev_info(&p.disk->bdev)->name);
    assert_int_equal(c->cntlid, 1);
    assert_int_equal(c->qid, 1);
    assert_int_equal(c->opcode, NVME_IO_WRITE);
    assert_int_equal(c->nsid, DISK);
    assert_true(c->range && !c->orphan);
    assert_int_equal(c->lba, 8);
    assert_int_equal(c->nlb, 8);
    assert_int_equal(commands[1].cid, 8);
    assert_int_equal(commands[1].age_ns, PLX_NS_PER_MS);
    assert_false(commands[1].range);

    p.disk->ignores_aborts = true; /* and when the host gives up, the disk has it yet */
    close(p.io);
    close(p.admin);
    for (int i = 0; i < 300; i++) {
        pass(10);
        rig_settle(&p.rig);
    }
    ask(&p);
    assert_int_equal(count, 2);
    assert_true(commands[0].orphan);
    assert_string_equal(commands[0].hostnqn, "");
    assert_int_equal(commands[0].stage, PLX_NVMF_STAGE_DISK);
    p.io = p.admin = -1;
    close_peers(&p);
}

static void a_write_whose_data_does_not_come_waits_for_it(void **state)
{
    (void)state;
    struct peers p;
    open_peers(&p);
    for (uint16_t cid = 0; cid < 3; cid++) /* of which an eighth of 4 MiB is for two */
        send_command(&p, NVME_IO_WRITE, 0, cid, DISK, LEN, 0, 0);
    send_command(&p, NVME_IO_WRITE, 0, 9, DISK, 4096, 4096, 100);
    ask(&p);
    assert_int_equal(count, 4);
    assert_int_equal(stage(0), PLX_NVMF_STAGE_DATA);
    assert_int_equal(stage(1), PLX_NVMF_STAGE_DATA);
    assert_int_equal(stage(2), PLX_NVMF_STAGE_BUFFER);
    assert_int_equal(stage(9), PLX_NVMF_STAGE_CAPSULE);
    close_peers(&p);
}

static void an_aborted_write_is_told_of_until_its_data_has_come(void **state)
{
    (void)state;
    struct peers p;
    open_peers(&p);
    send_command(&p, NVME_IO_WRITE, 0, 5, DISK, LEN, 0, 0);
    const struct nvme_cmd abort = {
        .opcode = NVME_ADMIN_ABORT, .flags = NVME_PSDT_SGL, .cid = plx_put16(1), .cdw10 = plx_put32(5u << 16 | 1)};
    assert_int_equal(rig_command(&p.rig, p.admin, &abort, NULL, 0), 0);
    ask(&p);
    assert_int_equal(stage(5), PLX_NVMF_STAGE_ABORTED);
    close_peers(&p);
}

static void a_host_that_does_not_read_has_its_answers_in_the_socket(void **state)
{
    (void)state;
    struct peers p;
    const int small = 4096;
    open_peers(&p);
    assert_int_equal(setsockopt(p.io, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    for (uint16_t cid = 0; cid < 8; cid++)
        send_command(&p, NVME_IO_READ, 0, cid, 1, LEN, 0, 0);
    send_command(&p, NVME_IO_WRITE, 0, 20, DISK, 16384, 0, 0);
    ask(&p);
    assert_int_equal(stage(7), PLX_NVMF_STAGE_SOCKET);
    assert_int_equal(stage(20), PLX_NVMF_STAGE_SOCKET); /* the R2T */
    close_peers(&p);
}

static void half_of_a_fused_command_is_held(void **state)
{
    (void)state;
    struct peers p;
    open_peers(&p);
    send_command(&p, NVME_IO_COMPARE, NVME_FUSE_FIRST, 3, 1, 512, 512, 512);
    ask(&p);
    assert_int_equal(stage(3), PLX_NVMF_STAGE_HELD);
    close_peers(&p);
}

static void a_request_for_an_event_waits_for_one(void **state)
{
    (void)state;
    struct peers p;
    open_peers(&p);
    const struct nvme_cmd aer = {.opcode = NVME_ADMIN_ASYNC_EVENT, .flags = NVME_PSDT_SGL, .cid = plx_put16(2)};
    assert_int_equal(rig_command(&p.rig, p.admin, &aer, NULL, 0), -1); /* no answer */
    ask(&p);
    assert_int_equal(count, 1);
    assert_int_equal(commands[0].stage, PLX_NVMF_STAGE_EVENT);
    assert_int_equal(commands[0].qid, 0);
    assert_false(commands[0].range); /* though its opcode is that of Verify */
    close_peers(&p);
}

/* ---- over function calls, on two reactors that the test drives ---- */

enum { REACTORS = 2 };

struct host {
    struct calls_qpair admin, io;
    struct nvme_connect_data data;
    struct nvme_cqe cqe;
    bool done;
};

struct two {
    struct plx_reactor *r[REACTORS];
    struct plx_nvmf_target *t;
    struct plx_nvmf_subsystem *s, *other;
    struct plx_nvmf_listener *l;
    struct test_disk *disk;
    struct host a, b, c;
};

static void turn(struct two *two)
{
    for (int quiet = 0; quiet < 4;) {
        int work = 0;
        for (int i = 0; i < REACTORS; i++)
            work += plx_reactor_poll(two->r[i]);
        quiet = work ? 0 : quiet + 1;
    }
}

static void cqe_here(void *arg, const struct nvme_cqe *cqe)
{
    struct host *h = arg;
    h->cqe = *cqe;
    h->done = true;
}

/* The admin queue is on the first reactor. */
static void connect_host(struct two *two, struct host *h, const char *nqn, const char *hostnqn, unsigned io_reactor)
{
    calls_connect(&h->admin, &two->t->groups[0], two->l->portid);
    calls_fabrics_connect(&h->admin, nqn, hostnqn, 0, 0, &h->data, cqe_here, h);
    turn(two);
    assert_int_equal(calls_status(&h->cqe), 0);
    uint16_t cntlid = (uint16_t)plx_get32(h->cqe.dw0);
    calls_enable(&h->admin, true, cqe_here, h);
    turn(two);
    pass(1000);
    turn(two);
    calls_connect(&h->io, &two->t->groups[io_reactor], two->l->portid);
    calls_fabrics_connect(&h->io, nqn, hostnqn, 1, cntlid, &h->data, cqe_here, h);
    turn(two);
    assert_int_equal(calls_status(&h->cqe), 0);
}

static void open_two(struct two *two)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = RIG_NQN, .allow_any_host = true, .min_cntlid = 7},
                                         more = {.nqn = RIG_NQN "2", .allow_any_host = true};
    bool done = false;
    memset(two, 0, sizeof *two);
    now_ns = PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    for (int i = 0; i < REACTORS; i++)
        assert_int_equal(plx_reactor_create(&two->r[i], NULL), 0);
    two->disk = test_disk_new();
    two->disk->bdev.info.write_cache = false;
    assert_int_equal(plx_nvmf_target_create(&two->t, two->r, REACTORS, NULL, NULL), 0);
    two->t->transport = &calls_transport;
    assert_int_equal(plx_nvmf_subsystem_create(two->t, &opts, &two->s, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_create(two->t, &more, &two->other, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(two->s, &two->disk->bdev, NULL, NULL), 1);
    assert_int_equal(plx_nvmf_listen(two->t, "192.0.2.1", 4420, &two->l, NULL), 0);
    assert_int_equal(plx_nvmf_query_stats(two->t, told_reactors, NULL), -ECANCELED);
    plx_nvmf_target_start(two->t, over, &done);
    turn(two);
    assert_true(done);
    connect_host(two, &two->a, RIG_NQN, HOST, 1);
    connect_host(two, &two->b, RIG_NQN "2", HOST "2", 1);
}

static void stop_two(struct two *two)
{
    bool done = false;
    while (test_disk_end(two->disk, PLX_SC_SUCCESS))
        turn(two);
    plx_nvmf_target_stop(two->t, 1000, over, &done);
    for (int i = 0; i < 10 && !done; i++) {
        turn(two);
        pass(10);
    }
    assert_true(done);
}

static void free_two(struct two *two)
{
    plx_nvmf_target_destroy(two->t);
    for (int i = 0; i < REACTORS; i++)
        plx_reactor_destroy(two->r[i]);
    plx_bdev_close(&two->disk->bdev);
    plx_clock_simulate(NULL);
}

static void write_many(struct two *two, struct host *h, unsigned from, unsigned n)
{
    static uint8_t data[512];
    for (unsigned i = from; i < from + n; i++) {
        const struct nvme_cmd cmd = {
            .opcode = NVME_IO_WRITE, .cid = plx_put16(i), .nsid = plx_put32(1), .cdw10 = plx_put32(i % 2048)};
        calls_send(&h->io, &cmd, data, sizeof data, cqe_here, h);
        pass(1);
        plx_reactor_poll(two->r[h != &two->c]); /* each comes in a round of its own */
    }
}

static void controllers_are_told_of_with_their_queue_pairs(void **state)
{
    (void)state;
    struct two two;
    open_two(&two);
    snprintf(two.a.admin.qp.peer, sizeof two.a.admin.qp.peer, "192.0.2.9:50001");
    snprintf(two.a.admin.qp.local, sizeof two.a.admin.qp.local, "192.0.2.1:4420");
    snprintf(two.a.io.qp.peer, sizeof two.a.io.qp.peer, "[2001:db8::9]:50002");
    two.a.io.qp.header_digest = true;
    two.a.admin.qp.ctrlr->kato_ms = 5000;
    write_many(&two, &two.a, 0, 3);
    assert_true(test_disk_end(two.disk, PLX_SC_SUCCESS));
    turn(&two);
    connect_host(&two, &two.c, RIG_NQN, HOST "3", 0);
    here = false;
    turn(&two); /* the time is a round's */
    assert_int_equal(plx_nvmf_query_controllers(two.s, told_controllers, NULL), 0);
    assert_false(here);
    turn(&two);
    assert_true(here && !without_memory);
    assert_int_equal(count, 2);
    const struct plx_nvmf_controller_info *c = &controllers[0];
    assert_int_equal(c->cntlid, 7);
    assert_string_equal(c->hostnqn, HOST);
    assert_memory_equal(c->hostid, two.a.data.hostid, 16);
    assert_int_equal(c->kato_ms, 5000);
    assert_int_equal(c->age_ns, 3003 * PLX_NS_PER_MS); /* connecting three I/O queues took 1 s each */
    assert_string_equal(c->listener.addr, "192.0.2.1");
    assert_int_equal(c->listener.port, 4420);
    assert_false(c->listener.ipv6);
    assert_int_equal(c->nio, 1);
    const struct plx_nvmf_qpair_info *q = qpairs[0];
    assert_int_equal(q[0].qid, 0);
    assert_string_equal(q[0].peer.addr, "192.0.2.9");
    assert_int_equal(q[0].peer.port, 50001);
    assert_string_equal(q[0].local.addr, "192.0.2.1");
    assert_false(q[0].header_digest);
    assert_int_equal(q[0].completed, 2); /* Connect, Property Set */
    assert_int_equal(q[1].qid, 1);
    assert_string_equal(q[1].peer.addr, "2001:db8::9");
    assert_int_equal(q[1].peer.port, 50002);
    assert_true(q[1].peer.ipv6);
    assert_string_equal(q[1].local.addr, "");
    assert_true(q[1].header_digest && !q[1].data_digest);
    assert_int_equal(q[1].in_flight, 2);
    assert_int_equal(q[1].completed, 2);
    assert_int_equal(q[1].entries, two.a.io.qp.entries);
    assert_int_equal(q[1].age_ns, 2003 * PLX_NS_PER_MS);
    assert_string_equal(controllers[1].hostnqn, HOST "3");
    assert_int_equal(controllers[1].nio, 1);
    assert_string_equal(qpairs[1][0].peer.addr, ""); /* "a call" is none */
    stop_two(&two);
    free_two(&two);
}

static void a_queue_pair_without_its_admin_queue_is_none_s(void **state)
{
    (void)state;
    struct two two;
    open_two(&two);
    calls_close(&two.a.admin);
    here = false;
    assert_int_equal(plx_nvmf_query_controllers(two.s, told_controllers, NULL), 0);
    turn(&two);
    assert_true(here && !without_memory);
    assert_int_equal(count, 0);
    stop_two(&two);
    free_two(&two);
}

static void the_oldest_commands_are_told_of_and_the_rest_is_counted(void **state)
{
    enum { HALF = 750, MORE = 10 };
    (void)state;
    struct two two;
    open_two(&two);
    /* In some disorder: those that have ended leave their places to others, the last one first. */
    write_many(&two, &two.a, 0, 2 * HALF);
    for (unsigned i = 2; i < 4; i++) {
        for (unsigned n = 0; n < HALF; n++)
            assert_true(test_disk_end(two.disk, PLX_SC_SUCCESS));
        write_many(&two, &two.a, i * HALF, HALF);
    }
    connect_host(&two, &two.c, RIG_NQN, HOST "3", 0);
    write_many(&two, &two.c, 0, MORE);
    here = false;
    assert_int_equal(plx_nvmf_query_inflight(two.t, told_commands, NULL), 0);
    turn(&two);
    assert_true(here && !without_memory);
    assert_int_equal(count, PLX_NVMF_INFLIGHT_MAX);
    assert_int_equal(left_out, 2 * HALF + MORE - PLX_NVMF_INFLIGHT_MAX);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(commands[i].cid, 2 * HALF + i);
    stop_two(&two);
    free_two(&two);
}

/* Between two ranges it is nobody's but the target's. */
static void a_command_between_two_requests_to_its_disk_is_not_at_it(void **state)
{
    static struct nvme_dsm_range ranges[2];
    const struct nvme_cmd cmd = {
        .opcode = NVME_IO_DSM, .nsid = plx_put32(1), .cdw10 = plx_put32(1), .cdw11 = plx_put32(NVME_DSM_AD)};
    (void)state;
    struct two two;
    open_two(&two);
    ranges[0].nlb = ranges[1].nlb = plx_put32(1);
    calls_send(&two.a.io, &cmd, ranges, sizeof ranges, cqe_here, &two.a);
    here = false;
    assert_int_equal(plx_nvmf_query_inflight(two.t, told_commands, NULL), 0);
    assert_true(test_disk_end(two.disk, PLX_SC_SUCCESS));
    turn(&two);
    assert_true(here);
    assert_int_equal(count, 1);
    assert_int_equal(commands[0].stage, PLX_NVMF_STAGE_TARGET);
    assert_string_equal(plx_nvmf_stage_text(commands[0].stage), "in the target");
    assert_true(test_disk_end(two.disk, PLX_SC_SUCCESS));
    stop_two(&two);
    free_two(&two);
}

static void each_reactor_says_what_it_does(void **state)
{
    (void)state;
    struct two two;
    struct calls_qpair fresh;
    open_two(&two);
    calls_connect(&fresh, &two.t->groups[0], 0);
    write_many(&two, &two.a, 0, 301);
    assert_true(test_disk_end(two.disk, PLX_SC_SUCCESS));
    calls_close(&two.b.admin);
    turn(&two);
    here = false;
    assert_int_equal(plx_nvmf_query_stats(two.t, told_reactors, NULL), 0);
    turn(&two);
    assert_true(here && !without_memory);
    assert_int_equal(count, REACTORS);
    assert_int_equal(reactors[0].core, -1);
    assert_int_equal(reactors[0].admin_qpairs, 1);
    assert_int_equal(reactors[0].all_admin_qpairs, 2);
    assert_int_equal(reactors[0].io_qpairs, 0);
    assert_int_equal(reactors[0].unassociated, 1);
    assert_int_equal(reactors[0].admin_commands, 4);
    assert_int_equal(reactors[0].io_commands, 0);
    assert_int_equal(reactors[0].in_flight, 0);
    assert_int_equal(reactors[1].admin_qpairs, 0);
    assert_int_equal(reactors[1].io_qpairs, 1);
    assert_int_equal(reactors[1].all_io_qpairs, 2);
    assert_int_equal(reactors[1].unassociated, 0);
    assert_int_equal(reactors[1].io_commands, 3);
    assert_int_equal(reactors[1].in_flight, 300);
    assert_int_equal(reactors[1].at_disks, 300);
    assert_int_equal(reactors[1].buffer_bytes, plx_buf_total_bytes(two.r[1]));
    assert_int_equal(reactors[1].buffer_free, plx_buf_free_bytes(two.r[1]));
    calls_close(&fresh);
    turn(&two);
    stop_two(&two);
    free_two(&two);
}

static void a_stop_begins_when_what_was_asked_is_answered(void **state)
{
    (void)state;
    struct two two;
    bool stopped = false;
    open_two(&two);
    write_many(&two, &two.a, 0, 3000);
    while (test_disk_end(two.disk, PLX_SC_SUCCESS))
        turn(&two);
    here = false;
    assert_int_equal(plx_nvmf_query_inflight(two.t, told_commands, NULL), 0);
    plx_nvmf_target_stop(two.t, 1000, over, &stopped);
    while (!here) {
        assert_false(stopped);
        assert_false(two.a.io.closed);
        for (int i = 0; i < REACTORS; i++)
            plx_reactor_poll(two.r[i]);
    }
    for (int i = 0; i < 10 && !stopped; i++) {
        turn(&two);
        pass(10);
    }
    assert_true(stopped);
    assert_int_equal(plx_nvmf_query_inflight(two.t, told_commands, NULL), -ECANCELED);
    free_two(&two);
}

static void without_memory_that_is_said(void **state)
{
    (void)state;
    struct two two;
    unsigned n, failures = 0;
    open_two(&two);
    write_many(&two, &two.a, 0, PLX_NVMF_INFLIGHT_MAX + 1);
    for (int kind = 0; kind < 3; kind++) {
        bool failed = true;
        for (n = 1; failed; n++) {
            here = false;
            failalloc_at(n);
            int ret = kind == 0   ? plx_nvmf_query_inflight(two.t, told_commands, NULL)
                      : kind == 1 ? plx_nvmf_query_controllers(two.s, told_controllers, NULL)
                                  : plx_nvmf_query_stats(two.t, told_reactors, NULL);
            turn(&two);
            failed = failalloc_failed();
            failures += failed;
            assert_int_equal(failalloc_live(), 0);
            failalloc_at(0);
            assert_true(ret == 0 || (ret == -ENOMEM && failed));
            assert_true(here == !ret);
            assert_true(ret || without_memory == failed);
            assert_int_equal(two.t->queries, 0);
        }
    }
    assert_true(failures > 12);
    stop_two(&two);
    free_two(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_at_a_disk_that_hangs_is_told_of_whole),
        cmocka_unit_test(a_write_whose_data_does_not_come_waits_for_it),
        cmocka_unit_test(an_aborted_write_is_told_of_until_its_data_has_come),
        cmocka_unit_test(a_host_that_does_not_read_has_its_answers_in_the_socket),
        cmocka_unit_test(half_of_a_fused_command_is_held),
        cmocka_unit_test(a_request_for_an_event_waits_for_one),
        cmocka_unit_test(controllers_are_told_of_with_their_queue_pairs),
        cmocka_unit_test(a_queue_pair_without_its_admin_queue_is_none_s),
        cmocka_unit_test(the_oldest_commands_are_told_of_and_the_rest_is_counted),
        cmocka_unit_test(a_command_between_two_requests_to_its_disk_is_not_at_it),
        cmocka_unit_test(each_reactor_says_what_it_does),
        cmocka_unit_test(a_stop_begins_when_what_was_asked_is_answered),
        cmocka_unit_test(without_memory_that_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
