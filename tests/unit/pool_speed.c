/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pool_speed WORK DISK ARGUMENT: what bench/pool.py measures of pools and `pollux perf` does not, as it is about a pool
 * that is made for it, or changes meanwhile. All on this thread, but for the pool's keeper. Prints a JSON object.
 */
#include <pollux/pool.h>

#include "base/util.h"
#include "bdev/pool/pool.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { UNIT = 4096, DEPTH = 32, SLICES = 10, SNAPSHOTS = 100, BIG = 131072, TOUCHED = 64 };

struct bench {
    struct plx_reactor *reactor;
    struct plx_bdev *disk;
    struct plx_bdev_channel *ch; /* the disk's */
    struct plx_pool *pool;
};

struct volume {
    struct plx_bdev *bdev;
    struct plx_bdev_channel *ch;
    uint64_t units;
};

static _Noreturn void give_up(const char *what, const struct plx_error *err)
{
    fprintf(stderr, "pool_speed: %s: %s\n", what, err ? err->text : "failed");
    exit(1);
}

static uint64_t now_ns(const struct bench *b)
{
    plx_reactor_poll(b->reactor);
    return plx_reactor_now(b->reactor);
}

/* ---- pools and volumes ---- */

static void bench_disk(struct bench *b, const char *url)
{
    const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_BUSY};
    struct plx_error err = {""};
    memset(b, 0, sizeof *b);
    if (plx_reactor_create(&b->reactor, &opts))
        give_up("reactor", NULL);
    if (plx_bdev_open(url, &b->disk, &err))
        give_up(url, &err);
}

static void bench_channel(struct bench *b)
{
    if (plx_bdev_channel_get(b->disk, b->reactor, &b->ch))
        give_up("channel", NULL);
}

static void bench_pool(struct bench *b, bool make)
{
    const struct plx_pool_opts none = {0};
    struct plx_error err = {""};
    if ((make && plx_pool_make(b->disk, &none, &err)) || plx_pool_open(b->disk, &b->pool, &err))
        give_up("pool", &err);
    bench_channel(b);
}

static void bench_open(struct bench *b, const char *url, bool make)
{
    bench_disk(b, url);
    bench_pool(b, make);
}

static void bench_close(struct bench *b)
{
    plx_bdev_channel_put(b->ch);
    plx_pool_close(b->pool);
    plx_reactor_destroy(b->reactor);
    plx_bdev_close(b->disk);
}

static void pool_op(struct bench *b, struct plx_pool_op op)
{
    if (plx_pool_do(b->pool, &op))
        give_up(op.name ? op.name : op.volume, &op.err);
}

static struct plx_bdev *volume_disk(struct bench *b, const char *name)
{
    struct plx_bdev *bdev;
    struct plx_error err = {""};
    uint8_t uuid[16];
    pool_lock(b->pool);
    const struct pool_volume *v = pool_volume_find(b->pool, name);
    memcpy(uuid, v->uuid, sizeof uuid);
    pool_unlock(b->pool);
    if (plx_pool_open_volume(b->pool, uuid, name, &bdev, &err))
        give_up(name, &err);
    return bdev;
}

static struct volume volume_open(struct bench *b, const char *name)
{
    struct volume v = {.bdev = volume_disk(b, name)};
    const struct plx_bdev_info *info = plx_bdev_info(v.bdev);
    if (plx_bdev_channel_get(v.bdev, b->reactor, &v.ch))
        give_up(name, NULL);
    v.units = info->blocks * info->block_size / UNIT;
    return v;
}

static void volume_close(struct volume *v)
{
    plx_bdev_channel_put(v->ch);
    plx_bdev_close(v->bdev);
}

static struct volume volume_new(struct bench *b, const char *name, uint64_t size, bool thick)
{
    pool_op(b, (struct plx_pool_op){.kind = PLX_POOL_CREATE, .name = name, .size = size, .thick = thick});
    return volume_open(b, name);
}

/* ---- loads ---- */

struct load {
    struct plx_bdev_channel *ch;
    enum plx_bdev_op op;
    uint32_t bytes;        /* of a request */
    uint64_t units;        /* among which places are chosen */
    const uint64_t *where; /* of the disk, where they are; or NULL */
    bool once;             /* each of them once, in an order that is all over the place; else by chance */
    uint64_t next;         /* of that order */
    uint64_t end;          /* where that ends */
    unsigned depth;

