/* SPDX-License-Identifier: BSD-3-Clause */
/* Transports, the addresses that they listen at, and those of other targets that hosts are referred to. */
#include "nvmf/nvmf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct nvmf_transport *const nvmf_transports[] = {&nvmf_transport_tcp, NULL};

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
        plx_error("cannot listen on %s port %u: %s", l->addr, l->port, strerror(-ret));
        *result = *result ? *result : ret;
        if (all) {
            nvmf_listeners_stop(t);
            return;
        }
        plx_nvmf_listener_remove(l);
    }
}

void nvmf_listeners_stop(struct plx_nvmf_target *t)
{
    plx_list_for_each(it, &t->listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        if (l->listening)
            t->transport->deafen(l);
        l->listening = false;
    }
}

static void free_all(struct plx_list *listeners)
{
    plx_list_for_each_safe(it, listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        if (l->listening)
            l->target->transport->deafen(l);
        plx_list_del(it);
        l->target->transport->free_listener(l);
    }
}

void nvmf_listeners_reap(struct plx_nvmf_target *t)
{
    free_all(&t->removed_listeners);
}

void nvmf_listeners_free(struct plx_nvmf_target *t)
{
    free_all(&t->removed_listeners);
    free_all(&t->listeners);
}

/* ---- referrals ---- */

static struct nvmf_where *find_referral(const struct plx_nvmf_target *t, const char *addr, uint16_t port)
{
    for (unsigned i = 0; i < t->nreferrals; i++)
        if (t->referrals[i].port == port && strcmp(t->referrals[i].addr, addr) == 0)
            return &t->referrals[i];
    return NULL;
}

int plx_nvmf_referral_add(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_error *err)
{
    uint8_t ignored[16];
    struct nvmf_where w = {.port = port, .family = strchr(addr, ':') ? AF_INET6 : AF_INET};
    nvmf_assert_control(t);
    if (!port || inet_pton(w.family, addr, ignored) != 1)
        return plx_fail(err, -EINVAL,
                        "%s port %u is not a numeric IPv4 or IPv6 address and a port, such as 192.0.2.1 "
                        "port 8009",
                        addr, port);
    if (find_referral(t, addr, port))
        return plx_fail(err, -EEXIST, "hosts are referred to %s port %u already", addr, port);
    struct nvmf_where *referrals = realloc(t->referrals, (t->nreferrals + 1) * sizeof *referrals);
    if (!referrals)
        return plx_fail(err, -ENOMEM, "out of memory");
    snprintf(w.addr, sizeof w.addr, "%s", addr);
    t->referrals = referrals;
    referrals[t->nreferrals++] = w;
    t->discovery_changed = true;
    return 0;
}

int plx_nvmf_referral_remove(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_error *err)
{
    struct nvmf_where *w = find_referral(t, addr, port);
    nvmf_assert_control(t);
    if (!w)
        return plx_fail(err, -ENOENT, "hosts are not referred to %s port %u", addr, port);
    *w = t->referrals[--t->nreferrals];
    t->discovery_changed = true;
    return 0;
}
