/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands with arbitrary fields, in correct capsules: the input is a list of records, each a byte (queue, and how much
 * data comes along), 64 bytes of submission queue entry, and data. R2Ts are answered with what follows. Namespace 2 is
 * zoned.
 */
#include "nvmf_util.h"

#include "bdev/driver.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ZONE = 256, ZONES = 8, APPEND = 64 };

static struct rig rig;

/* What a zoned disk counts on: only requests that make sense get to it. */
static void zones_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    (void)ch;
    switch (req->op) {
    case PLX_BDEV_ZONE_REPORT:
        assert(req->zone_report <= PLX_BDEV_ZONES_OFFLINE && req->nlb && req->iovcnt == 1);
        memset(req->iov->iov_base, 0, (size_t)req->nlb * 64);
        break;
    case PLX_BDEV_ZONE_MANAGE:
        assert(req->zone_action >= PLX_BDEV_ZONE_CLOSE && req->zone_action <= PLX_BDEV_ZONE_OFFLINE);
        assert(req->lba % ZONE == 0 && (!(req->flags & PLX_BDEV_ALL_ZONES) || !req->lba));
        break;
    case PLX_BDEV_ZONE_APPEND:
        assert(req->lba % ZONE == 0 && req->nlb <= APPEND);
        req->src_lba = req->lba;
        break;
    case PLX_BDEV_READ:
        memset(req->iov->iov_base, 0, req->iov->iov_len);
        break;
    default:
        assert(req->op == PLX_BDEV_WRITE || req->op == PLX_BDEV_FLUSH);
    }
    plx_bdev_complete(req, PLX_SC_SUCCESS);
}

static void zones_close(struct plx_bdev *bdev)
{
    (void)bdev;
}

static int zones_channel_open(struct plx_bdev_channel *ch)
{
    (void)ch;
    return 0;
}

static void zones_served(void *arg, int result)
{
    (void)arg;
    assert(!result);
}

static void serve_zones(void)
{
    static const struct plx_bdev_ops ops = {
        .close = zones_close, .channel_open = zones_channel_open, .submit = zones_submit};
    static struct plx_bdev disk = {
        .ops = &ops,
        .info = {.block_size = 512,
                 .write_unit = 512,
                 .blocks = ZONE * ZONES,
                 .zone_blocks = ZONE,
                 .max_append_blocks = APPEND,
                 .in_place = true,
                 .ops = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_FLUSH | PLX_BDEV_ZONED_OPS}};
    struct plx_nvmf_subsystem *s = plx_list_entry(rig.target->subsystems.prev, struct plx_nvmf_subsystem, link);
    if (plx_bdev_register(&disk, "zones", "zones:", NULL, NULL) || plx_nvmf_subsystem_add_ns(s, &disk, NULL, NULL) != 2)
        __builtin_trap();
    plx_nvmf_target_apply(rig.target, zones_served, NULL);
    rig_settle(&rig);
}

static void put_capsule(int fd, const uint8_t *sqe, const uint8_t *data, uint32_t len)
{
    struct nvme_tcp_cmd pdu = {
        .hdr = {.type = NVME_TCP_CMD, .hlen = 72, .pdo = len ? 72 : 0, .plen = plx_put32(72 + len)}};
    memcpy(&pdu.cmd, sqe, sizeof pdu.cmd);
    if (rig_send(&rig, fd, &pdu, sizeof pdu) && len)
        rig_send(&rig, fd, data, len);
}

/* Answers the R2Ts among what the target has sent. */
static void answer(int fd)
{
    static uint8_t in[1 << 20], out[64 << 10];
    ssize_t n = rig_receive(&rig, fd, in, sizeof in);
    for (ssize_t at = 0; at + (ssize_t)sizeof(struct nvme_tcp_r2t) <= n;) {
        struct nvme_tcp_r2t r2t;
        memcpy(&r2t, in + at, sizeof r2t);
        uint32_t plen = plx_get32(r2t.hdr.plen), left = plx_get32(r2t.r2tl);
        assert(plen >= 24);
        at += plen;
        for (uint32_t off = 0; r2t.hdr.type == NVME_TCP_R2T && off < left;) {
            uint32_t len = (uint32_t)plx_min_u64(left - off, sizeof out);
            struct nvme_tcp_data d = {.hdr = {.type = NVME_TCP_H2C_DATA,
                                              .flags = off + len == left ? NVME_TCP_LAST : 0,
                                              .hlen = 24,
                                              .pdo = 24,
                                              .plen = plx_put32(24 + len)},
                                      .cccid = r2t.cccid,
                                      .ttag = r2t.ttag,
                                      .datao = plx_put32(off),
                                      .datal = plx_put32(len)};
            if (!rig_send(&rig, fd, &d, sizeof d) || !rig_send(&rig, fd, out, len))
                return;
            off += len;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int admin, io;
    if (!rig.target) {
        if (rig_start(&rig, "ram:1M"))
            __builtin_trap();
        serve_zones();
    }
    if (!rig_host(&rig, &admin, &io))
        __builtin_trap();
    while (size >= 65) {
        int fd = data[0] & 1 ? io : admin;
        uint32_t len = (uint32_t)plx_min_u64((data[0] >> 1) * 64u, size - 65);
        put_capsule(fd, data + 1, data + 65, len);
        answer(fd);
        data += 65 + len;
        size -= 65 + len;
    }
    close(io);
    close(admin);
    rig_settle(&rig);
    assert(rig.target->connections == 0 && plx_list_empty(&rig.target->ctrlrs));
    return 0;
}
