/* SPDX-License-Identifier: BSD-3-Clause */
/* Pools with checksums: what is read is what was written, or an error that says where. */
#include "oracle.h"
#include "pool_rig.h"

#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <pollux/reactor.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/filter/crash.h"
#include "filters.h"

enum { BLOCK = 512, UNIT = 4096, OF_UNIT = UNIT / BLOCK, UNITS = 300, DISK = 16 << 20 };

static const struct plx_pool_opts sums = {.checksums = true};

/* ---- what is told ---- */

static unsigned told;
static char last_told[256];

static void hear(void *arg, enum plx_log_level level, const char *text)
{
    (void)arg;
    if (level > PLX_LOG_WARN || !strstr(text, "damaged"))
        return;
    told++;
    snprintf(last_told, sizeof last_told, "%s", text);
}

static uint64_t damages(const struct pool_rig *rig)
{
    struct plx_pool_info info;
    plx_pool_get_info(rig->pool, &info);
    assert_true(info.checksums);
    return info.damages;
}

/* ---- the disk below ---- */

static void fill(uint64_t data[UNIT / 8], uint64_t word)
{
    for (unsigned i = 0; i < UNIT / 8; i++)
        data[i] = word + ((uint64_t)i << 32);
}

/* Flips a bit of the unit that begins with a word, wherever it is on a disk of the rig's. */
static void damage_on(struct pool_rig *rig, struct plx_bdev *bdev, uint64_t word, unsigned bit)
{
    struct tu disk = {.bdev = bdev, .reactor = rig->reactor, .info = plx_bdev_info(bdev)};
    uint64_t data[UNIT / 8];
    unsigned found = 0;
    assert_int_equal(plx_bdev_channel_get(bdev, rig->reactor, &disk.ch), 0);
    for (uint64_t lba = 0; lba < DISK / BLOCK; lba += OF_UNIT) {
        assert_int_equal(tu_io(&disk, PLX_BDEV_READ, lba, OF_UNIT, data), 0);
        if (data[0] != word || data[9] != word + (UINT64_C(9) << 32))
            continue;
        data[bit / 64 % (UNIT / 8)] ^= UINT64_C(1) << bit % 64;
        assert_int_equal(tu_io(&disk, PLX_BDEV_WRITE, lba, OF_UNIT, data), 0);
        found++;
    }
    plx_bdev_channel_put(disk.ch);
    assert_int_equal(found, 1);
}

static void damage(struct pool_rig *rig, uint64_t word, unsigned bit)
{
    damage_on(rig, rig->disk, word, bit);
}

static void write_all(struct tu *t, uint64_t from)
{
    uint64_t data[UNIT / 8];
    for (uint64_t i = 0; i < UNITS; i++) {
        fill(data, from + i);
        assert_int_equal(tu_io(t, PLX_BDEV_WRITE, i * OF_UNIT, OF_UNIT, data), 0);
    }
}

static void check_unit(struct tu *t, uint64_t unit, uint64_t word)
{
    uint64_t data[UNIT / 8], want[UNIT / 8];
    fill(want, word);
    assert_int_equal(tu_io(t, PLX_BDEV_READ, unit * OF_UNIT, OF_UNIT, data), 0);
    assert_memory_equal(data, want, UNIT);
}

/* ---- damage ---- */

