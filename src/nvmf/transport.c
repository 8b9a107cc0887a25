/* SPDX-License-Identifier: BSD-3-Clause */
/* Transports, the addresses that they listen at, and those of other targets that hosts are referred to. */
#include "nvmf/nvmf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct plx_nvmf_listener *listener_of(struct plx_list *link)
{
    return plx_list_entry(link, struct plx_nvmf_listener, link);
}

/* Handed out in turn: a connection may outlive the listener that it came by, but for a moment only. */
static uint16_t free_portid(struct plx_nvmf_target *t)
{
    for (bool taken = true; taken;) {
        taken = ++t->last_portid == 0;
        plx_list_for_each(it, &t->listeners) {
            taken = taken || listener_of(it)->portid == t->last_portid;
        }
    }
    return t->last_portid;
}

int plx_nvmf_listen(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_nvmf_listener **out,
                    struct plx_error *err)
{
    struct plx_nvmf_listener *l;
    int ret = t->transport->listen(t, addr, port, &l, err);
    if (ret)
        return ret;
    nvmf_assert_control(t);
    l->target = t;
    l->portid = free_portid(t);
    t->discovery_changed = true;
    plx_list_add_tail(&t->listeners, &l->link);
    if (out)
        *out = l;
    return 0;
}

const char *plx_nvmf_listener_addr(const struct plx_nvmf_listener *l)
{
    return l->addr;
}

const char *plx_nvmf_listener_reach(const struct plx_nvmf_listener *l, char *out, size_t size)
{
    snprintf(out, size, "%s", l->reach);
    return out;
}

uint16_t plx_nvmf_listener_port(const struct plx_nvmf_listener *l)
{
    return l->port;
}

void plx_nvmf_listener_remove(struct plx_nvmf_listener *l)
{
    struct plx_nvmf_target *t = l->target;
    nvmf_assert_control(t);
    t->discovery_changed = true;
    nvmf_subsystems_forget_port(t, l->portid);
    plx_list_del(&l->link);
    plx_list_add_tail(&t->removed_listeners, &l->link);
}

void nvmf_listeners_start(struct plx_nvmf_target *t, bool all, int *result)
{
    plx_list_for_each_safe(it, &t->listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        if (l->listening)
            continue;
        int ret = t->transport->accept(l);
        l->listening = !ret;
        if (!ret)
            continue;
        plx_error("cannot listen on %s port %u: %s%s", l->addr, l->port, strerror(-ret),
                  ret == -EADDRINUSE ? "; another process does, choose another port" : "");
        *result = *result ? *result : ret;
        if (all) {
            nvmf_listeners_stop(t);
            return;
        }
        plx_nvmf_listener_remove(l);
        nvmf_apply_unasked(t); /* the discovery log has it already */
    }
}

static void free_all(struct plx_list *listeners)
{
    plx_list_for_each_safe(it, listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        plx_list_del(it);
        l->target->transport->free_listener(l);
    }
}

void nvmf_listeners_stop(struct plx_nvmf_target *t)
{
    free_all(&t->removed_listeners);
    plx_list_for_each(it, &t->listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        if (l->listening)
            t->transport->deafen(l);
        l->listening = false;
    }
}

void nvmf_listeners_reap(struct plx_nvmf_target *t)
{
    free_all(&t->apply.listeners);
}

void nvmf_listeners_free(struct plx_nvmf_target *t)
{
    free_all(&t->apply.listeners);
    free_all(&t->removed_listeners);
    free_all(&t->listeners);
}

/* ---- referrals ---- */

static struct nvmf_where *find_referral(const struct plx_nvmf_target *t, const struct nvmf_where *w)
{
    for (unsigned i = 0; i < t->nreferrals; i++)
        if (t->referrals[i].port == w->port && strcmp(t->referrals[i].addr, w->addr) == 0)
            return &t->referrals[i];
    return NULL;
}

static int parse_where(const char *addr, uint16_t port, struct nvmf_where *w, struct plx_error *err)
{
    struct sockaddr_storage ss;
    int ret = plx_parse_addr(addr, port, &ss, err);
    if (ret)
        return ret;
    plx_addr_host(&ss, w->addr);
    w->addr[strcspn(w->addr, "%")] = 0; /* our own name for a link says nothing to others */
    w->port = plx_addr_port(&ss);
    w->family = ss.ss_family;
    return w->port ? 0 : plx_fail(err, -EINVAL, "%s: a port to refer to is a number from 1 to 65535", addr);
}

int plx_nvmf_referral_add(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_error *err)
{
    struct nvmf_where w = {0};
    nvmf_assert_control(t);
    int ret = parse_where(addr, port, &w, err);
    if (ret)
        return ret;
    if (find_referral(t, &w))
        return plx_fail(err, -EEXIST, "hosts are referred to %s port %u already", w.addr, w.port);
    struct nvmf_where *referrals = realloc(t->referrals, (t->nreferrals + 1) * sizeof *referrals);
    if (!referrals)
        return plx_fail(err, -ENOMEM, "out of memory");
    t->referrals = referrals;
    referrals[t->nreferrals++] = w;
    t->discovery_changed = true;
    return 0;
}

int plx_nvmf_referral_remove(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_error *err)
{
    struct nvmf_where w = {0}, *found;
    nvmf_assert_control(t);
    int ret = parse_where(addr, port, &w, err);
    if (ret)
        return ret;
    found = find_referral(t, &w);
    if (!found)
        return plx_fail(err, -ENOENT, "hosts are not referred to %s port %u", w.addr, w.port);
    *found = t->referrals[--t->nreferrals];
    t->discovery_changed = true;
    return 0;
}
