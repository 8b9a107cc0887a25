/* SPDX-License-Identifier: BSD-3-Clause */
/* Verbs that look: status, ls, connections, stats. */
#include "ctl.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

bool ctl_is_nvm(const json_t *subsystem)
{
    return strcmp(ctl_str(subsystem, "subtype"), "Discovery") != 0;
}

int ctl_look(struct ctl *c, json_t **disks, json_t **subsystems)
{
    int ret = ctl_call(c, "bdev_get_bdevs", NULL, disks);
    if (ret)
        return ret;
    ret = ctl_call(c, "nvmf_get_subsystems", NULL, subsystems);
    if (ret)
        json_decref(*disks);
    return ret;
}

static double disk_bytes(const json_t *disk)
{
    return (double)ctl_int(disk, "num_blocks") * (double)ctl_int(disk, "block_size");
}

/* ---- ls ---- */

/* In the words that disks are named by, where there are some. */
static const char *disk_kind(const json_t *disk)
{
    static const char *const kinds[][2] = {{"Malloc disk", "ram"},
                                           {"Null disk", "null"},
                                           {"AIO disk", "file"},
                                           {"URING bdev", "file"},
                                           {"NVMe disk", "nvme"}};
    const char *product = ctl_str(disk, "product_name");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i][0], product) == 0)
            return kinds[i][1];
    return product;
}

/* One row for each namespace that it is, or one for none. */
static void list_one(json_t *rows, const json_t *disk, const json_t *subsystems)
{
    const char *name = ctl_str(disk, "name");
    char size[40];
    size_t i, k, found = 0;
    const json_t *s, *ns;
    ctl_size(disk_bytes(disk), size, sizeof size);
    json_array_foreach(subsystems, i, s)
    {
        json_array_foreach(json_object_get(s, "namespaces"), k, ns)
        {
            if (strcmp(ctl_str(ns, "bdev_name"), name) != 0)
                continue;
            found++;
            json_array_append_new(rows, json_pack("[o, o, o, o, o, o]", ctl_text(name), ctl_text(disk_kind(disk)),
                                                  ctl_text(size), ctl_textf("%lld", ctl_int(disk, "block_size")),
                                                  ctl_textf("%lld", ctl_int(ns, "nsid")), ctl_text(ctl_str(s, "nqn"))));
        }
    }
    if (!found)
        json_array_append_new(rows,
                              json_pack("[o, o, o, o, s, s]", ctl_text(name), ctl_text(disk_kind(disk)), ctl_text(size),
                                        ctl_textf("%lld", ctl_int(disk, "block_size")), "-", "-"));
}

int ctl_list(struct ctl *c, char *const *words, int n)
{
    static const char *const heads[] = {"DISK", "KIND", "SIZE", "BLOCK", "NSID", "SUBSYSTEM"};
    json_t *disks, *subsystems, *rows = json_array();
    const json_t *disk;
    size_t i;
    (void)words, (void)n;
    if (ctl_look(c, &disks, &subsystems)) {
        json_decref(rows);
        return EXIT_RUNTIME;
    }
    json_array_foreach(disks, i, disk)
    {
        list_one(rows, disk, subsystems);
    }
    json_t *all = json_pack("{s:o, s:o}", "disks", disks, "subsystems", subsystems);
    if (c->json) {
        ctl_print_json(all);
        json_decref(rows);
    } else {
        ctl_print_table(heads, "llrrrl", rows);
    }
    json_decref(all);
    return EXIT_OK;
}

/* ---- hosts that are connected ---- */

/* Where a queue pair lives, and why, among the controller's "places"; servers other than ours do not tell. */
static void add_place(json_t *ctrlr, const json_t *qpair)
{
    json_t *places = json_object_get(ctrlr, "places"), *core = json_object_get(qpair, "core");
    if (!core || !json_object_get(qpair, "placed_by"))
        return;
    if (!places)
        json_object_set_new(ctrlr, "places", places = json_array());
    json_array_append_new(places, json_pack("{s:I, s:O, s:O, s:O}", "qid", ctl_int(qpair, "qid"), "core", core,
                                            "placed_by", json_object_get(qpair, "placed_by"), "incoming_cpu",
                                            json_object_get(qpair, "incoming_cpu")));
}

