/* SPDX-License-Identifier: BSD-3-Clause */
/* The structures of docs/format-pool.md, read and written by the byte. */
#include "layout.h"

#include "base/crc32c.h"
#include "base/le.h"
#include "base/util.h"

#include <pollux/base.h>
#include <string.h>

static const uint8_t root_magic[8] = "PLXPOOL", page_magic[8] = "PLXPLOG";

uint64_t pck_get64(const uint8_t *p)
{
    return (uint64_t)plx_peek32(p + 4) << 32 | plx_peek32(p);
}

void pck_put64(uint8_t *p, uint64_t v)
{
    plx_poke32(p, (uint32_t)v);
    plx_poke32(p + 4, (uint32_t)(v >> 32));
}

uint32_t pck_get32(const uint8_t *p)
{
    return plx_peek32(p);
}

uint16_t pck_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

uint32_t pck_crc(const void *mem, size_t bytes)
{
    return plx_crc32c(mem, bytes);
}

/* Of bytes, four of which hold it, and count as zeroes. */
static uint32_t crc_around(const uint8_t *mem, size_t bytes, size_t at)
{
    static const uint8_t zero[4];
    uint32_t crc = plx_crc32c_add((uint32_t)PLX_CRC32C_INIT, mem, at);
    crc = plx_crc32c_add(crc, zero, sizeof zero);
    return plx_crc32c_end(plx_crc32c_add(crc, mem + at + sizeof zero, bytes - at - sizeof zero));
}

struct pck_entry pck_get_entry(const uint8_t *p)
{
    return (struct pck_entry){pck_get64(p), plx_peek32(p + 8), plx_peek32(p + 12)};
}

void pck_put_entry(uint8_t *p, const struct pck_entry *e)
{
    pck_put64(p, e->unit);
    plx_poke32(p + 8, e->birth);
    plx_poke32(p + 12, e->crc);
}

static bool any_set(const uint8_t *mem, size_t from, size_t to)
{
    for (; from < to; from++)
        if (mem[from])
            return true;
    return false;
}

bool pck_get_root(const uint8_t *mem, struct pck_root *r)
{
    *r = (struct pck_root){
        .version = plx_peek32(mem + 8),
        .generation = pck_get64(mem + 32),
        .units = pck_get64(mem + 40),
        .log_units = pck_get64(mem + 48),
        .log_first = pck_get64(mem + 56),
        .regions = pck_get64(mem + 64),
        .used = pck_get64(mem + 72),
        .created = pck_get64(mem + 80),
        .instant = plx_peek32(mem + 88),
        .slots = plx_peek32(mem + 92),
        .cluster = plx_peek32(mem + 96),
        .flags = pck_get16(mem + 100),
        .shift = mem[102],
        .maps_height = mem[103],
        .dir = pck_get_entry(mem + 104),
        .maps = pck_get_entry(mem + 120),
    };
    memcpy(r->uuid, mem + 16, sizeof r->uuid);
    memcpy(r->name, mem + 136, sizeof r->name);
    r->more = any_set(mem, 200, PCK_ROOT_BYTES);
    return !memcmp(mem, root_magic, sizeof root_magic) && crc_around(mem, PCK_ROOT_BYTES, 12) == plx_peek32(mem + 12);
}

void pck_put_root(uint8_t *mem, const struct pck_root *r)
{
    memset(mem, 0, PCK_ROOT_BYTES);
    memcpy(mem, root_magic, sizeof root_magic);
    plx_poke32(mem + 8, r->version);
    memcpy(mem + 16, r->uuid, sizeof r->uuid);
    pck_put64(mem + 32, r->generation);
    pck_put64(mem + 40, r->units);
    pck_put64(mem + 48, r->log_units);
    pck_put64(mem + 56, r->log_first);
    pck_put64(mem + 64, r->regions);
    pck_put64(mem + 72, r->used);
    pck_put64(mem + 80, r->created);
    plx_poke32(mem + 88, r->instant);
    plx_poke32(mem + 92, r->slots);
    plx_poke32(mem + 96, r->cluster);
    mem[100] = (uint8_t)r->flags;
    mem[101] = (uint8_t)(r->flags >> 8);
    mem[102] = r->shift;
    mem[103] = r->maps_height;
    pck_put_entry(mem + 104, &r->dir);
    pck_put_entry(mem + 120, &r->maps);
    memcpy(mem + 136, r->name, sizeof r->name);
    plx_poke32(mem + 12, crc_around(mem, PCK_ROOT_BYTES, 12));
}

