/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Methods by which `pollux pool` and `pollux volume` do on a disk that this process has open what they do otherwise by
 * themselves, and what clients ask of what is different. A pool is named by its UUID, whatever its disk is called. All
 * of it is done by worker threads.
 */
#include "rpc/pool_call.h"

#include "base/base64.h"
#include "base/uuid.h"
#include "reactor/aside.h"
#include "rpc/table.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pollux/nvme.h>
#include <pollux/pool_check.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum {
    POOL_READ_MAX = 1 << 20,     /* bytes of a call, at most */
    POOL_FRAGMAP_MAX = 64 << 20, /* clusters, likewise */
};

static int64_t run_pool_call(struct plx_aio *aio)
{
    struct pool_call *t = plx_container_of(aio, struct pool_call, aio);
    int ret = plx_pool_find(t->uuid, &t->pool);
    if (ret)
        return plx_fail(&t->err, ret, "there is no pool of this UUID open here");
    ret = t->run(t, &t->err);
    plx_pool_close(t->pool);
    return ret;
}

static void pool_call_done(struct plx_aio *aio)
{
    struct pool_call *t = plx_container_of(aio, struct pool_call, aio);
    struct rpc_call *c = t->call;
    int ret = (int)aio->res;
    struct plx_error err = t->err;
    json_t *result = t->result;
    if (t->hold)
        plx_bdev_release(t->hold);
    plx_list_del(&t->summing);
    free(t);
    if (ret) {
        json_decref(result);
        rpc_fail_errno(c, ret, &err);
    } else {
        rpc_ok(c, result);
    }
}

struct pool_call *pool_call_new(struct rpc_call *c, int (*run)(struct pool_call *t, struct plx_error *err))
{
    struct pool_call *t = calloc(1, sizeof *t);
    if (!t) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return NULL;
    }
    t->call = c;
    t->run = run;
    plx_list_init(&t->summing);
    return t;
}

struct pool_call *pool_call_on(struct rpc_call *c, const struct rpc_disk *d,
                               int (*run)(struct pool_call *t, struct plx_error *err))
{
    struct plx_pool_info info;
    struct pool_call *t = pool_call_new(c, run);
    if (!t)
        return NULL;
    plx_pool_get_info(plx_volume_pool(d->bdev), &info);
    memcpy(t->uuid, info.uuid, sizeof t->uuid);
    plx_uuid_format(plx_bdev_info(d->bdev)->uuid, t->store); /* which has room for it */
    t->volume = t->store;
    return t;
}

bool pool_call_hold(struct pool_call *t, struct plx_bdev *bdev)
{
    const struct plx_bdev_hold_opts hold = {.who = t->call->method->name, .claim = PLX_BDEV_READS};
    struct plx_error err;
    int ret = plx_bdev_hold(bdev, &hold, &t->hold, &err);
    if (!ret) {
        t->disk = bdev;
        return true;
    }
    rpc_fail_errno(t->call, ret, &err);
    free(t);
    return false;
}

void pool_call_run(struct pool_call *t)
{
    t->aio = (struct plx_aio){.done = pool_call_done, .fd = -1, .op = PLX_AIO_CALL, .call = run_pool_call};
    plx_aio_submit(t->call->rpc->reactor, &t->aio);
}

static struct pool_call *pool_call_of(struct rpc_call *c, int (*run)(struct pool_call *t, struct plx_error *err))
{
    struct pool_call *t = pool_call_new(c, run);
    if (!t)
        return NULL;
    plx_uuid_parse(rpc_str(c, "uuid"), t->uuid); /* which the table has seen to */
    plx_list_for_each(it, &c->rpc->stores) {
        const struct rpc_store *s = plx_list_entry(it, struct rpc_store, link);
        struct plx_pool_info info;
        plx_pool_get_info(s->pool, &info);
        if (!memcmp(info.uuid, t->uuid, sizeof t->uuid))
            memcpy(t->store, s->name, sizeof t->store);
    }
    return t;
}

/* In the alphabet that other servers use: RFC 4648, 4. */
static void pool_base64(char *out, const void *bytes, size_t n)
{
    plx_base64_encode(out, bytes, n);
    for (; *out; out++)
        *out = *out == '-' ? '+' : *out == '_' ? '/' : *out;
}

