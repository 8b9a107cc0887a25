/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pools on disks, once more: written from docs/format-pool.md alone, so that a mistake of whoever writes pools is not
 * made here as well. Nothing of src/bdev/pool/ is included in this room.
 */
#ifndef PLX_POOLCHECK_LAYOUT_H
#define PLX_POOLCHECK_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PCK_VERSION = 1,
    PCK_SHIFT_MIN = 12, /* of units */
    PCK_SHIFT_MAX = 16,
    PCK_ROOT_BYTES = 512,
    PCK_ROOT_PLACE = 4, /* of odd generations */
    PCK_LOG_PLACE = 8,
    PCK_MAP_PLACE = 1, /* in a region, and the one after it */
    PCK_RECORD_BYTES = 512,
    PCK_PAGE_HEADER = 64,
    PCK_CHANGE_BYTES = 24,
    PCK_NAME = 64,
    PCK_OUTER_AT = 152, /* in a record: what it goes back to outside the pool */
    PCK_CHECKSUM_AT = 216,
    PCK_ATTRIBUTES_AT = 225,
    PCK_ATTRIBUTES = PCK_RECORD_BYTES - PCK_ATTRIBUTES_AT,
    PCK_HEIGHT_MAX = 5,
    PCK_DIR_HEIGHT = 2,
    PCK_SLOTS_MAX = 1 << 19,
    PCK_UNITS_MIN = 1024,
    PCK_UNITS_SHIFT = 40,
};

enum pck_root_flag {
    PCK_ROOT_CHECKSUMS =
        1, /* entries of data have the CRC of their unit, and changes that map are followed by theirs */
};

enum pck_state {
    PCK_FREE,
    PCK_VOLUME,
    PCK_SNAPSHOT,
    PCK_GHOST,
    PCK_DYING,
    PCK_STATES,
};

enum pck_record_flag {
    PCK_THICK = 1,
    PCK_OUTER = 2,   /* bytes 152-215: a disk outside, which shows through where nothing is mapped */
    PCK_BORROWS = 4, /* of one that is dying: its data is owned by another, and only its nodes are its own */
};

enum pck_kind {
    PCK_MAP = 1,
    PCK_UNMAP = 2,
};

struct pck_entry {
    uint64_t unit;
    uint32_t birth, crc;
};

struct pck_root {
    uint32_t version;
    uint8_t uuid[16];
    uint64_t generation, units, log_units, log_first, regions, used, created;
    uint32_t instant, slots, cluster;
    uint16_t flags;
    uint8_t shift, maps_height;
    struct pck_entry dir, maps;
    char name[PCK_NAME];
    bool more; /* it has something where zeroes are to be */
};

struct pck_record {
    uint32_t state, flags;
    uint8_t uuid[16];
    uint64_t size, mapped, done, created;
    uint32_t parent; /* and 1; or 0 */
    uint32_t instant;
    uint8_t height;
    struct pck_entry root;
    char name[PCK_NAME]; /* as it is on the disk: perhaps without a zero; as the next one */
    char outer[PCK_NAME];
    uint64_t checksum;
    uint8_t has_checksum;
    char attributes[PCK_ATTRIBUTES]; /* as they are on the disk */
    bool more;                       /* it has something where zeroes are to be */
};

struct pck_change {
    uint32_t volume;
    uint16_t kind, count;
    uint64_t at, to;
};

/* ---- as they are on the disk; mem has what is needed of a unit ---- */

uint64_t pck_get64(const uint8_t *p);
void pck_put64(uint8_t *p, uint64_t v);
uint32_t pck_get32(const uint8_t *p);
uint16_t pck_get16(const uint8_t *p);

struct pck_entry pck_get_entry(const uint8_t *p);
void pck_put_entry(uint8_t *p, const struct pck_entry *e);

/* @return whether it is whole: the magic, and the CRC */
bool pck_get_root(const uint8_t *mem, struct pck_root *r);
void pck_put_root(uint8_t *mem, const struct pck_root *r);

void pck_get_record(const uint8_t *mem, struct pck_record *r);
/* Changes what is known of it; what is not, is left as it is. */
void pck_put_record(uint8_t *mem, const struct pck_record *r);

/* @return bytes of changes; or -1 when the page is not whole, or not number n of that pool */
int64_t pck_get_page(const uint8_t *mem, const struct pck_root *r, uint64_t n);
void pck_put_page(uint8_t *mem, const struct pck_root *r, uint64_t n, uint32_t bytes);
/* The change that begins there. @return bytes that it has; 0 when there are not as many */
uint32_t pck_get_change(const uint8_t *mem, uint32_t room, const struct pck_root *r, struct pck_change *c);

uint32_t pck_crc(const void *mem, size_t bytes);

/* ---- what follows from the root ---- */

static inline unsigned pck_fan(const struct pck_root *r)
{
    return r->shift - 4U;
}

static inline unsigned pck_region_shift(const struct pck_root *r)
{
    return r->shift + 2U;
}

/* The first unit behind what an entry of a level has below it, from `at` on. */
static inline uint64_t pck_span_end(const struct pck_root *r, uint64_t at, unsigned level)
{
    return ((at >> (level * pck_fan(r))) + 1) << (level * pck_fan(r));
}

unsigned pck_height(const struct pck_root *r, uint64_t units);
/* Roots, maps and the log. */
bool pck_is_fixed(const struct pck_root *r, uint64_t unit);
uint64_t pck_regions(const struct pck_root *r);
uint64_t pck_region_size(const struct pck_root *r, uint64_t region);
/* Fixed units of the regions from one on. */
uint64_t pck_fixed_from(const struct pck_root *r, uint64_t region);

/* What of it is of a later version of the format than this, so that what the rest says is not known; or NULL. */
const char *pck_root_newer(const struct pck_root *r);
const char *pck_record_newer(const struct pck_record *v);
/* Why a root that is whole cannot be that of a disk of so many units; NULL when it can. */
const char *pck_root_wrong(const struct pck_root *r, uint64_t units, unsigned shift);
bool pck_name_ok(const char name[PCK_NAME]);
/* Names and values by turns, then zeroes. */
bool pck_attributes_ok(const char attributes[PCK_ATTRIBUTES]);
/* The name of a disk outside, which may have more in it. */
bool pck_outer_ok(const char name[PCK_NAME]);
/* The same of a record, but for its names, and what it says of others. */
const char *pck_record_wrong(const struct pck_root *r, const struct pck_record *v);
/* The most units that a log has. */
uint64_t pck_log_most(const struct pck_root *r);

#endif
