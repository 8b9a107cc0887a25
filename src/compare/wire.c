/* SPDX-License-Identifier: BSD-3-Clause */
#include "compare/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/uuid.h"

enum {
    LINE_MAX_BYTES = 1 << 20,
    ASK_MS = 60000, /* a target that starts fills its memory first */
    CONNECT_MS = 10000,
    STEP_MS = 200, /* stopping is looked for so often: a signal may come just before poll() */
    BACKLOG = 4,
    APART = 16, /* more than a process asks */
};

struct compare_wire {
    int fd;
    const volatile sig_atomic_t *stop;
    unsigned id; /* of the last request */
    char here[COMPARE_WIRE_ADDR], there[COMPARE_WIRE_ADDR];
    size_t have;
    char line[LINE_MAX_BYTES];
};

int compare_wire_key(char key[COMPARE_KEY])
{
    uint8_t uuid[16];
    int ret = plx_uuid_random(uuid);
    for (int i = 0; !ret && i < 16; i++)
        snprintf(key + 2 * i, 3, "%02x", uuid[i]);
    return ret;
}

bool compare_wire_same_key(const char *key, const char *given)
{
    unsigned differ = 0;
    if (strlen(given) != COMPARE_KEY - 1)
        return false;
    for (size_t i = 0; i < COMPARE_KEY - 1; i++)
        differ |= (unsigned char)key[i] ^ (unsigned char)given[i];
    return !differ;
}

int compare_wire_listen(const char *text, char bound[COMPARE_WIRE_ADDR], struct plx_error *err)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof addr;
    int ret = plx_parse_addr(text, COMPARE_WIRE_PORT, &addr, err), on = 1;
    if (ret)
        return ret;
    int fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&addr, plx_addr_len(&addr)) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&addr, &len) < 0) {
        ret = -errno;
        if (fd >= 0)
            close(fd);
        return plx_fail(err, ret, "cannot listen there: %s", strerror(-ret));
    }
    plx_addr_format(&addr, bound);
    return fd;
}

/* @return 1 when it is ready, 0 when time is up, -1 when stopped */
static int wait_for(int fd, short events, int timeout_ms, const volatile sig_atomic_t *stop)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (int left = timeout_ms; !*stop && left > 0; left -= STEP_MS)
        if (poll(&p, 1, left < STEP_MS ? left : STEP_MS) > 0)
            return 1;
    return *stop ? -1 : 0;
}

static struct compare_wire *wire_new(int fd, const volatile sig_atomic_t *stop)
{
    struct compare_wire *w = calloc(1, sizeof *w);
    struct sockaddr_storage addr;
    socklen_t len = sizeof addr, also = sizeof addr;
    int on = 1;
    if (!w) {
        close(fd);
        return NULL;
    }
    w->fd = fd;
    w->stop = stop;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    if (getsockname(fd, (struct sockaddr *)&addr, &len) == 0)
        plx_addr_host(&addr, w->here);
    if (getpeername(fd, (struct sockaddr *)&addr, &also) == 0)
        plx_addr_host(&addr, w->there);
    return w;
}

struct compare_wire *compare_wire_accept(int listener, const volatile sig_atomic_t *stop)
{
    for (;;) {
        int ready = wait_for(listener, POLLIN, STEP_MS, stop);
        if (ready < 0)
            return NULL;
        int fd = ready ? accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;
        struct compare_wire *w = fd >= 0 ? wire_new(fd, stop) : NULL;
        if (w)
            return w;
    }
}

int compare_wire_connect(const char *text, const volatile sig_atomic_t *stop, struct compare_wire **out,
                         struct plx_error *err)
{
    struct sockaddr_storage addr;
    int ret = plx_parse_addr(text, COMPARE_WIRE_PORT, &addr, err), failed = 0;
    socklen_t len = sizeof failed;
    if (ret)
        return ret;
    int fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return plx_fail(err, -errno, "no socket can be had: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&addr, plx_addr_len(&addr)) < 0)
        failed = errno;
    if (failed == EINPROGRESS) {
        int ready = wait_for(fd, POLLOUT, CONNECT_MS, stop);
        failed = ready < 0 ? EINTR : ETIMEDOUT;
        if (ready > 0)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len);
    }
    if (failed) {
        close(fd);
        return plx_fail(err, -failed, "cannot connect to %s: %s; is pollux compare target running there?", text,
                        strerror(failed));
    }
    *out = wire_new(fd, stop);
    return *out ? 0 : plx_fail(err, -ENOMEM, "out of memory");
}

void compare_wire_close(struct compare_wire *w)
{
    if (w)
        close(w->fd);
    free(w);
}

const char *compare_wire_here(const struct compare_wire *w)
{
    return w->here;
}

const char *compare_wire_there(const struct compare_wire *w)
{
    return w->there;
}

int compare_wire_send(struct compare_wire *w, const json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII);
    int ret = text ? 0 : -ENOMEM;
    size_t size = text ? strlen(text) : 0;
    if (text)
        text[size++] = '\n'; /* instead of the zero */
    for (size_t sent = 0; !ret && sent < size;) {
        ssize_t n = send(w->fd, text + sent, size - sent, MSG_NOSIGNAL);
        if (n >= 0)
            sent += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            ret = -errno;
        else if (wait_for(w->fd, POLLOUT, ASK_MS, w->stop) <= 0)
            ret = -ETIMEDOUT;
    }
    free(text);
    return ret;
}

json_t *compare_wire_receive(struct compare_wire *w, int timeout_ms)
{
    for (;;) {
        char *end = memchr(w->line, '\n', w->have);
        if (end) {
            size_t size = (size_t)(end - w->line);
            json_t *object = json_loadb(w->line, size, JSON_REJECT_DUPLICATES, NULL);
            w->have -= size + 1;
            memmove(w->line, end + 1, w->have);
            if (json_is_object(object))
                return object;
            json_decref(object);
            return NULL;
        }
        if (w->have == sizeof w->line || wait_for(w->fd, POLLIN, timeout_ms, w->stop) <= 0)
            return NULL;
        ssize_t n = recv(w->fd, w->line + w->have, sizeof w->line - w->have, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return NULL;
        w->have += n > 0 ? (size_t)n : 0;
    }
}

json_t *compare_wire_ask(struct compare_wire *w, json_t *request, struct plx_error *err)
{
    json_object_set_new(request, "id", json_integer(++w->id));
    int ret = compare_wire_send(w, request);
    json_decref(request);
    json_t *answer = ret ? NULL : compare_wire_receive(w, ASK_MS);
    while (answer && json_integer_value(json_object_get(answer, "id")) != (json_int_t)w->id) {
        json_decref(answer);
        answer = compare_wire_receive(w, ASK_MS);
    }
    const char *error = json_string_value(json_object_get(answer, "error"));
    if (answer && !error)
        return answer;
    if (error)
        plx_fail(err, -EIO, "%.200s", error);
    else
        plx_fail(err, -EIO, "the machine of the target is gone, or does not answer");
    json_decref(answer);
    return NULL;
}

void compare_wire_apart(struct compare_wire *w)
{
    w->id += APART;
}

bool compare_wire_gone(struct compare_wire *w)
{
    char c;
    ssize_t n = recv(w->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}
