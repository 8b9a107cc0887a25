/* SPDX-License-Identifier: BSD-3-Clause */
/* What volumes there are, and who goes back to whom. */
#include "check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t records_a_page(const struct pck *c)
{
    return (uint32_t)(c->unit / PCK_RECORD_BYTES);
}

/* A unit of metadata. @return whether there can be one, and nobody else has it */
static bool take_meta(struct pck *c, const struct pck_entry *e, const char *what)
{
    if (e->unit >= c->root.units || pck_is_fixed(&c->root, e->unit)) {
        pck_say(c, PLX_POOL_DAMAGE, false, NULL, (int64_t)(e->unit & INT64_MAX),
                "%s leads to unit %llu, where there can be nothing", what, (unsigned long long)e->unit);
        return false;
    }
    if (!pck_bit_set(c, &c->meta, e->unit)) {
        pck_say(c, PLX_POOL_DAMAGE, false, NULL, (int64_t)e->unit, "%s leads to unit %llu a second time", what,
                (unsigned long long)e->unit);
        return false;
    }
    c->n_meta++;
    return true;
}

/* ---- records ---- */

static bool is_shown(const struct pck_volume *v)
{
    return v->r.state == PCK_VOLUME || v->r.state == PCK_SNAPSHOT;
}

static void name_volume(struct pck_volume *v)
{
    static const char *const kinds[PCK_STATES] = {"", "volume", "snapshot", "ghost", "dying volume"};
    if (is_shown(v) && pck_name_ok(v->r.name))
        snprintf(v->shown, sizeof v->shown, "%s", v->r.name);
    else
        snprintf(v->shown, sizeof v->shown, "%s %u", kinds[v->r.state], v->number);
}

/* Of a name that somebody has already a next round finds that there are two: then it is another one. */
static void name_anew(struct pck *c, char name[PCK_NAME], const char *what, uint32_t number)
{
    const bool again = !strncmp(name, what, strlen(what));
    memset(name, 0, PCK_NAME);
    if (again)
        snprintf(name, PCK_NAME, "%s-%u-%llu", what, number, (unsigned long long)c->root.generation);
    else
        snprintf(name, PCK_NAME, "%s-%u", what, number);
    c->records_wrong = true;
}

/* Names that cannot be are others. */
static void names_take(struct pck *c, struct pck_volume *v, const struct pck_entry *page)
{
    struct pck_record *r = &v->r;
    const int64_t unit = (int64_t)page->unit;
    if (is_shown(v) && !pck_name_ok(r->name)) {
        name_anew(c, r->name, "repaired", v->number);
        pck_say(c, PLX_POOL_DAMAGE, true, NULL, unit, "volume %u has no name; a repair names it %s", v->number,
                r->name);
    }
    name_volume(v);
    if (!is_shown(v) && !memchr(r->name, 0, PCK_NAME)) {
        memset(r->name, 0, PCK_NAME);
        c->records_wrong = true;
        pck_say(c, PLX_POOL_DAMAGE, true, v, unit, "%s has a name, which has no end", v->shown);
    }
    if (r->flags & PCK_OUTER && !pck_outer_ok(r->outer)) {
        name_anew(c, r->outer, "lost", v->number);
        pck_say(
            c, PLX_POOL_DAMAGE, true, v, unit,
            "%s goes back to a disk outside that has no name; a repair names that %s, and it is what a disk of that "
            "name is then",
            v->shown, r->outer);
    }
    if (!pck_attributes_ok(r->attributes)) {
        memset(r->attributes, 0, sizeof r->attributes);
        c->records_wrong = true;
        pck_say(c, PLX_POOL_DAMAGE, true, v, unit, "%s has attributes that cannot be; a repair takes them all away",
                v->shown);
    }
}

static void record_take(struct pck *c, uint32_t number, const uint8_t *mem, const struct pck_entry *page)
{
    struct pck_record r;
    pck_get_record(mem, &r);
    if (r.state == PCK_FREE)
        return;
    const char *newer = pck_record_newer(&r);
    if (newer) {
        pck_say(c, PLX_POOL_DAMAGE, false, NULL, (int64_t)page->unit,
                "volume %u %s, as a later version of this program may make it: a repair leaves the pool alone", number,
                newer);
        c->leave = c->blind = true;
        return;
    }
    const char *wrong = number >= c->root.slots ? "the directory has no room for it" : pck_record_wrong(&c->root, &r);
    if (wrong) {
        pck_say(c, PLX_POOL_DAMAGE, true, NULL, (int64_t)page->unit,
                "what the directory says of volume %u cannot be: %s; a repair takes it out, and leaves its space alone",
                number, wrong);
        c->set_aside++;
        c->blind = c->records_wrong = true;
        return;
    }
    struct pck_volume *v = calloc(1, sizeof *v);
    if (!v) {
        c->stop = plx_fail(c->err, -ENOMEM, "out of memory");
        return;
    }
    v->number = number;
    v->r = r;
    names_take(c, v, page);
    if (r.more) {
        pck_say(c, PLX_POOL_NOTE, false, v, (int64_t)page->unit,
                "%s has fields that are not known here, as a later version of this program may make them: a repair "
                "leaves the pool alone",
                v->shown);
        c->leave = true;
    }
    c->volume[number] = v;
    c->order[c->n++] = v;
}

