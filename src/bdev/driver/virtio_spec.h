/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layouts and numbers of virtio 1.2 (2.7 split and 2.8 packed virtqueues, 5.2 block device) and of vhost-user
 * (docs/interop/vhost-user.rst of QEMU), as far as a front-end of a disk needs them.
 */
#ifndef PLX_BDEV_DRIVER_VIRTIO_SPEC_H
#define PLX_BDEV_DRIVER_VIRTIO_SPEC_H

#include "base/le.h"

/* Feature bits of devices: 5.2.3, 6. */
enum {
    VIO_F_SIZE_MAX = 1,
    VIO_F_SEG_MAX = 2,
    VIO_F_RO = 5,
    VIO_F_BLK_SIZE = 6,
    VIO_F_FLUSH = 9,
    VIO_F_TOPOLOGY = 10,
    VIO_F_CONFIG_WCE = 11,
    VIO_F_MQ = 12,
    VIO_F_DISCARD = 13,
    VIO_F_WRITE_ZEROES = 14,
    VIO_F_INDIRECT = 28,
    VIO_F_EVENT_IDX = 29,
    VIO_F_PROTOCOL_FEATURES = 30, /* vhost-user's */
    VIO_F_VERSION_1 = 32,
    VIO_F_RING_PACKED = 34,
};
#define VIO_BIT(feature) (UINT64_C(1) << (feature))

/* Device configuration: 5.2.4. Sectors are of 512 bytes. */
struct vio_config {
    plx_le64 capacity;
    plx_le32 size_max;
    plx_le32 seg_max;
    uint8_t geometry[4];
    plx_le32 blk_size;
    uint8_t physical_block_exp;
    uint8_t alignment_offset;
    plx_le16 min_io_size;
    plx_le32 opt_io_size;
    uint8_t writeback;
    uint8_t unused0;
    plx_le16 num_queues;
    plx_le32 max_discard_sectors; /* from here on of devices that discard or write zeroes */
    plx_le32 max_discard_seg;
    plx_le32 discard_sector_alignment;
    plx_le32 max_write_zeroes_sectors;
    plx_le32 max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap;
    uint8_t unused1[3];
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct vio_config) == 60, "5.2.4");
enum { VIO_CONFIG_SHORT = offsetof(struct vio_config, max_discard_sectors), VIO_SECTOR_SHIFT = 9 };

/* Requests: 5.2.6. */
enum {
    VIO_T_IN = 0,
    VIO_T_OUT = 1,
    VIO_T_FLUSH = 4,
    VIO_T_DISCARD = 11,
    VIO_T_WRITE_ZEROES = 13,
    VIO_T_NONE = 0x7fffffff, /* of no request that there is: to be answered with VIO_S_UNSUPP */
    VIO_S_OK = 0,
    VIO_S_IOERR = 1,
    VIO_S_UNSUPP = 2,
    VIO_S_NONE = 0xff, /* there before the device's */
    VIO_WZ_UNMAP = 1 << 0,
};

struct vio_header {
    plx_le32 type;
    plx_le32 reserved;
    plx_le64 sector;
};

struct vio_range {
    plx_le64 sector;
    plx_le32 nsectors;
    plx_le32 flags;
};

/* Split virtqueues: 2.7. */
struct vio_desc {
    plx_le64 addr;
    plx_le32 len;
    plx_le16 flags;
    plx_le16 next; /* packed: the buffer ID stands where flags are here, and flags where this is */
};

enum {
    VIO_DESC_NEXT = 1 << 0,
    VIO_DESC_WRITE = 1 << 1, /* for the device to write */
    VIO_DESC_INDIRECT = 1 << 2,
    VIO_DESC_AVAIL = 1 << 7, /* packed: 2.8.1 */
    VIO_DESC_USED = 1 << 15,
    VIO_NO_INTERRUPT = 1 << 0, /* avail->flags */
    VIO_NO_NOTIFY = 1 << 0,    /* used->flags */
    VIO_RING_MAX = 1024,
};

