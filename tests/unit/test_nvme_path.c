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
#include <pollux/bdev_nvme.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NQN "nqn.2024-01.com.example:path"

enum {
    BLOCK = 512,
    BLOCKS = 1 << 20,
    PATHS = 3,
    MAX_TRANSFER = 64 << 10,
    DRAINS = 200, /* of 10 ms */
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
void __wrap_nvme_ctrlr_reset(struct nvme_ctrlr *c);
bool __wrap_nvme_ctrlr_idle(const struct nvme_ctrlr *c);

/* What the controller at a path says of itself, and what was submitted to it. */
static struct path {
    struct nvme_ctrlr *c; /* of the channel */
    struct nvme_id_ctrl id;
    struct nvme_ns ns;
    uint32_t max_transfer;
    struct nvme_queue sent;
    unsigned nsent, looks; /* at its ANA state */
    unsigned resets;
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
    c->vs = (uint32_t)(c->addr->name[strlen("127.0.0.")] - '1') % PATHS; /* which of paths[] */
    c->cntlid = (uint16_t)(c->vs + 10);
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

void __wrap_nvme_ctrlr_reset(struct nvme_ctrlr *c)
{
    struct path *p = path_of(c);
    p->resets++;
    c->state = NVME_CTRLR_WAITING;
    c->ops->down(c, c->arg);
    lose(p);
}

bool __wrap_nvme_ctrlr_idle(const struct nvme_ctrlr *c)
{
    return !path_of(c)->nsent;
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
        p->id.oncs = plx_put16(1 << 2 | 1 << 3 | 1 << 7 | 1 << 8); /* deallocations, zeroes, verify, copies */
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
    if (t.ch && !plx_list_empty(&t.ch->requests))
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
    paths[0].ns.limits.vsl = 2;
    paths[0].id.acwu = plx_put16(0);
    paths[0].ns.id.mcl = plx_put32(8);
    paths[0].ns.limits.dmrsl = plx_put32(1 << 20); /* is told of */
    goes_up(0);
    begin_op(&q, PLX_BDEV_WRITE_ZEROES, 64);
    assert_sent(4, 0);
    for (int i = 0; i < 4; i++)
        answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    begin_op(&q, PLX_BDEV_VERIFY, 64);
    assert_sent(2, 0);
    answer(0, PLX_SC_SUCCESS);
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

/* Commands as long as the path takes that the disk was opened through, and one that takes half of each. */
enum { ZEROES = 65536, VERIFIED = 65536, COPIED = 64, FUSED = 2 };
static struct tu_req whole, pieces, verify, copy, fused;

static void begin_largest(void)
{
    begin_op(&whole, PLX_BDEV_WRITE_ZEROES, ZEROES);
    begin_op(&pieces, PLX_BDEV_WRITE_ZEROES, 2 * ZEROES);
    begin_op(&verify, PLX_BDEV_VERIFY, VERIFIED);
    begin_op(&copy, PLX_BDEV_COPY, COPIED);
    begin_op(&fused, PLX_BDEV_COMPARE_AND_WRITE, FUSED);
}

static void half_goes_up(struct path *p)
{
    p->ns.limits.wzsl = p->ns.limits.vsl = 12; /* 16 MiB */
    p->ns.id.mcl = plx_put32(COPIED / 2);
    p->id.acwu = plx_put16(FUSED / 2 - 1);
    connected(p->c);
}

static void assert_halved(unsigned i)
{
    unsigned zeroes = 0, verified = 0;
    assert_ended(&fused, PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED); /* two of them would not be one */
    for (; paths[i].nsent; answer(i, PLX_SC_SUCCESS)) {
        const struct nvme_words *cmd = &paths[i].sent.head->cmd;
        assert_int_not_equal(cmd->opcode, NVME_IO_COPY); /* read and written instead */
        if (cmd->opcode != NVME_IO_WRITE_ZEROES && cmd->opcode != NVME_IO_VERIFY)
            continue;
        assert_int_equal(plx_get32(cmd->cdw12), (cmd->opcode == NVME_IO_VERIFY ? VERIFIED : ZEROES) / 2 - 1);
        zeroes += cmd->opcode == NVME_IO_WRITE_ZEROES;
        verified += cmd->opcode == NVME_IO_VERIFY;
    }
    assert_int_equal(zeroes, 2 + 4);
    assert_int_equal(verified, 2);
    assert_ended(&whole, PLX_SC_SUCCESS);
    assert_ended(&pieces, PLX_SC_SUCCESS);
    assert_ended(&verify, PLX_SC_SUCCESS);
    assert_ended(&copy, PLX_SC_SUCCESS);
}

static void what_waits_for_a_path_is_sent_as_that_takes_it(void **state)
{
    (void)state;
    begin_largest();
    half_goes_up(&paths[0]);
    assert_halved(0);
}

static void what_another_path_is_to_do_is_sent_as_that_takes_it(void **state)
{
    (void)state;
    goes_up(0);
    begin_largest();
    assert_sent(7, 0);
    half_goes_up(&paths[1]);
    for (int n = 7; n--;)
        answer(0, PLX_SC_ANA_INACCESSIBLE);
    assert_halved(1);
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

/* ---- paths that come and go ---- */

#define FIRST "127.0.0.1:1"
#define SECOND "127.0.0.2:1"
#define THIRD "127.0.0.3:1"

static unsigned overs;

static void count_over(void *arg)
{
    (void)arg;
    overs++;
}

static struct plx_bdev_nvme_wait waits(void)
{
    overs = 0;
    return (struct plx_bdev_nvme_wait){.reactor = t.reactor, .done = count_over};
}

static void a_path_that_is_added_is_used_when_the_others_go(void **state)
{
    const struct plx_bdev_nvme_wait wait = waits();
    struct tu_req q;
    (void)state;
    goes_up(0);
    begin_read(&q, 1);
    assert_int_equal(plx_bdev_nvme_add_path(t.bdev, THIRD, &wait, NULL), 0);
    assert_null(paths[2].c);
    assert_int_equal(overs, 0);
    settle();
    assert_int_equal(overs, 1);
    goes_up(2);
    assert_sent(1, 0);
    assert_int_equal(paths[2].nsent, 0);
    goes_down(0);
    assert_int_equal(paths[2].nsent, 1);
    answer(2, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
}

static void nothing_new_is_sent_to_a_path_that_is_removed(void **state)
{
    const struct plx_bdev_nvme_wait wait = waits();
    struct tu_req q, next;
    (void)state;
    goes_up(0);
    goes_up(1);
    begin_read(&q, 1);
    assert_int_equal(plx_bdev_nvme_remove_path(t.bdev, FIRST, &wait, NULL), 0);
    settle();
    begin_read(&next, 1);
    assert_sent(1, 1);
    pass(100);
    assert_int_equal(overs, 0); /* it has something in flight */
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    assert_non_null(paths[0].c);
    pass(20);
    assert_int_equal(overs, 1);
    assert_null(paths[0].c);
    answer(1, PLX_SC_SUCCESS);
    assert_ended(&next, PLX_SC_SUCCESS);
}

static void what_a_removed_path_does_not_answer_is_sent_elsewhere(void **state)
{
    struct tu_req q;
    (void)state;
    goes_up(0);
    goes_up(1);
    begin_read(&q, 1);
    assert_int_equal(plx_bdev_nvme_remove_path(t.bdev, FIRST, NULL, NULL), 0);
    settle();
    for (unsigned i = 0; i < DRAINS - 1; i++)
        pass(10);
    assert_sent(1, 0);
    pass(20);
    assert_sent(0, 1);
    assert_null(paths[0].c);
    answer(1, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
}

static void a_path_that_is_down_goes_at_once(void **state)
{
    struct tu_req q;
    (void)state;
    begin_read(&q, 1);
    assert_int_equal(plx_bdev_nvme_remove_path(t.bdev, FIRST, NULL, NULL), 0);
    settle();
    assert_null(paths[0].c);
    goes_up(1);
    answer(1, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
}

static void a_path_that_leaves_may_be_added_again(void **state)
{
    const struct plx_bdev_nvme_wait wait = waits();
    struct nvme_ctrlr *was;
    struct tu_req q;
    (void)state;
    goes_up(0);
    goes_up(1);
    begin_read(&q, 1);
    was = paths[0].c;
    assert_int_equal(plx_bdev_nvme_remove_path(t.bdev, FIRST, &wait, NULL), 0);
    settle();
    assert_int_equal(plx_bdev_nvme_add_path(t.bdev, FIRST, &wait, NULL), 0);
    settle();
    assert_ptr_not_equal(paths[0].c, was); /* both are there for a while */
    assert_int_equal(overs, 0);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    pass(20);
    assert_int_equal(overs, 2);
}

static void the_last_path_stays(void **state)
{
    struct plx_error err = {{0}};
    (void)state;
    assert_int_equal(plx_bdev_nvme_remove_path(t.bdev, THIRD, NULL, &err), -ENOENT);
    assert_int_equal(plx_bdev_nvme_add_path(t.bdev, SECOND, NULL, &err), -EEXIST);
    assert_int_equal(plx_bdev_nvme_add_path(t.bdev, "localhost:1", NULL, &err), -EINVAL);
    assert_int_equal(plx_bdev_nvme_add_path(t.bdev, "224.0.0.1:1", NULL, &err), -EINVAL);
    assert_int_equal(plx_bdev_nvme_add_path(t.bdev, "127.0.0.3:0", NULL, &err), -EINVAL);
    assert_int_equal(plx_bdev_nvme_remove_path(t.bdev, FIRST, NULL, &err), 0);
    settle();
    assert_int_equal(plx_bdev_nvme_remove_path(t.bdev, SECOND, NULL, &err), -EBUSY);
    assert_non_null(strstr(err.text, SECOND));
    goes_up(1);
    for (unsigned i = 1; i < PLX_BDEV_NVME_PATHS_MAX; i++) {
        char addr[32];
        snprintf(addr, sizeof addr, "127.0.0.9:%u", i);
        assert_int_equal(plx_bdev_nvme_add_path(t.bdev, addr, NULL, &err), 0);
    }
    assert_int_equal(plx_bdev_nvme_add_path(t.bdev, FIRST, NULL, &err), -ENOSPC);
    settle();
}

static void what_a_reset_takes_back_is_sent_again(void **state)
{
    const struct plx_bdev_nvme_wait wait = waits();
    struct tu_req q;
    (void)state;
    goes_up(0);
    goes_up(1);
    begin_read(&q, 1);
    assert_int_equal(plx_bdev_nvme_reset(t.bdev, FIRST, &wait, NULL), 0);
    settle();
    assert_int_equal(overs, 1);
    assert_int_equal(paths[0].resets, 1);
    assert_int_equal(paths[1].resets, 0);
    assert_sent(0, 1);
    assert_int_equal(plx_bdev_nvme_reset(t.bdev, NULL, &wait, NULL), 0);
    settle();
    assert_int_equal(paths[0].resets, 2);
    assert_int_equal(paths[1].resets, 1);
    assert_sent(0, 0);
    goes_up(0);
    assert_sent(1, 0);
    answer(0, PLX_SC_SUCCESS);
    assert_ended(&q, PLX_SC_SUCCESS);
    assert_int_equal(plx_bdev_nvme_add_path(t.bdev, THIRD, &wait, NULL), 0);
    settle();
    assert_int_equal(paths[0].resets, 2); /* once for each time that it was asked for */
    plx_bdev_channel_put(t.ch);
    assert_int_equal(plx_bdev_channel_get(t.bdev, t.reactor, &t.ch), 0);
    goes_up(0);
    assert_int_equal(plx_bdev_nvme_set_policy(t.bdev, true, &wait, NULL), 0);
    settle();
    assert_int_equal(paths[0].resets, 2); /* those before its channel came */
}

static void the_policy_changes_while_paths_are_in_use(void **state)
{
    struct tu_req q[4];
    (void)state;
    goes_up(0);
    goes_up(1);
    assert_false(plx_bdev_nvme_policy(t.bdev));
    assert_int_equal(plx_bdev_nvme_set_policy(t.bdev, true, NULL, NULL), 0);
    assert_true(plx_bdev_nvme_policy(t.bdev));
    settle();
    begin_read(&q[0], 1);
    begin_read(&q[1], 1);
    assert_sent(1, 1);
    assert_int_equal(plx_bdev_nvme_set_policy(t.bdev, false, NULL, NULL), 0);
    settle();
    begin_read(&q[2], 1);
    begin_read(&q[3], 1);
    assert_sent(3, 1);
    for (unsigned i = 0; i < 4; i++)
        answer(i == 3, PLX_SC_SUCCESS);
    for (unsigned i = 0; i < 4; i++)
        assert_ended(&q[i], PLX_SC_SUCCESS);
}

static void a_change_nobody_is_there_for_is_over_at_once(void **state)
{
    const struct plx_bdev_nvme_wait wait = waits();
    char addr[64];
    (void)state;
    assert_int_equal(plx_bdev_nvme_add_path(t.bdev, THIRD, &wait, NULL), 0);
    plx_bdev_channel_put(t.ch); /* before the message arrives */
    t.ch = NULL;
    settle();
    assert_int_equal(overs, 1);
    assert_int_equal(plx_bdev_nvme_remove_path(t.bdev, FIRST, &wait, NULL), 0);
    settle();
    assert_int_equal(overs, 2);
    assert_true(plx_bdev_nvme_address(t.bdev, 0, addr, sizeof addr));
    assert_string_equal(addr, SECOND);
    assert_true(plx_bdev_nvme_address(t.bdev, 1, addr, sizeof addr));
    assert_string_equal(addr, THIRD);
    assert_false(plx_bdev_nvme_address(t.bdev, 2, addr, sizeof addr));
    assert_int_equal(plx_bdev_channel_get(t.bdev, t.reactor, &t.ch), 0); /* which has those */
    assert_null(paths[0].c);
    assert_non_null(paths[1].c);
    assert_non_null(paths[2].c);
}

static struct plx_bdev_nvme_path told[8];
static unsigned ntold;

static void take_path(void *arg, const struct plx_bdev_nvme_path *path)
{
    (void)arg;
    assert_ptr_equal(path->reactor, t.reactor);
    assert_true(ntold < PLX_ARRAY_SIZE(told));
    told[ntold++] = *path;
}

static void look_at_paths(void)
{
    ntold = 0;
    plx_bdev_nvme_each_path(t.bdev, take_path, NULL);
}

static void paths_are_told_of_as_they_are(void **state)
{
    (void)state;
    goes_up(0);
    paths[1].ns.uuid[0] ^= 1; /* another disk */
    goes_up(1);
    look_at_paths();
    assert_int_equal(ntold, 2);
    assert_string_equal(told[0].address, FIRST);
    assert_true(told[0].connected && told[0].usable && told[0].in_use);
    assert_int_equal(told[0].cntlid, 10);
    assert_int_equal(told[0].ana_state, NVME_ANA_OPTIMIZED);
    assert_string_equal(told[1].address, SECOND);
    assert_true(told[1].connected);
    assert_false(told[1].usable || told[1].in_use);
    goes_down(1);
    paths[0].c->ana = NVME_ANA_INACCESSIBLE;
    paths[0].c->ops->ana(paths[0].c, paths[0].c->arg);
    look_at_paths();
    assert_true(told[0].connected);
    assert_false(told[0].usable || told[0].in_use || told[1].connected);
    assert_int_equal(told[0].ana_state, NVME_ANA_INACCESSIBLE);
}

static void a_removed_path_may_end_the_last_request_of_the_channel(void **state)
{
    struct tu_req q;
    (void)state;
    goes_up(0);
    goes_up(1);
    tu_req_init(&q);
    q.req->done = put_channel;
    tu_start(&t, &q, PLX_BDEV_COMPARE_AND_WRITE, 0, 1, data); /* which is not sent again */
    assert_int_equal(plx_bdev_nvme_reset(t.bdev, NULL, NULL, NULL), 0);
    settle();
    assert_null(t.ch);
    assert_int_equal(q.req->status, PLX_SC_TRANSIENT_TRANSPORT_ERROR);
    tu_req_free(&q);
}

static void a_disk_of_another_kind_has_no_paths(void **state)
{
    struct plx_bdev *ram;
    struct plx_error err;
    char addr[64];
    (void)state;
    assert_true(plx_bdev_is_nvme(t.bdev));
    assert_int_equal(plx_bdev_open("ram:1M", &ram, &err), 0);
    assert_false(plx_bdev_is_nvme(ram));
    assert_int_equal(plx_bdev_nvme_add_path(ram, FIRST, NULL, &err), -EINVAL);
    assert_int_equal(plx_bdev_nvme_set_policy(ram, true, NULL, &err), -EINVAL);
    assert_false(plx_bdev_nvme_address(ram, 0, addr, sizeof addr));
    assert_false(plx_bdev_nvme_policy(ram));
    plx_bdev_nvme_each_path(ram, take_path, NULL);
    assert_int_equal(plx_bdev_close(ram), 0);
}

int main(void)
{
#define PATH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PATH(a_path_that_could_not_be_used_once_is_used_again_after_a_rest),
        PATH(when_the_other_path_goes_one_that_rests_is_used),
        PATH(that_no_path_is_accessible_is_said_once),
        PATH(a_path_that_takes_less_at_once_is_sent_less),
        PATH(what_waits_for_a_path_is_sent_as_that_takes_it),
        PATH(what_another_path_is_to_do_is_sent_as_that_takes_it),
        PATH(a_size_that_cannot_be_is_not_believed),
        PATH(a_command_that_is_to_be_tried_again_holds_up_no_other),
        PATH(what_ends_as_a_path_comes_may_be_the_last_of_the_channel),
        PATH(large_requests_that_are_given_up_end_one_behind_the_other),
        PATH(a_path_that_is_added_is_used_when_the_others_go),
        PATH(nothing_new_is_sent_to_a_path_that_is_removed),
        PATH(what_a_removed_path_does_not_answer_is_sent_elsewhere),
        PATH(a_path_that_is_down_goes_at_once),
        PATH(a_path_that_leaves_may_be_added_again),
        PATH(the_last_path_stays),
        PATH(what_a_reset_takes_back_is_sent_again),
        PATH(the_policy_changes_while_paths_are_in_use),
        PATH(a_change_nobody_is_there_for_is_over_at_once),
        PATH(paths_are_told_of_as_they_are),
        PATH(a_removed_path_may_end_the_last_request_of_the_channel),
        PATH(a_disk_of_another_kind_has_no_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