/* Of a page that is not as it was written: whether this record of it is, by what it leads to. */
static bool record_holds(struct pck *c, uint32_t number, const uint8_t *mem)
{
    struct pck_record r;
    pck_get_record(mem, &r);
    if (r.state == PCK_FREE)
        return true;
    if (number >= c->root.slots || pck_record_newer(&r) || pck_record_wrong(&c->root, &r))
        return false;
    if ((r.state == PCK_VOLUME || r.state == PCK_SNAPSHOT) && !pck_name_ok(r.name))
        return false;
    if (r.flags & PCK_OUTER && !pck_outer_ok(r.outer))
        return false;
    return r.root.unit && r.root.unit < c->root.units && pck_node(c, &r.root);
}

static void take_damaged(struct pck *c, uint32_t first, const struct pck_entry *e, uint8_t *mem)
{
    unsigned kept = 0, lost = 0;
    const bool unread = pck_node_unread(c, e) || pck_disk_read_one(&c->disk, e->unit, mem);
    for (uint32_t i = 0; i < records_a_page(c) && !unread; i++) {
        const uint8_t *record = mem + (size_t)i * PCK_RECORD_BYTES;
        if (!pck_get32(record))
            continue;
        bool holds = record_holds(c, first + i, record);
        if (holds)
            record_take(c, first + i, record, e);
        kept += holds;
        lost += !holds;
    }
    c->blind = true;
    c->leave |= unread;
    c->records_wrong |= !unread;
    if (unread)
        pck_say(
            c, PLX_POOL_DAMAGE, false, NULL, (int64_t)e->unit,
            "the page of the directory with volumes %u to %u cannot be read, which may be so for now: a repair leaves "
            "the pool alone",
            first, first + records_a_page(c) - 1);
    else
        pck_say(c, PLX_POOL_DAMAGE, true, NULL, (int64_t)e->unit,
                "the page of the directory with volumes %u to %u is damaged: %u of them can be told, %u cannot", first,
                first + records_a_page(c) - 1, kept, lost);
}

static void take_page(struct pck *c, uint32_t page, const struct pck_entry *e)
{
    const uint32_t first = page * records_a_page(c);
    uint8_t *mem = c->level[0];
    if (!take_meta(c, e, "the directory")) {
        c->blind = true;
        return;
    }
    const uint8_t *node = pck_node(c, e);
    if (!node) {
        take_damaged(c, first, e, mem);
        return;
    }
    memcpy(mem, node, c->unit);
    for (uint32_t i = 0; i < records_a_page(c) && !c->stop; i++)
        record_take(c, first + i, mem + (size_t)i * PCK_RECORD_BYTES, e);
}

static void dir_walk(struct pck *c, const struct pck_entry *e, unsigned level, uint32_t page)
{
    if (!e->unit || c->stop)
        return;
    if (level == 0) {
        take_page(c, page, e);
        return;
    }
    const bool can_be = take_meta(c, e, "the directory");
    const uint8_t *node = can_be ? pck_node(c, e) : NULL;
    if (!node) {
        const bool unread = can_be && pck_node_unread(c, e);
        c->blind = true;
        c->leave |= unread;
        pck_say(c, PLX_POOL_DAMAGE, false, NULL, PLX_POOL_NOWHERE, "a node of level %u of the directory %s", level,
                unread ? "cannot be read, which may be so for now: a repair leaves the pool alone"
                       : "is damaged: the volumes below it are lost");
        return;
    }
    memcpy(c->level[level], node, c->unit);
    const uint32_t fan = 1U << pck_fan(&c->root);
    for (uint32_t i = 0; i < fan; i++) {
        const struct pck_entry below = pck_get_entry(c->level[level] + (size_t)i * 16);
        const uint64_t at = (uint64_t)page * fan + i;
        if (below.unit && at * (level == 1 ? records_a_page(c) : records_a_page(c) * (uint64_t)fan) >= PCK_SLOTS_MAX)
            pck_say(c, PLX_POOL_DAMAGE, false, NULL, PLX_POOL_NOWHERE, "the directory goes on beyond its end");
        else
            dir_walk(c, &below, level - 1, (uint32_t)at);
    }
}

/* ---- who goes back to whom ---- */

