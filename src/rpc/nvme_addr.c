/* SPDX-License-Identifier: BSD-3-Clause */
/* Addresses of controllers: as calls have them, as we use them, and as clients are told of them. */
#include "rpc/nvme.h"

#include "base/addr.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int tcp_parse(struct remote_addr *out, const char *adrfam, const char *traddr, const char *trsvcid,
                     uint16_t port, struct plx_error *err)
{
    struct sockaddr_storage ss;
    char *rest = NULL;
    unsigned long n = trsvcid && trsvcid[0] ? strtoul(trsvcid, &rest, 10) : port;
    if (!n || n > 65535 || (rest && (*rest || trsvcid[0] < '0' || trsvcid[0] > '9')))
        return plx_fail(err, -EINVAL, "trsvcid %.40s is no port: a number from 1 to 65535", trsvcid);
    if (traddr[0] == '[' || strlen(traddr) >= sizeof out->traddr || plx_parse_addr(traddr, (uint16_t)n, &ss, err))
        return plx_fail(err, -EINVAL, "traddr %.80s is no address, such as 192.0.2.1 or 2001:db8::1", traddr);
    const char *is = ss.ss_family == AF_INET ? "IPv4" : "IPv6";
    if (adrfam && adrfam[0] && strcasecmp(adrfam, is) != 0)
        return plx_fail(err, -EINVAL, "Failed to parse adrfam: %.20s, where traddr %.60s is %s", adrfam, traddr, is);
    plx_addr_host(&ss, out->traddr);
    snprintf(out->trsvcid, sizeof out->trsvcid, "%u", plx_addr_port(&ss));
    snprintf(out->adrfam, sizeof out->adrfam, "%s", is);
    plx_addr_format(&ss, out->name);
    return 0;
}

/* What belongs to networks alone may be given, and says nothing. */
static int pcie_parse(struct remote_addr *out, const char *adrfam, const char *traddr, struct plx_error *err)
{
    static const char *const families[] = {"", "IPv4", "IPv6", "IB", "FC"};
    struct nvme_where w;
    char body[80];
    size_t i = 0;
    nvme_where_init(&w);
    snprintf(body, sizeof body, "//%s", traddr);
    if (strchr(traddr, '/') || strlen(traddr) >= sizeof out->traddr || nvme_where_pcie(&w, body, err))
        return plx_fail(err, -EINVAL, "traddr %.80s is no address of a PCI function, such as 0000:01:00.0", traddr);
    while (adrfam && i < PLX_ARRAY_SIZE(families) && strcasecmp(adrfam, families[i]) != 0)
        i++;
    if (i == PLX_ARRAY_SIZE(families))
        return plx_fail(err, -EINVAL, "Failed to parse adrfam: %.20s; leave it out, as there is none over PCIe",
                        adrfam);
    *out = (struct remote_addr){.pcie = true};
    snprintf(out->traddr, sizeof out->traddr, "%.60s", w.paths[0].list[0].name);
    snprintf(out->name, sizeof out->name, "%.60s", w.paths[0].list[0].name);
    return 0;
}

int remote_addr_parse(struct remote_addr *out, const char *trtype, const char *adrfam, const char *traddr,
                      const char *trsvcid, uint16_t port, struct plx_error *err)
{
    *out = (struct remote_addr){.pcie = false};
    if (strcasecmp(trtype, "TCP") == 0)
        return tcp_parse(out, adrfam, traddr, trsvcid, port, err);
    if (strcasecmp(trtype, "PCIe") == 0)
        return pcie_parse(out, adrfam, traddr, err);
    return plx_fail(err, -EINVAL, "Failed to parse trtype: %.40s; there are TCP and PCIe", trtype);
}

bool remote_addr_same(const struct remote_addr *a, const struct remote_addr *b)
{
    return strcmp(a->name, b->name) == 0;
}

json_t *remote_trid_json(const struct remote_addr *addr, const char *subnqn)
{
    if (addr->pcie)
        return json_pack("{s:s, s:s}", "trtype", "PCIe", "traddr", addr->traddr);
    return json_pack("{s:s, s:s, s:s, s:s, s:s*}", "trtype", "TCP", "adrfam", addr->adrfam, "traddr", addr->traddr,
                     "trsvcid", addr->trsvcid, "subnqn", subnqn);
}

int remote_where(struct nvme_where *w, const struct remote_addr *addr, const char *settings, struct plx_error *err)
{
    char body[100];
    int ret;
    nvme_where_init(w);
    snprintf(body, sizeof body, "//%s", addr->name);
    ret = addr->pcie ? nvme_where_pcie(w, body, err) : nvme_where_addr(w, addr->name, strlen(addr->name), 0, err);
    if (!ret)
        ret = nvme_where_query(w, settings + (settings[0] == '&'), err);
    return ret ? ret : nvme_where_finish(w, err);
}
