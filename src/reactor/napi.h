/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Polling a NIC's queue while a reactor waits (Linux 6.9): before the kernel puts the reactor to sleep, it polls the
 * queue by which a packet came last for one of these sockets, for so many us. When nothing comes meanwhile it forgets
 * that queue until there is a packet by it again: a reactor without traffic polls nothing.
 *
 * Where all of them come by one queue that can do it (napi_ask.h), interrupts of a NIC stay off while packets come.
 * Those sockets are in a second epoll set for that, of which it is certain that what is ready there are packets: the
 * kernel leaves interrupts off when a wait finds something in it, and looks at the NIC only when nothing is ready. So
 * the reactor waits for it, for 1 ns, in every round without work, and between others every 10 us. The first wait that
 * finds nothing has turned interrupts on again.
 */
#ifndef PLX_REACTOR_NAPI_H
#define PLX_REACTOR_NAPI_H

#include <pollux/reactor.h>

struct plx_napi_socket {
    struct plx_list link;
    int fd;
    bool added;
};

/*
 * A socket, and the NIC's queue that its packets come by. Nothing is added where that is not polled; what is, is to be
 * removed before the socket is closed.
 */
void plx_napi_add(struct plx_reactor *r, struct plx_napi_socket *s, int fd, unsigned queue);
void plx_napi_remove(struct plx_reactor *r, struct plx_napi_socket *s);

/* Whether sockets are to be added at all: not where it was turned off, or this kernel cannot do it. */
bool plx_napi_polls(const struct plx_reactor *r);

#endif
