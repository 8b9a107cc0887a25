/* SPDX-License-Identifier: BSD-3-Clause */
/* The target from start to stop, with hosts in between, without a thread or a network. */
#include "nvmf_util.h"

#include "nvmf/tcp/tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "failalloc.h"
#include "test_disk.h"

/* Time passes only as far as tests let it; a little at each look, for those who wait for it in a loop. */
static uint64_t now_ns = PLX_NS_PER_S;

int __wrap_clock_gettime(clockid_t id, struct timespec *t);

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    (void)id;
    now_ns += PLX_NS_PER_US;
    *t = (struct timespec){(time_t)(now_ns / PLX_NS_PER_S), (long)(now_ns % PLX_NS_PER_S)};
    return 0;
}

/* In small steps: the target takes a reactor that was held up into account. */
static void pass(struct rig *rig, uint64_t ms)
{
    for (uint64_t end = now_ns + ms * PLX_NS_PER_MS; now_ns < end; now_ns += PLX_NS_PER_MS * 10)
        rig_settle(rig);
    rig_settle(rig);
}

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
        assert_false(plx_list_empty(&rig.target->ctrlrs));
        if (i & 1) { /* hosts that leave before, and hosts that are there at the end */
            shut(queue);
            shut(admin);
            rig_settle(&rig);
            assert_true(plx_list_empty(&rig.target->ctrlrs));
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
    struct tcp_group *g = rig.target->groups[0].transport;
    assert_int_equal(g->class_bytes[TCP_WAIT_R2T], 0);
    assert_int_equal(rig.target->connections, 0);
    rig_stop(&rig);
}

enum { READS = 30, READ_LEN = 65536 };

/* Reads that a disk lends its memory for, more than the socket takes at once. */
static void send_reads(struct rig *rig, int queue)
{
    for (uint16_t cid = 0; cid < READS; cid++) {
        struct nvme_tcp_cmd read = {
            .hdr = {.type = NVME_TCP_CMD, .hlen = 72, .plen = plx_put32(72)},
            .cmd = io(NVME_IO_READ, cid, 0, READ_LEN / 512, READ_LEN, NVME_SGL_TRANSPORT_DATA),
        };
        assert_true(rig_send(rig, queue, &read, sizeof read));
    }
}

/* Opens the disk in a second reactor, which ends the lending of its memory. */
static struct plx_bdev_channel *share(struct rig *rig, struct plx_reactor **second)
{
    struct plx_bdev_channel *ch;
    assert_int_equal(plx_reactor_create(second, NULL), 0);
    assert_int_equal(plx_bdev_channel_get(rig->disk, *second, &ch), 0);
    return ch;
}

/* Receives what the target still has to send. @return bytes, the last of which are in buf */
static size_t drain(struct rig *rig, int fd, uint8_t *buf, size_t max)
{
    size_t total = 0;
    ssize_t n;
    while ((n = rig_receive(rig, fd, buf, max)) > 0)
        total += (size_t)n;
    return total;
}

/* That the target serves others after all this, and stops. */
static void end_shared(struct rig *rig, struct plx_reactor *second, struct plx_bdev_channel *ch, int admin, int queue)
{
    int other_admin, other_queue;
    shut(queue);
    shut(admin);
    assert_true(rig_host(rig, &other_admin, &other_queue));
    shut(other_queue);
    shut(other_admin);
    rig_settle(rig);
    plx_bdev_channel_put(ch);
    rig_stop(rig);
    plx_reactor_destroy(second);
}

