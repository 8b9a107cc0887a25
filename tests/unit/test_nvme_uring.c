/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The transport through the kernel's passthrough, with a device that is the test's: commands are done in memory as they
 * are made into entries of the ring, from wherever their entry says that data is; what then goes through the ring does
 * nothing, or hangs until the test says otherwise. Linked with --wrap for what is defined here; time is simulated but
 * where a test sleeps.
 */
#include "bdev_util.h"

#include "bdev/driver.h"
#include "nvme/nvme.h"
#include "nvme/uring.h"
#include "reactor/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/nvme_ioctl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BLOCK = 512,
    BLOCKS = 16384, /* 8 MiB */
    PAGE = 4096,
    SEGMENTS = 9,
    LARGEST = SEGMENTS * PAGE,
    OPS = 3000,
};

int __wrap_nvme_uring_open(const char *path, enum nvme_uring_use use, struct nvme_uring_node **out,
                           struct plx_error *err);
int __wrap_nvme_uring_look_again(struct nvme_uring_node *node);
void __wrap_nvme_uring_fill(struct io_uring_sqe *sqe, int fd, const struct nvme_words *cmd,
                            const struct nvme_uring_data *data, uint32_t len);
int __wrap_nvme_uring_result(struct nvme_req *req, int res, uint64_t result);
int __real_nvme_uring_result(struct nvme_req *req, int res, uint64_t result);
void __real_nvme_uring_fill(struct io_uring_sqe *sqe, int fd, const struct nvme_words *cmd,
                            const struct nvme_uring_data *data, uint32_t len);

static struct device {
    struct nvme_uring_node *node;
    char folder[64]; /* in place of sysfs */
    uint8_t *memory;
    uint64_t blocks;
    uint8_t lbads;
    int fails; /* so many commands, */
    int error; /* with this */
    unsigned sent, in_flight, most, single, several;
    bool hangs; /* commands end when a byte comes here: */
    int pipe[2];
} dev;

static uint64_t now_ns;
static struct tu t;
static unsigned losses; /* of the association, that were told of */

static uint64_t simulated(void)
{
    return now_ns;
}

static void count_losses(void *arg, enum plx_log_level level, const char *text)
{
    (void)arg, (void)level;
    losses += strstr(text, ": lost ") != NULL;
}

/* ---- the device ---- */

static void write_state(const char *state)
{
    char path[96];
    snprintf(path, sizeof path, "%s/device/state", dev.folder);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fputs(state, file);
    fclose(file);
}

