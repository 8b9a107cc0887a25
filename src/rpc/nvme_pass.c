/* SPDX-License-Identifier: BSD-3-Clause */
/* A controller is sent what a client has made, and its answer handed on: by a worker thread, as that waits. */
#include "rpc/nvme.h"

#include "base/base64.h"
#include "bdev/nvme.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASS_MS = 30000 };

struct remote_pass {
    struct plx_list link; /* in rpc->passes */
    struct plx_aio aio;
    struct rpc_call *call;
    struct nvme_opts o;
    char node[PLX_ADDR_TEXT]; /* of the kernel's, or "" */
    struct nvme_pass p;
    struct plx_error err;
};

static void remote_pass_free(struct remote_pass *x)
{
    free(x->p.data);
    free(x);
}

/* ---- what is asked for ---- */

static int decode_command(const struct rpc_call *c, struct nvme_cmd *cmd, struct plx_error *err)
{
    const char *text = rpc_str(c, "cmdbuf");
    uint8_t bytes[PLX_BASE64_LEN(sizeof *cmd)];
    const size_t len = strlen(text);
    if (len > PLX_BASE64_LEN(sizeof *cmd) || plx_base64_decode(bytes, text, len) != (long)sizeof *cmd)
        return plx_fail(err, -EINVAL, "cmdbuf is not a submission queue entry, 64 bytes in base64url");
    memcpy(cmd, bytes, sizeof *cmd);
    return 0;
}

/* Its length is what data has, or data_len says; both, where both are there. */
static int decode_data(const struct rpc_call *c, struct nvme_pass *p, struct plx_error *err)
{
    const char *text = rpc_str(c, "data");
    const bool given = rpc_param(c, "data_len");
    const uint32_t len = given ? (uint32_t)rpc_uint(c, "data_len") : 0;
    const long n = text ? plx_base64_decode(NULL, text, strlen(text)) : (long)len;
    if (n < 0)
        return plx_fail(err, -EINVAL, "data is not base64url");
    if (text && p->dir == NVME_TO_HOST)
        return plx_fail(err, -EINVAL, "data_direction is c2h: data comes from the controller, data_len bytes");
    if (given && len != n)
        return plx_fail(err, -EINVAL, "data_len is %u, and data has %ld bytes", len, n);
    if (!text && n && p->dir == NVME_FROM_HOST)
        return plx_fail(err, -EINVAL, "data_direction is h2c, and there is no data");
    p->len = (uint32_t)n;
    p->data = calloc(1, (size_t)n + 3);
    if (!p->data)
        return plx_fail(err, -ENOMEM, "out of memory");
    if (text)
        plx_base64_decode(p->data, text, strlen(text));
    return 0;
}

static int decode_pass(const struct rpc_call *c, struct nvme_pass *p, struct plx_error *err)
{
    p->admin = strcmp(rpc_str(c, "cmd_type"), "admin") == 0;
    p->dir = strcmp(rpc_str(c, "data_direction"), "c2h") == 0 ? NVME_TO_HOST : NVME_FROM_HOST;
    p->timeout_ms = (uint32_t)rpc_uint(c, "timeout_ms");
    if (!p->timeout_ms)
        p->timeout_ms = PASS_MS;
    if ((rpc_param(c, "metadata") && rpc_str(c, "metadata")[0]) || rpc_uint(c, "metadata_len"))
        return plx_fail(err, -EINVAL, "metadata apart from data is not transferred here");
    int ret = decode_command(c, &p->cmd, err);
    return ret ? ret : decode_data(c, p, err);
}

/* ---- who is asked ---- */

static int path_of_remote(const struct remote *r, struct nvme_opts *out, struct plx_error *err)
{
    plx_list_for_each(it, &r->paths) {
        const struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        struct nvme_where w;
        if (!p->live || !p->attached)
            continue;
        int ret = remote_where(&w, &p->addr, r->settings, err);
        *out = nvme_where_opts(&w, 0);
        snprintf(out->subnqn, sizeof out->subnqn, "%s", r->subnqn);
        return ret;
    }
    return plx_fail(err, -EIO, "controller %.100s is not connected", r->name);
}

