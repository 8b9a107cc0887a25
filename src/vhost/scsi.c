/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests of a SCSI host: virtio 1.2, 5.6.6.1. A request is a header and data that the guest wrote, and a response and
 * data that it reads; where descriptors begin and end means nothing. Parsed by scsi_parse(), executed here.
 */
#include "vhost/scsi.h"

#include "vhost/scsi_resv.h"
#include "vhost/scsi_ring.h"

#include <stdlib.h>

enum { RESPONSE = sizeof(struct virtio_scsi_response) };

/* ---- ends ---- */

static struct scsi_lun_leg *lun_leg(const struct vhost_slot *s)
{
    return &s->task.lun->legs[s->ring->scsi->leg];
}

/* It uses its unit no more; the last one of a unit that leaves says so. */
static void task_leave(struct vhost_slot *s)
{
    if (!s->task.lun)
        return;
    struct scsi_lun_leg *leg = lun_leg(s);
    s->task.lun = NULL;
    if (plx_likely(--leg->in_flight || !leg->leaving))
        return;
    plx_fan_answer(leg->leaving, 0);
    leg->leaving = NULL;
}

/* All of the response is written, so that what the guest is told was written, was. */
static void task_end(struct vhost_slot *s, const struct virtio_scsi_response *response, uint32_t data)
{
    struct plx_iov_at at = {.iov = s->iov + s->nout};
    plx_iov_mend(&s->task.tail);
    if (plx_likely(!atomic_load_explicit(s->ring->halted, memory_order_relaxed)))
        plx_iov_scatter(&at, response, sizeof *response);
    vhost_ring_done(s, RESPONSE + data);
    task_leave(s);
}

/* `done` bytes of the data, in its one direction, were transferred. */
static void task_good(struct vhost_slot *s, uint64_t done, bool in)
{
    const uint64_t room = s->task.in_bytes + s->task.out_bytes;
    const struct virtio_scsi_response r = {.residual = plx_put32(room - done)};
    task_end(s, &r, in ? (uint32_t)done : 0);
}

static void task_answer(struct vhost_slot *s, enum virtio_scsi_answer answer)
{
    const struct virtio_scsi_response r = {.response = (uint8_t)answer,
                                           .residual = plx_put32(s->task.in_bytes + s->task.out_bytes)};
    task_end(s, &r, 0);
}

static void task_check(struct vhost_slot *s, const struct scsi_sense *sense)
{
    struct virtio_scsi_response r = {.status = SCSI_CHECK_CONDITION,
                                     .residual = plx_put32(s->task.in_bytes + s->task.out_bytes)};
    r.sense_len = plx_put32(scsi_sense_format(sense, false, r.sense));
    task_end(s, &r, 0);
}

static void task_illegal(struct vhost_slot *s, enum scsi_asc asc)
{
    struct scsi_sense sense;
    scsi_illegal(&sense, asc);
    task_check(s, &sense);
}

static void task_bad_field(struct vhost_slot *s, unsigned field)
{
    struct scsi_sense sense;
    scsi_bad_field(&sense, field);
    task_check(s, &sense);
}

static void task_status(struct vhost_slot *s, enum scsi_status status)
{
    const struct virtio_scsi_response r = {.status = (uint8_t)status,
                                           .residual = plx_put32(s->task.in_bytes + s->task.out_bytes)};
    task_end(s, &r, 0);
}

/* It was asked to end early, and has done so. */
static void task_ended(struct vhost_slot *s)
{
    if (s->task.ended)
        task_answer(s, (enum virtio_scsi_answer)s->task.ended);
    else
        task_status(s, SCSI_TASK_ABORTED);
}

static void task_failed(struct vhost_slot *s, uint16_t status)
{
    struct scsi_sense sense;
    if (status == PLX_SC_ABORTED_BY_REQUEST && (s->task.ended || s->task.expelled)) {
        task_ended(s);
    } else if (status == PLX_SC_RESERVATION_CONFLICT) {
        task_status(s, SCSI_RESERVATION_CONFLICT);
    } else {
        scsi_sense_of(status, &sense);
        task_check(s, &sense);
    }
}

