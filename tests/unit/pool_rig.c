/* SPDX-License-Identifier: BSD-3-Clause */
#include "pool_rig.h"

#include <pollux/bdev_filter.h>
#include <pollux/pool_check.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/driver.h"
#include "bdev/filter/crash.h"
#include "reactor/clock.h"

void rig_disk(struct pool_rig *rig, const char *url)
{
    struct plx_error err = {""};
    memset(rig, 0, sizeof *rig);
    assert_int_equal(plx_reactor_create(&rig->reactor, NULL), 0);
    if (plx_bdev_open(url, &rig->disk, &err))
        fail_msg("%s: %s", url, err.text);
}

static uint64_t simulated_ns;

static uint64_t simulated(void)
{
    return simulated_ns;
}

void rig_simulate(bool on)
{
    simulated_ns = 1000 * PLX_NS_PER_S;
    plx_clock_simulate(on ? simulated : NULL);
}

void rig_turn(struct plx_reactor *r)
{
    if (!plx_clock_simulated()) {
        tu_turn(r);
    } else if (!plx_reactor_poll(r)) {
        int64_t timeout = plx_reactor_timeout(r);
        simulated_ns += timeout > 0 ? (uint64_t)timeout : 0;
    }
}

void rig_pool(struct pool_rig *rig)
{
    struct plx_error err = {""};
    const struct pool_keeper keeper = {rig->reactor, rig_turn};
    if (pool_open_on(rig->disk, &keeper, &rig->pool, &err))
        fail_msg("%s", err.text);
}

static bool with_checksums;

void rig_checksums(bool on)
{
    with_checksums = on;
}

void rig_make_here(struct pool_rig *rig, const struct plx_pool_opts *opts)
{
    struct plx_error err = {""};
    struct plx_pool_opts o = opts ? *opts : (struct plx_pool_opts){0};
    const struct pool_keeper keeper = {rig->reactor, rig_turn};
    o.checksums |= with_checksums;
    if (pool_make_on(rig->disk, &keeper, &o, &err))
        fail_msg("%s", err.text);
    rig_pool(rig);
}

void rig_make(struct pool_rig *rig, const char *url, const struct plx_pool_opts *opts)
{
    rig_disk(rig, url);
    rig_make_here(rig, opts);
}

void rig_disk_size(struct pool_rig *rig, uint64_t bytes)
{
    plx_bdev_resized(rig->disk, bytes / plx_bdev_info(rig->disk)->block_size);
    while (plx_reactor_poll(rig->reactor)) /* who heard of it has looked at it */
        ;
}

void rig_make_small(struct pool_rig *rig, const char *url, const struct plx_pool_opts *opts, uint64_t bytes)
{
    rig_disk(rig, url);
    const uint64_t all = plx_bdev_blocks(rig->disk) * plx_bdev_info(rig->disk)->block_size;
    rig_disk_size(rig, bytes);
    rig_make_here(rig, opts);
    rig_disk_size(rig, all);
}

void rig_reopen(struct pool_rig *rig)
{
    assert_int_equal(pool_close_on(rig->pool), 0);
    rig_pool(rig);
}

void rig_end(struct pool_rig *rig)
{
    if (rig->pool)
        assert_int_equal(pool_close_on(rig->pool), 0);
    assert_int_equal(plx_bdev_close(rig->disk), 0);
    plx_reactor_destroy(rig->reactor);
}

static void op_done(struct plx_pool_op *op)
{
    *(bool *)op->arg = true;
}

void rig_begin(struct pool_rig *rig, struct plx_pool_op *op, bool *done)
{
    *done = false;
    op->done = op_done;
    op->arg = done;
    op->reactor = rig->reactor;
    plx_pool_submit(rig->pool, op);
}

int rig_run(struct pool_rig *rig, struct plx_pool_op *op)
{
    bool done;
    rig_begin(rig, op, &done);
    while (!done)
        rig_turn(rig->reactor);
    return op->result;
}

int rig_try(struct pool_rig *rig, enum plx_pool_op_kind kind, const char *volume, const char *name, uint64_t size)
{
    struct plx_pool_op op = {.kind = kind, .volume = volume, .name = name, .size = size};
    return rig_run(rig, &op);
}

