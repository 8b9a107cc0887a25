/* SPDX-License-Identifier: BSD-3-Clause */
/* The life of a pool: made, opened by its root and its log, and closed. */
#include "pool.h"

#include "base/crc32c.h"
#include "base/log.h"
#include "base/uuid.h"
#include "reactor/clock.h"
#include "reactor/once.h"
#include "reactor/thread.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CLUSTER = 4 << 20,
    UNITS_MIN = 1024,
    COMMIT_MS = 1000, /* that what nobody has flushed may be lost for */
    CACHE_BYTES = 64 << 20,
    FULL_WAIT_S = 60,
    JOB_STEPS = 64,
    AHEAD = 512,           /* units that are read at once when it is opened */
    WIPED_FIRST = 4 << 20, /* bytes of a disk where signs of what it was can be */
    WIPED_LAST = 1 << 20,
};

/* Pools that are open. The lock is recursive, as a pool may be on a volume of another one. */
static pthread_mutex_t pools_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static struct plx_list pools = {&pools, &pools};

/* ---- requests of its own ---- */

static void keeper_turn(struct plx_reactor *r)
{
    if (plx_reactor_poll(r) || plx_reactor_arm(r))
        return;
    int64_t timer = plx_reactor_timeout(r);
    struct pollfd fd = {.fd = plx_reactor_fd(r), .events = POLLIN};
    poll(&fd, 1, timer < 0 || timer > (int64_t)PLX_NS_PER_S ? 1000 : (int)(timer / (int64_t)PLX_NS_PER_MS) + 1);
}

static void sync_done(struct plx_bdev_req *req)
{
    *(bool *)plx_container_of(req, struct pool_io, req)->arg = true;
}

/* Before the keeper runs, on the thread that makes it. */
static uint16_t io_wait(struct plx_pool *p, struct pool_io *io)
{
    bool done = false;
    io->arg = &done;
    plx_bdev_submit(p->keeper_ch, &io->req);
    while (!done)
        p->turn(p->keeper);
    return io->req.status;
}

/* copy: of those that the disk has; -1: any */
static uint16_t io_sync_copy(struct plx_pool *p, enum plx_bdev_op op, uint64_t unit, uint64_t n, void *mem, int copy)
{
    struct pool_io *io = calloc(1, sizeof *io);
    if (!io)
        return PLX_SC_INTERNAL_ERROR;
    io->iov[0] = (struct iovec){mem, (size_t)n << p->unit_shift};
    pool_io_init(io, op, unit, n, p, sync_done, NULL);
    if (copy >= 0) {
        io->req.flags = PLX_BDEV_ONE_COPY;
        io->req.copy = (uint8_t)copy;
    }
    uint16_t status = io_wait(p, io);
    free(io);
    return status;
}

static uint16_t io_sync(struct plx_pool *p, enum plx_bdev_op op, uint64_t unit, uint64_t n, void *mem)
{
    return io_sync_copy(p, op, unit, n, mem, -1);
}

struct sync_wait {
    struct pool_wait wait;
    bool over;
};

static void sync_again(struct pool_wait *w)
{
    plx_container_of(w, struct sync_wait, wait)->over = true;
}

static int sync_wait(struct plx_pool *p, struct sync_wait *s)
{
    while (!s->over)
        p->turn(p->keeper);
    s->over = false;
    return s->wait.status ? -EIO : 0;
}

/*
 * Has n things in memory, of which each may need several units one after the other; but all at once. What cannot be had
 * whoever wants it will find out.
 */
static void read_units_ahead(struct plx_pool *p, size_t n, const void *things,
                             int (*want)(struct plx_pool *p, struct pool_try *t, const void *things, size_t i))
{
    struct sync_wait *waits = calloc(n, sizeof *waits);
    size_t left = waits ? n : 0;
    for (size_t i = 0; i < left; i++)
        waits[i] = (struct sync_wait){{.reactor = p->keeper, .again = sync_again}, true};
    while (left) {
        for (size_t i = 0; i < n; i++) {
            struct pool_try t = {.ch = p->keeper_ch, .wait = &waits[i].wait};
            if (!waits[i].over)
                continue;
            waits[i].over = false;
            int ret = -EIO;
            pool_lock(p);
            if (!waits[i].wait.status)
                ret = want(p, &t, things, i);
            pool_try_end(p, &t);
            left -= ret != POOL_AGAIN;
        }
        if (left)
            p->turn(p->keeper);
    }
    free(waits);
}

/* ---- the keeper ---- */

static void keeper_committed(struct pool_wait *w)
{
    struct plx_pool *p = plx_container_of(w, struct plx_pool, timer_wait);
    if (w->status == POOL_COMMIT_AGAIN)
        pool_commit(p, p->keeper_ch, w);
    else
        p->timer_busy = false;
}

static void keeper_timer(struct plx_timer *timer)
{
    struct plx_pool *p = plx_container_of(timer, struct plx_pool, timer);
    p->timer_busy = true;
    atomic_store(&p->changed, false);
    p->timer_wait = (struct pool_wait){.reactor = p->keeper, .again = keeper_committed};
    pool_commit(p, p->keeper_ch, &p->timer_wait);
}

