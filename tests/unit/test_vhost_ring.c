/* SPDX-License-Identifier: BSD-3-Clause */
/* A ring whose memory changes while it has requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "test_disk.h"
#include "vhost_rig.h"

enum { SIZE = 64 };

/* A flush, whose descriptors are 2 n and the one behind. */
static void offer(struct rig *rig, unsigned n)
{
    struct virtq_desc *desc = (void *)(rig->memory + RIG_DESC);
    struct virtq_avail *avail = (void *)(rig->memory + RIG_AVAIL);
    const struct virtio_blk_head head = {.type = plx_put32(VIRTIO_BLK_FLUSH)};
    const unsigned place = RIG_DATA + n * 64, i = 2 * n;
    memcpy(rig->memory + place, &head, sizeof head);
    desc[i] = (struct virtq_desc){plx_put64(RIG_GUEST + place), plx_put32(sizeof head), plx_put16(VIRTQ_DESC_NEXT),
                                  plx_put16(i + 1)};
    desc[i + 1] =
        (struct virtq_desc){plx_put64(RIG_GUEST + place + 32), plx_put32(1), plx_put16(VIRTQ_DESC_WRITE), plx_put16(0)};
    avail->ring[plx_get16(avail->idx) % SIZE] = plx_put16(i);
    avail->idx = plx_put16(plx_get16(avail->idx) + 1);
    rig_poll(rig);
}

/* @return how many requests have been published when the n-th of those that the disk has ended */
static unsigned end_nth(struct rig *rig, struct test_disk *d, unsigned n)
{
    const struct virtq_used *used = (void *)(rig->memory + RIG_USED);
    struct plx_bdev_req *req = d->first;
    while (n--)
        req = req->next;
    plx_bdev_abort(rig->channel, req);
    rig_poll(rig);
    return plx_get16(used->idx);
}

static struct vhost_table *another_table(struct rig *rig)
{
    const struct vhost_mem_region is = {RIG_GUEST, RIG_BYTES, RIG_GUEST, 0};
    struct vhost_table *table;
    assert_int_equal(vhost_table_set(&table, rig->table, &is, &rig->fd, 1, &rig->halted, NULL), 0);
    return table;
}

static void the_table_before_is_left_when_its_last_request_is_through(void **state)
{
    struct test_disk *d = test_disk_new();
    struct rig rig;
    (void)state;
    rig_begin(&rig, &d->bdev, SIZE, VHOST_BIT(VIRTIO_F_VERSION_1), false);
    assert_int_equal(rig_start(&rig, 0), 0);
    for (int turn = 1; turn <= 2; turn++) {
        const unsigned before = (turn - 1) * 4;
        struct vhost_table *old = rig.table;
        offer(&rig, 0);
        offer(&rig, 1);
        rig.ring.want.table = rig.table = another_table(&rig);
        rig_order(&rig);
        offer(&rig, 2);
        offer(&rig, 3);
        assert_int_equal(end_nth(&rig, d, 2), before + 1); /* of the new table */
        assert_int_equal(end_nth(&rig, d, 0), before + 2);
        assert_int_equal(rig.old_done, turn - 1);
        assert_int_equal(end_nth(&rig, d, 0), before + 3);
        assert_int_equal(rig.old_done, turn);
        assert_int_equal(end_nth(&rig, d, 0), before + 4);
        assert_int_equal(rig.old_done, turn);
        vhost_table_free(old);
    }
    struct vhost_table *old = rig.table;
    rig.ring.want.table = rig.table = another_table(&rig);
    rig_order(&rig);
    rig_poll(&rig);
    assert_int_equal(rig.old_done, 3); /* at once, without requests */
    vhost_table_free(old);
    rig_stop(&rig);
    rig_end(&rig);
    plx_bdev_close(&d->bdev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_before_is_left_when_its_last_request_is_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
