/* SPDX-License-Identifier: BSD-3-Clause */
/* The rules of reservations (Base 8.1.22), table by table; and what is kept of them in a file. */
#include "nvmf/reservation.h"

#include <errno.h>
#include <pollux/nvme_status.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { A = 0xa, B = 0xb, C = 0xc, S = 0x5 }; /* hosts: their identifiers are 16 of these, their keys 100 more */
enum {
    OK = PLX_RESV_DONE,
    CONFLICT = PLX_RESV_CONFLICT,
    INVALID = PLX_RESV_INVALID,
    WE = NVME_RESV_WRITE_EXCLUSIVE,
    EA = NVME_RESV_EXCLUSIVE_ACCESS,
    WERO = NVME_RESV_WRITE_EXCLUSIVE_REGISTRANTS,
    EARO = NVME_RESV_EXCLUSIVE_ACCESS_REGISTRANTS,
    WEAR = NVME_RESV_WRITE_EXCLUSIVE_ALL,
    EAAR = NVME_RESV_EXCLUSIVE_ACCESS_ALL,
};

static const uint8_t *id_of(int host)
{
    static uint8_t ids[256][16];
    memset(ids[host], host, 16);
    return ids[host];
}

static uint64_t key_of(int host)
{
    return (uint64_t)host + 100;
}

static struct plx_resv_notices notices;

static uint16_t command(struct plx_resv *r, int host, enum plx_resv_kind kind, int type, uint64_t current,
                        uint64_t other)
{
    struct plx_resv_cmd cmd = {.kind = (uint8_t)kind, .type = (uint8_t)type, .current = current, .other = other};
    struct plx_resv next = *r;
    memcpy(cmd.name, id_of(host), 16);
    uint16_t status = plx_resv_execute(&next, &cmd, &notices);
    if (!status)
        *r = next;
    return status;
}

static uint16_t enroll(struct plx_resv *r, int host)
{
    return command(r, host, PLX_RESV_REGISTER, 0, 0, key_of(host));
}

static uint16_t acquire(struct plx_resv *r, int host, int type)
{
    return command(r, host, PLX_RESV_ACQUIRE, type, key_of(host), 0);
}

static uint16_t preempt(struct plx_resv *r, int host, int type, uint64_t key)
{
    return command(r, host, PLX_RESV_PREEMPT, type, key_of(host), key);
}

static uint16_t release(struct plx_resv *r, int host, int type)
{
    return command(r, host, PLX_RESV_RELEASE, type, key_of(host), 0);
}

static uint16_t clear(struct plx_resv *r, int host)
{
    return command(r, host, PLX_RESV_CLEAR, 0, key_of(host), 0);
}

static uint16_t unregister(struct plx_resv *r, int host)
{
    return command(r, host, PLX_RESV_UNREGISTER, 0, key_of(host), 0);
}

/* A, B and C are registrants, of whom A has acquired a reservation of this type, if any. */
static struct plx_resv reserved(int type)
{
    struct plx_resv r = {0};
    assert_int_equal(enroll(&r, A), OK);
    assert_int_equal(enroll(&r, B), OK);
    assert_int_equal(enroll(&r, C), OK);
    if (type)
        assert_int_equal(acquire(&r, A, type), OK);
    r.generation = 10;
    return r;
}

/* Registrants by name, with a star behind those who hold the reservation, and its type: "A*B 1". */
static const char *state(const struct plx_resv *r)
{
    static char text[PLX_RESV_REGISTRANTS * 2 + 8];
    struct {
        struct nvme_resv_status status;
        struct nvme_resv_registrant who[PLX_RESV_REGISTRANTS];
    } report;
    size_t n = 0;
    nvmf_resv_report(r, &report, sizeof report);
    for (unsigned i = 0; i < report.status.registrants[0]; i++) {
        text[n++] = "0123456789ABCDEF"[report.who[i].hostid[0] & 15];
        if (report.who[i].rcsts & 1)
            text[n++] = '*';
    }
    snprintf(text + n, sizeof text - n, " %u", report.status.rtype);
    return text;
}

