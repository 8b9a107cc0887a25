/* SPDX-License-Identifier: BSD-3-Clause */
/* Remote controllers that are attached: their paths, and a disk for each of their namespaces. */
#include "rpc/lvol.h"
#include "rpc/nvme.h"

#include "base/addr.h"
#include "base/log.h"
#include "bdev/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    WATCH_NOTICE = 2,
    WATCH_NS_CHANGED = 0x00,
};

/* ---- finding ---- */

struct remote *remote_find(struct plx_rpc *rpc, const char *name)
{
    plx_list_for_each(it, &rpc->remotes) {
        struct remote *r = plx_list_entry(it, struct remote, link);
        if (strcmp(r->name, name) == 0)
            return r;
    }
    return NULL;
}

struct remote_path *remote_path_find(struct remote *r, const struct remote_addr *addr)
{
    plx_list_for_each(it, &r->paths) {
        struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (remote_addr_same(&p->addr, addr))
            return p;
    }
    return NULL;
}

static struct remote_ns *remote_ns_find(struct remote *r, uint32_t nsid)
{
    plx_list_for_each(it, &r->namespaces) {
        struct remote_ns *ns = plx_list_entry(it, struct remote_ns, link);
        if (ns->nsid == nsid)
            return ns;
    }
    return NULL;
}

const struct rpc_disk_kind rpc_kind_remote = {.product = "NVMe disk"};

struct rpc_disk *remote_ns_disk(const struct remote_ns *ns)
{
    struct rpc_disk *d = ns->state == REMOTE_NS_OPEN ? rpc_disk_find(ns->r->rpc, ns->name) : NULL;
    return d && d->kind == &rpc_kind_remote ? d : NULL;
}

/* ---- ends ---- */

/* The last one lets go of a device, which takes until it has been shut down; then somebody is told. */
struct remote_end {
    struct plx_aio aio;
    struct plx_rpc *rpc;
    char addr[64];
    remote_done_fn done;
    void *arg;
    int ret;
    struct plx_error err;
};

static int64_t remote_let_go(struct plx_aio *aio)
{
    nvme_pcie_release(plx_container_of(aio, struct remote_end, aio)->addr);
    return 0;
}

static void remote_has_let_go(struct plx_aio *aio)
{
    struct remote_end *e = plx_container_of(aio, struct remote_end, aio);
    struct plx_rpc *rpc = e->rpc;
    rpc->remote_tasks--;
    if (aio->res) /* there was no thread for it */
        remote_let_go(aio);
    if (e->done)
        e->done(e->arg, NULL, e->ret, &e->err);
    free(e);
    rpc_may_stop(rpc);
}

/* Whoever attached or detached what was held there, if anything, is told. */
static void remote_over(struct plx_rpc *rpc, const char *held, remote_done_fn done, void *arg, int ret,
                        const struct plx_error *err)
{
    struct remote_end *e = held[0] ? calloc(1, sizeof *e) : NULL;
    if (!e) {
        if (held[0])
            nvme_pcie_release(held); /* this reactor has to wait */
        if (done)
            done(arg, NULL, ret, err);
        return;
    }
    *e = (struct remote_end){.rpc = rpc, .done = done, .arg = arg, .ret = ret};
    e->aio = (struct plx_aio){.done = remote_has_let_go, .fd = -1, .op = PLX_AIO_CALL, .call = remote_let_go};
    snprintf(e->addr, sizeof e->addr, "%s", held);
    if (err)
        e->err = *err;
    rpc->remote_tasks++;
    plx_aio_submit(rpc->reactor, &e->aio);
}

/* held: what is to be let go of, or "" */
static void path_free(struct remote_path *p, char held[64])
{
    if (p->watch)
        nvme_ctrlr_destroy(p->watch);
    snprintf(held, 64, "%s", p->held ? p->addr.traddr : "");
    plx_list_del(&p->link);
    json_decref(p->params);
    free(p);
}

