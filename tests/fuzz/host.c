/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Whatever a controller does: the host stays well, gives every request back once, touches none afterwards, hangs
 * nowhere, and leaves nothing behind.
 *
 * The fuzzer is the controller (host_peer.h), at the other end of connections over loopback, in the same thread. The
 * input is a script: some options, how many commands it answers as it should to begin with, then what it does (ops[],
 * below). A script works on an association (nvme/host.h), on a disk, which tries again on its own, or on a tool's
 * connection (pollux/nvme.h) and the opening of a disk, which run a reactor of their own: the script goes on within
 * that.
 *
 * Time passes when the script says so (clock_gettime is wrapped): no run waits for a timer, and all can be repeated.
 */
#include "host_peer.h"

#include "base/crc32c.h"
#include "bdev/driver.h"
#include "nvme/tcp_qpair.h"
#include "reactor/reactor.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <pollux/nvme.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    JOBS = 32,
    JOBS_IN_ALL = 256, /* of one run */
    BYTES_IN_ALL = 8 << 20,
    OPS_IN_ALL = 400,
    IOVS = 128,
    QUIET_ROUNDS = 16 + 1, /* a stream from which nothing is expected is tried that rarely */
    BUSY_ROUNDS_MAX = 1000,
    BEHAVE_MAX = 300,
    WAITS_MAX = 10000,    /* seconds that pass before a run that does not end is taken for a hang */
    MANY_QUEUES = 32 + 3, /* more than are just tried: net/group.c */
    MANY_GROUPS = 300,    /* of ANA: more than a page of them */
    DISKS = 4,
};

#define NQN "nqn.2024-01.com.example:fuzz"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __real_connect(int fd, const struct sockaddr *addr, socklen_t len);
void __wrap_plx_reactor_run(struct plx_reactor *r);

/* ---- time, and the script ---- */

static uint64_t now_ns = PLX_NS_PER_S;

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    if (id != CLOCK_MONOTONIC)
        return __real_clock_gettime(id, t);
    *t = (struct timespec){(time_t)(now_ns / PLX_NS_PER_S), (long)(now_ns % PLX_NS_PER_S)};
    return 0;
}

static const uint8_t *script, *script_end;

static uint8_t u8(void)
{
    return script < script_end ? *script++ : 0;
}

static uint16_t u16(void)
{
    uint8_t low = u8();
    return (uint16_t)(low | u8() << 8);
}

static uint32_t u32(void)
{
    uint16_t low = u16();
    return low | (uint32_t)u16() << 16;
}

static const uint8_t *take(size_t *n)
{
    const uint8_t *p = script;
    *n = plx_min_u64(*n, (size_t)(script_end - script));
    script += *n;
    return p;
}

/* ---- state ---- */

/* A request of ours. */
struct job {
    unsigned slot;
    bool submitted, is_read;
    uint8_t kind, iovs, size;
    uint64_t lba;
    uint32_t len;
    uint8_t *data;
    struct iovec iov[IOVS + 1];
    struct nvme_req req;
    struct plx_bdev_req *bio;
};

static struct plx_reactor *reactor, *own_reactor;
static struct sockaddr_in address;

static struct run {
    struct nvme_ctrlr *c; /* NULL once it is destroyed */
    struct plx_bdev_channel *ch;
    bool live, resubmit;
    bool little;                /* send buffers */
    bool raw;                   /* it may have read what is not on the disk */
    unsigned destroy_at, calls; /* the association is destroyed in that callback */
    unsigned made, ops;
    uint32_t bytes;
    unsigned steps; /* of good behaviour, to begin with */
    struct job *jobs[JOBS];
} run;

/* The host's sockets: with small buffers they are full at times. */
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    const int little = 4096;
    if (run.little)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
    return __real_connect(fd, addr, len);
}

/*
 * Until nothing more happens, which is soon: nothing but the script sends to the host, and makes time pass. To look
 * whether there is something is cheaper than a round that finds nothing.
 */
