/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A remote disk and its paths, with controllers that are the test's: what is submitted to them lies there until the
 * test answers it (src/bdev/driver/nvme*.c). Time is simulated, and passes when the test says so. Linked with --wrap
 * for every function of the host that is defined here.
 */
#include "bdev_util.h"

#include "bdev/driver.h"
#include "nvme/nvme.h"
#include "reactor/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NQN "nqn.2024-01.com.example:path"

enum {
    BLOCK = 512,
    BLOCKS = 1 << 20,
    PATHS = 2,
    MAX_TRANSFER = 64 << 10,
    MANY = 20000,
    STACK_MAX = 16 << 10, /* between the ends of one request and of another */
};

int __wrap_nvme_ctrlr_create(struct plx_reactor *r, const struct nvme_opts *opts, const struct nvme_ctrlr_ops *ops,
                             void *arg, struct nvme_ctrlr **out);
void __wrap_nvme_ctrlr_start(struct nvme_ctrlr *c, bool once);
void __wrap_nvme_ctrlr_destroy(struct nvme_ctrlr *c);
void __wrap_nvme_submit(struct nvme_ctrlr *c, struct nvme_req *req);
void __wrap_nvme_submit_fused(struct nvme_ctrlr *c, struct nvme_req *first);
void __wrap_nvme_ctrlr_refresh_ana(struct nvme_ctrlr *c);

/* What the controller at a path says of itself, and what was submitted to it. */
static struct path {
    struct nvme_ctrlr *c; /* of the channel */
    struct nvme_id_ctrl id;
    struct nvme_ns ns;
    uint32_t max_transfer;
    struct nvme_queue sent;
    unsigned nsent, looks; /* at its ANA state */
} paths[PATHS];

static uint64_t now_ns;
static struct tu t;
static uint8_t data[8 * MAX_TRANSFER];
static unsigned warnings;

static uint64_t simulated(void)
{
    return now_ns;
}

/* ---- the host ---- */

static struct path *path_of(const struct nvme_ctrlr *c)
{
    return &paths[c->vs];
}

int __wrap_nvme_ctrlr_create(struct plx_reactor *r, const struct nvme_opts *opts, const struct nvme_ctrlr_ops *ops,
                             void *arg, struct nvme_ctrlr **out)
{
    struct nvme_ctrlr *c = *out = calloc(1, sizeof *c);
    assert_non_null(c);
    c->reactor = r;
    c->o = *opts;
    c->addr = c->o.addrs.list;
    c->ops = ops;
    c->arg = arg;
    c->ana = NVME_ANA_OPTIMIZED;
    c->vs = (uint32_t)(strstr(c->addr->name, "127.0.0.2") != NULL); /* which of paths[] */
    return 0;
}

static void connected(struct nvme_ctrlr *c)
{
    const struct path *p = path_of(c);
    c->state = NVME_CTRLR_LIVE;
    c->id = p->id;
    c->ns = p->ns;
    c->max_transfer = p->max_transfer;
    c->ops->live(c, c->arg);
}

static void probed(struct plx_timer *timer)
{
    connected(plx_container_of(timer, struct nvme_ctrlr, attempt));
}

void __wrap_nvme_ctrlr_start(struct nvme_ctrlr *c, bool once)
{
    if (once) {
        c->attempt.fn = probed;
        plx_timer_set(c->reactor, &c->attempt, 0);
    } else {
        path_of(c)->c = c;
    }
}

static void lose(struct path *p)
{
    while (p->sent.head) {
        struct nvme_req *req = nvme_queue_pop(&p->sent);
        p->nsent--;
        req->lost = true;
        req->done(req);
    }
}

void __wrap_nvme_ctrlr_destroy(struct nvme_ctrlr *c)
{
    struct path *p = path_of(c);
    if (p->c == c) {
        lose(p);
        p->c = NULL;
    }
    free(c);
}

