/* SPDX-License-Identifier: BSD-3-Clause */
/* What messages of a front-end do: vhost-user, "Front-end message types". All of them have passed vhost_msg_check(). */
#include "vhost/vhost.h"

#include "base/log.h"
#include "reactor/eventfd.h"
#include "vhost/scsi_spec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t vhost_offered(const struct plx_vhost_ctrlr *c)
{
    return (c->scsi ? vhost_scsi_features(c->scsi) : vhost_blk_features(&c->blk)) |
           VHOST_BIT(VHOST_USER_F_PROTOCOL_FEATURES) | VHOST_BIT(VHOST_F_LOG_ALL);
}

uint64_t vhost_offered_protocol(void)
{
    return VHOST_BIT(VHOST_PROTOCOL_MQ) | VHOST_BIT(VHOST_PROTOCOL_LOG_SHMFD) | VHOST_BIT(VHOST_PROTOCOL_REPLY_ACK) |
           VHOST_BIT(VHOST_PROTOCOL_BACKEND_REQ) | VHOST_BIT(VHOST_PROTOCOL_CONFIG) |
           VHOST_BIT(VHOST_PROTOCOL_INFLIGHT_SHMFD) | VHOST_BIT(VHOST_PROTOCOL_RESET_DEVICE) |
           VHOST_BIT(VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS) | VHOST_BIT(VHOST_PROTOCOL_STATUS);
}

unsigned vhost_rings_of(const struct plx_vhost_ctrlr *c)
{
    return c->scsi ? vhost_scsi_rings(c->scsi) : c->blk.queues;
}

static void handle_answer_u64(struct vhost_device *d, uint64_t v)
{
    vhost_device_answer(d, &v, sizeof v, -1);
}

/* The message's first descriptor becomes the caller's; -1 when there is none. */
static int take_fd(struct vhost_device *d)
{
    const int fd = d->msg.nfds ? d->msg.fds[0] : -1;
    if (d->msg.nfds) {
        d->msg.nfds--;
        memmove(d->msg.fds, d->msg.fds + 1, d->msg.nfds * sizeof d->msg.fds[0]);
    }
    return fd;
}

static void replace_fd(int *fd, int by)
{
    if (*fd >= 0)
        close(*fd);
    *fd = by;
}

/* ---- rings ---- */

static void ring_in_trouble(struct vhost_ring *r)
{
    struct vhost_device *d = r->owner;
    if (d->dying)
        return;
    if (atomic_load(&d->halted)) {
        plx_warn("%s: memory that it shares has become shorter; the connection ends", d->name);
        vhost_device_close(d);
    } else if (r->broken && !r->told) {
        r->told = r->why;
        plx_warn("%s: ring %u: %s; nothing more is taken off it", d->name, r->index, r->why);
        if (r->err_fd >= 0)
            plx_eventfd_tell(r->control, r->err_fd);
    }
}

/* No request of the ring uses memory of the table before any more. */
static void ring_old_done(struct vhost_ring *r)
{
    struct vhost_device *d = r->owner;
    if (--d->old_users)
        return;
    vhost_table_free(d->old);
    d->old = NULL;
    vhost_device_resume(d);
}

static bool wants_fua(const struct vhost_device *d)
{
    if (d->ctrlr->scsi || !d->ctrlr->blk.info.write_cache)
        return false;
    return d->features & VHOST_BIT(VIRTIO_BLK_F_CONFIG_WCE) ? !d->writeback
                                                            : !(d->features & VHOST_BIT(VIRTIO_BLK_F_FLUSH));
}

/* What is common to all rings of a device. */
static void want_common(const struct vhost_device *d, struct vhost_ring *r)
{
    r->want.features = d->features;
    r->want.table = d->table;
    r->want.log = d->features & VHOST_BIT(VHOST_F_LOG_ALL) ? d->log : NULL;
    r->want.fua = wants_fua(d);
}