/* "0: 3 by interrupts, 1: 2 by load": the reactors' cores, and how many queue pairs each has for which reason. */
static json_t *places_text(const json_t *places)
{
    char text[256] = "";
    size_t at = 0, i, k;
    const json_t *p, *other;
    json_array_foreach(places, i, p)
    {
        size_t same = 0;
        bool first = true;
        json_array_foreach(places, k, other)
        {
            bool is = ctl_int(p, "core") == ctl_int(other, "core") &&
                      strcmp(ctl_str(p, "placed_by"), ctl_str(other, "placed_by")) == 0;
            same += is;
            first &= !is || k >= i;
        }
        if (first && at < sizeof text)
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%lld: %zu by %s", at ? ", " : "", ctl_int(p, "core"),
                                   same, ctl_str(p, "placed_by"));
    }
    return ctl_text(at ? text : NULL);
}

/* A subsystem's controllers, with where their hosts come from; NULL where the server does not tell. */
static json_t *controllers_of(struct ctl *c, const json_t *subsystem)
{
    json_t *out = NULL, *qpairs = NULL, *ctrlr;
    const json_t *q;
    char *error = NULL;
    size_t i, k;
    if (ctl_try(c, "nvmf_subsystem_get_controllers", json_pack("{s:s}", "nqn", ctl_str(subsystem, "nqn")), &out,
                &error)) {
        free(error);
        return NULL;
    }
    if (ctl_try(c, "nvmf_subsystem_get_qpairs", json_pack("{s:s}", "nqn", ctl_str(subsystem, "nqn")), &qpairs, &error))
        free(error);
    json_array_foreach(out, i, ctrlr)
    {
        json_object_set_new(ctrlr, "subnqn", json_string(ctl_str(subsystem, "nqn")));
        json_array_foreach(qpairs, k, q)
        {
            json_t *from = json_object_get(q, "peer_address");
            if (ctl_int(q, "cntlid") != ctl_int(ctrlr, "cntlid"))
                continue;
            if (from && !ctl_int(q, "qid"))
                json_object_set(ctrlr, "peer_address", from);
            add_place(ctrlr, q);
        }
    }
    json_decref(qpairs);
    return out;
}

static json_t *address_text(const json_t *a)
{
    const char *addr = ctl_str(a, "traddr");
    return ctl_textf(strchr(addr, ':') ? "[%s]:%s" : "%s:%s", addr, ctl_str(a, "trsvcid"));
}

static void list_controller(json_t *rows, const json_t *ctrlr)
{
    const json_t *from = json_object_get(ctrlr, "peer_address");
    json_array_append_new(
        rows,
        json_pack("[o, o, o, o, o, o]", ctl_text(ctl_str(ctrlr, "hostnqn")), from ? address_text(from) : ctl_text(NULL),
                  ctl_textf("%lld", ctl_int(ctrlr, "cntlid")), ctl_textf("%lld", ctl_int(ctrlr, "num_io_qpairs")),
                  places_text(json_object_get(ctrlr, "places")), ctl_text(ctl_str(ctrlr, "subnqn"))));
}

int ctl_connections(struct ctl *c, char *const *words, int n)
{
    static const char *const heads[] = {"HOST", "FROM", "CNTLID", "QUEUES", "CORES", "SUBSYSTEM"};
    json_t *subsystems, *all = json_array(), *rows = json_array();
    const json_t *s, *ctrlr;
    size_t i;
    (void)words, (void)n;
    int ret = ctl_call(c, "nvmf_get_subsystems", NULL, &subsystems);
    json_array_foreach(ret ? NULL : subsystems, i, s)
    {
        json_t *some = ctl_is_nvm(s) ? controllers_of(c, s) : NULL;
        json_array_extend(all, some);
        json_decref(some);
    }
    json_array_foreach(all, i, ctrlr)
    {
        list_controller(rows, ctrlr);
    }
    if (!ret && !c->json) {
        ctl_print_table(heads, "llrrll", json_incref(rows));
    } else if (!ret) {
        ctl_print_json(all);
    }
    if (!ret)
        json_decref(subsystems);
    json_decref(all);
    json_decref(rows);
    return ret;
}

/* ---- commands in flight ---- */

static json_t *age_text(double us)
{
    return us < 1e3   ? ctl_textf("%.0f us", us)
           : us < 1e6 ? ctl_textf("%.1f ms", us / 1e3)
                      : ctl_textf("%.1f s", us / 1e6);
}

