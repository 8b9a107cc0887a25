/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What there is for virtual machines, and what goes on there. Members are those of SPDK, with its connections
 * ("sessions"), and ours besides.
 */
#include "rpc/table.h"
#include "rpc/vhost.h"

#include <errno.h>
#include <string.h>

struct found {
    const struct plx_vhost_connection_info *at;
    unsigned n;
};

static json_int_t to_ms(uint64_t ns)
{
    return (json_int_t)(ns / PLX_NS_PER_MS);
}

static const char *state_text(enum plx_vhost_state state)
{
    static const char *const texts[] = {
        [PLX_VHOST_WAITING] = "waiting", [PLX_VHOST_DRAINING] = "draining", [PLX_VHOST_CONNECTED] = "connected",
        [PLX_VHOST_HELD] = "held",       [PLX_VHOST_STOPPING] = "stopping", [PLX_VHOST_STARTED] = "started",
    };
    return texts[state];
}

/* ---- what is in flight, of rings, of connections, and of devices ---- */

struct in_flight {
    uint64_t n;
    const struct plx_vhost_ring_info *oldest; /* the ring of that, or NULL */
};

static void count_ring(struct in_flight *f, const struct plx_vhost_ring_info *r)
{
    f->n += r->in_flight;
    if (r->oldest_ns && (!f->oldest || r->oldest_ns > f->oldest->oldest_ns))
        f->oldest = r;
}

static void count_connection(struct in_flight *f, const struct plx_vhost_connection_info *c)
{
    for (unsigned i = 0; i < c->nrings; i++)
        count_ring(f, &c->rings[i]);
}

static void add_in_flight(json_t *o, const struct in_flight *f)
{
    json_object_set_new(o, "in_flight", json_integer((json_int_t)f->n));
    json_object_set_new(o, "oldest_ms", json_integer(f->oldest ? to_ms(f->oldest->oldest_ns) : 0));
    if (f->oldest)
        json_object_set_new(o, "oldest_where", json_string(f->oldest->where));
}

/* ---- connections ---- */

static json_t *describe_ring(const struct plx_vhost_ring_info *r)
{
    struct in_flight f = {0};
    json_t *o = json_pack("{s:i, s:i, s:s, s:i, s:I, s:I, s:I}", "index", (int)r->index, "size", (int)r->size, "layout",
                          r->packed ? "packed" : "split", "core", r->core, "requests", (json_int_t)r->requests, "kicks",
                          (json_int_t)r->kicks, "calls", (json_int_t)r->calls);
    count_ring(&f, r);
    add_in_flight(o, &f);
    if (r->broken)
        json_object_set_new(o, "broken", json_string(r->broken));
    return o;
}

static json_t *describe_session(const struct plx_vhost_connection_info *c, const struct plx_vhost_info *info)
{
    struct in_flight f = {0};
    json_t *rings = json_array();
    count_connection(&f, c);
    for (unsigned i = 0; i < c->nrings; i++)
        json_array_append_new(rings, describe_ring(&c->rings[i]));
    json_t *o = json_pack(
        "{s:i, s:i, s:s, s:b, s:i, s:I, s:s, s:I, s:I, s:i, s:I}", "vid", (int)c->index, "id", (int)c->index, "name",
        c->name, "started", c->state == PLX_VHOST_STARTED || c->state == PLX_VHOST_STOPPING, "max_queues",
        (int)info->queues, "inflight_task_cnt", (json_int_t)f.n, "state", state_text(c->state), "state_ms",
        to_ms(c->state_ns), "age_ms", to_ms(c->age_ns), "pid", (int)c->pid, "uid", (json_int_t)c->uid);
    add_in_flight(o, &f);
    json_object_set_new(o, "rings", rings);
    return o;
}

