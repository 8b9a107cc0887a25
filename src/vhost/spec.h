/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What others lay down: messages of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst), whose integers have
 * the byte order of the machine; and rings and block devices of virtio 1.2, which are little-endian.
 */
#ifndef PLX_VHOST_SPEC_H
#define PLX_VHOST_SPEC_H

#include "base/le.h"

/* ---- features (virtio 1.2, 6 and 5.2.3; vhost-user) ---- */

enum vhost_feature {
    VIRTIO_BLK_F_SIZE_MAX = 1,
    VIRTIO_BLK_F_SEG_MAX = 2,
    VIRTIO_BLK_F_RO = 5,
    VIRTIO_BLK_F_BLK_SIZE = 6,
    VIRTIO_BLK_F_FLUSH = 9,
    VIRTIO_BLK_F_TOPOLOGY = 10,
    VIRTIO_BLK_F_CONFIG_WCE = 11,
    VIRTIO_BLK_F_MQ = 12,
    VIRTIO_BLK_F_DISCARD = 13,
    VIRTIO_BLK_F_WRITE_ZEROES = 14,
    VHOST_F_LOG_ALL = 26,
    VIRTIO_F_INDIRECT_DESC = 28,
    VIRTIO_F_EVENT_IDX = 29,
    VHOST_USER_F_PROTOCOL_FEATURES = 30,
    VIRTIO_F_VERSION_1 = 32,
    VIRTIO_F_RING_PACKED = 34,
};

enum vhost_protocol_feature {
    VHOST_PROTOCOL_MQ = 0,
    VHOST_PROTOCOL_LOG_SHMFD = 1,
    VHOST_PROTOCOL_REPLY_ACK = 3,
    VHOST_PROTOCOL_BACKEND_REQ = 5,
    VHOST_PROTOCOL_CONFIG = 9,
    VHOST_PROTOCOL_INFLIGHT_SHMFD = 12,
    VHOST_PROTOCOL_RESET_DEVICE = 13,
    VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS = 15,
    VHOST_PROTOCOL_STATUS = 16,
};

#define VHOST_BIT(n) (UINT64_C(1) << (n))

/* ---- messages ---- */

enum vhost_request {
    VHOST_GET_FEATURES = 1,
    VHOST_SET_FEATURES = 2,
    VHOST_SET_OWNER = 3,
    VHOST_RESET_OWNER = 4,
    VHOST_SET_MEM_TABLE = 5,
    VHOST_SET_LOG_BASE = 6,
    VHOST_SET_LOG_FD = 7,
    VHOST_SET_VRING_NUM = 8,
    VHOST_SET_VRING_ADDR = 9,
    VHOST_SET_VRING_BASE = 10,
    VHOST_GET_VRING_BASE = 11,
    VHOST_SET_VRING_KICK = 12,
    VHOST_SET_VRING_CALL = 13,
    VHOST_SET_VRING_ERR = 14,
    VHOST_GET_PROTOCOL_FEATURES = 15,
    VHOST_SET_PROTOCOL_FEATURES = 16,
    VHOST_GET_QUEUE_NUM = 17,
    VHOST_SET_VRING_ENABLE = 18,
    VHOST_SET_BACKEND_REQ_FD = 21,
    VHOST_GET_CONFIG = 24,
    VHOST_SET_CONFIG = 25,
    VHOST_GET_INFLIGHT_FD = 31,
    VHOST_SET_INFLIGHT_FD = 32,
    VHOST_RESET_DEVICE = 34,
    VHOST_GET_MAX_MEM_SLOTS = 36,
    VHOST_ADD_MEM_REG = 37,
    VHOST_REM_MEM_REG = 38,
    VHOST_SET_STATUS = 39,
    VHOST_GET_STATUS = 40,
    VHOST_REQUESTS,
};

enum { VHOST_BACKEND_CONFIG_CHANGE = 2 }; /* of the back-end, on its own channel */

enum {
    VHOST_VERSION = 1,
    VHOST_VERSION_MASK = 3,
    VHOST_REPLY = 1 << 2,
    VHOST_NEED_REPLY = 1 << 3,
    VHOST_NO_FD = 1 << 8, /* of SET_VRING_KICK, _CALL and _ERR */
    VHOST_ADDR_LOG = 1,   /* of SET_VRING_ADDR */
};

struct vhost_header {
    uint32_t request, flags, size;
};

struct vhost_state {
    uint32_t index, num;
};

struct vhost_addr {
    uint32_t index, flags;
    uint64_t desc, used, avail, log; /* user addresses; log is a guest address */
};

struct vhost_mem_region {
    uint64_t guest, size, user, offset;
};

enum { VHOST_TABLE_REGIONS = 8, VHOST_CONFIG_BYTES = 256, VHOST_CONFIG_HEADER = 12 };

struct vhost_mem_table {
    uint32_t n, padding;
    struct vhost_mem_region regions[VHOST_TABLE_REGIONS];
};

struct vhost_mem_single {
    uint64_t padding;
    struct vhost_mem_region region;
};

