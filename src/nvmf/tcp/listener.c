/* SPDX-License-Identifier: BSD-3-Clause */
/* Listeners: accept on the control reactor, which deals new connections out. */
#include "nvmf/tcp/tcp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tcp_listener {
    struct plx_nvmf_listener at;
    struct plx_listener socket;
};

static struct tcp_listener *tcp_listener_of(struct plx_nvmf_listener *at)
{
    return plx_container_of(at, struct tcp_listener, at);
}

static void adopt_here(struct plx_msg *msg)
{
    struct tcp_conn *c = plx_container_of(msg, struct tcp_conn, msg);
    tcp_conn_adopt(c->group, c);
}

static void accepted(struct plx_listener *socket, int fd)
{
    const struct plx_nvmf_listener *at = &plx_container_of(socket, struct tcp_listener, socket)->at;
    struct plx_nvmf_target *t = at->target;
    bool full = atomic_load(&t->connections) >= t->opts.max_connections;
    struct tcp_conn *c = full ? NULL : tcp_conn_create(t);
    if (full)
        plx_warn("a connection is turned away: there are %u already", t->opts.max_connections);
    if (!c) {
        close(fd);
        return;
    }
    plx_stream_socket(&c->stream, fd);
    c->qp.portid = at->portid;
    enum plx_nvmf_placed why;
    unsigned napi;
    plx_stream_incoming(&c->stream, &c->qp.incoming_cpu, &napi);
    const unsigned to = tcp_place(t, c->qp.incoming_cpu, napi, &why);
    c->qp.placed = (uint8_t)why;
    atomic_fetch_add(&t->connections, 1);
    atomic_fetch_add_explicit(&t->groups[to].connections, 1, memory_order_relaxed);
    c->group = t->groups[to].transport;
    c->msg.fn = adopt_here;
    plx_reactor_send(t->reactors[to], &c->msg);
}

/* The listener that takes connections to this address already, or NULL. */
static const struct plx_nvmf_listener *find_same(const struct plx_nvmf_target *t, const struct sockaddr_storage *ss)
{
    char host[PLX_ADDR_TEXT];
    plx_addr_host(ss, host);
    plx_list_for_each(it, &t->listeners) {
        const struct plx_nvmf_listener *l = plx_list_entry(it, struct plx_nvmf_listener, link);
        if (l->port == plx_addr_port(ss) && l->family == ss->ss_family &&
            (l->wildcard || plx_addr_any(ss) || strcmp(l->addr, host) == 0))
            return l;
    }
    return NULL;
}

static int bind_to(struct tcp_listener *l, const struct plx_nvmf_target *t, struct sockaddr_storage *ss,
                   struct plx_error *err)
{
    char text[PLX_ADDR_TEXT];
    const struct plx_nvmf_listener *same = find_same(t, ss);
    plx_addr_format(ss, text);
    if (same)
        return plx_fail(err, -EEXIST, "there is a listener at %s port %u already, so none can be at %s", same->addr,
                        same->port, text);
    if (plx_net_is_broadcast(ss))
        return plx_fail(err, -EINVAL, "%s is a broadcast address, and not that of a machine", text);
    int ret = plx_listener_bind(&l->socket, ss);
    return !ret ? 0
                : plx_fail(err, ret, "cannot listen on %s: %s%s", text, strerror(-ret),
                           ret == -EADDRINUSE      ? "; another process does, choose another port"
                           : ret == -EADDRNOTAVAIL ? "; this machine does not have that address"
                                                   : "");
}

static int tcp_listen(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_nvmf_listener **out,
                      struct plx_error *err)
{
    struct sockaddr_storage ss;
    int ret = plx_parse_addr(addr, port, &ss, err);
    struct tcp_listener *l = ret ? NULL : calloc(1, sizeof *l);
    if (ret || !l)
        return ret ? ret : plx_fail(err, -ENOMEM, "out of memory");
    ret = bind_to(l, t, &ss, err);
    if (ret) {
        free(l);
        return ret;
    }
    l->socket.accepted = accepted;
    plx_addr_host(&ss, l->at.addr);
    l->at.port = plx_addr_port(&ss);
    l->at.family = ss.ss_family;
    l->at.wildcard = plx_addr_any(&ss);
    if (l->at.wildcard)
        plx_net_own_addr(l->at.family, &ss);
    plx_addr_host(&ss, l->at.reach);
    *out = &l->at;
    return 0;
}

static int tcp_accept(struct plx_nvmf_listener *at)
{
    return plx_listener_accept(&tcp_listener_of(at)->socket, nvmf_control_reactor(at->target));
}

static void tcp_deafen(struct plx_nvmf_listener *at)
{
    plx_listener_close(&tcp_listener_of(at)->socket);
}

static void tcp_free_listener(struct plx_nvmf_listener *at)
{
    plx_listener_close(&tcp_listener_of(at)->socket);
    free(tcp_listener_of(at));
}

const struct nvmf_transport nvmf_transport_tcp = {
    .trtype = NVME_TRTYPE_TCP,
    .req_prefix = offsetof(struct tcp_req, core),
    .listen = tcp_listen,
    .accept = tcp_accept,
    .deafen = tcp_deafen,
    .free_listener = tcp_free_listener,
    .group_start = tcp_group_start,
    .group_stop = tcp_group_stop,
    .group_free = tcp_group_free,
    .complete = tcp_tx_complete,
    .abort = tcp_abort,
    .kill = tcp_kill,
    .stage = tcp_stage,
    .local_addr = tcp_local_addr,
};
