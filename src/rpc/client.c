/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Clients: bytes in, answers out, and whose turn it is. One request is begun a round of the reactor, of clients in
 * turn, so that nobody who sends many keeps others waiting. What a client may have in memory is bounded: its input, and
 * the answers that it does not read, beyond which nothing of it is begun.
 */
#include "rpc/rpc.h"

#include "base/log.h"
#include "reactor/owner.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rpc_client {
    struct plx_stream stream;
    struct plx_list link, ready; /* in rpc->clients, rpc->ready */
    struct plx_rpc *rpc;
    uid_t uid;
    pid_t pid;
    char *in;
    size_t at, nin, room;  /* what was received and not begun yet: nin bytes, from `at` on */
    size_t scanned, value; /* of these; of the first value, once it is whole */
    struct rpc_scan scan;
    struct rpc_text *out, **out_tail;
    size_t nout, sent; /* bytes in all, and of the first */
    int calls, begun;  /* not answered; not through */
    struct rpc_batch *batch;
    uint64_t idle_since; /* reactor time */
    bool eof;            /* it says no more */
    bool ending;         /* to be closed once it has read what was said */
};

struct plx_rpc *rpc_client_server(const struct rpc_client *c)
{
    return c->rpc;
}

void rpc_client_describe(const struct rpc_client *c, char *out, size_t size)
{
    snprintf(out, size, "user %ld, process %ld", (long)c->uid, (long)c->pid);
}

void rpc_client_batch(struct rpc_client *c, struct rpc_batch *b)
{
    c->batch = b;
}

static struct rpc_client *client_of(struct plx_stream *s)
{
    return plx_container_of(s, struct rpc_client, stream);
}

/* ---- its end ---- */

static void client_release(struct plx_stream *s)
{
    free(client_of(s));
}

static void client_close(struct rpc_client *c)
{
    rpc_calls_forget(c->rpc, c);
    if (c->batch)
        rpc_batch_forget(c->batch);
    rpc_waiters_wake(c->rpc);
    plx_list_del(&c->link);
    plx_list_del(&c->ready);
    c->rpc->nclients--;
    for (struct rpc_text *a = c->out, *next; a; a = next) {
        next = a->next;
        free(a);
    }
    free(c->in);
    plx_stream_close(&c->stream);
    plx_stream_free(&c->stream, client_release);
}

void rpc_client_end(struct rpc_client *c)
{
    c->ending = true;
    plx_stream_dirty(&c->stream);
}

/* ---- whose turn it is ---- */

static void take_turns(struct plx_rpc *rpc)
{
    if (rpc->turning || plx_list_empty(&rpc->ready))
        return;
    rpc->turning = true;
    plx_reactor_send(rpc->reactor, &rpc->turn);
}

/* A client that has a whole value, and may begin something, is ready. */
static void client_look(struct rpc_client *c)
{
    bool has = c->batch ? rpc_batch_more(c->batch) : c->value && !c->ending;
    bool may = has && !c->begun && c->nout < RPC_ANSWER_BYTES && c->calls < RPC_CALLS;
    if (may && plx_list_empty(&c->ready))
        plx_list_add_tail(&c->rpc->ready, &c->ready);
    take_turns(c->rpc);
}

/* Finds where the first value ends, as far as it has come. */
static void client_scan(struct rpc_client *c)
{
    if (c->value || c->ending)
        return;
    ssize_t n = rpc_scan(&c->scan, c->in + c->at + c->scanned, c->nin - c->scanned);
    if (n > 0)
        c->value = c->scanned + (size_t)n;
    else if (n == 0)
        c->scanned = c->nin;
    if (n == 0 && !c->scan.depth)
        c->at = c->nin = c->scanned = 0; /* blanks */
    if (n == -EBADMSG)
        rpc_refuse(c, RPC_PARSE_ERROR, "Parse error: a request begins with { or [");
    else if (n < 0)
        rpc_refuse(c, RPC_PARSE_ERROR, "Parse error: brackets are nested deeper than %d", RPC_DEPTH);
    else if (!c->value && c->nin == RPC_REQUEST_BYTES)
        rpc_refuse(c, RPC_INVALID_REQUEST, "Invalid request: it is longer than %d bytes", RPC_REQUEST_BYTES);
    else
        return;
    rpc_client_end(c); /* where the next one would begin nobody knows */
}

static void client_begin(struct rpc_client *c)
{
    size_t len = c->value;
    char *text = malloc(len); /* as the client may go meanwhile */
    if (!text) {
        rpc_refuse(c, RPC_INTERNAL, "Internal error: out of memory");
        rpc_client_end(c);
        return;
    }
    memcpy(text, c->in + c->at, len);
    c->nin -= len;
    c->at = c->nin ? c->at + len : 0;
    c->value = c->scanned = 0;
    c->scan = (struct rpc_scan){0};
    client_scan(c);
    plx_stream_stall(&c->stream, c->eof);
    rpc_request(c, text, len);
    free(text);
}

