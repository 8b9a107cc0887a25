/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Files and block devices as disks: on memory and on a real file system, past the page cache and through it, with
 * both engines.
 */
#include "bdev_util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "bdev/driver/file.h"
#include "reactor/aio.h"

enum { MIB = 1024 * 1024, SIZE = 8 * MIB };

struct config {
    const char *dir;
    bool threads;
    bool direct;
};

static char path[256];

static void make_file(const char *dir, off_t size)
{
    snprintf(path, sizeof path, "%s/pollux-test-%d.img", dir, (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
}

static void open_with(struct tu *t, const struct config *c, const char *params)
{
    char url[400];
    snprintf(url, sizeof url, "file:%s?direct=%d%s", path, c->direct, params);
    if (c->threads)
        tu_open_threads(t, url);
    else
        tu_open(t, url);
    if (c->threads)
        assert_string_equal(plx_aio_name(t->reactor), "threads");
}

static void open_config(struct tu *t, void **state, const char *params)
{
    const struct config *c = *state;
    make_file(c->dir, SIZE);
    open_with(t, c, params);
}

static void close_and_remove(struct tu *t)
{
    tu_close(t);
    unlink(path);
}

/* ---- on every file system, with every engine ---- */

static void what_is_written_is_read_however_it_is_aligned(void **state)
{
    static const size_t skews[] = {0, 1, 4, 512, 513, 4096};
    struct tu t;
    open_config(&t, state, "");
    uint8_t *mem = tu_pattern(3 * MIB, 1), *out = tu_pattern(3 * MIB, 2);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(skews); i++) {
        uint8_t *in = mem + skews[i], *back = out + skews[PLX_ARRAY_SIZE(skews) - 1 - i];
        uint32_t nlb = i % 2 ? 7 : 4096; /* the longer ones are bounced in several pieces */
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 3 + i, nlb, in), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 3 + i, nlb, back), 0);
        assert_memory_equal(in, back, nlb * 512);
    }
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, SIZE / 512 - 10, 10, out), 0);
    assert_true(tu_zeroed(out, 5120)); /* a hole */
    free(mem);
    free(out);
    close_and_remove(&t);
}

static void data_may_be_in_odd_pieces(void **state)
{
    struct tu t;
    struct tu_req q;
    open_config(&t, state, "");
    tu_req_init(&q);
    uint8_t *in = tu_pattern(8192, 7), *out = tu_pattern(8192, 8), *same = tu_pattern(8192, 7);
    q.req->iovcnt = 4;
    for (int i = 0; i < 4; i++) {
        static const size_t lengths[2][4] = {{100, 0, 5000, 3092}, {512, 1024, 4096, 2560}};
        const size_t *l = lengths[i % 2];
        uint8_t *data = i < 2 ? in : out;
        for (int k = 0; k < 4; data += l[k++])
            q.iov[k] = (struct iovec){data, l[k]};
        tu_start(&t, &q, i < 2 ? PLX_BDEV_WRITE : PLX_BDEV_READ, 1 + 16 * (uint64_t)(i % 2), 16, NULL);
        assert_int_equal(tu_finish(&t, &q), 0);
        if (i >= 2)
            assert_memory_equal(out, in, 8192);
        memset(out, 0, 8192);
    }
    assert_memory_equal(in, same, 8192);
    tu_req_free(&q);
    free(in);
    free(out);
    free(same);
    close_and_remove(&t);
}

/* Than the kernel takes; and what it would take is less than a block. */
static void data_may_be_in_more_pieces_than_the_kernel_takes(void **state)
{
    enum { PIECES = 1500 };
    struct tu t;
    struct tu_req q;
    struct iovec iov[PIECES];
    open_config(&t, state, "");
    tu_req_init(&q);
    uint8_t *in = tu_pattern(8192, 7), *out = tu_pattern(8192, 8);
    for (int i = 0; i < 2; i++) {
        uint8_t *data = i ? out : in;
        for (int k = 0; k < PIECES; k++)
            iov[k] = (struct iovec){data, 0};
        iov[0].iov_len = 100;
        iov[PIECES - 1] = (struct iovec){data + 100, 8192 - 100};
        q.req->iov = iov;
        q.req->iovcnt = PIECES;
        tu_start(&t, &q, i ? PLX_BDEV_READ : PLX_BDEV_WRITE, 1, 16, NULL);
        assert_int_equal(tu_finish(&t, &q), 0);
    }
    assert_memory_equal(in, out, 8192);
    tu_req_free(&q);
    free(in);
    free(out);
    close_and_remove(&t);
}