void peers_settle(void)
{
    struct pollfd p = {.fd = plx_reactor_fd(reactor), .events = POLLIN};
    for (int quiet = 0, busy = 0; quiet < QUIET_ROUNDS && !reactor->stop;) {
        if (plx_reactor_poll(reactor)) {
            quiet = 0;
            assert(++busy < BUSY_ROUNDS_MAX); /* else it keeps itself awake */
            continue;
        }
        if (quiet++)
            continue;
        if (peers_serve())
            quiet = busy = 0;
        else if (!plx_reactor_arm(reactor) && poll(&p, 1, 0) == 0)
            return;
    }
}

static void behave(unsigned steps)
{
    do
        peers_settle();
    while (steps-- && !reactor->stop && peers_answer_any());
}

/* ---- requests ---- */

static void start(unsigned kind, unsigned size, unsigned iovs);

/* Any callback may end the association. */
static void called(void)
{
    if (run.calls++ != run.destroy_at || !run.c)
        return;
    struct nvme_ctrlr *c = run.c;
    run.c = NULL;
    run.live = false;
    nvme_ctrlr_destroy(c);
}

static void free_job(struct job *j)
{
    run.jobs[j->slot] = NULL;
    free(j->data);
    free(j->bio ? (uint8_t *)j->bio - 16 : NULL);
    free(j);
}

static void end_job(struct job *j, bool good)
{
    const struct job was = *j;
    assert(run.jobs[j->slot] == j);
    if (good && j->is_read && !run.raw)
        assert(memcmp(j->data, peer_content(j->lba * PEER_BLOCK), j->len) == 0);
    free_job(j); /* whoever looks at it from now on is found out */
    called();
    if (run.resubmit && was.submitted) /* else it would go on within itself */
        start(was.kind, was.size, was.iovs);
}

static void req_done(struct nvme_req *req)
{
    struct job *j = plx_container_of(req, struct job, req);
    assert(j->submitted); /* not before nvme_submit() has returned */
    end_job(j, !req->lost && !req->status);
}

static void bio_done(struct plx_bdev_req *bio)
{
    struct job *j;
    memcpy(&j, (uint8_t *)bio - 16, sizeof j);
    end_job(j, !bio->status);
}

static struct job *make_job(unsigned kind, unsigned size, unsigned iovs)
{
    static const uint32_t sizes[] = {512, 4096, 8192, 8704, 32 << 10, 64 << 10, 192 << 10, PEER_LARGEST};
    unsigned slot = 0;
    while (slot < JOBS && run.jobs[slot])
        slot++;
    if (slot == JOBS || run.made++ >= JOBS_IN_ALL)
        return NULL;
    struct job *j = calloc(1, sizeof *j);
    assert(j);
    *j = (struct job){.slot = slot, .kind = (uint8_t)kind, .size = (uint8_t)size, .iovs = (uint8_t)iovs};
    j->lba = run.made * 7;
    j->len = sizes[size % PLX_ARRAY_SIZE(sizes)];
    if (run.bytes + j->len > BYTES_IN_ALL)
        j->len = sizes[0];
    run.bytes += j->len;
    run.jobs[slot] = j;
    return j;
}

/* Memory of its own, of exactly that size, in so many pieces. */
static void give_data(struct job *j, uint32_t len, bool filled)
{
    unsigned pieces = 1 + j->iovs % IOVS, i = 0;
    j->data = malloc(len);
    assert(j->data);
    if (filled)
        memcpy(j->data, peer_content(j->lba * PEER_BLOCK), len);
    uint32_t piece = len / pieces / 3 * 2 + 1, at = 0; /* odd sizes, and a large one at last */
    for (; i + 1 < pieces && at + piece < len; i++, at += piece)
        j->iov[i] = (struct iovec){j->data + at, piece};
    if (j->iovs & 128) /* an empty one */
        j->iov[i++] = (struct iovec){j->data, 0};
    j->iov[i] = (struct iovec){j->data + at, len - at};
}

