/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhost/scsi_cdb.h"

#include "base/util.h"

#include <pollux/nvme_status.h>

#define B4 0xff, 0xff, 0xff, 0xff
#define B8 B4, B4
#define Z4 0, 0, 0, 0

enum { DPO_FUA = 0x18, GROUP = 0x1f, GROUP6 = 0x3f, VARIABLE = 0x7f };

/*
 * Commands, those that come most first. A control byte is zero: there is no ACA (INQUIRY's NORMACA). READ (32) and
 * WRITE (32) have no protection information, so that what they expect of it is zero.
 */
static const struct scsi_rule cdb_rules[] = {
    {0x28, -1, 10, SCSI_READ, SCSI_READS, 2, 4, 7, 2, {0x28, DPO_FUA, B4, GROUP, 0xff, 0xff, 0}},
    {0x2a, -1, 10, SCSI_WRITE, SCSI_WRITES, 2, 4, 7, 2, {0x2a, DPO_FUA, B4, GROUP, 0xff, 0xff, 0}},
    {0x88, -1, 16, SCSI_READ, SCSI_READS, 2, 8, 10, 4, {0x88, DPO_FUA, B8, B4, GROUP6, 0}},
    {0x8a, -1, 16, SCSI_WRITE, SCSI_WRITES, 2, 8, 10, 4, {0x8a, DPO_FUA, B8, B4, GROUP6, 0}},
    {0x35, -1, 10, SCSI_FLUSH, 0, 2, 4, 7, 2, {0x35, 2, B4, GROUP, 0xff, 0xff, 0}},
    {0x91, -1, 16, SCSI_FLUSH, 0, 2, 8, 10, 4, {0x91, 2, B8, B4, GROUP6, 0}},
    {0x42, -1, 10, SCSI_UNMAP, SCSI_WRITES | SCSI_UNMAPS, 0, 0, 7, 2, {0x42, 0, Z4, GROUP, 0xff, 0xff, 0}},
    {0x08, -1, 6, SCSI_READ, SCSI_READS, 1, 3, 4, 1, {0x08, 0x1f, 0xff, 0xff, 0xff, 0}},
    {0x0a, -1, 6, SCSI_WRITE, SCSI_WRITES, 1, 3, 4, 1, {0x0a, 0x1f, 0xff, 0xff, 0xff, 0}},
    {0xa8, -1, 12, SCSI_READ, SCSI_READS, 2, 4, 6, 4, {0xa8, DPO_FUA, B4, B4, GROUP, 0}},
    {0xaa, -1, 12, SCSI_WRITE, SCSI_WRITES, 2, 4, 6, 4, {0xaa, DPO_FUA, B4, B4, GROUP, 0}},
    {VARIABLE,
     0x09,
     32,
     SCSI_READ,
     SCSI_READS,
     12,
     8,
     28,
     4,
     {VARIABLE, 0, Z4, GROUP, 0x18, 0, 0x09, DPO_FUA, 0, B8, Z4, Z4, B4}},
    {VARIABLE,
     0x0b,
     32,
     SCSI_WRITE,
     SCSI_WRITES,
     12,
     8,
     28,
     4,
     {VARIABLE, 0, Z4, GROUP, 0x18, 0, 0x0b, DPO_FUA, 0, B8, Z4, Z4, B4}},
    {0x41, -1, 10, SCSI_WRITE_SAME, SCSI_WRITES, 2, 4, 7, 2, {0x41, 8, B4, GROUP, 0xff, 0xff, 0}},
    {0x93, -1, 16, SCSI_WRITE_SAME, SCSI_WRITES, 2, 8, 10, 4, {0x93, 9, B8, B4, GROUP6, 0}},
    {0x89,
     -1,
     16,
     SCSI_COMPARE_AND_WRITE,
     SCSI_WRITES | SCSI_COMPARES,
     2,
     8,
     13,
     1,
     {0x89, DPO_FUA, B8, 0, 0, 0, 0xff, GROUP6, 0}},
    {0x2f, -1, 10, SCSI_VERIFY, SCSI_READS, 2, 4, 7, 2, {0x2f, 0x12, B4, GROUP, 0xff, 0xff, 0}},
    {0xaf, -1, 12, SCSI_VERIFY, SCSI_READS, 2, 4, 6, 4, {0xaf, 0x12, B4, B4, GROUP, 0}},
    {0x8f, -1, 16, SCSI_VERIFY, SCSI_READS, 2, 8, 10, 4, {0x8f, 0x12, B8, B4, GROUP6, 0}},
    {0x00, -1, 6, SCSI_NOTHING, SCSI_FREE, 0, 0, 0, 0, {0}},
    {0x03, -1, 6, SCSI_REQUEST_SENSE, SCSI_CALM | SCSI_ANY_LUN | SCSI_FREE, 0, 0, 4, 1, {0x03, 1, 0, 0, 0xff, 0}},
    {0x12, -1, 6, SCSI_INQUIRY, SCSI_CALM | SCSI_ANY_LUN | SCSI_FREE, 0, 0, 3, 2, {0x12, 1, 0xff, 0xff, 0xff, 0}},
    {0x25, -1, 10, SCSI_CAPACITY10, SCSI_FREE, 0, 0, 0, 0, {0x25, 0, Z4, 0, 0, 0, 0}},
    {0x9e, 0x10, 16, SCSI_CAPACITY16, SCSI_FREE, 0, 0, 10, 4, {0x9e, 0x10, Z4, Z4, B4, 0, 0}},
    {0xa0,
     -1,
     12,
     SCSI_REPORT_LUNS,
     SCSI_CALM | SCSI_ANY_LUN | SCSI_FREE,
     0,
     0,
     6,
     4,
     {0xa0, 0, 0xff, 0, 0, 0, B4, 0, 0}},
    {0x1a, -1, 6, SCSI_MODE6, 0, 0, 0, 4, 1, {0x1a, 8, 0xff, 0xff, 0xff, 0}},
    {0x5a, -1, 10, SCSI_MODE10, 0, 0, 0, 7, 2, {0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0}},
    {0xa3, 0x0c, 12, SCSI_OPCODES, 0, 0, 0, 6, 4, {0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, B4, 0, 0}},
    {0x1b, -1, 6, SCSI_START_STOP, 0, 0, 0, 0, 0, {0x1b, 1, 0, 0x0f, 0xf5, 0}},
    {0x1e, -1, 6, SCSI_NOTHING, 0, 0, 0, 0, 0, {0x1e, 0, 0, 0, 3, 0}},
    {0x1d, -1, 6, SCSI_NOTHING, 0, 0, 0, 0, 0, {0x1d, 4, 0, 0, 0, 0}}, /* a self-test, which passes */
    {0x5e, 0, 10, SCSI_RESERVE_IN, SCSI_FREE, 0, 0, 7, 2, {0x5e, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
    {0x5e, 1, 10, SCSI_RESERVE_IN, SCSI_FREE, 0, 0, 7, 2, {0x5e, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
    {0x5e, 2, 10, SCSI_RESERVE_IN, SCSI_FREE, 0, 0, 7, 2, {0x5e, 2, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
    {0x5e, 3, 10, SCSI_RESERVE_IN, SCSI_FREE, 0, 0, 7, 2, {0x5e, 3, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
    {0x5f, 0, 10, SCSI_RESERVE_OUT, SCSI_FREE, 0, 0, 5, 4, {0x5f, 0, 0xff, 0, 0, B4, 0}},
    {0x5f, 1, 10, SCSI_RESERVE_OUT, SCSI_FREE, 0, 0, 5, 4, {0x5f, 1, 0xff, 0, 0, B4, 0}},
    {0x5f, 2, 10, SCSI_RESERVE_OUT, SCSI_FREE, 0, 0, 5, 4, {0x5f, 2, 0xff, 0, 0, B4, 0}},
    {0x5f, 3, 10, SCSI_RESERVE_OUT, SCSI_FREE, 0, 0, 5, 4, {0x5f, 3, 0xff, 0, 0, B4, 0}},
    {0x5f, 4, 10, SCSI_RESERVE_OUT, SCSI_FREE, 0, 0, 5, 4, {0x5f, 4, 0xff, 0, 0, B4, 0}},
    {0x5f, 5, 10, SCSI_RESERVE_OUT, SCSI_FREE, 0, 0, 5, 4, {0x5f, 5, 0xff, 0, 0, B4, 0}},
    {0x5f, 6, 10, SCSI_RESERVE_OUT, SCSI_FREE, 0, 0, 5, 4, {0x5f, 6, 0xff, 0, 0, B4, 0}},
};

const struct scsi_rule *scsi_rule_next(const struct scsi_rule *rule)
{
    const struct scsi_rule *next = rule ? rule + 1 : cdb_rules;
    return next < cdb_rules + PLX_ARRAY_SIZE(cdb_rules) ? next : NULL;
}

const struct scsi_rule *scsi_rule_find(uint8_t opcode, uint16_t action)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(cdb_rules); i++) {
        const struct scsi_rule *r = &cdb_rules[i];
        if (r->opcode == opcode && (r->action < 0 || r->action == action))
            return r;
    }
    return NULL;
}

bool scsi_has_actions(uint8_t opcode)
{
    return opcode == VARIABLE || opcode == 0x9e || opcode == 0xa3 || opcode == 0x5e || opcode == 0x5f;
}

bool scsi_illegal(struct scsi_sense *sense, enum scsi_asc asc)
{
    *sense = (struct scsi_sense){.key = SCSI_ILLEGAL_REQUEST, .asc = (uint16_t)asc};
    return false;
}

bool scsi_bad_field(struct scsi_sense *sense, unsigned field)
{
    *sense = (struct scsi_sense){
        .key = SCSI_ILLEGAL_REQUEST, .asc = SCSI_ASC_CDB_FIELD, .pointed = true, .field = (uint16_t)field};
    return false;
}

static uint64_t cdb_number(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;
    while (bytes--)
        v = v << 8 | *p++;
    return v;
}

bool scsi_parse(const uint8_t cdb[SCSI_CDB_BYTES], struct scsi_command *cmd, struct scsi_sense *sense)
{
    const bool variable = cdb[0] == VARIABLE;
    const struct scsi_rule *r = scsi_rule_find(cdb[0], variable ? scsi_get16(cdb + 8) : cdb[1] & 0x1f);
    cmd->rule = r;
    if (!r && scsi_has_actions(cdb[0]))
        return scsi_bad_field(sense, variable ? 8 : 1);
    if (!r)
        return scsi_illegal(sense, SCSI_ASC_OPCODE);
    for (unsigned i = 1; i < r->bytes; i++)
        if (plx_unlikely(cdb[i] & ~r->usage[i]))
            return scsi_bad_field(sense, i);
    if (variable && cdb[7] != SCSI_CDB_BYTES - 8)
        return scsi_bad_field(sense, 7);
    memcpy(cmd->cdb, cdb, sizeof cmd->cdb);
    cmd->lba = cdb_number(cdb + r->lba_at, r->lba_bytes);
    cmd->len = (uint32_t)cdb_number(cdb + r->len_at, r->len_bytes);
    if (r->bytes == 6 && (r->kind == SCSI_READ || r->kind == SCSI_WRITE) && !cmd->len)
        cmd->len = 256; /* SBC-4, READ (6) */
    return true;
}

/* ---- sense ---- */

static void sense_pointer(const struct scsi_sense *s, uint8_t out[3])
{
    out[0] = s->in_data ? 0x80 : 0xc0;
    scsi_put16(out + 1, s->field);
}

unsigned scsi_sense_format(const struct scsi_sense *s, bool descriptor, uint8_t out[SCSI_SENSE_BYTES])
{
    memset(out, 0, SCSI_SENSE_BYTES);
    if (!descriptor) {
        out[0] = 0x70;
        out[2] = s->key;
        out[7] = 10;
        scsi_put16(out + 12, s->asc);
        if (s->pointed)
            sense_pointer(s, out + 15);
        return 18;
    }
    out[0] = 0x72;
    out[1] = s->key;
    scsi_put16(out + 2, s->asc);
    if (!s->pointed)
        return 8;
    out[7] = 8;
    out[8] = 2;
    out[9] = 6;
    sense_pointer(s, out + 12);
    return 16;
}

void scsi_sense_of(uint16_t nvme, struct scsi_sense *sense)
{
    static const struct {
        uint16_t nvme, asc;
        uint8_t key;
    } known[] = {
        {PLX_SC_LBA_OUT_OF_RANGE, SCSI_ASC_LBA_RANGE, SCSI_ILLEGAL_REQUEST},
        {PLX_SC_INVALID_OPCODE, SCSI_ASC_OPCODE, SCSI_ILLEGAL_REQUEST},
        {PLX_SC_INVALID_FIELD, SCSI_ASC_CDB_FIELD, SCSI_ILLEGAL_REQUEST},
        {PLX_SC_COMPARE_FAILURE, SCSI_ASC_MISCOMPARE, SCSI_MISCOMPARE},
        {PLX_SC_UNRECOVERED_READ_ERROR, SCSI_ASC_READ_ERROR, SCSI_MEDIUM_ERROR},
        {PLX_SC_WRITE_FAULT, SCSI_ASC_WRITE_FAULT, SCSI_MEDIUM_ERROR},
        {PLX_SC_GUARD_CHECK_ERROR, SCSI_ASC_GUARD, SCSI_ABORTED_COMMAND},
        {PLX_SC_APPLICATION_TAG_CHECK_ERROR, SCSI_ASC_APPLICATION_TAG, SCSI_ABORTED_COMMAND},
        {PLX_SC_REFERENCE_TAG_CHECK_ERROR, SCSI_ASC_REFERENCE_TAG, SCSI_ABORTED_COMMAND},
        {PLX_SC_CAPACITY_EXCEEDED, SCSI_ASC_SPACE, SCSI_DATA_PROTECT},
        {PLX_SC_NAMESPACE_WRITE_PROTECTED, SCSI_ASC_WRITE_PROTECTED, SCSI_DATA_PROTECT},
        {PLX_SC_ATTEMPTED_WRITE_TO_READ_ONLY_RANGE, SCSI_ASC_WRITE_PROTECTED, SCSI_DATA_PROTECT},
        {PLX_SC_INVALID_NAMESPACE_OR_FORMAT, SCSI_ASC_NOT_READY, SCSI_NOT_READY},
        {PLX_SC_NAMESPACE_NOT_READY, SCSI_ASC_BECOMING_READY, SCSI_NOT_READY},
        {PLX_SC_COMMAND_INTERRUPTED, SCSI_ASC_NONE, SCSI_ABORTED_COMMAND},
        {PLX_SC_ABORTED_BY_REQUEST, SCSI_ASC_NONE, SCSI_ABORTED_COMMAND},
        {PLX_SC_TRANSIENT_TRANSPORT_ERROR, SCSI_ASC_COMMUNICATION, SCSI_ABORTED_COMMAND},
        {PLX_SC_INTERNAL_PATH_ERROR, SCSI_ASC_COMMUNICATION, SCSI_ABORTED_COMMAND},
        {PLX_SC_HOST_PATHING_ERROR, SCSI_ASC_COMMUNICATION, SCSI_ABORTED_COMMAND},
    };
    *sense = (struct scsi_sense){.key = SCSI_HARDWARE_ERROR, .asc = SCSI_ASC_INTERNAL};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(known); i++)
        if (known[i].nvme == nvme)
            *sense = (struct scsi_sense){.key = known[i].key, .asc = known[i].asc};
}

/* ---- where ---- */

enum { LUN_FLAT = 1 }; /* SAM-5, 4.7.7.3; 0 is that of peripherals, of bus 0 */

bool scsi_lun_parse(const uint8_t lun[SCSI_LUN_BYTES], unsigned *target, unsigned *unit)
{
    const unsigned method = lun[2] >> 6, high = lun[2] & 0x3f;
    *target = lun[1];
    *unit = high << 8 | lun[3];
    return lun[0] == 1 && (method == LUN_FLAT || (method == 0 && !high)) && !scsi_get32(lun + 4);
}

void scsi_lun_format(unsigned target, unsigned unit, uint8_t out[SCSI_LUN_BYTES])
{
    memset(out, 0, SCSI_LUN_BYTES);
    out[0] = 1;
    out[1] = (uint8_t)target;
    out[2] = (uint8_t)(unit < 256 ? 0 : LUN_FLAT << 6 | unit >> 8); /* as REPORT LUNS has it, which Linux wants */
    out[3] = (uint8_t)unit;
}
