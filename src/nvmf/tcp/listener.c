/* SPDX-License-Identifier: BSD-3-Clause */
/* Listening sockets: watched by the control reactor, which deals new connections out to the reactors in turn. */
#include "nvmf/tcp/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BACKLOG = 1024,
    ACCEPTS = 16, /* in one round */
};

struct tcp_listener {
    struct plx_nvmf_listener at;
    struct plx_watch watch;
    int reserve_fd; /* given up for a moment when there are no descriptors left, to turn a peer away */
};

static struct tcp_listener *listener_of(struct plx_nvmf_listener *at)
{
    return plx_container_of(at, struct tcp_listener, at);
}

static void adopt_here(struct plx_msg *msg)
{
    struct tcp_conn *c = plx_container_of(msg, struct tcp_conn, msg);
    tcp_conn_adopt(c->group, c);
}

static void turn_away(struct tcp_listener *l)
{
    close(l->reserve_fd);
    int fd = accept(l->watch.fd, NULL, NULL);
    if (fd >= 0)
        close(fd);
    l->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    plx_warn("no file descriptors are left for more connections; raise LimitNOFILE= or ulimit -n");
}

static void accept_some(struct plx_watch *w)
{
    struct tcp_listener *l = plx_container_of(w, struct tcp_listener, watch);
    struct plx_nvmf_target *t = l->at.target;
    for (int i = 0; i < ACCEPTS; i++) {
        int fd = accept4(l->watch.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE)
                turn_away(l);
            return;
        }
        if (atomic_load(&t->connections) >= t->opts.max_connections) {
            plx_warn("a connection is turned away: there are %u already", t->opts.max_connections);
            close(fd);
            continue;
        }
        struct tcp_conn *c = tcp_conn_create(t, fd);
        if (!c) {
            close(fd);
            continue;
        }
        atomic_fetch_add(&t->connections, 1);
        unsigned to = t->next_group++ % t->nreactors;
        c->group = t->groups[to].transport;
        c->msg.fn = adopt_here;
        plx_reactor_send(t->reactors[to], &c->msg);
    }
}

/* Which addresses are a network's broadcast address only the kernel knows: it lets nobody connect there unasked. */
static bool is_broadcast(const struct sockaddr_storage *ss)
{
    int fd = ss->ss_family == AF_INET ? socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    if (fd < 0)
        return false;
    bool broadcast = connect(fd, (const struct sockaddr *)ss, plx_addr_len(ss)) < 0 && errno == EACCES;
    close(fd);
    return broadcast;
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

static int open_socket(const struct sockaddr_storage *ss)
{
    int one = 1, fd = socket(ss->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (ss->ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    /* Listening only begins with the target; but two processes cannot both bind. */
    if (bind(fd, (const struct sockaddr *)ss, plx_addr_len(ss)) < 0) {
        int ret = -errno;
        close(fd);
        return ret;
    }
    return fd;
}

/*
 * Where hosts reach a wildcard: connecting a datagram socket sends nothing, but has the kernel choose the address that
 * it would send from.
 */
static void find_reach(struct plx_nvmf_listener *at)
{
    bool v6 = at->family == AF_INET6;
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    int fd = at->wildcard ? socket(at->family, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    snprintf(at->reach, sizeof at->reach, "%s", !at->wildcard ? at->addr : v6 ? "::1" : "127.0.0.1");
    if (fd < 0)
        return;
    if (plx_addr_parse(v6 ? "2001:db8::1" : "192.0.2.1", 9, &ss, NULL) == 0 &&
        connect(fd, (struct sockaddr *)&ss, plx_addr_len(&ss)) == 0 &&
        getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
        plx_addr_host(&ss, at->reach);
    close(fd);
}

/* A socket that is bound there. */
static int bind_to(const struct plx_nvmf_target *t, const struct sockaddr_storage *ss, struct plx_error *err)
{
    char text[PLX_ADDR_TEXT];
    const struct plx_nvmf_listener *same = find_same(t, ss);
    plx_addr_format(ss, text);
    if (same)
        return plx_fail(err, -EEXIST, "there is a listener at %s port %u already, so none can be at %s", same->addr,
                        same->port, text);
    if (is_broadcast(ss))
        return plx_fail(err, -EINVAL, "%s is a broadcast address, and not that of a machine", text);
    int fd = open_socket(ss);
    return fd >= 0 ? fd
                   : plx_fail(err, fd, "cannot listen on %s: %s%s", text, strerror(-fd),
                              fd == -EADDRINUSE      ? "; another process does, choose another port"
                              : fd == -EADDRNOTAVAIL ? "; this machine does not have that address"
                                                     : "");
}

static int tcp_listen(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_nvmf_listener **out,
                      struct plx_error *err)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    int ret = plx_parse_addr(addr, port, &ss, err), fd = ret ? ret : bind_to(t, &ss, err);
    if (fd < 0)
        return fd;
    struct tcp_listener *l = calloc(1, sizeof *l);
    if (!l) {
        close(fd);
        return plx_fail(err, -ENOMEM, "out of memory");
    }
    getsockname(fd, (struct sockaddr *)&ss, &len);
    plx_addr_host(&ss, l->at.addr);
    l->at.port = plx_addr_port(&ss);
    l->at.family = ss.ss_family;
    l->at.wildcard = plx_addr_any(&ss);
    l->reserve_fd = -1;
    l->watch.fd = fd;
    l->watch.ready = accept_some;
    find_reach(&l->at);
    *out = &l->at;
    return 0;
}

static int tcp_accept(struct plx_nvmf_listener *at)
{
    struct tcp_listener *l = listener_of(at);
    int ret = listen(l->watch.fd, BACKLOG) < 0 ? -errno : plx_watch_add(nvmf_control_reactor(at->target), &l->watch);
    if (!ret)
        l->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return ret;
}

static void tcp_deafen(struct plx_nvmf_listener *at)
{
    struct tcp_listener *l = listener_of(at);
    plx_watch_remove(nvmf_control_reactor(at->target), &l->watch);
    close(l->watch.fd); /* what was not accepted yet is refused, and the port is free at once */
    l->watch.fd = -1;
}

static void tcp_free_listener(struct plx_nvmf_listener *at)
{
    struct tcp_listener *l = listener_of(at);
    if (l->watch.fd >= 0)
        close(l->watch.fd);
    if (l->reserve_fd >= 0)
        close(l->reserve_fd);
    free(l);
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
    .local_addr = tcp_local_addr,
};
