/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux serve` for virtual machines: where sockets are, and whose. */
#include "cli.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- whose ---- */

/* As chgrp(1): a name, or else a number, of which the largest stands for none. */
int serve_parse_group(const char *text, struct serve_options *o)
{
    const struct group *g = getgrnam(text);
    char *rest;
    errno = 0;
    unsigned long n = strtoul(text, &rest, 10);
    const bool number = text[0] >= '0' && text[0] <= '9' && !*rest && !errno && n < (gid_t)-1;
    if (!g && !number)
        return cli_fail(EXIT_USAGE, "--socket-group %s: there is no such group; \"getent group\" lists those there are",
                        text);
    o->group = text;
    o->gid = g ? g->gr_gid : (gid_t)n;
    return EXIT_OK;
}

/* What sockets are to be given to, a file is given to as well. @return 0 or the error */
static int try_group(const char *dir, gid_t gid)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/.pollux-XXXXXX", dir);
    int fd = mkstemp(path);
    if (fd < 0)
        return 0; /* whoever makes a socket there is told why */
    int problem = fchown(fd, (uid_t)-1, gid) < 0 ? errno : 0;
    unlink(path);
    close(fd);
    return problem;
}

static int check_group(const struct serve_options *o)
{
    if (!serve_controlled(o))
        return cli_fail(EXIT_USAGE,
                        "--socket-group %s: it is sockets of virtual machines that have it: add --vhost DIR", o->group);
    int problem = try_group(o->vhost ? o->vhost : ".", o->gid);
    if (problem == EPERM)
        return cli_fail(EXIT_USAGE, "--socket-group %s: %s; name a group that this user is in, as \"id\" lists them",
                        o->group, strerror(problem));
    return problem ? cli_fail(EXIT_USAGE, "--socket-group %s: %s", o->group, strerror(problem)) : EXIT_OK;
}

int serve_check_vhost(const struct serve_options *o)
{
    struct stat st;
    int problem = 0;
    if (o->vhost && stat(o->vhost, &st) == 0 && !S_ISDIR(st.st_mode))
        problem = ENOTDIR;
    else if (o->vhost && access(o->vhost, W_OK | X_OK) < 0)
        problem = errno;
    if (problem)
        return cli_fail(EXIT_USAGE, "--vhost %s: %s; name a directory that sockets can be made in", o->vhost,
                        strerror(problem));
    return o->group ? check_group(o) : EXIT_OK;
}
