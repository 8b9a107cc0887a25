/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The paths of a channel, and the commands that look for one that works.
 *
 * A command goes to a path whose ANA state is best: the first of these, or each in turn. When its connection is lost,
 * or the controller says that another path or another time would do, it is sent again; while there is no path it waits.
 * Reads and writes may be done twice, as whoever sent them does not know yet that they were done at all.
 */
#include "bdev/driver/nvme_disk.h"

#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <pollux/nvme.h>
#include <string.h>

/* ---- which path ---- */

static bool same_namespace(const struct nvme_disk *d, const struct nvme_ns *ns)
{
    const struct nvme_ns *was = &d->ns;
    if (plx_get64(ns->id.nsze) < plx_bdev_blocks(&d->bdev) || nvme_ns_format(&ns->id) != nvme_ns_format(&was->id) ||
        ns->id.dps != was->id.dps || ns->id.flbas != was->id.flbas || ns->elbaf != was->elbaf)
        return false;
    if (was->has_uuid || ns->has_uuid)
        return was->has_uuid == ns->has_uuid && memcmp(was->uuid, ns->uuid, sizeof ns->uuid) == 0;
    return memcmp(was->id.nguid, ns->id.nguid, sizeof ns->id.nguid) == 0 &&
           memcmp(was->id.eui64, ns->id.eui64, sizeof ns->id.eui64) == 0;
}

static void paths_give_up(struct nvme_channel *nc);
static void send_waiting(struct nvme_channel *nc);

/* Whether every path leads to another disk than the one that was opened: waiting does not help. */
static bool all_foreign(const struct nvme_channel *nc)
{
    for (unsigned i = 0; i < nc->npaths; i++)
        if (!nc->paths[i]->foreign)
            return false;
    return nc->npaths;
}

/* Connections are told of as they go; that they are there and lead nowhere has to be said, once all have been tried. */
static void tell_inaccessible(struct nvme_channel *nc)
{
    bool up = false;
    for (unsigned i = 0; i < nc->npaths; i++) {
        if (!nc->paths[i]->tried)
            return;
        up |= nc->paths[i]->up;
    }
    if (up && !nc->told)
        plx_warn("%s: no path is accessible; requests wait", nc->disk->bdev.info.name);
    nc->told |= up;
}

/* The paths that are up, of those with the best ANA state there is. */
static void choose_paths(struct nvme_channel *nc)
{
    static const unsigned order[] = {NVME_ANA_OPTIMIZED, NVME_ANA_NON_OPTIMIZED};
    struct plx_reactor *r = nc->ch->reactor;
    nc->nusable = nc->turn = 0;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(order) && !nc->nusable; i++) {
        for (unsigned p = 0; p < nc->npaths; p++) {
            struct nvme_path *path = nc->paths[p];
            if (path->up && !path->shunned && nvme_ctrlr_ana(path->c) == order[i])
                nc->usable[nc->nusable++] = path;
        }
    }
    if (nc->nusable > 1 && !nc->round_robin)
        nc->nusable = 1;
    nc->only = nc->nusable == 1 ? nc->usable[0] : NULL;
    nvme_link_tell(nc);
    if (nc->nusable) {
        nc->given_up = false;
        plx_timer_cancel(r, &nc->deadline);
        send_waiting(nc);
        return;
    }
    tell_inaccessible(nc);
    if (all_foreign(nc)) {
        paths_give_up(nc); /* last, as the channel may be gone afterwards */
    } else if (nc->disk->where.reconnect_deadline_ms && !nc->given_up && !nc->deadline.set) {
        plx_timer_set(r, &nc->deadline, nc->disk->where.reconnect_deadline_ms * PLX_NS_PER_MS);
    }
}

static struct nvme_path *next_path(struct nvme_channel *nc)
{
    if (nc->only)
        return nc->only;
    nc->turn = nc->turn + 1 < nc->nusable ? nc->turn + 1 : 0;
    return nc->usable[nc->turn];
}

/* ---- commands ---- */

/* An SSD of this machine that is gone has no other path by which to try: hosts that are told so try again for ever. */
static uint16_t no_path(const struct nvme_channel *nc)
{
    return nc->disk->held || nc->disk->node ? PLX_SC_INTERNAL_ERROR : PLX_SC_HOST_PATHING_ERROR;
}

