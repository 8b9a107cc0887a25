/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PLX_REACTOR_ASIDE_H
#define PLX_REACTOR_ASIDE_H

struct plx_reactor;

/*
 * A reactor for a thread that asks a few things and waits for the answers: it has no core and sleeps. Devices are not
 * told of its buffers, which would all be pinned for them: they are copied, if any are used. @return 0 or -errno
 */
int plx_reactor_create_aside(struct plx_reactor **out);

#endif
