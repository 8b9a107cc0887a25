/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What volumes there are, and what is done to them. An operation is tried on the keeper; what it changes it changes at
 * the moment of the next checkpoint, and it is done when that is on the disk.
 */
#include "op.h"
#include "disk.h"

#include "base/log.h"
#include "base/uuid.h"
#include "reactor/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- volumes in memory ---- */

int pool_slots(struct plx_pool *p, uint32_t slots)
{
    if (slots <= p->slots)
        return 0;
    if (slots > POOL_SLOTS_MAX)
        return -ENOSPC;
    slots = (uint32_t)plx_min_u64(plx_max_u64(slots, 2 * (uint64_t)p->slots), POOL_SLOTS_MAX);
    struct pool_volume **all = realloc(p->volume, slots * sizeof(struct pool_volume *));
    if (!all)
        return -ENOMEM;
    memset(all + p->slots, 0, (slots - p->slots) * sizeof(struct pool_volume *));
    p->volume = all;
    p->slots = slots;
    return 0;
}

struct pool_volume *pool_volume_new(struct plx_pool *p, uint32_t number)
{
    struct pool_volume *v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    v->number = number;
    v->tree.of = v;
    plx_list_init(&v->dying);
    for (unsigned i = 0; i < POOL_BUSY_LISTS; i++)
        plx_list_init(&v->busy[i]);
    p->volume[number] = v;
    return v;
}

static bool is_live(const struct pool_volume *v)
{
    return v && (v->state == POOL_VOLUME || v->state == POOL_SNAPSHOT);
}

/* A name that another has asked for is taken as well. */
static struct pool_volume *volume_named(struct plx_pool *p, const char *name)
{
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->volume[i] && p->volume[i]->name[0] && !strcmp(p->volume[i]->name, name))
            return p->volume[i];
    return NULL;
}

struct pool_volume *pool_volume_find(struct plx_pool *p, const char *name)
{
    uint8_t uuid[16];
    struct pool_volume *v = plx_uuid_parse(name, uuid) ? pool_volume_find_uuid(p, uuid) : NULL;
    if (!is_live(v)) /* a name that is the UUID of another means that one */
        v = volume_named(p, name);
    return is_live(v) ? v : NULL;
}

struct pool_volume *pool_volume_find_uuid(struct plx_pool *p, const uint8_t uuid[16])
{
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->volume[i] && !memcmp(p->volume[i]->uuid, uuid, sizeof p->volume[i]->uuid))
            return p->volume[i];
    return NULL;
}

bool pool_name_ok(const char *name)
{
    return pool_outer_name_ok(name) && !strchr(name, '/');
}

/* ---- records ---- */

bool pool_outer_name_ok(const char *name)
{
    size_t len = 0;
    for (size_t n; len < POOL_OUTER_NAME && (n = plx_text_printable(name + len));)
        len += n;
    return len && len < POOL_OUTER_NAME && !name[len];
}

void pool_volume_take_outer(struct pool_volume *v, const struct pool_volume *of)
{
    v->flags = (v->flags & ~(uint32_t)POOL_OUTER) | (of->flags & POOL_OUTER);
    memcpy(v->outer, of->outer, sizeof v->outer);
}

/* ---- operations ---- */

int pool_work_no_volume(struct plx_pool_op *op, const char *name)
{
    return plx_fail(&op->err, -ENOENT, "there is no volume named %.64s", name ? name : "");
}

/* It is not open, and stays so until this is over. */
static void work_bar(struct plx_pool_work *w)
{
    if (!w->bars)
        w->v->barred++;
    w->bars = true;
}

void pool_work_take(struct plx_pool_work *w)
{
    w->v->op = w;
    w->taken = true;
}

/* It is over, or not begun at all. */
static void work_unbar(struct plx_pool_work *w)
{
    if (w->bars)
        w->v->barred--;
    w->bars = false;
    if (w->end)
        w->end(w);
    for (struct plx_pool_work *each = w; each; each = each->with)
        if (each->taken)
            each->v->op = NULL;
    pool_wake(&w->pool->op_waits, 0);
}

/*
 * What has been begun on a volume is done to what it is then, and no other operation may have made it another until
 * then: that one waits. @return 0; POOL_AGAIN; or -EBUSY with err filled: something is being done to it that takes long
 */
static int check_free(struct plx_pool_work *w, const struct pool_volume *v)
{
    if (v->locked || v->pins)
        return plx_fail(&w->op->err, -EBUSY,
                        "%s is in use: its data or its parent is being changed, or another's that goes back to it",
                        v->name);
    if (!v->op || v->op == w)
        return 0;
    pool_wait_in(&w->pool->op_waits, &w->wait);
    return POOL_AGAIN;
}

