/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pool_cost WORK REQUESTS: 4 KiB at random on a disk in memory, or on a volume of a pool on it, all of which is mapped,
 * for bench/instructions.py to count instructions. WORK is "disk", "volume", or "deep", a volume with a hundred
 * snapshots that each have a part of it; and "-read" or "-write". Or it is "thin-write", where nothing is mapped: first
 * writes, each unit once, in an order that is all over the volume.
 */
#include "pool_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 32768, NLB = 8, SNAPSHOTS = 100, THIN_UNITS = 65536 };

static struct tu_req q;

static void request(struct tu *t, enum plx_bdev_op op, uint64_t unit, void *data)
{
    tu_start(t, &q, op, unit * NLB, NLB, data);
    while (!q.done)
        rig_turn(t->reactor);
}

static void map_all(struct pool_rig *rig, struct tu *t, bool deep, void *data)
{
    char name[16];
    for (uint64_t unit = 0; unit < BLOCKS / NLB; unit++) {
        request(t, PLX_BDEV_WRITE, unit, data);
        if (!deep || unit % (BLOCKS / NLB / SNAPSHOTS) || unit / (BLOCKS / NLB / SNAPSHOTS) >= SNAPSHOTS)
            continue;
        snprintf(name, sizeof name, "s%u", (unsigned)unit);
        rig_do(rig, PLX_POOL_SNAPSHOT, "v", name, 0);
    }
}

int main(int argc, char **argv)
{
    static uint8_t data[4096] __attribute__((aligned(4096)));
    struct pool_rig rig;
    struct tu t = {0};
    uint64_t seed = 1;
    const long count = argc == 3 ? strtol(argv[2], NULL, 10) : -1;
    const char *kind = count > 0 ? strchr(argv[1], '-') : NULL;
    if (!kind || (strcmp(kind, "-read") && strcmp(kind, "-write"))) {
        fprintf(stderr, "usage: pool_cost disk|volume|deep|thin-read|write REQUESTS\n");
        return 2;
    }
    const enum plx_bdev_op op = strcmp(kind, "-read") ? PLX_BDEV_WRITE : PLX_BDEV_READ;
    const bool volume = strncmp(argv[1], "disk", 4) != 0, thin = strncmp(argv[1], "thin", 4) == 0;
    tu_req_init(&q);
    if (thin) {
        rig_make(&rig, "ram:512M", NULL);
        rig_create(&rig, "v", (uint64_t)THIN_UNITS * 4096);
        rig_open(&rig, "v", &t);
    } else if (volume) {
        rig_make(&rig, "ram:64M", NULL);
        rig_create(&rig, "v", (uint64_t)BLOCKS * 512);
        rig_open(&rig, "v", &t);
        map_all(&rig, &t, strncmp(argv[1], "deep", 4) == 0, data);
    } else {
        tu_open(&t, "ram:64M");
        map_all(NULL, &t, false, data);
    }
    if (op == PLX_BDEV_WRITE && !thin) /* what a snapshot has is not written in place */
        for (uint64_t unit = 0; unit < BLOCKS / NLB; unit++)
            request(&t, op, unit, data);
    for (long i = 0; i < count; i++)
        request(&t, op, thin ? (uint64_t)i * 40503 % THIN_UNITS : tu_random(&seed) % (BLOCKS / NLB), data);
    tu_req_free(&q);
    if (volume) {
        rig_close(&rig, &t);
        rig_end(&rig);
    } else {
        tu_close(&t);
    }
    return 0;
}
