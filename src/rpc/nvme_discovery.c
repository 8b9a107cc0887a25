/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Discovery controllers that are followed (Base 3.1.3.3): each NVM subsystem in their log is attached, and those that
 * leave it are detached. The log is read when a controller has been connected, and when an event tells of a change.
 * What is missing from it after the connection was lost may be a target that has just begun: that is let go with the
 * next event only.
 */
#include "rpc/nvme.h"

#include "base/log.h"

#include <errno.h>
#include <pollux/nvme.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DISCOVERY_RECORDS = 1024, /* that are looked at */
    DISCOVERY_RETRY_MS = 10000,
    DISCOVERY_KATO_S = 30,
    DISCOVERY_NOTICE = 2,
    DISCOVERY_CHANGED = 0xf0,
};

/* A subsystem at an address. */
struct found {
    struct plx_list link;
    struct remote_discovery *d;
    struct remote_addr addr;
    char subnqn[NVME_NQN_FIELD];
    char ctrl[RPC_NAME];
    bool attaching, gone;
    bool seen; /* in the log that was read last */
};

struct remote_discovery {
    struct plx_list link; /* in rpc->discoveries */
    struct plx_rpc *rpc;
    struct remote_addr addr;
    json_t *params;
    const char *name; /* in params */
    char settings[REMOTE_SETTINGS];
    struct nvme_ctrlr *c; /* NULL at the process's end */
    bool live;
    struct rpc_call *starting; /* waits until what it finds is attached, or NULL */
    struct plx_timer limit;    /* of that */
    bool stopping;
    struct rpc_call *stop; /* that waits for the end, or NULL */
    struct plx_timer retry;
    struct plx_list found;
    /* The log */
    struct nvme_req req;
    struct iovec iov;
    enum { LOG_IDLE, LOG_HEADER, LOG_RECORDS, LOG_CHECK } reading;
    bool read_again, changed, read_once;
    uint64_t genctr;
    unsigned nrecords;
    struct nvme_discovery_header header;
    struct nvme_discovery_entry *records;
};

static void read_log_step(struct remote_discovery *d);

static struct remote_discovery *discovery_find(struct plx_rpc *rpc, const char *name)
{
    plx_list_for_each(it, &rpc->discoveries) {
        struct remote_discovery *d = plx_list_entry(it, struct remote_discovery, link);
        if (strcmp(d->name, name) == 0)
            return d;
    }
    return NULL;
}

static void discovery_free(struct remote_discovery *d)
{
    if (d->c)
        nvme_ctrlr_destroy(d->c);
    plx_timer_cancel(d->rpc->reactor, &d->limit);
    plx_timer_cancel(d->rpc->reactor, &d->retry);
    plx_list_for_each_safe(it, &d->found)
        free(plx_list_entry(it, struct found, link));
    plx_list_del(&d->link);
    json_decref(d->params);
    free(d->records);
    free(d);
}

/* ---- what was found ---- */

static void discovery_stop_step(struct remote_discovery *d);

/* The call that has started it is answered, once what was found at first is attached. */
static void discovery_settled(struct remote_discovery *d)
{
    struct rpc_call *c = d->starting;
    plx_list_for_each(it, &d->found) {
        if (plx_list_entry(it, struct found, link)->attaching)
            return;
    }
    if (!c || !d->read_once)
        return;
    d->starting = NULL;
    plx_timer_cancel(d->rpc->reactor, &d->limit);
    rpc_ok(c, NULL);
}

static void found_free(struct found *f)
{
    plx_list_del(&f->link);
    free(f);
}

static void found_attached(void *arg, struct remote *r, int ret, const struct plx_error *err)
{
    struct found *f = arg;
    struct remote_discovery *d = f->d;
    (void)r;
    f->attaching = false;
    if (f->gone)
        return; /* with its detachment */
    if (ret) {
        plx_warn("%s: %s is not attached: %s", d->name, f->subnqn, err->text);
        found_free(f);
        if (!d->stopping && !d->rpc->stopping)
            plx_timer_set(d->rpc->reactor, &d->retry, DISCOVERY_RETRY_MS * PLX_NS_PER_MS);
    }
    if (!d->stopping)
        discovery_settled(d);
}