/* ---- what it is ---- */

static bool add_volume(void *arg, const struct plx_volume_info *v)
{
    json_t *o = json_pack("{s:s, s:o, s:I, s:I, s:b, s:b, s:s, s:I, s:I, s:b}", "name", v->name, "uuid",
                          rpc_uuid_json(v->uuid), "size", (json_int_t)v->size, "mapped", (json_int_t)v->mapped,
                          "snapshot", v->snapshot, "thick", v->thick, "parent", v->parent, "children",
                          (json_int_t)v->children, "created", (json_int_t)v->created, "open", v->disk != NULL);
    json_array_append_new(arg, o);
    return true;
}

static int run_get(struct pool_call *t, struct plx_error *err)
{
    struct plx_pool_info i;
    json_t *volumes = json_array();
    (void)err;
    plx_pool_get_info(t->pool, &i);
    plx_pool_each(t->pool, add_volume, volumes);
    t->result = json_pack("{s:s, s:o, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:b, s:I, s:I, s:o}",
                          "name", i.name, "uuid", rpc_uuid_json(i.uuid), "disk", plx_bdev_info(i.disk)->name, "lvstore",
                          t->store, "unit", (json_int_t)i.unit, "cluster", (json_int_t)i.cluster, "size",
                          (json_int_t)i.size, "usable", (json_int_t)i.usable, "free", (json_int_t)i.free, "set_aside",
                          (json_int_t)i.set_aside, "beyond", (json_int_t)i.beyond, "checksums", i.checksums,
                          "checksum_errors", (json_int_t)i.damages, "checksum_mended", (json_int_t)i.mended, "freeing",
                          i.freeing, "broken", (json_int_t)i.broken, "lost", (json_int_t)i.lost, "volumes", volumes);
    return t->result ? 0 : -ENOMEM;
}

static const struct rpc_param params_pool[] = {
    UUID("uuid", "of the pool", REQUIRED),
    END,
};

static void pool_get(struct rpc_call *c)
{
    struct pool_call *t = pool_call_of(c, run_get);
    if (t)
        pool_call_run(t);
}

/* ---- what is done to it ---- */

/* Those of the call beside its own, all of one instant: they are in the call's state, which ends with it. */
static void group_link(struct rpc_call *c, struct plx_pool_op *first)
{
    const json_t *with = rpc_param(c, "with");
    struct plx_pool_op *more = c->state, *last = first;
    for (size_t i = 0; i < json_array_size(with); i++) {
        const json_t *one = json_array_get(with, i);
        more[i] = (struct plx_pool_op){
            .kind = PLX_POOL_SNAPSHOT, .volume = rpc_str_in(one, "volume"), .name = rpc_str_in(one, "name")};
        last = last->with = &more[i];
    }
}

static int run_change(struct pool_call *t, struct plx_error *err)
{
    struct plx_pool_op op = {
        .kind = t->kind, .volume = t->volume, .name = t->name, .size = t->length, .thick = t->thick};
    if (t->from)
        plx_uuid_parse(t->from, op.uuid);
    group_link(t->call, &op);
    int ret = plx_pool_do(t->pool, &op);
    if (ret)
        *err = op.err;
    else
        t->result = json_true();
    return ret;
}

#define CHANGES "create|snapshot|clone|delete|rename|resize|revert|freeze|inflate|decouple|set_parent|grow"

enum { SNAPSHOTS_MAX = 1024 };

static const struct rpc_param params_with[] = {
    TEXT("volume", "its name or UUID", REQUIRED),
    TEXT("name", "of the snapshot", REQUIRED),
    END,
};

static const struct rpc_param params_change[] = {
    UUID("uuid", "of the pool, which is no lvstore", REQUIRED),
    ENUM("change", CHANGES, "what is to be done", REQUIRED),
    TEXT("volume", "its name or UUID; not of create and grow"),
    TEXT("name", "of what is made, or that it gets; revert, set_parent: of the snapshot"),
    UUID("new_uuid", "create, clone: of what is made; another one each time without it"),
    U64("size", "create, resize: bytes", LIMITS(1, INT64_MAX)),
    BOOL("thick", "create: all space is set aside", INIT("false")),
    OBJECTS("with", params_with, "snapshot: of these volumes, too, at the same instant; all are made, or none",
            LIMITS(1, SNAPSHOTS_MAX)),
    END,
};

