/* SPDX-License-Identifier: BSD-3-Clause */
/* Subsystems: a name, the hosts that may connect, and namespaces. */
#include "nvmf/nvmf.h"

#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAMESPACES = 1024 };

/* Base 4.7: "nqn.", a date, a reversed domain name, optionally ':' and a string. */
const char *nvmf_nqn_problem(const char *nqn)
{
    size_t len = strnlen(nqn, NVME_NQN_FIELD);
    if (len > NVME_NQN_MAX)
        return "is longer than 223 bytes";
    if (strncmp(nqn, "nqn.", 4) != 0)
        return "does not begin with \"nqn.\", as in nqn.2024-01.com.example:disk";
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)nqn[i] <= ' ' || nqn[i] == 0x7f)
            return "has a blank or a control character in it";
    const char *date = nqn + 4;
    bool dated = len > 12 && isdigit((unsigned char)date[0]) && isdigit((unsigned char)date[1]) &&
                 isdigit((unsigned char)date[2]) && isdigit((unsigned char)date[3]) && date[4] == '-' &&
                 isdigit((unsigned char)date[5]) && isdigit((unsigned char)date[6]) && date[7] == '.';
    if (!dated)
        return "has no year, month and domain, as in nqn.2024-01.com.example:disk";
    return NULL;
}

static bool printable(const char *text, size_t max)
{
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i++)
        if (text[i] < 0x20 || text[i] > 0x7e)
            return false;
    return len > 0 && len <= max;
}

static void digest(const char *text, size_t len, uint8_t out[32])
{
    unsigned n = 0;
    if (!EVP_Digest(text, len, out, &n, EVP_sha256(), NULL))
        memset(out, 0, 32);
}

/* The same NQN gives the same serial number at every start. */
static void serial_from_nqn(char *serial, size_t size, const char *nqn)
{
    uint8_t sum[32];
    char text[21];
    digest(nqn, strlen(nqn), sum);
    snprintf(text, sizeof text, "PLX%02X%02X%02X%02X%02X%02X", sum[0], sum[1], sum[2], sum[3], sum[4], sum[5]);
    nvmf_pad(serial, size, text);
}

struct plx_nvmf_subsystem *nvmf_subsystem_find(struct plx_nvmf_target *t, const char *nqn)
{
    plx_list_for_each(it, &t->subsystems) {
        struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        if (strcmp(s->nqn, nqn) == 0)
            return s;
    }
    return NULL;
}

static struct plx_nvmf_subsystem *add(struct plx_nvmf_target *t, const char *nqn)
{
    struct plx_nvmf_subsystem *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->target = t;
    s->index = t->nsubsystems++;
    snprintf(s->nqn, sizeof s->nqn, "%s", nqn);
    serial_from_nqn(s->serial, sizeof s->serial, nqn);
    nvmf_pad(s->model, sizeof s->model, "Pollux");
    plx_list_add_tail(&t->subsystems, &s->link);
    return s;
}

int plx_nvmf_subsystem_create(struct plx_nvmf_target *t, const struct plx_nvmf_subsystem_opts *opts,
                              struct plx_nvmf_subsystem **out, struct plx_error *err)
{
    const char *problem = nvmf_nqn_problem(opts->nqn);
    if (problem)
        return plx_fail(err, -EINVAL, "NQN %.223s %s", opts->nqn, problem);
    if (nvmf_subsystem_find(t, opts->nqn))
        return plx_fail(err, -EEXIST, "there are two subsystems %s; give each an NQN of its own", opts->nqn);
    if (opts->serial && !printable(opts->serial, 20))
        return plx_fail(err, -EINVAL, "serial number \"%s\" is not 1 to 20 printable characters", opts->serial);
    if (opts->model && !printable(opts->model, 40))
        return plx_fail(err, -EINVAL, "model number \"%s\" is not 1 to 40 printable characters", opts->model);
    struct plx_nvmf_subsystem *s = add(t, opts->nqn);
    if (!s)
        return plx_fail(err, -ENOMEM, "out of memory");
    s->allow_any_host = opts->allow_any_host;
    if (opts->serial)
        nvmf_pad(s->serial, sizeof s->serial, opts->serial);
    if (opts->model)
        nvmf_pad(s->model, sizeof s->model, opts->model);
    *out = s;
    return 0;
}