void pck_get_record(const uint8_t *mem, struct pck_record *r)
{
    *r = (struct pck_record){
        .state = plx_peek32(mem),
        .flags = plx_peek32(mem + 4),
        .size = pck_get64(mem + 24),
        .mapped = pck_get64(mem + 32),
        .done = pck_get64(mem + 40),
        .created = pck_get64(mem + 48),
        .parent = plx_peek32(mem + 56),
        .instant = plx_peek32(mem + 60),
        .height = mem[64],
        .root = pck_get_entry(mem + 72),
        .checksum = pck_get64(mem + PCK_CHECKSUM_AT),
        .has_checksum = mem[PCK_CHECKSUM_AT + 8],
    };
    memcpy(r->uuid, mem + 8, sizeof r->uuid);
    memcpy(r->name, mem + 88, sizeof r->name);
    memcpy(r->outer, mem + PCK_OUTER_AT, sizeof r->outer);
    memcpy(r->attributes, mem + PCK_ATTRIBUTES_AT, sizeof r->attributes);
    r->more = any_set(mem, 65, 72) || r->has_checksum > 1;
}

void pck_put_record(uint8_t *mem, const struct pck_record *r)
{
    plx_poke32(mem, r->state);
    plx_poke32(mem + 4, r->flags);
    memcpy(mem + 8, r->uuid, sizeof r->uuid);
    pck_put64(mem + 24, r->size);
    pck_put64(mem + 32, r->mapped);
    pck_put64(mem + 40, r->done);
    pck_put64(mem + 48, r->created);
    plx_poke32(mem + 56, r->parent);
    plx_poke32(mem + 60, r->instant);
    mem[64] = r->height;
    pck_put_entry(mem + 72, &r->root);
    memcpy(mem + 88, r->name, sizeof r->name);
    memcpy(mem + PCK_OUTER_AT, r->outer, sizeof r->outer);
    pck_put64(mem + PCK_CHECKSUM_AT, r->checksum);
    mem[PCK_CHECKSUM_AT + 8] = r->has_checksum;
    memcpy(mem + PCK_ATTRIBUTES_AT, r->attributes, sizeof r->attributes);
}

int64_t pck_get_page(const uint8_t *mem, const struct pck_root *r, uint64_t n)
{
    const size_t unit = (size_t)1 << r->shift;
    const uint32_t bytes = plx_peek32(mem + 12);
    if (memcmp(mem, page_magic, sizeof page_magic) || memcmp(mem + 16, r->uuid, sizeof r->uuid) ||
        pck_get64(mem + 32) != n || bytes > unit - PCK_PAGE_HEADER || crc_around(mem, unit, 8) != plx_peek32(mem + 8))
        return -1;
    return bytes;
}

void pck_put_page(uint8_t *mem, const struct pck_root *r, uint64_t n, uint32_t bytes)
{
    memset(mem, 0, PCK_PAGE_HEADER);
    memcpy(mem, page_magic, sizeof page_magic);
    plx_poke32(mem + 12, bytes);
    memcpy(mem + 16, r->uuid, sizeof r->uuid);
    pck_put64(mem + 32, n);
    plx_poke32(mem + 8, crc_around(mem, (size_t)1 << r->shift, 8));
}

uint32_t pck_get_change(const uint8_t *mem, uint32_t room, const struct pck_root *r, struct pck_change *c)
{
    if (room < PCK_CHANGE_BYTES)
        return 0;
    *c = (struct pck_change){plx_peek32(mem), pck_get16(mem + 4), pck_get16(mem + 6), pck_get64(mem + 8),
                             pck_get64(mem + 16)};
    uint32_t bytes = PCK_CHANGE_BYTES;
    if (c->kind == PCK_MAP && r->flags & PCK_ROOT_CHECKSUMS)
        bytes += (uint32_t)plx_align_up(4U * c->count, 8);
    return bytes <= room ? bytes : 0;
}

/* ---- what follows from the root ---- */

unsigned pck_height(const struct pck_root *r, uint64_t units)
{
    unsigned height = 1;
    while (height < PCK_HEIGHT_MAX && units > UINT64_C(1) << (height * pck_fan(r)))
        height++;
    return height;
}

bool pck_is_fixed(const struct pck_root *r, uint64_t unit)
{
    const uint64_t at = unit & ((UINT64_C(1) << pck_region_shift(r)) - 1);
    return unit < PCK_LOG_PLACE + r->log_units || at == PCK_MAP_PLACE || at == PCK_MAP_PLACE + 1;
}

uint64_t pck_regions(const struct pck_root *r)
{
    return (r->units + (UINT64_C(1) << pck_region_shift(r)) - 1) >> pck_region_shift(r);
}

