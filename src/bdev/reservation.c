/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdev/reservation.h"

#include "base/crc32c.h"
#include "base/uuid.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- who may do what ---- */

bool plx_resv_by_all(const struct plx_resv *r)
{
    return r->type == PLX_RESV_WRITE_EXCLUSIVE_ALL || r->type == PLX_RESV_EXCLUSIVE_ACCESS_ALL;
}

int plx_resv_registrant(const struct plx_resv *r, const uint8_t name[PLX_RESV_NAME])
{
    for (unsigned i = 0; i < r->n; i++)
        if (memcmp(r->who[i].name, name, sizeof r->who[i].name) == 0)
            return (int)i;
    return -1;
}

bool plx_resv_holds(const struct plx_resv *r, int who)
{
    return r->type && who >= 0 && (plx_resv_by_all(r) || who == r->holder);
}

unsigned plx_resv_access(const struct plx_resv *r, const uint8_t *name)
{
    const unsigned all = PLX_MAY_READ | PLX_MAY_WRITE;
    if (!r || !r->type)
        return all;
    const int who = name ? plx_resv_registrant(r, name) : -1;
    switch ((enum plx_resv_type)r->type) {
    case PLX_RESV_NONE:
        break;
    case PLX_RESV_WRITE_EXCLUSIVE:
        return plx_resv_holds(r, who) ? all : PLX_MAY_READ;
    case PLX_RESV_EXCLUSIVE_ACCESS:
        return plx_resv_holds(r, who) ? all : 0;
    case PLX_RESV_WRITE_EXCLUSIVE_REGISTRANTS:
    case PLX_RESV_WRITE_EXCLUSIVE_ALL:
        return who >= 0 ? all : PLX_MAY_READ;
    case PLX_RESV_EXCLUSIVE_ACCESS_REGISTRANTS:
    case PLX_RESV_EXCLUSIVE_ACCESS_ALL:
        return who >= 0 ? all : 0;
    }
    return all;
}

/* ---- what commands do ---- */

static void notify(struct plx_resv_notices *out, const uint8_t name[PLX_RESV_NAME], enum plx_resv_news news)
{
    struct plx_resv_notice *n = &out->of[out->n++]; /* one a registrant at most */
    memcpy(n->name, name, sizeof n->name);
    n->news = (uint8_t)news;
}

/* All registrants but one. */
static void notify_others(const struct plx_resv *r, const uint8_t name[PLX_RESV_NAME], enum plx_resv_news news,
                          struct plx_resv_notices *out)
{
    for (unsigned i = 0; i < r->n; i++)
        if (memcmp(r->who[i].name, name, sizeof r->who[i].name) != 0)
            notify(out, r->who[i].name, news);
}

static enum plx_resv_answer enter(struct plx_resv *r, const struct plx_resv_cmd *cmd)
{
    if (r->n == PLX_RESV_REGISTRANTS)
        return PLX_RESV_FULL;
    struct plx_registrant *w = &r->who[r->n++];
    memcpy(w->name, cmd->name, sizeof w->name);
    w->key = cmd->other;
    return PLX_RESV_DONE;
}

static void take(struct plx_resv *r, uint8_t type, int who)
{
    r->type = type;
    r->holder = plx_resv_by_all(r) ? 0 : (uint8_t)who;
}

static void resv_end(struct plx_resv *r)
{
    r->type = PLX_RESV_NONE;
    r->holder = 0;
}

/* A registrant is none any more; and with the last one who holds it goes the reservation. */
static void registrant_leave(struct plx_resv *r, unsigned who)
{
    bool last = plx_resv_by_all(r) ? r->n == 1 : who == r->holder;
    if (last)
        resv_end(r);
    if (r->holder > who)
        r->holder--;
    r->n--;
    memmove(&r->who[who], &r->who[who + 1], (r->n - who) * sizeof r->who[0]);
}

/* The holder's registration goes, or it gives the reservation up: those who could not do all learn of it. */
static void released(const struct plx_resv *r, uint8_t type, const uint8_t name[PLX_RESV_NAME],
                     struct plx_resv_notices *out)
{
    if (type != PLX_RESV_WRITE_EXCLUSIVE && type != PLX_RESV_EXCLUSIVE_ACCESS)
        notify_others(r, name, PLX_RESV_RELEASED, out);
}

static enum plx_resv_answer unregister(struct plx_resv *r, const struct plx_resv_cmd *cmd, struct plx_resv_notices *out)
{
    uint8_t type = r->type;
    registrant_leave(r, (unsigned)plx_resv_registrant(r, cmd->name));
    if (type && !r->type)
        released(r, type, cmd->name, out);
    return PLX_RESV_DONE;
}