void rig_do(struct pool_rig *rig, enum plx_pool_op_kind kind, const char *volume, const char *name, uint64_t size)
{
    struct plx_pool_op op = {.kind = kind, .volume = volume, .name = name, .size = size};
    if (rig_run(rig, &op))
        fail_msg("operation %d on %s: %s", kind, volume ? volume : name, op.err.text);
}

void rig_create(struct pool_rig *rig, const char *name, uint64_t size)
{
    rig_do(rig, PLX_POOL_CREATE, NULL, name, size);
}

void rig_open(struct pool_rig *rig, const char *name, struct tu *t)
{
    struct plx_error err = {""};
    memset(t, 0, sizeof *t);
    rig->pool->refs++;
    if (pool_disk_new(rig->pool, name, &t->bdev, &err) || plx_bdev_register(t->bdev, "volume", name, NULL, &err))
        fail_msg("%s: %s", name, err.text);
    t->reactor = rig->reactor;
    assert_int_equal(plx_bdev_channel_get(t->bdev, t->reactor, &t->ch), 0);
    t->info = plx_bdev_info(t->bdev);
}

void rig_close(struct pool_rig *rig, struct tu *t)
{
    (void)rig;
    plx_bdev_channel_put(t->ch);
    assert_int_equal(plx_bdev_close(t->bdev), 0);
}

uint16_t rig_io(struct tu *t, enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data)
{
    struct tu_req q;
    tu_req_init(&q);
    tu_start(t, &q, op, lba, nlb, data);
    while (!q.done)
        rig_turn(t->reactor);
    const uint16_t status = q.req->status;
    tu_req_free(&q);
    return status;
}

void rig_restore(struct pool_rig *rig, struct plx_bdev *crash)
{
    struct plx_crash_state s;
    struct plx_error err;
    do {
        rig_turn(rig->reactor);
        plx_crash_look(crash, &s);
    } while (!s.settled);
    assert_int_equal(plx_bdev_crash_restore(crash, &err), 0);
}

void rig_cut(struct pool_rig *rig, struct plx_bdev *crash)
{
    plx_bdev_crash_cut(crash, NULL);
    pool_close_on(rig->pool);
    rig->pool = NULL;
    rig_restore(rig, crash);
}

void rig_settle(struct pool_rig *rig)
{
    struct plx_pool *p = rig->pool;
    for (int quiet = 0; quiet < 3;) {
        bool busy = plx_reactor_poll(rig->reactor) || !plx_list_empty(&p->dying) || p->checkpoint ||
                    p->checkpoint_wanted || p->freed.n || !plx_list_empty(&p->stale) || !plx_list_empty(&p->sweeps);
        if (!plx_list_empty(&p->stale) && !p->sweep_now) {
            p->sweep_now = true;
            pool_kick(p);
        }
        if (p->freed.n && !p->checkpoint) {
            pool_checkpoint_want(p);
            pool_kick(p);
        }
        quiet = busy ? 0 : quiet + 1;
        if (busy)
            rig_turn(rig->reactor);
    }
}

/* ---- what leads where ---- */

struct count {
    struct pool_rig *rig;
    uint8_t *seen; /* by unit: 1 it is led to */
    uint64_t units, data;
};

static void count_again(struct pool_wait *w)
{
    w->status = 0xfffe;
}

static struct pool_node *get_node(struct pool_rig *rig, const struct pool_entry *e, unsigned level)
{
    struct plx_pool *p = rig->pool;
    struct pool_wait w = {.reactor = rig->reactor, .again = count_again};
    for (;;) {
        struct pool_try t = {.ch = p->keeper_ch, .wait = &w};
        struct pool_node *n;
        pool_lock(p);
        int ret = pool_node_get(p, &t, e, level, &n);
        pool_try_end(p, &t);
        if (!ret)
            return n;
        assert_int_equal(ret, POOL_AGAIN);
        while (w.status != 0xfffe)
            rig_turn(rig->reactor);
    }
}

