/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Hosts on several reactors connect and do I/O while namespaces, who sees them, sizes, ANA states and groups, allowed
 * hosts, listeners and subsystems change at random, while namespaces are paused and hosts limited, and while it is
 * asked what is going on. No command may end with what the history does not allow, and nothing may be left over.
 * STORM_SEED repeats a run.
 */
#include "calls.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define NQN "nqn.2024-01.com.example:storm"
#define SECOND "nqn.2024-01.com.example:second"
#define HOST "nqn.2024-01.com.example:host%u"

enum {
    MAX_REACTORS = 3,
    HOSTS = 6,
    NAMESPACES = 3,
    APPLIES = 300,
    DEPTH = 8,
    BYTES = 4096,
};

/* cmocka's assertions are for its own thread. */
#define must(what) ((what) ? (void)0 : (fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what), abort()))

/* What is certain, while seq stays as it is. Changed by the control thread before an edit, and after its apply. */
enum truth { NO, YES, UNSURE };

static struct storm {
    struct plx_reactor *reactors[MAX_REACTORS];
    pthread_t threads[MAX_REACTORS];
    unsigned nreactors; /* the control reactor, which is the first, included */
    struct plx_nvmf_target *t;
    struct plx_nvmf_subsystem *s, *second; /* which comes and goes, without namespaces */
    struct plx_nvmf_listener *l, *other;   /* which comes and goes too */
    struct plx_bdev *disks[NAMESPACES];
    uint64_t seed;
    unsigned applies;
    bool present[NAMESPACES], masked[NAMESPACES], attached[HOSTS][NAMESPACES], allowed[HOSTS], accessible;
    struct plx_timer next;
    bool paused, resuming; /* one namespace at a time, or all */
    uint32_t paused_nsid;
    unsigned pauses;
    _Atomic unsigned limits;
    struct plx_timer breath;
    unsigned asked, told;

    _Atomic unsigned seq;
    _Atomic uint8_t is_present[HOSTS][NAMESPACES], is_accessible, is_allowed[HOSTS], has_other, has_second;
    _Atomic uint16_t port, other_port;
    _Atomic bool ending, over;
    _Atomic int result;
    _Atomic unsigned quiet;                 /* hosts that have ended */
    _Atomic uint64_t done, absent, refused; /* commands */
    _Atomic uint64_t unwelcome, by_other;   /* Connect */
} storm;

static uint64_t draw(uint64_t *state, uint64_t below)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*state >> 33) % below;
}

/* ---- hosts ---- */

enum step { DOWN, CONNECTING, UP, ENDED };

struct slot {
    struct host *host;
    unsigned seq, nsid;
    uint8_t present, accessible, allowed, has_other;
    bool busy;
    uint8_t data[BYTES];
};

static struct host {
    unsigned n;
    char nqn[64];
    uint64_t seed;
    enum step step;
    bool by_other, to_second; /* how it connected, and to what */
    unsigned seq;             /* the same as of a slot, of its Connect */
    uint8_t allowed, has_second;
    uint16_t cntlid, cid;
    struct nvmf_group *g;
    struct calls_qpair admin, io;
    struct nvme_connect_data data;
    struct slot slots[DEPTH];
    struct plx_timer tick;
    struct plx_msg msg;
} hosts[HOSTS];

static void io_done(void *arg, const struct nvme_cqe *cqe)
{
    struct slot *s = arg;
    const uint16_t status = calls_status(cqe);
    const bool absent = status == (PLX_SC_INVALID_NAMESPACE_OR_FORMAT | NVME_STATUS_DNR);
    const bool inaccessible = status == PLX_SC_ANA_INACCESSIBLE;
    s->busy = false;
    must(!status || absent || inaccessible);
    atomic_fetch_add(absent ? &storm.absent : inaccessible ? &storm.refused : &storm.done, 1);
    if (storm.seq != s->seq)
        return; /* something has changed meanwhile */
    must(s->allowed != NO && (!s->host->by_other || s->has_other != NO));
    if (absent)
        must(s->present != YES);
    if (inaccessible)
        must(s->accessible != YES);
    if (!status)
        must(s->present != NO && s->accessible != NO);
}

