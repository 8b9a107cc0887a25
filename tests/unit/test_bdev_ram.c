/* SPDX-License-Identifier: BSD-3-Clause */
/* RAM and null disks, and what the core of the block layer checks for every disk. */
#include "bdev_util.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"

enum { KIB = 1024, MIB = 1024 * 1024 };

/* How much of a disk's memory there is; -1 when the kernel does not say. */
static int64_t resident_bytes(struct tu *t)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = t->info->blocks * t->info->block_size / page;
    const uint8_t *mem = plx_bdev_map(t->ch, 0, (uint32_t)t->info->blocks);
    unsigned char *in = malloc(pages);
    int64_t n = 0;
    if (mincore((void *)(uintptr_t)mem, pages * page, in) < 0)
        n = -1;
    for (size_t i = 0; n >= 0 && i < pages; i++)
        n += in[i] & 1 ? (int64_t)page : 0;
    free(in);
    return n;
}

static void what_is_written_is_read(void **state)
{
    static const char *const urls[] = {"ram:4M", "ram:4M?block=4096", "ram:4M?block=64K"};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct tu t;
        tu_open(&t, urls[i]);
        uint32_t b = t.info->block_size;
        uint8_t *in = tu_pattern(3 * b, (uint32_t)i + 1), *out = calloc(3, b);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 3, out), 0);
        assert_true(tu_zeroed(out, 3 * b));
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 5, 3, in), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 5, 3, out), 0);
        assert_memory_equal(in, out, 3 * b);
        assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
        const uint8_t *lent = plx_bdev_map(t.ch, 6, 2);
        assert_memory_equal(lent, in + b, 2 * b);
        free(in);
        free(out);
        tu_close(&t);
    }
}

static void data_may_be_in_pieces(void **state)
{
    (void)state;
    struct tu t;
    struct tu_req q;
    tu_open(&t, "ram:1M");
    tu_req_init(&q);
    uint8_t *in = tu_pattern(4096, 7), out[4096];
    q.iov[0] = (struct iovec){in, 100};
    q.iov[1] = (struct iovec){in + 100, 0};
    q.iov[2] = (struct iovec){in + 100, 1500};
    q.iov[3] = (struct iovec){in + 1600, 2496};
    q.req->iovcnt = 4;
    tu_start(&t, &q, PLX_BDEV_WRITE, 1, 8, NULL);
    assert_int_equal(tu_finish(&t, &q), 0);
    tu_start(&t, &q, PLX_BDEV_COMPARE, 1, 8, NULL);
    assert_int_equal(tu_finish(&t, &q), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 1, 8, out), 0);
    assert_memory_equal(in, out, 4096);
    tu_req_free(&q);
    free(in);
    tu_close(&t);
}

