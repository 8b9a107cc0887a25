/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Controllers are asked: their health, pages of Identify and logs. One that is attached by a call is asked by the
 * association that watches it; for a disk that was opened otherwise one is made, for as long as that takes.
 */
#include "rpc/nvme.h"

#include "base/text.h"
#include "bdev/nvme.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <pollux/nvme.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KELVIN = 273, ASK_BYTES = 4096 };

/* The state of a call. */
struct remote_ask {
    struct plx_list link; /* in rpc->asks, if it has one of its own */
    struct nvme_req req;
    struct iovec iov;
    struct rpc_call *call;
    struct nvme_ctrlr *c; /* that is asked */
    bool own;             /* it was made for this */
    bool over;
    uint32_t nsid; /* of the disk, or 0 */
    void (*answer)(struct remote_ask *a);
    uint8_t data[ASK_BYTES];
};

/* ---- who is asked ---- */

/* What is its own must be gone before the call is answered, which frees it. */
static void ask_over(struct remote_ask *a)
{
    a->over = true;
    if (a->own)
        nvme_ctrlr_destroy(a->c);
    plx_list_del(&a->link);
}

static void ask_failed(struct remote_ask *a, int ret, const char *fmt, const char *what)
{
    struct plx_error err;
    char text[200];
    snprintf(text, sizeof text, "%s", what);
    plx_fail(&err, ret, fmt, text);
    ask_over(a);
    rpc_fail_errno(a->call, ret, &err);
}

static void ask_answered(struct nvme_req *req)
{
    struct remote_ask *a = plx_container_of(req, struct remote_ask, req);
    if (a->over)
        return;
    if (req->lost)
        ask_failed(a, -EIO, "%s", "the connection is lost");
    else if (req->status)
        ask_failed(a, -EIO, "the controller refuses that: %s", plx_nvme_status_text(req->status));
    else
        a->answer(a);
}

static void ask_send(struct remote_ask *a)
{
    a->req.done = ask_answered;
    a->req.data = (struct plx_iov_at){&a->iov, 0};
    nvme_submit_admin(a->c, &a->req);
}

static void ask_live(struct nvme_ctrlr *c, void *arg)
{
    (void)c;
    ask_send(arg);
}

static void ask_connect_failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    (void)c, (void)again;
    ask_failed(arg, ret, "%s", why);
}

static void ask_ignore(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg; /* what was asked comes back as lost */
}

static const struct nvme_ctrlr_ops ask_ops = {
    .live = ask_live, .down = ask_ignore, .failed = ask_connect_failed, .ana = ask_ignore};

/* The controller that a disk is attached by. */
struct remote *remote_of_disk(struct plx_rpc *rpc, const struct plx_bdev *bdev)
{
    plx_list_for_each(it, &rpc->remotes) {
        struct remote *r = plx_list_entry(it, struct remote, link);
        plx_list_for_each(at, &r->namespaces) {
            const struct rpc_disk *d = remote_ns_disk(plx_list_entry(at, struct remote_ns, link));
            if (d && d->bdev == bdev)
                return r;
        }
    }
    return NULL;
}

static struct nvme_ctrlr *first_live(const struct remote *r)
{
    plx_list_for_each(it, &r->paths) {
        const struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (p->live && p->attached)
            return p->watch;
    }
    return NULL;
}

static struct remote_ask *ask_new(struct rpc_call *c, void (*answer)(struct remote_ask *a))
{
    struct remote_ask *a = c->state = calloc(1, sizeof *a);
    if (!a) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return NULL;
    }
    a->call = c;
    a->answer = answer;
    plx_list_init(&a->link);
    return a;
}

/* One of its own, for a disk that no call has attached. @return 0, or -errno with err filled */
static int ask_make(struct remote_ask *a, const struct plx_bdev *bdev, struct plx_error *err)
{
    struct nvme_opts o;
    if (!plx_nvme_disk_opts(bdev, &o))
        return plx_fail(err, -ENODEV, "%.100s is no namespace of an NVMe controller that is driven here",
                        plx_bdev_info(bdev)->name);
    int ret = nvme_ctrlr_create(a->call->rpc->reactor, &o, &ask_ops, a, &a->c);
    if (ret)
        return plx_fail(err, ret, "out of memory");
    a->own = true;
    return 0;
}