static void keeper_look(struct plx_msg *msg)
{
    struct plx_pool *p = plx_container_of(msg, struct plx_pool, kick);
    plx_once_hear(&p->kicked);
    if (atomic_exchange_explicit(&p->volumes_gone, false, memory_order_relaxed))
        pool_disks_tell(p);
    if (atomic_exchange_explicit(&p->disk_gone, false, memory_order_relaxed)) {
        pool_lock(p);
        pool_disks_gone(p);
        pool_unlock(p);
        pool_disks_tell(p);
    }
    if (atomic_exchange_explicit(&p->disk_resized, false, memory_order_relaxed) && atomic_load(&p->refs))
        pool_size_look(p); /* else it is being opened, and looked at then */
    pool_keep_serve(p);
    pool_checkpoint_serve(p);
    pool_jobs_serve(p);
    pool_ghosts_look(p);
    if (atomic_load(&p->changed) && !p->timer.set && !p->timer_busy && !p->closing)
        plx_timer_set(p->keeper, &p->timer, COMMIT_MS * PLX_NS_PER_MS);
}

void pool_kick(struct plx_pool *p)
{
    if (plx_once_ask(&p->kicked))
        plx_reactor_send(p->keeper, &p->kick);
}

static void *keeper_run(void *arg)
{
    plx_reactor_run(((struct plx_pool *)arg)->keeper);
    return NULL;
}

/* ---- memory ---- */

static void pool_free(struct plx_pool *p)
{
    if (p->hold) /* before the keeper, which is told of what happens to the disk */
        plx_bdev_release(p->hold);
    if (p->keeper_ch)
        plx_bdev_channel_put(p->keeper_ch);
    if (p->own_keeper && p->keeper)
        plx_reactor_destroy(p->keeper);
    pool_log_destroy(p);
    pool_space_destroy(p);
    pool_nodes_destroy(p);
    for (uint32_t i = 0; i < p->slots; i++)
        free(p->volume[i]);
    free(p->volume);
    free(p->damaged);
    free(p);
}

static void pool_disk_event(void *arg, struct plx_bdev *disk, enum plx_bdev_event what)
{
    (void)disk;
    struct plx_pool *p = arg;
    atomic_store_explicit(what == PLX_BDEV_GONE ? &p->disk_gone : &p->disk_resized, true, memory_order_relaxed);
    pool_kick(p);
}

/* A pool in memory, with a keeper and a channel to its disk; nothing of it is known yet. */
static int pool_new(struct plx_bdev *disk, const struct pool_keeper *keeper, struct plx_pool **out,
                    struct plx_error *err)
{
    static const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_SLEEP};
    const struct plx_bdev_info *info = plx_bdev_info(disk);
    if (info->zone_blocks)
        return plx_fail(err, -EINVAL, "%s is zoned, and a pool writes anywhere", info->name);
    struct plx_pool *p = calloc(1, sizeof *p);
    if (!p)
        return plx_fail(err, -ENOMEM, "out of memory");
    const struct plx_bdev_hold_opts hold = {
        .who = "a pool", .claim = PLX_BDEV_EXCLUSIVE, .event = pool_disk_event, .arg = p};
    p->disk = disk;
    p->block_shift = (unsigned)__builtin_ctz(info->block_size);
    p->unit_shift = p->block_shift > POOL_UNIT_SHIFT_MIN ? p->block_shift : POOL_UNIT_SHIFT_MIN;
    p->fan_shift = pool_fan_shift(p->unit_shift);
    p->region_shift = pool_region_shift(p->unit_shift);
    p->nodes_max = CACHE_BYTES >> p->unit_shift;
    p->full_wait_ns = FULL_WAIT_S * PLX_NS_PER_S;
    p->job_steps = JOB_STEPS;
    p->shape = 1; /* of none that was found lately */
    p->kick.fn = keeper_look;
    p->timer.fn = keeper_timer;
    plx_list_init(&p->link);
    plx_list_init(&p->channels);
    plx_list_init(&p->graces);
    plx_list_init(&p->drained);
    plx_list_init(&p->graced);
    plx_list_init(&p->busy_waits);
    plx_list_init(&p->checkpoint_waits);
    plx_list_init(&p->checkpoint_next);
    plx_list_init(&p->applying);
    plx_list_init(&p->applied);
    plx_list_init(&p->late);
    plx_list_init(&p->dying);
    plx_list_init(&p->op_waits);
    plx_list_init(&p->limbo);
    plx_list_init(&p->loaded);
    plx_list_init(&p->space_waits);
    pool_log_init(p);
    pool_ghosts_init(p);
    p->own_keeper = !keeper;
    p->turn = keeper ? keeper->turn : keeper_turn;
    p->keeper = keeper ? keeper->reactor : NULL;
    int ret = keeper ? 0 : plx_reactor_create(&p->keeper, &opts);
    /* Now that there is somebody to be told of the disk. */
    const int held = ret ? 0 : plx_bdev_hold(disk, &hold, &p->hold, err);
    if (held) {
        pool_free(p);
        return held;
    }
    if (!ret)
        ret = plx_bdev_channel_get(disk, p->keeper, &p->keeper_ch);
    if (!ret)
        ret = pool_nodes_init(p);
    if (ret) {
        pool_free(p);
        return plx_fail(err, ret, "%s: no pool can be opened: %s", info->name, strerror(-ret));
    }
    *out = p;
    return 0;
}

