/* SPDX-License-Identifier: BSD-3-Clause */
/* Namespaces with metadata and protection information: disks over a model of their controller. */
#include "bdev_util.h"
#include "nvme/pcie.h"
#include "nvme/protect.h"
#include "pcie_model.h"

#include <pollux/bdev_nvme.h>
#include <pollux/nvme_status.h>
#include <pollux/reactor.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ADDR "0000:01:00.0"
#define URL "pcie://" ADDR "/1"
#define ALONE "?prchk_guard=0&prchk_reftag=0"

enum { BLOCKS = 8192, DATA = 4 << 20 };

/* ---- a disk over a model that runs ---- */

struct pid {
    struct pcie_model *m;
    struct pcie_model_ns ns;
    struct tu t;
    size_t block;
    uint8_t *data, *back; /* DATA bytes each */
};

static void pid_make(struct pid *d, const struct pcie_model_ns *ns)
{
    struct pcie_model_opts o = pcie_model_defaults;
    memset(d, 0, sizeof *d);
    d->ns = o.ns[0] = *ns;
    o.version = 0x00020000;
    o.ctratt = ns->pif || ns->sts ? PCIE_MODEL_CTRATT_ELBAS : 0;
    d->block = (size_t)1 << ns->block_bits;
    d->m = pcie_model_new(&o);
    pci_open = pcie_model_open;
    pcie_model_start_thread(d->m);
    d->data = mmap(NULL, 2 * (size_t)DATA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(d->data, MAP_FAILED);
    plx_memory_add(d->data, 2 * (size_t)DATA);
    d->back = d->data + DATA;
}

static void pid_free(struct pid *d)
{
    assert_false(pcie_model_is_open(d->m));
    if (pcie_model_complaints(d->m))
        fail_msg("the controller complains: %s", pcie_model_complaint(d->m, 0));
    pcie_model_free(d->m);
    plx_memory_remove(d->data);
    munmap(d->data, 2 * (size_t)DATA);
}

static void pid_open(struct pid *d, const struct pcie_model_ns *ns, const char *settings)
{
    char url[200];
    snprintf(url, sizeof url, URL "%s", settings);
    pid_make(d, ns);
    tu_open(&d->t, url);
}

static void pid_close(struct pid *d)
{
    tu_close(&d->t);
    pid_free(d);
}

/* ---- every format ---- */

static struct pcie_model_ns format(unsigned i)
{
    const unsigned type = i % 3 + 1, pif = i / 3 % 2 * 2, tuple = pif ? 16 : 8;
    return (struct pcie_model_ns){.nsid = 1,
                                  .blocks = BLOCKS,
                                  .block_bits = i / 6 % 2 ? 12 : 9,
                                  .metadata = (uint16_t)(i / 12 % 2 ? 64 : tuple),
                                  .interleaved = i / 24 % 2,
                                  .pi_first = i / 48 % 2,
                                  .pi = (uint8_t)type,
                                  .pif = (uint8_t)pif};
}

enum { FORMATS = 96 };

/* In case that one fails. */
static void describe(const struct pcie_model_ns *ns, const char *what)
{
    if (getenv("POLLUX_VERBOSE"))
        print_message("type %u, guards %u, blocks of 2^%u, metadata %u%s%s: %s\n", ns->pi, ns->pif, ns->block_bits,
                      ns->metadata, ns->interleaved ? ", interleaved" : "", ns->pi_first ? ", first" : "", what);
}

static uint64_t big(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    for (; n; n--)
        v = v << 8 | *p++;
    return v;
}

/* What lies on the medium: the data, and tuples that say so. */
static void check_medium(struct pid *d, uint64_t lba, uint32_t nlb, const uint8_t *data, uint16_t app)
{
    const unsigned guard = d->ns.pif ? 8 : 2, tuple = d->ns.pif ? 16 : 8;
    uint8_t block[4096], md[64];
    for (uint32_t i = 0; i < nlb; i++, data += d->block) {
        pcie_model_peek(d->m, 1, (lba + i) * d->block, block, d->block);
        assert_memory_equal(block, data, d->block);
        if (!d->ns.pi)
            continue;
        pcie_model_metadata(d->m, 1, lba + i, md);
        const uint8_t *at = md + (d->ns.pi_first ? 0 : d->ns.metadata - tuple);
        assert_true(tu_zeroed(md + (d->ns.pi_first ? tuple : 0), d->ns.metadata - tuple));
        assert_true(big(at, guard) == pcie_model_guard(d->m, 1, data, md));
        assert_int_equal(big(at + guard, 2), app);
        assert_true(big(at + guard + 2, tuple - guard - 2) == (d->ns.pi == 3 ? 0 : lba + i));
    }
}

static void check_transfers(struct pid *d, unsigned step)
{
    static const uint32_t sizes[] = {1, 2, 3, 8, 15, 16, 17, 100, 255, 256, 257, 900};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i += step) {
        const uint32_t nlb = (uint32_t)(sizes[i] * d->block > DATA ? DATA / d->block : sizes[i]);
        const uint64_t lba = 7 + i * 600;
        uint64_t seed = lba;
        for (size_t k = 0; k < nlb * d->block; k += 4)
            *(uint32_t *)(void *)(d->data + k) = tu_random(&seed);
        memset(d->back, 0, nlb * d->block);
        assert_int_equal(tu_io(&d->t, PLX_BDEV_WRITE, lba, nlb, d->data), 0);
        check_medium(d, lba, nlb, d->data, 0);
        assert_int_equal(tu_io(&d->t, PLX_BDEV_READ, lba, nlb, d->back), 0);
        assert_memory_equal(d->data, d->back, nlb * d->block);
    }
}

