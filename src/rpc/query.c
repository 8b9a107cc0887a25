/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods that tell what is going on: who is connected, what is in flight, what reactors do. */
#include "rpc/table.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DISCOVERY_NQN "nqn.2014-08.org.nvmexpress.discovery"

static const struct rpc_param params_subsystem[] = {
    TEXT("nqn", "of the subsystem", REQUIRED),
    TARGET,
    END,
};

static const struct rpc_param params_target[] = {TARGET, END};

static json_t *end_json(const struct plx_nvmf_end *end)
{
    char service[8];
    snprintf(service, sizeof service, "%u", end->port);
    return json_pack("{s:s, s:s, s:s, s:s}", "trtype", "TCP", "adrfam", end->ipv6 ? "IPv6" : "IPv4", "traddr",
                     end->addr, "trsvcid", service);
}

static void no_memory(struct rpc_call *c)
{
    rpc_fail_errno(c, -ENOMEM, NULL);
}

/* ---- who is connected ---- */

static json_t *ctrlr_json(const struct plx_nvmf_controller_info *i)
{
    return json_pack("{s:i, s:s, s:o, s:i, s:i, s:I, s:o, s:o}", "cntlid", i->cntlid, "hostnqn", i->hostnqn, "hostid",
                     rpc_uuid_json(i->hostid), "num_io_qpairs", (int)i->nio, "kato_ms", (int)i->kato_ms, "age_ms",
                     (json_int_t)(i->age_ns / PLX_NS_PER_MS), "listen_address", end_json(&i->listener), "peer_address",
                     end_json(&i->qpairs[0].peer));
}

static void controllers_found(void *arg, const struct plx_nvmf_controller_info *found, unsigned n)
{
    struct rpc_call *c = arg;
    json_t *out = json_array();
    for (unsigned i = 0; found && i < n; i++)
        json_array_append_new(out, ctrlr_json(&found[i]));
    if (found)
        rpc_ok(c, out);
    else
        no_memory(c);
    if (!found)
        json_decref(out);
}

static json_t *qpair_json(const struct plx_rpc *rpc, const struct plx_nvmf_controller_info *ctrlr,
                          const struct plx_nvmf_qpair_info *q)
{
    char thread[40] = "";
    for (unsigned i = 0; i < rpc->o.nreactors; i++)
        if (i && plx_reactor_core(rpc->o.reactors[i]) == q->core)
            rpc_reactor_name(rpc, i, thread, sizeof thread);
    static const char *const placed[] = {
        [PLX_NVMF_PLACED_LOAD] = "load", [PLX_NVMF_PLACED_CPU] = "interrupts", [PLX_NVMF_PLACED_NAPI] = "queue"};
    return json_pack("{s:i, s:i, s:s, s:s, s:i, s:s, s:i, s:s, s:o, s:o, s:i, s:I, s:i, s:b, s:b}", "cntlid",
                     ctrlr->cntlid, "qid", q->qid, "state", "enabled", "thread", thread, "core", q->core, "placed_by",
                     placed[q->placed], "incoming_cpu", q->incoming_cpu, "hostnqn", ctrlr->hostnqn, "listen_address",
                     end_json(&q->local), "peer_address", end_json(&q->peer), "in_flight", (int)q->in_flight,
                     "completed", (json_int_t)q->completed, "entries", q->entries, "hdgst", q->header_digest, "ddgst",
                     q->data_digest);
}

static void qpairs_found(void *arg, const struct plx_nvmf_controller_info *found, unsigned n)
{
    struct rpc_call *c = arg;
    if (!found) {
        no_memory(c);
        return;
    }
    json_t *out = json_array();
    for (unsigned i = 0; i < n; i++)
        for (unsigned q = 0; q <= found[i].nio; q++)
            json_array_append_new(out, qpair_json(c->rpc, &found[i], &found[i].qpairs[q]));
    rpc_ok(c, out);
}

static void query_subsystem(struct rpc_call *c,
                            void (*found)(void *arg, const struct plx_nvmf_controller_info *found, unsigned n))
{
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (!s)
        return;
    int ret = plx_nvmf_query_controllers(s, found, c);
    if (ret)
        rpc_fail_errno(c, ret, NULL);
}