static void lent_memory_taken_back_before_it_was_sent_is_answered(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_reactor *second;
    int admin, queue;
    static uint8_t buf[1 << 20], junk[4096];
    size_t before = 0;
    assert_int_equal(rig_start(&rig, "ram:1M"), 0);
    assert_true(rig_host(&rig, &admin, &queue));
    struct tcp_conn *c = NULL;
    struct tcp_group *g = rig.target->groups[0].transport;
    plx_list_for_each(it, &g->conns) {
        struct tcp_conn *each = plx_container_of(it, struct tcp_conn, link);
        if (each->qp.qid)
            c = each;
    }
    assert_non_null(c);
    for (ssize_t n; (n = send(c->stream.fd, junk, sizeof junk, MSG_DONTWAIT)) > 0;)
        before += (size_t)n; /* the socket takes nothing of what follows */
    send_reads(&rig, queue);
    struct plx_bdev_channel *ch = share(&rig, &second);
    for (size_t n; before; before -= n) {
        n = plx_min_u64(before, sizeof buf);
        assert_int_equal(rig_receive(&rig, queue, buf, n), n);
    }
    struct nvme_tcp_resp resp[READS + 1];
    assert_int_equal(rig_receive(&rig, queue, resp, sizeof resp), READS * sizeof resp[0]);
    for (uint16_t cid = 0; cid < READS; cid++) {
        assert_int_equal(resp[cid].hdr.type, NVME_TCP_RESP);
        assert_int_equal(plx_get16(resp[cid].cqe.cid), cid);
        assert_int_equal(plx_get16(resp[cid].cqe.status) >> 1, PLX_SC_COMMAND_INTERRUPTED);
    }
    end_shared(&rig, second, ch, admin, queue);
}

static void lent_memory_taken_back_in_the_middle_ends_the_connection(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_reactor *second;
    int admin, queue;
    static uint8_t buf[1 << 20];
    assert_int_equal(rig_start(&rig, "ram:1M"), 0);
    assert_true(rig_host(&rig, &admin, &queue));
    send_reads(&rig, queue);
    struct plx_bdev_channel *ch = share(&rig, &second);
    size_t got = drain(&rig, queue, buf, sizeof buf);
    assert_in_range(got, 1, (size_t)READS * READ_LEN);
    assert_int_equal(rig_receive(&rig, queue, buf, sizeof buf), -1);
    end_shared(&rig, second, ch, admin, queue);
}

static void over(void *arg, int result)
{
    *(int *)arg = result;
}

static void remove_the_namespace(struct rig *rig, int *result)
{
    struct plx_nvmf_subsystem *s = plx_list_entry(rig->target->subsystems.prev, struct plx_nvmf_subsystem, link);
    *result = 1; /* until it is over */
    assert_int_equal(plx_nvmf_subsystem_remove_ns(s, 1, NULL), 0);
    plx_nvmf_target_apply(rig->target, over, result);
}

/* A read whose data has begun to leave is read to its end, of a disk that lends its memory too. */
static void reads_of_a_namespace_that_is_removed_do_not_end_their_connection(void **state)
{
    (void)state;
    struct rig rig;
    int admin, queue, result;
    static uint8_t buf[READS * (READ_LEN + 48)];
    unsigned whole = 0, ended = 0;
    size_t data = 0;
    assert_int_equal(rig_start(&rig, "ram:1M"), 0);
    assert_true(rig_host(&rig, &admin, &queue));
    send_reads(&rig, queue);
    remove_the_namespace(&rig, &result);
    rig_settle(&rig);
    assert_int_equal(result, 1); /* it waits for what is being sent */
    ssize_t n = rig_receive(&rig, queue, buf, sizeof buf);
    for (ssize_t at = 0; at < n; at += plx_get32(((struct nvme_tcp_hdr *)(void *)(buf + at))->plen)) {
        const struct nvme_tcp_resp *resp = (void *)(buf + at);
        uint16_t status = plx_get16(resp->cqe.status) >> 1;
        if (resp->hdr.type == NVME_TCP_C2H_DATA) {
            data += plx_get32(resp->hdr.plen) - 24;
        } else if (status) {
            assert_int_equal(status, PLX_SC_INVALID_NAMESPACE_OR_FORMAT | NVME_STATUS_DNR);
            ended++;
        } else {
            whole++;
        }
    }
    assert_in_range(data, (size_t)whole * READ_LEN, (size_t)READS * READ_LEN);
    assert_true(whole > 0);
    assert_int_equal(whole + ended, READS);
    assert_int_equal(result, 0);
    assert_int_equal(rig_receive(&rig, queue, buf, 1), 0); /* still there */
    shut(queue);
    shut(admin);
    rig_stop(&rig);
}