static void zeroes_are_written_and_space_is_freed(void **state)
{
    struct tu t;
    struct stat full, less;
    open_config(&t, state, "");
    uint8_t *in = tu_pattern(SIZE, 1), *out = tu_pattern(SIZE, 2);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, SIZE / 512, in), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    stat(path, &full);
    const struct {
        enum plx_bdev_op op;
        uint8_t flags;
        uint64_t lba;
        uint32_t nlb;
    } cases[] = {
        {PLX_BDEV_WRITE_ZEROES, 0, 3, 1},
        {PLX_BDEV_WRITE_ZEROES, PLX_BDEV_FUA, 8, 4000},
        {PLX_BDEV_WRITE_ZEROES, PLX_BDEV_UNMAP_OK, 5001, 1000},
        {PLX_BDEV_WRITE_ZEROES, PLX_BDEV_UNMAP_OK | PLX_BDEV_FUA, 7001, 10},
        {PLX_BDEV_UNMAP, 0, 8003, 7000},
    };
    for (size_t i = 0; i < PLX_ARRAY_SIZE(cases); i++) {
        if (!(t.info->ops & 1u << cases[i].op)) {
            assert_int_equal(t.info->unmap_granularity, 0);
            continue;
        }
        assert_int_equal(tu_io_flags(&t, cases[i].op, cases[i].flags, cases[i].lba, cases[i].nlb, NULL), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, SIZE / 512, out), 0);
        memset(in + cases[i].lba * 512, 0, cases[i].nlb * 512);
        assert_memory_equal(in, out, SIZE);
    }
    stat(path, &less);
    assert_int_equal(less.st_size, SIZE);
    if (t.info->ops & 1u << PLX_BDEV_UNMAP)
        assert_true(less.st_blocks < full.st_blocks);
    free(in);
    free(out);
    close_and_remove(&t);
}

static uint64_t allocated(struct tu *t)
{
    uint64_t blocks = UINT64_MAX;
    assert_int_equal(tu_io(t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(tu_io(t, PLX_BDEV_ALLOCATED, 0, 0, &blocks), 0);
    return blocks;
}

static void a_file_tells_how_much_of_it_takes_space(void **state)
{
    struct tu t;
    open_config(&t, state, "&block=4096");
    uint8_t *in = tu_pattern(SIZE, 1);
    uint64_t none = allocated(&t);
    assert_true(none < 16);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 512, 256, in), 0);
    assert_in_range(allocated(&t), none + 256, none + 256 + 16);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, SIZE / 4096, in), 0);
    assert_int_equal(allocated(&t), SIZE / 4096);
    if (t.info->ops & 1u << PLX_BDEV_UNMAP) {
        assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 0, 1024, NULL), 0);
        assert_in_range(allocated(&t), SIZE / 4096 - 1024, SIZE / 4096 - 1024 + 16);
    }
    free(in);
    close_and_remove(&t);
}

/* What makes data safe, as the driver asks its engine for it, and as worker threads ask the kernel. */
struct syncs {
    _Atomic unsigned asked, done;
};
static struct syncs flushes, safe_writes;
static _Atomic bool no_safe_writes; /* the kernel does not know them, as under an emulator: a flush follows instead */

void __real_plx_aio_submit(struct plx_reactor *r, struct plx_aio *io);
void __wrap_plx_aio_submit(struct plx_reactor *r, struct plx_aio *io);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);

void __wrap_plx_aio_submit(struct plx_reactor *r, struct plx_aio *io)
{
    flushes.asked += io->op == PLX_AIO_FDATASYNC;
    safe_writes.asked += io->op == PLX_AIO_WRITE && io->mode & RWF_DSYNC;
    __real_plx_aio_submit(r, io);
}

int __wrap_fdatasync(int fd)
{
    flushes.done++;
    return __real_fdatasync(fd);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    safe_writes.done += (flags & RWF_DSYNC) != 0;
    ssize_t done = __real_pwritev64v2(fd, iov, n, offset, flags);
    no_safe_writes = (flags & RWF_DSYNC) && done < 0;
    return done;
}

/* The status of a request, which must have flushed the file so many times, and made so many writes safe. */
static uint16_t syncing(struct tu *t, enum plx_bdev_op op, uint8_t flags, void *data, unsigned flushed, unsigned safe)
{
    flushes = safe_writes = (struct syncs){0};
    uint16_t status = tu_io_flags(t, op, flags, 8, 8, data);
    bool threads = !strcmp(plx_aio_name(t->reactor), "threads");
    assert_int_equal(flushes.asked, flushed);
    assert_int_equal(safe_writes.asked, safe);
    assert_int_equal(flushes.done, threads ? flushed + (no_safe_writes ? safe : 0) : 0);
    assert_int_equal(safe_writes.done, threads ? safe : 0);
    return status;
}

