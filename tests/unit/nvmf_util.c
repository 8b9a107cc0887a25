/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvmf_util.h"

#include "nvmf/tcp/tcp.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    QUIET_ROUNDS = 20, /* rounds without work after which nothing more is on its way: quiet streams had their turn */
    MAX_ROUNDS = 100000,
};

void rig_settle(struct rig *rig)
{
    for (int quiet = 0, rounds = 0; quiet < QUIET_ROUNDS && rounds < MAX_ROUNDS; rounds++)
        quiet = plx_reactor_poll(rig->reactor) ? 0 : quiet + 1;
}

static void finished(void *arg, int ret)
{
    struct rig *rig = arg;
    rig->done = true;
    rig->result = ret;
}

static void wait_done(struct rig *rig)
{
    while (!rig->done)
        plx_reactor_poll(rig->reactor);
    rig->done = false;
}

static int make_target(struct rig *rig)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = RIG_NQN, .allow_any_host = true};
    struct plx_nvmf_subsystem *s;
    int ret = plx_nvmf_target_create(&rig->target, &rig->reactor, 1, NULL, NULL);
    if (ret)
        return ret;
    ret = plx_nvmf_subsystem_create(rig->target, &opts, &s, NULL);
    if (!ret)
        ret = plx_nvmf_subsystem_add_ns(s, rig->disk, NULL, NULL);
    if (ret > 0) {
        plx_nvmf_target_start(rig->target, finished, rig);
        wait_done(rig);
        ret = rig->result;
    }
    if (ret < 0)
        plx_nvmf_target_destroy(rig->target);
    return ret;
}

int rig_start(struct rig *rig, const char *disk)
{
    return rig_start_small(rig, disk, 0);
}

int rig_start_small(struct rig *rig, const char *disk, size_t buffer_bytes)
{
    const struct plx_reactor_opts opts = {.core = -1, .buffer_bytes = buffer_bytes};
    memset(rig, 0, sizeof *rig);
    int ret = plx_reactor_create(&rig->reactor, &opts);
    if (ret)
        return ret;
    ret = plx_bdev_open(disk, &rig->disk, NULL);
    if (ret) {
        plx_reactor_destroy(rig->reactor);
        return ret;
    }
    ret = make_target(rig);
    if (ret < 0) {
        plx_reactor_destroy(rig->reactor);
        plx_bdev_close(rig->disk);
    }
    return ret;
}

void rig_stop(struct rig *rig)
{
    rig_stop_within(rig, 100);
}

void rig_stop_within(struct rig *rig, uint32_t grace_ms)
{
    plx_nvmf_target_stop(rig->target, grace_ms, finished, rig);
    wait_done(rig);
    plx_nvmf_target_destroy(rig->target);
    plx_reactor_destroy(rig->reactor);
    plx_bdev_close(rig->disk);
}

int rig_connect(struct rig *rig)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return -1;
    struct tcp_conn *c = tcp_conn_create(rig->target);
    if (!c) {
        close(fds[0]);
        close(fds[1]);
        return -1;
    }
    plx_stream_socket(&c->stream, fds[0]);
    atomic_fetch_add(&rig->target->connections, 1);
    tcp_conn_adopt(rig->target->groups[0].transport, c);
    return fds[1];
}

bool rig_send(struct rig *rig, int fd, const void *data, size_t len)
{
    const uint8_t *p = data;
    for (int rounds = 0; len && rounds < MAX_ROUNDS; rounds++) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            return false;
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
        plx_reactor_poll(rig->reactor);
    }
    rig_settle(rig);
    return len == 0;
}

ssize_t rig_receive(struct rig *rig, int fd, void *data, size_t max)
{
    size_t got = 0;
    for (;;) {
        rig_settle(rig);
        ssize_t n = recv(fd, (uint8_t *)data + got, max - got, MSG_DONTWAIT);
        if (n <= 0)
            return got || (n < 0 && errno == EAGAIN) ? (ssize_t)got : -1;
        got += (size_t)n;
        if (got == max)
            return (ssize_t)got;
    }
}

bool rig_icreq(struct rig *rig, int fd, uint8_t digests)
{
    struct nvme_tcp_ic ic = {.hdr = {.type = NVME_TCP_ICREQ, .hlen = 128, .plen = plx_put32(128)}, .dgst = digests},
                       answer;
    rig->data_digest = digests & NVME_TCP_DGST_DATA;
    return rig_send(rig, fd, &ic, sizeof ic) && rig_receive(rig, fd, &answer, sizeof answer) == sizeof answer &&
           answer.hdr.type == NVME_TCP_ICRESP;
}