static void who_does_not_read_what_was_read_of_a_removed_namespace_has_a_second(void **state)
{
    (void)state;
    struct rig rig;
    int admin, queue, result;
    assert_int_equal(rig_start(&rig, "ram:1M"), 0);
    assert_true(rig_host(&rig, &admin, &queue));
    send_reads(&rig, queue);
    remove_the_namespace(&rig, &result);
    unsigned before = atomic_load(&rig.target->connections);
    pass(&rig, 1000 - 50);
    assert_int_equal(result, 1);
    assert_int_equal(atomic_load(&rig.target->connections), before);
    pass(&rig, 100);
    assert_int_equal(result, 0);
    assert_int_equal(atomic_load(&rig.target->connections), before - 1);
    shut(queue);
    shut(admin);
    rig_stop(&rig);
}

static void a_silent_host_is_dropped_just_when_its_keep_alive_is_over(void **state)
{
    static const uint32_t timeouts[] = {100, 2000, 60000};
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(timeouts); i++) {
        struct rig rig;
        int admin, queue;
        assert_int_equal(rig_start(&rig, "ram:1M"), 0);
        assert_true(rig_host(&rig, &admin, &queue));
        struct nvme_cmd set = {.opcode = NVME_ADMIN_SET_FEATURES,
                               .flags = NVME_PSDT_SGL,
                               .cdw10 = plx_put32(NVME_FEAT_KEEP_ALIVE),
                               .cdw11 = plx_put32(timeouts[i])};
        assert_int_equal(rig_command(&rig, admin, &set, NULL, 0), PLX_SC_SUCCESS);
        struct nvme_cmd keep_alive = {.opcode = NVME_ADMIN_KEEP_ALIVE, .flags = NVME_PSDT_SGL};
        pass(&rig, timeouts[i] + 400);
        assert_int_equal(rig_command(&rig, admin, &keep_alive, NULL, 0), PLX_SC_SUCCESS);
        pass(&rig, timeouts[i] + 480); /* half a second is granted; another may pass until traffic is noticed */
        assert_false(plx_list_empty(&rig.target->ctrlrs));
        pass(&rig, 550);
        assert_true(plx_list_empty(&rig.target->ctrlrs));
        shut(queue);
        shut(admin);
        rig_stop(&rig);
    }
}

/* ---- a disk that hangs, beside one that is well ---- */

enum { HUNG = 2, WELL = 3 };

struct sick {
    struct rig rig;
    struct test_disk *hung, *well;
};

static void applied(void *arg, int result)
{
    assert_int_equal(result, 0);
    *(bool *)arg = true;
}

static struct test_disk *add_disk(struct rig *rig, uint32_t nsid)
{
    struct test_disk *d = test_disk_new();
    struct plx_nvmf_subsystem *s = plx_list_entry(rig->target->subsystems.prev, struct plx_nvmf_subsystem, link);
    const uint8_t uuid[16] = {(uint8_t)nsid};
    const struct plx_nvmf_ns_opts opts = {.nsid = nsid, .uuid = uuid};
    d->bdev.info.write_cache = false;
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, &d->bdev, &opts, NULL), nsid);
    return d;
}

static void open_sick(struct sick *k)
{
    bool done = false;
    assert_int_equal(rig_start(&k->rig, "ram:1M"), 0);
    k->hung = add_disk(&k->rig, HUNG);
    k->hung->ignores_aborts = true;
    k->well = add_disk(&k->rig, WELL);
    plx_nvmf_target_apply(k->rig.target, applied, &done);
    rig_settle(&k->rig);
    assert_true(done);
}