static void task_finished(struct plx_bdev_req *req)
{
    struct vhost_slot *s = plx_container_of(req, struct vhost_slot, req);
    if (plx_likely(req->status == PLX_SC_SUCCESS))
        task_good(s, s->in_bytes, req->op == PLX_BDEV_READ);
    else
        task_failed(s, req->status);
}

/* Whether a reservation allows it. */
static bool task_may(const struct vhost_slot *s)
{
    const struct plx_resv *resv = lun_leg(s)->resv;
    const unsigned needs = s->task.needs;
    return plx_likely(!resv) || (plx_resv_access(resv, s->ring->scsi->scsi->initiator) & needs) == needs;
}

/* ---- reads, writes, and what else is one request to the disk ---- */

static void task_submit(struct vhost_slot *s, uint8_t op, uint8_t flags)
{
    s->req.done = task_finished;
    s->req.op = op;
    s->req.flags = flags;
    plx_bdev_submit(lun_leg(s)->channel, &s->req);
}

/* An iovec of exactly so many bytes, of the at least as many that there are. @return its entries */
static uint32_t task_trim(struct iovec *iov, uint32_t n, uint64_t have, uint64_t want)
{
    uint32_t i = 0;
    if (plx_likely(have == want))
        return n;
    while (want > iov[i].iov_len)
        want -= iov[i++].iov_len;
    iov[i].iov_len = want;
    return i + 1;
}

static bool task_in_range(struct vhost_slot *s, uint64_t lba, uint64_t blocks)
{
    const uint64_t all = plx_bdev_blocks(s->task.lun->bdev);
    if (plx_likely(lba <= all && blocks <= all - lba))
        return true;
    task_illegal(s, SCSI_ASC_LBA_RANGE);
    return false;
}

static void task_transfer(struct vhost_slot *s, const struct scsi_command *cmd, uint8_t op, unsigned times)
{
    struct scsi_task *t = &s->task;
    const bool in = op == PLX_BDEV_READ;
    const uint64_t bytes = ((uint64_t)cmd->len << t->lun->shift) * times, have = in ? t->in_bytes : t->out_bytes;
    if (plx_unlikely(!task_in_range(s, cmd->lba, cmd->len)))
        return;
    if (plx_unlikely(bytes > have || bytes > UINT32_MAX - RESPONSE)) {
        task_answer(s, VIRTIO_SCSI_OVERRUN);
        return;
    }
    if (plx_unlikely(!cmd->len)) {
        task_good(s, 0, false);
        return;
    }
    s->in_bytes = (uint32_t)bytes;
    s->req.iov = in ? t->in : t->out;
    s->req.iovcnt = task_trim(s->req.iov, in ? t->nin : t->nout, have, bytes);
    s->req.lba = cmd->lba;
    s->req.nlb = cmd->len;
    const bool fua = cmd->cdb[cmd->rule->bytes == 32 ? 10 : 1] & 8 && cmd->rule->bytes != 6;
    task_submit(s, op, fua && !in && op != PLX_BDEV_COMPARE ? PLX_BDEV_FUA : 0);
}

static void task_flush(struct vhost_slot *s)
{
    s->in_bytes = 0;
    s->req.iovcnt = 0;
    s->req.nlb = 0;
    task_submit(s, PLX_BDEV_FLUSH, 0);
}

/* With BYTCHK the data is to be what is there; without, that there is something is enough (SBC-4, 5.36). */
static void task_verify(struct vhost_slot *s, const struct scsi_command *cmd)
{
    if (cmd->cdb[1] & 2)
        task_transfer(s, cmd, PLX_BDEV_COMPARE, 1);
    else if (task_in_range(s, cmd->lba, cmd->len))
        task_good(s, 0, false);
}

/* ---- what is done step by step ---- */

/* Not one within the other: there may be hundreds that are done in place. @param next false: the request has ended */
static void task_steps(struct vhost_slot *s, bool (*next)(struct vhost_slot *s))
{
    do {
        s->again = false;
        if (s->task.ended || s->task.expelled) {
            task_ended(s);
            return;
        }
        if (!task_may(s)) {
            task_status(s, SCSI_RESERVATION_CONFLICT);
            return;
        }
        s->stepping = true;
        const bool going = next(s);
        s->stepping = false;
        if (!going)
            return;
    } while (s->again);
}

