/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pools on a disk whose power is cut: what was flushed is there, volumes are as they were, or as they were to be, and
 * not a unit is lost. Lives by chance, one after the other on the same disk: each begins with what the last one left.
 */
#include "pool_life.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "bdev/filter/crash.h"

static uint8_t outer_data[BLOCKS * BLOCK]; /* what it has */

static bool is_off(struct life *l)
{
    struct plx_crash_state s;
    plx_crash_look(l->rig.disk, &s);
    return s.off;
}

static void found(struct life *l, struct vol *v, const struct oracle_finding *f)
{
    fail_msg("life %u, volume %s: %s", l->cuts, v->name, f->text);
}

/* ---- requests ---- */

static void io_done(struct plx_bdev_req *req)
{
    struct io *io = plx_container_of(req, struct io, req);
    struct oracle_finding f;
    io->busy = false;
    if (req->status && !is_off(io->l))
        fail_msg("status 0x%x with power", req->status);
    if (req->op != PLX_BDEV_READ || req->status)
        oracle_done(io->v->o, io->known, !req->status);
    else if (!oracle_read_done(io->v->o, io->known, req->lba, req->nlb, io->data, &f))
        found(io->l, io->v, &f);
}

static void vol_open(struct life *l, struct vol *v)
{
    if (!v->open)
        rig_open(&l->rig, v->name, &v->t);
    v->open = true;
}

static void vol_close(struct life *l, struct vol *v)
{
    if (v->open)
        rig_close(&l->rig, &v->t);
    v->open = false;
}

static void io_begin(struct life *l, struct io *io, struct vol *v)
{
    const uint32_t dice = tu_random(&l->seed) % 100;
    struct plx_bdev_req *r = &io->req;
    bool fua = dice < 8;
    io->v = v;
    r->nlb = 1 + tu_random(&l->seed) % MAX_BLOCKS;
    r->lba = tu_random(&l->seed) % (BLOCKS - r->nlb + 1);
    if (tu_random(&l->seed) % 2) { /* whole units */
        r->lba &= ~UINT64_C(7);
        r->nlb = 8 * (1 + tu_random(&l->seed) % 4);
        r->lba = r->lba + r->nlb > BLOCKS ? 0 : r->lba;
    }
    r->op = v->snapshot ? PLX_BDEV_READ
            : dice < 50 ? PLX_BDEV_WRITE
            : dice < 56 ? PLX_BDEV_WRITE_ZEROES
            : dice < 66 ? PLX_BDEV_UNMAP
            : dice < 80 ? PLX_BDEV_READ
                        : PLX_BDEV_FLUSH;
    fua &= r->op == PLX_BDEV_WRITE || r->op == PLX_BDEV_WRITE_ZEROES;
    r->flags = fua ? PLX_BDEV_FUA : 0;
    io->iov = (struct iovec){io->data, (size_t)r->nlb * BLOCK};
    for (size_t at = 0; r->op == PLX_BDEV_WRITE && at < io->iov.iov_len; at += sizeof l->serial) {
        uint64_t word = (++l->serial << 8) | 1;
        memcpy(io->data + at, &word, sizeof word);
    }
    io->known = r->op == PLX_BDEV_WRITE          ? oracle_write(v->o, r->lba, r->nlb, io->data, fua)
                : r->op == PLX_BDEV_WRITE_ZEROES ? oracle_zeroes(v->o, r->lba, r->nlb, fua)
                : r->op == PLX_BDEV_UNMAP        ? oracle_discard(v->o, r->lba, r->nlb)
                : r->op == PLX_BDEV_READ         ? oracle_read(v->o)
                                                 : oracle_flush(v->o);
    io->busy = true;
    plx_bdev_submit(v->t.ch, r);
}

static bool io_busy(const struct life *l)
{
    bool busy = false;
    for (unsigned i = 0; i < DEPTH; i++)
        busy |= l->io[i].busy;
    return busy;
}

/* ---- volumes ---- */

static void read_all(struct life *l, struct vol *v, uint8_t *out)
{
    struct tu_req q;
    vol_open(l, v);
    tu_req_init(&q);
    tu_start(&v->t, &q, PLX_BDEV_READ, 0, BLOCKS, out);
    while (!q.done)
        rig_turn(l->rig.reactor);
    if (q.req->status && !is_off(l))
        fail_msg("status 0x%x", q.req->status);
    tu_req_free(&q);
}

static struct vol *vol_any(struct life *l, bool there, int snapshot)
{
    for (int i = 0; i < 20; i++) {
        struct vol *v = &l->v[tu_random(&l->seed) % VOLUMES];
        if (v->there == there && (snapshot < 0 || v->snapshot == (snapshot > 0)))
            return v;
    }
    return NULL;
}

