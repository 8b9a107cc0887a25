/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli.h"

#include <sched.h>
#include <string.h>

int cli_choose_cores(int *cores, int *n)
{
    cpu_set_t allowed;
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
