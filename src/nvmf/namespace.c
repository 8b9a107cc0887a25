/* SPDX-License-Identifier: BSD-3-Clause */
/* Namespaces: disks that come to a subsystem and leave it, also while hosts use them. */
#include "nvmf/nvmf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- identities ---- */

static uint32_t free_nsid(const struct plx_nvmf_subsystem *s)
{
    for (uint32_t i = 0; i < s->nns; i++)
        if (!s->ns[i])
            return i + 1;
    return s->nns + 1;
}

/* The NGUID names the namespace to hosts for ever: one disk in one subsystem gives the same at every start. */
static void make_nguid(struct nvmf_ns *ns, const struct plx_nvmf_subsystem *s)
{
    uint8_t sum[32];
    char text[NVME_NQN_MAX + 1 + 16];
    size_t len = strlen(s->nqn);
    memcpy(text, s->nqn, len);
    memcpy(text + len, ns->uuid, 16);
    nvmf_digest(text, len + 16, sum);
    memcpy(ns->nguid, sum, sizeof ns->nguid);
    ns->nguid[8] = (uint8_t)((ns->nguid[8] & ~3u) | 2); /* locally assigned, as nobody gave us an OUI */
}

/* ---- in a subsystem ---- */

static void ns_touch(struct plx_nvmf_subsystem *s, const struct nvmf_ns *ns)
{
    nvmf_assert_control(s->target);
    s->dirty = true;
    if (ns->masked) {
        nvmf_mask_touch(s, ns->nsid);
        return;
    }
    s->changed[ns->nsid - 1] = NVMF_NEXT;
    s->common_changed = true;
}

static bool grow_table(struct plx_nvmf_subsystem *s, uint32_t nsid)
{
    if (nsid <= s->nns)
        return true;
    struct nvmf_ns **ns = realloc(s->ns, nsid * sizeof(struct nvmf_ns *));
    if (ns)
        s->ns = ns;
    uint64_t *changed = ns ? realloc(s->changed, nsid * sizeof *changed) : NULL;
    if (!changed)
        return false;
    s->changed = changed;
    memset(ns + s->nns, 0, (nsid - s->nns) * sizeof(struct nvmf_ns *));
    memset(changed + s->nns, 0, (nsid - s->nns) * sizeof *changed);
    s->nns = nsid;
    return true;
}

static struct nvmf_ns *make_ns(struct plx_nvmf_subsystem *s, struct plx_bdev *bdev, const struct plx_nvmf_ns_opts *o)
{
    struct plx_nvmf_target *t = s->target;
    const size_t size = sizeof(struct nvmf_ns) + t->nreactors * sizeof(struct nvmf_nsref);
    struct nvmf_ns *ns = plx_alloc_apart(size);
    if (!ns)
        return NULL;
    if (plx_fan_init(&ns->drain, nvmf_control_reactor(t), t->reactors, t->nreactors)) {
        free(ns);
        return NULL;
    }
    plx_list_init(&ns->link);
    ns->target = t;
    ns->subsys = s;
    ns->owner = s;
    ns->bdev = bdev;
    ns->anagrpid = o->anagrpid ? o->anagrpid : 1;
    ns->own_uuid = o->uuid != NULL;
    ns->own_nguid = o->nguid != NULL;
    ns->masked = o->no_auto_visible;
    memcpy(ns->uuid, o->uuid ? o->uuid : plx_bdev_info(bdev)->uuid, sizeof ns->uuid);
    if (o->eui64)
        memcpy(ns->eui64, o->eui64, sizeof ns->eui64);
    if (o->nguid)
        memcpy(ns->nguid, o->nguid, sizeof ns->nguid);
    else
        make_nguid(ns, s);
    return ns;
}

