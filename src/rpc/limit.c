/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for the limits of disks. */
#include "rpc/table.h"

json_t *rpc_disk_limits(struct plx_bdev *bdev)
{
    (void)bdev;
    return json_pack("{s:i, s:i, s:i, s:i}", "rw_ios_per_sec", 0, "rw_mbytes_per_sec", 0, "r_mbytes_per_sec", 0,
                     "w_mbytes_per_sec", 0);
}

void rpc_config_disk_more(struct plx_rpc *rpc, json_t *list, const struct rpc_disk *d)
{
    (void)rpc, (void)list, (void)d;
}
