/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests to a disk of another process, against a device that takes and ends them as the test has it. */
#include "bdev_util.h"
#include "vu_fake.h"

#include "base/util.h"
#include "reactor/eventfd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BLOCK = 512, KIB = 1024 };

static struct fake fake;
static struct tu t;

static int fake_up(void **state)
{
    (void)state;
    fake_open(&fake);
    return 0;
}

static int fake_down(void **state)
{
    (void)state;
    fake_close(&fake);
    return 0;
}

static void open_with(const char *settings)
{
    char url[256];
    snprintf(url, sizeof url, "%s%s", fake.url, settings);
    tu_open(&t, url);
}

/* The next request that the device gets. */
static void take_from(struct tu *from, unsigned ring, struct fake_req *req)
{
    alarm(60); /* ends the test: it hangs */
    while (!fake_take(&fake, ring, req))
        tu_turn(from->reactor);
    alarm(0);
}

static void take(struct fake_req *req)
{
    take_from(&t, 0, req);
}

static bool has_more(void)
{
    struct fake_req req;
    for (unsigned i = 0; i < 3; i++)
        plx_reactor_poll(t.reactor);
    return fake_take(&fake, 0, &req);
}

static void connected_again(struct tu *by, unsigned connections)
{
    alarm(60);
    while (fake.connections < connections)
        tu_turn(by->reactor);
    alarm(0);
}

/* Runs until the back-end has that memory. */
static void until_given(const void *mem)
{
    alarm(60);
    while (!fake_has(&fake, mem, 1))
        tu_turn(t.reactor);
    for (unsigned i = 0; i < 100; i++) /* the answer, and what the channel is told */
        plx_reactor_poll(t.reactor);
    alarm(0);
}

static void start_read(struct tu_req *q, uint64_t lba, uint32_t nlb, void *data)
{
    tu_req_init(q);
    tu_start(&t, q, PLX_BDEV_READ, lba, nlb, data);
}

/* ---- parts ---- */

enum { PIECES = 6 };

/* Pieces of memory that are no whole blocks, and more than a request to the device may have. */
static void check_pieces(uint8_t *mem, bool direct)
{
    static const size_t sizes[PIECES] = {100, 1000, 400, 548, 2000, 48};
    struct iovec iov[PIECES];
    struct tu_req q;
    uint64_t sector = 8;
    uint8_t byte = 1;
    tu_req_init(&q);
    for (unsigned i = 0; i < PIECES; i++)
        iov[i] = (struct iovec){mem + i * 2500, sizes[i]};
    q.req->iov = iov;
    q.req->iovcnt = PIECES;
    tu_start(&t, &q, PLX_BDEV_READ, sector, 4096 / BLOCK, NULL);
    while (sector < 16) {
        struct fake_req req;
        size_t bytes = 0;
        take(&req);
        assert_int_equal(plx_get32(req.header.type), VIO_T_IN);
        assert_int_equal(plx_get64(req.header.sector), sector);
        assert_true(req.nsegs <= 3);
        for (unsigned i = 0; i < req.nsegs; i++) {
            uint8_t *p = req.segs[i].iov_base;
            assert_int_equal(p >= mem && p < mem + PIECES * 2500, direct);
            assert_true(req.writable[i]);
            for (size_t b = 0; b < req.segs[i].iov_len; b++)
                p[b] = byte++;
            bytes += req.segs[i].iov_len;
        }
        assert_int_equal(bytes % BLOCK, 0);
        sector += bytes / BLOCK;
        fake_finish(&fake, &req, VIO_S_OK);
    }
    assert_int_equal(tu_finish(&t, &q), 0);
    byte = 1;
    for (unsigned i = 0; i < PIECES; i++)
        for (size_t b = 0; b < sizes[i]; b++)
            assert_int_equal(((uint8_t *)iov[i].iov_base)[b], byte++);
    tu_req_free(&q);
}

