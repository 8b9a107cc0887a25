/* SPDX-License-Identifier: BSD-3-Clause */
/* Streams of volumes, written and read piece by piece. What is read comes from anybody. */
#include "stream.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <isa-l/crc.h>
#include <string.h>
#include <unistd.h>

static const uint8_t stream_magic[8] = "PLXSTRM";

static void put_le32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof v);
}

static void put_le64(uint8_t *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof v);
}

static uint32_t get_le32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static uint64_t get_le64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

static uint32_t crc_more(uint32_t crc, const void *mem, size_t n)
{
    return ~crc32_iscsi((unsigned char *)(uintptr_t)mem, (int)n, ~crc);
}

/* ---- bytes ---- */

static int stream_write(const struct stream *s, const void *mem, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = write(s->fd, (const uint8_t *)mem + done, n - done);
        if (got < 0 && errno != EINTR)
            return cli_fail(EXIT_RUNTIME, "%s cannot be written to: %s", s->path, strerror(errno));
        done += got > 0 ? (size_t)got : 0;
    }
    return EXIT_OK;
}

static int stream_read(const struct stream *s, void *mem, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = read(s->fd, (uint8_t *)mem + done, n - done);
        if (got == 0)
            return cli_fail(EXIT_RUNTIME, "%s is cut off: it ends before its end", s->path);
        if (got < 0 && errno != EINTR)
            return cli_fail(EXIT_RUNTIME, "%s cannot be read: %s", s->path, strerror(errno));
        done += got > 0 ? (size_t)got : 0;
    }
    return EXIT_OK;
}

/* ---- the head ---- */

int stream_put_head(struct stream *s)
{
    uint8_t mem[STREAM_HEAD] = {0};
    const struct stream_head *h = &s->head;
    memcpy(mem, stream_magic, sizeof stream_magic);
    put_le32(mem + 8, STREAM_VERSION);
    memcpy(mem + 16, h->uuid, 16);
    memcpy(mem + 32, h->base, 16);
    memcpy(mem + 48, h->pool, 16);
    put_le64(mem + 64, h->size);
    put_le64(mem + 72, h->begin);
    put_le64(mem + 80, h->created);
    put_le32(mem + 88, h->unit);
    memcpy(mem + 96, h->name, sizeof h->name);
    memcpy(mem + 160, h->base_name, sizeof h->base_name);
    put_le32(mem + 12, crc_more(0, mem, sizeof mem));
    s->at = h->begin;
    return stream_write(s, mem, sizeof mem);
}

static int head_wrong(const struct stream *s, const char *what)
{
    return cli_fail(EXIT_USAGE, "%s is no stream that can be imported: %s", s->path, what);
}

int stream_get_head(struct stream *s)
{
    static const uint8_t none[4];
    uint8_t mem[STREAM_HEAD];
    struct stream_head *h = &s->head;
    if (stream_read(s, mem, sizeof mem))
        return EXIT_RUNTIME;
    if (memcmp(mem, stream_magic, sizeof stream_magic) != 0)
        return head_wrong(s, "`pollux volume export` writes one");
    const uint32_t crc = get_le32(mem + 12);
    memcpy(mem + 12, none, sizeof none);
    if (crc_more(0, mem, sizeof mem) != crc)
        return head_wrong(s, "its beginning is damaged");
    if (get_le32(mem + 8) != STREAM_VERSION)
        return head_wrong(s, "it is of another version than 1");
    memcpy(h->uuid, mem + 16, 16);
    memcpy(h->base, mem + 32, 16);
    memcpy(h->pool, mem + 48, 16);
    h->size = get_le64(mem + 64);
    h->begin = get_le64(mem + 72);
    h->created = get_le64(mem + 80);
    h->unit = get_le32(mem + 88);
    memcpy(h->name, mem + 96, sizeof h->name);
    memcpy(h->base_name, mem + 160, sizeof h->base_name);
    h->name[sizeof h->name - 1] = h->base_name[sizeof h->base_name - 1] = 0;
    if (get_le32(mem + 92) || h->unit < 512 || h->unit > 65536 || h->unit & (h->unit - 1) || !h->size ||
        h->size > INT64_MAX || h->size % h->unit || h->begin % h->unit || h->begin > h->size)
        return head_wrong(s, "what it says of itself cannot be");
    s->at = h->begin;
    return EXIT_OK;
}

/* ---- pieces ---- */

static void piece_gone_by(struct stream *s, uint32_t crc, const struct stream_piece *piece)
{
    uint8_t mem[4];
    put_le32(mem, crc);
    s->chain = crc_more(s->chain, mem, sizeof mem);
    s->number++;
    s->data += piece->kind == STREAM_DATA ? piece->length : 0;
    s->at = piece->offset + piece->length;
}

int stream_put(struct stream *s, const struct stream_piece *piece, const uint8_t *data)
{
    uint8_t mem[STREAM_PIECE] = {0};
    put_le32(mem, piece->kind);
    put_le64(mem + 8, s->number);
    put_le64(mem + 16, piece->offset);
    put_le64(mem + 24, piece->length);
    uint32_t crc = crc_more(0, mem, sizeof mem);
    if (piece->kind == STREAM_DATA)
        crc = crc_more(crc, data, piece->length);
    put_le32(mem + 4, crc);
    piece_gone_by(s, crc, piece);
    if (stream_write(s, mem, sizeof mem))
        return EXIT_RUNTIME;
    return piece->kind == STREAM_DATA ? stream_write(s, data, piece->length) : EXIT_OK;
}

