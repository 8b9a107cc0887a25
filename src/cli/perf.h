/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `pollux perf`: what its files share.
 *
 * A worker is a reactor with its thread. A job is one queue pair: a channel to one disk, on one worker, with its share
 * of the requests in flight (slots). perf.c makes and runs them, perf_job.c is the path of a request, perf_verify.c the
 * data, perf_report.c says what came of it.
 */
#ifndef PLX_CLI_PERF_H
#define PLX_CLI_PERF_H

#include "cli.h"
#include "compare/histogram.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    PERF_MAX_DISKS = 64,
    PERF_MAX_CORES = 128,
    PERF_MAX_QPAIRS = 1024,
    PERF_MAX_REMOTE = 128, /* of them a core, to a remote disk */
    PERF_MAX_DEPTH = 16384,
    PERF_MAX_SIZE = 16 << 20,
    PERF_MAX_URL = 8192, /* longer ones are refused */
    PERF_PEERS = 16,     /* processes at the other end of our connections */
};

/* What was asked for on the command line; texts are those of argv. */
struct perf_options {
    const char *disks[PERF_MAX_DISKS];
    unsigned ndisks;
    const char *workload; /* as it was named */
    bool random;
    uint32_t read_percent; /* of all requests */
    uint32_t depth;        /* a disk, over all its queue pairs */
    uint32_t size;
    uint32_t qpairs; /* a disk */
    uint64_t time_ns;
    uint64_t count; /* requests a disk; 0: until the time is over */
    uint64_t rate;  /* requests a second and disk; 0: as fast as they complete */
    bool verify;
    const char *json; /* "-" for standard output */
    enum plx_poll_mode poll;
    int cores[PERF_MAX_CORES];
    int ncores; /* 0: one, chosen by us */
    int placed; /* see cli_parse_cores() */
    bool help;
};

/* @return EXIT_OK, or EXIT_USAGE after having said what is wrong */
int perf_parse(int argc, char **argv, struct perf_options *o);
void perf_help(void);

struct perf_job;
struct perf_worker;

/* A request of ours. */
struct perf_slot {
    struct perf_job *job;
    uint64_t start; /* when it was submitted, or should have been: see --rate */
    uint64_t unit;  /* with --verify: which part of the job's it is on */
    void *data[2];  /* what a read, what a write uses */
    struct iovec iov;
    uint32_t generation; /* with --verify: what a write makes of it */
    struct plx_bdev_req req;
};

enum perf_phase {
    PERF_PROBING,  /* its first read is under way */
    PERF_RUNNING,  /* measuring */
    PERF_DRAINING, /* the time is over; what is in flight still counts for latency */
    PERF_READBACK, /* with --verify: everything written is read once more */
    PERF_OVER,
};

/* With --verify: what the job's part of the disk should hold. */
struct perf_verify {
    uint32_t *
        generations; /* by unit: which write of this run was the last, 0 for none; and a bit while a request is on it */
    uint32_t writes; /* the latest generation */
    uint32_t run;    /* tells this run's patterns from those of earlier ones */
    bool reads_only; /* so that patterns of earlier runs are all there is to judge by */
    uint64_t checked; /* units that were read and right */
    uint64_t unknown; /* units that were read, but not written by us, and hold nothing to judge by */
    uint64_t wrong;
    struct plx_error first; /* the first wrong one, in words */
};

struct perf_job {
    struct perf_worker *worker;
    unsigned disk;
    struct plx_bdev_channel *ch;
    enum perf_phase phase;

    /* What to do. */
    uint64_t random;
    bool randomly;
    uint32_t read_below; /* a read when 16 random bits are below this */
    bool apart;          /* reads do not go where writes take their data: that would move what is on the disk about */
    uint64_t first_lba;  /* of the part of the disk that it works on */
    uint64_t units;      /* transfers that this part holds */
    uint32_t unit_blocks;
    uint32_t size;
    uint64_t cursor;  /* sequential: the next unit */
    uint64_t left;    /* requests still to be submitted */
    uint64_t end;     /* when to stop, in the reactor's time */
    uint64_t time_ns; /* how long to run */

    /* --rate: by schedule, in 2^-16 ns so that no rate drifts. */
    uint64_t interval, due;  /* due counts from the start */
    struct perf_slot **free; /* slots that wait for their time */
    uint32_t nfree;

    struct perf_verify *verify; /* or NULL */
    struct plx_timer timer;     /* the end, or the next request that is due */

    /* What came of it. */
    uint32_t in_flight;
    uint64_t started, ended; /* the window that `done` was counted in */
    uint64_t errors;
    uint16_t first_error;
    uint64_t late;                  /* --rate: requests that were due and never sent */
    uint64_t seen;                  /* when one completed last */
    uint64_t stalls, stall_longest; /* how often, and for how long, nothing completed though something was in flight */
    struct histogram latency;
    /* For the line a second, of any thread; written by the worker. */
    _Atomic uint64_t done, latency_sum;

