/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_cost none|driver|block ROUNDS: random reads of 4 KiB, 128 at a time, of an SSD whose controller ends them at
 * once, for bench/instructions.py to count (cost_round(), without pcie_model_complete_all()), and how many a second
 * there are with the controller on the same core. `none`: who asks alone.
 *
 * pcie_cost attach ROUNDS [ADDR]: the microseconds of each, from nothing until a first read has been answered, by a
 * controller that is ready at once and has a thread of its own; or by the SSD of that address, which vfio-pci has.
 */
#include "nvme/nvme.h"
#include "pcie_model.h"

#include <pollux/bdev.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define ADDR "0000:01:00.0"
#define URL "pcie://" ADDR "/1"

enum { DEPTH = 128, BYTES = 4096, DISK_BLOCKS = (64 << 20) / 512 };

static struct plx_reactor *reactor;
static struct pcie_model *model;
static struct nvme_ctrlr *ctrlr;
static struct plx_bdev_channel *channel;
static struct nvme_req reqs[DEPTH];
static struct plx_bdev_req bios[DEPTH];
static struct iovec iovs[DEPTH];
static uint32_t place = 1;
static long done;
static bool is_live, is_none;
static bool is_asleep; /* the reactor is run, and sleeps; else it is polled */

static uint32_t next_block(void)
{
    place = place * 1664525 + 1013904223;
    return (place >> 8) % (DISK_BLOCKS / 8) * 8;
}

static void req_done(struct nvme_req *req)
{
    done += !req->status && !req->lost;
    if (is_asleep)
        plx_reactor_stop(reactor);
}

static void bio_done(struct plx_bdev_req *bio)
{
    done += !bio->status;
}

static void submit_req(unsigned i)
{
    struct nvme_req *req = &reqs[i];
    const uint32_t lba = next_block();
    req->done = req_done;
    req->data = (struct plx_iov_at){&iovs[i], 0};
    req->len = BYTES;
    req->dir = NVME_TO_HOST;
    req->cmd = (struct nvme_words){
        .opcode = NVME_IO_READ, .nsid = plx_put32(1), .cdw10 = plx_put32(lba), .cdw12 = plx_put32(7)};
    if (!is_none)
        nvme_submit(ctrlr, req);
}

static void submit_bio(unsigned i)
{
    struct plx_bdev_req *bio = &bios[i];
    bio->done = bio_done;
    bio->iov = &iovs[i];
    bio->iovcnt = 1;
    bio->lba = next_block();
    bio->nlb = 8;
    plx_bdev_submit(channel, bio);
}

/* A queue's depth of requests, from submission to the last one's end. */
__attribute__((noinline)) static void cost_round(void)
{
    const long until = done + DEPTH;
    for (unsigned i = 0; i < DEPTH; i++) {
        if (channel)
            submit_bio(i);
        else
            submit_req(i);
    }
    for (unsigned i = 0; is_none && i < DEPTH; i++)
        reqs[i].done(&reqs[i]);
    while (done < until) {
        plx_reactor_poll(reactor); /* tells the controller */
        pcie_model_complete_all(model, 1);
    }
}

static void live(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
    is_live = true;
    if (is_asleep)
        plx_reactor_stop(reactor);
}

static void ignore(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
}

static void failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    (void)c, (void)arg, (void)ret, (void)again;
    fprintf(stderr, "%s\n", why);
    exit(1);
}

/* Until one of the two above, or all that is to do now. */
static void progress(void)
{
    if (is_asleep)
        plx_reactor_run(reactor);
    else
        plx_reactor_poll(reactor);
}

static void open_driver(const char *url)
{
    static const struct nvme_ctrlr_ops ops = {.live = live, .down = ignore, .failed = failed, .ana = ignore};
    struct nvme_where where;
    if (nvme_where_parse(&where, url, NULL))
        exit(1);
    const struct nvme_opts opts = nvme_where_opts(&where, 0);
    if (nvme_ctrlr_create(reactor, &opts, &ops, NULL, &ctrlr))
        exit(1);
    nvme_ctrlr_start(ctrlr, true);
    while (!is_live)
        progress();
}

static struct plx_bdev *open_block(void)
{
    struct plx_bdev *disk;
    if (plx_bdev_open(URL, &disk, NULL) || plx_bdev_channel_get(disk, reactor, &channel))
        exit(1);
    submit_bio(0); /* waits for the association */
    while (!done)
        plx_reactor_poll(reactor);
    return disk;
}

static double seconds_since(const struct timespec *a)
{
    struct timespec b;
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (double)(b.tv_sec - a->tv_sec) + (double)(b.tv_nsec - a->tv_nsec) / 1e9;
}

static void attach(const char *addr)
{
    struct timespec a;
    char url[64];
    snprintf(url, sizeof url, "pcie://%s/1", addr);
    clock_gettime(CLOCK_MONOTONIC, &a);
    nvme_pcie_hold(addr);
    is_live = false;
    done = 0;
    open_driver(url);
    submit_req(0);
    while (!done)
        progress();
    printf("%.0f\n", 1e6 * seconds_since(&a));
    nvme_ctrlr_destroy(ctrlr);
    nvme_pcie_release(addr);
}

static int attach_all(long rounds, const char *addr)
{
    is_asleep = true;
    for (long i = 0; i < rounds; i++)
        attach(addr ? addr : ADDR);
    plx_reactor_destroy(reactor);
    if (!addr)
        pcie_model_free(model);
    return 0;
}

int main(int argc, char **argv)
{
    struct plx_bdev *disk = NULL;
    const char *what = argc > 1 ? argv[1] : "", *addr = argc == 4 ? argv[3] : NULL;
    const bool block = !strcmp(what, "block"), attaches = !strcmp(what, "attach");
    is_none = !strcmp(what, "none");
    const long rounds = argc == 3 || (argc == 4 && attaches) ? strtol(argv[2], NULL, 10) : 0;
    if (rounds < 1 || (!block && !is_none && !attaches && strcmp(what, "driver") != 0)) {
        fprintf(stderr, "usage: pcie_cost none|driver|block ROUNDS\n       pcie_cost attach ROUNDS [ADDR]\n");
        return 2;
    }
    uint8_t *data = mmap(NULL, DEPTH * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    plx_memory_add(data, DEPTH * BYTES);
    for (unsigned i = 0; i < DEPTH; i++)
        iovs[i] = (struct iovec){data + (size_t)i * BYTES, BYTES};
    if (!addr) {
        pci_open = pcie_model_open;
        model = pcie_model_new(NULL);
        pcie_model_start_thread(model);
    }
    const struct plx_reactor_opts opts = {.core = -1, .mode = attaches ? PLX_POLL_SLEEP : PLX_POLL_ADAPTIVE};
    if (plx_reactor_create(&reactor, &opts))
        return 1;
    if (attaches)
        return attach_all(rounds, addr);
    nvme_pcie_hold(ADDR);
    if (block)
        disk = open_block();
    else
        open_driver(URL);
    pcie_model_stop_thread(model);
    struct timespec a;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (long i = 0; i < rounds; i++)
        cost_round();
    printf("%.0f\n", (double)rounds * DEPTH / seconds_since(&a));
    pcie_model_start_thread(model);
    if (block) {
        plx_bdev_channel_put(channel);
        plx_bdev_close(disk);
    } else {
        nvme_ctrlr_destroy(ctrlr);
    }
    plx_reactor_destroy(reactor);
    nvme_pcie_release(ADDR);
    pcie_model_free(model);
    return 0;
}