static void remove_folder(void)
{
    char path[96];
    snprintf(path, sizeof path, "%s/device/state", dev.folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/device", dev.folder);
    rmdir(path);
    rmdir(dev.folder);
}

static void make_folder(void)
{
    char path[96];
    snprintf(dev.folder, sizeof dev.folder, "/tmp/pollux-test-%d", (int)getpid());
    snprintf(path, sizeof path, "%s/device", dev.folder);
    assert_int_equal(mkdir(dev.folder, 0700), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    write_state("live\n");
}

int __wrap_nvme_uring_open(const char *path, enum nvme_uring_use use, struct nvme_uring_node **out,
                           struct plx_error *err)
{
    struct nvme_uring_node *node = calloc(1, sizeof *node);
    (void)err;
    assert_non_null(node);
    node->fd = node->claim = -1;
    node->use = use;
    pthread_mutex_init(&node->lock, NULL);
    snprintf(node->path, sizeof node->path, "%s", path);
    snprintf(node->sysfs, sizeof node->sysfs, "%s", dev.folder);
    memcpy(node->ctrl.subnqn, "nqn.2024-01.com.example:uring", 29);
    node->nsid = 1;
    node->max_segments = SEGMENTS;
    node->max_transfer = LARGEST;
    node->page = PAGE;
    node->ctrl.ver = plx_put32(0x20000);
    node->ctrl.oncs = plx_put16(1 << 2 | 1 << 3);
    node->ctrl.fuses = plx_put16(1);
    node->ctrl.cmic = 1 << 3;            /* ANA, */
    node->ctrl.nanagrpid = plx_put32(1); /* whose log is not for us */
    node->ns.anagrpid = plx_put32(1);
    node->ns.nsze = plx_put64(dev.blocks);
    node->ns.lbaf[0] = plx_put32((uint32_t)dev.lbads << 16);
    node->descriptors[0] = NVME_NIDT_UUID;
    node->descriptors[1] = 16;
    memset(node->descriptors + 4, 7, 16);
    *out = dev.node = node;
    return 0;
}

int __wrap_nvme_uring_look_again(struct nvme_uring_node *node)
{
    pthread_mutex_lock(&node->lock);
    node->ns.nsze = plx_put64(dev.blocks);
    node->ns.lbaf[0] = plx_put32((uint32_t)dev.lbads << 16);
    pthread_mutex_unlock(&node->lock);
    return 0;
}

static size_t pages_in(const struct iovec *v)
{
    return ((uintptr_t)v->iov_base % PAGE + v->iov_len + PAGE - 1) / PAGE;
}

/* What the kernel would refuse fails the test. */
static void transfer(uint8_t opcode, uint8_t *at, const struct iovec *iov, unsigned count, uint32_t len)
{
    size_t pages = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t n = iov[i].iov_len;
        assert_true(n && n <= len);
        pages += pages_in(&iov[i]);
        if (opcode == NVME_IO_READ)
            memcpy(iov[i].iov_base, at, n);
        else
            memcpy(at, iov[i].iov_base, n);
        at += n;
        len -= (uint32_t)n;
    }
    assert_int_equal(len, 0);
    assert_in_range(pages, 1, SEGMENTS);
}

void __wrap_nvme_uring_fill(struct io_uring_sqe *sqe, int fd, const struct nvme_words *cmd,
                            const struct nvme_uring_data *data, uint32_t len)
{
    struct nvme_uring_cmd c;
    __real_nvme_uring_fill(sqe, fd, cmd, data, len);
    memcpy(&c, sqe->cmd, sizeof c);
    const bool several = sqe->cmd_op == NVME_URING_CMD_IO_VEC;
    const uint64_t lba = c.cdw10 | (uint64_t)c.cdw11 << 32;
    const struct iovec one = {(void *)(uintptr_t)c.addr, c.data_len};
    assert_int_equal(c.nsid, 1);
    assert_int_equal(c.flags, 0);
    if (c.opcode == NVME_IO_READ || c.opcode == NVME_IO_WRITE) {
        const uint32_t bytes = ((c.cdw12 & 0xffff) + 1) * BLOCK;
        assert_in_range(bytes, BLOCK, LARGEST);
        transfer(c.opcode, dev.memory + lba * BLOCK, several ? (const struct iovec *)(uintptr_t)c.addr : &one,
                 several ? c.data_len : 1, bytes);
        dev.single += !several;
        dev.several += several;
    } else if (c.opcode == NVME_IO_WRITE_ZEROES) {
        memset(dev.memory + lba * BLOCK, 0, (size_t)((c.cdw12 & 0xffff) + 1) * BLOCK);
    }
    memset(sqe, 0, NVME_URING_SQE);
    if (dev.hangs)
        io_uring_prep_poll_add(sqe, dev.pipe[0], POLLIN);
    else
        io_uring_prep_nop(sqe);
    dev.sent++;
    dev.in_flight++;
    if (dev.in_flight > dev.most)
        dev.most = dev.in_flight;
}

int __wrap_nvme_uring_result(struct nvme_req *req, int res, uint64_t result)
{
    (void)res;
    dev.in_flight--;
    return __real_nvme_uring_result(req, dev.fails && dev.fails-- ? dev.error : 0, result);
}

/* ---- what the test does ---- */

static void let_go(void)
{
    dev.hangs = false;
    assert_int_equal(write(dev.pipe[1], "x", 1), 1);
}

static void settle(void)
{
    for (int quiet = 0; quiet < 3; quiet++)
        if (plx_reactor_poll(t.reactor))
            quiet = 0;
}

/* Time passes until the request is done. */
static uint16_t finish(struct tu_req *q)
{
    alarm(60);
    for (settle(); !q->done; settle())
        now_ns += 10 * PLX_NS_PER_MS;
    alarm(0);
    assert_int_equal(q->done, 1);
    return q->req->status;
}

static uint16_t run(enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data)
{
    struct tu_req q;
    tu_req_init(&q);
    tu_start(&t, &q, op, lba, nlb, data);
    uint16_t status = finish(&q);
    tu_req_free(&q);
    return status;
}

static int set_up(void **state)
{
    (void)state;
    struct io_uring ring;
    struct io_uring_params p = {.flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32};
    if (io_uring_queue_init_params(1, &ring, &p))
        exit(77); /* no such io_uring here: skipped */
    io_uring_queue_exit(&ring);
    memset(&dev, 0, sizeof dev);
    dev.blocks = BLOCKS;
    dev.lbads = 9;
    dev.memory = calloc(BLOCKS, BLOCK);
    assert_non_null(dev.memory);
    assert_int_equal(pipe2(dev.pipe, O_CLOEXEC), 0);
    make_folder();
    now_ns = PLX_NS_PER_S;
    losses = 0;
    plx_log_set(count_losses, NULL, PLX_LOG_WARN);
    plx_clock_simulate(simulated);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (t.ch && !plx_list_empty(&t.ch->requests))
        return -1; /* of a test that has failed */
    if (t.ch)
        plx_bdev_channel_put(t.ch);
    if (t.reactor)
        plx_reactor_destroy(t.reactor);
    if (t.bdev)
        plx_bdev_close(t.bdev);
    memset(&t, 0, sizeof t);
    plx_clock_simulate(NULL);
    plx_log_set(NULL, NULL, PLX_LOG_WARN);
    remove_folder();
    free(dev.memory);
    close(dev.pipe[0]);
    close(dev.pipe[1]);
    return 0;
}

/* ---- where data is ---- */

static uint8_t area[64 * PAGE] __attribute__((aligned(PAGE)));

static struct nvme_uring_data place(const struct iovec *iov, size_t offset, uint32_t len, struct iovec *own)
{
    return nvme_uring_place((struct plx_iov_at){iov, offset}, len, SEGMENTS, PAGE, own);
}

static void data_in_one_piece_is_given_as_it_is(void **state)
{
    struct iovec own[NVME_URING_OWN];
    const struct iovec iov[] = {{area, PAGE}, {NULL, 0}, {area + PAGE, 2 * PAGE}};
    (void)state;
    struct nvme_uring_data d = place(iov, 512, 1024, own);
    assert_int_equal(d.kind, NVME_URING_ONE);
    assert_ptr_equal(d.addr, area + 512);
    d = place(iov, PAGE, 512, own); /* at the end of an entry, before an empty one */
    assert_int_equal(d.kind, NVME_URING_ONE);
    assert_ptr_equal(d.addr, area + PAGE);
    d = place(iov, 0, 0, own);
    assert_int_equal(d.kind, NVME_URING_ONE);
}

static void several_pieces_are_the_callers_iovec_or_a_short_one(void **state)
{
    struct iovec own[NVME_URING_OWN], iov[12];
    (void)state;
    for (unsigned i = 0; i < 12; i++)
        iov[i] = (struct iovec){area + i * 2 * PAGE, 512};
    struct nvme_uring_data d = place(iov + 1, 0, 9 * 512, own);
    assert_int_equal(d.kind, NVME_URING_MANY);
    assert_ptr_equal(d.iov, iov + 1);
    assert_int_equal(d.count, 9);
    d = place(iov, 256, 1024, own); /* parts of the first and the last */
    assert_int_equal(d.kind, NVME_URING_MANY);
    assert_ptr_equal(d.iov, own);
    assert_int_equal(d.count, 3);
    assert_ptr_equal(own[0].iov_base, area + 256);
    assert_int_equal(own[0].iov_len, 256);
    assert_int_equal(own[2].iov_len, 256);
    d = place(iov, 256, 9 * 512 - 256, own); /* nine in parts: no room for such an iovec */
    assert_int_equal(d.kind, NVME_URING_BOUNCE);
    iov[2].iov_len = 0;
    d = place(iov, 0, 4 * 512, own); /* an empty one is left out */
    assert_int_equal(d.kind, NVME_URING_MANY);
    assert_ptr_equal(d.iov, own);
    assert_int_equal(d.count, 4);
}

static void more_pages_than_the_kernel_takes_are_bounced(void **state)
{
    struct iovec own[NVME_URING_OWN];
    const struct iovec aligned[] = {{area, 4 * PAGE}, {area + 8 * PAGE, 4 * PAGE}};
    const struct iovec odd[] = {{area + 4, 4 * PAGE}, {area + 8 * PAGE + 4, 4 * PAGE}}; /* five pages each */
    const struct iovec whole = {area, sizeof area};
    (void)state;
    assert_int_equal(place(aligned, 0, 8 * PAGE, own).kind, NVME_URING_MANY);
    assert_int_equal(place(odd, 0, 8 * PAGE, own).kind, NVME_URING_BOUNCE);
    assert_int_equal(place(&whole, 0, SEGMENTS * PAGE, own).kind, NVME_URING_ONE);
    assert_int_equal(place(&whole, 4, SEGMENTS * PAGE, own).kind, NVME_URING_BOUNCE);
}

/* ---- what answers mean ---- */

static void answers_are_what_the_host_knows(void **state)
{
    struct nvme_req req = {0};
    (void)state;
    assert_int_equal(__real_nvme_uring_result(&req, 0, UINT64_C(0x100000002)), 0);
    assert_int_equal(req.dw0, 2);
    assert_int_equal(req.dw1, 1);
    assert_int_equal(req.status, 0);
    assert_int_equal(__real_nvme_uring_result(&req, NVME_STATUS_DNR | PLX_SC_LBA_OUT_OF_RANGE, 0), 0);
    assert_int_equal(req.status, NVME_STATUS_DNR | PLX_SC_LBA_OUT_OF_RANGE);
    assert_false(req.lost);
    assert_int_equal(__real_nvme_uring_result(&req, -EACCES, 0), 0);
    assert_int_equal(req.status & 0x7ff, PLX_SC_INVALID_OPCODE);
    assert_int_equal(__real_nvme_uring_result(&req, -EINTR, 0), 0);
    assert_int_equal(req.status, PLX_SC_TRANSIENT_TRANSPORT_ERROR);
    assert_int_equal(__real_nvme_uring_result(&req, -EINVAL, 0), -EINVAL);
    assert_false(req.lost);
    assert_int_equal(__real_nvme_uring_result(&req, -ENODEV, 0), -ENODEV);
    assert_true(req.lost);
    req.lost = false;
    assert_int_equal(__real_nvme_uring_result(&req, PLX_SC_HOST_PATHING_ERROR, 0), -EAGAIN);
    assert_true(req.lost);
}

/* ---- a disk ---- */

static void a_disk_is_what_its_namespace_says(void **state)
{
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1");
    assert_string_equal(t.info->driver, "ng");
    assert_string_equal(t.info->name, "ng:///dev/ng7n1");
    assert_int_equal(t.info->block_size, BLOCK);
    assert_int_equal(t.info->blocks, BLOCKS);
    assert_int_equal(t.info->uuid[0], 7);
    assert_false(t.info->shared);
    assert_false(t.info->read_only);
    assert_int_equal(dev.node->use, NVME_URING_SERVE);
    assert_int_equal(t.bdev->native_ops & 1 << PLX_BDEV_COMPARE_AND_WRITE, 0);
    assert_true(t.info->ops & 1 << PLX_BDEV_COMPARE_AND_WRITE); /* done by reading and writing */
}

static void read_only_is_asked_for(void **state)
{
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1?ro=1&depth=8");
    assert_int_equal(dev.node->use, NVME_URING_READ);
    assert_true(t.info->read_only);
    tu_refused("ng:/dev/ng7n1?queues=2", "there are: depth ro uuid");
    tu_refused("ng:/dev/ng7n1?depth=1", "from 2 to 1024");
}

/* Pieces of memory in all sizes and places, of requests up to many times what a command takes. */
static void any_memory_and_any_length_is_read_and_written(void **state)
{
    uint64_t seed = 11;
    uint8_t *model = calloc(BLOCKS, BLOCK), *mem = aligned_alloc(PAGE, 4 << 20);
    (void)state;
    assert_true(model && mem);
    tu_open(&t, "ng:/dev/ng7n1");
    for (int i = 0; i < OPS; i++) {
        struct tu_req q;
        struct iovec iov[64];
        const uint32_t nlb = 1 + tu_random(&seed) % (i % 8 ? 64 : 1024);
        const uint64_t lba = tu_random(&seed) % (BLOCKS - nlb);
        const bool writes = tu_random(&seed) % 2;
        size_t left = (size_t)nlb * BLOCK, at = tu_random(&seed) % 64 * 4;
        unsigned n = 0;
        while (left) {
            size_t len = n == 63 ? left : plx_min_u64(left, 4 + tu_random(&seed) % (i % 3 ? 16384 : 700) / 4 * 4);
            iov[n++] = (struct iovec){mem + at, len};
            at += len + tu_random(&seed) % 3 * 512;
            left -= len;
        }
        for (size_t b = 0; b < at; b += 4)
            memcpy(mem + b, &(uint32_t){tu_random(&seed)}, 4);
        tu_req_init(&q);
        q.req->iov = iov;
        q.req->iovcnt = n;
        if (n == 1)
            q.iov[0] = iov[0];
        tu_start(&t, &q, writes ? PLX_BDEV_WRITE : PLX_BDEV_READ, lba, nlb, iov[0].iov_base);
        if (n == 1)
            iov[0] = q.req->iov[0];
        assert_int_equal(finish(&q), 0);
        uint8_t *expected = model + lba * BLOCK;
        for (unsigned k = 0; k < n; expected += iov[k++].iov_len) {
            if (writes)
                memcpy(expected, iov[k].iov_base, iov[k].iov_len);
            else
                assert_memory_equal(expected, iov[k].iov_base, iov[k].iov_len);
        }
        tu_req_free(&q);
    }
    assert_memory_equal(model, dev.memory, (size_t)BLOCKS * BLOCK);
    assert_true(dev.single > 100 && dev.several > 100);
    free(model);
    free(mem);
}

static void more_requests_than_depth_wait(void **state)
{
    enum { N = 100 };
    struct tu_req q[N];
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1?depth=4");
    settle();
    dev.hangs = true;
    for (unsigned i = 0; i < N; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_WRITE, i, 1, area);
    }
    settle();
    assert_int_equal(dev.sent, 4);
    let_go();
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(finish(&q[i]), 0);
        tu_req_free(&q[i]);
    }
    assert_int_equal(dev.most, 4);
    assert_int_equal(dev.sent, N);
}