/* What two namespaces have in common that tells hosts that they are one; or NULL. */
static const char *twin_identity(const struct nvmf_ns *a, const struct nvmf_ns *b)
{
    static const uint8_t none[16];
    if (memcmp(a->uuid, b->uuid, sizeof a->uuid) == 0)
        return "UUID";
    if (memcmp(a->nguid, b->nguid, sizeof a->nguid) == 0 && memcmp(a->nguid, none, sizeof a->nguid))
        return "NGUID";
    return memcmp(a->eui64, b->eui64, sizeof a->eui64) == 0 && memcmp(a->eui64, none, sizeof a->eui64) ? "EUI64" : NULL;
}

/* Hosts take one namespace of an identity, and refuse others. */
static int check_identities(const struct plx_nvmf_subsystem *s, const struct nvmf_ns *ns, struct plx_error *err)
{
    for (uint32_t i = 0; i < s->nns; i++) {
        const char *same = s->ns[i] ? twin_identity(s->ns[i], ns) : NULL;
        if (same)
            return plx_fail(err, -EEXIST,
                            "%.90s and %.90s have one %s, and hosts take one of them alone; give one another%s",
                            plx_bdev_info(s->ns[i]->bdev)->name, plx_bdev_info(ns->bdev)->name, same,
                            strcmp(same, "UUID") ? "" : " uuid=");
    }
    return 0;
}

static int ns_check(const struct plx_nvmf_subsystem *s, const struct plx_bdev *bdev, uint32_t nsid, uint32_t anagrpid,
                    struct plx_error *err)
{
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    if (nsid > s->max_namespaces)
        return plx_fail(err, -EINVAL, "namespace identifier %u is above %u", nsid, s->max_namespaces);
    if (nsid <= s->nns && s->ns[nsid - 1])
        return plx_fail(err, -EEXIST, "namespace identifier %u is taken", nsid);
    if (info->block_size > s->target->opts.max_io_size)
        return plx_fail(err, -EINVAL, "%s has blocks of %u bytes, more than the largest transfer of %u", info->name,
                        info->block_size, s->target->opts.max_io_size);
    if (anagrpid > PLX_NVMF_ANA_GROUPS)
        return plx_fail(err, -EINVAL, "ANA groups are 1 to %d, not %u", PLX_NVMF_ANA_GROUPS, anagrpid);
    return plx_bdev_check_reactors(bdev, s->target->nreactors, err);
}

void nvmf_ns_free(struct nvmf_ns *ns)
{
    plx_list_del(&ns->link);
    plx_fan_destroy(&ns->drain);
    nvmf_resv_close(ns);
    free(ns);
}

int plx_nvmf_subsystem_add_ns(struct plx_nvmf_subsystem *s, struct plx_bdev *bdev, const struct plx_nvmf_ns_opts *opts,
                              struct plx_error *err)
{
    static const struct plx_nvmf_ns_opts defaults;
    const struct plx_nvmf_ns_opts *o = opts ? opts : &defaults;
    uint32_t nsid = o->nsid ? o->nsid : free_nsid(s);
    int ret = ns_check(s, bdev, nsid, o->anagrpid, err);
    if (ret)
        return ret;
    struct nvmf_ns *ns = grow_table(s, nsid) ? make_ns(s, bdev, o) : NULL;
    if (!ns)
        return plx_fail(err, -ENOMEM, "out of memory");
    ret = check_identities(s, ns, err);
    ret = ret ? ret : nvmf_resv_open(ns, o->ptpl_file, err);
    if (ret) {
        nvmf_ns_free(ns);
        return ret;
    }
    ns->nsid = nsid;
    ns->before = s->changed[nsid - 1];
    s->ns[nsid - 1] = ns;
    ns_touch(s, ns);
    return (int)nsid;
}

void nvmf_ns_undo(struct nvmf_ns *ns)
{
    struct plx_nvmf_subsystem *s = ns->subsys;
    uint64_t *changed = &s->changed[ns->nsid - 1];
    if (*changed == NVMF_NEXT || ns->before != NVMF_NEXT) /* else what was there before it left with that snapshot */
        *changed = ns->before;
    s->ns[ns->nsid - 1] = NULL;
    s->dirty = s->common_changed = true;
    nvmf_mask_forget(s, ns->nsid);
    ns->subsys = NULL;
}

