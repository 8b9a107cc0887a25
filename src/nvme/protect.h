/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Metadata of blocks, and the protection information in it (NVM 5.2, 5.3): what a namespace has, what of it is made and
 * checked here, and what the controller is left.
 */
#ifndef PLX_NVME_PROTECT_H
#define PLX_NVME_PROTECT_H

#include "nvme/host.h"

struct nvme_protection {
    uint16_t metadata; /* bytes of a block; 0: none, and nothing of the rest */
    uint8_t shift;     /* of the block size */
    uint8_t type;      /* of protection information, 1 to 3; 0: none */
    uint8_t tuple;     /* its bytes: 8, or 16 with guards of 64 bits */
    uint8_t at;        /* of the tuple in the metadata */
    bool first;        /* it is the first of the metadata, else the last */
    bool interleaved;  /* metadata follows each block; else it is in memory of its own */
    bool guard, ref;   /* are checked, */
    bool app;          /* likewise: it has to be apptag */
    uint16_t apptag;
    bool alone;     /* the controller makes and checks tuples, and nobody here does */
    bool transfers; /* metadata comes and goes with the data */
};

/* @return 0, or -ENOTSUP with what is wrong as the end of a sentence: "has ..." */
int nvme_protection_of(const struct nvme_ns *ns, const struct nvme_opts *o, struct nvme_protection *out,
                       struct plx_error *err);

enum { NVME_PROTECT_BYTES = 128 << 10 }; /* of data of a command, which is copied with its metadata */

/* Blocks of a command of so many bytes at most. */
uint32_t nvme_protect_blocks(const struct nvme_protection *p, uint32_t max_transfer);

/* What a command says of it. */
struct nvme_protect_words {
    uint32_t cdw3, prinfo /* in cdw12 */, cdw14, cdw15;
};
struct nvme_protect_words nvme_protect_transfer(const struct nvme_protection *p, uint64_t lba);
struct nvme_protect_words nvme_protect_verify(const struct nvme_protection *p, uint64_t lba);
struct nvme_protect_words nvme_protect_zeroes(const struct nvme_protection *p, uint64_t lba);

/* Where data and metadata of a command are, in memory that nobody else writes to. */
struct nvme_protect_memory {
    uint8_t *data, *metadata;
    size_t data_step, metadata_step; /* from one block to the next */
};

static inline size_t nvme_protect_size(const struct nvme_protection *p, uint32_t nlb)
{
    return ((size_t)nlb << p->shift) + (size_t)nlb * p->metadata;
}

struct nvme_protect_memory nvme_protect_at(const struct nvme_protection *p, uint8_t *at, uint32_t nlb);
/* Copies data there, and makes its metadata. */
void nvme_protect_write(const struct nvme_protection *p, const struct nvme_protect_memory *to, struct plx_iov_at from,
                        uint64_t lba, uint32_t nlb);
/*
 * Copies data from there, and checks it. @return a status; with one that is not PLX_SC_SUCCESS *bad is the block, from
 * 0 on
 */
uint16_t nvme_protect_read(const struct nvme_protection *p, const struct nvme_protect_memory *from,
                           struct plx_iov_at to, uint64_t lba, uint32_t nlb, uint32_t *bad);

#endif
