/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands as somebody else has made them (struct nvme_pass): looked at for what would break the association, or the
 * controller's other users here, and sent by an association that is made for each. The calling thread waits.
 */
#include <pollux/nvme.h>

#include "nvme/nvme.h"
#include "nvme/uring.h"
#include "reactor/aside.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    PASS_DEPTH = 2,
    PASS_LOOK_MS = 50,      /* at whether its time is over, or it is not wanted any more */
    PASS_GIVE_UP_MS = 3000, /* after that, for an Abort */
    ADMIN_DELETE_SQ = 0x00,
    ADMIN_CREATE_SQ = 0x01,
    ADMIN_DELETE_CQ = 0x04,
    ADMIN_CREATE_CQ = 0x05,
    ADMIN_FIRMWARE_DOWNLOAD = 0x11,
    ADMIN_DIRECTIVE_SEND = 0x19,
    ADMIN_DIRECTIVE_RECEIVE = 0x1a,
    ADMIN_DOORBELL_BUFFER = 0x7c,
    ADMIN_FORMAT = 0x80,
    ADMIN_SECURITY_SEND = 0x81,
    ADMIN_SECURITY_RECEIVE = 0x82,
    FEAT_HOST_MEMORY = 0x0d,
    FLBAS_EXTENDED = 1 << 4,
};

/* ---- what is not sent: Base 5.1, 5.2 ---- */

static const char *why_no_feature(const struct nvme_cmd *cmd)
{
    switch (plx_get32(cmd->cdw10) & 0xff) {
    case NVME_FEAT_NUMBER_OF_QUEUES:
        return "the number of queues is set by the driver, before it makes any";
    case NVME_FEAT_KEEP_ALIVE:
        return "the keep alive timeout is what the driver keeps to: keep_alive_timeout_ms";
    case NVME_FEAT_ASYNC_EVENT:
        return "events are enabled by the driver, which follows namespaces by them";
    case FEAT_HOST_MEMORY:
        return "the controller would use memory that it is not given";
    default:
        return NULL;
    }
}

/* Why that would break the driver, or NULL. */
static const char *why_not(const struct nvme_pass *p)
{
    const struct nvme_cmd *cmd = &p->cmd;
    if (cmd->flags & NVME_FUSE_MASK)
        return "one half of a fused command would wait for the other for ever";
    if (cmd->opcode == NVME_FABRICS)
        return "Fabrics commands make and end associations, which the driver does";
    if (!p->admin)
        return NULL;
    switch (cmd->opcode) {
    case ADMIN_DELETE_SQ:
    case ADMIN_CREATE_SQ:
    case ADMIN_DELETE_CQ:
    case ADMIN_CREATE_CQ:
        return "queues are made and deleted by the driver, which uses them";
    case NVME_ADMIN_ABORT:
        return "identifiers of commands are the driver's; timeout_ms has a command aborted";
    case NVME_ADMIN_ASYNC_EVENT:
        return "events are told to the driver alone; bdev_nvme_get_controllers and the log have what came of them";
    case ADMIN_DOORBELL_BUFFER:
        return "where doorbells are is set by the driver, which writes them";
    case NVME_ADMIN_SET_FEATURES:
        return why_no_feature(cmd);
    default:
        return NULL;
    }
}

/* Other blocks under those who use the namespace would have them transfer more than they have memory for. */
static int check_format(const struct nvme_pass *p, const struct nvme_id_ns *id, struct plx_error *err)
{
    const uint32_t cdw10 = plx_get32(p->cmd.cdw10);
    const unsigned now = nvme_ns_format_index(id), wanted = (cdw10 & 15) | (cdw10 >> 12 & 3) << 4;
    if (!p->admin || p->cmd.opcode != ADMIN_FORMAT || (wanted == now && !(cdw10 >> 4 & 31)))
        return 0;
    return plx_fail(err, -EPERM,
                    "that would give namespace %u other blocks, and this driver uses it with those of format %u; give "
                    "the device back to the kernel for that",
                    plx_get32(p->cmd.nsid), now);
}