/* Whether there is another instant; the last ones are for what is deleted. */
static int check_instant(struct plx_pool_work *w)
{
    if (w->pool->instant < UINT32_MAX - w->pool->slots)
        return 0;
    return plx_fail(&w->op->err, -ENOSPC, "the pool has had all the snapshots that it can ever have");
}

/* One that others go back to is not changed; of those that have been deleted it is waited for that they are freed. */
static int wait_for_children(struct plx_pool_work *w, const struct pool_volume *v)
{
    struct plx_pool *p = w->pool;
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->volume[i] && p->volume[i]->parent == v && plx_list_empty(&p->volume[i]->dying))
            return plx_fail(&w->op->err, -EINVAL,
                            "%s is a snapshot that others go back to, and stays as it is; they can be changed",
                            v->name);
    pool_checkpoint_wait(p, &w->wait);
    return POOL_AGAIN;
}

int pool_work_lock(struct plx_pool_work *w)
{
    if (w->taken) /* it may have another name by now */
        return 0;
    struct pool_volume *v = w->op->volume ? pool_volume_find(w->pool, w->op->volume) : NULL;
    if (!v)
        return pool_work_no_volume(w->op, w->op->volume);
    int ret = check_free(w, v);
    if (ret)
        return ret;
    w->v = v;
    if (v->state == POOL_SNAPSHOT && v->children)
        return wait_for_children(w, v);
    ret = v->state == POOL_SNAPSHOT ? check_instant(w) : 0;
    if (ret)
        return ret;
    pool_work_take(w);
    if (v->state != POOL_SNAPSHOT)
        return 0;
    v->instant = w->pool->instant++;
    v->changed = true;
    pool_volume_altered(v);
    return 0;
}

int pool_work_number(struct plx_pool *p, struct pool_volume **out)
{
    uint32_t number = 0;
    while (number < p->slots && p->volume[number])
        number++;
    int ret = pool_slots(p, number + 1);
    /* Its record may need a page of its own, for good, which the checkpoint takes. */
    if (!ret && pool_space_free_units(p) < pool_space_reserve(p) + 2 * POOL_LEVELS)
        ret = -ENOSPC;
    *out = ret ? NULL : pool_volume_new(p, number);
    return *out ? 0 : ret ? ret : -ENOMEM;
}

static int make_volume(struct plx_pool_work *w, struct pool_volume **out)
{
    struct plx_pool *p = w->pool;
    struct plx_pool_op *op = w->op;
    if (!op->name || !pool_name_ok(op->name))
        return plx_fail(&op->err, -EINVAL, "the name of a volume has 1 to %d bytes of printable characters, and no '/'",
                        POOL_NAME - 1);
    if (volume_named(p, op->name))
        return plx_fail(&op->err, -EEXIST, "there is a volume named %s already", op->name);
    if (plx_uuid_nil(op->uuid) && plx_uuid_random(op->uuid))
        return plx_fail(&op->err, -ENOMEM, "out of memory");
    if (pool_volume_find_uuid(p, op->uuid))
        return plx_fail(&op->err, -EEXIST, "there is a volume with this UUID already");
    struct pool_volume *v;
    int ret = pool_work_number(p, &v);
    if (ret)
        return plx_fail(&op->err, ret, "no more volumes fit: %s", strerror(-ret));
    memcpy(v->uuid, op->uuid, sizeof v->uuid);
    snprintf(v->name, sizeof v->name, "%s", op->name);
    v->created = plx_wall_seconds();
    v->changed = true;
    v->barred = 1; /* until it is on the disk: the log is not to name what a cut takes back */
    *out = v;
    return 0;
}

static int units_of(const struct plx_pool *p, struct plx_pool_op *op, uint64_t *units)
{
    *units = (op->size >> p->unit_shift) + !!(op->size & ((UINT64_C(1) << p->unit_shift) - 1));
    if (*units && !(*units >> POOL_UNITS_SHIFT_MAX))
        return 0;
    return plx_fail(&op->err, -EINVAL, "the size of a volume is more than 0, and less than %llu TiB",
                    (unsigned long long)1 << (POOL_UNITS_SHIFT_MAX + p->unit_shift - 40));
}