static void test_a_flipped_bit_is_an_error_that_says_where(void **state)
{
    struct pool_rig rig;
    struct tu t;
    static uint8_t all[UNITS * UNIT];
    char where[64];
    (void)state;
    plx_log_set(hear, NULL, PLX_LOG_ERROR);
    rig_make(&rig, "ram:16M", &sums);
    rig_create(&rig, "web", UNITS * UNIT);
    rig_open(&rig, "web", &t);
    write_all(&t, 1000);
    for (unsigned i = 0; i < UNITS; i += 7) {
        const unsigned before = told;
        uint8_t block[BLOCK];
        damage(&rig, 1000 + i, i * 113);
        for (unsigned block_of = 0; block_of < OF_UNIT; block_of++) /* whichever part of it is read */
            assert_int_equal(tu_io(&t, PLX_BDEV_READ, i * OF_UNIT + block_of, 1, block), PLX_SC_UNRECOVERED_READ_ERROR);
        assert_true(told <= before + 1 && (told == before + 1 || i > 9 * 7)); /* the log has a limit of its own */
        snprintf(where, sizeof where, "volume web: block %u is damaged", i * OF_UNIT);
        assert_true(told == before || strstr(last_told, where));
        if (i + 1 < UNITS)
            check_unit(&t, i + 1, 1000 + i + 1);
    }
    assert_int_equal(damages(&rig), (UNITS + 6) / 7 * OF_UNIT);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, UNITS * OF_UNIT, all), PLX_SC_UNRECOVERED_READ_ERROR);
    rig_close(&rig, &t);
    rig_reopen(&rig);
    rig_open(&rig, "web", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, all), PLX_SC_UNRECOVERED_READ_ERROR);
    check_unit(&t, 1, 1001);
    /* A part of what is damaged cannot be kept; all of it can be replaced. */
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 3, 1, all), PLX_SC_UNRECOVERED_READ_ERROR);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE_ZEROES, 3, 1, NULL), PLX_SC_UNRECOVERED_READ_ERROR);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, all), PLX_SC_UNRECOVERED_READ_ERROR);
    write_all(&t, 5000);
    for (unsigned i = 0; i < UNITS; i++)
        check_unit(&t, i, 5000 + i);
    damage(&rig, 5007, 1);
    assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 7 * OF_UNIT, OF_UNIT, NULL), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 7 * OF_UNIT, OF_UNIT, all), 0);
    assert_true(tu_zeroed(all, UNIT));
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_check_outside(&rig);
    rig_end(&rig);
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
}

/* Each of the volumes that share it says so. */
static void test_what_snapshots_and_clones_share_is_checked_too(void **state)
{
    static const char *const names[] = {"v", "s", "c"};
    struct pool_rig rig;
    struct tu t;
    uint8_t block[BLOCK];
    (void)state;
    plx_log_set(hear, NULL, PLX_LOG_ERROR);
    rig_make(&rig, "ram:16M", &sums);
    rig_create(&rig, "v", UNITS * UNIT);
    rig_open(&rig, "v", &t);
    write_all(&t, 1000);
    rig_close(&rig, &t);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "s", 0);
    rig_do(&rig, PLX_POOL_CLONE, "s", "c", 0);
    damage(&rig, 1001, 77);
    for (unsigned i = 0; i < 3; i++) {
        rig_open(&rig, names[i], &t);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, OF_UNIT, 1, block), PLX_SC_UNRECOVERED_READ_ERROR);
        check_unit(&t, 2, 1002);
        rig_close(&rig, &t);
    }
    rig_end(&rig);
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
}

static void test_a_thousand_damaged_places_are_told_so_many_times(void **state)
{
    struct pool_rig rig;
    struct tu t, disk;
    uint8_t *data = tu_pattern(UNIT, 3);
    (void)state;
    plx_log_set(hear, NULL, PLX_LOG_ERROR);
    rig_make(&rig, "ram:16M", &sums);
    rig_create(&rig, "v", 2000 * UNIT);
    rig_open(&rig, "v", &t);
    for (unsigned i = 0; i < 2000; i++)
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, i * OF_UNIT, OF_UNIT, data), 0);
    const uint64_t used = rig.pool->used;
    disk = (struct tu){.bdev = rig.disk, .reactor = rig.reactor, .info = plx_bdev_info(rig.disk)};
    assert_int_equal(plx_bdev_channel_get(rig.disk, rig.reactor, &disk.ch), 0);
    for (uint64_t lba = 0; lba < DISK / BLOCK; lba += OF_UNIT) {
        uint8_t unit[UNIT];
        assert_int_equal(tu_io(&disk, PLX_BDEV_READ, lba, OF_UNIT, unit), 0);
        if (memcmp(unit, data, UNIT))
            continue;
        unit[lba % UNIT] ^= 1;
        assert_int_equal(tu_io(&disk, PLX_BDEV_WRITE, lba, OF_UNIT, unit), 0);
    }
    plx_bdev_channel_put(disk.ch);
    told = 0;
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < 2000; i++)
            assert_int_equal(tu_io(&t, PLX_BDEV_READ, i * OF_UNIT, 1, data), PLX_SC_UNRECOVERED_READ_ERROR);
    assert_in_range(told, 9, 513);
    assert_in_range(rig.pool->n_damaged, 512, 512);
    assert_int_equal(damages(&rig), 6000);
    assert_int_equal(rig.pool->used, used);
    rig_close(&rig, &t);
    rig_end(&rig);
    free(data);
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
}

