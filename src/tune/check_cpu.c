/* SPDX-License-Identifier: BSD-3-Clause */
/* How the CPUs run: frequency, sleep, what they can, what takes them away. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tune/check.h"

#define CPU "/sys/devices/system/cpu"
#define CLOCK "/sys/devices/system/clocksource/clocksource0"

enum {
    IDLE_LONG_US = 20, /* a state that takes longer to leave is felt beside an answer over a LAN */
    STEAL_PERCENT = 1,
};

static void look_boost(struct tune_look *l)
{
    static const struct {
        const char *file, *on;
    } files[] = {{CPU "/cpufreq/boost", "1"}, {CPU "/intel_pstate/no_turbo", "0"}};
    char value[16];
    int ret = -ENOENT;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(files); i++) {
        int got = tune_get(l->m, files[i].file, value, sizeof value);
        ret = got == -ENOENT ? ret : got;
        if (!got && strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
            ret = got = -EINVAL;
        if (got)
            continue;
        if (strcmp(value, files[i].on) == 0) {
            look_add(l, TUNE_OK, "", "on");
            return;
        }
        json_t *f = look_add(l, TUNE_BETTER, "", "off");
        look_want(f, "on");
        look_change(f, files[i].file, files[i].on);
        return;
    }
    look_lack(l, "", ret, files[0].file);
}

/* Of all CPUs, the states that take long and are not disabled; what CPU 0 has is told. */
static void look_idle_states(struct tune_look *l)
{
    static struct tune_names cpus, states;
    char setting[200], name[32], slow[200] = "";
    int64_t latency, disabled, longest = 0;
    json_t *f = NULL;
    int ret = tune_names(l->m, "cpu", &cpus, CPU), failed = 0;
    for (unsigned c = 0; !ret && c < cpus.n; c++) {
        if (cpus.v[c][3] < '0' || cpus.v[c][3] > '9' || !tune_exists(l->m, CPU "/%s/cpuidle", cpus.v[c]))
            continue;
        tune_names(l->m, "state", &states, CPU "/%s/cpuidle", cpus.v[c]);
        for (unsigned s = 0; s < states.n; s++) {
            snprintf(setting, sizeof setting, CPU "/%s/cpuidle/%s/disable", cpus.v[c], states.v[s]);
            int got = tune_number(l->m, &latency, CPU "/%s/cpuidle/%s/latency", cpus.v[c], states.v[s]);
            if (!got)
                got = tune_number(l->m, &disabled, "%s", setting);
            failed = got ? got : failed;
            if (got || disabled || latency <= IDLE_LONG_US)
                continue;
            tune_read(l->m, name, sizeof name, CPU "/%s/cpuidle/%s/name", cpus.v[c], states.v[s]);
            f = f ? f : look_add(l, TUNE_CHOICE, "", "on");
            look_change(f, setting, "1");
            longest = latency > longest ? latency : longest;
            if (!strstr(slow, name))
                snprintf(slow + strlen(slow), sizeof slow - strlen(slow), "%s%s", slow[0] ? ", " : "", name);
        }
    }
    if (f) {
        tune_make_printable(slow);
        json_object_set_new(f, "found", json_sprintf("on, and slow to leave: %s", slow));
        look_want(f, "states that take more than %d us to leave disabled", IDLE_LONG_US);
        json_object_set_new(
            f, "gain",
            json_pack("{ss,so,ss}", "origin", "published", "text",
                      json_sprintf("up to %lld us less at a wake-up from the deepest", (long long)longest), "source",
                      "what this machine's firmware says of its states (cpuidle/state*/latency)"));
    } else if (failed) {
        look_lack(l, "", tune_is_gone(failed) ? -EIO : failed, CPU "/cpu*/cpuidle/state*");
    } else if (tune_exists(l->m, CPU "/cpu0/cpuidle/state0")) {
        look_add(l, TUNE_OK, "", "no state that is on takes more than %d us to leave", IDLE_LONG_US);
    } else {
        look_lack(l, "", ret ? ret : -ENOENT, CPU "/cpu0/cpuidle");
    }
}

/* A TSC that changes its rate, or stops, is a clock that goes wrong, whatever the kernel lists. */
static bool is_tsc_steady(struct tune_machine *m)
{
    char info[8192], flags[4096];
    return tune_read(m, info, sizeof info, "/proc/cpuinfo") > 0 && tune_line(info, "flags", flags, sizeof flags) &&
           tune_has_word(flags, "constant_tsc") && tune_has_word(flags, "nonstop_tsc");
}