void nvmf_ns_remove(struct nvmf_ns *ns)
{
    struct plx_nvmf_subsystem *s = ns->subsys;
    if (!ns->seen) {
        nvmf_ns_undo(ns);
    } else {
        s->ns[ns->nsid - 1] = NULL;
        ns->subsys = NULL;
        ns_touch(s, ns);
        nvmf_mask_forget(s, ns->nsid);
    }
    plx_list_add_tail(&ns->target->removed_ns, &ns->link);
}

struct nvmf_ns *nvmf_ns_find(const struct plx_nvmf_subsystem *s, uint32_t nsid, struct plx_error *err)
{
    struct nvmf_ns *ns = nsid && nsid <= s->nns ? s->ns[nsid - 1] : NULL;
    if (!ns)
        plx_fail(err, -ENOENT, "%s has no namespace %u", s->nqn, nsid);
    return ns;
}

int plx_nvmf_subsystem_remove_ns(struct plx_nvmf_subsystem *s, uint32_t nsid, struct plx_error *err)
{
    struct nvmf_ns *ns = nvmf_ns_find(s, nsid, err);
    if (!ns)
        return -ENOENT;
    nvmf_ns_remove(ns);
    return 0;
}

int plx_nvmf_subsystem_set_ns_ana_group(struct plx_nvmf_subsystem *s, uint32_t nsid, uint32_t anagrpid,
                                        struct plx_error *err)
{
    struct nvmf_ns *ns = nvmf_ns_find(s, nsid, err);
    if (!ns)
        return -ENOENT;
    if (!anagrpid || anagrpid > PLX_NVMF_ANA_GROUPS)
        return plx_fail(err, -EINVAL, "ANA groups are 1 to %d, not %u", PLX_NVMF_ANA_GROUPS, anagrpid);
    if (ns->anagrpid == anagrpid)
        return 0;
    ns->anagrpid = anagrpid;
    ns_touch(s, ns);
    return 0;
}

/* ---- coming: channels on every reactor, before any of them sees it ---- */

/* Its disk has another size, or is gone: hosts see that, without anybody's asking. */
static void disk_event(void *arg, struct plx_bdev *bdev, enum plx_bdev_event what)
{
    struct nvmf_ns *ns = arg;
    (void)bdev;
    if (!ns->subsys)
        return; /* is leaving anyway */
    if (what == PLX_BDEV_GONE)
        nvmf_ns_remove(ns);
    else
        ns_touch(ns->subsys, ns);
    nvmf_apply_unasked(ns->target);
}

static void ns_opened(struct plx_bdev_access *disk, int result)
{
    struct nvmf_ns *ns = plx_container_of(disk, struct nvmf_ns, disk);
    struct plx_nvmf_target *t = ns->target;
    const struct plx_bdev_info *info = plx_bdev_info(ns->bdev);
    ns->opened = !result;
    if (result)
        plx_bdev_release(ns->hold);
    if (!result)
        nvmf_resv_begin(ns);
    for (unsigned i = 0; !result && i < t->nreactors; i++)
        ns->refs[i] = (struct nvmf_nsref){.ch = plx_bdev_access_channel(disk, i),
                                          .bdev = ns->bdev,
                                          .info = info,
                                          .group = &t->groups[i],
                                          .resv = plx_resv_shown(&ns->resv),
                                          .block_shift = (uint8_t)__builtin_ctz(info->block_size)};
    nvmf_apply_opened(t, ns, result);
}

