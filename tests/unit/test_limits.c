/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The target's limits in time (docs/architecture.md, "Limits and timeouts"), in simulated time: just before its limit a
 * connection is still there, and just after it is not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nvmf/tcp/tcp.h"
#include "nvmf_util.h"
#include "reactor/clock.h"

enum {
    STEP_MS = 100,
    LOOK_MS = 500,     /* the target looks at its connections so often */
    SETTLE_MS = 200,   /* what steps and set-up may take of a limit */
    LONGEST = 1 << 20, /* the largest transfer */
};

static uint64_t now_ns = PLX_NS_PER_S;

/* A little at each look, for those who wait for time in a loop. */
static uint64_t simulated(void)
{
    return now_ns += PLX_NS_PER_US;
}

/* A target with a disk and a host. */
static void begin_hosted(struct rig *rig, int *admin, int *queue)
{
    assert_int_equal(rig_start(rig, "ram:2M"), 0);
    assert_true(rig_host(rig, admin, queue));
}

static void end_hosted(struct rig *rig, int admin, int queue)
{
    close(admin);
    close(queue);
    rig_stop(rig);
}

/* In small steps: the target takes a reactor that was held up into account. */
static void pass(struct rig *rig, uint64_t ms)
{
    for (uint64_t end = now_ns + ms * PLX_NS_PER_MS; now_ns < end; now_ns += STEP_MS * PLX_NS_PER_MS)
        rig_settle(rig);
    rig_settle(rig);
}

static bool is_open(int fd)
{
    char c;
    ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK);
    return n > 0 || (n < 0 && errno == EAGAIN);
}

static void send_pdu(struct rig *rig, int fd, struct nvme_cmd cmd, uint32_t plen, size_t bytes)
{
    struct nvme_tcp_cmd pdu = {
        .hdr = {.type = NVME_TCP_CMD, .hlen = 72, .pdo = plen > 72 ? 72 : 0, .plen = plx_put32(plen)}, .cmd = cmd};
    assert_true(rig_send(rig, fd, &pdu, bytes));
}

static struct nvme_cmd io(uint8_t opcode, uint8_t fuse, uint16_t cid, uint32_t nlb, uint8_t sgl)
{
    return (struct nvme_cmd){.opcode = opcode,
                             .flags = (uint8_t)(NVME_PSDT_SGL | fuse),
                             .cid = plx_put16(cid),
                             .nsid = plx_put32(1),
                             .sgl = {.length = plx_put32(nlb * 512), .type = sgl},
                             .cdw12 = plx_put32(nlb - 1)};
}

/* ---- the pool ---- */

static void *taken[4096];

/* All but `leave` bytes, and less than a buffer. */
static void take_buffers(struct rig *rig, size_t leave)
{
    for (size_t n = 0; plx_buf_free_bytes(rig->reactor) >= leave + PLX_BUF_MIN; n++) {
        assert_true(n < PLX_ARRAY_SIZE(taken));
        assert_non_null(taken[n] = plx_buf_get(rig->reactor, PLX_BUF_MIN));
    }
}

static void give_back_buffers(struct rig *rig)
{
    for (size_t n = 0; taken[n]; n++)
        plx_buf_put(rig->reactor, taken[n], PLX_BUF_MIN);
    memset(taken, 0, sizeof taken);
}

/* ---- what a peer leaves undone; each returns the connection that is to end ---- */

static int nothing_said(struct rig *rig, int admin, int queue)
{
    (void)admin, (void)queue;
    return rig_connect(rig);
}

static int no_connect(struct rig *rig, int admin, int queue)
{
    (void)admin, (void)queue;
    int fd = rig_connect(rig);
    assert_true(rig_icreq(rig, fd, 0));
    return fd;
}

static int half_a_header(struct rig *rig, int admin, int queue)
{
    (void)admin;
    send_pdu(rig, queue, io(NVME_IO_FLUSH, 0, 1, 1, NVME_SGL_TRANSPORT_DATA), 72, 30);
    return queue;
}

static int half_a_capsule(struct rig *rig, int admin, int queue)
{
    (void)admin;
    send_pdu(rig, queue, io(NVME_IO_WRITE, 0, 1, 8, NVME_SGL_DATA_BLOCK_OFFSET), 72 + 4096, 72);
    return queue;
}

