/* SPDX-License-Identifier: BSD-3-Clause */
#include "pcie_model_impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

const struct pcie_model_opts pcie_model_defaults = {
    .addr = "0000:01:00.0",
    .serial = "MODEL0001",
    .model = "Pollux model controller",
    .subnqn = "nqn.2024-01.com.example:model",
    .vendor = 0x1b36,
    .device = 0x0010,
    .version = 0x00010400,
    .mqes = 1023,
    .to = 20,
    .mpsmax = 4,
    .css = 1,
    .rdy_on = 2,
    .rdy_off = 2,
    .shutdown = 2,
    .burst = 32,
    .queues = 8,
    .vectors = 9,
    .mdts = 5,
    .acl = 3,
    .aerl = 3,
    .vwc = 0x07,
    .lpa = 0x06,
    .elpe = 15,
    .fuses = 1,
    .sqes = 0x66,
    .cqes = 0x44,
    .msrc = 3,
    .mssrl = 64,
    .mcl = 128,
    .oacs = PCIE_MODEL_OACS_FORMAT,
    .oncs = PCIE_MODEL_ONCS_COMPARE | PCIE_MODEL_ONCS_DSM | PCIE_MODEL_ONCS_WRITE_ZEROES | PCIE_MODEL_ONCS_SAVE |
            PCIE_MODEL_ONCS_VERIFY | PCIE_MODEL_ONCS_COPY,
    .sgls = 1 | 1 << 18,
    .oaes = 1 << 8,
    .temperature = 310,
    .max_sgl = 256,
    .random_kinds = ~(1u << PCIE_MODEL_GONE),
    .random_odds = 200,
    .nns = 1,
    .ns = {{.nsid = 1, .block_bits = 9, .blocks = 131072}},
};

static pthread_mutex_t models_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pcie_model *models;

static void pm_must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "pcie_model: %s\n", what);
    abort();
}

void pm_complain(struct pcie_model_complaints *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (c->n < PCIE_MODEL_COMPLAINTS)
        vsnprintf(c->text[c->n], sizeof c->text[0], fmt, ap);
    va_end(ap);
    c->n++;
}

uint32_t pm_random(uint64_t *state, uint32_t n)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(((*state >> 32) * n) >> 32);
}

static uint32_t *pm_register(const struct pcie_model *m, uint32_t offset)
{
    return (uint32_t *)(void *)(m->bar + offset);
}

uint32_t pm_get(const struct pcie_model *m, uint32_t offset)
{
    return __atomic_load_n(pm_register(m, offset), __ATOMIC_ACQUIRE);
}

void pm_put(struct pcie_model *m, uint32_t offset, uint32_t value)
{
    __atomic_store_n(pm_register(m, offset), value, __ATOMIC_RELEASE);
}

void pm_set_csts(struct pcie_model *m, uint32_t csts)
{
    m->csts = csts;
    pm_put(m, PM_CSTS, csts);
}

void pm_fatal(struct pcie_model *m)
{
    m->halted = true;
    pm_set_csts(m, m->csts | PM_CSTS_CFS);
}

void pm_fill(uint8_t *at, size_t bytes, uint32_t value)
{
    for (size_t i = 0; i < bytes; i += 4)
        __atomic_store_n((uint32_t *)(void *)(at + i), value, __ATOMIC_RELAXED);
}

static void pm_lock(struct pcie_model *m)
{
    pthread_mutex_lock(&m->lock);
    pthread_mutex_lock(&m->iommu->lock);
}

static void pm_unlock(struct pcie_model *m)
{
    pthread_mutex_unlock(&m->iommu->lock);
    pthread_mutex_unlock(&m->lock);
}

void pm_pull(struct pcie_model *m)
{
    m->removed = true;
    if (!m->function || m->pulled)
        return;
    m->pulled = true;
    pm_stopped(m, false);
    pm_fill(m->bar, m->bar_bytes, ~0u);
    pm_fill(m->msix, m->msix_bytes, ~0u);
    eventfd_write(m->lost_fd, 1);
}

/* ---- the function ---- */

