/* SPDX-License-Identifier: BSD-3-Clause */
/* The control server as a whole: its making and its end, and the calls of a configuration. */
#include "rpc/lvol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- methods ---- */

static const struct rpc_method *const tables[] = {
    rpc_methods_app,   rpc_methods_options,    rpc_methods_keyring,    rpc_methods_bdev,       rpc_methods_filter,
    rpc_methods_nvmf,  rpc_methods_access,     rpc_methods_query,      rpc_methods_limit,      rpc_methods_nvme,
    rpc_methods_vhost, rpc_methods_vhost_scsi, rpc_methods_lvol,       rpc_methods_lvol_group, rpc_methods_lvol_family,
    rpc_methods_pool,  rpc_methods_lvol_copy,  rpc_methods_lvol_xattr,
};

void rpc_methods_each(void (*fn)(void *arg, const struct rpc_method *m), void *arg)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(tables); i++)
        for (const struct rpc_method *m = tables[i]; m->name; m++)
            fn(arg, m);
}

const struct rpc_method *rpc_method_find(const char *name)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(tables); i++)
        for (const struct rpc_method *m = tables[i]; m->name; m++)
            if (strcmp(m->name, name) == 0 || (m->alias && strcmp(m->alias, name) == 0))
                return m;
    return NULL;
}

/* ---- life ---- */

int plx_rpc_create(struct plx_rpc **out, const struct plx_rpc_opts *opts, struct plx_error *err)
{
    struct plx_rpc *rpc = calloc(1, sizeof *rpc);
    if (!rpc)
        return plx_fail(err, -ENOMEM, "out of memory");
    rpc->o = *opts;
    rpc->reactor = opts->reactors[0];
    rpc->started = !opts->wait;
    rpc_clients_init(rpc);
    struct plx_list *const lists[] = {&rpc->lane,    &rpc->unsaved,  &rpc->calls,   &rpc->disks,       &rpc->listeners,
                                      &rpc->waiters, &rpc->ns_texts, &rpc->remotes, &rpc->discoveries, &rpc->asks,
                                      &rpc->passes,  &rpc->stores,   &rpc->copies,  &rpc->sums};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(lists); i++)
        plx_list_init(lists[i]);
    json_t **const objects[] = {&rpc->options, &rpc->subsystems, &rpc->vhost, &rpc->keys, &rpc->log_flags};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(objects); i++)
        *objects[i] = json_object();
    rpc->notes = json_array();
    int ret = plx_aio_prepare(rpc->reactor);
    rpc->group = ret ? NULL : plx_stream_group_get(rpc->reactor);
    if (!rpc->group) {
        plx_rpc_destroy(rpc);
        return plx_fail(err, ret ? ret : -ENOMEM, "cannot make the control server: %s", strerror(ret ? -ret : ENOMEM));
    }
    *out = rpc;
    return 0;
}

int plx_rpc_listen(struct plx_rpc *rpc, struct plx_error *err)
{
    rpc->state.on = true;
    return rpc->o.socket ? rpc_clients_listen(rpc, err) : 0;
}

static void rpc_stopped(struct plx_rpc *rpc, int ret)
{
    void (*stopped)(void *arg, int ret) = rpc->stopped;
    rpc->stopped = NULL;
    plx_timer_cancel(rpc->reactor, &rpc->stop_limit);
    if (stopped)
        stopped(rpc->stopped_arg, ret);
}

void rpc_may_stop(struct plx_rpc *rpc)
{
    if (rpc->stopping && plx_list_empty(&rpc->calls) && !rpc_state_busy(rpc) && !rpc->remote_tasks &&
        !rpc_copies_running(rpc))
        rpc_stopped(rpc, 0);
}

static void stop_overdue(struct plx_timer *timer)
{
    rpc_stopped(plx_container_of(timer, struct plx_rpc, stop_limit), -ETIMEDOUT);
}