static struct nvme_try *try_of(struct nvme_req *req)
{
    return plx_container_of(req, struct nvme_try, req);
}

static void push_waiting(struct nvme_channel *nc, struct nvme_try *t)
{
    t->waiting = true;
    /*
     * A fused command's second half hangs on its first's `next`, which this list uses: it is found again by who made
     * it.
     */
    t->req.next = NULL;
    *nc->waiting_tail = &t->req;
    nc->waiting_tail = &t->req.next;
}

static void remove_waiting(struct nvme_channel *nc, struct nvme_try *t)
{
    struct nvme_req **p = &nc->waiting;
    while (*p != &t->req)
        p = &(*p)->next;
    *p = t->req.next;
    if (!*p)
        nc->waiting_tail = p;
    t->waiting = false;
}

/* It was made for a path with higher limits. */
static bool too_large(const struct nvme_channel *nc, struct nvme_try *t)
{
    const uint32_t nlb = (plx_get32(t->req.cmd.cdw12) & 0xffff) + 1;
    if (t->req.len > nc->max_blocks << nc->shift)
        return true;
    switch (t->req.cmd.opcode) {
    case NVME_IO_COMPARE:
        return t->req.fused && nlb > nc->limits.fused;
    case NVME_IO_WRITE_ZEROES:
        return nlb > nc->limits.zero;
    case NVME_IO_VERIFY:
        return nlb > nc->limits.verify;
    case NVME_IO_COPY:
        return plx_get16(plx_container_of(t, struct nvme_io, t)->copy.nlb) >= nc->limits.copy;
    default:
        return false;
    }
}

static void hand_out(struct nvme_channel *nc, struct nvme_try *t)
{
    if (too_large(nc, t)) {
        /* Two halves in pieces would not be one any more. */
        nvme_try_end(t, t->req.fused ? PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED : NVME_TOO_LARGE);
        return;
    }
    t->path = next_path(nc);
    if (t->req.fused) {
        struct nvme_io *io = plx_container_of(t, struct nvme_io, t);
        io->in_flight = 2;
        t->req.next = &io->second->t.req;
        nvme_submit_fused(t->path->c, &t->req);
    } else {
        nvme_submit(t->path->c, &t->req);
    }
}

void nvme_try_send(struct nvme_channel *nc, struct nvme_try *t)
{
    if (nc->nusable) { /* commands that wait to be tried again are in nobody's way: there is no order */
        hand_out(nc, t);
    } else if (nc->given_up) {
        nvme_try_end(t, no_path(nc));
    } else {
        push_waiting(nc, t);
    }
}

static void send_waiting(struct nvme_channel *nc)
{
    nc->ch->refs++; /* what is too large by now ends at once, and a callback may put the channel back */
    while (nc->waiting && nc->nusable) {
        struct nvme_try *t = try_of(nc->waiting);
        remove_waiting(nc, t);
        hand_out(nc, t);
    }
    plx_bdev_channel_put(nc->ch);
}

/* What the controllers say of their paths decides again. */
static void shun_none(struct nvme_channel *nc)
{
    for (unsigned i = 0; i < nc->npaths; i++)
        nc->paths[i]->shunned = false;
    choose_paths(nc);
}

/* Where there is no other path, one need not rest. */
static void retry_due(struct plx_timer *timer)
{
    struct nvme_channel *nc = plx_container_of(timer, struct nvme_channel, retry);
    if (nc->nusable)
        send_waiting(nc);
    else
        shun_none(nc);
}

static void rest_due(struct plx_timer *timer)
{
    shun_none(plx_container_of(timer, struct nvme_channel, rest));
}

/* Ends what waits; afterwards the channel may be gone. */
static void paths_give_up(struct nvme_channel *nc)
{
    struct nvme_req *all = nc->waiting;
    nc->given_up = true;
    nc->waiting = NULL;
    nc->waiting_tail = &nc->waiting;
    for (struct nvme_req *req = all; req; req = req->next)
        try_of(req)->waiting = false;
    while (all) {
        struct nvme_try *t = try_of(all);
        all = all->next;
        nvme_try_end(t, no_path(nc));
    }
}

static void deadline_due(struct plx_timer *timer)
{
    struct nvme_channel *nc = plx_container_of(timer, struct nvme_channel, deadline);
    plx_warn("%s: no path for %u s: requests fail from now on", nc->disk->bdev.info.name,
             nc->disk->where.reconnect_deadline_ms / 1000);
    paths_give_up(nc);
}