/* @return 0, or -errno, and the call has failed */
static int change_check(struct rpc_call *c, const struct pool_call *t)
{
    const json_t *with = rpc_param(c, "with");
    struct plx_error err;
    int ret = 0;
    if (t->store[0])
        ret = plx_fail(&err, -EINVAL, "the pool is lvstore %s: bdev_lvol_create and the like change it", t->store);
    else if (with && t->kind != PLX_POOL_SNAPSHOT)
        ret = plx_fail(&err, -EINVAL, "what is done to several volumes at one instant are snapshots");
    else if (with && !(c->state = calloc(json_array_size(with), sizeof(struct plx_pool_op))))
        ret = plx_fail(&err, -ENOMEM, "out of memory");
    if (ret)
        rpc_fail_errno(c, ret, &err);
    return ret;
}

static void pool_change(struct rpc_call *c)
{
    static const struct {
        const char *name;
        enum plx_pool_op_kind kind;
    } kinds[] = {{"create", PLX_POOL_CREATE},         {"snapshot", PLX_POOL_SNAPSHOT}, {"clone", PLX_POOL_CLONE},
                 {"delete", PLX_POOL_DELETE},         {"rename", PLX_POOL_RENAME},     {"resize", PLX_POOL_RESIZE},
                 {"revert", PLX_POOL_REVERT},         {"inflate", PLX_POOL_INFLATE},   {"decouple", PLX_POOL_DECOUPLE},
                 {"set_parent", PLX_POOL_SET_PARENT}, {"grow", PLX_POOL_GROW},         {"freeze", PLX_POOL_FREEZE}};
    struct pool_call *t = pool_call_of(c, run_change);
    if (!t)
        return;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(kinds); i++)
        if (!strcmp(rpc_str(c, "change"), kinds[i].name))
            t->kind = kinds[i].kind;
    if (change_check(c, t)) {
        free(t);
        return;
    }
    t->volume = rpc_str(c, "volume");
    t->name = rpc_str(c, "name");
    t->from = rpc_str(c, "new_uuid");
    t->length = rpc_uint(c, "size");
    t->thick = rpc_bool(c, "thick");
    c->tried = true;
    pool_call_run(t);
}

/* ---- what is different ---- */

static int run_diff(struct pool_call *t, struct plx_error *err)
{
    struct plx_pool_diff d = {.from = t->from, .to = t->volume, .offset = t->offset, .room = POOL_EXTENTS};
    json_t *out = json_array();
    d.extents = calloc(POOL_EXTENTS, sizeof *d.extents);
    int ret = d.extents ? plx_pool_diff(t->pool, &d) : -ENOMEM;
    if (ret)
        *err = d.err;
    for (uint32_t i = 0; i < d.n && !ret; i++)
        json_array_append_new(out, json_pack("[I, I, b]", (json_int_t)d.extents[i].offset,
                                             (json_int_t)d.extents[i].length, d.extents[i].data));
    free(d.extents);
    t->result = json_pack("{s:I, s:I, s:o}", "size", (json_int_t)d.size, "next", (json_int_t)d.offset, "extents", out);
    return ret;
}

static const struct rpc_param params_diff[] = {
    UUID("uuid", "of the pool", REQUIRED),
    TEXT("from", "name or UUID of a snapshot; without it of one that has nothing"),
    TEXT("to", "name or UUID of a snapshot", REQUIRED),
    U64("offset", "byte to begin at: \"next\" of the answer before", INIT("0"), LIMITS(0, INT64_MAX)),
    END,
};

static void pool_diff(struct rpc_call *c)
{
    struct pool_call *t = pool_call_of(c, run_diff);
    if (!t)
        return;
    t->from = rpc_str(c, "from");
    t->volume = rpc_str(c, "to");
    t->offset = rpc_uint(c, "offset");
    pool_call_run(t);
}

