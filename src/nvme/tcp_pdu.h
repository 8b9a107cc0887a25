/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe/TCP PDUs (NVMe/TCP Transport 1.1, section 3.6), and the one validator of their headers, for host and target
 * alike.
 */
#ifndef PLX_NVME_TCP_PDU_H
#define PLX_NVME_TCP_PDU_H

#include "nvme/spec.h"

#include <stdbool.h>
#include <string.h>

enum nvme_tcp_type {
    NVME_TCP_ICREQ = 0x00,
    NVME_TCP_ICRESP = 0x01,
    NVME_TCP_H2C_TERM = 0x02,
    NVME_TCP_C2H_TERM = 0x03,
    NVME_TCP_CMD = 0x04,
    NVME_TCP_RESP = 0x05,
    NVME_TCP_H2C_DATA = 0x06,
    NVME_TCP_C2H_DATA = 0x07,
    NVME_TCP_R2T = 0x09,
    NVME_TCP_TYPES,
};

enum nvme_tcp_flag {
    NVME_TCP_HDGSTF = 1 << 0,
    NVME_TCP_DDGSTF = 1 << 1,
    NVME_TCP_LAST = 1 << 2,    /* H2CData, C2HData */
    NVME_TCP_SUCCESS = 1 << 3, /* C2HData: no response capsule follows */
};

/* Fatal error status of a TermReq PDU: 3.6.2.3 */
enum nvme_tcp_fes {
    NVME_TCP_FES_NONE = 0,
    NVME_TCP_FES_INVALID_HEADER = 1,
    NVME_TCP_FES_SEQUENCE = 2,
    NVME_TCP_FES_HEADER_DIGEST = 3,
    NVME_TCP_FES_OUT_OF_RANGE = 4,
    NVME_TCP_FES_LIMIT_EXCEEDED = 5,
    NVME_TCP_FES_UNSUPPORTED = 6,
    NVME_TCP_FES_COUNT,
};

/* For people. */
extern const char *const nvme_tcp_fes_names[NVME_TCP_FES_COUNT];

enum {
    NVME_TCP_IC_LEN = 128,
    NVME_TCP_TERM_LEN = 24,
    NVME_TCP_TERM_MAX = 152,
    NVME_TCP_DIGEST = 4,
    NVME_TCP_PDO_MAX = 255, /* PDO is one byte */
    NVME_TCP_CMD_LEN = 72,
    NVME_TCP_DATA_LEN = 24,
    NVME_TCP_DGST_HEADER = 1 << 0, /* in ICReq and ICResp */
    NVME_TCP_DGST_DATA = 1 << 1,
    NVME_TCP_HPDA_MAX = 31,
    NVME_TCP_MAXH2CDATA_MIN = 4096,
};

struct nvme_tcp_hdr {
    uint8_t type, flags, hlen, pdo;
    plx_le32 plen;
};

struct nvme_tcp_ic {
    struct nvme_tcp_hdr hdr;
    plx_le16 pfv;
    uint8_t pda;  /* HPDA in ICReq, CPDA in ICResp; dwords, 0's based */
    uint8_t dgst; /* enum nvme_tcp_dgst */
    plx_le32 max; /* MAXR2T (0's based) in ICReq, MAXH2CDATA in ICResp */
    uint8_t reserved[112];
};

struct nvme_tcp_cmd {
    struct nvme_tcp_hdr hdr;
    struct nvme_cmd cmd;
};

struct nvme_tcp_resp {
    struct nvme_tcp_hdr hdr;
    struct nvme_cqe cqe;
};

/* H2CData and C2HData */
struct nvme_tcp_data {
    struct nvme_tcp_hdr hdr;
    plx_le16 cccid, ttag;
    plx_le32 datao, datal;
    uint8_t reserved[4];
};

struct nvme_tcp_r2t {
    struct nvme_tcp_hdr hdr;
    plx_le16 cccid, ttag;
    plx_le32 r2to, r2tl;
    uint8_t reserved[4];
};

struct nvme_tcp_term {
    struct nvme_tcp_hdr hdr;
    plx_le16 fes;
    plx_le16 fei_low, fei_high;
    uint8_t reserved[10];
};

