/* SPDX-License-Identifier: BSD-3-Clause */
/* Standard error as the command writes it: nothing is waited for, and what is lost is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"

enum { FEW = 400, MANY = 20000, THREADS = 4 }; /* lines: the queue has room for a few */

static int ours = -1, pipe_fds[2]; /* the test's standard error, and the pipe in its place */

static int open_pipe(void **state)
{
    (void)state;
    ours = dup(STDERR_FILENO);
    return pipe(pipe_fds) || dup2(pipe_fds[1], STDERR_FILENO) < 0 || cli_log_start() ? -1 : 0;
}

static int close_pipe(void **state)
{
    (void)state;
    dup2(ours, STDERR_FILENO);
    close(ours);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return 0;
}

int cli_fail(int status, const char *fmt, ...)
{
    (void)fmt;
    return status;
}

/* What was read: the numbers of say_lines() must ascend. */
struct seen {
    unsigned lines, told, notes;
    int first, last;
    bool ended;
};

static void take_line(struct seen *s, const char *line)
{
    unsigned lost;
    int number;
    if (sscanf(line, "pollux: warning: %u lines are left out here", &lost) == 1) {
        s->told += lost;
        s->notes++;
    } else if (strcmp(line, "end") == 0) {
        s->ended = true;
    } else {
        assert_int_equal(sscanf(line, "line %d of some length, as lines of a log have it", &number), 1);
        assert_true(number > s->last);
        s->first = s->last < 0 ? number : s->first;
        s->last = number;
        s->lines++;
    }
}

/* Reads up to the line "end", or until `all` lines have been read or told of. */
static struct seen read_lines(unsigned all)
{
    static char text[1 << 20];
    struct seen s = {.last = -1};
    size_t n = 0;
    while (!s.ended && s.lines + s.told < all) {
        ssize_t got = read(pipe_fds[0], text + n, sizeof text - 1 - n);
        assert_true(got > 0);
        n += (size_t)got;
        text[n] = 0;
        char *line = text;
        for (char *end; (end = strchr(line, '\n')); line = end + 1) {
            *end = 0;
            take_line(&s, line);
        }
        n -= (size_t)(line - text);
        memmove(text, line, n);
    }
    return s;
}

static void say_lines(int from, int to)
{
    for (int i = from; i < to; i++)
        cli_say("line %d of some length, as lines of a log have it\n", i);
}

static void lines_come_as_they_were_said(void **state)
{
    (void)state;
    say_lines(0, FEW);
    cli_say("end\n");
    struct seen s = read_lines(MANY);
    assert_int_equal(s.lines, FEW);
    assert_int_equal(s.notes, 0);
    cli_log_stop();
}

static void what_nobody_reads_is_dropped_and_told_when_somebody_does(void **state)
{
    (void)state;
    say_lines(0, MANY); /* this ends, although nobody reads */
    struct seen s = read_lines(MANY);
    assert_int_equal(s.lines + s.told, MANY);
    assert_int_equal(s.first, 0);
    assert_true(s.notes > 0 && s.notes < 10);
    say_lines(MANY, MANY + 3); /* and now all is well again */
    cli_say("end\n");
    s = read_lines(MANY);
    assert_int_equal(s.lines, 3);
    assert_int_equal(s.told, 0);
    cli_log_stop();
}

static void a_line_that_is_too_long_is_cut_and_ends(void **state)
{
    static char name[2 * PIPE_BUF];
    (void)state;
    memset(name, 'x', sizeof name - 1);
    cli_say("line 1 of some length, as lines of a log have it%s\n", name);
    say_lines(2, 3);
    struct seen s = read_lines(2);
    assert_int_equal(s.lines, 2);
    cli_log_stop();
}

static void standard_error_is_left_as_it_is(void **state)
{
    (void)state;
    cli_say("line 1 of some length, as lines of a log have it\n");
    read_lines(1);
    assert_int_equal(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
    cli_log_stop();
}

static void others_may_have_made_it_non_blocking(void **state)
{
    (void)state;
    assert_int_equal(fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK), 0);
    fcntl(STDERR_FILENO, F_SETPIPE_SZ, 4096);
    say_lines(0, FEW);
    struct seen s = read_lines(FEW);
    assert_int_equal(s.lines, FEW);
    cli_log_stop();
}

static void a_reader_that_is_gone_ends_nobody_and_the_next_one_is_told(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_DFL);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    say_lines(0, FEW);
    usleep(100000); /* for the thread to try; should it come too late, the lines are not lost */
    assert_int_equal(pipe(pipe_fds), 0);
    dup2(pipe_fds[1], STDERR_FILENO);
    say_lines(FEW, FEW + 1);
    struct seen s = read_lines(FEW + 1);
    assert_int_equal(s.lines + s.told, FEW + 1);
    cli_log_stop();
}

static void *say_from_thread(void *arg)
{
    cli_log(NULL, PLX_LOG_INFO, arg);
    for (int i = 0; i < MANY; i++)
        cli_say("%s\n", (const char *)arg);
    return NULL;
}

static void lines_of_several_threads_stay_whole(void **state)
{
    static char names[THREADS][2000];
    pthread_t threads[THREADS];
    char line[4096];
    unsigned lines = 0, lost;
    (void)state;
    for (int i = 0; i < THREADS; i++) {
        memset(names[i], 'a' + i, sizeof names[i] - 1);
        assert_int_equal(pthread_create(&threads[i], NULL, say_from_thread, names[i]), 0);
    }
    FILE *in = fdopen(dup(pipe_fds[0]), "r");
    while (lines < THREADS * (MANY + 1) && fgets(line, sizeof line, in)) {
        const char *text = strncmp(line, "pollux: info: ", 14) == 0 ? line + 14 : line;
        if (sscanf(line, "pollux: warning: %u lines", &lost) == 1) {
            lines += lost;
            continue;
        }
        assert_int_equal(strspn(text, (char[]){*text, 0}), sizeof names[0] - 1);
        lines++;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    fclose(in);
    cli_log_stop();
}

static void the_end_waits_for_what_is_queued(void **state)
{
    (void)state;
    say_lines(0, FEW);
    cli_log_stop();
    int n;
    assert_int_equal(ioctl(pipe_fds[0], FIONREAD, &n), 0);
    assert_true(n > FEW * (int)strlen("line 0 of some length, as lines of a log have it"));
}

static void the_end_does_not_wait_for_a_reader_that_never_reads(void **state)
{
    (void)state;
    say_lines(0, MANY);
    cli_log_stop();
    struct seen s = read_lines(MANY); /* for the thread to be through with them */
    assert_int_equal(s.lines + s.told, MANY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_come_as_they_were_said, open_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(what_nobody_reads_is_dropped_and_told_when_somebody_does, open_pipe,
                                        close_pipe),
        cmocka_unit_test_setup_teardown(a_line_that_is_too_long_is_cut_and_ends, open_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(standard_error_is_left_as_it_is, open_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(others_may_have_made_it_non_blocking, open_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(a_reader_that_is_gone_ends_nobody_and_the_next_one_is_told, open_pipe,
                                        close_pipe),
        cmocka_unit_test_setup_teardown(lines_of_several_threads_stay_whole, open_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(the_end_waits_for_what_is_queued, open_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(the_end_does_not_wait_for_a_reader_that_never_reads, open_pipe, close_pipe),
    };
    alarm(60); /* lines that are neither written nor told are waited for */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
