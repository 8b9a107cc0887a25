/* SPDX-License-Identifier: BSD-3-Clause */
/* What NVMe over Fabrics has of its own: queues are made by Connect, registers are properties (Base 6). */
#include "nvme/nvme.h"

#include <errno.h>
#include <string.h>

/* They are laid out as other commands are, in a struct of their own for each. */
static struct nvme_words words_of(const void *cmd)
{
    struct nvme_words w;
    memcpy(&w, cmd, offsetof(struct nvme_words, cdw10));
    memcpy(&w.cdw10, (const uint8_t *)cmd + offsetof(struct nvme_cmd, cdw10),
           sizeof w - offsetof(struct nvme_words, cdw10));
    return w;
}

/* ---- properties ---- */

void nvme_fabrics_get(struct nvme_ctrlr *c, uint32_t offset, unsigned bytes, void (*done)(struct nvme_req *))
{
    const struct nvme_property_cmd cmd = {.opcode = NVME_FABRICS,
                                          .fctype = NVME_FABRICS_PROPERTY_GET,
                                          .attrib = bytes == 8 ? 1 : 0,
                                          .offset = plx_put32(offset)};
    const struct nvme_words words = words_of(&cmd);
    nvme_own_command(c, &words, NVME_NO_DATA, 0, done);
}

void nvme_fabrics_set(struct nvme_ctrlr *c, uint32_t offset, uint64_t value, void (*done)(struct nvme_req *))
{
    const struct nvme_property_cmd cmd = {.opcode = NVME_FABRICS,
                                          .fctype = NVME_FABRICS_PROPERTY_SET,
                                          .offset = plx_put32(offset),
                                          .value = plx_put64(value)};
    const struct nvme_words words = words_of(&cmd);
    nvme_own_command(c, &words, NVME_NO_DATA, 0, done);
}

/* ---- Connect ---- */

static void connect_refused(struct nvme_ctrlr *c, uint16_t status)
{
    uint16_t sc = status & 0x7ff;
    uint32_t where = c->req.dw0;
    bool subnqn = where == (0x10000u | offsetof(struct nvme_connect_data, subnqn));
    if (sc == PLX_SC_CONNECT_INVALID_PARAMETERS && subnqn)
        nvme_ctrlr_attempt_failed(c, -ENOENT, "there is no subsystem %s", c->o.subnqn);
    else if (sc == PLX_SC_CONNECT_INVALID_HOST)
        nvme_ctrlr_attempt_failed(c, -EACCES, "the host %s is not allowed to connect", c->o.hostnqn);
    else if (sc == PLX_SC_CONNECT_INVALID_PARAMETERS)
        nvme_ctrlr_attempt_failed(c, -EINVAL, "Connect Invalid Parameters, %s at byte %u",
                                  where >> 16 & 1 ? "data" : "command", where & 0xffff);
    else
        nvme_ctrlr_attempt_failed(c, -ECONNREFUSED, "the controller refused Connect: %s (%03x)",
                                  nvme_status_text(status, true), sc);
}

static void connect_answered(struct nvme_req *req)
{
    struct nvme_ctrlr *c = plx_container_of(req, struct nvme_ctrlr, req);
    if (req->lost || c->state != NVME_CTRLR_CONNECTING)
        return;
    if (req->status) {
        connect_refused(c, req->status);
        return;
    }
    if (plx_get32(req->cmd.cdw10) >> 16) { /* the queue's ID */
        uint32_t capsule = plx_get32(c->id.ioccsz) * 16, sqe = sizeof(struct nvme_cmd);
        c->io[c->nio]->max_inline = (uint32_t)plx_min_u64(capsule > sqe ? capsule - sqe : 0, NVME_MAX_TRANSFER);
    } else {
        c->cntlid = (uint16_t)req->dw0;
    }
    nvme_connect_attached(c);
}

/*
 * Connect goes out on the queue that it connects: with a slot there is always, and data that every queue takes in the
 * capsule (TCP 3.3).
 */
void nvme_fabrics_attach(struct nvme_qp *qp)
{
    struct nvme_ctrlr *c = qp->ctrlr;
    struct nvme_connect_data *data = (void *)c->page;
    unsigned mqes = (unsigned)(c->cap & 0xffff);
    unsigned maxcmd = qp->qid ? plx_get16(c->id.maxcmd) : 0;
    unsigned sqsize = qp->qid ? (unsigned)plx_min_u64(c->o.depth, mqes) : NVME_ADMIN_DEPTH;
    if (maxcmd && maxcmd < sqsize)
        sqsize = maxcmd;
    if (sqsize < 2) {
        nvme_ctrlr_attempt_failed(c, -EPROTO, "its queues hold %u commands; at least 2 are needed", sqsize);
        return;
    }
    const struct nvme_connect_cmd cmd = {
        .opcode = NVME_FABRICS,
        .fctype = NVME_FABRICS_CONNECT,
        .qid = plx_put16(qp->qid),
        .sqsize = plx_put16(sqsize),
        .cattr = c->o.sq_flow ? 0 : NVME_CONNECT_NO_SQ_FLOW,
        .kato = plx_put32(qp->qid ? 0 : c->o.kato_ms),
    };
    memset(data, 0, sizeof *data);
    memcpy(data->hostid, c->o.hostid, sizeof data->hostid);
    data->cntlid = plx_put16(qp->qid ? c->cntlid : NVME_CNTLID_DYNAMIC);
    memcpy(data->subnqn, c->o.subnqn, sizeof data->subnqn);
    memcpy(data->hostnqn, c->o.hostnqn, sizeof data->hostnqn);
    /* A queue takes one command less than it has entries, which is what SQSIZE counts from zero: Base 3.3.1.1 */
    qp->depth = (uint32_t)plx_min_u64(qp->depth, sqsize);
    c->iov = (struct iovec){data, sizeof *data};
    c->req = (struct nvme_req){.done = connect_answered,
                               .data = {&c->iov, 0},
                               .len = sizeof *data,
                               .dir = NVME_FROM_HOST,
                               .cmd = words_of(&cmd)};
    qp->submit(qp, &c->req);
}