/* ---- roots ---- */

static bool root_ok(struct pool_root *r)
{
    plx_le32 crc = r->crc;
    if (memcmp(r->magic, POOL_MAGIC, sizeof r->magic))
        return false;
    r->crc = plx_put32(0);
    bool ok = plx_crc32c(r, sizeof *r) == plx_get32(crc);
    r->crc = crc;
    return ok;
}

static bool cluster_ok(const struct plx_pool *p, uint32_t cluster)
{
    return cluster && !(cluster & ((1U << p->unit_shift) - 1));
}

static int root_check(const struct plx_pool *p, const struct pool_root *r, struct plx_error *err)
{
    const char *disk = plx_bdev_info(p->disk)->name;
    const uint64_t units = plx_get64(r->units), there = plx_bdev_blocks(p->disk) >> (p->unit_shift - p->block_shift);
    const uint64_t log_units = plx_get64(r->log_units);
    if (plx_get32(r->version) != POOL_VERSION)
        return plx_fail(err, -EINVAL, "%s: its pool is of version %u, and this program knows version %d", disk,
                        plx_get32(r->version), POOL_VERSION);
    if (plx_get16(r->flags) & ~POOL_CHECKSUMS)
        return plx_fail(err, -EINVAL, "%s: its pool has flags 0x%x, not all of which this program knows", disk,
                        plx_get16(r->flags));
    if (r->unit_shift != p->unit_shift)
        return plx_fail(err, -EINVAL, "%s: its pool has units of %llu bytes, which does not fit blocks of %u bytes",
                        disk, 1ULL << (r->unit_shift & 63), plx_bdev_info(p->disk)->block_size);
    if (units > there)
        return plx_fail(err, -EINVAL, "%s: its pool has %llu units, but the disk only %llu: it has become smaller",
                        disk, (unsigned long long)units, (unsigned long long)there);
    if (units < UNITS_MIN || units >> POOL_UNITS_SHIFT_MAX || log_units < 8 || log_units > units / 4 ||
        plx_get64(r->used) > units || plx_get64(r->regions) > ((units - 1) >> p->region_shift) + 1 ||
        !plx_get32(r->instant) || !cluster_ok(p, plx_get32(r->cluster)) || plx_get32(r->slots) > POOL_SLOTS_MAX ||
        r->maps_height >= POOL_LEVELS || pool_entry_unit(&r->dir) >= units || pool_entry_unit(&r->maps) >= units ||
        r->name[POOL_NAME - 1] || (r->name[0] && !pool_name_ok(r->name)))
        return plx_fail(err, -EUCLEAN, "%s: the root of its pool cannot be: it is damaged, or was made by an attacker",
                        disk);
    return 0;
}

static void root_take(struct plx_pool *p, const struct pool_root *r)
{
    memcpy(p->uuid, r->uuid, sizeof p->uuid);
    memcpy(p->name, r->name, sizeof p->name);
    p->created = plx_get64(r->created);
    p->cluster = plx_get32(r->cluster);
    p->flags = plx_get16(r->flags);
    p->log_units = plx_get64(r->log_units);
    p->log_seq = p->log_first = plx_get64(r->log_seq);
    p->units = plx_get64(r->units);
    p->generation = plx_get64(r->generation);
    p->instant = plx_get32(r->instant);
    p->regions = plx_get64(r->regions);
    p->used = plx_get64(r->used);
    p->maps.height = r->maps_height;
    const uint64_t units = pool_units_trim(p, p->units);
    if (p->regions <= units >> p->region_shift) { /* as pools were made that end with an unused region without maps */
        p->used -= p->units - units == 2;         /* one of which counted as a map */
        p->units = units;
    }
    p->dir.height = POOL_DIR_HEIGHT;
    p->dir.root = r->dir;
    p->maps.root = r->maps;
}

/* The newest of what the copies of one root are. @return 0, or why there is none that could be read */
static uint16_t root_read_place(struct plx_pool *p, unsigned i, void *mem, struct pool_root *best, bool *found)
{
    const int copies = plx_bdev_info(p->disk)->copies;
    uint16_t status = 0;
    bool read = false;
    for (int copy = copies > 1 ? 0 : -1; copy < (copies > 1 ? copies : 0); copy++) {
        struct pool_root r;
        const uint16_t s = io_sync_copy(p, PLX_BDEV_READ, i * POOL_ROOT_STEP, 1, mem, copy);
        if (s) {
            status = s;
            continue;
        }
        read = true;
        memcpy(&r, mem, sizeof r);
        if (!root_ok(&r) || plx_get64(r.generation) % 2 != i)
            continue;
        if (!*found || plx_get64(r.generation) > plx_get64(best->generation))
            *best = r;
        *found = true;
    }
    return read ? 0 : status;
}