void plx_rpc_stop(struct plx_rpc *rpc, void (*done)(void *arg, int ret), void *arg)
{
    __atomic_store_n(&rpc->stopping, true, __ATOMIC_RELAXED); /* which worker threads look at */
    rpc->stopped = done;
    rpc->stopped_arg = arg;
    rpc->stop_limit.fn = stop_overdue;
    plx_timer_set(rpc->reactor, &rpc->stop_limit, RPC_STOP_MS * PLX_NS_PER_MS);
    rpc_clients_close(rpc);
    rpc_waiters_wake(rpc);
    plx_list_for_each_safe(it, &rpc->lane) {
        struct rpc_call *c = plx_list_entry(it, struct rpc_call, link);
        if (!c->in_lane) {
            plx_list_del(it);
            rpc_fail(c, -ECANCELED, "Operation canceled: the process ends");
        }
    }
    rpc_remotes_stop(rpc);
    rpc_lvols_stop(rpc);
    rpc_copies_stop(rpc);
    rpc_may_stop(rpc);
}

void plx_rpc_destroy(struct plx_rpc *rpc)
{
    json_t *const objects[] = {rpc->options,   rpc->subsystems, rpc->vhost,    rpc->keys,
                               rpc->log_flags, rpc->notes,      rpc->transport};
    rpc_discoveries_close(rpc);
    rpc_remotes_close(rpc);
    rpc_disks_close(rpc);
    rpc_listeners_forget(rpc);
    rpc_ns_texts_forget(rpc, NULL);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(objects); i++)
        json_decref(objects[i]);
    free(rpc->hotplug);
    if (rpc->group)
        plx_stream_group_put(rpc->group);
    free(rpc);
}

/* ---- calls from within ---- */

struct own_call {
    plx_rpc_done_fn done;
    void *arg;
};

static void own_done(struct rpc_call *c)
{
    struct own_call o = *(struct own_call *)c->arg;
    char *text = c->code ? NULL : json_dumps(c->result, JSON_ENCODE_ANY);
    free(c->arg);
    o.done(o.arg, c->code, text, &c->error);
    free(text);
}

void plx_rpc_call(struct plx_rpc *rpc, const char *method, const char *params, plx_rpc_done_fn done, void *arg)
{
    json_error_t problem;
    struct plx_error err;
    json_t *p = params ? json_loads(params, JSON_REJECT_DUPLICATES, &problem) : json_object();
    struct own_call *o = p ? malloc(sizeof *o) : NULL;
    if (!o) {
        plx_fail(&err, 0, "%s", p ? "out of memory" : problem.text);
        json_decref(p);
        done(arg, p ? -ENOMEM : RPC_PARSE_ERROR, NULL, &err);
        return;
    }
    *o = (struct own_call){done, arg};
    rpc_own_call(rpc, method, p, own_done, o);
    json_decref(p);
}

/* A configuration: its calls one after the other, first those that may only be made before the initialisation. */
struct load {
    struct plx_rpc *rpc;
    json_t *calls;
    const char *name;
    size_t next;
    bool second; /* pass */
    bool stepping, again;
    bool looking; /* at disks, which is no call of its own */
    int ret;
    struct plx_error err;
    plx_rpc_done_fn done;
    void *arg;
};

static void load_step(struct load *l);

static void load_over(struct load *l)
{
    struct load copy = *l;
    json_decref(l->calls);
    free(l);
    copy.rpc->loading = false;
    copy.done(copy.arg, copy.ret, NULL, &copy.err);
}

/* Of a name that is too long for a message, the end says more than the beginning. */
static const char *end_of(const char *name)
{
    enum { SHOWN = 120 };
    size_t len = strlen(name);
    return len > SHOWN ? name + len - SHOWN : name;
}

static void load_called(struct rpc_call *c)
{
    struct load *l = c->arg;
    if (c->code && !l->looking) {
        const char *method = rpc_str_in(json_array_get(l->calls, l->next - 1), "method");
        l->ret = plx_fail(&l->err, c->code, "%s: %.50s: %.140s", end_of(l->name), method, c->error.text);
    }
    load_step(l);
}

/* Whether a call belongs to the pass at hand. */
static bool in_pass(const struct load *l, const char *method)
{
    const struct rpc_method *m = rpc_method_find(method);
    bool early = m && m->startup_only;
    return early != l->second;
}

/*
 * Or changes some: they stand on each other, and what is on them is looked at when all are there, to be seen through
 * the topmost.
 */
static bool makes_disks(const json_t *call)
{
    const struct rpc_method *m = rpc_method_find(rpc_str_in(call, "method"));
    return !m || !m->group || strcmp(m->group, "bdev") == 0;
}

