/* SPDX-License-Identifier: BSD-3-Clause */
/* Namespaces that only some hosts see: two hosts of one target, on one reactor without a thread, in simulated time. */
#include "calls.h"
#include "failalloc.h"
#include "reactor/clock.h"
#include "test_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define NQN "nqn.2024-01.com.example:masked"
#define HOST_A "nqn.2024-01.com.example:a"
#define HOST_B "nqn.2024-01.com.example:b"

enum { PENDING = 0xffff, IO_BYTES = 4096, DNR = NVME_STATUS_DNR };
enum { LEAVE_MS = 1000, LATE_MS = 500 }; /* docs/architecture.md says so */
enum { EVENT_NS = 0x040002, EVENT_ANA = 0x0c0302, INACTIVE = PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR };
enum { COMMON = 1, SECRET = 2 }; /* namespaces: one that all see, one that has to be attached */

struct answer {
    bool here;
    struct nvme_cqe cqe;
};

struct host {
    struct calls_qpair admin, io;
    struct nvme_connect_data data;
    struct answer event;
    uint16_t cntlid, cid;
    uint8_t buf[8192];
};

struct rig {
    struct plx_reactor *reactor;
    struct plx_nvmf_target *t;
    struct plx_nvmf_subsystem *s;
    struct plx_bdev *ram;
    struct test_disk *disk; /* the secret one */
    struct host a, b;
    bool done;
    int result;
};

static uint64_t now_ns;

static uint64_t simulated(void)
{
    return now_ns;
}

static void settle(struct rig *rig)
{
    for (int quiet = 0; quiet < 4;)
        quiet = plx_reactor_poll(rig->reactor) ? 0 : quiet + 1;
}

static void pass(struct rig *rig, uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i += 10) {
        now_ns += 10 * PLX_NS_PER_MS;
        settle(rig);
    }
}

static void over(void *arg, int result)
{
    struct rig *rig = arg;
    rig->done = true;
    rig->result = result;
}

static int outcome(struct rig *rig)
{
    settle(rig);
    bool done = rig->done;
    rig->done = false;
    return done ? rig->result : -EINPROGRESS;
}

static int apply(struct rig *rig)
{
    plx_nvmf_target_apply(rig->t, over, rig);
    return outcome(rig);
}

static void answered(void *arg, const struct nvme_cqe *cqe)
{
    struct answer *a = arg;
    a->here = true;
    a->cqe = *cqe;
}

static uint16_t status_of(const struct answer *a)
{
    return a->here ? calls_status(&a->cqe) : PENDING;
}

static uint16_t command(struct rig *rig, struct host *h, struct calls_qpair *q, struct nvme_cmd cmd, uint32_t len,
                        struct answer *a)
{
    a->here = false;
    cmd.cid = plx_put16(++h->cid);
    calls_send(q, &cmd, len ? h->buf : NULL, len, answered, a);
    settle(rig);
    return status_of(a);
}

static void connect_host(struct rig *rig, struct host *h, const char *hostnqn)
{
    struct answer a = {0};
    for (uint16_t qid = 0; qid < 2; qid++) {
        struct calls_qpair *q = qid ? &h->io : &h->admin;
        calls_connect(q, &rig->t->groups[0], 0);
        calls_fabrics_connect(q, NQN, hostnqn, qid, h->cntlid, &h->data, answered, &a);
        settle(rig);
        assert_int_equal(status_of(&a), 0);
        if (qid)
            continue;
        h->cntlid = (uint16_t)plx_get32(a.cqe.dw0);
        calls_enable(q, true, answered, &a);
        settle(rig);
    }
    const struct nvme_cmd want = {.opcode = NVME_ADMIN_SET_FEATURES,
                                  .cdw10 = plx_put32(NVME_FEAT_ASYNC_EVENT),
                                  .cdw11 = plx_put32(NVMF_EVENT_NS | NVMF_EVENT_ANA)};
    assert_int_equal(command(rig, h, &h->admin, want, 0, &a), 0);
    command(rig, h, &h->admin, (struct nvme_cmd){.opcode = NVME_ADMIN_ASYNC_EVENT}, 0, &h->event);
}

