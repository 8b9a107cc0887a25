/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How controllers are named: nvme+tcp://ADDR:PORT,ADDR:PORT/NQN?key=value&key=value, and those of this machine
 * pcie://0000:01:00.0/NSID?key=value&key=value
 */
#include "nvme/host.h"

#include "base/addr.h"
#include "base/settings.h"
#include "base/text.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pollux/nvme.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PORT = 4420,
    KATO_S = 5,
    TIMEOUT_S = 30,
    CONNECT_TIMEOUT_S = 10,
    PCIE_CONNECT_TIMEOUT_S = 130, /* CAP.TO says up to 127.5 */
    PCIE_DEADLINE_S = 10,         /* a controller that is being reset is waited for, one that was taken out is not */
    SECONDS_MAX = 1000000,
};

#define SCHEME "nvme+tcp:"
#define EXAMPLE "nvme+tcp://192.0.2.1:4420/nqn.2014-08.org.nvmexpress:uuid:..."
#define PCIE_SCHEME "pcie:"
#define PCIE_EXAMPLE "pcie://0000:01:00.0/1, with the number of a namespace"

void nvme_where_init(struct nvme_where *w)
{
    *w = (struct nvme_where){.o = {.transport = &nvme_tcp,
                                   .queues = 1,
                                   .depth = NVME_DEPTH_DEFAULT,
                                   .kato_ms = KATO_S * 1000,
                                   .timeout_ms = TIMEOUT_S * 1000,
                                   .connect_timeout_ms = CONNECT_TIMEOUT_S * 1000,
                                   .prchk_guard = true,
                                   .prchk_reftag = true}};
}

/* ---- addresses ---- */

/* Of a name with several addresses, those count that can be connected to. */
static int take_addrs(struct nvme_addrs *path, const struct addrinfo *found, struct plx_error *err)
{
    const char *problem = NULL;
    for (; found && path->n < NVME_ADDRS_MAX; found = found->ai_next) {
        struct nvme_addr *a = &path->list[path->n];
        memcpy(&a->addr, found->ai_addr, found->ai_addrlen);
        plx_addr_format(&a->addr, a->name);
        problem = plx_addr_problem(&a->addr);
        path->n += !problem;
    }
    return path->n ? 0 : plx_fail(err, -EINVAL, "%s %s", path->list[0].name, problem);
}

/* What may pass is told from what will not: a service is started again after the former. */
static int look_up_failed(int eai, int system, const char *host, struct plx_error *err)
{
    int ret = eai == EAI_SYSTEM ? (system ? -system : -EIO) : eai == EAI_AGAIN || eai == EAI_MEMORY ? -EAGAIN : -EINVAL;
    return plx_fail(err, ret, "%s: cannot find that address: %s", host,
                    eai == EAI_SYSTEM ? strerror(-ret) : gai_strerror(eai));
}

static int look_up(struct nvme_where *w, const char *host, const char *port, struct plx_error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP};
    struct addrinfo *found;
    struct sockaddr_storage numeric;
    int ret = getaddrinfo(host, port, &hints, &found), system = errno;
    if (ret && strchr(host, ':') && plx_addr_parse(host, 0, &numeric, err))
        return -EINVAL; /* with a better reason */
    if (ret)
        return look_up_failed(ret, system, host, err);
    ret = take_addrs(&w->paths[w->npaths++], found, err);
    freeaddrinfo(found);
    w->o.addrs = w->paths[0];
    return ret;
}

int nvme_where_addr(struct nvme_where *w, const char *text, size_t len, uint16_t port, struct plx_error *err)
{
    char host[PLX_ADDR_HOST], number[8];
    if (w->npaths == NVME_PATHS_MAX)
        return plx_fail(err, -EINVAL, "there can be at most %d addresses", NVME_PATHS_MAX);
    int ret = plx_addr_split(text, len, host, &port, err);
    if (ret)
        return ret;
    if (!port)
        return plx_fail(err, -EINVAL, "%.*s: a port to connect to is a number from 1 to 65535",
                        (int)plx_min_u64(len, 100), text);
    snprintf(number, sizeof number, "%u", port);
    return look_up(w, host, number, err);
}

int nvme_where_body(struct nvme_where *w, const char *body, struct plx_error *err)
{
    const char *slash = strncmp(body, "//", 2) ? NULL : strchr(body + 2, '/');
    if (!slash)
        return plx_fail(err, -EINVAL, "%s%.80s: a remote disk is named like " EXAMPLE, SCHEME, body);
    size_t nqn = strlen(slash + 1);
    if (!nqn || nqn > NVME_NQN_MAX)
        return plx_fail(err, -EINVAL,
                        "%s%.80s: the name of the subsystem, its NQN of 1 to %d characters, follows the "
                        "address, as in " EXAMPLE,
                        SCHEME, body, NVME_NQN_MAX);
    memcpy(w->o.subnqn, slash + 1, nqn + 1);
    for (const char *at = body + 2;;) {
        size_t len = strcspn(at, ",/");
        int ret = nvme_where_addr(w, at, len, PORT, err);
        if (ret)
            return ret;
        at += len;
        if (*at++ == '/')
            return 0;
    }
}

