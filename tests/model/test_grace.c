/* SPDX-License-Identifier: BSD-3-Clause */
/* Grace periods of pools: what was freed is used again when nobody reads it any more, and that is not forgotten. */
#include "model.h"

#include "bdev/pool/pool.h"

/* What of wait.c has nothing to do with it. */
#define plx_reactor_send(r, msg) ((void)(msg))
#define pool_node_load(p, node, ch) ((void)(p))
#define pool_region_load(p, region, ch) ((void)(p))
#define pool_kick(p) ((void)(p))

#include "bdev/pool/wait.c"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>
#include <string.h>

static struct plx_pool pool;
static struct pool_channel channel;
static struct pool_grace grace;
static uint64_t unit;  /* of the disk */
static uint64_t freed; /* under the lock: nobody finds the unit any more */
static uint32_t used_again;

static void begin(void)
{
    memset(&pool, 0, sizeof pool);
    plx_list_init(&pool.channels);
    plx_list_init(&pool.graces);
    plx_list_init(&pool.drained);
    memset(&channel, 0, sizeof channel);
    plx_list_add_tail(&pool.channels, &channel.link);
    channel.present = channel.under_way;
    unit = freed = used_again = 0;
    model_name(&pool.taken, sizeof pool.taken, "lock");
    model_name(&channel.draining, sizeof channel.draining, "draining");
    model_name(channel.under_way, sizeof channel.under_way, "under_way");
    model_name(&unit, sizeof unit, "unit");
}

static void over(struct plx_pool *p, struct pool_grace *g)
{
    (void)p, (void)g;
    unit = 1;
    used_again = 1;
}

static void use(void)
{
    pool_lock(&pool);
    const bool there = !freed;
    _Atomic uint32_t *const counted = there ? pool_begin(&channel) : NULL;
    pool_unlock(&pool);
    if (!there)
        return;
    MODEL_HOLD(!unit);
    if (!pool_end(&channel, counted))
        return;
    pool_lock(&pool);
    pool_grace_step(&pool);
    pool_unlock(&pool);
}

static void let_go(void)
{
    pool_lock(&pool);
    freed = 1;
    grace.over = over;
    pool_grace(&pool, &grace);
    pool_unlock(&pool);
}

static void is_used_again(void)
{
    MODEL_HOLD(used_again);
}

static const struct model_program one = {
    .name = "one reads", .begin = begin, .thread = {let_go, use}, .end = is_used_again};

static void test_what_is_freed_is_used_again_when_nobody_reads_it(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&one, NULL};
    assert_int_equal(model_suite("grace periods", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_is_freed_is_used_again_when_nobody_reads_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
