/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Lives of SSDs that fail, in simulated time: each is a controller, a load, and a schedule of what goes wrong, made
 * from a seed. Driver, device thread, controller and block layer are one thread here, which takes turns as the seed
 * will have it, so that a life is the same each time. Every request ends once, with data that is right; nothing is
 * written late; in the end all works, and nothing is left.
 *
 * POLLUX_SEED=n and POLLUX_ROUNDS=n: so many lives, from that one on; what is wrong is told with the seed of its own.
 */
#include "bdev_util.h"
#include "pcie_model_impl.h"

#include "nvme/nvme.h"
#include "reactor/clock.h"

#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <pollux/nvme_status.h>
#include <pollux/reactor.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ADDR "0000:01:00.0"

enum {
    LIVES = 1000,
    SLOTS = 8,
    PLACES = 16,
    PLACE = 4096, /* bytes, of */
    BLOCK = 512,
    REQUESTS = 30,
    PARTS = 4,
    IDLE = 2, /* turns of all without anything done, until time passes */
    TURNS = 20000000,
    LIFE_S = 600, /* of simulated time: by then whatever can be waited for has been */
};

/* ---- the world: whose turn it is, and what time ---- */

struct part {
    struct plx_reactor *r;
    bool asleep;
    uint64_t acts; /* that it has seen since */
};

static struct {
    uint64_t seed, chance, now, began, lived, turns, pulled;
    struct pcie_model *m;
    struct part parts[PARTS]; /* reactors that there are */
    unsigned nparts;
    struct plx_reactor *made, *stopped[PARTS];
    unsigned nstopped;
    struct plx_reactor *device; /* the device thread's, or NULL, */
    struct plx_reactor *ended;  /* and the one of before; what such a thread does: */
    void *(*run)(void *arg);
    void *arg;
    bool schedule; /* things happen */
    uint64_t acts; /* of anybody: nothing wakes who sleeps but those */
    unsigned idle; /* turns without any */
    unsigned happened[PCIE_MODEL_KINDS + 8];
} w;

static uint64_t world_now(void)
{
    return w.now;
}

static uint32_t draw(uint32_t n)
{
    return tu_random(&w.chance) % n;
}

