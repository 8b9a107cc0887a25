/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux perf`: loads disks, and says how fast they are. */
#include "perf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    TICK_MS = 1000,
    GRACE_MS = 5000,   /* after Ctrl-C, for what is in flight to end; then it is aborted */
    ABORT_MS = 2000,   /* for that; then we go without it */
    OVERDUE_MS = 3000, /* after the time is over, for the same; then we say what we wait for */
};

struct perf {
    struct perf_options o;
    struct plx_bdev *disks[PERF_MAX_DISKS];
    unsigned nopen;
    struct perf_worker workers[PERF_MAX_CORES];
    unsigned nworkers;
    struct perf_job **jobs;
    unsigned njobs;
    int signals, notify;
    const struct perf_watch *watch;
    bool terminal;      /* say how it goes */
    uint64_t started;   /* when the workers were told to start */
    uint64_t next_tick; /* the next line */
    uint64_t overdue;   /* when to say that it is not over though the time is, 0 for never */
    uint64_t seen_at, seen_done, seen_ns;
    unsigned pressed;  /* how urgently we were asked to end */
    uint64_t deadline; /* then we become more urgent, 0 for never */
};

static uint64_t now_ns(void)
{
    return plx_reactor_clock(NULL);
}

/* ---- disks, workers, jobs ---- */

static int check_disk(const struct perf_options *o, const struct plx_bdev_info *info)
{
    if (o->size % info->block_size)
        return cli_fail(EXIT_USAGE, "--io-size %u: is no multiple of the %u byte blocks of %s", o->size,
                        info->block_size, info->name);
    if (info->read_only && o->read_percent < 100)
        return cli_fail(EXIT_USAGE, "%s is read-only: --workload %s would write", info->name, o->workload);
    if (o->verify && info->undefined_reads)
        return cli_fail(EXIT_USAGE, "--verify: %s does not keep what is written", info->name);
    return EXIT_OK;
}

/*
 * A remote disk has one channel a reactor, which is told how many queue pairs to spread its requests over. Others make
 * no difference between queue pairs.
 */
static int name_disk(const struct perf_options *o, const char *url, char *out, size_t size)
{
    uint32_t cores = o->ncores ? (uint32_t)o->ncores : 1, queues = (o->qpairs + cores - 1) / cores;
    bool remote = strncmp(url, "nvme+tcp:", 9) == 0;
    bool told = strstr(url, "queues=") != NULL;
    if (remote && queues > PERF_MAX_REMOTE && !told)
        return cli_fail(EXIT_USAGE, "--qpairs %u: a remote disk takes at most %d for each core", o->qpairs,
                        PERF_MAX_REMOTE);
    if (remote && queues > 1 && !told)
        snprintf(out, size, "%s%cqueues=%u", url, strchr(url, '?') ? '&' : '?', queues);
    else
        snprintf(out, size, "%s", url);
    return EXIT_OK;
}

/* A file that cannot be written to is said to be so; that it could be read instead, as opening it says, is no help. */
static int check_file(const struct perf_options *o, const char *url)
{
    char path[4096];
    if (o->read_percent == 100 || plx_bdev_path(url, path, sizeof path, NULL) <= 0 || access(path, W_OK) == 0 ||
        errno == ENOENT)
        return EXIT_OK;
    return cli_fail(cli_disk_status(-errno), "%s cannot be written to, as --workload %s would: %s", path, o->workload,
                    strerror(errno));
}

static int perf_open_disks(struct perf *p)
{
    struct plx_error err;
    char url[PERF_MAX_URL];
    while (p->nopen < p->o.ndisks) {
        int ret = name_disk(&p->o, p->o.disks[p->nopen], url, sizeof url);
        if (!ret)
            ret = check_file(&p->o, url);
        if (ret)
            return ret;
        ret = plx_bdev_open(url, &p->disks[p->nopen], &err);
        if (ret)
            return cli_fail(cli_disk_status(ret), "%s", err.text);
        ret = check_disk(&p->o, plx_bdev_info(p->disks[p->nopen++]));
        if (ret)
            return ret;
    }
    return cli_check_memory(p->disks, p->nopen);
}

/* That the results cannot be written is said before the work is done. */
static int check_json(const struct perf_options *o)
{
    struct stat st;
    if (!o->json || strcmp(o->json, "-") == 0 || (stat(o->json, &st) == 0 && S_ISFIFO(st.st_mode)))
        return EXIT_OK; /* a FIFO's reader would take the check for the whole */
    int fd = open(o->json, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return cli_fail(EXIT_USAGE, "--json %s: cannot be written: %s", o->json, strerror(errno));
    close(fd);
    return EXIT_OK;
}

static int make_workers(struct perf *p)
{
    int ret = cli_choose_cores(p->o.cores, &p->o.ncores, p->o.placed, PERF_MAX_CORES);
    if (ret)
        return ret;
    for (; p->nworkers < (unsigned)p->o.ncores; p->nworkers++) {
        struct perf_worker *w = &p->workers[p->nworkers];
        const struct plx_reactor_opts opts = {.core = p->o.cores[p->nworkers], .mode = p->o.poll};
        w->notify = p->notify;
        w->paced = p->o.rate > 0;
        w->sleeps = p->o.poll != PLX_POLL_BUSY;
        w->jobs = calloc((size_t)p->o.ndisks * p->o.qpairs, sizeof *w->jobs);
        ret = w->jobs ? plx_reactor_create(&w->reactor, &opts) : -ENOMEM;
        if (ret) {
            perf_worker_close(w);
            return cli_fail(EXIT_RUNTIME, "cannot make a reactor: %s", strerror(-ret));
        }
    }
    return EXIT_OK;
}

static int check_workers(const struct perf *p, const struct plx_bdev *bdev)
{
    struct plx_error err;
    return plx_bdev_check_reactors(bdev, p->nworkers, &err) ? cli_fail(EXIT_USAGE, "%s", err.text) : EXIT_OK;
}

/* Queue pairs go round the workers, of which all have some. */
static int make_jobs(struct perf *p)
{
    p->jobs = calloc((size_t)p->o.ndisks * p->o.qpairs, sizeof *p->jobs);
    if (!p->jobs)
        return cli_fail(EXIT_RUNTIME, "out of memory");
    for (unsigned disk = 0; disk < p->nopen; disk++) {
        if (check_workers(p, p->disks[disk]))
            return EXIT_USAGE;
        for (uint32_t i = 0; i < p->o.qpairs; i++) {
            struct perf_job *job = calloc(1, sizeof *job);
            if (!job)
                return cli_fail(EXIT_RUNTIME, "out of memory");
            p->jobs[p->njobs] = job;
            job->disk = disk;
            job->worker = &p->workers[p->njobs++ % p->nworkers];
            job->worker->jobs[job->worker->njobs++] = job;
            int ret = perf_job_open(job, &p->o, p->disks[disk], i);
            if (ret)
                return ret;
        }
    }
    for (unsigned i = 0; i < p->nworkers; i++)
        if (perf_worker_open(&p->workers[i]))
            return cli_fail(EXIT_RUNTIME, "out of memory");
    return EXIT_OK;
}

/* ---- orders ---- */

static struct perf_worker *perf_worker_of(struct plx_msg *m, enum perf_order order)
{
    return (struct perf_worker *)((char *)(m - order) - offsetof(struct perf_worker, orders));
}

static void probe_fn(struct plx_msg *m)
{
    perf_probe(perf_worker_of(m, PERF_PROBE));
}

static void start_fn(struct plx_msg *m)
{
    perf_start(perf_worker_of(m, PERF_START));
}

static void stop_fn(struct plx_msg *m)
{
    perf_stop(perf_worker_of(m, PERF_STOP));
}

static void abort_fn(struct plx_msg *m)
{
    perf_abort(perf_worker_of(m, PERF_ABORT));
}

static void put_channels(struct perf_worker *w)
{
    for (unsigned i = 0; i < w->njobs; i++) {
        if (w->jobs[i]->ch)
            plx_bdev_channel_put(w->jobs[i]->ch);
        w->jobs[i]->ch = NULL;
    }
}

static void close_fn(struct plx_msg *m)
{
    struct perf_worker *w = perf_worker_of(m, PERF_CLOSE);
    plx_source_remove(w->reactor, &w->source);
    put_channels(w);
    plx_reactor_stop(w->reactor);
}

static void order(struct perf *p, enum perf_order what)
{
    static void (*const fns[PERF_ORDERS])(struct plx_msg *) = {
        [PERF_PROBE] = probe_fn, [PERF_START] = start_fn, [PERF_STOP] = stop_fn,
        [PERF_ABORT] = abort_fn, [PERF_CLOSE] = close_fn,
    };
    for (unsigned i = 0; i < p->nworkers; i++) {
        struct plx_msg *m = &p->workers[i].orders[what];
        m->fn = fns[what];
        plx_reactor_send(p->workers[i].reactor, m);
    }
}

static void *worker_thread(void *arg)
{
    plx_reactor_run(arg);
    return NULL;
}

/* Signals are taken through a descriptor; they are blocked before any thread exists. */
static int perf_open_signals(struct perf *p)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    p->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    p->notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return p->signals < 0 || p->notify < 0 ? cli_fail(EXIT_RUNTIME, "signalfd: %s", strerror(errno)) : EXIT_OK;
}

static int start_threads(struct perf *p)
{
    /* Who sleeps until a request is due must not be late by the 50 us that the kernel takes the liberty of. */
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
    for (unsigned i = 0; i < p->nworkers; i++) {
        struct perf_worker *w = &p->workers[i];
        int ret = pthread_create(&w->thread, NULL, worker_thread, w->reactor);
        if (ret)
            return cli_fail(EXIT_RUNTIME, "cannot make a thread: %s", strerror(ret));
        w->running = true;
    }
    return EXIT_OK;
}

/* ---- waiting ---- */

/* A line on what happened since the last one. */
static void perf_tick(struct perf *p, uint64_t now)
{
    uint64_t done = 0, ns = 0;
    for (unsigned i = 0; i < p->njobs; i++) {
        done += atomic_load_explicit(&p->jobs[i]->done, memory_order_relaxed);
        ns += atomic_load_explicit(&p->jobs[i]->latency_sum, memory_order_relaxed);
    }
    double n = (double)(done - p->seen_done), iops = n * 1e9 / (double)(now - p->seen_at);
    printf("%5.0f s %11.0f IOPS %10.1f MiB/s", (double)(now - p->started) / 1e9, iops, iops * p->o.size / (1 << 20));
    printf(n > 0 ? "  %.1f us on average\n" : "\n", (double)(ns - p->seen_ns) / (n > 0 ? n : 1) / 1000);
    p->seen_at = now;
    p->seen_done = done;
    p->seen_ns = ns;
    p->next_tick += TICK_MS * UINT64_C(1000000);
}

/*
 * Each time we are asked to end, and each time that takes too long, we become more urgent. @return false when to go
 * without the rest
 */
static bool press(struct perf *p)
{
    static const struct {
        enum perf_order order;
        uint64_t patience_ms;
    } steps[] = {{PERF_STOP, GRACE_MS}, {PERF_ABORT, ABORT_MS}};
    if (p->pressed == sizeof steps / sizeof steps[0])
        return false;
    order(p, steps[p->pressed].order);
    p->deadline = now_ns() + steps[p->pressed++].patience_ms * 1000000;
    return true;
}

/* Of two times that may be 0 for never. */
static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a && (!b || a < b) ? a : b;
}

static int timeout_ms(const struct perf *p, uint64_t now)
{
    uint64_t at = earlier(p->overdue, earlier(p->next_tick, p->deadline));
    if (!at)
        return -1;
    return at > now ? (int)((at - now) / 1000000) + 1 : 0;
}

static void say_overdue(struct perf *p)
{
    p->overdue = 0;
    if (!p->pressed)
        cli_say("pollux: the time is over, and requests are still in flight: waiting for them, until Ctrl-C\n");
}

/* Waits for every worker to be through with its order. @return false when that is not to be waited for any longer */
static bool wait_through(struct perf *p)
{
    for (uint64_t through = 0, n; through < p->nworkers;) {
        struct pollfd fds[2] = {{.fd = p->notify, .events = POLLIN}, {.fd = p->signals, .events = POLLIN}};
        struct signalfd_siginfo info;
        poll(fds, 2, timeout_ms(p, now_ns()));
        if (read(p->notify, &n, sizeof n) == sizeof n)
            through += n;
        bool asked = read(p->signals, &info, sizeof info) == sizeof info;
        uint64_t now = now_ns();
        if (through < p->nworkers && (asked || (p->deadline && now >= p->deadline)) && !press(p))
            return false;
        if (p->overdue && now >= p->overdue && through < p->nworkers)
            say_overdue(p);
        if (p->next_tick && now >= p->next_tick)
            perf_tick(p, now);
    }
    return true;
}

/* ---- a run ---- */

static int check_probes(const struct perf *p)
{
    for (unsigned i = 0; i < p->njobs; i++)
        if (p->jobs[i]->errors)
            return cli_fail(EXIT_RUNTIME, "%s: cannot be read: NVMe status %03x, %s",
                            plx_bdev_info(p->disks[p->jobs[i]->disk])->name, p->jobs[i]->first_error,
                            plx_nvme_status_text(p->jobs[i]->first_error));
    return EXIT_OK;
}

static void perf_begin(struct perf *p, struct perf_result *r)
{
    if (p->watch->begin)
        p->watch->begin(p->watch->arg);
    else
        r->npeers = perf_peers(r->peers, PERF_PEERS);
    p->started = p->seen_at = now_ns();
    r->own_cpu = -perf_cpu_own();
    p->next_tick = p->terminal ? p->started + TICK_MS * UINT64_C(1000000) : 0;
    if (p->o.time_ns && !p->o.verify) /* verifying takes its time afterwards */
        p->overdue = p->started + p->o.time_ns + OVERDUE_MS * UINT64_C(1000000);
    order(p, PERF_START);
}

static void end(struct perf *p, struct perf_result *r)
{
    r->own_cpu += perf_cpu_own();
    uint64_t now = now_ns(), longest = 0;
    r->wall = (double)(now - p->started) / 1e9;
    perf_peers_end(r->peers, &r->npeers);
    for (unsigned i = 0; i < p->njobs; i++) {
        if (!p->jobs[i]->ended)
            p->jobs[i]->ended = now;
        perf_give_up(p->jobs[i], now);
        uint64_t ns = p->jobs[i]->ended - p->jobs[i]->started;
        longest = ns > longest ? ns : longest;
    }
    r->seconds = (double)longest / 1e9;
}

/* What is in flight keeps its memory, so there is no cleaning up after it. */
_Noreturn static void leave(int status)
{
    fflush(stdout);
    cli_log_stop();
    _exit(status);
}

static int measure(struct perf *p)
{
    struct perf_result r = {.o = &p->o, .disks = p->disks, .jobs = p->jobs, .njobs = p->njobs};
    order(p, PERF_PROBE);
    bool through = wait_through(p);
    if (!through || p->pressed) {
        cli_say("pollux: interrupted before anything was measured\n");
        if (!through)
            leave(EXIT_OK);
        return EXIT_OK;
    }
    int status = check_probes(p);
    if (status)
        return status;
    perf_begin(p, &r);
    through = wait_through(p);
    end(p, &r);
    status = p->watch->report(p->watch->arg, &r);
    if (!through)
        leave(status);
    return status;
}

static int perf_run(struct perf *p)
{
    int status = start_threads(p);
    if (!status)
        status = measure(p);
    order(p, PERF_CLOSE);
    for (unsigned i = 0; i < p->nworkers; i++)
        if (p->workers[i].running)
            pthread_join(p->workers[i].thread, NULL);
    return status;
}

static void perf_clean_up(struct perf *p)
{
    for (unsigned i = 0; i < p->nworkers; i++) {
        put_channels(&p->workers[i]);
        plx_reactor_destroy(p->workers[i].reactor);
        perf_worker_close(&p->workers[i]);
    }
    for (unsigned i = 0; i < p->njobs; i++)
        perf_job_close(p->jobs[i]);
    free(p->jobs);
    for (unsigned i = 0; i < p->nopen; i++)
        plx_bdev_close(p->disks[i]);
    if (p->signals >= 0)
        close(p->signals);
    if (p->notify >= 0)
        close(p->notify);
    free(p);
}

int perf_execute(const struct perf_options *o, const struct perf_watch *watch)
{
    struct perf *p = calloc(1, sizeof *p);
    if (!p)
        return cli_fail(EXIT_RUNTIME, "out of memory");
    p->o = *o;
    p->watch = watch;
    p->signals = p->notify = -1;
    p->terminal = watch->ticks;
    int status = perf_open_signals(p);
    if (!status)
        status = perf_open_disks(p);
    if (!status)
        status = check_json(&p->o);
    if (!status)
        status = make_workers(p);
    if (!status)
        status = make_jobs(p);
    if (!status)
        status = cli_log_start();
    if (!status)
        status = perf_run(p);
    perf_clean_up(p);
    return status;
}

static int perf_report_all(void *arg, const struct perf_result *r)
{
    (void)arg;
    return perf_report(r);
}

static int perf(int argc, char **argv)
{
    struct perf_options o;
    struct perf_watch watch = {.report = perf_report_all};
    int status = perf_parse(argc, argv, &o);
    if (status)
        return status;
    if (o.help) {
        perf_help();
        return EXIT_OK;
    }
    plx_log_set(cli_log, NULL, PLX_LOG_WARN); /* a connection lost, and made again, explains what figures do not */
    watch.ticks = isatty(STDOUT_FILENO) && !(o.json && strcmp(o.json, "-") == 0);
    return perf_execute(&o, &watch);
}

const struct cli_command cli_perf = {
    .name = "perf",
    .summary = "load disks and measure them",
    .run = perf,
    .help = perf_help,
};
