/* SPDX-License-Identifier: BSD-3-Clause */
/* Addresses of sockets, as people write them: "192.0.2.1:4420", "[fe80::1%eth0]:4420". */
#ifndef PLX_BASE_ADDR_H
#define PLX_BASE_ADDR_H

#include <netinet/in.h>
#include <pollux/base.h>

enum {
    PLX_ADDR_TEXT = 64,  /* an address with its zone and port; with the terminating zero */
    PLX_ADDR_HOST = 256, /* a name or an address, without a port; the same */
};

/*
 * Takes ADDR, ADDR:PORT, [V6], [V6]:PORT or a bare V6 apart, `len` bytes of text. ADDR may be a name.
 * @param port is left as it is when the text has none
 * @return 0, or -EINVAL with err filled
 */
int plx_addr_split(const char *text, size_t len, char host[PLX_ADDR_HOST], uint16_t *port, struct plx_error *err);

/* A numeric address, perhaps with a zone after '%'. IPv4 in IPv6 is IPv4. @return 0, or -EINVAL with err filled */
int plx_addr_parse(const char *host, uint16_t port, struct sockaddr_storage *out, struct plx_error *err);

/*
 * Why it cannot be that of a machine, as a sentence goes on after the address; NULL when it can. That an address is the
 * broadcast address of a network is not seen in it.
 */
const char *plx_addr_problem(const struct sockaddr_storage *a);

void plx_addr_format(const struct sockaddr_storage *a, char out[PLX_ADDR_TEXT]);
/* The same without the port, nor the brackets that it calls for. */
void plx_addr_host(const struct sockaddr_storage *a, char out[PLX_ADDR_TEXT]);
uint16_t plx_addr_port(const struct sockaddr_storage *a);
socklen_t plx_addr_len(const struct sockaddr_storage *a);
/* 0.0.0.0 or :: */
bool plx_addr_any(const struct sockaddr_storage *a);

#endif