void __wrap_nvme_submit(struct nvme_ctrlr *c, struct nvme_req *req)
{
    struct path *p = path_of(c);
    assert_int_equal(c->state, NVME_CTRLR_LIVE);
    req->lost = false;
    req->status = 0;
    nvme_queue_push(&p->sent, req);
    p->nsent++;
}

void __wrap_nvme_submit_fused(struct nvme_ctrlr *c, struct nvme_req *first)
{
    struct nvme_req *second = first->next;
    __wrap_nvme_submit(c, first);
    __wrap_nvme_submit(c, second);
}

void __wrap_nvme_ctrlr_refresh_ana(struct nvme_ctrlr *c)
{
    path_of(c)->looks++;
}

/* ---- what the test does ---- */

static void settle(void)
{
    for (int quiet = 0; quiet < 3; quiet++)
        if (plx_reactor_poll(t.reactor))
            quiet = 0;
}

static void pass(uint64_t ms)
{
    now_ns += ms * PLX_NS_PER_MS;
    settle();
}

static void goes_up(unsigned i)
{
    connected(paths[i].c);
}

static void goes_down(unsigned i)
{
    struct nvme_ctrlr *c = paths[i].c;
    c->state = NVME_CTRLR_WAITING;
    c->ops->down(c, c->arg);
    lose(&paths[i]);
}

/* Answers the oldest command of a path. */
static void answer(unsigned i, uint16_t status)
{
    assert_non_null(paths[i].sent.head);
    struct nvme_req *req = nvme_queue_pop(&paths[i].sent);
    paths[i].nsent--;
    req->status = status;
    req->done(req);
}

static void assert_sent(unsigned first, unsigned second)
{
    assert_int_equal(paths[0].nsent, first);
    assert_int_equal(paths[1].nsent, second);
}

static void count_warnings(void *arg, enum plx_log_level level, const char *text)
{
    (void)arg;
    warnings += level <= PLX_LOG_WARN && strstr(text, "no path is accessible") != NULL;
}

/* Opens the disk; both paths are to be connected yet. */
static int set_up(void **state)
{
    (void)state;
    memset(paths, 0, sizeof paths);
    warnings = 0;
    now_ns = PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    plx_log_set(count_warnings, NULL, PLX_LOG_WARN);
    for (unsigned i = 0; i < PATHS; i++) {
        struct path *p = &paths[i];
        nvme_queue_init(&p->sent);
        p->max_transfer = MAX_TRANSFER;
        p->id.oncs = plx_put16(1 << 2 | 1 << 3 | 1 << 8); /* deallocations, zeroes, copies */
        p->id.fuses = plx_put16(1);
        p->id.acwu = plx_put16(15);
        p->ns.nsid = 1;
        p->ns.has_uuid = true;
        memset(p->ns.uuid, 1, sizeof p->ns.uuid);
        p->ns.id.nsze = plx_put64(BLOCKS);
        p->ns.id.lbaf[0] = plx_put32(9 << 16);
        p->ns.id.mssrl = plx_put16(64);
        p->ns.id.mcl = plx_put32(64);
    }
    tu_open(&t, "nvme+tcp://127.0.0.1:1,127.0.0.2:1/" NQN "?reconnect_deadline=5");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (t.ch && t.ch->in_flight)
        return -1; /* of a test that has failed */
    if (t.ch)
        plx_bdev_channel_put(t.ch);
    plx_reactor_destroy(t.reactor);
    plx_bdev_close(t.bdev);
    plx_log_set(NULL, NULL, PLX_LOG_WARN);
    plx_clock_simulate(NULL);
    return 0;
}

static void begin_read(struct tu_req *q, uint32_t nlb)
{
    tu_req_init(q);
    tu_start(&t, q, PLX_BDEV_READ, 0, nlb, data);
}

static void assert_ended(struct tu_req *q, uint16_t status)
{
    assert_int_equal(q->done, 1);
    assert_int_equal(q->req->status, status);
    tu_req_free(q);
}

/* ---- paths that answer with a path related status ---- */