/* What the disk had is nobody's by now, and comes back all the same. */
static void close_sick(struct sick *k)
{
    struct tcp_group *g = k->rig.target->groups[0].transport;
    pass(&k->rig, NVMF_ORPHAN_MS + 1000);
    assert_true(plx_list_empty(&k->rig.target->ctrlrs));
    assert_int_equal(k->rig.target->connections, 0);
    while (test_disk_end(k->hung, PLX_SC_SUCCESS))
        continue;
    assert_int_equal(k->rig.target->groups[0].reqs_in_use, 0);
    for (unsigned i = 0; i < TCP_WAIT_CLASSES; i++)
        assert_int_equal(g->class_bytes[i], 0);
    assert_int_equal(plx_buf_free_bytes(k->rig.reactor), plx_buf_total_bytes(k->rig.reactor));
    rig_stop(&k->rig);
    plx_bdev_close(&k->hung->bdev);
    plx_bdev_close(&k->well->bdev);
}

/* Many writes at once: the target learns whose they are when it has received them. */
static void send_writes(struct rig *rig, int fd, unsigned n)
{
    static uint8_t all[30 * (72 + 4096)];
    for (uint16_t cid = 0; cid < n; cid++) {
        struct nvme_tcp_cmd pdu = {.hdr = {.type = NVME_TCP_CMD, .hlen = 72, .pdo = 72, .plen = plx_put32(72 + 4096)},
                                   .cmd = io(NVME_IO_WRITE, cid, 0, 8, 4096, NVME_SGL_DATA_BLOCK_OFFSET)};
        pdu.cmd.nsid = plx_put32(HUNG);
        memcpy(all + cid * (72 + 4096), &pdu, sizeof pdu);
    }
    assert_true(rig_send(rig, fd, all, n * (72 + 4096)));
}

static void send_io(struct rig *rig, int fd, uint8_t opcode, uint16_t cid, uint32_t nsid, uint32_t len)
{
    static const uint8_t data[4096];
    bool in_capsule = opcode == NVME_IO_WRITE;
    uint32_t capsule = in_capsule ? len : 0;
    struct nvme_tcp_cmd pdu = {
        .hdr = {.type = NVME_TCP_CMD, .hlen = 72, .pdo = in_capsule ? 72 : 0, .plen = plx_put32(72 + capsule)},
        .cmd = io(opcode, cid, 0, len / 512, len, in_capsule ? NVME_SGL_DATA_BLOCK_OFFSET : NVME_SGL_TRANSPORT_DATA)};
    pdu.cmd.nsid = plx_put32(nsid);
    assert_true(rig_send(rig, fd, &pdu, sizeof pdu));
    if (in_capsule)
        assert_true(rig_send(rig, fd, data, capsule));
}

static void vanish_again_and_again(bool at_once)
{
    enum { HOSTS = 250, WRITES = 30 }; /* many more than there are buffers */
    struct sick k;
    int admin, queue;
    uint8_t answer[24];
    open_sick(&k);
    for (int i = 0; i < HOSTS; i++) {
        assert_true(rig_host(&k.rig, &admin, &queue));
        if (at_once)
            send_writes(&k.rig, queue, WRITES);
        for (uint16_t cid = 0; cid < WRITES && !at_once; cid++)
            send_io(&k.rig, queue, NVME_IO_WRITE, cid, HUNG, 4096);
        if (!at_once) /* what is too much is not received, rather than refused */
            assert_int_equal(rig_receive(&k.rig, queue, answer, sizeof answer), 0);
        shut(queue);
        shut(admin);
        pass(&k.rig, NVMF_ORPHAN_MS + 1000);
        assert_true(plx_list_empty(&k.rig.target->ctrlrs)); /* let go of, though its writes never ended */
    }
    assert_true(k.hung->seen > 1000);
    assert_true(plx_buf_free_bytes(k.rig.reactor) >= plx_buf_total_bytes(k.rig.reactor) / TCP_RESERVE / 2);
    assert_true(rig_host(&k.rig, &admin, &queue));
    for (uint16_t cid = 0; cid < WRITES; cid++)
        send_io(&k.rig, queue, NVME_IO_WRITE, cid, WELL, 4096);
    assert_int_equal(k.well->seen, WRITES);
    while (test_disk_end(k.well, PLX_SC_SUCCESS))
        rig_settle(&k.rig);
    shut(queue);
    shut(admin);
    close_sick(&k);
}

