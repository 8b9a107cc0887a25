/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests and their answers (JSON-RPC 2.0), one by one or in batches, and the order in which calls are made. */
#include "rpc/rpc.h"

#include "base/log.h"
#include "reactor/owner.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { ERROR_BYTES = 400 };

/* ---- answers ---- */

static json_t *answer_new(json_t *id)
{
    json_t *a = json_object();
    json_object_set_new(a, "jsonrpc", json_string("2.0"));
    if (id)
        json_object_set(a, "id", id);
    else
        json_object_set_new(a, "id", json_null());
    return a;
}

/* A text of an error: what was cut off in it, or came from elsewhere, is not UTF-8 always. */
static json_t *error_text(const char *text)
{
    char out[ERROR_BYTES];
    size_t n = 0;
    while (*text && n + 4 < sizeof out) {
        size_t len = plx_text_printable(text);
        memcpy(out + n, len ? text : "?", len ? len : 1);
        n += len ? len : 1;
        text += len ? len : 1;
    }
    return json_stringn(out, n);
}

static json_t *answer_error(json_t *id, int code, const char *text)
{
    json_t *a = answer_new(id);
    json_object_set_new(a, "error", json_pack("{s:i, s:o}", "code", code, "message", error_text(text)));
    return a;
}

static void batch_free(struct rpc_batch *b)
{
    json_decref(b->requests);
    free(b->answers);
    free(b);
}

static void batch_send(struct rpc_batch *b)
{
    if (b->short_of_memory || !rpc_text_end(&b->answers, "]\n")) {
        rpc_client_end(b->client);
        return;
    }
    rpc_client_send_text(b->client, b->answers);
    b->answers = NULL;
}

/* All of a batch has been answered, or there is nobody to answer. */
static void batch_check(struct rpc_batch *b)
{
    if (b->open || (b->client && b->next < json_array_size(b->requests)))
        return;
    if (b->client) {
        rpc_client_batch(b->client, NULL);
        if (b->answers)
            batch_send(b);
    }
    batch_free(b);
}

void rpc_batch_forget(struct rpc_batch *b)
{
    b->client = NULL;
    batch_check(b);
}

static void batch_add(struct rpc_batch *b, json_t *a)
{
    size_t before = b->answers ? b->answers->len : 0;
    if (json_object_get(a, "result") && before + json_dumpb(a, NULL, 0, JSON_COMPACT) > RPC_BATCH_BYTES) {
        json_object_del(a, "result");
        json_object_set_new(a, "error",
                            json_pack("{s:i, s:s}", "code", RPC_INTERNAL, "message",
                                      "Internal error: the answers to this batch are too long; make several"));
    }
    if (!rpc_text_end(&b->answers, before ? "," : "[") || !rpc_text_add(&b->answers, a))
        b->short_of_memory = true;
}

static void answer_to(struct rpc_client *client, struct rpc_batch *b, json_t *a)
{
    if (b)
        batch_add(b, a);
    else if (client)
        rpc_client_send(client, a);
    json_decref(a);
}