/* ---- its data ---- */

/* The namespace is looked at first: its blocks say how much is transferred. */
static bool wants_ns(const struct nvme_pass *p)
{
    const uint32_t nsid = plx_get32(p->cmd.nsid);
    return (!p->admin || p->cmd.opcode == ADMIN_FORMAT) && nsid && nsid != NVME_NSID_ALL;
}

static uint64_t admin_bytes(const struct nvme_cmd *cmd)
{
    const uint64_t cdw10 = plx_get32(cmd->cdw10), cdw11 = plx_get32(cmd->cdw11);
    switch (cmd->opcode) {
    case NVME_ADMIN_IDENTIFY:
        return NVME_PAGE;
    case NVME_ADMIN_GET_LOG_PAGE:
        return ((cdw10 >> 16 | (cdw11 & 0xffff) << 16) + 1) * 4;
    case ADMIN_FIRMWARE_DOWNLOAD:
    case ADMIN_DIRECTIVE_SEND:
    case ADMIN_DIRECTIVE_RECEIVE:
        return (cdw10 + 1) * 4;
    case ADMIN_SECURITY_SEND:
    case ADMIN_SECURITY_RECEIVE:
        return cdw11;
    default:
        return 0;
    }
}

/* What a command transfers, where that is known; else 0. */
static uint64_t pass_bytes(const struct nvme_pass *p, const struct nvme_id_ns *id)
{
    const uint32_t format = nvme_ns_format(id);
    const uint64_t block =
        (UINT64_C(1) << (format >> 16 & 63)) + (id->flbas & FLBAS_EXTENDED ? (uint64_t)(format & 0xffff) : 0);
    if (p->admin)
        return admin_bytes(&p->cmd);
    switch (p->cmd.opcode) {
    case NVME_IO_READ:
    case NVME_IO_WRITE:
    case NVME_IO_COMPARE:
    case NVME_IO_ZONE_APPEND:
        return ((plx_get32(p->cmd.cdw12) & 0xffff) + UINT64_C(1)) * block;
    case NVME_IO_DSM:
        return ((plx_get32(p->cmd.cdw10) & 0xff) + UINT64_C(1)) * sizeof(struct nvme_dsm_range);
    case NVME_IO_ZONE_REPORT:
        return (plx_get32(p->cmd.cdw12) + UINT64_C(1)) * 4;
    case NVME_IO_RESV_REPORT:
        return (plx_get32(p->cmd.cdw10) + UINT64_C(1)) * 4;
    default:
        return 0;
    }
}

/* Of an opcode, bits 1:0 say where data goes: Base 3.4.1 */
static int check_direction(const struct nvme_pass *p, struct plx_error *err)
{
    static const char *const moves[] = {"moves no data", "moves data to the controller (h2c)",
                                        "moves data to the host (c2h)", "moves data both ways"};
    const unsigned dir = p->cmd.opcode & 3;
    const bool fits = !p->len || (dir == 1 && p->dir == NVME_FROM_HOST) || (dir == 2 && p->dir == NVME_TO_HOST);
    if (dir == 3)
        return plx_fail(err, -EINVAL, "opcode %02xh moves data both ways, which is not possible here", p->cmd.opcode);
    return fits ? 0 : plx_fail(err, -EINVAL, "opcode %02xh %s", p->cmd.opcode, moves[dir]);
}

/* How much is transferred: at most as much as there is to be sent, and all that there is to be received. */
static int find_length(const struct nvme_pass *p, const struct nvme_id_ns *id, uint32_t *out, struct plx_error *err)
{
    const uint64_t needs = pass_bytes(p, id);
    const bool sends = (p->cmd.opcode & 3) == 1;
    *out = (uint32_t)(needs ? needs : p->len);
    if (needs > NVME_MAX_TRANSFER)
        return plx_fail(err, -EINVAL, "that would transfer %llu bytes; %u are possible", (unsigned long long)needs,
                        NVME_MAX_TRANSFER);
    if (needs && sends && needs != p->len)
        return plx_fail(err, -EINVAL, "that transfers %llu bytes, and data has %u", (unsigned long long)needs, p->len);
    return 0;
}

