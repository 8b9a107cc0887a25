/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Names with several addresses, wherever these tests run: "A+B" has those of A and of B. Linked with
 * --wrap=getaddrinfo.
 */
#include <netdb.h>
#include <stdio.h>
#include <string.h>

int __real_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out);
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out);

int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    struct addrinfo **tail = out;
    *out = NULL;
    for (const char *end; node; node = end ? end + 1 : NULL) {
        char part[64];
        end = strchr(node, '+');
        snprintf(part, sizeof part, "%.*s", end ? (int)(end - node) : (int)strlen(node), node);
        int ret = __real_getaddrinfo(part, service, hints, tail);
        if (ret)
            return ret; /* a test that fails anyway leaks what came before */
        while (*tail)
            tail = &(*tail)->ai_next;
    }
    return 0;
}