static int an_r2t(struct rig *rig, int admin, int queue)
{
    (void)admin;
    send_pdu(rig, queue, io(NVME_IO_WRITE, 0, 1, 64, NVME_SGL_TRANSPORT_DATA), 72, 72);
    return queue;
}

static int half_a_fused_command(struct rig *rig, int admin, int queue)
{
    uint8_t block[512] = {0};
    (void)admin;
    send_pdu(rig, queue, io(NVME_IO_COMPARE, NVME_FUSE_FIRST, 1, 1, NVME_SGL_DATA_BLOCK_OFFSET), 72 + 512, 72);
    assert_true(rig_send(rig, queue, block, sizeof block));
    return queue;
}

static int unread_answers(struct rig *rig, int admin, int queue)
{
    (void)admin;
    for (uint16_t cid = 0; cid < 20; cid++)
        send_pdu(rig, queue, io(NVME_IO_READ, 0, cid, LONGEST / 512, NVME_SGL_TRANSPORT_DATA), 72, 72);
    return queue;
}

static int an_unread_term_req(struct rig *rig, int admin, int queue)
{
    (void)admin;
    const struct nvme_tcp_hdr wrong = {.type = 0x77};
    assert_true(rig_send(rig, queue, &wrong, sizeof wrong));
    char c[NVME_TCP_TERM_MAX + 1];
    assert_true(recv(queue, c, sizeof c, MSG_DONTWAIT) > 0);
    return queue;
}

struct row {
    const char *what;
    int (*leave)(struct rig *rig, int admin, int queue);
    uint32_t limit_ms;
    bool contended; /* somebody else waits for buffers */
};

static const struct row rows[] = {
    {"from accept to ICReq", nothing_said, 10000, false},
    {"from accept to Connect", no_connect, 10000, false},
    {"a header", half_a_header, 30000, false},
    {"a capsule", half_a_capsule, 30000, false},
    {"an R2T", an_r2t, 30000, false},
    {"the second half of a fused command", half_a_fused_command, 30000, false},
    {"responses that are not read", unread_answers, 30000, false},
    {"a header, while others wait for buffers", half_a_header, 5000, true},
    {"an R2T, while others wait for buffers", an_r2t, 5000, true},
    {"responses that are not read, while others wait for buffers", unread_answers, 5000, true},
};

/* Another host, whose write waits for a buffer: only what is kept for data that comes unasked is left. */
static void another_waits(struct rig *rig, int *admin, int *queue)
{
    const struct tcp_group *g = rig->target->groups[0].transport;
    assert_true(rig_host(rig, admin, queue));
    take_buffers(rig, plx_buf_total_bytes(rig->reactor) / TCP_RESERVE);
    an_r2t(rig, *admin, *queue);
    assert_false(plx_list_empty(&g->line[TCP_WAIT_R2T]));
}

static void a_connection_ends_just_after_its_limit_and_not_before(void **state)
{
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(rows); i++) {
        const struct row *row = &rows[i];
        struct rig rig;
        int admin, queue, others[2] = {-1, -1};
        print_message("%s: %u ms\n", row->what, row->limit_ms);
        assert_int_equal(rig_start(&rig, "ram:2M"), 0);
        assert_true(rig_host(&rig, &admin, &queue));
        pass(&rig, 1234); /* at any time of the target's */
        int fd = row->leave(&rig, admin, queue);
        if (row->contended)
            another_waits(&rig, &others[0], &others[1]);
        pass(&rig, row->limit_ms - SETTLE_MS);
        assert_true(is_open(fd));
        unsigned before = atomic_load(&rig.target->connections);
        pass(&rig, LOOK_MS + 2 * SETTLE_MS);
        assert_true(atomic_load(&rig.target->connections) < before);
        give_back_buffers(&rig);
        for (int k = 0; k < 2 && row->contended; k++)
            close(others[k]);
        close(admin);
        close(queue);
        if (fd != queue)
            close(fd);
        rig_stop(&rig);
    }
}

/* A peer that reads `bytes` in each step. */
static void pass_reading(struct rig *rig, int fd, size_t bytes, uint64_t ms)
{
    static uint8_t sink[LONGEST];
    for (uint64_t end = now_ns + ms * PLX_NS_PER_MS; now_ns < end;) {
        pass(rig, STEP_MS);
        for (size_t left = bytes; left;) {
            ssize_t n = recv(fd, sink, left, MSG_DONTWAIT);
            if (n <= 0)
                break;
            left -= (size_t)n;
            rig_settle(rig);
        }
    }
}

