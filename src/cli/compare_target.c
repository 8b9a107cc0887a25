/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `pollux compare target`: serves what another machine's `pollux compare host` asks for, and tells it what that costs
 * here. One host at a time, which has to know the key that was printed here; when it is gone, all that was set up goes.
 */
#include "compare.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FOR_EVER_MS = 24 * 3600 * 1000, HELLO_MS = 5000 };

struct agent {
    const struct compare_options *o;
    char key[COMPARE_KEY];
    struct compare_wire *wire;
    struct compare_kernel *kernel;
    struct compare_site site;
    char no_kernel[COMPARE_REASON];
};

static json_t *agent_error(const char *text)
{
    return json_pack("{so}", "error", compare_json_text(text));
}

static json_t *usage_to_json(const struct compare_usage *u)
{
    return json_pack("{sf,sf,sf,sf,sf,sf,sf}", "at", u->at, "busy", u->busy, "user", u->user, "system", u->system,
                     "threads", u->threads, "softirq", u->softirq, "stolen", u->stolen);
}

/* ---- requests ---- */

static json_t *agent_usage(struct agent *a)
{
    struct compare_usage u;
    compare_usage(a->site.pid > 0 ? a->site.pid : 0, &u);
    return usage_to_json(&u);
}

/* What a load takes of a target. @return false when it is not to be had here */
static bool load_of(const struct agent *a, const json_t *request, struct compare_load *load)
{
    const char *poll = json_string_value(json_object_get(request, "poll"));
    json_int_t cores = json_integer_value(json_object_get(request, "cores"));
    json_int_t depth = json_integer_value(json_object_get(request, "depth"));
    static const char *const polls[] = {
        [PLX_POLL_ADAPTIVE] = "adaptive", [PLX_POLL_BUSY] = "busy", [PLX_POLL_SLEEP] = "sleep"};
    *load = (struct compare_load){.cores = (uint32_t)cores, .depth = (uint32_t)depth};
    for (unsigned i = 0; poll && i < sizeof polls / sizeof polls[0]; i++)
        if (strcmp(poll, polls[i]) == 0) {
            load->poll = i;
            return cores >= 1 && cores <= a->o->ntarget_cores && depth >= cores && depth <= COMPARE_DEPTH;
        }
    return false;
}

static json_t *agent_start(struct agent *a, const json_t *request)
{
    const char *name = json_string_value(json_object_get(request, "target"));
    struct compare_place place;
    struct compare_load load;
    struct plx_error err;
    bool kernel = name && strcmp(name, compare_side_name(COMPARE_KERNEL)) == 0;
    if (!name || (!kernel && strcmp(name, compare_side_name(COMPARE_POLLUX))) || !load_of(a, request, &load))
        return agent_error("there is no such target here");
    if (kernel && a->no_kernel[0])
        return agent_error(a->no_kernel);
    if (site_start(&a->site, kernel ? COMPARE_KERNEL : COMPARE_POLLUX, &load, &place, &err))
        return agent_error(err.text);
    return json_pack("{si,ss}", "port", place.port, "nqn", place.nqn);
}

static json_t *agent_idle(void)
{
    return json_pack("{sf}", "idle", compare_idle());
}

static json_t *agent_stop(struct agent *a)
{
    site_stop(&a->site);
    return json_object();
}

static json_t *agent_answer(struct agent *a, const json_t *request)
{
    const char *what = json_string_value(json_object_get(request, "do"));
    if (!what)
        return agent_error("a request says what to do");
    if (strcmp(what, "machine") == 0)
        return json_pack("{so,si,so,ss,so}", "machine", compare_environment(), "cores", a->o->ntarget_cores,
                         "no_kernel", compare_json_text(a->no_kernel), "pollux", plx_version(), "disk",
                         compare_disk_name(a->o));
    if (strcmp(what, "usage") == 0)
        return agent_usage(a);
    if (strcmp(what, "start") == 0)
        return agent_start(a, request);
    if (strcmp(what, "stop") == 0)
        return agent_stop(a);
    return strcmp(what, "idle") == 0 ? agent_idle() : agent_error("there is no such request");
}

/* ---- a host ---- */

/* Its first line has the key. */
static bool admit(struct agent *a)
{
    json_t *hello = compare_wire_receive(a->wire, HELLO_MS);
    const char *key = json_string_value(json_object_get(hello, "key"));
    bool good = key && compare_wire_same_key(a->key, key);
    json_t *answer = good ? json_object() : agent_error("the key is not the one that pollux compare target printed");
    if (hello) {
        json_object_set(answer, "id", json_object_get(hello, "id"));
        compare_wire_send(a->wire, answer);
    }
    json_decref(answer);
    json_decref(hello);
    return good;
}

static void serve_host(struct agent *a)
{
    for (json_t *request; (request = compare_wire_receive(a->wire, FOR_EVER_MS));) {
        json_t *answer = agent_answer(a, request);
        json_object_set(answer, "id", json_object_get(request, "id"));
        int ret = compare_wire_send(a->wire, answer);
        json_decref(answer);
        json_decref(request);
        if (ret)
            return;
    }
}

static int host_session(struct agent *a)
{
    struct plx_error err;
    if (!admit(a)) {
        cli_say("pollux: %s was sent away: it has not the key\n", compare_wire_there(a->wire));
        return EXIT_OK;
    }
    if (compare_kernel_open(&a->kernel, &err))
        return cli_fail(EXIT_RUNTIME, "%s", err.text);
    compare_kernel_target_possible(a->kernel, a->no_kernel, sizeof a->no_kernel);
    a->site = (struct compare_site){.kernel = a->kernel,
                                    .medium = a->o->medium,
                                    .addr = compare_wire_here(a->wire),
                                    .cores = a->o->target_cores,
                                    .ncores = a->o->ntarget_cores};
    printf("measuring with %s\n", compare_wire_there(a->wire));
    serve_host(a);
    site_stop(&a->site);
    if (compare_kernel_close(a->kernel, &err))
        return cli_fail(EXIT_RUNTIME, "%s", err.text);
    printf("%s is gone; waiting for another\n", compare_wire_there(a->wire));
    return EXIT_OK;
}

int compare_target(const struct compare_options *o)
{
    char bound[COMPARE_WIRE_ADDR];
    struct plx_error err;
    struct agent a = {.o = o};
    int status = EXIT_OK;
    if (compare_wire_key(a.key))
        return cli_fail(EXIT_RUNTIME, "out of memory");
    int listener = compare_wire_listen(o->listen, bound, &err);
    if (listener < 0)
        return cli_fail(EXIT_USAGE, "--listen %s: %s", o->listen, err.text);
    printf("waiting on %s; on the other machine:\n  pollux compare host %s --key %s\n", bound, bound, a.key);
    while (!status && (a.wire = compare_wire_accept(listener, &compare_interrupted))) {
        status = host_session(&a);
        compare_wire_close(a.wire);
    }
    close(listener);
    return status;
}
