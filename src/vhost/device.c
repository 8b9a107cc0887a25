/* SPDX-License-Identifier: BSD-3-Clause */
/* A front-end's connection: messages in, one after the other, and answers out. */
#include "vhost/vhost.h"

#include "base/log.h"
#include "net/fdpass.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct vhost_device *device_of(struct plx_stream *s)
{
    return plx_container_of(s, struct vhost_device, stream);
}

/* ---- what it does, for people ---- */

static enum plx_vhost_state device_state(const struct vhost_device *d)
{
    const uint32_t request = d->msg.header.request;
    if (d->dying)
        return PLX_VHOST_DRAINING;
    if (d->pending && (request == VHOST_GET_VRING_BASE || request == VHOST_RESET_DEVICE))
        return PLX_VHOST_STOPPING;
    if (vhost_rings_run(d))
        return PLX_VHOST_STARTED;
    return d->held ? PLX_VHOST_HELD : PLX_VHOST_CONNECTED;
}

/* Something has happened that may have changed that. */
static void device_note(struct vhost_device *d)
{
    const enum plx_vhost_state now = device_state(d);
    if (now != d->state)
        d->since = plx_reactor_now(d->ctrlr->vhost->control);
    d->state = now;
}

/* ---- its end ---- */

static void device_release(struct plx_stream *s)
{
    free(device_of(s));
}

static void device_free(struct vhost_device *d)
{
    struct plx_vhost_ctrlr *c = d->ctrlr;
    d->gone = true;
    if (d->asked)
        return;
    vhost_device_clean(d);
    plx_list_del(&d->link);
    c->ndevices--;
    c->dying--;
    c->nexuses &= ~(1u << d->nexus);
    plx_stream_free(&d->stream, device_release);
    vhost_ctrlr_left(c);
}

void vhost_device_let_go(struct vhost_device *d)
{
    if (!--d->asked && d->gone)
        device_free(d);
}

static void drop_fds(struct vhost_device *d)
{
    while (d->msg.nfds)
        close(d->msg.fds[--d->msg.nfds]);
}

/* With no order under way: till then a ring may use what came with the message. */
static void stop_dying(struct vhost_device *d)
{
    drop_fds(d);
    d->stopping = true;
    vhost_rings_stop(d, device_free);
}

void vhost_device_close(struct vhost_device *d)
{
    if (d->dying)
        return;
    d->dying = true;
    d->held = false;
    d->ctrlr->dying++;
    d->ctrlr->alone = plx_reactor_now(d->ctrlr->vhost->control);
    device_note(d);
    atomic_store(&d->halted, true);
    plx_stream_close(&d->stream);
    if (!d->pending)
        stop_dying(d);
}

/* ---- rings' answers ---- */

static void device_go_on(struct vhost_device *d)
{
    void (*then)(struct vhost_device * d) = d->then;
    d->then = NULL;
    if (d->dying && !d->stopping)
        stop_dying(d);
    else
        then(d);
}

static void device_answered(struct vhost_ring *r)
{
    struct vhost_device *d = r->owner;
    if (--d->pending == 0)
        device_go_on(d);
}

void vhost_device_order(struct vhost_device *d, struct vhost_ring *r)
{
    d->pending++;
    r->answered = device_answered;
    vhost_ring_order(r);
}

void vhost_device_then(struct vhost_device *d, void (*then)(struct vhost_device *d))
{
    d->then = then;
    device_note(d);
    if (!d->pending)
        device_go_on(d);
}

/* ---- answers ---- */

static void device_next(struct vhost_device *d)
{
    drop_fds(d);
    d->busy = d->held = false;
    d->got = 0;
    memset(&d->msg, 0, sizeof d->msg);
    device_note(d);
    if (!d->dying)
        plx_stream_stall(&d->stream, false);
}

/* Answers are short, and one is sent before the next message is looked at: a socket that takes none is broken. */
void vhost_device_answer(struct vhost_device *d, const void *body, size_t len, int fd)
{
    const struct vhost_header header = {d->msg.header.request, VHOST_VERSION | VHOST_REPLY, (uint32_t)len};
    uint8_t out[sizeof header + sizeof(union vhost_body)];
    const size_t bytes = sizeof header + len;
    memcpy(out, &header, sizeof header);
    if (len)
        memcpy(out + sizeof header, body, len);
    struct iovec iov = {out, bytes};
    ssize_t n = plx_fds_send(d->stream.fd, &iov, 1, &fd, fd >= 0);
    device_next(d);
    if (n != (ssize_t)bytes)
        vhost_device_close(d);
}

static bool wants_ack(const struct vhost_device *d)
{
    return d->msg.header.flags & VHOST_NEED_REPLY && d->protocol & VHOST_BIT(VHOST_PROTOCOL_REPLY_ACK);
}

void vhost_device_ok(struct vhost_device *d)
{
    const uint64_t ok = 0;
    if (wants_ack(d))
        vhost_device_answer(d, &ok, sizeof ok, -1);
    else
        device_next(d);
}

/* Who does not ask for an answer would go on as if it were done, so that the connection ends. */
void vhost_device_refuse(struct vhost_device *d, const char *why)
{
    const uint64_t failed = 1;
    const uint32_t request = d->msg.header.request;
    plx_warn("%s: %s: %s", d->name, vhost_msg_name(request), why);
    if (request == VHOST_GET_CONFIG) /* which says so by an answer without a body */
        vhost_device_answer(d, NULL, 0, -1);
    else if (wants_ack(d) && !vhost_msg_answers(&d->msg))
        vhost_device_answer(d, &failed, sizeof failed, -1);
    else
        vhost_device_close(d);
}