void rpc_refuse(struct rpc_client *client, int code, const char *fmt, ...)
{
    char text[ERROR_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    answer_to(client, NULL, answer_error(NULL, code, text));
}

/* ---- a call's life ---- */

static void lane_next(struct plx_rpc *rpc);

/* Whoever waits for it to be through, goes on. */
static void call_through(struct rpc_call *c)
{
    if (c->in_lane) {
        c->in_lane = false;
        plx_list_del(&c->link);
        rpc_state_between(c->rpc);
        lane_next(c->rpc);
    }
    if (c->through)
        return;
    c->through = true;
    if (c->client)
        rpc_client_busy(c->client, 0, -1);
}

void rpc_takes_long(struct rpc_call *c)
{
    call_through(c);
}

static void call_free(struct rpc_call *c)
{
    struct plx_rpc *rpc = c->rpc;
    plx_list_del(&c->all);
    json_decref(c->id);
    json_decref(c->params);
    json_decref(c->result);
    free(c->state);
    free(c);
    rpc_may_stop(rpc);
}

static void call_answer(struct rpc_call *c)
{
    struct rpc_batch *b = c->batch;
    if (c->done) {
        c->done(c);
    } else if (c->code) {
        answer_to(c->client, b, answer_error(c->id, c->code, c->error.text));
    } else if (c->id && (c->client || b)) {
        json_t *a = answer_new(c->id);
        json_object_set(a, "result", c->result);
        answer_to(c->client, b, a);
    }
    if (b) {
        b->open--;
        batch_check(b);
    }
    if (c->client)
        rpc_client_busy(c->client, -1, 0);
    call_free(c);
}

static bool is_change(const struct rpc_method *m)
{
    return m->kind == RPC_CHANGES || m->kind == RPC_OPTIONS;
}

/* It is answered when what it has changed is kept, if it is to be. */
static void call_done(struct rpc_call *c)
{
    if (!c->code && is_change(c->method))
        c->kept = rpc_state_changed(c->rpc);
    else if (c->code && c->tried)
        rpc_state_changed(c->rpc); /* what it has left behind */
    call_through(c);
    if (c->kept)
        plx_list_add_tail(&c->rpc->unsaved, &c->link);
    else
        call_answer(c);
}

void rpc_saved(struct plx_rpc *rpc, uint64_t change, int ret, const struct plx_error *err)
{
    plx_list_for_each_safe(it, &rpc->unsaved) {
        struct rpc_call *c = plx_list_entry(it, struct rpc_call, link);
        if (c->kept > change)
            continue;
        plx_list_del(it);
        if (ret) {
            c->code = ret;
            plx_fail(&c->error, ret, "%s: it is done, but will be forgotten at a restart: %.200s", strerror(-ret),
                     err->text);
        }
        call_answer(c);
    }
}

void rpc_ok(struct rpc_call *c, json_t *result)
{
    plx_assert_here(c->rpc->reactor);
    c->result = result ? result : json_true();
    call_done(c);
}

void rpc_fail(struct rpc_call *c, int code, const char *fmt, ...)
{
    plx_assert_here(c->rpc->reactor);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->error.text, sizeof c->error.text, fmt, ap);
    va_end(ap);
    c->code = code;
    call_done(c);
}

void rpc_fail_errno(struct rpc_call *c, int ret, const struct plx_error *err)
{
    rpc_fail(c, ret, "%s%s%.250s", strerror(-ret), err ? ": " : "", err ? err->text : "");
}

void rpc_fail_params(struct rpc_call *c, const struct plx_error *err)
{
    rpc_fail(c, RPC_INVALID_PARAMS, "Invalid parameters: %.280s", err->text);
}

/* ---- beginning ---- */

static void log_change(const struct rpc_call *c)
{
    char who[80] = "the configuration";
    if (c->client)
        rpc_client_describe(c->client, who, sizeof who);
    const char *name = json_string_value(json_object_get(c->params, "nqn"));
    name = name ? name : json_string_value(json_object_get(c->params, "name"));
    plx_log_each(c->client ? PLX_LOG_INFO : PLX_LOG_DEBUG, "%s: %s%s%.200s", who, c->method->name, name ? " " : "",
                 name ? name : "");
}

static void call_run(struct rpc_call *c)
{
    if (is_change(c->method))
        log_change(c);
    if (c->method->kind == RPC_OPTIONS) {
        json_object_set(c->rpc->options, c->method->name, c->params);
    }
    if (c->method->run)
        c->method->run(c);
    else
        rpc_ok(c, NULL);
}

bool rpc_changing(const struct plx_rpc *rpc)
{
    return !plx_list_empty(&rpc->lane) && plx_list_entry(rpc->lane.next, struct rpc_call, link)->in_lane;
}

/* The first in line is under way; the next one begins when it is through. */
static void lane_next(struct plx_rpc *rpc)
{
    if (plx_list_empty(&rpc->lane) || rpc_changing(rpc))
        return;
    struct rpc_call *c = plx_list_entry(rpc->lane.next, struct rpc_call, link);
    c->in_lane = true;
    call_run(c);
}