int nvmf_discovery_create(struct plx_nvmf_target *t)
{
    t->discovery = add(t, NVME_DISCOVERY_NQN);
    if (!t->discovery)
        return -ENOMEM;
    t->discovery->discovery = true;
    t->discovery->allow_any_host = true;
    return 0;
}

void nvmf_subsystem_destroy(struct plx_nvmf_subsystem *s)
{
    for (unsigned i = 0; i < s->nhosts; i++)
        free(s->hosts[i]);
    for (uint32_t i = 0; i < s->nns; i++)
        free(s->ns[i]);
    free(s->hosts);
    free(s->ns);
    plx_list_del(&s->link);
    free(s);
}

const char *plx_nvmf_subsystem_nqn(const struct plx_nvmf_subsystem *s)
{
    return s->nqn;
}

bool nvmf_subsystem_write_cache(const struct plx_nvmf_subsystem *s)
{
    for (uint32_t i = 0; i < s->nns; i++)
        if (s->ns[i] && plx_bdev_info(s->ns[i]->bdev)->write_cache)
            return true;
    return false;
}

bool nvmf_subsystem_allows(const struct plx_nvmf_subsystem *s, const char *hostnqn)
{
    for (unsigned i = 0; i < s->nhosts; i++)
        if (strcmp(s->hosts[i], hostnqn) == 0)
            return true;
    return s->allow_any_host;
}

int plx_nvmf_subsystem_allow_host(struct plx_nvmf_subsystem *s, const char *hostnqn, struct plx_error *err)
{
    const char *problem = nvmf_nqn_problem(hostnqn);
    if (problem)
        return plx_fail(err, -EINVAL, "host NQN %.223s %s", hostnqn, problem);
    for (unsigned i = 0; i < s->nhosts; i++)
        if (strcmp(s->hosts[i], hostnqn) == 0)
            return plx_fail(err, -EEXIST, "host %s is allowed already", hostnqn);
    char **hosts = realloc(s->hosts, (s->nhosts + 1) * sizeof *hosts);
    if (hosts)
        s->hosts = hosts;
    char *copy = hosts ? strdup(hostnqn) : NULL;
    if (!copy)
        return plx_fail(err, -ENOMEM, "out of memory");
    s->hosts[s->nhosts++] = copy;
    return 0;
}

/* ---- namespaces ---- */

struct nvmf_ns *nvmf_subsystem_ns(const struct plx_nvmf_subsystem *s, uint32_t nsid)
{
    return nsid && nsid <= s->nns ? s->ns[nsid - 1] : NULL;
}

static uint32_t free_nsid(const struct plx_nvmf_subsystem *s)
{
    for (uint32_t i = 0; i < s->nns; i++)
        if (!s->ns[i])
            return i + 1;
    return s->nns + 1;
}

/* The NGUID names the namespace to hosts for ever: one disk in one subsystem gives the same at every start. */
static void make_nguid(struct nvmf_ns *ns, const struct plx_nvmf_subsystem *s)
{
    uint8_t sum[32];
    char text[NVME_NQN_MAX + 1 + 16];
    size_t len = strlen(s->nqn);
    memcpy(text, s->nqn, len);
    memcpy(text + len, plx_bdev_info(ns->bdev)->uuid, 16);
    digest(text, len + 16, sum);
    memcpy(ns->nguid, sum, sizeof ns->nguid);
    ns->nguid[8] = (uint8_t)((ns->nguid[8] & ~3u) | 2); /* locally assigned, as nobody gave us an OUI */
}