static void test_requests_of_many_pieces_go_in_whole_blocks(void **state)
{
    (void)state;
    uint8_t *mem = plx_shared_alloc(PIECES * 2500);
    open_with("");
    check_pieces(mem, true); /* it was there when the disk was opened */
    tu_close(&t);
    plx_shared_free(mem);
}

static void test_requests_in_memory_of_our_own_are_bounced(void **state)
{
    (void)state;
    uint8_t *mem = malloc(PIECES * 2500);
    open_with("");
    check_pieces(mem, false);
    tu_close(&t);
    free(mem);
}

static void test_zeroes_are_written_in_parts_that_the_device_takes(void **state)
{
    struct tu_req q;
    uint64_t at = 100;
    (void)state;
    open_with("");
    tu_req_init(&q);
    tu_start(&t, &q, PLX_BDEV_WRITE_ZEROES, at, 2500, NULL);
    while (at < 2600) {
        struct fake_req req;
        struct vio_range range;
        take(&req);
        assert_int_equal(plx_get32(req.header.type), VIO_T_WRITE_ZEROES);
        memcpy(&range, req.segs[0].iov_base, sizeof range);
        assert_int_equal(plx_get64(range.sector), at);
        assert_true(plx_get32(range.nsectors) <= 1000);
        at += plx_get32(range.nsectors);
        fake_finish(&fake, &req, VIO_S_OK);
    }
    assert_int_equal(tu_finish(&t, &q), 0);
    tu_req_free(&q);
    tu_close(&t);
}

static void test_the_first_error_of_parts_is_that_of_the_whole(void **state)
{
    struct fake_req req;
    struct tu_req q;
    (void)state;
    open_with("?depth=1");
    tu_req_init(&q);
    tu_start(&t, &q, PLX_BDEV_WRITE_ZEROES, 0, 2500, NULL);
    take(&req);
    fake_finish(&fake, &req, VIO_S_IOERR);
    assert_int_equal(tu_finish(&t, &q), PLX_SC_WRITE_FAULT);
    assert_false(has_more()); /* the others are not sent */
    tu_req_free(&q);
    tu_close(&t);
}

static void test_who_came_first_goes_first(void **state)
{
    static uint8_t data[5][200 * KIB];
    struct tu_req q[5];
    struct fake_req req;
    uint64_t next[5] = {0, 1000, 2000, 3000, 4000};
    (void)state;
    open_with("?depth=2");
    for (unsigned i = 0; i < 5; i++)
        start_read(&q[i], i * 1000, 200 * KIB / BLOCK, data[i]); /* four parts each */
    for (unsigned i = 0; i < 5 * 4; i++) {
        take(&req);
        unsigned of = (unsigned)(plx_get64(req.header.sector) / 1000);
        assert_int_equal(of, i / 4);
        assert_int_equal(plx_get64(req.header.sector), next[of]);
        for (unsigned s = 0; s < req.nsegs; s++)
            next[of] += req.segs[s].iov_len / BLOCK;
        fake_finish(&fake, &req, VIO_S_OK);
    }
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(tu_finish(&t, &q[i]), 0);
        tu_req_free(&q[i]);
    }
    tu_close(&t);
}

/* Large requests wait for buffers, while there are slots. */
static void test_a_small_request_does_not_overtake_those_that_wait(void **state)
{
    enum { N = 18 };
    static uint8_t data[N][64 * KIB];
    struct tu_req q[N];
    struct fake_req req;
    (void)state;
    open_with("");
    for (unsigned i = 0; i < N; i++)
        start_read(&q[i], i * 128, i + 1 < N ? 128 : 8, data[i]);
    for (unsigned i = 0; i < N; i++) {
        take(&req);
        assert_int_equal(plx_get64(req.header.sector), i * 128);
        fake_finish(&fake, &req, VIO_S_OK);
    }
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(tu_finish(&t, &q[i]), 0);
        tu_req_free(&q[i]);
    }
    tu_close(&t);
}

