/* SPDX-License-Identifier: BSD-3-Clause */
#include "pool_mutate.h"

#include "bdev/pool/pool.h"
#include "poolcheck/layout.h"
#include "reactor/clock.h"

#include <assert.h>
#include <pollux/pool_check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    UNIT = 4096,
    UNITS = 1024,
    BYTES = UNIT * UNITS,
    TURNS_MAX = 1000000, /* of the reactor: what takes longer hangs */
    VOLUME = 2 << 20,
};

static uint8_t base[BYTES] __attribute__((aligned(4096))), now[BYTES] __attribute__((aligned(4096)));
static uint16_t metadata[UNITS]; /* units of the base that are */
static unsigned n_metadata;
static struct plx_reactor *reactor;
static struct plx_bdev *disk;
static uint64_t now_ns = 1000000000;

/* ---- time, and requests ---- */

static uint64_t mutate_clock(void)
{
    return now_ns;
}

static void mutate_turn(struct plx_reactor *r)
{
    static uint64_t turns;
    if (plx_reactor_poll(r)) {
        turns = 0;
        return;
    }
    assert(++turns < TURNS_MAX);
    int64_t timeout = plx_reactor_timeout(r);
    now_ns += timeout > 0 ? (uint64_t)timeout : 0;
}

struct mutate_io {
    struct plx_bdev_req req;
    struct iovec iov;
    bool done;
};

static void mutate_done(struct plx_bdev_req *req)
{
    plx_container_of(req, struct mutate_io, req)->done = true;
}

static uint16_t mutate_io(struct plx_bdev *bdev, enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *mem)
{
    struct mutate_io io = {.iov = {mem, (size_t)nlb * 512}};
    struct plx_bdev_channel *ch;
    int ret = plx_bdev_channel_get(bdev, reactor, &ch);
    assert(!ret);
    io.req.done = mutate_done;
    io.req.op = (uint8_t)op;
    io.req.lba = lba;
    io.req.nlb = nlb;
    io.req.iov = &io.iov;
    io.req.iovcnt = mem ? 1 : 0;
    plx_bdev_submit(ch, &io.req);
    while (!io.done)
        mutate_turn(reactor);
    plx_bdev_channel_put(ch);
    return io.req.status;
}

static void op_over(struct plx_pool_op *op)
{
    *(bool *)op->arg = true;
}

static int mutate_op(struct plx_pool *p, enum plx_pool_op_kind kind, const char *volume, const char *name)
{
    bool done = false;
    struct plx_pool_op op = {.kind = kind, .volume = volume, .name = name, .size = VOLUME, .done = op_over};
    op.reactor = reactor;
    op.arg = &done;
    plx_pool_submit(p, &op);
    while (!done)
        mutate_turn(reactor);
    return op.result;
}

static struct plx_bdev *open_volume(struct plx_pool *p, const char *name)
{
    struct plx_bdev *bdev;
    struct plx_error err;
    p->refs++;
    if (pool_disk_new(p, name, &bdev, &err) || plx_bdev_register(bdev, "volume", name, NULL, &err)) {
        p->refs--;
        return NULL;
    }
    return bdev;
}

static void close_volume(struct plx_pool *p, struct plx_bdev *bdev)
{
    (void)p;
    int ret = plx_bdev_close(bdev);
    assert(!ret);
}

/* ---- the pool that is whole ---- */

static void write_some(struct plx_pool *p, const char *name, uint64_t lba, uint32_t nlb)
{
    static uint8_t data[64 * UNIT];
    struct plx_bdev *bdev = open_volume(p, name);
    memset(data, 0x5a, sizeof data);
    uint16_t status = mutate_io(bdev, PLX_BDEV_WRITE, lba, nlb, data);
    assert(!status);
    status = mutate_io(bdev, PLX_BDEV_FLUSH, 0, 0, NULL);
    assert(!status);
    close_volume(p, bdev);
}