#define is_well(what)                                                                                                  \
    do {                                                                                                               \
        if (!(what))                                                                                                   \
            fail_msg("POLLUX_SEED=%llu POLLUX_ROUNDS=1: %s", (unsigned long long)w.seed, #what);                       \
    } while (0)

static void part_add(struct plx_reactor *r)
{
    is_well(w.nparts < PARTS);
    w.parts[w.nparts++] = (struct part){.r = r};
}

static void part_remove(const struct plx_reactor *r)
{
    unsigned i = 0;
    while (w.parts[i].r != r)
        i++;
    w.parts[i] = w.parts[--w.nparts];
}

static bool take_stop(const struct plx_reactor *r)
{
    for (unsigned i = 0; i < w.nstopped; i++) {
        if (w.stopped[i] != r)
            continue;
        w.stopped[i] = w.stopped[--w.nstopped];
        return true;
    }
    return false;
}

/* As its own loop would: it polls, and when that was in vain arms and sleeps, until its descriptor or a timer. */
static void part_turn(struct part *p)
{
    struct plx_reactor *r = p->r;
    if (p->asleep && plx_reactor_timeout(r) != 0) {
        struct pollfd fd = {.fd = plx_reactor_fd(r), .events = POLLIN};
        const bool news = p->acts != w.acts;
        p->acts = w.acts;
        if (!news || poll(&fd, 1, 0) == 0)
            return;
    }
    p->asleep = false;
    if (plx_reactor_poll(r)) {
        w.acts++;
        return;
    }
    if (draw(3) && !w.idle) /* it spins */
        return;
    p->acts = w.acts - 1; /* what has woken it already is in its descriptor */
    p->asleep = !plx_reactor_arm(r);
}

static void happen(void);

/* Time passes until something is due. */
static void world_sleep(void)
{
    int64_t next = -1;
    for (unsigned i = 0; i < w.nparts; i++) {
        const int64_t t = plx_reactor_timeout(w.parts[i].r);
        if (t >= 0 && (next < 0 || t < next))
            next = t;
    }
    is_well(next >= 0);
    w.now += plx_max_u64(1000, (uint64_t)next);
    is_well(w.now - w.began < LIFE_S * PLX_NS_PER_S);
}

static void world_turn(void)
{
    const uint64_t acts = w.acts;
    for (unsigned i = draw(4); i; i--)
        w.acts += pcie_model_step(w.m);
    for (unsigned i = 0; i < w.nparts; i++)
        if (w.idle || draw(4))
            part_turn(&w.parts[i]);
    if (w.device && take_stop(w.device)) { /* the thread ends */
        part_remove(w.device);
        w.ended = w.device;
        w.device = NULL;
        w.run(w.arg);
    }
    if (w.schedule)
        happen();
    w.now += 2000;
    is_well(++w.turns < TURNS);
    w.idle = acts == w.acts ? w.idle + 1 : 0;
    if (w.idle < IDLE)
        return;
    if (pcie_model_step(w.m))
        w.acts++;
    else
        world_sleep();
    w.idle = 0;
}

/* ---- what of the library has threads, or waits for them ---- */

int __real_plx_reactor_create_aside(struct plx_reactor **out);
int __wrap_plx_reactor_create_aside(struct plx_reactor **out);
void __wrap_plx_reactor_run(struct plx_reactor *r);
void __wrap_plx_reactor_stop(struct plx_reactor *r);
int __wrap_plx_thread_start(pthread_t *thread, const cpu_set_t *where, void *(*fn)(void *arg), void *arg,
                            const char *name);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock);

int __wrap_plx_reactor_create_aside(struct plx_reactor **out)
{
    int ret = __real_plx_reactor_create_aside(out);
    w.made = *out;
    w.ended = NULL;
    return ret;
}

/* The device thread, which is made right after its reactor; nothing else here has threads. */
int __wrap_plx_thread_start(pthread_t *thread, const cpu_set_t *where, void *(*fn)(void *arg), void *arg,
                            const char *name)
{
    (void)thread, (void)where;
    if (strcmp(name, "pollux-memory") == 0) /* which may take any time: buffers beyond the first piece are copied */
        return -EAGAIN;
    assert_string_equal(name, "pollux-nvme");
    is_well(!w.device);
    w.device = w.made;
    w.run = fn;
    w.arg = arg;
    part_add(w.device);
    return 0;
}

void __wrap_plx_reactor_stop(struct plx_reactor *r)
{
    take_stop(r); /* twice is as once */
    is_well(w.nstopped < PARTS);
    w.stopped[w.nstopped++] = r;
}

/* That of a disk that is looked at runs here; the device thread's has run already, turn by turn. */
void __wrap_plx_reactor_run(struct plx_reactor *r)
{
    if (r == w.ended)
        return;
    part_add(r);
    while (!take_stop(r))
        world_turn();
    part_remove(r);
}

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock)
{
    (void)cond;
    pthread_mutex_unlock(lock);
    world_turn();
    return pthread_mutex_lock(lock);
}

/* ---- what happens to a controller ---- */

static const unsigned everything = ((1u << PCIE_MODEL_KINDS) - 1) & ~1u;

/* A fault now and then of some kinds, and some that are meant for one command, or for one step. */
static void choose_schedule(struct pcie_model_opts *o)
{
    static const uint32_t odds[] = {2, 5, 10, 20, 50, 200, 1000};
    o->random_kinds = draw(4) ? everything & (tu_random(&w.chance) | tu_random(&w.chance)) : 0;
    o->random_odds = odds[draw(sizeof odds / sizeof odds[0])];
    o->to = (uint8_t)draw(2);
    o->rdy_on = draw(20);
    o->rdy_off = draw(20);
    o->shutdown = draw(20);
    o->latency = draw(3);
    o->shuffle = draw(6);
    o->burst = 1 + draw(16);
    if (draw(12) == 0) { /* one that is left alone after each reset, and has to be */
        o->vendor = 0x8086;
        o->device = 0x0953;
        o->asleep = draw(200);
    }
}