/* Likewise: only what has one path is held. */
static void remote_free(struct remote *r, char held[64])
{
    held[0] = 0;
    while (!plx_list_empty(&r->paths))
        path_free(plx_list_entry(r->paths.next, struct remote_path, link), held);
    plx_list_for_each_safe(it, &r->namespaces)
        free(plx_list_entry(it, struct remote_ns, link));
    plx_list_del(&r->link);
    free(r);
}

/* A path's attachment is over. */
static void path_tell(struct remote_path *p, int ret, const struct plx_error *err)
{
    remote_done_fn done = p->done;
    p->done = NULL;
    if (done)
        done(p->arg, ret ? NULL : p->r, ret, err);
}

/* It could not be attached. With its first path a controller is gone, too. */
static void path_give_up(struct remote_path *p, int ret, const struct plx_error *err)
{
    struct remote *r = p->r;
    struct plx_rpc *rpc = r->rpc;
    remote_done_fn done = p->done;
    void *arg = p->arg;
    char held[64], none[64];
    path_free(p, held);
    if (plx_list_empty(&r->paths) && plx_list_empty(&r->namespaces) && !r->detaching)
        remote_free(r, none);
    remote_over(rpc, held, done, arg, ret, err);
}

/* ---- disks have the paths that the controller has ---- */

static bool disk_has_path(const struct plx_bdev *bdev, const char *name)
{
    char addr[80];
    for (unsigned i = 0; plx_bdev_nvme_address(bdev, i, addr, sizeof addr); i++)
        if (strcmp(addr, name) == 0)
            return true;
    return false;
}

static void ns_sync(struct remote_ns *ns)
{
    struct plx_error err;
    char addr[80];
    struct rpc_disk *d = remote_ns_disk(ns);
    if (!d)
        return;
    plx_list_for_each(it, &ns->r->paths) {
        const struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (p->attached && !disk_has_path(d->bdev, p->addr.name) &&
            plx_bdev_nvme_add_path(d->bdev, p->addr.name, NULL, &err))
            plx_error("%s", err.text);
    }
    for (unsigned i = 0; plx_bdev_nvme_address(d->bdev, i, addr, sizeof addr);) {
        bool wanted = false;
        plx_list_for_each(it, &ns->r->paths)
            wanted |= !strcmp(plx_list_entry(it, struct remote_path, link)->addr.name, addr);
        if (wanted || plx_bdev_nvme_remove_path(d->bdev, addr, NULL, &err))
            i++;
    }
}

/* ---- namespaces become disks, one after the other ---- */

static void open_next(struct remote *r);
static void detach_step(struct remote *r);

static struct remote_path *settled_path(const struct remote *r)
{
    plx_list_for_each(it, &r->paths) {
        struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (p->attached && p->done)
            return p;
    }
    return NULL;
}

static void examined(struct rpc_call *c)
{
    (void)c; /* what was wrong has been logged */
}

/* All that was listed is open: those who wait for a path to be attached are told. */
static void remote_settled(struct remote *r)
{
    struct plx_error err = r->open_err;
    int ret = plx_list_empty(&r->namespaces) ? r->open_ret : 0;
    r->open_ret = 0;
    if (rpc_examine_due(r->rpc) && !r->rpc->loading)
        rpc_own_call(r->rpc, RPC_EXAMINE, NULL, examined, NULL);
    for (struct remote_path *p; (p = settled_path(r));) {
        bool last = r->paths.next->next == &r->paths;
        if (!ret) {
            path_tell(p, 0, NULL);
            continue;
        }
        path_give_up(p, ret, &err);
        if (last)
            return; /* r is gone */
    }
}