static struct pcie_model *pm_of(const struct pci_function *f)
{
    struct pcie_model *m;
    pthread_mutex_lock(&models_lock);
    for (m = models; m && m->function != f; m = m->next)
        ;
    pthread_mutex_unlock(&models_lock);
    pm_must(m, "a function is used that is not open");
    return m;
}

static void pm_vectors_drop(struct pcie_model *m)
{
    for (unsigned v = 0; v < m->nfds; v++)
        close(m->fds[v]);
    m->nfds = 0;
    memset(m->pending, 0, sizeof m->pending);
    memset(m->raise, 0, sizeof m->raise);
}

static int pm_reset(struct pci_function *f)
{
    struct pcie_model *m = pm_of(f);
    int r = 0;
    pm_lock(m);
    if (m->pulled)
        r = -ENODEV;
    else if (pm_fault_now(m, PCIE_MODEL_RESET_FAILS, NULL))
        r = -EIO;
    else
        pm_reset_all(m);
    m->resets += r == 0;
    pm_unlock(m);
    return r;
}

static int pm_set_vectors(struct pci_function *f, const int *fds, unsigned n)
{
    struct pcie_model *m = pm_of(f);
    int r = 0;
    pm_lock(m);
    if (n > m->o.vectors)
        r = -EINVAL;
    else if (n && pm_fault_now(m, PCIE_MODEL_VECTORS_FAIL, NULL))
        r = -ENOSPC;
    else
        pm_vectors_drop(m);
    for (unsigned v = 0; r == 0 && v < n; v++) {
        m->fds[v] = dup(fds[v]);
        pm_must(m->fds[v] >= 0, "a vector's eventfd is none");
        m->nfds = v + 1;
    }
    if (r == 0 && !m->pulled)
        pm_fill(m->msix, m->msix_bytes, 0);
    pm_unlock(m);
    return r;
}

static void pm_close(struct pci_function *f)
{
    struct pcie_model *m = pm_of(f);
    pthread_mutex_lock(&models_lock);
    pm_lock(m);
    if (!m->pulled)
        pm_reset_all(m);
    pm_vectors_drop(m);
    m->function = NULL;
    close(m->lost_fd);
    munmap(m->bar, m->mapping_bytes);
    close(m->bar_fd);
    m->bar = m->msix = NULL;
    pm_unlock(m);
    pthread_mutex_unlock(&models_lock);
    free(f);
}

static int pm_map_bar(struct pci_function *f, unsigned number, struct pci_bar *out)
{
    struct pcie_model *m = pm_of(f);
    pm_lock(m);
    const size_t bytes = m->o.cmb_kib ? PM_CMB_OFFSET + m->o.cmb_kib * (size_t)1024 : 0;
    *out = (struct pci_bar){m->cmb, bytes, PM_CMB_BUS};
    pm_unlock(m);
    return number == 2 && bytes ? 0 : -ENXIO;
}

static const struct pci_function_ops pm_ops = {
    .name = "model", .reset = pm_reset, .set_vectors = pm_set_vectors, .map_bar = pm_map_bar, .close = pm_close};

static int pm_start(struct pcie_model *m, struct pci_function **out, struct plx_error *err)
{
    struct pci_function *f = calloc(1, sizeof *f);
    const size_t bells = (size_t)2 * (m->o.queues + 1) * (4u << m->o.dstrd);
    if (!f)
        return plx_fail(err, -ENOMEM, "PCI function %s: no memory", m->addr);
    m->bar_bytes = plx_align_up(PM_BELLS + bells, 4096);
    m->msix_bytes = (size_t)m->o.vectors * PCI_MSIX_ENTRY;
    m->mapping_bytes = m->bar_bytes + plx_align_up(m->msix_bytes, 4096);
    m->bar_fd = memfd_create("bar", MFD_CLOEXEC);
    pm_must(m->bar_fd >= 0 && ftruncate(m->bar_fd, (off_t)m->mapping_bytes) == 0, "no memory file");
    m->bar = mmap(NULL, m->mapping_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->bar_fd, 0);
    m->lost_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    pm_must(m->bar != MAP_FAILED && m->lost_fd >= 0, "no memory");
    m->msix = m->bar + m->bar_bytes;
    m->pulled = m->zapped = false;
    pm_fill(m->bar + PM_BELLS, m->bar_bytes - PM_BELLS, PM_BELL_NONE);
    pm_reset_all(m);
    *f = (struct pci_function){
        .ops = &pm_ops,
        .iommu = &m->iommu->is,
        .vendor = m->o.vendor,
        .device = m->o.device,
        .regs = m->bar,
        .regs_bytes = m->o.regs_bytes ? m->o.regs_bytes : m->mapping_bytes,
        .vectors = m->o.vectors,
        .msix = m->o.no_msix_table || !m->o.vectors ? NULL : m->msix,
        .lost_fd = m->lost_fd,
    };
    memcpy(f->addr, m->addr, sizeof f->addr);
    *out = m->function = f;
    return 0;
}