/* ---- space ---- */

/* What is overwritten needs new units, of which there are none left but for nodes. */
static void test_a_full_pool_is_overwritten(void **state)
{
    struct pool_rig rig;
    struct tu t;
    uint64_t data[UNIT / 8], n = 0, seed = 5;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "ram:16M", &sums);
    rig_create(&rig, "v", DISK);
    rig_open(&rig, "v", &t);
    rig.pool->full_wait_ns = 0;
    for (fill(data, 0); !tu_io(&t, PLX_BDEV_WRITE, n * OF_UNIT, OF_UNIT, data); fill(data, n))
        n++;
    rig.pool->full_wait_ns = 60 * PLX_NS_PER_S;
    assert_int_equal(pool_space_room(rig.pool), 0);
    for (unsigned lap = 1; lap <= 3; lap++) {
        for (uint64_t i = 0; i < n; i++) {
            fill(data, lap * 100000 + i);
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, i * OF_UNIT, OF_UNIT, data), 0);
        }
        for (uint64_t i = 0; i < 3000; i++) { /* a part, anywhere */
            const uint64_t at = tu_random(&seed) % n;
            fill(data, lap * 100000 + at);
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, at * OF_UNIT + 2, 3, data + 2 * BLOCK / 8), 0);
        }
        for (uint64_t i = 0; i < n; i++)
            check_unit(&t, i, lap * 100000 + i);
    }
    assert_int_equal(rig.pool->broken, 0);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_check_outside(&rig);
    rig_end(&rig);
    rig_simulate(false);
}

/* ---- units and memory ---- */

/* Whatever a unit is, and however little memory there is for its data. */
static void check_memory(const char *url, bool scarce)
{
    enum { MANY = 4096, BYTES = 8 << 20 };
    static struct {
        void *mem;
        size_t size;
    } held[MANY];
    unsigned n = 0;
    struct pool_rig rig;
    struct tu t;
    uint64_t seed = 11;
    uint8_t *want = calloc(1, BYTES), *is = tu_pattern(BYTES, 1);
    rig_make(&rig, url, &sums);
    rig_create(&rig, "v", BYTES);
    rig_open(&rig, "v", &t);
    const uint32_t block = t.info->block_size;
    for (size_t size = 256 << 10; scarce && size >= 4096; size /= 2)
        while (n < MANY && (held[n].mem = plx_buf_get(rig.reactor, size)))
            held[n++].size = size;
    assert_true(n < MANY && (n || !scarce));
    for (unsigned i = 0; i < 150; i++) {
        const uint32_t nlb = 1 + tu_random(&seed) % (BYTES / 8 / block);
        const uint64_t lba = tu_random(&seed) % (BYTES / block - nlb + 1), dice = tu_random(&seed) % 8;
        uint8_t *data = tu_pattern((size_t)nlb * block, i + 2);
        if (dice < 4) {
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, lba, nlb, data), 0);
            memcpy(want + lba * block, data, (size_t)nlb * block);
        } else if (dice < 5) {
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE_ZEROES, lba, nlb, NULL), 0);
            memset(want + lba * block, 0, (size_t)nlb * block);
        } else {
            assert_int_equal(tu_io(&t, PLX_BDEV_READ, lba, nlb, data), 0);
            assert_memory_equal(want + lba * block, data, (size_t)nlb * block);
        }
        free(data);
    }
    for (; n; n--)
        plx_buf_put(rig.reactor, held[n - 1].mem, held[n - 1].size);
    for (uint64_t at = 0; at < BYTES / block; at += 2048)
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, at, plx_min_u64(2048, BYTES / block - at), is + at * block), 0);
    assert_memory_equal(want, is, BYTES);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
    free(want);
    free(is);
}

