/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the model share. All is called with the model's lock and its IOMMU's lock held. */
#ifndef PCIE_MODEL_IMPL_H
#define PCIE_MODEL_IMPL_H

#include "nvme/spec.h"
#include "pcie_model.h"

/* Registers: Base 3.1.4, PCIe transport 3.1.2. Written here once more, and not taken from where the driver has them. */
enum {
    PM_CAP = 0x00,
    PM_VS = 0x08,
    PM_INTMS = 0x0c,
    PM_INTMC = 0x10,
    PM_CC = 0x14,
    PM_CSTS = 0x1c,
    PM_NSSR = 0x20,
    PM_AQA = 0x24,
    PM_ASQ = 0x28,
    PM_ACQ = 0x30,
    PM_CMBLOC = 0x38,
    PM_CMBSZ = 0x3c,
    PM_CMBMSC = 0x50,
    PM_CMBSTS = 0x58,
    PM_CRTO = 0x68,
    PM_BELLS = 0x1000,
    PM_CC_EN = 1,
    PM_CC_CRIME = 1 << 24,
    PM_CSTS_RDY = 1 << 0,
    PM_CSTS_CFS = 1 << 1,
    PM_CSTS_SHST_BUSY = 1 << 2,
    PM_CSTS_SHST_DONE = 2 << 2,
    PM_CSTS_NSSRO = 1 << 4,
    PM_NSSR_MAGIC = 0x4e564d65,
};

/* Opcodes and status values, in part of PCIe alone: Base 5.1, 5.2, 4.2.3 */
enum {
    PM_DELETE_SQ = 0x00,
    PM_CREATE_SQ = 0x01,
    PM_LOG_PAGE = 0x02,
    PM_DELETE_CQ = 0x04,
    PM_CREATE_CQ = 0x05,
    PM_IDENTIFY = 0x06,
    PM_ABORT = 0x08,
    PM_SET_FEATURES = 0x09,
    PM_GET_FEATURES = 0x0a,
    PM_ASYNC_EVENT = 0x0c,
    PM_DBBUF = 0x7c,
    PM_FORMAT = 0x80,

    PM_SC_PRP_OFFSET = 0x013,
    PM_SC_SGL_GRANULARITY = 0x01e,
    PM_SC_CQ_INVALID = 0x100,
    PM_SC_QUEUE_SIZE = 0x102,
    PM_SC_INTERRUPT_VECTOR = 0x108,
    PM_SC_FORMAT = 0x10a,
    PM_SC_QUEUE_DELETION = 0x10c,
    PM_FID_BEHAVIOR = 0x16,
};

#define PM_BELL_NONE 0xffffffffu            /* what lies in a doorbell that nobody has written since it was looked at */
#define PM_CMB_BUS UINT64_C(0x380010000000) /* where its BAR is, and */
#define PM_CMB_OFFSET 0x2000                /* the memory in it */
#define PM_NEVER UINT64_MAX

enum {
    PM_VECTORS_MAX = 64,
    PM_QUEUES_MAX = 65, /* of each kind, with the admin queue */
    PM_COMMANDS = 8192,
    PM_RULES = 64,
    PM_ERRORS = 64,
    PM_AWAKE = 3,      /* steps without a new command until it wants the doorbell of a queue again */
    PM_WAITS = 0xffff, /* no status: Asynchronous Event Request */
};

struct pm_queue {
    bool live, is_cq;
    bool armed;  /* CQ: IEN */
    bool asleep; /* shadow doorbells: waits for the one in the registers */
    bool fast;   /* pcie_model_complete_all() has been at it */
    uint16_t qid, size, head, tail;
    uint8_t priority;             /* SQ: QPRIO */
    uint16_t cqid, users, vector; /* SQ: its CQ; CQ: its SQs */
    uint8_t phase;
    unsigned idle;
    uint64_t base;
    uint32_t *bell;
    uint8_t *at;     /* base, while the IOMMU has seen */
    uint64_t unmaps; /* so many */
};

struct pm_cmd {
    struct pm_cmd *next, *pair; /* pair: the write of a fused operation */
    struct nvme_cmd sqe;
    uint16_t sqid, cid;
    uint64_t due; /* step when it is done */
    bool done;    /* and this is how it ended: */
    bool waits;   /* Asynchronous Event Request */
    bool extra;   /* an answer to no command */
    bool gone;    /* answered; to be freed */
    uint16_t status;
    uint32_t dw0, dw1;
    enum pcie_model_kind kind;
    uint32_t value;
};

