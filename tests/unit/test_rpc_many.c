/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A server with many volumes: what is done of each when they are found, told of, renamed and closed does not depend on
 * how many there are. It is counted in the calls of what looks at one disk, or at one name.
 */
#include "bdev_util.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <pollux/nvmf.h>
#include <pollux/pool.h>
#include <pollux/rpc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

int __wrap_strcmp(const char *a, const char *b);
int __real_strcmp(const char *a, const char *b);
struct plx_bdev *__wrap_plx_bdev_below(const struct plx_bdev *bdev);
struct plx_bdev *__real_plx_bdev_below(const struct plx_bdev *bdev);
void __wrap_plx_volume_get_info(struct plx_bdev *volume, struct plx_volume_info *out);
void __real_plx_volume_get_info(struct plx_bdev *volume, struct plx_volume_info *out);
void __wrap_plx_bdev_each(bool (*fn)(void *arg, struct plx_bdev *bdev), void *arg);
void __real_plx_bdev_each(bool (*fn)(void *arg, struct plx_bdev *bdev), void *arg);
void __wrap_plx_pool_each(struct plx_pool *pool, bool (*fn)(void *arg, const struct plx_volume_info *info), void *arg);
void __real_plx_pool_each(struct plx_pool *pool, bool (*fn)(void *arg, const struct plx_volume_info *info), void *arg);

static _Atomic unsigned long looks;

int __wrap_strcmp(const char *a, const char *b)
{
    looks++;
    return __real_strcmp(a, b);
}

struct plx_bdev *__wrap_plx_bdev_below(const struct plx_bdev *bdev)
{
    looks++;
    return __real_plx_bdev_below(bdev);
}

void __wrap_plx_volume_get_info(struct plx_bdev *volume, struct plx_volume_info *out)
{
    looks++;
    __real_plx_volume_get_info(volume, out);
}

struct each {
    bool (*fn)(void *arg, struct plx_bdev *bdev);
    void *arg;
};

static bool each_looked_at(void *arg, struct plx_bdev *bdev)
{
    const struct each *e = arg;
    looks++;
    return e->fn(e->arg, bdev);
}

void __wrap_plx_bdev_each(bool (*fn)(void *arg, struct plx_bdev *bdev), void *arg)
{
    struct each e = {fn, arg};
    __real_plx_bdev_each(each_looked_at, &e);
}

struct each_volume {
    bool (*fn)(void *arg, const struct plx_volume_info *info);
    void *arg;
};

static bool volume_looked_at(void *arg, const struct plx_volume_info *info)
{
    const struct each_volume *e = arg;
    looks++;
    return e->fn(e->arg, info);
}

void __wrap_plx_pool_each(struct plx_pool *pool, bool (*fn)(void *arg, const struct plx_volume_info *info), void *arg)
{
    struct each_volume e = {fn, arg};
    __real_plx_pool_each(pool, volume_looked_at, &e);
}

/* ---- a disk with volumes ---- */

enum { FEW = 60, TIMES = 4, NAME = 16 };

static void make_volumes(int n)
{
    struct plx_bdev *disk;
    struct plx_pool *pool;
    struct plx_error err = {""};
    assert_int_equal(truncate(tu_path, 1 << 30), 0);
    assert_int_equal(plx_bdev_open(tu_url, &disk, &err), 0);
    assert_int_equal(plx_pool_make(disk, &(struct plx_pool_opts){.name = "store"}, &err), 0);
    assert_int_equal(plx_pool_open(disk, &pool, &err), 0);
    for (int i = 0; i < n; i++) {
        char name[NAME];
        snprintf(name, sizeof name, "v%d", i);
        struct plx_pool_op op = {.kind = PLX_POOL_CREATE, .name = name, .size = 1 << 20};
        assert_int_equal(plx_pool_do(pool, &op), 0);
    }
    assert_int_equal(plx_pool_close(pool), 0);
    plx_bdev_close(disk);
}

