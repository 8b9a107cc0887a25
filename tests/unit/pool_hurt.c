/* SPDX-License-Identifier: BSD-3-Clause */
#include "pool_hurt.h"

#include <stdlib.h>
#include <string.h>

const struct plx_volume_attribute hurt_attribute = {"who", "me"};

uint8_t hurt_unit[HURT_UNIT] __attribute__((aligned(4096)));

void hurt_take(void *arg, const struct plx_pool_finding *f)
{
    struct hurt_seen *s = arg;
    s->per[f->severity]++;
    s->offset = f->offset;
    s->mendable += f->mendable && f->severity != PLX_POOL_NOTE;
    strncat(s->texts, f->text, sizeof s->texts - strlen(s->texts) - 1);
    strncat(s->texts, "\n", sizeof s->texts - strlen(s->texts) - 1);
}

struct hurt_seen hurt_seen;

void hurt_look(struct pool_rig *rig, bool repair)
{
    struct plx_error err = {""};
    struct plx_pool_check c = {
        .repair = repair, .reactor = rig->reactor, .turn = rig_turn, .found = hurt_take, .arg = &hurt_seen};
    hurt_seen = (struct hurt_seen){.texts = ""};
    if (plx_pool_check(rig->disk, &c, &err))
        fail_msg("%s", err.text);
}

uint64_t hurt_look_data(struct pool_rig *rig)
{
    struct plx_error err = {""};
    struct plx_pool_check c = {
        .data = true, .reactor = rig->reactor, .turn = rig_turn, .found = hurt_take, .arg = &hurt_seen};
    hurt_seen = (struct hurt_seen){.texts = ""};
    if (plx_pool_check(rig->disk, &c, &err))
        fail_msg("%s", err.text);
    return c.data_bytes;
}

void hurt_expect_clean(struct pool_rig *rig)
{
    hurt_look(rig, false);
    if (hurt_seen.per[PLX_POOL_WASTE] || hurt_seen.per[PLX_POOL_DAMAGE] || strstr(hurt_seen.texts, "not known here"))
        fail_msg("%s", hurt_seen.texts);
}

void hurt_expect(struct pool_rig *rig, enum plx_pool_severity severity, bool mendable, const char *text)
{
    hurt_look(rig, false);
    if (!hurt_seen.per[severity] || !strstr(hurt_seen.texts, text) || (mendable && !hurt_seen.mendable) ||
        (!mendable && hurt_seen.mendable))
        fail_msg("not \"%s\", %s, but: %s", text, mendable ? "to be mended" : "for good", hurt_seen.texts);
}

static void unit_io(struct pool_rig *rig, enum plx_bdev_op op, uint64_t unit, void *mem)
{
    struct tu t = {.bdev = rig->disk, .reactor = rig->reactor, .info = plx_bdev_info(rig->disk)};
    assert_int_equal(plx_bdev_channel_get(rig->disk, rig->reactor, &t.ch), 0);
    assert_int_equal(tu_io(&t, op, unit * HURT_BLOCKS, HURT_BLOCKS, mem), 0);
    plx_bdev_channel_put(t.ch);
}

void hurt_get(struct pool_rig *rig, uint64_t number)
{
    unit_io(rig, PLX_BDEV_READ, number, hurt_unit);
}

void hurt_put(struct pool_rig *rig, uint64_t number)
{
    unit_io(rig, PLX_BDEV_WRITE, number, hurt_unit);
}

struct pck_root hurt_root_of(struct pool_rig *rig)
{
    struct pck_root r[2];
    bool whole[2];
    for (unsigned i = 0; i < 2; i++) {
        hurt_get(rig, i * PCK_ROOT_PLACE);
        whole[i] = pck_get_root(hurt_unit, &r[i]);
    }
    assert_true(whole[0] || whole[1]);
    return !whole[0] || (whole[1] && r[1].generation > r[0].generation) ? r[1] : r[0];
}

void hurt_put_root(struct pool_rig *rig, const struct pck_root *r)
{
    memset(hurt_unit, 0, sizeof hurt_unit);
    pck_put_root(hurt_unit, r);
    hurt_put(rig, r->generation % 2 * PCK_ROOT_PLACE);
}

/*
 * Changes the unit that a chain of slots below an entry of the root leads to, and all CRCs on the way; slots end with
 * -1.
 */
static void hurt_below(struct pool_rig *rig, struct pck_entry *e, const int *slots, hurt_fn change, const void *arg)
{
    const uint64_t at = e->unit;
    assert_true(at != 0);
    hurt_get(rig, at);
    if (*slots >= 0) {
        struct pck_entry below = pck_get_entry(hurt_unit + *slots * 16);
        hurt_below(rig, &below, slots + 1, change, arg);
        hurt_get(rig, at);
        pck_put_entry(hurt_unit + *slots * 16, &below);
    } else {
        change(hurt_unit, arg);
    }
    hurt_put(rig, at);
    e->crc = pck_crc(hurt_unit, HURT_UNIT);
}

void hurt_dir(struct pool_rig *rig, hurt_fn change, const void *arg)
{
    static const int slots[] = {0, 0, -1};
    struct pck_root r = hurt_root_of(rig);
    hurt_below(rig, &r.dir, slots, change, arg);
    hurt_put_root(rig, &r);
}

void hurt_map(struct pool_rig *rig, hurt_fn change, const void *arg)
{
    static const int slots[] = {0, -1};
    struct pck_root r = hurt_root_of(rig);
    hurt_below(rig, &r.maps, slots, change, arg);
    hurt_put_root(rig, &r);
}

void hurt_set_entry(uint8_t *mem, const void *arg)
{
    const struct hurt_entry *e = arg;
    pck_put_entry(mem + e->slot * 16, &e->e);
}

