/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An NVMe controller behind PCI Express, in memory: what a driver sees of one, written from the specifications (NVMe
 * Base 2.1, NVM Command Set 1.1, NVMe over PCIe Transport 1.1, PCIe 6.0) and from no driver. It does what it is told to
 * do wrong, and complains of what its host does wrong: a test ends with no complaints.
 *
 * Registers and doorbells are plain memory that the model looks at when it is stepped, by the test or by a thread of
 * its own. For ThreadSanitizer's eyes the host stores them with release and loads them with acquire order, and loads
 * the last 4 bytes of a completion queue entry (identifier, phase and status) as a whole, with acquire order.
 */
#ifndef PCIE_MODEL_H
#define PCIE_MODEL_H

#include "pci/function.h"

#include <pthread.h>

enum {
    PCIE_MODEL_NS_MAX = 8,
    PCIE_MODEL_COMPLAINTS = 8, /* texts that are kept */
    PCIE_MODEL_ANY = -1,       /* queue, opcode */
    PCIE_MODEL_IO = -2,        /* queue: any but the admin queue */
};

/* What the host did wrong. */
struct pcie_model_complaints {
    unsigned n;
    char text[PCIE_MODEL_COMPLAINTS][160]; /* of the first ones */
};

/* ---- addresses ---- */

struct pcie_model_map {
    uint64_t iova;
    size_t bytes;
    uint8_t *at;
};

struct pcie_model_iommu {
    struct pci_iommu is;
    pthread_mutex_t lock;
    struct pcie_model_map *maps; /* ascending */
    unsigned nmaps, capacity;
    unsigned holds; /* by those who have something mapped */
    uint64_t unmaps;
    size_t bytes;       /* mapped */
    size_t limit;       /* of bytes: -ENOMEM beyond; 0: none */
    unsigned max_maps;  /* -ENOSPC beyond; 0: none */
    unsigned fail_next; /* maps that fail with -ENOMEM */
    struct pcie_model_complaints complaints;
};

/* Without ranges: 0 to 2^39 - 1 but for 0xfee00000 to 0xfeefffff. Without a page: the machine's. */
struct pcie_model_iommu *pcie_model_iommu_new(const struct pci_range *ranges, unsigned nranges, size_t page);
void pcie_model_iommu_free(struct pcie_model_iommu *u);

/* ---- what controller it is ---- */

struct pcie_model_ns {
    uint32_t nsid;
    unsigned block_bits; /* 9 or 12 */
    uint64_t blocks;     /* 0: allocated, not attached */
    uint64_t max_bytes;  /* that it may grow to; 0: as large as it is */
    uint16_t noiob, npwg, npda;
    uint16_t metadata; /* bytes of a block, */
    bool interleaved;  /* which follow it; else in memory of their own */
    uint8_t pi;        /* protection information in them, by type; 0: none, */
    bool pi_first;     /* of which it is the first bytes; else the last, */
    uint8_t pif;       /* with guards of 16 bits (0), or of 64 (2); it can say others, and not do them; */
    uint8_t sts;       /* likewise storage tags */
    bool lax;          /* tuples are not checked, whatever the host says */
    uint8_t csi;       /* command set: other than NVM a host leaves alone, but for 2: zoned, */
    uint32_t zone_blocks, zone_capacity; /* with such zones; 0: a host leaves it alone */
    uint32_t max_open, max_active;       /* 0: any number */
    uint8_t zasl;
    uint16_t zoc, ozcs; /* ZNS 4.1.5.1; ozcs 1: reads may go on in the next zone */
};

struct pcie_model_opts {
    const char *addr, *serial, *model, *subnqn;
    struct pcie_model_iommu *iommu; /* or NULL: one of its own */
    uint16_t vendor, device;
    uint32_t version;                   /* VS */
    uint16_t mqes;                      /* CAP, 0's based */
    uint8_t to, dstrd, mpsmin, mpsmax;  /* CAP */
    uint8_t css;                        /* CAP.CSS */
    bool nssrs, crwms, crims, loose;    /* CAP; loose: CAP.CQR is 0 */
    bool weighted;                      /* CAP.AMS: round robin with weights */
    uint32_t crto;                      /* CRTO */
    unsigned rdy_on, rdy_off, shutdown; /* steps until CSTS shows it */
    unsigned asleep;                    /* steps after it was opened, or its function reset, with nothing but ones */
    unsigned latency, shuffle;          /* of a command, in steps; shuffle: and up to so many more, by chance */
    unsigned burst;                     /* commands of a queue that a step fetches */
    uint16_t queues;                    /* of each kind, that it grants */
    uint16_t vectors;
    unsigned cmb_kib;   /* of memory of its own, for submission queues; 0: none */
    bool cmb_fixed;     /* as before 1.4: it is at its BAR's address, and told so by nobody */
    bool cmb_elsewhere; /* it takes no address for it */
    size_t regs_bytes;  /* that the host is told of; 0: as many as there are */
    unsigned dma_bits;  /* of addresses that it can reach; 0: all */
    bool no_msix_table; /* the host does not get to see it */
    uint8_t mdts, acl, aerl, vwc, lpa, elpe, fuses, sqes, cqes, msrc;
    uint32_t ctratt;
    uint16_t oacs, oncs, crdt[3], mssrl, awun;
    uint32_t sgls, oaes, rtd3e, mcl;
    uint8_t vsl, wzsl, dmrl; /* of Identify for the NVM command set */
    uint32_t dmrsl;
    uint16_t temperature;               /* Kelvin */
    unsigned max_sgl;                   /* descriptors of a command */
    uint32_t random_kinds, random_odds; /* see pcie_model_faults_random() */
    unsigned nns;
    struct pcie_model_ns ns[PCIE_MODEL_NS_MAX];
};