/* Hex digits, as many as there are to be, and what follows them. @return the rest, or NULL */
static const char *hex_field(const char *p, unsigned digits, char then)
{
    for (; digits; digits--, p++)
        if (plx_hex(*p) < 0)
            return NULL;
    return *p == then ? p + 1 : NULL;
}

/* DDDD:BB:DD.F, in which the domain may be left out. @return its length, or 0 */
static size_t pcie_addr(const char *text, char out[PLX_ADDR_TEXT])
{
    const char *bus = hex_field(text, 4, ':'), *p = hex_field(bus ? bus : text, 2, ':');
    p = p ? hex_field(p, 2, '.') : NULL;
    if (!p || *p < '0' || *p > '7')
        return 0;
    const size_t len = (size_t)(p + 1 - text);
    snprintf(out, PLX_ADDR_TEXT, "%s%.*s", bus ? "" : "0000:", (int)len, text);
    for (char *c = out; *c; c++)
        *c = *c >= 'A' && *c <= 'F' ? (char)(*c - 'A' + 'a') : *c;
    return len;
}

static void pcie_init(struct nvme_where *w)
{
    w->o.transport = &nvme_pcie;
    w->o.kato_ms = 0;
    w->o.connect_timeout_ms = PCIE_CONNECT_TIMEOUT_S * 1000;
    w->reconnect_deadline_ms = PCIE_DEADLINE_S * 1000;
    w->npaths = 1;
    w->paths[0].n = 1;
}

int nvme_where_pcie(struct nvme_where *w, const char *body, struct plx_error *err)
{
    pcie_init(w);
    char *name = w->paths[0].list[0].name, *rest;
    const size_t len = strncmp(body, "//", 2) ? 0 : pcie_addr(body + 2, name);
    const char *nsid = body + 2 + len;
    if (!len || (*nsid && *nsid != '/'))
        return plx_fail(err, -EINVAL, "%s%.80s: an SSD of this machine is named like " PCIE_EXAMPLE, PCIE_SCHEME, body);
    w->o.addrs = w->paths[0];
    if (!nsid[0] || !nsid[1])
        return 0; /* the first */
    errno = 0;
    unsigned long n = strtoul(nsid + 1, &rest, 10);
    if (nsid[1] < '0' || nsid[1] > '9' || *rest || errno || !n || n >= NVME_NSID_ALL)
        return plx_fail(err, -EINVAL, "%s%.80s: namespaces have numbers from 1 on, as in " PCIE_EXAMPLE, PCIE_SCHEME,
                        body);
    w->o.nsid = (uint32_t)n;
    return 0;
}

struct nvme_opts nvme_where_opts(const struct nvme_where *w, unsigned path)
{
    struct nvme_opts o = w->o;
    o.addrs = w->paths[path];
    return o;
}

/* ---- parameters ---- */

static int quantity(const char *key, const char *text, const char *unit, uint32_t min, uint32_t max, uint32_t *out,
                    struct plx_error *err)
{
    char *rest;
    errno = 0;
    unsigned long v = strtoul(text, &rest, 10);
    if (text[0] < '0' || text[0] > '9' || *rest || errno || v < min || v > max)
        return plx_fail(err, -EINVAL, "%s=%.40s: takes %s from %u to %u", key, text, unit, min, max);
    *out = (uint32_t)v;
    return 0;
}

static int number_of(const char *key, const char *text, uint32_t min, uint32_t max, uint32_t *out,
                     struct plx_error *err)
{
    return quantity(key, text, "a number", min, max, out, err);
}

static int seconds(const char *key, const char *text, uint32_t min, uint32_t max, uint32_t *ms, struct plx_error *err)
{
    int ret = quantity(key, text, "seconds", min, max, ms, err);
    *ms *= 1000;
    return ret;
}

static int boolean(const char *key, const char *text, bool *out, struct plx_error *err)
{
    if (strcmp(text, "0") != 0 && strcmp(text, "1") != 0)
        return plx_fail(err, -EINVAL, "%s=%.40s: the value is 0 or 1", key, text);
    *out = text[0] == '1';
    return 0;
}

