/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux volume export`: a snapshot, or what is different between two, as a stream. */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXPORT_EXTENTS = 1024 };

struct export
{
    struct pool_at at;
    struct plx_pool_diff diff;
    struct stream_disk disk;
    struct stream stream;
    struct pool_progress progress;
    uint32_t next;   /* of the extents at hand */
    uint64_t into;   /* bytes of it that have been cut off */
    uint8_t *mem[2]; /* one is read while the other is written out */
};

/* The next piece of what is different. @return 1; 0 at the end; -1 after having said what is wrong */
static int export_next(struct export *x, struct stream_piece *piece)
{
    struct plx_pool_diff *d = &x->diff;
    while (x->next == d->n) {
        if (d->size && d->offset >= d->size)
            return 0;
        x->next = 0;
        x->into = 0;
        int ret = pool_diff(&x->at, d);
        if (!ret && d->size != x->stream.head.size)
            ret = plx_fail(&d->err, -EBADMSG, "%s has another size than it had", x->stream.head.name);
        if (ret) {
            cli_fail(pool_status(ret), "%s: %s", x->at.name, cli_clean(d->err.text));
            return -1;
        }
    }
    const struct plx_pool_extent *e = &d->extents[x->next];
    *piece = (struct stream_piece){e->data ? STREAM_DATA : STREAM_ZEROES, e->offset + x->into, e->length - x->into};
    if (e->data && piece->length > STREAM_DATA_MAX)
        piece->length = STREAM_DATA_MAX;
    x->into += piece->length;
    if (x->into == e->length) {
        x->next++;
        x->into = 0;
    }
    return 1;
}

/* From here, or by the server that has it. */
static void export_begin(struct export *x, const struct stream_piece *piece, uint8_t *mem)
{
    if (piece->kind == STREAM_DATA && !x->at.is_served)
        stream_disk_begin(&x->disk, PLX_BDEV_READ, piece->offset, piece->length, mem);
}

static int export_read(struct export *x, const struct stream_piece *piece, uint8_t *mem)
{
    if (piece->kind == STREAM_DATA && x->at.is_served)
        return pool_read(&x->at, x->stream.head.uuid, piece->offset, piece->length, mem);
    uint16_t status = piece->kind == STREAM_DATA ? stream_disk_end(&x->disk) : 0;
    if (!status)
        return EXIT_OK;
    return cli_fail(EXIT_RUNTIME, "%s: %s cannot be read at byte %" PRIu64 ": %s", x->at.name, x->stream.head.name,
                    piece->offset, plx_nvme_status_text(status));
}

static int export_pieces(struct export *x)
{
    struct stream_piece piece[2];
    unsigned i = 0;
    int ret = EXIT_OK, more = export_next(x, &piece[0]);
    if (more > 0)
        export_begin(x, &piece[0], x->mem[0]);
    while (more > 0 && !ret) {
        struct stream_piece *now = &piece[i], *then = &piece[!i];
        ret = export_read(x, now, x->mem[i]);
        more = ret ? -1 : export_next(x, then);
        if (more > 0)
            export_begin(x, then, x->mem[!i]);
        if (!ret && more >= 0)
            ret = stream_put(&x->stream, now, x->mem[i]);
        pool_progress(&x->progress, now->offset + now->length, x->stream.head.size, stream_disk_ns(&x->disk));
        i = !i;
    }
    stream_disk_end(&x->disk);
    pool_progress_clear(&x->progress);
    if (!ret && more < 0)
        ret = EXIT_RUNTIME;
    return ret ? ret : stream_put_end(&x->stream);
}

/* What it is of. */
static int export_head(struct export *x, const struct pool_command *o)
{
    struct plx_volume_info info, base;
    struct plx_pool_info pool;
    struct stream_head *h = &x->stream.head;
    int ret = pool_find_volume(&x->at, o->words[1], &info);
    if (!ret && o->base)
        ret = pool_find_volume(&x->at, o->base, &base);
    if (ret)
        return ret;
    if (!info.snapshot || (o->base && !base.snapshot))
        return cli_fail(EXIT_USAGE, "%s is no snapshot, and may change meanwhile; \"pollux volume snapshot\" makes one",
                        info.snapshot ? o->base : o->words[1]);
    ret = pool_info(&x->at, &pool);
    if (ret)
        return ret;
    memcpy(h->uuid, info.uuid, 16);
    memcpy(h->pool, pool.uuid, 16);
    memcpy(h->name, info.name, sizeof h->name);
    if (o->base) {
        memcpy(h->base, base.uuid, 16);
        memcpy(h->base_name, base.name, sizeof h->base_name);
    }
    h->size = info.size;
    h->created = info.created;
    h->unit = pool.unit;
    h->begin = o->offset;
    if (h->begin % h->unit || h->begin > h->size)
        return cli_fail(EXIT_USAGE, "--offset %" PRIu64 " is no multiple of %u up to %" PRIu64, h->begin, h->unit,
                        h->size);
    return EXIT_OK;
}

static int export_open(struct stream *s, const char *path)
{
    s->path = path && strcmp(path, "-") != 0 ? path : "standard output";
    s->fd = STDOUT_FILENO;
    if (s->path != path && isatty(STDOUT_FILENO))
        return cli_fail(EXIT_USAGE,
                        "a stream is nothing for a terminal; > FILE, or a last word, says where it is to go");
    if (s->path == path)
        s->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (s->fd < 0)
        return cli_fail(EXIT_USAGE, "%s cannot be made: %s", path, strerror(errno));
    return EXIT_OK;
}

static int export_all(struct export *x, const struct pool_command *o)
{
    int ret = export_head(x, o);
    if (!ret)
        ret = stream_disk_open(&x->disk, x->at.pool, x->stream.head.uuid);
    if (!ret)
        ret = export_open(&x->stream, o->nwords > 2 ? o->words[2] : NULL);
    if (!ret)
        ret = stream_put_head(&x->stream);
    if (!ret)
        ret = export_pieces(x);
    if (x->stream.fd > STDOUT_FILENO && close(x->stream.fd) < 0 && !ret)
        ret = cli_fail(EXIT_RUNTIME, "%s cannot be written to: %s", x->stream.path, strerror(errno));
    stream_disk_close(&x->disk);
    return ret;
}

int volume_export(const struct pool_command *o, const struct pool_verb *v)
{
    struct export x = {.progress = {.what = "export", .bytes = true}};
    int ret = pool_open_pool(&x.at, o->words[0], v);
    if (ret)
        return ret;
    x.diff = (struct plx_pool_diff){.from = o->base, .to = o->words[1], .offset = o->offset, .room = EXPORT_EXTENTS};
    x.diff.extents = calloc(EXPORT_EXTENTS, sizeof *x.diff.extents);
    for (unsigned i = 0; i < 2; i++)
        x.mem[i] = aligned_alloc(4096, STREAM_DATA_MAX);
    if (x.diff.extents && x.mem[0] && x.mem[1])
        ret = export_all(&x, o);
    else
        ret = cli_fail(EXIT_RUNTIME, "out of memory");
    free(x.diff.extents);
    free(x.mem[0]);
    free(x.mem[1]);
    return pool_put(&x.at, ret);
}
