/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe over PCIe (NVMe over PCIe Transport Specification 1.1), the inside.
 *
 * A device is driven by a thread of its own (pcie_dev.c): its registers, its admin queue, its beginning, reset and end.
 * Associations are on other reactors, one a channel of a disk, as they are over a network; each has a share of the
 * admin queue (pcie_admin.c), by messages, and I/O queue pairs of its own (pcie_queue.c), with which nobody else has
 * anything to do. What the device thread makes for an I/O queue pair is given to it, and given back.
 *
 * A reset keeps one order: every association is told, and stops to touch its queues (it leaves); the controller is
 * disabled; only then do commands that were in flight come back, as before that it may still write to their memory. A
 * queue that is given up with commands in flight has the controller reset.
 */
#ifndef PLX_NVME_PCIE_H
#define PLX_NVME_PCIE_H

#include "nvme/nvme.h"
#include "pci/dma.h"

#include <pthread.h>

enum {
    PCIE_ADMIN_DEPTH = 32,   /* commands in flight, and one more entry */
    PCIE_ADMIN_DATA = 4096,  /* of a command */
    PCIE_LINE = 31,          /* commands of an association */
    PCIE_QUEUES_MAX = 256,   /* I/O queues of a device */
    PCIE_DOORBELLS = 0x1000, /* offset of the first */
    PCIE_EVENTS = 8,         /* that an association has not heard of yet */
};

/* What the device thread has for a queue pair. */
struct pcie_ring {
    struct pci_memory memory; /* submission queue, completion queue, then a page a slot for lists */
    struct nvme_cmd *sq;
    struct nvme_cqe *cq;
    volatile uint32_t *sq_db, *cq_db;
    volatile uint64_t *cmb;    /* the submission queue as the controller has it, when that is its own memory; or NULL */
    volatile uint32_t *shadow; /* doorbells in memory: the submission queue's and the completion queue's, or NULL */
    volatile uint32_t *event;  /* from where on the controller wants to be told */
    uint32_t shadow_step;      /* from the one to the other */
    uint16_t entries, qid;
    uint16_t tail, rung; /* of the submission queue; as the controller knows it */
    uint16_t head, told; /* of the completion queue; likewise */
    uint32_t phase;      /* PCIE_PHASE of a completion that is new */
};

enum { PCIE_PHASE = 1 << 16 }; /* in the last dword of a completion */

void pcie_ring_init(struct pcie_ring *r);
/* Has the controller look at what was put into the submission queue. */
void pcie_ring_submit(struct pcie_ring *r);
/* Gives entries of the completion queue back. */
void pcie_ring_return(struct pcie_ring *r);

static inline void pcie_ring_step(const struct pcie_ring *r, uint16_t *at)
{
    if (++*at == r->entries)
        *at = 0;
}

struct pcie_seen {
    const struct nvme_cqe *cqe;
    uint32_t last; /* dword: identifier, phase, status */
};

static inline bool pcie_ring_is_new(const struct pcie_ring *r, uint32_t last)
{
    return !((last ^ r->phase) & PCIE_PHASE);
}

/* Whether a completion has come, which is not read yet. */
static inline bool pcie_ring_waiting(const struct pcie_ring *r)
{
    return pcie_ring_is_new(r, pci_load32(&r->cq[r->head].cid));
}

/* Whether a completion has come. All of it was written before that is seen. */
static inline bool pcie_ring_peek(const struct pcie_ring *r, struct pcie_seen *seen)
{
    seen->cqe = &r->cq[r->head];
    seen->last = pci_load32(&seen->cqe->cid);
    if (!pcie_ring_is_new(r, seen->last))
        return false;
    pci_read_barrier();
    return true;
}

static inline void pcie_ring_next(struct pcie_ring *r)
{
    if (++r->head == r->entries) {
        r->head = 0;
        r->phase ^= PCIE_PHASE;
    }
}