static void ns_disk_opened(void *arg, struct plx_bdev *bdev, int result, const struct plx_error *err)
{
    struct remote_ns *ns = arg;
    struct remote *r = ns->r;
    struct plx_rpc *rpc = r->rpc;
    rpc->remote_tasks--;
    ns->state = REMOTE_NS_OPEN;
    if (!result && !rpc_disk_add(rpc, &rpc_kind_remote, bdev)) {
        plx_bdev_close(bdev);
        result = -ENOMEM; /* with nothing in err */
    }
    if (result) {
        plx_warn("%s: namespace %u is not attached: %s", r->name, ns->nsid, err->text);
        if (!r->open_ret)
            r->open_err = *err;
        r->open_ret = r->open_ret ? r->open_ret : result;
        plx_list_del(&ns->link);
        free(ns);
    } else {
        ns_sync(ns);
    }
    if (r->detaching)
        detach_step(r);
    else
        open_next(r);
    rpc_may_stop(rpc);
}

/* nvme+tcp://ADDR:PORT,ADDR:PORT/NQN?nsid=N&..., or pcie://ADDR/N?... */
static void remote_url(const struct remote *r, uint32_t nsid, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "nvme+tcp://");
    const char *comma = "";
    if (r->pcie) {
        const struct remote_path *p = plx_list_entry(r->paths.next, struct remote_path, link);
        snprintf(out, size, "pcie://%s/%u%s%s", p->addr.name, nsid, r->settings[0] ? "?" : "",
                 r->settings + (r->settings[0] == '&'));
        return;
    }
    plx_list_for_each(it, &r->paths) {
        const struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (!p->attached)
            continue;
        n += (size_t)snprintf(out + n, size - n, "%s%s", comma, p->addr.name);
        comma = ",";
    }
    snprintf(out + n, size - n, "/%s?nsid=%u%s%s", r->subnqn, nsid, r->settings,
             r->round_robin ? "&policy=round-robin" : "");
}

static void open_next(struct remote *r)
{
    char url[4096];
    struct remote_ns *next = NULL;
    plx_list_for_each(it, &r->namespaces) {
        struct remote_ns *ns = plx_list_entry(it, struct remote_ns, link);
        if (ns->state == REMOTE_NS_OPENING)
            return;
        if (ns->state == REMOTE_NS_WANTED && !next)
            next = ns;
    }
    if (r->detaching || r->rpc->stopping)
        return;
    if (!next) {
        remote_settled(r);
        return;
    }
    remote_url(r, next->nsid, url, sizeof url);
    next->state = REMOTE_NS_OPENING;
    r->rpc->remote_tasks++;
    int ret = plx_bdev_open_begin(r->rpc->reactor, url, next->name, ns_disk_opened, next);
    if (ret) {
        struct plx_error err;
        plx_fail(&err, ret, "%s: %s", next->name, strerror(-ret));
        ns_disk_opened(next, NULL, ret, &err);
    }
}

static bool listed_by(const struct remote_path *p, uint32_t nsid)
{
    for (unsigned i = 0; i < REMOTE_NAMESPACES && plx_get32(p->list[i]); i++)
        if (plx_get32(p->list[i]) == nsid)
            return true;
    return false;
}

/* Whether a namespace was listed again while its disk was being closed. A list that is on its way finds that out. */
static bool ns_is_back(const struct remote_ns *ns)
{
    plx_list_for_each(it, &ns->r->paths) {
        const struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (p->live && p->attached && p->listed && !p->listing && listed_by(p, ns->nsid))
            return !ns->r->detaching;
    }
    return false;
}

static void path_list(struct remote_path *p);

/* A disk is in use otherwise. What was closed before it, or found meanwhile, is looked for again. */
static void detach_failed(struct remote *r, int ret, const struct plx_error *err)
{
    remote_done_fn done = r->detached;
    r->detaching = false;
    plx_list_for_each(it, &r->paths) {
        struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (p->live)
            path_list(p);
    }
    if (done)
        done(r->detached_arg, r, ret, err);
}

