/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * disk_iovecs DISK SEED REQUESTS: writes and reads requests of all lengths, from and to memory in pieces of all lengths
 * and places, and compares with a copy of what the disk has to hold. Not a test: tests/vm runs it, where disks are that
 * only a kernel has.
 */
#include <pollux/bdev.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    LENGTH = 8 << 20, /* of the disk, that is used */
    LONGEST = 2 << 20,
    PIECES = 200,
};

struct request {
    struct plx_bdev_req req;
    bool done;
};

static uint64_t seed;

static uint32_t below(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % n;
}

static void fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)below(256);
}

static void request_done(struct plx_bdev_req *req)
{
    ((struct request *)(void *)req)->done = true;
}

static uint16_t run(struct plx_reactor *r, struct plx_bdev_channel *ch, struct request *q)
{
    q->req.done = request_done;
    q->done = false;
    plx_bdev_submit(ch, &q->req);
    while (!q->done)
        plx_reactor_poll(r);
    return q->req.status;
}

/* Cuts memory into pieces, with gaps between some. @return how many */
static unsigned cut(uint8_t *mem, size_t length, struct iovec *iov)
{
    const uint32_t unit = (uint32_t[]){1, 4, 512, 4096}[below(4)];
    const uint32_t longest = (uint32_t[]){600, 5000, 70000, LONGEST}[below(4)] / unit + 1;
    size_t at = (size_t)below(64) * unit;
    unsigned n = 0;
    for (; length; n++) {
        size_t piece = (size_t)(1 + below(longest)) * unit;
        if (n == PIECES - 1 || piece > length)
            piece = length;
        iov[n] = (struct iovec){mem + at, piece};
        at += piece + (size_t)below(3) * unit;
        length -= piece;
    }
    return n;
}

static bool same(const uint8_t *model, const struct iovec *iov, unsigned n)
{
    for (unsigned i = 0; i < n; model += iov[i++].iov_len)
        if (memcmp(model, iov[i].iov_base, iov[i].iov_len) != 0)
            return false;
    return true;
}

/* Memory whose pages are mostly not one behind the other for the device: the last one is touched first. */
static uint8_t *scattered(size_t bytes)
{
    uint8_t *mem = aligned_alloc(4096, bytes);
    if (!mem)
        return NULL;
    madvise(mem, bytes, MADV_NOHUGEPAGE);
    for (size_t at = bytes; at; at -= 4096)
        mem[at - 1] = 1;
    return mem;
}

int main(int argc, char **argv)
{
    struct plx_error err;
    struct plx_reactor *r;
    struct plx_bdev *disk;
    struct plx_bdev_channel *ch;
    struct iovec iov[PIECES];
    struct request *q = calloc(1, sizeof *q);
    uint8_t *model = aligned_alloc(4096, LENGTH), *mem = scattered((size_t)4 * LONGEST);
    if (argc != 4 || !q || !model || !mem)
        return 2;
    seed = strtoull(argv[2], NULL, 10);
    if (plx_reactor_create(&r, NULL) || plx_bdev_open(argv[1], &disk, &err) || plx_bdev_channel_get(disk, r, &ch)) {
        fprintf(stderr, "%s\n", err.text);
        return 2;
    }
    const uint32_t block = plx_bdev_info(disk)->block_size;
    fill(model, LENGTH);
    iov[0] = (struct iovec){model, LENGTH};
    q->req = (struct plx_bdev_req){.iov = iov, .iovcnt = 1, .op = PLX_BDEV_WRITE, .nlb = LENGTH / block};
    uint16_t status = run(r, ch, q);
    unsigned long i = 0;
    for (bool right = true; !status && i < strtoul(argv[3], NULL, 10); i++) {
        const uint32_t nlb = 1 + below((below(4) ? 65536 : LONGEST) / block), lba = below(LENGTH / block - nlb);
        const bool writes = below(2);
        unsigned n = cut(mem, (size_t)nlb * block, iov);
        for (unsigned k = 0; k < n; k++)
            fill(iov[k].iov_base, iov[k].iov_len);
        q->req = (struct plx_bdev_req){
            .iov = iov, .iovcnt = n, .op = writes ? PLX_BDEV_WRITE : PLX_BDEV_READ, .lba = lba, .nlb = nlb};
        status = run(r, ch, q);
        uint8_t *at = model + (size_t)lba * block;
        for (unsigned k = 0; writes && k < n; at += iov[k++].iov_len)
            memcpy(at, iov[k].iov_base, iov[k].iov_len);
        right = status || writes || same(at, iov, n);
        if (!right) {
            printf("request %lu of seed %s, %u blocks in %u pieces, reads what was not written\n", i, argv[2], nlb, n);
            return 1;
        }
    }
    if (status)
        printf("request %lu of seed %s ends with status %03x\n", i, argv[2], status);
    plx_bdev_channel_put(ch);
    plx_bdev_close(disk);
    plx_reactor_destroy(r);
    free(q);
    free(model);
    free(mem);
    return status != 0;
}
