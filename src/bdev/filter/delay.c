/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk that is slow: requests wait for a while, each with a timer in its context, and are forwarded then. So what is
 * aborted meanwhile has not been done, and how many wait costs no memory.
 */
#include "filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DELAYS = PLX_BDEV_DELAY_P99_WRITE + 1 };

struct delay_disk {
    struct plx_filter f;
    _Atomic uint64_t ns[DELAYS]; /* enum plx_bdev_delay; relaxed */
    _Atomic uint32_t channels;   /* that there have been */
};

struct delay_channel {
    struct plx_filter_bell *bell;
    struct plx_list waiting;
    uint64_t random;
};

/* In the context of a request that waits. */
struct delayed {
    struct plx_timer timer;
    struct plx_list link;
};
PLX_BDEV_FITS(struct delayed);

static struct delay_channel *delay_channel_of(struct plx_bdev_channel *ch)
{
    return (struct delay_channel *)(void *)ch->driver;
}

/* ---- requests ---- */

static bool one_of_hundred(struct delay_channel *c)
{
    c->random = c->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (c->random >> 33) % 100 == 0;
}

/* How long a request waits. */
static uint64_t choose_delay(struct plx_bdev_channel *ch, const struct plx_bdev_req *req)
{
    const struct delay_disk *d = (const struct delay_disk *)ch->bdev;
    unsigned which;
    switch ((enum plx_bdev_op)req->op) {
    case PLX_BDEV_READ:
    case PLX_BDEV_COMPARE:
    case PLX_BDEV_VERIFY:
        which = PLX_BDEV_DELAY_AVG_READ;
        break;
    case PLX_BDEV_WRITE:
    case PLX_BDEV_COMPARE_AND_WRITE:
    case PLX_BDEV_COPY:
    case PLX_BDEV_ZONE_APPEND:
        which = PLX_BDEV_DELAY_AVG_WRITE;
        break;
    case PLX_BDEV_WRITE_ZEROES:
    case PLX_BDEV_UNMAP:
    case PLX_BDEV_FLUSH:
    case PLX_BDEV_RESET:
    case PLX_BDEV_ALLOCATED:
    case PLX_BDEV_ZONE_MANAGE:
    case PLX_BDEV_ZONE_REPORT:
    case PLX_BDEV_OPS:
    default:
        return 0;
    }
    which += one_of_hundred(delay_channel_of(ch)); /* its P99 */
    return atomic_load_explicit(&d->ns[which], memory_order_relaxed);
}

/* Takes a request out of those that wait. */
static struct plx_bdev_req *delay_take(struct delayed *w)
{
    struct plx_bdev_req *req = plx_bdev_req_of(w);
    plx_timer_cancel(req->ch->reactor, &w->timer);
    plx_list_del(&w->link);
    return req;
}

static void delay_over(struct plx_timer *timer)
{
    struct plx_bdev_req *req = delay_take(plx_container_of(timer, struct delayed, timer));
    plx_bdev_forward(req->ch->below, req);
}

static void delay_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct delayed *w = (struct delayed *)(void *)req->context;
    uint64_t ns = choose_delay(ch, req);
    if (!ns) {
        plx_bdev_forward(ch->below, req);
        return;
    }
    plx_bdev_filter_keep(ch, req);
    w->timer = (struct plx_timer){.fn = delay_over};
    plx_list_add_tail(&delay_channel_of(ch)->waiting, &w->link);
    /* From now on, and not from when the round began, which may be long ago. */
    plx_timer_set(ch->reactor, &w->timer, ns + plx_reactor_clock(ch->reactor) - plx_reactor_now(ch->reactor));
}

static void delay_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    (void)ch;
    plx_bdev_complete(delay_take((struct delayed *)(void *)req->context), PLX_SC_ABORTED_BY_REQUEST);
}