static int op_create(struct plx_pool_work *w, struct pool_try *t)
{
    struct plx_pool *p = w->pool;
    uint64_t units = 0;
    (void)t;
    int ret = units_of(p, w->op, &units);
    if (!ret && w->op->outer && (w->op->thick || !pool_outer_name_ok(w->op->outer)))
        ret = plx_fail(&w->op->err, -EINVAL,
                       "a volume that goes back to a disk outside is thin, and the name of that has at most %d bytes",
                       POOL_OUTER_NAME - 1);
    if (!ret && w->op->thick && !pool_space_may_set_aside(p, units))
        ret = plx_fail(&w->op->err, -ENOSPC, "there is no room for a thick volume of %llu bytes: %llu are free",
                       (unsigned long long)(units << p->unit_shift),
                       (unsigned long long)(pool_space_room(p) << p->unit_shift));
    if (!ret)
        ret = make_volume(w, &w->made);
    if (ret)
        return ret;
    w->made->size = units;
    w->made->tree.height = (uint8_t)pool_height(units, p->unit_shift);
    if (w->op->outer) {
        w->made->flags = POOL_OUTER;
        snprintf(w->made->outer, sizeof w->made->outer, "%s", w->op->outer);
    }
    if (w->op->thick) {
        w->made->flags = POOL_THICK;
        p->set_aside += units;
    }
    return 0;
}

static void apply_create(struct plx_pool_work *w)
{
    w->made->state = POOL_VOLUME;
}

/* root: the operation that it is a part of */
static int snapshot_one(struct plx_pool_work *w, struct plx_pool_work *root)
{
    struct plx_pool *p = w->pool;
    w->v = w->op->volume ? pool_volume_find(p, w->op->volume) : NULL;
    if (!w->v)
        return pool_work_no_volume(w->op, w->op->volume);
    if (w->v->state != POOL_VOLUME)
        return plx_fail(&w->op->err, -EINVAL, "%s is a snapshot already; a clone of it can have snapshots", w->v->name);
    int ret = check_instant(w);
    if (!ret)
        ret = check_free(root, w->v);
    if (!ret)
        ret = make_volume(w, &w->made);
    w->v->changed |= !ret;
    return ret ? ret : pool_attributes_set(w->made, w->op);
}

static void with_free(struct plx_pool_work *w, bool undo)
{
    for (struct plx_pool_work *each = w, *next; each; each = next) {
        next = each->with;
        if (undo && each->made) {
            w->pool->volume[each->made->number] = NULL;
            free(each->made);
            each->made = NULL;
        }
        if (each != w)
            free(each);
    }
    w->with = NULL;
}

/* All of them, or none. */
static int op_snapshot(struct plx_pool_work *w, struct pool_try *t)
{
    int ret = snapshot_one(w, w);
    (void)t;
    for (struct plx_pool_work *last = w; !ret && last->op->with; last = last->with) {
        struct plx_pool_work *one = last->with = calloc(1, sizeof *one);
        if (!one) {
            ret = -ENOMEM;
            break;
        }
        one->pool = w->pool;
        one->op = last->op->with;
        ret = snapshot_one(one, w);
        if (ret)
            w->op->err = one->op->err;
    }
    if (ret)
        with_free(w, true);
    for (struct plx_pool_work *each = w; !ret && each; each = each->with)
        pool_work_take(each);
    return ret;
}

static void apply_snapshot_one(struct plx_pool_work *w)
{
    struct plx_pool *p = w->pool;
    struct pool_volume *v = w->v, *s = w->made;
    if (v->flags & POOL_THICK) /* what it maps is not its own any more, and it would need all of it once more */
        p->set_aside -= v->size - v->mapped;
    v->flags &= ~(uint32_t)POOL_THICK;
    pool_volume_take_outer(s, v);
    s->state = POOL_SNAPSHOT;
    s->size = v->size;
    s->mapped = v->mapped;
    s->tree.root = v->tree.root;
    s->tree.height = v->tree.height;
    s->parent = v->parent;
    s->children = 1;
    s->instant = p->instant++;
    v->parent = s;
    p->families++;
    v->settling++;
}

static void apply_snapshot(struct plx_pool_work *w)
{
    for (; w; w = w->with)
        apply_snapshot_one(w);
}

int pool_work_tree(struct plx_pool_work *w, struct pool_try *t, const struct pool_tree *tree)
{
    const struct pool_node *n = tree->root.where.raw ? pool_node_find(w->pool, pool_entry_unit(&tree->root)) : NULL;
    if (!n || n->state != POOL_NODE_DIRTY)
        return 0;
    pool_checkpoint_wait(w->pool, &w->wait);
    t->kick = true;
    return POOL_AGAIN;
}

