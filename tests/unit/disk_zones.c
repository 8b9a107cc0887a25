/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * disk_zones DISK: writes all zones of a zoned disk, by writes and by appends, reads them back, and tells what zones
 * say of it. Not a test: tests/vm runs it, where there are such disks.
 */
#include <pollux/bdev.h>

#include <endian.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 16, DEPTH = 16, ZONES_MAX = 64 };

struct request {
    struct plx_bdev_req req;
    struct iovec iov;
    bool done;
};

static struct plx_reactor *reactor;
static struct plx_bdev_channel *channel;
static const struct plx_bdev_info *info;

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "disk_zones: %s\n", what);
    exit(1);
}

static void zone_request_done(struct plx_bdev_req *req)
{
    ((struct request *)(void *)req)->done = true;
}

static void start(struct request *q, enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data, size_t bytes)
{
    q->done = false;
    q->iov = (struct iovec){data, bytes};
    q->req.done = zone_request_done;
    q->req.op = (uint8_t)op;
    q->req.lba = lba;
    q->req.nlb = nlb;
    q->req.iov = &q->iov;
    q->req.iovcnt = bytes ? 1 : 0;
    plx_bdev_submit(channel, &q->req);
}

static uint16_t finish(const struct request *q)
{
    while (!q->done)
        plx_reactor_poll(reactor);
    return q->req.status;
}

static uint16_t run(enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data, size_t bytes)
{
    static struct request q;
    q.req.flags = 0;
    start(&q, op, lba, nlb, data, bytes);
    return finish(&q);
}

static uint16_t manage(uint64_t lba, enum plx_bdev_zone_action action, uint8_t flags)
{
    static struct request q;
    q.req.zone_action = (uint8_t)action;
    q.req.flags = flags;
    start(&q, PLX_BDEV_ZONE_MANAGE, lba, 0, NULL, 0);
    return finish(&q);
}

static void fill(uint8_t *data, size_t bytes, uint64_t lba)
{
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)(lba * 31 + i / 512 * 7 + i % 253);
}

/* Where each append went is where its data is. */
static void append_all(uint64_t zone, uint64_t capacity, uint8_t *back)
{
    static struct request q[DEPTH];
    const size_t bytes = (size_t)CHUNK * info->block_size;
    uint8_t *data = malloc(DEPTH * bytes);
    for (uint64_t at = 0; at < capacity; at += DEPTH * CHUNK) {
        for (unsigned i = 0; i < DEPTH; i++) {
            fill(data + i * bytes, bytes, zone + at + i);
            start(&q[i], PLX_BDEV_ZONE_APPEND, zone, CHUNK, data + i * bytes, bytes);
        }
        for (unsigned i = 0; i < DEPTH; i++) {
            must(!finish(&q[i]), "an append fails");
            must(q[i].req.src_lba >= zone && q[i].req.src_lba + CHUNK <= zone + capacity, "it went elsewhere");
            must(!run(PLX_BDEV_READ, q[i].req.src_lba, CHUNK, back, bytes), "it cannot be read");
            must(!memcmp(back, data + i * bytes, bytes), "something else is there");
        }
    }
    free(data);
}

static void write_all(uint64_t zone, uint64_t capacity, uint8_t *data, uint8_t *back)
{
    const size_t bytes = capacity * info->block_size;
    fill(data, bytes, zone);
    must(run(PLX_BDEV_WRITE, zone + 8, 8, data, (size_t)8 * info->block_size) == PLX_SC_ZONE_INVALID_WRITE,
         "a write may begin anywhere");
    must(!run(PLX_BDEV_WRITE, zone, (uint32_t)capacity, data, bytes), "a write fails");
    must(!run(PLX_BDEV_READ, zone, (uint32_t)capacity, back, bytes), "it cannot be read");
    must(!memcmp(data, back, bytes), "something else is there");
    must(run(PLX_BDEV_WRITE, zone, 8, data, (size_t)8 * info->block_size) == PLX_SC_ZONE_IS_FULL, "a full zone is not");
}

static void check_zones(enum plx_bdev_zone_state state, uint64_t zones, struct plx_bdev_zone *out)
{
    struct plx_bdev_zone report[ZONES_MAX + 1];
    struct plx_bdev_zones head;
    must(!run(PLX_BDEV_ZONE_REPORT, 0, (uint32_t)(zones + 1), report, (zones + 1) * sizeof *report), "no report");
    memcpy(&head, report, sizeof head);
    must(le64toh(head.count) == zones, "there are other zones");
    for (uint64_t i = 0; i < zones; i++)
        must(report[i + 1].state >> 4 == state && le64toh(report[i + 1].lba) == i * info->zone_blocks, "another state");
    *out = report[1];
}

int main(int argc, char **argv)
{
    static const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_SLEEP};
    struct plx_bdev *bdev;
    struct plx_error err;
    struct plx_bdev_zone zone;
    must(argc == 2 && !plx_reactor_create(&reactor, &opts), "a disk is wanted");
    if (plx_bdev_open(argv[1], &bdev, &err))
        must(false, err.text);
    must(!plx_bdev_channel_get(bdev, reactor, &channel), "no channel");
    info = plx_bdev_info(bdev);
    must(info->zone_blocks, "it is not zoned");
    const uint64_t zones = plx_bdev_blocks(bdev) / info->zone_blocks;
    must(zones <= ZONES_MAX, "it has more zones than this takes");
    must(!manage(0, PLX_BDEV_ZONE_RESET, PLX_BDEV_ALL_ZONES), "zones are not reset");
    check_zones(PLX_BDEV_ZONE_IS_EMPTY, zones, &zone);
    const uint64_t capacity = le64toh(zone.capacity);
    uint8_t *data = malloc(capacity * info->block_size), *back = malloc(capacity * info->block_size);
    for (uint64_t i = 0; i < zones; i++) {
        if (i % 2)
            append_all(i * info->zone_blocks, capacity, back);
        else
            write_all(i * info->zone_blocks, capacity, data, back);
    }
    check_zones(PLX_BDEV_ZONE_IS_FULL, zones, &zone);
    must(!manage(info->zone_blocks, PLX_BDEV_ZONE_RESET, 0), "a zone is not reset");
    must(!manage(info->zone_blocks, PLX_BDEV_ZONE_OPEN, 0) && !manage(info->zone_blocks, PLX_BDEV_ZONE_FINISH, 0),
         "a zone is neither opened nor finished");
    printf("%llu zones of %llu blocks, capacity %llu, %u open, %u active, %u appended\n", (unsigned long long)zones,
           (unsigned long long)info->zone_blocks, (unsigned long long)capacity, info->max_open_zones,
           info->max_active_zones, info->max_append_blocks);
    free(data);
    free(back);
    plx_bdev_channel_put(channel);
    plx_reactor_destroy(reactor);
    return plx_bdev_close(bdev) ? 1 : 0;
}