/* To its end, while hosts of the volumes that are open go on, unless they are to be quiet. */
static void run_among(struct life *l, struct plx_pool_op *op, bool quiet)
{
    bool done;
    rig_begin(&l->rig, op, &done);
    while (!done) {
        struct vol *v = quiet || tu_random(&l->seed) % 4 ? NULL : vol_any(l, true, -1);
        struct io *io = v ? &l->io[tu_random(&l->seed) % DEPTH] : NULL;
        if (v && v->open && !io->busy && !is_off(l))
            io_begin(l, io, v);
        rig_turn(l->rig.reactor);
    }
}

/* @return whether it is certain how it ended */
static bool run_op(struct life *l, struct plx_pool_op *op, bool quiet)
{
    run_among(l, op, quiet);
    if (op->result && !is_off(l) && !(op->kind == PLX_POOL_RESIZE && op->result == -ENOSPC)) /* it is thick */
        fail_msg("operation %d: %s", op->kind, op->err.text);
    l->ops += !op->result;
    return !op->result;
}

/* The same of one that leaves what a volume holds as it is, and cannot be done now and then. */
static bool run_op_or(struct life *l, enum plx_pool_op_kind kind, const struct vol *v, int may, bool quiet)
{
    struct plx_pool_op op = {.kind = kind, .volume = v->name};
    run_among(l, &op, quiet);
    if (op.result && op.result != may && op.result != -ENOSPC && !is_off(l))
        fail_msg("operation %d: %s", op.kind, op.err.text);
    l->ops += !op.result;
    return !op.result;
}

static void vol_new(struct life *l, struct vol *v, bool snapshot, const uint8_t *data)
{
    v->l = l;
    v->there = true;
    v->snapshot = snapshot;
    v->o = oracle_new(BLOCKS, BLOCK, ORACLE_DISCARD_ZEROES);
    if (data)
        oracle_restart(v->o, data);
}

static void vol_free(struct life *l, struct vol *v)
{
    vol_close(l, v);
    oracle_free(v->o);
    memset(v, 0, sizeof *v);
}

/* What it has from now on is what is read. */
static void vol_learn(struct life *l, struct vol *v)
{
    static uint8_t data[BLOCKS * BLOCK];
    read_all(l, v, data);
    if (is_off(l))
        return;
    oracle_restart(v->o, data);
    v->unknown = false;
}

static void op_any(struct life *l)
{
    static uint8_t data[BLOCKS * BLOCK];
    struct plx_pool_op op = {0};
    struct vol *fresh = vol_any(l, false, -1), *v;
    char old[16];
    const uint32_t dice = tu_random(&l->seed) % 10;
    const bool calm = tu_random(&l->seed) % 2 || dice == 4 || dice == 5 || dice == 6;
    while (calm && io_busy(l))
        rig_turn(l->rig.reactor);
    if (is_off(l))
        return;
    if (fresh)
        snprintf(fresh->name, sizeof fresh->name, "n%u", l->names++);
    if (dice < 2 && fresh) {
        op = (struct plx_pool_op){.kind = PLX_POOL_CREATE, .name = fresh->name, .size = BLOCKS * BLOCK};
        op.outer = tu_random(&l->seed) % 3 ? NULL : "outer";
        bool sure = run_op(l, &op, false);
        vol_new(l, fresh, false, op.outer ? outer_data : NULL);
        fresh->maybe_there = !sure;
    } else if (dice < 6 && fresh) {
        v = vol_any(l, true, dice < 4 ? 0 : 1);
        if (!v)
            return;
        read_all(l, v, data);
        if (is_off(l))
            return;
        op = (struct plx_pool_op){
            .kind = dice < 4 ? PLX_POOL_SNAPSHOT : PLX_POOL_CLONE, .volume = v->name, .name = fresh->name};
        bool sure = run_op(l, &op, op.kind == PLX_POOL_SNAPSHOT && calm);
        vol_new(l, fresh, dice < 4, calm ? data : NULL);
        fresh->maybe_there = !sure;
        fresh->unknown = !calm;
        if (!calm && sure)
            vol_learn(l, fresh);
    } else if (dice >= 8) {
        v = vol_any(l, true, 0);
        if (v)
            run_op_or(l, dice == 8 ? PLX_POOL_INFLATE : PLX_POOL_DECOUPLE, v, -EINVAL, false);
    } else if ((v = vol_any(l, true, -1)) && dice == 6) {
        vol_close(l, v);
        op = (struct plx_pool_op){.kind = PLX_POOL_DELETE, .volume = v->name};
        if (run_op(l, &op, false))
            vol_free(l, v);
        else
            v->maybe_there = true;
    } else if (v) {
        memcpy(old, v->name, sizeof old);
        snprintf(v->name, sizeof v->name, "n%u", l->names++);
        op = (struct plx_pool_op){.kind = PLX_POOL_RENAME, .volume = old, .name = v->name};
        if (!run_op(l, &op, false)) {
            l->names--; /* is looked for by either name */
            memcpy(v->name, old, sizeof old);
        }
    }
}

