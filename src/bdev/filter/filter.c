/* SPDX-License-Identifier: BSD-3-Clause */
#include "filter.h"

#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What goes through all of them does so by recursion. */
enum { FILTERS_DEEP = 32 };

struct plx_filter_bell {
    struct plx_msg msg;
    struct plx_list link;
    struct plx_bdev_channel *ch; /* NULL when it has been put back */
    bool sent;                   /* msg is on its way, and frees it when there is no channel any more */
};

/* Bells and lists of them. Control path; not the disk's, which may be closed before a message of its has arrived. */
static pthread_mutex_t bells_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- the disk below ---- */

struct plx_bdev *plx_bdev_below(const struct plx_bdev *bdev)
{
    return bdev->below ? bdev->below : bdev->on;
}

int plx_filter_only(const struct plx_url *url, const char *known, struct plx_error *err)
{
    int ret = plx_url_only(url, known, err);
    if (!ret || !err)
        return ret;
    struct plx_error what = *err;
    return plx_fail(err, ret, "%s; those of the disk below stand in brackets with it, %s:[ram:1G?block=4096]",
                    what.text, url->scheme);
}

int plx_filter_number(const struct plx_url *url, const char *key, uint64_t least, uint64_t most, uint64_t *n,
                      struct plx_error *err)
{
    const char *text = plx_url_param(url, key);
    char *end;
    if (!text)
        return 0;
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    bool digit = hex ? isxdigit((unsigned char)text[2]) : isdigit((unsigned char)text[0]);
    errno = 0;
    *n = strtoull(text, &end, hex ? 16 : 10);
    if (!digit || *end || errno || *n < least || *n > most)
        return plx_fail(err, -EINVAL, "%s: %s=%.40s: it is a number from %llu to %llu, or such a one as 0x%llx",
                        url->name, key, text, (unsigned long long)least, (unsigned long long)most,
                        (unsigned long long)most);
    return 0;
}

/* "2ms", "1.5s", "250us", "0". @return whether it is one */
static bool filter_parse_time(const char *text, uint64_t *us)
{
    static const struct {
        const char *unit;
        uint64_t us;
    } units[] = {{"us", 1}, {"ms", 1000}, {"s", 1000000}};
    uint64_t fraction = 0; /* in millionths */
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return false;
    uint64_t whole = strtoull(text, &end, 10); /* UINT64_MAX for what is more */
    if (*end == '.' && isdigit((unsigned char)end[1]))
        for (uint64_t unit = 100000; isdigit((unsigned char)*++end); unit /= 10)
            fraction += (uint64_t)(*end - '0') * unit;
    whole = plx_min_u64(whole, PLX_BDEV_DELAY_MAX_US + 1); /* too long in any unit */
    for (size_t i = 0; i < PLX_ARRAY_SIZE(units); i++) {
        *us = whole * units[i].us + fraction * units[i].us / 1000000;
        if (!strcmp(end, units[i].unit))
            return true;
    }
    *us = 0;
    return !strcmp(text, "0");
}

int plx_filter_time(const struct plx_url *url, const char *key, uint64_t *us, struct plx_error *err)
{
    const char *text = plx_url_param(url, key);
    if (!text || (filter_parse_time(text, us) && *us <= PLX_BDEV_DELAY_MAX_US))
        return 0;
    return plx_fail(err, -EINVAL, "%s: %s=%.40s: a time is a number of us, ms or s, as in %s=2ms, up to 86400s",
                    url->name, key, text, key);
}

int plx_filter_init(struct plx_filter *f, struct plx_bdev *below, const struct plx_bdev_ops *ops,
                    void (*wake)(struct plx_bdev_channel *ch), const uint8_t *uuid, struct plx_error *err)
{
    int deep = 1;
    for (const struct plx_bdev *b = below; b->below; b = b->below)
        deep++;
    if (deep > FILTERS_DEEP)
        return plx_fail(err, -EINVAL, "%s: there are %d filters one upon the other already, which is the limit",
                        below->info.name, FILTERS_DEEP);
    plx_bdev_filter_init(&f->bdev, below);
    f->bdev.ops = ops;
    f->bdev.info.in_place = false;
    f->wake = wake;
    plx_list_init(&f->bells);
    if (uuid && !plx_uuid_nil(uuid)) {
        memcpy(f->bdev.info.uuid, uuid, sizeof f->bdev.info.uuid);
        memcpy(f->bdev.info.origin, uuid, sizeof f->bdev.info.origin);
    }
    return 0;
}

int plx_filter_register(struct plx_filter *f, const char *scheme, const char *name, struct plx_error *err)
{
    char text[sizeof f->bdev.info.name];
    plx_url_over(scheme, f->bdev.below->info.name, text, sizeof text);
    int ret = plx_bdev_register(&f->bdev, scheme, text, name, err);
    if (ret)
        plx_filter_close(&f->bdev);
    return ret;
}

void plx_filter_close(struct plx_bdev *bdev)
{
    struct plx_filter *f = (struct plx_filter *)bdev;
    struct plx_bdev *opened = f->opened;
    free(f);
    if (opened)
        plx_bdev_close(opened);
}

void plx_filter_event(struct plx_bdev *bdev, enum plx_bdev_event what)
{
    if (what == PLX_BDEV_RESIZED) {
        plx_bdev_resized(bdev, plx_bdev_blocks(bdev->below));
        return;
    }
    plx_bdev_gone(bdev, "the disk below it is");
    plx_filter_ring((struct plx_filter *)bdev); /* what is kept does not get to the disk that ends requests */
}

/* ---- bells ---- */

static void bell_told(struct plx_msg *msg)
{
    struct plx_filter_bell *bell = plx_container_of(msg, struct plx_filter_bell, msg);
    pthread_mutex_lock(&bells_lock);
    struct plx_bdev_channel *ch = bell->ch; /* which only this reactor puts back */
    bell->sent = false;
    pthread_mutex_unlock(&bells_lock);
    if (ch)
        plx_filter_of(ch)->wake(ch);
    else
        free(bell);
}

int plx_filter_bell_hang(struct plx_bdev_channel *ch, struct plx_filter_bell **out)
{
    struct plx_filter_bell *bell = calloc(1, sizeof *bell);
    if (!bell)
        return -ENOMEM;
    bell->msg.fn = bell_told;
    bell->ch = ch;
    pthread_mutex_lock(&bells_lock);
    plx_list_add_tail(&plx_filter_of(ch)->bells, &bell->link);
    pthread_mutex_unlock(&bells_lock);
    *out = bell;
    return 0;
}

void plx_filter_bell_take(struct plx_filter_bell *bell)
{
    pthread_mutex_lock(&bells_lock);
    plx_list_del(&bell->link);
    bell->ch = NULL;
    bool sent = bell->sent;
    pthread_mutex_unlock(&bells_lock);
    if (!sent)
        free(bell);
}

void plx_filter_ring(struct plx_filter *f)
{
    pthread_mutex_lock(&bells_lock);
    plx_list_for_each(it, &f->bells) {
        struct plx_filter_bell *bell = plx_list_entry(it, struct plx_filter_bell, link);
        if (!bell->sent)
            plx_reactor_send(bell->ch->reactor, &bell->msg);
        bell->sent = true;
    }
    pthread_mutex_unlock(&bells_lock);
}
