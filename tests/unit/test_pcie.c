/* SPDX-License-Identifier: BSD-3-Clause */
/* SSDs that are driven from user space: disks over a model of their controller, in plain memory. */
#include "bdev_util.h"
#include "nvme/nvme.h"
#include "pcie_model.h"
#include "reactor/guard.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pollux/nvme.h>
#include <pollux/nvme_status.h>
#include <pollux/reactor.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ADDR "0000:01:00.0"
#define URL "pcie://" ADDR "/1"

enum { BLOCK = 512, DISK_BLOCKS = (64 << 20) / BLOCK };

/* ---- a disk over a model that runs ---- */

struct ssd {
    struct pcie_model_opts opts;
    struct pcie_model *m;
    struct tu t;
};

static void ssd_make(struct ssd *s)
{
    pci_open = pcie_model_open;
    s->m = pcie_model_new(&s->opts);
    pcie_model_start_thread(s->m);
}

static void ssd_open(struct ssd *s)
{
    ssd_make(s);
    tu_open(&s->t, URL);
}

static void assert_no_complaints(struct ssd *s)
{
    if (pcie_model_complaints(s->m))
        fail_msg("the controller complains: %s", pcie_model_complaint(s->m, 0));
}

static void ssd_free(struct ssd *s)
{
    assert_false(pcie_model_is_open(s->m));
    assert_no_complaints(s);
    pcie_model_free(s->m);
}

static void ssd_close(struct ssd *s)
{
    tu_close(&s->t);
    ssd_free(s);
}

/* ---- data ---- */

/* Memory of pages, which is known or not. */
static uint8_t *memory_new(size_t bytes, bool known)
{
    uint8_t *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(m, MAP_FAILED);
    if (known)
        plx_memory_add(m, bytes);
    return m;
}

static void memory_free(uint8_t *m, size_t bytes)
{
    plx_memory_remove(m);
    munmap(m, bytes);
}

static void fill(uint8_t *p, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i += 4) {
        uint32_t v = tu_random(&seed);
        memcpy(p + i, &v, 4);
    }
}

/* Writes and reads one transfer from these places in memory, and looks at the medium. */
static void transfer(struct ssd *s, uint8_t *from, uint8_t *to, uint64_t lba, uint32_t nlb)
{
    const size_t bytes = (size_t)nlb * BLOCK;
    uint8_t *medium = malloc(bytes);
    fill(from, bytes, lba + nlb);
    memset(to, 0, bytes);
    assert_int_equal(tu_io(&s->t, PLX_BDEV_WRITE, lba, nlb, from), 0);
    pcie_model_peek(s->m, 1, lba * BLOCK, medium, bytes);
    assert_memory_equal(medium, from, bytes);
    assert_int_equal(tu_io(&s->t, PLX_BDEV_READ, lba, nlb, to), 0);
    assert_memory_equal(from, to, bytes);
    free(medium);
}

/* One block to several commands' worth, at the pages' beginning and anywhere. */
static void check_transfers(struct ssd *s, bool known)
{
    static const uint32_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 64, 255, 256, 257, 1024, 2048, 2500, 5000};
    const size_t bytes = 8 << 20;
    uint8_t *m = memory_new(bytes, known);
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (unsigned at = 0; at < 4096; at += 508)
            transfer(s, m + at, m + bytes / 2 + 4096 - at, i * 5000, sizes[i]);
    memory_free(m, bytes);
}

static void what_is_written_is_read(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    (void)state;
    ssd_open(&s);
    assert_int_equal(s.t.info->blocks, DISK_BLOCKS);
    assert_int_equal(s.t.info->block_size, BLOCK);
    check_transfers(&s, true);
    check_transfers(&s, false);
    ssd_close(&s);
}

/* Pages of the controller's may be larger than the machine's; doorbells further apart; queues smaller. */
static void other_controllers_are_driven_too(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        struct ssd s = {.opts = pcie_model_defaults};
        if (i == 0)
            s.opts.mpsmin = s.opts.mpsmax = 4;
        if (i == 1)
            s.opts.dstrd = 3;
        if (i == 2)
            s.opts.mqes = 3;
        if (i == 3)
            s.opts.sgls = 0;
        if (i == 4)
            s.opts.oacs |= PCIE_MODEL_OACS_DBBUF;
        ssd_open(&s);
        check_transfers(&s, true);
        ssd_close(&s);
    }
}

