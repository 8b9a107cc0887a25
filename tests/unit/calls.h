/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A transport whose capsules are function calls: for tests of the target's core, on any number of reactors. Everything
 * here is called on the reactor of the queue pair, or while none runs.
 */
#ifndef TEST_CALLS_H
#define TEST_CALLS_H

#include "nvmf/nvmf.h"

extern const struct nvmf_transport calls_transport;

/* A connection; its owner frees it once it is gone. */
struct calls_qpair {
    struct nvmf_qpair qp;
    bool closed, detaching;
    bool gone; /* nothing of it is left in the target */
    struct plx_timer orphan;
};

typedef void (*calls_done)(void *arg, const struct nvme_cqe *cqe);

/* A new connection that came by a listener, 0 for none. */
void calls_connect(struct calls_qpair *q, struct nvmf_group *g, uint16_t portid);
/* As if its peer had closed it. */
void calls_close(struct calls_qpair *q);
/*
 * A capsule. `data` is what the command sends or receives, and stays until it is done, which may be at once; after the
 * connection was closed it is not told.
 */
void calls_send(struct calls_qpair *q, const struct nvme_cmd *cmd, void *data, uint32_t len, calls_done done,
                void *arg);

/*
 * Connect: the response's cqe tells the controller's identifier, which an I/O queue's `cntlid` is. Host identifiers
 * differ where the last letters of the hosts' names do.
 */
void calls_fabrics_connect(struct calls_qpair *q, const char *subnqn, const char *hostnqn, uint16_t qid,
                           uint16_t cntlid, struct nvme_connect_data *data, calls_done done, void *arg);
/* Sets CC.EN. */
void calls_enable(struct calls_qpair *q, bool enable, calls_done done, void *arg);

static inline uint16_t calls_status(const struct nvme_cqe *cqe)
{
    return plx_get16(cqe->status) >> 1;
}

#endif
