/* SPDX-License-Identifier: BSD-3-Clause */
/* Registers: enabling, disabling, shutdown, resets, and who touches what in the meantime. Base 3.1.4, 3.5, 3.6, 3.7 */
#include "pcie_model_impl.h"

#include <string.h>

enum {
    CC_SHN_MASK = 3 << 14,
    CC_MAY_CHANGE = CC_SHN_MASK | 0xff << 16, /* while it is enabled: SHN, and entry sizes until there are queues */
    /*
     * A bit that hosts write as zero. While RDY = 0 a host may disable and enable again between two steps: that ASQ has
     * been written is what there is to see of it.
     */
    ASQ_SEEN = 1,
};

static unsigned pm_field(uint32_t reg, unsigned shift, unsigned bits)
{
    return reg >> shift & ((1u << bits) - 1);
}

/* ---- doorbells ---- */

uint32_t pm_bell_take(uint32_t *bell)
{
    if (__atomic_load_n(bell, __ATOMIC_ACQUIRE) == PM_BELL_NONE)
        return PM_BELL_NONE;
    return __atomic_exchange_n(bell, PM_BELL_NONE, __ATOMIC_ACQ_REL);
}

static uint32_t *pm_bell(struct pcie_model *m, unsigned i)
{
    return (uint32_t *)(void *)(m->bar + PM_BELLS + (size_t)i * (4u << m->o.dstrd));
}

static void pm_bells_clear(struct pcie_model *m)
{
    for (unsigned i = 0; i < 2u * (m->o.queues + 1u); i++)
        __atomic_store_n(pm_bell(m, i), PM_BELL_NONE, __ATOMIC_RELEASE);
}

/* None of them may have been written. */
static void pm_bells_still(struct pcie_model *m, const char *when)
{
    for (unsigned i = 0; i < 2u * (m->o.queues + 1u); i++) {
        uint32_t v = pm_bell_take(pm_bell(m, i));
        if (v != PM_BELL_NONE)
            pm_complain(&m->complaints, "%s queue %u: doorbell written (%u) %s", i % 2 ? "completion" : "submission",
                        i / 2, v, when);
    }
}

/* Nor anything that is between doorbells, or after them. */
static void pm_gaps_still(struct pcie_model *m)
{
    const size_t stride = 4u << m->o.dstrd, bells = 2 * (m->o.queues + (size_t)1) * stride;
    for (size_t at = 0; at < m->bar_bytes - PM_BELLS; at += 4) {
        uint32_t *word = (uint32_t *)(void *)(m->bar + PM_BELLS + at);
        if ((at < bells && at % stride == 0) || pm_bell_take(word) == PM_BELL_NONE)
            continue;
        pm_complain(&m->complaints, "offset 0x%zx written, where there is no doorbell", PM_BELLS + at);
    }
}

/* ---- ends ---- */

static void pm_queues_clear(struct pcie_model *m)
{
    memset(m->sqs, 0, sizeof m->sqs);
    memset(m->cqs, 0, sizeof m->cqs);
    memset(m->cids, 0, PM_QUEUES_MAX * sizeof *m->cids);
    memset(m->pending, 0, sizeof m->pending);
    memset(m->raise, 0, sizeof m->raise);
    m->dbbuf = false;
    m->granted_sqs = m->granted_cqs = 1;
    m->events = m->masked = m->nchanged = 0;
}

/* What it has, it does without an answer, at the last moment at which it may. */
static void pm_drop_commands(struct pcie_model *m, bool land)
{
    for (struct pm_cmd *c = m->first, *next; c; c = next) {
        const bool moves_data = c->sqid || c->sqe.opcode == PM_IDENTIFY || c->sqe.opcode == PM_LOG_PAGE;
        if (land && moves_data && !c->done && !c->waits && !c->gone)
            pm_run(m, c);
        next = c->next;
        c->next = m->spare;
        m->spare = c;
    }
    m->first = NULL;
    m->last = &m->first;
}