enum {
    KIND_READ,
    KIND_WRITE,
    KIND_COMPARE,
    KIND_FLUSH,
    KIND_FUSED,
    KIND_ADMIN, /* of associations; disks have other kinds */
    KINDS = 8,
    KIND_RESET = 255,
};

static void make_req(struct job *j, uint8_t opcode, enum nvme_dir dir)
{
    j->req = (struct nvme_req){.done = req_done, .dir = (uint8_t)dir};
    j->req.cmd = (struct nvme_words){.opcode = opcode,
                                     .nsid = plx_put32(1),
                                     .cdw10 = plx_put32(j->lba),
                                     .cdw12 = plx_put32(j->len / PEER_BLOCK - 1)};
    j->is_read = j->kind == KIND_READ && dir == NVME_TO_HOST;
    if (dir == NVME_NO_DATA)
        return;
    give_data(j, j->len, dir == NVME_FROM_HOST);
    j->req.data = (struct plx_iov_at){j->iov, 0};
    j->req.len = j->len;
}

static void start_fused(struct job *j)
{
    struct job *second = make_job(KIND_WRITE, j->size, j->iovs);
    if (!second) {
        free_job(j);
        return;
    }
    second->lba = j->lba;
    make_req(j, NVME_IO_COMPARE, NVME_FROM_HOST);
    make_req(second, NVME_IO_WRITE, NVME_FROM_HOST);
    j->req.cmd.flags = NVME_FUSE_FIRST;
    second->req.cmd.flags = NVME_FUSE_SECOND;
    j->req.fused = true;
    j->req.next = &second->req;
    nvme_submit_fused(run.c, &j->req);
    j->submitted = second->submitted = true;
}

static void start_command(struct job *j)
{
    if (j->kind == KIND_FUSED) {
        start_fused(j);
        return;
    }
    if (j->kind == KIND_ADMIN) {
        j->len = NVME_PAGE;
        make_req(j, NVME_ADMIN_IDENTIFY, NVME_TO_HOST);
        nvme_submit_admin(run.c, &j->req);
        j->submitted = true;
        return;
    }
    if (j->kind == KIND_FLUSH)
        make_req(j, NVME_IO_FLUSH, NVME_NO_DATA);
    else if (j->kind == KIND_WRITE || j->kind == KIND_COMPARE)
        make_req(j, j->kind == KIND_WRITE ? NVME_IO_WRITE : NVME_IO_COMPARE, NVME_FROM_HOST);
    else
        make_req(j, NVME_IO_READ, NVME_TO_HOST);
    nvme_submit(run.c, &j->req);
    j->submitted = true;
}

static uint8_t op_of(unsigned kind)
{
    static const uint8_t ops[KINDS] = {[KIND_READ] = PLX_BDEV_READ,
                                       [KIND_WRITE] = PLX_BDEV_WRITE,
                                       [KIND_COMPARE] = PLX_BDEV_COMPARE,
                                       [KIND_FLUSH] = PLX_BDEV_FLUSH,
                                       [KIND_FUSED] = PLX_BDEV_COMPARE_AND_WRITE,
                                       PLX_BDEV_WRITE_ZEROES,
                                       PLX_BDEV_COPY,
                                       PLX_BDEV_UNMAP};
    return kind == KIND_RESET ? PLX_BDEV_RESET : ops[kind % KINDS];
}