static void test_units_of_any_size_and_little_memory(void **state)
{
    static const char *const urls[] = {"ram:64M", "ram:64M?block=4096", "ram:128M?block=16384", "ram:256M?block=65536"};
    (void)state;
    rig_simulate(true);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(urls); i++)
        for (int scarce = 0; scarce < 2; scarce++)
            check_memory(urls[i], scarce);
    rig_simulate(false);
}

/* ---- mirrors ---- */

/* In the place of rig_make(): its disk is a mirror. */
static void mirror_make(struct pool_rig *rig, struct plx_bdev **leg, unsigned legs, const char *const *urls)
{
    struct plx_error err = {""};
    rig_disk(rig, urls[0]);
    leg[0] = rig->disk;
    for (unsigned i = 1; i < legs; i++)
        if (plx_bdev_open(urls[i], &leg[i], &err))
            fail_msg("%s: %s", urls[i], err.text);
    rig->disk = filter_mirror_new(leg, legs);
    rig_make_here(rig, &sums);
}

static void mirror_end(struct pool_rig *rig, struct plx_bdev **leg, unsigned legs)
{
    rig_end(rig);
    for (unsigned i = 0; i < legs; i++)
        assert_int_equal(plx_bdev_close(leg[i]), 0);
}

static const char *const rams[] = {"ram:16M", "ram:16M", "ram:16M"};

static uint64_t mended(const struct pool_rig *rig)
{
    struct plx_pool_info info;
    plx_pool_get_info(rig->pool, &info);
    return info.mended;
}

static void test_a_unit_is_mended_from_the_copy_that_is_right(void **state)
{
    static uint8_t all[UNITS * UNIT];
    struct pool_rig rig;
    struct plx_bdev *leg[3];
    struct tu t;
    (void)state;
    plx_log_set(hear, NULL, PLX_LOG_WARN);
    mirror_make(&rig, leg, 3, rams);
    rig_create(&rig, "web", UNITS * UNIT);
    rig_open(&rig, "web", &t);
    write_all(&t, 1000);
    /* In a read of all, some from a copy that is wrong, some where two of three are, some together. */
    for (unsigned i = 0; i < UNITS; i += 3)
        damage_on(&rig, leg[0], 1000 + i, i);
    for (unsigned i = 0; i < UNITS; i += 6) {
        damage_on(&rig, leg[1], 1000 + i, i + 1);
        damage_on(&rig, leg[0], 1000 + i + 1, i + 1);
    }
    damage_on(&rig, leg[2], 1002, 9); /* which is not read: nobody notices */
    told = 0;
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, UNITS * OF_UNIT, all), 0);
    for (unsigned i = 0; i < UNITS; i++) {
        uint64_t want[UNIT / 8];
        fill(want, 1000 + i);
        assert_memory_equal(all + i * UNIT, want, UNIT);
    }
    assert_int_equal(damages(&rig), UNITS / 3 + UNITS / 6);
    assert_int_equal(mended(&rig), UNITS / 3 + UNITS / 6);
    assert_true(told > 0);
    assert_non_null(strstr(last_told, "mended from another"));
    for (unsigned i = 0; i < 2; i++) { /* every copy of those is right again */
        filter_mirror_rule(rig.disk)->read = i;
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, UNITS * OF_UNIT, all), 0);
    }
    assert_int_equal(damages(&rig), UNITS / 3 + UNITS / 6);
    /* A part that is written, of one that is wrong. */
    filter_mirror_rule(rig.disk)->read = 0;
    damage_on(&rig, leg[0], 1007, 3);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE_ZEROES, 7 * OF_UNIT, 1, NULL), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 7 * OF_UNIT, OF_UNIT, all), 0);
    assert_true(tu_zeroed(all, BLOCK));
    uint64_t want[UNIT / 8];
    fill(want, 1007);
    assert_memory_equal(all + BLOCK, (uint8_t *)want + BLOCK, UNIT - BLOCK);
    assert_int_equal(mended(&rig), UNITS / 3 + UNITS / 6 + 1);
    rig_close(&rig, &t);
    mirror_end(&rig, leg, 3);
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
}