void vhost_device_hold(struct vhost_device *d)
{
    d->held = true;
    device_note(d);
}

void vhost_device_resume(struct vhost_device *d)
{
    if (!d->held)
        return;
    d->held = false;
    vhost_handle(d);
}

void vhost_device_tell(struct vhost_device *d)
{
    struct vhost_header h = {VHOST_BACKEND_CONFIG_CHANGE, VHOST_VERSION, 0};
    struct iovec iov = {&h, sizeof h};
    if (d->backend >= 0 && !d->dying && plx_fds_send(d->backend, &iov, 1, NULL, 0) != sizeof h)
        plx_warn("%s: cannot be told that the disk has changed", d->name);
}

/* ---- messages ---- */

static void device_got_message(struct vhost_device *d)
{
    const struct vhost_terms terms = {
        .protocol = d->protocol,
        .offered = vhost_offered(d->ctrlr),
        .offered_protocol = vhost_offered_protocol(),
        .rings = vhost_rings_of(d->ctrlr),
        .packed = d->features & VHOST_BIT(VIRTIO_F_RING_PACKED),
    };
    const char *why;
    char text[128];
    enum vhost_verdict verdict = vhost_msg_check(&d->msg, &terms, &why);
    plx_debug("%s: %s", d->name, vhost_msg_name(d->msg.header.request));
    d->busy = true;
    plx_stream_stall(&d->stream, true);
    if (verdict == VHOST_TAKE) {
        vhost_handle(d);
    } else if (verdict == VHOST_REFUSE) {
        if (d->msg.header.request == VHOST_SET_FEATURES) {
            vhost_msg_unoffered(d->msg.body.u64 & ~terms.offered, text, sizeof text);
            why = text;
        }
        vhost_device_refuse(d, why);
    } else {
        plx_warn("%s: %s: %s; the connection ends", d->name, vhost_msg_name(d->msg.header.request), why);
        vhost_device_close(d);
    }
}

/* Receives the rest of the header, with which descriptors come, or of what is behind it. @return as recv */
static ssize_t device_receive(struct vhost_device *d)
{
    struct vhost_msg *m = &d->msg;
    if (d->got < sizeof m->header) {
        struct iovec header = {(uint8_t *)&m->header + d->got, sizeof m->header - d->got};
        unsigned n = VHOST_MSG_FDS - m->nfds;
        ssize_t ret = plx_fds_recv(d->stream.fd, &header, 1, m->fds + m->nfds, &n);
        m->nfds += n;
        return ret;
    }
    const size_t at = d->got - sizeof m->header;
    struct iovec iov = {(uint8_t *)&m->body + at, m->header.size - at};
    return plx_stream_recv(&d->stream, &iov, 1);
}

static int device_in(struct plx_stream *s)
{
    struct vhost_device *d = device_of(s);
    if (d->busy) {
        if (s->gone)
            vhost_device_close(d);
        return s->gone;
    }
    ssize_t n = device_receive(d);
    if (n == -EAGAIN)
        return 0;
    if (n <= 0) {
        if (n == -EMSGSIZE)
            plx_warn("%s: a message with more descriptors than any has; the connection ends", d->name);
        else
            plx_info("%s: disconnected", d->name);
        vhost_device_close(d);
        return 1;
    }
    d->got += (size_t)n;
    if (d->got < sizeof d->msg.header)
        return 1;
    if (d->got == sizeof d->msg.header && vhost_msg_header(&d->msg.header) != VHOST_TAKE) {
        plx_warn("%s: a message that is none of vhost-user; the connection ends", d->name);
        vhost_device_close(d);
    } else if (d->got == sizeof d->msg.header + d->msg.header.size) {
        device_got_message(d);
    }
    return 1;
}

static int device_out(struct plx_stream *s)
{
    (void)s; /* answers are sent at once */
    return 0;
}

static const struct plx_stream_user device_user = {.in = device_in, .out = device_out};

/* ---- its beginning ---- */

void vhost_device_add(struct plx_vhost_ctrlr *c, int fd)
{
    struct vhost_device *d = c->ndevices < VHOST_DEVICES ? calloc(1, sizeof *d) : NULL;
    if (!d) {
        plx_warn("%s: has %u connections, and no room for another", c->path, c->ndevices);
        close(fd);
        return;
    }
    d->ctrlr = c;
    d->backend = -1;
    d->writeback = true;
    d->born = plx_reactor_now(c->vhost->control);
    device_note(d);
    plx_list_add_tail(&c->devices, &d->link);
    c->ndevices++;
    d->nexus = (unsigned)__builtin_ctz(~c->nexuses);
    c->nexuses |= 1u << d->nexus;
    if (c->scsi)
        vhost_scsi_connected(c->scsi, d->nexus);
    plx_stream_init(&d->stream, &device_user);
    plx_stream_socket(&d->stream, fd);
    plx_stream_user_id(&d->stream, &d->uid, &d->pid);
    const char *slash = strrchr(c->path, '/');
    snprintf(d->name, sizeof d->name, "%.40s, process %ld", slash ? slash + 1 : c->path, (long)d->pid);
    plx_info("%s: connected", d->name);
    if (plx_stream_add(c->vhost->streams, &d->stream))
        vhost_device_close(d);
}
