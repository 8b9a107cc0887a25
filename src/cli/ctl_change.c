/* SPDX-License-Identifier: BSD-3-Clause */
/* Verbs that change what is served, and to whom. */
#include "ctl.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PORT = 4420 };

/* ---- which subsystem ---- */

static int several_subsystems(const json_t *nqns)
{
    char text[1024] = "";
    size_t i, n = 0;
    const json_t *nqn;
    json_array_foreach(nqns, i, nqn)
    {
        if (n + 1 < sizeof text)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s--nqn %s", i ? " or " : "", json_string_value(nqn));
    }
    return cli_fail(EXIT_USAGE, "there are %zu subsystems, so say which one is meant: %s", json_array_size(nqns), text);
}

/* The one that --nqn names, or the only one there is. */
static int which_one(struct ctl *c, char nqn[PLX_NVMF_NQN_SIZE])
{
    json_t *subsystems, *nqns = json_array();
    const json_t *s;
    size_t i;
    int ret = c->nqn ? EXIT_OK : ctl_call(c, "nvmf_get_subsystems", NULL, &subsystems);
    if (ret || c->nqn) {
        json_decref(nqns);
        snprintf(nqn, PLX_NVMF_NQN_SIZE, "%s", c->nqn ? c->nqn : "");
        return ret;
    }
    json_array_foreach(subsystems, i, s)
    {
        if (ctl_is_nvm(s))
            json_array_append(nqns, json_object_get(s, "nqn"));
    }
    json_decref(subsystems);
    if (json_array_size(nqns) > 1)
        ret = several_subsystems(nqns);
    else if (!json_array_size(nqns))
        ret = cli_fail(EXIT_RUNTIME, "there is no subsystem; \"pollux ctl create NQN\" makes one");
    else
        snprintf(nqn, PLX_NVMF_NQN_SIZE, "%s", json_string_value(json_array_get(nqns, 0)));
    json_decref(nqns);
    return ret;
}

/* ---- create, listen ---- */

static int need_transport(struct ctl *c)
{
    json_t *transports;
    int ret = ctl_call(c, "nvmf_get_transports", NULL, &transports);
    if (ret)
        return ret;
    bool none = !json_array_size(transports);
    json_decref(transports);
    return none ? ctl_call(c, "nvmf_create_transport", json_pack("{s:s}", "trtype", "TCP"), NULL) : EXIT_OK;
}

/* Port 0 is any: it is the last one that the subsystem has got. */
static int find_port(struct ctl *c, const char *nqn, char *port, size_t size)
{
    json_t *subsystems;
    int ret = ctl_call(c, "nvmf_get_subsystems", json_pack("{s:s}", "nqn", nqn), &subsystems);
    if (ret)
        return ret;
    const json_t *where = json_object_get(json_array_get(subsystems, 0), "listen_addresses");
    snprintf(port, size, "%s", ctl_str(json_array_get(where, json_array_size(where) - 1), "trsvcid"));
    json_decref(subsystems);
    return EXIT_OK;
}

static int listen_at(struct ctl *c, const char *nqn, const char *where)
{
    struct sockaddr_storage addr;
    struct plx_error err;
    char host[NI_MAXHOST], port[NI_MAXSERV], quoted[4 * PLX_NVMF_NQN_SIZE];
    if (plx_parse_addr(where, PORT, &addr, &err))
        return cli_fail(EXIT_USAGE, "%s", err.text);
    if (getnameinfo((const struct sockaddr *)&addr, sizeof addr, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV))
        return cli_fail(EXIT_USAGE, "%s is no address", where);
    int ret = need_transport(c);
    if (!ret)
        ret = ctl_call(c, "nvmf_subsystem_add_listener",
                       json_pack("{s:s, s:{s:s, s:s, s:s}}", "nqn", nqn, "listen_address", "trtype", "TCP", "traddr",
                                 host, "trsvcid", port),
                       NULL);
    if (!ret && strcmp(port, "0") == 0)
        ret = find_port(c, nqn, port, sizeof port);
    if (!ret && plx_text_quote(nqn, quoted, sizeof quoted))
        printf("nvme connect -t tcp -a %s -s %s -n %s\n", host, port, quoted);
    return ret;
}

int ctl_create(struct ctl *c, char *const *words, int n)
{
    char *error = NULL;
    struct sockaddr_storage addr;
    struct plx_error err;
    (void)n;
    if (c->listen && plx_parse_addr(c->listen, PORT, &addr, &err)) /* before there is a subsystem */
        return cli_fail(EXIT_USAGE, "--listen: %s", err.text);
    int ret = need_transport(c);
    if (!ret)
        ret = ctl_call(c, "nvmf_create_subsystem", json_pack("{s:s}", "nqn", words[0]), NULL);
    if (ret || !c->listen)
        return ret;
    ret = listen_at(c, words[0], c->listen);
    if (ret) { /* it is as if nothing had been */
        ctl_try(c, "nvmf_delete_subsystem", json_pack("{s:s}", "nqn", words[0]), NULL, &error);
        free(error);
    }
    return ret;
}

