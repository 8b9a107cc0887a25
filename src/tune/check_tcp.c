/* SPDX-License-Identifier: BSD-3-Clause */
/* The kernel's TCP, and its way there. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tune/check.h"

#define NET "/proc/sys/net"

/* Numbers that are texts, too. */
#define BUDGET 600
#define BUDGET_US 8000
#define BACKLOG 10000
#define TEXT(number) #number
#define TEXT_OF(number) TEXT(number)

enum {
    BUFFER_ENOUGH = 4 << 20, /* bytes; what a window at 25 Gb/s over 1 ms needs */
    SQUEEZED_PER_MILLION = 100,
};

/* tcp_rmem and tcp_wmem: least, first, most. The last one bounds what TCP gives itself. */
static void look_buffers(struct tune_look *l, const char *file)
{
    char text[128], value[128];
    long long least, first, most;
    long ret = tune_read(l->m, text, sizeof text, "%s", file);
    if (ret < 0 || sscanf(text, "%lld %lld %lld", &least, &first, &most) != 3) {
        look_lack(l, "", ret < 0 ? ret : -EINVAL, file);
        return;
    }
    if (most >= BUFFER_ENOUGH) {
        look_add(l, TUNE_OK, "", "up to %lld bytes", most);
        return;
    }
    json_t *f = look_add(l, TUNE_BETTER, "", "up to %lld bytes", most);
    look_want(f, "up to %d or more", BUFFER_ENOUGH);
    snprintf(value, sizeof value, "%lld\t%lld\t%d", least, first, BUFFER_ENOUGH);
    look_change(f, file, value);
}

static void look_rmem(struct tune_look *l)
{
    look_buffers(l, NET "/ipv4/tcp_rmem");
}

static void look_wmem(struct tune_look *l)
{
    look_buffers(l, NET "/ipv4/tcp_wmem");
}

/* In pages, which is easily forgotten: a limit beyond the memory is none. */
static void look_tcp_mem(struct tune_look *l)
{
    char text[128], total[64], maps[2048], size[32];
    static char info[4096];
    long long low, pressure, high;
    long ret = tune_read(l->m, text, sizeof text, NET "/ipv4/tcp_mem");
    if (ret >= 0)
        ret = tune_read(l->m, info, sizeof info, "/proc/meminfo");
    if (ret >= 0)
        ret = tune_read(l->m, maps, sizeof maps, "/proc/self/smaps");
    if (ret < 0 || sscanf(text, "%lld %lld %lld", &low, &pressure, &high) != 3 ||
        !tune_line(info, "MemTotal", total, sizeof total) || !tune_line(maps, "KernelPageSize", size, sizeof size)) {
        look_lack(l, "", ret < 0 ? ret : -EINVAL, "tcp_mem, or the machine's memory and page size");
        return;
    }
    long long page = strtoll(size, NULL, 10), pages = page > 0 ? strtoll(total, NULL, 10) / page : 0;
    if (!pages || high < pages) {
        look_add(l, pages ? TUNE_OK : TUNE_UNKNOWN, "", "up to %lld of %lld pages", high, pages);
        return;
    }
    json_t *f = look_add(l, TUNE_BETTER, "", "up to %lld pages, of %lld that there are", high, pages);
    look_want(f, "an eleventh of the memory, as the kernel sets it");
    char value[96];
    snprintf(value, sizeof value, "%lld\t%lld\t%lld", pages / 22, pages / 16, pages / 11);
    look_change(f, NET "/ipv4/tcp_mem", value);
}

/* Of all CPUs: packets handled, dropped for want of room, and rounds that ended before the work did. */
struct softnet {
    unsigned long long packets, dropped, squeezed;
};

static int read_softnet(struct tune_look *l, struct softnet *out)
{
    static char text[256 << 10];
    *out = (struct softnet){0};
    long ret = tune_read(l->m, text, sizeof text, "/proc/net/softnet_stat");
    if (ret < 0) {
        look_lack(l, "", ret, "/proc/net/softnet_stat");
        return (int)ret;
    }
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        unsigned long long packets, dropped, squeezed;
        if (sscanf(line, "%llx %llx %llx", &packets, &dropped, &squeezed) != 3) {
            look_lack(l, "", -EINVAL, "/proc/net/softnet_stat");
            return -EINVAL;
        }
        out->packets += packets;
        out->dropped += dropped;
        out->squeezed += squeezed;
    }
    return 0;
}

