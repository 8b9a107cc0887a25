/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A pool: volumes, and what they were made of, on one disk.
 *
 * What there is of it in memory is under one lock, which is held for as long as it takes to look something up, or to
 * change it; never while a disk is waited for. What needs a unit that is not in memory changes nothing, waits for it,
 * and begins anew: "try, or wait". So whatever is changed is changed at one instant.
 *
 * Data goes from the channel of a volume to the channel of the disk on the same reactor. What belongs to no request,
 * checkpoints above all, is done by the keeper, a thread of the pool's own that sleeps most of the time.
 */
#ifndef PLX_POOL_POOL_H
#define PLX_POOL_POOL_H

#include <pollux/pool.h>

#include "base/list.h"
#include "base/spin.h"
#include "bdev/driver.h"
#include "bdev/pool/format.h"

#include <errno.h>
#include <stdatomic.h>

/* ---- who waits ---- */

/* Somebody who is to try again. */
struct pool_wait {
    struct plx_list link;
    struct plx_reactor *reactor;
    uint16_t status;                    /* why what it waited for cannot be had; or 0 */
    void (*again)(struct pool_wait *w); /* on the reactor */
    struct plx_msg msg;
};

/* What a step may come to, but for 0 and errors. */
enum { POOL_AGAIN = -EAGAIN }; /* it waits, and has changed nothing */

/* ---- units in memory: nodes of trees, and pages of the directory ---- */

enum pool_node_state {
    POOL_NODE_LOADING,
    POOL_NODE_CLEAN,  /* as it is on the disk */
    POOL_NODE_DIRTY,  /* of this generation: may be changed */
    POOL_NODE_FROZEN, /* is being written by a checkpoint */
};

struct pool_tree;
struct pool_chunk; /* node.c */

struct pool_node {
    uint64_t unit;
    struct pool_node *chain; /* of the same place in the table; of those that are free */
    struct plx_list link;    /* CLEAN: from the least recently used on; DIRTY, FROZEN: of its level */
    uint8_t state;
    uint8_t level;
    bool used;                /* since it was last looked at by whoever makes room */
    bool dropped;             /* FROZEN: nothing leads to it any more */
    bool summed;              /* DIRTY: crc is that of what it is now */
    struct pool_node *parent; /* DIRTY: the node that has the entry of it, or NULL: tree->root is that */
    struct pool_tree *tree;
    uint32_t slot;         /* of the entry */
    uint32_t crc;          /* LOADING: as it is to be; then as it is */
    struct plx_list waits; /* LOADING */
    void *mem;             /* the unit */
};

static inline struct pool_entry *pool_entries(const struct pool_node *n)
{
    return n->mem;
}

/*
 * A tree maps the units of a volume, or of the directory: an entry of level 0 is data, one of level n leads to a node
 * of entries of level n - 1.
 */
struct pool_tree {
    struct pool_entry root;
    uint8_t height;
    struct pool_volume *of; /* whose record says where it is; NULL: the directory, or maps, of which all is their own */
};

/* ---- space ---- */

struct pool_region {
    struct plx_list link; /* in pool->loaded */
    uint64_t number;
    uint32_t used;
    uint32_t cursor; /* where to look for a free unit */
    bool loading;    /* it is not in that list yet */
    bool dirty;      /* is not as it is on the disk */
    uint8_t copy;    /* in which of its places it is */
    uint32_t crc;    /* loading: as it is to be */
    uint64_t *bits;  /* 1: not free */
    uint64_t *kept;  /* 1: free, and left as it is for who looks at it; NULL for none */
    uint32_t n_kept;
    uint8_t *image; /* that a checkpoint writes; or NULL */
    uint32_t image_used;
};

enum { POOL_UNMAP_MIN = 16 }; /* units in a row that the disk is told of */

enum pool_use { POOL_FOR_DATA, POOL_FOR_NODES, POOL_USES };

/* Units that are free once a checkpoint is on the disk, and nobody reads them any more. */
struct pool_freed {
    uint64_t *units;
    size_t n, size;
};

/* Units that have been taken, in a row, and that nothing leads to yet. */
struct pool_limbo {
    struct plx_list link;
    uint64_t unit, n;
};

/* ---- volumes ---- */

enum { POOL_BUSY_LISTS = 16 };