/* Everything else that can be asked of a disk; data of the first 8 blocks is known. */
static void check_operations(struct pid *d)
{
    const size_t n = 8 * d->block;
    memset(d->data, 0x5a, 2 * n);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_WRITE, 0, 8, d->data), 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_COMPARE, 0, 8, d->data), 0);
    d->data[n - 1] = 0;
    assert_int_equal(tu_io(&d->t, PLX_BDEV_COMPARE, 0, 8, d->data), PLX_SC_COMPARE_FAILURE);
    d->data[n - 1] = 0x5a;
    memset(d->data + n, 0xa5, n);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_COMPARE_AND_WRITE, 0, 8, d->data), 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_COMPARE_AND_WRITE, 0, 8, d->data), PLX_SC_COMPARE_FAILURE);
    assert_int_equal(tu_copy(&d->t, 100, 0, 8), 0);
    check_medium(d, 100, 8, d->data + n, 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_WRITE_ZEROES, 102, 3, NULL), 0);
    memset(d->data + n + 2 * d->block, 0, 3 * d->block);
    check_medium(d, 100, 8, d->data + n, 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_READ, 100, 8, d->back), 0);
    assert_memory_equal(d->back, d->data + n, n);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_UNMAP, 104, 2, NULL), 0);
    memset(d->data + n + 4 * d->block, 0, 2 * d->block);
    assert_int_equal(tu_io_flags(&d->t, PLX_BDEV_WRITE_ZEROES, PLX_BDEV_UNMAP_OK, 106, 1, NULL), 0);
    memset(d->data + n + 6 * d->block, 0, d->block);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_READ, 100, 8, d->back), 0);
    assert_memory_equal(d->back, d->data + n, n);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_VERIFY, 90, 100, NULL), 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_READ, BLOCKS - 100, 100, d->back), 0); /* never written */
    assert_true(tu_zeroed(d->back, 100 * d->block));
}

static void what_is_written_is_read_in_every_format(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FORMATS; i++) {
        struct pcie_model_ns ns = format(i);
        struct pid d;
        for (unsigned alone = 0; alone < 2; alone++) {
            describe(&ns, alone ? "by the controller alone" : "made and checked");
            pid_open(&d, &ns, alone ? ALONE : "");
            assert_int_equal(d.t.info->block_size, d.block);
            assert_int_equal(d.t.info->blocks, BLOCKS);
            check_transfers(&d, i % 7 == 0 ? 1 : 5);
            check_operations(&d);
            pid_close(&d);
        }
    }
}