static int op_clone(struct plx_pool_work *w, struct pool_try *t)
{
    struct plx_pool *p = w->pool;
    w->v = w->op->volume ? pool_volume_find(p, w->op->volume) : NULL;
    if (!w->v)
        return pool_work_no_volume(w->op, w->op->volume);
    if (w->v->state != POOL_SNAPSHOT)
        return plx_fail(&w->op->err, -EINVAL, "%s is no snapshot; a clone is made of one", w->v->name);
    int ret = w->v->locked ? check_free(w, w->v) : pool_work_tree(w, t, &w->v->tree);
    if (!ret)
        ret = make_volume(w, &w->made);
    if (ret)
        return ret;
    pool_volume_take_outer(w->made, w->v);
    w->made->parent = w->v; /* which stays as it is from now on */
    w->v->children++;
    w->made->size = w->v->size;
    w->made->mapped = w->v->mapped;
    w->made->tree.root = w->v->tree.root;
    w->made->tree.height = w->v->tree.height;
    return 0;
}

static int op_delete(struct plx_pool_work *w, struct pool_try *t)
{
    (void)t;
    w->v = w->op->volume ? pool_volume_find(w->pool, w->op->volume) : NULL;
    if (!w->v)
        return pool_work_no_volume(w->op, w->op->volume);
    if (w->v->disk)
        return plx_fail(&w->op->err, -EBUSY, "%s is in use", w->v->name);
    int ret = check_free(w, w->v);
    if (ret)
        return ret;
    for (uint32_t i = 0; i < w->pool->slots; i++) /* which have of their own what it has, from now on */
        if (w->pool->volume[i] && pool_volume_live_parent(w->pool->volume[i]) == w->v)
            pool_volume_altered(w->pool->volume[i]);
    w->v->name[0] = 0; /* nobody finds it any more */
    memset(w->v->uuid, 0, sizeof w->v->uuid);
    w->v->changed = true;
    return 0;
}

static void apply_delete(struct plx_pool_work *w)
{
    struct plx_pool *p = w->pool;
    if (w->v->flags & POOL_THICK)
        p->set_aside -= w->v->size - w->v->mapped;
    if (w->v->children > 1 || w->v->pins) {
        w->v->state = POOL_GHOST;
        pool_ghost_stale(p, w->v, true);
    } else {
        pool_volume_die(p, w->v);
    }
}

static int op_rename(struct plx_pool_work *w, struct pool_try *t)
{
    struct plx_pool *p = w->pool;
    (void)t;
    w->v = w->op->volume ? pool_volume_find(p, w->op->volume) : NULL;
    if (!w->v)
        return pool_work_no_volume(w->op, w->op->volume);
    if (!w->op->name || !pool_name_ok(w->op->name))
        return plx_fail(&w->op->err, -EINVAL, "the name of a volume has 1 to %d bytes of printable characters, no '/'",
                        POOL_NAME - 1);
    struct pool_volume *other = volume_named(p, w->op->name);
    if (other && other != w->v)
        return plx_fail(&w->op->err, -EEXIST, "there is a volume named %s already", w->op->name);
    snprintf(w->v->name, sizeof w->v->name, "%s", w->op->name);
    w->v->changed = true;
    return 0;
}

static int op_set_checksum(struct plx_pool_work *w, struct pool_try *t)
{
    (void)t;
    w->v = w->op->volume ? pool_volume_find(w->pool, w->op->volume) : NULL;
    if (!w->v)
        return pool_work_no_volume(w->op, w->op->volume);
    if (w->v->state != POOL_SNAPSHOT)
        return plx_fail(&w->op->err, -EPERM, "%s is no snapshot, and may change", w->v->name);
    int ret = check_free(w, w->v);
    if (!ret && w->v->altered != w->op->altered)
        ret = plx_fail(&w->op->err, -EBUSY, "what %s has of its own has changed meanwhile", w->v->name);
    if (ret)
        return ret;
    w->v->has_checksum = w->v->changed = true;
    w->v->checksum = w->op->checksum;
    return 0;
}

static int op_revert(struct plx_pool_work *w, struct pool_try *t)
{
    struct plx_pool *p = w->pool;
    struct pool_volume *s = w->op->name ? pool_volume_find(p, w->op->name) : NULL;
    (void)t;
    w->v = w->op->volume ? pool_volume_find(p, w->op->volume) : NULL;
    if (!w->v || !s)
        return pool_work_no_volume(w->op, w->v ? w->op->name : w->op->volume);
    int ret = check_free(w, w->v);
    if (ret)
        return ret;
    const struct pool_volume *now = pool_volume_live_parent(w->v);
    if (w->v->state != POOL_VOLUME || now != s)
        return plx_fail(&w->op->err, -EINVAL, "%s goes back to %s, and not to %s", w->v->name,
                        now ? now->name : "nothing", s->name);
    if (w->v->disk)
        return plx_fail(&w->op->err, -EBUSY, "%s is in use", w->v->name);
    if (w->v->flags & POOL_THICK)
        return plx_fail(&w->op->err, -EINVAL, "%s is thick", w->v->name);
    ret = check_instant(w);
    if (ret)
        return ret;
    ret = pool_work_number(p, &w->made);
    if (ret)
        return plx_fail(&w->op->err, ret, "no more volumes fit: %s", strerror(-ret));
    w->made->changed = w->v->changed = true;
    w->to = s;
    pool_work_take(w);
    work_bar(w);
    return 0;
}