static void disconnect(struct rig *rig, struct host *h)
{
    calls_close(&h->admin);
    settle(rig);
    assert_true(h->admin.gone && h->io.gone);
    h->cntlid = 0;
}

static int add_secret(struct rig *rig)
{
    static const uint8_t uuid[16] = {1};
    const struct plx_nvmf_ns_opts opts = {.nsid = SECRET, .uuid = uuid, .no_auto_visible = true};
    return plx_nvmf_subsystem_add_ns(rig->s, &rig->disk->bdev, &opts, NULL);
}

static void open_rig(struct rig *rig)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
    memset(rig, 0, sizeof *rig);
    now_ns = PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    rig->disk = test_disk_new();
    rig->disk->bdev.info.write_cache = false;
    assert_int_equal(plx_reactor_create(&rig->reactor, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&rig->t, &rig->reactor, 1, NULL, NULL), 0);
    rig->t->transport = &calls_transport;
    assert_int_equal(plx_nvmf_subsystem_create(rig->t, &opts, &rig->s, NULL), 0);
    assert_int_equal(plx_bdev_open("ram:1M", &rig->ram, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig->s, rig->ram, NULL, NULL), COMMON);
    assert_int_equal(add_secret(rig), SECRET);
    plx_nvmf_target_start(rig->t, over, rig);
    assert_int_equal(outcome(rig), 0);
    connect_host(rig, &rig->a, HOST_A);
    connect_host(rig, &rig->b, HOST_B);
}

static void close_rig(struct rig *rig)
{
    plx_nvmf_target_stop(rig->t, 1000, over, rig);
    pass(rig, 50);
    assert_int_equal(outcome(rig), 0);
    plx_nvmf_target_destroy(rig->t);
    plx_reactor_destroy(rig->reactor);
    plx_bdev_close(rig->ram);
    plx_bdev_close(&rig->disk->bdev);
    plx_clock_simulate(NULL);
}

static void attach(struct rig *rig, const char *hostnqn)
{
    assert_int_equal(plx_nvmf_ns_add_host(rig->s, SECRET, hostnqn, NULL), 0);
}

static void detach(struct rig *rig, const char *hostnqn)
{
    assert_int_equal(plx_nvmf_ns_remove_host(rig->s, SECRET, hostnqn, NULL), 0);
}

static struct nvme_cmd io(uint8_t opcode, uint32_t nsid)
{
    return (struct nvme_cmd){.opcode = opcode, .nsid = plx_put32(nsid), .cdw12 = plx_put32(IO_BYTES / 512 - 1)};
}

static uint16_t identify(struct rig *rig, struct host *h, uint8_t cns, uint32_t nsid)
{
    struct answer a;
    const struct nvme_cmd cmd = {.opcode = NVME_ADMIN_IDENTIFY, .nsid = plx_put32(nsid), .cdw10 = plx_put32(cns)};
    memset(h->buf, 0xee, sizeof h->buf);
    uint16_t status = command(rig, h, &h->admin, cmd, 4096, &a);
    while (status == PENDING && test_disk_end(rig->disk, PLX_SC_INTERNAL_ERROR)) { /* NUSE, which is not known then */
        settle(rig);
        status = status_of(&a);
    }
    return status;
}

static uint16_t get_log(struct rig *rig, struct host *h, uint8_t lid)
{
    struct answer a;
    const struct nvme_cmd cmd = {.opcode = NVME_ADMIN_GET_LOG_PAGE,
                                 .cdw10 = plx_put32((uint32_t)lid | (4096 / 4 - 1) << 16)};
    memset(h->buf, 0xee, sizeof h->buf);
    return command(rig, h, &h->admin, cmd, 4096, &a);
}

static uint32_t word(const struct host *h, size_t offset)
{
    plx_le32 v;
    memcpy(&v, h->buf + offset, sizeof v);
    return plx_get32(v);
}

