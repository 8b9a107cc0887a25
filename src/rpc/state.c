/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The configuration in a file, at every change. A worker thread of the reactor writes it; changes that come meanwhile
 * are written together, next. Each is answered when it is kept.
 */
#include "rpc/rpc.h"

#include "reactor/keep.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int64_t state_write(struct plx_aio *io)
{
    struct plx_rpc *rpc = plx_container_of(io, struct plx_rpc, state.io);
    const struct rpc_text *text = rpc->state.text;
    return text ? plx_keep_write(rpc->o.state, text->text, text->len) : -ENOMEM;
}

static void state_written(struct plx_aio *io)
{
    struct plx_rpc *rpc = plx_container_of(io, struct plx_rpc, state.io);
    struct rpc_state *s = &rpc->state;
    int ret = (int)io->res;
    uint64_t to = s->saving_to;
    struct plx_error err = {{0}};
    if (ret)
        plx_fail(&err, ret, "%s: %s", rpc->o.state, strerror(-ret));
    free(s->text);
    s->text = NULL;
    s->saving = false;
    if (!ret)
        s->saved = to;
    rpc_state_begin(rpc);
    rpc_saved(rpc, to, ret, &err);
    rpc_may_stop(rpc);
}

bool rpc_state_busy(const struct plx_rpc *rpc)
{
    const struct rpc_state *s = &rpc->state;
    return s->saving || s->is_due || s->saving_to != s->changes;
}

void rpc_state_begin(struct plx_rpc *rpc)
{
    struct rpc_state *s = &rpc->state;
    if (!rpc->o.state || s->saving || s->saving_to == s->changes || rpc_changing(rpc))
        return;
    s->text = rpc_config_text(rpc);
    s->saving_to = s->changes;
    s->saving = true;
    s->io = (struct plx_aio){.done = state_written, .fd = -1, .op = PLX_AIO_CALL, .call = state_write};
    plx_aio_submit(rpc->reactor, &s->io);
}

/* Half of a change is never kept: it may fail yet. */
void rpc_state_between(struct plx_rpc *rpc)
{
    if (!rpc->state.is_due)
        rpc_state_begin(rpc);
}

static void state_due(struct plx_msg *msg)
{
    struct plx_rpc *rpc = plx_container_of(msg, struct plx_rpc, state.due);
    rpc->state.is_due = false;
    rpc_state_begin(rpc);
}

/*
 * Not at once: what changes in one round is written together. Nor before the initialisation: a state that is there has
 * it behind it.
 */
uint64_t rpc_state_changed(struct plx_rpc *rpc)
{
    struct rpc_state *s = &rpc->state;
    if (!rpc->o.state || !s->on || !rpc->started)
        return 0;
    s->changes++;
    if (!s->is_due) {
        s->is_due = true;
        s->due.fn = state_due;
        plx_reactor_send(rpc->reactor, &s->due);
    }
    return s->changes;
}
