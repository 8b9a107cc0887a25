/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk in memory. Memory is taken as it is written to, and given back by unmap.
 *
 * A logical block must never be seen torn. While one channel alone uses the disk, one thread does, and there is
 * nothing to guard; then the memory is also lent to whoever reads it within the present round. With more channels
 * every access holds spin locks: the disk is cut into stripes of 64 KiB, the largest logical block, and each stripe
 * has one of 1024 locks, each on a cache line of its own. A transfer takes them one after the other.
 *
 * From the one to the other there is a grace period. `sole` names the channel that goes without locks: claimed by its
 * first request, revoked by the next channel that is opened. But its reactor may be in the middle of a request, or
 * hold lent memory until the end of its round. So the newcomer sends that reactor a message, and until that has been
 * run (between two requests, with nothing lent) requests through newcomers are refused as Command Interrupted, which
 * means: try again. When all channels are opened before the first request, as a target does at start, nobody has
 * claimed the disk yet and no request is refused.
 *
 * Orders, all of which tests/model/test_ram.c finds to be needed and enough. `sole` is read relaxed: what a reactor
 * wrote there itself it reads, until it knows of another's write, and it does when it has run the message, which was
 * sent after that write. `over` releases what that reactor has done without locks to the newcomer, which acquires it.
 * `sole` set to NULL by a channel that closes releases what it has done under locks, and the claim acquires that.
 * Whose channel it is, a newcomer knows by the mutex, under which that was opened.
 */
#include "base/iov.h"
#include "base/spin.h"
#include "bdev/driver.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum {
    STRIPE = 65536,
    LOCKS = 1024,
    CHUNK = 2 << 20,   /* what is freed at once under locks: a huge page */
    FREE_MIN = STRIPE, /* less than this is zeroed rather than freed */
};

struct stripe_lock {
    _Alignas(PLX_CACHE_ALIGN) _Atomic bool taken;
};
PLX_IS_APART(struct stripe_lock);

/*
 * From `sole` being revoked to its reactor having said that it has noticed. Shared by that message and the channels
 * that wait for it.
 */
struct grace {
    struct plx_msg msg;
    _Atomic bool over;
    _Atomic uint32_t refs;
};

struct ram_disk {
    struct plx_bdev bdev;
    uint8_t *mem;
    size_t mapped, page;
    struct stripe_lock *locks;
    _Atomic(struct plx_bdev_channel *) sole; /* NULL: not claimed; SHARED: by nobody, ever while several are open */
    pthread_mutex_t lock;                    /* the rest: channels coming and going */
    uint32_t channels;
    struct grace *grace; /* the latest, or NULL */
};

struct ram_channel {
    struct grace *grace; /* to be waited for, or NULL */
};

#define SHARED ((struct plx_bdev_channel *)1)

static struct ram_disk *disk_of(const struct plx_bdev_channel *ch)
{
    return (struct ram_disk *)ch->bdev;
}

/* ---- one channel, or several ---- */

static void grace_put(struct grace *g)
{
    if (g && atomic_fetch_sub_explicit(&g->refs, 1, memory_order_acq_rel) == 1)
        free(g);
}

static void grace_over(struct plx_msg *msg)
{
    struct grace *g = plx_container_of(msg, struct grace, msg);
    atomic_store_explicit(&g->over, true, memory_order_release);
    grace_put(g);
}