static uint64_t pm_hash_of(struct pcie_model *m, const struct pm_queue *q, unsigned entry, uint64_t hash)
{
    const size_t bytes = (size_t)q->size * entry;
    if (!q->live)
        return hash;
    for (size_t at = 0; at < bytes; at += 4096) {
        size_t n = bytes - at < 4096 ? bytes - at : 4096;
        const uint8_t *p = pm_at(m, q->base + at, n, "queue");
        for (size_t i = 0; p && i < n; i += 8) {
            uint64_t v;
            memcpy(&v, p + i, 8);
            hash = (hash ^ v) * UINT64_C(0x9e3779b97f4a7c15);
            hash ^= hash >> 29;
        }
    }
    return hash;
}

static uint64_t pm_hash(struct pcie_model *m)
{
    uint64_t hash = 1;
    for (unsigned i = 0; i < PM_QUEUES_MAX; i++) {
        hash = pm_hash_of(m, &m->sqs[i], sizeof(struct nvme_cmd), hash);
        hash = pm_hash_of(m, &m->cqs[i], sizeof(struct nvme_cqe), hash);
    }
    return hash;
}

void pm_stopped(struct pcie_model *m, bool land)
{
    if (m->state == PM_STOPPING && land && pm_hash(m) != m->hash)
        pm_complain(&m->complaints, "queues written to between EN = 0 and RDY = 0");
    pm_drop_commands(m, land);
    pm_queues_clear(m);
    pm_bells_clear(m);
    pm_features_reset(m);
    m->state = PM_OFF;
    m->halted = false;
    m->ready_at = m->shutdown_at = PM_NEVER;
}

static void pm_registers_init(struct pcie_model *m)
{
    const struct pcie_model_opts *o = &m->o;
    m->cap_low = o->mqes | (uint32_t)!o->loose << 16 | (uint32_t)o->weighted << 17 | (uint32_t)o->to << 24;
    m->cap_high = o->dstrd | (uint32_t)o->nssrs << 4 | (uint32_t)o->css << 5 | (uint32_t)o->mpsmin << 16 |
                  (uint32_t)o->mpsmax << 20 | (uint32_t)(o->cmb_kib && !o->cmb_fixed) << 25 | (uint32_t)o->crwms << 27 |
                  (uint32_t)o->crims << 28;
    for (uint32_t at = 0; at < PM_BELLS; at += 4)
        pm_put(m, at, 0);
    pm_put(m, PM_CAP, m->cap_low);
    pm_put(m, PM_CAP + 4, m->cap_high);
    pm_put(m, PM_VS, o->version);
    pm_put(m, PM_CRTO, o->crto);
    if (o->cmb_kib) { /* CMBLOC: BAR 2, two units of 4 KiB into it; CMBSZ: of such units, for submission queues */
        pm_put(m, PM_CMBLOC, 2 | PM_CMB_OFFSET / 4096 << 12);
        pm_put(m, PM_CMBSZ, 1 | o->cmb_kib / 4 << 12);
        pm_put(m, PM_CMBSTS, o->cmb_elsewhere);
    }
    m->cc = m->csts = 0;
}

void pm_reset_all(struct pcie_model *m)
{
    pm_stopped(m, true);
    pm_registers_init(m);
    for (unsigned v = 0; v < m->o.vectors; v++)
        __atomic_store_n((uint32_t *)(void *)(m->msix + v * PCI_MSIX_ENTRY + PCI_MSIX_CONTROL), 0, __ATOMIC_RELEASE);
    m->awake_at = m->o.asleep ? m->steps + m->o.asleep : 0;
    if (m->awake_at)
        pm_fill(m->bar, PM_BELLS, ~0u);
}

bool pm_asleep(struct pcie_model *m)
{
    if (!m->awake_at)
        return false;
    if (m->steps < m->awake_at)
        return true;
    m->awake_at = 0;
    pm_registers_init(m);
    return false;
}

/* ---- enabling and disabling ---- */