static void note_metadata(uint64_t unit, unsigned level)
{
    for (unsigned i = 0; i < n_metadata; i++)
        if (metadata[i] == unit)
            return;
    metadata[n_metadata++] = (uint16_t)unit;
    for (unsigned i = 0; level > 1 && i < 256; i++) {
        const struct pck_entry e = pck_get_entry(base + unit * UNIT + i * 16);
        if (e.unit)
            note_metadata(e.unit, level - 1);
    }
}

static struct pck_root root_of(const uint8_t *image)
{
    struct pck_root r[2];
    bool whole[2];
    for (unsigned i = 0; i < 2; i++)
        whole[i] = pck_get_root(image + (size_t)i * PCK_ROOT_PLACE * UNIT, &r[i]);
    assert(whole[0] || whole[1]);
    return !whole[0] || (whole[1] && r[1].generation > r[0].generation) ? r[1] : r[0];
}

static void note_all(void)
{
    const struct pck_root r = root_of(base);
    metadata[n_metadata++] = (uint16_t)(r.generation % 2 * PCK_ROOT_PLACE);
    note_metadata(r.dir.unit, 3);
    note_metadata(r.maps.unit, 2);
    const struct pck_entry page = pck_get_entry(base + pck_get_entry(base + r.dir.unit * UNIT).unit * UNIT);
    for (unsigned i = 0; i < 8; i++) {
        struct pck_record v;
        pck_get_record(base + page.unit * UNIT + i * PCK_RECORD_BYTES, &v);
        if (v.state && v.root.unit)
            note_metadata(v.root.unit, v.height);
    }
    for (uint64_t n = r.log_first; pck_get_page(base + (PCK_LOG_PLACE + n % r.log_units) * UNIT, &r, n) >= 0; n++)
        metadata[n_metadata++] = (uint16_t)(PCK_LOG_PLACE + n % r.log_units);
}

static void make_base(void)
{
    struct plx_error err;
    struct plx_pool *p;
    static const struct plx_pool_opts opts = {.uuid = (const uint8_t *)"0123456789abcdef"};
    const struct pool_keeper keeper = {NULL, mutate_turn};
    struct pool_keeper k = keeper;
    plx_clock_simulate(mutate_clock);
    int ret = plx_reactor_create(&reactor, NULL);
    assert(!ret);
    ret = plx_bdev_open("ram:4M", &disk, &err);
    assert(!ret);
    k.reactor = reactor;
    ret = pool_make_on(disk, &k, &opts, &err);
    assert(!ret);
    ret = pool_open_on(disk, &k, &p, &err);
    assert(!ret);
    mutate_op(p, PLX_POOL_CREATE, NULL, "a");
    write_some(p, "a", 0, 512);
    mutate_op(p, PLX_POOL_SNAPSHOT, "a", "s");
    write_some(p, "a", 100, 64);
    mutate_op(p, PLX_POOL_SNAPSHOT, "a", "t");
    mutate_op(p, PLX_POOL_CLONE, "s", "b");
    mutate_op(p, PLX_POOL_CLONE, "t", "c");
    mutate_op(p, PLX_POOL_DELETE, "t", NULL); /* a ghost */
    write_some(p, "b", 2048, 40);
    write_some(p, "a", 3000, 40);
    /* Its log is not replayed. */
    ret = mutate_io(disk, PLX_BDEV_READ, 0, BYTES / 512, base);
    assert(!ret);
    ret = pool_close_on(p);
    assert(!ret);
    note_all();
}

/* ---- what is changed of it ---- */

static void seal(uint64_t unit, unsigned level, bool *seen)
{
    uint8_t *mem = now + unit * UNIT;
    if (seen[unit])
        return;
    seen[unit] = true;
    for (unsigned i = 0; level > 0 && i < 256; i++) {
        struct pck_entry e = pck_get_entry(mem + i * 16);
        if (!e.unit || e.unit >= UNITS)
            continue;
        if (level > 1)
            seal(e.unit, level - 1, seen);
        else
            continue; /* of data there are no CRCs */
        e.crc = pck_crc(now + e.unit * UNIT, UNIT);
        pck_put_entry(mem + i * 16, &e);
    }
}