enum { /* Identify Controller */
       PCIE_MODEL_OACS_FORMAT = 1 << 1,
       PCIE_MODEL_OACS_DBBUF = 1 << 8,
       PCIE_MODEL_CTRATT_ELBAS = 1 << 15,
       PCIE_MODEL_ONCS_COMPARE = 1 << 0,
       PCIE_MODEL_ONCS_DSM = 1 << 2,
       PCIE_MODEL_ONCS_WRITE_ZEROES = 1 << 3,
       PCIE_MODEL_ONCS_SAVE = 1 << 4,
       PCIE_MODEL_ONCS_VERIFY = 1 << 7,
       PCIE_MODEL_ONCS_COPY = 1 << 8,
};

/* A plain one of version 1.4 with a namespace of 64 MiB in blocks of 512 bytes. To be copied, and changed. */
extern const struct pcie_model_opts pcie_model_defaults;

struct pcie_model;

/* It is then found by its address; opts NULL: defaults. */
struct pcie_model *pcie_model_new(const struct pcie_model_opts *opts);
void pcie_model_free(struct pcie_model *m);
/* By address. Opening resets it. */
pci_open_fn pcie_model_open;
/* That the next opening fails, with this text; NULL: it does not. */
void pcie_model_open_fails(struct pcie_model *m, int result, const char *text);

/* ---- running it ---- */

/* One bounded step. @return how much was done, or waits for a later step by itself; 0: it waits for its host */
unsigned pcie_model_step(struct pcie_model *m);
/* Steps until nothing is left to be done. */
void pcie_model_settle(struct pcie_model *m);
void pcie_model_start_thread(struct pcie_model *m);
void pcie_model_stop_thread(struct pcie_model *m);
/*
 * For measurements, in step mode: ends what is new in an I/O queue with success, without a look at it or its data, as
 * far as the completion queue has room. @return how many
 */
unsigned pcie_model_complete_all(struct pcie_model *m, unsigned qid);

/* ---- faults ---- */

enum pcie_model_kind {
    PCIE_MODEL_NONE,
    /* Of commands: */
    PCIE_MODEL_HANG,       /* not answered until pcie_model_release(), or an end of the controller, when it is done */
    PCIE_MODEL_LATE,       /* done so many steps later */
    PCIE_MODEL_LOSE,       /* done, and not answered */
    PCIE_MODEL_TWICE,      /* answered again, so many steps later */
    PCIE_MODEL_BOGUS_CID,  /* answered with an identifier off by that, or by 0x8000 */
    PCIE_MODEL_GHOST,      /* answered, and one more answer that belongs to no command: as above */
    PCIE_MODEL_BAD_SQID,   /* answered as of another submission queue: off by that, or by 1 */
    PCIE_MODEL_BAD_SQHD,   /* answered with a head that is none: off by that, or by the queue's size */
    PCIE_MODEL_STATUS,     /* not done, and ended with that status (bits 14:0) */
    PCIE_MODEL_LOSE_IRQ,   /* done, and no interrupt for it */
    PCIE_MODEL_ABORT_IDLE, /* an Abort command that aborts nothing */
    PCIE_MODEL_FATAL,      /* CSTS.CFS when it comes */
    PCIE_MODEL_GONE,       /* surprise removal when it comes */
    /* Of the controller, where queue and opcode say nothing: */
    PCIE_MODEL_RDY_NEVER,    /* enabling it does not make it ready */
    PCIE_MODEL_RDY_STUCK,    /* nor disabling it not ready */
    PCIE_MODEL_RDY_SLOW,     /* so many steps more, on enabling */
    PCIE_MODEL_RDY_SLOW_OFF, /* on disabling */
    PCIE_MODEL_FATAL_ENABLE, /* CSTS.CFS instead of CSTS.RDY */
    PCIE_MODEL_SHUTDOWN_STUCK,
    PCIE_MODEL_RESET_FAILS,  /* a function level reset: -EIO, and nothing is reset */
    PCIE_MODEL_VECTORS_FAIL, /* set_vectors: -ENOSPC */
    PCIE_MODEL_KINDS,
};

