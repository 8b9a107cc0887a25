/* SPDX-License-Identifier: BSD-3-Clause */
/* CRC-16 of protection information (NVM 5.3.1.1, T10 DIF); ISA-L picks the CPU's instructions at run time. */
#ifndef PLX_BASE_CRC16_H
#define PLX_BASE_CRC16_H

#include <isa-l/crc.h>
#include <stddef.h>
#include <stdint.h>

/* Continues over len bytes; begins with 0. */
static inline uint16_t plx_crc16(uint16_t crc, const void *data, size_t len)
{
    return crc16_t10dif(crc, data, len);
}

#endif
