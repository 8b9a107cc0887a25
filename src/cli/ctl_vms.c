/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux ctl vms`: who is connected over vhost-user, and how they are. */
#include "ctl.h"

static json_t *duration_text(json_int_t ms)
{
    const double s = (double)ms / 1e3;
    return ms < 1000      ? ctl_textf("%lld ms", ms)
           : s < 120      ? ctl_textf("%.1f s", s)
           : s < 2 * 3600 ? ctl_textf("%.0f min", s / 60)
                          : ctl_textf("%.1f h", s / 3600);
}

/* Of a SCSI host: of how many units it consists. */
static json_t *disk_text(const json_t *device)
{
    const json_t *backend = json_object_get(device, "backend_specific"), *target;
    const json_t *targets = json_object_get(backend, "scsi");
    size_t i, units = 0;
    if (!targets)
        return ctl_text(ctl_str(json_object_get(backend, "block"), "bdev"));
    json_array_foreach(targets, i, target)
    {
        units += json_array_size(json_object_get(target, "luns"));
    }
    return ctl_textf("%zu unit%s", units, units == 1 ? "" : "s");
}

/* All of a front-end's are alike, as a rule: the first one is described. */
static json_t *queues_text(const json_t *rings)
{
    const size_t n = json_array_size(rings);
    const json_t *ring = json_array_get(rings, 0), *each;
    size_t i, broken = 0;
    if (!n)
        return ctl_text(NULL);
    json_array_foreach(rings, i, each)
    {
        broken += json_object_get(each, "broken") != NULL;
    }
    return broken ? ctl_textf("%zu %s of %lld, %zu broken", n, ctl_str(ring, "layout"), ctl_int(ring, "size"), broken)
                  : ctl_textf("%zu %s of %lld", n, ctl_str(ring, "layout"), ctl_int(ring, "size"));
}

/* One without a front-end is described by itself. */
static void list_session(json_t *rows, const json_t *device, const json_t *session)
{
    const json_int_t oldest = ctl_int(session, "oldest_ms"), pid = ctl_int(session, "pid");
    json_array_append_new(
        rows, json_pack("[o, o, o, o, o, o, o, o, o]", ctl_text(ctl_str(device, "ctrlr")), disk_text(device),
                        ctl_text(ctl_str(session, "state")), duration_text(ctl_int(session, "state_ms")),
                        pid ? ctl_textf("%lld", pid) : ctl_text(NULL), queues_text(json_object_get(session, "rings")),
                        ctl_textf("%lld", ctl_int(session, "in_flight")),
                        oldest ? duration_text(oldest) : ctl_text(NULL), ctl_text(ctl_str(session, "oldest_where"))));
}

int ctl_vms(struct ctl *c, char *const *words, int n)
{
    static const char *const heads[] = {"DEVICE", "DISK",      "STATE",  "FOR",  "PROCESS",
                                        "QUEUES", "IN FLIGHT", "OLDEST", "WHERE"};
    json_t *found, *rows = json_array();
    const json_t *device, *session;
    size_t i, k;
    (void)words, (void)n;
    int ret = ctl_call(c, "vhost_get_controllers", NULL, &found);
    json_array_foreach(ret ? NULL : found, i, device)
    {
        const json_t *sessions = json_object_get(device, "sessions");
        if (!json_array_size(sessions))
            list_session(rows, device, device);
        json_array_foreach(sessions, k, session)
        {
            list_session(rows, device, session);
        }
    }
    if (!ret && c->json)
        ctl_print_json(found);
    else if (!ret)
        ctl_print_table(heads, "lllrrlrrl", json_incref(rows));
    if (!ret)
        json_decref(found);
    json_decref(rows);
    return ret;
}