static void pieces(struct ssd *s, uint8_t *m, const size_t *lengths, unsigned n)
{
    struct tu_req q;
    uint8_t back[64 << 10];
    size_t at = 0, total = 0;
    tu_req_init(&q);
    tu_start(&s->t, &q, PLX_BDEV_FLUSH, 0, 0, NULL);
    assert_int_equal(tu_finish(&s->t, &q), 0);
    for (unsigned i = 0; i < n; i++) {
        q.iov[i] = (struct iovec){m + at, lengths[i]};
        fill(m + at, lengths[i], i + 1);
        at += lengths[i] + 4096; /* apart */
        total += lengths[i];
    }
    q.done = 0;
    q.req->op = PLX_BDEV_WRITE;
    q.req->lba = 77;
    q.req->nlb = (uint32_t)(total / BLOCK);
    q.req->iovcnt = n;
    plx_bdev_submit(s->t.ch, q.req);
    assert_int_equal(tu_finish(&s->t, &q), 0);
    pcie_model_peek(s->m, 1, 77 * BLOCK, back, total);
    for (unsigned i = 0; i < n; total = 0, i++) {
        assert_memory_equal(back + (i ? at : 0), q.iov[i].iov_base, lengths[i]);
        at = (i ? at : 0) + lengths[i];
    }
    tu_req_free(&q);
}

/* As PRPs where they are pages, as SGLs where the controller takes them, and copied else. */
static void data_may_lie_in_pieces(void **state)
{
    static const size_t pages[] = {4096, 8192, 4096}, odd[] = {100, 412, 1024, 512}, dwords[] = {1000, 24, 4096, 512};
    (void)state;
    for (unsigned sgls = 0; sgls <= 2; sgls++) {
        for (unsigned known = 0; known < 2; known++) {
            struct ssd s = {.opts = pcie_model_defaults};
            s.opts.sgls = sgls;
            ssd_open(&s);
            uint8_t *m = memory_new(1 << 20, known);
            pieces(&s, m, pages, 3);
            pieces(&s, m + 512, odd, 4);
            pieces(&s, m + 3, odd, 4);
            pieces(&s, m + 8, dwords, 4);
            memory_free(m, 1 << 20);
            ssd_close(&s);
        }
    }
}

/* One that does not take the SGLs that it says it takes, and one that wants to be left alone at first. */
static void quirks_are_known(void **state)
{
    static const size_t odd[] = {100, 412, 1024, 512};
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct ssd s = {.opts = pcie_model_defaults};
        s.opts.sgls = 1;
        s.opts.max_sgl = 1; /* it takes none that has two */
        s.opts.vendor = i ? 0x144d : 0x19e5;
        s.opts.device = i ? 0xa821 : 0x1234;
        ssd_open(&s);
        uint8_t *m = memory_new(1 << 20, true);
        if (!i)
            pieces(&s, m + 512, odd, 4);
        memory_free(m, 1 << 20);
        ssd_close(&s);
    }
}

/* One whose registers are not there for a while after a reset, and whose queues are to be long. */
static void one_that_is_slow_after_a_reset_is_left_alone(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    (void)state;
    s.opts.asleep = UINT_MAX; /* longer than anybody takes */
    s.opts.mqes = 2047;
    ssd_make(&s);
    tu_refused(URL, "it does not answer: its registers read as ones");
    ssd_free(&s);
    s.opts.asleep = 100000; /* less than the rest that it is given */
    s.opts.vendor = 0x8086;
    s.opts.device = 0x0a54;
    ssd_open(&s);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(pcie_model_entries(s.m, 1), 1024);
    assert_int_equal(pcie_model_entries(s.m, 0) % 64, 0); /* else some do not take it */
    assert_true(pcie_model_entries(s.m, 0));
    ssd_close(&s);
    s.opts.device = 0x0a55; /* which is not slow */
    s.opts.asleep = 0;
    s.opts.mqes = 255; /* it takes no longer ones */
    ssd_open(&s);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(pcie_model_entries(s.m, 1), 256);
    ssd_close(&s);
}

