/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The client's end of the control socket: one call after the other, each answered before the next. The library has no
 * such client, as programs that it is part of make calls by plx_rpc_call(): so this is where the command has a socket.
 */
#include "ctl.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* Says what is wrong, or keeps it. */
static int __attribute__((format(printf, 3, 4))) ctl_fail(struct ctl *c, int status, const char *fmt, ...)
{
    char *text;
    va_list ap;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (len < 0)
        return status;
    if (!c->quiet)
        cli_fail(status, "%s", text);
    free(c->why);
    c->why = c->quiet ? text : NULL;
    if (!c->quiet)
        free(text);
    return status;
}

static int no_server(struct ctl *c, int error)
{
    char quoted[512];
    const char *path = plx_text_quote(c->socket, quoted, sizeof quoted) ? quoted : "SOCKET";
    switch (error) {
    case ENOENT:
    case ECONNREFUSED:
        return ctl_fail(c, EXIT_RUNTIME,
                        "%s: %s; \"pollux serve -r %s\" starts a server there, and -s SOCKET names another one",
                        c->socket, error == ENOENT ? "there is no such socket" : "the server there has ended", path);
    case EACCES:
    case EPERM:
        return ctl_fail(c, EXIT_RUNTIME, "%s: %s; its server takes calls of root and of the user who started it",
                        c->socket, strerror(error));
    case EAGAIN:
        return ctl_fail(c, EXIT_RUNTIME, "%s: the server does not take connections; --timeout SECONDS waits for longer",
                        c->socket);
    default:
        return ctl_fail(c, EXIT_RUNTIME, "%s: %s; -s SOCKET names the one that \"pollux serve -r SOCKET\" listens at",
                        c->socket, strerror(error));
    }
}

static int ctl_connect(struct ctl *c)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = c->timeout};
    size_t len = strlen(c->socket);
    if (!len || len >= sizeof addr.sun_path)
        return ctl_fail(c, EXIT_USAGE, "--socket \"%s\" is no path of 1 to %zu bytes", c->socket,
                        sizeof addr.sun_path - 1);
    memcpy(addr.sun_path, c->socket, len);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return ctl_fail(c, EXIT_RUNTIME, "cannot make a socket: %s", strerror(errno));
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* of connecting, too */
    if (connect(c->fd, (const struct sockaddr *)&addr, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1)))
        return no_server(c, errno);
    return EXIT_OK;
}

static int ctl_send(struct ctl *c, const char *text, size_t n)
{
    while (n) {
        ssize_t done = send(c->fd, text, n, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return ctl_fail(c, EXIT_RUNTIME, "%s: the server takes no call: %s", c->socket, strerror(errno));
        text += done;
        n -= (size_t)done;
    }
    return EXIT_OK;
}

/* What is read of an answer, and why it could not be. */
struct ctl_reading {
    const struct ctl *c;
    bool late, closed;
    int error;
};

static size_t read_some(void *buffer, size_t size, void *arg)
{
    struct ctl_reading *r = arg;
    struct pollfd fd = {.fd = r->c->fd, .events = POLLIN};
    for (;;) {
        int ready = poll(&fd, 1, r->c->timeout ? (int)r->c->timeout * 1000 : -1);
        ssize_t n = ready > 0 ? recv(r->c->fd, buffer, size, 0) : ready;
        if (n > 0)
            return (size_t)n;
        if (n < 0 && errno == EINTR)
            continue;
        r->late = ready == 0;
        r->closed = ready > 0 && n == 0;
        r->error = errno;
        return (size_t)-1;
    }
}

static json_t *read_answer(struct ctl *c, const char *method)
{
    struct ctl_reading r = {.c = c};
    json_error_t problem;
    json_t *answer = json_load_callback(read_some, &r, JSON_DISABLE_EOF_CHECK, &problem);
    if (answer)
        return answer;
    if (r.late)
        ctl_fail(c, EXIT_RUNTIME,
                 "%s: %s is not answered within %u seconds, and may be done yet; --timeout waits longer", c->socket,
                 method, c->timeout);
    else if (r.closed)
        ctl_fail(c, EXIT_RUNTIME, "%s: the server has disconnected before it answered %s", c->socket, method);
    else
        ctl_fail(c, EXIT_RUNTIME, "%s: the answer to %s cannot be read: %s", c->socket, method,
                 r.error ? strerror(r.error) : problem.text);
    return NULL;
}

int ctl_try(struct ctl *c, const char *method, json_t *params, json_t **result, char **error)
{
    *error = NULL;
    json_t *request = json_pack("{s:s, s:I, s:s}", "jsonrpc", "2.0", "id", (json_int_t)++c->id, "method", method);
    if (params)
        json_object_set_new(request, "params", params);
    char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    int ret = !text ? ctl_fail(c, EXIT_RUNTIME, "out of memory") : c->fd < 0 ? ctl_connect(c) : EXIT_OK;
    if (!ret)
        ret = ctl_send(c, text, strlen(text));
    free(text);
    json_t *answer = ret ? NULL : read_answer(c, method);
    if (!answer) {
        *error = c->why;
        c->why = NULL;
        return ret ? ret : EXIT_RUNTIME;
    }
    const json_t *problem = json_object_get(answer, "error"), *id = json_object_get(answer, "id");
    const char *message = json_string_value(json_object_get(problem, "message"));
    if (problem)
        *error = strdup(message ? message : "an error without a message");
    else if (json_integer_value(id) != c->id)
        *error = strdup("what answers there is no control server");
    else if (result)
        *result = json_incref(json_object_get(answer, "result"));
    json_decref(answer);
    return *error ? EXIT_RUNTIME : EXIT_OK;
}

int ctl_call(struct ctl *c, const char *method, json_t *params, json_t **result)
{
    char *error = NULL;
    int ret = ctl_try(c, method, params, result, &error);
    if (error)
        cli_fail(EXIT_RUNTIME, "%s: %s", method, error);
    free(error);
    return ret;
}

long ctl_server_pid(const struct ctl *c)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ? 0 : (long)peer.pid;
}

void ctl_close(struct ctl *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}
