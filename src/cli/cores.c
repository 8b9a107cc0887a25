/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli.h"

#include <sched.h>
#include <unistd.h>

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
                "--cores: core %d is not there, or not in the cpuset of this process (see \"taskset -p %d\")", cores[i],
                (int)getpid());
    return EXIT_OK;
}