/* What it was told since it was last asked, or 0; and it may be told again. */
static uint32_t told(struct rig *rig, struct host *h)
{
    if (!h->event.here)
        return 0;
    uint32_t dw0 = plx_get32(h->event.cqe.dw0);
    get_log(rig, h, (uint8_t)(dw0 >> 16));
    command(rig, h, &h->admin, (struct nvme_cmd){.opcode = NVME_ADMIN_ASYNC_EVENT}, 0, &h->event);
    return dw0;
}

/* The namespaces in an Identify list that begins after nsid: at most two here. */
static unsigned list(struct rig *rig, struct host *h, uint8_t cns)
{
    assert_int_equal(identify(rig, h, cns, 0), 0);
    unsigned n = 0;
    while (word(h, 4 * n))
        n++;
    return n;
}

static bool all_zero(const struct host *h)
{
    for (size_t i = 0; i < 4096; i++)
        if (h->buf[i])
            return false;
    return true;
}

static unsigned ana_namespaces(struct rig *rig, struct host *h)
{
    assert_int_equal(get_log(rig, h, NVME_LOG_ANA), 0);
    return word(h, 8) & 0xffff ? word(h, 16 + 4) : 0; /* all are in group 1 */
}

static void sees_nothing(struct rig *rig, struct host *h)
{
    static const uint8_t by_nsid[] = {NVME_CNS_NS, NVME_CNS_CSI_INDEPENDENT_NS};
    struct answer a;
    assert_int_equal(list(rig, h, NVME_CNS_ACTIVE_NS), 1);
    assert_int_equal(word(h, 0), COMMON);
    assert_int_equal(list(rig, h, NVME_CNS_CSI_ACTIVE_NS), 1);
    for (size_t i = 0; i < sizeof by_nsid; i++) {
        assert_int_equal(identify(rig, h, by_nsid[i], SECRET), 0);
        assert_true(all_zero(h));
    }
    assert_int_equal(identify(rig, h, NVME_CNS_NS_DESCRIPTORS, SECRET), INACTIVE);
    assert_int_equal(identify(rig, h, NVME_CNS_CTRL_LIST_OF_NS, SECRET), INACTIVE);
    assert_int_equal(list(rig, h, NVME_CNS_ALLOCATED_NS), 2); /* that there is one is no secret to who asks for it */
    assert_int_equal(identify(rig, h, NVME_CNS_ALLOCATED_NS_DATA, SECRET), 0);
    assert_int_equal(word(h, 0), rig->disk->bdev.info.blocks);
    assert_int_equal(ana_namespaces(rig, h), 1);
    unsigned seen = rig->disk->seen;
    assert_int_equal(command(rig, h, &h->io, io(NVME_IO_READ, SECRET), IO_BYTES, &a), INACTIVE);
    assert_int_equal(command(rig, h, &h->io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &a), INACTIVE);
    assert_int_equal(command(rig, h, &h->io, io(NVME_IO_FLUSH, SECRET), 0, &a), INACTIVE);
    assert_int_equal(command(rig, h, &h->io, io(NVME_IO_FLUSH, NVME_NSID_ALL), 0, &a), 0);
    const struct nvme_cmd feature = {
        .opcode = NVME_ADMIN_GET_FEATURES, .nsid = plx_put32(SECRET), .cdw10 = plx_put32(NVME_FEAT_ERROR_RECOVERY)};
    assert_int_equal(command(rig, h, &h->admin, feature, 0, &a), INACTIVE);
    assert_int_equal(rig->disk->seen, seen);
    assert_int_equal(command(rig, h, &h->io, io(NVME_IO_READ, COMMON), IO_BYTES, &a), 0);
}

static void sees_both(struct rig *rig, struct host *h)
{
    struct answer a;
    assert_int_equal(list(rig, h, NVME_CNS_ACTIVE_NS), 2);
    assert_int_equal(word(h, 4), SECRET);
    assert_int_equal(identify(rig, h, NVME_CNS_NS, SECRET), 0);
    assert_int_equal(word(h, 0), rig->disk->bdev.info.blocks);
    assert_int_equal(identify(rig, h, NVME_CNS_NS_DESCRIPTORS, SECRET), 0);
    assert_int_equal(ana_namespaces(rig, h), 2);
    assert_int_equal(command(rig, h, &h->io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &a), PENDING);
    assert_true(test_disk_end(rig->disk, PLX_SC_SUCCESS));
    settle(rig);
    assert_int_equal(status_of(&a), 0);
    assert_int_equal(command(rig, h, &h->io, io(NVME_IO_FLUSH, NVME_NSID_ALL), 0, &a), PENDING);
    assert_true(test_disk_end(rig->disk, PLX_SC_SUCCESS));
    settle(rig);
    assert_int_equal(status_of(&a), 0);
}

