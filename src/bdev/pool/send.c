/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a volume has is written to another disk, in the same places: what is its own, or all, with what a disk outside
 * has that shows through. Where that is told from what it maps, as far as there is room for at a time; first it is
 * counted, then copied.
 */
#include "disk.h"

#include "base/uuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    EXTENTS = 256,
    BYTES_AT_ONCE = 1 << 20,
    TRIES = 1000, /* of a request that a disk wants to have once more, as newcomers' first ones now and then */
    PAUSE_NS = 1000 * 1000,
};

enum send_step {
    SEND_COUNT, /* clusters */
    SEND_UNMAP, /* those that were named */
    SEND_COPY,
    SEND_FLUSH,
};

struct pool_send {
    struct plx_bdev_req req __attribute__((aligned(16)));
    struct iovec iov;
    struct plx_timer timer; /* of one that is tried again */
    unsigned tries;
    struct plx_volume_copy *c;
    struct plx_bdev_hold *hold[2];
    struct plx_bdev_channel *from, *to;
    struct pool_volume *v, *parent; /* which have pins */
    char name[PLX_UUID_TEXT], parent_name[PLX_UUID_TEXT];
    struct plx_pool *pool;
    struct plx_pool_diff diff;
    struct plx_pool_extent extents[EXTENTS];
    uint32_t next;      /* of those */
    uint64_t at, end;   /* bytes of it that are to be copied next */
    uint64_t clustered; /* up to where clusters have been counted */
    uint64_t *clusters; /* that were named, in order; or NULL */
    uint32_t n, i;
    uint32_t cluster; /* bytes */
    enum send_step step;
    bool stopping, over;
    bool going, again; /* steps are being done; and once more */
    int result;        /* when it is over */
    uint8_t *mem;
};

static void send_go(struct pool_send *s);

/* ---- the end ---- */

static void send_free(struct pool_send *s)
{
    pool_lock(s->pool);
    if (s->v)
        pool_volume_unpin(s->pool, s->v);
    if (s->parent)
        pool_volume_unpin(s->pool, s->parent);
    pool_unlock(s->pool);
    pool_kick(s->pool);
    if (s->from)
        plx_bdev_channel_put(s->from);
    if (s->to)
        plx_bdev_channel_put(s->to);
    for (int i = 0; i < 2; i++)
        if (s->hold[i])
            plx_bdev_release(s->hold[i]);
    free(s->clusters);
    free(s->mem);
    free(s);
}

static void send_over(struct pool_send *s, int result)
{
    struct plx_volume_copy *c = s->c;
    send_free(s);
    c->result = result;
    c->inner = NULL;
    c->done(c);
}

/* ---- requests ---- */

static void send_submit(struct pool_send *s, struct plx_bdev_channel *ch, enum plx_bdev_op op, uint64_t at,
                        uint64_t bytes)
{
    const unsigned shift = (unsigned)__builtin_ctz(plx_bdev_info(plx_bdev_channel_bdev(ch))->block_size);
    const bool data = op == PLX_BDEV_READ || op == PLX_BDEV_WRITE;
    s->iov = (struct iovec){s->mem, bytes};
    s->req.op = (uint8_t)op;
    s->req.flags = 0;
    s->req.lba = at >> shift;
    s->req.nlb = (uint32_t)(bytes >> shift);
    s->req.iov = &s->iov;
    s->req.iovcnt = data;
    plx_bdev_submit(ch, &s->req);
}

/* ---- what there is ---- */

static void send_diffed(struct plx_pool_diff *d)
{
    struct pool_send *s = d->arg;
    s->next = 0;
    if (d->result) {
        s->c->err = d->err;
        send_over(s, d->result);
    } else {
        send_go(s);
    }
}

/* @return whether there is a next extent; else more have been asked for, or there are none */
static bool send_extent(struct pool_send *s, struct plx_pool_extent *out, bool *asked)
{
    const uint64_t outer = pool_disk_outer_bytes(s->c->volume);
    *asked = false;
    while (s->next < s->diff.n) {
        *out = s->extents[s->next++];
        if (!out->outer)
            return true;
        out->length = out->offset < outer ? plx_min_u64(out->length, outer - out->offset) : 0;
        if (out->length)
            return true;
    }
    if (s->diff.size && s->diff.offset >= s->diff.size)
        return false;
    s->diff.from = s->parent ? s->parent_name : NULL;
    s->diff.to = s->name;
    s->diff.own = !s->c->all;
    s->diff.extents = s->extents;
    s->diff.room = EXTENTS;
    s->diff.done = send_diffed;
    s->diff.reactor = s->c->reactor;
    s->diff.arg = s;
    *asked = true;
    plx_pool_diff_submit(s->pool, &s->diff);
    return false;
}

static void send_rewind(struct pool_send *s, enum send_step step)
{
    s->step = step;
    s->diff.offset = s->diff.size = 0;
    s->diff.n = s->next = 0;
    s->clustered = 0;
}