/* @return false when there is none any more */
static bool load_next(struct load *l)
{
    if (l->next == json_array_size(l->calls) && !l->second) {
        l->second = l->rpc->started = true;
        rpc_waiters_wake(l->rpc);
        l->next = 0;
    }
    if (l->rpc->stopping && !l->ret)
        l->ret = plx_fail(&l->err, -ECANCELED, "%.200s: the process ends", l->name);
    const bool end = l->ret || l->next == json_array_size(l->calls);
    const json_t *call = json_array_get(l->calls, l->next);
    l->looking = !l->ret && rpc_examine_due(l->rpc) && (end || !makes_disks(call));
    if (l->looking) {
        l->again = false;
        rpc_own_call(l->rpc, RPC_EXAMINE, NULL, load_called, l);
        return true;
    }
    if (end)
        return false;
    const char *method = rpc_str_in(call, "method");
    l->next++;
    if (!in_pass(l, method))
        return true;
    l->again = false;
    rpc_own_call(l->rpc, method, json_object_get(call, "params"), load_called, l);
    return true;
}

/* One call after the other, and not one within the other: there may be thousands that are done at once. */
static void load_step(struct load *l)
{
    l->again = true;
    if (l->stepping)
        return;
    l->stepping = true;
    while (l->again)
        if (!load_next(l)) {
            load_over(l);
            return;
        }
    l->stepping = false;
}

/* {"subsystems": [{"subsystem": name, "config": [{"method", "params"}, ...]}]} as a list of calls, or NULL */
static json_t *load_calls(const json_t *config, const char *name, struct plx_error *err)
{
    size_t i, k;
    json_t *group, *call, *out = json_array(), *subsystems = json_object_get(config, "subsystems");
    if (!json_is_array(subsystems)) {
        plx_fail(err, -EINVAL, "%.200s: a configuration is an object with an array \"subsystems\"", name);
        goto fail;
    }
    json_array_foreach(subsystems, i, group)
    {
        json_t *calls = json_object_get(group, "config");
        if (!json_is_array(calls) && !json_is_null(calls)) {
            plx_fail(err, -EINVAL, "%.200s: entry %zu of \"subsystems\" has no array \"config\"", name, i);
            goto fail;
        }
        json_array_foreach(calls, k, call)
        {
            if (!json_is_string(json_object_get(call, "method"))) {
                plx_fail(err, -EINVAL, "%.200s: entry %zu of \"subsystems\": call %zu has no \"method\"", name, i, k);
                goto fail;
            }
            json_array_append(out, call);
        }
    }
    return out;

fail:
    json_decref(out);
    return NULL;
}

/* Blanks comments, slash-star and slash-slash ones, outside of strings. */
static void blank_comments(char *text)
{
    bool string = false;
    for (char *p = text; *p; p++) {
        if (string && *p == '\\' && p[1]) {
            p++;
        } else if (*p == '"') {
            string = !string;
        } else if (!string && p[0] == '/' && (p[1] == '/' || p[1] == '*')) {
            const char *end = p[1] == '/' ? strchr(p, '\n') : strstr(p + 2, "*/");
            size_t n = end ? (size_t)(end - p) + (p[1] == '*' ? 2 : 0) : strlen(p);
            for (size_t i = 0; i < n; i++)
                if (p[i] != '\n')
                    p[i] = ' ';
        }
    }
}

void plx_rpc_load(struct plx_rpc *rpc, const char *text, const char *name, plx_rpc_done_fn done, void *arg)
{
    struct plx_error err = {{0}};
    json_error_t problem;
    char *copy = strdup(text);
    struct load *l = copy ? calloc(1, sizeof *l) : NULL;
    if (!l) {
        free(copy);
        plx_fail(&err, -ENOMEM, "out of memory");
        done(arg, -ENOMEM, NULL, &err);
        return;
    }
    blank_comments(copy);
    json_t *config = json_loads(copy, JSON_REJECT_DUPLICATES, &problem);
    free(copy);
    *l = (struct load){.rpc = rpc, .name = name, .done = done, .arg = arg};
    if (!config)
        plx_fail(&err, -EINVAL, "%.200s: line %d, column %d: %.90s", name, problem.line, problem.column, problem.text);
    else
        l->calls = load_calls(config, name, &err);
    json_decref(config);
    l->err = err;
    l->ret = l->calls ? 0 : -EINVAL;
    rpc->started = !l->calls;
    rpc->loading = true;
    load_step(l);
}
