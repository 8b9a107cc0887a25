/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checks programs of a few threads under the memory model of C11, as repaired in RC11 (Lahav et al., PLDI 2017), by
 * looking at every execution that it allows: stores that are seen late, in another order than they were made, or by
 * one thread and not by another. What x86 does is among these, and what Arm does but for one thing: a load that waits
 * while a later store of the same thread, which depends on nothing that was loaded, is seen already (load buffering),
 * twice in a circle.
 *
 * The code under test is the library's own: it is compiled with -fsanitize=thread, whose calls at each access
 * (__tsan_atomic32_load and so on) end here and not in that sanitizer. So the orders are those in the source. Whatever
 * is not on the stack is shared; a plain access that is not ordered against another thread's is an error.
 *
 * A thread is a function. It is run again and again, up to the first access that has not been decided yet, so it must
 * do the same whenever it reads the same: no memory of malloc(), no libc that writes to what is shared.
 *
 * And each order that the code asks for is put to the test: model_suite() weakens one after the other, by one step,
 * and with each of them some program has to go wrong. An order that can be weaker is a finding as one that is too weak
 * is. Those of one operation on one name are one order: they are weakened together.
 */
#ifndef PLX_MODEL_H
#define PLX_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MODEL_THREADS = 4 };

struct model_program {
    const char *name;
    void (*begin)(void);                 /* shared memory as it is at first */
    void (*thread[MODEL_THREADS])(void); /* NULL from the first on that there is not */
    void (*end)(void);                   /* when all threads have ended, and ordered after them; or NULL */
    void (*life)(void);                  /* in place of threads: see model_survives() */
    unsigned ends;                       /* with it, how often end() follows; 0: once */
    bool may_block;                      /* a thread may wait for ever */
    unsigned peers;                      /* threads (bits) that are not our code: their orders are left alone */
};

/* What is at an address, for messages and to tell orders apart; called in begin(). Several may have one name. */
void model_name(const volatile void *at, size_t bytes, const char *name);

/*
 * Plain accesses of this memory are of so many bytes each, larger ones being several: where one side writes a struct
 * as a whole of which the other reads a field. Called in begin().
 */
void model_cells(const volatile void *at, size_t bytes, unsigned cell);

/* An execution in which this is false is an error. */
void model_hold(bool is_true, const char *what);
#define MODEL_HOLD(x) model_hold(x, #x)

/* The thread waits: what it read last, it reads again when there is something else. */
void model_spin(void);

/*
 * Memory that outlives the process; called in begin(). life() may end after any of its stores there, made in any order
 * that the source allows, and then end() begins, with what there is, which may end likewise before it is called again.
 */
void model_survives(volatile void *at, size_t bytes);

/* How many executions the last program had. */
unsigned long model_executions(void);

/* Runs one program. @return NULL, or what went wrong */
const char *model_run(const struct model_program *p);

/*
 * Runs all, and again with each order weakened. `enough` lists what is let pass: "NAME OPERATION ORDER" as messages
 * have it, ended by NULL; each needs a reason beside it. @return how many findings, which were printed
 */
int model_suite(const char *name, const struct model_program *const *programs, const char *const *enough);

/*
 * An eventfd: telling adds to a count, hearing waits until there is one, and takes it. Whoever hears, knows what was
 * before.
 */
void model_tell(uint32_t *eventfd);
void model_hear(uint32_t *eventfd);

/* Mutual exclusion that is not under test: for pthread_mutex_lock(). */
void model_lock(uint32_t *lock);
void model_unlock(uint32_t *lock);

#endif