/* What it was goes its own way, with whatever deleted snapshots there are in between, and is freed there. */
static void apply_revert(struct plx_pool_work *w)
{
    struct pool_volume *v = w->v, *was = w->made, *s = w->to;
    pool_volume_take_outer(was, v);
    was->size = v->size;
    was->mapped = v->mapped;
    was->tree.root = v->tree.root;
    was->tree.height = v->tree.height;
    was->parent = v->parent;
    v->parent = s;
    s->children++;
    w->pool->families++;
    v->tree.root = s->tree.root;
    v->tree.height = s->tree.height;
    v->size = s->size;
    v->mapped = s->mapped;
    was->instant = w->pool->instant++; /* as if it was a snapshot that is deleted */
    pool_volume_die(w->pool, was);
}

static int op_freeze(struct plx_pool_work *w, struct pool_try *t)
{
    struct plx_pool *p = w->pool;
    (void)t;
    w->v = w->op->volume ? pool_volume_find(p, w->op->volume) : NULL;
    if (!w->v)
        return pool_work_no_volume(w->op, w->op->volume);
    if (w->v->state != POOL_VOLUME)
        return plx_fail(&w->op->err, -EINVAL, "%s is a snapshot already", w->v->name);
    if (w->v->disk)
        return plx_fail(&w->op->err, -EBUSY, "%s is in use", w->v->name);
    int ret = check_instant(w);
    if (!ret)
        ret = check_free(w, w->v);
    if (ret)
        return ret;
    w->v->changed = true;
    pool_work_take(w);
    work_bar(w);
    return 0;
}

static void apply_freeze(struct plx_pool_work *w)
{
    struct pool_volume *v = w->v;
    if (v->flags & POOL_THICK)
        w->pool->set_aside -= v->size - v->mapped;
    v->flags &= ~(uint32_t)POOL_THICK;
    v->state = POOL_SNAPSHOT;
    v->instant = w->pool->instant++;
}

static int op_name_it(struct plx_pool_work *w, struct pool_try *t)
{
    (void)t;
    if (w->op->name && pool_name_ok(w->op->name))
        return 0;
    return plx_fail(&w->op->err, -EINVAL, "the name of a pool has 1 to %d bytes of printable characters, and no '/'",
                    POOL_NAME - 1);
}

static void apply_name_it(struct plx_pool_work *w)
{
    memset(w->pool->name, 0, sizeof w->pool->name);
    memccpy(w->pool->name, w->op->name, 0, sizeof w->pool->name - 1);
}

/* It becomes smaller by what is unmapped first; from then on hosts do not get there. */
static int op_resize(struct plx_pool_work *w, struct pool_try *t)
{
    struct plx_pool *p = w->pool;
    uint64_t units = 0;
    if (!w->taken) /* else it may have another name by now */
        w->v = w->op->volume ? pool_volume_find(p, w->op->volume) : NULL;
    if (!w->v)
        return pool_work_no_volume(w->op, w->op->volume);
    int ret = units_of(p, w->op, &units);
    if (!ret)
        ret = check_free(w, w->v);
    if (ret)
        return ret;
    if (w->v->state != POOL_VOLUME)
        return plx_fail(&w->op->err, -EROFS, "%s is a snapshot, and stays as it is", w->v->name);
    if (units > w->v->size && w->v->flags & POOL_THICK && !pool_space_may_set_aside(p, units - w->v->size))
        return plx_fail(&w->op->err, -ENOSPC, "there is no room for a thick volume of that size: %llu bytes are free",
                        (unsigned long long)(pool_space_room(p) << p->unit_shift));
    if (units < w->v->size && w->v->disk)
        return plx_fail(&w->op->err, -EBUSY, "%s is in use, and cannot become smaller", w->v->name);
    if (!w->cut)
        w->cut = units;
    pool_work_take(w);
    work_bar(w); /* who opened it before the checkpoint is on the disk would write to what a cut takes back */
    while (w->cut < w->v->size) {
        uint64_t n = w->v->size - w->cut;
        ret = pool_volume_unmap(p, t, w->v, w->cut, &n, true);
        if (ret)
            return ret;
        w->cut += n;
    }
    ret = pool_tree_raise(p, t, &w->v->tree, pool_height(units, p->unit_shift));
    w->v->changed = true;
    w->cut = units;
    if (!ret && w->v->flags & POOL_THICK)
        p->set_aside += units - w->v->size; /* now, as others may want it */
    return ret;
}