/* ---- lives ---- */

static bool name_is(void *arg, const struct plx_volume_info *info)
{
    struct vol *v = arg;
    char other[16];
    snprintf(other, sizeof other, "n%u", v->l->names);
    if (!strcmp(info->name, v->name))
        return false;
    if (strcmp(info->name, other) || v->snapshot != info->snapshot)
        return true;
    snprintf(v->name, sizeof v->name, "%s", other);
    return false;
}

static bool find(struct life *l, struct vol *v)
{
    bool there = false;
    for (uint32_t i = 0; i < l->rig.pool->slots; i++) {
        const struct pool_volume *p = l->rig.pool->volume[i];
        there |= p && !strcmp(p->name, v->name);
    }
    return there;
}

/* Power is given back, and the pool opened. */
static void recover_begin(struct life *l)
{
    struct plx_error err;
    struct plx_crash_state s;
    for (unsigned i = 0; i < VOLUMES; i++)
        vol_close(l, &l->v[i]);
    pool_close_on(l->rig.pool);
    l->rig.pool = NULL;
    do {
        rig_turn(l->rig.reactor);
        plx_crash_look(l->rig.disk, &s);
    } while (!s.settled);
    if (plx_bdev_crash_restore(l->rig.disk, &err))
        fail_msg("%s", err.text);
    if (l->look)
        rig_look(&l->rig);
    rig_pool(&l->rig);
    if (l->tight) { /* who changes anything waits for checkpoints, and for what was in memory just now */
        l->rig.pool->dirty_max = 4 + (uint32_t)(tu_random(&l->seed) % 4);
        l->rig.pool->nodes_max = 16 + (uint32_t)(tu_random(&l->seed) % 16);
    }
}

static void recover_one(struct life *l, struct vol *v)
{
    static uint8_t data[BLOCKS * BLOCK];
    struct oracle_finding f;
    bool there = find(l, v);
    if (!there)
        plx_pool_each(l->rig.pool, name_is, v);
    there = there || find(l, v);
    if (!there && !v->maybe_there)
        fail_msg("life %u: volume %s is not there any more", l->cuts, v->name);
    v->maybe_there = false;
    if (!there) {
        vol_free(l, v);
        return;
    }
    read_all(l, v, data);
    if (!v->unknown && !oracle_check(v->o, 0, BLOCKS, data, &f))
        found(l, v, &f);
    v->unknown = false;
    oracle_restart(v->o, data);
}

/* What has come back. */
static void recover_end(struct life *l)
{
    for (unsigned i = 0; i < VOLUMES; i++)
        if (l->v[i].there)
            recover_one(l, &l->v[i]);
    l->names++;
    for (unsigned i = 0; i < VOLUMES; i++)
        vol_close(l, &l->v[i]);
    rig_settle(&l->rig);
    rig_check(&l->rig);
    l->cuts++;
}

static void live(struct life *l)
{
    plx_crash_arm(l->rig.disk, 0, 1 + tu_random(&l->seed) % 150);
    while (!is_off(l)) {
        struct vol *v = vol_any(l, true, -1);
        if (!v || tu_random(&l->seed) % 24 == 0) {
            op_any(l);
            continue;
        }
        vol_open(l, v);
        for (unsigned n = tu_random(&l->seed) % 4; n && !is_off(l); n--) {
            struct io *io = &l->io[tu_random(&l->seed) % DEPTH];
            if (!io->busy)
                io_begin(l, io, v);
        }
        rig_turn(l->rig.reactor);
    }
    while (io_busy(l))
        rig_turn(l->rig.reactor);
    recover_begin(l);
    recover_end(l);
}

static void outer_open(struct life *l)
{
    struct plx_error err;
    struct tu t;
    if (plx_bdev_open_as("ram:1M", "outer", &l->outer, &err))
        fail_msg("%s", err.text);
    tu_join(&t, l->outer);
    for (size_t i = 0; i < sizeof outer_data; i++)
        outer_data[i] = (uint8_t)((i / BLOCK + 1) >> (i % 2 ? 8 : 0)); /* no block is like another */
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, BLOCKS, outer_data), 0);
    tu_leave(&t);
}

static void check_lives(const char *url, bool tight, uint64_t seed, unsigned lives)
{
    struct life *l = calloc(1, sizeof *l);
    l->seed = seed;
    l->tight = tight;
    l->look = true;
    rig_simulate(true);
    rig_make(&l->rig, url, NULL);
    plx_crash_seed(l->rig.disk, seed);
    outer_open(l);
    for (unsigned i = 0; i < DEPTH; i++) {
        l->io[i].l = l;
        l->io[i].req.done = io_done;
        l->io[i].req.iov = &l->io[i].iov;
        l->io[i].req.iovcnt = 1;
    }
    while (l->cuts < lives)
        live(l);
    print_message("%s%s, seed %llu: %u cuts, %u operations\n", url, tight ? ", tight" : "", (unsigned long long)seed,
                  l->cuts, l->ops);
    assert_true(l->ops > lives / 10);
    for (unsigned i = 0; i < VOLUMES; i++)
        if (l->v[i].there)
            vol_free(l, &l->v[i]);
    rig_end(&l->rig);
    assert_int_equal(plx_bdev_close(l->outer), 0);
    rig_simulate(false);
    free(l);
}

