/* SPDX-License-Identifier: BSD-3-Clause */
/* One look at a pool: what its parts have in common. */
#ifndef PLX_POOLCHECK_CHECK_H
#define PLX_POOLCHECK_CHECK_H

#include <pollux/pool_check.h>

#include "poolcheck/layout.h"

enum {
    PCK_AT_ONCE = 64,     /* units that are read at a time */
    PCK_CACHE = 32 << 20, /* bytes of nodes that are kept */
    PCK_FINDINGS = 1000,  /* that are told one by one */
    PCK_SHOWN_NAME = 96,
};

/* ---- disk.c: units of a disk, many at a time ---- */

struct pck_disk {
    struct plx_bdev *bdev;
    struct plx_reactor *reactor;
    void (*turn)(struct plx_reactor *r); /* NULL: the reactor is its own */
    struct plx_bdev_channel *ch;
    unsigned block_shift, shift; /* of a block, of a unit */
    struct pck_io *io;           /* PCK_AT_ONCE */
    unsigned pending;
    bool running;
};

struct pck_read {
    uint64_t unit;
    void *mem;
    uint16_t status; /* how it ended */
};

/* @return 0 or -errno, and nothing is left */
int pck_disk_open(struct pck_disk *d, struct plx_bdev *bdev, struct plx_reactor *reactor,
                  void (*turn)(struct plx_reactor *r));
void pck_disk_close(struct pck_disk *d);
/* Reads n units, any number; each has its status. */
void pck_disk_read(struct pck_disk *d, struct pck_read *reads, unsigned n);
uint16_t pck_disk_read_one(struct pck_disk *d, uint64_t unit, void *mem);
uint16_t pck_disk_write(struct pck_disk *d, uint64_t unit, void *mem);
uint16_t pck_disk_flush(struct pck_disk *d);
uint64_t pck_disk_units(const struct pck_disk *d);

/* ---- what is known ---- */

struct pck_volume {
    uint32_t number;
    struct pck_record r; /* as it is, or as it is to be */
    struct pck_volume *parent;
    uint32_t children;
    uint64_t counted; /* units that it maps, as far as they were seen */
    bool inexact;     /* some could not be */
    bool damaged;     /* a part of its tree cannot be read */
    bool orphan;      /* there is no such parent */
    bool shares;      /* an orphan: others have what it has, or may have it, so that it is not the owner of all */
    char shown[PCK_SHOWN_NAME];
};

/* A bit for each unit of a pool, regions that have none take no memory. */
struct pck_bits {
    uint8_t **region;
};

/* How many units a node has below it, by its unit. */
struct pck_counts {
    struct pck_count {
        uint64_t unit, count;
    } * slot;
    uint64_t mask, n;
};

struct pck_finding {
    enum plx_pool_severity severity;
    bool mendable;
    int64_t number, unit, offset;
    char volume[PCK_SHOWN_NAME];
    char text[320];
};

struct pck {
    struct pck_disk disk;
    struct plx_pool_check *opts;
    struct plx_error *err;
    size_t unit; /* bytes */

    struct pck_root root;
    unsigned place;   /* the root is that in unit place * PCK_ROOT_PLACE */
    bool other_ok;    /* and the other is whole, too */
    bool root_unread; /* the other could not be read */

    struct pck_volume **volume; /* by number; NULL: free */
    struct pck_volume **order;  /* parents before children */
    uint32_t n, set_aside;      /* records that cannot be, and are to go */

    struct pck_bits used;   /* what volumes lead to */
    struct pck_bits meta;   /* what the directory and the tree of maps are */
    struct pck_bits logged; /* what the log maps */
    struct pck_bits twice;  /* what an orphan leads to, and somebody before it */
    uint64_t n_used, n_meta;
    struct pck_counts counts;
    bool blind;         /* what is in use is not wholly known: nothing that the maps have may be freed */
    bool views_changed; /* what somebody goes back to is another: checksums are not of what snapshots show */
    bool leave;         /* there is what is not known here, or cannot be read for now: a repair would lose it */

    /* The log. */
    uint64_t log_pages;
    uint8_t **log;  /* log_pages units */
    bool log_here;  /* all of it has been read */
    bool log_wrong; /* some of its changes cannot be */

    /* The maps. */
    uint8_t **map;       /* by region, as they were read before all else; NULL: when they are compared */
    uint8_t *map_place;  /* by region: the place that is valid, or 2 for none */
    uint64_t map_used;   /* units that are not free, by the maps */
    struct pck_bits old; /* units that are not free by the maps, where what is in use is not wholly known */
    bool maps_wrong, root_wrong, records_wrong, root_torn;
    bool maps_beyond; /* which has been told */

