/* SPDX-License-Identifier: BSD-3-Clause */
/* Descriptors that travel over local sockets. */
#ifndef PLX_NET_FDS_H
#define PLX_NET_FDS_H

#include <stddef.h>
#include <sys/types.h>

enum { PLX_FDS_MAX = 16 };

/*
 * Receives bytes, and the descriptors that came with them: new ones, the caller's. More than `room` of them are closed.
 * @param n receives how many there are
 * @return bytes, 0 at the end of the stream, -EAGAIN; -EMSGSIZE when there were more than there is room for, or another
 * -errno
 */
ssize_t plx_fds_recv(int socket, void *buf, size_t len, int *fds, unsigned room, unsigned *n);
/* Sends bytes with a descriptor, or with none (-1); never blocks. @return bytes or -errno */
ssize_t plx_fds_send(int socket, const void *buf, size_t len, int fd);

#endif
