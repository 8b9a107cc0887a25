/* SPDX-License-Identifier: BSD-3-Clause */
/* The core of the block layer: disks and channels come and go, and every request passes the one checked dispatcher. */
#include "bdev/core.h"

#include "base/log.h"
#include "base/uuid.h"
#include "reactor/clock.h"
#include "reactor/owner.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct plx_bdev_driver *const plx_bdev_drivers[] = {
    &plx_bdev_file,         &plx_bdev_ram,          &plx_bdev_null,       &plx_bdev_nvme_tcp,
    &plx_bdev_nvme_pcie,    &plx_bdev_ng,           &plx_bdev_vhost_user, &plx_bdev_filter_delay,
    &plx_bdev_filter_error, &plx_bdev_filter_crash, &plx_bdev_volume,     NULL};

enum {
    NO_RANGE = 1 << PLX_BDEV_FLUSH | 1 << PLX_BDEV_RESET | 1 << PLX_BDEV_ALLOCATED,
    OF_ZONES = 1 << PLX_BDEV_ZONE_MANAGE | 1 << PLX_BDEV_ZONE_REPORT, /* nlb is no number of blocks */
    DATA = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_COMPARE | 1 << PLX_BDEV_COMPARE_AND_WRITE |
           1 << PLX_BDEV_ZONE_APPEND,
    /* Operations that may be as plain as that; of several kinds of drivers, each, when it has them. */
    PLAIN = DATA & ~(1 << PLX_BDEV_COMPARE_AND_WRITE | 1 << PLX_BDEV_ZONE_APPEND),
    PARTS = 64, /* requests of a channel that are emulated at the same time */
};

/* ---- disks ---- */

const char *const *plx_bdev_kinds(void)
{
    static const char *kinds[PLX_ARRAY_SIZE(plx_bdev_drivers)];
    /* Several threads may write this at once: always the same values, as single stores. */
    for (size_t i = 0; plx_bdev_drivers[i]; i++)
        __atomic_store_n(&kinds[i], plx_bdev_drivers[i]->help, __ATOMIC_RELAXED);
    return kinds;
}

/*
 * A random UUID for a disk that is another one at each start; and info->origin: the UUID, or for such a disk its name,
 * and all settings. That of a disk without settings is its UUID, so that they are no part of it; that of a filter
 * which has the UUID of the disk below begins with what was asked for there.
 */
static int fill_identity(struct plx_bdev *bdev, const struct plx_url *url)
{
    struct plx_bdev_info *info = &bdev->info;
    const struct plx_bdev_info *below = bdev->below ? &bdev->below->info : NULL;
    char text[sizeof info->origin + sizeof url->params[0]];
    int ret = 0;
    memcpy(info->origin, info->uuid, sizeof info->origin);
    if (below && !memcmp(info->uuid, below->uuid, sizeof info->uuid))
        memcpy(info->origin, below->origin, sizeof info->origin);
    if (plx_uuid_nil(info->uuid)) {
        ret = plx_uuid_random(info->uuid);
        if (!ret)
            ret = plx_uuid_from_name(url->name, strlen(url->name), info->origin);
    }
    for (int i = 0; i < url->nparams && !ret; i++) {
        if (!strcmp(url->params[i].key, "uuid")) /* is there already */
            continue;
        memcpy(text, info->origin, sizeof info->origin);
        int len = snprintf(text + sizeof info->origin, sizeof url->params[i], "%s=%s", url->params[i].key,
                           url->params[i].value);
        ret = plx_uuid_from_name(text, sizeof info->origin + (size_t)len, info->origin);
    }
    return ret;
}