static int check_state(const struct plx_rpc *rpc, const struct rpc_method *m, struct plx_error *err)
{
    if (rpc->started && m->startup_only)
        return plx_fail(err, RPC_WRONG_STATE,
                        "Method may only be called before framework is initialized. Use --wait-for-rpc command line "
                        "parameter and then issue this RPC before the framework_start_init RPC.");
    if (!rpc->started && !m->startup)
        return plx_fail(err, RPC_WRONG_STATE,
                        "Method may only be called after framework is initialized. Use framework_start_init RPC to "
                        "initialize the framework.");
    return 0;
}

static void call_begin(struct rpc_call *c, const char *name, const json_t *params)
{
    struct plx_error err = {{0}};
    int code = 0;
    c->method = rpc_method_find(name);
    if (!c->method) {
        rpc_fail(c, RPC_METHOD_NOT_FOUND, "Method not found: there is no %.80s; rpc_get_methods lists those there are",
                 name);
        return;
    }
    code = check_state(c->rpc, c->method, &err);
    if (code) {
        rpc_fail(c, code, "%s", err.text);
        return;
    }
    c->params = rpc_params_check(c->method, params, &code, &err);
    if (!c->params) {
        if (code == -EINVAL)
            rpc_fail_errno(c, code, &err);
        else
            rpc_fail(c, code, "Invalid parameters: %s", err.text);
        return;
    }
    if (c->method->kind == RPC_READS) {
        call_run(c);
        return;
    }
    plx_list_add_tail(&c->rpc->lane, &c->link);
    lane_next(c->rpc);
}

static struct rpc_call *call_new(struct plx_rpc *rpc)
{
    struct rpc_call *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->rpc = rpc;
    plx_list_init(&c->link);
    plx_list_add_tail(&rpc->calls, &c->all);
    return c;
}

void rpc_own_call(struct plx_rpc *rpc, const char *method, const json_t *params, void (*done)(struct rpc_call *c),
                  void *arg)
{
    struct rpc_call *c = call_new(rpc), none = {.code = -ENOMEM, .arg = arg, .error = {"out of memory"}};
    if (!c) {
        done(&none);
        return;
    }
    c->done = done;
    c->arg = arg;
    call_begin(c, method, params);
}

void rpc_calls_forget(struct plx_rpc *rpc, const struct rpc_client *client)
{
    plx_list_for_each(it, &rpc->calls) {
        struct rpc_call *c = plx_list_entry(it, struct rpc_call, all);
        if (c->client == client)
            c->client = NULL;
    }
}

/* ---- requests ---- */

static bool is_id(const json_t *id)
{
    return !id || json_is_string(id) || json_is_number(id) || json_is_null(id);
}

static const char *request_problem(const json_t *r)
{
    const json_t *version = json_object_get(r, "jsonrpc"), *params = json_object_get(r, "params");
    if (!json_is_object(r))
        return "a request is an object, with a method";
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "2.0") != 0))
        return "jsonrpc is \"2.0\", when it is given";
    if (!json_is_string(json_object_get(r, "method")))
        return "method is a text: the name of one";
    if (!is_id(json_object_get(r, "id")))
        return "id is a text, a number or null";
    return params && !json_is_object(params) && !json_is_array(params) && !json_is_null(params)
               ? "params is an object, or null"
               : NULL;
}

static void request_begin(struct rpc_client *client, struct rpc_batch *b, const json_t *r)
{
    struct plx_rpc *rpc = rpc_client_server(client);
    const char *problem = request_problem(r);
    struct rpc_call *c = problem ? NULL : call_new(rpc);
    if (!c) {
        char text[160];
        snprintf(text, sizeof text, "Invalid request: %s", problem ? problem : "out of memory");
        answer_to(client, b, answer_error(NULL, problem ? RPC_INVALID_REQUEST : RPC_INTERNAL, text));
        return;
    }
    c->client = client;
    c->batch = b;
    c->id = json_incref(json_object_get(r, "id"));
    rpc_client_busy(client, 1, 1);
    if (b)
        b->open++;
    call_begin(c, json_string_value(json_object_get(r, "method")), json_object_get(r, "params"));
}

