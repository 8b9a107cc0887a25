/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Host and target against each other, over a network of memory and in simulated time: lives of an association, each
 * with a seed. Bytes are cut, held back, late, sometimes wrong; connections break; commands are aborted. What was
 * written is what is read, every command ends, and nothing stays behind.
 *
 *     test_sim [SEED [LIVES]]
 *
 * A life takes over what those before it left: the blocks of the disk, whose turn it is, what was tried in vain.
 * Reactors and target are new with each seed that is a multiple of a hundred; so what repeats a life begins there, and
 * that is what is printed.
 *
 * Streams of memory have no descriptors, so some of the streams' group is not reached: to ask the kernel who is ready,
 * blocked streams that wait for it to tell, what a stalled one is deaf to, reactors that sleep. See test_stream.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memnet.h"
#include "nvme/host.h"
#include "nvmf/tcp/tcp.h"
#include "reactor/clock.h"

#define NQN "nqn.2024-01.com.example:sim"
#define HOSTNQN "nqn.2024-01.com.example:host"

enum {
    BLOCK = 512,
    BLOCKS = 1024,
    MAX_NLB = 160,
    SLOTS = 24,
    QUIET_ROUNDS = 20, /* after these it is time that moves */
    STUCK_S = 3600,    /* of simulated time, which is long for a life */
    LIVES = 1500,
};

/* A command of the host's, sent again until it has succeeded. */
struct slot {
    struct nvme_req req;
    struct iovec iov[3];
    uint8_t data[MAX_NLB * BLOCK];
    uint32_t lba, nlb;
    uint8_t version; /* of what is written */
    bool busy;       /* wanted, */
    bool sent;       /* and with the host */
};

static struct sim {
    uint64_t seed, first; /* of a life, and of the first one since all was new */
    uint64_t now;
    struct plx_reactor *host, *target_reactor;
    struct plx_bdev *disk;
    struct plx_nvmf_target *target;
    bool done;
    struct nvme_ctrlr *ctrlr;
    bool live;
    unsigned left, in_flight; /* commands to begin, and begun */
    struct slot slots[SLOTS];
    uint8_t version[BLOCKS]; /* of the blocks on the disk */
    bool taken[BLOCKS];      /* by a command in flight */
    uint64_t aborts, losses, retries;
} sim;

static uint64_t first_seed = 1;
static unsigned lives = LIVES;

static uint64_t simulated(void)
{
    return sim.now;
}

/* A mistake is found again from what this prints. */
#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "%s:%d: %s\nto repeat: test_sim %llu %llu\n", __FILE__, __LINE__, #x,                      \
                    (unsigned long long)sim.first, (unsigned long long)(sim.seed - sim.first + 1));                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* ---- the commands ---- */

static void fill(uint8_t *p, uint32_t lba, uint8_t version)
{
    for (unsigned i = 0; i < BLOCK; i++)
        p[i] = version ? (uint8_t)(lba * 31 + version * 7 + i) : 0;
}

static void check_read(const struct slot *s)
{
    uint8_t want[BLOCK];
    for (uint32_t i = 0; i < s->nlb; i++) {
        fill(want, s->lba + i, sim.version[s->lba + i]);
        CHECK(memcmp(s->data + (size_t)i * BLOCK, want, BLOCK) == 0);
    }
}

static void slot_done(struct nvme_req *req)
{
    struct slot *s = plx_container_of(req, struct slot, req);
    uint16_t sc = req->status & 0x7ff;
    s->sent = false;
    if (req->lost) {
        sim.losses++;
        return;
    }
    if (sc == PLX_SC_ABORTED_BY_REQUEST || sc == PLX_SC_TRANSIENT_TRANSPORT_ERROR || sc == PLX_SC_COMMAND_INTERRUPTED) {
        sim.retries++;
        return;
    }
    CHECK(sc == PLX_SC_SUCCESS);
    if (req->cmd.opcode == NVME_IO_READ)
        check_read(s);
    for (uint32_t i = 0; i < s->nlb; i++) {
        if (req->cmd.opcode == NVME_IO_WRITE || req->cmd.opcode == NVME_IO_WRITE_ZEROES)
            sim.version[s->lba + i] = s->version;
        sim.taken[s->lba + i] = false;
    }
    s->busy = false;
    sim.in_flight--;
}

/* Memory in pieces, as a page cache has it. */
static void set_iov(struct slot *s, uint32_t len)
{
    uint32_t a = (uint32_t)memnet_random(len + 1), b = (uint32_t)memnet_random(len - a + 1);
    s->iov[0] = (struct iovec){s->data, a};
    s->iov[1] = (struct iovec){s->data + a, b};
    s->iov[2] = (struct iovec){s->data + a + b, len - a - b};
}

