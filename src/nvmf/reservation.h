/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reservations (Base 8.1.22) as NVMe has them: commands, features, notifications. The rules, and what there is of a
 * disk, are the block layer's (bdev/reserve.h), as other servers have the same disks. A registrant is a host, known by
 * its Host Identifier, over all of its controllers. Reactors see a struct plx_resv that does not change while they do,
 * or NULL where the namespace is not reserved.
 */
#ifndef PLX_NVMF_RESERVATION_H
#define PLX_NVMF_RESERVATION_H

#include "bdev/reserve.h"
#include "nvme/spec.h"

#include <stdbool.h>
#include <stdint.h>

struct nvmf_ctrlr;
struct nvmf_ns;
struct nvmf_nsref;
struct nvmf_qpair;
struct nvmf_req;

enum {
    NVMF_RESV_LOG = 64,        /* notifications that a controller keeps until they are read */
    NVMF_PREEMPT_LOOK_MS = 1,  /* how often commands are looked for that were told to end */
    NVMF_RESV_DATA_MAX = 4096, /* bytes of data that a reservation command may have beside its keys */
};

/* ---- reservation.c: what commands look like, without anything around them ---- */

/* What an I/O command must be allowed to do, enum plx_resv_access: 0 for those that no reservation concerns. */
unsigned nvmf_resv_need(uint8_t opcode);
/* Takes a Reservation Register, Acquire or Release apart. @return its status */
uint16_t nvmf_resv_parse(uint8_t opcode, uint32_t cdw10, struct plx_resv_cmd *cmd);
uint16_t nvmf_resv_status(enum plx_resv_answer answer);
/* The Reservation Status data structure, as much of it as fits into len bytes. */
void nvmf_resv_report(const struct plx_resv *r, void *data, size_t len);

/* ---- reserve.c ---- */

/*
 * A new namespace, before it is in its subsystem: reads what a file has kept of it.
 * @param file NULL where nothing persists
 * @return 0 or a negative errno value with err filled
 */
int nvmf_resv_open(struct nvmf_ns *ns, const char *file, struct plx_error *err);
/* That file, or NULL. */
const char *nvmf_resv_file(const struct nvmf_ns *ns);
void nvmf_resv_close(struct nvmf_ns *ns);
/* Its reactors are to begin. */
void nvmf_resv_begin(struct nvmf_ns *ns);
/* They have ended. nvmf_resv_left() is called when nobody asks them any more. */
void nvmf_resv_end(struct nvmf_ns *ns);

/* I/O commands: Reservation Register, Report, Acquire, Release. */
uint16_t nvmf_parse_reservation(struct nvmf_req *req);
/* Features 82h and 83h. */
uint16_t nvmf_parse_resv_feature(struct nvmf_req *req);

/* Whether a namespace is reserved that a queue pair sees, so that its commands have to be looked at. */
bool nvmf_resv_concerns(const struct nvmf_qpair *qp);
/* The status of what a reservation has held back in the middle; no disk was asked to abort it. */
enum { NVMF_HELD_BACK = PLX_SC_RESERVATION_CONFLICT | NVME_STATUS_DNR };

/* What a command to a namespace ends with because of a reservation, or PLX_SC_SUCCESS. */
uint16_t nvmf_resv_refusal(struct nvmf_qpair *qp, const struct nvmf_nsref *ref, uint32_t nsid, uint8_t opcode);

/* What a controller's host is to read of reservations; its admin queue's reactor's. */
struct nvmf_resv_log {
    uint64_t count; /* of those there ever were */
    unsigned n;     /* that are kept: the latest */
    struct {
        uint32_t nsid;
        uint8_t type;
    } kept[NVMF_RESV_LOG]; /* by count, modulo */
};

/* The oldest page that is kept. */
void nvmf_resv_log_page(const struct nvmf_ctrlr *c, struct nvme_resv_log *page);
/* It was read. */
void nvmf_resv_log_drop(struct nvmf_ctrlr *c);

#endif
