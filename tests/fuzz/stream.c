/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Whatever bytes come over a connection, in whatever pieces: the target stays well, and a host beside it is served. The
 * first byte says how far the handshake has come before the bytes; each following one of the "pieces" prefix says how
 * they are cut.
 */
#include "nvmf_util.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct rig rig;
static int healthy_admin, healthy_io;

static void check_healthy(void)
{
    struct nvme_cmd flush = {.opcode = NVME_IO_FLUSH, .flags = NVME_PSDT_SGL, .nsid = plx_put32(1)};
    assert(rig_command(&rig, healthy_io, &flush, NULL, 0) == PLX_SC_SUCCESS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned runs;
    uint8_t drain[4096];
    uint16_t cntlid = 0;
    if (!rig.target && (rig_start(&rig, "ram:1M") || !rig_host(&rig, &healthy_admin, &healthy_io)))
        __builtin_trap();
    if (size < 2)
        return 0;
    unsigned depth = data[0] & 3, digests = data[0] >> 2 & 3, piece = data[1];
    int fd = rig_connect(&rig), admin = -1;
    assert(fd >= 0);
    if (depth >= 1)
        assert(rig_icreq(&rig, fd, depth == 1 ? (uint8_t)digests : 0));
    if (depth >= 2)
        assert(rig_connect_queue(&rig, fd, 0, &cntlid) == 0 && rig_enable(&rig, fd) == 0);
    if (depth == 3) {
        admin = fd;
        fd = rig_connect(&rig);
        assert(fd >= 0 && rig_icreq(&rig, fd, 0) && rig_connect_queue(&rig, fd, 1, &cntlid) == 0);
    }
    for (data += 2, size -= 2; size;) {
        size_t n = piece ? plx_min_u64(size, piece) : size;
        if (!rig_send(&rig, fd, data, n) || rig_receive(&rig, fd, drain, sizeof drain) < 0)
            break;
        data += n;
        size -= n;
    }
    close(fd);
    if (admin >= 0)
        close(admin);
    rig_settle(&rig);
    if (++runs % 64 == 0)
        check_healthy();
    assert(rig.target->connections == 2);
    return 0;
}
