/* SPDX-License-Identifier: BSD-3-Clause */
#include "compare/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/uuid.h"
#include "reactor/clock.h"

enum {
    LINE_MAX_BYTES = 256 << 10,
    SEND_MS = 60000,
    CONNECT_MS = 10000,
    STEP_MS = 200, /* stopping is looked for so often: a signal may come just before poll() */
    BACKLOG = 4,
    APART = 16,     /* more than a process asks */
    LATE = 100,     /* answers to requests that were given up on; more are no accident */
    KEEP_IDLE = 10, /* seconds; a machine that lost its power says nothing */
    KEEP_EVERY = 5,
    KEEP_COUNT = 4,
    KEEP_MS = 1000 * (KEEP_IDLE + KEEP_EVERY * KEEP_COUNT),
    DEPTH = 8, /* of what we send: 5 */
    TEXT = 4096,
    NAME = 128,
};

#define NONSENSE "the machine of the target says nonsense"
#define WIRE_GONE "the machine of the target is gone"

enum { WIRE_PROBLEM = 160, NS_PER_MS = 1000000 };

struct compare_wire {
    int fd;
    const volatile sig_atomic_t *stop;
    unsigned id; /* of the last request */
    char problem[WIRE_PROBLEM];
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
    int on = 1, idle = KEEP_IDLE, every = KEEP_EVERY, count = KEEP_COUNT, unanswered = KEEP_MS;
    if (!w) {
        close(fd);
        return NULL;
    }
    w->fd = fd;
    w->stop = stop;
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered, sizeof unanswered);
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
        else if (wait_for(w->fd, POLLOUT, SEND_MS, w->stop) <= 0)
            ret = -ETIMEDOUT;
    }
    free(text);
    return ret;
}

void compare_wire_break(struct compare_wire *w, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!w->problem[0])
        vsnprintf(w->problem, sizeof w->problem, fmt, ap);
    va_end(ap);
}

const char *compare_wire_problem(const struct compare_wire *w)
{
    return w && w->problem[0] ? w->problem : NULL;
}

/* ---- what comes ---- */

static void make_printable(char *text)
{
    for (size_t n, at = 0; text[at]; at += n) {
        n = plx_text_printable(text + at);
        if (!n)
            text[at] = text[at] == '\t' ? ' ' : '?';
        n += !n;
    }
}

static bool is_good_name(const char *name)
{
    size_t n = 0;
    while (name[n] && n < NAME && plx_text_printable(name + n))
        n += plx_text_printable(name + n);
    return !name[n];
}

/* Of what there is no end, and of what nobody would want to see, there is nothing after this. */
static bool is_sane(json_t *v, unsigned depth)
{
    const char *name;
    size_t i;
    json_t *each;
    bool sane = depth <= DEPTH && json_string_length(v) <= TEXT;
    char *text = sane && json_is_string(v) ? strdup(json_string_value(v)) : NULL;
    if (text) {
        make_printable(text);
        json_string_set(v, text);
    }
    free(text);
    if (!sane)
        return false;
    json_object_foreach(v, name, each) sane = sane && is_good_name(name) && is_sane(each, depth + 1);
    json_array_foreach(v, i, each) sane = sane && is_sane(each, depth + 1);
    return sane;
}

/* The first line of what has come. */
static json_t *wire_line(struct compare_wire *w, const char *end)
{
    size_t size = (size_t)(end - w->line);
    json_t *object = json_loadb(w->line, size, JSON_REJECT_DUPLICATES, NULL);
    w->have -= size + 1;
    memmove(w->line, end + 1, w->have);
    if (json_is_object(object) && is_sane(object, 0))
        return object;
    json_decref(object);
    compare_wire_break(w, NONSENSE);
    return NULL;
}

json_t *compare_wire_receive(struct compare_wire *w, int timeout_ms)
{
    const uint64_t end_ns = plx_clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    while (!w->problem[0]) {
        const char *end = memchr(w->line, '\n', w->have);
        if (end)
            return wire_line(w, end);
        if (w->have == sizeof w->line) {
            compare_wire_break(w, NONSENSE);
            break;
        }
        const uint64_t now = plx_clock_ns();
        int ready = now < end_ns ? wait_for(w->fd, POLLIN, (int)((end_ns - now) / NS_PER_MS) + 1, w->stop) : 0;
        if (ready < 0)
            break;
        ssize_t n = ready ? recv(w->fd, w->line + w->have, sizeof w->line - w->have, 0) : 0;
        if (!ready)
            compare_wire_break(w, "the machine of the target does not answer");
        else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            compare_wire_break(w, WIRE_GONE);
        w->have += n > 0 ? (size_t)n : 0;
    }
    return NULL;
}

/* The answer to the last request. */
static json_t *receive_answer(struct compare_wire *w, int timeout_ms)
{
    const uint64_t end_ns = plx_clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    for (unsigned late = 0; late < LATE; late++) {
        const uint64_t now = plx_clock_ns();
        json_t *answer = compare_wire_receive(w, now < end_ns ? (int)((end_ns - now) / NS_PER_MS) : 0);
        const json_t *id = json_object_get(answer, "id"), *error = json_object_get(answer, "error");
        const json_int_t number = json_integer_value(id);
        if (!answer || (number == (json_int_t)w->id && (!error || json_is_string(error))))
            return answer;
        json_decref(answer);
        if (number <= 0 || number >= (json_int_t)w->id)
            break;
    }
    compare_wire_break(w, NONSENSE);
    return NULL;
}

json_t *compare_wire_ask(struct compare_wire *w, json_t *request, int timeout_ms, struct plx_error *err)
{
    json_object_set_new(request, "id", json_integer(++w->id));
    if (!w->problem[0] && compare_wire_send(w, request) && !*w->stop)
        compare_wire_break(w, WIRE_GONE);
    json_decref(request);
    json_t *answer = receive_answer(w, timeout_ms);
    const char *error = json_string_value(json_object_get(answer, "error"));
    if (answer && !error)
        return answer;
    plx_fail(err, -EIO, "%.200s", error ? error : w->problem[0] ? w->problem : "interrupted");
    make_printable(err->text); /* the last character may be cut off in its middle */
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
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        compare_wire_break(w, WIRE_GONE);
    return w->problem[0];
}
