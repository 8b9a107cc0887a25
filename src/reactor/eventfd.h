/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Eventfds that another process has too. Whether reading or writing one waits is a flag that both have (O_NONBLOCK),
 * and that process may change at any time; so none of these goes by it.
 */
#ifndef PLX_REACTOR_EVENTFD_H
#define PLX_REACTOR_EVENTFD_H

#include <pollux/reactor.h>

/* Takes what it holds. @return that */
uint64_t plx_eventfd_hear(int fd);

/*
 * Adds one to what it holds; not where it is as full as can be, nor to what is no eventfd. On the reactor. It may wait
 * after all where the kernel has no aio(7), or has none left: see SECURITY.md.
 */
void plx_eventfd_tell(struct plx_reactor *r, int fd);

#endif