static void begin_io(struct host *h)
{
    for (unsigned i = 0; i < DEPTH && !h->io.closed; i++) {
        struct slot *s = &h->slots[i];
        if (s->busy)
            continue;
        const uint8_t opcodes[] = {NVME_IO_READ, NVME_IO_WRITE, NVME_IO_FLUSH};
        const uint8_t opcode = opcodes[draw(&h->seed, sizeof opcodes)];
        s->nsid = (unsigned)draw(&h->seed, NAMESPACES) + 1;
        const struct nvme_cmd cmd = {.opcode = opcode,
                                     .cid = plx_put16(++h->cid & 0x7fff),
                                     .nsid = plx_put32(s->nsid),
                                     .cdw10 = plx_put32(draw(&h->seed, 64) * 8),
                                     .cdw12 = plx_put32(BYTES / 512 - 1)};
        s->host = h;
        s->busy = true;
        s->seq = storm.seq;
        s->present = storm.is_present[h->n][s->nsid - 1];
        s->accessible = storm.is_accessible;
        s->allowed = storm.is_allowed[h->n];
        s->has_other = storm.has_other;
        calls_send(&h->io, &cmd, opcode == NVME_IO_FLUSH ? NULL : s->data, opcode == NVME_IO_FLUSH ? 0 : BYTES, io_done,
                   s);
    }
}

static void io_connected(void *arg, const struct nvme_cqe *cqe)
{
    struct host *h = arg;
    h->step = UP;
    if (calls_status(cqe))
        calls_close(&h->io);
}

static void enabled(void *arg, const struct nvme_cqe *cqe)
{
    struct host *h = arg;
    must(calls_status(cqe) == 0);
    calls_connect(&h->io, h->g, h->admin.qp.portid);
    calls_fabrics_connect(&h->io, NQN, h->nqn, 1, h->cntlid, &h->data, io_connected, h);
}

static void connected(void *arg, const struct nvme_cqe *cqe)
{
    struct host *h = arg;
    const uint16_t status = calls_status(cqe);
    const bool certain = storm.seq == h->seq;
    h->cntlid = (uint16_t)plx_get32(cqe->dw0);
    if (status) {
        must(status ==
             ((h->to_second ? PLX_SC_CONNECT_INVALID_PARAMETERS : PLX_SC_CONNECT_INVALID_HOST) | NVME_STATUS_DNR));
        must(!certain || (h->to_second ? h->has_second : h->allowed) != YES);
        storm.unwelcome++;
        calls_close(&h->admin);
        return;
    }
    must(!certain || (h->to_second ? h->has_second : h->allowed) != NO);
    storm.by_other += h->by_other;
    if (h->to_second)
        h->step = UP;
    else
        calls_enable(&h->admin, true, enabled, h);
}

static void connect_admin(struct host *h)
{
    snprintf(h->nqn, sizeof h->nqn, HOST, h->n);
    memset(h->slots, 0, sizeof h->slots);
    h->step = CONNECTING;
    h->io.gone = h->io.closed = true;
    h->seq = storm.seq;
    h->allowed = storm.is_allowed[h->n];
    h->has_second = storm.has_second;
    h->to_second = draw(&h->seed, 4) == 0;
    uint16_t other = storm.other_port;
    h->by_other = other && draw(&h->seed, 2);
    calls_connect(&h->admin, h->g, h->by_other ? other : storm.port);
    calls_fabrics_connect(&h->admin, h->to_second ? SECOND : NQN, h->nqn, 0, 0, &h->data, connected, h);
}

static void tick(struct plx_timer *timer)
{
    struct host *h = plx_container_of(timer, struct host, tick);
    bool leave = storm.ending || draw(&h->seed, 500) == 0;
    if (h->step != DOWN && (leave || h->admin.closed || (h->step == UP && h->io.closed))) {
        calls_close(&h->admin);
        if (!h->io.gone)
            calls_close(&h->io);
        if (h->admin.gone && h->io.gone)
            h->step = DOWN;
    } else if (h->step == UP) {
        begin_io(h);
    } else if (h->step == DOWN && !storm.ending) {
        connect_admin(h);
    }
    if (h->step == DOWN && storm.ending) {
        h->step = ENDED;
        storm.quiet++;
        return;
    }
    plx_timer_set(h->g->reactor, timer, 20 * 1000);
}

static void host_begins(struct plx_msg *msg)
{
    struct host *h = plx_container_of(msg, struct host, msg);
    h->tick.fn = tick;
    tick(&h->tick);
}

/* ---- control ---- */

static void edit(struct plx_timer *timer);

static void tell_truth(void)
{
    for (unsigned h = 0; h < HOSTS; h++)
        for (unsigned i = 0; i < NAMESPACES; i++)
            storm.is_present[h][i] = storm.present[i] && (!storm.masked[i] || storm.attached[h][i]) ? YES : NO;
    for (unsigned i = 0; i < HOSTS; i++)
        storm.is_allowed[i] = storm.allowed[i] ? YES : NO;
    storm.is_accessible = storm.accessible ? YES : NO;
    storm.has_other = storm.other ? YES : NO;
    storm.has_second = storm.second ? YES : NO;
    storm.other_port = storm.other ? storm.other->portid : 0;
    storm.seq++;
}

