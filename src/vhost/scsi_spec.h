/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * SCSI as it is laid down: requests of a virtio SCSI host (virtio 1.2, 5.6), and what commands are made of (SAM-5,
 * SPC-5, SBC-4), whose integers are big-endian.
 */
#ifndef PLX_VHOST_SCSI_SPEC_H
#define PLX_VHOST_SCSI_SPEC_H

#include "base/le.h"

#include <stdbool.h>

/* ---- virtio 1.2, 5.6 ---- */

enum { VIRTIO_SCSI_F_HOTPLUG = 1, VIRTIO_SCSI_F_CHANGE = 2 };

enum { VIRTIO_SCSI_CONTROL = 0, VIRTIO_SCSI_EVENT = 1, VIRTIO_SCSI_REQUEST = 2 }; /* rings; requests from there on */

enum { SCSI_CDB_BYTES = 32, SCSI_SENSE_BYTES = 96, SCSI_LUN_BYTES = 8 };

struct virtio_scsi_config {
    plx_le32 num_queues, seg_max, max_sectors, cmd_per_lun, event_info_size, sense_size, cdb_size;
    plx_le16 max_channel, max_target;
    plx_le32 max_lun;
};

struct virtio_scsi_request {
    uint8_t lun[SCSI_LUN_BYTES], tag[8], attribute, priority, crn, cdb[SCSI_CDB_BYTES];
};

struct virtio_scsi_response {
    plx_le32 sense_len, residual;
    plx_le16 qualifier;
    uint8_t status, response, sense[SCSI_SENSE_BYTES];
};

struct virtio_scsi_tmf {
    plx_le32 type, subtype;
    uint8_t lun[SCSI_LUN_BYTES], tag[8];
};

struct virtio_scsi_an {
    plx_le32 type;
    uint8_t lun[SCSI_LUN_BYTES];
    plx_le32 requested;
};

struct virtio_scsi_event {
    plx_le32 event;
    uint8_t lun[SCSI_LUN_BYTES];
    plx_le32 reason;
};

_Static_assert(sizeof(struct virtio_scsi_request) == 51 && sizeof(struct virtio_scsi_response) == 108 &&
                   sizeof(struct virtio_scsi_config) == 36 && sizeof(struct virtio_scsi_tmf) == 24 &&
                   sizeof(struct virtio_scsi_an) == 16 && sizeof(struct virtio_scsi_event) == 16,
               "virtio 1.2, 5.6.4 and 5.6.6");

enum virtio_scsi_answer {
    VIRTIO_SCSI_OK,
    VIRTIO_SCSI_OVERRUN,
    VIRTIO_SCSI_ABORTED,
    VIRTIO_SCSI_BAD_TARGET,
    VIRTIO_SCSI_RESET,
    VIRTIO_SCSI_FAILURE = 9,
    VIRTIO_SCSI_FUNCTION_SUCCEEDED,
    VIRTIO_SCSI_FUNCTION_REJECTED,
    VIRTIO_SCSI_INCORRECT_LUN,
};

enum { VIRTIO_SCSI_TMF, VIRTIO_SCSI_AN_QUERY, VIRTIO_SCSI_AN_SUBSCRIBE };

enum virtio_scsi_function {
    VIRTIO_SCSI_ABORT_TASK,
    VIRTIO_SCSI_ABORT_TASK_SET,
    VIRTIO_SCSI_CLEAR_ACA,
    VIRTIO_SCSI_CLEAR_TASK_SET,
    VIRTIO_SCSI_NEXUS_RESET,
    VIRTIO_SCSI_LUN_RESET,
    VIRTIO_SCSI_QUERY_TASK,
    VIRTIO_SCSI_QUERY_TASK_SET,
};

