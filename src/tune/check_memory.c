/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory: pages, nodes, limits. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tune/check.h"

#define THP "/sys/kernel/mm/transparent_hugepage"

enum {
    MEMLOCK_ENOUGH = 64 << 20,
    FILES_ENOUGH = 16384, /* a connection is one, and so is a disk, an eventfd, ... */
    HUGE_PAGES = 512,
    HUGE_KB = 2048,
    HUGE_PART = 4, /* of the memory that is available: the kernel itself gives all of it, and then nothing runs */
};

static int several_nodes(struct tune_machine *m)
{
    struct tune_names nodes;
    int ret = tune_names(m, "node", &nodes, "/sys/devices/system/node");
    return ret == -ENOENT ? 0 : ret ? ret : nodes.n > 1; /* a kernel without nodes has one */
}

static void look_huge_pages(struct tune_look *l)
{
    static const char file[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    static char info[4096];
    char available[64], value[16];
    int64_t n;
    int ret = tune_number(l->m, &n, "%s", file);
    if (ret) {
        look_lack(l, "", ret, file);
        return;
    }
    if (n) {
        look_add(l, TUNE_OK, "", "%lld of 2 MiB", (long long)n);
        return;
    }
    long got = tune_read(l->m, info, sizeof info, "/proc/meminfo");
    if (got < 0 || !tune_line(info, "MemAvailable", available, sizeof available)) {
        look_add(l, TUNE_UNKNOWN, "", "none are reserved, and how much memory is available cannot be read: %s",
                 strerror(got < 0 ? (int)-got : EINVAL));
        return;
    }
    long long kb = strtoll(available, NULL, 10), pages = kb / HUGE_KB / HUGE_PART;
    pages = pages > HUGE_PAGES ? HUGE_PAGES : pages;
    if (pages <= 0) {
        look_add(l, TUNE_OK, "", "none are reserved, and %lld KiB available are too few for some", kb);
        return;
    }
    json_t *f = look_add(l, TUNE_CHOICE, "", "none are reserved; %lld MiB are available", kb / 1024);
    look_want(f, "%lld (%lld MiB), or what RAM disks and buffers take; no more than the machine can do without", pages,
              pages * HUGE_KB / 1024);
    snprintf(value, sizeof value, "%lld", pages);
    look_change(f, file, value);
}

static void look_page_size(struct tune_look *l)
{
    static char maps[4096];
    char size[32];
    long ret = tune_read(l->m, maps, sizeof maps, "/proc/self/smaps");
    if (ret < 0 || !tune_line(maps, "KernelPageSize", size, sizeof size)) {
        look_lack(l, "", ret < 0 ? ret : -EINVAL, "/proc/self/smaps");
        return;
    }
    long kb = strtol(size, NULL, 10);
    int arm = tune_is_arm(l->m);
    if (kb <= 0 || arm < 0) {
        look_lack(l, "", kb > 0 ? arm : -EINVAL, kb > 0 ? "/proc/cpuinfo" : "KernelPageSize of /proc/self/smaps");
        return;
    }
    if (!arm || kb != 4) {
        look_add(l, TUNE_OK, "", "%ld KiB; the kernel's target takes writes of up to %ld KiB in a capsule", kb, 4 * kb);
        return;
    }
    json_t *f = look_add(l, TUNE_CHOICE, "", "4 KiB; the kernel's target takes writes of up to 16 KiB in a capsule");
    look_want(f, "16 KiB, if perf shows many stalls for the TLB");
    look_command(f, "perf stat -e stall_frontend_tlb,stall_backend_tlb,cycles -a sleep 10 bounds the gain: (sum of the "
                    "first two) / cycles");
    look_command(f, "install a kernel of 16 KiB pages (Debian: linux-image-arm64-16k), and boot it");
}

/* "Max locked memory         67108864             67108864             bytes" */
static void look_limit(struct tune_look *l, const char *name, unsigned long long enough, const char *unit)
{
    char limits[4096], soft[32] = "";
    long ret = tune_read(l->m, limits, sizeof limits, "/proc/self/limits");
    char *line = ret < 0 ? NULL : strstr(limits, name);
    if (!line || sscanf(line + strlen(name), " %31[0-9unlimited]", soft) != 1) {
        look_lack(l, "", ret < 0 ? ret : -EINVAL, "/proc/self/limits");
        return;
    }
    if (strcmp(soft, "unlimited") == 0 || strtoull(soft, NULL, 10) >= enough) {
        look_add(l, TUNE_OK, "", "%s", soft);
        return;
    }
    json_t *f = look_add(l, TUNE_CHOICE, "", "%s", soft);
    look_want(f, "%llu or more", enough);
    look_command(f, "%s in the unit, or ulimit -%c", unit, unit[5] == 'M' ? 'l' : 'n');
}

static void look_memlock(struct tune_look *l)
{
    look_limit(l, "Max locked memory", MEMLOCK_ENOUGH, "LimitMEMLOCK=infinity");
}

static void look_files_limit(struct tune_look *l)
{
    look_limit(l, "Max open files", FILES_ENOUGH, "LimitNOFILE=65536");
}

static void look_swap(struct tune_look *l)
{
    char swaps[2048];
    int64_t swappiness;
    long ret = tune_read(l->m, swaps, sizeof swaps, "/proc/swaps");
    int got = ret < 0 ? (int)ret : tune_number(l->m, &swappiness, "/proc/sys/vm/swappiness");
    if (got) {
        look_lack(l, "", got, ret < 0 ? "/proc/swaps" : "/proc/sys/vm/swappiness");
        return;
    }
    if (strncmp(swaps, "Filename", 8) != 0) {
        look_lack(l, "", -EINVAL, "/proc/swaps");
        return;
    }
    if (!strchr(swaps, '\n')) {
        look_add(l, TUNE_OK, "", "there is no swap");
        return;
    }
    if (swappiness <= 10) {
        look_add(l, TUNE_OK, "", "swap, with swappiness %lld", (long long)swappiness);
        return;
    }
    json_t *f = look_add(l, TUNE_BETTER, "", "swap, with swappiness %lld", (long long)swappiness);
    look_want(f, "10");
    look_change(f, "/proc/sys/vm/swappiness", "10");
}

const struct tune_check tune_memory_checks[] = {
    {.name = "mem.thp",
     .title = "transparent huge pages",
     .why = "RAM disks and buffers ask for them where there are no reserved ones: fewer misses of the TLB.",
     .gain = NO_FIGURE("perf stat of TLB stalls bounds it: see mem.page-size"),
     .file = THP "/enabled",
     .want = "madvise|always",
     .otherwise = TUNE_BETTER},
    {.name = "mem.thp-defrag",
     .title = "making room for huge pages",
     .why = "With \"always\" any page fault may wait until memory has been moved about.",
     .gain = NO_FIGURE("kernel documentation, transhuge.rst"),
     .file = THP "/defrag",
     .want = "madvise|defer+madvise|defer|never",
     .otherwise = TUNE_BETTER},
    {.name = "mem.huge-pages",
     .title = "reserved huge pages",
     .why = "RAM disks and buffers take them when there are some; an SSD by uio_pci_generic needs them. All else works "
            "without.",
     .cost = "memory that nothing else can use",
     .gain = NO_FIGURE("perf stat of TLB stalls bounds it: see mem.page-size"),
     .look = look_huge_pages},
    {.name = "mem.page-size",
     .title = "page size of the kernel",
     .why =
         "Larger pages are fewer misses of the TLB; they also change how much data the kernel's target takes within a "
         "command.",
     .cost = "memory; programs that take 4 KiB for granted",
     .gain = NO_FIGURE("Ampere at LPC 2024: 16 KiB has most of the gain, without a significant memory footprint"),
     .look = look_page_size},
    {.name = "mem.numa-balancing",
     .title = "moving memory to where it is used",
     .why =
         "The kernel takes pages away for a moment to see who uses them; reactors are pinned, and gain nothing by it.",
     .cost = "other programs, if they are not pinned, may run with memory of another node",
     .gain = NO_FIGURE("advised by tuned's profile network-latency"),
     .file = "/proc/sys/kernel/numa_balancing",
     .want = "0",
     .otherwise = TUNE_BETTER,
     .only = several_nodes,
     .lacking = "there is one NUMA node"},
    {.name = "mem.zone-reclaim",
     .title = "reclaiming a node's memory before another's is used",
     .why = "Allocations wait for that.",
     .gain = NO_FIGURE("kernel documentation, vm.rst: best left off for file servers"),
     .file = "/proc/sys/vm/zone_reclaim_mode",
     .want = "0",
     .otherwise = TUNE_BETTER,
     .only = several_nodes,
     .lacking = "there is one NUMA node"},
    {.name = "mem.ksm",
     .title = "merging pages with the same content",
     .why = "It reads all memory that it may, and pages that it has merged are copied when written.",
     .cost = "memory, where many virtual machines have the same in theirs",
     .gain = NO_FIGURE(""),
     .file = "/sys/kernel/mm/ksm/run",
     .want = "0|2",
     .otherwise = TUNE_CHOICE},
    {.name = "mem.compaction",
     .title = "moving memory about in advance",
     .why = "It makes room for huge pages by moving pages, which page faults wait for.",
     .cost = "fewer transparent huge pages later on",
     .gain = NO_FIGURE(""),
     .file = "/proc/sys/vm/compaction_proactiveness",
     .want = "0",
     .otherwise = TUNE_CHOICE},
    {.name = "mem.swap",
     .title = "swapping",
     .why = "A RAM disk, or a buffer, that was swapped out is read back from a disk.",
     .gain = NO_FIGURE("advised by tuned's profile latency-performance"),
     .look = look_swap},
    {.name = "limit.memlock",
     .title = "memory that may be locked",
     .why = "SSDs that are driven from user space have all of their buffers locked.",
     .gain = NO_FIGURE(""),
     .look = look_memlock},
    {.name = "limit.files",
     .title = "files that may be open",
     .why = "Each connection is one.",
     .gain = NO_FIGURE(""),
     .look = look_files_limit},
};
const unsigned tune_memory_checks_n = PLX_ARRAY_SIZE(tune_memory_checks);