static int root_read(struct plx_pool *p, uint32_t *slots, struct plx_error *err)
{
    const char *disk = plx_bdev_info(p->disk)->name;
    const size_t unit = (size_t)1 << p->unit_shift;
    uint8_t *mem = aligned_alloc(4096, unit);
    struct pool_root best = {0};
    bool found = false;
    uint16_t status = 0;
    if (!mem)
        return plx_fail(err, -ENOMEM, "out of memory");
    /* None fits on a disk as small as that, where reading would fail. */
    const bool room = plx_bdev_blocks(p->disk) >> (p->unit_shift - p->block_shift) >= UNITS_MIN;
    for (unsigned i = 0; room && i < 2; i++) {
        const uint16_t s = root_read_place(p, i, mem, &best, &found);
        status = s ? s : status;
    }
    free(mem);
    if (!found && status)
        return plx_fail(err, -EIO, "%s: cannot be read", disk);
    if (found && status)
        return plx_fail(
            err, -EIO,
            "%s: one of the two roots of its pool cannot be read, which may be so for now, and may be the one "
            "that is valid: the pool is left as it is",
            disk);
    if (!found)
        return plx_fail(err, -ENODATA, "%s: there is no pool on it; `pollux pool create` makes one", disk);
    int ret = root_check(p, &best, err);
    if (!ret) {
        root_take(p, &best);
        *slots = plx_get32(best.slots);
    }
    return ret;
}

/* ---- the directory ---- */

/*
 * A page that is damaged, or cannot be read, costs the volumes that are in it. What can be saved of them is what
 * `pollux pool repair` is for.
 */
static int dir_lose_page(struct plx_pool *p, uint32_t page, bool unread, struct plx_error *err)
{
    const unsigned shift = p->unit_shift - 9;
    const uint32_t first = page << shift, end = (page + 1) << shift;
    int ret = 0;
    plx_error("pool %s: volumes %u to %u are lost: their page of the directory %s", pool_shown(p), first, end - 1,
              unread ? "cannot be read" : "is damaged");
    for (uint32_t i = first; i < end && !ret; i++)
        ret = pool_volume_lost(p, i, true, NULL, err);
    return ret;
}

static int dir_read_page(struct plx_pool *p, uint32_t page, struct plx_error *err)
{
    const unsigned shift = p->unit_shift - 9;
    const uint64_t rotten = p->rotten;
    struct sync_wait s = {.wait = {.reactor = p->keeper, .again = sync_again}};
    struct pool_node *n;
    int ret;
    do {
        struct pool_try t = {.ch = p->keeper_ch, .wait = &s.wait};
        pool_lock(p);
        ret = pool_tree_find(p, &t, &p->dir, page, 0, &n);
        if (!ret && n) {
            for (uint32_t i = 0; i < 1U << shift && !ret; i++)
                ret = pool_volume_from_record(p, page << shift | i, (struct pool_record *)n->mem + i, err);
            pool_unlock(p);
            return ret;
        }
        pool_try_end(p, &t);
        if (ret == POOL_AGAIN && sync_wait(p, &s))
            ret = -EIO;
    } while (ret == POOL_AGAIN);
    if (ret == -ENOMEM)
        return plx_fail(err, ret, "out of memory");
    return ret ? dir_lose_page(p, page, ret == -EIO && rotten == p->rotten, err) : 0;
}

static int dir_want(struct plx_pool *p, struct pool_try *t, const void *first, size_t i)
{
    struct pool_node *n;
    return pool_tree_find(p, t, &p->dir, *(const uint32_t *)first + i, 0, &n);
}

static int dir_read(struct plx_pool *p, uint32_t slots, struct plx_error *err)
{
    const unsigned shift = p->unit_shift - 9;
    const uint32_t pages = (slots + (1U << shift) - 1) >> shift;
    int ret = pool_slots(p, pages << shift) ? plx_fail(err, -ENOMEM, "out of memory") : 0;
    for (uint32_t page = 0; page < pages && !ret; page++) {
        if (page % AHEAD == 0)
            read_units_ahead(p, plx_min_u64(pages - page, AHEAD), &page, dir_want);
        ret = dir_read_page(p, page, err);
    }
    return ret ? ret : pool_volumes_link(p, err);
}

/* ---- the log ---- */

struct replay {
    uint8_t *pages; /* as they were read */
    size_t n, size;
    const struct pool_change *changes[AHEAD]; /* that come next */
};

/* Where the log ends in one copy, it may go on in another, as that one is damaged there. */
static bool replay_page_ok(struct plx_pool *p, void *page, uint64_t seq)
{
    const int copies = plx_bdev_info(p->disk)->copies;
    bool ok = pool_log_page_ok(p, page, seq);
    for (int copy = 0; !ok && copies > 1 && copy < copies; copy++)
        ok = !io_sync_copy(p, PLX_BDEV_READ, POOL_LOG_FIRST + seq % p->log_units, 1, page, copy) &&
             pool_log_page_ok(p, page, seq);
    return ok;
}