int pcie_model_open(const char *addr, struct pci_function **out, struct plx_error *err)
{
    struct pcie_model *m;
    int r;
    pthread_mutex_lock(&models_lock);
    for (m = models; m && strcmp(m->addr, addr) != 0; m = m->next)
        ;
    if (!m) {
        pthread_mutex_unlock(&models_lock);
        return plx_fail(err, -ENODEV, "there is no such PCI function");
    }
    pm_lock(m);
    if (m->open_result)
        r = plx_fail(err, m->open_result, "%s", m->open_text);
    else if (m->function)
        r = plx_fail(err, -EBUSY, "it is in use by another process");
    else if (m->removed)
        r = plx_fail(err, -ENODEV, "there is no such PCI function");
    else
        r = pm_start(m, out, err);
    pm_unlock(m);
    pthread_mutex_unlock(&models_lock);
    return r;
}

void pcie_model_open_fails(struct pcie_model *m, int result, const char *text)
{
    pm_lock(m);
    m->open_result = text ? result : 0;
    snprintf(m->open_text, sizeof m->open_text, "%s", text ? text : "");
    pm_unlock(m);
}

/* ---- a model ---- */

static uint8_t *pm_reserve(size_t bytes)
{
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    pm_must(at != MAP_FAILED, "no memory");
    return at;
}

static void pm_media(struct pcie_model *m)
{
    m->nns = m->o.nns;
    for (unsigned i = 0; i < m->nns; i++) {
        struct pm_ns *ns = &m->ns[i];
        ns->is = m->o.ns[i];
        ns->medium_bytes = plx_max_u64(ns->is.max_bytes, plx_max_u64(ns->is.blocks << ns->is.block_bits, 4096));
        pm_must(!ns->is.zone_blocks || ns->is.blocks / ns->is.zone_blocks <= PM_ZONES_MAX,
                "more zones than a model has");
        pm_zones_init(ns);
        ns->medium = pm_reserve(ns->medium_bytes);
        ns->metadata_bytes = plx_max_u64(1, (ns->medium_bytes >> ns->is.block_bits) * ns->is.metadata);
        ns->metadata = pm_reserve(ns->metadata_bytes);
        if (ns->is.pi) /* nothing has been written */
            memset(ns->metadata, 0xff, ns->metadata_bytes);
    }
}