static void applied(void *arg, int result)
{
    (void)arg;
    must(result == 0 || result == -ETIMEDOUT); /* it is done, and what was under way took longer than is waited for */
    tell_truth();
    if (++storm.applies == APPLIES) {
        storm.ending = true;
        return;
    }
    storm.next.fn = edit;
    plx_timer_set(storm.reactors[0], &storm.next, 200 * 1000);
}

static void pause_over(void *arg, int result)
{
    (void)arg;
    must(!result || result == -ECANCELED || result == -ENOENT);
    storm.paused = result != -ENOENT;
    storm.pauses += !result;
}

static void resume_over(void *arg, int result)
{
    (void)arg;
    must(!result);
    storm.paused = storm.resuming = false;
}

static void limits_over(void *arg, int result)
{
    (void)arg;
    must(!result);
    storm.limits++;
}

/* One or two hosts get limits that hold them up a little, or lose them; one change at a time. */
static void limit_hosts(void)
{
    const struct plx_bdev_limits l = {.ios = 20000 + draw(&storm.seed, 100000), .write_bytes = 64 << 20};
    char names[2][64];
    const char *nqns[2] = {names[0], names[1]};
    unsigned first = (unsigned)draw(&storm.seed, HOSTS - 1);
    for (unsigned i = 0; i < 2; i++)
        snprintf(names[i], sizeof names[i], HOST, first + i);
    int ret = draw(&storm.seed, 3) ? plx_nvmf_host_limits_set(storm.t, "group", nqns, 1 + draw(&storm.seed, 2), &l,
                                                              limits_over, NULL, NULL)
                                   : plx_nvmf_host_limits_remove(storm.t, "group", limits_over, NULL, NULL);
    must(!ret || ret == -EBUSY || ret == -ENOENT);
}

/* A pause may be called off before it is one. What is paused in the end remains so. */
static void breathe(struct plx_timer *timer)
{
    if (storm.ending)
        return;
    plx_timer_set(storm.reactors[0], timer, draw(&storm.seed, 300) * 1000);
    if (draw(&storm.seed, 4) == 0)
        limit_hosts();
    if (!storm.paused) {
        storm.paused = true;
        storm.paused_nsid = (uint32_t)draw(&storm.seed, NAMESPACES + 1);
        plx_nvmf_subsystem_pause(storm.s, storm.paused_nsid, pause_over, NULL);
    } else if (!storm.resuming) {
        storm.resuming = true;
        plx_nvmf_subsystem_resume(storm.s, storm.paused_nsid, resume_over, NULL);
    }
}

static void edit_namespace(unsigned n)
{
    const struct plx_nvmf_ns_opts opts = {.nsid = n + 1, .no_auto_visible = draw(&storm.seed, 3) == 0};
    for (unsigned h = 0; h < HOSTS; h++) {
        storm.is_present[h][n] = UNSURE;
        storm.attached[h][n] = false;
    }
    storm.seq++;
    if (storm.present[n])
        must(plx_nvmf_subsystem_remove_ns(storm.s, n + 1, NULL) == 0);
    else
        must((plx_nvmf_subsystem_add_ns(storm.s, storm.disks[n], &opts, NULL)) == (int)n + 1);
    storm.present[n] = !storm.present[n];
    storm.masked[n] = opts.no_auto_visible;
}

static void edit_attachment(unsigned h, unsigned n)
{
    char nqn[64];
    snprintf(nqn, sizeof nqn, HOST, h);
    if (!storm.present[n] || !storm.masked[n]) {
        must(plx_nvmf_ns_add_host(storm.s, n + 1, nqn, NULL) == (storm.present[n] ? -EINVAL : -ENOENT));
        return;
    }
    storm.is_present[h][n] = UNSURE;
    storm.seq++;
    must((storm.attached[h][n] ? plx_nvmf_ns_remove_host : plx_nvmf_ns_add_host)(storm.s, n + 1, nqn, NULL) == 0);
    storm.attached[h][n] = !storm.attached[h][n];
}

/* All groups have one state at a listener. */
static void edit_group(unsigned n)
{
    int ret = plx_nvmf_subsystem_set_ns_ana_group(storm.s, n + 1, (uint32_t)draw(&storm.seed, 3) + 1, NULL);
    must(ret == (storm.present[n] ? 0 : -ENOENT));
}