static void the_limit_of_a_pdu_is_not_longer_for_who_reads_a_little(void **state)
{
    struct rig rig;
    int admin, queue;
    (void)state;
    begin_hosted(&rig, &admin, &queue);
    unread_answers(&rig, admin, queue);
    unsigned before = atomic_load(&rig.target->connections);
    pass_reading(&rig, queue, LONGEST / 600, 30000 - SETTLE_MS); /* half of the first */
    assert_int_equal(atomic_load(&rig.target->connections), before);
    pass_reading(&rig, queue, LONGEST / 600, LOOK_MS + 2 * SETTLE_MS);
    assert_true(atomic_load(&rig.target->connections) < before);
    end_hosted(&rig, admin, queue);
}

static void each_pdu_has_a_limit_of_its_own(void **state)
{
    struct rig rig;
    int admin, queue;
    (void)state;
    begin_hosted(&rig, &admin, &queue);
    unread_answers(&rig, admin, queue);
    pass_reading(&rig, queue, LONGEST / 200, 90000); /* one in 20 s */
    assert_true(is_open(queue));
    end_hosted(&rig, admin, queue);
}

/* ---- when memory is short ---- */

static uint16_t status_here(struct rig *rig, int fd)
{
    struct nvme_tcp_resp resp;
    assert_int_equal(rig_receive(rig, fd, &resp, sizeof resp), sizeof resp);
    assert_int_equal(resp.hdr.type, NVME_TCP_RESP);
    return plx_get16(resp.cqe.status) >> 1 & 0x7ff;
}

/* A write of 4 KiB to a namespace in its capsule, of which all but a beginning comes when there are no buffers left. */
static uint16_t write_in_two_parts(struct rig *rig, int fd, uint32_t nsid)
{
    enum { BEGINNING = 1000, DATA = 4096 };
    static const uint8_t data[DATA];
    uint8_t crc[NVME_TCP_DIGEST];
    struct nvme_tcp_cmd pdu = {.hdr = {.type = NVME_TCP_CMD, .flags = NVME_TCP_DDGSTF, .hlen = 72, .pdo = 72},
                               .cmd = io(NVME_IO_WRITE, 0, 1, DATA / 512, NVME_SGL_DATA_BLOCK_OFFSET)};
    pdu.hdr.plen = plx_put32(72 + DATA + NVME_TCP_DIGEST);
    pdu.cmd.nsid = plx_put32(nsid);
    plx_poke32(crc, plx_crc32c(data, DATA));
    assert_true(rig_send(rig, fd, &pdu, sizeof pdu) && rig_send(rig, fd, data, BEGINNING));
    take_buffers(rig, 0);
    assert_true(rig_send(rig, fd, data, DATA - BEGINNING) && rig_send(rig, fd, crc, sizeof crc));
    uint16_t status = status_here(rig, fd);
    give_back_buffers(rig);
    return status;
}

static void a_pdu_that_was_begun_is_received_to_its_end_without_memory(void **state)
{
    struct rig rig;
    uint16_t cntlid = 0;
    (void)state;
    assert_int_equal(rig_start(&rig, "ram:2M"), 0);
    int admin = rig_connect(&rig), queue = rig_connect(&rig);
    assert_true(rig_icreq(&rig, admin, NVME_TCP_DGST_DATA) && !rig_connect_queue(&rig, admin, 0, &cntlid));
    assert_int_equal(rig_enable(&rig, admin), 0);
    assert_true(rig_icreq(&rig, queue, NVME_TCP_DGST_DATA) && !rig_connect_queue(&rig, queue, 1, &cntlid));
    assert_int_equal(write_in_two_parts(&rig, queue, 1), PLX_SC_SUCCESS);
    assert_int_equal(write_in_two_parts(&rig, queue, 77), PLX_SC_INVALID_NAMESPACE_OR_FORMAT); /* it is thrown away */
    end_hosted(&rig, admin, queue);
}

