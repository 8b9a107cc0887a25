/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands with arbitrary fields, in correct capsules: the input is a list of records, each a byte (queue, and how much
 * data comes along), 64 bytes of submission queue entry, and data. R2Ts are answered with what follows.
 */
#include "nvmf_util.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct rig rig;

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
    if (!rig.target && rig_start(&rig, "ram:1M"))
        __builtin_trap();
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