struct pm_seg {
    uint64_t iova;
    uint32_t bytes;
};

enum { PM_ZONES_MAX = 256 };

struct pm_zone {
    uint8_t state; /* ZNS 3.4.2.2.3 */
    uint64_t wp;
};

struct pm_ns {
    struct pcie_model_ns is;
    unsigned nzones;
    struct pm_zone zones[PM_ZONES_MAX];
    uint8_t *medium, *metadata;
    size_t medium_bytes, metadata_bytes;
};

enum pm_state { PM_OFF, PM_STARTING, PM_READY, PM_STOPPING };

struct pcie_model {
    pthread_mutex_t lock;
    struct pcie_model *next;
    struct pcie_model_opts o;
    char addr[PCI_ADDR_TEXT];
    struct pcie_model_iommu *iommu;
    bool own_iommu;

    pthread_t thread;
    bool threaded;
    int stop; /* atomic */

    /* while it is open */
    struct pci_function *function;
    uint8_t *bar, *msix; /* one mapping of a file, which can be taken away */
    size_t bar_bytes, msix_bytes, mapping_bytes;
    uint8_t *cmb; /* BAR 2, of the offset and the memory */
    int bar_fd, lost_fd;
    bool pulled; /* this opening of it reads all-ones, */
    bool zapped; /* or not at all */
    bool removed;
    int open_result;
    char open_text[160];
    int fds[PM_VECTORS_MAX];
    unsigned nfds;
    bool pending[PM_VECTORS_MAX], raise[PM_VECTORS_MAX];

    enum pm_state state;
    uint32_t cc, csts, cap_low, cap_high;
    uint64_t steps, ready_at, shutdown_at, awake_at;
    uint64_t hash; /* of the queues, when it was disabled */
    bool halted;   /* by CFS or a shutdown: no command is fetched */
    size_t page;   /* CC.MPS */

    struct pm_queue sqs[PM_QUEUES_MAX], cqs[PM_QUEUES_MAX];
    struct pm_cmd *first, **last, *spare, *pool; /* commands that it has, in order; and memory for them */
    unsigned npool;                              /* of that memory: have been in use */
    uint64_t (*cids)[65536 / 64];                /* in use, of each submission queue */
    uint16_t granted_sqs, granted_cqs;
    uint64_t shadow, event_idx;
    bool dbbuf;

    struct pm_seg *segs;
    unsigned nsegs, segs_max;
    uint8_t *bounce;
    size_t bounce_bytes;

    unsigned nns;
    struct pm_ns ns[PCIE_MODEL_NS_MAX];
    uint32_t features[256];
    uint8_t host_id[16];
    uint32_t changed[PCIE_MODEL_NS_MAX + 1];
    unsigned nchanged;
    unsigned events, masked; /* bits, by type of event: to be told; told, and not yet read */
    uint8_t critical_warning;
    uint64_t media_errors, nreads, nwrites, read_blocks, written_blocks;
    struct nvme_error_entry errors[PM_ERRORS];
    uint64_t nerrors;

    struct pcie_model_fault rules[PM_RULES];
    unsigned nrules;
    uint64_t random, shuffle; /* states of generators */
    unsigned injected[PCIE_MODEL_KINDS];
    struct pcie_model_complaints complaints;
    unsigned count[2][256], fua, irqs, enables, resets;
};

/* ---- pcie_model.c ---- */