static void task_stepped(struct plx_bdev_req *req, bool (*next)(struct vhost_slot *s))
{
    struct vhost_slot *s = plx_container_of(req, struct vhost_slot, req);
    if (req->status) {
        s->again = false;
        task_failed(s, req->status);
        return;
    }
    s->again = true;
    if (!s->stepping)
        task_steps(s, next);
}

/* ---- UNMAP (SBC-4, 5.35) ---- */

enum { UNMAP_HEADER = 8, UNMAP_RANGE = 16 };

static void unmap_read(const struct vhost_slot *s, unsigned i, uint64_t *lba, uint32_t *blocks)
{
    uint8_t range[UNMAP_RANGE];
    struct plx_iov_at at = {.iov = s->task.out};
    plx_iov_skip(&at, UNMAP_HEADER + i * sizeof range);
    plx_iov_gather(&at, range, sizeof range);
    *lba = scsi_get64(range);
    *blocks = scsi_get32(range + 8);
}

static bool unmap_next(struct vhost_slot *s);

static void unmap_done(struct plx_bdev_req *req)
{
    task_stepped(req, unmap_next);
}

/* What the guest has written it may change meanwhile: the disk looks at every range once more. */
static bool unmap_next(struct vhost_slot *s)
{
    uint64_t lba = 0;
    uint32_t blocks = 0;
    while (s->range < s->nranges && !blocks)
        unmap_read(s, s->range++, &lba, &blocks);
    if (!blocks) {
        task_good(s, s->task.list, false);
        return false;
    }
    s->req.done = unmap_done;
    s->req.op = PLX_BDEV_UNMAP;
    s->req.flags = 0;
    s->req.iovcnt = 0;
    s->req.lba = lba;
    s->req.nlb = blocks;
    plx_bdev_submit(lun_leg(s)->channel, &s->req);
    return true;
}

/* @return whether all of the ranges can be unmapped; if not, the request has ended, and nothing was done */
static bool unmap_check(struct vhost_slot *s)
{
    uint64_t all = 0;
    for (unsigned i = 0; i < s->nranges; i++) {
        uint64_t lba;
        uint32_t blocks;
        unmap_read(s, i, &lba, &blocks);
        all += blocks;
        if (!task_in_range(s, lba, blocks))
            return false;
    }
    if (all <= SCSI_RANGE_BYTES >> s->task.lun->shift)
        return true;
    task_illegal(s, SCSI_ASC_PARAMETER_FIELD);
    return false;
}

static void task_unmap(struct vhost_slot *s, const struct scsi_command *cmd)
{
    struct plx_iov_at at = {.iov = s->task.out};
    uint8_t header[UNMAP_HEADER];
    if (cmd->len > s->task.out_bytes) {
        task_answer(s, VIRTIO_SCSI_OVERRUN);
        return;
    }
    if (cmd->len < sizeof header) {
        if (cmd->len)
            task_illegal(s, SCSI_ASC_PARAMETER_LENGTH);
        else
            task_good(s, 0, false);
        return;
    }
    plx_iov_gather(&at, header, sizeof header);
    const uint32_t n = (uint32_t)plx_min_u64(scsi_get16(header + 2), cmd->len - sizeof header) / UNMAP_RANGE;
    if (n > SCSI_UNMAP_RANGES) {
        task_illegal(s, SCSI_ASC_PARAMETER_FIELD);
        return;
    }
    s->range = 0;
    s->nranges = (uint16_t)n;
    s->task.list = cmd->len;
    if (unmap_check(s))
        task_steps(s, unmap_next);
}

/* ---- WRITE SAME (SBC-4, 5.49 to 5.51) ---- */

enum { SAME_UNMAP = 8, SAME_NO_DATA = 1 };

static bool only_zeroes(const struct iovec *iov, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *p = iov[i].iov_base;
        if (iov[i].iov_len && (*p || memcmp(p, p + 1, iov[i].iov_len - 1) != 0))
            return false;
    }
    return true;
}

static bool same_next(struct vhost_slot *s);

static void same_done(struct plx_bdev_req *req)
{
    task_stepped(req, same_next);
}

