/* SPDX-License-Identifier: BSD-3-Clause */
/* What the model does wrong. */
#include "pcie_model_impl.h"

static void pm_lock_faults(struct pcie_model *m)
{
    pthread_mutex_lock(&m->lock);
    pthread_mutex_lock(&m->iommu->lock);
}

static void pm_unlock_faults(struct pcie_model *m)
{
    pthread_mutex_unlock(&m->iommu->lock);
    pthread_mutex_unlock(&m->lock);
}

/* ---- what it was told ---- */

void pcie_model_fault(struct pcie_model *m, const struct pcie_model_fault *f)
{
    pm_lock_faults(m);
    if (m->nrules < PM_RULES) {
        m->rules[m->nrules] = *f;
        if (f->times == 0)
            m->rules[m->nrules].times = 1;
        m->nrules++;
    } else {
        pm_complain(&m->complaints, "more faults than there is room for");
    }
    pm_unlock_faults(m);
}

void pcie_model_faults_clear(struct pcie_model *m)
{
    pm_lock_faults(m);
    m->nrules = 0;
    m->random = 0;
    pm_unlock_faults(m);
}

void pcie_model_faults_random(struct pcie_model *m, uint64_t seed)
{
    pm_lock_faults(m);
    /* Neighbouring seeds are made strangers; a generator's state is never 0. */
    seed = (seed ^ seed >> 31) * UINT64_C(0x9e3779b97f4a7c15);
    m->random = seed ? (seed ^ seed >> 29) | 1 : 0;
    pm_unlock_faults(m);
}

/* Counts down; a rule that is used up goes. */
static bool pm_rule_used(struct pcie_model *m, unsigned i)
{
    struct pcie_model_fault *r = &m->rules[i];
    if (r->skip) {
        r->skip--;
        return false;
    }
    m->injected[r->kind]++;
    if (r->times != PCIE_MODEL_ALWAYS && --r->times == 0) {
        m->nrules--;
        for (; i < m->nrules; i++)
            m->rules[i] = m->rules[i + 1];
    }
    return true;
}

static bool pm_rule_fits(const struct pcie_model_fault *r, const struct pm_cmd *c)
{
    return r->kind < PCIE_MODEL_RDY_NEVER &&
           (r->qid == PCIE_MODEL_ANY || (r->qid == PCIE_MODEL_IO && c->sqid) || r->qid == c->sqid) &&
           (r->opcode == PCIE_MODEL_ANY || r->opcode == c->sqe.opcode);
}

/* ---- by chance ---- */

static bool pm_may(const struct pcie_model *m, enum pcie_model_kind kind)
{
    return m->random && m->o.random_kinds & 1u << kind;
}

enum { PM_LUCK_OF_MEDIA = 2 }; /* the last ones, which no admin command has */

static const uint16_t pm_bad_luck[] = {
    PLX_SC_NAMESPACE_NOT_READY | 1 << 11,
    PLX_SC_COMMAND_INTERRUPTED | 1 << 11,
    PLX_SC_INTERNAL_ERROR,
    PLX_SC_DATA_TRANSFER_ERROR,
    PLX_SC_ABORTED_BY_REQUEST,
    PLX_SC_UNRECOVERED_READ_ERROR | NVME_STATUS_DNR,
    PLX_SC_WRITE_FAULT | NVME_STATUS_DNR,
};

static uint16_t pm_bad_status(unsigned sqid, uint32_t chance)
{
    return pm_bad_luck[chance % (PLX_ARRAY_SIZE(pm_bad_luck) - (sqid ? 0 : PM_LUCK_OF_MEDIA))];
}

static void pm_fault_by_chance(struct pcie_model *m, struct pm_cmd *c)
{
    if (!m->random || c->kind != PCIE_MODEL_NONE || pm_random(&m->random, m->o.random_odds))
        return;
    const enum pcie_model_kind kind = 1 + pm_random(&m->random, PCIE_MODEL_RDY_NEVER - 1);
    const uint32_t value = pm_random(&m->random, 64);
    /* An abort that does nothing is one of Abort alone; an end of it all is rare. */
    if (!pm_may(m, kind) || (kind == PCIE_MODEL_ABORT_IDLE && (c->sqid || c->sqe.opcode != PM_ABORT)) ||
        ((kind == PCIE_MODEL_FATAL || kind == PCIE_MODEL_GONE) && value))
        return;
    c->kind = kind;
    c->value = kind == PCIE_MODEL_STATUS                             ? pm_bad_status(c->sqid, value)
               : kind == PCIE_MODEL_LATE || kind == PCIE_MODEL_TWICE ? value
                                                                     : 0;
    m->injected[kind]++;
}

bool pm_fault_now(struct pcie_model *m, enum pcie_model_kind kind, uint32_t *value)
{
    for (unsigned i = 0; i < m->nrules; i++) {
        const struct pcie_model_fault r = m->rules[i];
        if (r.kind != kind || !pm_rule_used(m, i))
            continue;
        if (value)
            *value = r.value;
        return true;
    }
    if (!pm_may(m, kind) || pm_random(&m->random, 16))
        return false;
    if (value)
        *value = pm_random(&m->random, 64);
    m->injected[kind]++;
    return true;
}

/* ---- what comes of it ---- */

void pm_fault_of(struct pcie_model *m, struct pm_cmd *c)
{
    for (unsigned i = 0; i < m->nrules; i++) {
        const struct pcie_model_fault r = m->rules[i];
        if (!pm_rule_fits(&r, c) || !pm_rule_used(m, i))
            continue;
        c->kind = r.kind;
        c->value = r.value;
        break;
    }
    pm_fault_by_chance(m, c);
    if (c->kind == PCIE_MODEL_HANG) {
        c->due = PM_NEVER;
    } else if (c->kind == PCIE_MODEL_LATE) {
        c->due += c->value;
    } else if (c->kind == PCIE_MODEL_FATAL) {
        pm_fatal(m);
    } else if (c->kind == PCIE_MODEL_GONE) {
        pm_pull(m);
    }
}

unsigned pcie_model_release(struct pcie_model *m)
{
    unsigned n = 0;
    pm_lock_faults(m);
    for (struct pm_cmd *c = m->first; c; c = c->next) {
        if (c->kind != PCIE_MODEL_HANG || c->done || c->gone)
            continue;
        c->kind = PCIE_MODEL_NONE;
        c->due = m->steps;
        n++;
    }
    pm_unlock_faults(m);
    return n;
}

unsigned pcie_model_held(struct pcie_model *m)
{
    unsigned n = 0;
    pm_lock_faults(m);
    for (const struct pm_cmd *c = m->first; c; c = c->next)
        n += !c->waits && !c->extra && !c->gone;
    pm_unlock_faults(m);
    return n;
}
