/* SPDX-License-Identifier: BSD-3-Clause */
#include "vu_fake.h"

#include "net/fdpass.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- messages, in the thread ---- */

static bool read_all(int sock, void *to, size_t bytes, int *fds, unsigned *nfds)
{
    unsigned had = 0;
    int unwanted[1];
    if (!fds)
        fds = unwanted;
    for (size_t at = 0; at < bytes;) {
        struct pollfd p = {.fd = sock, .events = POLLIN};
        poll(&p, 1, -1);
        struct iovec iov = {(uint8_t *)to + at, bytes - at};
        unsigned n = *nfds - had;
        ssize_t got = plx_fds_recv(sock, &iov, 1, fds + had, &n);
        if (got == -EAGAIN)
            continue;
        if (got <= 0)
            return false;
        had += n;
        at += (size_t)got;
    }
    *nfds = had;
    return true;
}

static void reply(int sock, uint32_t request, const void *payload, uint32_t size)
{
    struct vu_header h = {request, VU_VERSION | VU_REPLY, size};
    struct iovec iov[] = {{&h, sizeof h}, {(void *)(uintptr_t)payload, size}};
    plx_fds_send(sock, iov, 2, NULL, 0);
}

static void fake_add(struct fake *f, const struct vu_region *r)
{
    f->regions[f->nregions] = *r;
    f->nregions++;
}

static void fake_remove(struct fake *f, const struct vu_region *r)
{
    for (unsigned i = 0; i < f->nregions; i++) {
        if (f->regions[i].guest_addr != r->guest_addr)
            continue;
        f->regions[i] = f->regions[f->nregions - 1];
        f->nregions--;
        return;
    }
}

static void ring_told(struct fake *f, uint32_t request, const union vu_payload *p, int *fds)
{
    struct fake_ring *r = &f->rings[p->vring.index & 0xff];
    if (request == VU_SET_VRING_NUM)
        r->num = p->vring.num;
    else if (request == VU_SET_VRING_ADDR)
        r->addr = p->addr;
    else if (request == VU_SET_VRING_BASE)
        r->taken = r->used = (uint16_t)p->vring.num;
    else if (request == VU_SET_VRING_ENABLE)
        f->nenabled += p->vring.num;
    int *fd = request == VU_SET_VRING_KICK ? &r->kick : request == VU_SET_VRING_CALL ? &r->call : NULL;
    if (!fd)
        return;
    if (*fd > 0)
        close(*fd);
    *fd = fds[0];
    fds[0] = -1;
}

/* @return whether it was answered */
static bool asked(struct fake *f, int sock, uint32_t request, union vu_payload *p)
{
    uint64_t value = request == VU_GET_FEATURES            ? f->features
                     : request == VU_GET_PROTOCOL_FEATURES ? f->protocol
                                                           : f->queues;
    if (request == VU_GET_CONFIG) {
        memcpy(p->config.bytes, (uint8_t *)&f->config + p->config.offset, p->config.size);
        reply(sock, request, &p->config, (uint32_t)offsetof(struct vu_config, bytes) + p->config.size);
        return true;
    }
    if (request != VU_GET_FEATURES && request != VU_GET_PROTOCOL_FEATURES && request != VU_GET_QUEUE_NUM)
        return false;
    if (request == VU_GET_FEATURES && f->nenabled)
        f->connections++; /* the last message of all: see virtio_conn.c */
    reply(sock, request, &value, sizeof value);
    return true;
}

static void told(struct fake *f, uint32_t request, const union vu_payload *p, int *fds)
{
    if (request == VU_SET_MEM_TABLE) {
        f->nregions = 0;
        for (unsigned i = 0; i < p->table.n; i++)
            fake_add(f, &p->table.regions[i]);
    } else if (request == VU_ADD_MEM_REG) {
        fake_add(f, &p->reg.region);
    } else if (request == VU_REM_MEM_REG) {
        fake_remove(f, &p->reg.region);
    } else if ((request >= VU_SET_VRING_NUM && request <= VU_SET_VRING_CALL) || request == VU_SET_VRING_ENABLE) {
        ring_told(f, request, p, fds);
    }
}

static void serve_one(struct fake *f, int sock)
{
    for (;;) {
        struct vu_header h;
        union vu_payload p;
        int fds[PLX_FDS_MAX];
        unsigned nfds = PLX_FDS_MAX, none = 0;
        if (!read_all(sock, &h, sizeof h, fds, &nfds) || !read_all(sock, &p, h.size, NULL, &none))
            return;
        f->messages[h.request & 63]++;
        uint64_t fine = 0;
        if (!asked(f, sock, h.request, &p)) {
            told(f, h.request, &p, fds);
            if (h.flags & VU_NEED_REPLY)
                reply(sock, h.request, &fine, sizeof fine);
        }
        for (unsigned i = 0; i < nfds; i++)
            if (fds[i] >= 0)
                close(fds[i]);
    }
}

