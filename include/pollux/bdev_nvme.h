/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file Disks of NVMe/TCP controllers, and their paths while they are in use. What is changed here, channels take over
 * each on its reactor: a path that is added connects in its own time; to one that is removed nothing new is sent, and
 * what is in flight there has 2 s to end, before it is sent again elsewhere. From any thread, as long as nobody closes
 * the disk meanwhile.
 */
#ifndef POLLUX_BDEV_NVME_H
#define POLLUX_BDEV_NVME_H

#include <pollux/bdev.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { PLX_BDEV_NVME_PATHS_MAX = 8 };

/** Who wants to know when all channels have taken a change over: done is called on the reactor, after that. */
struct plx_bdev_nvme_wait {
    struct plx_reactor *reactor;
    void (*done)(void *arg);
    void *arg;
};

/** Whether a disk is one of these. */
PLX_API bool plx_bdev_is_nvme(const struct plx_bdev *bdev);

/**
 * Adds a path.
 * @param addr ADDR:PORT, numeric, IPv6 in brackets
 * @param wait or NULL
 * @return 0; -EEXIST when it is there, -ENOSPC when there are PLX_BDEV_NVME_PATHS_MAX, -EINVAL or -ENOMEM, with err
 *         filled: then done is not called
 */
PLX_API int plx_bdev_nvme_add_path(struct plx_bdev *bdev, const char *addr, const struct plx_bdev_nvme_wait *wait,
                                   struct plx_error *err);
/** Removes one, which is not the last. @return 0, -ENOENT, -EBUSY, -EINVAL or -ENOMEM with err filled */
PLX_API int plx_bdev_nvme_remove_path(struct plx_bdev *bdev, const char *addr, const struct plx_bdev_nvme_wait *wait,
                                      struct plx_error *err);
/**
 * Ends the associations of a path, or of all for NULL, which are made again: requests in flight are sent again there or
 * elsewhere, compare and write fails. @return 0, -ENOENT, -EINVAL or -ENOMEM with err filled
 */
PLX_API int plx_bdev_nvme_reset(struct plx_bdev *bdev, const char *addr, const struct plx_bdev_nvme_wait *wait,
                                struct plx_error *err);
/** Of paths that are equally good: all in turn, or the first. @return 0, -EINVAL or -ENOMEM with err filled */
PLX_API int plx_bdev_nvme_set_policy(struct plx_bdev *bdev, bool round_robin, const struct plx_bdev_nvme_wait *wait,
                                     struct plx_error *err);
PLX_API bool plx_bdev_nvme_policy(const struct plx_bdev *bdev);

/** The i-th path, ADDR:PORT; over PCIe the address of the function. @return false when there is none */
PLX_API bool plx_bdev_nvme_address(const struct plx_bdev *bdev, unsigned i, char *out, size_t size);

/** A path of a channel, as that has last told. */
struct plx_bdev_nvme_path {
    const struct plx_reactor *reactor; /**< the channel's */
    char address[64];                  /**< "192.0.2.1:4420": the one in use, or being tried */
    bool connected;
    bool usable;       /**< it is connected, leads to this disk, and its ANA state allows it to be used */
    bool in_use;       /**< and requests are sent there at present */
    uint8_t ana_state; /**< 1 to 15: Base 8.1.1; when it was connected last */
    uint16_t cntlid;   /**< the controller's identifier, the same */
};

/** What a disk is of, as its controller said when it was opened. Texts are terminated, and without trailing spaces. */
struct plx_bdev_nvme_info {
    char pci_address[16]; /**< "0000:01:00.0"; "" over a network */
    uint32_t nsid;
    uint32_t version; /**< Base 3.1.4.2 */
    uint16_t cntlid, vendor;
    uint16_t oacs; /**< optional admin commands: Base 5.1.13.2.1 */
    uint8_t cmic;  /**< likewise */
    uint8_t nmic;  /**< NVM 4.1.5.1 */
    char model[41], serial[21], firmware[9], subnqn[224];
    uint16_t md_size;                                /**< bytes of metadata a block, of which the disk shows nothing */
    bool md_interleave;                              /**< it follows each block */
    uint8_t dif_type;                                /**< of protection information, 1 to 3; 0: none */
    uint8_t dif_guard_bits;                          /**< 16 or 64 */
    bool dif_first;                                  /**< it is the first of the metadata, else the last */
    bool checks_guard, checks_reftag, checks_apptag; /**< here, or by the controller */
};

/** @return false when it is no namespace of a controller; over PCIe it may be one, that has no paths */
PLX_API bool plx_bdev_nvme_get_info(const struct plx_bdev *bdev, struct plx_bdev_nvme_info *out);

/** Calls fn for each path of each channel; fn must not change or look at paths. */
PLX_API void plx_bdev_nvme_each_path(const struct plx_bdev *bdev,
                                     void (*fn)(void *arg, const struct plx_bdev_nvme_path *path), void *arg);

#ifdef __cplusplus
}
#endif
#endif