static void link_one(struct pck *c, struct pck_volume *v)
{
    struct pck_volume *s = v->r.parent ? c->volume[v->r.parent - 1] : NULL;
    if (!v->r.parent)
        return;
    if (s && s->r.state != PCK_VOLUME && (!v->r.instant || s->r.instant < v->r.instant)) {
        v->parent = s;
        s->children++;
        return;
    }
    v->orphan = true;
    c->records_wrong = true;
}

static int by_instant(const void *a, const void *b)
{
    const struct pck_volume *x = *(struct pck_volume *const *)a, *y = *(struct pck_volume *const *)b;
    const uint32_t i = x->r.instant - 1, k = y->r.instant - 1; /* volumes, which have 0, come last */
    if (x->orphan != y->orphan)
        return x->orphan ? 1 : -1;
    return i < k ? -1 : i > k;
}

static int by_name(const void *a, const void *b)
{
    return strncmp((*(struct pck_volume *const *)a)->r.name, (*(struct pck_volume *const *)b)->r.name, PCK_NAME);
}

static int by_uuid(const void *a, const void *b)
{
    return memcmp((*(struct pck_volume *const *)a)->r.uuid, (*(struct pck_volume *const *)b)->r.uuid, 16);
}

static void find_twins(struct pck *c)
{
    const struct pck_volume *w = NULL;
    qsort(c->order, c->n, sizeof(struct pck_volume *), by_name);
    for (uint32_t i = 0; i < c->n; i++) {
        struct pck_volume *v = c->order[i];
        if (!is_shown(v))
            continue;
        if (!w || strncmp(v->r.name, w->r.name, PCK_NAME)) {
            w = v;
            continue;
        }
        name_anew(c, v->r.name, "repaired", v->number);
        pck_say(c, PLX_POOL_DAMAGE, true, v, PLX_POOL_NOWHERE, "volumes %u and %u have the same name", w->number,
                v->number);
    }
    qsort(c->order, c->n, sizeof(struct pck_volume *), by_uuid);
    for (uint32_t i = 1; i < c->n; i++)
        if (is_shown(c->order[i]) && is_shown(c->order[i - 1]) && !by_uuid(&c->order[i], &c->order[i - 1]))
            pck_say(c, PLX_POOL_DAMAGE, false, c->order[i], PLX_POOL_NOWHERE, "volumes %u and %u have the same UUID",
                    c->order[i - 1]->number, c->order[i]->number);
}

static void check_kin(struct pck *c)
{
    for (uint32_t i = 0; i < c->n; i++) {
        struct pck_volume *v = c->order[i];
        const uint32_t state = v->r.state;
        c->opts->volumes += state == PCK_VOLUME;
        c->opts->snapshots += state == PCK_SNAPSHOT;
        c->opts->others += !is_shown(v);
        if (state == PCK_DYING && v->children > 1)
            pck_say(c, PLX_POOL_DAMAGE, false, v, PLX_POOL_NOWHERE, "%s is being freed, but %u others go back to it",
                    v->shown, v->children);
        if (state == PCK_GHOST && v->children <= 1)
            pck_say(c, PLX_POOL_NOTE, false, v, PLX_POOL_NOWHERE,
                    "%s is needed no longer, and is freed when the pool is opened", v->shown);
        if (state == PCK_DYING)
            pck_say(c, PLX_POOL_NOTE, false, v, PLX_POOL_NOWHERE,
                    "%s, which was deleted, is freed when the pool is opened: %llu of %llu units are", v->shown,
                    (unsigned long long)v->r.done, (unsigned long long)v->r.size);
    }
}

int pck_directory(struct pck *c)
{
    dir_walk(c, &c->root.dir, PCK_DIR_HEIGHT, 0);
    if (c->stop)
        return c->stop;
    find_twins(c);
    for (uint32_t i = 0; i < c->n; i++)
        link_one(c, c->order[i]);
    check_kin(c);
    qsort(c->order, c->n, sizeof(struct pck_volume *), by_instant);
    return c->stop;
}

void pck_record_page(struct pck *c, uint32_t page, uint8_t *mem)
{
    struct pck_entry e = c->root.dir;
    memset(mem, 0, c->unit);
    for (unsigned l = PCK_DIR_HEIGHT; l && e.unit; l--) {
        const uint8_t *node = e.unit < c->root.units ? pck_node(c, &e) : NULL;
        if (!node)
            return;
        const uint32_t slot = page >> ((l - 1) * pck_fan(&c->root)) & ((1U << pck_fan(&c->root)) - 1);
        e = pck_get_entry(node + (size_t)slot * 16);
    }
    if (e.unit && e.unit < c->root.units && pck_disk_read_one(&c->disk, e.unit, mem))
        memset(mem, 0, c->unit);
}