static void a_peer_that_nothing_is_received_from_does_not_lose_time(void **state)
{
    struct rig rig;
    int admin, queue;
    (void)state;
    begin_hosted(&rig, &admin, &queue);
    half_a_header(&rig, admin, queue);
    take_buffers(&rig, 0);
    pass(&rig, 40000);
    assert_true(is_open(queue));
    give_back_buffers(&rig);
    pass(&rig, 30000 - SETTLE_MS);
    assert_true(is_open(queue));
    pass(&rig, LOOK_MS + 2 * SETTLE_MS);
    assert_false(is_open(queue));
    end_hosted(&rig, admin, queue);
}

static void who_sends_commands_instead_of_data_ends_when_there_are_far_too_many(void **state)
{
    struct rig rig;
    int admin, queue;
    (void)state;
    begin_hosted(&rig, &admin, &queue);
    unsigned *in_use = &rig.target->groups[0].reqs_in_use;
    an_r2t(&rig, admin, queue);
    *in_use += NVMF_MAX_REQUESTS;
    send_pdu(&rig, queue, io(NVME_IO_FLUSH, 0, 2, 1, NVME_SGL_TRANSPORT_DATA), 72, 72);
    assert_true(is_open(queue));
    *in_use += NVMF_MAX_REQUESTS;
    send_pdu(&rig, queue, io(NVME_IO_FLUSH, 0, 3, 1, NVME_SGL_TRANSPORT_DATA), 72, 72);
    char answers[256];
    while (recv(queue, answers, sizeof answers, MSG_DONTWAIT) > 0) {
    }
    assert_false(is_open(queue));
    *in_use -= 2 * NVMF_MAX_REQUESTS;
    end_hosted(&rig, admin, queue);
}

static void applied(void *arg, int ret)
{
    assert_int_equal(ret, 0);
    *(bool *)arg = true;
}

static struct plx_bdev *add_disk(struct rig *rig, const char *url)
{
    struct plx_nvmf_subsystem *s = plx_list_entry(rig->target->subsystems.prev, struct plx_nvmf_subsystem, link);
    struct plx_bdev *disk;
    bool done = false;
    assert_int_equal(plx_bdev_open(url, &disk, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, disk, NULL, NULL), 2);
    plx_nvmf_target_apply(rig->target, applied, &done);
    while (!done)
        plx_reactor_poll(rig->reactor);
    return disk;
}

static void who_passes_a_request_that_waits_for_its_disk_heeds_the_share_of_its_connection(void **state)
{
    enum { HALF = LONGEST / 2 };
    struct rig rig;
    int admin, queue;
    (void)state;
    assert_int_equal(rig_start(&rig, "ram:2M"), 0);
    struct plx_bdev *second = add_disk(&rig, "ram:2M");
    assert_true(rig_host(&rig, &admin, &queue));
    struct plx_list *conns = &((struct tcp_group *)rig.target->groups[0].transport)->conns;
    const struct tcp_conn *c = plx_list_entry(conns->prev, struct tcp_conn, link);
    const size_t share = plx_buf_total_bytes(rig.reactor) / TCP_SHARE;
    assert_true(share == 2 * LONGEST && c->qp.qid && c->qp.image->nns == 2);
    struct nvmf_nsref *full = &c->qp.image->ns[0].ns->refs[0];
    full->bytes += 2 * plx_buf_total_bytes(rig.reactor); /* as if it had all of a larger pool */
    static const struct {
        uint32_t nsid, bytes;
    } writes[] = {{2, LONGEST}, {2, HALF}, {1, 512}, {2, LONGEST}};
    for (uint16_t i = 0; i < PLX_ARRAY_SIZE(writes); i++) {
        struct nvme_cmd cmd = io(NVME_IO_WRITE, 0, i, writes[i].bytes / 512, NVME_SGL_TRANSPORT_DATA);
        cmd.nsid = plx_put32(writes[i].nsid);
        send_pdu(&rig, queue, cmd, 72, 72);
    }
    assert_int_equal(c->r2ts, 2);
    assert_int_equal(c->held[TCP_WAIT_R2T], LONGEST + HALF);
    full->bytes -= 2 * plx_buf_total_bytes(rig.reactor);
    rig_settle(&rig);
    assert_int_equal(c->r2ts, 3); /* the small one, and then the large one waits for its connection again */
    end_hosted(&rig, admin, queue);
    plx_bdev_close(second);
}

enum { READERS = 70, SMALL_POOL = 4 << 20, LARGE_BLOCK = 64 << 10 };