/* In the terms of the NVM Command Set; of the admin queue, and what we do not know, its number alone. */
static json_t *command_text(const json_t *command)
{
    static const struct {
        int opcode;
        const char *name;
    } names[] = {{0x00, "flush"},     {0x01, "write"},        {0x02, "read"},       {0x04, "write uncorrectable"},
                 {0x05, "compare"},   {0x08, "write zeroes"}, {0x09, "DSM"},        {0x0c, "verify"},
                 {0x0d, "reserve"},   {0x11, "reserve"},      {0x15, "reserve"},    {0x19, "copy"},
                 {0x79, "zone send"}, {0x7a, "zone receive"}, {0x7d, "zone append"}};
    json_int_t opcode = ctl_int(command, "opcode");
    for (size_t i = 0; ctl_int(command, "qid") && i < sizeof names / sizeof names[0]; i++)
        if (names[i].opcode == opcode)
            return ctl_text(names[i].name);
    return ctl_textf("%s %02llxh", ctl_int(command, "qid") ? "opcode" : "admin", opcode);
}

static json_t *lba_text(const json_t *command)
{
    if (!json_object_get(command, "lba"))
        return ctl_text(NULL);
    return ctl_textf("%lld+%lld", ctl_int(command, "lba"), ctl_int(command, "nlb"));
}

int ctl_inflight(struct ctl *c, char *const *words, int n)
{
    static const char *const heads[] = {"AGE", "COMMAND", "LBA", "NSID", "DISK", "QUEUE", "HOST", "WHERE"};
    json_t *found, *rows = json_array();
    const json_t *k;
    size_t i;
    (void)words, (void)n;
    int ret = ctl_call(c, "pollux_get_inflight", NULL, &found);
    json_array_foreach(ret ? NULL : json_object_get(found, "commands"), i, k)
    {
        json_array_append_new(rows, json_pack("[o, o, o, o, o, o, o, o]", age_text((double)ctl_int(k, "age_us")),
                                              command_text(k), lba_text(k), ctl_textf("%lld", ctl_int(k, "nsid")),
                                              ctl_text(ctl_str(k, "bdev_name")), ctl_textf("%lld", ctl_int(k, "qid")),
                                              ctl_text(ctl_str(k, "hostnqn")), ctl_text(ctl_str(k, "where"))));
    }
    if (!ret && c->json)
        ctl_print_json(found);
    else if (!ret)
        ctl_print_table(heads, "rllrlrll", json_incref(rows));
    if (!ret && !c->json && ctl_int(found, "left_out"))
        printf("%lld younger ones are left out\n", ctl_int(found, "left_out"));
    if (!ret)
        json_decref(found);
    json_decref(rows);
    return ret;
}

/* ---- status ---- */

static void print_member(const char *name, const json_t *text)
{
    printf("  %-13s  %s\n", name, json_string_value(text));
}

static void print_names(const char *name, const json_t *list, const char *none)
{
    size_t i;
    const json_t *text;
    if (!json_array_size(list))
        printf("  %-13s  %s\n", name, none);
    json_array_foreach(list, i, text)
    {
        print_member(i ? "" : name, text);
    }
}

static json_t *member_texts(const json_t *list, const char *member)
{
    json_t *out = json_array();
    size_t i;
    const json_t *o;
    json_array_foreach(list, i, o)
    {
        json_array_append_new(out, member ? ctl_text(ctl_str(o, member)) : address_text(o));
    }
    return out;
}

static json_t *namespace_texts(const json_t *subsystem, const json_t *disks)
{
    json_t *out = json_array();
    size_t i, k;
    const json_t *ns, *disk;
    json_array_foreach(json_object_get(subsystem, "namespaces"), i, ns)
    {
        char size[40] = "?";
        json_array_foreach(disks, k, disk)
        {
            if (strcmp(ctl_str(disk, "name"), ctl_str(ns, "bdev_name")) == 0)
                ctl_size(disk_bytes(disk), size, sizeof size);
        }
        json_array_append_new(out, ctl_textf("%lld: %s, %s", ctl_int(ns, "nsid"), ctl_str(ns, "bdev_name"), size));
    }
    return out;
}

static void print_subsystem(const json_t *s, const json_t *disks, const json_t *controllers)
{
    json_t *nqn = ctl_text(ctl_str(s, "nqn")), *serial = ctl_text(ctl_str(s, "serial_number"));
    json_t *where = member_texts(json_object_get(s, "listen_addresses"), NULL);
    json_t *hosts = member_texts(json_object_get(s, "hosts"), "nqn");
    json_t *namespaces = namespace_texts(s, disks), *connected = member_texts(controllers, "hostnqn");
    printf("\nsubsystem %s\n", json_string_value(nqn));
    print_member("serial number", serial);
    print_names("listens at", where, "nowhere; \"pollux ctl listen ADDR\" has hosts reach it");
    if (json_is_true(json_object_get(s, "allow_any_host")))
        printf("  %-13s  every host\n", "lets in");
    else
        print_names("lets in", hosts, "nobody; \"pollux ctl allow HOSTNQN\" lets one in");
    print_names("namespaces", namespaces, "none; \"pollux ctl add DISK\" adds one");
    if (controllers)
        print_names("connected", connected, "nobody");
    json_t *const made[] = {nqn, serial, where, hosts, namespaces, connected};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++)
        json_decref(made[i]);
}