/* ---- ends before their time ---- */

static void test_what_waits_can_be_aborted_and_what_the_device_has_cannot(void **state)
{
    static uint8_t data[2][4096];
    struct tu_req q[2];
    struct fake_req req;
    (void)state;
    open_with("?depth=1");
    start_read(&q[0], 0, 8, data[0]);
    start_read(&q[1], 8, 8, data[1]);
    take(&req);
    plx_bdev_abort(t.ch, q[1].req);
    assert_int_equal(q[1].done, 1);
    assert_int_equal(q[1].req->status, PLX_SC_ABORTED_BY_REQUEST);
    memset(q[1].req, 0xff, sizeof *q[1].req); /* is not looked at any more */
    plx_bdev_abort(t.ch, q[0].req);
    assert_int_equal(q[0].done, 0);
    fake_finish(&fake, &req, VIO_S_OK);
    assert_int_equal(tu_finish(&t, &q[0]), 0);
    assert_false(has_more());
    tu_req_free(&q[0]);
    tu_req_free(&q[1]);
    tu_close(&t);
}

static void test_a_request_alone_is_shown_at_once_and_others_together(void **state)
{
    struct fake_req first, more;
    struct tu_req q[3];
    static uint8_t data[3][4096];
    (void)state;
    open_with("");
    plx_reactor_poll(t.reactor);
    start_read(&q[0], 0, 8, data[0]);
    assert_true(fake_take(&fake, 0, &first)); /* before the reactor has turned */
    start_read(&q[1], 8, 8, data[1]);
    start_read(&q[2], 16, 8, data[2]);
    assert_false(fake_take(&fake, 0, &more));
    fake_finish(&fake, &first, VIO_S_OK);
    for (unsigned i = 1; i < 3; i++) {
        take(&more);
        fake_finish(&fake, &more, VIO_S_OK);
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(tu_finish(&t, &q[i]), 0);
        tu_req_free(&q[i]);
    }
    tu_close(&t);
}

/* The front-end sees the connection break, and that nobody listens. */
static void cut_off(void)
{
    char elsewhere[80];
    snprintf(elsewhere, sizeof elsewhere, "%s.away", fake.path);
    assert_int_equal(rename(fake.path, elsewhere), 0);
    fake_cut(&fake);
    alarm(60);
    while (fake.sock >= 0)
        tu_turn(t.reactor);
    for (unsigned i = 0; i < 5; i++)
        tu_turn(t.reactor);
    alarm(0);
}

static void let_back(void)
{
    char elsewhere[80];
    snprintf(elsewhere, sizeof elsewhere, "%s.away", fake.path);
    assert_int_equal(rename(elsewhere, fake.path), 0);
}

/* Its memory is another's then: a device that has a record of it must find nothing there that it could do. */
static void test_what_a_dead_device_had_can_be_aborted(void **state)
{
    struct fake_req req;
    struct tu_req q;
    (void)state;
    uint8_t *mem = plx_shared_alloc(4096);
    open_with("?depth=1"); /* whose one slot is free again in the end */
    start_read(&q, 0, 8, mem);
    take(&req);
    assert_ptr_equal(req.segs[0].iov_base, mem);
    cut_off();
    plx_bdev_abort(t.ch, q.req);
    assert_int_equal(q.done, 1);
    assert_int_equal(q.req->status, PLX_SC_ABORTED_BY_REQUEST);
    fake.rings[0].taken--; /* what the next device reads by the record of the last one */
    assert_true(fake_take(&fake, 0, &req));
    assert_int_equal(plx_get32(req.header.type), VIO_T_NONE);
    assert_ptr_not_equal(req.segs[0].iov_base, mem);
    let_back();
    connected_again(&t, 2);
    memset(mem, 7, 4096);
    tu_req_free(&q);
    start_read(&q, 8, 8, mem);
    take(&req);
    assert_int_equal(plx_get64(req.header.sector), 8); /* the ring has begun anew, without the other */
    fake_finish(&fake, &req, VIO_S_OK);
    assert_int_equal(tu_finish(&t, &q), 0);
    tu_req_free(&q);
    tu_close(&t);
    plx_shared_free(mem);
}

