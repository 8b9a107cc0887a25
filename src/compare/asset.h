/* SPDX-License-Identifier: BSD-3-Clause */
/* Files of src/compare/report/ that the command carries along: scripts/embed makes them C. */
#ifndef PLX_COMPARE_ASSET_H
#define PLX_COMPARE_ASSET_H

#include <stddef.h>

struct compare_asset {
    const char *name;
    const unsigned char *data;
    size_t size;
};

extern const struct compare_asset compare_assets[];

#endif