static void hosts_that_write_to_a_hung_disk_and_vanish_leave_memory_for_others(void **state)
{
    (void)state;
    vanish_again_and_again(false);
}

static void hosts_that_write_much_at_once_to_a_hung_disk_leave_memory_for_others(void **state)
{
    (void)state;
    vanish_again_and_again(true);
}

static void who_waits_for_a_hung_disk_stands_in_nobody_s_way(void **state)
{
    enum { HOSTS = 8, EACH = 16, LEN = 128 << 10 };
    struct sick k;
    int admin[HOSTS], queue[HOSTS];
    (void)state;
    open_sick(&k);
    for (int i = 0; i < HOSTS; i++) {
        assert_true(rig_host(&k.rig, &admin[i], &queue[i]));
        for (uint16_t cid = 0; cid < (i == HOSTS - 1 ? 1 : EACH); cid++)
            send_io(&k.rig, queue[i], NVME_IO_READ, cid, HUNG, LEN);
    }
    assert_true(k.hung->seen < (HOSTS - 1) * EACH); /* its share; the rest waits */
    send_io(&k.rig, queue[HOSTS - 1], NVME_IO_READ, EACH, WELL, LEN);
    assert_true(test_disk_end(k.well, PLX_SC_SUCCESS));
    for (int i = 0; i < HOSTS; i++) {
        shut(queue[i]);
        shut(admin[i]);
    }
    close_sick(&k);
}

static void the_largest_transfer_fits_the_buffers_of_every_reactor(void **state)
{
    const struct plx_reactor_opts large = {.core = -1, .buffer_max = 4 << 20}, small = {.core = -1};
    const struct plx_nvmf_opts opts = {.max_io_size = 4 << 20};
    struct plx_reactor *r[3];
    struct plx_nvmf_target *target;
    struct plx_error err = {""};
    (void)state;
    assert_int_equal(plx_reactor_create(&r[0], &large), 0);
    assert_int_equal(plx_reactor_create(&r[1], &large), 0);
    assert_int_equal(plx_reactor_create(&r[2], &small), 0);
    assert_int_equal(plx_nvmf_target_create(&target, r, 3, &opts, &err), -EINVAL);
    assert_non_null(strstr(err.text, "from 4K to 1048576, not 4194304"));
    assert_int_equal(plx_nvmf_target_create(&target, r, 2, &opts, &err), 0);
    plx_nvmf_target_destroy(target);
    for (int i = 0; i < 3; i++)
        plx_reactor_destroy(r[i]);
}

enum { DISKS = 300 };

static void default_nqn(const char *last, char nqn[PLX_NVMF_NQN_SIZE])
{
    struct plx_bdev *disks[DISKS];
    for (unsigned i = 0; i < DISKS; i++)
        assert_int_equal(plx_bdev_open(i == DISKS - 1 ? last : "null:1T?block=4096", &disks[i], NULL), 0);
    assert_int_equal(plx_nvmf_default_nqn(disks, DISKS, nqn, NULL), 0);
    for (unsigned i = 0; i < DISKS; i++)
        plx_bdev_close(disks[i]);
}

static void the_default_nqn_is_made_from_all_disks_and_nothing_else(void **state)
{
    (void)state;
    char one[PLX_NVMF_NQN_SIZE], two[PLX_NVMF_NQN_SIZE];
    default_nqn("null:1T", one);
    default_nqn("null:1T", two);
    assert_string_equal(one, two);
    default_nqn("null:2T", two);
    assert_string_not_equal(one, two);
}