static void test_what_a_dead_device_had_is_given_to_the_next(void **state)
{
    static uint8_t data[4][4096];
    struct fake_req req;
    struct tu_req q[4];
    unsigned seen = 0;
    (void)state;
    open_with("?depth=2");
    for (unsigned i = 0; i < 4; i++)
        start_read(&q[i], i * 8, 8, data[i]);
    take(&req);
    take(&req);
    fake_cut(&fake);
    connected_again(&t, 2);
    for (unsigned i = 0; i < 4; i++) {
        take(&req);
        seen |= 1u << plx_get64(req.header.sector) / 8;
        fake_finish(&fake, &req, VIO_S_OK);
    }
    assert_int_equal(seen, 15);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(tu_finish(&t, &q[i]), 0);
        tu_req_free(&q[i]);
    }
    tu_close(&t);
}

static void test_a_reset_waits_for_what_the_device_has(void **state)
{
    static uint8_t data[2][4096];
    struct tu_req q[2], reset;
    struct fake_req req;
    (void)state;
    open_with("?depth=1");
    start_read(&q[0], 0, 8, data[0]);
    start_read(&q[1], 8, 8, data[1]);
    take(&req);
    tu_req_init(&reset);
    tu_start(&t, &reset, PLX_BDEV_RESET, 0, 0, NULL);
    assert_int_equal(q[1].done, 1);
    assert_int_equal(reset.done, 0);
    fake_finish(&fake, &req, VIO_S_OK);
    assert_int_equal(tu_finish(&t, &reset), 0);
    assert_int_equal(q[0].done, 1);
    tu_req_free(&q[0]);
    tu_req_free(&q[1]);
    tu_req_free(&reset);
    tu_close(&t);
}

/* ---- reactors come and go ---- */

static void read_by(struct tu *by, unsigned ring)
{
    static uint8_t data[4096];
    struct fake_req req;
    struct tu_req q;
    tu_req_init(&q);
    tu_start(by, &q, PLX_BDEV_READ, 0, 8, data);
    take_from(by, ring, &req);
    fake_finish(&fake, &req, VIO_S_OK);
    assert_int_equal(tu_finish(by, &q), 0);
    tu_req_free(&q);
}

static void test_the_connection_goes_on_with_another_reactor(void **state)
{
    struct tu second, third;
    (void)state;
    open_with("");
    tu_join(&second, t.bdev);
    read_by(&second, 1);
    tu_leave(&t); /* whose the connection was */
    read_by(&second, 1);
    fake_cut(&fake);
    connected_again(&second, 2);
    read_by(&second, 1);
    tu_join(&third, second.bdev);
    read_by(&third, 0); /* the ring that has become free */
    tu_leave(&third);
    tu_close(&second);
}

static void test_a_disk_that_nobody_used_meanwhile_is_connected_to_again(void **state)
{
    struct tu later;
    (void)state;
    open_with("");
    struct plx_bdev *bdev = t.bdev;
    read_by(&t, 0);
    tu_leave(&t);
    fake_cut(&fake);
    tu_join(&later, bdev);
    connected_again(&later, 2);
    read_by(&later, 0);
    tu_close(&later);
}

static void test_there_are_no_more_reactors_than_queues(void **state)
{
    struct plx_bdev_channel *ch;
    struct plx_reactor *r;
    struct plx_error err;
    struct tu second;
    (void)state;
    open_with("?queues=2");
    assert_int_equal(plx_bdev_check_reactors(t.bdev, 2, &err), 0);
    assert_int_equal(plx_bdev_check_reactors(t.bdev, 3, &err), -EBUSY);
    assert_non_null(strstr(err.text, "has 2 queues, one for each core that uses it, and not 3"));
    tu_join(&second, t.bdev);
    assert_int_equal(plx_reactor_create(&r, NULL), 0);
    assert_int_equal(plx_bdev_channel_get(t.bdev, r, &ch), -EBUSY);
    tu_leave(&second);
    assert_int_equal(plx_bdev_channel_get(t.bdev, r, &ch), 0);
    plx_bdev_channel_put(ch);
    plx_reactor_destroy(r);
    tu_close(&t);
}

