/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk whose power is cut, over one that ends requests when it is told to: what it asks of that, and when. */
#include "bdev_util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "base/uuid.h"
#include "bdev/filter/crash.h"
#include "test_disk.h"

enum { OFF = PLX_SC_INVALID_NAMESPACE_OR_FORMAT, BLOCK = 512 };

static struct plx_crash_state look(struct plx_bdev *bdev)
{
    struct plx_crash_state s;
    plx_crash_look(bdev, &s);
    return s;
}

static uint32_t choose_none(void *arg, const struct plx_crash_write *writes, uint32_t n, struct plx_crash_keep *keep)
{
    (void)arg, (void)writes, (void)n, (void)keep;
    return 0;
}

struct thumb {
    struct test_disk *d;
    struct tu t;
    uint8_t data[2 * BLOCK];
};

static void thumb_begin(struct thumb *s, const char *settings)
{
    const char *uuid = "11111111-2222-3333-4444-555555555555";
    struct plx_error err = {""};
    char url[128];
    struct plx_bdev *bdev;
    memset(s, 0, sizeof *s);
    s->d = test_disk_new();
    assert_true(plx_uuid_parse(uuid, s->d->bdev.info.uuid));
    snprintf(url, sizeof url, "crash:%s?seed=1%s", uuid, settings);
    if (plx_bdev_open(url, &bdev, &err))
        fail_msg("%s", err.text);
    tu_join(&s->t, bdev);
}

static void thumb_end(struct thumb *s)
{
    assert_null(s->d->first);
    tu_close(&s->t);
    assert_int_equal(plx_bdev_close(&s->d->bdev), 0);
}

static void thumb_start(struct thumb *s, struct tu_req *q, enum plx_bdev_op op, uint8_t flags)
{
    tu_req_init(q);
    q->req->flags = flags;
    tu_start(&s->t, q, op, 3, 1, s->data);
}

/* The disk below has this request first, and ends it. */
static void below_ends(struct thumb *s, enum plx_bdev_op op)
{
    assert_non_null(s->d->first);
    assert_int_equal(s->d->first->op, op);
    test_disk_end(s->d, PLX_SC_SUCCESS);
    while (plx_reactor_poll(s->t.reactor))
        ;
}

static void is_ended(struct tu_req *q, uint16_t status)
{
    assert_int_equal(q->done, 1);
    assert_int_equal(q->req->status, status);
    tu_req_free(q);
}

static void a_read_that_a_write_overtook_below_is_read_again(void **state)
{
    (void)state;
    struct thumb s;
    struct tu_req write, flush, read;
    thumb_begin(&s, "");
    thumb_start(&s, &write, PLX_BDEV_WRITE, 0);
    is_ended(&write, 0);
    thumb_start(&s, &flush, PLX_BDEV_FLUSH, 0);
    thumb_start(&s, &read, PLX_BDEV_READ, 0);
    below_ends(&s, PLX_BDEV_WRITE);
    below_ends(&s, PLX_BDEV_READ); /* which may have been before that */
    assert_int_equal(read.done, 0);
    below_ends(&s, PLX_BDEV_FLUSH);
    is_ended(&flush, 0);
    below_ends(&s, PLX_BDEV_READ);
    is_ended(&read, 0);
    thumb_end(&s);
}

