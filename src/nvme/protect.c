/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme/protect.h"

#include "base/crc16.h"
#include "base/crc64.h"

#include <errno.h>

enum {
    METADATA_MAX = 256,
    FLBAS_INTERLEAVED = 1 << 4,
    DPS_TYPE = 7,
    DPS_FIRST = 1 << 3,
    ELBAF_STS = 0x7f,    /* Storage Tag Size */
    ELBAF_PIF_SHIFT = 7, /* Protection Information Format */
    GUARD_16 = 0,        /* of these: */
    GUARD_64 = 2,
    TUPLE_16 = 8,
    TUPLE_64 = 16,
    PRCHK_REF = 1 << 26,
    PRCHK_APP = 1 << 27,
    PRCHK_GUARD = 1 << 28,
    PRACT = 1 << 29,
    APP_ESCAPE = 0xffff, /* a tuple that is not checked */
};

static const uint64_t ref_mask_16 = UINT32_MAX, ref_mask_64 = (UINT64_C(1) << 48) - 1;

/* ---- what a namespace has ---- */

int nvme_protection_of(const struct nvme_ns *ns, const struct nvme_opts *o, struct nvme_protection *out,
                       struct plx_error *err)
{
    const uint32_t format = nvme_ns_format(&ns->id);
    const unsigned pif = ns->elbaf >> ELBAF_PIF_SHIFT & 3, type = ns->id.dps & DPS_TYPE;
    struct nvme_protection p = {.metadata = format & 0xffff, .shift = format >> 16 & 0xff};
    *out = (struct nvme_protection){.shift = p.shift};
    if (!p.metadata)
        return 0;
    if (ns->csi)
        return plx_fail(err, -ENOTSUP, "has metadata, and another command set than NVM");
    if (p.metadata > METADATA_MAX)
        return plx_fail(err, -ENOTSUP, "has metadata of %u bytes a block; up to %d are possible", p.metadata,
                        METADATA_MAX);
    p.interleaved = ns->id.flbas & FLBAS_INTERLEAVED;
    p.transfers = true;
    if (!type) {
        *out = p;
        return 0;
    }
    if (type > 3)
        return plx_fail(err, -ENOTSUP, "has protection information of type %u; 1, 2 and 3 are known", type);
    if (pif != GUARD_16 && pif != GUARD_64)
        return plx_fail(err, -ENOTSUP, "has protection information with guards of %s; 16 and 64 bits are possible",
                        pif == 1 ? "32 bits" : "a kind that is not known");
    if (ns->elbaf & ELBAF_STS)
        return plx_fail(err, -ENOTSUP, "has protection information with storage tags of %u bits; format it without",
                        ns->elbaf & ELBAF_STS);
    p.type = (uint8_t)type;
    p.tuple = pif == GUARD_64 ? TUPLE_64 : TUPLE_16;
    if (p.metadata < p.tuple)
        return plx_fail(err, -ENOTSUP, "has metadata of %u bytes, too few for its protection information", p.metadata);
    p.first = ns->id.dps & DPS_FIRST;
    p.at = (uint8_t)(p.first ? 0 : p.metadata - p.tuple);
    p.guard = o->prchk_guard;
    p.ref = o->prchk_reftag && type != 3;
    p.app = o->check_apptag;
    p.apptag = o->apptag;
    p.alone = !p.guard && !p.ref;
    p.transfers = !p.alone || p.metadata != p.tuple;
    *out = p;
    return 0;
}

uint32_t nvme_protect_blocks(const struct nvme_protection *p, uint32_t max_transfer)
{
    const uint32_t block = UINT32_C(1) << p->shift;
    if (!p->transfers)
        return max_transfer >> p->shift;
    return (uint32_t)plx_min_u64(max_transfer / (block + (p->interleaved ? p->metadata : 0u)),
                                 plx_max_u64(1, NVME_PROTECT_BYTES >> p->shift));
}

/* ---- commands ---- */

/* What the tag of a block has to be (NVM 5.3.3): type 3 leaves it to whoever writes. */
static uint64_t ref_of(const struct nvme_protection *p, uint64_t lba)
{
    return p->type == 3 ? 0 : lba & (p->tuple == TUPLE_16 ? ref_mask_16 : ref_mask_64);
}

static struct nvme_protect_words protect_words(const struct nvme_protection *p, uint64_t lba, uint32_t prinfo)
{
    const uint64_t ref = ref_of(p, lba);
    return (struct nvme_protect_words){.cdw3 = (uint32_t)(ref >> 32),
                                       .prinfo = prinfo,
                                       .cdw14 = (uint32_t)ref,
                                       .cdw15 = p->app ? p->apptag | (uint32_t)0xffff << 16 : 0};
}

static uint32_t checks_of(const struct nvme_protection *p)
{
    return (p->alone || p->guard ? PRCHK_GUARD : 0u) | (p->app ? PRCHK_APP : 0u) |
           (p->type != 3 && (p->alone || p->ref) ? PRCHK_REF : 0u);
}

struct nvme_protect_words nvme_protect_transfer(const struct nvme_protection *p, uint64_t lba)
{
    if (!p->type)
        return (struct nvme_protect_words){0};
    return protect_words(p, lba, (p->alone ? PRACT : 0u) | checks_of(p));
}