static void what_was_flushed_is_there(void **state)
{
    const char *seed = getenv("POLLUX_SEED"), *rounds = getenv("POLLUX_ROUNDS");
    const uint64_t first = seed ? strtoull(seed, NULL, 10) : 1;
    const unsigned lives = rounds ? (unsigned)strtoul(rounds, NULL, 10) : 150;
    (void)state;
    check_lives("crash:ram:8M", false, first, lives);
    check_lives("crash:ram:8M?latency=100us", false, first + 1, lives);
    check_lives("crash:ram:8M?torn=sector&latency=100us", false, first + 2, lives);
    check_lives("crash:ram:8M?latency=100us", true, first + 3, lives);
    rig_checksums(true);
    check_lives("crash:ram:8M", false, first + 4, lives);
    check_lives("crash:ram:8M?torn=sector&latency=100us", true, first + 5, lives);
    rig_checksums(false);
}

/* ---- every workload of a few operations, power being cut at every request ---- */

enum code {
    CREATE,
    WRITE,
    FLUSH,
    SNAPSHOT,
    CLONE,
    DELETE_SNAPSHOT,
    DISCARD,
    GROW,
    RENAME,
    DELETE_VOLUME,
    REVERT,
    GROW_POOL,
    INFLATE,
    DECOUPLE,
    SET_PARENT, /* to none; or, when there is none, to a snapshot */
    SET_OUTER,
    GROUP, /* snapshots of two volumes at one instant */
    CODES
};

enum { A, OTHERS = 1 }; /* the volume that is written to, and those that come of it */

/* What is tried is kept by what: nothing of what was not flushed, all, or some by chance. */
enum { POOL_SIZE = 4 << 20, POOL_GROWN = 5 << 20 };

enum keep { NOTHING, EVERYTHING, SOME, KEEPS };

struct workload {
    struct life l;
    enum code codes[3];
    unsigned n;

    struct vol *group[2]; /* that are there both, or neither */
    bool grown, maybe_grown;
    bool maybe_other;
    bool pool_grown, maybe_pool_grown;
    uint8_t other[BLOCKS * BLOCK]; /* what it was reverted to, or has by another parent */
};

static uint32_t keep_none(void *arg, const struct plx_crash_write *writes, uint32_t n, struct plx_crash_keep *keep)
{
    (void)arg, (void)writes, (void)n, (void)keep;
    return 0;
}

static uint32_t keep_all(void *arg, const struct plx_crash_write *writes, uint32_t n, struct plx_crash_keep *keep)
{
    (void)arg, (void)writes;
    for (uint32_t i = 0; i < n; i++)
        keep[i] = (struct plx_crash_keep){.write = i, .units = PLX_CRASH_WHOLE};
    return n;
}

static struct vol *vol_last(struct life *l, bool snapshot)
{
    for (int i = VOLUMES - 1; i >= OTHERS; i--)
        if (l->v[i].there && l->v[i].snapshot == snapshot)
            return &l->v[i];
    return NULL;
}

static struct vol *vol_unused(struct life *l)
{
    for (int i = OTHERS; i < VOLUMES; i++)
        if (!l->v[i].there)
            return &l->v[i];
    return NULL;
}

static void io_run(struct life *l, enum plx_bdev_op op, uint64_t lba, uint32_t nlb)
{
    struct io *io = &l->io[0];
    struct vol *v = &l->v[A];
    vol_open(l, v);
    io->v = v;
    io->req.op = (uint8_t)op;
    io->req.flags = 0;
    io->req.lba = lba;
    io->req.nlb = nlb;
    io->iov = (struct iovec){io->data, (size_t)nlb * BLOCK};
    for (size_t at = 0; at < io->iov.iov_len; at += sizeof l->serial) {
        uint64_t word = (++l->serial << 8) | 1;
        memcpy(io->data + at, &word, sizeof word);
    }
    io->known = op == PLX_BDEV_WRITE   ? oracle_write(v->o, lba, nlb, io->data, false)
                : op == PLX_BDEV_UNMAP ? oracle_discard(v->o, lba, nlb)
                                       : oracle_flush(v->o);
    io->busy = true;
    plx_bdev_submit(v->t.ch, &io->req);
    while (io->busy)
        rig_turn(l->rig.reactor);
}