static void writes_can_be_forced_to_stable_storage(void **state)
{
    struct tu t;
    open_config(&t, state, "");
    uint8_t *in = tu_pattern(8192, 1);
    assert_true(t.info->write_cache);
    assert_int_equal(syncing(&t, PLX_BDEV_WRITE, 0, in, 0, 0), 0);
    assert_int_equal(syncing(&t, PLX_BDEV_WRITE, PLX_BDEV_FUA, in, 0, 1), 0);
    assert_int_equal(syncing(&t, PLX_BDEV_WRITE, PLX_BDEV_FUA, in + 1, 0, 1), 0);
    assert_int_equal(syncing(&t, PLX_BDEV_FLUSH, 0, NULL, 1, 0), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 8, 8, in), 0);
    assert_int_equal(syncing(&t, PLX_BDEV_COMPARE_AND_WRITE, PLX_BDEV_FUA, in, 0, 1), 0);
    /* Where the file system has no ranges of zeroes they are written. */
    assert_int_equal(tu_io_flags(&t, PLX_BDEV_WRITE_ZEROES, PLX_BDEV_FUA, 8, 8, NULL), 0);
    bool written = ((struct plx_file *)t.bdev)->no_zero_range;
    assert_int_equal(syncing(&t, PLX_BDEV_WRITE_ZEROES, PLX_BDEV_FUA, NULL, !written, written), 0);
    free(in);
    close_and_remove(&t);
}

static void keep_result(struct plx_aio *io)
{
    io->fd = -1;
}

static int64_t perform(struct tu *t, struct plx_aio *io)
{
    io->done = keep_result;
    plx_aio_submit(t->reactor, io);
    while (io->fd >= 0)
        tu_turn(t->reactor);
    return io->res;
}

/* Seen by what the kernel refuses: to flush a pipe, and flags of a write that nobody knows. */
static void the_engine_hands_on_what_makes_data_safe(void **state)
{
    struct tu t;
    int ends[2];
    open_config(&t, state, "");
    uint8_t *in = tu_pattern(4096, 1);
    assert_int_equal(pipe(ends), 0);
    struct plx_aio flush = {.op = PLX_AIO_FDATASYNC, .fd = ends[1]};
    assert_int_equal(perform(&t, &flush), -EINVAL);
    if (!strcmp(plx_aio_name(t.reactor), "io_uring")) {
        const struct iovec iov = {in, 4096};
        struct plx_aio write = {
            .op = PLX_AIO_WRITE, .fd = ((struct plx_file *)t.bdev)->fd, .mode = 1 << 30, .iov = &iov, .iovcnt = 1};
        assert_int_equal(perform(&t, &write), -EOPNOTSUPP);
    }
    close(ends[0]);
    close(ends[1]);
    free(in);
    close_and_remove(&t);
}

static void a_file_cut_short_gives_read_errors(void **state)
{
    struct tu t;
    open_config(&t, state, "");
    uint8_t *buf = tu_pattern(65536, 1);
    assert_int_equal(truncate(path, MIB + 100), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, MIB / 512 - 8, 8, buf), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, MIB / 512 - 8, 16, buf), PLX_SC_UNRECOVERED_READ_ERROR);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, MIB / 512 - 8, 16, buf + 1), PLX_SC_UNRECOVERED_READ_ERROR);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, SIZE / 512 - 8, 8, buf), PLX_SC_UNRECOVERED_READ_ERROR);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, SIZE / 512 - 8, 8, buf), 0); /* makes it longer again */
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, SIZE / 512 - 8, 8, buf), 0);
    free(buf);
    close_and_remove(&t);
}

enum { MANY = 2000, AREA = 16 };

static void thousands_of_requests_may_be_in_flight(void **state)
{
    struct tu t;
    open_config(&t, state, "");
    struct tu_req *q = calloc(MANY, sizeof *q);
    uint8_t **data = calloc(MANY, sizeof *data);
    for (int pass = 0; pass < 2; pass++) { /* all are written, then all read back */
        for (uint32_t i = 0; i < MANY; i++) {
            if (!pass)
                tu_req_init(&q[i]);
            data[i] = tu_pattern(4096, pass ? 0 : i);
            tu_start(&t, &q[i], pass ? PLX_BDEV_READ : PLX_BDEV_WRITE, 8 * (uint64_t)i, 8, data[i]);
        }
        for (uint32_t i = 0; i < MANY; i++) {
            assert_int_equal(tu_finish(&t, &q[i]), 0);
            uint8_t *expected = tu_pattern(4096, i);
            assert_memory_equal(data[i], expected, 4096);
            free(expected);
            free(data[i]);
            if (pass)
                tu_req_free(&q[i]);
        }
    }
    free(q);
    free(data);
    close_and_remove(&t);
}