static void print_reactors(const json_t *reactors)
{
    static const char *const heads[] = {"REACTOR", "CORE", "BUSY"};
    json_t *rows = json_array();
    const json_t *r;
    size_t i;
    json_array_foreach(json_object_get(reactors, "reactors"), i, r)
    {
        double busy = (double)ctl_int(r, "busy"), all = busy + (double)ctl_int(r, "idle");
        json_array_append_new(
            rows, json_pack("[o, o, o]", ctl_textf("%zu", i),
                            ctl_int(r, "lcore") < 0 ? ctl_text("any") : ctl_textf("%lld", ctl_int(r, "lcore")),
                            ctl_textf("%.0f %%", all > 0 ? 100 * busy / all : 0.0)));
    }
    ctl_print_table(heads, "rrr", rows);
}

static void print_status(struct ctl *c, const json_t *all)
{
    const json_t *reactors = json_object_get(all, "reactors"), *s;
    size_t i, n = 0;
    json_t *version = ctl_text(ctl_str(json_object_get(all, "version"), "version"));
    printf("%s\nprocess %lld, controlled at %s\n\n", json_string_value(version), ctl_int(reactors, "pid"), c->socket);
    json_decref(version);
    print_reactors(reactors);
    json_array_foreach(json_object_get(all, "subsystems"), i, s)
    {
        if (!ctl_is_nvm(s))
            continue;
        json_t *controllers = controllers_of(c, s);
        print_subsystem(s, json_object_get(all, "disks"), controllers);
        json_decref(controllers);
        n++;
    }
    if (!n)
        puts("\nno subsystem; \"pollux ctl create NQN\" makes one");
}

int ctl_status(struct ctl *c, char *const *words, int n)
{
    json_t *version, *reactors, *disks, *subsystems;
    (void)words, (void)n;
    int ret = ctl_call(c, "spdk_get_version", NULL, &version);
    if (ret)
        return ret;
    ret = ctl_call(c, "framework_get_reactors", NULL, &reactors);
    if (ret)
        goto no_reactors;
    ret = ctl_look(c, &disks, &subsystems);
    if (ret)
        goto no_look;
    json_t *all = json_pack("{s:O, s:O, s:o, s:o}", "version", version, "reactors", reactors, "disks", disks,
                            "subsystems", subsystems);
    if (c->json)
        ctl_print_json(all);
    else
        print_status(c, all);
    json_decref(all);
no_look:
    json_decref(reactors);
no_reactors:
    json_decref(version);
    return ret;
}

/* ---- stats ---- */

/* What is counted of reads, or of writes. */
struct ctl_counts {
    double ops, bytes, ticks;
};

static struct ctl_counts counts_of(const json_t *disk, bool write)
{
    return (struct ctl_counts){
        .ops = (double)ctl_int(disk, write ? "num_write_ops" : "num_read_ops"),
        .bytes = (double)ctl_int(disk, write ? "bytes_written" : "bytes_read"),
        .ticks = (double)ctl_int(disk, write ? "write_latency_ticks" : "read_latency_ticks"),
    };
}

static const json_t *disk_named(const json_t *stats, const char *name)
{
    size_t i;
    const json_t *disk;
    json_array_foreach(json_object_get(stats, "bdevs"), i, disk)
    {
        if (strcmp(ctl_str(disk, "name"), name) == 0)
            return disk;
    }
    return NULL;
}

/* What came between two looks; a disk that was not there before has done all of it since. */
static struct ctl_counts counts_since(const json_t *before, const json_t *disk, bool write)
{
    struct ctl_counts now = counts_of(disk, write);
    const json_t *old = disk_named(before, ctl_str(disk, "name"));
    struct ctl_counts then = counts_of(old, write);
    if (then.ops > now.ops) /* it is another disk of this name, or was reset */
        return now;
    return (struct ctl_counts){now.ops - then.ops, now.bytes - then.bytes, now.ticks - then.ticks};
}

