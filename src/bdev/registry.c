/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The disks there are: their names, who holds them, and what these are told. It is one for the process, as file locks
 * are, and because a claim is worth something only where everybody sees it. Control path: one mutex guards it all. It
 * is recursive, as a filter that is told of a change tells those who hold the filter.
 */
#include "bdev/core.h"

#include "base/log.h"
#include "base/uuid.h"
#include "reactor/aio.h"
#include "reactor/owner.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static struct plx_list disks = {&disks, &disks};
static struct plx_hash by_name, by_alias, by_uuid; /* of those */

struct plx_bdev_hold {
    struct plx_list link; /* in bdev->holds */
    struct plx_bdev *bdev;
    struct plx_bdev_hold_opts o;
    char who[128];
    struct plx_msg msg;
    unsigned news; /* 1 << enum plx_bdev_event: to be told */
    bool sent;     /* msg is on its way, */
    bool released; /* and frees it when it arrives */
};

/* ---- names ---- */

static uint64_t key_of(const char *name)
{
    return plx_hash_bytes(name, strlen(name));
}

static struct plx_bdev *find_named(const char *name, bool named)
{
    const uint64_t key = key_of(name);
    plx_list_for_each(it, plx_hash_row(&by_name, key)) {
        struct plx_bdev *bdev = plx_hash_entry(it, struct plx_bdev, by_name);
        if (bdev->by_name.key == key && bdev->named == named && !strcmp(bdev->info.name, name))
            return bdev;
    }
    if (!named)
        return NULL;
    plx_list_for_each(it, plx_hash_row(&by_alias, key)) {
        struct plx_bdev *bdev = plx_hash_entry(it, struct plx_bdev, by_alias);
        if (bdev->by_alias.key == key && !strcmp(bdev->alias, name))
            return bdev;
    }
    return NULL;
}

/* The last, as a filter has the UUID of the disk below it, comes after that, and has it for itself. */
static struct plx_bdev *find_uuid(const uint8_t uuid[16])
{
    struct plx_bdev *found = NULL;
    plx_list_for_each(it, plx_hash_row(&by_uuid, plx_hash_bytes(uuid, 16))) {
        struct plx_bdev *bdev = plx_hash_entry(it, struct plx_bdev, by_uuid);
        if (!memcmp(bdev->info.uuid, uuid, 16))
            found = bdev;
    }
    return found;
}

struct plx_bdev *plx_bdev_find(const char *name)
{
    uint8_t uuid[16];
    pthread_mutex_lock(&lock);
    struct plx_bdev *found = find_named(name, true);
    if (!found && plx_uuid_parse(name, uuid))
        found = find_uuid(uuid);
    if (!found)
        found = find_named(name, false);
    pthread_mutex_unlock(&lock);
    return found;
}

/* One that was opened without a name is not meant by what it was opened as: that is opened once more. */
static struct plx_bdev *find_given(const char *name)
{
    uint8_t uuid[16];
    struct plx_bdev *bdev = plx_bdev_find(name);
    return bdev && (bdev->named || plx_uuid_parse(name, uuid)) ? bdev : NULL;
}

int plx_bdev_find_below(const struct plx_url *url, struct plx_bdev **below, bool *opened, struct plx_error *err)
{
    size_t wrapped = url->body[0] == '[', len = strlen(url->body) - 2 * wrapped;
    char *name = calloc(1, len + 1);
    int ret = 0;
    if (!name)
        return plx_fail(err, -ENOMEM, "out of memory");
    memcpy(name, url->body + wrapped, len);
    *opened = false;
    *below = find_given(name);
    if (!name[0]) {
        ret = plx_fail(err, -EINVAL, "%s names no disk to stand on; one is named as in %s:ram:1G", url->name,
                       url->scheme);
    } else if (!*below) {
        ret = plx_bdev_open(name, below, err);
        *opened = !ret;
    }
    free(name);
    return ret;
}

