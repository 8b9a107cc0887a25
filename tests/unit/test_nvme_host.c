/* SPDX-License-Identifier: BSD-3-Clause */
/* The remote disk against our own target, which another thread runs. */
#include "bdev_util.h"

#include "bdev/driver.h"

#include <pollux/nvme.h>
#include <pollux/nvmf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NQN "nqn.2014-08.org.nvmexpress:unit"

enum { BLOCK = 512, BLOCKS = 16384 };

static struct far {
    struct plx_reactor *reactor;
    struct plx_bdev *disk;
    struct plx_nvmf_target *target;
    struct plx_nvmf_listener *listener;
    pthread_t thread;
    char url[256];
} far;

static void *run(void *arg)
{
    plx_reactor_run(arg);
    return NULL;
}

static void ended(void *arg, int ret)
{
    (void)ret;
    plx_reactor_stop(arg);
}

static int far_start(void **state)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
    const struct plx_nvmf_opts limits = {.max_io_size = 65536, .queue_depth = 16};
    struct plx_nvmf_subsystem *s;
    (void)state;
    assert_int_equal(plx_reactor_create(&far.reactor, NULL), 0);
    assert_int_equal(plx_bdev_open("ram:8M", &far.disk, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&far.target, &far.reactor, 1, &limits, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_create(far.target, &opts, &s, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, far.disk, NULL, NULL), 1);
    assert_int_equal(plx_nvmf_listen(far.target, "127.0.0.1", 0, &far.listener, NULL), 0);
    snprintf(far.url, sizeof far.url, "nvme+tcp://127.0.0.1:%u/%s", plx_nvmf_listener_port(far.listener), NQN);
    plx_nvmf_target_start(far.target, ended, far.reactor);
    plx_reactor_run(far.reactor); /* until it has started */
    return pthread_create(&far.thread, NULL, run, far.reactor);
}

static int far_stop(void **state)
{
    (void)state;
    plx_nvmf_target_stop(far.target, 100, ended, far.reactor);
    pthread_join(far.thread, NULL);
    plx_nvmf_target_destroy(far.target);
    plx_reactor_destroy(far.reactor);
    plx_bdev_close(far.disk);
    return 0;
}

static void open_with(struct tu *t, const char *query)
{
    char url[512];
    snprintf(url, sizeof url, "%s%s", far.url, query);
    tu_open(t, url);
}

/* ---- what it is ---- */

static void it_is_the_disk_that_is_served(void **state)
{
    struct tu t;
    (void)state;
    open_with(&t, "");
    const struct plx_bdev_info *served = plx_bdev_info(far.disk);
    assert_int_equal(t.info->block_size, BLOCK);
    assert_int_equal(t.info->blocks, BLOCKS);
    assert_memory_equal(t.info->uuid, served->uuid, 16);
    assert_string_equal(t.info->driver, "nvme+tcp");
    assert_true(t.info->unmap_reads_zero && !t.info->read_only && !t.info->in_place);
    for (int op = 0; op < PLX_BDEV_OPS; op++)
        assert_int_equal(t.info->ops >> op & 1, op != PLX_BDEV_ALLOCATED && !(PLX_BDEV_ZONED_OPS >> op & 1));
    tu_close(&t);
}

/* ---- what it does ---- */

static void every_operation(const char *query)
{
    struct tu t;
    uint8_t *a = tu_pattern(64 * BLOCK, 1), *b = tu_pattern(64 * BLOCK, 2), *out = calloc(64, BLOCK);
    uint8_t *zeroes = calloc(64, BLOCK), *pair = malloc((size_t)128 * BLOCK);
    open_with(&t, query);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 100, 64, a), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 100, 64, out), PLX_SC_SUCCESS);
    assert_memory_equal(out, a, 64 * BLOCK);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 100, 64, a), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 100, 64, b), PLX_SC_COMPARE_FAILURE);
    memcpy(pair, a, (size_t)64 * BLOCK);
    memcpy(pair + (size_t)64 * BLOCK, b, (size_t)64 * BLOCK);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE_AND_WRITE, 100, 1, pair + (size_t)63 * BLOCK), PLX_SC_COMPARE_FAILURE);
    assert_int_equal(tu_copy(&t, 1000, 100, 64), PLX_SC_SUCCESS);
    assert_int_equal(tu_copy(&t, 1010, 1000, 64), PLX_SC_SUCCESS); /* overlaps */
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 1010, 64, a), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE_ZEROES, 100, 32, NULL), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 132, 32, NULL), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 100, 64, out), PLX_SC_SUCCESS);
    assert_memory_equal(out, zeroes, 64 * BLOCK);
    assert_int_equal(tu_io_flags(&t, PLX_BDEV_WRITE, PLX_BDEV_FUA, 0, 64, b), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_RESET, 0, 0, NULL), PLX_SC_SUCCESS);
    tu_close(&t);
    free(a);
    free(b);
    free(out);
    free(zeroes);
    free(pair);
}