/* Completes what the driver's open said of the disk. */
static void finish_info(struct plx_bdev *bdev, const char *driver, const char *name)
{
    const uint32_t memory =
        1 << PLX_BDEV_COMPARE | 1 << PLX_BDEV_COPY | 1 << PLX_BDEV_COMPARE_AND_WRITE | 1 << PLX_BDEV_VERIFY;
    struct plx_bdev_info *info = &bdev->info;
    info->driver = driver;
    memset(info->name, 0, sizeof info->name);
    memccpy(info->name, name, 0, sizeof info->name - 1);
    assert(info->block_size >= 512 && info->block_size <= 65536 && !(info->block_size & (info->block_size - 1)));
    assert(info->blocks > 0);
    bdev->block_shift = (unsigned)__builtin_ctz(info->block_size);
    bdev->native_ops = info->ops & ~(1u << PLX_BDEV_RESET);

    uint32_t emulated = plx_emulate_ops(bdev);
    bdev->emulates = emulated != 0;
    if (emulated & memory)
        info->in_place = false; /* it may have to wait for a piece of that */
    /* Filters keep what they do not forward: see plx_bdev_subs_get(). But the range lock needs to know of all. */
    bdev->tracked = !info->in_place && (!bdev->below || emulated & 1 << PLX_BDEV_COMPARE_AND_WRITE);
    info->ops |= emulated | 1 << PLX_BDEV_RESET;
    if (info->read_only)
        info->ops &= ~(uint32_t)PLX_BDEV_WRITERS;
    if (!(info->ops & 1 << PLX_BDEV_UNMAP))
        info->unmap_granularity = info->max_unmap_blocks = 0;
    bdev->in_place = info->in_place;
}

/* What is read is to be what the disk holds, from here on down. */
static void define_reads_of(struct plx_bdev *bdev)
{
    for (; bdev; bdev = bdev->below)
        __atomic_store_n(&bdev->info.undefined_reads, false, __ATOMIC_RELAXED);
}

/*
 * In this order: who finds that a disk does not lend reads what is defined. What is counted on being in place while
 * that changes is as PLX_BDEV_IN_PLACE says.
 */
void plx_bdev_adapt(struct plx_bdev *bdev)
{
    uint32_t limited = plx_limited_ops(bdev), plain = bdev->native_ops & bdev->info.ops & PLAIN & ~limited;
    if (limited & 1 << PLX_BDEV_READ)
        define_reads_of(bdev);
    __atomic_store_n(&bdev->info.in_place, bdev->in_place && !limited, __ATOMIC_RELAXED);
    atomic_store_explicit(&bdev->plain_ops, bdev->gone ? 0 : plain, memory_order_release);
}

static void submit_below(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    plx_bdev_forward(ch->below, req);
}

static const void *map_below(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb)
{
    return plx_bdev_map_again(ch->below, lba, nlb); /* limits below have been looked at: see plx_bdev_adapt() */
}

const void *plx_bdev_map_never(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb)
{
    (void)ch, (void)lba, (void)nlb;
    return NULL;
}

/*
 * A filter that does not lend what is below, or reads it for what is emulated above, reads for others: whatever may
 * leave the memory of its reads as it was (info.undefined_reads) must not any more.
 */
static void define_reads(struct plx_bdev *bdev)
{
    if (bdev->below && (bdev->ops->map || bdev->emulates))
        define_reads_of(bdev);
}

int plx_bdev_register(struct plx_bdev *bdev, const char *driver, const char *text, const char *name,
                      struct plx_error *err)
{
    int ret = name ? plx_registry_check_name(name, err) : 0;
    if (ret)
        return ret;
    bdev->submit = bdev->ops->submit ? bdev->ops->submit : submit_below;
    bdev->map = bdev->ops->map ? bdev->ops->map : bdev->below ? map_below : plx_bdev_map_never;
    finish_info(bdev, driver, name ? name : text);
    bdev->named = name != NULL;
    pthread_mutex_init(&bdev->lock, NULL);
    plx_list_init(&bdev->channels);
    plx_stats_init(bdev);
    plx_range_lock_init(bdev);
    ret = plx_registry_add(bdev, err);
    if (ret)
        pthread_mutex_destroy(&bdev->lock);
    else
        define_reads(bdev);
    return ret;
}

void plx_bdev_filter_init(struct plx_bdev *filter, struct plx_bdev *below)
{
    filter->below = below;
    filter->info = below->info;
    filter->info.in_place = below->in_place; /* without limits */
    filter->below_blocks = filter->info.blocks;
}