/* ---- who sees what ---- */

static void a_namespace_is_seen_by_the_hosts_it_is_attached_to(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig);
    sees_nothing(&rig, &rig.a);
    attach(&rig, HOST_A);
    sees_nothing(&rig, &rig.a); /* before the apply */
    assert_int_equal(apply(&rig), 0);
    sees_both(&rig, &rig.a);
    sees_nothing(&rig, &rig.b);
    attach(&rig, HOST_B);
    detach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    sees_nothing(&rig, &rig.a);
    sees_both(&rig, &rig.b);
    disconnect(&rig, &rig.b); /* one that comes sees it as one that was here */
    connect_host(&rig, &rig.b, HOST_B);
    sees_both(&rig, &rig.b);
    close_rig(&rig);
}

static void a_namespace_identifier_that_is_used_again_is_attached_to_nobody(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig);
    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, SECRET, NULL), 0);
    assert_int_equal(add_secret(&rig), SECRET);
    assert_int_equal(apply(&rig), 0);
    sees_nothing(&rig, &rig.a);
    close_rig(&rig);
}

static void health_counts_what_its_host_sees(void **state)
{
    (void)state;
    struct rig rig;
    struct answer a;
    open_rig(&rig);
    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(command(&rig, &rig.a, &rig.a.io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &a), PENDING);
    assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
    settle(&rig);
    assert_int_equal(get_log(&rig, &rig.a, NVME_LOG_HEALTH), 0);
    assert_int_equal(word(&rig.a, 80), 1); /* host writes */
    assert_int_equal(get_log(&rig, &rig.b, NVME_LOG_HEALTH), 0);
    assert_int_equal(word(&rig.b, 80), 0);
    close_rig(&rig);
}

static void exactly_the_hosts_for_whom_something_changed_are_told(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig);
    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(told(&rig, &rig.a), EVENT_NS);
    assert_int_equal(word(&rig.a, 0), SECRET);
    assert_int_equal(word(&rig.a, 4), 0);
    assert_int_equal(told(&rig, &rig.b), 0);
    assert_int_equal(get_log(&rig, &rig.b, NVME_LOG_CHANGED_NS), 0);
    assert_int_equal(word(&rig.b, 0), 0);

    plx_bdev_resized(&rig.disk->bdev, 1024);
    settle(&rig);
    assert_int_equal(told(&rig, &rig.a), EVENT_NS);
    assert_int_equal(word(&rig.a, 0), SECRET);
    assert_int_equal(told(&rig, &rig.b), 0);

    detach(&rig, HOST_A);
    attach(&rig, HOST_A); /* as it was: nothing to tell */
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(told(&rig, &rig.a), 0);

    detach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(told(&rig, &rig.a), EVENT_NS);
    assert_int_equal(word(&rig.a, 0), SECRET);
    assert_int_equal(told(&rig, &rig.b), 0);

    attach(&rig, HOST_B);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(told(&rig, &rig.b), EVENT_NS);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, SECRET, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(told(&rig, &rig.b), EVENT_NS);
    assert_int_equal(word(&rig.b, 0), SECRET);
    assert_int_equal(told(&rig, &rig.a), 0);
    close_rig(&rig);
}

static void what_all_see_is_told_to_all(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig);
    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    told(&rig, &rig.a);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, COMMON, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(told(&rig, &rig.a), EVENT_NS);
    assert_int_equal(word(&rig.a, 0), COMMON);
    assert_int_equal(told(&rig, &rig.b), EVENT_NS);
    assert_int_equal(list(&rig, &rig.a, NVME_CNS_ACTIVE_NS), 1);
    assert_int_equal(list(&rig, &rig.b, NVME_CNS_ACTIVE_NS), 0);
    close_rig(&rig);
}

