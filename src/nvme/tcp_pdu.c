/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme/tcp_pdu.h"

#include "base/crc32c.h"

#include <stdio.h>

/* Bytes of the header proper by type (TCP 3.6.2); zero for types that do not exist. */
static const uint8_t header_len[NVME_TCP_TYPES] = {
    [NVME_TCP_ICREQ] = 128,   [NVME_TCP_ICRESP] = 128,  [NVME_TCP_H2C_TERM] = 24,
    [NVME_TCP_C2H_TERM] = 24, [NVME_TCP_CMD] = 72,      [NVME_TCP_RESP] = 24,
    [NVME_TCP_H2C_DATA] = 24, [NVME_TCP_C2H_DATA] = 24, [NVME_TCP_R2T] = 24,
};

const char *const nvme_tcp_fes_names[NVME_TCP_FES_COUNT] = {
    [NVME_TCP_FES_INVALID_HEADER] = "invalid PDU header field",
    [NVME_TCP_FES_SEQUENCE] = "PDU sequence error",
    [NVME_TCP_FES_HEADER_DIGEST] = "header digest error",
    [NVME_TCP_FES_OUT_OF_RANGE] = "data transfer out of range",
    [NVME_TCP_FES_LIMIT_EXCEEDED] = "limit exceeded",
    [NVME_TCP_FES_UNSUPPORTED] = "unsupported parameter",
};

static enum nvme_tcp_fes fail(struct nvme_tcp_error *err, enum nvme_tcp_fes fes, uint32_t fei)
{
    err->fes = fes;
    err->fei = fei;
    return fes;
}

static bool comes_from_host(uint8_t type)
{
    return type == NVME_TCP_ICREQ || type == NVME_TCP_H2C_TERM || type == NVME_TCP_CMD || type == NVME_TCP_H2C_DATA;
}

static bool carries_digest(uint8_t type)
{
    return type >= NVME_TCP_CMD;
}

static bool carries_data(uint8_t type)
{
    return type == NVME_TCP_CMD || type == NVME_TCP_H2C_DATA || type == NVME_TCP_C2H_DATA;
}

/* The flags that must be set, and may be set besides. */
static bool flags_ok(const struct nvme_tcp_hdr *hdr, const struct nvme_tcp_rules *rules, bool has_data)
{
    uint8_t must = 0, may = 0;
    if (carries_digest(hdr->type)) {
        if (rules->header_digest)
            must |= NVME_TCP_HDGSTF;
        if (rules->data_digest && has_data)
            must |= NVME_TCP_DDGSTF;
        else if (rules->data_digest && carries_data(hdr->type))
            may |= NVME_TCP_DDGSTF; /* set without data: harmless, no digest follows */
    }
    if (hdr->type == NVME_TCP_H2C_DATA || hdr->type == NVME_TCP_C2H_DATA)
        may |= NVME_TCP_LAST;
    if (hdr->type == NVME_TCP_C2H_DATA)
        may |= NVME_TCP_SUCCESS;
    return (hdr->flags & must) == must && !(hdr->flags & ~(must | may));
}

enum nvme_tcp_fes nvme_tcp_check(const struct nvme_tcp_hdr *hdr, const struct nvme_tcp_rules *rules,
                                 struct nvme_tcp_error *err)
{
    uint8_t type = hdr->type;
    uint32_t plen = plx_get32(hdr->plen);
    if (type >= NVME_TCP_TYPES || !header_len[type] || comes_from_host(type) != rules->target)
        return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_hdr, type));
    bool ic = type == NVME_TCP_ICREQ || type == NVME_TCP_ICRESP;
    bool term = type == NVME_TCP_H2C_TERM || type == NVME_TCP_C2H_TERM;
    if (!term && ic == rules->initialized)
        return fail(err, NVME_TCP_FES_SEQUENCE, 0);

    uint32_t hlen = header_len[type];
    uint32_t base = hlen + (carries_digest(type) && rules->header_digest ? NVME_TCP_DIGEST : 0);
    bool has_data = type == NVME_TCP_H2C_DATA || type == NVME_TCP_C2H_DATA || (type == NVME_TCP_CMD && plen > base);
    if (!flags_ok(hdr, rules, has_data))
        return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_hdr, flags));
    if (hdr->hlen != hlen)
        return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_hdr, hlen));
    if (term) {
        if (plen < NVME_TCP_TERM_LEN || plen > NVME_TCP_TERM_MAX)
            return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_hdr, plen));
        return NVME_TCP_FES_NONE;
    }
    if (!has_data) {
        if (plen != base)
            return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_hdr, plen));
        return NVME_TCP_FES_NONE; /* PDO is reserved without data */
    }

    /* The data begins at the first multiple of the agreed alignment, or at a later one. */
    uint32_t align = 4 * (rules->pda + 1u);
    if (hdr->pdo < base || hdr->pdo % align)
        return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_hdr, pdo));
    uint32_t digest = hdr->flags & NVME_TCP_DDGSTF ? NVME_TCP_DIGEST : 0;
    uint32_t max = type == NVME_TCP_CMD ? rules->max_capsule_data : rules->max_data;
    if (plen <= hdr->pdo + digest)
        return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_hdr, plen));
    if (plen - hdr->pdo - digest <= max)
        return NVME_TCP_FES_NONE;
    if (type != NVME_TCP_CMD)
        return fail(err, NVME_TCP_FES_LIMIT_EXCEEDED, 0);
    return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_hdr, plen));
}