int plx_nvmf_subsystem_add_ns(struct plx_nvmf_subsystem *s, struct plx_bdev *bdev, uint32_t nsid, struct plx_error *err)
{
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    if (!nsid)
        nsid = free_nsid(s);
    if (nsid > MAX_NAMESPACES)
        return plx_fail(err, -EINVAL, "namespace identifier %u is above %d", nsid, MAX_NAMESPACES);
    if (nvmf_subsystem_ns(s, nsid))
        return plx_fail(err, -EEXIST, "namespace identifier %u is taken", nsid);
    if (info->block_size > s->target->opts.max_io_size)
        return plx_fail(err, -EINVAL, "%s has blocks of %u bytes, more than the largest transfer of %u", info->name,
                        info->block_size, s->target->opts.max_io_size);
    if (nsid > s->nns) {
        struct nvmf_ns **table = realloc(s->ns, nsid * sizeof(struct nvmf_ns *));
        if (!table)
            return plx_fail(err, -ENOMEM, "out of memory");
        memset(table + s->nns, 0, (nsid - s->nns) * sizeof *table);
        s->ns = table;
        s->nns = nsid;
    }
    struct nvmf_ns *ns = calloc(1, sizeof *ns);
    if (!ns)
        return plx_fail(err, -ENOMEM, "out of memory");
    ns->bdev = bdev;
    ns->nsid = nsid;
    ns->index = s->target->nnamespaces++;
    make_nguid(ns, s);
    s->ns[nsid - 1] = ns;
    return (int)nsid;
}

void nvmf_subsystem_stats(const struct plx_nvmf_subsystem *s, uint64_t *blocks512_read, uint64_t *blocks512_written,
                          uint64_t *reads, uint64_t *writes)
{
    *blocks512_read = *blocks512_written = *reads = *writes = 0;
    for (uint32_t i = 0; i < s->nns; i++) {
        struct plx_bdev_stats st = {0};
        if (!s->ns[i])
            continue;
        plx_bdev_get_stats(s->ns[i]->bdev, &st);
        uint64_t per_block = plx_bdev_info(s->ns[i]->bdev)->block_size / 512;
        *blocks512_read += st.blocks[PLX_BDEV_READ] * per_block;
        *blocks512_written += st.blocks[PLX_BDEV_WRITE] * per_block;
        *reads += st.ops[PLX_BDEV_READ] + st.ops[PLX_BDEV_COMPARE];
        *writes += st.ops[PLX_BDEV_WRITE];
    }
}

/* What tells a disk from others: its UUID, but for RAM disks, whose UUID is another at every start. */
static size_t identity_of(const struct plx_bdev *disk, char *out, size_t size)
{
    const struct plx_bdev_info *info = plx_bdev_info(disk);
    bool ram = strcmp(info->driver, "ram") == 0;
    size_t len = ram ? strlen(info->name) + 1 : sizeof info->uuid;
    if (len <= size)
        memcpy(out, ram ? (const void *)info->name : info->uuid, len);
    return len;
}

int plx_nvmf_default_nqn(struct plx_bdev *const *disks, unsigned n, char nqn[PLX_NVMF_NQN_SIZE], struct plx_error *err)
{
    char names[4096], text[PLX_UUID_TEXT];
    uint8_t uuid[16];
    size_t len = 0;
    for (unsigned i = 0; i < n && len < sizeof names; i++)
        len += identity_of(disks[i], names + len, sizeof names - len);
    if (plx_uuid_from_name(names, plx_min_u64(len, sizeof names), uuid))
        return plx_fail(err, -ENOMEM, "out of memory");
    plx_uuid_format(uuid, text);
    snprintf(nqn, PLX_NVMF_NQN_SIZE, "nqn.2014-08.org.nvmexpress:uuid:%s", text);
    return 0;
}