struct vhost_log_base {
    uint64_t size, offset;
};

struct vhost_config {
    uint32_t offset, size, flags;
    uint8_t data[VHOST_CONFIG_BYTES];
};

struct vhost_inflight {
    uint64_t size, offset;
    uint16_t queues, queue_size, padding[2];
};

/* What follows the header. */
union vhost_body {
    uint64_t u64;
    struct vhost_state state;
    struct vhost_addr addr;
    struct vhost_mem_table table;
    struct vhost_mem_single single;
    struct vhost_log_base log;
    struct vhost_config config;
    struct vhost_inflight inflight;
};

/* ---- split rings (virtio 1.2, 2.7) ---- */

enum { VIRTQ_DESC_NEXT = 1, VIRTQ_DESC_WRITE = 2, VIRTQ_DESC_INDIRECT = 4 };
enum { VIRTQ_AVAIL_NO_INTERRUPT = 1, VIRTQ_USED_NO_NOTIFY = 1 };

struct virtq_desc {
    plx_le64 addr;
    plx_le32 len;
    plx_le16 flags, next;
};

struct virtq_avail {
    plx_le16 flags, idx;
    plx_le16 ring[]; /* and used_event behind it */
};

struct virtq_used_elem {
    plx_le32 id, len;
};

struct virtq_used {
    plx_le16 flags, idx;
    struct virtq_used_elem ring[]; /* and avail_event behind it */
};

/* ---- packed rings (virtio 1.2, 2.8) ---- */

enum {
    VIRTQ_PACKED_AVAIL = 1 << 7,
    VIRTQ_PACKED_USED = 1 << 15,
    VIRTQ_EVENT_ENABLE = 0,
    VIRTQ_EVENT_DISABLE = 1,
    VIRTQ_EVENT_DESC = 2,
    VIRTQ_WRAP = 1 << 15,
};

struct virtq_packed_desc {
    plx_le64 addr;
    plx_le32 len;
    plx_le16 id, flags;
};

struct virtq_event {
    plx_le16 off_wrap, flags;
};

/* ---- block devices (virtio 1.2, 5.2) ---- */

enum { VIRTIO_BLK_SECTOR = 512, VIRTIO_BLK_ID = 20 };

enum virtio_blk_type {
    VIRTIO_BLK_IN = 0,
    VIRTIO_BLK_OUT = 1,
    VIRTIO_BLK_FLUSH = 4,
    VIRTIO_BLK_GET_ID = 8,
    VIRTIO_BLK_DISCARD = 11,
    VIRTIO_BLK_WRITE_ZEROES = 13,
};

enum virtio_blk_status { VIRTIO_BLK_OK, VIRTIO_BLK_IOERR, VIRTIO_BLK_UNSUPP };

struct virtio_blk_head {
    plx_le32 type, reserved;
    plx_le64 sector;
};

enum { VIRTIO_BLK_UNMAP = 1 };

struct virtio_blk_range {
    plx_le64 sector;
    plx_le32 sectors, flags;
};

struct virtio_blk_config {
    plx_le64 capacity;
    plx_le32 size_max, seg_max;
    uint8_t geometry[4];
    plx_le32 blk_size;
    uint8_t physical_block_exp, alignment_offset;
    plx_le16 min_io_size;
    plx_le32 opt_io_size;
    uint8_t writeback, unused0;
    plx_le16 num_queues;
    plx_le32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
    plx_le32 max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));

_Static_assert(offsetof(struct virtio_blk_config, writeback) == 32 &&
                   offsetof(struct virtio_blk_config, max_discard_sectors) == 36 &&
                   sizeof(struct virtio_blk_config) == 60,
               "virtio 1.2, 5.2.4");

/* ---- the inflight region of a ring (vhost-user, "Inflight I/O tracking") ---- */

enum { VHOST_INFLIGHT_VERSION = 1, VHOST_INFLIGHT_ALIGN = 64 };

struct vhost_inflight_split_entry {
    uint8_t inflight, padding[5];
    uint16_t next;
    uint64_t counter;
};

struct vhost_inflight_split {
    uint64_t features;
    uint16_t version, desc_num, last_batch_head, used_idx;
    struct vhost_inflight_split_entry desc[];
};

struct vhost_inflight_packed_entry {
    uint8_t inflight, padding;
    uint16_t next, last, num;
    uint64_t counter;
    uint16_t id, flags;
    uint32_t len;
    uint64_t addr;
};

struct vhost_inflight_packed {
    uint64_t features;
    uint16_t version, desc_num, free_head, old_free_head, used_idx, old_used_idx;
    uint8_t used_wrap, old_used_wrap, padding[10];
    struct vhost_inflight_packed_entry desc[];
};

_Static_assert(sizeof(struct vhost_inflight_split) == 16 && sizeof(struct vhost_inflight_split_entry) == 16 &&
                   sizeof(struct vhost_inflight_packed) == 32 && sizeof(struct vhost_inflight_packed_entry) == 32,
               "layouts that other back-ends use, too");

#endif
