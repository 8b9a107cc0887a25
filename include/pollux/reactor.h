/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file The reactor: the event loop of one core.  A reactor polls its sources while there is work, and sleeps in the
 * kernel when there is none. Everything that is added to a reactor belongs to it: unless a comment says otherwise a
 * function here is called on the thread that runs (or polls) the reactor, or before it first runs. The one way in from
 * another thread is plx_reactor_send().  The library makes no thread to run one. A program gives a reactor a thread of
 * its own with plx_reactor_run(), or drives it from an event loop that it already has: wait until plx_reactor_fd() is
 * readable or plx_reactor_timeout() has passed, call plx_reactor_poll() until it returns 0, call plx_reactor_arm(), and
 * wait again if that returned 0. Disks may make a reactor worker threads, for what blocks.
 */
#ifndef POLLUX_REACTOR_H
#define POLLUX_REACTOR_H

#include <pollux/base.h>

#ifdef __cplusplus
extern "C" {
#endif

struct plx_reactor;

enum plx_poll_mode {
    PLX_POLL_ADAPTIVE, /**< spin while that pays, then sleep */
    PLX_POLL_BUSY,     /**< never sleep */
    PLX_POLL_SLEEP,    /**< sleep as soon as there is nothing to do */
};

struct plx_reactor_opts {
    int core; /**< plx_reactor_run() pins its thread to it, and waits for it as little as it can; -1 for none */
    enum plx_poll_mode mode; /**< what to do when idle */
    uint32_t spin_us;        /**< adaptive: the longest time to spin before sleeping; 0 for the default of 50 */
    size_t
        buffer_bytes; /**< size of the buffer pool; 0 for the default of 16 MiB. Memory is used only as it is needed. */
    size_t buffer_max; /**< the largest single buffer; 0 for the default of 1 MiB */
    bool shared;       /**< buffers are in memory that other processes can be given: see plx_shared_alloc() */
    /**
     * adaptive: how long the kernel polls a NIC's queue before it has the reactor sleep, while loads come thick, where
     * it can (Linux 6.9); 0 for the default of 50, or PLX_NIC_NOT_POLLED
     */
    uint32_t nic_us;
};
#define PLX_NIC_NOT_POLLED UINT32_MAX

/**
 * Makes a reactor. opts may be NULL for the defaults, unpinned.
 * @return 0, -ENOMEM, or -errno of what the kernel refused
 */
PLX_API int plx_reactor_create(struct plx_reactor **out, const struct plx_reactor_opts *opts);

/**
 * Ends a reactor that nobody runs any more. What was added to it must have been removed, but for sources that have a
 * destroy operation.
 */
PLX_API void plx_reactor_destroy(struct plx_reactor *r);

/** Runs the reactor on the calling thread, pinned as the options say, until plx_reactor_stop(). */
PLX_API void plx_reactor_run(struct plx_reactor *r);

/** Makes plx_reactor_run() return after its present round. Callable from any thread, and from a signal handler. */
PLX_API void plx_reactor_stop(struct plx_reactor *r);

/** One bounded round over messages, timers and sources. @return how much was done, 0 for nothing */
PLX_API int plx_reactor_poll(struct plx_reactor *r);

/** The descriptor that becomes readable when an armed reactor has work. */
PLX_API int plx_reactor_fd(const struct plx_reactor *r);

/** About to wait: enables every wake-up. @return 0 to wait, 1 when work slipped in: poll again */
PLX_API int plx_reactor_arm(struct plx_reactor *r);

/** Nanoseconds until the next timer is due: 0 when one is, -1 when there is none. */
PLX_API int64_t plx_reactor_timeout(struct plx_reactor *r);

/** Monotonic time in nanoseconds, as read once at the start of the present round. */
PLX_API uint64_t plx_reactor_now(const struct plx_reactor *r);

/** The same clock, read now: to measure with. From any thread; r may be NULL. */
PLX_API uint64_t plx_reactor_clock(const struct plx_reactor *r);

/** The core the reactor was made for, or -1. */
PLX_API int plx_reactor_core(const struct plx_reactor *r);

/** CPU-time bookkeeping for people: how often it slept, and how many rounds found work. Readable from any thread. */
struct plx_reactor_stats {
    uint64_t rounds;
    uint64_t busy_rounds;
    uint64_t sleeps;
    uint64_t busy_ns, idle_ns; /**< since it was made, in rounds that found work, and in others or asleep */
    int tid;                   /**< of the thread that runs it; 0 while plx_reactor_run() does not */
    unsigned nic_sockets;      /**< connections for which the kernel polls a NIC's queue while loads come thick, */
    uint32_t nic_us;           /**< and for how long at present */
};
PLX_API void plx_reactor_get_stats(const struct plx_reactor *r, struct plx_reactor_stats *out);

/* ---- messages: work for another reactor ---- */

/**
 * A message is memory of the sender's, who must leave it alone from sending it until fn is called; fn may reuse or free
 * it.
 */
struct plx_msg {
    struct plx_msg *next;
    void (*fn)(struct plx_msg *msg);
};

/** Has msg->fn called on r's thread, in the order sent by one thread. From any thread; never fails, never blocks. */
PLX_API void plx_reactor_send(struct plx_reactor *r, struct plx_msg *msg);

/* ---- sources: anything that can produce work ---- */

struct plx_source;

struct plx_source_ops {
    /** One bounded, non-blocking step. @return how much was done, 0 for nothing */
    int (*poll)(struct plx_source *s);
    /**
     * The reactor is about to sleep: make fd become readable when there is work. @return 1 if there already is, else 0
     */
    int (*arm)(struct plx_source *s);
    /** The reactor is awake again. */
    void (*disarm)(struct plx_source *s);
    /** The reactor ends and the source, which has just been removed, was still there. May be NULL. */
    void (*destroy)(struct plx_source *s);
};

/**
 * Embedded in what polls. ops and fd are set by its owner before plx_source_add(); arm and disarm may be NULL when fd
 * alone is enough.
 */
struct plx_source {
    const struct plx_source_ops *ops;
    int fd; /**< becomes readable when armed and there is work */
    struct plx_source *next;
};

/** Adds a source. @return 0, or -errno when its fd cannot be waited for */
PLX_API int plx_source_add(struct plx_reactor *r, struct plx_source *s);
/** Removes a source; allowed from within any callback, its own poll included. */
PLX_API void plx_source_remove(struct plx_reactor *r, struct plx_source *s);
/** The source that has these operations, or NULL: how a room finds what it keeps once a reactor. */
PLX_API struct plx_source *plx_source_find(struct plx_reactor *r, const struct plx_source_ops *ops);

/**
 * A descriptor that is looked at when the reactor would sleep, and now and then while it is busy: for listeners,
 * signals, pipes.
 */
struct plx_watch {
    int fd;
    void (*ready)(struct plx_watch *w);
};
PLX_API int plx_watch_add(struct plx_reactor *r, struct plx_watch *w);
PLX_API void plx_watch_remove(struct plx_reactor *r, struct plx_watch *w);

/* ---- timers ---- */

/** Embedded in what waits; zeroed before its first use, but for fn. */
struct plx_timer {
    void (*fn)(struct plx_timer *t);
    uint64_t due; /**< in plx_reactor_now() time; read-only */
    struct plx_timer *child, *sibling, *prev;
    bool set;
};

/** Calls t->fn once, no sooner than delay_ns from now. A timer that is already set is moved. */
PLX_API void plx_timer_set(struct plx_reactor *r, struct plx_timer *t, uint64_t delay_ns);
/** Takes a timer back; nothing happens when it is not set. */
PLX_API void plx_timer_cancel(struct plx_reactor *r, struct plx_timer *t);

/* ---- buffers: memory for data in flight, bounded ---- */

enum { PLX_BUF_MIN = 8192 }; /**< the smallest buffer; every buffer is aligned to this much */

/**
 * A buffer of at least size bytes, or NULL when the pool has none now. To be given back on the same reactor with the
 * same size.
 */
PLX_API void *plx_buf_get(struct plx_reactor *r, size_t size);
PLX_API void plx_buf_put(struct plx_reactor *r, void *buf, size_t size);
/** Free bytes of the pool. */
PLX_API size_t plx_buf_free_bytes(const struct plx_reactor *r);
/** All bytes of the pool. */
PLX_API size_t plx_buf_total_bytes(const struct plx_reactor *r);
/** The largest size that plx_buf_get() may be asked for. */
PLX_API size_t plx_buf_max_bytes(const struct plx_reactor *r);

/**
 * Memory that other processes can be given: those that disks are in (plx_bdev_info.shares_memory) read and write data
 * there, and it need not be copied on its way. Whole pages, zeroed, and used as they are touched. From any thread; no
 * disk may be given any of it again once it is freed.
 * @return NULL without memory
 */
PLX_API void *plx_shared_alloc(size_t bytes);
/** Frees all of what that returned. NULL is none. */
PLX_API void plx_shared_free(void *mem);

/**
 * Makes memory known in which requests will have their data: SSDs that this process drives read and write it there, and
 * it need not be copied on its way. It stays in physical memory while there are such; what is beyond the limit of that
 * (RLIMIT_MEMLOCK) is copied. Whole pages count. Buffers of reactors and plx_shared_alloc() are known. From any thread;
 * may block while memory is brought in.
 */
PLX_API void plx_memory_add(void *at, size_t bytes);
/** Before it is freed, and when no request has data there any more; what was not made known is none. */
PLX_API void plx_memory_remove(void *at);

/**
 * To be called by a program's handler of SIGBUS with si_addr: whether what was touched is something that others can
 * take away, a file that a virtual machine shares or the registers of an SSD. Then there is other memory in its place,
 * whose it was is told, and the handler returns; else it is a defect, and the program ends. Async-signal-safe.
 */
PLX_API bool plx_memory_fault(const void *at);

#ifdef __cplusplus
}
#endif
#endif
