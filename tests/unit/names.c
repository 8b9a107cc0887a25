/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Names with several addresses, wherever these tests run: "A+B" has those of A and of B. And names that cannot be
 * looked up: "nobody", "again", "memory", "descriptors". Linked with --wrap=getaddrinfo.
 */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

int __real_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out);
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out);

int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    static const struct {
        const char *name;
        int ret;
    } failures[] = {{"nobody", EAI_NONAME}, {"again", EAI_AGAIN}, {"memory", EAI_MEMORY}, {"descriptors", EAI_SYSTEM}};
    struct addrinfo **tail = out;
    *out = NULL;
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
        errno = EMFILE;
        if (strcmp(node, failures[i].name) == 0)
            return failures[i].ret;
    }
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
