/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest and a front-end that do anything. The first byte of the input says which: then the rest is what is in the
 * memory of a ring, and in its region of requests in flight; or it is messages to a server, with
 * descriptors of files and of events.
 */
#include "vhost/msg.h"
#include "vhost_rig.h"

#include <pollux/vhost.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    MESSAGES = 1, /* else a ring */
    PACKED = 2,
    NO_INDIRECT = 4,
    EVENT_IDX = 8,
    REGION = 16,
    ROUNDS = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct plx_bdev *bdev;

struct input {
    const uint8_t *p;
    size_t left;
};

static void take_bytes(struct input *in, void *out, size_t n)
{
    const size_t have = n < in->left ? n : in->left;
    memset(out, 0, n);
    memcpy(out, in->p, have);
    in->p += have;
    in->left -= have;
}

static uint8_t take_byte(struct input *in)
{
    uint8_t v;
    take_bytes(in, &v, 1);
    return v;
}

static void rounds(struct plx_reactor *r)
{
    for (int i = 0; i < ROUNDS && plx_reactor_poll(r); i++)
        ;
}

/* ---- a ring ---- */

/* Small pieces go to places that matter. */
static void fill_ring(struct rig *rig, struct input *in)
{
    static const unsigned places[] = {RIG_DESC, RIG_AVAIL, RIG_USED, RIG_DATA};
    while (in->left) {
        const uint8_t where = take_byte(in), n = take_byte(in);
        uint8_t bytes[32];
        const size_t len = 1 + n % sizeof bytes;
        take_bytes(in, bytes, len);
        if (where & 0x80 && rig->region)
            memcpy(rig->region + (where & 0x7f) * 8, bytes, len);
        else
            memcpy(rig->memory + places[where & 3] + (where >> 2 & 0x1f) * 16 + n / 32, bytes, len);
        if (!(where & 0x40))
            rounds(rig->reactor);
    }
}

static void fuzz_ring(uint8_t options, struct input *in)
{
    struct rig rig;
    uint32_t base;
    const uint64_t features = VHOST_BIT(VIRTIO_F_VERSION_1) | VHOST_BIT(VIRTIO_BLK_F_DISCARD) |
                              VHOST_BIT(VIRTIO_BLK_F_WRITE_ZEROES) |
                              (options & PACKED ? VHOST_BIT(VIRTIO_F_RING_PACKED) : 0) |
                              (options & NO_INDIRECT ? 0 : VHOST_BIT(VIRTIO_F_INDIRECT_DESC)) |
                              (options & EVENT_IDX ? VHOST_BIT(VIRTIO_F_EVENT_IDX) : 0);
    rig_begin(&rig, bdev, 16, features, options & REGION);
    take_bytes(in, &base, sizeof base);
    if (options & REGION) {
        struct vhost_inflight_split head = {.version = VHOST_INFLIGHT_VERSION, .desc_num = 16};
        memcpy(rig.region, &head, 12);
    }
    if (options & REGION && options & 128) /* the region as it is found */
        take_bytes(in, rig.region + 12, 400);
    if (rig_start(&rig, base) == 0) {
        fill_ring(&rig, in);
        rig_stop(&rig);
    }
    rig_end(&rig);
}

/* ---- messages ---- */

