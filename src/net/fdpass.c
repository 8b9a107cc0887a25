/* SPDX-License-Identifier: BSD-3-Clause */
#include "net/fdpass.h"

#include "base/util.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Room for as many as can come, so that none that came is lost, and left open. */
union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(PLX_FDS_MAX * sizeof(int))];
};

/* What the kernel says of a socket that nobody has any more, it says of any file as well. */
static const char *connect_hint(const char *path, int ret)
{
    struct stat st;
    switch (ret) {
    case -ENOENT:
        return "; start the back-end first, or correct the path";
    case -ECONNREFUSED:
        return stat(path, &st) == 0 && !S_ISSOCK(st.st_mode)
                   ? "; that is no socket"
                   : "; the back-end that listened there has ended: start it again";
    case -EACCES:
        return "; the socket, or its directory, is for other users";
    default:
        return "";
    }
}

int plx_fds_connect(const char *path, struct plx_error *err)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if (!len || len >= sizeof at.sun_path)
        return plx_fail(err, -ENAMETOOLONG, "the path of a socket has 1 to %zu bytes: %.100s", sizeof at.sun_path - 1,
                        path);
    memcpy(at.sun_path, path, len);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return plx_fail(err, -errno, "cannot make a socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&at, sizeof at) == 0)
        return fd;
    int ret = -errno;
    close(fd);
    return plx_fail(err, ret, "cannot connect to %s: %s%s", path, strerror(-ret), connect_hint(path, ret));
}

int plx_fds_pair(int fds[2])
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
}

ssize_t plx_fds_send(int sock, const struct iovec *iov, unsigned niov, const int *fds, unsigned nfds)
{
    union control control;
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = niov};
    if (nfds > PLX_FDS_MAX)
        return -EINVAL;
    if (nfds) {
        memset(&control, 0, CMSG_SPACE(nfds * sizeof *fds));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof *fds);
        control.header = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(nfds * sizeof *fds)};
        memcpy(CMSG_DATA(&control.header), fds, nfds * sizeof *fds);
    }
    ssize_t n = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

/* Takes those that there is room for, and closes the others. @return how many there were */
static unsigned take_fds(const struct cmsghdr *header, int *fds, unsigned had, unsigned room)
{
    unsigned n = (unsigned)((header->cmsg_len - CMSG_LEN(0)) / sizeof *fds);
    for (unsigned i = 0; i < n; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
        if (had + i < room)
            fds[had + i] = fd;
        else
            close(fd);
    }
    return n;
}

ssize_t plx_fds_recv(int sock, const struct iovec *iov, unsigned niov, int *fds, unsigned *nfds)
{
    union control control;
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov,
                         .msg_iovlen = niov,
                         .msg_control = &control,
                         .msg_controllen = sizeof control};
    unsigned room = *nfds, had = 0;
    *nfds = 0;
    ssize_t n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            had += take_fds(c, fds, had, room);
    *nfds = (unsigned)plx_min_u64(had, room);
    return had > room || msg.msg_flags & MSG_CTRUNC ? -EMSGSIZE : n;
}