/* What is done, and could not be kept, is done. */
static void ns_disk_closed(struct rpc_call *c)
{
    struct remote_ns *ns = c->arg;
    struct remote *r = ns->r;
    const int ret = c->kept || c->code == -ENODEV ? 0 : c->code;
    if (c->code && c->code != -ENODEV)
        plx_warn("%s: %s", ns->name, c->error.text);
    if (ret) {
        ns->state = REMOTE_NS_OPEN;
    } else if (ns_is_back(ns)) {
        ns->state = REMOTE_NS_WANTED;
        open_next(r);
        return;
    } else {
        plx_list_del(&ns->link);
        free(ns);
    }
    if (r->detaching && ret)
        detach_failed(r, ret, &c->error);
    else if (r->detaching)
        detach_step(r);
}

/* Its disk goes, with the namespaces of ours that it is; unless another one has taken its name since it was closed. */
static void ns_close(struct remote_ns *ns)
{
    json_t *params = json_pack("{s:s}", "name", ns->name);
    const bool there = remote_ns_disk(ns);
    struct rpc_call none = {.code = -ENODEV, .arg = ns};
    ns->state = REMOTE_NS_GOING;
    if (there)
        rpc_own_call(ns->r->rpc, "pollux_disk_close", params, ns_disk_closed, ns);
    else
        ns_disk_closed(&none);
    json_decref(params);
}

/* ---- what a controller lists ---- */

/* Whether some path has it, as far as is known. */
static bool ns_somewhere(const struct remote *r, uint32_t nsid)
{
    plx_list_for_each(it, &r->paths) {
        const struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (p->live && p->attached && (p->listing || !p->listed || listed_by(p, nsid)))
            return true;
    }
    return false;
}

static void add_namespaces(struct remote_path *p)
{
    struct remote *r = p->r;
    unsigned n = 0;
    plx_list_for_each(it, &r->namespaces)
        n++;
    for (unsigned i = 0; i < REMOTE_NAMESPACES && plx_get32(p->list[i]); i++) {
        uint32_t nsid = plx_get32(p->list[i]);
        struct remote_ns *ns = remote_ns_find(r, nsid);
        if (ns)
            continue;
        if (n++ >= r->max_namespaces || !(ns = calloc(1, sizeof *ns))) {
            plx_warn("%s: namespaces from %u on are not attached: %u is the limit, by max_bdevs", r->name, nsid,
                     r->max_namespaces);
            return;
        }
        ns->r = r;
        ns->nsid = nsid;
        snprintf(ns->name, sizeof ns->name, "%.200sn%u", r->name, nsid);
        plx_list_add_tail(&r->namespaces, &ns->link);
    }
}

/* Closing one may fail at once, and change nothing. */
static void remove_namespaces_gone(struct remote *r)
{
    plx_list_for_each_safe(it, &r->namespaces) {
        struct remote_ns *ns = plx_list_entry(it, struct remote_ns, link);
        if (ns->state == REMOTE_NS_OPEN && !ns_somewhere(r, ns->nsid)) {
            plx_warn("%s: namespace %u is gone", r->name, ns->nsid);
            ns_close(ns);
        }
    }
}

/* ---- how large namespaces are: nobody else looks while a disk is not in use ---- */

static void size_next(struct remote_path *p);

static void took_size(struct nvme_req *req)
{
    struct remote_path *p = plx_container_of(req, struct remote_path, size_req);
    const struct remote_ns *ns = remote_ns_find(p->r, p->sized);
    const struct rpc_disk *d = ns ? remote_ns_disk(ns) : NULL;
    p->sizing = false;
    if (req->lost || p->r->detaching)
        return;
    if (d && !req->status)
        plx_nvme_disk_looked_at(d->bdev, &p->id);
    size_next(p);
}