/* Who was told of what: "B1C2". */
static const char *told(void)
{
    static char text[PLX_RESV_REGISTRANTS * 2 + 1];
    for (unsigned i = 0; i < notices.n; i++) {
        text[2 * i] = "0123456789ABCDEF"[notices.of[i].name[0] & 15];
        text[2 * i + 1] = (char)('0' + notices.of[i].news);
    }
    text[2 * notices.n] = 0;
    return text;
}

/* ---- access ---- */

/* Figure "Command Behavior in the Presence of a Reservation": of the holder, another registrant, and any other host. */
static void test_who_may_read_and_write(void **arg)
{
    static const struct {
        int type;
        const char *holder, *registrant, *stranger;
    } table[] = {
        {0, "rw", "rw", "rw"},  {WE, "rw", "r", "r"},    {EA, "rw", "", ""},     {WERO, "rw", "rw", "r"},
        {EARO, "rw", "rw", ""}, {WEAR, "rw", "rw", "r"}, {EAAR, "rw", "rw", ""},
    };
    static const struct {
        uint8_t opcode;
        char needs; /* r, w, or nothing */
    } commands[] = {
        {NVME_IO_READ, 'r'},         {NVME_IO_COMPARE, 'r'},     {NVME_IO_VERIFY, 'r'},      {NVME_IO_WRITE, 'w'},
        {NVME_IO_WRITE_ZEROES, 'w'}, {NVME_IO_DSM, 'w'},         {NVME_IO_COPY, 'w'},        {NVME_IO_FLUSH, 'w'},
        {NVME_IO_RESV_REGISTER, 0},  {NVME_IO_RESV_ACQUIRE, 0},  {NVME_IO_RESV_RELEASE, 0},  {NVME_IO_RESV_REPORT, 0},
        {NVME_IO_ZONE_REPORT, 'r'},  {NVME_IO_ZONE_APPEND, 'w'}, {NVME_IO_ZONE_MANAGE, 'w'},
    };
    (void)arg;
    for (size_t t = 0; t < PLX_ARRAY_SIZE(table); t++) {
        const struct plx_resv r = reserved(table[t].type);
        const struct {
            int host;
            const char *may;
        } roles[] = {{A, table[t].holder}, {B, table[t].registrant}, {S, table[t].stranger}};
        for (size_t i = 0; i < PLX_ARRAY_SIZE(roles); i++)
            for (size_t c = 0; c < PLX_ARRAY_SIZE(commands); c++) {
                unsigned need = nvmf_resv_need(commands[c].opcode), may = plx_resv_access(&r, id_of(roles[i].host));
                bool allowed = !commands[c].needs || strchr(roles[i].may, commands[c].needs);
                if (((may & need) == need) != allowed)
                    fail_msg("type %d, host %X, opcode %02x: %sallowed", table[t].type, (unsigned)roles[i].host,
                             commands[c].opcode, allowed ? "not " : "");
            }
    }
    assert_int_equal(plx_resv_access(NULL, id_of(S)), PLX_MAY_READ | PLX_MAY_WRITE);
}

/* ---- commands: what they end with, what they make of A*BC, whom they tell ---- */

