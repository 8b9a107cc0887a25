/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <stdio.h>

static plx_log_fn log_fn;
static void *log_arg;
static enum plx_log_level log_level;

const char *plx_version(void)
{
    return PLX_VERSION;
}

void plx_log_set(plx_log_fn fn, void *arg, enum plx_log_level level)
{
    log_fn = fn;
    log_arg = arg;
    log_level = level;
}

void plx_log(enum plx_log_level level, const char *fmt, ...)
{
    if (!log_fn || level > log_level)
        return;
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    /* Names that come from peers must not steer a terminal. */
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
            *p = '?';
    log_fn(log_arg, level, line);
}

int plx_fail(struct plx_error *err, int ret, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
    }
    return ret;
}
