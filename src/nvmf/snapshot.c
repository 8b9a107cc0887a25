/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What hosts see: a snapshot of the target, made of images of its subsystems. Made, counted and freed on the control
 * reactor; read, and never written, on all of them.
 */
#include "nvmf/nvmf.h"

#include <stdlib.h>
#include <string.h>

/* ---- making ---- */

/* A copy of an array, of which there may be nothing. @return false without memory */
static bool copy_array(void *out, const void *from, size_t n, size_t size)
{
    void *copy = calloc(n ? n : 1, size);
    if (copy && n)
        memcpy(copy, from, n * size);
    *(void **)out = copy;
    return copy != NULL;
}

struct nvmf_table *nvmf_table_new(uint32_t nns)
{
    struct nvmf_table *table = calloc(1, sizeof *table + nns * sizeof table->ns[0]);
    if (table) {
        table->refs = 1;
        table->nns = nns;
    }
    return table;
}

void nvmf_table_put(struct nvmf_table *table)
{
    if (table && --table->refs == 0)
        free(table);
}

void nvmf_image_show(struct nvmf_image_ns *entry, struct nvmf_ns *ns)
{
    ns->seen = true;
    entry->ns = ns;
    entry->blocks = plx_bdev_blocks(ns->bdev);
    entry->anagrpid = ns->anagrpid;
    entry->taken = ns->taken;
}

static void image_free(struct nvmf_image *image)
{
    for (unsigned i = 0; i < image->nviews; i++)
        nvmf_table_put(image->views[i].image.table);
    free(image->views);
    nvmf_table_put(image->table);
    nvmf_table_put(image->all);
    free(image->ports);
    free(image->hosts);
    free(image);
}

void nvmf_image_put(struct nvmf_image *image)
{
    if (--image->refs == 0)
        image_free(image);
}

/* All namespaces, or only those that every host sees. */
static struct nvmf_table *make_table(const struct plx_nvmf_subsystem *s, bool masked)
{
    struct nvmf_table *table = nvmf_table_new(s->nns);
    for (uint32_t i = 0; table && i < s->nns; i++) {
        table->ns[i].changed = s->changed[i];
        if (s->ns[i] && (masked || !s->ns[i]->masked))
            nvmf_image_show(&table->ns[i], s->ns[i]);
    }
    return table;
}

static bool any_masked(const struct plx_nvmf_subsystem *s)
{
    for (uint32_t i = 0; i < s->nns; i++)
        if (s->ns[i] && s->ns[i]->masked)
            return true;
    return false;
}

/* What commands disks can do; hosts look when they connect, so this includes those that come to them later. */
static struct nvmf_abilities table_abilities(const struct nvmf_table *table)
{
    struct nvmf_abilities can = {.append_bytes = UINT32_MAX};
    for (uint32_t i = 0; i < table->nns; i++) {
        const struct plx_bdev_info *info = table->ns[i].ns ? plx_bdev_info(table->ns[i].ns->bdev) : NULL;
        if (!info)
            continue;
        if (!info->zone_blocks) {
            can.ops |= info->ops;
            continue;
        }
        can.zoned_ops |= info->ops;
        can.append_bytes =
            (uint32_t)plx_min_u64(can.append_bytes, (uint64_t)info->max_append_blocks * info->block_size);
    }
    return can;
}

static bool add_tables(struct nvmf_image *image, const struct plx_nvmf_subsystem *s)
{
    image->all = make_table(s, true);
    if (!image->all)
        return false;
    image->can = table_abilities(image->all);
    if (any_masked(s)) {
        image->table = make_table(s, false);
    } else {
        image->table = image->all;
        image->all->refs++;
    }
    if (!image->table)
        return false;
    image->ns = image->table->ns;
    image->nns = image->table->nns;
    return true;
}