uint64_t pck_region_size(const struct pck_root *r, uint64_t region)
{
    return plx_min_u64(UINT64_C(1) << pck_region_shift(r), r->units - (region << pck_region_shift(r)));
}

uint64_t pck_fixed_from(const struct pck_root *r, uint64_t region)
{
    uint64_t n = 0;
    for (; region < pck_regions(r); region++) {
        const uint64_t size = pck_region_size(r, region), first = region << pck_region_shift(r);
        if (!region)
            n += plx_min_u64(PCK_LOG_PLACE + r->log_units, size);
        else if (region > 1)
            n += 2;
        for (uint64_t i = 0; region == 1 && i < PCK_LOG_PLACE; i++) /* where a log may have gone on */
            n += pck_is_fixed(r, first + i);
    }
    return n;
}

uint64_t pck_log_most(const struct pck_root *r)
{
    return (UINT64_C(1) << pck_region_shift(r)) - PCK_LOG_PLACE;
}

const char *pck_root_newer(const struct pck_root *r)
{
    if (r->version != PCK_VERSION)
        return "is of another version than 1";
    if (r->flags & ~PCK_ROOT_CHECKSUMS)
        return "has flags that are not known here";
    return NULL;
}

const char *pck_root_wrong(const struct pck_root *r, uint64_t units, unsigned shift)
{
    if (r->shift != shift)
        return "its units do not fit the blocks of the disk";
    if (r->units > units)
        return "it is larger than the disk";
    if (r->units < PCK_UNITS_MIN || r->units >> PCK_UNITS_SHIFT)
        return "it is of a size that none has";
    /* Logs were made once that have as many units as a region has: they go beyond the first. */
    if (r->log_units < 8 || r->log_units > r->units / 4 || r->log_units > UINT64_C(1) << pck_region_shift(r))
        return "its log is of a size that none has";
    if (r->regions > pck_regions(r) || r->used > r->units)
        return "more of it is used than there is";
    if (!r->instant || r->slots > PCK_SLOTS_MAX || r->maps_height > PCK_HEIGHT_MAX)
        return "its counts cannot be";
    if (r->maps_height < pck_height(r, pck_regions(r)))
        return "its tree of maps is not high enough";
    if (!r->cluster || r->cluster & ((1U << shift) - 1))
        return "its clusters are no multiple of units";
    if (!memchr(r->name, 0, PCK_NAME) || (r->name[0] && !pck_name_ok(r->name)))
        return "its name is none";
    return NULL;
}

bool pck_name_ok(const char name[PCK_NAME])
{
    return pck_outer_ok(name) && !strchr(name, '/');
}

bool pck_outer_ok(const char name[PCK_NAME])
{
    size_t len = 0;
    if (!memchr(name, 0, PCK_NAME))
        return false;
    for (size_t n; (n = plx_text_printable(name + len));)
        len += n;
    return len && !name[len];
}

bool pck_attributes_ok(const char attributes[PCK_ATTRIBUTES])
{
    const char *const end = attributes + PCK_ATTRIBUTES;
    bool name = true;
    for (const char *at = attributes; at < end; name = !name) {
        if (name && !*at) { /* the last one has been */
            while (at < end && !*at)
                at++;
            return at == end;
        }
        if (!memchr(at, 0, (size_t)(end - at)))
            return false;
        for (size_t n; (n = plx_text_printable(at));)
            at += n;
        if (*at++)
            return false;
    }
    return name;
}

const char *pck_record_newer(const struct pck_record *v)
{
    if (v->state >= PCK_STATES)
        return "is in a state that is not known here";
    if (v->flags & ~(uint32_t)(PCK_THICK | PCK_OUTER | PCK_BORROWS))
        return "has flags that are not known here";
    return NULL;
}

const char *pck_record_wrong(const struct pck_root *r, const struct pck_record *v)
{
    if (v->flags & PCK_BORROWS && v->state != PCK_DYING)
        return "it borrows its data, but is not being freed";
    if (!v->size || v->size >> PCK_UNITS_SHIFT)
        return "its size cannot be";
    if (!v->height || v->height > PCK_HEIGHT_MAX || v->height < pck_height(r, v->size))
        return "the height of its tree does not fit its size";
    if (v->done > v->size)
        return "more of it has been freed than there was";
    if (v->parent > r->slots)
        return "it goes back to a snapshot beyond the directory";
    if (v->instant >= r->instant || (v->state == PCK_VOLUME) != !v->instant)
        return "its instant cannot be";
    return NULL;
}