static int check_ns(const struct nvme_pass *p, const struct nvme_ns *ns, struct plx_error *err)
{
    const uint32_t metadata = nvme_ns_format(&ns->id) & 0xffff;
    if (!p->admin && metadata && !(ns->id.flbas & FLBAS_EXTENDED))
        return plx_fail(err, -ENOTSUP, "namespace %u has %u bytes of metadata a block apart from its data", ns->nsid,
                        metadata);
    return check_format(p, &ns->id, err);
}

static int check_pass(const struct nvme_pass *p, struct plx_error *err)
{
    const char *why = why_not(p);
    if (why)
        return plx_fail(err, -EPERM, "opcode %02xh: %s", p->cmd.opcode, why);
    if (plx_get32(p->cmd.cdw2) || plx_get32(p->cmd.cdw3))
        return plx_fail(err, -EINVAL, "command dwords 2 and 3 are not 0; they are not sent");
    if (p->len > NVME_MAX_TRANSFER)
        return plx_fail(err, -EINVAL, "%u bytes of data are more than %u", p->len, NVME_MAX_TRANSFER);
    if (p->admin && p->cmd.opcode == ADMIN_FORMAT && !wants_ns(p))
        return plx_fail(err, -EPERM, "name the namespace that is to be formatted");
    return check_direction(p, err);
}

/* ---- sending it ---- */

struct pass {
    struct nvme_pass *p;
    struct plx_reactor *reactor;
    struct nvme_ctrlr *c;
    struct nvme_req req;
    struct iovec iov;
    struct plx_timer timer;
    uint64_t deadline;
    bool sent, overdue, cancelled;
    int ret;
    struct plx_error *err;
};

static void pass_over(struct nvme_req *req)
{
    plx_reactor_stop(plx_container_of(req, struct pass, req)->reactor);
}

static void pass_send(struct pass *x, uint32_t len)
{
    const struct nvme_cmd *cmd = &x->p->cmd;
    x->iov.iov_len = len;
    x->req = (struct nvme_req){.done = pass_over,
                               .data = {&x->iov, 0},
                               .len = len,
                               .dir = len ? (cmd->opcode & 3) == 1 ? NVME_FROM_HOST : NVME_TO_HOST : NVME_NO_DATA,
                               .forever = NVME_RAW, /* its time is looked after here */
                               .cmd = {.opcode = cmd->opcode, .nsid = cmd->nsid}};
    memcpy(&x->req.cmd.cdw10, &cmd->cdw10, sizeof x->req.cmd - offsetof(struct nvme_words, cdw10));
    x->sent = true;
    x->deadline = plx_reactor_now(x->reactor) + x->p->timeout_ms * PLX_NS_PER_MS;
    if (x->p->admin)
        nvme_submit_admin(x->c, &x->req);
    else
        nvme_submit(x->c, &x->req);
}

static void pass_live(struct nvme_ctrlr *c, void *arg)
{
    struct pass *x = arg;
    const struct nvme_ns *ns = nvme_ctrlr_ns(c);
    uint32_t len;
    x->ret = check_ns(x->p, ns, x->err);
    if (!x->ret)
        x->ret = find_length(x->p, &ns->id, &len, x->err);
    if (!x->ret)
        x->iov.iov_base = calloc(1, plx_max_u64(len, x->p->len) + 1);
    if (!x->ret && !x->iov.iov_base)
        x->ret = plx_fail(x->err, -ENOMEM, "out of memory");
    if (x->ret) {
        plx_reactor_stop(x->reactor);
        return;
    }
    if (x->p->dir == NVME_FROM_HOST)
        memcpy(x->iov.iov_base, x->p->data, x->p->len);
    pass_send(x, len);
}

