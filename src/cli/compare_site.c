/* SPDX-License-Identifier: BSD-3-Clause */
/* The targets of `pollux compare`: ours, which is this program once more, and the kernel's. */
#include "compare.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START_MS = 20000, STOP_MS = 5000, STEP_MS = 10, OUTPUT = 4096, ENTRIES = 128 };

static const char *const poll_names[] = {
    [PLX_POLL_ADAPTIVE] = "adaptive", [PLX_POLL_BUSY] = "busy", [PLX_POLL_SLEEP] = "sleep"};

/* Of names that we or the kernel give; what comes from elsewhere must not become settings of a disk. */
static const char nqn_characters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-";

uint32_t compare_entries(const struct compare_load *load)
{
    uint32_t each = (load->depth + load->cores - 1) / load->cores + 1, entries = ENTRIES;
    while (entries < each)
        entries *= 2;
    return entries;
}

/* ---- ours ---- */

/* What is said once it listens. */
static bool parse_listening(const char *text, struct compare_place *place)
{
    const char *at = strstr(text, "listening on "), *serving = strstr(text, "serving ");
    const char *end = at ? strchr(at, '\n') : NULL;
    if (!end || !serving || sscanf(serving, "serving %255s", place->nqn) != 1)
        return false;
    const char *colon = end;
    while (colon > at && *colon != ':')
        colon--;
    place->port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return place->port != 0;
}

static int wait_listening(struct compare_site *s, struct plx_error *err)
{
    char text[OUTPUT] = "";
    size_t have = 0;
    for (int ms = 0; ms < START_MS && !compare_interrupted; ms += STEP_MS) {
        struct pollfd fd = {.fd = s->output, .events = POLLIN};
        if (poll(&fd, 1, STEP_MS) <= 0)
            continue;
        ssize_t n = read(s->output, text + have, sizeof text - 1 - have);
        if (n <= 0)
            break;
        have += (size_t)n;
        text[have] = '\0';
        if (parse_listening(text, &s->place))
            return 0;
    }
    static const char name[] = "pollux: ";
    const char *said = strncmp(text, name, sizeof name - 1) == 0 ? text + sizeof name - 1 : text;
    text[strcspn(text, "\n")] = '\0';
    return plx_fail(err, compare_interrupted ? -EINTR : -EIO, "our target does not start: %s",
                    said[0] ? said : "it says nothing");
}

_Noreturn static void run_target(const struct compare_site *s, const struct compare_load *load, pid_t parent, int to)
{
    char cores[COMPARE_CORES * 8] = "", capsule[16], entries[16], disk[PATH_MAX + 32], listen_at[COMPARE_ADDR + 8];
    size_t n = 0;
    for (uint32_t i = 0; i < load->cores; i++)
        n += (size_t)snprintf(cores + n, sizeof cores - n, "%s%d", i ? "," : "", s->cores[i]);
    snprintf(capsule, sizeof capsule, "%d", COMPARE_IN_CAPSULE);
    snprintf(entries, sizeof entries, "%u", compare_entries(load));
    snprintf(listen_at, sizeof listen_at, strchr(s->addr, ':') ? "[%s]:0" : "%s:0", s->addr);
    if (s->medium.path)
        snprintf(disk, sizeof disk, "%s", s->medium.path);
    else
        snprintf(disk, sizeof disk, "%s:%llu", s->medium.null ? "null" : "ram", (unsigned long long)s->medium.bytes);
    int ret = compare_network_enter(s->network, COMPARE_END_TARGET);
    compare_dies_with(parent); /* which a change of user namespaces takes back */
    dup2(to, STDOUT_FILENO);
    dup2(to, STDERR_FILENO);
    if (ret)
        _exit(cli_fail(EXIT_RUNTIME, "its network namespace cannot be entered: %s", strerror(-ret)));
    execl("/proc/self/exe", "pollux", "serve", "-q", "-l", listen_at, "-m", cores, "--poll", poll_names[load->poll],
          "--in-capsule", capsule, "--queue-depth", entries, "--allow-any-host", disk, (char *)NULL);
    _exit(EXIT_RUNTIME);
}

static bool fits(const struct compare_site *s, const struct compare_load *load)
{
    return s->pid && s->load.cores == load->cores && s->load.poll == load->poll &&
           compare_entries(&s->load) == compare_entries(load);
}

/* Memory that nobody has written to is a single page of zeroes, which is in a cache. */
static int fill_medium(const struct compare_site *s, const struct compare_place *place, struct plx_error *err)
{
    char disk[CLI_URL];
    static struct compare_run run;
    static const struct compare_load load = {.cores = 1};
    const struct compare_job job = {
        .disk = disk, .load = &load, .cores = s->cores, .network = s->network, .fill = s->medium.bytes};
    if (s->medium.path || s->medium.null)
        return 0;
    snprintf(disk, sizeof disk, strchr(s->addr, ':') ? "nvme+tcp://[%s]:%u/%s" : "nvme+tcp://%s:%u/%s", s->addr,
             place->port, place->nqn);
    return compare_measure(&job, &run, err);
}

