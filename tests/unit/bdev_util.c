/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdev_util.h"

#include "reactor/aio.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void open_disk(struct tu *t, const char *url, bool threads)
{
    struct plx_error err = {""};
    memset(t, 0, sizeof *t);
    assert_int_equal(plx_reactor_create(&t->reactor, NULL), 0);
    if (threads)
        plx_aio_force_threads(t->reactor);
    int ret = plx_bdev_open(url, &t->bdev, &err);
    if (ret)
        fail_msg("%s: %s", url, err.text);
    assert_int_equal(plx_bdev_channel_get(t->bdev, t->reactor, &t->ch), 0);
    t->info = plx_bdev_info(t->bdev);
}

void tu_open(struct tu *t, const char *url)
{
    open_disk(t, url, false);
}

void tu_open_threads(struct tu *t, const char *url)
{
    open_disk(t, url, true);
}

void tu_join(struct tu *t, struct plx_bdev *bdev)
{
    memset(t, 0, sizeof *t);
    assert_int_equal(plx_reactor_create(&t->reactor, NULL), 0);
    assert_int_equal(plx_bdev_channel_get(bdev, t->reactor, &t->ch), 0);
    t->bdev = bdev;
    t->info = plx_bdev_info(bdev);
}

void tu_leave(struct tu *t)
{
    plx_bdev_channel_put(t->ch);
    assert_int_equal(plx_buf_free_bytes(t->reactor), plx_buf_total_bytes(t->reactor));
    plx_reactor_destroy(t->reactor);
}

void tu_close(struct tu *t)
{
    tu_leave(t);
    plx_bdev_close(t->bdev);
}

static void count_done(struct plx_bdev_req *req)
{
    /* The request stands right behind the pointer to its owner. */
    struct tu_req *q;
    memcpy(&q, (uint8_t *)req - 16, sizeof q);
    q->done++;
}

void tu_req_init(struct tu_req *q)
{
    memset(q, 0, sizeof *q);
    size_t bytes = 16 + sizeof *q->req;
    uint8_t *m = aligned_alloc(16, (bytes + 15) / 16 * 16);
    assert_non_null(m);
    memset(m, 0xa5, bytes); /* nobody may count on what is not the caller's being zeroed */
    memcpy(m, &q, sizeof q);
    q->req = (struct plx_bdev_req *)(void *)(m + 16);
    memset(q->req, 0, offsetof(struct plx_bdev_req, kept));
    q->req->done = count_done;
    q->req->iov = q->iov;
    q->req->iovcnt = 1;
}

void tu_req_free(struct tu_req *q)
{
    free((uint8_t *)q->req - 16);
    q->req = NULL;
}

static size_t data_bytes(const struct tu *t, enum plx_bdev_op op, uint32_t nlb)
{
    switch (op) {
    case PLX_BDEV_READ:
    case PLX_BDEV_WRITE:
    case PLX_BDEV_COMPARE:
        return (size_t)nlb * t->info->block_size;
    case PLX_BDEV_ALLOCATED:
        return sizeof(uint64_t);
    case PLX_BDEV_ZONE_APPEND:
        return (size_t)nlb * t->info->block_size;
    case PLX_BDEV_ZONE_REPORT:
        return nlb * sizeof(struct plx_bdev_zone);
    case PLX_BDEV_COMPARE_AND_WRITE:
        return (size_t)2 * nlb * t->info->block_size;
    case PLX_BDEV_WRITE_ZEROES:
    case PLX_BDEV_UNMAP:
    case PLX_BDEV_FLUSH:
    case PLX_BDEV_COPY:
    case PLX_BDEV_RESET:
    case PLX_BDEV_ZONE_MANAGE:
    case PLX_BDEV_VERIFY:
    case PLX_BDEV_OPS:
        break;
    }
    return 0;
}

void tu_start(struct tu *t, struct tu_req *q, enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data)
{
    q->done = 0;
    q->req->op = (uint8_t)op;
    q->req->lba = lba;
    q->req->nlb = nlb;
    if (q->req->iovcnt == 1)
        q->iov[0] = (struct iovec){data, data_bytes(t, op, nlb)};
    plx_bdev_submit(t->ch, q->req);
}