static void seal_entry(struct pck_entry *e, unsigned level, bool *seen)
{
    if (!e->unit || e->unit >= UNITS)
        return;
    seal(e->unit, level, seen);
    e->crc = pck_crc(now + e->unit * UNIT, UNIT);
}

/* The records of a page, and the trees that they lead to. */
static void seal_page(uint8_t *mem, bool *seen)
{
    for (unsigned i = 0; i < 8; i++) {
        struct pck_record v;
        pck_get_record(mem + i * PCK_RECORD_BYTES, &v);
        if (!v.state)
            continue;
        seal_entry(&v.root, v.height < 6 ? v.height : 5, seen);
        pck_put_record(mem + i * PCK_RECORD_BYTES, &v);
    }
}

/* Nodes of which "data" has CRCs: of the directory, and of maps. */
static void seal_kept(struct pck_entry *e, unsigned level, bool pages, bool *seen)
{
    if (!e->unit || e->unit >= UNITS)
        return;
    uint8_t *mem = now + e->unit * UNIT;
    const bool first = !seen[e->unit];
    seen[e->unit] = true;
    if (first && !level && pages)
        seal_page(mem, seen);
    for (unsigned i = 0; first && level && i < 256; i++) {
        struct pck_entry below = pck_get_entry(mem + i * 16);
        const uint32_t was = below.crc;
        seal_kept(&below, level - 1, pages, seen);
        if (below.crc != was)
            pck_put_entry(mem + i * 16, &below);
    }
    e->crc = pck_crc(mem, UNIT);
}

static void seal_all(void)
{
    static bool seen[UNITS];
    struct pck_root r;
    const struct pck_root was = root_of(base);
    uint8_t *root = now + was.generation % 2 * PCK_ROOT_PLACE * UNIT;
    memset(seen, 0, sizeof seen);
    pck_get_root(root, &r);
    seal_kept(&r.dir, 2, true, seen);
    seal_kept(&r.maps, r.maps_height < 6 ? r.maps_height : 5, false, seen);
    memcpy(root, base + was.generation % 2 * PCK_ROOT_PLACE * UNIT, 8);
    pck_put_root(root, &r);
    for (uint64_t n = was.log_first; pck_get_page(base + (PCK_LOG_PLACE + n % was.log_units) * UNIT, &was, n) >= 0;
         n++) {
        uint8_t *page = now + (PCK_LOG_PLACE + n % was.log_units) * UNIT;
        pck_put_page(page, &was, n, pck_get32(page + 12));
    }
}

static void mutate(const uint8_t *data, size_t size)
{
    memcpy(now, base, BYTES);
    for (; size >= MUTATION; data += MUTATION, size -= MUTATION) {
        uint8_t *mem = now + (size_t)metadata[pck_get16(data) % n_metadata] * UNIT;
        const size_t at = (size_t)(pck_get16(data + 2) % UNIT) & ~(size_t)3;
        if (data[4] & 1)
            mem[at + (data[4] >> 1 & 3)] += data[5];
        else if (data[4] & 2)
            memcpy(mem + (at & ~(size_t)15), mem + (pck_get16(data + 6) % UNIT & ~15), 16);
        else
            memcpy(mem + at, data + 8, 4);
    }
    seal_all();
    uint16_t status = mutate_io(disk, PLX_BDEV_WRITE, 0, BYTES / 512, now);
    assert(!status);
}

/* ---- what is made of it ---- */

struct mutate_looks {
    uint64_t bad;
    bool show;
};

static void mutate_found(void *arg, const struct plx_pool_finding *f)
{
    struct mutate_looks *l = arg;
    l->bad += f->severity != PLX_POOL_NOTE;
    assert(f->text[0]);
    if (l->show)
        fprintf(stderr, "%s\n", f->text);
}