static void send_message(int socket, const struct vhost_header *h, const uint8_t *body, size_t len, const int *fds,
                         unsigned n)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(10 * sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec iov[] = {{(void *)(uintptr_t)h, sizeof *h}, {(void *)(uintptr_t)body, len}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    if (n) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    ssize_t ignored = sendmsg(socket, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)ignored;
}

/* A message from a few bytes: numbers are small, or come far. */
static void one_message(int socket, struct input *in, int memory, int event)
{
    const uint8_t kind = take_byte(in), shape = take_byte(in), n = shape & 3;
    uint8_t body[sizeof(union vhost_body)] = {0};
    int fds[10];
    struct vhost_header h = {kind % 48, VHOST_VERSION | (shape & 4 ? 0 : VHOST_NEED_REPLY), shape >> 3 & 1 ? 8 : 16};
    static const uint32_t sizes[] = {0, 8, 8, 16, 24, 40, 40, 72};
    h.size = sizes[shape >> 5];
    if (shape & 8)
        h.size = take_byte(in);
    take_bytes(in, body, h.size < sizeof body ? h.size : sizeof body);
    for (unsigned i = 0; i < n; i++)
        fds[i] = shape & 16 ? event : memory;
    send_message(socket, &h, body, h.size < sizeof body ? h.size : sizeof body, fds, n);
}

static void drain_socket(int socket)
{
    uint8_t bytes[4096];
    while (recv(socket, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        ;
}

static bool over;

static void ctrlr_over(void *arg, int ret)
{
    (void)arg, (void)ret;
    over = true;
}

/* An agreement, memory and a ring that runs, so that the rest finds something to change. */
static void good_beginning(int socket, struct plx_reactor *r, int memory, int event)
{
    const uint64_t features = VHOST_BIT(VIRTIO_F_VERSION_1) | VHOST_BIT(VHOST_USER_F_PROTOCOL_FEATURES);
    const uint64_t protocol = 0x1922b, zero = 0;
    const struct vhost_mem_table t = {1, 0, {{RIG_GUEST, RIG_BYTES, RIG_GUEST, 0}}};
    const struct vhost_state num = {0, 16}, on = {0, 1};
    const struct vhost_addr a = {0, 0, RIG_GUEST, RIG_GUEST + RIG_USED, RIG_GUEST + RIG_AVAIL, 0};
    const struct {
        uint32_t request, size;
        const void *body;
        int fd;
    } all[] = {{VHOST_SET_PROTOCOL_FEATURES, 8, &protocol, -1},
               {VHOST_SET_FEATURES, 8, &features, -1},
               {VHOST_SET_MEM_TABLE, 40, &t, memory},
               {VHOST_SET_VRING_NUM, 8, &num, -1},
               {VHOST_SET_VRING_ADDR, 40, &a, -1},
               {VHOST_SET_VRING_KICK, 8, &zero, event},
               {VHOST_SET_VRING_ENABLE, 8, &on, -1}};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(all); i++) {
        const struct vhost_header h = {all[i].request, VHOST_VERSION, all[i].size};
        send_message(socket, &h, all[i].body, all[i].size, &all[i].fd, all[i].fd >= 0);
        rounds(r);
    }
}

static void fuzz_messages(uint8_t options, struct input *in)
{
    char path[64];
    struct plx_reactor *r;
    struct plx_vhost *v;
    struct plx_vhost_ctrlr *c;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const struct plx_vhost_blk_opts opts = {.packed = true, .queues = 4};
    int memory = memfd_create("guest", MFD_CLOEXEC), event = eventfd(0, EFD_NONBLOCK);
    snprintf(path, sizeof path, "/tmp/fuzz-vhost-%ld", (long)getpid());
    memcpy(at.sun_path, path, sizeof path);
    if (ftruncate(memory, RIG_BYTES) || plx_reactor_create(&r, NULL) || plx_vhost_create(&v, &r, 1, NULL, NULL) ||
        plx_vhost_blk_create(v, path, bdev, &opts, NULL, NULL, &c, NULL))
        abort();
    rounds(r);
    int socket_ = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(socket_, (const struct sockaddr *)&at, sizeof at))
        abort();
    rounds(r);
    if (options & PACKED)
        good_beginning(socket_, r, memory, event);
    while (in->left) {
        one_message(socket_, in, memory, event);
        rounds(r);
        drain_socket(socket_);
    }
    close(socket_);
    over = false;
    plx_vhost_stop(v, 1000, ctrlr_over, NULL);
    while (!over)
        plx_reactor_poll(r);
    plx_vhost_destroy(v);
    plx_reactor_destroy(r);
    close(memory);
    close(event);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    const uint8_t options = take_byte(&in);
    if (!bdev && plx_bdev_open("ram:1M", &bdev, NULL))
        abort();
    if (options & MESSAGES)
        fuzz_messages(options, &in);
    else
        fuzz_ring(options, &in);
    return 0;
}
