/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pool_diff_cost DISK GIB PERCENT make: a pool on a disk that is a file, with a volume of so many GiB, all of which is
 * mapped, and two snapshots of it, between which so many percent changed, a MiB here and there. No data is written.
 * pool_diff_cost DISK GIB PERCENT diff: opens it, lists what is different, and says how long either took.
 */
#include "pool_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { UNITS_A_MIB = 256, EXTENTS = 4096 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void again(struct pool_wait *w)
{
    w->status = 0xfffe;
}

/* A node of level 1 of the volume is mapped, as if it had been written. */
static void map_leaf(struct pool_rig *rig, struct pool_volume *v, uint64_t leaf)
{
    struct plx_pool *p = rig->pool;
    struct pool_wait w = {.reactor = rig->reactor, .again = again};
    for (unsigned done = 0; done < UNITS_A_MIB;) {
        struct pool_try t = {.ch = p->keeper_ch, .wait = &w};
        uint64_t unit;
        pool_lock(p);
        int ret = pool_space_ready(p, &t, UNITS_A_MIB, true);
        if (!ret) {
            const uint64_t n = pool_space_take(p, POOL_FOR_DATA, UNITS_A_MIB - done, &unit);
            ret = pool_volume_map(p, &t, v, leaf * UNITS_A_MIB + done, (unsigned)n, unit, NULL, false);
            if (ret)
                pool_space_return(p, unit, n);
            else
                done += (unsigned)n;
        }
        pool_try_end(p, &t);
        assert_true(!ret || ret == POOL_AGAIN);
        while (ret && w.status != 0xfffe)
            rig_turn(rig->reactor);
        w.status = 0;
    }
}

static void make_one(const char *disk, uint64_t gib, double percent)
{
    struct pool_rig rig;
    uint64_t seed = 1;
    rig_make(&rig, disk, NULL);
    rig_create(&rig, "v", gib << 30);
    for (uint64_t leaf = 0; leaf < gib << 10; leaf++)
        map_leaf(&rig, rig.pool->volume[0], leaf);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "one", 0);
    for (uint64_t i = 0; i < (uint64_t)((double)(gib << 10) * percent / 100); i++)
        map_leaf(&rig, rig.pool->volume[0], tu_random(&seed) % (gib << 10));
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "two", 0);
    rig_end(&rig);
}

static void diff_over(struct plx_pool_diff *d)
{
    *(bool *)d->arg = true;
}

static void diff_one(const char *disk)
{
    static struct plx_pool_extent extents[EXTENTS];
    struct plx_pool_diff d = {.from = "one", .to = "two", .extents = extents, .room = EXTENTS, .done = diff_over};
    struct pool_rig rig;
    uint64_t n = 0, bytes = 0;
    rig_disk(&rig, disk);
    double began = seconds(), used = cpu();
    rig_pool(&rig);
    printf("open: %.3f s, %.3f s of CPU\n", seconds() - began, cpu() - used);
    began = seconds();
    used = cpu();
    d.reactor = rig.reactor;
    do {
        bool done = false;
        d.arg = &done;
        plx_pool_diff_submit(rig.pool, &d);
        while (!done)
            rig_turn(rig.reactor);
        assert_int_equal(d.result, 0);
        for (uint32_t i = 0; i < d.n; i++)
            bytes += extents[i].length;
        n += d.n;
    } while (d.offset < d.size);
    printf("diff: %llu extents, %llu MiB: %.3f s, %.3f s of CPU\n", (unsigned long long)n,
           (unsigned long long)(bytes >> 20), seconds() - began, cpu() - used);
    rig_end(&rig);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: pool_diff_cost DISK GIB PERCENT make|diff\n");
        return 2;
    }
    if (strcmp(argv[4], "make") == 0)
        make_one(argv[1], strtoull(argv[2], NULL, 10), strtod(argv[3], NULL));
    else
        diff_one(argv[1]);
    return 0;
}
