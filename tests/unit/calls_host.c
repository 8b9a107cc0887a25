/* SPDX-License-Identifier: BSD-3-Clause */
/* What hosts begin with, by calls. */
#include "calls.h"

#include <stdio.h>

void calls_fabrics_connect(struct calls_qpair *q, const char *subnqn, const char *hostnqn, uint16_t qid,
                           uint16_t cntlid, struct nvme_connect_data *data, calls_done done, void *arg)
{
    static _Atomic uint16_t cid;
    struct nvme_connect_cmd connect = {.opcode = NVME_FABRICS,
                                       .cid = plx_put16(0xf000 + (cid++ & 0xfff)),
                                       .fctype = NVME_FABRICS_CONNECT,
                                       .qid = plx_put16(qid),
                                       .sqsize = plx_put16(31)};
    struct nvme_cmd cmd;
    memcpy(&cmd, &connect, sizeof cmd);
    const uint8_t last = (uint8_t)(*hostnqn ? hostnqn[strlen(hostnqn) - 1] : 0);
    *data = (struct nvme_connect_data){.hostid = {1, last}, .cntlid = plx_put16(qid ? cntlid : NVME_CNTLID_DYNAMIC)};
    snprintf(data->subnqn, sizeof data->subnqn, "%s", subnqn);
    snprintf(data->hostnqn, sizeof data->hostnqn, "%s", hostnqn);
    calls_send(q, &cmd, data, sizeof *data, done, arg);
}

void calls_enable(struct calls_qpair *q, bool enable, calls_done done, void *arg)
{
    uint32_t cc = (enable ? NVME_CC_EN : 0) | 6 << NVME_CC_IOSQES_SHIFT | 4 << NVME_CC_IOCQES_SHIFT;
    struct nvme_property_cmd set = {.opcode = NVME_FABRICS,
                                    .fctype = NVME_FABRICS_PROPERTY_SET,
                                    .offset = plx_put32(NVME_PROP_CC),
                                    .value = plx_put64(cc)};
    struct nvme_cmd cmd;
    memcpy(&cmd, &set, sizeof cmd);
    calls_send(q, &cmd, NULL, 0, done, arg);
}
