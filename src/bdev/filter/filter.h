/* SPDX-License-Identifier: BSD-3-Clause */
/* What filters share: the disk below, and how the control side reaches their channels. */
#ifndef PLX_BDEV_FILTER_H
#define PLX_BDEV_FILTER_H

#include <pollux/bdev_filter.h>

#include "bdev/driver.h"

/* First in a filter's own struct. */
struct plx_filter {
    struct plx_bdev bdev;
    struct plx_bdev *opened; /* the disk below, when it is closed with this one */
    struct plx_list bells;   /* of its channels */
    /* Something has happened that what a channel keeps may have waited for; on the channel's reactor. */
    void (*wake)(struct plx_bdev_channel *ch);
};

/* By which a channel is told. Apart from it, as it may be on its way when the channel is put back. */
struct plx_filter_bell;

static inline struct plx_filter *plx_filter_of(const struct plx_bdev_channel *ch)
{
    return (struct plx_filter *)ch->bdev;
}

/* plx_url_only(), with a word on the settings of the disk below. */
int plx_filter_only(const struct plx_url *url, const char *known, struct plx_error *err);

/* Settings, which stay as they are when they are not given: a number, decimal or hexadecimal; a time, "2ms". */
int plx_filter_number(const struct plx_url *url, const char *key, uint64_t least, uint64_t most, uint64_t *n,
                      struct plx_error *err);
int plx_filter_time(const struct plx_url *url, const char *key, uint64_t *us, struct plx_error *err);

/*
 * Makes a zeroed filter of a disk. Its own requests may wait: it does not lend, and is not in place.
 * @param uuid NULL, or nil, for that of the disk below
 */
int plx_filter_init(struct plx_filter *f, struct plx_bdev *below, const struct plx_bdev_ops *ops,
                    void (*wake)(struct plx_bdev_channel *ch), const uint8_t *uuid, struct plx_error *err);

/* Enters one that was not made of a name into the disks there are; else it is freed. */
int plx_filter_register(struct plx_filter *f, const char *scheme, const char *name, struct plx_error *err);

/* For plx_bdev_ops: frees it, and closes what it opened; tells holders and channels. */
void plx_filter_close(struct plx_bdev *bdev);
void plx_filter_event(struct plx_bdev *bdev, enum plx_bdev_event what);

int plx_filter_bell_hang(struct plx_bdev_channel *ch, struct plx_filter_bell **out);
void plx_filter_bell_take(struct plx_filter_bell *bell);
/* Has f->wake called for each channel, each on its reactor. From any thread. */
void plx_filter_ring(struct plx_filter *f);

#endif