static void test_what_is_wrong_in_all_copies_is_an_error(void **state)
{
    struct pool_rig rig;
    struct plx_bdev *leg[2];
    struct tu t;
    uint8_t unit[2 * UNIT];
    (void)state;
    plx_log_set(hear, NULL, PLX_LOG_WARN);
    mirror_make(&rig, leg, 2, rams);
    rig_create(&rig, "web", UNITS * UNIT);
    rig_open(&rig, "web", &t);
    write_all(&t, 1000);
    damage_on(&rig, leg[0], 1001, 5);
    damage_on(&rig, leg[1], 1001, 6);
    damage_on(&rig, leg[0], 1002, 7);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, OF_UNIT, 2 * OF_UNIT, unit), PLX_SC_UNRECOVERED_READ_ERROR);
    assert_int_equal(damages(&rig), 2);
    assert_int_equal(mended(&rig), 1); /* the other was looked at all the same */
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, OF_UNIT, 1, unit), PLX_SC_UNRECOVERED_READ_ERROR);
    check_unit(&t, 2, 1002);
    /* What cannot be written again is there all the same, */
    filter_mirror_rule(rig.disk)->writes_fail = true;
    damage_on(&rig, leg[0], 1003, 5);
    for (unsigned i = 1; i <= 2; i++) {
        check_unit(&t, 3, 1003);
        assert_int_equal(damages(&rig), 3 + i);
        assert_int_equal(mended(&rig), 1);
    }
    assert_non_null(strstr(last_told, "was read from another"));
    filter_mirror_rule(rig.disk)->writes_fail = false;
    rig.disk->info.read_only = true; /* nor is that tried where nothing can be written */
    damage_on(&rig, leg[0], 1004, 5);
    check_unit(&t, 4, 1004);
    assert_int_equal(mended(&rig), 1);
    rig.disk->info.read_only = false;
    check_unit(&t, 4, 1004);
    assert_int_equal(mended(&rig), 2);
    rig_close(&rig, &t);
    mirror_end(&rig, leg, 2);
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
}

/* Roots, the log, nodes, maps: all that a pool needs to be opened, and more. */
static void test_a_pool_opens_of_the_copy_that_is_right(void **state)
{
    struct pool_rig rig;
    struct plx_bdev *leg[2];
    struct tu t, disk;
    uint8_t *wrong = tu_pattern(UNIT, 7);
    (void)state;
    for (unsigned bad = 0; bad < 2; bad++) {
        mirror_make(&rig, leg, 2, rams);
        rig_create(&rig, "web", UNITS * UNIT);
        rig_open(&rig, "web", &t);
        write_all(&t, 1000);
        rig_close(&rig, &t);
        rig_do(&rig, PLX_POOL_SNAPSHOT, "web", "snap", 0);
        rig_settle(&rig);
        rig_open(&rig, "web", &t);
        write_all(&t, 2000); /* those are in the log */
        assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
        rig_close(&rig, &t);
        filter_mirror_rule(rig.disk)->read = bad;
        rig.pool->broken = PLX_SC_INTERNAL_ERROR; /* it does not come to its end */
        pool_close_on(rig.pool);
        disk = (struct tu){.bdev = leg[bad], .reactor = rig.reactor, .info = plx_bdev_info(leg[bad])};
        assert_int_equal(plx_bdev_channel_get(leg[bad], rig.reactor, &disk.ch), 0);
        for (uint64_t lba = 0; lba < DISK / BLOCK; lba += OF_UNIT)
            assert_int_equal(tu_io(&disk, PLX_BDEV_WRITE, lba, OF_UNIT, wrong), 0);
        plx_bdev_channel_put(disk.ch);
        rig_pool(&rig);
        rig_open(&rig, "web", &t);
        for (unsigned i = 0; i < UNITS; i++)
            check_unit(&t, i, 2000 + i);
        rig_close(&rig, &t);
        rig_open(&rig, "snap", &t);
        for (unsigned i = 0; i < UNITS; i++)
            check_unit(&t, i, 1000 + i);
        rig_close(&rig, &t);
        rig_settle(&rig);
        rig_check(&rig);
        mirror_end(&rig, leg, 2);
    }
    free(wrong);
}

