/* SPDX-License-Identifier: BSD-3-Clause */
/* A RAM disk that one channel uses without locks, while a second one is opened: see the head of ram.c. */
#include "model.h"

#include <pthread.h>
#include <stdlib.h>

/* What of the disk is not under test: its mutex, its memory, and how messages go. */
#define pthread_mutex_lock(m) model_lock((uint32_t *)(void *)(m))
#define pthread_mutex_unlock(m) model_unlock((uint32_t *)(void *)(m))
#define calloc(n, size) ((void)(n), (void)(size), (void *)&fresh_grace)
#define free(p) gone(p)
#define plx_reactor_send(r, msg) post(msg)

struct plx_msg;
static void post(struct plx_msg *msg);
static void gone(void *grace);
static char fresh_grace[512] __attribute__((aligned(16)));

#include "bdev/driver/ram.c"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>
#include <string.h>

static struct ram_disk disk;
static struct {
    struct plx_bdev_channel ch;
    uint64_t driver[4];
} old, newcomer;
static uint64_t block; /* of the disk: what must not be torn */
static uint64_t mail;  /* of the old channel's reactor: whether the message has come */

static void post(struct plx_msg *msg)
{
    (void)msg;
    __atomic_store_n(&mail, 1, __ATOMIC_RELEASE);
}

/* Freed memory is written to. */
static void gone(void *grace)
{
    if (grace == fresh_grace)
        *(volatile char *)&((struct grace *)grace)->over = 1;
}

static void begin(void)
{
    memset(&disk, 0, sizeof disk);
    memset(&old, 0, sizeof old);
    memset(&newcomer, 0, sizeof newcomer);
    memset(fresh_grace, 0, sizeof fresh_grace);
    block = mail = 0;
    old.ch.bdev = newcomer.ch.bdev = &disk.bdev;
    disk.channels = 1; /* the old one is there */
    model_name(&disk.sole, sizeof disk.sole, "sole");
    const struct grace *g = (void *)fresh_grace;
    model_name(&g->over, sizeof g->over, "over");
    model_name(&g->refs, sizeof g->refs, "refs");
    model_name(&block, sizeof block, "block");
}

static struct stripe_lock stripe;

static bool touch(struct plx_bdev_channel *ch)
{
    if (alone(&disk, ch)) {
        block++;
        return true;
    }
    if (in_grace(ch))
        return false;
    lock(&stripe);
    block++;
    unlock(&stripe);
    return true;
}

static void run_mail(void)
{
    struct grace *g = (void *)fresh_grace;
    if (__atomic_load_n(&mail, __ATOMIC_ACQUIRE) && g->msg.fn)
        g->msg.fn(&g->msg);
}

static void old_reactor(void)
{
    touch(&old.ch);
    run_mail();
    touch(&old.ch);
}

static void old_reactor_later(void)
{
    touch(&old.ch);
    touch(&old.ch);
    run_mail();
}

static void new_reactor(void)
{
    ram_channel_open(&newcomer.ch);
    touch(&newcomer.ch);
    touch(&newcomer.ch);
}

/* Both are there, and nobody has claimed the disk; one goes. */
static void begin_shared(void)
{
    begin();
    disk.channels = 2;
    disk.sole = SHARED;
}

static void stay(void)
{
    touch(&old.ch);
    touch(&old.ch);
}

static void leave(void)
{
    touch(&newcomer.ch);
    ram_channel_close(&newcomer.ch);
}

static void open_and_close(void)
{
    ram_channel_open(&newcomer.ch);
    touch(&newcomer.ch);
    ram_channel_close(&newcomer.ch);
    grace_put(disk.grace); /* as when it is closed */
}

static void mail_only(void)
{
    touch(&old.ch);
    run_mail();
}

static const struct model_program mail_between = {
    .name = "the message comes between requests", .begin = begin, .thread = {old_reactor, new_reactor}};
static const struct model_program mail_after = {
    .name = "the message comes after requests", .begin = begin, .thread = {old_reactor_later, new_reactor}};
static const struct model_program closing = {
    .name = "one of two closes", .begin = begin_shared, .thread = {stay, leave}};
static const struct model_program freeing = {
    .name = "the grace period is freed", .begin = begin, .thread = {mail_only, open_and_close}};

static void test_a_block_is_never_written_by_two_at_once(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&mail_between, &mail_after, &closing, &freeing, NULL};
    assert_int_equal(model_suite("ram disk", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_block_is_never_written_by_two_at_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