bool rpc_batch_more(const struct rpc_batch *b)
{
    return b->next < json_array_size(b->requests);
}

void rpc_batch_next(struct rpc_batch *b)
{
    struct rpc_client *client = b->client;
    const json_t *r = json_array_get(b->requests, b->next++);
    b->open++; /* it stays for as long as it is looked at */
    request_begin(client, b, r);
    b->open--;
    batch_check(b);
    rpc_client_busy(client, 0, 0);
}

static void begin_batch(struct rpc_client *client, json_t *requests)
{
    enum { BATCH_CALLS = 262144 }; /* the errors of so many are within what answers may take */
    if (json_array_size(requests) > BATCH_CALLS) {
        rpc_refuse(client, RPC_INVALID_REQUEST, "Invalid request: a batch has at most %d calls", BATCH_CALLS);
        return;
    }
    struct rpc_batch *b = json_array_size(requests) ? calloc(1, sizeof *b) : NULL;
    if (!b) {
        rpc_refuse(client, RPC_INVALID_REQUEST, "Invalid request: the batch is empty");
        return;
    }
    b->client = client;
    b->requests = json_incref(requests);
    rpc_client_batch(client, b);
    rpc_client_busy(client, 0, 0);
}

/*
 * A member that is there twice, or a number beyond those that a parameter can have: the request is known all the same,
 * but not what was meant.
 */
static void refuse_meaning(struct rpc_client *client, const char *text, size_t len, const char *what)
{
    json_t *r = json_loadb(text, len, JSON_DECODE_INT_AS_REAL, NULL), *id = json_object_get(r, "id");
    char message[200];
    if (json_is_real(id) && fabs(json_real_value(id)) < 9e15 && floor(json_real_value(id)) == json_real_value(id)) {
        json_object_set_new(r, "id", json_integer((json_int_t)json_real_value(id)));
        id = json_object_get(r, "id");
    }
    snprintf(message, sizeof message, "Invalid parameters: %.150s", what);
    answer_to(client, NULL, answer_error(is_id(id) ? id : NULL, RPC_INVALID_PARAMS, message));
    json_decref(r);
}

void rpc_request(struct rpc_client *client, const char *text, size_t len)
{
    json_error_t problem;
    json_t *r = json_loadb(text, len, JSON_REJECT_DUPLICATES, &problem);
    if (json_is_array(r))
        begin_batch(client, r);
    else if (r)
        request_begin(client, NULL, r);
    else if (json_error_code(&problem) == json_error_duplicate_key ||
             json_error_code(&problem) == json_error_numeric_overflow)
        refuse_meaning(client, text, len, problem.text);
    else
        rpc_refuse(client, RPC_PARSE_ERROR, "Parse error: line %d, column %d: %.120s", problem.line, problem.column,
                   problem.text);
    json_decref(r);
}

/* ---- parameters ---- */

json_t *rpc_param(const struct rpc_call *c, const char *name)
{
    return json_object_get(c->params, name);
}

const char *rpc_str(const struct rpc_call *c, const char *name)
{
    return rpc_str_in(c->params, name);
}

uint64_t rpc_uint(const struct rpc_call *c, const char *name)
{
    return rpc_uint_in(c->params, name);
}

bool rpc_bool(const struct rpc_call *c, const char *name)
{
    return rpc_bool_in(c->params, name);
}

const char *rpc_str_in(const json_t *o, const char *name)
{
    return json_string_value(json_object_get(o, name));
}

uint64_t rpc_uint_in(const json_t *o, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(o, name));
}

bool rpc_bool_in(const json_t *o, const char *name)
{
    return json_is_true(json_object_get(o, name));
}