/* Whatever it was at: below, in line behind that, or waiting for memory. */
static void what_is_in_flight_as_power_is_cut_fails(void **state)
{
    (void)state;
    struct thumb s;
    struct tu_req large, flush, fua, room, read;
    uint8_t *data = calloc(256, BLOCK);
    assert_non_null(data);
    thumb_begin(&s, "&memory=64K");
    tu_req_init(&large);
    tu_start(&s.t, &large, PLX_BDEV_WRITE, 1000, 256, data);
    is_ended(&large, 0);
    thumb_start(&s, &flush, PLX_BDEV_FLUSH, 0);
    thumb_start(&s, &fua, PLX_BDEV_WRITE, PLX_BDEV_FUA);
    thumb_start(&s, &room, PLX_BDEV_WRITE, 0);
    thumb_start(&s, &read, PLX_BDEV_READ, 0);
    plx_crash_choose(s.t.bdev, choose_none, NULL);
    assert_int_equal(plx_bdev_crash_cut(s.t.bdev, NULL), 0);
    below_ends(&s, PLX_BDEV_WRITE); /* as a job that is under way takes its step to the end */
    is_ended(&flush, OFF);
    is_ended(&fua, OFF);
    is_ended(&room, OFF);
    assert_false(look(s.t.bdev).settled);
    below_ends(&s, PLX_BDEV_READ);
    is_ended(&read, OFF);
    below_ends(&s, PLX_BDEV_FLUSH); /* the cut's */
    assert_true(look(s.t.bdev).settled);
    free(data);
    thumb_end(&s);
}

/* So that who sees it fail can close the disk. */
static void the_request_that_cuts_power_ends_when_what_is_left_is_there(void **state)
{
    (void)state;
    struct thumb s;
    struct tu_req q, after;
    thumb_begin(&s, "&cut_write=2");
    thumb_start(&s, &q, PLX_BDEV_WRITE, 0);
    is_ended(&q, 0);
    thumb_start(&s, &q, PLX_BDEV_ALLOCATED, 0); /* is no request that counts */
    below_ends(&s, PLX_BDEV_ALLOCATED);
    is_ended(&q, 0);
    plx_crash_choose(s.t.bdev, choose_none, NULL);
    thumb_start(&s, &q, PLX_BDEV_WRITE, 0);
    thumb_start(&s, &after, PLX_BDEV_READ, 0);
    is_ended(&after, OFF);
    plx_bdev_abort(s.t.ch, q.req);
    assert_int_equal(q.done, 0);
    below_ends(&s, PLX_BDEV_FLUSH);
    is_ended(&q, OFF);
    assert_int_equal(look(s.t.bdev).requests, 2);
    thumb_end(&s);
}

static void errors_below_reach_who_is_concerned(void **state)
{
    (void)state;
    struct thumb s;
    struct tu_req q;
    thumb_begin(&s, "");
    thumb_start(&s, &q, PLX_BDEV_WRITE, 0);
    is_ended(&q, 0);
    thumb_start(&s, &q, PLX_BDEV_FLUSH, 0);
    test_disk_end(s.d, PLX_SC_WRITE_FAULT);
    is_ended(&q, PLX_SC_WRITE_FAULT);
    assert_int_equal(look(s.t.bdev).held, 1); /* it is not lost, */
    thumb_start(&s, &q, PLX_BDEV_READ, 0);
    test_disk_end(s.d, PLX_SC_UNRECOVERED_READ_ERROR);
    is_ended(&q, PLX_SC_UNRECOVERED_READ_ERROR);
    thumb_start(&s, &q, PLX_BDEV_FLUSH, 0); /* and tried again */
    below_ends(&s, PLX_BDEV_WRITE);
    test_disk_end(s.d, PLX_SC_INTERNAL_ERROR);
    is_ended(&q, PLX_SC_INTERNAL_ERROR);
    thumb_start(&s, &q, PLX_BDEV_WRITE, PLX_BDEV_FUA);
    test_disk_end(s.d, PLX_SC_LBA_OUT_OF_RANGE); /* of a disk that has shrunk: it is let go of */
    below_ends(&s, PLX_BDEV_FLUSH);
    is_ended(&q, 0);
    assert_int_equal(look(s.t.bdev).held, 0);
    thumb_end(&s);
}