/* What the kernel has ends by itself; what waits for it is taken back. */
static void an_abort_takes_back_what_waits(void **state)
{
    struct tu_req q[3];
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1?depth=2");
    settle();
    dev.hangs = true;
    for (unsigned i = 0; i < 3; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_READ, i, 1, area + i * BLOCK);
    }
    for (unsigned i = 0; i < 3; i++)
        plx_bdev_abort(t.ch, q[i].req);
    assert_int_equal(q[2].done, 1);
    assert_int_equal(q[2].req->status, PLX_SC_ABORTED_BY_REQUEST);
    for (int s = 0; s < 100; s++) { /* no Abort is waited for, no command is late */
        now_ns += PLX_NS_PER_S;
        settle();
    }
    assert_false(q[0].done || q[1].done);
    assert_int_equal(losses, 0);
    let_go();
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(finish(&q[i]), 0);
    for (unsigned i = 0; i < 3; i++)
        tu_req_free(&q[i]);
}

static void a_reactor_that_sleeps_is_woken(void **state)
{
    struct tu_req q;
    (void)state;
    plx_clock_simulate(NULL);
    tu_open(&t, "ng:/dev/ng7n1");
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, area), 0);
    dev.hangs = true;
    tu_req_init(&q);
    tu_start(&t, &q, PLX_BDEV_READ, 0, 1, area);
    alarm(60);
    while (plx_reactor_poll(t.reactor) || plx_reactor_arm(t.reactor))
        assert_false(q.done);
    struct pollfd p = {.fd = plx_reactor_fd(t.reactor), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 0);
    let_go();
    assert_int_equal(poll(&p, 1, 30000), 1);
    alarm(0);
    assert_int_equal(tu_finish(&t, &q), 0);
    tu_req_free(&q);
}

