/* SPDX-License-Identifier: BSD-3-Clause */
/* Local sockets whose messages may have descriptors with them (unix(7), SCM_RIGHTS). None of these blocks. */
#ifndef PLX_NET_FDPASS_H
#define PLX_NET_FDPASS_H

#include <pollux/base.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { PLX_FDS_MAX = 253 }; /* that the kernel takes with one message (SCM_MAX_FD) */

/*
 * Connects to who listens at a path. @return a descriptor, or -errno with err filled; -EAGAIN: it has not taken those
 * who came before yet
 */
int plx_fds_connect(const char *path, struct plx_error *err);

/* Two that are connected to each other; whoever gets one of them may wait at it. @return 0 or -errno */
int plx_fds_pair(int fds[2]);

/*
 * Sends bytes, the first of which have nfds descriptors with them; these stay the caller's. @return bytes sent, which
 * may be fewer (descriptors have gone with the first); -EAGAIN; or another -errno
 */
ssize_t plx_fds_send(int sock, const struct iovec *iov, unsigned niov, const int *fds, unsigned nfds);

/*
 * Receives bytes and the descriptors that came with them, which are the caller's from now on, and close on exec.
 * @param nfds room in fds; on return how many there are, 0 on failure. More than there is room for are closed.
 * @return bytes, 0 at the end of the stream, -EAGAIN, or another -errno; -EMSGSIZE when there was no room for all of
 *         the descriptors, and the bytes are there even so
 */
ssize_t plx_fds_recv(int sock, const struct iovec *iov, unsigned niov, int *fds, unsigned *nfds);

#endif
