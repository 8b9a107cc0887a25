/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdev/reserve.h"

#include "base/log.h"
#include "reactor/aio.h"
#include "reactor/keep.h"
#include "reactor/owner.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum resv_step {
    RESV_IDLE,
    RESV_SAVE,    /* to its file */
    RESV_PUBLISH, /* every reactor goes over to it */
    RESV_EXPEL,   /* commands end of those that a preempt and abort has thrown out */
    RESV_TELL,    /* those are told whom it concerns */
};

/* From the first command on that is more than a look, or where there is a file. */
struct resv_states {
    struct plx_resv of[2];
    struct plx_resv_notices notices;
    size_t text_len;
    char text[PLX_RESV_TEXT];
};

struct plx_reservations {
    struct plx_list link;
    const struct plx_bdev *bdev;
    struct plx_reactor *home;
    unsigned users; /* parties that are initialized */
    struct plx_list parties;
    struct plx_list *at; /* the party that is asked */
    enum resv_step step;
    struct plx_list ops;        /* the first is under way */
    struct resv_states *states; /* NULL: there is nothing */
    unsigned current;           /* of these; the other is what the command under way makes of it */
    unsigned shown;
    char *file; /* or NULL */
    uint8_t uuid[16];
    struct plx_aio aio;
};

/* Of all disks of the process; and under the same lock, who is a party to them, and their files. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct plx_list all = {&all, &all};

static struct plx_resv *resv_now(struct plx_reservations *v)
{
    return &v->states->of[v->current];
}

static struct plx_resv *resv_next(struct plx_reservations *v)
{
    return &v->states->of[!v->current];
}

const struct plx_resv *plx_resv_shown(const struct plx_resv_party *p)
{
    const struct resv_states *s = p->of->states;
    return s && s->of[p->of->shown].type ? &s->of[p->of->shown] : NULL;
}

const struct plx_resv_notices *plx_resv_notices(const struct plx_resv_party *p)
{
    return &p->of->states->notices;
}

const char *plx_resv_file(const struct plx_resv_party *p)
{
    return p->of ? p->of->file : NULL;
}

/* ---- one command after the other ---- */

static void op_done(struct plx_msg *msg)
{
    struct plx_resv_op *op = plx_container_of(msg, struct plx_resv_op, msg);
    op->done(op);
}

static void op_answer(struct plx_resv_op *op, enum plx_resv_answer answer)
{
    op->answer = answer;
    op->msg.fn = op_done;
    plx_list_del(&op->link);
    plx_reactor_send(op->reactor, &op->msg);
}

static struct plx_resv_op *op_under_way(const struct plx_reservations *v)
{
    return plx_list_entry(v->ops.next, struct plx_resv_op, link);
}

static void op_look(struct plx_reservations *v, struct plx_resv_op *op)
{
    static const struct plx_resv none;
    if (op->look)
        op->look(op, v->states ? resv_now(v) : &none);
    op_answer(op, PLX_RESV_DONE);
}

/* Commands that only look, or fail, or change nothing, are answered. @return whether there is one that does */
static bool resv_decide(struct plx_reservations *v)
{
    while (!plx_list_empty(&v->ops)) {
        struct plx_resv_op *op = op_under_way(v);
        if (op->cmd.kind == PLX_RESV_LOOK) {
            op_look(v, op);
            continue;
        }
        if (!v->states && !(v->states = calloc(1, sizeof *v->states))) {
            op_answer(op, PLX_RESV_NO_MEMORY);
            continue;
        }
        *resv_next(v) = *resv_now(v);
        op->answer = plx_resv_execute(resv_next(v), &op->cmd, &v->states->notices);
        if (!op->answer && !plx_resv_same(resv_now(v), resv_next(v)))
            return true;
        op_answer(op, op->answer);
    }
    return false;
}

static int64_t save_call(struct plx_aio *io)
{
    const struct plx_reservations *v = plx_container_of(io, struct plx_reservations, aio);
    return plx_keep_write(v->file, v->states->text, v->states->text_len);
}

static bool resv_step(struct plx_reservations *v);

static void resv_go_on(struct plx_reservations *v)
{
    while (resv_step(v))
        ;
}

static void resv_saved(struct plx_aio *io)
{
    struct plx_reservations *v = plx_container_of(io, struct plx_reservations, aio);
    if (io->res < 0)
        plx_error("%s: reservations cannot be kept there: %s", v->file, strerror((int)-io->res));
    resv_go_on(v);
}

static void save(struct plx_reservations *v)
{
    v->states->text_len = plx_resv_format(resv_next(v), v->uuid, v->states->text);
    v->aio = (struct plx_aio){.op = PLX_AIO_CALL, .fd = -1, .call = save_call, .done = resv_saved};
    plx_aio_submit(v->home, &v->aio);
}

/* ---- parties are asked, one after the other ---- */