enum nvme_tcp_fes nvme_tcp_check_ic(const struct nvme_tcp_ic *ic, const struct nvme_tcp_rules *rules,
                                    struct nvme_tcp_error *err)
{
    if (plx_get16(ic->pfv) != 0)
        return fail(err, NVME_TCP_FES_UNSUPPORTED, offsetof(struct nvme_tcp_ic, pfv));
    if (ic->pda > NVME_TCP_HPDA_MAX)
        return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_ic, pda));
    if (ic->dgst & ~(NVME_TCP_DGST_HEADER | NVME_TCP_DGST_DATA))
        return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_ic, dgst));
    uint32_t max = plx_get32(ic->max);
    if (!rules->target && (max < NVME_TCP_MAXH2CDATA_MIN || max % 4))
        return fail(err, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_ic, max));
    return NVME_TCP_FES_NONE;
}

struct nvme_tcp_layout nvme_tcp_layout(const struct nvme_tcp_hdr *hdr)
{
    uint32_t plen = plx_get32(hdr->plen);
    uint32_t base = hdr->hlen + (carries_digest(hdr->type) && hdr->flags & NVME_TCP_HDGSTF ? NVME_TCP_DIGEST : 0);
    if (!carries_data(hdr->type) || plen <= base)
        return (struct nvme_tcp_layout){
            .header = hdr->type == NVME_TCP_H2C_TERM || hdr->type == NVME_TCP_C2H_TERM ? plen : base};
    uint32_t digest = hdr->flags & NVME_TCP_DDGSTF ? NVME_TCP_DIGEST : 0;
    return (struct nvme_tcp_layout){.header = hdr->pdo, .data = plen - hdr->pdo - digest, .digest = digest};
}

/* ---- building them ---- */

void nvme_tcp_put_header_digest(const struct nvme_tcp_rules *rules, uint8_t *pdu, unsigned hlen)
{
    if (rules->header_digest)
        plx_poke32(pdu + hlen, plx_crc32c(pdu, hlen));
}

struct nvme_tcp_ic nvme_tcp_make_ic(enum nvme_tcp_type type, const struct nvme_tcp_rules *rules, uint32_t max)
{
    return (struct nvme_tcp_ic){
        .hdr = {.type = (uint8_t)type, .hlen = NVME_TCP_IC_LEN, .plen = plx_put32(NVME_TCP_IC_LEN)},
        .dgst = (uint8_t)((rules->header_digest ? NVME_TCP_DGST_HEADER : 0) |
                          (rules->data_digest ? NVME_TCP_DGST_DATA : 0)),
        .max = plx_put32(max),
    };
}

unsigned nvme_tcp_make_term(enum nvme_tcp_type type, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len,
                            uint8_t *out)
{
    len = len < NVME_TCP_TERM_MAX - NVME_TCP_TERM_LEN ? len : NVME_TCP_TERM_MAX - NVME_TCP_TERM_LEN;
    const struct nvme_tcp_term pdu = {
        .hdr = {.type = (uint8_t)type, .hlen = sizeof pdu, .plen = plx_put32(sizeof pdu + len)},
        .fes = plx_put16(err->fes),
        .fei_low = plx_put16(err->fei & 0xffff),
        .fei_high = plx_put16(err->fei >> 16),
    };
    memcpy(out, &pdu, sizeof pdu);
    memcpy(out + sizeof pdu, hdr, len);
    return (unsigned)(sizeof pdu + len);
}

const char *nvme_tcp_term_text(const uint8_t *pdu, char *out, size_t size)
{
    struct nvme_tcp_term t;
    memcpy(&t, pdu, sizeof t);
    unsigned fes = plx_get16(t.fes);
    const char *name = fes < NVME_TCP_FES_COUNT && nvme_tcp_fes_names[fes] ? nvme_tcp_fes_names[fes] : "reserved";
    snprintf(out, size, "fatal error status %u (%s), information %u", fes, name,
             plx_get16(t.fei_low) | (unsigned)plx_get16(t.fei_high) << 16);
    return out;
}