    struct perf_slot **slots; /* all of them */
    uint32_t nslots;
    void *slot_memory, *buffers;
    size_t buffer_bytes;
    bool shared; /* buffers are of plx_shared_alloc() */
};

enum perf_order { PERF_PROBE, PERF_START, PERF_STOP, PERF_ABORT, PERF_CLOSE, PERF_ORDERS };

struct perf_worker {
    struct plx_reactor *reactor;
    pthread_t thread;
    bool running; /* has a thread */
    struct plx_source source;
    struct perf_slot **ready, **spare; /* slots whose requests have completed */
    uint32_t nready;
    struct perf_job **jobs;
    unsigned njobs;
    unsigned busy; /* jobs that are not through with what they do at present */
    bool paced, sleeps;
    struct plx_msg orders[PERF_ORDERS]; /* each is given at most once */
    int notify;                         /* an eventfd: every job is through with what it was told to do */
};

/* perf_job.c. All but open and close on the worker's reactor, or while it does not run. */

/*
 * Share `index` of a disk's work: memory and channel. worker and disk are set. @return EXIT_OK, or another status after
 * having said what is wrong
 */
int perf_job_open(struct perf_job *job, const struct perf_options *o, struct plx_bdev *bdev, uint32_t index);
void perf_job_close(struct perf_job *job);
/* Memory for the slots of all jobs. @return 0 or -ENOMEM */
int perf_worker_open(struct perf_worker *w);
void perf_worker_close(struct perf_worker *w);
/* One read on every job, so that whatever connects has connected. Notifies when all have ended. */
void perf_probe(struct perf_worker *w);
/* Begins to measure. Notifies when all jobs are over. */
void perf_start(struct perf_worker *w);
/* Ends measuring now. */
void perf_stop(struct perf_worker *w);
/* Asks for all that is still in flight to end. */
void perf_abort(struct perf_worker *w);
/* What is still in flight is not waited for any longer. */
void perf_give_up(struct perf_job *job, uint64_t now);

/* perf_verify.c */
struct perf_verify *perf_verify_new(uint64_t units, uint32_t run, bool reads_only);
void perf_verify_free(struct perf_verify *v);
/*
 * A unit that no request is on, `unit` or one after it, which the slot's request now is on; fills the data of a write.
 */
uint64_t perf_verify_begin(struct perf_job *job, struct perf_slot *s, uint64_t unit);
/* The slot's request has ended: checks the data of a read. */
void perf_verify_end(struct perf_job *job, struct perf_slot *s);
/* The next unit from *at on that was written in this run. @return false when there is none */
bool perf_verify_written(const struct perf_job *job, uint64_t *at);

/* perf_cpu.c: CPU time of processes, in seconds */
struct perf_peer {
    int pid;
    char name[32];
    double cpu; /* at the first look; then what was used since */
};
/* The processes on this machine that our TCP connections lead to. @return how many */
unsigned perf_peers(struct perf_peer *peers, unsigned max);
/* Has their `cpu` tell what they used since; those that are gone are left out. */
void perf_peers_end(struct perf_peer *peers, unsigned *n);
double perf_cpu_own(void);

/* perf_report.c */
struct perf_result {
    const struct perf_options *o;
    struct plx_bdev *const *disks;
    struct perf_job *const *jobs;
    unsigned njobs;
    double seconds; /* the longest window of any job */
    double wall;    /* that the CPU times below were used in */
    double own_cpu;
    struct perf_peer peers[PERF_PEERS];
    unsigned npeers;
};
/* What jobs did together. */
struct perf_summary {
    double iops, mib_s;
    uint64_t requests, errors, late;
    uint64_t stalls, stall_longest;
    uint16_t first_error;
    uint64_t checked, unknown, wrong;
    const char *first_wrong;
    struct histogram latency;
};
/* Those of one disk, by its number, or -1 for all. */
void perf_summarize(const struct perf_result *r, int disk, struct perf_summary *sum);
/*
 * Prints the results and writes the JSON. @return EXIT_OK, or EXIT_RUNTIME when that cannot be written or data or
 * requests were wrong
 */
int perf_report(const struct perf_result *r);

/* perf.c: a run, for others than the command itself. */
struct perf_watch {
    void (*begin)(void *arg); /* all is connected, and the first request that counts is about to be sent; or NULL */
    int (*report)(void *arg, const struct perf_result *r); /* what came of it. @return an exit status */
    void *arg;
    bool ticks; /* print a line each second */
};
/* Takes SIGINT, SIGTERM and SIGHUP for the process. @return an exit status */
int perf_execute(const struct perf_options *o, const struct perf_watch *watch);

#endif