static void test_fields_that_have_no_meaning_are_refused(void **arg)
{
    static const struct {
        uint8_t opcode;
        uint32_t cdw10;
        int status;
    } table[] = {
        {NVME_IO_RESV_REGISTER, 2, 0},
        {NVME_IO_RESV_REGISTER, 3, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR},        /* RREGA */
        {NVME_IO_RESV_REGISTER, 1 << 3, 0},                                        /* IEKEY */
        {NVME_IO_RESV_REGISTER, 1u << 30, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR}, /* CPTPL */
        {NVME_IO_RESV_REGISTER, 2u << 30, 0},
        {NVME_IO_RESV_REGISTER, 3u << 30, 0},
        {NVME_IO_RESV_ACQUIRE, 1 << 8 | 2, 0},
        {NVME_IO_RESV_ACQUIRE, 6 << 8 | 2, 0},
        {NVME_IO_RESV_ACQUIRE, 1 << 8 | 3, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR},      /* RACQA */
        {NVME_IO_RESV_ACQUIRE, 1 << 8 | 1 << 3, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR}, /* IEKEY */
        {NVME_IO_RESV_ACQUIRE, 0, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR},               /* RTYPE */
        {NVME_IO_RESV_ACQUIRE, 7 << 8, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR},
        {NVME_IO_RESV_RELEASE, 0, 0},
        {NVME_IO_RESV_RELEASE, 1, 0},
        {NVME_IO_RESV_RELEASE, 2, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR},      /* RRELA */
        {NVME_IO_RESV_RELEASE, 1 << 3, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR}, /* IEKEY */
    };
    struct plx_resv_cmd cmd;
    (void)arg;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(table); i++)
        if (nvmf_resv_parse(table[i].opcode, table[i].cdw10, &cmd) != table[i].status)
            fail_msg("opcode %02x, dword 10 %08x", table[i].opcode, table[i].cdw10);
}

static void test_register(void **arg)
{
    static const struct {
        int host;
        enum plx_resv_kind kind;
        bool ignore_key;
        uint64_t current, other;
        int status;
        uint64_t key; /* that the host has then */
    } table[] = {
        {S, PLX_RESV_REGISTER, false, 0, 7, OK, 7},
        {S, PLX_RESV_REGISTER, false, 0, A + 100, OK, A + 100}, /* several hosts may have one key */
        {S, PLX_RESV_REGISTER, false, 0, 0, INVALID, 0},
        {A, PLX_RESV_REGISTER, false, 0, A + 100, OK, A + 100},
        {A, PLX_RESV_REGISTER, true, 0, 7, CONFLICT, A + 100},
        {A, PLX_RESV_REPLACE, false, A + 100, 7, OK, 7},
        {A, PLX_RESV_REPLACE, false, 1, 7, CONFLICT, A + 100},
        {A, PLX_RESV_REPLACE, true, 1, 7, OK, 7},
        {A, PLX_RESV_REPLACE, true, 1, 0, INVALID, A + 100},
        {S, PLX_RESV_REPLACE, false, 0, 7, CONFLICT, 0},
        {S, PLX_RESV_REPLACE, true, 0, 7, OK, 7},
        {A, PLX_RESV_UNREGISTER, false, A + 100, 0, OK, 0},
        {A, PLX_RESV_UNREGISTER, false, 1, 0, CONFLICT, A + 100},
        {A, PLX_RESV_UNREGISTER, true, 1, 0, OK, 0},
        {S, PLX_RESV_UNREGISTER, true, 0, 0, CONFLICT, 0},
    };
    (void)arg;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(table); i++) {
        struct plx_resv r = reserved(0), next = r;
        struct plx_resv_cmd cmd = {.kind = (uint8_t)table[i].kind,
                                   .ignore_key = table[i].ignore_key,
                                   .current = table[i].current,
                                   .other = table[i].other};
        memcpy(cmd.name, id_of(table[i].host), 16);
        uint16_t status = plx_resv_execute(&next, &cmd, &notices);
        uint64_t key = 0;
        r = status ? r : next;
        for (unsigned k = 0; k < r.n; k++)
            if (r.who[k].name[0] == table[i].host)
                key = r.who[k].key;
        if (status != table[i].status || key != table[i].key || r.generation != (status ? 10 : 11))
            fail_msg("line %zu: status %04x, key %llu, generation %u", i, status, (unsigned long long)key,
                     r.generation);
    }
}