static int ram_channel_open(struct plx_bdev_channel *ch)
{
    struct ram_disk *d = disk_of(ch);
    struct ram_channel *rc = (void *)ch->driver;
    struct grace *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return -ENOMEM;
    pthread_mutex_lock(&d->lock);
    struct plx_bdev_channel *was =
        d->channels++ ? atomic_exchange_explicit(&d->sole, SHARED, memory_order_relaxed) : NULL;
    if (was && was != SHARED) {
        fresh->msg.fn = grace_over;
        /* The message's, the disk's, and this channel's. */
        atomic_store_explicit(&fresh->refs, 3, memory_order_relaxed);
        grace_put(d->grace);
        d->grace = rc->grace = fresh;
        plx_reactor_send(was->reactor, &fresh->msg);
        fresh = NULL;
    } else if (d->grace && !atomic_load_explicit(&d->grace->over, memory_order_acquire)) {
        rc->grace = d->grace;
        atomic_fetch_add_explicit(&d->grace->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&d->lock);
    free(fresh);
    return 0;
}

static void ram_channel_close(struct plx_bdev_channel *ch)
{
    struct ram_disk *d = disk_of(ch);
    struct ram_channel *rc = (void *)ch->driver;
    pthread_mutex_lock(&d->lock);
    if (--d->channels <= 1)
        atomic_store_explicit(&d->sole, NULL, memory_order_release); /* whoever is left may claim the disk */
    pthread_mutex_unlock(&d->lock);
    grace_put(rc->grace);
}

/* Whether this channel is alone; claims the disk if nobody has. */
static inline bool alone(struct ram_disk *d, struct plx_bdev_channel *ch)
{
    struct plx_bdev_channel *sole = atomic_load_explicit(&d->sole, memory_order_relaxed);
    if (plx_likely(sole == ch))
        return true;
    return !sole && !((struct ram_channel *)(void *)ch->driver)->grace &&
           atomic_compare_exchange_strong_explicit(&d->sole, &sole, ch, memory_order_acquire, memory_order_relaxed);
}

/* Whether the channel is still in its grace period. */
static bool in_grace(struct plx_bdev_channel *ch)
{
    struct ram_channel *rc = (void *)ch->driver;
    if (plx_likely(!rc->grace))
        return false;
    if (!atomic_load_explicit(&rc->grace->over, memory_order_acquire))
        return true;
    grace_put(rc->grace);
    rc->grace = NULL;
    return false;
}

/* ---- locks ---- */

static struct stripe_lock *lock_of(const struct ram_disk *d, uint64_t offset)
{
    return &d->locks[offset / STRIPE % LOCKS];
}

static void lock(struct stripe_lock *l)
{
    plx_spin_lock(&l->taken);
}

static void unlock(struct stripe_lock *l)
{
    plx_spin_unlock(&l->taken);
}

static void lock_some(struct ram_disk *d, uint64_t from, uint64_t to, void (*act)(struct stripe_lock *))
{
    for (; from <= to; from++)
        act(&d->locks[from]);
}

/* All locks of a range, always in the order of their addresses, so that two ranges never wait for each other. */
static void lock_range(struct ram_disk *d, uint64_t offset, uint64_t bytes, void (*act)(struct stripe_lock *))
{
    uint64_t first = offset / STRIPE, last = (offset + bytes - 1) / STRIPE;
    uint64_t from = first % LOCKS, to = last % LOCKS;
    if (last - first >= LOCKS - 1) {
        lock_some(d, 0, LOCKS - 1, act);
    } else if (from <= to) {
        lock_some(d, from, to, act);
    } else {
        lock_some(d, 0, to, act);
        lock_some(d, from, LOCKS - 1, act);
    }
}

/* ---- operations ---- */

/* How far from `offset` on one lock reaches. */
static uint64_t stripe_left(uint64_t offset)
{
    return STRIPE - offset % STRIPE;
}

static void ram_transfer(struct ram_disk *d, bool locked, const struct iovec *iov, uint64_t offset, uint64_t bytes,
                         bool write)
{
    struct plx_iov_at at = {iov, 0};
    if (plx_likely(!locked && iov->iov_len == bytes)) {
        memcpy(write ? d->mem + offset : iov->iov_base, write ? iov->iov_base : d->mem + offset, bytes);
        return;
    }
    while (bytes) {
        uint64_t n = locked ? plx_min_u64(bytes, stripe_left(offset)) : bytes;
        if (locked)
            lock(lock_of(d, offset));
        if (write)
            plx_iov_gather(&at, d->mem + offset, n);
        else
            plx_iov_scatter(&at, d->mem + offset, n);
        if (locked)
            unlock(lock_of(d, offset));
        offset += n;
        bytes -= n;
    }
}

/* Zeroes a range, giving its whole pages back when that is allowed and worth while. */
static void zero(struct ram_disk *d, uint64_t offset, uint64_t bytes, bool may_free)
{
    uint64_t from = plx_align_up(offset, d->page), to = (offset + bytes) & ~(uint64_t)(d->page - 1);
    if (may_free && to >= from + plx_max_u64(FREE_MIN, d->page) &&
        madvise(d->mem + from, to - from, MADV_DONTNEED) == 0) {
        memset(d->mem + offset, 0, from - offset);
        memset(d->mem + to, 0, offset + bytes - to);
        return;
    }
    memset(d->mem + offset, 0, bytes);
}

static void zero_range(struct ram_disk *d, bool locked, uint64_t offset, uint64_t bytes, bool may_free)
{
    while (bytes) {
        uint64_t n = locked ? plx_min_u64(bytes, CHUNK - offset % CHUNK) : bytes;
        if (locked)
            lock_range(d, offset, n, lock);
        zero(d, offset, n, may_free);
        if (locked)
            lock_range(d, offset, n, unlock);
        offset += n;
        bytes -= n;
    }
}

/* Copies what lies within one stripe, at both ends. */
static void copy_piece(struct ram_disk *d, bool locked, uint64_t to, uint64_t from, uint64_t bytes)
{
    struct stripe_lock *a = lock_of(d, to), *b = lock_of(d, from);
    if (locked) {
        lock(a < b ? a : b);
        if (a != b)
            lock(a < b ? b : a);
    }
    memmove(d->mem + to, d->mem + from, bytes);
    if (locked) {
        unlock(a);
        if (a != b)
            unlock(b);
    }
}

static void ram_copy(struct ram_disk *d, bool locked, uint64_t to, uint64_t from, uint64_t bytes)
{
    if (to <= from || to - from >= bytes) {
        for (uint64_t n; bytes; bytes -= n, to += n, from += n) {
            n = plx_min_u64(bytes, plx_min_u64(stripe_left(to), stripe_left(from)));
            copy_piece(d, locked, to, from, n);
        }
        return;
    }
    /* Upwards into its own source: from the end on. */
    while (bytes) {
        uint64_t to_end = (to + bytes - 1) % STRIPE + 1, from_end = (from + bytes - 1) % STRIPE + 1;
        uint64_t n = plx_min_u64(bytes, plx_min_u64(to_end, from_end));
        bytes -= n;
        copy_piece(d, locked, to + bytes, from + bytes, n);
    }
}

static uint16_t ram_compare(struct ram_disk *d, bool locked, const struct plx_bdev_req *req, uint64_t offset,
                            uint64_t bytes)
{
    struct plx_iov_at at = {req->iov, 0};
    bool equal, write = req->op == PLX_BDEV_COMPARE_AND_WRITE;
    if (locked)
        lock_range(d, offset, bytes, lock);
    equal = plx_iov_equals(&at, d->mem + offset, bytes);
    if (equal && write) {
        at = (struct plx_iov_at){req->iov, 0};
        plx_iov_skip(&at, bytes);
        plx_iov_gather(&at, d->mem + offset, bytes);
    }
    if (locked)
        lock_range(d, offset, bytes, unlock);
    return equal ? PLX_SC_SUCCESS : PLX_SC_COMPARE_FAILURE;
}

static void ram_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct ram_disk *d = disk_of(ch);
    unsigned shift = ch->bdev->block_shift;
    uint64_t offset = req->lba << shift, bytes = (uint64_t)req->nlb << shift;
    bool locked = !alone(d, ch);
    uint16_t status = PLX_SC_SUCCESS;
    if (locked && in_grace(ch) && req->op != PLX_BDEV_FLUSH) {
        plx_bdev_complete(req, PLX_SC_COMMAND_INTERRUPTED);
        return;
    }
    switch ((enum plx_bdev_op)req->op) {
    case PLX_BDEV_READ:
    case PLX_BDEV_WRITE:
        ram_transfer(d, locked, req->iov, offset, bytes, req->op == PLX_BDEV_WRITE);
        break;
    case PLX_BDEV_WRITE_ZEROES:
    case PLX_BDEV_UNMAP:
        zero_range(d, locked, offset, bytes, req->op == PLX_BDEV_UNMAP || req->flags & PLX_BDEV_UNMAP_OK);
        break;
    case PLX_BDEV_COPY:
        ram_copy(d, locked, offset, req->src_lba << shift, bytes);
        break;
    case PLX_BDEV_COMPARE:
    case PLX_BDEV_COMPARE_AND_WRITE:
        status = ram_compare(d, locked, req, offset, bytes);
        break;
    case PLX_BDEV_FLUSH: /* there is nothing more stable than this memory */
    case PLX_BDEV_VERIFY:
        break;
    case PLX_BDEV_ALLOCATED:
    case PLX_BDEV_RESET:
    case PLX_BDEV_ZONE_APPEND:
    case PLX_BDEV_ZONE_MANAGE:
    case PLX_BDEV_ZONE_REPORT:
    case PLX_BDEV_OPS: /* not offered, or the core's */
        status = PLX_SC_INVALID_OPCODE;
        break;
    }
    plx_bdev_complete(req, status);
}

