/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The transport of namespaces that a driver of the kernel has: commands go through the namespace's generic node
 * (/dev/ng0n1) by io_uring, and the kernel puts them on its queues.
 *
 *   uring_node.c   the node: opened, looked at, claimed; all that may block
 *   uring_cmd.c    commands as the kernel takes them, and what its answers mean; pure
 *   uring_qpair.c  queue pairs
 *
 * The kernel keeps what is the controller's: its registers, features, events, paths, time limits and resets. What the
 * host asks of these is answered here, by what was seen when the node was opened; nothing but I/O commands reaches the
 * kernel from a reactor.
 */
#ifndef PLX_NVME_URING_H
#define PLX_NVME_URING_H

#include "nvme/host.h"

#include <limits.h>
#include <pthread.h>
#include <sys/types.h>

struct io_uring_sqe;

/* ---- the node ---- */

enum nvme_uring_state {
    NVME_URING_LIVE,
    NVME_URING_BUSY, /* no controller that has it takes commands now: it is reset, or connected to anew */
    NVME_URING_GONE, /* for good: another namespace has another node */
};

enum nvme_uring_use {
    NVME_URING_SERVE, /* read and written, by nobody else */
    NVME_URING_READ,  /* read, by others as well */
    NVME_URING_ASK,   /* admin commands alone, whoever uses it; they may block the reactor, which is the caller's own */
    NVME_URING_PASS,  /* nvme_uring_pass() alone, whoever uses it */
};

struct nvme_uring_node {
    int fd;
    int claim; /* the block device beside it, so that nobody mounts it; or -1 */
    enum nvme_uring_use use;
    char path[PLX_ADDR_TEXT]; /* as it was asked for, for people */
    char name[32];            /* ng0n1 */
    char block[34];           /* nvme0n1 */
    char sysfs[64];           /* its folder there */
    uint32_t nsid;
    uint32_t max_transfer; /* bytes of a command */
    unsigned max_segments; /* pieces of memory of a command */
    unsigned page;         /* of memory */

    struct nvme_id_ctrl ctrl;
    struct nvme_id_ctrl_nvm limits; /* zeroes where there is no such page */
    bool has_limits;
    uint8_t descriptors[4096];
    pthread_mutex_t lock; /* of: */
    struct nvme_id_ns ns; /* which is looked at again */
};

/* Whether a path leads to such a node. */
bool nvme_uring_is_node(const char *path);
/* The path in ng:PATH, or in a path of such a node; else NULL. */
const char *nvme_uring_path(const char *url);
/* May block. @return 0 or -errno with err filled */
int nvme_uring_open(const char *path, enum nvme_uring_use use, struct nvme_uring_node **out, struct plx_error *err);
/* Nothing uses it any more. */
void nvme_uring_close(struct nvme_uring_node *node);
/* The way there, and to nobody else. */
void nvme_uring_where(struct nvme_where *w, struct nvme_uring_node *node);
/* Looks at files of sysfs alone. */
enum nvme_uring_state nvme_uring_state(const struct nvme_uring_node *node);
/* Identify Namespace anew; may block. @return 0, or -errno: then nothing has changed */
int nvme_uring_look_again(struct nvme_uring_node *node);
/* An admin command; may block. @return a status as of nvme_uring_result() */
void nvme_uring_ask(const struct nvme_uring_node *node, struct nvme_req *req);
/*
 * A command of struct nvme_pass; blocks. @return 0 with the answer in req, or -errno: the kernel does not send it, or
 * has ended it
 */
int nvme_uring_pass(const struct nvme_uring_node *node, bool admin, const struct nvme_cmd *cmd, void *data,
                    uint32_t len, uint32_t timeout_ms, struct nvme_req *req);
/* What the host asks for, if it is known here. @return false if not */
bool nvme_uring_identify(struct nvme_uring_node *node, const struct nvme_words *cmd, uint8_t page[4096]);

/* ---- commands ---- */

enum {
    NVME_URING_SQE = 128, /* bytes of a submission queue entry of the ring */
    NVME_URING_OWN = 8,   /* entries of an iovec that a queue pair makes for a command */
};

/* Where the data of a command is. */
struct nvme_uring_data {
    enum {
        NVME_URING_ONE,    /* at addr */
        NVME_URING_MANY,   /* in count entries of iov */
        NVME_URING_BOUNCE, /* in more pieces than the kernel takes */
    } kind;
    void *addr;
    const struct iovec *iov;
    uint32_t count;
};

/* `own` is used where the caller's iovec has a part of an entry that belongs to the data; else it is as it was. */
struct nvme_uring_data nvme_uring_place(struct plx_iov_at at, uint32_t len, unsigned max_segments, unsigned page,
                                        struct iovec own[NVME_URING_OWN]);
/* A submission queue entry; len is that of the data. */
void nvme_uring_fill(struct io_uring_sqe *sqe, int fd, const struct nvme_words *cmd, const struct nvme_uring_data *data,
                     uint32_t len);
/*
 * What a completion says, made the result of the request. @return 0, or -errno when the device may be in trouble: it is
 * to be looked at
 */
int nvme_uring_result(struct nvme_req *req, int res, uint64_t result);

#endif