/* SPC-5, 5.14.7: a key of 0 is that of somebody who has none. */
static void test_scsi_has_one_command_for_it(void **arg)
{
    static const struct {
        int host;
        bool ignore_key;
        uint64_t current, other;
        int status;
        uint64_t key;
        unsigned generation;
    } table[] = {
        {S, false, 0, 7, OK, 7, 11},
        {S, false, 1, 7, CONFLICT, 0, 10},
        {S, true, 1, 7, OK, 7, 11},
        {S, false, 0, 0, OK, 0, 10},
        {S, false, 1, 0, CONFLICT, 0, 10},
        {S, true, 1, 0, OK, 0, 10},
        {A, false, A + 100, 7, OK, 7, 11},
        {A, false, A + 100, A + 100, OK, A + 100, 11},
        {A, false, 0, 7, CONFLICT, A + 100, 10},
        {A, true, 0, 7, OK, 7, 11},
        {A, false, A + 100, 0, OK, 0, 11},
        {A, false, 1, 0, CONFLICT, A + 100, 10},
        {A, true, 1, 0, OK, 0, 11},
    };
    (void)arg;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(table); i++) {
        struct plx_resv r = reserved(0), next = r;
        struct plx_resv_cmd cmd = {.kind = PLX_RESV_SET_KEY,
                                   .ignore_key = table[i].ignore_key,
                                   .current = table[i].current,
                                   .other = table[i].other};
        memcpy(cmd.name, id_of(table[i].host), 16);
        int status = plx_resv_execute(&next, &cmd, &notices);
        r = status ? r : next;
        int who = plx_resv_registrant(&r, id_of(table[i].host));
        uint64_t key = who < 0 ? 0 : r.who[who].key;
        if (status != table[i].status || key != table[i].key || r.generation != table[i].generation)
            fail_msg("line %zu: answer %d, key %llu, generation %u", i, status, (unsigned long long)key, r.generation);
    }
}

static void test_a_namespace_has_so_many_registrants(void **arg)
{
    struct plx_resv r = {0};
    (void)arg;
    for (int host = 1; host <= PLX_RESV_REGISTRANTS; host++)
        assert_int_equal(enroll(&r, host), OK);
    assert_int_equal(enroll(&r, PLX_RESV_REGISTRANTS + 1), PLX_RESV_FULL);
    assert_int_equal(r.n, PLX_RESV_REGISTRANTS);
    assert_int_equal(unregister(&r, 1), OK);
    assert_int_equal(enroll(&r, PLX_RESV_REGISTRANTS + 1), OK);
}

static void test_acquire(void **arg)
{
    (void)arg;
    for (int type = WE; type <= EAAR; type++)
        for (int held = 0; held <= EAAR; held++) {
            struct plx_resv r = reserved(held);
            bool all = held >= WEAR;
            assert_int_equal(acquire(&r, S, type), CONFLICT); /* no registrant */
            assert_int_equal(command(&r, B, PLX_RESV_ACQUIRE, type, 1, 0), CONFLICT);
            assert_int_equal(acquire(&r, A, type), !held || held == type ? OK : CONFLICT);
            assert_int_equal(acquire(&r, B, type), held && all && held == type ? OK
                                                   : !held && type >= WEAR     ? OK
                                                                               : CONFLICT);
            assert_int_equal(r.type, held ? held : type);
            assert_int_equal(r.generation, 10);
        }
}

static void test_release(void **arg)
{
    (void)arg;
    for (int type = WE; type <= EAAR; type++) {
        struct plx_resv r = reserved(type);
        assert_int_equal(release(&r, S, type), CONFLICT);
        assert_int_equal(command(&r, A, PLX_RESV_RELEASE, type, 1, 0), CONFLICT);
        assert_int_equal(release(&r, A, type == WE ? EA : WE), PLX_RESV_WRONG_TYPE);
        assert_int_equal(r.type, type);
        assert_int_equal(release(&r, B, type), OK); /* who holds all registrants' type, or has nothing to release */
        assert_string_equal(told(), type >= WEAR ? "A2C2" : "");
        assert_int_equal(r.type, type >= WEAR ? 0 : type);
        if (type < WEAR)
            assert_int_equal(release(&r, A, type), OK);
        assert_string_equal(told(), type >= WEAR ? "A2C2" : type >= WERO ? "B2C2" : "");
        assert_string_equal(state(&r), "ABC 0");
        assert_int_equal(r.generation, 10);
    }
}