int ctl_listen(struct ctl *c, char *const *words, int n)
{
    char nqn[PLX_NVMF_NQN_SIZE];
    (void)n;
    int ret = which_one(c, nqn);
    return ret ? ret : listen_at(c, nqn, words[0]);
}

/* ---- add ---- */

static bool is_open(void *arg, const char *name)
{
    size_t i;
    const json_t *disks = arg, *disk;
    json_array_foreach(disks, i, disk)
    {
        if (strcmp(ctl_str(disk, "name"), name) == 0)
            return true;
    }
    return false;
}

/* Opens it, unless it is the name of one that is open. *opened tells which. */
static int open_disk(struct ctl *c, const char *disk, char name[CLI_DISK_NAME], bool *opened)
{
    char url[CLI_URL], file[PATH_MAX];
    json_t *disks;
    int ret = ctl_call(c, "bdev_get_bdevs", NULL, &disks);
    if (ret)
        return ret;
    *opened = c->name || !is_open(disks, disk);
    if (!*opened) {
        snprintf(name, CLI_DISK_NAME, "%s", disk);
        json_decref(disks);
        return EXIT_OK;
    }
    ret = cli_disk_url(disk, url, file);
    if (!ret && c->name)
        snprintf(name, CLI_DISK_NAME, "%s", c->name);
    else if (!ret)
        cli_disk_name(disk, file, name, is_open, disks);
    json_decref(disks);
    return ret ? ret : ctl_call(c, "pollux_disk_open", json_pack("{s:s, s:s}", "url", url, "name", name), NULL);
}

int ctl_add(struct ctl *c, char *const *words, int n)
{
    char nqn[PLX_NVMF_NQN_SIZE], name[CLI_DISK_NAME], *error = NULL;
    bool opened;
    json_t *nsid = NULL;
    (void)n;
    if (c->name && strlen(c->name) >= CLI_DISK_NAME)
        return cli_fail(EXIT_USAGE, "--name %s: takes a name of up to %d bytes", c->name, CLI_DISK_NAME - 1);
    int ret = which_one(c, nqn);
    if (!ret)
        ret = open_disk(c, words[0], name, &opened);
    if (ret)
        return ret;
    json_t *ns = json_pack("{s:s}", "bdev_name", name);
    if (c->nsid)
        json_object_set_new(ns, "nsid", json_integer(c->nsid));
    ret = ctl_call(c, "nvmf_subsystem_add_ns", json_pack("{s:s, s:o}", "nqn", nqn, "namespace", ns), &nsid);
    if (ret && opened) { /* it is as if nothing had been */
        ctl_try(c, "pollux_disk_close", json_pack("{s:s}", "name", name), NULL, &error);
        free(error);
    }
    if (ret)
        return ret;
    json_t *all = json_pack("{s:s, s:o, s:s}", "name", name, "nsid", nsid, "nqn", nqn);
    json_t *text = ctl_textf("%s is namespace %lld of %s", name, ctl_int(all, "nsid"), nqn);
    if (c->json)
        ctl_print_json(all);
    else
        puts(json_string_value(text));
    json_decref(text);
    json_decref(all);
    return EXIT_OK;
}

int ctl_remove(struct ctl *c, char *const *words, int n)
{
    (void)n;
    return ctl_call(c, "pollux_disk_close", json_pack("{s:s}", "name", words[0]), NULL);
}

/* ---- resize ---- */

/* The call that a disk was made by: {"method", "params"}. */
static int find_making(struct ctl *c, const char *name, json_t **out)
{
    json_t *calls, *call;
    size_t i;
    int ret = ctl_call(c, "framework_get_config", json_pack("{s:s}", "name", "bdev"), &calls);
    if (ret)
        return ret;
    *out = NULL;
    json_array_foreach(calls, i, call)
    {
        const json_t *params = json_object_get(call, "params");
        bool makes = strstr(ctl_str(call, "method"), "_create") || strstr(ctl_str(call, "method"), "_open");
        if (!*out && makes && strcmp(ctl_str(params, "name"), name) == 0)
            *out = json_incref(call);
    }
    json_decref(calls);
    if (!*out)
        return cli_fail(EXIT_RUNTIME, "there is no disk %s that a call has made; \"pollux ctl ls\" lists disks", name);
    return EXIT_OK;
}

/*
 * The path of the file that a disk is; "" for one that is none. One that begins with no slash is looked for where the
 * server was started: we go there.
 */
