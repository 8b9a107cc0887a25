/* SPDX-License-Identifier: BSD-3-Clause */
/* What is on a disk, by what libblkid knows. */
#ifndef PLX_BASE_CONTENT_H
#define PLX_BASE_CONTENT_H

#include <stddef.h>

/*
 * Looks at a file or device that is open for reading. @return 1 and a text such as "ext4 (file system)"; 0 for nothing
 * that is known; -errno
 */
int plx_content(int fd, char *out, size_t size);

#endif