/* ---- disks that do what they should not ---- */

enum { DEPTH = 6, BLOCKS = UNITS * OF_UNIT, MOST = 40 };

struct io {
    struct tu_req q;
    enum plx_bdev_op op;
    uint64_t lba, known;
    uint32_t nlb;
    bool busy;
    uint8_t data[MOST * BLOCK];
};

static void io_finish(struct io *io, struct oracle *o, uint64_t *errors, uint64_t seed)
{
    struct oracle_finding f;
    const uint16_t status = io->q.req->status;
    io->busy = false;
    *errors += status != 0;
    if (io->op != PLX_BDEV_READ || status)
        oracle_done(o, io->known, !status);
    else if (!oracle_read_done(o, io->known, io->lba, io->nlb, io->data, &f))
        fail_msg("seed %llu: %s", (unsigned long long)seed, f.text);
}

static void io_any(struct io *io, struct tu *t, struct oracle *o, uint64_t *seed)
{
    static uint64_t serial;
    const uint32_t dice = tu_random(seed) % 16;
    io->op = dice < 7 ? PLX_BDEV_WRITE : dice < 8 ? PLX_BDEV_UNMAP : dice < 15 ? PLX_BDEV_READ : PLX_BDEV_WRITE_ZEROES;
    io->nlb = 1 + tu_random(seed) % MOST;
    io->lba = tu_random(seed) % (BLOCKS - io->nlb + 1);
    for (size_t at = 0; io->op == PLX_BDEV_WRITE && at < (size_t)io->nlb * BLOCK; at += sizeof serial) {
        serial++;
        memcpy(io->data + at, &serial, sizeof serial);
    }
    io->known = io->op == PLX_BDEV_WRITE          ? oracle_write(o, io->lba, io->nlb, io->data, false)
                : io->op == PLX_BDEV_WRITE_ZEROES ? oracle_zeroes(o, io->lba, io->nlb, false)
                : io->op == PLX_BDEV_UNMAP        ? oracle_discard(o, io->lba, io->nlb)
                                                  : oracle_read(o);
    io->busy = true;
    tu_start(t, &io->q, io->op, io->lba, io->nlb, io->data);
}

static void ios_finish(struct io *all, struct pool_rig *rig, struct oracle *o, uint64_t *errors, uint64_t seed)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        while (all[i].busy && !all[i].q.done)
            rig_turn(rig->reactor);
        if (all[i].busy)
            io_finish(&all[i], o, errors, seed);
    }
}

static uint64_t n_mended;

