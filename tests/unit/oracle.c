/* SPDX-License-Identifier: BSD-3-Clause */
#include "oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SECTOR = 512 };

enum kind { BASE, WRITES, DISCARDS, FLUSHES, READS };

/* Times are counts of what the oracle was told. */
struct request {
    enum kind kind;
    bool fua, ok;
    uint64_t begun, ended; /* ended is 0 until then */
};

/* What a request makes of a block. */
struct value {
    struct value *next; /* one that was submitted earlier; the last is what was there at the beginning */
    uint32_t by;        /* which request */
    uint64_t sectors[];
};

struct oracle {
    uint64_t blocks, clock, flushed; /* when the latest flush was submitted that has completed */
    uint32_t block_size, sectors;
    unsigned flags;
    struct value **at; /* of each block */
    struct request *requests;
    uint32_t n, room;
    uint64_t forgotten; /* requests before this count */
};

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

/*
 * That of zeroes is 0. In four lanes, none of which waits for another, and of zeroes by one look: a life would be spent
 * on little else.
 */
static uint64_t hash(const uint8_t *p)
{
    uint64_t h[4] = {0}, word[4];
    if (!*p && !memcmp(p, p + 1, SECTOR - 1))
        return 0;
    for (unsigned i = 0; i < SECTOR; i += sizeof word) {
        memcpy(word, p + i, sizeof word);
        for (unsigned k = 0; k < 4; k++)
            h[k] = mix(h[k], word[k]);
    }
    return mix(mix(mix(h[0], h[1]), h[2]), h[3]);
}

/* ---- values ---- */

/* data: NULL for zeroes. */
static void add_value(struct oracle *o, uint64_t lba, uint32_t by, const uint8_t *data)
{
    struct value *v = calloc(1, sizeof *v + o->sectors * sizeof v->sectors[0]);
    assert_non_null(v);
    v->by = by;
    v->next = o->at[lba];
    for (uint32_t i = 0; i < o->sectors && data; i++)
        v->sectors[i] = hash(data + (size_t)i * SECTOR);
    o->at[lba] = v;
}

static void drop_values(struct oracle *o, uint64_t lba)
{
    for (struct value *v; (v = o->at[lba]);) {
        o->at[lba] = v->next;
        free(v);
    }
}

struct oracle *oracle_new(uint64_t blocks, uint32_t block_size, unsigned flags)
{
    struct oracle *o = calloc(1, sizeof *o);
    assert_non_null(o);
    o->blocks = blocks;
    o->block_size = block_size;
    o->sectors = block_size / SECTOR;
    o->flags = flags;
    o->at = calloc(blocks, sizeof(struct value *));
    assert_non_null(o->at);
    oracle_restart(o, NULL);
    return o;
}

void oracle_free(struct oracle *o)
{
    for (uint64_t lba = 0; lba < o->blocks; lba++)
        drop_values(o, lba);
    free(o->at);
    free(o->requests);
    free(o);
}

/* ---- requests ---- */

static uint32_t add_request(struct oracle *o, enum kind kind, bool fua)
{
    if (o->n == o->room) {
        o->room = o->room ? 2 * o->room : 64;
        o->requests = realloc(o->requests, o->room * sizeof *o->requests);
        assert_non_null(o->requests);
    }
    o->requests[o->n] = (struct request){.kind = kind, .fua = fua, .begun = ++o->clock};
    return o->n++;
}

static uint64_t writes(struct oracle *o, enum kind kind, uint64_t lba, uint32_t nlb, const uint8_t *data, bool fua)
{
    uint32_t by = add_request(o, kind, fua);
    assert_true(lba < o->blocks && nlb <= o->blocks - lba);
    for (uint32_t i = 0; i < nlb; i++)
        add_value(o, lba + i, by, data ? data + (size_t)i * o->block_size : NULL);
    return o->forgotten + by;
}

uint64_t oracle_write(struct oracle *o, uint64_t lba, uint32_t nlb, const void *data, bool fua)
{
    return writes(o, WRITES, lba, nlb, data, fua);
}

uint64_t oracle_zeroes(struct oracle *o, uint64_t lba, uint32_t nlb, bool fua)
{
    return writes(o, WRITES, lba, nlb, NULL, fua);
}

uint64_t oracle_discard(struct oracle *o, uint64_t lba, uint32_t nlb)
{
    return writes(o, o->flags & ORACLE_DISCARD_ZEROES ? WRITES : DISCARDS, lba, nlb, NULL, false);
}

uint64_t oracle_flush(struct oracle *o)
{
    return o->forgotten + add_request(o, FLUSHES, false);
}

uint64_t oracle_read(struct oracle *o)
{
    return o->forgotten + add_request(o, READS, false);
}

static struct request *find_request(struct oracle *o, uint64_t request)
{
    assert_true(request < o->forgotten + o->n);
    return request < o->forgotten ? NULL : &o->requests[request - o->forgotten];
}

void oracle_done(struct oracle *o, uint64_t request, bool ok)
{
    struct request *r = find_request(o, request);
    if (!r)
        return;
    assert_true(!r->ended);
    r->ended = ++o->clock;
    r->ok = ok;
    if (r->kind == FLUSHES && ok && r->begun > o->flushed)
        o->flushed = r->begun;
}

/* ---- judging ---- */

/* Whether what a request wrote is there for certain, or something later, for who reads from `since` on; 0: after a cut.
 */