static void apply_resize(struct plx_pool_work *w)
{
    w->v->size = w->cut;
}

static int op_grow(struct plx_pool_work *w, struct pool_try *t)
{
    int ret = pool_grow_try(w->pool, t, &w->op->err);
    w->cut = ret ? 0 : w->pool->units_next;
    return ret;
}

/* ---- how it goes ---- */

enum { NEEDS_ALL = 1, NEEDS_NAMES = 2 }; /* what they have, as some of it is freed or judged; what they are called */

static const struct op_kind {
    int (*attempt)(struct plx_pool_work *w, struct pool_try *t); /* 0, POOL_AGAIN, or -errno with op->err filled */
    void (*apply)(struct plx_pool_work *w);                      /* or NULL */
    unsigned needs;                                              /* of all volumes */
} op_kinds[] = {
    [PLX_POOL_CREATE] = {op_create, apply_create, NEEDS_NAMES},
    [PLX_POOL_SNAPSHOT] = {op_snapshot, apply_snapshot, NEEDS_NAMES},
    [PLX_POOL_CLONE] = {op_clone, apply_create, NEEDS_NAMES},
    [PLX_POOL_DELETE] = {op_delete, apply_delete, NEEDS_ALL},
    [PLX_POOL_RENAME] = {op_rename, NULL, NEEDS_NAMES},
    [PLX_POOL_RESIZE] = {op_resize, apply_resize, 0},
    [PLX_POOL_REVERT] = {op_revert, apply_revert, NEEDS_ALL},
    [PLX_POOL_FREEZE] = {op_freeze, apply_freeze, 0},
    [PLX_POOL_NAME_IT] = {op_name_it, apply_name_it, 0},
    [PLX_POOL_GROW] = {op_grow, NULL, 0},
    [PLX_POOL_SET] = {pool_attributes_attempt, NULL, 0},
    [PLX_POOL_SET_CHECKSUM] = {op_set_checksum, NULL, NEEDS_ALL},
    [PLX_POOL_INFLATE] = {pool_own_attempt, pool_own_apply, NEEDS_ALL},
    [PLX_POOL_DECOUPLE] = {pool_own_attempt, pool_own_apply, NEEDS_ALL},
    [PLX_POOL_SET_PARENT] = {pool_own_attempt, pool_own_apply, NEEDS_ALL},
    [PLX_POOL_SET_OUTER] = {pool_own_attempt, pool_own_apply, NEEDS_ALL},
};

static void op_told(struct plx_msg *msg)
{
    struct plx_pool_op *op = plx_container_of(msg, struct plx_pool_op, msg);
    op->done(op);
}

static void work_over(struct plx_pool_work *w, int result)
{
    struct plx_pool_op *op = w->op;
    struct plx_pool *p = w->pool;
    free(w);
    p->works--;
    op->result = result;
    op->msg.fn = op_told;
    plx_reactor_send(op->reactor ? op->reactor : p->keeper, &op->msg);
}

void pool_work_leave(struct plx_pool_work *w)
{
    struct pool_disk *d = w->v->disk;
    if (d && !d->closing)
        w->leaves = pool_outer_exchange(d, &w->outer);
}

static void work_left(struct pool_wait *wait)
{
    struct plx_pool_work *w = plx_container_of(wait, struct plx_pool_work, wait);
    work_over(w, w->result);
}

/* Disks outside are let go before that is told, so that they can be closed then. The keeper's, without the lock. */
static void work_finish(struct plx_pool_work *w, int result)
{
    struct pool_outer *leaves = w->leaves;
    w->result = result;
    if (w->outer_ch)
        plx_bdev_channel_put(w->outer_ch);
    if (w->outer)
        pool_outer_put(w->outer);
    if (!leaves) {
        work_over(w, result);
        return;
    }
    w->wait.again = work_left;
    pool_outer_leave(leaves, &w->wait);
}

void pool_work_fail(struct plx_pool_work *w, int ret)
{
    pool_lock(w->pool);
    work_unbar(w);
    pool_unlock(w->pool);
    if (!w->op->err.text[0])
        plx_fail(&w->op->err, ret, "%s", strerror(-ret));
    work_finish(w, ret);
}

static void op_apply(struct plx_pool *p, struct pool_apply *a)
{
    struct plx_pool_work *w = plx_container_of(a, struct plx_pool_work, apply);
    (void)p;
    w->applied = true;
    if (op_kinds[w->op->kind].apply)
        op_kinds[w->op->kind].apply(w);
}