static int replay_read(struct plx_pool *p, struct replay *l, struct plx_error *err)
{
    const size_t unit = (size_t)1 << p->unit_shift;
    uint64_t seq = p->log_seq;
    for (;;) {
        const uint64_t place = seq % p->log_units, n = plx_min_u64(plx_min_u64(64, p->log_units - place), p->log_units);
        if (l->n + n > l->size) {
            size_t size = 2 * (l->n + n);
            uint8_t *pages = aligned_alloc(4096, size * unit);
            if (!pages)
                return plx_fail(err, -ENOMEM, "out of memory");
            if (l->n)
                memcpy(pages, l->pages, l->n * unit);
            free(l->pages);
            l->pages = pages;
            l->size = size;
        }
        if (io_sync(p, PLX_BDEV_READ, POOL_LOG_FIRST + place, n, l->pages + l->n * unit))
            return plx_fail(err, -EIO, "%s: the log of its pool cannot be read", plx_bdev_info(p->disk)->name);
        for (uint64_t i = 0; i < n; i++, seq++, l->n++)
            if (l->n == p->log_units || !replay_page_ok(p, l->pages + l->n * unit, seq))
                return 0;
    }
}

static bool change_ok(const struct plx_pool *p, const struct pool_change *c)
{
    const uint32_t number = plx_get32(c->volume);
    const unsigned count = plx_get16(c->count);
    const uint64_t at = plx_get64(c->at), to = plx_get64(c->to);
    if (number >= p->slots || !p->volume[number])
        return false;
    const bool lost = p->volume[number]->state == POOL_LOST;
    if (p->volume[number]->state != POOL_VOLUME && !lost)
        return false;
    const uint64_t size = lost ? UINT64_C(1) << POOL_UNITS_SHIFT_MAX : p->volume[number]->size;
    switch (plx_get16(c->kind)) {
    case POOL_MAP:
        return count && at < size && count <= size - at && to < p->units && count <= p->units - to &&
               at >> p->fan_shift == (at + count - 1) >> p->fan_shift;
    case POOL_UNMAP:
        return at < size && to && to <= size - at && at >> p->fan_shift == (at + to - 1) >> p->fan_shift;
    default:
        return false;
    }
}

/* @return bytes of a change, or 0 when there are not as many */
static uint32_t change_bytes(const struct plx_pool *p, const struct pool_change *c, uint32_t left)
{
    if (left < sizeof *c)
        return 0;
    const uint32_t n = pool_change_bytes(p, (enum pool_change_kind)plx_get16(c->kind), plx_get16(c->count));
    return n <= left ? n : 0;
}

/* What is done with each unit in a step of its own, or with each change. */
static int replay_claim(struct plx_pool *p, struct pool_try *t, const struct pool_change *c, unsigned *done)
{
    if (p->volume[plx_get32(c->volume)]->kept)
        return -ESTALE;
    for (; plx_get16(c->kind) == POOL_MAP && *done < plx_get16(c->count); ++*done) {
        uint64_t unit = plx_get64(c->to) + *done;
        int ret = pool_region_want(p, t, unit >> p->region_shift);
        if (!ret)
            ret = pool_space_claim(p, unit);
        if (ret)
            return ret;
    }
    return 0;
}

static int replay_apply(struct plx_pool *p, struct pool_try *t, const struct pool_change *c, unsigned *done)
{
    struct pool_volume *v = p->volume[plx_get32(c->volume)];
    uint64_t n = plx_get64(c->to);
    (void)done;
    if (v->state == POOL_LOST) /* what was written to it is lost, and what that has is not given to others */
        return 0;
    if (plx_get16(c->kind) == POOL_UNMAP)
        return pool_volume_unmap(p, t, v, plx_get64(c->at), &n, false);
    return pool_volume_map(p, t, v, plx_get64(c->at), plx_get16(c->count), plx_get64(c->to),
                           p->flags & POOL_CHECKSUMS ? (const plx_le32 *)(c + 1) : NULL, false);
}

static int replay_step(struct plx_pool *p, const struct pool_change *c,
                       int (*step)(struct plx_pool *p, struct pool_try *t, const struct pool_change *c, unsigned *done))
{
    struct sync_wait s = {.wait = {.reactor = p->keeper, .again = sync_again}};
    unsigned done = 0;
    int ret;
    do {
        struct pool_try t = {.ch = p->keeper_ch, .wait = &s.wait};
        pool_lock(p);
        ret = step(p, &t, c, &done);
        pool_try_end(p, &t);
        if (ret == POOL_AGAIN && sync_wait(p, &s))
            ret = -EIO;
    } while (ret == POOL_AGAIN);
    return ret;
}

/*
 * Logs of pools of 4 GiB and more were made too long: they had the maps of the second region. Nothing is to be replayed
 * any more; so with the root that says that, the log ends before them.
 */
static void log_shorten(struct plx_pool *p)
{
    const uint64_t end = POOL_LOG_FIRST + p->log_units, fixed = pool_space_fixed(p);
    if (p->log_units <= pool_log_units_max(p))
        return;
    p->log_units = pool_log_units_max(p);
    if (p->regions == 1) {
        p->used -= fixed - pool_space_fixed(p);
        return;
    }
    for (uint64_t unit = POOL_LOG_FIRST + p->log_units; unit < end && !pool_space_free_ready(p, 1); unit++)
        if (!pool_space_is_fixed(p, unit))
            pool_space_free(p, unit);
}

