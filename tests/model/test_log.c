/* SPDX-License-Identifier: BSD-3-Clause */
/* Lines that are left out while others log and tell: each sample is told whole, and none is forgotten. */
#include "model.h"

/* One peer is told apart, which are enough, and as many as the model has room for. */
#define PLX_LOG_PEERS PLX_LOG_PEERS_THAT_ARE
#include "base/log.h"
#undef PLX_LOG_PEERS
#define PLX_LOG_PEERS 1

#include <stdio.h>
#include <string.h>

/* Texts are two characters: what a line says, and its end. */
static void write_text(char *to);
static void copy_text(char *to, const char *from);
#define vsnprintf(to, size, fmt, ap) ((void)(size), (void)(fmt), write_text(to))
#define snprintf(to, ...) write_text(to)
#define memcpy(to, from, size) copy_text(to, from)
#include "base/log.c"
#undef memcpy
#undef snprintf
#undef vsnprintf

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

#define LATER (PLX_LOG_INTERVAL_NS + 1)

static struct plx_log_site call;

static void write_text(char *to)
{
    to[0] = 'x';
    to[1] = 0;
}

static void copy_text(char *to, const char *from)
{
    MODEL_HOLD(from[0] == 'x' && !from[1]);
    write_text(to);
}

static void count_told(void *arg, enum plx_log_level level, const char *line)
{
    (void)arg, (void)level, (void)line;
}

/* The call has said all that it may. */
static void begin(void)
{
    memset(&call, 0, sizeof call);
    sites = NULL;
    log_fn = count_told;
    log_level = PLX_LOG_WARN;
    log_now = interval_end = 0;
    left_out = telling = false;
    call.peers[0].lines = PLX_LOG_LINES;
    call.peers[0].who = peer_hash("", (va_list){0});
    for (unsigned i = 0; i <= PLX_LOG_PEERS; i++) { /* the last one for all further peers */
        struct plx_log_peer *p = &call.peers[i];
        model_name(&p->lines, sizeof p->lines, "lines");
        model_name(&p->sampled, sizeof p->sampled, "sampled");
        model_name(&p->sample, sizeof p->sample, "sample");
    }
    model_name(&call.next, sizeof call.next, "next");
    interval_end = LATER; /* whoever logs tells nothing */
    model_name(&sites, sizeof sites, "sites");
    model_name(&left_out, sizeof left_out, "left out");
    model_name(&telling, sizeof telling, "telling");
}

static void log_line(void)
{
    plx_log(&call, PLX_LOG_WARN, "x");
}

/* A reactor that has waited. */
static void tell(void)
{
    plx_log_tick(LATER);
}

static void tell_twice(void)
{
    plx_log_tick(LATER);
    plx_log_tick(2 * LATER + 1);
}

/* Whatever was left out, and is not told, will be: the flag says so, and it is found from there. */
static void nothing_is_forgotten(void)
{
    MODEL_HOLD(!call.peers[0].sampled || (left_out && sites == &call));
}

static const struct model_program one = {
    .name = "one logs", .begin = begin, .thread = {log_line, tell_twice}, .end = nothing_is_forgotten};
static const struct model_program two = {
    .name = "two log", .begin = begin, .thread = {log_line, log_line, tell}, .end = nothing_is_forgotten};

static void test_samples_are_told_whole_and_none_is_forgotten(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&one, &two, NULL};
    assert_int_equal(model_suite("the log", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_samples_are_told_whole_and_none_is_forgotten)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