static void check_boundary(const struct pcie_model_opts *opts, uint32_t boundary)
{
    const struct {
        uint32_t lba, nlb, commands;
    } cases[] = {{0, boundary, 1},     {boundary, boundary, 1}, {1, boundary, 2},
                 {boundary - 1, 2, 2}, {7, 3 * boundary, 4},    {2 * boundary - 8, 8, 1}};
    struct ssd s = {.opts = *opts};
    uint8_t *m = memory_new(1 << 20, true);
    ssd_open(&s);
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const unsigned writes = pcie_model_count(s.m, 1, 0x01), reads = pcie_model_count(s.m, 1, 0x02);
        transfer(&s, m + 512, m + (1 << 19) + 12, cases[i].lba, cases[i].nlb);
        assert_int_equal(pcie_model_count(s.m, 1, 0x01), writes + cases[i].commands);
        assert_int_equal(pcie_model_count(s.m, 1, 0x02), reads + cases[i].commands);
    }
    assert_int_equal(tu_io(&s.t, PLX_BDEV_WRITE_ZEROES, 1, 3 * boundary, NULL), 0); /* in which there is no data */
    assert_int_equal(pcie_model_count(s.m, 1, 0x08), 1);
    ssd_close(&s);
    memory_free(m, 1 << 20);
}

/* NOIOB, and devices that should have said it. */
static void transfers_do_not_cross_what_they_had_best_not(void **state)
{
    struct pcie_model_opts o = pcie_model_defaults;
    (void)state;
    o.ns[0].noiob = 32;
    check_boundary(&o, 32);
    o.ns[0].noiob = 24;
    check_boundary(&o, 24);
    o.ns[0].noiob = 0;
    o.vendor = 0x8086;
    o.device = 0x0953;
    o.mdts = 3;
    check_boundary(&o, 64);
}

/* Classes of queues, where the controller has them; and what it is told of them. */
static void queues_have_priorities(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    struct tu other;
    (void)state;
    s.opts.nns = 2;
    s.opts.ns[1] = s.opts.ns[0];
    s.opts.ns[1].nsid = 2;
    s.opts.weighted = true;
    ssd_make(&s);
    tu_open(&s.t, URL "?arbitration_burst=3&low_priority_weight=1&medium_priority_weight=7&high_priority_weight=31");
    uint8_t *m = memory_new(4096, true);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
    assert_int_equal(pcie_model_feature(s.m, 1), 0x1f070103);
    assert_int_equal(pcie_model_priority(s.m, 1), 0);
    tu_open(&other, "pcie://" ADDR "/2?priority=low");
    assert_int_equal(tu_io(&other, PLX_BDEV_READ, 0, 8, m), 0);
    assert_int_equal(pcie_model_priority(s.m, 2), 3);
    pcie_model_fail(s.m); /* a controller that was reset is told again, whoever is there first */
    while (pcie_model_enables(s.m) < 2 || pcie_model_queues(s.m) < 2) {
        tu_turn(s.t.reactor);
        tu_turn(other.reactor);
    }
    assert_int_equal(pcie_model_feature(s.m, 1), 0x1f070103);
    assert_true(pcie_model_priority(s.m, 1) + pcie_model_priority(s.m, 2) == 3);
    memory_free(m, 4096);
    tu_close(&other);
    ssd_close(&s);
}

/* With no classes there is the burst alone; without either nothing is said. */
static void a_controller_without_priorities_has_none(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct ssd s = {.opts = pcie_model_defaults};
        ssd_make(&s);
        tu_open(&s.t, i ? URL : URL "?arbitration_burst=2&high_priority_weight=9&priority=high");
        uint8_t *m = memory_new(4096, true);
        assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
        memory_free(m, 4096);
        assert_int_equal(pcie_model_feature(s.m, 1), i ? 7 : 0x09000002);
        assert_int_equal(pcie_model_count(s.m, 0, 0x09), i ? 2 : 3);
        assert_int_equal(pcie_model_priority(s.m, 1), -1);
        ssd_close(&s);
    }
}

/* What may be locked is less than what there is: then data is copied, and queues still find room. */
static void memory_that_cannot_be_reached_is_copied(void **state)
{
    static const struct pci_range ranges[] = {{0x1000, 0xfedfffff}, {0xfef00000, (UINT64_C(1) << 39) - 1}};
    struct ssd s = {.opts = pcie_model_defaults};
    (void)state;
    s.opts.iommu = pcie_model_iommu_new(ranges, 2, 0);
    s.opts.iommu->limit = 8 << 20;
    ssd_open(&s);
    check_transfers(&s, true);
    ssd_close(&s);
    pcie_model_iommu_free(s.opts.iommu);
}

/* What is known of memory begins, or ends, within the data. */
static void data_that_is_known_in_part_is_copied(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    uint8_t *m = memory_new(1 << 20, false), *known = m + (256 << 10), *end = known + (256 << 10);
    uint8_t *middle = known + (128 << 10);
    (void)state;
    plx_memory_add(known, (size_t)(end - known));
    ssd_open(&s);
    transfer(&s, middle, middle + 4096, 0, 2);
    transfer(&s, known - 512, middle, 10, 2);
    transfer(&s, middle, known - 512, 20, 2);
    transfer(&s, end - 512, middle, 30, 2);
    transfer(&s, middle, end - 512, 40, 2);
    ssd_close(&s);
    plx_memory_remove(known);
    munmap(m, 1 << 20);
}