/* What a read has checked by whomever, which is the controller's alone here (NVM 3.3.5). */
struct nvme_protect_words nvme_protect_verify(const struct nvme_protection *p, uint64_t lba)
{
    return p->type ? protect_words(p, lba, checks_of(p)) : (struct nvme_protect_words){0};
}

/* Without data there is nothing to make tuples of here. */
struct nvme_protect_words nvme_protect_zeroes(const struct nvme_protection *p, uint64_t lba)
{
    return p->type ? protect_words(p, lba, PRACT) : (struct nvme_protect_words){0};
}

struct nvme_protect_memory nvme_protect_at(const struct nvme_protection *p, uint8_t *at, uint32_t nlb)
{
    const size_t block = (size_t)1 << p->shift;
    if (p->interleaved)
        return (struct nvme_protect_memory){at, at + block, block + p->metadata, block + p->metadata};
    return (struct nvme_protect_memory){at, at + nlb * block, block, p->metadata};
}

/* ---- tuples: guard, application tag, reference tag, each with its most significant byte first ---- */

static void put_big(uint8_t *to, unsigned bytes, uint64_t v)
{
    for (; bytes; v >>= 8)
        to[--bytes] = (uint8_t)v;
}

static uint64_t get_big(const uint8_t *from, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | from[i];
    return v;
}

struct tuple {
    uint64_t guard, ref;
    uint16_t app;
};

static struct tuple get_tuple(const struct nvme_protection *p, const uint8_t *at)
{
    const unsigned guard = p->tuple == TUPLE_16 ? 2 : 8;
    return (struct tuple){.guard = get_big(at, guard),
                          .app = (uint16_t)get_big(at + guard, 2),
                          .ref = get_big(at + guard + 2, p->tuple - guard - 2)};
}

static void put_tuple(const struct nvme_protection *p, uint8_t *at, const struct tuple *t)
{
    const unsigned guard = p->tuple == TUPLE_16 ? 2 : 8;
    put_big(at, guard, t->guard);
    put_big(at + guard, 2, t->app);
    put_big(at + guard + 2, p->tuple - guard - 2, t->ref);
}

static uint64_t add_guard(const struct nvme_protection *p, uint64_t guard, const void *data, size_t len)
{
    return p->tuple == TUPLE_16 ? plx_crc16((uint16_t)guard, data, len) : plx_crc64(guard, data, len);
}

/*
 * Copies a block. @return its guard, of ours: the side that others may write to is looked at once. (ISA-L's CRC that
 * copies takes twice as long as its CRC and a copy.)
 */
static uint64_t copy_block(const struct nvme_protection *p, struct plx_iov_at *at, uint8_t *ours, bool from_host)
{
    const size_t block = (size_t)1 << p->shift;
    if (from_host)
        plx_iov_gather(at, ours, block);
    else
        plx_iov_scatter(at, ours, block);
    return p->type && !p->alone ? add_guard(p, 0, ours, block) : 0;
}

void nvme_protect_write(const struct nvme_protection *p, const struct nvme_protect_memory *to, struct plx_iov_at from,
                        uint64_t lba, uint32_t nlb)
{
    uint8_t *data = to->data, *metadata = to->metadata;
    for (uint32_t i = 0; i < nlb; i++, data += to->data_step, metadata += to->metadata_step) {
        struct tuple t = {.guard = copy_block(p, &from, data, true), .app = p->apptag, .ref = ref_of(p, lba + i)};
        memset(metadata, 0, p->metadata);
        if (!p->type || p->alone)
            continue;
        t.guard = add_guard(p, t.guard, metadata, p->at); /* which covers what is before the tuple */
        put_tuple(p, metadata + p->at, &t);
    }
}

/* NVM 5.3.3: the escape, and what each type has checked. */
static uint16_t check_tuple(const struct nvme_protection *p, const struct tuple *t, uint64_t guard, uint64_t lba)
{
    if (t->app == APP_ESCAPE && (p->type != 3 || t->ref == (p->tuple == TUPLE_16 ? ref_mask_16 : ref_mask_64)))
        return PLX_SC_SUCCESS;
    if (p->guard && t->guard != guard)
        return PLX_SC_GUARD_CHECK_ERROR;
    if (p->app && t->app != p->apptag)
        return PLX_SC_APPLICATION_TAG_CHECK_ERROR;
    if (p->ref && t->ref != ref_of(p, lba))
        return PLX_SC_REFERENCE_TAG_CHECK_ERROR;
    return PLX_SC_SUCCESS;
}

uint16_t nvme_protect_read(const struct nvme_protection *p, const struct nvme_protect_memory *from,
                           struct plx_iov_at to, uint64_t lba, uint32_t nlb, uint32_t *bad)
{
    uint8_t *data = from->data, *metadata = from->metadata;
    for (uint32_t i = 0; i < nlb; i++, data += from->data_step, metadata += from->metadata_step) {
        uint64_t guard = copy_block(p, &to, data, false);
        if (!p->type || p->alone)
            continue;
        const struct tuple t = get_tuple(p, metadata + p->at);
        guard = add_guard(p, guard, metadata, p->at);
        const uint16_t status = check_tuple(p, &t, guard, lba + i);
        if (status) {
            *bad = i;
            return status;
        }
    }
    return PLX_SC_SUCCESS;
}
