/* SPDX-License-Identifier: BSD-3-Clause */
/* PERSISTENT RESERVE IN and OUT (SPC-5, 6.15 and 6.16), whose rules are the block layer's. Pure. */
#ifndef PLX_VHOST_SCSI_RESV_H
#define PLX_VHOST_SCSI_RESV_H

#include "bdev/reservation.h"
#include "vhost/scsi_cdb.h"

enum {
    SCSI_RESV_LIST = 24,                                    /* bytes of the parameter list of an OUT */
    SCSI_RESV_REPLY = 8 + PLX_RESV_REGISTRANTS * (24 + 24), /* holds that of an IN */
};

/* What an initiator of this name is called, always the same way on one machine. @return 0 or -errno */
int scsi_resv_name(const char *initiator, uint8_t name[PLX_RESV_NAME]);

/* What a command must be allowed to do to begin, enum plx_resv_access: 0 for those that no reservation concerns. */
unsigned scsi_resv_need(const struct scsi_command *cmd);

/* Takes an OUT apart, but for who sends it. @return whether it can be done; if not, sense is filled */
bool scsi_resv_parse(const struct scsi_command *cmd, const uint8_t list[SCSI_RESV_LIST], struct plx_resv_cmd *out,
                     struct scsi_sense *sense);
/* Why one could not be done, which was no conflict. */
void scsi_resv_sense(enum plx_resv_answer answer, struct scsi_sense *sense);

/* What an IN reads. @return its length, whatever was asked for */
uint32_t scsi_resv_reply(uint8_t action, const struct plx_resv *r, bool can_persist, uint8_t out[SCSI_RESV_REPLY]);

#endif