/* The name of a subsystem's controller: that which it has by another path, or the lowest that is free. */
static void choose_ctrl(struct remote_discovery *d, struct found *f)
{
    plx_list_for_each(it, &d->found) {
        const struct found *other = plx_list_entry(it, struct found, link);
        if (other != f && !other->gone && strcmp(other->subnqn, f->subnqn) == 0) {
            memcpy(f->ctrl, other->ctrl, sizeof f->ctrl);
            return;
        }
    }
    unsigned n = 0;
    do
        snprintf(f->ctrl, sizeof f->ctrl, "%.200s%u", d->name, n++);
    while (remote_find(d->rpc, f->ctrl));
}

static void attach_found(struct remote_discovery *d, const struct remote_addr *addr, const char *subnqn)
{
    struct plx_error err;
    struct found *f = calloc(1, sizeof *f);
    if (!f)
        return;
    f->d = d;
    f->addr = *addr;
    f->seen = f->attaching = true;
    snprintf(f->subnqn, sizeof f->subnqn, "%s", subnqn);
    choose_ctrl(d, f);
    const struct remote_spec spec = {
        .name = f->ctrl,
        .subnqn = f->subnqn,
        .addr = &f->addr,
        .settings = d->settings,
        .max_namespaces = REMOTE_NAMESPACES,
        .found_by = d,
    };
    plx_list_add_tail(&d->found, &f->link);
    int ret = remote_attach(d->rpc, &spec, found_attached, f, &err);
    if (ret)
        found_attached(f, NULL, ret, &err);
}

static void found_detached(void *arg, struct remote *r, int ret, const struct plx_error *err)
{
    struct found *f = arg;
    struct remote_discovery *d = f->d;
    (void)r;
    if (ret)
        plx_warn("%s: %s is not detached: %s", d->name, f->ctrl, err->text);
    found_free(f);
    if (d->stopping)
        discovery_stop_step(d);
    else
        discovery_settled(d);
}

/* What has left the log. One that somebody else has detached already is forgotten. */
static void detach_found(struct found *f)
{
    struct remote_discovery *d = f->d;
    struct remote *r = remote_find(d->rpc, f->ctrl);
    struct plx_error err;
    int ret = -ENOENT;
    f->gone = true;
    if (r && r->found_by == d)
        ret = remote_detach_path(r, &f->addr, found_detached, f, &err);
    if (ret)
        found_free(f);
}

/* ---- the log ---- */

static void take_field(char *to, const char *field, size_t size)
{
    memcpy(to, field, size);
    to[size] = 0;
    for (size_t len = strlen(to); len && to[len - 1] == ' ';)
        to[--len] = 0;
}

static struct found *find_found(struct remote_discovery *d, const struct remote_addr *addr, const char *subnqn)
{
    plx_list_for_each(it, &d->found) {
        struct found *f = plx_list_entry(it, struct found, link);
        if (!f->gone && remote_addr_same(&f->addr, addr) && strcmp(f->subnqn, subnqn) == 0)
            return f;
    }
    return NULL;
}

static void take_entry(struct remote_discovery *d, const struct nvme_discovery_entry *e)
{
    struct remote_addr addr;
    struct plx_error err;
    char traddr[257], trsvcid[33], subnqn[257];
    take_field(traddr, e->traddr, sizeof e->traddr);
    take_field(trsvcid, e->trsvcid, sizeof e->trsvcid);
    take_field(subnqn, e->subnqn, sizeof e->subnqn);
    if (e->subtype != NVME_SUBTYPE_NVM || e->trtype != NVME_TRTYPE_TCP)
        return;
    if (plx_nvme_nqn_problem(subnqn) || strchr(subnqn, '?') ||
        remote_addr_parse(&addr, "TCP", NULL, traddr, trsvcid, 0, &err)) {
        plx_warn("%s: an entry of the discovery log is passed over: %.100s at %.80s", d->name, subnqn, traddr);
        return;
    }
    struct found *f = find_found(d, &addr, subnqn);
    if (f)
        f->seen = true;
    else
        attach_found(d, &addr, subnqn);
}

/* One at a time, as what is detached at once may be forgotten at once. */
static struct found *left_log(const struct remote_discovery *d)
{
    plx_list_for_each(it, &d->found) {
        struct found *f = plx_list_entry(it, struct found, link);
        if (!f->seen && !f->gone)
            return f;
    }
    return NULL;
}

