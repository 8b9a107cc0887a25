/* SPDX-License-Identifier: BSD-3-Clause */
/* A line on a terminal that says how far something has come, and how long it will take. */
#include "pool.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    PROGRESS_BAR = 30,
    PROGRESS_EVERY_NS = 250000000,
};

void pool_progress_clear(struct pool_progress *p)
{
    if (p->drawn)
        cli_say("\r\033[K");
    p->drawn = false;
}

void pool_progress(struct pool_progress *p, uint64_t done, uint64_t total, uint64_t ns)
{
    char bar[PROGRESS_BAR + 1], size[32], rate[32], text[96] = "";
    if (p->quiet || !isatty(STDERR_FILENO) || ns - p->drawn_ns < PROGRESS_EVERY_NS)
        return;
    const double part = total && done < total ? (double)done / (double)total : 1;
    const double seconds = (double)ns / 1e9;
    const uint64_t left = part > 0 ? (uint64_t)(seconds * (1 - part) / part + 0.5) : 0;
    memset(bar, ' ', PROGRESS_BAR);
    memset(bar, '#', (size_t)(part * PROGRESS_BAR));
    bar[PROGRESS_BAR] = 0;
    if (p->bytes) {
        ctl_size((double)done, size, sizeof size);
        ctl_size((double)done / seconds, rate, sizeof rate);
        snprintf(text, sizeof text, "%s, %s/s, ", size, rate);
    }
    cli_say("\r\033[K%s [%s] %3.0f %%  %s%" PRIu64 ":%02" PRIu64 " left", p->what, bar, part * 100, text, left / 60,
            left % 60);
    p->drawn = true;
    p->drawn_ns = ns;
}
