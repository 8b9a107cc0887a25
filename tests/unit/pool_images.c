/* SPDX-License-Identifier: BSD-3-Clause */
/* Writes pools to files of a folder: scripts/pool-images keeps them, so that pools of today are opened from now on. */
#include "pool_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT = 4096, BLOCKS_A_UNIT = 8, IMAGE = 8 << 20, MIB = 1 << 20 };

static uint8_t image[IMAGE];

static void write_units(struct tu *t, uint64_t at, unsigned n, int value)
{
    uint8_t *data = malloc((size_t)n * UNIT);
    for (unsigned i = 0; i < n; i++)
        memset(data + (size_t)i * UNIT, value + (int)i % 7, UNIT);
    assert_int_equal(tu_io(t, PLX_BDEV_WRITE, at * BLOCKS_A_UNIT, n * BLOCKS_A_UNIT, data), 0);
    free(data);
}

/* The disk as it is at this moment: what is flushed is on it. */
static void take_image(struct pool_rig *rig)
{
    struct tu t = {.bdev = rig->disk, .reactor = rig->reactor, .info = plx_bdev_info(rig->disk)};
    assert_int_equal(plx_bdev_channel_get(rig->disk, rig->reactor, &t.ch), 0);
    for (uint64_t at = 0; at < IMAGE; at += MIB)
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, at / 512, MIB / 512, image + at), 0);
    plx_bdev_channel_put(t.ch);
}

static void keep(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.img", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(image, IMAGE, 1, file) != 1 || fclose(file))
        fail_msg("%s cannot be written", path);
}

static void begin(struct pool_rig *rig, struct tu *t)
{
    const struct plx_pool_opts opts = {.name = "kept"};
    rig_make(rig, "ram:8M", &opts);
    rig_create(rig, "web", 3 * MIB);
    rig_open(rig, "web", t);
    write_units(t, 0, 40, 'a');
    write_units(t, 600, 40, 'b');
}

static void end(struct pool_rig *rig, struct tu *t, const char *folder, const char *name)
{
    rig_close(rig, t);
    rig_settle(rig);
    assert_int_equal(pool_close_on(rig->pool), 0);
    rig->pool = NULL;
    if (name) {
        take_image(rig);
        keep(folder, name);
    }
    rig_end(rig);
}

static void make_plain(const char *folder)
{
    struct plx_pool_op db = {.kind = PLX_POOL_CREATE, .name = "db", .size = MIB, .thick = true};
    struct pool_rig rig;
    struct tu t;
    begin(&rig, &t);
    rig_run(&rig, &db);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "web", "monday", 0);
    write_units(&t, 10, 10, 'c');
    rig_do(&rig, PLX_POOL_SNAPSHOT, "web", "tuesday", 0);
    rig_do(&rig, PLX_POOL_CLONE, "monday", "test", 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 160, 80, NULL), 0);
    end(&rig, &t, folder, "plain");
}

static void make_ghost(const char *folder)
{
    struct pool_rig rig;
    struct tu t;
    begin(&rig, &t);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "web", "gone", 0);
    rig_do(&rig, PLX_POOL_CLONE, "gone", "one", 0);
    rig_do(&rig, PLX_POOL_CLONE, "gone", "two", 0);
    write_units(&t, 0, 20, 'd');
    rig_do(&rig, PLX_POOL_DELETE, "gone", NULL, 0);
    end(&rig, &t, folder, "ghost");
}

static void make_dying(const char *folder)
{
    struct pool_rig rig;
    struct tu t;
    bool done;
    struct plx_pool_op op = {.kind = PLX_POOL_DELETE, .volume = "gone"};
    begin(&rig, &t);
    for (uint64_t leaf = 0; leaf < 3; leaf++)
        write_units(&t, leaf * 256, 3, 'e');
    rig_do(&rig, PLX_POOL_SNAPSHOT, "web", "gone", 0);
    for (uint64_t leaf = 0; leaf < 3; leaf++)
        write_units(&t, leaf * 256, 2, 'f');
    rig.pool->job_steps = 1;
    const struct pool_volume *gone = rig.pool->volume[1];
    rig_begin(&rig, &op, &done);
    while (gone->done < 256)
        rig_turn(rig.reactor);
    rig_close(&rig, &t);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    take_image(&rig);
    keep(folder, "dying");
    rig_end(&rig);
}

static void make_log(const char *folder)
{
    struct pool_rig rig;
    struct tu t;
    begin(&rig, &t);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "web", "monday", 0);
    write_units(&t, 3, 30, 'g');
    for (uint64_t i = 0; i < 200; i++)
        write_units(&t, 100 + 2 * i, 1, 'h');
    assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 320, 80, NULL), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    take_image(&rig);
    keep(folder, "log");
    end(&rig, &t, folder, NULL);
}

static const char *folder_of_images;

static void make_all(void **state)
{
    (void)state;
    make_plain(folder_of_images);
    make_ghost(folder_of_images);
    make_dying(folder_of_images);
    make_log(folder_of_images);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(make_all)};
    if (argc != 2) {
        fprintf(stderr, "usage: pool_images FOLDER\n");
        return 2;
    }
    folder_of_images = argv[1];
    rig_simulate(true);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
