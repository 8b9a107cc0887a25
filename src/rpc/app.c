/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for the process: its version, its methods, its configuration, its log, its reactors, its end. */
#include "rpc/table.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    PEER_MAJOR = 26, /* the dialect is that of this version of SPDK's methods */
    PEER_MINOR = 9,
    NOTES = 1024, /* that are kept for clients that ask what has happened */
};

static void get_version(struct rpc_call *c)
{
    char text[80];
    snprintf(text, sizeof text, "Pollux v%s, with the methods of SPDK v%d.%02d", plx_version(), PEER_MAJOR, PEER_MINOR);
    rpc_ok(c, json_pack("{s:s, s:{s:i, s:i, s:i, s:s, s:s}}", "version", text, "fields", "major", PEER_MAJOR, "minor",
                        PEER_MINOR, "patch", 0, "suffix", "", "commit", plx_version()));
}

/* ---- methods ---- */

static const struct rpc_param params_get_methods[] = {
    BOOL("current", "only those that may be called now", INIT("false")),
    BOOL("include_aliases", "older names, too", INIT("false")),
    END,
};

static void add_name(void *arg, const struct rpc_method *m)
{
    struct rpc_call *c = arg;
    bool now = c->rpc->started ? !m->startup_only : m->startup;
    if (rpc_bool(c, "current") && !now)
        return;
    json_array_append_new(c->result, json_string(m->name));
    if (m->alias && rpc_bool(c, "include_aliases"))
        json_array_append_new(c->result, json_string(m->alias));
}

static void get_methods(struct rpc_call *c)
{
    c->result = json_array();
    rpc_methods_each(add_name, c);
    rpc_ok(c, c->result);
}

static void add_description(void *arg, const struct rpc_method *m)
{
    json_array_append_new(arg, rpc_describe_method(m));
}

static json_t *describe_all(void)
{
    json_t *out = json_array();
    rpc_methods_each(add_description, out);
    return out;
}

static void describe_methods(struct rpc_call *c)
{
    rpc_ok(c, describe_all());
}

char *plx_rpc_describe(void)
{
    json_t *all = describe_all();
    char *text = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    return text;
}

/* ---- the framework ---- */

static void start_init(struct rpc_call *c)
{
    c->rpc->started = true;
    rpc_waiters_wake(c->rpc);
    rpc_ok(c, NULL);
}

static void wait_init(struct rpc_call *c)
{
    if (c->rpc->started) {
        rpc_ok(c, NULL);
        return;
    }
    plx_list_add_tail(&c->rpc->waiters, &c->link);
    rpc_takes_long(c);
}

void rpc_waiters_wake(struct plx_rpc *rpc)
{
    plx_list_for_each_safe(it, &rpc->waiters) {
        struct rpc_call *c = plx_list_entry(it, struct rpc_call, link);
        if (!rpc->started && !rpc->stopping && !rpc_nobody_waits(c))
            continue;
        plx_list_del(it);
        if (rpc->started)
            rpc_ok(c, NULL);
        else
            rpc_fail(c, -ECANCELED, "Operation canceled: the process ends");
    }
}

static void get_groups(struct rpc_call *c)
{
    rpc_ok(c, rpc_config_groups());
}

static const struct rpc_param params_get_config[] = {
    TEXT("name", "of a group: framework_get_subsystems lists them", REQUIRED),
    BOOL("with_batches", "calls may be in batches", INIT("false"), INERT),
    END,
};

static void get_config(struct rpc_call *c)
{
    json_t *config = rpc_config_group(c->rpc, rpc_str(c, "name"));
    if (config)
        rpc_ok(c, config);
    else
        rpc_fail(c, RPC_INVALID_PARAMS, "Subsystem '%.80s' not found; framework_get_subsystems lists those there are",
                 rpc_str(c, "name"));
}

static void save_config(struct rpc_call *c)
{
    json_t *config = rpc_config(c->rpc);
    if (config)
        rpc_ok(c, config);
    else
        rpc_fail_errno(c, -ENOMEM, NULL);
}

static const struct rpc_param params_scheduler[] = {
    ENUM("name", "static", "reactors are cores, and connections stay where they are", REQUIRED),
    U64("period", "microseconds", INERT),
    END,
};

static void set_scheduler(struct rpc_call *c)
{
    rpc_ok(c, NULL);
}