int plx_bdev_open_as(const char *text, const char *name, struct plx_bdev **out, struct plx_error *err)
{
    struct plx_url *url = malloc(sizeof *url);
    if (!url)
        return plx_fail(err, -ENOMEM, "out of memory");
    const struct plx_bdev_driver *const *driver = plx_bdev_drivers;
    struct plx_bdev *bdev;
    int ret = plx_url_parse(text, url, err);
    if (ret)
        goto free_url;
    while (*driver && strcmp((*driver)->scheme, url->scheme))
        driver++;
    assert(*driver); /* plx_url_parse() knows no other schemes */
    ret = (*driver)->open(url, &bdev, err);
    if (ret)
        goto free_url;
    if (bdev->below)
        plx_url_restate(url, bdev->below->info.name);
    ret = fill_identity(bdev, url);
    if (ret)
        plx_fail(err, ret, "cannot make a UUID for %s", url->name);
    else
        ret = plx_bdev_register(bdev, (*driver)->scheme, url->text, name, err);
    if (ret)
        bdev->ops->close(bdev);
    else
        *out = bdev;
free_url:
    free(url);
    return ret;
}

int plx_bdev_open(const char *text, struct plx_bdev **out, struct plx_error *err)
{
    return plx_bdev_open_as(text, NULL, out, err);
}

int plx_bdev_close_checked(struct plx_bdev *bdev, struct plx_error *err)
{
    int ret = plx_registry_remove(bdev, err);
    if (ret)
        return ret;
    assert(!bdev->range_lock.owner);
    free(bdev->limiter);
    pthread_mutex_destroy(&bdev->lock);
    bdev->ops->close(bdev);
    return 0;
}

int plx_bdev_close(struct plx_bdev *bdev)
{
    struct plx_error err;
    int ret = plx_bdev_close_checked(bdev, &err);
    if (ret)
        plx_error("cannot close a disk: %s", err.text);
    return ret;
}

int plx_bdev_resize(struct plx_bdev *bdev, uint64_t blocks, struct plx_error *err)
{
    if (!blocks || blocks > (uint64_t)INT64_MAX >> bdev->block_shift)
        return plx_fail(err, -EINVAL, "%s: a disk has 1 to %llu blocks of %u bytes", bdev->info.name,
                        (unsigned long long)((uint64_t)INT64_MAX >> bdev->block_shift), bdev->info.block_size);
    if (bdev->ops->resize)
        return bdev->ops->resize(bdev, blocks, err);
    if (bdev->below)
        return plx_bdev_resize(bdev->below, blocks, err);
    return plx_fail(err, -EOPNOTSUPP, "%s: the size of a disk of this kind, %s, is not ours to change", bdev->info.name,
                    bdev->info.driver);
}

int plx_bdev_rescan(struct plx_bdev *bdev, struct plx_error *err)
{
    if (bdev->ops->rescan)
        return bdev->ops->rescan(bdev, err);
    return bdev->below ? plx_bdev_rescan(bdev->below, err) : 0;
}

uint64_t plx_bdev_blocks(const struct plx_bdev *bdev)
{
    return __atomic_load_n(&bdev->info.blocks, __ATOMIC_RELAXED);
}

const struct plx_bdev_info *plx_bdev_info(const struct plx_bdev *bdev)
{
    return &bdev->info;
}

/* ---- channels ---- */

static struct plx_bdev_channel *channel_find(struct plx_bdev *bdev, const struct plx_reactor *r)
{
    struct plx_bdev_channel *found = NULL;
    pthread_mutex_lock(&bdev->lock);
    plx_list_for_each(it, &bdev->channels) {
        struct plx_bdev_channel *ch = plx_list_entry(it, struct plx_bdev_channel, link);
        if (ch->reactor == r)
            found = ch;
    }
    pthread_mutex_unlock(&bdev->lock);
    return found;
}

int plx_bdev_check_reactors(const struct plx_bdev *bdev, unsigned reactors, struct plx_error *err)
{
    const unsigned most = bdev->info.max_reactors;
    if (!most || reactors <= most)
        return 0;
    return plx_fail(err, -EBUSY,
                    "%.120s: has %u queue%s, one for each core that uses it, and not %u; use no more cores than that "
                    "(--cores), or have its back-end offer more queues",
                    bdev->info.name, most, most == 1 ? "" : "s", reactors);
}

