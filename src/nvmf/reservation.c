/* SPDX-License-Identifier: BSD-3-Clause */
/* The rules of reservations (Base 7.5 to 7.8, 8.1.22): pure functions of who has registered and what is held. */
#include "nvmf/reservation.h"

#include "base/crc32c.h"
#include "base/uuid.h"

#include <errno.h>
#include <inttypes.h>
#include <pollux/nvme_status.h>
#include <stdio.h>
#include <string.h>

#define DNR NVME_STATUS_DNR

/* ---- who may do what ---- */

static bool held_by_all(const struct nvmf_resv *r)
{
    return r->type == NVME_RESV_WRITE_EXCLUSIVE_ALL || r->type == NVME_RESV_EXCLUSIVE_ACCESS_ALL;
}

/* @return which registrant, or -1 */
static int registrant(const struct nvmf_resv *r, const uint8_t hostid[16])
{
    for (unsigned i = 0; i < r->n; i++)
        if (memcmp(r->who[i].hostid, hostid, sizeof r->who[i].hostid) == 0)
            return (int)i;
    return -1;
}

static bool holds(const struct nvmf_resv *r, int who)
{
    return r->type && who >= 0 && (held_by_all(r) || who == r->holder);
}

unsigned nvmf_resv_access(const struct nvmf_resv *r, const uint8_t hostid[16])
{
    const unsigned all = NVMF_MAY_READ | NVMF_MAY_WRITE;
    if (!r || !r->type)
        return all;
    int who = registrant(r, hostid);
    switch ((enum nvme_resv_type)r->type) {
    case NVME_RESV_NONE:
        break;
    case NVME_RESV_WRITE_EXCLUSIVE:
        return holds(r, who) ? all : NVMF_MAY_READ;
    case NVME_RESV_EXCLUSIVE_ACCESS:
        return holds(r, who) ? all : 0;
    case NVME_RESV_WRITE_EXCLUSIVE_REGISTRANTS:
    case NVME_RESV_WRITE_EXCLUSIVE_ALL:
        return who >= 0 ? all : NVMF_MAY_READ;
    case NVME_RESV_EXCLUSIVE_ACCESS_REGISTRANTS:
    case NVME_RESV_EXCLUSIVE_ACCESS_ALL:
        return who >= 0 ? all : 0;
    }
    return all;
}

/* Base 8.1.22, figure "Command Behavior in the Presence of a Reservation": the read and the write command group */
unsigned nvmf_resv_need(uint8_t opcode)
{
    switch (opcode) {
    case NVME_IO_READ:
    case NVME_IO_COMPARE:
    case NVME_IO_VERIFY:
        return NVMF_MAY_READ;
    case NVME_IO_RESV_REGISTER:
    case NVME_IO_RESV_REPORT:
    case NVME_IO_RESV_ACQUIRE:
    case NVME_IO_RESV_RELEASE:
        return 0;
    default: /* Copy too: nobody may write who may not read */
        return NVMF_MAY_WRITE;
    }
}

/* ---- what commands do ---- */

static void notify(struct nvmf_notices *out, const uint8_t hostid[16], enum nvme_resv_notice type)
{
    struct nvmf_notice *n = &out->of[out->n++]; /* one a registrant at most */
    memcpy(n->hostid, hostid, sizeof n->hostid);
    n->type = (uint8_t)type;
}

/* All registrants but one. */
static void notify_others(const struct nvmf_resv *r, const uint8_t hostid[16], enum nvme_resv_notice type,
                          struct nvmf_notices *out)
{
    for (unsigned i = 0; i < r->n; i++)
        if (memcmp(r->who[i].hostid, hostid, sizeof r->who[i].hostid) != 0)
            notify(out, r->who[i].hostid, type);
}

static uint16_t enter(struct nvmf_resv *r, const struct nvmf_resv_cmd *cmd)
{
    if (r->n == NVMF_REGISTRANTS)
        return PLX_SC_INTERNAL_ERROR | DNR; /* there is no status that says so */
    struct nvmf_registrant *w = &r->who[r->n++];
    memcpy(w->hostid, cmd->hostid, sizeof w->hostid);
    w->key = cmd->other;
    return PLX_SC_SUCCESS;
}

static void take(struct nvmf_resv *r, uint8_t type, int who)
{
    r->type = type;
    r->holder = held_by_all(r) ? 0 : (uint8_t)who;
}