static void begin_command(struct slot *s)
{
    static const uint8_t opcodes[] = {NVME_IO_READ,  NVME_IO_READ,  NVME_IO_WRITE,       NVME_IO_WRITE,
                                      NVME_IO_WRITE, NVME_IO_FLUSH, NVME_IO_WRITE_ZEROES};
    uint8_t opcode = opcodes[memnet_random(sizeof opcodes)];
    s->nlb = opcode == NVME_IO_FLUSH ? 0 : 1 + (uint32_t)memnet_random(memnet_random(4) ? 16 : MAX_NLB);
    s->lba = (uint32_t)memnet_random(BLOCKS - s->nlb + 1);
    for (uint32_t i = 0; i < s->nlb; i++)
        if (sim.taken[s->lba + i])
            return;
    bool data = opcode == NVME_IO_READ || opcode == NVME_IO_WRITE;
    uint32_t len = data ? s->nlb * BLOCK : 0;
    s->version = opcode == NVME_IO_WRITE ? (uint8_t)(1 + memnet_random(255)) : 0;
    for (uint32_t i = 0; i < s->nlb; i++) {
        sim.taken[s->lba + i] = true;
        if (opcode == NVME_IO_WRITE)
            fill(s->data + (size_t)i * BLOCK, s->lba + i, s->version);
    }
    set_iov(s, len);
    s->req = (struct nvme_req){.done = slot_done,
                               .data = {s->iov, 0},
                               .len = len,
                               .dir = !data                    ? NVME_NO_DATA
                                      : opcode == NVME_IO_READ ? NVME_TO_HOST
                                                               : NVME_FROM_HOST,
                               .cmd = {.opcode = opcode,
                                       .nsid = plx_put32(1),
                                       .cdw10 = plx_put32(s->lba),
                                       .cdw12 = plx_put32(s->nlb ? s->nlb - 1 : 0)}};
    s->busy = true;
    sim.in_flight++;
    sim.left--;
}

static int submit_some(void)
{
    int n = 0;
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *s = &sim.slots[i];
        if (!s->busy && sim.left && memnet_random(2))
            begin_command(s);
        if (s->busy && !s->sent && sim.live) {
            s->sent = true;
            nvme_submit(sim.ctrlr, &s->req);
            n++;
        } else if (s->sent && sim.live && !memnet_random(500)) {
            sim.aborts++;
            nvme_abort(sim.ctrlr, &s->req);
        }
    }
    return n;
}

/* ---- the association ---- */

static void live(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
    sim.live = true;
}

static void down(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
    sim.live = false;
}

static void failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    (void)c, (void)arg, (void)ret, (void)why;
    CHECK(again);
}

static void ana(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
}

static const struct nvme_ctrlr_ops ctrlr_ops = {.live = live, .down = down, .failed = failed, .ana = ana};

static void accepted(void *arg, struct memnet_end *end)
{
    (void)arg;
    struct tcp_conn *c = tcp_conn_create(sim.target);
    CHECK(c);
    memnet_open(&c->stream, end);
    atomic_fetch_add(&sim.target->connections, 1);
    tcp_conn_adopt(sim.target->groups[0].transport, c);
}

/* ---- rounds, and time ---- */

static int poll_all(void)
{
    int work = memnet_accept() + plx_reactor_poll(sim.target_reactor);
    return sim.host == sim.target_reactor ? work : work + plx_reactor_poll(sim.host);
}

static void pass_time(void)
{
    uint64_t due = memnet_due(), next = due ? due : UINT64_MAX;
    struct plx_reactor *r[] = {sim.host, sim.target_reactor};
    for (int i = 0; i < 2; i++) {
        int64_t timeout = plx_reactor_timeout(r[i]);
        if (timeout >= 0)
            next = plx_min_u64(next, sim.now + (uint64_t)timeout);
    }
    CHECK(next != UINT64_MAX); /* nothing would ever happen again */
    sim.now = plx_max_u64(next, sim.now + 1);
}

/* Polls until nothing happens; then time moves on. */
static void step(unsigned *quiet)
{
    int work = poll_all() + submit_some();
    sim.now += 200;
    *quiet = work ? 0 : *quiet + 1;
    if (*quiet < QUIET_ROUNDS)
        return;
    *quiet = 0;
    pass_time();
}

static void settle(void)
{
    for (unsigned quiet = 0; quiet < QUIET_ROUNDS;)
        quiet = poll_all() ? 0 : quiet + 1;
}

/* ---- a life ---- */

static void choose_network(void)
{
    const struct memnet_opts net = {.seed = sim.seed * UINT64_C(0x2545f4914f6cdd1d) + 1,
                                    .window = 1 << 12 << sim.seed % 7,
                                    .busy = sim.seed % 3 * 8000,
                                    .cut = sim.seed % 5 * 12000,
                                    .late = sim.seed % 4 * 2000,
                                    .late_ns = 2000000,
                                    .reset = sim.seed % 6 < 3 ? 0 : 30,
                                    .refuse = sim.seed % 9 ? 0 : 4000,
                                    .time = &sim.now,
                                    .accepted = accepted};
    memnet_begin(&net);
}

