/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * SSDs that come and go: while that is wished, a worker thread looks now and then which ones are with vfio-pci. A new
 * one is attached, and one that is gone is detached, by calls of our own that stand in line as any other. One that was
 * detached by a call is left alone until it has been away.
 */
#include "rpc/nvme.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOTPLUG_DEVICES = 256, HOTPLUG_MIN_MS = 10 };

struct remote_hotplug {
    struct plx_rpc *rpc;
    struct plx_timer timer;
    struct plx_aio aio;
    bool enabled, looking;
    uint64_t period_ns;
    unsigned nfound, nknown, next; /* next: of names */
    char found[HOTPLUG_DEVICES][PLX_ADDR_TEXT];
    char known[HOTPLUG_DEVICES][PLX_ADDR_TEXT]; /* when it was looked last */
};

static bool is_listed(char (*list)[PLX_ADDR_TEXT], unsigned n, const char *addr)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(list[i], addr) == 0)
            return true;
    return false;
}

static const struct remote *attached_at(const struct plx_rpc *rpc, const char *addr)
{
    plx_list_for_each(it, &rpc->remotes) {
        const struct remote *r = plx_list_entry(it, struct remote, link);
        if (r->pcie && strcmp(plx_list_entry(r->paths.next, struct remote_path, link)->addr.traddr, addr) == 0)
            return r;
    }
    return NULL;
}

static void plugged(struct rpc_call *c)
{
    if (c->code)
        plx_warn("%s: %s", rpc_str_in(c->params, "name"), c->error.text);
}

static void attach_new(struct remote_hotplug *h, const char *addr)
{
    char name[24];
    do
        snprintf(name, sizeof name, "HotInNvme%u", h->next++);
    while (remote_find(h->rpc, name));
    plx_info("%s has come, and is attached as %s", addr, name);
    json_t *params = json_pack("{s:s, s:s, s:s}", "name", name, "trtype", "PCIe", "traddr", addr);
    rpc_own_call(h->rpc, "bdev_nvme_attach_controller", params, plugged, NULL);
    json_decref(params);
}

static void detach_gone(struct remote_hotplug *h, const struct remote *r, const char *addr)
{
    plx_warn("%s has gone, and %s is detached", addr, r->name);
    json_t *params = json_pack("{s:s}", "name", r->name);
    rpc_own_call(h->rpc, "bdev_nvme_detach_controller", params, plugged, NULL);
    json_decref(params);
}

/* Not while something changes: a configuration that is being loaded names what it attaches. */
static void compare(struct remote_hotplug *h)
{
    if (rpc_changing(h->rpc))
        return;
    for (unsigned i = 0; i < h->nfound; i++)
        if (!is_listed(h->known, h->nknown, h->found[i]) && !attached_at(h->rpc, h->found[i]))
            attach_new(h, h->found[i]);
    for (unsigned i = 0; i < h->nknown; i++) {
        const struct remote *r = attached_at(h->rpc, h->known[i]);
        if (r && !r->detaching && !is_listed(h->found, h->nfound, h->known[i]))
            detach_gone(h, r, h->known[i]);
    }
    memcpy(h->known, h->found, sizeof h->known);
    h->nknown = h->nfound;
}

static int64_t look_for_devices(struct plx_aio *aio)
{
    struct remote_hotplug *h = plx_container_of(aio, struct remote_hotplug, aio);
    h->nfound = nvme_pcie_list(h->found, HOTPLUG_DEVICES);
    return 0;
}

static void looked(struct plx_aio *aio)
{
    struct remote_hotplug *h = plx_container_of(aio, struct remote_hotplug, aio);
    struct plx_rpc *rpc = h->rpc;
    h->looking = false;
    rpc->remote_tasks--;
    if (h->enabled && !rpc->stopping) {
        if (!aio->res)
            compare(h);
        plx_timer_set(rpc->reactor, &h->timer, h->period_ns);
    }
    rpc_may_stop(rpc);
}

static void hotplug_due(struct plx_timer *timer)
{
    struct remote_hotplug *h = plx_container_of(timer, struct remote_hotplug, timer);
    if (h->looking)
        return;
    h->looking = true;
    h->rpc->remote_tasks++;
    h->aio = (struct plx_aio){.done = looked, .fd = -1, .op = PLX_AIO_CALL, .call = look_for_devices};
    plx_aio_submit(h->rpc->reactor, &h->aio);
}

void remote_set_hotplug(struct rpc_call *c)
{
    struct plx_rpc *rpc = c->rpc;
    struct remote_hotplug *h = rpc->hotplug = rpc->hotplug ? rpc->hotplug : calloc(1, sizeof *h);
    if (!h) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    h->rpc = rpc;
    h->timer.fn = hotplug_due;
    h->enabled = rpc_bool(c, "enable");
    h->period_ns = plx_max_u64(HOTPLUG_MIN_MS * PLX_NS_PER_MS, rpc_uint(c, "period_us") * 1000);
    plx_timer_cancel(rpc->reactor, &h->timer);
    if (h->enabled)
        plx_timer_set(rpc->reactor, &h->timer, h->period_ns);
    else
        h->nknown = 0;
    rpc_ok(c, NULL);
}

void remote_hotplug_stop(struct plx_rpc *rpc)
{
    if (rpc->hotplug)
        plx_timer_cancel(rpc->reactor, &rpc->hotplug->timer);
}
