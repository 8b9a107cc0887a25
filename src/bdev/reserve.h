/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The reservations of a disk, which all servers share that it is given to. They belong to one reactor, the control
 * reactor of all of these, where commands are decided one after the other. What a command changes is on stable storage,
 * where that was asked for, and every reactor of every server has gone over to it before it is answered: from then on
 * nothing begins that it forbids.
 *
 * Who gives a disk to others is a party to its reservations, from before its reactors use the disk until after.
 */
#ifndef PLX_BDEV_RESERVE_H
#define PLX_BDEV_RESERVE_H

#include <pollux/bdev.h>

#include "base/list.h"
#include "bdev/reservation.h"
#include "reactor/fan.h"

struct plx_reservations;
struct plx_resv_party;

/* Each is called on each reactor, and answers. */
struct plx_resv_party_ops {
    void (*show)(struct plx_fan_leg *leg);  /* plx_resv_shown() is something else now */
    void (*expel)(struct plx_fan_leg *leg); /* ends what those have begun of whom plx_resv_notices() says so, first */
    void (*tell)(struct plx_fan_leg *leg);  /* the rest of what that says */
};

struct plx_resv_party {
    struct plx_reservations *of; /* NULL: has none */
    const struct plx_resv_party_ops *ops;
    struct plx_list link;
    struct plx_fan fan;
    bool asked; /* reactors have not answered */
    void (*left)(struct plx_resv_party *p);
};

static inline struct plx_resv_party *plx_resv_party_of(const struct plx_fan_leg *leg)
{
    return plx_container_of(leg->fan, struct plx_resv_party, fan);
}

/* ---- on the control reactor, or before it runs ---- */

/*
 * @param file where they are kept through power loss, under a UUID that says whose they are, and NULL where nothing
 * persists: the same for all parties
 * @return 0, or -errno with err filled
 */
int plx_resv_party_init(struct plx_resv_party *p, const struct plx_bdev *bdev, const char *file, const uint8_t uuid[16],
                        struct plx_reactor *home, struct plx_reactor *const *reactors, unsigned n,
                        const struct plx_resv_party_ops *ops, struct plx_error *err);
/* Of one that has not joined, or has left. Harmless for one that is zeroed. */
void plx_resv_party_destroy(struct plx_resv_party *p);

/* Its reactors begin with what is shown now. */
void plx_resv_join(struct plx_resv_party *p);
/* They do not look any more; `left` is called when nobody asks them any more either, perhaps before this returns. */
void plx_resv_leave(struct plx_resv_party *p, void (*left)(struct plx_resv_party *p));

/* The file they are kept in, or NULL. */
const char *plx_resv_file(const struct plx_resv_party *p);

/* ---- there, and on the reactors of a party that are asked ---- */

/* What holds; NULL while nothing is reserved. Does not change before all reactors have gone over to what comes next. */
const struct plx_resv *plx_resv_shown(const struct plx_resv_party *p);
const struct plx_resv_notices *plx_resv_notices(const struct plx_resv_party *p);

/* ---- on any reactor of a party ---- */

/* A command on its way; the sender's, until done. */
struct plx_resv_op {
    struct plx_msg msg;
    struct plx_list link;
    struct plx_reservations *of;
    struct plx_reactor *reactor; /* where `done` is called */
    struct plx_resv_cmd cmd;
    enum plx_resv_answer answer;
    void (*look)(struct plx_resv_op *op, const struct plx_resv *r); /* on the control reactor, if it may; or NULL */
    void (*done)(struct plx_resv_op *op);
};

void plx_resv_submit(const struct plx_resv_party *p, struct plx_resv_op *op);

#endif
