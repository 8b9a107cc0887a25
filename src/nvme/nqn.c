/* SPDX-License-Identifier: BSD-3-Clause */
/* NVMe Qualified Names (Base 4.7): nqn.YYYY-MM.DOMAIN:NAME, or nqn.2014-08.org.nvmexpress:uuid:UUID. */
#include <pollux/nvme.h>

#include "base/uuid.h"
#include "nvme/spec.h"

#include <string.h>

/* Whether "YYYY-MM." stands there. */
static bool dated(const char *text)
{
    static const char pattern[] = "dddd-dd.";
    for (size_t i = 0; i < sizeof pattern - 1; i++)
        if (pattern[i] == 'd' ? text[i] < '0' || text[i] > '9' : text[i] != pattern[i])
            return false;
    int month = (text[5] - '0') * 10 + text[6] - '0';
    return month >= 1 && month <= 12;
}

const char *plx_nvme_nqn_problem(const char *nqn)
{
    static const char uuid_prefix[] = NVME_NQN_UUID;
    uint8_t uuid[16];
    size_t len = strnlen(nqn, NVME_NQN_MAX + 1);
    if (len > NVME_NQN_MAX)
        return "is longer than 223 bytes";
    if (strncmp(nqn, "nqn.", 4) != 0)
        return "does not begin with \"nqn.\", as in nqn.2024-01.com.example:disk";
    for (size_t i = 0, n; i < len; i += n) {
        n = plx_text_printable(nqn + i);
        if (!n || nqn[i] == ' ')
            return "has a blank, a control character, or what is not UTF-8 in it";
    }
    if (!dated(nqn + 4))
        return "has no year, and month from 01 to 12, as in nqn.2024-01.com.example:disk";
    if (strcmp(nqn, NVME_DISCOVERY_NQN) == 0)
        return "is the name of every discovery controller; another one is needed";
    const char *domain = nqn + sizeof "nqn.YYYY-MM." - 1, *colon = strchr(domain, ':');
    if (!colon || !colon[1])
        return "has no colon and a name after the domain, as in nqn.2024-01.com.example:disk";
    if (colon == domain)
        return "has no domain after the date, as in nqn.2024-01.com.example:disk";
    if (strncmp(nqn, uuid_prefix, sizeof uuid_prefix - 1) == 0 &&
        (len != sizeof uuid_prefix - 1 + PLX_UUID_TEXT - 1 || !plx_uuid_parse(nqn + sizeof uuid_prefix - 1, uuid)))
        return "has no UUID after \"uuid:\", such as 01234567-89ab-cdef-0123-456789abcdef";
    return NULL;
}