static struct vol *make_of(struct life *l, enum plx_pool_op_kind kind, struct vol *of, const uint8_t *data)
{
    struct vol *fresh = vol_unused(l);
    snprintf(fresh->name, sizeof fresh->name, "n%u", l->names++);
    struct plx_pool_op op = {.kind = kind, .volume = of ? of->name : NULL, .name = fresh->name, .size = BLOCKS * BLOCK};
    op.outer = kind == PLX_POOL_CREATE && l->outer ? "outer" : NULL;
    bool sure = run_op(l, &op, true);
    vol_new(l, fresh, kind == PLX_POOL_SNAPSHOT, data);
    fresh->maybe_there = !sure;
    return fresh;
}

static void delete_one(struct life *l, struct vol *v)
{
    struct plx_pool_op op = {.kind = PLX_POOL_DELETE, .volume = v->name};
    vol_close(l, v);
    if (run_op(l, &op, true))
        vol_free(l, v);
    else
        v->maybe_there = true;
}

static void rename_one(struct life *l, struct vol *v)
{
    char to[16];
    snprintf(to, sizeof to, "n%u", l->names);
    struct plx_pool_op op = {.kind = PLX_POOL_RENAME, .volume = v->name, .name = to};
    if (!run_op(l, &op, true))
        return; /* is looked for by either name */
    l->names++;
    memcpy(v->name, to, sizeof to);
}

static void revert(struct workload *w, struct vol *s)
{
    struct life *l = &w->l;
    struct vol *a = &l->v[A];
    read_all(l, s, w->other);
    vol_close(l, a);
    if (is_off(l))
        return;
    struct plx_pool_op op = {.kind = PLX_POOL_REVERT, .volume = a->name, .name = s->name};
    rig_run(&l->rig, &op);
    if (!op.result) {
        oracle_restart(a->o, w->other);
        w->grown = s->t.info->blocks > BLOCKS;
        pool_units_revert(&a->u, &s->u);
    } else if (is_off(l)) {
        w->maybe_other = true;
    } else {
        assert_int_equal(op.result, -EINVAL); /* not its parent any more */
    }
}

static void set_parent(struct workload *w, struct vol *s)
{
    static uint8_t theirs[BLOCKS * BLOCK];
    struct life *l = &w->l;
    struct vol *a = &l->v[A], *to = a->u.parent ? NULL : s;
    memset(theirs, 0, sizeof theirs);
    if (to)
        read_all(l, to, theirs);
    if (!is_off(l))
        read_all(l, a, w->other);
    if (is_off(l))
        return;
    for (unsigned i = 0; i < UNITS; i++)
        if (!a->u.own[i])
            memcpy(w->other + (size_t)i * 8 * BLOCK, theirs + (size_t)i * 8 * BLOCK, 8 * BLOCK);
    struct plx_pool_op op = {.kind = PLX_POOL_SET_PARENT, .volume = a->name, .name = to ? to->name : NULL};
    rig_run(&l->rig, &op);
    if (!op.result) {
        oracle_restart(a->o, w->other);
        pool_units_set_parent(&a->u, to ? &to->u : NULL, true);
    } else if (is_off(l)) {
        w->maybe_other = true;
    } else {
        assert_int_equal(op.result, -EINVAL); /* it is thick, or larger than that */
    }
}

static void set_outer(struct workload *w)
{
    struct life *l = &w->l;
    struct vol *a = &l->v[A];
    read_all(l, a, w->other);
    if (is_off(l))
        return;
    for (unsigned i = 0; i < UNITS; i++)
        if (!a->u.own[i])
            memcpy(w->other + (size_t)i * 8 * BLOCK, outer_data + (size_t)i * 8 * BLOCK, 8 * BLOCK);
    struct plx_pool_op op = {.kind = PLX_POOL_SET_OUTER, .volume = a->name, .outer = "outer"};
    rig_run(&l->rig, &op);
    if (!op.result) {
        oracle_restart(a->o, w->other);
        pool_units_set_outer(&a->u);
    } else if (is_off(l)) {
        w->maybe_other = true;
    } else { /* it is thick, or does so already */
        assert_true(op.result == -EINVAL || (op.result == -EEXIST && a->u.outer && !a->u.parent));
    }
}

static void decouple(struct life *l, struct vol *a)
{
    if (!run_op_or(l, PLX_POOL_DECOUPLE, a, -EINVAL, true))
        return;
    if (a->u.parent)
        pool_units_decouple(&a->u);
    else
        pool_units_inflate(&a->u);
}

