/* SPDX-License-Identifier: BSD-3-Clause */
/* Disks that calls make and delete: records of how each was made, so that it can be made again. */
#include "rpc/lvol.h"

#include "base/uuid.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- finding ---- */

struct rpc_disk *rpc_disk_of(struct plx_rpc *rpc, const struct plx_bdev *bdev)
{
    plx_list_for_each(it, plx_hash_row(&rpc->by_bdev, (uintptr_t)bdev)) {
        struct rpc_disk *d = plx_hash_entry(it, struct rpc_disk, by_bdev);
        if (d->bdev == bdev && !d->closing)
            return d;
    }
    return NULL;
}

struct rpc_disk *rpc_disk_find(struct plx_rpc *rpc, const char *name)
{
    return rpc_disk_of(rpc, plx_bdev_find(name));
}

void rpc_disk_free_name(const char *prefix, char out[RPC_NAME])
{
    unsigned n = 0;
    do
        snprintf(out, RPC_NAME, "%s%u", prefix, n++);
    while (plx_bdev_find(out));
}

json_t *rpc_uuid_json(const uint8_t uuid[16])
{
    char text[PLX_UUID_TEXT];
    plx_uuid_format(uuid, text);
    return json_string(text);
}

/* ---- making ---- */

struct disk_making {
    const struct rpc_disk_kind *kind;
};

/*
 * Whether its UUID, which was not given, is to be the same when it is made again. That of memory is not: its data is
 * gone then, and hosts are to find another disk rather than zeroes. A filter has that of what it stands on.
 */
static bool keeps_uuid(const struct rpc_method *m, const struct plx_bdev *bdev)
{
    for (const struct rpc_param *p = m->params; p->name; p++)
        if (strcmp(p->name, "uuid") == 0)
            return !plx_bdev_below(bdev) && strcmp(plx_bdev_info(bdev)->driver, "ram") != 0;
    return false;
}

bool rpc_disk_is_volatile(struct plx_rpc *rpc, const struct plx_bdev *bdev)
{
    while (plx_bdev_below(bdev))
        bdev = plx_bdev_below(bdev);
    const struct rpc_disk *d = rpc_disk_of(rpc, bdev);
    return strcmp(plx_bdev_info(bdev)->driver, "ram") == 0 && !(d && json_object_get(d->params, "uuid"));
}

/*
 * Whether it is to be looked at for what is on it. Memory is empty; volumes are not looked at; and a filter has what is
 * on the disk below, which was looked at, unless that is yet to come.
 */
static bool may_have_pool(struct plx_rpc *rpc, const struct plx_bdev *bdev)
{
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    const struct plx_bdev *below = plx_bdev_below(bdev);
    const struct rpc_disk *d = below ? rpc_disk_of(rpc, below) : NULL;
    if (below)
        return d && d->fresh;
    return !info->read_only && strcmp(info->driver, "ram") && strcmp(info->driver, "null");
}

struct rpc_disk *rpc_disk_enter(struct plx_rpc *rpc, const struct rpc_disk_kind *kind, struct plx_bdev *bdev)
{
    struct rpc_disk *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    snprintf(d->name, sizeof d->name, "%s", plx_bdev_info(bdev)->name);
    d->bdev = bdev;
    d->kind = kind;
    d->fresh = may_have_pool(rpc, bdev);
    plx_list_add_tail(&rpc->disks, &d->link);
    plx_hash_add(&rpc->by_bdev, &d->by_bdev, (uintptr_t)bdev);
    rpc_note(rpc, "bdev_register", d->name);
    return d;
}

struct rpc_disk *rpc_disk_add(struct plx_rpc *rpc, const struct rpc_disk_kind *kind, struct plx_bdev *bdev)
{
    struct rpc_disk *d = rpc_disk_enter(rpc, kind, bdev);
    if (d)
        rpc_stores_retry(rpc, bdev, NULL);
    return d;
}

void rpc_disk_reopened(struct plx_rpc *rpc, struct rpc_disk *d, struct plx_bdev *bdev)
{
    plx_hash_del(&rpc->by_bdev, &d->by_bdev);
    plx_hash_add(&rpc->by_bdev, &d->by_bdev, (uintptr_t)bdev);
    d->bdev = bdev;
    d->closing = false;
}

static void disk_is_known(struct rpc_call *c)
{
    rpc_ok(c, c->result);
}

