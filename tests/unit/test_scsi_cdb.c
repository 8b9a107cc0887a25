/* SPDX-License-Identifier: BSD-3-Clause */
/* The table of SCSI commands, and what is answered from what is known of a unit. */
#include "vhost/scsi_page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <pollux/nvme_status.h>

static const struct scsi_unit plain = {.blocks = 2048,
                                       .block_size = 512,
                                       .granularity = 8,
                                       .write_blocks = 8,
                                       .unmaps = true,
                                       .compares = true,
                                       .serial = "serial"};

/* A CDB that has just what makes it this command. */
static void minimal(const struct scsi_rule *r, uint8_t cdb[SCSI_CDB_BYTES])
{
    memset(cdb, 0, SCSI_CDB_BYTES);
    cdb[0] = r->opcode;
    if (r->bytes == SCSI_CDB_BYTES)
        cdb[7] = SCSI_CDB_BYTES - 8;
    if (r->action >= 0)
        cdb[r->bytes == SCSI_CDB_BYTES ? 9 : 1] = (uint8_t)r->action;
}

static void every_rule_is_found_and_is_the_only_one(void **state)
{
    (void)state;
    for (const struct scsi_rule *r = NULL; (r = scsi_rule_next(r));) {
        struct scsi_command cmd;
        struct scsi_sense sense;
        uint8_t cdb[SCSI_CDB_BYTES];
        minimal(r, cdb);
        assert_true(scsi_parse(cdb, &cmd, &sense));
        assert_ptr_equal(cmd.rule, r);
        assert_int_equal(r->action >= 0, scsi_has_actions(r->opcode));
        assert_true(r->lba_at + r->lba_bytes < r->bytes && r->len_at + r->len_bytes <= r->bytes);
        /* The group of the opcode says how long a CDB is (SPC-5, 4.2.5.1). */
        static const uint8_t lengths[8] = {6, 10, 10, 32, 16, 12, 0, 0};
        assert_int_equal(r->bytes, lengths[r->opcode >> 5]);
        assert_true(!(r->usage[0] ^ r->opcode));
    }
}

/* Each bit of each command, by itself: taken if it may be set, and pointed at if not. */
static void every_bit_is_known_or_refused(void **state)
{
    (void)state;
    for (const struct scsi_rule *r = NULL; (r = scsi_rule_next(r));) {
        for (unsigned bit = 8; bit < 8u * r->bytes; bit++) {
            const unsigned at = bit / 8;
            const uint8_t mask = (uint8_t)(1 << bit % 8);
            struct scsi_command cmd;
            struct scsi_sense sense = {0};
            uint8_t cdb[SCSI_CDB_BYTES];
            minimal(r, cdb);
            if (cdb[at] & mask || (r->action >= 0 && (at == 1 || (r->bytes == 32 && (at == 8 || at == 9)))))
                continue; /* another command */
            cdb[at] |= mask;
            const bool may = r->usage[at] & mask && !(r->bytes == 32 && at == 7);
            assert_int_equal(scsi_parse(cdb, &cmd, &sense), may);
            if (may)
                continue;
            assert_int_equal(sense.key, SCSI_ILLEGAL_REQUEST);
            assert_int_equal(sense.asc, SCSI_ASC_CDB_FIELD);
            assert_true(sense.pointed && !sense.in_data);
            assert_int_equal(sense.field, at);
        }
    }
}

