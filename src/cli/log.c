/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Standard error for those who must not wait for it: text goes into a pipe of our own, and a thread writes it out from
 * there. What the pipe cannot take is dropped and counted, and told once standard error has taken what was before it.
 * (Were standard error itself made non-blocking, it would be so for every program that has the same terminal or pipe.)
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    QUEUE = 64 << 10, /* what a pipe holds */
    LAST_MS = 1000,   /* at the end: for what is still queued */
};

static pthread_t thread;
static int queue[2];
static atomic_int sink = -1; /* the pipe's end to write to, once somebody reads */
static int dropped, drained; /* eventfds: so many lines were dropped; the thread is through */

/* @return the lines that could not be written */
static unsigned write_out(const char *text, size_t n)
{
    struct pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT};
    unsigned lines = 0;
    while (n) {
        ssize_t done = write(STDERR_FILENO, text, n);
        if (done < 0 && errno == EAGAIN) { /* somebody who shares it made it non-blocking */
            poll(&room, 1, -1);
        } else if (done < 0 && errno != EINTR) {
            for (; n; n--)
                lines += *text++ == '\n';
        } else if (done > 0) {
            text += done;
            n -= (size_t)done;
        }
    }
    return lines;
}

static void log_count(int eventfd, uint64_t n)
{
    ssize_t ignored = write(eventfd, &n, sizeof n);
    (void)ignored;
}

static void *write_queue(void *arg)
{
    static char text[QUEUE];
    char note[128];
    struct pollfd fds[] = {{.fd = queue[0], .events = POLLIN}, {.fd = dropped, .events = POLLIN}};
    uint64_t lost = 0, n;
    (void)arg;
    for (bool last = false; !last;) {
        poll(fds, 2, -1);
        ssize_t size = fds[0].revents ? read(queue[0], text, sizeof text) : 0;
        size_t len = size > 0 ? strnlen(text, (size_t)size) : 0;
        last = size > 0 && len < (size_t)size; /* a zero was queued as the last thing */
        if (read(dropped, &n, sizeof n) == sizeof n)
            lost += n; /* they found the queue full of what has been read now */
        lost += write_out(text, len);
        int told =
            snprintf(note, sizeof note,
                     "pollux: warning: %" PRIu64 " lines are left out here: standard error did not take them\n", lost);
        if (lost && !write_out(note, (size_t)told))
            lost = 0;
    }
    log_count(drained, 1);
    return NULL;
}

int cli_log_start(void)
{
    sigset_t all, before;
    if (pipe2(queue, O_CLOEXEC) < 0 || fcntl(queue[1], F_SETFL, O_NONBLOCK) < 0)
        return cli_fail(EXIT_RUNTIME, "cannot make a pipe: %s", strerror(errno));
    dropped = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    drained = eventfd(0, EFD_CLOEXEC);
    sigfillset(&all); /* they are others' to take */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int ret = pthread_create(&thread, NULL, write_queue, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (ret)
        return cli_fail(EXIT_RUNTIME, "cannot make a thread: %s", strerror(ret));
    sink = queue[1];
    return EXIT_OK;
}

void cli_log_stop(void)
{
    struct pollfd room = {.fd = sink, .events = POLLOUT}, end = {.fd = drained, .events = POLLIN};
    if (sink >= 0 && poll(&room, 1, LAST_MS) == 1 && write(sink, "", 1) == 1 && poll(&end, 1, LAST_MS) == 1)
        pthread_join(thread, NULL);
}

void cli_say(const char *fmt, ...)
{
    char text[PIPE_BUF]; /* up to which a pipe takes all or nothing */
    va_list ap;
    va_start(ap, fmt);
    int n = sink < 0 ? vfprintf(stderr, fmt, ap) : vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n >= PIPE_BUF)
        text[PIPE_BUF - 2] = '\n';
    if (sink >= 0 && write(sink, text, n < PIPE_BUF ? (size_t)n : PIPE_BUF - 1) < 0)
        log_count(dropped, 1);
}

void cli_log(void *arg, enum plx_log_level level, const char *line)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    (void)arg;
    cli_say("pollux: %s: %s\n", names[level], line);
}
