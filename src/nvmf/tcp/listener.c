/* SPDX-License-Identifier: BSD-3-Clause */
/* Listening sockets: watched by the control reactor, which deals new connections out to the reactors in turn. */
#include "nvmf/tcp/tcp.h"

#include <arpa/inet.h>
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
        c->qp.portid = l->at.portid;
        atomic_fetch_add(&t->connections, 1);
        unsigned to = t->next_group++ % t->nreactors;
        c->group = t->groups[to].transport;
        c->msg.fn = adopt_here;
        plx_reactor_send(t->reactors[to], &c->msg);
    }
}

/* Fills in a socket address. @return its length, or 0 when the text is no numeric address */
static socklen_t parse_addr(const char *addr, uint16_t port, struct sockaddr_storage *ss, bool *wildcard)
{
    struct sockaddr_in *v4 = (void *)ss;
    struct sockaddr_in6 *v6 = (void *)ss;
    memset(ss, 0, sizeof *ss);
    if (inet_pton(AF_INET, addr, &v4->sin_addr) == 1) {
        ss->ss_family = AF_INET;
        v4->sin_port = htons(port);
        *wildcard = v4->sin_addr.s_addr == htonl(INADDR_ANY);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, addr, &v6->sin6_addr) == 1) {
        ss->ss_family = AF_INET6;
        v6->sin6_port = htons(port);
        *wildcard = IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
        return sizeof *v6;
    }
    return 0;
}

static void format_addr(const struct sockaddr_storage *ss, char *out, size_t size)
{
    const struct sockaddr_in *v4 = (const void *)ss;
    const struct sockaddr_in6 *v6 = (const void *)ss;
    inet_ntop(ss->ss_family, ss->ss_family == AF_INET ? (const void *)&v4->sin_addr : &v6->sin6_addr, out,
              (socklen_t)size);
}

static int open_socket(const struct sockaddr_storage *ss, socklen_t len)
{
    int one = 1, fd = socket(ss->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (ss->ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    /* Listening only begins with the target; but two processes cannot both bind. */
    if (bind(fd, (const struct sockaddr *)ss, len) < 0) {
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
    struct sockaddr_storage ss;
    bool ignored;
    socklen_t len = parse_addr(at->family == AF_INET6 ? "2001:db8::1" : "192.0.2.1", 9, &ss, &ignored);
    int fd = at->wildcard ? socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    snprintf(at->reach, sizeof at->reach, "%s",
             at->wildcard ? (at->family == AF_INET6 ? "::1" : "127.0.0.1") : at->addr);
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&ss, len) == 0 && getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
        format_addr(&ss, at->reach, sizeof at->reach);
    close(fd);
}

static int tcp_listen(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_nvmf_listener **out,
                      struct plx_error *err)
{
    struct sockaddr_storage ss;
    bool wildcard;
    socklen_t len = parse_addr(addr, port, &ss, &wildcard);
    (void)t;
    if (!len)
        return plx_fail(err, -EINVAL, "%s is not a numeric IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1",
                        addr);
    struct tcp_listener *l = calloc(1, sizeof *l);
    if (!l)
        return plx_fail(err, -ENOMEM, "out of memory");
    l->reserve_fd = -1;
    l->watch.fd = open_socket(&ss, len);
    if (l->watch.fd < 0) {
        int ret = l->watch.fd;
        free(l);
        return plx_fail(err, ret, "cannot listen on %s port %u: %s%s", addr, port, strerror(-ret),
                        ret == -EADDRINUSE      ? "; another process does, choose another port"
                        : ret == -EADDRNOTAVAIL ? "; this machine does not have that address"
                                                : "");
    }
    getsockname(l->watch.fd, (struct sockaddr *)&ss, &len);
    l->at.port = ntohs(ss.ss_family == AF_INET ? ((struct sockaddr_in *)&ss)->sin_port
                                               : ((struct sockaddr_in6 *)&ss)->sin6_port);
    format_addr(&ss, l->at.addr, sizeof l->at.addr);
    l->at.family = ss.ss_family;
    l->at.wildcard = wildcard;
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
