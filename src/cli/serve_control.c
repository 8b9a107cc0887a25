/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `pollux serve` that is controlled by calls. It begins with some: those of the file that its state is in, or else
 * those of a configuration, and those that stand for the disks and options of the command line.
 */
#include "serve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONFIG_BYTES = 256 << 20 };

enum step { STEP_STATE, STEP_CONFIG, STEP_DISKS, STEP_SUBSYSTEMS, STEP_VHOST, STEP_LISTEN };

bool serve_controlled(const struct serve_options *o)
{
    return o->rpc || o->config || o->state || o->vhost;
}

static void control_fail(struct serve *s, int status, const char *text)
{
    s->result = cli_fail(status, "%s", text);
    serve_begin_stop(s);
}

/* ---- files ---- */

/* @return the text of a file, or NULL when it is not there, or *problem says why it cannot be read */
static char *read_text(const char *path, const char **problem)
{
    FILE *f = fopen(path, "re");
    char *text = NULL;
    size_t len = 0, room = 0;
    *problem = NULL;
    if (!f) {
        *problem = strerror(errno);
        return NULL;
    }
    ssize_t n = getdelim(&text, &room, 0, f); /* all of it: JSON has no zeroes */
    len = n > 0 ? (size_t)n : 0;
    if (ferror(f) || len > CONFIG_BYTES || (n > 0 && strlen(text) != len)) {
        *problem = ferror(f) ? strerror(errno) : "it is no configuration";
        free(text);
        text = NULL;
    } else if (n < 0) {
        free(text);
        text = strdup("");
    }
    fclose(f);
    return text;
}

/* ---- the command line, as calls ---- */

static void add_call(json_t *list, const char *method, json_t *params)
{
    json_array_append_new(list, json_pack("{s:s, s:o}", "method", method, "params", params));
}

static char *config_text(json_t *calls)
{
    json_t *config = json_pack("{s:[{s:s, s:o}]}", "subsystems", "subsystem", "command line", "config", calls);
    char *text = json_dumps(config, JSON_COMPACT);
    json_decref(config);
    return text;
}

struct names {
    const struct serve *s;
    unsigned n;
};

static bool name_taken(void *arg, const char *name)
{
    const struct names *names = arg;
    for (unsigned i = 0; i < names->n; i++)
        if (strcmp(names->s->names[i], name) == 0)
            return true;
    return plx_bdev_find(name) != NULL;
}

/* s->result is set after having said what is wrong with a disk's name. */
static char *disks_text(struct serve *s)
{
    json_t *calls = json_array();
    for (unsigned i = 0; i < s->o.ndisks; i++) {
        const char *disk = s->o.disks[i].url;
        struct names names = {s, i};
        char url[CLI_URL], file[PATH_MAX];
        s->result = cli_disk_url(disk, url, file);
        if (s->result) {
            json_decref(calls);
            return NULL;
        }
        cli_disk_name(disk, file, s->names[i], name_taken, &names);
        json_t *as_given = json_string(disk); /* it is in dumps */
        add_call(calls, "pollux_disk_open",
                 json_pack("{s:o, s:s}", "url", as_given ? as_given : json_string(url), "name", s->names[i]));
    }
    return config_text(calls);
}

static const char *subsystem_nqn(struct serve *s, unsigned n, char made[PLX_NVMF_NQN_SIZE])
{
    struct plx_bdev *disks[SERVE_MAX_DISKS];
    unsigned ndisks = 0;
    if (s->o.nqns[n])
        return s->o.nqns[n];
    for (unsigned i = 0; i < s->o.ndisks; i++)
        if (s->o.disks[i].subsystem == n)
            disks[ndisks++] = plx_bdev_find(s->names[i]);
    return plx_nvmf_default_nqn(disks, ndisks, made, NULL) ? NULL : made;
}

static void add_subsystem(struct serve *s, unsigned n, json_t *calls)
{
    char made[PLX_NVMF_NQN_SIZE];
    const char *nqn = subsystem_nqn(s, n, made);
    json_t *p = json_pack("{s:s, s:b}", "nqn", nqn, "allow_any_host", s->o.allow_any_host);
    if (s->o.serial)
        json_object_set_new(p, "serial_number", json_string(s->o.serial));
    add_call(calls, "nvmf_create_subsystem", p);
    for (unsigned i = 0; i < s->o.nhosts; i++)
        add_call(calls, "nvmf_subsystem_add_host", json_pack("{s:s, s:s}", "nqn", nqn, "host", s->o.hosts[i]));
    for (unsigned i = 0; i < s->o.ndisks; i++)
        if (s->o.disks[i].subsystem == n)
            add_call(calls, "nvmf_subsystem_add_ns",
                     json_pack("{s:s, s:{s:s}}", "nqn", nqn, "namespace", "bdev_name", s->names[i]));
    for (unsigned i = 0; i < s->o.nlisteners; i++) {
        char host[INET6_ADDRSTRLEN], port[8];
        const struct sockaddr_storage *a = &s->o.listeners[i].addr;
        bool v6 = a->ss_family == AF_INET6;
        const struct sockaddr_in6 *a6 = (const void *)a;
        const struct sockaddr_in *a4 = (const void *)a;
        inet_ntop(a->ss_family, v6 ? (const void *)&a6->sin6_addr : (const void *)&a4->sin_addr, host, sizeof host);
        snprintf(port, sizeof port, "%u", ntohs(v6 ? a6->sin6_port : a4->sin_port));
        add_call(calls, "nvmf_subsystem_add_listener",
                 json_pack("{s:s, s:{s:s, s:s, s:s}}", "nqn", nqn, "listen_address", "trtype", "TCP", "traddr", host,
                           "trsvcid", port));
    }
}

