/* SPDX-License-Identifier: BSD-3-Clause */
/* What reservation commands look like (Base 7.5 to 7.8). */
#include "nvmf/reservation.h"

#include <pollux/nvme_status.h>
#include <string.h>

#define DNR NVME_STATUS_DNR

_Static_assert((int)NVME_RESV_WRITE_EXCLUSIVE == PLX_RESV_WRITE_EXCLUSIVE &&
                   (int)NVME_RESV_EXCLUSIVE_ACCESS_ALL == PLX_RESV_EXCLUSIVE_ACCESS_ALL &&
                   (int)NVME_RESV_NOTICE_REGISTRATION_PREEMPTED == PLX_RESV_EXPELLED &&
                   (int)NVME_RESV_NOTICE_RELEASED == PLX_RESV_RELEASED &&
                   (int)NVME_RESV_NOTICE_PREEMPTED == PLX_RESV_PREEMPTED,
               "numbers are taken over as they are");

/* Base 8.1.22 and ZNS, figure "Command Behavior in the Presence of a Reservation": the read and write command groups */
unsigned nvmf_resv_need(uint8_t opcode)
{
    switch (opcode) {
    case NVME_IO_READ:
    case NVME_IO_COMPARE:
    case NVME_IO_VERIFY:
    case NVME_IO_ZONE_REPORT:
        return PLX_MAY_READ;
    case NVME_IO_RESV_REGISTER:
    case NVME_IO_RESV_REPORT:
    case NVME_IO_RESV_ACQUIRE:
    case NVME_IO_RESV_RELEASE:
        return 0;
    default: /* Copy too: nobody may write who may not read */
        return PLX_MAY_WRITE;
    }
}

static const struct {
    uint8_t n, kinds[3];
} actions[] = {
    [NVME_IO_RESV_REGISTER] = {3, {PLX_RESV_REGISTER, PLX_RESV_UNREGISTER, PLX_RESV_REPLACE}},
    [NVME_IO_RESV_ACQUIRE] = {3, {PLX_RESV_ACQUIRE, PLX_RESV_PREEMPT, PLX_RESV_PREEMPT_AND_ABORT}},
    [NVME_IO_RESV_RELEASE] = {2, {PLX_RESV_RELEASE, PLX_RESV_CLEAR}},
};

uint16_t nvmf_resv_parse(uint8_t opcode, uint32_t cdw10, struct plx_resv_cmd *cmd)
{
    static const uint8_t persist[] = {
        [NVME_CPTPL_CLEAR] = PLX_RESV_TRANSIENT,
        [NVME_CPTPL_PERSIST] = PLX_RESV_PERSISTENT,
    };
    const uint8_t action = cdw10 & 7, type = (uint8_t)(cdw10 >> 8);
    const bool registers = opcode == NVME_IO_RESV_REGISTER, ignore_key = cdw10 & 1 << 3;
    bool good = action < actions[opcode].n;
    if (registers)
        good &= cdw10 >> 30 != NVME_CPTPL_RESERVED;
    else
        good &= !ignore_key; /* IEKEY: of Register alone */
    if (opcode == NVME_IO_RESV_ACQUIRE)
        good &= type >= NVME_RESV_WRITE_EXCLUSIVE && type <= NVME_RESV_EXCLUSIVE_ACCESS_ALL;
    if (!good)
        return PLX_SC_INVALID_FIELD | DNR;
    *cmd = (struct plx_resv_cmd){.kind = actions[opcode].kinds[action],
                                 .type = type,
                                 .persist = registers ? persist[cdw10 >> 30] : PLX_RESV_KEEP,
                                 .ignore_key = ignore_key};
    return PLX_SC_SUCCESS;
}

uint16_t nvmf_resv_status(enum plx_resv_answer answer)
{
    switch (answer) {
    case PLX_RESV_DONE:
        return PLX_SC_SUCCESS;
    case PLX_RESV_CONFLICT:
        return PLX_SC_RESERVATION_CONFLICT | DNR;
    case PLX_RESV_INVALID:
    case PLX_RESV_WRONG_TYPE:
        return PLX_SC_INVALID_FIELD | DNR;
    case PLX_RESV_FULL: /* there is no status that says so */
    case PLX_RESV_NOT_KEPT:
        return PLX_SC_INTERNAL_ERROR | DNR;
    case PLX_RESV_NO_MEMORY:
        break;
    }
    return PLX_SC_INTERNAL_ERROR;
}

void nvmf_resv_report(const struct plx_resv *r, void *data, size_t len)
{
    struct {
        struct nvme_resv_status status;
        struct nvme_resv_registrant who[PLX_RESV_REGISTRANTS];
    } all;
    memset(&all, 0, sizeof all);
    all.status.gen = plx_put32(r->generation);
    all.status.rtype = r->type;
    all.status.registrants[0] = r->n;
    all.status.ptpls = r->persist;
    for (unsigned i = 0; i < r->n; i++) {
        all.who[i].cntlid = plx_put16(NVME_CNTLID_DYNAMIC); /* a host is meant, not one of its controllers */
        all.who[i].rcsts = plx_resv_holds(r, (int)i);
        all.who[i].rkey = plx_put64(r->who[i].key);
        memcpy(all.who[i].hostid, r->who[i].name, sizeof all.who[i].hostid);
    }
    size_t n = plx_min_u64(len, sizeof all.status + r->n * sizeof all.who[0]);
    memcpy(data, &all, n);
    memset((uint8_t *)data + n, 0, len - n);
}
