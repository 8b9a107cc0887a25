/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kernel's target and host, nvmet-tcp and nvme-tcp: set up through configfs and /dev/nvme-fabrics, and taken down.
 *
 * What is made is noted in /run/pollux-compare/ID/state.json before it is made, and named by the run's ID where it can
 * be named. A run holds a lock on its folder for as long as it lives: the folder of one that was killed can be told,
 * and what stands in it taken down by another. Nothing else is ever touched.
 */
#ifndef PLX_COMPARE_KERNEL_H
#define PLX_COMPARE_KERNEL_H

#include <pollux/base.h>

struct compare_kernel;

/*
 * Whether the kernel can be target, or host. Loads modules, which are noted.
 * @return false with the reason: no root, no module
 */
bool compare_kernel_target_possible(struct compare_kernel *k, char *reason, size_t size);
bool compare_kernel_host_possible(struct compare_kernel *k, char *reason, size_t size);

/*
 * What a run sets up. Without root, or where nothing can be noted, it can set up nothing, and that is no error.
 * @return 0 or -ENOMEM
 */
int compare_kernel_open(struct compare_kernel **out, struct plx_error *err);
/* Takes down what is still there, and its notes. @return 0, or a negative errno value when something could not be */
int compare_kernel_close(struct compare_kernel *k, struct plx_error *err);

/* What nvmet serves. */
struct compare_medium {
    const char *path; /* a block device or a file; NULL: memory of `bytes` */
    uint64_t bytes;
    bool null; /* that forgets what is written */
};
/*
 * Has nvmet listen, on a port that is free; once a run.
 * @return 0 or a negative errno value
 */
int compare_nvmet_start(struct compare_kernel *k, const struct compare_medium *medium, const char *addr, uint16_t *port,
                        char nqn[80], struct plx_error *err);
/* What stands behind the namespace: "brd", "null_blk", or the path. */
const char *compare_nvmet_medium(const struct compare_kernel *k);

struct compare_connect {
    const char *addr, *nqn;
    uint16_t port;
    uint32_t queues, poll_queues, entries;
    bool digests;
};
/* Connects the kernel's host. @param device its block device. @return 0 or a negative errno value */
int compare_nvme_connect(struct compare_kernel *k, const struct compare_connect *c, char device[64],
                         struct plx_error *err);
int compare_nvme_disconnect(struct compare_kernel *k);

/*
 * Takes down what runs that were killed have left. Calls say for each thing. @return how many runs, or a negative errno
 * value
 */
int compare_clean(void (*say)(const char *text));

#endif