void plx_bdev_each(bool (*fn)(void *arg, struct plx_bdev *bdev), void *arg)
{
    pthread_mutex_lock(&lock);
    plx_list_for_each(it, &disks) {
        if (!fn(arg, plx_list_entry(it, struct plx_bdev, link)))
            break;
    }
    pthread_mutex_unlock(&lock);
}

void plx_bdev_each_above(const struct plx_bdev *of, bool (*fn)(void *arg, struct plx_bdev *bdev), void *arg)
{
    pthread_mutex_lock(&lock);
    for (struct plx_list *it = of->above.prev; it != &of->above; it = it->prev)
        if (!fn(arg, plx_list_entry(it, struct plx_bdev, beside)))
            break;
    pthread_mutex_unlock(&lock);
}

int plx_registry_check_name(const char *name, struct plx_error *err)
{
    const size_t limit = sizeof(((struct plx_bdev_info *)NULL)->name) - 1;
    size_t len = 0;
    for (size_t n; len <= limit && (n = plx_text_printable(name + len));)
        len += n;
    if (!len || len > limit || name[len])
        return plx_fail(err, -EINVAL, "the name of a disk has 1 to %zu bytes of printable characters", limit);
    return 0;
}

int plx_bdev_set_alias(struct plx_bdev *bdev, const char *alias, struct plx_error *err)
{
    int ret = alias ? plx_registry_check_name(alias, err) : 0;
    char *copy = alias && !ret ? strdup(alias) : NULL;
    if (ret)
        return ret;
    if (alias && !copy)
        return plx_fail(err, -ENOMEM, "out of memory");
    pthread_mutex_lock(&lock);
    const struct plx_bdev *other = alias ? find_named(alias, true) : NULL;
    if (other && other != bdev) {
        ret = plx_fail(err, -EEXIST, "there is a disk named %s already", alias);
    } else {
        char *was = bdev->alias;
        if (was)
            plx_hash_del(&by_alias, &bdev->by_alias);
        bdev->alias = copy;
        if (copy)
            plx_hash_add(&by_alias, &bdev->by_alias, key_of(copy));
        copy = was;
    }
    pthread_mutex_unlock(&lock);
    free(copy);
    return ret;
}

bool plx_bdev_get_alias(struct plx_bdev *bdev, char *out, size_t size)
{
    pthread_mutex_lock(&lock);
    bool there = bdev->alias != NULL;
    if (there)
        snprintf(out, size, "%s", bdev->alias);
    pthread_mutex_unlock(&lock);
    return there;
}

/* A filter hears of the disk below, on whatever thread that reports it. */
static void below_event(void *arg, struct plx_bdev *below, enum plx_bdev_event what)
{
    struct plx_bdev *filter = arg;
    if (filter->ops->event)
        filter->ops->event(filter, what);
    else if (what == PLX_BDEV_RESIZED)
        plx_bdev_resized(filter, plx_bdev_blocks(below));
    else
        plx_bdev_gone(filter, "the disk below it is");
}

static void registry_enter(struct plx_bdev *bdev)
{
    struct plx_bdev *below = bdev->below ? bdev->below : bdev->on;
    plx_list_add_tail(&disks, &bdev->link);
    plx_hash_add(&by_name, &bdev->by_name, key_of(bdev->info.name));
    plx_hash_add(&by_uuid, &bdev->by_uuid, plx_hash_bytes(bdev->info.uuid, sizeof bdev->info.uuid));
    plx_list_init(&bdev->above);
    plx_list_init(&bdev->beside);
    if (below)
        plx_list_add_tail(&below->above, &bdev->beside);
}

static void registry_leave(struct plx_bdev *bdev)
{
    plx_list_del(&bdev->link);
    plx_hash_del(&by_name, &bdev->by_name);
    plx_hash_del(&by_uuid, &bdev->by_uuid);
    plx_list_del(&bdev->beside);
    if (bdev->alias)
        plx_hash_del(&by_alias, &bdev->by_alias);
    free(bdev->alias);
    bdev->alias = NULL;
}