/* @param mirrored the disk has a copy that does what it should. @return requests that ended in an error */
static uint64_t live(const char *url, bool mirrored, uint64_t seed, unsigned requests)
{
    static struct io all[DEPTH];
    struct oracle *o = oracle_new(BLOCKS, BLOCK, ORACLE_DISCARD_ZEROES);
    struct pool_rig rig;
    struct tu t;
    uint64_t errors = 0, dice = seed;
    const bool latent = strstr(url, "latent") != NULL;
    struct plx_bdev *leg[2] = {NULL};
    if (mirrored)
        mirror_make(&rig, leg, 2, (const char *const[]){url, "ram:4M"});
    else
        rig_make(&rig, url, &sums);
    rig_create(&rig, "v", UNITS * UNIT);
    rig.pool->nodes_max = 2; /* those on the disk are read again and again */
    plx_crash_seed(mirrored ? leg[0] : rig.disk, seed);
    rig_open(&rig, "v", &t);
    for (unsigned i = 0; i < DEPTH; i++) {
        tu_req_init(&all[i].q);
        all[i].q.done = true;
        all[i].busy = false;
    }
    for (unsigned n = 0; n < requests && !rig.pool->broken; n++) {
        struct io *io = &all[tu_random(&dice) % DEPTH];
        while (io->busy && !io->q.done)
            rig_turn(rig.reactor);
        if (io->busy)
            io_finish(io, o, &errors, seed);
        io_any(io, &t, o, &dice);
        if (mirrored && n % 100 == 99) {
            ios_finish(all, &rig, o, &errors, seed);
            n_mended += mended(&rig);
            rig_close(&rig, &t);
            rig_reopen(&rig);
            rig_open(&rig, "v", &t);
        }
        if (latent && n % 50 == 49) { /* what has been written may come to be unreadable */
            assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
            plx_crash_seed(rig.disk, seed + n);
        }
    }
    ios_finish(all, &rig, o, &errors, seed);
    for (unsigned i = 0; i < DEPTH; i++)
        tu_req_free(&all[i].q);
    rig_close(&rig, &t);
    if (mirrored && (errors || rig.pool->broken))
        fail_msg("seed %llu: the other copy was right", (unsigned long long)seed);
    n_mended += mended(&rig);
    pool_close_on(rig.pool);
    rig.pool = NULL;
    if (mirrored)
        mirror_end(&rig, leg, 2);
    else
        rig_end(&rig);
    oracle_free(o);
    return errors;
}

static void check_lives(const char *url, bool mirrored)
{
    const char *first = getenv("POLLUX_SEED"), *rounds = getenv("POLLUX_ROUNDS");
    const uint64_t seed = first ? strtoull(first, NULL, 10) : 1;
    const unsigned n = rounds ? (unsigned)strtoul(rounds, NULL, 10) : 40;
    uint64_t errors = 0;
    n_mended = 0;
    rig_simulate(true);
    for (uint64_t i = seed; i < seed + n; i++)
        errors += live(url, mirrored, i, 400);
    rig_simulate(false);
    print_message("%s, seeds %llu to %llu: %llu errors, %llu mended\n", url, (unsigned long long)seed,
                  (unsigned long long)(seed + n - 1), (unsigned long long)errors, (unsigned long long)n_mended);
    assert_true(mirrored ? n_mended > 0 : errors > 0);
}

static void test_misdirected_writes_are_never_read(void **state)
{
    (void)state;
    plx_log_set(hear, NULL, PLX_LOG_ERROR);
    check_lives("crash:ram:4M?misdirect=5&seed=1", false);
    check_lives("crash:ram:4M?misdirect=20&latency=100us&seed=1", false);
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
}

static void test_latent_errors_are_errors(void **state)
{
    (void)state;
    check_lives("crash:ram:4M?latent=2&seed=1", false);
}

static void test_misdirected_writes_are_mended(void **state)
{
    (void)state;
    plx_log_set(hear, NULL, PLX_LOG_ERROR);
    check_lives("crash:ram:4M?misdirect=5&seed=1", true);
    check_lives("crash:ram:4M?misdirect=20&latency=100us&seed=1", true);
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_flipped_bit_is_an_error_that_says_where),
        cmocka_unit_test(test_what_snapshots_and_clones_share_is_checked_too),
        cmocka_unit_test(test_a_thousand_damaged_places_are_told_so_many_times),
        cmocka_unit_test(test_a_full_pool_is_overwritten),
        cmocka_unit_test(test_units_of_any_size_and_little_memory),
        cmocka_unit_test(test_a_unit_is_mended_from_the_copy_that_is_right),
        cmocka_unit_test(test_what_is_wrong_in_all_copies_is_an_error),
        cmocka_unit_test(test_a_pool_opens_of_the_copy_that_is_right),
        cmocka_unit_test(test_misdirected_writes_are_never_read),
        cmocka_unit_test(test_misdirected_writes_are_mended),
        cmocka_unit_test(test_latent_errors_are_errors),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
