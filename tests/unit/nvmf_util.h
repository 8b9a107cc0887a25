/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A target on one reactor without a thread, and a raw NVMe/TCP peer at the other end of a socket pair: for unit tests
 * and fuzzers.
 */
#ifndef PLX_TESTS_NVMF_UTIL_H
#define PLX_TESTS_NVMF_UTIL_H

#include "nvme/tcp_pdu.h"
#include "nvmf/nvmf.h"

#define RIG_NQN "nqn.2024-01.com.example:rig"
#define RIG_HOST "nqn.2024-01.com.example:host"

struct rig {
    struct plx_reactor *reactor;
    struct plx_bdev *disk;
    struct plx_nvmf_target *target;
    bool data_digest; /* agreed on by the last connection */
    bool done;        /* of the start or stop under way */
    int result;
};

/* Makes and starts a target with one disk. @return 0, or a negative errno value with nothing left behind */
int rig_start(struct rig *rig, const char *disk);
/* The same with a pool of buffers of this size, at least 4 MiB. */
int rig_start_small(struct rig *rig, const char *disk, size_t buffer_bytes);
void rig_stop(struct rig *rig);
void rig_stop_within(struct rig *rig, uint32_t grace_ms);
/* Polls until nothing more happens. */
void rig_settle(struct rig *rig);

/* A new connection. @return the peer's end, non-blocking, or -1 */
int rig_connect(struct rig *rig);

/* Sends all bytes, polling the target; gives up when the target has closed. @return whether all were sent */
bool rig_send(struct rig *rig, int fd, const void *data, size_t len);
/*
 * Receives up to max bytes of what the target has sent by the time it is quiet. @return bytes, or -1 when it has closed
 */
ssize_t rig_receive(struct rig *rig, int fd, void *data, size_t max);

/* ICReq and its response. @return whether it was accepted */
bool rig_icreq(struct rig *rig, int fd, uint8_t digests);
/* Connect to a subsystem. @return the status */
int rig_connect_to(struct rig *rig, int fd, const char *nqn, uint16_t qid, uint16_t *cntlid);
/* Connect for a queue; cntlid is set by the admin queue's. @return the status */
int rig_connect_queue(struct rig *rig, int fd, uint16_t qid, uint16_t *cntlid);
/* Sets CC.EN. */
int rig_enable(struct rig *rig, int fd);
/* Sends a capsule and returns the status of its response; data, if any, is in the capsule. */
int rig_command(struct rig *rig, int fd, const struct nvme_cmd *cmd, const void *data, uint32_t len);
/* A whole host: admin and one I/O queue. @return whether it came to be */
bool rig_host(struct rig *rig, int *admin, int *io);

#endif
