/* SPDX-License-Identifier: BSD-3-Clause */
/* Commands: what they may look like, and what is wrong with those that do not. Pure. */
#ifndef PLX_VHOST_SCSI_CDB_H
#define PLX_VHOST_SCSI_CDB_H

#include "vhost/scsi_spec.h"

/* What there is to do. Those up to SCSI_ANSWERS are answered from what is known of the unit. */
enum scsi_kind {
    SCSI_NOTHING,
    SCSI_INQUIRY,
    SCSI_CAPACITY10,
    SCSI_CAPACITY16,
    SCSI_REPORT_LUNS,
    SCSI_MODE6,
    SCSI_MODE10,
    SCSI_REQUEST_SENSE,
    SCSI_OPCODES,
    SCSI_ANSWERS = SCSI_OPCODES,
    SCSI_READ,
    SCSI_WRITE,
    SCSI_VERIFY,
    SCSI_UNMAP,
    SCSI_WRITE_SAME,
    SCSI_COMPARE_AND_WRITE,
    SCSI_FLUSH,
    SCSI_START_STOP,
    SCSI_RESERVE_IN,
    SCSI_RESERVE_OUT,
};

enum scsi_trait {
    SCSI_WRITES = 1 << 0,
    SCSI_CALM = 1 << 1,    /* is done whatever unit attention there is (SAM-5, 5.14) */
    SCSI_ANY_LUN = 1 << 2, /* and by a target without such a logical unit */
    SCSI_UNMAPS = 1 << 3,  /* there only for disks that can unmap */
    SCSI_COMPARES = 1 << 4,
    SCSI_READS = 1 << 5, /* the disk, or looks at what is on it */
    SCSI_FREE = 1 << 6,  /* is done whatever is reserved */
};

struct scsi_rule {
    uint8_t opcode;
    int16_t action; /* service action; -1: the opcode has none */
    uint8_t bytes, kind, traits;
    uint8_t lba_at, lba_bytes;     /* where the address is, */
    uint8_t len_at, len_bytes;     /* and the number of blocks, or of bytes of a parameter list or its allocation */
    uint8_t usage[SCSI_CDB_BYTES]; /* bits that may be set (SPC-5, CDB usage data) */
};

struct scsi_sense {
    uint8_t key;
    uint16_t asc;
    bool pointed; /* at a field of the CDB, or of the parameter list: */
    bool in_data;
    uint16_t field;
};

struct scsi_command {
    const struct scsi_rule *rule; /* NULL: there is no such command */
    uint64_t lba;
    uint32_t len;
    uint8_t cdb[SCSI_CDB_BYTES]; /* beyond rule->bytes it means nothing */
};

/* @return whether it can be done; if not, sense is filled. cmd->rule is set whenever the command is known. */
bool scsi_parse(const uint8_t cdb[SCSI_CDB_BYTES], struct scsi_command *cmd, struct scsi_sense *sense);

/* Rule after this one, or the first; NULL at the end. */
const struct scsi_rule *scsi_rule_next(const struct scsi_rule *rule);
/* That of an opcode, and of a service action if it has such. */
const struct scsi_rule *scsi_rule_find(uint8_t opcode, uint16_t action);
bool scsi_has_actions(uint8_t opcode);

/* Sense that points at a byte of the CDB. Always false, to be returned. */
bool scsi_bad_field(struct scsi_sense *sense, unsigned field);
bool scsi_illegal(struct scsi_sense *sense, enum scsi_asc asc);

/* @return its length, in fixed or in descriptor format (SPC-5, 4.4) */
unsigned scsi_sense_format(const struct scsi_sense *sense, bool descriptor, uint8_t out[SCSI_SENSE_BYTES]);
/* Why a disk did not do something. */
void scsi_sense_of(uint16_t nvme, struct scsi_sense *sense);

/* Where a request goes to: a target, and a unit of it (virtio 1.2, 5.6.6.1). @return false when it is nowhere */
bool scsi_lun_parse(const uint8_t lun[SCSI_LUN_BYTES], unsigned *target, unsigned *unit);
void scsi_lun_format(unsigned target, unsigned unit, uint8_t out[SCSI_LUN_BYTES]);

#endif