/* Pieces that lie one after the other, here and for the SSD. */
static void data_in_two_pieces_that_are_one_is_not_copied(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    const size_t piece = 256 << 10;
    uint8_t *m = memory_new(2 * piece, false), *middle = m + piece;
    (void)state;
    s.opts.iommu = pcie_model_iommu_new(NULL, 0, 0);
    ssd_open(&s);
    plx_memory_add(m, piece);
    plx_memory_add(middle, piece);
    transfer(&s, m, middle, 0, 32); /* queues are there */
    const unsigned maps = s.opts.iommu->nmaps;
    transfer(&s, middle - 8192, m, 0, 32);
    assert_int_equal(s.opts.iommu->nmaps, maps); /* there is no memory to copy to */
    plx_memory_remove(m);
    transfer(&s, middle - 8192, m, 0, 32);
    assert_int_equal(s.opts.iommu->nmaps, maps); /* one less, and one to copy to */
    ssd_close(&s);
    plx_memory_remove(middle);
    munmap(m, 2 * piece);
    pcie_model_iommu_free(s.opts.iommu);
}

/* ---- a queue that is closed while its completions are taken ---- */

struct closing {
    struct plx_reactor *r;
    struct nvme_ctrlr *c;
    struct nvme_req reqs[2];
    unsigned done;
    bool live;
};

static void closing_live(struct nvme_ctrlr *c, void *arg)
{
    (void)c;
    ((struct closing *)arg)->live = true;
}

static void closing_down(struct nvme_ctrlr *c, void *arg)
{
    (void)c;
    ((struct closing *)arg)->live = false;
}

static void closing_failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    (void)c, (void)arg, (void)ret, (void)again;
    fail_msg("%s", why);
}

static void first_closes(struct nvme_req *req)
{
    struct closing *k = plx_container_of(req, struct closing, reqs[0]);
    k->done++;
    nvme_ctrlr_reset(k->c);
}

static void second_ends(struct nvme_req *req)
{
    plx_container_of(req, struct closing, reqs[1])->done++;
}

static void what_is_behind_a_completion_that_closes_the_queue_is_lost(void **state)
{
    static const struct nvme_ctrlr_ops ops = {
        .live = closing_live, .down = closing_down, .failed = closing_failed, .ana = closing_live};
    struct ssd s = {.opts = pcie_model_defaults};
    struct closing k = {.live = false};
    struct nvme_where where;
    (void)state;
    ssd_make(&s);
    assert_int_equal(nvme_where_parse(&where, URL, NULL), 0);
    const struct nvme_opts opts = nvme_where_opts(&where, 0);
    assert_int_equal(plx_reactor_create(&k.r, NULL), 0);
    assert_int_equal(nvme_pcie_hold(ADDR), 0);
    assert_int_equal(nvme_ctrlr_create(k.r, &opts, &ops, &k, &k.c), 0);
    nvme_ctrlr_start(k.c, false);
    while (!k.live)
        plx_reactor_poll(k.r);
    pcie_model_stop_thread(s.m);
    for (unsigned i = 0; i < 2; i++) {
        k.reqs[i] = (struct nvme_req){.done = i ? second_ends : first_closes,
                                      .cmd = {.opcode = NVME_IO_FLUSH, .nsid = plx_put32(1)}};
        nvme_submit(k.c, &k.reqs[i]);
    }
    plx_reactor_poll(k.r);
    assert_int_equal(pcie_model_complete_all(s.m, 1), 2);
    while (!k.done)
        plx_reactor_poll(k.r);
    assert_int_equal(k.done, 1);
    assert_false(k.reqs[0].lost);
    pcie_model_start_thread(s.m);
    while (k.done < 2 || !k.live) /* and it is made anew */
        plx_reactor_poll(k.r);
    assert_true(k.reqs[1].lost);
    nvme_ctrlr_destroy(k.c);
    plx_reactor_destroy(k.r);
    nvme_pcie_release(ADDR);
    ssd_free(&s);
}

/* ---- operations ---- */

