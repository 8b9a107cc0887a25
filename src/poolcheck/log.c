/* SPDX-License-Identifier: BSD-3-Clause */
/* What the log says is still to be done. */
#include "check.h"

#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Those of `reads`, from page c->log_pages on. @return 0; 1 at its end; -errno */
static int log_take(struct pck *c, struct pck_read *reads, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const uint64_t number = c->root.log_first + c->log_pages;
        if (reads[i].status)
            return plx_fail(c->err, -EIO, "page %llu of the log cannot be read", (unsigned long long)number);
        if (pck_get_page(reads[i].mem, &c->root, number) < 0)
            return 1;
        c->log[c->log_pages++] = reads[i].mem;
        reads[i].mem = NULL;
    }
    return 0;
}

/* @return 0; 1 at its end; -errno */
static int log_read_some(struct pck *c)
{
    struct pck_read reads[PCK_AT_ONCE];
    const uint64_t left = c->root.log_units - c->log_pages;
    const uint64_t as_many = c->log_pages ? c->log_pages : 1; /* as there are, since there may be no more */
    const unsigned n = (unsigned)plx_min_u64(plx_min_u64(left, as_many), PCK_AT_ONCE);
    unsigned got = 0;
    uint8_t **more = realloc(c->log, (c->log_pages + n + 1) * sizeof *more);
    int ret = more ? 0 : -ENOMEM;
    c->log = more ? more : c->log;
    for (; got < n && !ret; got++) {
        const uint64_t number = c->root.log_first + c->log_pages + got;
        reads[got] =
            (struct pck_read){.unit = PCK_LOG_PLACE + number % c->root.log_units, .mem = aligned_alloc(4096, c->unit)};
        ret = reads[got].mem ? 0 : -ENOMEM;
    }
    if (ret)
        plx_fail(c->err, ret, "out of memory");
    else
        pck_disk_read(&c->disk, reads, n);
    if (!ret)
        ret = n ? log_take(c, reads, n) : 1;
    for (unsigned i = 0; i < got; i++)
        free(reads[i].mem);
    return ret;
}

static const char *change_wrong(struct pck *c, const struct pck_change *g)
{
    const struct pck_volume *v = g->volume < c->root.slots ? c->volume[g->volume] : NULL;
    const uint64_t n = g->kind == PCK_MAP ? g->count : g->to;
    if (!v || v->r.state != PCK_VOLUME)
        return "is of a volume that there is not";
    if (!n || g->at >= v->r.size || n > v->r.size - g->at)
        return "goes beyond the end of its volume";
    if (g->at >> pck_fan(&c->root) != (g->at + n - 1) >> pck_fan(&c->root))
        return "is of more than one node";
    if (g->kind == PCK_UNMAP)
        return NULL;
    if (g->to >= c->root.units || n > c->root.units - g->to)
        return "maps units beyond the end of the pool";
    for (uint64_t i = 0; i < n; i++)
        if (pck_is_fixed(&c->root, g->to + i))
            return "maps a unit that a volume cannot have";
    for (uint64_t i = 0; i < n; i++)
        if (pck_bit(c, &c->used, g->to + i) || pck_bit(c, &c->meta, g->to + i) ||
            !pck_bit_set(c, &c->logged, g->to + i))
            return "maps a unit that is in use";
    return NULL;
}

static void log_newer(struct pck *c, uint64_t n, const char *what)
{
    c->leave = true;
    pck_say(c, PLX_POOL_DAMAGE, false, NULL, (int64_t)(PCK_LOG_PLACE + (c->root.log_first + n) % c->root.log_units),
            "page %llu of the log %s that is not known here, as a later version of this program may make it: a repair "
            "leaves the pool alone",
            (unsigned long long)(c->root.log_first + n), what);
}

static void log_page_check(struct pck *c, uint64_t n)
{
    const uint8_t *mem = c->log[n] + PCK_PAGE_HEADER;
    uint32_t room = (uint32_t)pck_get_page(c->log[n], &c->root, c->root.log_first + n);
    for (unsigned i = 40; i < PCK_PAGE_HEADER; i++)
        if (c->log[n][i]) {
            log_newer(c, n, "has a field");
            break;
        }
    while (room && !c->stop) {
        struct pck_change g = {.volume = UINT32_MAX};
        const uint32_t bytes = pck_get_change(mem, room, &c->root, &g);
        const bool newer = bytes && g.kind != PCK_MAP && g.kind != PCK_UNMAP;
        const char *wrong = newer ? NULL : bytes ? change_wrong(c, &g) : "is cut off";
        if (newer) { /* how long it is is not known */
            log_newer(c, n, "has a change of a kind");
            return;
        }
        if (wrong) {
            c->log_wrong = true;
            pck_say(c, PLX_POOL_DAMAGE, true, g.volume < c->root.slots ? c->volume[g.volume] : NULL,
                    (int64_t)(PCK_LOG_PLACE + (c->root.log_first + n) % c->root.log_units),
                    "a change in page %llu of the log %s; a repair takes it out",
                    (unsigned long long)(c->root.log_first + n), wrong);
        }
        if (!bytes)
            return;
        if (!wrong && g.kind == PCK_MAP)
            pck_data_change(c, &g, mem + PCK_CHANGE_BYTES);
        mem += bytes;
        room -= bytes;
    }
}