static void get_region(struct pool_rig *rig, uint64_t number)
{
    struct plx_pool *p = rig->pool;
    struct pool_wait w = {.reactor = rig->reactor, .again = count_again};
    for (int ret = POOL_AGAIN; ret;) {
        struct pool_try t = {.ch = p->keeper_ch, .wait = &w};
        pool_lock(p);
        ret = pool_region_want(p, &t, number);
        pool_try_end(p, &t);
        assert_true(!ret || ret == POOL_AGAIN);
        while (ret && w.status != 0xfffe)
            rig_turn(rig->reactor);
    }
}

static void see(struct count *c, uint64_t unit)
{
    assert_true(unit < c->rig->pool->units);
    if (!c->seen[unit])
        c->units++;
    c->seen[unit] = 1;
}

static void walk(struct count *c, const struct pool_entry *e, unsigned level, unsigned bottom)
{
    if (!e->where.raw)
        return;
    bool known = c->seen[pool_entry_unit(e)];
    c->data += !level && !known;
    see(c, pool_entry_unit(e));
    if ((level == 0) || known || (level == 1 && bottom)) /* what several trees share is gone through once */
        return;
    const struct pool_node *n = get_node(c->rig, e, level);
    struct pool_entry *copy = malloc((size_t)1 << POOL_UNIT_SHIFT_MAX);
    memcpy(copy, n->mem, (size_t)1 << c->rig->pool->unit_shift);
    for (uint32_t i = 0; i < 1U << c->rig->pool->fan_shift; i++)
        walk(c, &copy[i], level - 1, bottom);
    free(copy);
}

uint64_t rig_check(struct pool_rig *rig)
{
    struct plx_pool *p = rig->pool;
    struct count c = {.rig = rig, .seen = calloc(p->units, 1)};
    assert_non_null(c.seen);
    for (int ghosts = 0; ghosts < 2; ghosts++) {
        const uint64_t data = c.data;
        for (uint32_t i = 0; i < p->slots; i++)
            if (p->volume[i] && (p->volume[i]->state == POOL_GHOST) == ghosts)
                walk(&c, &p->volume[i]->tree.root, p->volume[i]->tree.height, 0);
        if (ghosts)
            assert_int_equal(c.data, data); /* they have nothing that nobody else has */
    }
    const uint64_t of_volumes = c.units;
    walk(&c, &p->dir.root, p->dir.height, 0);
    walk(&c, &p->maps.root, p->maps.height, 1);
    for (uint64_t r = 0; r < p->regions; r++) {
        get_region(rig, r);
        const struct pool_region *region = pool_region_find(p, r);
        for (uint64_t i = 0; i < UINT64_C(1) << p->region_shift; i++) {
            uint64_t unit = (r << p->region_shift) + i;
            if (unit >= p->units)
                break;
            bool used = region->bits[i / 64] >> i % 64 & 1;
            bool fixed = i == POOL_MAP_FIRST || i == POOL_MAP_FIRST + 1 || unit < POOL_LOG_FIRST + p->log_units;
            if (used != (fixed || c.seen[unit]))
                fail_msg("unit %llu is %s, but %s", (unsigned long long)unit, used ? "not free" : "free",
                         c.seen[unit] ? "led to" : "not led to");
        }
    }
    assert_int_equal(p->used, c.units + pool_space_fixed(p));
    free(c.seen);
    return of_volumes;
}

/* ---- the same, by those who did not write it ---- */

static void look_found(void *arg, const struct plx_pool_finding *f)
{
    (void)arg;
    if (f->severity != PLX_POOL_NOTE)
        fail_msg("%s: %s", f->volume ? f->volume : "the pool", f->text);
}

void rig_look(struct pool_rig *rig)
{
    struct plx_error err = {""};
    struct plx_pool_check look = {.reactor = rig->reactor, .turn = rig_turn, .found = look_found};
    if (plx_pool_check(rig->disk, &look, &err))
        fail_msg("%s", err.text);
}

void rig_check_outside(struct pool_rig *rig)
{
    rig_settle(rig);
    rig_look(rig);
}