/* ---- data ---- */

static void pool_read_done(struct plx_bdev_req *req)
{
    struct pool_reader *r = plx_container_of(req, struct pool_reader, req);
    r->done = true;
    plx_reactor_stop(r->reactor);
}

int pool_reader_open(struct pool_reader *r, struct plx_bdev *disk, struct plx_error *err)
{
    *r = (struct pool_reader){.disk = disk};
    int ret = plx_reactor_create_aside(&r->reactor);
    if (!ret)
        ret = plx_bdev_channel_get(disk, r->reactor, &r->ch);
    if (!ret)
        return 0;
    pool_reader_close(r);
    return plx_fail(err, ret, "%s cannot be read: %s", plx_bdev_info(disk)->name, strerror(-ret));
}

int pool_reader_do(struct pool_reader *r, enum plx_bdev_op op, uint64_t offset, uint64_t length, void *mem,
                   struct plx_error *err)
{
    const uint32_t block = plx_bdev_info(r->disk)->block_size;
    if (offset % block || length % block || length / block > UINT32_MAX)
        return plx_fail(err, -EINVAL, "offset and length are multiples of %u", block);
    r->iov = (struct iovec){mem, length};
    r->done = false;
    r->req = (struct plx_bdev_req){.done = pool_read_done, .op = (uint8_t)op, .lba = offset / block};
    r->req.nlb = (uint32_t)(length / block);
    r->req.iov = &r->iov;
    r->req.iovcnt = mem ? 1 : 0;
    plx_bdev_submit(r->ch, &r->req);
    while (!r->done)
        plx_reactor_run(r->reactor);
    if (!r->req.status)
        return 0;
    return plx_fail(err, -EIO, "cannot be %s: %s", op == PLX_BDEV_READ ? "read" : "written",
                    plx_nvme_status_text(r->req.status));
}

int pool_reader_read(struct pool_reader *r, uint64_t offset, uint64_t length, void *mem, struct plx_error *err)
{
    return pool_reader_do(r, PLX_BDEV_READ, offset, length, mem, err);
}

void pool_reader_close(struct pool_reader *r)
{
    if (r->ch)
        plx_bdev_channel_put(r->ch);
    if (r->reactor)
        plx_reactor_destroy(r->reactor);
}

/* Who has found it meanwhile, to read it, does not have it for long. */
static void close_own(struct plx_bdev *own)
{
    while (own && plx_bdev_close(own) == -EBUSY)
        sched_yield();
}

static int run_read(struct pool_call *t, struct plx_error *err)
{
    struct plx_bdev *own = NULL;
    struct pool_reader r;
    uint8_t uuid[16], *mem = aligned_alloc(4096, (size_t)(t->length + 4095) & ~(size_t)4095);
    char *text = malloc(PLX_BASE64_LEN(t->length) + 1);
    plx_uuid_parse(t->volume, uuid);
    int ret = mem && text ? 0 : -ENOMEM;
    if (!ret && !t->disk)
        ret = plx_pool_open_volume(t->pool, uuid, NULL, &own, err);
    if (!ret)
        ret = pool_reader_open(&r, own ? own : t->disk, err);
    if (!ret) {
        ret = pool_reader_read(&r, t->offset, t->length, mem, err);
        pool_reader_close(&r);
    }
    if (!ret) {
        pool_base64(text, mem, t->length);
        t->result = json_pack("{s:s}", "data", text);
    }
    close_own(own);
    free(mem);
    free(text);
    return ret;
}

static const struct rpc_param params_read[] = {
    UUID("uuid", "of the pool", REQUIRED),
    UUID("volume", "its UUID", REQUIRED),
    U64("offset", "byte to begin at", REQUIRED, LIMITS(0, INT64_MAX)),
    U32("length", "bytes", REQUIRED, LIMITS(512, POOL_READ_MAX)),
    END,
};