/* Clusters that begin to be copied with [at, end). */
static uint64_t send_clusters(struct pool_send *s, uint64_t at, uint64_t end)
{
    const uint64_t first = plx_max_u64(at / s->cluster, s->clustered), last = (end - 1) / s->cluster + 1;
    s->clustered = plx_max_u64(s->clustered, last);
    return last > first ? last - first : 0;
}

/* As much of [*at, *end) as is in named clusters; *at is *end when nothing is. */
static void send_narrow(const struct pool_send *s, uint64_t *at, uint64_t *end)
{
    uint32_t low = 0, high = s->n;
    while (low < high) {
        const uint32_t mid = (low + high) / 2;
        if ((s->clusters[mid] + 1) * s->cluster <= *at)
            low = mid + 1;
        else
            high = mid;
    }
    const uint64_t first = low < s->n ? s->clusters[low] * s->cluster : UINT64_MAX;
    if (first >= *end) {
        *at = *end;
        return;
    }
    *at = plx_max_u64(*at, first);
    *end = plx_min_u64(*end, first + s->cluster);
}

/* ---- steps; each returns whether it is to go on at once ---- */

static bool step_count(struct pool_send *s)
{
    struct plx_pool_extent e;
    bool asked;
    if (s->clusters) {
        s->c->total = s->n;
    } else if (send_extent(s, &e, &asked)) {
        s->c->total += send_clusters(s, e.offset, e.offset + e.length);
        return true;
    } else if (asked) {
        return false;
    }
    send_rewind(s, SEND_UNMAP);
    return true;
}

static bool step_unmap(struct pool_send *s)
{
    const struct plx_bdev_info *to = plx_bdev_info(s->c->to);
    const uint64_t size = plx_bdev_blocks(s->c->volume) * plx_bdev_info(s->c->volume)->block_size;
    if (s->i == s->n) {
        s->step = SEND_COPY;
        return true;
    }
    const uint64_t at = s->clusters[s->i++] * s->cluster;
    send_submit(s, s->to, to->ops & 1 << PLX_BDEV_UNMAP ? PLX_BDEV_UNMAP : PLX_BDEV_WRITE_ZEROES, at,
                plx_min_u64(s->cluster, size - at));
    return false;
}

static bool step_copy(struct pool_send *s)
{
    struct plx_pool_extent e;
    bool asked;
    if (s->at < s->end) { /* of the last extent */
        uint64_t at = s->at, end = s->end;
        if (s->clusters)
            send_narrow(s, &at, &end);
        s->at = at;
        if (at == end) {
            s->at = s->end;
            return true;
        }
        const bool data = s->extents[s->next - 1].data;
        const uint64_t n = plx_min_u64(end - at, BYTES_AT_ONCE);
        if (!data)
            memset(s->mem, 0, n);
        send_submit(s, data ? s->from : s->to, data ? PLX_BDEV_READ : PLX_BDEV_WRITE, at, n);
        return false;
    }
    if (send_extent(s, &e, &asked)) {
        s->at = e.offset;
        s->end = e.offset + e.length;
        return true;
    }
    if (asked)
        return false;
    s->c->unmapped = s->clusters ? s->c->total - s->c->copied : 0;
    s->step = SEND_FLUSH;
    if (!plx_bdev_info(s->c->to)->write_cache)
        return true;
    send_submit(s, s->to, PLX_BDEV_FLUSH, 0, 0);
    return false;
}

/* @return whether it is to go on at once */
static bool send_step(struct pool_send *s)
{
    switch (s->step) {
    case SEND_COUNT:
        return step_count(s);
    case SEND_UNMAP:
        return step_unmap(s);
    case SEND_COPY:
        return step_copy(s);
    case SEND_FLUSH:
    default:
        s->over = true;
        return true;
    }
}

static void send_go(struct pool_send *s)
{
    s->again = true;
    if (s->going)
        return; /* a request has ended already */
    s->going = true;
    while (s->again && !s->over) {
        if (s->stopping) {
            s->result = plx_fail(&s->c->err, -ECANCELED, "it was ended");
            s->over = true;
        } else {
            s->again = false;
            s->again |= send_step(s);
        }
    }
    s->going = false;
    if (s->over)
        send_over(s, s->result);
}

static void send_again(struct plx_timer *timer)
{
    struct pool_send *s = plx_container_of(timer, struct pool_send, timer);
    if (s->stopping)
        send_go(s);
    else
        plx_bdev_submit(s->req.op == PLX_BDEV_READ ? s->from : s->to, &s->req);
}

static void send_done(struct plx_bdev_req *req)
{
    struct pool_send *s = plx_container_of(req, struct pool_send, req);
    const bool copies = s->step == SEND_COPY, reads = req->op == PLX_BDEV_READ;
    if (req->status == PLX_SC_COMMAND_INTERRUPTED && s->tries++ < TRIES) {
        s->timer = (struct plx_timer){.fn = send_again};
        plx_timer_set(s->c->reactor, &s->timer, PAUSE_NS);
        return;
    }
    s->tries = 0;
    if (req->status) {
        s->result = plx_fail(&s->c->err, -EIO, "%s could not be %s",
                             plx_bdev_info(reads ? s->c->volume : s->c->to)->name, reads ? "read" : "written to");
        s->over = true;
    } else if (copies && reads && !s->stopping) {
        send_submit(s, s->to, PLX_BDEV_WRITE, s->at, s->iov.iov_len);
        return;
    } else if (copies && req->op == PLX_BDEV_WRITE) {
        s->c->copied += send_clusters(s, s->at, s->at + s->iov.iov_len);
        s->at += s->iov.iov_len;
    }
    send_go(s);
}

