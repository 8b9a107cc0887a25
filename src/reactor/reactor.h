/* SPDX-License-Identifier: BSD-3-Clause */
/* The reactor's own state; included by the files of this room alone. */
#ifndef PLX_REACTOR_REACTOR_H
#define PLX_REACTOR_REACTOR_H

#include <pollux/reactor.h>

#include "base/util.h"
#include "reactor/clock.h"
#include "reactor/inbox.h"
#include "reactor/rhythm.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>

struct plx_aio_engine;

enum { PLX_FD_EVENTS = 32 }; /* descriptors taken from the kernel at once */

/* A buddy allocator over one region; see buffer.c. */
struct plx_buf_pool {
    uint8_t *base;
    size_t bytes;
    size_t first; /* bytes that devices are told of as it is made */
    size_t free_bytes;
    bool shared;        /* made by plx_shared_make() */
    bool told, telling; /* of the rest, if they are to be at all; by the teller */
    pthread_t teller;
    int32_t blocks;       /* of PLX_BUF_MIN bytes */
    int32_t used;         /* so many have been in use */
    unsigned max_order;   /* the largest buffer is PLX_BUF_MIN << max_order */
    int32_t *free_head;   /* per order: first free block, or -1 */
    int32_t *next, *prev; /* links of free blocks, by block number */
    uint8_t *state;       /* by block number: order of the free or used block that begins here, and a bit for free */
};

/* How plx_reactor_run() passes the time between two bursts of work: see idle(). Times are in ns. */
struct plx_spin {
    uint64_t window; /* how long to spin at present */
    uint64_t max;
    uint64_t idle_since; /* time of the first empty round, 0 while busy */
    bool woken;          /* the present round is the first after a sleep, */
    uint64_t slept;      /* which began then */
};

/* A context of aio(7), 0 for none; from the first use on. See eventfd.c. */
struct plx_teller {
    unsigned long context;
    bool tried;
};

struct plx_reactor {
    uint64_t now;
    struct plx_source *sources;
    struct plx_timer *timers; /* root of a pairing heap, the earliest */
    struct plx_buf_pool buf;
    struct plx_spin spin;
    struct plx_rhythm rhythm;
    struct plx_aio_engine *aio; /* made on first use */
    bool aio_threads;           /* plx_aio_force_threads() */
    struct plx_teller teller;
    unsigned threaded;           /* operations that threads of the kernel are doing for it */
    struct plx_source **polling; /* where the round is in the list of sources: removal keeps it right */
    enum plx_poll_mode mode;
    int core;
    int epoll_fd;
    int wake_fd;
    struct {
        uint32_t us;              /* for so long the kernel may poll a NIC's queue; 0: never, or it cannot */
        _Atomic unsigned sockets; /* whose queues those are; both are its own, and relaxed */
        _Atomic uint32_t now;     /* what the kernel was told last */
    } napi;
    uint64_t fds_checked;
    struct epoll_event events[PLX_FD_EVENTS]; /* being handled: removing a watch takes it out of here */
    int nevents;
    bool in_round; /* now is fresh */
    bool was_busy; /* the round before it */
    uint64_t born;
    _Atomic uint64_t busy_ns;
    _Atomic int tid;    /* of whoever runs it */
    bool sourced;       /* the latest round had work of sources, not of timers and messages alone */
    bool armed;         /* wake-ups are enabled */
    bool pinned;        /* to its core, by plx_reactor_run() */
    cpu_set_t unpinned; /* where its thread might run before */
#ifdef PLX_CHECK_OWNER
    _Atomic(const void *) owner; /* the thread that runs or polls it at present, or NULL */
#endif
    _Atomic uint64_t rounds, busy_rounds, sleeps;

    struct plx_inbox inbox; /* which others write, on lines of its own */
    _Atomic bool stop;      /* relaxed: who sets it writes wake_fd, which orders the two */
};
PLX_IS_APART(struct plx_reactor);

int plx_messages_run(struct plx_reactor *r);
bool plx_messages_waiting(struct plx_reactor *r);

int plx_timers_run(struct plx_reactor *r);

/* About to sleep, with such sockets. */
void plx_napi_sleep(struct plx_reactor *r);

void plx_teller_destroy(struct plx_reactor *r);

/* shared: with other processes; told: so are devices, of what is not shared. */
int plx_buf_pool_init(struct plx_buf_pool *p, size_t bytes, size_t largest, bool shared, bool told);
void plx_buf_pool_destroy(struct plx_buf_pool *p);

#endif