struct pool_volume {
    uint32_t number;
    enum pool_state state;
    uint32_t flags;
    uint8_t uuid[16];
    char name[POOL_NAME];
    char outer[POOL_OUTER_NAME]; /* of a disk outside that it goes back to; "" for none */
    char attributes[POOL_ATTRIBUTES];
    bool has_checksum;
    uint64_t checksum;
    uint32_t altered;
    uint64_t size, mapped, done, created;
    struct pool_tree tree;
    struct pool_volume *parent;
    uint32_t instant;
    uint32_t children;
    struct pool_disk *disk;     /* as which it is open; or NULL */
    unsigned barred;            /* so many operations are under way that it must not be opened during */
    bool locked;                /* another one, during which there is to be no other that changes it */
    struct plx_pool_work *op;   /* one that has been begun, and changes it when its checkpoint comes; or NULL */
    unsigned moving;            /* so many copy units of it, which may become its own meanwhile: see pool_busy */
    unsigned pins;              /* operations that need it as it is: it is not deleted */
    bool changed;               /* since the last checkpoint */
    uint32_t parent_number;     /* while the directory is read: of its parent, and 1 */
    bool kept;                  /* lost, but may come back */
    unsigned settling;          /* snapshots of it that were just made: writes that were under way then may still be */
    struct pool_volume *shadow; /* what it is about to be, below `shadow_at`: see rebase.c */
    uint64_t shadow_at;
    bool fresh;            /* dying, which no checkpoint on the disk says yet: what it has is not others' own */
    struct plx_list dying; /* in pool->dying, as long as that is its state; of a ghost in pool->stale, or ->sweeps */
    uint64_t swept;        /* units from the beginning of a ghost that have been gone through */
    bool sweeping, swept_again;            /* that is being done; and will be once more */
    struct plx_list busy[POOL_BUSY_LISTS]; /* pool_busy.link: units that are being moved */
};

/* Units of a volume, below one node of level 1, that are being written to where they are not yet. */
struct pool_busy {
    struct plx_list link;
    uint64_t at;
    uint32_t n;
};

/* How far it has come with a node of level 1 of a ghost. */
struct pool_sweep {
    const struct pool_volume *of;                           /* NULL: it is to begin with it */
    uint64_t families;                                      /* pool->families then */
    uint32_t slot;                                          /* the next of the volumes that may go back to it */
    uint64_t needed[(1 << (POOL_UNIT_SHIFT_MAX - 4)) / 64]; /* entries that those before have */
};

/* ---- the pool ---- */

/* A request of the pool's own, to its disk. */
struct pool_io {
    struct plx_bdev_req req;
    struct iovec iov[64];
    void *arg;
    uint8_t copies; /* of the disk that were read alone */
};

struct pool_grace {
    struct plx_list link;
    void (*over)(struct plx_pool *p, struct pool_grace *g); /* under the lock */
};

struct pool_page; /* of the log: log.c */

struct plx_pool {
    struct plx_bdev *disk;
    bool own_disk; /* which was opened for it, and is closed with it */
    struct plx_bdev_hold *hold;
    struct plx_list link; /* all pools */
    _Atomic unsigned refs;

    struct plx_reactor *keeper;
    struct plx_bdev_channel *keeper_ch;
    void (*turn)(struct plx_reactor *r);
    bool own_keeper; /* with a thread of its own */
    pthread_t thread;

    _Atomic bool taken; /* the lock */

    /* As it was made. */
    uint8_t uuid[16];
    char name[POOL_NAME];
    uint64_t created;
    uint32_t cluster, flags;
    unsigned unit_shift, fan_shift, region_shift, block_shift; /* of the disk */
    uint64_t log_units;

    uint64_t units;      /* of the pool */
    uint64_t units_next; /* that the next root says, and that are there when it is on the disk; or 0 */
    uint64_t generation;
    uint32_t instant;
    uint16_t broken; /* why nothing can be kept any more: an NVMe status; or 0 */
    uint32_t lost;   /* volumes; while there are some nothing is freed but what was written since it was opened */
    bool kept;       /* some of them may come back */

    /* node.c */
    uint64_t rotten;           /* nodes that were not what had been written */
    struct pool_chunk *chunks; /* of memory for nodes, that is kept */
    struct pool_node *node_free;
    struct pool_node **table;
    uint32_t table_mask;
    uint32_t nodes, nodes_max;
    uint64_t shape; /* another one whenever a node is not where it was, or not there any more */
    struct plx_list clean;
    struct plx_list dirty[POOL_LEVELS], frozen[POOL_LEVELS];
    uint32_t n_dirty, n_frozen, dirty_max;