static int host_nqn(struct nvme_where *w, const char *text, struct plx_error *err)
{
    const char *problem = plx_nvme_nqn_problem(text);
    if (problem)
        return plx_fail(err, -EINVAL, "hostnqn=%.100s %s", text, problem);
    memcpy(w->o.hostnqn, text, strlen(text) + 1);
    return 0;
}

static int policy(struct nvme_where *w, const char *value, struct plx_error *err)
{
    w->round_robin = strcmp(value, "round-robin") == 0;
    return w->round_robin || strcmp(value, "active-passive") == 0
               ? 0
               : plx_fail(err, -EINVAL, "policy=%.40s: takes active-passive or round-robin", value);
}

/* Which one, as it was said, and those that are not said are not looked at. */
static int apptag(struct nvme_opts *o, const char *value, struct plx_error *err)
{
    uint32_t v = 0;
    int ret = number_of("apptag", value, 0, 0xfffe, &v, err); /* 65535 is of blocks that are not checked */
    o->apptag = (uint16_t)v;
    o->check_apptag = !ret;
    return ret;
}

static int priority(struct nvme_opts *o, const char *value, struct plx_error *err)
{
    static const char *const classes[] = {"urgent", "high", "medium", "low"};
    for (uint8_t i = 0; i < PLX_ARRAY_SIZE(classes); i++) {
        if (strcmp(value, classes[i]) == 0) {
            o->arbitration.priority = i;
            return 0;
        }
    }
    return plx_fail(err, -EINVAL, "priority=%.40s: takes urgent, high, medium or low", value);
}

/* @return 0, -EINVAL, or -ENOENT where it is none of these */
static int arbitration(struct nvme_opts *o, const char *key, const char *value, struct plx_error *err)
{
    const struct {
        const char *key;
        uint8_t *at, max;
    } numbers[] = {{"arbitration_burst", &o->arbitration.burst, 7},
                   {"low_priority_weight", &o->arbitration.low, 255},
                   {"medium_priority_weight", &o->arbitration.medium, 255},
                   {"high_priority_weight", &o->arbitration.high, 255}};
    if (strcmp(key, "priority") == 0)
        return priority(o, value, err);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(numbers); i++) {
        if (strcmp(key, numbers[i].key) != 0)
            continue;
        uint32_t v = 0;
        int ret = number_of(key, value, 0, numbers[i].max, &v, err);
        *numbers[i].at = (uint8_t)v;
        return ret;
    }
    return -ENOENT;
}

int nvme_where_param(struct nvme_where *w, const char *key, const char *value, struct plx_error *err)
{
    struct nvme_opts *o = &w->o;
    if (strcmp(key, "nsid") == 0)
        return number_of(key, value, 1, NVME_NSID_ALL - 1, &o->nsid, err);
    if (strcmp(key, "hdgst") == 0)
        return boolean(key, value, &o->hdgst, err);
    if (strcmp(key, "ddgst") == 0)
        return boolean(key, value, &o->ddgst, err);
    if (strcmp(key, "sqflow") == 0)
        return boolean(key, value, &o->sq_flow, err);
    if (strcmp(key, "cmb") == 0)
        return boolean(key, value, &o->cmb, err);
    if (strcmp(key, "hostnqn") == 0)
        return host_nqn(w, value, err);
    if (strcmp(key, "hostid") == 0)
        return plx_uuid_parse(value, o->hostid) && !plx_uuid_nil(o->hostid)
                   ? 0
                   : plx_fail(err, -EINVAL, "hostid=%.60s: one looks like 01234567-89ab-cdef-0123-456789abcdef", value);
    if (strcmp(key, "queues") == 0)
        return number_of(key, value, 1, NVME_QUEUES_MAX, &o->queues, err);
    if (strcmp(key, "depth") == 0)
        return number_of(key, value, 2, NVME_DEPTH_MAX, &o->depth, err); /* a fused pair takes two entries */
    if (strcmp(key, "kato") == 0)
        return seconds(key, value, 0, SECONDS_MAX, &o->kato_ms, err);
    if (strcmp(key, "timeout") == 0)
        return seconds(key, value, 0, NVME_TIMEOUT_MAX_S, &o->timeout_ms, err);
    if (strcmp(key, "connect_timeout") == 0)
        return seconds(key, value, 1, SECONDS_MAX, &o->connect_timeout_ms, err);
    if (strcmp(key, "reconnect_deadline") == 0)
        return seconds(key, value, 1, SECONDS_MAX, &w->reconnect_deadline_ms, err);
    if (strcmp(key, "policy") == 0)
        return policy(w, value, err);
    if (strcmp(key, "prchk_guard") == 0)
        return boolean(key, value, &o->prchk_guard, err);
    if (strcmp(key, "prchk_reftag") == 0)
        return boolean(key, value, &o->prchk_reftag, err);
    if (strcmp(key, "apptag") == 0)
        return apptag(o, value, err);
    if (strcmp(key, "uuid") == 0)
        return 0; /* of the disk that is made of it */
    int ret = arbitration(o, key, value, err);
    return ret != -ENOENT ? ret
                          : plx_fail(err, -EINVAL, "there is no setting %.40s=; there are: " NVME_WHERE_PARAMS, key);
}