static void metadata_need_not_be_protection_information(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        const struct pcie_model_ns ns = {
            .nsid = 1, .blocks = BLOCKS, .block_bits = 9, .metadata = i & 1 ? 8 : 256, .interleaved = i >> 1};
        struct pid d;
        pid_open(&d, &ns, "");
        check_transfers(&d, 1);
        check_operations(&d);
        pid_close(&d);
    }
}

/* In pieces, at odd addresses, and out of reach. */
static void data_may_lie_anywhere(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FORMATS; i += 5) {
        struct pcie_model_ns ns = format(i);
        struct pid d;
        struct tu_req q;
        uint8_t out[8192], medium[8192];
        pid_open(&d, &ns, i % 2 ? ALONE : "");
        tu_req_init(&q);
        tu_start(&d.t, &q, PLX_BDEV_FLUSH, 0, 0, NULL);
        assert_int_equal(tu_finish(&d.t, &q), 0);
        for (unsigned k = 0; k < sizeof out; k++)
            out[k] = d.data[k + 1] = (uint8_t)(k * 7 + i);
        q.iov[0] = (struct iovec){d.data + 1, 1000};
        q.iov[1] = (struct iovec){out + 1000, 3};
        q.iov[2] = (struct iovec){d.data + 1 + 1003, 8192 - 1003};
        q.done = 0;
        q.req->op = PLX_BDEV_WRITE;
        q.req->lba = 33;
        q.req->nlb = (uint32_t)(8192 / d.block);
        q.req->iovcnt = 3;
        plx_bdev_submit(d.t.ch, q.req);
        assert_int_equal(tu_finish(&d.t, &q), 0);
        check_medium(&d, 33, q.req->nlb, out, 0);
        pcie_model_peek(d.m, 1, 33 * d.block, medium, sizeof medium);
        assert_memory_equal(medium, out, sizeof out);
        q.done = 0;
        q.req->op = PLX_BDEV_READ;
        memset(d.data, 0, 8193);
        memset(out + 1000, 0, 3);
        plx_bdev_submit(d.t.ch, q.req);
        assert_int_equal(tu_finish(&d.t, &q), 0);
        assert_memory_equal(d.data + 1, medium, 1000);
        assert_memory_equal(out + 1000, medium + 1000, 3);
        assert_memory_equal(d.data + 1 + 1003, medium + 1003, 8192 - 1003);
        tu_req_free(&q);
        pid_close(&d);
    }
}

#if defined(__SANITIZE_THREAD__)
#define WATCHED true
#elif defined(__has_feature)
#define WATCHED __has_feature(thread_sanitizer)
#else
#define WATCHED false
#endif

static bool changing; /* atomic */

static void *change(void *arg)
{
    volatile uint8_t *p = arg;
    while (__atomic_load_n(&changing, __ATOMIC_RELAXED))
        for (unsigned i = 0; i < 4096; i += 64)
            p[i]++;
    return NULL;
}