    uint64_t seed, requests, longest_ns, ns;
    struct slot *idle;
    unsigned active;
};

struct slot {
    struct plx_bdev_req req;
    struct iovec iov;
    struct load *load;
    struct slot *next;
    uint64_t since;
};

static uint8_t memory[DEPTH][BIG] __attribute__((aligned(4096)));

static void slot_done(struct plx_bdev_req *req)
{
    struct slot *s = plx_container_of(req, struct slot, req);
    struct load *l = s->load;
    if (req->status) {
        fprintf(stderr, "pool_speed: status 0x%x\n", req->status);
        exit(1);
    }
    const uint64_t ns = plx_reactor_now(l->ch->reactor) - s->since;
    l->longest_ns = plx_max_u64(l->longest_ns, ns);
    l->requests++;
    l->active--;
    s->next = l->idle;
    l->idle = s;
}

static uint64_t random_next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* The unit that comes next. */
static uint64_t load_place(struct load *l)
{
    const uint64_t of = l->units * UNIT / l->bytes;
    if (!l->once)
        return random_next(&l->seed) % of * (l->bytes / UNIT);
    const uint64_t i = l->next++;
    return (l->bytes > UNIT ? i : i * 0x9e3779b1 % of) * (l->bytes / UNIT); /* `of` is a power of two */
}

static void load_submit(struct load *l, unsigned shift)
{
    /* So many and no more: where requests complete at once, there are always others. */
    for (unsigned n = 0; n < DEPTH && l->idle && !(l->once && l->next == l->end); n++) {
        struct slot *s = l->idle;
        l->idle = s->next;
        const uint64_t unit = load_place(l);
        s->req.op = (uint8_t)l->op;
        s->req.lba = (l->where ? l->where[unit] : unit) << shift;
        s->req.nlb = l->bytes / UNIT << shift;
        s->iov.iov_len = l->bytes;
        s->since = plx_reactor_now(l->ch->reactor);
        l->active++;
        plx_bdev_submit(l->ch, &s->req);
    }
}

/* For so long, or until its end. */
static void load_run(struct bench *b, struct load *l, double seconds)
{
    struct slot slots[DEPTH];
    const struct plx_bdev_info *info = plx_bdev_info(plx_bdev_channel_bdev(l->ch));
    const unsigned shift = (unsigned)__builtin_ctz(UNIT / info->block_size);
    memset(slots, 0, sizeof slots);
    l->idle = NULL;
    l->bytes = l->bytes ? l->bytes : UNIT;
    l->seed |= 1;
    l->end = l->end ? l->end : l->units * UNIT / l->bytes;
    for (unsigned i = 0; i < (l->depth ? l->depth : DEPTH); i++) {
        slots[i].load = l;
        slots[i].iov.iov_base = memory[i];
        slots[i].req.iov = &slots[i].iov;
        slots[i].req.iovcnt = 1;
        slots[i].req.done = slot_done;
        slots[i].next = l->idle;
        l->idle = &slots[i];
    }
    const uint64_t began = now_ns(b), until = began + (uint64_t)(seconds * 1e9);
    while (plx_reactor_now(b->reactor) < until && !(l->once && l->next == l->end)) {
        load_submit(l, shift);
        plx_reactor_poll(b->reactor);
    }
    while (l->active)
        plx_reactor_poll(b->reactor);
    l->ns += now_ns(b) - began;
}

static double load_rate(struct bench *b, struct load *l, double seconds)
{
    const uint64_t requests = l->requests, ns = l->ns;
    load_run(b, l, seconds);
    return (double)(l->requests - requests) * 1e9 / (double)plx_max_u64(l->ns - ns, 1);
}

static void io_plain(struct bench *b, struct plx_bdev_channel *ch, enum plx_bdev_op op, uint64_t lba, uint32_t nlb)
{
    struct load one = {.ch = ch};
    struct slot s = {.load = &one};
    s.req.done = slot_done;
    s.req.op = (uint8_t)op;
    s.req.lba = lba;
    s.req.nlb = nlb;
    one.active = 1;
    plx_bdev_submit(ch, &s.req);
    while (one.active)
        plx_reactor_poll(b->reactor);
}

