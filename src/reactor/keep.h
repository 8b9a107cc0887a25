/* SPDX-License-Identifier: BSD-3-Clause */
/* Small files that are kept whole: what is read is what was last written, whenever the machine stopped. */
#ifndef PLX_REACTOR_KEEP_H
#define PLX_REACTOR_KEEP_H

#include <stddef.h>

/*
 * Both block; on a worker thread (PLX_AIO_CALL), then, while reactors run.
 */

/* @return bytes read, -EFBIG when there are more than size, or another negative errno value */
long plx_keep_read(const char *path, void *data, size_t size);

/*
 * Replaces a file by another content, on stable storage once this has returned 0: written beside it, to PATH.new, and
 * renamed. @return 0 or a negative errno value; the file is then as it was, or whole as it was to be
 */
int plx_keep_write(const char *path, const void *data, size_t len);

#endif