/* Which reactor it is on, and by what it gets to the disk. @return 0 or -ENOMEM */
static int ring_place(struct vhost_ring *r, struct vhost_device *d)
{
    const struct plx_vhost_ctrlr *c = d->ctrlr;
    const unsigned n = c->scsi ? vhost_scsi_reactors(c->scsi) : c->nreactors, leg = (c->first + r->index) % n;
    r->blk = &c->blk; /* of a host, what interrupts are put off by */
    if (c->scsi) {
        r->home = vhost_scsi_reactor(c->scsi, leg);
        return vhost_scsi_ring_init(r, c->scsi, leg, d);
    }
    r->home = c->reactors[leg];
    r->channel = c->blk.gone ? NULL : plx_bdev_access_channel(&c->access, leg);
    return 0;
}

/* The ring that a message is about, made when it is first heard of; or NULL, and the message is refused. */
static struct vhost_ring *ring_get(struct vhost_device *d)
{
    const unsigned i = (unsigned)vhost_msg_ring(&d->msg);
    struct vhost_ring *r = d->rings[i];
    if (r)
        return r;
    r = calloc(1, sizeof *r);
    if (r)
        r->index = i;
    if (!r || ring_place(r, d)) {
        free(r);
        vhost_device_refuse(d, "out of memory");
        return NULL;
    }
    r->control = d->ctrlr->vhost->control;
    r->halted = &d->halted;
    r->owner = d;
    r->old_done = ring_old_done;
    r->in_trouble = ring_in_trouble;
    r->err_fd = r->want.kick = r->want.call = r->is.kick = r->is.call = -1;
    /* Without the protocol's features rings have no messages to enable them (SET_VRING_ENABLE). */
    r->want.enabled = !(d->features & VHOST_BIT(VHOST_USER_F_PROTOCOL_FEATURES));
    d->rings[i] = r;
    return r;
}

#define for_each_ring(d, r)                                                                                            \
    for (unsigned i_ = 0; i_ < VHOST_RINGS; i_++)                                                                      \
        for (struct vhost_ring *r = (d)->rings[i_]; r; r = NULL)

bool vhost_rings_run(const struct vhost_device *d)
{
    for_each_ring(d, r)
    {
        if (r->want.running)
            return true;
    }
    return false;
}

/* Tells all rings that run what has changed. */
static void tell_rings(struct vhost_device *d, void (*then)(struct vhost_device *d))
{
    for_each_ring(d, r)
    {
        want_common(d, r);
        if (r->want.running)
            vhost_device_order(d, r);
    }
    vhost_device_then(d, then);
}

void vhost_rings_stop(struct vhost_device *d, void (*then)(struct vhost_device *d))
{
    for_each_ring(d, r)
    {
        if (!r->want.running)
            continue;
        r->want.running = r->started = false;
        vhost_device_order(d, r);
    }
    vhost_device_then(d, then);
}

static void log_free(struct vhost_log *log)
{
    if (log)
        vhost_unmap(&log->map);
    free(log);
}

void vhost_device_clean(struct vhost_device *d)
{
    for_each_ring(d, r)
    {
        int *const fds[] = {&r->want.kick, &r->want.call, &r->err_fd};
        for (unsigned i = 0; i < PLX_ARRAY_SIZE(fds); i++)
            replace_fd(fds[i], -1);
        vhost_ring_free_memory(r);
        vhost_scsi_ring_free(r);
        free(r);
    }
    memset(d->rings, 0, sizeof d->rings);
    vhost_table_free(d->old);
    vhost_table_free(d->table);
    log_free(d->log);
    log_free(d->old_log);
    vhost_unmap(&d->inflight);
    replace_fd(&d->backend, -1);
}

/* ---- features ---- */

static void set_features(struct vhost_device *d)
{
    const uint64_t f = d->msg.body.u64;
    const uint64_t may = VHOST_BIT(VHOST_F_LOG_ALL) | VHOST_BIT(VHOST_USER_F_PROTOCOL_FEATURES);
    if (!(f & VHOST_BIT(VIRTIO_F_VERSION_1))) {
        vhost_device_refuse(d, "only devices of virtio 1.0 and newer are served (VIRTIO_F_VERSION_1)");
        return;
    }
    if ((f ^ d->features) & ~may && vhost_rings_run(d)) {
        vhost_device_refuse(d, "features change while rings run");
        return;
    }
    d->features = f;
    for_each_ring(d, r)
    {
        if (!(f & VHOST_BIT(VHOST_USER_F_PROTOCOL_FEATURES)))
            r->want.enabled = true;
    }
    tell_rings(d, vhost_device_ok);
}