static void get_scheduler(struct rpc_call *c)
{
    rpc_ok(c, json_pack("{s:s, s:i, s:s}", "scheduler_name", "static", "scheduler_period", 0, "governor_name", ""));
}

static void get_pci_devices(struct rpc_call *c)
{
    rpc_ok(c, json_array());
}

/* ---- reactors ---- */

#define TICKS 1000000000 /* a second: they are nanoseconds */

static void reactor_mask(const struct plx_reactor *r, char *out, size_t size)
{
    int core = plx_reactor_core(r);
    size_t n = core < 0 ? 0 : (size_t)core / 4;
    snprintf(out, size, core < 0 ? "any" : "%x%.*s", core < 0 ? 0 : 1 << core % 4, (int)plx_min_u64(n, size - 3),
             "00000000000000000000000000000000");
}

void rpc_reactor_name(const struct plx_rpc *rpc, unsigned i, char *out, size_t size)
{
    if (i == 0)
        snprintf(out, size, "app_thread");
    else
        snprintf(out, size, "nvmf_tgt_poll_group_%03u", i - 1);
    (void)rpc;
}

static void thread_get_stats(struct rpc_call *c)
{
    json_t *threads = json_array();
    for (unsigned i = 0; i < c->rpc->o.nreactors; i++) {
        struct plx_reactor_stats s;
        char name[40], mask[40];
        plx_reactor_get_stats(c->rpc->o.reactors[i], &s);
        rpc_reactor_name(c->rpc, i, name, sizeof name);
        reactor_mask(c->rpc->o.reactors[i], mask, sizeof mask);
        json_array_append_new(threads, json_pack("{s:s, s:i, s:s, s:I, s:I, s:i, s:i, s:i}", "name", name, "id",
                                                 (int)i + 1, "cpumask", mask, "busy", (json_int_t)s.busy_ns, "idle",
                                                 (json_int_t)s.idle_ns, "active_pollers_count", 0,
                                                 "timed_pollers_count", 0, "paused_pollers_count", 0));
    }
    rpc_ok(c, json_pack("{s:I, s:o}", "tick_rate", (json_int_t)TICKS, "threads", threads));
}

static void get_reactors(struct rpc_call *c)
{
    json_t *reactors = json_array();
    for (unsigned i = 0; i < c->rpc->o.nreactors; i++) {
        struct plx_reactor_stats s;
        char name[40], mask[40];
        plx_reactor_get_stats(c->rpc->o.reactors[i], &s);
        rpc_reactor_name(c->rpc, i, name, sizeof name);
        reactor_mask(c->rpc->o.reactors[i], mask, sizeof mask);
        json_array_append_new(
            reactors, json_pack("{s:i, s:i, s:i, s:I, s:I, s:b, s:i, s:I, s:I, s:i, s:i, s:[{s:s, s:i, s:s, s:I}]}",
                                "lcore", plx_reactor_core(c->rpc->o.reactors[i]), "numa_id", 0, "tid", s.tid, "busy",
                                (json_int_t)s.busy_ns, "idle", (json_int_t)s.idle_ns, "in_interrupt", true, "irq", 0,
                                "sys", (json_int_t)0, "usr", (json_int_t)0, "nic_sockets", (int)s.nic_sockets,
                                "nic_poll_us", (int)s.nic_us, "lw_threads", "name", name, "id", (int)i + 1, "cpumask",
                                mask, "elapsed", (json_int_t)(s.busy_ns + s.idle_ns)));
    }
    rpc_ok(c, json_pack("{s:I, s:i, s:o}", "tick_rate", (json_int_t)TICKS, "pid", (int)getpid(), "reactors", reactors));
}

/* ---- the log ---- */

#define LEVELS "ERROR|WARNING|NOTICE|INFO|DEBUG"

static const struct rpc_param params_level[] = {
    ENUM("level", LEVELS, "what is at least so bad; NOTICE is taken for INFO", REQUIRED),
    END,
};

static void set_print_level(struct rpc_call *c)
{
    const char *level = rpc_str(c, "level");
    plx_log_set_level(!strcmp(level, "ERROR")     ? PLX_LOG_ERROR
                      : !strcmp(level, "WARNING") ? PLX_LOG_WARN
                      : !strcmp(level, "DEBUG")   ? PLX_LOG_DEBUG
                                                  : PLX_LOG_INFO);
    rpc_ok(c, NULL);
}