static void pool_read(struct rpc_call *c)
{
    struct pool_call *t = pool_call_of(c, run_read);
    if (!t)
        return;
    t->volume = rpc_str(c, "volume");
    t->offset = rpc_uint(c, "offset");
    t->length = rpc_uint(c, "length");
    /* Here, where disks are closed: so it is there until the read is over. */
    static const struct plx_bdev_hold_opts hold = {.who = "pollux_pool_read", .claim = PLX_BDEV_READS};
    struct plx_bdev *bdev = plx_bdev_find(t->volume);
    if (bdev && plx_volume_pool(bdev) && !plx_bdev_hold(bdev, &hold, &t->hold, NULL))
        t->disk = bdev;
    pool_call_run(t);
}

/* ---- what is written ---- */

/* @return bytes, or 0 with err filled */
static uint64_t pool_decode(const char *text, uint8_t *mem, struct plx_error *err)
{
    const size_t len = strlen(text);
    const int n = len && len % 4 == 0 ? EVP_DecodeBlock(mem, (const unsigned char *)text, (int)len) : -1;
    if (n > 0)
        return (uint64_t)n - (text[len - 1] == '=') - (text[len - 2] == '=');
    plx_fail(err, -EINVAL, "data is base64 (RFC 4648, section 4) of whole blocks");
    return 0;
}

static int write_what(struct pool_call *t, struct pool_reader *r, struct plx_error *err)
{
    int ret = 0;
    if (t->text) {
        uint8_t *mem = malloc(strlen(t->text) / 4 * 3 + 3);
        const uint64_t n = mem ? pool_decode(t->text, mem, err) : 0;
        ret = !mem ? plx_fail(err, -ENOMEM, "out of memory")
              : !n ? -EINVAL
                   : pool_reader_do(r, PLX_BDEV_WRITE, t->offset, n, mem, err);
        free(mem);
    }
    if (!ret && t->length)
        ret = pool_reader_do(r, PLX_BDEV_UNMAP, t->offset, t->length, NULL, err);
    if (!ret && t->flush)
        ret = pool_reader_do(r, PLX_BDEV_FLUSH, 0, 0, NULL, err);
    return ret;
}

static int run_write(struct pool_call *t, struct plx_error *err)
{
    struct plx_bdev *own = NULL;
    struct pool_reader r;
    uint8_t uuid[16];
    plx_uuid_parse(t->volume, uuid);
    int ret = plx_pool_open_volume(t->pool, uuid, NULL, &own, err);
    if (!ret)
        ret = pool_reader_open(&r, own, err);
    if (!ret) {
        ret = write_what(t, &r, err);
        pool_reader_close(&r);
    }
    close_own(own);
    if (!ret)
        t->result = json_true();
    return ret;
}

static const struct rpc_param params_write[] = {
    UUID("uuid", "of the pool, which is no lvstore", REQUIRED),
    UUID("volume", "its UUID; no host has it", REQUIRED),
    U64("offset", "byte to begin at", INIT("0"), LIMITS(0, INT64_MAX)),
    TEXT("data", "base64, whole blocks; a call has at most 1 MiB"),
    U64("zeroes", "bytes that are zeroes from now on, in the place of data", INIT("0"), LIMITS(0, INT64_MAX)),
    BOOL("flush", "then all that was written is durable", INIT("false")),
    END,
};

static void pool_write(struct rpc_call *c)
{
    struct plx_error err;
    struct pool_call *t = pool_call_of(c, run_write);
    if (!t)
        return;
    t->volume = rpc_str(c, "volume");
    t->offset = rpc_uint(c, "offset");
    t->length = rpc_uint(c, "zeroes");
    t->text = rpc_str(c, "data");
    t->flush = rpc_bool(c, "flush");
    int ret = 0;
    if (t->store[0])
        ret = plx_fail(&err, -EINVAL, "the pool is lvstore %s, whose volumes are disks: hosts write to them", t->store);
    else if (t->text && t->length)
        ret = plx_fail(&err, -EINVAL, "data and zeroes are written by two calls");
    if (ret) {
        rpc_fail_errno(c, ret, &err);
        free(t);
        return;
    }
    c->tried = true;
    rpc_takes_long(c); /* in a full pool */
    pool_call_run(t);
}

/* ---- check ---- */

struct pool_checking {
    const struct plx_rpc *rpc;
    json_t *findings;
};