static void what_is_out_of_range_or_unknown_is_refused(void **state)
{
    (void)state;
    struct tu t;
    uint8_t buf[1024] = {0};
    tu_open(&t, "ram:1M");
    uint64_t end = t.info->blocks;
    assert_int_equal(end, 2048);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, end - 1, 1, buf), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, end - 1, 2, buf), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, end, 1, buf), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, UINT64_MAX, 1, buf), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, UINT64_MAX, 2, buf), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, UINT64_MAX, UINT32_MAX, buf), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 1, UINT32_MAX, NULL), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 0, buf), PLX_SC_INVALID_FIELD);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 1, 0, buf), PLX_SC_INVALID_FIELD);
    assert_int_equal(tu_io(&t, PLX_BDEV_OPS, 0, 1, buf), PLX_SC_INVALID_OPCODE);
    assert_int_equal(tu_io(&t, 255, 0, 1, buf), PLX_SC_INVALID_OPCODE);
    assert_int_equal(tu_copy(&t, 0, end - 1, 2), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(tu_copy(&t, end - 1, 0, 2), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(plx_bdev_check(t.bdev, PLX_BDEV_READ, end - 1, 1), 0);
    assert_int_equal(plx_bdev_check(t.bdev, PLX_BDEV_READ, end, 1), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(plx_bdev_check(t.bdev, PLX_BDEV_FLUSH, end, 0), 0);
    assert_int_equal(plx_bdev_check(t.bdev, PLX_BDEV_RESET, end, 0), 0);
    tu_close(&t);
}

static void statistics_outlive_channels(void **state)
{
    (void)state;
    struct tu t;
    uint8_t buf[2048] = {0};
    tu_open(&t, "ram:1M");
    tu_io(&t, PLX_BDEV_WRITE, 0, 4, buf);
    tu_io(&t, PLX_BDEV_READ, 0, 2, buf);
    tu_io(&t, PLX_BDEV_READ, 4096, 2, buf);
    tu_io(&t, PLX_BDEV_FLUSH, 0, 77, NULL);
    plx_bdev_count_mapped(t.ch, 3);
    for (int i = 0; i < 2; i++) {
        struct plx_bdev_stats s;
        memset(&s, 0, sizeof s);
        plx_bdev_get_stats(t.bdev, &s);
        assert_int_equal(s.ops[PLX_BDEV_WRITE], 1);
        assert_int_equal(s.blocks[PLX_BDEV_WRITE], 4);
        assert_int_equal(s.ops[PLX_BDEV_READ], 2);
        assert_int_equal(s.blocks[PLX_BDEV_READ], 5);
        assert_int_equal(s.ops[PLX_BDEV_FLUSH], 1);
        assert_int_equal(s.blocks[PLX_BDEV_FLUSH], 0);
        assert_int_equal(s.errors, 1);
        if (!i)
            tu_leave(&t);
    }
    plx_bdev_close(t.bdev);
}

static void a_reactor_has_one_channel_to_a_disk(void **state)
{
    (void)state;
    struct tu t;
    struct plx_bdev_channel *again;
    uint8_t buf[512];
    tu_open(&t, "ram:1M");
    assert_int_equal(plx_bdev_channel_get(t.bdev, t.reactor, &again), 0);
    assert_ptr_equal(again, t.ch);
    plx_bdev_channel_put(again);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, buf), 0); /* it is still there */
    assert_non_null(plx_bdev_map(t.ch, 0, 1));
    tu_close(&t);
}

static void zeroes_are_written_and_memory_given_back(void **state)
{
    (void)state;
    struct tu t;
    enum { SIZE = 64 * MIB };
    tu_open(&t, "ram:64M");
    uint8_t *in = tu_pattern(MIB, 1);
    for (uint64_t i = 0; i < SIZE / MIB; i++)
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, i * 2048, 2048, in), 0);
    int64_t full = resident_bytes(&t);
    const struct {
        enum plx_bdev_op op;
        uint8_t flags;
        uint64_t lba;
        uint32_t nlb;
    } cases[] = {
        {PLX_BDEV_WRITE_ZEROES, 0, 1, 1},
        {PLX_BDEV_WRITE_ZEROES, 0, 2047, 4098},
        {PLX_BDEV_WRITE_ZEROES, PLX_BDEV_UNMAP_OK, 8191, 16386},
        {PLX_BDEV_UNMAP, 0, 40001, 5},
        {PLX_BDEV_UNMAP, 0, 50001, 70001},
    };
    uint8_t *out = malloc(SIZE);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(cases); i++) {
        assert_int_equal(tu_io_flags(&t, cases[i].op, cases[i].flags, cases[i].lba, cases[i].nlb, NULL), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, SIZE / 512, out), 0);
        assert_true(tu_zeroed(out + cases[i].lba * 512, cases[i].nlb * 512));
        assert_memory_equal(out + (cases[i].lba - 1) * 512, in + (cases[i].lba - 1) * 512 % MIB, 512);
        uint64_t next = cases[i].lba + cases[i].nlb;
        assert_memory_equal(out + next * 512, in + next * 512 % MIB, 512);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 1, in), 0);
    }
    free(out);
    tu_io(&t, PLX_BDEV_UNMAP, 0, SIZE / 512 / 2, NULL);
    assert_true(full < 0 || (full == SIZE && resident_bytes(&t) <= SIZE / 2));
    free(in);
    tu_close(&t);
}