static void choose_controller(struct pcie_model_opts *o)
{
    static const uint16_t entries[] = {2, 3, 4, 7, 16, 63, 1023};
    o->mqes = entries[draw(sizeof entries / sizeof entries[0])];
    if (draw(6) == 0) /* of those with none few, as they are looked at 5,000 times a second */
        o->vectors = (uint16_t)(draw(16) ? 1 + draw(2) : 0);
    o->no_msix_table = draw(4) == 0;
    o->queues = (uint16_t)(1 + draw(4));
    o->mdts = (uint8_t)draw(4);
    o->acl = (uint8_t)draw(4);
    o->sgls = draw(3);
    if (draw(3) == 0)
        o->oacs |= PCIE_MODEL_OACS_DBBUF;
    if (draw(3) == 0)
        o->oncs &= (uint16_t)tu_random(&w.chance);
    if (draw(6) == 0)
        o->cmb_kib = 64;
    if (draw(6) == 0) {
        o->version = 0x00020000;
        o->crwms = true;
        o->crto = draw(4);
    }
    o->ns[0].blocks = PLACES * (PLACE / BLOCK);
    if (draw(10))
        return;
    o->ns[0].metadata = 8; /* tuples are made and checked on the way */
    o->ns[0].pi = (uint8_t)(1 + draw(3));
    o->ns[0].interleaved = draw(2);
}

static void choose_faults(void)
{
    static const int opcodes[] = {PCIE_MODEL_ANY, 0, 1, 2, 5, 6, 8, 9, 12};
    static const uint16_t bad[] = {PLX_SC_INTERNAL_ERROR, PLX_SC_DATA_TRANSFER_ERROR, PLX_SC_NAMESPACE_NOT_READY,
                                   PLX_SC_COMMAND_INTERRUPTED, PLX_SC_ABORTED_BY_REQUEST};
    for (unsigned i = draw(4); i; i--) {
        struct pcie_model_fault f = {.kind = 1 + draw(PCIE_MODEL_KINDS - 1),
                                     .qid = -(int)draw(3),
                                     .opcode = opcodes[draw(sizeof opcodes / sizeof opcodes[0])],
                                     .skip = draw(4) ? 0 : draw(30),
                                     .times = draw(4) ? 1 : 1 + draw(4)};
        if (f.kind == PCIE_MODEL_STATUS)
            f.value = bad[draw(sizeof bad / sizeof bad[0])];
        else if (f.kind != PCIE_MODEL_BOGUS_CID &&
                 f.kind != PCIE_MODEL_GHOST) /* else it may be another's that is right */
            f.value = draw(200);
        pcie_model_fault(w.m, &f);
    }
    if (draw(4))
        pcie_model_faults_random(w.m, w.seed + 1);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!plx_memory_fault(info->si_addr))
        signal(number, SIG_DFL);
}

/* In some turns, of which there are some hundred in a life. */
static void happen(void)
{
    enum { SOMETIMES = 300 };
    if (w.m->removed && draw(100) == 0)
        pcie_model_put_back(w.m);
    const unsigned what = draw(SOMETIMES);
    if (what < 8)
        w.happened[PCIE_MODEL_KINDS + what]++;
    switch (what) {
    case 0:
        pcie_model_fail(w.m);
        break;
    case 1:
        pcie_model_ask_back(w.m);
        break;
    case 2:
    case 3:
        if (draw(3))
            break;
        w.pulled += !w.m->removed;
        (what == 2 ? pcie_model_remove : pcie_model_zap)(w.m);
        break;
    case 4:
        pcie_model_spurious(w.m, draw(w.m->nfds ? w.m->nfds : 1));
        break;
    case 5:
        pcie_model_release(w.m);
        break;
    case 6:
        if (draw(2))
            nvme_pcie_reset(ADDR);
        break;
    case 7:
        pcie_model_smart(w.m, (uint8_t)draw(32));
        break;
    default:
        break;
    }
}