static void add_finding(void *arg, const struct plx_pool_finding *f)
{
    const struct pool_checking *k = arg;
    static const char *const severities[] = {"note", "waste", "damage"};
    json_t *text = json_string(f->text), *volume = f->volume ? json_string(f->volume) : json_null();
    json_t *o = json_pack("{s:s, s:o, s:o, s:I, s:I, s:I, s:b}", "severity", severities[f->severity], "text",
                          text ? text : json_string("?"), "volume", volume ? volume : json_null(), "number",
                          (json_int_t)f->number, "unit", (json_int_t)f->unit, "offset", (json_int_t)f->offset,
                          "repairable", f->mendable);
    json_array_append_new(k->findings, o);
}

/* A server that is to end does not wait for it. */
static bool check_goes_on(void *arg, uint64_t done, uint64_t total, uint64_t ns)
{
    const struct pool_checking *k = arg;
    (void)done, (void)total, (void)ns;
    return !__atomic_load_n(&k->rpc->stopping, __ATOMIC_RELAXED);
}

static int run_check(struct pool_call *t, struct plx_error *err)
{
    struct plx_pool_info info;
    struct pool_checking k = {t->call->rpc, json_array()};
    struct plx_pool_check c = {
        .data = t->data, .pool = t->pool, .found = add_finding, .progress = check_goes_on, .arg = &k};
    plx_pool_get_info(t->pool, &info);
    int ret = plx_pool_check(info.disk, &c, err);
    t->result =
        json_pack("{s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "name", info.name,
                  "uuid", rpc_uuid_json(info.uuid), "generation", (json_int_t)c.generation, "size", (json_int_t)c.size,
                  "used", (json_int_t)c.used, "volumes", (json_int_t)c.volumes, "snapshots", (json_int_t)c.snapshots,
                  "deleted", (json_int_t)c.others, "nodes", (json_int_t)c.nodes, "log_pages", (json_int_t)c.log_pages,
                  "data_bytes", (json_int_t)c.data_bytes, "notes", (json_int_t)c.notes, "wastes", (json_int_t)c.wastes,
                  "damages", (json_int_t)c.damages, "findings", k.findings);
    return ret;
}

static const struct rpc_param params_check[] = {
    UUID("uuid", "of the pool", REQUIRED),
    BOOL("data", "is compared with its checksums, too, in a pool that has them", INIT("false")),
    END,
};

static void pool_check(struct rpc_call *c)
{
    struct pool_call *t = pool_call_of(c, run_check);
    if (!t)
        return;
    t->data = rpc_bool(c, "data");
    pool_call_run(t);
}

/* ---- fragmaps ---- */

static void fragmap_add(struct fragmap *f, const struct plx_pool_extent *e)
{
    for (uint64_t k = e->offset / f->cluster; e->data && k * f->cluster < e->offset + e->length; k++) {
        if (k < f->first || k - f->first >= f->n || fragmap_has(f, k - f->first))
            continue;
        f->bits[(k - f->first) / 8] |= (uint8_t)(1 << (k - f->first) % 8);
        f->set++;
    }
}

/* What a volume has that the snapshot it goes back to has not. */
static int fragmap_fill(struct pool_call *t, struct fragmap *f, struct plx_error *err)
{
    struct plx_pool_diff d = {
        .from = t->from, .to = t->volume, .offset = t->offset, .room = POOL_EXTENTS, .own = !t->from};
    d.extents = calloc(POOL_EXTENTS, sizeof *d.extents);
    int ret = d.extents ? 0 : -ENOMEM;
    do {
        ret = ret ? ret : plx_pool_diff(t->pool, &d);
        if (ret == -ENOENT || ret == -EIO)
            *err = d.err;
        for (uint32_t i = 0; i < d.n && !ret; i++)
            fragmap_add(f, &d.extents[i]);
    } while (!ret && d.offset < d.size && d.offset < t->offset + t->length);
    free(d.extents);
    return ret;
}

struct parent_search {
    const char *uuid;
    char parent[PLX_POOL_NAME];
    uint64_t size;
};

static bool find_parent(void *arg, const struct plx_volume_info *v)
{
    struct parent_search *s = arg;
    char text[PLX_UUID_TEXT];
    plx_uuid_format(v->uuid, text);
    if (strcmp(text, s->uuid) != 0)
        return true;
    memcpy(s->parent, v->parent, sizeof s->parent);
    s->size = v->size;
    return false;
}

