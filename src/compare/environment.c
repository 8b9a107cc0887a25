/* SPDX-License-Identifier: BSD-3-Clause */
/* What a machine is, as far as it matters for figures: what explains a difference to who reads them elsewhere. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/util.h"
#include "compare/cells.h"
#include "reactor/clock.h"
#include "tune/advice.h"

enum { TEXT = 512, NAMES = 64 };

/* The first line of a file. @return "unknown" where it cannot be read */
static json_t *first_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static json_t *first_line(const char *fmt, ...)
{
    char path[320], line[TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(path, sizeof path, fmt, ap);
    va_end(ap);
    FILE *f = fopen(path, "re");
    bool got = f && fgets(line, sizeof line, f);
    if (f)
        fclose(f);
    if (!got)
        return json_string("unknown");
    size_t n = strcspn(line, "\n");
    while (n && isspace((unsigned char)line[n - 1]))
        n--;
    json_t *text = json_stringn(line, n);
    return text ? text : json_string("unknown");
}

/* The rest of the first line of that name. */
static json_t *named_line(const char *path, const char *name)
{
    char line[TEXT];
    FILE *f = fopen(path, "re");
    json_t *found = NULL;
    while (f && !found && fgets(line, sizeof line, f)) {
        char *value = strchr(line, ':');
        if (!value || strncmp(line, name, strlen(name)))
            continue;
        value += 1 + strspn(value + 1, " \t");
        found = json_stringn(value, strcspn(value, "\n"));
    }
    if (f)
        fclose(f);
    return found ? found : json_string("unknown");
}

static json_t *each_file(const char *dir)
{
    json_t *out = json_object();
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' && json_object_size(out) < NAMES)
            json_object_set_new(out, e->d_name, first_line("%s/%s", dir, e->d_name));
    if (d)
        closedir(d);
    return out;
}

static json_t *environment_cpu(void)
{
    json_t *cpu = json_object();
    json_t *model = named_line("/proc/cpuinfo", "model name");
    if (strcmp(json_string_value(model), "unknown") == 0) { /* as on Arm, where there are numbers */
        json_decref(model);
        model = named_line("/proc/cpuinfo", "CPU part");
    }
    json_object_set_new(cpu, "model", model);
    json_object_set_new(cpu, "online", first_line("/sys/devices/system/cpu/online"));
    json_object_set_new(cpu, "count", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    json_object_set_new(cpu, "smt", first_line("/sys/devices/system/cpu/smt/active"));
    json_object_set_new(cpu, "siblings_of_0", first_line("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"));
    json_object_set_new(cpu, "isolated", first_line("/sys/devices/system/cpu/isolated"));
    json_object_set_new(cpu, "numa_nodes", first_line("/sys/devices/system/node/online"));
    json_object_set_new(cpu, "governor", first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
    json_object_set_new(cpu, "idle_driver", first_line("/sys/devices/system/cpu/cpuidle/current_driver"));
    json_object_set_new(cpu, "cache_line", first_line("/sys/devices/system/cpu/cpu0/cache/index0/coherency_line_size"));
    json_object_set_new(cpu, "mitigations", each_file("/sys/devices/system/cpu/vulnerabilities"));
    return cpu;
}

static json_t *environment_kernel(void)
{
    struct utsname u;
    uname(&u);
    return json_pack("{ss,ss,ss,so,so,so}", "release", u.release, "version", u.version, "machine", u.machine,
                     "command_line", first_line("/proc/cmdline"), "clocksource",
                     first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource"), "thp",
                     first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
}

/* What ethtool calls features, of which the most matter with TCP; "absent" where a driver has no such thing. */
static json_t *environment_offloads(struct tune_machine *m, const char *nic)
{
    static const char *const names[] = {
        "tx-tcp-segmentation", "tx-generic-segmentation", "rx-gro", "rx-gro-hw", "rx-lro", "tx-checksum-ip-generic",
        "rx-checksum",         "tls-hw-tx-offload"};
    json_t *out = json_object();
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        char setting[128], value[64];
        snprintf(setting, sizeof setting, "ethtool:%.32s/features/%s", nic, names[i]);
        int ret = m ? tune_get(m, setting, value, sizeof value) : -EIO;
        json_object_set_new(out, names[i],
                            json_string(!ret                                   ? value
                                        : ret == -EOPNOTSUPP || ret == -ENOENT ? "absent"
                                                                               : "unknown"));
    }
    return out;
}

/* What pollux tune would have better, in short. */
static json_t *environment_findings(struct tune_machine *m)
{
    json_t *out = json_array(), *all = m ? tune_look(m, NULL, 0) : NULL, *f;
    size_t i;
    json_array_foreach(all, i, f)
    {
        const char *state = json_string_value(json_object_get(f, "state"));
        if (state && strcmp(state, "better") == 0)
            json_array_append_new(out, json_pack("{sO,sO,sO,sO}", "check", json_object_get(f, "check"), "subject",
                                                 json_object_get(f, "subject"), "found", json_object_get(f, "found"),
                                                 "wanted", json_object_get(f, "wanted")));
    }
    json_decref(all);
    return out;
}

/* Those that are devices, and the loopback. */
static json_t *environment_nics(struct tune_machine *m)
{
    json_t *out = json_array();
    DIR *d = opendir("/sys/class/net");
    for (const struct dirent *e; d && (e = readdir(d));) {
        char path[320], link[TEXT] = "";
        if (e->d_name[0] == '.' || json_array_size(out) >= NAMES)
            continue;
        snprintf(path, sizeof path, "/sys/class/net/%s/device/driver", e->d_name);
        ssize_t n = readlink(path, link, sizeof link - 1);
        if (n < 0 && strcmp(e->d_name, "lo"))
            continue;
        link[n < 0 ? 0 : n] = '\0';
        const char *slash = strrchr(link, '/');
        json_array_append_new(
            out,
            json_pack("{ss,ss,so,so,so,so,so,so}", "name", e->d_name, "driver", slash ? slash + 1 : "none", "mtu",
                      first_line("/sys/class/net/%s/mtu", e->d_name), "offloads", environment_offloads(m, e->d_name),
                      "speed", first_line("/sys/class/net/%s/speed", e->d_name), "numa_node",
                      first_line("/sys/class/net/%s/device/numa_node", e->d_name), "gro_flush_timeout",
                      first_line("/sys/class/net/%s/gro_flush_timeout", e->d_name), "napi_defer_hard_irqs",
                      first_line("/sys/class/net/%s/napi_defer_hard_irqs", e->d_name)));
    }
    if (d)
        closedir(d);
    return out;
}

static json_t *environment_sysctls(void)
{
    static const char *const names[] = {"net/core/busy_poll",
                                        "net/core/busy_read",
                                        "net/core/netdev_budget",
                                        "net/core/netdev_max_backlog",
                                        "net/core/rmem_max",
                                        "net/core/wmem_max",
                                        "net/core/default_qdisc",
                                        "net/core/optmem_max",
                                        "net/ipv4/tcp_rmem",
                                        "net/ipv4/tcp_wmem",
                                        "net/ipv4/tcp_congestion_control",
                                        "net/ipv4/tcp_available_congestion_control",
                                        "kernel/sched_autogroup_enabled",
                                        "kernel/numa_balancing",
                                        "kernel/timer_migration",
                                        "vm/nr_hugepages"};
    json_t *out = json_object();
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++)
        json_object_set_new(out, names[i], first_line("/proc/sys/%s", names[i]));
    return out;
}

static json_t *environment_modules(void)
{
    static const char *const dirs[] = {"nvme_core", "nvme_tcp", "nvmet_tcp"};
    json_t *out = json_object();
    for (size_t i = 0; i < PLX_ARRAY_SIZE(dirs); i++) {
        char path[96];
        snprintf(path, sizeof path, "/sys/module/%s/parameters", dirs[i]);
        json_object_set_new(out, dirs[i], access(path, F_OK) == 0 ? each_file(path) : json_string("absent"));
    }
    return out;
}

json_t *compare_environment(void)
{
    struct sysinfo si = {.mem_unit = 1};
    struct tune_machine *m = NULL;
    struct plx_error err;
    sysinfo(&si);
    if (tune_open("/", NULL, 0, &m, &err))
        m = NULL;
    json_t *out = json_pack("{so,so,sI,sI,so,so,so,so,so}", "cpu", environment_cpu(), "kernel", environment_kernel(),
                            "memory_bytes", (json_int_t)((uint64_t)si.totalram * si.mem_unit), "page_size",
                            (json_int_t)sysconf(_SC_PAGESIZE), "nics", environment_nics(m), "sysctls",
                            environment_sysctls(), "module_parameters", environment_modules(), "product",
                            first_line("/sys/class/dmi/id/product_name"), "tune", environment_findings(m));
    if (m)
        tune_close(m);
    return out;
}

uint64_t compare_wall_seconds(void)
{
    return plx_wall_seconds();
}