static void take_log(struct remote_discovery *d)
{
    plx_list_for_each(it, &d->found)
        plx_list_entry(it, struct found, link)->seen = false;
    for (unsigned i = 0; i < d->nrecords; i++)
        take_entry(d, &d->records[i]);
    for (struct found *f; d->changed && (f = left_log(d));)
        detach_found(f);
    d->changed = false;
    d->read_once = true;
    discovery_settled(d);
}

static void read_log_begin(struct remote_discovery *d)
{
    if (!d->live || d->stopping)
        return;
    d->read_again = d->reading != LOG_IDLE;
    if (d->read_again)
        return;
    d->reading = LOG_HEADER;
    read_log_step(d);
}

static void read_log_over(struct remote_discovery *d)
{
    free(d->records);
    d->records = NULL;
    d->reading = LOG_IDLE;
    if (d->read_again)
        read_log_begin(d);
}

/* @return whether the records are to be read */
static bool took_header(struct remote_discovery *d)
{
    uint64_t n = plx_get64(d->header.numrec);
    d->genctr = plx_get64(d->header.genctr);
    if (n > DISCOVERY_RECORDS)
        plx_warn("%s: of %llu records of the discovery log, %u are looked at", d->name, (unsigned long long)n,
                 DISCOVERY_RECORDS);
    d->nrecords = (unsigned)plx_min_u64(n, DISCOVERY_RECORDS);
    d->records = calloc(d->nrecords + 1u, sizeof d->records[0]);
    return d->records != NULL;
}

static void took_log(struct nvme_req *req)
{
    struct remote_discovery *d = plx_container_of(req, struct remote_discovery, req);
    if (req->lost || d->stopping) {
        d->reading = LOG_IDLE;
        free(d->records);
        d->records = NULL;
        return;
    }
    if (req->status) {
        plx_warn("%s: cannot read the discovery log: status %03x", d->name, req->status & 0x7ff);
        plx_timer_set(d->rpc->reactor, &d->retry, DISCOVERY_RETRY_MS * PLX_NS_PER_MS);
        read_log_over(d);
        return;
    }
    if (d->reading == LOG_HEADER) {
        bool ok = took_header(d);
        d->reading = d->nrecords ? LOG_RECORDS : LOG_CHECK;
        if (ok)
            read_log_step(d);
        else
            read_log_over(d);
    } else if (d->reading == LOG_RECORDS) {
        d->reading = LOG_CHECK;
        read_log_step(d);
    } else if (plx_get64(d->header.genctr) != d->genctr) {
        d->read_again = true; /* it has changed meanwhile */
        read_log_over(d);
    } else {
        take_log(d);
        read_log_over(d);
    }
}

/* Get Log Page, 70h: Base 5.1.12.3.1; a header, or the records behind it. */
static void read_log_step(struct remote_discovery *d)
{
    bool records = d->reading == LOG_RECORDS;
    uint32_t offset = records ? sizeof d->header : 0;
    uint32_t bytes = records ? (uint32_t)(d->nrecords * sizeof d->records[0]) : sizeof d->header;
    uint32_t dwords = bytes / 4 - 1;
    d->iov = (struct iovec){records ? (void *)d->records : &d->header, bytes};
    d->req = (struct nvme_req){
        .done = took_log,
        .data = {&d->iov, 0},
        .len = bytes,
        .dir = NVME_TO_HOST,
        .cmd = {.opcode = NVME_ADMIN_GET_LOG_PAGE,
                .cdw10 = plx_put32(NVME_LOG_DISCOVERY | (dwords & 0xffff) << 16),
                .cdw11 = plx_put32(dwords >> 16),
                .cdw12 = plx_put32(offset)},
    };
    nvme_submit_admin(d->c, &d->req);
}

static void retry_log(struct plx_timer *t)
{
    read_log_begin(plx_container_of(t, struct remote_discovery, retry));
}

/* ---- its association ---- */

static void discovery_live(struct nvme_ctrlr *c, void *arg)
{
    struct remote_discovery *d = arg;
    (void)c;
    d->live = true;
    read_log_begin(d);
}

static void discovery_down(struct nvme_ctrlr *c, void *arg)
{
    struct remote_discovery *d = arg;
    (void)c;
    d->live = false;
}

static void start_failed(struct remote_discovery *d, int ret, const struct plx_error *err);