/* As that of virtual machines may: what it holds is the guest's affair, but no error of the disk. */
static void memory_that_changes_meanwhile_is_no_error(void **state)
{
    (void)state;
    if (WATCHED)
        skip(); /* a race is what it is to be */
    for (unsigned pif = 0; pif <= 2; pif += 2) {
        const struct pcie_model_ns ns = {
            .nsid = 1, .blocks = BLOCKS, .block_bits = 12, .metadata = 16, .pi = 1, .pif = (uint8_t)pif};
        pthread_t thread;
        struct pid d;
        pid_open(&d, &ns, "");
        __atomic_store_n(&changing, true, __ATOMIC_RELAXED);
        assert_int_equal(pthread_create(&thread, NULL, change, d.data), 0);
        for (unsigned i = 0; i < 200; i++) {
            assert_int_equal(tu_io(&d.t, PLX_BDEV_WRITE, i, 1, d.data), 0);
            assert_int_equal(tu_io(&d.t, PLX_BDEV_READ, i, 1, d.data), 0);
        }
        __atomic_store_n(&changing, false, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        pid_close(&d);
    }
}

/* ---- beyond what a model has room for ---- */

static void reference_tags_have_32_or_48_bits(void **state)
{
    const uint64_t lba = 0x123456789abcd;
    struct nvme_ctrlr c = {.o = {.apptag = 5}};
    struct pcie_data d = {0};
    struct plx_error err;
    (void)state;
    c.ns.id.dps = 1;
    for (unsigned pif = 0; pif <= 2; pif += 2) {
        struct nvme_protection p;
        const unsigned metadata = pif ? 16 : 8;
        struct nvme_req req = {.cmd = {.opcode = NVME_IO_WRITE_ZEROES, .cdw12 = plx_put32(7)}};
        struct nvme_cmd cmd = {0};
        uint8_t block[512], back[512], md[16];
        const struct iovec from = {block, sizeof block};
        const struct nvme_protect_memory m = {back, md, 0, 0};
        uint32_t bad = 77;
        memset(block, 9, sizeof block);
        c.ns.id.lbaf[0] = plx_put32(9 << 16 | metadata);
        c.ns.elbaf = pif << 7;
        c.o.prchk_guard = c.o.prchk_reftag = true;
        assert_int_equal(nvme_protection_of(&c.ns, &c.o, &p, &err), 0);
        nvme_protect_write(&p, &m, (struct plx_iov_at){&from, 0}, lba, 1);
        assert_memory_equal(md + metadata - 6, pif ? "\x23\x45\x67\x89\xab\xcd" : "\0\5\x67\x89\xab\xcd", 6);
        assert_int_equal(nvme_protect_read(&p, &m, (struct plx_iov_at){&from, 0}, lba, 1, &bad), 0);
        assert_int_equal(nvme_protect_read(&p, &m, (struct plx_iov_at){&from, 0}, lba + (1ull << 47), 1, &bad),
                         pif ? 0x284 : 0);
        assert_int_equal(bad, pif ? 0 : 77);
        c.o.prchk_guard = c.o.prchk_reftag = false; /* without memory for metadata */
        assert_int_equal(pcie_protect_begin(&d, &c, 8), 0);
        req.cmd.cdw10 = plx_put32(lba);
        req.cmd.cdw11 = plx_put32(lba >> 32);
        pcie_protect_set_none(&d, &req, &cmd);
        assert_int_equal(plx_get32(cmd.cdw3), pif ? 0x2345 : 0);
        assert_int_equal(plx_get32(cmd.cdw14), 0x6789abcd);
        assert_int_equal(plx_get32(cmd.cdw12), 7 | 1 << 29);
        pcie_protect_end(&d);
    }
}

/* ---- what is wrong ---- */

/* A bit of a block that is another one; what reading all blocks around it ends with, and reading the others. */
static void check_flip(struct pid *d, unsigned byte, unsigned bit, uint16_t status)
{
    const unsigned found = pcie_model_media_errors(d->m), more = status && !d->ns.lax ? 2 : 0;
    memset(d->data, 0x33, 16 * d->block);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_WRITE, 50, 16, d->data), 0);
    pcie_model_flip(d->m, 1, 59, byte, bit);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_READ, 50, 16, d->back), status);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_READ, 50, 9, d->back), 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_READ, 60, 6, d->back), 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_COMPARE, 59, 1, d->data), status ? status : byte < d->block ? 0x285 : 0);
    assert_int_equal(pcie_model_media_errors(d->m), found + more);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_VERIFY, 50, 16, NULL), d->ns.lax ? 0 : status); /* the controller alone */
    assert_int_equal(tu_io(&d->t, PLX_BDEV_VERIFY, 50, 9, NULL), 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_WRITE, 59, 1, d->data), 0);
    assert_int_equal(tu_io(&d->t, PLX_BDEV_READ, 50, 16, d->back), 0);
}