static void addresses_and_lengths_are_read(void **state)
{
    (void)state;
    static const struct {
        uint8_t cdb[SCSI_CDB_BYTES];
        uint64_t lba;
        uint32_t len;
    } cases[] = {
        {{0x08, 0x1f, 0xff, 0xfe, 0x02}, 0x1ffffe, 2},
        {{0x08, 0, 0, 1, 0}, 1, 256},
        {{0x28, 0, 1, 2, 3, 4, 0, 5, 6}, 0x01020304, 0x0506},
        {{0x28}, 0, 0},
        {{0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8}, 0x01020304, 0x05060708},
        {{0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 0x0102030405060708, 0x090a0b0c},
        {{0x7f, 0, 0, 0, 0, 0, 0, 24, 0, 11, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 9, 10, 11, 12},
         0x0102030405060708,
         0x090a0b0c},
        {{0x89, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9}, 0x0102030405060708, 9},
        {{0x42, 0, 0, 0, 0, 0, 0, 1, 2}, 0, 0x0102},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct scsi_command cmd;
        struct scsi_sense sense;
        assert_true(scsi_parse(cases[i].cdb, &cmd, &sense));
        if (cmd.rule->lba_bytes)
            assert_int_equal(cmd.lba, cases[i].lba);
        assert_int_equal(cmd.len, cases[i].len);
    }
}

static void sense_has_two_formats(void **state)
{
    (void)state;
    uint8_t out[SCSI_SENSE_BYTES];
    struct scsi_sense s = {.key = SCSI_ILLEGAL_REQUEST, .asc = SCSI_ASC_LBA_RANGE};
    static const uint8_t fixed[18] = {0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21};
    static const uint8_t field[18] = {0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xc0, 0, 9};
    static const uint8_t descriptor[16] = {0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xc0, 0, 9, 0};
    assert_int_equal(scsi_sense_format(&s, false, out), 18);
    assert_memory_equal(out, fixed, 18);
    assert_int_equal(scsi_sense_format(&s, true, out), 8);
    scsi_bad_field(&s, 9);
    assert_int_equal(scsi_sense_format(&s, false, out), 18);
    assert_memory_equal(out, field, 18);
    assert_int_equal(scsi_sense_format(&s, true, out), 16);
    assert_memory_equal(out, descriptor, 16);
}

static void what_a_disk_says_is_translated(void **state)
{
    (void)state;
    struct scsi_sense s;
    scsi_sense_of(PLX_SC_UNRECOVERED_READ_ERROR, &s);
    assert_true(s.key == SCSI_MEDIUM_ERROR && s.asc == SCSI_ASC_READ_ERROR);
    for (unsigned i = 0; i < 3; i++) { /* of protection information */
        scsi_sense_of((uint16_t)(PLX_SC_GUARD_CHECK_ERROR + i), &s);
        assert_true(s.key == SCSI_ABORTED_COMMAND && s.asc == 0x1001 + i);
    }
    scsi_sense_of(PLX_SC_COMPARE_FAILURE, &s);
    assert_true(s.key == SCSI_MISCOMPARE && s.asc == SCSI_ASC_MISCOMPARE);
    scsi_sense_of(PLX_SC_CAPACITY_EXCEEDED, &s);
    assert_true(s.key == SCSI_DATA_PROTECT && s.asc == SCSI_ASC_SPACE);
    scsi_sense_of(0x7ff, &s);
    assert_true(s.key == SCSI_HARDWARE_ERROR && s.asc == SCSI_ASC_INTERNAL);
}

static void addresses_of_units(void **state)
{
    (void)state;
    unsigned target, unit;
    for (unsigned n = 0; n < 1 << 14; n += 37) {
        uint8_t lun[SCSI_LUN_BYTES];
        scsi_lun_format(n & 0xff, n, lun);
        assert_true(scsi_lun_parse(lun, &target, &unit));
        assert_true(target == (n & 0xff) && unit == n);
    }
    assert_true(scsi_lun_parse((const uint8_t[8]){1, 7, 0, 9}, &target, &unit) && target == 7 && unit == 9);
    assert_false(scsi_lun_parse((const uint8_t[8]){0, 7, 0, 9}, &target, &unit));
    assert_false(scsi_lun_parse((const uint8_t[8]){1, 7, 1, 9}, &target, &unit)); /* of another bus */
    assert_false(scsi_lun_parse((const uint8_t[8]){1, 7, 0x80, 9}, &target, &unit));
    assert_false(scsi_lun_parse((const uint8_t[8]){0xc1, 1}, &target, &unit));
    assert_false(scsi_lun_parse((const uint8_t[8]){1, 7, 0, 9, 0, 0, 0, 1}, &target, &unit));
}

static uint32_t ask(const struct scsi_unit *u, const uint8_t cdb[SCSI_CDB_BYTES], uint8_t out[SCSI_REPLY_BYTES])
{
    static const uint8_t units[SCSI_UNITS / 8] = {1};
    struct scsi_command cmd;
    struct scsi_sense sense;
    assert_true(scsi_parse(cdb, &cmd, &sense));
    return scsi_answer(&cmd, u, units, out, &sense);
}

static void pages_say_what_a_disk_can(void **state)
{
    (void)state;
    uint8_t out[SCSI_REPLY_BYTES];
    const uint8_t capacity[SCSI_CDB_BYTES] = {0x9e, 0x10}, limits[SCSI_CDB_BYTES] = {0x12, 1, 0xb0};
    const uint8_t thin[SCSI_CDB_BYTES] = {0x12, 1, 0xb2}, caw[SCSI_CDB_BYTES] = {0xa3, 0x0c, 1, 0x89};
    struct scsi_unit none = plain, zeroes = plain;
    none.unmaps = none.compares = false;
    zeroes.zeroes = true;
    ask(&plain, capacity, out);
    assert_true(out[13] == 3 && out[14] == 0x80);
    ask(&zeroes, capacity, out);
    assert_int_equal(out[14], 0xc0);
    ask(&none, capacity, out);
    assert_int_equal(out[14], 0);
    assert_int_equal(ask(&plain, limits, out), 64);
    assert_true(out[5] == 255 && scsi_get32(out + 28) == 8 && scsi_get32(out + 32) == 1u << 31);
    ask(&none, limits, out);
    assert_true(out[5] == 0 && scsi_get32(out + 20) == 0 && scsi_get64(out + 36) == 1 << 22);
    ask(&none, thin, out);
    assert_true(out[5] == 0 && out[6] == 0);
    ask(&zeroes, thin, out);
    assert_true(out[5] == 0xe4 && out[6] == 2);
    ask(&plain, caw, out);
    assert_int_equal(out[1], 3);
    ask(&none, caw, out);
    assert_int_equal(out[1], 1);
}

static void a_unit_of_many_blocks(void **state)
{
    (void)state;
    uint8_t out[SCSI_REPLY_BYTES];
    struct scsi_unit huge = plain;
    huge.blocks = UINT64_C(1) << 32;
    ask(&huge, (const uint8_t[SCSI_CDB_BYTES]){0x25}, out);
    assert_int_equal(scsi_get32(out), UINT32_MAX);
    huge.blocks++;
    ask(&huge, (const uint8_t[SCSI_CDB_BYTES]){0x25}, out);
    assert_int_equal(scsi_get32(out), UINT32_MAX);
    ask(&huge, (const uint8_t[SCSI_CDB_BYTES]){0x1a, 0, 8, 0, 255}, out);
    assert_int_equal(scsi_get32(out + 4), UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule_is_found_and_is_the_only_one),
        cmocka_unit_test(every_bit_is_known_or_refused),
        cmocka_unit_test(addresses_and_lengths_are_read),
        cmocka_unit_test(sense_has_two_formats),
        cmocka_unit_test(what_a_disk_says_is_translated),
        cmocka_unit_test(addresses_of_units),
        cmocka_unit_test(pages_say_what_a_disk_can),
        cmocka_unit_test(a_unit_of_many_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