static void discovery_failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    struct remote_discovery *d = arg;
    struct plx_error err;
    (void)c, (void)ret, (void)again;
    if (!d->starting || d->read_once)
        return;
    plx_fail(&err, -EIO, "%s: %.200s", d->addr.name, why);
    start_failed(d, -EIO, &err);
}

static void discovery_ana(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
}

static void discovery_event(struct nvme_ctrlr *c, void *arg, uint32_t dw0)
{
    struct remote_discovery *d = arg;
    (void)c;
    if ((dw0 & 7) != DISCOVERY_NOTICE || (dw0 >> 8 & 0xff) != DISCOVERY_CHANGED)
        return;
    d->changed = true;
    read_log_begin(d);
}

static const struct nvme_ctrlr_ops discovery_ops = {.live = discovery_live,
                                                    .down = discovery_down,
                                                    .failed = discovery_failed,
                                                    .ana = discovery_ana,
                                                    .event = discovery_event};

static int connect_discovery(struct remote_discovery *d, bool quiet, struct plx_error *err)
{
    struct nvme_where w;
    nvme_where_init(&w);
    memcpy(w.o.subnqn, NVME_DISCOVERY_NQN, sizeof NVME_DISCOVERY_NQN);
    int ret = nvme_where_query(&w, d->settings + (d->settings[0] == '&'), err);
    if (!ret)
        ret = nvme_where_addr(&w, d->addr.name, strlen(d->addr.name), 0, err);
    if (!ret)
        ret = nvme_where_finish(&w, err);
    if (ret)
        return ret;
    struct nvme_opts o = nvme_where_opts(&w, 0);
    o.queues = 0;
    o.nsid = NVME_NSID_ALL;
    o.quiet = quiet;
    o.kato_ms = DISCOVERY_KATO_S * 1000;
    ret = nvme_ctrlr_create(d->rpc->reactor, &o, &discovery_ops, d, &d->c);
    return ret ? plx_fail(err, ret, "%s: %s", d->addr.name, strerror(-ret)) : 0;
}

/* ---- starting ---- */

static void start_failed(struct remote_discovery *d, int ret, const struct plx_error *err)
{
    struct rpc_call *c = d->starting;
    struct plx_error why;
    d->starting = NULL;
    rpc_fail_errno(c, ret, err);
    if (d->rpc->stopping)
        return;
    if (remote_discovery_stop(d->rpc, d->name, NULL, &why))
        plx_warn("%s", why.text);
}

static void start_overdue(struct plx_timer *t)
{
    struct remote_discovery *d = plx_container_of(t, struct remote_discovery, limit);
    struct plx_error err;
    plx_fail(&err, -ETIMEDOUT, "not all that %s has found is attached within attach_timeout_ms", d->name);
    start_failed(d, -ETIMEDOUT, &err);
}

static int check_start(struct plx_rpc *rpc, const char *name, const struct remote_addr *addr, struct plx_error *err)
{
    unsigned n = 0;
    plx_list_for_each(it, &rpc->discoveries) {
        const struct remote_discovery *d = plx_list_entry(it, struct remote_discovery, link);
        if (strcmp(d->name, name) == 0)
            return plx_fail(err, -EEXIST, "there is a discovery %.100s already", name);
        if (remote_addr_same(&d->addr, addr))
            return plx_fail(err, -EEXIST, "discovery %.100s follows %s already", d->name, addr->name);
        n++;
    }
    return n < REMOTE_DISCOVERIES ? 0
                                  : plx_fail(err, -ENOSPC, "%d discovery controllers are followed, which is the limit",
                                             REMOTE_DISCOVERIES);
}

int remote_discovery_start(struct plx_rpc *rpc, struct rpc_call *c, const struct remote_addr *addr,
                           const char *settings, struct plx_error *err)
{
    int ret = check_start(rpc, rpc_str(c, "name"), addr, err);
    struct remote_discovery *d = ret ? NULL : calloc(1, sizeof *d);
    if (!d)
        return ret ? ret : plx_fail(err, -ENOMEM, "out of memory");
    plx_list_init(&d->found);
    d->rpc = rpc;
    d->addr = *addr;
    d->params = json_copy(c->params);
    d->name = rpc_str_in(d->params, "name");
    d->limit.fn = start_overdue;
    d->retry.fn = retry_log;
    snprintf(d->settings, sizeof d->settings, "%s", settings);
    plx_list_add_tail(&rpc->discoveries, &d->link);
    bool wait = rpc_bool(c, "wait_for_attach") || rpc_uint(c, "attach_timeout_ms");
    ret = connect_discovery(d, wait, err);
    if (ret) {
        discovery_free(d);
        return ret;
    }
    uint64_t limit = rpc_uint(c, "attach_timeout_ms");
    d->starting = wait ? c : NULL;
    if (limit)
        plx_timer_set(rpc->reactor, &d->limit, limit * PLX_NS_PER_MS);
    if (!wait)
        rpc_ok(c, NULL);
    nvme_ctrlr_start(d->c, false);
    return 0;
}