static void turn(struct plx_msg *msg)
{
    struct plx_rpc *rpc = plx_container_of(msg, struct plx_rpc, turn);
    rpc->turning = false;
    if (plx_list_empty(&rpc->ready))
        return;
    struct rpc_client *c = plx_list_entry(rpc->ready.next, struct rpc_client, ready);
    plx_list_del(&c->ready);
    if (c->batch)
        rpc_batch_next(c->batch);
    else
        client_begin(c);
    take_turns(rpc);
}

void rpc_client_busy(struct rpc_client *c, int calls, int begun)
{
    c->calls += calls;
    c->begun += begun;
    c->idle_since = plx_reactor_now(c->rpc->reactor);
    if (c->eof)
        plx_stream_dirty(&c->stream); /* which looks whether that was all */
    client_look(c);
}

/* ---- bytes ---- */

static bool client_room(struct rpc_client *c, size_t more)
{
    if (c->at && c->at + c->nin + more > c->room) { /* not at every request: many may have come at once */
        memmove(c->in, c->in + c->at, c->nin);
        c->at = 0;
    }
    size_t room = c->room ? c->room : 4096;
    while (room < c->nin + more)
        room *= 2;
    char *in = room == c->room ? c->in : realloc(c->in, room);
    if (in) {
        c->in = in;
        c->room = room;
    }
    return in != NULL;
}

/* It has said all, but may wait for answers. */
static int client_eof(struct rpc_client *c)
{
    c->eof = c->stream.ended = true;
    plx_stream_stall(&c->stream, true);
    plx_stream_dirty(&c->stream);
    return 1;
}

static int client_in(struct plx_stream *s)
{
    struct rpc_client *c = client_of(s);
    uint8_t *rx = plx_stream_group_rx(s->group);
    struct iovec iov = {rx, plx_min_u64(PLX_STREAM_RX_BYTES, RPC_REQUEST_BYTES - c->nin)};
    if (s->gone && s->ended) {
        client_close(c);
        return 1;
    }
    if (s->gone) { /* it says no more than what was not received yet, but may wait for the answers to that */
        s->gone = false;
        s->ended = true;
    }
    if (!iov.iov_len)
        plx_stream_stall(s, true);
    if (!iov.iov_len || c->eof)
        return 0;
    ssize_t n = plx_stream_recv(s, &iov, 1);
    if (n == -EAGAIN)
        return 0;
    if (n == 0)
        return client_eof(c);
    if (n < 0 || (!c->ending && !client_room(c, (size_t)n))) {
        client_close(c);
        return 1;
    }
    if (c->ending)
        return 1;
    memcpy(c->in + c->at + c->nin, rx, (size_t)n);
    c->nin += (size_t)n;
    client_scan(c);
    client_look(c);
    return 1;
}

/* Sends what it takes. @return 0 when that is all, or -errno */
static int client_write(struct rpc_client *c)
{
    while (c->out) {
        struct rpc_text *a = c->out;
        struct iovec iov = {a->text + c->sent, a->len - c->sent};
        ssize_t n = plx_stream_send(&c->stream, &iov, 1);
        if (n < 0)
            return (int)n;
        c->sent += (size_t)n;
        c->nout -= (size_t)n;
        if (c->sent < a->len)
            continue;
        c->sent = 0;
        c->out = a->next;
        if (!c->out)
            c->out_tail = &c->out;
        free(a);
    }
    return 0;
}

static int client_out(struct plx_stream *s)
{
    struct rpc_client *c = client_of(s);
    size_t before = c->nout;
    int ret = client_write(c);
    if (ret == -EAGAIN) {
        s->blocked = true;
        return c->nout != before;
    }
    bool all = !c->batch && (c->ending || (c->eof && !c->value));
    if (ret || (all && !c->calls)) {
        client_close(c);
        return 1;
    }
    client_look(c);
    return c->nout != before;
}

static bool text_room(struct rpc_text **text, size_t more)
{
    enum { END = 2 }; /* what is to follow the last value */
    struct rpc_text *t = *text;
    size_t len = t ? t->len : 0, room = t ? t->room : 0;
    if (len + more <= room)
        return true;
    room = plx_max_u64(2 * room, len + more + END);
    t = realloc(t, sizeof *t + room);
    if (!t)
        return false;
    *t = (struct rpc_text){.len = len, .room = room};
    *text = t;
    return true;
}