static void start_bio(struct job *j)
{
    uint8_t op = op_of(j->kind);
    bool both = op == PLX_BDEV_COMPARE_AND_WRITE, filled = op == PLX_BDEV_WRITE || op == PLX_BDEV_COMPARE || both;
    size_t bytes = 16 + sizeof *j->bio;
    uint8_t *m = aligned_alloc(16, plx_align_up(bytes, 16));
    assert(m);
    memset(m, 0xa5, bytes);
    memcpy(m, &j, sizeof j);
    if (both)
        j->len = (uint32_t)plx_min_u64(j->len, 64 << 10);
    j->is_read = op == PLX_BDEV_READ;
    if (filled || j->is_read)
        give_data(j, both ? 2 * j->len : j->len, filled);
    if (both)
        memcpy(j->data + j->len, peer_content(j->lba * PEER_BLOCK), j->len);
    if (op == PLX_BDEV_WRITE_ZEROES)
        says.zeroes_expected = true; /* where that is refused they are written */
    j->bio = (struct plx_bdev_req *)(void *)(m + 16);
    *j->bio = (struct plx_bdev_req){.done = bio_done,
                                    .iov = j->iov,
                                    .iovcnt = IOVS + 1,
                                    .op = op,
                                    .flags = j->iovs & (PLX_BDEV_FUA | PLX_BDEV_UNMAP_OK),
                                    .lba = j->lba,
                                    .src_lba = j->lba + (1 << 16),
                                    .nlb = j->len / PEER_BLOCK};
    unsigned slot = j->slot;
    plx_bdev_submit(run.ch, j->bio);
    if (run.jobs[slot] == j)
        j->submitted = true;
}

static void start(unsigned kind, unsigned size, unsigned iovs)
{
    if (!run.ch && (!run.c || run.c->state != NVME_CTRLR_LIVE))
        return;
    if (run.c && !run.c->o.queues)
        kind = KIND_ADMIN;
    struct job *j = make_job(kind, size, iovs);
    if (!j)
        return;
    if (run.ch)
        start_bio(j);
    else
        start_command(j);
}

static void stop(struct job *j)
{
    if (run.ch)
        plx_bdev_abort(run.ch, j->bio);
    else if (run.c)
        nvme_abort(run.c, &j->req);
}

/* ---- the association's callbacks ---- */

static void live(struct nvme_ctrlr *c, void *arg)
{
    (void)arg;
    assert(c == run.c && !run.live);
    run.live = true;
    called();
}

static void down(struct nvme_ctrlr *c, void *arg)
{
    (void)arg;
    assert(c == run.c && run.live);
    run.live = false;
    called();
}

static void failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    (void)arg, (void)again;
    assert(c == run.c && !run.live && ret < 0 && why[0]);
    called();
}

static void ana(struct nvme_ctrlr *c, void *arg)
{
    (void)arg;
    assert(c == run.c && run.live);
    called();
}

static void event(struct nvme_ctrlr *c, void *arg, uint32_t dw0)
{
    (void)arg, (void)dw0;
    assert(c == run.c && run.live);
    called();
}

static const struct nvme_ctrlr_ops ctrlr_ops = {
    .live = live, .down = down, .failed = failed, .ana = ana, .event = event};

/* ---- the script's operations, each with a queue pair of those there are ---- */

/* A command that waits, or the one that a slot will carry next: whoever sends that has guessed. */
static uint16_t some_cid(struct peer *p, uint32_t *len, uint64_t *first)
{
    uint8_t which = u8();
    *len = 0;
    *first = 0;
    if (which < 128 && p->ncommands) {
        const struct peer_command *cmd = &p->commands[which % p->ncommands];
        *len = cmd->len;
        *first = peer_first_byte(cmd);
        return cmd->cid;
    }
    run.raw = true;
    return (uint16_t)(p->cids[which % PEER_SLOTS] + ((which >> 4 & 3) << 12));
}

/* A range of a command's data, or of none. */
static void some_range(uint8_t how, uint32_t len, uint32_t *at, uint32_t *n)
{
    uint32_t unit = how & 16 ? PEER_BLOCK : 1;
    *at = u16() * unit;
    *n = u16() * unit;
    if (how & 32 && *at < len) /* the rest */
        *n = len - *at;
    *n = (uint32_t)plx_min_u64(*n, PEER_LARGEST);
}

