/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux pool check` and `repair`: each structure of a pool is injured, found to be, and mended where that can be. */
#include "pool_rig.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <pollux/pool_check.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/filter/crash.h"
#include "poolcheck/layout.h"

enum { UNIT = 4096, BLOCKS_A_UNIT = 8, VOLUME = 3 << 20 };

struct seen {
    uint64_t per[3], mendable;
    char texts[16384];
};

static void take(void *arg, const struct plx_pool_finding *f)
{
    struct seen *s = arg;
    s->per[f->severity]++;
    s->mendable += f->mendable && f->severity != PLX_POOL_NOTE;
    strncat(s->texts, f->text, sizeof s->texts - strlen(s->texts) - 1);
    strncat(s->texts, "\n", sizeof s->texts - strlen(s->texts) - 1);
}

static struct seen seen;

static void look(struct pool_rig *rig, bool repair)
{
    struct plx_error err = {""};
    struct plx_pool_check c = {
        .repair = repair, .reactor = rig->reactor, .turn = rig_turn, .found = take, .arg = &seen};
    seen = (struct seen){.texts = ""};
    if (plx_pool_check(rig->disk, &c, &err))
        fail_msg("%s", err.text);
}

static void expect_clean(struct pool_rig *rig)
{
    look(rig, false);
    if (seen.per[PLX_POOL_WASTE] || seen.per[PLX_POOL_DAMAGE])
        fail_msg("%s", seen.texts);
}

static void expect(struct pool_rig *rig, enum plx_pool_severity severity, bool mendable, const char *text)
{
    look(rig, false);
    if (!seen.per[severity] || !strstr(seen.texts, text) || (mendable && !seen.mendable) ||
        (!mendable && seen.mendable))
        fail_msg("not \"%s\", %s, but: %s", text, mendable ? "to be mended" : "for good", seen.texts);
}

/* ---- units ---- */

static void unit_io(struct pool_rig *rig, enum plx_bdev_op op, uint64_t unit, void *mem)
{
    struct tu t = {.bdev = rig->disk, .reactor = rig->reactor, .info = plx_bdev_info(rig->disk)};
    assert_int_equal(plx_bdev_channel_get(rig->disk, rig->reactor, &t.ch), 0);
    assert_int_equal(tu_io(&t, op, unit * BLOCKS_A_UNIT, BLOCKS_A_UNIT, mem), 0);
    plx_bdev_channel_put(t.ch);
}

static uint8_t unit[UNIT] __attribute__((aligned(4096)));

static void get(struct pool_rig *rig, uint64_t number)
{
    unit_io(rig, PLX_BDEV_READ, number, unit);
}

static void put(struct pool_rig *rig, uint64_t number)
{
    unit_io(rig, PLX_BDEV_WRITE, number, unit);
}

static struct pck_root root_of(struct pool_rig *rig)
{
    struct pck_root r[2];
    bool whole[2];
    for (unsigned i = 0; i < 2; i++) {
        get(rig, i * PCK_ROOT_PLACE);
        whole[i] = pck_get_root(unit, &r[i]);
    }
    assert_true(whole[0] || whole[1]);
    return !whole[0] || (whole[1] && r[1].generation > r[0].generation) ? r[1] : r[0];
}

static void put_root(struct pool_rig *rig, const struct pck_root *r)
{
    memset(unit, 0, sizeof unit);
    pck_put_root(unit, r);
    put(rig, r->generation % 2 * PCK_ROOT_PLACE);
}

/*
 * Changes the unit that a chain of slots below an entry of the root leads to, and all CRCs on the way; slots end with
 * -1.
 */
static void change_below(struct pool_rig *rig, struct pck_entry *e, const int *slots,
                         void (*change)(uint8_t *mem, const void *arg), const void *arg)
{
    const uint64_t at = e->unit;
    assert_true(at != 0);
    get(rig, at);
    if (*slots >= 0) {
        struct pck_entry below = pck_get_entry(unit + *slots * 16);
        change_below(rig, &below, slots + 1, change, arg);
        get(rig, at);
        pck_put_entry(unit + *slots * 16, &below);
    } else {
        change(unit, arg);
    }
    put(rig, at);
    e->crc = pck_crc(unit, UNIT);
}

static void change_dir(struct pool_rig *rig, void (*change)(uint8_t *mem, const void *arg), const void *arg)
{
    static const int slots[] = {0, 0, -1};
    struct pck_root r = root_of(rig);
    change_below(rig, &r.dir, slots, change, arg);
    put_root(rig, &r);
}

static void change_map(struct pool_rig *rig, void (*change)(uint8_t *mem, const void *arg), const void *arg)
{
    static const int slots[] = {0, -1};
    struct pck_root r = root_of(rig);
    change_below(rig, &r.maps, slots, change, arg);
    put_root(rig, &r);
}

/* ---- a pool with one of each ---- */

static void make(struct pool_rig *rig, const char *url)
{
    uint8_t *data = tu_pattern(64 * UNIT, 1);
    struct tu t;
    rig_make(rig, url, NULL);
    rig_create(rig, "a", VOLUME);
    rig_open(rig, "a", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 64 * BLOCKS_A_UNIT, data), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 4800, 64 * BLOCKS_A_UNIT, data), 0);
    rig_do(rig, PLX_POOL_SNAPSHOT, "a", "one", 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 16, 30, data), 0);
    rig_do(rig, PLX_POOL_SNAPSHOT, "a", "two", 0);
    rig_do(rig, PLX_POOL_CLONE, "one", "b", 0);
    rig_do(rig, PLX_POOL_CLONE, "two", "c", 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, 24, 80, NULL), 0);
    rig_close(rig, &t);
    rig_do(rig, PLX_POOL_DELETE, "two", NULL, 0); /* a ghost */
    rig_settle(rig);
    assert_int_equal(pool_close_on(rig->pool), 0);
    rig->pool = NULL;
    free(data);
}

static void begin(struct pool_rig *rig)
{
    make(rig, "ram:8M");
    expect_clean(rig);
}

/* Mended, it can be opened, and has what it had. */
static void mend(struct pool_rig *rig, uint32_t volumes)
{
    for (int i = 0; i < 3; i++) /* what a first round takes out leaves space, which the next one frees */
        look(rig, true);
    expect_clean(rig);
    rig_pool(rig);
    uint32_t n = 0;
    for (uint32_t i = 0; i < rig->pool->slots; i++)
        n += rig->pool->volume[i] && rig->pool->volume[i]->name[0];
    assert_int_equal(n, volumes);
    rig_settle(rig);
    rig_check(rig);
    assert_int_equal(pool_close_on(rig->pool), 0);
    rig->pool = NULL;
    expect_clean(rig);
    rig_end(rig);
}

/* ---- what is done to it ---- */

static void test_a_pool_with_one_of_each_is_clean(void **state)
{
    struct pool_rig rig;
    (void)state;
    begin(&rig);
    struct plx_pool_check c = {.reactor = rig.reactor, .turn = rig_turn};
    assert_int_equal(plx_pool_check(rig.disk, &c, NULL), 0);
    assert_int_equal(c.volumes, 3);
    assert_int_equal(c.snapshots, 1);
    assert_int_equal(c.others, 1);
    assert_true(c.nodes >= 6);
    rig_end(&rig);
}

static void set_bits(uint8_t *mem, const void *arg)
{
    mem[*(const int *)arg / 8] |= (uint8_t)(1 << *(const int *)arg % 8);
}

static void clear_bit(uint8_t *mem, const void *arg)
{
    mem[*(const int *)arg / 8] &= (uint8_t) ~(1 << *(const int *)arg % 8);
}

static void test_a_unit_that_nothing_leads_to_is_freed(void **state)
{
    static const int last = 2047;
    struct pool_rig rig;
    (void)state;
    begin(&rig);
    change_map(&rig, set_bits, &last);
    expect(&rig, PLX_POOL_WASTE, true, "1 units of region 0 are not free, and nothing leads to them");
    mend(&rig, 4);
}

/* The first unit of the volume "a" is said to be free: the next write would go there. */
static void test_a_unit_in_use_that_is_free(void **state)
{
    struct pool_rig rig;
    (void)state;
    begin(&rig);
    struct pck_root r = root_of(&rig);
    const int first = (int)r.dir.unit;
    change_map(&rig, clear_bit, &first);
    expect(&rig, PLX_POOL_DAMAGE, true, "1 units of region 0 are in use, and free by its map");
    mend(&rig, 4);
}

static void flip(uint8_t *mem, const void *arg)
{
    mem[*(const int *)arg] ^= 0x10;
}

/* Without its CRC being made right. */
static void rot(struct pool_rig *rig, uint64_t number, int at)
{
    get(rig, number);
    flip(unit, &at);
    put(rig, number);
}

static void test_a_damaged_map_is_made_anew(void **state)
{
    struct pool_rig rig;
    (void)state;
    for (unsigned what = 0; what < 2; what++) {
        begin(&rig);
        struct pck_root r = root_of(&rig);
        get(&rig, r.maps.unit);
        const struct pck_entry e = pck_get_entry(unit);
        rot(&rig, what ? r.maps.unit : e.unit, 3);
        expect(&rig, PLX_POOL_DAMAGE, true, "the map of region 0");
        mend(&rig, 4);
    }
}

static void set_mapped(uint8_t *mem, const void *arg)
{
    struct pck_record r;
    (void)arg;
    pck_get_record(mem, &r);
    r.mapped += 3;
    pck_put_record(mem, &r);
}

static void test_a_wrong_count(void **state)
{
    struct pool_rig rig;
    (void)state;
    begin(&rig);
    change_dir(&rig, set_mapped, NULL);
    expect(&rig, PLX_POOL_WASTE, true, "a maps 118 units, and says that it maps 121");
    mend(&rig, 4);
    begin(&rig);
    struct pck_root r = root_of(&rig);
    r.used += 5;
    put_root(&rig, &r);
    expect(&rig, PLX_POOL_WASTE, true, "and the root says");
    mend(&rig, 4);
}

struct edit {
    unsigned record;
    void (*edit)(struct pck_record *r);
};

static void edit_record(uint8_t *mem, const void *arg)
{
    const struct edit *e = arg;
    struct pck_record r;
    pck_get_record(mem + e->record * PCK_RECORD_BYTES, &r);
    e->edit(&r);
    pck_put_record(mem + e->record * PCK_RECORD_BYTES, &r);
}

static void lose_name(struct pck_record *r)
{
    memset(r->name, 0, sizeof r->name);
}

static void twin_name(struct pck_record *r)
{
    memcpy(r->name, "b", 2);
}

static void absurd_size(struct pck_record *r)
{
    r->size = UINT64_MAX;
}

static void lose_parent(struct pck_record *r)
{
    r->parent = 100;
}

static void test_records_that_cannot_be(void **state)
{
    static const struct {
        struct edit edit;
        const char *text;
        bool mendable;
        uint32_t volumes; /* that there are then */
    } tries[] = {
        {{0, lose_name}, "has no name", true, 4},
        {{0, twin_name}, "have the same name", true, 4},
        {{3, absurd_size}, "its size cannot be", true, 3},
        {{3, lose_parent}, "goes back to volume 99", false, 0}, /* others have what it has */
    };
    struct pool_rig rig;
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        begin(&rig);
        struct pck_root r = root_of(&rig);
        r.slots = 128;
        put_root(&rig, &r);
        change_dir(&rig, edit_record, &tries[i].edit);
        expect(&rig, PLX_POOL_DAMAGE, tries[i].mendable, tries[i].text);
        if (tries[i].mendable)
            mend(&rig, tries[i].volumes);
        else
            rig_end(&rig);
    }
}

/* The page of all volumes has a bit that is another one, in one of them: the others are what they were. */
static void test_a_damaged_page_of_the_directory(void **state)
{
    struct pool_rig rig;
    (void)state;
    begin(&rig);
    struct pck_root r = root_of(&rig);
    for (int level = 0; level < 2; level++) {
        get(&rig, r.dir.unit);
        r.dir = pck_get_entry(unit);
    }
    rot(&rig, r.dir.unit, 3 * PCK_RECORD_BYTES + 72); /* where the tree of "b" is */
    expect(&rig, PLX_POOL_DAMAGE, true, "4 of them can be told, 1 cannot");
    mend(&rig, 3);
}

static struct pck_record record_of(struct pool_rig *rig, unsigned number)
{
    struct pck_root r = root_of(rig);
    struct pck_record record;
    for (int level = 0; level < 2; level++) {
        get(rig, r.dir.unit);
        r.dir = pck_get_entry(unit);
    }
    get(rig, r.dir.unit);
    pck_get_record(unit + number * PCK_RECORD_BYTES, &record);
    return record;
}

/* What is lost of a volume is said; nothing of its space is given out, and the others are as they were. */
static void test_a_damaged_node_costs_its_volume(void **state)
{
    struct pool_rig rig;
    (void)state;
    begin(&rig);
    const struct pck_record a = record_of(&rig, 0);
    rot(&rig, a.root.unit, 40);
    expect(&rig, PLX_POOL_DAMAGE, false, "a: the node of level 2 in unit");
    assert_non_null(strstr(seen.texts, "nothing that can be read leads to them"));
    look(&rig, true);
    rig_pool(&rig);
    rig_settle(&rig);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    rig_end(&rig);
}

struct entry_edit {
    unsigned slot;
    struct pck_entry e;
};

static void set_entry(uint8_t *mem, const void *arg)
{
    const struct entry_edit *e = arg;
    pck_put_entry(mem + e->slot * 16, &e->e);
}

/* An entry of the first leaf of volume "a" is another one. */
static void change_leaf(struct pool_rig *rig, unsigned slot, const struct pck_entry *e)
{
    static const int leaf[] = {0, -1};
    const struct entry_edit edit = {slot, *e};
    struct pck_record a = record_of(rig, 0);
    change_below(rig, &a.root, leaf, set_entry, &edit);
    struct pck_root r = root_of(rig);
    struct pck_entry path[3] = {r.dir};
    for (int level = 1; level < 3; level++) {
        get(rig, path[level - 1].unit);
        path[level] = pck_get_entry(unit);
    }
    get(rig, path[2].unit);
    pck_put_entry(unit + 72, &a.root);
    put(rig, path[2].unit);
    path[2].crc = pck_crc(unit, UNIT);
    for (int level = 1; level >= 0; level--) {
        get(rig, path[level].unit);
        pck_put_entry(unit, &path[level + 1]);
        put(rig, path[level].unit);
        path[level].crc = pck_crc(unit, UNIT);
    }
    r.dir = path[0];
    put_root(rig, &r);
}

static void test_entries_that_cannot_be(void **state)
{
    struct pool_rig rig;
    (void)state;
    make(&rig, "ram:8M");
    const struct pck_record a = record_of(&rig, 0);
    const struct {
        struct pck_entry e;
        const char *text;
    } tries[] = {
        {{5000, 3, 0}, "is none that a volume can have"},
        {{2, 3, 0}, "is none that a volume can have"},
        {{a.root.unit, 3, 0}, "is in use elsewhere as well"},
        {{1900, 100, 0}, "was entered at an instant that had not come"},
        {{1900, 1, 0}, "belongs to the snapshot that it goes back to, which has another one there"},
    };
    rig_end(&rig);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        begin(&rig);
        change_leaf(&rig, 200, &tries[i].e);
        look(&rig, false);
        if (!seen.per[PLX_POOL_DAMAGE] || !strstr(seen.texts, tries[i].text))
            fail_msg("not \"%s\", but: %s", tries[i].text, seen.texts);
        rig_end(&rig);
    }
}

static void test_a_torn_root_is_told(void **state)
{
    struct pool_rig rig;
    (void)state;
    begin(&rig);
    const struct pck_root r = root_of(&rig);
    rot(&rig, !(r.generation % 2) * PCK_ROOT_PLACE, 200);
    look(&rig, false);
    assert_int_equal(seen.per[PLX_POOL_NOTE], 1);
    assert_non_null(strstr(seen.texts, "the root of before is not whole"));
    mend(&rig, 4);
}

/* ---- the log ---- */

static void leave_log(struct pool_rig *rig)
{
    struct plx_crash_state s;
    struct plx_error err;
    uint8_t *data = tu_pattern(64 * UNIT, 1);
    struct tu t;
    rig_make(rig, "crash:ram:8M", NULL);
    rig_create(rig, "a", VOLUME);
    rig_open(rig, "a", &t);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 160 * i, 8, data), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    plx_bdev_crash_cut(rig->disk, NULL);
    rig_close(rig, &t);
    pool_close_on(rig->pool);
    rig->pool = NULL;
    do {
        rig_turn(rig->reactor);
        plx_crash_look(rig->disk, &s);
    } while (!s.settled);
    assert_int_equal(plx_bdev_crash_restore(rig->disk, &err), 0);
    free(data);
}

static void test_a_log_that_cannot_be_replayed(void **state)
{
    struct pool_rig rig;
    struct plx_error err;
    struct tu t;
    (void)state;
    leave_log(&rig);
    expect_clean(&rig);
    assert_non_null(strstr(seen.texts, "1 page of the log will be replayed"));
    const struct pck_root r = root_of(&rig);
    get(&rig, PCK_LOG_PLACE + r.log_first % r.log_units);
    const int64_t bytes = pck_get_page(unit, &r, r.log_first);
    const uint32_t change = PCK_CHANGE_BYTES + (r.flags & PCK_ROOT_CHECKSUMS ? 8 : 0); /* with the CRC of a unit */
    assert_int_equal(bytes, 20 * change);
    pck_put64(unit + PCK_PAGE_HEADER + 5 * change + 8, UINT64_MAX); /* the sixth is of no unit there is */
    pck_put_page(unit, &r, r.log_first, (uint32_t)bytes);
    put(&rig, PCK_LOG_PLACE + r.log_first % r.log_units);
    expect(&rig, PLX_POOL_DAMAGE, true, "goes beyond the end of its volume");
    const struct pool_keeper keeper = {rig.reactor, rig_turn};
    assert_int_equal(pool_open_on(rig.disk, &keeper, &rig.pool, &err), -EUCLEAN);
    look(&rig, true);
    expect_clean(&rig);
    rig_pool(&rig);
    assert_int_equal(rig.pool->volume[0]->mapped, 19);
    rig_open(&rig, "a", &t);
    uint8_t *data = tu_pattern(UNIT, 1), *is = calloc(1, UNIT);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 160 * i, 8, is), 0);
        assert_true(i == 5 ? tu_zeroed(is, UNIT) : !memcmp(is, data, UNIT));
    }
    free(data);
    free(is);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
}

/* ---- two snapshots that are being freed ---- */

/*
 * The older one of two is deleted while the other is being freed, and the pool is opened anew, upon which the older one
 * is gone through first.
 */
static void test_snapshots_that_are_freed_in_another_order(void **state)
{
    enum { LEAVES = 40 };
    struct pool_rig rig;
    struct tu t;
    uint8_t *data = tu_pattern(UNIT, 1);
    bool done[2];
    (void)state;
    rig_make(&rig, "ram:16M", NULL);
    rig_create(&rig, "a", LEAVES << 20);
    rig_open(&rig, "a", &t);
    for (unsigned i = 0; i < 3; i++) {
        static const char *const names[] = {"one", "two", "three"};
        for (uint64_t leaf = 0; leaf < LEAVES; leaf++)
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, leaf * 2048 + (leaf % 2 ? 8 * i : 0), 8, data), 0);
        rig_do(&rig, PLX_POOL_SNAPSHOT, "a", names[i], 0);
    }
    rig.pool->job_steps = 1;
    struct plx_pool_op two = {.kind = PLX_POOL_DELETE, .volume = "two"},
                       one = {.kind = PLX_POOL_DELETE, .volume = "one"};
    rig_begin(&rig, &two, &done[0]);
    const struct pool_volume *freed = rig.pool->volume[2];
    while (freed->done < (LEAVES / 2) << 8) {
        rig_turn(rig.reactor);
        assert_ptr_equal(rig.pool->volume[2], freed);
    }
    rig_begin(&rig, &one, &done[1]);
    while (!done[1])
        rig_turn(rig.reactor);
    rig_close(&rig, &t);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    expect_clean(&rig);
    assert_int_equal(seen.per[PLX_POOL_NOTE], 2); /* both are being freed */
    rig_pool(&rig);
    rig_settle(&rig);
    assert_null(rig.pool->volume[1]);
    assert_null(rig.pool->volume[2]);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    expect_clean(&rig);
    rig_end(&rig);
    free(data);
}

/* ---- power is cut in the middle of a repair ---- */

static void test_a_repair_that_is_cut_off(void **state)
{
    static const int last = 2047;
    struct plx_crash_state s;
    struct plx_error err;
    (void)state;
    bool cut = true;
    for (uint64_t at = 1; cut; at++) {
        struct pool_rig rig;
        make(&rig, "crash:ram:8M");
        change_map(&rig, set_bits, &last);
        change_dir(&rig, set_mapped, NULL);
        struct tu t = {.bdev = rig.disk, .reactor = rig.reactor, .info = plx_bdev_info(rig.disk)};
        assert_int_equal(plx_bdev_channel_get(rig.disk, rig.reactor, &t.ch), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
        plx_bdev_channel_put(t.ch);
        plx_crash_seed(rig.disk, at);
        plx_crash_arm(rig.disk, 0, at);
        struct plx_pool_check c = {.repair = true, .reactor = rig.reactor, .turn = rig_turn};
        const int ret = plx_pool_check(rig.disk, &c, &err);
        plx_crash_look(rig.disk, &s);
        cut = s.off;
        plx_crash_arm(rig.disk, 0, 0);
        assert_int_equal(ret, cut ? -EIO : 0);
        if (cut) {
            while (!s.settled) {
                rig_turn(rig.reactor);
                plx_crash_look(rig.disk, &s);
            }
            assert_int_equal(plx_bdev_crash_restore(rig.disk, &err), 0);
        }
        look(&rig, true); /* as it was, or as it is to be */
        if (seen.per[PLX_POOL_DAMAGE] || (seen.per[PLX_POOL_WASTE] && seen.per[PLX_POOL_WASTE] != 3))
            fail_msg("cut at %u: %s", (unsigned)at, seen.texts);
        mend(&rig, 4);
        assert_in_range(at, 1, 40);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pool_with_one_of_each_is_clean),
        cmocka_unit_test(test_a_unit_that_nothing_leads_to_is_freed),
        cmocka_unit_test(test_a_unit_in_use_that_is_free),
        cmocka_unit_test(test_a_damaged_map_is_made_anew),
        cmocka_unit_test(test_a_wrong_count),
        cmocka_unit_test(test_records_that_cannot_be),
        cmocka_unit_test(test_a_damaged_page_of_the_directory),
        cmocka_unit_test(test_a_damaged_node_costs_its_volume),
        cmocka_unit_test(test_entries_that_cannot_be),
        cmocka_unit_test(test_a_torn_root_is_told),
        cmocka_unit_test(test_a_log_that_cannot_be_replayed),
        cmocka_unit_test(test_snapshots_that_are_freed_in_another_order),
        cmocka_unit_test(test_a_repair_that_is_cut_off),
    };
    rig_simulate(true); /* nobody waits for timers */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_checksums(true);
    return failed + cmocka_run_group_tests_name("with checksums", tests, NULL, NULL);
}