/* Identify, CNS 00h: NVM 4.1.5.1 */
static void size_next(struct remote_path *p)
{
    const struct remote_ns *next = NULL;
    plx_list_for_each(it, &p->r->namespaces) {
        const struct remote_ns *ns = plx_list_entry(it, struct remote_ns, link);
        if (ns->state == REMOTE_NS_OPEN && ns->nsid > p->sized && (!next || ns->nsid < next->nsid))
            next = ns;
    }
    if (!next || p->sizing)
        return;
    p->sizing = true;
    p->sized = next->nsid;
    p->id_iov = (struct iovec){&p->id, sizeof p->id};
    p->size_req = (struct nvme_req){
        .done = took_size,
        .data = {&p->id_iov, 0},
        .len = sizeof p->id,
        .dir = NVME_TO_HOST,
        .cmd = {.opcode = NVME_ADMIN_IDENTIFY, .nsid = plx_put32(next->nsid), .cdw10 = plx_put32(NVME_CNS_NS)},
    };
    nvme_submit_admin(p->watch, &p->size_req);
}

/* ---- lists ---- */

static void took_list(struct nvme_req *req)
{
    struct remote_path *p = plx_container_of(req, struct remote_path, req);
    struct remote *r = p->r;
    struct plx_error err;
    p->listing = false;
    if (req->lost || r->detaching)
        return; /* when it is connected again, it lists again */
    if (p->list_again) {
        path_list(p);
        return;
    }
    if (req->status) {
        plx_fail(&err, -EIO, "%s: Identify, the list of namespaces, failed: status %03x", p->addr.name,
                 req->status & 0x7ff);
        if (!p->attached)
            path_give_up(p, -EIO, &err);
        else
            plx_warn("%s", err.text);
        return;
    }
    bool first = !p->attached, changed = p->changed;
    p->listed = p->attached = true;
    p->changed = false;
    plx_list_for_each(it, &r->namespaces) {
        if (first)
            ns_sync(plx_list_entry(it, struct remote_ns, link));
    }
    add_namespaces(p);
    if (changed)
        remove_namespaces_gone(r);
    p->sized = 0; /* from the first on, again if need be */
    if (!first)
        size_next(p);
    open_next(r);
}

/* Identify, CNS 02h: Base 5.1.13.2.2 */
static void path_list(struct remote_path *p)
{
    p->list_again = p->listing;
    if (p->listing)
        return;
    p->listing = true;
    p->iov = (struct iovec){p->list, sizeof p->list};
    p->req = (struct nvme_req){
        .done = took_list,
        .data = {&p->iov, 0},
        .len = sizeof p->list,
        .dir = NVME_TO_HOST,
        .cmd = {.opcode = NVME_ADMIN_IDENTIFY, .cdw10 = plx_put32(NVME_CNS_ACTIVE_NS)},
    };
    nvme_submit_admin(p->watch, &p->req);
}

/* ---- the association of a path ---- */

static void watch_live(struct nvme_ctrlr *c, void *arg)
{
    struct remote_path *p = arg;
    (void)c;
    p->live = true;
    path_list(p);
}

static void watch_down(struct nvme_ctrlr *c, void *arg)
{
    struct remote_path *p = arg;
    (void)c;
    p->live = false;
}

static void watch_failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    struct remote_path *p = arg;
    struct plx_error err;
    (void)c, (void)again;
    if (p->attached || p->r->detaching)
        return;
    ret = p->addr.pcie ? ret : -EIO;
    plx_fail(&err, ret, "%s: %.200s", p->addr.name, why);
    path_give_up(p, ret, &err);
}

static void watch_ana(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg; /* of no namespace in particular */
}

static void watch_event(struct nvme_ctrlr *c, void *arg, uint32_t dw0)
{
    struct remote_path *p = arg;
    (void)c;
    if ((dw0 & 7) != WATCH_NOTICE || (dw0 >> 8 & 0xff) != WATCH_NS_CHANGED || !p->live)
        return;
    p->changed = true;
    path_list(p);
}

static const struct nvme_ctrlr_ops watch_ops = {
    .live = watch_live, .down = watch_down, .failed = watch_failed, .ana = watch_ana, .event = watch_event};