/* A host that comes between two images misses nothing, though nobody kept what it did not see yet. */
static void a_host_that_comes_while_it_loses_a_namespace_is_told(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig);
    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    disconnect(&rig, &rig.a);
    detach(&rig, HOST_A);
    const struct plx_nvmf_ns_opts opts = {.nsid = 5};
    struct test_disk *more = test_disk_new();
    more->bdev.info.write_cache = false;
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &more->bdev, &opts, NULL), 5);
    plx_nvmf_target_apply(rig.t, over, &rig);
    while (rig.t->apply.step != NVMF_APPLY_OPEN)
        plx_reactor_poll(rig.reactor);
    struct answer a = {0};
    calls_connect(&rig.a.admin, &rig.t->groups[0], 0);
    calls_fabrics_connect(&rig.a.admin, NQN, HOST_A, 0, 0, &rig.a.data, answered, &a);
    while (!a.here)
        plx_reactor_poll(rig.reactor);
    bool old = rig.t->groups[0].snap != rig.t->apply.next;
    assert_int_equal(outcome(&rig), 0);
    assert_true(old);
    calls_enable(&rig.a.admin, true, answered, &a);
    settle(&rig);
    assert_int_equal(get_log(&rig, &rig.a, NVME_LOG_CHANGED_NS), 0);
    assert_int_equal(word(&rig.a, 0), SECRET);
    assert_int_equal(word(&rig.a, 4), 5);
    assert_int_equal(apply(&rig), 0);
    rig.a.io.gone = true;
    disconnect(&rig, &rig.a);
    close_rig(&rig);
    plx_bdev_close(&more->bdev);
}

static void hosts_that_have_gone_are_forgotten(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig);
    attach(&rig, HOST_A);
    attach(&rig, HOST_B);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(rig.s->nviewers, 2);
    detach(&rig, HOST_A);
    detach(&rig, HOST_B);
    assert_int_equal(apply(&rig), 0);
    disconnect(&rig, &rig.a);
    rig.s->dirty = true;
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(rig.s->nviewers, 1); /* B is here yet */
    close_rig(&rig);
}

static void a_subsystem_that_is_removed_takes_its_hosts_along(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig);
    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    plx_nvmf_subsystem_remove(rig.s);
    assert_int_equal(apply(&rig), 0);
    assert_true(rig.a.io.gone && rig.b.io.gone);
    close_rig(&rig);
}

static void a_disk_that_cannot_be_opened_is_attached_to_nobody(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *bad = test_disk_new();
    const uint8_t uuid[16] = {9};
    const struct plx_nvmf_ns_opts opts = {.nsid = 3, .uuid = uuid, .no_auto_visible = true};
    open_rig(&rig);
    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    told(&rig, &rig.a);
    bad->refuse = rig.reactor;
    bad->open_result = -EIO;
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &bad->bdev, &opts, NULL), 3);
    assert_int_equal(plx_nvmf_ns_add_host(rig.s, 3, HOST_A, NULL), 0);
    assert_int_equal(apply(&rig), -EIO);
    assert_int_equal(told(&rig, &rig.a), 0);
    assert_int_equal(list(&rig, &rig.a, NVME_CNS_ACTIVE_NS), 2);
    assert_int_equal(list(&rig, &rig.a, NVME_CNS_ALLOCATED_NS), 2);
    bad->refuse = NULL;
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &bad->bdev, &opts, NULL), 3);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(list(&rig, &rig.a, NVME_CNS_ACTIVE_NS), 2);
    bad->bdev.info.write_cache = false;
    close_rig(&rig);
    plx_bdev_close(&bad->bdev);
}