static void get_controllers(struct rpc_call *c)
{
    query_subsystem(c, controllers_found);
}

static void get_qpairs(struct rpc_call *c)
{
    query_subsystem(c, qpairs_found);
}

/* ---- what is in flight ---- */

static json_t *command_json(const struct plx_nvmf_command_info *i)
{
    json_t *o = json_pack("{s:I, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:I, s:i}", "age_us",
                          (json_int_t)(i->age_ns / PLX_NS_PER_US), "where", plx_nvmf_stage_text(i->stage), "nqn",
                          i->subnqn, "hostnqn", i->hostnqn, "cntlid", i->cntlid, "qid", i->qid, "cid", i->cid, "opcode",
                          i->opcode, "nsid", (json_int_t)i->nsid, "core", i->core);
    if (i->disk[0])
        json_object_set_new(o, "bdev_name", json_string(i->disk));
    if (i->range) {
        json_object_set_new(o, "lba", json_integer((json_int_t)i->lba));
        json_object_set_new(o, "nlb", json_integer(i->nlb));
    }
    if (i->orphan)
        json_object_set_new(o, "orphan", json_true());
    return o;
}

static void inflight_found(void *arg, const struct plx_nvmf_command_info *found, unsigned n, uint64_t left_out)
{
    struct rpc_call *c = arg;
    if (!found) {
        no_memory(c);
        return;
    }
    json_t *out = json_array();
    for (unsigned i = 0; i < n; i++)
        json_array_append_new(out, command_json(&found[i]));
    rpc_ok(c, json_pack("{s:o, s:I}", "commands", out, "left_out", (json_int_t)left_out));
}

static void get_inflight(struct rpc_call *c)
{
    int ret = plx_nvmf_query_inflight(c->rpc->o.target, inflight_found, c);
    if (ret)
        rpc_fail_errno(c, ret, NULL);
}

/* ---- what reactors do ---- */

static void stats_found(void *arg, const struct plx_nvmf_reactor_info *found, unsigned n)
{
    struct rpc_call *c = arg;
    if (!found) {
        no_memory(c);
        return;
    }
    json_t *groups = json_array();
    for (unsigned i = 0; i < n; i++) {
        const struct plx_nvmf_reactor_info *r = &found[i];
        char name[40];
        rpc_reactor_name(c->rpc, i + 1, name, sizeof name);
        json_array_append_new(
            groups, json_pack("{s:s, s:I, s:I, s:i, s:i, s:i, s:i, s:I, s:[{s:s}], s:i, s:I, s:I}", "name", name,
                              "admin_qpairs", (json_int_t)r->all_admin_qpairs, "io_qpairs",
                              (json_int_t)r->all_io_qpairs, "current_admin_qpairs", (int)r->admin_qpairs,
                              "current_io_qpairs", (int)r->io_qpairs, "current_unassociated_qpairs",
                              (int)r->unassociated, "pending_bdev_io", (int)r->at_disks, "completed_nvme_io",
                              (json_int_t)r->io_commands, "transports", "trtype", "TCP", "in_flight", (int)r->in_flight,
                              "buffer_bytes", (json_int_t)r->buffer_bytes, "buffer_free", (json_int_t)r->buffer_free));
    }
    rpc_ok(c, json_pack("{s:I, s:o}", "tick_rate", (json_int_t)PLX_NS_PER_S, "poll_groups", groups));
}

static void get_stats(struct rpc_call *c)
{
    int ret = plx_nvmf_query_stats(c->rpc->o.target, stats_found, c);
    if (ret)
        rpc_fail_errno(c, ret, NULL);
}

const struct rpc_method rpc_methods_query[] = {
    {"nvmf_subsystem_get_controllers", NULL, "Lists the controllers that hosts have of a subsystem.", params_subsystem,
     RPC_READS, .run = get_controllers},
    {"nvmf_subsystem_get_qpairs", NULL, "Lists the queue pairs of hosts.", params_subsystem, RPC_READS,
     .run = get_qpairs},
    {"nvmf_get_stats", NULL, "Tells what reactors do for hosts.", params_target, RPC_READS, .run = get_stats},
    {"pollux_get_inflight", NULL, "Lists commands in flight, oldest first, and where each is.", NULL, RPC_READS,
     .run = get_inflight},
    {.name = NULL},
};