static void memory_is_taken_only_as_it_is_written(void **state)
{
    (void)state;
    struct tu t;
    uint8_t buf[4096] = {1};
    tu_open(&t, "ram:1G");
    assert_true(resident_bytes(&t) <= 0);
    tu_io(&t, PLX_BDEV_WRITE, 1000000, 8, buf);
    assert_true(resident_bytes(&t) <= 2 * MIB);
    tu_close(&t);
}

static void compare_and_write_writes_only_what_is_equal(void **state)
{
    (void)state;
    struct tu t;
    tu_open(&t, "ram:1M");
    uint8_t *in = tu_pattern(4096, 3), both[8192], out[4096];
    tu_io(&t, PLX_BDEV_WRITE, 8, 8, in);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 8, 8, in), 0);
    in[4095] ^= 1;
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 8, 8, in), PLX_SC_COMPARE_FAILURE);
    memcpy(both, in, 4096);
    memset(both + 4096, 0x77, 4096);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE_AND_WRITE, 8, 8, both), PLX_SC_COMPARE_FAILURE);
    both[4095] ^= 1;
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE_AND_WRITE, 8, 8, both), 0);
    tu_io(&t, PLX_BDEV_READ, 8, 8, out);
    assert_memory_equal(out, both + 4096, 4096);
    free(in);
    tu_close(&t);
}

static void copies_may_overlap(void **state)
{
    (void)state;
    struct tu a, b;
    tu_open(&a, "ram:1M");
    tu_check_copies(&a);
    tu_join(&b, a.bdev); /* now with locks */
    plx_reactor_poll(a.reactor);
    tu_check_copies(&b);
    tu_check_copies(&a);
    tu_leave(&b);
    tu_close(&a);
}

static void memory_is_lent_while_one_channel_is_alone(void **state)
{
    (void)state;
    struct tu a, b, c;
    uint8_t buf[512] = {1};
    tu_open(&a, "ram:1M");
    assert_non_null(plx_bdev_map(a.ch, 0, 1));

    tu_join(&b, a.bdev);
    assert_null(plx_bdev_map(a.ch, 0, 1));
    assert_null(plx_bdev_map(b.ch, 0, 1));
    /* The first may still be using what it was lent: until its next round the others wait. */
    assert_int_equal(tu_io(&b, PLX_BDEV_WRITE, 0, 1, buf), PLX_SC_COMMAND_INTERRUPTED);
    assert_int_equal(tu_io(&b, PLX_BDEV_READ, 0, 1, buf), PLX_SC_COMMAND_INTERRUPTED);
    tu_join(&c, a.bdev);
    assert_int_equal(tu_io(&c, PLX_BDEV_WRITE, 0, 1, buf), PLX_SC_COMMAND_INTERRUPTED);
    plx_reactor_poll(a.reactor);
    assert_int_equal(tu_io(&b, PLX_BDEV_WRITE, 0, 1, buf), 0);
    assert_int_equal(tu_io(&c, PLX_BDEV_READ, 0, 1, buf), 0);

    tu_leave(&a);
    assert_null(plx_bdev_map(b.ch, 0, 1));
    tu_leave(&c);
    assert_non_null(plx_bdev_map(b.ch, 0, 1)); /* alone again */
    b.bdev = a.bdev;
    tu_close(&b);
}

static void channels_opened_before_the_first_request_need_not_wait(void **state)
{
    (void)state;
    struct tu a, b;
    uint8_t buf[512] = {1};
    tu_open(&a, "ram:1M");
    tu_join(&b, a.bdev);
    assert_int_equal(tu_io(&b, PLX_BDEV_WRITE, 0, 1, buf), 0);
    assert_int_equal(tu_io(&a, PLX_BDEV_WRITE, 0, 1, buf), 0);
    assert_null(plx_bdev_map(a.ch, 0, 1));
    tu_leave(&b);
    tu_close(&a);
}