/*
 * Whom the parameter `name` means: a controller, a disk of one, or what stands on such a disk. @return false when the
 * call has failed
 */
static bool ask_whom(struct remote_ask *a)
{
    struct rpc_call *c = a->call;
    struct plx_bdev_nvme_info info;
    struct plx_error err;
    const char *name = rpc_str(c, "name");
    struct remote *r = remote_find(c->rpc, name);
    struct plx_bdev *bdev = r ? NULL : plx_bdev_find(name);
    int ret = 0;
    while (bdev && plx_bdev_below(bdev))
        bdev = plx_bdev_below(bdev);
    if (bdev && plx_bdev_nvme_get_info(bdev, &info))
        a->nsid = info.nsid;
    r = r || !bdev ? r : remote_of_disk(c->rpc, bdev);
    if (r) {
        a->c = first_live(r);
        ret = a->c ? 0 : plx_fail(&err, -EIO, "controller %.100s is not connected", r->name);
    } else if (bdev) {
        ret = ask_make(a, bdev, &err);
    } else {
        ret = plx_fail(&err, -ENODEV,
                       "there is no controller or disk %.100s; bdev_nvme_get_controllers and bdev_get_bdevs list them",
                       name);
    }
    if (ret)
        rpc_fail_errno(c, ret, &err);
    return !ret;
}

static void ask_begin(struct remote_ask *a)
{
    rpc_takes_long(a->call);
    if (a->own) {
        plx_list_add_tail(&a->call->rpc->asks, &a->link);
        nvme_ctrlr_start(a->c, true);
    } else {
        ask_send(a);
    }
}

static void ask_for_log(struct remote_ask *a, uint8_t lid, uint32_t nsid, uint32_t bytes)
{
    a->iov = (struct iovec){a->data, bytes};
    a->req = (struct nvme_req){
        .len = bytes,
        .dir = NVME_TO_HOST,
        .cmd = {.opcode = NVME_ADMIN_GET_LOG_PAGE,
                .nsid = plx_put32(nsid),
                .cdw10 = plx_put32(lid | (bytes / 4 - 1) << 16)},
    };
    ask_begin(a);
}

static void ask_identify(struct remote_ask *a, uint8_t cns, uint8_t csi, uint32_t nsid)
{
    a->iov = (struct iovec){a->data, ASK_BYTES};
    a->req = (struct nvme_req){
        .len = ASK_BYTES,
        .dir = NVME_TO_HOST,
        .cmd = {.opcode = NVME_ADMIN_IDENTIFY,
                .nsid = plx_put32(nsid),
                .cdw10 = plx_put32(cns),
                .cdw11 = plx_put32((uint32_t)csi << 24)},
    };
    ask_begin(a);
}

/* What others were asked comes back when these go. */
void remote_asks_stop(struct plx_rpc *rpc)
{
    while (!plx_list_empty(&rpc->asks))
        ask_failed(plx_list_entry(rpc->asks.next, struct remote_ask, link), -ECANCELED, "%s", "the process ends");
}

/* ---- health ---- */

/* A count of 128 bits, as far as JSON has them here. */
static json_t *count_json(const uint8_t n[16])
{
    uint64_t low = 0;
    bool beyond = n[7] >> 7;
    for (int i = 15; i >= 0; i--) {
        beyond |= i > 7 && n[i];
        low = i > 7 ? 0 : low << 8 | n[i];
    }
    return json_integer(beyond ? INT64_MAX : (json_int_t)low);
}

/* Text of a fixed length, without the spaces at its end. */
static json_t *field_json(const char *field, size_t size)
{
    while (size && (field[size - 1] == ' ' || !field[size - 1]))
        size--;
    json_t *text = json_stringn(field, size);
    return text ? text : json_string("");
}