static void what_the_controller_can_do_is_done_by_it(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    uint8_t *m = memory_new(1 << 20, true);
    uint8_t back[4096];
    (void)state;
    s.opts.oncs = PCIE_MODEL_ONCS_COMPARE | PCIE_MODEL_ONCS_DSM | PCIE_MODEL_ONCS_WRITE_ZEROES | PCIE_MODEL_ONCS_COPY;
    s.opts.fuses = 1;
    ssd_open(&s);
    fill(m, 8192, 1);
    assert_int_equal(tu_io_flags(&s.t, PLX_BDEV_WRITE, PLX_BDEV_FUA, 0, 8, m), 0);
    assert_int_equal(pcie_model_fua(s.m), 1);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(pcie_model_count(s.m, 1, 0x00), 1);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_COMPARE, 0, 8, m), 0);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_COMPARE, 1, 8, m), PLX_SC_COMPARE_FAILURE);
    assert_int_equal(pcie_model_count(s.m, 1, 0x05), 2);
    assert_int_equal(tu_copy(&s.t, 100, 0, 8), 0);
    assert_int_equal(pcie_model_count(s.m, 1, 0x19), 1);
    pcie_model_peek(s.m, 1, 100 * BLOCK, back, 4096);
    assert_memory_equal(back, m, 4096);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_WRITE_ZEROES, 100, 4, NULL), 0);
    pcie_model_peek(s.m, 1, 100 * BLOCK, back, 4096);
    assert_true(tu_zeroed(back, 2048));
    assert_memory_equal(back + 2048, m + 2048, 2048);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_UNMAP, 104, 4, NULL), 0);
    assert_int_equal(pcie_model_count(s.m, 1, 0x09), 1);
    memcpy(m + 4096, m, 4096);
    fill(m + 4096, 4096, 9);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_COMPARE_AND_WRITE, 0, 1, m), 0);
    ssd_close(&s);
    memory_free(m, 1 << 20);
}

enum { READ_COMMAND = 0x02, VERIFY_COMMAND = 0x0c };

/* By the command, as long as the controller takes it; by reads where there is none, or it is refused. */
static void what_is_verified_is_so_by_the_controller(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    const struct pcie_model_fault bad = {
        .kind = PCIE_MODEL_STATUS, .qid = PCIE_MODEL_IO, .opcode = VERIFY_COMMAND, .value = 0x4281, .skip = 2};
    const struct pcie_model_fault none = {
        .kind = PCIE_MODEL_STATUS, .qid = PCIE_MODEL_IO, .opcode = VERIFY_COMMAND, .value = 0x4001};
    (void)state;
    s.opts.vsl = 3; /* 32 KiB: 64 blocks */
    s.opts.ns[0].noiob = 8;
    ssd_open(&s);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_VERIFY, 3, 64, NULL), 0);
    assert_int_equal(pcie_model_count(s.m, 1, VERIFY_COMMAND), 1);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_VERIFY, 3, 1000, NULL), 0);
    assert_int_equal(pcie_model_count(s.m, 1, VERIFY_COMMAND), 17);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_VERIFY, DISK_BLOCKS - 1, 2, NULL), PLX_SC_LBA_OUT_OF_RANGE);
    pcie_model_fault(s.m, &bad);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_VERIFY, 0, 1000, NULL), PLX_SC_UNRECOVERED_READ_ERROR);
    assert_int_equal(pcie_model_count(s.m, 1, READ_COMMAND), 0);
    pcie_model_fault(s.m, &none);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_VERIFY, 0, 64, NULL), 0);
    assert_int_equal(pcie_model_count(s.m, 1, READ_COMMAND), 8);
    ssd_close(&s);
    s.opts.oncs &= ~(unsigned)PCIE_MODEL_ONCS_VERIFY;
    ssd_open(&s);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_VERIFY, 0, 64, NULL), 0);
    assert_int_equal(pcie_model_count(s.m, 1, VERIFY_COMMAND), 0);
    assert_int_equal(pcie_model_count(s.m, 1, READ_COMMAND), 8);
    ssd_close(&s);
}

/* ---- its identity ---- */

static void it_is_identified(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    struct plx_error err;
    struct plx_nvme *n;
    uint8_t page[PLX_NVME_IDENTIFY_BYTES], log[512];
    (void)state;
    s.opts.serial = "A SERIAL";
    ssd_make(&s);
    assert_int_equal(plx_nvme_connect("pcie://01:00.0", &n, &err), 0);
    assert_int_equal(plx_nvme_identify(n, 1, 0, page, &err), 0);
    assert_memory_equal(page + 4, "A SERIAL  ", 10);
    assert_int_equal(plx_nvme_get_log(n, 2, 0, 0xffffffff, 0, log, sizeof log, &err), 0);
    plx_nvme_disconnect(n);
    ssd_free(&s);
}