    /* space.c */
    struct pool_region **region; /* by number; NULL when it is not in memory */
    uint64_t regions;            /* that there are */
    uint64_t regions_max;        /* that there can be */
    uint64_t regions_room;       /* of `region` */
    struct plx_list loaded;
    uint64_t ready;             /* free units of regions in memory */
    uint64_t used;              /* units that are not free */
    uint64_t spare;             /* units that only nodes may take */
    uint64_t set_aside;         /* units for what thick volumes have not mapped */
    uint64_t cursor[POOL_USES]; /* regions to take units from */
    uint64_t load_cursor;       /* region to be loaded next */
    struct pool_freed freed;    /* of this generation */
    struct pool_freed freeing;  /* of the one that is being written */
    uint64_t full_wait_ns;      /* how long requests wait when there is no space */
    unsigned told_full;         /* percent that have been told of */
    struct plx_list limbo;      /* pool_limbo.link */
    struct plx_list space_waits;

    /* Who does something to data on the disk. */
    struct plx_list channels; /* pool_channel.link */
    uint64_t epoch;
    bool draining;                   /* somebody waits for the epoch before to be over */
    struct plx_list graces, drained; /* that wait for the next epoch to be over, and for the last one */
    struct plx_list graced;          /* checkpoints that may go on */
    _Atomic bool kick_after;         /* the keeper is to look at that */
    struct plx_list busy_waits;      /* for units that are being moved */

    /* summed.c */
    uint64_t *damaged; /* units that are not what was written, by a hash; or NULL */
    uint32_t n_damaged;
    uint64_t damages; /* how often that was found, */
    uint64_t mended;  /* and that another copy was right */

    /* log.c */
    uint64_t log_seq;           /* of the next page */
    uint64_t log_first;         /* of the oldest that is needed */
    bool replaying;             /* what is on the disk is needed: there is no checkpoint until it is over */
    struct pool_page *log_page; /* that is being filled */
    struct plx_list log_pages;  /* full, to be written */
    struct plx_list log_writing;
    struct plx_list flushes, flushing; /* pool_wait.link */
    bool committing;
    _Atomic bool changed;   /* since the last commit was seen to */
    struct plx_timer timer; /* the keeper's */
    struct pool_wait timer_wait;
    bool timer_busy;

    /* checkpoint.c */
    struct pool_checkpoint *checkpoint; /* that is under way; or NULL */
    bool checkpoint_wanted;
    struct plx_list checkpoint_waits, checkpoint_next; /* for it, and for the one after it */
    struct plx_list applying, applied;                 /* pool_apply.link */
    struct plx_list late;                              /* likewise: pool_ops_late() ends them */

    /* keep.c */
    enum plx_pool_keep keep;
    bool keep_had_one;           /* a checkpoint has begun since maps are kept, or was under way then */
    uint64_t n_kept;             /* units that are free, and left as they are */
    bool keep_lost;              /* it is not any more, and who asked for it has not been told */
    uint64_t keep_until;         /* ns */
    struct plx_timer keep_timer; /* the keeper's */

    /* volume.c, job.c */
    struct pool_tree dir, maps;
    struct pool_volume **volume; /* by number */
    uint32_t slots;
    struct plx_list dying;         /* pool_volume.dying */
    struct pool_volume *dying_now; /* that job_wait waits for */
    unsigned job_steps;            /* that are done before others have their turn */
    uint64_t families;             /* another one whenever a volume goes back to another */

    /* ghost.c */
    struct plx_list stale, sweeps; /* ghosts that may have what nobody has any more; that are being gone through */
    bool sweep_now;                /* those that are stale are not to wait */
    uint64_t sweep_since, sweep_wait_ns;
    struct plx_timer sweep_timer; /* the keeper's */
    struct pool_sweep sweep;
    struct pool_wait job_wait;
    bool jobs_busy; /* job_wait waits */
    struct plx_msg kick;
    _Atomic bool kicked;       /* it is under way; what it is to see to orders nothing by itself: see once.h */
    _Atomic bool disk_gone;    /* which volumes have not been told */
    _Atomic bool volumes_gone; /* some of them: pool_disk.gone */
    _Atomic bool disk_resized; /* which has not been looked at */

    unsigned works;           /* operations that are not over */
    struct plx_list op_waits; /* for one before to be over: pool_volume.op */
    _Atomic bool cancelled;   /* those that take long */
    struct plx_msg close_msg;
    struct pool_wait close_wait;
    uint16_t close_status;
    bool closing, close_over;
};

/* ---- the lock ---- */

static inline void pool_lock(struct plx_pool *p)
{
    plx_spin_lock(&p->taken);
}