/* Reads of a block each, of which the sockets take three and a part: so what is kept of each is a block. */
static void send_reads(struct rig *rig, int fd, uint16_t n)
{
    struct nvme_cmd cmd = io(NVME_IO_READ, 0, 0, 1, NVME_SGL_TRANSPORT_DATA);
    cmd.sgl.length = plx_put32(LARGE_BLOCK);
    for (uint16_t cid = 0; cid < n; cid++) {
        cmd.cid = plx_put16(cid);
        send_pdu(rig, fd, cmd, 72, 72);
    }
}

static int connect_queue(struct rig *rig, uint16_t qid, uint16_t cntlid)
{
    int fd = rig_connect(rig);
    assert_true(fd >= 0 && rig_icreq(rig, fd, 0));
    assert_int_equal(rig_connect_queue(rig, fd, qid, &cntlid), 0);
    return fd;
}

static void readers_that_do_not_read_cannot_have_all_buffers_nor_end_others(void **state)
{
    struct rig rig;
    int fds[READERS + 1], admin;
    static uint8_t answer[LARGE_BLOCK + 48];
    uint16_t cntlid = 0;
    (void)state;
    assert_int_equal(rig_start_small(&rig, "ram:8M?block=65536", SMALL_POOL), 0);
    const struct tcp_group *g = rig.target->groups[0].transport;
    admin = rig_connect(&rig);
    assert_true(rig_icreq(&rig, admin, 0) && !rig_connect_queue(&rig, admin, 0, &cntlid) && !rig_enable(&rig, admin));
    for (uint16_t i = 0; i <= READERS; i++)
        fds[i] = connect_queue(&rig, i + 1, cntlid);
    for (int i = 0; i < READERS; i++)
        send_reads(&rig, fds[i], 8);
    assert_true(plx_buf_free_bytes(rig.reactor) >= SMALL_POOL / 2);
    const struct nvme_cmd flush = io(NVME_IO_FLUSH, 0, 99, 1, NVME_SGL_TRANSPORT_DATA);
    assert_int_equal(rig_command(&rig, fds[READERS], &flush, NULL, 0), 0);
    send_reads(&rig, fds[READERS], 1);
    unsigned waiting = 0;
    plx_list_for_each(it, &g->unsent) {
        const struct tcp_conn *c = plx_list_entry(it, struct tcp_conn, unsent_link);
        assert_false(c->stream.blocked || c->stream.dirty || c->tx_since); /* its peer may well be reading */
        waiting++;
    }
    assert_true(waiting > 1);
    size_t got = 0;
    for (int s = 0; s < 40 && got < sizeof answer; s++) {
        pass(&rig, 1000);
        ssize_t n = recv(fds[READERS], answer + got, sizeof answer - got, MSG_DONTWAIT);
        got += n > 0 ? (size_t)n : 0;
    }
    assert_int_equal(got, sizeof answer);
    assert_true(is_open(fds[READERS]));
    for (int i = 0; i <= READERS; i++)
        close(fds[i]);
    rig_settle(&rig);
    assert_int_equal(plx_buf_free_bytes(rig.reactor) + (g->spare ? LARGE_BLOCK : 0), SMALL_POOL);
    close(admin);
    rig_stop(&rig);
}