static const void *ram_map(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb)
{
    struct ram_disk *d = disk_of(ch);
    (void)nlb;
    return alone(d, ch) ? d->mem + (lba << ch->bdev->block_shift) : NULL;
}

/* ---- opening and closing ---- */

static void ram_close(struct plx_bdev *bdev)
{
    struct ram_disk *d = (struct ram_disk *)bdev;
    munmap(d->mem, d->mapped);
    grace_put(d->grace);
    pthread_mutex_destroy(&d->lock);
    free(d->locks);
    free(d);
}

static const struct plx_bdev_ops ram_ops = {
    .close = ram_close,
    .channel_open = ram_channel_open,
    .channel_close = ram_channel_close,
    .submit = ram_submit,
    .map = ram_map,
};

/*
 * Huge pages that were set aside, if there are enough; else ordinary memory, in transparent huge pages where it is
 * used.
 */
static int map_memory(struct ram_disk *d, uint64_t size)
{
    const int huge_2m = 21 << MAP_HUGE_SHIFT;
    d->mapped = plx_align_up(size, CHUNK);
    d->page = CHUNK;
    d->mem = mmap(NULL, d->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | huge_2m, -1, 0);
    if (d->mem == MAP_FAILED) {
        d->page = (size_t)sysconf(_SC_PAGESIZE);
        uint8_t *m =
            mmap(NULL, d->mapped + CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m == MAP_FAILED)
            return -errno;
        d->mem = (uint8_t *)plx_align_up((uintptr_t)m, CHUNK);
        if (d->mem != m)
            munmap(m, (size_t)(d->mem - m));
        munmap(d->mem + d->mapped, CHUNK - (size_t)(d->mem - m));
        madvise(d->mem, d->mapped, MADV_HUGEPAGE);
    }
    madvise(d->mem, d->mapped, MADV_DONTDUMP);
    return 0;
}