static int making_path(const struct ctl *c, const json_t *making, char out[PATH_MAX])
{
    const json_t *params = json_object_get(making, "params");
    char folder[64];
    struct plx_error err;
    const char *url = ctl_str(params, "url"), *name = url[0] ? url : ctl_str(params, "filename");
    snprintf(folder, sizeof folder, "/proc/%ld/cwd", ctl_server_pid(c));
    if (name[0] && name[0] != '/' && strncmp(name, "file:/", 6) != 0 && chdir(folder))
        return cli_fail(EXIT_RUNTIME, "%s: the folder that the server was started in is not to be seen: %s", name,
                        strerror(errno));
    snprintf(out, PATH_MAX, "%s", url[0] ? "" : name);
    if (url[0] && plx_bdev_path(url, out, PATH_MAX, &err) != 1)
        out[0] = 0;
    return EXIT_OK;
}

static int resize_file(const char *name, const char *path, uint64_t bytes)
{
    struct stat st;
    char now[40];
    if (stat(path, &st))
        return cli_fail(EXIT_RUNTIME, "%s: %s: %s", name, path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return cli_fail(EXIT_USAGE,
                        "%s is a device: make that larger; \"pollux ctl resize %s\" then has hosts see how large it is",
                        name, name);
    ctl_size((double)st.st_size, now, sizeof now);
    if (bytes < (uint64_t)st.st_size)
        return cli_fail(EXIT_USAGE,
                        "%s has %s, and what is beyond the new size would be lost: if it is to be, cut the file off "
                        "by truncate -s, and then call \"pollux ctl resize %s\"",
                        name, now, name);
    if (truncate(path, (off_t)bytes))
        return cli_fail(EXIT_RUNTIME, "%s: %s: %s", name, path, strerror(errno));
    return EXIT_OK;
}

static int set_size(struct ctl *c, const char *name, const char *text)
{
    char path[PATH_MAX];
    uint64_t bytes;
    json_t *making;
    if (plx_parse_size(text, &bytes) || !bytes || bytes > INT64_MAX)
        return cli_fail(EXIT_USAGE, "resize %s %s: takes a size, such as 20G", name, text);
    int ret = find_making(c, name, &making);
    if (ret)
        return ret;
    ret = making_path(c, making, path);
    if (ret)
        goto out;
    if (path[0])
        ret = resize_file(name, path, bytes);
    else if (strcmp(ctl_str(making, "method"), "bdev_null_create") != 0)
        ret =
            cli_fail(EXIT_USAGE, "%s: only files, and what bdev_null_create has made, can be given another size", name);
    else if (bytes % (1 << 20))
        ret = cli_fail(EXIT_USAGE, "resize %s %s: takes a multiple of 1M", name, text);
    else
        ret = ctl_call(c, "bdev_null_resize",
                       json_pack("{s:s, s:I}", "name", name, "new_size", (json_int_t)(bytes >> 20)), NULL);
out:
    json_decref(making);
    return ret;
}

int ctl_resize(struct ctl *c, char *const *words, int n)
{
    json_t *disks;
    char size[40];
    int ret = n > 1 ? set_size(c, words[0], words[1]) : EXIT_OK;
    if (!ret)
        ret = ctl_call(c, "bdev_aio_rescan", json_pack("{s:s}", "name", words[0]), NULL);
    if (!ret)
        ret = ctl_call(c, "bdev_get_bdevs", json_pack("{s:s}", "name", words[0]), &disks);
    if (ret)
        return ret;
    const json_t *disk = json_array_get(disks, 0);
    ctl_size((double)ctl_int(disk, "num_blocks") * (double)ctl_int(disk, "block_size"), size, sizeof size);
    if (c->json)
        ctl_print_json(disk);
    else
        puts(size);
    json_decref(disks);
    return EXIT_OK;
}

/* ---- allow, deny ---- */

/* Which is no error, but perhaps not what was meant. */
static int tell_if_open(struct ctl *c, const char *nqn)
{
    json_t *subsystems;
    int ret = ctl_call(c, "nvmf_get_subsystems", json_pack("{s:s}", "nqn", nqn), &subsystems);
    if (ret)
        return ret;
    if (json_is_true(json_object_get(json_array_get(subsystems, 0), "allow_any_host")))
        cli_say("pollux: every host is let in; \"pollux ctl deny any\" leaves those that were named\n");
    json_decref(subsystems);
    return EXIT_OK;
}

static int let_in(struct ctl *c, const char *host, bool in)
{
    char nqn[PLX_NVMF_NQN_SIZE];
    int ret = which_one(c, nqn);
    if (ret)
        return ret;
    if (strcmp(host, "any") == 0)
        return ctl_call(c, "nvmf_subsystem_allow_any_host", json_pack("{s:s, s:b}", "nqn", nqn, "allow_any_host", in),
                        NULL);
    ret = ctl_call(c, in ? "nvmf_subsystem_add_host" : "nvmf_subsystem_remove_host",
                   json_pack("{s:s, s:s}", "nqn", nqn, "host", host), NULL);
    return ret ? ret : tell_if_open(c, nqn);
}

int ctl_allow(struct ctl *c, char *const *words, int n)
{
    (void)n;
    return let_in(c, words[0], true);
}

int ctl_deny(struct ctl *c, char *const *words, int n)
{
    (void)n;
    return let_in(c, words[0], false);
}