struct pcie_model *pcie_model_new(const struct pcie_model_opts *opts)
{
    struct pcie_model *m = calloc(1, sizeof *m);
    pm_must(m, "no memory");
    m->o = opts ? *opts : pcie_model_defaults;
    pm_must(m->o.queues < PM_QUEUES_MAX && m->o.vectors <= PM_VECTORS_MAX && m->o.nns <= PCIE_MODEL_NS_MAX &&
                m->o.elpe < PM_ERRORS,
            "more than a model has");
    snprintf(m->addr, sizeof m->addr, "%s", m->o.addr);
    pthread_mutex_init(&m->lock, NULL);
    m->own_iommu = !m->o.iommu;
    m->iommu = m->own_iommu ? pcie_model_iommu_new(NULL, 0, 0) : m->o.iommu;
    m->bounce_bytes = (size_t)65536 * 4096;
    m->bounce = pm_reserve(m->bounce_bytes);
    m->cmb = m->o.cmb_kib ? pm_reserve(PM_CMB_OFFSET + m->o.cmb_kib * (size_t)1024) : NULL;
    m->segs_max = 65536 + 2;
    m->segs = (void *)pm_reserve(m->segs_max * sizeof *m->segs);
    m->pool = calloc(PM_COMMANDS, sizeof *m->pool);
    m->cids = calloc(PM_QUEUES_MAX, sizeof *m->cids);
    pm_must(m->pool && m->cids, "no memory");
    m->last = &m->first;
    m->shuffle = 88172645463325252;
    pm_media(m);
    pthread_mutex_lock(&models_lock);
    m->next = models;
    models = m;
    pthread_mutex_unlock(&models_lock);
    return m;
}

void pcie_model_free(struct pcie_model *m)
{
    pcie_model_stop_thread(m);
    pm_must(!m->function, "freed while it is open");
    pthread_mutex_lock(&models_lock);
    struct pcie_model **at = &models;
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    pthread_mutex_unlock(&models_lock);
    for (unsigned i = 0; i < m->nns; i++)
        munmap(m->ns[i].medium, m->ns[i].medium_bytes), munmap(m->ns[i].metadata, m->ns[i].metadata_bytes);
    munmap(m->bounce, m->bounce_bytes);
    if (m->cmb)
        munmap(m->cmb, PM_CMB_OFFSET + m->o.cmb_kib * (size_t)1024);
    munmap(m->segs, m->segs_max * sizeof *m->segs);
    if (m->own_iommu)
        pcie_model_iommu_free(m->iommu);
    pthread_mutex_destroy(&m->lock);
    free(m->pool);
    free(m->cids);
    free(m);
}

/* ---- running ---- */

unsigned pcie_model_step(struct pcie_model *m)
{
    unsigned n = 0;
    pm_lock(m);
    m->steps++;
    if (m->function && m->pulled) {
        if (!m->zapped) {
            pm_fill(m->bar, m->bar_bytes, ~0u);
            pm_fill(m->msix, m->msix_bytes, ~0u);
        }
    } else if (m->function && pm_asleep(m)) {
        n = 1;
    } else if (m->function) {
        n = pm_look_at_registers(m);
        if (m->state == PM_READY)
            n += pm_run_queues(m);
        if (!m->pulled)
            n += pm_send_interrupts(m);
    }
    pm_unlock(m);
    return n;
}

void pcie_model_settle(struct pcie_model *m)
{
    while (pcie_model_step(m))
        ;
}

static void *pm_thread(void *arg)
{
    struct pcie_model *m = arg;
    while (!__atomic_load_n(&m->stop, __ATOMIC_RELAXED))
        if (!pcie_model_step(m))
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    return NULL;
}

void pcie_model_start_thread(struct pcie_model *m)
{
    m->stop = 0;
    m->threaded = true;
    pm_must(pthread_create(&m->thread, NULL, pm_thread, m) == 0, "no thread");
}

void pcie_model_stop_thread(struct pcie_model *m)
{
    if (!m->threaded)
        return;
    __atomic_store_n(&m->stop, 1, __ATOMIC_RELAXED);
    pthread_join(m->thread, NULL);
    m->threaded = false;
}

void pcie_model_remove(struct pcie_model *m)
{
    pm_lock(m);
    pm_pull(m);
    pm_unlock(m);
}

void pcie_model_zap(struct pcie_model *m)
{
    pm_lock(m);
    pm_pull(m);
    if (m->function) {
        m->zapped = true;
        pm_must(ftruncate(m->bar_fd, 0) == 0, "a file that does not shrink");
    }
    pm_unlock(m);
}

void pcie_model_put_back(struct pcie_model *m)
{
    pm_lock(m);
    m->removed = false;
    pm_unlock(m);
}

void pcie_model_ask_back(struct pcie_model *m)
{
    pm_lock(m);
    if (m->function)
        eventfd_write(m->lost_fd, 1);
    pm_unlock(m);
}