static inline bool pool_lock_try(struct plx_pool *p)
{
    return plx_likely(!atomic_exchange_explicit(&p->taken, true, memory_order_acquire));
}

static inline void pool_unlock(struct plx_pool *p)
{
    plx_spin_unlock(&p->taken);
}

/* An attempt at something, under the lock. */
struct pool_try {
    struct plx_bdev_channel *ch; /* to the disk, on this reactor */
    struct pool_wait *wait;      /* of whoever tries */
    struct pool_node *load;      /* to be loaded when the lock has been given back */
    struct pool_region *region;  /* the same */
    bool kick;                   /* the keeper is wanted */
    bool checkpoint;             /* it has what others leave to one, and waits for none */
};

/* Gives back the lock, and begins what the attempt asked for. */
void pool_try_end(struct plx_pool *p, struct pool_try *t);

/* Has one try again that is in no list. */
void pool_wake_one(struct pool_wait *w, uint16_t status);
/* Has all of a list try again. Under the lock. */
void pool_wake(struct plx_list *waits, uint16_t status);
static inline void pool_wait_in(struct plx_list *waits, struct pool_wait *w)
{
    w->status = 0;
    plx_list_add_tail(waits, &w->link);
}

/* ---- node.c; under the lock ---- */

int pool_nodes_init(struct plx_pool *p);
void pool_nodes_destroy(struct plx_pool *p);
struct pool_node *pool_node_find(struct plx_pool *p, uint64_t unit);
/* The node that an entry leads to. @return 0; POOL_AGAIN: it is being loaded, and t->wait waits for it */
int pool_node_get(struct plx_pool *p, struct pool_try *t, const struct pool_entry *e, unsigned level,
                  struct pool_node **out);
/* A dirty one, which is zeroed. @return 0 or -ENOMEM */
int pool_node_new(struct plx_pool *p, uint64_t unit, unsigned level, struct pool_node **out);
/* Nothing leads to it any more. */
void pool_node_drop(struct plx_pool *p, struct pool_node *n);
/* What is more than there should be; some of it. @return whether there is more */
bool pool_nodes_trim(struct plx_pool *p);
/* CRCs of dirty leaves, so that fewer are made at a checkpoint's moment; *left is how many are to be looked at. */
void pool_nodes_sum(struct plx_pool *p, uint32_t *left);
/* Of one that is dirty. */
uint32_t pool_node_crc(const struct plx_pool *p, struct pool_node *n);
void pool_node_cleaned(struct plx_pool *p, struct pool_node *n);
/* One that will be wanted soon, to be loaded without the lock; NULL when it is there or cannot be. */
struct pool_node *pool_node_ahead(struct plx_pool *p, const struct pool_entry *e, unsigned level);
/* Without the lock. */
void pool_node_load(struct plx_pool *p, struct pool_node *n, struct plx_bdev_channel *ch);

/* ---- tree.c; under the lock ---- */

/*
 * The node of level 1 (of the directory, the page) that has the entry of a unit, or NULL. @return 0, POOL_AGAIN, -errno
 */
int pool_tree_find(struct plx_pool *p, struct pool_try *t, struct pool_tree *tree, uint64_t at, unsigned level,
                   struct pool_node **out);
/* The same of level 1, if it is there and nothing has to be read for that; else NULL. */
struct pool_node *pool_tree_peek(struct plx_pool *p, const struct pool_tree *tree, uint64_t at);
/*
 * The same to be changed, which is made if it is not there. @return 0, POOL_AGAIN, -ENOSPC, -errno; only 0 if it is
 * dirty
 */
int pool_tree_change(struct plx_pool *p, struct pool_try *t, struct pool_tree *tree, uint64_t at, unsigned level,
                     struct pool_node **out);
/* A node of level 1 that has become empty is taken out of its tree, and those above it that become so. It is dirty. */
void pool_tree_prune(struct plx_pool *p, struct pool_node *n);
/* Whether a unit that no node of level 1 has is zeroes by what is above. Right after pool_tree_find(). */
bool pool_tree_zeroes(struct plx_pool *p, const struct pool_tree *tree, uint64_t at);
/* Makes it as high as that. @return 0, POOL_AGAIN, -ENOSPC, -errno */
int pool_tree_raise(struct plx_pool *p, struct pool_try *t, struct pool_tree *tree, unsigned height);