#define VIRTIO_SCSI_EVENTS_MISSED 0x80000000u
enum { VIRTIO_SCSI_NO_EVENT, VIRTIO_SCSI_TRANSPORT_RESET, VIRTIO_SCSI_ASYNC_NOTIFY, VIRTIO_SCSI_PARAM_CHANGE };
enum { VIRTIO_SCSI_RESCAN = 1, VIRTIO_SCSI_REMOVED = 2 }; /* of a transport reset */

/* ---- SAM, SPC, SBC ---- */

enum scsi_status {
    SCSI_GOOD = 0,
    SCSI_CHECK_CONDITION = 2,
    SCSI_BUSY = 8,
    SCSI_RESERVATION_CONFLICT = 0x18,
    SCSI_TASK_ABORTED = 0x40, /* by another initiator: see TAS in the control mode page */
};

enum scsi_key {
    SCSI_NO_SENSE = 0,
    SCSI_NOT_READY = 2,
    SCSI_MEDIUM_ERROR = 3,
    SCSI_HARDWARE_ERROR = 4,
    SCSI_ILLEGAL_REQUEST = 5,
    SCSI_UNIT_ATTENTION = 6,
    SCSI_DATA_PROTECT = 7,
    SCSI_ABORTED_COMMAND = 0xb,
    SCSI_MISCOMPARE = 0xe,
};

/* Additional sense code, and its qualifier (SPC-5, annex F). */
enum scsi_asc {
    SCSI_ASC_NONE = 0,
    SCSI_ASC_WRITE_FAULT = 0x0300,
    SCSI_ASC_NOT_READY = 0x0400,
    SCSI_ASC_BECOMING_READY = 0x0401,
    SCSI_ASC_COMMUNICATION = 0x0800,
    SCSI_ASC_GUARD = 0x1001, /* of protection information, as are the next two */
    SCSI_ASC_APPLICATION_TAG = 0x1002,
    SCSI_ASC_REFERENCE_TAG = 0x1003,
    SCSI_ASC_READ_ERROR = 0x1100,
    SCSI_ASC_PARAMETER_LENGTH = 0x1a00,
    SCSI_ASC_MISCOMPARE = 0x1d00,
    SCSI_ASC_OPCODE = 0x2000,
    SCSI_ASC_LBA_RANGE = 0x2100,
    SCSI_ASC_CDB_FIELD = 0x2400,
    SCSI_ASC_NO_LUN = 0x2500,
    SCSI_ASC_PARAMETER_FIELD = 0x2600,
    SCSI_ASC_RELEASE = 0x2604,
    SCSI_ASC_WRITE_PROTECTED = 0x2700,
    SCSI_ASC_SPACE = 0x2707,
    SCSI_ASC_RESET = 0x2903,
    SCSI_ASC_RESERVATIONS_PREEMPTED = 0x2a03,
    SCSI_ASC_RESERVATIONS_RELEASED = 0x2a04,
    SCSI_ASC_REGISTRATIONS_PREEMPTED = 0x2a05,
    SCSI_ASC_CAPACITY = 0x2a09,
    SCSI_ASC_SAVING = 0x3900,
    SCSI_ASC_LUNS = 0x3f0e,
    SCSI_ASC_INTERNAL = 0x4400,
    SCSI_ASC_REGISTRATIONS = 0x5504,
};

static inline uint16_t scsi_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t scsi_get32(const uint8_t *p)
{
    return (uint32_t)scsi_get16(p) << 16 | scsi_get16(p + 2);
}

static inline uint64_t scsi_get64(const uint8_t *p)
{
    return (uint64_t)scsi_get32(p) << 32 | scsi_get32(p + 4);
}

static inline void scsi_put16(uint8_t *p, uint64_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void scsi_put32(uint8_t *p, uint64_t v)
{
    scsi_put16(p, v >> 16);
    scsi_put16(p + 2, v);
}

static inline void scsi_put64(uint8_t *p, uint64_t v)
{
    scsi_put32(p, v >> 32);
    scsi_put32(p + 4, v);
}

#endif