static void requests_can_be_aborted_at_any_time(void **state)
{
    struct tu t;
    struct tu_req q[AREA];
    open_config(&t, state, "");
    uint8_t *data = tu_pattern(AREA * (size_t)MIB, 1);
    uint64_t seed = 3;
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < AREA; i++) {
            static const enum plx_bdev_op ops[] = {PLX_BDEV_WRITE, PLX_BDEV_READ, PLX_BDEV_WRITE_ZEROES,
                                                   PLX_BDEV_FLUSH};
            tu_req_init(&q[i]);
            tu_start(&t, &q[i], ops[i % 4], 0, 1024, data + i * MIB + i % 3);
        }
        for (int i = 0; i < AREA; i++) {
            if (tu_random(&seed) % 2)
                plx_reactor_poll(t.reactor);
            if (!q[i].done && tu_random(&seed) % 4)
                plx_bdev_abort(t.ch, q[i].req);
        }
        for (int i = 0; i < AREA; i++) {
            uint16_t status = tu_finish(&t, &q[i]);
            assert_true(status == 0 || status == PLX_SC_ABORTED_BY_REQUEST);
            tu_req_free(&q[i]);
        }
    }
    assert_int_equal(tu_io(&t, PLX_BDEV_RESET, 0, 0, NULL), 0);
    free(data);
    close_and_remove(&t);
}

static sem_t let_go;
static _Atomic int over;

static int64_t wait_to_go(struct plx_aio *io)
{
    (void)io;
    while (sem_wait(&let_go) < 0)
        continue;
    return 0;
}

static void count_over(struct plx_aio *io)
{
    (void)io;
    over++;
}

/* All worker threads that the file may have. */
static void hold_threads(struct tu *t, struct plx_aio hold[4])
{
    over = 0;
    assert_int_equal(sem_init(&let_go, 0, 0), 0);
    for (int i = 0; i < 4; i++) {
        hold[i] = (struct plx_aio){
            .done = count_over, .fd = ((struct plx_file *)t->bdev)->fd, .op = PLX_AIO_CALL, .call = wait_to_go};
        plx_aio_submit(t->reactor, &hold[i]);
    }
}

static void release_threads(struct tu *t)
{
    for (int i = 0; i < 4; i++)
        sem_post(&let_go);
    while (over < 4)
        tu_turn(t->reactor);
    sem_destroy(&let_go);
}

/* For its turn in the ring, or for a thread. */
static void what_waits_for_its_turn_can_be_aborted(void **state)
{
    struct tu t;
    struct plx_aio hold[4];
    struct tu_req *q = calloc(MANY, sizeof *q);
    open_config(&t, state, "");
    uint8_t *data = tu_pattern(4096, 1);
    hold_threads(&t, hold);
    for (int i = 0; i < MANY; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_WRITE, 0, 8, data);
    }
    for (int i = MANY / 2; i < MANY; i++)
        plx_bdev_abort(t.ch, q[i].req);
    release_threads(&t);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(tu_finish(&t, &q[i]), i < MANY / 2 ? 0 : PLX_SC_ABORTED_BY_REQUEST);
        tu_req_free(&q[i]);
    }
    free(q);
    free(data);
    close_and_remove(&t);
}

static void what_waits_for_memory_can_be_aborted(void **state)
{
    enum { PIECES = 1500 };
    struct tu t;
    struct tu_req q[2];
    struct iovec iov[PIECES];
    open_config(&t, state, "");
    size_t n = plx_buf_total_bytes(t.reactor) / PLX_BUF_MIN;
    void **bufs = calloc(n, sizeof *bufs);
    for (size_t i = 0; i < n; i++)
        bufs[i] = plx_buf_get(t.reactor, PLX_BUF_MIN);
    uint8_t *data = tu_pattern(4096, 1);
    for (int k = 0; k < PIECES; k++) /* more than the kernel takes */
        iov[k] = (struct iovec){data, k ? 0 : 4096};
    for (int i = 0; i < 2; i++) { /* the first has the channel's reserve */
        tu_req_init(&q[i]);
        q[i].req->iov = iov;
        q[i].req->iovcnt = PIECES;
        tu_start(&t, &q[i], PLX_BDEV_WRITE, 0, 8, NULL);
    }
    plx_bdev_abort(t.ch, q[1].req);
    assert_int_equal(q[1].done, 1);
    assert_int_equal(q[1].req->status, PLX_SC_ABORTED_BY_REQUEST);
    assert_int_equal(tu_finish(&t, &q[0]), 0);
    for (int i = 0; i < 2; i++)
        tu_req_free(&q[i]);
    for (size_t i = 0; i < n; i++)
        plx_buf_put(t.reactor, bufs[i], PLX_BUF_MIN);
    free(bufs);
    free(data);
    close_and_remove(&t);
}