static void set_protocol_features(struct vhost_device *d)
{
    d->protocol = d->msg.body.u64;
    vhost_device_ok(d);
}

static void reset_owner(struct vhost_device *d)
{
    for_each_ring(d, r)
    {
        r->want.enabled = false;
    }
    tell_rings(d, vhost_device_ok);
}

static void was_reset(struct vhost_device *d)
{
    for_each_ring(d, r)
    {
        replace_fd(&r->want.kick, -1);
        r->want.enabled = r->addressed = false;
        r->num = r->base = 0;
        vhost_ring_free_memory(r);
    }
    d->features = 0;
    d->status = 0;
    d->writeback = true;
    vhost_device_ok(d);
}

static void reset_device(struct vhost_device *d)
{
    vhost_rings_stop(d, was_reset);
}

static void get_status(struct vhost_device *d)
{
    uint8_t needs_reset = 0;
    for_each_ring(d, r)
    {
        if (r->want.running && r->told)
            needs_reset = 0x40; /* virtio 1.2, 2.1 */
    }
    handle_answer_u64(d, d->status | needs_reset);
}

/* ---- memory ---- */

static void table_adopted(struct vhost_device *d)
{
    if (!d->old_users) {
        vhost_table_free(d->old);
        d->old = NULL;
    }
    vhost_device_ok(d);
}

/* Rings go over to another table. The one before stays until no request uses its memory, which nobody waits for. */
static void adopt_table(struct vhost_device *d, struct vhost_table *t)
{
    d->old = d->table;
    d->table = t;
    for_each_ring(d, r)
    {
        d->old_users += r->want.running;
    }
    tell_rings(d, table_adopted);
}

static void change_memory(struct vhost_device *d)
{
    const struct vhost_msg *m = &d->msg;
    struct vhost_table *t = NULL;
    struct plx_error err;
    int ret;
    if (d->old_users) { /* of the change before this one */
        vhost_device_hold(d);
        return;
    }
    if (m->header.request == VHOST_SET_MEM_TABLE)
        ret = vhost_table_set(&t, d->table, m->body.table.regions, m->fds, m->body.table.n, &d->halted, &err);
    else if (m->header.request == VHOST_ADD_MEM_REG)
        ret = vhost_table_add(&t, d->table, &m->body.single.region, m->fds[0], &d->halted, &err);
    else
        ret = vhost_table_remove(&t, d->table, &m->body.single.region, &err);
    if (ret)
        vhost_device_refuse(d, err.text);
    else
        adopt_table(d, t);
}

/* ---- the log of written pages ---- */

/* The answer says that the log before is not touched any more. */
static void log_adopted(struct vhost_device *d)
{
    log_free(d->old_log);
    d->old_log = NULL;
    vhost_device_answer(d, &d->msg.body.log, sizeof d->msg.body.log, -1);
}

static void set_log_base(struct vhost_device *d)
{
    const struct vhost_log_base *l = &d->msg.body.log;
    struct plx_error err;
    struct vhost_log *log = calloc(1, sizeof *log);
    int ret = log ? vhost_map(&log->map, d->msg.fds[0], l->offset, l->size, &d->halted, &err)
                  : plx_fail(&err, -ENOMEM, "out of memory");
    if (ret) {
        free(log);
        vhost_device_refuse(d, err.text);
        return;
    }
    log->bytes = l->size;
    d->old_log = d->log;
    d->log = log;
    tell_rings(d, log_adopted);
}

/* ---- configuration ---- */

static void read_config(struct vhost_device *d)
{
    struct vhost_config out = d->msg.body.config;
    uint8_t all[VHOST_CONFIG_BYTES] = {0};
    struct virtio_blk_config blk;
    struct virtio_scsi_config scsi;
    if (!out.size || out.offset > sizeof all || out.size > sizeof all - out.offset) {
        vhost_device_refuse(d, "a piece of the configuration beyond its end");
        return;
    }
    if (d->ctrlr->scsi) {
        vhost_scsi_config(d->ctrlr->scsi, &scsi);
        memcpy(all, &scsi, sizeof scsi);
    } else {
        vhost_blk_config(&d->ctrlr->blk, d->writeback, &blk);
        memcpy(all, &blk, sizeof blk);
    }
    memcpy(out.data, all + out.offset, out.size);
    vhost_device_answer(d, &out, VHOST_CONFIG_HEADER + out.size, -1);
}