struct pcie_model_fault {
    enum pcie_model_kind kind;
    int qid, opcode; /* or PCIE_MODEL_ANY */
    unsigned skip;   /* so many that fit */
    unsigned times;  /* 0: once */
    uint32_t value;
};

enum { PCIE_MODEL_ALWAYS = ~0u };

void pcie_model_fault(struct pcie_model *m, const struct pcie_model_fault *f);
/* Forgets all that were told, random ones too. What hangs still does. */
void pcie_model_faults_clear(struct pcie_model *m);
/* Faults of opts.random_kinds (bits), one in opts.random_odds commands, as the seed will have it. 0: no more. */
void pcie_model_faults_random(struct pcie_model *m, uint64_t seed);
/* How many there have been. */
unsigned pcie_model_injected(struct pcie_model *m, enum pcie_model_kind kind);
/* What hangs is done now, and answered: late. @return how many */
unsigned pcie_model_release(struct pcie_model *m);
/* Commands that it has and has not answered, without Asynchronous Event Requests. */
unsigned pcie_model_held(struct pcie_model *m);
/* CSTS.CFS, from now on until it is reset. */
void pcie_model_fail(struct pcie_model *m);
/* Its function is reset by somebody who does not say so. */
void pcie_model_reset(struct pcie_model *m);
/* It is pulled: registers read all-ones, opening fails; and it is there again, for those who open it. */
void pcie_model_remove(struct pcie_model *m);
/* The same, and who touches a register or the MSI-X table gets SIGBUS. */
void pcie_model_zap(struct pcie_model *m);
void pcie_model_put_back(struct pcie_model *m);
/* lost_fd becomes readable, and that is all. */
void pcie_model_ask_back(struct pcie_model *m);

/* An interrupt for nothing. */
void pcie_model_spurious(struct pcie_model *m, unsigned vector);

/* ---- events ---- */

/* A namespace has another size, in blocks; 0: it is detached. */
void pcie_model_ns_resize(struct pcie_model *m, uint32_t nsid, uint64_t blocks);
/* Critical warning bits of the SMART log. */
void pcie_model_smart(struct pcie_model *m, uint8_t critical_warning);
/* A zone is in another state: read only (13), say, or offline (15). */
void pcie_model_zone_set(struct pcie_model *m, uint32_t nsid, unsigned zone, uint8_t state);

/* ---- what there is to see ---- */

/* Of it and its IOMMU. */
unsigned pcie_model_complaints(struct pcie_model *m);
/* The i-th, or "" */
const char *pcie_model_complaint(struct pcie_model *m, unsigned i);
void pcie_model_forgive(struct pcie_model *m);
/* Commands that it has fetched: qid 0: admin, else NVM. */
unsigned pcie_model_count(struct pcie_model *m, unsigned qid, unsigned opcode);
unsigned pcie_model_media_errors(struct pcie_model *m);
unsigned pcie_model_fua(struct pcie_model *m);  /* writes with FUA among them */
unsigned pcie_model_irqs(struct pcie_model *m); /* that were sent */
unsigned pcie_model_enables(struct pcie_model *m);
unsigned pcie_model_resets(struct pcie_model *m); /* function level resets but for openings */
bool pcie_model_is_open(struct pcie_model *m);
unsigned pcie_model_queues(struct pcie_model *m);                /* I/O submission queues that there are */
unsigned pcie_model_entries(struct pcie_model *m, unsigned qid); /* of a submission queue */
unsigned pcie_model_own_queues(struct pcie_model *m);            /* of these, in its own memory */
/* The class of a submission queue, 0 to 3, where CC.AMS says that there are some; else -1 */
int pcie_model_priority(struct pcie_model *m, unsigned qid);
uint32_t pcie_model_feature(struct pcie_model *m, unsigned fid);
/* The medium, past the controller. */
void pcie_model_peek(struct pcie_model *m, uint32_t nsid, uint64_t offset, void *to, size_t bytes);
void pcie_model_poke(struct pcie_model *m, uint32_t nsid, uint64_t offset, const void *from, size_t bytes);
/* Another bit of a block: of its data, or, from there on, of its metadata. */
void pcie_model_flip(struct pcie_model *m, uint32_t nsid, uint64_t lba, unsigned byte, unsigned bit);
void pcie_model_metadata(struct pcie_model *m, uint32_t nsid, uint64_t lba, void *to);
/* Of data, and of the metadata that it covers. */
uint64_t pcie_model_guard(struct pcie_model *m, uint32_t nsid, const void *data, const void *metadata);

#endif
