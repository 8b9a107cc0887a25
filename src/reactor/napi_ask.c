/* SPDX-License-Identifier: BSD-3-Clause */
/* Family "netdev" of generic netlink: Documentation/netlink/specs/netdev.yaml of Linux has its numbers. */
#include "reactor/napi_ask.h"

#include "base/util.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#define FAMILY "netdev"
enum {
    NAPI_GET = 11,
    NAPI_SET = 14,
    NAPI_ID = 2,
    NAPI_DEFER_HARD_IRQS = 5,
    NAPI_GRO_FLUSH_TIMEOUT = 6,
    NAPI_IRQ_SUSPEND_TIMEOUT = 7,
    VERSION = 1,
    /* The NIC interrupts again when nobody has polled it for so long: of a reactor that lost its core, say. */
    SUSPEND_NS = PLX_NS_PER_MS,
};

struct message {
    struct nlmsghdr head;
    struct genlmsghdr generic;
    char attributes[4096];
};

static void napi_ask_begin(struct message *m, uint16_t family, uint8_t command)
{
    memset(m, 0, offsetof(struct message, attributes));
    m->head.nlmsg_len = offsetof(struct message, attributes);
    m->head.nlmsg_type = family;
    m->head.nlmsg_flags = NLM_F_REQUEST;
    m->generic.cmd = command;
    m->generic.version = VERSION;
}

static void napi_ask_put(struct message *m, uint16_t type, const void *data, size_t size)
{
    struct nlattr *a = (struct nlattr *)(void *)((char *)m + m->head.nlmsg_len);
    memset(a, 0, NLA_HDRLEN + NLA_ALIGN(size));
    a->nla_type = type;
    a->nla_len = (uint16_t)(NLA_HDRLEN + size);
    memcpy((char *)a + NLA_HDRLEN, data, size);
    m->head.nlmsg_len += (uint32_t)(NLA_HDRLEN + NLA_ALIGN(size));
}

/* @return 0, and the answer; or the errno value that it was, negative */
static int napi_ask_kernel(int fd, struct message *m)
{
    const struct nlmsgerr *error = NLMSG_DATA(&m->head);
    if (send(fd, m, m->head.nlmsg_len, 0) < 0)
        return -errno;
    ssize_t n = recv(fd, m, sizeof *m, 0);
    if (n < 0)
        return -errno;
    if (n < (ssize_t)sizeof m->head)
        return -EPROTO;
    if (m->head.nlmsg_len > (size_t)n)
        m->head.nlmsg_len = (uint32_t)n;
    if (m->head.nlmsg_type != NLMSG_ERROR)
        return 0;
    return m->head.nlmsg_len < NLMSG_LENGTH(sizeof error->error) ? -EPROTO : error->error;
}

/* @return whether it has one, of as many bytes as the kernel found it to need */
static bool napi_answer_number(const struct message *m, uint16_t type, uint64_t *value)
{
    uint16_t two;
    uint32_t four;
    for (size_t at = offsetof(struct message, attributes); at + NLA_HDRLEN <= m->head.nlmsg_len;) {
        const struct nlattr *a = (const struct nlattr *)(const void *)((const char *)m + at);
        const char *data = (const char *)a + NLA_HDRLEN;
        if (a->nla_len < NLA_HDRLEN || at + a->nla_len > m->head.nlmsg_len)
            return false;
        at += NLA_ALIGN(a->nla_len);
        if ((a->nla_type & NLA_TYPE_MASK) != type)
            continue;
        switch (a->nla_len - NLA_HDRLEN) {
        case sizeof two:
            memcpy(&two, data, sizeof two);
            *value = two;
            return true;
        case sizeof four:
            memcpy(&four, data, sizeof four);
            *value = four;
            return true;
        case sizeof *value:
            memcpy(value, data, sizeof *value);
            return true;
        default:
            return false;
        }
    }
    return false;
}

static bool napi_ask_family(int fd, struct message *m, uint16_t *family)
{
    uint64_t number;
    napi_ask_begin(m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
    napi_ask_put(m, CTRL_ATTR_FAMILY_NAME, FAMILY, sizeof FAMILY);
    if (napi_ask_kernel(fd, m) || !napi_answer_number(m, CTRL_ATTR_FAMILY_ID, &number))
        return false;
    *family = (uint16_t)number;
    return true;
}

static bool napi_ask_to_suspend(int fd, struct message *m, uint16_t family, uint32_t id)
{
    const uint32_t ns = SUSPEND_NS;
    napi_ask_begin(m, family, NAPI_SET);
    m->head.nlmsg_flags |= NLM_F_ACK;
    napi_ask_put(m, NAPI_ID, &id, sizeof id);
    napi_ask_put(m, NAPI_IRQ_SUSPEND_TIMEOUT, &ns, sizeof ns);
    return !napi_ask_kernel(fd, m);
}

/*
 * Linux has it from 6.13 on. But there a wait of 1 ns that finds nothing may sleep, and in some releases of 6.14 it
 * never ends.
 */
static bool napi_kernel_can(void)
{
    struct utsname name;
    unsigned major, minor;
    return !uname(&name) && sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 15));
}

bool plx_napi_ask(unsigned id)
{
    struct message m;
    uint16_t family;
    uint64_t put_off, flush, suspend;
    const uint32_t number = id;
    int fd = !napi_kernel_can() ? -1 : socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
    bool suspends = fd >= 0 && napi_ask_family(fd, &m, &family);
    if (suspends) {
        napi_ask_begin(&m, family, NAPI_GET);
        napi_ask_put(&m, NAPI_ID, &number, sizeof number);
        suspends = !napi_ask_kernel(fd, &m) && napi_answer_number(&m, NAPI_DEFER_HARD_IRQS, &put_off) && put_off &&
                   napi_answer_number(&m, NAPI_GRO_FLUSH_TIMEOUT, &flush) && flush &&
                   napi_answer_number(&m, NAPI_IRQ_SUSPEND_TIMEOUT, &suspend) &&
                   (suspend || napi_ask_to_suspend(fd, &m, family, number));
    }
    if (fd >= 0)
        close(fd);
    return suspends;
}