static void fill(struct bench *b, struct volume *v)
{
    struct load l = {.ch = v->ch, .op = PLX_BDEV_WRITE, .bytes = BIG, .units = v->units, .once = true};
    load_run(b, &l, 1e6);
}

/* With memory behind all of a RAM disk: that a write is the first that touches a page, which the kernel then clears, is
 * nothing of the pool's. */
static void bench_open_touched(struct bench *b, const char *url)
{
    bench_disk(b, url);
    if (strncmp(url, "ram:", 4) == 0) {
        const struct plx_bdev_info *info = plx_bdev_info(b->disk);
        bench_channel(b);
        struct load l = {.ch = b->ch, .op = PLX_BDEV_WRITE, .bytes = BIG, .once = true};
        l.units = info->blocks * info->block_size / UNIT;
        load_run(b, &l, 1e6);
        plx_bdev_channel_put(b->ch);
    }
    bench_pool(b, true);
}

/* Everything that has been changed is on the disk. */
static void checkpoint(struct bench *b)
{
    pool_op(b, (struct plx_pool_op){.kind = PLX_POOL_NAME_IT, .name = "bench"});
}

/* ---- where units are, and putting them there without data ---- */

static uint64_t *units_of(struct bench *b, const char *name, uint64_t n)
{
    uint64_t *where = calloc(n, sizeof *where);
    pool_lock(b->pool);
    struct pool_volume *v = pool_volume_find(b->pool, name);
    for (uint64_t i = 0; where && i < n; i++) {
        const struct pool_node *leaf = pool_tree_peek(b->pool, &v->tree, i);
        if (!leaf)
            give_up("a node of what was just written is not in memory", NULL);
        where[i] = pool_entry_unit(&pool_entries(leaf)[pool_slot(b->pool, i, 0)]);
    }
    pool_unlock(b->pool);
    return where;
}

struct map_wait {
    struct pool_wait wait;
    bool over;
};

static void map_again(struct pool_wait *w)
{
    plx_container_of(w, struct map_wait, wait)->over = true;
}

/* Maps n units of a volume, below one node, to what is free. */
static void map_units(struct bench *b, const char *name, uint64_t at, unsigned n)
{
    struct plx_pool *p = b->pool;
    struct map_wait w = {.wait = {.reactor = b->reactor, .again = map_again}};
    while (n) {
        struct pool_try t = {.ch = b->ch, .wait = &w.wait};
        uint64_t unit = 0, got = 0;
        pool_lock(p);
        struct pool_volume *v = pool_volume_find(p, name);
        int ret = pool_space_ready(p, &t, n, true);
        if (!ret)
            got = pool_space_take(p, POOL_FOR_DATA, n, &unit);
        if (!ret)
            ret = pool_volume_map(p, &t, v, at, (unsigned)got, unit, NULL, false);
        if (ret && got)
            pool_space_return(p, unit, got);
        pool_try_end(p, &t);
        if (ret && ret != POOL_AGAIN)
            give_up(name, NULL);
        if (!ret) {
            at += got;
            n -= (unsigned)got;
            continue;
        }
        while (!w.over)
            plx_reactor_poll(b->reactor);
        w.over = false;
    }
}

/* ---- rates: DISK SECONDS MIB ---- */

static void print_list(const char *name, const double *values, unsigned n)
{
    printf("\"%s\": [", name);
    for (unsigned i = 0; i < n; i++)
        printf("%s%.1f", i ? ", " : "", values[i]);
    printf("]");
}

/* A volume with a hundred snapshots, each of which has a part of it. */
static struct volume deep_new(struct bench *b, uint64_t size)
{
    struct volume v = volume_new(b, "deep", size, false);
    struct load l = {.ch = v.ch, .op = PLX_BDEV_WRITE, .units = v.units, .once = true};
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%u", i);
        l.end = v.units * (i + 1) / SNAPSHOTS;
        load_run(b, &l, 1e6);
        pool_op(b, (struct plx_pool_op){.kind = PLX_POOL_SNAPSHOT, .volume = "deep", .name = name});
    }
    return v;
}

