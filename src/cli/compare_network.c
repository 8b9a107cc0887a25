/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `pollux compare --network namespaces`: two network namespaces of the run's own, joined by a pair of virtual NICs, the
 * target in one and the host in the other.
 *
 * They have no name. A process of ours makes them, and is gone once we have them open; they, and the NICs, last as long
 * as somebody has them open, lives in them, or has a socket there. So nothing has to be taken down, whatever ends us;
 * but for the kernel's target and host, whose sockets go when they are taken down.
 */
#include "compare.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NIC "pollux0" /* in both */
#define NETMASK "255.255.255.0"

/* For documentation (RFC 5737), and nobody else's in there. */
static const char *const addresses[COMPARE_ENDS] = {"192.0.2.1", "192.0.2.2"};

struct compare_network {
    int user; /* the namespace of users that the others are in, or -1: root needs none */
    int net[COMPARE_ENDS], own;
};

/* ---- in the process that makes them ---- */

/* What it says; descriptors are its own. */
struct made {
    int ret;
    char what[64]; /* could not be done */
    int net[COMPARE_ENDS];
};

struct link_request {
    struct nlmsghdr head;
    struct ifinfomsg link;
    char attributes[256];
};

static struct rtattr *put_attribute(struct link_request *r, unsigned short type, const void *data, size_t size)
{
    struct rtattr *a = (struct rtattr *)(void *)((char *)r + NLMSG_ALIGN(r->head.nlmsg_len));
    a->rta_type = type;
    a->rta_len = (unsigned short)RTA_LENGTH(size);
    if (size)
        memcpy(RTA_DATA(a), data, size);
    r->head.nlmsg_len = (uint32_t)(NLMSG_ALIGN(r->head.nlmsg_len) + RTA_ALIGN(a->rta_len));
    return a;
}

/* What follows it is in it, up to here. */
static void end_attribute(const struct link_request *r, struct rtattr *a)
{
    a->rta_len = (unsigned short)((const char *)r + r->head.nlmsg_len - (const char *)a);
}

/* A NIC here, and its peer in the other namespace (rtnetlink(7)). @return 0 or a negative errno value */
static int make_pair(int other)
{
    struct link_request r = {.head = {.nlmsg_len = NLMSG_LENGTH(sizeof r.link),
                                      .nlmsg_type = RTM_NEWLINK,
                                      .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL}};
    static const struct ifinfomsg peer;
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char more[512];
    } answer;
    put_attribute(&r, IFLA_IFNAME, NIC, sizeof NIC);
    struct rtattr *info = put_attribute(&r, IFLA_LINKINFO, NULL, 0);
    put_attribute(&r, IFLA_INFO_KIND, "veth", sizeof "veth" - 1);
    struct rtattr *data = put_attribute(&r, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *at_peer = put_attribute(&r, VETH_INFO_PEER, &peer, sizeof peer);
    put_attribute(&r, IFLA_IFNAME, NIC, sizeof NIC);
    put_attribute(&r, IFLA_NET_NS_FD, &other, sizeof other);
    end_attribute(&r, at_peer);
    end_attribute(&r, data);
    end_attribute(&r, info);
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), ret = 0;
    if (fd < 0 || send(fd, &r, r.head.nlmsg_len, 0) < 0)
        ret = -errno;
    ssize_t n = ret ? 0 : recv(fd, &answer, sizeof answer, 0);
    if (!ret)
        ret = n < (ssize_t)NLMSG_LENGTH(sizeof answer.error) || answer.head.nlmsg_type != NLMSG_ERROR
                  ? -EPROTO
                  : answer.error.error;
    if (fd >= 0)
        close(fd);
    return ret;
}

static int nic_ioctl(int fd, unsigned long number, struct ifreq *request)
{
    return ioctl(fd, number, request) < 0 ? -errno : 0;
}

static void request_addr(struct ifreq *request, const char *text)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    inet_pton(AF_INET, text, &addr.sin_addr);
    memcpy(&request->ifr_addr, &addr, sizeof addr);
}

/* @param fd a socket of the namespace */
static int set_up_nic(int fd, const char *addr, unsigned mtu)
{
    struct ifreq request = {.ifr_name = NIC};
    request_addr(&request, addr);
    int ret = nic_ioctl(fd, SIOCSIFADDR, &request);
    request_addr(&request, NETMASK);
    if (!ret)
        ret = nic_ioctl(fd, SIOCSIFNETMASK, &request);
    request.ifr_mtu = (int)mtu;
    if (!ret)
        ret = nic_ioctl(fd, SIOCSIFMTU, &request);
    request.ifr_flags = IFF_UP;
    return ret ? ret : nic_ioctl(fd, SIOCSIFFLAGS, &request);
}

static int failed_to(struct made *m, int ret, const char *what)
{
    if (ret) {
        m->ret = ret;
        snprintf(m->what, sizeof m->what, "%s", what);
    }
    return ret;
}