static void operations(void **state)
{
    (void)state;
    every_operation("");
}

static void operations_with_digests(void **state)
{
    (void)state;
    every_operation("?hdgst=1&ddgst=1");
}

static void operations_on_several_small_queues(void **state)
{
    (void)state;
    every_operation("?queues=5&depth=2");
}

static void compare_and_write_is_one(void **state)
{
    struct tu t;
    uint8_t pair[2 * BLOCK], out[BLOCK];
    (void)state;
    open_with(&t, "");
    memset(pair, 0, BLOCK);
    memset(pair + BLOCK, 7, BLOCK);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 5, 1, pair), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE_AND_WRITE, 5, 1, pair), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 5, 1, out), PLX_SC_SUCCESS);
    assert_memory_equal(out, pair + BLOCK, BLOCK);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE_AND_WRITE, 5, 1, pair), PLX_SC_COMPARE_FAILURE);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE_AND_WRITE, 5, 100, pair), PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED);
    tu_close(&t);
}

/* More than a command can carry, and more pieces than a channel has. */
static void large_requests_are_split(void **state)
{
    struct tu t;
    uint8_t *all = tu_pattern((size_t)BLOCKS * BLOCK, 3), *out = calloc(BLOCKS, BLOCK);
    (void)state;
    open_with(&t, "?depth=4");
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, BLOCKS, all), PLX_SC_SUCCESS);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, BLOCKS, out), PLX_SC_SUCCESS);
    assert_memory_equal(out, all, (size_t)BLOCKS * BLOCK);
    out[BLOCKS / 2 * BLOCK] ^= 1;
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 0, BLOCKS, out), PLX_SC_COMPARE_FAILURE);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE_ZEROES, 0, BLOCKS, NULL), PLX_SC_SUCCESS);
    tu_close(&t);
    free(all);
    free(out);
}

/* Data in pieces of odd sizes, more of them than a capsule is built of. */
static void scattered_data(void **state)
{
    enum { PIECES = 151, LEN = 64 * BLOCK };
    struct tu t;
    uint64_t seed = 4;
    uint8_t *data = tu_pattern(LEN, 5), *out = calloc(1, LEN);
    (void)state;
    open_with(&t, "?ddgst=1");
    for (int round = 0; round < 40; round++) {
        struct iovec iov[PIECES + 1];
        struct tu_req q;
        size_t at = 0;
        uint32_t n = 0, nlb = 1 + tu_random(&seed) % 64;
        for (; n < PIECES && at < (size_t)nlb * BLOCK; n++) {
            size_t k = plx_min_u64(tu_random(&seed) % 999, (size_t)nlb * BLOCK - at);
            iov[n] = (struct iovec){data + at, k};
            at += k;
        }
        iov[n++] = (struct iovec){data + at, (size_t)nlb * BLOCK - at};
        tu_req_init(&q);
        tu_start(&t, &q, PLX_BDEV_READ, 0, 1, out);
        assert_int_equal(tu_finish(&t, &q), PLX_SC_SUCCESS);
        q.req->iov = iov;
        q.req->iovcnt = n;
        q.req->op = PLX_BDEV_WRITE;
        q.req->lba = 64;
        q.req->nlb = nlb;
        q.done = 0;
        plx_bdev_submit(t.ch, q.req);
        assert_int_equal(tu_finish(&t, &q), PLX_SC_SUCCESS);
        tu_req_free(&q);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 64, nlb, out), PLX_SC_SUCCESS);
        assert_memory_equal(out, data, (size_t)nlb * BLOCK);
    }
    tu_close(&t);
    free(data);
    free(out);
}

