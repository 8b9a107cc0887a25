/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * PDUs out of a stream of bytes, for host and target alike: received in bulk into the buffer that all streams of the
 * reactor share, checked, and parsed in place. Only what is cut off at the end of the buffer is kept, and large data is
 * received where it belongs.
 *
 * The functions are inlined into the two that use them, with a table of operations that the compiler knows.
 */
#ifndef PLX_NVME_TCP_FRAME_H
#define PLX_NVME_TCP_FRAME_H

#include "base/crc32c.h"
#include "base/iov.h"
#include "net/stream.h"
#include "nvme/tcp_pdu.h"

#include <errno.h>

enum {
    NVME_TCP_DIRECT = 8 << 10,   /* data with at least this much to come is received where it belongs */
    NVME_TCP_DIRECT_PIECES = 15, /* of memory that it may lie in */
    NVME_TCP_MEMOS = 4,
};

/* What comes next. */
enum nvme_tcp_frame_state {
    NVME_TCP_FRAME_HEADER, /* PDU header, header digest, padding */
    NVME_TCP_FRAME_DATA,
    NVME_TCP_FRAME_DIGEST, /* of the data */
};

/* The layout of a header that has passed the validator: the same eight bytes pass again. */
struct nvme_tcp_memo {
    uint64_t raw;
    struct nvme_tcp_layout layout;
};

struct nvme_tcp_frame {
    struct nvme_tcp_rules rules;
    uint8_t state; /* enum nvme_tcp_frame_state */
    bool ended;    /* the user's: nothing more is to be taken */
    bool discard;  /* the data, and its digest, are thrown away */
    uint8_t digest_len, digest_have;
    uint16_t hdr_have, hdr_need;
    uint32_t len;                              /* bytes of this PDU's data, */
    uint32_t left;                             /* and those still to come */
    uint32_t crc;                              /* of those that came */
    uint32_t pdus;                             /* headers that were whole: tells whether a PDU is still the same */
    struct plx_iov_at to;                      /* where the data goes */
    struct nvme_tcp_memo memo[NVME_TCP_MEMOS]; /* by bits 2:1 of the PDU type */
    uint8_t digest[NVME_TCP_DIGEST];
    uint8_t hdr[NVME_TCP_PDO_MAX + 1] __attribute__((aligned(8)));
};

/* May end the stream, and set f->ended, but for what is said. */
struct nvme_tcp_frame_ops {
    /*
     * A PDU whose header is whole, checked, and of the right digest; n bytes of what follows it have been received.
     * Data is taken from there, or asked for with nvme_tcp_frame_data(). @return bytes of `rest` that were taken
     */
    size_t (*pdu)(struct nvme_tcp_frame *f, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                  size_t n);
    /* All of the PDU's data has come into place, or was thrown away. `ok`: its digest is right. */
    void (*data)(struct nvme_tcp_frame *f, bool ok);
    /* A violation; `hdr` is the offending header, as far as it came. Sets f->ended. */
    void (*fatal)(struct nvme_tcp_frame *f, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len);
    /* The end of the stream (0), or why it cannot be received from (-errno). Sets f->ended. */
    void (*lost)(struct nvme_tcp_frame *f, int ret);
};

/* The rules have changed: what was checked by the old ones is forgotten. */
static inline void nvme_tcp_frame_rules_changed(struct nvme_tcp_frame *f)
{
    /* No header is found in the place of another; any other value may come from the peer. */
    for (unsigned i = 0; i < NVME_TCP_MEMOS; i++)
        memset(&f->memo[i].raw, (int)(~i << 1 & 0xff), sizeof f->memo[i].raw);
}

static inline void nvme_tcp_frame_init(struct nvme_tcp_frame *f, const struct nvme_tcp_rules *rules)
{
    memset(f, 0, sizeof *f);
    f->rules = *rules;
    nvme_tcp_frame_rules_changed(f);
}

/* Whether it is between two PDUs. */
static inline bool nvme_tcp_frame_between(const struct nvme_tcp_frame *f)
{
    return f->state == NVME_TCP_FRAME_HEADER && !f->hdr_have;
}

static inline bool nvme_tcp_digest_ok(const void *data, size_t len, const uint8_t *digest)
{
    return plx_crc32c(data, len) == plx_peek32(digest);
}

/* ---- data ---- */

static inline void nvme_tcp_frame_complete(struct nvme_tcp_frame *f, const struct nvme_tcp_frame_ops *ops)
{
    bool ok = f->discard || !f->digest_len || plx_peek32(f->digest) == plx_crc32c_end(f->crc);
    f->state = NVME_TCP_FRAME_HEADER;
    ops->data(f, ok);
}