/* Whatever was made before memory ran out, both hosts see, and are told, what the next apply says. */
static void an_apply_without_memory_is_made_up_for_by_the_next(void **state)
{
    (void)state;
    struct rig rig;
    unsigned failures = 0;
    open_rig(&rig);
    attach(&rig, HOST_B);
    assert_int_equal(apply(&rig), 0);
    for (unsigned n = 1; failures == n - 1; n++) {
        struct host *gets = n % 2 ? &rig.a : &rig.b, *loses = n % 2 ? &rig.b : &rig.a;
        attach(&rig, n % 2 ? HOST_A : HOST_B);
        detach(&rig, n % 2 ? HOST_B : HOST_A);
        told(&rig, &rig.a);
        told(&rig, &rig.b);
        failalloc_at(n);
        int ret = apply(&rig);
        failures += failalloc_failed();
        failalloc_at(0);
        assert_true(ret == 0 || (ret == -ENOMEM && failures == n));
        assert_int_equal(apply(&rig), 0);
        sees_both(&rig, gets);
        sees_nothing(&rig, loses);
        assert_int_equal(told(&rig, gets), EVENT_NS);
        assert_int_equal(told(&rig, loses), EVENT_NS);
    }
    assert_true(failures >= 8);
    close_rig(&rig);
}

static void count(void *arg, const char *hostnqn)
{
    *(unsigned *)arg += strcmp(hostnqn, HOST_A) == 0 ? 1 : 100;
}

static void mistakes_are_told_in_a_sentence(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_error err;
    unsigned hosts = 0;
    open_rig(&rig);
    assert_int_equal(plx_nvmf_ns_add_host(rig.s, 9, HOST_A, &err), -ENOENT);
    assert_string_equal(err.text, NQN " has no namespace 9");
    assert_int_equal(plx_nvmf_ns_add_host(rig.s, COMMON, HOST_A, &err), -EINVAL);
    assert_string_equal(err.text, "namespace 1 of " NQN " is visible to every host; add it with no_auto_visible");
    assert_int_equal(plx_nvmf_ns_remove_host(rig.s, COMMON, HOST_A, &err), -EINVAL);
    assert_int_equal(plx_nvmf_ns_add_host(rig.s, SECRET, "a", &err), -EINVAL);
    assert_int_equal(plx_nvmf_ns_remove_host(rig.s, SECRET, HOST_A, &err), -ENOENT);
    assert_string_equal(err.text, "namespace 2 is not attached to host " HOST_A);
    attach(&rig, HOST_A);
    assert_int_equal(plx_nvmf_ns_add_host(rig.s, SECRET, HOST_A, &err), -EEXIST);
    assert_string_equal(err.text, "namespace 2 is attached to host " HOST_A " already");
    plx_nvmf_ns_each_host(rig.s, SECRET, count, &hosts);
    assert_int_equal(hosts, 1);
    close_rig(&rig);
}

/* ---- what is in flight ---- */

static void commands_of_a_host_that_loses_a_namespace_end_and_those_of_others_go_on(void **state)
{
    (void)state;
    struct rig rig;
    struct answer mine, theirs, all;
    struct test_disk *more = test_disk_new();
    const struct plx_nvmf_ns_opts opts = {.nsid = 3};
    open_rig(&rig);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &more->bdev, &opts, NULL), 3);
    attach(&rig, HOST_A);
    attach(&rig, HOST_B);
    assert_int_equal(apply(&rig), 0);
    command(&rig, &rig.b, &rig.b.io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &theirs);
    command(&rig, &rig.a, &rig.a.io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &mine);
    command(&rig, &rig.a, &rig.a.io, io(NVME_IO_FLUSH, NVME_NSID_ALL), 0, &all);
    assert_int_equal(rig.disk->seen, 3);
    detach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0); /* and does not wait for what is flushed beside it */
    assert_int_equal(rig.disk->aborts, 2);
    assert_int_equal(status_of(&mine), INACTIVE);
    assert_int_equal(status_of(&all), PENDING);
    assert_true(test_disk_end(more, PLX_SC_SUCCESS));
    settle(&rig);
    assert_int_equal(status_of(&all), 0); /* of all that it sees */
    assert_int_equal(status_of(&theirs), PENDING);
    assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
    settle(&rig);
    assert_int_equal(status_of(&theirs), 0);
    more->bdev.info.write_cache = false;
    close_rig(&rig);
    plx_bdev_close(&more->bdev);
}

