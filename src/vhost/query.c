/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What goes on, for people who ask. Rings are their reactors' to look into, which do so a few at a time; meanwhile the
 * connections that they belong to stay.
 */
#include "vhost/vhost.h"

#include "reactor/fan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { QUERY_SLOTS = 2048 }; /* looked at by a reactor before others have their turn */

struct query;

/* A reactor's part. */
struct query_leg {
    struct query *query;
    struct plx_fan_leg *leg;
    struct plx_msg msg;
    unsigned at; /* of query->rings */
};

struct query_ring {
    struct vhost_ring *ring;
    bool runs;
    struct plx_vhost_ring_info info;
};

struct query {
    struct plx_fan fan;
    plx_vhost_found_fn done;
    void *arg;
    struct query_leg *legs;
    struct vhost_device **devices;
    unsigned ndevices;
    struct query_ring *rings; /* of all devices, in their order */
    unsigned nrings;
};

/* ---- on rings' reactors ---- */

/* @return slots that were looked at */
static unsigned find_oldest(const struct vhost_ring *r, struct plx_vhost_ring_info *out)
{
    const struct vhost_slot *oldest = NULL;
    unsigned i = 0;
    for (unsigned left = r->in_flight; left && i < r->size; i++) {
        const struct vhost_slot *s = &r->slots[i];
        const uint64_t age = s->busy ? plx_bdev_age(&s->req) : 0;
        left -= s->busy;
        if (age > out->oldest_ns) {
            out->oldest_ns = age;
            oldest = s;
        }
    }
    if (oldest)
        plx_bdev_where(&oldest->req, out->where, sizeof out->where);
    return i;
}

static unsigned look_into_ring(struct query_ring *q)
{
    const struct vhost_ring *r = q->ring;
    q->runs = r->is.running;
    if (!q->runs)
        return 0;
    q->info = (struct plx_vhost_ring_info){
        .index = r->index,
        .size = r->size,
        .packed = r->packed,
        .core = plx_reactor_core(r->home),
        .broken = r->why,
        .in_flight = r->in_flight,
        .requests = r->fetched,
        .kicks = r->kicks,
        .calls = r->calls,
    };
    return find_oldest(r, &q->info);
}

static void query_step(struct query_leg *l)
{
    struct query *q = l->query;
    for (unsigned looked = 0; l->at < q->nrings && looked < QUERY_SLOTS; l->at++)
        if (q->rings[l->at].ring->home == l->leg->reactor)
            looked += 1 + look_into_ring(&q->rings[l->at]);
    if (l->at < q->nrings)
        plx_reactor_send(l->leg->reactor, &l->msg);
    else
        plx_fan_answer(l->leg, 0);
}

static void query_goes_on(struct plx_msg *msg)
{
    query_step(plx_container_of(msg, struct query_leg, msg));
}

static void query_here(struct plx_fan_leg *leg)
{
    struct query *q = plx_container_of(leg->fan, struct query, fan);
    struct query_leg *l = &q->legs[leg - leg->fan->legs];
    l->query = q;
    l->leg = leg;
    l->msg.fn = query_goes_on;
    query_step(l);
}

/* ---- on the control reactor ---- */

static void vquery_free(struct query *q)
{
    for (unsigned i = 0; i < q->ndevices; i++)
        vhost_device_let_go(q->devices[i]);
    plx_fan_destroy(&q->fan);
    free(q->legs);
    free(q->devices);
    free(q->rings);
    free(q);
}

/* Those of a device's rings that run, which begin at `*at`. @return how many, which are then at `to` */
static unsigned gather_rings(const struct query *q, const struct vhost_device *d, unsigned *at,
                             struct plx_vhost_ring_info *to)
{
    unsigned n = 0;
    for (; *at < q->nrings && q->rings[*at].ring->owner == d; ++*at)
        if (q->rings[*at].runs)
            to[n++] = q->rings[*at].info;
    return n;
}

static void fill_connection(struct plx_vhost_connection_info *c, const struct vhost_device *d)
{
    const uint64_t now = plx_reactor_now(d->ctrlr->vhost->control);
    *c = (struct plx_vhost_connection_info){.ctrlr = d->ctrlr,
                                            .index = d->nexus,
                                            .pid = d->pid,
                                            .uid = d->uid,
                                            .state = d->state,
                                            .state_ns = now - d->since,
                                            .age_ns = now - d->born};
    memcpy(c->name, d->name, sizeof c->name);
    _Static_assert(sizeof c->name == sizeof d->name, "all of it");
}

static void query_answered(struct plx_fan *fan, int result)
{
    struct query *q = plx_container_of(fan, struct query, fan);
    struct plx_vhost_connection_info *found = calloc(q->ndevices + 1, sizeof *found);
    struct plx_vhost_ring_info *rings = calloc(q->nrings + 1, sizeof *rings), *to = rings;
    unsigned at = 0;
    (void)result;
    for (unsigned i = 0; found && rings && i < q->ndevices; i++) {
        fill_connection(&found[i], q->devices[i]);
        found[i].rings = to;
        found[i].nrings = gather_rings(q, q->devices[i], &at, to);
        to += found[i].nrings;
    }
    q->done(q->arg, rings ? found : NULL, found && rings ? q->ndevices : 0);
    free(rings);
    free(found);
    vquery_free(q);
}

/* Room for all devices and rings that there are. @return false without memory */
static bool query_room(const struct plx_vhost *v, struct query *q)
{
    unsigned devices = 0, rings = 0;
    plx_list_for_each(it, &v->ctrlrs) {
        plx_list_for_each(at, &plx_list_entry(it, struct plx_vhost_ctrlr, link)->devices) {
            const struct vhost_device *d = plx_list_entry(at, struct vhost_device, link);
            devices++;
            for (unsigned i = 0; i < VHOST_RINGS; i++)
                rings += d->rings[i] != NULL;
        }
    }
    q->devices = calloc(devices + 1, sizeof(struct vhost_device *));
    q->rings = calloc(rings + 1, sizeof *q->rings);
    q->legs = calloc(v->n, sizeof *q->legs);
    return q->devices && q->rings && q->legs && !plx_fan_init(&q->fan, v->control, v->reactors, v->n);
}

static void query_add(struct query *q, struct vhost_device *d)
{
    d->asked++;
    q->devices[q->ndevices++] = d;
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        if (d->rings[i])
            q->rings[q->nrings++].ring = d->rings[i];
}

int plx_vhost_query(struct plx_vhost *v, plx_vhost_found_fn done, void *arg)
{
    struct query *q = calloc(1, sizeof *q);
    if (!q)
        return -ENOMEM;
    q->done = done;
    q->arg = arg;
    if (!query_room(v, q)) {
        vquery_free(q);
        return -ENOMEM;
    }
    plx_list_for_each(it, &v->ctrlrs) {
        plx_list_for_each(at, &plx_list_entry(it, struct plx_vhost_ctrlr, link)->devices) {
            query_add(q, plx_list_entry(at, struct vhost_device, link));
        }
    }
    plx_fan_out(&q->fan, query_here, query_answered);
    return 0;
}