/* What it still has a place for is not lost. */
static void a_write_across_the_end_of_a_disk_that_shrank_gets_there_in_part(void **state)
{
    (void)state;
    struct thumb s;
    struct tu_req q;
    thumb_begin(&s, "");
    tu_req_init(&q);
    tu_start(&s.t, &q, PLX_BDEV_WRITE, 3, 2, s.data);
    is_ended(&q, 0);
    plx_bdev_resized(&s.d->bdev, 4);
    thumb_start(&s, &q, PLX_BDEV_FLUSH, 0);
    assert_non_null(s.d->first);
    assert_int_equal(s.d->first->lba, 3);
    assert_int_equal(s.d->first->nlb, 1);
    below_ends(&s, PLX_BDEV_WRITE);
    below_ends(&s, PLX_BDEV_FLUSH);
    is_ended(&q, 0);
    assert_int_equal(look(s.t.bdev).held, 0);
    thumb_end(&s);
}

static void what_waits_for_memory_while_the_disk_shrinks_goes_where_it_was_to(void **state)
{
    (void)state;
    struct thumb s;
    struct tu_req large, room, flush;
    uint8_t *data = calloc(256, BLOCK);
    assert_non_null(data);
    thumb_begin(&s, "&memory=64K&misdirect=1000");
    tu_req_init(&large);
    tu_start(&s.t, &large, PLX_BDEV_WRITE, 1000, 256, data);
    is_ended(&large, 0);
    tu_req_init(&room);
    tu_start(&s.t, &room, PLX_BDEV_WRITE, 3, 2, s.data);
    assert_int_equal(room.done, 0);
    plx_bdev_resized(&s.d->bdev, 1); /* no place for two blocks */
    below_ends(&s, PLX_BDEV_WRITE);
    is_ended(&room, 0);
    thumb_start(&s, &flush, PLX_BDEV_FLUSH, 0);
    below_ends(&s, PLX_BDEV_FLUSH);
    is_ended(&flush, 0);
    assert_int_equal(look(s.t.bdev).held, 0);
    free(data);
    thumb_end(&s);
}

static void what_waits_can_be_aborted(void **state)
{
    (void)state;
    struct thumb s;
    struct tu_req write, flush, second, fua, read;
    thumb_begin(&s, "");
    thumb_start(&s, &write, PLX_BDEV_WRITE, 0);
    is_ended(&write, 0);
    thumb_start(&s, &flush, PLX_BDEV_FLUSH, 0);
    thumb_start(&s, &second, PLX_BDEV_FLUSH, 0);
    thumb_start(&s, &fua, PLX_BDEV_WRITE, PLX_BDEV_FUA);
    thumb_start(&s, &read, PLX_BDEV_READ, 0);
    struct tu_req *all[] = {&second, &fua, &read};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(all); i++) {
        plx_bdev_abort(s.t.ch, all[i]->req);
        is_ended(all[i], PLX_SC_ABORTED_BY_REQUEST);
    }
    plx_bdev_abort(s.t.ch, flush.req); /* which is under way, and is not */
    assert_int_equal(flush.done, 0);
    below_ends(&s, PLX_BDEV_WRITE);
    below_ends(&s, PLX_BDEV_FLUSH);
    is_ended(&flush, 0);
    assert_int_equal(look(s.t.bdev).held, 1); /* what was aborted may be there, */
    thumb_start(&s, &flush, PLX_BDEV_FLUSH, 0);
    below_ends(&s, PLX_BDEV_WRITE); /* and is flushed with the rest */
    below_ends(&s, PLX_BDEV_FLUSH);
    is_ended(&flush, 0);
    thumb_end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_read_that_a_write_overtook_below_is_read_again),
        cmocka_unit_test(what_is_in_flight_as_power_is_cut_fails),
        cmocka_unit_test(the_request_that_cuts_power_ends_when_what_is_left_is_there),
        cmocka_unit_test(errors_below_reach_who_is_concerned),
        cmocka_unit_test(a_write_across_the_end_of_a_disk_that_shrank_gets_there_in_part),
        cmocka_unit_test(what_waits_for_memory_while_the_disk_shrinks_goes_where_it_was_to),
        cmocka_unit_test(what_waits_can_be_aborted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