static void snapshot_group(struct workload *w, struct vol *b)
{
    static uint8_t data[2][BLOCKS * BLOCK];
    struct life *l = &w->l;
    struct vol *of[2] = {&l->v[A], b};
    struct plx_pool_op op[2] = {{.kind = PLX_POOL_SNAPSHOT, .with = &op[1]}, {.kind = PLX_POOL_SNAPSHOT}};
    for (unsigned i = 0; i < 2; i++) {
        if (!of[i] || !of[i]->there)
            return;
        read_all(l, of[i], data[i]);
        if (is_off(l))
            return;
    }
    for (unsigned i = 0; i < 2; i++) {
        struct vol *s = w->group[i] = vol_unused(l);
        snprintf(s->name, sizeof s->name, "n%u", l->names++);
        vol_new(l, s, true, data[i]);
        op[i].volume = of[i]->name;
        op[i].name = s->name;
    }
    const bool sure = run_op(l, op, true);
    for (unsigned i = 0; i < 2; i++)
        w->group[i]->maybe_there = !sure;
    pool_units_snapshot(&of[0]->u, &w->group[0]->u);
}

/* What is about whom a volume goes back to. s: a snapshot, or NULL. */
static void do_family(struct workload *w, enum code code, struct vol *s)
{
    struct life *l = &w->l;
    struct vol *a = &l->v[A];
    if (code == REVERT && s)
        revert(w, s);
    else if (code == INFLATE && run_op_or(l, PLX_POOL_INFLATE, a, 0, true))
        pool_units_inflate(&a->u);
    else if (code == DECOUPLE)
        decouple(l, a);
    else if (code == SET_OUTER)
        set_outer(w);
    else if (code == GROUP)
        snapshot_group(w, vol_last(l, false));
    else if (code == SET_PARENT && (a->u.parent || s))
        set_parent(w, s);
}

static void write_some(struct life *l, struct vol *a)
{
    io_run(l, PLX_BDEV_WRITE, 3, 20); /* parts of units, and whole ones */
    pool_units_change(&a->u, 0, 3, true);
}

static void discard_some(struct life *l, struct vol *a)
{
    io_run(l, PLX_BDEV_UNMAP, 8, 13);
    pool_units_change(&a->u, 1, 1, false);
    pool_units_change(&a->u, 2, 1, a->u.mapped[2] || (a->u.outer && !a->u.own[2]));
}

static void grow_volume(struct workload *w)
{
    struct life *l = &w->l;
    struct plx_pool_op op = {.kind = PLX_POOL_RESIZE, .volume = l->v[A].name, .size = 512 * BLOCKS * BLOCK};
    w->grown = run_op(l, &op, true);
    w->maybe_grown = !w->grown && is_off(l);
}

static void grow_pool(struct workload *w)
{
    struct plx_pool_op op = {.kind = PLX_POOL_GROW};
    const bool done = run_op(&w->l, &op, true);
    w->pool_grown |= done;
    w->maybe_pool_grown |= !done;
}

static void do_code(struct workload *w, enum code code)
{
    static uint8_t data[BLOCKS * BLOCK];
    struct life *l = &w->l;
    struct vol *a = &l->v[A], *s = vol_last(l, true);
    switch (code) {
    case CREATE:
        make_of(l, PLX_POOL_CREATE, NULL, l->outer ? outer_data : NULL);
        break;
    case WRITE:
        if (a->there)
            write_some(l, a);
        break;
    case FLUSH:
        if (a->there)
            io_run(l, PLX_BDEV_FLUSH, 0, 0);
        break;
    case SNAPSHOT:
        if (a->there)
            read_all(l, a, data);
        if (a->there && !is_off(l)) {
            s = make_of(l, PLX_POOL_SNAPSHOT, a, data);
            pool_units_snapshot(&a->u, &s->u);
        }
        break;
    case CLONE:
        if (s)
            read_all(l, s, data);
        if (s && !is_off(l))
            make_of(l, PLX_POOL_CLONE, s, data);
        break;
    case DELETE_SNAPSHOT:
        if (s && a->there && a->u.parent == &s->u)
            pool_units_decouple(&a->u);
        if (s)
            delete_one(l, s);
        break;
    case DISCARD:
        if (a->there)
            discard_some(l, a);
        break;
    case GROW:
        if (a->there)
            grow_volume(w);
        break;
    case RENAME:
        if (s)
            rename_one(l, s);
        break;
    case DELETE_VOLUME:
        if (a->there)
            delete_one(l, a);
        break;
    case REVERT:
    case INFLATE:
    case DECOUPLE:
    case SET_PARENT:
    case SET_OUTER:
    case GROUP:
        if (a->there)
            do_family(w, code, s);
        break;
    case GROW_POOL:
        grow_pool(w);
        break;
    case CODES:
        break;
    }
}

/* What has come back of what was reverted, or grown, is the one or the other. */
static void workload_known(struct workload *w)
{
    static uint8_t data[BLOCKS * BLOCK];
    struct vol *a = &w->l.v[A];
    struct life *l = &w->l;
    struct plx_pool_info info;
    plx_pool_get_info(l->rig.pool, &info);
    assert_true(w->pool_grown ? info.size == POOL_GROWN
                              : info.size == POOL_SIZE || (w->maybe_pool_grown && info.size == POOL_GROWN));
    if (w->group[0] && w->group[0]->maybe_there)
        assert_int_equal(find(l, w->group[0]), find(l, w->group[1]));
    if (!a->there)
        return;
    if (w->maybe_other && find(l, a)) {
        read_all(l, a, data);
        if (!memcmp(data, w->other, sizeof data))
            oracle_restart(a->o, data);
    }
    if (find(l, a)) {
        vol_open(l, a);
        const bool large = a->t.info->blocks > BLOCKS;
        assert_true(w->maybe_grown || w->maybe_other || large == w->grown);
    }
}

