/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the disk whose power is cut share: crash.c has requests, crash_job.c what goes below. */
#ifndef PLX_BDEV_FILTER_CRASH_DISK_H
#define PLX_BDEV_FILTER_CRASH_DISK_H

#include "crash.h"
#include "filter.h"

enum { CRASH_SECTOR = 512 };

/* How all requests end when power is cut. */
#define CRASH_OFF PLX_SC_INVALID_NAMESPACE_OR_FORMAT

/* What a cut leaves of a write of several units, of which there may be all, none, or any. */
enum crash_torn {
    CRASH_TORN_BLOCK,  /* a unit is a block of the disk */
    CRASH_TORN_SECTOR, /* 512 bytes: blocks are torn too */
    CRASH_TORN_NONE,   /* a write is there as a whole, or not at all */
};

/* Its settings. All zero is a disk that does what it has promised, and whose power nobody has cut yet. */
struct crash_opts {
    uint64_t seed;        /* of all that is left to chance; 0 for another one each time, which is logged */
    uint64_t cut_write;   /* power is cut as the so many-th write, write zeroes or unmap comes; 0 for never */
    uint64_t cut_request; /* the same of requests of any kind */
    uint64_t cut_chance;  /* and by each request with a chance of one in so many */
    enum crash_torn torn;
    uint32_t garbage;    /* so many in 1000 of the writes that a cut may lose leave garbage in their place */
    uint32_t misdirect;  /* so many in 1000 writes go to another place */
    uint32_t latent;     /* so many in 1000 blocks cannot be read until they are written */
    bool lie;            /* flushes, and PLX_BDEV_FUA, do nothing */
    uint64_t memory;     /* bytes of writes that it may hold back; 0 for 256 MiB */
    uint64_t latency_us; /* requests take from nothing up to so long, by chance, and so overtake each other */
};

/* A write that the disk below does not have yet. */
struct crash_held {
    struct plx_list link; /* in held, in the order of submission */
    uint64_t id;
    uint64_t ended; /* it was so many-th of those that have; 0 when it has not */
    uint64_t lba;
    uint32_t nlb;
    uint8_t op;
    size_t bytes; /* of memory */
    uint8_t data[] __attribute__((aligned(16)));
};

/* What is to be done to the disk below: one after the other, each on the reactor of its channel. */
enum crash_job_kind {
    CRASH_FLUSH,   /* what had ended before it was submitted, then a flush */
    CRASH_PERSIST, /* one write, then a flush */
    CRASH_ROOM,    /* the oldest ones, for a write that waits for memory */
    CRASH_CUT,     /* what a cut leaves */
};

struct crash_job {
    struct plx_list link; /* in jobs */
    enum crash_job_kind kind;
    struct plx_bdev_channel *ch; /* NULL, of a cut by a call: that of whoever comes first */
    uint64_t power;              /* as in the disk */
    uint64_t which;              /* CRASH_FLUSH: the last that had ended; CRASH_PERSIST: the id; CRASH_ROOM: bytes */
    bool flushed;
    uint16_t status;
};

/* How far a cut has come: its writes, what is kept of them, and which block of that is next. */
struct crash_cut {
    bool begun;
    struct plx_crash_write *writes;
    struct plx_crash_keep *keep;
    uint32_t n, kept, at;
    uint32_t block, run; /* how many from there on are on their way */
    bool patch;          /* scratch is being read, to be torn into */
    uint64_t random;
};

struct crash_disk {
    struct plx_filter f;
    struct crash_opts o;
    pthread_mutex_t lock; /* all up to job */
    uint64_t random;
    bool off;
    uint64_t power; /* how often it was cut: what is of before ends */
    uint64_t requests, writes;
    uint64_t cut_write, cut_request; /* counts at which it is cut; 0 for never */
    uint64_t ids, ended;
    struct plx_list held;
    uint64_t held_bytes;
    uint32_t held_count;
    uint32_t channels;
    struct plx_list reads; /* that are below */
    uint64_t *mended;      /* NULL, or a bit for each block that was written and can be read since */
    uint64_t mended_blocks;
    plx_crash_choose_fn choose;
    void *choose_arg;
    struct plx_list jobs;
    bool cutting; /* the job of a cut is among them */

    struct crash_job *job; /* that is under way, the first of the list; or NULL. The rest is this job's */
    bool stepping, waiting;
    struct crash_held *persisting;
    struct crash_job cut_job; /* of a cut by a call */
    struct crash_cut cut;
    uint8_t *scratch; /* a block */
    struct iovec iov;
    struct plx_bdev_req below;
};

static inline struct crash_disk *crash_disk_of(const struct plx_bdev_channel *ch)
{
    return (struct crash_disk *)ch->bdev;
}

/* Another number, that seems to have nothing to do with this one; and the next of a row of them. */
static inline uint64_t crash_mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static inline uint64_t crash_draw(uint64_t *state)
{
    return crash_mix(*state += UINT64_C(0x9e3779b97f4a7c15));
}

/* crash.c. Under the lock: a write is no longer held back, and the disk below has it, or it is lost. */
void crash_drop(struct crash_disk *d, struct crash_held *w);
/* Blocks have been written below. */
void crash_mend(struct crash_disk *d, uint64_t lba, uint32_t nlb);
/* A job of a request has ended, with its status. Ends the request, after which the channel may be gone. */
void crash_job_over(struct crash_job *job);
/* Whether a write of so many bytes can be held with the others; alone one can, however large. */
bool crash_has_room(const struct crash_disk *d, size_t bytes);

/* crash_job.c. Under the lock: */
void crash_job_add(struct crash_disk *d, struct crash_job *job, struct plx_bdev_channel *ch);
/* Has the jobs done that are this channel's turn; without the lock. Its last request may end. */
void crash_jobs_run(struct plx_bdev_channel *ch);
/* Begins a request below; d->waiting until it has ended, with d->below.status. */
void crash_below(struct crash_disk *d, enum plx_bdev_op op, uint8_t flags, uint64_t lba, uint32_t nlb, void *data);

/* crash_cut.c. Takes a step. @return false when all is done */
bool crash_cut_step(struct crash_disk *d);
void crash_cut_end(struct crash_disk *d);

#endif