static void check_flips(struct pid *d, bool guard, bool app, bool ref)
{
    const unsigned g = d->ns.pif ? 8 : 2, tuple = d->ns.pif ? 16 : 8;
    const unsigned at = (unsigned)d->block + (d->ns.pi_first ? 0 : d->ns.metadata - tuple);
    check_flip(d, 0, 0, guard ? 0x282 : 0);
    check_flip(d, (unsigned)d->block - 1, 7, guard ? 0x282 : 0);
    check_flip(d, at, 7, guard ? 0x282 : 0);
    check_flip(d, at + g - 1, 0, guard ? 0x282 : 0);
    check_flip(d, at + g, 4, app ? 0x283 : 0);
    check_flip(d, at + g + 2, 7, ref ? 0x284 : 0);
    check_flip(d, at + tuple - 1, 0, ref ? 0x284 : 0);
    if (d->ns.metadata > tuple) /* before the tuple it is covered, behind it it is nobody's */
        check_flip(d, (unsigned)d->block + (d->ns.pi_first ? 63 : 5), 1, guard && !d->ns.pi_first ? 0x282 : 0);
}

/* Found here, where the controller looks at nothing; by the controller, where it is told to; by either, by default. */
static void a_bit_that_is_wrong_is_found(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FORMATS; i++) {
        struct pcie_model_ns ns = format(i);
        const bool typed = ns.pi != 3;
        struct pid d;
        for (unsigned lax = 0; lax < 2; lax++) {
            ns.lax = lax;
            describe(&ns, lax ? "found here" : "found by the controller");
            pid_open(&d, &ns, "?apptag=4660");
            memset(d.data, 1, d.block);
            assert_int_equal(tu_io(&d.t, PLX_BDEV_WRITE, 9, 1, d.data), 0);
            check_medium(&d, 9, 1, d.data, 4660);
            check_flips(&d, true, true, typed);
            pid_close(&d);
        }
        ns.lax = false;
        pid_open(&d, &ns, ALONE);
        check_flips(&d, true, false, typed);
        pid_close(&d);
    }
}

static void what_is_not_to_be_checked_is_not(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FORMATS; i += 7) {
        struct pcie_model_ns ns = format(i);
        struct pid d;
        pid_open(&d, &ns, "?prchk_reftag=0");
        check_flips(&d, true, false, false);
        pid_close(&d);
        if (ns.pi == 3) /* nothing is left, and the controller does it */
            continue;
        pid_open(&d, &ns, "?prchk_guard=0");
        check_flips(&d, false, false, true);
        pid_close(&d);
    }
}

/* Application tags of ones: of type 3 reference tags, too. */
static void a_block_that_escapes_is_not_checked(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FORMATS; i += 5) {
        struct pcie_model_ns ns = format(i);
        struct pid d;
        const unsigned g = ns.pif ? 8 : 2, tuple = ns.pif ? 16 : 8;
        const unsigned at = (1u << ns.block_bits) + (ns.pi_first ? 0 : ns.metadata - tuple);
        ns.lax = true;
        pid_open(&d, &ns, "");
        memset(d.data, 0x77, d.block);
        assert_int_equal(tu_io(&d.t, PLX_BDEV_WRITE, 0, 1, d.data), 0);
        for (unsigned bit = 0; bit < 16; bit++)
            pcie_model_flip(d.m, 1, 0, at + g + bit / 8, bit % 8);
        pcie_model_flip(d.m, 1, 0, 3, 3);
        assert_int_equal(tu_io(&d.t, PLX_BDEV_READ, 0, 1, d.back), ns.pi == 3 ? 0x282 : 0);
        for (unsigned byte = g + 2; byte < tuple; byte++)
            for (unsigned bit = 0; bit < 8; bit++)
                if (ns.pi == 3)
                    pcie_model_flip(d.m, 1, 0, at + byte, bit);
        assert_int_equal(tu_io(&d.t, PLX_BDEV_READ, 0, 1, d.back), 0);
        assert_int_equal(d.back[3], 0x77 ^ 8);
        pid_close(&d);
    }
}