static void op_behave(struct peer *p)
{
    (void)p;
    behave(u8());
}

/* As it should, but for some bytes: those of a field that there is in one of the structures, or any. */
static void op_answer(struct peer *p)
{
    static const uint16_t fields[] = {0,  2,  3,   4,   8,   14,  16,  20,  24,  26,  32,  76,  77,   92,
                                      96, 99, 104, 111, 128, 258, 261, 348, 514, 520, 522, 532, 1024, 1792};
    uint8_t which = u8(), how = u8();
    struct peer_patch patch = {.n = how & 15};
    if (patch.n)
        patch.at = how & 16 ? u16() : fields[u8() % PLX_ARRAY_SIZE(fields)];
    patch.bytes = take(&patch.n);
    if (patch.n && p->qid)
        run.raw = true;
    if (p->ic_pending)
        peer_answer_ic(p, &patch);
    else if (p->ncommands)
        peer_answer(p, &p->commands[which % p->ncommands], &patch);
}

static void op_resp(struct peer *p)
{
    uint32_t len;
    uint64_t first;
    uint16_t cid = some_cid(p, &len, &first), status = u16();
    struct nvme_cqe cqe = {.status = plx_put16(status << 1), .dw0 = plx_put32(status & 0x8000 ? u32() : u8())};
    struct peer_command *cmd = peer_find(p, cid);
    if (cmd)
        peer_forget(p, cmd);
    peer_send_resp(p, cid, cqe, status >> 12 & SPOIL_HEADER);
}

static void op_data(struct peer *p)
{
    uint32_t len, at, n;
    uint64_t first;
    uint16_t cid = some_cid(p, &len, &first);
    uint8_t how = u8();
    some_range(how, len, &at, &n);
    peer_send_data(p, cid, how & (NVME_TCP_LAST | NVME_TCP_SUCCESS), at, peer_content(first + at), n,
                   how & (SPOIL_HEADER | SPOIL_DATA));
}

static void op_r2t(struct peer *p)
{
    uint32_t len, at, n;
    uint64_t first;
    uint16_t cid = some_cid(p, &len, &first);
    uint8_t how = u8();
    some_range(how, len, &at, &n);
    peer_send_r2t(p, cid, how, at, n);
}

static void op_raw(struct peer *p)
{
    size_t n = u8();
    const uint8_t *b = take(&n);
    run.raw = true;
    peer_put(p, b, n);
}

/* Any header, with the digest that it needs to be looked at. */
static void op_header(struct peer *p)
{
    uint8_t b[UINT8_MAX + NVME_TCP_DIGEST];
    size_t n = u8();
    const uint8_t *from = take(&n);
    run.raw = true;
    if (!n)
        return;
    memcpy(b, from, n);
    uint32_t crc = plx_crc32c(b, n);
    memcpy(b + n, &crc, sizeof crc);
    peer_put(p, b, n + (p->rules.header_digest ? sizeof crc : 0));
}

static void op_cut(struct peer *p)
{
    p->cut = u8();
}

/* Does not receive any more, or again. */
static void op_deaf(struct peer *p)
{
    p->deaf = !p->deaf;
}

static void op_close(struct peer *p)
{
    if (u8() & 1)
        shutdown(p->fd, SHUT_WR);
    else
        peer_hang_up(p);
}

static void op_start(struct peer *p)
{
    uint8_t kind = u8(), how = u8(), iovs = how & 8 ? u8() : 0;
    (void)p;
    for (unsigned n = 1 + (how >> 4); n--;)
        start(kind == KIND_RESET ? kind : kind % KINDS, how & 7, iovs);
}

static void op_stop(struct peer *p)
{
    unsigned slot = u8() % JOBS;
    (void)p;
    if (run.jobs[slot])
        stop(run.jobs[slot]);
}