void tu_turn(struct plx_reactor *r)
{
    if (plx_reactor_poll(r) || plx_reactor_arm(r))
        return;
    int64_t timer = plx_reactor_timeout(r);
    struct pollfd p = {.fd = plx_reactor_fd(r), .events = POLLIN};
    poll(&p, 1, timer < 0 || timer > 1000000000 ? 1000 : (int)(timer / 1000000) + 1);
}

uint16_t tu_finish(struct tu *t, struct tu_req *q)
{
    alarm(60); /* ends the test: it hangs */
    while (!q->done)
        tu_turn(t->reactor);
    alarm(0);
    assert_int_equal(q->done, 1);
    return q->req->status;
}

uint16_t tu_io_flags(struct tu *t, enum plx_bdev_op op, uint8_t flags, uint64_t lba, uint32_t nlb, void *data)
{
    struct tu_req q;
    tu_req_init(&q);
    q.req->flags = flags;
    tu_start(t, &q, op, lba, nlb, data);
    uint16_t status = tu_finish(t, &q);
    tu_req_free(&q);
    return status;
}

uint16_t tu_io(struct tu *t, enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data)
{
    return tu_io_flags(t, op, 0, lba, nlb, data);
}

uint16_t tu_copy(struct tu *t, uint64_t to, uint64_t from, uint32_t nlb)
{
    struct tu_req q;
    tu_req_init(&q);
    q.req->src_lba = from;
    tu_start(t, &q, PLX_BDEV_COPY, to, nlb, NULL);
    uint16_t status = tu_finish(t, &q);
    tu_req_free(&q);
    return status;
}

void tu_check_copies(struct tu *t)
{
    uint64_t seed = 9;
    uint32_t block = t->info->block_size, blocks = (uint32_t)t->info->blocks;
    size_t bytes = (size_t)blocks * block;
    uint8_t *model = tu_pattern(bytes, 5), *out = tu_pattern(bytes, 6);
    assert_int_equal(tu_io(t, PLX_BDEV_WRITE, 0, blocks, model), 0);
    for (int i = 0; i < 100; i++) {
        uint32_t nlb = 1 + tu_random(&seed) % (i % 2 ? 32 : blocks * 3 / 8);
        uint64_t to = tu_random(&seed) % (blocks - nlb), from = tu_random(&seed) % (blocks - nlb);
        assert_int_equal(tu_copy(t, to, from, nlb), 0);
        memmove(model + to * block, model + from * block, (size_t)nlb * block);
    }
    assert_int_equal(tu_io(t, PLX_BDEV_READ, 0, blocks, out), 0);
    assert_memory_equal(model, out, bytes);
    free(model);
    free(out);
}

char tu_path[256], tu_url[300];

int tu_make_file(void **state)
{
    (void)state;
    const char *dir = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(tu_path, sizeof tu_path, "%s/pollux-test-%d", dir, (int)getpid());
    snprintf(tu_url, sizeof tu_url, "file:%s", tu_path);
    int fd = open(tu_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, 4 << 20) < 0)
        return -1;
    close(fd);
    return 0;
}

int tu_remove_file(void **state)
{
    (void)state;
    return unlink(tu_path);
}

void tu_refused(const char *url, const char *word)
{
    struct plx_error err = {""};
    struct plx_bdev *bdev;
    int ret = plx_bdev_open(url, &bdev, &err);
    if (ret >= 0)
        fail_msg("%s was opened", url);
    if (!strstr(err.text, word))
        fail_msg("%s: '%s' does not say '%s'", url, err.text, word);
}

uint32_t tu_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

bool tu_zeroed(const void *p, size_t n)
{
    const uint8_t *b = p;
    return !n || (!b[0] && !memcmp(b, b + 1, n - 1));
}

uint8_t *tu_pattern(size_t bytes, uint32_t seed)
{
    uint64_t state = seed;
    uint8_t *m = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    assert_non_null(m);
    for (size_t i = 0; i < bytes; i++)
        m[i] = (uint8_t)tu_random(&state);
    return m;
}
