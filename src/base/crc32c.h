/* SPDX-License-Identifier: BSD-3-Clause */
/* CRC32C as iSCSI and NVMe/TCP use it for digests; ISA-L picks the CPU's instructions at run time. */
#ifndef PLX_BASE_CRC32C_H
#define PLX_BASE_CRC32C_H

#include <isa-l/crc.h>
#include <stddef.h>
#include <stdint.h>

enum { PLX_CRC32C_INIT = -1 };

/* Continues over len bytes (below 2 GiB); begin with PLX_CRC32C_INIT, end with plx_crc32c_end(). */
static inline uint32_t plx_crc32c_add(uint32_t crc, const void *data, size_t len)
{
    return crc32_iscsi((unsigned char *)(uintptr_t)data, (int)len, crc);
}

static inline uint32_t plx_crc32c_end(uint32_t crc)
{
    return ~crc;
}

static inline uint32_t plx_crc32c(const void *data, size_t len)
{
    return plx_crc32c_end(plx_crc32c_add((uint32_t)PLX_CRC32C_INIT, data, len));
}

#endif