static int claim_want(struct plx_pool *p, struct pool_try *t, const void *changes, size_t i)
{
    const struct pool_change *c = ((const struct pool_change *const *)changes)[i];
    if (!change_ok(p, c) || plx_get16(c->kind) != POOL_MAP)
        return 0;
    return pool_region_want(p, t, plx_get64(c->to) >> p->region_shift);
}

static int apply_want(struct plx_pool *p, struct pool_try *t, const void *changes, size_t i)
{
    const struct pool_change *c = ((const struct pool_change *const *)changes)[i];
    struct pool_node *n;
    if (!change_ok(p, c))
        return 0;
    return pool_tree_find(p, t, &p->volume[plx_get32(c->volume)]->tree, plx_get64(c->at), 1, &n);
}

/* What it is that is done with each change, and what that will need. */
static const struct replay_pass {
    int (*step)(struct plx_pool *p, struct pool_try *t, const struct pool_change *c, unsigned *done);
    int (*want)(struct plx_pool *p, struct pool_try *t, const void *changes, size_t i);
} replay_passes[] = {{replay_claim, claim_want}, {replay_apply, apply_want}};

static int replay_some(struct plx_pool *p, const struct replay *l, size_t n, const struct replay_pass *pass)
{
    int ret = 0;
    read_units_ahead(p, n, l->changes, pass->want);
    for (size_t i = 0; i < n && !ret; i++)
        ret = change_ok(p, l->changes[i]) ? replay_step(p, l->changes[i], pass->step) : -EUCLEAN;
    return ret;
}

static int replay_pages(struct plx_pool *p, struct replay *l, const struct replay_pass *pass)
{
    size_t n = 0;
    int ret = 0;
    for (size_t i = 0; i < l->n && !ret; i++) {
        const uint8_t *page = l->pages + (i << p->unit_shift);
        const uint32_t bytes = plx_get32(((const struct pool_log_page *)(const void *)page)->bytes);
        for (uint32_t at = 0, len; at < bytes && !ret; at += len) {
            const struct pool_change *c = (const void *)(page + POOL_PAGE_HEADER + at);
            len = change_bytes(p, c, bytes - at);
            if (!len)
                return -EUCLEAN;
            l->changes[n++] = c;
            if (n < AHEAD)
                continue;
            ret = replay_some(p, l, n, pass);
            n = 0;
        }
    }
    return ret || !n ? ret : replay_some(p, l, n, pass);
}

/* First all units that the log names are put out of reach, as nodes are allocated when it is applied. */
static int replay(struct plx_pool *p, struct plx_error *err)
{
    struct replay l = {0};
    int ret = replay_read(p, &l, err);
    p->replaying = true;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(replay_passes) && !ret; i++)
        ret = replay_pages(p, &l, &replay_passes[i]);
    if (ret == -ESTALE)
        plx_fail(err, ret,
                 "%s: its log has changes of volumes that are damaged, or cannot be read for now, and may be brought "
                 "back: the pool is left as it is; `pollux pool check` says more, and `pollux pool repair` keeps them",
                 plx_bdev_info(p->disk)->name);
    else if (ret && ret != -ENOMEM)
        plx_fail(err, ret, "%s: the log of its pool cannot be replayed: %s", plx_bdev_info(p->disk)->name,
                 strerror(-ret));
    /* Pages of this log that are on the disk beyond its end must not be taken for those that come now. */
    p->log_seq += l.n + p->log_units;
    p->log_first = p->log_seq;
    p->replaying = false;
    if (!ret)
        log_shorten(p);
    free(l.pages);
    return ret;
}

/* ---- opening ---- */

/* A first checkpoint says that the log has been replayed. */
static int checkpoint_sync(struct plx_pool *p, struct plx_error *err)
{
    struct sync_wait s = {.wait = {.reactor = p->keeper, .again = sync_again}};
    pool_lock(p);
    pool_checkpoint_wait(p, &s.wait);
    pool_unlock(p);
    pool_kick(p);
    int ret = sync_wait(p, &s);
    return ret ? plx_fail(err, ret, "%s: cannot be written to", plx_bdev_info(p->disk)->name) : 0;
}

int pool_open_on(struct plx_bdev *disk, const struct pool_keeper *keeper, struct plx_pool **out, struct plx_error *err)
{
    struct plx_pool *p;
    int ret = pool_new(disk, keeper, &p, err);
    if (ret)
        return ret;
    uint32_t slots = 0;
    ret = root_read(p, &slots, err);
    if (!ret && pool_space_init(p))
        ret = plx_fail(err, -ENOMEM, "out of memory");
    if (!ret)
        ret = dir_read(p, slots, err);
    if (!ret)
        ret = replay(p, err);
    if (!ret)
        ret = checkpoint_sync(p, err);
    if (ret) {
        pool_free(p);
        return ret;
    }
    p->refs = 1;
    pool_size_look(p);
    pool_jobs_begin(p);
    *out = p;
    return 0;
}

