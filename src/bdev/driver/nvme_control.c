/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control side of a remote disk. It plans what the paths are to be, and rings at each channel, which makes them so;
 * channels tell of their paths here. Neither side waits for the other. A change is over when all channels have taken it
 * over; one that comes later, or goes, has nothing to take over.
 */
#include "bdev/driver/nvme_disk.h"

#include "bdev/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)PLX_BDEV_NVME_PATHS_MAX == (int)NVME_PATHS_MAX, "");

/* Between the two. Apart from the channel, as its message may be on its way when that is put back. */
struct nvme_link {
    struct plx_msg msg;
    struct plx_list link;    /* in control.links */
    struct nvme_channel *nc; /* NULL when it has been put back */
    uint64_t planned;        /* the change that its paths are by */
    bool sent;               /* msg is on its way, and frees it when there is no channel any more */
    unsigned npaths;
    struct plx_bdev_nvme_path paths[NVME_PATHS_MAX]; /* as they were when it told last */
};

struct nvme_change {
    struct plx_msg msg;
    struct plx_list link; /* in control.changes */
    uint64_t number;
    struct plx_bdev_nvme_wait wait;
};

/* Of all remote disks. Control path; not the disk's, which may be closed before a message arrives. */
static pthread_mutex_t links_lock = PTHREAD_MUTEX_INITIALIZER;

void nvme_control_init(struct nvme_disk *d)
{
    struct nvme_plan *plan = &d->control.plan;
    plx_list_init(&d->control.links);
    plx_list_init(&d->control.changes);
    plan->npaths = d->where.npaths;
    plan->round_robin = d->where.round_robin;
    for (unsigned i = 0; i < plan->npaths; i++) {
        plan->addrs[i] = d->where.paths[i];
        plan->ids[i] = ++d->control.last_id;
    }
}

/* ---- changes that are waited for ---- */

static void change_over(struct plx_msg *msg)
{
    struct nvme_change *change = plx_container_of(msg, struct nvme_change, msg);
    const struct plx_bdev_nvme_wait wait = change->wait;
    free(change);
    wait.done(wait.arg);
}

/* Under the lock: tells of those that every channel has taken over. */
static void tell_changes(struct nvme_control *k)
{
    uint64_t all = k->plan.change;
    plx_list_for_each(it, &k->links) {
        const struct nvme_link *link = plx_list_entry(it, struct nvme_link, link);
        all = plx_min_u64(all, link->planned);
    }
    plx_list_for_each_safe(it, &k->changes) {
        struct nvme_change *change = plx_list_entry(it, struct nvme_change, link);
        if (change->number > all)
            continue;
        plx_list_del(it);
        plx_reactor_send(change->wait.reactor, &change->msg);
    }
}

static void ring_links(struct nvme_control *k)
{
    plx_list_for_each(it, &k->links) {
        struct nvme_link *link = plx_list_entry(it, struct nvme_link, link);
        if (!link->sent)
            plx_reactor_send(link->nc->ch->reactor, &link->msg);
        link->sent = true;
    }
}

/* ---- channels ---- */

static void link_rung(struct plx_msg *msg)
{
    struct nvme_link *link = plx_container_of(msg, struct nvme_link, msg);
    pthread_mutex_lock(&links_lock);
    struct nvme_channel *nc = link->nc; /* which only this reactor puts back */
    link->sent = false;
    pthread_mutex_unlock(&links_lock);
    if (nc)
        nvme_paths_change(nc);
    else
        free(link);
}

int nvme_link_make(struct nvme_channel *nc)
{
    struct nvme_link *link = calloc(1, sizeof *link);
    if (!link)
        return -ENOMEM;
    link->msg.fn = link_rung;
    link->nc = nc;
    nc->link = link;
    pthread_mutex_lock(&links_lock);
    plx_list_add_tail(&nc->disk->control.links, &link->link);
    pthread_mutex_unlock(&links_lock);
    return 0;
}

void nvme_link_cut(struct nvme_channel *nc)
{
    struct nvme_link *link = nc->link;
    pthread_mutex_lock(&links_lock);
    plx_list_del(&link->link);
    link->nc = NULL;
    bool sent = link->sent;
    tell_changes(&nc->disk->control);
    pthread_mutex_unlock(&links_lock);
    nc->link = NULL;
    if (!sent)
        free(link);
}

void nvme_link_get_plan(const struct nvme_channel *nc, struct nvme_plan *out)
{
    pthread_mutex_lock(&links_lock);
    *out = nc->disk->control.plan;
    pthread_mutex_unlock(&links_lock);
}

void nvme_link_planned(struct nvme_channel *nc, uint64_t change)
{
    pthread_mutex_lock(&links_lock);
    nc->link->planned = change;
    tell_changes(&nc->disk->control);
    pthread_mutex_unlock(&links_lock);
}

static bool in_use(const struct nvme_channel *nc, const struct nvme_path *path)
{
    for (unsigned i = 0; i < nc->nusable; i++)
        if (nc->usable[i] == path)
            return true;
    return false;
}