/* @return whether power was cut before its end */
static bool run_workload(const struct workload *what, uint64_t at, enum keep keep)
{
    static struct workload w;
    memset(&w, 0, offsetof(struct workload, other)); /* which is large, and set before it is looked at */
    w.n = what->n;
    w.l.outer = what->l.outer;
    memcpy(w.codes, what->codes, sizeof w.codes);
    struct life *l = &w.l;
    rig_make_small(&l->rig, "crash:ram:5M", NULL, POOL_SIZE);
    l->look = at % 8 == 0;
    plx_crash_seed(l->rig.disk, at * KEEPS + keep + 1);
    if (keep != SOME)
        plx_crash_choose(l->rig.disk, keep == NOTHING ? keep_none : keep_all, NULL);
    for (unsigned i = 0; i < DEPTH; i++) {
        l->io[i].l = l;
        l->io[i].req.done = io_done;
        l->io[i].req.iov = &l->io[i].iov;
        l->io[i].req.iovcnt = 1;
    }
    snprintf(l->v[A].name, sizeof l->v[A].name, "a");
    struct plx_pool_op first = {.kind = PLX_POOL_CREATE, .name = "a", .size = BLOCKS * BLOCK};
    first.outer = l->outer ? "outer" : NULL;
    run_op(l, &first, true);
    vol_new(l, &l->v[A], false, l->outer ? outer_data : NULL);
    if (l->outer)
        pool_units_set_outer(&l->v[A].u);
    io_run(l, PLX_BDEV_WRITE, 0, 40);
    io_run(l, PLX_BDEV_WRITE, BLOCKS - 20, 20);
    io_run(l, PLX_BDEV_FLUSH, 0, 0);
    pool_units_change(&l->v[A].u, 0, 5, true);
    pool_units_change(&l->v[A].u, (BLOCKS - 20) / 8, 3, true);
    plx_crash_arm(l->rig.disk, 0, at);
    for (unsigned i = 0; i < w.n && !is_off(l); i++)
        do_code(&w, w.codes[i]);
    const bool cut = is_off(l);
    plx_crash_arm(l->rig.disk, 0, 0);
    if (!cut)
        plx_bdev_crash_cut(l->rig.disk, NULL);
    recover_begin(l);
    workload_known(&w);
    recover_end(l);
    for (unsigned i = 0; i < VOLUMES; i++)
        if (l->v[i].there)
            vol_free(l, &l->v[i]);
    rig_end(&l->rig);
    return cut;
}

/* Whether each operation does something: with one that does not it is a shorter workload, which is tried as such. */
static bool does_all(const struct workload *w)
{
    bool there = true, linked = false, outer = w->l.outer;
    unsigned snapshots = 0, others = 0;
    for (unsigned i = 0; i < w->n; i++) {
        const enum code c = w->codes[i];
        const bool of_snapshot = c == CLONE || c == DELETE_SNAPSHOT || c == RENAME;
        if ((of_snapshot && !snapshots) || (!of_snapshot && c != CREATE && c != GROW_POOL && !there) ||
            (c == REVERT && !linked) || (c == DECOUPLE && !linked && !outer) ||
            (c == SET_PARENT && !linked && !snapshots) || (c == SET_OUTER && outer && !linked) ||
            (c == GROUP && !others))
            return false;
        outer = c == SET_OUTER || (outer && c != INFLATE && (c != DECOUPLE || linked));
        snapshots += c == GROUP ? 2 : (c == SNAPSHOT) - (c == DELETE_SNAPSHOT);
        others += c == CREATE || c == CLONE;
        linked = c == SNAPSHOT || c == GROUP || (c == SET_PARENT && !linked) ||
                 (linked && c != INFLATE && c != DECOUPLE && c != SET_PARENT && c != SET_OUTER && snapshots);
        there &= c != DELETE_VOLUME;
    }
    return true;
}

static unsigned run_everywhere(const struct workload *w, unsigned keeps)
{
    unsigned lives = 0;
    if (!does_all(w))
        return 0;
    for (uint64_t at = 1, more = 1; more; at++)
        for (unsigned k = 0; k < keeps; k++, lives++)
            more = run_workload(w, at, keeps == 1 ? (enum keep)(at % KEEPS) : (enum keep)k);
    return lives;
}