/* The response to the command sent last; data before it is thrown away. */
static int response_status(struct rig *rig, int fd, struct nvme_tcp_resp *resp)
{
    uint8_t buf[8192 + 64];
    ssize_t n = rig_receive(rig, fd, buf, sizeof buf);
    if (n < (ssize_t)sizeof *resp)
        return -1;
    memcpy(resp, buf + n - sizeof *resp, sizeof *resp);
    return resp->hdr.type == NVME_TCP_RESP ? plx_get16(resp->cqe.status) >> 1 & 0x7ff : -1;
}

static bool send_capsule(struct rig *rig, int fd, const void *cmd, const void *data, uint32_t len)
{
    const uint32_t digest = len && rig->data_digest ? NVME_TCP_DIGEST : 0;
    struct nvme_tcp_cmd pdu = {
        .hdr = {.type = NVME_TCP_CMD, .hlen = 72, .pdo = len ? 72 : 0, .plen = plx_put32(72 + len + digest)}};
    uint8_t crc[NVME_TCP_DIGEST];
    pdu.hdr.flags = digest ? NVME_TCP_DDGSTF : 0;
    plx_poke32(crc, plx_crc32c(data, len));
    memcpy(&pdu.cmd, cmd, sizeof pdu.cmd);
    return rig_send(rig, fd, &pdu, sizeof pdu) && (!len || rig_send(rig, fd, data, len)) &&
           (!digest || rig_send(rig, fd, crc, digest));
}

int rig_command(struct rig *rig, int fd, const struct nvme_cmd *cmd, const void *data, uint32_t len)
{
    struct nvme_tcp_resp resp;
    return send_capsule(rig, fd, cmd, data, len) ? response_status(rig, fd, &resp) : -1;
}

int rig_connect_to(struct rig *rig, int fd, const char *nqn, uint16_t qid, uint16_t *cntlid)
{
    struct nvme_connect_cmd cmd = {.opcode = NVME_FABRICS,
                                   .flags = NVME_PSDT_SGL,
                                   .fctype = NVME_FABRICS_CONNECT,
                                   .sgl = {.length = plx_put32(1024), .type = NVME_SGL_DATA_BLOCK_OFFSET},
                                   .qid = plx_put16(qid),
                                   .sqsize = plx_put16(31)};
    struct nvme_connect_data data = {.hostid = {1}, .cntlid = plx_put16(qid ? *cntlid : NVME_CNTLID_DYNAMIC)};
    struct nvme_tcp_resp resp;
    snprintf(data.subnqn, sizeof data.subnqn, "%s", nqn);
    snprintf(data.hostnqn, sizeof data.hostnqn, "%s", RIG_HOST);
    if (!send_capsule(rig, fd, &cmd, &data, sizeof data))
        return -1;
    int status = response_status(rig, fd, &resp);
    if (!status && !qid)
        *cntlid = (uint16_t)plx_get32(resp.cqe.dw0);
    return status;
}

int rig_connect_queue(struct rig *rig, int fd, uint16_t qid, uint16_t *cntlid)
{
    return rig_connect_to(rig, fd, RIG_NQN, qid, cntlid);
}

int rig_enable(struct rig *rig, int fd)
{
    struct nvme_property_cmd cmd = {.opcode = NVME_FABRICS,
                                    .flags = NVME_PSDT_SGL,
                                    .fctype = NVME_FABRICS_PROPERTY_SET,
                                    .offset = plx_put32(NVME_PROP_CC),
                                    .value =
                                        plx_put64(NVME_CC_EN | 6 << NVME_CC_IOSQES_SHIFT | 4 << NVME_CC_IOCQES_SHIFT)};
    struct nvme_cmd raw;
    memcpy(&raw, &cmd, sizeof raw);
    return rig_command(rig, fd, &raw, NULL, 0);
}

bool rig_host(struct rig *rig, int *admin, int *io)
{
    uint16_t cntlid = 0;
    *io = -1;
    *admin = rig_connect(rig);
    if (*admin < 0 || !rig_icreq(rig, *admin, 0) || rig_connect_queue(rig, *admin, 0, &cntlid) ||
        rig_enable(rig, *admin))
        return false;
    *io = rig_connect(rig);
    return *io >= 0 && rig_icreq(rig, *io, 0) && rig_connect_queue(rig, *io, 1, &cntlid) == 0;
}