/* What is wrong with it, or NULL. */
static const char *pm_refuse(const struct pcie_model *m, uint32_t cc)
{
    const struct pcie_model_opts *o = &m->o;
    const uint32_t aqa = pm_get(m, PM_AQA);
    const unsigned mps = pm_field(cc, 7, 4), css = pm_field(cc, 4, 3);
    const uint64_t page = UINT64_C(1) << (12 + mps);
    const uint64_t asq = (pm_get(m, PM_ASQ) & ~(uint32_t)ASQ_SEEN) | (uint64_t)pm_get(m, PM_ASQ + 4) << 32;
    const uint64_t acq = pm_get(m, PM_ACQ) | (uint64_t)pm_get(m, PM_ACQ + 4) << 32;
    return mps < o->mpsmin || mps > o->mpsmax                ? "CC.MPS is out of range"
           : css == 0 && !(o->css & 1)                       ? "CC.CSS: there is no NVM command set"
           : css == 6 && !(o->css & 1 << 6)                  ? "CC.CSS: there are not several command sets"
           : css == 7 && !(o->css & 1 << 7)                  ? "CC.CSS: not without a command set"
           : css != 0 && css < 6                             ? "CC.CSS is reserved"
           : pm_field(cc, 11, 3) > o->weighted               ? "CC.AMS is not supported"
           : (cc & PM_CC_CRIME) && !o->crims                 ? "CC.CRIME is not supported"
           : (cc & 0xfe000000) || (cc & 0xe)                 ? "CC has reserved bits set"
           : pm_field(cc, 14, 2)                             ? "CC.SHN is set as it is enabled"
           : !pm_field(aqa, 0, 12) || !pm_field(aqa, 16, 12) ? "AQA: a queue of one entry"
           : aqa & 0xf000f000                                ? "AQA has reserved bits set"
           : asq % page || acq % page                        ? "ASQ or ACQ is not aligned to CC.MPS"
                                                             : NULL;
}

static void pm_enable(struct pcie_model *m, uint32_t cc)
{
    const char *why = pm_refuse(m, cc);
    const uint32_t aqa = pm_get(m, PM_AQA);
    const unsigned ns = pm_field(aqa, 0, 12) + 1, nc = pm_field(aqa, 16, 12) + 1;
    const uint64_t asq = (pm_get(m, PM_ASQ) & ~(uint32_t)ASQ_SEEN) | (uint64_t)pm_get(m, PM_ASQ + 4) << 32;
    const uint64_t acq = pm_get(m, PM_ACQ) | (uint64_t)pm_get(m, PM_ACQ + 4) << 32;
    uint32_t slow = 0;
    m->page = (size_t)1 << (12 + pm_field(cc, 7, 4));
    m->state = PM_STARTING;
    m->enables++;
    pm_put(m, PM_ASQ, (uint32_t)asq | ASQ_SEEN);
    if (!why && (!pm_mapped(m, asq, ns * sizeof(struct nvme_cmd)) || !pm_mapped(m, acq, nc * sizeof(struct nvme_cqe))))
        why = "ASQ or ACQ is not mapped";
    if (why || pm_fault_now(m, PCIE_MODEL_FATAL_ENABLE, NULL)) {
        if (why)
            pm_complain(&m->complaints, "%s (CC 0x%08x, AQA 0x%08x)", why, cc, aqa);
        pm_fatal(m);
        return;
    }
    pm_queue_start(m, 0, false, asq, ns);
    pm_queue_start(m, 0, true, acq, nc)->armed = true;
    pm_fault_now(m, PCIE_MODEL_RDY_SLOW, &slow);
    m->ready_at = pm_fault_now(m, PCIE_MODEL_RDY_NEVER, NULL) ? PM_NEVER : m->steps + m->o.rdy_on + slow;
}

static void pm_disable(struct pcie_model *m)
{
    uint32_t slow = 0;
    if (!(m->csts & PM_CSTS_RDY)) { /* its host sees nothing that it would have to wait for */
        pm_stopped(m, true);
        pm_set_csts(m, 0);
        return;
    }
    m->hash = pm_hash(m);
    m->state = PM_STOPPING;
    pm_bells_clear(m);
    pm_fault_now(m, PCIE_MODEL_RDY_SLOW_OFF, &slow);
    m->ready_at = pm_fault_now(m, PCIE_MODEL_RDY_STUCK, NULL) ? PM_NEVER : m->steps + m->o.rdy_off + slow;
}