static void op_applied(struct plx_pool *p, struct pool_apply *a, uint16_t status)
{
    struct plx_pool_work *w = plx_container_of(a, struct plx_pool_work, apply);
    if (w->op->kind == PLX_POOL_SNAPSHOT) {
        for (struct plx_pool_work *each = w->applied ? w : NULL; each; each = each->with)
            each->v->settling--;
        pool_wake(&p->busy_waits, 0);
    }
    if (w->op->kind == PLX_POOL_GROW && w->cut) /* else it is another's that is under way */
        pool_grow_over(p, !status);
    const bool makes =
        w->op->kind == PLX_POOL_CREATE || w->op->kind == PLX_POOL_SNAPSHOT || w->op->kind == PLX_POOL_CLONE;
    for (struct plx_pool_work *each = makes && w->applied ? w : NULL; each; each = each->with)
        each->made->barred--;
    const bool resized = !status && w->op->kind == PLX_POOL_RESIZE;
    const int result = status ? plx_fail(&w->op->err, -EIO, "pool %s cannot be written to", pool_shown(p)) : 0;
    if (resized)
        pool_disk_resized(w->v);
    work_unbar(w);
    with_free(w, false);
    if (resized || w->outer || w->leaves) {
        w->result = result;
        plx_list_add_tail(&p->late, &a->link);
        return;
    }
    work_over(w, result);
}

void pool_ops_late(struct plx_pool *p)
{
    pool_disks_tell(p);
    pool_lock(p);
    while (!plx_list_empty(&p->late)) {
        struct pool_apply *a = plx_list_entry(p->late.next, struct pool_apply, link);
        struct plx_pool_work *w = plx_container_of(a, struct plx_pool_work, apply);
        plx_list_del(&a->link);
        pool_unlock(p);
        work_finish(w, w->result);
        pool_lock(p);
    }
    pool_unlock(p);
}

static int work_may(const struct plx_pool_work *w)
{
    const struct plx_pool *p = w->pool;
    if (p->broken)
        return plx_fail(&w->op->err, -EROFS, "pool %s could not be written to", pool_shown(p));
    const unsigned needs = op_kinds[w->op->kind].needs;
    if ((p->lost && needs & NEEDS_ALL) || (p->kept && needs & NEEDS_NAMES))
        return plx_fail(&w->op->err, -EUCLEAN,
                        "pool %s has lost volumes, whose names, and what they share with others, are not known: that "
                        "cannot be done; `pollux pool check` says what a repair can do",
                        pool_shown(p));
    return 0;
}

void pool_work_try(struct plx_pool_work *w)
{
    struct plx_pool *p = w->pool;
    struct pool_try t = {.ch = p->keeper_ch, .wait = &w->wait, .kick = true};
    w->begin = NULL;
    pool_lock(p);
    int ret = work_may(w);
    if (!ret)
        ret = op_kinds[w->op->kind].attempt(w, &t);
    if (!ret) {
        w->apply.apply = op_apply;
        w->apply.over = op_applied;
        pool_checkpoint_apply(p, &w->apply);
    }
    pool_try_end(p, &t);
    if (ret == POOL_AGAIN && w->begin)
        w->begin(w);
    if (ret && ret != POOL_AGAIN)
        pool_work_fail(w, ret);
}

void pool_work_yield(struct plx_pool_work *w)
{
    pool_wake_one(&w->wait, 0);
}

static void op_again(struct pool_wait *wait)
{
    struct plx_pool_work *w = plx_container_of(wait, struct plx_pool_work, wait);
    if (!wait->status) {
        pool_work_try(w);
        return;
    }
    pool_work_fail(w, plx_fail(&w->op->err, -EIO, "the pool cannot be read or written"));
}

static void op_begin(struct plx_msg *msg)
{
    struct plx_pool_op *op = plx_container_of(msg, struct plx_pool_op, msg);
    struct plx_pool_work *w = calloc(1, sizeof *w);
    if (!w) {
        op->result = plx_fail(&op->err, -ENOMEM, "out of memory");
        op->msg.fn = op_told;
        plx_reactor_send(op->reactor ? op->reactor : op->pool->keeper, &op->msg);
        return;
    }
    w->pool = op->pool;
    w->op = op;
    w->wait.reactor = op->pool->keeper;
    w->wait.again = op_again;
    w->pool->works++;
    pool_work_try(w);
}

void plx_pool_submit(struct plx_pool *pool, struct plx_pool_op *op)
{
    op->pool = pool;
    op->err.text[0] = 0;
    op->msg.fn = op_begin;
    plx_reactor_send(pool->keeper, &op->msg);
}

