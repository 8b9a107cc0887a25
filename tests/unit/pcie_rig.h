/* SPDX-License-Identifier: BSD-3-Clause */
/* The least of a host, for tests of the model itself: it writes registers, entries and doorbells one by one. */
#ifndef PCIE_RIG_H
#define PCIE_RIG_H

#include "pcie_model_impl.h"

enum {
    RIG_BASE = 0x10000000, /* IOVA of the memory */
    RIG_BYTES = 1 << 20,
    RIG_ASQ = 0, /* places in it; queues of 4 KiB each, */
    RIG_ACQ = 0x1000,
    RIG_QUEUES = 0x2000,  /* of queue n at RIG_QUEUES + n * 0x2000, SQ first */
    RIG_DATA = 0x20000,   /* for I/O */
    RIG_ADMIN = 0x80000,  /* data of admin commands */
    RIG_LIST = 0x90000,   /* PRP lists, SGL segments */
    RIG_SHADOW = 0xa0000, /* and EventIdx behind it */
    RIG_DEPTH = 8,        /* of every queue */
};

struct rig_queue {
    uint32_t tail, head, phase, size;
    uint64_t sq, cq; /* in the memory */
};

struct rig {
    struct pcie_model *m;
    struct pci_function *f;
    uint8_t *memory;
    struct rig_queue q[9];
    uint16_t cid; /* of the command put last */
    int fds[4];
};

/* Opens a model of these, with its memory mapped; no register is written yet. */
void rig_open(struct rig *r, const struct pcie_model_opts *opts);
/* Asserts that there were no complaints, and gives everything back. */
void rig_close(struct rig *r);
void rig_complained(struct rig *r, const char *part); /* exactly once, of that; and forgets it */

uint32_t rig_get(struct rig *r, uint32_t offset);
void rig_put(struct rig *r, uint32_t offset, uint32_t value);
/* Steps until CSTS & mask == value. @return whether it came to that within a limit */
bool rig_wait_csts(struct rig *r, uint32_t mask, uint32_t value);
void rig_write_admin_registers(struct rig *r);
void rig_enable(struct rig *r);
/* EN = 0, and waits for RDY. */
void rig_disable(struct rig *r);

/* Into the next entry, with a new identifier. Without a doorbell. */
void rig_put_cmd(struct rig *r, unsigned qid, struct nvme_cmd cmd);
void rig_ring_sq(struct rig *r, unsigned qid);
/* @return whether there is one; the doorbell of the completion queue is rung */
bool rig_take(struct rig *r, unsigned qid, struct nvme_cqe *cqe);
uint16_t rig_status(const struct nvme_cqe *cqe);
/* One command, and its completion, which is that of this command. @return status */
uint16_t rig_do(struct rig *r, unsigned qid, struct nvme_cmd cmd, struct nvme_cqe *cqe);
/* The same with success. */
void rig_must(struct rig *r, unsigned qid, struct nvme_cmd cmd);

/* A command with PRP entries of that place in the memory; those of a list are written to RIG_LIST. */
struct nvme_cmd rig_cmd(struct rig *r, uint8_t opcode, uint32_t nsid, unsigned at, uint64_t bytes);
struct nvme_cmd rig_io(struct rig *r, uint8_t opcode, uint64_t lba, unsigned blocks, unsigned at);
struct nvme_cmd rig_create(unsigned qid, bool cq, int vector);
/* Number of queues, and queue 1 to n with interrupt vectors of their numbers. */
void rig_queues(struct rig *r, unsigned n);
/* All of the above: open, enable, n queues. */
void rig_up(struct rig *r, const struct pcie_model_opts *opts, unsigned n);
void rig_pattern(struct rig *r, unsigned at, size_t bytes, unsigned seed);
unsigned rig_irqs(struct rig *r, unsigned vector); /* since asked last */

#endif
