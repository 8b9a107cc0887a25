/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A unit as a party to the reservations of its disk. Who may read and write is a host's, which is one initiator,
 * however many of its front-ends are connected.
 */
#include "vhost/scsi.h"

static struct scsi_lun *party_lun(const struct plx_fan_leg *leg, unsigned *i)
{
    *i = (unsigned)(leg - leg->fan->legs);
    return plx_container_of(plx_resv_party_of(leg), struct scsi_lun, resv);
}

static void party_show(struct plx_fan_leg *leg)
{
    unsigned i;
    struct scsi_lun *l = party_lun(leg, &i);
    l->legs[i].resv = plx_resv_shown(&l->resv);
    plx_fan_answer(leg, 0);
}

static void party_expel(struct plx_fan_leg *leg)
{
    unsigned i;
    struct scsi_lun *l = party_lun(leg, &i);
    if (plx_resv_expelled(plx_resv_notices(&l->resv), l->scsi->initiator))
        scsi_expel(&l->legs[i].expel, leg);
    else
        plx_fan_answer(leg, 0);
}

/* Front-ends have unit attentions, of which all reactors know: the first one says it. */
static void party_tell(struct plx_fan_leg *leg)
{
    static const uint8_t attentions[] = {
        [PLX_RESV_EXPELLED] = SCSI_ATTENTION_REGISTRATIONS_PREEMPTED,
        [PLX_RESV_RELEASED] = SCSI_ATTENTION_RESERVATIONS_RELEASED,
        [PLX_RESV_PREEMPTED] = SCSI_ATTENTION_RESERVATIONS_PREEMPTED,
    };
    unsigned leg_at;
    struct scsi_lun *l = party_lun(leg, &leg_at);
    const struct plx_resv_notices *told = plx_resv_notices(&l->resv);
    for (unsigned i = 0; !leg_at && i < told->n; i++)
        if (!memcmp(told->of[i].name, l->scsi->initiator, sizeof l->scsi->initiator))
            scsi_attend(l, (enum scsi_attention)attentions[told->of[i].news]);
    plx_fan_answer(leg, 0);
}

const struct plx_resv_party_ops scsi_party_ops = {.show = party_show, .expel = party_expel, .tell = party_tell};
