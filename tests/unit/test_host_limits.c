/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The host's limits in time (docs/architecture.md, "Limits and timeouts"), in simulated time and over a network of
 * memory: just before its limit an association is as it was, and just after it is not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "memnet.h"
#include "nvme/nvme.h"
#include "nvmf/tcp/tcp.h"
#include "reactor/clock.h"
#include "test_disk.h"

#define NQN "nqn.2024-01.com.example:limits"

enum {
    STEP_MS = 10,
    SETTLE_MS = 50, /* what steps and set-up may take of a limit */
    TICK_MS = 1000, /* a command's age is looked at so often */
    TIMEOUT_MS = 20000,
    CONNECT_MS = 7000,
    KATO_MS = 6000,
    BEGUN_MS = 230, /* how long it has been running */
};

static struct {
    uint64_t now;
    struct plx_reactor *host, *far;
    struct test_disk *disk;
    struct plx_nvmf_target *target;
    struct nvme_ctrlr *ctrlr;
    bool started;
    bool mute; /* nothing is heard of the target, nor does anything break */
    int lives, downs, failures, failed_with;
    struct nvme_req req;
    bool answered;
    unsigned keep_alives; /* that the host sent */
} rig;

/* Linked with --wrap=nvme_submit_admin. */
void __wrap_nvme_submit_admin(struct nvme_ctrlr *c, struct nvme_req *req);
void __real_nvme_submit_admin(struct nvme_ctrlr *c, struct nvme_req *req);

void __wrap_nvme_submit_admin(struct nvme_ctrlr *c, struct nvme_req *req)
{
    rig.keep_alives += req->cmd.opcode == NVME_ADMIN_KEEP_ALIVE;
    __real_nvme_submit_admin(c, req);
}

static uint64_t simulated(void)
{
    return rig.now;
}

static void settle(void)
{
    for (int quiet = 0; quiet < 10; quiet++)
        if (plx_reactor_poll(rig.host) + (rig.mute ? 0 : memnet_accept() + plx_reactor_poll(rig.far)))
            quiet = 0;
}

static void pass(uint64_t ms)
{
    for (uint64_t end = rig.now + ms * PLX_NS_PER_MS; rig.now < end; rig.now += STEP_MS * PLX_NS_PER_MS)
        settle();
    settle();
}

/* ---- both ends ---- */

static void live(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
    rig.lives++;
}

static void down(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
    rig.downs++;
}

static void failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    (void)c, (void)arg, (void)why;
    assert_true(again);
    rig.failures++;
    rig.failed_with = ret;
}

static void ana(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
}

static void accepted(void *arg, struct memnet_end *end)
{
    (void)arg;
    struct tcp_conn *c = tcp_conn_create(rig.target);
    assert_non_null(c);
    memnet_open(&c->stream, end);
    atomic_fetch_add(&rig.target->connections, 1);
    tcp_conn_adopt(rig.target->groups[0].transport, c);
}

static void target_done(void *arg, int ret)
{
    (void)arg, (void)ret;
    rig.started = !rig.started;
}

static int set_up(void **state)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
    struct plx_nvmf_subsystem *s;
    (void)state;
    memset(&rig, 0, sizeof rig);
    rig.now = PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    const struct memnet_opts net = {.seed = 1, .window = 1 << 16, .time = &rig.now, .accepted = accepted};
    memnet_begin(&net);
    rig.disk = test_disk_new();
    rig.disk->ignores_aborts = true;
    rig.disk->bdev.info.ops &= ~(1u << PLX_BDEV_ALLOCATED); /* which hosts ask for when they connect */
    assert_int_equal(plx_reactor_create(&rig.host, NULL), 0);
    assert_int_equal(plx_reactor_create(&rig.far, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&rig.target, &rig.far, 1, NULL, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_create(rig.target, &opts, &s, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, &rig.disk->bdev, NULL, NULL), 1);
    plx_nvmf_target_start(rig.target, target_done, NULL);
    while (!rig.started)
        pass(1);
    return 0;
}

static void start_host(uint32_t kato_ms)
{
    static const struct nvme_ctrlr_ops ops = {.live = live, .down = down, .failed = failed, .ana = ana};
    const struct nvme_opts o = {.transport = &nvme_tcp,
                                .addrs = {.list = {{.addr = {.ss_family = AF_INET}, .name = "memory"}}, .n = 1},
                                .subnqn = NQN,
                                .hostnqn = "nqn.2024-01.com.example:host",
                                .hostid = {1},
                                .queues = 1,
                                .depth = 8,
                                .kato_ms = kato_ms,
                                .timeout_ms = TIMEOUT_MS,
                                .connect_timeout_ms = CONNECT_MS};
    assert_int_equal(nvme_ctrlr_create(rig.host, &o, &ops, NULL, &rig.ctrlr), 0);
    nvme_ctrlr_start(rig.ctrlr, false);
    pass(BEGUN_MS); /* at any time of the host's */
    assert_int_equal(rig.lives, rig.mute ? 0 : 1);
}

static int tear_down(void **state)
{
    (void)state;
    rig.mute = false;
    nvme_ctrlr_destroy(rig.ctrlr);
    settle();
    plx_nvmf_target_stop(rig.target, 100, target_done, NULL);
    for (int i = 0; rig.started && i < 10000; i++) {
        while (test_disk_end(rig.disk, PLX_SC_SUCCESS))
            ;
        pass(STEP_MS);
    }
    assert_false(rig.started);
    pass(2000); /* those who linger */
    memnet_over();
    plx_nvmf_target_destroy(rig.target);
    plx_reactor_destroy(rig.far);
    plx_reactor_destroy(rig.host);
    plx_bdev_close(&rig.disk->bdev);
    plx_clock_simulate(NULL);
    return 0;
}