static int rates(const char *url, double seconds, uint64_t mib)
{
    static const char *const names[] = {"disk_read",    "volume_read", "deep_read", "disk_write",
                                        "volume_write", "thick_first", "thin_first"};
    enum { LOADS = PLX_ARRAY_SIZE(names) };
    static double rate[LOADS][SLICES];
    struct bench b;
    bench_open_touched(&b, url);
    const uint64_t size = mib << 20;
    struct volume v = volume_new(&b, "v", size, false), deep = deep_new(&b, size);
    struct volume thick = volume_new(&b, "thick", size, true), thin = volume_new(&b, "thin", size, false);
    fill(&b, &v);
    uint64_t *where = units_of(&b, "v", v.units);
    checkpoint(&b);
    struct load loads[LOADS] = {
        {.ch = b.ch, .op = PLX_BDEV_READ, .where = where},
        {.ch = v.ch, .op = PLX_BDEV_READ},
        {.ch = deep.ch, .op = PLX_BDEV_READ},
        {.ch = b.ch, .op = PLX_BDEV_WRITE, .where = where},
        {.ch = v.ch, .op = PLX_BDEV_WRITE},
        {.ch = thick.ch, .op = PLX_BDEV_WRITE, .once = true},
        {.ch = thin.ch, .op = PLX_BDEV_WRITE, .once = true},
    };
    for (unsigned s = 0; s < SLICES; s++)
        for (unsigned i = 0; i < LOADS; i++) {
            loads[i].units = v.units;
            loads[i].seed += i + 1;
            if (loads[i].once) {
                loads[i].end = v.units * (s + 1) / SLICES;
                rate[i][s] = load_rate(&b, &loads[i], 1e6);
            } else {
                rate[i][s] = load_rate(&b, &loads[i], seconds / SLICES);
            }
        }
    printf("{");
    for (unsigned i = 0; i < LOADS; i++) {
        printf("%s", i ? ", " : "");
        print_list(names[i], rate[i], SLICES);
    }
    printf("}\n");
    free(where);
    volume_close(&thin);
    volume_close(&thick);
    volume_close(&deep);
    volume_close(&v);
    bench_close(&b);
    return 0;
}

/* ---- snapshot: DISK SECONDS MIB: writes before one and after ---- */

static uint64_t written_below(struct bench *b)
{
    struct plx_bdev_stats stats = {0};
    plx_bdev_get_stats(b->disk, &stats);
    return stats.blocks[PLX_BDEV_WRITE] * plx_bdev_info(b->disk)->block_size;
}

static int snapshot(const char *url, double seconds, uint64_t mib)
{
    struct bench b;
    double before[SLICES], after[SLICES], bytes[SLICES];
    bench_open_touched(&b, url);
    struct volume v = volume_new(&b, "v", mib << 20, false);
    fill(&b, &v);
    for (unsigned s = 0; s < SLICES; s++) {
        char name[16];
        snprintf(name, sizeof name, "s%u", s);
        struct load over = {.ch = v.ch, .op = PLX_BDEV_WRITE, .units = v.units, .seed = s + 1};
        struct load moved = {.ch = v.ch, .op = PLX_BDEV_WRITE, .units = v.units, .once = true, .end = v.units / 4};
        if (s) { /* what a snapshot has is copied away from once */
            struct load all = {.ch = v.ch, .op = PLX_BDEV_WRITE, .bytes = BIG, .units = v.units, .once = true};
            load_run(&b, &all, 1e6);
        }
        before[s] = load_rate(&b, &over, seconds / SLICES);
        pool_op(&b, (struct plx_pool_op){.kind = PLX_POOL_SNAPSHOT, .volume = "v", .name = name});
        const uint64_t below = written_below(&b);
        after[s] = load_rate(&b, &moved, 1e6);
        checkpoint(&b);
        bytes[s] = (double)(written_below(&b) - below) / ((double)moved.requests * UNIT);
        pool_op(&b, (struct plx_pool_op){.kind = PLX_POOL_DELETE, .volume = name});
    }
    printf("{");
    print_list("before", before, SLICES);
    printf(", ");
    print_list("after", after, SLICES);
    printf(", \"bytes\": [");
    for (unsigned s = 0; s < SLICES; s++)
        printf("%s%.3f", s ? ", " : "", bytes[s]);
    printf("]}\n");
    volume_close(&v);
    bench_close(&b);
    return 0;
}

/* ---- pause: DISK GIB: the longest wait of one who writes while a snapshot is made ---- */

static _Atomic int told;

static void op_over(struct plx_pool_op *op)
{
    told += op->result ? 1000000 : 1;
}