/*
 * As many copies of the block as entries of the slot are free for, all of which are the guest's one. Without room for
 * any other the block is written from where it is.
 */
static bool same_next(struct vhost_slot *s)
{
    struct scsi_task *t = &s->task;
    const unsigned room = (VHOST_IOVS - s->niov) / t->nout;
    const uint32_t blocks = (uint32_t)plx_min_u64(t->left, room ? room : 1);
    if (!blocks) {
        task_good(s, UINT64_C(1) << t->lun->shift, false);
        return false;
    }
    s->req.iov = room ? s->iov + s->niov : t->out;
    for (unsigned i = 0; room && i < blocks; i++)
        memcpy(s->req.iov + i * t->nout, t->out, t->nout * sizeof *t->out);
    s->req.done = same_done;
    s->req.op = PLX_BDEV_WRITE;
    s->req.flags = 0;
    s->req.iovcnt = t->nout * blocks;
    s->req.lba = t->lba;
    s->req.nlb = blocks;
    t->lba += blocks;
    t->left -= blocks;
    plx_bdev_submit(lun_leg(s)->channel, &s->req);
    return true;
}

static void same_zeroes(struct vhost_slot *s, const struct scsi_command *cmd, uint32_t data)
{
    s->in_bytes = data;
    s->req.iovcnt = 0;
    s->req.lba = cmd->lba;
    s->req.nlb = cmd->len;
    task_submit(s, PLX_BDEV_WRITE_ZEROES, cmd->cdb[1] & SAME_UNMAP ? PLX_BDEV_UNMAP_OK : 0);
}

static void task_write_same(struct vhost_slot *s, const struct scsi_command *cmd)
{
    struct scsi_task *t = &s->task;
    const uint32_t block = UINT32_C(1) << t->lun->shift;
    const bool none = cmd->rule->bytes == 16 && cmd->cdb[1] & SAME_NO_DATA;
    if (!cmd->len || cmd->len > SCSI_RANGE_BYTES >> t->lun->shift) {
        task_bad_field(s, cmd->rule->len_at);
        return;
    }
    if (cmd->cdb[1] & SAME_UNMAP && !t->lun->unit.unmaps) {
        task_bad_field(s, 1);
        return;
    }
    if (!task_in_range(s, cmd->lba, cmd->len))
        return;
    if (!none && t->out_bytes < block) {
        task_answer(s, VIRTIO_SCSI_OVERRUN);
        return;
    }
    if (!none)
        t->nout = task_trim(t->out, t->nout, t->out_bytes, block);
    if (none || only_zeroes(t->out, t->nout)) {
        same_zeroes(s, cmd, none ? 0 : block);
        return;
    }
    t->lba = cmd->lba;
    t->left = cmd->len;
    task_steps(s, same_next);
}

/* ---- what is known without the disk ---- */

/* The first of what is to be told, which is told then; of a unit, to a nexus. @return false when there is nothing */
static bool take_attention(const struct vhost_slot *s, struct scsi_sense *sense)
{
    static const uint16_t ascs[SCSI_ATTENTIONS] = {
        [SCSI_ATTENTION_RESET] = SCSI_ASC_RESET,
        [SCSI_ATTENTION_RESERVATIONS_PREEMPTED] = SCSI_ASC_RESERVATIONS_PREEMPTED,
        [SCSI_ATTENTION_RESERVATIONS_RELEASED] = SCSI_ASC_RESERVATIONS_RELEASED,
        [SCSI_ATTENTION_REGISTRATIONS_PREEMPTED] = SCSI_ASC_REGISTRATIONS_PREEMPTED,
        [SCSI_ATTENTION_CAPACITY] = SCSI_ASC_CAPACITY,
        [SCSI_ATTENTION_LUNS] = SCSI_ASC_LUNS,
    };
    atomic_uint *a = &s->task.lun->attentions[s->ring->scsi->nexus];
    unsigned bits = atomic_load_explicit(a, memory_order_relaxed);
    while (bits && !atomic_compare_exchange_weak_explicit(a, &bits, bits & (bits - 1), memory_order_acquire,
                                                          memory_order_relaxed))
        ;
    if (!bits)
        return false;
    *sense = (struct scsi_sense){.key = SCSI_UNIT_ATTENTION, .asc = ascs[__builtin_ctz(bits)]};
    return true;
}