/* The disk is gone: nothing waits for that. The channel stays as long as anything is in its list. */
static void delay_wake(struct plx_bdev_channel *ch)
{
    struct plx_list all, *waiting = &delay_channel_of(ch)->waiting;
    if (!ch->bdev->gone)
        return;
    plx_list_init(&all);
    while (!plx_list_empty(waiting)) {
        struct plx_list *first = waiting->next;
        plx_list_del(first);
        plx_list_add_tail(&all, first);
    }
    while (!plx_list_empty(&all)) {
        struct plx_bdev_req *req = delay_take(plx_list_entry(all.next, struct delayed, link));
        plx_bdev_complete(req, PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    }
}

/* ---- channels ---- */

static int delay_channel_open(struct plx_bdev_channel *ch)
{
    struct delay_disk *d = (struct delay_disk *)ch->bdev;
    struct delay_channel *c = delay_channel_of(ch);
    /* Reactors choose apart, and a test finds the same requests slow each time. */
    c->random = (1 + atomic_fetch_add_explicit(&d->channels, 1, memory_order_relaxed)) * UINT64_C(0x9e3779b97f4a7c15);
    plx_list_init(&c->waiting);
    return plx_filter_bell_hang(ch, &c->bell);
}

static void delay_channel_close(struct plx_bdev_channel *ch)
{
    assert(plx_list_empty(&delay_channel_of(ch)->waiting));
    plx_filter_bell_take(delay_channel_of(ch)->bell);
}

static const struct plx_bdev_ops delay_ops = {
    .close = plx_filter_close,
    .channel_open = delay_channel_open,
    .channel_close = delay_channel_close,
    .submit = delay_submit,
    .abort = delay_abort,
    .map = plx_bdev_map_never, /* what is lent is read at once */
    .event = plx_filter_event,
};

/* ---- delays ---- */

static void delays_list(const struct plx_bdev_delays *d, uint64_t us[DELAYS])
{
    us[PLX_BDEV_DELAY_AVG_READ] = d->avg_read_us;
    us[PLX_BDEV_DELAY_P99_READ] = d->p99_read_us;
    us[PLX_BDEV_DELAY_AVG_WRITE] = d->avg_write_us;
    us[PLX_BDEV_DELAY_P99_WRITE] = d->p99_write_us;
}

static int delay_set(struct delay_disk *d, unsigned which, uint64_t us, struct plx_error *err)
{
    if (which >= DELAYS)
        return plx_fail(err, -EINVAL, "%s: there are %d delays, and no number %u", d->f.bdev.info.name, DELAYS, which);
    if (us > PLX_BDEV_DELAY_MAX_US)
        return plx_fail(err, -EINVAL, "%s: a delay of %llu us is more than a day, which is the limit",
                        d->f.bdev.info.name, (unsigned long long)us);
    atomic_store_explicit(&d->ns[which], us * PLX_NS_PER_US, memory_order_relaxed);
    return 0;
}

static int delay_check_kind(const struct plx_bdev *bdev, struct plx_error *err)
{
    if (bdev->ops == &delay_ops)
        return 0;
    return plx_fail(err, -EINVAL, "%s is of kind %s, and has no delays; delay:DISK has", bdev->info.name,
                    bdev->info.driver);
}

int plx_bdev_delay_set(struct plx_bdev *bdev, enum plx_bdev_delay which, uint64_t us, struct plx_error *err)
{
    int ret = delay_check_kind(bdev, err);
    return ret ? ret : delay_set((struct delay_disk *)bdev, which, us, err);
}

int plx_bdev_delay_get(const struct plx_bdev *bdev, struct plx_bdev_delays *out, struct plx_error *err)
{
    const struct delay_disk *d = (const struct delay_disk *)bdev;
    uint64_t us[DELAYS];
    int ret = delay_check_kind(bdev, err);
    if (ret)
        return ret;
    for (int i = 0; i < DELAYS; i++)
        us[i] = atomic_load_explicit(&d->ns[i], memory_order_relaxed) / PLX_NS_PER_US;
    out->avg_read_us = us[PLX_BDEV_DELAY_AVG_READ];
    out->p99_read_us = us[PLX_BDEV_DELAY_P99_READ];
    out->avg_write_us = us[PLX_BDEV_DELAY_AVG_WRITE];
    out->p99_write_us = us[PLX_BDEV_DELAY_P99_WRITE];
    return 0;
}

/* ---- making one ---- */

static int delay_new(struct plx_bdev *below, const uint8_t *uuid, const struct plx_bdev_delays *delays,
                     struct delay_disk **out, struct plx_error *err)
{
    uint64_t us[DELAYS];
    struct delay_disk *d = calloc(1, sizeof *d);
    if (!d)
        return plx_fail(err, -ENOMEM, "out of memory");
    d->f.bdev.channel_size = sizeof(struct delay_channel);
    delays_list(delays, us);
    int ret = plx_filter_init(&d->f, below, &delay_ops, delay_wake, uuid, err);
    for (unsigned i = 0; i < DELAYS && !ret; i++)
        ret = delay_set(d, i, us[i], err);
    if (ret)
        free(d);
    else
        *out = d;
    return ret;
}

int plx_bdev_delay_create(struct plx_bdev *below, const char *name, const uint8_t uuid[16],
                          const struct plx_bdev_delays *delays, struct plx_bdev **out, struct plx_error *err)
{
    struct delay_disk *d = NULL;
    int ret = delay_new(below, uuid, delays, &d, err);
    if (!ret)
        ret = plx_filter_register(&d->f, plx_bdev_filter_delay.scheme, name, err);
    if (!ret)
        *out = &d->f.bdev;
    return ret;
}

static int delay_parse(const struct plx_url *url, struct plx_bdev_delays *d, uint8_t uuid[16], struct plx_error *err)
{
    int ret = plx_filter_only(url, "read read_p99 write write_p99 uuid", err);
    *d = (struct plx_bdev_delays){0};
    if (!ret)
        ret = plx_filter_time(url, "read", &d->avg_read_us, err);
    if (!ret)
        ret = plx_filter_time(url, "write", &d->avg_write_us, err);
    d->p99_read_us = d->avg_read_us;
    d->p99_write_us = d->avg_write_us;
    if (!ret)
        ret = plx_filter_time(url, "read_p99", &d->p99_read_us, err);
    if (!ret)
        ret = plx_filter_time(url, "write_p99", &d->p99_write_us, err);
    return ret ? ret : plx_url_uuid(url, NULL, uuid, err);
}

static int delay_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    struct plx_bdev_delays delays;
    struct plx_bdev *below;
    struct delay_disk *d = NULL;
    uint8_t uuid[16];
    bool opened;
    int ret = delay_parse(url, &delays, uuid, err);
    if (!ret)
        ret = plx_bdev_find_below(url, &below, &opened, err);
    if (ret)
        return ret;
    ret = delay_new(below, uuid, &delays, &d, err);
    if (ret) {
        if (opened)
            plx_bdev_close(below);
        return ret;
    }
    d->f.opened = opened ? below : NULL;
    *out = &d->f.bdev;
    return 0;
}

const struct plx_bdev_driver plx_bdev_filter_delay = {
    .scheme = "delay",
    .help = "delay:DISK[?read=TIME&write=TIME]  a disk, slowed down: a TIME is 2ms, 500us or 1s",
    .open = delay_open,
};
