/* SPDX-License-Identifier: BSD-3-Clause */
/* What a pool is on its disk: docs/format-pool.md in C. Everything is little-endian. */
#ifndef PLX_POOL_FORMAT_H
#define PLX_POOL_FORMAT_H

#include "base/le.h"

#include <stdbool.h>

#define POOL_MAGIC "PLXPOOL"
#define POOL_LOG_MAGIC "PLXPLOG"

enum {
    POOL_VERSION = 1,
    POOL_UNIT_SHIFT_MIN = 12,
    POOL_UNIT_SHIFT_MAX = 16,
    POOL_ROOT_BYTES = 512,
    POOL_ROOT_STEP = 4, /* units from one root to the other */
    POOL_LOG_FIRST = 8, /* unit where the log begins */
    POOL_MAP_FIRST = 1, /* unit of a region where the two copies of its map are */
    POOL_PAGE_HEADER = 64,
    POOL_RECORD_BYTES = 512,
    POOL_NAME = 64, /* bytes of a name, with the zero at its end */
    POOL_OUTER_NAME = POOL_NAME,
    POOL_LEVELS = 6, /* of a tree: its data, and the nodes above */
    POOL_DIR_HEIGHT = 2,
    POOL_SLOTS_MAX = 1 << 19,  /* of the directory */
    POOL_UNITS_SHIFT_MAX = 40, /* a pool has less than 2^40 units */
};

/*
 * Where a unit is, since when, and what it holds. All zero: nothing. No unit, but an instant: zeroes, which hide what a
 * disk outside has there.
 */
struct pool_entry {
    plx_le64 where; /* bits 39:0 the unit, bits 63:40 are zero */
    plx_le32 birth; /* the instant at which it was entered; of maps see below */
    plx_le32 crc;   /* CRC32C of the unit; of data 0, unless the pool has checksums */
};

enum pool_flag {
    POOL_CHECKSUMS = 1 << 0, /* entries of data have a CRC, and changes in the log those of what they map */
};

/* In the units 0 and POOL_ROOT_STEP: that of generation g is in number g % 2. */
struct pool_root {
    uint8_t magic[8];
    plx_le32 version;
    plx_le32 crc; /* CRC32C of POOL_ROOT_BYTES, with this as zero */
    uint8_t uuid[16];
    plx_le64 generation;
    plx_le64 units;
    plx_le64 log_units;
    plx_le64 log_seq; /* of the first page that is to be replayed */
    plx_le64 regions; /* that have been used, each of which has a map */
    plx_le64 used;    /* units that are not free */
    plx_le64 created; /* seconds since 1970 */
    plx_le32 instant; /* the present one, from 1 on */
    plx_le32 slots;   /* of the directory */
    plx_le32 cluster; /* bytes, as clients were told */
    plx_le16 flags;
    uint8_t unit_shift;
    uint8_t maps_height;
    struct pool_entry dir;  /* the directory: units of records */
    struct pool_entry maps; /* units that are maps of regions, by their number */
    char name[POOL_NAME];
    uint8_t zero[POOL_ROOT_BYTES - 200];
};
_Static_assert(sizeof(struct pool_root) == POOL_ROOT_BYTES, "a root is 512 bytes");

enum pool_state {
    POOL_FREE,
    POOL_VOLUME,
    POOL_SNAPSHOT,
    POOL_GHOST, /* a snapshot that was deleted, but has several children that share it */
    POOL_DYING, /* is being freed */
    POOL_LOST,  /* never on the disk: nothing is known of it, as its record is damaged: see record.c */
};

enum pool_volume_flag {
    POOL_THICK = 1 << 0,   /* space is set aside for what is not mapped */
    POOL_OUTER = 1 << 1,   /* it goes back to a disk outside, which shows through where there is nothing */
    POOL_BORROWS = 1 << 2, /* POOL_DYING: its data is another's, and only its nodes are freed */
};

/* A volume, or what it was made of. Its number is its place in the directory. */
enum { POOL_ATTRIBUTES = POOL_RECORD_BYTES - 225 };

struct pool_record {
    plx_le32 state;
    plx_le32 flags;
    uint8_t uuid[16];
    plx_le64 size;   /* units */
    plx_le64 mapped; /* units */
    plx_le64 done;   /* POOL_DYING: units from the beginning that have been freed */
    plx_le64 created;
    plx_le32 parent;  /* number of the snapshot that it goes back to, and 1; or 0 */
    plx_le32 instant; /* what it had been written until then belongs to it; of a volume 0 */
    uint8_t height;
    uint8_t zero1[7];
    struct pool_entry root;
    char name[POOL_NAME];
    char outer[POOL_OUTER_NAME]; /* POOL_OUTER: UUID of that disk, or its name */
    plx_le64 checksum;           /* CRC-64 of what a snapshot has of its own, in clusters */
    uint8_t has_checksum;
    char attributes[POOL_ATTRIBUTES]; /* name and value by turns, each with a zero; no name ends them */
};
_Static_assert(sizeof(struct pool_record) == POOL_RECORD_BYTES, "a record is 512 bytes");

/* A page of the log: a unit that begins with this. Number n is in unit POOL_LOG_FIRST + n % log_units. */
struct pool_log_page {
    uint8_t magic[8];
    plx_le32 crc;   /* CRC32C of the unit, with this as zero */
    plx_le32 bytes; /* of changes that follow */
    uint8_t uuid[16];
    plx_le64 seq;
    uint8_t zero[POOL_PAGE_HEADER - 40];
};
_Static_assert(sizeof(struct pool_log_page) == POOL_PAGE_HEADER, "a page begins with 64 bytes");

enum pool_change_kind {
    POOL_MAP = 1, /* units of the volume are now units of the pool, one after the other */
    POOL_UNMAP,   /* units of the volume are nothing now */
};

struct pool_change {
    plx_le32 volume;
    plx_le16 kind;
    plx_le16 count; /* POOL_MAP: units, all of them below one node of level 1 */
    plx_le64 at;    /* of the volume */
    plx_le64 to;    /* POOL_MAP: the first unit; POOL_UNMAP: how many */
};
_Static_assert(sizeof(struct pool_change) == 24, "a change is 24 bytes");

/*
 * The map of a region is a unit, of which the first bits say which units of the region are not free, as 64-bit words.
 * It is in either of two places, in turn. The entry that leads to it has the number of units that are not free in the
 * place of a birth.
 */

static inline uint64_t pool_entry_unit(const struct pool_entry *e)
{
    return plx_get64(e->where);
}

static inline uint32_t pool_entry_birth(const struct pool_entry *e)
{
    return plx_get32(e->birth);
}

/* Whether it says that there are zeroes, all below it. */
static inline bool pool_entry_zeroes(const struct pool_entry *e)
{
    return !e->where.raw && e->birth.raw;
}

static inline struct pool_entry pool_entry_make(uint64_t unit, uint32_t birth, uint32_t crc)
{
    return (struct pool_entry){plx_put64(unit), plx_put32(birth), plx_put32(crc)};
}

/* Units of a region, and entries of a node, as powers of two. */
static inline unsigned pool_region_shift(unsigned unit_shift)
{
    return unit_shift + 2;
}

static inline unsigned pool_fan_shift(unsigned unit_shift)
{
    return unit_shift - 4;
}

/* How high a tree is that maps so many units. */
static inline unsigned pool_height(uint64_t units, unsigned unit_shift)
{
    unsigned height = 1;
    while (units > UINT64_C(1) << (height * pool_fan_shift(unit_shift)))
        height++;
    return height;
}

#endif
