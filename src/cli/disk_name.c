/* SPDX-License-Identifier: BSD-3-Clause */
/* Names of disks on command lines, as calls have them: in JSON, and understood in another folder. */
#include "cli.h"

#include <stdio.h>
#include <string.h>

/* "file:PATH", of which JSON takes every byte. */
static void file_as_url(const char *path, const char *settings, char url[CLI_URL])
{
    size_t n = (size_t)snprintf(url, CLI_URL, "file:");
    while (*path) {
        int plain = *path == '%' || *path == '?' ? 0 : (int)plx_text_printable(path);
        if (plain)
            n += (size_t)snprintf(url + n, CLI_URL - n, "%.*s", plain, path);
        else
            n += (size_t)snprintf(url + n, CLI_URL - n, "%%%02x", (unsigned char)*path);
        path += plain ? plain : 1;
    }
    snprintf(url + n, CLI_URL - n, "%s", settings);
}

int cli_disk_url(const char *disk, char url[CLI_URL], char file[PATH_MAX])
{
    struct plx_error err;
    int is_file = plx_bdev_path(disk, file, PATH_MAX, &err);
    if (is_file < 0)
        return cli_fail(EXIT_USAGE, "%s", err.text);
    if (strlen(disk) >= CLI_URL - 3 * PATH_MAX)
        return cli_fail(EXIT_USAGE, "the name of the disk is too long");
    bool scheme = strncmp(disk, "file:", 5) == 0 || strncmp(disk, "ng:", 3) == 0, printable = true;
    for (const char *p = disk; *p && printable; p += plx_text_printable(p))
        printable = plx_text_printable(p) != 0;
    if (!is_file) {
        file[0] = 0;
        if (!printable)
            return cli_fail(EXIT_USAGE, "\"%s\" is not UTF-8, and so cannot be told to a server", disk);
    }
    if (!is_file || (disk[0] == '/' && printable))
        snprintf(url, CLI_URL, "%s", disk);
    else
        file_as_url(file, scheme && strchr(disk, '?') ? strchr(disk, '?') : "", url);
    return EXIT_OK;
}

void cli_disk_name(const char *disk, const char *file, char name[CLI_DISK_NAME],
                   bool (*taken)(void *arg, const char *name), void *arg)
{
    char base[CLI_DISK_NAME - 12];
    const char *slash = strrchr(file, '/');
    if (file[0])
        snprintf(base, sizeof base, "%s", slash ? slash + 1 : file);
    else
        snprintf(base, sizeof base, "%.*s", (int)strspn(disk, "abcdefghijklmnopqrstuvwxyz"), disk);
    cli_clean(base); /* the last character may be cut off in its middle, too */
    for (unsigned i = 0;; i++) {
        if (file[0] && !i)
            snprintf(name, CLI_DISK_NAME, "%s", base);
        else
            snprintf(name, CLI_DISK_NAME, "%s%u", base, i);
        if (!taken(arg, name))
            return;
    }
}