static void errors_are_counted(void **state)
{
    const struct pcie_model_ns ns = {.nsid = 1, .blocks = BLOCKS, .block_bits = 9, .metadata = 8, .pi = 1};
    struct plx_bdev_stats stats = {0};
    struct pid d;
    (void)state;
    pid_open(&d, &ns, "");
    check_flip(&d, 0, 0, 0x282);
    plx_bdev_get_stats(d.t.bdev, &stats);
    assert_int_equal(stats.failed[PLX_BDEV_READ], 1);
    assert_int_equal(stats.failed[PLX_BDEV_COMPARE], 1);
    assert_int_equal(stats.failed[PLX_BDEV_VERIFY], 1);
    assert_int_equal(stats.errors, 3);
    pid_close(&d);
}

/* ---- what it is, and what it cannot be ---- */

static void it_says_what_it_is(void **state)
{
    struct pcie_model_ns ns = format(4);
    struct plx_bdev_nvme_info info;
    struct pid d;
    (void)state;
    ns.pi_first = ns.interleaved = true;
    ns.metadata = 64;
    pid_open(&d, &ns, "?prchk_reftag=0");
    assert_true(plx_bdev_nvme_get_info(d.t.bdev, &info));
    assert_int_equal(info.md_size, 64);
    assert_int_equal(info.dif_type, 2);
    assert_int_equal(info.dif_guard_bits, 64);
    assert_true(info.md_interleave && info.dif_first && info.checks_guard);
    assert_false(info.checks_reftag || info.checks_apptag);
    pid_close(&d);
}

static void what_is_not_supported_gets_a_sentence(void **state)
{
    static const struct {
        struct pcie_model_ns ns;
        const char *word;
    } wrong[] = {
        {{.metadata = 16, .pi = 1, .pif = 1}, "namespace 1 has protection information with guards of 32 bits; 16 and"},
        {{.metadata = 16, .pi = 1, .pif = 3}, "guards of a kind that is not known"},
        {{.metadata = 16, .pi = 1, .pif = 2, .sts = 16}, "storage tags of 16 bits; format it without"},
        {{.metadata = 8, .pi = 1, .pif = 2}, "has metadata of 8 bytes, too few for its protection information"},
        {{.metadata = 8, .pi = 4}, "has protection information of type 4; 1, 2 and 3 are known"},
        {{.metadata = 512, .pi = 1}, "has metadata of 512 bytes a block; up to 256 are possible"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct pcie_model_ns ns = wrong[i].ns;
        struct pid d;
        ns.nsid = 1;
        ns.block_bits = 9;
        ns.blocks = BLOCKS;
        pid_make(&d, &ns);
        tu_refused(URL, wrong[i].word);
        pid_free(&d);
    }
    tu_refused(URL "?prchk_guard=2", "prchk_guard=2: the value is 0 or 1");
    tu_refused(URL "?prchk_reftag=x", "prchk_reftag=x: the value is 0 or 1");
    tu_refused(URL "?apptag=65535", "apptag=65535: takes a number from 0 to 65534");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_in_every_format),
        cmocka_unit_test(metadata_need_not_be_protection_information),
        cmocka_unit_test(data_may_lie_anywhere),
        cmocka_unit_test(memory_that_changes_meanwhile_is_no_error),
        cmocka_unit_test(reference_tags_have_32_or_48_bits),
        cmocka_unit_test(a_bit_that_is_wrong_is_found),
        cmocka_unit_test(what_is_not_to_be_checked_is_not),
        cmocka_unit_test(a_block_that_escapes_is_not_checked),
        cmocka_unit_test(errors_are_counted),
        cmocka_unit_test(it_says_what_it_is),
        cmocka_unit_test(what_is_not_supported_gets_a_sentence),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