static inline size_t nvme_tcp_frame_take(struct nvme_tcp_frame *f, const uint8_t *p, size_t n)
{
    size_t k = plx_min_u64(n, f->left);
    f->left -= (uint32_t)k;
    if (plx_unlikely(f->discard))
        return k;
    if (f->digest_len)
        f->crc = plx_crc32c_add(f->crc, p, k);
    plx_iov_scatter(&f->to, p, k);
    return k;
}

/*
 * From within pdu(): the PDU's data goes to `to`, or nowhere when that is NULL; then data() is called, perhaps before
 * this returns. @return bytes of `rest` that were taken
 */
static inline size_t nvme_tcp_frame_data(struct nvme_tcp_frame *f, const struct nvme_tcp_frame_ops *ops,
                                         const struct nvme_tcp_layout *l, const struct plx_iov_at *to,
                                         const uint8_t *rest, size_t n)
{
    f->discard = !to;
    f->len = l->data;
    f->left = to ? l->data : l->data + l->digest;
    f->digest_len = to ? (uint8_t)l->digest : 0;
    f->digest_have = 0;
    f->crc = (uint32_t)PLX_CRC32C_INIT;
    if (to)
        f->to = *to;
    if (n < l->data + l->digest) {
        f->state = NVME_TCP_FRAME_DATA;
        return 0;
    }
    nvme_tcp_frame_take(f, rest, n);
    if (f->digest_len)
        memcpy(f->digest, rest + l->data, NVME_TCP_DIGEST);
    nvme_tcp_frame_complete(f, ops);
    return l->data + l->digest;
}

/* ---- headers ---- */

/* Checks a header of which at least the common part is at p. @return its layout, or NULL after a fatal error */
static inline const struct nvme_tcp_layout *nvme_tcp_frame_check(struct nvme_tcp_frame *f,
                                                                 const struct nvme_tcp_frame_ops *ops, const uint8_t *p,
                                                                 size_t n)
{
    struct nvme_tcp_memo *memo = &f->memo[(p[0] >> 1) & (NVME_TCP_MEMOS - 1)];
    uint64_t raw;
    memcpy(&raw, p, sizeof raw);
    if (plx_likely(raw == memo->raw))
        return &memo->layout;
    struct nvme_tcp_hdr h;
    struct nvme_tcp_error err;
    memcpy(&h, p, sizeof h);
    if (nvme_tcp_check(&h, &f->rules, &err)) {
        ops->fatal(f, &err, p, n);
        return NULL;
    }
    memo->raw = raw;
    memo->layout = nvme_tcp_layout(&h);
    return &memo->layout;
}

static inline size_t nvme_tcp_frame_pdu(struct nvme_tcp_frame *f, const struct nvme_tcp_frame_ops *ops,
                                        const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                                        size_t n)
{
    uint8_t type = hdr[offsetof(struct nvme_tcp_hdr, type)], hlen = hdr[offsetof(struct nvme_tcp_hdr, hlen)];
    f->pdus++;
    if (plx_unlikely(f->rules.header_digest) && type >= NVME_TCP_CMD && !nvme_tcp_digest_ok(hdr, hlen, hdr + hlen)) {
        const struct nvme_tcp_error err = {NVME_TCP_FES_HEADER_DIGEST, plx_peek32(hdr + hlen)};
        ops->fatal(f, &err, hdr, hlen);
        return 0;
    }
    return ops->pdu(f, hdr, l, rest, n);
}

/* A header of which only a part is there. @return how much of p was taken */
static inline size_t nvme_tcp_frame_split_header(struct nvme_tcp_frame *f, const struct nvme_tcp_frame_ops *ops,
                                                 const uint8_t *p, size_t n)
{
    if (!f->hdr_need)
        f->hdr_need = sizeof(struct nvme_tcp_hdr);
    size_t k = plx_min_u64(n, (size_t)(f->hdr_need - f->hdr_have));
    memcpy(f->hdr + f->hdr_have, p, k);
    f->hdr_have += (uint16_t)k;
    if (f->hdr_have < f->hdr_need)
        return k;
    const struct nvme_tcp_layout *found = nvme_tcp_frame_check(f, ops, f->hdr, f->hdr_have);
    if (!found)
        return n;
    if (f->hdr_have < found->header) {
        f->hdr_need = (uint16_t)found->header;
        return k;
    }
    const struct nvme_tcp_layout l = *found;
    f->hdr_have = f->hdr_need = 0;
    return k + nvme_tcp_frame_pdu(f, ops, f->hdr, &l, p + k, n - k);
}

