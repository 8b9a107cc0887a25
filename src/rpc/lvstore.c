/* SPDX-License-Identifier: BSD-3-Clause */
/* Stores of logical volumes: found, made, and put back. What blocks is done by worker threads. */
#include "rpc/lvol.h"

#include "base/log.h"
#include "base/uuid.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Something that blocks, on behalf of a call. */
struct store_task {
    struct plx_aio aio;
    struct rpc_call *call;
    void (*over)(struct rpc_call *c);
    struct plx_bdev *base;
    struct plx_pool *pool;
    char name[PLX_UUID_TEXT + PLX_POOL_NAME];
    uint32_t cluster;
    bool checksums;
    struct plx_volume_info *found; /* volumes, */
    struct plx_bdev **opened;      /* which are these disks, or NULL where that failed */
    size_t n, room;
    bool short_of_memory;
    struct plx_error err;
};

static void store_task_free(struct store_task *t)
{
    free(t->found);
    free(t->opened);
    free(t);
}

/* ---- finding ---- */

struct rpc_store *rpc_store_on(const struct plx_rpc *rpc, const struct plx_bdev *base)
{
    plx_list_for_each(it, &rpc->stores) {
        struct rpc_store *s = plx_list_entry(it, struct rpc_store, link);
        if (s->base == base)
            return s;
    }
    return NULL;
}

struct rpc_store *rpc_store_named(const struct plx_rpc *rpc, const char *name)
{
    plx_list_for_each(it, &rpc->stores) {
        struct rpc_store *s = plx_list_entry(it, struct rpc_store, link);
        if (strcmp(s->name, name) == 0)
            return s;
    }
    return NULL;
}

bool rpc_is_on_volume(const struct plx_bdev *bdev)
{
    while (bdev && !plx_volume_pool(bdev))
        bdev = plx_bdev_below(bdev);
    return bdev != NULL;
}

/* ---- on worker threads ---- */

static int64_t run_open(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    return plx_pool_open(t->base, &t->pool, &t->err);
}

static int64_t run_make(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    const struct plx_pool_opts o = {.name = t->name, .cluster = t->cluster, .checksums = t->checksums};
    int ret = plx_pool_make(t->base, &o, &t->err);
    return ret ? ret : plx_pool_open(t->base, &t->pool, &t->err);
}

static int64_t run_close(struct plx_aio *aio)
{
    return plx_pool_close(plx_container_of(aio, struct store_task, aio)->pool);
}

static int64_t run_erase(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    return plx_pool_erase(t->base, &t->err);
}

static bool collect_volume(void *arg, const struct plx_volume_info *info)
{
    struct store_task *t = arg;
    if (t->n == t->room) {
        size_t room = t->room ? 2 * t->room : 16;
        struct plx_volume_info *found = realloc(t->found, room * sizeof *found);
        if (!found) {
            t->short_of_memory = true;
            return false;
        }
        t->found = found;
        t->room = room;
    }
    t->found[t->n++] = *info;
    return true;
}

static int64_t run_volumes(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    plx_pool_each(t->pool, collect_volume, t);
    t->opened = calloc(t->n ? t->n : 1, sizeof(struct plx_bdev *));
    for (size_t i = 0; i < t->n && t->opened; i++) {
        struct plx_error err;
        if (rpc_volume_open(t->pool, t->name, t->found[i].uuid, t->found[i].name, &t->opened[i], &err))
            plx_warn("lvstore %s: volume %s is not there: %s", t->name, t->found[i].name, err.text);
    }
    return t->opened && !t->short_of_memory ? 0 : -ENOMEM;
}

static void store_task_run(struct store_task *t, int64_t (*run)(struct plx_aio *aio), void (*done)(struct plx_aio *aio))
{
    t->aio = (struct plx_aio){.done = done, .fd = -1, .op = PLX_AIO_CALL, .call = run};
    plx_aio_submit(t->call->rpc->reactor, &t->aio);
}

/* Or the call has failed. */
static struct store_task *store_task_new(struct rpc_call *c, struct plx_bdev *base, void (*over)(struct rpc_call *c))
{
    struct store_task *t = calloc(1, sizeof *t);
    if (!t) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return NULL;
    }
    t->call = c;
    t->base = base;
    t->over = over;
    return t;
}

/* ---- volumes ---- */

int rpc_volume_alias(struct plx_bdev *bdev, const char *store, const char *name, struct plx_error *err)
{
    char alias[RPC_NAME];
    snprintf(alias, sizeof alias, "%s/%s", store, name);
    return plx_bdev_set_alias(bdev, alias, err);
}