/* From here on nothing goes wrong any more that has not yet. */
static void calm_down(void)
{
    w.schedule = false;
    pcie_model_faults_clear(w.m);
    pcie_model_put_back(w.m);
    pcie_model_release(w.m);
}

/* ---- the load ---- */

/*
 * What a place may hold: in each block any of the values that were written to it since one was for certain. A write
 * that fails may have been done in part.
 */
struct place {
    uint8_t may[32]; /* bits */
    bool busy;
};

static struct {
    struct tu t;
    struct place places[PLACES];
    struct tu_req q[SLOTS];
    unsigned at[SLOTS];
    uint8_t value[SLOTS];
    bool busy[SLOTS];
    uint8_t *data; /* PLACE bytes a slot, and as many that no controller reaches */
    unsigned begun, ended, failed;
    uint64_t requests, failures, refused; /* of all lives */
} l;

static void set_only(struct place *p, uint8_t value)
{
    memset(p->may, 0, sizeof p->may);
    p->may[value / 8] = (uint8_t)(1 << value % 8);
}

/* What was read of it is what it holds from then on. */
static void take_place(struct place *p, const uint8_t *data)
{
    uint8_t seen[sizeof p->may] = {0};
    for (unsigned at = 0; at < PLACE; at += BLOCK) {
        is_well(memcmp(data + at, data + at + 1, BLOCK - 1) == 0);
        is_well(p->may[data[at] / 8] >> data[at] % 8 & 1);
        seen[data[at] / 8] |= (uint8_t)(1 << data[at] % 8);
    }
    memcpy(p->may, seen, sizeof seen);
}

static uint8_t *data_of(unsigned i)
{
    return l.data + (i + (i % 4 == 3 ? SLOTS : 0)) * (size_t)PLACE;
}

static void load_start(unsigned i)
{
    static const uint8_t ops[] = {PLX_BDEV_READ,  PLX_BDEV_READ,  PLX_BDEV_READ,         PLX_BDEV_WRITE, PLX_BDEV_WRITE,
                                  PLX_BDEV_WRITE, PLX_BDEV_FLUSH, PLX_BDEV_WRITE_ZEROES, PLX_BDEV_VERIFY};
    const uint8_t op = ops[draw(sizeof ops)];
    do
        l.at[i] = draw(PLACES);
    while (l.places[l.at[i]].busy);
    struct place *p = &l.places[l.at[i]];
    p->busy = l.busy[i] = true;
    l.value[i] = op == PLX_BDEV_WRITE_ZEROES ? 0 : (uint8_t)tu_random(&w.chance);
    memset(data_of(i), l.value[i], PLACE);
    if (op == PLX_BDEV_WRITE || op == PLX_BDEV_WRITE_ZEROES)
        p->may[l.value[i] / 8] |= (uint8_t)(1 << l.value[i] % 8);
    l.begun++;
    l.q[i].req->flags = op == PLX_BDEV_WRITE && draw(8) == 0 ? PLX_BDEV_FUA : 0;
    tu_start(&l.t, &l.q[i], op, l.at[i] * (PLACE / BLOCK), PLACE / BLOCK, data_of(i));
}

static void load_end(unsigned i)
{
    struct place *p = &l.places[l.at[i]];
    const struct plx_bdev_req *req = l.q[i].req;
    const uint8_t *data = data_of(i);
    is_well(l.q[i].done == 1);
    p->busy = l.busy[i] = false;
    l.ended++;
    l.failed += req->status != 0;
    if (req->status)
        return;
    if (req->op == PLX_BDEV_READ) {
        take_place(p, data);
    } else if (req->op == PLX_BDEV_WRITE || req->op == PLX_BDEV_WRITE_ZEROES) {
        set_only(p, l.value[i]);
    }
}

