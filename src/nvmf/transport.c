/* SPDX-License-Identifier: BSD-3-Clause */
/* Transports, and the addresses that they listen at. */
#include "nvmf/nvmf.h"

#include <stdio.h>
#include <string.h>

const struct nvmf_transport *const nvmf_transports[] = {&nvmf_transport_tcp, NULL};

static struct plx_nvmf_listener *listener_of(struct plx_list *link)
{
    return plx_list_entry(link, struct plx_nvmf_listener, link);
}

int plx_nvmf_listen(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_nvmf_listener **out,
                    struct plx_error *err)
{
    struct plx_nvmf_listener *l;
    int ret = t->transport->listen(t, addr, port, &l, err);
    if (ret)
        return ret;
    l->target = t;
    l->portid = (uint16_t)(plx_list_empty(&t->listeners) ? 1 : listener_of(t->listeners.prev)->portid + 1);
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

int nvmf_listeners_start(struct plx_nvmf_target *t)
{
    plx_list_for_each(it, &t->listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        int ret = t->transport->accept(l);
        if (ret) {
            plx_error("cannot listen on %s port %u: %s", l->addr, l->port, strerror(-ret));
            nvmf_listeners_stop(t);
            return ret;
        }
        l->listening = true;
    }
    return 0;
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

void nvmf_listeners_free(struct plx_nvmf_target *t)
{
    plx_list_for_each_safe(it, &t->listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        plx_list_del(it);
        t->transport->free_listener(l);
    }
}