int rpc_volume_open(struct plx_pool *pool, const char *store, const uint8_t uuid[16], const char *name,
                    struct plx_bdev **out, struct plx_error *err)
{
    char text[PLX_UUID_TEXT];
    struct plx_error taken;
    plx_uuid_format(uuid, text);
    int ret = plx_pool_open_volume(pool, uuid, text, out, err);
    if (!ret && rpc_volume_alias(*out, store, name, &taken))
        plx_warn("volume %s of lvstore %s has no alias: %s", name, store, taken.text);
    return ret;
}

/* Volumes that go back to a disk that has come. */
struct waiting {
    const struct plx_bdev *outer; /* it, or */
    const struct plx_pool *pool;  /* any volume of this */
    struct waiting_volume {
        uint8_t uuid[16];
        char name[PLX_POOL_NAME];
    } * found;
    size_t n, room;
};

static bool find_waiting(void *arg, const struct plx_volume_info *v)
{
    struct waiting *w = arg;
    const struct plx_bdev *outer = v->outer[0] && !v->disk ? plx_bdev_find(v->outer) : NULL;
    if (!outer || !(w->pool ? plx_volume_pool(outer) == w->pool : outer == w->outer))
        return true;
    if (w->n == w->room) {
        size_t room = w->room ? 2 * w->room : 16;
        struct waiting_volume *found = realloc(w->found, room * sizeof *found);
        if (!found)
            return false;
        w->found = found;
        w->room = room;
    }
    memcpy(w->found[w->n].uuid, v->uuid, sizeof v->uuid);
    memcpy(w->found[w->n++].name, v->name, sizeof v->name);
    return true;
}

static bool open_waiting(struct plx_rpc *rpc, const struct rpc_store *s, const struct waiting_volume *v)
{
    struct plx_bdev *bdev;
    struct plx_error err;
    if (rpc_volume_open(s->pool, s->name, v->uuid, v->name, &bdev, &err)) {
        plx_warn("lvstore %s: volume %s is not there: %s", s->name, v->name, err.text);
        return false;
    }
    if (rpc_disk_enter(rpc, &rpc_kind_lvol, bdev))
        return true;
    plx_bdev_close(bdev);
    return false;
}

void rpc_stores_retry(struct plx_rpc *rpc, const struct plx_bdev *outer, const struct plx_pool *pool)
{
    plx_list_for_each(it, &rpc->stores) {
        const struct rpc_store *s = plx_list_entry(it, struct rpc_store, link);
        struct waiting w = {.outer = outer, .pool = pool};
        bool any = false;
        plx_pool_each(s->pool, find_waiting, &w);
        for (size_t i = 0; i < w.n; i++)
            any |= open_waiting(rpc, s, &w.found[i]);
        free(w.found);
        if (any)
            rpc_stores_retry(rpc, NULL, s->pool);
    }
}

/* ---- a pool that is open becomes a store ---- */

static void store_opened(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    struct rpc_call *c = t->call;
    struct plx_rpc *rpc = c->rpc;
    void (*over)(struct rpc_call * c) = t->over;
    struct rpc_store *s = calloc(1, sizeof *s);
    bool complete = s && !aio->res;
    if (s) {
        s->pool = t->pool;
        s->base = t->base;
        memcpy(s->name, t->name, sizeof s->name);
        plx_list_add_tail(&rpc->stores, &s->link);
        plx_info("%s has lvstore %s, with %zu volume%s", plx_bdev_info(t->base)->name, s->name, t->n,
                 t->n == 1 ? "" : "s");
    }
    for (size_t i = 0; i < t->n && t->opened && s; i++)
        if (t->opened[i] && !rpc_disk_enter(rpc, &rpc_kind_lvol, t->opened[i]))
            complete = false;
    rpc_stores_retry(rpc, NULL, t->pool);
    if (!complete)
        plx_warn("lvstore %s: out of memory: not all of its volumes are there", t->name);
    store_task_free(t);
    over(c);
}

static void store_refused(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    struct rpc_call *c = t->call;
    void (*over)(struct rpc_call * c) = t->over;
    store_task_free(t);
    over(c);
}

/* Stores are called by their names, and by their UUIDs: another one that has either is not seen. */
static const struct rpc_store *twin(const struct plx_rpc *rpc, const char *name, const uint8_t uuid[16])
{
    plx_list_for_each(it, &rpc->stores) {
        const struct rpc_store *s = plx_list_entry(it, struct rpc_store, link);
        struct plx_pool_info info;
        plx_pool_get_info(s->pool, &info);
        if (!strcmp(s->name, name) || !memcmp(info.uuid, uuid, sizeof info.uuid))
            return s;
    }
    return NULL;
}

