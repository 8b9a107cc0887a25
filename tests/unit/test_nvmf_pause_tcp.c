/* SPDX-License-Identifier: BSD-3-Clause */
/* Pauses, and how long connections may leave what they owe: over TCP's PDUs, in simulated time. */
#include "nvmf_util.h"
#include "reactor/clock.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAUSE_MS = 5000, PEER_MS = 30000, TICK_MS = 500, NOTHING = -1 };

static struct rig rig;
static int admin, io, result;
static uint64_t now_ns, step_ns;

static uint64_t simulated(void)
{
    return now_ns += step_ns;
}

static void pass(uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i += 10) {
        now_ns += 10 * PLX_NS_PER_MS;
        rig_settle(&rig);
    }
}

static int begin(void **state)
{
    (void)state;
    now_ns = PLX_NS_PER_S;
    step_ns = 0;
    plx_clock_simulate(simulated);
    assert_int_equal(rig_start(&rig, "ram:8M"), 0);
    assert_true(rig_host(&rig, &admin, &io));
    return 0;
}

static int end(void **state)
{
    (void)state;
    step_ns = 1000; /* a stop takes its time */
    rig_stop(&rig);
    close(admin);
    close(io);
    plx_clock_simulate(NULL);
    return 0;
}

static void over(void *arg, int ret)
{
    (void)arg;
    result = ret;
}

static struct plx_nvmf_subsystem *subsystem(void)
{
    return plx_list_entry(rig.target->subsystems.prev, struct plx_nvmf_subsystem, link);
}

static int pause_it(void)
{
    result = -EINPROGRESS;
    plx_nvmf_subsystem_pause(subsystem(), 1, over, NULL);
    rig_settle(&rig);
    return result;
}

static int resume(void)
{
    result = -EINPROGRESS;
    plx_nvmf_subsystem_resume(subsystem(), 1, over, NULL);
    rig_settle(&rig);
    return result;
}

/* Half of a fused command, with its data. @return the status of the response that is here then, or NOTHING */
static int half(bool second)
{
    static const uint8_t zeroes[512];
    const struct nvme_cmd cmd = {.opcode = second ? NVME_IO_WRITE : NVME_IO_COMPARE,
                                 .flags = NVME_PSDT_SGL | (second ? NVME_FUSE_SECOND : NVME_FUSE_FIRST),
                                 .cid = plx_put16(second),
                                 .nsid = plx_put32(1),
                                 .sgl = {.length = plx_put32(512), .type = NVME_SGL_DATA_BLOCK_OFFSET}};
    return rig_command(&rig, io, &cmd, zeroes, sizeof zeroes);
}

static bool closed(void)
{
    static uint8_t buf[1 << 20];
    ssize_t n;
    do
        n = rig_receive(&rig, io, buf, sizeof buf);
    while (n > 0);
    return n < 0;
}

static void a_host_that_does_not_read_what_was_lent_keeps_nobody_from_pausing(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        const struct nvme_cmd cmd = {.opcode = NVME_IO_READ,
                                     .flags = NVME_PSDT_SGL,
                                     .cid = plx_put16(i),
                                     .nsid = plx_put32(1),
                                     .cdw12 = plx_put32(2047),
                                     .sgl = {.length = plx_put32(1 << 20), .type = NVME_SGL_TRANSPORT_DATA}};
        const struct nvme_tcp_cmd pdu = {.hdr = {.type = NVME_TCP_CMD, .hlen = 72, .plen = plx_put32(72)}, .cmd = cmd};
        assert_true(rig_send(&rig, io, &pdu, sizeof pdu));
    }
    assert_int_equal(pause_it(), -EINPROGRESS);
    pass(PAUSE_MS - 50);
    assert_int_equal(result, -EINPROGRESS);
    pass(100);
    assert_int_equal(result, 0);
    assert_true(closed());
    assert_int_equal(resume(), 0);
}

static void a_fused_command_that_is_held_is_not_its_hosts_fault(void **state)
{
    (void)state;
    assert_int_equal(half(false), NOTHING);
    assert_int_equal(pause_it(), 0);
    assert_int_equal(half(true), NOTHING);
    pass(2 * PEER_MS);
    assert_false(closed());
    assert_int_equal(resume(), 0);
    struct nvme_tcp_resp resp[2];
    assert_int_equal(rig_receive(&rig, io, resp, sizeof resp), sizeof resp);
    for (int i = 0; i < 2; i++)
        assert_int_equal(plx_get16(resp[i].cqe.status), 0);
}

static void half_of_a_fused_command_that_came_in_a_pause_is_not_waited_for_longer(void **state)
{
    (void)state;
    assert_int_equal(pause_it(), 0);
    assert_int_equal(half(false), NOTHING);
    pass(PEER_MS - 2 * TICK_MS);
    assert_int_equal(resume(), 0);
    assert_false(closed());
    pass(4 * TICK_MS);
    assert_true(closed());
}

/* In vain. */
static void a_stop_does_not_wait_for_what_is_held(void **state)
{
    (void)state;
    static const uint8_t zeroes[512];
    const struct nvme_cmd cmd = {.opcode = NVME_IO_WRITE,
                                 .flags = NVME_PSDT_SGL,
                                 .nsid = plx_put32(1),
                                 .sgl = {.length = plx_put32(512), .type = NVME_SGL_DATA_BLOCK_OFFSET}};
    assert_int_equal(pause_it(), 0);
    assert_int_equal(rig_command(&rig, io, &cmd, zeroes, sizeof zeroes), NOTHING);
    result = -EINPROGRESS;
    plx_nvmf_target_stop(rig.target, PEER_MS, over, NULL);
    pass(100);
    assert_int_equal(result, 0);
    plx_nvmf_target_destroy(rig.target);
    plx_reactor_destroy(rig.reactor);
    assert_int_equal(plx_bdev_close(rig.disk), 0);
    close(admin);
    close(io);
    plx_clock_simulate(NULL);
}

int main(void)
{
#define EACH(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        EACH(a_host_that_does_not_read_what_was_lent_keeps_nobody_from_pausing),
        EACH(a_fused_command_that_is_held_is_not_its_hosts_fault),
        EACH(half_of_a_fused_command_that_came_in_a_pause_is_not_waited_for_longer),
        cmocka_unit_test_setup(a_stop_does_not_wait_for_what_is_held, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