static void resv_end(struct nvmf_resv *r)
{
    r->type = NVME_RESV_NONE;
    r->holder = 0;
}

/* A registrant is none any more; and with the last one who holds it goes the reservation. */
static void registrant_leave(struct nvmf_resv *r, unsigned who)
{
    bool last = held_by_all(r) ? r->n == 1 : who == r->holder;
    if (last)
        resv_end(r);
    if (r->holder > who)
        r->holder--;
    r->n--;
    memmove(&r->who[who], &r->who[who + 1], (r->n - who) * sizeof r->who[0]);
}

/* The holder's registration goes, or it gives the reservation up: those who could not do all learn of it. */
static void released(const struct nvmf_resv *r, uint8_t type, const uint8_t hostid[16], struct nvmf_notices *out)
{
    if (type != NVME_RESV_WRITE_EXCLUSIVE && type != NVME_RESV_EXCLUSIVE_ACCESS)
        notify_others(r, hostid, NVME_RESV_NOTICE_RELEASED, out);
}

static uint16_t unregister(struct nvmf_resv *r, const struct nvmf_resv_cmd *cmd, struct nvmf_notices *out)
{
    uint8_t type = r->type;
    registrant_leave(r, (unsigned)registrant(r, cmd->hostid));
    if (type && !r->type)
        released(r, type, cmd->hostid, out);
    return PLX_SC_SUCCESS;
}

static uint16_t do_register(struct nvmf_resv *r, const struct nvmf_resv_cmd *cmd, struct nvmf_notices *out)
{
    int who = registrant(r, cmd->hostid);
    bool knows = who >= 0 && (cmd->ignore_key || r->who[who].key == cmd->current);
    if (cmd->action != NVME_RREGA_UNREGISTER && !cmd->other)
        return PLX_SC_INVALID_FIELD | DNR; /* a PRKEY of 0 stands for all: nobody has it as a key */
    if (cmd->cptpl == NVME_CPTPL_PERSIST && !cmd->can_persist)
        return PLX_SC_INVALID_FIELD | DNR;
    if (cmd->cptpl)
        r->persist = cmd->cptpl == NVME_CPTPL_PERSIST;
    r->generation++;
    switch (cmd->action) {
    case NVME_RREGA_REGISTER:
        if (who < 0)
            return enter(r, cmd);
        return r->who[who].key == cmd->other ? PLX_SC_SUCCESS : PLX_SC_RESERVATION_CONFLICT | DNR;
    case NVME_RREGA_REPLACE:
        if (who < 0 && cmd->ignore_key)
            return enter(r, cmd);
        if (knows)
            r->who[who].key = cmd->other;
        return knows ? PLX_SC_SUCCESS : PLX_SC_RESERVATION_CONFLICT | DNR;
    default:
        return knows ? unregister(r, cmd, out) : PLX_SC_RESERVATION_CONFLICT | DNR;
    }
}

/* Registrants that have a key, or all of them where it is 0, are none any more. @return how many those were */
static unsigned expel(struct nvmf_resv *r, const struct nvmf_resv_cmd *cmd, bool only_others, struct nvmf_notices *out)
{
    unsigned n = 0;
    for (unsigned i = r->n; i-- > 0;) {
        bool own = memcmp(r->who[i].hostid, cmd->hostid, sizeof cmd->hostid) == 0;
        if ((cmd->other && r->who[i].key != cmd->other) || (own && only_others))
            continue;
        if (!own)
            notify(out, r->who[i].hostid, NVME_RESV_NOTICE_REGISTRATION_PREEMPTED);
        registrant_leave(r, i);
        n++;
    }
    return n;
}

/*
 * Of the reservation, where PRKEY is its holder's key, or 0 for what all registrants hold; else of registrations alone,
 * of which there must be one then.
 */
static uint16_t preempt(struct nvmf_resv *r, const struct nvmf_resv_cmd *cmd, struct nvmf_notices *out)
{
    const uint8_t type = r->type;
    bool all = held_by_all(r);
    if (!cmd->other && !all)
        return PLX_SC_INVALID_FIELD | DNR;
    r->generation++;
    if (!type || (all ? cmd->other != 0 : r->who[r->holder].key != cmd->other))
        return expel(r, cmd, false, out) ? PLX_SC_SUCCESS : PLX_SC_RESERVATION_CONFLICT | DNR;
    resv_end(r);
    expel(r, cmd, true, out);
    take(r, cmd->type, registrant(r, cmd->hostid));
    if (type != cmd->type)
        notify_others(r, cmd->hostid, NVME_RESV_NOTICE_RELEASED, out);
    return PLX_SC_SUCCESS;
}