static void pass_failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    struct pass *x = arg;
    (void)again;
    x->ret = plx_fail(x->err, ret, "%.80s: %.150s", nvme_ctrlr_name(c), why);
    plx_reactor_stop(x->reactor);
}

static void pass_ignore(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg; /* what was sent comes back as lost */
}

static const struct nvme_ctrlr_ops pass_ops = {
    .live = pass_live, .down = pass_ignore, .failed = pass_failed, .ana = pass_ignore};

/* A command that takes too long is aborted; where that does not end it the association is given up, which does. */
static void pass_look(struct plx_timer *t)
{
    struct pass *x = plx_container_of(t, struct pass, timer);
    plx_timer_set(x->reactor, t, PASS_LOOK_MS * PLX_NS_PER_MS);
    const uint64_t now = plx_reactor_now(x->reactor);
    if (!x->cancelled && atomic_load(&x->p->cancel)) {
        x->cancelled = true;
        x->deadline = plx_min_u64(x->deadline, now);
    }
    x->overdue |= x->sent && now >= x->deadline;
    if (!x->sent && x->cancelled)
        pass_failed(x->c, x, -ECANCELED, "the process ends", false);
    else if (x->overdue && now - x->deadline >= PASS_GIVE_UP_MS * PLX_NS_PER_MS)
        nvme_ctrlr_reset(x->c);
    else if (x->overdue)
        nvme_abort(x->c, &x->req);
}

static int pass_result(struct pass *x)
{
    struct nvme_pass *p = x->p;
    const struct nvme_req *req = &x->req;
    if (x->ret)
        return x->ret;
    if (x->cancelled)
        return plx_fail(x->err, -ECANCELED, "the process ends");
    if (x->overdue && (req->lost || (req->status & 0x7ff) == PLX_SC_ABORTED_BY_REQUEST))
        return plx_fail(x->err, -ETIMEDOUT, "it has not been answered within %u ms, and %s", p->timeout_ms,
                        req->lost ? "the association was given up" : "was aborted");
    if (req->lost)
        return plx_fail(x->err, -EIO, "the controller was reset, or the connection lost, before it was answered");
    if (p->dir == NVME_TO_HOST && !req->status)
        memcpy(p->data, x->iov.iov_base, p->len);
    p->cqe = (struct nvme_cqe){
        .dw0 = plx_put32(req->dw0), .dw1 = plx_put32(req->dw1), .status = plx_put16((uint16_t)(req->status << 1))};
    return 0;
}

static int pass_run(struct pass *x, const struct nvme_opts *opts)
{
    struct nvme_opts o = *opts;
    o.queues = x->p->admin ? 0 : 1;
    o.depth = PASS_DEPTH;
    o.cmb = false;
    o.nsid = wants_ns(x->p) ? plx_get32(x->p->cmd.nsid) : NVME_NSID_ALL;
    o.quiet = true;
    int ret = nvme_ctrlr_create(x->reactor, &o, &pass_ops, x, &x->c);
    if (ret)
        return plx_fail(x->err, ret, "out of memory");
    x->timer.fn = pass_look;
    plx_timer_set(x->reactor, &x->timer, PASS_LOOK_MS * PLX_NS_PER_MS);
    nvme_ctrlr_start(x->c, true);
    do
        plx_reactor_run(x->reactor);
    while (!x->ret && (!x->sent || x->req.qp));
    plx_timer_cancel(x->reactor, &x->timer);
    nvme_ctrlr_destroy(x->c);
    return pass_result(x);
}