/* Which entry of a node an entry of a level is, in which `at` is. */
static inline uint32_t pool_slot(const struct plx_pool *p, uint64_t at, unsigned level)
{
    return (uint32_t)(at >> (level * p->fan_shift)) & ((1U << p->fan_shift) - 1);
}

/* What people know it by. */
static inline const char *pool_shown(const struct plx_pool *p)
{
    return p->name[0] ? p->name : plx_bdev_info(p->disk)->name;
}

/* The first unit that an entry of a level, in which `at` is, does not map. */
static inline uint64_t pool_span_end(const struct plx_pool *p, uint64_t at, unsigned level)
{
    const unsigned shift = level * p->fan_shift;
    return ((at >> shift) + 1) << shift;
}

/*
 * What was born until then is not the volume's own: the snapshot that it goes back to has it. Of one that is being
 * freed that holds for what has not been gone through.
 */
static inline uint32_t pool_shared_until(const struct pool_volume *v, uint64_t end)
{
    const struct pool_volume *s = v->parent;
    while (s && s->state == POOL_DYING && (end <= s->done || s->done >= s->size))
        s = s->parent;
    return s ? s->instant : 0;
}

/* Where none of those whose instants matter is being freed, and nothing is copied, as of most volumes at most times. */
static inline bool pool_volume_surely_owns(const struct pool_volume *v, const struct pool_entry *e)
{
    const struct pool_volume *s = v->parent;
    return !v->moving && (!s || (s->state != POOL_DYING && pool_entry_birth(e) > s->instant));
}

static inline bool pool_tree_owns(const struct pool_tree *tree, const struct pool_entry *e, uint64_t end)
{
    return !tree->of || pool_entry_birth(e) > pool_shared_until(tree->of, end);
}

/* Another one begins; the last ones are many's who need none of their own. @return the present one */
static inline uint32_t pool_instant_end(struct plx_pool *p)
{
    return p->instant < UINT32_MAX ? p->instant++ : UINT32_MAX - 1;
}

/*
 * When what is entered now is said to be born. A snapshot has an instant of its own, until which everything of it was:
 * nobody goes back to it while it is changed.
 */
static inline uint32_t pool_birth(const struct plx_pool *p, const struct pool_volume *v)
{
    /* The last one is nobody's, so that what is deleted can have one. */
    return v && v->state != POOL_VOLUME ? v->instant : p->instant < UINT32_MAX ? p->instant : UINT32_MAX - 1;
}

/* ---- space.c; under the lock ---- */

int pool_space_init(struct plx_pool *p);
void pool_space_destroy(struct plx_pool *p);
/*
 * Whether so many units can be taken now. @param data units of data: leaves those that are set aside
 * @return 0; POOL_AGAIN: t->wait waits; -ENOSPC
 */
int pool_space_ready(struct plx_pool *p, struct pool_try *t, uint64_t n, bool data);
/* Takes 1 to n units in a row, of which there are some ready. @return how many, from *unit on */
uint64_t pool_space_take(struct plx_pool *p, enum pool_use use, uint64_t n, uint64_t *unit);
/* Room for so many units that are freed. @return 0 or -ENOMEM */
int pool_space_free_ready(struct plx_pool *p, size_t n);
/* It is free once what leads to it has been forgotten on the disk as well. */
void pool_space_free(struct plx_pool *p, uint64_t unit);
/* Taken, but never entered anywhere. */
void pool_space_return(struct plx_pool *p, uint64_t unit, uint64_t n);
/* A region's map, in memory. @return NULL when it has to be loaded first */
struct pool_region *pool_region_find(struct plx_pool *p, uint64_t number);
/* Puts a unit that a log names out of reach. @return 0, or -EUCLEAN when it was */
int pool_space_claim(struct plx_pool *p, uint64_t unit);
uint64_t pool_space_free_units(const struct plx_pool *p);
/* Those that data may take. */
uint64_t pool_space_room(const struct plx_pool *p);
/* Whether so many may be set aside, with the nodes that they need. */
bool pool_space_may_set_aside(const struct plx_pool *p, uint64_t units);
/* Units that all leave to the next checkpoint; pool_space_ready() counts them. */
uint64_t pool_space_reserve(const struct plx_pool *p);
/* Has a region's map in memory. @return 0; POOL_AGAIN: t->wait waits; -errno */
int pool_region_want(struct plx_pool *p, struct pool_try *t, uint64_t number);
/* Without the lock. */
void pool_region_load(struct plx_pool *p, struct pool_region *r, struct plx_bdev_channel *ch);
bool pool_space_is_fixed(const struct plx_pool *p, uint64_t unit);
/* Units that are never free; the same of a pool of so many units. */
uint64_t pool_space_fixed(const struct plx_pool *p);
uint64_t pool_units_fixed(const struct plx_pool *p, uint64_t units);
/* As many of so many units as a pool can have: none of a last region that has no room for its maps. */
uint64_t pool_units_trim(const struct plx_pool *p, uint64_t units);
/* The longest log: it ends with the first region, as the next one's maps follow. */
uint64_t pool_log_units_max(const struct plx_pool *p);
/* What a pool of so many units needs before it is that; and it is that. @return 0, POOL_AGAIN, -errno */
int pool_space_grow_ready(struct plx_pool *p, struct pool_try *t, uint64_t units);
void pool_space_grow(struct plx_pool *p, uint64_t units);
/*
 * For checkpoints, in this order: what was freed becomes `freeing`, and there is memory for the maps of dirty regions.
 * @return 0; POOL_AGAIN; -errno
 */