void pcie_model_spurious(struct pcie_model *m, unsigned vector)
{
    pm_lock(m);
    m->raise[vector] = true;
    pm_unlock(m);
}

void pcie_model_fail(struct pcie_model *m)
{
    pm_lock(m);
    if (m->function && !m->pulled)
        pm_fatal(m);
    pm_unlock(m);
}

void pcie_model_reset(struct pcie_model *m)
{
    pm_lock(m);
    pm_reset_all(m);
    pm_unlock(m);
}

/* ---- what there is to see ---- */

unsigned pcie_model_complaints(struct pcie_model *m)
{
    pm_lock(m);
    unsigned n = m->complaints.n + m->iommu->complaints.n;
    pm_unlock(m);
    return n;
}

const char *pcie_model_complaint(struct pcie_model *m, unsigned i)
{
    const char *text = "";
    pm_lock(m);
    const unsigned own = (unsigned)plx_min_u64(m->complaints.n, PCIE_MODEL_COMPLAINTS);
    const unsigned other = (unsigned)plx_min_u64(m->iommu->complaints.n, PCIE_MODEL_COMPLAINTS);
    if (i < own)
        text = m->complaints.text[i];
    else if (i - own < other)
        text = m->iommu->complaints.text[i - own];
    pm_unlock(m);
    return text;
}

void pcie_model_forgive(struct pcie_model *m)
{
    pm_lock(m);
    m->complaints.n = m->iommu->complaints.n = 0;
    pm_unlock(m);
}

static unsigned pm_see(struct pcie_model *m, const unsigned *what)
{
    pm_lock(m);
    unsigned n = *what;
    pm_unlock(m);
    return n;
}

unsigned pcie_model_count(struct pcie_model *m, unsigned qid, unsigned opcode)
{
    return pm_see(m, &m->count[qid != 0][opcode & 0xff]);
}

unsigned pcie_model_fua(struct pcie_model *m)
{
    return pm_see(m, &m->fua);
}

unsigned pcie_model_irqs(struct pcie_model *m)
{
    return pm_see(m, &m->irqs);
}

unsigned pcie_model_enables(struct pcie_model *m)
{
    return pm_see(m, &m->enables);
}

unsigned pcie_model_resets(struct pcie_model *m)
{
    return pm_see(m, &m->resets);
}

unsigned pcie_model_injected(struct pcie_model *m, enum pcie_model_kind kind)
{
    return pm_see(m, &m->injected[kind]);
}

int pcie_model_priority(struct pcie_model *m, unsigned qid)
{
    pm_lock(m);
    const int priority = m->cc >> 11 & 7 && m->sqs[qid].live ? m->sqs[qid].priority : -1;
    pm_unlock(m);
    return priority;
}

uint32_t pcie_model_feature(struct pcie_model *m, unsigned fid)
{
    return pm_see(m, &m->features[fid & 0xff]);
}

bool pcie_model_is_open(struct pcie_model *m)
{
    pm_lock(m);
    bool is = m->function;
    pm_unlock(m);
    return is;
}

unsigned pcie_model_own_queues(struct pcie_model *m)
{
    const uint64_t bytes = PM_CMB_OFFSET + m->o.cmb_kib * UINT64_C(1024);
    unsigned n = 0;
    pm_lock(m);
    for (unsigned i = 1; i < PM_QUEUES_MAX; i++)
        n += m->sqs[i].live && m->cmb && m->sqs[i].base - PM_CMB_BUS < bytes;
    pm_unlock(m);
    return n;
}

unsigned pcie_model_entries(struct pcie_model *m, unsigned qid)
{
    pm_lock(m);
    const unsigned n = m->sqs[qid].live ? m->sqs[qid].size : 0;
    pm_unlock(m);
    return n;
}

unsigned pcie_model_queues(struct pcie_model *m)
{
    unsigned n = 0;
    pm_lock(m);
    for (unsigned i = 1; i < PM_QUEUES_MAX; i++)
        n += m->sqs[i].live;
    pm_unlock(m);
    return n;
}