/* Who is not root can make them in a namespace of users, where the kernel lets him; he is there whom he is here. */
static int become_able(struct made *m)
{
    char map[32];
    int n = snprintf(map, sizeof map, "%u %u 1", geteuid(), geteuid());
    if (geteuid() == 0)
        return 0;
    if (unshare(CLONE_NEWUSER) < 0)
        return failed_to(m, -errno, "it takes root, or a kernel that lets users have namespaces");
    int fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
    int ret = fd < 0 || write(fd, map, (size_t)n) != n ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return failed_to(m, ret, "/proc/self/uid_map cannot be written");
}

static void make_namespaces(unsigned mtu, struct made *m)
{
    int sockets[COMPARE_ENDS];
    if (become_able(m))
        return;
    for (int i = 0; i < COMPARE_ENDS; i++) {
        if (failed_to(m, unshare(CLONE_NEWNET) < 0 ? -errno : 0, "no namespace can be made, which takes CAP_SYS_ADMIN"))
            return;
        m->net[i] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        sockets[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (failed_to(m, m->net[i] < 0 || sockets[i] < 0 ? -errno : 0, "a namespace cannot be used"))
            return;
    }
    if (failed_to(m, make_pair(m->net[0]), "no pair of virtual NICs (veth) can be made"))
        return;
    for (int i = 0; i < COMPARE_ENDS; i++)
        if (failed_to(m, set_up_nic(sockets[i], addresses[i], mtu), "a virtual NIC cannot be set up"))
            return;
}

/* It lasts until we have all open. */
_Noreturn static void run_maker(unsigned mtu, int to, int until)
{
    char c;
    struct made m = {.ret = 0};
    make_namespaces(mtu, &m);
    if (write(to, &m, sizeof m) == sizeof m)
        while (read(until, &c, 1) < 0 && errno == EINTR) {
        }
    _exit(EXIT_OK);
}

/* ---- here ---- */

static int open_of(pid_t pid, const char *fmt, int n)
{
    char name[32], path[64];
    snprintf(name, sizeof name, fmt, n);
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static int take_over(struct compare_network *n, pid_t pid, const struct made *m)
{
    n->own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    n->user = geteuid() ? open_of(pid, "ns/user", 0) : -1;
    bool good = n->own >= 0 && (geteuid() == 0 || n->user >= 0);
    for (int i = 0; good && i < COMPARE_ENDS; i++) {
        n->net[i] = open_of(pid, "fd/%d", m->net[i]);
        good = n->net[i] >= 0;
    }
    return good ? 0 : -errno;
}

static ssize_t read_made(int from, struct made *m)
{
    ssize_t n;
    while ((n = read(from, m, sizeof *m)) < 0 && errno == EINTR) {
    }
    return n;
}

static int make_and_take_over(struct compare_network *n, unsigned mtu, struct made *m)
{
    int says[2], until[2], ret = 0;
    if (pipe2(says, O_CLOEXEC) < 0)
        return -errno;
    if (pipe2(until, O_CLOEXEC) < 0) {
        ret = -errno;
        close(says[0]);
        close(says[1]);
        return ret;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(until[1]);
        run_maker(mtu, says[1], until[0]);
    }
    close(says[1]);
    close(until[0]);
    if (pid < 0)
        ret = -EAGAIN;
    else if (read_made(says[0], m) != sizeof *m)
        ret = -EIO;
    else
        ret = m->ret ? m->ret : take_over(n, pid, m);
    close(says[0]);
    close(until[1]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return ret;
}

int compare_network_open(unsigned mtu, struct compare_network **out, struct plx_error *err)
{
    struct made m = {.what = "they cannot be made"};
    struct compare_network *n = malloc(sizeof *n);
    if (!n)
        return plx_fail(err, -ENOMEM, "out of memory");
    *n = (struct compare_network){.user = -1, .net = {-1, -1}, .own = -1};
    fflush(NULL);
    int ret = make_and_take_over(n, mtu, &m);
    if (ret) {
        compare_network_close(n);
        return plx_fail(err, ret, "--network namespaces: %s: %s", m.what, strerror(-ret));
    }
    *out = n;
    return 0;
}

void compare_network_close(struct compare_network *n)
{
    if (!n)
        return;
    const int fds[] = {n->user, n->net[0], n->net[1], n->own};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(n);
}

const char *compare_network_addr(const struct compare_network *n)
{
    return n ? addresses[COMPARE_END_TARGET] : "127.0.0.1";
}

int compare_network_enter(const struct compare_network *n, enum compare_end end)
{
    if (n && n->user >= 0 && setns(n->user, CLONE_NEWUSER) < 0)
        return -errno;
    return n && setns(n->net[end], CLONE_NEWNET) < 0 ? -errno : 0;
}

int compare_network_leave(const struct compare_network *n)
{
    return n && setns(n->own, CLONE_NEWNET) < 0 ? -errno : 0;
}

int compare_network_mtu(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    int ret = nic_ioctl(fd, SIOCGIFMTU, &request);
    close(fd);
    return ret ? 0 : request.ifr_mtu;
}