static uint16_t do_acquire(struct nvmf_resv *r, const struct nvmf_resv_cmd *cmd, struct nvmf_notices *out)
{
    int who = registrant(r, cmd->hostid);
    if (who < 0 || r->who[who].key != cmd->current)
        return PLX_SC_RESERVATION_CONFLICT | DNR;
    if (cmd->action != NVME_RACQA_ACQUIRE)
        return preempt(r, cmd, out);
    if (r->type)
        return holds(r, who) && r->type == cmd->type ? PLX_SC_SUCCESS : PLX_SC_RESERVATION_CONFLICT | DNR;
    take(r, cmd->type, who);
    return PLX_SC_SUCCESS;
}

static uint16_t do_release(struct nvmf_resv *r, const struct nvmf_resv_cmd *cmd, struct nvmf_notices *out)
{
    int who = registrant(r, cmd->hostid);
    const uint8_t type = r->type;
    if (who < 0 || r->who[who].key != cmd->current)
        return PLX_SC_RESERVATION_CONFLICT | DNR;
    if (cmd->action == NVME_RRELA_CLEAR) {
        notify_others(r, cmd->hostid, NVME_RESV_NOTICE_PREEMPTED, out);
        r->generation++;
        r->n = 0;
        resv_end(r);
        return PLX_SC_SUCCESS;
    }
    if (!holds(r, who)) /* there is nothing of its own to release, which is no error */
        return PLX_SC_SUCCESS;
    if (type != cmd->type)
        return PLX_SC_INVALID_FIELD | DNR;
    resv_end(r);
    released(r, type, cmd->hostid, out);
    return PLX_SC_SUCCESS;
}

uint16_t nvmf_resv_check(enum nvmf_resv_kind kind, uint32_t cdw10)
{
    static const uint8_t actions[] = {
        [NVMF_RESV_REGISTER] = NVME_RREGA_REPLACE,
        [NVMF_RESV_ACQUIRE] = NVME_RACQA_PREEMPT_AND_ABORT,
        [NVMF_RESV_RELEASE] = NVME_RRELA_CLEAR,
    };
    uint8_t type = (uint8_t)(cdw10 >> 8);
    bool good = (cdw10 & 7) <= actions[kind];
    if (kind == NVMF_RESV_REGISTER)
        good &= cdw10 >> 30 != NVME_CPTPL_RESERVED;
    else
        good &= !(cdw10 & 1 << 3); /* IEKEY: of Register alone */
    if (kind == NVMF_RESV_ACQUIRE)
        good &= type >= NVME_RESV_WRITE_EXCLUSIVE && type <= NVME_RESV_EXCLUSIVE_ACCESS_ALL;
    return good ? PLX_SC_SUCCESS : PLX_SC_INVALID_FIELD | DNR;
}

uint16_t nvmf_resv_execute(struct nvmf_resv *r, const struct nvmf_resv_cmd *cmd, struct nvmf_notices *out)
{
    out->n = 0;
    switch ((enum nvmf_resv_kind)cmd->kind) {
    case NVMF_RESV_REGISTER:
        return do_register(r, cmd, out);
    case NVMF_RESV_ACQUIRE:
        return do_acquire(r, cmd, out);
    case NVMF_RESV_RELEASE:
        return do_release(r, cmd, out);
    case NVMF_RESV_SET_PERSIST:
        if (cmd->persist && !cmd->can_persist)
            return PLX_SC_INVALID_FIELD | DNR;
        r->persist = cmd->persist;
        return PLX_SC_SUCCESS;
    case NVMF_RESV_REPORT:
    case NVMF_RESV_GET_PERSIST:
        break;
    }
    return PLX_SC_SUCCESS;
}

bool nvmf_resv_same(const struct nvmf_resv *a, const struct nvmf_resv *b)
{
    /* Whatever registrants lose or gain counts the generation up. */
    return a->generation == b->generation && a->type == b->type && a->holder == b->holder && a->persist == b->persist;
}

bool nvmf_resv_expelled(const struct nvmf_notices *notices, const uint8_t hostid[16])
{
    for (unsigned i = 0; i < notices->n; i++)
        if (notices->of[i].type == NVME_RESV_NOTICE_REGISTRATION_PREEMPTED &&
            memcmp(notices->of[i].hostid, hostid, sizeof notices->of[i].hostid) == 0)
            return true;
    return false;
}