static inline size_t nvme_tcp_frame_header(struct nvme_tcp_frame *f, const struct nvme_tcp_frame_ops *ops,
                                           const uint8_t *p, size_t n)
{
    if (plx_unlikely(f->hdr_have || n < sizeof(struct nvme_tcp_hdr)))
        return nvme_tcp_frame_split_header(f, ops, p, n);
    const struct nvme_tcp_layout *found = nvme_tcp_frame_check(f, ops, p, n);
    if (plx_unlikely(!found))
        return n;
    if (plx_unlikely(n < found->header))
        return nvme_tcp_frame_split_header(f, ops, p, n);
    const struct nvme_tcp_layout l = *found; /* what is called may receive another one */
    return l.header + nvme_tcp_frame_pdu(f, ops, p, &l, p + l.header, n - l.header);
}

/* ---- the stream ---- */

static inline void nvme_tcp_frame_consume(struct nvme_tcp_frame *f, const struct nvme_tcp_frame_ops *ops,
                                          const uint8_t *p, size_t n)
{
    while (n && !f->ended) {
        size_t k = 0;
        switch ((enum nvme_tcp_frame_state)f->state) {
        case NVME_TCP_FRAME_HEADER:
            k = nvme_tcp_frame_header(f, ops, p, n);
            break;
        case NVME_TCP_FRAME_DATA:
            k = nvme_tcp_frame_take(f, p, n);
            if (!f->left)
                f->state = NVME_TCP_FRAME_DIGEST;
            break;
        case NVME_TCP_FRAME_DIGEST:
            k = plx_min_u64(n, (size_t)(f->digest_len - f->digest_have));
            memcpy(f->digest + f->digest_have, p, k);
            f->digest_have += (uint8_t)k;
            break;
        }
        p += k;
        n -= k;
        if (f->state == NVME_TCP_FRAME_DIGEST && f->digest_have == f->digest_len)
            nvme_tcp_frame_complete(f, ops);
    }
}

/* What of the present data goes straight to where it belongs. @return entries of iov */
static inline unsigned nvme_tcp_frame_direct(const struct nvme_tcp_frame *f, struct iovec *iov, size_t *bytes)
{
    struct plx_iov_at at = f->to;
    unsigned n = 0;
    *bytes = 0;
    for (uint8_t *p; *bytes < f->left && n < NVME_TCP_DIRECT_PIECES; n++) {
        size_t k = plx_iov_next(&at, f->left - *bytes, &p);
        iov[n] = (struct iovec){p, k};
        *bytes += k;
    }
    return n;
}

/* As much of what was received as is data in its place. */
static inline void nvme_tcp_frame_received(struct nvme_tcp_frame *f, const struct iovec *iov, size_t bytes)
{
    for (size_t left = bytes; f->digest_len && left; iov++) {
        size_t k = plx_min_u64(left, iov->iov_len);
        f->crc = plx_crc32c_add(f->crc, iov->iov_base, k);
        left -= k;
    }
    plx_iov_skip(&f->to, bytes);
    f->left -= (uint32_t)bytes;
}

/*
 * Receives once, and handles all that came: at most `limit` bytes beyond data that goes straight into its place.
 * @return progress
 */
static inline int nvme_tcp_frame_receive(struct nvme_tcp_frame *f, const struct nvme_tcp_frame_ops *ops,
                                         struct plx_stream *s, size_t limit)
{
    uint8_t *rx = plx_stream_group_rx(s->group);
    struct iovec iov[NVME_TCP_DIRECT_PIECES + 1];
    size_t direct = 0;
    unsigned niov = 0;
    if (plx_unlikely(f->state == NVME_TCP_FRAME_DATA && !f->discard && (f->left >= NVME_TCP_DIRECT || !limit)))
        niov = nvme_tcp_frame_direct(f, iov, &direct);
    const bool all = direct == f->left || !niov;
    if (all && limit)
        iov[niov++] = (struct iovec){rx, limit};
    ssize_t n = plx_stream_recv(s, iov, niov);
    if (n <= 0) {
        if (n == -EAGAIN)
            return 0;
        ops->lost(f, (int)n);
        return 1;
    }
    if (direct) {
        direct = plx_min_u64((uint64_t)n, direct);
        nvme_tcp_frame_received(f, iov, direct);
        if (!f->left) {
            f->state = NVME_TCP_FRAME_DIGEST;
            if (!f->digest_len)
                nvme_tcp_frame_complete(f, ops);
        }
    }
    nvme_tcp_frame_consume(f, ops, rx, (size_t)n - direct);
    return 1;
}

#endif
