/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhost/scsi_page.h"

#include "base/util.h"

#include <pollux/base.h>
#include <string.h>

bool scsi_has(const struct scsi_unit *u, const struct scsi_rule *rule)
{
    return !(rule->traits & SCSI_UNMAPS && !u->unmaps) && !(rule->traits & SCSI_COMPARES && !u->compares);
}

/* ---- INQUIRY (SPC-5, 6.6 and 7.7) ---- */

static void page_text(uint8_t *out, unsigned bytes, const char *text)
{
    memset(out, ' ', bytes);
    memcpy(out, text, strnlen(text, bytes));
}

static uint32_t standard_inquiry(const struct scsi_unit *u, uint8_t *out)
{
    out[0] = u ? 0 : 0x7f; /* a disk, or nothing that could be one */
    out[2] = 6;            /* SPC-4 */
    out[3] = 0x12;         /* hierarchical LUNs; this format */
    out[4] = 96 - 5;
    out[7] = 2; /* CMDQUE */
    page_text(out + 8, 8, "Pollux");
    page_text(out + 16, 16, "Disk");
    page_text(out + 32, 4, plx_version());
    scsi_put16(out + 58, 0x00a0); /* SAM-5, */
    scsi_put16(out + 60, 0x0460); /* SPC-4, */
    scsi_put16(out + 62, 0x04c0); /* SBC-3 */
    return 96;
}

static uint32_t vpd_pages(const struct scsi_unit *u, uint8_t *out)
{
    static const uint8_t pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};
    (void)u;
    memcpy(out, pages, sizeof pages);
    return sizeof pages;
}

static uint32_t vpd_serial(const struct scsi_unit *u, uint8_t *out)
{
    const size_t n = strlen(u->serial);
    memcpy(out, u->serial, n);
    return (uint32_t)n;
}

/* Of the kinds that have been there for long, as drivers have been seen to stumble over others. */
static uint32_t vpd_identification(const struct scsi_unit *u, uint8_t *out)
{
    const size_t n = strlen(u->serial);
    out[0] = 1; /* binary, */
    out[1] = 3; /* of the unit: NAA, */
    out[3] = 8;
    memcpy(out + 4, u->uuid, 8);
    out[4] = (uint8_t)(0x30 | (u->uuid[0] & 0xf)); /* assigned locally */
    out += 12;
    out[0] = 2; /* text, */
    out[1] = 1; /* of the unit: vendor, and what that says */
    out[3] = (uint8_t)(8 + n);
    page_text(out + 4, 8, "Pollux");
    memcpy(out + 12, u->serial, n);
    return (uint32_t)(12 + 12 + n);
}

static uint32_t vpd_limits(const struct scsi_unit *u, uint8_t *out)
{
    const uint64_t range = SCSI_RANGE_BYTES / u->block_size;
    out[0] = 1; /* a write same of no blocks is none of all blocks */
    out[1] = u->compares ? SCSI_COMPARE_BLOCKS : 0;
    scsi_put16(out + 2, plx_min_u64(u->write_blocks, UINT16_MAX));
    scsi_put64(out + 32, range);
    if (u->unmaps) {
        scsi_put32(out + 16, range);
        scsi_put32(out + 20, SCSI_UNMAP_RANGES);
        scsi_put32(out + 24, u->granularity);
        scsi_put32(out + 28, UINT64_C(1) << 31); /* from block 0 on */
    }
    return 60;
}

static uint32_t vpd_medium(const struct scsi_unit *u, uint8_t *out)
{
    scsi_put16(out, !u->rotational); /* 1: does not rotate; 0: not said how fast */
    return 60;
}

static uint32_t vpd_provisioning(const struct scsi_unit *u, uint8_t *out)
{
    if (!u->unmaps)
        return 4;
    out[1] = (uint8_t)(0xe0 | (u->zeroes ? 4 : 0)); /* by UNMAP, and by both of WRITE SAME */
    out[2] = 2;                                     /* thin */
    return 4;
}