static int watch_create(struct remote_path *p, struct plx_error *err)
{
    struct nvme_where w;
    struct remote *r = p->r;
    int ret = remote_where(&w, &p->addr, r->settings, err);
    if (!ret && p->addr.pcie && (ret = nvme_pcie_hold(p->addr.traddr)))
        plx_fail(err, ret, "%s: cannot make a thread for the device: %s", p->addr.name, strerror(-ret));
    if (ret)
        return ret;
    p->held = p->addr.pcie;
    struct nvme_opts o = nvme_where_opts(&w, 0);
    snprintf(o.subnqn, sizeof o.subnqn, "%s", r->subnqn);
    o.queues = 0;
    o.nsid = NVME_NSID_ALL;
    o.quiet = true;
    snprintf(r->hostnqn, sizeof r->hostnqn, "%s", o.hostnqn);
    ret = nvme_ctrlr_create(r->rpc->reactor, &o, &watch_ops, p, &p->watch);
    return ret ? plx_fail(err, ret, "%s: %s", p->addr.name, strerror(-ret)) : 0;
}

/* ---- attaching ---- */

static struct remote *remote_new(struct plx_rpc *rpc, const struct remote_spec *spec)
{
    struct remote *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->rpc = rpc;
    plx_list_init(&r->paths);
    plx_list_init(&r->namespaces);
    snprintf(r->name, sizeof r->name, "%s", spec->name);
    r->pcie = spec->addr->pcie;
    snprintf(r->subnqn, sizeof r->subnqn, "%s", spec->subnqn ? spec->subnqn : "");
    snprintf(r->settings, sizeof r->settings, "%s", spec->settings);
    r->max_namespaces = spec->max_namespaces;
    r->round_robin = spec->round_robin;
    r->found_by = spec->found_by;
    plx_list_add_tail(&rpc->remotes, &r->link);
    return r;
}

/* Whether a path may be added to what is there. */
static int check_path(struct remote *r, const struct remote_spec *spec, struct plx_error *err)
{
    unsigned n = 0;
    if (r->detaching)
        return plx_fail(err, -EBUSY, "controller %.100s is being detached", r->name);
    if (remote_path_find(r, spec->addr))
        return plx_fail(err, -EALREADY, "A controller named %.100s already exists with the specified network path",
                        r->name);
    if (r->pcie || spec->addr->pcie)
        return plx_fail(err, -EINVAL, "A controller named %.100s already exists, and over PCIe it has one path",
                        r->name);
    if (strcmp(r->subnqn, spec->subnqn) != 0)
        return plx_fail(err, -EINVAL, "A controller named %.60s already exists, but uses a different subnqn (%.100s)",
                        r->name, r->subnqn);
    if (spec->hostnqn && strcmp(r->hostnqn, spec->hostnqn) != 0)
        return plx_fail(err, -EINVAL, "A controller named %.60s already exists, but uses a different hostnqn (%.100s)",
                        r->name, r->hostnqn);
    plx_list_for_each(it, &r->paths)
        n++;
    return n < REMOTE_PATHS
               ? 0
               : plx_fail(err, -ENOSPC, "controller %.100s has %d paths, which is the limit", r->name, REMOTE_PATHS);
}

/* A device is attached once, under one name. */
static int check_device(const struct plx_rpc *rpc, const struct remote_addr *addr, struct plx_error *err)
{
    plx_list_for_each(it, &rpc->remotes) {
        struct remote *r = plx_list_entry(it, struct remote, link);
        if (addr->pcie && remote_path_find(r, addr))
            return plx_fail(err, -EEXIST, "%s is attached already, as controller %.100s", addr->name, r->name);
    }
    return 0;
}

/*
 * The call that makes a path again. What is the controller's, and not the path's, was said by the first: it may be the
 * one that leaves before.
 */