void scsi_unit_now(const struct scsi_lun *l, struct scsi_unit *out)
{
    *out = l->unit;
    out->blocks = plx_bdev_blocks(l->bdev);
}

static void task_give(struct vhost_slot *s, const uint8_t *reply, uint32_t n)
{
    struct plx_iov_at at = {.iov = s->task.in};
    if (n > s->task.in_bytes) {
        task_answer(s, VIRTIO_SCSI_OVERRUN);
        return;
    }
    if (plx_likely(!atomic_load_explicit(s->ring->halted, memory_order_relaxed)))
        plx_iov_scatter(&at, reply, n);
    task_good(s, n, true);
}

static void task_reply(struct vhost_slot *s, const struct scsi_command *cmd, const uint8_t *reply, uint32_t bytes)
{
    task_give(s, reply, (uint32_t)plx_min_u64(bytes, cmd->rule->len_bytes ? cmd->len : bytes));
}

static void task_sense(struct vhost_slot *s, const struct scsi_command *cmd)
{
    uint8_t out[SCSI_SENSE_BYTES];
    struct scsi_sense sense = {.key = SCSI_NO_SENSE};
    if (s->task.lun)
        take_attention(s, &sense);
    else
        scsi_illegal(&sense, SCSI_ASC_NO_LUN);
    task_reply(s, cmd, out, scsi_sense_format(&sense, cmd->cdb[1] & 1, out));
}

static void known_units(const struct scsi_target *t, uint8_t out[SCSI_UNITS / 8])
{
    memset(out, 0, SCSI_UNITS / 8);
    for (unsigned i = 0; i < SCSI_UNITS; i++)
        if (atomic_load_explicit(&t->units[i], memory_order_relaxed))
            out[i / 8] = (uint8_t)(out[i / 8] | 1 << i % 8);
}

static void task_known(struct vhost_slot *s, const struct scsi_command *cmd, const struct scsi_target *target)
{
    uint8_t reply[SCSI_REPLY_BYTES], units[SCSI_UNITS / 8];
    struct scsi_sense sense;
    struct scsi_unit unit;
    if (s->task.lun)
        scsi_unit_now(s->task.lun, &unit);
    known_units(target, units);
    const uint32_t n = scsi_answer(cmd, s->task.lun ? &unit : NULL, units, reply, &sense);
    if (n)
        task_reply(s, cmd, reply, n);
    else
        task_check(s, &sense);
}

/* ---- reservations ---- */

/* A command on its way to the control reactor and back; in the context of the request, which no disk has. */
struct scsi_reserve {
    struct plx_resv_op op;
    uint8_t action;
    uint32_t len; /* of what an IN reads, at most */
    uint8_t *reply;
};
_Static_assert(sizeof(struct scsi_reserve) <= PLX_BDEV_CONTEXT, "it fits");

static struct vhost_slot *reserve_slot(struct plx_resv_op *op)
{
    void *context = plx_container_of(op, struct scsi_reserve, op);
    return plx_container_of((uint8_t(*)[PLX_BDEV_CONTEXT])context, struct vhost_slot, req.context);
}

static void reserve_look(struct plx_resv_op *op, const struct plx_resv *r)
{
    struct scsi_reserve *v = plx_container_of(op, struct scsi_reserve, op);
    v->reply = malloc(SCSI_RESV_REPLY);
    if (v->reply)
        v->len = (uint32_t)plx_min_u64(v->len, scsi_resv_reply(v->action, r, op->cmd.can_persist, v->reply));
}

static void reserve_looked(struct plx_resv_op *op)
{
    const struct scsi_reserve *v = plx_container_of(op, struct scsi_reserve, op);
    struct vhost_slot *s = reserve_slot(op);
    uint8_t *reply = v->reply; /* what it is in is the ring's as soon as the task has ended */
    if (reply)
        task_give(s, reply, v->len);
    else
        task_status(s, SCSI_BUSY);
    free(reply);
}

