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

struct plx_nvmf_listener {
    struct nvmf_listen_addr at;
    struct plx_watch watch;
    struct plx_nvmf_target *target;
    bool watching;
    int reserve_fd; /* given up for a moment when there are no descriptors left, to turn a peer away */
};

static struct plx_nvmf_listener *listener_of(struct plx_list *link)
{
    return plx_container_of(plx_list_entry(link, struct nvmf_listen_addr, link), struct plx_nvmf_listener, at);
}

static void adopt_here(struct plx_msg *msg)
{
    struct tcp_conn *c = plx_container_of(msg, struct tcp_conn, msg);
    tcp_conn_adopt(c->group, c);
}

static void turn_away(struct plx_nvmf_listener *l)
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
    struct plx_nvmf_listener *l = plx_container_of(w, struct plx_nvmf_listener, watch);
    struct plx_nvmf_target *t = l->target;
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
        c->group = t->groups[to].tcp;
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

int plx_nvmf_listen(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_nvmf_listener **out,
                    struct plx_error *err)
{
    struct sockaddr_storage ss;
    bool wildcard;
    socklen_t len = parse_addr(addr, port, &ss, &wildcard);
    if (!len)
        return plx_fail(err, -EINVAL, "%s is not a numeric IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1",
                        addr);
    struct plx_nvmf_listener *l = calloc(1, sizeof *l);
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
    inet_ntop(ss.ss_family,
              ss.ss_family == AF_INET ? (void *)&((struct sockaddr_in *)&ss)->sin_addr
                                      : (void *)&((struct sockaddr_in6 *)&ss)->sin6_addr,
              l->at.addr, sizeof l->at.addr);
    l->at.family = ss.ss_family;
    l->at.wildcard = wildcard;
    l->at.portid = (uint16_t)(plx_list_empty(&t->listeners)
                                  ? 1
                                  : plx_list_entry(t->listeners.prev, struct nvmf_listen_addr, link)->portid + 1);
    l->target = t;
    l->watch.ready = accept_some;
    plx_list_add_tail(&t->listeners, &l->at.link);
    if (out)
        *out = l;
    return 0;
}

const char *plx_nvmf_listener_addr(const struct plx_nvmf_listener *l)
{
    return l->at.addr;
}

/* Connecting a datagram socket sends nothing, but has the kernel choose the address that it would send from. */
const char *plx_nvmf_listener_reach(const struct plx_nvmf_listener *l, char *out, size_t size)
{
    struct sockaddr_storage ss;
    bool ignored;
    socklen_t len = parse_addr(l->at.family == AF_INET6 ? "2001:db8::1" : "192.0.2.1", 9, &ss, &ignored);
    int fd = l->at.wildcard ? socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    snprintf(out, size, "%s", l->at.wildcard ? (l->at.family == AF_INET6 ? "::1" : "127.0.0.1") : l->at.addr);
    if (fd < 0)
        return out;
    if (connect(fd, (struct sockaddr *)&ss, len) == 0 && getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
        inet_ntop(ss.ss_family,
                  ss.ss_family == AF_INET ? (void *)&((struct sockaddr_in *)&ss)->sin_addr
                                          : (void *)&((struct sockaddr_in6 *)&ss)->sin6_addr,
                  out, (socklen_t)size);
    close(fd);
    return out;
}

uint16_t plx_nvmf_listener_port(const struct plx_nvmf_listener *l)
{
    return l->at.port;
}

int nvmf_tcp_listen_start(struct plx_nvmf_target *t)
{
    plx_list_for_each(it, &t->listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        int ret = listen(l->watch.fd, BACKLOG) < 0 ? -errno : plx_watch_add(nvmf_control_reactor(t), &l->watch);
        if (ret) {
            plx_error("cannot listen on %s port %u: %s", l->at.addr, l->at.port, strerror(-ret));
            nvmf_tcp_listen_stop(t);
            return ret;
        }
        l->watching = true;
        l->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    return 0;
}

void nvmf_tcp_listen_stop(struct plx_nvmf_target *t)
{
    plx_list_for_each(it, &t->listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        if (l->watching)
            plx_watch_remove(nvmf_control_reactor(t), &l->watch);
        l->watching = false;
        if (l->watch.fd >= 0)
            close(l->watch.fd); /* what was not accepted yet is refused, and the port is free at once */
        l->watch.fd = -1;
    }
}

void nvmf_tcp_listeners_free(struct plx_nvmf_target *t)
{
    plx_list_for_each_safe(it, &t->listeners) {
        struct plx_nvmf_listener *l = listener_of(it);
        if (l->watch.fd >= 0)
            close(l->watch.fd);
        if (l->reserve_fd >= 0)
            close(l->reserve_fd);
        plx_list_del(&l->at.link);
        free(l);
    }
}