static void pm_control(struct pcie_model *m, uint32_t cc)
{
    const uint32_t old = m->cc;
    m->cc = cc;
    if ((cc & ~old) & PM_CC_EN) {
        if (m->state != PM_OFF) {
            pm_complain(&m->complaints, "enabled before RDY came down");
            pm_stopped(m, true);
            pm_set_csts(m, 0);
        }
        pm_enable(m, cc);
    } else if ((old & ~cc) & PM_CC_EN) {
        pm_disable(m);
    } else if (cc & PM_CC_EN) {
        if ((cc ^ old) & ~(uint32_t)CC_MAY_CHANGE)
            pm_complain(&m->complaints, "CC changed from 0x%08x to 0x%08x while it is enabled", old, cc);
        if ((cc & ~old) & CC_SHN_MASK) {
            pm_set_csts(m, m->csts | PM_CSTS_SHST_BUSY);
            m->shutdown_at = pm_fault_now(m, PCIE_MODEL_SHUTDOWN_STUCK, NULL) ? PM_NEVER : m->steps + m->o.shutdown;
        }
    }
}

/* What is to come by itself. */
static unsigned pm_timers(struct pcie_model *m)
{
    unsigned n = 0;
    if (m->ready_at != PM_NEVER && ++n && m->steps >= m->ready_at) {
        m->ready_at = PM_NEVER;
        if (m->state == PM_STARTING) {
            m->state = PM_READY;
            pm_set_csts(m, m->csts | PM_CSTS_RDY);
        } else {
            pm_stopped(m, true);
            pm_set_csts(m, m->csts & PM_CSTS_NSSRO);
        }
    }
    if (m->shutdown_at != PM_NEVER && ++n && m->steps >= m->shutdown_at) {
        m->shutdown_at = PM_NEVER;
        m->halted = true;
        pm_set_csts(m, (m->csts & ~(uint32_t)PM_CSTS_SHST_BUSY) | PM_CSTS_SHST_DONE);
    }
    return n;
}

/* ---- all of them ---- */

static void pm_read_only(struct pcie_model *m, uint32_t at, uint32_t value, const char *name)
{
    const uint32_t is = pm_get(m, at);
    if (is == value)
        return;
    pm_complain(&m->complaints, "%s written: 0x%08x", name, is);
    pm_put(m, at, value);
}

static void pm_look_at_csts(struct pcie_model *m)
{
    if ((m->csts & PM_CSTS_NSSRO) && pm_get(m, PM_CSTS) == PM_CSTS_NSSRO)
        pm_set_csts(m, m->csts & ~(uint32_t)PM_CSTS_NSSRO); /* written with a one */
    pm_read_only(m, PM_CSTS, m->csts, "CSTS");
}

unsigned pm_look_at_registers(struct pcie_model *m)
{
    pm_read_only(m, PM_CAP, m->cap_low, "CAP");
    pm_read_only(m, PM_CAP + 4, m->cap_high, "CAP");
    pm_read_only(m, PM_VS, m->o.version, "VS");
    if (m->nfds) { /* without MSI-X, it would be INTx that they mask */
        pm_read_only(m, PM_INTMS, 0, "INTMS, with MSI-X,");
        pm_read_only(m, PM_INTMC, 0, "INTMC, with MSI-X,");
    }
    pm_read_only(m, PM_CRTO, m->o.crto, "CRTO");
    pm_look_at_csts(m);
    if (pm_get(m, PM_NSSR) == PM_NSSR_MAGIC && m->o.nssrs) {
        pm_reset_all(m);
        pm_set_csts(m, PM_CSTS_NSSRO);
        return 1;
    }
    pm_read_only(m, PM_NSSR, 0, "NSSR");
    const uint32_t cc = pm_get(m, PM_CC);
    const bool changed = cc != m->cc;
    if (m->state == PM_STOPPING)
        pm_bells_still(m, "between EN = 0 and RDY = 0");
    else if (m->state == PM_STARTING)
        pm_bells_still(m, "before RDY = 1");
    else if (m->state == PM_OFF)
        pm_bells_still(m, "while it is disabled");
    if (m->steps % 64 == 0)
        pm_gaps_still(m);
    const bool asq_written = (m->state == PM_STARTING || m->state == PM_READY) && !(pm_get(m, PM_ASQ) & ASQ_SEEN);
    if (changed) {
        pm_control(m, cc);
    } else if (asq_written && m->state == PM_STARTING) {
        pm_disable(m);
        pm_enable(m, cc);
    } else if (asq_written) {
        pm_complain(&m->complaints, "ASQ written while it is enabled");
        pm_put(m, PM_ASQ, pm_get(m, PM_ASQ) | ASQ_SEEN);
    }
    return changed + pm_timers(m);
}