static void look_clocksource(struct tune_look *l)
{
    /* A hypervisor that has a clock of its own knows why. */
    static const char *const fast[] = {"kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "tsc"};
    char current[64], available[256];
    int ret = tune_get(l->m, CLOCK "/current_clocksource", current, sizeof current);
    if (ret) {
        look_lack(l, "", ret, CLOCK "/current_clocksource");
        return;
    }
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(fast); i++) {
        if (strcmp(current, fast[i]) == 0) {
            look_add(l, TUNE_OK, "", "%s", current);
            return;
        }
    }
    json_t *f = look_add(l, TUNE_BETTER, "", "%s, for which each reading of the clock is a system call", current);
    look_want(f, "one that is read without a system call");
    tune_read(l->m, available, sizeof available, CLOCK "/available_clocksource");
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(fast); i++) {
        if (!tune_has_word(available, fast[i]) || (strcmp(fast[i], "tsc") == 0 && !is_tsc_steady(l->m)))
            continue;
        look_want(f, "%s", fast[i]);
        look_change(f, CLOCK "/current_clocksource", fast[i]);
        return;
    }
    look_command(f, "dmesg says why the kernel uses no other");
}

/* "Vulnerable" is for information: what is not mitigated costs nothing. */
static void look_mitigations(struct tune_look *l)
{
    struct tune_names names;
    char text[256];
    unsigned on = 0;
    int ret = tune_names(l->m, "", &names, CPU "/vulnerabilities");
    if (ret || !names.n) {
        look_lack(l, "", ret ? ret : -ENOENT, CPU "/vulnerabilities");
        return;
    }
    for (unsigned i = 0; i < names.n; i++) {
        long got = tune_read(l->m, text, sizeof text, CPU "/vulnerabilities/%s", names.v[i]);
        if (got < 0) {
            look_lack(l, "", tune_is_gone(got) ? -EIO : got, CPU "/vulnerabilities");
            return;
        }
        if (!strstr(text, "Mitigation") && !strstr(text, "ulnerable") && strncmp(text, "Not affected", 12) != 0 &&
            strncmp(text, "Unknown", 7) != 0) {
            look_lack(l, "", -EINVAL, CPU "/vulnerabilities");
            return;
        }
        on += strstr(text, "Mitigation") != NULL; /* "KVM: Mitigation: ..." */
    }
    if (!on) {
        look_add(l, TUNE_OK, "", "no mitigation costs anything here (%u are known of)", names.n);
        return;
    }
    json_t *f = look_add(l, TUNE_CHOICE, "", "%u of %u known vulnerabilities are mitigated", on, names.n);
    look_want(f, "nothing else, unless all that runs here is trusted");
    look_command(f, "add mitigations=off to the kernel's command line, and boot");
}

static void look_preemption(struct tune_look *l)
{
    char version[256], mode[64];
    long ret = tune_read(l->m, version, sizeof version, "/proc/version");
    if (ret < 0 || strncmp(version, "Linux version", 13) != 0) {
        look_lack(l, "", ret < 0 ? ret : -EINVAL, "/proc/version");
        return;
    }
    bool dynamic = strstr(version, "PREEMPT_DYNAMIC") != NULL;
    ret = tune_get(l->m, "/sys/kernel/debug/sched/preempt", mode, sizeof mode);
    if (!ret) {
        /* "none voluntary (full) lazy" */
        char *open = strchr(mode, '('), *end = open ? strchr(open, ')') : NULL;
        if (end) {
            *end = '\0';
            memmove(mode, open + 1, strlen(open + 1) + 1);
        }
    } else if (dynamic) {
        look_add(l, TUNE_UNKNOWN, "", "PREEMPT_DYNAMIC, and /sys/kernel/debug/sched/preempt cannot be read: %s",
                 strerror((int)-ret));
        return;
    } else {
        snprintf(mode, sizeof mode, "%s",
                 strstr(version, "PREEMPT_LAZY") ? "lazy"
                 : strstr(version, "PREEMPT_RT") ? "rt"
                 : strstr(version, "PREEMPT")    ? "full"
                                                 : "none or voluntary");
    }
    if (strncmp(mode, "none", 4) == 0 || strcmp(mode, "voluntary") == 0) {
        look_add(l, TUNE_OK, "", "%s", mode);
        return;
    }
    json_t *f = look_add(l, TUNE_CHOICE, "", "%s", mode);
    look_want(f, "none or voluntary, where the kernel has them");
    look_command(f, "add preempt=none to the kernel's command line, and boot");
}