bool rpc_text_add(struct rpc_text **text, const json_t *value)
{
    size_t len = json_dumpb(value, NULL, 0, JSON_COMPACT);
    if (!text_room(text, len))
        return false;
    json_dumpb(value, (*text)->text + (*text)->len, len, JSON_COMPACT);
    (*text)->len += len;
    return true;
}

bool rpc_text_end(struct rpc_text **text, const char *bytes)
{
    size_t len = strlen(bytes);
    if (!text_room(text, len))
        return false;
    memcpy((*text)->text + (*text)->len, bytes, len);
    (*text)->len += len;
    return true;
}

void rpc_client_send_text(struct rpc_client *c, struct rpc_text *text)
{
    *c->out_tail = text;
    c->out_tail = &text->next;
    c->nout += text->len;
    plx_stream_dirty(&c->stream);
}

void rpc_client_send(struct rpc_client *c, const json_t *answer)
{
    struct rpc_text *text = NULL;
    if (rpc_text_add(&text, answer) && rpc_text_end(&text, "\n"))
        rpc_client_send_text(c, text);
    else
        rpc_client_end(c);
}

/* ---- coming ---- */

static void client_started(struct plx_stream *s, int ret)
{
    (void)s, (void)ret;
}

static const struct plx_stream_user client_user = {.started = client_started, .in = client_in, .out = client_out};

/* The one that has had nothing to do for the longest time, or NULL. */
static struct rpc_client *most_idle(struct plx_rpc *rpc)
{
    struct rpc_client *found = NULL;
    plx_list_for_each(it, &rpc->clients) {
        struct rpc_client *c = plx_list_entry(it, struct rpc_client, link);
        if (!c->calls && !c->ending && (!found || c->idle_since < found->idle_since))
            found = c;
    }
    return found;
}

/*
 * There is a limit, and it must not lock the operator out: root, and the user whom we run as, get the place of whoever
 * was idle for longest. @return whether it may stay
 */
static bool make_place(struct plx_rpc *rpc, struct rpc_client *c)
{
    if (rpc->nclients < RPC_CLIENTS)
        return true;
    struct rpc_client *idle = c->uid == 0 || c->uid == geteuid() ? most_idle(rpc) : NULL;
    if (!idle)
        return false;
    plx_warn("control: there are %d clients, so the one that was idle for longest is disconnected for another",
             RPC_CLIENTS);
    client_close(idle);
    return true;
}

void rpc_client_add(struct plx_rpc *rpc, int fd)
{
    struct rpc_client *c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return;
    }
    c->rpc = rpc;
    c->out_tail = &c->out;
    c->idle_since = plx_reactor_now(rpc->reactor);
    plx_list_init(&c->ready);
    plx_stream_init(&c->stream, &client_user);
    plx_stream_socket(&c->stream, fd);
    plx_stream_user_id(&c->stream, &c->uid, &c->pid);
    bool stays = make_place(rpc, c);
    if (plx_stream_add(rpc->group, &c->stream)) {
        free(c);
        return;
    }
    plx_list_add_tail(&rpc->clients, &c->link);
    rpc->nclients++;
    if (!stays) {
        rpc_refuse(c, -EBUSY, "Device or resource busy: there are %d clients, and more are not served", RPC_CLIENTS);
        rpc_client_end(c);
    }
}

static void client_accepted(struct plx_listener *l, int fd)
{
    rpc_client_add(plx_container_of(l, struct plx_rpc, listener), fd);
}

int rpc_clients_listen(struct plx_rpc *rpc, struct plx_error *err)
{
    int ret = plx_listener_bind_path(&rpc->listener, rpc->o.socket, NULL, err);
    if (ret)
        return ret;
    rpc->listener.accepted = client_accepted;
    ret = plx_listener_accept(&rpc->listener, rpc->reactor);
    if (ret)
        plx_listener_close(&rpc->listener);
    return ret ? plx_fail(err, ret, "cannot listen at %s: %s", rpc->o.socket, strerror(-ret)) : 0;
}

void rpc_clients_close(struct plx_rpc *rpc)
{
    plx_listener_close(&rpc->listener);
    plx_list_for_each_safe(it, &rpc->clients) {
        struct rpc_client *c = plx_list_entry(it, struct rpc_client, link);
        client_write(c); /* what was answered is to be read, spdk_kill_instance above all */
        client_close(c);
    }
}

void rpc_clients_init(struct plx_rpc *rpc)
{
    plx_list_init(&rpc->clients);
    plx_list_init(&rpc->ready);
    rpc->turn.fn = turn;
    rpc->listener.watch.fd = rpc->listener.reserve_fd = rpc->listener.lock_fd = -1;
}
