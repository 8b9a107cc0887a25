/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The data of `pollux perf --verify`.
 *
 * Every logical block that is written carries a mark, its LBA, the run and the generation (which write of this run it
 * was), and the rest of it follows from these; so a block that is lost, stale, torn, misplaced or damaged in any bit is
 * told from the right one. A unit is on one request at a time, so that what a read must find is known exactly.
 *
 * A unit that this run has not written may carry a pattern of an earlier one, of any generation. If that is whole and
 * in its place, it is right. If not, it proves nothing, as something else may have written since, and is counted apart;
 * only a run that just reads, and has nothing else to judge by, takes it for wrong.
 */
#include "perf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK UINT64_C(0x506f6c6c75785631) /* "PolluxV1" */

enum {
    BUSY = 1 << 30,
    WORD = sizeof(uint64_t),
};

struct stamp {
    uint64_t mark; /* mark_of() the block size: blocks of another size are no blocks of ours */
    uint64_t lba;
    uint32_t generation;
    uint32_t run;
};

enum { STAMP_WORDS = sizeof(struct stamp) / WORD };

struct perf_verify *perf_verify_new(uint64_t units, uint32_t run, bool reads_only)
{
    struct perf_verify *v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    v->run = run;
    v->reads_only = reads_only;
    v->generations = calloc(units, sizeof *v->generations);
    if (!v->generations) {
        free(v);
        return NULL;
    }
    return v;
}

void perf_verify_free(struct perf_verify *v)
{
    if (v)
        free(v->generations);
    free(v);
}

/* ---- a block ---- */

static inline uint64_t mark_of(size_t bytes)
{
    return MARK ^ bytes;
}

static uint64_t seed_of(const struct stamp *s)
{
    uint64_t x = s->lba * UINT64_C(0x9e3779b97f4a7c15) ^ ((uint64_t)s->run << 32 | s->generation);
    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ x >> 32;
}

static inline uint64_t word_of(uint64_t seed, size_t i)
{
    uint64_t x = seed + i * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 29;
}

static void fill_block(uint64_t *words, size_t bytes, const struct stamp *s)
{
    uint64_t seed = seed_of(s);
    memcpy(words, s, sizeof *s);
    for (size_t i = STAMP_WORDS; i < bytes / WORD; i++)
        words[i] = word_of(seed, i);
}

/* The first word of a block that does not follow from its stamp, or the number of words. */
static size_t damaged(const uint64_t *words, size_t bytes, const struct stamp *s)
{
    uint64_t seed = seed_of(s);
    size_t n = bytes / WORD;
    for (size_t i = STAMP_WORDS; i < n; i++)
        if (words[i] != word_of(seed, i))
            return i;
    return n;
}

/* Puts the first wrong block into words. */
static int verify_complain(struct perf_verify *v, const struct stamp *want, const struct stamp *found, const char *what)
{
    if (v->wrong)
        return -1;
    int n = snprintf(v->first.text, sizeof v->first.text, "LBA %" PRIu64 " is %s", want->lba, what);
    char *rest = v->first.text + n;
    size_t size = sizeof v->first.text - (size_t)n;
    if (found->mark == want->mark)
        n = snprintf(rest, size, ", with the pattern of LBA %" PRIu64 ", write %u of run %08x", found->lba,
                     found->generation, found->run);
    else
        n = snprintf(rest, size, ", with no pattern in it");
    if (want->generation)
        snprintf(rest + n, size - (size_t)n, "; it was last written by write %u of run %08x", want->generation,
                 want->run);
    else if (found->run == want->run)
        snprintf(rest + n, size - (size_t)n, "; this run has written nothing there");
    else
        snprintf(rest + n, size - (size_t)n,
                 "; that is of an earlier run: if anything else has written to the disk since, write to it with "
                 "--verify again before it is only read");
    return -1;
}

/* @return 0 when the block is right, 1 when nothing is known of it, -1 when it is wrong */
static int check_block(struct perf_verify *v, const uint64_t *words, size_t bytes, const struct stamp *want)
{
    struct stamp found;
    memcpy(&found, words, sizeof found);
    if (found.mark != want->mark)
        return want->generation ? verify_complain(v, want, &found, "not what was written") : 1;
    bool judge = want->generation || v->reads_only || found.run == v->run;
    if (!judge)
        return found.lba != want->lba || damaged(words, bytes, &found) < bytes / WORD;
    if (found.lba != want->lba)
        return verify_complain(v, want, &found, "another block's");
    if (want->generation && (found.generation != want->generation || found.run != want->run))
        return verify_complain(v, want, &found, "not what was written last");
    if (damaged(words, bytes, &found) < bytes / WORD)
        return verify_complain(v, want, &found, "damaged or torn");
    return 0;
}

/* ---- a request ---- */

uint64_t perf_verify_begin(struct perf_job *job, struct perf_slot *s, uint64_t unit)
{
    struct perf_verify *v = job->verify;
    while (v->generations[unit] & BUSY) /* there are more units than slots, so this ends */
        unit = unit + 1 == job->units ? 0 : unit + 1;
    s->unit = unit;
    v->generations[unit] |= BUSY;
    if (s->req.op != PLX_BDEV_WRITE) {
        memset(s->iov.iov_base, 0xee, job->size); /* what an earlier request left here must not pass for what is read */
        return unit;
    }
    v->writes = v->writes + 1 == BUSY ? 1 : v->writes + 1;
    s->generation = v->writes;
    size_t block = job->size / job->unit_blocks;
    for (uint32_t i = 0; i < job->unit_blocks; i++) {
        const struct stamp stamp = {mark_of(block), job->first_lba + unit * job->unit_blocks + i, s->generation,
                                    v->run};
        fill_block((uint64_t *)(void *)((char *)s->iov.iov_base + i * block), block, &stamp);
    }
    return unit;
}

static void check_unit(struct perf_job *job, const struct perf_slot *s, uint32_t generation)
{
    struct perf_verify *v = job->verify;
    size_t block = job->size / job->unit_blocks;
    int worst = 0, unknown = 0;
    for (uint32_t i = 0; i < job->unit_blocks && worst >= 0; i++) {
        const struct stamp want = {mark_of(block), s->req.lba + i, generation, v->run};
        worst = check_block(v, (const uint64_t *)(const void *)((char *)s->iov.iov_base + i * block), block, &want);
        unknown |= worst > 0;
    }
    if (worst < 0)
        v->wrong++;
    else if (unknown)
        v->unknown++;
    else
        v->checked++;
}

void perf_verify_end(struct perf_job *job, struct perf_slot *s)
{
    uint32_t *generation = &job->verify->generations[s->unit];
    bool ok = s->req.status == PLX_SC_SUCCESS;
    *generation &= ~(uint32_t)BUSY;
    if (s->req.op == PLX_BDEV_WRITE)
        *generation = ok ? s->generation : 0; /* a write that failed leaves the old, the new, or some of each */
    else if (ok)
        check_unit(job, s, *generation);
}

bool perf_verify_written(const struct perf_job *job, uint64_t *at)
{
    for (; *at < job->units; ++*at)
        if (job->verify->generations[*at])
            return true;
    return false;
}
