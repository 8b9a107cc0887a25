/* SPDX-License-Identifier: BSD-3-Clause */
/* Bytes as text: base64url of RFC 4648, section 5. */
#ifndef PLX_BASE_BASE64_H
#define PLX_BASE_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* Characters of n bytes, with padding and without a terminating zero. */
#define PLX_BASE64_LEN(n) (((n) + 2) / 3 * 4)

/* Writes PLX_BASE64_LEN(n) characters and a terminating zero. */
void plx_base64_encode(char *out, const void *bytes, size_t n);
/*
 * Padding may be left out. @param out room for len / 4 * 3 + 2 bytes; with NULL nothing is written
 * @return how many bytes, or -1: it is no such text
 */
long plx_base64_decode(uint8_t *out, const char *text, size_t len);

#endif