/* Later, if there is hope still: at once would meet the same answer. */
static void again_later(struct nvme_channel *nc, struct nvme_try *t)
{
    if (nc->given_up) {
        nvme_try_end(t, no_path(nc));
        return;
    }
    push_waiting(nc, t);
    if (!nc->retry.set)
        plx_timer_set(nc->ch->reactor, &nc->retry, NVME_RETRY_MS * PLX_NS_PER_MS);
}

static bool is_path_error(uint16_t sc)
{
    return sc >> 8 == 3 && sc != PLX_SC_COMMAND_ABORTED_BY_HOST;
}

/* Statuses that another attempt may change: ended by us, or by the controller for reasons of its own. */
static bool is_transient(uint16_t sc)
{
    return sc == PLX_SC_COMMAND_INTERRUPTED || sc == PLX_SC_TRANSIENT_TRANSPORT_ERROR ||
           sc == PLX_SC_NAMESPACE_NOT_READY || sc == PLX_SC_ABORTED_BY_REQUEST || sc == PLX_SC_ABORTED_SQ_DELETION;
}

/* What is written to zones must not be done twice: it would be in another place, or refused. */
static bool is_done_once(const struct nvme_try *t)
{
    const uint8_t opcode = t->req.cmd.opcode;
    return t->nc->disk->ns.zone_blocks && (opcode == NVME_IO_WRITE || opcode == NVME_IO_ZONE_APPEND);
}

/*
 * Protection information was wrong: as found here, which says in dword 0 where, or as the controller has it, which does
 * not.
 */
static void tell_corrupt(const struct nvme_try *t, uint16_t sc)
{
    const char *name = t->nc->disk->bdev.info.name, *what = plx_nvme_status_text(sc);
    const struct nvme_words *cmd = &t->req.cmd;
    const uint64_t first = plx_get32(cmd->cdw10) | (uint64_t)plx_get32(cmd->cdw11) << 32;
    const uint32_t nlb = (plx_get32(cmd->cdw12) & 0xffff) + 1, found = t->req.dw0;
    if (found && found <= nlb)
        plx_error("%s: block %llu: %s", name, (unsigned long long)first + found - 1, what);
    else if (nlb == 1)
        plx_error("%s: block %llu: %s, says the controller", name, (unsigned long long)first, what);
    else
        plx_error("%s: blocks %llu to %llu: %s, says the controller", name, (unsigned long long)first,
                  (unsigned long long)first + nlb - 1, what);
}

void nvme_try_not_done(struct nvme_try *t)
{
    struct nvme_channel *nc = t->nc;
    struct nvme_req *req = &t->req;
    uint16_t sc = req->status & 0x7ff;
    if (t->aborted) {
        nvme_try_end(t, req->lost ? PLX_SC_ABORTED_BY_REQUEST : sc);
    } else if (req->lost) {
        if (t->kind == NVME_FUSED || is_done_once(t))
            nvme_try_end(t, PLX_SC_TRANSIENT_TRANSPORT_ERROR);
        else
            nvme_try_send(nc, t);
    } else if (is_path_error(sc) && t->attempts < UINT8_MAX) {
        t->attempts++;
        t->path->shunned = true;
        if (!nc->rest.set) /* its ANA state may be what it was, or it has none: nothing else would end it */
            plx_timer_set(nc->ch->reactor, &nc->rest, NVME_REST_MS * PLX_NS_PER_MS);
        nvme_ctrlr_refresh_ana(t->path->c);
        choose_paths(nc);
        if (nc->nusable)
            nvme_try_send(nc, t);
        else
            again_later(nc, t);
    } else if (is_transient(sc) && !(req->status & NVME_STATUS_DNR) && t->attempts < NVME_RETRIES) {
        t->attempts++;
        again_later(nc, t);
    } else {
        if (sc >= PLX_SC_GUARD_CHECK_ERROR && sc <= PLX_SC_REFERENCE_TAG_CHECK_ERROR)
            tell_corrupt(t, sc);
        nvme_try_end(t, sc);
    }
}

void nvme_try_abort(struct nvme_try *t)
{
    t->aborted = true;
    if (t->waiting) {
        remove_waiting(t->nc, t);
        nvme_try_end(t, PLX_SC_ABORTED_BY_REQUEST);
    } else if (t->path) {
        nvme_abort(t->path->c, &t->req);
    }
}