static void a_path_that_could_not_be_used_once_is_used_again_after_a_rest(void **state)
{
    static const uint16_t statuses[] = {PLX_SC_INTERNAL_PATH_ERROR, PLX_SC_ANA_INACCESSIBLE};
    struct tu_req q;
    (void)state;
    goes_up(0);
    goes_up(1);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(statuses); i++) {
        begin_read(&q, 1);
        assert_sent(1, 0);
        answer(0, statuses[i]);
        assert_sent(0, 1); /* at once */
        assert_int_equal(paths[0].looks, i + 1);
        answer(1, PLX_SC_SUCCESS);
        assert_ended(&q, PLX_SC_SUCCESS);
        pass(990);
        begin_read(&q, 1);
        assert_sent(0, 1);
        answer(1, PLX_SC_SUCCESS);
        assert_ended(&q, PLX_SC_SUCCESS);
        pass(20);
    }
    begin_read(&q, 1);
    assert_sent(1, 0);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    assert_int_equal(warnings, 0);
}

static void when_the_other_path_goes_one_that_rests_is_used(void **state)
{
    struct tu_req q, next;
    (void)state;
    goes_up(0);
    goes_up(1);
    begin_read(&q, 1);
    answer(0, PLX_SC_ANA_INACCESSIBLE);
    goes_down(1);
    assert_int_equal(q.done, 0);
    assert_int_equal(warnings, 1); /* that it waits */
    begin_read(&next, 1);
    pass(1010);
    assert_sent(2, 0);
    answer(0, PLX_SC_SUCCESS);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    assert_ended(&next, PLX_SC_SUCCESS);
}

static void that_no_path_is_accessible_is_said_once(void **state)
{
    struct tu_req q;
    (void)state;
    goes_up(0);
    goes_up(1);
    goes_down(1);
    begin_read(&q, 1);
    for (int i = 0; i < 20; i++) {
        answer(0, PLX_SC_ANA_INACCESSIBLE);
        pass(30);
        assert_int_equal(warnings, 1);
    }
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    goes_down(0);
    goes_up(0);
    begin_read(&q, 1);
    answer(0, PLX_SC_ANA_INACCESSIBLE);
    assert_int_equal(warnings, 2); /* as it was usable meanwhile */
    pass(30);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
}

/* ---- paths that differ ---- */

static void begin_op(struct tu_req *q, enum plx_bdev_op op, uint32_t nlb)
{
    tu_req_init(q);
    q->req->src_lba = BLOCKS / 2;
    tu_start(&t, q, op, 0, nlb, op == PLX_BDEV_COMPARE_AND_WRITE ? data : NULL);
}

/* As MDTS is: a target that was restarted with less is no other disk. */
static void a_path_that_takes_less_at_once_is_sent_less(void **state)
{
    struct tu_req q;
    (void)state;
    paths[0].ns.limits.wzsl = 1; /* 8 KiB */
    paths[0].id.acwu = plx_put16(0);
    paths[0].ns.id.mcl = plx_put32(8);
    paths[0].ns.limits.dmrsl = plx_put32(1 << 20); /* is told of */
    goes_up(0);
    begin_op(&q, PLX_BDEV_WRITE_ZEROES, 64);
    assert_sent(4, 0);
    for (int i = 0; i < 4; i++)
        answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    begin_op(&q, PLX_BDEV_COMPARE_AND_WRITE, 2);
    assert_ended(&q, PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED);
    begin_op(&q, PLX_BDEV_COPY, 8);
    assert_int_equal(paths[0].sent.head->cmd.opcode, NVME_IO_COPY);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    begin_op(&q, PLX_BDEV_COPY, 16);
    assert_int_equal(paths[0].sent.head->cmd.opcode, NVME_IO_READ); /* and written again */
    answer(0, PLX_SC_SUCCESS);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    begin_read(&q, 1);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
}