void pm_complain(struct pcie_model_complaints *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint32_t pm_random(uint64_t *state, uint32_t n);
uint32_t pm_get(const struct pcie_model *m, uint32_t offset);
void pm_put(struct pcie_model *m, uint32_t offset, uint32_t value);
void pm_set_csts(struct pcie_model *m, uint32_t csts);
void pm_fatal(struct pcie_model *m);
void pm_pull(struct pcie_model *m);

/* ---- pcie_model_regs.c ---- */

/* Of a function level reset. */
void pm_reset_all(struct pcie_model *m);
bool pm_asleep(struct pcie_model *m);
void pm_fill(uint8_t *at, size_t bytes, uint32_t value);
/* All is over, and nothing reaches memory any more; what hangs does before, where it is to land. */
void pm_stopped(struct pcie_model *m, bool land);
/* @return how much was done */
unsigned pm_look_at_registers(struct pcie_model *m);
uint32_t pm_bell_take(uint32_t *bell);

/* ---- pcie_model_queue.c ---- */

unsigned pm_run_queues(struct pcie_model *m);
void pm_run(struct pcie_model *m, struct pm_cmd *c);
struct pm_cmd *pm_cmd_new(struct pcie_model *m);
struct pm_queue *pm_queue_start(struct pcie_model *m, unsigned qid, bool cq, uint64_t base, unsigned size);
void pm_queue_end(struct pcie_model *m, struct pm_queue *sq);
unsigned pm_send_interrupts(struct pcie_model *m);

/* ---- pcie_model_dma.c ---- */

/* Host memory, all in one piece; NULL: complained of. */
uint8_t *pm_at(struct pcie_model *m, uint64_t iova, size_t bytes, const char *what);
/* All of it is mapped. */
bool pm_mapped(struct pcie_model *m, uint64_t iova, uint64_t bytes);
/* Where the data of a command is: m->segs. @return status */
uint16_t pm_data(struct pcie_model *m, const struct pm_cmd *c, uint64_t bytes);
/* Between it and from or to. @return status */
uint16_t pm_read_host(struct pcie_model *m, void *to, uint64_t bytes);
uint16_t pm_write_host(struct pcie_model *m, const void *from, uint64_t bytes);

/* ---- pcie_model_admin.c, pcie_model_identify.c, pcie_model_io.c ---- */

uint16_t pm_admin(struct pcie_model *m, struct pm_cmd *c);
uint16_t pm_answer_data(struct pcie_model *m, const struct pm_cmd *c, const void *data, uint64_t bytes);
void pm_features_reset(struct pcie_model *m);
void pm_events(struct pcie_model *m);
uint16_t pm_identify(struct pcie_model *m, const struct pm_cmd *c);
uint16_t pm_log_page(struct pcie_model *m, const struct pm_cmd *c);
uint16_t pm_format(struct pcie_model *m, const struct pm_cmd *c);
uint16_t pm_io(struct pcie_model *m, struct pm_cmd *c);
/* pcie_model_zoned.c: what zones say to a command before it is done; sets where an append goes. @return status */
uint16_t pm_zone_write(struct pcie_model *m, struct pm_cmd *c, struct pm_ns *ns, uint64_t *lba, uint64_t n);
uint16_t pm_zone_command(struct pcie_model *m, struct pm_cmd *c, struct pm_ns *ns);
uint16_t pm_zone_read(const struct pm_ns *ns, uint64_t lba, uint64_t n);
void pm_zones_init(struct pm_ns *ns);
/* Than a limit of Identify, as a power of two of the smallest page; 0: none. */
uint16_t pm_too_long(struct pcie_model *m, const struct pm_cmd *c, uint64_t bytes, unsigned limit);
struct pm_ns *pm_ns_of(struct pcie_model *m, uint32_t nsid);
void pm_log_error(struct pcie_model *m, const struct pm_cmd *c);

/* ---- pcie_model_protect.c: with metadata ---- */

unsigned pm_tuple_bytes(const struct pm_ns *ns);
/* Reads, writes, and verifies, of blocks that there are. */
uint16_t pm_transfer_protected(struct pcie_model *m, const struct pm_cmd *c, struct pm_ns *ns, uint64_t lba,
                               uint64_t n);
/* The metadata of blocks that were set to zero; harmless without. */
uint16_t pm_zero_protected(struct pcie_model *m, const struct pm_cmd *c, struct pm_ns *ns, uint64_t lba, uint64_t n,
                           bool deallocated);

/* ---- pcie_model_faults.c ---- */

/* Decides what to do wrong with a command. */
void pm_fault_of(struct pcie_model *m, struct pm_cmd *c);
/* Whether the controller does that wrong, now; value may be NULL. */
bool pm_fault_now(struct pcie_model *m, enum pcie_model_kind kind, uint32_t *value);

static inline bool pm_full(const struct pm_queue *cq)
{
    return (cq->tail + 1) % cq->size == cq->head;
}

#endif