void nvme_link_tell(struct nvme_channel *nc)
{
    struct nvme_link *link = nc->link;
    pthread_mutex_lock(&links_lock);
    link->npaths = nc->npaths;
    for (unsigned i = 0; i < nc->npaths; i++) {
        const struct nvme_path *path = nc->paths[i];
        unsigned ana = nvme_ctrlr_ana(path->c);
        struct plx_bdev_nvme_path *out = &link->paths[i];
        *out = (struct plx_bdev_nvme_path){
            .reactor = nc->ch->reactor,
            .connected = path->live,
            .usable = path->up && (ana == NVME_ANA_OPTIMIZED || ana == NVME_ANA_NON_OPTIMIZED),
            .in_use = in_use(nc, path),
            .ana_state = (uint8_t)ana,
            .cntlid = nvme_ctrlr_cntlid(path->c),
        };
        snprintf(out->address, sizeof out->address, "%s", nvme_ctrlr_name(path->c));
    }
    pthread_mutex_unlock(&links_lock);
}

/* ---- changing ---- */

bool plx_bdev_is_nvme(const struct plx_bdev *bdev)
{
    return nvme_is_disk(bdev) && !nvme_disk_of(bdev)->held;
}

/* Under the lock. @return -1 when there is no such path */
static int planned_at(const struct nvme_plan *plan, const char *name)
{
    for (unsigned i = 0; i < plan->npaths; i++)
        if (strcmp(plan->addrs[i].list[0].name, name) == 0)
            return (int)i;
    return -1;
}

static int check_remote(const struct plx_bdev *bdev, struct plx_error *err)
{
    return plx_bdev_is_nvme(bdev)
               ? 0
               : plx_fail(err, -EINVAL, "%s is no disk of an NVMe/TCP controller, and has no paths", bdev->info.name);
}

/* An address, in the form in which they are compared. */
static int parse_path(const char *addr, struct nvme_addrs *out, struct plx_error *err)
{
    struct nvme_addr *a = &out->list[0];
    *out = (struct nvme_addrs){.n = 1};
    int ret = plx_parse_addr(addr, NVME_PORT, &a->addr, err);
    if (ret)
        return ret;
    if (!plx_addr_port(&a->addr))
        return plx_fail(err, -EINVAL, "%.80s: a port to connect to is a number from 1 to 65535", addr);
    plx_addr_format(&a->addr, a->name);
    return 0;
}

static int change_new(const struct plx_bdev_nvme_wait *wait, struct nvme_change **out, struct plx_error *err)
{
    *out = wait ? calloc(1, sizeof **out) : NULL;
    if (wait && !*out)
        return plx_fail(err, -ENOMEM, "out of memory");
    if (wait) {
        (*out)->wait = *wait;
        (*out)->msg.fn = change_over;
    }
    return 0;
}

enum what { ADD_PATH, REMOVE_PATH, RESET_PATHS };

static void remove_planned(struct nvme_plan *plan, unsigned at)
{
    plan->npaths--;
    for (unsigned i = at; i < plan->npaths; i++) {
        plan->addrs[i] = plan->addrs[i + 1];
        plan->ids[i] = plan->ids[i + 1];
        plan->resets[i] = plan->resets[i + 1];
    }
}

/* Under the lock; path is the one that is meant, or NULL for all. */
static int change_plan(struct nvme_disk *d, enum what what, const struct nvme_addrs *path, struct plx_error *err)
{
    struct nvme_plan *plan = &d->control.plan;
    const char *disk = d->bdev.info.name, *name = path ? path->list[0].name : NULL;
    int at = path ? planned_at(plan, name) : -1;
    if (path && what != ADD_PATH && at < 0)
        return plx_fail(err, -ENOENT, "%s has no path by %s", disk, name);
    switch (what) {
    case ADD_PATH:
        if (at >= 0)
            return plx_fail(err, -EEXIST, "%s has a path by %s already", disk, name);
        if (plan->npaths == NVME_PATHS_MAX)
            return plx_fail(err, -ENOSPC, "%s has %d paths, which is the limit", disk, NVME_PATHS_MAX);
        plan->addrs[plan->npaths] = *path;
        plan->resets[plan->npaths] = 0;
        plan->ids[plan->npaths++] = ++d->control.last_id;
        break;
    case REMOVE_PATH:
        if (plan->npaths == 1)
            return plx_fail(err, -EBUSY, "%s has no other path than %s; close the disk instead", disk, name);
        remove_planned(plan, (unsigned)at);
        break;
    case RESET_PATHS:
        for (unsigned i = 0; i < plan->npaths; i++)
            plan->resets[i] += !path || (int)i == at;
        break;
    }
    return 0;
}

/* Under the lock. */
static void announce(struct nvme_control *k, struct nvme_change *change)
{
    k->plan.change++;
    if (change) {
        change->number = k->plan.change;
        plx_list_add_tail(&k->changes, &change->link);
    }
    ring_links(k);
    tell_changes(k);
}