static void an_apply_waits_for_what_the_disk_does_for_a_host_that_lost_it(void **state)
{
    (void)state;
    struct rig rig;
    struct answer mine;
    open_rig(&rig);
    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    rig.disk->ignores_aborts = true;
    command(&rig, &rig.a, &rig.a.io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &mine);
    detach(&rig, HOST_A);
    assert_int_equal(apply(&rig), -EINPROGRESS); /* else it would land after whoever is next has begun */
    pass(&rig, 100);
    assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
    pass(&rig, 20);
    assert_int_equal(outcome(&rig), 0);
    assert_int_equal(status_of(&mine), 0); /* it was done */

    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    command(&rig, &rig.a, &rig.a.io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &mine);
    detach(&rig, HOST_A);
    assert_int_equal(apply(&rig), -EINPROGRESS);
    pass(&rig, LEAVE_MS + LATE_MS - 20);
    assert_int_equal(outcome(&rig), -EINPROGRESS);
    pass(&rig, 40);
    assert_int_equal(outcome(&rig), -ETIMEDOUT);
    assert_int_equal(apply(&rig), 0); /* nor keeps others waiting */
    assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
    settle(&rig);
    close_rig(&rig);
}

/* Of a host that is not let in any more, before that or with it, or has left: the connection does not say. */
static void an_apply_waits_for_what_closed_connections_have_left_at_the_disk(void **state)
{
    (void)state;
    enum { NOT_ALLOWED_BEFORE, NOT_ALLOWED_NOW, LEFT, WAYS };
    for (int way = 0; way < WAYS; way++) {
        struct rig rig;
        struct answer mine;
        open_rig(&rig);
        attach(&rig, HOST_A);
        assert_int_equal(apply(&rig), 0);
        rig.disk->ignores_aborts = true;
        command(&rig, &rig.a, &rig.a.io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &mine);
        if (way == LEFT) {
            calls_close(&rig.a.admin);
            pass(&rig, NVMF_ORPHAN_MS + 20);
            assert_true(rig.a.admin.gone && rig.a.io.gone);
        } else {
            assert_int_equal(plx_nvmf_subsystem_allow_host(rig.s, HOST_B, NULL), 0);
            plx_nvmf_subsystem_allow_any_host(rig.s, false);
        }
        if (way == NOT_ALLOWED_BEFORE)
            assert_int_equal(apply(&rig), 0);
        detach(&rig, HOST_A);
        attach(&rig, HOST_B);
        assert_int_equal(apply(&rig), -EINPROGRESS);
        pass(&rig, 100);
        assert_int_equal(outcome(&rig), -EINPROGRESS);
        assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
        pass(&rig, 20);
        assert_int_equal(outcome(&rig), 0);
        sees_both(&rig, &rig.b);
        close_rig(&rig);
    }
}

