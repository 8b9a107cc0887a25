/* SPDX-License-Identifier: BSD-3-Clause */
/* UUIDs (RFC 9562): random ones, and ones that the same name on the same machine always gets. */
#ifndef PLX_BASE_UUID_H
#define PLX_BASE_UUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PLX_UUID_TEXT = 37 }; /* with the terminating zero */

/* @return 0 or -ENOMEM */
int plx_uuid_random(uint8_t uuid[16]);

/* Made from a name and the machine's identity: the same path on two machines names two things. @return 0 or -ENOMEM */
int plx_uuid_from_name(const void *name, size_t len, uint8_t uuid[16]);

/* With dashes in their places, or without. @return whether it is one */
bool plx_uuid_parse(const char *text, uint8_t uuid[16]);

/* Whether it is the one that stands for none (RFC 9562, 5.9). */
bool plx_uuid_nil(const uint8_t uuid[16]);

void plx_uuid_format(const uint8_t uuid[16], char text[PLX_UUID_TEXT]);

#endif
