/* SPDX-License-Identifier: BSD-3-Clause */
/* Listening sockets. */
#include "net/stream.h"

#include "base/addr.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    BACKLOG = 1024,
    ACCEPTS = 16, /* in one round */
};

static void turn_away(struct plx_listener *l)
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
    struct plx_listener *l = plx_container_of(w, struct plx_listener, watch);
    for (int i = 0; i < ACCEPTS && w->fd >= 0; i++) {
        int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            l->accepted(l, fd);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE)
            turn_away(l);
        return;
    }
}

static void listener_init(struct plx_listener *l, int fd)
{
    l->reserve_fd = l->lock_fd = -1;
    l->reactor = NULL;
    l->path = NULL;
    l->watch.ready = accept_some;
    l->watch.fd = fd;
}

int plx_listener_bind(struct plx_listener *l, struct sockaddr_storage *at)
{
    int one = 1, fd = socket(at->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof *at;
    listener_init(l, fd);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (at->ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    /* Listening begins later, and fails then for the second of two processes: SO_REUSEADDR lets both bind. */
    if (bind(fd, (const struct sockaddr *)at, plx_addr_len(at)) < 0 ||
        getsockname(fd, (struct sockaddr *)at, &len) < 0) {
        int ret = -errno;
        close(fd);
        l->watch.fd = -1;
        return ret;
    }
    return 0;
}

/* ---- local sockets ---- */

/*
 * Takes the lock that goes with a path. Whoever removes it holds it meanwhile; so one that was locked, and is not what
 * stands there any more, is nobody's. @return a descriptor or -errno
 */
static int take_lock(const char *path)
{
    for (;;) {
        struct stat ours, there;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            int ret = -errno;
            close(fd);
            return ret;
        }
        if (fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_dev == there.st_dev &&
            ours.st_ino == there.st_ino)
            return fd;
        close(fd);
    }
}

/* Others may connect from here on: the group first, as the mode is for whichever group it has. */
static int give_to_group(const char *path, gid_t group, struct plx_error *err)
{
    if (lchown(path, (uid_t)-1, group) == 0 && chmod(path, 0660) == 0)
        return 0;
    int ret = -errno;
    unlink(path);
    return plx_fail(err, ret, "%s cannot be given to group %lu: %s", path, (unsigned long)group, strerror(-ret));
}

/* With the lock held. */
static int bind_locked(struct plx_listener *l, const char *path, const struct sockaddr_un *at, const gid_t *group,
                       struct plx_error *err)
{
    struct stat there;
    if (lstat(path, &there) == 0 && !S_ISSOCK(there.st_mode))
        return plx_fail(err, -EEXIST, "%s is there and no socket; choose another path", path);
    unlink(path); /* of one that died */
    /* The mode is the file's from its beginning: nobody slips in between. */
    if (fchmod(l->watch.fd, 0600) < 0 || bind(l->watch.fd, (const struct sockaddr *)at, sizeof *at) < 0)
        return plx_fail(err, -errno, "cannot listen at %s: %s", path, strerror(errno));
    int ret = group ? give_to_group(path, *group, err) : 0;
    if (ret)
        return ret;
    const size_t size = strlen(path) + 1;
    l->path = malloc(size);
    if (!l->path) {
        unlink(path);
        return plx_fail(err, -ENOMEM, "out of memory");
    }
    memcpy(l->path, path, size);
    return 0;
}

static int bind_path(struct plx_listener *l, const char *path, const struct sockaddr_un *at, const gid_t *group,
                     struct plx_error *err)
{
    char lock[sizeof at->sun_path + 8];
    snprintf(lock, sizeof lock, "%s.lock", path);
    l->lock_fd = take_lock(lock);
    if (l->lock_fd == -EWOULDBLOCK)
        return plx_fail(err, -EBUSY, "another process listens at %s already; choose another path, or stop it", path);
    if (l->lock_fd < 0)
        return plx_fail(err, l->lock_fd, "cannot make %s: %s; a socket's directory is one that can be written to", lock,
                        strerror(-l->lock_fd));
    int ret = bind_locked(l, path, at, group, err);
    if (ret)
        unlink(lock);
    return ret;
}

int plx_listener_bind_path(struct plx_listener *l, const char *path, const gid_t *group, struct plx_error *err)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    listener_init(l, -1);
    if (!len || len >= sizeof at.sun_path)
        return plx_fail(err, -ENAMETOOLONG, "the path of a socket has 1 to %zu bytes: %.100s", sizeof at.sun_path - 1,
                        path);
    memcpy(at.sun_path, path, len);
    l->watch.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int ret = l->watch.fd < 0 ? plx_fail(err, -errno, "cannot make a socket: %s", strerror(errno))
                              : bind_path(l, path, &at, group, err);
    if (ret)
        plx_listener_close(l);
    return ret;
}

static void remove_path(struct plx_listener *l)
{
    char lock[sizeof(struct sockaddr_un) + 8];
    snprintf(lock, sizeof lock, "%s.lock", l->path);
    unlink(l->path);
    unlink(lock);
    free(l->path);
    l->path = NULL;
}

int plx_listener_accept(struct plx_listener *l, struct plx_reactor *r)
{
    int ret = listen(l->watch.fd, BACKLOG) < 0 ? -errno : plx_watch_add(r, &l->watch);
    if (ret)
        return ret;
    l->reactor = r;
    l->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return 0;
}

void plx_listener_close(struct plx_listener *l)
{
    if (l->reactor)
        plx_watch_remove(l->reactor, &l->watch);
    if (l->watch.fd >= 0)
        close(l->watch.fd);
    if (l->reserve_fd >= 0)
        close(l->reserve_fd);
    if (l->path)
        remove_path(l);
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    l->reactor = NULL;
    l->watch.fd = l->reserve_fd = l->lock_fd = -1;
}

/* Connecting a datagram socket sends nothing, but the kernel looks at the address. @return the socket, or -errno */
static int ask_kernel(const struct sockaddr_storage *to)
{
    int fd = socket(to->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)to, plx_addr_len(to)) == 0)
        return fd < 0 ? -errno : fd;
    int ret = -errno;
    close(fd);
    return ret;
}

/* The kernel chooses the address that it would send from to one that is for documentation (RFC 5737, RFC 3849). */
void plx_net_own_addr(int family, struct sockaddr_storage *out)
{
    socklen_t len = sizeof *out;
    bool v6 = family == AF_INET6;
    int fd = plx_addr_parse(v6 ? "2001:db8::1" : "192.0.2.1", 9, out, NULL) ? -1 : ask_kernel(out);
    bool known = fd >= 0 && getsockname(fd, (struct sockaddr *)out, &len) == 0;
    if (fd >= 0)
        close(fd);
    if (!known)
        plx_addr_parse(v6 ? "::1" : "127.0.0.1", 0, out, NULL);
}

/* Which addresses are a network's broadcast address only the kernel knows: it lets nobody connect there unasked. */
bool plx_net_is_broadcast(const struct sockaddr_storage *at)
{
    int fd = at->ss_family == AF_INET ? ask_kernel(at) : -1;
    if (fd >= 0)
        close(fd);
    return fd == -EACCES;
}