static double pause_of(struct bench *b, struct volume *v, const char *name)
{
    struct plx_pool_op op = {.kind = PLX_POOL_SNAPSHOT, .volume = "v", .name = name, .done = op_over};
    struct load l = {.ch = v->ch, .op = PLX_BDEV_WRITE, .units = v->units, .depth = 1, .seed = (uint64_t)name[1] * 77};
    load_run(b, &l, 0.05);
    l.longest_ns = 0;
    told = 0;
    if (name[0] == 's')
        plx_pool_submit(b->pool, &op);
    for (int rounds = 0; rounds < 3 || (name[0] == 's' && !told); rounds++)
        load_run(b, &l, 0.02);
    return (double)l.longest_ns / 1e6;
}

static int pause_work(const char *url, double gib, uint64_t unused)
{
    struct bench b;
    double with[SLICES], without[SLICES];
    (void)unused;
    bench_open(&b, url, true);
    struct volume v = volume_new(&b, "v", (uint64_t)gib << 30, false);
    for (uint64_t at = 0; at < v.units; at += 256)
        map_units(&b, "v", at, 256);
    checkpoint(&b);
    for (unsigned s = 0; s < SLICES; s++) {
        char name[16];
        snprintf(name, sizeof name, "q%u", s);
        without[s] = pause_of(&b, &v, name);
        name[0] = 's';
        with[s] = pause_of(&b, &v, name);
    }
    printf("{");
    print_list("quiet_ms", without, SLICES);
    printf(", ");
    print_list("snapshot_ms", with, SLICES);
    printf("}\n");
    volume_close(&v);
    bench_close(&b);
    return 0;
}

/* ---- crash: DISK GIB EXTENTS: as it is before a kill; and open ---- */

static int crash(const char *url, double gib, uint64_t extents)
{
    struct bench b;
    uint64_t seed = 1;
    bench_open(&b, url, true);
    struct volume v = volume_new(&b, "v", (uint64_t)gib << 30, false);
    for (uint64_t i = 0; i < extents; i++)
        map_units(&b, "v", random_next(&seed) % v.units, 1);
    checkpoint(&b);
    struct load l = {.ch = v.ch, .op = PLX_BDEV_WRITE, .units = v.units, .seed = 2};
    while (b.pool->n_dirty < b.pool->dirty_max * 9 / 10) /* as much as there may be without another one */
        load_run(&b, &l, 0.0001);
    io_plain(&b, v.ch, PLX_BDEV_FLUSH, 0, 0);
    printf("{\"dirty\": %u, \"log_pages\": %llu}\n", b.pool->n_dirty,
           (unsigned long long)(b.pool->log_seq - b.pool->log_first));
    fflush(stdout);
    pause();
    return 0;
}

static double ms_between(const struct timespec *a, const struct timespec *z)
{
    return (double)(z->tv_sec - a->tv_sec) * 1e3 + (double)(z->tv_nsec - a->tv_nsec) / 1e6;
}

static int open_work(const char *url, double unused, uint64_t unused_too)
{
    struct bench b;
    struct timespec began, opened;
    (void)unused, (void)unused_too;
    timespec_get(&began, TIME_UTC);
    bench_open(&b, url, false);
    struct volume v = volume_open(&b, "v");
    timespec_get(&opened, TIME_UTC);
    printf("{\"open_ms\": %.1f, \"size\": %llu}\n", ms_between(&began, &opened), (unsigned long long)(v.units * UNIT));
    volume_close(&v);
    bench_close(&b);
    return 0;
}

/* ---- many: DISK COUNT ---- */

static double resident_mib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*s %ld", &pages) != 1)
        give_up("/proc/self/statm", NULL);
    fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static void many_ops(struct bench *b, enum plx_pool_op_kind kind, unsigned n)
{
    struct plx_pool_op *ops = calloc(n, sizeof *ops);
    char(*names)[2][16] = calloc(n, sizeof *names);
    told = 0;
    for (unsigned i = 0; ops && names && i < n; i++) {
        snprintf(names[i][0], sizeof names[i][0], "v%u", i);
        snprintf(names[i][1], sizeof names[i][1], "s%u", i);
        const bool snap = kind == PLX_POOL_SNAPSHOT;
        ops[i] = (struct plx_pool_op){.kind = kind,
                                      .volume = snap ? names[i][0] : NULL,
                                      .name = names[i][snap],
                                      .size = UINT64_C(1) << 30,
                                      .done = op_over};
        plx_pool_submit(b->pool, &ops[i]);
    }
    while (told < (int)n)
        usleep(1000);
    if (told > (int)n)
        give_up("making many volumes", NULL);
    free(names);
    free(ops);
}