static void op_event(struct peer *p)
{
    static const uint32_t events[] = {0x000002, 0x0c0302, 0x70f002, 0x040002};
    uint8_t which = u8();
    struct nvme_cqe cqe = {.dw0 = plx_put32(which < 8 ? events[which % PLX_ARRAY_SIZE(events)] : u32())};
    for (unsigned i = 0; i < p->ncommands && !p->qid; i++) {
        uint16_t cid = p->commands[i].cid;
        if (p->commands[i].sqe.opcode != NVME_ADMIN_ASYNC_EVENT)
            continue;
        peer_forget(p, &p->commands[i]);
        peer_send_resp(p, cid, cqe, 0);
        return;
    }
}

static void op_time(struct peer *p)
{
    static const uint32_t ms[] = {1, 10, 20, 100, 1000, 2000, 5000, 31000};
    uint8_t how = u8();
    (void)p;
    for (unsigned n = 1 + (how >> 5); n--; peers_settle())
        now_ns += ms[how & 7] * PLX_NS_PER_MS;
}

/* Says something else of itself from now on; and the host looks. */
static void op_say(struct peer *p)
{
    uint8_t what = u8();
    (void)p;
    says.ana = what & 15;
    if (what & 16)
        says.success_flag = !says.success_flag;
    if (what & 128) /* the host is to find another namespace when it comes again */
        says.nameless = !says.nameless;
    if (what & 32 && run.c)
        nvme_ctrlr_refresh_ana(run.c);
    if (what & 64 && run.c)
        nvme_ctrlr_want_events(run.c);
}

static void op_term(struct peer *p)
{
    size_t n = u8();
    uint16_t fes = u16();
    const uint8_t *shown = take(&n);
    peer_send_term(p, fes, shown, (uint32_t)n);
}

static const struct op {
    void (*fn)(struct peer *p);
    bool needs_peer;
} ops[16] = {
    {op_behave, false}, {op_answer, true}, {op_resp, true}, {op_data, true},  {op_r2t, true},    {op_raw, true},
    {op_header, true},  {op_cut, true},    {op_deaf, true}, {op_close, true}, {op_start, false}, {op_stop, false},
    {op_event, true},   {op_time, false},  {op_say, false}, {op_term, true},
};

static struct peer *nth_peer(unsigned n)
{
    unsigned open = 0;
    for (unsigned i = 0; i < PEERS; i++)
        open += peers[i].fd >= 0;
    n = open ? n % open : 0;
    for (unsigned i = 0; i < PEERS; i++)
        if (peers[i].fd >= 0 && n-- == 0)
            return &peers[i];
    return NULL;
}

/* @return false at the script's end */
static bool play_one(void)
{
    if (script == script_end || run.ops++ == OPS_IN_ALL)
        return false;
    uint8_t code = u8();
    const struct op *op = &ops[code & 15];
    struct peer *p = nth_peer(code >> 4 & 7);
    if (p || !op->needs_peer)
        op->fn(p);
    if (!(code & 128)) /* else the next one comes right behind it, perhaps in one piece */
        peers_settle();
    return true;
}

/*
 * Tools, and the opening of a disk, run a reactor of their own until they have what they want: the script goes on in
 * there. After its end the controller behaves, then it is gone.
 */
void __wrap_plx_reactor_run(struct plx_reactor *r)
{
    reactor = r;
    behave(run.steps);
    run.steps = 0;
    while (!r->stop && play_one())
        ;
    if (!r->stop)
        behave(BEHAVE_MAX);
    for (unsigned waits = 0; !r->stop; waits++) {
        assert(waits < WAITS_MAX);
        peers_hang_up();
        peers_settle();
        now_ns += PLX_NS_PER_S;
    }
    r->stop = false;
    reactor = own_reactor;
}

/* ---- what scripts work on ---- */