int pool_space_freeze(struct plx_pool *p, struct pool_try *t);
void pool_space_image(struct plx_pool *p);
/* Units that are not free as the disk will have it. */
uint64_t pool_space_used(const struct plx_pool *p);
/* What was being freed may be taken again: some of it. @return whether there is more */
bool pool_space_thaw(struct plx_pool *p);
/* What was left as it was may be taken. */
void pool_space_unkeep(struct plx_pool *p);
/*
 * Some of it is as what has just been freed, so that the disk is told; the rest may be taken. @return whether there is
 * more
 */
bool pool_space_free_kept(struct plx_pool *p);

/* ---- who reads and writes ---- */

struct pool_channel {
    struct plx_list link;
    _Atomic uint32_t under_way[2]; /* requests to the disk, of even and odd epochs */
    _Atomic uint32_t *present;     /* of the present one */
    _Atomic bool draining;         /* somebody waits for the one before to be over */
};

/* Calls g->over when all that is under way now has ended. Under the lock. */
void pool_grace(struct plx_pool *p, struct pool_grace *g);
void pool_grace_step(struct plx_pool *p);
/* The same, without the lock, when a channel has nothing of an epoch under way any more and that is waited for. */
void pool_grace_look(struct plx_pool *p);
/* What epoch it is. */
void pool_channel_tell(const struct plx_pool *p, struct pool_channel *c);

/*
 * Something is under way from here on. Under the lock. @return what to end it with
 *
 * Orders, of which tests/model/test_grace.c finds that they are needed and enough. Counting is relaxed, as the lock
 * orders it against a grace period that begins. What ends releases, and who finds nothing left acquires, what was read
 * and written until then. And whoever ends something decrements, then reads `draining`; whoever begins a grace period
 * writes `draining`, then reads the counts: all four sequentially consistent, so that one of the two sees the other,
 * and no grace period is forgotten.
 */
static inline _Atomic uint32_t *pool_begin(struct pool_channel *c)
{
    _Atomic uint32_t *const present = c->present;
    atomic_fetch_add_explicit(present, 1, memory_order_relaxed);
    return present;
}

/* It has ended. Not under the lock. @return whether a grace period may have, too: pool_grace_step() is to look */
static inline bool pool_end(struct pool_channel *c, _Atomic uint32_t *counted)
{
    return atomic_fetch_sub_explicit(counted, 1, memory_order_seq_cst) == 1 &&
           atomic_load_explicit(&c->draining, memory_order_seq_cst);
}

/* ---- log.c ---- */

void pool_log_init(struct plx_pool *p);
void pool_log_destroy(struct plx_pool *p);
/* Bytes of a change. */
uint32_t pool_change_bytes(const struct plx_pool *p, enum pool_change_kind kind, unsigned count);
/* Whether there is room for a change of so many bytes. @return 0; POOL_AGAIN: t->wait waits; -ENOMEM */
int pool_log_ready(struct plx_pool *p, struct pool_try *t, uint32_t bytes);
/* crcs: those of POOL_MAP in a pool with checksums; else NULL */
void pool_log_add(struct plx_pool *p, uint32_t volume, enum pool_change_kind kind, uint64_t at, uint64_t to,
                  unsigned count, const plx_le32 *crcs);