/* Also while it is in use. */
static void it_is_identified_while_it_is_a_disk(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    struct plx_error err;
    struct plx_nvme *n;
    uint8_t page[PLX_NVME_IDENTIFY_BYTES];
    (void)state;
    ssd_open(&s);
    assert_int_equal(plx_nvme_connect(URL, &n, &err), 0);
    assert_int_equal(plx_nvme_identify(n, 1, 0, page, &err), 0);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    plx_nvme_disconnect(n);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(pcie_model_enables(s.m), 1);
    ssd_close(&s);
}

static void what_cannot_be_opened_gets_a_sentence(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    (void)state;
    tu_refused("pcie://01:00", "is named like pcie://0000:01:00.0/1");
    tu_refused("pcie://0000:01:00.0/0", "have numbers from 1 on");
    tu_refused("pcie://0000:01:00.8/1", "is named like");
    tu_refused(URL "?queues=2", "queues");
    tu_refused(URL "?priority=mine", "priority=mine: takes urgent, high, medium or low");
    tu_refused(URL "?arbitration_burst=8", "arbitration_burst=8: takes a number from 0 to 7");
    tu_refused(URL "?low_priority_weight=256", "low_priority_weight=256: takes a number from 0 to 255");
    s.opts.css = 0x80; /* administrative only */
    ssd_make(&s);
    tu_refused("pcie://0000:02:00.0/1", "");
    tu_refused(URL, "no NVM command set");
    ssd_free(&s);
    s.opts = pcie_model_defaults;
    s.opts.mqes = 1;
    ssd_make(&s);
    tu_refused(URL, "its queues hold 1 commands; at least 2 are needed");
    pcie_model_open_fails(s.m, -EACCES, "the group is another's");
    tu_refused(URL, ADDR ": the group is another's");
    ssd_free(&s);
    s.opts = pcie_model_defaults;
    s.opts.sqes = 0x77;
    ssd_make(&s);
    tu_refused(URL, "it wants queues with entries of 128 and 16 bytes; 64 and 16 are possible");
    ssd_free(&s);
    s.opts = pcie_model_defaults;
    s.opts.ns[0].blocks = 0;
    ssd_make(&s);
    tu_refused(URL, "has no namespace 1");
    ssd_free(&s);
}

/* Registers that could not be put something in the place of are not touched. */
static void too_many_mappings_get_a_sentence(void **state)
{
    static struct plx_guard *all[PLX_GUARDS];
    static uint8_t byte;
    static atomic_bool fault;
    struct ssd s = {.opts = pcie_model_defaults};
    unsigned n = 0;
    (void)state;
    ssd_make(&s);
    while (n < PLX_GUARDS && (all[n] = plx_guard_take(&byte, 1, false, &fault)))
        n++;
    tu_refused(URL, "16384 mappings that may be taken away are in use, as many as there can be");
    while (n)
        plx_guard_give(all[--n]);
    tu_open(&s.t, URL);
    ssd_close(&s);
}

/* Doorbells that are not in what is mapped, or not in the page of those in memory, are left alone. */
static void queues_have_doorbells(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    struct plx_bdev *bdev;
    struct tu two;
    uint8_t *m = memory_new(4096, true);
    (void)state;
    s.opts.oacs |= PCIE_MODEL_OACS_DBBUF;
    s.opts.dstrd = 7;
    ssd_open(&s);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
    assert_int_equal(pcie_model_count(s.m, 0, 0x7c), 0);
    ssd_close(&s);
    s.opts = pcie_model_defaults;
    s.opts.regs_bytes = 0x1000 + 4 * sizeof(uint32_t); /* of the admin queue, and one more */
    ssd_make(&s);
    tu_open(&s.t, URL "?reconnect_deadline=1");
    bdev = s.t.bdev;
    assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
    tu_join(&two, bdev);
    assert_int_equal(tu_io(&two, PLX_BDEV_READ, 0, 8, m), PLX_SC_INTERNAL_ERROR);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
    tu_leave(&two);
    ssd_close(&s);
    memory_free(m, 4096);
}

/* ---- queues in the controller's memory ---- */

static void check_queues(const struct pcie_model_opts *opts, const char *url, unsigned own)
{
    struct ssd s = {.opts = *opts};
    ssd_make(&s);
    tu_open(&s.t, url);
    check_transfers(&s, true);
    assert_int_equal(pcie_model_queues(s.m), 1);
    assert_int_equal(pcie_model_own_queues(s.m), own);
    assert_int_equal(nvme_pcie_reset(ADDR), 0);
    check_transfers(&s, true);
    assert_int_equal(pcie_model_own_queues(s.m), own);
    ssd_close(&s);
}