void rpc_disk_opened(struct rpc_call *c, const struct rpc_disk_kind *kind, struct plx_bdev *bdev)
{
    struct rpc_disk *d = rpc_disk_add(c->rpc, kind, bdev);
    if (!d) {
        plx_bdev_close(bdev);
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    d->method = c->method;
    d->params = json_copy(c->params);
    json_object_set_new(d->params, "name", json_string(d->name));
    if (keeps_uuid(c->method, bdev))
        json_object_set_new(d->params, "uuid", rpc_uuid_json(plx_bdev_info(bdev)->uuid));
    c->result = json_string(d->name);
    if (c->rpc->loading)
        disk_is_known(c);
    else
        rpc_examine(c, disk_is_known);
}

static void disk_open_done(void *arg, struct plx_bdev *bdev, int result, const struct plx_error *err)
{
    struct rpc_call *c = arg;
    const struct rpc_disk_kind *kind = ((const struct disk_making *)c->state)->kind;
    free(c->state);
    c->state = NULL;
    if (result)
        rpc_fail_errno(c, result, err);
    else
        rpc_disk_opened(c, kind, bdev);
}

/* Disks are called by their names and their UUIDs: either of a new one must be nobody's. */
static bool name_is_taken(struct rpc_call *c, const char *name)
{
    const char *uuid = rpc_str(c, "uuid"), *taken = plx_bdev_find(name)           ? name
                                                    : uuid && plx_bdev_find(uuid) ? uuid
                                                                                  : NULL;
    struct plx_error err;
    if (!taken)
        return false;
    plx_fail(&err, -EEXIST, "disk %.100s is there already; choose another %s", taken, taken == name ? "name" : "UUID");
    rpc_fail_errno(c, -EEXIST, &err);
    return true;
}

void rpc_disk_open(struct rpc_call *c, const struct rpc_disk_kind *kind, const char *url, const char *name)
{
    if (name_is_taken(c, name))
        return;
    struct disk_making *m = c->state = malloc(sizeof *m);
    int ret = -ENOMEM;
    if (m) {
        m->kind = kind;
        ret = plx_bdev_open_begin(c->rpc->reactor, url, name, disk_open_done, c);
    }
    if (ret)
        rpc_fail_errno(c, ret, NULL);
}

/* ---- deleting ---- */

/*
 * What is cleared, and all that stands on it: no virtual machine and no namespace has them any more, then they are
 * closed, from the top down, and the pool on it.
 */
static void clearing_step(struct rpc_call *c);

static bool stands_on(const struct plx_bdev *bdev, const struct plx_bdev *base)
{
    for (; bdev; bdev = plx_bdev_below(bdev))
        if (bdev == base)
            return true;
    return false;
}

/* The next one that stands on another; between them may be some that no call has made. */
struct higher {
    struct plx_rpc *rpc;
    struct rpc_disk *found;
};

static bool find_higher(void *arg, struct plx_bdev *bdev)
{
    struct higher *h = arg;
    h->found = rpc_disk_of(h->rpc, bdev);
    if (!h->found)
        plx_bdev_each_above(bdev, find_higher, h);
    return !h->found;
}

/* What stands on a disk, and has nothing on it; or NULL. */
static struct rpc_disk *top_of(struct plx_rpc *rpc, const struct plx_bdev *base)
{
    struct rpc_disk *top = NULL;
    for (struct higher h = {.rpc = rpc};; base = top->bdev) {
        h.found = NULL;
        plx_bdev_each_above(base, find_higher, &h);
        if (!h.found)
            return top;
        top = h.found;
    }
}

static void remove_namespaces(struct plx_rpc *rpc, const struct plx_bdev *base)
{
    for (struct plx_nvmf_subsystem *s = NULL; (s = plx_nvmf_subsystem_next(rpc->o.target, s));) {
        struct plx_nvmf_ns_info info;
        for (uint32_t nsid = 0; (nsid = plx_nvmf_ns_next(s, nsid));) {
            if (plx_nvmf_ns_info(s, nsid, &info) && stands_on(info.bdev, base))
                plx_nvmf_subsystem_remove_ns(s, nsid, NULL);
        }
    }
}

void rpc_disk_gone(struct plx_rpc *rpc, struct rpc_disk *d)
{
    rpc_note(rpc, "bdev_unregister", d->name);
    plx_list_del(&d->link);
    plx_hash_del(&rpc->by_bdev, &d->by_bdev);
    json_decref(d->params);
    free(d->text);
    free(d);
}

static void disk_closed(void *arg, struct plx_bdev *bdev, int result, const struct plx_error *err)
{
    struct rpc_call *c = arg;
    const struct rpc_clearing *clearing = c->state;
    (void)bdev;
    clearing->top->closing = false;
    if (result) {
        rpc_fail_errno(c, result, err);
        return;
    }
    bool last = clearing->top->bdev == clearing->base;
    rpc_disk_gone(c->rpc, clearing->top);
    if (last)
        clearing->over(c);
    else
        clearing_step(c);
}

static void pool_closed(struct rpc_call *c)
{
    clearing_step(c);
}

static void clearing_step(struct rpc_call *c)
{
    struct rpc_clearing *clearing = c->state;
    struct rpc_disk *top = top_of(c->rpc, clearing->base);
    struct rpc_store *store = top ? NULL : rpc_store_on(c->rpc, clearing->base);
    if (store) {
        rpc_store_close(c, store, pool_closed);
        return;
    }
    if (!top && clearing->keep) {
        clearing->over(c);
        return;
    }
    clearing->top = top = top ? top : rpc_disk_of(c->rpc, clearing->base);
    int ret = plx_bdev_close_begin(c->rpc->reactor, top->bdev, disk_closed, c);
    if (ret)
        rpc_fail_errno(c, ret, NULL);
    else
        top->closing = true;
}

static void namespaces_gone(void *arg, int ret)
{
    struct rpc_call *c = arg;
    if (ret && ret != -ETIMEDOUT) /* then closing says who uses it yet */
        rpc_fail_errno(c, ret, NULL);
    else
        clearing_step(c);
}

static void guests_have_not(void *arg, int ret)
{
    struct rpc_call *c = arg;
    const struct rpc_clearing *clearing = c->state;
    (void)ret; /* when it is late closing says who uses it yet */
    remove_namespaces(c->rpc, clearing->base);
    plx_nvmf_target_apply(c->rpc->o.target, namespaces_gone, c);
}

void rpc_disk_clear(struct rpc_call *c)
{
    const struct rpc_clearing *clearing = c->state;
    c->tried = true;
    if (!c->rpc->o.vhost)
        guests_have_not(c, 0);
    else if (plx_vhost_drop(c->rpc->o.vhost, clearing->base, RPC_DROP_MS, guests_have_not, c))
        rpc_fail_errno(c, -ENOMEM, NULL);
}

static void disk_deleted(struct rpc_call *c)
{
    rpc_ok(c, NULL);
}

void rpc_disk_delete(struct rpc_call *c, const struct rpc_disk_kind *kind, const char *name)
{
    struct rpc_disk *d = rpc_disk_find(c->rpc, name);
    struct plx_error err;
    if (!d || d->kind != kind) {
        struct plx_bdev *other = plx_bdev_find(name);
        plx_fail(&err, -ENODEV, other ? "%.80s is no %.40s" : "there is no %.80s; bdev_get_bdevs lists disks", name,
                 kind->product);
        rpc_fail_errno(c, -ENODEV, &err);
        return;
    }
    struct rpc_clearing *clearing = c->state = malloc(sizeof *clearing);
    if (!clearing) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    *clearing = (struct rpc_clearing){.base = d->bdev, .over = disk_deleted};
    rpc_disk_clear(c);
}

/* What goes back to a disk outside is closed before that, from the latest on. */
static void outer_first(struct plx_rpc *rpc)
{
    plx_list_for_each_safe(it, &rpc->disks) {
        const struct rpc_disk *d = plx_list_entry(it, struct rpc_disk, link);
        struct plx_volume_info v;
        if (d->kind != &rpc_kind_lvol)
            continue;
        plx_volume_get_info(d->bdev, &v);
        if (!v.outer[0])
            continue;
        plx_list_take(it);
        plx_list_add_tail(rpc->disks.next, it);
    }
}

void rpc_disks_close(struct plx_rpc *rpc)
{
    outer_first(rpc);
    while (!plx_list_empty(&rpc->disks)) {
        struct rpc_disk *first = plx_list_entry(rpc->disks.next, struct rpc_disk, link);
        struct rpc_disk *top = top_of(rpc, first->bdev);
        top = top ? top : first;
        rpc_stores_close(rpc, top->bdev);
        plx_bdev_close(top->bdev);
        rpc_disk_gone(rpc, top);
    }
    rpc_stores_close(rpc, NULL);
}

/* ---- again ---- */

void rpc_disk_changed(struct rpc_disk *d)
{
    free(d->text);
    d->text = NULL;
}

void rpc_config_disks(struct plx_rpc *rpc, struct rpc_config *list)
{
    bool pools = false; /* that are yet to be found by those who make it all again */
    rpc_config_remotes(rpc, list);
    plx_list_for_each(it, &rpc->disks) {
        struct rpc_disk *d = plx_list_entry(it, struct rpc_disk, link);
        if (d->closing)
            continue;
        if (pools && rpc_is_on_volume(d->bdev)) {
            rpc_config_add(list, RPC_EXAMINE, NULL);
            pools = false;
        }
        if (d->method && d->text)
            rpc_config_add_kept(list, d->text);
        else if (d->method)
            d->text = rpc_config_keep(list, d->method->name, json_incref(d->params));
        rpc_config_disk_more(list, d);
        pools = pools || rpc_store_on(rpc, d->bdev);
    }
    if (pools)
        rpc_config_add(list, RPC_EXAMINE, NULL);
}