/* Under pools_lock. */
static int open_shared(struct plx_bdev *disk, bool own_disk, struct plx_pool **out, struct plx_error *err)
{
    plx_list_for_each(it, &pools) {
        struct plx_pool *p = plx_list_entry(it, struct plx_pool, link);
        if (p->disk != disk)
            continue;
        atomic_fetch_add(&p->refs, 1);
        *out = p;
        return 0;
    }
    int ret = pool_open_on(disk, NULL, out, err);
    if (ret)
        return ret;
    (*out)->own_disk = own_disk;
    ret = plx_thread_start(&(*out)->thread, NULL, keeper_run, *out, "pollux-pool");
    if (ret) {
        pool_free(*out);
        return plx_fail(err, ret, "no thread for a pool: %s", strerror(-ret));
    }
    plx_list_add_tail(&pools, &(*out)->link);
    return 0;
}

int plx_pool_open(struct plx_bdev *disk, struct plx_pool **out, struct plx_error *err)
{
    pthread_mutex_lock(&pools_lock);
    int ret = open_shared(disk, false, out, err);
    pthread_mutex_unlock(&pools_lock);
    return ret;
}

int plx_pool_find(const uint8_t uuid[16], struct plx_pool **out)
{
    int ret = -ENODEV;
    pthread_mutex_lock(&pools_lock);
    plx_list_for_each(it, &pools) {
        struct plx_pool *p = plx_list_entry(it, struct plx_pool, link);
        if (!ret || memcmp(p->uuid, uuid, sizeof p->uuid))
            continue;
        atomic_fetch_add(&p->refs, 1);
        *out = p;
        ret = 0;
    }
    pthread_mutex_unlock(&pools_lock);
    return ret;
}

/* The disk that a name stands on, if it was opened for a pool; or NULL. */
static struct plx_bdev *find_own(const struct plx_url *url)
{
    struct plx_url *below = malloc(sizeof *below);
    const size_t wrapped = url->body[0] == '[', len = strlen(url->body) - 2 * wrapped;
    char *name = strndup(url->body + wrapped, len);
    struct plx_bdev *found = NULL;
    struct plx_error err;
    if (below && name && !plx_url_parse(name, below, &err) && strlen(below->text) < sizeof below->text - 1)
        plx_list_for_each(it, &pools) {
            struct plx_pool *p = plx_list_entry(it, struct plx_pool, link);
            if (p->own_disk && !strcmp(plx_bdev_info(p->disk)->name, below->text))
                found = p->disk;
        }
    free(below);
    free(name);
    return found;
}

int pool_open_below(const struct plx_url *url, struct plx_pool **out, struct plx_error *err)
{
    struct plx_bdev *disk;
    bool opened = false;
    int ret = 0;
    pthread_mutex_lock(&pools_lock);
    disk = find_own(url);
    if (!disk)
        ret = plx_bdev_find_below(url, &disk, &opened, err);
    if (!ret)
        ret = open_shared(disk, opened, out, err);
    if (ret && opened)
        plx_bdev_close(disk);
    pthread_mutex_unlock(&pools_lock);
    return ret;
}

/* ---- closing ---- */

static void closed_again(struct pool_wait *w)
{
    struct plx_pool *p = plx_container_of(w, struct plx_pool, close_wait);
    p->close_status = w->status;
    p->close_over = true;
    if (p->own_keeper)
        plx_reactor_stop(p->keeper);
}

static void close_begin(struct plx_msg *msg)
{
    struct plx_pool *p = plx_container_of(msg, struct plx_pool, close_msg);
    p->closing = true;
    plx_timer_cancel(p->keeper, &p->timer);
    plx_timer_cancel(p->keeper, &p->sweep_timer);
    plx_timer_cancel(p->keeper, &p->keep_timer);
    p->close_wait = (struct pool_wait){.reactor = p->keeper, .again = closed_again};
    pool_lock(p);
    if (p->broken)
        pool_wake_one(&p->close_wait, p->broken);
    else
        pool_checkpoint_wait(p, &p->close_wait);
    pool_unlock(p);
    pool_kick(p);
}

/* Nothing of it is under way, but for what the keeper does. */
static bool is_quiet(struct plx_pool *p)
{
    pool_lock(p);
    bool quiet = !p->checkpoint && !p->committing && !p->timer_busy && !p->kicked && !p->jobs_busy && !p->works;
    pool_unlock(p);
    return quiet;
}

int pool_close_on(struct plx_pool *p)
{
    p->close_msg.fn = close_begin;
    plx_reactor_send(p->keeper, &p->close_msg);
    if (p->own_keeper)
        pthread_join(p->thread, NULL);
    while (!p->close_over || !is_quiet(p))
        p->turn(p->keeper);
    int ret = p->close_status ? -EIO : 0;
    pool_free(p);
    return ret;
}

int plx_pool_close(struct plx_pool *p)
{
    pthread_mutex_lock(&pools_lock);
    struct plx_bdev *own = p->own_disk ? p->disk : NULL;
    bool last = atomic_fetch_sub(&p->refs, 1) == 1;
    if (last)
        plx_list_del(&p->link);
    int ret = last ? pool_close_on(p) : 0;
    if (last && own)
        plx_bdev_close(own);
    pthread_mutex_unlock(&pools_lock);
    return ret;
}

