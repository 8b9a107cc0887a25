/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `pollux volume import`: a stream becomes a snapshot. Until all of it is there, and durable, it is a volume of another
 * name, NAME~import@BYTES, which says how far it has come for certain: what was cut off goes on from there.
 */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IMPORT_MARK "~import@"

enum {
    IMPORT_KEEP = 1 << 30, /* bytes of the volume, after which it is kept how far it has come */
    IMPORT_NAME_MAX = PLX_POOL_NAME - 1 - (sizeof IMPORT_MARK - 1) - 19,
};

struct import {
    struct pool_at at;
    const char *name;
    struct stream stream;
    struct stream_disk disk;
    struct pool_progress progress;
    char partial[PLX_POOL_NAME]; /* its name at present */
    uint64_t kept;               /* bytes that are there for certain */
    uint64_t at_byte;            /* that have been written */
    bool frozen, done;
    uint8_t *mem;
};

static int import_op(struct import *m, struct plx_pool_op *op)
{
    int ret = pool_do(&m->at, op);
    return ret ? cli_fail(pool_status(ret), "%s: %s", m->at.name, cli_clean(op->err.text)) : EXIT_OK;
}

/* ---- what is there already ---- */

struct import_search {
    struct import *m;
    struct plx_volume_info partial, named, base;
    bool has_partial, has_named, has_base, has_uuid;
};

static bool import_found(void *arg, const struct plx_volume_info *info)
{
    struct import_search *s = arg;
    const struct stream_head *h = &s->m->stream.head;
    const size_t len = strlen(s->m->name);
    if (strcmp(info->name, s->m->name) == 0) {
        s->has_named = true;
        s->named = *info;
    }
    if (memcmp(info->uuid, h->base, 16) == 0) {
        s->has_base = true;
        s->base = *info;
    }
    if (memcmp(info->uuid, h->uuid, 16) != 0)
        return true;
    s->has_uuid = true;
    if (strncmp(info->name, s->m->name, len) == 0 && strncmp(info->name + len, IMPORT_MARK, strlen(IMPORT_MARK)) == 0) {
        s->has_partial = true;
        s->partial = *info;
    }
    return true;
}

static bool has_no_base(const uint8_t base[16])
{
    static const uint8_t none[16];
    return memcmp(base, none, sizeof none) == 0;
}

static int import_go_on(struct import *m, const struct plx_volume_info *partial)
{
    const char *kept = partial->name + strlen(m->name) + strlen(IMPORT_MARK);
    char *end;
    m->kept = strtoull(kept, &end, 10);
    m->frozen = partial->snapshot;
    snprintf(m->partial, sizeof m->partial, "%s", partial->name);
    if (*end || m->kept > m->stream.head.size)
        return cli_fail(EXIT_USAGE, "%s: %s is no import that was cut off; rename it", m->at.name, m->partial);
    return EXIT_OK;
}

/* An empty volume, or one that is what the base is. */
static int import_make(struct import *m, const struct import_search *s)
{
    const struct stream_head *h = &m->stream.head;
    const bool whole = has_no_base(h->base);
    struct plx_pool_op op = {.kind = whole ? PLX_POOL_CREATE : PLX_POOL_CLONE, .name = m->partial, .size = h->size};
    if (!whole && (!s->has_base || !s->base.snapshot))
        return cli_fail(EXIT_USAGE,
                        "%s: what the stream goes on from is not there: the snapshot \"%s\" of the same UUID, which is "
                        "imported before",
                        m->at.name, cli_clean(m->stream.head.base_name));
    snprintf(m->partial, sizeof m->partial, "%s" IMPORT_MARK "0", m->name);
    op.volume = whole ? NULL : s->base.name;
    memcpy(op.uuid, h->uuid, 16);
    int ret = import_op(m, &op);
    if (ret || whole || s->base.size == h->size)
        return ret;
    struct plx_pool_op resize = {.kind = PLX_POOL_RESIZE, .volume = m->partial, .size = h->size};
    return import_op(m, &resize);
}

static int import_begin(struct import *m)
{
    struct import_search s = {.m = m};
    const struct stream_head *h = &m->stream.head;
    int ret = pool_each(&m->at, import_found, &s);
    if (ret)
        return ret;
    if (s.has_named)
        return cli_fail(EXIT_USAGE, "%s: there is a volume named %s already", m->at.name, m->name);
    if (s.has_uuid && !s.has_partial)
        return cli_fail(EXIT_USAGE, "%s: the snapshot of this stream is there already, under another name", m->at.name);
    ret = s.has_partial ? import_go_on(m, &s.partial) : import_make(m, &s);
    if (!ret && h->begin > m->kept)
        ret = cli_fail(EXIT_USAGE,
                       "%s: the stream begins at byte %" PRIu64 ", and what is there of %s ends at byte %" PRIu64
                       ": export it with --offset %" PRIu64,
                       m->at.name, h->begin, m->name, m->kept, m->kept);
    m->at_byte = m->kept;
    return ret;
}

/* ---- writing ---- */

static int import_status(struct import *m, uint64_t offset, uint16_t status)
{
    return status ? cli_fail(EXIT_RUNTIME, "%s: %s cannot be written at byte %" PRIu64 ": %s", m->at.name, m->partial,
                             offset, plx_nvme_status_text(status))
                  : EXIT_OK;
}

