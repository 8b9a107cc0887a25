/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost_cost split|packed read|write BATCHES: so many batches of 32 requests of 4 KiB through a ring that has a region
 * of requests in flight, of a disk that holds nothing. What they cost the server is what is counted in ring_poll(), by
 * bench/instructions.py.
 */
#include "vhost_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 32, SIZE = 128, BYTES = 4096, PARTS = 3 };

static struct rig rig;
static bool packed, writes;

/* ---- requests: a header, data, a status ---- */

static uint64_t part_place(unsigned n, unsigned part)
{
    static const unsigned within[PARTS] = {0, 4096, 64};
    return RIG_DATA + n * 8192 + within[part];
}

static void make_headers(void)
{
    for (unsigned n = 0; n < DEPTH; n++) {
        const struct virtio_blk_head head = {.type = plx_put32(writes ? VIRTIO_BLK_OUT : VIRTIO_BLK_IN),
                                             .sector = plx_put64(n * 8)};
        memcpy(rig.memory + part_place(n, 0), &head, sizeof head);
        rig.memory[part_place(n, 2)] = 0xff;
    }
}

static bool all_went_well(void)
{
    bool ok = !rig.ring.broken;
    for (unsigned n = 0; n < DEPTH; n++)
        ok = ok && rig.memory[part_place(n, 2)] == VIRTIO_BLK_OK;
    return ok;
}

static uint32_t part_len(unsigned part)
{
    static const uint32_t len[PARTS] = {sizeof(struct virtio_blk_head), BYTES, 1};
    return len[part];
}

static uint16_t part_flags(unsigned part)
{
    const bool in = part == 2 || (part == 1 && !writes);
    return (uint16_t)((part < 2 ? VIRTQ_DESC_NEXT : 0) | (in ? VIRTQ_DESC_WRITE : 0));
}

/* ---- split ---- */

static void make_descriptors(void)
{
    struct virtq_desc *desc = (void *)(rig.memory + RIG_DESC);
    for (unsigned i = 0; i < DEPTH * PARTS; i++)
        desc[i] =
            (struct virtq_desc){plx_put64(RIG_GUEST + part_place(i / PARTS, i % PARTS)), plx_put32(part_len(i % PARTS)),
                                plx_put16(part_flags(i % PARTS)), plx_put16(i + 1)};
}

static void split_batch(void)
{
    struct virtq_avail *avail = (void *)(rig.memory + RIG_AVAIL);
    const struct virtq_used *used = (void *)(rig.memory + RIG_USED);
    uint16_t idx = plx_get16(avail->idx);
    for (unsigned n = 0; n < DEPTH; n++)
        avail->ring[idx++ % SIZE] = plx_put16(n * PARTS);
    __atomic_store_n(&avail->idx.raw, htole16(idx), __ATOMIC_RELEASE);
    while (plx_get16(used->idx) != idx)
        plx_reactor_poll(rig.reactor);
}

/* ---- packed ---- */

static void packed_batch(void)
{
    static bool wrap = true;
    static unsigned at;
    const uint16_t both = VIRTQ_PACKED_AVAIL | VIRTQ_PACKED_USED;
    struct virtq_packed_desc *desc = (void *)(rig.memory + RIG_DESC), *last = NULL;
    uint16_t used = 0;
    for (unsigned i = 0; i < DEPTH * PARTS; i++) {
        const uint16_t flags = wrap ? VIRTQ_PACKED_AVAIL : VIRTQ_PACKED_USED;
        desc[at] = (struct virtq_packed_desc){plx_put64(RIG_GUEST + part_place(i / PARTS, i % PARTS)),
                                              plx_put32(part_len(i % PARTS)), plx_put16(i / PARTS),
                                              plx_put16(flags | part_flags(i % PARTS))};
        if (i == (DEPTH - 1) * PARTS) { /* where it is told that the last is through */
            last = &desc[at];
            used = wrap ? both : 0;
        }
        at = (at + 1) % SIZE;
        wrap ^= !at;
    }
    while ((plx_get16(last->flags) & both) != used)
        plx_reactor_poll(rig.reactor);
}

int main(int argc, char **argv)
{
    struct plx_bdev *bdev;
    struct plx_error err;
    if (argc != 4) {
        fprintf(stderr, "usage: vhost_cost split|packed read|write BATCHES\n");
        return 2;
    }
    packed = !strcmp(argv[1], "packed");
    writes = !strcmp(argv[2], "write");
    if (plx_bdev_open("null:1G", &bdev, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    rig_begin(&rig, bdev, SIZE, VHOST_BIT(VIRTIO_F_VERSION_1) | (packed ? VHOST_BIT(VIRTIO_F_RING_PACKED) : 0), true);
    if (rig_start(&rig, packed ? 0x80008000 : 0))
        return 1;
    make_headers();
    if (!packed)
        make_descriptors();
    for (unsigned long left = strtoul(argv[3], NULL, 10); left; left--)
        if (packed)
            packed_batch();
        else
            split_batch();
    if (!all_went_well())
        return 1;
    rig_stop(&rig);
    rig_end(&rig);
    return plx_bdev_close(bdev) ? 1 : 0;
}