int stream_put_end(struct stream *s)
{
    const struct stream_piece end = {STREAM_END, s->data, s->chain};
    return stream_put(s, &end, NULL);
}

static int piece_wrong(const struct stream *s, const char *what)
{
    return cli_fail(EXIT_RUNTIME, "%s is damaged: its piece %" PRIu64 ", behind byte %" PRIu64 " of the volume, %s",
                    s->path, s->number, s->at, what);
}

int stream_get(struct stream *s, struct stream_piece *piece, uint8_t *data)
{
    static const uint8_t none[4];
    const struct stream_head *h = &s->head;
    uint8_t mem[STREAM_PIECE];
    if (stream_read(s, mem, sizeof mem))
        return EXIT_RUNTIME;
    *piece = (struct stream_piece){get_le32(mem), get_le64(mem + 16), get_le64(mem + 24)};
    const uint32_t wanted = get_le32(mem + 4);
    if (get_le64(mem + 8) != s->number)
        return piece_wrong(s, "is another one than comes next");
    const bool is_data = piece->kind == STREAM_DATA;
    if (piece->kind != STREAM_END) {
        if (!is_data && piece->kind != STREAM_ZEROES)
            return piece_wrong(s, "is of no kind that there is");
        if (piece->offset < s->at || piece->offset > h->size || !piece->length ||
            piece->length > h->size - piece->offset || piece->offset % h->unit || piece->length % h->unit ||
            (is_data && piece->length > STREAM_DATA_MAX))
            return piece_wrong(s, "is of a place where it cannot be");
    }
    if (is_data && stream_read(s, data, piece->length))
        return EXIT_RUNTIME;
    memcpy(mem + 4, none, sizeof none);
    uint32_t crc = crc_more(0, mem, sizeof mem);
    if (is_data)
        crc = crc_more(crc, data, piece->length);
    if (crc != wanted)
        return piece_wrong(s, "has not the checksum that it should have");
    if (piece->kind == STREAM_END && (piece->offset != s->data || piece->length != s->chain))
        return piece_wrong(s, "says that there were others before it");
    piece_gone_by(s, crc, piece);
    return EXIT_OK;
}

/* ---- a volume ---- */

static void stream_disk_done(struct plx_bdev_req *req)
{
    struct stream_disk *d = (struct stream_disk *)(void *)((char *)req - offsetof(struct stream_disk, req));
    d->busy = false;
    plx_reactor_stop(d->reactor);
}

int stream_disk_open(struct stream_disk *d, struct plx_pool *pool, const uint8_t uuid[16])
{
    static const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_SLEEP};
    struct plx_error err;
    *d = (struct stream_disk){.bdev = NULL};
    int ret = pool ? plx_pool_open_volume(pool, uuid, NULL, &d->bdev, &err) : 0;
    if (ret)
        return cli_fail(pool_status(ret), "%s", err.text);
    ret = plx_reactor_create(&d->reactor, &opts);
    if (!ret && d->bdev)
        ret = plx_bdev_channel_get(d->bdev, d->reactor, &d->ch);
    if (ret) {
        stream_disk_close(d);
        return cli_fail(EXIT_RUNTIME, "a volume cannot be opened: %s", strerror(-ret));
    }
    plx_reactor_poll(d->reactor);
    d->began = plx_reactor_now(d->reactor);
    return EXIT_OK;
}

void stream_disk_close(struct stream_disk *d)
{
    if (d->ch)
        plx_bdev_channel_put(d->ch);
    if (d->reactor)
        plx_reactor_destroy(d->reactor);
    if (d->bdev)
        plx_bdev_close(d->bdev);
    *d = (struct stream_disk){.bdev = NULL};
}

void stream_disk_begin(struct stream_disk *d, enum plx_bdev_op op, uint64_t offset, uint64_t length, void *mem)
{
    const uint32_t block = plx_bdev_info(d->bdev)->block_size;
    d->iov = (struct iovec){mem, length};
    d->req = (struct plx_bdev_req){.done = stream_disk_done, .op = (uint8_t)op};
    d->req.iov = &d->iov;
    d->req.iovcnt = mem ? 1 : 0;
    d->req.lba = offset / block;
    d->req.nlb = (uint32_t)(length / block);
    d->busy = true;
    plx_bdev_submit(d->ch, &d->req);
    plx_reactor_poll(d->reactor); /* so that it is on its way */
}

uint16_t stream_disk_end(struct stream_disk *d)
{
    while (d->busy)
        plx_reactor_run(d->reactor);
    return d->req.status;
}

uint64_t stream_disk_ns(const struct stream_disk *d)
{
    if (!d->bdev)
        plx_reactor_poll(d->reactor); /* which reads the clock */
    return plx_reactor_now(d->reactor) - d->began;
}