static json_t *path_params(const struct remote *was, json_t *params)
{
    static const char *const shared[] = {"hostnqn",
                                         "hdgst",
                                         "ddgst",
                                         "ctrlr_loss_timeout_sec",
                                         "reconnect_delay_sec",
                                         "fast_io_fail_timeout_sec",
                                         "multipath_opts",
                                         "max_bdevs",
                                         "num_io_queues",
                                         "fabrics_connect_timeout_us"};
    const struct remote_path *first =
        was && !plx_list_empty(&was->paths) ? plx_list_entry(was->paths.next, struct remote_path, link) : NULL;
    json_t *out = json_copy(params);
    for (size_t i = 0; out && first && first->params && i < PLX_ARRAY_SIZE(shared); i++) {
        json_t *of_first = json_object_get(first->params, shared[i]);
        if (of_first)
            json_object_set(out, shared[i], of_first);
        else
            json_object_del(out, shared[i]);
    }
    return out;
}

int remote_attach(struct plx_rpc *rpc, const struct remote_spec *spec, remote_done_fn done, void *arg,
                  struct plx_error *err)
{
    struct remote *was = remote_find(rpc, spec->name), *r = was;
    char held[64], none[64];
    int ret = was ? check_path(was, spec, err) : check_device(rpc, spec->addr, err);
    if (ret)
        return ret;
    struct remote_path *p = calloc(1, sizeof *p);
    r = r || !p ? r : remote_new(rpc, spec);
    if (!p || !r) {
        free(p);
        return plx_fail(err, -ENOMEM, "out of memory");
    }
    p->r = r;
    p->addr = *spec->addr;
    p->params = path_params(was, spec->params);
    plx_list_add_tail(&r->paths, &p->link);
    ret = watch_create(p, err);
    if (ret) {
        path_free(p, held);
        if (!was)
            remote_free(r, none);
        remote_over(rpc, held, NULL, NULL, 0, NULL);
        return ret;
    }
    p->done = done;
    p->arg = arg;
    nvme_ctrlr_start(p->watch, false);
    return 0;
}

/* ---- detaching ---- */

/* The next disk is closed; when there is none, it is over. */
static void detach_step(struct remote *r)
{
    struct remote_ns *open = NULL;
    plx_list_for_each_safe(it, &r->namespaces) {
        struct remote_ns *ns = plx_list_entry(it, struct remote_ns, link);
        if (ns->state == REMOTE_NS_OPENING || ns->state == REMOTE_NS_GOING)
            return; /* goes on when that is over */
        if (ns->state == REMOTE_NS_OPEN && !open)
            open = ns;
        if (ns->state == REMOTE_NS_WANTED) {
            plx_list_del(&ns->link);
            free(ns);
        }
    }
    if (open) {
        ns_close(open);
        return;
    }
    remote_done_fn done = r->detached;
    struct plx_rpc *rpc = r->rpc;
    void *arg = r->detached_arg;
    char held[64];
    remote_free(r, held);
    remote_over(rpc, held, done, arg, 0, NULL);
}

int remote_detach(struct remote *r, remote_done_fn done, void *arg, struct plx_error *err)
{
    struct plx_error why;
    if (r->detaching)
        return plx_fail(err, -EBUSY, "controller %.100s is being detached already", r->name);
    r->detaching = true;
    r->detached = done;
    r->detached_arg = arg;
    plx_fail(&why, -ECANCELED, "controller %.100s is detached", r->name);
    plx_list_for_each_safe(it, &r->paths) {
        struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        path_tell(p, -ECANCELED, &why);
    }
    detach_step(r);
    return 0;
}

/* A path that leaves: over when all disks have let go of it. */
struct path_leaving {
    remote_done_fn done;
    void *arg;
    unsigned left;
};

static void leaving_over(void *arg)
{
    struct path_leaving *l = arg;
    if (--l->left)
        return;
    if (l->done)
        l->done(l->arg, NULL, 0, NULL);
    free(l);
}

/* Whether disks would have no path left without it, or nobody would be attaching any more. */
static bool last_path(const struct remote_path *p)
{
    plx_list_for_each(it, &p->r->paths) {
        const struct remote_path *other = plx_list_entry(it, struct remote_path, link);
        if (other != p && (other->attached || !p->attached))
            return false;
    }
    return true;
}