/* ---- the beginning ---- */

static int compare_clusters(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static int send_named(struct pool_send *s, struct plx_volume_copy *c, uint64_t size)
{
    if (!c->clusters)
        return 0;
    s->clusters = malloc((c->n_clusters ? c->n_clusters : 1) * sizeof *s->clusters);
    if (!s->clusters)
        return plx_fail(&c->err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < c->n_clusters; i++) {
        if (c->clusters[i] >= (size + s->cluster - 1) / s->cluster)
            return plx_fail(&c->err, -EINVAL, "cluster %llu is beyond the end of %s",
                            (unsigned long long)c->clusters[i], plx_bdev_info(c->volume)->name);
        s->clusters[i] = c->clusters[i];
    }
    if (c->n_clusters)
        qsort(s->clusters, c->n_clusters, sizeof *s->clusters, compare_clusters);
    for (uint32_t i = 0; i < c->n_clusters; i++)
        if (!s->n || s->clusters[s->n - 1] != s->clusters[i])
            s->clusters[s->n++] = s->clusters[i];
    return 0;
}

static int send_check(struct plx_volume_copy *c, const struct pool_volume *v)
{
    const struct plx_bdev_info *from = plx_bdev_info(c->volume), *to = plx_bdev_info(c->to);
    if (v->state != POOL_SNAPSHOT)
        return plx_fail(&c->err, -EPERM, "%s can be written to; a snapshot is copied", v->name);
    if (plx_bdev_blocks(c->to) * to->block_size < plx_bdev_blocks(c->volume) * from->block_size)
        return plx_fail(&c->err, -EINVAL, "%s is smaller than %s", to->name, v->name);
    if (from->block_size % to->block_size)
        return plx_fail(&c->err, -EINVAL, "blocks of %s, %u bytes, are no parts of those of %s, %u bytes", to->name,
                        to->block_size, v->name, from->block_size);
    if (v->locked)
        return plx_fail(&c->err, -EBUSY, "%s is being changed", v->name);
    return 0;
}

/* Keeps the snapshot, and what it is compared with, as they are. */
static int send_pin(struct pool_send *s, struct plx_volume_copy *c)
{
    pool_lock(s->pool);
    struct pool_volume *v = pool_volume_of(c->volume);
    int ret = send_check(c, v);
    if (!ret) {
        s->v = v;
        v->pins++;
        s->parent = c->all ? NULL : pool_volume_live_parent(v);
        plx_uuid_format(v->uuid, s->name);
    }
    if (s->parent) {
        s->parent->pins++;
        plx_uuid_format(s->parent->uuid, s->parent_name);
    }
    s->cluster = s->pool->cluster;
    pool_unlock(s->pool);
    return ret;
}

int plx_volume_copy_begin(struct plx_volume_copy *c)
{
    const struct plx_bdev_hold_opts reads = {.who = "a copy", .claim = PLX_BDEV_READS};
    const struct plx_bdev_hold_opts writes = {.who = "a copy", .claim = PLX_BDEV_EXCLUSIVE};
    struct pool_send *s = calloc(1, sizeof *s);
    c->copied = c->unmapped = c->total = 0;
    if (!s)
        return plx_fail(&c->err, -ENOMEM, "out of memory");
    s->c = c;
    s->pool = plx_volume_pool(c->volume);
    s->req.done = send_done;
    s->mem = aligned_alloc(4096, BYTES_AT_ONCE);
    int ret = s->mem ? send_pin(s, c) : plx_fail(&c->err, -ENOMEM, "out of memory");
    if (!ret)
        ret = send_named(s, c, plx_bdev_blocks(c->volume) * plx_bdev_info(c->volume)->block_size);
    if (!ret)
        ret = plx_bdev_hold(c->volume, &reads, &s->hold[0], &c->err);
    if (!ret)
        ret = plx_bdev_hold(c->to, &writes, &s->hold[1], &c->err);
    if (!ret)
        ret = plx_bdev_channel_get(c->volume, c->reactor, &s->from);
    if (!ret)
        ret = plx_bdev_channel_get(c->to, c->reactor, &s->to);
    if (ret) {
        if (!c->err.text[0])
            plx_fail(&c->err, ret, "%s", strerror(-ret));
        send_free(s);
        return ret;
    }
    c->inner = s;
    send_go(s);
    return 0;
}

void plx_volume_copy_stop(struct plx_volume_copy *c)
{
    struct pool_send *s = c->inner;
    if (s)
        s->stopping = true;
}