static void test_clear(void **arg)
{
    (void)arg;
    for (int type = 0; type <= EAAR; type++) {
        struct plx_resv r = reserved(type);
        assert_int_equal(clear(&r, S), CONFLICT);
        assert_int_equal(clear(&r, B), OK);
        assert_string_equal(told(), "A3C3");
        assert_string_equal(state(&r), " 0");
        assert_int_equal(r.generation, 11);
    }
}

static void test_unregister_of_a_holder(void **arg)
{
    (void)arg;
    for (int type = WE; type <= EAAR; type++) {
        struct plx_resv r = reserved(type);
        assert_int_equal(unregister(&r, A), OK);
        assert_string_equal(told(), type == WERO || type == EARO ? "B2C2" : "");
        assert_string_equal(state(&r), type == WEAR ? "B*C* 5" : type == EAAR ? "B*C* 6" : "BC 0");
        assert_int_equal(unregister(&r, C), OK);
        assert_int_equal(unregister(&r, B), OK);
        assert_string_equal(told(), "");
        assert_string_equal(state(&r), " 0");
    }
}

/* Who registered before the holder and goes does not move the reservation to somebody else. */
static void test_a_reservation_stays_with_its_holder(void **arg)
{
    struct plx_resv r = reserved(0);
    (void)arg;
    assert_int_equal(acquire(&r, C, WE), OK);
    assert_int_equal(unregister(&r, A), OK);
    assert_string_equal(state(&r), "BC* 1");
    assert_int_equal(preempt(&r, C, EA, key_of(B)), OK);
    assert_string_equal(state(&r), "C* 1");
}

/* By B, of A*BC: of what type the reservation was, and RTYPE. */
static void test_preempt(void **arg)
{
    static const struct {
        int held, type;
        uint64_t key;
        int status;
        const char *state, *told;
    } table[] = {
        {WE, WE, A + 100, OK, "B*C 1", "A1"},
        {WE, EA, A + 100, OK, "B*C 2", "A1C2"}, /* another type: who stays learns of it */
        {EA, WERO, A + 100, OK, "B*C 3", "A1C2"},
        {WERO, WERO, A + 100, OK, "B*C 3", "A1"},
        {EARO, EAAR, A + 100, OK, "B*C* 6", "A1C2"},
        {WE, WE, C + 100, OK, "A*B 1", "C1"}, /* a registration */
        {EARO, WE, C + 100, OK, "A*B 4", "C1"},
        {WE, WE, B + 100, OK, "A*C 1", ""}, /* its own */
        {WE, WE, 1, CONFLICT, "A*BC 1", NULL},
        {EA, WE, 0, INVALID, "A*BC 2", NULL},
        {EARO, WE, 0, INVALID, "A*BC 4", NULL},
        {0, WE, 0, INVALID, "ABC 0", NULL},
        {0, WE, C + 100, OK, "AB 0", "C1"}, /* and no reservation comes of it */
        {0, WE, 1, CONFLICT, "ABC 0", NULL},
        {WEAR, WE, 0, OK, "B* 1", "C1A1"},
        {EAAR, EAAR, 0, OK, "B* 6", "C1A1"},
        {WEAR, EA, A + 100, OK, "B*C* 5", "A1"}, /* it stays what it was */
        {EAAR, WE, 1, CONFLICT, "A*B*C* 6", NULL},
    };
    (void)arg;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(table); i++) {
        struct plx_resv r = reserved(table[i].held);
        uint16_t status = preempt(&r, B, table[i].type, table[i].key);
        if (status != table[i].status || strcmp(state(&r), table[i].state) ||
            (table[i].told && strcmp(told(), table[i].told)) || r.generation != (status ? 10 : 11))
            fail_msg("line %zu: status %04x, state %s, told %s, generation %u", i, status, state(&r), told(),
                     r.generation);
        assert_int_equal(preempt(&r, S, WE, key_of(A)), CONFLICT);
    }
}

