/* SPDX-License-Identifier: BSD-3-Clause */
/* Zoned namespaces of SSDs. */
#include "bdev_util.h"
#include "pcie_model.h"

#include <errno.h>
#include <pollux/nvme_status.h>
#include <stdlib.h>
#include <string.h>

#define URL "pcie://0000:01:00.0/1"

enum { BLOCK = 512, ZONE = 4096, CAPACITY = 3000, ZONES = 16, OPEN = 3, ACTIVE = 4, APPEND = 64 };

struct zoned {
    struct pcie_model *m;
    struct tu t;
    uint8_t *data;
};

static struct pcie_model_opts zoned_opts(void)
{
    struct pcie_model_opts o = pcie_model_defaults;
    o.version = 0x20000;
    o.css = 1 | 1 << 6;
    o.shuffle = 8; /* commands are done in any order */
    o.ns[0] = (struct pcie_model_ns){.nsid = 1,
                                     .block_bits = 9,
                                     .blocks = ZONES * ZONE,
                                     .csi = 2,
                                     .zone_blocks = ZONE,
                                     .zone_capacity = CAPACITY,
                                     .max_open = OPEN,
                                     .max_active = ACTIVE,
                                     .zasl = 3};
    return o;
}

static void zoned_open_with(struct zoned *z, const struct pcie_model_opts *o, const char *url)
{
    pci_open = pcie_model_open;
    z->m = pcie_model_new(o);
    pcie_model_start_thread(z->m);
    tu_open(&z->t, url);
    z->data = malloc(2048 * BLOCK);
    for (unsigned i = 0; i < 2048 * BLOCK; i++)
        z->data[i] = (uint8_t)(i / BLOCK * 3 + i % 251);
}

static void zoned_open(struct zoned *z, const char *url)
{
    const struct pcie_model_opts o = zoned_opts();
    zoned_open_with(z, &o, url);
}

static void zoned_close(struct zoned *z)
{
    tu_close(&z->t);
    assert_string_equal(pcie_model_complaint(z->m, 0), "");
    pcie_model_free(z->m);
    free(z->data);
}

static uint16_t manage(struct zoned *z, unsigned zone, enum plx_bdev_zone_action action, uint8_t flags)
{
    struct tu_req q;
    tu_req_init(&q);
    q.req->zone_action = (uint8_t)action;
    q.req->flags = flags;
    tu_start(&z->t, &q, PLX_BDEV_ZONE_MANAGE, (uint64_t)zone * ZONE, 0, NULL);
    const uint16_t status = tu_finish(&z->t, &q);
    tu_req_free(&q);
    return status;
}

/* @return status; *at is where it went */
static uint16_t append(struct zoned *z, unsigned zone, uint32_t blocks, uint64_t *at)
{
    struct tu_req q;
    tu_req_init(&q);
    tu_start(&z->t, &q, PLX_BDEV_ZONE_APPEND, (uint64_t)zone * ZONE, blocks, z->data);
    const uint16_t status = tu_finish(&z->t, &q);
    if (at)
        *at = q.req->src_lba;
    tu_req_free(&q);
    return status;
}

static struct plx_bdev_zone zone_of(struct zoned *z, unsigned zone)
{
    struct {
        struct plx_bdev_zones head;
        struct plx_bdev_zone zones[2];
    } r;
    assert_int_equal(tu_io(&z->t, PLX_BDEV_ZONE_REPORT, (uint64_t)zone * ZONE, sizeof r / 64, &r), 0);
    assert_int_equal(r.head.count, ZONES - zone);
    assert_int_equal(r.zones[0].lba, zone * ZONE);
    assert_int_equal(r.zones[0].capacity, CAPACITY);
    assert_int_equal(r.zones[0].type, 2);
    assert_int_equal(r.zones[1].lba, zone + 1 < ZONES ? (zone + 1) * ZONE : 0);
    return r.zones[0];
}

static void is_zone(struct zoned *z, unsigned zone, enum plx_bdev_zone_state state, uint64_t written)
{
    const struct plx_bdev_zone is = zone_of(z, zone);
    assert_int_equal(is.state >> 4, state);
    assert_int_equal(is.write_pointer, zone * ZONE + written);
}

/* ---- */