static void look_instructions(struct tune_look *l, const char *const *x86, const char *const *arm)
{
    char info[16384], has[8192], lacks[128] = "";
    long ret = tune_read(l->m, info, sizeof info, "/proc/cpuinfo");
    bool is_arm = ret > 0 && tune_line(info, "Features", has, sizeof has);
    if (ret < 0 || (!is_arm && !tune_line(info, "flags", has, sizeof has))) {
        look_lack(l, "", ret < 0 ? ret : -EINVAL, "/proc/cpuinfo");
        return;
    }
    for (const char *const *word = is_arm ? arm : x86; *word; word++)
        if (!tune_has_word(has, *word))
            snprintf(lacks + strlen(lacks), sizeof lacks - strlen(lacks), "%s%s", lacks[0] ? ", " : "", *word);
    if (!lacks[0]) {
        look_add(l, TUNE_OK, "", "there are those that are used");
        return;
    }
    json_t *f = look_add(l, TUNE_BETTER, "", "no %s", lacks);
    look_want(f, "a CPU that has them; in a virtual machine, the host's own CPU model");
    look_command(f, "in QEMU: -cpu host");
}

static void look_crc(struct tune_look *l)
{
    static const char *const x86[] = {"sse4_2", "pclmulqdq", NULL}, *const arm[] = {"crc32", "pmull", NULL};
    look_instructions(l, x86, arm);
}

static void look_atomics(struct tune_look *l)
{
    static const char *const none[] = {NULL}, *const arm[] = {"atomics", NULL};
    look_instructions(l, none, arm);
}

static void look_steal(struct tune_look *l)
{
    unsigned long long t[8] = {0}, all = 0;
    char text[512];
    long ret = tune_read(l->m, text, sizeof text, "/proc/stat");
    if (ret < 0 || sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", t, t + 1, t + 2, t + 3, t + 4, t + 5,
                          t + 6, t + 7) != 8) {
        look_lack(l, "", ret < 0 ? ret : -EINVAL, "/proc/stat");
        return;
    }
    for (unsigned i = 0; i < 8; i++)
        all += t[i];
    double percent = all ? 100. * (double)t[7] / (double)all : 0;
    bool much = percent >= STEAL_PERCENT;
    json_t *f = look_add(l, much ? TUNE_BETTER : TUNE_OK, "", "%.2f %% of the time since the boot", percent);
    look_measured(f, "/proc/stat", "%.2f %% of the CPUs' time", percent);
    if (!much)
        return;
    look_want(f, "CPUs of one's own");
    look_command(f, "ask whoever runs the hypervisor for dedicated CPUs");
}

static void look_throttled(struct tune_look *l)
{
    static struct tune_names cpus;
    int64_t n, times = 0;
    bool there = false;
    int ret = tune_names(l->m, "cpu", &cpus, CPU), failed = ret;
    for (unsigned i = 0; !ret && i < cpus.n; i++) {
        int got = tune_number(l->m, &n, CPU "/%s/thermal_throttle/core_throttle_count", cpus.v[i]);
        failed = got && !tune_is_gone(got) ? got : failed;
        if (got)
            continue;
        there = true;
        times = n > times ? n : times;
    }
    if (!there || failed) {
        look_lack(l, "", failed ? failed : -ENOENT, CPU "/cpu*/thermal_throttle");
        return;
    }
    json_t *f =
        look_add(l, times ? TUNE_BETTER : TUNE_OK, "", "%lld times on the core that was most", (long long)times);
    look_measured(f, "thermal_throttle/core_throttle_count", "slowed down %lld times since the boot", (long long)times);
    if (!times)
        return;
    look_want(f, "never");
    look_command(f, "see to the cooling");
}