static void a_size_that_cannot_be_is_not_believed(void **state)
{
    struct tu_req q;
    (void)state;
    goes_up(0);
    paths[0].c->ns.id.nsze = plx_put64(UINT64_C(1) << 55);
    paths[0].c->ops->event(paths[0].c, paths[0].c->arg, 0);
    assert_int_equal(plx_bdev_blocks(t.bdev), BLOCKS);
    paths[0].c->ns.id.nsze = plx_put64(2 * BLOCKS);
    paths[0].c->ops->event(paths[0].c, paths[0].c->arg, 0);
    assert_int_equal(plx_bdev_blocks(t.bdev), 2 * BLOCKS);
    goes_down(0);
    paths[0].ns.id.nsze = plx_put64(UINT64_C(1) << 54);
    goes_up(0); /* which is another disk, then */
    assert_int_equal(plx_bdev_blocks(t.bdev), 2 * BLOCKS);
    begin_read(&q, 1);
    assert_sent(0, 0);
    paths[1].ns.id.nsze = plx_put64(2 * BLOCKS);
    goes_up(1);
    answer(1, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
}

/* ---- what waits ---- */

static void a_command_that_is_to_be_tried_again_holds_up_no_other(void **state)
{
    struct tu_req q, next;
    (void)state;
    goes_up(0);
    begin_read(&q, 1);
    answer(0, PLX_SC_COMMAND_INTERRUPTED);
    assert_sent(0, 0);
    begin_read(&next, 1);
    assert_sent(1, 0);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&next, PLX_SC_SUCCESS);
    pass(30);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
}

static void put_channel(struct plx_bdev_req *req)
{
    (void)req;
    plx_bdev_channel_put(t.ch);
    t.ch = NULL;
}

static void what_ends_as_a_path_comes_may_be_the_last_of_the_channel(void **state)
{
    struct tu_req q;
    (void)state;
    tu_req_init(&q);
    q.req->done = put_channel;
    tu_start(&t, &q, PLX_BDEV_COMPARE_AND_WRITE, 0, 16, data);
    paths[0].max_transfer = 8 * BLOCK;
    goes_up(0);
    assert_null(t.ch);
    assert_int_equal(q.req->status, PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED);
    tu_req_free(&q);
}

static struct {
    uintptr_t low, high; /* of the stack */
    unsigned done;
} ends;

static void note_depth(struct plx_bdev_req *req)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    assert_int_equal(req->status, PLX_SC_HOST_PATHING_ERROR);
    ends.low = ends.done ? plx_min_u64(ends.low, here) : here;
    ends.high = plx_max_u64(ends.high, here);
    ends.done++;
}

static void large_requests_that_are_given_up_end_one_behind_the_other(void **state)
{
    struct tu_req *q = calloc(MANY, sizeof *q);
    (void)state;
    memset(&ends, 0, sizeof ends);
    for (unsigned i = 0; i < MANY; i++) {
        tu_req_init(&q[i]);
        q[i].req->done = note_depth;
        tu_start(&t, &q[i], PLX_BDEV_READ, 0, sizeof data / BLOCK, data);
    }
    paths[0].c->ops->failed(paths[0].c, paths[0].c->arg, -ECONNREFUSED, "",
                            true); /* from here on there is a deadline */
    pass(5010);
    assert_int_equal(ends.done, MANY);
    assert_true(ends.high - ends.low < STACK_MAX);
    for (unsigned i = 0; i < MANY; i++)
        tu_req_free(&q[i]);
    free(q);
}

int main(void)
{
#define PATH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PATH(a_path_that_could_not_be_used_once_is_used_again_after_a_rest),
        PATH(when_the_other_path_goes_one_that_rests_is_used),
        PATH(that_no_path_is_accessible_is_said_once),
        PATH(a_path_that_takes_less_at_once_is_sent_less),
        PATH(a_size_that_cannot_be_is_not_believed),
        PATH(a_command_that_is_to_be_tried_again_holds_up_no_other),
        PATH(what_ends_as_a_path_comes_may_be_the_last_of_the_channel),
        PATH(large_requests_that_are_given_up_end_one_behind_the_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