static int check_memory(const char *name, uint64_t size, struct plx_error *err)
{
    struct sysinfo si;
    if (sysinfo(&si) < 0)
        return 0;
    uint64_t memory = ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
    if (size > memory)
        return plx_fail(err, -ERANGE, "%s is more than the %.1f GiB of memory that this machine has", name,
                        (double)memory / (1 << 30));
    return 0;
}

static void ram_fill_info(struct plx_bdev_info *info, uint64_t size, uint32_t block)
{
    info->block_size = info->write_unit = block;
    info->blocks = size / block;
    info->ops = ((1 << PLX_BDEV_OPS) - 1) & ~(1 << PLX_BDEV_RESET | 1 << PLX_BDEV_ALLOCATED | PLX_BDEV_ZONED_OPS);
    info->unmap_granularity = FREE_MIN / block;
    info->max_unmap_blocks = UINT32_MAX;
    info->unmap_reads_zero = info->in_place = true;
}

static int ram_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    uint64_t size;
    uint32_t block;
    uint8_t uuid[16];
    int ret = plx_url_volatile(url, &block, &size, uuid, err);
    if (!ret)
        ret = check_memory(url->name, size, err);
    if (ret)
        return ret;

    struct ram_disk *d = calloc(1, sizeof *d);
    if (!d)
        return plx_fail(err, -ENOMEM, "out of memory");
    ret = -ENOMEM;
    d->locks = aligned_alloc(PLX_CACHE_ALIGN, LOCKS * sizeof *d->locks);
    if (d->locks)
        ret = map_memory(d, size);
    if (ret) {
        free(d->locks);
        free(d);
        return plx_fail(err, ret, "%s: cannot get that much memory: %s", url->name, strerror(-ret));
    }
    memset(d->locks, 0, LOCKS * sizeof *d->locks);
    pthread_mutex_init(&d->lock, NULL);
    d->bdev.ops = &ram_ops;
    d->bdev.channel_size = sizeof(struct ram_channel);
    ram_fill_info(&d->bdev.info, size, block);
    memcpy(d->bdev.info.uuid, uuid, sizeof uuid);
    *out = &d->bdev;
    return 0;
}

const struct plx_bdev_driver plx_bdev_ram = {
    .scheme = "ram",
    .help = "ram:SIZE[?block=N]  memory, gone at exit",
    .open = ram_open,
};