int plx_bdev_channel_get(struct plx_bdev *bdev, struct plx_reactor *r, struct plx_bdev_channel **out)
{
    plx_assert_here(r);
    struct plx_bdev_channel *ch = channel_find(bdev, r);
    if (ch) {
        ch->refs++;
        *out = ch;
        return 0;
    }
    ch = plx_alloc_apart(sizeof *ch + bdev->channel_size);
    if (!ch)
        return -ENOMEM;
    ch->bdev = bdev;
    ch->reactor = r;
    ch->refs = 1;
    plx_list_init(&ch->requests);
    ch->now = plx_reactor_now_at(r);
    plx_stats_begin(ch);
    plx_lanes_init(ch);
    bool parts = bdev->tracked || bdev->emulates || bdev->below || bdev->info.max_unmap_blocks != UINT32_MAX;
    int ret = plx_pieces_init(ch);
    if (!ret)
        ret = plx_reserve_init(&ch->parts, parts ? PARTS : 0);
    if (!ret)
        ret = plx_reserve_init(&ch->subs, bdev->subs);
    if (!ret && bdev->below)
        ret = plx_bdev_channel_get(bdev->below, r, &ch->below);
    if (!ret && bdev->ops->channel_open)
        ret = bdev->ops->channel_open(ch);
    if (ret) {
        if (ch->below)
            plx_bdev_channel_put(ch->below);
        plx_bdev_channel_free(ch);
        return ret;
    }
    pthread_mutex_lock(&bdev->lock);
    plx_list_add_tail(&bdev->channels, &ch->link);
    plx_gate_init(ch);
    pthread_mutex_unlock(&bdev->lock);
    *out = ch;
    return 0;
}

void plx_bdev_channel_free(struct plx_bdev_channel *ch)
{
    plx_pieces_destroy(ch);
    plx_reserve_destroy(&ch->parts);
    plx_reserve_destroy(&ch->subs);
    free(ch);
}

void plx_bdev_channel_put(struct plx_bdev_channel *ch)
{
    struct plx_bdev *bdev = ch->bdev;
    plx_assert_here(ch->reactor);
    assert(ch->refs > 0);
    if (--ch->refs)
        return;
    assert(plx_list_empty(&ch->requests));
    if (bdev->ops->channel_close)
        bdev->ops->channel_close(ch);
    if (ch->below)
        plx_bdev_channel_put(ch->below);
    pthread_mutex_lock(&bdev->lock);
    plx_stats_keep(ch);
    plx_list_del(&ch->link);
    bool unused = plx_gate_close(ch);
    pthread_mutex_unlock(&bdev->lock);
    if (unused)
        plx_bdev_channel_free(ch);
}

struct plx_bdev *plx_bdev_channel_bdev(const struct plx_bdev_channel *ch)
{
    return ch->bdev;
}

void plx_bdev_count_mapped(struct plx_bdev_channel *ch, uint32_t nlb)
{
    plx_stat_count(ch, PLX_BDEV_READ, nlb);
}

/* ---- requests ---- */

static inline bool in_range(const struct plx_bdev *bdev, uint64_t lba, uint32_t nlb)
{
    uint64_t blocks = __atomic_load_n(&bdev->info.blocks, __ATOMIC_RELAXED), last;
    return !__builtin_add_overflow(lba, (uint64_t)nlb - 1, &last) && last < blocks; /* not of no blocks: lba - 1 */
}

uint16_t plx_bdev_check(const struct plx_bdev *bdev, enum plx_bdev_op op, uint64_t lba, uint32_t nlb)
{
    if (op >= PLX_BDEV_OPS)
        return PLX_SC_INVALID_OPCODE;
    if (bdev->gone && op != PLX_BDEV_RESET)
        return PLX_SC_INVALID_NAMESPACE_OR_FORMAT;
    uint32_t bit = UINT32_C(1) << op;
    if (!(bdev->info.ops & bit))
        return bdev->info.read_only && bit & PLX_BDEV_WRITERS ? PLX_SC_NAMESPACE_WRITE_PROTECTED
                                                              : PLX_SC_INVALID_OPCODE;
    if (bit & NO_RANGE || in_range(bdev, lba, bit & OF_ZONES ? 1 : nlb))
        return PLX_SC_SUCCESS;
    return nlb || bit & OF_ZONES ? PLX_SC_LBA_OUT_OF_RANGE : PLX_SC_INVALID_FIELD;
}

/*
 * Whether an iovec has exactly the bytes that the operation moves. Those that move none have none to look at.
 */
