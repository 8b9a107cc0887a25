/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The one connection between two machines that measure together: JSON objects, a line each. Blocks, but ends early when
 * *stop is not 0. Who is at the other end is not trusted: a line has a limit, and what is no JSON object ends it.
 */
#ifndef PLX_COMPARE_WIRE_H
#define PLX_COMPARE_WIRE_H

#include <jansson.h>
#include <pollux/base.h>
#include <signal.h>

enum {
    COMPARE_WIRE_PORT = 4419,
    COMPARE_WIRE_ADDR = 64,
    COMPARE_KEY = 33,
    COMPARE_ANSWER_MS = 20000,
    COMPARE_START_MS = 200000, /* a target that starts fills its memory first */
};

struct compare_wire;

/* What only who was told it knows: 128 random bits as text. @return 0 or -ENOMEM */
int compare_wire_key(char key[COMPARE_KEY]);
/* In a time that does not tell where they differ. */
bool compare_wire_same_key(const char *key, const char *given);

/* @param text ADDR[:PORT]; @param bound what it listens on, as text. @return a descriptor or a negative errno value */
int compare_wire_listen(const char *text, char bound[COMPARE_WIRE_ADDR], struct plx_error *err);
/* @return NULL when stopped */
struct compare_wire *compare_wire_accept(int listener, const volatile sig_atomic_t *stop);
/* @return 0 or a negative errno value */
int compare_wire_connect(const char *text, const volatile sig_atomic_t *stop, struct compare_wire **out,
                         struct plx_error *err);
void compare_wire_close(struct compare_wire *w);
/* The addresses of both ends, without ports. */
const char *compare_wire_here(const struct compare_wire *w);
const char *compare_wire_there(const struct compare_wire *w);

/* @return 0 or a negative errno value */
int compare_wire_send(struct compare_wire *w, const json_t *object);
/*
 * A whole line, in so long. @return an object that is not deep, whose texts are short and may be printed; or NULL: the
 * other end is gone, was silent, or sent what is none; or it is stopped
 */
json_t *compare_wire_receive(struct compare_wire *w, int timeout_ms);

/*
 * A request with its answer; answers to requests that were given up on are passed over. Takes the request. @return the
 * answer, or NULL with err filled: by the other end's own words, if it sent some
 */
json_t *compare_wire_ask(struct compare_wire *w, json_t *request, int timeout_ms, struct plx_error *err);

/* Nothing is asked or received any more. The first reason counts. */
void compare_wire_break(struct compare_wire *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Why nothing is, as a sentence; NULL: it works, or w is NULL. */
const char *compare_wire_problem(const struct compare_wire *w);
/* Looks whether the other end has closed it. @return whether it is broken */
bool compare_wire_gone(struct compare_wire *w);

/* After another process has asked on this connection: what it asked is not taken for what we will ask. */
void compare_wire_apart(struct compare_wire *w);

#endif
