/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Logging for the library's own rooms; where lines go is set by plx_log_set(). A format that begins with "%s: " says
 * whom the line is about: a peer, a disk. Each call logs so many lines about each of those in an interval; more are
 * counted, and the count is told when the interval is over. From any thread; none waits for another.
 */
#ifndef PLX_BASE_LOG_H
#define PLX_BASE_LOG_H

#include <pollux/base.h>
#include <stdatomic.h>

enum {
    PLX_LOG_LINES = 10, /* in an interval: of one call, about one peer */
    PLX_LOG_PEERS = 8,  /* of one call that are told apart */
    PLX_LOG_SAMPLE = 240,
};
#define PLX_LOG_INTERVAL_NS UINT64_C(5000000000)

/* What a call has to say about one peer. */
struct plx_log_peer {
    _Atomic uint64_t who; /* 0 for nobody yet */
    atomic_uint lines;
    atomic_bool sampled; /* level and sample are there to be read */
    enum plx_log_level level;
    char sample[PLX_LOG_SAMPLE]; /* the first line that was left out */
};

/* A call in the source that logs. */
struct plx_log_site {
    struct plx_log_site *next;
    atomic_bool listed;
    struct plx_log_peer peers[PLX_LOG_PEERS + 1]; /* all further peers share the last one */
};

void plx_log(struct plx_log_site *site, enum plx_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Each line, however many there are: what operators did. Peers must not be able to cause it. */
void plx_log_each(enum plx_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define PLX_LOG(...)                                                                                                   \
    do {                                                                                                               \
        static struct plx_log_site site_;                                                                              \
        plx_log(&site_, __VA_ARGS__);                                                                                  \
    } while (0)
#define plx_error(...) PLX_LOG(PLX_LOG_ERROR, __VA_ARGS__)
#define plx_warn(...) PLX_LOG(PLX_LOG_WARN, __VA_ARGS__)
#define plx_info(...) PLX_LOG(PLX_LOG_INFO, __VA_ARGS__)
#define plx_debug(...) PLX_LOG(PLX_LOG_DEBUG, __VA_ARGS__)

/* Says what time it is, and tells what is due. Of those who own a clock: a reactor calls it whenever it has waited. */
void plx_log_tick(uint64_t now);

/* When there will be a count to tell; 0 for never. */
uint64_t plx_log_due(void);

#endif
