/* SPDX-License-Identifier: BSD-3-Clause */
/* Pools whose structures are changed on the disk, with the CRCs on the way to them, and what `pool check` says then. */
#ifndef TEST_POOL_HURT_H
#define TEST_POOL_HURT_H

#include "pool_rig.h"

#include <pollux/pool_check.h>

#include "poolcheck/layout.h"

enum { HURT_UNIT = 4096, HURT_BLOCKS = 8 /* of a unit */, HURT_VOLUME = 3 << 20 };

/* ---- what is found ---- */

struct hurt_seen {
    uint64_t per[3], mendable;
    int64_t offset;    /* of the last */
    char texts[16384]; /* a line each */
};

extern struct hurt_seen hurt_seen; /* by the last look */

void hurt_take(void *arg, const struct plx_pool_finding *f);
void hurt_look(struct pool_rig *rig, bool repair);
/* With data. @return bytes of it that were compared */
uint64_t hurt_look_data(struct pool_rig *rig);
void hurt_expect_clean(struct pool_rig *rig);
/* mendable: whether some of what is found is. */
void hurt_expect(struct pool_rig *rig, enum plx_pool_severity severity, bool mendable, const char *text);

/* ---- a pool with one of each ---- */

extern const struct plx_volume_attribute hurt_attribute;
#define HURT_CHECKSUM UINT64_C(0xfedcba9876543210)
/*
 * "a", which has that attribute, its snapshot "one", which has that checksum, a ghost, "b" of "one", and "c" of the
 * ghost: the volumes 0 to 4. It is not open.
 */
void hurt_make(struct pool_rig *rig, const char *url);
/* The same on 8 MiB, and it is clean. */
void hurt_begin(struct pool_rig *rig);
/* Mended, it can be opened, has so many volumes, and is clean; nothing is left of the rig. */
void hurt_mend(struct pool_rig *rig, uint32_t volumes);

/* ---- units ---- */

extern uint8_t hurt_unit[HURT_UNIT];

void hurt_get(struct pool_rig *rig, uint64_t number);
void hurt_put(struct pool_rig *rig, uint64_t number);
struct pck_root hurt_root_of(struct pool_rig *rig);
void hurt_put_root(struct pool_rig *rig, const struct pck_root *r);
struct pck_record hurt_record_of(struct pool_rig *rig, unsigned number);
/* A bit of a unit is another one, and CRCs are as they were. */
void hurt_rot(struct pool_rig *rig, uint64_t number, int at);

/* What is done to a unit's memory. */
typedef void (*hurt_fn)(uint8_t *mem, const void *arg);

/* To the first page of the directory; to the map of the first region; to the first node of the tree of maps. */
void hurt_dir(struct pool_rig *rig, hurt_fn change, const void *arg);
void hurt_map(struct pool_rig *rig, hurt_fn change, const void *arg);
void hurt_maps(struct pool_rig *rig, hurt_fn change, const void *arg);
/* An entry of the first leaf of volume "a" is another one. */
void hurt_leaf(struct pool_rig *rig, unsigned slot, const struct pck_entry *e);

struct hurt_entry {
    unsigned slot;
    struct pck_entry e;
};

struct hurt_edit {
    unsigned record;
    void (*edit)(struct pck_record *r);
};

void hurt_set_bit(uint8_t *mem, const void *arg);     /* int: which */
void hurt_set_entry(uint8_t *mem, const void *arg);   /* struct hurt_entry */
void hurt_edit_record(uint8_t *mem, const void *arg); /* struct hurt_edit */
void hurt_set_mapped(uint8_t *mem, const void *arg);  /* three more */
void hurt_absurd_size(struct pck_record *r);
void hurt_twin_name(struct pck_record *r); /* "b" */

#endif