static bool iov_fits(const struct plx_bdev *bdev, const struct plx_bdev_req *req)
{
    uint64_t bytes = (uint64_t)req->nlb << bdev->block_shift << (req->op == PLX_BDEV_COMPARE_AND_WRITE);
    if (req->op == PLX_BDEV_ALLOCATED)
        bytes = sizeof(uint64_t);
    else if (req->op == PLX_BDEV_ZONE_REPORT)
        bytes = (uint64_t)req->nlb * sizeof(struct plx_bdev_zone);
    else if (!(DATA >> req->op & 1))
        return true;
    for (uint32_t i = 0; i < req->iovcnt; i++) {
        if (req->iov[i].iov_len > bytes)
            return false;
        bytes -= req->iov[i].iov_len;
    }
    return !bytes;
}

/* What most requests are: one range of a native operation, with one iovec entry. */
static inline bool is_plain(const struct plx_bdev *bdev, const struct plx_bdev_req *req, uint8_t op, uint32_t nlb)
{
    uint32_t plain = atomic_load_explicit(&bdev->plain_ops, memory_order_relaxed);
    return op < PLX_BDEV_OPS && plain >> op & 1 && req->iovcnt == 1 &&
           req->iov->iov_len == (size_t)nlb << bdev->block_shift && in_range(bdev, req->lba, nlb);
}

uint16_t plx_bdev_check_request(const struct plx_bdev *bdev, const struct plx_bdev_req *req)
{
    uint16_t status = plx_bdev_check(bdev, req->op, req->lba, req->nlb);
    if (!status && req->op == PLX_BDEV_COPY && !in_range(bdev, req->src_lba, req->nlb))
        status = PLX_SC_LBA_OUT_OF_RANGE;
    if (!status && !iov_fits(bdev, req))
        status = PLX_SC_DATA_SGL_LENGTH_INVALID;
    return status;
}

void plx_bdev_start(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_bdev *bdev = ch->bdev;
    bool native = bdev->native_ops >> req->op & 1;
    if (native && !(req->op == PLX_BDEV_UNMAP && req->nlb > bdev->info.max_unmap_blocks))
        bdev->submit(ch, req);
    else
        plx_emulate_submit(ch, req);
}

void plx_bdev_start_part(struct plx_bdev_channel *ch, struct plx_bdev_req *part)
{
    part->ch = ch;
    part->kept = 0;
    if (ch->bdev->tracked)
        plx_bdev_keep(ch, part);
    ch->bdev->submit(ch, part);
}

/* ---- resets: each ends when it is the oldest request of its channel, and goes on to the disk below, if any ---- */

static void end_reset(struct plx_bdev_req *reset)
{
    struct plx_bdev_channel *ch = reset->ch;
    if (ch->below) {
        plx_bdev_submit(ch->below, reset);
        return;
    }
    reset->status = PLX_SC_SUCCESS;
    reset->done(reset);
}

/*
 * Takes a request out of the list of its channel. Resets that now are the oldest leave it too, and are returned: their
 * channel is there until they end, whatever callbacks of others do.
 */
static struct plx_bdev_req *leave_list(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_bdev_req *resets = NULL, **tail = &resets;
    plx_list_take(&req->link);
    if (plx_likely(!ch->awaiting))
        return NULL;
    plx_gate_passed(ch);
    while (!plx_list_empty(&ch->requests)) {
        struct plx_bdev_req *oldest = plx_list_entry(ch->requests.next, struct plx_bdev_req, link);
        if (oldest->op != PLX_BDEV_RESET || oldest->stage == PLX_STAGE_ASKING)
            break;
        plx_list_take(&oldest->link);
        ch->awaiting--;
        oldest->next = NULL;
        *tail = oldest;
        tail = &oldest->next;
    }
    return resets;
}

static void end_resets(struct plx_bdev_req *resets)
{
    while (resets) {
        struct plx_bdev_req *reset = resets;
        resets = reset->next;
        end_reset(reset);
    }
}

/*
 * Asks everything older than the reset to end. The list is walked anew each time, as an abort may end any number of
 * requests.
 */
static void abort_older(struct plx_bdev_channel *ch, struct plx_bdev_req *reset)
{
    ch->awaiting++;
    reset->stage = PLX_STAGE_ASKING; /* and stays in the list, the oldest or not: it tells older from newer */
    for (;;) {
        struct plx_bdev_req *found = NULL;
        plx_list_for_each(it, &ch->requests) {
            struct plx_bdev_req *req = plx_list_entry(it, struct plx_bdev_req, link);
            if (req == reset)
                break;
            if (req->aborted || req->op == PLX_BDEV_RESET)
                continue;
            found = req;
            break;
        }
        if (!found)
            break;
        plx_bdev_abort(ch, found);
    }
    reset->stage = PLX_STAGE_DRIVER;
    if (ch->requests.next == &reset->link) { /* else when it is the oldest: see leave_list() */
        ch->awaiting--;
        struct plx_bdev_req *newer = leave_list(ch, reset);
        end_reset(reset);
        end_resets(newer);
    }
}