/* ---- who we are ---- */

/* A line of a file of nvme-cli's, so that we are the same host as the kernel's. @return its length, or 0 */
static size_t read_line(const char *path, char *line, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, line, size - 1);
    close(fd);
    line[n > 0 ? n : 0] = 0;
    line[strcspn(line, " \r\n")] = 0;
    return strlen(line);
}

/* The name that nvme-cli gave this host, or one made from what this machine is. */
static int own_nqn(char nqn[NVME_NQN_FIELD], struct plx_error *err)
{
    static const char path[] = "/etc/nvme/hostnqn";
    char line[NVME_NQN_FIELD], text[PLX_UUID_TEXT];
    uint8_t uuid[16];
    size_t len = read_line(path, line, sizeof line);
    if (len && strncmp(line, "nqn.", 4) != 0)
        len = 0; /* a comment, or what not */
    const char *problem = len ? plx_nvme_nqn_problem(line) : NULL;
    if (problem)
        return plx_fail(err, -EINVAL, "%s: %.100s %s; hostnqn= gives another name", path, line, problem);
    if (len) {
        memcpy(nqn, line, len + 1); /* and no more of the file: all of nqn is sent */
        return 0;
    }
    if (plx_uuid_from_name("host", 4, uuid))
        return plx_fail(err, -ENOMEM, "cannot make a UUID for this host");
    plx_uuid_format(uuid, text);
    snprintf(nqn, NVME_NQN_FIELD, "%s%s", NVME_NQN_UUID, text);
    return 0;
}

int nvme_where_finish(struct nvme_where *w, struct plx_error *err)
{
    static const char prefix[] = NVME_NQN_UUID;
    char line[NVME_NQN_FIELD];
    uint8_t uuid[16];
    bool named = w->o.hostnqn[0];
    int ret = named ? 0 : own_nqn(w->o.hostnqn, err);
    if (ret)
        return ret;
    if (!plx_uuid_nil(w->o.hostid))
        return 0;
    if (!named && read_line("/etc/nvme/hostid", line, sizeof line) && plx_uuid_parse(line, w->o.hostid) &&
        !plx_uuid_nil(w->o.hostid))
        return 0;
    /* One identifier goes with one name (Base 3.1.5.3): it is in the name, or made from it. */
    if (strncmp(w->o.hostnqn, prefix, sizeof prefix - 1) == 0 &&
        plx_uuid_parse(w->o.hostnqn + sizeof prefix - 1, uuid) && !plx_uuid_nil(uuid)) {
        memcpy(w->o.hostid, uuid, sizeof uuid);
        return 0;
    }
    return plx_uuid_from_name(w->o.hostnqn, strlen(w->o.hostnqn), w->o.hostid)
               ? plx_fail(err, -ENOMEM, "cannot make a UUID for this host")
               : 0;
}

int nvme_where_query(struct nvme_where *w, const char *params, struct plx_error *err)
{
    struct plx_setting list[PLX_SETTINGS_MAX];
    int n = params ? plx_settings_parse(params, list, err) : 0;
    for (int i = 0; i < n; i++) {
        int ret = nvme_where_param(w, list[i].key, list[i].value, err);
        if (ret)
            return ret;
    }
    return n < 0 ? n : 0;
}

int nvme_where_parse(struct nvme_where *w, const char *url, struct plx_error *err)
{
    char body[1024 + sizeof SCHEME];
    const bool pcie = strncmp(url, PCIE_SCHEME, sizeof PCIE_SCHEME - 1) == 0;
    nvme_where_init(w);
    if (!pcie && strncmp(url, SCHEME, sizeof SCHEME - 1) != 0)
        return plx_fail(err, -EINVAL, "%.80s: a controller is named like " EXAMPLE ", or " PCIE_EXAMPLE, url);
    size_t len = strcspn(url, "?");
    if (len >= sizeof body)
        return plx_fail(err, -ENAMETOOLONG, "%.80s... is too long", url);
    memcpy(body, url, len);
    body[len] = 0;
    int ret = pcie ? nvme_where_pcie(w, body + sizeof PCIE_SCHEME - 1, err)
                   : nvme_where_body(w, body + sizeof SCHEME - 1, err);
    if (!ret && url[len])
        ret = plx_blame(body, nvme_where_query(w, url + len + 1, err), err);
    return ret || pcie ? ret : nvme_where_finish(w, err);
}