static void a_channel_may_go_while_others_wait_for_it(void **state)
{
    (void)state;
    struct tu a, b;
    uint8_t buf[512] = {1};
    tu_open(&a, "ram:1M");
    assert_non_null(plx_bdev_map(a.ch, 0, 1));
    tu_join(&b, a.bdev);
    tu_leave(&a); /* its reactor never ran again */
    assert_int_equal(tu_io(&b, PLX_BDEV_WRITE, 0, 1, buf), 0);
    tu_join(&a, b.bdev);
    tu_leave(&a);
    tu_close(&b);
}

/* ---- several reactors ---- */

enum { WORKERS = 2, ROUNDS = 3000, AREA = 4 };

struct worker {
    struct tu t;
    int number, torn;
    _Atomic bool stop;
    pthread_t thread;
};

/* Every block is written whole with one byte value; none may ever be seen with two. */
static void *write_and_read_blocks(void *arg)
{
    struct worker *w = arg;
    uint32_t b = w->t.info->block_size;
    uint8_t *buf = malloc(2 * AREA * b);
    uint64_t seed = (uint64_t)w->number;
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t nlb = 1 + tu_random(&seed) % 2;
        uint64_t lba = tu_random(&seed) % (AREA - 1), from = tu_random(&seed) % (AREA - 1);
        uint16_t status = 0;
        switch (tu_random(&seed) % 6) {
        case 0:
            for (uint32_t k = 0; k < nlb; k++)
                memset(buf + k * b, (int)tu_random(&seed), b);
            status = tu_io(&w->t, PLX_BDEV_WRITE, lba, nlb, buf);
            break;
        case 1:
            status = tu_copy(&w->t, lba, from, nlb);
            break;
        case 2:
            status = tu_io(&w->t, tu_random(&seed) % 2 ? PLX_BDEV_UNMAP : PLX_BDEV_WRITE_ZEROES, lba, nlb, NULL);
            break;
        case 3:
            memset(buf, 0, b);
            memset(buf + b, (int)tu_random(&seed), b);
            status = tu_io(&w->t, PLX_BDEV_COMPARE_AND_WRITE, lba, 1, buf);
            status = status == PLX_SC_COMPARE_FAILURE ? 0 : status;
            break;
        default:
            status = tu_io(&w->t, PLX_BDEV_READ, 0, AREA, buf);
            for (uint32_t k = 0; k < AREA; k++)
                w->torn += memcmp(buf + k * b, buf + k * b + 1, b - 1) != 0;
            break;
        }
        w->torn += status != 0;
    }
    free(buf);
    return NULL;
}

static void a_block_is_never_seen_torn(void **state)
{
    static const char *const urls[] = {"ram:4M?block=64K", "ram:4M?block=4096", "ram:4M"};
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(urls); i++) {
        struct worker w[WORKERS];
        memset(w, 0, sizeof w);
        tu_open(&w[0].t, urls[i]);
        for (int k = 1; k < WORKERS; k++)
            tu_join(&w[k].t, w[0].t.bdev);
        for (int k = 0; k < WORKERS; k++) {
            w[k].number = k;
            pthread_create(&w[k].thread, NULL, write_and_read_blocks, &w[k]);
        }
        for (int k = 0; k < WORKERS; k++)
            pthread_join(w[k].thread, NULL);
        for (int k = 0; k < WORKERS; k++)
            assert_int_equal(w[k].torn, 0);
        for (int k = 1; k < WORKERS; k++)
            tu_leave(&w[k].t);
        tu_close(&w[0].t);
    }
}

/* Adds one to a number on the disk, by nothing but compare and write of a block that takes its time. */
static void *increment(void *arg)
{
    struct worker *w = arg;
    uint32_t b = w->t.info->block_size;
    uint64_t *both = calloc(2, b);
    for (int i = 0; i < ROUNDS;) {
        both[b / 8] = both[0] + 1;
        uint16_t status = tu_io(&w->t, PLX_BDEV_COMPARE_AND_WRITE, 0, 1, both);
        i += status == 0;
        w->torn += status != 0 && status != PLX_SC_COMPARE_FAILURE;
        tu_io(&w->t, PLX_BDEV_READ, 0, 1, both);
    }
    free(both);
    return NULL;
}