struct pcie_dev;
struct pcie_admin;
struct pcie_queue;

/*
 * Memory for data of a command of which nobody knows how much it transfers (struct nvme_pass): PRP entries lead around
 * in a circle behind the data, so that whatever it says is all that it reaches.
 */
struct pcie_guard {
    struct pci_dma *dma;      /* NULL: there is none */
    struct pci_memory memory; /* a list, a page that is everybody's, the data */
    uint8_t *data;
    uint64_t first, list, spare; /* PRP entries 1 and 2; and for metadata, of which there should be none */
};

/* An admin command of the device thread's. */
struct pcie_op {
    void (*done)(struct pcie_dev *d, struct pcie_op *op); /* called once; with lost, the controller was disabled */
    struct plx_list link;                                 /* while it waits for a place */
    struct nvme_words cmd;
    uint64_t iova; /* what PRP entry 1 says where it has no data: of the queue to make, of doorbells */
    uint8_t *data;
    uint32_t len;            /* of data; PCIE_ADMIN_DATA at most without a guard */
    struct pcie_guard guard; /* what is sent is in it already, and what comes is taken from there */
    bool forever;            /* somebody else looks after its time */
    bool to_host, lost;
    uint16_t status;
    uint32_t dw0, dw1;
};

/* What an I/O queue pair is given: the device thread's but for the time that the pair has it. */
struct pcie_hw {
    struct plx_msg msg;
    struct plx_list link; /* in dev->quiet */
    struct pcie_op op;    /* makes and deletes it */
    struct pcie_dev *dev;
    struct pci_dma *dma;
    struct pcie_ring ring;
    struct pcie_queue
        *owner; /* to be told when the controller is disabled; NULL: nobody has anything in flight there */
    struct plx_reactor *reactor;
    struct pcie_call *call;       /* that it is made for */
    uint32_t generation;          /* how often the controller had been enabled */
    uint16_t cmb_page, cmb_pages; /* of the controller's memory that the submission queue has, */
    uint64_t cmb_iova;            /* and where the controller finds it */
    int fd;                       /* eventfd, */
    bool no_sgl;                  /* whatever Identify says */
    bool broken;                  /* the controller is to be reset, whether or not there is anything in flight */
    bool interrupts;              /* which is written when there are completions */
    volatile uint32_t *mask;      /* its Vector Control, or NULL */
};

enum pcie_what {
    PCIE_OPEN,    /* wait until there is a controller */
    PCIE_LEAVE,   /* touches nothing of it any more */
    PCIE_COMMAND, /* an admin command */
    PCIE_QUEUE,   /* make an I/O queue pair */
};

/* Something that an association asks of the device. */
struct pcie_call {
    struct plx_msg msg;
    struct plx_list link; /* in dev->opening, or dev->events */
    struct pcie_op op;
    struct pcie_admin *from;
    struct nvme_req *req; /* the association's; NULL: it has been given back already */
    struct pcie_hw *hw;   /* made */
    uint64_t cap;         /* of a controller that is there, */
    uint32_t vs;          /* likewise */
    bool stripes;         /* likewise: see nvme_ctrlr_stripes() */
    uint32_t arbitration; /* that is wished for, as Set Features has it */
    uint8_t priority;     /* of the queue to make: QPRIO */
    uint16_t entries;     /* of the queue to make, */
    uint16_t lists;       /* pages, likewise */
    bool cmb;             /* in the controller's memory, if it has any */
    uint8_t what;
    bool out; /* with the device, or on its way */
    bool raw; /* the command is one of struct nvme_pass, */
    int ret;  /* -errno, when it cannot be done at all */
    char why[200];
    uint8_t *own; /* and has its data here: of malloc() */
    uint8_t data[PCIE_ADMIN_DATA];
};