int plx_registry_add(struct plx_bdev *bdev, struct plx_error *err)
{
    const struct plx_bdev_hold_opts o = {
        .who = bdev->info.name, .claim = PLX_BDEV_EXCLUSIVE, .event = below_event, .arg = bdev};
    int ret = 0;
    plx_list_init(&bdev->holds);
    pthread_mutex_lock(&lock);
    if (bdev->named && find_named(bdev->info.name, true))
        ret = plx_fail(err, -EEXIST, "there is a disk named %s already", bdev->info.name);
    if (!ret && bdev->below)
        ret = plx_bdev_hold(bdev->below, &o, &bdev->below_hold, err);
    if (!ret)
        registry_enter(bdev);
    plx_bdev_adapt(bdev);
    /* What happened to the disk below before it was held, nobody told. */
    if (!ret && bdev->below && plx_bdev_blocks(bdev->below) != bdev->below_blocks)
        below_event(bdev, bdev->below, PLX_BDEV_RESIZED);
    pthread_mutex_unlock(&lock);
    return ret;
}

int plx_registry_remove(struct plx_bdev *bdev, struct plx_error *err)
{
    int ret = 0;
    pthread_mutex_lock(&lock);
    pthread_mutex_lock(&bdev->lock);
    if (!plx_list_empty(&bdev->holds))
        ret = plx_fail(err, -EBUSY, "%s is used by %s", bdev->info.name,
                       plx_list_entry(bdev->holds.next, struct plx_bdev_hold, link)->who);
    else if (!plx_list_empty(&bdev->channels))
        ret = plx_fail(err, -EBUSY, "%s is in use: not all of its channels have been put back", bdev->info.name);
    else
        registry_leave(bdev);
    pthread_mutex_unlock(&bdev->lock);
    if (!ret && bdev->below_hold)
        plx_bdev_release(bdev->below_hold);
    pthread_mutex_unlock(&lock);
    return ret;
}

/* ---- who holds a disk ---- */

static int check_claim(const struct plx_bdev *bdev, const struct plx_bdev_hold_opts *o, struct plx_error *err)
{
    const char *name = bdev->info.name;
    if (bdev->gone)
        return plx_fail(err, -ENODEV, "%s is gone", name);
    plx_list_for_each(it, &bdev->holds) {
        const struct plx_bdev_hold *h = plx_list_entry(it, struct plx_bdev_hold, link);
        if (h->o.claim == PLX_BDEV_EXCLUSIVE && o->claim != PLX_BDEV_READS)
            return plx_fail(err, -EBUSY, "%s is used exclusively by %s", name, h->who);
        if (o->claim == PLX_BDEV_EXCLUSIVE && h->o.claim != PLX_BDEV_READS)
            return plx_fail(err, -EBUSY, "%s is used by %s, so %s cannot have it exclusively", name, h->who, o->who);
        if (h->o.claim == PLX_BDEV_STILL && o->claim == PLX_BDEV_SHARED)
            return plx_fail(err, -EBUSY, "%s is read by %s, so that nobody may write to it", name, h->who);
        if (o->claim == PLX_BDEV_STILL && h->o.claim == PLX_BDEV_SHARED)
            return plx_fail(err, -EBUSY, "%s is used by %s, which may write to it, so that %s cannot read it", name,
                            h->who, o->who);
    }
    return 0;
}