static void *finish_elsewhere(void *arg)
{
    struct tu *t = arg;
    uint8_t *buf = tu_pattern(4096, 1);
    uint16_t status = tu_io(t, PLX_BDEV_WRITE, 0, 8, buf);
    free(buf);
    return (void *)(uintptr_t)status;
}

static void a_reactor_may_change_threads_between_requests(void **state)
{
    struct tu t;
    open_config(&t, state, "");
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        void *status;
        assert_ptr_equal(finish_elsewhere(&t), NULL);
        assert_int_equal(pthread_create(&thread, NULL, finish_elsewhere, &t), 0);
        pthread_join(thread, &status);
        assert_ptr_equal(status, NULL);
    }
    close_and_remove(&t);
}

static void it_sleeps_until_the_disk_has_done_its_work(void **state)
{
    struct tu t;
    struct tu_req q;
    open_config(&t, state, "");
    tu_req_init(&q);
    uint8_t *data = tu_pattern(MIB, 1);
    for (int i = 0; i < 20; i++) {
        tu_start(&t, &q, i % 2 ? PLX_BDEV_FLUSH : PLX_BDEV_WRITE, 0, 2048, data);
        while (!q.done) {
            if (plx_reactor_poll(t.reactor) || plx_reactor_arm(t.reactor))
                continue;
            struct pollfd p = {.fd = plx_reactor_fd(t.reactor), .events = POLLIN};
            assert_int_equal(poll(&p, 1, 30000), 1); /* a wake-up that is missed shows here */
        }
    }
    tu_req_free(&q);
    free(data);
    close_and_remove(&t);
}

static void blocks_of_4096_are_possible(void **state)
{
    struct tu t;
    open_config(&t, state, "&block=4096");
    assert_int_equal(t.info->block_size, 4096);
    assert_int_equal(t.info->blocks, SIZE / 4096);
    uint8_t *in = tu_pattern(8192, 1), *out = tu_pattern(8192, 2);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, SIZE / 4096 - 2, 2, in), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, SIZE / 4096 - 2, 2, out), 0);
    assert_memory_equal(in, out, 8192);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, SIZE / 4096 - 1, 2, out), PLX_SC_LBA_OUT_OF_RANGE);
    free(in);
    free(out);
    close_and_remove(&t);
}

/* ---- a file in memory ---- */

static int count_threads(void)
{
    DIR *dir = opendir("/proc/self/task");
    int n = 0;
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* A machine that has swapped nothing out: else reads of memory are left to threads. */
int __wrap_sysinfo(struct sysinfo *info);
int __wrap_sysinfo(struct sysinfo *info)
{
    *info = (struct sysinfo){.totalswap = 1000, .freeswap = 1000};
    return 0;
}

static void a_file_in_memory_is_read_without_a_thread(void **state)
{
    (void)state;
    static const struct config memory = {"/dev/shm", true, true};
    struct tu t;
    struct statfs fs;
    if (statfs(memory.dir, &fs) < 0 || fs.f_type != TMPFS_MAGIC) {
        print_message("  skipped: %s is no tmpfs\n", memory.dir);
        skip();
    }
    make_file(memory.dir, SIZE);
    open_with(&t, &memory, "");
    uint8_t *buf = tu_pattern(MIB, 1);
    int before = count_threads();
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 8, buf), 0);
    assert_true(tu_zeroed(buf, 4096));
    assert_int_equal(count_threads(), before);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, MIB / 512, buf), 0); /* which is long */
    assert_int_equal(count_threads(), before + 1);
    free(buf);
    close_and_remove(&t);
}

/* ---- a full disk ---- */