static void store_found(struct store_task *t)
{
    struct plx_pool_info info;
    plx_pool_get_info(t->pool, &info);
    if (info.name[0])
        snprintf(t->name, sizeof t->name, "%s", info.name);
    else
        plx_uuid_format(info.uuid, t->name);
    const struct rpc_store *other = twin(t->call->rpc, t->name, info.uuid);
    if (!other) {
        store_task_run(t, run_volumes, store_opened);
        return;
    }
    plx_warn("%s has lvstore %s, whose name or UUID is that of the one on %s: it is left alone",
             plx_bdev_info(t->base)->name, t->name, plx_bdev_info(other->base)->name);
    store_task_run(t, run_close, store_refused);
}

/* ---- looking ---- */

struct examining {
    void (*over)(struct rpc_call *c);
};

static void examine_next(struct rpc_call *c);

static struct rpc_disk *next_fresh(const struct plx_rpc *rpc)
{
    plx_list_for_each(it, &rpc->disks) {
        struct rpc_disk *d = plx_list_entry(it, struct rpc_disk, link);
        if (d->fresh && !d->closing)
            return d;
    }
    return NULL;
}

bool rpc_examine_due(const struct plx_rpc *rpc)
{
    return next_fresh(rpc) != NULL;
}

static void disk_looked_at(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    struct rpc_call *c = t->call;
    if (!aio->res) {
        store_found(t);
        return;
    }
    /* Most have none; or have a filter on them that is looked at, or another user who was quicker. */
    if (aio->res != -ENODATA && aio->res != -EBUSY)
        plx_warn("%s", t->err.text);
    store_task_free(t);
    examine_next(c);
}

static void examine_next(struct rpc_call *c)
{
    struct examining *e = c->state;
    void (*over)(struct rpc_call * c) = e->over;
    struct rpc_disk *d = c->rpc->stopping ? NULL : next_fresh(c->rpc);
    if (!d) {
        free(e);
        c->state = NULL;
        over(c);
        return;
    }
    d->fresh = false;
    struct store_task *t = store_task_new(c, d->bdev, examine_next);
    if (t)
        store_task_run(t, run_open, disk_looked_at);
}

void rpc_examine(struct rpc_call *c, void (*over)(struct rpc_call *c))
{
    struct examining *e = c->state = malloc(sizeof *e);
    if (!e) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    e->over = over;
    examine_next(c);
}

/* ---- making ---- */

static void store_made(struct rpc_call *c)
{
    rpc_ok(c, c->result);
}

static void made(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    struct plx_pool_info info;
    if (aio->res) {
        /* As those who know the other server's words expect it of a disk in use. */
        rpc_fail_errno(t->call, aio->res == -EBUSY ? -EPERM : (int)aio->res, &t->err);
        store_task_free(t);
        return;
    }
    plx_pool_get_info(t->pool, &info);
    t->call->result = rpc_uuid_json(info.uuid);
    store_found(t);
}

void rpc_store_make(struct rpc_call *c, struct plx_bdev *base, const char *name, uint32_t cluster, bool checksums)
{
    struct store_task *t = store_task_new(c, base, store_made);
    if (!t)
        return;
    snprintf(t->name, sizeof t->name, "%s", name);
    t->cluster = cluster;
    t->checksums = checksums;
    c->tried = true;
    store_task_run(t, run_make, made);
}

/* ---- the end ---- */

static void closed(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    struct rpc_call *c = t->call;
    void (*over)(struct rpc_call * c) = t->over;
    if (aio->res)
        plx_warn("lvstore %s was not written to its end; it will be recovered when it is opened again", t->name);
    store_task_free(t);
    over(c);
}

static void store_forget(struct rpc_store *store)
{
    plx_list_del(&store->link);
    free(store);
}

void rpc_store_close(struct rpc_call *c, struct rpc_store *store, void (*over)(struct rpc_call *c))
{
    struct store_task *t = store_task_new(c, store->base, over);
    if (!t)
        return;
    t->pool = store->pool;
    memcpy(t->name, store->name, sizeof t->name);
    store_forget(store);
    store_task_run(t, run_close, closed);
}

void rpc_stores_close(struct plx_rpc *rpc, const struct plx_bdev *base)
{
    plx_list_for_each_safe(it, &rpc->stores) {
        struct rpc_store *s = plx_list_entry(it, struct rpc_store, link);
        if (base && s->base != base)
            continue;
        if (plx_pool_close(s->pool))
            plx_warn("lvstore %s was not written to its end; it will be recovered when it is opened again", s->name);
        store_forget(s);
    }
}

static void erased(struct plx_aio *aio)
{
    struct store_task *t = plx_container_of(aio, struct store_task, aio);
    struct rpc_call *c = t->call;
    int ret = (int)aio->res;
    struct plx_error err = t->err;
    store_task_free(t);
    if (ret)
        rpc_fail_errno(c, ret, &err);
    else
        rpc_ok(c, NULL);
}

void rpc_store_erase(struct rpc_call *c, struct plx_bdev *base)
{
    struct store_task *t = store_task_new(c, base, NULL);
    if (t)
        store_task_run(t, run_erase, erased);
}