/* A checkpoint begins: what is logged from now on is on pages of its own. @return the first of them */
uint64_t pool_log_turn(struct plx_pool *p);
/* What was logged before `seq` is on the disk otherwise. */
void pool_log_forget(struct plx_pool *p, uint64_t seq);
/* Without the lock; w is told when all that was changed until now, and written, is on the disk. */
void pool_commit(struct plx_pool *p, struct plx_bdev_channel *ch, struct pool_wait *w);
bool pool_log_page_ok(const struct plx_pool *p, void *unit, uint64_t seq);
/* The status of a wait for a commit that is to be begun by whoever waits. */
enum { POOL_COMMIT_AGAIN = 0xffff };

/* ---- checkpoint.c; the keeper's ---- */

/*
 * A change of what volumes there are. It is made at the moment between two generations, when all trees are as the disk
 * will have them, and is over when they are there and nothing of before is under way any more.
 */
struct pool_apply {
    struct plx_list link;
    void (*apply)(struct plx_pool *p, struct pool_apply *a); /* cannot fail */
    void (*over)(struct plx_pool *p, struct pool_apply *a, uint16_t status);
};
void pool_checkpoint_apply(struct plx_pool *p, struct pool_apply *a);

/* Wants one; under the lock. */
void pool_checkpoint_want(struct plx_pool *p);
void pool_checkpoint_serve(struct plx_pool *p);
/* w is told when all that has been changed until now is part of a checkpoint that is on the disk. Under the lock. */
void pool_checkpoint_wait(struct plx_pool *p, struct pool_wait *w);

/* ---- keep.c; under the lock ---- */

/* Whether a checkpoint may begin, which it then does; the keeper's. */
bool pool_keep_lets_begin(struct plx_pool *p);
/* Somebody needs what is kept, or was. */
void pool_keep_give_up(struct plx_pool *p);
/* The keeper's, without the lock: sees to what was kept. */
void pool_keep_serve(struct plx_pool *p);

/* ---- pool.c ---- */

void pool_root_image(const struct plx_pool *p, struct pool_root *r);
void pool_root_end(struct pool_root *r, uint64_t generation, uint64_t log_seq);
/* The same as the public ones, with a reactor that somebody else runs for a keeper, with a round of it and a wait. */
struct pool_keeper {
    struct plx_reactor *reactor;
    void (*turn)(struct plx_reactor *r);
};
int pool_make_on(struct plx_bdev *disk, const struct pool_keeper *keeper, const struct plx_pool_opts *opts,
                 struct plx_error *err);
int pool_erase_on(struct plx_bdev *disk, const struct pool_keeper *keeper, struct plx_error *err);
int pool_open_on(struct plx_bdev *disk, const struct pool_keeper *keeper, struct plx_pool **out, struct plx_error *err);
int pool_close_on(struct plx_pool *p);
int pool_erase_on(struct plx_bdev *disk, const struct pool_keeper *keeper, struct plx_error *err);

/*
 * The pool of the disk that a volume's name stands on: of one that is open under that name, or of one that is opened
 * for all the volumes on it. @return 0, or -errno with err filled
 */
int pool_open_below(const struct plx_url *url, struct plx_pool **out, struct plx_error *err);

/* Has the keeper look for work. */
void pool_kick(struct plx_pool *p);
void pool_io_init(struct pool_io *io, enum plx_bdev_op op, uint64_t unit, uint64_t n, struct plx_pool *p,
                  void (*done)(struct plx_bdev_req *req), void *arg);
/* What was read is not what was written. @return whether it is read again, from the next copy that the disk has */
bool pool_io_again(struct pool_io *io, const struct plx_pool *p);

/* ---- volume.c; under the lock ---- */

void pool_volume_to_record(const struct pool_volume *v, struct pool_record *r);
/*
 * Units of a volume are these from now on. @param crcs of them, in a pool with checksums; else NULL
 * @return 0, POOL_AGAIN, -ENOSPC, -errno
 */
int pool_volume_map(struct plx_pool *p, struct pool_try *t, struct pool_volume *v, uint64_t at, unsigned n, uint64_t to,
                    const plx_le32 *crcs, bool log);
/* As far as one node goes. *n is how many were done */
int pool_volume_unmap(struct plx_pool *p, struct pool_try *t, struct pool_volume *v, uint64_t at, uint64_t *n,
                      bool log);

/* Those of a volume that are in the same list as a unit. */
static inline struct plx_list *pool_busy_list(const struct plx_pool *p, struct pool_volume *v, uint64_t at)
{
    return &v->busy[(at >> p->fan_shift) % POOL_BUSY_LISTS];
}
/* Whether any of n units, which one node has, is being moved. */
bool pool_volume_is_busy(const struct plx_pool *p, struct pool_volume *v, uint64_t at, uint64_t n);

/* ---- rebase.c: the shadow of a volume follows it ---- */