/*
 * The one field that a driver may write: whether writes may stay in the disk's cache. Of a SCSI host none has to be, as
 * the lengths of sense and of CDBs are what there can be.
 */
static void write_config(struct vhost_device *d)
{
    const struct vhost_config *c = &d->msg.body.config;
    const uint32_t at = offsetof(struct virtio_blk_config, writeback);
    const bool migration = c->flags & 1, scsi = d->ctrlr->scsi != NULL,
               has = c->offset <= at && c->size > at - c->offset;
    if (c->offset > VHOST_CONFIG_BYTES || (!migration && (scsi || c->offset != at || c->size != 1))) {
        vhost_device_refuse(d, "a field of the configuration that is not to be written");
        return;
    }
    if (has && !scsi)
        d->writeback = c->data[at - c->offset] != 0;
    tell_rings(d, vhost_device_ok);
}

/* ---- requests in flight ---- */

static uint64_t region_bytes(const struct vhost_device *d, unsigned queue_size)
{
    return vhost_inflight_bytes(queue_size, d->features & VHOST_BIT(VIRTIO_F_RING_PACKED));
}

/* A file of zeroes: its version says that it was not used yet. */
static void make_inflight(struct vhost_device *d)
{
    struct vhost_inflight out = d->msg.body.inflight;
    int fd = memfd_create("pollux-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    out.size = out.queues * region_bytes(d, out.queue_size);
    out.offset = 0;
    if (fd < 0 || ftruncate(fd, (off_t)out.size) < 0) {
        vhost_device_refuse(d, strerror(errno));
    } else {
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        vhost_device_answer(d, &out, sizeof out, fd);
    }
    if (fd >= 0)
        close(fd);
}

static void take_inflight(struct vhost_device *d)
{
    const struct vhost_inflight *i = &d->msg.body.inflight;
    struct vhost_map map = {0};
    struct plx_error err;
    if (vhost_rings_run(d)) {
        vhost_device_refuse(d, "the region changes while rings run");
        return;
    }
    if (i->size < i->queues * region_bytes(d, i->queue_size) || i->offset % 8) {
        vhost_device_refuse(d, "the region is too small for its rings");
        return;
    }
    if (vhost_map(&map, d->msg.fds[0], i->offset, i->size, &d->halted, &err)) {
        vhost_device_refuse(d, err.text);
        return;
    }
    vhost_unmap(&d->inflight);
    d->inflight = map;
    d->inflight_queues = i->queues;
    d->inflight_size = i->queue_size;
    vhost_device_ok(d);
}

/* ---- one ring ---- */

static void set_num(struct vhost_device *d, struct vhost_ring *r)
{
    if (r->want.running) {
        vhost_device_refuse(d, "its size changes while it runs");
        return;
    }
    if (r->num != d->msg.body.state.num)
        vhost_ring_free_memory(r);
    r->num = d->msg.body.state.num;
    vhost_device_ok(d);
}

static void tell_ring(struct vhost_device *d, struct vhost_ring *r)
{
    want_common(d, r);
    if (r->want.running)
        vhost_device_order(d, r);
    vhost_device_then(d, vhost_device_ok);
}

static void set_addr(struct vhost_device *d, struct vhost_ring *r)
{
    const struct vhost_addr *a = &d->msg.body.addr;
    r->want.desc = a->desc;
    r->want.avail = a->avail;
    r->want.used = a->used;
    r->want.log_used = a->log;
    r->want.logs_used = a->flags & VHOST_ADDR_LOG;
    r->addressed = true;
    tell_ring(d, r);
}

static void set_base(struct vhost_device *d, struct vhost_ring *r)
{
    if (r->want.running) {
        vhost_device_refuse(d, "it is moved while it runs");
        return;
    }
    r->base = d->msg.body.state.num;
    vhost_device_ok(d);
}

static void base_known(struct vhost_device *d)
{
    struct vhost_ring *r = d->rings[d->msg.body.state.index];
    const struct vhost_state out = {r->index, r->base};
    replace_fd(&r->want.kick, -1);
    vhost_device_answer(d, &out, sizeof out, -1);
}

/* All that it has taken off the ring is done, and published, before the answer. */
static void get_base(struct vhost_device *d, struct vhost_ring *r)
{
    if (r->want.running) {
        r->want.running = r->started = false;
        vhost_device_order(d, r);
    }
    vhost_device_then(d, base_known);
}

static void set_enable(struct vhost_device *d, struct vhost_ring *r)
{
    r->want.enabled = d->msg.body.state.num != 0;
    tell_ring(d, r);
}

/*
 * Descriptors to wake by are eventfds, which have no type of file. They do not wait; should the front-end change that,
 * see reactor/eventfd.h.
 */
static bool event_fd(int fd)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    return fstat(fd, &st) == 0 && !(st.st_mode & S_IFMT) && flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

static void ring_started(struct vhost_device *d)
{
    struct vhost_ring *r = d->rings[d->msg.body.u64 & 0xff];
    r->want.running = r->started = !r->result;
    if (r->started && r->scsi)
        vhost_scsi_ring_runs(r);
    if (r->result)
        vhost_device_refuse(d, r->result == -EFAULT
                                   ? "the ring is not in memory that is shared, or not aligned; all of "
                                     "the guest's memory is to be shared (-M memory-backend=)"
                                   : "it cannot start");
    else
        vhost_device_ok(d);
}

static const char *start_problem(const struct vhost_device *d, const struct vhost_ring *r)
{
    const bool packed = d->features & VHOST_BIT(VIRTIO_F_RING_PACKED);
    if (!d->table || !d->table->n)
        return "no memory of the guest is shared; QEMU shares it with memory-backend-memfd,share=on and "
               "-M memory-backend=";
    if (!r->num || !r->addressed)
        return "its size, or where it is, was not said yet";
    if (!packed && r->num & (r->num - 1))
        return "the size of a split ring is a power of two";
    if (d->inflight.base && r->index < d->inflight_queues && r->num > d->inflight_size)
        return "it is larger than its region of requests in flight";
    return NULL;
}

/*
 * Whether what is in flight of a ring is kept in the region. Front-ends that keep one from a driver with split rings to
 * the next with packed ones, as QEMU's SCSI host does after its firmware, have one that is too small, and of nothing.
 */
static bool region_covers(const struct vhost_device *d, const struct vhost_ring *r)
{
    if (!d->inflight.base || r->index >= d->inflight_queues)
        return false;
    const uint64_t begin = (uint64_t)(d->inflight.at - (uint8_t *)d->inflight.base);
    if (d->inflight_queues * region_bytes(d, d->inflight_size) <= d->inflight.bytes - begin)
        return true;
    plx_warn("%s: ring %u: the region of requests in flight is that of another kind of ring, and is not used", d->name,
             r->index);
    return false;
}

/* A ring starts with this message, whether there is a kick or not. */
static void start_ring(struct vhost_device *d, struct vhost_ring *r)
{
    const char *why = start_problem(d, r);
    if (!why && vhost_ring_alloc(r))
        why = "out of memory";
    if (why) {
        vhost_device_refuse(d, why);
        return;
    }
    r->inflight.split = NULL;
    if (region_covers(d, r))
        r->inflight.split = (void *)(d->inflight.at + r->index * region_bytes(d, d->inflight_size));
    want_common(d, r);
    r->told = NULL;
    r->want.running = true;
    vhost_device_order(d, r);
    vhost_device_then(d, ring_started);
}

static void kick_changed(struct vhost_device *d)
{
    vhost_device_ok(d); /* the one before is among the message's descriptors now, which are closed */
}

static void set_kick(struct vhost_device *d, struct vhost_ring *r)
{
    if (d->ctrlr->dying) { /* what these have left behind comes first */
        vhost_device_hold(d);
        return;
    }
    if (d->msg.nfds && !event_fd(d->msg.fds[0])) {
        vhost_device_refuse(d, "it is no eventfd");
        return;
    }
    if (!r->want.running) {
        replace_fd(&r->want.kick, take_fd(d));
        start_ring(d, r);
        return;
    }
    const int before = r->want.kick;
    r->want.kick = take_fd(d);
    if (before >= 0)
        d->msg.fds[d->msg.nfds++] = before;
    want_common(d, r);
    vhost_device_order(d, r);
    vhost_device_then(d, kick_changed);
}

static void set_call(struct vhost_device *d, struct vhost_ring *r)
{
    if (d->msg.nfds && !event_fd(d->msg.fds[0])) {
        vhost_device_refuse(d, "it is no eventfd");
        return;
    }
    const int before = r->want.call;
    r->want.call = take_fd(d);
    if (before >= 0)
        d->msg.fds[d->msg.nfds++] = before;
    tell_ring(d, r);
}

static void set_err(struct vhost_device *d, struct vhost_ring *r)
{
    if (d->msg.nfds && !event_fd(d->msg.fds[0])) {
        vhost_device_refuse(d, "it is no eventfd");
        return;
    }
    replace_fd(&r->err_fd, take_fd(d));
    vhost_device_ok(d);
}

/* ---- all ---- */

static void get_features(struct vhost_device *d)
{
    handle_answer_u64(d, vhost_offered(d->ctrlr));
}

static void get_protocol_features(struct vhost_device *d)
{
    handle_answer_u64(d, vhost_offered_protocol());
}

static void get_queue_num(struct vhost_device *d)
{
    handle_answer_u64(d, vhost_rings_of(d->ctrlr));
}

static void get_mem_slots(struct vhost_device *d)
{
    handle_answer_u64(d, VHOST_MEM_SLOTS);
}

/* A driver resets a device by 0 (virtio 1.2, 2.4): whoever tells nothing else means that, too. */
static void set_status(struct vhost_device *d)
{
    d->status = (uint8_t)d->msg.body.u64;
    if (d->status)
        vhost_device_ok(d);
    else
        vhost_rings_stop(d, vhost_device_ok);
}

static void set_backend_fd(struct vhost_device *d)
{
    replace_fd(&d->backend, take_fd(d));
    vhost_device_ok(d);
}

static void (*const handlers[VHOST_REQUESTS])(struct vhost_device *d) = {
    [VHOST_GET_FEATURES] = get_features,
    [VHOST_SET_FEATURES] = set_features,
    [VHOST_SET_OWNER] = vhost_device_ok,
    [VHOST_RESET_OWNER] = reset_owner,
    [VHOST_SET_MEM_TABLE] = change_memory,
    [VHOST_SET_LOG_BASE] = set_log_base,
    [VHOST_SET_LOG_FD] = vhost_device_ok, /* who wants to know that the log has changed is not told */
    [VHOST_GET_PROTOCOL_FEATURES] = get_protocol_features,
    [VHOST_SET_PROTOCOL_FEATURES] = set_protocol_features,
    [VHOST_GET_QUEUE_NUM] = get_queue_num,
    [VHOST_SET_BACKEND_REQ_FD] = set_backend_fd,
    [VHOST_GET_CONFIG] = read_config,
    [VHOST_SET_CONFIG] = write_config,
    [VHOST_GET_INFLIGHT_FD] = make_inflight,
    [VHOST_SET_INFLIGHT_FD] = take_inflight,
    [VHOST_RESET_DEVICE] = reset_device,
    [VHOST_GET_MAX_MEM_SLOTS] = get_mem_slots,
    [VHOST_ADD_MEM_REG] = change_memory,
    [VHOST_REM_MEM_REG] = change_memory,
    [VHOST_SET_STATUS] = set_status,
    [VHOST_GET_STATUS] = get_status,
};

static void (*const ring_handlers[VHOST_REQUESTS])(struct vhost_device *d, struct vhost_ring *r) = {
    [VHOST_SET_VRING_NUM] = set_num,   [VHOST_SET_VRING_ADDR] = set_addr,     [VHOST_SET_VRING_BASE] = set_base,
    [VHOST_GET_VRING_BASE] = get_base, [VHOST_SET_VRING_KICK] = set_kick,     [VHOST_SET_VRING_CALL] = set_call,
    [VHOST_SET_VRING_ERR] = set_err,   [VHOST_SET_VRING_ENABLE] = set_enable,
};

void vhost_handle(struct vhost_device *d)
{
    const uint32_t request = d->msg.header.request;
    if (handlers[request]) {
        handlers[request](d);
        return;
    }
    struct vhost_ring *r = ring_get(d);
    if (r)
        ring_handlers[request](d, r);
}
