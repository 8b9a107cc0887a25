/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One measurement of `pollux compare`: pollux perf in a process of its own, which looks at the machine's CPU time when
 * the first request is about to be sent, and when the last has ended.
 *
 * The load is made by the same code whichever host it goes through: our own, as a disk nvme+tcp:, or the kernel's, as
 * its block device by io_uring and direct I/O.
 */
#include "compare.h"
#include "perf.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    TICK_MS = 200,
    IDLE_MS = 1000,
    GRACE_SECONDS = 30, /* beyond the time that it was to take */
    PACED_DEPTH = 128,  /* enough for the schedule to be kept: what is late waits, and counts */
    FILL_SIZE = 1 << 20,
    FILL_DEPTH = 8,
    FILL_SLOWEST = 2 << 20, /* bytes a second */
    STATUS_WIRE = 100,      /* of the process: the connection to the target's machine is of no use any more */
    SLACK_SECONDS = 10,     /* between two machines */
};

#define NS 1e9
#define MAX_SECONDS 1e12 /* of CPU time, since a machine was started */

/* What the process knows. */
struct measuring {
    const struct compare_job *job;
    struct compare_usage host, target; /* at the beginning */
    struct compare_run run;
    int to;
};

/* This process is of no use any more. */
_Noreturn static void wire_failed(const struct compare_job *job)
{
    const char *problem = compare_wire_problem(job->wire);
    cli_fail(STATUS_WIRE, "%s", problem ? problem : "interrupted");
    cli_log_stop();
    _exit(STATUS_WIRE);
}

static void usage_is_nonsense(const struct compare_job *job)
{
    compare_wire_break(job->wire, "the machine of the target says nonsense of the CPU time that it used");
    wire_failed(job);
}

/* The target's machine tells what it uses; on this one it is the target's process. */
static void look_there(const struct compare_job *job, struct compare_usage *target)
{
    struct plx_error err;
    const struct {
        const char *name;
        double *to;
    } members[] = {{"at", &target->at},         {"busy", &target->busy},       {"user", &target->user},
                   {"system", &target->system}, {"threads", &target->threads}, {"softirq", &target->softirq},
                   {"stolen", &target->stolen}};
    json_t *u = compare_wire_ask(job->wire, json_pack("{ss}", "do", "usage"), COMPARE_ANSWER_MS, &err);
    if (!u)
        compare_wire_break(job->wire, "%s", err.text);
    for (size_t i = 0; u && i < sizeof members / sizeof members[0]; i++) {
        const json_t *value = json_object_get(u, members[i].name);
        *members[i].to = json_number_value(value);
        bool negative = *members[i].to < 0 && members[i].to != &target->busy; /* which is a difference of clocks */
        if (!json_is_number(value) || negative || fabs(*members[i].to) > MAX_SECONDS)
            usage_is_nonsense(job);
    }
    json_decref(u);
    if (!u)
        wire_failed(job);
}

/* What no machine can use in that time is no figure. What is summed over threads that end may become less. */
static void check_usage(const struct compare_job *job, const struct compare_usage *used, double seconds)
{
    const double most = (seconds + SLACK_SECONDS) * COMPARE_REMOTE_CPUS;
    const double values[] = {used->busy, used->user, used->system, used->threads, used->softirq, used->stolen};
    bool sane = used->at > 0 && used->at < 2 * seconds + SLACK_SECONDS && used->user >= 0 && used->system >= 0;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        sane = sane && fabs(values[i]) <= most;
    if (!sane)
        usage_is_nonsense(job);
}

static void look_at_usage(const struct compare_job *job, struct compare_usage *host, struct compare_usage *target)
{
    struct compare_usage whole;
    *target = (struct compare_usage){0};
    if (job->wire)
        look_there(job, target);
    if (job->target && compare_usage(job->target, &whole) == 0) {
        target->user = whole.user;
        target->system = whole.system;
    }
    compare_usage(getpid(), host);
}

static void measuring_begins(void *arg)
{
    struct measuring *m = arg;
    look_at_usage(m->job, &m->host, &m->target);
}

static bool write_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);
        if (n <= 0 && errno != EINTR)
            return false;
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static int measuring_ends(void *arg, const struct perf_result *r)
{
    struct measuring *m = arg;
    struct perf_summary sum;
    struct compare_usage host, target;
    look_at_usage(m->job, &host, &target);
    perf_summarize(r, -1, &sum);
    m->run.host = compare_used(&m->host, &host, m->job->idle);
    m->run.target = compare_used(&m->target, &target, m->job->idle_there);
    if (m->job->wire)
        check_usage(m->job, &m->run.target, m->run.host.at);
    m->run.iops = sum.iops;
    m->run.seconds = r->seconds;
    m->run.requests = sum.requests;
    m->run.errors = sum.errors;
    m->run.late = sum.late;
    m->run.latency = sum.latency;
    if (sum.errors)
        return cli_fail(EXIT_RUNTIME, "%llu requests failed, the first with NVMe status %03x, %s",
                        (unsigned long long)sum.errors, sum.first_error, plx_nvme_status_text(sum.first_error));
    return write_all(m->to, &m->run, sizeof m->run) ? EXIT_OK : EXIT_RUNTIME;
}