/* As many as that; some are given up by whoever sent them. */
static void load_run(unsigned requests)
{
    for (unsigned busy = 1; busy; world_turn()) {
        busy = 0;
        for (unsigned i = 0; i < SLOTS; i++) {
            if (l.busy[i] && l.q[i].done)
                load_end(i);
            if (!l.busy[i] && l.begun < requests && draw(3))
                load_start(i);
            else if (l.busy[i] && !l.q[i].done && w.schedule && draw(400) == 0)
                plx_bdev_abort(l.t.ch, l.q[i].req);
            busy += l.busy[i];
        }
        busy += l.begun < requests;
    }
}

/* One that has to succeed, at once or when there is a controller again. */
static void must(enum plx_bdev_op op, unsigned place, uint8_t value)
{
    struct tu_req *q = &l.q[0];
    do {
        memset(data_of(0), value, PLACE);
        q->req->flags = 0;
        tu_start(&l.t, q, op, place * (PLACE / BLOCK), PLACE / BLOCK, data_of(0));
        do
            world_turn(); /* also where it is refused at once: it is time that helps */
        while (!q->done);
        is_well(q->done == 1);
    } while (q->req->status);
}

/* All that was written for certain is there, and all else one of what may be. */
static void check_places(void)
{
    for (unsigned i = 0; i < PLACES; i++) {
        must(PLX_BDEV_READ, i, 0);
        take_place(&l.places[i], data_of(0));
        must(PLX_BDEV_WRITE, i, (uint8_t)i);
    }
    for (unsigned i = 0; i < PLACES; i++) {
        must(PLX_BDEV_READ, i, 0xff);
        is_well(data_of(0)[0] == i);
    }
}

/* ---- a life ---- */

static void life_open(void)
{
    static const char *const settings[] = {"",          "&depth=2", "&depth=3",
                                           "&depth=16", "&cmb=1",   "&prchk_guard=0&prchk_reftag=0"};
    char url[200];
    struct plx_error err = {""};
    snprintf(url, sizeof url, "pcie://" ADDR "/1?timeout=%u&reconnect_deadline=%u%s", 1 + draw(3), 5 + draw(20),
             settings[draw(sizeof settings / sizeof settings[0])]);
    for (unsigned tries = draw(12); plx_bdev_open(url, &l.t.bdev, &err); tries--) {
        is_well(strlen(err.text) > 20);
        is_well(tries + 1);
        l.refused++;
        if (!tries)
            calm_down();
    }
    l.t.info = plx_bdev_info(l.t.bdev);
    assert_int_equal(plx_bdev_channel_get(l.t.bdev, l.t.reactor, &l.t.ch), 0);
}

static void one_life(uint64_t seed)
{
    struct pcie_model_opts o = pcie_model_defaults;
    w.seed = seed;
    w.chance = seed * UINT64_C(0x9e3779b97f4a7c15);
    w.began = w.now = PLX_NS_PER_S;
    w.turns = 0;
    choose_schedule(&o);
    choose_controller(&o);
    w.m = pcie_model_new(&o);
    choose_faults();
    for (unsigned i = 0; i < PLACES; i++)
        set_only(&l.places[i], 0);
    l.begun = l.ended = l.failed = 0;
    assert_int_equal(plx_reactor_create(&l.t.reactor, NULL),
                     0); /* its own: a life is the same whatever was before it */
    part_add(l.t.reactor);
    w.schedule = draw(2);
    life_open();
    load_run(1 + draw(REQUESTS));
    calm_down();
    check_places();
    if (draw(2)) { /* it ends with faults, too */
        choose_faults();
        w.schedule = draw(2);
    }
    plx_bdev_channel_put(l.t.ch);
    is_well(plx_buf_free_bytes(l.t.reactor) == plx_buf_total_bytes(l.t.reactor));
    plx_bdev_close(l.t.bdev);
    part_remove(l.t.reactor);
    plx_reactor_destroy(l.t.reactor);
    is_well(!w.device && !pcie_model_is_open(w.m) && w.m->iommu->nmaps == 0);
    if (pcie_model_complaints(w.m))
        fail_msg("POLLUX_SEED=%llu POLLUX_ROUNDS=1: the controller complains: %s", (unsigned long long)seed,
                 pcie_model_complaint(w.m, 0));
    for (unsigned i = 0; i < PCIE_MODEL_KINDS; i++)
        w.happened[i] += pcie_model_injected(w.m, i);
    pcie_model_free(w.m);
    w.lived += w.now - w.began;
    l.requests += l.ended;
    l.failures += l.failed;
}