static void look_budget(struct tune_look *l)
{
    struct softnet s;
    int64_t packets, us;
    int ret = tune_number(l->m, &packets, NET "/core/netdev_budget");
    if (!ret)
        ret = tune_number(l->m, &us, NET "/core/netdev_budget_usecs");
    if (ret) {
        look_lack(l, "", ret, NET "/core/netdev_budget or netdev_budget_usecs");
        return;
    }
    if (read_softnet(l, &s))
        return;
    bool often = s.squeezed > s.packets / 1000000 * SQUEEZED_PER_MILLION && s.squeezed > SQUEEZED_PER_MILLION;
    often &= packets < BUDGET || us < BUDGET_US; /* what was counted is of before as well */
    json_t *f = look_add(l, often ? TUNE_BETTER : TUNE_OK, "",
                         "%llu rounds ended early, of %llu packets; a round is %lld packets or %lld us", s.squeezed,
                         s.packets, (long long)packets, (long long)us);
    look_measured(f, "/proc/net/softnet_stat, third column", "%llu rounds since the boot left packets for the next one",
                  s.squeezed);
    if (!often)
        return;
    look_want(f, "%d packets and %d us a round, or more", BUDGET, BUDGET_US);
    if (packets < BUDGET)
        look_change(f, NET "/core/netdev_budget", TEXT_OF(BUDGET));
    if (us < BUDGET_US)
        look_change(f, NET "/core/netdev_budget_usecs", TEXT_OF(BUDGET_US));
}

static void look_backlog(struct tune_look *l)
{
    struct softnet s;
    int64_t most;
    int ret = tune_number(l->m, &most, NET "/core/netdev_max_backlog");
    if (ret) {
        look_lack(l, "", ret, NET "/core/netdev_max_backlog");
        return;
    }
    if (read_softnet(l, &s))
        return;
    bool few = s.dropped && most < BACKLOG;
    json_t *f = look_add(l, few ? TUNE_BETTER : TUNE_OK, "", "%llu packets dropped, of %llu; %lld may wait", s.dropped,
                         s.packets, (long long)most);
    look_measured(f, "/proc/net/softnet_stat, second column", "%llu packets dropped since the boot", s.dropped);
    if (!few)
        return;
    look_want(f, "%d or more", BACKLOG);
    look_change(f, NET "/core/netdev_max_backlog", TEXT_OF(BACKLOG));
}

const struct tune_check tune_tcp_checks[] = {
    {.name = "net.busy-poll",
     .title = "polling a socket's queue when it is read",
     .why = "Who finds nothing to read polls the NIC's queue for so many us, instead of waiting for its interrupt.",
     .cost = "CPU time: reads that find nothing take longer, and idle connections cost some",
     .gain = FIGURE("8,353 to 18,967 round trips of 1 byte a second over virtio; 16.3 to 8.8 us over cxgb4",
                    "Linux commits 91815639d880 and 3a336cb17183"),
     .file = NET "/core/busy_read",
     .want = "50",
     .least = 1,
     .otherwise = TUNE_CHOICE},
    {.name = "net.rmem",
     .title = "receive buffers of TCP",
     .why = "A window that is smaller than what is under way stops the sender.",
     .cost = "memory of connections that are slow",
     .gain = NO_FIGURE("SLES 15 tuning guide: values by hand usually do not improve much; the default is enough"),
     .look = look_rmem},
    {.name = "net.wmem",
     .title = "send buffers of TCP",
     .why = "Data of reads waits in us instead of in the kernel.",
     .cost = "memory of connections that are slow",
     .gain = NO_FIGURE("SLES 15 tuning guide: values by hand usually do not improve much; the default is enough"),
     .look = look_wmem},
    {.name = "net.tcp-mem",
     .title = "memory of all of TCP",
     .why = "It is counted in pages. A limit beyond the machine's memory keeps nothing from running out of it.",
     .gain = NO_FIGURE("advice with bytes in it is about: SPDK's lab sets 268435456 pages"),
     .look = look_tcp_mem},
    {.name = "net.budget",
     .title = "packets a round",
     .why = "A round that ends before its packets do leaves them for later.",
     .cost = "other work on that core waits longer",
     .gain = COUNTED("/proc/net/softnet_stat"),
     .look = look_budget},
    {.name = "net.backlog",
     .title = "packets that wait for a core",
     .why = "What RPS or loopback hands to a core that has too many waiting is dropped, and sent again.",
     .gain = COUNTED("/proc/net/softnet_stat"),
     .look = look_backlog},
    {.name = "net.congestion",
     .title = "congestion control",
     .why = "BBR paces its packets by timers; on a LAN that loses nothing this only costs.",
     .cost = "BBR is better over long distances, and where packets get lost",
     .gain =
         NO_FIGURE("none found for BBR against CUBIC on a LAN; with BBR one stream had 26 Gb/s by the scheduler fq, "
                   "and 24.2 by pfifo_fast: Linux commit 0a6b2a1dc2a2"),
     .file = NET "/ipv4/tcp_congestion_control",
     .want = "cubic|dctcp|reno",
     .otherwise = TUNE_CHOICE},
    {.name = "net.idle-restart",
     .title = "beginning slowly after a pause",
     .why = "A connection that was silent for a moment sends little at first, as if it were new.",
     .cost = "a burst may meet a network that has changed meanwhile",
     .gain = NO_FIGURE(""),
     .file = NET "/ipv4/tcp_slow_start_after_idle",
     .want = "0",
     .otherwise = TUNE_BETTER},
};
const unsigned tune_tcp_checks_n = PLX_ARRAY_SIZE(tune_tcp_checks);