/* ---- what is under way when it ends ---- */

static void requests_may_be_aborted_before_there_is_a_connection(void **state)
{
    struct tu t;
    struct tu_req q[8];
    uint8_t *out = calloc(BLOCKS, BLOCK);
    (void)state;
    open_with(&t, "");
    for (int i = 0; i < 8; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_READ, 0, i & 1 ? BLOCKS : 1, out); /* no round was run: they wait */
    }
    for (int i = 0; i < 8; i++) {
        plx_bdev_abort(t.ch, q[i].req);
        assert_int_equal(q[i].done, 1);
        assert_int_equal(q[i].req->status, PLX_SC_ABORTED_BY_REQUEST);
        tu_req_free(&q[i]);
    }
    tu_close(&t);
    free(out);
}

static void a_reset_ends_what_is_under_way(void **state)
{
    enum { MANY = 64 };
    struct tu t;
    struct tu_req q[MANY], reset;
    uint8_t *out = calloc(BLOCKS, BLOCK);
    (void)state;
    open_with(&t, "?depth=4");
    for (int i = 0; i < MANY; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_READ, 0, i % 3 ? BLOCKS : 1, out);
    }
    for (int i = 0; i < 20; i++)
        tu_turn(t.reactor);
    tu_req_init(&reset);
    tu_start(&t, &reset, PLX_BDEV_RESET, 0, 0, NULL);
    assert_int_equal(tu_finish(&t, &reset), PLX_SC_SUCCESS);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(q[i].done, 1);
        assert_true(q[i].req->status == PLX_SC_SUCCESS || q[i].req->status == PLX_SC_ABORTED_BY_REQUEST);
        tu_req_free(&q[i]);
    }
    tu_req_free(&reset);
    tu_close(&t);
    free(out);
}

/* The second halves come from the channel, which has fewer than there are requests; large ones take of the same. */
static void more_is_fused_at_once_than_there_are_second_halves(void **state)
{
    enum { MANY = 100, ABORTED = 90 };
    struct tu t;
    struct tu_req q[MANY], large;
    uint8_t *both = tu_pattern(2 * BLOCK, 3), *out = calloc(BLOCKS, BLOCK);
    (void)state;
    open_with(&t, "?depth=16");
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, i, 1, both), PLX_SC_SUCCESS);
    tu_req_init(&large);
    tu_start(&t, &large, PLX_BDEV_READ, 0, BLOCKS, out);
    for (int i = 0; i < MANY; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_COMPARE_AND_WRITE, (uint64_t)i, 1, both);
    }
    for (int i = ABORTED; i < MANY; i++) { /* all of which wait */
        plx_bdev_abort(t.ch, q[i].req);
        assert_int_equal(q[i].done, 1);
        assert_int_equal(q[i].req->status, PLX_SC_ABORTED_BY_REQUEST);
        tu_req_free(&q[i]);
    }
    for (int i = 0; i < ABORTED; i++) {
        assert_int_equal(tu_finish(&t, &q[i]), PLX_SC_SUCCESS);
        tu_req_free(&q[i]);
    }
    assert_int_equal(tu_finish(&t, &large), PLX_SC_SUCCESS);
    tu_req_free(&large);
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, i, 1, both + (i < ABORTED ? BLOCK : 0)), PLX_SC_SUCCESS);
    tu_close(&t);
    free(both);
    free(out);
}

static struct after_reset {
    struct tu t;
    struct tu_req older, reset, newer;
    uint8_t out[BLOCK];
} ar;

static void submit_newer(struct plx_bdev_req *reset)
{
    (void)reset;
    ar.reset.done++;
    tu_start(&ar.t, &ar.newer, PLX_BDEV_READ, 0, 1, ar.out);
}