/* A holder may preempt itself, for another type; who has the same key goes. */
static void test_a_holder_may_preempt_itself(void **arg)
{
    struct plx_resv r = reserved(WE);
    (void)arg;
    r.who[2].key = key_of(A);
    assert_int_equal(preempt(&r, A, EARO, key_of(A)), OK);
    assert_string_equal(state(&r), "A*B 4");
    assert_string_equal(told(), "C1B2");
    assert_true(plx_resv_expelled(&notices, id_of(C)));
    assert_false(plx_resv_expelled(&notices, id_of(B)));
}

/* ---- persistence ---- */

static uint16_t persist(struct plx_resv *r, enum plx_resv_kind kind, enum plx_resv_persist on, bool can)
{
    struct plx_resv_cmd cmd = {.kind = (uint8_t)kind, .persist = (uint8_t)on, .can_persist = can, .other = key_of(A)};
    memcpy(cmd.name, id_of(A), 16);
    return plx_resv_execute(r, &cmd, &notices);
}

static void test_persistence_is_switched_where_there_is_a_file(void **arg)
{
    struct plx_resv r = reserved(0);
    (void)arg;
    assert_int_equal(persist(&r, PLX_RESV_REGISTER, PLX_RESV_PERSISTENT, false), INVALID);
    assert_int_equal(persist(&r, PLX_RESV_SET_PERSIST, PLX_RESV_PERSISTENT, false), INVALID);
    assert_int_equal(persist(&r, PLX_RESV_SET_PERSIST, PLX_RESV_TRANSIENT, false), OK);
    assert_false(r.persist);
    assert_int_equal(persist(&r, PLX_RESV_REGISTER, PLX_RESV_PERSISTENT, true), OK);
    assert_true(r.persist);
    assert_int_equal(persist(&r, PLX_RESV_REGISTER, PLX_RESV_KEEP, true), OK);
    assert_true(r.persist);
    assert_int_equal(persist(&r, PLX_RESV_REGISTER, PLX_RESV_TRANSIENT, true), OK);
    assert_false(r.persist);
    assert_int_equal(persist(&r, PLX_RESV_SET_PERSIST, PLX_RESV_PERSISTENT, true), OK);
    assert_true(r.persist);
}

static void test_what_is_written_is_what_is_read(void **arg)
{
    char text[PLX_RESV_TEXT], again[PLX_RESV_TEXT];
    (void)arg;
    for (int type = 0; type <= EAAR; type++) {
        struct plx_resv r = reserved(0), back;
        if (type)
            assert_int_equal(acquire(&r, C, type), OK);
        assert_int_equal(unregister(&r, A), OK);
        r.persist = true;
        size_t len = plx_resv_format(&r, id_of(1), text);
        assert_int_equal(plx_resv_parse(text, len, id_of(1), &back), 0);
        assert_true(plx_resv_same(&r, &back));
        assert_int_equal(plx_resv_format(&back, id_of(1), again), len);
        assert_string_equal(again, text);
        assert_int_equal(plx_resv_parse(text, len, id_of(2), &back), -EXDEV);
        r.persist = false; /* nothing persists then */
        len = plx_resv_format(&r, id_of(1), text);
        assert_int_equal(plx_resv_parse(text, len, id_of(1), &back), 0);
        assert_int_equal(back.n + back.type + back.persist, 0);
    }
}

static void test_the_longest_text_fits(void **arg)
{
    char text[PLX_RESV_TEXT];
    struct plx_resv r = {.generation = UINT32_MAX, .persist = true}, back;
    (void)arg;
    for (int host = 1; host <= PLX_RESV_REGISTRANTS; host++)
        assert_int_equal(command(&r, host, PLX_RESV_REGISTER, 0, 0, UINT64_MAX), OK);
    r.generation = UINT32_MAX;
    size_t len = plx_resv_format(&r, id_of(1), text);
    assert_true(len < sizeof text - 1);
    assert_int_equal(plx_resv_parse(text, len, id_of(1), &back), 0);
    assert_int_equal(back.n, PLX_RESV_REGISTRANTS);
}

