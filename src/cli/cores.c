/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli.h"

#include "tune/advice.h"

#include <sched.h>
#include <string.h>

int cli_parse_cores(const char *text, int max, int *cores, int *n, int *placed)
{
    struct plx_error err;
    uint32_t wanted = 0;
    *n = *placed = 0;
    if (strcmp(text, "auto") == 0) {
        *placed = CLI_PLACE_ALL;
        return EXIT_OK;
    }
    if (strncmp(text, "auto:", 5) == 0) {
        int ret = cli_parse_u32("cores auto", text + 5, "a number", 1, (uint32_t)max, &wanted);
        *placed = (int)wanted;
        return ret;
    }
    *n = plx_parse_cores(text, cores, max, &err);
    return *n > 0 ? EXIT_OK : cli_fail(EXIT_USAGE, "--cores %s: %s", text, err.text);
}

int cli_place_cores(const char *root, int placed, int max, int *cores, int *n)
{
    struct tune_machine *m;
    struct plx_error err;
    const int any = 0; /* else it looks for processes of ours */
    if (tune_open(root, &any, 1, &m, &err))
        return cli_fail(EXIT_USAGE, "--root %s", err.text);
    *n = tune_place(m, placed == CLI_PLACE_ALL ? 0 : placed, cores, max, &err);
    tune_close(m);
    return *n > 0 ? EXIT_OK : cli_fail(EXIT_USAGE, "--cores auto: %s", err.text);
}

int cli_choose_cores(int *cores, int *n, int placed, int max)
{
    cpu_set_t allowed;
    if (placed)
        return cli_place_cores("/", placed, max, cores, n);
    if (!*n) {
        cores[0] = sched_getcpu();
        *n = 1;
        return EXIT_OK;
    }
    if (sched_getaffinity(0, sizeof allowed, &allowed) < 0)
        return EXIT_OK; /* more cores than we can ask about: let pinning say */
    for (int i = 0; i < *n; i++)
        if (cores[i] >= CPU_SETSIZE || !CPU_ISSET(cores[i], &allowed))
            return cli_fail(
                EXIT_USAGE,
                "--cores: core %d is not there, or not in the cpuset of this process (\"nproc\" and \"taskset -p $$\" "
                "say which there are)",
                cores[i]);
    return EXIT_OK;
}

void cli_stay_off_cores(const int *cores, int n)
{
    cpu_set_t others;
    if (sched_getaffinity(0, sizeof others, &others) < 0)
        return;
    for (int i = 0; i < n; i++)
        if (cores[i] < CPU_SETSIZE)
            CPU_CLR(cores[i], &others);
    if (CPU_COUNT(&others))
        sched_setaffinity(0, sizeof others, &others);
}

int cli_parse_poll(const char *text, enum plx_poll_mode *mode)
{
    static const char *const names[] = {
        [PLX_POLL_ADAPTIVE] = "adaptive", [PLX_POLL_BUSY] = "busy", [PLX_POLL_SLEEP] = "sleep"};
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) == 0) {
            *mode = (enum plx_poll_mode)i;
            return EXIT_OK;
        }
    }
    return cli_fail(EXIT_USAGE, "--poll %s: takes busy, adaptive or sleep", text);
}