/* Has a node of level 1 of it be one that can be changed, if it is to follow there. @return 0, POOL_AGAIN, -errno */
int pool_shadow_ready(struct plx_pool *p, struct pool_try *t, struct pool_volume *v, uint64_t at,
                      struct pool_node **leaf);
/* to: the first unit, or 0 for nothing. crcs: in a pool with checksums, or NULL */
void pool_shadow_enter(struct plx_pool *p, struct pool_volume *v, struct pool_node *leaf, uint64_t at, uint64_t n,
                       uint64_t to, const plx_le32 *crcs);

/* ---- op.c ---- */

/* Ends operations that had something told first. The keeper's, without the lock. */
void pool_ops_late(struct plx_pool *p);

/* Room for volumes of these numbers. @return 0 or -ENOMEM */
int pool_slots(struct plx_pool *p, uint32_t slots);
/* Whether it can be the name of a volume, or of a pool. */
bool pool_name_ok(const char *name);
struct pool_volume *pool_volume_find(struct plx_pool *p, const char *name);
bool pool_name_ok(const char *name);
struct pool_volume *pool_volume_find_uuid(struct plx_pool *p, const uint8_t uuid[16]);
/* The snapshot that people see a volume go back to; or NULL. */
struct pool_volume *pool_volume_live_parent(const struct pool_volume *v);

/* ---- record.c; under the lock, while the directory is read; 0, or -errno with err filled ---- */

int pool_volume_from_record(struct plx_pool *p, uint32_t number, const struct pool_record *r, struct plx_error *err);
/* kept: it may come back; why: NULL, when that is told already. */
int pool_volume_lost(struct plx_pool *p, uint32_t number, bool kept, const char *why, struct plx_error *err);
/* All have been read: who goes back to whom. */
int pool_volumes_link(struct plx_pool *p, struct plx_error *err);

/* ---- grow.c; under the lock ---- */

/* Sees to it that the next root has all of the disk in the pool. @return 0, POOL_AGAIN, or -errno with err filled */
int pool_grow_try(struct plx_pool *p, struct pool_try *t, struct plx_error *err);
/* That root is on the disk, or is not. */
void pool_grow_over(struct plx_pool *p, bool done);
/* Units that it would take. */
uint64_t pool_grow_room(const struct plx_pool *p);
/* The disk may have another size. Without the lock. */
void pool_size_look(struct plx_pool *p);

/* ---- job.c: what is being freed ---- */

void pool_jobs_begin(struct plx_pool *p);
void pool_jobs_serve(struct plx_pool *p);
/* It is DYING from now on. Under the lock. */
void pool_volume_die(struct plx_pool *p, struct pool_volume *v);
/* It is needed as it is no more. Its record is one that has changed, if it is a ghost. Under the lock. */
void pool_volume_unpin(struct plx_pool *p, struct pool_volume *s);
/* One goes back to it no more: a ghost that is not needed dies. Its record is one that has changed. Under the lock. */
void pool_volume_leave(struct plx_pool *p, struct pool_volume *s);

/* ---- ghost.c; under the lock, but where it says so ---- */

void pool_ghosts_init(struct plx_pool *p);
/* If it is a ghost: it may have what nobody has any more. @param now it is not to wait */
void pool_ghost_stale(struct plx_pool *p, struct pool_volume *g, bool now);
/* It is one no longer. */
void pool_ghost_over(struct pool_volume *g);
/* Whether there is nothing to be done at once; what there is. @return 0, POOL_AGAIN, -errno */
bool pool_ghosts_idle(const struct plx_pool *p);
int pool_ghosts_step(struct plx_pool *p, struct pool_try *t);
/* What the last step waited for cannot be read. */
void pool_ghosts_unreadable(struct plx_pool *p);
/* The keeper's, without the lock: sees to it that what waits has its turn. */
void pool_ghosts_look(struct plx_pool *p);

/* ---- disk.c ---- */

int pool_disk_new(struct plx_pool *p, const char *name, struct plx_bdev **out, struct plx_error *err);
/* What is to be told of volumes' disks; under the lock. It is told without, as who hears of it has locks of its own. */
void pool_disks_gone(struct plx_pool *p);
void pool_disk_resized(struct pool_volume *v);
void pool_disks_tell(struct plx_pool *p);
struct plx_bdev *pool_disk_of(const struct pool_volume *v);
/* The volume that a disk is, or NULL. */
struct pool_volume *pool_volume_of(const struct plx_bdev *bdev);

#endif