_Static_assert(sizeof(struct nvme_tcp_ic) == 128 && sizeof(struct nvme_tcp_cmd) == 72, "");
_Static_assert(sizeof(struct nvme_tcp_resp) == 24 && sizeof(struct nvme_tcp_data) == 24, "");
_Static_assert(sizeof(struct nvme_tcp_r2t) == 24 && sizeof(struct nvme_tcp_term) == 24, "");

/* What a side accepts; digests are those agreed on in the ICReq/ICResp exchange. */
struct nvme_tcp_rules {
    bool target; /* we are the target: accept what hosts send */
    bool header_digest, data_digest;
    bool initialized;          /* ICReq and ICResp have been exchanged */
    uint8_t pda;               /* the alignment of data that we asked for: dwords, 0's based */
    uint32_t max_capsule_data; /* target: in-capsule data it takes */
    uint32_t max_data;         /* target: its MAXH2CDATA; host: its largest transfer */
};

/* A violation: what to put into a TermReq PDU. */
struct nvme_tcp_error {
    enum nvme_tcp_fes fes;
    uint32_t fei;
};

/*
 * Checks a PDU's common header against the rules: type, flags, HLEN, PDO and PLEN, in that order. Pure. Only the first
 * 8 bytes of `hdr` are looked at. @return NVME_TCP_FES_NONE, or why the connection must end, with *err filled
 */
enum nvme_tcp_fes nvme_tcp_check(const struct nvme_tcp_hdr *hdr, const struct nvme_tcp_rules *rules,
                                 struct nvme_tcp_error *err);

/* The same for the body of an ICReq (target) or ICResp (host), after nvme_tcp_check() passed its header. */
enum nvme_tcp_fes nvme_tcp_check_ic(const struct nvme_tcp_ic *ic, const struct nvme_tcp_rules *rules,
                                    struct nvme_tcp_error *err);

/*
 * What a checked header says of the PDU's layout: `header` bytes up to the data (header digest and padding included),
 * then `data` bytes, then `digest` bytes of data digest.
 */
struct nvme_tcp_layout {
    uint32_t header, data, digest;
};
struct nvme_tcp_layout nvme_tcp_layout(const struct nvme_tcp_hdr *hdr);

/* ---- building them ---- */

/* Bytes of a PDU header of len bytes with its digest. */
static inline unsigned nvme_tcp_with_digest(const struct nvme_tcp_rules *rules, unsigned len)
{
    return len + (rules->header_digest ? NVME_TCP_DIGEST : 0);
}

/* A common header, with the flag of a header digest where there is to be one. */
static inline struct nvme_tcp_hdr nvme_tcp_header(const struct nvme_tcp_rules *rules, enum nvme_tcp_type type,
                                                  uint8_t flags, unsigned hlen, unsigned pdo, uint32_t plen)
{
    return (struct nvme_tcp_hdr){.type = (uint8_t)type,
                                 .flags = (uint8_t)(flags | (rules->header_digest ? NVME_TCP_HDGSTF : 0)),
                                 .hlen = (uint8_t)hlen,
                                 .pdo = (uint8_t)pdo,
                                 .plen = plx_put32(plen)};
}

/* Puts the digest behind a header of hlen bytes, where there is to be one. */
void nvme_tcp_put_header_digest(const struct nvme_tcp_rules *rules, uint8_t *pdu, unsigned hlen);

/* An ICReq or ICResp with the digests of the rules; `max` is MAXR2T or MAXH2CDATA. */
struct nvme_tcp_ic nvme_tcp_make_ic(enum nvme_tcp_type type, const struct nvme_tcp_rules *rules, uint32_t max);

/*
 * A TermReq PDU about the header of which len bytes are at hdr, as much of it as is to be sent, into out, of
 * NVME_TCP_TERM_MAX bytes. @return its length
 */
unsigned nvme_tcp_make_term(enum nvme_tcp_type type, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len,
                            uint8_t *out);

/* What a TermReq PDU that came says: "fatal error status 3 (header digest error), information 17". */
const char *nvme_tcp_term_text(const uint8_t *pdu, char *out, size_t size);

#endif