static struct nvme_opts choose_host(void)
{
    bool flips = !memnet_random(4); /* which digests find */
    struct nvme_opts o = {.transport = &nvme_tcp,
                          .addrs = {.list = {{.addr = {.ss_family = AF_INET}, .name = "memory"}}, .n = 1},
                          .subnqn = NQN,
                          .hostnqn = HOSTNQN,
                          .hostid = {1},
                          .hdgst = flips || memnet_random(2),
                          .ddgst = flips || memnet_random(2),
                          .sq_flow = memnet_random(2),
                          .queues = 1 + (uint32_t)memnet_random(3),
                          .depth = 2 + (uint32_t)memnet_random(30),
                          .kato_ms = memnet_random(2) ? 5000 : 0,
                          .timeout_ms = 20000,
                          .connect_timeout_ms = 10000};
    memnet_now()->flip = flips ? 300 : 0;
    return o;
}

static void one_life(uint64_t seed)
{
    uint64_t began = sim.now, last_change = sim.now;
    unsigned quiet = 0, seen = 0;
    sim.seed = seed;
    choose_network();
    const struct nvme_opts o = choose_host();
    sim.live = false;
    sim.left = 1 + (unsigned)memnet_random(40);
    CHECK(nvme_ctrlr_create(sim.host, &o, &ctrlr_ops, NULL, &sim.ctrlr) == 0);
    nvme_ctrlr_start(sim.ctrlr, false);
    while (sim.left || sim.in_flight) {
        if (!memnet_random(20000))
            memnet_break_all();
        if (seen != sim.left + sim.in_flight)
            last_change = sim.now;
        seen = sim.left + sim.in_flight;
        if (sim.now - last_change > 60 * PLX_NS_PER_S) /* long enough: from here on nothing goes wrong any more */
            memnet_now()->reset = memnet_now()->refuse = memnet_now()->flip = 0;
        CHECK(sim.now - began < STUCK_S * PLX_NS_PER_S);
        step(&quiet);
    }
    nvme_ctrlr_destroy(sim.ctrlr);
    for (unsigned i = 0; i < 40 && atomic_load(&sim.target->connections); i++) {
        settle();
        pass_time();
    }
    settle();
    CHECK(atomic_load(&sim.target->connections) == 0);
    CHECK(plx_list_empty(&sim.target->ctrlrs));
    CHECK(sim.target->groups[0].reqs_in_use == 0);
    for (unsigned i = 0; i < 15; i++) { /* those who linger */
        sim.now += 100 * PLX_NS_PER_MS;
        settle();
    }
    memnet_over();
}

/* ---- beginning and end ---- */

static void ended(void *arg, int ret)
{
    (void)arg;
    CHECK(ret == 0);
    sim.done = true;
}

static void wait_done(void)
{
    while (!sim.done) {
        poll_all();
        sim.now += 100000;
    }
    sim.done = false;
}

static void begin_sim(bool one_reactor)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
    const struct memnet_opts nothing = {.window = 1};
    struct plx_nvmf_subsystem *s;
    sim.now = PLX_NS_PER_S;
    memset(sim.version, 0, sizeof sim.version);
    memset(sim.taken, 0, sizeof sim.taken);
    CHECK(plx_reactor_create(&sim.target_reactor, NULL) == 0);
    sim.host = sim.target_reactor;
    if (!one_reactor)
        CHECK(plx_reactor_create(&sim.host, NULL) == 0);
    CHECK(plx_bdev_open("ram:512K", &sim.disk, NULL) == 0);
    CHECK(plx_nvmf_target_create(&sim.target, &sim.target_reactor, 1, NULL, NULL) == 0);
    CHECK(plx_nvmf_subsystem_create(sim.target, &opts, &s, NULL) == 0);
    CHECK(plx_nvmf_subsystem_add_ns(s, sim.disk, NULL, NULL) == 1);
    memnet_begin(&nothing);
    plx_nvmf_target_start(sim.target, ended, NULL);
    wait_done();
    memnet_over();
}

static void end_sim(void)
{
    const struct memnet_opts nothing = {.window = 1};
    memnet_begin(&nothing);
    plx_nvmf_target_stop(sim.target, 100, ended, NULL);
    wait_done();
    memnet_over();
    plx_nvmf_target_destroy(sim.target);
    if (sim.host != sim.target_reactor)
        plx_reactor_destroy(sim.host);
    plx_reactor_destroy(sim.target_reactor);
    plx_bdev_close(sim.disk);
}

static void what_was_written_is_read_whatever_the_network_does(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + lives;) {
        sim.first = seed;
        begin_sim(seed / 100 % 2);
        do
            one_life(seed++);
        while (seed % 100 && seed < first_seed + lives);
        end_sim();
    }
    print_message("%u lives from seed %llu: %llu commands lost, %llu told to try again, %llu aborts\n", lives,
                  (unsigned long long)first_seed, (unsigned long long)sim.losses, (unsigned long long)sim.retries,
                  (unsigned long long)sim.aborts);
    if (lives >= LIVES) /* else it has not seen much */
        assert_true(sim.losses && sim.retries && sim.aborts);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read_whatever_the_network_does),
    };
    if (argc > 1)
        first_seed = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        lives = (unsigned)strtoul(argv[2], NULL, 0);
    plx_clock_simulate(simulated);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