static int import_flush(struct import *m)
{
    if (m->at.is_served)
        return pool_write(&m->at, m->stream.head.uuid, 0, 0, NULL);
    stream_disk_begin(&m->disk, PLX_BDEV_FLUSH, 0, 0, NULL);
    return import_status(m, m->at_byte, stream_disk_end(&m->disk));
}

/* From now on it is known that so much is there. */
static int import_keep(struct import *m)
{
    char name[PLX_POOL_NAME];
    snprintf(name, sizeof name, "%s" IMPORT_MARK "%" PRIu64, m->name, m->at_byte);
    if (strcmp(name, m->partial) == 0)
        return EXIT_OK;
    struct plx_pool_op op = {.kind = PLX_POOL_RENAME, .volume = m->partial, .name = name};
    int ret = import_flush(m);
    if (!ret)
        ret = import_op(m, &op);
    if (!ret) {
        m->kept = m->at_byte;
        memcpy(m->partial, name, sizeof name);
    }
    return ret;
}

/* Zeroes are unmapped: they are as little as can be. */
static int import_piece(struct import *m, const struct stream_piece *piece)
{
    enum { AT_ONCE = 1 << 30 };
    if (m->at.is_served)
        return pool_write(&m->at, m->stream.head.uuid, piece->offset, piece->length,
                          piece->kind == STREAM_DATA ? m->mem : NULL);
    if (piece->kind == STREAM_DATA) {
        stream_disk_begin(&m->disk, PLX_BDEV_WRITE, piece->offset, piece->length, m->mem);
        return import_status(m, piece->offset, stream_disk_end(&m->disk));
    }
    for (uint64_t done = 0, n; done < piece->length; done += n) {
        n = piece->length - done < AT_ONCE ? piece->length - done : AT_ONCE;
        stream_disk_begin(&m->disk, PLX_BDEV_UNMAP, piece->offset + done, n, NULL);
        int ret = import_status(m, piece->offset + done, stream_disk_end(&m->disk));
        if (ret)
            return ret;
    }
    return EXIT_OK;
}

static int import_pieces(struct import *m)
{
    int ret = EXIT_OK;
    while (!ret && !m->done) {
        struct stream_piece piece;
        ret = stream_get(&m->stream, &piece, m->mem);
        if (ret)
            break;
        m->done = piece.kind == STREAM_END;
        if (m->done || piece.offset + piece.length <= m->kept)
            continue;
        ret = import_piece(m, &piece);
        m->at_byte = ret ? m->at_byte : piece.offset + piece.length;
        pool_progress(&m->progress, m->at_byte, m->stream.head.size, stream_disk_ns(&m->disk));
        if (!ret && m->at_byte - m->kept >= IMPORT_KEEP)
            ret = import_keep(m);
    }
    pool_progress_clear(&m->progress);
    return ret;
}

/* All of it is there: it becomes a snapshot, and gets its name last. */
static int import_finish(struct import *m)
{
    struct plx_pool_op freeze = {.kind = PLX_POOL_FREEZE, .volume = m->partial},
                       name = {.kind = PLX_POOL_RENAME, .volume = m->partial, .name = m->name};
    int ret = m->frozen ? EXIT_OK : import_op(m, &freeze);
    return ret ? ret : import_op(m, &name);
}

static int import_into(struct import *m)
{
    int ret = import_begin(m);
    if (ret)
        return ret;
    if (!m->frozen) {
        ret = stream_disk_open(&m->disk, m->at.pool, m->stream.head.uuid);
        if (!ret)
            ret = import_pieces(m);
        if (!ret)
            ret = import_flush(m);
        else if (m->disk.reactor && !import_keep(m))
            cli_say("pollux: what there is of %s, up to byte %" PRIu64
                    ", is kept as %s: import the stream again, or one that was exported with --offset %" PRIu64
                    ", to go on\n",
                    m->name, m->kept, m->partial, m->kept);
        stream_disk_close(&m->disk);
    }
    return ret ? ret : import_finish(m);
}

static int import_open(struct stream *s, const char *path)
{
    s->path = path && strcmp(path, "-") != 0 ? path : "standard input";
    s->fd = s->path == path ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    if (s->fd < 0)
        return cli_fail(EXIT_USAGE, "%s cannot be read: %s", path, strerror(errno));
    return stream_get_head(s);
}

int volume_import(const struct pool_command *o, const struct pool_verb *v)
{
    struct import m = {.name = o->words[1], .progress = {.what = "import", .bytes = true}};
    if (strlen(m.name) > IMPORT_NAME_MAX)
        return cli_fail(EXIT_USAGE, "the name of what is imported has at most %d bytes", (int)IMPORT_NAME_MAX);
    int ret = import_open(&m.stream, o->nwords > 2 ? o->words[2] : NULL);
    if (!ret)
        ret = pool_open_pool(&m.at, o->words[0], v);
    if (!ret && *m.at.lvstore)
        ret = pool_put(&m.at, cli_fail(EXIT_USAGE,
                                       "%s is in use by a server as lvstore %s, whose volumes are its disks: end the "
                                       "server, or import the stream into the pool of another disk",
                                       o->words[0], cli_clean(m.at.lvstore)));
    if (!ret) {
        m.mem = aligned_alloc(4096, STREAM_DATA_MAX);
        ret = m.mem ? import_into(&m) : cli_fail(EXIT_RUNTIME, "out of memory");
        free(m.mem);
        if (!ret)
            ret = pool_show_volume(o, &m.at, m.name);
        ret = pool_put(&m.at, ret);
    }
    if (m.stream.fd > STDIN_FILENO)
        close(m.stream.fd);
    return ret;
}