/* ---- in and out ---- */

/* Of a part of one that is emulated on this channel, the whole counts. */
static bool is_part(const struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    return req->done == plx_emulate_part_done && plx_emulate_is_part_of(ch, req);
}

void plx_bdev_keep(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    plx_bdev_enter(ch, req, is_part(ch, req) ? PLX_KEPT_PART : PLX_KEPT);
}

static void count_failed(struct plx_bdev_channel *ch, const struct plx_bdev_req *req)
{
    plx_stat_add(&ch->errors, 1);
    if (req->op < PLX_BDEV_OPS)
        plx_stat_add(&ch->counts[req->op].failed, 1);
}

/* All but the plainest requests. Not inlined, as those would then save registers for it. */
static __attribute__((noinline)) void submit_odd(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_bdev *bdev = ch->bdev;
    uint16_t status = plx_bdev_check_request(bdev, req);
    if (status) {
        count_failed(ch, req);
        req->status = status;
        req->done(req);
        return;
    }
    plx_stat_count(ch, req->op, (NO_RANGE | OF_ZONES) >> req->op & 1 ? 0 : req->nlb);
    if (req->op == PLX_BDEV_RESET) {
        plx_bdev_keep(ch, req);
        abort_older(ch, req);
        return;
    }
    req->kept = 0;
    uint32_t limited = atomic_load_explicit(&bdev->limited_ops, memory_order_acquire);
    if (limited >> req->op & 1 && plx_limit_hold(ch, req))
        return;
    if (bdev->tracked)
        plx_bdev_keep(ch, req);
    if (!bdev->tracked || !ch->gate.closed || !plx_gate_hold(ch, req))
        plx_bdev_start(ch, req);
}

/* While a compare and write has a range for itself. Not inlined, for the same reason. */
static __attribute__((noinline)) void submit_gated(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    if (!plx_gate_hold(ch, req))
        ch->bdev->submit(ch, req);
}

/* Those that are. */
static inline void submit_plain(struct plx_bdev_channel *ch, struct plx_bdev_req *req, uint8_t op, uint32_t nlb)
{
    const struct plx_bdev *bdev = ch->bdev;
    plx_stat_count(ch, op, nlb);
    if (!bdev->tracked) {
        req->kept = 0;
    } else {
        plx_bdev_enter(ch, req, PLX_KEPT);
        if (plx_unlikely(ch->gate.closed)) {
            submit_gated(ch, req);
            return;
        }
    }
    bdev->submit(ch, req);
}

void plx_bdev_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    const uint8_t op = req->op;
    const uint32_t nlb = req->nlb;
    plx_assert_here(ch->reactor);
    req->ch = ch;
    if (plx_likely(is_plain(ch->bdev, req, op, nlb)))
        submit_plain(ch, req, op, nlb);
    else
        submit_odd(ch, req);
}

void plx_bdev_submit_like(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    const struct plx_bdev *bdev = ch->bdev;
    const uint8_t op = req->op;
    const uint32_t nlb = req->nlb;
    plx_assert_here(ch->reactor);
    req->ch = ch;
    uint64_t blocks = __atomic_load_n(&bdev->info.blocks, __ATOMIC_RELAXED), left;
    if (plx_likely(!__builtin_sub_overflow(blocks, req->lba, &left) && left >= nlb &&
                   atomic_load_explicit(&bdev->plain_ops, memory_order_relaxed) >> op & 1))
        submit_plain(ch, req, op, nlb);
    else
        submit_odd(ch, req);
}

static inline void count_latency(struct plx_bdev_channel *ch, const struct plx_bdev_req *req)
{
    struct plx_op_counts *c = plx_stats_of(ch, req->op);
    uint64_t ns = *ch->now - req->since;
    plx_stat_add(&c->latency, ns);
    /* Others may set them back meanwhile: this request counts as one of before, or of after that. */
    if (plx_unlikely(ns < plx_stat_peek(&c->min)))
        atomic_store_explicit(&c->min, ns, memory_order_relaxed);
    if (plx_unlikely(ns > plx_stat_peek(&c->max)))
        atomic_store_explicit(&c->max, ns, memory_order_relaxed);
}