struct vio_avail {
    plx_le16 flags;
    plx_le16 idx;
    plx_le16 ring[]; /* and used_event */
};

struct vio_used_elem {
    plx_le32 id;
    plx_le32 len;
};

struct vio_used {
    plx_le16 flags;
    plx_le16 idx;
    struct vio_used_elem ring[]; /* and avail_event */
};

/* Packed virtqueues: 2.8.13, 2.8.14. */
struct vio_packed_desc {
    plx_le64 addr;
    plx_le32 len;
    plx_le16 id;
    plx_le16 flags;
};

struct vio_packed_event {
    plx_le16 off_wrap;
    plx_le16 flags;
};

enum { VIO_EVENT_ENABLE = 0, VIO_EVENT_DISABLE = 1, VIO_EVENT_DESC = 2 };

/* ---- vhost-user. Integers are in the byte order of the machine. ---- */

enum vu_request {
    VU_GET_FEATURES = 1,
    VU_SET_FEATURES = 2,
    VU_SET_OWNER = 3,
    VU_SET_MEM_TABLE = 5,
    VU_SET_VRING_NUM = 8,
    VU_SET_VRING_ADDR = 9,
    VU_SET_VRING_BASE = 10,
    VU_SET_VRING_KICK = 12,
    VU_SET_VRING_CALL = 13,
    VU_GET_PROTOCOL_FEATURES = 15,
    VU_SET_PROTOCOL_FEATURES = 16,
    VU_GET_QUEUE_NUM = 17,
    VU_SET_VRING_ENABLE = 18,
    VU_SET_BACKEND_REQ_FD = 21,
    VU_GET_CONFIG = 24,
    VU_GET_INFLIGHT_FD = 31,
    VU_SET_INFLIGHT_FD = 32,
    VU_GET_MAX_MEM_SLOTS = 36,
    VU_ADD_MEM_REG = 37,
    VU_REM_MEM_REG = 38,
};
enum { VU_BACKEND_CONFIG_CHANGE = 2 };

enum {
    VU_P_MQ = 0,
    VU_P_REPLY_ACK = 3,
    VU_P_BACKEND_REQ = 5,
    VU_P_CONFIG = 9,
    VU_P_INFLIGHT = 12,
    VU_P_MEM_SLOTS = 15,
};

enum {
    VU_VERSION = 1,
    VU_VERSION_MASK = 3,
    VU_REPLY = 1 << 2,
    VU_NEED_REPLY = 1 << 3,
    VU_TABLE_MAX = 8, /* regions of a SET_MEM_TABLE message */
};

struct vu_header {
    uint32_t request;
    uint32_t flags;
    uint32_t size; /* of the payload */
};

struct vu_vring {
    uint32_t index;
    uint32_t num;
};

struct vu_vring_addr {
    uint32_t index;
    uint32_t flags;
    uint64_t desc, used, avail, log;
};

struct vu_region {
    uint64_t guest_addr;
    uint64_t size;
    uint64_t user_addr;
    uint64_t offset; /* in the file */
};

struct vu_mem_table {
    uint32_t n;
    uint32_t padding;
    struct vu_region regions[VU_TABLE_MAX];
};

struct vu_mem_reg {
    uint64_t padding;
    struct vu_region region;
};

struct vu_config {
    uint32_t offset;
    uint32_t size;
    uint32_t flags;
    uint8_t bytes[256];
};

struct vu_inflight {
    uint64_t mmap_size;
    uint64_t mmap_offset;
    uint16_t num_queues;
    uint16_t queue_size;
    uint32_t padding;
};
enum { VU_INFLIGHT_BYTES = 20 }; /* of it that are sent */

union vu_payload {
    uint64_t u64;
    struct vu_vring vring;
    struct vu_vring_addr addr;
    struct vu_mem_table table;
    struct vu_mem_reg reg;
    struct vu_config config;
    struct vu_inflight inflight;
};

#endif