static void reserve_done(struct plx_resv_op *op)
{
    struct vhost_slot *s = reserve_slot(op);
    struct scsi_sense sense;
    if (op->answer == PLX_RESV_DONE) {
        task_good(s, SCSI_RESV_LIST, false);
    } else if (op->answer == PLX_RESV_CONFLICT) {
        task_status(s, SCSI_RESERVATION_CONFLICT);
    } else if (op->answer == PLX_RESV_NO_MEMORY) {
        task_status(s, SCSI_BUSY);
    } else {
        scsi_resv_sense(op->answer, &sense);
        task_check(s, &sense);
    }
}

static void task_reserve(struct vhost_slot *s, const struct scsi_command *cmd)
{
    struct plx_iov_at at = {.iov = s->task.out};
    struct scsi_reserve *v = (struct scsi_reserve *)(void *)s->req.context;
    uint8_t list[SCSI_RESV_LIST];
    struct scsi_sense sense;
    *v = (struct scsi_reserve){.action = (uint8_t)cmd->rule->action, .len = cmd->len};
    v->op.reactor = s->ring->home;
    if (cmd->rule->kind == SCSI_RESERVE_IN) {
        v->op.cmd.kind = PLX_RESV_LOOK;
        v->op.look = reserve_look;
        v->op.done = reserve_looked;
    } else if (cmd->len != sizeof list) {
        task_illegal(s, SCSI_ASC_PARAMETER_LENGTH);
        return;
    } else if (s->task.out_bytes < sizeof list) {
        task_answer(s, VIRTIO_SCSI_OVERRUN);
        return;
    } else {
        plx_iov_gather(&at, list, sizeof list);
        v->op.done = reserve_done;
        if (!scsi_resv_parse(cmd, list, &v->op.cmd, &sense)) {
            task_check(s, &sense);
            return;
        }
    }
    memcpy(v->op.cmd.name, s->ring->scsi->scsi->initiator, sizeof v->op.cmd.name);
    plx_resv_submit(&s->task.lun->resv, &v->op);
}

/* ---- beginnings ---- */

static void task_odd(struct vhost_slot *s, const struct scsi_command *cmd, const struct scsi_target *target)
{
    switch (cmd->rule->kind) {
    case SCSI_NOTHING:
        task_good(s, 0, false);
        break;
    case SCSI_REQUEST_SENSE:
        task_sense(s, cmd);
        break;
    case SCSI_VERIFY:
        task_verify(s, cmd);
        break;
    case SCSI_UNMAP:
        task_unmap(s, cmd);
        break;
    case SCSI_WRITE_SAME:
        task_write_same(s, cmd);
        break;
    case SCSI_COMPARE_AND_WRITE:
        task_transfer(s, cmd, PLX_BDEV_COMPARE_AND_WRITE, 2);
        break;
    case SCSI_RESERVE_IN:
    case SCSI_RESERVE_OUT:
        task_reserve(s, cmd);
        break;
    case SCSI_FLUSH:
        if (task_in_range(s, cmd->lba, cmd->len))
            task_flush(s);
        break;
    case SCSI_START_STOP: /* a unit that is stopped has its data on stable storage, unless it need not */
        if (cmd->cdb[4] & 5)
            task_good(s, 0, false);
        else
            task_flush(s);
        break;
    default:
        task_known(s, cmd, target);
    }
}

static void task_execute(struct vhost_slot *s, const struct scsi_command *cmd, const struct scsi_target *target)
{
    const uint8_t kind = cmd->rule->kind;
    if (plx_unlikely(cmd->rule->traits & (SCSI_UNMAPS | SCSI_COMPARES) && !scsi_has(&s->task.lun->unit, cmd->rule)))
        task_illegal(s, SCSI_ASC_OPCODE);
    else if (plx_unlikely(cmd->rule->traits & SCSI_WRITES && s->task.lun->unit.read_only))
        task_failed(s, PLX_SC_NAMESPACE_WRITE_PROTECTED);
    else if (plx_likely(kind == SCSI_READ || kind == SCSI_WRITE))
        task_transfer(s, cmd, kind == SCSI_READ ? PLX_BDEV_READ : PLX_BDEV_WRITE, 1);
    else
        task_odd(s, cmd, target);
}