static void get_print_level(struct rpc_call *c)
{
    static const char *const names[] = {"ERROR", "WARNING", "INFO", "DEBUG"};
    rpc_ok(c, json_string(names[plx_log_get_level()]));
}

/* That of a system log, which we have none of: what is printed goes to the journal, or wherever it is sent. */
static void set_level(struct rpc_call *c)
{
    json_object_set(c->rpc->log_flags, "", rpc_param(c, "level"));
    rpc_ok(c, NULL);
}

static void get_level(struct rpc_call *c)
{
    json_t *level = json_object_get(c->rpc->log_flags, "");
    rpc_ok(c, level ? json_incref(level) : json_string("NOTICE"));
}

static const char *const flags[] = {"bdev", "nvme", "nvmf", "reactor", "rpc", "tcp"};

static const struct rpc_param params_flag[] = {
    TEXT("flag", "of a room, or all; log_get_flags lists them", REQUIRED),
    END,
};

static void change_flag(struct rpc_call *c, bool on)
{
    const char *flag = rpc_str(c, "flag");
    bool all = strcmp(flag, "all") == 0, found = all;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(flags); i++) {
        if (!all && strcmp(flags[i], flag) != 0)
            continue;
        found = true;
        json_object_set_new(c->rpc->log_flags, flags[i], json_boolean(on));
    }
    if (found)
        rpc_ok(c, NULL);
    else
        rpc_fail(c, RPC_INVALID_PARAMS, "Invalid parameters: there is no flag %.60s; log_get_flags lists them", flag);
}

static void set_flag(struct rpc_call *c)
{
    change_flag(c, true);
}

static void clear_flag(struct rpc_call *c)
{
    change_flag(c, false);
}

static void get_flags(struct rpc_call *c)
{
    json_t *out = json_object();
    for (size_t i = 0; i < PLX_ARRAY_SIZE(flags); i++)
        json_object_set_new(out, flags[i], json_boolean(rpc_bool_in(c->rpc->log_flags, flags[i])));
    rpc_ok(c, out);
}

/* ---- what has happened ---- */

void rpc_note(struct plx_rpc *rpc, const char *type, const char *ctx)
{
    uint64_t id = rpc->notes_from + json_array_size(rpc->notes);
    json_array_append_new(rpc->notes, json_pack("{s:s, s:s, s:I}", "type", type, "ctx", ctx, "id", (json_int_t)id));
    if (json_array_size(rpc->notes) > NOTES) {
        json_array_remove(rpc->notes, 0);
        rpc->notes_from++;
    }
}

static const struct rpc_param params_notifications[] = {
    U64("id", "the first to be told", INIT("0")),
    U64("max", "how many at most; 0 for all", INIT("0")),
    END,
};

static void get_notifications(struct rpc_call *c)
{
    uint64_t first = plx_max_u64(rpc_uint(c, "id"), c->rpc->notes_from), max = rpc_uint(c, "max");
    json_t *out = json_array();
    for (uint64_t i = first - c->rpc->notes_from; i < json_array_size(c->rpc->notes); i++)
        if (!max || json_array_size(out) < max)
            json_array_append(out, json_array_get(c->rpc->notes, (size_t)i));
    rpc_ok(c, out);
}

static void get_notify_types(struct rpc_call *c)
{
    rpc_ok(c, json_pack("[s, s]", "bdev_register", "bdev_unregister"));
}

/* ---- its end ---- */

static const struct rpc_param params_kill[] = {
    TEXT("sig_name", "SIGTERM, SIGINT, SIGQUIT, SIGHUP or SIGKILL, or its number", REQUIRED),
    END,
};

/* Not from within the call, whose client would go meanwhile. */
static void kill_due(struct plx_msg *msg)
{
    struct plx_rpc *rpc = plx_container_of(msg, struct plx_rpc, kill);
    int sig = rpc->kill_sig;
    rpc->kill_sig = 0;
    rpc->o.kill(rpc->o.arg, sig);
}