int remote_detach_path(struct remote *r, const struct remote_addr *addr, remote_done_fn done, void *arg,
                       struct plx_error *err)
{
    struct remote_path *p = remote_path_find(r, addr);
    struct plx_error why;
    if (!p)
        return plx_fail(err, -ENXIO, "controller %.100s has no path by %s", r->name, addr->name);
    if (last_path(p))
        return remote_detach(r, done, arg, err);
    if (r->detaching)
        return plx_fail(err, -EBUSY, "controller %.100s is being detached", r->name);
    struct path_leaving *l = calloc(1, sizeof *l);
    if (!l)
        return plx_fail(err, -ENOMEM, "out of memory");
    *l = (struct path_leaving){.done = done, .arg = arg, .left = 1};
    const struct plx_bdev_nvme_wait wait = {.reactor = r->rpc->reactor, .done = leaving_over, .arg = l};
    plx_list_for_each(it, &r->namespaces) {
        struct rpc_disk *d = remote_ns_disk(plx_list_entry(it, struct remote_ns, link));
        if (d && !plx_bdev_nvme_remove_path(d->bdev, addr->name, &wait, &why))
            l->left++;
    }
    plx_fail(&why, -ECANCELED, "%s is detached", addr->name);
    path_give_up(p, -ECANCELED, &why);
    leaving_over(l);
    return 0;
}

/* ---- the process ---- */

void rpc_remotes_stop(struct plx_rpc *rpc)
{
    struct plx_error err;
    plx_fail(&err, -ECANCELED, "the process ends");
    remote_discoveries_stop(rpc);
    remote_asks_stop(rpc);
    remote_passes_stop(rpc);
    remote_hotplug_stop(rpc);
    plx_list_for_each(it, &rpc->remotes) {
        struct remote *r = plx_list_entry(it, struct remote, link);
        plx_list_for_each(at, &r->paths) {
            struct remote_path *p = plx_list_entry(at, struct remote_path, link);
            if (p->watch)
                nvme_ctrlr_destroy(p->watch);
            p->watch = NULL;
            p->live = false;
            path_tell(p, -ECANCELED, &err);
        }
    }
}

void rpc_remotes_close(struct plx_rpc *rpc)
{
    char held[64];
    while (!plx_list_empty(&rpc->remotes)) {
        remote_free(plx_list_entry(rpc->remotes.next, struct remote, link), held);
        if (held[0])
            nvme_pcie_release(held);
    }
}

/* ---- again ---- */

static void config_policies(const struct remote *r, struct rpc_config *list)
{
    plx_list_for_each(it, &r->namespaces) {
        const struct remote_ns *ns = plx_list_entry(it, struct remote_ns, link);
        const struct rpc_disk *d = remote_ns_disk(ns);
        if (d && plx_bdev_nvme_policy(d->bdev) != r->round_robin)
            rpc_config_add(list, "bdev_nvme_set_multipath_policy",
                           json_pack("{s:s, s:s}", "name", ns->name, "policy",
                                     r->round_robin ? "active_passive" : "active_active"));
    }
}

/* What is attached by calls; then what discovery finds; then what was said of the disks of either. */
void rpc_config_remotes(struct plx_rpc *rpc, struct rpc_config *list)
{
    plx_list_for_each(it, &rpc->remotes) {
        const struct remote *r = plx_list_entry(it, struct remote, link);
        if (r->detaching)
            continue;
        plx_list_for_each(at, &r->paths) {
            const struct remote_path *p = plx_list_entry(at, struct remote_path, link);
            if (p->attached && !p->done && p->params)
                rpc_config_add(list, "bdev_nvme_attach_controller", json_incref(p->params));
        }
    }
    rpc_config_discoveries(rpc, list);
    plx_list_for_each(it, &rpc->remotes) {
        const struct remote *r = plx_list_entry(it, struct remote, link);
        if (!r->detaching)
            config_policies(r, list);
    }
}