static void compare_and_write_is_atomic_over_reactors(void **state)
{
    (void)state;
    struct worker w[WORKERS];
    uint64_t *block = calloc(1, 65536);
    memset(w, 0, sizeof w);
    tu_open(&w[0].t, "ram:4M?block=64K");
    tu_join(&w[1].t, w[0].t.bdev);
    for (int k = 0; k < WORKERS; k++)
        pthread_create(&w[k].thread, NULL, increment, &w[k]);
    for (int k = 0; k < WORKERS; k++) {
        pthread_join(w[k].thread, NULL);
        assert_int_equal(w[k].torn, 0);
    }
    assert_int_equal(tu_io(&w[0].t, PLX_BDEV_READ, 0, 1, block), 0);
    assert_int_equal(block[0], WORKERS * ROUNDS);
    free(block);
    tu_leave(&w[1].t);
    tu_close(&w[0].t);
}

/* Comes and goes while the other keeps writing: the change from one channel to two, and back. */
static void *keep_writing(void *arg)
{
    struct worker *w = arg;
    uint8_t *buf = malloc(65536);
    for (int i = 0; !atomic_load(&w->stop); i++) {
        memset(buf, i, 65536);
        w->torn += tu_io(&w->t, PLX_BDEV_WRITE, 0, 1, buf) != 0;
        const uint8_t *lent = plx_bdev_map(w->t.ch, 0, 1);
        w->torn += lent && memcmp(lent, lent + 1, 65535);
        plx_reactor_poll(w->t.reactor);
    }
    free(buf);
    return NULL;
}

static void a_newcomer_never_tears_what_is_lent(void **state)
{
    (void)state;
    struct worker w;
    memset(&w, 0, sizeof w);
    tu_open(&w.t, "ram:4M?block=64K");
    pthread_create(&w.thread, NULL, keep_writing, &w);
    uint8_t *buf = malloc(65536);
    int ok = 0;
    for (int i = 0; i < 200; i++) {
        struct tu b;
        tu_join(&b, w.t.bdev);
        for (int k = 0; k < 20 || !ok; k++) { /* however long the other takes to notice */
            memset(buf, k, 65536);
            uint16_t status = tu_io(&b, PLX_BDEV_WRITE, 0, 1, buf);
            assert_true(status == 0 || status == PLX_SC_COMMAND_INTERRUPTED);
            ok += !status;
        }
        tu_leave(&b);
    }
    atomic_store(&w.stop, true);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.torn, 0);
    free(buf);
    tu_close(&w.t);
}

/* ---- opening; the null disk ---- */

static void wrong_ram_and_null_disks_get_a_sentence(void **state)
{
    (void)state;
    tu_refused("ram:", "as in ram:1G");
    tu_refused("ram:lots", "as in ram:1G");
    tu_refused("ram:0", "from one block");
    tu_refused("ram:1000", "no multiple");
    tu_refused("ram:1M?block=100", "power of two");
    tu_refused("ram:1M?ro=1", "no setting ro=");
    tu_refused("ram:1M?ro=1", "block uuid");
    tu_refused("ram:1000T", "more than");
    tu_refused("null:", "as in null:1G");
    tu_refused("null:1000", "no multiple");
    tu_refused("null:1T?size=1", "no setting size=");
}

static void ram_disks_differ_from_start_to_start(void **state)
{
    (void)state;
    struct tu a, b;
    tu_open(&a, "ram:1M");
    tu_open(&b, "ram:1M");
    assert_memory_not_equal(a.info->uuid, b.info->uuid, 16);
    assert_string_equal(a.info->name, "ram:1M");
    assert_string_equal(a.info->driver, "ram");
    tu_close(&a);
    tu_close(&b);
}

static void origin_of(const char *url, uint8_t origin[16])
{
    struct tu t;
    tu_open(&t, url);
    memcpy(origin, t.info->origin, 16);
    tu_close(&t);
}

