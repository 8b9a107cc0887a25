/* SPDX-License-Identifier: BSD-3-Clause */
/* What those need of a disk who ask its controller themselves. */
#ifndef PLX_BDEV_NVME_INSIDE_H
#define PLX_BDEV_NVME_INSIDE_H

#include <stdbool.h>
#include <stddef.h>

struct plx_bdev;
struct nvme_opts;
struct nvme_id_ns;

/*
 * How to reach the controller that a disk is a namespace of, with an admin queue alone. @return false when it is of
 * none
 */
bool plx_nvme_disk_opts(const struct plx_bdev *bdev, struct nvme_opts *out);
/* The node by which the kernel has it. @return false when it is no such disk */
bool plx_nvme_disk_node(const struct plx_bdev *bdev, char *out, size_t size);
/*
 * What the controller says of the namespace now: if it is certainly the one that it was, its size is the disk's. While
 * the disk is in use its channels see to that by themselves.
 */
void plx_nvme_disk_looked_at(struct plx_bdev *bdev, const struct nvme_id_ns *id);

#endif