static uint32_t inquiry(const struct scsi_command *cmd, const struct scsi_unit *u, uint8_t *out,
                        struct scsi_sense *sense)
{
    static uint32_t (*const pages[256])(const struct scsi_unit *u, uint8_t *out) = {
        [0x00] = vpd_pages,  [0x80] = vpd_serial, [0x83] = vpd_identification,
        [0xb0] = vpd_limits, [0xb1] = vpd_medium, [0xb2] = vpd_provisioning,
    };
    const uint8_t page = cmd->cdb[2];
    if (!(cmd->cdb[1] & 1)) {
        if (!page)
            return standard_inquiry(u, out);
        return scsi_bad_field(sense, 2);
    }
    if (!pages[page] || !u)
        return scsi_bad_field(sense, 2);
    const uint32_t n = pages[page](u, out + 4);
    out[1] = page;
    scsi_put16(out + 2, n);
    return 4 + n;
}

/* ---- capacity (SBC-4, 5.20 and 5.21) ---- */

static uint32_t capacity10(const struct scsi_unit *u, uint8_t *out)
{
    scsi_put32(out, plx_min_u64(u->blocks - 1, UINT32_MAX));
    scsi_put32(out + 4, u->block_size);
    return 8;
}

static uint32_t capacity16(const struct scsi_unit *u, uint8_t *out)
{
    scsi_put64(out, u->blocks - 1);
    scsi_put32(out + 8, u->block_size);
    out[13] = (uint8_t)__builtin_ctz(u->write_blocks);
    if (u->unmaps)
        out[14] = u->zeroes ? 0xc0 : 0x80;
    return 32;
}

/* ---- REPORT LUNS (SPC-5, 6.33) ---- */

static uint32_t report_luns(const struct scsi_command *cmd, const uint8_t *units, uint8_t *out,
                            struct scsi_sense *sense)
{
    uint32_t n = 0;
    if (cmd->cdb[2] > 2)
        return scsi_bad_field(sense, 2);
    for (unsigned i = 0; i < SCSI_UNITS && cmd->cdb[2] != 1; i++) /* of the well-known ones there are none */
        if (units[i / 8] & 1 << i % 8)
            out[8 + SCSI_LUN_BYTES * n++ + 1] = (uint8_t)i;
    scsi_put32(out, SCSI_LUN_BYTES * n);
    return 8 + SCSI_LUN_BYTES * n;
}

/* ---- MODE SENSE (SPC-5, 6.14 and 7.5; SBC-4, 6.5) ---- */

static uint32_t mode_caching(const struct scsi_unit *u, bool changeable, uint8_t *out)
{
    out[0] = 0x08;
    out[1] = 18;
    out[2] = u->write_cache && !changeable ? 4 : 0;
    return 20;
}

static uint32_t mode_control(const struct scsi_unit *u, bool changeable, uint8_t *out)
{
    (void)u;
    out[0] = 0x0a;
    out[1] = 10;
    out[3] = changeable ? 0 : 0x10; /* commands are done in any order */
    out[5] = changeable ? 0 : 0x40; /* TAS: those of others that a preempt ends say so */
    return 12;
}

static uint32_t mode_pages(const struct scsi_command *cmd, const struct scsi_unit *u, uint8_t *out)
{
    const uint8_t page = cmd->cdb[2] & 0x3f;
    const bool changeable = cmd->cdb[2] >> 6 == 1;
    uint32_t n = 0;
    if (page == 0x08 || page == 0x3f)
        n += mode_caching(u, changeable, out);
    if (page == 0x0a || page == 0x3f)
        n += mode_control(u, changeable, out + n);
    return n;
}

static uint32_t mode_block(const struct scsi_command *cmd, const struct scsi_unit *u, bool ten, uint8_t *out)
{
    if (cmd->cdb[1] & 8)
        return 0;
    if (ten && cmd->cdb[1] & 0x10) {
        scsi_put64(out, u->blocks);
        scsi_put32(out + 12, u->block_size);
        return 16;
    }
    scsi_put32(out, plx_min_u64(u->blocks, UINT32_MAX));
    scsi_put32(out + 4, u->block_size);
    return 8;
}

