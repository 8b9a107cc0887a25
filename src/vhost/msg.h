/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages of a front-end: what is looked at before anybody acts by them. */
#ifndef PLX_VHOST_MSG_H
#define PLX_VHOST_MSG_H

#include <stdbool.h>
#include <stddef.h>

#include "vhost/spec.h"

enum {
    VHOST_MSG_FDS = VHOST_TABLE_REGIONS, /* that come with one */
    VHOST_RINGS = 256,                   /* of a device: the index of SET_VRING_KICK has 8 bits */
    VHOST_RING_MAX = 1024,               /* descriptors */
    VHOST_MEM_SLOTS = 509,
};

/* A message as it came. */
struct vhost_msg {
    struct vhost_header header;
    union vhost_body body;
    unsigned nfds;
    int fds[VHOST_MSG_FDS];
};

/* What messages are checked against. */
struct vhost_terms {
    uint64_t protocol; /* protocol features that were agreed on */
    uint64_t offered;  /* features that are offered, */
    uint64_t offered_protocol;
    unsigned rings; /* that the device has */
    bool packed;    /* was agreed on */
};

enum vhost_verdict {
    VHOST_TAKE,
    VHOST_REFUSE, /* it means nothing that could be done: the front-end is told so, where it asks */
    VHOST_BREAK,  /* where the next one begins, or what this one wants, cannot be known: the connection ends */
};

/* Whether a header may be: what follows it fits. */
enum vhost_verdict vhost_msg_header(const struct vhost_header *h);
/*
 * A whole message. Sizes, counts of descriptors, features that it needs, indices, sizes of rings. Pure.
 * @param why receives what is wrong with it
 */
enum vhost_verdict vhost_msg_check(const struct vhost_msg *m, const struct vhost_terms *t, const char **why);
/* Whether the front-end waits for an answer of its own, beside REPLY_ACK. */
bool vhost_msg_answers(const struct vhost_msg *m);
const char *vhost_msg_name(uint32_t request);
/* Which features a front-end wants that there are not, for people. */
void vhost_msg_unoffered(uint64_t features, char *out, size_t size);
/* The ring that it is about, which vhost_msg_check() has found to be there; -1 for none. */
int vhost_msg_ring(const struct vhost_msg *m);

#endif