int pool_fragmap(struct pool_call *t, struct fragmap *f, struct plx_error *err)
{
    struct parent_search s = {.uuid = t->volume};
    struct plx_pool_info info;
    plx_pool_get_info(t->pool, &info);
    plx_pool_each(t->pool, find_parent, &s);
    *f = (struct fragmap){.first = t->offset / info.cluster, .cluster = info.cluster, .size = s.size};
    if (t->offset % info.cluster || t->length % info.cluster)
        return plx_fail(err, -EINVAL, "offset and size are multiples of the cluster size, %u", info.cluster);
    if (t->offset > s.size || t->length > s.size - t->offset)
        return plx_fail(err, -EINVAL, "the volume has %llu bytes", (unsigned long long)s.size);
    if (!t->length)
        t->length = s.size - t->offset;
    f->n = (t->length + info.cluster - 1) / info.cluster;
    if (f->n > POOL_FRAGMAP_MAX)
        return plx_fail(err, -EINVAL, "at most %d clusters at a time", POOL_FRAGMAP_MAX);
    f->bits = calloc(f->n / 8 + 1, 1);
    t->from = s.parent[0] ? s.parent : NULL;
    int ret = f->bits ? fragmap_fill(t, f, err) : -ENOMEM;
    t->from = NULL;
    return ret;
}

static int run_fragmap(struct pool_call *t, struct plx_error *err)
{
    struct fragmap f;
    int ret = pool_fragmap(t, &f, err);
    char *text = ret ? NULL : malloc(PLX_BASE64_LEN((f.n + 7) / 8) + 1);
    if (!ret && !text)
        ret = -ENOMEM;
    if (!ret) {
        pool_base64(text, f.bits, (f.n + 7) / 8);
        t->result = json_pack("{s:I, s:I, s:I, s:s}", "cluster_size", (json_int_t)f.cluster, "num_clusters",
                              (json_int_t)f.n, "num_allocated_clusters", (json_int_t)f.set, "fragmap", text);
    }
    free(f.bits);
    free(text);
    return ret;
}

static const struct rpc_param params_fragmap[] = {
    TEXT("name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    U64("offset", "byte to begin at", INIT("0"), LIMITS(0, INT64_MAX)),
    U64("size", "bytes; 0 for all from there on", INIT("0"), LIMITS(0, INT64_MAX)),
    END,
};

static void get_fragmap(struct rpc_call *c)
{
    const struct rpc_disk *d = rpc_lvol_of(c, "name");
    struct pool_call *t = d ? pool_call_on(c, d, run_fragmap) : NULL;
    if (!t)
        return;
    t->offset = rpc_uint(c, "offset");
    t->length = rpc_uint(c, "size");
    pool_call_run(t);
}

const struct rpc_method rpc_methods_pool[] = {
    {"pollux_pool_get", NULL, "Describes a pool that is open here, and its volumes.", params_pool, RPC_READS,
     .run = pool_get},
    {"pollux_pool_change", NULL, "Changes a pool of which volumes are served, and which is no lvstore.", params_change,
     RPC_CHANGES, .run = pool_change},
    {"pollux_pool_diff", NULL,
     "Lists where two snapshots are different: offset, length, and whether there is data, at most 4096 at a time.",
     params_diff, RPC_READS, .run = pool_diff},
    {"pollux_pool_read", NULL, "Reads a snapshot or a volume.", params_read, RPC_READS, .run = pool_read},
    {"pollux_pool_write", NULL, "Writes to a volume that nobody has open: what `pollux volume import` does.",
     params_write, RPC_CHANGES, .run = pool_write},
    {"pollux_pool_check", NULL, "Looks at all that is on the disk of a pool.", params_check, RPC_READS,
     .run = pool_check},
    {"bdev_lvol_get_fragmap", NULL,
     "Says of each cluster of a volume whether it has data that its snapshot has not, as bits in base64.",
     params_fragmap, RPC_READS, .run = get_fragmap},
    {.name = NULL},
};