static bool certain(const struct oracle *o, const struct request *r, uint64_t since)
{
    if (r->kind == BASE)
        return true;
    if (r->kind != WRITES || !r->ended || !r->ok)
        return false;
    return since ? r->ended < since : r->fua || r->ended < o->flushed;
}

static bool superseded(const struct oracle *o, uint64_t lba, const struct value *v, uint64_t since)
{
    const struct request *r = &o->requests[v->by];
    for (const struct value *later = o->at[lba]; later && r->ended; later = later->next) {
        const struct request *w = &o->requests[later->by];
        if (w->begun > r->ended && certain(o, w, since))
            return true;
    }
    return false;
}

static bool sector_may_be(const struct oracle *o, uint64_t lba, unsigned sector, uint64_t is, uint64_t since)
{
    for (const struct value *v = o->at[lba]; v; v = v->next)
        if (v->sectors[sector] == is && !superseded(o, lba, v, since))
            return true;
    return false;
}

/* @return the first sector that is wrong, or o->sectors */
static unsigned compare_torn(const struct oracle *o, uint64_t lba, const uint64_t *is, uint64_t since)
{
    unsigned i = 0;
    while (i < o->sectors && sector_may_be(o, lba, i, is[i], since))
        i++;
    return i;
}

/* The same, when all are to be of one value: of that which it is most like. */
static unsigned compare_whole(const struct oracle *o, uint64_t lba, const uint64_t *is, uint64_t since)
{
    unsigned best = 0;
    for (const struct value *v = o->at[lba]; v && best < o->sectors; v = v->next) {
        unsigned i = 0;
        while (i < o->sectors && v->sectors[i] == is[i])
            i++;
        if (i > best && !superseded(o, lba, v, since))
            best = i;
    }
    return best;
}

static const struct value *find_sector(const struct oracle *o, uint64_t lba, unsigned sector, uint64_t is)
{
    for (const struct value *v = o->at[lba]; v; v = v->next)
        if (v->sectors[sector] == is)
            return v;
    return NULL;
}

static bool is_foreign(const struct oracle *o, uint64_t is)
{
    for (uint64_t lba = 0; lba < o->blocks; lba++)
        for (unsigned i = 0; i < o->sectors; i++)
            if (find_sector(o, lba, i, is))
                return true;
    return false;
}

static enum oracle_verdict judge_sector(const struct oracle *o, uint64_t lba, unsigned sector, uint64_t is,
                                        uint64_t since)
{
    const struct value *v = find_sector(o, lba, sector, is);
    if (v && sector_may_be(o, lba, sector, is, since))
        return ORACLE_MIXED;
    if (v)
        return o->requests[v->by].kind == BASE ? ORACLE_LOST : ORACLE_OLD;
    return is_foreign(o, is) ? ORACLE_FOREIGN : ORACLE_GARBAGE;
}

static void describe(struct oracle *o, struct oracle_finding *f, uint64_t is)
{
    static const char *const words[] = {"is as it should be",
                                        "has lost a write that was there for certain",
                                        "has an older value than is there for certain",
                                        "has parts of several values",
                                        "has what was written to another block",
                                        "has what nobody wrote"};
    unsigned n = 0;
    for (const struct value *v = o->at[f->lba]; v; v = v->next)
        n++;
    snprintf(f->text, sizeof f->text, "block %llu, sector %u, %s: %016llx, of %u values that it has had",
             (unsigned long long)f->lba, f->sector, words[f->what], (unsigned long long)is, n);
}

static bool judge(struct oracle *o, uint64_t lba, uint32_t nlb, const uint8_t *data, uint64_t since,
                  struct oracle_finding *f)
{
    uint64_t is[128];
    bool torn = !since && o->flags & ORACLE_TORN;
    assert_true(lba < o->blocks && nlb <= o->blocks - lba && o->sectors <= 128);
    *f = (struct oracle_finding){.what = ORACLE_FINE, .lba = lba};
    for (uint32_t i = 0; i < nlb; i++, data += o->block_size) {
        for (unsigned s = 0; s < o->sectors; s++)
            is[s] = hash(data + (size_t)s * SECTOR);
        unsigned wrong = torn ? compare_torn(o, lba + i, is, since) : compare_whole(o, lba + i, is, since);
        if (wrong == o->sectors)
            continue;
        f->lba = lba + i;
        f->sector = wrong;
        f->what = judge_sector(o, lba + i, wrong, is[wrong], since);
        describe(o, f, is[wrong]);
        return false;
    }
    return true;
}

bool oracle_read_done(struct oracle *o, uint64_t read, uint64_t lba, uint32_t nlb, const void *data,
                      struct oracle_finding *f)
{
    const struct request *r = find_request(o, read);
    *f = (struct oracle_finding){.what = ORACLE_FINE, .lba = lba};
    bool fine = !r || judge(o, lba, nlb, data, r->begun, f);
    oracle_done(o, read, true);
    return fine;
}

bool oracle_check(struct oracle *o, uint64_t lba, uint32_t nlb, const void *data, struct oracle_finding *f)
{
    return judge(o, lba, nlb, data, 0, f);
}

void oracle_restart(struct oracle *o, const void *data)
{
    const uint8_t *bytes = data;
    o->forgotten += o->n;
    o->n = 0;
    uint32_t base = add_request(o, BASE, false);
    o->requests[base].ended = ++o->clock;
    for (uint64_t lba = 0; lba < o->blocks; lba++) {
        drop_values(o, lba);
        add_value(o, lba, base, bytes ? bytes + (size_t)lba * o->block_size : NULL);
    }
}
