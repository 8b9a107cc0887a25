/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Namespaces that only some hosts see. An image of a subsystem has a view for each host to which such are attached: an
 * image of its own, which shares with the subsystem's all but the table of namespaces. Queue pairs point to their
 * host's view, so nothing that a command reads is looked at for this.
 */
#include "nvmf/nvmf.h"

#include <errno.h>
#include <pollux/nvme.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAKE_STEP_MS = 5 };

/* One namespace identifier, and one host; kept when it is attached no more, as its host is told of that. */
struct nvmf_attachment {
    uint32_t nsid;
    bool attached;           /* as it is edited */
    bool touched;            /* its namespace has changed since */
    struct nvmf_ns *ns;      /* what was there in the host's latest table, */
    struct nvmf_ns *was;     /* and in the one before */
    uint64_t changed;        /* generation in which that last changed */
    uint64_t changed_before; /* the same of the one before */
};

/* A host to which namespaces are attached, or were; the control reactor's. */
struct nvmf_viewer {
    char nqn[NVME_NQN_MAX + 1];
    bool dirty; /* what it is to see differs from its table */
    unsigned n;
    struct nvmf_attachment *of; /* by namespace identifier, ascending */
    struct nvmf_table *table;   /* its latest */
};

/* ---- hosts, and what is attached to them ---- */