/* Seconds of one request, on average. */
static double latency_of(const struct ctl_counts *k, double tick_rate)
{
    return k->ops > 0 && tick_rate > 0 ? k->ticks / k->ops / tick_rate : 0;
}

static json_t *latency_text(double seconds)
{
    return seconds <= 0     ? ctl_text(NULL)
           : seconds < 1e-3 ? ctl_textf("%.1f us", seconds * 1e6)
           : seconds < 1.0  ? ctl_textf("%.1f ms", seconds * 1e3)
                            : ctl_textf("%.1f s", seconds);
}

static json_t *bytes_text(double bytes)
{
    char text[40];
    const char *unit = cli_unit(&bytes);
    snprintf(text, sizeof text, bytes < 10 && unit[0] != 'B' ? "%.1f %s" : "%.0f %s", bytes, unit);
    return ctl_text(text);
}

static void print_stats(const json_t *before, const json_t *after, double seconds)
{
    static const char *const totals[] = {"DISK", "READS", "READ", "WRITES", "WRITTEN", "READ TIME", "WRITE TIME"};
    static const char *const rates[] = {"DISK",      "READS/S",   "READ/S",    "WRITES/S",
                                        "WRITTEN/S", "READ TIME", "WRITE TIME"};
    double tick_rate = (double)ctl_int(after, "tick_rate");
    json_t *rows = json_array();
    const json_t *disk;
    size_t i;
    json_array_foreach(json_object_get(after, "bdevs"), i, disk)
    {
        struct ctl_counts r = counts_since(before, disk, false), w = counts_since(before, disk, true);
        json_array_append_new(rows, json_pack("[o, o, o, o, o, o, o]", ctl_text(ctl_str(disk, "name")),
                                              ctl_textf("%.0f", r.ops / seconds), bytes_text(r.bytes / seconds),
                                              ctl_textf("%.0f", w.ops / seconds), bytes_text(w.bytes / seconds),
                                              latency_text(latency_of(&r, tick_rate)),
                                              latency_text(latency_of(&w, tick_rate))));
    }
    ctl_print_table(before ? rates : totals, "lrrrrrr", rows);
}

static void print_stats_json(const json_t *before, const json_t *after, double seconds)
{
    double tick_rate = (double)ctl_int(after, "tick_rate");
    json_t *out = json_array();
    const json_t *disk;
    size_t i;
    json_array_foreach(json_object_get(after, "bdevs"), i, disk)
    {
        struct ctl_counts r = counts_since(before, disk, false), w = counts_since(before, disk, true);
        json_array_append_new(out, json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "name", ctl_str(disk, "name"),
                                             "reads_per_sec", r.ops / seconds, "read_bytes_per_sec", r.bytes / seconds,
                                             "writes_per_sec", w.ops / seconds, "written_bytes_per_sec",
                                             w.bytes / seconds, "read_latency_us", latency_of(&r, tick_rate) * 1e6,
                                             "write_latency_us", latency_of(&w, tick_rate) * 1e6));
    }
    json_t *all = json_pack("{s:f, s:o}", "seconds", seconds, "disks", out);
    ctl_print_json(all);
    json_decref(all);
}

static void wait_seconds(uint64_t seconds)
{
    poll(NULL, 0, (int)seconds * 1000);
}

int ctl_stats(struct ctl *c, char *const *words, int n)
{
    json_t *before = NULL, *after;
    char *rest = NULL;
    errno = 0;
    unsigned long wanted = n ? strtoul(words[0], &rest, 10) : 0;
    if (n && (words[0][0] < '0' || words[0][0] > '9' || *rest || errno || !wanted || wanted > 86400))
        return cli_fail(EXIT_USAGE, "stats %s: takes seconds from 1 to 86400", words[0]);
    if (n && ctl_call(c, "bdev_get_iostat", NULL, &before))
        return EXIT_RUNTIME;
    if (n)
        wait_seconds(wanted);
    int ret = ctl_call(c, "bdev_get_iostat", NULL, &after);
    if (!ret) {
        /* As its clock has it, and not as we meant to wait. */
        double ticks = (double)(ctl_int(after, "ticks") - ctl_int(before, "ticks"));
        double seconds = n && ticks > 0 && ctl_int(after, "tick_rate") > 0 ? ticks / (double)ctl_int(after, "tick_rate")
                         : n                                               ? (double)wanted
                                                                           : 1;
        if (!c->json)
            print_stats(before, after, seconds);
        else if (before)
            print_stats_json(before, after, seconds);
        else
            ctl_print_json(after);
        json_decref(after);
    }
    json_decref(before);
    return ret;
}