/* A device is what the connection is that has come furthest. */
static void add_sessions(json_t *o, const struct plx_vhost_ctrlr *ctrlr, const struct plx_vhost_info *info,
                         const struct found *found)
{
    struct in_flight f = {0};
    enum plx_vhost_state state = PLX_VHOST_WAITING;
    uint64_t since = info->alone_ns;
    json_t *sessions = json_array();
    for (unsigned i = 0; i < found->n; i++) {
        const struct plx_vhost_connection_info *c = &found->at[i];
        if (c->ctrlr != ctrlr)
            continue;
        count_connection(&f, c);
        json_array_append_new(sessions, describe_session(c, info));
        if (c->state < state || (c->state == state && c->state_ns < since))
            continue;
        state = c->state;
        since = c->state_ns;
    }
    json_object_set_new(o, "state", json_string(state_text(state)));
    json_object_set_new(o, "state_ms", json_integer(to_ms(since)));
    add_in_flight(o, &f);
    json_object_set_new(o, "sessions", sessions);
}

/* ---- devices ---- */

static json_t *describe_backend(const struct plx_vhost_ctrlr *ctrlr, const struct plx_vhost_info *info)
{
    if (info->scsi)
        return json_pack("{s:o}", "scsi", rpc_vhost_targets(ctrlr));
    return json_pack("{s:{s:s?, s:b, s:s, s:b, s:i, s:i, s:s}}", "block", "bdev",
                     info->bdev ? plx_bdev_info(info->bdev)->name : NULL, "readonly", (int)info->read_only, "transport",
                     "vhost_user_blk", "packed_ring", (int)info->packed, "num_queues", (int)info->queues, "queue_size",
                     (int)info->queue_size, "serial", info->serial);
}

static json_t *describe_ctrlr(const char *name, const json_t *params, const struct plx_vhost_ctrlr *ctrlr,
                              const struct found *found)
{
    struct plx_vhost_info info;
    const char *mask = rpc_str_in(params, "cpumask");
    plx_vhost_get_info(ctrlr, &info);
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:s, s:i, s:i, s:i, s:i}", "ctrlr", name, "cpumask", mask ? mask : "",
                          "delay_base_us", (json_int_t)info.delay_us, "iops_threshold", (json_int_t)info.iops_threshold,
                          "socket", info.path, "connections", (int)info.connections, "draining", (int)info.draining,
                          "rings", (int)info.rings, "broken_rings", (int)info.broken);
    add_sessions(o, ctrlr, &info, found);
    json_object_set_new(o, "backend_specific", describe_backend(ctrlr, &info));
    return o;
}

static json_t *describe_named(struct plx_rpc *rpc, const char *name, json_t *kept, const struct found *found)
{
    char path[PATH_MAX];
    const struct plx_vhost_ctrlr *ctrlr =
        rpc_vhost_path(rpc, name, path, NULL) ? NULL : plx_vhost_find(rpc->o.vhost, path);
    return ctrlr ? describe_ctrlr(name, json_object_get(kept, "create"), ctrlr, found) : NULL;
}

/* Some may have come or gone since they were asked: what there is now is told. */
static void connections_found(void *arg, const struct plx_vhost_connection_info *at, unsigned n)
{
    struct rpc_call *c = arg;
    const struct found found = {at, n};
    const char *only = rpc_str(c, "name"), *name;
    json_t *kept, *out;
    if (!at) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    out = json_array();
    json_object_foreach(c->rpc->vhost, name, kept)
    {
        json_t *one = !only || strcmp(only, name) == 0 ? describe_named(c->rpc, name, kept, &found) : NULL;
        if (one)
            json_array_append_new(out, one);
    }
    rpc_ok(c, out);
}

void rpc_vhost_list(struct rpc_call *c)
{
    const char *only = rpc_str(c, "name");
    if (!rpc_vhost_served(c) || (only && !rpc_vhost_named(c, only)))
        return;
    int ret = plx_vhost_query(c->rpc->o.vhost, connections_found, c);
    if (ret)
        rpc_fail_errno(c, ret, NULL);
}
