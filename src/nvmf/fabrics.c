/* SPDX-License-Identifier: BSD-3-Clause */
/* Fabrics commands: Connect, Property Get and Set, Disconnect (Base 6). */
#include "nvmf/nvmf.h"

#include <stdlib.h>
#include <string.h>

/* ---- Connect: checked here, decided on the control reactor, answered here ---- */

struct nvmf_connect {
    struct plx_msg msg;
    struct nvmf_req *req;
    struct nvme_connect_data data;
    uint16_t qid, entries;
    uint32_t kato_ms;
    struct nvmf_ctrlr *ctrlr;
    uint16_t status;
    uint32_t bad; /* with Connect Invalid Parameters: dword 0 of the response */
};

/* Dword 0 of the response: where the invalid parameter is, in the command or in the data. */
#define BAD_CMD(field) ((uint32_t)offsetof(struct nvme_connect_cmd, field))
#define BAD_DATA(field) (0x10000u | (uint32_t)offsetof(struct nvme_connect_data, field))

static uint16_t refuse(struct nvmf_connect *op, uint32_t bad)
{
    op->bad = bad;
    return PLX_SC_CONNECT_INVALID_PARAMETERS | NVME_STATUS_DNR;
}

static uint16_t connect_admin(struct nvmf_connect *op, struct plx_nvmf_subsystem *s)
{
    if (plx_get16(op->data.cntlid) != NVME_CNTLID_DYNAMIC)
        return refuse(op, BAD_DATA(cntlid));
    op->ctrlr = nvmf_ctrlr_create(s, &op->data, op->kato_ms, op->req->qp);
    return op->ctrlr ? PLX_SC_SUCCESS : PLX_SC_CONNECT_CONTROLLER_BUSY;
}

static uint16_t connect_io(struct nvmf_connect *op, struct plx_nvmf_subsystem *s)
{
    struct nvmf_ctrlr *c = nvmf_ctrlr_find(s->target, s, plx_get16(op->data.cntlid));
    if (!c || c->dying)
        return refuse(op, BAD_DATA(cntlid));
    if (strcmp(c->hostnqn, op->data.hostnqn) != 0)
        return refuse(op, BAD_DATA(hostnqn));
    if (memcmp(c->hostid, op->data.hostid, sizeof c->hostid) != 0)
        return refuse(op, BAD_DATA(hostid));
    if (s->discovery || op->qid > s->target->opts.max_queues || !(atomic_load(&c->csts) & NVME_CSTS_RDY))
        return refuse(op, BAD_CMD(qid));
    if (c->qpairs[op->qid])
        return PLX_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR;
    c->qpairs[op->qid] = op->req->qp;
    c->nqpairs++;
    op->ctrlr = c;
    return PLX_SC_SUCCESS;
}

/*
 * Hosts are named by others, who are not as strict as we are with names of our own (Linux takes any text), or not at
 * all, for subsystems that any host may use. Their names have to be told apart, and logged.
 */
static bool good_host_name(const char *nqn)
{
    size_t at = 0, n;
    if (*nqn && strncmp(nqn, "nqn.", 4) != 0)
        return false;
    while (nqn[at] != ' ' && (n = plx_text_printable(nqn + at)))
        at += n;
    return !nqn[at] && at <= NVME_NQN_MAX;
}

static uint16_t connect_decide(struct nvmf_connect *op)
{
    struct plx_nvmf_target *t = op->req->qp->group->target;
    if (t->state != NVMF_RUNNING)
        return PLX_SC_CONNECT_CONTROLLER_BUSY;
    if (!good_host_name(op->data.hostnqn))
        return refuse(op, BAD_DATA(hostnqn));
    const struct nvmf_image *image = nvmf_snapshot_find(t->snap, op->data.subnqn);
    if (!image || !nvmf_image_reachable(image, op->req->qp->portid))
        return refuse(op, BAD_DATA(subnqn));
    if (!nvmf_image_allows(image, op->data.hostnqn)) {
        plx_warn("%s: host %s is not allowed to connect to %s", op->req->qp->peer, nvmf_host_name(op->data.hostnqn),
                 image->subsys->nqn);
        return PLX_SC_CONNECT_INVALID_HOST | NVME_STATUS_DNR;
    }
    return op->qid ? connect_io(op, image->subsys) : connect_admin(op, image->subsys);
}

static void connect_finish(struct plx_msg *msg)
{
    struct nvmf_connect *op = plx_container_of(msg, struct nvmf_connect, msg);
    struct nvmf_req *req = op->req;
    struct nvmf_qpair *qp = req->qp;
    uint16_t status = op->status;
    qp->state = NVMF_QP_NEW;
    if (op->ctrlr) {
        qp->ctrlr = op->ctrlr;
        qp->qid = op->qid;
        qp->entries = op->entries;
        qp->sqhd %= qp->entries;
        qp->state = NVMF_QP_READY;
        nvmf_qpair_see(qp);
        qp->group->connected[qp->qid != 0]++;
        if (!qp->qid)
            nvmf_ctrlr_start(qp->ctrlr);
        req->cqe.dw0 = plx_put32(qp->ctrlr->cntlid);
        plx_debug("%s: queue %u of %s, %u entries", qp->peer, qp->qid, qp->ctrlr->name, qp->entries);
    } else {
        req->cqe.dw0 = plx_put32(op->bad);
        plx_info("%s: connect by %.223s to %.223s refused, status %03x, parameter %05x", qp->peer, op->data.hostnqn,
                 op->data.subnqn, status & 0x7ff, op->bad);
    }
    free(op);
    nvmf_req_complete(req, status);
}