void nvmf_resv_report(const struct nvmf_resv *r, void *data, size_t len)
{
    struct {
        struct nvme_resv_status status;
        struct nvme_resv_registrant who[NVMF_REGISTRANTS];
    } all;
    memset(&all, 0, sizeof all);
    all.status.gen = plx_put32(r->generation);
    all.status.rtype = r->type;
    all.status.registrants[0] = r->n;
    all.status.ptpls = r->persist;
    for (unsigned i = 0; i < r->n; i++) {
        all.who[i].cntlid = plx_put16(NVME_CNTLID_DYNAMIC); /* a host is meant, not one of its controllers */
        all.who[i].rcsts = holds(r, (int)i);
        all.who[i].rkey = plx_put64(r->who[i].key);
        memcpy(all.who[i].hostid, r->who[i].hostid, sizeof all.who[i].hostid);
    }
    size_t n = plx_min_u64(len, sizeof all.status + r->n * sizeof all.who[0]);
    memcpy(data, &all, n);
    memset((uint8_t *)data + n, 0, len - n);
}

/* ---- as text ---- */

size_t nvmf_resv_format(const struct nvmf_resv *r, const uint8_t uuid[16], char text[NVMF_RESV_TEXT])
{
    static const struct nvmf_resv none;
    const struct nvmf_resv *kept = r->persist ? r : &none;
    char id[PLX_UUID_TEXT];
    plx_uuid_format(uuid, id);
    size_t n = (size_t)snprintf(text, NVMF_RESV_TEXT,
                                "pollux reservations 1\nnamespace %s\n"
                                "persist %u generation %" PRIu32 " type %u holder %u registrants %u\n",
                                id, kept->persist, kept->generation, kept->type, kept->holder, kept->n);
    for (unsigned i = 0; i < kept->n; i++) {
        plx_uuid_format(kept->who[i].hostid, id);
        n += (size_t)snprintf(text + n, NVMF_RESV_TEXT - n, "host %s key %016" PRIx64 "\n", id, kept->who[i].key);
    }
    return n + (size_t)snprintf(text + n, NVMF_RESV_TEXT - n, "crc32c %08" PRIx32 "\n", plx_crc32c(text, n));
}

/* One line, without its end. @return what follows, or NULL where there is no such line */
static const char *take_line(const char *text, char line[128])
{
    size_t n = text ? strcspn(text, "\n") : 0;
    if (!text || !text[n] || n >= 128)
        return NULL;
    memcpy(line, text, n);
    line[n] = 0;
    return text + n + 1;
}

static bool parse_registrants(const char *text, struct nvmf_resv *r)
{
    char line[128], id[PLX_UUID_TEXT];
    for (unsigned i = 0; i < r->n; i++) {
        struct nvmf_registrant *w = &r->who[i];
        text = take_line(text, line);
        if (!text || sscanf(line, "host %36s key %" SCNx64, id, &w->key) != 2 || !plx_uuid_parse(id, w->hostid))
            return false;
    }
    return true;
}

int nvmf_resv_parse(const char *text, size_t len, const uint8_t uuid[16], struct nvmf_resv *r)
{
    char line[128], id[PLX_UUID_TEXT], again[NVMF_RESV_TEXT];
    uint8_t of[16];
    unsigned persist, type, holder, n;
    memset(r, 0, sizeof *r);
    const char *at = take_line(text, line);
    at = take_line(at, line);
    if (!at || sscanf(line, "namespace %36s", id) != 1 || !plx_uuid_parse(id, of))
        return -EINVAL;
    at = take_line(at, line);
    if (!at || sscanf(line, "persist %u generation %" SCNu32 " type %u holder %u registrants %u", &persist,
                      &r->generation, &type, &holder, &n) != 5)
        return -EINVAL;
    if (type > NVME_RESV_EXCLUSIVE_ACCESS_ALL || n > NVMF_REGISTRANTS || (n ? holder >= n : holder || type))
        return -EINVAL;
    r->persist = persist;
    r->type = (uint8_t)type;
    r->holder = (uint8_t)holder;
    r->n = (uint8_t)n;
    /* What is right in every byte is what would be written now. */
    if (!parse_registrants(at, r) || nvmf_resv_format(r, of, again) != len || memcmp(again, text, len) != 0)
        return -EINVAL;
    return memcmp(of, uuid, sizeof of) == 0 ? 0 : -EXDEV;
}