static void hold_told(struct plx_msg *msg)
{
    struct plx_bdev_hold *h = plx_container_of(msg, struct plx_bdev_hold, msg);
    pthread_mutex_lock(&lock);
    if (h->released) {
        pthread_mutex_unlock(&lock);
        free(h);
        return;
    }
    /* One at a time, as it may be released when it has been told. */
    enum plx_bdev_event what = (enum plx_bdev_event)__builtin_ctz(h->news);
    const struct plx_bdev_hold_opts o = h->o;
    struct plx_bdev *bdev = h->bdev;
    h->news &= h->news - 1;
    h->sent = h->news != 0;
    if (h->sent)
        plx_reactor_send(o.reactor, &h->msg);
    pthread_mutex_unlock(&lock);
    o.event(o.arg, bdev, what);
}

static struct plx_bdev_hold *hold_new(struct plx_bdev *bdev, const struct plx_bdev_hold_opts *opts)
{
    struct plx_bdev_hold *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->bdev = bdev;
    h->o = *opts;
    h->msg.fn = hold_told;
    memccpy(h->who, opts->who, 0, sizeof h->who - 1);
    return h;
}

int plx_bdev_hold(struct plx_bdev *bdev, const struct plx_bdev_hold_opts *opts, struct plx_bdev_hold **out,
                  struct plx_error *err)
{
    struct plx_bdev_hold *h = hold_new(bdev, opts);
    if (!h)
        return plx_fail(err, -ENOMEM, "out of memory");
    pthread_mutex_lock(&lock);
    int ret = check_claim(bdev, opts, err);
    if (!ret)
        plx_list_add_tail(&bdev->holds, &h->link);
    pthread_mutex_unlock(&lock);
    if (ret)
        free(h);
    else
        *out = h;
    return ret;
}

void plx_bdev_release(struct plx_bdev_hold *h)
{
    if (h->o.reactor)
        plx_assert_here(h->o.reactor);
    pthread_mutex_lock(&lock);
    plx_list_del(&h->link);
    h->released = true;
    bool sent = h->sent;
    pthread_mutex_unlock(&lock);
    if (!sent)
        free(h);
}

bool plx_bdev_is_still(const struct plx_bdev *bdev)
{
    bool still = false;
    pthread_mutex_lock(&lock);
    plx_list_for_each(it, &bdev->holds) {
        still |= plx_list_entry(it, struct plx_bdev_hold, link)->o.claim == PLX_BDEV_STILL;
    }
    pthread_mutex_unlock(&lock);
    return still;
}

/* ---- what they are told ---- */

static void tell_holders(struct plx_bdev *bdev, enum plx_bdev_event what)
{
    if (!bdev->holds.next)
        return; /* it has not been entered yet */
    plx_list_for_each(it, &bdev->holds) {
        struct plx_bdev_hold *h = plx_list_entry(it, struct plx_bdev_hold, link);
        if (!h->o.event)
            continue;
        if (!h->o.reactor) {
            h->o.event(h->o.arg, bdev, what);
            continue;
        }
        h->news |= 1u << what;
        if (!h->sent)
            plx_reactor_send(h->o.reactor, &h->msg);
        h->sent = true;
    }
}

void plx_bdev_resized(struct plx_bdev *bdev, uint64_t blocks)
{
    pthread_mutex_lock(&lock);
    uint64_t was = plx_bdev_blocks(bdev);
    if (blocks && blocks != was && !bdev->gone) {
        plx_info("%s: has %llu blocks now, not %llu", bdev->info.name, (unsigned long long)blocks,
                 (unsigned long long)was);
        __atomic_store_n(&bdev->info.blocks, blocks, __ATOMIC_RELAXED);
        tell_holders(bdev, PLX_BDEV_RESIZED);
    }
    pthread_mutex_unlock(&lock);
}