static void a_full_disk_says_so_and_works_again_later(void **state)
{
    (void)state;
    char dir[] = "/tmp/pollux-full-XXXXXX";
    struct tu t;
    assert_non_null(mkdtemp(dir));
    if (mount("none", dir, "tmpfs", 0, "size=2M") < 0) {
        print_message("  skipped: a small file system cannot be mounted here (%s)\n", strerror(errno));
        rmdir(dir);
        skip();
    }
    for (int threads = 0; threads < 2; threads++) {
        struct config c = {dir, threads, false};
        make_file(dir, SIZE);
        open_with(&t, &c, "");
        uint8_t *data = tu_pattern(MIB, 1);
        uint16_t status = 0;
        uint64_t at = 0;
        for (; !status && at < SIZE / 512; at += 2048)
            status = tu_io(&t, PLX_BDEV_WRITE, at, 2048, data);
        assert_int_equal(status, PLX_SC_CAPACITY_EXCEEDED);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, at, 2048, data), PLX_SC_CAPACITY_EXCEEDED);
        assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 0, 2048, NULL), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, at, 1024, data), 0);
        free(data);
        close_and_remove(&t);
    }
    umount(dir);
    rmdir(dir);
}

/* ---- opening ---- */

static void refused(const char *word)
{
    tu_refused(path, word);
}

static void what_cannot_be_a_disk_gets_a_sentence(void **state)
{
    (void)state;
    char url[300];
    make_file("/tmp", 0);
    refused("truncate -s 10G");
    assert_int_equal(truncate(path, 1000), 0);
    refused("truncate -s 1024");
    assert_int_equal(truncate(path, 1024), 0);
    snprintf(url, sizeof url, "file:%s?block=4096", path);
    tu_refused(url, "truncate -s 4096");
    snprintf(url, sizeof url, "file:%s?block=1024", path);
    tu_refused(url, "block=512 and block=4096");
    snprintf(url, sizeof url, "file:%s?rw=1", path);
    tu_refused(url, "block direct ro uuid");
    snprintf(url, sizeof url, "%s?ro=1", path);
    tu_refused(url, "the name is 'file:/");
    unlink(path);
    refused("truncate -s 10G");
    assert_int_equal(mkfifo(path, 0600), 0);
    refused("a FIFO");
    unlink(path);
    tu_refused("/tmp", "a directory");
    tu_refused("/dev/null", "a character device");
    tu_refused("/nowhere/at/all", "there is no file");
    tu_refused("/dev/null/x", "Not a directory");
}

/* Runs what is to be tried in a child, where it may change itself. @return its exit status */
static int in_child(int (*what)(void))
{
    pid_t child = fork();
    if (child == 0)
        _exit(what());
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static bool says(const char *word)
{
    struct plx_bdev *bdev;
    struct plx_error err = {""};
    return plx_bdev_open(path, &bdev, &err) < 0 && strstr(err.text, word);
}

static int open_as_nobody(void)
{
    if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0))
        return 77;
    return says("?ro=1") ? 0 : 1;
}

static int open_unreadable_as_nobody(void)
{
    if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0))
        return 77;
    return says("Permission denied") && !says("?ro=1") ? 0 : 1;
}

static void a_file_that_cannot_be_written_is_offered_read_only(void **state)
{
    (void)state;
    make_file("/tmp", SIZE);
    chmod(path, 0444);
    int offered = in_child(open_as_nobody);
    chmod(path, 0);
    int unreadable = in_child(open_unreadable_as_nobody);
    unlink(path);
    if (offered == 77) {
        print_message("  skipped: cannot become another user\n");
        skip();
    }
    assert_int_equal(offered, 0);
    assert_int_equal(unreadable, 0);
}