int nvme_pass(const struct nvme_opts *o, struct nvme_pass *p, struct plx_error *err)
{
    struct pass x = {.p = p, .err = err};
    const char *addr = o->transport == &nvme_pcie ? o->addrs.list[0].name : NULL;
    int ret = check_pass(p, err);
    if (ret)
        return ret;
    ret = plx_reactor_create_aside(&x.reactor);
    if (ret)
        return plx_fail(err, ret, "cannot make a reactor: %s", strerror(-ret));
    ret = addr ? nvme_pcie_hold(addr) : 0;
    if (ret) {
        plx_fail(err, ret, "%s: %s", addr, strerror(-ret));
    } else {
        ret = pass_run(&x, o);
        if (addr)
            nvme_pcie_release(addr);
    }
    plx_reactor_destroy(x.reactor);
    free(x.iov.iov_base);
    return ret;
}

/* ---- by way of the kernel ---- */

static int node_send(const struct nvme_uring_node *node, struct nvme_pass *p, void *data, uint32_t len,
                     struct plx_error *err)
{
    struct nvme_req req;
    int ret = nvme_uring_pass(node, p->admin, &p->cmd, data, len, p->timeout_ms, &req);
    if (ret)
        return plx_fail(err, ret, "%s: the kernel refuses that: %s", node->path, strerror(-ret));
    if (p->dir == NVME_TO_HOST && !req.status)
        memcpy(p->data, data, p->len);
    p->cqe = (struct nvme_cqe){
        .dw0 = plx_put32(req.dw0), .dw1 = plx_put32(req.dw1), .status = plx_put16((uint16_t)(req.status << 1))};
    return 0;
}

static int node_pass(struct nvme_uring_node *node, struct nvme_pass *p, struct plx_error *err)
{
    const struct nvme_ns *none = &(const struct nvme_ns){0};
    struct nvme_ns ns = {.nsid = node->nsid, .id = node->ns};
    uint32_t len;
    if (!p->admin && plx_get32(p->cmd.nsid) != node->nsid)
        return plx_fail(err, -EINVAL, "%s is namespace %u, and commands go to no other", node->path, node->nsid);
    int ret = check_ns(p, plx_get32(p->cmd.nsid) == node->nsid ? &ns : none, err);
    if (!ret)
        ret = find_length(p, &ns.id, &len, err);
    if (ret)
        return ret;
    uint8_t *data = aligned_alloc(NVME_PAGE, plx_align_up(plx_max_u64(len, p->len) + 1, NVME_PAGE));
    if (!data)
        return plx_fail(err, -ENOMEM, "out of memory");
    memset(data, 0, plx_max_u64(len, p->len));
    if (p->dir == NVME_FROM_HOST)
        memcpy(data, p->data, p->len);
    ret = node_send(node, p, data, len, err);
    free(data);
    return ret;
}

int nvme_pass_node(const char *path, struct nvme_pass *p, struct plx_error *err)
{
    struct nvme_uring_node *node;
    int ret = check_pass(p, err);
    if (!ret)
        ret = nvme_uring_open(path, NVME_URING_PASS, &node, err);
    if (ret)
        return ret;
    ret = node_pass(node, p, err);
    nvme_uring_close(node);
    return ret;
}

/* ---- the public face ---- */

int plx_nvme_send(const char *url, bool admin, const void *sqe, void *data, uint32_t len, uint32_t timeout_ms,
                  void *cqe, struct plx_error *err)
{
    struct nvme_where w;
    struct nvme_pass p = {.admin = admin, .data = data, .len = len, .timeout_ms = timeout_ms};
    const char *path = nvme_uring_path(url);
    memcpy(&p.cmd, sqe, sizeof p.cmd);
    p.dir = !len ? NVME_NO_DATA : (p.cmd.opcode & 3) == 1 ? NVME_FROM_HOST : NVME_TO_HOST;
    int ret = path ? nvme_pass_node(path, &p, err) : nvme_where_parse(&w, url, err);
    if (!ret && !path) {
        const struct nvme_opts o = nvme_where_opts(&w, 0);
        ret = nvme_pass(&o, &p, err);
    }
    if (!ret)
        memcpy(cqe, &p.cqe, sizeof p.cqe);
    return ret;
}