static uint32_t mode_sense(const struct scsi_command *cmd, const struct scsi_unit *u, uint8_t *out,
                           struct scsi_sense *sense)
{
    const bool ten = cmd->rule->kind == SCSI_MODE10;
    const uint32_t header = ten ? 8 : 4;
    const uint8_t specific = (uint8_t)(0x10 | (u->read_only ? 0x80 : 0)); /* DPO and FUA; write-protected */
    if (cmd->cdb[2] >> 6 == 3)
        return scsi_illegal(sense, SCSI_ASC_SAVING);
    if (cmd->cdb[3] && !(cmd->cdb[3] == 0xff && (cmd->cdb[2] & 0x3f) == 0x3f))
        return scsi_bad_field(sense, 3);
    const uint32_t block = mode_block(cmd, u, ten, out + header);
    const uint32_t pages = mode_pages(cmd, u, out + header + block);
    if (!pages)
        return scsi_bad_field(sense, 2);
    const uint32_t n = header + block + pages;
    if (ten) {
        scsi_put16(out, n - 2);
        out[3] = specific;
        out[4] = block == 16;
        scsi_put16(out + 6, block);
    } else {
        out[0] = (uint8_t)(n - 1);
        out[2] = specific;
        out[3] = (uint8_t)block;
    }
    return n;
}

/* ---- REPORT SUPPORTED OPERATION CODES (SPC-5, 6.36) ---- */

enum { OPCODES_TIMED = 0x80, OPCODES_TIME_BYTES = 12 };

/* How long commands may take, which is not said. */
static uint32_t opcode_time(const struct scsi_command *cmd, uint8_t *out)
{
    if (!(cmd->cdb[2] & OPCODES_TIMED))
        return 0;
    scsi_put16(out, OPCODES_TIME_BYTES - 2);
    return OPCODES_TIME_BYTES;
}

static uint32_t opcodes_all(const struct scsi_command *cmd, const struct scsi_unit *u, uint8_t *out)
{
    uint32_t n = 4;
    for (const struct scsi_rule *r = NULL; (r = scsi_rule_next(r));) {
        uint8_t *to = out + n;
        if (!scsi_has(u, r))
            continue;
        to[0] = r->opcode;
        scsi_put16(to + 2, r->action < 0 ? 0 : (uint64_t)r->action);
        to[5] = (uint8_t)((r->action >= 0) | (cmd->cdb[2] & OPCODES_TIMED ? 2 : 0));
        scsi_put16(to + 6, r->bytes);
        n += 8;
        n += opcode_time(cmd, out + n);
    }
    scsi_put32(out, n - 4);
    return n;
}

static uint32_t opcodes_one(const struct scsi_command *cmd, const struct scsi_unit *u, uint8_t *out,
                            struct scsi_sense *sense)
{
    const uint8_t how = cmd->cdb[2] & 7, opcode = cmd->cdb[3];
    const bool actions = scsi_has_actions(opcode);
    const struct scsi_rule *r = scsi_rule_find(opcode, scsi_get16(cmd->cdb + 4));
    if (how > 3 || (how == 1 && actions) || (how == 2 && r && !actions))
        return scsi_bad_field(sense, 2);
    if (!r || !scsi_has(u, r)) {
        out[1] = 1;
        return 4;
    }
    out[1] = (uint8_t)(3 | (cmd->cdb[2] & OPCODES_TIMED));
    scsi_put16(out + 2, r->bytes);
    memcpy(out + 4, r->usage, r->bytes);
    out[4] = r->opcode;
    return 4u + r->bytes + opcode_time(cmd, out + 4 + r->bytes);
}

/* ---- all ---- */

uint32_t scsi_answer(const struct scsi_command *cmd, const struct scsi_unit *u, const uint8_t units[SCSI_UNITS / 8],
                     uint8_t out[SCSI_REPLY_BYTES], struct scsi_sense *sense)
{
    memset(out, 0, SCSI_REPLY_BYTES);
    switch (cmd->rule->kind) {
    case SCSI_INQUIRY:
        return inquiry(cmd, u, out, sense);
    case SCSI_REPORT_LUNS:
        return report_luns(cmd, units, out, sense);
    case SCSI_CAPACITY10:
        return capacity10(u, out);
    case SCSI_CAPACITY16:
        return capacity16(u, out);
    case SCSI_MODE6:
    case SCSI_MODE10:
        return mode_sense(cmd, u, out, sense);
    case SCSI_OPCODES:
        return cmd->cdb[2] & 7 ? opcodes_one(cmd, u, out, sense) : opcodes_all(cmd, u, out);
    default:
        return scsi_illegal(sense, SCSI_ASC_OPCODE);
    }
}