/* Where a host is, or would be, among those of a subsystem, which are sorted by name. */
static unsigned viewer_place(const struct plx_nvmf_subsystem *s, const char *hostnqn)
{
    unsigned low = 0, high = s->nviewers;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (strcmp(s->viewers[mid]->nqn, hostnqn) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct nvmf_viewer *find_viewer(const struct plx_nvmf_subsystem *s, const char *hostnqn)
{
    unsigned at = viewer_place(s, hostnqn);
    return at < s->nviewers && strcmp(s->viewers[at]->nqn, hostnqn) == 0 ? s->viewers[at] : NULL;
}

static struct nvmf_viewer *get_viewer(struct plx_nvmf_subsystem *s, const char *hostnqn)
{
    struct nvmf_viewer *v = find_viewer(s, hostnqn);
    if (v)
        return v;
    struct nvmf_viewer **viewers = realloc(s->viewers, (s->nviewers + 1) * sizeof(struct nvmf_viewer *));
    if (viewers)
        s->viewers = viewers;
    v = viewers ? calloc(1, sizeof *v) : NULL;
    if (!v)
        return NULL;
    unsigned at = viewer_place(s, hostnqn);
    memmove(viewers + at + 1, viewers + at, (s->nviewers - at) * sizeof(struct nvmf_viewer *));
    viewers[at] = v;
    s->nviewers++;
    snprintf(v->nqn, sizeof v->nqn, "%s", hostnqn);
    v->dirty = true;
    return v;
}

static void free_viewer(struct plx_nvmf_subsystem *s, unsigned at)
{
    struct nvmf_viewer *v = s->viewers[at];
    memmove(s->viewers + at, s->viewers + at + 1, (--s->nviewers - at) * sizeof(struct nvmf_viewer *));
    if (v->table)
        nvmf_table_put(v->table);
    free(v->of);
    free(v);
}

void nvmf_mask_free(struct plx_nvmf_subsystem *s)
{
    while (s->nviewers)
        free_viewer(s, s->nviewers - 1);
    free(s->viewers);
}

static unsigned attachment_place(const struct nvmf_viewer *v, uint32_t nsid)
{
    unsigned low = 0, high = v->n;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (v->of[mid].nsid < nsid)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct nvmf_attachment *find_attachment(const struct nvmf_viewer *v, uint32_t nsid)
{
    unsigned at = v ? attachment_place(v, nsid) : 0;
    return v && at < v->n && v->of[at].nsid == nsid ? &v->of[at] : NULL;
}

static struct nvmf_attachment *get_attachment(struct nvmf_viewer *v, uint32_t nsid)
{
    struct nvmf_attachment *a = find_attachment(v, nsid);
    if (a)
        return a;
    struct nvmf_attachment *of = realloc(v->of, (v->n + 1) * sizeof *of);
    if (!of)
        return NULL;
    v->of = of;
    unsigned at = attachment_place(v, nsid);
    memmove(of + at + 1, of + at, (v->n++ - at) * sizeof *of);
    of[at] = (struct nvmf_attachment){.nsid = nsid};
    return &of[at];
}

void nvmf_mask_touch(struct plx_nvmf_subsystem *s, uint32_t nsid)
{
    for (unsigned i = 0; i < s->nviewers; i++) {
        struct nvmf_attachment *a = find_attachment(s->viewers[i], nsid);
        if (a)
            a->touched = s->viewers[i]->dirty = true;
    }
}

void nvmf_mask_forget(struct plx_nvmf_subsystem *s, uint32_t nsid)
{
    for (unsigned i = 0; i < s->nviewers; i++) {
        struct nvmf_attachment *a = find_attachment(s->viewers[i], nsid);
        if (!a || !a->attached)
            continue;
        a->attached = false;
        s->viewers[i]->dirty = true;
    }
}

/* A namespace that can be attached; or NULL, with *ret and err filled. */
static struct nvmf_ns *find_masked(const struct plx_nvmf_subsystem *s, uint32_t nsid, int *ret, struct plx_error *err)
{
    struct nvmf_ns *ns = nvmf_ns_find(s, nsid, err);
    *ret = ns ? 0 : -ENOENT;
    if (!ns || ns->masked)
        return ns;
    *ret = plx_fail(err, -EINVAL, "namespace %u of %.200s is visible to every host; add it with no_auto_visible", nsid,
                    s->nqn);
    return NULL;
}

int plx_nvmf_ns_add_host(struct plx_nvmf_subsystem *s, uint32_t nsid, const char *hostnqn, struct plx_error *err)
{
    int ret;
    nvmf_assert_control(s->target);
    if (!find_masked(s, nsid, &ret, err))
        return ret;
    const char *problem = plx_nvme_nqn_problem(hostnqn);
    if (problem)
        return plx_fail(err, -EINVAL, "host NQN %.223s %s", hostnqn, problem);
    struct nvmf_viewer *v = get_viewer(s, hostnqn);
    struct nvmf_attachment *a = v ? get_attachment(v, nsid) : NULL;
    if (!a)
        return plx_fail(err, -ENOMEM, "out of memory");
    if (a->attached)
        return plx_fail(err, -EEXIST, "namespace %u is attached to host %s already", nsid, hostnqn);
    a->attached = v->dirty = s->dirty = true;
    return 0;
}

int plx_nvmf_ns_remove_host(struct plx_nvmf_subsystem *s, uint32_t nsid, const char *hostnqn, struct plx_error *err)
{
    int ret;
    nvmf_assert_control(s->target);
    struct nvmf_ns *ns = find_masked(s, nsid, &ret, err);
    if (!ns)
        return ret;
    struct nvmf_viewer *v = find_viewer(s, hostnqn);
    struct nvmf_attachment *a = find_attachment(v, nsid);
    if (!a || !a->attached)
        return plx_fail(err, -ENOENT, "namespace %u is not attached to host %.223s", nsid, hostnqn);
    a->attached = false;
    v->dirty = s->dirty = true;
    ns->taken = s->target->generation + 1;
    s->target->taken = s->target->taken ? s->target->taken : ns->taken;
    return 0;
}

void plx_nvmf_ns_each_host(const struct plx_nvmf_subsystem *s, uint32_t nsid,
                           void (*each)(void *arg, const char *hostnqn), void *arg)
{
    for (unsigned i = 0; i < s->nviewers; i++) {
        const struct nvmf_attachment *a = find_attachment(s->viewers[i], nsid);
        if (a && a->attached)
            each(arg, s->viewers[i]->nqn);
    }
}

/* ---- views: made with an image ---- */

static bool has_controller(const struct plx_nvmf_subsystem *s, const char *hostnqn)
{
    plx_list_for_each(it, &s->target->ctrlrs) {
        const struct nvmf_ctrlr *c = plx_list_entry(it, struct nvmf_ctrlr, link);
        if (c->subsys == s && strcmp(c->hostnqn, hostnqn) == 0)
            return true;
    }
    return false;
}

/*
 * A host that had nothing attached in the latest image, either, and is not here: nobody has to be told any more. One
 * that comes before the next image is published sees the latest, and no difference.
 */
static bool is_over(const struct plx_nvmf_subsystem *s, const struct nvmf_viewer *v)
{
    for (unsigned i = 0; i < v->n; i++)
        if (v->of[i].attached || v->of[i].ns)
            return false;
    return !has_controller(s, v->nqn);
}

/* What is attached, on top of what all see, whose table is of use up to its `end`. */
static struct nvmf_table *make_view(const struct plx_nvmf_subsystem *s, struct nvmf_viewer *v,
                                    const struct nvmf_table *common, uint32_t end)
{
    const uint32_t last = v->n ? v->of[v->n - 1].nsid : 0;
    struct nvmf_table *table = nvmf_table_new((uint32_t)plx_max_u64(end, last));
    if (!table)
        return NULL;
    memcpy(table->ns, common->ns, end * sizeof table->ns[0]);
    for (unsigned i = 0; i < v->n; i++) {
        struct nvmf_attachment *a = &v->of[i];
        struct nvmf_ns *now = a->attached ? s->ns[a->nsid - 1] : NULL;
        struct nvmf_image_ns *entry = &table->ns[a->nsid - 1];
        if (now != a->ns || (now && a->touched)) {
            a->changed_before = a->changed;
            a->changed = s->target->generation;
        }
        a->was = a->ns;
        a->ns = now;
        a->touched = false;
        if (now)
            nvmf_image_show(entry, now);
        entry->changed = plx_max_u64(entry->changed, a->changed);
    }
    return table;
}

bool nvmf_mask_make(struct plx_nvmf_subsystem *s, struct nvmf_image *image)
{
    uint32_t end = image->table->nns;
    while (end && !image->table->ns[end - 1].ns && !image->table->ns[end - 1].changed)
        end--;
    for (unsigned i = s->nviewers; i-- > 0;)
        if (is_over(s, s->viewers[i]))
            free_viewer(s, i);
    image->views = s->nviewers ? calloc(s->nviewers, sizeof *image->views) : NULL;
    if (s->nviewers && !image->views)
        return false;
    for (unsigned i = 0; i < s->nviewers; i++) {
        struct nvmf_viewer *v = s->viewers[i];
        struct nvmf_view *view = &image->views[i];
        v->dirty |= s->common_changed;
        struct nvmf_table *table = v->dirty ? make_view(s, v, image->table, end) : NULL;
        if (v->dirty && !table)
            return false; /* and the next image makes it */
        if (table && v->table)
            nvmf_table_put(v->table);
        v->table = table ? table : v->table;
        v->dirty = false;
        view->image = *image;
        view->image.views = NULL;
        view->image.nviews = 0;
        view->image.table = v->table;
        view->image.ns = v->table->ns;
        view->image.nns = v->table->nns;
        v->table->refs++;
        memcpy(view->nqn, v->nqn, sizeof view->nqn);
        image->nviews++;
    }
    s->common_changed = false;
    return true;
}

const struct nvmf_image *nvmf_image_seen_by(const struct nvmf_image *image, const char *hostnqn)
{
    for (unsigned low = 0, high = image ? image->nviews : 0; low < high;) {
        unsigned mid = (low + high) / 2;
        int order = strcmp(image->views[mid].nqn, hostnqn);
        if (!order)
            return &image->views[mid].image;
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return image;
}

void nvmf_mask_omit(struct nvmf_image *image, const struct nvmf_ns *ns)
{
    const uint32_t i = ns->nsid - 1;
    for (unsigned n = 0; n < image->nviews; n++) {
        struct nvmf_image *view = &image->views[n].image;
        struct nvmf_attachment *a = find_attachment(find_viewer(image->subsys, image->views[n].nqn), ns->nsid);
        view->can = image->can;
        if (a && a->ns == ns) {
            a->ns = NULL;
            a->changed = a->was ? a->changed : a->changed_before; /* else what was there left with this image */
        }
        if (i >= view->nns || view->ns[i].ns != ns)
            continue;
        view->ns[i].ns = NULL;
        view->ns[i].changed = plx_max_u64(i < image->nns ? image->ns[i].changed : 0, a ? a->changed : 0);
    }
}

/* ---- taking: what a host has in flight for a namespace that it sees no more ---- */

static const struct nvmf_ns *masked_ns_of(const struct nvmf_nsref *ref)
{
    const uint8_t *first = (const uint8_t *)(ref - ref->group->index);
    return (const void *)(first - offsetof(struct nvmf_ns, refs));
}

/* A namespace that this apply takes from a host, and others see yet: what nobody sees leaves by itself. */
static bool is_being_taken(const struct nvmf_group *g, const struct nvmf_ns *ns, const struct nvmf_image *image)
{
    const struct nvmf_table *all = image ? image->all : NULL;
    const struct nvmf_image_ns *of = all && ns->nsid <= all->nns ? &all->ns[ns->nsid - 1] : NULL;
    return of && of->ns == ns && of->taken >= g->target->apply.taking;
}

/*
 * Whether it is for a namespace that is being taken, and of a host that does not see that. A connection that is not
 * welcome any more has no image; whose it was that a closed one has left to a disk is not known, so that is waited for
 * in any case, and for that namespace alone.
 */
static bool taken_from_host(const struct nvmf_req *req)
{
    if (!req->ns || req->ns->gone)
        return false;
    const struct nvmf_group *g = req->ns->group;
    const struct nvmf_ns *ns = masked_ns_of(req->ns);
    const unsigned index = ns->owner->index;
    const struct nvmf_image *image = index < g->snap->nimages ? g->snap->images[index] : NULL;
    if (!is_being_taken(g, ns, image))
        return false;
    const struct nvmf_ctrlr *c = req->qp->ctrlr;
    const struct nvmf_image_ns *seen = c ? nvmf_image_ns(nvmf_image_seen_by(image, c->hostnqn), ns->nsid) : NULL;
    return !seen || seen->ns != ns;
}

static void take_from_hosts(struct nvmf_req *req, void *arg)
{
    (void)arg;
    if (!taken_from_host(req))
        return;
    req->taken = true;
    nvmf_req_abort(req);
}

static bool ends_yet(const struct nvmf_req *req)
{
    return req->ns && req->taken && taken_from_host(req);
}

static void end_holders(struct nvmf_group *g)
{
    struct nvmf_walk w = g->taking_at;
    for (struct nvmf_req *req; (req = nvmf_walk_req(g, &w)); w.n++)
        if (ends_yet(req) && req->state != NVMF_REQ_EXECUTING)
            nvmf_transport_of(req->qp)->kill(req->qp, "it holds on to a namespace that was taken from its host");
}

/*
 * Looked at again and again, as nothing is counted where commands end; each until it has. The limits are those of a
 * namespace that leaves.
 */
static void taken_step(struct plx_timer *timer)
{
    struct nvmf_group *g = plx_container_of(timer, struct nvmf_group, take);
    uint64_t passed = plx_reactor_now(g->reactor) - g->taking_since;
    const struct nvmf_req *left;
    while ((left = nvmf_walk_req(g, &g->taking_at)) && !ends_yet(left))
        g->taking_at.n++;
    if (!left || passed >= (NVMF_LEAVE_MS + NVMF_LATE_MS) * PLX_NS_PER_MS) {
        plx_fan_answer(g->taking, left ? -ETIMEDOUT : 0);
        return;
    }
    if (passed >= NVMF_LEAVE_MS * PLX_NS_PER_MS)
        end_holders(g);
    plx_timer_set(g->reactor, timer, TAKE_STEP_MS * PLX_NS_PER_MS);
}

void nvmf_mask_take_here(struct plx_fan_leg *leg)
{
    struct plx_nvmf_target *t = plx_container_of(leg->fan, struct plx_nvmf_target, apply.fan);
    struct nvmf_group *g = &t->groups[leg - leg->fan->legs];
    g->taking = leg;
    g->taking_since = plx_reactor_now(g->reactor);
    g->take.fn = taken_step;
    g->taking_at = nvmf_walk_from(g);
    nvmf_reqs_each(g, take_from_hosts, NULL);
    taken_step(&g->take);
}