/* Where there is some, it is wanted, and the controller takes its addresses; through a reset as well. */
static void queues_may_be_in_the_controllers_memory(void **state)
{
    struct pcie_model_opts o = pcie_model_defaults;
    (void)state;
    check_queues(&o, URL "?cmb=1", 0);
    o.cmb_kib = 64;
    check_queues(&o, URL "?cmb=1", 1);
    check_queues(&o, URL, 0);
    o.cmb_kib = 8;
    check_queues(&o, URL "?cmb=1", 0); /* that is too little */
    check_queues(&o, URL "?cmb=1&depth=127", 1);
    o.cmb_kib = 64;
    o.cmb_elsewhere = true;
    check_queues(&o, URL "?cmb=1", 0);
    o.cmb_elsewhere = false;
    o.cmb_fixed = true;
    o.version = 0x10300;
    check_queues(&o, URL "?cmb=1", 1);
    o.oacs |= PCIE_MODEL_OACS_DBBUF;
    check_queues(&o, URL "?cmb=1&depth=2", 1);
}

/* What there is no room for is in the machine's memory; what is given back is there for the next one. */
static void the_controllers_memory_is_shared(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    struct tu two, three;
    uint8_t *m = memory_new(4096, true);
    (void)state;
    s.opts.cmb_kib = 24; /* two queues of 128 commands */
    ssd_make(&s);
    tu_open(&s.t, URL "?cmb=1");
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
        tu_join(&two, s.t.bdev);
        assert_int_equal(tu_io(&two, PLX_BDEV_READ, 0, 8, m), 0);
        tu_join(&three, s.t.bdev);
        assert_int_equal(tu_io(&three, PLX_BDEV_READ, 0, 8, m), 0);
        assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
        assert_int_equal(pcie_model_queues(s.m), 3);
        assert_int_equal(pcie_model_own_queues(s.m), 2);
        tu_leave(&three);
        tu_leave(&two);
        while (pcie_model_queues(s.m) > 1)
            usleep(1000);
    }
    ssd_close(&s);
    memory_free(m, 4096);
}

/* ---- several at once ---- */

static void reactors_have_queues_of_their_own(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    struct tu two;
    uint8_t *m = memory_new(1 << 20, true);
    (void)state;
    ssd_open(&s);
    tu_join(&two, s.t.bdev);
    for (unsigned i = 0; i < 50; i++) {
        fill(m, 4096, i);
        assert_int_equal(tu_io(i % 2 ? &s.t : &two, PLX_BDEV_WRITE, i * 8, 8, m), 0);
        assert_int_equal(tu_io(i % 2 ? &two : &s.t, PLX_BDEV_READ, i * 8, 8, m + 4096), 0);
        assert_memory_equal(m, m + 4096, 4096);
    }
    assert_int_equal(pcie_model_queues(s.m), 2);
    tu_leave(&two);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
    ssd_close(&s);
    memory_free(m, 1 << 20);
}

/* Not even after an interrupt for nothing, which came when nobody had the queue. */
static void an_idle_queue_wakes_nobody(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    struct pollfd p = {.events = POLLIN};
    struct tu_req q;
    uint8_t *m = memory_new(4096, true);
    (void)state;
    ssd_open(&s);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
    plx_bdev_channel_put(s.t.ch);
    while (pcie_model_queues(s.m))
        tu_turn(s.t.reactor);
    pcie_model_spurious(s.m, 1);
    assert_int_equal(plx_bdev_channel_get(s.t.bdev, s.t.reactor, &s.t.ch), 0);
    tu_req_init(&q);
    tu_start(&s.t, &q, PLX_BDEV_READ, 0, 8, m);
    while (!q.done)
        plx_reactor_poll(s.t.reactor);
    p.fd = plx_reactor_fd(s.t.reactor);
    while (plx_reactor_arm(s.t.reactor))
        plx_reactor_poll(s.t.reactor);
    assert_int_equal(poll(&p, 1, 0), 0);
    plx_reactor_poll(s.t.reactor);
    tu_req_free(&q);
    ssd_close(&s);
    memory_free(m, 4096);
}

/* ---- what does not last ---- */