static void options_of(const struct compare_job *job, struct perf_options *o)
{
    const struct compare_load *l = job->load;
    *o = (struct perf_options){.disks = {job->disk}, .ndisks = 1, .random = !job->fill};
    o->read_percent = job->fill ? 0 : l->read_percent;
    o->workload = job->fill                ? "write"
                  : l->read_percent == 0   ? "randwrite"
                  : l->read_percent == 100 ? "randread"
                                           : "randrw";
    o->depth = job->fill ? FILL_DEPTH : l->depth;
    if (job->rate > 0 && o->depth < PACED_DEPTH)
        o->depth = PACED_DEPTH;
    o->size = job->fill ? FILL_SIZE : l->size;
    o->qpairs = job->fill ? 1 : l->cores;
    o->ncores = (int)o->qpairs;
    memcpy(o->cores, job->cores, (size_t)o->ncores * sizeof *job->cores);
    o->time_ns = (uint64_t)(job->seconds * NS);
    o->count = job->fill / FILL_SIZE;
    o->rate = (uint64_t)job->rate;
    o->poll = job->fill ? PLX_POLL_ADAPTIVE : l->poll;
}

void compare_dies_with(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it had died before */
        _exit(EXIT_RUNTIME);
}

/* In the process of its own. What it says goes to a file that its parent has. */
_Noreturn static void run_child(const struct compare_job *job, pid_t parent, int to, int says)
{
    struct perf_options o;
    struct measuring *m = calloc(1, sizeof *m);
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    int ret = compare_network_enter(job->network, COMPARE_END_HOST);
    compare_dies_with(parent); /* which a change of user namespaces takes back */
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        signal(numbers[i], SIG_DFL);
    dup2(says, STDERR_FILENO);
    dup2(says, STDOUT_FILENO);
    if (ret)
        cli_fail(EXIT_RUNTIME, "the host's network namespace cannot be entered: %s", strerror(-ret));
    if (ret || !m)
        _exit(EXIT_RUNTIME);
    m->job = job;
    m->to = to;
    options_of(job, &o);
    const struct perf_watch watch = {measuring_begins, measuring_ends, m, false};
    plx_log_set(cli_log, NULL, PLX_LOG_WARN);
    int status = perf_execute(&o, &watch);
    cli_log_stop();
    _exit(status);
}

/* The last line of what it said, without "pollux: ". */
static void last_words(int says, char *out, size_t size)
{
    char text[2048];
    lseek(says, 0, SEEK_SET);
    ssize_t n = read(says, text, sizeof text - 1);
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n > 0 ? n : 0] = '\0';
    const char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    if (strncmp(line, "pollux: ", 8) == 0)
        line += 8;
    snprintf(out, size, "%.*s", (int)size - 1, line);
    cli_clean(out); /* the last character may be cut off in its middle */
}

/* Reads what the process measured. @return bytes, or -EINTR, -ETIMEDOUT or -EPIPE */
static long read_run(const struct compare_job *job, int from, struct compare_run *out)
{
    size_t have = 0;
    double left = (job->fill ? (double)job->fill / FILL_SLOWEST : job->seconds) + GRACE_SECONDS;
    while (have < sizeof *out) {
        struct pollfd fd = {.fd = from, .events = POLLIN};
        int ready = compare_interrupted ? 0 : poll(&fd, 1, TICK_MS);
        if (compare_interrupted)
            return -EINTR;
        if (ready == 0) {
            if (job->wire && compare_wire_gone(job->wire))
                return -EPIPE; /* our host would connect again for as long as that takes */
            left -= TICK_MS / 1000.0;
            if (job->tick)
                job->tick();
            if (left < 0)
                return -ETIMEDOUT;
        }
        ssize_t n = ready > 0 ? read(from, (char *)out + have, sizeof *out - have) : 0;
        if (ready > 0 && n <= 0)
            break;
        have += (size_t)n;
    }
    return (long)have;
}

double compare_idle(void)
{
    struct compare_usage a, b;
    compare_usage(0, &a);
    for (int ms = 0; ms < IDLE_MS && !compare_interrupted; ms += TICK_MS)
        poll(NULL, 0, TICK_MS);
    compare_usage(0, &b);
    struct compare_usage used = compare_used(&a, &b, 0);
    return used.at > 0 ? used.busy / used.at : 0;
}

int compare_measure(const struct compare_job *job, struct compare_run *out, struct plx_error *err)
{
    int ends[2], says = memfd_create("compare", MFD_CLOEXEC), status = 0;
    char words[COMPARE_REASON];
    if (says < 0 || pipe2(ends, O_CLOEXEC) < 0) {
        if (says >= 0)
            close(says);
        return plx_fail(err, -errno, "no descriptors are left");
    }
    fflush(NULL);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        run_child(job, parent, ends[1], says);
    close(ends[1]);
    long got = pid < 0 ? -errno : read_run(job, ends[0], out);
    close(ends[0]);
    if (pid > 0 && got < 0)
        kill(pid, SIGKILL);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    last_words(says, words, sizeof words);
    close(says);
    if (job->wire && WIFEXITED(status) && WEXITSTATUS(status) == STATUS_WIRE)
        compare_wire_break(job->wire, "%s", words);
    /* A machine that goes takes its target along, whose host may be the first to notice. */
    if (job->wire && got >= 0 && got != sizeof *out && compare_wire_gone(job->wire))
        got = -EPIPE;
    if (job->wire)
        compare_wire_apart(job->wire);
    if (got == -EINTR || compare_interrupted)
        return plx_fail(err, -EINTR, "interrupted");
    if (got == -EPIPE)
        return plx_fail(err, -EPIPE, "%s", compare_wire_problem(job->wire));
    if (got < 0)
        return plx_fail(err, (int)got, "the run did not end in time%s%s", words[0] ? ": " : "", words);
    if (got != sizeof *out)
        return plx_fail(err, -EIO, "%s", words[0] ? words : "the run failed");
    return 0;
}