/* What SCSI's REGISTER means: a key of its own to somebody who has none, another one, or none any more. */
static enum plx_resv_kind kind_meant(const struct plx_resv_cmd *cmd, int who)
{
    if (cmd->kind != PLX_RESV_SET_KEY)
        return (enum plx_resv_kind)cmd->kind;
    return who < 0 ? PLX_RESV_REGISTER : cmd->other ? PLX_RESV_REPLACE : PLX_RESV_UNREGISTER;
}

static enum plx_resv_answer enroll(struct plx_resv *r, const struct plx_resv_cmd *cmd, struct plx_resv_notices *out)
{
    const int who = plx_resv_registrant(r, cmd->name);
    const enum plx_resv_kind kind = kind_meant(cmd, who);
    const bool knows = who >= 0 && (cmd->ignore_key || r->who[who].key == cmd->current);
    if (cmd->kind == PLX_RESV_SET_KEY && who < 0 && cmd->current && !cmd->ignore_key)
        return PLX_RESV_CONFLICT;
    if (cmd->kind == PLX_RESV_SET_KEY && who < 0 && !cmd->other)
        return PLX_RESV_DONE;
    if (kind != PLX_RESV_UNREGISTER && !cmd->other)
        return PLX_RESV_INVALID; /* to preempt one of 0 stands for all: nobody has it as a key */
    if (cmd->persist == PLX_RESV_PERSISTENT && !cmd->can_persist)
        return PLX_RESV_INVALID;
    if (cmd->persist)
        r->persist = cmd->persist == PLX_RESV_PERSISTENT;
    r->generation++;
    if (who < 0 && (kind == PLX_RESV_REGISTER || (kind == PLX_RESV_REPLACE && cmd->ignore_key)))
        return enter(r, cmd);
    if (kind == PLX_RESV_REGISTER)
        return r->who[who].key == cmd->other ? PLX_RESV_DONE : PLX_RESV_CONFLICT;
    if (!knows)
        return PLX_RESV_CONFLICT;
    if (kind == PLX_RESV_UNREGISTER)
        return unregister(r, cmd, out);
    r->who[who].key = cmd->other;
    return PLX_RESV_DONE;
}

/* Registrants that have a key, or all of them where it is 0, are none any more. @return how many those were */
static unsigned expel(struct plx_resv *r, const struct plx_resv_cmd *cmd, bool only_others,
                      struct plx_resv_notices *out)
{
    unsigned n = 0;
    for (unsigned i = r->n; i-- > 0;) {
        bool own = memcmp(r->who[i].name, cmd->name, sizeof cmd->name) == 0;
        if ((cmd->other && r->who[i].key != cmd->other) || (own && only_others))
            continue;
        if (!own)
            notify(out, r->who[i].name, PLX_RESV_EXPELLED);
        registrant_leave(r, i);
        n++;
    }
    return n;
}

/*
 * Of the reservation, where the other key is its holder's, or 0 for what all registrants hold; else of registrations
 * alone, of which there must be one then.
 */
static enum plx_resv_answer preempt(struct plx_resv *r, const struct plx_resv_cmd *cmd, struct plx_resv_notices *out)
{
    const uint8_t type = r->type;
    bool all = plx_resv_by_all(r);
    if (!cmd->other && !all)
        return PLX_RESV_INVALID;
    r->generation++;
    if (!type || (all ? cmd->other != 0 : r->who[r->holder].key != cmd->other))
        return expel(r, cmd, false, out) ? PLX_RESV_DONE : PLX_RESV_CONFLICT;
    resv_end(r);
    expel(r, cmd, true, out);
    take(r, cmd->type, plx_resv_registrant(r, cmd->name));
    if (type != cmd->type)
        notify_others(r, cmd->name, PLX_RESV_RELEASED, out);
    return PLX_RESV_DONE;
}

static enum plx_resv_answer acquire(struct plx_resv *r, const struct plx_resv_cmd *cmd, int who)
{
    if (r->type)
        return plx_resv_holds(r, who) && r->type == cmd->type ? PLX_RESV_DONE : PLX_RESV_CONFLICT;
    take(r, cmd->type, who);
    return PLX_RESV_DONE;
}

static enum plx_resv_answer resv_release(struct plx_resv *r, const struct plx_resv_cmd *cmd, int who,
                                         struct plx_resv_notices *out)
{
    const uint8_t type = r->type;
    if (!plx_resv_holds(r, who)) /* there is nothing of its own to release, which is no error */
        return PLX_RESV_DONE;
    if (type != cmd->type)
        return PLX_RESV_WRONG_TYPE;
    resv_end(r);
    released(r, type, cmd->name, out);
    return PLX_RESV_DONE;
}

static enum plx_resv_answer clear(struct plx_resv *r, const struct plx_resv_cmd *cmd, struct plx_resv_notices *out)
{
    notify_others(r, cmd->name, PLX_RESV_PREEMPTED, out);
    r->generation++;
    r->n = 0;
    resv_end(r);
    return PLX_RESV_DONE;
}

