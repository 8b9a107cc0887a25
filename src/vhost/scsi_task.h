/* SPDX-License-Identifier: BSD-3-Clause */
/* What a slot of a ring knows of a SCSI request. */
#ifndef PLX_VHOST_SCSI_TASK_H
#define PLX_VHOST_SCSI_TASK_H

#include "base/iov.h"

struct scsi_lun;

struct scsi_task {
    struct scsi_lun *lun;     /* NULL: none, or it is through */
    uint64_t tag;             /* the guest's name for it */
    uint64_t seq;             /* requests that began on its reactor before it */
    struct plx_iov_tail tail; /* what the guest reads goes on within this entry, behind the response */
    struct iovec *out, *in;   /* data */
    uint32_t nout, nin;       /* entries */
    uint64_t out_bytes, in_bytes;
    uint64_t lba, left; /* of a write same */
    uint32_t list;      /* bytes of the parameter list of an unmap */
    uint16_t number;    /* of the unit that it is for, of this target */
    uint8_t target;
    uint8_t needs; /* enum plx_resv_access */
    uint8_t ended; /* it was asked to end early, which this response then says, */
    bool expelled; /* or this status: its initiator has lost its registration */
};

#endif
