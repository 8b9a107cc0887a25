/* SPDX-License-Identifier: BSD-3-Clause */
#include "target_query.h"

#include <inttypes.h>
#include <stdio.h>

/* There is one question at a time. */
static void (*then)(void);

static void end_of_answer(void)
{
    printf("]\n");
    then();
}

static void print_end(const char *name, const struct plx_nvmf_end *e)
{
    printf("\"%s\": [\"%s\", %u, %s], ", name, e->addr, e->port, e->ipv6 ? "true" : "false");
}

static const char *truth(bool yes)
{
    return yes ? "true" : "false";
}

static void print_qpair(const struct plx_nvmf_qpair_info *q)
{
    printf("{\"qid\": %u, \"entries\": %u, \"core\": %d, \"in_flight\": %u, \"completed\": %" PRIu64
           ", \"age\": %" PRIu64 ", ",
           q->qid, q->entries, q->core, q->in_flight, q->completed, q->age_ns);
    print_end("peer", &q->peer);
    print_end("local", &q->local);
    printf("\"digests\": [%s, %s]}", truth(q->header_digest), truth(q->data_digest));
}

static void print_controllers(void *arg, const struct plx_nvmf_controller_info *c, unsigned n)
{
    (void)arg;
    printf("ok [");
    for (unsigned i = 0; c && i < n; i++) {
        printf("%s{\"cntlid\": %u, \"hostnqn\": \"%s\", \"hostid\": \"", i ? ", " : "", c[i].cntlid, c[i].hostnqn);
        for (unsigned k = 0; k < sizeof c[i].hostid; k++)
            printf("%02x", c[i].hostid[k]);
        printf("\", \"kato\": %u, \"age\": %" PRIu64 ", ", c[i].kato_ms, c[i].age_ns);
        print_end("listener", &c[i].listener);
        printf("\"qpairs\": [");
        for (unsigned k = 0; k <= c[i].nio; k++) {
            printf("%s", k ? ", " : "");
            print_qpair(&c[i].qpairs[k]);
        }
        printf("]}");
    }
    end_of_answer();
}

static void print_commands(void *arg, const struct plx_nvmf_command_info *c, unsigned n, uint64_t left_out)
{
    (void)arg;
    printf("ok [%" PRIu64, left_out);
    for (unsigned i = 0; i < n; i++) {
        printf(", {\"stage\": \"%s\", \"age\": %" PRIu64 ", \"core\": %d, \"subnqn\": \"%s\", \"hostnqn\": \"%s\", ",
               plx_nvmf_stage_text(c[i].stage), c[i].age_ns, c[i].core, c[i].subnqn, c[i].hostnqn);
        printf("\"cntlid\": %u, \"qid\": %u, \"cid\": %u, \"opcode\": %u, \"nsid\": %u, \"lba\": %" PRIu64
               ", \"nlb\": %u, \"disk\": \"%s\", \"orphan\": %s}",
               c[i].cntlid, c[i].qid, c[i].cid, c[i].opcode, c[i].nsid, c[i].lba, c[i].nlb, c[i].disk,
               truth(c[i].orphan));
    }
    end_of_answer();
}

static void print_reactors(void *arg, const struct plx_nvmf_reactor_info *r, unsigned n)
{
    (void)arg;
    printf("ok [");
    for (unsigned i = 0; i < n; i++)
        printf("%s{\"admin\": %u, \"io\": %u, \"all_admin\": %" PRIu64 ", \"all_io\": %" PRIu64
               ", \"unassociated\": %u, \"admin_commands\": %" PRIu64 ", \"io_commands\": %" PRIu64
               ", \"in_flight\": %u, \"at_disks\": %u, \"buffer_bytes\": %zu, \"buffer_free\": %zu}",
               i ? ", " : "", r[i].admin_qpairs, r[i].io_qpairs, r[i].all_admin_qpairs, r[i].all_io_qpairs,
               r[i].unassociated, r[i].admin_commands, r[i].io_commands, r[i].in_flight, r[i].at_disks,
               r[i].buffer_bytes, r[i].buffer_free);
    end_of_answer();
}

int query_controllers(struct plx_nvmf_subsystem *s, void (*printed)(void))
{
    then = printed;
    return plx_nvmf_query_controllers(s, print_controllers, NULL);
}

int query_inflight(struct plx_nvmf_target *t, void (*printed)(void))
{
    then = printed;
    return plx_nvmf_query_inflight(t, print_commands, NULL);
}

int query_stats(struct plx_nvmf_target *t, void (*printed)(void))
{
    then = printed;
    return plx_nvmf_query_stats(t, print_reactors, NULL);
}