/* All of so many operations. outer: that volumes go back to from the beginning, or NULL. @return lives */
static unsigned run_workloads(unsigned n, unsigned keeps, struct plx_bdev *outer)
{
    static struct workload w;
    unsigned lives = 0, all = 1;
    w.n = n;
    w.l.outer = outer;
    for (unsigned i = 0; i < n; i++)
        all *= CODES;
    for (unsigned k = 0; k < all; k++) {
        unsigned left = k;
        for (unsigned i = 0; i < n; i++, left /= CODES)
            w.codes[i] = (enum code)(left % CODES);
        lives += run_everywhere(&w, keeps);
    }
    return lives;
}

/* All of one and two operations with all that may be kept; all of three with one of these in turn. */
static void every_workload(void **state)
{
    static struct life outside;
    (void)state;
    rig_simulate(true);
    outer_open(&outside);
    const unsigned lives = run_workloads(1, KEEPS, NULL) + run_workloads(2, KEEPS, NULL) + run_workloads(3, 1, NULL);
    rig_checksums(true);
    const unsigned summed = run_workloads(1, KEEPS, NULL) + run_workloads(2, 1, NULL);
    rig_checksums(false);
    assert_int_equal(plx_bdev_close(outside.outer), 0);
    rig_simulate(false);
    print_message("%u lives, and %u with checksums\n", lives, summed);
    assert_true(lives > 10000 && summed > 1000);
}

/* The same of volumes that go back to a disk outside, and of what is made of them. Of three operations: `make soak`. */
static void every_workload_with_a_disk_outside(void **state)
{
    static struct life l;
    (void)state;
    rig_simulate(true);
    outer_open(&l);
    unsigned lives = run_workloads(1, KEEPS, l.outer) + run_workloads(2, KEEPS, l.outer);
    if (getenv("POLLUX_ROUNDS"))
        lives += run_workloads(3, 1, l.outer);
    assert_int_equal(plx_bdev_close(l.outer), 0);
    rig_simulate(false);
    print_message("%u lives\n", lives);
    assert_true(lives > 2000);
}

/* ---- what a commit that was torn leaves ---- */

/* All but the first page of what was being written. */
static uint32_t keep_later_pages(void *arg, const struct plx_crash_write *writes, uint32_t n,
                                 struct plx_crash_keep *keep)
{
    const struct plx_crash_write *last = &writes[n - 1];
    unsigned *pages = arg;
    *pages = last->nlb / 8;
    keep[0] = (struct plx_crash_keep){.write = n - 1, .units = UINT64_MAX << 8};
    return 1;
}

/* The first page of a later log would stand before them. */
static void pages_of_a_torn_commit_are_not_replayed_later(void **state)
{
    static struct workload w;
    static uint8_t data[BLOCKS * BLOCK];
    struct life *l = &w.l;
    unsigned pages = 0;
    (void)state;
    rig_simulate(true);
    rig_make(&l->rig, "crash:ram:8M", NULL);
    l->io[0].l = l;
    l->io[0].req.done = io_done;
    l->io[0].req.iov = &l->io[0].iov;
    l->io[0].req.iovcnt = 1;
    snprintf(l->v[A].name, sizeof l->v[A].name, "a");
    struct plx_pool_op first = {.kind = PLX_POOL_CREATE, .name = "a", .size = BLOCKS * BLOCK};
    first.outer = l->outer ? "outer" : NULL;
    run_op(l, &first, true);
    vol_new(l, &l->v[A], false, l->outer ? outer_data : NULL);
    if (l->outer)
        pool_units_set_outer(&l->v[A].u);
    for (unsigned lap = 0; lap < 2; lap++)
        for (uint64_t lba = 0; lba < BLOCKS; lba += 8) {
            io_run(l, PLX_BDEV_WRITE, lba, 8);
            io_run(l, PLX_BDEV_UNMAP, lba, 8);
        }
    plx_crash_choose(l->rig.disk, keep_later_pages, &pages);
    plx_crash_arm(l->rig.disk, 0, 2); /* the flush of what was written before, and then the pages */
    io_run(l, PLX_BDEV_FLUSH, 0, 0);
    assert_true(is_off(l));
    assert_in_range(pages, 3, 8);
    recover_begin(l);
    recover_end(l);
    plx_crash_choose(l->rig.disk, keep_none, NULL);
    io_run(l, PLX_BDEV_WRITE, 0, 8);
    io_run(l, PLX_BDEV_FLUSH, 0, 0);
    plx_bdev_crash_cut(l->rig.disk, NULL);
    recover_begin(l);
    recover_end(l);
    read_all(l, &l->v[A], data);
    assert_true(tu_zeroed(data + 8 * BLOCK, sizeof data - 8 * BLOCK));
    vol_free(l, &l->v[A]);
    rig_end(&l->rig);
    rig_simulate(false);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_of_a_torn_commit_are_not_replayed_later),
        cmocka_unit_test(every_workload),
        cmocka_unit_test(every_workload_with_a_disk_outside),
        cmocka_unit_test(what_was_flushed_is_there),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