static void *fake_run(void *arg)
{
    struct fake *f = arg;
    for (;;) {
        int sock = accept(f->listener, NULL, NULL);
        if (sock < 0)
            return NULL;
        f->nenabled = 0;
        f->sock = sock;
        serve_one(f, sock);
        f->sock = -1;
        close(sock);
    }
}

void fake_open(struct fake *f)
{
    static unsigned count;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    memset(f, 0, sizeof *f);
    snprintf(f->path, sizeof f->path, "/tmp/vu-fake-%d-%u", (int)getpid(), count++);
    snprintf(f->url, sizeof f->url, "vhost-user:%s", f->path);
    memcpy(at.sun_path, f->path, sizeof f->path);
    f->features = VIO_BIT(VIO_F_VERSION_1) | VIO_BIT(VIO_F_PROTOCOL_FEATURES) | VIO_BIT(VIO_F_INDIRECT) |
                  VIO_BIT(VIO_F_EVENT_IDX) | VIO_BIT(VIO_F_SEG_MAX) | VIO_BIT(VIO_F_MQ) | VIO_BIT(VIO_F_FLUSH) |
                  VIO_BIT(VIO_F_DISCARD) | VIO_BIT(VIO_F_WRITE_ZEROES);
    f->protocol = VIO_BIT(VU_P_MQ) | VIO_BIT(VU_P_CONFIG) | VIO_BIT(VU_P_REPLY_ACK) | VIO_BIT(VU_P_MEM_SLOTS);
    f->config = (struct vio_config){.capacity = plx_put64(1 << 20),
                                    .seg_max = plx_put32(3),
                                    .max_discard_sectors = plx_put32(1 << 16),
                                    .max_write_zeroes_sectors = plx_put32(1000)};
    f->queues = FAKE_RINGS;
    f->sock = -1;
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(f->listener, 4), 0);
    assert_int_equal(pthread_create(&f->thread, NULL, fake_run, f), 0);
}

void fake_close(struct fake *f)
{
    shutdown(f->listener, SHUT_RDWR);
    if (f->sock >= 0)
        shutdown(f->sock, SHUT_RDWR);
    pthread_join(f->thread, NULL);
    close(f->listener);
    unlink(f->path);
    for (unsigned i = 0; i < FAKE_RINGS; i++) {
        if (f->rings[i].kick > 0)
            close(f->rings[i].kick);
        if (f->rings[i].call > 0)
            close(f->rings[i].call);
    }
}

void fake_cut(struct fake *f)
{
    shutdown(f->sock, SHUT_RDWR);
}

/* ---- the device, in the test ---- */

bool fake_has(const struct fake *f, const void *mem, size_t bytes)
{
    uintptr_t at = (uintptr_t)mem;
    for (unsigned i = 0; i < f->nregions; i++) {
        const struct vu_region *r = &f->regions[i];
        if (r->guest_addr <= at && at + bytes <= r->guest_addr + r->size)
            return true;
    }
    return false;
}

static void *at_addr(plx_le64 addr)
{
    return (void *)(uintptr_t)plx_get64(addr);
}

bool fake_take(struct fake *f, unsigned ring, struct fake_req *req)
{
    struct fake_ring *r = &f->rings[ring];
    const struct vio_avail *avail = (void *)(uintptr_t)r->addr.avail;
    const struct vio_desc *table = (void *)(uintptr_t)r->addr.desc;
    if (!r->num || (uint16_t)le16toh(__atomic_load_n(&avail->idx.raw, __ATOMIC_ACQUIRE)) == r->taken)
        return false;
    *req = (struct fake_req){.ring = ring, .head = plx_get16(avail->ring[r->taken++ & (r->num - 1)])};
    const struct vio_desc *d = &table[req->head];
    unsigned n = 0;
    if (plx_get16(d->flags) & VIO_DESC_INDIRECT) {
        table = at_addr(d->addr);
        d = table;
    }
    for (;; d = &table[plx_get16(d->next)], n++) {
        size_t len = plx_get32(d->len);
        assert_true(fake_has(f, at_addr(d->addr), len));
        if (n == 0) {
            memcpy(&req->header, at_addr(d->addr), sizeof req->header);
        } else if (!(plx_get16(d->flags) & VIO_DESC_NEXT)) {
            req->status = at_addr(d->addr);
            return true;
        } else {
            req->writable[req->nsegs] = plx_get16(d->flags) & VIO_DESC_WRITE;
            req->segs[req->nsegs++] = (struct iovec){at_addr(d->addr), len};
        }
    }
}

void fake_finish(struct fake *f, const struct fake_req *req, uint8_t status)
{
    struct fake_ring *r = &f->rings[req->ring];
    struct vio_used *used = (void *)(uintptr_t)r->addr.used;
    *req->status = status;
    used->ring[r->used & (r->num - 1)] = (struct vio_used_elem){.id = plx_put32(req->head)};
    __atomic_store_n(&used->idx.raw, htole16(++r->used), __ATOMIC_RELEASE);
    eventfd_write(r->call, 1);
}