/* An association's share of the admin queue. */
struct pcie_admin {
    struct nvme_qp qp;
    struct pcie_dev *dev;
    struct plx_reactor *reactor;
    uint64_t cap; /* as it was said when it was opened */
    uint32_t vs;
    bool open;
    bool want_open;                                              /* when what was asked before has been answered */
    struct pcie_call opening, leaving, making, calls[PCIE_LINE]; /* the last ones for commands */
    struct pcie_call *free[PCIE_LINE];
    unsigned nfree;

    /* Under the device's lock. */
    bool gone;    /* nobody is there to be answered */
    unsigned out; /* calls that are with the device, or on their way back */

    /* The device thread's. */
    struct plx_list link; /* in dev->members, between open and leave */
    struct plx_msg stop;  /* tells it of a reset, */
    char stop_why[100];   /* and what for */
    bool member, told;
    uint32_t events[PCIE_EVENTS]; /* that it has not asked for yet */
    unsigned nevents;
};

/* ---- pcie_dev.c ---- */

/* The device at that address, whether it is there or not. @return 0 or -errno */
int pcie_dev_get(const char *addr, struct pcie_dev **out);
/* It is not needed any more, but is there until it is not even referred to. */
void pcie_dev_put(struct pcie_dev *d);
void pcie_dev_forget(struct pcie_dev *d);

/* On an association's reactor: sends a call, which comes back to pcie_admin_answered(). */
void pcie_call(struct pcie_call *call);
/* One is back. @return whether there is somebody left to hear; if not, the last one has freed the association */
bool pcie_call_back(struct pcie_call *call);
/* The same for the word that it is to leave. */
bool pcie_stop_back(struct pcie_admin *a);
/* Nobody is there for answers any more: it is freed, now or when the last call is back. */
void pcie_admin_gone(struct pcie_admin *a);
/*
 * Gives a queue's part back. With an owner, commands are in flight: the controller is reset, and then
 * pcie_queue_quiet() is called on the owner's reactor. The caller touches none of it any more.
 */
void pcie_hw_end(struct pcie_hw *hw);

/* ---- pcie_admin.c: on the association's reactor ---- */

void pcie_admin_answered(struct plx_msg *msg);
/* There is to be a reset: it leaves, unless it has. */
void pcie_admin_stop(struct plx_msg *msg);

/* ---- pcie_queue.c ---- */

struct nvme_qp *pcie_queue_create(struct nvme_ctrlr *c, unsigned depth);
void pcie_queue_free(struct nvme_qp *qp);
/* It is there. */
void pcie_queue_begin(struct nvme_qp *qp, struct pcie_hw *hw);
void pcie_queue_close(struct nvme_qp *qp);
void pcie_queue_submit_fused(struct nvme_qp *qp, struct nvme_req *first);
struct nvme_req *pcie_queue_in_flight(const struct nvme_qp *qp, unsigned place);
/* The controller is disabled: what was in flight comes back. On the queue pair's reactor; frees hw. */
void pcie_queue_quiet(struct plx_msg *msg);

/* ---- pcie_data.c: where data is, as a command says it ---- */

enum { PCIE_BOUNCES = 2 };

/* A queue pair's way of telling where data is. */
struct pcie_data {
    struct pci_dma *dma;
    struct pci_table *table;
    const _Atomic uint64_t *version; /* of dma, */
    uint64_t known;                  /* and what it was when `last` was found */
    struct pci_span last;            /* the memory in which data was last */
    uint32_t page;                   /* of the controller: CC.MPS */
    bool sgl;                        /* the controller takes them, */
    uint8_t sgl_align_mask;          /* at addresses without these bits */
    struct pci_memory bounce;        /* PCIE_BOUNCES of NVME_MAX_TRANSFER, from the first use on */
    bool bounces[PCIE_BOUNCES];      /* in use */
    struct pcie_guard guard;         /* of the one raw command, while it is in flight */
    struct pcie_protect *protect;    /* of a namespace with metadata: then `last` stays unknown */
};