/* A controller, a disk of one, or what stands on such a disk. @return 0 or -errno; -ENODEV when there is none */
static int find_whom(struct remote_pass *x, const char *name, struct plx_error *err)
{
    struct plx_rpc *rpc = x->call->rpc;
    const struct remote *r = remote_find(rpc, name);
    struct plx_bdev *bdev = r ? NULL : plx_bdev_find(name);
    while (bdev && plx_bdev_below(bdev))
        bdev = plx_bdev_below(bdev);
    if (!r && !bdev)
        return plx_fail(err, -ENODEV, "there is no controller or disk %.100s", name);
    r = r ? r : remote_of_disk(rpc, bdev);
    if (r)
        return path_of_remote(r, &x->o, err);
    if (plx_nvme_disk_node(bdev, x->node, sizeof x->node) || plx_nvme_disk_opts(bdev, &x->o))
        return 0;
    return plx_fail(err, -ENODEV, "%.100s is no namespace of an NVMe controller", name);
}

/* ---- sending ---- */

static int64_t pass_work(struct plx_aio *aio)
{
    struct remote_pass *x = plx_container_of(aio, struct remote_pass, aio);
    return x->node[0] ? nvme_pass_node(x->node, &x->p, &x->err) : nvme_pass(&x->o, &x->p, &x->err);
}

static json_t *encoded(const void *bytes, size_t n)
{
    char *text = malloc(PLX_BASE64_LEN(n) + 1);
    if (!text)
        return NULL;
    plx_base64_encode(text, bytes, n);
    json_t *o = json_string(text);
    free(text);
    return o;
}

static void answer_pass(struct remote_pass *x, int ret)
{
    if (ret == -EINVAL) {
        rpc_fail_params(x->call, &x->err);
    } else if (ret) {
        rpc_fail_errno(x->call, ret, &x->err);
    } else {
        json_t *o = json_pack("{s:o}", "cpl", encoded(&x->p.cqe, sizeof x->p.cqe));
        if (x->p.dir == NVME_TO_HOST && x->p.len)
            json_object_set_new(o, "data", encoded(x->p.data, x->p.len));
        rpc_ok(x->call, o);
    }
}

static void pass_done(struct plx_aio *aio)
{
    struct remote_pass *x = plx_container_of(aio, struct remote_pass, aio);
    struct plx_rpc *rpc = x->call->rpc;
    plx_list_del(&x->link);
    rpc->remote_tasks--;
    answer_pass(x, (int)aio->res);
    remote_pass_free(x);
    rpc_may_stop(rpc);
}

void remote_send_cmd(struct rpc_call *c)
{
    struct plx_error err;
    struct remote_pass *x = calloc(1, sizeof *x);
    if (!x) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    x->call = c;
    int ret = decode_pass(c, &x->p, &err);
    if (!ret)
        ret = find_whom(x, rpc_str(c, "name"), &err);
    if (ret == -EINVAL || ret == -ENODEV)
        rpc_fail_params(c, &err);
    else if (ret)
        rpc_fail_errno(c, ret, &err);
    if (ret) {
        remote_pass_free(x);
        return;
    }
    rpc_takes_long(c);
    x->aio = (struct plx_aio){.done = pass_done, .fd = -1, .op = PLX_AIO_CALL, .call = pass_work};
    plx_list_add_tail(&c->rpc->passes, &x->link);
    c->rpc->remote_tasks++;
    plx_aio_submit(c->rpc->reactor, &x->aio);
}

void remote_passes_stop(struct plx_rpc *rpc)
{
    plx_list_for_each(it, &rpc->passes)
        atomic_store(&plx_list_entry(it, struct remote_pass, link)->p.cancel, true);
}
