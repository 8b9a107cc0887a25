/* SPDX-License-Identifier: BSD-3-Clause */
/* What a logical unit says of itself. Pure. */
#ifndef PLX_VHOST_SCSI_PAGE_H
#define PLX_VHOST_SCSI_PAGE_H

#include "vhost/scsi_cdb.h"

enum {
    SCSI_TARGETS = 256,
    SCSI_UNITS = 256, /* of a target */
    SCSI_REPLY_BYTES = 8 + SCSI_UNITS * SCSI_LUN_BYTES,
    SCSI_UNMAP_RANGES = 256,
    SCSI_COMPARE_BLOCKS = 255,
};

#define SCSI_RANGE_BYTES (UINT64_C(1) << 31) /* of an unmap, and of a write same */

struct scsi_unit {
    uint64_t blocks;
    uint32_t block_size, granularity; /* of unmaps, in blocks */
    uint32_t write_blocks;            /* that are best written at once; a power of two */
    bool read_only, write_cache, unmaps, zeroes, compares, rotational;
    uint8_t uuid[16];
    char serial[37];
};

/*
 * The answer to one of the commands up to SCSI_ANSWERS, but for REQUEST SENSE.
 * @param u NULL: there is no such unit
 * @param units a bit for each that its target has
 * @return its length, whatever was asked for; 0, and sense is filled
 */
uint32_t scsi_answer(const struct scsi_command *cmd, const struct scsi_unit *u, const uint8_t units[SCSI_UNITS / 8],
                     uint8_t out[SCSI_REPLY_BYTES], struct scsi_sense *sense);

/* Whether the unit has a command, of all that there are. */
bool scsi_has(const struct scsi_unit *u, const struct scsi_rule *rule);

#endif