static struct nvmf_image *image_make(struct plx_nvmf_subsystem *s)
{
    const uint64_t generation = s->target->generation;
    struct nvmf_image *image = calloc(1, sizeof *image);
    if (!image)
        return NULL;
    image->subsys = s;
    image->whole = image;
    image->refs = 1;
    image->allow_any_host = s->allow_any_host;
    image->everywhere = s->everywhere;
    image->nhosts = s->nhosts;
    image->nports = s->nports;
    for (unsigned i = 0; i < s->nports; i++)
        if (s->ports[i].changed == NVMF_NEXT)
            s->ports[i].changed = generation;
    for (uint32_t i = 0; i < s->nns; i++)
        if (s->changed[i] == NVMF_NEXT)
            s->changed[i] = generation;
    if (copy_array(&image->hosts, s->hosts, s->nhosts, sizeof *s->hosts) &&
        copy_array(&image->ports, s->ports, s->nports, sizeof *s->ports) && add_tables(image, s) &&
        nvmf_mask_make(s, image))
        return image;
    image_free(image);
    return NULL;
}

/* A subsystem's latest image, made anew if it has changed. */
static struct nvmf_image *image_of(struct plx_nvmf_subsystem *s)
{
    if (s->dirty || !s->image) {
        struct nvmf_image *image = image_make(s);
        if (!image)
            return NULL;
        if (s->image)
            nvmf_image_put(s->image);
        s->image = image;
        s->dirty = false;
    }
    s->image->refs++;
    return s->image;
}

static bool copy_listeners(struct nvmf_snapshot *snap, const struct plx_nvmf_target *t)
{
    size_t n = 0;
    plx_list_for_each(it, &t->listeners) {
        n++;
    }
    snap->listeners = calloc(n ? n : 1, sizeof *snap->listeners);
    if (!snap->listeners)
        return false;
    plx_list_for_each(it, &t->listeners) {
        const struct plx_nvmf_listener *l = plx_list_entry(it, struct plx_nvmf_listener, link);
        struct nvmf_where *w = &snap->listeners[snap->nlisteners++];
        *w = (struct nvmf_where){.port = l->port, .portid = l->portid, .family = l->family, .wildcard = l->wildcard};
        memcpy(w->addr, l->addr, sizeof w->addr);
    }
    return true;
}

static bool copy_subsystems(struct nvmf_snapshot *snap, const struct plx_nvmf_target *t)
{
    plx_list_for_each(it, &t->subsystems) {
        const struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        snap->nimages = (unsigned)plx_max_u64(snap->nimages, s->index + 1);
    }
    snap->images = calloc(snap->nimages, sizeof *snap->images);
    if (!snap->images)
        return false;
    snap->in_place = true;
    plx_list_for_each(it, &t->subsystems) {
        struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        struct nvmf_image *image = snap->images[s->index] = image_of(s);
        const struct nvmf_table *all = image ? image->all : NULL;
        for (uint32_t i = 0; all && i < all->nns; i++)
            if (all->ns[i].ns && !__atomic_load_n(&plx_bdev_info(all->ns[i].ns->bdev)->in_place, __ATOMIC_RELAXED))
                snap->in_place = false;
        if (!image)
            return false;
    }
    return true;
}

struct nvmf_snapshot *nvmf_snapshot_make(struct plx_nvmf_target *t)
{
    struct nvmf_snapshot *snap = calloc(1, sizeof *snap);
    if (!snap)
        return NULL;
    snap->generation = ++t->generation;
    if (t->discovery_changed || !t->genctr)
        t->genctr = t->generation;
    t->discovery_changed = false;
    snap->genctr = t->genctr;
    snap->nreferrals = t->nreferrals;
    if (copy_subsystems(snap, t) && copy_listeners(snap, t) &&
        copy_array(&snap->referrals, t->referrals, t->nreferrals, sizeof *t->referrals))
        return snap;
    nvmf_snapshot_free(snap);
    return NULL;
}

/* @return whether it was there */
static bool omit(struct nvmf_table *table, const struct nvmf_ns *ns)
{
    struct nvmf_image_ns *entry = ns->nsid <= table->nns ? &table->ns[ns->nsid - 1] : NULL;
    if (!entry || entry->ns != ns)
        return false;
    entry->ns = NULL;
    entry->changed = ns->before == NVMF_NEXT ? entry->changed : ns->before;
    return true;
}

