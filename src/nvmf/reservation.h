/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reservations (Base 8.1.22): which hosts may read and write a namespace that several of them have. A registrant is a
 * host, known by its Host Identifier, over all of its controllers.
 *
 * What there is of a namespace belongs to the control reactor (struct nvmf_ns_resv), where reservation commands are
 * decided, one after the other. Reactors see a struct nvmf_resv of it that does not change while they do, or NULL where
 * the namespace is not reserved.
 */
#ifndef PLX_NVMF_RESERVATION_H
#define PLX_NVMF_RESERVATION_H

#include <pollux/base.h>
#include <pollux/reactor.h>

#include "base/list.h"
#include "nvme/spec.h"

#include <stdbool.h>
#include <stdint.h>

struct nvmf_ctrlr;
struct nvmf_group;
struct nvmf_ns;
struct nvmf_nsref;
struct nvmf_qpair;
struct nvmf_req;

enum {
    NVMF_REGISTRANTS = 64,     /* of a namespace */
    NVMF_RESV_TEXT = 5120,     /* holds nvmf_resv_format()'s */
    NVMF_RESV_LOG = 64,        /* notifications that a controller keeps until they are read */
    NVMF_PREEMPT_LOOK_MS = 1,  /* how often commands are looked for that were told to end */
    NVMF_RESV_DATA_MAX = 4096, /* bytes of data that a reservation command may have beside its keys */
};

/* ---- reservation.c: the rules, without anything around them ---- */

struct nvmf_registrant {
    uint8_t hostid[16];
    uint64_t key;
};

/* Registrations of a namespace, and its reservation. */
struct nvmf_resv {
    uint32_t generation;
    uint8_t type;   /* enum nvme_resv_type */
    uint8_t holder; /* which registrant, of types that are held by one */
    uint8_t n;
    bool persist; /* through power loss */
    struct nvmf_registrant who[NVMF_REGISTRANTS];
};

enum nvmf_resv_access {
    NVMF_MAY_READ = 1,
    NVMF_MAY_WRITE = 2,
};

/* What a host may do; r may be NULL. @return bits of enum nvmf_resv_access */
unsigned nvmf_resv_access(const struct nvmf_resv *r, const uint8_t hostid[16]);
/* What an I/O command must be allowed to do: 0 for those that no reservation concerns. */
unsigned nvmf_resv_need(uint8_t opcode);

enum nvmf_resv_kind {
    NVMF_RESV_REGISTER,
    NVMF_RESV_ACQUIRE,
    NVMF_RESV_RELEASE,
    NVMF_RESV_REPORT,
    NVMF_RESV_SET_PERSIST, /* feature 83h */
    NVMF_RESV_GET_PERSIST,
};

/* A command, checked and taken apart. */
struct nvmf_resv_cmd {
    uint8_t kind; /* enum nvmf_resv_kind */
    uint8_t action, type, cptpl;
    bool ignore_key, persist, can_persist;
    uint8_t hostid[16];
    uint64_t current, other; /* keys */
};

/* Whom to tell of what; who is told of a preempted registration was a registrant, and is none any more. */
struct nvmf_notices {
    unsigned n;
    struct nvmf_notice {
        uint8_t hostid[16];
        uint8_t type; /* enum nvme_resv_notice */
    } of[NVMF_REGISTRANTS];
};

/* Checks dword 10 of a command of these three kinds. */
uint16_t nvmf_resv_check(enum nvmf_resv_kind kind, uint32_t cdw10);
/* Executes a command that changes something on r, which is of no use any more when that fails. @return its status */
uint16_t nvmf_resv_execute(struct nvmf_resv *r, const struct nvmf_resv_cmd *cmd, struct nvmf_notices *out);
/* Whether nothing is different. */
bool nvmf_resv_same(const struct nvmf_resv *a, const struct nvmf_resv *b);
/* Whether a host was one of those that lost their registration to another. */
bool nvmf_resv_expelled(const struct nvmf_notices *notices, const uint8_t hostid[16]);
/* The Reservation Status data structure, as much of it as fits into len bytes. */
void nvmf_resv_report(const struct nvmf_resv *r, void *data, size_t len);

/* As text, for a file: of a namespace, which its UUID names. What does not persist is not in it. @return its length */
size_t nvmf_resv_format(const struct nvmf_resv *r, const uint8_t uuid[16], char text[NVMF_RESV_TEXT]);
/* Takes in such a text. @return 0, -EINVAL for one that is damaged, -EXDEV for that of another namespace */
int nvmf_resv_parse(const char *text, size_t len, const uint8_t uuid[16], struct nvmf_resv *r);

/* ---- reserve.c: commands, on their way to the control reactor and back ---- */

/* A command on this way; in its request. */
struct nvmf_resv_op {
    struct plx_msg msg;
    struct plx_list link; /* in the namespace's line */
    struct nvmf_ns *ns;
    struct nvmf_group *group;
    uint16_t status;
    struct nvmf_resv_cmd cmd;
};

/*
 * A new namespace, before it is in its subsystem: reads what a file has kept of it.
 * @param file NULL where nothing persists
 * @return 0 or a negative errno value with err filled
 */
int nvmf_resv_open(struct nvmf_ns *ns, const char *file, struct plx_error *err);
/* That file, or NULL. */
const char *nvmf_resv_file(const struct nvmf_ns *ns);
void nvmf_resv_close(struct nvmf_ns *ns);
/* What reactors are to begin with. */
const struct nvmf_resv *nvmf_resv_seen(const struct nvmf_ns *ns);

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