static int change_paths(struct plx_bdev *bdev, enum what what, const char *addr, const struct plx_bdev_nvme_wait *wait,
                        struct plx_error *err)
{
    struct nvme_disk *d = nvme_disk_of(bdev);
    struct nvme_addrs path;
    struct nvme_change *change;
    int ret = check_remote(bdev, err);
    if (!ret && addr)
        ret = parse_path(addr, &path, err);
    if (!ret)
        ret = change_new(wait, &change, err);
    if (ret)
        return ret;
    pthread_mutex_lock(&links_lock);
    ret = change_plan(d, what, addr ? &path : NULL, err);
    if (!ret)
        announce(&d->control, change);
    pthread_mutex_unlock(&links_lock);
    if (ret)
        free(change);
    return ret;
}

int plx_bdev_nvme_add_path(struct plx_bdev *bdev, const char *addr, const struct plx_bdev_nvme_wait *wait,
                           struct plx_error *err)
{
    return change_paths(bdev, ADD_PATH, addr, wait, err);
}

int plx_bdev_nvme_remove_path(struct plx_bdev *bdev, const char *addr, const struct plx_bdev_nvme_wait *wait,
                              struct plx_error *err)
{
    return change_paths(bdev, REMOVE_PATH, addr, wait, err);
}

int plx_bdev_nvme_reset(struct plx_bdev *bdev, const char *addr, const struct plx_bdev_nvme_wait *wait,
                        struct plx_error *err)
{
    return change_paths(bdev, RESET_PATHS, addr, wait, err);
}

int plx_bdev_nvme_set_policy(struct plx_bdev *bdev, bool round_robin, const struct plx_bdev_nvme_wait *wait,
                             struct plx_error *err)
{
    struct nvme_control *k = &nvme_disk_of(bdev)->control;
    struct nvme_change *change;
    int ret = check_remote(bdev, err);
    if (!ret)
        ret = change_new(wait, &change, err);
    if (ret)
        return ret;
    pthread_mutex_lock(&links_lock);
    k->plan.round_robin = round_robin;
    announce(k, change);
    pthread_mutex_unlock(&links_lock);
    return 0;
}

/* ---- looking ---- */

bool plx_bdev_nvme_policy(const struct plx_bdev *bdev)
{
    bool round_robin = false;
    pthread_mutex_lock(&links_lock);
    if (nvme_is_disk(bdev))
        round_robin = nvme_disk_of(bdev)->control.plan.round_robin;
    pthread_mutex_unlock(&links_lock);
    return round_robin;
}

bool plx_bdev_nvme_get_info(const struct plx_bdev *bdev, struct plx_bdev_nvme_info *out)
{
    if (nvme_is_disk(bdev))
        *out = nvme_disk_of(bdev)->told;
    return nvme_is_disk(bdev);
}

bool plx_nvme_disk_opts(const struct plx_bdev *bdev, struct nvme_opts *out)
{
    if (!nvme_is_disk(bdev))
        return false;
    const struct nvme_disk *d = nvme_disk_of(bdev);
    *out = d->where.o;
    pthread_mutex_lock(&links_lock);
    out->addrs = d->control.plan.addrs[0];
    pthread_mutex_unlock(&links_lock);
    out->nsid = NVME_NSID_ALL;
    out->queues = 0;
    out->quiet = true;
    return true;
}

void plx_nvme_disk_looked_at(struct plx_bdev *bdev, const struct nvme_id_ns *id)
{
    const struct nvme_disk *d = nvme_disk_of(bdev);
    if (nvme_is_disk(bdev) && nvme_same_identity(&d->ns.id, id) && nvme_blocks_possible(plx_get64(id->nsze), d->shift))
        plx_bdev_resized(bdev, plx_get64(id->nsze));
}

bool plx_bdev_nvme_address(const struct plx_bdev *bdev, unsigned i, char *out, size_t size)
{
    const struct nvme_plan *plan = &nvme_disk_of(bdev)->control.plan;
    pthread_mutex_lock(&links_lock);
    bool there = nvme_is_disk(bdev) && i < plan->npaths;
    if (there)
        snprintf(out, size, "%s", plan->addrs[i].list[0].name);
    pthread_mutex_unlock(&links_lock);
    return there;
}

void plx_bdev_nvme_each_path(const struct plx_bdev *bdev, void (*fn)(void *arg, const struct plx_bdev_nvme_path *path),
                             void *arg)
{
    if (!nvme_is_disk(bdev))
        return;
    pthread_mutex_lock(&links_lock);
    plx_list_for_each(it, &nvme_disk_of(bdev)->control.links) {
        const struct nvme_link *link = plx_list_entry(it, struct nvme_link, link);
        for (unsigned i = 0; i < link->npaths; i++)
            fn(arg, &link->paths[i]);
    }
    pthread_mutex_unlock(&links_lock);
}