static json_t *health_json(const struct remote_ask *a)
{
    const struct nvme_health_log *log = (const void *)a->data;
    const struct nvme_id_ctrl *id = nvme_ctrlr_id(a->c);
    const char *name = nvme_ctrlr_name(a->c);
    struct remote_addr addr = {.traddr = ""};
    struct plx_error err;
    char host[PLX_ADDR_HOST];
    uint16_t port;
    unsigned kelvin = plx_get16(log->temperature);
    if (remote_addr_parse(&addr, "PCIe", NULL, name, NULL, 0, &err) &&
        !plx_addr_split(name, strlen(name), host, &port, &err))
        snprintf(addr.traddr, sizeof addr.traddr, "%.63s", host);
    json_t *o =
        json_pack("{s:o, s:o, s:o, s:s, s:i, s:i, s:i, s:i, s:i}", "model_number", field_json(id->mn, sizeof id->mn),
                  "serial_number", field_json(id->sn, sizeof id->sn), "firmware_revision",
                  field_json(id->fr, sizeof id->fr), "traddr", addr.traddr, "critical_warning", log->critical_warning,
                  "temperature_celsius", kelvin ? (int)kelvin - KELVIN : 0, "available_spare_percentage", log->spare,
                  "available_spare_threshold_percentage", log->spare_threshold, "percentage_used", log->used);
    const struct {
        const char *name;
        const uint8_t *count;
    } counts[] = {
        {"data_units_read", log->data_units_read}, {"data_units_written", log->data_units_written},
        {"host_read_commands", log->host_reads},   {"host_write_commands", log->host_writes},
        {"controller_busy_time", log->busy_time},  {"power_cycles", log->power_cycles},
        {"power_on_hours", log->power_on_hours},   {"unsafe_shutdowns", log->unsafe_shutdowns},
        {"media_errors", log->media_errors},       {"num_err_log_entries", log->error_entries},
    };
    for (size_t i = 0; i < PLX_ARRAY_SIZE(counts); i++)
        json_object_set_new(o, counts[i].name, count_json(counts[i].count));
    plx_le32 warning, critical;
    memcpy(&warning, log->reserved192, sizeof warning);
    memcpy(&critical, log->reserved192 + 4, sizeof critical);
    json_object_set_new(o, "warning_temperature_time_minutes", json_integer(plx_get32(warning)));
    json_object_set_new(o, "critical_composite_temperature_time_minutes", json_integer(plx_get32(critical)));
    return o;
}

static void answer_health(struct remote_ask *a)
{
    json_t *o = health_json(a);
    ask_over(a);
    rpc_ok(a->call, o);
}

/* Get Log Page, 02h, of the controller: Base 5.1.12.1.3 */
void remote_get_health(struct rpc_call *c)
{
    struct remote_ask *a = ask_new(c, answer_health);
    if (a && ask_whom(a))
        ask_for_log(a, NVME_LOG_HEALTH, NVME_NSID_ALL, sizeof(struct nvme_health_log));
}

/* ---- any page ---- */

static void answer_page(struct remote_ask *a)
{
    static const char digits[] = "0123456789abcdef";
    char hex[2 * ASK_BYTES + 1];
    const size_t n = a->iov.iov_len;
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digits[a->data[i] >> 4];
        hex[2 * i + 1] = digits[a->data[i] & 15];
    }
    json_t *o =
        json_pack("{s:s, s:I, s:i, s:I, s:s#}", "address", nvme_ctrlr_name(a->c), "nsid", (json_int_t)a->nsid, "cntlid",
                  nvme_ctrlr_cntlid(a->c), "cap", (json_int_t)nvme_ctrlr_cap(a->c), "data", hex, (int)(2 * n));
    ask_over(a);
    rpc_ok(a->call, o);
}

void remote_read(struct rpc_call *c)
{
    const bool log = strcmp(rpc_str(c, "page"), "log") == 0, given = rpc_param(c, "nsid");
    const uint8_t id = (uint8_t)rpc_uint(c, "id");
    const uint32_t bytes = (uint32_t)rpc_uint(c, "bytes"), nsid = (uint32_t)rpc_uint(c, "nsid");
    struct plx_error err;
    if (log && bytes % 4) {
        plx_fail(&err, -EINVAL, "bytes is %u: a log page is read in multiples of 4", bytes);
        rpc_fail_errno(c, -EINVAL, &err);
        return;
    }
    struct remote_ask *a = ask_new(c, answer_page);
    if (!a || !ask_whom(a))
        return;
    if (log)
        ask_for_log(a, id, given ? nsid : NVME_NSID_ALL, bytes);
    else
        ask_identify(a, id, (uint8_t)rpc_uint(c, "csi"), given ? nsid : id ? 0 : a->nsid);
}