/* What a hung disk has of a host that lost it, or left, is waited for where that disk is taken, and nowhere else. */
static void an_apply_waits_for_no_other_namespace_than_those_that_are_taken(void **state)
{
    (void)state;
    struct rig rig;
    struct answer mine, theirs;
    struct test_disk *more = test_disk_new();
    const uint8_t uuid[16] = {3};
    const struct plx_nvmf_ns_opts opts = {.nsid = 3, .uuid = uuid, .no_auto_visible = true};
    open_rig(&rig);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &more->bdev, &opts, NULL), 3);
    attach(&rig, HOST_A);
    attach(&rig, HOST_B);
    assert_int_equal(plx_nvmf_ns_add_host(rig.s, 3, HOST_A, NULL), 0);
    assert_int_equal(plx_nvmf_ns_add_host(rig.s, 3, HOST_B, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    rig.disk->ignores_aborts = true;
    command(&rig, &rig.a, &rig.a.io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &mine);
    command(&rig, &rig.b, &rig.b.io, io(NVME_IO_WRITE, SECRET), IO_BYTES, &theirs);
    detach(&rig, HOST_A);
    assert_int_equal(apply(&rig), -EINPROGRESS);
    pass(&rig, LEAVE_MS + LATE_MS + 20);
    assert_int_equal(outcome(&rig), -ETIMEDOUT);
    calls_close(&rig.b.admin);
    pass(&rig, NVMF_ORPHAN_MS + 20);
    assert_true(rig.b.io.gone);

    assert_int_equal(plx_nvmf_ns_remove_host(rig.s, 3, HOST_A, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(status_of(&mine), PENDING);

    detach(&rig, HOST_B); /* as the write of A is there yet, too */
    assert_int_equal(apply(&rig), -EINPROGRESS);
    assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
    pass(&rig, 20);
    assert_int_equal(outcome(&rig), -EINPROGRESS);
    assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
    pass(&rig, 20);
    assert_int_equal(outcome(&rig), 0);
    more->bdev.info.write_cache = false;
    close_rig(&rig);
    plx_bdev_close(&more->bdev);
}

/* ---- ANA groups ---- */

static void a_namespace_that_changes_its_group_is_told_of_by_both_events(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_error err;
    uint32_t first, second;
    open_rig(&rig);
    assert_int_equal(plx_nvmf_subsystem_set_ns_ana_group(rig.s, 9, 2, &err), -ENOENT);
    assert_int_equal(plx_nvmf_subsystem_set_ns_ana_group(rig.s, COMMON, 129, &err), -EINVAL);
    assert_string_equal(err.text, "ANA groups are 1 to 128, not 129");
    attach(&rig, HOST_A);
    assert_int_equal(apply(&rig), 0);
    told(&rig, &rig.a);
    assert_int_equal(plx_nvmf_subsystem_set_ns_ana_group(rig.s, SECRET, 2, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    first = told(&rig, &rig.a);
    second = told(&rig, &rig.a);
    assert_int_equal(first, EVENT_NS);
    assert_int_equal(second, EVENT_ANA);
    assert_int_equal(word(&rig.a, 8) & 0xffff, 2);
    assert_int_equal(told(&rig, &rig.b), 0);
    assert_int_equal(identify(&rig, &rig.a, NVME_CNS_NS, SECRET), 0);
    assert_int_equal(word(&rig.a, 92), 2);

    /* Back to where another one is: no group has another state, but it has. */
    assert_int_equal(plx_nvmf_subsystem_set_ns_ana_group(rig.s, SECRET, 1, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(told(&rig, &rig.a), EVENT_NS);
    assert_int_equal(told(&rig, &rig.a), EVENT_ANA);
    assert_int_equal(ana_namespaces(&rig, &rig.a), 2);
    assert_int_equal(plx_nvmf_subsystem_set_ns_ana_group(rig.s, SECRET, 1, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(told(&rig, &rig.a), 0);
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_namespace_is_seen_by_the_hosts_it_is_attached_to),
        cmocka_unit_test(a_namespace_identifier_that_is_used_again_is_attached_to_nobody),
        cmocka_unit_test(health_counts_what_its_host_sees),
        cmocka_unit_test(exactly_the_hosts_for_whom_something_changed_are_told),
        cmocka_unit_test(what_all_see_is_told_to_all),
        cmocka_unit_test(a_host_that_comes_while_it_loses_a_namespace_is_told),
        cmocka_unit_test(hosts_that_have_gone_are_forgotten),
        cmocka_unit_test(a_subsystem_that_is_removed_takes_its_hosts_along),
        cmocka_unit_test(a_disk_that_cannot_be_opened_is_attached_to_nobody),
        cmocka_unit_test(an_apply_without_memory_is_made_up_for_by_the_next),
        cmocka_unit_test(mistakes_are_told_in_a_sentence),
        cmocka_unit_test(commands_of_a_host_that_loses_a_namespace_end_and_those_of_others_go_on),
        cmocka_unit_test(an_apply_waits_for_what_the_disk_does_for_a_host_that_lost_it),
        cmocka_unit_test(an_apply_waits_for_what_closed_connections_have_left_at_the_disk),
        cmocka_unit_test(an_apply_waits_for_no_other_namespace_than_those_that_are_taken),
        cmocka_unit_test(a_namespace_that_changes_its_group_is_told_of_by_both_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