/* All but the plainest ends. */
static __attribute__((noinline)) void complete_odd(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    const bool counts = !is_part(ch, req);
    struct plx_bdev_req *resets = NULL;
    if (req->status && counts)
        count_failed(ch, req);
    if (req->kept) {
        resets = leave_list(ch, req);
        if (counts)
            count_latency(ch, req);
    }
    req->done(req);
    end_resets(resets);
}

void plx_bdev_complete(struct plx_bdev_req *req, uint16_t status)
{
    struct plx_bdev_channel *ch = req->ch;
    plx_assert_here(ch->reactor);
    req->status = status;
    if (plx_likely(req->kept == PLX_KEPT && !status && !ch->awaiting)) {
        plx_list_take(&req->link);
        count_latency(ch, req);
        req->done(req);
    } else if (req->kept || status) {
        complete_odd(ch, req);
    } else {
        req->done(req);
    }
}

/* The rest of plx_bdev_forward(), where there is a list. */
static __attribute__((noinline)) void forward_kept(struct plx_bdev_channel *below, struct plx_bdev_req *req)
{
    struct plx_bdev_channel *ch = req->ch;
    struct plx_bdev_req *resets = leave_list(ch, req);
    plx_bdev_submit(below, req);
    end_resets(resets);
}

void plx_bdev_forward(struct plx_bdev_channel *below, struct plx_bdev_req *req)
{
    if (req->kept) {
        forward_kept(below, req);
        return;
    }
    plx_bdev_submit(below, req);
}

void plx_bdev_emulate(struct plx_bdev_req *req)
{
    plx_emulate_submit(req->ch, req);
}

void plx_bdev_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    plx_assert_here(ch->reactor);
    ch = req->ch; /* it may have been forwarded */
    if (!req->kept)
        return; /* what is in place is through already */
    req->aborted = true;
    if (req->stage == PLX_STAGE_HELD) {
        plx_gate_release(ch, req);
        plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
    } else if (req->stage == PLX_STAGE_LIMITED) {
        plx_limit_release(ch, req);
        plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
    } else if (req->stage == PLX_STAGE_EMULATED) {
        plx_emulate_abort(ch, req);
    } else if (ch->bdev->ops->abort && req->op != PLX_BDEV_RESET) {
        ch->bdev->ops->abort(ch, req);
    }
}

const void *plx_bdev_map(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb)
{
    struct plx_bdev *bdev = ch->bdev;
    plx_assert_here(ch->reactor);
    uint32_t plain = atomic_load_explicit(&bdev->plain_ops, memory_order_acquire); /* see plx_bdev_adapt() */
    return plain >> PLX_BDEV_READ & 1 && in_range(bdev, lba, nlb) ? bdev->map(ch, lba, nlb) : NULL;
}

const void *plx_bdev_map_again(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb)
{
    struct plx_bdev *bdev = ch->bdev;
    bool reads = bdev->native_ops >> PLX_BDEV_READ & 1;
    plx_assert_here(ch->reactor);
    return reads && !bdev->gone && in_range(bdev, lba, nlb) ? bdev->map(ch, lba, nlb) : NULL;
}

/* ---- status ---- */

uint16_t plx_bdev_status(int64_t err, bool write)
{
    switch (-err) {
    case 0:
        return PLX_SC_SUCCESS;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return PLX_SC_CAPACITY_EXCEEDED;
    case EROFS:
    case EPERM:
    case EACCES:
        return PLX_SC_NAMESPACE_WRITE_PROTECTED;
    case EIO:
    case ENODATA: /* how Linux tells a medium error of a block device */
        return write ? PLX_SC_WRITE_FAULT : PLX_SC_UNRECOVERED_READ_ERROR;
    case ECANCELED:
        return PLX_SC_ABORTED_BY_REQUEST;
    case EOPNOTSUPP:
        return PLX_SC_INVALID_OPCODE;
    case EBADE: /* how Linux tells a reservation conflict of a block device */
        return PLX_SC_RESERVATION_CONFLICT;
    case ENOMEM:
    case EAGAIN:
        return PLX_SC_COMMAND_INTERRUPTED; /* try again */
    default:
        return PLX_SC_INTERNAL_ERROR;
    }
}