void plx_bdev_gone(struct plx_bdev *bdev, const char *why)
{
    pthread_mutex_lock(&lock);
    if (!bdev->gone) {
        plx_warn("%s is gone: %s", bdev->info.name, why);
        bdev->gone = true;
        plx_bdev_adapt(bdev); /* has the dispatcher look closer */
        tell_holders(bdev, PLX_BDEV_GONE);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- what may block, on a worker thread of a reactor ---- */

enum task_kind { TASK_OPEN, TASK_CLOSE, TASK_RESCAN };

struct task {
    struct plx_aio aio;
    enum task_kind kind;
    struct plx_bdev *bdev;
    struct plx_bdev_hold *hold; /* TASK_RESCAN: it is not closed meanwhile */
    plx_bdev_done_fn done;
    void *arg;
    struct plx_error err;
    const char *name; /* or NULL */
    char text[];      /* the URL, and the name behind it */
};

static int64_t task_run(struct plx_aio *aio)
{
    struct task *t = plx_container_of(aio, struct task, aio);
    switch (t->kind) {
    case TASK_OPEN:
        return plx_bdev_open_as(t->text, t->name, &t->bdev, &t->err);
    case TASK_CLOSE:
        return plx_bdev_close_checked(t->bdev, &t->err);
    case TASK_RESCAN:
        return plx_bdev_rescan(t->bdev, &t->err);
    }
    return -EINVAL;
}

static void task_done(struct plx_aio *aio)
{
    struct task *t = plx_container_of(aio, struct task, aio);
    int result = (int)aio->res;
    bool there = t->kind == TASK_OPEN ? !result : t->kind == TASK_RESCAN || result;
    if (result && !t->err.text[0]) /* it was not begun */
        plx_fail(&t->err, result, "%s: cannot make a thread for it: %s", t->bdev ? t->bdev->info.name : t->text,
                 strerror(-result));
    if (t->hold)
        plx_bdev_release(t->hold); /* the callback may close it */
    t->done(t->arg, there ? t->bdev : NULL, result, &t->err);
    free(t);
}

/* A claim to read, which goes with any other; and it does not matter whether the disk is gone. */
static int task_hold(struct task *t)
{
    const struct plx_bdev_hold_opts o = {.who = "a look at its size", .claim = PLX_BDEV_READS};
    t->hold = hold_new(t->bdev, &o);
    if (!t->hold)
        return -ENOMEM;
    pthread_mutex_lock(&lock);
    plx_list_add_tail(&t->bdev->holds, &t->hold->link);
    pthread_mutex_unlock(&lock);
    return 0;
}

static int task_begin(struct plx_reactor *r, enum task_kind kind, struct plx_bdev *bdev, const char *url,
                      const char *name, plx_bdev_done_fn done, void *arg)
{
    size_t len = strlen(url) + 1, more = name ? strlen(name) + 1 : 0;
    int ret = plx_aio_prepare(r);
    struct task *t = ret ? NULL : calloc(1, sizeof *t + len + more);
    if (!t)
        return ret ? ret : -ENOMEM;
    t->aio = (struct plx_aio){.done = task_done, .fd = -1, .op = PLX_AIO_CALL, .call = task_run};
    t->kind = kind;
    t->bdev = bdev;
    t->done = done;
    t->arg = arg;
    memcpy(t->text, url, len);
    if (name)
        t->name = memcpy(t->text + len, name, more);
    ret = kind == TASK_RESCAN ? task_hold(t) : 0;
    if (ret) {
        free(t);
        return ret;
    }
    plx_aio_submit(r, &t->aio);
    return 0;
}

int plx_bdev_open_begin(struct plx_reactor *r, const char *url, const char *name, plx_bdev_done_fn done, void *arg)
{
    return task_begin(r, TASK_OPEN, NULL, url, name, done, arg);
}

int plx_bdev_close_begin(struct plx_reactor *r, struct plx_bdev *bdev, plx_bdev_done_fn done, void *arg)
{
    return task_begin(r, TASK_CLOSE, bdev, "", NULL, done, arg);
}

int plx_bdev_rescan_begin(struct plx_reactor *r, struct plx_bdev *bdev, plx_bdev_done_fn done, void *arg)
{
    return task_begin(r, TASK_RESCAN, bdev, "", NULL, done, arg);
}