static void edit_host(unsigned n)
{
    char nqn[64];
    snprintf(nqn, sizeof nqn, HOST, n);
    storm.is_allowed[n] = UNSURE;
    storm.seq++;
    if (storm.allowed[n])
        must(plx_nvmf_subsystem_disallow_host(storm.s, nqn, NULL) == 0);
    else
        must(plx_nvmf_subsystem_allow_host(storm.s, nqn, NULL) == 0);
    storm.allowed[n] = !storm.allowed[n];
}

/* Nobody comes by it any more before it goes. */
static void edit_listener(void)
{
    storm.has_other = UNSURE;
    storm.other_port = 0;
    storm.seq++;
    if (storm.other)
        plx_nvmf_listener_remove(storm.other);
    storm.other = NULL;
    if (draw(&storm.seed, 2))
        must(plx_nvmf_listen(storm.t, "192.0.2.2", 4420, &storm.other, NULL) == 0);
}

static void edit_subsystem(void)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = SECOND, .allow_any_host = true};
    storm.has_second = UNSURE;
    storm.seq++;
    if (storm.second)
        plx_nvmf_subsystem_remove(storm.second);
    storm.second = NULL;
    if (draw(&storm.seed, 2))
        must(plx_nvmf_subsystem_create(storm.t, &opts, &storm.second, NULL) == 0);
}

/* ---- what is going on ---- */

static void told_controllers(void *arg, const struct plx_nvmf_controller_info *c, unsigned n)
{
    (void)arg;
    must(c && n <= HOSTS);
    for (unsigned i = 0; i < n; i++)
        must(c[i].nio <= 1 && c[i].qpairs[0].qid == 0 && strncmp(c[i].hostnqn, HOST, sizeof HOST - 3) == 0);
    storm.told++;
}

static void told_commands(void *arg, const struct plx_nvmf_command_info *c, unsigned n, uint64_t left_out)
{
    (void)arg;
    must(c && !left_out && n <= HOSTS * (DEPTH + 2));
    storm.told++;
}

static void told_stats(void *arg, const struct plx_nvmf_reactor_info *r, unsigned n)
{
    (void)arg;
    must(r && n == storm.t->nreactors);
    storm.told++;
}

static void ask(void)
{
    must(plx_nvmf_query_controllers(storm.s, told_controllers, NULL) == 0);
    must(plx_nvmf_query_inflight(storm.t, told_commands, NULL) == 0);
    must(plx_nvmf_query_stats(storm.t, told_stats, NULL) == 0);
    storm.asked += 3;
}

static void edit(struct plx_timer *timer)
{
    (void)timer;
    for (uint64_t n = draw(&storm.seed, 3) + 1; n; n--) {
        switch (draw(&storm.seed, 11)) {
        case 0:
            edit_host((unsigned)draw(&storm.seed, HOSTS));
            break;
        case 1:
            storm.is_accessible = UNSURE;
            storm.seq++;
            storm.accessible = !storm.accessible;
            for (uint64_t own = draw(&storm.seed, 2); own < 2; own++) /* that listener alone at first, sometimes */
                must(!plx_nvmf_subsystem_set_ana(storm.s, own ? NULL : storm.l, 0,
                                                 storm.accessible ? PLX_NVMF_ANA_OPTIMIZED : PLX_NVMF_ANA_INACCESSIBLE,
                                                 NULL));
            break;
        case 2: /* a null disk; the others refuse, or keep their size */
            plx_bdev_resize(storm.disks[0], 4096 + draw(&storm.seed, 4096), NULL);
            break;
        case 3:
            edit_listener();
            break;
        case 4:
            edit_subsystem();
            break;
        case 5:
            edit_group((unsigned)draw(&storm.seed, NAMESPACES));
            break;
        case 6:
        case 7:
            edit_attachment((unsigned)draw(&storm.seed, HOSTS), (unsigned)draw(&storm.seed, NAMESPACES));
            break;
        default:
            edit_namespace((unsigned)draw(&storm.seed, NAMESPACES));
        }
    }
    if (draw(&storm.seed, 4) == 0)
        ask();
    plx_nvmf_target_apply(storm.t, applied, NULL);
}

/* ---- the whole ---- */

static void phase_over(void *arg, int result)
{
    (void)arg;
    storm.result = result;
    storm.over = true;
}

static int await_phase(void)
{
    while (!storm.over)
        usleep(1000);
    storm.over = false;
    return storm.result;
}

static void *run(void *arg)
{
    plx_reactor_run(arg);
    return NULL;
}