static void party_answered(struct plx_fan *fan, int result);

static bool ask_next(struct plx_reservations *v)
{
    v->at = v->at ? v->at->next : v->parties.next;
    if (v->at == &v->parties) {
        v->at = NULL;
        return false;
    }
    struct plx_resv_party *p = plx_list_entry(v->at, struct plx_resv_party, link);
    p->asked = true;
    plx_fan_out(&p->fan,
                v->step == RESV_PUBLISH ? p->ops->show
                : v->step == RESV_EXPEL ? p->ops->expel
                                        : p->ops->tell,
                party_answered);
    return true;
}

static void party_leave(struct plx_resv_party *p)
{
    if (p->of->at == &p->link)
        p->of->at = p->link.prev;
    plx_list_del(&p->link);
}

static void party_answered(struct plx_fan *fan, int result)
{
    struct plx_resv_party *p = plx_container_of(fan, struct plx_resv_party, fan);
    struct plx_reservations *v = p->of;
    (void)result;
    p->asked = false;
    if (p->left) { /* whose command is under way stays */
        party_leave(p);
        p->left(p);
    }
    if (!ask_next(v))
        resv_go_on(v);
}

/* The sequence of a command that changes something, whole. @return whether to go on at once */
static bool resv_step(struct plx_reservations *v)
{
    switch (v->step) {
    case RESV_IDLE:
        if (!resv_decide(v))
            return false;
        v->step = RESV_SAVE;
        v->aio.res = 0;
        if (!resv_now(v)->persist && !resv_next(v)->persist)
            return true;
        save(v);
        return false;
    case RESV_SAVE:
        if (v->aio.res < 0) { /* nobody has seen it */
            v->step = RESV_IDLE;
            op_answer(op_under_way(v), PLX_RESV_NOT_KEPT);
            return true;
        }
        v->step = RESV_PUBLISH;
        v->shown = !v->current;
        return (!resv_now(v)->type && !resv_next(v)->type) || !ask_next(v);
    case RESV_PUBLISH:
        v->step = RESV_EXPEL;
        return op_under_way(v)->cmd.kind != PLX_RESV_PREEMPT_AND_ABORT || !ask_next(v);
    case RESV_EXPEL:
        v->step = RESV_TELL;
        return !v->states->notices.n || !ask_next(v);
    case RESV_TELL:
        v->step = RESV_IDLE;
        v->current = !v->current;
        op_answer(op_under_way(v), PLX_RESV_DONE);
        return true;
    }
    return false;
}

static void op_arrives(struct plx_msg *msg)
{
    struct plx_resv_op *op = plx_container_of(msg, struct plx_resv_op, msg);
    struct plx_reservations *v = op->of;
    op->cmd.can_persist = v->file;
    plx_list_init(&op->link);
    plx_list_add_tail(&v->ops, &op->link);
    if (v->step == RESV_IDLE)
        resv_go_on(v);
}

void plx_resv_submit(const struct plx_resv_party *p, struct plx_resv_op *op)
{
    op->of = p->of;
    op->msg.fn = op_arrives;
    plx_reactor_send(p->of->home, &op->msg);
}

void plx_resv_join(struct plx_resv_party *p)
{
    plx_assert_here(p->of->home);
    plx_list_add_tail(&p->of->parties, &p->link);
}

void plx_resv_leave(struct plx_resv_party *p, void (*left)(struct plx_resv_party *p))
{
    plx_assert_here(p->of->home);
    p->left = left;
    if (p->asked)
        return; /* see party_answered() */
    party_leave(p);
    left(p);
}

/* ---- its file ---- */

static bool file_taken(const char *file)
{
    plx_list_for_each(it, &all) {
        const struct plx_reservations *v = plx_list_entry(it, struct plx_reservations, link);
        if (v->file && strcmp(v->file, file) == 0)
            return true;
    }
    return false;
}

/* Nothing was kept yet: so that nobody is told of this only when a host asks, it must be possible. */
static int may_be_made(const char *file)
{
    char dir[4096];
    const char *slash = strrchr(file, '/');
    if (slash && (size_t)(slash - file) + 2 > sizeof dir)
        return -ENAMETOOLONG;
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - file) + 1 : 1, slash ? file : ".");
    return access(dir, W_OK | X_OK) ? -errno : 0;
}

static int resv_restore(struct resv_states *s, const char *file, const uint8_t uuid[16], struct plx_error *err)
{
    long len = plx_keep_read(file, s->text, sizeof s->text);
    int ret = len == -ENOENT ? may_be_made(file) : len == -EFBIG ? -EINVAL : len < 0 ? (int)len : 0;
    if (len >= 0) {
        s->text[len] = 0;
        ret = plx_resv_parse(s->text, (size_t)len, uuid, &s->of[0]);
    }
    switch (ret) {
    case 0:
        return 0;
    case -EINVAL:
        return plx_fail(err, ret, "%.200s is not what was written there of reservations: restore it, or remove it",
                        file);
    case -EXDEV:
        return plx_fail(err, ret, "%.200s has the reservations of another disk; give each its own", file);
    default:
        return plx_fail(err, ret, "%.200s, which is to keep reservations, cannot be used: %s", file, strerror(-ret));
    }
}

