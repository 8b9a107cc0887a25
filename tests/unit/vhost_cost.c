/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * So many reads of 4 KiB through a ring, 32 at a time, of a disk that holds nothing: what one costs the server
 * is what callgrind counts below ring_poll().
 *
 *     vhost_cost [BATCHES]
 */
#include "vhost_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 32, SIZE = 128, BYTES = 4096 };

static void make_requests(struct rig *rig)
{
    struct virtq_desc *desc = (void *)rig->memory;
    for (unsigned n = 0; n < DEPTH; n++) {
        const uint64_t place = RIG_DATA + n * 8192;
        const struct virtio_blk_head head = {.type = plx_put32(VIRTIO_BLK_IN), .sector = plx_put64(n * 8)};
        const uint64_t addr[] = {place, place + 4096, place + 64};
        const uint32_t len[] = {sizeof head, BYTES, 1};
        memcpy(rig->memory + place, &head, sizeof head);
        for (unsigned i = 0; i < 3; i++)
            desc[3 * n + i] = (struct virtq_desc){plx_put64(RIG_GUEST + addr[i]), plx_put32(len[i]),
                                                  plx_put16((i < 2 ? VIRTQ_DESC_NEXT : 0) | (i ? VIRTQ_DESC_WRITE : 0)),
                                                  plx_put16(3 * n + i + 1)};
    }
}

static void run_split(struct rig *rig, unsigned batches)
{
    struct virtq_avail *avail = (void *)(rig->memory + RIG_AVAIL);
    const struct virtq_used *used = (void *)(rig->memory + RIG_USED);
    uint16_t idx = 0;
    make_requests(rig);
    for (unsigned i = 0; i < batches; i++) {
        for (unsigned n = 0; n < DEPTH; n++)
            avail->ring[idx++ % SIZE] = plx_put16(3 * n);
        __atomic_store_n(&avail->idx.raw, htole16(idx), __ATOMIC_RELEASE);
        while (plx_get16(used->idx) != idx)
            plx_reactor_poll(rig->reactor);
    }
}

int main(int argc, char **argv)
{
    struct plx_bdev *bdev;
    struct plx_error err;
    struct rig rig;
    const unsigned batches = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 10000;
    if (plx_bdev_open("null:1G", &bdev, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    rig_begin(&rig, bdev, SIZE, VHOST_BIT(VIRTIO_F_VERSION_1), true);
    if (rig_start(&rig, 0))
        return 1;
    run_split(&rig, batches);
    printf("%u requests\n", batches * DEPTH);
    rig_stop(&rig);
    rig_end(&rig);
    return plx_bdev_close(bdev) ? 1 : 0;
}
