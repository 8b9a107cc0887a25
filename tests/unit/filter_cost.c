/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * filter_cost URL LAYERS REQUESTS: reads blocks through filters, for bench/instructions.py to count instructions. Disk
 * "test" does nothing, but not at once: so its channel lists them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filters.h"
#include "test_disk.h"

enum { LAYERS_MAX = 64 };

static long done;

static void read_done(struct plx_bdev_req *req)
{
    done += !req->status;
}

int main(int argc, char **argv)
{
    static struct plx_bdev_req req;
    static uint8_t data[65536] __attribute__((aligned(4096)));
    struct plx_bdev *disks[LAYERS_MAX + 1];
    struct plx_bdev_channel *ch;
    struct plx_reactor *r;
    long layers = argc == 4 ? strtol(argv[2], NULL, 10) : -1, count = argc == 4 ? strtol(argv[3], NULL, 10) : -1;
    if (layers < 0 || layers > LAYERS_MAX || count < 1) {
        fprintf(stderr, "usage: filter_cost URL LAYERS REQUESTS, with up to %d layers\n", LAYERS_MAX);
        return 2;
    }
    struct test_disk *test = strcmp(argv[1], "test") ? NULL : test_disk_new();
    if (test)
        disks[0] = &test->bdev;
    else if (plx_bdev_open(argv[1], &disks[0], NULL))
        return 1;
    if (plx_reactor_create(&r, NULL))
        return 1;
    for (long i = 0; i < layers; i++)
        if (!(disks[i + 1] = filter_forward_new(disks[i])))
            return 1;
    if (plx_bdev_channel_get(disks[layers], r, &ch))
        return 1;
    struct iovec iov = {data, plx_bdev_info(disks[0])->block_size};
    for (long i = 0; i < count; i++) {
        req.done = read_done;
        req.iov = &iov;
        req.iovcnt = 1;
        req.nlb = 1;
        plx_bdev_submit(ch, &req);
        while (done <= i && !(test && test_disk_end(test, 0)))
            plx_reactor_poll(r);
    }
    plx_bdev_channel_put(ch);
    for (; layers >= 0; layers--)
        plx_bdev_close(disks[layers]);
    plx_reactor_destroy(r);
    return 0;
}
