/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhost/scsi_resv.h"

#include "base/util.h"
#include "base/uuid.h"

#include <stdio.h>

enum { PR_KEYS, PR_RESERVATION, PR_CAPABILITIES, PR_FULL_STATUS };
enum { PR_REGISTER, PR_RESERVE, PR_RELEASE, PR_CLEAR, PR_PREEMPT, PR_PREEMPT_AND_ABORT, PR_REGISTER_AND_IGNORE };
enum { PR_SPEC_I_PT = 8, PR_ALL_TG_PT = 4, PR_APTPL = 1, PR_FLAGS_AT = 20 };

/* By enum plx_resv_type (SPC-5, 6.15.3.3). */
static const uint8_t types[] = {0, 1, 3, 5, 6, 7, 8};

int scsi_resv_name(const char *initiator, uint8_t name[PLX_RESV_NAME])
{
    char text[300];
    const int n = snprintf(text, sizeof text, "vhost-user initiator %.255s", initiator);
    return plx_uuid_from_name(text, (size_t)n, name);
}

/* Those of SPC-5, 5.14.1, and SBC-4, 4.17. What is neither reading nor free is for those who may write. */
unsigned scsi_resv_need(const struct scsi_command *cmd)
{
    const struct scsi_rule *r = cmd->rule;
    const bool starts = r->kind == SCSI_START_STOP && cmd->cdb[4] == 1, allows = r->opcode == 0x1e && !cmd->cdb[4];
    if (r->traits & SCSI_FREE || starts || allows)
        return 0;
    return r->traits & SCSI_READS ? PLX_MAY_READ : PLX_MAY_WRITE;
}

/* ---- OUT ---- */

static bool bad_list(struct scsi_sense *sense, unsigned field)
{
    *sense = (struct scsi_sense){.key = SCSI_ILLEGAL_REQUEST,
                                 .asc = SCSI_ASC_PARAMETER_FIELD,
                                 .pointed = true,
                                 .in_data = true,
                                 .field = (uint16_t)field};
    return false;
}

/* The scope is that of the unit. @return false when that says nothing that there is */
static bool type_of(uint8_t scope_type, uint8_t *out)
{
    for (uint8_t i = 1; i < PLX_ARRAY_SIZE(types); i++)
        if (types[i] == scope_type) {
            *out = i;
            return true;
        }
    return false;
}

bool scsi_resv_parse(const struct scsi_command *cmd, const uint8_t list[SCSI_RESV_LIST], struct plx_resv_cmd *out,
                     struct scsi_sense *sense)
{
    static const uint8_t kinds[] = {
        [PR_REGISTER] = PLX_RESV_SET_KEY,
        [PR_RESERVE] = PLX_RESV_ACQUIRE,
        [PR_RELEASE] = PLX_RESV_RELEASE,
        [PR_CLEAR] = PLX_RESV_CLEAR,
        [PR_PREEMPT] = PLX_RESV_PREEMPT,
        [PR_PREEMPT_AND_ABORT] = PLX_RESV_PREEMPT_AND_ABORT,
        [PR_REGISTER_AND_IGNORE] = PLX_RESV_SET_KEY,
    };
    const uint8_t action = (uint8_t)cmd->rule->action, flags = list[PR_FLAGS_AT];
    const bool registers = kinds[action] == PLX_RESV_SET_KEY;
    *out = (struct plx_resv_cmd){.kind = kinds[action],
                                 .ignore_key = action == PR_REGISTER_AND_IGNORE,
                                 .current = scsi_get64(list),
                                 .other = scsi_get64(list + 8)};
    if (registers) {
        out->persist = flags & PR_APTPL ? PLX_RESV_PERSISTENT : PLX_RESV_TRANSIENT;
        return !(flags & (PR_SPEC_I_PT | PR_ALL_TG_PT)) || bad_list(sense, PR_FLAGS_AT);
    }
    return action == PR_CLEAR || type_of(cmd->cdb[2], &out->type) || scsi_bad_field(sense, 2);
}

void scsi_resv_sense(enum plx_resv_answer answer, struct scsi_sense *sense)
{
    switch (answer) {
    case PLX_RESV_WRONG_TYPE:
        scsi_illegal(sense, SCSI_ASC_RELEASE);
        break;
    case PLX_RESV_FULL:
        scsi_illegal(sense, SCSI_ASC_REGISTRATIONS);
        break;
    case PLX_RESV_INVALID:
    case PLX_RESV_CONFLICT:
    case PLX_RESV_DONE:
        scsi_illegal(sense, SCSI_ASC_PARAMETER_FIELD);
        break;
    case PLX_RESV_NOT_KEPT:
    case PLX_RESV_NO_MEMORY:
        *sense = (struct scsi_sense){.key = SCSI_HARDWARE_ERROR, .asc = SCSI_ASC_INTERNAL};
        break;
    }
}

/* ---- IN ---- */

static uint32_t pr_keys(const struct plx_resv *r, uint8_t *out)
{
    for (unsigned i = 0; i < r->n; i++)
        scsi_put64(out + 8 * i, r->who[i].key);
    return 8u * r->n;
}

/* What all registrants hold has nobody's key. */
static uint32_t pr_reservation(const struct plx_resv *r, uint8_t *out)
{
    if (!r->type)
        return 0;
    if (!plx_resv_by_all(r))
        scsi_put64(out, r->who[r->holder].key);
    out[13] = types[r->type];
    return 16;
}

static uint32_t pr_capabilities(const struct plx_resv *r, bool can_persist, uint8_t *out)
{
    scsi_put16(out, 8);
    out[2] = can_persist;
    out[3] = (uint8_t)(0x80 | r->persist);
    out[4] = 0xea; /* all six types */
    out[5] = 0x01;
    return 8;
}

/* Initiators are known by addresses as those of SAS, which are assigned locally; hosts of other servers as well. */
static uint32_t pr_full_status(const struct plx_resv *r, uint8_t *out)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < r->n; i++, n += 48) {
        uint8_t *of = out + n;
        scsi_put64(of, r->who[i].key);
        if (plx_resv_holds(r, (int)i)) {
            of[12] = 1;
            of[13] = types[r->type];
        }
        of[19] = 1; /* the port that there is */
        of[23] = 24;
        of[24] = 0x06;
        memcpy(of + 28, r->who[i].name, 8);
        of[28] = (uint8_t)(0x30 | (of[28] & 0xf));
    }
    return n;
}

uint32_t scsi_resv_reply(uint8_t action, const struct plx_resv *r, bool can_persist, uint8_t out[SCSI_RESV_REPLY])
{
    memset(out, 0, SCSI_RESV_REPLY);
    if (action == PR_CAPABILITIES)
        return pr_capabilities(r, can_persist, out);
    const uint32_t n = action == PR_KEYS          ? pr_keys(r, out + 8)
                       : action == PR_RESERVATION ? pr_reservation(r, out + 8)
                                                  : pr_full_status(r, out + 8);
    scsi_put32(out, r->generation);
    scsi_put32(out + 4, n);
    return 8 + n;
}