static void what_a_disk_was_asked_for_as_is_the_same_at_every_start(void **state)
{
    (void)state;
    static const char *const names[] = {"ram:1M",
                                        "null:1M",
                                        "ram:2M",
                                        "ram:1M?block=4096",
                                        "ram:1M?block=1024",
                                        "ram:1M?uuid=01234567-89ab-cdef-0123-456789abcdef",
                                        "ram:1M?uuid=01234567-89ab-cdef-0123-456789abcdee",
                                        "ram:1M?block=4096&uuid=01234567-89ab-cdef-0123-456789abcdef"};
    enum { N = sizeof names / sizeof names[0] };
    uint8_t origins[N][16], again[16];
    for (int i = 0; i < N; i++) {
        origin_of(names[i], origins[i]);
        origin_of(names[i], again);
        assert_memory_equal(origins[i], again, 16);
        for (int j = 0; j < i; j++)
            assert_memory_not_equal(origins[i], origins[j], 16);
    }
}

static void a_null_disk_reads_zeroes_and_forgets(void **state)
{
    (void)state;
    struct tu t;
    uint8_t *in = tu_pattern(4096, 1), *big = tu_pattern(2 * MIB, 2), two[8192] = {0};
    tu_open(&t, "null:1T");
    assert_true(t.info->undefined_reads && t.info->in_place);
    assert_int_equal(t.info->blocks, UINT64_C(1) << 31);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 8, in), 0);
    const uint8_t *lent = plx_bdev_map(t.ch, 0, 2048);
    assert_non_null(lent);
    assert_true(tu_zeroed(lent, MIB));
    assert_null(plx_bdev_map(t.ch, 0, 2049));
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 4096, big), 0); /* more than it lends: really zeroed */
    assert_true(tu_zeroed(big, 2 * MIB));
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 0, 8, in), PLX_SC_COMPARE_FAILURE);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 0, 8, two), 0);
    memcpy(two + 4096, in, 4096);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE_AND_WRITE, 0, 8, two), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 0, UINT32_MAX / 2, NULL), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_RESET, 0, 0, NULL), 0);
    assert_int_equal(tu_copy(&t, 0, 100, 8), 0);
    free(in);
    free(big);
    tu_close(&t);
}

static void each_kind_is_described_in_a_line(void **state)
{
    (void)state;
    const char *const *kinds = plx_bdev_kinds();
    int n = 0;
    while (kinds[n])
        assert_null(strchr(kinds[n++], '\n'));
    assert_int_equal(n, 11); /* file, ram, null, nvme+tcp, pcie, ng, vhost-user, delay, error, crash, volume */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(data_may_be_in_pieces),
        cmocka_unit_test(what_is_out_of_range_or_unknown_is_refused),
        cmocka_unit_test(statistics_outlive_channels),
        cmocka_unit_test(a_reactor_has_one_channel_to_a_disk),
        cmocka_unit_test(zeroes_are_written_and_memory_given_back),
        cmocka_unit_test(memory_is_taken_only_as_it_is_written),
        cmocka_unit_test(compare_and_write_writes_only_what_is_equal),
        cmocka_unit_test(copies_may_overlap),
        cmocka_unit_test(memory_is_lent_while_one_channel_is_alone),
        cmocka_unit_test(channels_opened_before_the_first_request_need_not_wait),
        cmocka_unit_test(a_channel_may_go_while_others_wait_for_it),
        cmocka_unit_test(a_block_is_never_seen_torn),
        cmocka_unit_test(compare_and_write_is_atomic_over_reactors),
        cmocka_unit_test(a_newcomer_never_tears_what_is_lent),
        cmocka_unit_test(wrong_ram_and_null_disks_get_a_sentence),
        cmocka_unit_test(ram_disks_differ_from_start_to_start),
        cmocka_unit_test(what_a_disk_was_asked_for_as_is_the_same_at_every_start),
        cmocka_unit_test(a_null_disk_reads_zeroes_and_forgets),
        cmocka_unit_test(each_kind_is_described_in_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