/* @return whether it is clean */
static bool mutate_look(bool repair, bool show)
{
    struct plx_error err = {""};
    struct mutate_looks l = {.show = show};
    struct plx_pool_check c = {
        .repair = repair, .reactor = reactor, .turn = mutate_turn, .found = mutate_found, .arg = &l};
    if (plx_pool_check(disk, &c, &err)) {
        assert(err.text[0]);
        return false;
    }
    return !l.bad;
}

/* All that was clean works; anything else may not. */
static void use_volume(struct plx_pool *p, const char *name, bool clean)
{
    static uint8_t data[64 * UNIT];
    struct plx_bdev *bdev = open_volume(p, name);
    if (!bdev)
        return;
    const uint64_t blocks = plx_bdev_blocks(bdev);
    for (uint64_t lba = 0; lba < blocks && lba < 8192; lba += 512) {
        const uint64_t n = blocks - lba < 512 ? blocks - lba : 512;
        uint16_t status = mutate_io(bdev, PLX_BDEV_READ, lba, (uint32_t)n, data);
        assert(!status || !clean);
    }
    uint16_t status = mutate_io(bdev, PLX_BDEV_WRITE, 4, 40, data);
    status = status ? status : mutate_io(bdev, PLX_BDEV_UNMAP, 80, 80, NULL);
    status = status ? status : mutate_io(bdev, PLX_BDEV_FLUSH, 0, 0, NULL);
    assert(!status || !clean || plx_bdev_info(bdev)->read_only || blocks < 160);
    close_volume(p, bdev);
}

struct mutate_names {
    char name[16][PLX_POOL_NAME];
    unsigned n;
};

static bool mutate_name(void *arg, const struct plx_volume_info *info)
{
    struct mutate_names *n = arg;
    memcpy(n->name[n->n++], info->name, PLX_POOL_NAME);
    return n->n < 16;
}

/* Until there is nothing to do. */
static void mutate_settle(struct plx_pool *p)
{
    for (unsigned quiet = 0, turns = 0; quiet < 3 && turns < 100000; turns++) {
        const bool busy = plx_reactor_poll(reactor) || p->checkpoint || p->checkpoint_wanted;
        quiet = busy ? 0 : quiet + 1;
    }
}

static bool mutate_use(bool clean)
{
    struct plx_error err = {""};
    struct plx_pool *p;
    struct mutate_names names = {.n = 0};
    const struct pool_keeper keeper = {reactor, mutate_turn};
    int ret = pool_open_on(disk, &keeper, &p, &err);
    if (ret && clean)
        fprintf(stderr, "what is clean cannot be opened: %s\n", err.text);
    assert(!ret || !clean);
    assert(!ret || err.text[0]);
    if (ret)
        return false;
    p->full_wait_ns = 0;
    plx_pool_each(p, mutate_name, &names);
    for (unsigned i = 0; i < names.n; i++)
        use_volume(p, names.name[i], clean);
    if (names.n) {
        mutate_op(p, PLX_POOL_SNAPSHOT, names.name[0], "new");
        mutate_op(p, PLX_POOL_DELETE, names.name[names.n - 1], NULL);
    }
    mutate_settle(p);
    ret = pool_close_on(p);
    assert(!ret || !clean);
    return true;
}

struct mutated pool_mutate(const uint8_t *data, size_t size)
{
    struct mutated m = {false, false, false};
    if (!reactor)
        make_base();
    mutate(data, size);
    m.clean = mutate_look(false, false);
    m.opened = mutate_use(m.clean);
    const bool still = mutate_look(false, m.clean);
    assert(still || !m.clean);
    mutate(data, size);
    for (int i = 0; i < 3; i++)
        mutate_look(true, false);
    m.mended = mutate_look(false, false);
    if (m.mended) {
        mutate_use(true);
        const bool well = mutate_look(false, true);
        assert(well);
    }
    return m;
}