static void it_says_what_it_is(void **state)
{
    struct zoned z;
    (void)state;
    zoned_open(&z, URL);
    assert_int_equal(z.t.info->zone_blocks, ZONE);
    assert_int_equal(z.t.info->max_open_zones, OPEN);
    assert_int_equal(z.t.info->max_active_zones, ACTIVE);
    assert_int_equal(z.t.info->max_append_blocks, APPEND);
    for (int op = 0; op < PLX_BDEV_OPS; op++)
        assert_int_equal(z.t.info->ops >> op & 1, op == PLX_BDEV_READ || op == PLX_BDEV_WRITE || op == PLX_BDEV_FLUSH ||
                                                      op == PLX_BDEV_COMPARE || op == PLX_BDEV_RESET ||
                                                      op == PLX_BDEV_VERIFY || PLX_BDEV_ZONED_OPS >> op & 1);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_WRITE_ZEROES, 0, 8, NULL), PLX_SC_INVALID_OPCODE);
    is_zone(&z, 0, PLX_BDEV_ZONE_IS_EMPTY, 0);
    is_zone(&z, ZONES - 1, PLX_BDEV_ZONE_IS_EMPTY, 0);
    zoned_close(&z);
}

static void zones_are_written_in_order(void **state)
{
    struct zoned z;
    uint8_t back[8 * BLOCK];
    (void)state;
    zoned_open(&z, URL);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_WRITE, ZONE + 8, 8, z.data), PLX_SC_ZONE_INVALID_WRITE);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_WRITE, ZONE, 8, z.data), 0);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_WRITE, ZONE, 8, z.data), PLX_SC_ZONE_INVALID_WRITE);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_READ, ZONE, 8, back), 0);
    assert_memory_equal(back, z.data, sizeof back);
    is_zone(&z, 1, PLX_BDEV_ZONE_IS_OPEN, 8);
    /* More than a command transfers: in pieces, one after the other. */
    assert_int_equal(tu_io(&z.t, PLX_BDEV_WRITE, ZONE + 8, 2048, z.data), 0);
    is_zone(&z, 1, PLX_BDEV_ZONE_IS_OPEN, 2056);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_READ, ZONE + 8 + 2040, 8, back), 0);
    assert_memory_equal(back, z.data + 2040 * BLOCK, sizeof back);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_WRITE, ZONE + 2056, 1000, z.data), PLX_SC_ZONE_BOUNDARY_ERROR);
    is_zone(&z, 1, PLX_BDEV_ZONE_IS_OPEN, 2056 + 768); /* the pieces before it */
    assert_int_equal(tu_io(&z.t, PLX_BDEV_WRITE, ZONE + 2824, CAPACITY - 2824, z.data), 0);
    is_zone(&z, 1, PLX_BDEV_ZONE_IS_FULL, CAPACITY);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_WRITE, ZONE + CAPACITY, 8, z.data), PLX_SC_ZONE_IS_FULL);
    assert_int_equal(append(&z, 1, 1, NULL), PLX_SC_ZONE_IS_FULL);
    zoned_close(&z);
}

static void appends_go_where_they_went(void **state)
{
    enum { MANY = 64 };
    struct zoned z;
    struct tu_req q[MANY];
    uint8_t back[BLOCK];
    bool taken[MANY] = {false};
    uint64_t at;
    (void)state;
    zoned_open(&z, URL);
    assert_int_equal(append(&z, 2, APPEND, &at), 0);
    assert_int_equal(at, 2 * ZONE);
    assert_int_equal(append(&z, 2, APPEND + 1, NULL), PLX_SC_INVALID_FIELD);
    for (unsigned i = 0; i < MANY; i++) {
        tu_req_init(&q[i]);
        tu_start(&z.t, &q[i], PLX_BDEV_ZONE_APPEND, 2 * ZONE, 1, z.data + (size_t)i * BLOCK);
    }
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(tu_finish(&z.t, &q[i]), 0);
        at = q[i].req->src_lba - 2 * ZONE - APPEND;
        assert_in_range(at, 0, MANY - 1);
        assert_false(taken[at]);
        taken[at] = true;
        assert_int_equal(tu_io(&z.t, PLX_BDEV_READ, q[i].req->src_lba, 1, back), 0);
        assert_memory_equal(back, z.data + (size_t)i * BLOCK, BLOCK);
        tu_req_free(&q[i]);
    }
    assert_int_equal(tu_io(&z.t, PLX_BDEV_ZONE_APPEND, 2 * ZONE + 1, 1, z.data), PLX_SC_INVALID_FIELD);
    zoned_close(&z);
}