/* ---- fused commands: both halves come back; the first says how it was, unless it merely fell with the second ---- */

static void fused_half_done(struct nvme_io *io)
{
    if (--io->in_flight)
        return;
    struct nvme_req *first = &io->t.req, *second = &io->second->t.req;
    uint16_t sc = first->status & 0x7ff;
    if (!first->lost && second->lost)
        first->lost = true; /* whether it was written is not known */
    else if (!first->lost && second->status && (!sc || sc == PLX_SC_ABORTED_FAILED_FUSED))
        first->status = second->status;
    if ((first->status & 0x7ff) == PLX_SC_ABORTED_FAILED_FUSED)
        first->status = PLX_SC_ABORTED_BY_REQUEST;
    if (nvme_try_succeeded(&io->t))
        nvme_try_end(&io->t, PLX_SC_SUCCESS);
    else
        nvme_try_not_done(&io->t);
}

static void first_done(struct nvme_req *req)
{
    fused_half_done(plx_container_of(try_of(req), struct nvme_io, t));
}

static void second_done(struct nvme_req *req)
{
    fused_half_done(plx_container_of(try_of(req), struct nvme_piece, t)->io);
}

void nvme_try_begin_fused(struct nvme_channel *nc, struct nvme_try *t)
{
    struct nvme_io *io = plx_container_of(t, struct nvme_io, t);
    t->nc = nc;
    t->path = NULL;
    t->attempts = NVME_RETRIES;
    t->waiting = t->aborted = false;
    t->kind = NVME_FUSED;
    t->req.done = first_done;
    t->req.fused = true;
    struct nvme_req *second = &io->second->t.req;
    t->req.forever = second->forever = second->fused = false;
    second->done = second_done;
    nvme_try_send(nc, t);
}

/* ---- paths come and go ---- */

static struct nvme_path *path_of(void *arg)
{
    return arg;
}

/* A path may take less at once than the one that the disk was opened through: from then on all are sent no more. */
static void heed_limits(struct nvme_channel *nc, const struct nvme_ctrlr *c)
{
    const struct nvme_limits l = nvme_limits_of(c, nc->disk->shift);
    nc->max_blocks =
        (uint32_t)plx_min_u64(nc->max_blocks, nvme_protect_blocks(&nc->disk->protection, nvme_ctrlr_max_transfer(c)));
    nc->limits.zero = (uint32_t)plx_min_u64(nc->limits.zero, l.zero);
    nc->limits.verify = (uint32_t)plx_min_u64(nc->limits.verify, l.verify);
    nc->limits.fused = (uint32_t)plx_min_u64(nc->limits.fused, l.fused);
    nc->limits.copy = (uint32_t)plx_min_u64(nc->limits.copy, l.copy);
    if (l.unmap < nc->disk->limits.unmap) /* which those who use the disk have been told */
        plx_warn("%s: deallocates %u blocks at once, where %s does %u: larger ranges fail there", nvme_ctrlr_name(c),
                 l.unmap, nc->disk->bdev.info.name, nc->disk->limits.unmap);
}

/* Why a path that is up cannot be used, or NULL. */
static const char *unusable(const struct nvme_disk *d, const struct nvme_ctrlr *c)
{
    /* Over PCIe another SSD may be in the same slot, and need not have identifiers by which to tell it. */
    if (!same_namespace(d, nvme_ctrlr_ns(c)) || strcmp(d->where.o.subnqn, nvme_ctrlr_subnqn(c)) != 0)
        return "is not the one that it was";
    if (nvme_protect_blocks(&d->protection, nvme_ctrlr_max_transfer(c)) == 0)
        return "has larger blocks than a command transfers";
    if (!nvme_blocks_possible(plx_get64(nvme_ctrlr_ns(c)->id.nsze), d->shift))
        return "has more blocks than are possible";
    if (nvme_ctrlr_ns(c)->zone_blocks != d->ns.zone_blocks)
        return "has other zones";
    return NULL;
}

/* It has connected, or its ANA state has changed. */
static void path_is_new(struct nvme_path *path)
{
    unsigned ana = nvme_ctrlr_ana(path->c);
    path->shunned = false;
    if (path->up && (ana == NVME_ANA_OPTIMIZED || ana == NVME_ANA_NON_OPTIMIZED))
        path->nc->told = false;
}