/* What is older ends while the reset is asking it to, and the reset with it. */
static void what_is_newer_than_a_reset_is_left_alone(void **state)
{
    (void)state;
    open_with(&ar.t, "");
    tu_req_init(&ar.older);
    tu_req_init(&ar.reset);
    tu_req_init(&ar.newer);
    ar.reset.req->done = submit_newer;
    tu_start(&ar.t, &ar.older, PLX_BDEV_READ, 0, 1, ar.out); /* waits for a path */
    tu_start(&ar.t, &ar.reset, PLX_BDEV_RESET, 0, 0, NULL);
    assert_int_equal(ar.older.done, 1);
    assert_int_equal(ar.older.req->status, PLX_SC_ABORTED_BY_REQUEST);
    assert_int_equal(ar.reset.done, 1);
    assert_int_equal(tu_finish(&ar.t, &ar.newer), PLX_SC_SUCCESS);
    tu_req_free(&ar.older);
    tu_req_free(&ar.reset);
    tu_req_free(&ar.newer);
    tu_close(&ar.t);
}

/* ---- a controller that hangs: its thread stands still, and the kernel keeps the connections ---- */

static struct {
    struct plx_msg msg;
    pthread_mutex_t held;
    pthread_barrier_t stands;
} hang = {.held = PTHREAD_MUTEX_INITIALIZER};

static void stand_still(struct plx_msg *msg)
{
    (void)msg;
    pthread_barrier_wait(&hang.stands);
    pthread_mutex_lock(&hang.held);
    pthread_mutex_unlock(&hang.held);
}

static void hang_begin(void)
{
    hang.msg.fn = stand_still;
    pthread_barrier_init(&hang.stands, NULL, 2);
    pthread_mutex_lock(&hang.held);
    plx_reactor_send(far.reactor, &hang.msg);
    pthread_barrier_wait(&hang.stands);
}

static void hang_end(void)
{
    pthread_mutex_unlock(&hang.held);
    pthread_barrier_destroy(&hang.stands);
}

/* Nothing but the abort itself limits how long these may take. */
#define NO_LIMITS "?timeout=0&kato=0&depth=4"

static void an_abort_does_not_wait_for_a_controller_that_hangs(void **state)
{
    enum { MANY = 12 }; /* some of them wait for a slot */
    struct tu t;
    struct tu_req q[MANY];
    uint8_t *pair = calloc(2 * MANY, BLOCK);
    (void)state;
    open_with(&t, NO_LIMITS);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, pair), PLX_SC_SUCCESS);
    hang_begin();
    for (int i = 0; i < MANY; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], i % 3 ? PLX_BDEV_READ : PLX_BDEV_COMPARE_AND_WRITE, (uint64_t)i, 1,
                 pair + (size_t)2 * BLOCK * (unsigned)i);
    }
    tu_turn(t.reactor);
    for (int i = 0; i < MANY; i += 2)
        plx_bdev_abort(t.ch, q[i].req);
    for (int i = 0; i < MANY; i += 2)
        assert_int_equal(tu_finish(&t, &q[i]), PLX_SC_ABORTED_BY_REQUEST);
    hang_end();
    for (int i = 1; i < MANY; i += 2) /* done again, but for what must not be done twice */
        assert_int_equal(tu_finish(&t, &q[i]), i % 3 ? PLX_SC_SUCCESS : PLX_SC_TRANSIENT_TRANSPORT_ERROR);
    for (int i = 0; i < MANY; i++)
        tu_req_free(&q[i]);
    tu_close(&t);
    free(pair);
}

static void a_reset_does_not_wait_for_a_controller_that_hangs(void **state)
{
    enum { MANY = 40 };
    struct tu t;
    struct tu_req q[MANY], reset;
    uint8_t *out = calloc(BLOCKS, BLOCK);
    (void)state;
    open_with(&t, NO_LIMITS);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, out), PLX_SC_SUCCESS);
    hang_begin();
    for (int i = 0; i < MANY; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_READ, 0, i % 3 ? BLOCKS : 1, out);
    }
    tu_turn(t.reactor);
    tu_req_init(&reset);
    tu_start(&t, &reset, PLX_BDEV_RESET, 0, 0, NULL);
    assert_int_equal(tu_finish(&t, &reset), PLX_SC_SUCCESS);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(q[i].req->status, PLX_SC_ABORTED_BY_REQUEST);
        tu_req_free(&q[i]);
    }
    tu_close(&t); /* nor does this */
    hang_end();
    tu_req_free(&reset);
    free(out);
}

/* ---- for tools ---- */