/* ---- trouble ---- */

static void what_the_kernel_ended_is_tried_again(void **state)
{
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1");
    dev.error = -EINTR;
    dev.fails = 5;
    assert_int_equal(run(PLX_BDEV_WRITE, 0, 8, area), 0);
    assert_int_equal(dev.sent, 6);
    dev.fails = 6;
    assert_int_equal(run(PLX_BDEV_WRITE, 0, 8, area), PLX_SC_TRANSIENT_TRANSPORT_ERROR);
}

static void while_the_controller_is_reset_requests_wait(void **state)
{
    static const int errors[] = {-ENODEV, PLX_SC_HOST_PATHING_ERROR, -EINVAL, -EIO};
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1");
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(errors); i++) {
        struct tu_req q;
        settle();
        write_state("resetting\n");
        dev.error = errors[i];
        dev.fails = 1;
        tu_req_init(&q);
        tu_start(&t, &q, PLX_BDEV_READ, 0, 1, area);
        for (int s = 0; s < 50; s++) {
            now_ns += PLX_NS_PER_S;
            settle();
        }
        assert_false(q.done);
        assert_int_equal(losses, i + 1);
        write_state("live\n");
        assert_int_equal(finish(&q), 0);
        tu_req_free(&q);
    }
}

/* By when it is looked at, the reset may be over. */
static void a_command_that_the_kernel_refuses_is_tried_a_few_times(void **state)
{
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1");
    dev.error = -EIO;
    dev.fails = 5;
    assert_int_equal(run(PLX_BDEV_READ, 0, 1, area), 0);
    dev.error = -EINVAL;
    dev.fails = 6;
    assert_int_equal(run(PLX_BDEV_READ, 0, 1, area), PLX_SC_TRANSIENT_TRANSPORT_ERROR);
    assert_int_equal(dev.sent, 12);
}

