/* SPDX-License-Identifier: BSD-3-Clause */
/* Of a pool: who waits, and who is still at it. */
#include "pool.h"

static void wait_over(struct plx_msg *msg)
{
    struct pool_wait *w = plx_container_of(msg, struct pool_wait, msg);
    w->again(w);
}

void pool_wake_one(struct pool_wait *w, uint16_t status)
{
    w->status = status;
    w->msg.fn = wait_over;
    plx_reactor_send(w->reactor, &w->msg);
}

void pool_wake(struct plx_list *waits, uint16_t status)
{
    while (!plx_list_empty(waits)) {
        struct pool_wait *w = plx_list_entry(waits->next, struct pool_wait, link);
        plx_list_del(&w->link);
        pool_wake_one(w, status);
    }
}

void pool_try_end(struct plx_pool *p, struct pool_try *t)
{
    pool_unlock(p);
    if (plx_unlikely(t->load != NULL))
        pool_node_load(p, t->load, t->ch);
    if (plx_unlikely(t->region != NULL))
        pool_region_load(p, t->region, t->ch);
    if (plx_unlikely(t->kick))
        pool_kick(p);
}

/* ---- grace: what is under way now has ended ---- */

static bool epoch_over(const struct plx_pool *p, uint64_t epoch)
{
    plx_list_for_each(it, &p->channels) {
        struct pool_channel *c = plx_list_entry(it, struct pool_channel, link);
        if (atomic_load_explicit(&c->under_way[epoch & 1], memory_order_seq_cst))
            return false;
    }
    return true;
}

void pool_channel_tell(const struct plx_pool *p, struct pool_channel *c)
{
    c->present = &c->under_way[p->epoch & 1];
    atomic_store_explicit(&c->draining, p->draining, memory_order_seq_cst);
}

static void channels_tell(struct plx_pool *p)
{
    plx_list_for_each(it, &p->channels)
        pool_channel_tell(p, plx_list_entry(it, struct pool_channel, link));
}

/*
 * Requests count for the epoch that they begin in. One epoch is waited for at a time; so when it is over, there is
 * nothing left of its parity, and the next one can have that.
 */
void pool_grace_step(struct plx_pool *p)
{
    for (;;) {
        if (p->draining) {
            if (!epoch_over(p, p->epoch - 1))
                return;
            p->draining = false;
            channels_tell(p);
            while (!plx_list_empty(&p->drained)) {
                struct pool_grace *g = plx_list_entry(p->drained.next, struct pool_grace, link);
                plx_list_del(&g->link);
                g->over(p, g);
            }
        }
        if (plx_list_empty(&p->graces))
            return;
        while (!plx_list_empty(&p->graces)) {
            struct plx_list *first = p->graces.next;
            plx_list_del(first);
            plx_list_add_tail(&p->drained, first);
        }
        p->epoch++;
        p->draining = true;
        channels_tell(p);
    }
}

void pool_grace_look(struct plx_pool *p)
{
    pool_lock(p);
    pool_grace_step(p);
    pool_unlock(p);
    if (atomic_exchange(&p->kick_after, false))
        pool_kick(p);
}

void pool_grace(struct plx_pool *p, struct pool_grace *g)
{
    plx_list_add_tail(&p->graces, &g->link);
    pool_grace_step(p);
}
