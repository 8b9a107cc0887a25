/* SPDX-License-Identifier: BSD-3-Clause */
#include "tune.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OUTPUT_MAX = 64 << 10 };

int tune_perf_command(const char *disk, uint32_t seconds, char *out, size_t size)
{
    char self[PATH_MAX] = "", program[PATH_MAX + 64], quoted[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || !plx_text_quote(self, program, sizeof program) || !plx_text_quote(disk, quoted, sizeof quoted) ||
        snprintf(out, size, "%s perf -t %u --json - %s", program, seconds, quoted) >= (int)size)
        return cli_fail(EXIT_USAGE, "--target %s: takes a disk, as pollux perf does", disk);
    return EXIT_OK;
}

/* The first number from there on, with its sign; false where there is none in that line. */
static bool first_number(const char *text, double *out)
{
    for (const char *from = text; *text && *text != '\n'; text++) {
        char *end;
        bool sign = *text == '-' && (text == from || text[-1] == ' ' || text[-1] == '\t') &&
                    (text[1] == '.' || (text[1] >= '0' && text[1] <= '9'));
        if ((*text < '0' || *text > '9') && *text != '.' && !sign)
            continue;
        *out = strtod(text, &end);
        if (end != text)
            return true;
    }
    return false;
}

static bool figure_of(char *output, double *out)
{
    static const char iops[] = "\"iops\":";
    const char *found = strstr(output, iops);
    if (found)
        return first_number(found + sizeof iops - 1, out);
    size_t n = strlen(output);
    while (n && strchr(" \t\r\n", output[n - 1]))
        output[--n] = '\0';
    const char *line = strrchr(output, '\n');
    return first_number(line ? line + 1 : output, out);
}

int tune_run_load(const char *command, double *figure)
{
    static char output[OUTPUT_MAX];
    size_t have = 0;
    FILE *pipe = popen(command, "re");
    if (!pipe)
        return cli_fail(-errno, "--load: the shell cannot be run: %s", strerror(errno));
    for (size_t n = 1; n; have += n) {
        if (have == sizeof output - 1) { /* what is last counts */
            memmove(output, output + have / 2, have - have / 2);
            have -= have / 2;
        }
        n = fread(output + have, 1, sizeof output - 1 - have, pipe);
    }
    output[have] = '\0';
    int status = pclose(pipe);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        return cli_fail(-EIO, "the load failed (%s %d)", WIFEXITED(status) ? "exit status" : "signal",
                        WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    if (!figure_of(output, figure))
        return cli_fail(-ENODATA, "the load's last line has no number, which would be its figure");
    if (*figure <= 0 || !isfinite(*figure))
        return cli_fail(-ERANGE, "the load's figure is %g: it has to be above 0, and finite", *figure);
    return 0;
}