static void a_term_req_is_waited_for_a_second(void **state)
{
    struct rig rig;
    int admin, queue;
    (void)state;
    begin_hosted(&rig, &admin, &queue);
    an_unread_term_req(&rig, admin, queue);
    pass(&rig, 1000 - SETTLE_MS);
    assert_true(send(queue, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1); /* it is still taken, and thrown away */
    pass(&rig, 100 + 2 * SETTLE_MS);
    assert_true(send(queue, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0);
    end_hosted(&rig, admin, queue);
}

static void a_controller_without_keep_alive_has_two_minutes_for_discovery_or_until_it_is_enabled(void **state)
{
    static const char *const nqns[] = {NVME_DISCOVERY_NQN, RIG_NQN};
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(nqns); i++) {
        struct rig rig;
        uint16_t cntlid;
        assert_int_equal(rig_start(&rig, "ram:2M"), 0);
        int fd = rig_connect(&rig);
        assert_true(rig_icreq(&rig, fd, 0));
        assert_int_equal(rig_connect_to(&rig, fd, nqns[i], 0, &cntlid), 0);
        pass(&rig, 120000 - SETTLE_MS);
        assert_true(is_open(fd));
        pass(&rig, 2 * LOOK_MS + 2 * SETTLE_MS);
        assert_false(is_open(fd));
        close(fd);
        rig_stop(&rig);
    }
}

static void an_enabled_controller_without_keep_alive_has_any_time(void **state)
{
    struct rig rig;
    int admin, queue;
    (void)state;
    begin_hosted(&rig, &admin, &queue);
    pass(&rig, 300000);
    assert_true(is_open(admin) && is_open(queue));
    end_hosted(&rig, admin, queue);
}

static void a_connect_whose_data_was_asked_for_outlives_a_stop_without_grace(void **state)
{
    struct rig rig;
    (void)state;
    assert_int_equal(rig_start(&rig, "ram:2M"), 0);
    int fd = rig_connect(&rig);
    assert_true(rig_icreq(&rig, fd, 0));
    const struct nvme_connect_cmd connect = {.opcode = NVME_FABRICS,
                                             .fctype = NVME_FABRICS_CONNECT,
                                             .sgl = {.length = plx_put32(1024), .type = NVME_SGL_TRANSPORT_DATA},
                                             .sqsize = plx_put16(31)};
    struct nvme_connect_data data = {.hostid = {1}, .cntlid = plx_put16(NVME_CNTLID_DYNAMIC)};
    snprintf(data.subnqn, sizeof data.subnqn, "%s", RIG_NQN);
    snprintf(data.hostnqn, sizeof data.hostnqn, "%s", RIG_HOST);
    struct nvme_cmd cmd;
    memcpy(&cmd, &connect, sizeof cmd);
    send_pdu(&rig, fd, cmd, 72, 72);
    const struct nvme_tcp_data pdu = {
        .hdr = {.type = NVME_TCP_H2C_DATA, .flags = NVME_TCP_LAST, .hlen = 24, .pdo = 24, .plen = plx_put32(24 + 1024)},
        .datal = plx_put32(1024)};
    assert_int_equal(send(fd, &pdu, sizeof pdu, MSG_DONTWAIT), sizeof pdu);
    assert_int_equal(send(fd, &data, sizeof data, MSG_DONTWAIT), sizeof data);
    /* Its message to the control reactor is sent in the round in which that begins to stop, and arrives in the next. */
    rig_stop_within(&rig, 0);
    close(fd);
}

static void the_oldest_of_too_many_that_say_nothing_goes(void **state)
{
    enum { MOST = 512 };
    static int fds[MOST + 2];
    struct rig rig;
    (void)state;
    assert_int_equal(rig_start(&rig, "ram:2M"), 0);
    for (int i = 0; i < MOST; i++)
        fds[i] = rig_connect(&rig);
    rig_settle(&rig);
    assert_true(is_open(fds[0]));
    fds[MOST] = rig_connect(&rig);
    rig_settle(&rig);
    assert_false(is_open(fds[0]));
    assert_true(is_open(fds[1]) && is_open(fds[MOST]));
    for (int i = 0; i <= MOST; i++)
        close(fds[i]);
    rig_settle(&rig);
    rig_stop(&rig);
}

static int set_up(void **state)
{
    (void)state;
    plx_clock_simulate(simulated);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_connection_ends_just_after_its_limit_and_not_before),
        cmocka_unit_test(the_limit_of_a_pdu_is_not_longer_for_who_reads_a_little),
        cmocka_unit_test(each_pdu_has_a_limit_of_its_own),
        cmocka_unit_test(a_pdu_that_was_begun_is_received_to_its_end_without_memory),
        cmocka_unit_test(a_peer_that_nothing_is_received_from_does_not_lose_time),
        cmocka_unit_test(who_sends_commands_instead_of_data_ends_when_there_are_far_too_many),
        cmocka_unit_test(who_passes_a_request_that_waits_for_its_disk_heeds_the_share_of_its_connection),
        cmocka_unit_test(readers_that_do_not_read_cannot_have_all_buffers_nor_end_others),
        cmocka_unit_test(a_term_req_is_waited_for_a_second),
        cmocka_unit_test(a_controller_without_keep_alive_has_two_minutes_for_discovery_or_until_it_is_enabled),
        cmocka_unit_test(an_enabled_controller_without_keep_alive_has_any_time),
        cmocka_unit_test(a_connect_whose_data_was_asked_for_outlives_a_stop_without_grace),
        cmocka_unit_test(the_oldest_of_too_many_that_say_nothing_goes),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