static void zeroes_are_written_where_the_command_is_not_allowed(void **state)
{
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1");
    memset(dev.memory, 1, 64 * BLOCK);
    dev.error = -EACCES;
    dev.fails = 1;
    assert_int_equal(run(PLX_BDEV_WRITE_ZEROES, 0, 64, NULL), 0);
    assert_true(tu_zeroed(dev.memory, 64 * BLOCK));
}

static void a_device_that_is_removed_is_gone(void **state)
{
    struct tu_req q[2];
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1");
    settle();
    remove_folder();
    dev.error = -ENODEV;
    dev.fails = 2;
    for (unsigned i = 0; i < 2; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_READ, i, 1, area);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(finish(&q[i]), PLX_SC_INTERNAL_ERROR);
        tu_req_free(&q[i]);
    }
    assert_true(t.bdev->gone);
    assert_int_equal(plx_reactor_timeout(t.reactor), -1); /* it is not looked for again */
    assert_int_equal(run(PLX_BDEV_READ, 0, 1, area), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    assert_int_equal(dev.sent, 2);
}

static void changes_are_seen_when_they_are_looked_for(void **state)
{
    struct plx_error err;
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1");
    dev.blocks = BLOCKS / 2;
    assert_int_equal(plx_bdev_rescan(t.bdev, &err), 0);
    assert_int_equal(plx_bdev_blocks(t.bdev), BLOCKS / 2);
    dev.lbads = 12;
    assert_int_equal(plx_bdev_rescan(t.bdev, &err), 0);
    assert_true(t.bdev->gone); /* another format */
}