void plx_pool_cancel(struct plx_pool *pool)
{
    atomic_store(&pool->cancelled, true);
}

struct awaited {
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool done;
};

static void awaited_done(struct plx_pool_op *op)
{
    struct awaited *a = op->arg;
    pthread_mutex_lock(&a->lock);
    a->done = true;
    pthread_cond_signal(&a->over);
    pthread_mutex_unlock(&a->lock);
}

int plx_pool_do(struct plx_pool *pool, struct plx_pool_op *op)
{
    struct awaited a = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    op->done = awaited_done;
    op->arg = &a;
    op->reactor = NULL;
    plx_pool_submit(pool, op);
    pthread_mutex_lock(&a.lock);
    while (!a.done)
        pthread_cond_wait(&a.over, &a.lock);
    pthread_mutex_unlock(&a.lock);
    return op->result;
}

/* ---- for people ---- */

void plx_pool_get_info(struct plx_pool *p, struct plx_pool_info *out)
{
    pool_lock(p);
    const uint64_t never = pool_space_fixed(p) + p->spare;
    *out = (struct plx_pool_info){
        .disk = p->disk,
        .unit = 1U << p->unit_shift,
        .cluster = p->cluster,
        .size = p->units << p->unit_shift,
        .checksums = p->flags & POOL_CHECKSUMS,
        .damages = p->damages,
        .mended = p->mended,
        .beyond = pool_grow_room(p) << p->unit_shift,
        .usable = never < p->units ? (p->units - never) << p->unit_shift : 0,
        .free = pool_space_room(p) << p->unit_shift,
        .set_aside = p->set_aside << p->unit_shift,
        .freeing = !p->lost && (!plx_list_empty(&p->dying) || !pool_ghosts_idle(p)),
        .broken = p->broken,
        .lost = p->lost,
    };
    memcpy(out->name, p->name, sizeof out->name);
    memcpy(out->uuid, p->uuid, sizeof out->uuid);
    pool_unlock(p);
}

/* A snapshot that was deleted is there for as long as others go back to it, but nobody sees it. */
struct pool_volume *pool_volume_live_parent(const struct pool_volume *v)
{
    struct pool_volume *s = v->parent;
    while (s && !(is_live(s) && s->name[0]))
        s = s->parent;
    return s;
}

static void volume_info_fill(const struct plx_pool *p, const struct pool_volume *v, struct plx_volume_info *out)
{
    const struct pool_volume *parent = pool_volume_live_parent(v);
    *out = (struct plx_volume_info){
        .size = v->size << p->unit_shift,
        .mapped = v->mapped << p->unit_shift,
        .snapshot = v->state == POOL_SNAPSHOT,
        .thick = v->flags & POOL_THICK,
        .children = v->children,
        .busy = v->locked || v->pins,
        .altered = v->altered,
        .created = v->created,
        .disk = pool_disk_of(v),
    };
    memcpy(out->name, v->name, sizeof out->name);
    memcpy(out->uuid, v->uuid, sizeof out->uuid);
    if (parent)
        memcpy(out->parent, parent->name, sizeof out->parent);
    memcpy(out->outer, v->outer, sizeof out->outer);
}

void plx_volume_get_info(struct plx_bdev *volume, struct plx_volume_info *out)
{
    struct plx_pool *p = plx_volume_pool(volume);
    pool_lock(p);
    volume_info_fill(p, pool_volume_of(volume), out);
    pool_unlock(p);
}

void plx_volume_each_child(struct plx_bdev *snapshot, void (*fn)(void *arg, const char *name), void *arg)
{
    struct plx_pool *p = plx_volume_pool(snapshot);
    const struct pool_volume *s = pool_volume_of(snapshot);
    pool_lock(p);
    for (uint32_t i = 0; i < p->slots; i++) {
        char name[POOL_NAME];
        const struct pool_volume *v = p->volume[i];
        if (!is_live(v) || !v->name[0] || pool_volume_live_parent(v) != s)
            continue;
        memcpy(name, v->name, sizeof name);
        pool_unlock(p);
        fn(arg, name);
        pool_lock(p);
    }
    pool_unlock(p);
}

void plx_pool_each(struct plx_pool *p, bool (*fn)(void *arg, const struct plx_volume_info *info), void *arg)
{
    pool_lock(p);
    for (uint32_t i = 0; i < p->slots; i++) {
        const struct pool_volume *v = p->volume[i];
        if (!is_live(v) || !v->name[0])
            continue;
        struct plx_volume_info info;
        volume_info_fill(p, v, &info);
        pool_unlock(p);
        bool more = fn(arg, &info);
        pool_lock(p);
        if (!more)
            break;
    }
    pool_unlock(p);
}