int pck_log_read(struct pck *c)
{
    int ret = c->log_here;
    while (!ret)
        ret = log_read_some(c);
    c->log_here = ret == 1;
    return ret < 0 ? ret : 0;
}

int pck_log_cut(struct pck *c)
{
    struct pck_root r;
    uint8_t *mem = aligned_alloc(4096, c->unit);
    if (!mem)
        return plx_fail(c->err, -ENOMEM, "out of memory");
    const bool next = !pck_disk_read_one(&c->disk, (uint64_t)!c->place * PCK_ROOT_PLACE, mem) &&
                      pck_get_root(mem, &r) && r.generation == c->root.generation + 1;
    free(mem);
    while (next && c->log_pages && c->root.log_first + c->log_pages > r.log_first)
        free(c->log[--c->log_pages]);
    return 0;
}

int pck_log(struct pck *c)
{
    int ret = pck_log_read(c);
    if (ret)
        return ret;
    for (uint64_t n = 0; n < c->log_pages && !c->stop; n++)
        log_page_check(c, n);
    pck_data_end(c);
    if (c->log_pages)
        pck_say(c, PLX_POOL_NOTE, false, NULL, PLX_POOL_NOWHERE,
                "the pool was not closed: %llu page%s of the log will be replayed when it is opened",
                (unsigned long long)c->log_pages, c->log_pages == 1 ? "" : "s");
    return c->stop;
}

/* ---- once more, without what cannot be ---- */

struct log_out {
    uint8_t *mem;
    uint32_t bytes;
    uint64_t number;
};

static int log_out_page(struct pck *c, struct log_out *out)
{
    if (!out->bytes)
        return 0;
    pck_put_page(out->mem, &c->root, out->number, out->bytes);
    if (pck_disk_write(&c->disk, PCK_LOG_PLACE + out->number % c->root.log_units, out->mem))
        return plx_fail(c->err, -EIO, "the log cannot be written");
    out->number++;
    out->bytes = 0;
    memset(out->mem, 0, c->unit);
    return 0;
}

static int log_out_from(struct pck *c, struct log_out *out, uint64_t n)
{
    const uint8_t *mem = c->log[n] + PCK_PAGE_HEADER;
    uint32_t room = (uint32_t)pck_get_page(c->log[n], &c->root, c->root.log_first + n);
    int ret = 0;
    while (room && !ret) {
        struct pck_change g;
        const uint32_t bytes = pck_get_change(mem, room, &c->root, &g);
        if (!bytes)
            return 0;
        if (!change_wrong(c, &g)) {
            if (out->bytes + bytes > c->unit - PCK_PAGE_HEADER)
                ret = log_out_page(c, out);
            memcpy(out->mem + PCK_PAGE_HEADER + out->bytes, mem, bytes);
            out->bytes += bytes;
        }
        mem += bytes;
        room -= bytes;
    }
    return ret;
}

int pck_log_rewrite(struct pck *c, uint64_t *first)
{
    struct log_out out = {.number = c->root.log_first + c->log_pages + c->root.log_units};
    if (2 * c->log_pages > c->root.log_units)
        return plx_fail(c->err, -ENOSPC, "the log is too long for what is wrong in it to be taken out");
    for (uint64_t r = 0; r < pck_regions(&c->root); r++) {
        free(c->logged.region[r]);
        c->logged.region[r] = NULL;
    }
    out.mem = aligned_alloc(4096, c->unit);
    if (!out.mem)
        return plx_fail(c->err, -ENOMEM, "out of memory");
    memset(out.mem, 0, c->unit);
    *first = out.number;
    int ret = 0;
    for (uint64_t n = 0; n < c->log_pages && !ret; n++)
        ret = log_out_from(c, &out, n);
    if (!ret)
        ret = log_out_page(c, &out);
    free(out.mem);
    return ret;
}
