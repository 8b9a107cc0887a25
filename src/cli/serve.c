/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux serve`: opens the disks, serves them, and ends cleanly when asked to. */
#include "serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

enum {
    POOL = 16 << 20,        /* a reactor's buffers, in bytes, */
    POOL_LARGEST = 16,      /* or so many of --max-io-size */
    GRACE_MS = 2500,        /* for what is in flight at the end: with the flush after it, less than 5 s in all */
    CONTROL_POOL = 1 << 20, /* of the control reactor, which has no hosts */
    DEADLINE_S = 5,         /* when even that hangs: a disk that does not answer */
};

/* ---- disks, reactors, target ---- */

static int serve_open_disks(struct serve *s)
{
    struct plx_error err;
    for (; s->nopen < s->o.ndisks; s->nopen++) {
        int ret = plx_bdev_open(s->o.disks[s->nopen].url, &s->disks[s->nopen], &err);
        if (ret)
            return cli_fail(cli_disk_status(ret), "%s", err.text);
    }
    return cli_check_memory(s->disks, s->nopen);
}

/* Whether a disk is in another process, which can have our buffers to read from and write to. */
static bool memory_shared(const struct serve *s)
{
    for (unsigned i = 0; i < s->nopen; i++)
        if (plx_bdev_info(s->disks[i])->shares_memory)
            return true;
    return false;
}

static int make_reactors(struct serve *s)
{
    size_t pool = (size_t)POOL_LARGEST * s->o.nvmf.max_io_size;
    int ret = cli_choose_cores(s->o.cores, &s->o.ncores, s->o.placed, SERVE_MAX_CORES);
    if (ret)
        return ret;
    const struct plx_reactor_opts control = {.core = -1, .mode = PLX_POLL_SLEEP, .buffer_bytes = CONTROL_POOL};
    if (serve_controlled(&s->o))
        ret = plx_reactor_create(&s->reactors[s->nreactors++], &control);
    for (int i = 0; i < s->o.ncores && !ret; i++) {
        const struct plx_reactor_opts opts = {.core = s->o.cores[i],
                                              .mode = s->o.poll,
                                              .nic_us = s->o.nic_us,
                                              .buffer_max = s->o.nvmf.max_io_size,
                                              .buffer_bytes = pool > POOL ? pool : POOL,
                                              .shared = memory_shared(s)};
        ret = plx_reactor_create(&s->reactors[s->nreactors++], &opts);
    }
    if (!ret)
        return EXIT_OK;
    s->reactors[--s->nreactors] = NULL;
    return cli_fail(EXIT_RUNTIME, "cannot make a reactor: %s", strerror(-ret));
}

static int make_subsystem(struct serve *s, unsigned n)
{
    struct plx_error err;
    char nqn[PLX_NVMF_NQN_SIZE];
    struct plx_bdev *disks[SERVE_MAX_DISKS];
    unsigned ndisks = 0;
    for (unsigned i = 0; i < s->o.ndisks; i++)
        if (s->o.disks[i].subsystem == n)
            disks[ndisks++] = s->disks[i];
    if (!s->o.nqns[n] && plx_nvmf_default_nqn(disks, ndisks, nqn, &err))
        return cli_fail(EXIT_RUNTIME, "%s", err.text);
    const struct plx_nvmf_subsystem_opts opts = {
        .nqn = s->o.nqns[n] ? s->o.nqns[n] : nqn,
        .serial = s->o.serial,
        .allow_any_host = s->o.allow_any_host,
    };
    int ret = plx_nvmf_subsystem_create(s->target, &opts, &s->subsystems[n], &err);
    for (unsigned i = 0; !ret && i < s->o.nhosts; i++)
        ret = plx_nvmf_subsystem_allow_host(s->subsystems[n], s->o.hosts[i], &err);
    for (unsigned i = 0; ret >= 0 && i < ndisks; i++)
        ret = plx_nvmf_subsystem_add_ns(s->subsystems[n], disks[i], NULL, &err);
    return ret < 0 ? cli_fail(ret == -ENOMEM ? EXIT_RUNTIME : EXIT_USAGE, "%s", err.text) : EXIT_OK;
}

static int make_vhost(struct serve *s)
{
    struct plx_error err;
    const struct plx_vhost_opts opts = {.control_apart = true, .has_group = s->o.group, .group = s->o.gid};
    int ret = plx_vhost_create(&s->vhost, s->reactors, s->nreactors, &opts, &err);
    return ret ? cli_fail(EXIT_RUNTIME, "%s", err.text) : EXIT_OK;
}

static int make_target(struct serve *s)
{
    struct plx_error err;
    s->o.nvmf.control_apart = serve_controlled(&s->o);
    int ret = plx_nvmf_target_create(&s->target, s->reactors, s->nreactors, &s->o.nvmf, &err);
    if (ret)
        return cli_fail(ret == -ENOMEM ? EXIT_RUNTIME : EXIT_USAGE, "%s", err.text);
    if (serve_controlled(&s->o))
        return make_vhost(s); /* calls make the rest */
    for (unsigned i = 0; i < s->o.nsubsystems; i++) {
        ret = make_subsystem(s, i);
        if (ret)
            return ret;
    }
    for (unsigned i = 0; i < s->o.nlisteners; i++) {
        ret = plx_nvmf_listen(s->target, s->o.listeners[i].text, SERVE_PORT, &s->listeners[i], &err);
        if (ret)
            return cli_fail(ret == -EEXIST || ret == -EINVAL ? EXIT_USAGE : EXIT_RUNTIME, "--listen: %s", err.text);
    }
    return EXIT_OK;
}

/* ---- running ---- */

static void print_size(uint64_t bytes, char *out, size_t size)
{
    double v = (double)bytes;
    const char *unit = cli_unit(&v);
    snprintf(out, size, v == (double)(uint64_t)v ? "%.0f %s" : "%.2f %s", v, unit);
}

static void announce_subsystem(const struct plx_nvmf_subsystem *sub)
{
    struct plx_nvmf_ns_info ns;
    printf("serving %s\n", plx_nvmf_subsystem_nqn(sub));
    for (uint32_t nsid = 0; (nsid = plx_nvmf_ns_next(sub, nsid)) && plx_nvmf_ns_info(sub, nsid, &ns);) {
        const struct plx_bdev_info *info = plx_bdev_info(ns.bdev);
        char size[32];
        print_size(plx_bdev_blocks(ns.bdev) * info->block_size, size, sizeof size);
        printf("  namespace %u: %s, %s, blocks of %u bytes%s\n", nsid, info->name, size, info->block_size,
               info->read_only ? ", read-only" : "");
    }
}

static void announce_listener(const struct serve *s, const struct plx_nvmf_listener *l)
{
    char reach[64];
    const char *addr = plx_nvmf_listener_addr(l);
    uint16_t port = plx_nvmf_listener_port(l);
    printf(strchr(addr, ':') ? "listening on [%s]:%u\n" : "listening on %s:%u\n", addr, port);
    addr = plx_nvmf_listener_reach(l, reach, sizeof reach);
    for (struct plx_nvmf_subsystem *sub = NULL; (sub = plx_nvmf_subsystem_next(s->target, sub));) {
        char nqn[4 * PLX_NVMF_NQN_SIZE]; /* quoted, at most */
        if (!plx_nvmf_subsystem_reachable(sub, l))
            continue;
        plx_text_quote(plx_nvmf_subsystem_nqn(sub), nqn, sizeof nqn);
        printf("  nvme connect -t tcp -a %s -s %u -n %s\n", addr, port, nqn);
    }
}

static void announce_vhost(const struct serve *s)
{
    unsigned n = 0;
    for (struct plx_vhost_ctrlr *c = NULL; (c = plx_vhost_next(s->vhost, c));) {
        struct plx_vhost_info v;
        char size[32];
        plx_vhost_get_info(c, &v);
        if (!v.bdev)
            continue; /* a SCSI host, made by a call */
        const struct plx_bdev_info *info = plx_bdev_info(v.bdev);
        print_size(plx_bdev_blocks(v.bdev) * info->block_size, size, sizeof size);
        printf("vhost-user at %s: %s, %s, blocks of %u bytes%s\n", v.path, info->name, size, info->block_size,
               v.read_only ? ", read-only" : "");
        serve_print_qemu(v.path, n++);
    }
    if (n)
        puts("  (QEMU before 9.2 has reconnect=1 for reconnect-ms=100; `pollux serve --example vm` knows yours)");
}

void serve_announce(const struct serve *s)
{
    for (struct plx_nvmf_subsystem *sub = NULL; (sub = plx_nvmf_subsystem_next(s->target, sub));)
        announce_subsystem(sub);
    for (struct plx_nvmf_listener *l = NULL; (l = plx_nvmf_listener_next(s->target, l));)
        announce_listener(s, l);
    if (s->o.vhost)
        announce_vhost(s);
    if (s->o.rpc)
        printf("controlled at %s\n", s->o.rpc);
}

static void stop_reactors(struct serve *s)
{
    for (unsigned i = 0; i < s->nreactors; i++)
        plx_reactor_stop(s->reactors[i]);
}

static void stopped(void *arg, int ret)
{
    struct serve *s = arg;
    s->late = ret == -ETIMEDOUT;
    if (s->late)
        s->result = cli_fail(EXIT_RUNTIME, "a disk does not answer; what it has not written is lost");
    else if (ret)
        s->result = cli_fail(EXIT_RUNTIME, "stopping: %s", strerror(-ret));
    stop_reactors(s);
}

static void serve_give_up(int number)
{
    static const char text[] = "pollux: error: a disk does not answer; what it has not written is lost\n";
    (void)number;
    struct pollfd fd = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&fd, 1, 0) == 1) {
        ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
        (void)ignored;
    }
    _exit(EXIT_RUNTIME);
}

static void stop_target(void *arg, int ret)
{
    struct serve *s = arg;
    s->unfinished |= ret != 0;
    plx_nvmf_target_stop(s->target, GRACE_MS, stopped, s);
}

static void stop_vhost(void *arg, int ret)
{
    struct serve *s = arg;
    s->unfinished = ret != 0;
    plx_vhost_stop(s->vhost, GRACE_MS / 2, stop_target, s);
}

void serve_begin_stop(struct serve *s)
{
    if (atomic_exchange(&s->stopping, true))
        return;
    signal(SIGALRM, serve_give_up); /* a disk that does not answer any more must not keep us */
    alarm(DEADLINE_S);
    if (s->rpc)
        plx_rpc_stop(s->rpc, stop_vhost, s);
    else
        stop_target(s, 0);
}

/* ---- disks that have another size ---- */

static void looked_at(void *arg, struct plx_bdev *bdev, int result, const struct plx_error *err)
{
    (void)arg, (void)bdev;
    if (result && result != -EOPNOTSUPP)
        cli_fail(EXIT_RUNTIME, "%s", err->text);
}

static bool look_at(void *arg, struct plx_bdev *bdev)
{
    struct serve *s = arg;
    plx_bdev_rescan_begin(s->reactors[0], bdev, looked_at, s);
    return true;
}

static void signal_ready(struct plx_watch *w)
{
    struct serve *s = (struct serve *)((char *)w - offsetof(struct serve, signals));
    struct signalfd_siginfo info;
    while (read(w->fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGHUP)
            plx_bdev_each(look_at, s);
        else
            serve_begin_stop(s);
    }
}

static void started(void *arg, int ret)
{
    struct serve *s = arg;
    if (ret) {
        s->result = cli_fail(EXIT_RUNTIME, "cannot start: %s", strerror(-ret));
        stop_reactors(s);
        return;
    }
    if (serve_controlled(&s->o))
        serve_control_begin(s);
    else
        serve_announce(s);
    ret = plx_watch_add(s->reactors[0], &s->signals);
    if (ret) {
        s->result = cli_fail(EXIT_RUNTIME, "cannot wait for signals: %s", strerror(-ret));
        serve_begin_stop(s);
    }
}

static void *reactor_thread(void *arg)
{
    plx_reactor_run(arg);
    return NULL;
}

/* Signals are taken by the first reactor through a descriptor; they are blocked before any thread exists. */
static int serve_open_signals(struct serve *s)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of whoever writes to it */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    s->signals.ready = signal_ready;
    s->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals.fd < 0 ? cli_fail(EXIT_RUNTIME, "signalfd: %s", strerror(errno)) : EXIT_OK;
}

/* It has a name, by which tune/machine.c knows that it is no reactor to place anything near. */
static void *control_thread(void *arg)
{
    struct serve *s = arg;
    pthread_setname_np(pthread_self(), "pollux-control");
    cli_stay_off_cores(s->o.cores, s->o.ncores);
    plx_nvmf_target_start(s->target, started, s);
    plx_reactor_run(s->reactors[0]);
    return NULL;
}

static int serve_thread(struct serve *s, void *(*fn)(void *arg), void *arg)
{
    int ret = pthread_create(&s->threads[s->nthreads], NULL, fn, arg);
    if (ret)
        return cli_fail(EXIT_RUNTIME, "cannot make a thread: %s", strerror(ret));
    s->nthreads++;
    return EXIT_OK;
}

/* This thread runs the first reactor of those that have a core. */
static int serve_run(struct serve *s)
{
    const unsigned first = serve_controlled(&s->o) ? 1 : 0;
    int ret = EXIT_OK;
    for (unsigned i = first + 1; i < s->nreactors && !ret; i++)
        ret = serve_thread(s, reactor_thread, s->reactors[i]);
    if (!ret && first)
        ret = serve_thread(s, control_thread, s);
    else if (!ret)
        plx_nvmf_target_start(s->target, started, s);
    if (!ret)
        plx_reactor_run(s->reactors[first]);
    stop_reactors(s);
    for (unsigned i = 0; i < s->nthreads; i++)
        pthread_join(s->threads[i], NULL);
    return ret ? ret : s->result;
}

static void serve_clean_up(struct serve *s)
{
    if (s->late || s->unfinished) {
        cli_log_stop();
        _exit(s->result);
    }
    if (s->target)
        plx_nvmf_target_destroy(s->target);
    if (s->vhost)
        plx_vhost_destroy(s->vhost);
    if (s->rpc)
        plx_rpc_destroy(s->rpc);
    free(s->config);
    for (unsigned i = 0; i < s->nreactors; i++)
        plx_reactor_destroy(s->reactors[i]);
    for (unsigned i = 0; i < s->nopen; i++)
        plx_bdev_close(s->disks[i]);
    if (s->signals.fd >= 0)
        close(s->signals.fd);
    alarm(0);
    free(s);
}

/* As many connections as the system lets us have. */
static void raise_file_limit(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max;
        setrlimit(RLIMIT_NOFILE, &l);
    }
}

static int serve_main(int argc, char **argv)
{
    struct serve *s = calloc(1, sizeof *s);
    if (!s)
        return cli_fail(EXIT_RUNTIME, "out of memory");
    s->signals.fd = -1;
    int ret = serve_parse(argc, argv, &s->o);
    if (ret || s->o.help || s->o.example) {
        if (!ret && s->o.help)
            serve_help();
        else if (!ret)
            ret = serve_example(&s->o, argc, argv);
        free(s);
        return ret;
    }
    if (serve_controlled(&s->o) && s->o.log_level < PLX_LOG_INFO)
        s->o.log_level = PLX_LOG_INFO; /* who changes what is told */
    plx_log_set(cli_log, NULL, s->o.quiet ? PLX_LOG_ERROR : s->o.log_level);
    raise_file_limit();
    ret = serve_open_signals(s);
    if (!ret && !serve_controlled(&s->o))
        ret = serve_open_disks(s);
    if (!ret)
        ret = make_reactors(s);
    if (!ret)
        ret = make_target(s);
    if (!ret)
        ret = cli_log_start();
    if (!ret)
        ret = serve_run(s);
    serve_clean_up(s);
    return ret;
}

const struct cli_command cli_serve = {
    .name = "serve",
    .summary = "serve disks over NVMe/TCP",
    .run = serve_main,
    .help = serve_help,
};