/* From here on io_uring_setup() fails, as it does in most containers. */
static bool forbid_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {PLX_ARRAY_SIZE(code), code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int use_without_io_uring(void)
{
    struct tu t;
    if (!forbid_io_uring())
        return 77;
    tu_open(&t, path);
    uint8_t *buf = tu_pattern(4096, 1);
    bool ok = !strcmp(plx_aio_name(t.reactor), "threads") && tu_io(&t, PLX_BDEV_WRITE, 0, 8, buf) == 0;
    free(buf);
    tu_close(&t);
    return ok ? 0 : 1;
}

static void threads_stand_in_where_io_uring_is_forbidden(void **state)
{
    (void)state;
    make_file("/tmp", SIZE);
    int status = in_child(use_without_io_uring);
    unlink(path);
    if (status == 77) {
        print_message("  skipped: no seccomp filters here\n");
        skip();
    }
    assert_int_equal(status, 0);
}

static void a_read_only_disk_refuses_writes(void **state)
{
    (void)state;
    struct tu a, b;
    char url[300];
    uint8_t *buf = tu_pattern(4096, 1);
    make_file("/tmp", SIZE);
    snprintf(url, sizeof url, "file:%s?ro=1", path);
    tu_open(&a, url);
    tu_open(&b, url); /* as many readers as you like */
    refused("named twice");
    assert_true(a.info->read_only);
    assert_int_equal(tu_io(&a, PLX_BDEV_READ, 0, 8, buf), 0);
    assert_int_equal(tu_io(&a, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(tu_io(&a, PLX_BDEV_COMPARE, 0, 8, buf), 0);
    assert_int_equal(tu_io(&a, PLX_BDEV_VERIFY, 0, 8, NULL), 0);
    for (enum plx_bdev_op op = 0; op < PLX_BDEV_OPS; op++)
        if (op != PLX_BDEV_READ && op != PLX_BDEV_COMPARE && op != PLX_BDEV_FLUSH && op != PLX_BDEV_RESET &&
            op != PLX_BDEV_ALLOCATED && op != PLX_BDEV_ZONE_REPORT && op != PLX_BDEV_VERIFY)
            assert_int_equal(tu_io(&a, op, 0, 1, buf), PLX_SC_NAMESPACE_WRITE_PROTECTED);
    free(buf);
    tu_close(&a);
    close_and_remove(&b);
}

static int inherited;

static int open_in_other_process(void)
{
    char expected[64];
    snprintf(expected, sizeof expected, "in use by process %d", (int)getppid());
    close(inherited); /* it still is the parent's, and so is its lock */
    return says(expected) || (says("in use") && access("/proc/self/fd", R_OK) < 0) ? 0 : 1;
}

static void a_file_is_served_once(void **state)
{
    (void)state;
    struct tu t;
    char url[300];
    make_file("/tmp", SIZE);
    snprintf(url, sizeof url, "file:%s?ro=1", path);
    tu_open(&t, path);
    refused("named twice");
    tu_refused(url, "named twice");
    inherited = ((struct plx_file *)t.bdev)->fd;
    assert_int_equal(in_child(open_in_other_process), 0);
    tu_close(&t);
    tu_open(&t, path); /* free again */
    close_and_remove(&t);
}

static void the_same_file_is_the_same_disk_next_time(void **state)
{
    (void)state;
    struct tu t;
    uint8_t uuid[16];
    char link[300], url[400];
    make_file("/tmp", SIZE);
    tu_open(&t, path);
    memcpy(uuid, t.info->uuid, 16);
    assert_memory_equal(t.info->origin, uuid, 16);
    assert_string_equal(t.info->driver, "file");
    assert_non_null(strstr(t.info->name, path));
    tu_close(&t);
    snprintf(link, sizeof link, "%s.link", path);
    assert_int_equal(symlink(path, link), 0);
    tu_open(&t, link);
    assert_memory_equal(t.info->uuid, uuid, 16);
    assert_memory_equal(t.info->origin, uuid, 16);
    tu_close(&t);
    unlink(link);
    snprintf(url, sizeof url, "file:%s?ro=1", path); /* the same disk, asked for as another */
    tu_open(&t, url);
    assert_memory_equal(t.info->uuid, uuid, 16);
    assert_memory_not_equal(t.info->origin, uuid, 16);
    tu_close(&t);
    snprintf(url, sizeof url, "file:%s?uuid=01234567-89ab-cdef-0123-456789abcdef", path);
    tu_open(&t, url);
    assert_int_equal(t.info->uuid[15], 0xef);
    close_and_remove(&t);
}

/* ---- a block device ---- */

/* Puts a loop device on the file. @return its number, or -1 with errno set */
static int attach_loop(char *device, size_t size, int *loop_fd)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int n = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    if (control >= 0)
        close(control);
    if (n < 0)
        return -1;
    snprintf(device, size, "/dev/loop%d", n);
    *loop_fd = open(device, O_RDWR | O_CLOEXEC);
    int file = *loop_fd < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return -1;
    int ret = ioctl(*loop_fd, LOOP_SET_FD, file);
    close(file);
    return ret < 0 ? -1 : n;
}

/* What the file takes of its file system, once all that was written is there. */
static uint64_t file_blocks(void)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && fsync(fd) == 0 && fstat(fd, &st) == 0);
    close(fd);
    return (uint64_t)st.st_blocks;
}