static void test_a_damaged_text_is_refused(void **arg)
{
    char text[PLX_RESV_TEXT], bad[PLX_RESV_TEXT];
    struct plx_resv r = reserved(EARO), back;
    (void)arg;
    r.persist = true;
    size_t len = plx_resv_format(&r, id_of(1), text);
    for (size_t i = 0; i < len; i++)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(bad, text, len + 1);
            bad[i] = (char)(bad[i] ^ 1 << bit);
            assert_int_equal(plx_resv_parse(bad, len, id_of(1), &back), -EINVAL);
        }
    for (size_t cut = 0; cut < len; cut++) {
        memcpy(bad, text, cut);
        bad[cut] = 0;
        assert_int_equal(plx_resv_parse(bad, cut, id_of(1), &back), -EINVAL);
    }
    memcpy(bad, text, len);
    memcpy(bad + len, "x", 2);
    assert_int_equal(plx_resv_parse(bad, len + 1, id_of(1), &back), -EINVAL);
}

/* A holder that is no registrant, say: well formed, and right by its checksum. */
static void test_a_text_that_says_what_cannot_be_is_refused(void **arg)
{
    char text[PLX_RESV_TEXT];
    struct plx_resv r = reserved(WE), back;
    (void)arg;
    r.persist = true;
    r.holder = 3;
    assert_int_equal(plx_resv_parse(text, plx_resv_format(&r, id_of(1), text), id_of(1), &back), -EINVAL);
    r.holder = 0;
    r.type = 7;
    assert_int_equal(plx_resv_parse(text, plx_resv_format(&r, id_of(1), text), id_of(1), &back), -EINVAL);
    r.type = WE;
    r.n = 0;
    assert_int_equal(plx_resv_parse(text, plx_resv_format(&r, id_of(1), text), id_of(1), &back), -EINVAL);
}

/* ---- the report ---- */

static void test_a_report_is_cut_where_the_data_ends(void **arg)
{
    uint8_t data[64 + 3 * 64 + 8];
    struct plx_resv r = reserved(WE);
    (void)arg;
    r.generation = 0x01020304;
    for (size_t len = 0; len <= sizeof data; len += 4) {
        memset(data, 0xee, sizeof data);
        nvmf_resv_report(&r, data, len);
        for (size_t i = len; i < sizeof data; i++)
            assert_int_equal(data[i], 0xee);
    }
    assert_int_equal(plx_peek32(data), 0x01020304);
    assert_int_equal(data[4], WE);
    assert_int_equal(data[5], 3);
    assert_int_equal(data[64] | data[65] << 8, 0xffff);
    assert_int_equal(data[66], 1); /* A holds it */
    assert_int_equal(data[64 + 8], key_of(A));
    assert_memory_equal(data + 64 + 16, id_of(A), 16);
    assert_int_equal(data[128 + 2], 0);
    assert_int_equal(data[sizeof data - 1], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_may_read_and_write),
        cmocka_unit_test(test_fields_that_have_no_meaning_are_refused),
        cmocka_unit_test(test_register),
        cmocka_unit_test(test_scsi_has_one_command_for_it),
        cmocka_unit_test(test_a_namespace_has_so_many_registrants),
        cmocka_unit_test(test_acquire),
        cmocka_unit_test(test_release),
        cmocka_unit_test(test_clear),
        cmocka_unit_test(test_unregister_of_a_holder),
        cmocka_unit_test(test_a_reservation_stays_with_its_holder),
        cmocka_unit_test(test_preempt),
        cmocka_unit_test(test_a_holder_may_preempt_itself),
        cmocka_unit_test(test_persistence_is_switched_where_there_is_a_file),
        cmocka_unit_test(test_what_is_written_is_what_is_read),
        cmocka_unit_test(test_the_longest_text_fits),
        cmocka_unit_test(test_a_damaged_text_is_refused),
        cmocka_unit_test(test_a_text_that_says_what_cannot_be_is_refused),
        cmocka_unit_test(test_a_report_is_cut_where_the_data_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