static void zones_are_managed(void **state)
{
    struct zoned z;
    (void)state;
    zoned_open(&z, URL);
    assert_int_equal(manage(&z, 3, PLX_BDEV_ZONE_OPEN, 0), 0);
    is_zone(&z, 3, PLX_BDEV_ZONE_IS_EXPLICITLY_OPEN, 0);
    assert_int_equal(append(&z, 3, 8, NULL), 0);
    assert_int_equal(manage(&z, 3, PLX_BDEV_ZONE_CLOSE, 0), 0);
    is_zone(&z, 3, PLX_BDEV_ZONE_IS_CLOSED, 8);
    assert_int_equal(manage(&z, 3, PLX_BDEV_ZONE_FINISH, 0), 0);
    assert_int_equal(zone_of(&z, 3).state >> 4, PLX_BDEV_ZONE_IS_FULL);
    assert_int_equal(manage(&z, 3, PLX_BDEV_ZONE_OPEN, 0), PLX_SC_INVALID_ZONE_STATE_TRANSITION);
    assert_int_equal(manage(&z, 3, PLX_BDEV_ZONE_OFFLINE, 0), PLX_SC_INVALID_ZONE_STATE_TRANSITION);
    assert_int_equal(manage(&z, 3, PLX_BDEV_ZONE_RESET, 0), 0);
    is_zone(&z, 3, PLX_BDEV_ZONE_IS_EMPTY, 0);
    for (unsigned i = 0; i < OPEN; i++)
        assert_int_equal(manage(&z, i, PLX_BDEV_ZONE_OPEN, 0), 0);
    assert_int_equal(manage(&z, OPEN, PLX_BDEV_ZONE_OPEN, 0), PLX_SC_TOO_MANY_OPEN_ZONES);
    assert_int_equal(append(&z, 0, 1, NULL), 0);
    assert_int_equal(append(&z, 1, 1, NULL), 0);
    assert_int_equal(manage(&z, 0, PLX_BDEV_ZONE_CLOSE, PLX_BDEV_ALL_ZONES), 0);
    is_zone(&z, 0, PLX_BDEV_ZONE_IS_CLOSED, 1);
    is_zone(&z, 2, PLX_BDEV_ZONE_IS_EMPTY, 0);
    assert_int_equal(append(&z, 2, 1, NULL), 0);
    assert_int_equal(append(&z, 3, 1, NULL), 0);
    assert_int_equal(append(&z, 4, 1, NULL), PLX_SC_TOO_MANY_ACTIVE_ZONES);
    assert_int_equal(manage(&z, 0, PLX_BDEV_ZONE_RESET, PLX_BDEV_ALL_ZONES), 0);
    for (unsigned i = 0; i < ZONES; i++)
        is_zone(&z, i, PLX_BDEV_ZONE_IS_EMPTY, 0);
    assert_int_equal(manage(&z, ZONES, PLX_BDEV_ZONE_RESET, 0), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(manage(&z, 0, 0, 0), PLX_SC_INVALID_FIELD);
    zoned_close(&z);
}

/* Reads the zones of one kind that there are from a zone on; @return how many there are, says the report */
static uint64_t report(struct zoned *z, unsigned from, enum plx_bdev_zone_report of, uint8_t flags, unsigned room,
                       struct plx_bdev_zone *zones)
{
    struct tu_req q;
    struct plx_bdev_zones head;
    struct plx_bdev_zone *all = malloc((room + 1) * sizeof *all);
    memset(all, 0xee, (room + 1) * sizeof *all);
    tu_req_init(&q);
    q.req->zone_report = (uint8_t)of;
    q.req->flags = flags;
    tu_start(&z->t, &q, PLX_BDEV_ZONE_REPORT, (uint64_t)from * ZONE, room + 1, all);
    assert_int_equal(tu_finish(&z->t, &q), 0);
    tu_req_free(&q);
    memcpy(&head, all, sizeof head);
    memcpy(zones, all + 1, room * sizeof *all);
    free(all);
    return head.count;
}

static void zones_of_one_kind_are_reported(void **state)
{
    struct zoned z;
    struct plx_bdev_zone zones[ZONES];
    (void)state;
    zoned_open(&z, URL);
    assert_int_equal(append(&z, 2, 8, NULL), 0);
    assert_int_equal(append(&z, 5, 8, NULL), 0);
    assert_int_equal(manage(&z, 7, PLX_BDEV_ZONE_OPEN, 0), 0);
    assert_int_equal(manage(&z, 5, PLX_BDEV_ZONE_CLOSE, 0), 0);
    assert_int_equal(manage(&z, 8, PLX_BDEV_ZONE_FINISH, 0), 0);
    pcie_model_zone_set(z.m, 1, 9, PLX_BDEV_ZONE_IS_READ_ONLY);
    pcie_model_zone_set(z.m, 1, 10, PLX_BDEV_ZONE_IS_OFFLINE);
    static const struct {
        enum plx_bdev_zone_report of;
        unsigned zone;
    } one[] = {{PLX_BDEV_ZONES_OPEN, 2}, {PLX_BDEV_ZONES_EXPLICITLY_OPEN, 7}, {PLX_BDEV_ZONES_CLOSED, 5},
               {PLX_BDEV_ZONES_FULL, 8}, {PLX_BDEV_ZONES_READ_ONLY, 9},       {PLX_BDEV_ZONES_OFFLINE, 10}};
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(report(&z, 0, one[i].of, 0, 3, zones), 1);
        assert_int_equal(zones[0].lba, one[i].zone * ZONE);
        assert_true(tu_zeroed(zones + 1, 2 * sizeof *zones)); /* whatever the SSD left there */
        assert_int_equal(report(&z, one[i].zone + 1, one[i].of, 0, 3, zones), 0);
    }
    assert_int_equal(report(&z, 0, PLX_BDEV_ZONES_EMPTY, 0, 3, zones), ZONES - 6);
    assert_int_equal(zones[2].lba, 3 * ZONE);
    assert_int_equal(report(&z, 0, PLX_BDEV_ZONES_EMPTY, PLX_BDEV_PARTIAL, 3, zones), 3);
    assert_int_equal(report(&z, 0, PLX_BDEV_ZONES_ALL, PLX_BDEV_PARTIAL, 0, zones), 0);
    assert_int_equal(report(&z, 3, PLX_BDEV_ZONES_ALL, 0, 0, zones), ZONES - 3);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_ZONE_REPORT, 0, 0, NULL), PLX_SC_INVALID_FIELD);
    zoned_close(&z);
}