/* ---- memory ---- */

/* Where the device finds the data of a read into mem. */
static void *place_of(void *mem)
{
    struct fake_req req;
    struct tu_req q;
    start_read(&q, 0, 8, mem);
    take(&req);
    void *place = req.segs[0].iov_base;
    fake_finish(&fake, &req, VIO_S_OK);
    assert_int_equal(tu_finish(&t, &q), 0);
    tu_req_free(&q);
    return place;
}

static void test_memory_is_given_to_the_device_when_it_is_used(void **state)
{
    (void)state;
    open_with("");
    uint8_t *mem = plx_shared_alloc(64 * KIB);
    assert_ptr_not_equal(place_of(mem), mem);
    until_given(mem);
    assert_ptr_equal(place_of(mem), mem);
    assert_ptr_equal(place_of(mem + 60 * KIB), mem + 60 * KIB);
    tu_close(&t);
    plx_shared_free(mem);
}

/* The same addresses, and another file: what the device has there is not what we have. */
static void test_other_memory_at_the_same_addresses_is_another(void **state)
{
    (void)state;
    open_with("");
    uint8_t *mem = plx_shared_alloc(64 * KIB);
    place_of(mem);
    until_given(mem);
    plx_shared_free(mem);
    uint8_t *again = plx_shared_alloc(64 * KIB);
    if (again != mem) {
        tu_close(&t);
        plx_shared_free(again);
        skip();
    }
    assert_ptr_not_equal(place_of(again), again);
    alarm(60);
    while (!fake.messages[VU_REM_MEM_REG] || fake.messages[VU_ADD_MEM_REG] < 2)
        tu_turn(t.reactor);
    until_given(again);
    assert_ptr_equal(place_of(again), again);
    tu_close(&t);
    plx_shared_free(again);
}

static void test_more_memory_than_the_device_is_given_is_bounced(void **state)
{
    uint8_t *mem[10];
    unsigned direct = 0;
    (void)state;
    open_with("");
    for (unsigned i = 0; i < 10; i++)
        mem[i] = plx_shared_alloc(4096);
    place_of(mem[0]);
    until_given(mem[0]);
    until_given(mem[6]);
    for (unsigned i = 0; i < 10; i++)
        direct += place_of(mem[i]) == mem[i];
    assert_int_equal(direct, VU_TABLE_MAX - 1);
    tu_close(&t);
    for (unsigned i = 0; i < 10; i++)
        plx_shared_free(mem[i]);
}

static void test_memory_is_there_again_when_the_connection_is(void **state)
{
    struct fake_req req;
    struct tu_req q;
    (void)state;
    open_with("");
    uint8_t *mem = plx_shared_alloc(64 * KIB);
    place_of(mem);
    until_given(mem);
    start_read(&q, 0, 8, mem);
    take(&req);
    fake_cut(&fake);
    connected_again(&t, 2);
    take(&req); /* which looks whether the device has all of its memory */
    assert_ptr_equal(req.segs[0].iov_base, mem);
    fake_finish(&fake, &req, VIO_S_OK);
    assert_int_equal(tu_finish(&t, &q), 0);
    tu_req_free(&q);
    tu_close(&t);
    plx_shared_free(mem);
}

/* ---- sleeping ---- */