/* A place for a command in flight. */
struct pcie_slot {
    struct nvme_req *req;
    uint8_t *list; /* a page for lists, or for small data that is copied */
    uint64_t list_iova;
    uint16_t cid;    /* the place in the lower bits, above it how often it was used */
    int8_t bounce;   /* what its data is copied through: PCIE_OWN_PAGE, a number, ..., or PCIE_DIRECT */
    uint16_t buffer; /* of PCIE_PROTECTED */
};

enum { PCIE_DIRECT = -1, PCIE_OWN_PAGE = -2, PCIE_GUARDED = -3, PCIE_PROTECTED = -4, PCIE_PROTECTED_LARGE = -5 };

/* Room for data of len bytes. @param page of the controller. @return 0 or -errno */
int pcie_guard_make(struct pcie_guard *g, struct pci_dma *dma, uint32_t len, size_t page);
void pcie_guard_free(struct pcie_guard *g);

/*
 * @return 0; -EAGAIN: when other commands whose data is copied are done with; or another -errno: there is no memory to
 * copy it through
 */
int pcie_data_set(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd);
/* The same where all of it is data. */
int pcie_data_place(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd);
/* One piece. */
void pcie_data_set_contiguous(const struct pcie_data *d, struct pcie_slot *slot, uint64_t iova, uint32_t len,
                              struct nvme_cmd *cmd);

static inline void pcie_set_prps(struct nvme_cmd *cmd, uint64_t first, uint64_t second)
{
    const plx_le64 prp[2] = {plx_put64(first), plx_put64(second)};
    memcpy(&cmd->sgl, prp, sizeof prp);
}

/* Whether what is known of memory holds still: see pci_table_renew(). */
static inline bool pcie_data_current(const struct pcie_data *d)
{
    return atomic_load_explicit(d->version, memory_order_relaxed) == d->known;
}

/*
 * pcie_data_set() while that is so, where data is one piece of the memory in which data was last, of two pages at most.
 * @return whether it is that
 */
static inline bool pcie_data_set_near(const struct pcie_data *d, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    const struct iovec *iov = req->data.iov;
    const uint64_t page = d->page, len = req->len;
    const uint64_t offset = (uintptr_t)iov->iov_base + req->data.offset - d->last.at, iova = d->last.iova + offset;
    uint64_t end;
    if (plx_unlikely(iov->iov_len - req->data.offset < len || __builtin_add_overflow(offset, len, &end) ||
                     end > d->last.bytes || iova & 3))
        return false;
    end = (iova & (page - 1)) + len;
    if (plx_likely(end <= page)) {
        pcie_set_prps(cmd, iova, 0);
        return true;
    }
    if (end > 2 * page)
        return false;
    pcie_set_prps(cmd, iova, (iova | (page - 1)) + 1);
    return true;
}
static inline void pcie_guard_set(const struct pcie_guard *g, struct nvme_cmd *cmd)
{
    pcie_set_prps(cmd, g->first, g->list);
    cmd->mptr = plx_put64(g->spare);
}

/* It has been answered: data that was read is copied to where it belongs, if it was not read there. */
void pcie_data_done(struct pcie_data *d, struct pcie_slot *slot, bool ok);
void pcie_data_end(struct pcie_data *d);

/* ---- pcie_protect.c: with metadata ---- */

/* d is that of a queue pair of so many places, which is empty. @return 0 or -errno; 0 without metadata, too */
int pcie_protect_begin(struct pcie_data *d, const struct nvme_ctrlr *c, unsigned depth);
void pcie_protect_end(struct pcie_data *d);
/* As pcie_data_set(), of commands with data and without, and pcie_data_done(), which call these. */
int pcie_protect_set(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd);
void pcie_protect_set_none(const struct pcie_data *d, const struct nvme_req *req, struct nvme_cmd *cmd);
void pcie_protect_done(struct pcie_data *d, struct pcie_slot *slot, bool ok);

#endif
