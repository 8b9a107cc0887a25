/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Little-endian integers as they lie on the wire: types of their own, so that one is not used as a number by mistake.
 */
#ifndef PLX_BASE_LE_H
#define PLX_BASE_LE_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint16_t raw;
} plx_le16;

typedef struct {
    uint32_t raw;
} plx_le32;

typedef struct {
    uint64_t raw;
} plx_le64;

static inline uint16_t plx_get16(plx_le16 v)
{
    return le16toh(v.raw);
}

static inline uint32_t plx_get32(plx_le32 v)
{
    return le32toh(v.raw);
}

static inline uint64_t plx_get64(plx_le64 v)
{
    return le64toh(v.raw);
}

static inline plx_le16 plx_put16(uint64_t v)
{
    return (plx_le16){htole16((uint16_t)v)};
}

static inline plx_le32 plx_put32(uint64_t v)
{
    return (plx_le32){htole32((uint32_t)v)};
}

static inline plx_le64 plx_put64(uint64_t v)
{
    return (plx_le64){htole64(v)};
}

/* The same in memory that is not aligned. */
static inline uint32_t plx_peek32(const uint8_t *p)
{
    plx_le32 v;
    memcpy(&v, p, sizeof v);
    return plx_get32(v);
}

static inline void plx_poke32(uint8_t *p, uint32_t v)
{
    plx_le32 le = plx_put32(v);
    memcpy(p, &le, sizeof le);
}

#endif
