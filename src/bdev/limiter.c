/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The policy of a rate limit, which knows no clock: it is told what time it is.
 *
 * Each limit is one number, the time up to which it is booked (virtual scheduling, as in the GCRA of ITU-T I.371). Who
 * needs n of it books the time that n takes at that rate, which begins where the last booking ended, and may use all n
 * once that beginning has come. So the rate is exact whoever asks; a request larger than the burst passes like others,
 * and those behind it wait the longer. As each has one booking at a time, and bookings are served in the order in which
 * they were made, all take turns, however late they wake up. Time that nobody booked is kept for the burst, and lost
 * then.
 *
 * To write to memory that all reactors share once a request would be too much at a million of them a second: a booking
 * is worth 500 us at least, and what is left of it is the next request's.
 *
 * A change makes what was booked void: it ups the version, of which the lower bits are kept beside each time. So who
 * has seen the old limits, and books late, finds that they have changed.
 */
#include "bdev/limit.h"

enum {
    TICK_NS = 8,
    TAG_BITS = 8,
    TAG = (1 << TAG_BITS) - 1,
    SLICES = 2000, /* bookings a second, at most */
    BURST_MS = 50,
};

#define TICKS_PER_S (PLX_NS_PER_S / TICK_NS)
#define BOOKING_MAX (UINT64_C(1) << 47) /* 13 days */
#define RETRY_NS PLX_NS_PER_MS

struct plx_limiter *plx_limiter_new(void)
{
    return plx_alloc_apart(sizeof(struct plx_limiter));
}

static uint64_t rate_of(const struct plx_bdev_limits *limits, enum plx_limit_kind kind)
{
    switch (kind) {
    case PLX_LIMIT_IOS:
        return limits->ios;
    case PLX_LIMIT_BYTES:
        return limits->bytes;
    case PLX_LIMIT_READ_IOS:
        return limits->read_ios;
    case PLX_LIMIT_READ_BYTES:
        return limits->read_bytes;
    case PLX_LIMIT_WRITE_IOS:
        return limits->write_ios;
    case PLX_LIMIT_WRITE_BYTES:
        return limits->write_bytes;
    case PLX_LIMIT_KINDS:
        break;
    }
    return 0;
}

/*
 * Orders, of which tests/model/test_limiter.c finds that they are needed and enough: who acquires the new version has
 * the new rates and times, so that nothing is booked among the new by an old rate. All else is relaxed: who has the
 * old version books, by whichever rate, in a word with the old tag, or finds that the tag is another.
 */
void plx_limiter_set(struct plx_limiter *l, const struct plx_bdev_limits *limits, uint64_t now)
{
    uint32_t version = atomic_load_explicit(&l->version, memory_order_relaxed) + 1;
    uint64_t burst = (limits->burst_ms ? limits->burst_ms : BURST_MS) * (PLX_NS_PER_MS / TICK_NS);
    atomic_store_explicit(&l->burst, burst, memory_order_relaxed);
    for (int kind = 0; kind < PLX_LIMIT_KINDS; kind++) {
        struct plx_limit_bucket *b = &l->buckets[kind];
        atomic_store_explicit(&b->next, now / TICK_NS << TAG_BITS | (version & TAG), memory_order_relaxed);
        atomic_store_explicit(&b->rate, rate_of(limits, (enum plx_limit_kind)kind), memory_order_relaxed);
    }
    atomic_store_explicit(&l->version, version, memory_order_release);
}

/* The bucket that is the user's i-th: those of ios and bytes in turn, of all requests and of its own kind. */
static struct plx_limit_bucket *bucket_of(struct plx_limiter *l, int i, bool write)
{
    return &l->buckets[write && i >= PLX_LIMIT_READ_IOS ? i - PLX_LIMIT_READ_IOS + PLX_LIMIT_WRITE_IOS : i];
}

/* @return false when the limits have changed, or are being changed */
static bool book(struct plx_limiter *l, struct plx_limit_bucket *b, uint64_t takes, uint32_t version, uint64_t ticks,
                 uint64_t *begins)
{
    uint64_t burst = atomic_load_explicit(&l->burst, memory_order_relaxed);
    uint64_t earliest = ticks > burst ? ticks - burst : 0;
    uint64_t word = atomic_load_explicit(&b->next, memory_order_relaxed), then;
    do {
        if ((word & TAG) != (version & TAG))
            return false;
        *begins = plx_max_u64(word >> TAG_BITS, earliest);
        then = plx_min_u64(*begins + takes, UINT64_MAX >> TAG_BITS) << TAG_BITS | (version & TAG);
    } while (!atomic_compare_exchange_weak_explicit(&b->next, &word, then, memory_order_relaxed, memory_order_relaxed));
    return true;
}

/* Books what is missing for a request. @return when all of it may be used; UINT64_MAX: the limits are being changed */
static uint64_t provide(struct plx_limiter *l, struct plx_limit_user *u, bool write, const uint64_t cost[2],
                        uint64_t ticks)
{
    uint32_t version = atomic_load_explicit(&l->version, memory_order_acquire);
    if (plx_unlikely(version != u->version))
        *u = (struct plx_limit_user){.version = version};
    for (int i = 0; i < PLX_LIMIT_EACH; i++) {
        struct plx_limit_bucket *b = bucket_of(l, i, write);
        uint64_t rate = atomic_load_explicit(&b->rate, memory_order_relaxed), need = cost[i & 1], begins;
        if (!rate || u->credit[i] >= need)
            continue;
        uint64_t n = plx_max_u64(need - u->credit[i], rate / SLICES);
        unsigned __int128 takes = (unsigned __int128)n * TICKS_PER_S / rate;
        if (!book(l, b, takes < BOOKING_MAX ? (uint64_t)takes : BOOKING_MAX, version, ticks, &begins))
            return UINT64_MAX;
        u->credit[i] += n;
        u->due = plx_max_u64(u->due, begins);
    }
    return u->due;
}

static void consume(struct plx_limit_user *u, const uint64_t cost[2])
{
    for (int i = 0; i < PLX_LIMIT_EACH; i++)
        u->credit[i] -= plx_min_u64(u->credit[i], cost[i & 1]); /* less where there is no limit */
}

uint64_t plx_limiter_ask(struct plx_limiter *l, struct plx_limit_user *u, bool write, uint64_t bytes, uint64_t now)
{
    const uint64_t cost[2] = {1, bytes};
    uint64_t due = provide(l, u, write, cost, now / TICK_NS);
    if (plx_unlikely(due == UINT64_MAX))
        return now + RETRY_NS;
    if (due > now / TICK_NS)
        return due * TICK_NS;
    consume(u, cost);
    return 0;
}

void plx_limiter_charge(struct plx_limiter *l, struct plx_limit_user *u, bool write, uint64_t bytes, uint64_t now)
{
    const uint64_t cost[2] = {1, bytes};
    if (provide(l, u, write, cost, now / TICK_NS) != UINT64_MAX)
        consume(u, cost);
}