/* A reactor that is armed is called, and one that is awake is not. */
static void test_the_device_wakes_a_reactor_that_sleeps(void **state)
{
    struct fake_req req;
    struct tu_req q;
    static uint8_t data[4096];
    (void)state;
    open_with("");
    start_read(&q, 0, 8, data);
    take(&req);
    while (plx_reactor_poll(t.reactor) || plx_reactor_arm(t.reactor))
        ;
    plx_reactor_poll(t.reactor);
    const struct vio_avail *avail = (void *)(uintptr_t)fake.rings[0].addr.avail;
    assert_int_equal(plx_get16(avail->ring[fake.rings[0].num]), 0xffff);
    while (plx_reactor_poll(t.reactor) || plx_reactor_arm(t.reactor))
        ;
    assert_int_equal(plx_get16(avail->ring[fake.rings[0].num]), 0);
    fake_finish(&fake, &req, VIO_S_OK);
    struct pollfd p = {.fd = plx_reactor_fd(t.reactor), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 10000), 1);
    assert_int_equal(tu_finish(&t, &q), 0);
    tu_req_free(&q);
    tu_close(&t);
}

/* As full as can be: who writes to it waits, for that is how the device has it. */
static void fill(int fd)
{
    const uint64_t full = UINT64_MAX - 1;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    plx_eventfd_hear(fd);
    assert_int_equal(write(fd, &full, sizeof full), sizeof full);
    fcntl(fd, F_SETFL, 0);
}

/* Emulators of other machines (qemu-user) have none, and then nothing can be done about it: see plx_eventfd_tell(). */
static bool has_aio(void)
{
    unsigned long context = 0;
    return syscall(SYS_io_setup, 1, &context) == 0 && syscall(SYS_io_destroy, context) == 0;
}

static void test_a_device_that_fills_our_descriptors_holds_nobody_up(void **state)
{
    struct fake_req req;
    struct tu_req q;
    static uint8_t data[4096];
    (void)state;
    if (!has_aio())
        skip();
    open_with("");
    plx_reactor_poll(t.reactor);
    fill(fake.rings[0].kick);
    start_read(&q, 0, 8, data);
    take(&req); /* it was kicked, or would have been */
    fake_finish(&fake, &req, VIO_S_OK);
    assert_int_equal(tu_finish(&t, &q), 0);
    tu_req_free(&q);
    uint8_t *mem = plx_shared_alloc(64 * KIB);
    start_read(&q, 0, 8, mem); /* the channel is told of this memory by the other one */
    fill(fake.rings[0].call);
    take(&req);
    until_given(mem);
    fake_finish(&fake, &req, VIO_S_OK);
    assert_int_equal(tu_finish(&t, &q), 0);
    tu_req_free(&q);
    tu_close(&t);
    plx_shared_free(mem);
}

#define IT(name) cmocka_unit_test_setup_teardown(test_##name, fake_up, fake_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IT(requests_of_many_pieces_go_in_whole_blocks),
        IT(requests_in_memory_of_our_own_are_bounced),
        IT(zeroes_are_written_in_parts_that_the_device_takes),
        IT(the_first_error_of_parts_is_that_of_the_whole),
        IT(who_came_first_goes_first),
        IT(a_small_request_does_not_overtake_those_that_wait),
        IT(a_request_alone_is_shown_at_once_and_others_together),
        IT(what_waits_can_be_aborted_and_what_the_device_has_cannot),
        IT(what_a_dead_device_had_can_be_aborted),
        IT(what_a_dead_device_had_is_given_to_the_next),
        IT(a_reset_waits_for_what_the_device_has),
        IT(the_connection_goes_on_with_another_reactor),
        IT(a_disk_that_nobody_used_meanwhile_is_connected_to_again),
        IT(there_are_no_more_reactors_than_queues),
        IT(memory_is_given_to_the_device_when_it_is_used),
        IT(other_memory_at_the_same_addresses_is_another),
        IT(more_memory_than_the_device_is_given_is_bounced),
        IT(memory_is_there_again_when_the_connection_is),
        IT(the_device_wakes_a_reactor_that_sleeps),
        IT(a_device_that_fills_our_descriptors_holds_nobody_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