/* One that a command does not transfer takes several. */
static void a_report_may_be_larger_than_a_transfer(void **state)
{
    enum { MANY = 250 };
    struct zoned z;
    struct plx_bdev_zone zones[MANY + 10];
    struct pcie_model_opts o = zoned_opts();
    (void)state;
    o.mdts = 1; /* 8 KiB: 127 zones */
    o.ns[0].zasl = 1;
    o.ns[0].blocks = MANY * ZONE;
    zoned_open_with(&z, &o, URL);
    for (unsigned room = 126; room <= MANY + 10; room += room == 128 ? 124 : room == 255 ? 5 : 1) {
        for (unsigned flags = 0; flags <= PLX_BDEV_PARTIAL; flags += PLX_BDEV_PARTIAL) {
            const unsigned told = room < MANY ? room : MANY;
            assert_int_equal(report(&z, 0, PLX_BDEV_ZONES_ALL, (uint8_t)flags, room, zones), flags ? told : MANY);
            for (unsigned i = 0; i < told; i++)
                assert_int_equal(zones[i].lba, i * ZONE);
            assert_true(tu_zeroed(zones + told, (room - told) * sizeof *zones));
        }
    }
    for (unsigned i = 0; i < MANY; i++)
        if (i % 3)
            pcie_model_zone_set(z.m, 1, i, PLX_BDEV_ZONE_IS_FULL);
    assert_int_equal(report(&z, 0, PLX_BDEV_ZONES_FULL, 0, MANY, zones), 166);
    for (unsigned i = 0; i < 166; i++)
        assert_int_equal(zones[i].lba, (i / 2 * 3 + i % 2 + 1) * ZONE);
    assert_true(tu_zeroed(zones + 166, (MANY - 166) * sizeof *zones));
    zoned_close(&z);
}