/* What is pending for the nexus comes before anything that could be wrong with the command (SAM-5, 5.14). */
static bool passes(struct vhost_slot *s, const struct scsi_command *cmd)
{
    const unsigned traits = cmd->rule ? cmd->rule->traits : 0;
    struct scsi_sense sense;
    if (plx_unlikely(!s->task.lun)) {
        if (traits & SCSI_ANY_LUN)
            return true;
        task_illegal(s, SCSI_ASC_NO_LUN);
        return false;
    }
    if (plx_unlikely(!(traits & SCSI_CALM) && take_attention(s, &sense))) {
        task_check(s, &sense);
        return false;
    }
    s->task.needs = (uint8_t)(cmd->rule ? scsi_resv_need(cmd) : 0);
    if (plx_likely(task_may(s)))
        return true;
    task_status(s, SCSI_RESERVATION_CONFLICT);
    return false;
}

static void task_find(struct vhost_slot *s, const struct virtio_scsi_request *request)
{
    const struct vhost_scsi *h = s->ring->scsi->scsi;
    struct scsi_target *target = NULL;
    struct scsi_command cmd;
    struct scsi_sense sense;
    unsigned t, number;
    if (!scsi_lun_parse(request->lun, &t, &number)) {
        task_answer(s, VIRTIO_SCSI_BAD_TARGET);
        return;
    }
    struct scsi_lun *lun = scsi_lun_find(h, t, number, &target);
    if (!target) {
        task_answer(s, VIRTIO_SCSI_BAD_TARGET);
        return;
    }
    s->task.target = (uint8_t)t;
    s->task.number = (uint16_t)number;
    s->task.lun = lun;
    if (lun)
        lun_leg(s)->in_flight++;
    const bool known = scsi_parse(request->cdb, &cmd, &sense);
    if (!passes(s, &cmd))
        return;
    if (plx_likely(known))
        task_execute(s, &cmd, target);
    else
        task_check(s, &sense);
}

static uint64_t part_bytes(const struct iovec *iov, unsigned n)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* Data behind the first bytes of a part. An entry that these share with it begins later from here on. */
static struct iovec *behind(struct iovec *iov, uint32_t *n, uint64_t bytes, size_t first, struct plx_iov_tail *tail)
{
    if (plx_likely(*n && iov->iov_len == first)) {
        --*n;
        return iov + 1;
    }
    if (bytes == first) {
        *n = 0;
        return iov;
    }
    return plx_iov_cut(tail, iov, n, first);
}

static void task_start(struct vhost_slot *s)
{
    struct vhost_ring *r = s->ring;
    struct virtio_scsi_request request;
    struct scsi_task *t = &s->task;
    struct plx_iov_at at = {.iov = s->iov};
    struct plx_iov_tail header;
    const uint64_t out = part_bytes(s->iov, s->nout), in = part_bytes(s->iov + s->nout, s->niov - s->nout);
    s->status = NULL;
    *t = (struct scsi_task){.seq = r->scsi->scsi->legs[r->scsi->leg].seq++};
    if (plx_unlikely(in < RESPONSE)) { /* no place to say anything */
        vhost_ring_break(r, "a request without room for its response");
        vhost_ring_done(s, 0);
        return;
    }
    t->nin = s->niov - s->nout;
    t->in = behind(s->iov + s->nout, &t->nin, in, RESPONSE, &t->tail);
    if (plx_unlikely(out < sizeof request)) {
        task_answer(s, VIRTIO_SCSI_FAILURE);
        return;
    }
    plx_iov_gather(&at, &request, sizeof request);
    t->nout = s->nout;
    t->out = behind(s->iov, &t->nout, out, sizeof request, &header);
    t->in_bytes = in - RESPONSE;
    t->out_bytes = out - sizeof request;
    memcpy(&t->tag, request.tag, sizeof t->tag);
    task_find(s, &request);
}

void vhost_scsi_start(struct vhost_slot *s)
{
    if (plx_likely(s->ring->index >= VIRTIO_SCSI_REQUEST))
        task_start(s);
    else if (s->ring->index == VIRTIO_SCSI_CONTROL)
        scsi_control_start(s);
    else
        scsi_event_start(s);
}