/* Descriptors and memory of the process. What allocates at first, and keeps it, has done so after some lives. */
enum { SETTLED = 100, SLACK = 16 << 10 };

struct taken {
    unsigned files;
    size_t bytes;
};

static struct taken look_at_what_is_taken(void)
{
    const struct mallinfo2 m = mallinfo2();
    struct taken t = {.bytes = m.uordblks + m.hblkhd};
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        t.files++;
    closedir(d);
    return t;
}

static void show_line(void *arg, enum plx_log_level level, const char *line)
{
    (void)arg, (void)level;
    print_message("%10.6f: %s\n", (double)(w.now - w.began) / (double)PLX_NS_PER_S, line);
}

static void every_request_ends_once_whatever_happens(void **state)
{
    const char *text = getenv("POLLUX_SEED"), *rounds = getenv("POLLUX_ROUNDS");
    const uint64_t seed = text ? strtoull(text, NULL, 10) : 1, lives = rounds ? strtoull(rounds, NULL, 10) : LIVES;
    const struct sigaction act = {.sa_flags = SA_SIGINFO, .sa_sigaction = on_fault};
    struct taken taken = {0};
    (void)state;
    if (getenv("POLLUX_VERBOSE"))
        plx_log_set(show_line, NULL, PLX_LOG_DEBUG);
    sigaction(SIGBUS, &act, NULL);
    pci_open = pcie_model_open;
    plx_clock_simulate(world_now);
    l.data = mmap(NULL, 2 * SLOTS * PLACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(l.data, MAP_FAILED);
    plx_memory_add(l.data, SLOTS * PLACE);
    for (unsigned i = 0; i < SLOTS; i++)
        tu_req_init(&l.q[i]);
    for (uint64_t i = 0; i < lives; i++) {
        if (i == SETTLED)
            taken = look_at_what_is_taken();
        one_life(seed + i);
    }
    if (lives > SETTLED) {
        const struct taken now = look_at_what_is_taken();
        assert_int_equal(now.files, taken.files);
        assert_in_range(now.bytes, 0, taken.bytes + SLACK);
    }
    for (unsigned i = 0; i < SLOTS; i++)
        tu_req_free(&l.q[i]);
    plx_memory_remove(l.data);
    print_message(
        "%llu lives from POLLUX_SEED=%llu: %llu requests, %llu failed; %llu times not opened, %llu times pulled out, "
        "%.0f s of theirs\n",
        (unsigned long long)lives, (unsigned long long)seed, (unsigned long long)l.requests,
        (unsigned long long)l.failures, (unsigned long long)l.refused,
        (unsigned long long)(w.pulled + w.happened[PCIE_MODEL_GONE]), (double)w.lived / (double)PLX_NS_PER_S);
    for (unsigned i = 1; i < PCIE_MODEL_KINDS + 8 && lives >= LIVES; i++)
        if (!w.happened[i])
            fail_msg("nothing of kind %u has happened", i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_request_ends_once_whatever_happens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