static struct plx_bdev *open_disk(unsigned which)
{
    static struct plx_bdev *disks[DISKS];
    static const char *const options[DISKS] = {"?depth=4", "?queues=2&hdgst=1&ddgst=1", "?depth=2&policy=round-robin",
                                               "?hdgst=1&ddgst=1&reconnect_deadline=3&timeout=2"};
    char url[256], second[64] = "";
    unsigned port = ntohs(address.sin_port);
    const uint8_t *rest = script;
    says.nameless = which == 0;
    if (disks[which])
        return disks[which];
    if (which == 2) /* two paths */
        snprintf(second, sizeof second, ",127.0.0.1:%u", port);
    snprintf(url, sizeof url, "nvme+tcp://127.0.0.1:%u%s/" NQN "%s", port, second, options[which]);
    script = script_end; /* to be opened it needs a controller that behaves */
    if (plx_bdev_open(url, &disks[which], NULL))
        __builtin_trap();
    script = rest;
    peers_hang_up();
    return disks[which];
}

/* Where the controller is; or where nobody listens, or there is no way to; or one after the other. */
static struct nvme_addrs choose_addresses(unsigned which)
{
    const uint8_t last = which & 3, first = which >> 2 & 3;
    struct nvme_addrs all = {.n = first ? 2 : 1};
    for (unsigned i = 0; i < all.n; i++) {
        uint8_t kind = i + 1 == all.n ? last : first;
        struct sockaddr_in to = address;
        if (kind == 1)
            to.sin_port = htons(1);
        else if (kind == 2)
            to.sin_addr.s_addr = INADDR_BROADCAST;
        memcpy(&all.list[i].addr, &to, sizeof to);
        snprintf(all.list[i].name, sizeof all.list[i].name, "fuzz%u", i);
    }
    return all;
}

static void use_association(uint8_t how, uint8_t more)
{
    static const uint8_t queues[] = {0, 1, 1, 2}, depths[] = {128, 2, 4, 16};
    struct nvme_where w;
    nvme_where_init(&w);
    w.o.hdgst = how & 1;
    w.o.ddgst = how & 2;
    w.o.queues = more == UINT8_MAX ? MANY_QUEUES : queues[how >> 2 & 3];
    w.o.depth = depths[how >> 4 & 3];
    w.o.nsid = more & 1 ? NVME_NSID_ALL : more >> 1 & 1;
    w.o.sq_flow = more & 4;
    w.o.addrs = choose_addresses(more == UINT8_MAX ? 0 : more >> 4);
    snprintf(w.o.subnqn, sizeof w.o.subnqn, NQN);
    snprintf(w.o.hostnqn, sizeof w.o.hostnqn, "nqn.2024-01.com.example:host");
    w.o.hostid[0] = 1;
    if (nvme_ctrlr_create(own_reactor, &w.o, &ctrlr_ops, NULL, &run.c))
        __builtin_trap();
    nvme_ctrlr_start(run.c, more & 8);
}

static void try_to_open_disk(const char *url)
{
    struct plx_error err = {""};
    struct plx_bdev *bdev;
    if (plx_bdev_open(url, &bdev, &err)) {
        assert(err.text[0]);
        return;
    }
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    assert(info->block_size >= 512 && info->block_size <= 65536 && info->blocks <= INT64_MAX / info->block_size);
    assert(info->write_unit >= info->block_size && info->write_unit % info->block_size == 0);
    plx_bdev_close(bdev);
}

static void discover(const char *where, bool persistent)
{
    struct plx_error err = {""};
    struct plx_nvme *n;
    struct plx_nvme_discovery *d;
    uint32_t dw0;
    if (plx_nvme_connect_discovery(where, NULL, persistent, &n, &err)) {
        assert(err.text[0]);
        return;
    }
    if (plx_nvme_get_discovery(n, &d, &err) == 0) {
        for (uint32_t i = 0; i < d->count; i++) {
            const struct plx_nvme_record *r = &d->records[i];
            assert(memchr(r->trsvcid, 0, sizeof r->trsvcid) && memchr(r->traddr, 0, sizeof r->traddr));
            assert(memchr(r->subnqn, 0, sizeof r->subnqn));
        }
        plx_nvme_discovery_free(d);
    }
    plx_nvme_wait_event(n, 5000, &dw0, &err);
    plx_nvme_disconnect(n);
}

