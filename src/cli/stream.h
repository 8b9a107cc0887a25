/* SPDX-License-Identifier: BSD-3-Clause */
/* Streams of volumes: docs/format-stream.md in C. */
#ifndef PLX_CLI_STREAM_H
#define PLX_CLI_STREAM_H

#include "pool.h"

enum {
    STREAM_VERSION = 1,
    STREAM_HEAD = 512,
    STREAM_PIECE = 32,
    STREAM_DATA_MAX = 1 << 20,
};

enum stream_kind {
    STREAM_DATA = 1,
    STREAM_ZEROES,
    STREAM_END,
};

/* What a stream is of. */
struct stream_head {
    uint8_t uuid[16], base[16], pool[16]; /* base: zeroes when it is all of a snapshot */
    uint64_t size, begin, created;        /* bytes; begin: nothing below that is in it */
    uint32_t unit;                        /* bytes that all in it is a multiple of */
    char name[PLX_POOL_NAME], base_name[PLX_POOL_NAME];
};

struct stream_piece {
    enum stream_kind kind;
    uint64_t offset, length;
};

/* One end of a stream. */
struct stream {
    int fd;
    const char *path; /* for people */
    struct stream_head head;
    uint64_t number; /* of the next piece */
    uint64_t data;   /* bytes of data that have gone by */
    uint64_t at;     /* where the last piece ended */
    uint32_t chain;  /* CRC32C of the CRCs of all pieces */
};

/* All of these: EXIT_OK, or another after having said what is wrong. */
int stream_put_head(struct stream *s);
int stream_put(struct stream *s, const struct stream_piece *piece, const uint8_t *data);
int stream_put_end(struct stream *s);
int stream_get_head(struct stream *s);
/* The next piece, which has been checked; data has room for STREAM_DATA_MAX. */
int stream_get(struct stream *s, struct stream_piece *piece, uint8_t *data);

/* ---- a volume that is read or written ---- */

struct stream_disk {
    struct plx_bdev *bdev;
    struct plx_bdev_channel *ch;
    struct plx_reactor *reactor;
    struct plx_bdev_req req;
    struct iovec iov;
    bool busy;
    uint64_t began;
};

/* pool is NULL when a server has it: then there is nothing of it but its time. */
int stream_disk_open(struct stream_disk *d, struct plx_pool *pool, const uint8_t uuid[16]);
void stream_disk_close(struct stream_disk *d);
void stream_disk_begin(struct stream_disk *d, enum plx_bdev_op op, uint64_t offset, uint64_t length, void *mem);
/* @return the status of what was begun */
uint16_t stream_disk_end(struct stream_disk *d);
uint64_t stream_disk_ns(const struct stream_disk *d);

#endif