/*
 * Parties name one file, or none of them does: at a start whoever comes first reads it, so that nobody may meanwhile do
 * what is forbidden.
 */
static int check_next(const struct plx_reservations *v, const char *file, const uint8_t uuid[16], struct plx_error *err)
{
    const char *name = plx_bdev_info(v->bdev)->name;
    if (!v->file && file)
        return plx_fail(err, -EEXIST,
                        "%.90s is served already, and its reservations are not kept; give all that have "
                        "it %.200s, or none",
                        name, file);
    if (v->file && (!file || strcmp(v->file, file) != 0))
        return plx_fail(err, -EEXIST, "reservations of %.90s are kept in %.200s already; name that", name, v->file);
    if (v->file && memcmp(v->uuid, uuid, sizeof v->uuid) != 0)
        return plx_fail(err, -EEXIST, "%.200s is in use under another UUID; give both of them one", file);
    return 0;
}

/* The first party's. */
static int resv_keep(struct plx_reservations *v, const char *file, const uint8_t uuid[16], struct plx_error *err)
{
    if (file_taken(file))
        return plx_fail(err, -EEXIST, "%.200s is in use for the reservations of another disk; give each its own", file);
    int ret = plx_aio_prepare(v->home);
    if (ret)
        return plx_fail(err, ret, "reservations cannot be kept in a file: %s", strerror(-ret));
    const size_t size = strlen(file) + 1;
    v->file = malloc(size);
    v->states = v->file ? calloc(1, sizeof *v->states) : NULL;
    if (!v->states)
        return plx_fail(err, -ENOMEM, "out of memory");
    memcpy(v->file, file, size);
    memcpy(v->uuid, uuid, sizeof v->uuid);
    return resv_restore(v->states, file, uuid, err);
}

/* ---- from the first party to the last ---- */

static struct plx_reservations *resv_of(const struct plx_bdev *bdev)
{
    plx_list_for_each(it, &all) {
        struct plx_reservations *v = plx_list_entry(it, struct plx_reservations, link);
        if (v->bdev == bdev)
            return v;
    }
    struct plx_reservations *v = calloc(1, sizeof *v);
    if (v) {
        v->bdev = bdev;
        plx_list_init(&v->parties);
        plx_list_init(&v->ops);
        plx_list_add_tail(&all, &v->link);
    }
    return v;
}

static void resv_put(struct plx_reservations *v)
{
    if (v->users)
        return;
    plx_list_del(&v->link);
    free(v->states);
    free(v->file);
    free(v);
}

static int party_begin(struct plx_resv_party *p, struct plx_reservations *v, const char *file, const uint8_t uuid[16],
                       struct plx_reactor *const *reactors, unsigned n, struct plx_error *err)
{
    int ret = v->users ? check_next(v, file, uuid, err) : file ? resv_keep(v, file, uuid, err) : 0;
    if (!ret && plx_fan_init(&p->fan, v->home, reactors, n))
        ret = plx_fail(err, -ENOMEM, "out of memory");
    return ret;
}

int plx_resv_party_init(struct plx_resv_party *p, const struct plx_bdev *bdev, const char *file, const uint8_t uuid[16],
                        struct plx_reactor *home, struct plx_reactor *const *reactors, unsigned n,
                        const struct plx_resv_party_ops *ops, struct plx_error *err)
{
    pthread_mutex_lock(&lock);
    struct plx_reservations *v = resv_of(bdev);
    int ret = v ? 0 : plx_fail(err, -ENOMEM, "out of memory");
    if (v && v->users && v->home != home)
        ret = plx_fail(err, -EXDEV, "%.90s is served from another control reactor already; give servers the same one",
                       plx_bdev_info(bdev)->name);
    if (!ret) {
        v->home = home;
        ret = party_begin(p, v, file, uuid, reactors, n, err);
    }
    if (!ret) {
        v->users++;
        p->of = v;
        p->ops = ops;
        p->asked = false;
        p->left = NULL;
        plx_list_init(&p->link);
    } else if (v) {
        resv_put(v);
    }
    pthread_mutex_unlock(&lock);
    return ret;
}

void plx_resv_party_destroy(struct plx_resv_party *p)
{
    if (!p->of)
        return;
    plx_fan_destroy(&p->fan);
    pthread_mutex_lock(&lock);
    p->of->users--;
    resv_put(p->of);
    pthread_mutex_unlock(&lock);
    p->of = NULL;
}