int nvmf_ns_open(struct nvmf_ns *ns)
{
    struct plx_nvmf_target *t = ns->target;
    struct plx_error err;
    /* Hosts write, and what else may is not the target's to say. */
    const bool read_only = plx_bdev_info(ns->bdev)->read_only;
    const struct plx_bdev_hold_opts opts = {.who = ns->subsys->nqn,
                                            .claim = read_only ? PLX_BDEV_READS : PLX_BDEV_SHARED,
                                            .event = disk_event,
                                            .arg = ns,
                                            .reactor = nvmf_control_reactor(t)};
    int ret = plx_bdev_hold(ns->bdev, &opts, &ns->hold, &err);
    if (ret) {
        plx_error("%s", err.text);
        return ret;
    }
    ret = plx_bdev_access_open(&ns->disk, ns->bdev, t->reactors, t->nreactors, nvmf_control_reactor(t), ns_opened);
    if (ret)
        plx_bdev_release(ns->hold);
    return ret;
}

/* ---- leaving: no reactor sees it any more; its requests end, then its channels are put back ---- */

void nvmf_ns_drained(struct nvmf_nsref *ref)
{
    struct plx_fan_leg *leg = ref->leg;
    ref->leg = NULL;
    plx_timer_cancel(ref->group->reactor, &ref->limit);
    plx_fan_answer(leg, 0);
}

static void abort_req(struct nvmf_req *req)
{
    nvmf_req_abort(req);
}

static void end_conn(struct nvmf_req *req)
{
    if (req->state != NVMF_REQ_EXECUTING)
        nvmf_transport_of(req->qp)->kill(req->qp, "it holds on to a namespace that was removed");
}

/* The disk has requests yet; it is asked about again, for however long it takes. */
static void late(struct plx_timer *timer)
{
    struct nvmf_nsref *ref = plx_container_of(timer, struct nvmf_nsref, limit);
    struct plx_fan_leg *leg = ref->leg;
    ref->leg = NULL;
    plx_fan_answer(leg, -ETIMEDOUT);
}

/* Whoever does not read what was read for it, or send what it was asked for, must not keep a disk open. */
static void leave_overdue(struct plx_timer *timer)
{
    struct nvmf_nsref *ref = plx_container_of(timer, struct nvmf_nsref, limit);
    nvmf_reqs_of(ref, end_conn);
    if (!ref->leg)
        return;
    timer->fn = late;
    plx_timer_set(ref->group->reactor, timer, NVMF_LATE_MS * PLX_NS_PER_MS);
}

static void ns_drain_here(struct plx_fan_leg *leg)
{
    struct nvmf_ns *ns = plx_container_of(leg->fan, struct nvmf_ns, drain);
    struct nvmf_nsref *ref = &ns->refs[leg - ns->drain.legs];
    bool again = ref->gone;
    ref->gone = true;
    if (!again && ref->in_flight)
        nvmf_reqs_of(ref, abort_req);
    if (!ref->in_flight) {
        plx_fan_answer(leg, 0);
        return;
    }
    ref->leg = leg;
    if (again)
        return;
    bool stopping = plx_list_empty(&ref->group->qpairs);
    ref->limit.fn = stopping ? late : leave_overdue;
    plx_timer_set(ref->group->reactor, &ref->limit, (stopping ? NVMF_LATE_MS : NVMF_LEAVE_MS) * PLX_NS_PER_MS);
}

static void ns_closed(struct plx_bdev_access *disk, int result)
{
    struct nvmf_ns *ns = plx_container_of(disk, struct nvmf_ns, disk);
    struct plx_nvmf_target *t = ns->target;
    (void)result;
    plx_bdev_release(ns->hold);
    nvmf_ns_free(ns);
    nvmf_apply_released(t);
}

static void all_drained(struct plx_fan *fan, int result)
{
    struct nvmf_ns *ns = plx_container_of(fan, struct nvmf_ns, drain);
    if (result || ns->disk.flushing)
        nvmf_apply_late(ns->target, ns);
    if (result)
        plx_fan_out(fan, ns_drain_here, all_drained);
    else
        nvmf_resv_end(ns);
}

void nvmf_resv_left(struct nvmf_ns *ns)
{
    plx_bdev_access_close(&ns->disk, ns_closed);
}

void nvmf_ns_leave(struct nvmf_ns *ns)
{
    plx_fan_out(&ns->drain, ns_drain_here, all_drained);
}
