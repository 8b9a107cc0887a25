/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CRC-64 of protection information (NVM 5.3.1.3): polynomial AD93D23594C93659h, reflected, from all ones, inverted.
 * ISA-L has it from 2.31 on ("rocksoft"), Debian 12 has 2.30: so it is done here, by carry-less multiplication where
 * the CPU has that, else by tables.
 */
#ifndef PLX_BASE_CRC64_H
#define PLX_BASE_CRC64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Continues over len bytes; begins with 0. */
uint64_t plx_crc64(uint64_t crc, const void *data, size_t len);

/* Whether it is by carry-less multiplication. */
bool plx_crc64_multiplies(void);

/* By tables alone, whatever the CPU has: what the other one is tested against. */
uint64_t plx_crc64_portable(uint64_t crc, const void *data, size_t len);

#endif