/* One that does not answer, and is reset, is nothing to the other. */
static void controllers_are_apart(void **state)
{
    const struct pcie_model_fault hang = {.kind = PCIE_MODEL_HANG, .qid = PCIE_MODEL_IO, .opcode = 0x02};
    struct ssd hung = {.opts = pcie_model_defaults}, other = {.opts = pcie_model_defaults};
    struct tu_req q;
    struct plx_bdev *bdev;
    uint8_t *m = memory_new(1 << 20, true);
    (void)state;
    other.opts.addr = "0000:02:00.0";
    ssd_open(&hung);
    other.m = pcie_model_new(&other.opts);
    pcie_model_start_thread(other.m);
    tu_req_init(&q);
    pcie_model_fault(hung.m, &hang);
    tu_start(&hung.t, &q, PLX_BDEV_READ, 0, 8, m);
    assert_int_equal(plx_bdev_open("pcie://0000:02:00.0/1", &bdev, NULL), 0);
    other.t = hung.t; /* on the same reactor */
    other.t.bdev = bdev;
    assert_int_equal(plx_bdev_channel_get(bdev, other.t.reactor, &other.t.ch), 0);
    for (unsigned i = 0; i < 1000; i++) {
        fill(m + 4096, 4096, i);
        assert_int_equal(tu_io(&other.t, PLX_BDEV_WRITE, i * 8, 8, m + 4096), 0);
        assert_int_equal(tu_io(&other.t, PLX_BDEV_READ, i * 8, 8, m + 8192), 0);
        assert_memory_equal(m + 4096, m + 8192, 4096);
    }
    assert_int_equal(q.done, 0);
    pcie_model_fail(hung.m); /* which has it reset */
    assert_int_equal(tu_finish(&hung.t, &q), 0);
    assert_int_equal(pcie_model_enables(hung.m), 2);
    assert_int_equal(pcie_model_enables(other.m), 1);
    plx_bdev_channel_put(other.t.ch);
    plx_bdev_close(bdev);
    ssd_free(&other);
    tu_req_free(&q);
    ssd_close(&hung);
    memory_free(m, 1 << 20);
}

static unsigned count_files(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void coming_and_going_leaves_nothing(void **state)
{
    const char *cycles = getenv("POLLUX_CYCLES");
    const unsigned n = cycles ? (unsigned)strtoul(cycles, NULL, 10) : 20;
    struct ssd s = {.opts = pcie_model_defaults};
    uint8_t *m = memory_new(4096, true);
    unsigned files = 0;
    (void)state;
    ssd_make(&s);
    for (unsigned i = 0; i < n; i++) {
        tu_open(&s.t, URL);
        assert_int_equal(tu_io(&s.t, PLX_BDEV_READ, 0, 8, m), 0);
        tu_close(&s.t);
        assert_false(pcie_model_is_open(s.m));
        if (i == 1)
            files = count_files();
        if (i > 1)
            assert_int_equal(count_files(), files);
    }
    ssd_free(&s);
    memory_free(m, 4096);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(other_controllers_are_driven_too),
        cmocka_unit_test(data_may_lie_in_pieces),
        cmocka_unit_test(quirks_are_known),
        cmocka_unit_test(one_that_is_slow_after_a_reset_is_left_alone),
        cmocka_unit_test(transfers_do_not_cross_what_they_had_best_not),
        cmocka_unit_test(queues_have_priorities),
        cmocka_unit_test(a_controller_without_priorities_has_none),
        cmocka_unit_test(memory_that_cannot_be_reached_is_copied),
        cmocka_unit_test(data_that_is_known_in_part_is_copied),
        cmocka_unit_test(data_in_two_pieces_that_are_one_is_not_copied),
        cmocka_unit_test(what_is_behind_a_completion_that_closes_the_queue_is_lost),
        cmocka_unit_test(what_the_controller_can_do_is_done_by_it),
        cmocka_unit_test(what_is_verified_is_so_by_the_controller),
        cmocka_unit_test(it_is_identified),
        cmocka_unit_test(it_is_identified_while_it_is_a_disk),
        cmocka_unit_test(what_cannot_be_opened_gets_a_sentence),
        cmocka_unit_test(too_many_mappings_get_a_sentence),
        cmocka_unit_test(queues_have_doorbells),
        cmocka_unit_test(queues_may_be_in_the_controllers_memory),
        cmocka_unit_test(the_controllers_memory_is_shared),
        cmocka_unit_test(reactors_have_queues_of_their_own),
        cmocka_unit_test(an_idle_queue_wakes_nobody),
        cmocka_unit_test(controllers_are_apart),
        cmocka_unit_test(coming_and_going_leaves_nothing),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