static void disks_of_one_identity_are_not_in_one_subsystem(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_error err = {""};
    struct plx_bdev *twin, *other;
    struct plx_nvmf_subsystem *s, *second;
    const struct plx_nvmf_subsystem_opts opts = {.nqn = "nqn.2014-08.org.nvmexpress:one"},
                                         opts2 = {.nqn = "nqn.2014-08.org.nvmexpress:two"};
    struct plx_nvmf_target *t;
    assert_int_equal(rig_start(&rig, "ram:1M?uuid=01234567-89ab-cdef-0123-456789abcdef"), 0);
    assert_int_equal(plx_bdev_open("null:1M?uuid=01234567-89ab-cdef-0123-456789abcdef", &twin, NULL), 0);
    assert_int_equal(plx_bdev_open("null:1M?uuid=01234567-89ab-cdef-0123-456789abcdee", &other, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&t, &rig.reactor, 1, NULL, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_create(t, &opts, &s, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_create(t, &opts2, &second, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, rig.disk, &(struct plx_nvmf_ns_opts){.nsid = 7}, NULL), 7);
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, twin, NULL, &err), -EEXIST);
    assert_non_null(strstr(err.text, "ram:1M and null:1M have one UUID"));
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, rig.disk, &(struct plx_nvmf_ns_opts){.nsid = 8}, &err), -EEXIST);
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, other, NULL, NULL), 1);
    const uint8_t id[16] = {1};
    assert_int_equal(plx_nvmf_subsystem_add_ns(second, other, &(struct plx_nvmf_ns_opts){.nguid = id}, NULL), 1);
    assert_int_equal(plx_nvmf_subsystem_add_ns(second, twin, &(struct plx_nvmf_ns_opts){.nguid = id}, &err), -EEXIST);
    assert_non_null(strstr(err.text, "have one NGUID"));
    assert_int_equal(plx_nvmf_subsystem_remove_ns(second, 1, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(second, other, &(struct plx_nvmf_ns_opts){.eui64 = id}, NULL), 1);
    assert_int_equal(plx_nvmf_subsystem_add_ns(second, twin, &(struct plx_nvmf_ns_opts){.eui64 = id}, &err), -EEXIST);
    assert_non_null(strstr(err.text, "have one EUI64"));
    assert_int_equal(plx_nvmf_subsystem_remove_ns(second, 1, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(second, twin, NULL, NULL), 1);
    plx_nvmf_target_destroy(t);
    plx_bdev_close(twin);
    plx_bdev_close(other);
    rig_stop(&rig);
}

static void a_referral_is_the_same_however_its_address_is_written(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_error err = {""};
    struct plx_nvmf_target *t;
    assert_int_equal(rig_start(&rig, "ram:1M"), 0);
    assert_int_equal(plx_nvmf_target_create(&t, &rig.reactor, 1, NULL, NULL), 0);
    assert_int_equal(plx_nvmf_referral_add(t, "2001:DB8:0::1", 8009, NULL), 0);
    assert_string_equal(t->referrals[0].addr, "2001:db8::1");
    assert_int_equal(plx_nvmf_referral_add(t, "[2001:db8::1]:8009", 1, &err), -EEXIST);
    assert_string_equal(err.text, "hosts are referred to 2001:db8::1 port 8009 already");
    assert_int_equal(plx_nvmf_referral_add(t, "192.0.2.1:4420", 8009, NULL), 0);
    assert_int_equal(t->referrals[1].port, 4420);
    assert_int_equal(plx_nvmf_referral_add(t, "fe80::1%lo", 8009, NULL), 0);
    assert_string_equal(t->referrals[2].addr, "fe80::1"); /* the name of a link is no business of others */
    assert_int_equal(plx_nvmf_referral_add(t, "192.0.2.1", 0, &err), -EINVAL);
    assert_non_null(strstr(err.text, "1 to 65535"));
    assert_int_equal(plx_nvmf_referral_add(t, "224.0.0.1", 8009, &err), -EINVAL);
    assert_non_null(strstr(err.text, "multicast"));
    assert_int_equal(plx_nvmf_referral_remove(t, "192.0.2.1", 8009, &err), -ENOENT);
    assert_int_equal(plx_nvmf_referral_remove(t, "::ffff:192.0.2.1", 4420, NULL), 0);
    assert_int_equal(plx_nvmf_referral_remove(t, "2001:db8::1", 8009, NULL), 0);
    assert_int_equal(t->nreferrals, 1);
    plx_nvmf_target_destroy(t);
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
    bool gone = plx_list_empty(&rig.target->ctrlrs) && rig.target->connections == 0;
    rig_stop(&rig);
    return gone;
}

static int knock(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int ret = connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ? -errno : 0;
    close(fd);
    return ret;
}

static void a_listener_that_was_removed_hears_nobody_after_a_stop(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_nvmf_listener *l;
    int result = 1;
    assert_int_equal(rig_start(&rig, "ram:1M"), 0);
    assert_int_equal(plx_nvmf_listen(rig.target, "127.0.0.1", 0, &l, NULL), 0);
    uint16_t port = plx_nvmf_listener_port(l);
    plx_nvmf_target_apply(rig.target, over, &result);
    rig_settle(&rig);
    assert_int_equal(result, 0);
    assert_int_equal(knock(port), 0);
    rig_settle(&rig);
    plx_nvmf_listener_remove(l); /* and nobody applies it */
    result = 1;
    plx_nvmf_target_stop(rig.target, 100, over, &result);
    while (result == 1)
        plx_reactor_poll(rig.reactor);
    assert_int_equal(knock(port), -ECONNREFUSED);
    rig_settle(&rig);
    plx_nvmf_target_destroy(rig.target);
    plx_reactor_destroy(rig.reactor);
    plx_bdev_close(rig.disk);
}

static char last_error[256];

static void keep_error(void *arg, enum plx_log_level level, const char *line)
{
    (void)arg, (void)level;
    snprintf(last_error, sizeof last_error, "%s", line);
}

static void a_listener_that_cannot_listen_is_told_and_not_advertised(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_nvmf_listener *l;
    int result = 1, one = 1, other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(rig_start(&rig, "ram:1M"), 0);
    assert_int_equal(plx_nvmf_listen(rig.target, "127.0.0.1", 0, &l, NULL), 0);
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(plx_nvmf_listener_port(l)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    assert_int_equal(bind(other, (struct sockaddr *)&to, sizeof to), 0); /* both are bound, and one can listen */
    assert_int_equal(listen(other, 1), 0);
    plx_log_set(keep_error, NULL, PLX_LOG_ERROR);
    plx_nvmf_target_apply(rig.target, over, &result);
    rig_settle(&rig);
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
    assert_int_equal(result, -EADDRINUSE);
    assert_non_null(strstr(last_error, "another process does, choose another port"));
    assert_int_equal(rig.target->snap->nlisteners, 0);
    close(other);
    rig_stop(&rig);
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
        cmocka_unit_test(lent_memory_taken_back_before_it_was_sent_is_answered),
        cmocka_unit_test(lent_memory_taken_back_in_the_middle_ends_the_connection),
        cmocka_unit_test(reads_of_a_namespace_that_is_removed_do_not_end_their_connection),
        cmocka_unit_test(who_does_not_read_what_was_read_of_a_removed_namespace_has_a_second),
        cmocka_unit_test(a_silent_host_is_dropped_just_when_its_keep_alive_is_over),
        cmocka_unit_test(hosts_that_write_to_a_hung_disk_and_vanish_leave_memory_for_others),
        cmocka_unit_test(hosts_that_write_much_at_once_to_a_hung_disk_leave_memory_for_others),
        cmocka_unit_test(who_waits_for_a_hung_disk_stands_in_nobody_s_way),
        cmocka_unit_test(the_largest_transfer_fits_the_buffers_of_every_reactor),
        cmocka_unit_test(the_default_nqn_is_made_from_all_disks_and_nothing_else),
        cmocka_unit_test(disks_of_one_identity_are_not_in_one_subsystem),
        cmocka_unit_test(a_referral_is_the_same_however_its_address_is_written),
        cmocka_unit_test(a_listener_that_was_removed_hears_nobody_after_a_stop),
        cmocka_unit_test(a_listener_that_cannot_listen_is_told_and_not_advertised),
        cmocka_unit_test(start_and_connect_survive_every_failed_allocation),
    };
    return cmocka_run_group_tests_name("nvmf", tests, NULL, NULL);
}