void nvmf_snapshot_omit(struct nvmf_snapshot *snap, const struct nvmf_ns *ns)
{
    for (unsigned i = 0; i < snap->nimages; i++) {
        struct nvmf_image *image = snap->images[i];
        if (!image || !omit(image->all, ns))
            continue;
        if (image->table != image->all)
            omit(image->table, ns);
        image->can = table_abilities(image->all);
        nvmf_mask_omit(image, ns);
    }
}

void nvmf_snapshot_free(struct nvmf_snapshot *snap)
{
    if (!snap)
        return;
    for (unsigned i = 0; snap->images && i < snap->nimages; i++)
        if (snap->images[i])
            nvmf_image_put(snap->images[i]);
    free(snap->images);
    free(snap->listeners);
    free(snap->referrals);
    free(snap);
}

/* ---- reading ---- */

const struct nvmf_image *nvmf_snapshot_find(const struct nvmf_snapshot *snap, const char *nqn)
{
    for (unsigned i = 0; i < snap->nimages; i++)
        if (snap->images[i] && strcmp(snap->images[i]->subsys->nqn, nqn) == 0)
            return snap->images[i];
    return NULL;
}

bool nvmf_image_allows(const struct nvmf_image *image, const char *hostnqn)
{
    for (unsigned i = 0; i < image->nhosts; i++)
        if (strcmp(image->hosts[i].nqn, hostnqn) == 0)
            return true;
    return image->allow_any_host;
}

const struct nvmf_image_ns *nvmf_image_ns(const struct nvmf_image *image, uint32_t nsid)
{
    return nsid && nsid <= image->nns && image->ns[nsid - 1].ns ? &image->ns[nsid - 1] : NULL;
}

const struct nvmf_port *nvmf_image_port(const struct nvmf_image *image, uint16_t portid)
{
    for (unsigned i = 1; i < image->nports; i++)
        if (image->ports[i].portid == portid)
            return &image->ports[i];
    return &image->ports[0];
}

bool nvmf_image_reachable(const struct nvmf_image *image, uint16_t portid)
{
    return image->everywhere || nvmf_image_port(image, portid)->reachable;
}

uint16_t nvmf_ana_status(const struct nvmf_port *port, uint32_t anagrpid)
{
    /* Without DNR: another path may do. */
    switch ((enum plx_nvmf_ana)port->ana[anagrpid - 1]) {
    case PLX_NVMF_ANA_OPTIMIZED:
    case PLX_NVMF_ANA_NON_OPTIMIZED:
        return PLX_SC_SUCCESS;
    case PLX_NVMF_ANA_INACCESSIBLE:
        return PLX_SC_ANA_INACCESSIBLE;
    case PLX_NVMF_ANA_PERSISTENT_LOSS:
        return PLX_SC_ANA_PERSISTENT_LOSS;
    case PLX_NVMF_ANA_CHANGE:
        break;
    }
    return PLX_SC_ANA_TRANSITION;
}

/*
 * What counts as read and written: NVM 1.4.2 and ZNS 1.4.2, SMART Data Units Read Command, SMART Host Read Command, and
 * so on.
 */
void nvmf_image_stats(const struct nvmf_image *image, uint64_t *blocks512_read, uint64_t *blocks512_written,
                      uint64_t *reads, uint64_t *writes)
{
    *blocks512_read = *blocks512_written = *reads = *writes = 0;
    for (uint32_t i = 0; i < image->nns; i++) {
        struct plx_bdev_stats st = {0};
        if (!image->ns[i].ns)
            continue;
        plx_bdev_get_totals(image->ns[i].ns->bdev, &st);
        uint64_t per_block = plx_bdev_info(image->ns[i].ns->bdev)->block_size / 512;
        *blocks512_read +=
            (st.blocks[PLX_BDEV_READ] + st.blocks[PLX_BDEV_COMPARE] + st.blocks[PLX_BDEV_VERIFY]) * per_block;
        *blocks512_written += (st.blocks[PLX_BDEV_WRITE] + st.blocks[PLX_BDEV_ZONE_APPEND]) * per_block;
        *reads += st.ops[PLX_BDEV_READ] + st.ops[PLX_BDEV_COMPARE] + st.ops[PLX_BDEV_COPY];
        *writes += st.ops[PLX_BDEV_WRITE] + st.ops[PLX_BDEV_ZONE_APPEND];
    }
}