static void req_done(struct nvme_req *req)
{
    (void)req;
    rig.answered = true;
}

static void submit(void (*how)(struct nvme_ctrlr *c, struct nvme_req *req), uint8_t opcode)
{
    rig.req = (struct nvme_req){.done = req_done, .cmd = {.opcode = opcode, .nsid = plx_put32(1)}};
    how(rig.ctrlr, &rig.req);
    settle();
}

/* ---- the limits ---- */

static void an_attempt_to_connect_has_its_time_and_the_next_ones_ever_more_until_then(void **state)
{
    static const uint32_t pauses_ms[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
    (void)state;
    rig.mute = true;
    start_host(0);
    pass(CONNECT_MS - BEGUN_MS - SETTLE_MS);
    assert_int_equal(rig.failures, 0);
    pass(2 * SETTLE_MS);
    for (int i = 0; i < (int)PLX_ARRAY_SIZE(pauses_ms); i++) {
        assert_int_equal(rig.failures, i + 1);
        assert_int_equal(rig.failed_with, -ETIMEDOUT);
        pass(pauses_ms[i] + CONNECT_MS - 2 * SETTLE_MS);
        assert_int_equal(rig.failures, i + 1);
        pass(2 * SETTLE_MS);
    }
}

static void a_command_is_aborted_after_its_time_and_the_connection_given_up_after_it_again(void **state)
{
    (void)state;
    start_host(0);
    submit(nvme_submit, NVME_IO_FLUSH);
    assert_int_equal(rig.disk->seen, 1);
    pass(TIMEOUT_MS - SETTLE_MS);
    assert_int_equal(rig.disk->aborts, 0);
    pass(TICK_MS + 2 * SETTLE_MS);
    assert_int_equal(rig.disk->aborts, 1);
    assert_false(rig.answered);
    pass(TIMEOUT_MS - TICK_MS - 4 * SETTLE_MS);
    assert_int_equal(rig.downs, 0);
    pass(2 * TICK_MS + 4 * SETTLE_MS);
    assert_int_equal(rig.downs, 1);
    assert_true(rig.answered && rig.req.lost);
}

static void an_admin_command_has_its_time(void **state)
{
    (void)state;
    start_host(0);
    rig.mute = true;
    submit(nvme_submit_admin, NVME_ADMIN_KEEP_ALIVE);
    pass(TIMEOUT_MS - SETTLE_MS);
    assert_int_equal(rig.downs, 0);
    pass(TICK_MS + 2 * SETTLE_MS);
    assert_int_equal(rig.downs, 1);
    assert_true(rig.answered && rig.req.lost);
}

static void an_abort_that_is_asked_for_has_two_or_three_seconds(void **state)
{
    (void)state;
    start_host(0);
    submit(nvme_submit, NVME_IO_FLUSH);
    rig.mute = true;
    nvme_abort(rig.ctrlr, &rig.req);
    pass(2 * TICK_MS - SETTLE_MS);
    assert_int_equal(rig.downs, 0);
    pass(TICK_MS + 2 * SETTLE_MS);
    assert_int_equal(rig.downs, 1);
    assert_true(rig.answered && rig.req.lost);
}

/* The target would end the association else. Of the intervals, of a third of the timeout each, one may be skipped. */
static void an_idle_association_is_kept_alive(void **state)
{
    (void)state;
    start_host(KATO_MS);
    pass(10 * KATO_MS);
    assert_int_equal(rig.downs, 0);
    assert_in_range(rig.keep_alives, 14, 16); /* the answer to one is traffic, too */
    rig.ctrlr->id.ctratt = plx_put32(0);
    rig.keep_alives = 0;
    pass(10 * KATO_MS);
    assert_int_equal(rig.downs, 0);
    assert_in_range(rig.keep_alives, 29, 31);
}

static void traffic_keeps_an_association_alive_where_the_controller_says_so(void **state)
{
    (void)state;
    start_host(KATO_MS);
    for (int i = 0; i < 60; i++) {
        submit(nvme_submit, NVME_IO_FLUSH);
        assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
        pass(KATO_MS / 6);
        assert_true(rig.answered);
    }
    assert_int_equal(rig.downs, 0);
    assert_int_equal(rig.keep_alives, 0);
}

static void a_controller_is_believed_dead_when_it_was_silent_for_the_keep_alive_timeout(void **state)
{
    (void)state;
    start_host(KATO_MS);
    pass(3 * KATO_MS);
    assert_int_equal(rig.downs, 0); /* that nothing is wanted of it is no reason */
    rig.mute = true;
    pass(KATO_MS - SETTLE_MS);
    assert_int_equal(rig.downs, 0);
    pass(KATO_MS / 3 + 2 * SETTLE_MS); /* it is looked at three times in it */
    assert_int_equal(rig.downs, 1);
}

int main(void)
{
#define LIMIT(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        LIMIT(an_attempt_to_connect_has_its_time_and_the_next_ones_ever_more_until_then),
        LIMIT(a_command_is_aborted_after_its_time_and_the_connection_given_up_after_it_again),
        LIMIT(an_admin_command_has_its_time),
        LIMIT(an_abort_that_is_asked_for_has_two_or_three_seconds),
        LIMIT(an_idle_association_is_kept_alive),
        LIMIT(traffic_keeps_an_association_alive_where_the_controller_says_so),
        LIMIT(a_controller_is_believed_dead_when_it_was_silent_for_the_keep_alive_timeout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