static void a_device_that_is_not_there_any_more_is_seen_as_well(void **state)
{
    struct plx_error err;
    (void)state;
    tu_open(&t, "ng:/dev/ng7n1");
    remove_folder();
    assert_int_equal(plx_bdev_rescan(t.bdev, &err), 0);
    assert_true(t.bdev->gone);
}

/* ---- an association that ends while the kernel has a command ---- */

static bool is_live;
static unsigned ended;

static void came_live(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
    is_live = true;
}

static void nothing(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
}

static void failed_to(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    (void)c, (void)arg, (void)ret, (void)again;
    fail_msg("%s", why);
}

static void command_ended(struct nvme_req *req)
{
    (void)req;
    ended++;
}

static void a_command_comes_back_when_the_kernel_has_ended_it(void **state)
{
    static const struct nvme_ctrlr_ops ops = {.live = came_live, .down = nothing, .failed = failed_to, .ana = nothing};
    static struct iovec iov = {area, BLOCK};
    struct nvme_req req = {.done = command_ended,
                           .data = {&iov, 0},
                           .len = BLOCK,
                           .dir = NVME_TO_HOST,
                           .cmd = {.opcode = NVME_IO_READ, .nsid = plx_put32(1)}};
    struct nvme_uring_node *node;
    struct nvme_where where;
    struct nvme_ctrlr *c;
    (void)state;
    is_live = false;
    ended = 0;
    assert_int_equal(plx_reactor_create(&t.reactor, NULL), 0);
    __wrap_nvme_uring_open("/dev/ng7n1", NVME_URING_SERVE, &node, NULL);
    nvme_uring_where(&where, node);
    assert_int_equal(nvme_ctrlr_create(t.reactor, &where.o, &ops, NULL, &c), 0);
    nvme_ctrlr_start(c, false);
    settle();
    assert_true(is_live);
    assert_int_equal(nvme_ctrlr_max_transfer(c), LARGEST);
    dev.hangs = true;
    nvme_submit(c, &req);
    settle();
    nvme_ctrlr_destroy(c);
    nvme_uring_close(node);
    settle();
    assert_int_equal(ended, 0);
    dev.error = -EIO; /* the node is not looked at any more */
    dev.fails = 1;
    let_go();
    alarm(60);
    while (!ended)
        settle();
    alarm(0);
    assert_true(req.lost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_in_one_piece_is_given_as_it_is),
        cmocka_unit_test(several_pieces_are_the_callers_iovec_or_a_short_one),
        cmocka_unit_test(more_pages_than_the_kernel_takes_are_bounced),
        cmocka_unit_test(answers_are_what_the_host_knows),
#define ON_DISK(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
        ON_DISK(a_disk_is_what_its_namespace_says),
        ON_DISK(read_only_is_asked_for),
        ON_DISK(any_memory_and_any_length_is_read_and_written),
        ON_DISK(more_requests_than_depth_wait),
        ON_DISK(an_abort_takes_back_what_waits),
        ON_DISK(a_reactor_that_sleeps_is_woken),
        ON_DISK(what_the_kernel_ended_is_tried_again),
        ON_DISK(while_the_controller_is_reset_requests_wait),
        ON_DISK(a_command_that_the_kernel_refuses_is_tried_a_few_times),
        ON_DISK(zeroes_are_written_where_the_command_is_not_allowed),
        ON_DISK(a_device_that_is_removed_is_gone),
        ON_DISK(changes_are_seen_when_they_are_looked_for),
        ON_DISK(a_device_that_is_not_there_any_more_is_seen_as_well),
        ON_DISK(a_command_comes_back_when_the_kernel_has_ended_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