static int start_ours(struct compare_site *s, const struct compare_load *load, struct plx_error *err)
{
    int ends[2];
    if (fits(s, load))
        return 0;
    site_stop(s);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return plx_fail(err, -errno, "no descriptors are left");
    fflush(NULL);
    const pid_t parent = getpid();
    s->pid = fork();
    if (s->pid == 0)
        run_target(s, load, parent, ends[1]);
    close(ends[1]);
    s->output = ends[0];
    s->load = *load;
    int ret = s->pid < 0 ? plx_fail(err, -errno, "no process can be made") : wait_listening(s, err);
    if (!ret)
        ret = fill_medium(s, &s->place, err);
    if (ret)
        site_stop(s);
    return ret;
}

void site_stop(struct compare_site *s)
{
    int status;
    struct plx_error err;
    if (s->wire && !compare_interrupted)
        json_decref(compare_wire_ask(s->wire, json_pack("{ss}", "do", "stop"), COMPARE_ANSWER_MS, &err));
    if (s->pid > 0) {
        kill(s->pid, SIGTERM);
        for (int ms = 0; waitpid(s->pid, &status, WNOHANG) == 0; ms += STEP_MS) {
            if (ms >= STOP_MS)
                kill(s->pid, SIGKILL);
            poll(NULL, 0, STEP_MS);
        }
        close(s->output);
    }
    s->pid = 0;
}

/* ---- the kernel's ---- */

static int start_kernels(struct compare_site *s, struct plx_error *err)
{
    if (s->kernel_runs)
        return 0;
    char nqn[80];
    int ret = compare_network_enter(s->network, COMPARE_END_TARGET);
    if (ret)
        return plx_fail(err, ret, "the target's network namespace cannot be entered: %s", strerror(-ret));
    ret = compare_nvmet_start(s->kernel, &s->medium, s->addr, &s->kernel_place.port, nqn, err);
    int left = compare_network_leave(s->network);
    if (!ret && left)
        ret = plx_fail(err, left, "the target's network namespace cannot be left: %s", strerror(-left));
    if (ret)
        return ret;
    snprintf(s->kernel_place.nqn, sizeof s->kernel_place.nqn, "%s", nqn);
    ret = fill_medium(s, &s->kernel_place, err);
    s->kernel_runs = !ret;
    return ret;
}

/* ---- on another machine ---- */

static int start_there(struct compare_site *s, enum compare_side side, const struct compare_load *load,
                       struct compare_place *place, struct plx_error *err)
{
    json_t *request = json_pack("{ss,ss,si,si,ss}", "do", "start", "target", compare_side_name(side), "cores",
                                load->cores, "depth", load->depth, "poll", poll_names[load->poll]);
    json_t *answer = compare_wire_ask(s->wire, request, COMPARE_START_MS, err);
    if (!answer)
        return compare_interrupted ? -EINTR : -EIO;
    const char *nqn = json_string_value(json_object_get(answer, "nqn"));
    json_int_t port = json_integer_value(json_object_get(answer, "port"));
    bool good = nqn && strncmp(nqn, "nqn.", 4) == 0 && strspn(nqn, nqn_characters) == strlen(nqn) &&
                strlen(nqn) < sizeof place->nqn && port > 0 && port <= UINT16_MAX;
    if (good) {
        snprintf(place->nqn, sizeof place->nqn, "%s", nqn);
        snprintf(place->addr, sizeof place->addr, "%s", compare_wire_there(s->wire));
        place->port = (uint16_t)port;
    }
    json_decref(answer);
    if (!good)
        compare_wire_break(s->wire, "the machine of the target says nonsense of where its target listens");
    return good ? 0 : plx_fail(err, -EPROTO, "%s", compare_wire_problem(s->wire));
}

int site_start(struct compare_site *s, enum compare_side side, const struct compare_load *load,
               struct compare_place *place, struct plx_error *err)
{
    if (s->wire)
        return start_there(s, side, load, place, err);
    if (side == COMPARE_KERNEL && s->pid && s->load.poll == PLX_POLL_BUSY)
        site_stop(s); /* it would take a core from the other */
    int ret = side == COMPARE_KERNEL ? start_kernels(s, err) : start_ours(s, load, err);
    if (ret)
        return ret;
    *place = side == COMPARE_KERNEL ? s->kernel_place : s->place;
    snprintf(place->addr, sizeof place->addr, "%s", s->addr);
    return 0;
}
