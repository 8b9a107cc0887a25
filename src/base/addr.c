/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/addr.h"

#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- texts to addresses ---- */

static bool parse_port(const char *text, const char *end, uint16_t *port)
{
    unsigned long v = 0;
    if (text == end || end - text > 5)
        return false;
    for (; text < end; text++) {
        if (*text < '0' || *text > '9')
            return false;
        v = v * 10 + (unsigned long)(*text - '0');
    }
    *port = (uint16_t)v;
    return v <= UINT16_MAX;
}

int plx_addr_split(const char *text, size_t len, char host[PLX_ADDR_HOST], uint16_t *port, struct plx_error *err)
{
    const int shown = (int)plx_min_u64(len, 100);
    const char *begin = text, *end = text + len, *colon = NULL, *host_end;
    if (len && *begin == '[') {
        begin++;
        host_end = memchr(begin, ']', (size_t)(end - begin));
        if (!host_end)
            return plx_fail(err, -EINVAL, "%.*s has no ] at the end of its address, as [::1]:4420 has", shown, text);
        colon = host_end + 1 < end ? host_end + 1 : NULL;
    } else {
        const char *first = memchr(begin, ':', len);
        /* A bare IPv6 address has several colons, and no port. */
        bool bare = first && memchr(first + 1, ':', (size_t)(end - first - 1));
        colon = bare ? NULL : first;
        host_end = colon ? colon : end;
    }
    size_t n = (size_t)(host_end - begin);
    if (!n || n >= PLX_ADDR_HOST || (colon && *colon != ':'))
        return plx_fail(err, -EINVAL, "\"%.*s\": an address is ADDR or ADDR:PORT, such as 192.0.2.1:4420 or [::1]:4420",
                        shown, text);
    if (colon && !parse_port(colon + 1, end, port))
        return plx_fail(err, -EINVAL, "%.*s: a port is a number up to 65535", shown, text);
    memcpy(host, begin, n);
    host[n] = 0;
    return 0;
}

static bool parse_v6(const char *text, size_t len, struct in6_addr *out)
{
    char v6[INET6_ADDRSTRLEN];
    if (len >= sizeof v6)
        return false;
    memcpy(v6, text, len);
    v6[len] = 0;
    return inet_pton(AF_INET6, v6, out) == 1;
}

/* An interface, by name or number. @return 0 when there is none */
static uint32_t parse_zone(const char *text)
{
    char *rest, name[IF_NAMESIZE];
    uint32_t zone = if_nametoindex(text);
    if (zone || *text < '0' || *text > '9')
        return zone;
    unsigned long v = strtoul(text, &rest, 10);
    return *rest || v > UINT32_MAX || !if_indextoname((uint32_t)v, name) ? 0 : (uint32_t)v;
}

int plx_addr_parse(const char *host, uint16_t port, struct sockaddr_storage *out, struct plx_error *err)
{
    struct sockaddr_in *v4 = (void *)out;
    struct sockaddr_in6 *v6 = (void *)out;
    struct in6_addr a;
    size_t len = strcspn(host, "%");
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
    } else if (!parse_v6(host, len, &a)) {
        return plx_fail(err, -EINVAL, "\"%.100s\" is not a numeric IPv4 or IPv6 address, such as 127.0.0.1 or [::1]",
                        host);
    } else if (IN6_IS_ADDR_V4MAPPED(&a)) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        memcpy(&v4->sin_addr, a.s6_addr + 12, sizeof v4->sin_addr);
    } else {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        v6->sin6_addr = a;
        if (host[len] && IN6_IS_ADDR_LINKLOCAL(&a))
            v6->sin6_scope_id = parse_zone(host + len + 1);
        if (host[len] && !v6->sin6_scope_id)
            return plx_fail(err, -EINVAL, "%.100s: %s", host,
                            IN6_IS_ADDR_LINKLOCAL(&a) ? "there is no such network interface"
                                                      : "only link-local addresses have an interface after the %");
    }
    const char *problem = plx_addr_problem(out);
    return problem ? plx_fail(err, -EINVAL, "%.100s %s", host, problem) : 0;
}

int plx_parse_addr(const char *text, uint16_t port, struct sockaddr_storage *addr, struct plx_error *err)
{
    char host[PLX_ADDR_HOST];
    int ret = plx_addr_split(text, strlen(text), host, &port, err);
    return ret ? ret : plx_addr_parse(host, port, addr, err);
}

/* ---- addresses to texts ---- */

static const struct sockaddr_in *v4_of(const struct sockaddr_storage *a)
{
    return (const void *)a;
}

static const struct sockaddr_in6 *v6_of(const struct sockaddr_storage *a)
{
    return (const void *)a;
}

const char *plx_addr_problem(const struct sockaddr_storage *a)
{
    bool v4 = a->ss_family == AF_INET;
    if (v4 ? IN_MULTICAST(ntohl(v4_of(a)->sin_addr.s_addr)) : IN6_IS_ADDR_MULTICAST(&v6_of(a)->sin6_addr))
        return "is a multicast address, and not that of a machine";
    if (v4 && v4_of(a)->sin_addr.s_addr == htonl(INADDR_BROADCAST))
        return "is the broadcast address, and not that of a machine";
    if (!v4 && IN6_IS_ADDR_LINKLOCAL(&v6_of(a)->sin6_addr) && !v6_of(a)->sin6_scope_id)
        return "is a link-local address: it goes with an interface, as in [fe80::1%eth0]";
    return NULL;
}

void plx_addr_host(const struct sockaddr_storage *a, char out[PLX_ADDR_TEXT])
{
    char zone[IF_NAMESIZE];
    bool v4 = a->ss_family == AF_INET;
    const void *addr = v4 ? (const void *)&v4_of(a)->sin_addr : &v6_of(a)->sin6_addr;
    if (!inet_ntop(a->ss_family, addr, out, PLX_ADDR_TEXT)) {
        snprintf(out, PLX_ADDR_TEXT, "?");
        return;
    }
    uint32_t id = v4 ? 0 : v6_of(a)->sin6_scope_id;
    size_t n = strlen(out);
    if (id && if_indextoname(id, zone))
        snprintf(out + n, PLX_ADDR_TEXT - n, "%%%s", zone);
    else if (id)
        snprintf(out + n, PLX_ADDR_TEXT - n, "%%%u", id);
}

void plx_addr_format(const struct sockaddr_storage *a, char out[PLX_ADDR_TEXT])
{
    char host[PLX_ADDR_TEXT];
    plx_addr_host(a, host);
    int fits = PLX_ADDR_TEXT - (int)sizeof "[]:65535"; /* which all do */
    snprintf(out, PLX_ADDR_TEXT, a->ss_family == AF_INET6 ? "[%.*s]:%u" : "%.*s:%u", fits, host, plx_addr_port(a));
}

uint16_t plx_addr_port(const struct sockaddr_storage *a)
{
    return ntohs(a->ss_family == AF_INET ? v4_of(a)->sin_port : v6_of(a)->sin6_port);
}

socklen_t plx_addr_len(const struct sockaddr_storage *a)
{
    return a->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

bool plx_addr_any(const struct sockaddr_storage *a)
{
    return a->ss_family == AF_INET ? v4_of(a)->sin_addr.s_addr == htonl(INADDR_ANY)
                                   : IN6_IS_ADDR_UNSPECIFIED(&v6_of(a)->sin6_addr);
}
