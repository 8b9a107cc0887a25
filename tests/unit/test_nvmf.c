/* SPDX-License-Identifier: BSD-3-Clause */
/* The target from start to stop, with hosts in between, without a thread or a network. */
#include "nvmf_util.h"

#include "nvmf/tcp/tcp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "failalloc.h"

static struct nvme_cmd io(uint8_t opcode, uint16_t cid, uint64_t lba, uint32_t nlb, uint32_t len, uint8_t sgl)
{
    return (struct nvme_cmd){.opcode = opcode,
                             .flags = NVME_PSDT_SGL,
                             .cid = plx_put16(cid),
                             .nsid = plx_put32(1),
                             .sgl = {.length = plx_put32(len), .type = sgl},
                             .cdw10 = plx_put32(lba),
                             .cdw12 = plx_put32(nlb - 1)};
}

static void shut(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void it_starts_and_stops_again_and_again(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) {
        struct rig rig;
        int admin, queue;
        assert_int_equal(rig_start(&rig, "ram:1M"), 0);
        assert_true(rig_host(&rig, &admin, &queue));
        assert_int_equal(rig.target->nctrlrs, 1);
        if (i & 1) { /* hosts that leave before, and hosts that are there at the end */
            shut(queue);
            shut(admin);
            rig_settle(&rig);
            assert_int_equal(rig.target->nctrlrs, 0);
        }
        rig_stop(&rig);
        if (!(i & 1)) {
            shut(queue);
            shut(admin);
        }
    }
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct rig rig;
    int admin, queue;
    uint8_t data[4096], got[24 + 4096 + 24];
    assert_int_equal(rig_start(&rig, "ram:1M"), 0);
    assert_true(rig_host(&rig, &admin, &queue));
    memset(data, 0x5a, sizeof data);
    struct nvme_cmd write = io(NVME_IO_WRITE, 1, 8, 8, sizeof data, NVME_SGL_DATA_BLOCK_OFFSET);
    assert_int_equal(rig_command(&rig, queue, &write, data, sizeof data), PLX_SC_SUCCESS);
    struct nvme_tcp_cmd read = {.hdr = {.type = NVME_TCP_CMD, .hlen = 72, .plen = plx_put32(72)},
                                .cmd = io(NVME_IO_READ, 2, 8, 8, sizeof data, NVME_SGL_TRANSPORT_DATA)};
    assert_true(rig_send(&rig, queue, &read, sizeof read));
    assert_int_equal(rig_receive(&rig, queue, got, sizeof got), sizeof got);
    assert_int_equal(got[0], NVME_TCP_C2H_DATA);
    assert_memory_equal(got + 24, data, sizeof data);
    shut(queue);
    shut(admin);
    rig_stop(&rig);
}

static void buffers_come_back_from_hosts_that_leave_in_the_middle(void **state)
{
    (void)state;
    struct rig rig;
    int admin, queue;
    assert_int_equal(rig_start(&rig, "ram:4M"), 0);
    for (int i = 0; i < 20; i++) {
        assert_true(rig_host(&rig, &admin, &queue));
        /* Writes that want an R2T each: more than one connection may hold buffers for. */
        for (uint16_t cid = 0; cid < 20; cid++) {
            struct nvme_tcp_cmd pdu = {.hdr = {.type = NVME_TCP_CMD, .hlen = 72, .plen = plx_put32(72)},
                                       .cmd = io(NVME_IO_WRITE, cid, 0, 2048, 1 << 20, NVME_SGL_TRANSPORT_DATA)};
            assert_true(rig_send(&rig, queue, &pdu, sizeof pdu));
        }
        size_t total = plx_buf_total_bytes(rig.reactor);
        assert_true(plx_buf_free_bytes(rig.reactor) >= total / 2); /* a share, and no more */
        assert_true(plx_buf_free_bytes(rig.reactor) < total);
        shut(queue);
        shut(admin);
        rig_settle(&rig);
    }
    struct tcp_group *g = rig.target->groups[0].tcp;
    assert_int_equal(g->class_bytes[TCP_WAIT_R2T], 0);
    assert_int_equal(rig.target->connections, 0);
    rig_stop(&rig);
}

/* Start, a host with an admin and an I/O queue, stop. Fails where memory fails, but never badly. */
static bool whole_life(void *arg)
{
    struct rig rig;
    int admin = -1, queue = -1;
    (void)arg;
    if (rig_start(&rig, "ram:1M") < 0)
        return true;
    rig_host(&rig, &admin, &queue);
    shut(queue);
    shut(admin);
    rig_settle(&rig);
    bool gone = rig.target->nctrlrs == 0 && rig.target->connections == 0;
    rig_stop(&rig);
    return gone;
}

static void start_and_connect_survive_every_failed_allocation(void **state)
{
    (void)state;
    assert_true(whole_life(NULL)); /* what OpenSSL allocates once and for all */
    assert_true(failalloc_each(whole_life, NULL) > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_starts_and_stops_again_and_again),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(buffers_come_back_from_hosts_that_leave_in_the_middle),
        cmocka_unit_test(start_and_connect_survive_every_failed_allocation),
    };
    return cmocka_run_group_tests_name("nvmf", tests, NULL, NULL);
}
