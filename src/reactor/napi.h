/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Polling a NIC's queue while a reactor waits (Linux 6.9): before the kernel puts the reactor to sleep, it polls the
 * queue by which a packet came last for one of these sockets, for so many us. When nothing comes meanwhile it forgets
 * that queue until there is a packet by it again: a reactor without traffic polls nothing.
 */
#ifndef PLX_REACTOR_NAPI_H
#define PLX_REACTOR_NAPI_H

#include <pollux/reactor.h>

/* A socket whose packets come by a NIC's queue. @return false where that is not polled; else to be taken back */
bool plx_napi_add(struct plx_reactor *r, int fd);
/* Before it is closed. */
void plx_napi_remove(struct plx_reactor *r, int fd);

/* Whether sockets are to be added at all: not where it was turned off, or this kernel cannot do it. */
bool plx_napi_polls(const struct plx_reactor *r);

#endif