static void kill_instance(struct rpc_call *c)
{
    static const struct {
        const char *name;
        int sig;
    } signals[] = {
        {"SIGINT", SIGINT}, {"SIGTERM", SIGTERM}, {"SIGQUIT", SIGQUIT}, {"SIGHUP", SIGHUP}, {"SIGKILL", SIGKILL}};
    const char *name = rpc_str(c, "sig_name");
    for (size_t i = 0; i < PLX_ARRAY_SIZE(signals); i++) {
        char number[8];
        snprintf(number, sizeof number, "%d", signals[i].sig);
        if (strcmp(name, signals[i].name) != 0 && strcmp(name, signals[i].name + 3) != 0 && strcmp(name, number) != 0)
            continue;
        struct plx_rpc *rpc = c->rpc;
        rpc_ok(c, NULL);
        if (rpc->o.kill && !rpc->kill_sig) {
            rpc->kill_sig = signals[i].sig;
            rpc->kill.fn = kill_due;
            plx_reactor_send(rpc->reactor, &rpc->kill);
        }
        return;
    }
    rpc_fail(c, RPC_INVALID_PARAMS,
             "Invalid parameters: signal %.40s is none of SIGINT, SIGTERM, SIGQUIT, SIGHUP and "
             "SIGKILL",
             name);
}

const struct rpc_method rpc_methods_app[] = {
    {"spdk_get_version", "get_spdk_version", "Tells the version.", NULL, RPC_READS, .startup = true,
     .run = get_version},
    {"rpc_get_methods", "get_rpc_methods", "Lists methods.", params_get_methods, RPC_READS, .startup = true,
     .run = get_methods},
    {"pollux_describe_methods", NULL, "Describes all methods and their parameters.", NULL, RPC_READS, .startup = true,
     .run = describe_methods},
    {"framework_start_init", "start_subsystem_init", "Ends the state that --wait-for-rpc begins with.", NULL,
     RPC_CHANGES, .startup = true, .startup_only = true, .run = start_init},
    {"framework_wait_init", "wait_subsystem_init", "Waits for that end.", NULL, RPC_READS, .startup = true,
     .run = wait_init},
    {"framework_get_subsystems", "get_subsystems", "Lists groups of methods that configurations have.", NULL, RPC_READS,
     .startup = true, .run = get_groups},
    {"framework_get_config", "get_subsystem_config", "Lists the calls that make a group again as it is.",
     params_get_config, RPC_DUMPS, .startup = true, .run = get_config},
    {"pollux_save", NULL, "The whole configuration, as -c takes it.", NULL, RPC_DUMPS, .run = save_config},
    {"framework_get_reactors", NULL, "Describes reactors.", NULL, RPC_READS, .run = get_reactors},
    {"framework_set_scheduler", NULL, "Chooses how threads are spread over reactors.", params_scheduler, RPC_READS,
     .startup = true, .run = set_scheduler},
    {"framework_get_scheduler", NULL, "Tells how they are.", NULL, RPC_READS, .run = get_scheduler},
    {"framework_get_pci_devices", NULL, "Lists devices that are driven, of which there are none.", NULL, RPC_READS,
     .run = get_pci_devices},
    {"thread_get_stats", NULL, "Tells how busy reactors are.", NULL, RPC_READS, .run = thread_get_stats},
    {"log_set_print_level", "set_log_print_level", "Sets what is printed.", params_level, RPC_READS, .startup = true,
     .run = set_print_level},
    {"log_get_print_level", "get_log_print_level", "Tells what is printed.", NULL, RPC_READS, .startup = true,
     .run = get_print_level},
    {"log_set_level", "set_log_level", "Sets what would go to a system log.", params_level, RPC_READS, .startup = true,
     .run = set_level},
    {"log_get_level", "get_log_level", "Tells that.", NULL, RPC_READS, .startup = true, .run = get_level},
    {"log_set_flag", "set_log_flag", "Sets a flag.", params_flag, RPC_READS, .startup = true, .run = set_flag},
    {"log_clear_flag", "clear_log_flag", "Clears a flag.", params_flag, RPC_READS, .startup = true, .run = clear_flag},
    {"log_get_flags", "get_log_flags", "Tells flags.", NULL, RPC_READS, .startup = true, .run = get_flags},
    {"notify_get_types", "get_notification_types", "Lists kinds of what can happen.", NULL, RPC_READS, .startup = true,
     .run = get_notify_types},
    {"notify_get_notifications", "get_notifications", "Tells what has happened.", params_notifications, RPC_READS,
     .run = get_notifications},
    {"spdk_kill_instance", "kill_instance", "Has the process end.", params_kill, RPC_READS, .startup = true,
     .run = kill_instance},
    {.name = NULL},
};