/* Commands of registrants, who say their keys. */
static enum plx_resv_answer as_registrant(struct plx_resv *r, const struct plx_resv_cmd *cmd,
                                          struct plx_resv_notices *out)
{
    const int who = plx_resv_registrant(r, cmd->name);
    if (who < 0 || r->who[who].key != cmd->current)
        return PLX_RESV_CONFLICT;
    switch (cmd->kind) {
    case PLX_RESV_ACQUIRE:
        return acquire(r, cmd, who);
    case PLX_RESV_RELEASE:
        return resv_release(r, cmd, who, out);
    case PLX_RESV_CLEAR:
        return clear(r, cmd, out);
    default:
        return preempt(r, cmd, out);
    }
}

static enum plx_resv_answer set_persist(struct plx_resv *r, const struct plx_resv_cmd *cmd)
{
    if (cmd->persist == PLX_RESV_PERSISTENT && !cmd->can_persist)
        return PLX_RESV_INVALID;
    r->persist = cmd->persist == PLX_RESV_PERSISTENT;
    return PLX_RESV_DONE;
}

enum plx_resv_answer plx_resv_execute(struct plx_resv *r, const struct plx_resv_cmd *cmd, struct plx_resv_notices *out)
{
    out->n = 0;
    switch ((enum plx_resv_kind)cmd->kind) {
    case PLX_RESV_REGISTER:
    case PLX_RESV_UNREGISTER:
    case PLX_RESV_REPLACE:
    case PLX_RESV_SET_KEY:
        return enroll(r, cmd, out);
    case PLX_RESV_ACQUIRE:
    case PLX_RESV_PREEMPT:
    case PLX_RESV_PREEMPT_AND_ABORT:
    case PLX_RESV_RELEASE:
    case PLX_RESV_CLEAR:
        return as_registrant(r, cmd, out);
    case PLX_RESV_SET_PERSIST:
        return set_persist(r, cmd);
    case PLX_RESV_LOOK:
        break;
    }
    return PLX_RESV_DONE;
}

bool plx_resv_same(const struct plx_resv *a, const struct plx_resv *b)
{
    /* Whatever registrants lose or gain counts the generation up. */
    return a->generation == b->generation && a->type == b->type && a->holder == b->holder && a->persist == b->persist;
}

bool plx_resv_expelled(const struct plx_resv_notices *notices, const uint8_t name[PLX_RESV_NAME])
{
    for (unsigned i = 0; i < notices->n; i++)
        if (notices->of[i].news == PLX_RESV_EXPELLED &&
            memcmp(notices->of[i].name, name, sizeof notices->of[i].name) == 0)
            return true;
    return false;
}

/* ---- as text ---- */

size_t plx_resv_format(const struct plx_resv *r, const uint8_t uuid[16], char text[PLX_RESV_TEXT])
{
    static const struct plx_resv none;
    const struct plx_resv *kept = r->persist ? r : &none;
    char id[PLX_UUID_TEXT];
    plx_uuid_format(uuid, id);
    size_t n = (size_t)snprintf(text, PLX_RESV_TEXT,
                                "pollux reservations 1\nnamespace %s\n"
                                "persist %u generation %" PRIu32 " type %u holder %u registrants %u\n",
                                id, kept->persist, kept->generation, kept->type, kept->holder, kept->n);
    for (unsigned i = 0; i < kept->n; i++) {
        plx_uuid_format(kept->who[i].name, id);
        n += (size_t)snprintf(text + n, PLX_RESV_TEXT - n, "host %s key %016" PRIx64 "\n", id, kept->who[i].key);
    }
    return n + (size_t)snprintf(text + n, PLX_RESV_TEXT - n, "crc32c %08" PRIx32 "\n", plx_crc32c(text, n));
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

static bool parse_registrants(const char *text, struct plx_resv *r)
{
    char line[128], id[PLX_UUID_TEXT];
    for (unsigned i = 0; i < r->n; i++) {
        struct plx_registrant *w = &r->who[i];
        text = take_line(text, line);
        if (!text || sscanf(line, "host %36s key %" SCNx64, id, &w->key) != 2 || !plx_uuid_parse(id, w->name))
            return false;
    }
    return true;
}

int plx_resv_parse(const char *text, size_t len, const uint8_t uuid[16], struct plx_resv *r)
{
    char line[128], id[PLX_UUID_TEXT], again[PLX_RESV_TEXT];
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
    if (type > PLX_RESV_EXCLUSIVE_ACCESS_ALL || n > PLX_RESV_REGISTRANTS || (n ? holder >= n : holder || type))
        return -EINVAL;
    r->persist = persist;
    r->type = (uint8_t)type;
    r->holder = (uint8_t)holder;
    r->n = (uint8_t)n;
    /* What is right in every byte is what would be written now. */
    if (!parse_registrants(at, r) || plx_resv_format(r, of, again) != len || memcmp(again, text, len) != 0)
        return -EINVAL;
    return memcmp(of, uuid, sizeof of) == 0 ? 0 : -EXDEV;
}