/* ---- a server ---- */

static struct plx_reactor *reactor;
static bool over;

static void is_over(void *arg, int ret)
{
    (void)arg;
    assert_int_equal(ret, 0);
    over = true;
}

static void call_over(void *arg, int ret, const char *result, const struct plx_error *err)
{
    unsigned *listed = arg;
    if (ret)
        fail_msg("%s", err->text);
    for (const char *at = result; listed && (at = strstr(at, "\"lvol_store_uuid\"")); at++)
        ++*listed;
    over = true;
}

static void wait_over(void)
{
    while (!over)
        if (!plx_reactor_poll(reactor))
            usleep(10);
    over = false;
}

static void call(struct plx_rpc *rpc, const char *method, const char *params, unsigned *listed)
{
    plx_rpc_call(rpc, method, params, call_over, listed);
    wait_over();
}

enum { FOUND, LISTED, RENAMED, ENDED, PHASES };
static const char *const phases[PHASES] = {"found", "listed", "renamed", "ended"};

/* What all of it takes, of a server that ends, or of one that is told to forget the disk. */
static void live(int n, bool told, unsigned long took[PHASES])
{
    const struct plx_reactor_opts plain = {.core = -1};
    struct plx_nvmf_target *target;
    struct plx_error err = {""};
    struct plx_rpc *rpc;
    char params[400];
    unsigned listed = 0;
    make_volumes(n);
    assert_int_equal(plx_reactor_create(&reactor, &plain), 0);
    assert_int_equal(plx_nvmf_target_create(&target, &reactor, 1, NULL, &err), 0);
    plx_nvmf_target_start(target, is_over, NULL);
    wait_over();
    const struct plx_rpc_opts opts = {.target = target, .reactors = &reactor, .nreactors = 1};
    assert_int_equal(plx_rpc_create(&rpc, &opts, &err), 0);
    looks = 0;
    snprintf(params, sizeof params, "{\"name\": \"A\", \"filename\": \"%s\"}", tu_path);
    call(rpc, "bdev_aio_create", params, NULL);
    took[FOUND] = atomic_exchange(&looks, 0);
    call(rpc, "bdev_get_bdevs", NULL, &listed);
    took[LISTED] = atomic_exchange(&looks, 0);
    assert_int_equal(listed, n);
    call(rpc, "bdev_lvol_rename_lvstore", "{\"old_name\": \"store\", \"new_name\": \"other\"}", NULL);
    took[RENAMED] = atomic_exchange(&looks, 0);
    if (told)
        call(rpc, "bdev_aio_delete", "{\"name\": \"A\"}", NULL);
    else
        looks = 0;
    plx_rpc_stop(rpc, is_over, NULL);
    wait_over();
    plx_nvmf_target_stop(target, 0, is_over, NULL);
    wait_over();
    plx_nvmf_target_destroy(target);
    plx_rpc_destroy(rpc);
    took[ENDED] = looks;
    assert_null(plx_bdev_find("A"));
    plx_reactor_destroy(reactor);
}

static void each_takes_as_much(bool told)
{
    unsigned long few[PHASES], many[PHASES];
    live(FEW, told, few);
    live(TIMES * FEW, told, many);
    for (int i = 0; i < PHASES; i++)
        if (many[i] > (TIMES + 1) * few[i])
            fail_msg("%d volumes are %s with %lu looks, and %d with %lu", FEW, phases[i], few[i], TIMES * FEW, many[i]);
}

static void a_server_ends_as_quickly_with_many(void **state)
{
    (void)state;
    each_takes_as_much(false);
}

static void a_disk_is_let_go_as_quickly_with_many(void **state)
{
    (void)state;
    each_takes_as_much(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_server_ends_as_quickly_with_many),
        cmocka_unit_test(a_disk_is_let_go_as_quickly_with_many),
    };
    return cmocka_run_group_tests(tests, tu_make_file, tu_remove_file);
}
