/* SPDX-License-Identifier: BSD-3-Clause */
/* What a server says of a pool: taken for nothing before it has been looked at. */
#ifndef PLX_CLI_POOL_ANSWER_H
#define PLX_CLI_POOL_ANSWER_H

#include "pool.h"

/* pollux_pool_get */
struct pool_seen {
    struct plx_pool_info info;
    char lvstore[2 * PLX_POOL_NAME]; /* as which the server knows it, or "" */
    size_t n;
    struct plx_volume_info volumes[];
};

/*
 * All of them: @return what was answered; or NULL, or false, with a sentence in err. A pool is to be freed.
 */
struct pool_seen *pool_answer_pool(const json_t *got, const char *uuid, struct plx_error *err);
/* pollux_pool_diff: d goes on. unit: that all in it is a multiple of */
bool pool_answer_diff(const json_t *got, uint32_t unit, struct plx_pool_diff *d);
/* pollux_pool_check; f is called for each finding */
bool pool_answer_check(const json_t *got, struct plx_pool_check *c, struct plx_error *err);
/* pollux_pool_read */
bool pool_answer_data(const json_t *got, uint8_t *mem, uint64_t length, struct plx_error *err);

#endif
