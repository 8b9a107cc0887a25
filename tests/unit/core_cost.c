/* SPDX-License-Identifier: BSD-3-Clause */
/* core_cost URL read|write COMMANDS: the target's core alone, of 4 KiB, for bench/instructions.py to count. */
#include "calls.h"

#include <stdio.h>
#include <stdlib.h>

#define NQN "nqn.2024-01.com.example:cost"

enum { BYTES = 4096 };

static struct calls_qpair admin, io;
static struct nvme_connect_data data;
static struct nvme_cqe last;
static long done;

static void answered(void *arg, const struct nvme_cqe *cqe)
{
    (void)arg;
    done++;
    last = *cqe;
}

static void over(void *arg, int result)
{
    *(int *)arg = result;
}

static void settle(struct plx_reactor *r, long until)
{
    while (done < until)
        plx_reactor_poll(r);
    if (calls_status(&last)) {
        fprintf(stderr, "status %03x\n", calls_status(&last));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static uint8_t buf[BYTES] __attribute__((aligned(4096)));
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
    struct plx_nvmf_subsystem *s;
    struct plx_nvmf_target *t;
    struct plx_bdev *disk;
    struct plx_reactor *r;
    long count = argc == 4 ? strtol(argv[3], NULL, 10) : 0;
    int result = 1;
    if (count < 1) {
        fprintf(stderr, "usage: core_cost URL read|write COMMANDS\n");
        return 2;
    }
    if (plx_bdev_open(argv[1], &disk, NULL) || plx_reactor_create(&r, NULL) ||
        plx_nvmf_target_create(&t, &r, 1, NULL, NULL))
        return 1;
    t->transport = &calls_transport;
    if (plx_nvmf_subsystem_create(t, &opts, &s, NULL) || plx_nvmf_subsystem_add_ns(s, disk, NULL, NULL) < 0)
        return 1;
    plx_nvmf_target_start(t, over, &result);
    while (result > 0)
        plx_reactor_poll(r);
    calls_connect(&admin, &t->groups[0], 0);
    calls_fabrics_connect(&admin, NQN, NQN, 0, 0, &data, answered, NULL);
    settle(r, 1);
    uint16_t cntlid = (uint16_t)plx_get32(last.dw0);
    calls_enable(&admin, true, answered, NULL);
    settle(r, 2);
    calls_connect(&io, &t->groups[0], 0);
    calls_fabrics_connect(&io, NQN, NQN, 1, cntlid, &data, answered, NULL);
    settle(r, 3);
    const uint64_t blocks = plx_bdev_blocks(disk), each = BYTES / plx_bdev_info(disk)->block_size;
    for (long i = 0; i < count; i++) {
        const struct nvme_cmd cmd = {.opcode = strcmp(argv[2], "read") ? NVME_IO_WRITE : NVME_IO_READ,
                                     .cid = plx_put16(i & 0x7fff),
                                     .nsid = plx_put32(1),
                                     .cdw10 = plx_put32((uint64_t)i * each % (blocks / each * each)),
                                     .cdw12 = plx_put32(each - 1)};
        calls_send(&io, &cmd, buf, BYTES, answered, NULL);
        settle(r, 4 + i);
    }
    result = 1;
    plx_nvmf_target_stop(t, 100, over, &result);
    while (result > 0)
        plx_reactor_poll(r);
    plx_nvmf_target_destroy(t);
    plx_reactor_destroy(r);
    plx_bdev_close(disk);
    return result < 0;
}
