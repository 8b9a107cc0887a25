/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The parser of SCSI commands, and answers from what is known of a unit: a byte of what the unit can, a CDB, and which
 * units its target has. Whatever passes has only bits that are known; what does not says why; answers fit.
 */
#include "vhost/scsi_page.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_refused(const struct scsi_sense *s)
{
    uint8_t out[SCSI_SENSE_BYTES];
    assert(s->key == SCSI_ILLEGAL_REQUEST && s->asc && s->field < SCSI_CDB_BYTES);
    assert(scsi_sense_format(s, false, out) == 18 && out[2] == s->key);
    assert(scsi_sense_format(s, true, out) <= 16 && out[1] == s->key);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t reply[SCSI_REPLY_BYTES];
    struct scsi_command cmd;
    struct scsi_sense sense = {0};
    if (size < 1 + SCSI_CDB_BYTES + SCSI_UNITS / 8)
        return 0;
    const struct scsi_unit unit = {.blocks = UINT64_C(1) << (data[0] & 31) * 2 >> 1 | 1,
                                   .block_size = 512u << (data[0] & 7),
                                   .granularity = 1,
                                   .write_blocks = 1u << (data[0] & 7),
                                   .unmaps = data[0] & 32,
                                   .compares = data[0] & 64,
                                   .zeroes = data[0] & 1,
                                   .serial = "01234567-89ab-cdef-0123-456789abcdef"};
    if (!scsi_parse(data + 1, &cmd, &sense)) {
        fuzz_refused(&sense);
        return 0;
    }
    for (unsigned i = 1; i < cmd.rule->bytes; i++)
        assert(!(data[1 + i] & ~cmd.rule->usage[i]));
    const bool nowhere = data[0] & 128 && cmd.rule->traits & SCSI_ANY_LUN;
    if (cmd.rule->kind == SCSI_NOTHING || cmd.rule->kind > SCSI_ANSWERS || cmd.rule->kind == SCSI_REQUEST_SENSE)
        return 0;
    const uint32_t n = scsi_answer(&cmd, nowhere ? NULL : &unit, data + 1 + SCSI_CDB_BYTES, reply, &sense);
    assert(n <= sizeof reply);
    if (!n)
        fuzz_refused(&sense);
    return 0;
}