static char *subsystems_text(struct serve *s)
{
    json_t *calls = json_array(), *p = json_pack("{s:s}", "trtype", "TCP");
    if (s->o.nvmf.max_io_size)
        json_object_set_new(p, "max_io_size", json_integer(s->o.nvmf.max_io_size));
    if (s->o.nvmf.queue_depth)
        json_object_set_new(p, "max_queue_depth", json_integer(s->o.nvmf.queue_depth));
    if (s->o.nvmf.max_queues)
        json_object_set_new(p, "max_io_qpairs_per_ctrlr", json_integer(s->o.nvmf.max_queues));
    if (s->o.nvmf.in_capsule_size || s->o.nvmf.no_in_capsule)
        json_object_set_new(p, "in_capsule_data_size", json_integer(s->o.nvmf.in_capsule_size));
    add_call(calls, "nvmf_create_transport", p);
    for (unsigned n = 0; n < s->o.nsubsystems; n++)
        add_subsystem(s, n, calls);
    return config_text(calls);
}

static char *vhost_text(struct serve *s)
{
    json_t *calls = json_array();
    for (unsigned i = 0; i < s->o.ndisks; i++) {
        json_t *p = json_pack("{s:s, s:s, s:b}", "ctrlr", s->names[i], "dev_name", s->names[i], "packed_ring", 1);
        if (s->o.serial)
            json_object_set_new(p, "serial", json_string(s->o.serial));
        add_call(calls, "vhost_create_blk_controller", p);
    }
    return config_text(calls);
}

/* ---- one after the other ---- */

static void control_step(struct serve *s);

static void control_loaded(void *arg, int ret, const char *result, const struct plx_error *err)
{
    struct serve *s = arg;
    (void)result;
    if (atomic_load(&s->stopping))
        return;
    if (ret)
        control_fail(s, ret == -ENOMEM ? EXIT_RUNTIME : EXIT_USAGE, err->text);
    else
        control_step(s);
}

static void load_text(struct serve *s, char *text, const char *name)
{
    free(s->config);
    s->config = text;
    if (text)
        plx_rpc_load(s->rpc, text, name, control_loaded, s);
    else
        control_fail(s, EXIT_RUNTIME, "out of memory");
}

static void load_file(struct serve *s, const char *path)
{
    const char *problem;
    char *text = read_text(path, &problem), message[400];
    if (text) {
        load_text(s, text, path);
        return;
    }
    snprintf(message, sizeof message, "%.200s: %s", path, problem);
    control_fail(s, EXIT_USAGE, message);
}

/* Who meant to set options first is refused that. */
static void tell_nothing_waits(const struct serve *s)
{
    char text[400];
    snprintf(text, sizeof text, "--wait-for-rpc: %.200s is there, so nothing waits for framework_start_init",
             s->o.state);
    if (s->o.wait && !s->o.quiet)
        cli_log(NULL, PLX_LOG_WARN, cli_clean(text));
}

static void control_listen(struct serve *s)
{
    struct plx_error err;
    int ret = plx_rpc_listen(s->rpc, &err);
    if (ret) {
        control_fail(s, ret == -EBUSY || ret == -EEXIST || ret == -ENAMETOOLONG ? EXIT_USAGE : EXIT_RUNTIME, err.text);
        return;
    }
    serve_announce(s);
}

/* What it begins with, in order; with a state that was kept, with that alone. */
static void control_step(struct serve *s)
{
    char *text;
    switch ((enum step)s->step++) {
    case STEP_STATE:
        if (s->o.state && access(s->o.state, F_OK) == 0) {
            s->step = STEP_LISTEN;
            tell_nothing_waits(s);
            load_file(s, s->o.state);
            return;
        }
        s->step++;
        __attribute__((fallthrough));
    case STEP_CONFIG:
        if (s->o.config) {
            load_file(s, s->o.config);
            return;
        }
        s->step++;
        __attribute__((fallthrough));
    case STEP_DISKS:
        if (s->o.ndisks) {
            text = disks_text(s);
            if (s->result)
                serve_begin_stop(s);
            else
                load_text(s, text, "command line");
            return;
        }
        s->step = STEP_LISTEN;
        break;
    case STEP_SUBSYSTEMS:
        if (s->o.nlisteners) {
            load_text(s, subsystems_text(s), "command line");
            return;
        }
        s->step++;
        __attribute__((fallthrough));
    case STEP_VHOST:
        if (s->o.vhost) {
            load_text(s, vhost_text(s), "command line");
            return;
        }
        __attribute__((fallthrough));
    case STEP_LISTEN:
        break;
    }
    control_listen(s);
}

static void control_kill(void *arg, int sig)
{
    struct serve *s = arg;
    if (sig == SIGKILL || sig == SIGHUP)
        kill(getpid(), sig);
    else
        serve_begin_stop(s);
}

void serve_control_begin(struct serve *s)
{
    struct plx_error err;
    const struct plx_rpc_opts opts = {
        .target = s->target,
        .reactors = s->reactors,
        .nreactors = s->nreactors,
        .vhost = s->vhost,
        .vhost_dir = s->o.vhost,
        .socket = s->o.rpc,
        .state = s->o.state,
        .wait = s->o.wait,
        .kill = control_kill,
        .arg = s,
    };
    int ret = plx_rpc_create(&s->rpc, &opts, &err);
    if (ret)
        control_fail(s, EXIT_RUNTIME, err.text);
    else
        control_step(s);
}