static void reads_stay_in_a_zone_unless_the_ssd_says_otherwise(void **state)
{
    (void)state;
    for (uint16_t across = 0; across < 2; across++) {
        struct pcie_model_opts o = zoned_opts();
        struct zoned z;
        uint8_t back[16 * BLOCK];
        o.ns[0].ozcs = across;
        o.ns[0].zoc = across ? 3 : 0;
        zoned_open_with(&z, &o, URL);
        assert_int_equal(z.t.info->reads_cross_zones, across);
        assert_int_equal(z.t.info->zone_capacity_varies, across);
        assert_int_equal(z.t.info->zones_finish, across);
        assert_int_equal(tu_io(&z.t, PLX_BDEV_READ, ZONE - 8, 16, back), across ? 0 : PLX_SC_ZONE_BOUNDARY_ERROR);
        zoned_close(&z);
    }
}

/* A write that may have been done is not done once more: it ends, and whoever wrote looks where the zone is. */
static void what_is_lost_is_not_written_twice(void **state)
{
    static const enum plx_bdev_op ops[] = {PLX_BDEV_WRITE, PLX_BDEV_ZONE_APPEND};
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct zoned z;
        struct tu_req q;
        zoned_open(&z, URL "?timeout=1");
        pcie_model_fault(z.m, &(struct pcie_model_fault){.kind = PCIE_MODEL_LOSE,
                                                         .qid = PCIE_MODEL_IO,
                                                         .opcode = i ? 0x7d : 0x01}); /* done, and not answered */
        tu_req_init(&q);
        tu_start(&z.t, &q, ops[i], 0, 8, z.data);
        assert_int_equal(tu_finish(&z.t, &q), PLX_SC_TRANSIENT_TRANSPORT_ERROR);
        tu_req_free(&q);
        assert_int_equal(zone_of(&z, 0).write_pointer, 8);
        assert_int_equal(tu_io(&z.t, PLX_BDEV_WRITE, 8, 8, z.data), 0);
        zoned_close(&z);
    }
}

/* Nothing that asks about other disks gets what only these have, and requests that make no sense do not get far. */
static void what_is_not_of_zones_has_none_of_it(void **state)
{
    struct zoned z;
    struct tu t;
    uint8_t report[256];
    (void)state;
    zoned_open(&z, URL);
    assert_int_equal(tu_io(&z.t, PLX_BDEV_ZONE_REPORT, ZONES * ZONE, 4, report), PLX_SC_LBA_OUT_OF_RANGE);
    zoned_close(&z);
    tu_open(&t, "ram:1M");
    assert_int_equal(t.info->zone_blocks, 0);
    assert_int_equal(t.info->ops & PLX_BDEV_ZONED_OPS, 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_ZONE_APPEND, 0, 1, report), PLX_SC_INVALID_OPCODE);
    assert_int_equal(tu_io(&t, PLX_BDEV_ZONE_MANAGE, 0, 1, NULL), PLX_SC_INVALID_OPCODE);
    assert_int_equal(tu_io(&t, PLX_BDEV_ZONE_REPORT, 0, 4, report), PLX_SC_INVALID_OPCODE);
    tu_close(&t);
}

/* Appends would have to be protected where nobody knows yet. */
static void zones_of_blocks_with_metadata_are_refused(void **state)
{
    struct pcie_model_opts o = zoned_opts();
    struct plx_bdev *bdev;
    struct plx_error err;
    (void)state;
    o.ns[0].metadata = 8;
    o.ns[0].pi = 1;
    o.ctratt = PCIE_MODEL_CTRATT_ELBAS;
    pci_open = pcie_model_open;
    struct pcie_model *m = pcie_model_new(&o);
    pcie_model_start_thread(m);
    assert_int_equal(plx_bdev_open(URL, &bdev, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "namespace 1 is zoned, and has metadata, 8 bytes a block; format it without"));
    assert_string_equal(pcie_model_complaint(m, 0), "");
    pcie_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_says_what_it_is),
        cmocka_unit_test(zones_are_written_in_order),
        cmocka_unit_test(appends_go_where_they_went),
        cmocka_unit_test(zones_are_managed),
        cmocka_unit_test(zones_of_one_kind_are_reported),
        cmocka_unit_test(a_report_may_be_larger_than_a_transfer),
        cmocka_unit_test(reads_stay_in_a_zone_unless_the_ssd_says_otherwise),
        cmocka_unit_test(what_is_lost_is_not_written_twice),
        cmocka_unit_test(what_is_not_of_zones_has_none_of_it),
        cmocka_unit_test(zones_of_blocks_with_metadata_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
