/* SPDX-License-Identifier: BSD-3-Clause */
/* A small file that is kept through a loss of power. */
#ifndef PLX_REACTOR_REPLACE_H
#define PLX_REACTOR_REPLACE_H

#include <pollux/base.h>

/*
 * Replaces a file, or makes it, for its owner alone: written beside it, synced, renamed, and its directory synced. At
 * any moment there is the old one or the new one, whole. It blocks. @return 0, or -errno with err filled
 */
int plx_file_replace(const char *path, const void *data, size_t len, struct plx_error *err);

/* Reads a file of at most `max` bytes, and ends it with a zero. @return its length, or -errno with err filled */
int64_t plx_file_read(const char *path, size_t max, char **out, struct plx_error *err);

#endif
