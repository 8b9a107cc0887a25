/* SPDX-License-Identifier: BSD-3-Clause */
/* Streams over TCP sockets. */
#include "net/stream.h"

#include "base/addr.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

static ssize_t result(ssize_t n)
{
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

static ssize_t socket_recv(struct plx_stream *s, const struct iovec *iov, unsigned niov)
{
    if (niov == 1)
        return result(recv(s->fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT));
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = niov};
    return result(recvmsg(s->fd, &msg, MSG_DONTWAIT));
}

static ssize_t socket_send(struct plx_stream *s, const struct iovec *iov, unsigned niov)
{
    if (niov == 1)
        return result(send(s->fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT));
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = niov};
    return result(sendmsg(s->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT));
}

static void socket_shut(struct plx_stream *s)
{
    shutdown(s->fd, SHUT_WR);
}

static void socket_close(struct plx_stream *s)
{
    close(s->fd);
}

/* Whether a connection that was begun has come to be. */
static int socket_start(struct plx_stream *s)
{
    struct pollfd p = {.fd = s->fd, .events = POLLOUT};
    int error = 0;
    socklen_t len = sizeof error;
    if (poll(&p, 1, 0) <= 0)
        return -EAGAIN;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    return -error;
}

static const struct plx_stream_ops connected_ops = {
    .recv = socket_recv, .send = socket_send, .shut = socket_shut, .close = socket_close};

static const struct plx_stream_ops connecting_ops = {
    .start = socket_start, .recv = socket_recv, .send = socket_send, .shut = socket_shut, .close = socket_close};

static void set_int(int fd, int level, int name, int value)
{
    setsockopt(fd, level, name, &value, sizeof value); /* an optimization or a precaution: not fatal */
}

void plx_stream_socket(struct plx_stream *s, int fd)
{
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* Peers that vanish without a word are noticed even where no keep-alive was agreed on. */
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, 15);
    set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
    s->fd = fd;
    s->ops = &connected_ops;
}

/* Of the same address as we are, which no packet from elsewhere has. */
static bool same_machine(const struct plx_stream *s)
{
    struct sockaddr_storage local, peer;
    char here[PLX_ADDR_TEXT], there[PLX_ADDR_TEXT];
    plx_stream_addr(s, false, &local);
    plx_stream_addr(s, true, &peer);
    if (local.ss_family == AF_UNSPEC || peer.ss_family == AF_UNSPEC)
        return true;
    plx_addr_host(&local, here);
    plx_addr_host(&peer, there);
    return strcmp(here, there) == 0 || strncmp(here, "127.", 4) == 0;
}

static int get_int(int fd, int name, int otherwise)
{
    int value;
    socklen_t len = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &len) < 0 ? otherwise : value;
}

void plx_stream_incoming(const struct plx_stream *s, int *cpu, unsigned *napi)
{
    const bool known = !same_machine(s);
    *cpu = known ? get_int(s->fd, SO_INCOMING_CPU, -1) : -1;
    *napi = known ? (unsigned)get_int(s->fd, SO_INCOMING_NAPI_ID, 0) : 0;
}

void plx_stream_addr(const struct plx_stream *s, bool peer, struct sockaddr_storage *out)
{
    socklen_t len = sizeof *out;
    int ret =
        peer ? getpeername(s->fd, (struct sockaddr *)out, &len) : getsockname(s->fd, (struct sockaddr *)out, &len);
    if (ret < 0)
        out->ss_family = AF_UNSPEC;
}

bool plx_stream_user_id(const struct plx_stream *s, uid_t *uid, pid_t *pid)
{
    struct ucred who;
    socklen_t len = sizeof who;
    if (getsockopt(s->fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
        return false;
    *uid = who.uid;
    *pid = who.pid;
    return true;
}

static int socket_connect(struct plx_stream *s, const struct sockaddr_storage *to)
{
    int fd = socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (connect(fd, (const struct sockaddr *)to, plx_addr_len(to)) < 0 && errno != EINPROGRESS) {
        int ret = -errno;
        close(fd);
        return ret;
    }
    s->fd = fd;
    s->ops = &connecting_ops;
    return 0;
}

static const struct plx_net sockets = {.connect = socket_connect};
const struct plx_net *plx_net = &sockets;