/* It may have grown while it was away; one that shrank then may be another. */
static void report_size(const struct nvme_path *path)
{
    struct nvme_disk *d = path->nc->disk;
    const uint64_t blocks = plx_get64(nvme_ctrlr_ns(path->c)->id.nsze);
    if (path->up && nvme_blocks_possible(blocks, d->shift))
        plx_bdev_resized(&d->bdev, blocks);
}

static void path_live(struct nvme_ctrlr *c, void *arg)
{
    struct nvme_path *path = path_of(arg);
    struct nvme_channel *nc = path->nc;
    const char *why = unusable(nc->disk, c);
    path->tried = path->live = true;
    path->foreign = why != NULL;
    path->up = !why;
    path_is_new(path);
    if (why)
        plx_error("%s: namespace %u of %s %s: this path is not used", nvme_ctrlr_name(c), nvme_ctrlr_ns(c)->nsid,
                  nc->disk->where.o.subnqn, why);
    else
        heed_limits(nc, c);
    report_size(path);
    choose_paths(nc);
}

static void path_event(struct nvme_ctrlr *c, void *arg, uint32_t dw0)
{
    (void)c, (void)dw0; /* the namespace has been looked at again, whatever it was about */
    report_size(path_of(arg));
}

static void path_down(struct nvme_ctrlr *c, void *arg)
{
    struct nvme_path *path = path_of(arg);
    (void)c;
    path->live = path->up = false;
    choose_paths(path->nc);
}

static void path_failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    struct nvme_path *path = path_of(arg);
    (void)c, (void)again;
    path->tried = true;
    if (ret == -ENODEV && path->nc->disk->node) { /* there is no other path, and it does not come back */
        path->foreign = true;
        plx_bdev_gone(&path->nc->disk->bdev, why);
    }
    if (!path->nc->nusable)
        choose_paths(path->nc); /* the deadline begins */
}

static void path_ana(struct nvme_ctrlr *c, void *arg)
{
    struct nvme_path *path = path_of(arg);
    plx_info("%s: ANA state %u", nvme_ctrlr_name(c), nvme_ctrlr_ana(c));
    path_is_new(path);
    if (path->nc->nusable)
        path->nc->told = false; /* if that ends now, it is news */
    choose_paths(path->nc);
}

static const struct nvme_ctrlr_ops ctrlr_ops = {
    .live = path_live, .down = path_down, .failed = path_failed, .ana = path_ana, .event = path_event};

/* ---- as they are planned ---- */

static struct nvme_path *find_path(struct nvme_channel *nc, uint32_t id)
{
    for (unsigned i = 0; i < NVME_PATHS_MAX; i++)
        if (nc->slots[i].c && !nc->slots[i].leaving && nc->slots[i].id == id)
            return &nc->slots[i];
    return NULL;
}

/* One that is the i-th of the plan, to be started. @return 0 with *out NULL while there is no room */
static int new_path(struct nvme_channel *nc, const struct nvme_plan *plan, unsigned i, struct nvme_path **out)
{
    struct nvme_path *path = nc->slots;
    struct nvme_opts o = nc->disk->where.o;
    *out = NULL;
    while (path != nc->slots + NVME_PATHS_MAX && path->c)
        path++;
    if (path == nc->slots + NVME_PATHS_MAX)
        return 0; /* until one that leaves is gone */
    o.nsid = nc->disk->ns.nsid;
    o.addrs = plan->addrs[i];
    *path = (struct nvme_path){.nc = nc, .id = plan->ids[i], .resets = plan->resets[i]};
    int ret = nvme_ctrlr_create(nc->ch->reactor, &o, &ctrlr_ops, path, &path->c);
    if (ret)
        path->c = NULL;
    else
        *out = path;
    return ret;
}

/* Lists the paths that are planned, in that order; those that are not there yet are made. @return 0 or -errno */
static int list_paths(struct nvme_channel *nc, const struct nvme_plan *plan)
{
    struct nvme_path *fresh[NVME_PATHS_MAX];
    unsigned nfresh = 0;
    int result = 0;
    nc->npaths = 0;
    for (unsigned i = 0; i < plan->npaths; i++) {
        struct nvme_path *path = find_path(nc, plan->ids[i]);
        if (!path) {
            int ret = new_path(nc, plan, i, &path);
            result = result ? result : ret;
            fresh[nfresh] = path;
            nfresh += path != NULL;
        }
        if (path)
            nc->paths[nc->npaths++] = path;
    }
    for (unsigned i = 0; i < nfresh; i++)
        nvme_ctrlr_start(fresh[i]->c, false);
    return result;
}