static void a_block_device_is_a_disk(void **state)
{
    (void)state;
    char device[64];
    int loop_fd = -1;
    make_file("/tmp", SIZE);
    if (attach_loop(device, sizeof device, &loop_fd) < 0) {
        print_message("  skipped: no loop device can be had here (%s)\n", strerror(errno));
        unlink(path);
        skip();
    }
    for (int threads = 0; threads < 2; threads++) {
        struct tu t;
        if (threads)
            tu_open_threads(&t, device);
        else
            tu_open(&t, device);
        assert_int_equal(t.info->blocks * t.info->block_size, SIZE);
        assert_false(t.info->unmap_reads_zero);
        uint8_t *in = tu_pattern(MIB, 1), *out = tu_pattern(MIB, 2);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 16, 2048, in), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0); /* it may have gone to the page cache */
        uint64_t full = file_blocks();
        assert_int_equal(tu_io_flags(&t, PLX_BDEV_WRITE_ZEROES, PLX_BDEV_FUA, 24, 100, NULL), 0);
        assert_int_equal(tu_io_flags(&t, PLX_BDEV_WRITE_ZEROES, PLX_BDEV_UNMAP_OK, 224, 100, NULL), 0);
        if (t.info->ops & 1 << PLX_BDEV_UNMAP) /* the file can have holes, */
            assert_true(file_blocks() < full); /* and the device makes them */
        memset(in + 8 * 512, 0, 100 * 512);
        memset(in + 208 * 512, 0, 100 * 512);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 16, 2048, out), 0);
        assert_memory_equal(in, out, MIB);
        if (t.info->ops & 1 << PLX_BDEV_UNMAP)
            assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 16, 2048, NULL), 0);
        assert_int_equal(tu_copy(&t, 8192, 16, 2048), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
        tu_refused(device, "in use"); /* exclusively ours */
        free(in);
        free(out);
        tu_close(&t);
    }
    ioctl(loop_fd, LOOP_CLR_FD, 0);
    close(loop_fd);
    unlink(path);
}

/*
 * A name space of our own, so that a small file system can be mounted; where that is not allowed, one test is
 * skipped.
 */
static void get_mounts_of_our_own(void)
{
    if (unshare(CLONE_NEWNS) < 0)
        return;
    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

int main(void)
{
    static struct config configs[] = {
        {"/dev/shm", false, true}, {"/dev/shm", false, false}, {"/dev/shm", true, false},
        {"/var/tmp", false, true}, {"/var/tmp", false, false}, {"/var/tmp", true, true},
    };
    static const struct CMUnitTest each[] = {
        cmocka_unit_test(what_is_written_is_read_however_it_is_aligned),
        cmocka_unit_test(data_may_be_in_odd_pieces),
        cmocka_unit_test(data_may_be_in_more_pieces_than_the_kernel_takes),
        cmocka_unit_test(zeroes_are_written_and_space_is_freed),
        cmocka_unit_test(a_file_tells_how_much_of_it_takes_space),
        cmocka_unit_test(writes_can_be_forced_to_stable_storage),
        cmocka_unit_test(the_engine_hands_on_what_makes_data_safe),
        cmocka_unit_test(a_file_cut_short_gives_read_errors),
        cmocka_unit_test(thousands_of_requests_may_be_in_flight),
        cmocka_unit_test(requests_can_be_aborted_at_any_time),
        cmocka_unit_test(what_waits_for_its_turn_can_be_aborted),
        cmocka_unit_test(what_waits_for_memory_can_be_aborted),
        cmocka_unit_test(a_reactor_may_change_threads_between_requests),
        cmocka_unit_test(it_sleeps_until_the_disk_has_done_its_work),
        cmocka_unit_test(blocks_of_4096_are_possible),
    };
    const struct CMUnitTest once[] = {
        cmocka_unit_test(a_file_in_memory_is_read_without_a_thread),
        cmocka_unit_test(a_full_disk_says_so_and_works_again_later),
        cmocka_unit_test(what_cannot_be_a_disk_gets_a_sentence),
        cmocka_unit_test(a_file_that_cannot_be_written_is_offered_read_only),
        cmocka_unit_test(threads_stand_in_where_io_uring_is_forbidden),
        cmocka_unit_test(a_read_only_disk_refuses_writes),
        cmocka_unit_test(a_file_is_served_once),
        cmocka_unit_test(the_same_file_is_the_same_disk_next_time),
        cmocka_unit_test(a_block_device_is_a_disk),
    };
    struct CMUnitTest tests[PLX_ARRAY_SIZE(each)];
    int failed = 0;
    get_mounts_of_our_own();
    for (size_t i = 0; i < PLX_ARRAY_SIZE(configs); i++) {
        char name[100];
        if (access(configs[i].dir, W_OK) < 0)
            continue;
        snprintf(name, sizeof name, "%s, %s, %s", configs[i].dir, configs[i].threads ? "threads" : "io_uring",
                 configs[i].direct ? "direct" : "page cache");
        for (size_t k = 0; k < PLX_ARRAY_SIZE(each); k++) {
            tests[k] = each[k];
            tests[k].initial_state = &configs[i];
        }
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
    }
    return failed + cmocka_run_group_tests(once, NULL, NULL);
}