static void connect_on_control(struct plx_msg *msg)
{
    struct nvmf_connect *op = plx_container_of(msg, struct nvmf_connect, msg);
    op->status = connect_decide(op);
    msg->fn = connect_finish;
    plx_reactor_send(op->req->qp->group->reactor, msg);
}

static void execute_connect(struct nvmf_req *req)
{
    const struct nvme_connect_cmd *cmd = (const void *)&req->cmd;
    const struct plx_nvmf_opts *opts = &req->qp->group->target->opts;
    uint16_t qid = plx_get16(cmd->qid), sqsize = plx_get16(cmd->sqsize);
    uint32_t max = qid ? opts->queue_depth : plx_max_u64(opts->queue_depth, NVMF_ADMIN_QUEUE_ENTRIES);
    if (req->qp->state != NVMF_QP_NEW) { /* another one overtook it, while its data was on its way */
        nvmf_req_complete(req, PLX_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR);
        return;
    }
    if (plx_get16(cmd->recfmt) != 0) {
        nvmf_req_complete(req, PLX_SC_CONNECT_INCOMPATIBLE_FORMAT | NVME_STATUS_DNR);
        return;
    }
    if (sqsize == 0 || sqsize >= max) {
        req->cqe.dw0 = plx_put32(BAD_CMD(sqsize));
        nvmf_req_complete(req, PLX_SC_CONNECT_INVALID_PARAMETERS | NVME_STATUS_DNR);
        return;
    }
    struct nvmf_connect *op = calloc(1, sizeof *op);
    if (!op) {
        nvmf_req_complete(req, PLX_SC_CONNECT_CONTROLLER_BUSY);
        return;
    }
    op->req = req;
    memcpy(&op->data, req->data, sizeof op->data);
    op->data.subnqn[NVME_NQN_FIELD - 1] = op->data.hostnqn[NVME_NQN_FIELD - 1] = 0;
    op->qid = qid;
    op->entries = (uint16_t)(sqsize + 1);
    op->kato_ms = plx_get32(cmd->kato);
    op->msg.fn = connect_on_control;
    req->qp->no_sq_flow = cmd->cattr & NVME_CONNECT_NO_SQ_FLOW;
    req->qp->state = NVMF_QP_CONNECTING;
    plx_reactor_send(nvmf_control_reactor(req->qp->group->target), &op->msg);
}

/* ---- properties ---- */

static void execute_property_get(struct nvmf_req *req)
{
    const struct nvme_property_cmd *cmd = (const void *)&req->cmd;
    uint64_t value = 0;
    uint16_t status = nvmf_property_get(req->qp->ctrlr, plx_get32(cmd->offset), cmd->attrib & 7 ? 8 : 4, &value);
    req->cqe.dw0 = plx_put32(value);
    req->cqe.dw1 = plx_put32(value >> 32);
    nvmf_req_complete(req, status);
}

static void execute_property_set(struct nvmf_req *req)
{
    const struct nvme_property_cmd *cmd = (const void *)&req->cmd;
    nvmf_req_complete(
        req, nvmf_property_set(req->qp->ctrlr, plx_get32(cmd->offset), cmd->attrib & 7 ? 8 : 4, plx_get64(cmd->value)));
}

/* Deletes an I/O queue (Base 6.4): the response is sent, then the host closes the connection. */
static void execute_disconnect(struct nvmf_req *req)
{
    req->qp->state = NVMF_QP_DISCONNECTED;
    req->qp->plain = false;
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

uint16_t nvmf_parse_fabrics(struct nvmf_req *req)
{
    struct nvmf_qpair *qp = req->qp;
    uint8_t fctype = ((const struct nvme_connect_cmd *)(const void *)&req->cmd)->fctype;
    if (fctype == NVME_FABRICS_CONNECT) {
        if (qp->state != NVMF_QP_NEW)
            return PLX_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR;
        req->execute = execute_connect;
        req->in_place = true;
        return nvmf_expect_data(req, NVMF_FROM_HOST, sizeof(struct nvme_connect_data));
    }
    if (qp->state != NVMF_QP_READY)
        return PLX_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR;
    switch (fctype) {
    case NVME_FABRICS_PROPERTY_GET:
        req->execute = execute_property_get;
        break;
    case NVME_FABRICS_PROPERTY_SET:
        req->execute = execute_property_set;
        break;
    case NVME_FABRICS_DISCONNECT:
        if (!qp->qid)
            return PLX_SC_INVALID_QUEUE_TYPE | NVME_STATUS_DNR;
        if (plx_get16(((const struct nvme_connect_cmd *)(const void *)&req->cmd)->recfmt))
            return PLX_SC_CONNECT_INCOMPATIBLE_FORMAT | NVME_STATUS_DNR;
        req->execute = execute_disconnect;
        return nvmf_expect_no_data(req);
    default:
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    }
    if (qp->qid) /* properties belong to the admin queue */
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    if ((((const struct nvme_property_cmd *)(const void *)&req->cmd)->attrib & 7) > 1)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    return nvmf_expect_no_data(req);
}