static bool is_planned(const struct nvme_plan *plan, uint32_t id)
{
    for (unsigned i = 0; i < plan->npaths; i++)
        if (plan->ids[i] == id)
            return true;
    return false;
}

/*
 * Cuts paths off that leave and have nothing in flight any more, or have had their time: what comes back from there is
 * sent elsewhere. @return whether some are left
 */
static bool cut_paths(struct nvme_channel *nc)
{
    bool left = false;
    for (unsigned i = 0; i < NVME_PATHS_MAX; i++) {
        struct nvme_path *path = &nc->slots[i];
        if (!path->c || !path->leaving)
            continue;
        if (path->up && nc->drains && !nvme_ctrlr_idle(path->c)) {
            left = true;
            continue;
        }
        nvme_ctrlr_destroy(path->c);
        path->c = NULL;
    }
    return left;
}

static void reset_paths(struct nvme_channel *nc, const struct nvme_plan *plan)
{
    for (unsigned i = 0; i < plan->npaths; i++) {
        struct nvme_path *path = find_path(nc, plan->ids[i]);
        if (!path || path->resets == plan->resets[i])
            continue;
        path->resets = plan->resets[i];
        nvme_ctrlr_reset(path->c);
    }
}

/* From now on nothing is sent to those that are not planned any more. */
static void part_with_paths(struct nvme_channel *nc, const struct nvme_plan *plan)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < nc->npaths; i++) {
        struct nvme_path *path = nc->paths[i];
        path->leaving = !is_planned(plan, path->id);
        if (path->leaving)
            nc->drains = NVME_DRAIN_TIMES;
        else
            nc->paths[kept++] = path;
    }
    nc->npaths = kept;
}

void nvme_paths_change(struct nvme_channel *nc)
{
    struct nvme_plan plan;
    nvme_link_get_plan(nc, &plan);
    nc->ch->refs++; /* what comes back may end, and a callback put the channel back */
    nc->round_robin = plan.round_robin;
    part_with_paths(nc, &plan);
    bool left = cut_paths(nc);
    int ret = list_paths(nc, &plan);
    if (ret)
        plx_error("%s: cannot make a path: %s", nc->disk->bdev.info.name, strerror(-ret));
    choose_paths(nc);
    reset_paths(nc, &plan);
    if (left)
        plx_timer_set(nc->ch->reactor, &nc->drain, NVME_DRAIN_MS * PLX_NS_PER_MS);
    else
        nvme_link_planned(nc, plan.change);
    plx_bdev_channel_put(nc->ch);
}

static void drain_due(struct plx_timer *timer)
{
    struct nvme_channel *nc = plx_container_of(timer, struct nvme_channel, drain);
    nc->drains -= nc->drains > 0;
    nvme_paths_change(nc);
}

int nvme_paths_open(struct nvme_channel *nc)
{
    struct nvme_plan plan;
    nc->waiting_tail = &nc->waiting;
    nc->max_blocks = nc->disk->max_blocks;
    nc->limits = nc->disk->limits;
    nc->retry.fn = retry_due;
    nc->rest.fn = rest_due;
    nc->deadline.fn = deadline_due;
    nc->drain.fn = drain_due;
    int ret = nvme_link_make(nc);
    if (ret)
        return ret;
    nvme_link_get_plan(nc, &plan);
    nc->round_robin = plan.round_robin;
    ret = list_paths(nc, &plan);
    if (ret)
        nvme_paths_close(nc);
    else
        nvme_link_planned(nc, plan.change);
    return ret;
}

void nvme_paths_close(struct nvme_channel *nc)
{
    struct plx_timer *const timers[] = {&nc->retry, &nc->rest, &nc->deadline, &nc->drain};
    assert(!nc->waiting);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(timers); i++)
        plx_timer_cancel(nc->ch->reactor, timers[i]);
    for (unsigned i = 0; i < NVME_PATHS_MAX; i++) {
        if (nc->slots[i].c)
            nvme_ctrlr_destroy(nc->slots[i].c);
        nc->slots[i].c = NULL;
    }
    nvme_link_cut(nc);
}