/* ---- stopping ---- */

/* What it has found is detached, one after the other; then it is gone. */
static void discovery_stop_step(struct remote_discovery *d)
{
    struct rpc_call *c = d->stop;
    while (!plx_list_empty(&d->found)) {
        struct found *f = plx_list_entry(d->found.next, struct found, link);
        struct remote *r = remote_find(d->rpc, f->ctrl);
        struct plx_error err;
        if (f->gone)
            return; /* under way: this goes on with its end */
        f->gone = true;
        if (r && r->found_by == d && !remote_detach_path(r, &f->addr, found_detached, f, &err))
            return;
        found_free(f);
    }
    discovery_free(d);
    if (c)
        rpc_ok(c, NULL);
}

int remote_discovery_stop(struct plx_rpc *rpc, const char *name, struct rpc_call *c, struct plx_error *err)
{
    struct remote_discovery *d = discovery_find(rpc, name);
    if (!d)
        return plx_fail(err, -ENOENT, "there is no discovery %.100s; bdev_nvme_get_discovery_info lists them", name);
    if (d->stopping)
        return plx_fail(err, -EBUSY, "discovery %.100s is being stopped already", name);
    d->stopping = true;
    d->stop = c;
    plx_timer_cancel(rpc->reactor, &d->limit);
    plx_timer_cancel(rpc->reactor, &d->retry);
    if (d->starting) {
        struct rpc_call *starting = d->starting;
        struct plx_error why;
        d->starting = NULL;
        plx_fail(&why, -ECANCELED, "discovery %.100s is stopped", name);
        rpc_fail_errno(starting, -ECANCELED, &why);
    }
    discovery_stop_step(d);
    return 0;
}

void remote_discoveries_stop(struct plx_rpc *rpc)
{
    struct plx_error err;
    plx_fail(&err, -ECANCELED, "the process ends");
    plx_list_for_each(it, &rpc->discoveries) {
        struct remote_discovery *d = plx_list_entry(it, struct remote_discovery, link);
        plx_timer_cancel(rpc->reactor, &d->limit);
        plx_timer_cancel(rpc->reactor, &d->retry);
        if (d->c)
            nvme_ctrlr_destroy(d->c);
        d->c = NULL;
        d->live = false;
        if (d->starting)
            start_failed(d, -ECANCELED, &err);
    }
}

void rpc_discoveries_close(struct plx_rpc *rpc)
{
    while (!plx_list_empty(&rpc->discoveries))
        discovery_free(plx_list_entry(rpc->discoveries.next, struct remote_discovery, link));
}

/* ---- telling ---- */

json_t *remote_discoveries_json(struct plx_rpc *rpc)
{
    json_t *out = json_array();
    plx_list_for_each(it, &rpc->discoveries) {
        const struct remote_discovery *d = plx_list_entry(it, struct remote_discovery, link);
        json_array_append_new(out, json_pack("{s:s, s:o, s:[]}", "name", d->name, "trid",
                                             remote_trid_json(&d->addr, NVME_DISCOVERY_NQN), "referrals"));
    }
    return out;
}

/* What comes after it in a dump may be of what it finds: it is waited for. */
void rpc_config_discoveries(struct plx_rpc *rpc, struct rpc_config *list)
{
    plx_list_for_each(it, &rpc->discoveries) {
        const struct remote_discovery *d = plx_list_entry(it, struct remote_discovery, link);
        json_t *params = json_copy(d->params);
        if (d->stopping || d->starting) {
            json_decref(params);
            continue;
        }
        json_object_set_new(params, "wait_for_attach", json_true());
        rpc_config_add(list, "bdev_nvme_start_discovery", params);
    }
}