static void a_controller_is_asked(void **state)
{
    struct plx_nvme *n;
    struct plx_nvme_info info;
    uint8_t page[PLX_NVME_IDENTIFY_BYTES];
    uint32_t dw0;
    (void)state;
    assert_int_equal(plx_nvme_connect(far.url, &n, NULL), 0);
    plx_nvme_get_info(n, &info);
    assert_int_equal(info.vs, 0x20100);
    assert_int_equal(info.ana_state, 1);
    assert_int_equal(plx_nvme_identify(n, 1, 0, page, NULL), 0);
    assert_string_equal((char *)page + 768, NQN);
    struct plx_error err = {""};
    assert_true(plx_nvme_identify(n, 0xee, 0, page, &err) < 0);
    assert_non_null(strstr(err.text, "Invalid Field"));
    assert_true(plx_nvme_get_log(n, 2, 0, 0xffffffff, 0, page, 512, NULL) == 0);
    assert_int_equal(plx_nvme_wait_event(n, 10, &dw0, NULL), 0);
    plx_nvme_disconnect(n);
}

static void what_there_is_is_discovered(void **state)
{
    struct plx_nvme *n;
    struct plx_nvme_discovery *d;
    char where[64];
    (void)state;
    snprintf(where, sizeof where, "127.0.0.1:%u", plx_nvmf_listener_port(far.listener));
    assert_int_equal(plx_nvme_connect_discovery(where, NULL, false, &n, NULL), 0);
    assert_int_equal(plx_nvme_get_discovery(n, &d, NULL), 0);
    assert_int_equal(d->count, 2);
    assert_string_equal(d->records[0].subnqn, NQN);
    assert_string_equal(d->records[0].traddr, "127.0.0.1");
    plx_nvme_discovery_free(d);
    plx_nvme_disconnect(n);
}

/* Nobody listens at the first two: names.c. */
static void every_address_of_a_name_is_tried(void **state)
{
    struct plx_nvme *n;
    struct plx_nvme_info info;
    struct tu t;
    uint8_t block[BLOCK] = {0};
    char url[256];
    unsigned port = plx_nvmf_listener_port(far.listener);
    (void)state;
    snprintf(url, sizeof url, "nvme+tcp://[::1+127.0.0.2+127.0.0.1]:%u/%s", port, NQN);
    assert_int_equal(plx_nvme_connect(url, &n, NULL), 0);
    plx_nvme_get_info(n, &info);
    assert_non_null(strstr(info.address, "127.0.0.1:"));
    plx_nvme_disconnect(n);
    tu_open(&t, url);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, block), PLX_SC_SUCCESS);
    tu_close(&t);
}

static void when_none_answers_each_is_named(void **state)
{
    struct plx_nvme *n;
    struct plx_error err;
    char url[256];
    unsigned port = plx_nvmf_listener_port(far.listener);
    (void)state;
    snprintf(url, sizeof url, "nvme+tcp://127.0.0.2+127.0.0.3:%u/%s", port, NQN);
    assert_true(plx_nvme_connect(url, &n, &err) < 0);
    assert_non_null(strstr(err.text, "127.0.0.2:"));
    assert_non_null(strstr(err.text, "127.0.0.3:"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_the_disk_that_is_served),
        cmocka_unit_test(operations),
        cmocka_unit_test(operations_with_digests),
        cmocka_unit_test(operations_on_several_small_queues),
        cmocka_unit_test(compare_and_write_is_one),
        cmocka_unit_test(large_requests_are_split),
        cmocka_unit_test(scattered_data),
        cmocka_unit_test(requests_may_be_aborted_before_there_is_a_connection),
        cmocka_unit_test(a_reset_ends_what_is_under_way),
        cmocka_unit_test(more_is_fused_at_once_than_there_are_second_halves),
        cmocka_unit_test(what_is_newer_than_a_reset_is_left_alone),
        cmocka_unit_test(an_abort_does_not_wait_for_a_controller_that_hangs),
        cmocka_unit_test(a_reset_does_not_wait_for_a_controller_that_hangs),
        cmocka_unit_test(a_controller_is_asked),
        cmocka_unit_test(what_there_is_is_discovered),
        cmocka_unit_test(every_address_of_a_name_is_tried),
        cmocka_unit_test(when_none_answers_each_is_named),
    };
    return cmocka_run_group_tests_name("nvme_host", tests, far_start, far_stop);
}