void hurt_maps(struct pool_rig *rig, hurt_fn change, const void *arg)
{
    static const int node[] = {-1};
    struct pck_root r = hurt_root_of(rig);
    hurt_below(rig, &r.maps, node, change, arg);
    hurt_put_root(rig, &r);
}

void hurt_make(struct pool_rig *rig, const char *url)
{
    uint8_t *data = tu_pattern(64 * HURT_UNIT, 1);
    struct tu t;
    rig_make(rig, url, NULL);
    rig_create(rig, "a", HURT_VOLUME);
    rig_open(rig, "a", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 64 * HURT_BLOCKS, data), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 4800, 64 * HURT_BLOCKS, data), 0);
    rig_do(rig, PLX_POOL_SNAPSHOT, "a", "one", 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 16, 30, data), 0);
    rig_do(rig, PLX_POOL_SNAPSHOT, "a", "two", 0);
    rig_do(rig, PLX_POOL_CLONE, "one", "b", 0);
    rig_do(rig, PLX_POOL_CLONE, "two", "c", 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 24, 80, NULL), 0);
    rig_close(rig, &t);
    rig_do(rig, PLX_POOL_DELETE, "two", NULL, 0); /* a ghost */
    struct plx_pool_op set = {.kind = PLX_POOL_SET, .volume = "a", .attributes = &hurt_attribute, .n_attributes = 1};
    struct plx_pool_op sum = {.kind = PLX_POOL_SET_CHECKSUM, .volume = "one", .checksum = HURT_CHECKSUM};
    assert_int_equal(rig_run(rig, &set), 0);
    assert_int_equal(rig_run(rig, &sum), 0);
    rig_settle(rig);
    assert_int_equal(pool_close_on(rig->pool), 0);
    rig->pool = NULL;
    free(data);
}

void hurt_begin(struct pool_rig *rig)
{
    hurt_make(rig, "ram:8M");
    hurt_expect_clean(rig);
}

/* Mended, it can be opened, and has what it had. */
void hurt_mend(struct pool_rig *rig, uint32_t volumes)
{
    for (int i = 0; i < 3; i++) /* what a first round takes out leaves space, which the next one frees */
        hurt_look(rig, true);
    hurt_expect_clean(rig);
    rig_pool(rig);
    uint32_t n = 0;
    for (uint32_t i = 0; i < rig->pool->slots; i++)
        n += rig->pool->volume[i] && rig->pool->volume[i]->name[0];
    assert_int_equal(n, volumes);
    rig_settle(rig);
    rig_check(rig);
    assert_int_equal(pool_close_on(rig->pool), 0);
    rig->pool = NULL;
    hurt_expect_clean(rig);
    rig_end(rig);
}

void hurt_set_bit(uint8_t *mem, const void *arg)
{
    mem[*(const int *)arg / 8] |= (uint8_t)(1 << *(const int *)arg % 8);
}

static void hurt_flip(uint8_t *mem, const void *arg)
{
    mem[*(const int *)arg] ^= 0x10;
}

/* Without its CRC being made right. */
void hurt_rot(struct pool_rig *rig, uint64_t number, int at)
{
    hurt_get(rig, number);
    hurt_flip(hurt_unit, &at);
    hurt_put(rig, number);
}

void hurt_set_mapped(uint8_t *mem, const void *arg)
{
    struct pck_record r;
    (void)arg;
    pck_get_record(mem, &r);
    r.mapped += 3;
    pck_put_record(mem, &r);
}

void hurt_edit_record(uint8_t *mem, const void *arg)
{
    const struct hurt_edit *e = arg;
    struct pck_record r;
    pck_get_record(mem + e->record * PCK_RECORD_BYTES, &r);
    e->edit(&r);
    pck_put_record(mem + e->record * PCK_RECORD_BYTES, &r);
}

void hurt_twin_name(struct pck_record *r)
{
    memcpy(r->name, "b", 2);
}

void hurt_absurd_size(struct pck_record *r)
{
    r->size = UINT64_MAX;
}

struct pck_record hurt_record_of(struct pool_rig *rig, unsigned number)
{
    struct pck_root r = hurt_root_of(rig);
    struct pck_record record;
    for (int level = 0; level < 2; level++) {
        hurt_get(rig, r.dir.unit);
        r.dir = pck_get_entry(hurt_unit);
    }
    hurt_get(rig, r.dir.unit);
    pck_get_record(hurt_unit + number * PCK_RECORD_BYTES, &record);
    return record;
}

/* An entry of the first leaf of volume "a" is another one. */
void hurt_leaf(struct pool_rig *rig, unsigned slot, const struct pck_entry *e)
{
    static const int leaf[] = {0, -1};
    const struct hurt_entry edit = {slot, *e};
    struct pck_record a = hurt_record_of(rig, 0);
    hurt_below(rig, &a.root, leaf, hurt_set_entry, &edit);
    struct pck_root r = hurt_root_of(rig);
    struct pck_entry path[3] = {r.dir};
    for (int level = 1; level < 3; level++) {
        hurt_get(rig, path[level - 1].unit);
        path[level] = pck_get_entry(hurt_unit);
    }
    hurt_get(rig, path[2].unit);
    pck_put_entry(hurt_unit + 72, &a.root);
    hurt_put(rig, path[2].unit);
    path[2].crc = pck_crc(hurt_unit, HURT_UNIT);
    for (int level = 1; level >= 0; level--) {
        hurt_get(rig, path[level].unit);
        pck_put_entry(hurt_unit, &path[level + 1]);
        hurt_put(rig, path[level].unit);
        path[level].crc = pck_crc(hurt_unit, HURT_UNIT);
    }
    r.dir = path[0];
    hurt_put_root(rig, &r);
}