static int many(const char *url, double count, uint64_t unused)
{
    struct bench b;
    struct timespec began, over;
    double ms[SLICES];
    const unsigned n = (unsigned)count;
    (void)unused;
    bench_open(&b, url, true);
    many_ops(&b, PLX_POOL_CREATE, n);
    for (unsigned i = 0; i < n; i++) {
        char name[16];
        snprintf(name, sizeof name, "v%u", i);
        map_units(&b, name, i, 1);
    }
    many_ops(&b, PLX_POOL_SNAPSHOT, n);
    for (unsigned s = 0; s < SLICES; s++) {
        char name[16];
        snprintf(name, sizeof name, "more%u", s);
        timespec_get(&began, TIME_UTC);
        pool_op(&b, (struct plx_pool_op){.kind = PLX_POOL_CREATE, .name = name, .size = 1 << 30});
        timespec_get(&over, TIME_UTC);
        ms[s] = ms_between(&began, &over);
    }
    printf("{\"memory_mib\": %.1f, ", resident_mib());
    print_list("create_ms", ms, SLICES);
    printf("}\n");
    bench_close(&b);
    return 0;
}

/* ---- trim: DISK MIB: a clone is written to and trimmed, as fstrim does it ---- */

static uint64_t free_units(struct bench *b)
{
    struct plx_pool_info info;
    do { /* what is freed is free after the next one */
        checkpoint(b);
        plx_pool_get_info(b->pool, &info);
    } while (info.freeing);
    checkpoint(b);
    plx_pool_get_info(b->pool, &info);
    return info.free / UNIT;
}

static int trim(const char *url, double mib, uint64_t unused)
{
    struct bench b;
    (void)unused;
    bench_open(&b, url, true);
    struct volume v = volume_new(&b, "v", (uint64_t)mib << 20, false);
    fill(&b, &v);
    pool_op(&b, (struct plx_pool_op){.kind = PLX_POOL_SNAPSHOT, .volume = "v", .name = "s"});
    pool_op(&b, (struct plx_pool_op){.kind = PLX_POOL_CLONE, .volume = "s", .name = "c"});
    const uint64_t before = free_units(&b);
    struct volume c = volume_open(&b, "c");
    struct load l = {.ch = c.ch, .op = PLX_BDEV_WRITE, .units = c.units, .once = true, .end = c.units / 4};
    load_run(&b, &l, 1e6);
    const uint64_t least = free_units(&b);
    const unsigned shift = (unsigned)__builtin_ctz(UNIT / plx_bdev_info(c.bdev)->block_size);
    for (uint64_t at = 0; at < c.units; at += 2048) /* 8 MiB */
        io_plain(&b, c.ch, PLX_BDEV_UNMAP, at << shift, 2048U << shift);
    const uint64_t after = free_units(&b);
    printf("{\"before\": %llu, \"written\": %llu, \"free\": %llu, \"after\": %llu}\n", (unsigned long long)before,
           (unsigned long long)l.requests, (unsigned long long)least, (unsigned long long)after);
    volume_close(&c);
    volume_close(&v);
    bench_close(&b);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const char *url, double argument, uint64_t another);
    } works[] = {{"rates", rates},    {"snapshot", snapshot}, {"pause", pause_work}, {"crash", crash},
                 {"open", open_work}, {"many", many},         {"trim", trim}};
    for (size_t i = 0; argc >= 3 && i < PLX_ARRAY_SIZE(works); i++)
        if (!strcmp(argv[1], works[i].name))
            return works[i].run(argv[2], argc > 3 ? strtod(argv[3], NULL) : 0,
                                argc > 4 ? strtoull(argv[4], NULL, 10) : 0);
    fprintf(stderr,
            "usage: pool_speed rates|snapshot DISK SECONDS MIB\n"
            "       pool_speed pause DISK GIB\n       pool_speed crash DISK GIB EXTENTS\n"
            "       pool_speed open DISK\n       pool_speed many DISK COUNT\n       pool_speed trim DISK MIB\n");
    return 2;
}