/* ---- making one ---- */

static uint16_t wipe_blocks(struct plx_pool *p, uint64_t lba, uint64_t n)
{
    struct pool_io *io = calloc(1, sizeof *io);
    if (!io)
        return PLX_SC_INTERNAL_ERROR;
    pool_io_init(io, PLX_BDEV_WRITE_ZEROES, 0, 0, p, sync_done, NULL);
    io->req.lba = lba;
    io->req.nlb = (uint32_t)n;
    uint16_t status = io_wait(p, io);
    free(io);
    return status;
}

static uint16_t make_durable(struct plx_pool *p)
{
    return plx_bdev_info(p->disk)->ops & 1 << PLX_BDEV_FLUSH ? io_sync(p, PLX_BDEV_FLUSH, 0, 0, NULL) : 0;
}

/* Nothing that anybody knows is where it was: libblkid finds the same, and arrays have their members at the end. */
static uint16_t wipe(struct plx_pool *p)
{
    const uint64_t blocks = plx_bdev_blocks(p->disk);
    const uint64_t first = plx_min_u64(WIPED_FIRST >> p->block_shift, blocks);
    const uint64_t last = plx_min_u64(WIPED_LAST >> p->block_shift, blocks);
    uint16_t status = wipe_blocks(p, 0, first);
    if (!status)
        status = wipe_blocks(p, blocks - last, last);
    return status ? status : make_durable(p);
}

int pool_make_on(struct plx_bdev *disk, const struct pool_keeper *keeper, const struct plx_pool_opts *opts,
                 struct plx_error *err)
{
    struct plx_pool *p;
    const char *name = opts->name ? opts->name : "";
    if (*name && !pool_name_ok(name))
        return plx_fail(err, -EINVAL, "the name of a pool has at most %d bytes of printable characters, and no '/'",
                        POOL_NAME - 1);
    int ret = pool_new(disk, keeper, &p, err);
    if (ret)
        return ret;
    const size_t unit = (size_t)1 << p->unit_shift;
    const uint64_t units = plx_bdev_blocks(disk) >> (p->unit_shift - p->block_shift);
    uint8_t *mem = aligned_alloc(4096, unit);
    p->units = pool_units_trim(p, units);
    p->log_units = plx_min_u64(plx_max_u64(units / 64, 16), (64 << 20) >> p->unit_shift);
    p->log_units = plx_min_u64(p->log_units, pool_log_units_max(p));
    p->cluster = opts->cluster ? opts->cluster : CLUSTER;
    p->created = plx_wall_seconds();
    p->flags = opts->checksums ? POOL_CHECKSUMS : 0;
    p->instant = 1;
    p->dir.height = POOL_DIR_HEIGHT;
    snprintf(p->name, sizeof p->name, "%s", name);
    if (opts->uuid)
        memcpy(p->uuid, opts->uuid, sizeof p->uuid);
    if (!mem || pool_space_init(p) || (!opts->uuid && plx_uuid_random(p->uuid))) {
        ret = plx_fail(err, -ENOMEM, "out of memory");
    } else if (!cluster_ok(p, p->cluster)) {
        ret = plx_fail(err, -EINVAL, "clusters of %u bytes: their size is a multiple of %u bytes", p->cluster,
                       1U << p->unit_shift);
    } else if (units < UNITS_MIN) {
        ret = plx_fail(err, -EINVAL, "%s is too small for a pool, which needs %u KiB", plx_bdev_info(disk)->name,
                       UNITS_MIN << (p->unit_shift - 10));
    } else {
        memset(mem, 0, unit);
        p->used = pool_space_fixed(p);
        uint16_t status = wipe(p);
        pool_root_image(p, (struct pool_root *)(void *)mem);
        pool_root_end((struct pool_root *)(void *)mem, 1, 0);
        if (!status)
            status = io_sync(p, PLX_BDEV_WRITE, POOL_ROOT_STEP, 1, mem);
        if (!status)
            status = make_durable(p);
        if (status)
            ret = plx_fail(err, -EIO, "%s: cannot be written to", plx_bdev_info(disk)->name);
    }
    free(mem);
    pool_free(p);
    return ret;
}

int plx_pool_make(struct plx_bdev *disk, const struct plx_pool_opts *opts, struct plx_error *err)
{
    return pool_make_on(disk, NULL, opts, err);
}

int pool_erase_on(struct plx_bdev *disk, const struct pool_keeper *keeper, struct plx_error *err)
{
    struct plx_pool *p;
    int ret = pool_new(disk, keeper, &p, err);
    if (ret)
        return ret;
    if (wipe(p))
        ret = plx_fail(err, -EIO, "%s: cannot be written to", plx_bdev_info(disk)->name);
    pool_free(p);
    return ret;
}

int plx_pool_erase(struct plx_bdev *disk, struct plx_error *err)
{
    return pool_erase_on(disk, NULL, err);
}