static void identify(const char *url)
{
    static uint8_t page[192 << 10];
    struct plx_error err = {""};
    struct plx_nvme_info info;
    struct plx_nvme *n;
    uint32_t dw0;
    if (plx_nvme_connect(url, &n, &err)) {
        assert(err.text[0]);
        return;
    }
    plx_nvme_get_info(n, &info);
    plx_nvme_identify(n, NVME_CNS_CTRL, 0, page, &err);
    plx_nvme_get_log(n, NVME_LOG_ANA, 0, NVME_NSID_ALL, 0, page, sizeof page, &err);
    plx_nvme_wait_event(n, -1, &dw0, &err);
    plx_nvme_disconnect(n);
}

static void use_tools(uint8_t how)
{
    char url[128], where[64];
    unsigned port = ntohs(address.sin_port);
    snprintf(where, sizeof where, "127.0.0.1:%u", port);
    snprintf(url, sizeof url, "nvme+tcp://%s/" NQN "%s", where, how & 1 ? "?hdgst=1&ddgst=1" : "");
    if ((how >> 1 & 3) == 0)
        discover(where, how & 1);
    else if ((how >> 1 & 3) == 1)
        identify(url);
    else
        try_to_open_disk(url);
}

/* ---- the process, and its runs ---- */

static void discard(void *arg, enum plx_log_level level, const char *line)
{
    (void)arg, (void)level;
    assert(line[0]);
}

static void begin_process(void)
{
    address = peers_begin();
    if (plx_reactor_create(&own_reactor, NULL))
        __builtin_trap();
    reactor = own_reactor;
    plx_log_set(discard, NULL, PLX_LOG_DEBUG); /* what is logged is made from what the controller said */
}

/* Requests to a disk that are to end do so with the connections, those to an association with it. */
static void end_requests(void)
{
    run.resubmit = false;
    run.destroy_at = UINT32_MAX;
    for (unsigned i = 0; i < JOBS && run.ch; i++)
        if (run.jobs[i] && run.jobs[i]->bio->op != PLX_BDEV_RESET)
            stop(run.jobs[i]);
    if (run.ch) {
        peers_hang_up();
        peers_settle();
    }
    if (run.c) {
        struct nvme_ctrlr *c = run.c;
        run.c = NULL;
        nvme_ctrlr_destroy(c);
    }
    for (unsigned i = 0; i < JOBS; i++)
        assert(!run.jobs[i]);
}

static int lowest_free_descriptor(void)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    close(fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!own_reactor)
        begin_process();
    script = data;
    script_end = data + size;
    uint8_t how = u8(), more = u8(), what = u8(), steps = u8();
    says = (struct peer_says){
        .success_flag = what & 2, .ana = NVME_ANA_OPTIMIZED, .groups = (what & 0x18) == 0x18 ? MANY_GROUPS : 2};
    struct plx_bdev *disk = (how & 0xc0) == 0x80 ? open_disk(how % DISKS) : NULL;
    run = (struct run){
        .steps = steps, .resubmit = what & 1, .little = what & 32, .destroy_at = what & 4 ? u8() : UINT32_MAX};
    int before = lowest_free_descriptor();
    if ((how & 0xc0) == 0xc0)
        use_tools(how);
    else if (!disk)
        use_association(how, more);
    else if (plx_bdev_channel_get(disk, own_reactor, &run.ch))
        __builtin_trap();
    if (run.c || run.ch) {
        behave(run.steps);
        while (play_one())
            ;
    }
    end_requests();
    if (run.ch)
        plx_bdev_channel_put(run.ch);
    peers_hang_up();
    plx_reactor_poll(own_reactor);
    assert(!own_reactor->sources && !own_reactor->timers && lowest_free_descriptor() == before);
    return 0;
}