const struct tune_check tune_cpu_checks[] = {
    {.name = "cpu.governor",
     .title = "frequency governor",
     .why = "A reactor that sleeps between requests looks idle to the governor, and meets a burst at a low clock.",
     .cost = "power",
     .gain = NO_FIGURE("advised by tuned's profiles network-latency and latency-performance"),
     .file = CPU "/cpufreq/policy*/scaling_governor",
     .want = "performance",
     .otherwise = TUNE_BETTER},
    {.name = "cpu.energy",
     .title = "energy preference",
     .why = "Where the CPU chooses its clock by itself, this tells it what for.",
     .cost = "power",
     .gain = NO_FIGURE("advised by tuned's profile latency-performance"),
     .file = CPU "/cpufreq/policy*/energy_performance_preference",
     .want = "performance",
     .otherwise = TUNE_BETTER},
    {.name = "cpu.boost",
     .title = "clocks above the nominal one",
     .why = "One core's clock bounds one connection's rate.",
     .cost = "power; rates that vary more with temperature",
     .gain = NO_FIGURE(""),
     .look = look_boost},
    {.name = "cpu.idle-states",
     .title = "sleep states",
     .why = "A request that finds its core asleep waits until the core has left that state.",
     .cost = "power, and less boost for the other cores",
     .gain = NO_FIGURE("RHEL 10's network guide: a latency that is higher idle than loaded is the sign"),
     .look = look_idle_states},
    {.name = "cpu.idle-governor",
     .title = "polling before sleep, in a virtual machine",
     .why = "Leaving the guest to sleep, and coming back, costs more than a short wait for the next request.",
     .cost = "time of the host's CPU",
     .gain = FIGURE("34 to 50 % less time in sched-pipe on Graviton VMs, 100 us of polling before sleep",
                    "arm_poll_idle patch, LKML, April 2024"),
     .file = CPU "/cpuidle/current_governor",
     .want = "haltpoll",
     .otherwise = TUNE_CHOICE,
     .only = tune_is_virtual,
     .lacking = "this is no virtual machine"},
    {.name = "cpu.clocksource",
     .title = "clock source",
     .why = "The clock is read for each round of a reactor.",
     .gain = NO_FIGURE("advised for Xen guests by AWS"),
     .look = look_clocksource},
    {.name = "cpu.mitigations",
     .title = "mitigations of CPU vulnerabilities",
     .why = "They make system calls and switches slower; serving over TCP makes many system calls.",
     .cost = "a program here that is not trusted may read what it must not",
     .gain = NO_FIGURE(""),
     .look = look_mitigations},
    {.name = "cpu.preemption",
     .title = "preemption model of the kernel",
     .why = "A kernel that preempts more switches more.",
     .cost = "other programs wait longer",
     .gain = FIGURE("98,565 to 50,751 transactions a second of PostgreSQL from PREEMPT_NONE to LAZY, 96 CPUs of "
                    "Graviton4 (huge pages cured it); reactors take no locks that it could be about",
                    "AWS Graviton guide, linux_kernel.md"),
     .look = look_preemption},
    {.name = "cpu.crc",
     .title = "instructions for CRC",
     .why = "Digests of PDUs (hdgst, ddgst) are CRC32C, over every byte.",
     .gain = FIGURE("CRC32C at 9,317 instead of 3,887 MB/s with PMULL beside the CRC instruction, 4 KiB",
                    "rocksdb pull request 5494"),
     .look = look_crc},
    {.name = "cpu.atomics",
     .title = "atomic instructions of Arm (LSE)",
     .why = "Without them an atomic operation is a loop, and cores that contend hold each other up.",
     .gain = FIGURE("4 times the rate of a read-only MySQL on 64 cores", "mysql-server pull request 302"),
     .look = look_atomics,
     .only = tune_is_arm,
     .lacking = "this is no Arm CPU"},
    {.name = "cpu.steal",
     .title = "time taken by the hypervisor",
     .why = "While the hypervisor runs somebody else, a reactor stands still.",
     .gain = COUNTED("/proc/stat"),
     .look = look_steal},
    {.name = "cpu.throttled",
     .title = "slowed down by heat",
     .why = "A core that is too hot runs at a low clock.",
     .gain = COUNTED("thermal_throttle/core_throttle_count"),
     .look = look_throttled},
    {.name = "cpu.nmi-watchdog",
     .title = "watchdog by interrupts of the performance counters",
     .why = "It interrupts every core, and takes one of its counters.",
     .cost = "a core that hangs in the kernel is not noticed",
     .gain = NO_FIGURE("advised by tuned's profile cpu-partitioning"),
     .file = "/proc/sys/kernel/nmi_watchdog",
     .want = "0",
     .otherwise = TUNE_CHOICE},
};
const unsigned tune_cpu_checks_n = PLX_ARRAY_SIZE(tune_cpu_checks);