    /* Nodes that were read. */
    struct pck_cached {
        uint64_t unit; /* 0: none */
        uint32_t crc;
        bool bad; /* could not be read */
        uint8_t *mem;
    } * cache;
    uint32_t cache_mask;
    uint8_t *level[PCK_HEIGHT_MAX + 1]; /* the node of each level that is being gone through */

    struct pck_data *data; /* NULL: it is not looked at */

    struct pck_finding *found;
    unsigned n_found;
    uint64_t per[3]; /* of each severity */
    int stop;        /* -errno: it is to end */
    uint64_t began;  /* ns */
    uint64_t steps;  /* until progress is told */
    uint64_t kin_steps;
};

/* ---- memory.c ---- */

int pck_memory_init(struct pck *c);
void pck_memory_free(struct pck *c);
bool pck_bit(const struct pck *c, const struct pck_bits *b, uint64_t unit);
/* @return false when it was set already; when there is no memory c->stop is set */
bool pck_bit_set(struct pck *c, struct pck_bits *b, uint64_t unit);
void pck_bits_free(const struct pck *c, struct pck_bits *b);
void pck_count_put(struct pck *c, uint64_t unit, uint64_t count);
/* @return false when it is not known */
bool pck_count_get(const struct pck *c, uint64_t unit, uint64_t *count);

/* Tells of something, which is a sentence. v may be NULL; unit PLX_POOL_NOWHERE. */
void pck_say(struct pck *c, enum plx_pool_severity severity, bool mendable, const struct pck_volume *v, int64_t unit,
             const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* What a byte of a volume is, for people. */
const char *pck_offset(const struct pck *c, uint64_t units, char text[32]);
/* Tells how far it has come. */
void pck_step(struct pck *c);

/* ---- node.c ---- */

/*
 * A node that an entry leads to, until the next call. @return NULL when it cannot be read, or is not what the entry
 * says
 */
const uint8_t *pck_node(struct pck *c, const struct pck_entry *e);
/* Whether one that pck_node() has just not given could not be read, which may be so for now. */
bool pck_node_unread(struct pck *c, const struct pck_entry *e);
/* Those of some entries are read at once; what cannot be is found out by pck_node(). */
void pck_nodes_read(struct pck *c, const struct pck_entry *e, unsigned n);

/* ---- root.c, directory.c, walk.c, log.c, maps.c: the steps, in this order; 0 or -errno with err filled ---- */

/* The first two, with memory for the others. */
int pck_begin(struct pck *c);
int pck_roots(struct pck *c);
int pck_directory(struct pck *c);
void pck_trees(struct pck *c);
/* The nodes of the tree of maps, which are in the maps as well. */
int pck_maps_mark(struct pck *c);
int pck_log(struct pck *c);
int pck_maps(struct pck *c);
/* Reads what these two will look at. */
int pck_log_read(struct pck *c);
/* Lets go of pages of the log that come after the next root, if it is there: they are none of this one's. */
int pck_log_cut(struct pck *c);
int pck_maps_read(struct pck *c);

/* A page of the directory as it is on the disk, damaged or not; zeroes when there is none, or it cannot be read. */
void pck_record_page(struct pck *c, uint32_t page, uint8_t *mem);
/*
 * Writes the changes of the log that can be to pages that no log of before has the numbers of. *first is then the first
 * of them. @return 0 or -errno with err filled
 */
int pck_log_rewrite(struct pck *c, uint64_t *first);
/* Who what is below `end` goes back to: what is dying has no say any more where it was freed. */
struct pck_volume *pck_parent_at(struct pck *c, const struct pck_volume *v, uint64_t end);

uint64_t pck_bits_at(const struct pck_bits *b, uint64_t region, uint64_t word);
/* Roots, maps and the log. */
uint64_t pck_fixed_at(const struct pck *c, uint64_t region, uint64_t word);
/* What of a word of a map there is in the pool. */
uint64_t pck_there_at(const struct pck *c, uint64_t region, uint64_t word);

/* What a volume has in a place. @return false when that cannot be read */
bool pck_entry_at(struct pck *c, const struct pck_volume *v, unsigned level, uint64_t at, struct pck_entry *out);

/* ---- data.c: if data is to be looked at; else nothing ---- */

int pck_data_init(struct pck *c);
void pck_data_free(struct pck *c);
/* A unit that nobody before it has had. */
void pck_data_entry(struct pck *c, struct pck_volume *v, const struct pck_entry *e, uint64_t at);
/* What a change in the log maps, which can be. */
void pck_data_change(struct pck *c, const struct pck_change *g, const uint8_t *crcs);
/* What has been added is looked at: they are many at a time. */
void pck_data_end(struct pck *c);

/* ---- repair.c ---- */

/* All that was found and is mendable. @return 0 or -errno with err filled */
int pck_repair(struct pck *c);

#endif