static void first_edit(struct plx_msg *msg)
{
    (void)msg;
    edit(NULL);
    storm.breath.fn = breathe;
    breathe(&storm.breath);
}

static void open_storm(const char *file, bool apart)
{
    const struct plx_nvmf_opts topts = {.control_apart = apart};
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN};
    const char *names[NAMESPACES] = {"null:8M", "ram:1M", file};
    const struct plx_reactor_opts ropts = {.core = -1, .mode = PLX_POLL_SLEEP};
    for (unsigned i = 0; i < storm.nreactors; i++)
        must(plx_reactor_create(&storm.reactors[i], &ropts) == 0);
    must(plx_nvmf_target_create(&storm.t, storm.reactors, storm.nreactors, &topts, NULL) == 0);
    storm.t->transport = &calls_transport;
    must(plx_nvmf_subsystem_create(storm.t, &opts, &storm.s, NULL) == 0);
    must(plx_nvmf_listen(storm.t, "192.0.2.1", 4420, &storm.l, NULL) == 0);
    storm.port = storm.l->portid;
    for (unsigned i = 0; i < NAMESPACES; i++) {
        must(plx_bdev_open(names[i], &storm.disks[i], NULL) == 0);
        edit_namespace(i);
    }
    for (unsigned i = 0; i < HOSTS; i++)
        edit_host(i);
    storm.accessible = true;
    for (unsigned i = 0; i < storm.nreactors; i++)
        must(pthread_create(&storm.threads[i], NULL, run, storm.reactors[i]) == 0);
    plx_nvmf_target_start(storm.t, phase_over, NULL);
    must(await_phase() == 0);
    tell_truth();
}

static void close_storm(void)
{
    plx_nvmf_target_stop(storm.t, 1000, phase_over, NULL);
    must(await_phase() == 0);
    for (unsigned i = 0; i < storm.nreactors; i++) {
        plx_reactor_stop(storm.reactors[i]);
        pthread_join(storm.threads[i], NULL);
    }
    for (unsigned i = 0; i < storm.t->nreactors; i++)
        must(storm.t->groups[i].reqs_in_use == 0);
    plx_nvmf_target_destroy(storm.t);
    for (unsigned i = 0; i < storm.nreactors; i++)
        plx_reactor_destroy(storm.reactors[i]);
    for (unsigned i = 0; i < NAMESPACES; i++)
        plx_bdev_close(storm.disks[i]);
}

static void rage(unsigned nreactors, bool apart)
{
    static struct plx_msg msg = {.fn = first_edit};
    char file[] = "/tmp/storm-XXXXXX";
    const char *given = getenv("STORM_SEED");
    int fd = mkstemp(file);
    must(fd >= 0);
    must(ftruncate(fd, 1 << 20) == 0);
    memset(&storm, 0, sizeof storm);
    memset(hosts, 0, sizeof hosts);
    storm.nreactors = nreactors;
    storm.seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
    printf("STORM_SEED=%" PRIu64 "\n", storm.seed);
    open_storm(file, apart);
    for (unsigned i = 0; i < HOSTS; i++) {
        struct host *h = &hosts[i];
        h->n = i;
        h->seed = storm.seed + i;
        h->g = &storm.t->groups[i % storm.t->nreactors];
        h->msg.fn = host_begins;
        plx_reactor_send(h->g->reactor, &h->msg);
    }
    plx_reactor_send(storm.reactors[0], &msg);
    while (storm.quiet < HOSTS)
        usleep(1000);
    close_storm();
    printf("%" PRIu64 " commands done, %" PRIu64 " without a namespace, %" PRIu64 " inaccessible; %" PRIu64
           " hosts by the other listener, %" PRIu64 " refused; %u pauses\n",
           storm.done, storm.absent, storm.refused, storm.by_other, storm.unwelcome, storm.pauses);
    must(storm.asked && storm.told == storm.asked);
    must(storm.limits && storm.pauses && storm.done && storm.absent && storm.refused && storm.by_other &&
         storm.unwelcome);
    unlink(file);
    close(fd);
}

static void no_command_ends_with_what_the_history_does_not_allow(void **state)
{
    (void)state;
    rage(3, false);
}

static void nor_with_a_control_reactor_and_one_for_hosts(void **state)
{
    (void)state;
    rage(2, true);
}

static void nor_with_a_control_reactor_and_two_for_hosts(void **state)
{
    (void)state;
    rage(3, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_command_ends_with_what_the_history_does_not_allow),
        cmocka_unit_test(nor_with_a_control_reactor_and_one_for_hosts),
        cmocka_unit_test(nor_with_a_control_reactor_and_two_for_hosts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
